//! A GPT that fits its disk: UEFI 2.10, 5.3. A copy on a disk of another length has its second
//! header in the middle or nowhere, and its usable sectors end where the old disk's did.

use crate::bytes::{le32, le64};
use crate::crc::crc32;
use crate::read::{ReadAt, ReadError, Window};
use crate::table::{self, ENTRIES};
use alloc::vec::Vec;
use core::fmt;

/// Why a GPT cannot be fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// A part of it cannot be read.
    Unreadable(ReadError),
    /// Its first header or its entries have a wrong checksum.
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
            Self::Unreadable(error) => write!(f, "its GPT cannot be read: {error}"),
            Self::Damaged => f.write_str(
                "its GPT has a wrong checksum; 'sgdisk --verify' tells more, 'sgdisk -e' or gdisk's \
                 recovery menu may repair it",
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

/// What to write where, in this order, so that the GPT ends at the end of the disk; empty when
/// it does, or when the disk has no GPT. Partitions stay as they are.
///
/// # Errors
/// [`Misfit`]; nothing should be written then.
pub fn fit_gpt(disk: &mut dyn ReadAt) -> Result<Vec<(u64, Vec<u8>)>, Misfit> {
    let size = disk.size();
    let mut disk = Window::new(disk, 0, size);
    let Some((sector, header)) = table::header(&mut disk) else { return Ok(Vec::new()) };
    let mut unused = crate::extents::Extents::default();
    if !table::whole(&mut disk, sector, 1, &header, &mut unused) {
        return Err(Misfit::Damaged);
    }
    let step = le32(&header, 84) as usize;
    let bytes = (u64::from(le32(&header, 80)) * step as u64).min(ENTRIES);
    let at = le64(&header, 72).saturating_mul(sector);
    let mut entries = disk.bytes(at, bytes as usize)?;
    let used = entries.chunks(step.max(1)).filter(|e| e.iter().take(16).any(|b| *b != 0));
    let end = used.map(|entry| le64(entry, 40)).max().unwrap_or(0);
    entries.resize(entries.len().next_multiple_of(sector as usize), 0);
    let behind = entries.len() as u64 / sector;
    let needs = end.saturating_add(2).saturating_add(behind).saturating_mul(sector);
    if needs > size {
        return Err(Misfit::TooSmall { needs, has: size });
    }
    let last = size / sector - 1;
    let place = last - behind;
    let write = |own: u64, other: u64, entries: u64| {
        let mut header = header.clone();
        header.resize(sector as usize, 0);
        put(&mut header, 24, own);
        put(&mut header, 32, other);
        put(&mut header, 48, place - 1);
        put(&mut header, 72, entries);
        put4(&mut header, 16, 0);
        let length = le32(&header, 12) as usize;
        let sum = crc32(&[header.get(..length).unwrap_or_default()]);
        put4(&mut header, 16, sum);
        (own * sector, header)
    };
    let mut writes = Vec::from([
        (place * sector, entries),
        write(last, 1, place),
        write(1, last, le64(&header, 72)),
    ]);
    // A hybrid MBR is its maker's business.
    let mut boot = disk.bytes(0, 512)?;
    let kinds = [450, 466, 482, 498].map(|at| boot.get(at).copied().unwrap_or(0));
    if kinds.iter().filter(|kind| **kind != 0).eq(&[0xee]) {
        let slot = kinds.iter().position(|kind| *kind == 0xee).unwrap_or(0) * 16;
        put4(&mut boot, 446 + slot + 12, u32::try_from(last).unwrap_or(u32::MAX));
        writes.push((0, boot));
    }
    writes.retain(|(at, bytes)| disk.bytes(*at, bytes.len()).is_ok_and(|old| old != *bytes));
    Ok(writes)
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
}
