//! How the network comes up.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use core::str::FromStr;

use super::units::Seconds;

/// How the network comes up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPlan {
    /// Whether the boot fails without it. When not (`ip=` with a local root), it
    /// is brought up beside the other steps and nothing waits for it.
    pub required: bool,
    /// Which links may be used.
    pub links: LinkChoice,
    /// How addresses are found; the first link that satisfies it wins.
    pub addressing: Addressing,
    /// Names that links are given before anything else (`ifname=`).
    pub names: Vec<LinkName>,
    /// VLAN to put on top of the chosen link.
    pub vlan: Option<Vlan>,
    /// Host name from the line; wins over DHCP's.
    pub hostname: Option<String>,
    /// Name servers from the line; put before DHCP's.
    pub dns: Vec<Ipv4Addr>,
    /// NTP servers from the line.
    pub ntp: Vec<Ipv4Addr>,
    /// Routes from the line (`rd.route=`).
    pub routes: Vec<Route>,
    /// MTU from the line; wins over DHCP's.
    pub mtu: Option<u16>,
    /// Use DHCP's name servers (`rd.peerdns=0` says no).
    pub peer_dns: bool,
    /// The server that field 2 of `ip=` names; used where a source has none.
    pub boot_server: Option<Ipv4Addr>,
    /// How long to wait for a link to appear at all (drivers still loading).
    pub link_timeout: Seconds,
    /// How long to wait for a carrier once links exist.
    pub carrier_timeout: Seconds,
    /// How long one attempt at DHCP lasts before the console says so and it is
    /// tried again; the failure policy bounds the attempts.
    pub dhcp_timeout: Seconds,
}

/// Which links may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkChoice {
    /// Every wired link, raced; the first with an answer wins.
    Race,
    /// These devices, raced (`ethdevice=a,b`, `ip=…:eth0`); others are left alone.
    Named(Vec<String>),
    /// The link with this address (`BOOTIF=`); all of them, with a warning, when
    /// none has it.
    Mac(Mac),
}

/// A name for the link with this address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkName {
    /// The new name.
    pub name: String,
    /// The link's address.
    pub mac: Mac,
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `52-54-00-12-34-56`, as boot loaders write it in file names.
    #[must_use]
    pub fn dashed(self) -> String {
        self.text('-')
    }

    fn text(self, separator: char) -> String {
        let mut text = String::new();
        for byte in self.0 {
            if !text.is_empty() {
                text.push(separator);
            }
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        text
    }
}

/// `52:54:00:12:34:56`
impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(':'))
    }
}

/// Reads two hexadecimal digits an octet, with colons or dashes.
impl FromStr for Mac {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(())?;
            *byte = u8::from_str_radix(part, 16).map_err(drop)?;
        }
        if parts.next().is_none() { Ok(Self(bytes)) } else { Err(()) }
    }
}

/// How addresses are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressing {
    /// DHCP (RFC 2131).
    Dhcp(DhcpRequest),
    /// Written on the line.
    Static(StaticAddress),
    /// The line says that there is none to set (`ip=off` with a network root):
    /// use what is already configured, by the kernel for example.
    Existing,
}

/// What a DHCP client says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DhcpRequest {
    /// Ask for this address first (`ip=ADDR::::::dhcp`).
    pub requested: Option<Ipv4Addr>,
    /// Option 61 as `(type, bytes)`; by default the hardware address is used.
    pub client_id: Option<(u8, Vec<u8>)>,
    /// Option 60.
    pub vendor_class: Option<String>,
}

/// An address written on the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticAddress {
    /// Our address.
    pub address: Ipv4Addr,
    /// Prefix length, 0 to 32; guessed from the address's class when the line has none.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
}

/// One route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destination network.
    pub destination: Ipv4Addr,
    /// Its prefix length, 0 to 32.
    pub prefix: u8,
    /// Next hop; `None` for on-link.
    pub gateway: Option<Ipv4Addr>,
}

/// A VLAN on top of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vlan {
    /// Name of the new device.
    pub name: String,
    /// The device it sits on.
    pub link: String,
    /// 1 to 4094.
    pub id: u16,
}
