//! A world in memory for the loops' tests, which run over real sockets on the loopback
//! interface. Each test has a network of its own there.

use super::place::Place;
use super::protocol::{Here, Order, Pins, Protocol};
use super::world::{Level, Source, Store, Target, World};
use crate::Error;
use crate::cook::{Cook, Output};
use crate::digest::Meter;
use crate::guard::Kept;
use crate::outcome::{Patience, Received, Sent};
use std::boxed::Box;
use std::net::Ipv4Addr;
use std::string::String;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use std::vec::Vec;

/// A machine in memory.
pub struct Memory {
    clock: Instant,
    /// What it sends.
    pub sends: Vec<u8>,
    /// So many bytes fit on its disk.
    pub room: usize,
    /// The file or disk that a copy is written to.
    pub place: Option<String>,
    stored: Sender<Vec<u8>>,
    /// What it has told its user.
    pub said: Vec<String>,
}

impl Memory {
    /// A machine, and what it has stored when its copy is whole.
    pub fn new() -> (Self, Receiver<Vec<u8>>) {
        let (stored, whole) = channel();
        let (clock, room) = (Instant::now(), usize::MAX);
        (Self { clock, sends: Vec::new(), room, place: None, stored, said: Vec::new() }, whole)
    }
}

struct Disk {
    bytes: Vec<u8>,
    room: usize,
    meter: Meter,
    stored: Sender<Vec<u8>>,
}

impl Store for Disk {
    fn put(&mut self, bytes: &[u8]) -> Result<usize, String> {
        // It takes what it likes.
        let some = &bytes[..bytes.len().min(50_001)];
        if self.bytes.len() + some.len() > self.room {
            return Err("no space left".into());
        }
        self.bytes.extend_from_slice(some);
        self.meter.update(some);
        Ok(some.len())
    }

    fn end(&mut self) {}

    fn done(&mut self) -> Option<Result<Kept, String>> {
        let _ = self.stored.send(std::mem::take(&mut self.bytes));
        let digest = self.meter.digest();
        Some(Ok(Kept { digest, read_back: true, pinned: false }))
    }
}

struct Bytes(Vec<u8>, usize);

impl Source for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, String> {
        let rest = &self.0[self.1..];
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        self.1 += n;
        Ok(Some(n))
    }

    fn length(&self) -> Option<u64> {
        Some(self.0.len() as u64)
    }
}

impl World for Memory {
    fn now(&mut self) -> Duration {
        self.clock.elapsed()
    }

    fn resolve(&mut self, host: &str) -> Result<Ipv4Addr, String> {
        host.parse().map_err(|_| "unknown".into())
    }

    fn say(&mut self, _: Level, text: &str) {
        self.said.push(text.into());
    }

    fn progress(&mut self, _: u64, _: Option<u64>) {}

    fn places(&mut self) -> Result<Vec<Place>, String> {
        self.place.iter().map(|path| Place::resume(path).map_err(|e| e.to_string())).collect()
    }

    fn open(&mut self, _: &Target<'_>) -> Result<Box<dyn Store>, String> {
        let (room, stored) = (self.room, self.stored.clone());
        Ok(Box::new(Disk { bytes: Vec::new(), room, meter: Meter::default(), stored }))
    }

    fn source(&mut self, _: usize) -> Result<Box<dyn Source>, String> {
        Ok(Box::new(Bytes(self.sends.clone(), 0)))
    }
}

/// A machine at this address that gives up after so many milliseconds.
pub fn here(own: [u8; 4], ms: u64) -> Here {
    let limit = Some(Duration::from_millis(ms));
    Here {
        address: own.into(),
        broadcast: own.into(),
        names: [Ipv4Addr::from(own).to_string()].into(),
        listen: own.into(),
        patience: Patience { start: limit, stall: limit },
        pins: Pins::default(),
    }
}

/// Bytes that differ from their neighbours.
pub fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

/// A receiver's own word, and what it has stored.
type Got = (Result<Received, Error>, Option<Vec<u8>>);

/// What became of a copy at both ends.
pub struct Copy {
    pub sent: Result<Sent, Error>,
    pub got: Vec<Got>,
}

/// Copies `bytes` from 127.`net`.0.1 to the machines after it, whose disks have this room.
pub fn copy<P: Protocol + Clone + Send + 'static>(
    protocol: &P,
    net: u8,
    bytes: &[u8],
    rooms: &[usize],
) -> Copy {
    let ip = |i: usize| [127, net, 0, 1 + i as u8];
    let start = |(i, room): (usize, &usize)| {
        let (mut world, stored) = Memory::new();
        world.room = *room;
        let (protocol, here) = (protocol.clone(), here(ip(i + 1), 20_000));
        std::thread::spawn(move || {
            let got = protocol.receive(&here, &mut world);
            (got, stored.try_recv().ok())
        })
    };
    let receivers: Vec<_> = rooms.iter().enumerate().map(start).collect();
    let clients: Vec<String> =
        (1..=rooms.len()).map(|i| Ipv4Addr::from(ip(i)).to_string()).collect();
    let (mut world, _) = Memory::new();
    world.sends = bytes.to_vec();
    let here = here(ip(0), 20_000);
    let file = Output { path: "/copy".into(), cook: Cook::default() };
    let order = Order { clients: &clients, files: &[file], ..Order::of(&here) };
    let sent = protocol.send(&order, &mut world);
    Copy { sent, got: receivers.into_iter().map(|r| r.join().expect("no panic")).collect() }
}

/// Every machine has these bytes, and both ends say that they are verified.
pub fn verified(copy: &Copy, bytes: &[u8]) {
    let sent = copy.sent.as_ref().expect("it is sent");
    assert!(sent.clients.iter().all(|c| c.standing == crate::outcome::Standing::Verified));
    assert_eq!(sent.clients.len(), copy.got.len());
    for (got, stored) in &copy.got {
        let got = got.as_ref().expect("it has come");
        assert!(got.verified() && got.digests == sent.digests);
        assert!(stored.as_deref() == Some(bytes), "the bytes that were sent");
    }
}
