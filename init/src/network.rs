//! The network step: `netboot` brings it up inside the machine's event loop;
//! this module waits for it when the plan needs it, and tells the live system.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use cmdline::BootPlan;
use cmdline::plan::{Dialect, NfsSource, NfsVersion, Server, Source};
use cmdline::text;
use netboot::dhcp::client::Needs;
use netboot::network::NetworkUp;
use netboot::nfs;
use netboot::resolve::Resolver;
use netboot::state;

use crate::link::Network;
use crate::machine::Machine;
use crate::trace::{Failure, Refusal, Tried};

/// Rounds of the race before the step counts as failed; the race itself goes
/// on, so that the next try of the boot finds what answered meanwhile.
const ROUNDS: u32 = 3;

/// How long a name may take to resolve before the round goes on without it.
const RESOLVE_LIMIT: Duration = Duration::from_secs(10);

/// Brings the network up as planned; when the plan does not require it, only
/// starts it and lets it come up beside the other steps.
///
/// # Errors
/// What was tried on every link, when none could be used in the plan's time.
pub fn bring_up(machine: &mut Machine, plan: &BootPlan) -> Result<(), Failure> {
    let Some(wanted) = &plan.network else { return Ok(()) };
    machine.require("af_packet");
    if wanted.vlan.is_some() {
        machine.require("8021q");
    }
    let started = machine.network.start(wanted, needs(plan));
    if !wanted.required {
        return Ok(());
    }
    started?;
    let rounds = machine.network.rounds();
    while machine.network.up().is_none() {
        if machine.network.rounds() >= rounds.saturating_add(ROUNDS) {
            return Err(failure(&machine.network));
        }
        machine.wait(&[], None);
    }
    Ok(())
}

/// What the boot needs of a lease beside the address.
fn needs(plan: &BootPlan) -> Needs {
    let mut needs = Needs::default();
    for source in &plan.root.sources {
        if let Source::Nfs(nfs) = source {
            needs.root_path |= nfs.path.is_none();
            needs.boot_server |= nfs.path.is_some() && nfs.server == Server::Boot;
        }
    }
    needs
}

fn failure(network: &Network) -> Failure {
    let Some(report) = network.report() else {
        return Failure::new("bring up the network", "network", "nothing was tried");
    };
    let mut tried: Vec<Tried> = report
        .links
        .iter()
        .map(|link| Tried { what: link.device.clone(), why: link.outcome.clone() })
        .collect();
    if tried.is_empty() {
        tried.push(Tried { what: "network".to_string(), why: report.reason.clone() });
    }
    let remedy = if report.links.is_empty() {
        "no network card has a driver here: build the image with a larger profile"
    } else {
        "check the cable, the switch port and the DHCP server; ip= sets an address by hand"
    };
    Failure { step: "bring up the network".to_string(), tried, remedy: remedy.to_string() }
}

/// Mounts an export at `target`; returns where from.
///
/// # Errors
/// What was tried, and why it failed.
pub fn mount_nfs(
    machine: &mut Machine,
    source: &NfsSource,
    target: &str,
) -> Result<String, (String, Refusal)> {
    let fail = |why: &dyn ToString| (describe_nfs(source), Refusal::now(why.to_string()));
    let up = machine.network.up().cloned();
    let location = nfs::locate(source, up.as_ref()).map_err(|error| fail(&error))?;
    let up = up.ok_or_else(|| fail(&"the network is not up"))?;
    let server = resolve(&up, &location.host).map_err(|why| fail(&why))?;
    for version in &location.versions {
        machine.require(match version {
            NfsVersion::V2 => "nfsv2",
            NfsVersion::V3 => "nfsv3",
            _ => "nfsv4",
        });
    }
    let name = format!("NFS {}:{}", location.host, location.path);
    machine.log.info(&format!("mounting {name}"));
    sys::file::make_dir(target, 0o755).map_err(|errno| fail(&errno))?;
    match nfs::mount(&location, server, up.config.address, target, nfs::Limits::default()) {
        Ok(mounted) => {
            for attempt in &mounted.failed {
                machine.log.info(&attempt.to_string());
            }
            machine.log.detail(&format!("{name}: {}", mounted.options));
            Ok(name)
        }
        Err(attempts) => {
            let reasons: Vec<String> = attempts.iter().map(ToString::to_string).collect();
            let last = !attempts.iter().all(|attempt| attempt.reason.is_transient());
            Err((name, Refusal { why: reasons.join("; "), last }))
        }
    }
}

/// The address of a source's server.
///
/// # Errors
/// When there is no network, nobody to ask, or no such name.
pub fn server(machine: &Machine, server: &Server) -> Result<Ipv4Addr, String> {
    let up = machine.network.up().ok_or("the network is not up")?;
    match server {
        Server::Host(host) => resolve(up, host),
        Server::Boot => {
            resolve(up, &up.boot_server().ok_or("neither the line nor DHCP names a server")?)
        }
    }
}

/// A source's server, for people.
#[must_use]
pub fn name_of(server: &Server) -> &str {
    match server {
        Server::Host(host) => host,
        Server::Boot => "the boot server",
    }
}

/// The address of a server that the line or DHCP names.
fn resolve(up: &NetworkUp, host: &str) -> Result<Ipv4Addr, String> {
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    let hosts = sys::file::read_file("/etc/hosts", 64 << 10).unwrap_or_default();
    Resolver::new(&up.config)
        .resolve(host, &String::from_utf8_lossy(&hosts), RESOLVE_LIMIT)
        .map_err(|error| error.to_string())
}

/// State files below `/run`, as `(path, text)`; `pinned` is whether the root hangs on
/// the boot link.
#[must_use]
pub fn state_files(network: &Network, plan: &BootPlan, pinned: bool) -> Vec<(String, String)> {
    let Some(up) = network.up() else { return Vec::new() };
    let mut files = Vec::from([
        (format!("/run/net-{}.conf", up.device), state::net_conf(up)),
        ("/run/bellwether/network.json".to_string(), state::json(up)),
    ]);
    // The root hangs on this link: whoever manages networks must not touch it.
    if pinned && let Some(mac) = up.mac {
        let mac = netboot::race::MacText(mac);
        files.push((
            format!("/run/systemd/network/05-bellwether-{}.network", up.device),
            format!("[Match]\nMACAddress={mac}\n\n[Link]\nUnmanaged=yes\nRequiredForOnline=no\n"),
        ));
        files.push((
            "/run/NetworkManager/conf.d/90-bellwether.conf".to_string(),
            format!("[keyfile]\nunmanaged-devices=mac:{mac}\n"),
        ));
    }
    let servers: Vec<String> = up.config.dns.iter().map(ToString::to_string).collect();
    if !servers.is_empty() {
        let mut text = format!("[Resolve]\nDNS={}\n", servers.join(" "));
        let domains = if up.config.search.is_empty() {
            up.config.domain.clone()
        } else {
            up.config.search.join(" ")
        };
        if !domains.is_empty() {
            text.push_str(&format!("Domains={domains}\n"));
        }
        files.push(("/run/systemd/resolved.conf.d/90-bellwether.conf".to_string(), text));
    }
    if plan.handoff.layout == Dialect::Casper && !plan.handoff.keep_network {
        files.push((format!("/run/netplan/{}.yaml", up.device), netplan(up)));
    }
    files
}

/// Files of the new root's `/etc`, as `(path, text)`. `link` reads links there.
#[must_use]
pub fn root_files(
    network: &Network,
    plan: &BootPlan,
    link: &dyn Fn(&str) -> Option<String>,
) -> Vec<(String, String)> {
    let Some(up) = network.up() else { return Vec::new() };
    let mut files = Vec::new();
    let resolv = state::resolv_conf(up);
    // systemd-resolved's own link stays: it is told the servers by its own file.
    let managed = link("/etc/resolv.conf").is_some_and(|to| text::has(&to, "systemd/resolve"));
    if plan.handoff.resolv_conf && !resolv.is_empty() && !managed {
        files.push(("/etc/resolv.conf".to_string(), resolv));
    }
    if !up.config.hostname.is_empty() && !plan.handoff.keep_network {
        files.push(("/etc/hostname".to_string(), format!("{}\n", up.config.hostname)));
        files
            .push(("/etc/hosts".to_string(), state::hosts(&up.config.hostname, &up.config.domain)));
    }
    if plan.handoff.layout == Dialect::LiveBoot && !plan.handoff.keep_network {
        let text = format!(
            "auto lo\niface lo inet loopback\n\n# The root came over this link: it must stay as it is.\niface {} inet manual\n",
            up.device
        );
        files.push(("/etc/network/interfaces".to_string(), text));
    }
    files
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

/// An export, for people.
#[must_use]
pub fn describe_nfs(source: &NfsSource) -> String {
    let server = name_of(&source.server);
    format!("NFS {server}:{}", source.path.as_deref().unwrap_or("(root path of DHCP)"))
}
