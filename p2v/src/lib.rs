//! Physical to virtual: a machine's disks are read, and nothing else is done to them,
//! while a conversion server or a plain host makes images of them.
//!
//! The cores are pure: they take and return bytes and texts. [`nbd`] is the read-only
//! server from which virt-v2v copies, [`write`](mod@write) the client that fills a server's empty
//! disk, [`tar`] the sparse member for a host that has nothing but tar, [`script`] what a
//! shell there runs, [`ssh`] what an ssh client says, [`domain`] the description of the
//! machine, [`guest`] and [`seal`] what it says to a `p2v-server` and how, [`disks`] which disks
//! there are to send, [`extents`] which bytes of them travel, and [`edit`] what is changed in the
//! copy. The feature `edge` adds the loops that own files, sockets and processes.

#![cfg_attr(not(test), no_std)]
extern crate alloc;

pub mod disks;
pub mod domain;
pub mod edit;
pub mod extents;
pub mod guest;
pub mod key;
pub mod nbd;
pub mod script;
pub mod seal;
pub mod ssh;
pub mod tar;
mod trouble;
pub mod write;

pub use trouble::Trouble;

#[cfg(feature = "edge")]
pub mod edge;
