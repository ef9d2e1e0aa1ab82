//! NBD connections.

use super::{Client, PATIENCE, Timed, accept, patiently, read_growing};
use crate::budget::{Budget, SMALL, Use};
use crate::disk::access::{Disks, Refused};
use crate::disk::device::Disk;
use crate::error::Error;
use crate::event::{Stage, Watch};
use crate::nbd::{self, Refusal, Wish};
use crate::services::Service;
use netboot::nbd::wire::{self, Asked, Command, Failure, Request};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{self, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// TCP keep-alive: when a silent connection counts as dead (tcp(7)).
struct KeepAlive {
    /// Seconds of silence before the first probe, and between two probes.
    idle: u32,
    interval: u32,
    /// Probes without an answer.
    count: u32,
    /// Milliseconds that sent data may stay unacknowledged.
    unacknowledged: u32,
}

/// A mounted disk may be idle for days; a machine that was switched off is noticed after half a
/// minute.
const USUAL: KeepAlive = KeepAlive { idle: 15, interval: 5, count: 3, unacknowledged: 30_000 };
/// For connections older than a new one to the same disk.
const HURRIED: KeepAlive = KeepAlive { idle: 1, interval: 1, count: 2, unacknowledged: 3_000 };

/// Connections opened within this time belong together: a client opens several.
const TOGETHER: Duration = Duration::from_secs(3);

/// The flag of a request whose data must be on the disk before the answer.
const FUA: u16 = 1;

/// The most bytes that are read from a disk at once.
const PIECE: usize = 1 << 20;

/// Why a request failed.
enum Failed {
    /// It is outside of the disk, or no request.
    Invalid,
    /// The disk is read-only.
    ReadOnly,
    /// The disk's error.
    Disk(io::Error),
}

/// A connection to a disk.
struct Connection {
    stream: Arc<TcpStream>,
    since: Instant,
    /// It is being probed by [`HURRIED`].
    hurried: AtomicBool,
}

impl Connection {
    fn keep_alive(&self, settings: &KeepAlive) -> nix::Result<()> {
        let KeepAlive { idle, interval, count, unacknowledged } = settings;
        setsockopt(&*self.stream, sockopt::TcpKeepIdle, idle)?;
        setsockopt(&*self.stream, sockopt::TcpKeepInterval, interval)?;
        setsockopt(&*self.stream, sockopt::TcpKeepCount, count)?;
        setsockopt(&*self.stream, sockopt::TcpUserTimeout, unacknowledged)?;
        setsockopt(&*self.stream, sockopt::KeepAlive, &true)
    }
}

/// The connections to disks, each with the disk's name.
#[derive(Default)]
struct Connections(Mutex<Vec<(String, Weak<Connection>)>>);

impl Connections {
    /// Adds a connection opened at `now`. Older ones of the same client to the same disk may be
    /// from before a power cut: they are probed at once, and end unless the client answers.
    fn add(
        &self,
        name: String,
        stream: Arc<TcpStream>,
        now: Instant,
    ) -> io::Result<Arc<Connection>> {
        let new = Arc::new(Connection { stream, since: now, hurried: AtomicBool::new(false) });
        new.keep_alive(&USUAL)?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, connection)| connection.strong_count() > 0);
        let same = all.iter().filter(|(other, _)| *other == name);
        let same = same.filter_map(|(_, connection)| connection.upgrade());
        for old in same.filter(|old| now.saturating_duration_since(old.since) > TOGETHER) {
            old.hurried.store(true, Ordering::Relaxed);
            old.keep_alive(&HURRIED)?;
        }
        all.push((name, Arc::downgrade(&new)));
        Ok(new)
    }
}

/// Serves disks by NBD.
///
/// # Errors
/// [`Error::System`] when a thread cannot be started.
pub fn start(
    disks: Arc<Disks>,
    listener: TcpListener,
    watch: Arc<Watch>,
    budget: &Budget,
) -> Result<(), Error> {
    let connections = Arc::new(Connections::default());
    let (memory, told) = (budget.memory.clone(), watch.clone());
    accept("nbd", listener, &budget.nbd, &told, String::new(), move |stream, from, place| {
        if !watch.switches.is_on(Service::Nbd) {
            return Ok(());
        }
        let client = Client::new(from, place, &memory);
        let who = &client.who;
        let Some((name, disk)) = negotiate(stream, &disks, who, &watch)? else {
            return Ok(());
        };
        place.is(Use::Busy);
        // A medium is open to every client.
        let name = if disk.read_only() { format!("{name} {who}") } else { name };
        let connection = connections.add(name, stream.clone(), Instant::now())?;
        serve(&connection, &disk, &client, &watch)
    })
}

/// Negotiates until a client has chosen a disk, or disconnected.
fn negotiate(
    mut stream: &TcpStream,
    disks: &Disks,
    who: &str,
    watch: &Watch,
) -> io::Result<Option<(String, Arc<Disk>)>> {
    let mut timed = Timed::new(stream);
    timed.within(PATIENCE);
    stream.write_all(&wire::greeting())?;
    let mut flags = [0; 4];
    timed.read_exact(&mut flags)?;
    let Some(zeroes) = wire::wants_zeroes(flags) else { return Ok(None) };
    let mut input = Vec::new();
    for _ in 0..wire::MAX_OPTIONS {
        let (wish, number, used) = loop {
            match Asked::read(&input) {
                Ok(Some(option)) => break (nbd::wish(&option), option.number, option.length()),
                Err(()) => return Ok(None),
                Ok(None) => {}
            }
            let mut more = [0; 1024];
            match timed.read(&mut more)? {
                0 => return Ok(None),
                length => input.extend_from_slice(more.get(..length).unwrap_or_default()),
            }
        };
        input.drain(..used);
        let answer = match wish {
            Wish::Export(ref name) | Wish::Go(ref name) | Wish::About(ref name) => {
                match open(disks, name, who, watch) {
                    Ok((disk, about)) => {
                        let (answer, chosen) = match wish {
                            Wish::Export(_) => (nbd::begin(about, zeroes), true),
                            Wish::Go(_) => (nbd::describe(number, about), true),
                            _ => (nbd::describe(number, about), false),
                        };
                        if chosen {
                            stream.write_all(&answer)?;
                            watch.reached(who, Stage::Disk(name.clone()));
                            return Ok(Some((name.clone(), disk)));
                        }
                        answer
                    }
                    // `NBD_OPT_EXPORT_NAME` has no negative answer.
                    Err(_) if matches!(wish, Wish::Export(_)) => return Ok(None),
                    Err(refusal) => nbd::refuse(number, &refusal),
                }
            }
            Wish::List => nbd::list(number, &disks.names()),
            Wish::Abort => {
                stream.write_all(&nbd::goodbye(number))?;
                return Ok(None);
            }
            Wish::Malformed => nbd::refuse(number, &Refusal::Malformed),
            Wish::Unknown => nbd::refuse(number, &Refusal::Unknown),
        };
        stream.write_all(&answer)?;
    }
    Ok(None)
}

/// Opens a disk for a client; a refusal is reported.
fn open(
    disks: &Disks,
    name: &str,
    who: &str,
    watch: &Watch,
) -> Result<(Arc<Disk>, nbd::About), Refusal> {
    let opened = patiently(|| match disks.open(name, who) {
        Err(Refused::Short(e)) => Err(e),
        opened => Ok(opened),
    });
    match opened.unwrap_or_else(|e| Err(Refused::Short(e))) {
        Ok(disk) => {
            let about = nbd::About { size: disk.size(), read_only: disk.read_only() };
            Ok((disk, about))
        }
        Err(refused) => {
            let (why, refusal) = match refused {
                Refused::Unknown => ("which is not shared".to_owned(), Refusal::NoExport),
                Refused::NotYours(why) | Refused::Broken(why) => {
                    (why.clone(), Refusal::NotYours(why))
                }
                Refused::Short(e) => (e.to_string(), Refusal::NotYours(e.to_string())),
            };
            watch.refused(who, format!("{who} wants the disk {name:?}: {why}"));
            Err(refusal)
        }
    }
}

fn serve(
    connection: &Connection,
    disk: &Disk,
    client: &Client<'_>,
    watch: &Watch,
) -> io::Result<()> {
    let mut stream = &*connection.stream;
    stream.set_read_timeout(None)?;
    loop {
        let mut head = [0; wire::REQUEST];
        stream.read_exact(&mut head)?;
        if connection.hurried.swap(false, Ordering::Relaxed) {
            connection.keep_alive(&USUAL)?;
        }
        let Some(request) = nbd::request(&head) else { return Ok(()) };
        let outside = request.within(disk.size()).is_none();
        let done = match request.command {
            Command::Disconnect => return Ok(()),
            Command::Write => {
                let refused = match () {
                    () if disk.read_only() => Some(Failed::ReadOnly),
                    () if outside => Some(Failed::Invalid),
                    () => None,
                };
                let written = write(stream, &request, disk, refused, client)?;
                stream.set_read_timeout(None)?;
                written
            }
            Command::Flush => disk.flush().map_err(Failed::Disk),
            Command::Zeroes | Command::Status | Command::Unknown => Err(Failed::Invalid),
            Command::Read | Command::Trim if outside => Err(Failed::Invalid),
            Command::Read => match read(stream, &request, disk, client)? {
                Ok(()) => {
                    watch.sent(&client.who, u64::from(request.length));
                    continue;
                }
                failed => failed,
            },
            Command::Trim => {
                disk.trim(request.offset, u64::from(request.length));
                Ok(())
            }
        };
        let done = match (done, request.flags & FUA) {
            (Ok(()), FUA) => disk.flush().map_err(Failed::Disk),
            (done, _) => done,
        };
        let failure = match &done {
            Ok(()) => None,
            Err(Failed::Invalid) => Some(Failure::Invalid),
            Err(Failed::ReadOnly) => Some(Failure::Permission),
            Err(Failed::Disk(error)) => {
                match disk.read_only() {
                    true => watch.broken("", error),
                    false => watch.refused(
                        &client.who,
                        format!("{}: its disk cannot be read or written: {error}", client.who),
                    ),
                }
                Some(match error.kind() {
                    io::ErrorKind::StorageFull => Failure::NoSpace,
                    _ => Failure::Io,
                })
            }
        };
        stream.write_all(&wire::simple(failure, request.cookie))?;
    }
}

/// Takes the data of a write in pieces as they arrive. A request that is refused is read past.
///
/// # Errors
/// The connection's; those of the disk are inside.
fn write(
    stream: &TcpStream,
    request: &Request,
    disk: &Disk,
    refused: Option<Failed>,
    client: &Client<'_>,
) -> io::Result<Result<(), Failed>> {
    let mut done = refused.map_or(Ok(()), Err);
    let mut timed = Timed::new(stream);
    let mut buffer = Vec::new();
    let (mut at, mut left) = (request.offset, request.length as usize);
    while left > 0 {
        let piece = left.min(SMALL);
        // Data that does not arrive in time: the machine was switched off.
        timed.within(PATIENCE);
        client.place.is(Use::Owing);
        if done.is_ok() {
            read_growing(&mut timed, &mut buffer, piece)?;
            done = patiently(|| disk.write(at, &buffer)).map_err(Failed::Disk);
        } else if io::copy(&mut (&mut timed).take(piece as u64), &mut io::sink())? < piece as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = at.saturating_add(piece as u64);
        left -= piece;
    }
    client.place.is(Use::Busy);
    Ok(done)
}

/// Answers a read: in one piece if memory allows, so that every error can be said. After the
/// first piece an error ends the connection.
///
/// # Errors
/// The connection's, and the disk's after the first piece; else those of the disk are inside.
fn read(
    mut stream: &TcpStream,
    request: &Request,
    disk: &Disk,
    client: &Client<'_>,
) -> io::Result<Result<(), Failed>> {
    let head = wire::simple(None, request.cookie);
    let mut before = head.len();
    let (mut at, mut left) = (request.offset, request.length as usize);
    let room = client.memory.room(client.from, left.min(PIECE));
    let mut buffer = vec![0; before + room.bytes];
    if let Some(place) = buffer.first_chunk_mut() {
        *place = head;
    }
    loop {
        let piece = left.min(room.bytes);
        let part = buffer.get_mut(before..before + piece).unwrap_or_default();
        match patiently(|| disk.read(at, part)) {
            Err(e) if before > 0 => return Ok(Err(Failed::Disk(e))),
            done => done?,
        }
        client.place.is(Use::Owing);
        stream.write_all(buffer.get(..before + piece).unwrap_or_default())?;
        client.place.is(Use::Busy);
        at = at.saturating_add(piece as u64);
        left -= piece;
        before = 0;
        if left == 0 {
            return Ok(Ok(()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::getsockopt;

    /// A client that lost its power comes back before its old connection timed out: the old one
    /// is probed at once. A running client keeps both.
    #[test]
    fn a_second_connection_spares_the_living() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (client, Arc::new(listener.accept().unwrap().0))
        };
        let connections = Connections::default();
        let add = |name: &str, stream, now| connections.add(name.into(), stream, now).unwrap();
        let hurried = |connection: &Connection| connection.hurried.load(Ordering::Relaxed);
        let (mut client, stream) = connect();
        let (mut clients, start) = (Vec::new(), Instant::now());
        let old = add("disk", stream, start);
        let mut next = |name, now| {
            let (client, stream) = connect();
            clients.push(client);
            add(name, stream, now)
        };
        // One client opens several connections at a time, and others use other disks.
        let together = next("disk", start + TOGETHER);
        next("other", start + 2 * TOGETHER);
        assert!(!hurried(&old) && !hurried(&together));
        assert_eq!(getsockopt(&*old.stream, sockopt::TcpKeepIdle), Ok(USUAL.idle));
        let new = next("disk", start + 2 * TOGETHER);
        assert!(hurried(&old) && !hurried(&together) && !hurried(&new));
        assert_eq!(getsockopt(&*old.stream, sockopt::TcpKeepIdle), Ok(1));
        assert_eq!(getsockopt(&*old.stream, sockopt::TcpKeepCount), Ok(2));
        assert_eq!(getsockopt(&*old.stream, sockopt::TcpUserTimeout), Ok(3_000));
        client.write_all(b"here").unwrap();
        let mut said = [0; 4];
        (&*old.stream).read_exact(&mut said).unwrap();
        assert_eq!(&said, b"here");
    }
}
