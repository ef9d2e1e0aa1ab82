//! KA ("Ka-deploy-0.6"): a chain of TCP connections that a server lays out and
//! mends.
//!
//! Clients find the server of a session's name by broadcast (UDP 4957, answered
//! to 4958), keep a control connection to it (TCP 30765) and get data from the
//! node that it names (TCP 30764), which may change: every node keeps the last
//! 35 MiB, so that the children of a node that died go on behind another.
//!
//! * [`wire`]: the packets, in both layouts.
//! * [`client`], [`server`]: the two ends.
//! * [`desc`]: the description of a disk that its sessions begin with.
//!
//! Ours, unseen by old programs: a client's hello says behind the version that
//! it compares digests; it is then given the stream's BLAKE3 before the end,
//! and answers in a part of its last packet that is otherwise unused. And a
//! server never runs more than the window ahead of the last client, so that no
//! node's death can lose another's data.

pub mod client;
pub mod desc;
pub mod server;
pub mod wire;

pub use client::Client;
pub use server::Server;

/// The name in messages.
const NAME: &str = "KA";

/// TCP port of the server's control connections.
pub const CONTROL_PORT: u16 = 30765;
/// TCP port of the data connections, at every node.
pub const DATA_PORT: u16 = 30764;
/// UDP port of the server, for clients that look for it.
pub const ASK_PORT: u16 = 4957;
/// UDP port of clients, for its answer.
pub const ANSWER_PORT: u16 = 4958;

/// What every node keeps of what it has passed on.
pub const WINDOW: u64 = 35 << 20;
/// How far a server runs ahead of the last client.
pub const AHEAD: u64 = 30 << 20;
/// Clients report their position each so many bytes, when told to.
pub const REPORT_EACH: u64 = 1 << 20;
/// Clients of a session at most.
pub const MAX_CLIENTS: usize = 300;

/// The question for a session's server: its name and a NUL.
#[must_use]
pub fn question(session: &str) -> alloc::vec::Vec<u8> {
    let mut bytes = session.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
