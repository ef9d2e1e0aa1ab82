//! Dolly+'s two ends at their sockets.
//!
//! What a node receives after the packet that builds the ring it passes on as it
//! comes, byte by byte and not in whole chunks; a ring of memory keeps what the
//! host behind the next one may still need.

use super::net::{Dial, Stream, Waiter, accept, listener_at};
use super::{SOON, Source, Store, Target, World};
use crate::Error;
use crate::digest::{Digest, Meter};
use crate::dollyplus::hosts::Hosts;
use crate::dollyplus::wire::{self, Command, Flag, Item, Output, Reader};
use crate::dollyplus::{CHUNK, CONTROL_PORT, DATA_PORT, NAME, WINDOW};
use crate::ring::Ring;
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

/// A node may be so far ahead of its disk and of the next node.
const LEAD: u64 = 16 << 20;
/// What connections hold on their way.
const ON_THE_WAY: u64 = 16 << 20;
/// All that a node keeps.
const RING: usize = (LEAD + WINDOW + ON_THE_WAY) as usize;
/// A host that cannot be connected is left out after so many tries, one a second.
const TRIES: u32 = 4;
/// A connected host that acknowledges nothing for so long is passed over.
const SILENT: Duration = Duration::from_secs(20);
/// An old server does not answer the question whether it verifies.
const ANSWER: Duration = Duration::from_secs(3);
/// A host whose predecessor has gone waits so long for another.
const ORPHANED: Duration = Duration::from_secs(300);

const HELLO: &str = "bellwether hello ";
const YES: &str = "bellwether yes";
const FILE: &str = "bellwether file ";
const FAILED: &str = "bellwether failed ";
const LOST: &str = "bellwether lost ";
const VERIFIED: &str = "bellwether verified";
const DIFFERS: &str = "bellwether differs";

/// Limits of either end.
#[derive(Debug, Clone)]
pub struct Options {
    /// Listen on this address; on all by default.
    pub own: Ipv4Addr,
    /// Wait so long until data flows.
    pub start_timeout: Option<Duration>,
    /// Give up when nothing moved for so long.
    pub stall_timeout: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self { own: Ipv4Addr::UNSPECIFIED, start_timeout: None, stall_timeout: None }
    }
}

/// How it stands with a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is not known yet.
    Waiting,
    /// It could not be reached when the ring was built.
    Absent,
    /// Its copy is what was read here.
    Verified,
    /// Its copy is another.
    Differs,
    /// It could not store its copy.
    Failed(String),
    /// It has gone.
    Lost,
    /// The last host said that it has everything; this one, an old program, says
    /// nothing.
    Acknowledged,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("said nothing"),
            Self::Absent => f.write_str("ABSENT: could not be reached, and was left out"),
            Self::Verified => f.write_str("verified"),
            Self::Differs => f.write_str("DIFFERS: do not use this copy"),
            Self::Failed(why) => write!(f, "FAILED: {why}"),
            Self::Lost => f.write_str("LOST: it has gone, and was passed over"),
            Self::Acknowledged => f.write_str("finished, NOT verified: an old program"),
        }
    }
}

/// Files that came.
#[derive(Debug, Clone)]
pub struct Received {
    /// Of each file as it was received, in their order.
    pub digests: Vec<Digest>,
    /// They are what the server read.
    pub verified: bool,
    /// The name by which this node is listed.
    pub name: String,
}

/// Files that went out.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Of each file as it was read.
    pub digests: Vec<Digest>,
    /// The clients, and how it stands with each.
    pub clients: Vec<(String, Standing)>,
}

/// Where the chunks lie in the stream.
#[derive(Debug, Default)]
struct Index {
    chunks: VecDeque<(u32, u64, u32)>,
    /// Behind the lists of hosts and files.
    lists: u64,
}

impl Index {
    fn add(&mut self, sequence: u32, position: u64, length: u32, oldest: u64) {
        while self.chunks.front().is_some_and(|c| c.1 < oldest) {
            self.chunks.pop_front();
        }
        self.chunks.push_back((sequence, position, length));
    }

    /// Where a chunk begins; the newest of that number.
    fn find(&self, sequence: u32) -> Option<u64> {
        let (last, position, length) = *self.chunks.back()?;
        if sequence == last.wrapping_add(1) {
            return Some(position + 12 + u64::from(length));
        }
        self.chunks.iter().rev().find(|c| c.0 == sequence).map(|c| c.1)
    }
}

/// The connection to the next host.
enum Link {
    /// Its data port, while the ring is built.
    Ring(Dial),
    /// Its command port.
    Ask(Dial),
    /// It was asked where to go on.
    Asked(Stream, Vec<u8>),
    /// It said so: its data port.
    Again(Dial, u64),
    /// It is sent the stream from here on.
    Flow(Stream, u64),
    /// There is nobody behind this node.
    Nobody,
}

struct Next {
    hosts: Hosts,
    link: Link,
    /// All was sent, and the end of it.
    ended: bool,
    /// Those that were passed over, until somebody asks.
    lost: Vec<String>,
}

impl Next {
    fn new(hosts: Hosts, world: &mut dyn World) -> Self {
        let mut next = Self { hosts, link: Link::Nobody, ended: false, lost: Vec::new() };
        next.link = Link::Ring(next.dial(DATA_PORT, world));
        next
    }

    fn dial(&mut self, port: u16, world: &mut dyn World) -> Dial {
        let name = self.hosts.next_name();
        let address = world.resolve(name).unwrap_or_else(|why| {
            world.say(&format!("{name}: {why}"));
            Ipv4Addr::UNSPECIFIED
        });
        Dial::new(SocketAddrV4::new(address, port))
    }

    /// The next one is gone; the one after it is asked.
    fn pass_over(&mut self, why: &str, ring: &Ring, index: &Index, world: &mut dyn World) {
        let name = self.hosts.next_name().to_owned();
        if self.hosts.last() {
            // The server has the lists, or has gone itself.
            self.link = Link::Nobody;
            return;
        }
        world.say(&format!("{name} is passed over: {why}"));
        self.lost.push(name);
        self.hosts.pass_over();
        self.ended = false;
        self.link = if !self.hosts.last() {
            Link::Ask(self.dial(CONTROL_PORT, world))
        } else if ring.end() <= index.lists || index.lists == 0 {
            Link::Ring(self.dial(DATA_PORT, world))
        } else {
            Link::Nobody
        };
    }

    /// The position that must not be lost.
    fn needed(&self, ring: &Ring) -> u64 {
        match &self.link {
            Link::Flow(..) if self.hosts.last() => ring.end(),
            Link::Flow(_, position) => *position,
            Link::Nobody => ring.end(),
            Link::Ring(_) => 0,
            // What the next will want is not known: nothing more is taken in.
            _ => ring.end().saturating_sub(LEAD),
        }
    }

    fn watch<'a>(&'a self, waiter: &mut Waiter<'a>, ring: &Ring, index: &Index) {
        match &self.link {
            Link::Ring(dial) | Link::Ask(dial) | Link::Again(dial, _) => {
                if let Some(fd) = dial.waits() {
                    waiter.writes(fd);
                }
            }
            Link::Asked(stream, _) => {
                waiter.reads(stream);
            }
            Link::Flow(stream, position) => {
                let end = if self.hosts.last() { index.lists } else { ring.end() };
                waiter.both(stream, *position < end);
            }
            Link::Nobody => {}
        }
    }

    fn limit(&self, now: Duration) -> Duration {
        match &self.link {
            Link::Ring(dial) | Link::Ask(dial) | Link::Again(dial, _) => {
                dial.deadline().saturating_sub(now).max(SOON)
            }
            _ => Duration::from_secs(1),
        }
    }

    /// Goes on with it; true when something moved.
    fn step(
        &mut self,
        ring: &Ring,
        index: &Index,
        (complete, ours): (bool, bool),
        buffer: &mut [u8],
        world: &mut dyn World,
    ) -> Result<bool, Error> {
        let now = world.now();
        match &mut self.link {
            Link::Nobody => Ok(false),
            Link::Ring(dial) => {
                if let Some(mut stream) = dial.poll(now) {
                    stream.patience(SILENT);
                    if stream.say(&wire::ring(&self.hosts.for_next())).is_ok() {
                        self.link = Link::Flow(stream, 0);
                        return Ok(true);
                    }
                } else if dial.tries < TRIES {
                    return Ok(false);
                }
                if self.hosts.last() {
                    return Err(Error::Gone {
                        protocol: NAME,
                        peer: "the server".to_owned(),
                        when: "while the ring was built",
                    });
                }
                let why = dial.failed.take().unwrap_or_default();
                world.say(&format!("{} is left out: {why}", self.hosts.next_name()));
                self.hosts.skip();
                self.link = Link::Ring(self.dial(DATA_PORT, world));
                Ok(false)
            }
            Link::Ask(dial) => {
                if let Some(mut stream) = dial.poll(now) {
                    stream.patience(SILENT);
                    let _ = stream.say(&Command::Reconnect { exact: true }.packet());
                    self.link = Link::Asked(stream, Vec::new());
                } else if dial.tries >= TRIES {
                    let why = dial.failed.take().unwrap_or_default();
                    self.pass_over(&why, ring, index, world);
                }
                Ok(false)
            }
            Link::Asked(stream, answer) => {
                let peer = self.hosts.next_name();
                match stream.read(buffer) {
                    Ok(None) => return Ok(false),
                    Ok(Some(n)) if n > 0 => {
                        answer.extend_from_slice(buffer.get(..n).unwrap_or_default());
                    }
                    _ => {
                        self.pass_over("it does not say where to go on", ring, index, world);
                        return Ok(false);
                    }
                }
                let position = match Command::take(answer, peer) {
                    Ok(None) => return Ok(false),
                    Ok(Some(Command::ReconnectFrom { sequence, exact })) => {
                        exact.or_else(|| index.find(sequence))
                    }
                    _ => None,
                };
                match position.filter(|p| ring.from(*p).is_some()) {
                    Some(position) => {
                        let dial = self.dial(DATA_PORT, world);
                        self.link = Link::Again(dial, position);
                    }
                    None => self.pass_over("what it needs is gone", ring, index, world),
                }
                Ok(true)
            }
            Link::Again(dial, position) => {
                if let Some(stream) = dial.poll(now) {
                    stream.patience(SILENT);
                    let position = *position;
                    world.say(&format!("goes on with {}", self.hosts.next_name()));
                    self.link = Link::Flow(stream, position);
                    return Ok(true);
                }
                if dial.tries >= TRIES {
                    let why = dial.failed.take().unwrap_or_default();
                    self.pass_over(&why, ring, index, world);
                }
                Ok(false)
            }
            Link::Flow(stream, position) => {
                let mut moved = false;
                let end = if self.hosts.last() { index.lists } else { u64::MAX };
                let mut broken = match stream.flush().and_then(|_| stream.read(buffer)) {
                    Ok(Some(0)) => Some("it has closed the connection".to_owned()),
                    Ok(_) => None,
                    Err(why) => Some(why),
                };
                while broken.is_none() && !stream.pending() && *position < end {
                    let Some(bytes) = ring.from(*position) else {
                        broken = Some("it is too far behind".to_owned());
                        break;
                    };
                    let some =
                        bytes.len().min(usize::try_from(end - *position).unwrap_or(usize::MAX));
                    let bytes = bytes.get(..some).unwrap_or_default();
                    if bytes.is_empty() {
                        break;
                    }
                    match stream.write(bytes) {
                        Ok(n) => {
                            *position += n as u64;
                            moved |= n > 0;
                            if n < bytes.len() {
                                break;
                            }
                        }
                        Err(why) => broken = Some(why),
                    }
                }
                if complete && *position == ring.end() && !self.ended && !self.hosts.last() {
                    stream.end();
                    self.ended = true;
                }
                match broken {
                    // Old programs leave when they have sent everything on.
                    Some(_) if self.ended && !ours => self.link = Link::Nobody,
                    Some(why) => self.pass_over(&why, ring, index, world),
                    None => {}
                }
                Ok(moved)
            }
        }
    }
}

/// The connection to the server's command port.
enum Line {
    Dial(Dial),
    /// It was asked whether it verifies.
    Hello(Stream, Vec<u8>, Duration),
    /// It does.
    Ours(Stream, Vec<u8>),
    /// It does not.
    Old,
}

struct Node<'a> {
    world: &'a mut dyn World,
    ring: Ring,
    /// At the end of what was received.
    reader: Reader,
    index: Index,
    /// Bytes that come again and are known.
    known: u64,
    up: Option<Stream>,
    up_ended: bool,
    expected: bool,
    orphaned: Option<Duration>,
    next: Option<Next>,
    askers: Vec<(Stream, Vec<u8>)>,
    line: Option<Line>,
    files: Vec<Output>,
    complete: bool,
    /// At the end of what was stored.
    kept: Reader,
    stored: u64,
    store: Option<Box<dyn Store>>,
    open: Option<usize>,
    /// The store takes no more of this file.
    closing: bool,
    digests: Vec<Digest>,
    failed: Option<String>,
    stop: Option<Dial>,
    stopped: bool,
    verdict: Option<bool>,
    moved: Duration,
}

/// Waits for a server, and receives and relays its files.
///
/// # Errors
/// When there is no whole copy at this node.
pub fn receive(options: &Options, world: &mut dyn World) -> Result<Received, Error> {
    let data = listener_at(options.own, DATA_PORT)?;
    let control = listener_at(options.own, CONTROL_PORT)?;
    let now = world.now();
    let mut node = Node {
        world,
        ring: Ring::new(RING),
        reader: Reader::default(),
        index: Index::default(),
        known: 0,
        up: None,
        up_ended: false,
        expected: true,
        orphaned: None,
        next: None,
        askers: Vec::new(),
        line: None,
        files: Vec::new(),
        complete: false,
        kept: Reader::default(),
        stored: 0,
        store: None,
        open: None,
        closing: false,
        digests: Vec::new(),
        failed: None,
        stop: None,
        stopped: false,
        verdict: None,
        moved: now,
    };
    let mut buffer = alloc::vec![0; 64 << 10];
    loop {
        let now = node.world.now();
        let mut limit = Duration::from_secs(1);
        if node.stored < node.ring.end() || node.closing {
            limit = SOON;
        }
        if let Some(next) = &node.next {
            limit = limit.min(next.limit(now));
        }
        let building = node.next.as_ref().is_some_and(|n| matches!(n.link, Link::Ring(_)));
        let full = building || node.room().is_empty();
        let mut waiter = Waiter::default();
        waiter.reads(&data);
        waiter.reads(&control);
        for (stream, _) in &node.askers {
            waiter.reads(stream);
        }
        match &node.line {
            Some(Line::Hello(stream, ..) | Line::Ours(stream, _)) => {
                waiter.both(stream, stream.pending());
            }
            Some(Line::Dial(dial)) => {
                limit = limit.min(Duration::from_millis(20));
                if let Some(fd) = dial.waits() {
                    waiter.writes(fd);
                }
            }
            _ => {}
        }
        if node.stop.is_some() {
            limit = limit.min(SOON);
        }
        if let Some(up) = node.up.as_ref().filter(|_| !node.up_ended && !full) {
            waiter.reads(up);
        }
        if let Some(next) = &node.next {
            next.watch(&mut waiter, &node.ring, &node.index);
        }
        let _ = waiter.wait(limit);
        if let Some((stream, ip)) = accept(&data)
            && node.up.is_none()
            && node.expected
        {
            stream.patience(SILENT);
            node.expected = false;
            node.orphaned = None;
            node.world.say(&format!("data comes from {ip}"));
            node.up = Some(stream);
            node.up_ended = false;
        }
        if let Some((stream, _)) = accept(&control)
            && node.askers.len() < 16
        {
            node.askers.push((stream, Vec::new()));
        }
        if let Some(received) = node.round(options, &mut buffer)? {
            return Ok(received);
        }
    }
}

impl Node<'_> {
    /// What those behind may still want, from which byte on.
    fn needed(&self) -> u64 {
        let next = self.next.as_ref().map_or(self.ring.end(), |n| n.needed(&self.ring));
        next.min(self.stored)
    }

    /// Where the next bytes go.
    fn room(&mut self) -> &mut [u8] {
        let needed = self.needed();
        let ahead = self.ring.end().saturating_sub(needed);
        let some = usize::try_from(LEAD.saturating_sub(ahead)).unwrap_or(0);
        let oldest = needed.saturating_sub(WINDOW + ON_THE_WAY).max(self.ring.oldest());
        let room = self.ring.room(oldest);
        let some = some.min(room.len());
        room.get_mut(..some).unwrap_or_default()
    }

    fn round(&mut self, options: &Options, buffer: &mut [u8]) -> Result<Option<Received>, Error> {
        let before = (self.ring.end(), self.stored);
        self.askers(buffer)?;
        self.upstream(buffer)?;
        let ours = matches!(self.line, Some(Line::Ours(..)));
        if let Some(next) = &mut self.next
            && next.step(&self.ring, &self.index, (self.complete, ours), buffer, self.world)?
        {
            self.moved = self.world.now();
        }
        self.line(buffer)?;
        self.disk();
        let now = self.world.now();
        if before != (self.ring.end(), self.stored) {
            self.moved = now;
        }
        if self.ring.end() > self.index.lists && self.index.lists > 0 {
            self.world.progress(self.ring.end(), None);
        }
        let limit = if self.ring.end() > 0 { options.stall_timeout } else { options.start_timeout };
        if let Some(waited) = limit.filter(|l| now.saturating_sub(self.moved) >= *l) {
            let waiting_for = if self.up.is_some() { "data" } else { "server" };
            return Err(Error::Stalled { protocol: NAME, waiting_for, waited });
        }
        if self.orphaned.is_some_and(|since| now.saturating_sub(since) >= ORPHANED) {
            return Err(Error::Gone {
                protocol: NAME,
                peer: "the node before this one".to_owned(),
                when: "and no other has come in its place",
            });
        }
        self.end(now)
    }

    /// Whether this node has done all it can.
    fn end(&mut self, now: Duration) -> Result<Option<Received>, Error> {
        let all =
            self.complete && (self.digests.len() == self.files.len() || self.failed.is_some());
        if !all {
            return Ok(None);
        }
        let Some(next) = &self.next else { return Ok(None) };
        let name = next.hosts.own_name().to_owned();
        let ours = matches!(self.line, Some(Line::Ours(..)));
        if next.hosts.last() && !self.stopped && (ours || self.failed.is_none()) {
            if self.stop.is_none() {
                let address = self.world.resolve(next.hosts.server_name());
                let address = address.unwrap_or(Ipv4Addr::UNSPECIFIED);
                self.stop = Some(Dial::new(SocketAddrV4::new(address, CONTROL_PORT)));
            }
            if let Some(dial) = &mut self.stop {
                if let Some(mut stream) = dial.poll(now) {
                    let text = format!("END:(<{name}): The last node finish recieving.");
                    let _ = stream.say(&Command::Stop(text).packet());
                    stream.end();
                    self.stopped = true;
                    self.stop = None;
                } else if dial.tries >= TRIES {
                    self.stopped = true;
                    self.stop = None;
                }
            }
        }
        let done = match (&self.line, self.verdict) {
            (_, Some(_)) => true,
            (Some(Line::Ours(..) | Line::Hello(..) | Line::Dial(_)), None) => false,
            _ => {
                let passed_on = match &next.link {
                    Link::Nobody => true,
                    Link::Flow(..) => next.hosts.last(),
                    _ => false,
                };
                passed_on && (self.stopped || !next.hosts.last())
            }
        };
        if !done {
            return Ok(None);
        }
        if let Some(why) = self.failed.take() {
            return Err(Error::Store { why });
        }
        if self.verdict == Some(false) {
            return Err(Error::Mismatch { bytes: self.digests.iter().map(|d| d.bytes).sum() });
        }
        let digests = core::mem::take(&mut self.digests);
        Ok(Some(Received { digests, verified: self.verdict == Some(true), name }))
    }

    /// Those who ask where to go on.
    fn askers(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let mut askers = core::mem::take(&mut self.askers);
        askers.retain_mut(|(stream, heard)| {
            match stream.read(buffer) {
                Ok(None) => return true,
                Ok(Some(n)) if n > 0 => {
                    heard.extend_from_slice(buffer.get(..n).unwrap_or_default());
                }
                _ => return false,
            }
            loop {
                match Command::take(heard, "an asker") {
                    Ok(Some(Command::Reconnect { exact })) => match self.go_on(exact) {
                        Some(answer) => {
                            let _ = stream.say(&answer.packet());
                        }
                        None => return false,
                    },
                    Ok(Some(Command::Ping)) => {
                        let _ = stream.say(&Command::Pong(format!("{}", self.ring.end())).packet());
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => return true,
                    Err(_) => return false,
                }
            }
        });
        askers.append(&mut self.askers);
        self.askers = askers;
        Ok(())
    }

    /// Where a new predecessor goes on. Nothing before there is a ring.
    fn go_on(&mut self, exact: bool) -> Option<Command> {
        self.next.as_ref()?;
        self.up = None;
        self.expected = true;
        self.world.say("another node takes the place of the one before this");
        let end = self.ring.end();
        let (last, start, length) = self.index.chunks.back().copied().unwrap_or((0, end, 0));
        let whole = start + 12 + u64::from(length);
        self.known = 0;
        let sequence = if end < whole && self.index.chunks.back().is_some() {
            self.known = if exact { 0 } else { end - start };
            last
        } else {
            // The head of a chunk that was not read whole comes again too.
            self.known = if exact { 0 } else { end.saturating_sub(whole) };
            last.wrapping_add(u32::from(self.index.chunks.back().is_some()))
        };
        Some(Command::ReconnectFrom { sequence, exact: exact.then_some(end) })
    }

    fn upstream(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        // A few reads a round: the loop around this costs more than one.
        for _ in 0..4 {
            // The next host is told who was known when this one was.
            let building = self.next.as_ref().is_some_and(|n| matches!(n.link, Link::Ring(_)));
            if self.up_ended || building {
                return Ok(());
            }
            let aside = if self.next.is_none() {
                self.reader.wants()
            } else {
                usize::try_from(self.known).unwrap_or(usize::MAX)
            };
            let Some(up) = self.up.take() else { return Ok(()) };
            let some = aside.min(buffer.len());
            let place =
                if aside > 0 { buffer.get_mut(..some).unwrap_or_default() } else { self.room() };
            let full = place.is_empty();
            let read = if full { Ok(None) } else { up.read(place) };
            self.up = Some(up);
            match read {
                Ok(None) => return Ok(()),
                Ok(Some(n)) if n > 0 => {
                    if self.next.is_none() {
                        let bytes = buffer.get(..n).unwrap_or_default().to_vec();
                        self.invited(&bytes)?;
                    } else if aside > 0 {
                        self.known -= n as u64;
                    } else {
                        self.came(n)?;
                    }
                }
                _ => {
                    self.up_ended = true;
                    if self.next.is_none() {
                        // Somebody looked in and left.
                        self.up = None;
                        self.expected = true;
                        self.reader = Reader::default();
                    } else if !self.complete {
                        self.world.say("the node before this one has gone; waiting for another");
                        self.up = None;
                        self.orphaned = Some(self.world.now());
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The packet that builds the ring.
    fn invited(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (n, item) = self.reader.read(rest)?;
            rest = rest.get(n..).unwrap_or_default();
            match item {
                Some(Item::Ring(list)) => {
                    let hosts = Hosts::of_client(list).ok_or_else(|| Error::Peer {
                        protocol: NAME,
                        peer: "the node before this one".to_owned(),
                        why: "marks no client as this one",
                    })?;
                    let (place, all) = hosts.place();
                    self.world.say(&format!("this is {}, {place} of {all}", hosts.own_name()));
                    self.next = Some(Next::new(hosts, self.world));
                    self.moved = self.world.now();
                }
                Some(_) => {
                    return Err(Error::Peer {
                        protocol: NAME,
                        peer: "the node before this one".to_owned(),
                        why: "begins without building a ring",
                    });
                }
                None => {}
            }
        }
        Ok(())
    }

    /// So many bytes were put into the ring: what they say.
    fn came(&mut self, n: usize) -> Result<(), Error> {
        let mut position = self.ring.end();
        self.ring.filled(n);
        let end = self.ring.end();
        while position <= end {
            let Some(bytes) = self.ring.from(position) else { break };
            let (n, item) = self.reader.read(bytes)?;
            position += n as u64;
            match item {
                Some(Item::Hosts(list)) => {
                    if let Some(next) = &mut self.next {
                        next.hosts.settle(&list);
                        let server = next.hosts.server_name();
                        match self.world.resolve(server) {
                            Ok(ip) if self.line.is_none() => {
                                let to = SocketAddrV4::new(ip, CONTROL_PORT);
                                self.line = Some(Line::Dial(Dial::new(to)));
                            }
                            _ => {}
                        }
                    }
                }
                Some(Item::Files(files)) => {
                    self.index.lists = position;
                    self.files = files;
                }
                Some(Item::Chunk { sequence, length, .. }) => {
                    self.index.add(sequence, position - 12, length, self.ring.oldest());
                }
                Some(Item::File(number)) => {
                    if number >= self.files.len() {
                        return Err(Error::Peer {
                            protocol: NAME,
                            peer: "the server".to_owned(),
                            why: "sends a file that it did not list",
                        });
                    }
                    self.open = Some(number);
                }
                Some(Item::FileEnd) => {
                    self.complete = self.open.is_some_and(|n| n + 1 == self.files.len());
                }
                Some(Item::Ring(_)) | Some(Item::Payload(_)) => {}
                None => break,
            }
        }
        Ok(())
    }

    fn tell(&mut self, text: &str) {
        if let Some(Line::Ours(stream, _)) = &mut self.line {
            let _ = stream.say(&Command::Report(text.to_owned()).packet());
        }
    }

    /// The connection to the server.
    fn line(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let now = self.world.now();
        let own = self.next.as_ref().map_or(String::new(), |n| n.hosts.own_name().to_owned());
        self.line = match self.line.take() {
            Some(Line::Dial(mut dial)) => match dial.poll(now) {
                Some(mut stream) => {
                    let _ = stream.say(&Command::Report(format!("{HELLO}{own}")).packet());
                    Some(Line::Hello(stream, Vec::new(), now + ANSWER))
                }
                None if dial.tries >= TRIES => Some(Line::Old),
                None => Some(Line::Dial(dial)),
            },
            Some(Line::Hello(stream, mut heard, until)) => {
                match hear(&stream, &mut heard, buffer) {
                    Some(Some(Command::Report(text))) if text == YES => {
                        self.line = Some(Line::Ours(stream, heard));
                        // What was stored before the server answered.
                        for (i, digest) in self.digests.clone().iter().enumerate() {
                            self.tell(&format!("{FILE}{i} {digest}"));
                        }
                        if let Some(why) = self.failed.clone() {
                            self.tell(&format!("{FAILED}{}", short(&why)));
                        }
                        self.line.take()
                    }
                    Some(None) if now < until => Some(Line::Hello(stream, heard, until)),
                    _ => Some(Line::Old),
                }
            }
            Some(Line::Ours(mut stream, mut heard)) => {
                let _ = stream.flush();
                match hear(&stream, &mut heard, buffer) {
                    Some(Some(Command::Report(text))) => {
                        match text.as_str() {
                            VERIFIED => self.verdict = Some(true),
                            DIFFERS => self.verdict = Some(false),
                            _ => {}
                        }
                        Some(Line::Ours(stream, heard))
                    }
                    Some(_) => Some(Line::Ours(stream, heard)),
                    None if self.verdict.is_none() => {
                        return Err(Error::Gone {
                            protocol: NAME,
                            peer: "the server".to_owned(),
                            when: "before the copies were compared",
                        });
                    }
                    None => Some(Line::Old),
                }
            }
            other => other,
        };
        let lost = self.next.as_mut().map(|n| core::mem::take(&mut n.lost)).unwrap_or_default();
        for name in lost {
            self.tell(&format!("{LOST}{name}"));
        }
        Ok(())
    }

    /// Stores what was passed on.
    fn disk(&mut self) {
        while self.stored < self.ring.end() || self.closing {
            if self.closing {
                let Some(store) = &mut self.store else {
                    self.closing = false;
                    continue;
                };
                let Some(how) = store.done() else { return };
                self.closing = false;
                self.store = None;
                match how {
                    Ok(digest) => {
                        let number = self.digests.len();
                        self.digests.push(digest);
                        self.tell(&format!("{FILE}{number} {digest}"));
                    }
                    Err(why) => self.fails(&why),
                }
                continue;
            }
            let Some(bytes) = self.ring.from(self.stored) else { return };
            let payload = self.kept.payload().min(bytes.len());
            let mut some = bytes.get(..self.kept.wants().min(bytes.len())).unwrap_or_default();
            if payload > 0 {
                some = bytes.get(..payload).unwrap_or_default();
                if let Some(store) = &mut self.store {
                    match store.put(some) {
                        Ok(0) => return,
                        Ok(n) => some = some.get(..n).unwrap_or_default(),
                        Err(why) => {
                            self.fails(&why);
                            continue;
                        }
                    }
                }
            }
            // Read once already: it cannot be wrong.
            let Ok((n, item)) = self.kept.read(some) else { return };
            self.stored += n as u64;
            self.item(item);
        }
        // The end of a file needs no byte to be seen.
        if let Ok((0, item)) = self.kept.read(&[]) {
            self.item(item);
        }
    }

    fn item(&mut self, item: Option<Item>) {
        match item {
            Some(Item::File(number)) if self.failed.is_none() => {
                let Some(file) = self.files.get(number) else { return };
                let target =
                    Target { path: &file.path, existing: false, cook: file.cook, split: None };
                match self.world.open(&target) {
                    Ok(store) => self.store = Some(store),
                    Err(why) => self.fails(&why),
                }
            }
            Some(Item::FileEnd) => {
                if let Some(store) = &mut self.store {
                    store.end();
                    self.closing = true;
                }
            }
            _ => {}
        }
    }

    /// The copy here is lost; the others' is not.
    fn fails(&mut self, why: &str) {
        self.world.say(&format!("cannot store, but goes on relaying: {why}"));
        self.store = None;
        self.closing = false;
        if self.failed.is_none() {
            self.failed = Some(why.to_owned());
            self.tell(&format!("{FAILED}{}", short(why)));
        }
    }
}

/// As much of a text as old programs' commands hold.
fn short(text: &str) -> &str {
    let mut end = text.len().min(100);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// The next command of a connection; nothing inside when none has come yet, nothing
/// at all when the connection has ended.
fn hear(stream: &Stream, heard: &mut Vec<u8>, buffer: &mut [u8]) -> Option<Option<Command>> {
    let mut ended = false;
    match stream.read(buffer) {
        Ok(None) => {}
        Ok(Some(n)) if n > 0 => heard.extend_from_slice(buffer.get(..n).unwrap_or_default()),
        _ => ended = true,
    }
    match Command::take(heard, "the peer") {
        Ok(None) if ended => None,
        Ok(command) => Some(command),
        Err(_) => None,
    }
}

/// A client's line at the server.
struct Report {
    stream: Stream,
    heard: Vec<u8>,
    client: Option<usize>,
    files: usize,
    equal: bool,
}

/// Opens the file of this number.
pub type Open<'a> = &'a mut dyn FnMut(usize) -> Result<Box<dyn Source>, String>;

struct Serving<'a> {
    world: &'a mut dyn World,
    next: Next,
    ring: Ring,
    index: Index,
    files: Vec<Output>,
    clients: Vec<(String, Standing)>,
    reports: Vec<Report>,
    digests: Vec<Digest>,
    /// The lists have come round.
    begun: bool,
    /// All files are in the ring.
    complete: bool,
    stopped: bool,
    moved: Duration,
}

/// Builds the ring and sends the files through it.
///
/// # Errors
/// When nobody can be reached, nothing moves, or a file cannot be read. That not
/// all clients have a copy is none: see [`Sent::clients`].
pub fn send(
    server: &str,
    clients: &[String],
    files: &[Output],
    options: &Options,
    open: Open<'_>,
    world: &mut dyn World,
) -> Result<Sent, Error> {
    let data = listener_at(options.own, DATA_PORT)?;
    let control = listener_at(options.own, CONTROL_PORT)?;
    let now = world.now();
    let hosts = Hosts::of_server(server, clients);
    let mut serving = Serving {
        next: Next::new(hosts, world),
        world,
        ring: Ring::new(RING),
        index: Index::default(),
        files: files.to_vec(),
        clients: clients.iter().map(|c| (c.clone(), Standing::Waiting)).collect(),
        reports: Vec::new(),
        digests: Vec::new(),
        begun: false,
        complete: false,
        stopped: false,
        moved: now,
    };
    let mut buffer = alloc::vec![0; 64 << 10];
    let mut round: Option<(Stream, Reader)> = None;
    let mut source: Option<Box<dyn Source>> = None;
    let mut meter = Meter::default();
    let mut filling: Vec<u8> = Vec::new();
    let mut sequence = 0u32;
    let mut pending: Vec<u8> = Vec::new();
    let mut pended = 0usize;
    loop {
        let now = serving.world.now();
        let mut limit = serving.next.limit(now);
        // What was read goes into the ring as there is room.
        let needed = serving.next.needed(&serving.ring);
        let ahead = serving.ring.end().saturating_sub(needed);
        if pended < pending.len() && ahead < LEAD {
            let oldest = needed.saturating_sub(WINDOW + ON_THE_WAY).max(serving.ring.oldest());
            let room = serving.ring.room(oldest);
            let rest = pending.get(pended..).unwrap_or_default();
            let some = rest.len().min(room.len());
            let target = room.get_mut(..some).unwrap_or_default();
            target.copy_from_slice(rest.get(..some).unwrap_or_default());
            serving.ring.filled(some);
            pended += some;
            limit = Duration::ZERO;
        }
        let more = serving.digests.len() < serving.files.len();
        if pended == pending.len() && serving.begun && more {
            pending.clear();
            pended = 0;
            if source.is_none() {
                let number = serving.digests.len();
                source = Some(open(number).map_err(|why| Error::Source { why })?);
                (meter, sequence) = (Meter::default(), 0);
                pending = wire::file_number(u16::try_from(number).unwrap_or(0));
                filling.clear();
                limit = Duration::ZERO;
            }
            if let Some(reading) = source.as_mut().filter(|_| pending.is_empty()) {
                let had = filling.len();
                filling.resize(CHUNK as usize, 0);
                let read = reading.read(filling.get_mut(had..).unwrap_or_default());
                match read.map_err(|why| Error::Source { why })? {
                    None => {
                        filling.truncate(had);
                        limit = limit.min(SOON);
                    }
                    Some(n) => {
                        filling.truncate(had + n);
                        meter.update(filling.get(had..).unwrap_or_default());
                        limit = Duration::ZERO;
                        let last = n == 0;
                        if last || filling.len() == CHUNK as usize {
                            let length = u32::try_from(filling.len()).unwrap_or(0);
                            pending = wire::chunk(last, length, sequence);
                            let end = serving.ring.end();
                            let oldest = serving.ring.oldest();
                            serving.index.add(sequence, end, length, oldest);
                            pending.append(&mut filling);
                            sequence = sequence.wrapping_add(1);
                        }
                        if last {
                            serving.digests.push(meter.digest());
                            source = None;
                        }
                    }
                }
            }
        }
        let all_read = serving.digests.len() == serving.files.len() && serving.begun;
        serving.complete = all_read && pended == pending.len();
        let mut waiter = Waiter::default();
        waiter.reads(&data);
        waiter.reads(&control);
        for report in &serving.reports {
            waiter.both(&report.stream, report.stream.pending());
        }
        if let Some((stream, _)) = &round {
            waiter.reads(stream);
        }
        serving.next.watch(&mut waiter, &serving.ring, &serving.index);
        let _ = waiter.wait(limit);
        if let Some((stream, _)) = accept(&data)
            && !serving.begun
        {
            round = Some((stream, Reader::default()));
        }
        if let Some((stream, _)) = accept(&control)
            && serving.reports.len() < wire::MAX_ENTRIES + 16
        {
            let heard = Vec::new();
            serving.reports.push(Report { stream, heard, client: None, files: 0, equal: true });
        }
        if let Some((stream, reader)) = &mut round
            && !serving.come_round(stream, reader, &mut buffer)?
        {
            round = None;
        }
        let ours = serving.reports.iter().any(|r| r.client.is_some());
        if serving.next.step(
            &serving.ring,
            &serving.index,
            (serving.complete, ours),
            &mut buffer,
            serving.world,
        )? {
            serving.moved = serving.world.now();
        }
        for name in core::mem::take(&mut serving.next.lost) {
            serving.lost(&name);
        }
        serving.reports(&mut buffer);
        if serving.begun {
            let sent = serving.next.needed(&serving.ring);
            serving.world.progress(sent, None);
        }
        if serving.complete && serving.clients.iter().all(|c| c.1 != Standing::Waiting) {
            serving.farewell();
            return Ok(Sent { digests: serving.digests, clients: serving.clients });
        }
        if serving.next.hosts.last() {
            // Nobody could be reached, or nobody is left.
            let left = serving.clients.iter().any(|c| c.1 == Standing::Waiting);
            if !left || serving.ring.end() == 0 {
                return Err(Error::Gone {
                    protocol: NAME,
                    peer: "every client".to_owned(),
                    when: "or could not be reached",
                });
            }
        }
        let limit = if serving.begun { options.stall_timeout } else { options.start_timeout };
        let waited = serving.world.now().saturating_sub(serving.moved);
        if let Some(limit) = limit.filter(|l| waited >= *l) {
            for (name, standing) in &serving.clients {
                serving.world.say(&format!("  {name:<20} {standing}"));
            }
            let waiting_for = if serving.begun { "progress" } else { "ring" };
            return Err(Error::Stalled { protocol: NAME, waiting_for, waited: limit });
        }
    }
}

impl Serving<'_> {
    /// What the last host brings back; false when that connection is of no more use.
    fn come_round(
        &mut self,
        stream: &Stream,
        reader: &mut Reader,
        buffer: &mut [u8],
    ) -> Result<bool, Error> {
        let n = match stream.read(buffer) {
            Ok(None) => return Ok(true),
            Ok(Some(n)) if n > 0 => n,
            // It leaves with the lists not come round: another takes its place.
            _ => return Ok(false),
        };
        let mut rest = buffer.get(..n).unwrap_or_default();
        loop {
            let Ok((n, item)) = reader.read(rest) else { return Ok(false) };
            rest = rest.get(n..).unwrap_or_default();
            self.moved = self.world.now();
            match item {
                Some(Item::Ring(list)) if self.ring.end() == 0 => {
                    self.next.hosts.settle(&list);
                    let mut hosts = self.next.hosts.all().to_vec();
                    let mut present = 0;
                    for (host, (_, standing)) in hosts.iter().skip(1).zip(&mut self.clients) {
                        if host.flag == Flag::Absent {
                            *standing = Standing::Absent;
                        } else {
                            present += 1;
                        }
                    }
                    self.world.say(&format!("the ring is closed: {present} hosts"));
                    for host in &mut hosts {
                        if host.flag == Flag::You {
                            host.flag = Flag::Available;
                        }
                    }
                    let lists = [wire::hosts(&hosts), wire::files(&self.files)].concat();
                    let room = self.ring.room(0);
                    if let Some(place) = room.get_mut(..lists.len()) {
                        place.copy_from_slice(&lists);
                        self.ring.filled(lists.len());
                        self.index.lists = lists.len() as u64;
                    }
                }
                Some(Item::Files(_)) if !self.begun => {
                    self.begun = true;
                    self.world.say("all hosts know the files");
                }
                Some(_) => {}
                None => return Ok(true),
            }
        }
    }

    fn set(&mut self, client: usize, standing: Standing) {
        if let Some((_, old)) = self.clients.get_mut(client).filter(|c| c.1 == Standing::Waiting) {
            *old = standing;
        }
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.clients.iter().position(|c| c.0 == name)
    }

    /// A host was passed over. One with a line tells us itself when it ends.
    fn lost(&mut self, name: &str) {
        if let Some(client) = self.number(name)
            && !self.reports.iter().any(|r| r.client == Some(client))
            && !self.stopped
        {
            self.set(client, Standing::Lost);
        }
    }

    fn reports(&mut self, buffer: &mut [u8]) {
        let mut reports = core::mem::take(&mut self.reports);
        reports.retain_mut(|report| {
            let _ = report.stream.flush();
            loop {
                match hear(&report.stream, &mut report.heard, buffer) {
                    Some(Some(command)) => {
                        self.moved = self.world.now();
                        self.heard(report, command);
                    }
                    Some(None) => return true,
                    None => {
                        if let Some(client) = report.client {
                            self.set(client, Standing::Lost);
                        }
                        return false;
                    }
                }
            }
        });
        reports.append(&mut self.reports);
        self.reports = reports;
        if self.stopped {
            for client in 0..self.clients.len() {
                if !self.reports.iter().any(|r| r.client == Some(client)) {
                    self.set(client, Standing::Acknowledged);
                }
            }
        }
    }

    fn heard(&mut self, report: &mut Report, command: Command) {
        let text = match command {
            Command::Report(text) => text,
            Command::Stop(text) => {
                self.world.say(&text);
                self.stopped = self.complete;
                return;
            }
            Command::Ping => {
                let _ = report.stream.say(&Command::Pong(String::new()).packet());
                return;
            }
            _ => return,
        };
        if let Some(name) = text.strip_prefix(HELLO) {
            report.client = self.number(name);
            if report.client.is_some() {
                let _ = report.stream.say(&Command::Report(YES.to_owned()).packet());
            }
        } else if let (Some(rest), Some(client)) = (text.strip_prefix(FILE), report.client) {
            // Files come in their order; the last one decides.
            let (number, hex) = rest.split_once(' ').unwrap_or((rest, ""));
            let number: Option<usize> = number.parse().ok();
            let own = number.filter(|n| *n == report.files).and_then(|n| self.digests.get(n));
            report.equal &= own.is_some_and(|d| d.to_string() == hex);
            report.files += 1;
            if report.files == self.files.len() {
                // The verdict is told at the end: it is the sign to leave, and who
                // leaves early is missed by those that need what it relays.
                let standing = if report.equal { Standing::Verified } else { Standing::Differs };
                self.set(client, standing);
            }
        } else if let (Some(why), Some(client)) = (text.strip_prefix(FAILED), report.client) {
            self.set(client, Standing::Failed(why.to_owned()));
        } else if let Some(name) = text.strip_prefix(LOST) {
            self.lost(name);
        } else {
            self.world.say(&text);
        }
    }

    /// Tells everybody that all have what they need, and waits until they heard.
    fn farewell(&mut self) {
        for report in &mut self.reports {
            let Some(client) = report.client else { continue };
            let good = matches!(self.clients.get(client), Some((_, Standing::Verified)));
            let word = if good { VERIFIED } else { DIFFERS };
            let _ = report.stream.say(&Command::Report(word.to_owned()).packet());
        }
        let until = self.world.now() + Duration::from_secs(2);
        let mut buffer = [0; 256];
        while self.world.now() < until {
            self.reports.retain_mut(|r| {
                let _ = r.stream.flush();
                r.client.is_some() && !matches!(r.stream.read(&mut buffer), Ok(Some(0)) | Err(_))
            });
            if self.reports.is_empty() {
                break;
            }
            let _ = Waiter::default().wait(SOON);
        }
    }
}
