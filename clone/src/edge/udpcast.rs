//! udpcast's two ends at their socket.

use super::net::{Datagrams, Waiter};
use super::protocol::{Here, NOT_NAMED, Order, Protocol, Strangers, sent};
use super::relay::{ALL, SOON, first, until};
use super::world::{Level, Source, Store, Target, World};
use crate::Error;
use crate::digest::Digest;
use crate::guard::{Announcement, Kept};
use crate::outcome::{Client, Received, Sent, Standing};
use crate::udpcast::{Receiver, Sender, default_group, receiver, sender};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

/// Packets taken, or sent, before anything else is looked at.
const BATCH: usize = 64;
/// The largest datagram.
const DATAGRAM: usize = 1 << 16;
/// So much is read at once from a source.
const READ: usize = 2 << 20;
/// Without a byte for so long, what the source gave is sent before a slice is full.
const FLUSH: Duration = Duration::from_millis(100);
/// The kernel takes no more packets, and no more bytes, together (`UDP_MAX_SEGMENTS`, and a
/// datagram's length).
const TOGETHER: (usize, usize) = (44, 65_000);

/// Where old programs find each other on a network that has no broadcast address.
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);

/// udpcast as it is configured.
#[derive(Debug, Clone)]
pub struct Udpcast {
    /// The receivers' port, an even one; senders use the next.
    pub port: u16,
    /// Where the ends find each other; the network's broadcast address by default.
    pub rendezvous: Option<Ipv4Addr>,
    /// Receive a stream that began earlier, without its beginning.
    pub late: bool,
    /// The receiver's settings; those of [`Here::patience`] are not looked at.
    pub receiver: receiver::Config,
    /// The sender's settings. Without a group, data goes to the one that is derived from the
    /// sender's address.
    pub sender: sender::Config,
}

impl Udpcast {
    /// The port that senders speak from.
    const fn peers(&self) -> u16 {
        self.port.wrapping_add(1)
    }

    /// Where everybody hears this end: one address, and for old programs perhaps another.
    fn everybody(&self, here: &Here) -> (Ipv4Addr, Option<Ipv4Addr>) {
        match self.rendezvous {
            Some(rendezvous) => (rendezvous, None),
            None => (here.broadcast, Some(ALL_HOSTS).filter(|all| *all != here.broadcast)),
        }
    }
}

impl Protocol for Udpcast {
    fn new(argument: &str) -> Result<Self, Error> {
        let port = if argument.is_empty() { Some(9000) } else { argument.parse().ok() };
        let port = port.filter(|port| port % 2 == 0 && *port > 0).ok_or(Error::Unfit {
            what: "udpcast's port",
            why: "is an even number from 2 to 65534",
        })?;
        Ok(Self {
            port,
            rendezvous: None,
            late: false,
            receiver: receiver::Config::default(),
            sender: sender::Config::new(Ipv4Addr::UNSPECIFIED),
        })
    }

    fn receive(&self, here: &Here, world: &mut dyn World) -> Result<Received, Error> {
        let store = world.open(&Target::UNNAMED).map_err(|why| Error::Store { why })?;
        let socket = world.datagrams(self.port)?;
        world.say(Level::News, &format!("waiting for a udpcast sender, port {}", self.port));
        let config = receiver::Config {
            start_timeout: here.patience.start,
            receive_timeout: here.patience.stall,
            ..self.receiver.clone()
        };
        let core = Receiver::new(config, world.now()).keyed(here.keyed())?;
        let mut taking = Taking {
            end: self,
            here,
            socket: &*socket,
            store,
            core,
            rest: Rest::default(),
            strangers: Strangers::default(),
            ended: None,
            ending: false,
            told: false,
            refused: None,
            kept: None,
            sender: None,
            equal: None,
        };
        taking.run(world)?;
        let Some((equal, kept)) = taking.equal.zip(taking.kept) else {
            return Err(Error::Gone {
                protocol: "udpcast",
                peer: "the sender".to_string(),
                when: "before the end",
            });
        };
        Ok(Received::of(&[kept], equal, taking.sender))
    }

    fn send(&self, order: &Order<'_>, world: &mut dyn World) -> Result<Sent, Error> {
        let mut source = first(world)?;
        let socket = world.datagrams(self.peers())?;
        let socket = &*socket;
        let mut config = self.sender.clone();
        if config.group.is_unspecified() {
            config.group = default_group(order.here.address);
        }
        let all = u16::try_from(order.clients.len()).unwrap_or(u16::MAX);
        config.min_receivers = config.min_receivers.max(all);
        config.start_timeout = order.here.patience.start;
        // Without a way back, many packets must not be lost at once.
        let together = !config.asynchronous;
        let pact = order.here.pact("udpcast");
        let mut core = Sender::new(config, world.now())?.telling(world.known(0), pact)?;
        let key = if order.start.is_some() { "; press return to begin" } else { "" };
        let text = format!("waiting for udpcast receivers, port {}{key}", self.port);
        world.say(Level::News, &text);
        let (everybody, also) = self.everybody(order.here);
        let mut out = Out {
            socket,
            everybody: SocketAddrV4::new(everybody, self.port),
            also: also.map(|also| SocketAddrV4::new(also, self.port)),
            batch: Vec::new(),
            to: SocketAddrV4::new(everybody, self.port),
            size: 1,
            together,
            packet: Vec::new(),
            unsent: None,
        };
        let digest = transfer(&mut core, order, &mut *source, &mut out, world);
        let client = |m: &sender::Machine| Client {
            name: m.address.to_string(),
            address: Some(m.address),
            standing: match m.missed {
                missed if missed > 0 && m.standing.good() => Standing::Late(missed),
                _ => m.standing.clone(),
            },
            came: None,
        };
        sent(digest.map(|d| alloc::vec![d]), core.machines().iter().map(client).collect(), world)
    }
}

/// A stream while it is received.
struct Taking<'a> {
    end: &'a Udpcast,
    here: &'a Here,
    socket: &'a dyn Datagrams,
    store: Box<dyn Store>,
    core: Receiver,
    rest: Rest,
    strangers: Strangers,
    /// When the stream ended.
    ended: Option<Duration>,
    /// The store knows that this was all.
    ending: bool,
    /// The core knows what became of the copy.
    told: bool,
    /// Why the store refuses what the sender announces.
    refused: Option<String>,
    kept: Option<Kept>,
    sender: Option<Ipv4Addr>,
    /// What the comparison with the sender's digest says.
    equal: Option<bool>,
}

impl Taking<'_> {
    fn run(&mut self, world: &mut dyn World) -> Result<(), Error> {
        let mut incoming = alloc::vec![0; DATAGRAM];
        let mut packet = Vec::new();
        while !self.core.finished() {
            // Also after an error, the sender is told what there is to tell.
            let step = self.hear(&mut incoming, world);
            let step = step.and(self.settle(world)).and(self.events(world));
            self.speak(&mut packet);
            step?;
            if self.core.bytes() > 0 {
                world.progress(self.core.bytes(), None);
            }
            if self.core.finished() {
                break;
            }
            let mut limit = until(self.core.deadline(), world.now());
            if !self.told && (self.ended.is_some() || !self.rest.bytes.is_empty()) {
                limit = limit.min(SOON);
            }
            wait(self.socket, false, limit);
        }
        Ok(())
    }

    /// Takes the packets that have come.
    fn hear(&mut self, incoming: &mut [u8], world: &mut dyn World) -> Result<(), Error> {
        let peers = self.end.peers();
        packets(self.socket, incoming, &mut |from, bytes| {
            // Senders speak from the odd port; anything else is noise.
            if from.port() != peers {
                return Ok(());
            }
            if !self.here.takes(*from.ip()) {
                self.strangers.meet(*from.ip(), NOT_NAMED, world);
                return Ok(());
            }
            self.core.step(receiver::Input::Packet { from: *from.ip(), bytes }, world.now())
        })?;
        self.core.step(receiver::Input::Tick, world.now())
    }

    /// Tells the core how the copy was stored, once that is known.
    fn settle(&mut self, world: &mut dyn World) -> Result<(), Error> {
        let Some(how) = self.stored(world) else { return Ok(()) };
        self.told = true;
        self.kept = how.as_ref().ok().copied();
        let how = how.map(|kept| kept.read_back);
        let input = receiver::Input::Stored(how.as_ref().copied().map_err(String::as_str));
        self.core.step(input, world.now())
    }

    /// Stores what has come. The first sector is written when it is known that all else is right.
    fn stored(&mut self, world: &mut dyn World) -> Option<Result<Kept, String>> {
        if let Some(why) = self.refused.take() {
            return Some(Err(why));
        }
        if self.told {
            return None;
        }
        if let Err(why) = self.rest.store(&mut self.core, &mut *self.store) {
            return Some(Err(why));
        }
        let since = self.ended.filter(|_| self.rest.bytes.is_empty())?;
        match self.core.digest(since) {
            Err(until) if world.now() < until => None,
            Err(_) | Ok(None) if self.here.pins.key.is_some() => {
                Some(Err(crate::error::NO_CODE.to_string()))
            }
            digest => {
                if !core::mem::replace(&mut self.ending, true) {
                    world.say(Level::News, ALL);
                }
                let blake3 = digest.ok().flatten().map(|digest| digest.blake3);
                let told = Announcement { blake3, ..Announcement::default() };
                let refused = self.store.announce(&told).err().map(Err);
                self.store.end();
                refused.or_else(|| self.store.done())
            }
        }
    }

    /// Does what the core asks for, and tells what has happened.
    fn events(&mut self, world: &mut dyn World) -> Result<(), Error> {
        let (socket, own) = (self.socket, self.here.address);
        let join = |group| match group {
            group if Ipv4Addr::is_multicast(&group) => socket.join(group, own),
            _ => Ok(()),
        };
        let mut all = Ok(());
        while let Some(event) = self.core.event() {
            match event {
                receiver::Event::Connected { sender: from, group, client } => {
                    self.sender = Some(from);
                    all = all.and(join(group));
                    let number = match client {
                        Some(client) => format!("this is receiver {client}"),
                        None => "it wants no answers".to_string(),
                    };
                    world.say(Level::News, &format!("found sender {from}; {number}"));
                }
                receiver::Event::Listen(group) => all = all.and(join(group)),
                receiver::Event::TooLate(sender) => {
                    let text = format!(
                        "{sender} sends already, and takes no more receivers; waiting for the \
                         next time"
                    );
                    world.say(Level::News, &text);
                }
                receiver::Event::Started { late: true } if self.end.late => {
                    world.say(Level::News, "joined late: the beginning is MISSING");
                }
                receiver::Event::Started { late: true } => {
                    // Half a disk is no copy.
                    self.core.leave();
                    all = all.and(Err(Error::Lost {
                        protocol: "udpcast",
                        after: 0,
                        why: "the beginning was sent before this machine came",
                    }));
                }
                receiver::Event::Started { late: false } => {
                    self.refused = self.store.announce(&self.core.announced()).err();
                }
                receiver::Event::Refused(from, why) => {
                    self.strangers.meet(from, &why.to_string(), world);
                }
                receiver::Event::End(_) => self.ended = Some(world.now()),
                receiver::Event::Finished { verified, .. } => self.equal = Some(verified),
            }
        }
        all
    }

    /// Sends what the core has to say.
    fn speak(&mut self, packet: &mut Vec<u8>) {
        let (everybody, also) = self.end.everybody(self.here);
        while let Some(to) = self.core.transmit(packet) {
            let (ip, also) = match to {
                receiver::To::Everybody => (everybody, also),
                receiver::To::Sender(ip) => (ip, None),
            };
            for ip in core::iter::once(ip).chain(also) {
                // What is lost here is asked for again, as on the wire.
                let _ =
                    self.socket.send(packet, packet.len(), SocketAddrV4::new(ip, self.end.peers()));
            }
        }
    }
}

/// Waits until a packet has come, or, if `write`, until one can be sent.
fn wait(socket: &dyn Datagrams, write: bool, limit: Duration) {
    let fd = socket.fd();
    let mut waiter = Waiter::default();
    waiter.both(&fd, write);
    waiter.wait(limit);
}

/// Takes a packet.
type Take<'a> = &'a mut dyn FnMut(SocketAddrV4, &[u8]) -> Result<(), Error>;

/// Takes the packets that have come, not many more than [`BATCH`].
fn packets(socket: &dyn Datagrams, buffer: &mut [u8], take: Take<'_>) -> Result<(), Error> {
    let mut count = 0;
    while count < BATCH
        && let Some((bytes, size, from)) = socket.receive(buffer)
    {
        count += 1;
        for packet in buffer.get(..bytes).unwrap_or_default().chunks(size.max(1)) {
            count += 1;
            take(from, packet)?;
        }
    }
    Ok(())
}

/// Bytes of the stream that the store did not take yet.
#[derive(Default)]
struct Rest {
    bytes: Vec<u8>,
    done: usize,
}

impl Rest {
    /// Stores what came, until there is no more or the store has enough to do.
    fn store(&mut self, core: &mut Receiver, store: &mut dyn Store) -> Result<(), String> {
        loop {
            let Some(bytes) = self.bytes.get(self.done..).filter(|b| !b.is_empty()) else {
                self.done = 0;
                if core.take(&mut self.bytes) {
                    continue;
                }
                self.bytes.clear();
                return Ok(());
            };
            match store.put(bytes)? {
                0 => return Ok(()),
                n => self.done += n,
            }
        }
    }
}

/// Packets of one size to one address on their way out, which the system takes together
/// where it can: what a packet costs on its way through the kernel is then shared by all.
struct Out<'a> {
    socket: &'a dyn Datagrams,
    everybody: SocketAddrV4,
    also: Option<SocketAddrV4>,
    batch: Vec<u8>,
    to: SocketAddrV4,
    size: usize,
    together: bool,
    packet: Vec<u8>,
    /// Where `packet` goes, when it has not gone yet.
    unsent: Option<sender::To>,
}

impl Out<'_> {
    fn takes(&self, to: SocketAddrV4) -> bool {
        self.batch.is_empty()
            || (self.together
                && to == self.to
                && self.packet.len() <= self.size
                && self.batch.len().is_multiple_of(self.size)
                && self.batch.len() < TOGETHER.0 * self.size
                && self.batch.len() + self.packet.len() <= TOGETHER.1)
    }

    /// Sends the batch; false when the socket has no room.
    fn flush(&mut self) -> Result<bool, Error> {
        while !self.batch.is_empty() {
            let sent = self
                .socket
                .send(&self.batch, self.size, self.to)
                .map_err(|why| Error::Network { what: format!("send to {}", self.to), why })?;
            if sent == 0 {
                return Ok(false);
            }
            self.batch.drain(..sent);
        }
        Ok(true)
    }

    /// Sends what the core has for now; false when the socket has no room.
    fn transmit(&mut self, core: &mut Sender, now: Duration) -> Result<bool, Error> {
        if !self.flush()? {
            return Ok(false);
        }
        for _ in 0..BATCH {
            let unsent = self.unsent.take().or_else(|| core.transmit(now, &mut self.packet));
            let Some(to) = unsent else { break };
            if let Some(also) = self.also.filter(|_| to == sender::To::Everybody) {
                // Where it cannot be sent, no receiver listens.
                let _ = self.socket.send(&self.packet, self.packet.len(), also);
            }
            let address = match to {
                sender::To::Everybody => self.everybody,
                sender::To::Group(ip) | sender::To::Machine(ip) => {
                    SocketAddrV4::new(ip, self.everybody.port())
                }
            };
            if !self.takes(address) && !self.flush()? {
                self.unsent = Some(to);
                return Ok(false);
            }
            if self.batch.is_empty() {
                (self.to, self.size) = (address, self.packet.len().max(1));
            }
            self.batch.extend_from_slice(&self.packet);
        }
        self.flush()
    }
}

/// Sends the whole stream.
fn transfer(
    core: &mut Sender,
    order: &Order<'_>,
    source: &mut dyn Source,
    out: &mut Out<'_>,
    world: &mut dyn World,
) -> Result<Digest, Error> {
    let mut incoming = alloc::vec![0; DATAGRAM];
    let mut buffer = alloc::vec![0; READ];
    let (mut ended, mut digest) = (false, None);
    let mut idle_since: Option<Duration> = None;
    while !core.finished() {
        packets(out.socket, &mut incoming, &mut |from, bytes| {
            core.step(sender::Input::Packet { from: *from.ip(), bytes }, world.now())
        })?;
        core.step(sender::Input::Tick, world.now())?;
        let want = if ended { 0 } else { core.wants() };
        let mut quiet = false;
        if want > 0 {
            let room = buffer.get_mut(..want.min(READ)).unwrap_or_default();
            let now = world.now();
            match source.read(room).map_err(|why| Error::Source { why })? {
                Some(n) => {
                    ended = n == 0;
                    idle_since = None;
                    core.step(
                        match room.get(..n) {
                            Some(bytes) if n > 0 => sender::Input::Data(bytes),
                            _ => sender::Input::End,
                        },
                        now,
                    )?;
                }
                None => {
                    quiet = true;
                    if now.saturating_sub(*idle_since.get_or_insert(now)) >= FLUSH {
                        core.step(sender::Input::Flush, now)?;
                    }
                }
            }
        }
        let room = out.transmit(core, world.now())?;
        while let Some(event) = core.event() {
            let text = match event {
                sender::Event::Joined(ip) => format!("{ip} has come"),
                sender::Event::Started { receivers, to } => {
                    format!("begins with {receivers} receivers, data to {to}")
                }
                sender::Event::Lost(ip, how) => format!("{ip}: {how}"),
                sender::Event::Refused(ip) => {
                    format!("{ip} is refused: it has not shown that it knows the key")
                }
                sender::Event::Finished(all) => {
                    digest = Some(all);
                    continue;
                }
            };
            world.say(Level::News, &text);
        }
        if !core.gathering() {
            world.resent(core.resent());
            world.progress(core.acknowledged(), source.length());
        }
        let now = world.now();
        if !room {
            wait(out.socket, true, until(core.deadline(), now));
        } else if !core.finished() && !core.transmit_waits(now) && (quiet || want == 0) {
            let limit = until(core.deadline(), now);
            let fd = out.socket.fd();
            let mut waiter = Waiter::default();
            waiter.reads(&fd);
            let key = order.start.as_ref().filter(|_| core.gathering());
            let key = key.map(|fd| (fd, waiter.reads(fd)));
            let happened = waiter.wait(if quiet { limit.min(SOON) } else { limit });
            if let Some((fd, number)) = key
                && happened.at(Some(number))
            {
                let _ = rustix::io::read(fd, &mut buffer);
                core.step(sender::Input::Start, world.now())?;
            }
        }
    }
    digest.ok_or_else(|| Error::Gone {
        protocol: "udpcast",
        peer: "every receiver".to_string(),
        when: "before the end",
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Memory, copy, here, noise, verified};
    use super::*;

    /// Both ends on one machine find each other at its own address.
    fn at(port: u16) -> Udpcast {
        let loopback = Some(Ipv4Addr::LOCALHOST);
        Udpcast { port, rendezvous: loopback, ..Udpcast::new("").unwrap() }
    }

    #[test]
    fn a_receiver_has_the_bytes() {
        for (port, len) in [(39_100, 500_001), (39_102, 0)] {
            let bytes = noise(len);
            verified(&copy(&at(port), 60, &bytes, &[usize::MAX]), &bytes);
        }
    }

    #[test]
    fn a_full_disk_is_no_copy() {
        let copy = copy(&at(39_104), 61, &noise(400_000), &[100_000]);
        assert!(matches!(copy.got[0].0, Err(Error::Store { .. })), "{:?}", copy.got[0].0);
        let good = |sent: &Sent| sent.clients.iter().any(|c| c.standing.good());
        assert!(!copy.sent.as_ref().is_ok_and(good), "{:?}", copy.sent);
    }

    #[test]
    fn silence_ends_either_end() {
        let (mut world, _) = Memory::new();
        let got = at(39_106).receive(&here([127, 62, 0, 1], 50), &mut world);
        assert!(matches!(got, Err(Error::Stalled { .. })), "{got:?}");
        let here = here([127, 62, 0, 1], 50);
        let order = Order { clients: &["x".to_string()], ..Order::of(&here) };
        let sent = at(39_108).send(&order, &mut world);
        assert!(matches!(sent, Err(Error::Stalled { .. })), "{sent:?}");
    }

    #[test]
    fn a_port_is_even_or_refused() {
        assert_eq!(Udpcast::new("").unwrap().port, 9000);
        assert_eq!(Udpcast::new("9002").unwrap().port, 9002);
        for wrong in ["9001", "0", "65536", "x"] {
            assert!(Udpcast::new(wrong).is_err(), "{wrong}");
        }
    }

    /// A socket that takes so many bytes at once, and remembers what it was given.
    struct Narrow(std::cell::RefCell<Vec<(usize, usize)>>, usize);

    impl Datagrams for Narrow {
        fn fd(&self) -> rustix::fd::BorrowedFd<'_> {
            unreachable!("nothing waits for it")
        }

        fn receive(&self, _: &mut [u8]) -> Option<(usize, usize, SocketAddrV4)> {
            None
        }

        fn send(&self, bytes: &[u8], size: usize, _: SocketAddrV4) -> Result<usize, String> {
            self.0.borrow_mut().push((bytes.len(), size));
            Ok(bytes.len().min(self.1))
        }

        fn join(&self, _: Ipv4Addr, _: Ipv4Addr) -> Result<(), Error> {
            Ok(())
        }
    }

    #[test]
    fn packets_of_one_size_go_together_and_a_full_socket_loses_none() {
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9000);
        let run = |together, takes| {
            let socket = Narrow(Vec::new().into(), takes);
            let config = sender::Config { min_receivers: 0, autostart: Some(1), ..at(9000).sender };
            let config = sender::Config { asynchronous: true, verify: false, ..config };
            let mut core = Sender::new(config, Duration::ZERO).unwrap();
            let mut out = Out {
                socket: &socket,
                everybody: to,
                also: None,
                batch: Vec::new(),
                to,
                size: 1,
                together,
                packet: Vec::new(),
                unsent: None,
            };
            let mut now = Duration::ZERO;
            while core.wants() == 0 {
                core.step(sender::Input::Tick, now).unwrap();
                out.transmit(&mut core, now).unwrap();
                now += Duration::from_millis(100);
            }
            core.step(sender::Input::Data(&[7; 1456 * 8]), now).unwrap();
            core.step(sender::Input::Flush, now).unwrap();
            socket.0.borrow_mut().clear();
            let room = out.transmit(&mut core, now).unwrap();
            (room, out.batch.len(), socket.0.take())
        };
        let (room, left, sent) = run(true, usize::MAX);
        assert!(room && left == 0);
        assert!(sent.iter().any(|(bytes, size)| bytes / size >= 8), "{sent:?}");
        let (room, left, sent) = run(false, usize::MAX);
        assert!(room && left == 0);
        assert!(sent.iter().all(|(bytes, size)| bytes == size), "{sent:?}");
        let (room, left, _) = run(true, 0);
        assert!(!room && left > 0, "what had no room waits");
    }
}
