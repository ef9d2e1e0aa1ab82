//! The sockets: DHCP, TFTP, HTTP, NFS and NBD, each with a thread that listens and threads for
//! its clients, bounded in number, memory and time.
//!
//! Nothing is left behind however the process ends: no mounts, no loop devices, no files but
//! the list of leases.

pub mod dhcp;
pub mod http;
pub mod nbd;
pub mod nfs;
pub mod room;
pub mod tftp;

use crate::budget::{Memory, Place, Places, is_shortage};
use crate::disk::store::Store;
use crate::error::Error;
use crate::event::{Event, Watch};
use crate::net::name_of;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Stack of a client's thread, in bytes.
const STACK: usize = 256 << 10;
/// A client that accepts no data for this long counts as gone.
const PATIENCE: Duration = Duration::from_secs(60);
/// A request must be complete within this time.
const HEAD_PATIENCE: Duration = Duration::from_secs(20);
/// How long a request waits for descriptors or memory.
const SHORTAGE: Duration = Duration::from_secs(20);
/// Time between two looks at what does not report itself.
const LOOK: Duration = Duration::from_secs(10);
/// What is read first of something whose length was announced: a page.
const FIRST: usize = 4096;

/// A client, and what it may take.
struct Client<'c> {
    from: Ipv4Addr,
    /// Its hardware address when known, else its address.
    who: String,
    place: &'c Place,
    memory: &'c Memory,
}

impl<'c> Client<'c> {
    fn new(from: Ipv4Addr, place: &'c Place, memory: &'c Memory) -> Self {
        Self { from, who: name_of(from), place, memory }
    }
}

fn spawn(name: &'static str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let thread = thread::Builder::new().name(name.into()).stack_size(STACK).spawn(run);
    thread.map(drop).map_err(Error::system("start a thread"))
}

/// Looks every few seconds how much room the clients' files have, and how many messages were
/// left out: nothing else would say it.
///
/// # Errors
/// [`Error::System`] when the thread cannot be started.
pub fn watch_over(watch: &Arc<Watch>, store: Option<Store>) -> Result<(), Error> {
    let watch = watch.clone();
    spawn("watch", move || {
        loop {
            watch.tell_left_out();
            if let Some(text) = store.as_ref().and_then(Store::warning) {
                watch.tell(&Event::Warning(text));
            }
            thread::sleep(LOOK);
        }
    })
}

fn v4(address: SocketAddr) -> Option<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    }
}

/// A connection whose reads end at a deadline: a request may not drip in.
struct Timed<'s> {
    stream: &'s TcpStream,
    /// Without one, each read may take [`PATIENCE`].
    end: Option<Instant>,
    /// The read timeout is [`PATIENCE`].
    patient: bool,
}

impl<'s> Timed<'s> {
    fn new(stream: &'s TcpStream) -> Self {
        Self { stream, end: None, patient: false }
    }

    fn within(&mut self, time: Duration) {
        self.end = Some(Instant::now() + time);
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.end {
            Some(end) => {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                self.stream.set_read_timeout(Some(left))?;
                self.patient = false;
            }
            None if !self.patient => {
                self.stream.set_read_timeout(Some(PATIENCE))?;
                self.patient = true;
            }
            None => {}
        }
        self.stream.read(buffer)
    }
}

/// Whether a read ended because its time did.
fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Reads `length` bytes into an emptied buffer, which grows with what arrives: the announcement
/// alone takes no memory.
fn read_growing(from: &mut impl Read, buffer: &mut Vec<u8>, length: usize) -> io::Result<()> {
    buffer.clear();
    while buffer.len() < length {
        let got = buffer.len();
        buffer.resize((got * 2).clamp(FIRST, length.max(FIRST)).min(length), 0);
        from.read_exact(buffer.get_mut(got..).unwrap_or_default())?;
    }
    Ok(())
}

/// Tries again while the system lacks descriptors or memory: other connections end meanwhile.
fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let end = Instant::now() + SHORTAGE;
    loop {
        match attempt() {
            Err(e) if is_shortage(&e) && Instant::now() < end => {
                thread::sleep(Duration::from_millis(100));
            }
            done => return done,
        }
    }
}

/// Serves connections of a TCP listener, each in a thread. One that gets no place is sent
/// `refusal`.
fn accept(
    name: &'static str,
    listener: TcpListener,
    places: &Places,
    watch: &Arc<Watch>,
    refusal: String,
    serve: impl Fn(&Arc<TcpStream>, Ipv4Addr, &Place) -> io::Result<()> + Clone + Send + 'static,
) -> Result<(), Error> {
    let (places, watch) = (places.clone(), watch.clone());
    spawn(name, move || {
        loop {
            let Ok((stream, from)) = listener.accept() else {
                // Out of descriptors, for example: other connections may end meanwhile.
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            let Some(from) = v4(from) else { continue };
            let from = *from.ip();
            let stream = Arc::new(stream);
            let other = stream.clone();
            let end = move || drop(other.shutdown(Shutdown::Both));
            let Some(place) = places.take(from, end) else {
                // Does not wait: there is room in an empty send buffer.
                let _ = stream.set_nonblocking(true);
                let _ = (&*stream).write_all(refusal.as_bytes());
                continue;
            };
            let serve = serve.clone();
            let done = spawn(name, move || {
                let settled =
                    stream.set_nodelay(true).and(stream.set_write_timeout(Some(PATIENCE)));
                // A client that disconnected is not worth a message.
                let _ = settled.and_then(|()| serve(&stream, from, &place));
            });
            if let Err(e) = done {
                watch.refused(&from.to_string(), format!("{from} is not served: {e}"));
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

    pub(super) fn budget() -> crate::budget::Budget {
        crate::budget::Budget::of_descriptors(1024)
    }

    pub(super) fn watch() -> Arc<Watch> {
        Arc::new(Watch::new(|_| ()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn an_announced_length_takes_no_memory() {
        struct Half(usize);
        impl Read for Half {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let now = self.0.min(buffer.len());
                self.0 -= now;
                Ok(now)
            }
        }
        let mut buffer = Vec::new();
        assert!(read_growing(&mut Half(10_000), &mut buffer, 32 << 20).is_err());
        assert!(buffer.capacity() <= 32_768, "{}", buffer.capacity());
        for length in [0, 1, 4095, 4096, 4097, 100_000] {
            read_growing(&mut Half(length), &mut buffer, length).unwrap();
            assert_eq!(buffer.len(), length);
        }
    }

    #[test]
    fn a_shortage_is_waited_for() {
        let left = Cell::new(3);
        let done = patiently(|| match left.replace(left.get() - 1) {
            0 => Ok(7),
            _ => Err(io::Error::from_raw_os_error(24)),
        });
        assert_eq!(done.unwrap(), 7);
        assert!(patiently(|| -> io::Result<()> { Err(io::ErrorKind::NotFound.into()) }).is_err());
    }
}
