//! Dolly+: a ring of TCP connections through which files run in chunks, past
//! machines that fail.
//!
//! The server connects to the first host's TCP 9998, each host to the next
//! one's, the last one back to the server's. A `RING` packet builds that ring
//! and marks the hosts that can be reached; the final list of hosts and the list of files
//! go round once; then each file comes as a number and chunks of up to 4 MiB.
//! A host that loses the one behind it asks the one after that, at TCP 9997, from
//! which chunk on it needs the data, and goes on from there. The last host tells
//! the server that it has everything.
//!
//! Both ends are state machines without sockets, files or clocks:
//!
//! * [`io`]: what either is told and what it answers, and where the stream's bytes
//!   pass it by.
//! * [`node`]: a client. Its parts: `disk`, its copy; `line`, its line to the server.
//! * [`server`]. Its part: `feed`, the files on their way into chunks.
//! * `next`: the link to the next host, of either end.
//! * [`backlog`]: what either end keeps of the stream for a host that may need it again.
//! * [`hosts`]: the order of the hosts in the ring.
//! * [`wire`]: packets, and reading a stream of them.
//! * [`config`]: the configuration with `iofiles`, `>` and `>>`.
//!
//! Ours, unseen by old programs: a host that wants its copy verified says so in
//! a report to the server (TCP 9997), and keeps that connection if the server
//! answers; digests, failures and the verdict travel there. A host of ours that
//! is asked where to go on answers one of ours with the exact byte; one that is pinged says
//! whether another host feeds it.
//!
//! Not here: file pings (TCP 9996), the ports of the later CVS version, XOFF.

pub mod backlog;
pub mod config;
mod disk;
mod feed;
pub mod hosts;
pub mod io;
mod line;
mod next;
pub mod node;
pub mod server;
pub mod wire;

pub use config::Config;
pub use disk::Todo;
pub use feed::Want;
pub use node::Node;
pub use server::Server;

/// TCP port of the data ring.
pub const DATA_PORT: u16 = 9998;
/// TCP port of commands and reports.
pub const CONTROL_PORT: u16 = 9997;

/// The name in messages.
pub const NAME: &str = "dolly+";
/// A host that cannot be connected is given up after so many tries, one a second.
const TRIES: u32 = 4;
/// The largest chunk of a file.
pub const CHUNK: u32 = 4 << 20;
/// What a node that was passed over may still hold of what it was sent: ten
/// chunks in old programs. So much must be kept to be sent again.
pub const WINDOW: u64 = 10 * CHUNK as u64;
