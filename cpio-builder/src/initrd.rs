//! Reads an initramfs as the kernel does: cpio archives one after another, each plain or
//! compressed, with zero bytes between them.
//!
//! Distributions ship early microcode as a plain archive and the rest compressed after it;
//! `mkinitramfs` and `dracut` make up to four segments. Later files replace earlier ones.
//!
//! The whole is bounded: see [`Limits`].

use crate::compress::{self, Codec};
use crate::modinfo;
use crate::newc::{Entry, NewcError, Reader};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::{fmt, io};

/// How much an initramfs may unpack to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes, over all segments.
    pub bytes: usize,
    /// Number of segments.
    pub segments: usize,
}

impl Default for Limits {
    /// 4 GiB in 64 segments: several times the largest live medium's initrd.
    fn default() -> Self {
        Self { bytes: 4 << 30, segments: 64 }
    }
}

/// Why bytes are not an initramfs.
#[derive(Debug)]
pub enum InitrdError {
    /// A segment cannot be unpacked.
    Unpack {
        /// Offset of the segment in the file.
        offset: usize,
        /// Its compression.
        codec: Codec,
        /// The codec's error.
        source: io::Error,
    },
    /// Neither cpio nor a known compression.
    Unknown {
        /// Offset in the file.
        offset: usize,
    },
    /// A damaged archive.
    Cpio {
        /// Offset of the segment in the file.
        offset: usize,
        /// The damage; its offset counts from the segment's start, after decompression.
        source: NewcError,
    },
    /// More segments than allowed.
    Segments,
    /// Nothing but zeros, or nothing at all.
    Empty,
}

impl fmt::Display for InitrdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unpack { offset, codec, source } => {
                write!(f, "the {codec} data at byte {offset} does not unpack: {source}")
            }
            Self::Unknown { offset: 0 } => write!(f, "this is neither cpio nor compressed cpio"),
            Self::Unknown { offset } => {
                write!(f, "what follows at byte {offset} is neither cpio nor compressed cpio")
            }
            Self::Cpio { offset: 0, source } => write!(f, "{source}"),
            Self::Cpio { offset, source } => write!(f, "segment at byte {offset}: {source}"),
            Self::Segments => write!(f, "it has more segments than any initramfs"),
            Self::Empty => write!(f, "it is empty"),
        }
    }
}

impl std::error::Error for InitrdError {}

/// One segment: an archive, or several that were compressed together.
#[derive(Debug, Clone)]
pub struct Segment<'a> {
    /// Offset in the file.
    pub offset: usize,
    /// How it is compressed.
    pub codec: Codec,
    /// Bytes it takes in the file, without padding.
    pub packed: usize,
    data: Cow<'a, [u8]>,
    archives: Vec<usize>,
}

impl Segment<'_> {
    /// Bytes it unpacks to.
    #[must_use]
    pub fn unpacked(&self) -> usize {
        self.data.len()
    }

    /// Its entries in order, which were checked at opening.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.archives
            .iter()
            .flat_map(|at| Reader::new(self.data.get(*at..).unwrap_or_default()))
            .map_while(Result::ok)
    }
}

/// A whole initramfs.
#[derive(Debug, Clone)]
pub struct Initrd<'a> {
    segments: Vec<Segment<'a>>,
    behind: usize,
}

/// The most bytes of an initramfs file: kernels load no more.
const FILE_MAX: u64 = 2 << 30;

/// Reads the file of an initramfs. A pipe is read to its end, a device that has none is not.
///
/// # Errors
/// The system's; also for a device without an end, and for a file of more than 2 GiB.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let kind = file.metadata()?;
    if kind.file_type().is_char_device() && path != Path::new("/dev/null") {
        return Err(io::Error::other("it is a device, and no file"));
    }
    let mut bytes = Vec::new();
    if kind.len() > FILE_MAX || file.take(FILE_MAX + 1).read_to_end(&mut bytes)? as u64 > FILE_MAX {
        return Err(io::Error::other("it has more than 2 GiB, which no initramfs has"));
    }
    Ok(bytes)
}

impl<'a> Initrd<'a> {
    /// Unpacks and checks every segment.
    ///
    /// # Errors
    /// [`InitrdError`] with the offset of the damaged segment.
    pub fn open(bytes: &'a [u8], limits: Limits) -> Result<Self, InitrdError> {
        let mut segments: Vec<Segment<'a>> = Vec::new();
        let mut left = limits.bytes;
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(zeros) = rest.iter().position(|b| *b != 0) else { break };
            at += zeros;
            let rest = bytes.get(at..).unwrap_or_default();
            if segments.len() >= limits.segments {
                return Err(InitrdError::Segments);
            }
            let segment = if rest.starts_with(b"07070") {
                let used =
                    check(rest).map_err(|source| InitrdError::Cpio { offset: at, source })?;
                let data = rest.get(..used).unwrap_or_default();
                Segment {
                    offset: at,
                    codec: Codec::None,
                    packed: used,
                    data: Cow::Borrowed(data),
                    archives: vec![0],
                }
            } else if let Some(codec) = Codec::detect(rest) {
                let (data, packed) = compress::decompress(codec, rest, left)
                    .map_err(|source| InitrdError::Unpack { offset: at, codec, source })?;
                left = left.saturating_sub(data.len());
                let archives =
                    archives(&data).map_err(|source| InitrdError::Cpio { offset: at, source })?;
                Segment { offset: at, codec, packed, data: Cow::Owned(data), archives }
            } else if segments.is_empty() {
                return Err(InitrdError::Unknown { offset: at });
            } else {
                // Boot configuration, for one. The kernel says so and goes on with what it has.
                return Ok(Self { segments, behind: rest.len() });
            };
            at += segment.packed.max(1);
            segments.push(segment);
        }
        if segments.is_empty() { Err(InitrdError::Empty) } else { Ok(Self { segments, behind: 0 }) }
    }

    /// How many bytes follow that are no archive; the kernel does not read them either.
    #[must_use]
    pub const fn behind(&self) -> usize {
        self.behind
    }

    /// The segments in order.
    #[must_use]
    pub fn segments(&self) -> &[Segment<'a>] {
        &self.segments
    }

    /// The unpacked files by path: of entries with the same path the last one counts, and every
    /// name of a hard-linked file has its content. Paths are as written: symbolic links to
    /// directories are not followed.
    #[must_use]
    pub fn tree(&self) -> BTreeMap<&str, Entry<'_>> {
        self.by(|entry| Some(entry.path()).filter(|path| !path.is_empty()))
    }

    /// The content of a section of its `/init`, which is an ELF file; the name ends in a NUL.
    #[must_use]
    pub fn init_section(&self, name: &[u8]) -> Option<Vec<u8>> {
        modinfo::section(self.tree().get("init")?.data, name).ok().flatten()
    }

    /// The same of the files whose names are not UTF-8, by the bytes of their paths.
    #[must_use]
    pub fn foreign(&self) -> BTreeMap<&[u8], Entry<'_>> {
        self.by(Entry::foreign_path)
    }

    fn by<'s, K: Ord>(&'s self, key: impl Fn(&Entry<'s>) -> Option<K>) -> BTreeMap<K, Entry<'s>> {
        let mut tree = BTreeMap::new();
        for segment in &self.segments {
            let mut content: BTreeMap<u32, &[u8]> = BTreeMap::new();
            for entry in segment.entries().filter(|e| e.nlink > 1 && e.is_file()) {
                if !entry.data.is_empty() {
                    content.insert(entry.ino, entry.data);
                }
            }
            for mut entry in segment.entries() {
                if entry.is_file() && entry.nlink > 1 && entry.data.is_empty() {
                    entry.data = content.get(&entry.ino).copied().unwrap_or_default();
                }
                if let Some(key) = key(&entry) {
                    tree.insert(key, entry);
                }
            }
        }
        tree
    }
}

/// Checks one archive; returns its length.
fn check(bytes: &[u8]) -> Result<usize, NewcError> {
    let mut reader = Reader::new(bytes);
    reader.by_ref().try_for_each(|entry| entry.map(drop))?;
    Ok(reader.consumed())
}

/// Checks the archives of a decompressed segment; returns their offsets.
fn archives(bytes: &[u8]) -> Result<Vec<usize>, NewcError> {
    let mut starts = Vec::new();
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(zeros) = rest.iter().position(|b| *b != 0) else { return Ok(starts) };
        at += zeros;
        starts.push(at);
        at += check(bytes.get(at..).unwrap_or_default())?.max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `--initrd /dev/zero` took all memory.
    #[test]
    fn what_has_no_end_is_not_read() {
        let refused = |path: &str| read_file(Path::new(path)).unwrap_err().to_string();
        assert!(refused("/dev/zero").contains("a device"));
        let dir = tempfile::tempdir().unwrap();
        let large = dir.path().join("large");
        File::create(&large).unwrap().set_len(FILE_MAX + 1).unwrap();
        assert!(refused(large.to_str().unwrap()).contains("2 GiB"));
        assert_eq!(read_file(Path::new("/dev/null")).unwrap(), []);
    }
}
