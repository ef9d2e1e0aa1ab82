//! The network against real servers: dnsmasq and the kernel, in network
//! namespaces of their own. Needs root; skipped with a word otherwise.
//!
//! Each test is a lab: one namespace with the servers, one with the client, and
//! pairs of virtual cables between them. A client runs in a thread that has
//! entered its namespace.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod lab;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant as Clock};

use cmdline::plan::{
    Addressing, DhcpRequest, LinkChoice, Mac, NetworkPlan, Seconds, StaticAddress,
};
use lab::{Lab, skip};
use netboot::config::Protocol;
use netboot::dhcp::client::Needs;
use netboot::network::{Network, NetworkUp};
use netboot::state;
use sys::clock::Instant;

fn plan() -> NetworkPlan {
    NetworkPlan {
        required: true,
        links: LinkChoice::Race,
        addressing: Addressing::Dhcp(DhcpRequest::default()),
        names: Vec::new(),
        vlan: None,
        hostname: None,
        dns: Vec::new(),
        ntp: Vec::new(),
        routes: Vec::new(),
        mtu: None,
        peer_dns: true,
        boot_server: None,
        link_timeout: Seconds(5),
        carrier_timeout: Seconds(5),
        dhcp_timeout: Seconds(5),
    }
}

/// Brings the network up in the client's namespace; gives what it said, too.
fn bring_up(
    lab: &Lab,
    plan: NetworkPlan,
    needs: Needs,
) -> (Result<NetworkUp, String>, Vec<String>) {
    bring_up_while(lab, plan, needs, |_| ())
}

/// The same; `each` hears of the start, with no lines yet, and then of every line.
fn bring_up_while(
    lab: &Lab,
    plan: NetworkPlan,
    needs: Needs,
    each: impl Fn(&[String]) + Send,
) -> (Result<NetworkUp, String>, Vec<String>) {
    lab.in_client(move || {
        let mut network = Network::start(plan, needs).expect("netlink");
        let mut said = Vec::new();
        each(&said);
        // Longer than any plan here: a busy machine is no failure.
        let limit = Instant::now().after(Duration::from_secs(120));
        let result = network.run(Some(limit), 1, &mut |event| {
            said.push(event.to_string());
            each(&said);
        });
        (result.map(|up| *up).map_err(|report| report.to_string()), said)
    })
}

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Everything that dnsmasq can say.
const FULL: &str = "\
dhcp-range=10.77.0.50,10.77.0.60,255.255.255.0,1h
dhcp-option=option:router,10.77.0.1
dhcp-option=option:dns-server,10.77.0.1,10.77.0.2
dhcp-option=option:domain-name,lab.example
dhcp-option=option:domain-search,lab.example,deep.lab.example
dhcp-option=option:ntp-server,10.77.0.3
dhcp-option=option:mtu,1400
dhcp-option=option:root-path,10.77.0.9:/srv/live,vers=3
dhcp-option=option:classless-static-route,0.0.0.0/0,10.77.0.1,192.168.9.0/24,10.77.0.4
dhcp-option=150,10.77.0.8
dhcp-boot=pxelinux.0,boothost,10.77.0.7
dhcp-host=52:54:00:00:77:00,pc7
";

#[test]
fn a_lease_with_everything_is_applied() {
    let Some(lab) = Lab::new("full", 1) else { return skip() };
    let _dnsmasq = lab.dnsmasq(0, FULL);
    let began = Clock::now();
    let (up, said) = bring_up(&lab, plan(), Needs { root_path: true, boot_server: false });
    let took = began.elapsed();
    let up = up.unwrap();
    println!("{up}\n{said:#?}\nin {took:?}");
    assert_eq!(up.device, "nic0");
    assert_eq!(up.config.protocol, Protocol::Dhcp);
    assert_eq!(up.config.prefix, 24);
    assert_eq!(up.config.gateway, Some(SERVER));
    assert_eq!(up.config.dns, [SERVER, Ipv4Addr::new(10, 77, 0, 2)]);
    assert_eq!(up.config.domain, "lab.example");
    assert_eq!(up.config.search, ["lab.example", "deep.lab.example"]);
    assert_eq!(up.config.ntp, [Ipv4Addr::new(10, 77, 0, 3)]);
    assert_eq!(up.config.hostname, "pc7");
    assert_eq!(up.root_path(), "10.77.0.9:/srv/live,vers=3");
    assert_eq!(up.boot_server().as_deref(), Some("10.77.0.7"));
    let lease = up.lease.as_ref().unwrap();
    assert_eq!(lease.tftp_servers, [Ipv4Addr::new(10, 77, 0, 8)]);
    assert_eq!(lease.boot_file, "pxelinux.0");
    assert_eq!(lease.server_name, "boothost");
    assert_eq!(lease.lease_seconds, Some(3600));
    assert_eq!(lease.ignored, Vec::<String>::new());

    let address = lab.client("ip -4 addr show dev nic0");
    assert!(
        address.contains(&format!("inet {}/24 brd 10.77.0.255 scope global", up.config.address))
    );
    assert!(address.contains("mtu 1400"), "{address}");
    let routes = lab.client("ip route");
    assert!(routes.contains("default via 10.77.0.1 dev nic0"), "{routes}");
    assert!(routes.contains("192.168.9.0/24 via 10.77.0.4 dev nic0"), "{routes}");
    assert!(lab.reaches(SERVER));

    // The shell that sources the file must see what we saw.
    let file = lab.dir().join("net-nic0.conf");
    std::fs::write(&file, state::net_conf(&up)).unwrap();
    let seen = lab.client(&format!(
        ". {}; echo $DEVICE $PROTO $IPV4ADDR $ROOTSERVER $ROOTPATH $filename $DOMAINSEARCH",
        file.display()
    ));
    assert_eq!(
        seen.trim(),
        format!(
            "nic0 dhcp {} 10.77.0.7 10.77.0.9:/srv/live,vers=3 pxelinux.0 lab.example deep.lab.example",
            up.config.address
        )
    );
    assert!(took < Duration::from_secs(2), "took {took:?}");
}

#[test]
fn dead_and_deaf_links_cost_nothing_and_go_down_again() {
    let Some(lab) = Lab::new("three", 3) else { return skip() };
    lab.unplug(0); // no carrier
    // nic1 has a carrier and no DHCP server.
    let _dnsmasq = lab.dnsmasq(2, "dhcp-range=10.77.2.50,10.77.2.60,1h\n");
    let began = Clock::now();
    let (up, said) = bring_up(&lab, plan(), Needs::default());
    println!("{said:#?}");
    assert_eq!(up.unwrap().device, "nic2");
    assert!(began.elapsed() < Duration::from_secs(2), "took {:?}", began.elapsed());
    for (nic, state) in [("nic0", "DOWN"), ("nic1", "DOWN"), ("nic2", "UP")] {
        let shown = lab.client(&format!("ip -o link show {nic}"));
        let flags = shown.split(['<', '>']).nth(1).unwrap();
        let word = if flags.split(',').any(|flag| flag == "UP") { "UP" } else { "DOWN" };
        assert_eq!(word, state, "{shown}");
    }
}

#[test]
fn a_server_that_comes_up_late_is_heard_soon() {
    let Some(lab) = Lab::new("late", 1) else { return skip() };
    let mut plan = plan();
    // The late server starts in that time on a busy machine, too.
    plan.dhcp_timeout = Seconds(90);
    let began = Clock::now();
    let (unanswered, wait) = std::sync::mpsc::channel();
    let (up, said, started) = std::thread::scope(|scope| {
        let lab = &lab;
        let starter = scope.spawn(move || {
            // By the third time the client has reached its longest pause.
            wait.iter().take(3).for_each(drop);
            (lab.dnsmasq(0, "dhcp-range=10.77.0.50,10.77.0.60,1h\n"), Clock::now())
        });
        let (up, said) = bring_up_while(lab, plan, Needs::default(), move |said| {
            if said.last().is_some_and(|line| line.contains("no answer from DHCP yet")) {
                // The fourth time the starter may have ended.
                let _ = unanswered.send(());
            }
        });
        let ended = Clock::now();
        let (_dnsmasq, started) = starter.join().unwrap();
        (up, said, ended.duration_since(started))
    });
    println!("{said:#?}\nheard {started:?} after it started, {:?} in all", began.elapsed());
    up.unwrap();
    assert!(started < Duration::from_millis(4800), "took {started:?}");
    assert!(said.iter().any(|line| line.contains("no answer from DHCP yet")));
}

#[test]
fn an_address_is_asked_for_and_another_taken_when_it_cannot_be_had() {
    let Some(lab) = Lab::new("ask", 1) else { return skip() };
    let _dnsmasq = lab.dnsmasq(0, "dhcp-range=10.77.0.50,10.77.0.60,1h\ndhcp-authoritative\n");
    let mut plan = plan();
    let requested = Some(Ipv4Addr::new(10, 77, 0, 55));
    plan.addressing = Addressing::Dhcp(DhcpRequest { requested, ..DhcpRequest::default() });
    let (up, _) = bring_up(&lab, plan.clone(), Needs::default());
    assert_eq!(up.unwrap().config.address, Ipv4Addr::new(10, 77, 0, 55));
    // An address that the server cannot give: it offers another.
    lab.client("ip addr flush dev nic0");
    let requested = Some(Ipv4Addr::new(192, 168, 1, 1));
    plan.addressing = Addressing::Dhcp(DhcpRequest { requested, ..DhcpRequest::default() });
    let (up, said) = bring_up(&lab, plan, Needs::default());
    println!("{said:#?}");
    assert_eq!(up.unwrap().config.address.octets()[..3], [10, 77, 0]);
}

#[test]
fn the_link_of_bootif_is_the_only_one_asked() {
    let Some(lab) = Lab::new("bootif", 2) else { return skip() };
    let _first = lab.dnsmasq(0, "dhcp-range=10.77.0.50,10.77.0.60,1h\n");
    let _second = lab.dnsmasq(1, "dhcp-range=10.77.1.50,10.77.1.60,1h\n");
    let mut plan = plan();
    plan.links = LinkChoice::Mac(Mac([0x52, 0x54, 0, 0, 0x77, 1]));
    let (up, _) = bring_up(&lab, plan, Needs::default());
    assert_eq!(up.unwrap().device, "nic1");
    assert!(!lab.client("ip -o link show nic0").contains("<BROADCAST,MULTICAST,UP"));
}

#[test]
fn a_static_address_and_one_that_is_there() {
    let Some(lab) = Lab::new("static", 1) else { return skip() };
    let mut plan = plan();
    plan.addressing = Addressing::Static(StaticAddress {
        address: Ipv4Addr::new(10, 77, 0, 20),
        prefix: 24,
        gateway: Some(Ipv4Addr::new(10, 99, 0, 1)), // not in the network
    });
    let (up, _) = bring_up(&lab, plan.clone(), Needs::default());
    let up = up.unwrap();
    println!("{up}");
    let routes = lab.client("ip route");
    assert!(routes.contains("default via 10.99.0.1 dev nic0"), "{routes}");
    assert!(routes.contains("10.99.0.1 dev nic0 scope link"), "{routes}");
    assert!(lab.reaches(SERVER));

    plan.addressing = Addressing::Existing;
    let (up, said) = bring_up(&lab, plan.clone(), Needs::default());
    let up = up.unwrap();
    assert_eq!(up.config.protocol, Protocol::Existing);
    assert_eq!(up.config.gateway, Some(Ipv4Addr::new(10, 99, 0, 1)));
    assert_eq!(said, ["nic0: already has 10.77.0.20/24, using it"]);

    plan.addressing = Addressing::Dhcp(DhcpRequest::default());
    let (up, _) = bring_up(&lab, plan, Needs::default());
    assert_eq!(up.unwrap().config.address, Ipv4Addr::new(10, 77, 0, 20));
}

#[test]
fn nothing_there_is_said_link_by_link() {
    let Some(lab) = Lab::new("none", 2) else { return skip() };
    lab.unplug(1);
    let mut plan = plan();
    plan.dhcp_timeout = Seconds(2);
    let (up, said) = bring_up(&lab, plan, Needs::default());
    let report = up.unwrap_err();
    println!("{report}\n{said:#?}");
    assert!(report.starts_with("no DHCP server answered"), "{report}");
    assert!(report.contains("nic0 (52:54:00:00:77:00): asked DHCP 2 times in 2 s, no lease"));
    assert!(report.contains("nic1 (52:54:00:00:77:01): no carrier"), "{report}");
}

#[test]
fn a_card_whose_driver_loads_late_joins() {
    let Some(lab) = Lab::new("driver", 0) else { return skip() };
    let (started, wait) = std::sync::mpsc::channel();
    let up = std::thread::scope(|scope| {
        let lab = &lab;
        let up = scope.spawn(move || {
            // The links are looked at once before the first word.
            let each = move |_: &[String]| started.send(()).unwrap_or_default();
            bring_up_while(lab, plan(), Needs::default(), each).0
        });
        wait.recv().expect("the network has looked for cards");
        lab.plug(0);
        let _dnsmasq = lab.dnsmasq(0, "dhcp-range=10.77.0.50,10.77.0.60,1h\n");
        up.join().unwrap()
    });
    assert_eq!(up.unwrap().device, "nic0");
}

#[test]
fn a_vlan_without_the_module_says_so() {
    let Some(lab) = Lab::new("vlan", 1) else { return skip() };
    let mut plan = plan();
    plan.vlan = Some(cmdline::plan::Vlan { name: "nic0.7".into(), link: "nic0".into(), id: 7 });
    plan.dhcp_timeout = Seconds(1);
    let has_vlans = lab.try_client("ip link add link nic0 name probe type vlan id 9");
    if has_vlans {
        lab.client("ip link del probe");
        lab.server("ip link add link cable0 name cable0.7 type vlan id 7");
        lab.server("ip addr add 10.77.7.1/24 dev cable0.7; ip link set cable0.7 up");
        let _dnsmasq = lab.dnsmasq_on("cable0.7", "dhcp-range=10.77.7.50,10.77.7.60,1h\n");
        let (up, _) = bring_up(&lab, plan, Needs::default());
        assert_eq!(up.unwrap().device, "nic0.7");
    } else {
        let (up, said) = bring_up(&lab, plan, Needs::default());
        up.unwrap_err();
        assert!(said.iter().any(|line| line.contains("8021q")), "{said:?}");
    }
}
