//! Mounts an image file: recognised, checked for its length, attached to a loop device,
//! mounted.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use rustix::fd::AsFd;
use rustix::fs::{OFlags, fstat};
use rustix::io::{Errno, pread};
use sys::errno::Shown;
use sys::file::{open_data, open_read};
use sys::loopdev::{self, Loop};
use sys::mount::{MountError, mount_device};

use crate::probe::{Format, Superblock, probe};

/// Why an image could not be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageError {
    /// The image's path.
    pub image: String,
    /// The failure.
    pub why: Why,
}

/// The kinds of failures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The file could not be opened or read.
    Open(Errno),
    /// Its format is unknown.
    Unknown,
    /// Its format is known, but is not a file system.
    NotAFileSystem(Format),
    /// It is shorter than its superblock claims.
    CutShort {
        /// Its format.
        format: Format,
        /// Its length in bytes.
        has: u64,
        /// Bytes that its superblock claims.
        needs: u64,
    },
    /// No loop device could be attached.
    Loop(Errno),
    /// The kernel refused to mount it.
    Mount(Format, MountError),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.image, self.why)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(errno) => write!(f, "cannot be read: {}", Shown(*errno)),
            Self::Unknown => f.write_str("is not an image of a known format"),
            Self::NotAFileSystem(format) => write!(f, "is {format}, not a file system"),
            Self::CutShort { format, has, needs } => write!(
                f,
                "is cut short: this {format} needs {needs} bytes and {has} are there; copy it again"
            ),
            Self::Loop(errno) => write!(f, "no loop device: {}", Shown(*errno)),
            Self::Mount(format, error) => write!(f, "{format} cannot be mounted: {error}"),
        }
    }
}

impl core::error::Error for ImageError {}

/// Inspects an image file without mounting it.
///
/// # Errors
/// [`ImageError`]: the file cannot be read, its format is unknown or not a file system, or it
/// is truncated.
pub fn inspect(path: &str) -> Result<Superblock, ImageError> {
    let fail = |why| ImageError { image: path.to_string(), why };
    let file = open_read(path).map_err(|errno| fail(Why::Open(errno)))?;
    let has = fstat(&file).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
    let mut failed = None;
    let found = probe(&mut |at, buffer| match pread(&file, &mut *buffer, at) {
        Ok(length) => length,
        Err(errno) => {
            failed = Some(errno);
            0
        }
    });
    let Some(found) = found else {
        return Err(fail(failed.map_or(Why::Unknown, Why::Open)));
    };
    match found.size {
        Some(needs) if needs > has => Err(fail(Why::CutShort { format: found.format, has, needs })),
        _ => Ok(found),
    }
}

/// Mounts an image file at `target`, through a loop device that goes away with
/// the mount.
///
/// The file system's driver must be loaded (or loadable by the kernel's own
/// request).
///
/// # Errors
/// As [`inspect`]; also when the loop device or the mount fails.
pub fn mount(
    path: &str,
    found: &Superblock,
    target: &str,
    read_only: bool,
) -> Result<(), ImageError> {
    let fail = |why| ImageError { image: path.to_string(), why };
    let Some(fs_type) = found.format.fs_type() else {
        return Err(fail(Why::NotAFileSystem(found.format)));
    };
    let device = attach(path, read_only).map_err(|errno| fail(Why::Loop(errno)))?;
    mount_device(&format!("/dev/loop{}", device.number), fs_type, target, read_only, "")
        .map_err(|error| fail(Why::Mount(found.format, error)))
}

/// Attaches a file to a loop device.
///
/// # Errors
/// The errno of openat(2) or of the loop device's ioctls.
pub fn attach(path: &str, read_only: bool) -> Result<Loop, Errno> {
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let file = open_data(path, access)?;
    loopdev::attach(file.as_fd(), loopdev::Options { read_only, ..Default::default() })
}
