//! Network block devices: what is on them, and a server that goes away under a
//! running system.

use qemu_tests::assets::media::run;
use qemu_tests::servers::Offer;
use qemu_tests::{scenario, secs};

use super::{assert_contains, assert_live, boot, refused};

/// An ext4 root that is written to; its server is killed while that goes on, and
/// the system waits until it is back.
#[test]
fn nbd_root_outlives_its_server() {
    scenario("sources-nbd-restart", |lab| {
        let disk = lab.scratch("disk")?.join("root.img");
        run(&["cp", &lab.assets().small_ext4()?.to_string_lossy(), &disk.to_string_lossy()])?;
        let _dhcp = lab.dhcp().serve()?;
        let mut nbd = lab.nbd(&[Offer::writable("root", &disk)])?;
        let mut machine = boot(lab, "root=nbd:nas.lab:root:ext4 ip=dhcp rw")?;
        assert_contains(&machine.run("cat /proc/mounts")?, "/dev/nbd0 / ext4 rw");
        machine.run("dd if=/dev/urandom of=/tmp/noise bs=64k count=64 2>/dev/null; sync")?;
        let copy = "until [ -e /run/enough ]; do cp /tmp/noise /copy; sync; echo cop''ied; done";
        machine.send_line(&format!("({copy}; echo writ''ten) &"))?;
        machine.expect("copied", secs(60))?;
        nbd.stop();
        machine.expect("does not answer any more", secs(60))?;
        lab.knocks(4, secs(60))?;
        nbd.start()?;
        machine.expect("is connected again", secs(60))?;
        machine.expect("copied", secs(60))?;
        machine.send_line("echo >/run/enough")?;
        machine.expect("written", secs(60))?;
        machine.run("echo 3 >/proc/sys/vm/drop_caches; cmp /tmp/noise /copy")?;
        assert_eq!(machine.run("dmesg | grep -E 'Buffer I/O|EXT4-fs error' || true")?, "");
        // A second time, and with nothing under way.
        nbd.stop();
        machine.expect("does not answer any more", secs(60))?;
        nbd.start()?;
        machine.expect("is connected again", secs(30))?;
        machine.run("echo 3 >/proc/sys/vm/drop_caches; cmp /tmp/noise /copy")?;
        drop(machine);
        // What was written is on the server's disk.
        let stat = run(&["debugfs", "-R", "stat /copy", &disk.to_string_lossy()])?;
        assert_contains(&stat, "Size: 4194304");
        Ok(())
    });
}

/// `root=dhcp` where DHCP's root path names an export, as dracut's servers have it.
#[test]
fn nbd_by_the_root_path_of_dhcp() {
    scenario("sources-nbd-dhcp", |lab| {
        let image = lab.assets().small_squashfs()?;
        let root_path = "dhcp-option=option:root-path,nbd:10.77.0.1:image:squashfs:ro";
        let _dhcp = lab.dhcp().option(root_path).serve()?;
        let _nbd = lab.nbd(&[Offer::read_only("image", &image)])?;
        let mut machine = boot(lab, "root=dhcp bw.overlay")?;
        assert_live(&mut machine)?;
        assert_contains(&machine.run("cat /proc/mounts")?, "/dev/nbd0 ");
        Ok(())
    });
}

/// A squashfs and a whole medium, over several connections at once.
#[test]
fn nbd_images_and_media() {
    scenario("sources-nbd-images", |lab| {
        let image = lab.assets().small_squashfs()?;
        let iso = lab.tree("live")?.with("live/filesystem.squashfs", &image)?.iso("LIVE")?;
        let _dhcp = lab.dhcp().serve()?;
        let exports = [Offer::read_only("image", &image), Offer::read_only("iso", &iso)];
        let _nbd = lab.nbd(&exports)?;
        let mut machine = boot(lab, "bw.root=nbd:nas.lab/image bw.overlay")?;
        assert_live(&mut machine)?;
        // Port 10809, established.
        let connections = machine.run("grep -c ':2A39 01' /proc/net/tcp")?;
        assert_eq!(connections.trim(), "4");
        drop(machine);
        let mut machine = boot(lab, "boot=live bw.root=nbd:10.77.0.1/iso")?;
        assert_live(&mut machine)?;
        machine.run("test -e /run/live/medium/live/filesystem.squashfs")?;
        drop(machine);
        // What there is instead of an export that is not there.
        let said = refused(lab, "root=nbd:nas.lab:typo rd.retry=3 ip=dhcp")?;
        assert_contains(&said, "the server has no such export");
        assert_contains(&said, "it has \"image\"");
        Ok(())
    });
}
