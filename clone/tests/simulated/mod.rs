//! A simulated room for Dolly+: hosts with the real state machines, and between them
//! connections with delay, of bounded size, that end as those of a kernel do.
//!
//! Time jumps from event to event. All chance comes from one seed.

#![allow(dead_code)]

use clone::Error;
use clone::digest::Meter;
use clone::dollyplus::backlog::Sizes;
use clone::dollyplus::io::{Conn, End, Input, Output};
use clone::dollyplus::node::Node;
use clone::dollyplus::server::Server;
use clone::dollyplus::{CONTROL_PORT, Todo, Want, wire};
use clone::guard::Kept;
use clone::outcome::{Patience, Received, Sent};
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
/// What a connection holds on its way.
pub const ON_THE_WAY: usize = 1 << 10;
/// As the real ones, a four-thousandth.
pub const SIZES: Sizes = Sizes { lead: 4 << 10, behind: 14 << 10, chunk: 1 << 10 };
/// The real ends' limits for a peer that acknowledges nothing: with data on the way to
/// it, and without.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
const KEPT_ALIVE: Duration = Duration::from_secs(50);
const PATIENCE: Duration = Duration::from_secs(200);

/// When something happens to a host.
#[derive(Debug, Clone, Copy)]
pub enum At {
    Time(Duration),
    /// So many bytes have come to it.
    Bytes(u64),
}

/// What happens to a host.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    /// Its program ends: its kernel closes its connections, and refuses others.
    Dies(At),
    /// Its power goes: nothing comes from it any more.
    Silent(At),
    /// The same, but after so long it goes on as if nothing had been.
    Sleeps(At, Duration),
    /// Its program stands still; its kernel goes on.
    Hangs(At),
    /// Its disk takes so many bytes in such a time.
    Slow(usize, Duration),
    /// Its disk is full after so many bytes.
    Full(usize),
    /// What it stores is something else.
    Spoils,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Runs,
    Dead,
    Silent,
    Hangs,
}

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    queue: VecDeque<(Duration, Vec<u8>)>,
    size: usize,
    last: Duration,
    fin: Option<Duration>,
}

struct Wire {
    /// The host at either side.
    hosts: [usize; 2],
    /// From this side to the other.
    pipes: [Pipe; 2],
    closed: [bool; 2],
    moved: Duration,
}

enum Socket {
    /// `wire` once the peer's kernel has accepted; that is known here at `due`.
    Dial {
        host: usize,
        port: u16,
        due: Duration,
        wire: Option<usize>,
    },
    Open {
        wire: usize,
        side: usize,
        out: Vec<u8>,
        ended: bool,
    },
}

enum Core {
    Node(Box<Node>),
    Server(Box<Server>),
}

impl Core {
    fn end(&mut self) -> &mut dyn End {
        match self {
            Self::Node(node) => &mut **node,
            Self::Server(server) => &mut **server,
        }
    }
}

struct Host {
    core: Core,
    state: State,
    since: Duration,
    wakes: Option<Duration>,
    fates: Vec<Fate>,
    sockets: Vec<(Conn, Socket)>,
    /// Connections that no listener has accepted yet.
    waiting: VecDeque<(u16, usize)>,
    callers: u32,
    received: u64,
    /// The disk takes nothing before then.
    rests: Duration,
    /// The file that is open, and what is in it.
    file: Option<(String, Vec<u8>, Meter)>,
    over: bool,
}

/// How it went.
pub struct Outcome {
    pub server: Option<Result<Sent, Error>>,
    /// Of client 1 and so on.
    pub clients: Vec<Option<Result<Received, Error>>>,
    pub files: Vec<BTreeMap<String, Vec<u8>>>,
    pub said: Vec<String>,
    pub took: Duration,
    /// So far the server read ahead of what had come to its first client.
    pub ahead: u64,
    /// The most words that lay at a host, in bytes.
    pub words: usize,
}

pub struct Room {
    now: Duration,
    /// In this turn something went on: there may be more to do at once.
    moved: bool,
    hosts: Vec<Host>,
    wires: Vec<Wire>,
    files: Vec<Vec<u8>>,
    read: usize,
    number: usize,
    sent: u64,
    random: u64,
    pub outcome: Outcome,
}

pub fn name(host: usize) -> String {
    format!("h{host}")
}

/// Runs a room of `clients` until all have ended.
pub fn run(clients: usize, files: &[Vec<u8>], fates: &[(usize, Fate)], seed: u64) -> Outcome {
    let mut room = Room::new(clients, files, fates, seed);
    while room.turn() {}
    room.outcome
}

impl Room {
    pub fn new(clients: usize, files: &[Vec<u8>], fates: &[(usize, Fate)], seed: u64) -> Self {
        let patience = Patience { start: Some(PATIENCE), stall: Some(PATIENCE) };
        let names: Vec<String> = (1..=clients).map(name).collect();
        let outputs: Vec<wire::Output> = (0..files.len())
            .map(|i| wire::Output { path: format!("/f{i}"), cook: Default::default() })
            .collect();
        let host = |i: usize| Host {
            core: if i == 0 {
                let zero = Duration::ZERO;
                let server = Server::new(&name(0), &names, &outputs, patience, SIZES, zero);
                Core::Server(Box::new(server))
            } else {
                Core::Node(Box::new(Node::new(patience, SIZES, Duration::ZERO)))
            },
            state: State::Runs,
            since: Duration::ZERO,
            wakes: None,
            fates: fates.iter().filter(|f| f.0 == i).map(|f| f.1).collect(),
            sockets: Vec::new(),
            waiting: VecDeque::new(),
            callers: 0,
            received: 0,
            rests: Duration::ZERO,
            file: None,
            over: false,
        };
        Self {
            now: Duration::ZERO,
            moved: false,
            hosts: (0..=clients).map(host).collect(),
            wires: Vec::new(),
            files: files.to_vec(),
            read: 0,
            number: 0,
            sent: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            outcome: Outcome {
                server: None,
                clients: vec![None; clients],
                files: vec![BTreeMap::new(); clients + 1],
                said: Vec::new(),
                took: Duration::ZERO,
                ahead: 0,
                words: 0,
            },
        }
    }

    /// One to three milliseconds.
    fn delay(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        MS * (1 + (self.random % 3) as u32)
    }

    /// All hosts once; false when all is over.
    fn turn(&mut self) -> bool {
        self.moved = false;
        for i in 0..self.hosts.len() {
            self.fates(i);
            if self.hosts[i].state == State::Runs {
                self.host(i);
            }
        }
        self.outcome.took = self.now;
        assert!(self.now < SECOND * 3600, "a machine waits for ever");
        self.now = self.next_event();
        self.hosts.iter().any(|h| h.state == State::Runs || h.wakes.is_some())
    }

    /// The next moment at which something may happen.
    fn next_event(&self) -> Duration {
        if self.moved {
            return self.now + MS;
        }
        // A whole second, for timers.
        let mut next = SECOND * (self.now.as_secs() as u32 + 1);
        let mut at = |t: Duration| {
            if t > self.now {
                next = next.min(t);
            }
        };
        for pipe in self.wires.iter().flat_map(|w| &w.pipes) {
            pipe.queue.front().into_iter().for_each(|f| at(f.0));
            pipe.fin.into_iter().for_each(&mut at);
        }
        for host in self.hosts.iter().filter(|h| h.state == State::Runs) {
            at(host.rests);
            for fate in &host.fates {
                if let Fate::Dies(At::Time(t)) | Fate::Silent(At::Time(t)) = fate {
                    at(*t);
                }
                if let Fate::Sleeps(At::Time(t), _) = fate {
                    at(*t);
                }
            }
            for (_, socket) in &host.sockets {
                if let Socket::Dial { due, .. } = socket {
                    at(*due);
                }
            }
        }
        next
    }

    /// What happens to a host now.
    fn fates(&mut self, i: usize) {
        if let Some(until) = self.hosts[i].wakes.filter(|t| self.now >= *t) {
            self.hosts[i].wakes = None;
            if self.hosts[i].state == State::Silent {
                self.hosts[i].state = State::Runs;
                self.hosts[i].fates.retain(|f| !matches!(f, Fate::Sleeps(..)));
                assert!(until <= self.now);
            }
        }
        if self.hosts[i].state != State::Runs {
            return;
        }
        for fate in self.hosts[i].fates.clone() {
            let (at, state) = match fate {
                Fate::Dies(at) => (at, State::Dead),
                Fate::Silent(at) | Fate::Sleeps(at, _) => (at, State::Silent),
                Fate::Hangs(at) => (at, State::Hangs),
                _ => continue,
            };
            let due = match at {
                At::Time(t) => self.now >= t,
                At::Bytes(n) => self.hosts[i].received >= n,
            };
            if due {
                if let Fate::Sleeps(_, long) = fate {
                    self.hosts[i].wakes = Some(self.now + long);
                }
                self.ends(i, state);
                return;
            }
        }
    }

    fn ends(&mut self, i: usize, state: State) {
        self.hosts[i].state = state;
        self.hosts[i].since = self.now;
        if state == State::Dead {
            for wire in 0..self.wires.len() {
                for side in 0..2 {
                    if self.wires[wire].hosts[side] == i {
                        self.close(wire, side);
                    }
                }
            }
        }
    }

    fn close(&mut self, wire: usize, side: usize) {
        self.wires[wire].closed[side] = true;
        self.fin(wire, side);
    }

    fn fin(&mut self, wire: usize, side: usize) {
        let at = self.now + self.delay();
        let pipe = &mut self.wires[wire].pipes[side];
        pipe.fin = pipe.fin.or(Some(at.max(pipe.last)));
    }

    fn step(&mut self, i: usize, input: Input<'_>) {
        let outcome = self.hosts[i].core.end().step(input, self.now);
        self.outputs(i);
        self.judge(i, outcome);
    }

    fn judge(&mut self, i: usize, outcome: Result<(), Error>) {
        if let Err(e) = outcome
            && !self.hosts[i].over
        {
            match i {
                0 => self.outcome.server = Some(Err(e)),
                _ => self.outcome.clients[i - 1] = Some(Err(e)),
            }
            self.over(i);
        }
    }

    /// The program has ended: like dying, as far as others can see.
    fn over(&mut self, i: usize) {
        self.hosts[i].over = true;
        self.ends(i, State::Dead);
    }

    fn outputs(&mut self, i: usize) {
        while let Some(output) = self.hosts[i].core.end().output() {
            self.moved = true;
            match output {
                Output::Dial { conn, host, port } => {
                    assert!(self.find(i, conn).is_none(), "{i} has {conn:?} already");
                    let host: usize = host[1..].parse().unwrap();
                    let due = self.dial_due(host);
                    self.hosts[i]
                        .sockets
                        .push((conn, Socket::Dial { host, port, due, wire: None }));
                }
                Output::Send(conn, bytes) => {
                    if let Some(at) = self.find(i, conn)
                        && let (_, Socket::Open { out, .. }) = &mut self.hosts[i].sockets[at]
                    {
                        out.extend(bytes);
                        self.outcome.words = self.outcome.words.max(out.len());
                        self.flush(i, conn);
                    }
                }
                Output::End(conn) => {
                    if let Some(at) = self.find(i, conn)
                        && let (_, Socket::Open { wire, side, .. }) = self.hosts[i].sockets[at]
                    {
                        self.fin(wire, side);
                    }
                }
                Output::Close(conn) => {
                    let Some(at) = self.find(i, conn) else { continue };
                    match self.hosts[i].sockets.remove(at).1 {
                        Socket::Open { wire, side, .. } => self.close(wire, side),
                        Socket::Dial { wire: Some(wire), .. } => self.close(wire, 0),
                        Socket::Dial { .. } => {}
                    }
                }
                Output::Say(text) | Output::Said(text) => {
                    self.outcome.said.push(format!("{}: {text}", name(i)))
                }
            }
        }
    }

    fn find(&self, i: usize, conn: Conn) -> Option<usize> {
        self.hosts[i].sockets.iter().position(|s| s.0 == conn)
    }

    /// When a try to connect has an outcome.
    fn dial_due(&mut self, host: usize) -> Duration {
        let silent = self.hosts[host].state == State::Silent;
        self.now + if silent { SECOND * 3 } else { self.delay() }
    }

    /// A host's turn, as the loop at the sockets does it.
    fn host(&mut self, i: usize) {
        self.outputs(i);
        self.accept(i);
        let mut conns: Vec<Conn> = self.hosts[i].sockets.iter().map(|s| s.0).collect();
        conns.sort_by_key(|c| *c != Conn::Before);
        for conn in conns {
            let Some(at) = self.find(i, conn) else { continue };
            if self.hosts[i].over {
                return;
            }
            match self.hosts[i].sockets[at].1 {
                Socket::Dial { due, .. } if due > self.now => {}
                Socket::Dial { host, port, wire, .. } => self.dial(i, at, host, port, wire),
                Socket::Open { ended: true, .. } => {}
                Socket::Open { wire, side, .. } => self.stream(i, conn, wire, side),
            }
        }
        self.disk(i);
        self.source(i);
        if !self.hosts[i].over {
            self.step(i, Input::Tick);
        }
        self.finish(i);
    }

    fn finish(&mut self, i: usize) {
        if self.hosts[i].over {
            return;
        }
        match &mut self.hosts[i].core {
            Core::Node(node) => {
                let Some(got) = node.finished() else { return };
                self.outcome.clients[i - 1] = Some(Ok(got));
            }
            Core::Server(server) => {
                let Some(digests) = server.finished() else { return };
                let clients = server.clients().to_vec();
                self.outcome.server = Some(Ok(Sent { digests, clients }));
            }
        }
        self.over(i);
    }

    fn accept(&mut self, i: usize) {
        let waiting = core::mem::take(&mut self.hosts[i].waiting);
        for (port, wire) in waiting {
            let conn = if port == CONTROL_PORT {
                self.hosts[i].callers += 1;
                Conn::Caller(self.hosts[i].callers)
            } else if self.hosts[i].core.end().awaits() {
                if let Some(at) = self.find(i, Conn::Before)
                    && let (_, Socket::Open { wire, side, .. }) = self.hosts[i].sockets.remove(at)
                {
                    self.close(wire, side);
                }
                Conn::Before
            } else {
                self.close(wire, 1);
                continue;
            };
            let socket = Socket::Open { wire, side: 1, out: Vec::new(), ended: false };
            self.hosts[i].sockets.push((conn, socket));
            self.step(i, Input::Accepted(conn, Ipv4Addr::LOCALHOST));
        }
    }

    /// A try to connect has come to the peer, or its answer back.
    fn dial(&mut self, i: usize, at: usize, host: usize, port: u16, wire: Option<usize>) {
        self.moved = true;
        let conn = self.hosts[i].sockets[at].0;
        if let Some(wire) = wire {
            let socket = Socket::Open { wire, side: 0, out: Vec::new(), ended: false };
            self.hosts[i].sockets[at].1 = socket;
            return self.step(i, Input::Connected(conn));
        }
        let why = match self.hosts[host].state {
            State::Dead => "connection refused",
            State::Silent => "no answer",
            State::Runs | State::Hangs => {
                let wire = self.wires.len();
                self.wires.push(Wire {
                    hosts: [i, host],
                    pipes: Default::default(),
                    closed: [false; 2],
                    moved: self.now,
                });
                self.hosts[host].waiting.push_back((port, wire));
                let due = self.now + self.delay();
                self.hosts[i].sockets[at].1 = Socket::Dial { host, port, due, wire: Some(wire) };
                return;
            }
        };
        let due = self.dial_due(host) + SECOND;
        self.hosts[i].sockets[at].1 = Socket::Dial { host, port, due, wire: None };
        self.step(i, Input::Refused(conn, why));
    }

    /// Reads, writes, and notices the end.
    fn stream(&mut self, i: usize, conn: Conn, wire: usize, side: usize) {
        self.flush(i, conn);
        if conn == Conn::Before {
            self.take_in(i, wire, 1 - side);
        } else {
            let mut buffer = vec![0; 4096];
            let n = self.wires[wire].read(1 - side, &mut buffer, self.now);
            self.moved |= n > 0;
            if n > 0 {
                self.step(i, Input::Heard(conn, &buffer[..n]));
            }
        }
        // What it said may have closed this connection.
        let still = |room: &Self| {
            room.find(i, conn).is_some_and(|at| {
                matches!(room.hosts[i].sockets[at].1, Socket::Open { wire: w, .. } if w == wire)
            })
        };
        if conn == Conn::Next && still(self) && !self.hosts[i].over {
            self.pass_on(i, wire, side);
        }
        if self.hosts[i].over || !still(self) {
            return;
        }
        if let Some(why) = self.broken(wire, side) {
            let at = self.find(i, conn).unwrap();
            if let (_, Socket::Open { ended, .. }) = &mut self.hosts[i].sockets[at] {
                *ended = true;
            }
            self.step(i, Input::Closed(conn, why));
        }
    }

    fn take_in(&mut self, i: usize, wire: usize, from: usize) {
        for _ in 0..4 {
            let room = self.hosts[i].core.end().room();
            let n = self.wires[wire].read(from, room, self.now);
            if n == 0 {
                break;
            }
            self.moved = true;
            self.hosts[i].received += n as u64;
            let outcome = self.hosts[i].core.end().received(n, self.now);
            self.outputs(i);
            self.judge(i, outcome);
            if self.hosts[i].over {
                return;
            }
        }
    }

    fn pass_on(&mut self, i: usize, wire: usize, side: usize) {
        let at = self.find(i, Conn::Next).unwrap();
        if matches!(&self.hosts[i].sockets[at].1, Socket::Open { out, .. } if !out.is_empty()) {
            return;
        }
        loop {
            let bytes = self.hosts[i].core.end().sending().to_vec();
            let n = self.write(wire, side, &bytes);
            if n == 0 {
                break;
            }
            self.hosts[i].core.end().sent(n, self.now);
            if i == 0 {
                self.sent += n as u64;
            }
        }
    }

    fn flush(&mut self, i: usize, conn: Conn) {
        let at = self.find(i, conn).unwrap();
        if let (_, Socket::Open { wire, side, out, .. }) = &mut self.hosts[i].sockets[at] {
            let (wire, side) = (*wire, *side);
            let bytes = core::mem::take(out);
            let n = self.write(wire, side, &bytes);
            if let (_, Socket::Open { out, .. }) = &mut self.hosts[i].sockets[at] {
                *out = bytes[n..].to_vec();
            }
        }
    }

    fn write(&mut self, wire: usize, side: usize, bytes: &[u8]) -> usize {
        let at = self.now + self.delay();
        let wire = &mut self.wires[wire];
        let gone = wire.closed[1 - side];
        let pipe = &mut wire.pipes[side];
        assert!(pipe.fin.is_none() || bytes.is_empty(), "writes after the end");
        if gone {
            // No peer reads it.
            return bytes.len();
        }
        let n = bytes.len().min(ON_THE_WAY - pipe.size);
        if n > 0 {
            pipe.last = pipe.last.max(at);
            pipe.queue.push_back((pipe.last, bytes[..n].to_vec()));
            pipe.size += n;
            wire.moved = self.now;
            self.moved = true;
        }
        n
    }

    /// Why this side of a connection is at its end, if it is.
    fn broken(&self, wire: usize, side: usize) -> Option<&'static str> {
        let index = 2 * wire + side;
        let wire = &self.wires[wire];
        let pipe = &wire.pipes[1 - side];
        if pipe.queue.is_empty() && pipe.fin.is_some_and(|t| t <= self.now) {
            return Some("it has closed the connection");
        }
        let peer = &self.hosts[wire.hosts[1 - side]];
        if peer.state == State::Silent {
            let unread = wire.pipes[side].size > 0;
            let limit = if unread { UNACKNOWLEDGED } else { KEPT_ALIVE };
            // No two kernels find it at the same time.
            let limit = limit + SECOND * (index as u32 % 5);
            return (self.now >= peer.since.max(wire.moved) + limit).then_some("no answer");
        }
        None
    }

    fn disk(&mut self, i: usize) {
        let fates = self.hosts[i].fates.clone();
        let slow = fates.iter().find_map(|f| match f {
            Fate::Slow(n, every) => Some((*n, *every)),
            _ => None,
        });
        let mut budget = slow.map(|(n, _)| if self.now < self.hosts[i].rests { 0 } else { n });
        let full = fates.iter().find_map(|f| match f {
            Fate::Full(n) => Some(*n),
            _ => None,
        });
        let spoils = fates.iter().any(|f| matches!(f, Fate::Spoils));
        let now = self.now;
        let host = &mut self.hosts[i];
        let Core::Node(node) = &mut host.core else { return };
        loop {
            match (node.todo(), &mut host.file) {
                (Todo::Open(file), _) => {
                    host.file = Some((file.path.clone(), Vec::new(), Meter::default()));
                    node.opened();
                }
                (Todo::Store(bytes), Some((_, held, meter))) => {
                    if full.is_some_and(|n| held.len() + bytes.len() > n) {
                        host.file = None;
                        node.store_failed("no space left");
                        continue;
                    }
                    let n = bytes.len().min(budget.unwrap_or(usize::MAX));
                    if n == 0 {
                        break;
                    }
                    held.extend(&bytes[..n]);
                    meter.update(&bytes[..n]);
                    budget = budget.map(|b| b - n);
                    if let Some((_, every)) = slow {
                        host.rests = now + every;
                    }
                    node.stored(n, now);
                    self.moved = true;
                }
                (Todo::Finish, file) => {
                    let (path, held, mut meter) = file.take().unwrap();
                    if spoils {
                        meter.update(b"!");
                    }
                    self.outcome.files[i].insert(path, held);
                    let digest = meter.digest();
                    node.kept(Kept { digest, read_back: true, pinned: false });
                }
                _ => break,
            }
        }
    }

    /// The server reads its files.
    fn source(&mut self, i: usize) {
        let first = self.hosts.get(1).map_or(0, |h| h.received);
        let Core::Server(server) = &mut self.hosts[i].core else { return };
        loop {
            match server.want() {
                Want::Open(number) => {
                    (self.number, self.read) = (number, 0);
                    server.opened();
                }
                Want::Bytes(room) => {
                    let rest = &self.files[self.number][self.read..];
                    // As a pipe brings it.
                    let n = room.len().min(rest.len()).min(1500);
                    room[..n].copy_from_slice(&rest[..n]);
                    self.read += n;
                    server.read(n);
                    self.moved = true;
                    let read: usize = self.files[..self.number].iter().map(Vec::len).sum();
                    let ahead = (read + self.read) as u64;
                    self.outcome.ahead = self.outcome.ahead.max(ahead.saturating_sub(first));
                }
                Want::Nothing => break,
            }
        }
    }
}

impl Wire {
    fn read(&mut self, from: usize, buffer: &mut [u8], now: Duration) -> usize {
        let pipe = &mut self.pipes[from];
        let mut n = 0;
        while n < buffer.len()
            && let Some((_, bytes)) = pipe.queue.front_mut().filter(|f| f.0 <= now)
        {
            let some = bytes.len().min(buffer.len() - n);
            buffer[n..n + some].copy_from_slice(&bytes[..some]);
            bytes.drain(..some);
            n += some;
            if bytes.is_empty() {
                pipe.queue.pop_front();
            }
        }
        pipe.size -= n;
        n
    }
}
