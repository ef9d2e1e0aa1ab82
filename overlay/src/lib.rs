//! From a block device or an image file to a writable root: superblocks, loop
//! mounts, unions, switch_root.
//!
//! Mechanisms only: `init` chooses image, layers and mount points by its plan.

#![cfg_attr(not(test), no_std)]
extern crate alloc;

pub mod archive;
pub mod digest;
pub mod dm;
pub mod expand;
pub mod image;
pub mod partition;
pub mod persistence_conf;
pub mod probe;
pub mod switch;
pub mod union;
pub mod verity;
