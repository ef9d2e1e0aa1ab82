//! Changes to a medium, in a copy-on-write file.
//!
//! The file holds the blocks that a client wrote and a map of them; every other block is
//! read from the medium. `docs/share-disks.md` specifies it byte by byte.

use crate::tree::ReadAt;
use nix::fcntl::Flock;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are copied and marked as changed together.
const BLOCK: u64 = 4096;
/// The start of the file, before the character for the version.
const MAGIC: &[u8; 15] = b"bellwether cow ";
/// The version that is written and read.
const VERSION: u8 = b'1';
/// Bytes of the header.
const HEADER: usize = 32;
/// Where the map of changed blocks begins.
const MAP_AT: u64 = 4096;

/// Where things are in the file of a medium with this size.
struct Layout {
    /// Bytes of the map: a bit for each block.
    map: usize,
    /// Where the first block's data is.
    data_at: u64,
    /// Bytes of the whole file.
    end: u64,
}

impl Layout {
    fn of(size: u64) -> io::Result<Self> {
        let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
        let map = size.div_ceil(BLOCK).div_ceil(8);
        let data_at = (MAP_AT + map).next_multiple_of(BLOCK);
        Ok(Self {
            map: usize::try_from(map).map_err(|_| too_large())?,
            data_at,
            end: data_at.checked_add(size).ok_or_else(too_large)?,
        })
    }
}

fn header(identity: u64, size: u64) -> Vec<u8> {
    [&MAGIC[..], &[VERSION], &identity.to_be_bytes(), &size.to_be_bytes()].concat()
}

/// Compares a header read from a file with the one that the medium needs.
fn check(found: &[u8], wanted: &[u8]) -> io::Result<()> {
    let bad = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    match found.strip_prefix(MAGIC).and_then(<[u8]>::first) {
        None => {
            bad("the file of changes is damaged: it has no header; reset the client's disk"
                .to_owned())
        }
        Some(version) if *version != VERSION => bad(format!(
            "its changes are in version {} of the format, and this program reads version {}: use \
             the program that wrote them, or reset it",
            version.escape_ascii(),
            VERSION.escape_ascii()
        )),
        Some(_) if found != wanted => bad(
            "the file of changes belongs to another version of the medium; reset the client's disk"
                .to_owned(),
        ),
        Some(_) => Ok(()),
    }
}

/// A medium and the changes that one client made to it.
pub struct Cow {
    medium: Arc<dyn ReadAt>,
    size: u64,
    file: Flock<File>,
    /// The file's map: a bit for each block that is in the file.
    map: Mutex<Vec<u8>>,
    data_at: u64,
}

impl std::fmt::Debug for Cow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cow").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Cow {
    /// Opens a file of changes, or begins one in an empty file.
    ///
    /// # Errors
    /// The file's I/O error; [`io::ErrorKind::InvalidData`] when the file has no header,
    /// is in another version of the format, or belongs to another medium.
    pub fn open(
        file: Flock<File>,
        medium: Arc<dyn ReadAt>,
        size: u64,
        identity: u64,
    ) -> io::Result<Self> {
        let layout = Layout::of(size)?;
        let mut map = vec![0; layout.map];
        let wanted = header(identity, size);
        if file.metadata()?.len() == 0 {
            FileExt::write_all_at(&*file, &wanted, 0)?;
            file.set_len(layout.end)?;
        } else {
            let mut found = [0; HEADER];
            FileExt::read_exact_at(&*file, &mut found, 0)?;
            check(&found, &wanted)?;
            FileExt::read_exact_at(&*file, &mut map, MAP_AT)?;
        }
        Ok(Self { medium, size, file, map: Mutex::new(map), data_at: layout.data_at })
    }

    /// The medium's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Calls back for each part of a range that lies in one block: block, offset on the disk,
    /// range in the buffer.
    fn pieces(
        offset: u64,
        length: usize,
        mut each: impl FnMut(u64, u64, Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0usize;
        while done < length {
            let at = offset.saturating_add(done as u64);
            let left = usize::try_from(BLOCK - at % BLOCK).unwrap_or(1).min(length - done);
            each(at / BLOCK, at, done..done + left)?;
            done += left;
        }
        Ok(())
    }

    fn is_changed(map: &[u8], block: u64) -> bool {
        let byte = usize::try_from(block / 8).ok().and_then(|at| map.get(at));
        byte.is_some_and(|byte| byte & (1 << (block % 8)) != 0)
    }

    /// Reads a range, which must be inside the disk.
    ///
    /// # Errors
    /// The medium's or the file's I/O error.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        Self::pieces(offset, buffer.len(), |block, at, place| {
            let part = buffer.get_mut(place).unwrap_or_default();
            match Self::is_changed(&map, block) {
                true => FileExt::read_exact_at(&*self.file, part, self.data_at + at),
                false => self.medium.read_exact_at(part, at),
            }
        })
    }

    /// Whether every block of a range is in the file, so that writing it takes no more room.
    pub fn has_changed(&self, offset: u64, length: usize) -> bool {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let found =
            Self::pieces(offset, length, |block, _, _| match Self::is_changed(&map, block) {
                true => Ok(()),
                false => Err(io::ErrorKind::NotFound.into()),
            });
        found.is_ok()
    }

    /// Writes a range, which must be inside the disk.
    ///
    /// # Errors
    /// The medium's or the file's I/O error; [`io::ErrorKind::InvalidInput`] outside of
    /// the disk.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        Self::pieces(offset, data.len(), |block, at, place| {
            let part = data.get(place).unwrap_or_default();
            if Self::is_changed(&map, block) {
                return FileExt::write_all_at(&*self.file, part, self.data_at + at);
            }
            // The rest of the block comes from the medium.
            let begin = block * BLOCK;
            let length = BLOCK.min(self.size - begin);
            let mut whole = vec![0; usize::try_from(length).unwrap_or(0)];
            if part.len() < whole.len() {
                self.medium.read_exact_at(&mut whole, begin)?;
            }
            let from = usize::try_from(at - begin).unwrap_or(0);
            let to = whole.get_mut(from..from + part.len());
            to.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(part);
            FileExt::write_all_at(&*self.file, &whole, self.data_at + begin)?;
            let byte = usize::try_from(block / 8).ok().and_then(|at| map.get_mut(at));
            let byte = byte.ok_or(io::ErrorKind::InvalidInput)?;
            *byte |= 1 << (block % 8);
            // Data before the mark: a marked block must never hold a hole.
            FileExt::write_all_at(&*self.file, &[*byte], MAP_AT + block / 8)
        })
    }

    /// Returns when all writes are on this machine's disk.
    ///
    /// # Errors
    /// The file's I/O error.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::FlockArg;

    const IDENTITY: u64 = 0x0123_4567_89ab_cdef;

    fn open(path: &std::path::Path, medium: &[u8], identity: u64) -> io::Result<Cow> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e)?;
        Cow::open(file, Arc::new(medium.to_vec()), medium.len() as u64, identity)
    }

    /// The rows of the table "Bytes of a .cow file" in docs/share-disks.md, by field.
    fn page() -> std::collections::BTreeMap<String, String> {
        let page = include_str!("../../../docs/share-disks.md");
        let table = page.split("Bytes of a `.cow` file").nth(1).unwrap();
        let rows = table.lines().skip_while(|line| !line.starts_with('|'));
        let rows = rows.take_while(|line| line.starts_with('|')).skip(2);
        rows.map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            (cells[3].to_owned(), cells[1].to_owned())
        })
        .collect()
    }

    /// Old files must stay readable: the bytes are where the page says, not only where
    /// this version of the code puts them.
    #[test]
    fn the_file_is_as_its_page_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.cow");
        // 17 blocks, the last of 100 bytes.
        let medium: Vec<u8> = (0..16 * 4096 + 100u32).map(|n| (n / 5) as u8).collect();
        let cow = open(&path, &medium, IDENTITY).unwrap();
        cow.write(4096 + 10, b"one").unwrap();
        cow.write(16 * 4096 + 97, b"end").unwrap();
        drop(cow);
        let bytes = std::fs::read(&path).unwrap();
        let page = page();
        let at = |field: &str| page[field].parse::<usize>().unwrap();
        assert_eq!(&bytes[at("magic")..][..15], b"bellwether cow ");
        assert_eq!(bytes[at("version")], b'1');
        assert_eq!(bytes[at("identity")..][..8], [1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        assert_eq!(bytes[at("size")..][..8], [0, 0, 0, 0, 0, 1, 0, 100]);
        assert!(bytes[at("reserved")..at("map")].iter().all(|byte| *byte == 0));
        // Blocks 1 and 16, the lowest bit first.
        assert_eq!(bytes[at("map")..][..3], [0b10, 0, 0b1]);
        assert_eq!(page["data"], "D");
        // The map's 3 bytes, up to a whole block.
        let data = 8192;
        assert!(bytes[at("map") + 3..data].iter().all(|byte| *byte == 0));
        let mut wanted = vec![0; medium.len()];
        wanted[4096..8192].copy_from_slice(&medium[4096..8192]);
        wanted[4096 + 10..][..3].copy_from_slice(b"one");
        wanted[16 * 4096..].copy_from_slice(&medium[16 * 4096..]);
        wanted[16 * 4096 + 97..].copy_from_slice(b"end");
        assert!(bytes[data..] == wanted, "the data");
        // And the other way: these bytes, read.
        let mut all = vec![0; medium.len()];
        open(&path, &medium, IDENTITY).unwrap().read(0, &mut all).unwrap();
        let mut expected = medium.clone();
        expected[4096 + 10..][..3].copy_from_slice(b"one");
        expected[16 * 4096 + 97..].copy_from_slice(b"end");
        assert!(all == expected, "the disk");
    }

    #[test]
    fn other_versions_media_and_damage_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.cow");
        let medium = [7; 5000];
        drop(open(&path, &medium, IDENTITY).unwrap());
        let refused = |medium: &[u8], identity| {
            let error = open(&path, medium, identity).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            error.to_string()
        };
        assert!(refused(&medium, 5).contains("another version of the medium"));
        assert!(refused(&medium[..4999], IDENTITY).contains("another version of the medium"));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[15] = b'2';
        std::fs::write(&path, &bytes).unwrap();
        let newer = refused(&medium, IDENTITY);
        assert!(
            newer.contains("version 2 of the format") && newer.contains("version 1"),
            "{newer}"
        );
        bytes[0] = 0;
        std::fs::write(&path, &bytes).unwrap();
        assert!(refused(&medium, IDENTITY).contains("no header"));
    }
}
