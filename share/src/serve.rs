//! The sockets: DHCP, TFTP, HTTP, NFS and NBD, each with a thread that listens and threads for
//! its clients, bounded in number, memory and time.
//!
//! Nothing is left behind however the process ends: no mounts, no loop devices, no files but
//! the list of leases.

pub mod dhcp;
pub mod http;
pub mod nbd;
pub mod nfs;
pub mod tftp;

use crate::error::Error;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Most connections and transfers at a time, of each protocol.
const MAX_CLIENTS: usize = 512;
/// Most connections of one address, which may be a NAT in front of many machines.
const MAX_OF_ONE: usize = 128;
/// Stack of a client's thread, in bytes.
const STACK: usize = 256 << 10;
/// A client that accepts no data for this long counts as gone.
const PATIENCE: Duration = Duration::from_secs(60);
/// A request must be complete within this time.
const HEAD_PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of a file that are read at once.
const CHUNK: usize = 128 << 10;

/// Limits the clients of one protocol, in total and for each address.
#[derive(Debug, Clone, Default)]
struct Slots(Arc<Mutex<BTreeMap<Ipv4Addr, usize>>>);

/// A taken slot; dropping it frees it.
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

fn spawn(name: &'static str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let thread = thread::Builder::new().name(name.into()).stack_size(STACK).spawn(run);
    thread.map(drop).map_err(Error::system("start a thread"))
}

fn v4(address: SocketAddr) -> Option<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    }
}

fn tell_failure(error: &Error) {
    eprintln!("bellwether: {error}");
}

/// Serves connections of a TCP listener, each in a thread.
fn accept(
    name: &'static str,
    listener: TcpListener,
    serve: impl Fn(TcpStream, Ipv4Addr) -> io::Result<()> + Clone + Send + 'static,
) -> Result<(), Error> {
    spawn(name, move || {
        let slots = Slots::default();
        loop {
            let Ok((stream, from)) = listener.accept() else {
                // Out of descriptors, for example: other connections may end meanwhile.
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
                // A client that disconnected is not worth a message.
                let _ = settled.and_then(|()| serve(stream, *from.ip()));
            });
            if let Err(e) = done {
                tell_failure(&e);
            }
        }
    })
}

#[cfg(test)]
mod fixture {
    use crate::event::Watch;
    use crate::files::Files;
    use crate::nfs::Export;
    use crate::tree::Tree;
    use std::sync::Arc;

    pub(super) fn files() -> (tempfile::TempDir, Arc<Files>) {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..300_000u32).flat_map(u32::to_be_bytes).collect();
        std::fs::write(dir.path().join("big"), bytes).unwrap();
        let tree = Arc::new(Tree::of_directory(dir.path()).unwrap());
        let mut files = Files::default();
        files.add_tree(Export { path: "/m".into(), tree });
        (dir, Arc::new(files))
    }

    pub(super) fn watch() -> Arc<Watch> {
        Arc::new(Watch::new(|_| ()))
    }
}
