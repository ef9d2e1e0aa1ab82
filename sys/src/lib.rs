//! The system calls and ioctls that rustix lacks, as safe functions.
//!
//! With `rt`, the only crate that may say `unsafe`. A function here does what
//! its system call does and no more: no policy, no logging, no retries beyond
//! what the call itself needs to be usable.

#![cfg_attr(not(test), no_std)]
#![allow(unsafe_code)]
extern crate alloc;

mod arch;
pub mod blockdev;
pub mod clock;
pub mod dm;
pub mod errno;
pub mod file;
pub mod loopdev;
pub mod mount;
pub mod netlink;
pub mod nvme;
pub mod packet;
pub mod process;
mod raw;
pub mod sort;
