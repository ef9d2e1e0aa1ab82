//! The sockets: DHCP, TFTP, HTTP, NFS and NBD, each a thread that listens and threads for
//! its clients, all bounded in number, memory and patience.
//!
//! Nothing is left behind when the process ends, however it ends: no mounts, no
//! loop devices, no files but the list of leases.

use crate::dhcp::client::{Client, Program};
use crate::dhcp::message::Message;
use crate::dhcp::server::{Arrival, PXE_PORT, Seen, Server as Dhcp};
use crate::error::Error;
use crate::event::{Event, Stage, Watch, name_of};
use crate::files::{File, Files};
use crate::http::{self, Head};
use crate::nbd::{self, Command, Failure, Refusal, Wish};
use crate::nfs::{self, Server as Nfs};
use crate::page::{self, Page, Service};
use crate::settings::{Disk, Disks, Refused};
use crate::tftp::{self, Code, Packet, Send, Transfer};
use nix::errno::Errno;
use nix::sys::sendfile::sendfile64;
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Connections and transfers at a time, of each protocol.
const MAX_CLIENTS: usize = 512;
/// And of one address, behind which there may be a room full of machines.
const MAX_OF_ONE: usize = 128;
/// What a thread for a client may need of a stack.
const STACK: usize = 256 << 10;
/// A client that takes nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(60);
/// A request has to be whole after so long.
const HEAD_PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of a file that are read at once.
const CHUNK: usize = 128 << 10;
/// And that the kernel copies at once, between two looks at how far a client is.
const LARGE: usize = 1 << 20;
/// Bytes that wait in the kernel for a client.
const WAITING: usize = 200 << 10;
/// Everything but the content of a READ.
const REPLY_SLACK: usize = 4096;

/// Slots for clients of one protocol; nobody gets all of them.
#[derive(Debug, Clone, Default)]
struct Slots(Arc<Mutex<BTreeMap<Ipv4Addr, usize>>>);

/// A slot that is taken.
struct Slot(Slots, Ipv4Addr);

impl Slots {
    fn take(&self, client: Ipv4Addr) -> Option<Slot> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&client).copied().unwrap_or(0);
        if own >= MAX_OF_ONE || taken.values().sum::<usize>() >= MAX_CLIENTS {
            return None;
        }
        taken.insert(client, own + 1);
        Some(Slot(self.clone(), client))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.1) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.1)),
        }
    }
}

fn spawn(
    name: &'static str,
    run: impl FnOnce() + std::marker::Send + 'static,
) -> Result<(), Error> {
    let thread = thread::Builder::new().name(name.into()).stack_size(STACK).spawn(run);
    thread.map(drop).map_err(Error::system("start a thread"))
}

fn v4(address: SocketAddr) -> Option<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    }
}

/// Serves DHCP on both ports. `keep` is where the leases go.
///
/// # Errors
/// No thread can be started.
pub fn dhcp(
    server: Dhcp,
    sockets: [UdpSocket; 2],
    watch: &Arc<Watch>,
    keep: Option<PathBuf>,
) -> Result<(), Error> {
    let server = Arc::new(Mutex::new(server));
    // What came while everything was prepared is old, and our own search for other
    // servers is among it.
    for socket in &sockets {
        let drained = socket.set_nonblocking(true).and_then(|()| {
            while socket.recv(&mut [0; 16]).is_ok() {}
            socket.set_nonblocking(false)
        });
        drained.map_err(Error::system("empty a socket"))?;
    }
    for (socket, port) in sockets.into_iter().zip([67, PXE_PORT]) {
        let (server, watch, keep) = (server.clone(), watch.clone(), keep.clone());
        spawn("dhcp", move || dhcp_loop(&server, &socket, port, &watch, keep.as_deref()))?;
    }
    Ok(())
}

fn dhcp_loop(
    server: &Mutex<Dhcp>,
    socket: &UdpSocket,
    port: u16,
    watch: &Watch,
    keep: Option<&std::path::Path>,
) {
    let mut buffer = [0; 4096];
    let mut others = std::collections::BTreeSet::new();
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        let Some(from) = v4(from).filter(|_| watch.switches.is_on(Service::Dhcp)) else { continue };
        let Some(message) = Message::read(buffer.get(..length).unwrap_or_default()) else {
            continue;
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let arrival = Arrival { port, from, now: now.map_or(0, |now| now.as_secs()) };
        let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
        let (reply, seen) = server.handle(&message, &arrival);
        let leases = match (&seen, keep, &server.full) {
            (Seen::Address(_), Some(path), Some((_, leases))) => Some((path, leases.to_text())),
            _ => None,
        };
        drop(server);
        if let Some(reply) = reply
            && let Err(e) = socket.send_to(&reply.bytes, reply.to)
        {
            watch.tell(&Event::Warning(format!("a DHCP answer to {} was not sent: {e}", reply.to)));
        }
        if let Some((path, text)) = leases
            && let Err(e) = std::fs::write(path, text)
        {
            watch.tell(&Event::Warning(format!("cannot keep leases in {}: {e}", path.display())));
        }
        let who = message.mac.to_string();
        match seen {
            Seen::Boot { client, file } => {
                watch.reached(&who, Stage::Asked { what: describe(&client), file });
            }
            Seen::NoLoader(client) => {
                let text =
                    format!("{who} is {}: there is no boot loader for it", describe(&client));
                watch.tell(&Event::Warning(text));
            }
            Seen::Address(address) => watch.tell(&Event::Address { who, address }),
            Seen::Exhausted => watch.tell(&Event::Warning(format!(
                "{who} asks for an address and all are taken; --range can give more"
            ))),
            Seen::OtherServer(other) => {
                // Once for each server.
                if others.len() < 16 && others.insert(other) {
                    watch.tell(&Event::Warning(format!(
                        "{other} gives addresses on this network as well; stop it, or share \
                         with --dhcp proxy"
                    )));
                }
            }
            Seen::Quiet => {}
        }
    }
}

fn describe(client: &Client) -> String {
    match client.program {
        Program::Pxe => client.arch.to_string(),
        Program::Http => format!("{} by HTTP", client.arch),
        Program::Ipxe { .. } => format!("iPXE on {}", client.arch),
    }
}

/// Serves TFTP.
///
/// # Errors
/// No thread can be started.
pub fn tftp(files: Arc<Files>, socket: UdpSocket, watch: Arc<Watch>) -> Result<(), Error> {
    let own = socket.local_addr().map_err(Error::system("read a socket's address"))?.ip();
    spawn("tftp", move || {
        let slots = Slots::default();
        let mut buffer = [0; 1024];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            if !watch.switches.is_on(Service::Tftp) {
                continue;
            }
            let refuse = |code, text: &str| {
                let _ = socket.send_to(&tftp::error(code, text), from);
            };
            let request = match tftp::read(buffer.get(..length).unwrap_or_default()) {
                Some(Packet::Read(request)) => request,
                Some(Packet::Other) => {
                    refuse(Code::AccessViolation, "nothing can be written here");
                    continue;
                }
                Some(_) => continue,
                None => {
                    refuse(Code::IllegalOperation, "not understood");
                    continue;
                }
            };
            let Some(file) = files.find_loosely(&request.file) else {
                refuse(Code::NotFound, "no such file");
                continue;
            };
            // A client without a slot asks again.
            let Some(client) = v4(from) else { continue };
            let Some(slot) = slots.take(*client.ip()) else { continue };
            let watch = watch.clone();
            let done = spawn("tftp client", move || {
                let _slot = slot;
                // The client has gone; it says so or not.
                let _ = tftp_client(own, client, &request, &file, &watch);
            });
            if let Err(e) = done {
                watch_failure(&e);
            }
        }
    })
}

fn watch_failure(error: &Error) {
    eprintln!("bellwether: {error}");
}

fn tftp_client(
    own: IpAddr,
    client: SocketAddrV4,
    request: &tftp::Request,
    file: &File,
    watch: &Watch,
) -> io::Result<()> {
    // RFC 1350 section 4: a port of its own for each transfer.
    let socket = UdpSocket::bind((own, 0))?;
    socket.connect(client)?;
    let who = name_of(*client.ip());
    if let Some(stage) = &file.stage {
        watch.reached(&who, stage.clone());
    }
    let mut transfer = Transfer::new(request, file.length);
    socket.set_read_timeout(Some(Duration::from_millis(transfer.patience)))?;
    let mut next = transfer.send();
    let mut silent = 0;
    let mut packet = Vec::with_capacity(2048);
    let mut buffer = [0; 1024];
    loop {
        match next {
            Send::Options(options) => drop(socket.send(&options)?),
            Send::Blocks(blocks) => {
                for block in blocks {
                    let (head, offset, length) = transfer.data(block);
                    packet.clear();
                    packet.extend_from_slice(&head);
                    packet.resize(4 + length, 0);
                    let data = packet.get_mut(4..).unwrap_or_default();
                    if let Err(e) = file.read_exact_at(offset, data) {
                        socket.send(&tftp::error(Code::NotDefined, "the medium cannot be read"))?;
                        watch.broken("", &e);
                        return Err(e);
                    }
                    socket.send(&packet)?;
                }
            }
            Send::Nothing => {}
            Send::Done => break,
        }
        next = match socket.recv(&mut buffer) {
            Ok(length) => match tftp::read(buffer.get(..length).unwrap_or_default()) {
                Some(Packet::Ack(number)) => {
                    let before = transfer.done();
                    let next = transfer.acknowledged(number);
                    if transfer.done() > before {
                        silent = 0;
                    }
                    next
                }
                Some(Packet::Error { .. }) => break,
                _ => Send::Nothing,
            },
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                silent += 1;
                if silent >= tftp::MAX_TRIES {
                    break;
                }
                transfer.send()
            }
            Err(e) => return Err(e),
        };
    }
    watch.sent(&who, transfer.done());
    Ok(())
}

/// Serves connections of a TCP listener, each in a thread.
fn accept(
    name: &'static str,
    listener: TcpListener,
    serve: impl Fn(TcpStream, Ipv4Addr) -> io::Result<()> + Clone + std::marker::Send + 'static,
) -> Result<(), Error> {
    spawn(name, move || {
        let slots = Slots::default();
        loop {
            let Ok((stream, from)) = listener.accept() else {
                // Out of descriptors, for example: others may end meanwhile.
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            // Without a slot the connection ends here, and the client tries again.
            let Some(from) = v4(from) else { continue };
            let Some(slot) = slots.take(*from.ip()) else { continue };
            let serve = serve.clone();
            let done = spawn(name, move || {
                let _slot = slot;
                let settled = stream
                    .set_nodelay(true)
                    .and_then(|()| stream.set_read_timeout(Some(PATIENCE)))
                    .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
                // A client that went away is no news.
                let _ = settled.and_then(|()| serve(stream, *from.ip()));
            });
            if let Err(e) = done {
                watch_failure(&e);
            }
        }
    })
}

/// Serves HTTP.
///
/// # Errors
/// No thread can be started.
pub fn http(
    files: Arc<Files>,
    listener: TcpListener,
    watch: Arc<Watch>,
    page: Option<Arc<Page>>,
) -> Result<(), Error> {
    let viewers = Slots::default();
    accept("http", listener, move |stream, from| {
        let page = page.as_deref().map(|page| (page, &viewers));
        http_client(stream, from, &files, &watch, page)
    })
}

/// Answers what is asked of the page; false when it was something else.
fn page_client(
    stream: &mut TcpStream,
    request: &http::Request,
    from: Ipv4Addr,
    (page, viewers): (&Page, &Slots),
) -> io::Result<bool> {
    match request.path.as_str() {
        path if request.post => {
            stream
                .write_all(http::refuse(page.control(path, request.token.as_deref())).as_bytes())?;
        }
        "/" => stream.write_all(http::text("text/html", page::HTML).as_bytes())?,
        "/state.json" => {
            stream.write_all(http::text("application/json", &page.state()).as_bytes())?;
        }
        "/events" => {
            let Some(_slot) = viewers.take(from) else {
                stream.write_all(http::refuse(503).as_bytes())?;
                return Ok(true);
            };
            stream.write_all(http::EVENT_STREAM.as_bytes())?;
            // Until the viewer goes: writing tells.
            loop {
                stream.write_all(format!("data: {}\n\n", page.state()).as_bytes())?;
                thread::sleep(Duration::from_secs(1));
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn http_client(
    mut stream: TcpStream,
    from: Ipv4Addr,
    files: &Files,
    watch: &Watch,
    page: Option<(&Page, &Slots)>,
) -> io::Result<()> {
    // A client that is slower than we are must not push what others need out of the
    // processor's caches: the kernel would let megabytes wait for each.
    setsockopt(&stream, sockopt::SndBuf, &WAITING)?;
    let mut input: Vec<u8> = Vec::new();
    let mut buffer = vec![0; CHUNK];
    // The name costs a look into a table: once a connection.
    let who = name_of(from);
    loop {
        // From its first byte on: a connection may be idle, but not a request half said.
        let mut end = None;
        let (request, used) = loop {
            if end.is_none() && !input.is_empty() {
                end = Some(Instant::now() + HEAD_PATIENCE);
            }
            match http::read(&input) {
                Head::Whole(request, used) => break (request, used),
                Head::Bad(status) => return stream.write_all(http::refuse(status).as_bytes()),
                Head::Partial => {}
            }
            let left = end.map_or(PATIENCE, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return stream.write_all(http::refuse(408).as_bytes());
            }
            stream.set_read_timeout(Some(left))?;
            let mut more = [0; 4096];
            match stream.read(&mut more)? {
                0 => return Ok(()),
                length => input.extend_from_slice(more.get(..length).unwrap_or_default()),
            }
        };
        input.drain(..used.min(input.len()));
        if let Some(page) = page
            && page_client(&mut stream, &request, from, page)?
        {
            return Ok(());
        }
        let kept = page.and_then(|(page, _)| page.settings(&request.path));
        let file = kept.or_else(|| files.find(&request.path)).filter(|_| !request.post);
        let Some(file) = file else {
            return stream.write_all(http::refuse(404).as_bytes());
        };
        if !watch.switches.is_on(Service::Http) {
            return stream.write_all(http::refuse(503).as_bytes());
        }
        if let Some(stage) = file.stage.clone().filter(|_| !request.head) {
            watch.reached(&who, stage);
        }
        let answer = http::answer(&request, file.length, &file.tag);
        stream.write_all(answer.head.as_bytes())?;
        let mut at = answer.body.start;
        while at < answer.body.end {
            // Closing early tells the client that this is not all.
            let sent = send_some(&mut stream, &file, at..answer.body.end, &mut buffer, watch)?;
            at += sent;
            watch.sent(&who, sent);
        }
        if request.close {
            return Ok(());
        }
    }
}

/// Sends the beginning of a part of a file; gives how much it was, never nothing.
fn send_some(
    stream: &mut TcpStream,
    file: &File,
    part: Range<u64>,
    buffer: &mut [u8],
    watch: &Watch,
) -> io::Result<u64> {
    let left = part.end.saturating_sub(part.start);
    let broken = |e: io::Error| {
        watch.broken("", &e);
        e
    };
    if let Some((source, offset, together)) = file.lies_in(part.start) {
        let count = usize::try_from(left.min(together)).unwrap_or(LARGE).min(LARGE);
        let mut at = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        return match sendfile64(&*stream, source, Some(&mut at), count) {
            Ok(0) => Err(broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(sent) => Ok(sent as u64),
            Err(Errno::EIO) => Err(broken(Errno::EIO.into())),
            Err(e) => Err(e.into()),
        };
    }
    let length = usize::try_from(left).unwrap_or(CHUNK).min(buffer.len());
    let bytes = buffer.get_mut(..length).unwrap_or_default();
    file.read_exact_at(part.start, bytes).map_err(broken)?;
    stream.write_all(bytes)?;
    Ok(length as u64)
}

/// Serves NFS and its mount protocol.
///
/// # Errors
/// No thread can be started.
pub fn nfs(server: Arc<Nfs>, listener: TcpListener, watch: Arc<Watch>) -> Result<(), Error> {
    accept("nfs", listener, move |stream, from| {
        // Those who have the medium mounted keep it.
        if watch.switches.is_on(Service::Nfs) {
            return nfs_client(stream, from, &server, &watch);
        }
        Ok(())
    })
}

fn nfs_client(stream: TcpStream, from: Ipv4Addr, server: &Nfs, watch: &Watch) -> io::Result<()> {
    // A mounted client may say nothing for days, and may vanish without a word.
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    let who = name_of(from);
    let mut input = io::BufReader::with_capacity(16 << 10, &stream);
    let mut record = Vec::new();
    let mut reply = Vec::new();
    while nfs::read_record(&mut input, &mut record)? {
        reply.clear();
        reply.extend([0; 4]);
        let Some(seen) = server.handle(&record, &mut reply) else { return Ok(()) };
        let length = u32::try_from(reply.len().saturating_sub(4)).unwrap_or(0);
        if let Some(mark) = reply.first_chunk_mut() {
            *mark = (length | 0x8000_0000).to_be_bytes();
        }
        (&stream).write_all(&reply)?;
        match seen {
            nfs::Seen::Read(bytes) => watch.sent(&who, bytes),
            nfs::Seen::Mount { path, done: true } => watch.reached(&who, Stage::Mounted(path)),
            nfs::Seen::Mount { path, done: false } => {
                watch.tell(&Event::Warning(format!("{who} wants {path}, which is not shared")));
            }
            nfs::Seen::Broken(what, error) => watch.broken(&what, &error),
            nfs::Seen::Up => watch.reached(&who, Stage::Up),
            nfs::Seen::Unmount | nfs::Seen::Other => {}
        }
        // One large read does not make every later one cost as much memory.
        if reply.capacity() > CHUNK + REPLY_SLACK && reply.len() <= CHUNK {
            reply.shrink_to(CHUNK + REPLY_SLACK);
        }
    }
    Ok(())
}

/// How a connection that says nothing is asked whether anybody is there.
struct Patience {
    /// Seconds until it is asked, and between two questions.
    idle: u32,
    interval: u32,
    /// Questions without an answer.
    count: u32,
    /// Milliseconds that something sent may wait for its receipt.
    unread: u32,
}

/// A disk that nobody reads for days is still in use; one of a machine that was switched
/// off is not, half a minute later.
const USUAL: Patience = Patience { idle: 15, interval: 5, count: 3, unread: 30_000 };
/// Somebody else has come for the same disk.
const HURRIED: Patience = Patience { idle: 1, interval: 1, count: 2, unread: 3_000 };

/// A client opens several connections at a time.
const TOGETHER: Duration = Duration::from_secs(3);

/// A connection to a disk.
struct Connection {
    stream: TcpStream,
    since: Instant,
    /// It has been asked to prove that it is alive.
    hurried: AtomicBool,
}

impl Connection {
    fn be_patient(&self, patience: &Patience) -> nix::Result<()> {
        let Patience { idle, interval, count, unread } = patience;
        setsockopt(&self.stream, sockopt::TcpKeepIdle, idle)?;
        setsockopt(&self.stream, sockopt::TcpKeepInterval, interval)?;
        setsockopt(&self.stream, sockopt::TcpKeepCount, count)?;
        setsockopt(&self.stream, sockopt::TcpUserTimeout, unread)?;
        setsockopt(&self.stream, sockopt::KeepAlive, &true)
    }
}

/// The connections to disks, each with the disk's name.
#[derive(Default)]
struct Connections(Mutex<Vec<(String, Weak<Connection>)>>);

impl Connections {
    /// Adds one. Those that the same machine has to the same disk already may be of the
    /// time before it lost its power: they have to show that they are alive, or end.
    fn add(&self, name: String, stream: TcpStream) -> io::Result<Arc<Connection>> {
        let (since, hurried) = (Instant::now(), AtomicBool::new(false));
        let new = Arc::new(Connection { stream, since, hurried });
        new.be_patient(&USUAL)?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, connection)| connection.strong_count() > 0);
        let same = all.iter().filter(|(other, _)| *other == name);
        let same = same.filter_map(|(_, connection)| connection.upgrade());
        for old in same.filter(|old| old.since.elapsed() > TOGETHER) {
            old.hurried.store(true, Ordering::Relaxed);
            old.be_patient(&HURRIED)?;
        }
        all.push((name, Arc::downgrade(&new)));
        Ok(new)
    }
}

/// Serves disks by NBD.
///
/// # Errors
/// No thread can be started.
pub fn nbd(disks: Arc<Disks>, listener: TcpListener, watch: Arc<Watch>) -> Result<(), Error> {
    let connections = Arc::new(Connections::default());
    accept("nbd", listener, move |stream, from| {
        if !watch.switches.is_on(Service::Nbd) {
            return Ok(());
        }
        let who = name_of(from);
        let Some((name, disk)) = nbd_negotiate(&stream, &disks, &who, &watch)? else {
            return Ok(());
        };
        // A medium is for everybody.
        let name = if disk.read_only() { format!("{name} {who}") } else { name };
        nbd_client(&*connections.add(name, stream)?, &disk, &who, &watch)
    })
}

/// Until a client has chosen a disk, or gone.
fn nbd_negotiate(
    mut stream: &TcpStream,
    disks: &Disks,
    who: &str,
    watch: &Watch,
) -> io::Result<Option<(String, Arc<Disk>)>> {
    stream.set_read_timeout(Some(HEAD_PATIENCE))?;
    stream.write_all(&nbd::greeting())?;
    let mut flags = [0; 4];
    stream.read_exact(&mut flags)?;
    let Some(zeroes) = nbd::wants_zeroes(flags) else { return Ok(None) };
    let mut input = Vec::new();
    let end = Instant::now() + PATIENCE;
    for _ in 0..nbd::MAX_OPTIONS {
        let (wish, number, used) = loop {
            match nbd::option(&input) {
                nbd::Read::Whole(wish, number, used) => break (wish, number, used),
                nbd::Read::Bad => return Ok(None),
                nbd::Read::Partial => {}
            }
            let mut more = [0; 1024];
            match stream.read(&mut more)? {
                0 => return Ok(None),
                _ if Instant::now() > end => return Ok(None),
                length => input.extend_from_slice(more.get(..length).unwrap_or_default()),
            }
        };
        input.drain(..used);
        let answer = match wish {
            Wish::Export(ref name) | Wish::Go(ref name) | Wish::About(ref name) => {
                match disks.open(name, who) {
                    Ok(disk) => {
                        let about = nbd::About { size: disk.size(), read_only: disk.read_only() };
                        match wish {
                            Wish::About(_) => nbd::describe(number, about),
                            Wish::Go(_) => {
                                stream.write_all(&nbd::describe(number, about))?;
                                watch.reached(who, Stage::Disk(name.clone()));
                                return Ok(Some((name.clone(), disk)));
                            }
                            _ => {
                                stream.write_all(&nbd::begin(about, zeroes))?;
                                watch.reached(who, Stage::Disk(name.clone()));
                                return Ok(Some((name.clone(), disk)));
                            }
                        }
                    }
                    Err(why) => {
                        let (text, refusal) = match why {
                            Refused::Unknown => {
                                ("which is not shared".to_owned(), Refusal::NoExport)
                            }
                            Refused::NotYours(why) | Refused::Broken(why) => {
                                (why.clone(), Refusal::NotYours(why))
                            }
                        };
                        let text = format!("{who} wants the disk {name:?}: {text}");
                        watch.tell(&Event::Warning(text));
                        if matches!(wish, Wish::Export(_)) {
                            // There is no answer that says no.
                            return Ok(None);
                        }
                        nbd::refuse(number, &refusal)
                    }
                }
            }
            Wish::List => nbd::list(number, &disks.names()),
            Wish::Abort => {
                stream.write_all(&nbd::goodbye(number))?;
                return Ok(None);
            }
            Wish::Senseless => nbd::refuse(number, &Refusal::Senseless),
            Wish::Unknown => nbd::refuse(number, &Refusal::Unknown),
        };
        stream.write_all(&answer)?;
    }
    Ok(None)
}

fn nbd_client(connection: &Connection, disk: &Disk, who: &str, watch: &Watch) -> io::Result<()> {
    let mut stream = &connection.stream;
    stream.set_read_timeout(None)?;
    let mut buffer = Vec::new();
    loop {
        let mut head = [0; nbd::REQUEST];
        stream.read_exact(&mut head)?;
        if connection.hurried.swap(false, Ordering::Relaxed) {
            connection.be_patient(&USUAL)?;
        }
        let Some(request) = nbd::Request::read(&head) else { return Ok(()) };
        let length = request.length as usize;
        // What does not arrive in time belongs to a machine that is gone.
        if request.command == Command::Write {
            stream.set_read_timeout(Some(PATIENCE))?;
            buffer.resize(length, 0);
            stream.read_exact(&mut buffer)?;
            stream.set_read_timeout(None)?;
        }
        let range = request.within(disk.size());
        let done = match request.command {
            Command::Disconnect => return Ok(()),
            Command::Flush => disk.flush().map_err(Some),
            Command::Unknown => Err(None),
            Command::Read | Command::Write | Command::Trim if range.is_none() => Err(None),
            Command::Read => {
                // The answer's head goes before the data, in one piece.
                buffer.clear();
                buffer.resize(16 + length, 0);
                disk.read(request.offset, buffer.get_mut(16..).unwrap_or_default()).map_err(Some)
            }
            Command::Write if disk.read_only() => {
                stream.write_all(&request.answer(Some(Failure::Permission)))?;
                continue;
            }
            Command::Write => disk.write(request.offset, &buffer).map_err(Some),
            Command::Trim => {
                disk.trim(request.offset, u64::from(request.length));
                Ok(())
            }
        };
        let done = match (done, request.now) {
            (Ok(()), true) => disk.flush().map_err(Some),
            (done, _) => done,
        };
        let failure = match &done {
            Ok(()) => None,
            Err(None) => Some(Failure::Invalid),
            Err(Some(error)) => {
                watch.broken("", error);
                Some(match error.kind() {
                    io::ErrorKind::StorageFull => Failure::NoSpace,
                    _ => Failure::Io,
                })
            }
        };
        let answer = request.answer(failure);
        match (request.command, failure) {
            (Command::Read, None) => {
                if let Some(place) = buffer.first_chunk_mut() {
                    *place = answer;
                }
                stream.write_all(&buffer)?;
                watch.sent(who, u64::from(request.length));
            }
            _ => stream.write_all(&answer)?,
        }
        // One large request does not make every later one cost as much memory.
        if buffer.capacity() > 2 * CHUNK && length <= CHUNK {
            buffer = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nfs::Export;
    use crate::tree::Tree;

    fn files() -> (tempfile::TempDir, Arc<Files>) {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..300_000u32).flat_map(u32::to_be_bytes).collect();
        std::fs::write(dir.path().join("big"), bytes).unwrap();
        let tree = Arc::new(Tree::of_directory(dir.path()).unwrap());
        let mut files = Files::default();
        files.add_tree(Export { path: "/m".into(), tree });
        (dir, Arc::new(files))
    }

    fn watch() -> Arc<Watch> {
        Arc::new(Watch::new(|_| ()))
    }

    #[test]
    fn http_serves_parts_on_one_connection() {
        let (dir, files) = files();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        http(files, listener, watch(), None).unwrap();
        let whole = std::fs::read(dir.path().join("big")).unwrap();
        let mut stream = TcpStream::connect(at).unwrap();
        for (from, to) in [(0, 9), (1_000_000, 1_199_999)] {
            let ask = format!("GET /m/big HTTP/1.1\r\nHost: x\r\nRange: bytes={from}-{to}\r\n\r\n");
            stream.write_all(ask.as_bytes()).unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            assert!(head.starts_with(b"HTTP/1.1 206 "));
            let mut body = vec![0; to - from + 1];
            stream.read_exact(&mut body).unwrap();
            assert_eq!(body, whole[from..=to]);
        }
        stream.write_all(b"GET /nothing HTTP/1.1\r\n\r\n").unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.starts_with("HTTP/1.1 404 "));
    }

    #[test]
    fn tftp_serves_whole_files() {
        let (dir, files) = files();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        tftp(files, socket, watch()).unwrap();
        let whole = std::fs::read(dir.path().join("big")).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.send_to(b"\0\x01m/big\0octet\0blksize\x001000\0windowsize\x008\0", at).unwrap();
        let mut buffer = [0; 2000];
        let (length, port) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"\0\x06blksize\x001000\0windowsize\x008\0");
        client.send_to(&[0, 4, 0, 0], port).unwrap();
        let mut got: Vec<u8> = Vec::new();
        let mut block = 0u16;
        loop {
            let (length, _) = client.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..2], [0, 3]);
            if buffer[2..4] != (block.wrapping_add(1)).to_be_bytes() {
                continue;
            }
            block = block.wrapping_add(1);
            got.extend(&buffer[4..length]);
            let last = length < 1004;
            if last || block.is_multiple_of(8) {
                let [high, low] = block.to_be_bytes();
                client.send_to(&[0, 4, high, low], port).unwrap();
            }
            if last {
                break;
            }
        }
        assert_eq!(got, whole);
        client.send_to(b"\0\x01m/../big\0octet\0", at).unwrap();
        let (length, _) = client.recv_from(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(&[0, 5, 0, 1]));
    }

    /// Who is asked whether he is alive, and is, keeps his connection.
    #[test]
    fn a_second_connection_spares_the_living() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (client, listener.accept().unwrap().0)
        };
        let connections = Connections::default();
        let ((mut first, stream), (_second, other)) = (connect(), connect());
        let before = Instant::now().checked_sub(2 * TOGETHER).unwrap();
        let old = Connection { stream, since: before, hurried: AtomicBool::new(false) };
        let old = Arc::new(old);
        connections.0.lock().unwrap().push(("disk".into(), Arc::downgrade(&old)));
        let new = connections.add("disk".into(), other).unwrap();
        assert!(old.hurried.load(Ordering::Relaxed) && !new.hurried.load(Ordering::Relaxed));
        assert_eq!(nix::sys::socket::getsockopt(&old.stream, sockopt::TcpKeepIdle), Ok(1));
        thread::sleep(Duration::from_millis(3500));
        first.write_all(b"here").unwrap();
        let mut said = [0; 4];
        (&old.stream).read_exact(&mut said).unwrap();
        assert_eq!(&said, b"here");
    }

    #[test]
    fn nfs_over_a_connection() {
        let (_dir, files) = files();
        drop(files);
        let dir = tempfile::tempdir().unwrap();
        let tree = Arc::new(Tree::of_directory(dir.path()).unwrap());
        let server = Nfs { exports: vec![Export { path: "/m".into(), tree }], port: 1 };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        nfs(Arc::new(server), listener, watch()).unwrap();
        let mut stream = TcpStream::connect(at).unwrap();
        let call = netboot::nfs::rpc::Call {
            xid: 5,
            program: 100_003,
            version: 3,
            procedure: 0,
            arguments: &[],
            root: true,
        };
        for _ in 0..3 {
            stream.write_all(&call.to_record()).unwrap();
            let mut reply = [0; 28];
            stream.read_exact(&mut reply).unwrap();
            assert_eq!(reply[..8], [0x80, 0, 0, 24, 0, 0, 0, 5]);
        }
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(stream.read(&mut [0; 10]).unwrap_or(0), 0);
    }
}
