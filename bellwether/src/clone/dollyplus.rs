//! `dollyS` and `dollyC`: Dolly+'s server and client.

use super::flags::{Given, Program, QUIET, STALL, VERIFY, flag};
use super::progress::{bytes, rate};
use super::report::{self, PXELINUX};
use super::store::Source;
use super::world::{Host, listed, names, show_addresses, source, why};
use crate::failure::Failure;
use clone::cook::Cook;
use clone::dollyplus::config::{Config, File, cook_of};
use clone::dollyplus::wire::Output;
use clone::edge;
use clone::edge::dollyplus::{Options, Standing};
use std::path::{Path, PathBuf};

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
        PXELINUX,
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
        VERIFY,
    ],
};

fn options(given: &Given) -> Result<Options, Failure> {
    Ok(Options {
        start_timeout: given.seconds("timeout")?,
        stall_timeout: given.stall()?,
        ..Options::default()
    })
}

fn config(given: &Given) -> Result<Config, Failure> {
    let text = if let Some(input) = given.get("input") {
        let usage = |what: &str| Failure::Usage(format!("-I needs {what}"));
        let output = given.get("output").ok_or_else(|| usage("-O FILE"))?;
        let hosts = given.get("hosts").ok_or_else(|| usage("-H HOST,HOST"))?;
        let cook = if given.has("unpack") { cook_of(input) } else { Cook::default() };
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
        show_addresses(std::iter::once(&config.server).chain(&config.clients));
        return Ok(());
    }
    let mut world = Host::new("dollyS", given.has("quiet"), given.has("verbose"));
    let outputs: Vec<Output> = config.files.iter().map(|f| f.output.clone()).collect();
    let mut open = |number: usize| -> Result<Box<dyn edge::Source>, String> {
        let path = config.files.get(number).map_or("-", |f| &f.input);
        source(Path::new(path), None, false).map_err(why)
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
    let sent = sent?;
    let total: u64 = sent.digests.iter().map(|d| d.bytes).sum();
    let took = world.took();
    eprintln!("dollyS: {} in {:.1} s, {}", bytes(total), took.as_secs_f64(), rate(total, took));
    for (file, digest) in config.files.iter().zip(&sent.digests) {
        eprintln!("  {} blake3 {digest}", file.input);
    }
    let good = |s: &Standing| matches!(s, Standing::Verified | Standing::Acknowledged);
    let machines = listed(&sent.clients, good, given, &mut world);
    report::table(&machines, total, took, given)
}

/// Receives.
pub fn receive(given: &Given) -> Result<(), Failure> {
    let mut world = Host::new("dollyC", given.has("quiet"), true);
    world.target = given.get("target").map(PathBuf::from);
    eprintln!("dollyC: waiting for a server");
    let got = edge::dollyplus::receive(&options(given)?, &mut world);
    world.end();
    let got = got?;
    let mut verdict = if got.verified {
        "verified with the server".to_owned()
    } else {
        "NOT verified: the server compares no digests".to_owned()
    };
    if given.has("verify") {
        world.read_back(&got.digests)?;
        verdict += "; read back";
    }
    let total: u64 = got.digests.iter().map(|d| d.bytes).sum();
    eprintln!("dollyC: {}, {}; {verdict}", bytes(total), rate(total, world.took()));
    for digest in &got.digests {
        eprintln!("  blake3 {digest} ({})", bytes(digest.bytes));
    }
    Ok(())
}
