//! Loads drivers for the machine's devices: uevents, a walk over sysfs, modalias to module,
//! loading in dependency order.
//!
//! Replaces udev's `kmod` rule: no device nodes (devtmpfs makes them), no names, no
//! permissions, no rules. The image's [`index`] says which module serves which device.

#![cfg_attr(not(test), no_std)]
extern crate alloc;

pub mod index;
pub mod load;
pub mod sysfs;
pub mod uevent;
