//! The sockets of a room's multicast.

use super::net::Net;
use crate::edge::net::{Datagrams, random};
use crate::edge::{Level, World};
use crate::room::cast::{Bulk, Cast};
use crate::room::golden::Golden;
use crate::room::node::Node;
use crate::room::wire::Group;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;
use rustix::fd::BorrowedFd;

/// What the system may bring together.
const DATAGRAMS: usize = 64 << 10;
/// So much is heard before the connections have their turn.
const HEARS: usize = 4 << 20;

/// The sender's socket.
pub struct Loud {
    socket: Box<dyn Datagrams>,
    to: SocketAddrV4,
    /// The interface is known.
    aimed: bool,
    /// Datagrams of this size; so much of them has gone.
    buffer: Vec<u8>,
    size: usize,
    gone: usize,
    full: bool,
}

impl Loud {
    /// For a sender that may multicast; nothing when the system has no socket for it, which the
    /// user is told.
    pub fn new(
        golden: Golden,
        bulk: Bulk,
        port: u16,
        world: &mut dyn World,
    ) -> (Golden, Option<Self>) {
        if bulk == Bulk::Chain {
            return (golden, None);
        }
        let token: [u8; 8] = random();
        let [a, b, c, ..] = token;
        // A part of the addresses that each site uses as it likes (RFC 2365).
        let group = Ipv4Addr::new(239, 192 | a & 3, b, c);
        let to = SocketAddrV4::new(group, port.saturating_add(1));
        match world.datagrams(0) {
            Ok(socket) => {
                let (buffer, aimed, full) = (Vec::new(), false, false);
                let own = Self { socket, to, aimed, buffer, size: 1, gone: 0, full };
                (golden.multicast(Cast::new(bulk, Group { token, to })), Some(own))
            }
            Err(why) => {
                world.say(Level::News, &format!("no multicast: {why}; a chain brings the chunks"));
                (golden, None)
            }
        }
    }

    /// Sends what may go now; whether there may be more.
    pub fn send(&mut self, golden: &mut Golden, net: &Net, now: Duration) -> bool {
        if self.gone >= self.buffer.len() {
            self.gone = 0;
            let Some(size) = golden.cast(&mut self.buffer, now) else {
                self.buffer.clear();
                return false;
            };
            self.size = size;
        }
        match self.rest(golden, net) {
            Ok(sent) => {
                self.gone += sent;
                self.full = sent == 0;
                !self.full
            }
            Err(why) => {
                self.buffer.clear();
                golden.uncast(&why);
                true
            }
        }
    }

    fn rest(&mut self, golden: &Golden, net: &Net) -> Result<usize, String> {
        if !self.aimed {
            let own = golden.listener().and_then(|peer| net.own(peer));
            self.socket.aim(own.unwrap_or(Ipv4Addr::UNSPECIFIED))?;
            self.aimed = true;
        }
        let rest = self.buffer.get(self.gone..).unwrap_or_default();
        let sent = self.socket.send(rest, self.size, self.to);
        sent.map_err(|why| format!("{} cannot be sent to: {why}", self.to.ip()))
    }

    /// The socket, when it has no room for what is to be sent.
    pub fn full(&self) -> Option<BorrowedFd<'_>> {
        (self.full && self.gone < self.buffer.len()).then(|| self.socket.fd())
    }
}

/// What the sender has sent to the group.
pub fn hear(
    group: &dyn Datagrams,
    sender: Ipv4Addr,
    node: &mut Node,
    buffer: &mut Vec<u8>,
    now: Duration,
) {
    if buffer.is_empty() {
        *buffer = vec![0; DATAGRAMS];
    }
    let mut heard = 0;
    while heard < HEARS
        && let Some((bytes, size, from)) = group.receive(buffer)
    {
        heard += bytes.max(1);
        if *from.ip() == sender {
            let some = buffer.get(..bytes).unwrap_or_default();
            some.chunks(size.max(1)).for_each(|datagram| node.datagram(datagram, now));
        }
    }
}
