//! The system calls and ioctls that rustix lacks, as safe functions.
//!
//! With `rt`, the only crate that may contain `unsafe`. A function does its system call and no
//! more: no policy, no logging, and only the retries that the call itself needs.

#![cfg_attr(not(test), no_std)]
#![allow(unsafe_code)]
extern crate alloc;

mod arch;
pub mod blockdev;
pub mod bytes;
pub mod clock;
pub mod dm;
pub mod errno;
pub mod fault;
pub mod file;
pub mod loopdev;
pub mod mount;
pub mod netlink;
pub mod nvme;
pub mod packet;
pub mod process;
mod raw;
pub mod sort;
pub mod waiting;
