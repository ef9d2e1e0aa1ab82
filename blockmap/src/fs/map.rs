//! What a reader finds.

use crate::extents::Extents;
use alloc::string::String;
use alloc::vec::Vec;

/// A file system's map. Offsets count from its beginning.
#[derive(Debug, Default)]
pub struct Map {
    /// Its name: `ext4`, `FAT32`.
    pub name: &'static str,
    /// Bytes of the file system; what is behind them is used.
    pub size: u64,
    /// What is in use of them.
    pub used: Extents,
    /// What a person should know, a sentence each.
    pub notes: Vec<String>,
}

impl Map {
    /// An empty one.
    pub fn new(name: &'static str, size: u64) -> Self {
        Self { name, size, ..Self::default() }
    }
}
