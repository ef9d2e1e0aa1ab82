//! `dolly`: one program, server with `-s`, client without.

use super::copying;
use super::flags::{FROM, Given, NO_READ_BACK, Program, QUIET, STALL, VERIFY, flag};
use super::report::PXELINUX;
use super::world::{Host, PipeSource, Sources, addresses, names, show_addresses, source};
use crate::failure::Failure;
use clone::dolly::config::{Config, Line, What};
use clone::edge::dolly::Dolly;
use clone::edge::{self, Order};
use clone::outcome::Amount;
use std::path::Path;

/// The grammar.
pub static DOLLY: Program = Program {
    name: "dolly",
    about: "Sends a disk through a chain of machines; without -s, is one of them.",
    rest: "",
    example: "bellwether clone dolly -s -v -f dolly.cfg",
    flags: &[
        flag("server", Some('s'), None, "send; without it, receive and relay"),
        flag("", Some('S'), None, "as -s; the server line need not name this machine"),
        flag("config", Some('f'), Some("FILE"), "configuration [dolly.cfg]"),
        flag("input", Some('I'), Some("FILE"), "send this, without a configuration"),
        flag("output", Some('O'), Some("FILE"), "to this, at all clients"),
        flag("hosts", Some('H'), Some("A,B,C"), "the clients, in the order of the chain"),
        flag("password", Some('P'), Some("WORD"), "of openSUSE's line; the data is not encrypted"),
        flag("suse", None, None, "-I, -O and -H speak to openSUSE's 0.70 and later"),
        flag("target", None, Some("FILE"), "a client writes here, whatever the server names"),
        flag("timeout", Some('a'), Some("S"), "wait this long for the others [client: for ever]"),
        STALL,
        flag("verbose", Some('v'), None, "show what each node says"),
        QUIET,
        flag("nosync", Some('n'), None, "accepted and ignored; a copy always reaches the disk"),
        VERIFY,
        NO_READ_BACK,
        FROM,
        flag("digest", None, Some("NAME:HEX"), "a client's copy must have this digest"),
        flag("key", None, Some("WORD"), "only machines with this key; new makes one"),
        flag("no-verify", None, None, "a server asks for no digests"),
        PXELINUX,
        flag("dry-run", None, None, "a server checks and shows the configuration, and ends"),
        flag("", Some('d'), None, "accepted and ignored; dummy in the configuration is enough"),
        flag("", Some('c'), Some("SIZE"), "accepted and ignored"),
        flag("", Some('o'), Some("LOG"), "accepted and ignored; messages go to standard error"),
        flag("", Some('r'), Some("N"), "accepted and ignored; -a ends the attempts"),
        flag("", Some('V'), None, "the version"),
    ],
};

/// Runs either end.
pub fn run(given: &Given) -> Result<(), Failure> {
    if given.has("V") {
        println!("dolly of bellwether {}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    if given.has("server") || given.has("S") { send(given) } else { receive(given) }
}

/// The configuration: from a file, or from -I, -O and -H.
fn config(given: &Given) -> Result<(Config, String), Failure> {
    if let Some((input, output, hosts)) = copying::listed(given)? {
        let suse = given.has("suse") || given.has("password");
        let line = if suse { Line::Suse } else { Line::Classic };
        let own = names().pop().unwrap_or_else(|| "server".to_owned());
        return Ok(Config::of_file(line, (input, output), &own, &hosts)?);
    }
    let path = given.get("config").unwrap_or("dolly.cfg");
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::Failed(format!("{path}: cannot be read: {e}")))?;
    let config = Config::parse(&text)
        .map_err(|e| Failure::Usage(e.to_string().replacen("dolly.cfg", path, 1)))?;
    Ok((config, text))
}

fn send(given: &Given) -> Result<(), Failure> {
    let (config, text) = config(given)?;
    let own = names();
    if config.line == Line::Classic && !own.contains(&config.server) && !given.has("S") {
        eprintln!(
            "dolly: the server line says {}, and this machine is {}",
            config.server,
            own.join(", ")
        );
    }
    let (source, name) = match &config.what {
        What::Dummy(megabytes) => {
            let zeros = super::store::Source::open(Some(Path::new("/dev/zero")), None)?
                .limited(megabytes.unwrap_or(1024).saturating_mul(1 << 20));
            let source: Box<dyn edge::Source> = Box::new(PipeSource::new(vec![zeros]));
            (source, "zeros (benchmark)".to_owned())
        }
        What::File { input, output } => {
            let pipe = output.compressed.then_some("gzip -cf");
            (source(Path::new(&input.path), pipe, input.split)?, input.path.clone())
        }
    };
    if given.has("dry-run") {
        print!("{text}");
        let length =
            source.length().map_or("of unknown length".to_owned(), |n| Amount(n).to_string());
        println!("{name}: {length}; chain:");
        show_addresses(&config.hosts);
        return Ok(());
    }
    let mut host = Host::new("dolly", given.has("quiet"), given.has("verbose"));
    host.sources = Sources::Open(Some(source));
    eprintln!("dolly: {name} to {} machines; connecting", config.hosts.len());
    let mut here = copying::patient(given)?;
    let server = Some(&config.server).filter(|server| !server.is_empty());
    let from = addresses(server.into_iter().chain(&config.hosts), &mut host);
    copying::sender(given, "dolly", &from, &mut here, &mut host)?;
    let dolly = Dolly {
        password: given.get("password").map(str::to_owned),
        config: Some((config, text)),
        unverified: given.has("no-verify"),
    };
    copying::send(&dolly, &Order::of(&here), given, &mut host)
}

fn receive(given: &Given) -> Result<(), Failure> {
    let mut host = copying::node("dolly", given, given.has("verbose"))?;
    let password = given.get("password").map(str::to_owned);
    let dolly = Dolly { password, ..Dolly::default() };
    if !given.has("quiet") && !given.has("timeout") {
        eprintln!("dolly: receives, and waits until a server (dolly -s) comes; Ctrl-C ends it");
    }
    copying::receive(&dolly, &copying::receiver(given)?, &mut host)
}
