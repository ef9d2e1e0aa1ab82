//! Sockets that never block, and waiting for several at once.

use crate::Error;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, acceptfrom_with, bind,
    connect, getsockname, listen, recv, recvfrom, send, sendto, shutdown, socket_with, sockopt,
};
use rustix::rand::{GetRandomFlags, getrandom};

/// The text of a system error.
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

/// Bytes that no other machine can foretell. The kernel gives them once it has started up.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        done += getrandom(rest, GetRandomFlags::empty()).unwrap_or(0);
    }
    bytes
}

fn soft(e: Errno) -> bool {
    matches!(e, Errno::AGAIN | Errno::INTR)
}

/// A TCP socket that takes connections on this address; on all for
/// [`Ipv4Addr::UNSPECIFIED`].
///
/// # Errors
/// [`Error::Port`]: another program has the port, or the system refuses.
pub fn listener(own: Ipv4Addr, port: u16) -> Result<OwnedFd, Error> {
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

/// A connection that is waiting at the listener, if there is one, and the address of
/// its peer.
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
    /// Short messages that the socket had no room for.
    out: Vec<u8>,
}

impl Stream {
    pub(super) fn new(fd: OwnedFd) -> Self {
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

    /// Reads what has arrived: `None` when nothing has, 0 when the peer has ended.
    ///
    /// # Errors
    /// The reason why the connection is broken.
    pub fn read(&self, buffer: &mut [u8]) -> Result<Option<usize>, String> {
        match recv(&self.fd, buffer, RecvFlags::empty()) {
            Ok((n, _)) => Ok(Some(n)),
            Err(e) if soft(e) => Ok(None),
            Err(e) => Err(reason(e)),
        }
    }

    /// Goes on sending what was said, and reads what has arrived; 0 when nothing has.
    ///
    /// # Errors
    /// The reason why the connection ended, also when the peer closed it.
    pub fn hear(&mut self, buffer: &mut [u8]) -> Result<usize, String> {
        self.flush()?;
        match self.read(buffer)? {
            Some(0) => Err(crate::error::HAS_CLOSED.to_string()),
            n => Ok(n.unwrap_or(0)),
        }
    }

    /// Sends the beginning of `bytes`, and says how much.
    ///
    /// # Errors
    /// The reason why the connection is broken.
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
    /// The reason why the connection is broken.
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
    /// The reason why the connection is broken.
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

/// A UDP socket. Systems that can take packets of one size together, and bring them so,
/// do (`UDP_SEGMENT` and `UDP_GRO` in udp(7)).
pub trait Datagrams {
    /// To wait for.
    fn fd(&self) -> BorrowedFd<'_>;

    /// One packet, or several of one size from one sender: their bytes, the size of each
    /// (the last may be shorter), and the sender. Nothing when none is there.
    fn receive(&self, buffer: &mut [u8]) -> Option<(usize, usize, SocketAddrV4)>;

    /// Sends bytes as packets of this size, of which the last may be shorter; how many bytes
    /// the system took. 0 when the socket has no room.
    ///
    /// # Errors
    /// The system's reason to refuse a packet for good.
    fn send(&self, bytes: &[u8], size: usize, to: SocketAddrV4) -> Result<usize, String>;

    /// Listens to a group at the interface of this address; again is no error.
    ///
    /// # Errors
    /// [`Error::Network`]: the system refuses.
    fn join(&self, group: Ipv4Addr, own: Ipv4Addr) -> Result<(), Error>;

    /// Multicast goes out of the interface of this address.
    ///
    /// # Errors
    /// The system's reason, or this program sends none.
    fn aim(&self, _own: Ipv4Addr) -> Result<(), String> {
        Err("this program sends no multicast".to_string())
    }
}

/// Room for two slices of udpcast's packets, with what the kernel adds to each.
pub const SOCKET_BUFFER: usize = 8 << 20;

/// A plain UDP socket, which may broadcast. It takes packets one by one.
#[derive(Debug)]
pub struct Udp(OwnedFd);

impl Udp {
    /// At this port of all addresses; at any port for 0.
    ///
    /// # Errors
    /// [`Error::Port`]: another program has the port, or the system refuses.
    pub fn open(port: u16) -> Result<Self, Error> {
        let open = || -> Result<OwnedFd, Errno> {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let fd = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
            sockopt::set_socket_broadcast(&fd, true)?;
            if sockopt::set_socket_recv_buffer_size_force(&fd, SOCKET_BUFFER).is_err() {
                let _ = sockopt::set_socket_recv_buffer_size(&fd, SOCKET_BUFFER);
            }
            bind(&fd, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
            Ok(fd)
        };
        open().map(Self).map_err(|e| Error::Port { kind: "UDP", port, why: reason(e) })
    }
}

impl Datagrams for Udp {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn receive(&self, buffer: &mut [u8]) -> Option<(usize, usize, SocketAddrV4)> {
        let (n, _, from) = recvfrom(&self.0, buffer, RecvFlags::empty()).ok()?;
        Some((n, n, SocketAddrV4::try_from(from?).ok()?))
    }

    fn send(&self, bytes: &[u8], size: usize, to: SocketAddrV4) -> Result<usize, String> {
        let one = bytes.get(..size.min(bytes.len())).unwrap_or_default();
        match sendto(&self.0, one, SendFlags::NOSIGNAL, &to) {
            Err(Errno::AGAIN | Errno::NOBUFS) => Ok(0),
            // An earlier packet met a closed port.
            Ok(_) | Err(Errno::CONNREFUSED | Errno::INTR) => Ok(one.len()),
            Err(e) => Err(reason(e)),
        }
    }

    fn join(&self, group: Ipv4Addr, own: Ipv4Addr) -> Result<(), Error> {
        match sockopt::set_ip_add_membership(&self.0, &group, &own) {
            Ok(()) | Err(Errno::ADDRINUSE) => Ok(()),
            Err(e) => Err(Error::Network { what: format!("listen to {group}"), why: reason(e) }),
        }
    }
}

/// A connection in the making, tried again each second until it stands.
#[derive(Debug)]
pub struct Dial {
    from: Ipv4Addr,
    to: SocketAddrV4,
    pause: Duration,
    fd: Option<OwnedFd>,
    again: Duration,
    /// Why the last try failed.
    pub failed: Option<String>,
    /// Tries that failed.
    pub tries: u32,
}

impl Dial {
    /// Begins with the next [`Dial::poll`], at this address of ours or, for
    /// [`Ipv4Addr::UNSPECIFIED`], at the one that the system takes.
    #[must_use]
    pub const fn new(from: Ipv4Addr, to: SocketAddrV4) -> Self {
        Self {
            from,
            to,
            pause: Duration::from_secs(1),
            fd: None,
            again: Duration::ZERO,
            failed: None,
            tries: 0,
        }
    }

    /// Refused, it is tried again after this pause instead.
    #[must_use]
    pub fn every(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    fn fail(&mut self, e: Errno, now: Duration) {
        self.fd = None;
        self.failed = Some(reason(e));
        self.tries = self.tries.saturating_add(1);
        self.again = now + self.pause;
    }

    /// Goes on; the connection, once it stands.
    pub fn poll(&mut self, now: Duration) -> Option<Stream> {
        let Some(fd) = &self.fd else {
            if now < self.again {
                return None;
            }
            let dial = || -> Result<OwnedFd, Errno> {
                let fd = tcp()?;
                if !self.from.is_unspecified() {
                    bind(&fd, &SocketAddrV4::new(self.from, 0))?;
                }
                match connect(&fd, &self.to) {
                    Ok(()) | Err(Errno::INPROGRESS | Errno::AGAIN) => Ok(fd),
                    Err(e) => Err(e),
                }
            };
            match dial() {
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

    /// Waits until a connection stands or fails; how long at most, of `limit`.
    pub fn dials(&mut self, dial: &'a Dial, now: Duration, limit: Duration) -> Duration {
        if let Some(fd) = &dial.fd {
            self.writes(fd);
        }
        limit.min(dial.again.saturating_sub(now).max(Duration::from_millis(3)))
    }

    fn add(&mut self, fd: &'a impl AsFd, flags: PollFlags) -> usize {
        self.fds.push(PollFd::new(fd, flags));
        self.fds.len() - 1
    }

    /// Waits until something happens, at most this long; which numbers did.
    pub fn wait(mut self, limit: Duration) -> Happened {
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        // Interrupted or refused: nothing has happened, and the caller asks again.
        let _ = poll(&mut self.fds, Some(&limit));
        Happened(self.fds.iter().map(|fd| !fd.revents().is_empty()).collect())
    }
}

/// Which sockets of a [`Waiter`] had an event.
#[derive(Debug)]
pub struct Happened(Vec<bool>);

impl Happened {
    /// Whether something happened to this number.
    #[must_use]
    pub fn at(&self, number: Option<usize>) -> bool {
        number.and_then(|n| self.0.get(n)).copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn what_is_said_to_a_slow_peer_arrives_later_and_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(to) = listener.local_addr().unwrap() else { unreachable!() };
        let mut dial = Dial::new(Ipv4Addr::new(127, 0, 0, 9), to);
        let mut stream = loop {
            if let Some(stream) = dial.poll(Duration::ZERO) {
                break stream;
            }
            let mut waiter = Waiter::default();
            let limit = waiter.dials(&dial, Duration::ZERO, Duration::from_secs(5));
            waiter.wait(limit);
        };
        let (mut peer, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), Ipv4Addr::new(127, 0, 0, 9), "it was dialled from there");
        let much = alloc::vec![5; 16 << 20];
        stream.say(&much).unwrap();
        assert!(stream.pending(), "no peer takes so much at once");
        let hears = std::thread::spawn(move || {
            let mut heard = alloc::vec![0; 16 << 20];
            std::io::Read::read_exact(&mut peer, &mut heard).unwrap();
            (heard, peer)
        });
        while !stream.flush().unwrap() {
            let mut waiter = Waiter::default();
            waiter.writes(&stream);
            waiter.wait(Duration::from_secs(5));
        }
        let (heard, peer) = hears.join().unwrap();
        assert!(heard == much);
        drop(peer);
        let mut waiter = Waiter::default();
        let number = waiter.reads(&stream);
        assert!(waiter.wait(Duration::from_secs(5)).at(Some(number)), "its end is an event");
        assert_eq!(stream.read(&mut [0; 8]), Ok(Some(0)));
    }

    #[test]
    fn a_refusal_has_a_reason_and_another_try() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut dial =
            Dial::new(Ipv4Addr::UNSPECIFIED, SocketAddrV4::new(Ipv4Addr::LOCALHOST, free));
        for _ in 0..2 {
            assert!(dial.poll(Duration::ZERO).is_none());
        }
        assert_eq!((dial.tries, dial.failed.as_deref()), (1, Some("connection refused")));
        assert!(dial.poll(Duration::ZERO).is_none() && dial.tries == 1, "not before a second");
        for _ in 0..2 {
            assert!(dial.poll(Duration::from_secs(1)).is_none());
        }
        assert_eq!(dial.tries, 2);
    }

    #[test]
    fn a_port_in_use_is_named() {
        let own = Ipv4Addr::new(127, 0, 0, 8);
        let held = TcpListener::bind((own, 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        let Err(error) = listener(own, port) else { panic!("two programs have one port") };
        let text = error.to_string();
        assert!(text.starts_with(&format!("TCP port {port}: in use")), "{text}");
    }

    #[test]
    fn packets_go_one_by_one_and_keep_their_sizes() {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let udp = Udp::open(0).unwrap();
        let std::net::SocketAddr::V4(to) = peer.local_addr().unwrap() else { unreachable!() };
        assert_eq!(udp.send(&[1; 25], 10, to), Ok(10));
        let mut buffer = [0; 64];
        let (n, from) = peer.recv_from(&mut buffer).unwrap();
        assert_eq!(n, 10);
        peer.send_to(&[2; 7], (Ipv4Addr::LOCALHOST, from.port())).unwrap();
        let fd = udp.fd();
        let mut waiter = Waiter::default();
        waiter.reads(&fd);
        waiter.wait(Duration::from_secs(5));
        assert_eq!(udp.receive(&mut buffer), Some((7, 7, to)));
        assert_eq!(udp.receive(&mut buffer), None);
    }
}
