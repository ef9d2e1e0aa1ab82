//! The disks of a machine that gets a copy, chunk by chunk.
//!
//! The order of [`guard`](crate::guard) for chunks that come in any order. What the disk has
//! already is found by reading it. The first chunk that is stored puts the mark there; chunks of
//! the first MiB are held back until all others were written and read back. A disk that has all
//! chunks is not written at all. A copy that was broken off has the mark, and goes on.
//!
//! A disk of another size gets a table that fits it, once all chunks are verified. On a smaller
//! one what is behind its end must be outside of all partitions. One that keeps its own table
//! ([`super::beside`]) gets what is in partitions and boot code; chunks with other bytes, too, stay in
//! memory until the end. Its mark leaves the table where it is.

#[cfg(feature = "own-table")]
use super::beside::OwnTable;
use super::bits::Bits;
use super::manifest::{Chunk, Extent, GRAIN, Layout, Manifest};
use super::numbered::Numbered;
#[cfg(not(feature = "own-table"))]
use super::whole::OwnTable;
use crate::error::Trouble;
use crate::guard::{HELD, Media, mark, old_table, write_all};
use crate::mark::{LENGTH, Mark};
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use blockmap::{Misfit, ReadAt, ReadError, fit_gpt};
use core::net::Ipv4Addr;

/// So many chunks are read back together.
const BATCH: usize = 64;
/// The most bytes of chunks that reach behind the end of the disk.
const BEHIND: u64 = 16 << 20;
/// The most bytes of chunks that a disk with its own table gets in part.
#[cfg(feature = "own-table")]
const BETWEEN: u64 = 64 << 20;

/// One disk.
#[derive(Debug)]
pub struct Keep<M: Media> {
    media: M,
    manifest: Arc<Manifest>,
    disk: u16,
    sender: Option<Ipv4Addr>,
    read_back: bool,
    /// The mark is on it, of this copy or of one before.
    marked: bool,
    /// The mark was there when this copy began.
    resumed: bool,
    /// What [`Keep::look`] has found.
    looked: Option<bool>,
    /// Chunks of the first MiB, and those that reach behind the end of the disk.
    head: Numbered<Arc<Vec<u8>>>,
    /// Written, and not read back.
    fresh: Vec<u32>,
    /// The bytes of a disk that is shorter or longer than the one that is copied.
    other: Option<u64>,
    /// The disk keeps its own table.
    own: Option<OwnTable>,
}

impl<M: Media> Keep<M> {
    /// The disk for the manifest's disk of this number. Nothing is written. A file needs no
    /// more room than what is used; a `block` device holds all partitions.
    ///
    /// # Errors
    /// [`Trouble::TooSmall`], or it cannot be read.
    pub fn new(
        mut media: M,
        (manifest, disk): (Arc<Manifest>, u16),
        block: bool,
        read_back: bool,
        sender: Option<Ipv4Addr>,
    ) -> Result<Self, Trouble> {
        let of = manifest.layout.disks.get(usize::from(disk));
        let (size, used, least) = of.map_or((0, 0, 0), |of| {
            (of.size, of.used.iter().map(|extent| extent.length).sum(), of.least())
        });
        let other = media.room().filter(|room| block && *room != size);
        let cut = |room: &u64| {
            let behind = manifest.layout.of_disk(disk).filter(|(_, chunk)| {
                manifest.layout.pieces(chunk).any(|piece| piece.end() > *room)
            });
            behind.map(|(_, chunk)| u64::from(chunk.bytes)).sum::<u64>()
        };
        let (bytes, why) = match block {
            // What lies outside of partitions there is more than a table's copy.
            true if other.filter(|room| *room < size).is_some_and(|room| cut(&room) > BEHIND) => {
                (size, "the copy has")
            }
            true => (least, "what is sent needs"),
            false => (used, "the copy has"),
        };
        if let Some(room) = media.room().filter(|room| *room < bytes) {
            let name = media.name().to_string();
            return Err(Trouble::TooSmall { name, room, bytes, why, touched: false });
        }
        let mut head = [0; LENGTH];
        let n = media.fetch(0, &mut head)?;
        let marked = Mark::read(head.get(..n).unwrap_or_default()).is_some();
        Ok(Self {
            media,
            manifest,
            disk,
            sender,
            read_back,
            marked,
            resumed: marked,
            looked: None,
            head: Numbered::default(),
            fresh: Vec::new(),
            other,
            own: None,
        })
    }

    /// The disk keeps its own table. Nothing is written.
    ///
    /// # Errors
    /// [`Trouble::OtherTable`], or it cannot be read.
    #[cfg(feature = "own-table")]
    pub fn beside(mut self) -> Result<Self, Trouble> {
        let layout = &self.manifest.layout;
        let Some(disk) = layout.disks.get(usize::from(self.disk)) else { return Ok(self) };
        let (size, sector) = (self.media.room().unwrap_or(0), u64::from(disk.sector));
        let mut head = [0; LENGTH];
        self.media.fetch(0, &mut head)?;
        if self.marked {
            OwnTable::default().boots(&mut head);
        }
        let mut soon = Soon { head: &head, media: &mut self.media, size, sector };
        let table = blockmap::bare_table(&mut soon).map_err(ToString::to_string);
        let (own, why) = match table.and_then(|table| OwnTable::of(disk, &table)) {
            Ok(own) => (own, None),
            Err(why) => (OwnTable::default(), Some(why)),
        };
        self.other = None;
        self.own = Some(own);
        let layout = &self.manifest.layout;
        let held = layout.of_disk(self.disk).filter(|(_, chunk)| self.held(chunk));
        let held: u64 = held.map(|(_, chunk)| u64::from(chunk.bytes)).sum();
        let many = (held > BETWEEN).then(|| "too much is outside of partitions".to_string());
        match why.or(many) {
            Some(why) => Err(Trouble::OtherTable { name: self.media.name().to_string(), why }),
            None => Ok(self),
        }
    }

    /// Whether a chunk waits in memory for the end: of the first MiB, behind the disk's end, or in
    /// part not for this disk.
    fn held(&self, chunk: &Chunk) -> bool {
        let mut pieces = self.manifest.layout.pieces(chunk);
        if chunk.start < HELD as u64 {
            return true;
        }
        match (&self.own, self.other) {
            (Some(own), _) => pieces.any(|piece| own.gets(piece) != [piece]),
            (None, Some(end)) => pieces.any(|piece| piece.end() > end),
            (None, None) => false,
        }
    }

    /// The mark of an interrupted copy.
    fn mark(&mut self) -> Result<(), Trouble> {
        let Some(own) = &self.own else { return mark(&mut self.media, self.sender) };
        let mut first = [0; LENGTH];
        self.media.fetch(0, &mut first)?;
        own.mark(&mut first, &Mark::new(self.media.clock(), self.sender).bytes());
        write_all(&mut self.media, 0, &first)
    }

    /// What is written to.
    pub const fn media(&mut self) -> &mut M {
        &mut self.media
    }

    /// Whether the disk, not the system's memory of it, has this chunk.
    fn has(&mut self, n: u32, chunk: &Chunk) -> Result<bool, Trouble> {
        let manifest = self.manifest.clone();
        let Some(wanted) = manifest.digest(n) else { return Ok(false) };
        let mut hasher = blake3::Hasher::new();
        for piece in manifest.layout.pieces(chunk) {
            let length = usize::try_from(piece.length).unwrap_or(0);
            match self.media.read(piece.start, length)? {
                Some(bytes) if bytes.len() == length => hasher.update(bytes),
                _ => return Ok(false),
            };
        }
        Ok(wanted == *hasher.finalize().as_bytes())
    }

    /// Whether the disk may have chunks already: it has the mark of a copy that was broken off,
    /// or one of the [samples](Manifest::samples). Needs no other digests.
    pub fn look(&mut self, tick: &mut dyn FnMut()) -> bool {
        if let Some(looked) = self.looked {
            return looked;
        }
        let manifest = self.manifest.clone();
        let looked = self.marked
            || manifest.samples(self.disk).any(|n| {
                tick();
                let chunk = manifest.layout.chunk(n);
                chunk.is_some_and(|chunk| self.has(n, chunk).unwrap_or(false))
            });
        self.looked = Some(looked);
        looked
    }

    /// Looks at what the disk has, and adds it. Needs all digests, unless [`Keep::look`] found
    /// nothing.
    ///
    /// # Errors
    /// The system's. A place that cannot be read is one that does not have its chunk.
    pub fn scan(&mut self, have: &mut Bits, tick: &mut dyn FnMut()) -> Result<(), Trouble> {
        if !self.look(tick) {
            return Ok(());
        }
        let manifest = self.manifest.clone();
        let own: Vec<(u32, Chunk)> =
            manifest.layout.of_disk(self.disk).map(|(n, chunk)| (n, *chunk)).collect();
        for (n, chunk) in &own {
            let has = self.has(*n, chunk).unwrap_or(false);
            let held = has && self.held(chunk);
            // The first MiB is written from memory at the end.
            let bytes = if held { self.read(*n).ok().flatten() } else { None };
            if has && held == bytes.is_some() {
                have.add(*n);
                if let Some(bytes) = bytes {
                    self.head.insert(*n, bytes);
                }
            }
            tick();
        }
        // What begin() removes.
        if own.iter().any(|(n, _)| !have.has(*n))
            && !self.marked
            && self.own.is_none()
            && let Some(tail) = old_table(&mut self.media)
        {
            let hit = |c: &Chunk| manifest.layout.pieces(c).any(|piece| piece.end() > tail);
            own.iter().filter(|(_, c)| hit(c)).for_each(|(n, _)| have.remove(*n));
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Trouble> {
        self.media.begin()?;
        let disk = self.manifest.layout.disks.get(usize::from(self.disk));
        let size = disk.map_or(0, |disk| disk.size);
        self.media.end(self.other.unwrap_or(size))?;
        if !self.marked {
            let tail = old_table(&mut self.media).filter(|_| self.own.is_none());
            self.mark()?;
            if let Some(tail) = tail {
                write_all(&mut self.media, tail, &[0; 4096])?;
            }
            self.media.flush()?;
        }
        self.marked = true;
        Ok(())
    }

    /// Stores a chunk of this disk, which was compared with its digest.
    ///
    /// # Errors
    /// The disk cannot be written, or has other bytes than were written to it.
    pub fn store(&mut self, n: u32, data: &Arc<Vec<u8>>) -> Result<(), Trouble> {
        if !self.marked || self.resumed {
            self.begin()?;
            self.resumed = false;
        }
        let manifest = self.manifest.clone();
        let Some(chunk) = manifest.layout.chunk(n) else { return Ok(()) };
        if self.held(chunk) {
            self.head.insert(n, data.clone());
            return Ok(());
        }
        let mut rest = data.as_slice();
        for piece in manifest.layout.pieces(chunk) {
            let (some, more) =
                rest.split_at(rest.len().min(usize::try_from(piece.length).unwrap_or(0)));
            write_all(&mut self.media, piece.start, some)?;
            rest = more;
        }
        self.fresh.push(n);
        if self.fresh.len() >= BATCH { self.check() } else { Ok(()) }
    }

    /// Reads back what was written.
    fn check(&mut self) -> Result<(), Trouble> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        self.media.flush()?;
        let manifest = self.manifest.clone();
        for n in core::mem::take(&mut self.fresh) {
            let Some(chunk) = manifest.layout.chunk(n).filter(|_| self.read_back) else { break };
            if !self.has(n, chunk)? {
                if self.media.read(chunk.start, 1)?.is_some() {
                    return Err(Trouble::Differs { name: self.media.name().to_string() });
                }
                // Nothing that can be told apart from what the system remembers.
                self.read_back = false;
            }
        }
        Ok(())
    }

    /// A chunk that the disk has.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&mut self, n: u32) -> Result<Option<Arc<Vec<u8>>>, Trouble> {
        if let Some(held) = self.head.get(n) {
            return Ok(Some(held.clone()));
        }
        let manifest = self.manifest.clone();
        read(&manifest.layout, n, &mut |at, buffer| self.media.fetch(at, buffer))
            .map(|bytes| bytes.filter(|bytes| manifest.is(n, bytes)).map(Arc::new))
    }

    /// Ends: everything is written and read back, and then the first MiB. Whether all was read
    /// back.
    ///
    /// # Errors
    /// As [`Keep::store`]. The mark stays.
    pub fn finish(&mut self) -> Result<bool, Trouble> {
        if !self.marked {
            return Ok(self.read_back);
        }
        // It may be that only what the mark stands on was missing.
        self.begin()?;
        self.check()?;
        let manifest = self.manifest.clone();
        let Some(disk) = manifest.layout.disks.get(usize::from(self.disk)) else {
            return Ok(false);
        };
        let end = self.other.unwrap_or(disk.size);
        let mut head = vec![0; HELD.min(usize::try_from(end).unwrap_or(HELD))];
        if let Some(own) = &self.own {
            self.media.fetch(0, &mut head)?;
            own.boots(&mut head);
        }
        for (n, data) in self.head.iter() {
            let Some(chunk) = manifest.layout.chunk(n) else { continue };
            let mut rest = data.as_slice();
            for piece in manifest.layout.pieces(chunk) {
                let (some, more) =
                    rest.split_at(rest.len().min(usize::try_from(piece.length).unwrap_or(0)));
                rest = more;
                let clipped = || {
                    let length = piece.end().min(end).saturating_sub(piece.start);
                    Vec::from([Extent { start: piece.start, length }])
                };
                for part in self.own.as_ref().map_or_else(clipped, |own| own.gets(piece)) {
                    let [skip, length] = [part.start - piece.start, part.length]
                        .map(|n| usize::try_from(n).unwrap_or(0));
                    let some = some.get(skip..skip + length).unwrap_or_default();
                    let place = usize::try_from(part.start).ok().filter(|at| *at < head.len());
                    match place.and_then(|at| head.get_mut(at..)) {
                        Some(place) => {
                            place.iter_mut().zip(some).for_each(|(to, from)| *to = *from);
                        }
                        None => put(&mut self.media, part.start, some)?,
                    }
                }
            }
        }
        if self.other.is_some() {
            self.fit(&mut head, u64::from(disk.sector))?;
        }
        let (first, rest) = head.split_at(head.len().min(LENGTH));
        write_all(&mut self.media, LENGTH as u64, rest)?;
        self.media.flush()?;
        write_all(&mut self.media, 0, first)?;
        self.media.flush()?;
        if self.read_back {
            match self.media.read(0, head.len())? {
                None => self.read_back = false,
                Some(bytes) if bytes == head => {}
                Some(_) => {
                    let marked = self.mark();
                    let _ = marked.and_then(|()| self.media.flush());
                    return Err(Trouble::Differs { name: self.media.name().to_string() });
                }
            }
        }
        self.marked = false;
        Ok(self.read_back)
    }
}

/// A disk as it will be: the first MiB is not written yet.
struct Soon<'k, M> {
    head: &'k [u8],
    media: &'k mut M,
    size: u64,
    sector: u64,
}

impl<M: Media> ReadAt for Soon<'_, M> {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector(&self) -> u64 {
        self.sector
    }

    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let wrong = ReadError { at, length: buffer.len() as u64 };
        if self.media.fetch(at, buffer).ok() != Some(buffer.len()) {
            return Err(wrong);
        }
        let head = usize::try_from(at).ok().and_then(|at| self.head.get(at..));
        buffer.iter_mut().zip(head.unwrap_or_default()).for_each(|(to, from)| *to = *from);
        Ok(())
    }
}

impl<M: Media> Keep<M> {
    /// The partition table that comes with the first MiB ends at the end of this disk.
    fn fit(&mut self, head: &mut [u8], sector: u64) -> Result<(), Trouble> {
        let size = self.other.unwrap_or(0);
        let mut soon = Soon { head, media: &mut self.media, size, sector };
        let writes = match fit_gpt(&mut soon) {
            Ok(writes) => writes,
            Err(Misfit::TooSmall { needs: bytes, has: room }) => {
                let (name, why) = (self.media.name().to_string(), "what is sent needs");
                return Err(Trouble::TooSmall { name, room, bytes, why, touched: true });
            }
            // A copy of it is what was asked for.
            Err(_) => return Ok(()),
        };
        for (at, bytes) in writes {
            match usize::try_from(at).ok().and_then(|at| head.get_mut(at..at + bytes.len())) {
                Some(place) => place.copy_from_slice(&bytes),
                None => put(&mut self.media, at, &bytes)?,
            }
        }
        Ok(())
    }
}

/// Writes bytes at any place, and reads them back where that can be done.
fn put<M: Media>(media: &mut M, at: u64, bytes: &[u8]) -> Result<(), Trouble> {
    write_all(media, at, bytes)?;
    media.flush()?;
    let begin = at / GRAIN * GRAIN;
    let skip = usize::try_from(at - begin).unwrap_or(0);
    let back = media.read(begin, skip + bytes.len())?;
    match back.is_some_and(|back| back.get(skip..) != Some(bytes)) {
        true => Err(Trouble::Differs { name: media.name().to_string() }),
        false => Ok(()),
    }
}

/// Fills a buffer from a position on, and says how many bytes there were.
pub type Fetch<'f, E> = dyn FnMut(u64, &mut [u8]) -> Result<usize, E> + 'f;

/// Reads a chunk by what fills a buffer from a position on; nothing when some of it is missing.
///
/// # Errors
/// The reader's.
pub fn read<E>(layout: &Layout, n: u32, fetch: &mut Fetch<'_, E>) -> Result<Option<Vec<u8>>, E> {
    let Some(chunk) = layout.chunk(n) else { return Ok(None) };
    let mut all = vec![0; chunk.bytes as usize];
    let mut rest = all.as_mut_slice();
    for piece in layout.pieces(chunk) {
        let length = rest.len().min(usize::try_from(piece.length).unwrap_or(0));
        let (some, more) = core::mem::take(&mut rest).split_at_mut(length);
        if fetch(piece.start, some)? != some.len() {
            return Ok(None);
        }
        rest = more;
    }
    Ok(Some(all))
}
