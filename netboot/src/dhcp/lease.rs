//! A DHCP server's answer, checked, as plain data.
//!
//! The values are the server's: only values that RFC 2131 leaves open are guessed, and nothing
//! is applied. Text with control characters, which could add lines to a configuration file, is
//! dropped and reported in [`Lease::ignored`].

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;

use cmdline::plan::Route;

use super::options::{Options, code};

/// The usable addresses of an option, each once; no more than these are kept.
pub type Addresses = heapless::Vec<Ipv4Addr, 32>;
/// How many routes of one option are kept.
const MAX_ROUTES: usize = 128;
/// Most search domains kept; resolv.conf(5) had a limit of six for long.
const MAX_SEARCH: usize = 16;
/// The longest domain name in text form (RFC 1035).
const MAX_NAME: usize = 253;
/// A domain name in text form.
pub type Name = heapless::String<MAX_NAME>;
/// Below this an interface cannot carry IPv4 with options comfortably (RFC 791),
/// and NFS or HTTP would crawl: such an answer is a mistake.
pub const MIN_MTU: u16 = 576;

/// An address and the options sent with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Our address.
    pub address: Ipv4Addr,
    /// Prefix length from option 1; `None` when the server gave no usable mask.
    pub prefix: Option<u8>,
    /// Broadcast address, option 28.
    pub broadcast: Option<Ipv4Addr>,
    /// The server that granted it: option 54, or the sender of the answer.
    pub server: Ipv4Addr,
    /// The answer was plain BOOTP, without lease or server identifier.
    pub bootp: bool,
    /// `siaddr`: the next server to boot from.
    pub next_server: Option<Ipv4Addr>,
    /// Option 66, or the `sname` field: the boot server's name.
    pub server_name: String,
    /// Option 150: TFTP servers.
    pub tftp_servers: Addresses,
    /// Option 67, or the `file` field: the boot file.
    pub boot_file: String,
    /// Option 17.
    pub root_path: String,
    /// Option 3, best first.
    pub routers: Addresses,
    /// Option 121, which replaces options 3 and 33 when it is there (RFC 3442);
    /// otherwise option 33.
    pub routes: Vec<Route>,
    /// Whether [`Self::routes`] come from option 121.
    pub classless: bool,
    /// Option 6.
    pub dns: Addresses,
    /// Option 15.
    pub domain: String,
    /// Option 119 (RFC 3397).
    pub search: Vec<String>,
    /// Option 12, the part before the first dot.
    pub hostname: String,
    /// Option 40.
    pub nis_domain: String,
    /// Option 42.
    pub ntp: Addresses,
    /// Option 26 in bytes, when it is at least [`MIN_MTU`].
    pub mtu: Option<u16>,
    /// Option 51 in seconds; `None` for an infinite lease.
    pub lease_seconds: Option<u32>,
    /// Option 43 as it came.
    pub vendor: Vec<u8>,
    /// Dropped options with the reason, as text.
    pub ignored: Vec<String>,
}

/// The header fields of an answer that the lease uses.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    /// `yiaddr`.
    pub yours: Ipv4Addr,
    /// `siaddr`.
    pub next_server: Ipv4Addr,
    /// Source address of the IP packet.
    pub sender: Ipv4Addr,
    /// `sname`, 64 bytes.
    pub server_name: &'a [u8],
    /// `file`, 128 bytes.
    pub file: &'a [u8],
}

impl Lease {
    /// Reads the lease of an answer. The caller has checked that the answer is for this client.
    pub fn read(header: Header<'_>, options: &Options) -> Lease {
        let mut reader = Reader { options, ignored: Vec::new() };
        let classless = reader.classless_routes();
        let (hostname, host_domain) = reader.hostname();
        let mut domain = reader.domain(code::DOMAIN_NAME, "domain name");
        if domain.is_empty() {
            domain = host_domain;
        }
        let overload = options.overload();
        let server_name = match reader.text(code::TFTP_SERVER_NAME, "boot server name") {
            name if !name.is_empty() => name,
            _ if overload & 2 == 0 => {
                reader.clean(header.server_name, format_args!("server name field"))
            }
            _ => String::new(),
        };
        let boot_file = match reader.text(code::BOOT_FILE, "boot file") {
            name if !name.is_empty() => name,
            _ if overload & 1 == 0 => reader.clean(header.file, format_args!("boot file field")),
            _ => String::new(),
        };
        Lease {
            address: header.yours,
            prefix: reader.prefix(),
            broadcast: reader.address(code::BROADCAST),
            server: reader.address(code::SERVER_ID).unwrap_or(header.sender),
            bootp: options.get(code::MESSAGE_TYPE).is_none(),
            next_server: usable(header.next_server),
            server_name,
            tftp_servers: reader.addresses(code::TFTP_SERVERS, "TFTP servers"),
            boot_file,
            root_path: reader.text(code::ROOT_PATH, "root path"),
            routers: reader.addresses(code::ROUTER, "routers"),
            classless: classless.is_some(),
            routes: classless.unwrap_or_else(|| reader.classful_routes()),
            dns: reader.addresses(code::DNS, "name servers"),
            domain,
            search: reader.search(),
            hostname,
            nis_domain: reader.domain(code::NIS_DOMAIN, "NIS domain"),
            ntp: reader.addresses(code::NTP, "NTP servers"),
            mtu: reader.mtu(),
            lease_seconds: reader.lease_seconds(),
            vendor: options.get(code::VENDOR).unwrap_or_default().to_vec(),
            ignored: reader.ignored,
        }
    }

    /// The server to boot from: next server, TFTP server name, TFTP servers
    /// (option 150), the DHCP server itself, in this order. May be a name.
    pub fn boot_server(&self) -> String {
        if let Some(next) = self.next_server {
            return format!("{next}");
        }
        if !self.server_name.is_empty() {
            return self.server_name.clone();
        }
        format!("{}", self.tftp_servers.first().copied().unwrap_or(self.server))
    }
}

/// Whether a host can have this address.
pub(crate) fn usable(address: Ipv4Addr) -> Option<Ipv4Addr> {
    let bad = address.is_unspecified()
        || address.is_broadcast()
        || address.is_multicast()
        || address.is_loopback();
    (!bad).then_some(address)
}

/// The prefix length of the address class (RFC 791); 24 for addresses without a class.
pub fn classful_prefix(address: Ipv4Addr) -> u8 {
    match address.octets() {
        [0..128, ..] => 8,
        [128..192, ..] => 16,
        _ => 24,
    }
}

/// The prefix length of a netmask; `None` when its ones are not contiguous.
pub fn mask_prefix(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    let ones = bits.leading_ones();
    (bits.count_ones() == ones).then_some(ones as u8)
}

/// The netmask of a prefix length; longer than 32 counts as 32.
pub fn prefix_mask(prefix: u8) -> Ipv4Addr {
    let host_bits = 32u32.saturating_sub(u32::from(prefix));
    Ipv4Addr::from_bits(u32::MAX.checked_shl(host_bits).unwrap_or(0))
}

/// Whether two addresses are in one network of this prefix length.
pub fn same_network(a: Ipv4Addr, b: Ipv4Addr, prefix: u8) -> bool {
    (a.to_bits() ^ b.to_bits()) & prefix_mask(prefix).to_bits() == 0
}

/// A host name (RFC 1123): letters, digits, hyphens; dots between labels.
pub fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

/// A domain name as resolv.conf takes it: as a host name, and underscores.
pub fn is_domain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}

/// Parses domain names that may point back into the same option (RFC 3397, RFC 1035 4.1.4).
///
/// Malformed names end the list. A pointer must point backwards, so a loop is impossible.
pub fn parse_search(bytes: &[u8]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut at = 0;
    while at < bytes.len() && names.len() < MAX_SEARCH {
        let Some((name, next)) = parse_name(bytes, at) else { break };
        if is_domain_name(&name) && !names.iter().any(|known| known.as_str() == name.as_str()) {
            names.push(name.as_str().into());
        }
        at = next;
    }
    names
}

/// Reads one possibly compressed name at `at`; gives it in text form, lower case
/// not forced, and the offset that follows it.
pub fn parse_name(bytes: &[u8], at: usize) -> Option<(Name, usize)> {
    let mut name = Name::new();
    let mut here = at;
    let mut after = None;
    // Every pointer must point before all earlier ones.
    let mut floor = at;
    loop {
        let length = *bytes.get(here)?;
        match length {
            0 => {
                let next = here.checked_add(1)?;
                return Some((name, after.unwrap_or(next)));
            }
            1..=63 => {
                let start = here.checked_add(1)?;
                let end = start.checked_add(usize::from(length))?;
                let label = core::str::from_utf8(bytes.get(start..end)?).ok()?;
                if !name.is_empty() {
                    name.push('.').ok()?;
                }
                name.push_str(label).ok()?;
                here = end;
            }
            0xc0.. => {
                let low = *bytes.get(here.checked_add(1)?)?;
                let target = usize::from(length & 0x3f) << 8 | usize::from(low);
                if target >= floor {
                    return None;
                }
                after = after.or(here.checked_add(2));
                floor = target;
                here = target;
            }
            _ => return None,
        }
    }
}

/// Parses RFC 3442 routes; `None` when the option is malformed.
pub fn parse_classless_routes(bytes: &[u8]) -> Option<Vec<Route>> {
    let mut routes = Vec::new();
    let mut rest = bytes;
    while let Some((prefix, tail)) = rest.split_first() {
        if *prefix > 32 || routes.len() >= MAX_ROUTES {
            return None;
        }
        let (significant, tail) = tail.split_at_checked(usize::from(prefix.div_ceil(8)))?;
        let (gateway, tail) = tail.split_first_chunk::<4>()?;
        let mut octets = [0u8; 4];
        for (octet, value) in octets.iter_mut().zip(significant) {
            *octet = *value;
        }
        let destination =
            Ipv4Addr::from_bits(Ipv4Addr::from(octets).to_bits() & prefix_mask(*prefix).to_bits());
        let gateway = Ipv4Addr::from(*gateway);
        routes.push(Route {
            destination,
            prefix: *prefix,
            gateway: (!gateway.is_unspecified()).then_some(gateway),
        });
        rest = tail;
    }
    Some(routes)
}

/// Parses options and collects the unusable ones.
struct Reader<'a> {
    options: &'a Options,
    ignored: Vec<String>,
}

impl Reader<'_> {
    fn ignore(&mut self, option: u8, why: &str) {
        self.ignored.push(format!("option {option}: {why}"));
    }

    /// One address; an unusable one counts as absent.
    fn address(&mut self, option: u8) -> Option<Ipv4Addr> {
        let raw = self.options.get(option)?;
        let Ok(octets) = <[u8; 4]>::try_from(raw) else {
            self.ignore(option, "not one address");
            return None;
        };
        let address = Ipv4Addr::from(octets);
        if option == code::BROADCAST {
            return (!address.is_unspecified()).then_some(address);
        }
        usable(address)
    }

    fn addresses(&mut self, option: u8, what: &str) -> Addresses {
        let raw = self.options.get(option).unwrap_or_default();
        if !raw.len().is_multiple_of(4) {
            self.ignore(option, &format!("{what} are not whole addresses"));
            return Addresses::new();
        }
        let mut found = Addresses::new();
        for octets in raw.chunks_exact(4) {
            let address = <[u8; 4]>::try_from(octets).ok().map(Ipv4Addr::from);
            if let Some(address) = address.and_then(usable)
                && !found.contains(&address)
                && found.push(address).is_err()
            {
                break;
            }
        }
        found
    }

    fn prefix(&mut self) -> Option<u8> {
        let raw = self.options.get(code::SUBNET_MASK)?;
        let prefix = <[u8; 4]>::try_from(raw).ok().and_then(|mask| mask_prefix(mask.into()));
        if prefix.is_none_or(|prefix| prefix == 0) {
            self.ignore(code::SUBNET_MASK, "not a netmask");
            return None;
        }
        prefix
    }

    fn mtu(&mut self) -> Option<u16> {
        let raw = self.options.get(code::MTU)?;
        let Ok(raw) = <[u8; 2]>::try_from(raw) else {
            self.ignore(code::MTU, "not an MTU");
            return None;
        };
        let mtu = u16::from_be_bytes(raw);
        if mtu < MIN_MTU {
            self.ignore(code::MTU, &format!("an MTU of {mtu} is below {MIN_MTU}"));
            return None;
        }
        Some(mtu)
    }

    fn lease_seconds(&mut self) -> Option<u32> {
        let raw = <[u8; 4]>::try_from(self.options.get(code::LEASE_TIME)?).ok()?;
        let seconds = u32::from_be_bytes(raw);
        (seconds != u32::MAX).then_some(seconds)
    }

    /// Text without its padding; dropped when it holds control characters.
    fn clean(&mut self, raw: &[u8], what: fmt::Arguments<'_>) -> String {
        let end = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len());
        let raw = raw.get(..end).unwrap_or_default();
        match core::str::from_utf8(raw) {
            Ok(text) if !text.chars().any(char::is_control) => String::from(text.trim()),
            _ => {
                self.ignored.push(format!("{what}: not plain text"));
                String::new()
            }
        }
    }

    fn text(&mut self, option: u8, what: &str) -> String {
        match self.options.get(option) {
            Some(raw) => self.clean(raw, format_args!("option {option} ({what})")),
            None => String::new(),
        }
    }

    fn domain(&mut self, option: u8, what: &str) -> String {
        let text = self.text(option, what);
        let text = text.trim_matches('.');
        if text.is_empty() {
            return String::new();
        }
        if !is_domain_name(text) {
            self.ignore(option, &format!("the {what} is not a domain name"));
            return String::new();
        }
        String::from(text)
    }

    /// Host name and, when the server wrote it fully qualified, its domain.
    fn hostname(&mut self) -> (String, String) {
        let text = self.text(code::HOST_NAME, "host name");
        let text = text.trim_end_matches('.');
        if text.is_empty() {
            return (String::new(), String::new());
        }
        if !is_host_name(text) {
            self.ignore(code::HOST_NAME, "not a host name");
            return (String::new(), String::new());
        }
        let (host, domain) = text.split_once('.').unwrap_or((text, ""));
        (String::from(host), String::from(domain))
    }

    fn search(&mut self) -> Vec<String> {
        let Some(raw) = self.options.get(code::SEARCH) else { return Vec::new() };
        let names = parse_search(raw);
        if names.is_empty() {
            self.ignore(code::SEARCH, "no readable search domain");
        }
        names
    }

    /// Option 121, or Microsoft's earlier 249; `None` when neither is readable.
    fn classless_routes(&mut self) -> Option<Vec<Route>> {
        for option in [code::CLASSLESS_ROUTES, code::CLASSLESS_ROUTES_MS] {
            let Some(raw) = self.options.get(option) else { continue };
            match parse_classless_routes(raw) {
                Some(routes) if !routes.is_empty() => return Some(routes),
                _ => self.ignore(option, "malformed routes"),
            }
        }
        None
    }

    fn classful_routes(&mut self) -> Vec<Route> {
        let raw = self.options.get(code::STATIC_ROUTES).unwrap_or_default();
        if !raw.len().is_multiple_of(8) {
            self.ignore(code::STATIC_ROUTES, "malformed routes");
            return Vec::new();
        }
        let mut routes = Vec::new();
        for pair in raw.chunks_exact(8).take(MAX_ROUTES) {
            let Ok([a, b, c, d, e, f, g, h]) = <[u8; 8]>::try_from(pair) else { continue };
            let destination = Ipv4Addr::new(a, b, c, d);
            let gateway = Ipv4Addr::new(e, f, g, h);
            // RFC 2132: 0.0.0.0 is not a legal destination here.
            if destination.is_unspecified() {
                continue;
            }
            // The option has no masks: a host route when there are host bits, else the class.
            let class = classful_prefix(destination);
            let host = destination.to_bits() & !prefix_mask(class).to_bits() != 0;
            routes.push(Route {
                destination,
                prefix: if host { 32 } else { class },
                gateway: usable(gateway),
            });
        }
        routes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn route(destination: [u8; 4], prefix: u8, gateway: Option<[u8; 4]>) -> Route {
        Route { destination: destination.into(), prefix, gateway: gateway.map(Into::into) }
    }

    #[test]
    fn rfc_3442_examples() {
        // The RFC's table of descriptors.
        let bytes = [
            0, 10, 0, 0, 1, //
            8, 10, 10, 0, 0, 1, //
            24, 10, 0, 0, 10, 0, 0, 1, //
            16, 10, 17, 10, 0, 0, 1, //
            25, 10, 27, 129, 0, 10, 0, 0, 1, //
            32, 10, 198, 122, 47, 0, 0, 0, 0,
        ];
        let gateway = Some([10, 0, 0, 1]);
        assert_eq!(
            parse_classless_routes(&bytes),
            Some(vec![
                route([0, 0, 0, 0], 0, gateway),
                route([10, 0, 0, 0], 8, gateway),
                route([10, 0, 0, 0], 24, gateway),
                route([10, 17, 0, 0], 16, gateway),
                route([10, 27, 129, 0], 25, gateway),
                route([10, 198, 122, 47], 32, None),
            ])
        );
        assert_eq!(parse_classless_routes(&bytes[..3]), None);
        assert_eq!(parse_classless_routes(&[33, 1, 2, 3, 4, 5, 1, 2, 3, 4]), None);
    }

    #[test]
    fn bits_behind_the_prefix_are_cleared() {
        let routes = parse_classless_routes(&[12, 10, 255, 10, 0, 0, 1]);
        assert_eq!(routes, Some(vec![route([10, 240, 0, 0], 12, Some([10, 0, 0, 1]))]));
    }

    #[test]
    fn rfc_3397_example() {
        // eng.apple.com. and marketing.apple.com. by pointer
        let mut bytes = b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04".to_vec();
        assert_eq!(parse_search(&bytes), ["eng.apple.com", "marketing.apple.com"]);
        // A pointer to itself, and one forwards, end the list.
        bytes.extend(b"\x01x\xc0\x1d");
        assert_eq!(parse_search(&bytes).len(), 2);
        assert_eq!(parse_search(b"\xc0\x00"), Vec::<String>::new());
        assert_eq!(parse_search(b"\x03a b\x00\x02ok\x00"), ["ok"]);
    }

    #[test]
    fn masks() {
        assert_eq!(mask_prefix(Ipv4Addr::new(255, 255, 254, 0)), Some(23));
        assert_eq!(mask_prefix(Ipv4Addr::new(255, 0, 255, 0)), None);
        assert_eq!(prefix_mask(0), Ipv4Addr::UNSPECIFIED);
        assert_eq!(prefix_mask(32), Ipv4Addr::BROADCAST);
        assert_eq!(classful_prefix(Ipv4Addr::new(10, 1, 2, 3)), 8);
        assert_eq!(classful_prefix(Ipv4Addr::new(172, 16, 0, 1)), 16);
        assert_eq!(classful_prefix(Ipv4Addr::new(192, 168, 0, 1)), 24);
    }

    #[test]
    fn names() {
        assert!(is_host_name("pc-01.lab"));
        assert!(!is_host_name("pc 01") && !is_host_name("-pc") && !is_host_name("a..b"));
        assert!(!is_host_name("x;reboot") && !is_host_name(""));
        assert!(is_domain_name("_tcp.lab") && !is_domain_name("lab\nnameserver 6.6.6.6"));
    }

    fn lease_of(options: &[u8]) -> Lease {
        let mut all = Options::default();
        all.collect(options);
        Lease::read(
            Header {
                yours: Ipv4Addr::new(10, 0, 0, 5),
                next_server: Ipv4Addr::UNSPECIFIED,
                sender: Ipv4Addr::new(10, 0, 0, 1),
                server_name: b"boothost\0\0\0",
                file: b"pxelinux.0\0",
            },
            &all,
        )
    }

    #[test]
    fn boot_server_order() {
        let mut lease = lease_of(&[]);
        assert_eq!(lease.boot_server(), "boothost");
        lease.next_server = Some(Ipv4Addr::new(10, 0, 0, 9));
        assert_eq!(lease.boot_server(), "10.0.0.9");
        lease.next_server = None;
        lease.server_name.clear();
        assert_eq!(lease.boot_server(), "10.0.0.1");
        lease.tftp_servers.push(Ipv4Addr::new(10, 0, 0, 7)).unwrap();
        assert_eq!(lease.boot_server(), "10.0.0.7");
        assert_eq!(lease.boot_file, "pxelinux.0");
    }

    #[test]
    fn hostile_text_and_values_are_dropped_with_a_word() {
        let lease = lease_of(
            b"\x0f\x0alab\nmore.x\x0c\x06a;b;c;\x1a\x02\x01\x00\x01\x04\xff\x00\xff\x00\x11\x03/a\x07",
        );
        assert_eq!(lease.domain, "");
        assert_eq!(lease.hostname, "");
        assert_eq!(lease.mtu, None);
        assert_eq!(lease.prefix, None);
        assert_eq!(lease.root_path, "");
        assert_eq!(lease.ignored.len(), 5, "{:?}", lease.ignored);
        assert!(lease.ignored.iter().any(|line| line.contains("256 is below 576")));
    }

    #[test]
    fn a_qualified_host_name_gives_the_domain_too() {
        let lease = lease_of(b"\x0c\x0apc1.lab.x.");
        assert_eq!((lease.hostname.as_str(), lease.domain.as_str()), ("pc1", "lab.x"));
        let lease = lease_of(b"\x0c\x07pc1.lab\x0f\x05other");
        assert_eq!((lease.hostname.as_str(), lease.domain.as_str()), ("pc1", "other"));
    }

    #[test]
    fn option_33_has_no_masks() {
        let lease = lease_of(&[33, 16, 10, 0, 0, 0, 10, 1, 0, 1, 192, 168, 3, 4, 10, 1, 0, 2]);
        assert_eq!(
            lease.routes,
            [
                route([10, 0, 0, 0], 8, Some([10, 1, 0, 1])),
                route([192, 168, 3, 4], 32, Some([10, 1, 0, 2]))
            ]
        );
        assert!(!lease.classless);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let lease = lease_of(&bytes);
            prop_assert!(lease.search.len() <= MAX_SEARCH);
            prop_assert!(lease.routes.len() <= MAX_ROUTES);
            for text in [&lease.domain, &lease.hostname, &lease.root_path, &lease.boot_file] {
                prop_assert!(!text.chars().any(char::is_control));
            }
            for at in 0..bytes.len() {
                let _ = parse_name(&bytes, at);
            }
        }

        #[test]
        fn prefixes_round_trip(prefix in 0u8..=32) {
            prop_assert_eq!(mask_prefix(prefix_mask(prefix)), Some(prefix));
        }
    }
}
