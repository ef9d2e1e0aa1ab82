//! dm-verity, digests, checksums of the medium.

use std::path::{Path, PathBuf};

use qemu_tests::assets::media::{Fs, damage, run};
use qemu_tests::{Lab, Result, scenario};

use super::{DISK, assert_contains, assert_said, boot, client, plain_client, refused};

/// A squashfs with a hash tree beside it.
pub struct Verified {
    pub image: PathBuf,
    pub tree: PathBuf,
    parity: PathBuf,
    pub root_hash: String,
}

/// What does not get smaller, and is nowhere else in an image.
fn noise() -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    (0..1 << 19).flat_map(|_| next()).collect()
}

/// One that holds a file of 2 MiB, too, somewhere in its middle.
pub fn verified(lab: &Lab) -> Result<Verified> {
    let root = lab.tree("root")?.with_all(&lab.assets().small_root()?)?;
    std::fs::write(root.path().join("srv/noise"), noise())
        .map_err(qemu_tests::Error::at("write", root.path()))?;
    let image = root.image(Fs::Squashfs, "", 0)?;
    let tree = image.with_extension("verity");
    let parity = image.with_extension("fec");
    let fec = format!("--fec-device={}", parity.display());
    let files = [image.to_string_lossy(), tree.to_string_lossy()];
    let root_hash = hash_in(&run(&["veritysetup", "format", &fec, &files[0], &files[1]])?);
    Ok(Verified { image, tree, parity, root_hash })
}

pub fn hash_in(text: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix("Root hash:"));
    line.unwrap_or_default().trim().to_owned()
}

/// live-boot's medium with what belongs to the image.
pub fn verified_iso(
    lab: &Lab,
    name: &str,
    image: &Path,
    files: &[(&str, &Path)],
) -> Result<PathBuf> {
    let mut tree = lab.tree(name)?.with("live/filesystem.squashfs", image)?;
    for (suffix, file) in files {
        tree = tree.with(&format!("live/filesystem.squashfs.{suffix}"), file)?;
    }
    tree.iso("LIVE")
}

/// A root hash on the line: held to, refused when it is another one's, refused when
/// the image cannot do it.
#[test]
fn verity_by_the_line() {
    scenario("storage-verity-line", |lab| {
        let it = verified(lab)?;
        let iso = verified_iso(lab, "medium", &it.image, &[("verity", &it.tree)])?;
        let line = format!("boot=live bw.verity={}", it.root_hash);
        let mut machine = boot(client(lab, &line)?.disk(DISK, &iso))?;
        assert_said(&machine, "filesystem.squashfs is verified by the root hash of the line");
        assert_contains(&machine.run("grep squashfs /proc/mounts")?, "/dev/dm-0");
        machine.run("cat /srv/noise >/dev/null")?;
        drop(machine);

        let other = it.root_hash.replace(|c: char| c.is_ascii_digit(), "a");
        let wrong = format!("boot=live bw.verity={other}");
        let said = refused(client(lab, &wrong)?.disk(DISK, &iso))?;
        assert_contains(&said, "does not match its root hash");
        let said = refused(plain_client(lab, &[], &line)?.disk(DISK, &iso))?;
        assert_contains(&said, "module dm-mod: is not in this image");
        Ok(())
    });
}

/// A pipe where an image or a list of images is expected ends in words, and does not
/// stop the boot for ever.
#[test]
fn pipes_on_a_medium() {
    scenario("storage-pipes", |lab| {
        let image = lab.assets().small_squashfs()?;
        let list = lab.tree("list")?.with("live/filesystem.squashfs", &image)?;
        run(&["mkfifo", &list.path().join("live/filesystem.module").to_string_lossy()])?;
        let iso = list.iso("LIVE")?;
        boot(client(lab, "boot=live bw.timeout=60")?.disk(DISK, &iso))?;

        let pipe = lab.tree("pipe")?.text("live/filesystem.packages", "")?;
        run(&["mkfifo", &pipe.path().join("live/filesystem.squashfs").to_string_lossy()])?;
        let iso = pipe.iso("LIVE")?;
        let said = refused(client(lab, "boot=live bw.timeout=60")?.disk(DISK, &iso))?;
        assert_contains(&said, "filesystem.squashfs");
        Ok(())
    });
}

/// The tree behind the image's end, and the root hash beside it on the medium.
#[test]
fn verity_by_the_medium() {
    scenario("storage-verity-medium", |lab| {
        let it = verified(lab)?;
        let hash = it.image.with_extension("roothash");
        std::fs::write(&hash, format!("{}\n", it.root_hash))
            .map_err(qemu_tests::Error::at("write", &hash))?;
        let files = [("verity", it.tree.as_path()), ("roothash", hash.as_path())];
        let iso = verified_iso(lab, "beside", &it.image, &files)?;
        let mut machine = boot(client(lab, "boot=live")?.disk(DISK, &iso))?;
        assert_said(&machine, "filesystem.squashfs is verified by the root hash of the medium");
        assert_contains(&machine.run("dmsetup table")?, " verity 1 ");
        drop(machine);

        let appended = it.image.with_extension("appended");
        std::fs::copy(&it.image, &appended).map_err(qemu_tests::Error::at("copy", &appended))?;
        let size = std::fs::metadata(&appended).map_or(0, |meta| meta.len());
        let offset = format!("--hash-offset={}", size.next_multiple_of(4096));
        let name = appended.to_string_lossy();
        let blocks = format!("--data-blocks={}", size.div_ceil(4096));
        let text = run(&["veritysetup", "format", &offset, &blocks, &name, &name])?;
        let iso = verified_iso(lab, "behind", &appended, &[])?;
        let line = format!("boot=live bw.verity={}", hash_in(&text));
        let mut machine = boot(client(lab, &line)?.disk(DISK, &iso))?;
        machine.run("cat /srv/noise >/dev/null")?;
        Ok(())
    });
}

/// One block that changed: the boot goes on, and who reads it gets an error instead
/// of something else; or, with parity data beside the image, what it was.
#[test]
fn a_corrupted_block_is_an_error_or_mended() {
    scenario("storage-verity-corrupted", |lab| {
        let it = verified(lab)?;
        let whole = std::fs::read(&it.image).map_err(qemu_tests::Error::at("read", &it.image))?;
        let noise = noise();
        let at = whole.windows(64).position(|place| place == &noise[1 << 20..][..64]);
        damage(&it.image, at.expect("the noise is in the image as it is") as u64)?;
        let iso = verified_iso(lab, "medium", &it.image, &[("verity", &it.tree)])?;
        let line = format!("boot=live bw.verity={}", it.root_hash);
        let mut machine = boot(client(lab, &line)?.disk(DISK, &iso))?;
        let failed = machine.run(
            "find / -xdev -type f | while read f; do cat $f >/dev/null || echo bad $f; done",
        )?;
        assert_contains(&failed, "Input/output error");
        assert_contains(&machine.run("dmesg")?, "is corrupted");
        drop(machine);

        let files = [("verity", it.tree.as_path()), ("fec", it.parity.as_path())];
        let iso = verified_iso(lab, "mended", &it.image, &files)?;
        let mut machine = boot(client(lab, &line)?.disk(DISK, &iso))?;
        let sum =
            run(&["sha256sum", &lab.scratch("media")?.join("root/srv/noise").to_string_lossy()])?;
        let seen = machine.run("sha256sum /srv/noise")?;
        assert_eq!(seen.split(' ').next(), sum.split(' ').next(), "it is not what it was");
        assert_contains(&machine.run("dmesg")?, "corrected");
        Ok(())
    });
}

/// Digests on the line, of each kind; the wrong one is refused with the right one.
#[test]
fn digests() {
    scenario("storage-digests", |lab| {
        let iso = super::live_iso(lab)?;
        let image = lab.assets().small_squashfs()?;
        let image = image.to_string_lossy();
        let digest = |program: &str| -> Result<String> {
            let line = run(&[program, &image])?;
            Ok(line.split(' ').next().unwrap_or_default().to_owned())
        };
        let all = [
            format!("sha256:{}", digest("sha256sum")?),
            format!("sha512:{}", digest("sha512sum")?),
            format!("blake3:{}", digest("b3sum")?),
        ];
        for digest in &all {
            let machine =
                boot(client(lab, &format!("boot=live bw.digest={digest}"))?.disk(DISK, &iso))?;
            assert_said(&machine, "filesystem.squashfs has the digest that the line asks for");
        }
        let wrong = format!("boot=live bw.digest=sha256:{}", "0".repeat(64));
        let said = refused(client(lab, &wrong)?.disk(DISK, &iso))?;
        let right = all[0].trim_start_matches("sha256:");
        assert_contains(&said, &format!("its sha256 is {right}"));
        Ok(())
    });
}

/// The medium's own list of checksums, and the MD5 inside the ISO: a check that
/// passes boots on.
#[test]
fn checksums_of_the_medium() {
    scenario("storage-checksums", |lab| {
        let image = lab.assets().small_squashfs()?;
        let sum = run(&["md5sum", &image.to_string_lossy()])?;
        let list =
            format!("{}  ./live/filesystem.squashfs\n", sum.split(' ').next().unwrap_or_default());
        let medium = lab.tree("medium")?.with("live/filesystem.squashfs", &image)?;
        let iso = medium.text("md5sum.txt", &list)?.iso("LIVE")?;
        let line = "boot=live verify-checksums";
        let machine = boot(client(lab, line)?.disk(DISK, &iso))?;
        assert_said(&machine, "all files match /md5sum.txt");
        drop(machine);

        let size = std::fs::metadata(&iso).map_or(0, |meta| meta.len());
        damage(&iso, size / 2)?;
        let said = refused(client(lab, line)?.disk(DISK, &iso))?;
        assert_contains(&said, "live/filesystem.squashfs: is not what it was");
        Ok(())
    });
}

#[test]
fn the_md5_inside_an_iso() {
    scenario("storage-implanted-md5", |lab| {
        let image = lab.assets().small_squashfs()?;
        let iso = lab.tree("medium")?.with("LiveOS/squashfs.img", &image)?.iso("DRA")?;
        run(&["implantisomd5", &iso.to_string_lossy()])?;
        let line = "root=live:CDLABEL=DRA rd.live.image rd.live.check";
        let machine = boot(client(lab, line)?.disk(DISK, &iso))?;
        assert_said(&machine, "the medium is whole");
        drop(machine);

        let size = std::fs::metadata(&iso).map_or(0, |meta| meta.len());
        damage(&iso, size / 2)?;
        let said = refused(client(lab, line)?.disk(DISK, &iso))?;
        assert_contains(&said, "does not match it");
        Ok(())
    });
}
