//! Kernel sockets with a time limit on every call.
//!
//! The edge between the protocol cores and the network: non-blocking sockets, and poll(2) until
//! a deadline. `ETIMEDOUT` means that the deadline passed.
//!
//! A protocol over a byte stream is generic over [`Stream`], which is `embedded-io`'s
//! `Read` and `Write` with a deadline. A socket is one, a test's peer is another.

use core::fmt;
use core::net::{Ipv4Addr, SocketAddrV4};

use embedded_io::{ErrorKind, ErrorType, Read, Write};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, recvfrom,
    send, sendto, socket_with, sockopt,
};

use sys::clock::{Instant, poll_timeout};

/// Waits until `fd` is ready for `what`.
fn wait(fd: BorrowedFd<'_>, what: PollFlags, deadline: Instant) -> Result<(), Errno> {
    loop {
        let now = Instant::now();
        let timeout = poll_timeout(Some(deadline), now);
        let mut fds = [PollFd::from_borrowed_fd(fd, what)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) if now >= deadline => return Err(Errno::TIMEDOUT),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
}

/// Why a connection broke: the errno, `ETIMEDOUT` at the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken(pub Errno);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", sys::errno::Shown(self.0))
    }
}

impl core::error::Error for Broken {}

impl embedded_io::Error for Broken {
    fn kind(&self) -> ErrorKind {
        match self.0 {
            Errno::TIMEDOUT => ErrorKind::TimedOut,
            Errno::CONNREFUSED => ErrorKind::ConnectionRefused,
            Errno::CONNRESET => ErrorKind::ConnectionReset,
            Errno::CONNABORTED => ErrorKind::ConnectionAborted,
            Errno::NOTCONN => ErrorKind::NotConnected,
            Errno::PIPE => ErrorKind::BrokenPipe,
            _ => ErrorKind::Other,
        }
    }
}

/// A connection that carries bytes both ways. Reads and writes wait until the deadline.
pub trait Stream: Read<Error = Broken> + Write<Error = Broken> {
    /// Sets the deadline: a call that waits longer fails with `ETIMEDOUT`.
    fn set_deadline(&mut self, deadline: Instant);
}

fn open(kind: SocketType) -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// Sleeps.
pub fn pause(span: core::time::Duration) {
    let deadline = Instant::now().after(span);
    loop {
        let now = Instant::now();
        if now >= deadline {
            return;
        }
        // Interrupted: the clock is looked at again.
        let _ = poll(&mut [], poll_timeout(Some(deadline), now).as_ref());
    }
}

/// A TCP connection.
#[derive(Debug)]
pub struct Tcp {
    fd: OwnedFd,
    deadline: Instant,
}

impl Tcp {
    /// Connects, and keeps the deadline. With `reserved` the local port is below 1024, which
    /// tells servers that root is asking; if binding one fails, any port.
    ///
    /// # Errors
    /// The errno of socket(2) or connect(2); `ETIMEDOUT` at the deadline.
    pub fn connect(address: SocketAddrV4, reserved: bool, deadline: Instant) -> Result<Tcp, Errno> {
        if reserved {
            for port in (600..1024).rev().step_by(7) {
                let fd = open(SocketType::STREAM)?;
                // The port of a connection that is closing may be reused.
                sockopt::set_socket_reuseaddr(&fd, true)?;
                match bind(&fd, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)) {
                    Ok(()) => {}
                    Err(Errno::ADDRINUSE) => continue,
                    Err(_) => break,
                }
                match Tcp::establish(fd, address, deadline) {
                    // The same pair of ports was used a moment ago.
                    Err(Errno::ADDRNOTAVAIL | Errno::ADDRINUSE) => {}
                    other => return other,
                }
            }
        }
        Tcp::establish(open(SocketType::STREAM)?, address, deadline)
    }

    fn establish(fd: OwnedFd, address: SocketAddrV4, deadline: Instant) -> Result<Tcp, Errno> {
        match connect(&fd, &address) {
            Ok(()) => {}
            Err(Errno::INPROGRESS | Errno::INTR) => {
                wait(fd.as_fd(), PollFlags::OUT, deadline)?;
                sockopt::socket_error(&fd)??;
            }
            Err(errno) => return Err(errno),
        }
        // Requests are written in one piece: Nagle's algorithm would only delay them.
        let _ = sockopt::set_tcp_nodelay(&fd, true);
        Ok(Tcp { fd, deadline })
    }
}

impl ErrorType for Tcp {
    type Error = Broken;
}

impl Stream for Tcp {
    fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }
}

impl Write for Tcp {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        loop {
            match send(&self.fd, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => return Ok(sent),
                Err(Errno::AGAIN) => {
                    wait(self.fd.as_fd(), PollFlags::OUT, self.deadline).map_err(Broken)?;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Broken(errno)),
            }
        }
    }

    fn flush(&mut self) -> Result<(), Broken> {
        Ok(())
    }

    /// As the trait's, which panics when no bytes are accepted.
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let sent = self.write(rest)?;
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }
}

impl Read for Tcp {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Broken> {
        loop {
            match recv(&self.fd, &mut *buffer, RecvFlags::empty()) {
                Ok((length, _)) => return Ok(length),
                Err(Errno::AGAIN) => {
                    wait(self.fd.as_fd(), PollFlags::IN, self.deadline).map_err(Broken)?;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Broken(errno)),
            }
        }
    }
}

impl From<Tcp> for OwnedFd {
    fn from(tcp: Tcp) -> OwnedFd {
        tcp.fd
    }
}

impl AsFd for Tcp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A UDP socket that takes answers from any peer.
#[derive(Debug)]
pub struct FreeUdp {
    fd: OwnedFd,
}

impl FreeUdp {
    /// A socket on any port.
    ///
    /// # Errors
    /// The errno of socket(2) or bind(2).
    pub fn open() -> Result<FreeUdp, Errno> {
        let fd = open(SocketType::DGRAM)?;
        bind(&fd, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
        Ok(FreeUdp { fd })
    }

    /// From now on talks to this peer only, and hears when the peer is gone.
    ///
    /// # Errors
    /// The errno of connect(2).
    pub fn stay_with(&self, peer: SocketAddrV4) -> Result<(), Errno> {
        connect(&self.fd, &peer)
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// The errno of sendto(2); `ECONNREFUSED` when the peer of [`FreeUdp::stay_with`] closed
    /// its port.
    pub fn send_to(&self, bytes: &[u8], to: SocketAddrV4) -> Result<(), Errno> {
        sendto(&self.fd, bytes, SendFlags::NOSIGNAL, &to).map(|_| ())
    }

    /// Receives one datagram and its sender; the unspecified address without one.
    ///
    /// # Errors
    /// The errno of recvfrom(2); `ETIMEDOUT` at the deadline, `ECONNREFUSED` when the peer of
    /// [`FreeUdp::stay_with`] closed its port.
    pub fn receive_from(
        &self,
        buffer: &mut [u8],
        deadline: Instant,
    ) -> Result<(usize, SocketAddrV4), Errno> {
        loop {
            match recvfrom(&self.fd, &mut *buffer, RecvFlags::empty()) {
                Ok((length, _, from)) => {
                    let nowhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
                    let from = from.and_then(|from| SocketAddrV4::try_from(from).ok());
                    return Ok((length, from.unwrap_or(nowhere)));
                }
                Err(Errno::AGAIN) => wait(self.fd.as_fd(), PollFlags::IN, deadline)?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// A UDP socket with one peer.
#[derive(Debug)]
pub struct Udp {
    fd: OwnedFd,
}

impl Udp {
    /// A socket on any port, for datagrams to and from `peer` only.
    ///
    /// # Errors
    /// The errno of socket(2) or connect(2).
    pub fn connect(peer: SocketAddrV4) -> Result<Udp, Errno> {
        let fd = open(SocketType::DGRAM)?;
        connect(&fd, &peer)?;
        Ok(Udp { fd })
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// The errno of send(2); `ECONNREFUSED` when an earlier datagram was refused.
    pub fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        send(&self.fd, bytes, SendFlags::NOSIGNAL).map(|_| ())
    }

    /// Receives one datagram.
    ///
    /// # Errors
    /// The errno of recv(2); `ETIMEDOUT` at the deadline.
    pub fn receive(&self, buffer: &mut [u8], deadline: Instant) -> Result<usize, Errno> {
        loop {
            match recv(&self.fd, &mut *buffer, RecvFlags::empty()) {
                Ok((length, _)) => return Ok(length),
                Err(Errno::AGAIN) => wait(self.fd.as_fd(), PollFlags::IN, deadline)?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// A peer in memory: gives its answer in pieces of one size and then ends or fails.
    #[derive(Debug)]
    pub struct Peer {
        answer: Vec<u8>,
        piece: usize,
        end: Result<usize, Errno>,
        /// What was written to it.
        pub sent: Vec<u8>,
    }

    impl Peer {
        pub fn new(answer: &[u8], piece: usize, end: Result<usize, Errno>) -> Self {
            Self { answer: answer.to_vec(), piece, end, sent: Vec::new() }
        }
    }

    impl ErrorType for Peer {
        type Error = Broken;
    }

    impl Read for Peer {
        fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Broken> {
            let length = self.piece.min(buffer.len()).min(self.answer.len());
            if length == 0 {
                return self.end.map_err(Broken);
            }
            buffer[..length].copy_from_slice(&self.answer[..length]);
            self.answer.drain(..length);
            Ok(length)
        }
    }

    impl Write for Peer {
        fn write(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
            // Takes half at most, as a socket with a full buffer does.
            let taken = bytes.len().div_ceil(2);
            self.sent.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> Result<(), Broken> {
            Ok(())
        }
    }

    impl Stream for Peer {
        fn set_deadline(&mut self, _: Instant) {}
    }

    #[test]
    fn errors_have_the_kinds_of_embedded_io() {
        use embedded_io::Error as _;
        for (errno, kind) in [
            (Errno::TIMEDOUT, ErrorKind::TimedOut),
            (Errno::CONNRESET, ErrorKind::ConnectionReset),
            (Errno::IO, ErrorKind::Other),
        ] {
            assert_eq!(Broken(errno).kind(), kind);
        }
    }
}
