//! Recorded runs of the real Dolly+: our client between the real server and the real
//! next host, and our server before the real first client. Where the recorded program
//! spoke, ours must say the same bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use clone::cook::{Cook, Packing};
use clone::dollyplus::backlog::SIZES;
use clone::dollyplus::io::{Conn, End, Input, Output};
use clone::dollyplus::wire::{self, Command, Flag, Host};
use clone::dollyplus::{CONTROL_PORT, DATA_PORT, Node, Server, Todo, Want};
use clone::guard::Kept;
use clone::outcome::{Patience, Standing};
use common::{Event, Part, payload, read};
use std::net::Ipv4Addr;
use std::time::Duration;

const BIG: usize = 9_000_001;
const NOTES: usize = 336;
const SERVER: &str = "10.77.0.1";
const ME: &str = "10.77.0.2";

fn concat(parts: &[Part]) -> Vec<u8> {
    parts.iter().flat_map(Part::bytes).collect()
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// All that a host said on the data ring.
fn spoken(events: &[Event], who: &str) -> Vec<u8> {
    let parts = events.iter().filter_map(|e| match e {
        Event::Data { from, parts, .. } if from == who => Some(concat(parts)),
        _ => None,
    });
    parts.flatten().collect()
}

/// What an end has said to its next host, and what else it wants.
#[derive(Default)]
struct Heard {
    next: Vec<u8>,
    line: Vec<u8>,
    others: Vec<(Conn, Vec<u8>)>,
    dials: Vec<(Conn, String, u16)>,
    ended: bool,
}

impl Heard {
    fn listen(&mut self, end: &mut dyn End, now: Duration) {
        loop {
            while let Some(output) = end.output() {
                match output {
                    Output::Dial { conn, host, port } => self.dials.push((conn, host, port)),
                    Output::Send(Conn::Next, bytes) => self.next.extend(bytes),
                    Output::Send(Conn::Line, bytes) => self.line.extend(bytes),
                    Output::Send(conn, bytes) => self.others.push((conn, bytes)),
                    Output::End(conn) => self.ended |= conn == Conn::Next,
                    Output::Close(_) | Output::Say(_) | Output::Said(_) => {}
                }
            }
            let bytes = end.sending().to_vec();
            if bytes.is_empty() {
                return;
            }
            // A connection takes what it likes.
            let n = bytes.len().min(100_003);
            self.next.extend(&bytes[..n]);
            end.sent(n, now);
        }
    }
}

/// Gives bytes of the host before to an end, in the pieces that it has room for.
fn give(end: &mut dyn End, mut bytes: &[u8], now: Duration, mut then: impl FnMut(&mut dyn End)) {
    while !bytes.is_empty() {
        let room = end.room();
        let n = bytes.len().min(room.len());
        assert!(n > 0, "it takes nothing more");
        room[..n].copy_from_slice(&bytes[..n]);
        end.received(n, now).unwrap();
        bytes = &bytes[n..];
        then(end);
    }
}

/// Stores all that there is.
fn store(node: &mut Node, files: &mut Vec<(wire::Output, Vec<u8>)>, now: Duration) {
    loop {
        match node.todo() {
            Todo::Nothing => return,
            Todo::Open(file) => {
                files.push((file.clone(), Vec::new()));
                node.opened();
            }
            Todo::Store(bytes) => {
                let n = bytes.len();
                files.last_mut().unwrap().1.extend(bytes);
                node.stored(n, now);
            }
            Todo::Finish => {
                let mut meter = clone::digest::Meter::default();
                meter.update(&files.last().unwrap().1);
                node.kept(Kept::unread(meter.digest()));
            }
        }
    }
}

fn as_client(name: &str) {
    let events = read(name);
    let mut now = Duration::ZERO;
    let mut node = Node::new(Patience::default(), SIZES, now);
    let mut heard = Heard::default();
    let mut files = Vec::new();
    let mut wanted = 0;
    let mut refused = 0;
    for event in &events {
        match event {
            Event::Open { from, to, .. } if from == SERVER => {
                assert_eq!(*to, format!("{ME}:{DATA_PORT}"));
                assert!(node.awaits());
                node.step(Input::Accepted(Conn::Before, ip(SERVER)), now).unwrap();
            }
            Event::Open { conn, to, .. } => {
                let (what, host, port) = heard.dials.last().expect("ours dials too");
                assert_eq!((*what, format!("{host}:{port}")), (Conn::Next, to.clone()));
                let says =
                    events.iter().any(|e| matches!(e, Event::Data { conn: c, .. } if c == conn));
                let input = match says {
                    true => Input::Connected(Conn::Next),
                    false => Input::Refused(Conn::Next, "connection refused"),
                };
                node.step(input, now).unwrap();
            }
            Event::Data { from, parts, .. } if from == SERVER => {
                give(&mut node, &concat(parts), now, |end| heard.listen(end, now));
                store(&mut node, &mut files, now);
            }
            Event::Data { parts, .. } => {
                wanted += concat(parts).len();
                assert!(heard.next.len() >= wanted, "ours is as far as the recorded one");
            }
            Event::Fin { from, .. } if from == ME => {}
            Event::Fin { from, .. } => {
                let conn = if from == SERVER { Conn::Before } else { Conn::Next };
                node.step(Input::Closed(conn, "it has closed the connection"), now).unwrap();
            }
            Event::Udp { .. } => panic!("{event:?}"),
        }
        let asked = heard.dials.iter().filter(|d| d.0 == Conn::Line).count();
        if asked > refused {
            // The real server listens there when the lists have gone round.
            let listed = heard.next.windows(4).any(|w| w == b"FBEG");
            assert!(!listed, "asked while the lists go round");
            refused = asked;
            node.step(Input::Refused(Conn::Line, "connection refused"), now).unwrap();
            now += Duration::from_secs(1);
        }
        node.step(Input::Tick, now).unwrap();
        heard.listen(&mut node, now);
    }
    assert!(heard.next == spoken(&events, ME), "relays what the recorded client relayed");
    assert!(heard.ended);
    // One refusal is enough, and nothing is said there.
    let lines: Vec<_> = heard.dials.iter().filter(|d| d.0 == Conn::Line).collect();
    assert_eq!(lines, [&(Conn::Line, SERVER.to_owned(), CONTROL_PORT)]);
    assert_eq!((refused, heard.line.as_slice()), (1, &[][..]));
    let got = node.finished().unwrap();
    assert!(!got.verified(), "an old server compares nothing");
    assert_eq!((node.own_name(), got.digests.len()), (ME, 2));
    assert!(files[0].1 == payload(0, BIG));
    assert_eq!(files[1].1.len(), NOTES);
    assert_eq!(files.iter().map(|f| f.0.clone()).collect::<Vec<_>>(), outputs());
}

fn outputs() -> Vec<wire::Output> {
    let gzip = Cook { unpack: Some(Packing::Gzip), archive: None };
    vec![
        wire::Output { path: "/srv/clone/big.img".to_owned(), cook: Cook::default() },
        wire::Output { path: "/srv/clone/notes".to_owned(), cook: gzip },
    ]
}

/// Only the first client's connections were recorded; the last one does what it must.
fn as_server(name: &str, absent: bool) {
    let events = read(name);
    let wanted = spoken(&events, SERVER);
    let now = Duration::ZERO;
    let names: Vec<String> = (2..5).map(|i| format!("10.77.0.{i}")).collect();
    let mut server = Server::new(SERVER, &names, &outputs(), Patience::default(), SIZES, now);
    let mut heard = Heard::default();
    heard.listen(&mut server, now);
    assert_eq!(heard.dials, [(Conn::Next, ME.to_owned(), DATA_PORT)]);
    server.step(Input::Connected(Conn::Next), now).unwrap();
    heard.listen(&mut server, now);
    // The last host closes the ring, then brings the lists round.
    let flags = [Flag::You, Flag::Available, Flag::Available, Flag::Available];
    let mut hosts: Vec<Host> =
        (1..5).zip(flags).map(|(i, flag)| Host { flag, name: format!("10.77.0.{i}") }).collect();
    if absent {
        hosts[2].flag = Flag::Absent;
    }
    server.step(Input::Accepted(Conn::Before, ip("10.77.0.4")), now).unwrap();
    let ring = wire::ring(&hosts);
    give(&mut server, &ring, now, |end| heard.listen(end, now));
    let lists = heard.next[ring.len()..].to_vec();
    give(&mut server, &lists, now, |end| heard.listen(end, now));
    let sources = [payload(0, BIG), wanted[wanted.len() - NOTES..].to_vec()];
    let (mut number, mut at) = (0, 0);
    loop {
        match server.want() {
            Want::Open(n) => {
                (number, at) = (n, 0);
                server.opened();
            }
            Want::Bytes(room) => {
                let rest = &sources[number][at..];
                let n = rest.len().min(room.len()).min(700_001);
                room[..n].copy_from_slice(&rest[..n]);
                at += n;
                server.read(n);
            }
            Want::Nothing => break,
        }
        server.step(Input::Tick, now).unwrap();
        heard.listen(&mut server, now);
    }
    server.step(Input::Tick, now).unwrap();
    heard.listen(&mut server, now);
    assert!(heard.next == wanted, "says what the recorded server said");
    assert!(heard.ended);
    let text = "END:(<10.77.0.4): The last node finish recieving.";
    let stop = Command::Stop(text.to_owned()).packet();
    let caller = Conn::Caller(0);
    server.step(Input::Accepted(caller, ip("10.77.0.4")), now).unwrap();
    server.step(Input::Heard(caller, &stop), now).unwrap();
    server.step(Input::Closed(caller, "it has closed the connection"), now).unwrap();
    // All standings are known, and no host has to be told.
    server.step(Input::Tick, now).unwrap();
    server.step(Input::Tick, now).unwrap();
    server.finished().unwrap();
    let middle = if absent { Standing::Absent } else { Standing::Acknowledged };
    let standings: Vec<_> = server.clients().iter().map(|c| c.standing.clone()).collect();
    assert_eq!(standings, [Standing::Acknowledged, middle, Standing::Acknowledged]);
    assert_eq!(heard.others, [], "old programs are told nothing");
}

#[test]
fn client_of_a_recorded_run() {
    as_client("dolly-plus-0.94");
}

#[test]
fn client_before_an_absent_host() {
    as_client("dolly-plus-0.94-one-host-absent");
}

#[test]
fn server_of_a_recorded_run() {
    as_server("dolly-plus-0.94", false);
}

#[test]
fn server_of_a_ring_with_an_absent_host() {
    as_server("dolly-plus-0.94-one-host-absent", true);
}

/// The first node of a ring, at its place in the list, once it was invited.
fn invited(own: usize) -> (Node, Heard, Duration) {
    let now = Duration::ZERO;
    let mut node = Node::new(Patience::default(), SIZES, now);
    let mut heard = Heard::default();
    let flags = |i| if i == own { Flag::You } else { Flag::Available };
    let list: Vec<Host> =
        (0..3).map(|i| Host { flag: flags(i), name: format!("10.77.0.{}", i + 1) }).collect();
    node.step(Input::Accepted(Conn::Before, ip(ME)), now).unwrap();
    give(&mut node, &wire::ring(&list), now, |end| heard.listen(end, now));
    node.step(Input::Connected(Conn::Next), now).unwrap();
    heard.listen(&mut node, now);
    (node, heard, now)
}

/// The real server sends the list of files when the list of hosts has come round. The last
/// host sent nothing back before it had both, and the ring was never built.
#[test]
fn the_last_host_brings_the_list_of_hosts_back_at_once() {
    let (mut node, mut heard, now) = invited(2);
    let available = |i| Host { flag: Flag::Available, name: format!("10.77.0.{i}") };
    let list: Vec<Host> = (1..4).map(available).collect();
    assert_eq!(heard.next, wire::ring(&list), "the server is not marked as the addressee");
    heard.next.clear();
    let hosts = wire::hosts(&list);
    give(&mut node, &hosts, now, |end| heard.listen(end, now));
    node.step(Input::Tick, now).unwrap();
    heard.listen(&mut node, now);
    assert_eq!(heard.next, hosts);
    let files = wire::files(&outputs());
    give(&mut node, &files, now, |end| heard.listen(end, now));
    heard.listen(&mut node, now);
    assert_eq!(heard.next, [hosts, files].concat());
    give(&mut node, b"FLNO", now, |end| heard.listen(end, now));
    assert!(heard.next.ends_with(b"FEND"), "of the data nothing goes back");
}

/// A real server begins to listen when the lists have gone round, and a client that connects
/// then ends the run for all.
#[test]
fn a_server_that_does_not_listen_is_dialled_once() {
    let (mut node, mut heard, now) = invited(1);
    let lists = [wire::hosts(&[]), wire::files(&outputs())].concat();
    give(&mut node, &lists, now, |end| heard.listen(end, now));
    assert!(heard.dials.contains(&(Conn::Line, SERVER.to_owned(), CONTROL_PORT)));
    node.step(Input::Refused(Conn::Line, "connection refused"), now).unwrap();
    let closed = core::iter::from_fn(|| node.output()).any(|o| o == Output::Close(Conn::Line));
    assert!(closed, "it is not tried again");
}

/// Our server before an old client that has everything, while another client is ours: what
/// became of the old one's copy, when its connection ends for this reason, and what the host
/// behind it is asked then.
fn old_client_beside_ours(why: &str) -> (Standing, Vec<u8>) {
    let now = Duration::ZERO;
    let names = [ME.to_owned(), "10.77.0.3".to_owned()];
    let file = [outputs().remove(0)];
    let mut server = Server::new(SERVER, &names, &file, Patience::default(), SIZES, now);
    let mut heard = Heard::default();
    server.step(Input::Connected(Conn::Next), now).unwrap();
    heard.listen(&mut server, now);
    let all: Vec<Host> =
        (1..4).map(|i| Host { flag: Flag::Available, name: format!("10.77.0.{i}") }).collect();
    let ring = wire::ring(&all);
    server.step(Input::Accepted(Conn::Before, ip("10.77.0.3")), now).unwrap();
    let sent = heard.next.len();
    give(&mut server, &ring, now, |end| heard.listen(end, now));
    let lists = heard.next[sent..].to_vec();
    give(&mut server, &lists, now, |end| heard.listen(end, now));
    let caller = Conn::Caller(0);
    let hello = Command::Report("bellwether hello 10.77.0.3".to_owned()).packet();
    server.step(Input::Accepted(caller, ip("10.77.0.3")), now).unwrap();
    server.step(Input::Heard(caller, &hello), now).unwrap();
    while let Want::Open(_) | Want::Bytes(_) = server.want() {
        match server.want() {
            Want::Open(_) => server.opened(),
            _ => server.read(0),
        }
        server.step(Input::Tick, now).unwrap();
        heard.listen(&mut server, now);
    }
    server.step(Input::Tick, now).unwrap();
    heard.listen(&mut server, now);
    assert!(heard.ended);
    server.step(Input::Closed(Conn::Next, why), now).unwrap();
    // Nothing listens there any more.
    server.step(Input::Refused(Conn::Next, "connection refused"), now).unwrap();
    server.step(Input::Tick, now).unwrap();
    server.step(Input::Connected(Conn::Next), now).unwrap();
    let standing = server.clients()[0].standing.clone();
    let sent = heard.next.len();
    heard.listen(&mut server, now);
    (standing, heard.next[sent..].to_vec())
}

/// An old client leaves when it has stored everything and passed it on. Beside one client of
/// ours its copy was called lost, and the old program behind it aborted when it was asked where
/// to go on.
#[test]
fn an_old_client_that_leaves_is_not_lost() {
    let (left, asked) = old_client_beside_ours("it has closed the connection");
    assert_eq!(left, Standing::Acknowledged);
    assert_eq!(asked, Command::Ping.packet());
    let (reset, asked) = old_client_beside_ours("connection reset by peer");
    assert!(matches!(reset, Standing::Lost(_)), "{reset:?}");
    assert_eq!(asked, Command::Reconnect { exact: true }.packet());
}
