//! Block devices: their length, and whether they may be written (`linux/fs.h`).

use linux_raw_sys::general::__NR_ioctl;
use linux_raw_sys::ioctl::{BLKGETSIZE64, BLKROSET};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::file::open;
use crate::raw::syscall;

/// Length of a block device in bytes.
///
/// # Errors
/// The errno of open(2) or ioctl(2); `ENOTTY` when the path is not a block device.
pub fn length(path: &str) -> Result<u64, Errno> {
    let device = open(path, OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
    length_of(device.as_fd())
}

/// As [`length`], for an open device.
///
/// # Errors
/// The errno of ioctl(2); `ENOTTY` when it is not a block device.
pub fn length_of(device: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut bytes: u64 = 0;
    // SAFETY: the kernel writes one u64 behind the pointer.
    unsafe {
        syscall(
            __NR_ioctl,
            &[device.as_raw_fd() as usize, BLKGETSIZE64 as usize, &raw mut bytes as usize],
        )?;
    }
    Ok(bytes)
}

/// Makes a block device refuse writes, or accept them again.
///
/// # Errors
/// The errno of open(2) or ioctl(2); `EACCES` without the right to administer devices.
pub fn set_read_only(path: &str, read_only: bool) -> Result<(), Errno> {
    let device = open(path, OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
    let value = i32::from(read_only);
    // SAFETY: the kernel reads one int behind the pointer.
    unsafe {
        syscall(
            __NR_ioctl,
            &[device.as_raw_fd() as usize, BLKROSET as usize, &raw const value as usize],
        )?;
    }
    Ok(())
}
