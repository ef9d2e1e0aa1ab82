//! Puts the words about the network together into a [`NetworkPlan`].
//!
//! Which device: `ip=`'s sixth field, then `BOOTIF=`/`hwaddr=` (initramfs-tools'
//! order); without either every wired link is raced. Waiting for a carrier costs
//! nothing when links race, so the limits are the longest that any peer uses: a
//! switch that runs spanning tree takes 50 s to forward.

use alloc::string::ToString;
use alloc::vec::Vec;

use crate::bootif;
use crate::ip::{self, Form, Ip, Method};
use crate::plan::{Addressing, DhcpRequest, LinkChoice, NetworkPlan, Seconds, StaticAddress, Vlan};
use crate::table::{Draft, words};
use crate::value;

words! { NET, NET_DOCS:
    "ip" OptText Keep "How the network comes up: the kernel's client:server:gateway:mask:host:device:method:dns0:dns1:ntp0, or dhcp, or off.";
    "nfsaddrs" Text Keep "The old name of ip=.";
    "BOOTIF" OptText Keep "Address of the link that the firmware booted from, with or without the type byte, with dashes or colons.";
    "hwaddr" Text Keep "The same, as Ubuntu's initramfs-tools writes it.";
    "vlan" Text Keep "NAME:LINK puts a VLAN on a link; its number is the digits at the end of the name.";
    "ip6" OptText Idle "IPv6 is left to the live system.";
    "carrier_timeout" Number Soft "Seconds to wait for a carrier.";
    "dhcpclass" Text Keep "Vendor class that DHCP is asked with (option 60).";
}

/// What a dialect adds to the common words.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// Devices from words of its own.
    pub devices: Vec<alloc::string::String>,
    /// The boot fails without a network.
    pub required: bool,
}

/// Reads `ip=` (or its old name). `None` when it is absent or makes no sense.
pub(crate) fn read_ip(d: &mut Draft<'_>, form: Form) -> Option<Ip> {
    let (name, text) = d.get_any(&["ip", "nfsaddrs"])?;
    checked(d, name, text, ip::parse(text, form))
}

/// Turns remarks into warnings.
pub(crate) fn checked(d: &mut Draft<'_>, name: &str, text: &str, ip: Option<Ip>) -> Option<Ip> {
    let word = Draft::word(name, text);
    match ip {
        Some(ip) => {
            for remark in &ip.remarks {
                d.warn(&word, &(remark, ""));
            }
            Some(ip)
        }
        None => {
            d.warn(
                &word,
                &(
                    "makes no sense as an address setting; DHCP is used",
                    "ip=dhcp, or ip=ADDRESS::GATEWAY:NETMASK::DEVICE:off",
                ),
            );
            None
        }
    }
}

/// The plan from the common words, given what was read from `ip=`.
pub(crate) fn plan(d: &mut Draft<'_>, ip: Option<Ip>, extra: Extra) -> NetworkPlan {
    let ip = ip.unwrap_or_default();
    let boot_mac = d.get_any(&["BOOTIF", "hwaddr"]).and_then(|(name, text)| {
        let mac = bootif::parse(text);
        if mac.is_none() {
            d.warn_word(
                name,
                text,
                &("is no Ethernet address; every link is tried", "BOOTIF=01-52-54-00-12-34-56"),
            );
        }
        mac
    });
    let vlan = vlan(d);
    // Ubuntu's configuration of MAAS names the link of BOOTIF= so.
    let device = ip.device.as_ref().filter(|device| *device != "BOOTIF");
    let links = if !extra.devices.is_empty() {
        LinkChoice::Named(extra.devices)
    } else if let Some(device) = device {
        LinkChoice::Named(alloc::vec![device.clone()])
    } else if let Some(mac) = boot_mac {
        LinkChoice::Mac(mac)
    } else {
        LinkChoice::Race
    };
    let vendor_class = d.text("dhcpclass");
    let dhcp = |requested| {
        Addressing::Dhcp(DhcpRequest {
            requested,
            client_id: ip.client_id.clone(),
            vendor_class: vendor_class.clone(),
        })
    };
    let addressing = match (&ip.method, ip.client) {
        (Method::Dhcp, requested) => dhcp(requested),
        (Method::Unsaid | Method::Off, Some(address)) => Addressing::Static(StaticAddress {
            address,
            prefix: ip.prefix.unwrap_or_else(|| value::class_prefix(address)),
            gateway: ip.gateway,
        }),
        (Method::Off, None) => Addressing::Existing,
        (Method::Unsaid, None) => dhcp(None),
    };
    // A link under our own VLAN is the one to wait for.
    let links = match (&vlan, &links) {
        (Some(vlan), LinkChoice::Race) => LinkChoice::Named(alloc::vec![vlan.link.clone()]),
        (Some(vlan), LinkChoice::Named(names)) if names.contains(&vlan.name) => {
            LinkChoice::Named(alloc::vec![vlan.link.clone()])
        }
        _ => links,
    };
    NetworkPlan {
        required: extra.required,
        links,
        addressing,
        names: Vec::new(),
        vlan,
        hostname: ip.hostname,
        dns: ip.dns,
        ntp: ip.ntp,
        routes: Vec::new(),
        mtu: ip.mtu,
        peer_dns: true,
        boot_server: ip.server,
        link_timeout: Seconds(60),
        carrier_timeout: Seconds(d.number("carrier_timeout").unwrap_or(120)),
        dhcp_timeout: Seconds(60),
    }
}

/// `vlan=NAME:LINK` of Ubuntu and dracut.
fn vlan(d: &mut Draft<'_>) -> Option<Vlan> {
    let text = d.get("vlan")?;
    let parsed = text.split_once(':').and_then(|(name, link)| {
        let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit() || c == '.');
        let digits = name.rsplit_once('.').map_or(digits, |(_, digits)| digits);
        let id = digits.parse::<u16>().ok().filter(|id| (1..=4094).contains(id))?;
        (ip::is_device_name(name) && ip::is_device_name(link)).then(|| Vlan {
            name: name.to_string(),
            link: link.to_string(),
            id,
        })
    });
    if parsed.is_none() {
        d.warn_word(
            "vlan",
            text,
            &(
                "is not NAME:LINK with a number from 1 to 4094 at the end of the name",
                "vlan=eth0.5:eth0",
            ),
        );
    }
    parsed
}
