//! Images whose usual directories are links that would lead out of the new root:
//! absolute ones, and such that climb above it. They boot, they keep their changes,
//! and the initramfs stays as it is.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use qemu_tests::assets::media::{Fs, gpt, run};
use qemu_tests::assets::{FULL, Flavour, Profile};
use qemu_tests::machine::{Bus, MachineBuilder};
use qemu_tests::{Error, Lab, Machine, Result, scenario, secs};

use crate::dialects::{medium, small};
use crate::failures::client_with_shell;

/// Where the links lead: a name that the initramfs does not have.
const LINKS: [(&str, &str); 6] = [
    ("home", "/outside/home"),
    ("etc", "../../../../outside/etc"),
    ("sbin", "/outside/sbin"),
    ("usr/lib", "/outside/lib"),
    ("run", "../../outside/run"),
    ("var", "/outside/var"),
];

/// The small root with all of them, as a squashfs.
fn planted(lab: &Lab) -> Result<PathBuf> {
    let tree = lab.tree("planted")?.with_all(&lab.assets().small_root()?)?;
    let root = tree.path().to_owned();
    run(&["mkdir", &root.join("outside").to_string_lossy()])?;
    for (link, to) in LINKS {
        let (at, name) = (root.join(link), to.rsplit('/').next().unwrap_or(link));
        let moved = root.join("outside").join(name);
        if link == "sbin" {
            run(&["rm", &at.to_string_lossy()])?;
            run(&["mkdir", &moved.to_string_lossy()])?;
            run(&[
                "cp",
                &root.join("usr/bin/busybox").to_string_lossy(),
                &moved.join("init").to_string_lossy(),
            ])?;
        } else {
            run(&["mv", &at.to_string_lossy(), &moved.to_string_lossy()])?;
        }
        symlink(to, &at).map_err(Error::at("link", &at))?;
    }
    tree.image(Fs::Squashfs, "", 0)
}

/// Looks at the initramfs before it is left: nothing was made or mounted where the
/// links lead from there.
fn initramfs_is_unchanged(client: MachineBuilder<'_>) -> Result<()> {
    let mut machine = client.start()?;
    machine.expect("stopped before the step switch", secs(120))?;
    machine.expect("# ", secs(10))?;
    // The words are split so that their echo is not taken for their output.
    let seen = "test -e /outside || grep -q ' /outside' /proc/mounts || echo un'changed'";
    machine.send_line(seen)?;
    machine.expect("unchanged", secs(10)).map(drop)
}

/// Boots to the shell; the initramfs' own `/run` is where the image's link leads.
fn boot(client: MachineBuilder<'_>) -> Result<Machine> {
    let mut machine = small(client)?;
    machine.run("test -s /outside/run/bellwether/log && test -s /run/bellwether/log")?;
    for (link, to) in LINKS {
        assert_eq!(machine.run(&format!("readlink /{link}"))?.trim(), to);
    }
    Ok(machine)
}

/// live-boot's single directories: bound, united and linked behind the links.
#[test]
fn directories_are_kept_behind_links() {
    scenario("links-directories", |lab| {
        let iso =
            lab.tree("live")?.with("live/filesystem.squashfs", &planted(lab)?)?.iso("LIVE")?;
        let conf = "/home bind\n/etc union\n/var/log link,source=log\n/srv/new bind\n";
        let disk = lab.tree("stick")?.text("persistence.conf", conf)?.text("log/kept", "k\n")?;
        let disk = disk.image(Fs::Ext4, "persistence", 64)?;
        let client = |words: &str| -> Result<_> {
            let line = format!("boot=live persistence init=/bin/sh{words}");
            let client = client_with_shell(lab, &line)?;
            Ok(client.disk(Bus::VirtioBlk, &iso).disk(Bus::VirtioBlk, &disk))
        };
        initramfs_is_unchanged(client(" break=init")?)?;
        let mut machine = boot(client("")?)?;
        machine.run("test -s /home/user/.profile && echo h >/home/h && echo e >/etc/e")?;
        machine.run("grep -q ' /outside/home ' /proc/mounts && cat /outside/var/log/kept")?;
        machine.run("grep -q 'overlay / overlay' /etc/fstab && test -d /srv/new")?;
        machine.restart(secs(90))?;
        assert_eq!(machine.run("cat /home/h /etc/e /var/log/kept")?.trim(), "h\ne\nk");
        Ok(())
    });
}

/// casper's volumes for the whole root and for `/home`, its user and its medium.
#[test]
fn casper_s_home_and_user_behind_links() {
    scenario("links-casper", |lab| {
        let (_, iso) = medium(lab, &planted(lab)?)?;
        let disk = lab.scratch("disks")?.join("kept.img");
        let root = lab.tree("kept")?.image(Fs::Ext4, "casper-rw", 32)?;
        let home = lab.tree("home")?.image(Fs::Ext4, "home-rw", 16)?;
        gpt(&disk, &[("a", &root), ("b", &home)])?;
        let client = |words: &str| -> Result<_> {
            let line = format!("boot=casper persistent username=anna init=/bin/sh{words}");
            let client = client_with_shell(lab, &line)?;
            Ok(client.cdrom(Bus::VirtioScsi, &iso).disk(Bus::VirtioBlk, &disk))
        };
        initramfs_is_unchanged(client(" break=init")?)?;
        let mut machine = boot(client("")?)?;
        machine
            .run("grep -q ' /outside/home ' /proc/mounts && echo h >/home/h && echo v >/var/v")?;
        machine.run("test -e /media/cdrom/.disk/info && grep -q anna /outside/etc/casper.conf")?;
        machine.restart(secs(120))?;
        assert_eq!(machine.run("cat /outside/home/h /outside/var/v")?.trim(), "h\nv");
        Ok(())
    });
}

/// LTSP's init takes the place of the image's own, and the image's stays beside it.
#[test]
fn ltsp_s_init_behind_links() {
    scenario("links-ltsp", |lab| {
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let share = lab.tree("share")?.text("client/init/init", "#!/bin/sh\n")?;
        let etc = lab.tree("etc")?.text("ltsp.conf", "[server]\n")?;
        let busybox = format!("{}:bin", lab.assets().small_root()?.join("usr/bin").display());
        let share = format!("{}:usr/share/ltsp", share.path().display());
        let etc = format!("{}:etc/ltsp", etc.path().display());
        let includes = ["--include", &busybox, "--include", &share, "--include", &etc];
        let options = [&FULL[..], &includes].concat();
        let initrd = lab.assets().our_initrd_of(&kernel, Profile::Disks, "links-ltsp", &options)?;
        let disk = lab.tree("data")?.with("images/x.img", &planted(lab)?)?;
        let disk = disk.image(Fs::Ext4, "DATA", 64)?;
        let client = |words: &str| {
            let line = format!("root=LABEL=DATA ltsp.image=images/x.img init=/bin/sh{words}");
            let client = lab.machine().kernel(&kernel.image, &initrd, &line);
            client.disk(Bus::VirtioBlk, &disk)
        };
        initramfs_is_unchanged(client(" break=init"))?;
        let mut machine = boot(client(""))?;
        machine.run("test -x /sbin/init.ltsp && test -s /usr/share/ltsp/client/init/init")?;
        let links = machine.run("readlink /outside/sbin/init; readlink /usr/sbin/ltsp")?;
        assert_eq!(links.trim(), "../../usr/share/ltsp/client/init/init\n../share/ltsp/ltsp");
        machine.run("test -L /outside/lib/systemd/system/ltsp.service")?;
        Ok(())
    });
}
