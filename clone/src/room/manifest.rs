//! What is copied: disks, the bytes of each that are in use, and the digest of each chunk.
//!
//! Chunks have numbers through all disks. A chunk holds used bytes of one disk: the extents
//! joined, cut where a chunk is full, at the ends of partitions, and behind the first MiB, which
//! is written last. Where a chunk belongs follows from its number, at both ends by the same rule.

use super::bits::Bits;
use crate::guard::HELD;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
pub use blockmap::Extent;
use spin::{Mutex, Once};
use sys::bytes::Cursor;

/// Positions and lengths are multiples of it, but for the end of a disk.
pub const GRAIN: u64 = 4096;
/// A chunk's bytes.
pub const CHUNK: u32 = 1 << 20;
/// Those of a tree of files: a chunk has several.
pub const SMALL: u32 = CHUNK / 4;
/// The most bytes of a chunk.
pub const LARGEST: u32 = 16 << 20;
/// The most disks.
pub const DISKS: usize = 16;
/// The most partitions of a disk.
const AREAS: usize = 1024;
/// The most extents of a disk.
const EXTENTS: usize = 1 << 20;
/// The most chunks.
pub const CHUNKS: usize = 1 << 21;
/// The most bytes of the listing of a tree.
#[cfg(feature = "files")]
const LISTING: usize = 48 << 20;
/// The most bytes of a text.
const TEXT: usize = 1024;
/// See [`Manifest::samples`].
const TRIES: usize = 64;

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// Its number; 0 for the whole of a disk without a table.
    pub number: u32,
    /// Its first byte.
    pub start: u64,
    /// Its bytes.
    pub length: u64,
    /// Its type, its own UUID, what it holds.
    pub texts: [String; 3],
}

/// A disk of the golden machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its name there.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// Bytes of a sector.
    pub sector: u32,
    /// Its partitions.
    pub areas: Vec<Area>,
    /// What of it is in use: sorted, in multiples of [`GRAIN`], no two touch.
    pub used: Vec<Extent>,
}

impl Disk {
    /// A disk with these extents, widened to multiples of [`GRAIN`].
    #[must_use]
    pub fn new(name: &str, size: u64, sector: u32, areas: Vec<Area>, used: &[Extent]) -> Self {
        let mut wide: Vec<Extent> = Vec::new();
        for extent in used.iter().filter(|extent| extent.length > 0 && extent.start < size) {
            let start = extent.start / GRAIN * GRAIN;
            let end = extent.end().checked_next_multiple_of(GRAIN).unwrap_or(size).min(size);
            match wide.last_mut() {
                Some(last) if last.end() >= start => last.length = end.max(last.end()) - last.start,
                _ => wide.push(Extent { start, length: end - start }),
            }
        }
        Self { name: name.to_string(), size, sector, areas, used: wide }
    }
}

/// Where a chunk belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its disk.
    pub disk: u16,
    /// Its partition; 0 outside of partitions.
    pub area: u32,
    /// Its first byte on the disk.
    pub start: u64,
    /// Its bytes.
    pub bytes: u32,
    /// The extent with its first byte.
    first: u32,
}

/// The disks and their chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The disks.
    pub disks: Vec<Disk>,
    /// Of a tree of files, whose row of bytes is the only disk, its listing.
    #[cfg(feature = "files")]
    pub tree: Vec<u8>,
    chunk: u32,
    chunks: Vec<Chunk>,
}

impl Layout {
    /// A tree of files: so many bytes, and the listing of whose they are.
    ///
    /// # Errors
    /// As [`Layout::new`]; there is no listing, or it is too long.
    #[cfg(feature = "files")]
    pub fn of_tree(chunk: u32, bytes: u64, listing: Vec<u8>) -> Result<Self, &'static str> {
        if listing.is_empty() || listing.len() > LISTING {
            return Err("the listing of the tree is none, or too long");
        }
        let all = [Extent { start: 0, length: bytes }];
        let row = Disk::new("", bytes, 512, Vec::new(), &all);
        Ok(Self { tree: listing, ..Self::new(chunk, Vec::from([row]))? })
    }

    /// Numbers the chunks of these disks, each of at most so many bytes.
    ///
    /// # Errors
    /// What is wrong with the disks.
    pub fn new(chunk: u32, disks: Vec<Disk>) -> Result<Self, &'static str> {
        if chunk == 0 || !u64::from(chunk).is_multiple_of(GRAIN) || chunk > LARGEST {
            return Err("the size of the chunks is none");
        }
        if disks.is_empty() || disks.len() > DISKS {
            return Err("there are no disks, or files, which this program does not take");
        }
        let mut chunks = Vec::new();
        for (number, disk) in disks.iter().enumerate() {
            disk.check()?;
            disk.cut(u16::try_from(number).unwrap_or(u16::MAX), chunk, &mut chunks)?;
        }
        Ok(Self {
            disks,
            #[cfg(feature = "files")]
            tree: Vec::new(),
            chunk,
            chunks,
        })
    }

    /// How many chunks there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.chunks.len()).unwrap_or(u32::MAX)
    }

    /// The most bytes of a chunk, at least [`GRAIN`].
    #[must_use]
    pub const fn most(&self) -> u32 {
        self.chunk
    }

    /// Where this one belongs.
    #[must_use]
    pub fn chunk(&self, n: u32) -> Option<&Chunk> {
        self.chunks.get(n as usize)
    }

    /// The numbers of a disk's chunks.
    pub fn of_disk(&self, disk: u16) -> impl Iterator<Item = (u32, &Chunk)> {
        (0..).zip(&self.chunks).filter(move |(_, chunk)| chunk.disk == disk)
    }

    /// All bytes in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum()
    }

    /// The places of a chunk's bytes on its disk, in order.
    pub fn pieces(&self, chunk: &Chunk) -> impl Iterator<Item = Extent> {
        let disk = self.disks.get(usize::from(chunk.disk));
        let extents = disk.and_then(|disk| disk.used.get(chunk.first as usize..));
        let (mut left, start) = (u64::from(chunk.bytes), chunk.start);
        extents.unwrap_or_default().iter().map_while(move |extent| {
            let from = extent.start.max(start);
            let length = left.min(extent.end().saturating_sub(from));
            left -= length;
            (length > 0).then_some(Extent { start: from, length })
        })
    }
}

impl Disk {
    /// The bytes that a disk must have to hold all partitions and, by a GPT, whose types are
    /// UUIDs, its copy at the end. All of this one where it has no partitions.
    #[must_use]
    pub fn least(&self) -> u64 {
        let table = match self.areas.iter().any(|area| area.texts[0].len() > 2) {
            // UEFI 2.10, 5.3.1: at least 16 KiB of entries, and the header.
            true => (16 << 10) + u64::from(self.sector),
            false => 0,
        };
        let parts = self.areas.iter().filter(|area| area.number > 0);
        let end = parts.map(|area| area.start.saturating_add(area.length)).max();
        end.map_or(self.size, |end| end.saturating_add(table).min(self.size))
    }

    fn check(&self) -> Result<(), &'static str> {
        let short = |text: &String| text.len() <= TEXT;
        if self.areas.len() > AREAS || self.used.len() > EXTENTS || !short(&self.name) {
            return Err("a disk has too many partitions or extents, or too long a name");
        }
        let good = |a: &Area| a.start.checked_add(a.length).is_some() && a.texts.iter().all(short);
        if !self.areas.iter().all(good) {
            return Err("a partition has no end, or too long a name");
        }
        let mut end = None;
        for extent in &self.used {
            let next = extent.start.checked_add(extent.length).filter(|next| *next <= self.size);
            let whole = next.is_some_and(|n| n == self.size || n.is_multiple_of(GRAIN));
            let behind = end.is_none_or(|end| extent.start > end);
            if !whole || !behind || extent.length == 0 || !extent.start.is_multiple_of(GRAIN) {
                return Err("the extents of a disk are out of order, or past its end");
            }
            end = next;
        }
        Ok(())
    }

    fn cut(&self, number: u16, most: u32, chunks: &mut Vec<Chunk>) -> Result<(), &'static str> {
        let ends = self.areas.iter().flat_map(|a| [a.start, a.start + a.length]);
        let mut cuts: Vec<u64> = ends.map(|at| at / GRAIN * GRAIN).collect();
        cuts.push(HELD as u64);
        sys::sort::sort(&mut cuts);
        // The part between two cuts that the last chunk is in.
        let mut within = None;
        let mut open = false;
        for (first, extent) in (0..).zip(&self.used) {
            let mut at = extent.start;
            while at < extent.end() {
                let part = cuts.partition_point(|cut| *cut <= at);
                let end = extent.end().min(cuts.get(part).copied().unwrap_or(u64::MAX));
                if within != Some(part) || !open {
                    if chunks.len() >= CHUNKS {
                        return Err("there are too many chunks");
                    }
                    let area = self.areas.iter().find(|a| at >= a.start && at < a.start + a.length);
                    let area = area.map_or(0, |area| area.number);
                    chunks.push(Chunk { disk: number, area, start: at, bytes: 0, first });
                    (within, open) = (Some(part), true);
                }
                if let Some(chunk) = chunks.last_mut() {
                    let some = u64::from(most - chunk.bytes).min(end - at);
                    chunk.bytes += u32::try_from(some).unwrap_or(0);
                    at += some;
                    open = chunk.bytes < most;
                }
            }
        }
        Ok(())
    }
}

/// What is copied. A sender that begins before it has read its disks has no digest of a chunk
/// until it reads that: [`Manifest::learn`].
#[derive(Debug)]
pub struct Manifest {
    /// Disks and chunks.
    pub layout: Layout,
    session: [u8; 16],
    digests: Mutex<Digests>,
    root: Once<[u8; 32]>,
}

#[derive(Debug)]
struct Digests {
    list: Vec<[u8; 32]>,
    known: Bits,
    /// How many are not.
    missing: u32,
}

impl PartialEq for Manifest {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Manifest {
    /// With the BLAKE3 digest of each chunk; nothing when these are too few or too many.
    #[must_use]
    pub fn new(layout: Layout, hashes: Vec<[u8; 32]>) -> Option<Self> {
        if layout.count() as usize != hashes.len() {
            return None;
        }
        let known = Bits::full(layout.count());
        Some(Self::with(layout, Digests { list: hashes, known, missing: 0 }))
    }

    /// Without digests.
    #[must_use]
    pub fn plan(layout: Layout) -> Self {
        let count = layout.count();
        let list = vec![[0; 32]; count as usize];
        Self::with(layout, Digests { list, known: Bits::new(count), missing: count })
    }

    fn with(layout: Layout, digests: Digests) -> Self {
        let digest = blake3::hash(&layout.bytes());
        let session = digest.as_bytes().first_chunk().copied().unwrap_or_default();
        Self { layout, session, digests: Mutex::new(digests), root: Once::new() }
    }

    /// The digest of all of it; zeros while the digest of a chunk is not known.
    #[must_use]
    pub fn root(&self) -> &[u8; 32] {
        if self.missing() > 0 {
            return &[0; 32];
        }
        self.root.call_once(|| *blake3::hash(&self.bytes()).as_bytes())
    }

    /// What every chunk is named with: the beginning of the digest of disks and chunks, without
    /// their content.
    #[must_use]
    pub const fn session(&self) -> [u8; 16] {
        self.session
    }

    /// Of how many chunks the digest is not known.
    #[must_use]
    pub fn missing(&self) -> u32 {
        self.digests.lock().missing
    }

    /// The digest of a chunk, once it is known.
    #[must_use]
    pub fn digest(&self, n: u32) -> Option<[u8; 32]> {
        let digests = self.digests.lock();
        let known = digests.known.has(n);
        digests.list.get(n as usize).filter(|_| known).copied()
    }

    /// The first chunk from this one on whose digest is not known.
    #[must_use]
    pub fn unknown(&self, from: u32) -> Option<u32> {
        let unknown = self.digests.lock().known.not();
        unknown.first_in_both(&unknown, from)
    }

    /// Takes the digest of a chunk; false when it has another, or there is no such chunk.
    pub fn learn(&self, n: u32, digest: [u8; 32]) -> bool {
        let mut digests = self.digests.lock();
        let known = digests.known.has(n);
        let Some(own) = digests.list.get_mut(n as usize) else { return false };
        if known {
            return *own == digest;
        }
        *own = digest;
        digests.known.add(n);
        digests.missing -= 1;
        true
    }

    /// The chunks of a disk that are tried first: when a disk has none of them, it is another
    /// one's.
    pub fn samples(&self, disk: u16) -> impl Iterator<Item = u32> {
        let step = self.layout.of_disk(disk).count().div_ceil(TRIES).max(1);
        self.layout.of_disk(disk).step_by(step).map(|(n, _)| n)
    }

    /// Whether these are the bytes of this chunk; false while its digest is not known.
    #[must_use]
    pub fn is(&self, n: u32, bytes: &[u8]) -> bool {
        let length = self.layout.chunk(n).is_some_and(|c| c.bytes as usize == bytes.len());
        length && self.digest(n).is_some_and(|own| own == *blake3::hash(bytes).as_bytes())
    }

    /// On the wire and in files, with all digests.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut all = self.layout.bytes();
        self.digests.lock().list.iter().for_each(|hash| all.extend(hash));
        all
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        let (layout, rest) = Layout::read(bytes)?;
        let (hashes, rest) = rest.as_chunks::<32>();
        if !rest.is_empty() {
            return Err("the manifest has bytes behind its end");
        }
        Self::new(layout, hashes.to_vec()).ok_or("the manifest has not one digest a chunk")
    }

    /// Reads one without digests: the bytes of its [`Layout`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read_plan(bytes: &[u8]) -> Result<Self, &'static str> {
        match Layout::read(bytes)? {
            (layout, []) => Ok(Self::plan(layout)),
            _ => Err("the manifest has bytes behind its end"),
        }
    }
}

impl Layout {
    /// On the wire and in files.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut all = Vec::new();
        let text = |all: &mut Vec<u8>, text: &str| {
            all.extend(u16::try_from(text.len()).unwrap_or(0).to_le_bytes());
            all.extend(text.as_bytes());
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        all.extend(self.chunk.to_le_bytes());
        #[cfg(feature = "files")]
        if !self.tree.is_empty() {
            let bytes = self.disks.first().map_or(0, |row| row.size);
            all.extend(count(0));
            all.extend(bytes.to_le_bytes());
            all.extend(count(self.tree.len()));
            all.extend(&self.tree);
            return all;
        }
        all.extend(count(self.disks.len()));
        for disk in &self.disks {
            text(&mut all, &disk.name);
            all.extend(disk.size.to_le_bytes());
            all.extend(disk.sector.to_le_bytes());
            all.extend(count(disk.areas.len()));
            for area in &disk.areas {
                all.extend(area.number.to_le_bytes());
                all.extend(area.start.to_le_bytes());
                all.extend(area.length.to_le_bytes());
                area.texts.iter().for_each(|t| text(&mut all, t));
            }
            all.extend(count(disk.used.len()));
            for extent in &disk.used {
                all.extend(extent.start.to_le_bytes());
                all.extend(extent.length.to_le_bytes());
            }
        }
        all
    }

    /// Reads it, and what is behind it.
    fn read(bytes: &[u8]) -> Result<(Self, &[u8]), &'static str> {
        let mut cursor = Cursor(bytes);
        let short = "the manifest ends too early";
        let (chunk, disks) = disks(&mut cursor).ok_or(short)?;
        #[cfg(feature = "files")]
        if disks.is_empty() {
            let (bytes, listing) = tree(&mut cursor).ok_or(short)?;
            return Ok((Self::of_tree(chunk, bytes, listing)?, cursor.0));
        }
        Ok((Self::new(chunk, disks)?, cursor.0))
    }
}

/// A number of things, of which there may be so many.
fn count(from: &mut Cursor<'_>, most: usize) -> Option<usize> {
    from.le32().map(|n| n as usize).filter(|n| *n <= most)
}

fn text_of(from: &mut Cursor<'_>) -> Option<String> {
    let length = from.le16()?;
    core::str::from_utf8(from.some(length.into())?).ok().map(str::to_string)
}

/// The row's bytes, and the listing.
#[cfg(feature = "files")]
fn tree(from: &mut Cursor<'_>) -> Option<(u64, Vec<u8>)> {
    let (bytes, length) = (from.le64()?, from.le32()?);
    Some((bytes, from.some(length as usize)?.to_vec()))
}

fn disks(from: &mut Cursor<'_>) -> Option<(u32, Vec<Disk>)> {
    let chunk = from.le32()?;
    let mut disks = Vec::new();
    for _ in 0..count(from, DISKS)? {
        let (name, size, sector) = (text_of(from)?, from.le64()?, from.le32()?);
        let (mut areas, mut used) = (Vec::new(), Vec::new());
        for _ in 0..count(from, AREAS)? {
            let (number, start, length) = (from.le32()?, from.le64()?, from.le64()?);
            let texts = [text_of(from)?, text_of(from)?, text_of(from)?];
            areas.push(Area { number, start, length, texts });
        }
        for _ in 0..count(from, EXTENTS)? {
            used.push(Extent { start: from.le64()?, length: from.le64()? });
        }
        disks.push(Disk { name, size, sector, areas, used });
    }
    Some((chunk, disks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn area(number: u32, start: u64, length: u64) -> Area {
        Area { number, start, length, texts: Default::default() }
    }

    /// A disk with a table, two partitions and a backup table.
    fn disk() -> Disk {
        let used = [(0, MIB), (MIB, 8192), (3 * MIB, MIB + 4096), (5 * MIB, 512), (7 * MIB, 1000)];
        let used: Vec<_> =
            used.iter().map(|(start, length)| Extent { start: *start, length: *length }).collect();
        let areas = Vec::from([area(1, MIB, 4 * MIB), area(2, 5 * MIB, MIB)]);
        Disk::new("/dev/sda", 7 * MIB + 1000, 512, areas, &used)
    }

    #[test]
    fn chunks_are_cut_at_partitions_and_behind_the_first_mib() {
        let layout = Layout::new(CHUNK, Vec::from([disk()])).unwrap();
        let chunks: Vec<_> = layout.chunks.iter().map(|c| (c.area, c.start, c.bytes)).collect();
        let mib = CHUNK;
        assert_eq!(
            chunks,
            [
                (0, 0, mib),
                (1, MIB, mib),
                (1, 4 * MIB - 8192, 12288),
                (2, 5 * MIB, 4096),
                (0, 7 * MIB, 1000),
            ]
        );
        let pieces: Vec<_> = layout.pieces(&layout.chunks[1]).collect();
        let piece = |start, length| Extent { start, length };
        assert_eq!(pieces, [piece(MIB, 8192), piece(3 * MIB, MIB - 8192)]);
    }

    #[test]
    fn what_is_hostile_is_refused() {
        let with = |used: &[(u64, u64)]| {
            let mut disk = disk();
            disk.used = used
                .iter()
                .map(|(start, length)| Extent { start: *start, length: *length })
                .collect();
            Layout::new(CHUNK, Vec::from([disk])).map(|_| ())
        };
        assert!(with(&[(0, 4096), (8192, 4096)]).is_ok());
        for used in [
            &[(0, 4096), (4096, 4096)][..],
            &[(8192, 4096), (0, 4096)],
            &[(0, 0)],
            &[(1, 4096)],
            &[(0, 100)],
            &[(0, 8 * MIB)],
            &[(u64::MAX - 4095, 4096)],
        ] {
            assert!(with(used).is_err(), "{used:?}");
        }
        let mut endless = disk();
        endless.areas[0].length = u64::MAX;
        assert!(Layout::new(CHUNK, Vec::from([endless])).is_err());
        for chunk in [0, 512, CHUNK + 1, 2 * LARGEST] {
            assert!(Layout::new(chunk, Vec::from([disk()])).is_err());
        }
        // A chunk of a page and a disk of 2^62 bytes are more chunks than there may be.
        let used = [Extent { start: 0, length: 1 << 62 }];
        let huge = Disk::new("", 1 << 62, 512, Vec::new(), &used);
        assert_eq!(Layout::new(4096, Vec::from([huge])), Err("there are too many chunks"));
    }

    proptest! {
        #[test]
        fn the_chunks_are_the_used_bytes(
            used in prop::collection::vec((0u64..600, 1u64..40), 0..30),
            cuts in prop::collection::vec((0u64..600, 0u64..200), 0..4),
            chunk in 1u32..9,
        ) {
            let mut used: Vec<Extent> = used.iter().map(|(s, l)| Extent { start: s * 4096, length: l * 4096 }).collect();
            used.sort_unstable();
            let areas = (1..).zip(&cuts).map(|(n, (s, l))| area(n, s * 4096, l * 4096)).collect();
            let disk = Disk::new("x", 640 * 4096 + 77, 512, areas, &used);
            let layout = Layout::new(chunk * 4096, Vec::from([disk.clone()])).unwrap();
            let mut at = Vec::new();
            for n in 0..layout.count() {
                let chunk = *layout.chunk(n).unwrap();
                let pieces: Vec<_> = layout.pieces(&chunk).collect();
                prop_assert_eq!(pieces.iter().map(|p| p.length).sum::<u64>(), u64::from(chunk.bytes));
                prop_assert_eq!(pieces[0].start, chunk.start);
                at.extend(pieces);
            }
            prop_assert!(at.windows(2).all(|two| two[0].end() <= two[1].start));
            prop_assert_eq!(Disk::new("x", disk.size, 512, Vec::new(), &at).used, disk.used);
            let hashes = (0..layout.count()).map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect();
            let manifest = Manifest::new(layout, hashes).unwrap();
            prop_assert_eq!(Manifest::read(&manifest.bytes()), Ok(manifest));
        }

        #[test]
        fn digests_come_in_any_order_and_only_once(order in Just([0u32, 1, 2, 3, 4]).prop_shuffle()) {
            let layout = || Layout::new(CHUNK, Vec::from([disk()])).unwrap();
            let hash = |n: u32| *blake3::hash(&n.to_le_bytes()).as_bytes();
            let whole = Manifest::new(layout(), (0..5).map(hash).collect()).unwrap();
            let plan = Manifest::read_plan(&layout().bytes()).unwrap();
            prop_assert_eq!(plan.session(), whole.session());
            for (done, n) in (0..).zip(order) {
                prop_assert_eq!((plan.missing(), plan.digest(n), plan.root()), (5 - done, None, &[0; 32]));
                prop_assert!(plan.unknown(n) == Some(n) && !plan.is(n, &[]));
                prop_assert!(plan.learn(n, hash(n)) && plan.learn(n, hash(n)));
                prop_assert!(!plan.learn(n, hash(99)) && !plan.learn(5, hash(5)));
            }
            prop_assert_eq!((plan.missing(), plan.unknown(0), plan.root()), (0, None, whole.root()));
            prop_assert_eq!(plan, whole);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, cut in 0usize..400, with: (usize, u8)) {
            let _ = (Manifest::read(&bytes), Manifest::read_plan(&bytes));
            let manifest = Manifest::new(Layout::new(CHUNK, Vec::from([disk()])).unwrap(), std::vec![[7; 32]; 5]);
            let mut whole = manifest.unwrap().bytes();
            prop_assert!(Manifest::read(&whole).is_ok());
            let cut = cut.min(whole.len() - 1);
            prop_assert!(Manifest::read(&whole[..cut]).is_err());
            let at = with.0 % whole.len();
            whole[at] = with.1;
            let _ = Manifest::read(&whole);
        }
    }
}
