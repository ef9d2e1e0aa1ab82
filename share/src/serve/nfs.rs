//! NFS and its mount protocol.

use super::{CHUNK, accept};
use crate::error::Error;
use crate::event::{Stage, Watch};
use crate::net::name_of;
use crate::nfs::{self, Server};
use crate::services::Service;
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;

/// Bytes of a reply without the content of a READ.
const REPLY_SLACK: usize = 4096;

/// Serves NFS and its mount protocol.
///
/// # Errors
/// [`Error::System`] when a thread cannot be started.
pub fn start(server: Arc<Server>, listener: TcpListener, watch: Arc<Watch>) -> Result<(), Error> {
    accept("nfs", listener, move |stream, from| {
        // Clients that have the medium mounted keep their connection.
        if watch.switches.is_on(Service::Nfs) {
            return serve(stream, from, &server, &watch);
        }
        Ok(())
    })
}

fn serve(stream: TcpStream, from: Ipv4Addr, server: &Server, watch: &Watch) -> io::Result<()> {
    // A mounted client may be idle for days, and may disappear without closing.
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
                watch.refused(&who, format!("{who} wants {path}, which is not shared"));
            }
            nfs::Seen::Broken(what, error) => watch.broken(&what, &error),
            nfs::Seen::Up => watch.reached(&who, Stage::Up),
            nfs::Seen::Unmount | nfs::Seen::Other => {}
        }
        // One large read must not make every later one take as much memory.
        if reply.capacity() > CHUNK + REPLY_SLACK && reply.len() <= CHUNK {
            reply.shrink_to(CHUNK + REPLY_SLACK);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nfs::Export;
    use crate::serve::fixture::watch;
    use crate::tree::Tree;
    use std::io::Read as _;

    #[test]
    fn nfs_over_a_connection() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Arc::new(Tree::of_directory(dir.path()).unwrap());
        let server = Server { exports: vec![Export { path: "/m".into(), tree }], port: 1 };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        start(Arc::new(server), listener, watch()).unwrap();
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
