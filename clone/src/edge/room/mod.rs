//! The loops of a room that is cloned chunk by chunk: see [`room`](crate::room).

pub(super) mod disks;
mod group;
mod net;
mod worker;

use super::net::{Datagrams, Dial, listener};
use super::place::Place;
use super::protocol::{Strangers, sent};
use super::{Here, Level, Order, Protocol, World};
use crate::Error;
use crate::digest::Digest;
use crate::outcome::{Received, Sent};
use crate::room::cast::Bulk;
use crate::room::golden::{Golden, MOST as MACHINES};
use crate::room::keep;
use crate::room::manifest::Manifest;
use crate::room::node::Node;
use crate::room::wire::{ASK, HERE, Message, PORT, Verdict};
use crate::room::{Act, Ask, Peer, Told};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Debug;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;
use disks::Disks;
use group::{Loud, hear};
use net::{Event, Net};
use rustix::fd::OwnedFd;
use rustix::fs::{Advice, Mode, OFlags, fadvise, open};
use rustix::io::{Errno, pread};
use worker::Worker;

const NAME: &str = "the room";
/// The longest sleep.
const NAP: Duration = Duration::from_millis(200);
/// A sender that knows no more of a machine waits so long for it.
const LINGER: Duration = Duration::from_secs(30);
/// A sender that refuses is tried again after this time.
const AGAIN: Duration = Duration::from_millis(250);
/// Descriptors of a sender that are no connections.
const RESERVE: u64 = 64;
/// Questions and answers that are read before the connections have their turn.
const ASKS: usize = 64;
/// A sender sends its manifest within this time, or another one is looked for.
const SILENT: Duration = Duration::from_secs(30);
/// So long an address that was no sender is not tried again, where there may be others.
const SHUNNED: Duration = Duration::from_secs(5);
/// Parts of the multicast that go out before the connections have their turn.
const TURN: usize = 32;
/// A copy that is whole waits so long for machines that want chunks of it, and for a sender that
/// is away.
const ALONE: Duration = Duration::from_secs(10);

/// A room.
#[derive(Debug)]
pub struct Room {
    /// The sender's port.
    pub port: u16,
    /// What a sender sends.
    pub offer: Option<Offer>,
    /// How a sender sends the bulk.
    pub bulk: Bulk,
}

/// What a sender has.
#[derive(Debug)]
pub struct Offer {
    /// The disks and their chunks; digests that it does not know are learned on the way.
    pub manifest: Arc<Manifest>,
    /// The disks, in the manifest's order.
    pub disks: Vec<Box<dyn Readable>>,
    /// It begins when so many machines are there.
    pub wanted: usize,
    /// It begins, whatever that number is, so long after the first machine has come.
    pub at_most: Option<Duration>,
    /// It waits so long for a machine that was lost.
    pub linger: Option<Duration>,
    /// The descriptors that this process may have.
    pub descriptors: u64,
}

/// What is sent.
pub trait Readable: Debug {
    /// Fills the buffer from this byte on; the number of bytes that are there.
    ///
    /// # Errors
    /// [`Error::Source`].
    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<usize, Error>;

    /// What this byte belongs to, for the user.
    fn name(&self, at: u64) -> String;
}

/// A disk or a file that is read.
#[derive(Debug)]
pub struct Reader {
    fd: OwnedFd,
    path: String,
}

impl Reader {
    /// Opens it.
    ///
    /// # Errors
    /// [`Error::Source`].
    pub fn open(path: &str) -> Result<Self, Error> {
        let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let fd = fd.map_err(|e| Error::Source { why: format!("{path}: {e}") })?;
        let _ = fadvise(&fd, 0, None, Advice::Sequential);
        Ok(Self { fd, path: path.to_string() })
    }
}

impl Readable for Reader {
    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match pread(&self.fd, rest, at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => {
                    let why = format!("{}: at byte {at}: {e}", self.path);
                    return Err(Error::Source { why });
                }
            }
        }
        Ok(done)
    }

    fn name(&self, _at: u64) -> String {
        self.path.clone()
    }
}

impl Offer {
    /// Reads a chunk; the manifest learns its digest.
    fn chunk(&self, n: u32) -> Result<Vec<u8>, Error> {
        let layout = &self.manifest.layout;
        let found = layout
            .chunk(n)
            .and_then(|chunk| Some((chunk, self.disks.get(usize::from(chunk.disk))?)));
        let wrong = |why: &str| Error::Source { why: why.to_string() };
        let (chunk, disk) = found.ok_or_else(|| wrong("a disk is missing"))?;
        let bytes = keep::read(layout, n, &mut |at, buffer| disk.read(at, buffer))?;
        let name = || disk.name(chunk.start);
        let bytes = bytes.ok_or_else(|| wrong(&format!("{}: has become shorter", name())))?;
        // A disk that is in use changes: what is not what was promised is not sent.
        match self.manifest.learn(n, *blake3::hash(&bytes).as_bytes()) {
            true => Ok(bytes),
            false => Err(wrong(&format!(
                "{}: has changed since it was read first: is it in use?",
                name()
            ))),
        }
    }
}

impl Protocol for Room {
    fn new(argument: &str) -> Result<Self, Error> {
        let port = if argument.is_empty() { Ok(PORT) } else { argument.parse() };
        let wrong = Error::Unfit { what: "the room's port", why: "is not a number up to 65534" };
        let port = port.ok().filter(|port| (1..u16::MAX).contains(port)).ok_or(wrong)?;
        Ok(Self { port, offer: None, bulk: Bulk::Chain })
    }

    fn receive(&self, here: &Here, world: &mut dyn World) -> Result<Received, Error> {
        Receiver::new(self, here, world)?.run(world)
    }

    fn send(&self, order: &Order<'_>, world: &mut dyn World) -> Result<Sent, Error> {
        let none = Error::Unfit { what: "this machine", why: "has nothing to send" };
        let offer = self.offer.as_ref().ok_or(none)?;
        // By these a machine sees whether its disk may have chunks already.
        for disk in (0..).take(offer.disks.len()) {
            offer.manifest.samples(disk).try_for_each(|n| offer.chunk(n).map(drop))?;
        }
        let golden = Golden::new(offer.manifest.clone(), offer.wanted);
        let (mut golden, loud) = Loud::new(golden, self.bulk, self.port, world);
        let mut net =
            Net::new(listener(order.here.listen, self.port)?, order.here.pins.key.clone());
        let done = self.hand_out(offer, &mut golden, (&mut net, loud), order, world);
        if let Err(why) = &done {
            // They would wait for it to come back.
            self.farewell(&mut golden, &mut net, &why.to_string(), world);
        }
        sent(done, golden.clients(), world)
    }
}

fn digest(manifest: &Manifest) -> Digest {
    Digest { bytes: manifest.layout.used(), blake3: *manifest.root() }
}

impl Room {
    fn hand_out(
        &self,
        offer: &Offer,
        golden: &mut Golden,
        (net, mut loud): (&mut Net, Option<Loud>),
        order: &Order<'_>,
        world: &mut dyn World,
    ) -> Result<Vec<Digest>, Error> {
        let here = order.here;
        net.frames = net.frames.chunks(offer.manifest.layout.count());
        let descriptors = usize::try_from(offer.descriptors.saturating_sub(RESERVE));
        net.most = descriptors.map_or(MACHINES, |most| most.clamp(8, MACHINES));
        let asks = world.datagrams(self.port)?;
        let (mut moved, mut last) = (world.now(), (0, 0, 0, 0));
        let (mut first, mut shown) = (None, (Duration::ZERO, false));
        let mut strangers = Strangers::default();
        let used = offer.manifest.layout.used();
        // What was typed during the copy before this one does not begin it.
        while let Some(start) = order.start
            && readable(start)
            && typed(start).is_some()
        {}
        loop {
            let now = world.now();
            let mut ask = [0; 64];
            for _ in 0..ASKS {
                let Some((n, _, from)) = asks.receive(&mut ask) else { break };
                if ask.get(..n) == Some(&ASK) {
                    let _ = asks.send(&HERE, HERE.len(), from);
                }
            }
            for event in net.round(now) {
                match event {
                    Event::Up(_) => {}
                    Event::Said(peer, message) => {
                        let from = net.address(peer);
                        if let Err(why) = golden.heard(peer, from, message, now) {
                            strangers.meet(from, why, world);
                            net.say(peer, &Message::End(why.to_string()), now);
                            net.hang(peer);
                            golden.gone(peer, now);
                        } else if golden.knows(peer) {
                            net.prove(peer);
                        }
                    }
                    Event::Down(peer, from, why) => {
                        if golden.knows(peer) {
                            world.say(Level::Detail, &format!("a connection has ended: {why}"));
                        } else {
                            strangers.meet(from, &why, world);
                        }
                        golden.gone(peer, now);
                    }
                }
            }
            if let Some(start) = order.start
                && golden.started().is_none()
                && readable(start)
            {
                match typed(start).as_deref() {
                    Some("") if !golden.some() => {
                        world.say(Level::News, "no machine is there yet");
                    }
                    Some("") | None => golden.start(now),
                    Some(word) => match word.parse() {
                        Ok(wanted) => golden.want(wanted, now),
                        Err(_) => world.say(Level::News, HELP),
                    },
                }
            }
            if golden.some() {
                let first = *first.get_or_insert(now);
                let late = offer.at_most.is_some_and(|most| now.saturating_sub(first) >= most);
                if late && golden.started().is_none() {
                    golden.start(now);
                }
            }
            let begun = golden.started().is_some();
            if now.saturating_sub(shown.0) >= Duration::from_secs(1) || begun != shown.1 {
                shown = (now, begun);
                let all = offer.manifest.layout.count();
                world.nodes(&golden.clients(), &golden.have(), all, begun);
            }
            self.act(offer, golden, net, world)?;
            for peer in net.hungry() {
                while net.is_hungry(peer) && golden.feed(peer) {
                    self.act(offer, golden, net, world)?;
                }
            }
            let mut busy = false;
            for _ in 0..TURN {
                let Some(loud) = &mut loud else { break };
                busy = loud.send(golden, net, world.now());
                busy |= self.act(offer, golden, net, world)?;
                if !busy {
                    break;
                }
            }
            let digests = golden.digest_next();
            if let Some(n) = digests {
                offer.chunk(n)?;
                golden.told(Told::Digested(n));
                self.act(offer, golden, net, world)?;
            }
            let (done, missing) = (golden.progress().0, offer.manifest.missing());
            let state = (done, golden.sent(), missing, golden.finishing());
            if state != last || golden.looks() {
                (moved, last) = (now, state);
            }
            let (have, all) = golden.progress();
            if golden.started().is_some() {
                let part = |n: u64| u128::from(used) * u128::from(n) / u128::from(all.max(1));
                world.progress(u64::try_from(part(have)).unwrap_or(0), Some(used));
            }
            if golden.over(offer.linger.unwrap_or(LINGER), now) {
                self.farewell(golden, net, "", world);
                break;
            }
            let patience = match golden.started() {
                Some(_) => here.patience.stall,
                None => here.patience.start,
            };
            let what = match golden.started() {
                Some(_) => "progress",
                None if golden.some() => {
                    "other machine (-n counts them, Return or --max-wait begins)"
                }
                None => "machine",
            };
            Error::stalled(NAME, what, (moved, patience), now)?;
            let mut fds = Vec::from([asks.fd()]);
            fds.extend(order.start.filter(|_| golden.started().is_none()));
            let nap = golden.nap(world.now()).unwrap_or(NAP).min(NAP);
            let nap = if busy || digests.is_some() { Duration::ZERO } else { nap };
            net.wait(&fds, loud.as_ref().and_then(Loud::full), nap);
        }
        // Where no machine has a copy, it may be that not all was read.
        let whole = offer.manifest.missing() == 0;
        Ok(whole.then(|| digest(&offer.manifest)).into_iter().collect())
    }

    /// Sends all machines home, and waits a moment until that has gone out.
    fn farewell(&self, golden: &mut Golden, net: &mut Net, why: &str, world: &mut dyn World) {
        let why = if why.is_empty() { String::new() } else { format!("the sender ends: {why}") };
        golden.end(&why);
        while let Some(act) = golden.act() {
            if let Act::Say(peer, message) = act {
                net.say(peer, &message, world.now());
            }
        }
        let until = world.now() + Duration::from_secs(2);
        while !net.quiet() && world.now() < until {
            let _ = net.round(world.now());
            net.wait(&[], None, Duration::from_millis(20));
        }
    }

    fn act(
        &self,
        offer: &Offer,
        golden: &mut Golden,
        net: &mut Net,
        world: &mut dyn World,
    ) -> Result<bool, Error> {
        let mut some = false;
        while let Some(act) = golden.act() {
            some = true;
            match act {
                Act::Say(peer, message) => net.say(peer, &message, world.now()),
                Act::Hang(peer) => net.hang(peer),
                Act::News(text) => world.say(Level::News, &text),
                Act::Disk(Ask::Read(n)) => {
                    let bytes = offer.chunk(n)?;
                    golden.told(Told::Read(n, Some(Arc::new(bytes))));
                }
                Act::Dial(_) | Act::Disk(_) | Act::Listen(_) => {}
            }
        }
        Ok(some)
    }
}

/// What users may type before a copy begins.
const HELP: &str = "Return begins with the machines that are there; a number and Return changes \
                    how many are waited for";

/// What was typed, in one line; nothing at the end of what can be.
fn typed(fd: rustix::fd::BorrowedFd<'_>) -> Option<String> {
    let mut line = [0; 64];
    let n = rustix::io::read(fd, &mut line).ok().filter(|n| *n > 0)?;
    let line = line.get(..n).unwrap_or_default();
    Some(String::from_utf8_lossy(line).trim().to_string())
}

fn readable(fd: rustix::fd::BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap_or(0) > 0
}

/// A machine that gets a copy.
struct Receiver<'h> {
    here: &'h Here,
    port: u16,
    net: Net,
    node: Node,
    places: Option<Vec<Place>>,
    disks: Option<Worker>,
    sender: Option<Peer>,
    /// The sender's address, once it is known.
    at: Option<Ipv4Addr>,
    to_sender: Option<Dial>,
    to_other: Option<(Dial, Ipv4Addr)>,
    /// Dialled, and has not said hello.
    other: Option<Peer>,
    /// The socket of the multicast.
    group: Option<Box<dyn Datagrams>>,
    /// Addresses that were no senders of this copy, and since when.
    shunned: (Vec<Ipv4Addr>, Duration),
    /// When the sender was told who this is.
    since: Duration,
    /// Why the last connection to the sender has ended.
    told: String,
}

impl<'h> Receiver<'h> {
    fn new(room: &Room, here: &'h Here, world: &mut dyn World) -> Result<Self, Error> {
        let places = world.places().map_err(|why| Error::Store { why })?;
        let (fd, port) = net::listener(here.listen, room.port)?;
        let name = here.names.last().map_or("", String::as_str);
        Ok(Self {
            here,
            port: room.port,
            net: Net::new(fd, here.pins.key.clone()),
            node: Node::new(name, port),
            places: Some(places),
            disks: None,
            sender: None,
            at: here.pins.from.first().copied(),
            to_sender: None,
            to_other: None,
            other: None,
            group: None,
            shunned: (Vec::new(), Duration::ZERO),
            since: Duration::ZERO,
            told: String::new(),
        })
    }

    /// An address is looked at no more for a while: no sender of this copy is there.
    fn shun(&mut self, now: Duration) {
        if let Some(at) = self.at.take_if(|_| self.here.pins.from.is_empty()) {
            if self.shunned.0.is_empty() {
                self.shunned.1 = now;
            }
            self.shunned.0.push(at);
        }
    }

    fn run(mut self, world: &mut dyn World) -> Result<Received, Error> {
        let asks = world.datagrams(0)?;
        let (mut moved, mut last, mut asked) = (world.now(), (0, 0, 0), None::<Duration>);
        let mut alone = None;
        let mut heard = Vec::new();
        let mut strangers = Strangers::default();
        loop {
            let now = world.now();
            if self.at.is_none() {
                if asked.is_none_or(|asked| now.saturating_sub(asked) >= Duration::from_secs(1)) {
                    asked = Some(now);
                    let _ = asks.send(
                        &ASK,
                        ASK.len(),
                        SocketAddrV4::new(self.here.broadcast, self.port),
                    );
                }
                if now.saturating_sub(self.shunned.1) >= SHUNNED {
                    self.shunned.0.clear();
                }
                let mut answer = [0; 64];
                for _ in 0..ASKS {
                    let Some((n, _, from)) = asks.receive(&mut answer) else { break };
                    let other = !self.shunned.0.contains(from.ip());
                    if answer.get(..n) == Some(&HERE) && self.at.is_none() && other {
                        self.at = Some(*from.ip());
                        world.say(Level::News, &format!("the sender is {}", from.ip()));
                    }
                }
            }
            self.dial(now, world);
            for event in self.net.round(now) {
                self.event(event, now, &mut strangers, world);
            }
            if let (Some(group), Some(sender)) = (&self.group, self.sender) {
                hear(&**group, self.net.address(sender), &mut self.node, &mut heard, now);
            }
            self.node.tick(now);
            self.act(world);
            if let Some(manifest) = self.node.manifest() {
                self.net.frames = self.net.frames.chunks(manifest.layout.count());
            }
            for peer in self.net.hungry() {
                while self.net.is_hungry(peer) && self.node.feed(peer) {
                    self.act(world);
                }
            }
            let starving = self.net.hungry().into_iter().any(|peer| self.node.wants(peer));
            self.net.paused = self.node.pauses(starving, now);
            let (have, all) = self.node.have();
            if let Some(manifest) = self.node.manifest() {
                let used = manifest.layout.used();
                let part = u128::from(used) * u128::from(have) / u128::from(all.max(1));
                world.progress(u64::try_from(part).unwrap_or(0), Some(used));
            }
            let steps = self.disks.as_ref().map_or(0, Worker::steps);
            let missing = self.node.manifest().map_or(0, |manifest| manifest.missing());
            let state = (u64::from(have) + self.node.came, steps, missing);
            if state != last || self.node.serves() {
                (moved, last) = (now, state);
            }
            let over = self.node.ended().is_some()
                || self.node.verdict().is_some() && {
                    let waits = self.sender.is_none() && !self.node.serves();
                    alone = waits.then(|| alone.unwrap_or(now));
                    alone.is_some_and(|alone: Duration| now.saturating_sub(alone) >= ALONE)
                };
            let failed = matches!(self.node.verdict(), Some(Verdict::Failed(_)));
            if over || failed && self.net.quiet() {
                return self.result(world);
            }
            let patience = match self.node.manifest() {
                Some(_) => self.here.patience.stall,
                None => self.here.patience.start,
            };
            if self.node.verdict().is_none() {
                let what = if self.sender.is_some() { "chunk" } else { "sender" };
                // Of a sender that was there it is known why it is not.
                let why = if self.sender.is_some() { "" } else { &self.told };
                Error::stalled(NAME, what, (moved, patience), now)
                    .map_err(|stalled| stalled.because(why))?;
            }
            let waits = self.to_sender.is_some() || self.to_other.is_some();
            let nap = if waits { Duration::from_millis(20) } else { NAP };
            let nap = self.node.nap().unwrap_or(nap).min(nap);
            let disks = self.disks.as_ref().and_then(Worker::fd);
            let group = self.group.as_ref().map(|group| group.fd());
            let fds: Vec<_> = disks.into_iter().chain(group).chain([asks.fd()]).collect();
            self.net.wait(&fds, None, nap);
        }
    }

    fn dial(&mut self, now: Duration, world: &mut dyn World) {
        if let Some(at) = self.at.filter(|_| self.sender.is_none()) {
            let to = SocketAddrV4::new(at, self.port);
            let dial = self.to_sender.get_or_insert_with(|| {
                // It begins when the last machine is there.
                Dial::new(self.here.listen, to).every(AGAIN)
            });
            if let Some(stream) = dial.poll(now) {
                self.to_sender = None;
                self.sender = Some(self.net.add(stream, at, true, now));
                self.since = now;
            } else if dial.tries >= 3 && self.node.manifest().is_none() {
                self.to_sender = None;
                self.shun(now);
            }
        }
        if let Some(sender) = self.sender.filter(|_| self.node.manifest().is_none())
            && self.here.pins.from.is_empty()
            && now.saturating_sub(self.since) >= SILENT
        {
            let (at, limit) = (self.net.address(sender), SILENT.as_secs());
            let text = format!("{at} has not said for {limit} s what it sends; looks for another");
            world.say(Level::News, &text);
            self.net.hang(sender);
        }
        if let Some((dial, at)) = &mut self.to_other {
            if let Some(stream) = dial.poll(now) {
                self.other = Some(self.net.add(stream, *at, true, now));
                self.to_other = None;
            } else if dial.tries >= 3 {
                world.say(Level::Detail, &format!("{at} cannot be reached"));
                self.to_other = None;
                self.node.unreachable();
            }
        }
    }

    fn event(
        &mut self,
        event: Event,
        now: Duration,
        strangers: &mut Strangers,
        world: &mut dyn World,
    ) {
        match event {
            Event::Up(peer) if self.sender == Some(peer) => self.node.joined(peer),
            Event::Up(peer) if self.other == Some(peer) => {
                self.other = None;
                self.node.reached(peer, now);
            }
            Event::Up(_) => {}
            Event::Said(peer, message) => {
                if let Err(why) = self.node.heard(peer, message, now) {
                    let from = self.net.address(peer);
                    strangers.meet(from, why, world);
                    self.net.hang(peer);
                    self.node.gone(peer);
                } else {
                    self.net.prove(peer);
                }
            }
            Event::Down(peer, _, why) => {
                if self.sender == Some(peer) {
                    self.sender = None;
                    if self.node.ended().is_none() {
                        let key = match self.node.manifest() {
                            None if !why.contains("--key") => {
                                "; has it the same key (bw.clone.key= or --key), or none?"
                            }
                            _ => "",
                        };
                        let text = format!("the connection to the sender has ended: {why}{key}");
                        // It is tried again each second.
                        if self.told != text {
                            world.say(Level::News, &text);
                            self.told = text;
                        }
                    }
                    // Another may have the copy now.
                    self.at = self.here.pins.from.first().copied().or(self.at);
                    if self.node.manifest().is_none() {
                        self.shun(now);
                    }
                } else if self.other == Some(peer) {
                    self.other = None;
                    self.node.unreachable();
                }
                self.node.gone(peer);
            }
        }
    }

    fn act(&mut self, world: &mut dyn World) {
        loop {
            while let Some(act) = self.node.act() {
                let now = world.now();
                match act {
                    Act::Say(peer, message) => self.net.say(peer, &message, now),
                    Act::Hang(peer) => self.net.hang(peer),
                    Act::News(text) => world.say(Level::News, &text),
                    Act::Dial(to) => {
                        self.to_other = Some((Dial::new(self.here.listen, to), *to.ip()));
                    }
                    Act::Listen(to) => self.listen(to, world),
                    Act::Disk(ask) => {
                        if let Err(why) = self.ask(ask, world) {
                            self.node.told(Told::Failed(why), now);
                        }
                    }
                }
            }
            let Some(told) = self.disks.as_mut().and_then(Worker::answer) else { break };
            if let Told::Scanned(have) = &told {
                let all = have.len();
                let text = format!("the disk has {} of {all} chunks", have.count());
                world.say(Level::News, &text);
            }
            self.node.told(told, world.now());
        }
    }

    /// Listens to a group at the interface of the connection to the sender.
    fn listen(&mut self, to: Option<SocketAddrV4>, world: &mut dyn World) {
        self.group = None;
        let own = self.sender.and_then(|sender| self.net.own(sender));
        let (Some(to), Some(own)) = (to, own) else { return };
        let opened = world.datagrams(to.port()).and_then(|group| {
            group.join(*to.ip(), own)?;
            Ok(group)
        });
        match opened {
            Ok(group) => {
                self.group = Some(group);
                self.node.listens();
            }
            // The sender does not wait for it.
            Err(why) => world.say(Level::Detail, &format!("no multicast: {why}")),
        }
    }

    fn ask(&mut self, ask: Ask, world: &mut dyn World) -> Result<(), String> {
        if let (None, Some(manifest)) = (&self.disks, self.node.manifest()) {
            let places = self.places.take().unwrap_or_default();
            #[cfg(feature = "files")]
            if let Some(shelf) = world.shelf(manifest)? {
                self.disks = Some(Worker::new(shelf, world.thread()));
                return self.ask(ask, world);
            }
            let disks = Disks::new(manifest, places, world, self.at);
            let disks = Box::new(disks.map_err(|trouble| trouble.to_string())?);
            self.disks = Some(Worker::new(disks, world.thread()));
        }
        if let Some(disks) = &mut self.disks {
            disks.ask(ask);
        }
        Ok(())
    }

    fn result(self, world: &mut dyn World) -> Result<Received, Error> {
        let ended = self.node.ended().filter(|why| !why.is_empty()).cloned();
        match (self.node.verdict(), self.node.manifest()) {
            (Some(Verdict::Failed(why)), _) => Err(Error::Store { why: why.clone() }),
            (Some(verdict), Some(manifest)) => {
                world.say(Level::News, &self.node.summary());
                Ok(Received {
                    digests: Vec::from([digest(manifest)]),
                    equal: true,
                    read_back: *verdict == Verdict::Verified,
                    pinned: false,
                    sender: self.at,
                    came: Some(self.node.came),
                    unpacked: None,
                })
            }
            _ => {
                let why = ended.unwrap_or_else(|| "the sender has ended the copy".to_string());
                Err(Error::Store { why })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::testing::{self, Memory};
    use std::net::{TcpListener, UdpSocket};

    /// The last line of a copy that has stalled has the reason that is known.
    #[test]
    fn a_sender_that_does_not_come_back_is_told_with_the_reason_why_it_went() {
        let listener = TcpListener::bind("127.94.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mut world, _) = Memory::new();
        let place = std::env::temp_dir().join(format!("bellwether-stall-{}", std::process::id()));
        world.place = Some(place.to_string_lossy().into_owned());
        let mut here = testing::here([127, 94, 0, 2], 2_000);
        here.pins.from = Vec::from([Ipv4Addr::new(127, 94, 0, 1)]);
        let goes = std::thread::spawn(move || drop(listener.accept().unwrap()));
        let room = Room { port, offer: None, bulk: Bulk::Chain };
        let why = room.receive(&here, &mut world).unwrap_err().to_string();
        assert!(why.contains("s; the connection to the sender has ended: "), "{why}");
        goes.join().unwrap();
        let _ = std::fs::remove_file(place);
    }

    /// A stranger that answered each search before the sender did kept machines from it for
    /// ever: none of them asked another address.
    #[test]
    fn who_answers_first_and_is_no_sender_makes_room_for_others() {
        let listener = TcpListener::bind("127.93.0.2:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let [stranger, sender] =
            [1, 2].map(|n| UdpSocket::bind((Ipv4Addr::new(127, 93, 0, n), port)).unwrap());
        let (mut world, _) = Memory::new();
        let place = std::env::temp_dir().join(format!("bellwether-search-{}", std::process::id()));
        world.place = Some(place.to_string_lossy().into_owned());
        let mut here = testing::here([127, 93, 0, 3], 6_000);
        here.broadcast = Ipv4Addr::new(127, 93, 0, 1);
        let machine = std::thread::spawn(move || {
            let room = Room { port, offer: None, bulk: Bulk::Chain };
            let got = room.receive(&here, &mut world);
            (got.map(drop), world.said)
        });
        let answers = std::thread::spawn(move || {
            let mut ask = [0; 8];
            while let Ok((_, from)) = stranger.recv_from(&mut ask) {
                // The stranger is always the first; nothing listens at its address.
                stranger.send_to(&HERE, from).unwrap();
                sender.send_to(&HERE, from).unwrap();
            }
        });
        let (connection, _) = listener.accept().expect("the machine comes");
        drop((connection, listener));
        let (got, said) = machine.join().unwrap();
        assert!(got.is_err(), "no machine sends");
        assert_eq!(said[..2], ["the sender is 127.93.0.1", "the sender is 127.93.0.2"]);
        drop(answers);
        let _ = std::fs::remove_file(place);
    }
}
