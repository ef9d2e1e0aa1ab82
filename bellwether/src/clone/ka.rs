//! `ka-d-server` and `ka-d-client`: one session of KA.

use super::flags::{Flag, Given, Program, QUIET, STALL, STALLED, VERIFY, flag};
use super::progress::{bytes, rate};
use super::report::{self, Machine, PXELINUX};
use super::store::{How, Source, Target};
use super::world::{Host, HostStore, source, why};
use crate::failure::Failure;
use clone::edge;
use clone::ka::server::Standing;
use clone::ka::wire::Layout;
use clone::ka::{client, server};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

const SESSION: Flag = flag("session", Some('s'), Some("NAME"), "the session's name [kainstall1]");
const COMMAND: Flag =
    flag("exec", Some('e'), Some("COMMAND"), "shell command between the stream and the disk");
const FILE: Flag = flag("file", Some('f'), Some("FILE"), "file or device, instead of a command");
const TIMEOUT: Flag =
    flag("timeout", Some('T'), Some("S"), "give up when not all are there after so long");

/// The server's grammar.
pub static SERVER: Program = Program {
    name: "ka-d-server",
    about: "Sends a stream through a chain of machines that it mends when one fails.",
    rest: "",
    example: "bellwether clone ka-d-server -s room1 -n 4 -f /dev/sda",
    flags: &[
        SESSION,
        flag("clients", Some('n'), Some("N"), "begin when so many are there"),
        COMMAND,
        FILE,
        flag("arity", Some('a'), Some("N"), "children of each node, 1 to 4 [1]"),
        TIMEOUT,
        STALL,
        QUIET,
        flag("no-verify", None, None, "compare no digests"),
        PXELINUX,
        flag("", Some('l'), None, "accepted and ignored"),
    ],
};

/// The client's grammar.
pub static CLIENT: Program = Program {
    name: "ka-d-client",
    about: "Receives and relays a stream of ka-d-server's.",
    rest: "",
    example: "bellwether clone ka-d-client -w -s room1 -f /dev/sda",
    flags: &[
        SESSION,
        flag("host", Some('h'), Some("HOST"), "the server [found by broadcast]"),
        flag("wait", Some('w'), None, "stay until all have finished [yes]"),
        flag("go", Some('g'), None, "begin with those that are there"),
        COMMAND,
        FILE,
        flag("lp64", None, None, "speak as a 64-bit program first, not as a 32-bit one"),
        TIMEOUT,
        STALL,
        QUIET,
        VERIFY,
    ],
};

fn session(given: &Given) -> String {
    given.get("session").unwrap_or("kainstall1").to_owned()
}

/// Sends.
pub fn send(given: &Given) -> Result<(), Failure> {
    let clients = given.clients("ka-d-server")?;
    let (file, command) = (given.get("file"), given.get("exec"));
    if file.is_none() && command.is_none() {
        return Err(Failure::Usage(
            "ka-d-server: what shall be sent? -f FILE, or -e 'tar -C / -c .'".to_owned(),
        ));
    }
    // What cannot be read is known before the others wait for it.
    if let Some(file) = file {
        Source::open(Some(Path::new(file)), None)?;
    }
    let options = server::Options {
        session: session(given),
        clients,
        arity: given.parsed("arity")?.unwrap_or(1),
        verify: !given.has("no-verify"),
        start_timeout: given.seconds("timeout")?,
        stall_timeout: given.stall()?,
    };
    let sent = send_to(options, file, command, given.has("quiet"))?;
    end(&sent, given)
}

/// The table of a session.
pub fn end((sent, took): &(edge::ka::Sent, Duration), given: &Given) -> Result<(), Failure> {
    let machine = |(ip, standing): &(Ipv4Addr, Standing)| Machine {
        name: ip.to_string(),
        address: Some(*ip),
        result: standing.to_string(),
        good: good(standing),
    };
    let machines: Vec<Machine> = sent.clients.iter().map(machine).collect();
    report::table(&machines, sent.digest.bytes, *took, given)
}

/// Whether that machine has a copy.
pub fn good(standing: &Standing) -> bool {
    matches!(standing, Standing::Verified | Standing::Finished)
}

/// One session of `ka-d`.
pub fn serve(
    session: &str,
    clients: usize,
    file: Option<&str>,
    command: Option<&str>,
    start_timeout: Option<Duration>,
    quiet: bool,
) -> Result<(edge::ka::Sent, Duration), Failure> {
    let options = server::Options {
        session: session.to_owned(),
        clients,
        arity: 1,
        verify: true,
        start_timeout,
        stall_timeout: Some(STALLED),
    };
    send_to(options, file, command, quiet)
}

fn send_to(
    options: server::Options,
    file: Option<&str>,
    command: Option<&str>,
    quiet: bool,
) -> Result<(edge::ka::Sent, Duration), Failure> {
    let mut world = Host::new("ka-d-server", quiet, true);
    eprintln!("ka-d-server: session {}; waiting for {} clients", options.session, options.clients);
    let mut open = || -> Result<Box<dyn edge::Source>, String> {
        source(Path::new(file.unwrap_or("/dev/null")), command, false).map_err(why)
    };
    let sent = edge::ka::send(options, &mut open, &mut world);
    world.end();
    let sent = sent?;
    let took = world.took();
    report::sent("ka-d-server", sent.digest, took);
    Ok((sent, took))
}

/// Takes one session of `ka-d`'s into a shell command.
pub fn take(
    session: &str,
    server: Option<Ipv4Addr>,
    command: &str,
    patience: Duration,
) -> Result<edge::ka::Received, Failure> {
    let mut world = Host::new("ka-d-client", false, true);
    let how = How { pipe: Some(command), ..How::default() };
    let store = HostStore::new(Target::open(None, how)?);
    let options = client::Options {
        session: session.to_owned(),
        server,
        layout: Layout::I386,
        wait: true,
        go_now: false,
        tries: u32::try_from(patience.as_secs()).unwrap_or(u32::MAX),
        start_timeout: Some(patience),
        stall_timeout: Some(STALLED),
    };
    let got = edge::ka::receive(options, Box::new(store), &mut world);
    world.end();
    Ok(got?)
}

/// Receives.
pub fn receive(given: &Given) -> Result<(), Failure> {
    let mut world = Host::new("ka-d-client", given.has("quiet"), true);
    let server = match given.get("host") {
        Some(host) => Some(
            edge::World::resolve(&mut world, host)
                .map_err(|e| Failure::Failed(format!("{host}: {e}")))?,
        ),
        None => None,
    };
    let path = given.get("file").map(Path::new);
    let read_back = given.has("verify").then_some(path).flatten();
    if given.has("verify") && (path.is_none() || given.has("exec")) {
        return Err(Failure::Usage("ka-d-client: --verify reads back -f FILE alone".to_owned()));
    }
    let how = How { pipe: given.get("exec"), ..How::default() };
    let store = HostStore::new(Target::open(path, how)?);
    let options = client::Options {
        session: session(given),
        server,
        layout: if given.has("lp64") { Layout::Lp64 } else { Layout::I386 },
        wait: true,
        go_now: given.has("go"),
        tries: 10,
        start_timeout: given.seconds("timeout")?,
        stall_timeout: given.stall()?,
    };
    eprintln!("ka-d-client: session {}", options.session);
    let got = edge::ka::receive(options, Box::new(store), &mut world);
    world.end();
    let (got, took) = (got?, world.took());
    let mut verdict = if got.verified {
        "verified with the server".to_owned()
    } else {
        "NOT verified: the server compares no digests".to_owned()
    };
    if let Some(path) = read_back {
        super::store::read_back(path, got.digest)?;
        verdict += "; read back";
    }
    eprintln!(
        "ka-d-client: {} in {:.1} s, {}; blake3 {}; {verdict}",
        bytes(got.digest.bytes),
        took.as_secs_f64(),
        rate(got.digest.bytes, took),
        got.digest,
    );
    Ok(())
}
