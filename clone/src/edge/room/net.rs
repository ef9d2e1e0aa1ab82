//! The connections of a machine of a room.

use crate::Error;
use crate::edge::net::{Stream, Waiter, accept, random};
use crate::pact::Key;
use crate::room::Peer;
use crate::room::numbered::Numbered;
use crate::room::wire::{Frame, Line, Message, Most};
use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::system::sysinfo;

/// So much may wait for a connection before it gets another chunk.
pub const ENOUGH: usize = 2 << 20;
/// So much may wait for all of them; more only for one that has nothing.
const ALL: usize = 256 << 20;
/// The most that is read of a connection to a machine that sends chunks before the next one's
/// turn, and the most messages in it.
const TURN: (usize, usize) = (4 << 20, 4096);
/// The same of a machine that has called: it asks and reports.
const CALLER: (usize, usize) = (64 << 10, 256);
/// Who says nothing says that it is there.
const PING: Duration = Duration::from_secs(2);
/// A machine whose kernel acknowledges nothing for so long is gone.
const DEAD: Duration = Duration::from_secs(10);
/// A machine that acknowledges, and says nothing for so long: it hangs.
const HANGS: Duration = Duration::from_secs(120);
/// A connection says within this time what it is for.
const PROVE: Duration = Duration::from_secs(10);
/// The most connections where the system's limit of descriptors is the usual 1024.
pub const MOST: usize = 960;
/// The most that have not said yet what they are for.
const UNPROVEN: usize = 256;
/// The most from one address.
const EACH: usize = 128;
/// The most that are taken before those that stand have their turn.
const TAKES: usize = 64;

#[derive(Debug)]
struct Conn {
    stream: Stream,
    line: Line,
    ip: Ipv4Addr,
    /// This machine has called.
    dialled: bool,
    /// It is known what it is for.
    proven: bool,
    since: Duration,
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
    conns: Numbered<Conn>,
    next: Peer,
    listener: OwnedFd,
    key: Option<Key>,
    buffer: Vec<u8>,
    /// The most connections.
    pub most: usize,
    /// The longest frames of connections to come.
    pub frames: Most,
    /// Nothing is read from this one for now.
    pub paused: Option<Peer>,
}

impl Net {
    /// With this listener, and perhaps a key.
    pub fn new(listener: OwnedFd, key: Option<Key>) -> Self {
        // An eighth of the machine's memory for what may be a stranger's.
        let memory = sysinfo();
        let memory = memory.totalram.saturating_mul(memory.mem_unit.into());
        let longest = usize::try_from(memory / 8).unwrap_or(usize::MAX);
        let frames = Most::default();
        let frames = Most { manifest: frames.manifest.min(longest), ..frames };
        let (conns, buffer) = (Numbered::default(), vec![0; 256 << 10]);
        let (most, paused) = (MOST, None);
        Self { conns, next: 0, listener, key, buffer, most, frames, paused }
    }

    /// Takes a connection that stands.
    pub fn add(&mut self, stream: Stream, ip: Ipv4Addr, dialled: bool, now: Duration) -> Peer {
        stream.patience(DEAD);
        let line = Line::new(self.key.clone(), random(), dialled).limited(self.frames);
        let peer = self.next;
        self.next = self.next.wrapping_add(1);
        let hello = Frame { head: line.hello().to_vec(), data: None };
        let queued = hello.head.len();
        let conn = Conn {
            stream,
            line,
            ip,
            dialled,
            proven: false,
            since: now,
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
        self.conns.get(peer).map_or(Ipv4Addr::UNSPECIFIED, |conn| conn.ip)
    }

    /// The address of this machine, as that one sees it.
    pub fn own(&self, peer: Peer) -> Option<Ipv4Addr> {
        self.conns.get(peer).and_then(|conn| conn.stream.own_address())
    }

    /// Says something, when the other end has said hello.
    pub fn say(&mut self, peer: Peer, message: &Message, now: Duration) {
        let Some(conn) = self.conns.get_mut(peer).filter(|conn| conn.up) else { return };
        let frame = conn.line.say(message);
        conn.queued += frame.head.len() + frame.data.as_ref().map_or(0, |data| data.len());
        conn.out.push_back(frame);
        conn.said = now;
    }

    /// It is known what this connection is for: it may stay.
    pub fn prove(&mut self, peer: Peer) {
        if let Some(conn) = self.conns.get_mut(peer) {
            conn.proven = true;
        }
    }

    /// Closes a connection, when all is said.
    pub fn hang(&mut self, peer: Peer) {
        if let Some(conn) = self.conns.get_mut(peer) {
            conn.closing = true;
        }
    }

    /// The machines that can take a chunk now.
    pub fn hungry(&self) -> Vec<Peer> {
        let all: usize = self.conns.iter().map(|(_, conn)| conn.queued).sum();
        let enough = if all < ALL { ENOUGH } else { 1 };
        let conns = self.conns.iter().filter(|(_, conn)| conn.up && conn.queued < enough);
        conns.map(|(peer, _)| peer).collect()
    }

    /// Whether this one can.
    pub fn is_hungry(&self, peer: Peer) -> bool {
        self.conns.get(peer).is_some_and(|conn| conn.queued < ENOUGH)
    }

    /// Whether all is said.
    pub fn quiet(&self) -> bool {
        self.conns.iter().all(|(_, conn)| conn.out.is_empty() || !conn.up)
    }

    /// Waits for something to happen, or for room for what is `full`, at most so long.
    pub fn wait(&self, others: &[BorrowedFd<'_>], full: Option<BorrowedFd<'_>>, limit: Duration) {
        let mut waiter = Waiter::default();
        waiter.reads(&self.listener);
        if let Some(fd) = &full {
            waiter.writes(fd);
        }
        for fd in others {
            waiter.reads(fd);
        }
        for (peer, conn) in self.conns.iter() {
            match (self.paused == Some(peer), conn.out.is_empty()) {
                (true, true) => continue,
                (true, false) => waiter.writes(&conn.stream),
                (false, quiet) => waiter.both(&conn.stream, !quiet),
            };
        }
        waiter.wait(limit);
    }

    /// Takes, reads and sends what can be.
    pub fn round(&mut self, now: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..TAKES {
            let Some((stream, ip)) = accept(&self.listener) else { break };
            self.add(stream, ip, false, now);
            if let Some((peer, why)) = self.surplus(ip) {
                let of = self.conns.remove(peer).map_or(ip, |conn| conn.ip);
                events.push(Event::Down(peer, of, why.to_string()));
            }
        }
        let mut ended = Vec::new();
        for (peer, conn) in self.conns.iter_mut() {
            if conn.up && now.saturating_sub(conn.said) >= PING && conn.out.is_empty() {
                let ping = conn.line.say(&Message::Ping);
                conn.queued += ping.head.len();
                conn.out.push_back(ping);
                conn.said = now;
            }
            // The other end hears who this is, even when it does not fit.
            let done = if conn.up { Ok(()) } else { conn.write() };
            let done = match self.paused == Some(peer) {
                true => done,
                false => done.and_then(|()| conn.read(peer, &mut self.buffer, &mut events, now)),
            };
            let done = done.and_then(|()| conn.write());
            let done = match done {
                Ok(()) if conn.closing && conn.out.is_empty() => Err("closed".to_string()),
                Ok(()) if now.saturating_sub(conn.heard) >= HANGS => Err("no answer".to_string()),
                Ok(()) if conn.idles(now) => Err("it does not say what it is for".to_string()),
                done => done,
            };
            if let Err(why) = done {
                ended.push((peer, why));
            }
        }
        for (peer, why) in ended {
            if let Some(conn) = self.conns.remove(peer) {
                events.push(Event::Down(peer, conn.ip, why));
            }
        }
        events
    }
}

impl Net {
    /// After a connection from this address: one that has to go, and why. Connections that say
    /// nothing make room for those that may say something.
    fn surplus(&self, ip: Ipv4Addr) -> Option<(Peer, &'static str)> {
        let of = |ip: Ipv4Addr| self.conns.iter().filter(move |(_, conn)| conn.ip == ip);
        if of(ip).count() > EACH {
            let newest = of(ip).next_back().map(|(peer, _)| peer);
            return newest.map(|peer| (peer, "it has too many connections"));
        }
        let mut waiting = self.conns.iter().filter(|(_, conn)| !conn.dialled && !conn.proven);
        let (oldest, _) = waiting.next()?;
        let surplus = self.conns.len() > self.most || waiting.count() >= UNPROVEN;
        surplus.then_some((oldest, "it says nothing, and others wait"))
    }
}

impl Conn {
    /// Whether it has had time enough to say what it is for.
    fn idles(&self, now: Duration) -> bool {
        let said = if self.dialled { self.up } else { self.proven };
        !said && now.saturating_sub(self.since) >= PROVE
    }

    fn read(
        &mut self,
        peer: Peer,
        buffer: &mut [u8],
        events: &mut Vec<Event>,
        now: Duration,
    ) -> Result<(), String> {
        let (mut got, mut messages) = (0, Vec::new());
        let mut end = Ok(());
        let (turn, most) = if self.dialled { TURN } else { CALLER };
        while got < turn {
            let at_once = (turn - got).min(buffer.len());
            match self.stream.read(buffer.get_mut(..at_once).unwrap_or_default()) {
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
                    if messages.len() > most {
                        return Err("says too much at once".to_string());
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

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::SocketAddrV4;

    const NOW: Duration = Duration::ZERO;

    /// The connections of a machine at 127.`net`.0.1, and its address.
    fn net(last: u8, key: Option<Key>) -> (Net, SocketAddrV4) {
        let own = Ipv4Addr::new(127, 91, 0, last);
        let fd = crate::edge::net::listener(own, 0).unwrap();
        let address = rustix::net::getsockname(&fd).unwrap();
        (Net::new(fd, key), SocketAddrV4::try_from(address).unwrap())
    }

    fn call(to: SocketAddrV4, from: u8) -> Caller {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&fd, &SocketAddrV4::new(Ipv4Addr::new(127, 91, 1, from), 0)).unwrap();
        connect(&fd, &to).unwrap();
        Caller(fd)
    }

    /// A machine that has called.
    struct Caller(OwnedFd);

    impl Caller {
        fn says(&self, bytes: &[u8]) {
            assert_eq!(rustix::io::write(&self.0, bytes), Ok(bytes.len()));
        }
    }

    /// Rounds until nothing happens any more; what ended, and why.
    fn ends(net: &mut Net, now: Duration) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..200 {
            net.wait(&[], None, Duration::from_millis(2));
            all.extend(net.round(now).into_iter().filter_map(|event| match event {
                Event::Down(_, _, why) => Some(why),
                _ => None,
            }));
        }
        all
    }

    /// Forty such frames were 668 MB of a sender's memory, whether it had a key or not.
    #[test]
    fn a_caller_sends_no_long_frames() {
        let key = || Key::new("0123456789abcdef");
        for (own, keyed) in [(None, 0), (key(), 1)] {
            let (mut net, at) = net(1 + keyed, own);
            let caller = call(at, 1);
            let mut hello = Line::new(None, [1; 10], true).hello();
            hello[10] = keyed;
            caller.says(&hello);
            let head = ((16u32 << 20) + 34).to_le_bytes();
            caller.says(&[&head[..], &[7], &[0; 70]].concat());
            let why = ends(&mut net, NOW);
            assert_eq!(why, ["sends a frame of a wrong length"], "{keyed}");
        }
    }

    /// A thousand of them left no descriptor for a machine that wants a copy, and the sender
    /// asked for connections without end.
    #[test]
    fn callers_that_say_nothing_make_room_for_others_and_go() {
        let (mut net, at) = net(3, None);
        net.most = 50;
        let silent: Vec<Caller> = (0..90)
            .map(|n| {
                let _ = net.round(NOW);
                call(at, n % 8)
            })
            .collect();
        let honest = call(at, 9);
        honest.says(&Line::new(None, [1; 10], true).hello());
        let why = ends(&mut net, NOW);
        assert!(why.iter().all(|why| why.contains("others wait")), "{why:?}");
        assert_eq!((net.conns.len(), net.hungry().len()), (50, 1), "the honest one is there");
        net.prove(net.hungry()[0]);
        let why = ends(&mut net, PROVE);
        assert!(why.len() == 49 && why[0].contains("does not say"), "{why:?}");
        assert_eq!(net.conns.len(), 1);
        drop(silent);
    }

    #[test]
    fn one_address_has_so_many_connections() {
        let (mut net, at) = net(4, None);
        let callers: Vec<Caller> = (0..EACH + 9)
            .map(|_| {
                for peer in net.conns.iter().map(|(peer, _)| peer).collect::<Vec<_>>() {
                    net.prove(peer);
                }
                let caller = call(at, 1);
                let _ = net.round(NOW);
                caller
            })
            .collect();
        let _ = ends(&mut net, NOW);
        assert_eq!(net.conns.len(), EACH);
        drop(callers);
    }

    /// Pings were kept as events, of which each is many times as long.
    #[test]
    fn a_flood_of_short_messages_ends_the_connection() {
        let (mut net, at) = net(5, None);
        let caller = call(at, 1);
        caller.says(&Line::new(None, [1; 10], true).hello());
        caller.says(&[0, 0, 0, 0, 10].repeat(5000));
        assert_eq!(ends(&mut net, NOW), ["says too much at once"]);
    }
}
