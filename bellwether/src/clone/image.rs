//! `save` and `restore`: the used bytes of disks in one file, and back.

use super::chunks::{JSON, offered};
use super::copying;
use super::flags::{DIGEST, Given, KEEP_TABLE, NO_READ_BACK, Program, QUIET, STALL, flag};
use super::foreign;
use super::progress::Progress;
use crate::failure::Failure;
use crate::interrupted;
use clone::edge::Protocol;
use clone::edge::image::Image;
use clone::edge::place::Place;
use clone::edge::room::{Readable as _, Reader};
use clone::guard::Media;
use clone::image::{before_chunks, beginning};
use clone::outcome::{Amount, Summary};
use clone::room::keep;
use clone::room::manifest::{Layout, Manifest};
use cpio_builder::error::Error;
use cpio_builder::tools::Draft;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

/// The grammar of what makes an image.
pub static SAVE: Program = Program {
    name: "save",
    about: "Saves what is in use of disks in one file, packed, each chunk with its digest.",
    rest: "DISK|FILE...",
    example: "bellwether clone save /dev/sda -o golden.bwi",
    flags: &[
        flag("output", Some('o'), Some("FILE"), "the image; it has its name when it is whole"),
        flag("level", Some('l'), Some("N"), "how hard zstd tries, 1 to 19 [3]"),
        flag("whole", None, None, "save all bytes, also those that no file system has in use"),
        NO_READ_BACK,
        QUIET,
    ],
};

/// The grammar of what writes one to disks.
pub static RESTORE: Program = Program {
    name: "restore",
    about: "Writes an image to disks, from a file or from any number of web servers; also images \
            of partclone and ntfsclone, and directories of Clonezilla.",
    rest: "IMAGE|URL[,URL...]|DIR DISK|FILE...",
    example: "bellwether clone restore http://10.0.0.1/golden.bwi,http://10.0.0.2/golden.bwi /dev/sda",
    flags: &[
        DIGEST,
        NO_READ_BACK,
        KEEP_TABLE,
        flag("timeout", Some('a'), Some("S"), "wait so long for a server with the image [30]"),
        STALL,
        JSON,
        QUIET,
    ],
};

/// Chunks that are packed at once.
const BATCH: u32 = 16;
/// Bytes that are read back at once.
const PIECE: usize = 1 << 20;

/// Makes an image.
pub fn save(given: &Given) -> Result<(), Failure> {
    let to = given.get("output").ok_or_else(|| Failure::Usage("save: needs -o FILE".into()))?;
    let to = Path::new(to);
    let level = given.parsed::<u8>("level")?.unwrap_or(3);
    if !(1..=19).contains(&level) {
        return Err(Failure::Usage(format!("--level: '{level}' is not 1 to 19")));
    }
    // The image would take the place of a file that it is made of.
    if let Some(disk) = given.rest.iter().find(|disk| is_same(to, Path::new(disk))) {
        return Err(Failure::Usage(format!("save: -o {disk} is what is to be saved")));
    }
    let (layout, disks) = offered(given, "save")?;
    let used = layout.used();
    eprintln!("save: {} in {} chunks", Amount(used), layout.count());
    interrupted::expect()?;
    let draft = Draft::new(to)?;
    let failed = |e: io::Error| Failure::from(Error::write(to)(e));
    let file = draft.create()?;
    let mut progress = Progress::new(given.has("quiet"), 0);
    let mut out = Out { file: &file, at: before_chunks(&layout), sum: blake3::Hasher::new() };
    let (mut hashes, mut lengths, mut done) = (Vec::new(), Vec::new(), 0);
    for first in (0..layout.count()).step_by(BATCH as usize) {
        let batch = first..(first + BATCH).min(layout.count());
        for packed in pack(&layout, &disks, batch, level.into())? {
            hashes.push(packed.hash);
            lengths.push(u32::try_from(packed.bytes.len()).unwrap_or(u32::MAX));
            out.put(&packed.bytes).map_err(failed)?;
            done += packed.length;
            progress.show(done, Some(used), String::new);
        }
    }
    let Out { at: end, sum, .. } = out;
    let manifest = Manifest::new(layout, hashes)
        .ok_or_else(|| Failure::Failed("a disk is missing".to_owned()))?;
    let first = beginning(&manifest, &lengths);
    // An image that was broken off begins with zeros.
    file.write_all_at(&first, 0).and_then(|()| file.sync_all()).map_err(failed)?;
    let read_back = !given.has("no-read-back") && compare(&draft, &first, end, &sum)?;
    draft.keep()?;
    progress.end();
    let root = clone::pact::hex(manifest.root());
    let verdict = if read_back { "read back" } else { "not read back" };
    eprintln!("save: {}: {} in {}, {verdict}", to.display(), Amount(used), Amount(end));
    println!("bw.clone.digest=blake3:{root}");
    Ok(())
}

/// Whether both names are of one file.
fn is_same(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino())).ok();
    id(one).is_some_and(|one| id(other) == Some(one))
}

/// What the chunks go to.
struct Out<'f> {
    file: &'f File,
    at: u64,
    sum: blake3::Hasher,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.at)?;
        self.sum.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// A chunk as it is stored.
struct Packed {
    hash: [u8; 32],
    length: u64,
    bytes: Vec<u8>,
}

/// Reads and packs these chunks, on all processors.
fn pack(
    layout: &Layout,
    disks: &[Reader],
    batch: std::ops::Range<u32>,
    level: i32,
) -> Result<Vec<Packed>, Failure> {
    let one = |n: u32| -> Result<Packed, Failure> {
        let of = layout.chunk(n).and_then(|chunk| disks.get(usize::from(chunk.disk)));
        let disk = of.ok_or_else(|| Failure::Failed("a disk is missing".to_owned()))?;
        let bytes = keep::read(layout, n, &mut |at, room| disk.read(at, room))?
            .ok_or_else(|| Failure::Failed("a disk has become shorter".to_owned()))?;
        let hash = *blake3::hash(&bytes).as_bytes();
        let packed = zstd::bulk::compress(&bytes, level)
            .map_err(|e| Failure::Failed(format!("zstd: {e}")))?;
        let length = bytes.len() as u64;
        let bytes = if packed.len() < bytes.len() { packed } else { bytes };
        Ok(Packed { hash, length, bytes })
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let numbers: Vec<u32> = batch.collect();
    let share = numbers.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let parts = numbers.chunks(share).map(|part| {
            scope.spawn(|| part.iter().map(|n| one(*n)).collect::<Result<Vec<_>, _>>())
        });
        let parts: Vec<_> = parts.collect();
        let crashed = |_| Failure::Failed("packing has crashed".to_owned());
        let mut all = Vec::new();
        for part in parts {
            all.extend(part.join().map_err(crashed)??);
        }
        Ok(all)
    })
}

/// Reads the image from its disk; false where the system cannot go past its memory.
fn compare(draft: &Draft, first: &[u8], end: u64, sum: &blake3::Hasher) -> Result<bool, Failure> {
    let failed = |e: clone::Trouble| Failure::Failed(e.to_string());
    let name = draft.path().to_string_lossy();
    let mut place = Place::open(&name, true).map_err(failed)?;
    let mut back = blake3::Hasher::new();
    let mut at = 0;
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
        let Some(bytes) = place.read(at, most).map_err(failed)? else { return Ok(false) };
        let skip = first.len().saturating_sub(usize::try_from(at).unwrap_or(usize::MAX));
        let (own, rest) = bytes.split_at(skip.min(bytes.len()));
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        let same = own.is_empty() || first.get(from..from + own.len()) == Some(own);
        if !same || bytes.len() != most {
            return Err(Failure::Failed("the disk has other bytes than were written to it".into()));
        }
        back.update(rest);
        at += most as u64;
    }
    match back.finalize() == sum.finalize() {
        true => Ok(true),
        false => {
            Err(Failure::Failed("the disk has other bytes than were written to it".to_owned()))
        }
    }
}

/// Writes an image to disks.
pub fn restore(given: &Given) -> Result<(), Failure> {
    let Some((from, places)) = given.rest.split_first().filter(|(_, places)| !places.is_empty())
    else {
        let why = "restore: needs an image and a disk, as golden.bwi /dev/sda";
        return Err(Failure::Usage(why.to_owned()));
    };
    let mut host = copying::node("restore", given, false)?;
    host.json = given.has("json");
    host.places = places.to_vec();
    host.keep_table = given.has("keep-table");
    let mut here = copying::receiver(given)?;
    let wait = std::time::Duration::from_secs(30);
    here.patience.start = Some(here.patience.start.unwrap_or(wait));
    let path = Path::new(from);
    let got = match path.exists() && foreign::is_foreign(path)? {
        true if given.has("digest") => {
            let why = "--digest names images of clone save; this is another program's";
            return Err(Failure::Usage(why.to_owned()));
        }
        true => foreign::restore(path, &mut host),
        false => Image::new(from)?.receive(&here, &mut host).map_err(Failure::from),
    };
    host.end();
    let got = got?;
    let verdict = match (got.pinned, got.read_back) {
        (true, true) => "verified with the digest that was named; read back",
        (false, true) => "verified with the image; read back",
        (_, false) => "received whole, not read back",
    };
    let took = host.took();
    let (digests, came, unpacked) = (&got.digests[..], got.came, got.unpacked);
    host.last_line(&Summary { digests, took, came, unpacked, verdict });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `save disk.img -o disk.img` put the image in the place of the disk it was made of.
    #[test]
    fn an_image_never_replaces_what_it_is_made_of() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, link) = (dir.path().join("disk.img"), dir.path().join("link.img"));
        std::fs::write(&disk, [7; 4096]).unwrap();
        std::fs::hard_link(&disk, &link).unwrap();
        let [disk_name, link_name] = [&disk, &link].map(|path| path.to_string_lossy().into_owned());
        for to in [&disk_name, &link_name] {
            let words = [&disk_name, "-o", to].map(str::to_owned);
            let given = SAVE.parse(&words).unwrap().unwrap();
            assert!(matches!(save(&given), Err(Failure::Usage(_))), "{to}");
            assert_eq!(std::fs::read(&disk).unwrap(), [7; 4096]);
        }
    }
}
