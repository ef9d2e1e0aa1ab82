//! Changes that are kept from one boot to the next, each dialect's way.

use std::path::{Path, PathBuf};

use qemu_tests::assets::media::{Fs, gpt};
use qemu_tests::{Lab, Machine, Result, scenario, secs};

use super::{DISK, assert_contains, assert_said, boot, client, live_iso, mounted, nested_iso};

/// live-boot's volume.
fn volume(lab: &Lab, name: &str, fs: Fs, mib: u64, conf: &str) -> Result<PathBuf> {
    lab.tree(name)?.text("persistence.conf", conf)?.image(fs, "persistence", mib)
}

/// Writes in the first boot, reads in the second.
fn kept_across_a_restart(machine: &mut Machine) -> Result<()> {
    machine.run("echo once >/kept && rm /etc/issue")?;
    machine.restart(secs(90))?;
    assert_eq!(machine.run("cat /kept")?.trim(), "once");
    machine.run("test ! -e /etc/issue").map(drop)
}

#[test]
fn live_boot_keeps_all_changes() {
    scenario("storage-keep-live", |lab| {
        let (iso, disk) = (live_iso(lab)?, volume(lab, "stick", Fs::Ext4, 64, "/ union\n")?);
        let client_of = |words: &str| -> Result<_> {
            let line = format!("boot=live persistence{words}");
            Ok(client(lab, &line)?.disk(DISK, &iso).kept_disk(DISK, &disk))
        };
        let mut machine = boot(client_of("")?)?;
        assert_said(&machine, "all changes kept on /dev/vdb");
        kept_across_a_restart(&mut machine)?;
        machine.run("sync")?;
        drop(machine);

        // What was kept is seen, what is new is not kept.
        let mut machine = boot(client_of(" persistence-read-only")?)?;
        machine.run("cat /kept && echo new >/new")?;
        machine.restart(secs(90))?;
        machine.run("cat /kept && test ! -e /new")?;
        Ok(())
    });
}

/// kiwi's file beside an ISO file on a stick, which the loop boot of openSUSE's media makes.
#[test]
fn kiwi_keeps_changes_beside_the_iso() {
    scenario("storage-keep-kiwi", |lab| {
        let cow = lab.tree("cow")?.text("rw/etc/kept", "by kiwi\n")?.image(Fs::Ext4, "", 32)?;
        let stick = lab.tree("stick")?.with("suse.iso", &nested_iso(lab)?)?;
        let stick = stick.with("live_system.cow", &cow)?.image(Fs::Ext4, "STICK", 128)?;
        let line = "root=live:CDLABEL=DRA rd.live.image rd.live.overlay.persistent \
                    iso-scan/filename=/suse.iso";
        let mut machine = boot(client(lab, line)?.disk(DISK, &stick))?;
        assert_said(&machine, "all changes kept on live_system.cow on /dev/vda");
        assert_eq!(machine.run("cat /etc/kept")?.trim(), "by kiwi");
        kept_across_a_restart(&mut machine)
    });
}

#[test]
fn live_boot_keeps_single_directories() {
    scenario("storage-keep-directories", |lab| {
        let iso = live_iso(lab)?;
        let conf = "/home bind\n/etc union\n/media link,source=r\n";
        let disk = volume(lab, "stick", Fs::Ext4, 64, conf)?;
        let client = client(lab, "boot=live persistence")?.disk(DISK, &iso).disk(DISK, &disk);
        let mut machine = boot(client)?;
        // A directory that is new on the volume begins with the image's files.
        machine.run("test -s /home/user/.profile && echo h >/home/h && echo e >/etc/e")?;
        machine.run("mkdir -p /run/live/persistence/vdb/r/.kept && echo k >/run/live/persistence/vdb/r/.kept/file")?;
        machine.run("echo no >/srv/not-kept")?;
        machine.restart(secs(90))?;
        assert_eq!(machine.run("cd /home && cat h /etc/e /media/.kept/file")?.trim(), "h\ne\nk");
        machine
            .run("test ! -e /srv/not-kept && test -L /media/.kept/file && test -s /etc/issue")?;
        Ok(())
    });
}

/// Partitions that have a name and no label, on other file systems.
#[test]
fn btrfs_and_xfs_by_partition_name() {
    scenario("storage-keep-btrfs-xfs", |lab| {
        let iso = live_iso(lab)?;
        for (fs, mib) in [(Fs::Btrfs, 128), (Fs::Xfs, 300)] {
            let name = format!("{fs:?}");
            let tree = lab.tree(&name)?.text("persistence.conf", "/ union\n")?;
            let image = tree.image(fs, "", mib)?;
            let disk = lab.scratch("disks")?.join(name);
            gpt(&disk, &[("persistence", &image)])?;
            let line = "boot=live persistence";
            let mut machine = boot(client(lab, line)?.disk(DISK, &iso).disk(DISK, &disk))?;
            assert_said(&machine, "all changes kept on /dev/vdb1");
            kept_across_a_restart(&mut machine)?;
        }
        Ok(())
    });
}

/// One stick, as people write it with a hybrid tool: vfat with the images and an
/// ext4 file called casper-rw. Then a disk of that name, and a file that keeps `/home`.
#[test]
fn casper_on_one_stick() {
    scenario("storage-keep-casper", |lab| {
        let changes = lab.tree("changes")?.image(Fs::Ext4, "casper-rw", 32)?;
        let home = lab.tree("home")?.image(Fs::Ext4, "home-rw", 16)?;
        let stick = |name: &str, file: &str, volume: &Path| -> Result<PathBuf> {
            let image = lab.assets().small_squashfs()?;
            let tree = lab.tree(name)?.with("casper/filesystem.squashfs", &image)?;
            tree.with(file, volume)?.image(Fs::Vfat, "STICK", 96)
        };
        let line = "boot=casper persistent";
        let one = stick("one", "casper-rw", &changes)?;
        let mut machine = boot(client(lab, line)?.disk(DISK, &one))?;
        kept_across_a_restart(&mut machine)?;
        drop(machine);

        let two = stick("two", "home-rw", &home)?;
        let mut machine = boot(client(lab, line)?.disk(DISK, &two).disk(DISK, &changes))?;
        assert_said(&machine, "all changes, /home kept on /dev/vdb");
        machine.run("echo once >/home/mine && grep ' /home ' /proc/mounts")?;
        kept_across_a_restart(&mut machine)?;
        assert_eq!(machine.run("cat /home/mine")?.trim(), "once");
        Ok(())
    });
}

/// dracut: a directory of a volume; and, when the line names none, a file there that
/// is named after the medium and holds a snapshot's changes.
#[test]
fn dracut_keeps_a_directory_or_a_file() {
    scenario("storage-keep-dracut", |lab| {
        let iso = nested_iso(lab)?;
        let disk = lab.tree("keep")?.text("mine", "mine\n")?.image(Fs::Ext4, "KEEP", 64)?;
        let line =
            "root=live:CDLABEL=DRA rd.live.image rd.overlay rd.live.overlay=LABEL=KEEP:/ov/one";
        let mut machine = boot(client(lab, line)?.disk(DISK, &iso).disk(DISK, &disk))?;
        kept_across_a_restart(&mut machine)?;
        drop(machine);

        let line = "root=live:CDLABEL=DRA rd.live.image rd.live.overlay=LABEL=KEEP";
        let mut machine = boot(client(lab, line)?.disk(DISK, &iso).disk(DISK, &disk))?;
        assert_said(&machine, "/LiveOS/overlay-DRA-");
        kept_across_a_restart(&mut machine)
    });
}

#[test]
fn archiso_keeps_on_a_label() {
    scenario("storage-keep-archiso", |lab| {
        let image = lab.assets().small_squashfs()?;
        let iso = lab.tree("arch")?.with("arch/x86_64/airootfs.sfs", &image)?.iso("ARCH_1")?;
        let disk = lab.tree("keep")?.text("mine", "mine\n")?.image(Fs::Ext4, "KEEP", 64)?;
        let line = "archisobasedir=arch archisolabel=ARCH_1 cow_label=KEEP";
        let mut machine = boot(client(lab, line)?.disk(DISK, &iso).disk(DISK, &disk))?;
        kept_across_a_restart(&mut machine)?;
        let place = "persistent_ARCH_1/x86_64/upperdir/kept";
        machine.run(&format!("ls /run/*/*/*/{place} /run/*/*/{place} 2>/dev/null | grep kept"))?;
        Ok(())
    });
}

#[test]
fn slax_keeps_on_its_stick() {
    scenario("storage-keep-slax", |lab| {
        let image = lab.assets().small_squashfs()?;
        let stick =
            lab.tree("slax")?.with("slax/01-core.sb", &image)?.image(Fs::Ext4, "SLAX", 64)?;
        let mut machine = boot(client(lab, "from=slax perch")?.disk(DISK, &stick))?;
        kept_across_a_restart(&mut machine)
    });
}

/// A slow disk: the root was found long since, and /init waits for it.
#[test]
fn a_volume_that_comes_late() {
    scenario("storage-keep-late", |lab| {
        let (iso, disk) = (live_iso(lab)?, volume(lab, "stick", Fs::Ext4, 16, "/ union\n")?);
        let client = client(lab, "boot=live persistence")?.disk(DISK, &iso).later_disk(&disk);
        let mut machine = client.start()?;
        machine.expect("waiting for what changes are kept on", secs(90))?;
        machine.plug_disk()?;
        machine.shell(secs(60))?;
        assert_said(&machine, "all changes kept on /dev/sda");
        Ok(())
    });
}

/// What is not there is a warning, not the end.
#[test]
fn nothing_to_keep_on() {
    scenario("storage-keep-nowhere", |lab| {
        let iso = live_iso(lab)?;
        let line = "boot=live persistence persistence-label=nosuch";
        let mut machine = boot(client(lab, line)?.disk(DISK, &iso))?;
        assert_said(&machine, "no volume is called nosuch; changes stay in memory");
        assert_said(&machine, "waiting for what changes are kept on");
        machine.run("echo new >/new")?;
        drop(machine);

        // A volume without its configuration belongs to another system.
        let disk = lab.tree("bare")?.text("mine", "mine\n")?.image(Fs::Ext4, "persistence", 16)?;
        let client = client(lab, "boot=live persistence")?.disk(DISK, &iso).disk(DISK, &disk);
        let mut machine = boot(client)?;
        assert_said(&machine, "is called persistence and has no persistence.conf");
        machine.run("! grep /dev/vdb /proc/mounts")?;
        Ok(())
    });
}

/// Our own word: a label, a file made when it is missing, a directory.
#[test]
fn bw_persist() {
    scenario("storage-keep-bw", |lab| {
        let iso = live_iso(lab)?;
        let disk = lab.tree("keep")?.text("mine", "mine\n")?.image(Fs::Ext4, "KEEP", 64)?;
        let line = "boot=live bw.persist=LABEL=KEEP";
        let mut machine = boot(client(lab, line)?.disk(DISK, &iso).disk(DISK, &disk))?;
        kept_across_a_restart(&mut machine)?;
        assert_contains(&mounted(&mut machine, "/")?, "upperdir=");
        drop(machine);

        // vfat cannot hold changes as files; the image's own mkfs makes a file that can.
        let root = lab.tree("with-mkfs")?.with_all(&lab.assets().small_root()?)?;
        qemu_tests::assets::media::add_program(root.path(), "/usr/sbin/mkfs.ext4")?;
        let image = root.image(Fs::Squashfs, "", 0)?;
        let iso = lab.tree("mkfs")?.with("live/filesystem.squashfs", &image)?.iso("LIVE")?;
        let stick = lab.tree("stick")?.text("mine", "mine\n")?.image(Fs::Vfat, "STICK", 96)?;
        let line = "boot=live bw.persist=/dev/vdb,path=changes.img";
        let mut machine = boot(client(lab, line)?.disk(DISK, &iso).disk(DISK, &stick))?;
        assert_said(&machine, "making /changes.img on /dev/vdb for changes");
        kept_across_a_restart(&mut machine)
    });
}
