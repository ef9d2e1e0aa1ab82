//! Compressed images and cloop, expanded into memory: the kernel mounts neither.

use alloc::format;
use alloc::string::{String, ToString};

use overlay::expand::{ExpandError, expand, is_compressed};
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use rustix::io::{Errno, pwrite, read};
use rustix::mount::MountFlags;
use sys::file::{exists, open, open_read};
use sys::mount::{detach, tmpfs};

use crate::block;
use crate::copy::Progress;
use crate::machine::Machine;
use crate::memory::{self, Size};
use crate::trace::Fault;

/// Where expanded images are kept, each on a tmpfs of its own.
const PLACE: &str = "/run/bellwether/expanded";

/// Bytes of a page of memory.
const PAGE: usize = 4096;

/// Images inside images.
const MAX_DEPTH: usize = 4;

/// Expands a device or file as often as it is compressed; `None` when it is not.
///
/// # Errors
/// It cannot be read, is damaged, does not fit into memory, or holds nothing that a
/// root could be made of.
pub fn expanded(machine: &mut Machine, path: &str) -> Result<Option<String>, Fault> {
    let mut result: Option<String> = None;
    for _ in 0..MAX_DEPTH {
        let from = result.as_deref().unwrap_or(path);
        let found = match (block::inspect(from), &result) {
            (Ok(found), _) => found,
            // Unknown formats pass; the caller reports them.
            (Err(_), None) => return Ok(None),
            // It would be the same the next time: the memory is better free.
            (Err(why), Some(expanded)) => {
                let length = Size(block::length(expanded).unwrap_or(0));
                release(expanded);
                return Err(format!(
                    "is no image and no archive once it is expanded ({length}): {why}; is it empty?"
                )
                .into());
            }
        };
        if !is_compressed(found.format) {
            return Ok(result);
        }
        let to = one(machine, from, found.format)?;
        if let Some(between) = result.replace(to) {
            release(&between);
        }
    }
    Err(format!("is compressed more than {MAX_DEPTH} times over").into())
}

/// A copy that stays only costs memory.
fn release(expanded: &str) {
    // What cannot be unmounted costs that memory, no more.
    let _ = detach(expanded.rsplit_once('/').map_or(PLACE, |(place, _)| place));
}

fn one(machine: &mut Machine, from: &str, format: overlay::probe::Format) -> Result<String, Fault> {
    let name = from.rsplit('/').next().unwrap_or("image");
    let source = open_read(from).map_err(Fault::in_("cannot be read"))?;
    let packed = block::length(from).unwrap_or(0);
    let must = format_args!("is {format} and must be expanded into memory");
    let room = memory::room_for(packed, must)?;
    let mut number = 0;
    let place = loop {
        let place = format!("{PLACE}/{number}");
        if !exists(&place) {
            break place;
        }
        number += 1;
    };
    tmpfs(&place, MountFlags::NOATIME, &format!("mode=0755,size={room}"))
        .map_err(Fault::on(&place))?;
    let target = format!("{place}/{}", without_suffix(name));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = open(&target, flags, 0o444).map_err(Fault::on(&place))?;
    machine.log.info(&format!("expanding {name} ({format}, {}) into memory", Size(packed)));
    let mut progress = Progress::new(&format!("expanding {name}"), packed);
    let log = &mut machine.log;
    let mut written = 0;
    let result = expand(
        format,
        &mut |room| loop {
            match read(&source, &mut *room) {
                Ok(length) => {
                    progress.add(log, length as u64);
                    return Ok(length);
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        },
        &mut |bytes| {
            put(&file, bytes, written)?;
            written += bytes.len() as u64;
            Ok(())
        },
    );
    // What was left out at the end counts, too.
    let result = result.and_then(|length| {
        rustix::fs::ftruncate(&file, length).map_err(ExpandError::Write)?;
        Ok(length)
    });
    drop(file);
    match result {
        Ok(length) => {
            machine.log.info(&format!("expanded {name} to {}", Size(length)));
            Ok(target)
        }
        Err(error) => {
            // The error above is the one to tell.
            let _ = detach(&place);
            Err(error.to_string().into())
        }
    }
}

/// Writes what comes next, but for pages of zeroes: a hole takes no memory, and
/// file systems in images are full of them.
fn put(file: &OwnedFd, bytes: &[u8], at: u64) -> Result<(), Errno> {
    let (mut rest, mut at) = (bytes, at);
    while !rest.is_empty() {
        let to_page = PAGE - usize::try_from(at % PAGE as u64).unwrap_or(0);
        let (piece, later) = rest.split_at_checked(to_page).unwrap_or((rest, &[]));
        let mut left = if piece.iter().all(|byte| *byte == 0) { &[] } else { piece };
        let mut place = at;
        while !left.is_empty() {
            match pwrite(file, left, place) {
                Ok(0) => return Err(Errno::IO),
                Ok(length) => {
                    left = left.get(length..).unwrap_or_default();
                    place += length as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        at += piece.len() as u64;
        rest = later;
    }
    Ok(())
}

/// A name for what comes out.
fn without_suffix(name: &str) -> &str {
    let stem = [".gz", ".xz", ".zst", ".clp", ".cloop"].iter().find_map(|s| name.strip_suffix(s));
    stem.filter(|stem| !stem.is_empty()).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_holes_and_nothing_else_is() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let mut data = vec![0; 1 << 20];
        data[70_000..70_100].fill(7);
        data[500_000] = 1;
        let file = OwnedFd::from(std::fs::File::create(&path).unwrap());
        let mut at = 0;
        for piece in data.chunks(1000) {
            put(&file, piece, at).unwrap();
            at += piece.len() as u64;
        }
        rustix::fs::ftruncate(&file, at).unwrap();
        assert!(std::fs::read(&path).unwrap() == data);
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 < 100_000);
    }

    #[test]
    fn what_comes_out_loses_the_suffix() {
        assert_eq!(without_suffix("disk.img.xz"), "disk.img");
        assert_eq!(without_suffix("rescue.clp"), "rescue");
        assert_eq!(without_suffix(".gz"), ".gz");
        assert_eq!(without_suffix("KNOPPIX"), "KNOPPIX");
    }
}
