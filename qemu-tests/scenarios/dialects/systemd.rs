//! The dialects whose quick forms end in a shell, each once with a whole system:
//! systemd reaches `multi-user.target`, and gives the machine back tidily.

use qemu_tests::assets::{FULL, Flavour, Profile};
use qemu_tests::machine::{Bus, MachineBuilder};
use qemu_tests::{Error, Lab, Machine, Nic, Result, scenario, secs};

use super::{full_client, medium, root_of};

/// Comes up completely, and goes down.
fn whole(client: MachineBuilder<'_>, fs_type: &str) -> Result<()> {
    let mut machine = client.memory(1024).start()?;
    up(&mut machine)?;
    assert_eq!(root_of(&mut machine)?, fs_type);
    super::off(machine)
}

/// The same for a root that systemd itself lets go.
fn whole_plain(client: MachineBuilder<'_>, fs_type: &str) -> Result<()> {
    let mut machine = client.memory(1024).start()?;
    up(&mut machine)?;
    assert_eq!(root_of(&mut machine)?, fs_type);
    machine.send_line("systemctl poweroff")?;
    machine.wait_off(secs(90))
}

fn up(machine: &mut Machine) -> Result<()> {
    machine.login(secs(240))?;
    machine.run("timeout 55 systemctl is-system-running --wait || true")?;
    machine.run("systemctl is-active multi-user.target")?;
    assert_eq!(machine.run("cat /proc/1/comm")?.trim(), "systemd");
    assert_eq!(machine.run("systemctl --failed --no-legend")?.trim(), "");
    Ok(())
}

/// A machine with the medium of all layouts in its drive.
fn with_disc<'l>(lab: &'l Lab, line: &str) -> Result<MachineBuilder<'l>> {
    let (_, iso) = medium(lab, &lab.assets().squashfs()?)?;
    Ok(full_client(lab, line)?.cdrom(Bus::VirtioScsi, &iso))
}

/// systemd reads `rescue`, too, and would stop at a shell of its own.
#[test]
#[ignore = "half a minute, the quick form is stage1_rescue_by_nfs_cdrom_and_disk: cargo xtask test --sweep"]
fn sweep_stage1_over_nfs_under_systemd() {
    scenario("systemd-stage1", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let (tree, _) = medium(lab, &lab.assets().squashfs()?)?;
        let _nfs = lab.nfs().export("/cs4", &tree).start()?;
        let line = "automatic=method:nfs,interface:eth0,network:dhcp,server:10.77.0.1,\
                    directory:/cs4 root=/dev/ram3 rw rescue systemd.unit=multi-user.target";
        whole(full_client(lab, line)?.nic(Nic::virtio()), "overlay")
    });
}

#[test]
#[ignore = "half a minute, the quick form is small_dialects_from_disc_and_disk: cargo xtask test --sweep"]
fn sweep_slax_under_systemd() {
    scenario("systemd-slax", |lab| {
        whole(with_disc(lab, "from=slax load_ramdisk=1 vga=normal")?, "overlay")
    });
}

#[test]
#[ignore = "half a minute, the quick form is small_dialects_from_disc_and_disk: cargo xtask test --sweep"]
fn sweep_knoppix_under_systemd() {
    scenario("systemd-knoppix", |lab| {
        whole(with_disc(lab, "knoppix_dir=KNOPPIX lang=de noimage tz=utc")?, "overlay")
    });
}

#[test]
#[ignore = "half a minute, the quick form is ltsp_chains_over_nfs: cargo xtask test --sweep"]
fn sweep_ltsp_under_systemd() {
    scenario("systemd-ltsp", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let tree = lab.tree("ltsp")?.with("images/x86_64.img", &lab.assets().squashfs()?)?;
        let _nfs = lab.nfs().export("/srv/ltsp", tree.path()).start()?;
        let line = "root=/dev/nfs nfsroot=10.77.0.1:/srv/ltsp ltsp.image=images/x86_64.img \
                    loop.max_part=9 ip=dhcp";
        whole(full_client(lab, line)?.nic(Nic::virtio()), "overlay")
    });
}

#[test]
#[ignore = "half a minute, the quick form is small_dialects_from_disc_and_disk: cargo xtask test --sweep"]
fn sweep_alpine_s_words_under_systemd() {
    scenario("systemd-alpine", |lab| {
        let line = "root=/dev/vda modules=squashfs,virtio_blk overlaytmpfs=yes";
        let client = full_client(lab, line)?.disk(Bus::VirtioBlk, &lab.assets().squashfs()?);
        whole(client, "overlay")
    });
}

/// The kernel's own words for a disk that can be written, and for a tree on a server.
#[test]
#[ignore = "a minute, the quick forms are nfs_plain_tree and small_dialects_from_disc_and_disk: cargo xtask test --sweep"]
fn sweep_the_kernel_s_words_under_systemd() {
    scenario("systemd-kernel", |lab| {
        let root = lab.writable_root()?;
        let disk = lab.scratch("disk")?.join("root.img");
        qemu_tests::assets::media::make(
            qemu_tests::assets::media::Fs::Ext4,
            "ROOT",
            700,
            &root,
            &disk,
        )?;
        let client = full_client(lab, "root=LABEL=ROOT rootfstype=ext4 rw rootwait")?;
        whole_plain(client.disk(Bus::VirtioBlk, &disk), "ext4")?;
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export_rw("/srv/root", &root).start()?;
        let line = "root=/dev/nfs nfsroot=10.77.0.1:/srv/root,vers=3,tcp ip=dhcp rw";
        whole(full_client(lab, line)?.nic(Nic::virtio()), "nfs")
    });
}

/// The device-mapper CD: ISO, loop, ext4, snapshot in a RAM disk.
#[test]
#[ignore = "half a minute, the quick form is the_seed_s_cd_warns_before_its_store_is_full: cargo xtask test --sweep"]
fn sweep_the_device_mapper_cd_under_systemd() {
    scenario("systemd-seed", |lab| {
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let initrd = lab.assets().our_initrd(&kernel, Profile::Disks)?;
        let image = lab.scratch("seed")?.join("initrd-ext2");
        let root = lab.assets().live_root()?;
        let fs = qemu_tests::assets::media::Fs::Ext4;
        qemu_tests::assets::media::make(fs, "", 700, &root, &image)?;
        let iso = lab.tree("cd")?.with("initrd-ext2", &image)?.iso("SEED")?;
        let line = "bw.root=cdrom bw.image=/initrd-ext2 bw.snapshot=ram:128M,chunk=1 \
                    bw.medium=/mnt2";
        let client = lab.machine().kernel(&kernel.image, &initrd, line);
        whole(client.cdrom(Bus::VirtioScsi, &iso), "ext4")
    });
}

/// Tiny Core never leaves the initramfs: here that is the whole live system.
#[test]
#[ignore = "unpacks a whole system into memory: cargo xtask test --sweep"]
fn sweep_an_initramfs_that_is_the_system_under_systemd() {
    scenario("systemd-tiny-core", |lab| {
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let root = lab.assets().live_root()?;
        let words = [&FULL[..], &["--compress", "lz4"]].concat();
        let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        // /sbin and /lib are directories of our own.
        for dir in ["usr", "etc", "var", "root", "bin", "lib64", "sbin/agetty"] {
            words.extend(["--include".into(), format!("{}:{dir}", root.join(dir).display())]);
        }
        for dir in ["x86_64-linux-gnu", "systemd", "udev"] {
            let link = lab.scratch("links")?.join(dir);
            std::os::unix::fs::symlink(format!("/usr/lib/{dir}"), &link)
                .map_err(Error::at("link", &link))?;
            words.extend(["--include".into(), format!("{}:lib/{dir}", link.display())]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let initrd = lab.assets().our_initrd_of(&kernel, Profile::Disks, "core-systemd", &words)?;
        let line = "loglevel=3 tce=sda1/tce nodhcp base init=/usr/lib/systemd/systemd";
        let client = lab.machine().kernel(&kernel.image, &initrd, line).memory(2048);
        let mut machine = client.start()?;
        up(&mut machine)?;
        machine.send_line("systemctl poweroff")?;
        machine.wait_off(secs(90))
    });
}
