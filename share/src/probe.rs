//! The search for another DHCP server, at the start and while serving.
//!
//! A server may answer only the cards that it knows, only after a while or from some `secs` on, or
//! only a DHCPINFORM. The search asks in all these ways, reads whether the own address is leased,
//! and looks for machines that have the port of DHCP servers open. Answers that other machines'
//! questions get count as well.

use crate::dhcp::lease::mask;
use crate::dhcp::message::{Head, Type, Writer, code};
use crate::error::Error;
use crate::net::{self, Interface};
use cmdline::plan::Mac;
use netboot::dhcp::message::{Kind, read_bootp};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

/// How long the search takes without an answer. dnsmasq pings an address for three seconds before
/// it offers it.
const PATIENCE: Duration = Duration::from_secs(9);
/// Time between two rounds of questions, and the seconds that they claim to have waited.
const ROUND: Duration = Duration::from_secs(2);
const SECONDS: [u16; 5] = [0, 8, 60, 300, 3600];
/// How long other servers have for their answers, once one is known.
const OTHERS: Duration = Duration::from_millis(500);
/// Time between two rounds while serving.
const AGAIN: Duration = Duration::from_secs(30);
const SERVER: u16 = 67;
/// The discard port (RFC 863), which hardly any machine has.
const CLOSED: u16 = 9;

/// A sign of another DHCP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It leases addresses: it offered one or answered another machine.
    Leases(Ipv4Addr),
    /// It answered a DHCPINFORM, and offered no address to a card that it does not know.
    Informs(Ipv4Addr),
    /// The own address ends at some time: a DHCP server leased it.
    OwnLease(Ipv4Addr),
    /// A machine has the port of DHCP servers open and does not answer.
    Port(Ipv4Addr),
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leases(server) => write!(f, "{server} is the DHCP server"),
            Self::Informs(server) => {
                write!(f, "{server} is a DHCP server that offers no address to unknown machines")
            }
            Self::OwnLease(own) => write!(f, "a DHCP server leased {own}, but none answers now"),
            Self::Port(host) => {
                write!(f, "{host} has the port of a DHCP server open, but does not answer")
            }
        }
    }
}

impl Sign {
    /// Whether a server leases addresses to any card.
    pub fn is_sure(&self) -> bool {
        matches!(self, Self::Leases(_))
    }
}

/// A server that tells machines what to boot, as this one does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boots {
    /// Its address.
    pub server: Ipv4Addr,
    /// The file that it names; empty when machines ask it for that later.
    pub file: String,
    /// It offers no address.
    pub proxy: bool,
}

impl fmt::Display for Boots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, file, proxy } = self;
        match proxy {
            true => write!(
                f,
                "{server} tells machines what to boot, too (a proxy DHCP server such as those of FOG \
                 and WDS): clients follow it or this machine, as their firmware likes; stop one of \
                 them"
            ),
            false => write!(
                f,
                "the DHCP server {server} names a boot file itself, \"{file}\": some firmware loads \
                 that; take the boot file (options 66 and 67) out of its settings while you share"
            ),
        }
    }
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Found {
    /// The strongest sign of a DHCP server.
    pub sign: Option<Sign>,
    /// Servers that tell machines what to boot.
    pub boots: Vec<Boots>,
}

/// Most servers that are named.
const MAX_BOOTS: usize = 8;

/// A search on one interface.
#[derive(Debug)]
pub struct Probe {
    socket: UdpSocket,
    own: Ipv4Addr,
    prefix: u8,
    /// The interface's hardware address, which a server may know, and one that none knows: the
    /// lease of the interface stays as it is.
    macs: [Mac; 2],
    transaction: u32,
}

impl Probe {
    /// Prepares a search.
    ///
    /// # Errors
    /// [`Error::Port`] when port 68 cannot be bound, [`Error::System`] without random numbers.
    pub fn new(interface: &Interface) -> Result<Self, Error> {
        let mut bytes = [0; 9];
        fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut bytes))
            .map_err(Error::system("read random numbers"))?;
        let [a, b, c, d, e, transaction @ ..] = bytes;
        let random = Mac([2, a, b, c, d, e]);
        Ok(Self {
            socket: net::broadcast_socket(&interface.name, 68, "the search for a DHCP server")?,
            own: interface.address,
            prefix: interface.prefix,
            macs: [interface.mac.unwrap_or(random), random],
            transaction: u32::from_be_bytes(transaction),
        })
    }

    /// Hardware addresses that this search asks with.
    pub fn macs(&self) -> [Mac; 2] {
        self.macs
    }

    /// Looks for a DHCP server, for at most ten seconds.
    ///
    /// # Errors
    /// [`Error::System`] when sending fails.
    pub fn search(&self) -> Result<Found, Error> {
        let begin = Instant::now();
        let mut found = Found::default();
        for (round, seconds) in SECONDS.into_iter().enumerate() {
            self.ask(seconds, round % 2 == 0)?;
            let end = (Instant::now() + ROUND).min(begin + PATIENCE);
            while let Some(sign) = self.hear(end, false, &mut found.boots)? {
                found.sign = Some(sign);
                if sign.is_sure() {
                    let end = Instant::now() + OTHERS;
                    while self.hear(end, false, &mut found.boots)?.is_some() {}
                    return Ok(found);
                }
            }
        }
        found.sign = found.sign.or_else(|| leased(self.own)).or_else(|| self.silent());
        Ok(found)
    }

    /// Looks on while this machine leases addresses, until another server speaks.
    ///
    /// # Errors
    /// [`Error::System`] when the socket fails.
    pub fn watch(&self) -> Result<Sign, Error> {
        loop {
            let end = Instant::now() + AGAIN;
            while let Some(sign) = self.hear(end, true, &mut Vec::new())? {
                // A weaker sign would have been there at the start.
                if sign.is_sure() {
                    return Ok(sign);
                }
            }
            self.ask(AGAIN.as_secs() as u16, false)?;
        }
    }

    /// One round of questions. With `boots`, the card that no server knows asks what to boot, too;
    /// some servers offer addresses only to others.
    fn ask(&self, seconds: u16, boots: bool) -> Result<(), Error> {
        let discover = |mac| (Type::Discover, mac, 0x8000, Ipv4Addr::UNSPECIFIED);
        let [known, unknown] = self.macs;
        for (kind, mac, flags, own) in
            [discover(unknown), discover(known), (Type::Inform, known, 0, self.own)]
        {
            let (transaction, relay) = (self.transaction, Ipv4Addr::UNSPECIFIED);
            let mut question = Writer::default();
            let mut wanted = vec![code::SUBNET_MASK, code::ROUTER];
            if boots && mac == unknown {
                wanted.extend([code::TFTP_SERVER_NAME, code::BOOT_FILE, code::VENDOR]);
                question.add(code::VENDOR_CLASS, b"PXEClient:Arch:00000:UNDI:002001");
                question.add(code::CLIENT_ARCH, &[0, 0]);
            }
            question.add(code::PARAMETERS, &wanted);
            let head = Head { kind, transaction, seconds, flags, own, relay, mac };
            let sent =
                self.socket.send_to(&question.question(&head), (Ipv4Addr::BROADCAST, SERVER));
            sent.map_err(Error::system("look for a DHCP server"))?;
        }
        Ok(())
    }

    /// The next sign until `end`, and servers that tell what to boot. With `serving`, this machine's
    /// own answers are none.
    fn hear(
        &self,
        end: Instant,
        serving: bool,
        boots: &mut Vec<Boots>,
    ) -> Result<Option<Sign>, Error> {
        let mut buffer = [0; 2048];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let set = self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1))));
            set.map_err(Error::system("look for a DHCP server"))?;
            let (length, sender) = match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => match from.ip() {
                    IpAddr::V4(sender) => (length, sender),
                    IpAddr::V6(_) => continue,
                },
                Err(e)
                    if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
                {
                    return Ok(None);
                }
                // The interface went down, for example.
                Err(_) => {
                    std::thread::sleep(left.min(Duration::from_millis(100)));
                    continue;
                }
            };
            let datagram = buffer.get(..length).unwrap_or_default();
            if let Some(new) = self.boots(datagram, sender)
                && boots.len() < MAX_BOOTS
                && boots.iter().all(|known| known.server != new.server)
            {
                boots.push(new);
            }
            let sign = self.sign(datagram, sender);
            let own = |server: Ipv4Addr| serving && (server == self.own || sender == self.own);
            match sign {
                Some(Sign::Leases(server) | Sign::Informs(server)) if own(server) => {}
                Some(sign) => return Ok(Some(sign)),
                None => {}
            }
        }
    }

    /// What a datagram says. Answers to other machines count, too.
    fn sign(&self, bytes: &[u8], sender: Ipv4Addr) -> Option<Sign> {
        let mac = *bytes.get(28..)?.first_chunk::<6>()?;
        let answer = read_bootp(bytes, mac, sender)?;
        let server = answer.server;
        // A proxy offers no address.
        let address = !answer.lease.address.is_unspecified();
        match answer.kind {
            Kind::Nak => Some(Sign::Leases(server)),
            Kind::Offer | Kind::Ack if address => Some(Sign::Leases(server)),
            Kind::Ack
                if self.macs.contains(&Mac(mac)) && answer.transaction == self.transaction =>
            {
                Some(Sign::Informs(server))
            }
            _ => None,
        }
    }

    /// What a datagram that answers a question of this search says about booting.
    fn boots(&self, bytes: &[u8], sender: Ipv4Addr) -> Option<Boots> {
        let mac = *bytes.get(28..)?.first_chunk::<6>()?;
        let answer = read_bootp(bytes, mac, sender)?;
        let asked = self.macs.contains(&Mac(mac)) && answer.transaction == self.transaction;
        let proxy = answer.lease.address.is_unspecified();
        let file = answer.lease.boot_file;
        let tells = asked && answer.kind == Kind::Offer && (proxy || !file.is_empty());
        tells.then_some(Boots { server: answer.server, file, proxy })
    }

    /// A machine of this network that has the port of DHCP servers open.
    fn silent(&self) -> Option<Sign> {
        let mask = mask(self.prefix.max(24));
        let network = u32::from(self.own) & mask;
        // In a large network, the /24 around our address.
        let found = net::in_use(self.own, network.into(), (network | !mask).into());
        let hosts = found.into_keys().filter(|host| *host != self.own);
        net::listening(self.own, SERVER, CLOSED, hosts).into_iter().next().map(Sign::Port)
    }
}

/// Whether the kernel knows an end of an address: a DHCP client set it.
fn leased(own: Ipv4Addr) -> Option<Sign> {
    const GET: u16 = 22;
    const NEW: u16 = 20;
    const DUMP: u16 = 0x301;
    let ask = || -> nix::Result<Vec<u8>> {
        let kind = SockType::Datagram;
        let route = SockProtocol::NetlinkRoute;
        let fd = socket(AddressFamily::Netlink, kind, SockFlag::SOCK_CLOEXEC, route)?;
        let mut request = 24_u32.to_ne_bytes().to_vec();
        for half in [GET, DUMP, 0, 0, 0, 0] {
            request.extend(half.to_ne_bytes());
        }
        // struct ifaddrmsg: AF_INET, the rest 0.
        request.extend([2, 0, 0, 0, 0, 0, 0, 0]);
        sendto(fd.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut buffer = vec![0; 64 << 10];
        let length = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        buffer.truncate(length);
        Ok(buffer)
    };
    let answer = ask().unwrap_or_default();
    let mut addresses = sys::netlink::messages(&answer).filter(|message| message.kind == NEW);
    addresses.any(|message| ends(message.payload, own)).then_some(Sign::OwnLease(own))
}

/// Whether a message about an address is about this one, and says when it ends.
fn ends(payload: &[u8], own: Ipv4Addr) -> bool {
    const LOCAL: u16 = 2;
    const CACHE_INFO: u16 = 6;
    let values = || sys::netlink::attributes(payload.get(8..).unwrap_or_default());
    let value = |kind| values().find(|(k, _)| *k == kind).map(|(_, value)| value);
    // struct ifa_cacheinfo: preferred, valid, …; without an end all ones.
    let valid = value(CACHE_INFO).and_then(|info| info.get(4..)?.first_chunk::<4>());
    value(LOCAL) == Some(&own.octets()) && valid.is_some_and(|valid| *valid != [0xff; 4])
}

/// Whether a DHCP server of this machine has the port.
pub fn holder(server: Ipv4Addr, own: Ipv4Addr) -> Option<String> {
    (server == own).then(|| net::holder("udp", SERVER))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::message::Message;
    use proptest::prelude::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const CARD: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn probe() -> Probe {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        Probe { socket, own: OWN, prefix: 24, macs: [CARD, Mac([2; 6])], transaction: 7 }
    }

    fn answer(kind: Type, mac: Mac, transaction: u32, yours: Option<Ipv4Addr>) -> Vec<u8> {
        let none = Ipv4Addr::UNSPECIFIED;
        let head = Head {
            kind: Type::Inform,
            transaction,
            seconds: 0,
            flags: 0,
            own: none,
            relay: none,
            mac,
        };
        let question = Message::read(&Writer::default().question(&head)).unwrap();
        let mut writer = Writer { yours, ..Writer::default() };
        writer.add(code::SERVER_ID, &OTHER.octets());
        writer.answer(&question, kind)
    }

    #[test]
    fn what_counts_as_a_server() {
        let (probe, stranger) = (probe(), Mac([9; 6]));
        let at = Some(Ipv4Addr::new(10, 0, 0, 9));
        for (kind, mac, transaction, yours, wanted) in [
            (Type::Offer, CARD, 7, at, Some(Sign::Leases(OTHER))),
            // Late, or to another machine.
            (Type::Offer, stranger, 1, at, Some(Sign::Leases(OTHER))),
            (Type::Ack, stranger, 1, at, Some(Sign::Leases(OTHER))),
            (Type::Nak, stranger, 1, None, Some(Sign::Leases(OTHER))),
            (Type::Ack, CARD, 7, None, Some(Sign::Informs(OTHER))),
            // A proxy's answers.
            (Type::Offer, CARD, 7, None, None),
            (Type::Offer, stranger, 1, None, None),
            (Type::Ack, stranger, 1, None, None),
        ] {
            let bytes = answer(kind, mac, transaction, yours);
            assert_eq!(probe.sign(&bytes, OTHER), wanted, "{kind:?} {mac} {yours:?}");
        }
    }

    #[test]
    fn own_answers_are_no_sign_while_serving() {
        let probe = probe();
        let to = probe.socket.local_addr().unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut own = answer(Type::Nak, CARD, 7, None);
        let at = own.windows(4).position(|w| w == OTHER.octets()).unwrap();
        own[at..at + 4].copy_from_slice(&OWN.octets());
        other.send_to(&own, to).unwrap();
        other.send_to(&answer(Type::Nak, CARD, 7, None), to).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        let mut boots = Vec::new();
        assert_eq!(probe.hear(end, true, &mut boots).unwrap(), Some(Sign::Leases(OTHER)));
        other.send_to(&own, to).unwrap();
        assert_eq!(probe.hear(end, false, &mut boots).unwrap(), Some(Sign::Leases(OWN)));
        assert_eq!(boots, []);
    }

    /// A second proxy, and a router with a boot file of its own, were not named.
    #[test]
    fn servers_that_tell_what_to_boot() {
        let probe = probe();
        let at = Some(Ipv4Addr::new(10, 0, 0, 9));
        let with_file = |yours, transaction| {
            let mut bytes = answer(Type::Offer, CARD, transaction, yours);
            bytes[108..118].copy_from_slice(b"other.kpxe");
            probe.boots(&bytes, OTHER).map(|boots| (boots.proxy, boots.file))
        };
        assert_eq!(with_file(at, 7), Some((false, "other.kpxe".into())));
        assert_eq!(with_file(None, 7), Some((true, "other.kpxe".into())));
        // Another machine's answer.
        assert_eq!(with_file(None, 8), None);
        assert_eq!(probe.boots(&answer(Type::Offer, CARD, 7, at), OTHER), None);
        assert!(probe.boots(&answer(Type::Offer, CARD, 7, None), OTHER).unwrap().proxy);
        assert_eq!(probe.boots(&answer(Type::Ack, CARD, 7, None), OTHER), None);
    }

    #[test]
    fn ends_of_addresses() {
        let message = |valid: [u8; 4]| {
            let mut bytes = vec![2, 24, 0, 0, 1, 0, 0, 0];
            bytes.extend([8_u16.to_ne_bytes(), 2_u16.to_ne_bytes()].concat());
            bytes.extend(OWN.octets());
            bytes.extend([20_u16.to_ne_bytes(), 6_u16.to_ne_bytes()].concat());
            bytes.extend([[1, 0, 0, 0], valid, [0; 4], [0; 4]].concat());
            bytes
        };
        assert!(ends(&message([100, 0, 0, 0]), OWN));
        assert!(!ends(&message([0xff; 4]), OWN));
        assert!(!ends(&message([100, 0, 0, 0]), OTHER));
        assert!(!ends(&[], OWN));
        // The loopback address has no end; asking works.
        assert_eq!(leased(Ipv4Addr::LOCALHOST), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = (probe().sign(&bytes, OTHER), probe().boots(&bytes, OTHER));
            let _ = ends(&bytes, OWN);
        }
    }
}
