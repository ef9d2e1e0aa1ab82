//! A boot link for `bellwether explain` and for tests.

use alloc::string::String;
use core::net::Ipv4Addr;

use cmdline::plan::{Addressing, NetworkPlan, StaticAddress};
use netboot::config::Config;
use netboot::network::NetworkUp;

/// `eth0` as the line sets it up. Where DHCP answers, it gets an address for examples
/// (RFC 5737) and the host name `host`.
#[must_use]
pub fn link(network: &NetworkPlan) -> NetworkUp {
    let server = Ipv4Addr::new(192, 0, 2, 1);
    let leased =
        StaticAddress { address: Ipv4Addr::new(192, 0, 2, 10), prefix: 24, gateway: Some(server) };
    let mut config = match &network.addressing {
        Addressing::Static(address) => Config::from_static(address, network),
        _ => Config::from_static(&leased, network),
    };
    if matches!(network.addressing, Addressing::Dhcp(_)) {
        config.dns.push(server);
        if config.hostname.is_empty() {
            config.hostname = String::from("host");
        }
    }
    NetworkUp {
        device: String::from("eth0"),
        index: 2,
        mac: Some([0x52, 0x54, 0, 0, 0, 1]),
        config,
        lease: None,
        known_boot_server: network.boot_server,
        since: Default::default(),
    }
}
