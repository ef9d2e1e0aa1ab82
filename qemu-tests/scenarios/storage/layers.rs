//! Images in images, read-only roots, plain disks.

use std::fs::{File, copy};

use qemu_tests::assets::media::{Fs, gpt};
use qemu_tests::{Error, scenario};

use super::{
    DISK, assert_contains, assert_said, boot, client, live_iso, mounted, nested_iso, plain_client,
};

/// ISO, squashfs, ext4 image: a snapshot as dracut makes it, or an overlay when asked.
#[test]
fn dracut_s_image_in_an_image() {
    scenario("storage-nested", |lab| {
        let iso = nested_iso(lab)?;
        let line = "root=live:CDLABEL=DRA rd.live.image";
        let mut machine = boot(client(lab, line)?.disk(DISK, &iso))?;
        assert!(mounted(&mut machine, "/")?.starts_with("/dev/dm-0 / ext4 rw"));
        assert_contains(&machine.run("dmsetup table")?, "live-rw: 0 65536 snapshot");
        machine.run("echo new >/new")?;
        drop(machine);

        let line = format!("{line} rd.overlay");
        let mut machine = boot(client(lab, &line)?.disk(DISK, &iso))?;
        assert!(mounted(&mut machine, "/")?.starts_with("overlay / overlay rw"));
        assert!(mounted(&mut machine, "/run/initramfs/images/rootfs.img")?.contains(" ext4 ro"));
        machine.run("echo new >/new")?;
        drop(machine);

        // Everything in memory: the medium is let go of.
        let line = "root=live:CDLABEL=DRA rd.live.image rd.writable.fsimg=1";
        let mut machine = boot(client(lab, line)?.disk(DISK, &iso))?;
        assert!(mounted(&mut machine, "/")?.starts_with("/dev/dm-0 / ext4 rw"));
        machine.run("! grep /dev/vda /proc/mounts && echo new >/new")?;
        Ok(())
    });
}

/// The same ISO as a file on a disk.
#[test]
fn an_iso_file_on_a_disk() {
    scenario("storage-iso-file", |lab| {
        let iso = nested_iso(lab)?;
        let disk = lab.tree("disk")?.with("isos/dra.iso", &iso)?.image(Fs::Ext4, "DATA", 96)?;
        let line = "root=live:CDLABEL=DRA rd.live.image iso-scan/filename=/isos/dra.iso";
        let mut machine = boot(client(lab, line)?.disk(DISK, &disk))?;
        assert!(mounted(&mut machine, "/")?.starts_with("/dev/dm-0 / ext4 rw"));
        assert!(mounted(&mut machine, "/run/initramfs/isoscan")?.starts_with("/dev/vda "));
        machine.run("echo new >/new")?;
        Ok(())
    });
}

/// A machine without any disk or card: the image is a file in the initramfs.
#[test]
fn an_image_in_the_initramfs() {
    scenario("storage-initramfs", |lab| {
        let image = lab.tree("images")?.with("root.img", &lab.assets().small_squashfs()?)?;
        let image = image.with("disk.img", &lab.assets().small_ext4()?)?;
        let include = format!("{}:images", image.path().display());
        for line in
            ["root=live:/images/root.img", "bw.root=initramfs,file=/images/disk.img bw.overlay"]
        {
            let mut machine = boot(plain_client(lab, &["--include", &include], line)?)?;
            assert!(mounted(&mut machine, "/")?.starts_with("overlay / overlay rw"));
            machine.run("cat /usr/bin/busybox >/copy && cmp /copy /usr/bin/busybox")?;
        }
        Ok(())
    });
}

/// Disks that the line protects refuse every write, from the moment they appear.
#[test]
fn protected_disks() {
    scenario("storage-protected", |lab| {
        let iso = live_iso(lab)?;
        let conf = lab.tree("stick")?.text("persistence.conf", "/ union\n")?;
        let disk = conf.image(Fs::Ext4, "persistence", 16)?;
        let line = "boot=live persistence read-only=/dev/vd[b-z]*";
        let mut machine = boot(client(lab, line)?.disk(DISK, &iso).disk(DISK, &disk))?;
        assert_eq!(machine.run("cat /sys/block/vda/ro /sys/block/vdb/ro")?.trim(), "0\n1");
        machine.run("! dd if=/dev/zero of=/dev/vdb count=1 conv=fsync && echo new >/new")?;
        assert_said(&machine, "changes stay in memory");
        Ok(())
    });
}

/// Only some directories can be written, the rest of the root cannot.
#[test]
fn exposed_root() {
    scenario("storage-exposed-root", |lab| {
        let iso = live_iso(lab)?;
        let mut machine = boot(client(lab, "boot=live exposedroot")?.disk(DISK, &iso))?;
        assert!(mounted(&mut machine, "/")?.contains(" squashfs ro"));
        for dir in ["/var/log", "/var/tmp", "/var/spool", "/home"] {
            machine.run(&format!("echo new >{dir}/new"))?;
        }
        machine.run("! touch /new")?;
        Ok(())
    });
}

/// A root on a partition, as any installed system has it; and the same under an
/// overlay.
#[test]
fn a_plain_partition() {
    scenario("storage-plain", |lab| {
        let root = lab.assets().small_ext4()?;
        let labelled = lab.tree("other")?.with_all(&lab.assets().small_root()?)?;
        let labelled = labelled.image(Fs::Ext4, "seedroot", 32)?;
        let disk = lab.scratch("plain")?.join("disk.img");
        gpt(&disk, &[("first", &root), ("second", &labelled)])?;
        let table = qemu_tests::assets::media::run(&[
            "sfdisk",
            "--part-uuid",
            &disk.to_string_lossy(),
            "2",
        ])?;
        let line = format!("root=PARTUUID={} rw", table.trim());
        let mut machine = boot(client(lab, &line)?.disk(DISK, &disk))?;
        assert!(mounted(&mut machine, "/")?.starts_with("/dev/vda2 / ext4 rw"));
        machine.run("echo new >/new")?;
        drop(machine);

        let line = "bw.root=LABEL=seedroot bw.overlay";
        let mut machine = boot(client(lab, line)?.disk(DISK, &disk))?;
        assert!(mounted(&mut machine, "/")?.starts_with("overlay / overlay rw"));
        machine.run("test ! -e /new && echo new >/new")?;
        Ok(())
    });
}

/// Disks are called in the order of their bus, each boot.
#[test]
fn disks_are_named_in_their_order() {
    scenario("storage-disk-names", |lab| {
        let scratch = lab.scratch("disks")?;
        let image = lab.assets().small_squashfs()?;
        let mut builder = client(lab, "root=/dev/vda ro bw.overlay")?;
        for number in 1..=5 {
            let disk = scratch.join(number.to_string());
            copy(&image, &disk)
                .and_then(|_| File::options().write(true).open(&disk)?.set_len(number << 24))
                .map_err(Error::at("write", &disk))?;
            builder = builder.disk(DISK, &disk);
        }
        let mut machine = boot(builder)?;
        let sizes = machine
            .run("until [ -e /sys/block/vde ]; do sleep 0.1; done; cat /sys/block/vd?/size")?;
        assert_eq!(
            sizes.split_whitespace().collect::<Vec<_>>(),
            ["32768", "65536", "98304", "131072", "163840"]
        );
        Ok(())
    });
}

/// aufs is taken when the kernel has it; this one does not, and that is said.
#[test]
fn aufs_that_is_not_there_is_named() {
    scenario("storage-aufs", |lab| {
        let iso = live_iso(lab)?;
        let mut machine = boot(client(lab, "boot=live union=aufs")?.disk(DISK, &iso))?;
        assert_said(&machine, "aufs is not in this kernel; using overlayfs");
        assert!(mounted(&mut machine, "/")?.starts_with("overlay / overlay rw"));
        Ok(())
    });
}
