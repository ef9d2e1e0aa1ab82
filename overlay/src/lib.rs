//! From a block device or an image file to a writable root.
#![cfg_attr(not(test), no_std)]
extern crate alloc;

pub mod probe;
