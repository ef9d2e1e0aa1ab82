//! Images that other programs made, as one disk: an image of partclone or ntfsclone, or a
//! directory of Clonezilla with a whole disk.
//!
//! All of it is read, and its checksums compared, before the first byte is written. What
//! Clonezilla keeps of the partition table goes through sfdisk, onto a file of the disk's length.

use super::install::feed;
use crate::failure::Failure;
use blockmap::Extent;
use clone::edge::Level;
use clone::edge::World as _;
use clone::edge::image::write;
use clone::image::foreign::{Foreign, MAGIC, NTFSCLONE, PARTCLONE};
use clone::outcome::{Amount, Received};
use clone::room::keep;
use clone::room::manifest::{CHUNK, Disk, Layout, Manifest};
use cpio_builder::compress::{self, Codec};
use cpio_builder::tools::Workplace;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most bytes of one of Clonezilla's texts.
const TEXT: u64 = 1 << 20;
/// Bytes of a raw stream that are taken at once.
const PIECE: usize = 1 << 20;

/// What is at a place of the disk.
#[derive(Debug, Clone)]
enum What {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What these files, one after the other, are an image of.
    Image(Vec<PathBuf>),
}

/// What is at this place.
type Placed = (Extent, What);
/// A partition's place and its name.
type Named = (Extent, String);

/// Images, as one disk.
#[derive(Debug)]
pub struct Source {
    name: String,
    size: u64,
    sector: u32,
    /// What is where, in its order, and how long that place is.
    parts: Vec<Placed>,
}

/// Whether it is one of these images; an error when it cannot be read.
pub fn is_foreign(path: &Path) -> Result<bool, Failure> {
    let failed = |e: io::Error| Failure::Failed(format!("{}: {e}", path.display()));
    if path.is_dir() {
        return Ok(true);
    }
    let mut first = [0; MAGIC];
    let mut stream = open(&[path.to_owned()]).map_err(failed)?;
    Ok(fill(&mut stream, &mut first).map_err(failed)? && (first == PARTCLONE || first == NTFSCLONE))
}

/// The files, one after the other, unpacked.
fn open(files: &[PathBuf]) -> io::Result<Box<dyn Read>> {
    let mut all: Box<dyn Read> = Box::new(io::empty());
    for file in files {
        all = Box::new(all.chain(File::open(file)?));
    }
    let mut all = BufReader::with_capacity(PIECE, all);
    let codec = Codec::detect(all.fill_buf()?).unwrap_or(Codec::None);
    compress::reader(codec, all).map_err(|e| {
        io::Error::other(format!("packed by {}, which is not unpacked here: {e}", codec.name()))
    })
}

/// Fills the buffer; false when there was nothing more.
fn fill(from: &mut dyn Read, room: &mut [u8]) -> io::Result<bool> {
    let mut done = 0;
    while let Some(rest) = room.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match from.read(rest)? {
            0 if done == 0 => return Ok(false),
            0 => return Err(io::Error::other("is cut short")),
            n => done += n,
        }
    }
    Ok(true)
}

/// Reads a source's pieces in their order.
struct Pieces {
    parts: VecDeque<Placed>,
    now: Option<Now>,
    notes: Vec<String>,
}

/// An image that is being read.
struct Now {
    place: Extent,
    name: String,
    stream: Box<dyn Read>,
    /// Nothing for a raw one.
    image: Option<Foreign>,
    at: u64,
    /// The first sector of an NTFS, for its backup, which partclone leaves out.
    boot: Option<Vec<u8>>,
    held: Vec<u8>,
}

impl Pieces {
    fn of(source: &Source) -> Self {
        Self { parts: source.parts.iter().cloned().collect(), now: None, notes: Vec::new() }
    }

    fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>, Failure> {
        loop {
            if let Some(now) = &mut self.now {
                let (start, piece) = (now.place.start, now.piece());
                let named = |why: String| Failure::Failed(format!("{}: {why}", now.name));
                let piece = piece.map_err(named)?;
                let Some((at, bytes)) = piece else {
                    self.now = None;
                    continue;
                };
                if at.saturating_add(bytes.len() as u64) > now.place.length {
                    let why = "is longer than its partition";
                    return Err(named(why.to_owned()));
                }
                return Ok(Some((start + at, bytes)));
            }
            let Some((place, what)) = self.parts.pop_front() else { return Ok(None) };
            match what {
                What::Bytes(bytes) => return Ok(Some((place.start, bytes))),
                What::Image(files) => {
                    let now = Now::open(place, &files)?;
                    let notes = now.image.iter().flat_map(|image| &image.notes);
                    self.notes.extend(notes.map(|note| format!("{}: {note}", now.name)));
                    self.now = Some(now);
                }
            }
        }
    }
}

impl Now {
    fn open(place: Extent, files: &[PathBuf]) -> Result<Self, Failure> {
        let name = files.first().map(|file| file.display().to_string()).unwrap_or_default();
        let failed = |why: String| Failure::Failed(format!("{name}: {why}"));
        let mut stream = open(files).map_err(|e| failed(e.to_string()))?;
        let mut first = vec![0; MAGIC];
        let some = fill(&mut stream, &mut first).map_err(|e| failed(e.to_string()))?;
        let known = first == PARTCLONE || first == NTFSCLONE;
        let image = (some && known).then(|| {
            Foreign::new(&first, &mut |room| fill(&mut stream, room).map_err(|e| e.to_string()))
        });
        let image = image.transpose().map_err(failed)?;
        let held = if known { Vec::new() } else { first };
        Ok(Self { place, name, stream, image, at: 0, boot: None, held })
    }

    /// The next piece, from the beginning of its partition on.
    fn piece(&mut self) -> Result<Option<(u64, Vec<u8>)>, String> {
        let Some(image) = &mut self.image else { return self.raw() };
        let stream = &mut self.stream;
        let piece = image.next(&mut |room| fill(stream, room).map_err(|e| e.to_string()))?;
        if let Some((at, bytes)) = piece {
            let ntfs = bytes.get(3..11) == Some(b"NTFS    ") && bytes.len() >= 512;
            if at == 0 && ntfs {
                self.boot = bytes.get(..512).map(<[u8]>::to_vec);
            }
            self.at = at + bytes.len() as u64;
            return Ok(Some((at, bytes)));
        }
        Ok(self.boot.take().and_then(|boot| {
            // Bytes of a sector, and sectors: the backup lies behind them.
            let sector = u64::from(u16::from_le_bytes(*boot.get(11..)?.first_chunk()?));
            let sectors = u64::from_le_bytes(*boot.get(0x28..)?.first_chunk()?);
            let at = sectors.checked_mul(sector)?;
            let fits = at >= self.at && at.checked_add(512)? <= self.place.length;
            fits.then_some((at, boot))
        }))
    }

    /// Of a stream without a map: all of it.
    fn raw(&mut self) -> Result<Option<(u64, Vec<u8>)>, String> {
        let mut bytes = std::mem::take(&mut self.held);
        let most = (PIECE - bytes.len()) as u64;
        self.stream.by_ref().take(most).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        let at = self.at;
        self.at += bytes.len() as u64;
        Ok((!bytes.is_empty()).then_some((at, bytes)))
    }
}

/// Opens what is to be restored.
fn source(path: &Path) -> Result<Source, Failure> {
    if path.is_dir() {
        return clonezilla(path);
    }
    let files = vec![path.to_owned()];
    let place = Extent { start: 0, length: u64::MAX / 2 };
    let now = Now::open(place, &files)?;
    let image = now.image.ok_or_else(|| Failure::Failed(format!("{}: is no image", now.name)))?;
    let place = Extent { start: 0, length: image.size };
    let parts = vec![(place, What::Image(files))];
    Ok(Source { name: image.name, size: image.size, sector: 512, parts })
}

/// A small file of the directory.
fn text(dir: &Path, name: &str) -> Result<String, Failure> {
    let path = dir.join(name);
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(TEXT).read_to_string(&mut text));
    read.map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))?;
    Ok(text)
}

/// `NAME` cut into `NAME.aa`, `NAME.ab` and so on, or whole.
fn files(names: &[String], dir: &Path, begins: &str) -> Vec<PathBuf> {
    let mut found: Vec<&String> = names.iter().filter(|name| name.starts_with(begins)).collect();
    found.sort();
    found.into_iter().map(|name| dir.join(name)).collect()
}

/// A directory with a disk that Clonezilla saved.
fn clonezilla(dir: &Path) -> Result<Source, Failure> {
    let failed = |why: String| Failure::Failed(format!("{}: {why}", dir.display()));
    let names = fs::read_dir(dir).map_err(|e| failed(e.to_string()))?;
    let names: Vec<String> =
        names.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let disks: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix("-pt.sf")).collect();
    let [disk] = disks.as_slice() else {
        let why = "has not one DISK-pt.sf: it is no directory of Clonezilla with one disk";
        return Err(failed(why.to_owned()));
    };
    let dump = text(dir, &format!("{disk}-pt.sf"))?;
    let (table, parts) = read_dump(&dump).map_err(|why| failed(format!("{disk}-pt.sf: {why}")))?;
    let first = parts.iter().map(|part| part.0.start).min().unwrap_or(table.size);
    let (mut head, mut all) = made_table(&dump, &table, first, &failed)?;
    // The code of the boot loader, and what it has before the first partition.
    let mut over = |at: usize, name: String, most: usize| -> Result<(), Failure> {
        let path = dir.join(&name);
        if path.is_file() {
            let mut bytes = Vec::new();
            let read = File::open(&path).and_then(|f| f.take(most as u64).read_to_end(&mut bytes));
            read.map_err(|e| failed(format!("{name}: {e}")))?;
            let room = head.get_mut(at..).unwrap_or_default();
            room.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        }
        Ok(())
    };
    over(0, format!("{disk}-mbr"), 440)?;
    if !table.gpt {
        let most = usize::try_from(first).unwrap_or(0).saturating_sub(512).min(1 << 20);
        over(512, format!("{disk}-hidden-data-after-mbr"), most)?;
    }
    head.truncate(usize::try_from(first).unwrap_or(usize::MAX).min(head.len()));
    all.push((Extent { start: 0, length: first }, What::Bytes(head)));
    for (place, name) in parts {
        let swap = names.iter().find(|file| **file == format!("swappt-{name}.info"));
        let images = files(&names, dir, &format!("{name}."));
        let what = match (swap, images.first()) {
            (Some(info), _) => What::Bytes(swap_header(&text(dir, info)?, place.length)),
            (None, Some(_)) => {
                let one = |kind: &str| images.iter().all(|i| i.to_string_lossy().contains(kind));
                if !["-ptcl-img", ".ntfs-img", ".dd-img"].into_iter().any(one) {
                    let why = format!("{name}: its image is of no kind that is read here");
                    return Err(failed(why));
                }
                What::Image(images)
            }
            // The frame of logical partitions, or one that was not saved.
            (None, None) => continue,
        };
        all.push((place, what));
    }
    all.sort_by_key(|(place, _)| place.start);
    let name = format!("Clonezilla's image of {disk}");
    Ok(Source { name, size: table.size, sector: table.sector, parts: all })
}

/// The table of a dump.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    gpt: bool,
    sector: u32,
    size: u64,
    /// Where the frame of a DOS table's logical partitions begins.
    extended: Option<u64>,
}

/// The most sectors that a disk may have.
const SECTORS: u64 = 1 << 48;
/// Sectors of a GPT's copy at the end of its disk.
const COPY: u64 = 33;

/// What `sfdisk --dump` says: the table, each partition's place and its name.
fn read_dump(text: &str) -> Result<(Table, Vec<Named>), &'static str> {
    let head = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let sector: u32 = head("sector-size:").and_then(|n| n.parse().ok()).unwrap_or(512);
    let gpt = match head("label:") {
        Some("gpt") => true,
        Some("dos") => false,
        _ => return Err("its table is neither GPT nor DOS"),
    };
    let (mut parts, mut extended, mut end) = (Vec::new(), None, 0);
    for line in text.lines() {
        let Some((device, fields)) = line.split_once(" : ") else { continue };
        let field = |key: &str| {
            let value = fields.split(',').find_map(|field| field.trim().strip_prefix(key));
            value.map(str::trim)
        };
        let sectors = |key| field(key).and_then(|n| n.parse::<u64>().ok()).filter(|n| *n < SECTORS);
        let (Some(start), Some(length)) = (sectors("start="), sectors("size=")) else {
            return Err("a partition has no place");
        };
        let place = Extent { start: start * u64::from(sector), length: length * u64::from(sector) };
        end = end.max(place.end());
        if !gpt && matches!(field("type="), Some("5" | "f" | "85")) {
            extended = Some(place.start);
        }
        let name = device.trim().rsplit('/').next().unwrap_or_default();
        parts.push((place, name.to_owned()));
    }
    if parts.is_empty() || sector == 0 {
        return Err("it has no partitions");
    }
    let last = head("last-lba:").and_then(|n| n.parse::<u64>().ok()).filter(|n| *n < SECTORS);
    let size = match (gpt, last) {
        (false, _) => end,
        (true, Some(last)) => end.max((last + 1) * u64::from(sector)) + COPY * u64::from(sector),
        (true, None) => end + COPY * u64::from(sector),
    };
    Ok((Table { gpt, sector, size, extended }, parts))
}

/// What sfdisk makes of a dump: the beginning of the disk, and what else belongs to the table.
fn made_table(
    dump: &str,
    table: &Table,
    first: u64,
    failed: &dyn Fn(String) -> Failure,
) -> Result<(Vec<u8>, Vec<Placed>), Failure> {
    if table.sector != 512 {
        return Err(failed(format!(
            "is of a disk with sectors of {} bytes, whose table sfdisk does not make in a file",
            table.sector
        )));
    }
    let place = Workplace::new(&std::env::temp_dir().join("table"))
        .map_err(|e| Failure::Failed(e.to_string()))?;
    let path = place.join("table");
    let file = File::options().read(true).write(true).create_new(true).open(&path);
    let file = file.map_err(|e| failed(e.to_string()))?;
    file.set_len(table.size).map_err(|e| failed(e.to_string()))?;
    let words = ["sfdisk", "-q", "--no-reread", "--no-tell-kernel"];
    feed(&[&words[..], &[&*path.to_string_lossy()]].concat(), dump)?;
    let read = |at: u64, length: u64| {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(&mut bytes, at).map(|()| bytes).map_err(|e| failed(e.to_string()))
    };
    let head = read(0, first.min(1 << 20))?;
    let mut more = Vec::new();
    if table.gpt {
        let place = Extent { start: table.size - COPY * 512, length: COPY * 512 };
        more.push((place, What::Bytes(read(place.start, place.length)?)));
    }
    // The chain of logical partitions: each link tells where the next one is.
    let mut link = table.extended;
    while let (Some(at), Some(frame)) = (link, table.extended) {
        let bytes = read(at, 512)?;
        let next = bytes.get(470..474).and_then(|next| next.first_chunk()).copied();
        let next = u64::from(u32::from_le_bytes(next.unwrap_or_default())) * 512;
        link = (next > 0 && more.len() < 128).then_some(frame + next);
        more.push((Extent { start: at, length: 512 }, What::Bytes(bytes)));
    }
    Ok((head, more))
}

/// A new swap area with what Clonezilla noted of the old one.
fn swap_header(info: &str, length: u64) -> Vec<u8> {
    let value = |key: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default().trim().trim_matches('"').to_owned()
    };
    let mut page = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| {
        let room = page.get_mut(at..).unwrap_or_default();
        room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    };
    put(1024, &1u32.to_le_bytes());
    put(1028, &u32::try_from((length / 4096).saturating_sub(1)).unwrap_or(u32::MAX).to_le_bytes());
    let uuid: String = value("UUID=").chars().filter(char::is_ascii_hexdigit).collect();
    if let (32, Ok(uuid)) = (uuid.len(), u128::from_str_radix(&uuid, 16)) {
        put(1036, &uuid.to_be_bytes());
    }
    let label = value("LABEL=");
    put(1052, label.as_bytes().get(..label.len().min(15)).unwrap_or_default());
    put(4086, b"SWAPSPACE2");
    page
}

/// Restores it.
pub fn restore(path: &Path, host: &mut super::world::Host) -> Result<Received, Failure> {
    let source = source(path)?;
    host.say(
        Level::News,
        &format!("{}, {}; reads all of it first", source.name, Amount(source.size)),
    );
    let mut pieces = Pieces::of(&source);
    let mut used: Vec<Extent> = Vec::new();
    while let Some((start, bytes)) = pieces.next()? {
        let length = bytes.len() as u64;
        match used.last_mut() {
            Some(last) if last.end() == start => last.length += length,
            Some(last) if last.end() > start => {
                let why = format!("{}: parts of it lie on each other", path.display());
                return Err(Failure::Failed(why));
            }
            _ => used.push(Extent { start, length }),
        }
    }
    pieces.notes.iter().for_each(|note| host.say(Level::News, note));
    // A sector that is no whole block of its partition is widened by zeros.
    let size = source.size.next_multiple_of(512);
    let disk = Disk::new(&source.name, size, source.sector, Vec::new(), &used);
    let layout = Layout::new(CHUNK, vec![disk])
        .map_err(|why| Failure::Failed(format!("{}: {why}", path.display())))?;
    let mut hashes = Vec::new();
    let mut reader = Filler::of(&source);
    for n in 0..layout.count() {
        let bytes = keep::read(&layout, n, &mut |at, room| reader.fill(at, room))?;
        hashes.push(*blake3::hash(&bytes.unwrap_or_default()).as_bytes());
    }
    let manifest = Manifest::new(layout, hashes)
        .ok_or_else(|| Failure::Failed(format!("{}: is empty", path.display())))?;
    let mut reader = Filler::of(&source);
    let mut fetch = |at: u64, room: &mut [u8]| {
        reader.fill(at, room).map_err(|e| clone::Error::Source { why: e.to_string() })
    };
    Ok(write(&Arc::new(manifest), &mut fetch, host)?)
}

/// Pieces as bytes of the disk, which are asked for in their order; zeros between them.
struct Filler {
    pieces: Pieces,
    now: Option<(u64, Vec<u8>)>,
}

impl Filler {
    fn of(source: &Source) -> Self {
        Self { pieces: Pieces::of(source), now: None }
    }

    fn fill(&mut self, at: u64, room: &mut [u8]) -> Result<usize, Failure> {
        room.fill(0);
        let end = at + room.len() as u64;
        loop {
            if self.now.is_none() {
                self.now = self.pieces.next()?;
            }
            let Some((start, bytes)) = &self.now else { break };
            if *start >= end {
                break;
            }
            let to = usize::try_from(start.saturating_sub(at)).unwrap_or(usize::MAX);
            let from = usize::try_from(at.saturating_sub(*start)).unwrap_or(usize::MAX);
            let some = bytes.get(from..).unwrap_or_default();
            let place = room.get_mut(to..).unwrap_or_default();
            place.iter_mut().zip(some).for_each(|(to, from)| *to = *from);
            if start + bytes.len() as u64 > end {
                break;
            }
            self.now = None;
        }
        Ok(room.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_of_sfdisk_says_where_partitions_are() {
        let gpt = "label: gpt\nlast-lba: 3071966\nsector-size: 512\n\n\
                   /dev/sda1 : start=        2048, size=      614400, type=0FC63DAF\n";
        let (table, parts) = read_dump(gpt).unwrap();
        assert_eq!(table, Table { gpt: true, sector: 512, size: 3072000 * 512, extended: None });
        assert_eq!(parts, [(Extent { start: 1 << 20, length: 300 << 20 }, "sda1".to_owned())]);
        let dos = "label: dos\n/dev/nvme0n1p1 : start=2048, size=2, type=83, bootable\n\
                   /dev/nvme0n1p2 : start=4096, size=4096, type=f\n";
        let (table, parts) = read_dump(dos).unwrap();
        assert_eq!((table.gpt, table.size, table.extended), (false, 4 << 20, Some(2 << 20)));
        assert_eq!(parts[1].1, "nvme0n1p2");
        for wrong in [
            "",
            "label: sun\n",
            "label: dos\n",
            "label: dos\nx : size=1\n",
            "label: dos\nx : start=99999999999999999999, size=1\n",
        ] {
            assert!(read_dump(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_swap_area_keeps_its_names() {
        let page =
            swap_header("UUID=\"01020304-0506-0708-090a-0b0c0d0e0f10\"\nLABEL=\"sw\"\n", 8192);
        assert_eq!((page.len(), page[1028], &page[4086..]), (4096, 1, &b"SWAPSPACE2"[..]));
        assert_eq!((page[1036], page[1051], &page[1052..1055]), (1, 16, &b"sw\0"[..]));
    }
}
