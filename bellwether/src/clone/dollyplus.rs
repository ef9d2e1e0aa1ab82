//! `dollyS` and `dollyC`: Dolly+'s server and client.

use super::flags::{Flag, Given, Program, flag};
use super::progress::{bytes, rate};
use super::store::Source;
use super::world::{FileSource, Host, PipeSource, names, why};
use crate::Failure;
use clone::dollyplus::config::{Config, File, cook_of};
use clone::dollyplus::wire::Output;
use clone::edge;
use clone::edge::dollyplus::{Options, Standing};
use std::path::{Path, PathBuf};
use std::time::Duration;

const STALL: Flag = flag("stall", None, Some("S"), "give up when nothing moves for so long [300]");
const QUIET: Flag = flag("quiet", Some('q'), None, "no progress");

/// The server's grammar.
pub static SERVER: Program = Program {
    name: "dollyS",
    about: "Sends files through a ring of machines, past those that fail.",
    rest: "",
    example: "bellwether clone dollyS -v -f dolly+.cfg",
    flags: &[
        flag("config", Some('f'), Some("FILE"), "configuration; - is standard input [dolly.cfg]"),
        flag("input", Some('I'), Some("FILE"), "send this, without a configuration"),
        flag("output", Some('O'), Some("FILE"), "to this, at all clients"),
        flag("hosts", Some('H'), Some("A,B,C"), "the clients, in the order of the ring"),
        flag("unpack", None, None, "-I's name says how clients unpack it, as >> does"),
        flag("timeout", Some('a'), Some("S"), "give up when there is no ring after so long"),
        STALL,
        flag("verbose", Some('v'), None, "show what each node says"),
        QUIET,
        flag("dry-run", None, None, "check and show the configuration, and end"),
    ],
};

/// The client's grammar.
pub static CLIENT: Program = Program {
    name: "dollyC",
    about: "Receives and relays files of dollyS's.",
    rest: "",
    example: "bellwether clone dollyC -v",
    flags: &[
        flag("target", None, Some("FILE"), "write here, whatever the server names"),
        flag("timeout", Some('a'), Some("S"), "wait this long for a server [for ever]"),
        STALL,
        flag("verbose", Some('v'), None, "show what is going on"),
        QUIET,
    ],
};

fn core(e: clone::Error) -> Failure {
    Failure::Failed(e.to_string())
}

fn options(given: &Given) -> Result<Options, Failure> {
    Ok(Options {
        start_timeout: super::dolly::seconds(given, "timeout")?,
        stall_timeout: super::dolly::seconds(given, "stall")?.or(Some(Duration::from_secs(300))),
        ..Options::default()
    })
}

fn config(given: &Given) -> Result<Config, Failure> {
    let text = if let Some(input) = given.get("input") {
        let usage = |what: &str| Failure::Usage(format!("-I needs {what}"));
        let output = given.get("output").ok_or_else(|| usage("-O FILE"))?;
        let hosts = given.get("hosts").ok_or_else(|| usage("-H HOST,HOST"))?;
        let cook = if given.has("unpack") { cook_of(input) } else { edge::Cook::default() };
        let file = File {
            input: input.to_owned(),
            output: Output { path: output.to_owned(), cook },
            raw_after_all: false,
        };
        let config = Config {
            files: vec![file],
            // An address is understood everywhere.
            server: names().pop().unwrap_or_else(|| "server".to_owned()),
            clients: hosts.split(',').filter(|h| !h.is_empty()).map(str::to_owned).collect(),
        };
        // Read back: what cannot be said in this format is found here.
        config.text()
    } else {
        match given.get("config").unwrap_or("dolly.cfg") {
            "-" => std::io::read_to_string(std::io::stdin())
                .map_err(|e| Failure::Failed(format!("standard input: {e}")))?,
            path => std::fs::read_to_string(path)
                .map_err(|e| Failure::Failed(format!("{path}: cannot be read: {e}")))?,
        }
    };
    Config::parse(&text).map_err(|e| Failure::Usage(e.to_string()))
}

/// Sends.
pub fn send(given: &Given) -> Result<(), Failure> {
    let config = config(given)?;
    for file in config.files.iter().filter(|f| f.raw_after_all) {
        eprintln!("dollyS: {}: nothing is known of such files: copied as it is", file.input);
    }
    // What cannot be read is known before the others wait for it.
    for file in &config.files {
        let length = Source::open(Some(Path::new(&file.input)), None)?.length;
        if given.has("dry-run") {
            let length = length.map_or("of unknown length".to_owned(), bytes);
            println!("{} -> {}: {length}", file.input, file.output.path);
        }
    }
    if given.has("dry-run") {
        print!("{}", config.text());
        let mut world = Host::new("dollyS", true, false);
        for host in std::iter::once(&config.server).chain(&config.clients) {
            match edge::World::resolve(&mut world, host) {
                Ok(ip) => println!("  {host:<20} {ip}"),
                Err(why) => println!("  {host:<20} {why}"),
            }
        }
        return Ok(());
    }
    let mut world = Host::new("dollyS", given.has("quiet"), given.has("verbose"));
    let outputs: Vec<Output> = config.files.iter().map(|f| f.output.clone()).collect();
    let mut open = |number: usize| -> Result<Box<dyn edge::Source>, String> {
        let path = config.files.get(number).map_or("-", |f| &f.input);
        let source = Source::open(Some(Path::new(path)), None).map_err(why)?;
        Ok(if source.length.is_some() {
            Box::new(FileSource(source))
        } else {
            Box::new(PipeSource::new(vec![source]))
        })
    };
    let sent = edge::dollyplus::send(
        &config.server,
        &config.clients,
        &outputs,
        &options(given)?,
        &mut open,
        &mut world,
    );
    world.end();
    let sent = sent.map_err(core)?;
    let total: u64 = sent.digests.iter().map(|d| d.bytes).sum();
    let took = world.took();
    eprintln!("dollyS: {} in {:.1} s, {}", bytes(total), took.as_secs_f64(), rate(total, took));
    for (file, digest) in config.files.iter().zip(&sent.digests) {
        eprintln!("  {} blake3 {digest}", file.input);
    }
    let mut bad = 0;
    for (name, standing) in &sent.clients {
        eprintln!("  {name:<20} {standing}");
        bad += usize::from(!matches!(standing, Standing::Verified | Standing::Acknowledged));
    }
    if bad > 0 {
        let all = sent.clients.len();
        return Err(Failure::Failed(format!("{bad} of {all} machines have no good copy")));
    }
    Ok(())
}

/// Receives.
pub fn receive(given: &Given) -> Result<(), Failure> {
    let mut world = Host::new("dollyC", given.has("quiet"), true);
    world.target = given.get("target").map(PathBuf::from);
    eprintln!("dollyC: waiting for a server");
    let got = edge::dollyplus::receive(&options(given)?, &mut world);
    world.end();
    let got = got.map_err(core)?;
    let verdict = if got.verified {
        "verified with the server"
    } else {
        "NOT verified: the server compares no digests"
    };
    let total: u64 = got.digests.iter().map(|d| d.bytes).sum();
    eprintln!("dollyC: {}, {}; {verdict}", bytes(total), rate(total, world.took()));
    for digest in &got.digests {
        eprintln!("  blake3 {digest} ({})", bytes(digest.bytes));
    }
    Ok(())
}
