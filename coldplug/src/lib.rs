//! Uevents, sysfs walk, modalias to modules, loading in dependency order.
#![cfg_attr(not(test), no_std)]
extern crate alloc;

pub mod index;
