//! Numbers in a block, 0 where the block ends before them.

fn array<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    block.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

pub fn u8_at(block: &[u8], at: usize) -> u8 {
    block.get(at).copied().unwrap_or(0)
}

pub fn le16(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(block, at))
}

pub fn le32(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(block, at))
}

pub fn le64(block: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(block, at))
}

pub fn be16(block: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(block, at))
}

pub fn be32(block: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(block, at))
}

pub fn be64(block: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(block, at))
}

/// The bytes of a field; empty where the block ends before it.
pub fn field(block: &[u8], at: usize, length: usize) -> &[u8] {
    at.checked_add(length).and_then(|end| block.get(at..end)).unwrap_or_default()
}

/// A bit of a map whose bytes begin with their lowest bit; a bit behind its end is set.
pub fn bit(map: &[u8], index: usize) -> bool {
    map.get(index / 8).is_none_or(|byte| byte >> (index % 8) & 1 == 1)
}
