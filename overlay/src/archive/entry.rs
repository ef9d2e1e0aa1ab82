//! What both formats have in common: entries, the words of a header's reader, paths.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use sys::errno::Shown;

/// Longest path or link target.
const MAX_PATH: usize = 4096;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file; its data follow.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this.
    Symlink(Vec<u8>),
    /// Another name of an entry before it, by path. Data may follow, which are the
    /// file's.
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
    /// What it is.
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
    /// It ends before its end.
    CutShort,
    /// It contradicts itself.
    Damaged(&'static str),
    /// A path leads out of it.
    Outside(String),
    /// It holds something that is not unpacked.
    Unsupported(&'static str),
    /// An entry could not be made: its path and the kernel's word.
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

/// What the bytes that come next are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// A header, which is held until it is complete.
    Header,
    /// Facts of this kind about an entry, held likewise.
    Facts(u8),
    /// Data of the latest entry.
    Data,
    /// Of no use.
    Skip,
    /// Nothing: the archive has ended.
    End,
}

/// What a format does with a complete header or complete facts.
pub trait Dialect {
    /// Bytes of a header.
    fn header_length(&self) -> usize;
    /// Reads a header; returns what follows it.
    ///
    /// # Errors
    /// [`ArchiveError`] when the header contradicts itself or names something outside.
    fn header(&mut self, bytes: &[u8]) -> Result<Next, ArchiveError>;
    /// Reads the facts that a header announced; returns what follows them.
    ///
    /// # Errors
    /// As [`Dialect::header`].
    fn facts(&mut self, kind: u8, bytes: &[u8]) -> Result<Next, ArchiveError>;
}

/// A table of methods with one for this would bring all that it prints by into `/init`.
impl fmt::Debug for dyn Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialect")
    }
}

/// What follows: `length` bytes in a state, then padding, and before all that
/// perhaps an entry to report.
#[derive(Debug)]
pub struct Next {
    /// Reported first.
    pub entry: Option<Entry>,
    /// Of the bytes that follow.
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

/// A relative path without empty parts and `.`.
///
/// # Errors
/// [`ArchiveError::Damaged`] when it is too long or has a zero byte,
/// [`ArchiveError::Outside`] when it has `..`.
pub fn clean(path: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    if path.len() > MAX_PATH || path.contains(&0) {
        return Err(ArchiveError::Damaged("a path of it is too long"));
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

/// The target of a symbolic link, as it is.
///
/// # Errors
/// [`ArchiveError::Damaged`] when it is empty, too long or has a zero byte.
pub fn target(bytes: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    if bytes.is_empty() || bytes.len() > MAX_PATH || bytes.contains(&0) {
        return Err(ArchiveError::Damaged("a link of it leads nowhere"));
    }
    Ok(bytes.to_vec())
}

/// Up to the first zero byte.
pub fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}
