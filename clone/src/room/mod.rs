//! A room that is cloned chunk by chunk: used bytes alone, every chunk compared with its digest,
//! from any machine that has it.
//!
//! The sender ([`golden`]) tells every machine the [`manifest`], the digest of each chunk as soon
//! as it has read it, and from whom to take chunks; so
//! it forms a chain, and closes it again around a machine that was lost. A copy ([`node`]) looks
//! at what its disk has already, wants the rest, and hands chunks on as they come ([`serve`]).
//! [`keep`] writes them, and reads them back. [`wire`] is the protocol. No part does I/O.
//!
//! Where the network carries it, the sender sends what many machines lack once, by multicast
//! ([`cast`], [`ear`], [`datagram`]); the chain then brings what was lost on the way.

#[cfg(feature = "own-table")]
pub mod beside;
pub mod bits;
pub mod cast;
pub mod datagram;
pub mod ear;
pub mod golden;
pub mod keep;
pub mod manifest;
pub mod node;
pub(crate) mod numbered;
pub mod serve;
#[cfg(feature = "files")]
pub mod tree;
#[cfg(not(feature = "own-table"))]
mod whole;
pub mod wire;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bits::Bits;
use core::net::SocketAddrV4;
use wire::Message;

/// A connection, numbered by the edge.
pub type Peer = u32;

/// What a machine wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// This is said.
    Say(Peer, Message),
    /// A connection is made to this machine, to take chunks from it.
    Dial(SocketAddrV4),
    /// The connection is closed.
    Hang(Peer),
    /// The disk does this, after what it was asked before.
    Disk(Ask),
    /// The user is told.
    News(String),
    /// The machine listens to this group from now on, or to none.
    Listen(Option<SocketAddrV4>),
}

/// What a disk is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Whether it may have chunks. Needs the digests of the samples.
    Look,
    /// Which chunks it has. Needs all digests.
    Scan,
    /// To store a chunk.
    Store(u32, Arc<Vec<u8>>),
    /// For a chunk that it has.
    Read(u32),
    /// To end: everything is written, and read back.
    Finish,
}

/// What a disk answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Whether it may have chunks.
    Looked(bool),
    /// It has these chunks.
    Scanned(Bits),
    /// This chunk is written.
    Stored(u32),
    /// This chunk; nothing when it cannot be read. A sender's manifest has learned its digest.
    Read(u32, Option<Arc<Vec<u8>>>),
    /// A sender's manifest has learned the digest of this chunk.
    Digested(u32),
    /// It has all of it; whether it was read back.
    Kept(bool),
    /// There is no copy, and why.
    Failed(String),
}
