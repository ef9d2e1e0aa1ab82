//! exFAT (Microsoft's "exFAT file system specification", 1.00): a bitmap that an entry of the root
//! directory names.

use super::map::Map;
use crate::bytes::{bit, le16, le32, le64, u8_at};
use crate::raw::Raw;
use crate::read::Window;

/// Entries of a root directory that are looked at: as many as a directory may have.
const DIRECTORY: u64 = 256 << 20;
/// The entry that names the bitmap, and the one behind the last.
const BITMAP: u8 = 0x81;
const END: u8 = 0;

struct Volume {
    cluster: u64,
    clusters: u64,
    heap: u64,
    fat: u64,
}

impl Volume {
    fn at(&self, cluster: u64) -> Result<u64, Raw> {
        match cluster.checked_sub(2).filter(|index| *index < self.clusters) {
            Some(index) => Ok(self.heap + index * self.cluster),
            None => Err(Raw::Damaged("a chain of clusters leads out of it")),
        }
    }

    fn next(&self, window: &mut Window<'_>, cluster: u64) -> Result<u64, Raw> {
        Ok(u64::from(le32(&window.bytes(self.fat + cluster * 4, 4)?, 0)))
    }
}

pub fn read(window: &mut Window<'_>) -> Result<Map, Raw> {
    let boot = window.bytes(0, 512)?;
    let (sector_shift, cluster_shift) = (u8_at(&boot, 108), u8_at(&boot, 109));
    if !(9..=12).contains(&sector_shift) || u32::from(sector_shift) + u32::from(cluster_shift) > 25
    {
        return Err(Raw::Damaged("the numbers of its boot sector"));
    }
    let sector = 1_u64 << sector_shift;
    let long = |at| u64::from(le32(&boot, at));
    let version = le16(&boot, 104);
    if version >> 8 != 1 {
        return Err(Raw::Feature { field: "version", bits: u64::from(version) });
    }
    if u8_at(&boot, 110) != 1 {
        return Err(Raw::Form("two allocation tables"));
    }
    checked(window, sector)?;
    if le16(&boot, 106) & 2 != 0 {
        return Err(Raw::Unclean("it was not unmounted"));
    }
    let volume = Volume {
        cluster: sector << cluster_shift,
        clusters: long(92),
        heap: long(88) * sector,
        fat: long(80) * sector,
    };
    let size = Raw::fits(le64(&boot, 72).checked_mul(sector), window)?;
    let end = volume.heap + volume.clusters * volume.cluster;
    if end > size || (volume.clusters + 2) * 4 > long(84) * sector || volume.heap < volume.fat {
        return Err(Raw::Damaged("the numbers of its boot sector"));
    }
    let mut map = Map::new("exfat", size);
    map.used.add(0, volume.heap);
    map.used.add(end, size - end);
    let (mut cluster, length) = bitmap(window, &volume, long(96))?;
    if length < volume.clusters.div_ceil(8) {
        return Err(Raw::Damaged("its bitmap is too short"));
    }
    let mut first = 0;
    while first < volume.clusters {
        let some = volume.clusters.div_ceil(8) - first / 8;
        let piece = window.bytes(volume.at(cluster)?, some.min(volume.cluster) as usize)?;
        let count = (piece.len() as u64 * 8).min(volume.clusters - first);
        for index in 0..count {
            if bit(&piece, index as usize) {
                map.used.add(volume.heap + (first + index) * volume.cluster, volume.cluster);
            }
        }
        first += count;
        if first < volume.clusters {
            cluster = volume.next(window, cluster)?;
        }
    }
    Ok(map)
}

/// The boot region has a checksum of its first eleven sectors in the twelfth.
fn checked(window: &mut Window<'_>, sector: u64) -> Result<(), Raw> {
    let region = window.bytes(0, 12 * sector as usize)?;
    let (sectors, sums) = region.split_at_checked(11 * sector as usize).unwrap_or_default();
    let counted = sectors.iter().enumerate().filter(|(at, _)| !matches!(at, 106 | 107 | 112));
    let sum =
        counted.fold(0_u32, |sum, (_, byte)| sum.rotate_right(1).wrapping_add(u32::from(*byte)));
    match sums.as_chunks::<4>().0.iter().all(|word| u32::from_le_bytes(*word) == sum) {
        true => Ok(()),
        false => Err(Raw::Damaged("its boot sectors have a wrong checksum")),
    }
}

/// First cluster and bytes of the bitmap.
fn bitmap(window: &mut Window<'_>, volume: &Volume, root: u64) -> Result<(u64, u64), Raw> {
    let mut cluster = root;
    for _ in 0..(DIRECTORY / volume.cluster).max(1) {
        let directory = window.bytes(volume.at(cluster)?, volume.cluster as usize)?;
        for entry in directory.as_chunks::<32>().0 {
            match u8_at(entry, 0) {
                // The second bitmap would have the lowest bit of its flags set.
                BITMAP if u8_at(entry, 1) & 1 == 0 => {
                    return Ok((u64::from(le32(entry, 20)), le64(entry, 24)));
                }
                END => return Err(Raw::Damaged("its root directory names no bitmap")),
                _ => {}
            }
        }
        cluster = volume.next(window, cluster)?;
    }
    Err(Raw::Damaged("its root directory does not end"))
}
