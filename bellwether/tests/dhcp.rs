//! `share` on networks with DHCP servers of other people, and what it does about them. Needs root,
//! and the packages dnsmasq-base, isc-dhcp-server, isc-dhcp-relay, kea-dhcp4-server, systemd, udhcpd,
//! udhcpc and pxelinux.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[allow(dead_code, reason = "the tests of copies use the rest")]
mod room;

use room::{Room, Running, initramfs};
use std::fs;

/// The hardware address of the interface that is shared on.
const OWN: &str = "52:54:00:aa:00:01";

struct Site {
    room: Room,
}

impl Site {
    /// A medium for node 0, and no address of any other node's in the way.
    fn new(nodes: usize) -> Self {
        let room = Room::new(nodes);
        let live = room.path("medium/live");
        fs::create_dir_all(&live).unwrap();
        for name in ["vmlinuz", "filesystem.squashfs"] {
            fs::write(live.join(name), "shared").unwrap();
        }
        fs::write(live.join("initrd.img"), initramfs()).unwrap();
        let site = Self { room };
        site.run(
            0,
            &format!("ip link set eth0 down; ip link set eth0 address {OWN}; ip link set eth0 up"),
        );
        site
    }

    fn path(&self, name: &str) -> String {
        self.room.path(name).to_str().unwrap().to_owned()
    }

    fn run(&self, node: usize, script: &str) {
        self.room.start(node, &["sh", "-ec", script]).succeeds(20);
    }

    fn share(&self, more: &[&str]) -> Running {
        let (state, medium) = (self.path("state"), self.path("medium"));
        let mut all =
            vec![env!("CARGO_BIN_EXE_bellwether"), "share", "--plain", "--init", "/bin/true"];
        all.extend(["--state", &state]);
        if !more.contains(&"--interface") {
            all.extend(["--interface", "eth0"]);
        }
        all.extend(more);
        all.push(&medium);
        self.room.start(0, &all)
    }

    fn dnsmasq(&self, more: &[&str]) -> Running {
        let mut all = vec!["dnsmasq", "--keep-in-foreground", "--port=0", "--user=root"];
        all.extend(["--conf-file=/dev/null", "--leasefile-ro", "--log-facility=-", "--log-dhcp"]);
        // One file for all of them, which two that begin together cannot both make.
        all.extend(["--interface=eth0", "--bind-interfaces", "--pid-file="]);
        all.extend(more);
        let server = self.room.start(1, &all);
        self.room.listens(1, 67);
        server
    }

    fn dhcpd(&self, text: &str) -> Running {
        self.dhcpd_with("", text)
    }

    /// The same with declarations in front of the network's.
    fn dhcpd_with(&self, before: &str, text: &str) -> Running {
        let (config, leases) = (self.path("dhcpd.conf"), self.path("dhcpd.leases"));
        let all = format!(
            "authoritative; ping-check false; {before} subnet 10.77.0.0 netmask 255.255.255.0 {{ {text} }}"
        );
        fs::write(&config, all).unwrap();
        fs::write(&leases, "").unwrap();
        let pid = self.path("dhcpd.pid");
        let words =
            ["dhcpd", "-4", "-f", "-d", "-cf", &config, "-lf", &leases, "-pf", &pid, "eth0"];
        let server = self.room.start(1, &words);
        server.says("Server starting service");
        server
    }

    fn kea(&self, subnet: &str) -> Running {
        self.kea_with("", subnet)
    }

    /// The same with settings in front of the network's.
    fn kea_with(&self, before: &str, subnet: &str) -> Running {
        let config = self.path("kea.json");
        let text = format!(
            r#"{{"Dhcp4": {{"interfaces-config": {{"interfaces": ["eth0"]}},
                "lease-database": {{"type": "memfile", "persist": false}},
                {before}
                "subnet4": [{{"subnet": "10.77.0.0/24", "id": 1, {subnet}}}],
                "loggers": [{{"name": "kea-dhcp4", "severity": "INFO",
                              "output_options": [{{"output": "stdout"}}]}}]}}}}"#
        );
        fs::write(&config, text).unwrap();
        let dir = self.path("kea");
        fs::create_dir_all(&dir).unwrap();
        let words = [
            "env",
            &format!("KEA_PIDFILE_DIR={dir}"),
            &format!("KEA_LOCKFILE_DIR={dir}"),
            "kea-dhcp4",
            "-c",
            &config,
        ];
        let server = self.room.start(1, &words);
        self.room.listens(1, 67);
        server
    }

    /// systemd-networkd, which takes a container's devices for complete where /sys is read-only.
    fn networkd(&self, more: &str) -> Running {
        let config = self.path("eth0.network");
        let text = format!(
            "[Match]\nName=eth0\n[Network]\nAddress=10.77.0.2/24\nDHCPServer=yes\n[DHCPServer]\n{more}"
        );
        fs::write(&config, text).unwrap();
        let script = "mount -o remount,bind,ro /sys; mkdir -p /run/systemd
            mount -t tmpfs run /run/systemd; install -D -m 644 \"$0\" /run/systemd/network/eth0.network
            exec /lib/systemd/systemd-networkd";
        let apart =
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, &config];
        let server = self.room.start(1, &apart);
        self.room.listens(1, 67);
        server
    }

    fn udhcpd(&self, more: &str) -> Running {
        let (config, leases) = (self.path("udhcpd.conf"), self.path("udhcpd.leases"));
        let text = format!(
            "start 10.77.0.50\nend 10.77.0.60\ninterface eth0\nlease_file {leases}\n\
             pidfile {leases}.pid\nopt subnet 255.255.255.0\n{more}"
        );
        fs::write(&config, text).unwrap();
        fs::write(&leases, "").unwrap();
        let server = self.room.start(1, &["udhcpd", "-f", &config]);
        self.room.listens(1, 67);
        server
    }
}

/// What `share` says beside a server, for sure and by a weaker sign.
const LEASES: &str = "10.77.0.2 is the DHCP server on eth0: proxy DHCP beside it";
const INFORMS: &str = "10.77.0.2 is a DHCP server that offers no address to unknown machines on eth0: proxy DHCP beside it";
const PORT: &str = "10.77.0.2 has the port of a DHCP server open, but does not answer on eth0: proxy DHCP beside it";

fn beside(start: impl Fn(&Site) -> Running, says: &str) {
    let site = Site::new(2);
    let server = start(&site);
    let share = site.share(&[]);
    share.says("ready: switch clients on");
    assert!(share.log().contains(says), "{}\nthe server:\n{}", share.log(), server.log());
    assert!(!share.log().contains("leasing"), "{}", share.log());
}

const POOL: &str = "--dhcp-range=10.77.0.50,10.77.0.60,255.255.255.0";

#[test]
fn dnsmasq_that_leases_to_all() {
    beside(|site| site.dnsmasq(&[POOL]), LEASES);
}

#[test]
fn dnsmasq_that_answers_late() {
    beside(|site| site.dnsmasq(&[POOL, "--dhcp-reply-delay=7"]), LEASES);
}

#[test]
fn dnsmasq_that_knows_this_card_only() {
    let host = format!("--dhcp-host={OWN},10.77.0.9");
    beside(|site| site.dnsmasq(&["--dhcp-range=10.77.0.0,static,255.255.255.0", &host]), LEASES);
}

#[test]
fn dnsmasq_that_knows_other_cards_only() {
    let host = "--dhcp-host=52:54:00:bb:00:09,10.77.0.9";
    beside(|site| site.dnsmasq(&["--dhcp-range=10.77.0.0,static,255.255.255.0", host]), INFORMS);
}

#[test]
fn dnsmasq_that_ignores_unknown_cards() {
    let host = "--dhcp-host=52:54:00:bb:00:09,10.77.0.9";
    beside(|site| site.dnsmasq(&[POOL, host, "--dhcp-ignore=tag:!known"]), PORT);
}

#[test]
fn networkd_that_leases_to_all() {
    beside(|site| site.networkd("PoolOffset=50\nPoolSize=10\n"), LEASES);
}

/// It does not answer DHCPINFORM either.
#[test]
fn networkd_whose_only_address_is_kept_for_another_card() {
    let lease = "[DHCPServerStaticLease]\nMACAddress=52:54:00:bb:00:09\nAddress=10.77.0.50\n";
    let text = format!("PoolOffset=50\nPoolSize=1\n{lease}");
    beside(|site| site.networkd(&text), PORT);
}

#[test]
fn dhcpd_that_leases_from_some_seconds_on() {
    beside(|site| site.dhcpd("min-secs 60; range 10.77.0.50 10.77.0.60;"), LEASES);
}

#[test]
fn dhcpd_that_knows_other_cards_only() {
    beside(|site| site.dhcpd("deny unknown-clients; range 10.77.0.50 10.77.0.60;"), INFORMS);
}

#[test]
fn dhcpd_that_ignores_unknown_cards() {
    beside(|site| site.dhcpd("range 10.77.0.50 10.77.0.60; ignore booting;"), INFORMS);
}

#[test]
fn kea_that_leases_to_all() {
    beside(|site| site.kea(r#""pools": [{"pool": "10.77.0.50-10.77.0.60"}]"#), LEASES);
}

#[test]
fn kea_that_knows_other_cards_only() {
    let host =
        r#""reservations": [{"hw-address": "52:54:00:bb:00:09", "ip-address": "10.77.0.9"}]"#;
    beside(|site| site.kea(host), INFORMS);
}

#[test]
fn udhcpd_that_leases_to_all() {
    beside(|site| site.udhcpd(""), LEASES);
}

/// Only cards with a tag have a range.
#[test]
fn dnsmasq_that_leases_to_a_tag() {
    let green = "--dhcp-mac=set:green,52:54:00:bb:*:*:*";
    let pool = "--dhcp-range=tag:green,10.77.0.50,10.77.0.60,255.255.255.0";
    beside(|site| site.dnsmasq(&[green, pool]), INFORMS);
}

/// Telephones have the only pool.
#[test]
fn kea_that_leases_to_a_class() {
    let class = r#""client-classes": [{"name": "phones", "test": "option[60].text == 'phone'"}],"#;
    let pool = r#""pools": [{"pool": "10.77.0.50-10.77.0.60", "client-class": "phones"}]"#;
    beside(|site| site.kea_with(class, pool), INFORMS);
}

/// The other half of a pair is away, and this one does not know its leases.
#[test]
fn dhcpd_in_failover_that_recovers() {
    let peer = "failover peer \"a\" { primary; address 10.77.0.2; port 647; peer address \
                10.77.0.200; peer port 647; max-response-delay 60; mclt 600; split 128; \
                load balance max seconds 3; }";
    let pool = "pool { failover peer \"a\"; range 10.77.0.50 10.77.0.60; }";
    beside(|site| site.dhcpd_with(peer, pool), INFORMS);
}

/// A router names a boot file of its own, and another proxy answers machines, too.
#[test]
fn servers_that_tell_machines_what_to_boot() {
    let site = Site::new(3);
    let _router = site.udhcpd("siaddr 10.77.0.9\nboot_file other.0\n");
    let proxy = site.room.start(
        2,
        &[
            "dnsmasq",
            "--keep-in-foreground",
            "--port=0",
            "--pid-file=",
            "--user=root",
            "--conf-file=/dev/null",
            "--leasefile-ro",
            "--interface=eth0",
            "--bind-interfaces",
            "--log-facility=-",
            "--log-dhcp",
            "--dhcp-range=10.77.0.0,proxy",
            "--pxe-service=x86PC,Other,other",
        ],
    );
    site.room.listens(2, 67);
    let share = site.share(&[]);
    share.says("ready: switch clients on");
    for told in [
        "the DHCP server 10.77.0.2 names a boot file itself, \"other.0\"",
        "10.77.0.3 tells machines what to boot, too (a proxy DHCP server",
    ] {
        assert!(share.log().contains(told), "{}\nthe proxy:\n{}", share.log(), proxy.log());
    }
}

#[test]
fn a_lease_of_this_machine_from_a_server_that_is_gone() {
    let site = Site::new(1);
    site.run(0, "ip addr change 10.77.0.1/24 brd + dev eth0 valid_lft 3600 preferred_lft 3600");
    let share = site.share(&[]);
    share.says("ready: switch clients on");
    let said = "a DHCP server leased 10.77.0.1, but none answers now on eth0: proxy DHCP beside it";
    assert!(share.log().contains(said), "{}", share.log());
}

/// A client that wants an address: what the server sends it, as its script sees it.
fn ask(site: &Site, node: usize, more: &[&str]) -> Running {
    // A DHCP server looks for some seconds whether an address is in use before it offers it.
    let script = site.path("script");
    fs::write(
        &script,
        "#!/bin/sh\necho $1 ip=$ip from=$serverid next=$siaddr file=$boot_file. router=$router.\n",
    )
    .unwrap();
    site.run(node, &format!("chmod 755 {script}"));
    let mut all =
        vec!["udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "60", "-T", "1", "-s", &script];
    all.extend(more);
    site.room.start(node, &all)
}

#[test]
fn a_second_server_while_this_one_leases() {
    let site = Site::new(3);
    let share = site.share(&[]);
    share.says("leasing 10.77.0.");
    share.says("ready: switch clients on");
    let mut client = ask(&site, 2, &[]);
    client.succeeds(90);
    client.says("from=10.77.0.1");
    let _server = site.dnsmasq(&[POOL]);
    // It asks again within half a minute, or hears what others are told.
    share.says("this machine leases no more addresses");
    assert!(
        share.log().contains("10.77.0.2 is the DHCP server on this network"),
        "{}",
        share.log()
    );
    let mut client = ask(&site, 2, &[]);
    client.succeeds(90);
    client.says("from=10.77.0.2");
}

/// `ip addr add` without `brd` leaves an address without a broadcast address.
#[test]
fn an_address_without_a_broadcast_address() {
    let site = Site::new(2);
    site.room.without_broadcast();
    let share = site.share(&["--dhcp", "full"]);
    share.says("ready: switch clients on");
    let mut client = ask(&site, 1, &["-V", "PXEClient:Arch:00000:UNDI:002001", "-x", "0x5d:0000"]);
    client.succeeds(90);
    client.says("next=10.77.0.1 file=pxelinux.0.");
}

/// The default route's gateway was leased in a network that it is not in.
#[test]
fn the_second_address_of_an_interface() {
    let site = Site::new(2);
    let more =
        "ip addr add 192.168.77.1/24 brd + dev eth0; ip route replace default via 10.77.0.254";
    site.run(0, more);
    for (address, router) in [("192.168.77.1", ""), ("10.77.0.1", "10.77.0.254")] {
        let share = site.share(&["--dhcp", "full", "--interface", address]);
        share.says("ready: switch clients on");
        let pxe = ["-V", "PXEClient:Arch:00000:UNDI:002001", "-x", "0x5d:0000"];
        let mut client = ask(&site, 1, &pxe);
        client.succeeds(90);
        client.says(&format!("from={address} next={address} file=pxelinux.0. router={router}."));
    }
}

#[test]
fn bridges_and_vlans() {
    for (make, name) in [
        ("ip link add NAME type bridge; ip link set eth0 master NAME", "br-lan"),
        ("ip link add link eth0 name NAME type vlan id 5", "eth0.5"),
        ("ip link add NAME link eth0 type macvlan mode bridge", "mac0"),
    ] {
        let site = Site::new(2);
        let script = format!(
            "ip addr flush dev eth0; {}; ip addr add 10.77.0.1/24 brd + dev {name}; ip link set {name} up",
            make.replace("NAME", name)
        );
        if !site.room.start(0, &["sh", "-ec", &script]).ends(20) {
            // This kernel has no such interface.
            continue;
        }
        if name == "eth0.5" {
            site.run(1, "ip link add link eth0 name v type vlan id 5; ip link set eth0 name old; ip link set v name eth0; ip link set eth0 up");
        }
        let share = site.share(&["--dhcp", "full", "--interface", name]);
        share.says("ready: switch clients on");
        let mut client = ask(&site, 1, &[]);
        client.succeeds(90);
        client.says("from=10.77.0.1");
    }
}

/// Node 1 passes on what node 2 asks on another network.
fn relayed(mode: &str) -> (Site, Running, Vec<Running>) {
    let site = Site::new(3);
    site.room.cable(1, 2);
    site.run(1, "sysctl -qw net.ipv4.ip_forward=1");
    site.run(0, "ip route add 10.88.0.0/24 via 10.77.0.2");
    let share = site.share(&["--dhcp", mode]);
    share.says("ready: switch clients on");
    let pid = site.path("relay.pid");
    let words =
        ["dhcrelay", "-4", "-d", "-a", "-pf", &pid, "-i", "eth0", "-i", "eth1", "10.77.0.1"];
    let relay = site.room.start(1, &words);
    site.room.listens(1, 67);
    let client = site.room.start(
        2,
        &[
            "udhcpc",
            "-i",
            "eth1",
            "-f",
            "-q",
            "-n",
            "-t",
            "5",
            "-T",
            "1",
            "-s",
            "/bin/true",
            "-V",
            "PXEClient:Arch:00000:UNDI:002001",
            "-x",
            "0x5d:0000",
        ],
    );
    (site, share, vec![relay, client])
}

#[test]
fn a_client_behind_a_relay_is_told_what_to_boot() {
    let (_site, share, others) = relayed("proxy");
    share.says("is told to load pxelinux.0");
    // The answer reached the relay, which sent it on.
    others[0].says("Forwarded BOOTREPLY");
}

#[test]
fn a_client_of_another_network_gets_no_address() {
    let (_site, share, _others) = relayed("full");
    share.says("asks through the relay 10.88.0.2 for an address of another network");
}
