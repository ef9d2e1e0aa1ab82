//! One disk as NBD sees it: a range of bytes to read and write.

use super::cow::Cow;
use super::space::Space;
use crate::tree::ReadAt;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, fallocate};
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A disk that clients open over NBD.
pub enum Disk {
    /// A medium.
    Medium(Arc<dyn ReadAt>, u64),
    /// A client's own disk; its file stays locked.
    Own(Flock<File>, u64, Arc<Space>),
    /// A medium with the changes of one client.
    Cow(Cow, Arc<Space>),
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("size", &self.size()).finish_non_exhaustive()
    }
}

impl Disk {
    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Medium(_, size) | Self::Own(_, size, _) => *size,
            Self::Cow(cow, _) => cow.size(),
        }
    }

    /// Whether the disk refuses writes.
    pub fn read_only(&self) -> bool {
        matches!(self, Self::Medium(..))
    }

    /// Reads a range, which must be inside the disk.
    ///
    /// # Errors
    /// The medium's or the file's I/O error.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Medium(image, _) => image.read_exact_at(buffer, offset),
            Self::Own(file, ..) => FileExt::read_exact_at(&**file, buffer, offset),
            Self::Cow(cow, _) => cow.read(offset, buffer),
        }
    }

    /// Writes a range, which must be inside the disk.
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`] for a medium; [`io::ErrorKind::StorageFull`] when there
    /// is no room, which names what is full; else the file's I/O error.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let length = data.len() as u64;
        match self {
            Self::Medium(..) => Err(io::ErrorKind::PermissionDenied.into()),
            Self::Own(file, _, space) => {
                space.admit(length, || has_room(file, offset, length))?;
                FileExt::write_all_at(&**file, data, offset).map_err(|e| space.named(e))
            }
            Self::Cow(cow, space) => {
                space.admit(length, || cow.has_changed(offset, data.len()))?;
                cow.write(offset, data).map_err(|e| space.named(e))
            }
        }
    }

    /// Returns when all writes are on this machine's disk.
    ///
    /// # Errors
    /// The file's I/O error.
    pub fn flush(&self) -> io::Result<()> {
        match self {
            Self::Medium(..) => Ok(()),
            Self::Own(file, _, space) => file.sync_data().map_err(|e| space.named(e)),
            Self::Cow(cow, space) => cow.flush().map_err(|e| space.named(e)),
        }
    }

    /// Frees the space of a range if possible: NBD's TRIM is a hint. A copy-on-write file keeps
    /// its space.
    pub fn trim(&self, offset: u64, length: u64) {
        if let (Self::Own(file, ..), Ok(offset), Ok(length)) =
            (self, i64::try_from(offset), i64::try_from(length))
            && length > 0
        {
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // Some file systems have no holes: the space stays allocated.
            let _ = fallocate(&**file, hole, offset, length);
        }
    }
}

/// Whether a range of a sparse file has its room already.
fn has_room(file: &File, offset: u64, length: u64) -> bool {
    let end = offset.saturating_add(length);
    let hole = i64::try_from(offset).map_err(|_| Errno::EINVAL);
    let hole = hole.and_then(|offset| lseek(file, offset, Whence::SeekHole));
    hole.is_ok_and(|hole| u64::try_from(hole).is_ok_and(|hole| hole >= end))
}

impl ReadAt for Flock<File> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        ReadAt::read_exact_at(&**self, buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        (**self).length()
    }

    fn file(&self) -> Option<&File> {
        Some(self)
    }
}
