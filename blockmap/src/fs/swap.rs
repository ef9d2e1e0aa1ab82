//! Swap space (`mkswap(8)`, kernel `include/linux/swap.h`): its first page, which has version,
//! size, bad pages, label and UUID. The rest is lost at every boot.
//!
//! A hibernated machine's image has another mark, is not recognised, and is copied raw.

use super::map::Map;
use crate::bytes::le32;
use crate::raw::Raw;
use crate::read::{ReadAt, Window};

/// The only size of pages that the probe recognises.
const PAGE: u64 = 4096;

pub fn read(window: &mut Window<'_>) -> Result<Map, Raw> {
    let head = window.bytes(0, PAGE as usize)?;
    let version = le32(&head, 1024);
    if version != 1 {
        return Err(Raw::Feature { field: "version", bits: version.into() });
    }
    let mut map = Map::new("swap", window.size());
    map.used.add(0, PAGE);
    Ok(map)
}
