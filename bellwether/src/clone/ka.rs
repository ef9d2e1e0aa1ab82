//! `ka-d-server` and `ka-d-client`: one session of KA.

use super::copying::{self, FILE};
use super::flags::{
    DIGEST, FROM, Flag, Given, KEY, NO_READ_BACK, Program, QUIET, SEND_DIGEST, SEND_KEY, STALL,
    STALLED, VERIFY, flag,
};
use super::report::PXELINUX;
use super::world::{Host, Sources};
use crate::failure::Failure;
use clone::edge::ka::Ka;
use clone::edge::{Order, Protocol, World};
use clone::ka::wire::Layout;
use clone::outcome::{Patience, Received};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SESSION: Flag = flag("session", Some('s'), Some("NAME"), "the session's name [kainstall1]");
const COMMAND: Flag =
    flag("exec", Some('e'), Some("COMMAND"), "shell command between the stream and the disk");
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
        SEND_DIGEST,
        SEND_KEY,
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
        NO_READ_BACK,
        FROM,
        DIGEST,
        KEY,
    ],
};

/// KA with the session of the options.
fn ka(given: &Given) -> Ka {
    named(given.get("session").unwrap_or("kainstall1"))
}

fn named(session: &str) -> Ka {
    Ka { session: session.to_owned(), ..Ka::default() }
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
        copying::readable(Path::new(file))?;
    }
    let ka = Ka {
        clients,
        arity: given.parsed("arity")?,
        unverified: given.has("no-verify"),
        ..ka(given)
    };
    let mut host = Host::new("ka-d-server", given.has("quiet"), true);
    let file = PathBuf::from(file.unwrap_or("/dev/null"));
    host.sources = Sources::Files(vec![file], command.map(str::to_owned));
    let mut here = copying::patient(given)?;
    copying::sender(given, &format!("ka:{}", ka.session), &[], &mut here, &mut host)?;
    copying::send(&ka, &Order::of(&here), given, &mut host)
}

/// One session of `ka-d`, which sends a shell command's output.
pub fn session(name: &str, clients: usize, command: String, given: &Given) -> (Ka, Host) {
    let mut host = Host::new("ka-d-server", given.has("quiet"), true);
    host.sources = Sources::Files(vec!["/dev/null".into()], Some(command));
    (Ka { clients, ..named(name) }, host)
}

/// Takes one session of `ka-d`'s into a shell command.
pub fn take(
    session: &str,
    server: Option<Ipv4Addr>,
    command: &str,
    patience: Duration,
) -> Result<Received, Failure> {
    let mut host = Host::new("ka-d-client", false, true);
    host.pipe = Some(command.to_owned());
    let here = copying::here(Patience { start: Some(patience), stall: Some(STALLED) });
    let got = Ka { server, ..named(session) }.receive(&here, &mut host);
    host.end();
    Ok(got?)
}

/// Receives.
pub fn receive(given: &Given) -> Result<(), Failure> {
    let mut host = copying::stream("ka-d-client", given, "exec")?;
    let resolve = |name| host.resolve(name).map_err(|e| Failure::Failed(format!("{name}: {e}")));
    let server = given.get("host").map(resolve).transpose()?;
    let ka = Ka {
        server,
        layout: if given.has("lp64") { Layout::Lp64 } else { Layout::I386 },
        go_now: given.has("go"),
        tries: Some(10),
        ..ka(given)
    };
    copying::receive(&ka, &copying::receiver(given)?, &mut host)
}
