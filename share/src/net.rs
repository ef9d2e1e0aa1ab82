//! The host's network: the interface to share on, other DHCP servers, addresses in use, and the
//! program that has a port.

use crate::error::Error;
use cmdline::plan::Mac;
use nix::errno::Errno;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket,
    sockopt,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// An interface with an IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its address; an interface may have several.
    pub address: Ipv4Addr,
    /// Its hardware address, if it is an Ethernet interface.
    pub mac: Option<Mac>,
    /// Length of its prefix.
    pub prefix: u8,
    /// The default route's gateway, when it is in the network of this address: machines of another
    /// network do not reach it.
    pub gateway: Option<Ipv4Addr>,
}

/// The kernel's table of routes.
const ROUTES: &str = "/proc/net/route";

/// Chooses the interface to share on: the one with this name or address, or the one with the
/// default route, or the only one that leads to a cable. Bridges of virtual machines and
/// containers do not. Of several addresses of an interface, the first, unless one is named.
///
/// # Errors
/// [`Error::Interface`] when there is none, or several and no default route; it names the
/// candidates.
pub fn choose(wanted: Option<&str>) -> Result<Interface, Error> {
    let all = interfaces()?;
    let names = || all.iter().map(|i| format!("{} ({})", i.name, i.address)).collect::<Vec<_>>();
    if let Some(wanted) = wanted {
        let address = wanted.parse().ok();
        // A label, eth0:1, was a name of its own once.
        let name = wanted.split(':').next().unwrap_or(wanted);
        let is_it = |i: &&Interface| i.name == name || Some(i.address) == address;
        return all.iter().find(is_it).cloned().ok_or_else(|| {
            let others = match names().join(", ") {
                none if none.is_empty() => String::new(),
                some => format!("; those with an address are: {some}"),
            };
            let fault = unusable(name, address);
            Error::Interface { why: format!("cannot share on {wanted}: {fault}{others}") }
        });
    }
    let routes = fs::read_to_string(ROUTES).unwrap_or_default();
    let near = all.iter().find(|i| i.gateway.is_some());
    if let Some(interface) =
        near.or_else(|| all.iter().find(|i| gateway(&routes, &i.name).is_some()))
    {
        return Ok(interface.clone());
    }
    let mut few = all.clone();
    few.dedup_by(|later, first| later.name == first.name);
    let wired: Vec<Interface> = few.iter().filter(|i| is_wired(&i.name, 4)).cloned().collect();
    match if wired.is_empty() { few.as_slice() } else { wired.as_slice() } {
        [one] => Ok(one.clone()),
        [] => Err(Error::Interface {
            why: "no network interface is up and has an IPv4 address; for a cable between two \
                  machines give it one: ip address add 192.168.77.1/24 brd + dev NAME"
                .into(),
        }),
        _ => Err(Error::Interface {
            why: format!("choose an interface with --interface: {}", names().join(", ")),
        }),
    }
}

/// What keeps an interface from being shared on.
fn unusable(name: &str, address: Option<Ipv4Addr>) -> String {
    if let Some(address) = address {
        return format!("no interface that is up has the address {address}");
    }
    // Interfaces without an address are in the list, too. /sys may show another network namespace.
    let mut list = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let Some(flags) = list.find(|item| item.interface_name == name).map(|item| item.flags) else {
        return "there is no such interface".to_owned();
    };
    if flags.contains(InterfaceFlags::IFF_LOOPBACK) {
        return "it is the loopback interface, which no other machine reaches".to_owned();
    }
    if !flags.contains(InterfaceFlags::IFF_UP) {
        return format!("it is down; 'ip link set {name} up' starts it");
    }
    if !flags.contains(InterfaceFlags::IFF_BROADCAST) {
        return "it knows no broadcasts, so no machine can ask for an address".to_owned();
    }
    format!(
        "it has no IPv4 address; for a cable between two machines give it one: \
         ip address add 192.168.77.1/24 brd + dev {name}"
    )
}

/// Whether a device, or one below it (of a VLAN, a bond or a bridge), is hardware.
fn is_wired(name: &str, depth: u8) -> bool {
    let at = Path::new("/sys/class/net").join(name);
    let below = |entry: fs::DirEntry| {
        let lower = entry.file_name().to_string_lossy().strip_prefix("lower_")?.to_owned();
        is_wired(&lower, depth - 1).then_some(())
    };
    at.join("device").exists()
        || depth > 0
            && fs::read_dir(at).is_ok_and(|list| list.flatten().any(|e| below(e).is_some()))
}

/// Every IPv4 address of every interface that can broadcast, those of one interface together.
fn interfaces() -> Result<Vec<Interface>, Error> {
    let routes = fs::read_to_string(ROUTES).unwrap_or_default();
    let list = nix::ifaddrs::getifaddrs()
        .map_err(|e| Error::system("list network interfaces")(e.into()))?;
    let mut found: Vec<Interface> = Vec::new();
    let mut macs = BTreeMap::new();
    for item in list {
        let link = item.address.as_ref().and_then(|a| a.as_link_addr()).and_then(|a| a.addr());
        if let Some(mac) = link {
            macs.insert(item.interface_name.clone(), Mac(mac));
        }
        let usable = item.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_BROADCAST)
            && !item.flags.intersects(InterfaceFlags::IFF_LOOPBACK);
        let address = item.address.as_ref().and_then(|a| a.as_sockaddr_in()).map(SockaddrIn::ip);
        let mask = item.netmask.as_ref().and_then(|a| a.as_sockaddr_in()).map(SockaddrIn::ip);
        if let (true, Some(address), Some(mask)) = (usable, address, mask) {
            // An address with a label has the label's name here: eth0:1.
            let name = item.interface_name.split(':').next().unwrap_or_default().to_owned();
            let prefix = u8::try_from(u32::from(mask).leading_ones()).unwrap_or(32);
            let near = |other: &Ipv4Addr| *other & mask == address & mask;
            let gateway = gateway(&routes, &name).filter(near);
            let mac = macs.get(&name).copied();
            found.push(Interface { name, address, mac, prefix, gateway });
        }
    }
    let first: Vec<String> = found.iter().map(|i| i.name.clone()).collect();
    found.sort_by_key(|i| first.iter().position(|name| *name == i.name));
    Ok(found)
}

/// The gateway of the default route over an interface.
fn gateway(routes: &str, interface: &str) -> Option<Ipv4Addr> {
    routes.lines().skip(1).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (name, to, gateway) = (words.next()?, words.next()?, words.next()?);
        let address = u32::from_str_radix(gateway, 16).ok()?;
        // In the machine's byte order.
        let address = Ipv4Addr::from(address.to_ne_bytes());
        (name == interface && to == "00000000" && !address.is_unspecified()).then_some(address)
    })
}

/// Name servers of this machine that are not on the loopback interface.
pub fn name_servers() -> Vec<Ipv4Addr> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let servers = servers.filter_map(|rest| rest.trim().parse::<Ipv4Addr>().ok());
    servers.filter(|address| !address.is_loopback()).take(3).collect()
}

/// The names under which browsers may know this machine: its host name, alone, with `.local`
/// (multicast DNS), and in the domains that its resolver searches.
pub fn own_names() -> Vec<String> {
    let resolver = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let host = nix::unistd::gethostname().unwrap_or_default();
    names(&host.to_string_lossy(), &resolver)
}

fn names(host: &str, resolver: &str) -> Vec<String> {
    let short = host.split('.').next().unwrap_or_default();
    let mut names = vec!["localhost".to_owned()];
    if short.is_empty() {
        return names;
    }
    names.extend([host.to_owned(), short.to_owned(), format!("{short}.local")]);
    for line in resolver.lines() {
        let mut words = line.split_ascii_whitespace();
        if matches!(words.next(), Some("search" | "domain")) {
            names.extend(words.map(|domain| format!("{short}.{}", domain.trim_end_matches('.'))));
        }
    }
    names
}

/// A UDP socket bound to one interface, for broadcasts.
///
/// # Errors
/// [`Error::Port`] when the port cannot be bound, or the interface cannot be chosen.
pub fn broadcast_socket(
    interface: &str,
    port: u16,
    service: &'static str,
) -> Result<UdpSocket, Error> {
    let at = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    let make = || -> nix::Result<OwnedFd> {
        let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        // Another server may have the same port on another interface.
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        setsockopt(&fd, sockopt::Broadcast, &true)?;
        setsockopt(&fd, sockopt::BindToDevice, &OsString::from(interface))?;
        bind(fd.as_raw_fd(), &SockaddrIn::from(at))?;
        Ok(fd)
    };
    make().map(UdpSocket::from).map_err(|e| taken(service, at, "udp", e.into()))
}

/// A UDP socket on one address; with a `device`, for packets that arrive there.
///
/// # Errors
/// [`Error::Port`] when the port cannot be bound.
pub fn udp(
    at: SocketAddrV4,
    service: &'static str,
    device: Option<&str>,
) -> Result<UdpSocket, Error> {
    bound(at, SockType::Datagram, device)
        .map(UdpSocket::from)
        .map_err(|e| taken(service, at, "udp", e))
}

/// A listening TCP socket, on another port when this one is taken; with a `device`, for
/// connections that arrive there.
///
/// # Errors
/// [`Error::Port`] when the port cannot be bound.
pub fn tcp(
    at: SocketAddrV4,
    service: &'static str,
    device: Option<&str>,
) -> Result<TcpListener, Error> {
    match listening_at(at, device) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            let any = SocketAddrV4::new(*at.ip(), 0);
            listening_at(any, device).map_err(|e| taken(service, any, "tcp", e))
        }
        other => other.map_err(|e| taken(service, at, "tcp", e)),
    }
}

/// A listening TCP socket on this port and no other.
///
/// # Errors
/// [`Error::Port`] when the port cannot be bound.
pub fn tcp_only(
    at: SocketAddrV4,
    service: &'static str,
    device: Option<&str>,
) -> Result<TcpListener, Error> {
    listening_at(at, device).map_err(|e| taken(service, at, "tcp", e))
}

fn listening_at(at: SocketAddrV4, device: Option<&str>) -> io::Result<TcpListener> {
    let fd = bound(at, SockType::Stream, device)?;
    listen(&fd, Backlog::new(128)?)?;
    Ok(fd.into())
}

/// The address alone keeps no other network out: Linux takes packets for it on every interface.
fn bound(at: SocketAddrV4, kind: SockType, device: Option<&str>) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if kind == SockType::Stream {
        // A restart must not wait for connections in TIME_WAIT.
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    if let Some(device) = device {
        match setsockopt(&fd, sockopt::BindToDevice, &OsString::from(device)) {
            // Before Linux 5.7 only root may; others serve all interfaces.
            Ok(()) | Err(Errno::EPERM) => {}
            Err(e) => return Err(e.into()),
        }
    }
    bind(fd.as_raw_fd(), &SockaddrIn::from(at))?;
    Ok(fd)
}

fn taken(service: &'static str, at: SocketAddrV4, kind: &str, source: io::Error) -> Error {
    let busy = source.kind() == io::ErrorKind::AddrInUse;
    let holder = if busy { holder(kind, at.port()) } else { None };
    Error::Port { service, at, holder, source }
}

/// The program that has a port.
pub fn holder(kind: &str, port: u16) -> Option<String> {
    let table = fs::read_to_string(format!("/proc/net/{kind}")).ok()?;
    let wanted = format!(":{port:04X}");
    let inodes: BTreeSet<String> = table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let local = words.nth(1)?;
            // sl, local, remote, state, queues, timer, retransmits, uid, timeout, inode.
            let state_to_inode = words.nth(7)?;
            local.ends_with(&wanted).then(|| format!("socket:[{state_to_inode}]"))
        })
        .collect();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        // "self" is in the directory, too.
        let number = process.file_name();
        if !number.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let Ok(open) = fs::read_dir(process.path().join("fd")) else { continue };
        let has = |fd: fs::DirEntry| {
            fs::read_link(fd.path()).is_ok_and(|to| inodes.contains(&*to.to_string_lossy()))
        };
        if open.flatten().any(has) {
            let name = fs::read_to_string(process.path().join("comm")).ok()?;
            return Some(format!("{} (process {})", name.trim(), number.to_string_lossy()));
        }
    }
    None
}

/// Those of these addresses that refuse a datagram to `closed`, a port that no program has, but
/// not one to `port`: a program has that one. Empty datagrams, three to each port.
pub fn listening(
    own: Ipv4Addr,
    port: u16,
    closed: u16,
    hosts: impl IntoIterator<Item = Ipv4Addr>,
) -> Vec<Ipv4Addr> {
    let to = |host, port| {
        let socket = UdpSocket::bind((own, 0)).ok()?;
        socket.connect((host, port)).ok()?;
        socket.set_nonblocking(true).ok()?;
        Some((socket, false))
    };
    let pair = |host| Some((host, [to(host, closed)?, to(host, port)?]));
    let mut pairs: Vec<_> = hosts.into_iter().take(256).filter_map(pair).collect();
    for _ in 0..3 {
        for (socket, refused) in pairs.iter_mut().flat_map(|(_, both)| both) {
            *refused |=
                socket.send(&[]).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        }
        std::thread::sleep(Duration::from_millis(150));
        for (socket, refused) in pairs.iter_mut().flat_map(|(_, both)| both) {
            let heard = socket.recv(&mut [0; 16]);
            *refused |= heard.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        }
    }
    let open = pairs.into_iter().filter(|(_, [closed, port])| closed.1 && !port.1);
    open.map(|(host, _)| host).collect()
}

/// Addresses of a range that are in use, with their hardware addresses. An empty datagram to
/// each makes the kernel send ARP requests; the table is read a second later.
pub fn in_use(own: Ipv4Addr, first: Ipv4Addr, last: Ipv4Addr) -> BTreeMap<Ipv4Addr, Mac> {
    let Ok(socket) = UdpSocket::bind((own, 0)) else { return BTreeMap::new() };
    let range = || (u32::from(first)..=u32::from(last)).map(Ipv4Addr::from).take(1024);
    for address in range() {
        // The discard port (RFC 863).
        let _ = socket.send_to(&[], (address, 9));
    }
    std::thread::sleep(Duration::from_millis(1000));
    let table = fs::read_to_string("/proc/net/arp").unwrap_or_default();
    range().filter_map(|address| Some((address, neighbour(&table, address)?))).collect()
}

/// The name of the client at an address: its hardware address, when the kernel knows it.
pub fn name_of(address: Ipv4Addr) -> String {
    let table = std::fs::read_to_string("/proc/net/arp").unwrap_or_default();
    neighbour(&table, address).map_or_else(|| address.to_string(), |mac| mac.to_string())
}

/// Looks an address up in the kernel's table of neighbours.
fn neighbour(table: &str, address: Ipv4Addr) -> Option<Mac> {
    let address = address.to_string();
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let found = words.next()? == address;
        let (_, flags, mac) = (words.next()?, words.next()?, words.next()?);
        let complete = u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok()? & 2 != 0;
        if found && complete { mac.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One sentence was for all of these: "is no interface that is up and has an IPv4 address".
    #[test]
    fn an_interface_that_will_not_do_is_told_why() {
        for (wanted, why) in [
            ("bellwether-no0", "there is no such interface"),
            ("lo", "loopback"),
            ("203.0.113.77", "no interface that is up has the address"),
        ] {
            match choose(Some(wanted)) {
                Err(Error::Interface { why: told }) => {
                    assert!(told.starts_with(&format!("cannot share on {wanted}: ")), "{told}");
                    assert!(told.contains(why), "{told}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn gateways() {
        let table = "Iface Destination Gateway Flags\n\
                     eth0 0000A8C0 00000000 0001\neth0 00000000 0100A8C0 0003\n";
        let expected =
            if cfg!(target_endian = "little") { [192, 168, 0, 1] } else { [1, 0, 168, 192] };
        assert_eq!(gateway(table, "eth0"), Some(Ipv4Addr::from(expected)));
        assert_eq!(gateway(table, "eth1"), None);
    }

    #[test]
    fn names_of_this_machine() {
        let resolver = "nameserver 10.0.0.1\nsearch lan example.org.\n";
        let wanted = ["localhost", "pc", "pc", "pc.local", "pc.lan", "pc.example.org"];
        assert_eq!(names("pc", resolver), wanted);
        assert_eq!(names("pc.site", ""), ["localhost", "pc.site", "pc", "pc.local"]);
        assert_eq!(names("", resolver), ["localhost"]);
    }

    #[test]
    fn who_has_a_port() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let who = holder("udp", port).unwrap();
        assert!(who.contains(&format!("process {}", std::process::id())), "{who}");
        let at = format!("127.0.0.1:{port}").parse().unwrap();
        let error = udp(at, "TFTP", None).unwrap_err().to_string();
        assert!(error.contains("has that port"), "{error}");
        let listener = tcp("127.0.0.1:0".parse().unwrap(), "HTTP", None).unwrap();
        let std::net::SocketAddr::V4(at) = listener.local_addr().unwrap() else { panic!() };
        assert_ne!(tcp(at, "HTTP", None).unwrap().local_addr().unwrap().port(), at.port());
        let device = tcp("127.0.0.1:0".parse().unwrap(), "HTTP", Some("lo")).unwrap();
        assert_eq!(nix::sys::socket::getsockopt(&device, sockopt::BindToDevice).unwrap(), "lo");
        std::net::TcpStream::connect(device.local_addr().unwrap()).unwrap();
        assert!(tcp(at, "HTTP", Some("no-such-device")).is_err());
    }

    #[test]
    fn neighbours() {
        let table = "IP address  HW type  Flags  HW address  Mask  Device\n\
                     10.0.0.7  0x1  0x2  52:54:00:01:02:03  *  lan\n\
                     10.0.0.8  0x1  0x0  00:00:00:00:00:00  *  lan\n";
        let mac = neighbour(table, Ipv4Addr::new(10, 0, 0, 7)).unwrap();
        assert_eq!(mac.to_string(), "52:54:00:01:02:03");
        assert_eq!(neighbour(table, Ipv4Addr::new(10, 0, 0, 8)), None);
    }
}
