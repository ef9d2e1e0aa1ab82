//! What passes between either end's state machine and the loop with its sockets.
//!
//! Connections are named by what they are for. Few words go through [`Input`] and
//! [`Output`]; the stream itself does not: the loop reads into [`End::room`] and
//! writes from [`End::sending`], so that its bytes are copied once.

use super::wire::Command;
use super::{CONTROL_PORT, DATA_PORT};
use crate::Error;
use alloc::borrow::ToOwned;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

/// A connection, by what it is for. There is one of each, but for callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conn {
    /// From the host before this one to our data port; at the server, from the last.
    Before,
    /// To the host behind this one: to its data port, or to its command port while it
    /// is asked where to go on.
    Next,
    /// To the server's command port: what became of our copy, and its verdict.
    Line,
    /// To the server's command port: the last host's word that all is over.
    Stop,
    /// From a peer to our command port, numbered as they come.
    Caller(u32),
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A peer connected to the command port ([`Conn::Caller`]), or to the data port
    /// ([`Conn::Before`], and only if [`End::awaits`] says so).
    Accepted(Conn, Ipv4Addr),
    /// What was dialled stands.
    Connected(Conn),
    /// A try to connect failed, and why; it is tried again until [`Output::Close`].
    Refused(Conn, &'a str),
    /// These bytes came. Not from [`Conn::Before`], see [`End::room`].
    Heard(Conn, &'a [u8]),
    /// The peer has ended the connection, or it broke, and why. It stays open on our
    /// side until [`Output::Close`]: a host that closes is taken for gone.
    Closed(Conn, &'a str),
    /// Time has passed. Due after each turn of the loop, at least once a second.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Connect there, and try again each second.
    Dial {
        /// What for.
        conn: Conn,
        /// The host as the lists name it.
        host: String,
        /// The TCP port.
        port: u16,
    },
    /// Send this, before anything of [`End::sending`].
    Send(Conn, Vec<u8>),
    /// Nothing more will be sent; what comes is still read.
    End(Conn),
    /// Close it, or stop dialling.
    Close(Conn),
    /// Tell the user.
    Say(String),
    /// Another machine has said this.
    Said(String),
}

/// What the loop needs of either end.
pub trait End {
    /// Tells it what happened.
    ///
    /// # Errors
    /// [`Error::Stalled`], [`Error::Gone`], [`Error::Peer`], [`Error::Mismatch`] or
    /// [`Error::Store`]: this end can do no more. What it still has to say is in
    /// [`End::output`].
    fn step(&mut self, input: Input<'_>, now: Duration) -> Result<(), Error>;

    /// The next thing to do.
    fn output(&mut self) -> Option<Output>;

    /// Whether a connection to the data port is taken now. If there is one already it
    /// takes that one's place.
    fn awaits(&self) -> bool;

    /// Where bytes from [`Conn::Before`] go. Empty: none are wanted now.
    fn room(&mut self) -> &mut [u8];

    /// So many bytes were put into what [`End::room`] gave.
    ///
    /// # Errors
    /// As [`End::step`].
    fn received(&mut self, bytes: usize, now: Duration) -> Result<(), Error>;

    /// What goes to [`Conn::Next`] now.
    fn sending(&self) -> &[u8];

    /// So many bytes of that were sent.
    fn sent(&mut self, bytes: usize, now: Duration);
}

/// What is still to be done.
#[derive(Debug, Default)]
pub(super) struct Outbox(VecDeque<Output>);

impl Outbox {
    pub(super) fn pop(&mut self) -> Option<Output> {
        self.0.pop_front()
    }

    pub(super) fn say(&mut self, text: String) {
        self.0.push_back(Output::Say(text));
    }

    pub(super) fn said(&mut self, text: &str) {
        self.0.push_back(Output::Said(text.to_owned()));
    }

    pub(super) fn send(&mut self, conn: Conn, bytes: Vec<u8>) {
        self.0.push_back(Output::Send(conn, bytes));
    }

    /// Sends a command.
    #[inline(never)]
    #[expect(clippy::needless_pass_by_value, reason = "dropped here once, not by every caller")]
    pub(super) fn command(&mut self, conn: Conn, command: Command) {
        self.send(conn, command.packet());
    }

    pub(super) fn end(&mut self, conn: Conn) {
        self.0.push_back(Output::End(conn));
    }

    pub(super) fn close(&mut self, conn: Conn) {
        self.0.push_back(Output::Close(conn));
    }

    /// Dials a host's data port.
    pub(super) fn dial_data(&mut self, conn: Conn, host: &str) {
        self.dial(conn, host, DATA_PORT);
    }

    /// Dials a host's command port.
    pub(super) fn dial_control(&mut self, conn: Conn, host: &str) {
        self.dial(conn, host, CONTROL_PORT);
    }

    fn dial(&mut self, conn: Conn, host: &str, port: u16) {
        self.0.push_back(Output::Dial { conn, host: host.to_owned(), port });
    }
}
