//! Kernel command lines of every live-boot dialect, turned into one [`BootPlan`].
//!
//! The only crate that reads the command line. Pure: it takes text and returns
//! data, does no I/O, and never panics on any input.

#![cfg_attr(not(test), no_std)]
extern crate alloc;

pub mod plan;

pub use plan::BootPlan;
