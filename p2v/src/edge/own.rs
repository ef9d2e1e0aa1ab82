//! `p2v://`: `bellwether clone p2v-server` makes an image of each disk, and a guest of them.
//!
//! Inside of the sealed connection it is an NBD server that is filled and read back.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::SocketAddrV4;

use embedded_io::{ErrorType, Read, Write};
use netboot::io::{Broken, Stream, Tcp};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use sys::clock::Instant;

use super::disk::Disk;
use super::nbd::{Stop, fill_by, negotiated};
use super::{Arrived, PATIENCE, World, broken};
use crate::guest::{Ask, Guest, disk_name};
use crate::seal::{self, Key, Nonce, Opener, Sealer};
use crate::trouble::Trouble;

/// A `p2v-server`, which makes guests of disks.
#[derive(Debug)]
pub struct Receiver {
    /// Where it is.
    pub peer: SocketAddrV4,
    /// The key that it has, too.
    pub key: Key,
    /// The name of this run: the server knows by it which disks belong together.
    run: String,
}

impl Receiver {
    /// The server at a place, for one run.
    ///
    /// # Errors
    /// The kernel has no random numbers.
    pub fn new(peer: SocketAddrV4, key: Key) -> Result<Self, Trouble> {
        let [first, second, ..] = *nonce()?.as_chunks::<8>().0 else { return Err(no_random()) };
        let run = format!("{:016x}{:016x}", u64::from_be_bytes(first), u64::from_be_bytes(second));
        Ok(Self { peer, key, run })
    }

    /// A sealed connection that was granted what is asked for, and the server's answer.
    fn ask(&self, ask: &Ask) -> Result<(Sealed, String), Stop> {
        let deadline = Instant::now().after(PATIENCE);
        let tcp = Tcp::connect(self.peer, false, deadline).map_err(Stop::Cut)?;
        let own = nonce()?;
        let mut sealed = Sealed::greet(tcp, &self.key, &own)?;
        sealed.write_all(ask.text().as_bytes())?;
        let mut answer = [0; 1024];
        let length = match sealed.read(&mut answer)? {
            // A server with another key says nothing.
            0 => return Err(other_key(self.peer).into()),
            length => length,
        };
        let answer = String::from_utf8_lossy(answer.get(..length).unwrap_or_default());
        let answer: String = answer.trim().chars().filter(|c| !c.is_control()).collect();
        match answer.strip_prefix("ok ") {
            Some(rest) => Ok((sealed, rest.to_string())),
            None => Err(Trouble::new(&format!("{}: {answer}", self.peer), "").into()),
        }
    }
}

fn no_random() -> Trouble {
    Trouble::new("the kernel has no random numbers", "")
}

fn other_key(peer: SocketAddrV4) -> Trouble {
    Trouble::new(
        &format!("{peer} ended the connection without an answer, as it does to other keys"),
        "bw.p2v.key= must have the key that bellwether clone p2v-server shows; its own screen says \
         more",
    )
}

fn nonce() -> Result<Nonce, Trouble> {
    let mut bytes = Nonce::default();
    match getrandom(&mut bytes[..], GetRandomFlags::empty()) {
        Ok(24) => Ok(bytes),
        _ => Err(no_random()),
    }
}

/// Sends one disk. When the connection breaks, it is made anew.
///
/// # Errors
/// There is no server, it has another key, or refuses; otherwise as [`super::fill`].
pub fn deliver(
    world: &mut dyn World,
    disk: &mut Disk,
    to: &Receiver,
    guest: &str,
) -> Result<Arrived, Trouble> {
    let ask = Ask::Disk {
        run: to.run.clone(),
        guest: guest.to_string(),
        disk: disk_name(&disk.name),
        size: disk.map.size(),
    };
    let connect = &mut || {
        let (sealed, _) = to.ask(&ask)?;
        negotiated(to.peer, Box::new(sealed), "")
    };
    fill_by(world, disk, to.peer, (connect, "bellwether clone p2v-server DIR must run there"))
}

/// Says that all disks are there; returns what the server says of the guest.
///
/// # Errors
/// It is gone, or cannot make one.
pub fn finish_guest(to: &Receiver, guest: Guest) -> Result<String, Trouble> {
    let ask = Ask::Done { run: to.run.clone(), guest };
    match to.ask(&ask) {
        Ok((_, answer)) => Ok(answer),
        Err(Stop::Trouble(trouble)) => Err(trouble),
        Err(Stop::Cut(errno)) => {
            Err(Trouble::new(&format!("{}: {}", to.peer, broken(errno)), "the disks are there"))
        }
    }
}

/// A stream inside of a sealed connection.
struct Sealed {
    tcp: Tcp,
    sealer: Sealer,
    opener: Opener,
    opened: Vec<u8>,
    /// How many of them were read.
    taken: usize,
}

impl Sealed {
    fn greet(mut tcp: Tcp, key: &Key, own: &Nonce) -> Result<Self, Stop> {
        Write::write_all(&mut tcp, &seal::hello(own))?;
        let mut hello = [0; seal::HELLO];
        tcp.read_exact(&mut hello)?;
        let peer = seal::peer(&hello).ok_or_else(|| {
            Trouble::new("the service at that port is no p2v-server", "check the port")
        })?;
        let (sealer, opener) = seal::pair(key, own, &peer, true);
        Ok(Self { tcp, sealer, opener, opened: Vec::new(), taken: 0 })
    }
}

impl ErrorType for Sealed {
    type Error = Broken;
}

impl Stream for Sealed {
    fn set_deadline(&mut self, deadline: Instant) {
        self.tcp.set_deadline(deadline);
    }
}

impl Write for Sealed {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let piece = bytes.get(..bytes.len().min(seal::MOST)).unwrap_or_default();
        let sealed = self.sealer.seal(piece);
        Write::write_all(&mut self.tcp, &sealed)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> Result<(), Broken> {
        Ok(())
    }
}

impl Read for Sealed {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Broken> {
        while self.taken >= self.opened.len() {
            let mut room = [0; 16 << 10];
            match self.opener.open() {
                // As if it were cut: the next connection is another one.
                Err(seal::Forged) => return Err(Broken(Errno::BADMSG)),
                Ok(Some(bytes)) => (self.opened, self.taken) = (bytes, 0),
                Ok(None) => match self.tcp.read(&mut room)? {
                    0 => return Ok(0),
                    n => self.opener.push(room.get(..n).unwrap_or_default()),
                },
            }
        }
        let rest = self.opened.get(self.taken..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        self.taken += length;
        Ok(length)
    }
}
