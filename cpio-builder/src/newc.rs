//! The "newc" cpio format (magic `070701`), the only one the kernel unpacks
//! from an initramfs.
//!
//! Follows `Documentation/driver-api/early-userspace/buffer-format.rst`: a
//! 110-byte header of hexadecimal fields, the name with its NUL, padding to
//! four bytes, the data, padding again; `TRAILER!!!` ends an archive.
//!
//! The writer is reproducible: entries are sorted, times are one given number, inodes count up,
//! owner is root, parents are added as needed. The reader borrows and checks all bounds. The
//! checksums of the `070702` variant are not verified, as in the kernel.

use overlay::archive::newc::NAME_MAX;
pub use overlay::archive::newc::{HEADER, Header, TRAILER, named};
use std::collections::BTreeMap;
use std::fmt;

/// File type bits of a mode, as in `stat(2)`.
pub const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;

/// Why bytes are not a newc archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewcError {
    /// The archive ends inside an entry.
    Truncated {
        /// Offset of the entry's header.
        offset: usize,
        /// Name of the entry, or the last one before it.
        near: String,
    },
    /// A header is missing.
    Magic {
        /// Offset of the supposed header.
        offset: usize,
        /// Name of the entry before it.
        near: String,
    },
    /// A header field is not hexadecimal, or a name is too long or unended.
    Header {
        /// Offset of the header.
        offset: usize,
        /// Name of the entry before it.
        near: String,
    },
}

impl fmt::Display for NewcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, offset, near) = match self {
            Self::Truncated { offset, near } => ("is cut short", offset, near),
            Self::Magic { offset, near } => ("has no entry header", offset, near),
            Self::Header { offset, near } => ("has a damaged entry header", offset, near),
        };
        write!(f, "cpio archive {what} at byte {offset}")?;
        if near.is_empty() { Ok(()) } else { write!(f, ", near '{near}'") }
    }
}

impl std::error::Error for NewcError {}

/// The kind of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Dir,
    /// A regular file with its content.
    File(Vec<u8>),
    /// A symbolic link and where it points.
    Symlink(String),
    /// A character device.
    Char {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Another name for a file that is also in the archive.
    HardLink(String),
}

/// Why an [`Archive`] cannot hold an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveError {
    /// Not a plain relative path: empty, absolute, `..`, NUL, or too long.
    Path(String),
    /// The path is already taken by something else.
    Twice(String),
    /// A parent of the path is not a directory.
    Parent(String),
    /// The file is larger than the format allows (4 GiB).
    TooBig(String),
    /// A hard link to something that is not a regular file in the archive.
    Link(String),
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(p) => write!(f, "'{p}' cannot be a path in an initramfs"),
            Self::Twice(p) => write!(f, "'/{p}' would be in the image twice"),
            Self::Parent(p) => write!(f, "'/{p}' lies under something that is not a directory"),
            Self::TooBig(p) => write!(f, "'/{p}' is larger than 4 GiB, cpio cannot hold it"),
            Self::Link(p) => write!(f, "hard link '/{p}' points to no file of the image"),
        }
    }
}

impl std::error::Error for ArchiveError {}

/// An archive being put together. Order of calls does not matter.
#[derive(Debug, Clone, Default)]
pub struct Archive {
    entries: BTreeMap<String, (u32, Node)>,
}

impl Archive {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry with its permission bits. Missing parents are added with mode 0755; an
    /// existing directory is not an error.
    ///
    /// # Errors
    /// [`ArchiveError::Path`] for a path that is not plain and relative,
    /// [`ArchiveError::Twice`] for one already taken.
    pub fn add(&mut self, path: &str, permissions: u32, node: Node) -> Result<(), ArchiveError> {
        let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
        if !path.split('/').all(plain) || path.len() >= NAME_MAX || path == TRAILER {
            return Err(ArchiveError::Path(path.into()));
        }
        for (at, _) in path.match_indices('/') {
            let parent = path.get(..at).unwrap_or_default();
            let there = self.entries.entry(parent.into()).or_insert((0o755, Node::Dir));
            if there.1 != Node::Dir {
                return Err(ArchiveError::Parent(path.into()));
            }
        }
        if let Node::File(data) = &node
            && u32::try_from(data.len()).is_err()
        {
            return Err(ArchiveError::TooBig(path.into()));
        }
        let entry = (permissions & 0o7777, node);
        match self.entries.get_mut(path) {
            Some(there) if there.1 == Node::Dir && entry.1 == Node::Dir => *there = entry,
            Some(_) => return Err(ArchiveError::Twice(path.into())),
            None => drop(self.entries.insert(path.into(), entry)),
        }
        Ok(())
    }

    /// Removes a directory entry and keeps the entries below. For an archive that is unpacked
    /// over another in which the directory is a symbolic link: the kernel would replace the
    /// link.
    pub fn forget_dir(&mut self, path: &str) {
        if self.entries.get(path).is_some_and(|(_, node)| *node == Node::Dir) {
            self.entries.remove(path);
        }
    }

    /// Whether the path has an entry.
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The bytes of the archive, padded to 512 as other tools do. `mtime` is the time of every
    /// entry.
    ///
    /// # Errors
    /// [`ArchiveError::Link`] for a hard link without its regular file,
    /// [`ArchiveError::Parent`] and [`ArchiveError::TooBig`] for an entry that the format
    /// cannot hold.
    pub fn write(&self, mtime: u32) -> Result<Vec<u8>, ArchiveError> {
        let file_of = |path: &str| match self.entries.get(path) {
            Some((mode, Node::File(data))) => Some((*mode, data.as_slice())),
            _ => None,
        };
        // All names of a linked file, by the name that carries the content.
        let mut links: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (path, (_, node)) in &self.entries {
            if let Node::HardLink(target) = node {
                if file_of(target).is_none() {
                    return Err(ArchiveError::Link(path.clone()));
                }
                links.entry(target).or_default().push(path);
            }
        }
        for (target, names) in &mut links {
            names.push(target);
            names.sort_unstable();
        }

        let mut out = Vec::new();
        let mut inodes: BTreeMap<&str, u32> = BTreeMap::new();
        let mut next = 1;
        for (path, (mode, node)) in &self.entries {
            let target = match node {
                Node::HardLink(target) => target,
                _ => path,
            };
            let ino = *inodes.entry(target).or_insert_with(|| {
                next += 1;
                next - 1
            });
            let mut header = Header { ino, mtime, nlink: 1, mode: *mode, ..Header::default() };
            let mut data: &[u8] = &[];
            match node {
                Node::Dir => {
                    header.mode |= S_IFDIR;
                    header.nlink = 2;
                }
                Node::Symlink(to) => {
                    header.mode = S_IFLNK | 0o777;
                    data = to.as_bytes();
                }
                Node::Char { major, minor } => {
                    header.mode |= S_IFCHR;
                    header.rdev = (*major, *minor);
                }
                Node::Block { major, minor } => {
                    header.mode |= S_IFBLK;
                    header.rdev = (*major, *minor);
                }
                Node::File(_) | Node::HardLink(_) => {
                    let (mode, content) = file_of(target).unwrap_or_default();
                    header.mode = S_IFREG | mode;
                    match links.get(target.as_str()) {
                        // Content comes with the last name, as GNU cpio does it.
                        Some(names) => {
                            header.nlink = u32::try_from(names.len()).unwrap_or(u32::MAX);
                            if names.last() == Some(&path.as_str()) {
                                data = content;
                            }
                        }
                        None => data = content,
                    }
                }
            }
            append(&header, &mut out, path, data);
        }
        append(&Header { nlink: 1, ..Header::default() }, &mut out, TRAILER, &[]);
        pad(&mut out, 512);
        Ok(out)
    }
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

/// What stands before a file of `size` bytes that comes from elsewhere, or, with [`TRAILER`], the
/// end of such an archive. Zeros to a multiple of four bytes must follow the file.
///
/// It is a page long, by zeros behind the name: iPXE on BIOS puts each file of an initramfs at the
/// start of a page, and a gap would become the file's beginning.
#[must_use]
pub fn header(path: &str, size: u32) -> Vec<u8> {
    const PAGE: usize = 4096;
    let name = format!("{path:\0<width$}", width = PAGE - HEADER - 1);
    let mut out = Vec::new();
    begin(&Header { mode: S_IFREG | 0o644, nlink: 1, ..Header::default() }, &mut out, &name, size);
    out
}

/// Appends an entry. The lengths are those of `name` and `data`, not the header's.
fn append(header: &Header, out: &mut Vec<u8>, name: &str, data: &[u8]) {
    begin(header, out, name, u32::try_from(data.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(data);
    pad(out, 4);
}

fn begin(header: &Header, out: &mut Vec<u8>, name: &str, size: u32) {
    let fields = [
        header.ino,
        header.mode,
        header.uid,
        header.gid,
        header.nlink,
        header.mtime,
        size,
        0, // device, major
        0, // device, minor
        header.rdev.0,
        header.rdev.1,
        u32::try_from(name.len() + 1).unwrap_or(u32::MAX),
        0, // checksum
    ];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out, 4);
}

/// A name without leading `/` and `./`; empty for the root itself.
#[must_use]
pub fn plain(name: &str) -> &str {
    let mut path = name;
    while let Some(rest) = path.strip_prefix('/').or_else(|| path.strip_prefix("./")) {
        path = rest;
    }
    if path == "." { "" } else { path.trim_end_matches('/') }
}

/// One entry as read, borrowing from the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Name as written: usually relative, may start with `./` or `/`. Empty when it is not
    /// UTF-8: only `raw` has such a name.
    pub name: &'a str,
    /// The bytes of the name.
    pub raw: &'a [u8],
    /// Type and permission bits.
    pub mode: u32,
    /// Inode number; equal numbers with `nlink` over 1 are one file.
    pub ino: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub mtime: u32,
    /// Device number of a device node: major and minor.
    pub rdev: (u32, u32),
    /// Content of a file, target of a symbolic link.
    pub data: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The name without leading `/` and `./`; empty for the root itself.
    #[must_use]
    pub fn path(&self) -> &'a str {
        plain(self.name)
    }

    /// The name's bytes without leading `/` and `./`, when they are not UTF-8.
    #[must_use]
    pub fn foreign_path(&self) -> Option<&'a [u8]> {
        if std::str::from_utf8(self.raw).is_ok() {
            return None;
        }
        let mut path = self.raw;
        while let Some(rest) = path.strip_prefix(b"/").or_else(|| path.strip_prefix(b"./")) {
            path = rest;
        }
        Some(path)
    }

    /// The path as people see it.
    #[must_use]
    pub fn shown(&self) -> std::borrow::Cow<'a, str> {
        self.foreign_path().map_or(self.path().into(), String::from_utf8_lossy)
    }

    /// Whether it is a regular file.
    #[must_use]
    pub const fn is_file(&self) -> bool {
        self.mode & S_IFMT == S_IFREG
    }

    /// Whether it is a directory.
    #[must_use]
    pub const fn is_dir(&self) -> bool {
        self.mode & S_IFMT == S_IFDIR
    }

    /// Its target, if it is a symbolic link.
    #[must_use]
    pub fn symlink(&self) -> Option<&'a str> {
        let link = self.mode & S_IFMT == S_IFLNK;
        link.then(|| std::str::from_utf8(self.data).ok()).flatten()
    }

    /// The line `ls -l` would show, without the name.
    #[must_use]
    pub fn mode_text(&self) -> String {
        let kind = match self.mode & S_IFMT {
            S_IFDIR => 'd',
            S_IFLNK => 'l',
            S_IFCHR => 'c',
            S_IFBLK => 'b',
            S_IFREG => '-',
            0o010_000 => 'p',
            0o140_000 => 's',
            _ => '?',
        };
        let bits = (0..9).rev().zip("rwxrwxrwx".chars());
        let bits = bits.map(|(n, c)| if self.mode & (1 << n) == 0 { '-' } else { c });
        std::iter::once(kind).chain(bits).collect()
    }
}

/// Reads one archive, up to its trailer.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    last: &'a str,
    done: bool,
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`. Bytes after the trailer are left.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, last: "", done: false }
    }

    /// Bytes read so far; after the last entry, the length of the archive
    /// without its padding.
    #[must_use]
    pub const fn consumed(&self) -> usize {
        self.at
    }

    fn entry(&mut self) -> Result<Option<Entry<'a>>, NewcError> {
        let offset = self.at;
        let near = || self.last.to_owned();
        let truncated = || NewcError::Truncated { offset, near: near() };
        let header = || NewcError::Header { offset, near: near() };
        let rest = self.bytes.get(offset..).unwrap_or_default();
        // The kernel does not miss a trailer at the end. Zeros in its place are for it a header
        // that is none, and it reads nothing behind them.
        if offset > 0 && rest.is_empty() {
            return Ok(None);
        }
        let magic = rest.get(..6).ok_or_else(truncated)?;
        if !Header::is_magic(magic) {
            return Err(NewcError::Magic { offset, near: near() });
        }
        let digits = rest.get(6..HEADER).ok_or_else(truncated)?;
        let head = Header::parse(digits).ok_or_else(header)?;
        let Header { ino, mode, uid, gid, nlink, mtime, size, rdev, name_len, .. } = head;
        let name = rest.get(HEADER..HEADER + name_len).ok_or_else(truncated)?;
        let raw = named(name).ok_or_else(header)?;
        let name = std::str::from_utf8(raw).unwrap_or_default();
        let data_at = head.data_at();
        let data = rest.get(data_at..).and_then(|r| r.get(..size as usize));
        let data = data.ok_or_else(|| NewcError::Truncated { offset, near: name.into() })?;
        let end = offset + (data_at + data.len()).next_multiple_of(4);
        self.at = end.min(self.bytes.len());
        self.last = name;
        if name == TRAILER {
            return Ok(None);
        }
        Ok(Some(Entry { name, raw, mode, ino, nlink, uid, gid, mtime, rdev, data }))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Entry<'a>, NewcError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let entry = self.entry().transpose();
        self.done = !matches!(entry, Some(Ok(_)));
        entry
    }
}
