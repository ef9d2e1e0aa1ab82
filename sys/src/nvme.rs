//! NVMe controllers: the admin command that reads a log page (`linux/nvme_ioctl.h`).

use linux_raw_sys::general::__NR_ioctl;
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io::Errno;

use crate::raw::syscall;

/// `NVME_IOCTL_ADMIN_CMD`: `_IOWR('N', 0x41, struct nvme_passthru_cmd)`.
const ADMIN: usize = 0xc048_4e41;

/// `struct nvme_passthru_cmd`.
#[repr(C)]
#[derive(Default)]
struct Command {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    words_2_3: [u32; 2],
    metadata: u64,
    address: u64,
    metadata_length: u32,
    length: u32,
    words_10_15: [u32; 6],
    timeout: u32,
    result: u32,
}

/// Reads a log page of a controller (NVM Express Base Specification, Get Log Page) from its
/// start; the length of `buffer` is a multiple of 4.
///
/// # Errors
/// The errno of ioctl(2); `EIO` when the controller refuses.
pub fn log_page(controller: BorrowedFd<'_>, page: u8, buffer: &mut [u8]) -> Result<(), Errno> {
    let length = u32::try_from(buffer.len()).map_err(|_| Errno::INVAL)?;
    let words = (length / 4).checked_sub(1).ok_or(Errno::INVAL)?;
    let mut command = Command {
        opcode: 2,
        address: buffer.as_mut_ptr() as u64,
        length,
        words_10_15: [u32::from(page) | words << 16, words >> 16, 0, 0, 0, 0],
        ..Command::default()
    };
    // SAFETY: the kernel reads and writes the command behind the pointer, whose
    // layout is the one of the header, and writes `length` bytes to the buffer.
    let status = unsafe {
        syscall(__NR_ioctl, &[controller.as_raw_fd() as usize, ADMIN, &raw mut command as usize])?
    };
    // A positive result is the controller's status.
    if status == 0 { Ok(()) } else { Err(Errno::IO) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_the_kernels_size() {
        assert_eq!(size_of::<Command>(), ADMIN >> 16 & 0x3fff);
    }
}
