//! The settings of an interface: from a lease, from the command line, or as the kernel has
//! them.
//!
//! [`Config`] is computed without system calls, with every rule in one place; [`Config::apply`]
//! then sets up the kernel. The rules that are not obvious: the command line overrides DHCP;
//! option 121 replaces options 3 and 33 (RFC 3442); a gateway outside the network is made
//! reachable by a host route; a missing netmask is guessed by address class.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use cmdline::plan::{NetworkPlan, Route, StaticAddress};
use sys::netlink;

use crate::dhcp::lease::{Lease, classful_prefix, is_host_name, prefix_mask, same_network};

/// The source of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// The command line.
    Static,
    /// DHCP.
    Dhcp,
    /// A BOOTP server answered.
    Bootp,
    /// The kernel or an earlier program set it up.
    Existing,
}

/// An interface's settings, and the system's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Their source.
    pub protocol: Protocol,
    /// Our address.
    pub address: Ipv4Addr,
    /// Its prefix length.
    pub prefix: u8,
    /// Broadcast address; none for prefixes 31 and 32.
    pub broadcast: Option<Ipv4Addr>,
    /// MTU in bytes, when the line or the DHCP server set one.
    pub mtu: Option<u16>,
    /// Routes in the order in which they are set: a route comes after those it needs.
    pub routes: Vec<Route>,
    /// The default gateway among them.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers, best first.
    pub dns: Vec<Ipv4Addr>,
    /// Our domain.
    pub domain: String,
    /// Search list; empty when the domain will do.
    pub search: Vec<String>,
    /// Host name; empty when neither the line nor the DHCP server gave one.
    pub hostname: String,
    /// NIS domain; may be empty.
    pub nis_domain: String,
    /// NTP servers.
    pub ntp: Vec<Ipv4Addr>,
    /// Guesses and omissions, as text.
    pub notes: Vec<String>,
}

/// A lease of fewer seconds may end while the boot goes on.
const SHORT_LEASE: u32 = 120;

impl Config {
    fn new(protocol: Protocol, address: Ipv4Addr, prefix: u8) -> Config {
        Config {
            protocol,
            address,
            prefix,
            broadcast: broadcast_of(address, prefix),
            mtu: None,
            routes: Vec::new(),
            gateway: None,
            dns: Vec::new(),
            domain: String::new(),
            search: Vec::new(),
            hostname: String::new(),
            nis_domain: String::new(),
            ntp: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// From a lease, with the additions and overrides of the line.
    pub fn from_lease(lease: &Lease, plan: &NetworkPlan) -> Config {
        let prefix = lease.prefix.unwrap_or_else(|| classful_prefix(lease.address));
        let protocol = if lease.bootp { Protocol::Bootp } else { Protocol::Dhcp };
        let mut config = Config::new(protocol, lease.address, prefix);
        config.notes.clone_from(&lease.ignored);
        if lease.prefix.is_none() {
            config.notes.push(format!("no netmask given, guessed /{prefix} by address class"));
        }
        if let Some(seconds) = lease.lease_seconds.filter(|seconds| *seconds < SHORT_LEASE) {
            config.notes.push(format!(
                "the lease lasts {seconds} s and the boot does not renew it; let the DHCP server give {SHORT_LEASE} s or more"
            ));
        }
        if prefix < 31 {
            config.broadcast = lease.broadcast.or(config.broadcast);
        }
        config.mtu = plan.mtu.or(lease.mtu);
        if plan.peer_dns {
            config.dns = lease.dns.to_vec();
        }
        config.domain.clone_from(&lease.domain);
        config.search.clone_from(&lease.search);
        config.hostname.clone_from(&lease.hostname);
        config.nis_domain.clone_from(&lease.nis_domain);
        config.ntp = lease.ntp.to_vec();
        let mut routes = lease.routes.clone();
        if !lease.classless
            && let Some(router) = lease.routers.first()
        {
            routes.push(default_route(*router));
        }
        config.finish(plan, routes);
        config
    }

    /// From a static address of the line.
    pub fn from_static(address: &StaticAddress, plan: &NetworkPlan) -> Config {
        let mut config = Config::new(Protocol::Static, address.address, address.prefix.min(32));
        config.mtu = plan.mtu;
        config.finish(plan, address.gateway.map(default_route).into_iter().collect());
        config
    }

    /// From the kernel's present settings: only the line's additions are set.
    pub fn from_existing(
        address: &netlink::Address,
        routes: &[netlink::RouteEntry],
        pnp: &Pnp,
        plan: &NetworkPlan,
    ) -> Config {
        let mut config = Config::new(Protocol::Existing, address.address, address.prefix);
        config.broadcast = address.broadcast.or(config.broadcast);
        config.mtu = plan.mtu;
        if plan.peer_dns {
            config.dns.clone_from(&pnp.dns);
        }
        config.domain.clone_from(&pnp.domain);
        config.finish(plan, Vec::new());
        let default = routes.iter().find(|route| route.index == address.index && route.prefix == 0);
        config.gateway = config.gateway.or(default.and_then(|route| route.gateway));
        config
    }

    /// Adds the line's settings and sorts the routes.
    fn finish(&mut self, plan: &NetworkPlan, mut routes: Vec<Route>) {
        for server in plan.dns.iter().rev() {
            self.dns.retain(|known| known != server);
            self.dns.insert(0, *server);
        }
        for server in &plan.ntp {
            if !self.ntp.contains(server) {
                self.ntp.push(*server);
            }
        }
        if let Some(hostname) = &plan.hostname {
            let (host, domain) = hostname.split_once('.').unwrap_or((hostname, ""));
            if is_host_name(host) {
                self.hostname = String::from(host);
                if self.domain.is_empty() && is_host_name(domain) {
                    self.domain = String::from(domain);
                }
            } else {
                self.notes.push(format!("\"{hostname}\" is not a host name, left out"));
            }
        }
        // The line's own routes replace DHCP's to the same place.
        routes.retain(|route| {
            !plan
                .routes
                .iter()
                .any(|own| (own.destination, own.prefix) == (route.destination, route.prefix))
        });
        routes.extend_from_slice(&plan.routes);
        self.routes = order_routes(self.address, self.prefix, routes);
        self.gateway = self
            .routes
            .iter()
            .rev()
            .find(|route| route.prefix == 0)
            .and_then(|route| route.gateway);
    }

    /// Sets up the kernel. Returns failures that do not stop the boot.
    ///
    /// # Errors
    /// The request that failed, when the link cannot be brought up or the address cannot be
    /// set.
    pub fn apply(
        &self,
        route: &mut netlink::Route,
        index: u32,
    ) -> Result<Vec<String>, netlink::Error> {
        let mut notes = Vec::new();
        if let Some(mtu) = self.mtu
            && let Err(error) = route.set_mtu(index, u32::from(mtu))
        {
            notes.push(format!("{}", &error));
        }
        if self.protocol != Protocol::Existing {
            route.set_up(index, true)?;
            route.flush_addresses(index)?;
            route.add_address(index, self.address, self.prefix, self.broadcast)?;
        }
        for entry in &self.routes {
            let result = route.add_route(&netlink::RouteEntry {
                destination: entry.destination,
                prefix: entry.prefix,
                gateway: entry.gateway,
                index,
                metric: 0,
            });
            if let Err(error) = result {
                notes.push(format!("{}", &error));
            }
        }
        Ok(notes)
    }
}

fn default_route(gateway: Ipv4Addr) -> Route {
    Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway: Some(gateway) }
}

fn broadcast_of(address: Ipv4Addr, prefix: u8) -> Option<Ipv4Addr> {
    (prefix < 31).then(|| Ipv4Addr::from_bits(address.to_bits() | !prefix_mask(prefix).to_bits()))
}

/// On-link routes first, then routes by a gateway, with a host route to each gateway outside of
/// all on-link networks, the default route last.
fn order_routes(address: Ipv4Addr, prefix: u8, routes: Vec<Route>) -> Vec<Route> {
    let mut ordered: Vec<Route> = Vec::new();
    let push = |route: Route, ordered: &mut Vec<Route>| {
        let same = |known: &&mut Route| {
            (known.destination, known.prefix) == (route.destination, route.prefix)
        };
        if ordered.iter_mut().find(same).is_none() {
            ordered.push(route);
        }
    };
    let (via, direct): (Vec<Route>, Vec<Route>) =
        routes.into_iter().partition(|route| route.gateway.is_some());
    for mut route in direct {
        route.destination = network_of(route);
        // The kernel adds the route to our own network with the address.
        if (route.destination, route.prefix) != (network(address, prefix), prefix) {
            push(route, &mut ordered);
        }
    }
    // Longest prefix first; equal ones in the server's order.
    let by_prefix = (0..=32)
        .rev()
        .flat_map(|prefix| via.iter().copied().filter(move |route| route.prefix == prefix));
    for mut route in by_prefix {
        route.destination = network_of(route);
        let Some(gateway) = route.gateway else { continue };
        if gateway == address {
            // Obsolete for "everything is on this link" (proxy ARP).
            push(Route { gateway: None, ..route }, &mut ordered);
            continue;
        }
        let direct = |known: &Route| {
            known.gateway.is_none() && same_network(known.destination, gateway, known.prefix)
        };
        if !same_network(address, gateway, prefix) && !ordered.iter().any(direct) {
            push(Route { destination: gateway, prefix: 32, gateway: None }, &mut ordered);
        }
        push(route, &mut ordered);
    }
    ordered
}

fn network(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() & prefix_mask(prefix).to_bits())
}

fn network_of(route: Route) -> Ipv4Addr {
    network(route.destination, route.prefix)
}

/// The result of the kernel's autoconfiguration in `/proc/net/pnp`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pnp {
    /// `domain`.
    pub domain: String,
    /// `nameserver`, at most three.
    pub dns: Vec<Ipv4Addr>,
    /// `bootserver`.
    pub boot_server: Option<Ipv4Addr>,
}

/// Parses `/proc/net/pnp`; malformed lines are skipped.
pub fn parse_pnp(text: &str) -> Pnp {
    let mut pnp = Pnp::default();
    for line in text.lines().take(64) {
        let Some((key, value)) = line.split_once(' ') else { continue };
        let address = value.trim().parse::<Ipv4Addr>().ok().filter(|a| !a.is_unspecified());
        match key {
            "domain" if is_host_name(value.trim()) => pnp.domain = String::from(value.trim()),
            "nameserver" if pnp.dns.len() < 8 => pnp.dns.extend(address),
            "bootserver" => pnp.boot_server = address,
            _ => {}
        }
    }
    pnp
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::dhcp::lease::Header;
    use crate::dhcp::options::Options;
    use crate::network::NetworkUp;
    use alloc::boxed::Box;
    use cmdline::plan::{Addressing, DhcpRequest, LinkChoice, Seconds};
    use proptest::prelude::*;
    use sys::clock::Instant;

    pub const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    /// A plan that leaves everything to DHCP.
    pub fn plan() -> NetworkPlan {
        NetworkPlan {
            required: true,
            names: Vec::new(),
            links: LinkChoice::Race,
            addressing: Addressing::Dhcp(DhcpRequest::default()),
            vlan: None,
            hostname: None,
            dns: Vec::new(),
            ntp: Vec::new(),
            routes: Vec::new(),
            mtu: None,
            peer_dns: true,
            boot_server: None,
            link_timeout: Seconds(20),
            carrier_timeout: Seconds(10),
            dhcp_timeout: Seconds(15),
        }
    }

    /// A lease for 10.0.0.5 with these options.
    pub fn lease(options: &[u8]) -> Lease {
        let mut all = Options::default();
        all.collect(&[53, 1, 5, 54, 4, 10, 0, 0, 1]);
        all.collect(options);
        let header = Header {
            yours: OURS,
            next_server: Ipv4Addr::UNSPECIFIED,
            sender: GATEWAY,
            server_name: &[],
            file: &[],
        };
        Lease::read(header, &all)
    }

    /// A network with a lease of these options.
    pub fn up(options: &[u8]) -> NetworkUp {
        let lease = lease(options);
        NetworkUp {
            device: "eth0".into(),
            index: 2,
            mac: Some([0x52, 0x54, 0, 1, 2, 3]),
            config: Config::from_lease(&lease, &plan()),
            lease: Some(Box::new(lease)),
            known_boot_server: None,
            since: Instant::from_millis(12_345),
        }
    }

    fn route(destination: [u8; 4], prefix: u8, gateway: Option<[u8; 4]>) -> Route {
        Route { destination: destination.into(), prefix, gateway: gateway.map(Into::into) }
    }

    #[test]
    fn an_ordinary_lease() {
        let lease =
            lease(b"\x01\x04\xff\xff\xff\x00\x03\x04\x0a\x00\x00\x01\x06\x04\x0a\x00\x00\x02");
        let config = Config::from_lease(&lease, &plan());
        assert_eq!((config.address, config.prefix), (OURS, 24));
        assert_eq!(config.broadcast, Some(Ipv4Addr::new(10, 0, 0, 255)));
        assert_eq!(config.routes, [route([0, 0, 0, 0], 0, Some([10, 0, 0, 1]))]);
        assert_eq!(config.gateway, Some(GATEWAY));
        assert_eq!(config.dns, [Ipv4Addr::new(10, 0, 0, 2)]);
        assert_eq!(config.notes, Vec::<String>::new());
    }

    #[test]
    fn option_121_replaces_the_router_and_option_33() {
        let lease = lease(
            b"\x01\x04\xff\xff\xff\x00\x03\x04\x0a\x00\x00\x01\
              \x21\x08\xc0\xa8\x03\x04\x0a\x00\x00\x03\
              \x79\x08\x18\xc0\xa8\x07\x0a\x00\x00\x09",
        );
        let config = Config::from_lease(&lease, &plan());
        assert_eq!(config.routes, [route([192, 168, 7, 0], 24, Some([10, 0, 0, 9]))]);
        assert_eq!(config.gateway, None);
    }

    #[test]
    fn a_missing_mask_is_guessed_and_said() {
        let config = Config::from_lease(&lease(&[]), &plan());
        assert_eq!(config.prefix, 8);
        assert_eq!(config.broadcast, Some(Ipv4Addr::new(10, 255, 255, 255)));
        assert!(config.notes[0].contains("guessed /8"), "{:?}", config.notes);
    }

    #[test]
    fn a_gateway_outside_the_network_gets_a_host_route_first() {
        let lease = lease(b"\x01\x04\xff\xff\xff\xff\x03\x04\x0a\x00\x01\x01");
        let config = Config::from_lease(&lease, &plan());
        assert_eq!(config.broadcast, None);
        assert_eq!(
            config.routes,
            [route([10, 0, 1, 1], 32, None), route([0, 0, 0, 0], 0, Some([10, 0, 1, 1]))]
        );
    }

    #[test]
    fn on_link_routes_make_gateways_reachable() {
        // Google's cloud: a /32, an on-link route to the gateway, a default route by it.
        let lease = lease(
            b"\x01\x04\xff\xff\xff\xff\
              \x79\x0e\x00\x0a\x80\x00\x01\x20\x0a\x80\x00\x01\x00\x00\x00\x00",
        );
        let config = Config::from_lease(&lease, &plan());
        assert_eq!(
            config.routes,
            [route([10, 128, 0, 1], 32, None), route([0, 0, 0, 0], 0, Some([10, 128, 0, 1]))]
        );
        assert_eq!(config.gateway, Some(Ipv4Addr::new(10, 128, 0, 1)));
    }

    #[test]
    fn the_line_wins() {
        let mut plan = plan();
        plan.hostname = Some("kiosk.lab".into());
        plan.dns = vec![Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(10, 0, 0, 2)];
        plan.mtu = Some(1400);
        plan.routes = vec![route([0, 0, 0, 0], 0, Some([10, 0, 0, 77]))];
        let lease = lease(
            b"\x01\x04\xff\xff\xff\x00\x03\x04\x0a\x00\x00\x01\x06\x08\x0a\x00\x00\x02\x0a\x00\x00\x03\
              \x0c\x02pc\x1a\x02\x05\xdc",
        );
        let config = Config::from_lease(&lease, &plan);
        assert_eq!(config.hostname, "kiosk");
        assert_eq!(config.domain, "lab");
        assert_eq!(config.mtu, Some(1400));
        assert_eq!(config.gateway, Some(Ipv4Addr::new(10, 0, 0, 77)));
        assert_eq!(
            config.dns,
            [Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)]
        );
        plan.peer_dns = false;
        assert_eq!(Config::from_lease(&lease, &plan).dns.len(), 2);
        plan.hostname = Some("a b".into());
        let config = Config::from_lease(&lease, &plan);
        assert_eq!(config.hostname, "pc");
        assert!(config.notes.iter().any(|note| note.contains("not a host name")));
    }

    #[test]
    fn a_gateway_that_is_ourselves_means_on_link() {
        let address = StaticAddress { address: OURS, prefix: 24, gateway: Some(OURS) };
        let config = Config::from_static(&address, &plan());
        assert_eq!(config.routes, [route([0, 0, 0, 0], 0, None)]);
    }

    #[test]
    fn the_kernels_pnp_file() {
        let pnp = parse_pnp(
            "#PROTO: DHCP\ndomain lab.x\nnameserver 10.0.0.2\nnameserver 0.0.0.0\nbootserver 10.0.0.9\n",
        );
        assert_eq!(pnp.domain, "lab.x");
        assert_eq!(pnp.dns, [Ipv4Addr::new(10, 0, 0, 2)]);
        assert_eq!(pnp.boot_server, Some(Ipv4Addr::new(10, 0, 0, 9)));
        assert_eq!(parse_pnp("#MANUAL\n"), Pnp::default());
    }

    proptest! {
        /// Every gateway is reachable when its route is set, and nothing is there twice.
        #[test]
        fn routes_are_in_an_order_that_works(
            prefix in 0u8..=32,
            raw in proptest::collection::vec((any::<u32>(), 0u8..=32, any::<Option<u32>>()), 0..20)
        ) {
            let routes: Vec<Route> = raw
                .into_iter()
                .map(|(destination, prefix, gateway)| Route {
                    destination: Ipv4Addr::from_bits(destination),
                    prefix,
                    gateway: gateway.map(Ipv4Addr::from_bits),
                })
                .collect();
            let ordered = order_routes(OURS, prefix, routes.clone());
            for (at, route) in ordered.iter().enumerate() {
                prop_assert_eq!(network_of(*route), route.destination);
                if let Some(gateway) = route.gateway {
                    let direct = same_network(OURS, gateway, prefix)
                        || ordered[..at].iter().any(|known| known.gateway.is_none()
                            && same_network(known.destination, gateway, known.prefix));
                    prop_assert!(direct, "{:?} of {:?}", route, ordered);
                }
                let twins = ordered.iter().filter(|other|
                    (other.destination, other.prefix) == (route.destination, route.prefix));
                prop_assert_eq!(twins.count(), 1);
            }
            prop_assert!(ordered.len() <= routes.len() * 2);
        }
    }
}
