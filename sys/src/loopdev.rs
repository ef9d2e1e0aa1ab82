//! Loop devices: a file as a block device (`linux/loop.h`, Linux 5.8 and later
//! for `LOOP_CONFIGURE`).
//!
//! Does not load the driver, and does not scan for partitions by itself.

use alloc::format;
use core::mem;

use linux_raw_sys::general::__NR_ioctl;

use linux_raw_sys::loop_device::{LOOP_CONFIGURE, LOOP_CTL_GET_FREE, loop_config};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::file::open;
use crate::raw::syscall;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_PARTSCAN: u32 = 8;

/// The range of the backing file, and options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// First byte of the backing file.
    pub offset: u64,
    /// Length in bytes; 0 for everything after the offset.
    pub size_limit: u64,
    /// Refuse writes.
    pub read_only: bool,
    /// Scan for a partition table and make devices for the partitions.
    pub partitions: bool,
}

/// An attached loop device. It detaches itself after its last user: the last mount and this
/// handle.
#[derive(Debug)]
pub struct Loop {
    /// The device's number: it is `/dev/loop<number>`.
    pub number: u32,
    device: OwnedFd,
}

impl AsFd for Loop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// Attaches `backing` to the first free loop device.
///
/// # Errors
/// The errno of opening `/dev/loop-control` or the device, or of attaching; `EBUSY` only after
/// losing the race for a free device many times.
pub fn attach(backing: BorrowedFd<'_>, options: Options) -> Result<Loop, Errno> {
    let control = open("/dev/loop-control", OFlags::RDWR, 0)?;
    let mode = if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let flag = |on: bool, bit: u32| if on { bit } else { 0 };
    // SAFETY: plain integers and byte arrays; all zeroes is a valid value.
    let mut config: loop_config = unsafe { mem::zeroed() };
    config.fd = backing.as_raw_fd() as u32;
    config.info.lo_offset = options.offset;
    config.info.lo_sizelimit = options.size_limit;
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR
        | flag(options.read_only, LO_FLAGS_READ_ONLY)
        | flag(options.partitions, LO_FLAGS_PARTSCAN);
    // Another process may take the free device between the two calls.
    for _ in 0..64 {
        // SAFETY: takes no argument and returns a number.
        let free = unsafe {
            syscall(__NR_ioctl, &[control.as_raw_fd() as usize, LOOP_CTL_GET_FREE as usize])?
        };
        let device = open(&format!("/dev/loop{free}"), mode, 0)?;
        // SAFETY: the kernel reads one loop_config behind the pointer.
        let attached = unsafe {
            syscall(
                __NR_ioctl,
                &[device.as_raw_fd() as usize, LOOP_CONFIGURE as usize, &raw const config as usize],
            )
        };
        match attached {
            Ok(_) => return Ok(Loop { number: free as u32, device }),
            Err(Errno::BUSY) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::BUSY)
}
