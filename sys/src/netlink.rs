//! rtnetlink: links, addresses and routes of the kernel, and news about them.
//!
//! An initramfs has no `ip` command, and the published netlink crates need the standard
//! library. This is the small part of rtnetlink(7) that a boot network needs: [`Route`] queries
//! and changes, [`Monitor`] reports changes (a carrier, a new device).
//!
//! Message layout is that of `linux/netlink.h` and `linux/rtnetlink.h`. Parsing checks all
//! bounds, so it is safe on any input. Only IPv4 addresses and routes of the main table are
//! handled; other messages are skipped.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use core::time::Duration;

use crate::bytes::{ne16, ne32};
use linux_raw_sys::netlink as nl;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send,
    socket_with,
};

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

/// The largest datagram of a dump, with room to spare.
const BUFFER: usize = 64 * 1024;
/// Most items of a dump: no machine that boots has more.
const MAX_ITEMS: usize = 4096;

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
    /// RFC 2863 operational state, `IF_OPER_*`.
    pub oper_state: u8,
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

/// A request that the kernel refused, or that could not be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The request, as text.
    pub request: String,
    /// The errno.
    pub errno: Errno,
    /// The kernel's explanation, if any.
    pub message: Option<String>,
}

impl Error {
    fn new(request: &str, errno: Errno) -> Self {
        Error { request: request.to_owned(), errno, message: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.request, crate::errno::Shown(self.errno))?;
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

impl core::error::Error for Error {}

// ---------------------------------------------------------------------------
// Reading

fn read_ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    let raw: [u8; 4] = bytes.try_into().ok()?;
    Some(Ipv4Addr::from(raw))
}

fn read_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// Rounds up to the alignment of messages and attributes.
const fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// One message of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// `RTM_*` or `NLMSG_*`.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The request it answers; 0 for notifications.
    pub sequence: u32,
    /// The payload.
    pub payload: &'a [u8],
}

/// The messages of a datagram, in order. Ends at the first malformed one.
#[derive(Debug, Clone)]
pub struct Messages<'a>(&'a [u8]);

/// Splits a datagram into messages.
pub fn messages(datagram: &[u8]) -> Messages<'_> {
    Messages(datagram)
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let rest = self.0;
        let length = usize::try_from(ne32(rest, 0)?).ok()?;
        let whole = rest.get(..length)?;
        let payload = whole.get(16..)?;
        self.0 = rest.get(aligned(length)..).unwrap_or_default();
        Some(Message {
            kind: ne16(whole, 4)?,
            flags: ne16(whole, 6)?,
            sequence: ne32(whole, 8)?,
            payload,
        })
    }
}

/// The attributes of a message, in order. Ends at the first malformed one.
#[derive(Debug, Clone)]
pub struct Attributes<'a>(&'a [u8]);

/// Splits attributes into pairs of type (flags removed) and value.
pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes(bytes)
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let rest = self.0;
        let length = usize::from(ne16(rest, 0)?);
        let value = rest.get(..length)?.get(4..)?;
        let kind = ne16(rest, 2)? & 0x3fff;
        self.0 = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    }
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
        } else if kind == nl::IFLA_OPERSTATE as u16 {
            link.oper_state = value.first().copied().unwrap_or(0);
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

/// The errno and explanation in an `NLMSG_ERROR` or `NLMSG_DONE` payload; errno 0 is an
/// acknowledgement. `request_length` is how much of our request precedes the attributes.
fn parse_error(message: Message<'_>) -> (i32, Option<String>) {
    let code = ne32(message.payload, 0).map_or(0, |raw| raw.cast_signed());
    let capped = u32::from(message.flags) & nl::NLM_F_CAPPED != 0;
    let skip = if message.kind == NLMSG_DONE {
        4
    } else if capped {
        20
    } else {
        let echoed = ne32(message.payload, 4).unwrap_or(16);
        usize::try_from(echoed).map_or(20, |length| aligned(length).saturating_add(4))
    };
    let mut text = None;
    if u32::from(message.flags) & nl::NLM_F_ACK_TLVS != 0 {
        for (kind, value) in attributes(message.payload.get(skip..).unwrap_or_default()) {
            if kind == nl::nlmsgerr_attrs::NLMSGERR_ATTR_MSG as u16 {
                text = Some(read_text(value));
            }
        }
    }
    (code.saturating_neg(), text)
}

// ---------------------------------------------------------------------------
// Writing

const AF_INET: u32 = 2;
// bindgen names this constant of the enumeration after its base.
const RTM_NEWLINK: u16 = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;

/// A request being built.
#[derive(Default)]
struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: u32) -> Self {
        let mut bytes = vec![0; 16];
        put(&mut bytes, 4, &kind.to_ne_bytes());
        put(&mut bytes, 6, &((flags | nl::NLM_F_REQUEST) as u16).to_ne_bytes());
        Request { bytes }
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends one attribute; the value is padded.
    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(4);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(aligned(self.bytes.len()), 0);
        self
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        put(&mut self.bytes, 0, &length.to_ne_bytes());
        put(&mut self.bytes, 8, &sequence.to_ne_bytes());
        self.bytes
    }
}

/// Overwrites part of a buffer; out of range is a no-op.
fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at.saturating_add(value.len())) {
        place.copy_from_slice(value);
    }
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

fn text_attribute(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// Opens a socket; no protocol is protocol 0, NETLINK_ROUTE.
fn open_socket(
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
struct Conversation {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Conversation {
    fn open(protocol: Option<Protocol>) -> Result<Conversation, Error> {
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
    fn ask(
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

/// Generic netlink: requests to a family by its name.
#[derive(Debug)]
pub struct Generic {
    conversation: Conversation,
    name: String,
    family: u16,
}

/// `GENL_ID_CTRL`, the family that resolves the others.
const FAMILY_CONTROL: u16 = 16;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;

impl Generic {
    /// Finds a family.
    ///
    /// # Errors
    /// `ENOENT` when the kernel lacks the family; its module may not be loaded.
    pub fn open(name: &str) -> Result<Generic, Error> {
        let mut conversation = Conversation::open(Some(rustix::net::netlink::GENERIC))?;
        let request = Request::new(FAMILY_CONTROL, nl::NLM_F_ACK)
            .raw(&[CONTROL_GET_FAMILY, 1, 0, 0])
            .attribute(CONTROL_FAMILY_NAME, &text_attribute(name));
        let what = format!("find the kernel's {name} interface");
        let mut family = None;
        conversation.ask(&what, request, &mut |message| {
            for (kind, value) in attributes(message.payload.get(4..).unwrap_or_default()) {
                if kind == CONTROL_FAMILY_ID {
                    family = ne16(value, 0);
                }
            }
        })?;
        let family = family.ok_or_else(|| Error::new(&what, Errno::NOENT))?;
        Ok(Generic { conversation, name: name.to_owned(), family })
    }

    /// Sends one command and returns the attributes of the answers.
    ///
    /// # Errors
    /// [`Error`] with the kernel's errno and explanation.
    pub fn command(
        &mut self,
        command: u8,
        version: u8,
        arguments: &Arguments,
    ) -> Result<Vec<(u16, Vec<u8>)>, Error> {
        let request = Request::new(self.family, nl::NLM_F_ACK)
            .raw(&[command, version, 0, 0])
            .raw(&arguments.0.bytes);
        let what = format!("make a request to {}", self.name);
        let mut answers = Vec::new();
        self.conversation.ask(&what, request, &mut |message| {
            for (kind, value) in attributes(message.payload.get(4..).unwrap_or_default()) {
                if answers.len() < MAX_ITEMS {
                    answers.push((kind, value.to_vec()));
                }
            }
        })?;
        Ok(answers)
    }
}

/// Attributes of a generic netlink command, in order.
#[derive(Default)]
pub struct Arguments(Request);

impl fmt::Debug for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(attributes(&self.0.bytes)).finish()
    }
}

impl Arguments {
    /// Adds a 32-bit number.
    #[must_use]
    pub fn u32(self, kind: u16, value: u32) -> Arguments {
        Arguments(self.0.attribute(kind, &value.to_ne_bytes()))
    }

    /// Adds a 64-bit number.
    #[must_use]
    pub fn u64(self, kind: u16, value: u64) -> Arguments {
        Arguments(self.0.attribute(kind, &value.to_ne_bytes()))
    }

    /// Adds attributes inside an attribute.
    #[must_use]
    pub fn nested(self, kind: u16, inner: &Arguments) -> Arguments {
        Arguments(self.0.attribute(kind | NESTED, &inner.0.bytes))
    }
}

/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
const SOL_NETLINK: u32 = 270;

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
    use super::*;
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
