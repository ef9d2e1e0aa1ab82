//! Every dialect's typical lines, each on a medium laid out as its distribution
//! lays it out, end in the live system's own init.
//!
//! The live system is always the lab's; what differs is the line and where the
//! image lies. One medium carries all layouts at once: no dialect looks into
//! another's directory.

mod stage1;
mod systemd;

use std::path::{Path, PathBuf};

use qemu_tests::assets::media::{Fs, run};
use qemu_tests::assets::{FULL, Flavour, Profile};
use qemu_tests::machine::{Bus, MachineBuilder};
use qemu_tests::{Lab, Machine, Nic, Result, scenario, secs};

/// The medium's volume label.
const LABEL: &str = "BWDIALECTS";

/// Where each dialect has its image on the medium.
const LAYOUTS: &[&str] = &[
    "casper/filesystem.squashfs",
    "live/filesystem.squashfs",
    "LiveOS/squashfs.img",
    // Elemental's and Kairos's.
    "rootfs.squashfs",
    "arch/x86_64/airootfs.sfs",
    "slax/01-core.sb",
    "KNOPPIX/KNOPPIX",
    "x86_64/install/stage2/rescue.sqfs",
    "images/x86_64.img",
];

/// A machine with the full `/init` and the modules of virtual machines.
pub fn full_client<'l>(lab: &'l Lab, line: &str) -> Result<MachineBuilder<'l>> {
    let kernel = lab.assets().kernel(Flavour::Cloud)?;
    let initrd = lab.assets().our_initrd_of(&kernel, Profile::Disks, "full", &FULL)?;
    Ok(lab.machine().kernel(&kernel.image, &initrd, line))
}

/// A medium with all layouts; the image is there once, under many names. Returns
/// the directory and its ISO.
pub fn medium(lab: &Lab, image: &Path) -> Result<(PathBuf, PathBuf)> {
    let mut tree =
        lab.tree("medium")?.text(".disk/info", "Labuntu 24.04 \"Bellwether\" - lab\n")?;
    for place in LAYOUTS {
        tree = tree.with(place, image)?;
    }
    let iso = tree.iso(LABEL)?;
    Ok((tree.path().to_owned(), iso))
}

/// Comes up completely under systemd; returns the machine, logged in.
fn systemd(lab: &Lab, line: &str) -> Result<Machine> {
    let (_, iso) = medium(lab, &lab.assets().squashfs()?)?;
    let mut machine = full_client(lab, line)?.cdrom(Bus::VirtioScsi, &iso).start()?;
    machine.login(secs(240))?;
    machine.run("timeout 55 systemctl is-system-running --wait || true")?;
    machine.run("systemctl is-active multi-user.target")?;
    assert_eq!(machine.run("systemctl --failed --no-legend")?.trim(), "");
    assert_eq!(machine.run("cat /proc/1/comm")?.trim(), "systemd");
    assert_eq!(root_of(&mut machine)?, "overlay");
    Ok(machine)
}

/// Goes down, the root taken down tidily.
fn off(mut machine: Machine) -> Result<()> {
    machine.send_line("systemctl poweroff")?;
    let said = machine.expect("bellwether: root taken down after", secs(90))?;
    assert!(!said.contains("cannot be taken down"), "{said}");
    machine.wait_off(secs(30))
}

/// Boots the small live system into a shell as the first program.
pub fn small(client: MachineBuilder<'_>) -> Result<Machine> {
    let mut machine = client.start()?;
    machine.shell(secs(120))?;
    assert_eq!(machine.run("cat /proc/1/comm")?.trim(), "sh");
    assert_eq!(machine.run("cat /etc/issue")?.trim(), "a small live system");
    Ok(machine)
}

/// The type of the root file system.
pub fn root_of(machine: &mut Machine) -> Result<String> {
    let mounts = machine.run("cat /proc/mounts")?;
    let mut root = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        (words.next() == Some("/")).then(|| words.next().unwrap_or_default().to_owned())
    });
    Ok(root.next_back().unwrap_or_default())
}

#[test]
fn casper_from_a_disc_under_systemd() {
    scenario("dialect-casper", |lab| {
        let line = "boot=casper username=anna userfullname=Anna hostname=lab7 \
                    keyboard-configuration/layoutcode=de locale=C.UTF-8 --- quiet";
        let mut machine = systemd(lab, line)?;
        machine.run("test -e /cdrom/casper/filesystem.squashfs")?;
        machine.run("test -e /media/cdrom/.disk/info")?;
        machine.run("test -d /rofs/usr")?;
        // What casper's own initramfs sets up.
        assert!(machine.run("id anna")?.contains("(anna),4(adm),24(cdrom)"));
        assert_eq!(machine.run("stat -c '%U %a' /home/anna")?.trim(), "anna 750");
        machine.run("test -e /home/anna/.profile -a -e /run/.casper-boot")?;
        assert_eq!(machine.run("hostname")?.trim(), "lab7");
        assert!(machine.run("cat /etc/default/keyboard")?.contains("XKBLAYOUT=\"de\""));
        assert!(machine.run("cat /etc/default/locale")?.contains("LANG=\"C.UTF-8\""));
        machine.run("systemctl cat getty@tty1 | grep -q -- '--autologin anna'")?;
        off(machine)
    });
}

#[test]
fn live_boot_from_a_disc_under_systemd() {
    scenario("dialect-live-boot", |lab| {
        let line = "boot=live components quiet splash";
        let mut machine = systemd(lab, line)?;
        machine.run("test -e /run/live/medium/live/filesystem.squashfs")?;
        machine.run("test -e /lib/live/mount/medium/live/filesystem.squashfs")?;
        machine.run("test -d /run/live/rootfs/filesystem.squashfs/usr")?;
        assert!(machine.run("cat /etc/fstab")?.contains("overlay / overlay rw"));
        off(machine)
    });
}

#[test]
fn dracut_from_a_disc_under_systemd() {
    scenario("dialect-dracut", |lab| {
        let line = format!("root=live:CDLABEL={LABEL} rd.live.image quiet rhgb");
        let mut machine = systemd(lab, &line)?;
        machine.run("test -e /run/initramfs/live/LiveOS/squashfs.img")?;
        off(machine)
    });
}

#[test]
fn archiso_from_a_disc_under_systemd() {
    scenario("dialect-archiso", |lab| {
        let line = format!("archisobasedir=arch archisolabel={LABEL} copytoram=n");
        let mut machine = systemd(lab, &line)?;
        machine.run("test -e /run/archiso/bootmnt/arch/x86_64/airootfs.sfs")?;
        off(machine)
    });
}

/// dracut's NFS forms: an image in a directory, an image, a tree, a tree under an
/// overlay.
#[test]
fn dracut_over_nfs() {
    scenario("dialect-dracut-nfs", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let (tree, _) = medium(lab, &lab.assets().small_squashfs()?)?;
        let root = lab.assets().small_root()?;
        let _nfs = lab.nfs().export("/srv/medium", &tree).export("/srv/root", &root).start()?;
        for (line, fs_type) in [
            ("root=live:nfs://10.77.0.1/srv/medium rd.live.image ip=dhcp", "overlay"),
            ("root=live:nfs:10.77.0.1:/srv/medium/LiveOS/squashfs.img ip=dhcp", "overlay"),
            ("root=nfs:10.77.0.1:/srv/root:vers=3 ip=dhcp", "nfs"),
            ("root=nfs4:10.77.0.1:/srv/root rd.overlay=1 ip=dhcp", "overlay"),
            ("root=10.77.0.1:/srv/root ip=dhcp", "nfs"),
            // genkernel's, of a Gentoo without a disk.
            ("root=/dev/ram0 real_root=/dev/nfs nfsroot=10.77.0.1:/srv/root ip=dhcp", "nfs"),
        ] {
            let line = format!("{line} init=/bin/sh");
            let mut machine = small(full_client(lab, &line)?.nic(Nic::virtio()))?;
            assert_eq!(root_of(&mut machine)?, fs_type, "{line}");
        }
        Ok(())
    });
}

/// Mandriva's stage1: the same rescue image from a server, a disc and a disk.
#[test]
fn stage1_rescue_by_nfs_cdrom_and_disk() {
    scenario("dialect-stage1", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let (tree, iso) = medium(lab, &lab.assets().small_squashfs()?)?;
        let _nfs = lab.nfs().export("/cs4", &tree).start()?;
        let client = |automatic: &str| {
            let line = format!("automatic={automatic} root=/dev/ram3 rw rescue init=/bin/sh");
            full_client(lab, &line)
        };
        let answers = "method:nfs,interface:eth0,network:dhcp,server:10.77.0.1,directory:/cs4";
        let mut machine = small(client(answers)?.nic(Nic::virtio()))?;
        assert_eq!(root_of(&mut machine)?, "overlay");
        // What stage1 leaves for the rescue system's scripts.
        let left = machine.run("tr '\\0' '\\n' </proc/1/environ; cat /tmp/env")?;
        assert_eq!(left.matches("METHOD=").count(), 2, "{left}");
        drop(machine);
        small(client("method:cdrom")?.cdrom(Bus::VirtioScsi, &iso))?;
        small(client("method:disk")?.disk(Bus::VirtioBlk, &iso)).map(drop)
    });
}

/// What five dialects download to memory; then nothing needs the network any
/// more, and its link is left to the network manager.
#[test]
fn five_dialects_over_http() {
    scenario("dialect-http", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let (tree, iso) = medium(lab, &lab.assets().small_squashfs()?)?;
        std::fs::copy(&iso, tree.join("u.iso")).unwrap();
        let _http = lab.http(&tree)?;
        for line in [
            "boot=casper netboot=http fetch=http://10.77.0.1/casper/filesystem.squashfs ip=dhcp",
            "ip=dhcp url=http://10.77.0.1/u.iso ---",
            "automatic=method:http,interface:auto,network:dhcp,server:10.77.0.1,directory:/ rescue",
            "archisobasedir=arch archiso_http_srv=http://10.77.0.1/ ip=dhcp",
            "root=live:http://10.77.0.1/LiveOS/squashfs.img rd.live.image ip=dhcp",
            "boot=live fetch=http://10.77.0.1/live/filesystem.squashfs ip=dhcp",
        ] {
            let line = format!("{line} init=/bin/sh");
            let mut machine = small(full_client(lab, &line)?.nic(Nic::virtio()))?;
            assert_eq!(root_of(&mut machine)?, "overlay", "{line}");
            machine.run("ls -l /run/NetworkManager/system-connections | grep -e '-rw-------'")?;
            machine.run("test ! -e /run/NetworkManager/conf.d/90-bellwether.conf")?;
            // What a root has no directory for is not missed.
            let said = machine.transcript();
            assert!(!said.contains("cannot be written"), "{said}");
        }
        Ok(())
    });
}

/// Slax and Knoppix from a disc, Alpine's and the kernel's words for a disk.
#[test]
fn small_dialects_from_disc_and_disk() {
    scenario("dialect-small", |lab| {
        let image = lab.assets().small_squashfs()?;
        let (_, iso) = medium(lab, &image)?;
        for (line, fs_type) in [
            ("from=slax load_ramdisk=1 vga=normal", "overlay"),
            (
                "root=live:CDLABEL=BWDIALECTS rd.live.dir=/ rd.live.squashimg=rootfs.squashfs",
                "overlay",
            ),
            ("knoppix_dir=KNOPPIX lang=de noimage tz=utc", "overlay"),
        ] {
            let client = full_client(lab, &format!("{line} init=/bin/sh"))?;
            let mut machine = small(client.cdrom(Bus::VirtioScsi, &iso))?;
            assert_eq!(root_of(&mut machine)?, fs_type, "{line}");
        }
        for (line, fs_type) in [
            ("root=/dev/vda modules=squashfs,virtio_blk overlaytmpfs=yes", "overlay"),
            ("root=/dev/vda rootfstype=squashfs ro rootwait", "squashfs"),
        ] {
            let client = full_client(lab, &format!("{line} init=/bin/sh"))?;
            let mut machine = small(client.disk(Bus::VirtioBlk, &image))?;
            assert_eq!(root_of(&mut machine)?, fs_type, "{line}");
        }
        Ok(())
    });
}

/// Slax with bundles of its user, some left out, and files laid over them; and by PXE,
/// from a list of files.
#[test]
fn slax_bundles_by_stick_and_by_list() {
    scenario("dialect-slax", |lab| {
        let bundle = |name: &str| {
            let path = format!("etc/{name}");
            lab.tree(name)?.text(&path, name)?.text("etc/all", name)?.image(Fs::Squashfs, "", 0)
        };
        let stick = lab
            .tree("stick")?
            .with("slax/01-core.sb", &lab.assets().small_squashfs()?)?
            .with("slax/05-web.sb", &bundle("web")?)?
            .with("slax/modules/03-mine.sb", &bundle("mine")?)?
            .with("slax/modules/07-late.sb", &bundle("late")?)?
            .text("slax/rootcopy/etc/copied", "copied\n")?
            .text("slax/rootcopy/bin/tool", "#!/bin/sh\n")?
            .text("PXEFILELIST", "slax/01-core.sb\nslax/modules/03-mine.sb\n")?;
        let image = stick.image(Fs::Vfat, "SLAX", 64)?;
        let client = full_client(lab, "from=slax noload=late,nothing init=/bin/sh")?;
        let mut machine = small(client.disk(Bus::VirtioBlk, &image))?;
        machine.run("test -e /etc/mine && test ! -e /etc/late && test -e /usr/bin/tool")?;
        assert_eq!(machine.run("cat /etc/all")?, "web");
        assert_eq!(machine.run("cat /etc/copied")?.trim(), "copied");
        drop(machine);
        let http = lab.http(stick.path())?;
        let line = "from=slax ip=10.77.0.9:10.77.0.1:10.77.0.1:255.255.255.0:80 init=/bin/sh";
        let mut machine = small(full_client(lab, line)?.nic(Nic::virtio()))?;
        assert_eq!(machine.run("cat /etc/all")?, "mine");
        machine.run("test ! -e /etc/web")?;
        drop((machine, http));
        // The same list by TFTP, where no web server answers.
        let tftp = lab.scratch("tftp")?;
        for name in ["PXEFILELIST", "slax"] {
            let from = stick.path().join(name);
            run(&["cp", "-r", &from.to_string_lossy(), &tftp.to_string_lossy()])?;
        }
        let _tftp = lab.dhcp().serve()?;
        let mut machine = small(full_client(lab, line)?.nic(Nic::virtio()))?;
        assert!(machine.transcript().contains("; TFTP is tried"), "{}", machine.transcript());
        assert_eq!(machine.run("cat /etc/all")?, "mine");
        Ok(())
    });
}

/// An LTSP server's tree: chains that begin on NFS and end in an image, directly or
/// through an ISO.
#[test]
fn ltsp_chains_over_nfs() {
    scenario("dialect-ltsp", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let (_, iso) = medium(lab, &lab.assets().small_squashfs()?)?;
        let tree = lab.tree("ltsp")?;
        let tree = tree.with("images/x86_64.img", &lab.assets().small_squashfs()?)?;
        let tree = tree.with("images/live.iso", &iso)?;
        let _nfs = lab.nfs().export("/srv/ltsp", tree.path()).start()?;
        for image in ["images/x86_64.img", "images/live.iso"] {
            let line = format!(
                "root=/dev/nfs nfsroot=10.77.0.1:/srv/ltsp ltsp.image={image} loop.max_part=9 \
                 ip=dhcp init=/bin/sh"
            );
            let mut machine = small(full_client(lab, &line)?.nic(Nic::virtio()))?;
            assert_eq!(root_of(&mut machine)?, "overlay", "{image}");
            // What ltsp and cloud-init read of the network.
            machine.run("grep -q ^IPV4ADDR= /run/net-*.conf")?;
        }
        Ok(())
    });
}

/// Tiny Core is the initramfs itself: nothing is looked for, and its own `/sbin/init`
/// goes on where `/init` was.
#[test]
fn tiny_core_stays_in_the_initramfs() {
    scenario("dialect-tiny-core", |lab| {
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        // A whole system in the archive, as core.gz is.
        let root = lab.assets().small_root()?;
        let bin = format!("{}:bin", root.join("usr/bin").display());
        let issue = format!("{}:etc/issue", root.join("etc/issue").display());
        let options = [&FULL[..], &["--include", &bin, "--include", &issue]].concat();
        let initrd = lab.assets().our_initrd_of(&kernel, Profile::Disks, "core", &options)?;
        let line = "loglevel=3 tce=sda1/tce nodhcp base init=/bin/sh";
        let mut machine = small(lab.machine().kernel(&kernel.image, &initrd, line))?;
        machine.run("echo changed >/etc/issue && test -d /sys/class")?;
        assert!(["rootfs", "tmpfs"].contains(&root_of(&mut machine)?.as_str()));
        Ok(())
    });
}
