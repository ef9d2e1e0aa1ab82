//! Real disks, as mkfs of Debian 12 makes them: each file has the disk's length, then runs of
//! sectors that are not zero (first sector u32, count u16, the sectors), packed by zstd.

use crate::{How, Raw, ReadAt, ReadError, whole_disk};
use overlay::probe::Format;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A disk of which few sectors are not zero.
#[derive(Clone)]
struct Sparse {
    size: u64,
    sectors: BTreeMap<u64, Vec<u8>>,
}

impl ReadAt for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len() as u64;
        assert!(length <= 32 << 20, "a reader asks for {length} bytes at once");
        if at.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(ReadError { at, length });
        }
        buffer.fill(0);
        for (number, sector) in self.sectors.range(at / 512..(at + length).div_ceil(512)) {
            for (byte, place) in sector.iter().zip(number * 512..) {
                if let Some(index) = place.checked_sub(at).filter(|index| *index < length) {
                    buffer[index as usize] = *byte;
                }
            }
        }
        Ok(())
    }
}

fn unpack(packed: &[u8]) -> Sparse {
    let bytes = zstd::decode_all(packed).unwrap();
    let (size, mut rest) = bytes.split_first_chunk().unwrap();
    let mut disk = Sparse { size: u64::from_le_bytes(*size), sectors: BTreeMap::new() };
    while let Some((first, more)) = rest.split_first_chunk() {
        let (count, mut more) = more.split_first_chunk().unwrap();
        let first = u64::from(u32::from_le_bytes(*first));
        for number in first..first + u64::from(u16::from_le_bytes(*count)) {
            let (sector, behind) = more.split_at(512);
            disk.sectors.insert(number, sector.to_vec());
            more = behind;
        }
        rest = more;
    }
    disk
}

macro_rules! vectors {
    ($($name:literal $content:literal $used:literal,)*) => {
        const VECTORS: &[(&str, &[u8], &str, u64)] = &[$((
            $name,
            include_bytes!(concat!("../vectors/", $name, ".disk.zst")),
            $content,
            $used,
        )),*];
    };
}

// Copies of just these bytes onto disks of other bytes passed the checks of each file system.
vectors! {
    "bigalloc" "ext4" 262_144,
    "btrfs" "btrfs" 1_347_584,
    "exfat" "exfat" 2_113_536,
    "ext2" "ext2" 38_912,
    "ext4" "ext4" 1_148_928,
    "fat12" "FAT12" 18_432,
    "fat32" "FAT32" 565_760,
    "lvm" "LVM" 2_160_640,
    "metabg" "ext4" 54_272,
    "ntfs" "ntfs" 708_608,
    "swap" "swap" 4_096,
    "xfs" "xfs" 67_305_472,
    "xfs4" "xfs" 67_256_320,
}

fn vector(name: &str) -> Sparse {
    unpack(VECTORS.iter().find(|v| v.0 == name).unwrap().1)
}

#[test]
fn what_mkfs_makes_is_read() {
    let mut wrong = Vec::new();
    for (name, packed, content, used) in VECTORS {
        let map = whole_disk(&mut unpack(packed)).unwrap();
        let part = &map.parts[0];
        assert_eq!((&*part.content, &part.how), (*content, &How::Used), "{name}");
        if map.used_bytes() != *used {
            wrong.push(format!("\"{name}\" \"{content}\" {},", map.used_bytes()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_gpt_disk_has_its_tables_its_gaps_and_its_file_system() {
    let mut disk = unpack(include_bytes!("../vectors/gpt.disk.zst"));
    let map = whole_disk(&mut disk).unwrap();
    assert_eq!(map.notes, Vec::<String>::new());
    assert_eq!(map.parts.len(), 2);
    assert_eq!((map.parts[0].name.as_str(), map.parts[0].used), ("root", 38_912));
    assert_eq!(map.parts[1].how, How::Raw(Raw::Unknown));
    let ends: Vec<_> = map.used.iter().map(|e| (e.start >> 10, e.end() >> 10)).collect();
    // Up to the file system, both ends of the gap, all from the second partition on.
    assert_eq!(ends[0], (0, 1024 + 38));
    assert_eq!(ends.last().unwrap().1, 9216);
    assert!(ends.iter().any(|e| (e.0..e.1).contains(&4095)), "{ends:?}");
    disk.sectors.get_mut(&2).unwrap()[60] ^= 1;
    let map = whole_disk(&mut disk).unwrap();
    assert_eq!(map.used_bytes(), disk.size, "no copy by a table with a wrong checksum");
    assert!(map.notes[0].contains("checksum"), "{:?}", map.notes);
}

/// One changed place of a good file system each: all of it is copied, and the reason is said.
#[test]
fn what_is_not_certain_is_copied_as_a_whole() {
    for (name, at, byte, says) in [
        ("ext2", 1024 + 0x60, 0x06, "journal was not played back"),
        ("ext2", 1024 + 0x63, 0x80, "feature_incompat 0x80000000 is not known"),
        ("ext2", 1024 + 0x3a, 0x00, "not unmounted"),
        ("ext2", 1024 + 0x3a, 0x03, "mark of an error"),
        ("ext2", 1024 + 0x06, 0x01, "larger than the partition"),
        ("ext2", 2048 + 0xc, 0x05, "free blocks is not that of its bitmap"),
        ("ext4", 2 * 1024 + 0x19, 0x05, "wrong checksum"),
        ("xfs4", 126, 1, "not made or grown"),
        ("xfs4", 31, 1, "a real-time device"),
        ("xfs4", 512 + 52, 1, "count of free blocks"),
        ("xfs", 219, 1, "superblock has a wrong checksum"),
        ("btrfs", 65_536 + 150, 1, "superblock has a wrong checksum"),
        ("ntfs", 3, b'X', "not recognised"),
        ("fat12", 37, 1, "not unmounted"),
        ("fat32", 65, 1, "not unmounted"),
        ("fat32", 42, 1, "version 0x1 is not known"),
        ("exfat", 106, 2, "not unmounted"),
        ("exfat", 92, 1, "wrong checksum"),
        ("swap", 1024, 2, "version 0x2 is not known"),
    ] {
        let mut disk = vector(name);
        let sector = disk.sectors.entry(at / 512).or_insert_with(|| vec![0; 512]);
        let place = &mut sector[at as usize % 512];
        assert_ne!(*place, byte, "{name} at {at} has it");
        *place = byte;
        let map = whole_disk(&mut disk).unwrap();
        let How::Raw(why) = &map.parts[0].how else { panic!("{name} at {at} is believed") };
        assert!(why.to_string().contains(says), "{name} at {at}: {why}");
        assert_eq!(map.used_bytes(), disk.size);
    }
}

/// The log of XFS was used after the file system was made.
#[test]
fn a_log_that_goes_on_behind_its_unmounting_is_dirty() {
    let mut disk = vector("xfs4");
    let log = disk.sectors.iter().find(|(_, s)| s.starts_with(&[0xfe, 0xed, 0xba, 0xbe]));
    let (first, header) = log.map(|(at, sector)| (*at, sector.clone())).unwrap();
    disk.sectors.insert(first + 2, header);
    let map = whole_disk(&mut disk).unwrap();
    assert_eq!(map.parts[0].how, How::Raw(Raw::Unclean("its log was not played back")));
}

#[test]
fn marks_of_two_formats_and_encrypted_disks_are_said() {
    let mut disk = vector("ext2");
    let swap = vector("swap");
    disk.sectors.insert(7, swap.sectors[&7].clone());
    let map = whole_disk(&mut disk).unwrap();
    assert_eq!(map.parts[0].how, How::Raw(Raw::Ambiguous([Format::Ext, Format::Swap])));
    for (text, says) in
        [(&b"\xeb\x58\x90-FVE-FS-"[..], "BitLocker"), (b"LUKS\xba\xbe", "encrypted")]
    {
        let mut sector = text.to_vec();
        sector.resize(512, 0);
        let mut disk = Sparse { size: 1 << 20, sectors: BTreeMap::from([(0, sector)]) };
        let map = whole_disk(&mut disk).unwrap();
        let How::Raw(why) = &map.parts[0].how else { panic!("{says}") };
        assert!(why.to_string().contains(says), "{why}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Whatever a disk says: no panic, bounded reads, and extents that are on the disk.
    #[test]
    fn hostile_disks(
        which in 0..VECTORS.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..512_usize, any::<u8>()), 1..8),
        cut in prop::option::of(0_u64..400 << 20),
    ) {
        let mut disk = unpack(VECTORS[which].1);
        let numbers: Vec<u64> = disk.sectors.keys().copied().collect();
        for (sector, at, byte) in edits {
            disk.sectors.get_mut(sector.get(&numbers)).unwrap()[at] = byte;
        }
        disk.size = cut.map_or(disk.size, |cut| disk.size.min(cut).max(512));
        let map = whole_disk(&mut disk).unwrap();
        prop_assert!(map.used.windows(2).all(|w| w[0].end() < w[1].start));
        prop_assert!(map.used.iter().all(|e| e.length > 0 && e.end() <= disk.size));
    }
}
