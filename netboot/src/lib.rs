//! Everything that `/init` does with a network: links, DHCP, addresses and
//! routes, name resolution, network mounts and fetchers.
//!
//! It executes a [`cmdline::plan::NetworkPlan`] and knows no dialects. Protocols
//! are state machines that are told the time and the bytes that came in; sockets
//! are at the edge, in small pieces.
//!
//! | step | module |
//! | --- | --- |
//! | links raced for an address | [`network`] over [`race`] and [`dhcp`] |
//! | what the interface gets | [`config`] |
//! | what the live system is told | [`state`] |
//! | names to addresses | [`resolve`] |
//! | NFS roots | [`nfs`] |
//! | files by HTTP, FTP, TFTP | [`fetch`] |
//! | network block devices | [`nbd`], [`nvme`] |
//!
//! [`network`] is polled by its caller; the later steps, which have nothing to run
//! beside, block, each for a time that its caller sets.

#![cfg_attr(not(test), no_std)]
extern crate alloc;

pub mod config;
pub mod dhcp;
pub mod fetch;
pub mod io;
pub mod nbd;
pub mod network;
pub mod nfs;
pub mod nvme;
pub mod race;
mod random;
pub mod resolve;
pub mod state;
