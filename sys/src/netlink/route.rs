//! Links, addresses and routes: [`Route`] queries and changes, [`Monitor`] reports changes (a
//! carrier, a new device).
//!
//! Only IPv4 addresses and routes of the main table are handled; other messages are skipped.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use super::message::{
    Error, NESTED, Request, attributes, messages, put, read_text, text_attribute,
};
use super::talk::{BUFFER, Conversation, MAX_ITEMS, open_socket};
use crate::bytes::{ne16, ne32};
use linux_raw_sys::netlink as nl;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{RecvFlags, SocketFlags, recv};

/// Link flag: administratively up (`IFF_UP`).
pub const FLAG_UP: u32 = 1;
/// Link flag: loopback (`IFF_LOOPBACK`).
pub const FLAG_LOOPBACK: u32 = 1 << 3;
/// Link flag: no address resolution (`IFF_NOARP`).
pub const FLAG_NO_ARP: u32 = 1 << 7;
/// Link flag: the driver sees a signal (`IFF_LOWER_UP`).
pub const FLAG_LOWER_UP: u32 = 1 << 16;

/// Hardware type of Ethernet and of everything that behaves like it (`ARPHRD_ETHER`).
pub const HARDWARE_ETHERNET: u16 = 1;

const AF_INET: u32 = 2;
// bindgen names this constant of the enumeration after its base.
const RTM_NEWLINK: u16 = 16;
const NLMSG_OVERRUN: u16 = 4;

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Interface index, unique while the device exists.
    pub index: u32,
    /// Its present name.
    pub name: String,
    /// Hardware address, when it is six bytes long.
    pub mac: Option<[u8; 6]>,
    /// `IFF_*` flags; see [`Link::is_up`] and [`Link::has_carrier`].
    pub flags: u32,
    /// `ARPHRD_*`.
    pub hardware: u16,
    /// MTU in bytes.
    pub mtu: u32,
    /// The driver's carrier state, if reported.
    pub carrier: Option<bool>,
    /// Kind of a virtual device (`vlan`, `bridge`, `veth`); empty for hardware.
    pub kind: String,
    /// Index of its bridge or bond.
    pub master: Option<u32>,
    /// Index of its lower device (VLANs) or peer (veth).
    pub parent: Option<u32>,
}

impl Link {
    /// Administratively up.
    pub fn is_up(&self) -> bool {
        self.flags & FLAG_UP != 0
    }

    /// Up and with a carrier, so that frames can be sent now.
    pub fn has_carrier(&self) -> bool {
        self.flags & (FLAG_UP | FLAG_LOWER_UP) == FLAG_UP | FLAG_LOWER_UP
            && self.carrier != Some(false)
    }
}

/// One IPv4 address of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Its device.
    pub index: u32,
    /// The address itself.
    pub address: Ipv4Addr,
    /// Prefix length, 0 to 32.
    pub prefix: u8,
    /// `RT_SCOPE_*`; 0 is global.
    pub scope: u8,
    /// Broadcast address, when one is set.
    pub broadcast: Option<Ipv4Addr>,
}

/// One IPv4 route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteEntry {
    /// Destination network; `0.0.0.0` with prefix 0 is the default route.
    pub destination: Ipv4Addr,
    /// Prefix length, 0 to 32.
    pub prefix: u8,
    /// Next hop; none for a network on the link itself.
    pub gateway: Option<Ipv4Addr>,
    /// Its outgoing device.
    pub index: u32,
    /// Priority; smaller wins.
    pub metric: u32,
}

/// A notification of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A device appeared or changed.
    Link(Link),
    /// A device was removed.
    LinkGone(Link),
    /// An address appeared or changed.
    Address(Address),
    /// An address was removed.
    AddressGone(Address),
    /// Messages were lost: query everything again.
    Lost,
}

fn read_ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    let raw: [u8; 4] = bytes.try_into().ok()?;
    Some(Ipv4Addr::from(raw))
}

/// Reads the payload of `RTM_NEWLINK` and `RTM_DELLINK`.
///
/// `None` when it is too short or has no name.
pub fn parse_link(payload: &[u8]) -> Option<Link> {
    // struct ifinfomsg: family, pad, type:u16, index:i32, flags, change
    let mut link = Link {
        hardware: ne16(payload, 2)?,
        index: ne32(payload, 4)?,
        flags: ne32(payload, 8)?,
        ..Link::default()
    };
    for (kind, value) in attributes(payload.get(16..)?) {
        if kind == nl::IFLA_IFNAME as u16 {
            link.name = read_text(value);
        } else if kind == nl::IFLA_ADDRESS as u16 {
            link.mac = value.try_into().ok();
        } else if kind == nl::IFLA_MTU as u16 {
            link.mtu = ne32(value, 0).unwrap_or(0);
        } else if kind == nl::IFLA_CARRIER as u16 {
            link.carrier = value.first().map(|carrier| *carrier != 0);
        } else if kind == nl::IFLA_MASTER as u16 {
            link.master = ne32(value, 0);
        } else if kind == nl::IFLA_LINK as u16 {
            link.parent = ne32(value, 0);
        } else if kind == nl::IFLA_LINKINFO as u16 {
            for (kind, value) in attributes(value) {
                if kind == nl::IFLA_INFO_KIND as u16 {
                    link.kind = read_text(value);
                }
            }
        }
    }
    (!link.name.is_empty() && link.index != 0).then_some(link)
}

/// Reads the payload of `RTM_NEWADDR` and `RTM_DELADDR`; `None` unless it is IPv4.
pub fn parse_address(payload: &[u8]) -> Option<Address> {
    // struct ifaddrmsg: family, prefixlen, flags, scope, index:u32
    let &[family, prefix, _, scope] = payload.first_chunk::<4>()?;
    if u32::from(family) != AF_INET || prefix > 32 {
        return None;
    }
    let index = ne32(payload, 4)?;
    let (mut local, mut peer, mut broadcast) = (None, None, None);
    for (kind, value) in attributes(payload.get(8..)?) {
        if kind == nl::IFA_LOCAL as u16 {
            local = read_ipv4(value);
        } else if kind == nl::IFA_ADDRESS as u16 {
            peer = read_ipv4(value);
        } else if kind == nl::IFA_BROADCAST as u16 {
            broadcast = read_ipv4(value);
        }
    }
    Some(Address { index, address: local.or(peer)?, prefix, scope, broadcast })
}

/// Reads the payload of `RTM_NEWROUTE`; `None` unless it is a unicast IPv4 route
/// of the main table that leaves by one device.
pub fn parse_route(payload: &[u8]) -> Option<RouteEntry> {
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags:u32
    let &[family, prefix, _, _, table, _, _, kind] = payload.first_chunk::<8>()?;
    if u32::from(family) != AF_INET
        || prefix > 32
        || u32::from(table) != nl::rt_class_t::RT_TABLE_MAIN as u32
        || u32::from(kind) != nl::RTN_UNICAST as u32
    {
        return None;
    }
    let (mut destination, mut gateway, mut index, mut metric) =
        (Ipv4Addr::UNSPECIFIED, None, None, 0);
    for (kind, value) in attributes(payload.get(12..)?) {
        if kind == nl::rtattr_type_t::RTA_DST as u16 {
            destination = read_ipv4(value)?;
        } else if kind == nl::rtattr_type_t::RTA_GATEWAY as u16 {
            gateway = read_ipv4(value);
        } else if kind == nl::rtattr_type_t::RTA_OIF as u16 {
            index = ne32(value, 0);
        } else if kind == nl::rtattr_type_t::RTA_PRIORITY as u16 {
            metric = ne32(value, 0)?;
        }
    }
    Some(RouteEntry { destination, prefix, gateway, index: index?, metric })
}

/// Parses a datagram of notifications; irrelevant ones are skipped.
pub fn parse_news(datagram: &[u8]) -> Vec<News> {
    let mut news = Vec::new();
    for message in messages(datagram).take(MAX_ITEMS) {
        let item = if message.kind == RTM_NEWLINK {
            parse_link(message.payload).map(News::Link)
        } else if message.kind == nl::RTM_DELLINK as u16 {
            parse_link(message.payload).map(News::LinkGone)
        } else if message.kind == nl::RTM_NEWADDR as u16 {
            parse_address(message.payload).map(News::Address)
        } else if message.kind == nl::RTM_DELADDR as u16 {
            parse_address(message.payload).map(News::AddressGone)
        } else if message.kind == NLMSG_OVERRUN {
            Some(News::Lost)
        } else {
            None
        };
        news.extend(item);
    }
    news
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut raw = [0; 16];
    put(&mut raw, 4, &index.to_ne_bytes());
    put(&mut raw, 8, &flags.to_ne_bytes());
    put(&mut raw, 12, &change.to_ne_bytes());
    raw
}

/// `struct ifaddrmsg`.
fn address_header(index: u32, prefix: u8, scope: u8) -> [u8; 8] {
    let mut raw = [AF_INET as u8, prefix, 0, scope, 0, 0, 0, 0];
    put(&mut raw, 4, &index.to_ne_bytes());
    raw
}

/// Queries and changes of links, addresses and routes.
///
/// Every call sends one request and reads its answer, which is ready when the request returns:
/// no call waits for other machines.
#[derive(Debug)]
pub struct Route(Conversation);

impl Route {
    /// Opens the socket.
    ///
    /// # Errors
    /// `EAFNOSUPPORT` when the kernel has no network.
    pub fn open() -> Result<Route, Error> {
        Conversation::open(None).map(Route)
    }

    fn change(&mut self, what: &str, request: Request) -> Result<(), Error> {
        self.0.ask(what, request, &mut |_| ())
    }

    /// What a dump holds, at most [`MAX_ITEMS`] of it.
    fn dump<T>(
        &mut self,
        what: &str,
        (kind, header): (u16, &[u8]),
        parse: fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let request = Request::new(kind, nl::NLM_F_DUMP).raw(header);
        let mut items = Vec::new();
        self.0.ask(what, request, &mut |message| {
            if items.len() < MAX_ITEMS {
                items.extend(parse(message.payload));
            }
        })?;
        Ok(items)
    }

    /// Every link, loopback included.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let request = (nl::RTM_GETLINK as u16, &link_header(0, 0, 0)[..]);
        self.dump("list the network devices", request, parse_link)
    }

    /// Every IPv4 address of every link.
    pub fn addresses(&mut self) -> Result<Vec<Address>, Error> {
        let request = (nl::RTM_GETADDR as u16, &address_header(0, 0, 0)[..]);
        self.dump("list the addresses", request, parse_address)
    }

    /// Every IPv4 unicast route of the main table.
    pub fn routes(&mut self) -> Result<Vec<RouteEntry>, Error> {
        let mut header = [0u8; 12];
        put(&mut header, 0, &[AF_INET as u8]);
        self.dump("list the routes", (nl::RTM_GETROUTE as u16, &header), parse_route)
    }

    /// Sets a link administratively up or down.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), Error> {
        let flags = if up { FLAG_UP } else { 0 };
        let request =
            Request::new(RTM_NEWLINK, nl::NLM_F_ACK).raw(&link_header(index, flags, FLAG_UP));
        let word = if up { "up" } else { "down" };
        self.change(&format!("set link {index} {word}"), request)
    }

    /// Sets the MTU in bytes.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), Error> {
        let request = Request::new(RTM_NEWLINK, nl::NLM_F_ACK)
            .raw(&link_header(index, 0, 0))
            .attribute(nl::IFLA_MTU as u16, &mtu.to_ne_bytes());
        self.change(&format!("set the MTU of link {index} to {mtu}"), request)
    }

    /// Renames a link, which kernels before 6.2 allow only while it is down.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<(), Error> {
        let request = Request::new(RTM_NEWLINK, nl::NLM_F_ACK)
            .raw(&link_header(index, 0, 0))
            .attribute(nl::IFLA_IFNAME as u16, &text_attribute(name));
        self.change(&format!("rename link {index} to {name}"), request)
    }

    /// Adds a VLAN device on top of a link.
    ///
    /// `EOPNOTSUPP` when the kernel has no VLANs (module `8021q`).
    pub fn add_vlan(&mut self, parent: u32, name: &str, id: u16) -> Result<(), Error> {
        let data = Request { bytes: Vec::new() }
            .attribute(nl::IFLA_VLAN_ID as u16, &id.to_ne_bytes())
            .bytes;
        let info = Request { bytes: Vec::new() }
            .attribute(nl::IFLA_INFO_KIND as u16, b"vlan")
            .attribute(nl::IFLA_INFO_DATA as u16 | NESTED, &data)
            .bytes;
        let flags = nl::NLM_F_ACK | nl::NLM_F_CREATE | nl::NLM_F_EXCL;
        let request = Request::new(RTM_NEWLINK, flags)
            .raw(&link_header(0, 0, 0))
            .attribute(nl::IFLA_IFNAME as u16, &text_attribute(name))
            .attribute(nl::IFLA_LINK as u16, &parent.to_ne_bytes())
            .attribute(nl::IFLA_LINKINFO as u16 | NESTED, &info);
        self.change(&format!("add VLAN {id} as {name}"), request)
    }

    /// Adds an address; an existing one is not an error.
    pub fn add_address(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
        broadcast: Option<Ipv4Addr>,
    ) -> Result<(), Error> {
        let flags = nl::NLM_F_ACK | nl::NLM_F_CREATE | nl::NLM_F_REPLACE;
        let mut request = Request::new(nl::RTM_NEWADDR as u16, flags)
            .raw(&address_header(index, prefix, 0))
            .attribute(nl::IFA_LOCAL as u16, &address.octets())
            .attribute(nl::IFA_ADDRESS as u16, &address.octets());
        if let Some(broadcast) = broadcast {
            request = request.attribute(nl::IFA_BROADCAST as u16, &broadcast.octets());
        }
        self.change(&format!("add address {address}/{prefix}"), request)
    }

    /// Removes every IPv4 address of a link, and thereby their routes.
    pub fn flush_addresses(&mut self, index: u32) -> Result<(), Error> {
        for found in self.addresses()? {
            if found.index != index {
                continue;
            }
            let request = Request::new(nl::RTM_DELADDR as u16, nl::NLM_F_ACK)
                .raw(&address_header(index, found.prefix, found.scope))
                .attribute(nl::IFA_LOCAL as u16, &found.address.octets());
            let what = format!("remove address {}/{}", found.address, found.prefix);
            match self.change(&what, request) {
                // Removing a primary address takes its secondaries with it.
                Err(Error { errno: Errno::ADDRNOTAVAIL, .. }) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Adds a route, or replaces the one with the same destination and metric.
    pub fn add_route(&mut self, route: &RouteEntry) -> Result<(), Error> {
        // RT_SCOPE_LINK for networks on the link itself, universe by a gateway.
        let scope = if route.gateway.is_some() { 0 } else { 253 };
        let header = [
            AF_INET as u8,
            route.prefix,
            0,
            0,
            nl::rt_class_t::RT_TABLE_MAIN as u8,
            nl::RTPROT_BOOT as u8,
            scope,
            nl::RTN_UNICAST as u8,
            0,
            0,
            0,
            0,
        ];
        let flags = nl::NLM_F_ACK | nl::NLM_F_CREATE | nl::NLM_F_REPLACE;
        let mut request = Request::new(nl::RTM_NEWROUTE as u16, flags)
            .raw(&header)
            .attribute(nl::rtattr_type_t::RTA_OIF as u16, &route.index.to_ne_bytes());
        if route.prefix > 0 {
            request =
                request.attribute(nl::rtattr_type_t::RTA_DST as u16, &route.destination.octets());
        }
        if let Some(gateway) = route.gateway {
            request = request.attribute(nl::rtattr_type_t::RTA_GATEWAY as u16, &gateway.octets());
        }
        if route.metric > 0 {
            request = request
                .attribute(nl::rtattr_type_t::RTA_PRIORITY as u16, &route.metric.to_ne_bytes());
        }
        let what = match route.gateway {
            Some(gateway) => {
                format!("add a route to {}/{} by {gateway}", route.destination, route.prefix)
            }
            None => format!("add a route to {}/{}", route.destination, route.prefix),
        };
        self.change(&what, request)
    }
}

/// Notifications about links and IPv4 addresses, for use with poll(2).
///
/// Open it before calling [`Route::links`], so that no change is missed.
#[derive(Debug)]
pub struct Monitor {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Opens a non-blocking socket for changes of links and IPv4 addresses.
    pub fn open() -> Result<Monitor, Error> {
        let fd = open_socket(
            None,
            nl::RTMGRP_LINK | nl::RTMGRP_IPV4_IFADDR,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            "listen for network devices",
        )?;
        // Lost messages cost a new dump; a machine with many ports sends many at once.
        let _ = set_socket_recv_buffer_size_force(&fd, 512 * 1024);
        Ok(Monitor { fd, buffer: vec![0; BUFFER] })
    }

    /// Everything received since the last call; empty without changes.
    pub fn read(&mut self) -> Result<Vec<News>, Error> {
        let mut news = Vec::new();
        while news.len() < MAX_ITEMS {
            match recv(&self.fd, self.buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((received, _)) => {
                    news.extend(parse_news(self.buffer.get(..received).unwrap_or_default()));
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => news.push(News::Lost),
                Err(errno) => return Err(Error::new("read news of network devices", errno)),
            }
        }
        Ok(news)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Message, NLMSG_ERROR, parse_error};
    use super::*;
    use alloc::borrow::ToOwned;
    use proptest::prelude::*;

    /// A link message as the kernel lays it out.
    fn link_message(name: &str, flags: u32) -> Vec<u8> {
        let info =
            Request { bytes: Vec::new() }.attribute(nl::IFLA_INFO_KIND as u16, b"veth\0").bytes;
        let mut header = link_header(7, flags, 0);
        put(&mut header, 2, &1u16.to_ne_bytes());
        Request::new(RTM_NEWLINK, 0)
            .raw(&header)
            .attribute(nl::IFLA_IFNAME as u16, &text_attribute(name))
            .attribute(nl::IFLA_ADDRESS as u16, &[2, 0, 0, 0, 0, 9])
            .attribute(nl::IFLA_MTU as u16, &1500u32.to_ne_bytes())
            .attribute(nl::IFLA_OPERSTATE as u16, &[6])
            .attribute(nl::IFLA_CARRIER as u16, &[1])
            .attribute(nl::IFLA_LINKINFO as u16 | NESTED, &info)
            .finish(0)
    }

    #[test]
    fn a_link_is_read_back() {
        let bytes = link_message("eth0", FLAG_UP | FLAG_LOWER_UP);
        let news = parse_news(&bytes);
        let [News::Link(link)] = news.as_slice() else { panic!("{news:?}") };
        assert_eq!(link.name, "eth0");
        assert_eq!(link.index, 7);
        assert_eq!(link.mac, Some([2, 0, 0, 0, 0, 9]));
        assert_eq!(link.mtu, 1500);
        assert_eq!(link.kind, "veth");
        assert_eq!(link.hardware, HARDWARE_ETHERNET);
        assert!(link.is_up() && link.has_carrier());
    }

    #[test]
    fn several_messages_in_one_datagram() {
        let mut bytes = link_message("eth0", 0);
        bytes.extend(link_message("a-longer-name", FLAG_UP));
        let names: Vec<_> = parse_news(&bytes)
            .into_iter()
            .map(|item| match item {
                News::Link(link) => link.name,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["eth0", "a-longer-name"]);
    }

    #[test]
    fn a_carrier_needs_the_link_up() {
        let mut link = Link { flags: FLAG_LOWER_UP, ..Link::default() };
        assert!(!link.has_carrier());
        link.flags |= FLAG_UP;
        assert!(link.has_carrier());
        link.carrier = Some(false);
        assert!(!link.has_carrier());
    }

    #[test]
    fn cut_messages_end_quietly() {
        let bytes = link_message("eth0", 0);
        for length in 0..bytes.len() {
            assert_eq!(parse_news(&bytes[..length]), []);
        }
    }

    #[test]
    fn the_explanation_is_found_behind_the_echo() {
        let echoed = Request::new(RTM_NEWLINK, 0).raw(&link_header(1, 0, 0)).finish(3);
        let mut payload = (-19i32).to_ne_bytes().to_vec();
        payload.extend(&echoed);
        let text = Request { bytes: Vec::new() }.attribute(1, b"no such thing\0").bytes;
        payload.extend(&text);
        let message = Message { kind: NLMSG_ERROR, flags: 0x200, sequence: 3, payload: &payload };
        assert_eq!(parse_error(message), (19, Some("no such thing".to_owned())));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse_news(&bytes);
            let _ = parse_link(&bytes);
            let _ = parse_address(&bytes);
            let _ = parse_route(&bytes);
            for message in messages(&bytes) {
                let _ = parse_error(message);
            }
        }

        #[test]
        fn damaged_links_never_panic(at in 0usize..120, value: u8) {
            let mut bytes = link_message("eth0", FLAG_UP);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            let _ = parse_news(&bytes);
        }
    }
}
