//! What the live system's network managers find: the state of the boot link, and
//! whether they may have it.
//!
//! A root that comes over the network is lost when the address is taken off its link:
//! such a link is marked as not to be managed. A root in memory or on a disk does not
//! need the link any more, and its user wants a network that can be managed:
//! `NetworkManager` and systemd-networkd get the settings as one of their own files, as
//! dracut leaves them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::BootPlan;
use cmdline::plan::Dialect;
use cmdline::plan::Mac;
use cmdline::text;
use netboot::network::NetworkUp;
use netboot::state;

use crate::{Act, Change};

/// What is left below `/run`. `remote` is whether the root comes over the network; the
/// small `/init` does not look, and leaves the link to no manager.
#[must_use]
pub fn state(up: Option<&NetworkUp>, plan: &BootPlan, remote: bool) -> Vec<Change> {
    let Some(up) = up else { return Vec::new() };
    let mut files = Vec::from([
        Change::file(&format!("/run/net-{}.conf", up.device), &state::net_conf(up)),
        Change::file("/run/bellwether/network.json", &state::json(up)),
    ]);
    let required = plan.network.as_ref().is_some_and(|network| network.required);
    if let (true, Some(mac)) = (required && remote, up.mac) {
        files.extend(unmanaged(&up.device, Mac(mac)));
    }
    files.extend(resolved(up));
    if plan.handoff.layout == Dialect::Casper && !plan.handoff.keep_network {
        files.push(Change::file(&format!("/run/netplan/{}.yaml", up.device), &netplan(up)));
    }
    files
}

/// The settings of a link that the root does not come over.
#[must_use]
pub fn settings(up: Option<&NetworkUp>, plan: &BootPlan, remote: bool) -> Vec<Change> {
    let free = cfg!(feature = "full") && !plan.handoff.keep_network && !remote;
    up.filter(|_| free).map(managed).unwrap_or_default()
}

/// Files of the new root's `/etc`. `link` reads links there.
#[must_use]
pub fn updates(
    up: Option<&NetworkUp>,
    plan: &BootPlan,
    link: &dyn Fn(&str) -> Option<String>,
) -> Vec<Change> {
    let Some(up) = up else { return Vec::new() };
    let mut files = Vec::new();
    let resolv = state::resolv_conf(up);
    // systemd-resolved's own link stays: it is told the servers by its own file.
    let managed = link("/etc/resolv.conf").is_some_and(|to| text::has(&to, "systemd/resolve"));
    if plan.handoff.resolv_conf && !resolv.is_empty() && !managed {
        files.push(Change::new(Act::Update, "/etc/resolv.conf", &resolv));
    }
    let (name, domain) = (&up.config.hostname, &up.config.domain);
    if !name.is_empty() && !plan.handoff.keep_network {
        files.push(Change::new(Act::Update, "/etc/hostname", &format!("{name}\n")));
        files.push(Change::new(Act::Update, "/etc/hosts", &state::hosts(name, domain)));
    }
    if plan.handoff.layout == Dialect::LiveBoot && !plan.handoff.keep_network {
        let text = format!(
            "auto lo\niface lo inet loopback\n\n# The root came over this link: it must stay as it is.\niface {} inet manual\n",
            up.device
        );
        files.push(Change::new(Act::Update, "/etc/network/interfaces", &text));
    }
    files
}

/// Marks for managers that must not touch the link that the root comes over.
fn unmanaged(device: &str, mac: Mac) -> [Change; 2] {
    [
        Change::file(
            &format!("/run/systemd/network/05-bellwether-{device}.network"),
            &format!("[Match]\nMACAddress={mac}\n\n[Link]\nUnmanaged=yes\nRequiredForOnline=no\n"),
        ),
        Change::file(
            "/run/NetworkManager/conf.d/90-bellwether.conf",
            &format!("[keyfile]\nunmanaged-devices=mac:{mac}\n"),
        ),
    ]
}

/// The name servers, for systemd-resolved.
fn resolved(up: &NetworkUp) -> Option<Change> {
    let servers: Vec<String> = up.config.dns.iter().map(ToString::to_string).collect();
    if servers.is_empty() {
        return None;
    }
    let mut text = format!("[Resolve]\nDNS={}\n", servers.join(" "));
    let domains = if up.config.search.is_empty() {
        up.config.domain.clone()
    } else {
        up.config.search.join(" ")
    };
    if !domains.is_empty() {
        text.push_str(&format!("Domains={domains}\n"));
    }
    Some(Change::file("/run/systemd/resolved.conf.d/90-bellwether.conf", &text))
}

/// What Ubuntu's initramfs leaves for netplan: a link that must not be let go.
fn netplan(up: &NetworkUp) -> String {
    let mut text = format!(
        "network:\n  version: 2\n  renderer: networkd\n  ethernets:\n    {}:\n      critical: true\n      dhcp-identifier: mac\n",
        up.device
    );
    if up.lease.is_some() {
        text.push_str("      dhcp4: true\n");
        return text;
    }
    text.push_str(&format!("      addresses: [\"{}/{}\"]\n", up.config.address, up.config.prefix));
    if let Some(gateway) = up.config.gateway {
        text.push_str(&format!("      gateway4: {gateway}\n"));
    }
    let servers: Vec<String> = up.config.dns.iter().map(ToString::to_string).collect();
    if !servers.is_empty() {
        text.push_str(&format!(
            "      nameservers:\n        addresses: [{}]\n",
            servers.join(", ")
        ));
    }
    text
}

/// The boot link's settings for managers that may have it.
fn managed(up: &NetworkUp) -> Vec<Change> {
    let Some(mac) = up.mac else { return Vec::new() };
    let mac = Mac(mac);
    let device = &up.device;
    let dns: Vec<String> = up.config.dns.iter().map(ToString::to_string).collect();
    let mut keyfile = format!(
        "[connection]\nid={device}\ntype=ethernet\n\n[ethernet]\nmac-address={mac}\n\n\
         [ipv6]\nmethod=auto\n\n[ipv4]\n"
    );
    let mut network = format!("[Match]\nMACAddress={mac}\n\n[Network]\n");
    if up.lease.is_some() {
        keyfile.push_str("method=auto\n");
        network.push_str("DHCP=yes\n");
    } else {
        let (address, prefix) = (up.config.address, up.config.prefix);
        let gateway = up.config.gateway.map(|gateway| gateway.to_string());
        let after = gateway.as_deref().map_or(String::new(), |gateway| format!(",{gateway}"));
        keyfile.push_str(&format!("method=manual\naddress1={address}/{prefix}{after}\n"));
        network.push_str(&format!("Address={address}/{prefix}\n"));
        if let Some(gateway) = gateway {
            network.push_str(&format!("Gateway={gateway}\n"));
        }
        for server in &dns {
            network.push_str(&format!("DNS={server}\n"));
        }
        if !dns.is_empty() {
            keyfile.push_str(&format!("dns={};\n", dns.join(";")));
        }
    }
    let path = format!("/run/NetworkManager/system-connections/{device}.nmconnection");
    Vec::from([
        // NetworkManager trusts none that others can read.
        Change::new(Act::File(0o600), &path, &keyfile),
        Change::file(&format!("/run/systemd/network/70-bellwether-{device}.network"), &network),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    fn plan(line: &str) -> BootPlan {
        cmdline::parse(line, &cmdline::Context::default())
    }

    fn up(plan: &BootPlan) -> NetworkUp {
        example::link(plan.network.as_ref().unwrap())
    }

    fn paths(changes: &[Change]) -> Vec<&str> {
        changes.iter().map(|change| &*change.path).collect()
    }

    const LIVE: &str = "boot=live netboot=nfs nfsroot=10.0.0.1:/x";
    const CASPER: &str = "boot=casper netboot=nfs nfsroot=10.0.0.1:/x";
    const RECORD: [&str; 2] = ["/run/net-eth0.conf", "/run/bellwether/network.json"];
    const RESOLVED: &str = "/run/systemd/resolved.conf.d/90-bellwether.conf";
    const UNMANAGED: [&str; 2] = [
        "/run/systemd/network/05-bellwether-eth0.network",
        "/run/NetworkManager/conf.d/90-bellwether.conf",
    ];
    const MANAGED: [&str; 2] = [
        "/run/NetworkManager/system-connections/eth0.nmconnection",
        "/run/systemd/network/70-bellwether-eth0.network",
    ];

    #[test]
    fn each_line_leaves_its_files() {
        /// Line, whether the root is remote; state, settings, files of the root.
        type Row<'r> = (&'r str, bool, Vec<&'r str>, &'r [&'r str], &'r [&'r str]);
        let names = ["/etc/resolv.conf", "/etc/hostname", "/etc/hosts"];
        let interfaces = [&names[..], &["/etc/network/interfaces"]].concat();
        let netplan = "/run/netplan/eth0.yaml";
        let table: [Row<'_>; 4] = [
            (LIVE, true, [&RECORD[..], &UNMANAGED, &[RESOLVED]].concat(), &[], &interfaces),
            (LIVE, false, [&RECORD[..], &[RESOLVED]].concat(), &MANAGED, &interfaces),
            (CASPER, true, [&RECORD[..], &UNMANAGED, &[RESOLVED, netplan]].concat(), &[], &names),
            (CASPER, false, [&RECORD[..], &[RESOLVED, netplan]].concat(), &MANAGED, &names),
        ];
        for (line, remote, left, given, updated) in table {
            let plan = plan(line);
            let up = up(&plan);
            assert_eq!(paths(&state(Some(&up), &plan, remote)), left, "{line}, {remote}");
            assert_eq!(paths(&settings(Some(&up), &plan, remote)), given, "{line}, {remote}");
            assert_eq!(paths(&updates(Some(&up), &plan, &|_| None)), updated, "{line}");
            let nothing = [state(None, &plan, remote), settings(None, &plan, remote)].concat();
            assert_eq!(nothing, []);
        }
    }

    #[test]
    fn systemd_resolved_s_own_link_stays() {
        let plan = plan(CASPER);
        let link = |_: &str| Some("../run/systemd/resolve/stub-resolv.conf".to_string());
        let changes = updates(Some(&up(&plan)), &plan, &link);
        assert_eq!(paths(&changes), ["/etc/hostname", "/etc/hosts"]);
    }

    #[test]
    fn what_only_root_may_read_is_so() {
        let plan = plan(CASPER);
        let changes = settings(Some(&up(&plan)), &plan, false);
        assert_eq!(changes[0].act, Act::File(0o600));
        assert!(changes[0].with.contains("address1=192.0.2.10/24,192.0.2.1\ndns=192.0.2.1;\n"));
    }
}
