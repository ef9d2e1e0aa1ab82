//! Drivers for the devices that are there: uevents, a walk over sysfs,
//! modalias to module, loading in dependency order.
//!
//! What udev's `kmod` rule does, without udev: no device nodes (devtmpfs has
//! them), no names, no permissions, no rules. Which module serves which device
//! was worked out when the image was made ([`index`]).

#![cfg_attr(not(test), no_std)]
extern crate alloc;

pub mod index;
pub mod load;
pub mod sysfs;
pub mod uevent;
