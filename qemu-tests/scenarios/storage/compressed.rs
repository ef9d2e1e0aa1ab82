//! Images that are expanded into memory, because no kernel mounts them.

use std::path::{Path, PathBuf};

use qemu_tests::assets::media::{Fs, run};
use qemu_tests::{Result, scenario};

use super::{DISK, assert_contains, assert_said, boot, client, live_iso, mounted, refused, sha256};

/// Compresses a file; the result is beside `to` with the usual suffix.
fn compress(file: &Path, to: &Path, program: &str, suffix: &str) -> Result<PathBuf> {
    let to = to.with_extension(suffix);
    let (file, target) = (file.to_string_lossy().into_owned(), to.to_string_lossy().into_owned());
    run(&["sh", "-c", &format!("{program} <'{file}' >'{target}'")])?;
    Ok(to)
}

#[test]
fn gzip_xz_and_zstd() {
    scenario("storage-compressed", |lab| {
        let root = lab.assets().small_ext4()?;
        let place = lab.scratch("packed")?.join("root.img");
        for (program, suffix) in [("gzip -1", "gz"), ("xz -0", "xz"), ("zstd -q -1", "zst")] {
            let packed = compress(&root, &place, program, suffix)?;
            let file = format!("root.img.{suffix}");
            let iso = lab.tree(suffix)?.with(&file, &packed)?.iso("PACKED")?;
            let line = format!(
                "bw.root=LABEL=PACKED bw.image=/{file} bw.snapshot=ram:16M bw.digest={}",
                sha256(&packed)?
            );
            let mut machine = boot(client(lab, &line)?.disk(DISK, &iso))?;
            assert_said(&machine, &format!("{file} has the digest that the line asks for"));
            assert!(mounted(&mut machine, "/")?.starts_with("/dev/dm-0 / ext4 rw"));
        }
        Ok(())
    });
}

/// Cut short, and too large: said, with what to do.
#[test]
fn what_cannot_be_expanded() {
    scenario("storage-compressed-bad", |lab| {
        let noise: Vec<u8> =
            (0..1_u32 << 20).flat_map(|n| n.wrapping_mul(n | 1).to_le_bytes()).collect();
        let place = lab.scratch("packed")?;
        let root = lab.tree("root")?.with_all(&lab.assets().small_root()?)?;
        let large = root.path().join("noise");
        std::fs::write(&large, noise).map_err(qemu_tests::Error::at("write", &large))?;
        let image = root.ballast("zeroes", 200)?.image(Fs::Ext4, "", 300)?;
        let packed = compress(&image, &place.join("root"), "zstd -q -1", "zst")?;
        let whole = std::fs::read(&packed).map_err(qemu_tests::Error::at("read", &packed))?;
        let cut = place.join("cut");
        std::fs::write(&cut, &whole[..whole.len() / 2])
            .map_err(qemu_tests::Error::at("write", &cut))?;
        let iso = lab.tree("cut")?.with("root.img.zst", &cut)?.iso("PACKED")?;
        let line = "bw.root=LABEL=PACKED bw.image=/root.img.zst bw.snapshot=ram:16M";
        let said = refused(client(lab, line)?.disk(DISK, &iso))?;
        assert_contains(&said, "is cut short; copy it again");
        Ok(())
    });
}

/// A whole ISO, compressed, on another medium.
#[test]
fn an_iso_inside() {
    scenario("storage-compressed-iso", |lab| {
        let iso = live_iso(lab)?;
        let packed = compress(&iso, &iso.with_extension("iso"), "zstd -q -1", "iso.zst")?;
        let outer = lab.tree("outer")?.with("live.iso.zst", &packed)?.iso("OUTER")?;
        let mut machine = boot(client(lab, "boot=live findiso=/live.iso.zst")?.disk(DISK, &outer))?;
        assert!(mounted(&mut machine, "/run/live/medium")?.contains(" iso9660 ro"));
        Ok(())
    });
}

/// Knoppix: cloop, with an ISO of the live system inside.
#[test]
fn knoppix_s_cloop() {
    scenario("storage-cloop", |lab| {
        let root = lab.tree("root")?.with_all(&lab.assets().small_root()?)?.iso("KNOPPIX")?;
        let plain = std::fs::read(&root).map_err(qemu_tests::Error::at("read", &root))?;
        let cloop = root.with_extension("cloop");
        let packed = qemu_tests::assets::media::cloop(&plain)?;
        std::fs::write(&cloop, packed).map_err(qemu_tests::Error::at("write", &cloop))?;
        let iso = lab.tree("medium")?.with("KNOPPIX/KNOPPIX", &cloop)?.iso("KNOPPIX")?;
        let line = "knoppix_dir=KNOPPIX knoppix_name=KNOPPIX";
        let mut machine = boot(client(lab, line)?.disk(DISK, &iso))?;
        assert!(mounted(&mut machine, "/")?.starts_with("overlay / overlay rw"));
        machine.run("test -s /etc/issue && echo new >/new")?;
        Ok(())
    });
}
