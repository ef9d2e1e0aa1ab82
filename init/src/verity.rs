//! dm-verity: images whose every block is checked as it is read.
//!
//! The hash tree is beside the image (`IMAGE.verity`) or behind its end in the
//! same file; the root hash is on the line, or beside the image
//! (`IMAGE.roothash`), where it finds damage but no forgery, and is not used for an image
//! that the line pins by a digest. A block that was
//! damaged is mended where there are parity data beside the image (`IMAGE.fec`, as
//! `veritysetup --fec-device` makes them, with `IMAGE.fec.roots` when the number of
//! roots is not 2). Signatures of root hashes are not looked at.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::plan::{Integrity, OnCorruption};
use overlay::dm;
use overlay::verity::{self, Header};
use rustix::fs::Access;
use rustix::io::pread;

use crate::block::{self, Block};
use crate::machine::Machine;
use crate::pinning::same_image;
use crate::trace::{Failure, Fault};
use sys::file::{access, open_read};

/// A root hash is at most that of SHA-512, in hexadecimal.
const MAX_HASH: usize = 256;

/// Roots of the parity code when nothing is said (`veritysetup --fec-roots`).
const ROOTS: u32 = 2;

/// Where a tree may begin in the image's own file: behind the file system, at
/// the next of these boundaries.
const ALIGNMENTS: &[u64] = &[4096, 512, 1 << 20];

/// What is wanted for one image.
struct Wanted {
    root_hash: String,
    on_corruption: OnCorruption,
    from_line: bool,
}

/// The verified device for an image; `None` when neither line nor medium has a root hash.
///
/// # Errors
/// When the line asks for it and it cannot be made.
pub fn device(
    machine: &mut Machine,
    plan: &[Integrity],
    image: &str,
    name: &str,
    number: usize,
) -> Result<Option<String>, Failure> {
    const STEP: &str = "check the image by dm-verity";
    let Some(wanted) = wanted(plan, image, name) else { return Ok(None) };
    let fail = |what: &str, why: Fault| Failure::new(STEP, what, why);
    let made = (|| {
        if number >= block::MAX_VERIFIED {
            return Err(fail(name, format!("more than {} images", block::MAX_VERIFIED).into()));
        }
        let (tree, at, header) = find_tree(image).map_err(|why| fail(image, why))?;
        let control = block::require_dm(machine, STEP, "verity")?;
        machine.require(&format!("crypto-{}", header.algorithm));
        let data = Block::open(machine, image, true).map_err(|why| fail(image, why))?;
        let separate = match &tree {
            Some(tree) => Some(Block::open(machine, tree, true).map_err(|why| fail(tree, why))?),
            None => None,
        };
        let hashes = separate.as_ref().unwrap_or(&data);
        let option = match wanted.on_corruption {
            OnCorruption::Error => None,
            OnCorruption::Ignore => Some("ignore_corruption"),
            OnCorruption::Restart => Some("restart_on_corruption"),
            OnCorruption::Panic => Some("panic_on_corruption"),
        };
        let hash_block = u64::from(header.hash_block);
        // The first block behind the header.
        let hash_start = (at + verity::LENGTH as u64).div_ceil(hash_block);
        let parity = match parity(machine, image) {
            Some(parity) if separate.is_some() => {
                let hashes = hashes.length().map_err(|why| fail(image, why))?;
                let covered = (hashes / hash_block).saturating_sub(hash_start);
                Some((parity, header.blocks.saturating_add(covered)))
            }
            _ => None,
        };
        let mend = parity.as_ref().map(|((block, roots), blocks)| {
            let device = &block.path;
            format!(
                "use_fec_from_device {device} fec_roots {roots} fec_blocks {blocks} fec_start 0"
            )
        });
        let mend = mend.as_deref().unwrap_or_default().split_whitespace();
        let options: Vec<&str> = option.into_iter().chain(mend).collect();
        let table = dm::verity(&dm::Verity {
            data: &data.path,
            hashes: &hashes.path,
            version: header.version,
            data_block: header.data_block,
            hash_block: header.hash_block,
            blocks: header.blocks,
            hash_start,
            algorithm: &header.algorithm,
            root_hash: &wanted.root_hash,
            salt: &header.salt,
            options: &options,
        });
        let made = format!("{}{number}", block::VERIFIED);
        let device =
            block::make_dm(&control, &made, &table, true).map_err(|why| fail(image, why))?;
        // The root hash is first looked at when the first block is read.
        if first_block(&device).is_err() {
            // The error below is the one to tell.
            let _ = control.remove(&made, true);
            return Err(fail(image, "does not match its root hash".into()).remedy(
                "the image or its hash tree is damaged, changed, or another one than the root hash is of",
            ));
        }
        Ok(device)
    })();
    match made {
        Ok(device) => {
            let whose = if wanted.from_line { "the line" } else { "the medium" };
            machine.log.info(&format!("{name} is verified by the root hash of {whose}"));
            Ok(Some(device))
        }
        Err(failed) if wanted.from_line => Err(failed),
        Err(failed) => {
            let why = failed.tried.first().map(|tried| format!("{}: {}", tried.what, tried.why));
            machine.log.warn(&format!(
                "{name} has a root hash beside it and is used unverified: {}",
                why.unwrap_or_default()
            ));
            Ok(None)
        }
    }
}

fn wanted(plan: &[Integrity], image: &str, name: &str) -> Option<Wanted> {
    let on_line = plan.iter().find_map(|integrity| match integrity {
        Integrity::Verity { image, root_hash, on_corruption }
            if image.is_empty() || same_image(image, name) =>
        {
            Some(Wanted {
                root_hash: root_hash.clone(),
                on_corruption: *on_corruption,
                from_line: true,
            })
        }
        _ => None,
    });
    // What lies beside a pinned image is not pinned: with a root hash and parity data of
    // their own, `mending` could turn the image into another.
    let by_digest = plan.iter().any(|pin| matches!(pin, Integrity::Digest { .. }));
    if on_line.is_some() || by_digest || image.starts_with("/dev/") {
        return on_line;
    }
    let text = sys::file::read_file(&format!("{image}.roothash"), MAX_HASH).ok()?;
    let root_hash = core::str::from_utf8(&text).ok()?.trim().to_ascii_lowercase();
    let sound = root_hash.len() >= 32
        && root_hash.len() % 2 == 0
        && root_hash.bytes().all(|c| c.is_ascii_hexdigit());
    sound.then_some(Wanted { root_hash, on_corruption: OnCorruption::Error, from_line: false })
}

/// The tree's file when it is one of its own, where its header begins, and the header.
fn find_tree(image: &str) -> Result<(Option<String>, u64, Header), Fault> {
    let beside = format!("{image}.verity");
    if access(&beside, Access::READ_OK) {
        let header = header_at(&beside, 0).map_err(|why| format!("{beside} {why}"))?;
        return Ok((Some(beside), 0, header));
    }
    let size = block::inspect(image)?.size.unwrap_or(0);
    for alignment in ALIGNMENTS {
        let at = size.next_multiple_of(*alignment);
        if let Ok(header) = header_at(image, at) {
            return Ok((None, at, header));
        }
    }
    let name = beside.rsplit('/').next().unwrap_or_default();
    Err(format!("has no hash tree: neither {name} beside it nor one behind its end").into())
}

/// The parity data beside an image and their number of roots.
fn parity(machine: &mut Machine, image: &str) -> Option<(Block, u32)> {
    let path = format!("{image}.fec");
    access(&path, Access::READ_OK).then_some(())?;
    let roots = sys::file::read_file(&format!("{path}.roots"), 16).ok();
    let roots = roots.and_then(|text| core::str::from_utf8(&text).ok()?.trim().parse().ok());
    match Block::open(machine, &path, true) {
        Ok(block) => Some((block, roots.unwrap_or(ROOTS))),
        Err(why) => {
            machine.log.warn(&format!("{path}: {why}; damage is found and not mended"));
            None
        }
    }
}

fn first_block(device: &str) -> Result<(), rustix::io::Errno> {
    let device = open_read(device)?;
    pread(&device, &mut [0; 512], 0).map(drop)
}

fn header_at(path: &str, at: u64) -> Result<Header, Fault> {
    let file = open_read(path).map_err(Fault::in_("cannot be read"))?;
    let mut bytes = [0; verity::LENGTH];
    let length = pread(&file, &mut bytes, at).map_err(Fault::in_("cannot be read"))?;
    verity::parse(bytes.get(..length).unwrap_or_default()).map_err(|error| error.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_beside_the_image_counts_when_it_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.squashfs");
        let image = image.to_str().unwrap();
        assert!(wanted(&[], image, "a.squashfs").is_none());
        std::fs::write(format!("{image}.roothash"), "not a hash\n").unwrap();
        assert!(wanted(&[], image, "a.squashfs").is_none());
        std::fs::write(format!("{image}.roothash"), "AB".repeat(32) + "\n").unwrap();
        assert_eq!(wanted(&[], image, "a.squashfs").unwrap().root_hash, "ab".repeat(32));
        let (algorithm, hex) = ("sha256".to_string(), "cd".repeat(32));
        let pinned = [Integrity::Digest { algorithm, hex }];
        assert!(wanted(&pinned, image, "a.squashfs").is_none(), "it is not pinned itself");
    }
}
