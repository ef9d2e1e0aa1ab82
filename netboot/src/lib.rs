//! The network functions of `/init`: links, DHCP, addresses and routes, name resolution,
//! network mounts and fetchers.
//!
//! It executes a [`cmdline::plan::NetworkPlan`] and knows no dialects. Protocols are state
//! machines that take the time and received bytes; the sockets are in small functions at the
//! edge.
//!
//! | step | module |
//! | --- | --- |
//! | links raced for an address | [`network`] over [`race`] and [`dhcp`] |
//! | settings of the interface | [`config`] |
//! | files for the live system | [`state`] |
//! | names to addresses | [`resolve`] |
//! | NFS roots | [`nfs`] |
//! | files by HTTP, FTP, TFTP | [`fetch`] |
//! | network block devices | [`nbd`], [`nvme`] |
//!
//! [`network`] is polled by its caller; the later steps block, each up to a limit that its
//! caller sets.

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
