//! Many clients at once, as a room full of machines that are switched on together:
//! `load http|nfs SERVER PORT CLIENTS REFERENCE=PATH…`
//!
//! Every client fetches every PATH: by HTTP as a whole; by NFS version 3 in the pieces and the order
//! in which a squashfs is read while a system boots, with four on the way, as a kernel reads
//! ahead. PORT is that of a portmapper for NFS, PATH then EXPORT//REST. Every byte is held against
//! the REFERENCE file. Each client has an address of its own, 10.77.0.101 and up,
//! which this machine must have: a server may care. Prints the time until the last client has everything.

use netboot::nfs::rpc::{Call, Decoder, Encoder};
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Bytes of the reads, in turn: read-ahead windows of 128 KiB, with inodes and the ends of files
/// between them.
const READS: [u64; 8] =
    [128 << 10, 16 << 10, 128 << 10, 128 << 10, 4 << 10, 64 << 10, 128 << 10, 32 << 10];
/// So many reads that follow each other on the medium are asked for out of order.
const TURNED: usize = 16;
const AHEAD: usize = 4;
/// Small, so that what arrives is compared before it leaves the processor's cache.
const BUFFER: usize = 64 << 10;

/// A file to fetch and what is in it.
struct Wanted {
    path: String,
    content: Vec<u8>,
}

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: load http|nfs SERVER PORT CLIENTS REFERENCE=PATH...";
    let [protocol, server, port, clients, files @ ..] = words.as_slice() else {
        return Err(usage.into());
    };
    let (port, clients): (u16, usize) = (port.parse()?, clients.parse()?);
    let mut wanted = Vec::new();
    for file in files {
        let (reference, path) = file.split_once('=').ok_or(usage)?;
        wanted.push(Wanted { path: path.into(), content: std::fs::read(reference)? });
    }
    let wanted = Arc::new(wanted);
    let each: u64 = wanted.iter().map(|file| file.content.len() as u64).sum();
    let fetch = match protocol.as_str() {
        "http" => http,
        "nfs" => nfs,
        _ => return Err(usage.into()),
    };
    let start = Instant::now();
    let threads: Vec<_> = (0..clients)
        .map(|n| {
            let (wanted, server) = (wanted.clone(), server.clone());
            std::thread::spawn(move || {
                let own = Ipv4Addr::from(u32::from(FIRST) + n as u32);
                let server = Server { name: server, own };
                wanted.iter().try_for_each(|file| fetch(&server, port, file))
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a client panicked")??;
    }
    let seconds = start.elapsed().as_secs_f64();
    let bytes = each * clients as u64;
    println!(
        "{protocol}: {clients} clients, {} MB in {seconds:.3} s, {:.0} MB/s, every byte right",
        bytes / 1_000_000,
        bytes as f64 / 1e6 / seconds
    );
    Ok(())
}

/// A server, and the client's own address.
struct Server {
    name: String,
    own: Ipv4Addr,
}

/// The first client's address.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);

fn connect(server: &Server, port: u16) -> Outcome<TcpStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
    let to = (server.name.as_str(), port).to_socket_addrs()?.find_map(|to| match to {
        SocketAddr::V4(to) => Some(to),
        SocketAddr::V6(_) => None,
    });
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let [a, b, c, d] = server.own.octets();
    bind(fd.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 0))?;
    connect(fd.as_raw_fd(), &SockaddrIn::from(to.ok_or("no address of version 4")?))?;
    let stream = TcpStream::from(fd);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// Reads as many bytes as there should be and compares them.
fn compare(stream: &mut impl Read, wanted: &[u8], buffer: &mut [u8], path: &str) -> Outcome<()> {
    let mut rest = wanted;
    while !rest.is_empty() {
        let length = rest.len().min(buffer.len());
        let part = buffer.get_mut(..length).unwrap_or_default();
        let got = stream.read(part)?;
        let (now, later) = rest.split_at_checked(got).ok_or("more than asked for")?;
        if got == 0 || part.get(..got) != Some(now) {
            return Err(format!("{path}: wrong after {} bytes", wanted.len() - rest.len()).into());
        }
        rest = later;
    }
    Ok(())
}

fn http(server: &Server, port: u16, file: &Wanted) -> Outcome<()> {
    let mut stream = connect(server, port)?;
    let (path, host) = (&file.path, &server.name);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    if !head.starts_with(b"HTTP/1.1 200 ") {
        return Err(String::from_utf8_lossy(&head).into());
    }
    compare(&mut stream, &file.content, &mut vec![0; BUFFER], &file.path)?;
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(format!("{}: too long", file.path).into()),
    }
}

/// One ONC RPC connection.
struct Rpc {
    stream: TcpStream,
    next: u32,
}

impl Rpc {
    fn send(&mut self, program: u32, version: u32, procedure: u32, args: &[u8]) -> Outcome<()> {
        self.next += 1;
        let call =
            Call { xid: self.next, program, version, procedure, arguments: args, root: true };
        Ok(self.stream.write_all(&call.to_record())?)
    }

    /// The number of the next reply, and its length behind its first 24 bytes.
    fn reply(&mut self) -> Outcome<(u32, usize)> {
        let mut head = [0; 28];
        self.stream.read_exact(&mut head)?;
        let mut xdr = Decoder::new(&head);
        let mark = xdr.u32().unwrap_or(0);
        let (id, reply, accepted) = (xdr.u32().unwrap_or(0), xdr.u32(), xdr.u32());
        let (_, _, status) = (xdr.u32(), xdr.u32(), xdr.u32());
        if (reply, accepted, status, mark >> 31) != (Some(1), Some(0), Some(0), 1) {
            return Err(format!("not a reply: {head:?}").into());
        }
        Ok((id, (mark & 0x7fff_ffff) as usize - 24))
    }

    fn call(&mut self, program: u32, version: u32, procedure: u32, a: &[u8]) -> Outcome<Vec<u8>> {
        self.send(program, version, procedure, a)?;
        let mut bytes = vec![0; self.reply()?.1];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn rpc(server: &Server, port: u16) -> Outcome<Rpc> {
    Ok(Rpc { stream: connect(server, port)?, next: 0 })
}

fn nfs(server: &Server, port: u16, file: &Wanted) -> Outcome<()> {
    let mut portmap = rpc(server, port)?;
    let mut ask = |program: u32| -> Outcome<u16> {
        let args = Encoder::default().u32(program).u32(3).u32(6).u32(0).finish();
        let port = Decoder::new(&portmap.call(100_000, 2, 3, &args)?).u32().unwrap_or(0);
        Ok(u16::try_from(port)?)
    };
    let (mount, nfs) = (ask(100_005)?, ask(100_003)?);
    let (export, path) = file.path.split_once("//").ok_or("EXPORT//PATH")?;
    let args = Encoder::default().opaque(export.as_bytes()).finish();
    let handle_in = |reply: &[u8]| -> Outcome<Vec<u8>> {
        let mut xdr = Decoder::new(reply);
        match xdr.u32() {
            Some(0) => Ok(xdr.opaque(64).ok_or("no handle")?.to_vec()),
            other => Err(format!("{}: status {other:?}", file.path).into()),
        }
    };
    let mut handle = handle_in(&rpc(server, mount)?.call(100_005, 3, 1, &args)?)?;
    let mut rpc = rpc(server, nfs)?;
    for name in path.split('/') {
        let args = Encoder::default().opaque(&handle).opaque(name.as_bytes()).finish();
        handle = handle_in(&rpc.call(100_003, 3, 3, &args)?)?;
    }
    let length = file.content.len() as u64;
    let mut todo: VecDeque<(u64, u64)> = VecDeque::new();
    let mut at = 0;
    for size in READS.iter().cycle() {
        let size = (*size).min(length - at);
        if size == 0 {
            break;
        }
        todo.push_back((at, size));
        at += size;
    }
    todo.make_contiguous().chunks_mut(TURNED).for_each(<[(u64, u64)]>::reverse);
    let mut open: HashMap<u32, (u64, u64)> = HashMap::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        while open.len() < AHEAD
            && let Some((offset, length)) = todo.pop_front()
        {
            let args = Encoder::default().opaque(&handle).u32((offset >> 32) as u32);
            let args = args.u32(offset as u32).u32(length as u32).finish();
            rpc.send(100_003, 3, 6, &args)?;
            open.insert(rpc.next, (offset, length));
        }
        if open.is_empty() {
            return Ok(());
        }
        // Replies may overtake each other.
        let (id, whole) = rpc.reply()?;
        let (offset, length) = open.remove(&id).ok_or("an answer to nothing")?;
        let mut head = [0; 4 + 4 + 84 + 12];
        rpc.stream.read_exact(&mut head)?;
        let mut xdr = Decoder::new(&head);
        let status = (xdr.u32(), xdr.u32(), xdr.skip(84));
        let (count, _, _) = (xdr.u32().unwrap_or(0), xdr.u32(), xdr.u32());
        if status != (Some(0), Some(1), Some(())) || count == 0 || u64::from(count) > length {
            return Err(format!("{}: {status:?}, {count} bytes", file.path).into());
        }
        let at = offset as usize;
        let part = file.content.get(at..at + count as usize).ok_or("behind the end")?;
        compare(&mut rpc.stream, part, &mut buffer, &file.path)?;
        let padding = whole - head.len() - count as usize;
        io::copy(&mut (&rpc.stream).take(padding as u64), &mut io::sink())?;
        // A server may give less than it was asked for.
        if u64::from(count) < length {
            todo.push_front((offset + u64::from(count), length - u64::from(count)));
        }
    }
}
