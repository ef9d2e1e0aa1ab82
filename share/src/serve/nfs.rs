//! NFS and its mount protocol.

use super::{Client, HEAD_PATIENCE, Timed, accept, timed_out};
use crate::budget::{Budget, Use};
use crate::error::Error;
use crate::event::{Stage, Watch};
use crate::nfs::{self, Server};
use crate::services::Service;
use crate::tree::Piece;
use nix::errno::Errno;
use nix::sys::sendfile::sendfile64;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{SendFlags, send};
use std::io::{self, BufRead as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A buffer that a connection keeps for the next reply, in bytes.
const KEPT: usize = 8192;

/// Serves NFS and its mount protocol.
///
/// # Errors
/// [`Error::System`] when a thread cannot be started.
pub fn start(
    server: Arc<Server>,
    listener: TcpListener,
    watch: Arc<Watch>,
    budget: &Budget,
) -> Result<(), Error> {
    let (memory, told) = (budget.memory.clone(), watch.clone());
    // An error of the medium behind the head of a reply cannot be said: from then on data are read
    // first, so that clients are told.
    let sound = Arc::new(AtomicBool::new(true));
    accept("nfs", listener, &budget.nfs, &told, String::new(), move |stream, from, place| {
        // Clients that have the medium mounted keep their connection.
        if watch.switches.is_on(Service::Nfs) {
            return serve(stream, &Client::new(from, place, &memory), &server, &sound, &watch);
        }
        Ok(())
    })
}

fn serve(
    mut stream: &TcpStream,
    client: &Client<'_>,
    server: &Server,
    sound: &AtomicBool,
    watch: &Watch,
) -> io::Result<()> {
    // A mounted client may be idle for days, and may disappear without closing.
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    let Client { from, who, place, memory } = client;
    let mut input = io::BufReader::with_capacity(4096, Timed::new(stream));
    let mut record = Vec::new();
    let mut reply = Vec::new();
    let mut mounted = false;
    loop {
        // A call may not drip in, and the first one must come soon.
        let timed = input.get_mut();
        match mounted {
            true => timed.end = None,
            false => timed.within(HEAD_PATIENCE),
        }
        match input.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(_) => {}
            Err(e) if timed_out(&e) && mounted => continue,
            Err(e) => return Err(e),
        }
        input.get_mut().within(HEAD_PATIENCE);
        if !nfs::read_record(&mut input, &mut record)? {
            return Ok(());
        }
        reply.clear();
        reply.extend([0; 4]);
        let mut held = None;
        let mut room = |wanted| held.insert(memory.room(*from, wanted)).bytes;
        let direct = sound.load(Ordering::Relaxed);
        let Some(seen) = server.handle(&record, &mut reply, &mut room, direct) else {
            return Ok(());
        };
        mounted = true;
        let behind = match &seen {
            nfs::Seen::Direct(piece) => piece.length.next_multiple_of(4),
            _ => 0,
        };
        let length = u32::try_from(reply.len().saturating_sub(4) + behind).unwrap_or(0);
        if let Some(mark) = reply.first_chunk_mut() {
            *mark = (length | 0x8000_0000).to_be_bytes();
        }
        place.is(Use::Owing);
        match &seen {
            nfs::Seen::Direct(piece) => {
                if let Err(e) = send_with(stream, &reply, piece) {
                    if !gone(&e) && sound.swap(false, Ordering::Relaxed) {
                        watch.broken("", &e);
                    }
                    return Err(e);
                }
            }
            _ => stream.write_all(&reply)?,
        }
        drop(held);
        // Clients connect again by themselves, and repeat a call without an answer.
        place.is(Use::Idle);
        match seen {
            nfs::Seen::Read(bytes) => watch.sent(who, bytes),
            nfs::Seen::Direct(piece) => watch.sent(who, piece.length as u64),
            nfs::Seen::Mount { path, done: true } => watch.reached(who, Stage::Mounted(path)),
            nfs::Seen::Mount { path, done: false } => {
                watch.refused(who, format!("{who} wants {path}, which is not shared"));
            }
            nfs::Seen::Broken(what, error) => watch.broken(&what, &error),
            nfs::Seen::Short(error) => {
                let text = format!("{who} is told to try again: the server is short: {error}");
                watch.refused(who, text);
            }
            nfs::Seen::Up => watch.reached(who, Stage::Up),
            nfs::Seen::Unmount | nfs::Seen::Other => {}
        }
        // An idle connection takes no memory for the large reply that it once got.
        for buffer in [&mut reply, &mut record] {
            if buffer.capacity() > KEPT {
                *buffer = Vec::new();
            }
        }
    }
}

/// Sends a reply and the data behind it, which the kernel takes from the file itself.
fn send_with(mut stream: &TcpStream, reply: &[u8], piece: &Piece<'_>) -> io::Result<()> {
    let mut rest = reply;
    while !rest.is_empty() {
        match send(stream, rest, SendFlags::MORE | SendFlags::NOSIGNAL) {
            Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let mut at = i64::try_from(piece.offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut left = piece.length;
    while left > 0 {
        match sendfile64(stream, piece.file(), Some(&mut at), left) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(sent) => left = left.saturating_sub(sent),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let padding = piece.length.wrapping_neg() % 4;
    if padding > 0 {
        stream.write_all([0; 4].get(..padding).unwrap_or_default())?;
    }
    Ok(())
}

/// Whether it was the client that failed, and not the medium.
fn gone(error: &io::Error) -> bool {
    let client = [Errno::EPIPE, Errno::ECONNRESET, Errno::EAGAIN, Errno::ETIMEDOUT];
    error.raw_os_error().is_some_and(|code| client.contains(&Errno::from_raw(code)))
        || matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nfs::Export;
    use crate::serve::fixture::{budget, watch};
    use crate::tree::Tree;
    use std::io::Read as _;

    #[test]
    fn nfs_over_a_connection() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Arc::new(Tree::of_directory(dir.path()).unwrap());
        let server = Server { exports: vec![Export { path: "/m".into(), tree }], port: 1 };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        start(Arc::new(server), listener, watch(), &budget()).unwrap();
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

    /// Data come from where they lie, whole and padded; when they do not, clients are told so
    /// with the next try.
    #[test]
    fn data_from_where_they_lie() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..200_001u32).map(|n| (n >> 3) as u8).collect();
        std::fs::write(dir.path().join("a"), &bytes).unwrap();
        let tree = Arc::new(Tree::of_directory(dir.path()).unwrap());
        let (a, _) = tree.file("/a").unwrap();
        let handle = [tree.identity, tree.node(a).unwrap().id.0].map(u64::to_be_bytes).concat();
        let exports = vec![Export { path: "/m".into(), tree }];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        start(Arc::new(Server { exports, port: 1 }), listener, watch(), &budget()).unwrap();
        let mut stream = TcpStream::connect(at).unwrap();
        let mut read = |offset: u32, count: u32| {
            let args = netboot::nfs::rpc::Encoder::default().opaque(&handle);
            let args = args.u32(0).u32(offset).u32(count).finish();
            let call = netboot::nfs::rpc::Call {
                xid: 5,
                program: 100_003,
                version: 3,
                procedure: 6,
                arguments: &args,
                root: true,
            };
            stream.write_all(&call.to_record()).unwrap();
            let mut mark = [0; 4];
            stream.read_exact(&mut mark).unwrap();
            let mut reply = vec![0; (u32::from_be_bytes(mark) & 0x7fff_ffff) as usize];
            stream.read_exact(&mut reply).unwrap();
            reply
        };
        for (offset, count) in [(0, 200_000), (7, 100_001), (100_000, 200_000), (0, 100)] {
            let reply = read(offset, count);
            let end = bytes.len().min((offset + count) as usize);
            let wanted = &bytes[offset as usize..end];
            let head = 24 + 4 + 4 + 84;
            let eof = u32::from(end == bytes.len());
            let fields = [wanted.len() as u32, eof, wanted.len() as u32].map(u32::to_be_bytes);
            assert_eq!(reply[head..head + 12], fields.concat());
            assert_eq!(&reply[head + 12..][..wanted.len()], wanted);
            assert_eq!(reply.len(), head + 12 + wanted.len().next_multiple_of(4));
        }
        std::fs::OpenOptions::new()
            .write(true)
            .open(dir.path().join("a"))
            .unwrap()
            .set_len(50_000)
            .unwrap();
        let reply = read(0, 100_000);
        assert_eq!(&reply[24 + 4 + 4 + 84 + 12..][..50_000], &bytes[..50_000]);
    }
}
