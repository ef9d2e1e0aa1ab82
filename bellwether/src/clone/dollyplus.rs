//! `dollyS` and `dollyC`: Dolly+'s server and client.

use super::copying;
use super::flags::{FROM, Given, KEY, NO_READ_BACK, Program, QUIET, SEND_KEY, STALL, VERIFY, flag};
use super::report::PXELINUX;
use super::world::{Host, Sources, addresses, names, show_addresses};
use crate::failure::Failure;
use clone::cook::{Cook, Output};
use clone::dollyplus::config::{Config, File, cook_of};
use clone::edge::dollyplus::DollyPlus;
use clone::edge::{Here, Order};
use clone::outcome::Amount;
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
        SEND_KEY,
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
        NO_READ_BACK,
        FROM,
        KEY,
    ],
};

fn config(given: &Given) -> Result<Config, Failure> {
    let text = if let Some((input, output, clients)) = copying::listed(given)? {
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
            clients,
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
        let length = copying::readable(Path::new(&file.input))?;
        if given.has("dry-run") {
            let length = length.map_or("of unknown length".to_owned(), |n| Amount(n).to_string());
            println!("{} -> {}: {length}", file.input, file.output.path);
        }
    }
    if given.has("dry-run") {
        print!("{}", config.text());
        show_addresses(std::iter::once(&config.server).chain(&config.clients));
        return Ok(());
    }
    let mut host = Host::new("dollyS", given.has("quiet"), given.has("verbose"));
    let outputs: Vec<Output> = config.files.iter().map(|f| f.output.clone()).collect();
    let inputs = config.files.iter().map(|f| PathBuf::from(&f.input)).collect();
    host.sources = Sources::Files(inputs, None);
    // The last client connects to the name of the configuration.
    let mut here = Here { names: vec![config.server.clone()], ..copying::patient(given)? };
    let from = addresses(std::iter::once(&config.server).chain(&config.clients), &mut host);
    copying::sender(given, "dollyplus", &from, &mut here, &mut host)?;
    let order = Order { here: &here, clients: &config.clients, files: &outputs, start: None };
    copying::send(&DollyPlus, &order, given, &mut host)
}

/// Receives.
pub fn receive(given: &Given) -> Result<(), Failure> {
    let mut host = copying::node("dollyC", given, true)?;
    copying::receive(&DollyPlus, &copying::receiver(given)?, &mut host)
}
