//! The network step: `netboot` brings it up inside the machine's event loop;
//! this module waits for it when the plan needs it, and tells the live system.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use cmdline::BootPlan;
use cmdline::plan::{NfsSource, NfsVersion, Server, Source};
use cmdline::render::brief;
use netboot::dhcp::client::Needs;
use netboot::network::NetworkUp;
use netboot::nfs;
use netboot::resolve::Resolver;

use crate::link::Network;
use crate::log::Level;
use crate::machine::Machine;
use crate::trace::{Failure, Fault, Tried};

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
) -> Result<String, (String, Fault)> {
    let fail = |fault: Fault| (brief(&Source::Nfs(source.clone())), fault);
    let up = machine.network.up().cloned();
    let location =
        nfs::locate(source, up.as_ref()).map_err(|error| fail(error.to_string().into()))?;
    let up = up.ok_or_else(|| fail("the network is not up".into()))?;
    let server = resolve(&up, &location.host).map_err(fail)?;
    for version in &location.versions {
        machine.require(match version {
            NfsVersion::V2 => "nfsv2",
            NfsVersion::V3 => "nfsv3",
            _ => "nfsv4",
        });
    }
    let name = format!("NFS {}:{}", location.host, location.path);
    machine.log.info_once(&format!("mounting {name}"));
    sys::file::make_dir(target, 0o755).map_err(|errno| fail(errno.into()))?;
    match nfs::mount(&location, server, up.config.address, target, nfs::Limits::default()) {
        Ok(mounted) => {
            for attempt in &mounted.failed {
                let level = match attempt.reason {
                    nfs::Reason::Unusable(_) => Level::Warning,
                    _ => Level::Info,
                };
                machine.log.say(level, &attempt.to_string());
            }
            machine.log.detail(&format!("{name}: {}", mounted.options));
            Ok(name)
        }
        Err(attempts) => {
            let reasons: Vec<String> = attempts.iter().map(ToString::to_string).collect();
            let fault = Fault::from(reasons.join("; "));
            let transient = attempts.iter().all(|attempt| attempt.reason.is_transient());
            Err((name, if transient { fault } else { fault.last() }))
        }
    }
}

/// The address of a source's server.
///
/// # Errors
/// There is no network, no name server, or no such name.
pub fn server(machine: &Machine, server: &Server) -> Result<Ipv4Addr, Fault> {
    let up = machine.network.up().ok_or("the network is not up")?;
    match server {
        Server::Host(host) => resolve(up, host),
        Server::Boot => {
            resolve(up, &up.boot_server().ok_or("neither the line nor DHCP names a server")?)
        }
    }
}

/// The address of a server that the line or DHCP names.
fn resolve(up: &NetworkUp, host: &str) -> Result<Ipv4Addr, Fault> {
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    let hosts = sys::file::read_file("/etc/hosts", 64 << 10).unwrap_or_default();
    Resolver::new(&up.config)
        .resolve(host, &String::from_utf8_lossy(&hosts), RESOLVE_LIMIT)
        .map_err(|error| error.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::{boot_link, machine};

    fn plan(line: &str) -> BootPlan {
        cmdline::parse(line, &cmdline::Context::default())
    }

    #[test]
    fn a_lease_must_have_what_the_line_leaves_out() {
        let needs = |line| {
            let needs = needs(&plan(line));
            (needs.root_path, needs.boot_server)
        };
        assert_eq!(needs("root=/dev/nfs nfsroot=10.0.0.1:/srv ip=dhcp"), (false, false));
        assert_eq!(needs("root=/dev/nfs nfsroot=/srv ip=dhcp"), (false, true));
        assert_eq!(needs("root=/dev/nfs ip=dhcp"), (true, false));
        assert_eq!(needs("root=/dev/sda1 ip=dhcp"), (false, false));
    }

    #[test]
    fn a_server_is_the_named_one_or_the_boot_server() {
        let mut machine = machine("");
        let host = |name: &str| Server::Host(name.to_string());
        let error = server(&machine, &host("10.0.0.9")).unwrap_err();
        assert_eq!(error.to_string(), "the network is not up");
        machine.network = Network::fake(boot_link());
        assert_eq!(server(&machine, &host("10.0.0.9")), Ok(Ipv4Addr::new(10, 0, 0, 9)));
        let error = server(&machine, &Server::Boot).unwrap_err();
        assert_eq!(error.to_string(), "neither the line nor DHCP names a server");
        let known = Ipv4Addr::new(10, 0, 0, 1);
        machine.network =
            Network::fake(NetworkUp { known_boot_server: Some(known), ..boot_link() });
        assert_eq!(server(&machine, &Server::Boot), Ok(known));
    }

    #[test]
    fn an_export_without_a_network_is_refused_by_name() {
        let line = "root=/dev/nfs nfsroot=10.0.0.1:/srv ip=10.0.0.7:::255.255.255.0";
        let plan = plan(line);
        let Some(Source::Nfs(nfs)) = plan.root.sources.first() else { panic!("{plan:?}") };
        let (what, fault) = mount_nfs(&mut machine(""), nfs, "/nowhere").unwrap_err();
        assert_eq!(what, "NFS 10.0.0.1:/srv");
        assert_eq!(fault.to_string(), "the network is not up");
        assert!(!fault.is_last(), "it may come up");
    }

    #[test]
    fn a_network_that_did_not_come_up_says_what_to_do() {
        let failure = failure(&Network::default());
        assert_eq!(
            failure.tried.first().map(|tried| tried.why.as_str()),
            Some("nothing was tried")
        );
    }
}
