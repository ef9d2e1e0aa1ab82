//! Changes on an encrypted volume, opened by the image's own cryptsetup.

use std::path::PathBuf;

use qemu_tests::assets::media::{Fs, add_program, pipe};
use qemu_tests::assets::{FULL, Flavour, Profile};
use qemu_tests::{Lab, Machine, Result, scenario, secs, until};

use super::{DISK, assert_said, boot, client, live_iso};

const PASSPHRASE: &str = "correct horse";

/// A LUKS volume in a partition of this name.
fn encrypted(lab: &Lab) -> Result<PathBuf> {
    let volume = lab.tree("empty")?.image(Fs::Squashfs, "", 0)?.with_extension("luks");
    let file = std::fs::File::create(&volume).map_err(qemu_tests::Error::at("create", &volume))?;
    file.set_len(48 << 20).map_err(qemu_tests::Error::at("write", &volume))?;
    let name = volume.to_string_lossy().into_owned();
    let quick = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let format = ["cryptsetup", "luksFormat", "--type", "luks2", "--batch-mode", "--key-file", "-"];
    pipe(&[&format[..], &quick, &[&name]].concat(), PASSPHRASE.as_bytes())?;
    let disk = lab.scratch("disks")?.join("luks.img");
    qemu_tests::assets::media::gpt(&disk, &[("persistence", &volume)])
}

fn answer(machine: &mut Machine) -> Result<()> {
    machine.expect("enter its passphrase", secs(60))?;
    machine.expect("Enter passphrase", secs(30))?;
    // What is typed before it listens is thrown away, as it should be: it is typed until
    // it is taken.
    until("the passphrase is taken", secs(90), || {
        machine.send_line(PASSPHRASE)?;
        let heard = machine.expect_any(&["/dev/dm-0", "Enter passphrase"], secs(10));
        Ok(heard.is_ok_and(|(which, _)| which == 0))
    })?;
    machine.shell(secs(60))
}

/// Refused, in words, by what is missing first; without the changes the boot goes on.
#[test]
fn what_is_missing_is_named() {
    scenario("storage-luks-refused", |lab| {
        let (iso, disk) = (live_iso(lab)?, encrypted(lab)?);
        for (words, why) in [
            (
                "",
                "is encrypted (LUKS), and the line does not allow that: persistence-encryption=luks",
            ),
            (
                " persistence-encryption=luks",
                "is encrypted (LUKS), and there is no cryptsetup in this initramfs or in the live image to open it",
            ),
        ] {
            let line = format!("boot=live persistence{words}");
            let mut machine = boot(client(lab, &line)?.disk(DISK, &iso).disk(DISK, &disk))?;
            assert_said(&machine, why);
            machine.run("echo new >/new")?;
        }
        Ok(())
    });
}

/// With cryptsetup in the initramfs the passphrase is asked for on the console. A
/// volume that is still empty is named; it gets its file system in the live system,
/// and from then on it keeps changes.
#[test]
fn opened_by_the_image_s_cryptsetup() {
    scenario("storage-luks", |lab| {
        let disk = encrypted(lab)?;
        let root = lab.tree("root")?.with_all(&lab.assets().small_root()?)?;
        add_program(root.path(), "/usr/sbin/mkfs.ext4")?;
        let image = root.image(Fs::Squashfs, "", 0)?;
        let iso = lab.tree("mkfs")?.with("live/filesystem.squashfs", &image)?.iso("LIVE")?;

        let programs = lab.tree("programs")?;
        add_program(programs.path(), "/usr/sbin/cryptsetup")?;
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let modules = ["dm_crypt", "crypto-xts", "crypto-aes", "crypto-ecb", "crypto-sha256"];
        let modules: Vec<&str> = modules.iter().flat_map(|module| ["--add", module]).collect();
        let usr = programs.path().join("usr");
        let place = |from: &str, to: &str| format!("{}:{to}", usr.join(from).display());
        let (sbin, lib) = (place("sbin", "usr/sbin"), place("lib", "lib"));
        let lib64 = place("lib64", "lib64");
        let include = ["--include", &sbin, "--include", &lib, "--include", &lib64];
        let options = [&FULL[..], &modules, &include].concat();
        let initrd = lab.assets().our_initrd_of(&kernel, Profile::Disks, "luks", &options)?;
        let line = "boot=live persistence persistence-encryption=luks init=/bin/sh";
        let client = lab.machine().kernel(&kernel.image, &initrd, line);
        let mut machine = client.disk(DISK, &iso).disk(DISK, &disk).start()?;
        answer(&mut machine)?;
        assert_said(&machine, "/dev/dm-0: has no known file system");
        machine.run("mkfs.ext4 -q -L persistence /dev/dm-0 && mount -t ext4 /dev/dm-0 /mnt")?;
        machine.run("echo / union >/mnt/persistence.conf && umount /mnt && sync")?;
        machine.send_line("sync; echo b >/proc/sysrq-trigger")?;
        answer(&mut machine)?;
        assert_said(&machine, "all changes kept on /dev/dm-0");
        machine.run("echo once >/kept; sync; grep once /run/live/persistence/dm-0/rw/kept")?;
        Ok(())
    });
}
