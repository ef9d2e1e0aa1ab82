//! PID 1 of the initramfs: executes a [`cmdline::BootPlan`].
//!
//! Read [`boot`] first; it is the whole story, one module a step.

#![cfg_attr(not(test), no_std)]
extern crate alloc;

pub mod block;
pub mod boot;
pub mod copy;
pub mod device;
pub mod early;
pub mod failure;
pub mod fetch;
pub mod handoff;
pub mod images;
pub mod integrity;
pub mod layers;
pub mod layout;
pub mod log;
pub mod machine;
pub mod memory;
pub mod modprobe;
pub mod network;
pub mod persist;
pub mod snapshot;
pub mod source;
pub mod to_ram;
pub mod tool;
pub mod trace;
pub mod verity;
pub mod watch;
