//! Shared by both formats: entries, the states of a reader, paths.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use sys::errno::Shown;

/// Longest path or link target.
const MAX_PATH: usize = 4096;

/// The kind of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file; its data follow.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this.
    Symlink(Vec<u8>),
    /// Another name of an earlier entry, by path. Data may follow, which belong to the file.
    Link(Vec<u8>),
    /// A character device: major and minor number.
    Character(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative, clean path; empty for the top directory itself.
    pub path: Vec<u8>,
    /// Its kind.
    pub kind: Kind,
    /// Permissions, the low twelve bits of a mode.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Bytes of data that follow.
    pub size: u64,
    /// Extended attributes, name and value.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why an archive cannot be unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveError {
    /// It is truncated.
    CutShort,
    /// It is malformed.
    Damaged(&'static str),
    /// One of its paths has `..`.
    Outside(String),
    /// It has an entry of an unsupported kind.
    Unsupported(&'static str),
    /// An entry could not be created: its path and the errno.
    Write(String, rustix::io::Errno),
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutShort => f.write_str("is cut short: its end is missing; copy it again"),
            Self::Damaged(what) => write!(f, "is damaged: {what}"),
            Self::Outside(path) => {
                write!(f, "holds a path that leads out of it: {path}; it is not trusted")
            }
            Self::Unsupported(what) => write!(f, "holds {what}, which is not unpacked"),
            Self::Write(_, rustix::io::Errno::NOSPC) => {
                f.write_str("does not fit into memory when unpacked")
            }
            Self::Write(path, errno) => write!(f, "/{path} cannot be made: {}", Shown(*errno)),
        }
    }
}

impl core::error::Error for ArchiveError {}

/// The meaning of the next bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// A header, which is held until it is complete.
    Header,
    /// An extended header of this kind, held until it is complete.
    Facts(u8),
    /// Data of the latest entry.
    Data,
    /// Padding.
    Skip,
    /// The archive has ended.
    End,
}

/// A format's parsers for a complete header and extended header.
pub trait Dialect {
    /// Bytes of a header.
    fn header_length(&self) -> usize;
    /// Reads a header; returns what follows it.
    ///
    /// # Errors
    /// [`ArchiveError`] when the header is malformed or its path leaves the archive.
    fn header(&mut self, bytes: &[u8]) -> Result<Next, ArchiveError>;
    /// Parses an extended header; returns what follows it.
    ///
    /// # Errors
    /// As [`Dialect::header`].
    fn facts(&mut self, kind: u8, bytes: &[u8]) -> Result<Next, ArchiveError>;
}

/// A `dyn` table would bring formatting code into `/init`.
impl fmt::Debug for dyn Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialect")
    }
}

/// The next state: `length` bytes of a kind, then padding, after an optional entry to report.
#[derive(Debug)]
pub struct Next {
    /// An entry to report first.
    pub entry: Option<Entry>,
    /// The state of the following bytes.
    pub state: State,
    /// Bytes in that state.
    pub length: u64,
    /// Bytes to skip after them.
    pub padding: u64,
}

impl Next {
    /// A header follows.
    pub const HEADER: Self = Self { entry: None, state: State::Header, length: 0, padding: 0 };
    /// The archive has ended.
    pub const END: Self = Self { entry: None, state: State::End, length: 0, padding: 0 };
}

/// Normalises a relative path: no empty parts and no `.`.
///
/// # Errors
/// [`ArchiveError::Damaged`] when it is too long or has a zero byte,
/// [`ArchiveError::Outside`] when it has `..`.
pub fn clean(path: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    if path.len() > MAX_PATH || path.contains(&0) {
        return Err(ArchiveError::Damaged("one of its paths is too long"));
    }
    let mut clean = Vec::with_capacity(path.len());
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                return Err(ArchiveError::Outside(String::from_utf8_lossy(path).to_string()));
            }
            part => {
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(part);
            }
        }
    }
    Ok(clean)
}

/// The target of a symbolic link, unchanged.
///
/// # Errors
/// [`ArchiveError::Damaged`] when it is empty, too long or has a zero byte.
pub fn target(bytes: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    if bytes.is_empty() || bytes.len() > MAX_PATH || bytes.contains(&0) {
        return Err(ArchiveError::Damaged("one of its links has no target"));
    }
    Ok(bytes.to_vec())
}

/// Up to the first zero byte.
pub fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}
