//! btrfs on one device (kernel `include/uapi/linux/btrfs_tree.h`): the extent tree has what is
//! allocated in logical addresses, the chunk tree where these are on the disk, maybe twice.

use super::map::Map;
use crate::bytes::{field, le16, le32, le64, u8_at};
use crate::crc::Crc32c;
use crate::raw::Raw;
use crate::read::{ReadAt, Window};
use alloc::vec::Vec;

/// All but zones, extent trees of version 2 and stripe trees.
const INCOMPAT: u64 = 0x1_0fff;
/// Free-space tree, verity, block-group tree.
const COMPAT_RO: u64 = 0xf;
const SEEDING: u64 = 1 << 32;
const DUMP: u64 = 3 << 33;

/// Where the superblock and its copies are.
const SUPERS: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
const SUPER: usize = 4096;
/// What boot loaders have of the device; no chunk is in it.
const RESERVED: u64 = 1 << 20;

const HEADER: usize = 101;
const ITEM: usize = 25;
const POINTER: usize = 33;

const ROOT_TREE: u64 = 2;
const ROOT_ITEM: u8 = 132;
const EXTENT: u8 = 168;
const METADATA: u8 = 169;
const CHUNK: u8 = 228;
/// Data, system, metadata, and both of two copies on one device.
const PROFILES: u64 = 0x27;

const DAMAGED: Raw = Raw::Damaged("a tree of its metadata");

/// A key of a tree.
type Key = (u64, u8, u64);

/// A range of logical addresses.
struct Chunk {
    start: u64,
    length: u64,
    stripes: Vec<u64>,
}

struct Volume {
    node: u64,
    device: u64,
    /// Whether nodes have the checksum that is computed here.
    checked: bool,
    chunks: Vec<Chunk>,
    /// Nodes that may still be read: no tree is larger than the disk.
    left: u64,
}

/// Takes an item of a leaf: its key and its bytes.
type Take<'t> = &'t mut dyn FnMut(Key, &[u8]) -> Result<(), Raw>;

pub fn read(window: &mut Window<'_>) -> Result<Map, Raw> {
    let sb = window.bytes(SUPERS[0], SUPER)?;
    let checked = le16(&sb, 196) == 0;
    if checked && sum(&sb) != le32(&sb, 0) {
        return Err(Raw::Damaged("its superblock has a wrong checksum"));
    }
    Raw::known([
        ("incompat_flags", le64(&sb, 188) & !INCOMPAT),
        ("compat_ro_flags", le64(&sb, 180) & !COMPAT_RO),
    ])?;
    if le64(&sb, 136) != 1 {
        return Err(Raw::Form("several devices"));
    }
    if le64(&sb, 56) & (SEEDING | DUMP) != 0 {
        return Err(Raw::Form("the mark of a seed, or of a copy of metadata alone"));
    }
    if le64(&sb, 96) != 0 {
        return Err(Raw::Unclean("its log was not played back"));
    }
    let (node, device, size) = (u64::from(le32(&sb, 148)), le64(&sb, 201), le64(&sb, 209));
    if !node.is_power_of_two() || !(4096..=64 << 10).contains(&node) || size > window.size() {
        return Err(Raw::Damaged("the numbers of its superblock"));
    }
    let mut volume = Volume { node, device, checked, chunks: Vec::new(), left: size / node };
    let mut system = field(&sb, 811, (le32(&sb, 160) as usize).min(2048));
    while !system.is_empty() {
        let length = volume.chunk(key(system, 0), system.get(17..).unwrap_or_default())?;
        system = system.get(17 + length..).unwrap_or_default();
    }
    let mut chunks = Vec::new();
    volume.walk(window, le64(&sb, 88), u8_at(&sb, 199), &mut |key, bytes| {
        if key.1 == CHUNK {
            chunks.push((key, bytes.to_vec()));
        }
        Ok(())
    })?;
    volume.chunks.clear();
    for (key, bytes) in chunks {
        volume.chunk(key, &bytes)?;
    }
    let mut extents = None;
    volume.walk(window, le64(&sb, 80), u8_at(&sb, 198), &mut |key, bytes| {
        if (key.0, key.1) == (ROOT_TREE, ROOT_ITEM) {
            extents = Some((le64(bytes, 176), u8_at(bytes, 238)));
        }
        Ok(())
    })?;
    let (root, level) = extents.ok_or(DAMAGED)?;
    let mut map = Map::new("btrfs", size);
    map.used.add(0, RESERVED);
    SUPERS.iter().for_each(|at| map.used.add(*at, SUPER as u64));
    // Collected first: the walk has the volume.
    let mut all = crate::extents::Extents::default();
    volume.walk(window, root, level, &mut |key, _| {
        match key.1 {
            EXTENT => all.add(key.0, key.2),
            METADATA => all.add(key.0, node),
            _ => {}
        }
        Ok(())
    })?;
    for extent in all.finish() {
        volume.map(extent.start, extent.length, &mut map)?;
    }
    Ok(map)
}

fn sum(block: &[u8]) -> u32 {
    Crc32c::default().and(block.get(32..).unwrap_or_default()).inverted()
}

fn key(bytes: &[u8], at: usize) -> Key {
    (le64(bytes, at), u8_at(bytes, at + 8), le64(bytes, at + 9))
}

impl Volume {
    /// Takes a chunk; says how many bytes it has.
    fn chunk(&mut self, key: Key, bytes: &[u8]) -> Result<usize, Raw> {
        let (kind, count) = (le64(bytes, 24), usize::from(le16(bytes, 44)));
        if kind & !PROFILES != 0 {
            return Err(Raw::Form("a profile for several devices"));
        }
        let (start, length) = (key.2, le64(bytes, 0));
        if key.1 != CHUNK || !matches!(count, 1 | 2) || start.checked_add(length).is_none() {
            return Err(Raw::Damaged("its tree of chunks"));
        }
        let list = field(bytes, 48, count * 32);
        let mut stripes = Vec::new();
        for stripe in list.as_chunks::<32>().0 {
            if le64(stripe, 0) != self.device || le64(stripe, 8).checked_add(length).is_none() {
                return Err(Raw::Damaged("its tree of chunks"));
            }
            stripes.push(le64(stripe, 8));
        }
        if stripes.len() != count {
            return Err(Raw::Damaged("its tree of chunks"));
        }
        self.chunks.push(Chunk { start, length, stripes });
        Ok(48 + count * 32)
    }

    /// The chunk that an address is in. Chunks come sorted from their tree.
    fn at(&self, address: u64) -> Option<&Chunk> {
        let behind = self.chunks.partition_point(|chunk| chunk.start <= address);
        let chunk = self.chunks.get(behind.checked_sub(1)?)?;
        (address - chunk.start < chunk.length).then_some(chunk)
    }

    /// Adds every copy of some logical bytes.
    fn map(&self, mut address: u64, mut length: u64, map: &mut Map) -> Result<(), Raw> {
        while length > 0 {
            let chunk = self.at(address).ok_or(DAMAGED)?;
            let inside = address - chunk.start;
            let some = length.min(chunk.length - inside);
            chunk.stripes.iter().for_each(|stripe| map.used.add(stripe + inside, some));
            (address, length) = (address + some, length - some);
        }
        Ok(())
    }

    /// A node, of the first copy that is right.
    fn node(&mut self, window: &mut Window<'_>, address: u64, level: u8) -> Result<Vec<u8>, Raw> {
        self.left = self.left.checked_sub(1).ok_or(DAMAGED)?;
        let chunk = self.at(address).ok_or(DAMAGED)?;
        for stripe in &chunk.stripes {
            let Ok(node) = window.bytes(stripe + (address - chunk.start), self.node as usize)
            else {
                continue;
            };
            let right = le64(&node, 48) == address
                && u8_at(&node, 100) == level
                && (!self.checked || sum(&node) == le32(&node, 0));
            if right {
                return Ok(node);
            }
        }
        Err(DAMAGED)
    }

    /// Goes through a tree; the keys must ascend, so that no part of it comes twice.
    fn walk(
        &mut self,
        window: &mut Window<'_>,
        root: u64,
        level: u8,
        take: Take<'_>,
    ) -> Result<(), Raw> {
        if level > 7 {
            return Err(DAMAGED);
        }
        let mut last = None;
        // Nodes above, each with the next pointer to follow.
        let mut above: Vec<(Vec<u8>, usize)> = Vec::new();
        let mut next = Some((root, level));
        loop {
            if let Some((address, level)) = next.take() {
                let node = self.node(window, address, level)?;
                if level == 0 {
                    self.leaf(&node, &mut last, take)?;
                } else {
                    above.push((node, 0));
                }
            }
            let Some((node, index)) = above.last_mut() else { return Ok(()) };
            let level = u8_at(node, 100);
            if *index < le32(node, 96) as usize {
                let pointer = field(node, HEADER + *index * POINTER, POINTER);
                if pointer.is_empty() {
                    return Err(DAMAGED);
                }
                next = Some((le64(pointer, 17), level.saturating_sub(1)));
                *index += 1;
            } else {
                above.pop();
            }
        }
    }

    fn leaf(&self, node: &[u8], last: &mut Option<Key>, take: Take<'_>) -> Result<(), Raw> {
        for index in 0..le32(node, 96) as usize {
            let item = field(node, HEADER + index.saturating_mul(ITEM), ITEM);
            let key = key(item, 0);
            if item.is_empty() || last.is_some_and(|last| last >= key) {
                return Err(DAMAGED);
            }
            *last = Some(key);
            let at = (le32(item, 17) as usize).saturating_add(HEADER);
            take(key, field(node, at, le32(item, 21) as usize))?;
        }
        Ok(())
    }
}
