//! The connections of a machine of a room.

use crate::Error;
use crate::edge::net::{Stream, Waiter, accept, random};
use crate::pact::Key;
use crate::room::Peer;
use crate::room::wire::{Frame, Line, Message};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;
use rustix::fd::{BorrowedFd, OwnedFd};

/// So much may wait for a connection before it gets another chunk.
pub const ENOUGH: usize = 2 << 20;
/// The most that is read of one connection before the next one's turn.
const TURN: usize = 4 << 20;
/// Who says nothing says that it is there.
const PING: Duration = Duration::from_secs(2);
/// A machine whose kernel acknowledges nothing for so long is gone.
const DEAD: Duration = Duration::from_secs(10);
/// A machine that acknowledges, and says nothing for so long: it hangs.
const HANGS: Duration = Duration::from_secs(120);
/// The most connections.
const MOST: usize = 4096;

#[derive(Debug)]
struct Conn {
    stream: Stream,
    line: Line,
    ip: Ipv4Addr,
    out: VecDeque<Frame>,
    /// Of the first frame, so much is sent.
    at: usize,
    queued: usize,
    heard: Duration,
    said: Duration,
    up: bool,
    /// Nothing more is to be said: it is closed when all is sent.
    closing: bool,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The other end has said hello.
    Up(Peer),
    /// It said this.
    Said(Peer, Message),
    /// The connection has ended.
    Down(Peer, Ipv4Addr, String),
}

/// All connections.
#[derive(Debug)]
pub struct Net {
    conns: BTreeMap<Peer, Conn>,
    next: Peer,
    listener: OwnedFd,
    key: Option<Key>,
    buffer: Vec<u8>,
}

impl Net {
    /// With this listener, and perhaps a key.
    pub fn new(listener: OwnedFd, key: Option<Key>) -> Self {
        Self { conns: BTreeMap::new(), next: 0, listener, key, buffer: vec![0; 256 << 10] }
    }

    /// Takes a connection that stands.
    pub fn add(&mut self, stream: Stream, ip: Ipv4Addr, dialled: bool, now: Duration) -> Peer {
        stream.patience(DEAD);
        let line = Line::new(self.key.clone(), random(), dialled);
        let peer = self.next;
        self.next = self.next.wrapping_add(1);
        let hello = Frame { head: line.hello().to_vec(), data: None };
        let queued = hello.head.len();
        let conn = Conn {
            stream,
            line,
            ip,
            out: VecDeque::from([hello]),
            at: 0,
            queued,
            heard: now,
            said: now,
            up: false,
            closing: false,
        };
        self.conns.insert(peer, conn);
        peer
    }

    /// The address of a machine.
    pub fn address(&self, peer: Peer) -> Ipv4Addr {
        self.conns.get(&peer).map_or(Ipv4Addr::UNSPECIFIED, |conn| conn.ip)
    }

    /// Says something, when the other end has said hello.
    pub fn say(&mut self, peer: Peer, message: &Message, now: Duration) {
        let Some(conn) = self.conns.get_mut(&peer).filter(|conn| conn.up) else { return };
        let frame = conn.line.say(message);
        conn.queued += frame.head.len() + frame.data.as_ref().map_or(0, |data| data.len());
        conn.out.push_back(frame);
        conn.said = now;
    }

    /// Closes a connection, when all is said.
    pub fn hang(&mut self, peer: Peer) {
        if let Some(conn) = self.conns.get_mut(&peer) {
            conn.closing = true;
        }
    }

    /// The machines that can take a chunk now.
    pub fn hungry(&self) -> Vec<Peer> {
        let conns = self.conns.iter().filter(|(_, conn)| conn.up && conn.queued < ENOUGH);
        conns.map(|(peer, _)| *peer).collect()
    }

    /// Whether this one can.
    pub fn is_hungry(&self, peer: Peer) -> bool {
        self.conns.get(&peer).is_some_and(|conn| conn.queued < ENOUGH)
    }

    /// Whether all is said.
    pub fn quiet(&self) -> bool {
        self.conns.values().all(|conn| conn.out.is_empty() || !conn.up)
    }

    /// Waits for something to happen, at most so long.
    pub fn wait(&self, others: &[BorrowedFd<'_>], limit: Duration) {
        let mut waiter = Waiter::default();
        waiter.reads(&self.listener);
        for fd in others {
            waiter.reads(fd);
        }
        for conn in self.conns.values() {
            waiter.both(&conn.stream, !conn.out.is_empty());
        }
        let _ = waiter.wait(limit);
    }

    /// Takes, reads and sends what can be.
    pub fn round(&mut self, now: Duration) -> Vec<Event> {
        while self.conns.len() < MOST
            && let Some((stream, ip)) = accept(&self.listener)
        {
            self.add(stream, ip, false, now);
        }
        let mut events = Vec::new();
        let mut ended = Vec::new();
        for (peer, conn) in &mut self.conns {
            if conn.up && now.saturating_sub(conn.said) >= PING && conn.out.is_empty() {
                let ping = conn.line.say(&Message::Ping);
                conn.queued += ping.head.len();
                conn.out.push_back(ping);
                conn.said = now;
            }
            let done = conn.read(*peer, &mut self.buffer, &mut events, now);
            let done = done.and_then(|()| conn.write());
            let done = match done {
                Ok(()) if conn.closing && conn.out.is_empty() => Err("closed".to_string()),
                Ok(()) if now.saturating_sub(conn.heard) >= HANGS => Err("no answer".to_string()),
                done => done,
            };
            if let Err(why) = done {
                ended.push((*peer, why));
            }
        }
        for (peer, why) in ended {
            if let Some(conn) = self.conns.remove(&peer) {
                events.push(Event::Down(peer, conn.ip, why));
            }
        }
        events
    }
}

impl Conn {
    fn read(
        &mut self,
        peer: Peer,
        buffer: &mut [u8],
        events: &mut Vec<Event>,
        now: Duration,
    ) -> Result<(), String> {
        let (mut got, mut messages) = (0, Vec::new());
        let mut end = Ok(());
        while got < TURN {
            match self.stream.read(buffer) {
                Ok(None) => break,
                Ok(Some(0)) => {
                    end = Err("it has closed the connection".to_string());
                    break;
                }
                Ok(Some(n)) => {
                    (self.heard, got) = (now, got + n);
                    let some = buffer.get(..n).unwrap_or_default();
                    if let Err(fault) = self.line.heard(some, &mut messages) {
                        end = Err(fault.0.to_string());
                        break;
                    }
                }
                Err(why) => {
                    end = Err(why);
                    break;
                }
            }
        }
        if self.line.greeted() && !self.up {
            self.up = true;
            events.push(Event::Up(peer));
        }
        events.extend(messages.into_iter().map(|message| Event::Said(peer, message)));
        end
    }

    fn write(&mut self) -> Result<(), String> {
        while let Some(frame) = self.out.front() {
            let data = frame.data.as_ref().map_or(&[][..], |data| data);
            let rest = match frame.head.get(self.at..) {
                Some(head) if !head.is_empty() => head,
                _ => data.get(self.at - frame.head.len()..).unwrap_or_default(),
            };
            let whole = frame.head.len() + data.len();
            let sent = if rest.is_empty() { 0 } else { self.stream.write(rest)? };
            self.at += sent;
            self.queued = self.queued.saturating_sub(sent);
            if self.at >= whole {
                self.out.pop_front();
                self.at = 0;
            } else if sent == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// The listener of a copy: the port after the sender's where it is free, or any.
pub fn listener(own: Ipv4Addr, port: u16) -> Result<(OwnedFd, u16), Error> {
    let wanted = crate::edge::net::listener(own, port.saturating_add(1));
    let fd = wanted.or_else(|_| crate::edge::net::listener(own, 0))?;
    let address = rustix::net::getsockname(&fd).ok();
    let address = address.and_then(|a| core::net::SocketAddrV4::try_from(a).ok());
    Ok((fd, address.map_or(0, |address| address.port())))
}
