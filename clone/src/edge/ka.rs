//! KA's two ends at their sockets.

use super::net::{Datagrams, Dial, Stream, Udp, Waiter, accept, listener};
use super::protocol::{Here, Order, Protocol, sent};
use super::relay::{Keep, SOON, draw, fill, first, pump, until};
use super::world::{Level, Source, Target, World};
use crate::Error;
use crate::digest::{Digest, Meter};
use crate::ka::wire::Layout;
use crate::ka::{
    ANSWER_PORT, ASK_PORT, CONTROL_PORT, Client, DATA_PORT, Server, WINDOW, client, server,
};
use crate::outcome::{self, Received, Sent};
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
/// How long a node that has failed waits for those behind it.
const STAYS: Duration = Duration::from_secs(20);
/// The window, and room for what is on its way.
const RING: usize = WINDOW as usize + (2 << 20);

/// So much is read at once from a source.
const READ: usize = 1 << 20;
/// A client without limits asks for a server so often, once a second.
const TRIES: u32 = 10;

/// KA as it is configured.
#[derive(Debug, Clone, Default)]
pub struct Ka {
    /// The session's name.
    pub session: String,
    /// A client's server, where it is known.
    pub server: Option<Ipv4Addr>,
    /// The layout that a client begins with.
    pub layout: Layout,
    /// A client asks for the start with the clients that are there.
    pub go_now: bool,
    /// How often a client asks for a server, a second apart; as long as its patience for
    /// the start by default.
    pub tries: Option<u32>,
    /// Children of each node, 1 to 4; 1 by default.
    pub arity: Option<usize>,
    /// A server compares no digests.
    pub unverified: bool,
    /// How many clients a server waits for when its order lists none.
    pub clients: usize,
}

impl Protocol for Ka {
    fn new(argument: &str) -> Result<Self, Error> {
        Ok(Self { session: argument.to_string(), ..Self::default() })
    }

    fn receive(&self, here: &Here, world: &mut dyn World) -> Result<Received, Error> {
        let store = world.open(&Target::UNNAMED).map_err(|why| Error::Store { why })?;
        let text = format!("looking for the KA server of session {}", self.session);
        world.say(Level::News, &text);
        let asked = here.patience.start.map(|p| u32::try_from(p.as_secs()).unwrap_or(u32::MAX));
        let options = client::Options {
            session: self.session.clone(),
            server: self.server.or(here.pins.from.first().copied()),
            layout: self.layout,
            wait: true,
            go_now: self.go_now,
            tries: self.tries.or(asked).unwrap_or(TRIES),
            patience: here.patience,
        };
        receive(options, here, Keep::new(store), world)
    }

    fn send(&self, order: &Order<'_>, world: &mut dyn World) -> Result<Sent, Error> {
        let options = server::Options {
            session: self.session.clone(),
            clients: self.clients.max(order.clients.len()),
            arity: self.arity.unwrap_or(1),
            verify: !self.unverified,
            patience: order.here.patience,
        };
        let text = format!("session {}; waiting for {} clients", self.session, options.clients);
        world.say(Level::News, &text);
        let now = world.now();
        let pact = order.here.pact("KA");
        if pact.is_some() && self.unverified {
            return Err(Error::Unfit { what: "a key", why: "needs digests" });
        }
        let mut core = Server::new(options, now)?.telling(world.known(0), pact);
        let digest = serve(&mut core, order.here.listen, world);
        let client = |(ip, standing): (Ipv4Addr, &outcome::Standing)| outcome::Client {
            name: ip.to_string(),
            address: Some(ip),
            standing: standing.clone(),
            came: None,
        };
        sent(digest.map(|d| alloc::vec![d]), core.clients().map(client).collect(), world)
    }
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
            let mut there = child.stream.hear(buffer).is_ok();
            if let Some(position) = child.position.as_mut().filter(|_| there && !child.ended) {
                there = pump(ring, position, &child.stream).is_ok();
                if there && complete && *position == ring.end() {
                    child.stream.end();
                    child.ended = true;
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
    listen: Ipv4Addr,
    everybody: Ipv4Addr,
    ring: Ring,
    asks: Udp,
    control: Option<Stream>,
    control_dial: Option<Dial>,
    parent: Option<Stream>,
    parent_dial: Option<Dial>,
    children: Children,
    keep: Keep,
    complete: bool,
    finished: Option<bool>,
}

/// Finds a server, and receives and relays one stream.
fn receive(
    options: client::Options,
    here: &Here,
    keep: Keep,
    world: &mut dyn World,
) -> Result<Received, Error> {
    let listen = here.listen;
    let data = listener(listen, DATA_PORT)?;
    let answers = Udp::open(ANSWER_PORT)?;
    let asks = Udp::open(0)?;
    let now = world.now();
    let mut node = Node {
        core: Client::new(options, now).keyed(here.keyed()),
        listen,
        everybody: here.broadcast,
        world,
        ring: Ring::new(RING),
        asks,
        control: None,
        control_dial: None,
        parent: None,
        parent_dial: None,
        children: Children::default(),
        keep,
        complete: false,
        finished: None,
    };
    let mut buffer = alloc::vec![0; 4096];
    loop {
        let mut waiter = Waiter::default();
        let mut limit = node.limit();
        let come = waiter.reads(&data);
        let questions = answers.fd();
        let answered = waiter.reads(&questions);
        let control = node.control.as_ref().map(|control| waiter.both(control, control.pending()));
        let now = node.world.now();
        for dial in [&node.control_dial, &node.parent_dial].into_iter().flatten() {
            limit = waiter.dials(dial, now, limit);
        }
        let needed = node.needed();
        let room = !node.ring.room(needed).is_empty();
        if let Some(parent) = node.parent.as_ref().filter(|_| room) {
            waiter.reads(parent);
        }
        node.children.watch(&mut waiter, &node.ring);
        let happened = waiter.wait(limit);
        let happened = [Some(come), Some(answered), control].map(|number| happened.at(number));
        let went = node.round(happened, &data, &answers, &mut buffer);
        if went.is_err() || node.finished.is_some() {
            node.farewell(went.is_err(), &mut buffer);
            went?;
            let equal = node.finished.unwrap_or(false);
            return Ok(Received::of(&[node.keep.kept()], equal, node.core.server()));
        }
    }
}

impl Node<'_> {
    fn needed(&self) -> u64 {
        self.children.needed(self.ring.end()).min(self.keep.needed(&self.ring))
    }

    fn limit(&mut self) -> Duration {
        let now = self.world.now();
        self.keep.limit(&self.ring, self.complete, self.core.deadline(), now)
    }

    /// Moves what can be moved: of a new child, of answers and of the control connection it is
    /// known whether there is something.
    fn round(
        &mut self,
        [come, answered, told]: [bool; 3],
        data: &rustix::fd::OwnedFd,
        answers: &Udp,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        let now = self.world.now();
        while answered && let Some((n, _, from)) = answers.receive(buffer) {
            let bytes = buffer.get(..n).unwrap_or_default();
            self.core.step(client::Input::Answer(*from.ip(), bytes), now)?;
        }
        if come && let Some((stream, ip)) = accept(data) {
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
        if let Some(control) = self.control.as_mut().filter(|_| told) {
            match control.hear(buffer) {
                Ok(0) => {}
                Ok(n) => {
                    let bytes = buffer.get(..n).unwrap_or_default();
                    self.core.step(client::Input::Server(bytes), now)?;
                }
                Err(why) => {
                    self.control = None;
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
        if let Some(parent) = &mut self.parent {
            match draw(&mut self.ring, needed, parent) {
                Ok(0) => {}
                Ok(_) => self.core.step(client::Input::Received(self.ring.end()), now)?,
                Err(_) => {
                    self.parent = None;
                    self.core.step(client::Input::ParentClosed, now)?;
                }
            }
        }
        self.children.pump(&self.ring, self.complete, buffer);
        self.keep.announce(&self.core.announced());
        self.keep.step(&self.ring, self.complete, self.world, &mut |stored, now| {
            self.core.step(client::Input::Stored(stored), now)
        })?;
        let now = self.world.now();
        self.core.step(client::Input::Tick, now)?;
        self.outputs()?;
        if self.ring.end() > 0 {
            self.world.progress(self.ring.end(), None);
        }
        Ok(())
    }

    const fn dial(&self, ip: Ipv4Addr, port: u16) -> Dial {
        Dial::new(self.listen, SocketAddrV4::new(ip, port))
    }

    fn outputs(&mut self) -> Result<(), Error> {
        while let Some(output) = self.core.output() {
            match output {
                client::Output::Ask(bytes) => {
                    // Who asks again does not mind a question that is lost.
                    // Without a route for it, the system takes no packet to 255.255.255.255.
                    for to in [Ipv4Addr::BROADCAST, self.everybody] {
                        let to = SocketAddrV4::new(to, ASK_PORT);
                        let _ = self.asks.send(&bytes, bytes.len(), to);
                    }
                }
                client::Output::ConnectServer(ip) => {
                    self.world.say(Level::News, &format!("the server is {ip}"));
                    self.control_dial = Some(self.dial(ip, CONTROL_PORT));
                }
                client::Output::ToServer(bytes) => {
                    if let Some(control) = &mut self.control {
                        // A break is noticed when reading.
                        let _ = control.say(&bytes);
                    }
                }
                client::Output::ConnectParent(ip) => {
                    self.world.say(Level::News, &format!("data comes from {ip}"));
                    self.parent = None;
                    self.parent_dial = Some(self.dial(ip, DATA_PORT));
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

    /// Lets those behind have the rest, and the server read the last words. A node that has
    /// `failed` keeps its place until the one behind has closed its connection, and has had the
    /// time to say so: an old server that hears of the failure first sends that one back to
    /// another parent, which is done, and all wait for ever.
    fn farewell(&mut self, failed: bool, buffer: &mut [u8]) {
        let _ = self.outputs();
        let mut stays = failed && self.complete && !self.children.0.is_empty();
        let mut until = self.world.now() + if stays { STAYS } else { FAREWELL };
        while self.world.now() < until {
            self.children.pump(&self.ring, self.complete, buffer);
            let said = self.control.as_mut().is_none_or(|c| c.flush() != Ok(false));
            let alone = self.children.0.is_empty();
            if stays && alone {
                (stays, until) = (false, self.world.now() + FAREWELL);
            }
            let late = failed && self.complete;
            if said && !late && (!self.complete || self.children.all_ended()) {
                break;
            }
            Waiter::default().wait(SOON);
        }
        if let Some(control) = &self.control {
            control.end();
        }
    }
}

/// A server's sockets, and its stream once that flows.
struct Session<'a> {
    core: &'a mut Server,
    world: &'a mut dyn World,
    asks: Udp,
    /// Numbered as they come.
    connections: Vec<(usize, Stream)>,
    next: usize,
    children: Children,
    ring: Ring,
    meter: Meter,
    source: Option<Box<dyn Source>>,
    /// The source is at its end.
    end: bool,
}

/// Gathers the session's clients and sends them a stream once all are there.
fn serve(core: &mut Server, own: Ipv4Addr, world: &mut dyn World) -> Result<Digest, Error> {
    let (control, data) = (listener(own, CONTROL_PORT)?, listener(own, DATA_PORT)?);
    let mut session = Session {
        core,
        world,
        asks: Udp::open(ASK_PORT)?,
        connections: Vec::new(),
        next: 0,
        children: Children::default(),
        ring: Ring::new(RING),
        meter: Meter::default(),
        source: None,
        end: false,
    };
    let mut buffer = alloc::vec![0; 4096];
    while !session.outputs()? {
        let limit = session.read()?;
        let mut waiter = Waiter::default();
        waiter.reads(&control);
        waiter.reads(&data);
        let questions = session.asks.fd();
        waiter.reads(&questions);
        for (_, stream) in &session.connections {
            waiter.both(stream, stream.pending());
        }
        session.children.watch(&mut waiter, &session.ring);
        waiter.wait(limit);
        session.round(&control, &data, &mut buffer)?;
    }
    session.flush();
    Ok(session.meter.digest())
}

impl Session<'_> {
    /// Does what the core wants; true when all is over.
    fn outputs(&mut self) -> Result<bool, Error> {
        while let Some(output) = self.core.output() {
            match output {
                server::Output::Answer(ip, bytes) => {
                    // A client whose answer is lost asks again.
                    let to = SocketAddrV4::new(ip, ANSWER_PORT);
                    let _ = self.asks.send(&bytes, bytes.len(), to);
                }
                server::Output::ToClient(number, bytes) => {
                    if let Some((_, stream)) = self.connections.iter_mut().find(|c| c.0 == number) {
                        // A break is noticed when reading.
                        let _ = stream.say(&bytes);
                    }
                }
                server::Output::Close(number) => self.connections.retain(|c| c.0 != number),
                server::Output::Send(ip, position) => self.children.send(ip, position, &self.ring),
                server::Output::Drop(ip) => self.children.drop(ip),
                server::Output::Say(text) => self.world.say(Level::News, &text),
                server::Output::Begin => {
                    let text = format!("all are in their places: {}", self.core.chain());
                    self.world.say(Level::News, &text);
                    self.source = Some(first(self.world)?);
                }
                server::Output::Finished => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Reads what may be sent now; how long the network may then be waited for.
    fn read(&mut self) -> Result<Duration, Error> {
        let now = self.world.now();
        let mut limit = until(self.core.deadline(), now);
        if let Some(source) = self.source.as_mut().filter(|_| !self.end) {
            let ahead = self.core.allowed().saturating_sub(self.ring.end());
            let most = usize::try_from(ahead).unwrap_or(usize::MAX).min(READ);
            let needed = self.children.needed(self.ring.end());
            let ring = (&mut self.ring, needed);
            self.end = fill(ring, most, &mut **source, &mut self.meter, &mut limit)?;
            if self.end {
                self.core.step(server::Input::End(self.meter.digest()), now)?;
            }
        }
        Ok(limit)
    }

    /// Moves what can be moved.
    fn round(
        &mut self,
        control: &rustix::fd::OwnedFd,
        data: &rustix::fd::OwnedFd,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        let now = self.world.now();
        while let Some((n, _, from)) = self.asks.receive(buffer) {
            let bytes = buffer.get(..n).unwrap_or_default();
            self.core.step(server::Input::Question(*from.ip(), bytes), now)?;
        }
        if let Some((stream, ip)) = accept(control) {
            let own = stream.own_address().unwrap_or(Ipv4Addr::UNSPECIFIED);
            self.connections.push((self.next, stream));
            self.core.step(server::Input::Accepted(self.next, ip, own), now)?;
            self.next += 1;
        }
        if let Some((stream, ip)) = accept(data) {
            self.children.came(stream, ip);
            self.core.step(server::Input::ChildCame(ip), now)?;
        }
        let mut closed = Vec::new();
        for (number, stream) in &mut self.connections {
            match stream.hear(buffer) {
                Ok(0) => {}
                Ok(n) => {
                    let bytes = buffer.get(..n).unwrap_or_default();
                    self.core.step(server::Input::Client(*number, bytes), now)?;
                }
                Err(why) => closed.push((*number, why)),
            }
        }
        for (number, why) in closed {
            self.connections.retain(|c| c.0 != number);
            self.core.step(server::Input::Closed(number, &why), now)?;
        }
        self.children.pump(&self.ring, self.end, buffer);
        self.core.step(server::Input::Tick, now)?;
        if let Some(source) = &self.source {
            let sent = self.children.needed(self.ring.end());
            self.world.progress(sent, source.length());
        }
        Ok(())
    }

    /// Sends the last words.
    fn flush(&mut self) {
        let until = self.world.now() + FAREWELL;
        while self.connections.iter_mut().any(|c| c.1.flush() == Ok(false))
            && self.world.now() < until
        {
            Waiter::default().wait(SOON);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Memory, copy, here, noise, verified};
    use super::*;
    use crate::outcome::Standing;
    use std::net::TcpListener;
    use std::sync::Mutex;

    /// The UDP ports are one machine's.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    fn of(server: [u8; 4]) -> Ka {
        Ka { session: "room1".into(), server: Some(server.into()), ..Ka::default() }
    }

    #[test]
    fn a_node_has_the_bytes() {
        let _alone = ONE_AT_A_TIME.lock();
        let bytes = noise(3_000_001);
        verified(&copy(&of([127, 50, 0, 1]), 50, &bytes, &[usize::MAX]), &bytes);
    }

    #[test]
    fn a_full_disk_is_known_at_both_ends() {
        let _alone = ONE_AT_A_TIME.lock();
        let copy = copy(&of([127, 51, 0, 1]), 51, &noise(400_000), &[100_000]);
        let sent = copy.sent.unwrap();
        assert!(matches!(sent.clients[0].standing, Standing::Failed(_)), "{:?}", sent.clients);
        assert!(matches!(copy.got[0].0, Err(Error::Store { .. })), "{:?}", copy.got[0].0);
    }

    #[test]
    fn a_server_that_dies_ends_the_wait() {
        let _alone = ONE_AT_A_TIME.lock();
        let server = TcpListener::bind(("127.52.0.1", CONTROL_PORT)).unwrap();
        let dies = std::thread::spawn(move || drop(server.accept().unwrap()));
        let (mut world, _) = Memory::new();
        let got = of([127, 52, 0, 1]).receive(&here([127, 52, 0, 2], 2_000), &mut world);
        assert!(got.is_err(), "{got:?}");
        dies.join().unwrap();
    }

    /// A node whose disk is full left while the one behind it still took its data: a real server
    /// then sent that one back to a parent that was done, and all waited for ever.
    #[test]
    fn a_node_that_has_failed_keeps_its_place_until_the_one_behind_has_closed() {
        let pair = |last: u8| {
            let near = SocketAddrV4::new(Ipv4Addr::new(127, 55, 0, last), 40_001);
            let listener = listener(*near.ip(), near.port()).unwrap();
            let far = std::net::TcpStream::connect(near).unwrap();
            far.set_read_timeout(Some(FAREWELL + Duration::from_millis(500))).unwrap();
            (accept(&listener).unwrap().0, far)
        };
        let ((child, behind), (control, server)) = (pair(1), pair(2));
        let (mut world, _) = Memory::new();
        let listen = Ipv4Addr::new(127, 55, 0, 3);
        let patience = here([127, 55, 0, 3], 1000).patience;
        let options = client::Options {
            session: String::new(),
            server: None,
            layout: Layout::default(),
            wait: true,
            go_now: false,
            tries: 1,
            patience,
        };
        let mut ring = Ring::new(4 << 20);
        ring.room(0).fill(7);
        ring.filled(4 << 20);
        let position = Some(0);
        let child = Child { ip: listen, stream: child, position, ended: false };
        let mut node = Node {
            core: Client::new(options, Duration::ZERO),
            listen,
            everybody: listen,
            world: &mut world,
            ring,
            asks: Udp::open(0).unwrap(),
            control: Some(control),
            control_dial: None,
            parent: None,
            parent_dial: None,
            children: Children(Vec::from([child])),
            keep: Keep::default(),
            complete: true,
            finished: None,
        };
        let peers = std::thread::spawn(move || {
            use std::io::Read;
            let (mut behind, mut server) = (behind, server);
            let mut all = Vec::new();
            behind.read_to_end(&mut all).unwrap();
            assert!(all.len() == 4 << 20, "it has all: {}", all.len());
            // It has not closed its own side.
            let waits = server.read(&mut [0]).unwrap_err().kind();
            assert_eq!(waits, std::io::ErrorKind::WouldBlock, "the node is still there");
            drop(behind);
            assert_eq!(server.read(&mut [0]).unwrap(), 0, "and leaves then");
        });
        node.farewell(true, &mut [0; 4096]);
        peers.join().unwrap();
    }

    #[test]
    fn clients_that_never_come_are_waited_for_no_longer_than_told() {
        let _alone = ONE_AT_A_TIME.lock();
        let (mut world, _) = Memory::new();
        let here = here([127, 53, 0, 1], 50);
        let sent = Ka { clients: 2, ..of([127, 53, 0, 1]) }.send(&Order::of(&here), &mut world);
        assert!(matches!(sent, Err(Error::Stalled { .. })), "{sent:?}");
    }
}
