//! Kernel sockets with a time limit on every call.
//!
//! The edge between the protocol cores and the network: non-blocking sockets, and
//! poll(2) until a deadline. `ETIMEDOUT` means that the deadline came.

use core::net::{Ipv4Addr, SocketAddrV4};

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

fn open(kind: SocketType) -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// Does nothing for a while.
pub fn pause(span: core::time::Duration) {
    let deadline = Instant::now().after(span);
    loop {
        let now = Instant::now();
        if now >= deadline {
            return;
        }
        let _ = poll(&mut [], poll_timeout(Some(deadline), now).as_ref());
    }
}

/// A TCP connection.
#[derive(Debug)]
pub struct Tcp {
    fd: OwnedFd,
}

impl Tcp {
    /// Connects. With `reserved` the local port is below 1024, which servers take
    /// as a sign that root is asking; where that is not allowed, any port.
    ///
    /// # Errors
    /// The kernel's; `ETIMEDOUT` at the deadline.
    pub fn connect(address: SocketAddrV4, reserved: bool, deadline: Instant) -> Result<Tcp, Errno> {
        if reserved {
            for port in (600..1024).rev().step_by(7) {
                let fd = open(SocketType::STREAM)?;
                // A port of an earlier connection that is winding down is as good.
                sockopt::set_socket_reuseaddr(&fd, true)?;
                match bind(&fd, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)) {
                    Ok(()) => {}
                    Err(Errno::ADDRINUSE) => continue,
                    Err(_) => break,
                }
                match Tcp::establish(fd, address, deadline) {
                    // The same two ports were used a moment ago.
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
        // Requests are written whole: waiting for more would only delay them.
        let _ = sockopt::set_tcp_nodelay(&fd, true);
        Ok(Tcp { fd })
    }

    /// Sends all of it.
    ///
    /// # Errors
    /// The kernel's; `ETIMEDOUT` at the deadline.
    pub fn write_all(&self, bytes: &[u8], deadline: Instant) -> Result<(), Errno> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match send(&self.fd, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(Errno::AGAIN) => wait(self.fd.as_fd(), PollFlags::OUT, deadline)?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Receives what is there, at least one byte; 0 at the end.
    ///
    /// # Errors
    /// The kernel's; `ETIMEDOUT` at the deadline.
    pub fn read(&self, buffer: &mut [u8], deadline: Instant) -> Result<usize, Errno> {
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

/// A UDP socket that talks to whoever answers.
#[derive(Debug)]
pub struct FreeUdp {
    fd: OwnedFd,
}

impl FreeUdp {
    /// A socket on any port.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> Result<FreeUdp, Errno> {
        let fd = open(SocketType::DGRAM)?;
        bind(&fd, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
        Ok(FreeUdp { fd })
    }

    /// From now on talks to this peer only, and hears when nobody is there any more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stay_with(&self, peer: SocketAddrV4) -> Result<(), Errno> {
        connect(&self.fd, &peer)
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// The kernel's; `ECONNREFUSED` when the peer of [`FreeUdp::stay_with`] is gone.
    pub fn send_to(&self, bytes: &[u8], to: SocketAddrV4) -> Result<(), Errno> {
        sendto(&self.fd, bytes, SendFlags::NOSIGNAL, &to).map(|_| ())
    }

    /// Receives one datagram and tells where it came from; datagrams from nowhere
    /// have the unspecified address.
    ///
    /// # Errors
    /// The kernel's; `ETIMEDOUT` at the deadline, `ECONNREFUSED` when the peer of
    /// [`FreeUdp::stay_with`] is gone.
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

/// A UDP socket that talks to one peer.
#[derive(Debug)]
pub struct Udp {
    fd: OwnedFd,
}

impl Udp {
    /// A socket on any port, for datagrams to and from `peer` only.
    ///
    /// # Errors
    /// The kernel's.
    pub fn connect(peer: SocketAddrV4) -> Result<Udp, Errno> {
        let fd = open(SocketType::DGRAM)?;
        connect(&fd, &peer)?;
        Ok(Udp { fd })
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// The kernel's; `ECONNREFUSED` when an earlier one was refused.
    pub fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        send(&self.fd, bytes, SendFlags::NOSIGNAL).map(|_| ())
    }

    /// Receives one datagram.
    ///
    /// # Errors
    /// The kernel's; `ETIMEDOUT` at the deadline.
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
