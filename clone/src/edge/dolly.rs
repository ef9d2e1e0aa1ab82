//! Dolly's two ends at their sockets.

use super::net::{Dial, Stream, Waiter, accept, listener, random};
use super::protocol::{Here, NOT_NAMED, Order, Protocol, Strangers, sent};
use super::relay::{Keep, SOON, draw, fill, first, pump, until};
use super::world::{Level, Source, Store, Target, World};
use crate::Error;
use crate::cook::{Cook, Packing};
use crate::digest::{Digest, Meter};
use crate::dolly::config::{Config, Line, What};
use crate::dolly::{CONTROL_PORT, Client, DATA_PORT, Server, client, server};
use crate::guard::{Announcement, Kept};
use crate::outcome::{self, Received, Sent};
use crate::ring::Ring;
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

/// What is held between a fast and a slow side.
const RING: usize = 16 << 20;
/// After a failure, the last messages may take this long.
const FAREWELL: Duration = Duration::from_millis(300);
/// Read at once from a source: few calls, and what fits the processor's caches.
const READ: usize = 256 << 10;
/// The user hears this often which node is waited for.
const REMIND: Duration = Duration::from_secs(20);
/// An unknown name is looked up again after this long.
const NAME_AGAIN: Duration = Duration::from_millis(200);

/// Dolly as it is configured.
#[derive(Debug, Clone, Default)]
pub struct Dolly {
    /// The password that all machines must know; only openSUSE's line has one.
    pub password: Option<String>,
    /// The configuration and its file's text, of a sender for which the order does not say enough.
    pub config: Option<(Config, String)>,
    /// A sender asks for no digests.
    pub unverified: bool,
}

/// A node that data goes to.
#[derive(Debug)]
struct Next {
    index: usize,
    /// Where connections to it are made from.
    listen: Ipv4Addr,
    name: String,
    address: Option<Ipv4Addr>,
    dial: Option<Dial>,
    data: Option<Stream>,
    control: Option<Stream>,
    /// The stream's bytes that it has.
    position: u64,
    ended: bool,
    reminded: Duration,
}

/// A node's links have broken, and why.
struct Broken {
    index: usize,
    why: String,
}

impl Next {
    fn new(index: usize, config: &Config, listen: Ipv4Addr, now: Duration) -> Self {
        let name = config.hosts.get(index).map_or("", |h| h.trim_end()).to_owned();
        Self {
            index,
            listen,
            name,
            address: None,
            dial: None,
            data: None,
            control: None,
            position: 0,
            ended: false,
            reminded: now,
        }
    }

    fn broken(&self, why: String) -> Broken {
        Broken { index: self.index, why }
    }

    /// Goes on connecting, data first; true the moment both stand.
    fn connect(&mut self, world: &mut dyn World) -> bool {
        if self.control.is_some() {
            return false;
        }
        let now = world.now();
        if self.address.is_none() {
            match world.resolve(&self.name) {
                Ok(address) => self.address = Some(address),
                Err(why) => self.remind(world, now, &why),
            }
        }
        let Some(address) = self.address else { return false };
        // At once from the one to the other: what each node waits here, all
        // those behind it wait too.
        loop {
            let port = if self.data.is_some() { CONTROL_PORT } else { DATA_PORT };
            let dial = self
                .dial
                .get_or_insert_with(|| Dial::new(self.listen, SocketAddrV4::new(address, port)));
            let Some(stream) = dial.poll(now) else {
                if let Some(why) = dial.failed.clone() {
                    self.remind(world, now, &why);
                }
                return false;
            };
            self.dial = None;
            if self.data.is_some() {
                self.control = Some(stream);
                return true;
            }
            self.data = Some(stream);
        }
    }

    fn remind(&mut self, world: &mut dyn World, now: Duration, why: &str) {
        if now.saturating_sub(self.reminded) >= REMIND {
            self.reminded = now;
            world.say(Level::News, &format!("still waiting for {}: {why}", self.name));
        }
    }

    /// Sends what the ring has for it.
    fn pump(&mut self, ring: &Ring) -> Result<u64, Broken> {
        let Some(data) = self.data.as_ref().filter(|_| !self.ended) else { return Ok(0) };
        let sent = pump(ring, &mut self.position, data);
        sent.map_err(|why| self.broken(why))
    }

    /// Waits for what it may bring or take; how long at most, of `limit`.
    fn watch<'a>(
        &'a self,
        waiter: &mut Waiter<'a>,
        ring: &Ring,
        now: Duration,
        limit: Duration,
    ) -> Duration {
        if let Some(control) = &self.control {
            waiter.both(control, control.pending());
        }
        if let Some(data) = self.data.as_ref().filter(|_| self.wants_room(ring)) {
            waiter.writes(data);
        }
        match &self.dial {
            Some(dial) => waiter.dials(dial, now, limit),
            None if self.control.is_none() && !self.closed() => limit.min(NAME_AGAIN),
            None => limit,
        }
    }

    fn wants_room(&self, ring: &Ring) -> bool {
        !self.ended && self.data.is_some() && self.position < ring.end()
    }

    fn end_data(&mut self) {
        if let Some(data) = self.data.as_ref().filter(|_| !self.ended) {
            data.end();
        }
        self.ended = true;
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        match &mut self.control {
            Some(control) => {
                let sent = control.say(bytes);
                sent.map_err(|why| self.broken(why))
            }
            None => Ok(()),
        }
    }

    /// What its control connection has brought, in `buffer`.
    fn listen(&mut self, buffer: &mut [u8]) -> Result<usize, Broken> {
        let Some(control) = &mut self.control else { return Ok(0) };
        control.hear(buffer).map_err(|why| Broken { index: self.index, why })
    }

    fn close(&mut self) {
        self.data = None;
        self.control = None;
        self.ended = true;
        self.position = u64::MAX;
    }

    /// Closed for good, not merely not yet open.
    const fn closed(&self) -> bool {
        self.position == u64::MAX
    }
}

/// A store that keeps nothing, for measurements.
#[derive(Default)]
struct Nowhere {
    meter: Meter,
    ended: bool,
}

impl Store for Nowhere {
    fn put(&mut self, bytes: &[u8]) -> Result<usize, String> {
        self.meter.update(bytes);
        Ok(bytes.len())
    }

    fn end(&mut self) {
        self.ended = true;
    }

    fn done(&mut self) -> Option<Result<Kept, String>> {
        self.ended.then(|| Ok(Kept::unread(self.meter.digest())))
    }
}

fn open(config: &Config, world: &mut dyn World) -> Result<Box<dyn Store>, Error> {
    if config.cards.is_some() {
        return Err(CARDS);
    }
    let What::File { input, output } = &config.what else {
        return Ok(Box::new(Nowhere::default()));
    };
    let cook = Cook { unpack: input.compressed.then_some(Packing::Gzip), archive: None };
    // The classic program creates only what it compresses or splits.
    let existing = !output.compressed && output.split.is_none();
    let target = Target { path: &output.path, existing, cook, split: output.split };
    world.open(&target).map_err(|why| Error::Store { why })
}

struct Node<'a> {
    world: &'a mut dyn World,
    core: Client,
    listen: Ipv4Addr,
    ring: Ring,
    parent: Option<Stream>,
    peer: Option<Ipv4Addr>,
    strangers: Strangers,
    /// The parent was none.
    refused: bool,
    /// The stream's length, as the configuration tells it.
    bytes: Option<u64>,
    data: Option<Stream>,
    next: Vec<Next>,
    keep: Keep,
    ended: bool,
    complete: bool,
    length: Option<u64>,
    finished: Option<bool>,
}

impl Protocol for Dolly {
    fn new(_: &str) -> Result<Self, Error> {
        Ok(Self::default())
    }

    fn receive(&self, here: &Here, world: &mut dyn World) -> Result<Received, Error> {
        let options = client::Options {
            names: here.names.clone(),
            password: self.password.clone().or_else(|| here.pins.password.clone()),
            nonce: random(),
            patience: here.patience,
        };
        receive(options, here, world)
    }

    fn send(&self, order: &Order<'_>, world: &mut dyn World) -> Result<Sent, Error> {
        let (config, text) = match &self.config {
            Some(config) => config.clone(),
            None => {
                let output = order.files.first().map_or("", |f| &f.path);
                let own = order.here.names.last().map_or("", String::as_str);
                Config::of_file(Line::Classic, ("-", output), own, order.clients)?
            }
        };
        if config.cards.is_some() {
            return Err(CARDS);
        }
        let mut source = first(world)?;
        let options = server::Options {
            password: self.password.clone(),
            nonce: random(),
            patience: order.here.patience,
            directories: false,
        };
        let now = world.now();
        let known = world.known(0);
        let mut core = Server::new(config, &text, !self.unverified, options, now)?
            .telling(known.bytes, order.here.pact("dolly"))?;
        let digest = serve(&mut core, order.here.listen, &mut *source, world);
        let client = |(name, standing): (&str, &outcome::Standing)| outcome::Client {
            name: name.trim_end().to_owned(),
            address: None,
            standing: standing.clone(),
            came: None,
        };
        sent(digest.map(|d| alloc::vec![d]), core.clients().map(client).collect(), world)
    }
}

const CARDS: Error = Error::Unfit {
    what: "several network cards a node (add)",
    why: "are not used here; take the line out of the configuration",
};

/// Waits for a parent, and receives and relays one stream.
fn receive(
    options: client::Options,
    here: &Here,
    world: &mut dyn World,
) -> Result<Received, Error> {
    let listen = here.listen;
    let control = listener(listen, CONTROL_PORT)?;
    let data = listener(listen, DATA_PORT)?;
    let text = format!("waiting for a dolly server, as {}", options.names.join(" or "));
    world.say(Level::News, &text);
    let now = world.now();
    let mut node = Node {
        core: Client::new(options, now).keyed(here.keyed()),
        listen,
        peer: None,
        strangers: Strangers::default(),
        refused: false,
        bytes: None,
        world,
        ring: Ring::new(RING),
        parent: None,
        data: None,
        next: Vec::new(),
        keep: Keep::default(),
        ended: false,
        complete: false,
        length: None,
        finished: None,
    };
    let mut early: Vec<(Stream, Ipv4Addr)> = Vec::new();
    let mut heard = false;
    let mut buffer = alloc::vec![0; 4096];
    while node.finished.is_none() {
        let mut waiter = Waiter::default();
        let mut limit = node.limit();
        if node.parent.is_none() {
            waiter.reads(&control);
        }
        if node.data.is_none() {
            waiter.reads(&data);
        }
        if let Some(parent) = &node.parent {
            waiter.both(parent, parent.pending());
        }
        let needed = node.needed();
        let room = !node.ring.room(needed).is_empty();
        if let Some(data) = node.data.as_ref().filter(|_| room && !node.ended) {
            waiter.reads(data);
        }
        let now = node.world.now();
        for next in &node.next {
            limit = next.watch(&mut waiter, &node.ring, now, limit);
        }
        waiter.wait(limit);
        if node.parent.is_none()
            && let Some((stream, from)) = accept(&control)
        {
            if here.takes(from) {
                (node.parent, node.peer) = (Some(stream), Some(from));
            } else {
                node.strangers.meet(from, NOT_NAMED, node.world);
            }
        }
        if node.data.is_none() {
            early.extend(accept(&data).filter(|(_, from)| here.takes(*from)));
            if early.len() > 8 {
                early.remove(0);
            }
            if let Some(at) = early.iter().position(|(_, from)| Some(*from) == node.peer) {
                node.data = Some(early.swap_remove(at).0);
            }
        }
        match node.round(&mut buffer, &mut heard) {
            Ok(true) if !node.refused => {}
            // A caller that left without a word is no parent.
            Ok(_) => {
                (node.parent, node.data, node.peer) = (None, None, None);
                (node.refused, heard) = (false, false);
            }
            Err(e) => {
                node.farewell(&mut buffer);
                return Err(e);
            }
        }
    }
    // The last words must be on their way before the sockets close.
    node.farewell(&mut buffer);
    let equal = node.finished.unwrap_or(false);
    Ok(Received::of(&[node.keep.kept()], equal, node.peer))
}

impl Node<'_> {
    /// The position that the slowest reader needs.
    fn needed(&self) -> u64 {
        self.next.iter().map(|n| n.position).fold(self.keep.needed(&self.ring), u64::min)
    }

    fn limit(&mut self) -> Duration {
        let now = self.world.now();
        self.keep.limit(&self.ring, self.complete, self.core.deadline(), now)
    }

    /// All that can be done now. False when the parent was none.
    fn round(&mut self, buffer: &mut [u8], heard: &mut bool) -> Result<bool, Error> {
        // Control of the parent.
        if let Some(parent) = &mut self.parent {
            let read = parent.hear(buffer);
            let now = self.world.now();
            match read {
                Ok(0) => {}
                Ok(n) => {
                    *heard = true;
                    let bytes = buffer.get(..n).unwrap_or_default();
                    self.core.step(client::Input::Parent(bytes), now)?;
                }
                Err(_) if !*heard => return Ok(false),
                Err(_) => self.core.step(client::Input::ParentClosed, now)?,
            }
        }
        self.outputs()?;
        // Data: first on, then to the disk.
        let needed = self.needed();
        if let Some(data) = self.data.as_mut().filter(|_| !self.ended) {
            self.ring.recycle(needed);
            let drawn = draw(&mut self.ring, needed, data);
            let now = self.world.now();
            match drawn {
                Ok(0) => {}
                Ok(_) => self.core.step(client::Input::Received(self.ring.end()), now)?,
                Err(_) => {
                    self.ended = true;
                    self.core.step(client::Input::DataEnd, now)?;
                }
            }
        }
        for i in 0..self.next.len() {
            let now = self.world.now();
            let Some(next) = self.next.get_mut(i).filter(|n| !n.closed()) else { continue };
            let index = next.index;
            if next.connect(self.world) {
                self.core.step(client::Input::Connected(index), now)?;
                continue;
            }
            let pumped = next.pump(&self.ring).and_then(|_| next.listen(buffer));
            if self.complete && next.position == self.ring.end() {
                next.end_data();
            }
            match pumped {
                Ok(0) => {}
                Ok(n) => {
                    let bytes = buffer.get(..n).unwrap_or_default();
                    self.core.step(client::Input::Child(index, bytes), now)?;
                }
                Err(broken) => self.lost(&broken)?,
            }
        }
        self.keep.step(&self.ring, self.complete, self.world, &mut |stored, now| {
            self.core.step(client::Input::Stored(stored), now)
        })?;
        let now = self.world.now();
        self.core.step(client::Input::Tick, now)?;
        self.outputs()?;
        if self.length.is_some() || self.ring.end() > 0 {
            self.world.progress(self.ring.end(), self.length);
        }
        Ok(true)
    }

    fn lost(&mut self, broken: &Broken) -> Result<(), Error> {
        if let Some(next) = self.next.iter_mut().find(|n| n.index == broken.index) {
            next.close();
        }
        let now = self.world.now();
        self.core.step(client::Input::ChildClosed(broken.index, &broken.why), now)
    }

    fn outputs(&mut self) -> Result<(), Error> {
        while let Some(output) = self.core.output() {
            match output {
                client::Output::ToParent(bytes) => {
                    if let Some(parent) = &mut self.parent {
                        // A break is noticed when reading.
                        let _ = parent.say(&bytes);
                    }
                }
                client::Output::ToChild(index, bytes) => {
                    let said = match self.next.iter_mut().find(|n| n.index == index) {
                        Some(next) => next.say(&bytes),
                        None => Ok(()),
                    };
                    if let Err(broken) = said {
                        self.lost(&broken)?;
                    }
                }
                client::Output::Configured { config, index, children, directories } => {
                    let text = format!(
                        "this is {}, {} of {}",
                        config.hosts.get(index).map_or("", String::as_str),
                        index + 1,
                        config.hosts.len()
                    );
                    self.world.say(Level::News, &text);
                    if directories {
                        return Err(Error::Unfit {
                            what: "a copy of directories (dolly -D)",
                            why: "is not received here; send an image or a disk",
                        });
                    }
                    self.keep = Keep::new(open(&config, self.world)?);
                    self.bytes = config.bytes;
                    self.announce();
                    let now = self.world.now();
                    let next = |i: &usize| Next::new(*i, &config, self.listen, now);
                    self.next = children.iter().map(next).collect();
                    for next in &mut self.next {
                        next.connect(self.world);
                    }
                }
                client::Output::Length(length) => {
                    self.length = Some(length);
                    self.announce();
                }
                client::Output::Refused(why) => {
                    let from = self.peer.unwrap_or(Ipv4Addr::UNSPECIFIED);
                    self.strangers.meet(from, &why.to_string(), self.world);
                    self.refused = true;
                }
                client::Output::Complete(_) => self.complete = true,
                client::Output::Finished { verified } => self.finished = Some(verified),
            }
        }
        Ok(())
    }

    /// What the server has told of the stream so far.
    fn announce(&mut self) {
        let (sender, blake3) = (self.peer, self.core.digest());
        let bytes = self.length.or(self.bytes);
        self.keep.announce(&Announcement { sender, bytes, blake3 });
    }

    /// Sends what is left to be said, and lets the peers read it.
    fn farewell(&mut self, buffer: &mut [u8]) {
        let until = self.world.now() + FAREWELL;
        while let Some(output) = self.core.output() {
            if let (client::Output::ToParent(bytes), Some(parent)) = (output, &mut self.parent) {
                let _ = parent.say(&bytes);
            }
        }
        if let Some(parent) = &mut self.parent {
            while parent.flush() == Ok(false) && self.world.now() < until {
                let mut waiter = Waiter::default();
                waiter.writes(&*parent);
                waiter.wait(SOON);
            }
            parent.end();
            // Unread bytes would turn the end into a reset, which may overtake
            // what was said.
            while self.world.now() < until {
                match parent.read(buffer) {
                    Ok(Some(n)) if n > 0 => {}
                    Ok(None) => {
                        let mut waiter = Waiter::default();
                        waiter.reads(&*parent);
                        waiter.wait(SOON);
                    }
                    _ => break,
                }
            }
        }
    }
}

fn serve(
    core: &mut Server,
    listen: Ipv4Addr,
    source: &mut dyn Source,
    world: &mut dyn World,
) -> Result<Digest, Error> {
    let mut ring = Ring::new(RING);
    let mut next: Vec<Next> = Vec::new();
    let mut buffer = alloc::vec![0; 4096];
    let mut meter = Meter::default();
    let (mut begun, mut source_end, mut told) = (false, false, false);
    loop {
        // What the core wants.
        while let Some(output) = core.output() {
            match output {
                server::Output::Connect(index) => {
                    let now = world.now();
                    let mut node = Next::new(index, core.config(), listen, now);
                    node.connect(world);
                    next.push(node);
                }
                server::Output::ToChild(index, bytes) => {
                    let said = next.iter_mut().find(|n| n.index == index).map(|n| n.say(&bytes));
                    if let Some(Err(broken)) = said {
                        let now = world.now();
                        core.step(server::Input::ChildClosed(broken.index, &broken.why), now)?;
                    }
                }
                server::Output::Said(line) => world.say(Level::Detail, &line),
                server::Output::Begin => {
                    begun = true;
                    world.say(Level::News, "all clients are ready");
                }
                server::Output::EndData => next.iter_mut().for_each(Next::end_data),
                server::Output::Finished => return Ok(meter.digest()),
            }
        }
        let now = world.now();
        let mut limit = until(core.deadline(), now);
        if begun && !source_end {
            let needed = next.iter().map(|n| n.position).min().unwrap_or(0);
            ring.recycle(needed);
            source_end = fill((&mut ring, needed), READ, source, &mut meter, &mut limit)?;
        }
        let mut waiter = Waiter::default();
        for next in &next {
            limit = next.watch(&mut waiter, &ring, now, limit);
        }
        waiter.wait(limit);
        for next in &mut next {
            if next.closed() {
                continue;
            }
            let index = next.index;
            if next.connect(world) {
                world.say(Level::News, &format!("connected to {}", next.name));
                core.step(server::Input::Connected(index), world.now())?;
                continue;
            }
            let now = world.now();
            let went = next.pump(&ring);
            if matches!(went, Ok(n) if n > 0) {
                core.step(server::Input::Sent(next.position), now)?;
            }
            match went.and_then(|_| next.listen(&mut buffer)) {
                Ok(0) => {}
                Ok(n) => {
                    let bytes = buffer.get(..n).unwrap_or_default();
                    core.step(server::Input::Child(index, bytes), now)?;
                }
                Err(broken) => {
                    next.close();
                    core.step(server::Input::ChildClosed(broken.index, &broken.why), now)?;
                }
            }
        }
        if source_end && !told && next.iter().all(|n| n.position >= ring.end()) {
            told = true;
            core.step(server::Input::End(meter.digest()), world.now())?;
        }
        core.step(server::Input::Tick, world.now())?;
        if begun {
            let sent = next.iter().map(|n| n.position).min().unwrap_or(0).min(ring.end());
            world.progress(sent, source.length());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Memory, copy, here, noise, verified};
    use super::*;
    use crate::outcome::Standing;
    use std::net::TcpListener;

    #[test]
    fn two_nodes_of_a_chain_have_the_bytes() {
        let bytes = noise(3_000_001);
        verified(&copy(&Dolly::default(), 40, &bytes, &[usize::MAX; 2]), &bytes);
    }

    #[test]
    fn a_full_disk_fails_its_own_copy_alone() {
        let bytes = noise(400_000);
        let copy = copy(&Dolly::default(), 41, &bytes, &[100_000, usize::MAX]);
        let standings: Vec<_> =
            copy.sent.unwrap().clients.into_iter().map(|c| c.standing).collect();
        assert!(matches!(standings.as_slice(), [Standing::Failed(_), Standing::Verified]));
        assert!(matches!(copy.got[0].0, Err(Error::Store { .. })), "{:?}", copy.got[0].0);
        assert!(copy.got[1].0.is_ok() && copy.got[1].1.as_ref() == Some(&bytes));
    }

    #[test]
    fn a_node_that_dies_ends_the_copy_by_name() {
        let node = "127.42.0.2";
        let ports = [DATA_PORT, CONTROL_PORT].map(|port| TcpListener::bind((node, port)).unwrap());
        let dies = std::thread::spawn(move || ports.map(|port| drop(port.accept().unwrap())));
        let (mut world, _) = Memory::new();
        let here = here([127, 42, 0, 1], 20_000);
        let clients = [node.to_owned()];
        let file = crate::cook::Output { path: "x".to_owned(), cook: Cook::default() };
        let order = Order { clients: &clients, files: &[file], ..Order::of(&here) };
        let sent = Dolly::default().send(&order, &mut world);
        let Err(Error::Gone { peer, .. }) = &sent else { panic!("{sent:?}") };
        assert!(peer.contains(node), "{peer}");
        assert!(world.said.iter().any(|line| line.starts_with("  127.42.0.2")), "{:?}", world.said);
        dies.join().unwrap();
    }

    #[test]
    fn a_server_that_never_comes_is_waited_for_no_longer_than_told() {
        let (mut world, stored) = Memory::new();
        let got = Dolly::default().receive(&here([127, 43, 0, 1], 50), &mut world);
        assert!(matches!(got, Err(Error::Stalled { .. })), "{got:?}");
        assert!(stored.try_recv().is_err());
    }
}
