//! Raw system calls for the few that rustix does not publish.

use rustix::io::Errno;

/// Makes a system call.
///
/// # Errors
/// The kernel's errno.
///
/// # Safety
/// `args` must be what the call `number` expects; missing ones are 0.
pub(crate) unsafe fn syscall(number: u32, args: &[usize]) -> Result<usize, Errno> {
    let mut all = [0; 6];
    for (slot, arg) in all.iter_mut().zip(args) {
        *slot = *arg;
    }
    // SAFETY: the caller's promise.
    let result = unsafe { crate::arch::syscall6(number, all) };
    // Linux keeps -4095 to -1 for errors; everything else is a result.
    if (-4095..0).contains(&result) {
        Err(Errno::from_raw_os_error(-(result as i32)))
    } else {
        Ok(result as usize)
    }
}
