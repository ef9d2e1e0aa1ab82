//! The read-only NBD server of one disk, on loopback, for the other end of a tunnel.

use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};

use netboot::nbd::wire::{Failure, greeting};
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, acceptfrom_with, bind,
    getsockname, listen, recv, send, socket_with, sockopt,
};

use super::disk::Disk;
use crate::extents::Seen;
use crate::nbd::{Session, Turn};

/// Connections to one disk: virt-v2v 2.x has one, older ones a few.
const MAX_CLIENTS: usize = 16;
/// Requests that one connection is served before the others have their turn.
const IN_A_ROW: usize = 16;

/// A disk that is served.
#[derive(Debug)]
pub struct Server {
    /// The disk.
    pub disk: Disk,
    /// The port on loopback.
    pub port: u16,
    /// Bytes that were sent.
    pub sent: u64,
    /// What of it the clients have read.
    pub seen: Seen,
    /// Whether a client has ever come so far as to read.
    pub used: bool,
    listener: OwnedFd,
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    fd: OwnedFd,
    session: Session,
    out: Vec<u8>,
    /// So much of it is sent.
    sent: usize,
    /// There is more to do without waiting.
    busy: bool,
}

impl Server {
    /// Listens on loopback, at a port that the system chooses.
    ///
    /// # Errors
    /// The errno of the system call that failed: loopback may be down.
    pub fn open(disk: Disk) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        listen(&listener, 16)?;
        let address = SocketAddrV4::try_from(getsockname(&listener)?)?;
        let seen = Seen::of(disk.map.size());
        let port = address.port();
        Ok(Self { disk, port, sent: 0, seen, used: false, listener, clients: Vec::new() })
    }

    /// What to wait for.
    pub fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let clients = self.clients.iter().map(|client| {
            let what = if client.out.is_empty() { PollFlags::IN } else { PollFlags::OUT };
            (client.fd.as_fd(), what)
        });
        core::iter::once((self.listener.as_fd(), PollFlags::IN)).chain(clients)
    }

    /// Whether there is more to do without waiting.
    pub fn busy(&self) -> bool {
        self.clients.iter().any(|client| client.busy)
    }

    /// Waits until there is something to do, a second at most.
    pub fn wait(&self) {
        let fds: Vec<_> = self.fds().collect();
        super::wait(&fds, self.busy().then_some(core::time::Duration::ZERO));
    }

    /// Does all that can be done now.
    pub fn go_on(&mut self) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        while self.clients.len() < MAX_CLIENTS
            && let Ok((fd, _)) = acceptfrom_with(&self.listener, flags)
        {
            let _ = sockopt::set_tcp_nodelay(&fd, true);
            let session = Session::default();
            self.clients.push(Client { fd, session, out: greeting(), sent: 0, busy: false });
        }
        let (disk, sent, seen) = (&mut self.disk, &mut self.sent, &mut self.seen);
        self.clients.retain_mut(|client| client.go_on(disk, sent, seen).is_some());
        self.used |= self.clients.iter().any(|client| client.session.has_begun());
    }
}

impl Client {
    /// `None` when the connection has ended.
    fn go_on(&mut self, disk: &mut Disk, sent: &mut u64, seen: &mut Seen) -> Option<()> {
        let mut room = [0; 16 << 10];
        for _ in 0..IN_A_ROW {
            self.busy = false;
            if !self.flush()? {
                return Some(());
            }
            match self.session.turn(&disk.map) {
                Turn::Send(bytes) => self.out = bytes,
                Turn::Read(read) => {
                    let Disk { map, reader, .. } = disk;
                    let mut fill =
                        |at, room: &mut [u8]| reader.read(at, room).map_err(|_| Failure::Io);
                    self.out = self.session.answer(&read, map, &mut fill);
                    *sent += self.out.len() as u64;
                    seen.take(read.range(), map);
                }
                Turn::End(bytes) => {
                    self.out = bytes;
                    let _ = self.flush();
                    return None;
                }
                Turn::More => match recv(&self.fd, &mut room[..], RecvFlags::empty()) {
                    Ok((0, _)) => return None,
                    Ok((n, _)) => self.session.push(room.get(..n)?),
                    Err(Errno::AGAIN) => return Some(()),
                    Err(Errno::INTR) => {}
                    Err(_) => return None,
                },
            }
            self.busy = true;
        }
        Some(())
    }

    /// Whether all is sent.
    fn flush(&mut self) -> Option<bool> {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match send(&self.fd, rest, SendFlags::NOSIGNAL) {
                Ok(n) => self.sent += n,
                Err(Errno::AGAIN) => return Some(false),
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        self.out.clear();
        self.sent = 0;
        Some(true)
    }
}
