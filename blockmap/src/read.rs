//! Reading at an offset: of the disk, and of one partition of it.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

/// A disk, a file or a part of one.
pub trait ReadAt {
    /// Its length in bytes.
    fn size(&self) -> u64;

    /// Fills the whole buffer from this byte on.
    ///
    /// # Errors
    /// [`ReadError`] when not all of it can be read.
    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), ReadError>;

    /// Bytes of a logical sector: 512, or 4096 on disks that have only such.
    fn sector(&self) -> u64 {
        512
    }
}

/// What could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadError {
    /// First byte.
    pub at: u64,
    /// Bytes.
    pub length: u64,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {} cannot be read", self.length, self.at)
    }
}

impl core::error::Error for ReadError {}

impl ReadAt for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let from = usize::try_from(at).ok();
        let some = from.and_then(|from| self.get(from..)).and_then(|s| s.get(..buffer.len()));
        let some = some.ok_or(ReadError { at, length: buffer.len() as u64 })?;
        buffer.copy_from_slice(some);
        Ok(())
    }
}

/// A part of a disk; reading outside of it fails.
pub struct Window<'d> {
    disk: &'d mut dyn ReadAt,
    start: u64,
    length: u64,
}

impl fmt::Debug for Window<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {}", self.length, self.start)
    }
}

impl<'d> Window<'d> {
    /// What of these bytes is on the disk.
    pub fn new(disk: &'d mut dyn ReadAt, start: u64, length: u64) -> Self {
        let length = length.min(disk.size().saturating_sub(start));
        Self { disk, start, length }
    }

    /// What it is a part of.
    pub fn disk(&mut self) -> &mut dyn ReadAt {
        self.disk
    }

    /// Some bytes of it.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`].
    pub fn bytes(&mut self, at: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        let end = at.checked_add(length as u64);
        // Before the memory is taken: the length is the disk's own word.
        if end.is_none_or(|end| end > self.length) {
            return Err(ReadError { at, length: length as u64 });
        }
        let mut buffer = vec![0; length];
        self.read_at(at, &mut buffer)?;
        Ok(buffer)
    }

    /// As many bytes as there are, for a probe.
    pub fn some(&mut self, at: u64, buffer: &mut [u8]) -> usize {
        let length = usize::try_from(self.length.saturating_sub(at)).unwrap_or(usize::MAX);
        let length = length.min(buffer.len());
        let read = buffer.get_mut(..length).map(|some| self.read_at(at, some));
        if matches!(read, Some(Ok(()))) { length } else { 0 }
    }
}

impl ReadAt for Window<'_> {
    fn size(&self) -> u64 {
        self.length
    }

    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let end = at.checked_add(buffer.len() as u64).filter(|end| *end <= self.length);
        match end.and(self.start.checked_add(at)) {
            Some(at) => self.disk.read_at(at, buffer),
            None => Err(ReadError { at, length: buffer.len() as u64 }),
        }
    }

    fn sector(&self) -> u64 {
        self.disk.sector()
    }
}
