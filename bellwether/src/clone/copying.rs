//! A copy at the host by any protocol: from a configured protocol to the last line and
//! the table of machines.

use super::flags::{Flag, Given, flag};
use super::report::{self, Machine};
use super::world::{Check, Host, names};
use crate::failure::Failure;
use clone::edge::{Here, Order, Protocol, World};
use clone::outcome::{Patience, Sent, Summary, total};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

/// The option of programs that send or receive one stream.
pub const FILE: Flag =
    flag("file", Some('f'), Some("FILE"), "file or device, instead of a command");

/// This machine, on any of its networks.
pub fn here(patience: Patience) -> Here {
    Here {
        address: Ipv4Addr::UNSPECIFIED,
        broadcast: Ipv4Addr::BROADCAST,
        names: names(),
        listen: Ipv4Addr::UNSPECIFIED,
        patience,
    }
}

/// This machine, with the patience of `--timeout` and [`super::flags::STALL`].
pub fn patient(given: &Given) -> Result<Here, Failure> {
    Ok(here(Patience { start: given.seconds("timeout")?, stall: given.stall()? }))
}

/// A world that writes the sender's files, or the one file of `--target`.
pub fn node(program: &'static str, given: &Given, verbose: bool) -> Host {
    let mut host = Host::new(program, given.has("quiet"), verbose);
    host.target = given.get("target").map(Into::into);
    host.check = if given.has("verify") { Check::After } else { Check::Not };
    host
}

/// A file, what it is called at the machines, and the machines.
type Listed<'a> = (&'a str, &'a str, Vec<String>);

/// What -I, -O and -H say instead of a configuration.
pub fn listed(given: &Given) -> Result<Option<Listed<'_>>, Failure> {
    let Some(input) = given.get("input") else { return Ok(None) };
    let usage = |what: &str| Failure::Usage(format!("-I needs {what}"));
    let output = given.get("output").ok_or_else(|| usage("-O FILE"))?;
    let hosts = given.get("hosts").ok_or_else(|| usage("-H HOST,HOST"))?;
    let hosts = hosts.split(',').filter(|h| !h.is_empty()).map(str::to_owned).collect();
    Ok(Some((input, output, hosts)))
}

/// A world that writes one stream to `--file`, through the shell command of this option.
pub fn stream(
    program: &'static str,
    given: &Given,
    command: &str,
    check: Check,
) -> Result<Host, Failure> {
    let mut host = Host::new(program, given.has("quiet") || given.has("no-progress"), true);
    host.target = given.get("file").map(Into::into);
    host.pipe = given.get(command).map(str::to_owned);
    if given.has("verify") {
        if host.target.is_none() || host.pipe.is_some() {
            let why = format!("{program}: --verify reads back -f FILE alone");
            return Err(Failure::Usage(why));
        }
        host.check = check;
    }
    Ok(host)
}

/// Receives, and prints the last line of [`Summary`].
pub fn receive(protocol: &impl Protocol, here: &Here, host: &mut Host) -> Result<(), Failure> {
    let got = protocol.receive(here, host);
    host.end();
    let got = got?;
    let mut verdict = got.verdict().to_owned();
    let took = host.took();
    if host.check == Check::After {
        host.read_back(&got.digests)?;
    }
    if host.check != Check::Not {
        verdict += "; read back";
    }
    host.last_line(&Summary { digests: &got.digests, took, verdict: &verdict });
    Ok(())
}

/// Sends, and prints the last line of [`Summary`]; what was sent, and how long it took.
pub fn transfer(
    protocol: &impl Protocol,
    order: &Order<'_>,
    host: &mut Host,
) -> Result<(Sent, Duration), Failure> {
    let sent = protocol.send(order, host);
    host.end();
    let (sent, took) = (sent?, host.took());
    let again = match host.again {
        0 => String::new(),
        blocks => format!("{blocks} blocks sent again"),
    };
    host.last_line(&Summary { digests: &sent.digests, took, verdict: &again });
    Ok((sent, took))
}

/// Sends, and prints the table of all machines. An error when one has no good copy.
pub fn send(
    protocol: &impl Protocol,
    order: &Order<'_>,
    given: &Given,
    host: &mut Host,
) -> Result<(), Failure> {
    let (sent, took) = transfer(protocol, order, host)?;
    if sent.clients.is_empty() {
        eprintln!("  no machine has answered: whether one has a copy is not known");
        return Ok(());
    }
    let mut machines: Vec<Machine> = sent.clients.iter().map(Machine::of).collect();
    if given.has("pxelinux") {
        // Only here: to look up an unknown name takes seconds.
        for machine in &mut machines {
            machine.address = machine.address.or_else(|| host.resolve(&machine.name).ok());
        }
    }
    report::table(&machines, total(&sent.digests), took, given)
}

/// One file that is opened before any machine waits for it.
pub fn readable(path: &Path) -> Result<Option<u64>, Failure> {
    Ok(super::store::Source::open(Some(path), None)?.length)
}
