//! One file an architecture: how a system call is made and which numbers it has.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::syscall6;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::syscall6;
