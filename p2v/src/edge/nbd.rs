//! `nbd://`: a writable NBD server (`qemu-nbd`, `nbdkit`) gets the used bytes, and is read back.
//!
//! When the connection breaks, it is made again and goes on behind the last flush: what was
//! written before may be in the memory of a server that has started anew.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;
use core::net::SocketAddrV4;

use embedded_io::ReadExactError;
use netboot::io::{Broken, Stream, Tcp};
use netboot::nbd::wire::{Command, REPLY, Request, flag, replied};
use netboot::nbd::{Export, NbdError, Negotiation, converse};
use rustix::io::Errno;
use sys::clock::Instant;

use super::disk::{Disk, unreadable};
use super::{Arrived, Digest, PATIENCE, PAUSE, TRIES, World, broken, canceled, pause};
use crate::trouble::Trouble;
use crate::write::{Step, reason, steps};

/// Requests without a reply at once.
const WINDOW: usize = 16;
/// Bytes between two flushes, used or not.
const FLUSH: u64 = 1 << 30;

/// Why a pass over the disk ended.
pub(super) enum Stop {
    /// The connection broke.
    Cut(Errno),
    /// It is of no use to try again.
    Trouble(Trouble),
}

impl From<Broken> for Stop {
    fn from(Broken(errno): Broken) -> Self {
        Stop::Cut(errno)
    }
}

impl From<ReadExactError<Broken>> for Stop {
    fn from(error: ReadExactError<Broken>) -> Self {
        match error {
            ReadExactError::UnexpectedEof => Stop::Cut(Errno::CONNRESET),
            ReadExactError::Other(broken) => broken.into(),
        }
    }
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Stop::Trouble(trouble)
    }
}

/// Fills the server's disk with this one, reads back what is in use, and compares.
///
/// # Errors
/// There is no server, or its disk is too small or read only or fails; this disk cannot be
/// read; what was read back is something else.
pub fn fill(
    world: &mut dyn World,
    disk: &mut Disk,
    peer: SocketAddrV4,
    export: &str,
) -> Result<Arrived, Trouble> {
    let connect = &mut || {
        let deadline = Instant::now().after(PATIENCE);
        let tcp = Tcp::connect(peer, false, deadline).map_err(Stop::Cut)?;
        negotiated(peer, Box::new(tcp), export)
    };
    let hint = "an NBD server must run there: qemu-nbd -t -f qcow2 -b 0.0.0.0 -p PORT disk.qcow2";
    fill_by(world, disk, peer, (connect, hint))
}

/// A stream to an export of a server, and what the server says of it.
pub(super) type Opened = (Box<dyn Stream>, Export);
/// Makes a connection, and what to say when the first one cannot be made.
pub(super) type Way<'w> = (&'w mut dyn FnMut() -> Result<Opened, Stop>, &'w str);

/// The export of this name at the other end of a stream.
pub(super) fn negotiated(
    peer: SocketAddrV4,
    mut stream: Box<dyn Stream>,
    export: &str,
) -> Result<Opened, Stop> {
    let refused = |error: NbdError| match error {
        NbdError::Io(_, errno) => Stop::Cut(errno),
        other => Trouble::new(&format!("{peer}: {other}"), "").into(),
    };
    let mut wish = Negotiation::new(export).map_err(refused)?;
    converse(peer, &mut *stream, &mut wish).map_err(refused)?;
    Ok((stream, wish.export().unwrap_or_default()))
}

/// As [`fill`], over any connection.
pub(super) fn fill_by(
    world: &mut dyn World,
    disk: &mut Disk,
    peer: SocketAddrV4,
    (connect, hint): Way<'_>,
) -> Result<Arrived, Trouble> {
    let mut job = Job {
        peer,
        connect,
        ours: Digest::new(),
        theirs: Digest::new(),
        safe: 0,
        written: false,
        sent: 0,
        reached: 0,
    };
    let mut failed = 0;
    loop {
        let before = job.reached;
        match job.pass(world, disk) {
            Ok(()) => break,
            Err(Stop::Trouble(trouble)) => return Err(trouble),
            Err(Stop::Cut(errno)) => {
                failed = if job.reached > before { 1 } else { failed + 1 };
                // A server that never answered is not there.
                let hint = match job.reached {
                    0 => hint,
                    _ if failed > TRIES => "it ended each connection; the messages there say why",
                    _ => "",
                };
                if !hint.is_empty() {
                    return Err(Trouble::new(&format!("{peer}: {}", broken(errno)), hint));
                }
                world.say(&format!("{peer}: {}; connecting anew", broken(errno)));
                pause(world, PAUSE)?;
            }
        }
    }
    let (ours, theirs) = (job.ours.finish(), job.theirs.finish());
    if ours != theirs {
        return Err(Trouble::new(
            &format!(
                "{peer}: what was read back has another digest ({theirs}) than the disk ({ours})"
            ),
            "the server's disk does not keep what is written to it",
        ));
    }
    Ok(Arrived { sha256: ours, sent: job.sent, compared: true })
}

struct Job<'j> {
    peer: SocketAddrV4,
    connect: &'j mut dyn FnMut() -> Result<Opened, Stop>,
    ours: Digest,
    theirs: Digest,
    /// Everything before it is on the server's disk.
    safe: u64,
    /// All is written; it is read back now.
    written: bool,
    sent: u64,
    /// How far any connection came, read back or written; 0 when there was none.
    reached: u64,
}

/// A connection to the export.
struct Link {
    tcp: Box<dyn Stream>,
    flags: u16,
    /// Requests without a reply: cookies, and how much data the reply has.
    open: BTreeMap<u64, usize>,
}

impl Job<'_> {
    /// Goes as far as the connection goes.
    fn pass(&mut self, world: &mut dyn World, disk: &mut Disk) -> Result<(), Stop> {
        let mut link = self.connect(disk)?;
        if self.reached == 0 {
            world.say(&format!(
                "{}: filling the server's disk from {}, {} of {} bytes",
                self.peer,
                disk.name,
                disk.map.used_bytes(),
                disk.map.size()
            ));
        }
        self.reached = self.reached.max(1);
        if !self.written {
            self.write(world, disk, &mut link)?;
            self.written = true;
            world.say("all is written; reading it back");
        }
        self.read_back(world, disk, &mut link)?;
        link.tcp.write_all(&request(Command::Disconnect, 0, 0))?;
        Ok(())
    }

    fn connect(&mut self, disk: &Disk) -> Result<Link, Stop> {
        let (tcp, export) = (self.connect)()?;
        let size = disk.map.size();
        if export.flags & flag::READ_ONLY != 0 {
            return Err(Trouble::new(
                &format!("{}: the server's disk is read only", self.peer),
                "start qemu-nbd without -r (--read-only)",
            )
            .into());
        }
        if export.size < size {
            return Err(Trouble::new(
                &format!(
                    "{}: the server's disk has {} bytes, and {} has {size}",
                    self.peer, export.size, disk.name
                ),
                &format!(
                    "qemu-img create -f qcow2 disk.qcow2 {size} makes one that is large enough"
                ),
            )
            .into());
        }
        Ok(Link { tcp, flags: export.flags, open: BTreeMap::new() })
    }

    fn write(
        &mut self,
        world: &mut dyn World,
        disk: &mut Disk,
        link: &mut Link,
    ) -> Result<(), Stop> {
        let Disk { map, reader, name } = disk;
        let zeroes = link.flags & flag::ZEROES != 0;
        let mut buffer: Vec<u8> = Vec::new();
        let mut flushed = self.safe;
        let total = map.used_bytes();
        let mut used = map.pieces(0..self.safe).filter(|p| p.used).map(|p| p.length()).sum::<u64>();
        for step in steps(map, self.safe, zeroes) {
            let Step { at, length, used: in_use } = step;
            if !world.go_on() {
                return Err(canceled().into());
            }
            if in_use || !zeroes {
                buffer.clear();
                buffer.resize(length as usize, 0);
                if in_use {
                    reader.read(at, &mut buffer).map_err(|at| unreadable(name, at))?;
                }
                self.ours.bytes(at, &buffer);
                link.ask(Command::Write, at, length, 0)?;
                link.tcp.write_all(&buffer)?;
                self.sent += u64::from(length);
                used += if in_use { u64::from(length) } else { 0 };
            } else {
                self.ours.zeros(step.end());
                link.ask(Command::Zeroes, at, length, 0)?;
            }
            if step.end() - flushed >= FLUSH {
                self.flush(link)?;
                flushed = step.end();
                self.safe = step.end();
            }
            self.reached = self.reached.max(step.end());
            world.progress(used, total);
        }
        self.flush(link)?;
        self.safe = map.size();
        Ok(())
    }

    /// What was written is on the server's disk afterwards.
    fn flush(&self, link: &mut Link) -> Result<(), Stop> {
        while !link.open.is_empty() {
            link.hear()?;
        }
        if link.flags & flag::FLUSH != 0 {
            link.ask(Command::Flush, 0, 0, 0)?;
            link.hear()?;
        }
        Ok(())
    }

    fn read_back(
        &mut self,
        world: &mut dyn World,
        disk: &Disk,
        link: &mut Link,
    ) -> Result<(), Stop> {
        let mut early: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let from = self.theirs.at;
        let wanted: Vec<Step> = steps(&disk.map, from, true).filter(|step| step.used).collect();
        let mut ahead = wanted.iter();
        let (mut done, left) = (0, wanted.iter().map(|step| u64::from(step.length)).sum());
        world.reads_back();
        for step in &wanted {
            if !world.go_on() {
                return Err(canceled().into());
            }
            self.theirs.zeros(step.at);
            let bytes = loop {
                if let Some(bytes) = early.remove(&step.at) {
                    break bytes;
                }
                // A server that leaves one out must not fill the memory with the others.
                while link.open.len() + early.len() < WINDOW
                    && let Some(next) = ahead.next()
                {
                    link.ask(Command::Read, next.at, next.length, next.length as usize)?;
                }
                let (at, bytes) = link.hear()?;
                early.insert(at, bytes);
            };
            self.theirs.bytes(step.at, &bytes);
            self.reached = self.reached.max(disk.map.size() + self.theirs.at);
            done += u64::from(step.length);
            world.progress(done, left);
        }
        self.theirs.zeros(disk.map.size());
        Ok(())
    }
}

/// A request whose cookie is its place.
fn request(command: Command, offset: u64, length: u32) -> Vec<u8> {
    Request { flags: 0, command, cookie: offset.to_be_bytes(), offset, length }.bytes()
}

impl Link {
    /// Sends a request once there is room in the window.
    fn ask(&mut self, what: Command, at: u64, length: u32, data: usize) -> Result<(), Stop> {
        while self.open.len() >= WINDOW {
            self.hear()?;
        }
        self.tcp.set_deadline(Instant::now().after(PATIENCE));
        self.tcp.write_all(&request(what, at, length))?;
        self.open.insert(at, data);
        Ok(())
    }

    /// Takes one reply.
    fn hear(&mut self) -> Result<(u64, Vec<u8>), Stop> {
        self.tcp.set_deadline(Instant::now().after(PATIENCE));
        let mut head = [0; REPLY];
        self.tcp.read_exact(&mut head)?;
        let lost =
            || Trouble::new("the NBD server breaks the protocol", "qemu-nbd is known to work");
        let (cookie, error) = replied(&head).ok_or_else(lost)?;
        let cookie = u64::from_be_bytes(cookie);
        let data = self.open.remove(&cookie).ok_or_else(lost)?;
        if error != 0 {
            let remedy = match error {
                28 => "make room there; the same line goes on with a new disk",
                _ => "the messages of the NBD server say more",
            };
            return Err(Trouble::new(reason(error), remedy).into());
        }
        let mut bytes = alloc::vec![0; data];
        self.tcp.read_exact(&mut bytes)?;
        Ok((cookie, bytes))
    }
}
