//! Which interface, its addresses, and UDP sockets.

use crate::failure::Failure;
use clone::Error;
use clone::edge::net::{Datagrams, SOCKET_BUFFER};
use nix::sys::socket::sockopt::{RcvBufForce, UdpGroSegment};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// An interface with an IPv4 address.
#[derive(Debug, Clone)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Where everybody on its network hears it.
    pub broadcast: Ipv4Addr,
}

/// Where everybody on a network hears it: the address that the interface has for that, the
/// last one of its network if it has none, and 224.0.0.1, as udpcast's programs, for one that
/// cannot broadcast. The C library may give the own address as the broadcast address.
fn everybody(own: Ipv4Addr, mask: Option<Ipv4Addr>, told: Option<Ipv4Addr>) -> Ipv4Addr {
    if let Some(told) = told.filter(|told| *told != own && !told.is_unspecified()) {
        return told;
    }
    let hosts = mask.map_or(0, |mask| !mask.to_bits());
    match hosts {
        // A network of one or two machines has no such address (RFC 3021).
        0 | 1 => Ipv4Addr::new(224, 0, 0, 1),
        _ => Ipv4Addr::from_bits(own.to_bits() | hosts),
    }
}

/// The interface of this name or address; without one, the first that is up,
/// has an address, and is not the machine's own.
pub fn interface(wanted: Option<&str>) -> Result<Interface, Failure> {
    let all = nix::ifaddrs::getifaddrs()
        .map_err(|e| Failure::Failed(format!("cannot list network interfaces: {e}")))?;
    let mut names = Vec::new();
    for one in all {
        let v4 = |a: Option<nix::sys::socket::SockaddrStorage>| {
            a.and_then(|a| a.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip))
        };
        let Some(address) = v4(one.address) else { continue };
        use nix::net::if_::InterfaceFlags as F;
        let usable = one.flags.contains(F::IFF_UP) && !one.flags.contains(F::IFF_LOOPBACK);
        let matches = match wanted {
            Some(w) => w == one.interface_name || w.parse() == Ok(address),
            None => usable,
        };
        if matches {
            let broadcast = everybody(address, v4(one.netmask), v4(one.broadcast));
            return Ok(Interface { name: one.interface_name, address, broadcast });
        }
        names.push(one.interface_name);
    }
    Err(Failure::Failed(match wanted {
        Some(w) => {
            format!("there is no interface {w} with an IPv4 address; there is {}", names.join(", "))
        }
        None => "no network interface is up and has an IPv4 address".to_owned(),
    }))
}

/// How UDP sockets are opened.
#[derive(Debug, Clone)]
pub struct Sockets {
    /// How many routers multicast may cross.
    pub ttl: u32,
    /// The interface that multicast goes out of.
    pub own: Ipv4Addr,
    /// Only this interface is used.
    pub device: Option<String>,
    /// A group that is listened to from the beginning.
    pub group: Option<Ipv4Addr>,
}

impl Default for Sockets {
    fn default() -> Self {
        Self { ttl: 1, own: Ipv4Addr::UNSPECIFIED, device: None, group: None }
    }
}

/// A UDP socket that gives packets of one size to the kernel together, which divides them
/// where it must, at the card or at the receiver (`UDP_SEGMENT` in udp(7)), and takes them
/// so (`UDP_GRO`).
#[derive(Debug)]
pub struct Together {
    socket: UdpSocket,
    /// Where that cannot be had, they go one by one.
    segments: Cell<bool>,
}

impl Together {
    /// Opens one at this port of all addresses.
    pub fn open(how: &Sockets, port: u16) -> Result<Self, Error> {
        let open = || -> io::Result<UdpSocket> {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_reuse_address(true)?;
            socket.set_broadcast(true)?;
            socket.set_multicast_ttl_v4(how.ttl)?;
            socket.set_multicast_if_v4(&how.own)?;
            socket.set_multicast_loop_v4(false)?;
            for size in [SOCKET_BUFFER, SOCKET_BUFFER / 2, SOCKET_BUFFER / 8] {
                if setsockopt(&socket, RcvBufForce, &size).is_ok()
                    || socket.set_recv_buffer_size(size).is_ok()
                {
                    break;
                }
            }
            // Without it they come one by one.
            let _ = setsockopt(&socket, UdpGroSegment, &true);
            socket.set_nonblocking(true)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
            if let Some(device) = &how.device {
                // Needs privileges; without them the routes decide.
                let _ = socket.bind_device(Some(device.as_bytes()));
            }
            if let Some(group) = how.group.filter(Ipv4Addr::is_multicast) {
                socket.join_multicast_v4(&group, &how.own)?;
            }
            Ok(socket.into())
        };
        let socket = open().map_err(|e| Error::Port { kind: "UDP", port, why: e.to_string() })?;
        Ok(Self { socket, segments: Cell::new(true) })
    }
}

/// The socket has no room.
fn full(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::WouldBlock || e.raw_os_error() == Some(nix::libc::ENOBUFS)
}

impl Datagrams for Together {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn receive(&self, buffer: &mut [u8]) -> Option<(usize, usize, SocketAddrV4)> {
        let mut space = nix::cmsg_space!(i32);
        let mut parts = [io::IoSliceMut::new(buffer)];
        let (fd, none) = (self.socket.as_raw_fd(), MsgFlags::empty());
        let got = recvmsg::<SockaddrIn>(fd, &mut parts, Some(&mut space), none).ok()?;
        let size = got.cmsgs().into_iter().flatten().find_map(|c| match c {
            ControlMessageOwned::UdpGroSegments(n) => usize::try_from(n).ok(),
            _ => None,
        });
        let size = size.filter(|size| *size > 0).unwrap_or(got.bytes);
        Some((got.bytes, size, got.address?.into()))
    }

    fn send(&self, bytes: &[u8], size: usize, to: SocketAddrV4) -> Result<usize, String> {
        if self.segments.get() && bytes.len() > size {
            let segment = u16::try_from(size).unwrap_or(u16::MAX);
            let sent = sendmsg(
                self.socket.as_raw_fd(),
                &[io::IoSlice::new(bytes)],
                &[ControlMessage::UdpGsoSegments(&segment)],
                MsgFlags::empty(),
                Some(&SockaddrIn::from(to)),
            );
            match sent {
                Ok(_) => return Ok(bytes.len()),
                Err(e) if full(&e.into()) => return Ok(0),
                Err(_) => self.segments.set(false),
            }
        }
        let one = bytes.get(..size.min(bytes.len())).unwrap_or_default();
        match self.socket.send_to(one, to) {
            Err(e) if full(&e) => Ok(0),
            // An earlier packet met a closed port.
            Err(e)
                if !matches!(
                    e.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Err(e.to_string())
            }
            _ => Ok(one.len()),
        }
    }

    fn join(&self, group: Ipv4Addr, own: Ipv4Addr) -> Result<(), Error> {
        match self.socket.join_multicast_v4(&group, &own) {
            Err(e) if e.kind() != io::ErrorKind::AddrInUse => {
                Err(Error::Network { what: format!("listen to {group}"), why: e.to_string() })
            }
            _ => Ok(()),
        }
    }

    fn aim(&self, own: Ipv4Addr) -> Result<(), String> {
        SockRef::from(&self.socket).set_multicast_if_v4(&own).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_without_a_broadcast_address_has_one_all_the_same() {
        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        for (own, mask, told, wanted) in [
            ("10.0.0.1", Some("255.255.255.0"), Some("10.0.0.127"), "10.0.0.127"),
            ("10.0.0.1", Some("255.255.255.0"), None, "10.0.0.255"),
            ("10.0.0.1", Some("255.255.255.0"), Some("10.0.0.1"), "10.0.0.255"),
            ("10.0.0.1", Some("255.255.254.0"), Some("0.0.0.0"), "10.0.1.255"),
            ("10.0.0.1", Some("255.255.255.254"), None, "224.0.0.1"),
            ("10.0.0.1", Some("255.255.255.255"), None, "224.0.0.1"),
            ("10.0.0.1", None, None, "224.0.0.1"),
        ] {
            assert_eq!(
                everybody(ip(own), mask.map(ip), told.map(ip)),
                ip(wanted),
                "{own} {mask:?}"
            );
        }
    }
}
