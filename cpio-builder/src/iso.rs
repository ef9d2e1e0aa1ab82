//! Reading ISO 9660 media: directories and files, with the long names of Rock
//! Ridge (IEEE P1282) and, without it, of Joliet.
//!
//! ECMA-119 is followed as far as live media go: one volume, extents in one
//! piece or several, the primary or the Joliet descriptor. Links and device
//! nodes are passed over. All numbers are taken as hostile: sizes, depth and
//! counts are bounded, and nothing is kept that was not read.

use crate::modinfo::ReadAt;
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

const SECTOR: u64 = 2048;
/// Volume descriptors searched.
const DESCRIPTORS: u64 = 32;
/// Most bytes of one directory.
const DIR_MAX: u64 = 4 << 20;
/// Most parts of one file.
const EXTENTS_MAX: usize = 64;
/// Longest name.
const NAME_MAX: usize = 255;

/// Why a medium or something on it is not read.
#[derive(Debug)]
pub enum IsoError {
    /// There is no ISO 9660 volume.
    NotIso,
    /// The path is not there.
    NotFound(String),
    /// A file where a directory was wanted, or the other way round.
    Kind(String),
    /// Larger than was asked for.
    TooBig(String),
    /// The medium is damaged or cut short.
    Damaged(&'static str),
    /// Reading failed.
    Read(io::Error),
}

impl fmt::Display for IsoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotIso => write!(f, "it is no ISO 9660 medium"),
            Self::NotFound(path) => write!(f, "there is no /{path} on it"),
            Self::Kind(path) => write!(f, "/{path} is not what was expected: file or directory"),
            Self::TooBig(path) => write!(f, "/{path} is too large"),
            Self::Damaged(what) => write!(f, "the medium is damaged: {what}"),
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

/// A file or directory on a medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name in its directory.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Parts: offset and length, in bytes.
    extents: Vec<(u64, u64)>,
}

impl Node {
    /// Bytes of the file.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.extents.iter().map(|(_, len)| len).sum()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Offset on the medium, if the file lies in one piece.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        let (first, _) = self.extents.first()?;
        let mut end = *first;
        for (at, len) in &self.extents {
            if *at != end {
                return None;
            }
            end = at.checked_add(*len)?;
        }
        Some(*first)
    }
}

/// How names are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Plain,
    /// Bytes to skip at the start of each system use area.
    RockRidge(usize),
    Joliet,
}

/// A medium.
#[derive(Debug)]
pub struct Iso<F: ReadAt> {
    file: F,
    root: Node,
    names: Names,
    /// Name of the volume.
    pub label: String,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_le_bytes(*b))
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

impl<F: ReadAt> Iso<F> {
    /// Finds the volume.
    ///
    /// # Errors
    /// [`IsoError::NotIso`], or reading fails.
    pub fn open(file: F) -> Result<Self, IsoError> {
        let mut found = None;
        let mut joliet = None;
        for n in 0..DESCRIPTORS {
            let mut sector = vec![0; 2048];
            match file.read_exact_at(&mut sector, (16 + n) * SECTOR) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
                other => other?,
            }
            if sector.get(1..6) != Some(b"CD001") {
                break;
            }
            match byte(&sector, 0) {
                1 if found.is_none() => found = Some(sector),
                2 if matches!(sector.get(88..91), Some(b"%/@" | b"%/C" | b"%/E")) => {
                    joliet = Some(sector);
                }
                255 => break,
                _ => {}
            }
        }
        let primary = found.ok_or(IsoError::NotIso)?;
        let label = sector_text(primary.get(40..72));
        let root_of = |sector: &[u8]| {
            let record = sector.get(156..190).unwrap_or_default();
            let extent = (u64::from(u32_at(record, 2)) * SECTOR, u64::from(u32_at(record, 10)));
            Node { name: String::new(), is_dir: true, extents: vec![extent] }
        };
        if root_of(&primary).is_empty() {
            return Err(IsoError::Damaged("it has no root directory"));
        }
        let mut iso = Self { root: root_of(&primary), names: Names::Plain, label, file };
        if let Some(skip) = iso.rock_ridge()? {
            iso.names = Names::RockRidge(skip);
        } else if let Some(joliet) = joliet {
            iso.root = root_of(&joliet);
            iso.names = Names::Joliet;
        }
        Ok(iso)
    }

    /// Looks for SUSP's mark in the root's first record.
    fn rock_ridge(&self) -> Result<Option<usize>, IsoError> {
        let bytes = self.dir_bytes(&self.root)?;
        let len = usize::from(byte(&bytes, 0));
        let used = 33 + usize::from(byte(&bytes, 32)).next_multiple_of(2).max(1);
        let area = bytes.get(..len).and_then(|record| record.get(used..)).unwrap_or_default();
        // "SP", length 7, version 1, and two check bytes.
        let found = area.get(..6) == Some(b"SP\x07\x01\xbe\xef");
        let found = found || bytes.get(34..40) == Some(b"SP\x07\x01\xbe\xef");
        let skip = usize::from(if bytes.get(34..40) == Some(b"SP\x07\x01\xbe\xef") {
            byte(&bytes, 40)
        } else {
            byte(area, 6)
        });
        Ok(found.then_some(skip))
    }

    fn dir_bytes(&self, dir: &Node) -> Result<Vec<u8>, IsoError> {
        if dir.len() > DIR_MAX {
            return Err(IsoError::Damaged("a directory is too large"));
        }
        self.read(dir, DIR_MAX)
    }

    /// What is in a directory, as it is recorded.
    ///
    /// # Errors
    /// Damage, or reading fails.
    pub fn list(&self, dir: &Node) -> Result<Vec<Node>, IsoError> {
        if !dir.is_dir {
            return Err(IsoError::Kind(dir.name.clone()));
        }
        let bytes = self.dir_bytes(dir)?;
        let mut nodes: Vec<Node> = Vec::new();
        let mut goes_on = false;
        // Records do not cross sectors; a zero length ends one.
        for sector in bytes.chunks(2048) {
            let mut rest = sector;
            while let Some((record, after)) = rest.split_at_checked(usize::from(byte(rest, 0))) {
                if record.len() < 34 {
                    break;
                }
                rest = after;
                let flags = byte(record, 25);
                let extent = (u64::from(u32_at(record, 2)) * SECTOR, u64::from(u32_at(record, 10)));
                let id_len = usize::from(byte(record, 32));
                let id = record.get(33..33 + id_len).unwrap_or_default();
                if matches!(id, [0] | [1] | []) {
                    continue;
                }
                if goes_on && let Some(last) = nodes.last_mut() {
                    if last.extents.len() >= EXTENTS_MAX {
                        return Err(IsoError::Damaged("a file has too many parts"));
                    }
                    last.extents.push(extent);
                } else {
                    let area = record.get((33 + id_len).next_multiple_of(2)..).unwrap_or_default();
                    let (name, plain) = self.name(id, area)?;
                    // Links and devices have no content here.
                    if plain {
                        nodes.push(Node { name, is_dir: flags & 2 != 0, extents: vec![extent] });
                    }
                }
                goes_on = flags & 0x80 != 0;
            }
        }
        Ok(nodes)
    }

    /// The name of a record, and whether it is a file or directory.
    fn name(&self, id: &[u8], area: &[u8]) -> Result<(String, bool), IsoError> {
        let plain = || {
            let text: String = id.iter().map(|b| char::from(*b)).collect();
            let text = text.split(';').next().unwrap_or_default();
            text.trim_end_matches('.').to_ascii_lowercase()
        };
        let skip = match self.names {
            Names::Plain => return Ok((plain(), true)),
            Names::Joliet => {
                let units = id.as_chunks::<2>().0.iter().map(|b| u16::from_be_bytes(*b));
                let text: String =
                    char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect();
                return Ok((text.split(';').next().unwrap_or_default().to_owned(), true));
            }
            Names::RockRidge(skip) => skip,
        };
        let mut name = Vec::new();
        let mut is_plain = true;
        let mut area = area.get(skip..).unwrap_or_default().to_vec();
        // Each continuation is a seek; real names need one.
        for _ in 0..4 {
            let mut next = None;
            let mut rest = area.as_slice();
            while rest.len() >= 4 {
                let Some((entry, after)) = rest.split_at_checked(usize::from(byte(rest, 2))) else {
                    break;
                };
                if entry.len() < 4 {
                    break;
                }
                rest = after;
                match entry.get(..2) {
                    Some(b"NM") if byte(entry, 4) & 6 == 0 => {
                        name.extend_from_slice(entry.get(5..).unwrap_or_default());
                    }
                    Some(b"SL" | b"PN") => is_plain = false,
                    Some(b"CE") => {
                        let at =
                            u64::from(u32_at(entry, 4)) * SECTOR + u64::from(u32_at(entry, 12));
                        next = Some((at, u32_at(entry, 20)));
                    }
                    Some(b"ST") => break,
                    _ => {}
                }
            }
            let Some((at, len)) = next.filter(|(_, len)| u64::from(*len) <= SECTOR) else { break };
            area = vec![0; len as usize];
            self.file.read_exact_at(&mut area, at)?;
        }
        if name.is_empty() {
            return Ok((plain(), is_plain));
        }
        name.truncate(NAME_MAX);
        Ok((String::from_utf8_lossy(&name).into_owned(), is_plain))
    }

    /// Finds a path. Names are compared exactly first, then without case.
    ///
    /// # Errors
    /// [`IsoError::NotFound`], damage, or reading fails.
    pub fn find(&self, path: &str) -> Result<Node, IsoError> {
        let mut node = self.root.clone();
        let path = path.trim_matches('/');
        for part in path.split('/').filter(|p| !matches!(*p, "" | ".")).take(32) {
            let absent = || IsoError::NotFound(path.to_owned());
            if !node.is_dir {
                return Err(absent());
            }
            let nodes = self.list(&node)?;
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
    /// [`IsoError::TooBig`], or reading fails.
    pub fn read(&self, node: &Node, limit: u64) -> Result<Vec<u8>, IsoError> {
        if node.len() > limit {
            return Err(IsoError::TooBig(node.name.clone()));
        }
        let mut out = Vec::new();
        for (at, len) in &node.extents {
            let (mut at, mut left) = (*at, *len);
            // In pieces: a length may be a lie.
            while left > 0 {
                let size = left.min(1 << 20);
                let mut piece = vec![0; usize::try_from(size).unwrap_or_default()];
                self.file.read_exact_at(&mut piece, at)?;
                out.extend(piece);
                (at, left) = (at.saturating_add(size), left - size);
            }
        }
        Ok(out)
    }

    /// Reads a file by its path.
    ///
    /// # Errors
    /// It is not there, is a directory, is larger than `limit`, or reading fails.
    pub fn read_path(&self, path: &str, limit: u64) -> Result<Vec<u8>, IsoError> {
        let node = self.find(path)?;
        if node.is_dir {
            return Err(IsoError::Kind(path.to_owned()));
        }
        self.read(&node, limit)
    }
}

fn sector_text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).trim_end_matches([' ', '\0']).to_owned()
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

    impl ReadAt for Vec<u8> {
        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            self.as_slice().read_exact_at(buffer, offset)
        }
    }

    #[test]
    fn rock_ridge_names_and_parts() {
        let iso = Iso::open(medium(true)).unwrap();
        assert_eq!(iso.label, "MEDIUM");
        let dir = iso.find("Live").unwrap();
        let names: Vec<String> = iso.list(&dir).unwrap().into_iter().map(|n| n.name).collect();
        assert_eq!(names, ["a long n.img"]);
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
        assert!(matches!(Iso::open(vec![0; 50_000]), Err(IsoError::NotIso)));
        let mut cut = medium(false);
        cut.truncate(20 * 2048 + 7);
        let told = Iso::open(cut).unwrap().read_path("live/alongnam.img", 4096).unwrap_err();
        assert_eq!(told.to_string(), "the medium is cut short");
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
