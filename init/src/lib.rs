//! PID 1 of the initramfs: executes a [`cmdline::BootPlan`].
//!
//! Read [`boot`] first; it is the whole story, one module a step. Without the
//! feature `full`, `lean` stands in for the steps that few boots take.

#![cfg_attr(not(test), no_std)]
extern crate alloc;

pub mod baked;
pub mod block;
pub mod boot;
pub mod changes;
pub mod device;
pub mod early;
pub mod failure;
pub mod handoff;
pub mod images;
pub mod keys;
pub mod layers;
pub mod link;
pub mod log;
pub mod look;
pub mod machine;
pub mod modprobe;
pub mod network;
pub mod newroot;
pub mod pinning;
pub mod source;
pub mod trace;

#[cfg(feature = "full")]
pub mod clone;
#[cfg(feature = "full")]
pub mod console;
#[cfg(feature = "full")]
pub mod copy;
#[cfg(feature = "full")]
pub mod expand;
#[cfg(feature = "full")]
pub mod fetch;
#[cfg(feature = "full")]
pub mod firmware;
#[cfg(feature = "full")]
pub mod fuzz;
#[cfg(feature = "full")]
pub mod integrity;
#[cfg(feature = "full")]
pub mod keeper;
#[cfg(feature = "full")]
pub mod memory;
#[cfg(feature = "p2v")]
pub mod p2v;
#[cfg(feature = "p2v")]
mod p2v_dialog;
#[cfg(feature = "p2v")]
mod p2v_edit;
#[cfg(feature = "full")]
pub mod persist;
#[cfg(feature = "full")]
pub mod remote;
#[cfg(feature = "full")]
pub mod setup;
#[cfg(feature = "full")]
pub mod shutdown;
#[cfg(feature = "full")]
pub mod snapshot;
#[cfg(feature = "full")]
pub mod stuck;
#[cfg(feature = "full")]
pub mod to_ram;
#[cfg(feature = "full")]
pub mod tool;
#[cfg(feature = "full")]
pub mod unpack;
#[cfg(feature = "full")]
pub mod verity;
#[cfg(feature = "full")]
pub mod watch;

#[cfg(not(feature = "full"))]
mod lean;
#[cfg(not(feature = "full"))]
use lean::{
    clone, console, expand, fetch, firmware, integrity, persist, remote, setup, shutdown, snapshot,
    to_ram, unpack, verity, watch,
};
