//! Numbers in a block, 0 where the block ends before them.

pub use sys::bytes::or_zero::{be16, be32, be64, le16, le32, le64};

pub fn u8_at(block: &[u8], at: usize) -> u8 {
    block.get(at).copied().unwrap_or(0)
}

/// The bytes of a field; empty where the block ends before it.
pub fn field(block: &[u8], at: usize, length: usize) -> &[u8] {
    at.checked_add(length).and_then(|end| block.get(at..end)).unwrap_or_default()
}

/// A bit of a map whose bytes begin with their lowest bit; a bit behind its end is set.
pub fn bit(map: &[u8], index: usize) -> bool {
    map.get(index / 8).is_none_or(|byte| byte >> (index % 8) & 1 == 1)
}
