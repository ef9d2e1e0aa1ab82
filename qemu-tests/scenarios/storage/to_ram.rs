//! Copies to memory, and letting go of the medium.

use qemu_tests::assets::media::{Fs, run};
use qemu_tests::scenario;

use super::{DISK, assert_said, boot, client, live_iso, mounted};

#[test]
fn the_medium_or_its_image() {
    scenario("storage-toram", |lab| {
        let iso = live_iso(lab)?;
        let mut machine = boot(client(lab, "boot=live toram")?.disk(DISK, &iso))?;
        assert_said(&machine, "; the medium may be removed");
        assert!(mounted(&mut machine, "/run/live/medium")?.contains(" tmpfs "));
        machine.run("! grep /dev/vda /proc/mounts && ls -R / >/dev/null")?;
        drop(machine);

        let line = "boot=live toram=filesystem.squashfs";
        let mut machine = boot(client(lab, line)?.disk(DISK, &iso))?;
        assert_eq!(machine.run("ls /run/bellwether/ram")?.trim(), "filesystem.squashfs");
        machine.run("! grep /dev/vda /proc/mounts")?;
        Ok(())
    });
}

/// An ISO on a disk: neither is in use afterwards.
#[test]
fn an_iso_file() {
    scenario("storage-toram-iso-file", |lab| {
        let disk =
            lab.tree("disk")?.with("live.iso", &live_iso(lab)?)?.image(Fs::Ext4, "DATA", 64)?;
        let line = "boot=live findiso=/live.iso toram";
        let mut machine = boot(client(lab, line)?.disk(DISK, &disk))?;
        assert!(mounted(&mut machine, "/run/live/medium")?.contains(" tmpfs "));
        machine.run("! grep /dev/vda /proc/mounts && ! grep -r live.iso /sys/block/loop*/loop")?;
        // Nothing holds the disk: it can be had for writing alone.
        machine.run("mkswap /dev/vda >/dev/null && swapon /dev/vda")?;
        Ok(())
    });
}

/// What does not fit is not copied: the medium is still there.
#[test]
fn too_large_for_memory() {
    scenario("storage-toram-too-large", |lab| {
        let medium = lab.tree("large")?.ballast("filler", 200)?;
        let iso = medium.with("live/filesystem.squashfs", &lab.assets().small_squashfs()?)?;
        let iso = iso.iso("LIVE")?;
        let client = client(lab, "boot=live toram")?.disk(DISK, &iso).memory(256);
        let mut machine = boot(client)?;
        assert_said(&machine, "the medium is not copied to memory: it has 2");
        assert!(mounted(&mut machine, "/run/live/medium")?.starts_with("/dev/vda "));
        Ok(())
    });
}

/// archiso's words: a checksum beside the image, and a copy.
#[test]
fn archiso() {
    scenario("storage-toram-archiso", |lab| {
        let image = lab.assets().small_squashfs()?;
        let sum = run(&["sha512sum", &image.to_string_lossy()])?;
        let sum = format!("{}  airootfs.sfs\n", sum.split(' ').next().unwrap_or_default());
        let iso = lab
            .tree("arch")?
            .with("arch/x86_64/airootfs.sfs", &image)?
            .text("arch/x86_64/airootfs.sha512", &sum)?
            .iso("ARCH_1")?;
        let line = "archisobasedir=arch archisolabel=ARCH_1 checksum=y copytoram=y";
        let mut machine = boot(client(lab, line)?.disk(DISK, &iso))?;
        assert_said(&machine, "all files match");
        machine.run("! grep /dev/vda /proc/mounts && grep archiso /proc/mounts")?;
        Ok(())
    });
}
