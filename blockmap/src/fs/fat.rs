//! FAT12, FAT16 and FAT32 (Microsoft's "FAT: General Overview of On-Disk Format", 1.03): the
//! allocation table is the map.

use super::map::Map;
use crate::bytes::{le16, le32, u8_at};
use crate::raw::Raw;
use crate::read::Window;

/// Bytes of the table that are read at once: whole entries of 12, 16 and 32 bits.
const PIECE: u64 = 48 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bits {
    Twelve,
    Sixteen,
    ThirtyTwo,
}

impl Bits {
    /// The entry of a cluster in some bytes of the table that begin with entry 0 of theirs.
    fn entry(self, bytes: &[u8], index: usize) -> u32 {
        match self {
            Self::Twelve => {
                let pair = u32::from(le16(bytes, index + index / 2));
                if index % 2 == 1 { pair >> 4 } else { pair & 0xfff }
            }
            Self::Sixteen => u32::from(le16(bytes, index * 2)),
            // The upper four bits are reserved, and keep what was there.
            Self::ThirtyTwo => le32(bytes, index * 4) & 0x0fff_ffff,
        }
    }

    const fn bad(self) -> u32 {
        match self {
            Self::Twelve => 0xff7,
            Self::Sixteen => 0xfff7,
            Self::ThirtyTwo => 0x0fff_fff7,
        }
    }

    /// Bytes of so many entries.
    const fn bytes(self, entries: u64) -> u64 {
        match self {
            Self::Twelve => (entries * 3).div_ceil(2),
            Self::Sixteen => entries * 2,
            Self::ThirtyTwo => entries * 4,
        }
    }
}

pub fn read(window: &mut Window<'_>) -> Result<Map, Raw> {
    let boot = window.bytes(0, 512)?;
    let (short, long) = (|at| u64::from(le16(&boot, at)), |at| u64::from(le32(&boot, at)));
    let sector = short(11);
    let cluster = u64::from(u8_at(&boot, 13));
    let (reserved, copies, root) = (short(14), u64::from(u8_at(&boot, 16)), short(17));
    let total = if short(19) != 0 { short(19) } else { long(32) };
    let fat32 = short(22) == 0;
    let length = if fat32 { long(36) } else { short(22) };
    if !(512..=4096).contains(&sector)
        || !sector.is_power_of_two()
        || !cluster.is_power_of_two()
        || reserved == 0
        || !(1..=4).contains(&copies)
        || length == 0
    {
        return Err(Raw::Damaged("the numbers of its boot sector"));
    }
    if fat32 {
        Raw::known([("version", short(42))])?;
    }
    let data = reserved + copies * length + (root * 32).div_ceil(sector);
    let Some(space) = total.checked_sub(data) else {
        return Err(Raw::Damaged("its tables are larger than it is"));
    };
    let clusters = space / cluster;
    let (bits, name) = match clusters {
        _ if fat32 => (Bits::ThirtyTwo, "FAT32"),
        4070..=4100 => return Err(Raw::Form("a number of clusters between FAT12 and FAT16")),
        0..4070 => (Bits::Twelve, "FAT12"),
        4101..65525 => (Bits::Sixteen, "FAT16"),
        _ => return Err(Raw::Damaged("it has too many clusters for its kind")),
    };
    if bits.bytes(clusters + 2) > length * sector {
        return Err(Raw::Damaged("its table is too short for its clusters"));
    }
    let size = Raw::fits(Some(total * sector), window)?;
    // Linux marks it in the boot sector, Windows in the second entry of the table.
    let marked = u8_at(&boot, if fat32 { 65 } else { 37 }) & 1 != 0;
    let second = bits.entry(&window.bytes(reserved * sector, 8)?, 1);
    let ended = match bits {
        Bits::Twelve => true,
        Bits::Sixteen => second & 0x8000 != 0,
        Bits::ThirtyTwo => second & 0x0800_0000 != 0,
    };
    if marked || !ended {
        return Err(Raw::Unclean("it was not unmounted"));
    }
    let mut map = Map::new(name, size);
    map.used.add(0, data * sector);
    let behind = (data + clusters * cluster) * sector;
    map.used.add(behind, size - behind);
    // Linux reads the first table, Windows the active one: what either has is used.
    let flags = short(40);
    let active = if fat32 && flags & 0x80 != 0 { flags & 0xf } else { 0 };
    if active >= copies {
        return Err(Raw::Damaged("the number of its active table"));
    }
    let step = PIECE * 8 / bits.bytes(8);
    for copy in if active == 0 { 0..1 } else { 0..active + 1 } {
        if copy != 0 && copy != active {
            continue;
        }
        let table = (reserved + copy * length) * sector;
        let mut first = 0;
        while first < clusters + 2 {
            let count = step.min(clusters + 2 - first);
            let piece = window.bytes(table + bits.bytes(first), bits.bytes(count) as usize)?;
            for index in 0..count {
                let entry = bits.entry(&piece, index as usize);
                let number = first + index;
                if number >= 2 && entry != 0 && entry != bits.bad() {
                    let at = (data + (number - 2) * cluster) * sector;
                    map.used.add(at, cluster * sector);
                }
            }
            first += count;
        }
    }
    Ok(map)
}
