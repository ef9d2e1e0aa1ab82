//! Sockets that never block, and waiting for several at once.

use crate::Error;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, acceptfrom_with, bind,
    connect, getsockname, listen, recv, recvfrom, send, sendto, shutdown, socket_with, sockopt,
};

/// The system's word for an error.
#[must_use]
pub fn reason(e: Errno) -> String {
    let text = match e {
        Errno::CONNREFUSED => "connection refused",
        Errno::CONNRESET | Errno::PIPE => "connection broken",
        Errno::TIMEDOUT => "no answer",
        Errno::HOSTUNREACH | Errno::NETUNREACH => "cannot be reached",
        Errno::ADDRINUSE => "in use by another program",
        Errno::ACCESS | Errno::PERM => "not permitted",
        _ => return e.to_string(),
    };
    text.to_string()
}

fn soft(e: Errno) -> bool {
    matches!(e, Errno::AGAIN | Errno::INTR)
}

/// A TCP socket that takes connections on all addresses.
///
/// # Errors
/// When the port cannot be had.
pub fn listener(port: u16) -> Result<OwnedFd, Error> {
    listener_at(Ipv4Addr::UNSPECIFIED, port)
}

/// The same on one address only.
///
/// # Errors
/// As [`listener`].
pub fn listener_at(own: Ipv4Addr, port: u16) -> Result<OwnedFd, Error> {
    let open = || -> Result<OwnedFd, Errno> {
        let fd = tcp()?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        bind(&fd, &SocketAddrV4::new(own, port))?;
        listen(&fd, 16)?;
        Ok(fd)
    };
    open().map_err(|e| Error::Port { kind: "TCP", port, why: reason(e) })
}

fn tcp() -> Result<OwnedFd, Errno> {
    socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )
}

/// A connection that is waiting at the listener, if there is one, and who
/// made it.
#[must_use]
pub fn accept(listener: &OwnedFd) -> Option<(Stream, Ipv4Addr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (fd, peer) = acceptfrom_with(listener, flags).ok()?;
    let peer = SocketAddrV4::try_from(peer?).ok()?;
    Some((Stream::new(fd), *peer.ip()))
}

/// A TCP connection.
#[derive(Debug)]
pub struct Stream {
    fd: OwnedFd,
    /// What is still to be sent of what was said.
    out: Vec<u8>,
}

impl Stream {
    fn new(fd: OwnedFd) -> Self {
        let _ = sockopt::set_tcp_nodelay(&fd, true);
        let _ = sockopt::set_socket_keepalive(&fd, true);
        let _ = sockopt::set_tcp_keepidle(&fd, Duration::from_secs(20));
        let _ = sockopt::set_tcp_keepintvl(&fd, Duration::from_secs(10));
        let _ = sockopt::set_tcp_keepcnt(&fd, 3);
        Self { fd, out: Vec::new() }
    }

    /// A peer that acknowledges nothing for so long is gone, even while it takes no
    /// data because it is slow.
    pub fn patience(&self, limit: Duration) {
        let ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        let _ = sockopt::set_tcp_user_timeout(&self.fd, ms);
    }

    /// Reads what is there; nothing when nothing is, 0 when the peer has ended.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn read(&self, buffer: &mut [u8]) -> Result<Option<usize>, String> {
        match recv(&self.fd, buffer, RecvFlags::empty()) {
            Ok((n, _)) => Ok(Some(n)),
            Err(e) if soft(e) => Ok(None),
            Err(e) => Err(reason(e)),
        }
    }

    /// Sends the beginning of `bytes`, and says how much.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, String> {
        match send(&self.fd, bytes, SendFlags::NOSIGNAL) {
            Ok(n) => Ok(n),
            Err(e) if soft(e) => Ok(0),
            Err(e) => Err(reason(e)),
        }
    }

    /// Says something short: all of it is sent, now or by [`Stream::flush`].
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn say(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.out.is_empty() {
            // In one segment where that is possible: old peers count reads.
            let sent = self.write(bytes)?;
            self.out.extend_from_slice(bytes.get(sent..).unwrap_or_default());
        } else {
            self.out.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Goes on sending what was said; true when all is sent.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn flush(&mut self) -> Result<bool, String> {
        if !self.out.is_empty() {
            let sent = self.write(&self.out)?;
            self.out.drain(..sent);
        }
        Ok(self.out.is_empty())
    }

    /// Whether something that was said is still to be sent.
    #[must_use]
    pub fn pending(&self) -> bool {
        !self.out.is_empty()
    }

    /// Our address, as the peer sees it.
    #[must_use]
    pub fn own_address(&self) -> Option<Ipv4Addr> {
        let address = getsockname(&self.fd).ok()?;
        SocketAddrV4::try_from(address).ok().map(|a| *a.ip())
    }

    /// No more will be sent.
    pub fn end(&self) {
        let _ = shutdown(&self.fd, Shutdown::Write);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A UDP socket that may broadcast.
#[derive(Debug)]
pub struct Datagrams(OwnedFd);

impl Datagrams {
    /// On this port of all addresses; on any for 0.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn open(port: u16) -> Result<Self, Error> {
        let open = || -> Result<OwnedFd, Errno> {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let fd = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
            sockopt::set_socket_broadcast(&fd, true)?;
            bind(&fd, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
            Ok(fd)
        };
        open().map(Self).map_err(|e| Error::Port { kind: "UDP", port, why: reason(e) })
    }

    /// A datagram, its length and who sent it.
    #[must_use]
    pub fn receive(&self, buffer: &mut [u8]) -> Option<(usize, Ipv4Addr)> {
        self.receive_from(buffer).map(|(n, from)| (n, *from.ip()))
    }

    /// The same, with the port.
    #[must_use]
    pub fn receive_from(&self, buffer: &mut [u8]) -> Option<(usize, SocketAddrV4)> {
        let (n, _, from) = recvfrom(&self.0, buffer, RecvFlags::empty()).ok()?;
        Some((n, SocketAddrV4::try_from(from?).ok()?))
    }

    /// Asks for so much room for what comes before it is read.
    pub fn receive_buffer(&self, bytes: usize) {
        if sockopt::set_socket_recv_buffer_size_force(&self.0, bytes).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&self.0, bytes);
        }
    }

    /// Listens to a group at the interface of this address; again is no error.
    pub fn join(&self, group: Ipv4Addr, own: Ipv4Addr) {
        if group.is_multicast() {
            let _ = sockopt::set_ip_add_membership(&self.0, &group, &own);
        }
    }

    /// Sends; what is lost on the way is lost here too.
    pub fn send(&self, bytes: &[u8], to: SocketAddrV4) {
        let _ = sendto(&self.0, bytes, SendFlags::NOSIGNAL, &to);
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A connection in the making, tried again each second until it stands.
#[derive(Debug)]
pub struct Dial {
    to: SocketAddrV4,
    fd: Option<OwnedFd>,
    again: Duration,
    /// Why the last try failed.
    pub failed: Option<String>,
    /// Tries that failed.
    pub tries: u32,
}

impl Dial {
    /// Begins with the next [`Dial::poll`].
    #[must_use]
    pub const fn new(to: SocketAddrV4) -> Self {
        Self { to, fd: None, again: Duration::ZERO, failed: None, tries: 0 }
    }

    fn fail(&mut self, e: Errno, now: Duration) {
        self.fd = None;
        self.failed = Some(reason(e));
        self.tries = self.tries.saturating_add(1);
        self.again = now + Duration::from_secs(1);
    }

    /// Goes on; the connection, once it stands.
    pub fn poll(&mut self, now: Duration) -> Option<Stream> {
        let Some(fd) = &self.fd else {
            if now < self.again {
                return None;
            }
            match tcp().and_then(|fd| match connect(&fd, &self.to) {
                Ok(()) | Err(Errno::INPROGRESS | Errno::AGAIN) => Ok(fd),
                Err(e) => Err(e),
            }) {
                Ok(fd) => {
                    self.fd = Some(fd);
                    // An answer that never comes must not hold this up: a
                    // machine that boots meanwhile is found by the next try.
                    self.again = now + Duration::from_secs(3);
                }
                Err(e) => self.fail(e, now),
            }
            return None;
        };
        let mut fds = [PollFd::new(fd, PollFlags::OUT)];
        let ready = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap_or(0) > 0;
        if !ready {
            if now >= self.again {
                self.fail(Errno::TIMEDOUT, now);
            }
            return None;
        }
        match sockopt::socket_error(fd) {
            Ok(Ok(())) => self.fd.take().map(Stream::new),
            Ok(Err(e)) | Err(e) => {
                self.fail(e, now);
                None
            }
        }
    }

    /// When it is to be polled at the latest.
    #[must_use]
    pub const fn deadline(&self) -> Duration {
        self.again
    }

    /// What to wait for, if anything.
    #[must_use]
    pub const fn waits(&self) -> Option<&OwnedFd> {
        self.fd.as_ref()
    }
}

/// A set of sockets to wait for.
#[derive(Debug, Default)]
pub struct Waiter<'a> {
    fds: Vec<PollFd<'a>>,
}

impl<'a> Waiter<'a> {
    /// Waits for bytes from, or a connection to, `fd`; its number.
    pub fn reads(&mut self, fd: &'a impl AsFd) -> usize {
        self.add(fd, PollFlags::IN)
    }

    /// Waits until `fd` takes bytes; its number.
    pub fn writes(&mut self, fd: &'a impl AsFd) -> usize {
        self.add(fd, PollFlags::OUT)
    }

    /// Waits until `fd` has bytes, and, if `write`, until it takes some.
    pub fn both(&mut self, fd: &'a impl AsFd, write: bool) -> usize {
        self.add(fd, if write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN })
    }

    fn add(&mut self, fd: &'a impl AsFd, flags: PollFlags) -> usize {
        self.fds.push(PollFd::new(fd, flags));
        self.fds.len() - 1
    }

    /// Waits until something happens, at most this long; which numbers did.
    #[must_use]
    pub fn wait(mut self, limit: Duration) -> Happened {
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        let _ = poll(&mut self.fds, Some(&limit));
        Happened(self.fds.iter().map(|fd| !fd.revents().is_empty()).collect())
    }
}

/// What a wait has brought.
#[derive(Debug)]
pub struct Happened(Vec<bool>);

impl Happened {
    /// Whether something happened to this number.
    #[must_use]
    pub fn at(&self, number: Option<usize>) -> bool {
        number.and_then(|n| self.0.get(n)).copied().unwrap_or(false)
    }
}
