//! XFS (kernel `fs/xfs/libxfs/xfs_format.h`, `xfs_log_format.h`): each allocation group has a tree
//! of its free space, sorted by place.
//!
//! The log must be clean: its last record is the one that unmounting writes. Otherwise blocks
//! that it names may be free in the trees, and a copy would lose them.

use super::map::Map;
use crate::bytes::{be16, be32, be64, field, le32, u8_at};
use crate::crc::Crc32c;
use crate::raw::Raw;
use crate::read::{ReadAt, Window};
use alloc::vec::Vec;

/// Finobt, rmapbt, reflink, inobtcount.
const RO_COMPAT: u32 = 0xf;
/// All up to metadir but the wish for a repair.
const INCOMPAT: u32 = 0x1ef;
const NEEDS_REPAIR: u32 = 0x10;
/// Logged attributes: they come and go with the log.
const LOG_INCOMPAT: u32 = 0x3;

const RECORD: u32 = 0xfeed_babe;
const UNMOUNT: u8 = 0x20;
/// A unit of the log.
const BASIC: u64 = 512;
/// The longest record: headers, data, and their rounding to a stripe.
const LONGEST: u64 = 1040;
/// What may be written behind a log's head when the machine is cut off: eight buffers.
const IN_FLIGHT: u64 = 4096;

struct Volume {
    block: u64,
    sector: u64,
    group: u64,
    groups: u64,
    blocks: u64,
    checked: bool,
}

pub fn read(window: &mut Window<'_>) -> Result<Map, Raw> {
    let sb = window.bytes(0, 512)?;
    let (version, number) = (be16(&sb, 100) & 0xf, |at| u64::from(be32(&sb, at)));
    if !matches!(version, 4 | 5) {
        return Err(Raw::Feature { field: "version", bits: u64::from(version) });
    }
    let volume = Volume {
        block: number(4),
        sector: u64::from(be16(&sb, 102)),
        group: number(84),
        groups: number(88),
        blocks: be64(&sb, 8),
        checked: version == 5,
    };
    let power = |n: u64, from: u64| n.is_power_of_two() && (from..=64 << 10).contains(&n);
    let sane = power(volume.block, 512)
        && power(volume.sector, 512)
        && volume.sector <= volume.block
        && (2..=u64::from(u32::MAX)).contains(&volume.group)
        && volume.groups > 0
        && volume.blocks <= volume.group * volume.groups
        && volume.blocks > volume.group * (volume.groups - 1);
    let size = volume.blocks.checked_mul(volume.block).filter(|size| *size <= window.size());
    let (true, Some(size)) = (sane, size) else {
        return Err(Raw::Damaged("the numbers of its superblock"));
    };
    if volume.checked {
        let whole = window.bytes(0, volume.sector as usize)?;
        if sum(&whole, 224) != le32(&whole, 224) {
            return Err(Raw::Damaged("its superblock has a wrong checksum"));
        }
        Raw::known([
            ("features_ro_compat", (be32(&sb, 212) & !RO_COMPAT).into()),
            ("features_incompat", (be32(&sb, 216) & !(INCOMPAT | NEEDS_REPAIR)).into()),
            ("features_log_incompat", (be32(&sb, 220) & !LOG_INCOMPAT).into()),
        ])?;
        if be32(&sb, 216) & NEEDS_REPAIR != 0 {
            return Err(Raw::Unclean("it waits for xfs_repair"));
        }
    }
    if u8_at(&sb, 126) != 0 {
        return Err(Raw::Unclean("it was not made or grown to the end"));
    }
    if be64(&sb, 16) != 0 || be64(&sb, 24) != 0 {
        return Err(Raw::Form("a real-time device"));
    }
    let log = be64(&sb, 48);
    if log == 0 {
        return Err(Raw::Form("its log on another device"));
    }
    let shift = u32::from(u8_at(&sb, 124));
    let log_group = log.checked_shr(shift).unwrap_or(0);
    let inside = log & !(u64::MAX.checked_shl(shift).unwrap_or(0));
    let (start, length) = (log_group * volume.group + inside, number(96));
    if log_group >= volume.groups || start + length > volume.blocks || length == 0 {
        return Err(Raw::Damaged("the place of its log"));
    }
    let mut log =
        Log { window, start: start * volume.block, blocks: length * volume.block / BASIC };
    if !log.clean()? {
        return Err(Raw::Unclean("its log was not played back"));
    }
    let mut map = Map::new("xfs", size);
    for group in 0..volume.groups {
        used(window, &volume, group, &mut map)?;
    }
    Ok(map)
}

/// A checksum over a block, whose own field counts as zeros.
fn sum(block: &[u8], at: usize) -> u32 {
    let (before, after) = (block.get(..at), block.get(at + 4..));
    let start = Crc32c::default().and(before.unwrap_or_default()).and(&[0; 4]);
    start.and(after.unwrap_or_default()).inverted()
}

/// What of an allocation group is not free.
fn used(window: &mut Window<'_>, volume: &Volume, group: u64, map: &mut Map) -> Result<(), Raw> {
    let first = group * volume.group;
    let length = volume.group.min(volume.blocks - first);
    let at = first * volume.block + volume.sector;
    let head = window.bytes(at, volume.sector as usize)?;
    if volume.checked && sum(&head, 216) != le32(&head, 216) {
        return Err(Raw::Damaged("the head of an allocation group has a wrong checksum"));
    }
    if !head.starts_with(b"XAGF")
        || u64::from(be32(&head, 8)) != group
        || u64::from(be32(&head, 12)) != length
    {
        return Err(Raw::Damaged("the head of an allocation group"));
    }
    let mut free = Tree { volume, first, length, at: 0, free: 0, left: length };
    let height = be32(&head, 28);
    let leaf = free.leftmost(window, be32(&head, 16), height)?;
    free.leaves(window, leaf, map)?;
    if free.free != u64::from(be32(&head, 52)) {
        return Err(Raw::Damaged("a count of free blocks is not that of their tree"));
    }
    map.used.add((first + free.at) * volume.block, (length - free.at) * volume.block);
    Ok(())
}

/// The tree of free space of one group.
struct Tree<'v> {
    volume: &'v Volume,
    first: u64,
    length: u64,
    /// Up to here it is known what is used.
    at: u64,
    free: u64,
    /// Blocks that may still be read: the tree has no more than the group.
    left: u64,
}

impl Tree<'_> {
    fn node(&mut self, window: &mut Window<'_>, block: u32, level: u32) -> Result<Vec<u8>, Raw> {
        const WRONG: Raw = Raw::Damaged("a tree of its free space");
        let place = u64::from(block);
        self.left = self.left.checked_sub(1).ok_or(WRONG)?;
        if place >= self.length {
            return Err(WRONG);
        }
        let at = (self.first + place) * self.volume.block;
        let node = window.bytes(at, self.volume.block as usize)?;
        let magic: &[u8] = if self.volume.checked { b"AB3B" } else { b"ABTB" };
        let right = node.starts_with(magic)
            && u32::from(be16(&node, 4)) == level
            && (!self.volume.checked || sum(&node, 52) == le32(&node, 52));
        if right { Ok(node) } else { Err(WRONG) }
    }

    const fn header(&self) -> usize {
        if self.volume.checked { 56 } else { 16 }
    }

    fn leftmost(&mut self, window: &mut Window<'_>, root: u32, height: u32) -> Result<u32, Raw> {
        if !(1..=9).contains(&height) {
            return Err(Raw::Damaged("the height of a tree of its free space"));
        }
        let mut block = root;
        for level in (1..height).rev() {
            let node = self.node(window, block, level)?;
            // Keys of 8 bytes, then as many pointers of 4.
            let most = (self.volume.block as usize - self.header()) / 12;
            block = be32(&node, self.header() + most * 8);
        }
        Ok(block)
    }

    fn leaves(&mut self, window: &mut Window<'_>, first: u32, map: &mut Map) -> Result<(), Raw> {
        let mut next = first;
        while next != u32::MAX {
            let node = self.node(window, next, 0)?;
            for index in 0..usize::from(be16(&node, 6)) {
                let record = field(&node, self.header() + index * 8, 8);
                let (start, count) = (u64::from(be32(record, 0)), u64::from(be32(record, 4)));
                if record.is_empty() || count == 0 || start < self.at || start + count > self.length
                {
                    return Err(Raw::Damaged("a tree of its free space is not in order"));
                }
                map.used.add(
                    (self.first + self.at) * self.volume.block,
                    (start - self.at) * self.volume.block,
                );
                (self.at, self.free) = (start + count, self.free + count);
            }
            next = be32(&node, 12);
        }
        Ok(())
    }
}

/// The log: a ring of blocks, each of which says in which round it was written.
struct Log<'w, 'd> {
    window: &'w mut Window<'d>,
    start: u64,
    blocks: u64,
}

impl Log<'_, '_> {
    fn block(&mut self, block: u64) -> Result<Vec<u8>, Raw> {
        Ok(self.window.bytes(self.start + block % self.blocks * BASIC, BASIC as usize)?)
    }

    fn cycle(&mut self, block: u64) -> Result<u32, Raw> {
        let bytes = self.block(block)?;
        Ok(match be32(&bytes, 0) {
            RECORD => be32(&bytes, 4),
            cycle => cycle,
        })
    }

    /// Whether the last record is the one that unmounting writes, and nothing is behind it.
    fn clean(&mut self) -> Result<bool, Raw> {
        let round = self.cycle(0)?;
        // Blocks of this round come first, then those of the round before.
        let (mut low, mut high) = (1, self.blocks);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.cycle(middle)? == round {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        let head = low;
        for block in (head..self.blocks).take(IN_FLIGHT as usize) {
            if self.cycle(block)? == round {
                return Ok(false);
            }
        }
        for back in 2..=LONGEST.min(self.blocks) {
            let at = head + self.blocks - back;
            let header = self.block(at)?;
            if be32(&header, 0) != RECORD {
                continue;
            }
            let wrapped = u32::from(back > head);
            let headers = match be32(&header, 8) & 2 {
                0 => 1,
                _ => u64::from(be32(&header, 320)).div_ceil(32 << 10).max(1),
            };
            let data = u64::from(be32(&header, 12)).div_ceil(BASIC);
            let operation = self.block(at + headers)?;
            return Ok(round > 0
                && be32(&header, 4) == round - wrapped.min(round)
                && be32(&header, 40) == 1
                && headers + data == back
                && u8_at(&operation, 9) & UNMOUNT != 0);
        }
        Ok(false)
    }
}
