//! An image file as a mounted file system: sniffed, checked for its length,
//! loop-attached, mounted.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::io::{Errno, pread};
use sys::errno::Shown;
use sys::loopdev::{self, Loop};
use sys::mount::{MountError, mount_device};

use crate::probe::{Format, Superblock, probe};

/// Why an image did not become a mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageError {
    /// The image's path.
    pub image: String,
    /// What went wrong.
    pub why: Why,
}

/// What went wrong with an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The file could not be opened or read.
    Open(Errno),
    /// Nothing in its first sectors is known.
    Unknown,
    /// It is something, but not a file system.
    NotAFileSystem(Format),
    /// It ends before its own superblock says.
    CutShort {
        /// Its format.
        format: Format,
        /// Bytes there.
        has: u64,
        /// Bytes that its superblock claims.
        needs: u64,
    },
    /// No loop device could be had.
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
            Self::Unknown => f.write_str("is no image of a known format"),
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

/// Looks at an image file without mounting it.
///
/// # Errors
/// When it cannot be read, is of no known format, or ends too early.
pub fn inspect(path: &str) -> Result<Superblock, ImageError> {
    let fail = |why| ImageError { image: path.to_string(), why };
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| fail(Why::Open(errno)))?;
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
/// As [`inspect`], and when the loop device or the mount fails.
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
/// The kernel's, from opening the file or the loop device.
pub fn attach(path: &str, read_only: bool) -> Result<Loop, Errno> {
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let file = open(path, access | OFlags::CLOEXEC, Mode::empty())?;
    loopdev::attach(file.as_fd(), loopdev::Options { read_only, ..Default::default() })
}
