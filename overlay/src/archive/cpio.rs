//! cpio's "new ASCII" format. Its checksums are not verified.

use alloc::vec::Vec;

use super::entry::{ArchiveError, Dialect, Entry, Kind, Next, State, clean, target, text};
use super::newc::{HEADER, Header, TRAILER};

/// Most files with several names.
const MAX_LINKED: usize = 1 << 16;

const NAME: u8 = b'n';
const SYMLINK: u8 = b'l';

/// State of the current entry, and of earlier ones with several names.
#[derive(Debug, Default)]
pub struct Cpio {
    header: Header,
    path: Vec<u8>,
    /// Device and inode of files with several names, and the first of these.
    linked: Vec<([u32; 3], Vec<u8>)>,
}

impl Dialect for Cpio {
    fn header_length(&self) -> usize {
        HEADER
    }

    fn header(&mut self, bytes: &[u8]) -> Result<Next, ArchiveError> {
        let (magic, digits) = bytes.split_at_checked(6).unwrap_or_default();
        if !Header::is_magic(magic) {
            return Err(ArchiveError::Damaged("one of its headers has no magic number"));
        }
        let header = Header::parse(digits);
        self.header = header.ok_or(ArchiveError::Damaged("a number in it is malformed"))?;
        Ok(after(None, State::Facts(NAME), self.header.name_len as u64, HEADER as u64))
    }

    fn facts(&mut self, kind: u8, bytes: &[u8]) -> Result<Next, ArchiveError> {
        let Header { ino, mode, nlink, size, dev, rdev, .. } = self.header;
        let size = u64::from(size);
        if kind == SYMLINK {
            let length = usize::try_from(size).unwrap_or(usize::MAX);
            let to = target(bytes.get(..length).unwrap_or_default())?;
            let path = core::mem::take(&mut self.path);
            return Ok(after(Some(self.entry(path, Kind::Symlink(to), 0)), State::Skip, 0, 0));
        }
        let name = text(bytes);
        if name == TRAILER.as_bytes() {
            return Ok(Next::END);
        }
        let path = clean(name)?;
        let kind = match mode & 0o170_000 {
            0o040_000 => Kind::Directory,
            0o020_000 => Kind::Character(rdev.0, rdev.1),
            0o060_000 => Kind::Block(rdev.0, rdev.1),
            0o010_000 => Kind::Fifo,
            0o120_000 => {
                self.path = path;
                return Ok(after(None, State::Facts(SYMLINK), size, 0));
            }
            0o100_000 if nlink > 1 => self.link([dev.0, dev.1, ino], &path)?,
            0o100_000 => Kind::File,
            // Sockets: their programs create them.
            _ => return Ok(after(None, State::Skip, size, 0)),
        };
        let data = matches!(kind, Kind::File | Kind::Link(_));
        let size = if data { size } else { 0 };
        let state = if data { State::Data } else { State::Skip };
        Ok(after(Some(self.entry(path, kind, size)), state, size, 0))
    }
}

impl Cpio {
    /// A file with several names: a file at the first, a link to it at the others.
    fn link(&mut self, key: [u32; 3], path: &[u8]) -> Result<Kind, ArchiveError> {
        if let Some((_, first)) = self.linked.iter().rev().find(|(known, _)| *known == key) {
            return Ok(Kind::Link(first.clone()));
        }
        if self.linked.len() >= MAX_LINKED {
            return Err(ArchiveError::Unsupported("more than 65536 files with several names"));
        }
        self.linked.push((key, path.to_vec()));
        Ok(Kind::File)
    }

    fn entry(&self, path: Vec<u8>, kind: Kind, size: u64) -> Entry {
        let Header { mode, uid, gid, mtime, .. } = self.header;
        Entry {
            path,
            kind,
            mode: mode & 0o7777,
            uid,
            gid,
            mtime: i64::from(mtime),
            size,
            attributes: Vec::new(),
        }
    }
}

/// Bytes and their padding to a multiple of four, counted from `before`.
fn after(entry: Option<Entry>, state: State, length: u64, before: u64) -> Next {
    let padding = (before + length).next_multiple_of(4) - before - length;
    Next { entry, state, length, padding }
}
