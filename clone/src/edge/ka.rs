//! KA's two ends at their sockets.

use super::net::{Datagrams, Dial, Stream, Waiter, accept, listener};
use super::{Keep, SOON, Source, Store, World};
use crate::Error;
use crate::digest::{Digest, Meter};
use crate::ka::{
    ANSWER_PORT, ASK_PORT, CONTROL_PORT, Client, DATA_PORT, Server, WINDOW, client, server,
};
use crate::ring::Ring;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

/// A parent that does not take our connection is given up after so many tries.
const PARENT_TRIES: u32 = 3;
/// How long the last words may take.
const FAREWELL: Duration = Duration::from_millis(500);
/// The window, and room for what is on its way.
const RING: usize = WINDOW as usize + (2 << 20);

/// A copy that came.
#[derive(Debug, Clone)]
pub struct Received {
    /// Of what was stored.
    pub digest: Digest,
    /// It is what the server read.
    pub verified: bool,
    /// The server.
    pub server: Option<Ipv4Addr>,
}

/// A copy that went out.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Of what was read.
    pub digest: Digest,
    /// The clients in the order of the chain, and how it stands with each.
    pub clients: Vec<(Ipv4Addr, server::Standing)>,
}

/// A node that data goes to.
#[derive(Debug)]
struct Child {
    ip: Ipv4Addr,
    stream: Stream,
    /// What it has, once it may be sent to.
    position: Option<u64>,
    ended: bool,
}

/// The nodes behind this one.
#[derive(Debug, Default)]
struct Children(Vec<Child>);

impl Children {
    /// Takes a new connection; an older one of the same node is dead.
    fn came(&mut self, stream: Stream, ip: Ipv4Addr) {
        self.drop(ip);
        self.0.push(Child { ip, stream, position: None, ended: false });
    }

    fn drop(&mut self, ip: Ipv4Addr) {
        self.0.retain(|c| c.ip != ip);
    }

    /// Starts sending; what is not there any more cannot be had again: then
    /// the child is cut off, and the server told so by it.
    fn send(&mut self, ip: Ipv4Addr, position: u64, ring: &Ring) {
        if ring.from(position).is_none() {
            self.drop(ip);
        } else if let Some(child) = self.0.iter_mut().find(|c| c.ip == ip) {
            child.position = Some(position);
        }
    }

    fn needed(&self, end: u64) -> u64 {
        self.0.iter().filter_map(|c| c.position).fold(end, u64::min)
    }

    fn watch<'a>(&'a self, waiter: &mut Waiter<'a>, ring: &Ring) {
        for child in &self.0 {
            let more = child.position.is_some_and(|p| p < ring.end());
            waiter.both(&child.stream, more && !child.ended);
        }
    }

    /// Sends what there is; `complete` when no more will come.
    fn pump(&mut self, ring: &Ring, complete: bool, buffer: &mut [u8]) {
        self.0.retain_mut(|child| {
            // What children write is to keep the connection alive only.
            let mut there = !matches!(child.stream.read(buffer), Ok(Some(0)) | Err(_));
            while let Some(position) = child.position
                && there
                && !child.ended
            {
                let Some(bytes) = ring.from(position) else {
                    there = false;
                    break;
                };
                if bytes.is_empty() {
                    if complete {
                        child.stream.end();
                        child.ended = true;
                    }
                    break;
                }
                match child.stream.write(bytes) {
                    Ok(n) => {
                        child.position = Some(position + n as u64);
                        if n < bytes.len() {
                            break;
                        }
                    }
                    Err(_) => there = false,
                }
            }
            there
        });
    }

    fn all_ended(&self) -> bool {
        self.0.iter().all(|c| c.ended || c.position.is_none())
    }
}

struct Node<'a> {
    world: &'a mut dyn World,
    core: Client,
    ring: Ring,
    asks: Datagrams,
    control: Option<Stream>,
    control_dial: Option<Dial>,
    parent: Option<Stream>,
    parent_dial: Option<Dial>,
    children: Children,
    keep: Keep,
    complete: bool,
    finished: Option<bool>,
}

/// Finds a server, and receives and relays one stream into `store`.
///
/// # Errors
/// When there is no whole copy at this node.
pub fn receive(
    options: client::Options,
    store: Box<dyn Store>,
    world: &mut dyn World,
) -> Result<Received, Error> {
    let data = listener(DATA_PORT)?;
    let answers = Datagrams::open(ANSWER_PORT)?;
    let asks = Datagrams::open(0)?;
    let now = world.now();
    let mut node = Node {
        core: Client::new(options, now),
        world,
        ring: Ring::new(RING),
        asks,
        control: None,
        control_dial: None,
        parent: None,
        parent_dial: None,
        children: Children::default(),
        keep: Keep::new(store),
        complete: false,
        finished: None,
    };
    let mut buffer = alloc::vec![0; 4096];
    loop {
        let mut waiter = Waiter::default();
        let mut limit = node.limit();
        waiter.reads(&data);
        waiter.reads(&answers);
        if let Some(control) = &node.control {
            waiter.both(control, control.pending());
        }
        let now = node.world.now();
        for dial in [&node.control_dial, &node.parent_dial].into_iter().flatten() {
            limit = limit.min(dial.deadline().saturating_sub(now).max(SOON));
            if let Some(fd) = dial.waits() {
                waiter.writes(fd);
            }
        }
        let needed = node.needed();
        let room = !node.ring.room(needed).is_empty();
        if let Some(parent) = node.parent.as_ref().filter(|_| room) {
            waiter.reads(parent);
        }
        node.children.watch(&mut waiter, &node.ring);
        let _ = waiter.wait(limit);
        let went = node.round(&data, &answers, &mut buffer);
        if went.is_err() || node.finished.is_some() {
            node.farewell(&mut buffer);
            went?;
            let digest = node.keep.digest.unwrap_or_else(|| Meter::default().digest());
            let verified = node.finished.unwrap_or(false);
            return Ok(Received { digest, verified, server: node.core.server() });
        }
    }
}

impl Node<'_> {
    fn needed(&self) -> u64 {
        self.children.needed(self.ring.end()).min(self.keep.needed(&self.ring))
    }

    fn limit(&mut self) -> Duration {
        let now = self.world.now();
        let limit = self.keep.limit(&self.ring, self.complete);
        self.core.deadline().map_or(limit, |deadline| limit.min(deadline.saturating_sub(now)))
    }

    fn round(
        &mut self,
        data: &rustix::fd::OwnedFd,
        answers: &Datagrams,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        let now = self.world.now();
        while let Some((n, from)) = answers.receive(buffer) {
            let bytes = buffer.get(..n).unwrap_or_default();
            self.core.step(client::Input::Answer(from, bytes), now)?;
        }
        if let Some((stream, ip)) = accept(data) {
            self.children.came(stream, ip);
            self.core.step(client::Input::ChildCame(ip), now)?;
        }
        if let Some(dial) = &mut self.control_dial {
            if let Some(stream) = dial.poll(now) {
                self.control_dial = None;
                self.control = Some(stream);
                self.core.step(client::Input::ServerConnected, now)?;
            } else if dial.tries > 0 {
                let why = dial.failed.take().unwrap_or_default();
                self.control_dial = None;
                self.core.step(client::Input::ServerClosed(&why), now)?;
            }
        }
        if let Some(control) = &mut self.control {
            match control.flush().and_then(|_| control.read(buffer)) {
                Ok(None) => {}
                Ok(Some(n)) if n > 0 => {
                    let bytes = buffer.get(..n).unwrap_or_default();
                    self.core.step(client::Input::Server(bytes), now)?;
                }
                closed => {
                    self.control = None;
                    let why = closed.err().unwrap_or_else(|| "connection closed".to_string());
                    self.core.step(client::Input::ServerClosed(&why), now)?;
                }
            }
        }
        self.outputs()?;
        if let Some(dial) = &mut self.parent_dial {
            if let Some(stream) = dial.poll(now) {
                self.parent_dial = None;
                self.parent = Some(stream);
                self.core.step(client::Input::ParentConnected, now)?;
            } else if dial.tries >= PARENT_TRIES {
                self.parent_dial = None;
                self.core.step(client::Input::ParentClosed, now)?;
            }
        }
        let needed = self.needed();
        if let Some(parent) = &self.parent {
            let room = self.ring.room(needed);
            if !room.is_empty() {
                match parent.read(room) {
                    Ok(None) => {}
                    Ok(Some(n)) if n > 0 => {
                        self.ring.filled(n);
                        self.core.step(client::Input::Received(self.ring.end()), now)?;
                    }
                    _ => {
                        self.parent = None;
                        self.core.step(client::Input::ParentClosed, now)?;
                    }
                }
            }
        }
        self.children.pump(&self.ring, self.complete, buffer);
        self.disk()?;
        let now = self.world.now();
        self.core.step(client::Input::Tick, now)?;
        self.outputs()?;
        if self.ring.end() > 0 {
            self.world.progress(self.ring.end(), None);
        }
        Ok(())
    }

    fn disk(&mut self) -> Result<(), Error> {
        let Some(how) = self.keep.step(&self.ring, self.complete, self.world) else {
            return Ok(());
        };
        let now = self.world.now();
        self.core.step(client::Input::Stored(how.as_ref().copied().map_err(String::as_str)), now)
    }

    fn outputs(&mut self) -> Result<(), Error> {
        while let Some(output) = self.core.output() {
            match output {
                client::Output::Ask(bytes) => {
                    self.asks.send(&bytes, SocketAddrV4::new(Ipv4Addr::BROADCAST, ASK_PORT));
                }
                client::Output::ConnectServer(ip) => {
                    self.world.say(&format!("the server is {ip}"));
                    self.control_dial = Some(Dial::new(SocketAddrV4::new(ip, CONTROL_PORT)));
                }
                client::Output::ToServer(bytes) => {
                    if let Some(control) = &mut self.control {
                        // A break is noticed when reading.
                        let _ = control.say(&bytes);
                    }
                }
                client::Output::ConnectParent(ip) => {
                    self.world.say(&format!("data comes from {ip}"));
                    self.parent = None;
                    self.parent_dial = Some(Dial::new(SocketAddrV4::new(ip, DATA_PORT)));
                }
                client::Output::KeepAlive(bytes) => {
                    if let Some(parent) = &mut self.parent {
                        let _ = parent.say(&bytes);
                    }
                }
                client::Output::Send(ip, position) => self.children.send(ip, position, &self.ring),
                client::Output::Drop(ip) => self.children.drop(ip),
                client::Output::Complete(_) => self.complete = true,
                client::Output::Finished { verified } => self.finished = Some(verified),
            }
        }
        Ok(())
    }

    /// Lets those behind have the rest, and the server read the last words.
    fn farewell(&mut self, buffer: &mut [u8]) {
        let _ = self.outputs();
        let until = self.world.now() + FAREWELL;
        while self.world.now() < until {
            self.children.pump(&self.ring, self.complete, buffer);
            let said = self.control.as_mut().is_none_or(|c| c.flush() != Ok(false));
            if said && (!self.complete || self.children.all_ended()) {
                break;
            }
            let _ = Waiter::default().wait(SOON);
        }
        if let Some(control) = &self.control {
            control.end();
        }
    }
}

/// Gathers the session's clients and sends them what `open` opens, once all
/// are there.
///
/// # Errors
/// When nobody is left, or nothing moves.
pub fn send(
    options: server::Options,
    open: &mut dyn FnMut() -> Result<Box<dyn Source>, String>,
    world: &mut dyn World,
) -> Result<Sent, Error> {
    let now = world.now();
    let mut core = Server::new(options, now)?;
    let result = serve(&mut core, open, world);
    if result.is_err() {
        for (ip, standing) in core.clients() {
            world.say(&format!("  {ip:<15} {standing}"));
        }
    }
    let digest = result?;
    Ok(Sent { digest, clients: core.clients().map(|(ip, s)| (ip, s.clone())).collect() })
}

fn serve(
    core: &mut Server,
    open: &mut dyn FnMut() -> Result<Box<dyn Source>, String>,
    world: &mut dyn World,
) -> Result<Digest, Error> {
    let control = listener(CONTROL_PORT)?;
    let data = listener(DATA_PORT)?;
    let asks = Datagrams::open(ASK_PORT)?;
    let mut connections: Vec<(usize, Stream)> = Vec::new();
    let mut children = Children::default();
    let mut next = 0usize;
    let mut ring = Ring::new(RING);
    let mut meter = Meter::default();
    let mut source: Option<Box<dyn Source>> = None;
    let mut end = None;
    let mut buffer = alloc::vec![0; 4096];
    loop {
        while let Some(output) = core.output() {
            match output {
                server::Output::Answer(ip, bytes) => {
                    asks.send(&bytes, SocketAddrV4::new(ip, ANSWER_PORT));
                }
                server::Output::ToClient(number, bytes) => {
                    if let Some((_, stream)) = connections.iter_mut().find(|c| c.0 == number) {
                        let _ = stream.say(&bytes);
                    }
                }
                server::Output::Close(number) => connections.retain(|c| c.0 != number),
                server::Output::Send(ip, position) => children.send(ip, position, &ring),
                server::Output::Drop(ip) => children.drop(ip),
                server::Output::Say(text) => world.say(&text),
                server::Output::Begin => {
                    world.say(&format!("all are in their places: {}", core.chain()));
                    source = Some(open().map_err(|why| Error::Source { why })?);
                }
                server::Output::Finished => {
                    let until = world.now() + FAREWELL;
                    while connections.iter_mut().any(|c| c.1.flush() == Ok(false))
                        && world.now() < until
                    {
                        let _ = Waiter::default().wait(SOON);
                    }
                    return Ok(meter.digest());
                }
            }
        }
        let now = world.now();
        let mut limit = core
            .deadline()
            .map_or(Duration::from_secs(1), |d| d.saturating_sub(now).min(Duration::from_secs(1)));
        if let Some(source) = source.as_mut().filter(|_| end.is_none()) {
            let ahead = core.allowed().saturating_sub(ring.end());
            let needed = children.needed(ring.end());
            let room = ring.room(needed);
            let some = room.len().min(1 << 20).min(usize::try_from(ahead).unwrap_or(usize::MAX));
            if some > 0 {
                let room = room.get_mut(..some).unwrap_or_default();
                match source.read(room).map_err(|why| Error::Source { why })? {
                    Some(0) => {
                        end = Some(meter.digest());
                        core.step(server::Input::End(meter.digest()), now)?;
                        limit = Duration::ZERO;
                    }
                    Some(n) => {
                        meter.update(room.get(..n).unwrap_or_default());
                        ring.filled(n);
                        limit = Duration::ZERO;
                    }
                    None => limit = limit.min(SOON),
                }
            }
        }
        let mut waiter = Waiter::default();
        waiter.reads(&control);
        waiter.reads(&data);
        waiter.reads(&asks);
        for (_, stream) in &connections {
            waiter.both(stream, stream.pending());
        }
        children.watch(&mut waiter, &ring);
        let _ = waiter.wait(limit);
        let now = world.now();
        while let Some((n, from)) = asks.receive(&mut buffer) {
            let bytes = buffer.get(..n).unwrap_or_default();
            core.step(server::Input::Question(from, bytes), now)?;
        }
        if let Some((stream, ip)) = accept(&control) {
            let own = stream.own_address().unwrap_or(Ipv4Addr::UNSPECIFIED);
            connections.push((next, stream));
            core.step(server::Input::Accepted(next, ip, own), now)?;
            next += 1;
        }
        if let Some((stream, ip)) = accept(&data) {
            children.came(stream, ip);
            core.step(server::Input::ChildCame(ip), now)?;
        }
        let mut closed = Vec::new();
        for (number, stream) in &mut connections {
            match stream.flush().and_then(|_| stream.read(&mut buffer)) {
                Ok(None) => {}
                Ok(Some(n)) if n > 0 => {
                    let bytes = buffer.get(..n).unwrap_or_default();
                    core.step(server::Input::Client(*number, bytes), now)?;
                }
                Ok(_) => closed.push((*number, "it has closed the connection".to_string())),
                Err(why) => closed.push((*number, why)),
            }
        }
        for (number, why) in closed {
            connections.retain(|c| c.0 != number);
            core.step(server::Input::Closed(number, &why), now)?;
        }
        children.pump(&ring, end.is_some(), &mut buffer);
        core.step(server::Input::Tick, now)?;
        if let Some(source) = &source {
            let sent = children.needed(ring.end());
            world.progress(sent, source.length());
        }
    }
}
