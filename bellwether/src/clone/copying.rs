//! A copy at the host by any protocol: from a configured protocol to the last line and
//! the table of machines.

use super::flags::{Flag, Given, flag};
use super::net::interface;
use super::report::{self, Machine};
use super::world::{Host, Sources, names, random};
use crate::failure::Failure;
use clone::digest::Meter;
use clone::edge::{Here, Order, Pins, Protocol, World};
use clone::guard::{Pin, Terms};
use clone::outcome::{Patience, Sent, Summary, total};
use clone::pact::{Key, SHORTEST, hex};
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
        broadcast: interface(None).map_or(Ipv4Addr::BROADCAST, |i| i.broadcast),
        names: names(),
        listen: Ipv4Addr::UNSPECIFIED,
        patience,
        pins: Pins::default(),
    }
}

/// The key of `--key`.
fn key(text: &str) -> Result<Key, Failure> {
    let short = || Failure::Usage(format!("--key: has less than {SHORTEST} letters"));
    Key::new(text).ok_or_else(short)
}

/// What a receiver knows of the others, by its options.
pub fn pins(given: &Given) -> Result<Pins, Failure> {
    let wrong = |ip: &str| Failure::Usage(format!("--from: '{ip}' is not an IPv4 address"));
    let from = given.get("from").unwrap_or_default().split(',').filter(|ip| !ip.is_empty());
    let from = from.map(|ip| ip.parse().map_err(|_| wrong(ip))).collect::<Result<_, _>>()?;
    Ok(Pins { from, key: given.get("key").map(key).transpose()?, password: None })
}

/// What the user wants of a copy, by a receiver's options.
pub fn terms(given: &Given) -> Result<Terms, Failure> {
    let wrong = |text| Failure::Usage(format!("--digest: '{text}' is not like blake3:HEX"));
    let pin = given.get("digest").map(|text| Pin::parse(text).ok_or_else(|| wrong(text)));
    Ok(Terms { read_back: !given.has("no-read-back"), pin: pin.transpose()? })
}

/// A key as it is printed. One that was given is known where it is needed, and a screen is read by
/// others.
pub fn shown(word: &str, made: bool) -> &str {
    if made { word } else { "…" }
}

/// Prepares a sender by its options, and prints the line for its receivers. `from` are the
/// addresses that a receiver may be reached from; without one, this machine's.
pub fn sender(
    given: &Given,
    method: &str,
    from: &[Ipv4Addr],
    here: &mut Here,
    host: &mut Host,
) -> Result<(), Failure> {
    let own = || interface(None).map(|i| vec![i.address]).unwrap_or_default();
    let from = if from.is_empty() { own() } else { from.to_vec() };
    let from: Vec<String> = from.iter().map(Ipv4Addr::to_string).collect();
    let mut line = format!("bw.clone={method}");
    if !from.is_empty() {
        line += &format!(" bw.clone.from={}", from.join(","));
    }
    if let Some(word) = given.get("key") {
        let made = word == "new";
        let word = if made { hex(&random::<16>()?) } else { word.to_owned() };
        here.pins.key = Some(key(&word)?);
        line += &format!(" bw.clone.key={}", shown(&word, made));
    }
    if given.has("digest") {
        let file = match &host.sources {
            Sources::Files(paths, None) => paths.first().cloned(),
            _ => given.get("file").or(given.get("input")).map(Into::into),
        };
        let file = file.filter(|file| file != Path::new("-"));
        let file = file.ok_or_else(|| Failure::Usage("--digest needs a file or a disk".into()))?;
        let mut source = super::store::Source::open(Some(&file), None)?;
        let (mut meter, mut buffer) = (Meter::default(), vec![0; 1 << 20]);
        loop {
            match source.read(&mut buffer)? {
                0 => break,
                n => meter.update(buffer.get(..n).unwrap_or_default()),
            }
        }
        line += &format!(" bw.clone.digest=blake3:{}", meter.digest());
        host.digest = Some(meter.digest());
    }
    eprintln!("{}: the line of the machines that receive: {line}", host.name);
    Ok(())
}

/// A receiver, as [`patient`], with its pins.
pub fn receiver(given: &Given) -> Result<Here, Failure> {
    Ok(Here { pins: pins(given)?, ..patient(given)? })
}

/// This machine, with the patience of `--timeout` and [`super::flags::STALL`].
pub fn patient(given: &Given) -> Result<Here, Failure> {
    Ok(here(Patience { start: given.seconds("timeout")?, stall: given.stall()? }))
}

/// A world that writes the sender's files, or the one file of `--target`.
pub fn node(program: &'static str, given: &Given, verbose: bool) -> Result<Host, Failure> {
    let mut host = Host::new(program, given.has("quiet"), verbose);
    host.target = given.get("target").map(Into::into);
    host.terms = terms(given)?;
    Ok(host)
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
pub fn stream(program: &'static str, given: &Given, command: &str) -> Result<Host, Failure> {
    let mut host = Host::new(program, given.has("quiet") || given.has("no-progress"), true);
    host.target = given.get("file").map(Into::into);
    host.pipe = given.get(command).map(str::to_owned);
    host.terms = terms(given)?;
    if (given.has("verify") || host.terms.pin.is_some())
        && (host.target.is_none() || host.pipe.is_some())
    {
        let why = format!("{program}: --verify and --digest read back -f FILE alone");
        return Err(Failure::Usage(why));
    }
    Ok(host)
}

/// Receives, and prints the last line of [`Summary`].
pub fn receive(protocol: &impl Protocol, here: &Here, host: &mut Host) -> Result<(), Failure> {
    let got = protocol.receive(here, host);
    host.end();
    let got = got?;
    let took = host.took();
    let (digests, came) = (&got.digests[..], got.came);
    host.last_line(&Summary {
        digests,
        took,
        came,
        unpacked: got.unpacked,
        verdict: got.verdict(),
    });
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
    host.room_ended(&sent.clients);
    let again = match host.again {
        0 => String::new(),
        blocks => format!("{blocks} blocks sent again"),
    };
    // What the machine got that lacked the most.
    let came = sent.clients.iter().map(|client| client.came).max().flatten();
    host.last_line(&Summary {
        digests: &sent.digests,
        took,
        came,
        unpacked: None,
        verdict: &again,
    });
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
