//! Copying one machine's disk to many: the protocols, their two ends, and the
//! texts that configure them.
//!
//! The crate has two parts. The protocols are pure: a protocol's end is a state
//! machine that is told what arrived and what time it is, and says what to send,
//! what to store and when it wants to be woken. So the same code runs in
//! `/init`, in the host command and in a simulated room of sixty-four machines.
//! The loops around them are in [`edge`](../clone/edge/index.html), a feature:
//! they own the TCP and UDP sockets; disks, names, the clock and the screen are
//! the caller's. [`outcome`] has the words for how a copy went.
//!
//! None of the old protocols carries a checksum. Where both ends are ours they
//! agree, in ways that old peers do not notice, to compare BLAKE3 digests of
//! all bytes before anyone reports success ([`digest`]).
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod cook;
pub mod digest;
pub mod dolly;
pub mod dollyplus;
#[cfg(feature = "edge")]
pub mod edge;
pub mod error;
pub mod guard;
#[cfg(feature = "room")]
pub mod image;
pub mod ka;
pub mod mark;
pub mod outcome;
pub mod pact;
pub mod ring;
#[cfg(feature = "room")]
pub mod room;
pub mod udpcast;

pub use error::{Error, Trouble};
