//! Partition tables: GPT (UEFI 2.10, chapter 5) and MBR with its extended partitions: the place
//! and the names of each partition.
//!
//! Read-only. Checksums are not verified: the kernel made its devices from the same table, and
//! a damaged one leads at worst to no file system. A hybrid MBR beside a GPT is ignored.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::probe::ReadAt;
use sys::bytes::hex;
use sys::bytes::or_zero::{le32, le64};

/// Most partitions that are read.
const MAX_PARTITIONS: usize = 256;

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number as the kernel counts, from 1.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// GPT's unique UUID in lower case, or `SERIAL-NN` of an MBR.
    pub uuid: String,
    /// GPT's name; empty on an MBR.
    pub name: String,
    /// GPT's type as it is on the disk; the first byte is an MBR's type.
    pub kind: [u8; 16],
}

impl Partition {
    /// The type in words: a UUID in lower case, or two digits.
    #[must_use]
    pub fn kind(&self) -> String {
        match self.kind.split_first() {
            Some((byte, rest)) if rest.iter().all(|byte| *byte == 0) => format!("{byte:02x}"),
            _ => guid(&self.kind),
        }
    }
}

/// A disk's partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// GPT, not MBR.
    pub gpt: bool,
    /// Its partitions, without the extended one.
    pub partitions: Vec<Partition>,
    /// Where an MBR's logical partitions have their boot records, in bytes.
    pub records: Vec<u64>,
    /// Nothing of it was left out: it has no entry that is out of bounds, no broken chain and no
    /// more partitions than are read.
    pub complete: bool,
}

/// Parses a disk's table; empty when it has none.
///
/// `sector` is the size of the disk's logical sectors, 512 or 4096.
#[must_use]
pub fn read(source: ReadAt<'_>, sector: u64) -> Vec<Partition> {
    table(source, sector).map(|table| table.partitions).unwrap_or_default()
}

/// Parses a disk's table as [`read`] does, with what is known of the table itself; `None` when
/// the first sector does not end as one that has a table.
#[must_use]
pub fn table(source: ReadAt<'_>, sector: u64) -> Option<Table> {
    let mut boot = [0; 512];
    if source(0, &mut boot) < boot.len() || boot.get(510..) != Some(&[0x55, 0xaa]) {
        return None;
    }
    let entries = mbr_entries(&boot);
    Some(match entries.iter().any(|entry| entry.kind == 0xee) {
        true => gpt(source, sector),
        false => mbr(source, sector, &boot, &entries),
    })
}

/// The bytes that a disk must have for the table in its first bytes: up to the end of the last
/// partition and, with a GPT, of the table's copy at the disk's end. Nothing when `head` has no
/// table; a boot sector of a file system is none.
///
/// The sectors of an MBR are taken as 512 bytes, of which a disk never has more than it needs.
#[must_use]
pub fn extent(head: &[u8]) -> Option<u64> {
    let boot = head.first_chunk::<512>()?;
    if !boot.ends_with(&[0x55, 0xaa]) {
        return None;
    }
    let entries = mbr_entries(boot);
    if entries.iter().any(|entry| entry.kind == 0xee) {
        let at = |sector: u64| head.get(sector as usize..).unwrap_or_default();
        let sector = [512, 4096].into_iter().find(|s| at(*s).starts_with(b"EFI PART"))?;
        let mut source = |at: u64, buffer: &mut [u8]| {
            let rest = usize::try_from(at).ok().and_then(|at| head.get(at..)).unwrap_or_default();
            let length = rest.len().min(buffer.len());
            let (some, from) = (buffer.get_mut(..length), rest.get(..length));
            some.zip(from).map_or(0, |(some, from)| {
                some.copy_from_slice(from);
                length
            })
        };
        let partitions = gpt(&mut source, sector).partitions;
        let last = partitions.iter().filter_map(|p| p.start.checked_add(p.length)).max();
        let copy = le64(at(sector), 32).checked_add(1)?.checked_mul(sector);
        return last.max(copy);
    }
    // What is no table has other bytes there: code, or a file system's numbers.
    let table = boot.get(446..510).unwrap_or_default().as_chunks::<16>().0;
    let odd = |raw: &[u8; 16], entry: &Entry| {
        let used = entry.kind != 0;
        !matches!(raw.first(), Some(0 | 0x80))
            || used != (entry.sectors > 0)
            || used != (entry.start > 0)
    };
    if table.iter().zip(&entries).any(|(raw, entry)| odd(raw, entry)) {
        return None;
    }
    let ends = entries.iter().filter(|entry| entry.kind != 0);
    ends.map(|entry| (entry.start + entry.sectors) * 512).max()
}

struct Entry {
    kind: u8,
    start: u64,
    sectors: u64,
}

fn mbr_entries(boot: &[u8; 512]) -> Vec<Entry> {
    let table = boot.get(446..510).unwrap_or_default();
    let entry = |raw: &[u8; 16]| Entry {
        kind: raw.get(4).copied().unwrap_or(0),
        start: u64::from(le32(raw, 8)),
        sectors: u64::from(le32(raw, 12)),
    };
    table.as_chunks::<16>().0.iter().map(entry).collect()
}

fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

fn mbr(source: ReadAt<'_>, sector: u64, boot: &[u8; 512], entries: &[Entry]) -> Table {
    let serial = le32(boot, 440);
    let mut table =
        Table { gpt: false, partitions: Vec::new(), records: Vec::new(), complete: true };
    let add = |table: &mut Table, number: u32, start: u64, entry: &Entry| {
        let bytes = (start.checked_mul(sector), entry.sectors.checked_mul(sector));
        if let (Some(start), Some(length)) = bytes
            && entry.sectors > 0
        {
            let uuid = format!("{serial:08x}-{number:02x}");
            let mut kind = [0; 16];
            kind[0] = entry.kind;
            let name = String::new();
            table.partitions.push(Partition { number, start, length, uuid, name, kind });
        }
    };
    for (number, entry) in (1..).zip(entries) {
        if entry.kind != 0 && !is_extended(entry.kind) {
            add(&mut table, number, entry.start, entry);
        }
    }
    let mut chains = entries.iter().filter(|entry| is_extended(entry.kind));
    let Some(extended) = chains.next() else {
        return table;
    };
    table.complete = chains.next().is_none();
    // A chain of boot records: each holds one partition, counted from itself,
    // and the next record, counted from the first.
    let mut at = extended.start;
    for number in 5..MAX_PARTITIONS as u32 {
        let mut record = [0; 512];
        let Some(byte) = at.checked_mul(sector) else { break };
        if source(byte, &mut record) < record.len() || record.get(510..) != Some(&[0x55, 0xaa]) {
            break;
        }
        table.records.push(byte);
        let links = mbr_entries(&record);
        if let Some(entry) = links.iter().find(|entry| entry.kind != 0 && !is_extended(entry.kind))
        {
            add(&mut table, number, at.saturating_add(entry.start), entry);
        }
        let next = links.iter().find(|entry| is_extended(entry.kind));
        match next.map(|entry| extended.start.saturating_add(entry.start)) {
            None => return table,
            // Forward only: a chain with a loop would never end.
            Some(next) if next > at => at = next,
            Some(_) => break,
        }
    }
    table.complete = false;
    table
}

fn gpt(source: ReadAt<'_>, sector: u64) -> Table {
    let mut table =
        Table { gpt: true, partitions: Vec::new(), records: Vec::new(), complete: false };
    let mut header = [0; 92];
    let (read, signature) = (source(sector, &mut header), header.get(..8));
    if read < header.len() || signature != Some(b"EFI PART") {
        return table;
    }
    let first = le64(&header, 72);
    let count = le32(&header, 80) as usize;
    let size = u64::from(le32(&header, 84));
    if !(128..=4096).contains(&size) {
        return table;
    }
    table.complete = count <= MAX_PARTITIONS;
    for (number, index) in (1..).zip(0..count.min(MAX_PARTITIONS) as u64) {
        let mut entry = [0; 128];
        let at = first.checked_mul(sector).and_then(|at| at.checked_add(index * size));
        if at.is_none_or(|at| source(at, &mut entry) < entry.len()) {
            table.complete = false;
            break;
        }
        let [kind, uuid, ..] = entry.as_chunks::<16>().0 else { break };
        if kind.iter().all(|byte| *byte == 0) {
            continue;
        }
        let (first, last) = (le64(&entry, 32), le64(&entry, 40));
        let start = first.checked_mul(sector);
        let length = last
            .checked_sub(first)
            .and_then(|sectors| sectors.checked_add(1))
            .and_then(|sectors| sectors.checked_mul(sector));
        if let (Some(start), Some(length)) = (start, length) {
            let name = utf16(entry.get(56..).unwrap_or_default());
            let (uuid, kind) = (guid(uuid), *kind);
            table.partitions.push(Partition { number, start, length, uuid, name, kind });
        } else {
            table.complete = false;
        }
    }
    table
}

/// A GUID's first three fields are little-endian numbers, the rest bytes.
fn guid(bytes: &[u8; 16]) -> String {
    let (first, second) = (le32(bytes, 0), le32(bytes, 4));
    let (third, fourth) = bytes.split_at_checked(10).unwrap_or_default();
    let middle = hex(third.get(8..).unwrap_or_default());
    format!("{first:08x}-{:04x}-{:04x}-{middle}-{}", second & 0xffff, second >> 16, hex(fourth))
}

fn utf16(field: &[u8]) -> String {
    let units = field.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
    char::decode_utf16(units.take_while(|unit| *unit != 0))
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_at(bytes: &[u8], at: u64, buffer: &mut [u8]) -> usize {
        let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        length
    }

    fn read_bytes(bytes: &[u8]) -> Vec<Partition> {
        read(&mut |at, buffer| bytes_at(bytes, at, buffer), 512)
    }

    fn entry(disk: &mut [u8], at: usize, slot: usize, kind: u8, start: u32, sectors: u32) {
        let at = at + 446 + slot * 16;
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    }

    fn signed(disk: &mut [u8], at: usize) {
        disk[at + 510..at + 512].copy_from_slice(&[0x55, 0xaa]);
    }

    fn mbr_disk() -> Vec<u8> {
        let mut disk = vec![0; 512 * 100];
        disk[440..444].copy_from_slice(&0x12ab_34cd_u32.to_le_bytes());
        entry(&mut disk, 0, 0, 0x83, 8, 8);
        entry(&mut disk, 0, 1, 0x05, 20, 60);
        signed(&mut disk, 0);
        entry(&mut disk, 20 * 512, 0, 0x83, 2, 10);
        entry(&mut disk, 20 * 512, 1, 0x05, 30, 10);
        signed(&mut disk, 20 * 512);
        entry(&mut disk, 50 * 512, 0, 0x82, 1, 5);
        signed(&mut disk, 50 * 512);
        disk
    }

    fn gpt_disk() -> Vec<u8> {
        let mut disk = vec![0; 512 * 64];
        entry(&mut disk, 0, 0, 0xee, 1, 63);
        signed(&mut disk, 0);
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[512 + 72..512 + 80].copy_from_slice(&2_u64.to_le_bytes());
        disk[512 + 80..512 + 84].copy_from_slice(&128_u32.to_le_bytes());
        disk[512 + 84..512 + 88].copy_from_slice(&128_u32.to_le_bytes());
        let at = 1024 + 128;
        disk[at..at + 16].copy_from_slice(&[7; 16]);
        let uuid: Vec<u8> = (0..16).collect();
        disk[at + 16..at + 32].copy_from_slice(&uuid);
        disk[at + 32..at + 40].copy_from_slice(&40_u64.to_le_bytes());
        disk[at + 40..at + 48].copy_from_slice(&49_u64.to_le_bytes());
        for (place, unit) in "persistence".encode_utf16().enumerate() {
            let at = at + 56 + place * 2;
            disk[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        disk
    }

    #[test]
    fn an_mbr_with_logical_partitions() {
        let found = read_bytes(&mbr_disk());
        let places: Vec<_> =
            found.iter().map(|p| (p.number, p.start / 512, p.length / 512)).collect();
        assert_eq!(places, [(1, 8, 8), (5, 22, 10), (6, 51, 5)]);
        assert_eq!(found[0].uuid, "12ab34cd-01");
        assert_eq!(found[2].uuid, "12ab34cd-06");
        assert_eq!(found[2].kind(), "82");
        let table = table(&mut |at, buffer| bytes_at(&mbr_disk(), at, buffer), 512).unwrap();
        assert_eq!((table.gpt, table.complete), (false, true));
        assert_eq!(table.records, [20 * 512, 50 * 512]);
    }

    #[test]
    fn a_gpt_keeps_its_numbers() {
        let found = read_bytes(&gpt_disk());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].number, found[0].start, found[0].length), (2, 40 * 512, 5120));
        assert_eq!(found[0].uuid, "03020100-0504-0706-0809-0a0b0c0d0e0f");
        assert_eq!(found[0].name, "persistence");
        assert_eq!(found[0].kind(), "07070707-0707-0707-0707-070707070707");
    }

    #[test]
    fn a_table_says_how_long_its_disk_is() {
        assert_eq!(extent(&mbr_disk()), Some(80 * 512), "the extended partition counts");
        let mut gpt = gpt_disk();
        assert_eq!(extent(&gpt), Some(50 * 512));
        gpt[512 + 32..512 + 40].copy_from_slice(&63_u64.to_le_bytes());
        assert_eq!(extent(&gpt), Some(64 * 512), "the table's copy counts");
        gpt[512 + 32..512 + 40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(extent(&gpt), None, "no disk has so many sectors");
        assert_eq!(extent(&gpt[..511]), None);
        // The boot sector of a FAT file system, with code where a table would be.
        let mut fat = vec![0x90; 4096];
        signed(&mut fat, 0);
        assert_eq!(extent(&fat), None);
        assert_eq!(extent(&[0; 4096]), None);
    }

    #[test]
    fn a_chain_that_leads_back_ends() {
        let mut disk = mbr_disk();
        entry(&mut disk, 50 * 512, 1, 0x05, 0, 10);
        assert_eq!(read_bytes(&disk).len(), 3);
        let table = table(&mut |at, buffer| bytes_at(&disk, at, buffer), 512).unwrap();
        assert!(!table.complete, "a copy by this table might leave something out");
    }

    proptest! {
        #[test]
        fn never_panics(at in 0_usize..6000, junk: Vec<u8>, gpt: bool, cut in 0_usize..52000) {
            let mut disk = if gpt { gpt_disk() } else { mbr_disk() };
            for (slot, byte) in disk.iter_mut().skip(at).zip(junk) {
                *slot = byte;
            }
            signed(&mut disk, 0);
            let _ = (read_bytes(&disk), extent(&disk));
            disk.truncate(cut);
            let _ = (read_bytes(&disk), extent(&disk));
        }
    }
}
