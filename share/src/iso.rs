//! ISO 9660 (ECMA-119) with Rock Ridge (IEEE P1282 over SUSP P1281) or Joliet,
//! read into a [`Tree`] without mounting.
//!
//! Rock Ridge is preferred, then Joliet, then the plain names in lower case
//! without version, as the kernel shows them. Files of several extents and
//! relocated deep directories are put together. The number of a file is the
//! position of its directory record: the same as long as the image is the same.
//!
//! Not read: interleaved files, transparent compression (ZF: the compressed bytes
//! are served), extended attribute records, UDF.

use crate::error::Error;
use crate::tree::{
    At, Builder, Extent, FileId, Kind, MAX_DEPTH, MAX_LINK, Node, ReadAt, Tree, hash,
};
use std::collections::HashSet;
use std::sync::Arc;

const SECTOR: u64 = 2048;
/// Where volume descriptors begin.
const DESCRIPTORS: u64 = 16;
/// More descriptors than any image has.
const MAX_DESCRIPTORS: u64 = 64;
/// The largest directory; one with 100,000 entries has 15 MB.
const MAX_DIRECTORY: u64 = 64 << 20;
/// All directories together.
const MAX_DIRECTORIES: u64 = 512 << 20;
/// Continuation areas of one record.
const MAX_CONTINUATIONS: usize = 64;

/// What an image says of itself, and its files.
#[derive(Debug)]
pub struct Iso {
    /// Volume label.
    pub label: String,
    /// Volume creation time as written: `YYYYMMDDHHMMSScc`.
    pub created: String,
    /// Which names the tree has.
    pub names: Names,
    /// The files.
    pub tree: Tree,
    /// Bytes that the volume should have and the image lacks; 0 for a whole one.
    pub missing: u64,
}

/// Where names and permissions come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// POSIX names, permissions and links.
    RockRidge,
    /// Unicode names.
    Joliet,
    /// Neither.
    Plain,
}

/// Reads an image's directories.
///
/// # Errors
/// [`Error::Image`] when it is not ISO 9660 or its directories are damaged.
pub fn open(image: Arc<dyn ReadAt>) -> Result<Iso, Error> {
    let source = |source| Error::System { doing: "read the image", source };
    let length = image.length().map_err(source)?;
    let mut primary = None;
    let mut joliet = None;
    for n in DESCRIPTORS..DESCRIPTORS + MAX_DESCRIPTORS {
        let mut sector = vec![0; SECTOR as usize];
        let at = n * SECTOR;
        if at + SECTOR > length || image.read_exact_at(&mut sector, at).is_err() {
            break;
        }
        if sector.get(1..6) != Some(b"CD001") {
            break;
        }
        match sector.first() {
            Some(1) if primary.is_none() => primary = Some((at, sector)),
            Some(2) if joliet.is_none() && is_joliet(&sector) => joliet = Some((at, sector)),
            Some(255) => break,
            _ => {}
        }
    }
    let Some((at, descriptor)) = primary else {
        return Err(bad("it is not an ISO 9660 image".into()));
    };
    let volume = Volume::read(&descriptor)?;
    let mut reader = Reader {
        image: image.clone(),
        length,
        block: volume.block,
        names: Names::Plain,
        skip: 0,
        seen: HashSet::new(),
        left: MAX_DIRECTORIES,
    };
    let mut root = (at + ROOT_RECORD as u64, volume.root);
    reader.find_rock_ridge(&volume.root)?;
    if reader.names == Names::Plain
        && let Some((at, descriptor)) = &joliet
    {
        let volume = Volume::read(descriptor)?;
        reader.names = Names::Joliet;
        reader.block = volume.block;
        root = (at + ROOT_RECORD as u64, volume.root);
    }
    let names = reader.names;
    let content = reader.directory(&root.1)?;
    let identity = hash(&[&descriptor, &content, &length.to_be_bytes()]);
    let tree = reader.tree(root.0, &root.1, identity)?;
    Ok(Iso {
        label: volume.label,
        created: volume.created,
        names,
        tree,
        missing: volume.bytes.saturating_sub(length),
    })
}

fn bad(why: String) -> Error {
    Error::Image { why }
}

/// Position of the root directory's record in a volume descriptor.
const ROOT_RECORD: usize = 156;

struct Volume {
    label: String,
    created: String,
    block: u64,
    bytes: u64,
    root: Record,
}

impl Volume {
    fn read(sector: &[u8]) -> Result<Self, Error> {
        let text = |from: usize, to: usize| {
            let field = sector.get(from..to).unwrap_or_default();
            String::from_utf8_lossy(field).trim_matches([' ', '\0']).to_owned()
        };
        let block = u64::from(le16(sector, 128).unwrap_or_default());
        if ![512, 1024, 2048].contains(&block) {
            return Err(bad(format!("its block size is {block}, which no ISO 9660 image has")));
        }
        let root = sector.get(ROOT_RECORD..ROOT_RECORD + 34);
        let root = root.and_then(Record::read).filter(|root| root.flags & DIRECTORY != 0);
        Ok(Self {
            label: text(40, 72),
            created: text(813, 829),
            block,
            bytes: u64::from(le32(sector, 80).unwrap_or_default()) * block,
            root: root.ok_or_else(|| bad("it has no root directory".into()))?,
        })
    }
}

/// A supplementary descriptor with one of the UCS-2 escape sequences.
fn is_joliet(sector: &[u8]) -> bool {
    matches!(sector.get(88..91), Some(b"%/@" | b"%/C" | b"%/E"))
}

fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

const DIRECTORY: u8 = 2;
const MORE_EXTENTS: u8 = 0x80;
const ASSOCIATED: u8 = 4;

/// The fixed part of a directory record (ECMA-119 9.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    length: usize,
    block: u64,
    size: u64,
    time: i64,
    flags: u8,
    interleaved: bool,
    name: (usize, usize),
}

impl Record {
    fn read(bytes: &[u8]) -> Option<Self> {
        let length = usize::from(*bytes.first()?);
        let bytes = bytes.get(..length)?;
        let name = usize::from(*bytes.get(32)?);
        let attributes = u64::from(*bytes.get(1)?);
        bytes.get(33..33 + name)?;
        Some(Self {
            length,
            block: u64::from(le32(bytes, 2)?) + attributes,
            size: u64::from(le32(bytes, 10)?),
            time: time7(bytes.get(18..25)?),
            flags: *bytes.get(25)?,
            interleaved: *bytes.get(26)? != 0 || *bytes.get(27)? != 0,
            name: (33, 33 + name),
        })
    }

    /// The system use area, behind the name padded to an even length.
    fn system_use<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let name = self.name.1 - self.name.0;
        let from = self.name.1 + usize::from(name.is_multiple_of(2));
        bytes.get(from..self.length).unwrap_or_default()
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

/// What Rock Ridge says of a file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Posix {
    name: Vec<u8>,
    mode: Option<(u32, u32, u32)>,
    mtime: Option<i64>,
    link: Option<Vec<u8>>,
    /// Where a relocated directory is.
    child: Option<u64>,
    /// This directory was relocated here and belongs elsewhere.
    relocated: bool,
}

struct Reader {
    image: Arc<dyn ReadAt>,
    length: u64,
    block: u64,
    names: Names,
    /// Bytes of each system use area that belong to somebody else (SUSP `SP`).
    skip: usize,
    seen: HashSet<u64>,
    left: u64,
}

impl Reader {
    /// The bytes of a directory.
    fn directory(&self, record: &Record) -> Result<Vec<u8>, Error> {
        let start = record.block * self.block;
        if record.size > MAX_DIRECTORY {
            return Err(bad(format!("it has a directory of {} bytes", record.size)));
        }
        if start.checked_add(record.size).is_none_or(|end| end > self.length) {
            return Err(bad(format!(
                "a directory lies at byte {start}, behind the end of the image at {}: the image \
                 is cut short; get it again",
                self.length
            )));
        }
        let mut bytes = vec![0; usize::try_from(record.size).unwrap_or(0)];
        let read = self.image.read_exact_at(&mut bytes, start);
        read.map_err(|source| Error::System { doing: "read a directory of the image", source })?;
        Ok(bytes)
    }

    /// Looks for the SUSP mark in the root directory's own record.
    fn find_rock_ridge(&mut self, root: &Record) -> Result<(), Error> {
        let bytes = self.directory(root)?;
        let Some(own) = Record::read(&bytes) else { return Ok(()) };
        let area = own.system_use(&bytes).to_vec();
        // CD-ROM XA puts 14 bytes in front of everybody's.
        for skip in [0, 14] {
            if let Some([b'S', b'P', 7, 1, 0xbe, 0xef, own]) = area.get(skip..skip + 7) {
                self.names = Names::RockRidge;
                self.skip = usize::from(*own);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads the whole tree.
    fn tree(mut self, position: u64, root: &Record, identity: u64) -> Result<Tree, Error> {
        let too_many = || bad(format!("it has more than {} files", crate::tree::MAX_NODES));
        let mut node = Node {
            id: FileId(position),
            name: Vec::new(),
            permissions: 0o555,
            uid: 0,
            gid: 0,
            mtime: root.time,
            size: SECTOR,
            kind: Kind::Directory(Vec::new()),
        };
        if self.names == Names::RockRidge {
            let bytes = self.directory(root)?;
            if let Some(own) = Record::read(&bytes) {
                self.posix(own.system_use(&bytes)).dress(&mut node);
            }
        }
        let mut builder = Builder::new(node);
        let mut todo = vec![(Tree::ROOT, *root, 0usize)];
        while let Some((at, record, depth)) = todo.pop() {
            if depth > MAX_DEPTH {
                return Err(bad(format!("its directories are nested deeper than {MAX_DEPTH}")));
            }
            if !self.seen.insert(record.block) {
                return Err(bad("one of its directories contains itself".into()));
            }
            self.left = self
                .left
                .checked_sub(record.size)
                .ok_or_else(|| bad("its directories are larger than any medium's".into()))?;
            self.entries(at, &record, depth, &mut builder, &mut todo)?.ok_or_else(too_many)?;
        }
        Ok(builder.finish(identity, Some(self.image)))
    }

    /// Adds the entries of one directory. Nothing if there are too many.
    fn entries(
        &self,
        at: At,
        directory: &Record,
        depth: usize,
        builder: &mut Builder,
        todo: &mut Vec<(At, Record, usize)>,
    ) -> Result<Option<()>, Error> {
        let bytes = self.directory(directory)?;
        let start = directory.block * self.block;
        // The extents of a file so far, and where its first record is.
        let mut pending: Option<(u64, Vec<Extent>)> = None;
        let mut offset = 0;
        let mut number = 0usize;
        while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
            if rest.first() == Some(&0) {
                // Records do not cross sectors: the rest of this one is empty.
                offset = (offset / SECTOR as usize + 1) * SECTOR as usize;
                continue;
            }
            let Some(record) = Record::read(rest) else {
                return Err(bad(format!(
                    "the directory at byte {start} has a damaged record at byte {offset}"
                )));
            };
            let position = start + offset as u64;
            offset += record.length;
            number += 1;
            // The first two are the directory itself and its parent.
            if number <= 2 || record.flags & ASSOCIATED != 0 {
                continue;
            }
            if record.interleaved {
                return Err(bad("it has interleaved files, which are not read".into()));
            }
            let extent = Extent { start: record.block * self.block, length: record.size };
            if record.flags & DIRECTORY == 0 {
                let (_, extents) = pending.get_or_insert_with(|| (position, Vec::new()));
                extents.push(extent);
                if record.flags & MORE_EXTENTS != 0 {
                    continue;
                }
            }
            let name = rest.get(record.name.0..record.name.1).unwrap_or_default();
            let posix = match self.names {
                Names::RockRidge => self.posix(record.system_use(rest)),
                _ => Posix::default(),
            };
            if posix.relocated {
                pending = None;
                continue;
            }
            let (position, extents) = pending.take().unwrap_or((position, Vec::new()));
            let mut node = Node {
                id: FileId(position),
                name: self.name(name),
                permissions: 0o444,
                uid: 0,
                gid: 0,
                mtime: record.time,
                size: extents.iter().fold(0, |sum: u64, e| sum.saturating_add(e.length)),
                kind: Kind::Extents(extents),
            };
            if record.flags & DIRECTORY != 0 || posix.child.is_some() {
                node.kind = Kind::Directory(Vec::new());
                node.permissions = 0o555;
                node.size = SECTOR;
            }
            let child = posix.child;
            posix.dress(&mut node);
            if !plain(&node.name) {
                continue;
            }
            let is_dir = matches!(node.kind, Kind::Directory(_));
            let Some(new) = builder.add(at, node) else { return Ok(None) };
            if let Some(block) = child {
                todo.push((new, self.relocated(block)?, depth + 1));
            } else if is_dir {
                todo.push((new, record, depth + 1));
            }
        }
        Ok(Some(()))
    }

    /// The directory that a child link leads to: its own first record.
    fn relocated(&self, block: u64) -> Result<Record, Error> {
        let mut sector = vec![0; SECTOR as usize];
        let start = block * self.block;
        self.image.read_exact_at(&mut sector, start).ok();
        Record::read(&sector)
            .filter(|record| record.flags & DIRECTORY != 0 && record.block == block)
            .ok_or_else(|| bad(format!("a relocated directory is not at byte {start}")))
    }

    /// A name without Rock Ridge.
    fn name(&self, raw: &[u8]) -> Vec<u8> {
        let text = match self.names {
            Names::Joliet => {
                let units: Vec<u16> = raw
                    .chunks_exact(2)
                    .filter_map(|pair| Some(u16::from_be_bytes(*pair.first_chunk()?)))
                    .collect();
                String::from_utf16_lossy(&units)
            }
            _ => String::from_utf8_lossy(raw).to_ascii_lowercase(),
        };
        let text = text.strip_suffix(";1").unwrap_or(&text);
        let text = if self.names == Names::Plain { text.trim_end_matches('.') } else { text };
        text.as_bytes().to_vec()
    }

    /// Reads the system use entries of a record, continuation areas included.
    fn posix(&self, area: &[u8]) -> Posix {
        let mut posix = Posix::default();
        let mut link = Link::default();
        let mut area = area.get(self.skip..).unwrap_or_default().to_vec();
        for _ in 0..MAX_CONTINUATIONS {
            let mut next = None;
            let mut rest = area.as_slice();
            while let Some((signature, body, tail)) = susp(rest) {
                rest = tail;
                match signature {
                    b"CE" => next = le32(body, 0).zip(le32(body, 8)).zip(le32(body, 16)),
                    b"ST" => break,
                    b"NM" if posix.name.len() < 1024 => {
                        posix.name.extend_from_slice(body.get(1..).unwrap_or_default());
                    }
                    b"PX" => {
                        let id = |at| le32(body, at).unwrap_or_default();
                        posix.mode = le32(body, 0).map(|mode| (mode, id(16), id(24)));
                    }
                    b"TF" => posix.mtime = modified(body).or(posix.mtime),
                    b"SL" => link.add(body),
                    b"CL" => posix.child = le32(body, 0).map(u64::from),
                    b"RE" => posix.relocated = true,
                    _ => {}
                }
            }
            let Some(((block, offset), length)) = next else { break };
            let length = usize::try_from(length).unwrap_or(usize::MAX).min(SECTOR as usize);
            let mut bytes = vec![0; length];
            let at = u64::from(block) * self.block + u64::from(offset);
            if self.image.read_exact_at(&mut bytes, at).is_err() {
                break;
            }
            area = bytes;
        }
        posix.link = link.finish();
        posix
    }
}

/// The first system use entry: signature, data, the rest behind it.
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
            if target.len() > MAX_LINK {
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
        self.target.filter(|target| !target.is_empty() && target.len() <= MAX_LINK)
    }
}

impl Posix {
    /// Puts what Rock Ridge says over what ISO 9660 says.
    fn dress(self, node: &mut Node) {
        if !self.name.is_empty() {
            node.name = self.name;
        }
        if let Some(mtime) = self.mtime {
            node.mtime = mtime;
        }
        let Some((mode, uid, gid)) = self.mode else { return };
        node.permissions = mode & 0o7777;
        (node.uid, node.gid) = (uid, gid);
        match (mode & 0o170_000, self.link) {
            (0o120_000, Some(target)) => {
                node.size = target.len() as u64;
                node.kind = Kind::Link(target);
            }
            (0o010_000 | 0o020_000 | 0o060_000 | 0o140_000 | 0o120_000, _) => {
                node.size = 0;
                node.kind = Kind::Special;
            }
            _ => {}
        }
    }
}

/// Whether a name may stand in a directory.
fn plain(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..")
        && name.len() <= 255
        && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

/// Reads everything once from arbitrary bytes; for fuzzers.
pub fn fuzz(data: &[u8]) {
    let _ = open(Arc::new(data.to_vec()));
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;
    use std::process::Command;

    /// An image made by xorriso; nothing where there is none.
    pub fn made_by_xorriso(tree: &Path, args: &[&str]) -> Option<Vec<u8>> {
        let out = tree.with_extension("iso");
        let mut xorriso = Command::new("xorriso");
        xorriso.args(["-as", "mkisofs", "-quiet", "-V", "A_LABEL"]).args(args);
        let done = xorriso.arg("-o").arg(&out).arg(tree).output().ok()?;
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        std::fs::read(out).ok()
    }

    pub fn sample() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tree");
        let deep = "Live/1/2/3/4/5/6/7/8/9/10";
        std::fs::create_dir_all(root.join(deep)).unwrap();
        std::fs::write(root.join(deep).join("bottom"), b"deep down").unwrap();
        std::fs::write(root.join("Live/filesystem.squashfs"), vec![7; 5000]).unwrap();
        std::fs::write(root.join(format!("{}.txt", "long".repeat(50))), b"x").unwrap();
        for n in 0..300 {
            std::fs::write(root.join(format!("Live/file-{n}")), format!("{n}")).unwrap();
        }
        let target = format!("Live/{}", "../Live/".repeat(60));
        std::os::unix::fs::symlink(&target, root.join("link")).unwrap();
        std::os::unix::fs::symlink("/Live/1", root.join("absolute")).unwrap();
        dir
    }

    fn opened(bytes: &[u8]) -> Iso {
        open(Arc::new(bytes.to_vec())).unwrap()
    }

    fn text(tree: &Tree, path: &str) -> String {
        let (at, size) = tree.file(path).unwrap_or_else(|| panic!("no {path}"));
        String::from_utf8(tree.read_all(at, size).unwrap()).unwrap()
    }

    #[test]
    fn rock_ridge_is_what_was_put_in() {
        let dir = sample();
        let Some(bytes) = made_by_xorriso(&dir.path().join("tree"), &["-r", "-J"]) else { return };
        let iso = opened(&bytes);
        assert_eq!((iso.names, iso.label.as_str(), iso.missing), (Names::RockRidge, "A_LABEL", 0));
        let tree = &iso.tree;
        assert_eq!(text(tree, "/Live/1/2/3/4/5/6/7/8/9/10/bottom"), "deep down");
        assert_eq!(text(tree, "/absolute/2/3/4/5/6/7/8/9/10/bottom"), "deep down");
        assert_eq!(text(tree, "/link/file-299"), "299");
        assert_eq!(text(tree, &format!("/{}.txt", "long".repeat(50))), "x");
        assert_eq!(tree.children(tree.walk("/Live").unwrap()).len(), 302);
        let again = opened(&bytes);
        assert_eq!(again.tree.identity, tree.identity);
        let (at, _) = tree.file("/Live/file-17").unwrap();
        let id = tree.node(at).unwrap().id;
        assert_eq!(again.tree.path(again.tree.find(id).unwrap()), "/Live/file-17");
    }

    #[test]
    fn relocated_directories_are_where_they_belong() {
        let dir = sample();
        let tree = dir.path().join("tree");
        let out = dir.path().join("deep.iso");
        let mut xorriso = Command::new("xorriso");
        xorriso.args(["-compliance", "deep_paths_off", "-rr_reloc_dir", "/moved", "-outdev"]);
        xorriso.arg(&out).arg("-map").arg(&tree).arg("/");
        if !xorriso.output().is_ok_and(|done| done.status.success()) {
            return;
        }
        let iso = opened(&std::fs::read(out).unwrap());
        assert_eq!(text(&iso.tree, "/Live/1/2/3/4/5/6/7/8/9/10/bottom"), "deep down");
        assert!(iso.tree.children(iso.tree.walk("/moved").unwrap()).is_empty());
    }

    #[test]
    fn joliet_and_plain_names() {
        let dir = sample();
        let tree = dir.path().join("tree");
        std::fs::remove_dir_all(tree.join("Live/1")).unwrap();
        let Some(joliet) = made_by_xorriso(&tree, &["--norock", "-J"]) else { return };
        let iso = opened(&joliet);
        assert_eq!(iso.names, Names::Joliet);
        assert_eq!(text(&iso.tree, "/Live/file-299"), "299");
        let plain = made_by_xorriso(&tree, &["--norock", "-iso-level", "1"]).unwrap();
        let iso = opened(&plain);
        assert_eq!(iso.names, Names::Plain);
        assert!(iso.tree.walk("/live/filesyst.squ").is_some());
    }

    #[test]
    fn a_cut_image_says_so() {
        let dir = sample();
        let Some(bytes) = made_by_xorriso(&dir.path().join("tree"), &["-r"]) else { return };
        let iso = opened(&bytes[..bytes.len() - 4096]);
        assert_eq!(iso.missing, 4096);
        let why = open(Arc::new(bytes[..40 * 1024].to_vec())).unwrap_err().to_string();
        assert!(why.contains("cut short"), "{why}");
        let why = open(Arc::new(vec![0; 1 << 20])).unwrap_err().to_string();
        assert!(why.contains("not an ISO 9660"), "{why}");
    }

    #[test]
    fn times() {
        assert_eq!(time7(&[70, 1, 1, 0, 0, 0, 0]), 0);
        assert_eq!(time7(&[124, 2, 29, 12, 0, 0, 4]), 1_709_204_400);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..Default::default() })]
        #[test]
        fn damage_never_panics(
            hits in proptest::collection::vec((0usize..120_000, any::<u8>()), 1..40)
        ) {
            thread_local! {
                static IMAGE: Option<Vec<u8>> = {
                    let dir = sample();
                    made_by_xorriso(&dir.path().join("tree"), &["-r"])
                };
            }
            IMAGE.with(|image| {
                let Some(image) = image else { return };
                let mut bytes = image.clone();
                for (at, value) in &hits {
                    let at = 32768 + at % (bytes.len() - 32768);
                    bytes[at] = *value;
                }
                if let Ok(iso) = open(Arc::new(bytes)) {
                    for at in iso.tree.children(Tree::ROOT) {
                        let _ = iso.tree.read_all(*at, 1 << 20);
                    }
                }
            });
        }
    }
}
