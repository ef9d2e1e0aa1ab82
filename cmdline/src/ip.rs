//! `ip=` in the forms of every dialect.
//!
//! The kernel's form (`Documentation/admin-guide/nfs/nfsroot.rst`, also what klibc,
//! casper, archiso and pxelinux's `SYSAPPEND 1` write):
//! `client:server:gateway:mask:host:device:method:dns0:dns1:ntp0`. dracut keeps the
//! order and adds `device:method[:mtu[:mac]]` and what may follow the method.
//! live-boot means something else by it ([`live_boot`]); Slax's five fields end in
//! a port ([`slax`]).
//!
//! IPv6 is recognised and named, not used: netboot speaks IPv4.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use crate::bootif;
use crate::plan::Mac;
use crate::value;

/// What is said of any other text in the place of an address.
pub(crate) const NO_ADDRESS: &str = "a field that should be an address is none and was left out";

/// Which of the forms that share the kernel's field order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The kernel's and klibc's.
    Kernel,
    /// dracut's.
    Dracut,
}

/// How the address is found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Method {
    /// Nothing said: DHCP unless an address is given.
    #[default]
    Unsaid,
    /// DHCP, asked for by name.
    Dhcp,
    /// No DHCP: the given address, or what is configured already.
    Off,
}

/// One `ip=` word taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ip {
    /// Our address.
    pub client: Option<Ipv4Addr>,
    /// Boot server.
    pub server: Option<Ipv4Addr>,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Prefix length.
    pub prefix: Option<u8>,
    /// Host name.
    pub hostname: Option<String>,
    /// Device.
    pub device: Option<String>,
    /// How the address is found.
    pub method: Method,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// NTP servers.
    pub ntp: Vec<Ipv4Addr>,
    /// DHCP option 61 as `(type, bytes)`.
    pub client_id: Option<(u8, Vec<u8>)>,
    /// MTU.
    pub mtu: Option<u16>,
    /// Address that the link shall take; recognised, not used.
    pub mac: Option<Mac>,
    /// Slax's HTTP port.
    pub port: Option<u16>,
    /// What was not understood or is done otherwise, for a warning each.
    pub remarks: Vec<&'static str>,
}

impl Ip {
    /// Nothing said yet.
    #[inline(never)]
    fn new() -> Self {
        Ip::default()
    }

    fn remark(&mut self, text: &'static str) {
        if !self.remarks.contains(&text) {
            self.remarks.push(text);
        }
    }

    fn address(&mut self, text: &str) -> Option<Ipv4Addr> {
        if text.is_empty() || text == "0.0.0.0" {
            return None;
        }
        let address = value::address(text);
        if address.is_none() {
            self.remark(if text.contains(':') { value::IPV6 } else { NO_ADDRESS });
        }
        address
    }

    fn device(&mut self, text: &str) {
        if is_device_name(text) {
            self.device = Some(text.to_string());
        } else if !text.is_empty() {
            self.remark("the device field is no device name and was left out");
        }
    }

    fn hostname(&mut self, text: &str) {
        if value::is_host(text) && !text.starts_with('[') {
            self.hostname = Some(text.to_string());
        } else if !text.is_empty() {
            self.remark("the host name field holds characters that no host name has");
        }
    }

    fn mask(&mut self, text: &str) {
        if !text.is_empty() && text != "0.0.0.0" {
            self.prefix = value::prefix(text).filter(|p| *p > 0);
            // Of an IPv6 address enough is said.
            if self.prefix.is_none() && !self.remarks.contains(&value::IPV6) {
                self.remark("the netmask is none; the one of the address's class is used");
            }
        }
    }

    /// Returns whether the word is a method.
    fn method(&mut self, text: &str) -> bool {
        let (word, id) = text.split_once(',').map_or((text, None), |(w, id)| (w, Some(id)));
        match word {
            "" => {}
            "dhcp" | "on" | "any" | "dhcp4" | "single-dhcp" => {
                // `on` and `any` mean "if the address is not given".
                self.method =
                    if matches!(word, "on" | "any") { Method::Unsaid } else { Method::Dhcp };
            }
            "off" | "none" | "static" => self.method = Method::Off,
            "bootp" | "rarp" | "both" => {
                self.method = Method::Dhcp;
                self.remark("BOOTP and RARP are not spoken; DHCP is asked instead");
            }
            "dhcp6" | "auto6" | "either6" | "link6" | "link-local" => {
                self.method = Method::Dhcp;
                self.remark(
                    "IPv6 set-up is left to the live system; DHCP over IPv4 is asked instead",
                );
            }
            "ibft" => {
                self.method = Method::Dhcp;
                self.remark("the iBFT table is not read; DHCP is asked instead");
            }
            _ => return false,
        }
        match id {
            // dracut lets several methods follow each other: `dhcp,dhcp6`.
            Some(id) if is_method(id) => {
                self.remark("only the first method is used; IPv6 is left to the live system");
            }
            Some(id) => self.client_id(id),
            None => {}
        }
        true
    }

    /// `type,value` of `ip=dhcp,type,value`; the kernel sends the value's characters.
    fn client_id(&mut self, id: &str) {
        let parsed = id.split_once(',').and_then(|(kind, id)| {
            let kind = match kind.strip_prefix("0x") {
                Some(hex) => u8::from_str_radix(hex, 16).ok()?,
                None => kind.parse().ok()?,
            };
            (!id.is_empty() && id.len() <= 251).then(|| (kind, id.as_bytes().to_vec()))
        });
        if parsed.is_none() {
            self.remark(
                "the client identifier is not `dhcp,TYPE,VALUE`; the hardware address is used",
            );
        }
        self.client_id = parsed;
    }
}

/// Whether the kernel would take this as an interface name (or as our own VLAN's).
#[must_use]
pub fn is_device_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() < 16
        && text != "."
        && text != ".."
        && !text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':'))
}

fn is_method(text: &str) -> bool {
    Ip::new().method(text)
}

/// The next field and the rest: colons separate, brackets protect IPv6 addresses.
fn fields(value: &str) -> Vec<&str> {
    let mut result = Vec::new();
    let mut depth = false;
    let mut start = 0;
    for (at, c) in value.char_indices() {
        match c {
            '[' => depth = true,
            ']' => depth = false,
            ':' if !depth => {
                result.push(value.get(start..at).unwrap_or_default());
                start = at + 1;
            }
            _ => {}
        }
    }
    result.push(value.get(start..).unwrap_or_default());
    result
}

/// Reads the kernel's or dracut's form. Anything that is not understood is a remark
/// in the result; only a word of which nothing at all makes sense is `None`.
#[must_use]
pub fn parse(text: &str, form: Form) -> Option<Ip> {
    let mut ip = Ip::new();
    let all = fields(text);
    let field = |n: usize| all.get(n).copied().unwrap_or_default();
    if all.len() == 1 {
        let word = field(0);
        if word.is_empty() || ip.method(word) {
            return Some(ip);
        }
        if let Some(address) = value::address(word) {
            ip.client = Some(address);
            return Some(ip);
        }
        // No dialect's syntax, but its meaning is plain: `ip=eth0`.
        if is_device_name(word)
            && word.starts_with(|c: char| c.is_ascii_alphabetic())
            && word.ends_with(|c: char| c.is_ascii_digit())
        {
            ip.device(word);
            ip.remark("a device name alone; write ip=:::::DEVICE:dhcp");
            return Some(ip);
        }
        return None;
    }
    if form == Form::Dracut && is_device_method(&all) {
        ip.device(field(0));
        ip.method(field(1));
        ip.trailing(&all, 2);
        return Some(ip);
    }
    let before = ip.remarks.len();
    ip.client = ip.address(field(0));
    ip.server = ip.address(field(1));
    ip.gateway = ip.address(field(2));
    ip.mask(field(3));
    ip.hostname(field(4));
    ip.device(field(5));
    if !ip.method(field(6)) {
        ip.remark("the seventh field is no method (dhcp, off, …) and was left out");
    }
    match form {
        Form::Kernel => {
            for n in 7..9 {
                if let Some(dns) = ip.address(field(n)) {
                    ip.dns.push(dns);
                }
            }
            if let Some(ntp) = ip.address(field(9)) {
                ip.ntp.push(ntp);
            }
            if all.len() > 10 {
                ip.remark("there are more than ten fields; the rest was left out");
            }
        }
        Form::Dracut => ip.trailing(&all, 7),
    }
    let empty = ip.client.is_none()
        && ip.server.is_none()
        && ip.gateway.is_none()
        && ip.prefix.is_none()
        && ip.hostname.is_none()
        && ip.device.is_none()
        && ip.method == Method::Unsaid
        && ip.dns.is_empty();
    if empty && ip.remarks.len() > before {
        return None;
    }
    Some(ip)
}

/// dracut's `eth0:dhcp`: the first field is no address and the second is a method.
fn is_device_method(all: &[&str]) -> bool {
    let (Some(first), Some(second)) = (all.first(), all.get(1)) else { return false };
    !first.is_empty()
        && !first.starts_with('[')
        && value::address(first).is_none()
        && !second.is_empty()
        && is_method(second)
}

impl Ip {
    /// What dracut allows after the method: `MTU[:MAC]` or `DNS1[:DNS2]`.
    fn trailing(&mut self, all: &[&str], from: usize) {
        let first = all.get(from).copied().unwrap_or_default();
        if first.is_empty() && all.len() <= from + 1 {
            return;
        }
        if value::address(first).is_some() || first.starts_with('[') {
            for text in all.iter().skip(from).take(2) {
                if let Some(dns) = self.address(text) {
                    self.dns.push(dns);
                }
            }
            return;
        }
        if !first.is_empty() {
            self.mtu = first.parse().ok().filter(|mtu| *mtu >= 68);
            if self.mtu.is_none() {
                self.remark("the field after the method is neither an MTU nor a name server");
            }
        }
        let mut mac = String::new();
        for piece in all.iter().skip(from + 1) {
            if !mac.is_empty() {
                mac.push(':');
            }
            mac.push_str(piece);
        }
        if !mac.is_empty() {
            self.mac = bootif::parse(&mac);
            self.remark("the link's address is not changed before the root is up");
        }
    }
}

/// Slax's `client:server:gateway:mask[:port]`.
#[must_use]
pub fn slax(text: &str) -> Option<Ip> {
    let all = fields(text);
    let field = |n: usize| all.get(n).copied().unwrap_or_default();
    if all.len() < 4 {
        return parse(text, Form::Kernel);
    }
    let mut ip = Ip::new();
    ip.client = ip.address(field(0));
    ip.server = ip.address(field(1));
    ip.gateway = ip.address(field(2));
    ip.mask(field(3));
    if !field(4).is_empty() {
        ip.port = field(4).parse().ok().filter(|port| *port != 0);
        if ip.port.is_none() {
            // pxelinux writes four fields; people who know the kernel's form write more.
            let kernel = parse(text, Form::Kernel);
            return kernel.filter(|k| k.client.is_some() || k.method != Method::Unsaid);
        }
    }
    // Slax takes both as name servers as well.
    ip.dns.extend(ip.gateway);
    ip.dns.extend(ip.server.filter(|server| Some(*server) != ip.gateway));
    Some(ip)
}

/// One interface of live-boot's `ip=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveBootIp {
    /// Interface.
    pub device: String,
    /// Its address; without one it gets DHCP.
    pub address: Option<Ipv4Addr>,
    /// Prefix length.
    pub prefix: Option<u8>,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Name server.
    pub dns: Option<Ipv4Addr>,
}

/// live-boot's `device:address:mask:gateway:dns[,device:…]`, which describes the live
/// system's interfaces. `None` when the word is not in that form.
#[must_use]
pub fn live_boot(text: &str) -> Option<Vec<LiveBootIp>> {
    let mut result = Vec::new();
    for item in text.split(',') {
        let mut fields = item.split(':');
        let device = fields.next().filter(|d| is_device_name(d) && value::address(d).is_none())?;
        if is_method(device) {
            return None;
        }
        let mut next = || match fields.next() {
            None | Some("") => Some(None),
            Some(text) => value::address(text).map(Some),
        };
        let address = next()?;
        let mask = next()?;
        let gateway = next()?;
        let dns = next()?;
        if fields.next().is_some() {
            return None;
        }
        let prefix = mask.and_then(|m| value::prefix(&m.to_string()));
        result.push(LiveBootIp { device: device.to_string(), address, prefix, gateway, dns });
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(a: u8, b: u8, c: u8, d: u8) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::new(a, b, c, d))
    }

    #[test]
    fn the_kernels_ten_fields() {
        let ip = parse(
            "10.0.0.9:10.0.0.1:10.0.0.254:255.255.255.0:box.lan:eth1:off:10.0.0.53:10.0.0.54:10.0.0.123",
            Form::Kernel,
        )
        .unwrap();
        assert_eq!(
            (ip.client, ip.server, ip.gateway),
            (v4(10, 0, 0, 9), v4(10, 0, 0, 1), v4(10, 0, 0, 254))
        );
        assert_eq!(
            (ip.prefix, ip.hostname.as_deref(), ip.device.as_deref()),
            (Some(24), Some("box.lan"), Some("eth1"))
        );
        assert_eq!((ip.method, ip.dns.len(), ip.ntp.len()), (Method::Off, 2, 1));
        assert!(ip.remarks.is_empty());
    }

    #[test]
    fn pxelinux_and_ipxe() {
        let ip =
            parse("192.168.7.20:192.168.7.1:192.168.7.254:255.255.255.0", Form::Kernel).unwrap();
        assert_eq!(
            (ip.client, ip.server, ip.prefix),
            (v4(192, 168, 7, 20), v4(192, 168, 7, 1), Some(24))
        );
        let ip = parse("192.168.7.20::192.168.7.254:255.255.255.0", Form::Kernel).unwrap();
        assert_eq!((ip.client, ip.server), (v4(192, 168, 7, 20), None));
    }

    #[test]
    fn lone_words() {
        for (word, method) in [
            ("dhcp", Method::Dhcp),
            ("on", Method::Unsaid),
            ("any", Method::Unsaid),
            ("off", Method::Off),
            ("none", Method::Off),
            ("", Method::Unsaid),
        ] {
            assert_eq!(parse(word, Form::Kernel).unwrap().method, method, "{word}");
        }
        assert_eq!(parse("10.1.2.3", Form::Kernel).unwrap().client, v4(10, 1, 2, 3));
        assert_eq!(parse("bootp", Form::Kernel).unwrap().remarks.len(), 1);
        assert_eq!(parse("eth0", Form::Kernel).unwrap().device.as_deref(), Some("eth0"));
        assert_eq!(parse("dchp", Form::Kernel), None);
    }

    #[test]
    fn client_identifiers() {
        let ip = parse("dhcp,255,abc", Form::Kernel).unwrap();
        assert_eq!(ip.client_id, Some((255, b"abc".to_vec())));
        let ip = parse(":::::eth0:dhcp,0x01,x", Form::Kernel).unwrap();
        assert_eq!(ip.client_id, Some((1, b"x".to_vec())));
        assert_eq!(parse("dhcp,x", Form::Kernel).unwrap().remarks.len(), 1);
    }

    #[test]
    fn dracuts_forms() {
        let ip = parse("eth0:dhcp", Form::Dracut).unwrap();
        assert_eq!((ip.device.as_deref(), ip.method), (Some("eth0"), Method::Dhcp));
        let ip = parse("ens3:dhcp:1400:52:54:00:12:34:56", Form::Dracut).unwrap();
        assert_eq!((ip.mtu, ip.mac), (Some(1400), Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]))));
        let ip =
            parse("10.0.0.2::10.0.0.1:24:box:eth0:none:8.8.8.8:1.1.1.1", Form::Dracut).unwrap();
        assert_eq!((ip.prefix, ip.dns.len(), ip.method.clone()), (Some(24), 2, Method::Off));
        let ip = parse("10.0.0.2::10.0.0.1:255.255.255.0::eth0:off:9000", Form::Dracut).unwrap();
        assert_eq!(ip.mtu, Some(9000));
        let ip = parse("[2001:db8::2]::[2001:db8::1]:64:box:eth0:none", Form::Dracut).unwrap();
        assert_eq!((ip.client, ip.device.as_deref()), (None, Some("eth0")));
        assert!(!ip.remarks.is_empty());
        let ip = parse("auto6", Form::Dracut).unwrap();
        assert_eq!((ip.method, ip.remarks.len()), (Method::Dhcp, 1));
    }

    #[test]
    fn slaxs_and_live_boots() {
        let ip = slax("10.0.0.5:10.0.0.1:10.0.0.1:255.255.255.0:7530").unwrap();
        assert_eq!((ip.client, ip.port), (v4(10, 0, 0, 5), Some(7530)));
        assert_eq!(slax("dhcp").unwrap().method, Method::Dhcp);
        let all = live_boot("eth0:10.0.0.5:255.255.255.0:10.0.0.1,eth1:::").unwrap();
        assert_eq!((all.len(), all[0].prefix, all[1].address), (2, Some(24), None));
        assert_eq!(live_boot("10.0.0.5:10.0.0.1:10.0.0.1:255.255.255.0"), None);
        assert_eq!(live_boot("dhcp"), None);
        assert_eq!(live_boot(""), None);
    }

    #[test]
    fn bad_fields_are_remarks() {
        let ip = parse("10.0.0.300:x:y:255.0.255.0:a/b:eth 0:dchp", Form::Kernel);
        assert_eq!(ip, None);
        let ip = parse("10.0.0.3:x", Form::Kernel).unwrap();
        assert_eq!((ip.client, ip.remarks.len()), (v4(10, 0, 0, 3), 1));
    }

    proptest! {
        #[test]
        fn anything(text in "[0-9a-z:,.\\[\\]\\-/ ä]{0,80}") {
            for form in [Form::Kernel, Form::Dracut] {
                if let Some(ip) = parse(&text, form) {
                    prop_assert!(ip.remarks.len() < 16 && ip.dns.len() <= 2);
                    prop_assert!(ip.device.is_none_or(|d| d.len() < 16));
                }
            }
            let _ = (slax(&text), live_boot(&text));
        }

        #[test]
        fn full_lines_round_trip(client: [u8; 4], server: [u8; 4], prefix in 1u8..=32, dev in "[a-z]{3}[0-9]") {
            let client = Ipv4Addr::from(client); let server = Ipv4Addr::from(server);
            let mask = Ipv4Addr::from(u32::MAX << (32 - prefix));
            let ip = parse(&format!("{client}:{server}::{mask}::{dev}:dhcp"), Form::Kernel).unwrap();
            prop_assert_eq!(ip.client, Some(client).filter(|a| !a.is_unspecified()));
            prop_assert_eq!(ip.server, Some(server).filter(|a| !a.is_unspecified()));
            prop_assert_eq!((ip.prefix, ip.device.as_deref()), (Some(prefix), Some(dev.as_str())));
        }
    }
}
