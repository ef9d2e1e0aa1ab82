//! Everything that `/init` does with a network: links, DHCP, addresses and
//! routes, name resolution, network mounts and fetchers.
//!
//! It executes a [`cmdline::plan::NetworkPlan`] and knows no dialects. Protocols
//! are state machines that are told the time and the bytes that came in; sockets
//! are at the edge, in small pieces, and everything that waits can be polled.

#![cfg_attr(not(test), no_std)]
extern crate alloc;

pub mod clock;
pub mod config;
pub mod dhcp;
pub mod errno;
pub mod fetch;
pub mod io;
pub mod lease;
pub mod network;
pub mod nfs;
pub mod race;
pub mod resolve;
pub mod state;
