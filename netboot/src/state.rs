//! The network's files for the live system, as text.
//!
//! Rendering only; `init` writes them. `/run/net-<device>.conf` has the format of klibc's
//! ipconfig, which casper, live-boot, LTSP and cloud-init read: shell assignments in a fixed
//! order, values in single quotes, `'` and `!` escaped as ipconfig does. Control characters
//! were removed from values earlier.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{Display, Write};
use core::net::Ipv4Addr;

use cmdline::json::Json;

use crate::config::Protocol;
use crate::dhcp::lease::prefix_mask;
use crate::network::NetworkUp;
use cmdline::plan::Mac;

/// Appends `KEY='value'` and a newline.
fn assign(text: &mut String, key: &str, value: &dyn Display) {
    let value = format!("{value}");
    text.push_str(key);
    text.push_str("='");
    for character in value.chars() {
        if matches!(character, '\'' | '!') {
            text.push_str("'\\");
            text.push(character);
            text.push('\'');
        } else if !character.is_control() {
            text.push(character);
        }
    }
    text.push_str("'\n");
}

/// `/run/net-<device>.conf` in klibc's format.
///
/// Without option 121 there is one `IPV4GATEWAY`; with it there are `IPV4ROUTE<n>SUBNET` and
/// `IPV4ROUTE<n>GATEWAY` pairs, as in ipconfig since 2.0.13. An infinite lease has the time
/// 4294967295.
pub fn net_conf(up: &NetworkUp) -> String {
    let config = &up.config;
    let zero = Ipv4Addr::UNSPECIFIED;
    let proto = match config.protocol {
        Protocol::Dhcp => "dhcp",
        Protocol::Bootp => "bootp",
        Protocol::Static | Protocol::Existing => "none",
    };
    let mut text = String::new();
    assign(&mut text, "DEVICE", &up.device);
    assign(&mut text, "PROTO", &proto);
    assign(&mut text, "IPV4ADDR", &config.address);
    assign(&mut text, "IPV4BROADCAST", &config.broadcast.unwrap_or(config.address));
    assign(&mut text, "IPV4NETMASK", &prefix_mask(config.prefix));
    let classless = up.lease.as_ref().filter(|lease| lease.classless);
    match classless {
        Some(lease) => {
            for (at, route) in lease.routes.iter().enumerate() {
                let subnet = format!("{}/{}", route.destination, route.prefix);
                assign(&mut text, &format!("IPV4ROUTE{at}SUBNET"), &subnet);
                let gateway = route.gateway.unwrap_or(zero);
                assign(&mut text, &format!("IPV4ROUTE{at}GATEWAY"), &gateway);
            }
        }
        None => assign(&mut text, "IPV4GATEWAY", &config.gateway.unwrap_or(zero)),
    }
    for (at, key) in ["IPV4DNS0", "IPV4DNS1"].iter().enumerate() {
        assign(&mut text, key, &config.dns.get(at).copied().unwrap_or(zero));
    }
    assign(&mut text, "HOSTNAME", &config.hostname);
    assign(&mut text, "DNSDOMAIN", &config.domain);
    assign(&mut text, "NISDOMAIN", &config.nis_domain);
    // ipconfig has addresses only: siaddr, or else the DHCP server.
    let server = up
        .known_boot_server
        .or_else(|| up.lease.as_ref().map(|lease| lease.next_server.unwrap_or(lease.server)));
    assign(&mut text, "ROOTSERVER", &server.unwrap_or(zero));
    assign(&mut text, "ROOTPATH", &up.root_path());
    assign(&mut text, "filename", &up.lease.as_ref().map_or("", |lease| &lease.boot_file));
    assign(&mut text, "UPTIME", &up.since.seconds());
    let seconds = match &up.lease {
        Some(lease) => lease.lease_seconds.unwrap_or(u32::MAX),
        None => 0,
    };
    assign(&mut text, "DHCPLEASETIME", &seconds);
    assign(&mut text, "DOMAINSEARCH", &config.search.join(" "));
    text
}

/// `/etc/resolv.conf`; empty without name servers and domains.
///
/// The search list is option 119 when there is one, else the domain.
pub fn resolv_conf(up: &NetworkUp) -> String {
    let config = &up.config;
    let mut text = String::new();
    if !config.search.is_empty() {
        let _ = writeln!(text, "search {}", config.search.join(" "));
    } else if !config.domain.is_empty() {
        let _ = writeln!(text, "search {}", config.domain);
    }
    for server in &config.dns {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

/// `/etc/hosts` for a host with this name; the name may be empty.
pub fn hosts(hostname: &str, domain: &str) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n");
    if !hostname.is_empty() {
        // Debian's address for the host's own name: it never changes.
        text.push_str("127.0.1.1\t");
        if !domain.is_empty() {
            let _ = write!(text, "{hostname}.{domain} ");
        }
        text.push_str(hostname);
        text.push('\n');
    }
    text.push_str("::1\tlocalhost ip6-localhost ip6-loopback\n");
    text
}

/// The network as one JSON object, for `/run/bellwether`.
pub fn json(up: &NetworkUp) -> String {
    let config = &up.config;
    let mut out = Json::new();
    let text = |value: &dyn Display| format!("{value}");
    let addresses = |list: &[Ipv4Addr]| list.iter().map(|a| text(a)).collect::<Vec<_>>();
    out.object().key("device").string(&up.device);
    if let Some(mac) = up.mac {
        out.key("mac").string(&text(&Mac(mac)));
    }
    out.key("protocol").string(match config.protocol {
        Protocol::Dhcp => "dhcp",
        Protocol::Bootp => "bootp",
        Protocol::Static => "static",
        Protocol::Existing => "existing",
    });
    out.key("address").string(&text(&config.address));
    out.key("prefix").number(u64::from(config.prefix));
    if let Some(gateway) = config.gateway {
        out.key("gateway").string(&text(&gateway));
    }
    if let Some(mtu) = config.mtu {
        out.key("mtu").number(u64::from(mtu));
    }
    out.key("dns").strings(&addresses(&config.dns));
    out.key("domain").string(&config.domain);
    out.key("search").strings(&config.search);
    out.key("hostname").string(&config.hostname);
    out.key("ntp").strings(&addresses(&config.ntp));
    out.key("routes").array();
    for route in &config.routes {
        let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        out.string(&format!("{}/{}{via}", route.destination, route.prefix));
    }
    out.end_array();
    out.key("boot_server").maybe(up.boot_server().as_deref());
    if let Some(lease) = &up.lease {
        out.key("dhcp_server").string(&text(&lease.server));
        out.key("root_path").string(&lease.root_path);
        out.key("boot_file").string(&lease.boot_file);
        if let Some(seconds) = lease.lease_seconds {
            out.key("lease_seconds").number(u64::from(seconds));
        }
    }
    out.key("since_ms").number(up.since.millis());
    out.key("notes").strings(&config.notes).end_object();
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::up;
    use proptest::prelude::*;

    /// Parses `KEY='value'` lines as a shell would.
    fn parse_conf(text: &str) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for line in text.lines() {
            let Some((key, raw)) = line.split_once('=') else { continue };
            if key.is_empty()
                || !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            {
                continue;
            }
            let mut value = String::new();
            let mut quote = None;
            let mut characters = raw.chars();
            while let Some(character) = characters.next() {
                match (quote, character) {
                    (None, '\'' | '"') => quote = Some(character),
                    (Some(open), close) if open == close => quote = None,
                    (None | Some('"'), '\\') => value.extend(characters.next()),
                    (None, ' ' | '\t' | ';') => break,
                    (_, other) => value.push(other),
                }
            }
            pairs.push((String::from(key), value));
        }
        pairs
    }

    #[test]
    fn klibcs_file() {
        let up = up(b"\x01\x04\xff\xff\xff\x00\x03\x04\x0a\x00\x00\x01\x06\x04\x0a\x00\x00\x02\
              \x0c\x03pc1\x0f\x03lab\x11\x0a/srv/it's!\x33\x04\x00\x00\x0e\x10");
        assert_eq!(
            net_conf(&up),
            "DEVICE='eth0'\nPROTO='dhcp'\nIPV4ADDR='10.0.0.5'\nIPV4BROADCAST='10.0.0.255'\n\
             IPV4NETMASK='255.255.255.0'\nIPV4GATEWAY='10.0.0.1'\nIPV4DNS0='10.0.0.2'\n\
             IPV4DNS1='0.0.0.0'\nHOSTNAME='pc1'\nDNSDOMAIN='lab'\nNISDOMAIN=''\n\
             ROOTSERVER='10.0.0.1'\nROOTPATH='/srv/it'\\''s'\\!''\nfilename=''\nUPTIME='12'\n\
             DHCPLEASETIME='3600'\nDOMAINSEARCH=''\n"
        );
        let pairs = parse_conf(&net_conf(&up));
        assert!(pairs.contains(&("ROOTPATH".into(), "/srv/it's!".into())));
        assert_eq!(pairs.len(), 17);
    }

    #[test]
    fn classless_routes_take_the_gateways_place() {
        let text = net_conf(&up(b"\x79\x0d\x00\x0a\x00\x00\x01\x18\xc0\xa8\x07\x0a\x00\x00\x09"));
        assert!(text.contains(
            "IPV4ROUTE0SUBNET='0.0.0.0/0'\nIPV4ROUTE0GATEWAY='10.0.0.1'\n\
             IPV4ROUTE1SUBNET='192.168.7.0/24'\nIPV4ROUTE1GATEWAY='10.0.0.9'\n"
        ));
        assert!(!text.contains("IPV4GATEWAY"));
    }

    #[test]
    fn resolv_conf_prefers_the_search_list() {
        let mut up = up(b"\x06\x08\x0a\x00\x00\x02\x0a\x00\x00\x03\x0f\x03lab");
        assert_eq!(resolv_conf(&up), "search lab\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n");
        up.config.search = vec!["a.lab".into(), "lab".into()];
        assert!(resolv_conf(&up).starts_with("search a.lab lab\n"));
        up.config.search.clear();
        up.config.domain.clear();
        up.config.dns.clear();
        assert_eq!(resolv_conf(&up), "");
    }

    #[test]
    fn hosts_file() {
        assert!(hosts("pc1", "lab").contains("127.0.1.1\tpc1.lab pc1\n"));
        assert!(!hosts("", "lab").contains("127.0.1.1"));
    }

    #[test]
    fn json_is_json() {
        let text = json(&up(b"\x01\x04\xff\xff\xff\x00\x03\x04\x0a\x00\x00\x01\x11\x05/a\"b\\"));
        assert!(text.starts_with(
            "{\"device\":\"eth0\",\"mac\":\"52:54:00:01:02:03\",\"protocol\":\"dhcp\",\
             \"address\":\"10.0.0.5\",\"prefix\":24,\"gateway\":\"10.0.0.1\",\"dns\":[],"
        ));
        assert!(text.contains("\"routes\":[\"0.0.0.0/0 via 10.0.0.1\"]"));
        assert!(text.contains("\"root_path\":\"/a\\\"b\\\\\""));
        assert!(text.ends_with("\"notes\":[]}"));
    }

    proptest! {
        #[test]
        fn what_is_assigned_is_read_back(value in "[^\\p{Cc}]{0,40}") {
            let mut text = String::new();
            assign(&mut text, "KEY", &value);
            prop_assert_eq!(parse_conf(&text), vec![("KEY".to_string(), value)]);
        }
    }
}
