//! A table that fits its disk. A GPT's copy (UEFI 2.10, 5.3) on a disk of another length has its
//! second header in the middle or nowhere, and its usable sectors end where the old disk's did; a
//! DOS table's extended partition may go past the end.

use crate::bytes::{le32, le64};
use crate::crc::crc32;
use crate::read::{ReadAt, ReadError, Window};
use crate::table::{self, ENTRIES};
use alloc::vec::Vec;
use core::fmt;
use overlay::partition::{self, Partition, Table};

/// Why a GPT cannot be fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// A part of it cannot be read.
    Unreadable(ReadError),
    /// Its first header or its entries have a wrong checksum, or its chain of logical partitions
    /// is broken.
    Damaged,
    /// A partition ends behind the last sector that can be used.
    TooSmall {
        /// Bytes that the disk must have.
        needs: u64,
        /// Bytes that it has.
        has: u64,
    },
}

impl From<ReadError> for Misfit {
    fn from(error: ReadError) -> Self {
        Self::Unreadable(error)
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "its partition table cannot be read: {error}"),
            Self::Damaged => f.write_str(
                "its partition table is damaged; 'sfdisk --verify' and 'sgdisk --verify' tell more, \
                 gdisk's recovery menu may repair a GPT",
            ),
            Self::TooSmall { needs, has } => write!(
                f,
                "its partitions need {needs} bytes, and it has {has}; shrink or remove the last one \
                 on the disk that it is a copy of, or take a larger disk"
            ),
        }
    }
}

impl core::error::Error for Misfit {}

/// What makes a table fit its disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fit {
    /// What to write where, in this order.
    pub writes: Vec<(u64, Vec<u8>)>,
    /// The last partition, where [`fit_table`] was to grow it: as it is now, and whether that is
    /// longer than before.
    pub last: Option<(Place, bool)>,
}

/// A partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its number as the kernel counts.
    pub number: u32,
    /// Its first byte.
    pub start: u64,
    /// Its bytes.
    pub length: u64,
}

/// Partitions end at a multiple of it, where they are made longer.
const GRAIN: u64 = 1 << 20;

/// Fits the table to the disk: a GPT as [`fit_gpt`], a DOS table's extended partition ends with the
/// disk. With `grow` the partition that begins last takes what is free behind it. Nothing to write
/// when all that is so, or when the disk has no table.
///
/// # Errors
/// [`Misfit`]; nothing should be written then.
pub fn fit_table(disk: &mut dyn ReadAt, grow: bool) -> Result<Fit, Misfit> {
    let size = disk.size();
    let mut disk = Window::new(disk, 0, size);
    let header = announced(&mut disk)?;
    let sector = header.as_ref().map_or(disk.sector(), |(sector, _)| *sector);
    let read = &mut |at: u64, buffer: &mut [u8]| disk.some(at, buffer);
    let Some(table) = partition::table(read, sector) else { return Ok(Fit::default()) };
    let last = table.partitions.iter().filter(|_| grow).max_by_key(|part| part.start);
    let mut fit = match (table.gpt, header) {
        // A boot sector of a file system ends as a table does.
        (false, _) if partition::extent(&disk.bytes(0, 512)?).is_none() => Fit::default(),
        (false, _) => dos(&mut disk, &table, grow)?,
        (true, Some(header)) if table.complete || !grow => gpt(&mut disk, header, last)?,
        (true, _) => return Err(Misfit::Damaged),
    };
    news(&mut disk, &mut fit.writes);
    Ok(fit)
}

/// Fits a GPT to the disk: its second header and its last usable sector are at the end of the
/// disk, and partitions stay as they are. Nothing to write when that is so, or when the disk has no
/// GPT.
///
/// # Errors
/// [`Misfit`]; nothing should be written then.
pub fn fit_gpt(disk: &mut dyn ReadAt) -> Result<Vec<(u64, Vec<u8>)>, Misfit> {
    let size = disk.size();
    let mut disk = Window::new(disk, 0, size);
    let Some(header) = announced(&mut disk)? else { return Ok(Vec::new()) };
    let mut writes = gpt(&mut disk, header, None)?.writes;
    news(&mut disk, &mut writes);
    Ok(writes)
}

/// The first header of a GPT that counts. As in the kernel the MBR must announce it: a tool that
/// made a DOS table may have left the old GPT's header in its place.
fn announced(disk: &mut Window<'_>) -> Result<Option<(u64, Vec<u8>)>, ReadError> {
    let boot = disk.bytes(0, 512)?;
    let gpt = [450, 466, 482, 498].iter().any(|at| boot.get(*at) == Some(&0xee));
    Ok(table::header(disk).filter(|_| gpt))
}

/// What the disk has already is not written.
fn news(disk: &mut Window<'_>, writes: &mut Vec<(u64, Vec<u8>)>) {
    writes.retain(|(at, bytes)| disk.bytes(*at, bytes.len()).is_ok_and(|old| old != *bytes));
}

/// Where the last partition ends when it takes all up to here; not before its old end.
fn longer(last: &Partition, limit: u64) -> u64 {
    (limit / GRAIN * GRAIN).max(last.start.saturating_add(last.length))
}

fn gpt(
    disk: &mut Window<'_>,
    (sector, header): (u64, Vec<u8>),
    grows: Option<&Partition>,
) -> Result<Fit, Misfit> {
    let size = disk.size();
    let mut unused = crate::extents::Extents::default();
    if !table::whole(disk, sector, 1, &header, &mut unused) {
        return Err(Misfit::Damaged);
    }
    let step = le32(&header, 84) as usize;
    let bytes = (u64::from(le32(&header, 80)) * step as u64).min(ENTRIES);
    let first = le64(&header, 72);
    let mut entries = disk.bytes(first.saturating_mul(sector), bytes as usize)?;
    let used = entries.chunks(step.max(1)).filter(|e| e.iter().take(16).any(|b| *b != 0));
    let end = used.map(|entry| le64(entry, 40)).max().unwrap_or(0);
    let behind = bytes.div_ceil(sector);
    let needs = end.saturating_add(2).saturating_add(behind).saturating_mul(sector);
    if needs > size {
        return Err(Misfit::TooSmall { needs, has: size });
    }
    let last = size / sector - 1;
    let place = last - behind;
    let mut fit = Fit::default();
    let mut sum = le32(&header, 88);
    if let Some(part) = grows {
        let end = longer(part, place * sector);
        let at = (part.number as usize).saturating_sub(1).saturating_mul(step);
        put(&mut entries, at + 40, end / sector - 1);
        sum = crc32(&[&entries]);
        fit.last = Some(grown(part, end));
    }
    entries.resize((behind * sector) as usize, 0);
    let write = |own: u64, other: u64, entries: u64| {
        let mut header = header.clone();
        header.resize(sector as usize, 0);
        put(&mut header, 24, own);
        put(&mut header, 32, other);
        put(&mut header, 48, place - 1);
        put(&mut header, 72, entries);
        put4(&mut header, 88, sum);
        put4(&mut header, 16, 0);
        let length = le32(&header, 12) as usize;
        let sum = crc32(&[header.get(..length).unwrap_or_default()]);
        put4(&mut header, 16, sum);
        (own * sector, header)
    };
    // One of the two is whole at any moment.
    fit.writes.push((place * sector, entries.clone()));
    fit.writes.push(write(last, 1, place));
    fit.writes.push((first * sector, entries));
    fit.writes.push(write(1, last, first));
    // A hybrid MBR is its maker's business.
    let mut boot = disk.bytes(0, 512)?;
    let kinds = [450, 466, 482, 498].map(|at| boot.get(at).copied().unwrap_or(0));
    if kinds.iter().filter(|kind| **kind != 0).eq(&[0xee]) {
        let slot = kinds.iter().position(|kind| *kind == 0xee).unwrap_or(0) * 16;
        put4(&mut boot, 446 + slot + 12, u32::try_from(last).unwrap_or(u32::MAX));
        fit.writes.push((0, boot));
    }
    Ok(fit)
}

fn grown(part: &Partition, end: u64) -> (Place, bool) {
    let length = end.saturating_sub(part.start);
    (Place { number: part.number, start: part.start, length }, length > part.length)
}

/// A DOS table counts with 32 bits, and has no copy. Links between the records of logical
/// partitions say how far the next one reaches.
fn dos(disk: &mut Window<'_>, table: &Table, grow: bool) -> Result<Fit, Misfit> {
    let (sector, size) = (disk.sector(), disk.size());
    if !table.complete {
        return Err(Misfit::Damaged);
    }
    let ends = table.partitions.iter().map(|part| part.start.saturating_add(part.length));
    let needs = ends.max().unwrap_or(0);
    if needs > size {
        return Err(Misfit::TooSmall { needs, has: size });
    }
    let mut boot = Record::read(disk, 0, 0)?;
    // Slot, first byte and end.
    let primary: Vec<(usize, u64, u64)> = boot.entries().collect();
    let extended = primary.iter().copied().find(|(slot, ..)| boot.extends(*slot));
    let most = size.min(u64::from(u32::MAX) * sector);
    let Some(part) = table.partitions.iter().max_by_key(|part| part.start) else {
        return Ok(Fit::default());
    };
    let behind = primary.iter().map(|(_, start, _)| *start).filter(|start| *start > part.start);
    let limit = behind.fold(most, u64::min);
    let end = if grow { longer(part, limit) } else { part.start.saturating_add(part.length) };
    let mut fit = Fit { writes: Vec::new(), last: grow.then(|| grown(part, end)) };
    let logical = part.number > 4;
    if let Some((slot, _, old)) = extended {
        boot.set_end(slot, if logical { old.max(end) } else { old }.min(most));
    }
    if !logical {
        boot.set_end((part.number as usize).saturating_sub(1), end);
    } else if let ([before @ .., own], Some((_, first, _))) = (table.records.as_slice(), extended) {
        let mut record = Record::read(disk, *own, *own)?;
        let slot = record.entries().find(|(slot, ..)| !record.extends(*slot));
        slot.into_iter().for_each(|(slot, ..)| record.set_end(slot, end));
        fit.writes.push((*own, record.bytes));
        // The record before it says how far this one reaches.
        if let Some(at) = before.last() {
            let mut record = Record::read(disk, *at, first)?;
            let slot = record.entries().find(|(slot, ..)| record.extends(*slot));
            slot.into_iter().for_each(|(slot, ..)| record.set_end(slot, end));
            fit.writes.push((*at, record.bytes));
        }
    }
    fit.writes.push((0, boot.bytes));
    Ok(fit)
}

/// A boot record: 512 bytes with four entries.
struct Record {
    bytes: Vec<u8>,
    /// What its entries count from.
    base: u64,
    sector: u64,
}

impl Record {
    fn read(disk: &mut Window<'_>, at: u64, base: u64) -> Result<Self, ReadError> {
        Ok(Self { bytes: disk.bytes(at, 512)?, base, sector: disk.sector() })
    }

    fn kind(&self, slot: usize) -> u8 {
        self.bytes.get(450 + slot * 16).copied().unwrap_or(0)
    }

    fn extends(&self, slot: usize) -> bool {
        matches!(self.kind(slot), 0x05 | 0x0f | 0x85)
    }

    fn start(&self, slot: usize) -> u64 {
        self.base.saturating_add(u64::from(le32(&self.bytes, 454 + slot * 16)) * self.sector)
    }

    /// Each used entry: its slot, its first byte and its end on the disk.
    fn entries(&self) -> impl Iterator<Item = (usize, u64, u64)> + '_ {
        (0..4).filter(|slot| self.kind(*slot) != 0).map(|slot| {
            let length = u64::from(le32(&self.bytes, 458 + slot * 16)) * self.sector;
            (slot, self.start(slot), self.start(slot).saturating_add(length))
        })
    }

    /// Sets an entry's end, also in cylinders, heads and sectors of the usual geometry (255, 63);
    /// past its 1024 cylinders the highest, as all tools have it.
    fn set_end(&mut self, slot: usize, end: u64) {
        let sectors = end.saturating_sub(self.start(slot)) / self.sector;
        let sectors = u32::try_from(sectors).unwrap_or(u32::MAX);
        if sectors == 0 || le32(&self.bytes, 458 + slot * 16) == sectors {
            return;
        }
        put4(&mut self.bytes, 458 + slot * 16, sectors);
        let last = end / self.sector - 1;
        let (cylinder, rest) = (last / (255 * 63), last % (255 * 63));
        let geometry = match cylinder {
            0..1024 => [rest / 63, (rest % 63 + 1) | (cylinder >> 2 & 0xc0), cylinder & 0xff],
            _ => [0xfe, 0xff, 0xff],
        };
        if let Some(place) = self.bytes.get_mut(451 + slot * 16..454 + slot * 16) {
            place.copy_from_slice(&geometry.map(|n| u8::try_from(n).unwrap_or(0xff)));
        }
    }
}

fn put(bytes: &mut [u8], at: usize, number: u64) {
    if let Some(place) = bytes.get_mut(at..at + 8) {
        place.copy_from_slice(&number.to_le_bytes());
    }
}

fn put4(bytes: &mut [u8], at: usize, number: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&number.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::SIGNATURE;
    use crate::whole_disk;

    const SECTOR: usize = 512;

    /// A disk with one partition, sectors 40 to 79, whose table was made for so many sectors.
    fn disk(table: u64, sectors: usize) -> Vec<u8> {
        let mut disk = vec![0; sectors * SECTOR];
        disk[450] = 0xee;
        put4(&mut disk, 454, 1);
        put4(&mut disk, 458, table as u32 - 1);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk[SECTOR..SECTOR + 8].copy_from_slice(SIGNATURE);
        for (at, number) in [(24, 1), (32, table - 1), (40, 34), (48, table - 34), (72, 2)] {
            put(&mut disk, SECTOR + at, number);
        }
        for (at, number) in [(8, 0x1_0000), (12, 92), (80, 128), (84, 128)] {
            put4(&mut disk, SECTOR + at, number);
        }
        disk[1024..1040].copy_from_slice(&[7; 16]);
        disk[1040..1056].copy_from_slice(&[9; 16]);
        put(&mut disk, 1024 + 32, 40);
        put(&mut disk, 1024 + 40, 79);
        let sum = crc32(&[&disk[1024..1024 + 128 * 128]]);
        put4(&mut disk, SECTOR + 88, sum);
        let sum = crc32(&[&disk[SECTOR..SECTOR + 92]]);
        put4(&mut disk, SECTOR + 16, sum);
        disk
    }

    /// Whatever the length was before, the table ends at the end of the disk, and once is enough.
    #[test]
    fn a_table_of_any_other_disk_fits_afterwards() {
        for (table, sectors) in [(200, 200), (200, 300), (300, 200), (5000, 113)] {
            let mut disk = disk(table, sectors);
            let writes = fit_gpt(&mut disk.as_slice()).unwrap();
            for (at, bytes) in writes {
                disk[at as usize..][..bytes.len()].copy_from_slice(&bytes);
            }
            assert_eq!(fit_gpt(&mut disk.as_slice()), Ok(Vec::new()), "{table} {sectors}");
            assert_eq!(le64(&disk, SECTOR + 48), sectors as u64 - 34);
            assert_eq!(le32(&disk, 458), sectors as u32 - 1);
            let map = whole_disk(&mut disk.as_slice()).unwrap();
            assert!(map.notes.is_empty(), "{:?}", map.notes);
            assert_eq!((map.parts[0].start, map.parts[0].length), (40 * 512, 40 * 512));
        }
    }

    #[test]
    fn a_table_that_does_not_fit_or_is_damaged_stays() {
        let mut short = disk(200, 112);
        assert_eq!(
            fit_gpt(&mut short.as_slice()),
            Err(Misfit::TooSmall { needs: 113 * 512, has: 112 * 512 })
        );
        short[1024 + 40] ^= 1;
        assert_eq!(fit_gpt(&mut short.as_slice()), Err(Misfit::Damaged));
        assert_eq!(fit_gpt(&mut [0; 4096].as_slice()), Ok(Vec::new()));
    }

    #[test]
    fn a_hybrid_mbr_stays_as_it_is() {
        let mut hybrid = disk(200, 300);
        hybrid[466] = 0x0c;
        assert!(fit_gpt(&mut hybrid.as_slice()).unwrap().iter().all(|(at, _)| *at != 0));
    }
    /// A table of 512-byte sectors: partition 1, an extended one with two logical ones.
    fn logical(sectors: usize) -> Vec<u8> {
        let mut disk = vec![0; sectors * SECTOR];
        let mut entry = |record: usize, slot: usize, kind: u8, start: u32, length: u32| {
            let at = record * SECTOR + 446 + slot * 16;
            disk[at + 4] = kind;
            put4(&mut disk, at + 8, start);
            put4(&mut disk, at + 12, length);
            disk[record * SECTOR + 510..][..2].copy_from_slice(&[0x55, 0xaa]);
        };
        entry(0, 0, 0x83, 2048, 2048);
        entry(0, 2, 0x05, 4096, 8192);
        entry(4096, 0, 0x83, 2048, 1000);
        entry(4096, 1, 0x05, 4096, 3048);
        entry(8192, 0, 0x82, 2048, 1000);
        disk
    }

    fn fitted(mut disk: Vec<u8>) -> (Vec<u8>, Option<(Place, bool)>) {
        let fit = fit_table(&mut disk.as_slice(), true).unwrap();
        for (at, bytes) in fit.writes {
            disk[at as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        let again = fit_table(&mut disk.as_slice(), true).unwrap();
        assert!(again.writes.is_empty() && again.last.is_some_and(|(_, longer)| !longer));
        (disk, fit.last)
    }

    #[test]
    fn the_last_logical_partition_grows_with_all_that_holds_it() {
        let (disk, last) = fitted(logical(20_000));
        // 18432 sectors are the last whole MiB.
        let place = Place { number: 6, start: 10_240 * 512, length: 8192 * 512 };
        assert_eq!(last, Some((place, true)));
        assert_eq!(le32(&disk, 446 + 32 + 12), 18_432 - 4096);
        assert_eq!(le32(&disk, 8192 * 512 + 446 + 12), 8192);
        assert_eq!(le32(&disk, 4096 * 512 + 446 + 16 + 12), 18_432 - 8192);
        // Cylinder 1, head 37, sector 36 of 255 heads and 63 sectors.
        assert_eq!(disk[446 + 32 + 5..446 + 32 + 8], [37, 36, 1]);
        let map = whole_disk(&mut disk.as_slice()).unwrap();
        assert_eq!(map.parts.iter().map(|p| p.number).collect::<Vec<_>>(), [1, 5, 6]);
    }

    #[test]
    fn an_extended_partition_is_cut_where_its_logical_ones_fit() {
        let (disk, last) = fitted(logical(11_500));
        assert_eq!(last.map(|(last, longer)| (last.length, longer)), Some((1000 * 512, false)));
        assert_eq!(le32(&disk, 446 + 32 + 12), 11_500 - 4096);
        let short = fit_table(&mut logical(11_000).as_slice(), false);
        assert_eq!(short, Err(Misfit::TooSmall { needs: 11_240 * 512, has: 11_000 * 512 }));
    }

    /// The end of a disk with a DOS table was overwritten when the first sectors still had the
    /// header of a GPT.
    #[test]
    fn a_gpt_that_the_mbr_does_not_announce_is_none() {
        let mut both = disk(200, 8000);
        both[450] = 0x83;
        let fit = fit_table(&mut both.as_slice(), true).unwrap();
        assert_eq!(fit.writes.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn a_gpt_s_last_partition_takes_the_rest() {
        let (disk, last) = fitted(disk(200, 9000));
        let place = Place { number: 1, start: 40 * 512, length: (8192 - 40) * 512 };
        assert_eq!(last, Some((place, true)));
        let map = whole_disk(&mut disk.as_slice()).unwrap();
        assert!(map.notes.is_empty(), "{:?}", map.notes);
        assert_eq!(map.parts[0].length, place.length);
    }
}
