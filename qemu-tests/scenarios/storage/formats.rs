//! The file systems that a root or a medium can be on.

use qemu_tests::assets::media::{Fs, gpt};
use qemu_tests::assets::{FULL, Flavour, Kernel, Profile};
use qemu_tests::{scenario, secs};

use super::{DISK, assert_contains, boot, client, live_iso, mounted, nested_iso, refused};

/// The root itself, on a disk that is named, under an overlay; read-only kinds
/// cannot be anything else.
#[test]
fn a_root_on_each() {
    scenario("storage-roots", |lab| {
        let root = lab.assets().small_root()?;
        for (fs, mib) in [(Fs::Xfs, 300), (Fs::Btrfs, 128), (Fs::Erofs, 0), (Fs::Squashfs, 0)] {
            let name = format!("{fs:?}").to_lowercase();
            let disk = lab.tree(&name)?.with_all(&root)?.image(fs, "", mib)?;
            let line = "bw.root=/dev/vda bw.overlay";
            let mut machine = boot(client(lab, line)?.disk(DISK, &disk))?;
            assert_contains(&machine.run("cat /proc/mounts")?, &format!(" {name} ro"));
            machine.run("test -s /etc/issue && echo new >/new")?;
        }
        Ok(())
    });
}

/// An image of erofs on a disk. Since Linux 6.12 the kernel reads the file without a loop
/// device.
#[test]
fn an_erofs_file() {
    scenario("storage-erofs-file", |lab| {
        let root = lab.tree("root")?.with_all(&lab.assets().small_root()?)?;
        let root = root.image(Fs::Erofs, "", 0)?;
        let disk = lab.tree("disk")?.with("root.erofs", &root)?.image(Fs::Ext4, "DATA", 64)?;
        let line = "bw.root=LABEL=DATA bw.image=root.erofs bw.overlay";
        let mut machine = boot(client(lab, line)?.disk(DISK, &disk))?;
        let mounts = machine.run("cat /proc/mounts")?;
        let line = mounts.lines().find(|line| line.contains(" erofs ro")).unwrap_or_default();
        let old = lab.assets().release() == "bookworm";
        assert!(line.starts_with("/dev/loop") == old && !line.is_empty(), "{mounts}");
        machine.run("test -s /etc/issue && echo new >/new").map(drop)
    });
}

/// The medium, found by scanning. A disc with UDF alone is filled by a machine.
#[test]
fn a_medium_on_each() {
    scenario("storage-media", |lab| {
        let image = lab.assets().small_squashfs()?;
        for (fs, mib) in [(Fs::Vfat, 64), (Fs::Btrfs, 128), (Fs::Ext4, 32)] {
            let name = format!("{fs:?}").to_lowercase();
            let medium = lab.tree(&name)?.with("live/filesystem.squashfs", &image)?;
            let disk = medium.image(fs, "LIVE", mib)?;
            let mut machine = boot(client(lab, "boot=live")?.disk(DISK, &disk))?;
            let on = mounted(&mut machine, "/run/live/medium")?;
            assert_contains(&on, &format!("/dev/vda /run/live/medium {name} ro"));
        }
        Ok(())
    });
}

#[test]
fn a_medium_on_udf() {
    scenario("storage-udf", |lab| {
        let disc = lab.tree("disc")?.image(Fs::Udf, "LIVE", 32)?;
        let iso = live_iso(lab)?;
        // The scan looks at the empty disc first, which brings udf.ko.
        let empty = client(lab, "boot=live")?.kept_disk(DISK, &disc).disk(DISK, &iso);
        let mut machine = boot(empty)?;
        machine.run(
            "mount -t udf /dev/vda /mnt && mkdir /mnt/live && \
             cp /run/live/medium/live/* /mnt/live/ && umount /mnt",
        )?;
        drop(machine);
        let mut machine = boot(client(lab, "boot=live")?.disk(DISK, &disc))?;
        let on = mounted(&mut machine, "/run/live/medium")?;
        assert_contains(&on, "/dev/vda /run/live/medium udf ro");
        Ok(())
    });
}

/// f2fs, which the cloud kernel does not have.
#[test]
fn a_medium_and_changes_on_f2fs() {
    scenario("storage-f2fs", |lab| {
        let kernel = lab.assets().kernel(Flavour::Stock)?;
        let options = [&FULL[..], &["--add", "f2fs"]].concat();
        let initrd = lab.assets().our_initrd_of(&kernel, Profile::Disks, "f2fs", &options)?;
        let medium = lab
            .tree("medium")?
            .with("live/filesystem.squashfs", &lab.assets().small_squashfs()?)?;
        let medium = medium.image(Fs::F2fs, "LIVE", 128)?;
        let changes = lab.tree("changes")?.text("persistence.conf", "/ union\n")?;
        let changes = changes.image(Fs::F2fs, "persistence", 128)?;
        let line = "boot=live persistence init=/bin/sh";
        let machine = lab.machine().kernel(&kernel.image, &initrd, line);
        let mut machine = boot(machine.disk(DISK, &medium).disk(DISK, &changes))?;
        assert_contains(&mounted(&mut machine, "/run/live/medium")?, " f2fs ro");
        machine.run("echo once >/kept")?;
        machine.restart(secs(90))?;
        assert_eq!(machine.run("cat /kept")?.trim(), "once");
        Ok(())
    });
}

/// A partition inside a disk image that is itself a file on a disk.
#[test]
fn a_partition_in_an_image_file() {
    scenario("storage-partition-in-file", |lab| {
        let root = lab.assets().small_ext4()?;
        let image = lab.scratch("inner")?.join("whole.img");
        gpt(&image, &[("boot", &root), ("root", &root)])?;
        let disk =
            lab.tree("outer")?.with("images/whole.img", &image)?.image(Fs::Ext4, "DATA", 128)?;
        let line = "root=LABEL=DATA ltsp.image=images/whole.img,partition=2";
        let mut machine = boot(client(lab, line)?.disk(DISK, &disk))?;
        assert_contains(&machine.run("cat /proc/mounts")?, "/dev/loop0 ");
        machine.run("test -s /etc/issue && echo new >/new")?;
        Ok(())
    });
}

/// Debian's kernel has no driver for NTFS: that is what the screen says.
#[test]
fn ntfs_without_a_driver_is_named() {
    scenario("storage-ntfs-no-driver", |lab| {
        let disk = lab.tree("windows")?.with("live.iso", &live_iso(lab)?)?.image(
            Fs::Ntfs,
            "WINDOWS",
            64,
        )?;
        let line = "root=live:CDLABEL=LIVE iso-scan/filename=/live.iso rd.retry=3";
        let said = refused(client(lab, line)?.disk(DISK, &disk))?;
        assert_contains(&said, "/dev/vda");
        assert_contains(&said, "ntfs3");
        Ok(())
    });
}

/// NTFS, ISO, squashfs, ext4 image. Debian 12's kernel has no driver: it is made of Debian's
/// own sources of this kernel, which takes minutes. Debian 13's has ntfs3, and forky's ntfs.
#[test]
#[ignore = "builds a kernel module: cargo xtask test --sweep"]
fn sweep_an_iso_on_ntfs() {
    scenario("storage-ntfs", |lab| {
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let driver = lab.assets().ntfs3(&kernel)?;
        let kernel = Kernel { modules: driver, ..kernel };
        let name = if lab.assets().release() == "forky" { "ntfs" } else { "ntfs3" };
        let modules = ["dm_mod", "dm_snapshot", name];
        let modules: Vec<&str> = modules.iter().flat_map(|module| ["--add", module]).collect();
        let options = [&FULL[..], &modules].concat();
        let initrd = lab.assets().our_initrd_of(&kernel, Profile::Disks, "ntfs3", &options)?;
        let disk = lab.tree("windows")?.with("dra.iso", &nested_iso(lab)?)?;
        let disk = disk.image(Fs::Ntfs, "WINDOWS", 96)?;
        let line = "root=live:CDLABEL=DRA rd.live.image iso-scan/filename=/dra.iso init=/bin/sh";
        let client = lab.machine().kernel(&kernel.image, &initrd, line);
        let mut machine = boot(client.disk(DISK, &disk))?;
        assert!(mounted(&mut machine, "/run/initramfs/isoscan")?.contains(&format!(" {name} ro")));
        assert!(mounted(&mut machine, "/")?.starts_with("/dev/dm-0 / ext4 rw"));
        machine.run("echo new >/new")?;
        Ok(())
    });
}
