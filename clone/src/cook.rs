//! What clients do with received bytes before they store them.

use alloc::string::String;

/// What is done with received bytes before they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cook {
    /// It is unpacked; this is how it was packed.
    pub unpack: Option<Packing>,
    /// The name is a directory, and the bytes an archive of its files.
    pub archive: Option<Archive>,
}

/// How bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// gzip.
    Gzip,
    /// compress, `.Z`.
    Compress,
}

/// A kind of archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archive {
    /// tar.
    Tar,
    /// cpio.
    Cpio,
}

/// A file, as the sender tells the clients of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where it goes.
    pub path: String,
    /// What clients do with its bytes.
    pub cook: Cook,
}
