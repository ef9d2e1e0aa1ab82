//! Sockets: a request and the kernel's answers.

use alloc::borrow::ToOwned;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::message::{Error, Message, NLMSG_DONE, NLMSG_ERROR, Request, messages, parse_error};
use linux_raw_sys::netlink as nl;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send,
    socket_with,
};

/// The largest datagram of a dump, with room to spare.
pub(super) const BUFFER: usize = 64 * 1024;
/// Most items of a dump: no machine that boots has more.
pub(super) const MAX_ITEMS: usize = 4096;

const SOL_NETLINK: u32 = 270;

/// Opens a socket; no protocol is protocol 0, NETLINK_ROUTE.
pub(super) fn open_socket(
    protocol: Option<Protocol>,
    groups: u32,
    flags: SocketFlags,
    what: &str,
) -> Result<OwnedFd, Error> {
    let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)
        .map_err(|errno| Error::new(what, errno))?;
    bind(&fd, &SocketAddrNetlink::new(0, groups)).map_err(|errno| Error::new(what, errno))?;
    Ok(fd)
}

/// Requests and their answers on one socket.
#[derive(Debug)]
pub(super) struct Conversation {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Conversation {
    pub(super) fn open(protocol: Option<Protocol>) -> Result<Conversation, Error> {
        let what = "open a netlink socket";
        let fd = open_socket(protocol, 0, SocketFlags::CLOEXEC, what)?;
        // Only reached if the kernel loses an answer; an error is better than a hang.
        set_socket_timeout(&fd, Timeout::Recv, Some(Duration::from_secs(5)))
            .map_err(|errno| Error::new(what, errno))?;
        // Kernels before 4.12 send no explanations.
        let _ = crate::packet::set_option(
            fd.as_fd(),
            SOL_NETLINK,
            nl::NETLINK_EXT_ACK,
            &1u32.to_ne_bytes(),
        );
        Ok(Conversation { fd, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Sends a request and calls `each` with every answer until the kernel is done.
    pub(super) fn ask(
        &mut self,
        what: &str,
        request: Request,
        each: &mut dyn FnMut(Message<'_>),
    ) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let bytes = request.finish(self.sequence);
        send(&self.fd, &bytes, SendFlags::empty()).map_err(|errno| Error::new(what, errno))?;
        loop {
            let received = match recv(&self.fd, self.buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((received, _)) => received,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(Error::new(what, errno)),
            };
            let datagram = self.buffer.get(..received).unwrap_or_default();
            let mut seen = false;
            for message in messages(datagram) {
                seen = true;
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        let (code, message) = parse_error(message);
                        return match code {
                            0 => Ok(()),
                            code => Err(Error {
                                request: what.to_owned(),
                                errno: Errno::from_raw_os_error(code),
                                message,
                            }),
                        };
                    }
                    _ => each(message),
                }
            }
            if !seen {
                return Err(Error::new(what, Errno::BADMSG));
            }
        }
    }
}
