//! NFS and its mount protocol.

use super::{HEAD_PATIENCE, Timed, accept, timed_out};
use crate::budget::{Budget, Memory, Place, Use};
use crate::error::Error;
use crate::event::{Stage, Watch};
use crate::net::name_of;
use crate::nfs::{self, Server};
use crate::services::Service;
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{self, BufRead as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;

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
    accept("nfs", listener, &budget.nfs, &told, String::new(), move |stream, from, place| {
        // Clients that have the medium mounted keep their connection.
        if watch.switches.is_on(Service::Nfs) {
            return serve(stream, (from, place), &server, &memory, &watch);
        }
        Ok(())
    })
}

fn serve(
    mut stream: &TcpStream,
    (from, place): (Ipv4Addr, &Place),
    server: &Server,
    memory: &Memory,
    watch: &Watch,
) -> io::Result<()> {
    // A mounted client may be idle for days, and may disappear without closing.
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    let who = name_of(from);
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
        let mut room = |wanted| held.insert(memory.room(from, wanted)).bytes;
        let Some(seen) = server.handle(&record, &mut reply, &mut room) else { return Ok(()) };
        mounted = true;
        let length = u32::try_from(reply.len().saturating_sub(4)).unwrap_or(0);
        if let Some(mark) = reply.first_chunk_mut() {
            *mark = (length | 0x8000_0000).to_be_bytes();
        }
        place.is(Use::Owing);
        stream.write_all(&reply)?;
        drop(held);
        // Clients connect again by themselves, and repeat a call without an answer.
        place.is(Use::Idle);
        match seen {
            nfs::Seen::Read(bytes) => watch.sent(&who, bytes),
            nfs::Seen::Mount { path, done: true } => watch.reached(&who, Stage::Mounted(path)),
            nfs::Seen::Mount { path, done: false } => {
                watch.refused(&who, format!("{who} wants {path}, which is not shared"));
            }
            nfs::Seen::Broken(what, error) => watch.broken(&what, &error),
            nfs::Seen::Short(error) => {
                let text = format!("{who} is told to try again: the server is short: {error}");
                watch.refused(&who, text);
            }
            nfs::Seen::Up => watch.reached(&who, Stage::Up),
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
}
