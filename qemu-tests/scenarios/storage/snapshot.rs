//! A writable root over an image that is never written, by device-mapper.

use qemu_tests::assets::media::{Fs, damage, gpt, make};
use qemu_tests::{Lab, Result, scenario, secs};

use super::{
    DISK, SCSI, assert_contains, assert_said, boot, client, mounted, plain_client, refused, sha256,
};

/// The seed's CD: `/initrd-ext2` on an ISO.
fn seed_iso(lab: &Lab) -> Result<std::path::PathBuf> {
    let place = lab.scratch("seed")?.join("initrd-ext2");
    make(Fs::Ext4, "", 40, &lab.assets().small_root()?, &place)?;
    lab.tree("seed-cd")?.with("initrd-ext2", &place)?.iso("SEED")
}

const SEED: &str = "bw.root=cdrom bw.image=/initrd-ext2 bw.medium=/mnt2";

/// `device-mapper-live-cd`: ISO, loop, ext2, snapshot in a RAM disk, the medium at
/// `/mnt2`; what is written is gone after a restart, and before the store is full
/// the console says so.
#[test]
fn the_seed_s_cd_warns_before_its_store_is_full() {
    scenario("storage-seed", |lab| {
        let iso = seed_iso(lab)?;
        let before = sha256(&iso)?;
        let line = format!("{SEED} bw.snapshot=ram:16M,chunk=1");
        let mut machine = boot(client(lab, &line)?.cdrom(SCSI, &iso))?;
        let table = machine.run("dmsetup table")?;
        assert_contains(&table, "bellwether-root: 0 81920 snapshot 7:0 1:0 N 1");
        assert!(mounted(&mut machine, "/")?.starts_with("/dev/dm-0 / ext4 rw"));
        assert!(mounted(&mut machine, "/mnt2")?.starts_with("/dev/sr0 /mnt2 iso9660 ro"));
        assert_contains(&machine.run("ls -l /dev/mapper/bellwether-root")?, "../dm-0");
        assert_contains(&machine.run("ps")?, "@bellwether-watch");
        machine.run("cmp /mnt2/initrd-ext2 /dev/loop0 && touch /kept")?;

        machine.run("dd if=/dev/urandom of=/fill bs=1M count=13 && sync")?;
        machine.expect("WARNING: changes fill 8", secs(60))?;
        machine.send_line("dd if=/dev/urandom of=/fill2 bs=1M count=8; sync")?;
        machine.expect("the store of changes is FULL", secs(60))?;
        drop(machine);
        assert_eq!(sha256(&iso)?, before, "the medium was written to");
        Ok(())
    });
}

/// The seed's sandbox: a disk's own ext2 under a snapshot, unchanged afterwards.
#[test]
fn a_partition_is_unchanged_byte_for_byte() {
    scenario("storage-sandbox", |lab| {
        let root = lab.assets().small_ext4()?;
        let disk = gpt(&lab.scratch("sandbox")?.join("disk.img"), &[("live-root", &root)])?;
        let before = sha256(&disk)?;
        // The second way of making it: nothing but a file that grows in memory.
        for (bus, root, store) in
            [(SCSI, "/dev/sda1", "ram:8M,chunk=1"), (DISK, "PARTLABEL=live-root", "sparse:8M")]
        {
            let line = format!("bw.root={root} bw.snapshot={store}");
            let mut machine = boot(client(lab, &line)?.kept_disk(bus, &disk))?;
            assert_contains(&machine.run("dmsetup table")?, ": 0 65536 snapshot ");
            machine.run("rm -r /etc/issue /home && echo new >/new && sync && sha256sum /new")?;
            drop(machine);
            assert_eq!(sha256(&disk)?, before, "{root} was written to");
        }
        Ok(())
    });
}

/// What an image lacks is made up for, or named.
#[test]
fn missing_modules_are_named() {
    scenario("storage-no-modules", |lab| {
        let iso = seed_iso(lab)?;
        let seed = SEED.replace("cdrom", "LABEL=SEED");
        let line = format!("{seed} bw.snapshot=ram:16M,chunk=1");
        let modules = ["--add", "dm_mod", "--add", "dm_snapshot"];
        let mut machine = boot(plain_client(lab, &modules, &line)?.disk(DISK, &iso))?;
        assert_said(
            &machine,
            "there is no RAM disk: the module brd is not in this image; changes go to a file in memory instead",
        );
        machine.run("touch /kept")?;
        drop(machine);
        let said = refused(plain_client(lab, &[], &line)?.disk(DISK, &iso))?;
        assert_contains(&said, "could not make the image writable by a snapshot");
        assert_contains(&said, "module dm-mod: is not in this image");
        assert_contains(&said, "--add dm-mod");
        Ok(())
    });
}

/// A store on a disk of its own, on a file system, and on a disk with foreign data.
#[test]
fn a_store_lasts() {
    scenario("storage-store-lasts", |lab| {
        let iso = seed_iso(lab)?;
        let place = lab.scratch("stores")?;
        let empty = place.join("empty.img");
        std::fs::write(&empty, vec![0; 32 << 20])
            .map_err(qemu_tests::Error::at("write", &empty))?;
        let seed = SEED.replace("cdrom", "LABEL=SEED");
        let line = format!("{seed} bw.snapshot=/dev/vdb,persistent,chunk=8");
        let mut machine = boot(client(lab, &line)?.disk(DISK, &iso).disk(DISK, &empty))?;
        assert_contains(&machine.run("dmsetup table")?, ":16 P 8");
        machine.run("echo once >/kept")?;
        machine.restart(secs(90))?;
        assert_eq!(machine.run("cat /kept")?.trim(), "once");
        drop(machine);

        let keep = lab.tree("keep")?.text("mine", "mine\n")?.image(Fs::Ext4, "KEEP", 64)?;
        let line = format!("{seed} bw.snapshot=LABEL=KEEP,persistent");
        let mut machine = boot(client(lab, &line)?.disk(DISK, &iso).disk(DISK, &keep))?;
        assert_said(&machine, "changes.cow");
        machine.run("echo once >/kept")?;
        machine.restart(secs(90))?;
        assert_eq!(machine.run("cat /kept")?.trim(), "once");
        drop(machine);

        // Unknown bytes, in the very first block.
        damage(&empty, 100)?;
        let before = sha256(&empty)?;
        let line = format!("{seed} bw.snapshot=/dev/vdb,persistent");
        let said = refused(client(lab, &line)?.disk(DISK, &iso).kept_disk(DISK, &empty))?;
        assert_contains(&said, "holds something unknown: changes would overwrite it");
        assert_eq!(sha256(&empty)?, before, "a disk with foreign data was written to");
        let line = format!("{seed} bw.snapshot=/dev/vda,persistent");
        let said = refused(client(lab, &line)?.disk(DISK, &iso))?;
        assert_contains(&said, "is iso9660, which nothing can be kept on");
        Ok(())
    });
}
