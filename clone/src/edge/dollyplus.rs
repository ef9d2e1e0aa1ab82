//! Dolly+'s two ends at their sockets, and at their files.
//!
//! What to do the state machines know ([`crate::dollyplus`]); here are the two loops
//! that do it.

use super::net::{Dial, Stream, Waiter, accept, listener};
use super::protocol::{Here, NOT_NAMED, Order, Protocol, Strangers, sent};
use super::relay::SOON;
use super::world::{Level, Source, Store, Target, World};
use crate::Error;
use crate::digest::Digest;
use crate::dollyplus::backlog::SIZES;
use crate::dollyplus::io::{Conn, End, Input, Output};
use crate::dollyplus::{CONTROL_PORT, DATA_PORT, NAME, Node, Server, Todo, Want};
use crate::outcome::{Received, Sent};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;
use rustix::fd::OwnedFd;

/// A host that acknowledges nothing for so long is gone.
const SILENT: Duration = Duration::from_secs(20);
/// The ends want to know at least so often that time has passed.
const TICK: Duration = Duration::from_secs(1);
/// So many reads at once: the loop around them costs more than one.
const READS: usize = 4;

/// Dolly+, which has nothing to configure.
#[derive(Debug, Clone, Copy)]
pub struct DollyPlus;

impl Protocol for DollyPlus {
    fn new(_: &str) -> Result<Self, Error> {
        Ok(Self)
    }

    fn receive(&self, here: &Here, world: &mut dyn World) -> Result<Received, Error> {
        let mut sockets = Sockets::open(here.listen, world)?;
        sockets.takes = here.pins.from.clone();
        sockets.world.say(Level::News, "waiting for a Dolly+ server");
        let now = sockets.world.now();
        let mut node = Node::new(here.patience, SIZES, now).keyed(here.keyed());
        let mut store = None;
        let received = loop {
            let busy = !matches!(node.todo(), Todo::Nothing);
            sockets.wait(if busy { SOON } else { TICK }, &mut node);
            sockets.turn(&mut node)?;
            keep(&mut node, &mut store, sockets.world);
            sockets.step(Input::Tick, &mut node)?;
            if let Some(done) = node.progress() {
                sockets.world.progress(done, None);
            }
            if let Some(received) = node.finished() {
                break received;
            }
        };
        match received.digests.is_empty() {
            true => Err(Error::Peer {
                protocol: NAME,
                peer: "the server".to_string(),
                why: "it sent no file",
            }),
            false => Ok(received),
        }
    }

    fn send(&self, order: &Order<'_>, world: &mut dyn World) -> Result<Sent, Error> {
        let mut sockets = Sockets::open(order.here.listen, world)?;
        let now = sockets.world.now();
        let Order { here, clients, files, .. } = order;
        // The last client must find this machine: an address is understood everywhere.
        let own = here.names.last().map_or("", String::as_str);
        let known: Vec<_> = (0..files.len()).map(|n| sockets.world.known(n).bytes).collect();
        let mut server = Server::new(own, clients, files, here.patience, SIZES, now)
            .telling(&known, here.pact(NAME));
        let digests = serve(&mut sockets, &mut server);
        sent(digests, server.clients().to_vec(), sockets.world)
    }
}

/// Stores what was passed on, as much as the disk takes now.
fn keep(node: &mut Node, store: &mut Option<Box<dyn Store>>, world: &mut dyn World) {
    loop {
        let failed = match (node.todo(), store.as_mut()) {
            (Todo::Open(file), _) => {
                let target = Target { path: &file.path, cook: file.cook, ..Target::UNNAMED };
                let opened = world.open(&target).and_then(|mut store| {
                    store.announce(&node.announced())?;
                    Ok(store)
                });
                match opened {
                    Ok(opened) => {
                        *store = Some(opened);
                        node.opened();
                        continue;
                    }
                    Err(why) => why,
                }
            }
            (Todo::Store(bytes), Some(open)) => match open.put(bytes) {
                Ok(0) => return,
                Ok(n) => {
                    node.stored(n, world.now());
                    continue;
                }
                Err(why) => why,
            },
            (Todo::Finish, Some(open)) => {
                let announced = open.announce(&node.announced());
                open.end();
                match announced.err().map(Err).or_else(|| open.done()) {
                    None => return,
                    Some(Ok(kept)) => {
                        *store = None;
                        node.kept(kept);
                        continue;
                    }
                    Some(Err(why)) => why,
                }
            }
            _ => return,
        };
        *store = None;
        node.store_failed(&failed);
    }
}

/// Builds the ring and sends the files through it.
fn serve(sockets: &mut Sockets<'_>, server: &mut Server) -> Result<Vec<Digest>, Error> {
    let mut source = None;
    // It dials first, before there is anything to wait for.
    sockets.step(Input::Tick, server)?;
    loop {
        let limit = read(server, &mut source, sockets.world)?;
        sockets.wait(limit, server);
        sockets.turn(server)?;
        sockets.step(Input::Tick, server)?;
        if let Some(done) = server.progress() {
            sockets.world.progress(done, None);
        }
        if let Some(digests) = server.finished() {
            return Ok(digests);
        }
    }
}

/// Reads of the files what there is room for; how long the network alone may then be
/// waited for.
fn read(
    server: &mut Server,
    source: &mut Option<Box<dyn Source>>,
    world: &mut dyn World,
) -> Result<Duration, Error> {
    let failed = |why| Error::Source { why };
    if let Want::Open(number) = server.want() {
        *source = Some(world.source(number).map_err(failed)?);
        server.opened();
    }
    let (Want::Bytes(room), Some(reading)) = (server.want(), source) else { return Ok(TICK) };
    Ok(match reading.read(room).map_err(failed)? {
        Some(n) => {
            server.read(n);
            Duration::ZERO
        }
        None => SOON,
    })
}

/// What stands for a connection.
enum Socket {
    Dial(Dial),
    Open(Stream),
    /// The peer has ended it. It stays until the end wants it closed.
    Ended {
        _stream: Stream,
    },
    /// The host's name is not known.
    Unknown,
}

/// All sockets of an end.
struct Sockets<'a> {
    world: &'a mut dyn World,
    own: Ipv4Addr,
    data: OwnedFd,
    control: OwnedFd,
    all: Vec<(Conn, Socket)>,
    /// A receiver takes connections from these alone; from all when there is none.
    takes: Vec<Ipv4Addr>,
    strangers: Strangers,
    /// The next caller's number.
    callers: u32,
    buffer: Vec<u8>,
}

impl<'a> Sockets<'a> {
    fn open(own: Ipv4Addr, world: &'a mut dyn World) -> Result<Self, Error> {
        let data = listener(own, DATA_PORT)?;
        let control = listener(own, CONTROL_PORT)?;
        let buffer = alloc::vec![0; 16 << 10];
        let (all, takes, strangers) = (Vec::new(), Vec::new(), Strangers::default());
        Ok(Self { world, own, data, control, all, takes, strangers, callers: 0, buffer })
    }

    /// Waits until there is something to do, at most so long.
    fn wait(&mut self, limit: Duration, end: &mut dyn End) {
        let now = self.world.now();
        let mut limit = limit;
        let mut waiter = Waiter::default();
        waiter.reads(&self.data);
        waiter.reads(&self.control);
        for (conn, socket) in &self.all {
            match socket {
                Socket::Dial(dial) => {
                    limit = waiter.dials(dial, now, limit);
                }
                Socket::Open(stream) if *conn == Conn::Before => {
                    if !end.room().is_empty() {
                        waiter.reads(stream);
                    }
                }
                Socket::Open(stream) => {
                    let more = *conn == Conn::Next && !end.sending().is_empty();
                    waiter.both(stream, more || stream.pending());
                }
                Socket::Unknown => limit = Duration::ZERO,
                Socket::Ended { .. } => {}
            }
        }
        waiter.wait(limit);
    }

    /// Tells the end what happened, and does what it says.
    fn step(&mut self, input: Input<'_>, end: &mut dyn End) -> Result<(), Error> {
        let now = self.world.now();
        let outcome = end.step(input, now);
        while let Some(output) = end.output() {
            self.act(output);
        }
        outcome
    }

    fn act(&mut self, output: Output) {
        match output {
            Output::Dial { conn, host, port } => {
                let socket = match self.world.resolve(&host) {
                    Ok(ip) => Socket::Dial(Dial::new(self.own, SocketAddrV4::new(ip, port))),
                    Err(why) => {
                        self.world.say(Level::News, &format!("{host}: {why}"));
                        Socket::Unknown
                    }
                };
                self.all.push((conn, socket));
            }
            Output::Send(conn, bytes) => {
                if let Some(Socket::Open(stream)) = self.find(conn) {
                    // A break is noticed when reading.
                    let _ = stream.say(&bytes);
                }
            }
            Output::End(conn) => {
                if let Some(Socket::Open(stream)) = self.find(conn) {
                    stream.end();
                }
            }
            Output::Close(conn) => self.close(conn),
            Output::Say(text) => self.world.say(Level::News, &text),
            Output::Said(text) => self.world.say(Level::Detail, &text),
        }
    }

    fn at(&self, conn: Conn) -> Option<usize> {
        self.all.iter().position(|s| s.0 == conn)
    }

    fn find(&mut self, conn: Conn) -> Option<&mut Socket> {
        let at = self.at(conn)?;
        self.all.get_mut(at).map(|s| &mut s.1)
    }

    fn close(&mut self, conn: Conn) {
        if let Some(at) = self.at(conn) {
            self.all.swap_remove(at);
        }
    }

    /// Goes once over all sockets.
    fn turn(&mut self, end: &mut dyn End) -> Result<(), Error> {
        if let Some((stream, ip)) = accept(&self.data)
            && self.known(ip)
            && end.awaits()
        {
            self.close(Conn::Before);
            self.accepted(Conn::Before, stream, ip, end)?;
        }
        if let Some((stream, ip)) = accept(&self.control)
            && self.known(ip)
        {
            let conn = Conn::Caller(self.callers);
            self.callers = self.callers.wrapping_add(1);
            self.accepted(conn, stream, ip, end)?;
        }
        // That the host before has gone must be known before the next one's leaving is
        // judged.
        self.serve(Conn::Before, end)?;
        // What one of them brings may close another.
        let conns: Vec<Conn> = self.all.iter().map(|s| s.0).collect();
        for conn in conns {
            if conn != Conn::Before {
                self.serve(conn, end)?;
            }
        }
        Ok(())
    }

    /// Whether a connection from this address is taken.
    fn known(&mut self, ip: Ipv4Addr) -> bool {
        let known = self.takes.is_empty() || self.takes.contains(&ip);
        if !known {
            self.strangers.meet(ip, NOT_NAMED, self.world);
        }
        known
    }

    fn serve(&mut self, conn: Conn, end: &mut dyn End) -> Result<(), Error> {
        match self.find(conn) {
            Some(Socket::Open(_)) => self.stream(conn, end),
            Some(Socket::Dial(_) | Socket::Unknown) => self.dial(conn, end),
            Some(Socket::Ended { .. }) | None => Ok(()),
        }
    }

    fn accepted(
        &mut self,
        conn: Conn,
        stream: Stream,
        ip: Ipv4Addr,
        end: &mut dyn End,
    ) -> Result<(), Error> {
        stream.patience(SILENT);
        self.all.push((conn, Socket::Open(stream)));
        self.step(Input::Accepted(conn, ip), end)
    }

    /// Goes on dialling.
    fn dial(&mut self, conn: Conn, end: &mut dyn End) -> Result<(), Error> {
        let now = self.world.now();
        let why = match self.find(conn) {
            Some(Socket::Unknown) => "its name is not known".to_string(),
            Some(Socket::Dial(dial)) => {
                let tries = dial.tries;
                if let Some(stream) = dial.poll(now) {
                    stream.patience(SILENT);
                    self.close(conn);
                    self.all.push((conn, Socket::Open(stream)));
                    return self.step(Input::Connected(conn), end);
                }
                if dial.tries == tries {
                    return Ok(());
                }
                dial.failed.take().unwrap_or_default()
            }
            _ => return Ok(()),
        };
        self.step(Input::Refused(conn, &why), end)
    }

    /// Reads and writes.
    fn stream(&mut self, conn: Conn, end: &mut dyn End) -> Result<(), Error> {
        let broken = match conn {
            Conn::Before => self.take_in(end)?,
            _ => self.hear(conn, end)?,
        };
        let broken = match broken {
            None if conn == Conn::Next => self.pass_on(end),
            broken => broken,
        };
        let Some(why) = broken else { return Ok(()) };
        if let Some(at) = self.at(conn)
            && let (_, Socket::Open(stream)) = self.all.swap_remove(at)
        {
            self.all.push((conn, Socket::Ended { _stream: stream }));
        }
        self.step(Input::Closed(conn, &why), end)
    }

    /// Reads what the host before sends to where it stays. Why it is over, if it is.
    fn take_in(&mut self, end: &mut dyn End) -> Result<Option<String>, Error> {
        for _ in 0..READS {
            let now = self.world.now();
            let Some(Socket::Open(stream)) = self.find(Conn::Before) else { break };
            let room = end.room();
            if room.is_empty() {
                break;
            }
            match stream.hear(room) {
                Ok(0) => break,
                Ok(n) => {
                    let outcome = end.received(n, now);
                    while let Some(output) = end.output() {
                        self.act(output);
                    }
                    outcome?;
                }
                Err(why) => return Ok(Some(why)),
            }
        }
        Ok(None)
    }

    /// Reads what any other peer says. Why it is over, if it is.
    fn hear(&mut self, conn: Conn, end: &mut dyn End) -> Result<Option<String>, Error> {
        let mut buffer = core::mem::take(&mut self.buffer);
        let read = match self.find(conn) {
            Some(Socket::Open(stream)) => stream.hear(&mut buffer),
            _ => Ok(0),
        };
        let outcome = match read {
            Ok(0) => Ok(None),
            Ok(n) => {
                let bytes = buffer.get(..n).unwrap_or_default();
                self.step(Input::Heard(conn, bytes), end).map(|()| None)
            }
            Err(why) => Ok(Some(why)),
        };
        self.buffer = buffer;
        outcome
    }

    /// Sends the stream to the next host. Why it is over, if it is.
    fn pass_on(&mut self, end: &mut dyn End) -> Option<String> {
        let now = self.world.now();
        let Some(Socket::Open(stream)) = self.find(Conn::Next) else { return None };
        while !stream.pending() {
            let bytes = end.sending();
            if bytes.is_empty() {
                break;
            }
            match stream.write(bytes) {
                Ok(0) => break,
                Ok(n) => {
                    let all = n == bytes.len();
                    end.sent(n, now);
                    if !all {
                        break;
                    }
                }
                Err(why) => return Some(why),
            }
        }
        None
    }
}
