//! ext2, ext3 and ext4 (kernel `Documentation/filesystems/ext4`): a bitmap of blocks or clusters
//! for each group of blocks.
//!
//! Bitmaps of groups that were never written to are not initialised on the disk. So what a
//! group's own structures are is computed, for every group: superblock copies, descriptors,
//! bitmaps, inode tables.

use super::map::Map;
use crate::bytes::{bit, field, le16, le32};
use crate::crc::Crc32c;
use crate::raw::Raw;
use crate::read::Window;
use alloc::vec::Vec;

const JOURNAL: u32 = 0x4;
const SPARSE_SUPER2: u32 = 0x200;
/// Everything up to the orphan file.
const COMPAT: u32 = 0x1fff;

const RECOVER: u32 = 0x4;
const JOURNAL_DEVICE: u32 = 0x8;
const META_BG: u32 = 0x10;
const EXTENTS: u32 = 0x40;
const BITS64: u32 = 0x80;
const CSUM_SEED: u32 = 0x2000;
/// All but compression, which no kernel has.
const INCOMPAT: u32 = 0x3_f7de;

const SPARSE_SUPER: u32 = 0x1;
const GDT_CSUM: u32 = 0x10;
const BIGALLOC: u32 = 0x200;
const METADATA_CSUM: u32 = 0x400;
/// All but snapshots, replicas and shared blocks.
const RO_COMPAT: u32 = 0x1_b77f;

const BLOCK_UNINIT: u16 = 0x2;
/// Of an image that pretends to be endless.
const MOST_GROUPS: u64 = 1 << 24;

struct Super {
    block: u64,
    blocks: u64,
    first: u64,
    /// Blocks of a cluster.
    ratio: u64,
    clusters: u64,
    group: u64,
    groups: u64,
    inode_blocks: u64,
    descriptor: usize,
    meta_from: Option<u64>,
    reserved: u64,
    backups: Backups,
    uninit: bool,
    seed: Option<Crc32c>,
}

enum Backups {
    All,
    Sparse,
    Two([u32; 2]),
}

impl Super {
    /// Whether a group begins with a copy of the superblock.
    fn copy(&self, group: u64) -> bool {
        let power = |of: u64| {
            let mut n = group;
            while n > 1 && n.is_multiple_of(of) {
                n /= of;
            }
            n == 1
        };
        match self.backups {
            _ if group == 0 => true,
            Backups::All => true,
            Backups::Sparse => power(3) || power(5) || power(7),
            Backups::Two(two) => two.iter().any(|g| u64::from(*g) == group),
        }
    }

    const fn start(&self, group: u64) -> u64 {
        self.first + group * self.group
    }

    /// The block of the superblock in a group that has it.
    fn super_block(&self, group: u64) -> u64 {
        // With clusters of 1024-byte blocks the first group begins with the boot block.
        self.start(group) + u64::from(group == 0 && self.first == 0 && self.block == 1024)
    }

    /// Groups whose descriptors are in one block.
    const fn per_block(&self) -> u64 {
        self.block / self.descriptor as u64
    }

    /// The block that has this block of descriptors.
    fn descriptors(&self, index: u64) -> u64 {
        match self.meta_from {
            Some(from) if index >= from => {
                let group = index * self.per_block();
                self.super_block(group) + u64::from(self.copy(group))
            }
            _ => self.super_block(0) + 1 + index,
        }
    }
}

fn superblock(window: &mut Window<'_>) -> Result<(Super, &'static str), Raw> {
    let sb = window.bytes(1024, 1024)?;
    let number = |at| le32(&sb, at);
    let (compat, incompat, ro) = (number(0x5c), number(0x60), number(0x64));
    Raw::known([
        ("feature_compat", (compat & !COMPAT).into()),
        ("feature_incompat", (incompat & !INCOMPAT).into()),
        ("feature_ro_compat", (ro & !RO_COMPAT).into()),
        ("revision", (number(0x4c) & !1).into()),
    ])?;
    if incompat & JOURNAL_DEVICE != 0 {
        return Err(Raw::Form("the journal of another file system"));
    }
    if incompat & RECOVER != 0 {
        return Err(Raw::Unclean("its journal was not played back"));
    }
    match le16(&sb, 0x3a) {
        state if state & 2 != 0 => return Err(Raw::Unclean("it has the mark of an error")),
        state if state & 1 == 0 => return Err(Raw::Unclean("it was not unmounted")),
        _ => {}
    }
    let (log_block, log_cluster) = (number(0x18), number(0x1c));
    let bigalloc = ro & BIGALLOC != 0;
    if log_block > 6 || bigalloc && !(log_block..=log_block + 16).contains(&log_cluster) {
        return Err(Raw::Damaged("the size of its blocks"));
    }
    let block = 1024_u64 << log_block;
    let ratio = if bigalloc { 1 << (log_cluster - log_block) } else { 1 };
    let high = if incompat & BITS64 != 0 { u64::from(number(0x150)) } else { 0 };
    let blocks = high << 32 | u64::from(number(4));
    let (first, group) = (u64::from(number(0x14)), u64::from(number(0x20)));
    let clusters = if bigalloc { u64::from(number(0x24)) } else { group };
    let groups = blocks.saturating_sub(first).div_ceil(group.max(1));
    let inodes = u64::from(number(0x28));
    let inode = if number(0x4c) == 0 { 128 } else { u64::from(le16(&sb, 0x58)) };
    let descriptor = if incompat & BITS64 != 0 { usize::from(le16(&sb, 0xfe)) } else { 32 };
    if first > 1
        || clusters == 0
        || clusters > 8 * block
        || !clusters.is_multiple_of(8)
        || clusters * ratio != group
        || groups == 0
        || groups > MOST_GROUPS
        || inode < 128
        || inode > block
        || inodes > 8 * block
        || !descriptor.is_power_of_two()
        || !(32..=1024).contains(&descriptor)
    {
        return Err(Raw::Damaged("the numbers of its superblock"));
    }
    let seed = (ro & METADATA_CSUM != 0).then(|| match incompat & CSUM_SEED {
        0 => Crc32c::default().and(field(&sb, 0x68, 16)),
        _ => Crc32c::from(number(0x270)),
    });
    let name = match () {
        () if incompat & (EXTENTS | BITS64) != 0 || ro & !7 != 0 => "ext4",
        () if compat & JOURNAL != 0 => "ext3",
        () => "ext2",
    };
    let backups = match () {
        () if compat & SPARSE_SUPER2 != 0 => Backups::Two([number(0x24c), number(0x250)]),
        () if ro & SPARSE_SUPER != 0 => Backups::Sparse,
        () => Backups::All,
    };
    let meta_from = (incompat & META_BG != 0).then(|| u64::from(number(0x104)));
    let found = Super {
        block,
        blocks,
        first,
        ratio,
        clusters,
        group,
        groups,
        inode_blocks: (inodes * inode).div_ceil(block),
        descriptor,
        meta_from,
        reserved: u64::from(le16(&sb, 0xce)),
        backups,
        uninit: ro & (GDT_CSUM | METADATA_CSUM) != 0,
        seed,
    };
    Ok((found, name))
}

pub fn read(window: &mut Window<'_>) -> Result<Map, Raw> {
    let (sb, name) = superblock(window)?;
    let size = Raw::fits(sb.blocks.checked_mul(sb.block), window)?;
    let mut map = Map::new(name, size);
    let all = sb.groups.div_ceil(sb.per_block());
    let beside = sb.meta_from.map_or(all, |from| from.min(all));
    map.used.add(0, sb.block.max(4096));
    let mut descriptors = Vec::new();
    for group in 0..sb.groups {
        let (index, place) = (group / sb.per_block(), group % sb.per_block());
        if place == 0 {
            descriptors = window.bytes(sb.descriptors(index) * sb.block, sb.block as usize)?;
            own(&sb, index, &mut map);
        }
        if sb.copy(group) {
            map.used.add(sb.super_block(group) * sb.block, sb.block);
            if sb.meta_from.is_none_or(|from| index < from) {
                map.used
                    .add((sb.super_block(group) + 1) * sb.block, (beside + sb.reserved) * sb.block);
            }
        }
        let descriptor = field(&descriptors, place as usize * sb.descriptor, sb.descriptor);
        one(window, &sb, group, descriptor, &mut map)?;
    }
    Ok(map)
}

/// A block of descriptors has its copies in the second and the last group that it describes.
fn own(sb: &Super, index: u64, map: &mut Map) {
    if sb.meta_from.is_some_and(|from| index >= from) {
        let first = index * sb.per_block();
        for group in [first, first + 1, first + sb.per_block() - 1] {
            let at = sb.super_block(group) + u64::from(sb.copy(group));
            if at < sb.blocks {
                map.used.add(at * sb.block, sb.block);
            }
        }
    }
}

/// One group: its structures, and what its bitmap has.
fn one(
    window: &mut Window<'_>,
    sb: &Super,
    group: u64,
    descriptor: &[u8],
    map: &mut Map,
) -> Result<(), Raw> {
    let long = sb.descriptor >= 64;
    let place = |low: usize, high: usize| {
        let high = if long { u64::from(le32(descriptor, high)) } else { 0 };
        let at = high << 32 | u64::from(le32(descriptor, low));
        match at < sb.blocks && at >= sb.first {
            true => Ok(at * sb.block),
            false => Err(Raw::Damaged("a group's structures are outside of it")),
        }
    };
    let bitmap_at = place(0, 0x20)?;
    map.used.add(bitmap_at, sb.block);
    map.used.add(place(4, 0x24)?, sb.block);
    map.used.add(place(8, 0x28)?, sb.inode_blocks * sb.block);
    if sb.uninit && le16(descriptor, 0x12) & BLOCK_UNINIT != 0 {
        return Ok(());
    }
    let bitmap = window.bytes(bitmap_at, sb.block as usize)?;
    if let Some(seed) = &sb.seed {
        let sum = seed.and(field(&bitmap, 0, sb.clusters as usize / 8)).value();
        let low = u32::from(le16(descriptor, 0x18));
        let right = match long {
            true => sum == u32::from(le16(descriptor, 0x38)) << 16 | low,
            false => sum & 0xffff == low,
        };
        if !right {
            return Err(Raw::Damaged("a bitmap of its blocks has a wrong checksum"));
        }
    }
    let start = sb.start(group);
    let clusters = sb.blocks.saturating_sub(start).div_ceil(sb.ratio).min(sb.clusters);
    let bytes = sb.ratio * sb.block;
    let mut free = 0;
    for cluster in 0..clusters {
        if bit(&bitmap, cluster as usize) {
            map.used.add(start * sb.block + cluster * bytes, bytes);
        } else {
            free += 1;
        }
    }
    let high = if long { u32::from(le16(descriptor, 0x2c)) } else { 0 };
    if free != u64::from(high << 16 | u32::from(le16(descriptor, 0xc))) {
        return Err(Raw::Damaged("a group's count of free blocks is not that of its bitmap"));
    }
    Ok(())
}
