//! `dolly`: one program, server with `-s`, client without.

use super::flags::{Given, Program, QUIET, STALL, VERIFY, flag};
use super::progress::{bytes, rate};
use super::report::{self, PXELINUX};
use super::world::{Host, PipeSource, listed, names, random, show_addresses, source};
use crate::failure::Failure;
use clone::dolly::config::{Config, Input, Line, Output, What};
use clone::dolly::server::Standing;
use clone::dolly::{client, server};
use clone::edge;
use std::path::{Path, PathBuf};

/// What is held between a fast and a slow side.
const RING: usize = 16 << 20;

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
        flag("nosync", Some('n'), None, "a client does not wait for its disk"),
        VERIFY,
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
    if let Some(input) = given.get("input") {
        let usage = |what: &str| Failure::Usage(format!("-I needs {what}"));
        let output = given.get("output").ok_or_else(|| usage("-O FILE"))?;
        let hosts = given.get("hosts").ok_or_else(|| usage("-H HOST,HOST"))?;
        let hosts: Vec<String> =
            hosts.split(',').filter(|h| !h.is_empty()).map(str::to_owned).collect();
        let suse = given.has("suse") || given.has("password");
        let classic = |text: Option<&String>| {
            if suse { String::new() } else { text.cloned().unwrap_or_default() }
        };
        let own = names().pop().unwrap_or_else(|| "server".to_owned());
        let config = Config {
            line: if suse { Line::Suse } else { Line::Classic },
            what: What::File {
                input: Input { path: input.to_owned(), ..Input::default() },
                output: Output { path: output.to_owned(), ..Output::default() },
            },
            segment_size: None,
            cards: None,
            fanout: 1,
            hyphen: None,
            server: classic(Some(&own)),
            first: classic(hosts.first()),
            last: classic(hosts.last()),
            hosts,
            verify: false,
        };
        // Read back: what cannot be said in this format is found here.
        let text = config.text();
        let config = Config::parse(&text)?;
        return Ok((config, text));
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
    let (mut source, name) = match &config.what {
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
        let length = source.length().map_or("of unknown length".to_owned(), bytes);
        println!("{name}: {length}; chain:");
        show_addresses(&config.hosts);
        return Ok(());
    }
    let options = server::Options {
        password: given.get("password").map(str::to_owned),
        nonce: random()?,
        start_timeout: given.seconds("timeout")?,
        stall_timeout: given.stall()?,
        directories: false,
    };
    let mut world = Host::new("dolly", given.has("quiet"), given.has("verbose"));
    eprintln!("dolly: {name} to {} machines; connecting", config.hosts.len());
    let verify = !given.has("no-verify");
    let sent = edge::dolly::send(config, &text, verify, options, RING, &mut *source, &mut world);
    world.end();
    let sent = sent?;
    report::sent("dolly", sent.digest, world.took());
    let good = |s: &Standing| matches!(s, Standing::Verified | Standing::Acknowledged);
    let machines = listed(&sent.clients, good, given, &mut world);
    report::table(&machines, sent.digest.bytes, world.took(), given)
}

fn receive(given: &Given) -> Result<(), Failure> {
    let mut world = Host::new("dolly", given.has("quiet"), given.has("verbose"));
    world.target = given.get("target").map(PathBuf::from);
    world.sync = given.has("nosync").then_some(false);
    let options = client::Options {
        names: names(),
        password: given.get("password").map(str::to_owned),
        nonce: random()?,
        start_timeout: given.seconds("timeout")?,
        stall_timeout: given.stall()?,
    };
    eprintln!("dolly: waiting for a server, as {}", options.names.join(" or "));
    let got = edge::dolly::receive(options, RING, &mut world);
    world.end();
    let got = got?;
    let mut verdict = match got.verified {
        true => "verified with the server".to_owned(),
        false => "NOT verified: the server, or a node, compares no digests".to_owned(),
    };
    if given.has("verify") {
        world.read_back(&[got.digest])?;
        verdict += "; read back";
    }
    eprintln!(
        "dolly: {} in {:.1} s, {}; blake3 {}; {verdict}",
        bytes(got.digest.bytes),
        world.took().as_secs_f64(),
        rate(got.digest.bytes, world.took()),
        got.digest,
    );
    Ok(())
}
