//! Holding images and media against the digests of the line and of the medium.
//!
//! A check that passes says so and the boot goes on; one that fails stops it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use sys::errno::Shown;
use sys::file::{open_read, stat};

use cmdline::plan::Integrity;
use liveroot::{Found, Root};
use overlay::digest::{self, Algorithm, Hasher};
use rustix::io::{Errno, read};

use crate::block;
use crate::copy::Progress;
use crate::machine::Machine;
use crate::pinning::CHECK_DIGEST;
use crate::trace::{Failure, Tried};

/// Bytes read at a time.
const BUFFER: usize = 1 << 20;

/// Longest list of checksums read.
const MAX_LIST: usize = 16 << 20;

/// Bad files that are named one by one.
const MAX_BAD: usize = 20;

/// Checks the medium as a whole, before anything is copied off it.
///
/// # Errors
/// What did not match.
pub fn check_medium(
    machine: &mut Machine,
    plan: &[Integrity],
    found: &Found,
) -> Result<(), Failure> {
    for integrity in plan {
        match integrity {
            Integrity::MediumSums(lists) => check_sums(machine, lists, found)?,
            Integrity::EmbeddedMd5 => check_embedded(machine, found)?,
            Integrity::Digest { .. } | Integrity::Verity { .. } => {}
        }
    }
    Ok(())
}

/// Checks the images that the root will be made of, where they are now: in memory, see
/// [`crate::pinning::decide`].
///
/// Every image must have one of the digests, so that none slips in unchecked.
///
/// # Errors
/// The image that has none of them.
pub fn check_images(
    machine: &mut Machine,
    plan: &[Integrity],
    found: &Found,
) -> Result<(), Failure> {
    const STEP: &str = CHECK_DIGEST;
    let wanted: Vec<(Algorithm, &str)> = plan
        .iter()
        .filter_map(|integrity| match integrity {
            Integrity::Digest { algorithm, hex } => {
                Some((Algorithm::from_name(algorithm)?, hex.as_str()))
            }
            _ => None,
        })
        .collect();
    let asked = plan.iter().any(|integrity| matches!(integrity, Integrity::Digest { .. }));
    let Some((first, _)) = wanted.first().copied() else {
        if asked {
            return Err(Failure::new(STEP, "the line", "names an algorithm that is not known"));
        }
        return Ok(());
    };
    let images: Vec<&str> = match &found.root {
        Root::Tree(_) => Vec::new(),
        Root::Blob(path) => Vec::from([path.as_str()]),
        Root::Layers(layers) => layers.iter().map(|layer| layer.path.as_str()).collect(),
    };
    for image in images {
        // The algorithms on one line are nearly always one.
        let mut algorithms: Vec<Algorithm> = Vec::from([first]);
        for (algorithm, _) in &wanted {
            if !algorithms.contains(algorithm) {
                algorithms.push(*algorithm);
            }
        }
        let mut seen = Vec::new();
        for algorithm in algorithms {
            let name = image.rsplit('/').next().unwrap_or(image);
            machine.log.info(&format!("checking {name} ({algorithm})"));
            let hex = hash_file(machine, image, algorithm, None)
                .map_err(|errno| Failure::new(STEP, image, Shown(errno)))?;
            if wanted.iter().any(|(other, digest)| *other == algorithm && *digest == hex) {
                machine.log.info(&format!("{name} has the digest that the line asks for"));
                seen.clear();
                break;
            }
            seen.push(format!("its {algorithm} is {hex}"));
        }
        if !seen.is_empty() {
            return Err(Failure::new(STEP, image, seen.join(", ")).remedy(
                "the image is damaged, changed, or another one than the line was written for",
            ));
        }
    }
    Ok(())
}

fn check_sums(machine: &mut Machine, lists: &[String], found: &Found) -> Result<(), Failure> {
    const STEP: &str = "check the medium against its checksums";
    let Some(medium) = &found.medium else {
        return Err(Failure::new(STEP, &found.origin, "there is no medium to check"));
    };
    let list = lists.iter().find_map(|list| {
        let path = format!("{medium}/{}", list.trim_start_matches('/'));
        Some((sys::file::read_file(&path, MAX_LIST).ok()?, path))
    });
    let Some((text, list)) = list else {
        return Err(Failure::new(STEP, &found.origin, format!("has none of {}", lists.join(", "))));
    };
    let place = list.rsplit_once('/').map_or(medium.as_str(), |(place, _)| place).to_string();
    let name = list.strip_prefix(medium.as_str()).unwrap_or(&list).to_string();
    let sums = digest::parse_sums(&String::from_utf8_lossy(&text));
    if sums.is_empty() {
        return Err(Failure::new(STEP, &name, "holds no checksum"));
    }
    let path_of = |path: &str| format!("{place}/{path}");
    let size = |path: &str| {
        stat(&path_of(path)).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0))
    };
    let total = sums.iter().map(|sum| size(&sum.path)).sum();
    machine.log.info(&format!("checking {} files against {name}", sums.len()));
    let mut progress = Progress::new("checking the medium", total);
    let mut bad = Vec::new();
    for sum in &sums {
        let why = match hash_file(machine, &path_of(&sum.path), sum.algorithm, Some(&mut progress))
        {
            Ok(hex) if hex == sum.hex => continue,
            Ok(_) => "is not what it was".to_string(),
            Err(errno) => Shown(errno).to_string(),
        };
        if bad.len() < MAX_BAD {
            bad.push(Tried { what: sum.path.clone(), why });
        }
    }
    if bad.is_empty() {
        machine.log.info(&format!("all files match {name}: {}", progress.summary()));
        return Ok(());
    }
    Err(Failure {
        step: STEP.to_string(),
        tried: bad,
        remedy: "the medium is damaged: write it again".to_string(),
    })
}

fn check_embedded(machine: &mut Machine, found: &Found) -> Result<(), Failure> {
    const STEP: &str = "check the medium against its own MD5";
    let Some(blob) = &found.medium_blob else {
        return Err(Failure::new(STEP, &found.origin, "is no ISO image"));
    };
    let fail = |why: String| Failure::new(STEP, blob, why);
    let device = open_read(blob).map_err(|errno| fail(Shown(errno).to_string()))?;
    let mut descriptor = [0; 2048];
    let mut filled = 0;
    while let Some(room) = descriptor.get_mut(filled..).filter(|room| !room.is_empty()) {
        match rustix::io::pread(&device, room, 16 * 2048 + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(fail(Shown(errno).to_string())),
        }
    }
    let sectors = descriptor.get(80..).and_then(|rest| rest.first_chunk()).copied();
    let length = u64::from(sectors.map_or(0, u32::from_le_bytes)) * 2048;
    let note = descriptor.get(883..883 + digest::NOTE_LENGTH).unwrap_or_default();
    let Some(wanted) = digest::parse_embedded(note, length) else {
        return Err(fail("carries no MD5 of its own".to_string())
            .remedy("implantisomd5 puts one in; or leave the check out"));
    };
    machine.log.info("checking the medium against its own MD5");
    let mut hasher = Algorithm::Md5.start();
    let mut progress = Progress::new("checking the medium", wanted.length);
    let mut buffer = alloc::vec![0; BUFFER];
    let mut at: u64 = 0;
    while at < wanted.length {
        let most = usize::try_from(wanted.length - at).unwrap_or(BUFFER).min(BUFFER);
        let room = buffer.get_mut(..most).unwrap_or_default();
        let length = match rustix::io::pread(&device, &mut *room, at) {
            Ok(0) => return Err(fail(format!("ends after {at} bytes of {}", wanted.length))),
            Ok(length) => length,
            Err(Errno::INTR) => continue,
            Err(errno) => {
                return Err(fail(format!("cannot be read at byte {at}: {}", Shown(errno))));
            }
        };
        blank_note(room.get_mut(..length).unwrap_or_default(), at);
        hasher.update(room.get(..length).unwrap_or_default());
        at += length as u64;
        progress.add(&mut machine.log, length as u64);
        machine.keep_time();
    }
    if hasher.finish() != wanted.hex {
        return Err(
            fail("does not match it".to_string()).remedy("the medium is damaged: write it again")
        );
    }
    machine.log.info(&format!("the medium is whole: {}", progress.summary()));
    Ok(())
}

/// The note counts as blanks: it cannot hold a digest of itself.
fn blank_note(bytes: &mut [u8], at: u64) {
    for (place, byte) in (at..).zip(bytes) {
        if (digest::NOTE_AT..digest::NOTE_AT + digest::NOTE_LENGTH as u64).contains(&place) {
            *byte = b' ';
        }
    }
}

fn hash_file(
    machine: &mut Machine,
    path: &str,
    algorithm: Algorithm,
    progress: Option<&mut Progress>,
) -> Result<String, Errno> {
    let file = open_read(path)?;
    let mut own = None;
    let progress = match progress {
        Some(progress) => progress,
        None => own.insert(Progress::new("checking", block::length(path).unwrap_or(0))),
    };
    let mut hasher: Hasher = algorithm.start();
    let mut buffer = alloc::vec![0; BUFFER];
    loop {
        match read(&file, buffer.as_mut_slice()) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(length) => {
                hasher.update(buffer.get(..length).unwrap_or_default());
                progress.add(&mut machine.log, length as u64);
                machine.keep_time();
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_is_blanked_wherever_reads_are_cut() {
        let all: Vec<u8> = vec![7; 40_000];
        let mut whole = all.clone();
        blank_note(&mut whole, 0);
        let mut pieces = all;
        for (index, piece) in pieces.chunks_mut(1000).enumerate() {
            blank_note(piece, index as u64 * 1000);
        }
        assert_eq!(whole, pieces);
        assert_eq!(whole.iter().filter(|byte| **byte == b' ').count(), 512);
    }
}
