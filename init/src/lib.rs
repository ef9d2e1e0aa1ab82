//! PID 1 of the initramfs: executes a [`cmdline::BootPlan`].
//!
//! Read [`boot`] first; it is the whole story, one module a step.

#![cfg_attr(not(test), no_std)]
extern crate alloc;

pub mod boot;
pub mod device;
pub mod early;
pub mod failure;
pub mod handoff;
pub mod images;
pub mod layers;
pub mod layout;
pub mod log;
pub mod machine;
pub mod modprobe;
pub mod network;
pub mod source;
pub mod trace;
