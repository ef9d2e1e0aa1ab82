//! Reads ISO 9660 media: directories and files, with Rock Ridge (IEEE P1282 over SUSP P1281) or
//! else the names of Joliet.
//!
//! Implements the part of ECMA-119 that live media use: one volume, files in one extent or
//! several, the primary or the Joliet descriptor. Rock Ridge is preferred, then Joliet, then
//! the plain names in lower case without version, as the kernel shows them. Relocated deep
//! directories are shown in their original place. All numbers are hostile: sizes and counts are
//! bounded, and memory is only reserved for bytes that were read.
//!
//! Files that are stored compressed (zisofs) are read unpacked. Not supported: interleaved files,
//! UDF.

use crate::kinds;
use crate::modinfo::ReadAt;
use crate::zisofs::Packed;
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use sys::bytes::or_zero::{le16, le32};

const SECTOR: u64 = 2048;
/// Where volume descriptors begin.
const DESCRIPTORS: u64 = 16;
/// More descriptors than any medium has.
const DESCRIPTORS_MAX: u64 = 64;
/// Most bytes of one directory; one with 100,000 entries has 15 MB.
const DIR_MAX: u64 = 64 << 20;
/// Continuation areas of one record.
const CONTINUATIONS_MAX: usize = 64;
/// Longest name, as Rock Ridge writes it.
const NAME_MAX: usize = 1024;
/// Targets of symbolic links are at most as long as the kernel's paths.
const LINK_MAX: usize = 4096;
/// Position of the root directory's record in a volume descriptor.
const ROOT_RECORD: usize = 156;

/// Flags of a directory record (ECMA-119 9.1.6).
const DIRECTORY: u8 = 2;
const ASSOCIATED: u8 = 4;
const MORE_EXTENTS: u8 = 0x80;

/// Why a medium or a file on it cannot be read.
#[derive(Debug)]
pub enum IsoError {
    /// There is no ISO 9660 volume; and what it is, if that is known.
    NotIso(Option<String>),
    /// The path does not exist.
    NotFound(String),
    /// A file instead of a directory, or a directory instead of a file.
    Kind(String),
    /// Larger than the caller's limit.
    TooBig(String),
    /// The medium is damaged.
    Damaged(String),
    /// It has interleaved files.
    Interleaved,
    /// A directory is past the end of the medium.
    CutShort {
        /// Where the directory begins, in bytes.
        at: u64,
    },
    /// Reading failed.
    Read(io::Error),
}

impl fmt::Display for IsoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotIso(None) => write!(f, "it is not an ISO 9660 image"),
            Self::NotIso(Some(kind)) => write!(f, "it is not an ISO 9660 image but {kind}"),
            Self::NotFound(path) => write!(f, "there is no /{path} on it"),
            Self::Kind(path) => write!(
                f,
                "/{path} is a file instead of a directory, or a directory instead of a file"
            ),
            Self::TooBig(path) => write!(f, "/{path} is too large"),
            Self::Damaged(what) => write!(f, "the medium is damaged: {what}"),
            Self::Interleaved => write!(f, "it has interleaved files, which are not read"),
            Self::CutShort { at } => write!(
                f,
                "a directory lies at byte {at}, behind the end of the image: the image is cut \
                 short; get it again"
            ),
            Self::Read(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                write!(f, "the medium is cut short")
            }
            Self::Read(e) => write!(f, "cannot be read: {e}"),
        }
    }
}

impl std::error::Error for IsoError {}

impl From<io::Error> for IsoError {
    fn from(e: io::Error) -> Self {
        Self::Read(e)
    }
}

/// An extent of a medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Byte offset on the medium.
    pub start: u64,
    /// Bytes.
    pub length: u64,
}

/// The kind of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file.
    File,
    /// A symbolic link's target.
    Link(Vec<u8>),
    /// A device, pipe or socket.
    Special,
}

/// A file, directory or link on a medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name in its directory, as it is recorded.
    pub name: Vec<u8>,
    /// Its kind.
    pub kind: Kind,
    /// Permission bits, without the type.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last change, seconds since 1970.
    pub mtime: i64,
    /// Offset of its directory record, which identifies it on the medium.
    pub position: u64,
    /// Its extents.
    pub extents: Vec<Extent>,
    /// How these are compressed.
    pub packed: Option<Packed>,
}

impl Node {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// Its name as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }

    /// Bytes of the file, unpacked.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.packed.map_or_else(|| self.stored(), |packed| packed.size)
    }

    fn stored(&self) -> u64 {
        self.extents.iter().fold(0, |sum: u64, e| sum.saturating_add(e.length))
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Offset on the medium, if the file lies there as it is, in one piece.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        if self.packed.is_some() {
            return None;
        }
        let first = self.extents.first()?.start;
        let mut end = first;
        for extent in &self.extents {
            if extent.start != end {
                return None;
            }
            end = extent.start.checked_add(extent.length)?;
        }
        Some(first)
    }
}

/// The source of names and permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// POSIX names, permissions and links; with the bytes at the start of each
    /// system use area that are not Rock Ridge's (SUSP `SP`).
    RockRidge(usize),
    /// Unicode names.
    Joliet,
    /// Neither.
    Plain,
}

/// A medium.
#[derive(Debug)]
pub struct Iso<F: ReadAt> {
    file: F,
    block: u64,
    /// The root directory.
    pub root: Node,
    /// The source of names.
    pub names: Names,
    /// Name of the volume.
    pub label: String,
    /// Volume creation time as written: `YYYYMMDDHHMMSScc`.
    pub created: String,
    /// Bytes that the volume should have.
    pub size: u64,
    /// The primary volume descriptor.
    pub descriptor: Vec<u8>,
}

/// A volume descriptor's block size and root directory.
fn volume(position: u64, sector: &[u8]) -> Result<(u64, Node), IsoError> {
    let root = sector.get(ROOT_RECORD..ROOT_RECORD + 34).and_then(Record::read);
    let root = root.filter(|root| root.flags & DIRECTORY != 0 && root.size > 0);
    let root = root.ok_or_else(|| IsoError::Damaged("it has no root directory".into()))?;
    let block = u64::from(le16(sector, 128));
    if ![512, 1024, 2048].contains(&block) {
        return Err(IsoError::Damaged(format!(
            "its block size is {block}, which no ISO 9660 image has"
        )));
    }
    Ok((block, root.node(position + ROOT_RECORD as u64, block)))
}

impl<F: ReadAt> Iso<F> {
    /// Finds the volume.
    ///
    /// # Errors
    /// [`IsoError::NotIso`] without a volume descriptor, [`IsoError::Damaged`],
    /// [`IsoError::Read`].
    pub fn open(file: F) -> Result<Self, IsoError> {
        let mut primary = None;
        let mut joliet = None;
        for n in DESCRIPTORS..DESCRIPTORS + DESCRIPTORS_MAX {
            let (at, mut sector) = (n * SECTOR, vec![0; SECTOR as usize]);
            match file.read_exact_at(&mut sector, at) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
                other => other?,
            }
            if sector.get(1..6) != Some(b"CD001") {
                break;
            }
            match sector.first() {
                Some(1) if primary.is_none() => primary = Some((at, sector)),
                // A supplementary descriptor with one of the UCS-2 escape sequences.
                Some(2)
                    if joliet.is_none()
                        && matches!(sector.get(88..91), Some(b"%/@" | b"%/C" | b"%/E")) =>
                {
                    joliet = Some((at, sector));
                }
                Some(255) => break,
                _ => {}
            }
        }
        let (at, descriptor) = primary.ok_or_else(|| IsoError::NotIso(kinds::of(&file)))?;
        let (block, root) = volume(at, &descriptor)?;
        let text = |from: usize, to: usize| {
            let field = descriptor.get(from..to).unwrap_or_default();
            String::from_utf8_lossy(field).trim_matches([' ', '\0']).to_owned()
        };
        let mut iso = Self {
            file,
            block,
            root,
            names: Names::Plain,
            label: text(40, 72),
            created: text(813, 829),
            size: u64::from(le32(&descriptor, 80)) * block,
            descriptor,
        };
        iso.find_rock_ridge()?;
        if iso.names == Names::Plain
            && let Some((at, sector)) = joliet
        {
            (iso.block, iso.root) = volume(at, &sector)?;
            iso.names = Names::Joliet;
        }
        Ok(iso)
    }

    /// Looks for the SUSP mark in the root directory's own record.
    fn find_rock_ridge(&mut self) -> Result<(), IsoError> {
        let bytes = self.records(&self.root)?;
        let Some(own) = Record::read(&bytes) else { return Ok(()) };
        // CD-ROM XA puts 14 bytes in front of Rock Ridge's.
        for skip in [0, 14] {
            if let Some([b'S', b'P', 7, 1, 0xbe, 0xef, own_skip]) = own.area.get(skip..skip + 7) {
                self.names = Names::RockRidge(usize::from(*own_skip));
                self.posix(own.area).dress(&mut self.root);
                self.root.name.clear();
                return Ok(());
            }
        }
        Ok(())
    }

    /// The bytes of a directory's records.
    ///
    /// # Errors
    /// [`IsoError::Damaged`] above 64 MiB, [`IsoError::CutShort`] past the end of the medium,
    /// [`IsoError::Read`].
    pub fn records(&self, dir: &Node) -> Result<Vec<u8>, IsoError> {
        let at = dir.extents.first().map_or(0, |extent| extent.start);
        if dir.len() > DIR_MAX {
            return Err(IsoError::Damaged(format!("it has a directory of {} bytes", dir.len())));
        }
        self.read(dir, DIR_MAX).map_err(|e| match e {
            IsoError::Read(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                IsoError::CutShort { at }
            }
            other => other,
        })
    }

    /// The entries of a directory, as recorded.
    ///
    /// # Errors
    /// [`IsoError::Kind`] for another node, [`IsoError::Damaged`], and as [`Iso::records`].
    pub fn list(&self, dir: &Node) -> Result<Vec<Node>, IsoError> {
        if !dir.is_dir() {
            return Err(IsoError::Kind(dir.text()));
        }
        let bytes = self.records(dir)?;
        let start = dir.extents.first().map_or(0, |extent| extent.start);
        let mut nodes: Vec<Node> = Vec::new();
        // Whether the previous record was a part of a file, and whether the file is kept.
        let mut goes_on = false;
        let mut kept = false;
        let mut offset = 0;
        while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
            if rest.first() == Some(&0) {
                // Records do not cross sectors: the rest of this one is empty.
                offset = (offset / SECTOR as usize + 1) * SECTOR as usize;
                continue;
            }
            let Some(record) = Record::read(rest) else {
                return Err(IsoError::Damaged(format!(
                    "the directory at byte {start} has a damaged record at byte {offset}"
                )));
            };
            let position = start + offset as u64;
            offset += record.length;
            // The first two are the directory itself and its parent.
            if matches!(record.name, [0] | [1] | []) || record.flags & ASSOCIATED != 0 {
                continue;
            }
            if record.interleaved {
                return Err(IsoError::Interleaved);
            }
            let is_dir = record.flags & DIRECTORY != 0;
            if goes_on && !is_dir {
                if kept && let Some(last) = nodes.last_mut() {
                    last.extents.push(record.extent(self.block));
                }
            } else {
                let node = self.node(&record, position)?;
                kept = node.is_some();
                nodes.extend(node);
            }
            goes_on = record.flags & MORE_EXTENTS != 0 && !is_dir;
        }
        Ok(nodes)
    }

    /// The node of a record. `None` for a relocated directory at its new place.
    fn node(&self, record: &Record<'_>, position: u64) -> Result<Option<Node>, IsoError> {
        let mut node = record.node(position, self.block);
        node.name = self.name(record.name);
        if matches!(self.names, Names::RockRidge(_)) {
            let posix = self.posix(record.area);
            if posix.relocated {
                return Ok(None);
            }
            if let Some(block) = posix.child {
                node.kind = Kind::Directory;
                node.permissions = 0o555;
                node.extents = vec![self.relocated(block)?];
            }
            posix.dress(&mut node);
        }
        Ok(Some(node))
    }

    /// The directory that a child link points to: its own first record.
    fn relocated(&self, block: u64) -> Result<Extent, IsoError> {
        let mut sector = vec![0; SECTOR as usize];
        let start = block * self.block;
        self.file.read_exact_at(&mut sector, start).ok();
        Record::read(&sector)
            .filter(|record| record.flags & DIRECTORY != 0 && record.block == block)
            .map(|record| record.extent(self.block))
            .ok_or_else(|| {
                IsoError::Damaged(format!("a relocated directory is not at byte {start}"))
            })
    }

    /// A name without Rock Ridge.
    fn name(&self, raw: &[u8]) -> Vec<u8> {
        let text = if self.names == Names::Joliet {
            let units = raw.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair));
            char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        } else {
            String::from_utf8_lossy(raw).to_ascii_lowercase()
        };
        let version = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let text = match text.rsplit_once(';') {
            Some((name, after)) if version(after) => name,
            _ => &text,
        };
        let text = if self.names == Names::Joliet { text } else { text.trim_end_matches('.') };
        text.as_bytes().to_vec()
    }

    /// Reads the system use entries of a record, continuation areas included.
    fn posix(&self, area: &[u8]) -> Posix {
        let mut posix = Posix::default();
        let Names::RockRidge(skip) = self.names else { return posix };
        let mut link = Link::default();
        let mut area = area.get(skip..).unwrap_or_default().to_vec();
        for _ in 0..CONTINUATIONS_MAX {
            let mut next = None;
            let mut rest = area.as_slice();
            while let Some((signature, body, tail)) = susp(rest) {
                rest = tail;
                match signature {
                    b"CE" => next = Some((le32(body, 0), le32(body, 8), le32(body, 16))),
                    b"ST" => break,
                    // Without the flags for "." and "..".
                    b"NM"
                        if posix.name.len() < NAME_MAX
                            && body.first().is_some_and(|f| f & 6 == 0) =>
                    {
                        posix.name.extend_from_slice(body.get(1..).unwrap_or_default());
                    }
                    b"PX" => posix.mode = Some((le32(body, 0), le32(body, 16), le32(body, 24))),
                    b"TF" => posix.mtime = modified(body).or(posix.mtime),
                    b"SL" => link.add(body),
                    b"CL" => posix.child = Some(u64::from(le32(body, 0))),
                    b"RE" => posix.relocated = true,
                    b"ZF" => posix.packed = Packed::read(body),
                    _ => {}
                }
            }
            let Some((block, offset, length)) = next else { break };
            area = vec![0; (length as usize).min(SECTOR as usize)];
            let at = u64::from(block) * self.block + u64::from(offset);
            if self.file.read_exact_at(&mut area, at).is_err() {
                break;
            }
        }
        posix.link = link.finish();
        posix
    }

    /// Finds a path. Names are compared exactly first, then without case.
    ///
    /// # Errors
    /// [`IsoError::NotFound`], and as [`Iso::list`].
    pub fn find(&self, path: &str) -> Result<Node, IsoError> {
        let mut node = self.root.clone();
        let path = path.trim_matches('/');
        for part in path.split('/').filter(|p| !matches!(*p, "" | ".")).take(32) {
            let absent = || IsoError::NotFound(path.to_owned());
            if !node.is_dir() {
                return Err(absent());
            }
            let nodes = self.list(&node)?;
            let part = part.as_bytes();
            let same = |n: &&Node| n.name == part;
            let alike = |n: &&Node| n.name.eq_ignore_ascii_case(part);
            let found = nodes.iter().find(same).or_else(|| nodes.iter().find(alike));
            node = found.cloned().ok_or_else(absent)?;
        }
        Ok(node)
    }

    /// Reads a file of at most `limit` bytes.
    ///
    /// # Errors
    /// [`IsoError::TooBig`] above `limit`, [`IsoError::Read`].
    pub fn read(&self, node: &Node, limit: u64) -> Result<Vec<u8>, IsoError> {
        if node.len() > limit {
            return Err(IsoError::TooBig(node.text()));
        }
        let stored = |buffer: &mut [u8], at| {
            read_extents(
                &|buffer, at| self.file.read_exact_at(buffer, at),
                &node.extents,
                buffer,
                at,
            )
        };
        let mut out = Vec::new();
        let (mut at, mut left) = (0, node.len());
        // In pieces: the length may be false.
        while left > 0 {
            let size = left.min(1 << 20);
            let mut piece = vec![0; usize::try_from(size).unwrap_or_default()];
            match &node.packed {
                Some(packed) => packed.read_exact_at(&mut piece, at, &stored)?,
                None => stored(&mut piece, at)?,
            }
            out.extend(piece);
            (at, left) = (at.saturating_add(size), left - size);
        }
        Ok(out)
    }

    /// Reads a file by its path.
    ///
    /// # Errors
    /// As [`Iso::find`] and [`Iso::read`]; [`IsoError::Kind`] for a directory.
    pub fn read_path(&self, path: &str, limit: u64) -> Result<Vec<u8>, IsoError> {
        let node = self.find(path)?;
        if node.kind != Kind::File {
            return Err(IsoError::Kind(path.to_owned()));
        }
        self.read(&node, limit)
    }
}

/// Fills `buffer` from `offset` on of a file that lies in these extents; `file` reads the medium.
///
/// # Errors
/// The medium's; [`io::ErrorKind::UnexpectedEof`] behind the last extent.
pub fn read_extents(
    file: &dyn Fn(&mut [u8], u64) -> io::Result<()>,
    extents: &[Extent],
    buffer: &mut [u8],
    offset: u64,
) -> io::Result<()> {
    let mut skip = offset;
    let mut rest = buffer;
    for extent in extents {
        if skip >= extent.length {
            skip -= extent.length;
            continue;
        }
        let here = (extent.length - skip).min(rest.len() as u64);
        let (part, tail) = rest
            .split_at_mut_checked(usize::try_from(here).unwrap_or(usize::MAX))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        file(part, extent.start.saturating_add(skip))?;
        rest = tail;
        skip = 0;
        if rest.is_empty() {
            break;
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// A directory record (ECMA-119 9.1).
#[derive(Debug, Clone, Copy)]
struct Record<'a> {
    length: usize,
    block: u64,
    size: u64,
    time: i64,
    flags: u8,
    interleaved: bool,
    name: &'a [u8],
    /// The system use area, after the name padded to an even length.
    area: &'a [u8],
}

impl<'a> Record<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let length = usize::from(*bytes.first()?);
        let bytes = bytes.get(..length)?;
        let name_end = 33 + usize::from(*bytes.get(32)?);
        Some(Self {
            length,
            // Extended attributes come before the content.
            block: u64::from(le32(bytes, 2)) + u64::from(*bytes.get(1)?),
            size: u64::from(le32(bytes, 10)),
            time: time7(bytes.get(18..25)?),
            flags: *bytes.get(25)?,
            interleaved: *bytes.get(26)? != 0 || *bytes.get(27)? != 0,
            name: bytes.get(33..name_end)?,
            area: bytes.get(name_end.next_multiple_of(2)..).unwrap_or_default(),
        })
    }

    const fn extent(&self, block: u64) -> Extent {
        Extent { start: self.block * block, length: self.size }
    }

    /// The node without name, as ISO 9660 alone describes it.
    fn node(&self, position: u64, block: u64) -> Node {
        let is_dir = self.flags & DIRECTORY != 0;
        Node {
            name: Vec::new(),
            kind: if is_dir { Kind::Directory } else { Kind::File },
            permissions: if is_dir { 0o555 } else { 0o444 },
            uid: 0,
            gid: 0,
            mtime: self.time,
            position,
            extents: vec![self.extent(block)],
            packed: None,
        }
    }
}

/// The Rock Ridge data of a file.
#[derive(Debug, Default)]
struct Posix {
    name: Vec<u8>,
    /// Type and permissions, owner, group.
    mode: Option<(u32, u32, u32)>,
    mtime: Option<i64>,
    link: Option<Vec<u8>>,
    /// Block of a directory that was relocated.
    child: Option<u64>,
    /// This directory was relocated here from another place.
    relocated: bool,
    packed: Option<Packed>,
}

impl Posix {
    /// Overrides the ISO 9660 fields with Rock Ridge's.
    fn dress(self, node: &mut Node) {
        if !self.name.is_empty() {
            node.name = self.name;
        }
        node.mtime = self.mtime.unwrap_or(node.mtime);
        if let Some((mode, uid, gid)) = self.mode {
            node.permissions = mode & 0o7777;
            (node.uid, node.gid) = (uid, gid);
        }
        node.kind = match (self.mode.unwrap_or_default().0 & 0o170_000, self.link) {
            _ if node.is_dir() => return,
            (0 | 0o100_000, None) => {
                node.packed = self.packed;
                return;
            }
            (0 | 0o120_000, Some(target)) => Kind::Link(target),
            (0o010_000 | 0o020_000 | 0o060_000 | 0o140_000 | 0o120_000, _) => Kind::Special,
            _ => return,
        };
        node.extents.clear();
    }
}

/// A time in 7 bytes (ECMA-119 9.1.5) as seconds since 1970.
fn time7(bytes: &[u8]) -> i64 {
    let [year, month, day, hour, minute, second, zone] = bytes else { return 0 };
    let days = days_from_civil(1900 + i64::from(*year), i64::from(*month), i64::from(*day));
    let seconds = i64::from(*hour) * 3600 + i64::from(*minute) * 60 + i64::from(*second);
    days * 86_400 + seconds - i64::from(zone.cast_signed()) * 900
}

/// Days since 1970 of a date of the Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // March first: the leap day is then the last of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The first system use entry: signature, data, and the rest.
fn susp(area: &[u8]) -> Option<(&[u8; 2], &[u8], &[u8])> {
    let signature = area.first_chunk()?;
    let length = usize::from(*area.get(2)?);
    let (entry, rest) = area.split_at_checked(length)?;
    Some((signature, entry.get(4..)?, rest))
}

/// Modification time of a `TF` entry.
fn modified(body: &[u8]) -> Option<i64> {
    let (&flags, stamps) = body.split_first()?;
    // Bit 0 creation, bit 1 modification, bit 7 the 17-byte form.
    if flags & 2 == 0 || flags & 0x80 != 0 {
        return None;
    }
    let from = if flags & 1 == 0 { 0 } else { 7 };
    stamps.get(from..from + 7).map(time7)
}

/// A symbolic link's target, component by component (`SL`).
#[derive(Default)]
struct Link {
    target: Option<Vec<u8>>,
    /// The last component goes on in the next record.
    open: bool,
}

impl Link {
    fn add(&mut self, body: &[u8]) {
        let mut rest = body.get(1..).unwrap_or_default();
        let target = self.target.get_or_insert_default();
        while let Some((&[flags, length], tail)) = rest.split_first_chunk::<2>() {
            let Some((text, tail)) = tail.split_at_checked(usize::from(length)) else { return };
            rest = tail;
            if target.len() > LINK_MAX {
                return;
            }
            if !self.open && !target.is_empty() && !target.ends_with(b"/") {
                target.push(b'/');
            }
            target.extend_from_slice(match flags & 0x0e {
                2 => b".",
                4 => b"..",
                8 => b"/",
                _ => text,
            });
            self.open = flags & 1 != 0;
        }
    }

    fn finish(self) -> Option<Vec<u8>> {
        self.target.filter(|target| !target.is_empty() && target.len() <= LINK_MAX)
    }
}

/// One part of a file, read as if it were a file: an image on a medium.
#[derive(Debug)]
pub struct Section<F> {
    file: F,
    start: u64,
    len: u64,
    at: u64,
}

impl<F> Section<F> {
    /// `len` bytes from `start` on.
    pub const fn new(file: F, start: u64, len: u64) -> Self {
        Self { file, start, len, at: 0 }
    }
}

impl<F: Read + Seek> Read for Section<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let want = buffer.len().min(left);
        self.file.seek(SeekFrom::Start(self.start.saturating_add(self.at)))?;
        let read = self.file.read(buffer.get_mut(..want).unwrap_or_default())?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<F> Seek for Section<F> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn both(bytes: &mut [u8], at: usize, number: u32) {
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&number.to_be_bytes());
    }

    fn record(id: &[u8], sector: u32, len: u32, flags: u8, susp: &[u8]) -> Vec<u8> {
        let mut out = vec![0; (33 + id.len()).next_multiple_of(2)];
        both(&mut out, 2, sector);
        both(&mut out, 10, len);
        out[25] = flags;
        out[32] = id.len() as u8;
        out[33..33 + id.len()].copy_from_slice(id);
        out.extend(susp);
        out[0] = out.len() as u8;
        out
    }

    fn nm(name: &str) -> Vec<u8> {
        [b"NM", &[5 + name.len() as u8, 1, 0][..], name.as_bytes()].concat()
    }

    /// A medium with `Live/a long name.img` in two parts and `Live/link`.
    fn medium(rock_ridge: bool) -> Vec<u8> {
        let mut iso = vec![0; 24 * 2048];
        let sector = |iso: &mut Vec<u8>, n: usize, data: &[u8]| {
            iso[n * 2048..n * 2048 + data.len()].copy_from_slice(data);
        };
        let sp: &[u8] = if rock_ridge { b"SP\x07\x01\xbe\xef\x00" } else { b"" };
        let root = record(&[0], 18, 2048, 2, b"");
        let mut pvd = vec![0; 190];
        pvd[..7].copy_from_slice(b"\x01CD001\x01");
        pvd[128..130].copy_from_slice(&2048u16.to_le_bytes());
        pvd[40..72].copy_from_slice(format!("{:<32}", "MEDIUM").as_bytes());
        pvd[156..156 + root.len()].copy_from_slice(&root);
        sector(&mut iso, 16, &pvd);
        sector(&mut iso, 17, b"\xffCD001\x01");
        let dot = [record(&[0], 18, 2048, 2, sp), record(&[1], 18, 2048, 2, b"")].concat();
        sector(&mut iso, 18, &[dot, record(b"LIVE", 19, 2048, 2, &nm("Live"))].concat());
        let mut ce = b"CE\x1c\x01".to_vec();
        ce.resize(28, 0);
        both(&mut ce, 4, 22);
        both(&mut ce, 12, 8);
        both(&mut ce, 20, 12);
        let files = [
            record(&[0], 19, 2048, 2, b""),
            record(&[1], 18, 2048, 2, b""),
            record(b"ALONGNAM.IMG;1", 20, 2048, 0x80, &[nm("a long"), ce].concat()),
            record(b"ALONGNAM.IMG;1", 21, 5, 0, &nm("ignored")),
            record(
                b"LINK.;1",
                0,
                0,
                0,
                &[nm("link"), b"SL\x08\x01\x00\x00\x01x".to_vec()].concat(),
            ),
        ];
        sector(&mut iso, 19, &files.concat());
        sector(&mut iso, 20, &[b'x'; 2048]);
        sector(&mut iso, 21, b"hello");
        sector(&mut iso, 22, &[&[0; 8][..], &nm(" n.img")].concat());
        iso
    }

    #[test]
    fn rock_ridge_names_and_parts() {
        let iso = Iso::open(medium(true)).unwrap();
        assert_eq!(iso.label, "MEDIUM");
        let dir = iso.find("Live").unwrap();
        let nodes = iso.list(&dir).unwrap();
        let names: Vec<_> = nodes.iter().map(|n| (n.text(), n.kind.clone())).collect();
        let link = Kind::Link(b"x".to_vec());
        assert_eq!(names, [("a long n.img".into(), Kind::File), ("link".into(), link)]);
        let file = iso.find("/live/a long n.img").unwrap();
        assert_eq!((file.len(), file.offset()), (2053, Some(20 * 2048)));
        let data = iso.read_path("Live/a long n.img", 4096).unwrap();
        assert_eq!((data.len(), &data[2048..]), (2053, &b"hello"[..]));
        assert!(matches!(iso.read_path("Live/a long n.img", 100), Err(IsoError::TooBig(_))));
        assert!(matches!(iso.read_path("Live", 100), Err(IsoError::Kind(_))));
        let told = iso.find("Live/no").unwrap_err().to_string();
        assert_eq!(told, "there is no /Live/no on it");
    }

    #[test]
    fn plain_names() {
        let iso = Iso::open(medium(false)).unwrap();
        assert_eq!(iso.find("live/alongnam.img").unwrap().len(), 2053);
        assert!(matches!(Iso::open(vec![0; 50_000]), Err(IsoError::NotIso(_))));
        let mut cut = medium(false);
        cut.truncate(20 * 2048 + 7);
        let told = Iso::open(cut).unwrap().read_path("live/alongnam.img", 4096).unwrap_err();
        assert_eq!(told.to_string(), "the medium is cut short");
    }

    #[test]
    fn times() {
        assert_eq!(time7(&[70, 1, 1, 0, 0, 0, 0]), 0);
        assert_eq!(time7(&[124, 2, 29, 12, 0, 0, 4]), 1_709_204_400);
    }

    #[test]
    fn sections() {
        let mut section = Section::new(io::Cursor::new(b"0123456789".to_vec()), 3, 4);
        let mut text = String::new();
        section.read_to_string(&mut text).unwrap();
        assert_eq!(text, "3456");
        assert_eq!(section.seek(SeekFrom::End(-1)).unwrap(), 3);
        assert!(section.seek(SeekFrom::Current(-9)).is_err());
    }

    proptest! {
        #[test]
        fn damage_is_survived(changes in prop::collection::vec((16usize * 2048..20 * 2048, any::<u8>()), 1..40), rock: bool) {
            let mut bytes = medium(rock);
            for (at, with) in changes {
                bytes[at] = with;
            }
            if let Ok(iso) = Iso::open(bytes) {
                let _ = iso.read_path("live/a long n.img", 1 << 20);
                let _ = iso.find("live").and_then(|dir| iso.list(&dir));
            }
        }
    }
}
