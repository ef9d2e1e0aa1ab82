//! `send` and `receive`: the used bytes of disks, chunk by chunk, to a whole room.

use super::copying;
use super::files;
use super::flags::{
    FROM, Flag, Given, KEEP_TABLE, KEY, NO_READ_BACK, Program, QUIET, SEND_KEY, STALL, flag,
};
use super::map;
use super::report::PXELINUX;
use super::seats::{PAGE, Seats, Window, what};
use super::world::Host;
use crate::failure::Failure;
use blockmap::{DiskMap, Extent, How, whole_disk};
use clone::edge::room::{Offer, Readable, Reader, Room};
use clone::edge::{Order, Protocol};
use clone::outcome::{Amount, Machines};
use clone::room::cast::Bulk;
use clone::room::manifest::{Area, CHUNK, Disk, Layout, Manifest, SMALL};
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

/// Trees of more bytes are cut into chunks as disks are: there are only so many.
const MANY: u64 = 64 << 30;

const PORT: Flag = flag("port", Some('P'), Some("PORT"), "TCP and UDP port of the sender [9011]");

/// The sender's grammar.
pub static SEND: Program = Program {
    name: "send",
    about: "Sends what is in use of disks to any number of machines, each chunk verified.",
    rest: "DISK|FILE...",
    example: "bellwether clone send /dev/sda -n 20",
    flags: &[
        FILES, CLIENTS, PORT, WHOLE, BULK, FIRST, LINGER, MAX_WAIT, STALL, SEND_KEY, PXELINUX,
        PAGE, JSON, VERBOSE, QUIET,
    ],
};

const CLIENTS: Flag =
    flag("clients", Some('n'), Some("N"), "begin when so many machines are there [1]");
const FIRST: Flag =
    flag("timeout", Some('a'), Some("S"), "wait so long for the first machines [for ever]");
const LINGER: Flag =
    flag("linger", None, Some("S"), "wait so long for machines that were lost [30]");
const VERBOSE: Flag = flag("verbose", Some('v'), None, "show what each machine says");
const WHOLE: Flag =
    flag("whole", None, None, "send all bytes, also those that no file system has in use");
const BULK: Flag = flag(
    "bulk",
    None,
    Some("WAY"),
    "what many machines lack goes by chain, by multicast, or auto: as a probe decides [chain]",
);
const MAX_WAIT: Flag = flag(
    "max-wait",
    None,
    Some("S"),
    "begin so long after the first machine has come, however many there are",
);
const FILES: Flag = flag(
    "files",
    None,
    Some("DIR"),
    "the files below a directory instead of disks: names, content, owners, modes, times, links, \
     attributes; of one file system",
);
const DELETE: Flag =
    flag("delete", None, None, "with --files, delete what the sender's directory does not have");
pub const JSON: Flag =
    flag("json", None, None, "what happens as JSON, a line each, on standard output");

/// The source's grammar.
pub static SOURCE: Program = Program {
    name: "source",
    about: "The source of a room: shows the targets that announce themselves, and copies to them.",
    rest: "DISK|FILE...",
    example: "bellwether clone source /dev/sda -n 20 --max-wait 300 --again",
    flags: &[
        FILES,
        CLIENTS,
        MAX_WAIT,
        flag("again", None, None, "after a copy wait for the next targets, until it is ended"),
        PORT,
        WHOLE,
        BULK,
        FIRST,
        LINGER,
        STALL,
        SEND_KEY,
        PXELINUX,
        PAGE,
        JSON,
        VERBOSE,
        QUIET,
    ],
};

/// The target's grammar.
pub static TARGET: Program = Program {
    name: "target",
    about: "A target of a room: announces its hardware address and its disk, and takes a copy.",
    rest: "DISK|FILE...",
    example: "bellwether clone target /dev/sda",
    flags: &[
        FROM,
        KEY,
        PORT,
        NO_READ_BACK,
        KEEP_TABLE,
        FILES,
        DELETE,
        flag("timeout", Some('a'), Some("S"), "wait so long for a source [for ever]"),
        STALL,
        JSON,
        VERBOSE,
        QUIET,
    ],
};

/// The receiver's grammar.
pub static RECEIVE: Program = Program {
    name: "receive",
    about: "Gets a copy from send, and hands its chunks on; takes only what the disk lacks.",
    rest: "DISK|FILE...",
    example: "bellwether clone receive /dev/sda",
    flags: &[
        FROM,
        KEY,
        PORT,
        NO_READ_BACK,
        KEEP_TABLE,
        FILES,
        DELETE,
        flag("timeout", Some('a'), Some("S"), "wait so long for a sender [for ever]"),
        STALL,
        VERBOSE,
        QUIET,
    ],
};

fn room(given: &Given) -> Result<Room, Failure> {
    Ok(Room::new(given.get("port").unwrap_or_default())?)
}

fn bulk(given: &Given) -> Result<Bulk, Failure> {
    match given.get("bulk") {
        None => Ok(Bulk::default()),
        Some("chain") => Ok(Bulk::Chain),
        Some("multicast") => Ok(Bulk::Multicast),
        Some("auto") => Ok(Bulk::Auto),
        Some(other) => {
            Err(Failure::Usage(format!("--bulk: '{other}' is none of chain, multicast and auto")))
        }
    }
}

pub fn disks(given: &Given, program: &str) -> Result<(), Failure> {
    let files = given.has("files");
    let refused = |what: &str| Err(Failure::Usage(format!("{program}: {what}")));
    if given.has("delete") && !files {
        return refused("--delete is for --files DIR: disks are copied whole");
    }
    if let Some(flag) = ["keep-table", "whole"].into_iter().find(|flag| files && given.has(flag)) {
        return refused(&format!("--{flag} is for disks, and --files copies files"));
    }
    match (given.rest.is_empty(), files) {
        (false, true) => {
            let more = given.rest.join(", ");
            refused(&format!("--files takes one directory and no disk: {more} is too much"))
        }
        (true, false) => refused("needs a disk or a file, as /dev/sda"),
        _ => Ok(()),
    }
}

/// The disks that were named, and what of them is in use.
pub fn offered(given: &Given, program: &str) -> Result<(Layout, Vec<Reader>), Failure> {
    disks(given, program)?;
    let (mut layout, mut readers) = (Vec::new(), Vec::new());
    for path in &given.rest {
        if let Some(mark) = clone::edge::place::marked(path) {
            return Err(Failure::Failed(format!("{path}: {mark}; it cannot be sent or saved")));
        }
        let source = map::Source::open(path);
        if let Some(user) = clone::edge::place::in_use(path) {
            eprintln!(
                "{program}: WARNING: {path}: {user}: what is written to it meanwhile spoils the copy; \
                 boot this machine from elsewhere, or end that"
            );
        }
        let map = whole_disk(&mut source?).map_err(|e| Failure::Failed(format!("{path}: {e}")))?;
        layout.push(disk(path, &map, given.has("whole"), program));
        readers.push(Reader::open(path)?);
    }
    let layout = Layout::new(CHUNK, layout)
        .map_err(|why| Failure::Failed(format!("{}: {why}", given.rest.join(", "))))?;
    Ok((layout, readers))
}

/// Sends.
pub fn send(given: &Given) -> Result<(), Failure> {
    disks(given, "send")?;
    once(given, "send", "room", Window::open(given, "send")?.as_ref())
}

/// The source of a room: as [`send`], for targets, which tell their disks; again and again if
/// that is wanted.
pub fn source(given: &Given) -> Result<(), Failure> {
    let window = Window::open(given, "source")?;
    loop {
        let done = once(given, "source", "target", window.as_ref());
        if !given.has("again") {
            return done;
        }
        if let Err(why) = done {
            eprintln!("source: {why}");
        }
    }
}

fn once(
    given: &Given,
    program: &'static str,
    method: &str,
    window: Option<&Window>,
) -> Result<(), Failure> {
    disks(given, program)?;
    let bulk = bulk(given)?;
    let mut host = Host::new(program, given.has("quiet"), given.has("verbose"));
    host.json = given.has("json");
    let mut here = copying::patient(given)?;
    let wanted = given.parsed("clients")?.unwrap_or(1);
    let (layout, disks) = match given.get("files") {
        Some(dir) => tree(dir)?,
        None => {
            let (layout, disks) = offered(given, program)?;
            (layout, disks.into_iter().map(|disk| Box::new(disk) as _).collect())
        }
    };
    eprintln!("{program}: {} in {} chunks", Amount(layout.used()), layout.count());
    host.seats = Seats::of(layout.used());
    let names: Vec<_> =
        given.get("files").into_iter().chain(given.rest.iter().map(|d| &**d)).collect();
    host.page = (what(&names, layout.used()), window.map(|window| window.room.clone()));
    copying::sender(given, method, &[], &mut here, &mut host)?;
    let room = Room {
        offer: Some(Offer {
            manifest: Arc::new(Manifest::plan(layout)),
            disks,
            wanted,
            at_most: given.seconds("max-wait")?,
            linger: given.seconds("linger")?,
            // A connection for each machine.
            descriptors: ::share::budget::raise_limit(),
        }),
        bulk,
        ..room(given)?
    };
    let mut order = Order::of(&here);
    let terminal = std::io::stdin();
    if terminal.is_terminal() {
        order.start = Some(terminal.as_fd());
    }
    if let Some(window) = window {
        order.start = Some(window.typed());
    }
    let key = match terminal.is_terminal() {
        true => "; Return begins with those that are there, a number changes how many",
        false => "",
    };
    eprintln!("{program}: waits for {} at port {}{key}", Machines(wanted), room.port);
    copying::send(&room, &order, given, &mut host)
}

/// The files below a directory, and their chunks: small ones, since one holds many files.
fn tree(dir: &str) -> Result<(Layout, Vec<Box<dyn Readable>>), Failure> {
    let tree = files::Source::open(Path::new(dir))?;
    let (listing, bytes) = (&tree.listing, tree.listing.bytes());
    eprintln!(
        "{dir}: {} names; what is written there meanwhile ends the copy",
        listing.entries().len()
    );
    let chunk = if bytes <= MANY { SMALL } else { CHUNK };
    let layout = Layout::of_tree(chunk, bytes, listing.write());
    let layout = layout.map_err(|why| Failure::Failed(format!("{dir}: {why}")))?;
    Ok((layout, vec![Box::new(tree)]))
}

/// The host that takes a copy.
fn taker(program: &'static str, given: &Given) -> Result<Host, Failure> {
    disks(given, program)?;
    let mut host = copying::node(program, given, given.has("verbose"))?;
    host.places.clone_from(&given.rest);
    host.keep_table = given.has("keep-table");
    host.tree = given.get("files").map(|dir| (dir.into(), given.has("delete")));
    if let Some((dir, _)) = &host.tree {
        files::directory(dir).map_err(|why| Failure::Failed(format!("{program}: {why}")))?;
    }
    Ok(host)
}

fn disk(path: &str, map: &DiskMap, whole: bool, program: &str) -> Disk {
    let area = |part: &blockmap::Part| Area {
        number: part.number,
        start: part.start,
        length: part.length,
        texts: [part.kind.clone(), part.uuid.clone(), part.content.clone()],
    };
    let name = Path::new(path).file_name().map_or(path.into(), |name| name.to_string_lossy());
    eprintln!("{program}: {path}: {} of {} in use", Amount(map.used_bytes()), Amount(map.size));
    for part in &map.parts {
        if let How::Raw(why) = &part.how {
            let what = match part.number {
                0 => "it".to_owned(),
                number => format!("partition {number}"),
            };
            eprintln!("{program}: {path}: all of {what} is copied: {why}");
        }
    }
    for note in &map.notes {
        eprintln!("{program}: {path}: {}", map::safe(note));
    }
    let all = [Extent { start: 0, length: map.size }];
    let used = if whole { &all[..] } else { &map.used };
    let sector = u32::try_from(map.sector).unwrap_or(512);
    Disk::new(&name, map.size, sector, map.parts.iter().map(area).collect(), used)
}

/// Receives.
pub fn receive(given: &Given) -> Result<(), Failure> {
    let mut host = taker("receive", given)?;
    copying::receive(&room(given)?, &copying::receiver(given)?, &mut host)
}

/// As [`receive`], by the name of what it is: its hardware address, its disk and its size.
pub fn target(given: &Given) -> Result<(), Failure> {
    // A connection for each machine.
    ::share::budget::raise_limit();
    let mut host = taker("target", given)?;
    host.json = given.has("json");
    let mut here = copying::receiver(given)?;
    let link = super::net::interface(None).ok().and_then(|link| {
        std::fs::read_to_string(format!("/sys/class/net/{}/address", link.name)).ok()
    });
    let mut words = vec![link.as_deref().map_or("?", str::trim).to_owned()];
    for path in &given.rest {
        let name = Path::new(path).file_name().map_or(path.into(), |name| name.to_string_lossy());
        // A file that is not there yet has no size.
        words.push(match map::Source::open(path) {
            Ok(disk) => format!("{name} {}", Amount(blockmap::ReadAt::size(&disk))),
            Err(_) => name.into_owned(),
        });
    }
    words.extend(given.get("files").map(str::to_owned));
    here.names.push(words.join(" "));
    copying::receive(&room(given)?, &here, &mut host)
}
