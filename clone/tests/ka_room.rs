//! A simulated room for KA: 1 to 64 nodes in a chain or tree, any of which may
//! be switched off, or fall silent, in any state. The promise: all others finish
//! with the whole verified stream, and no byte comes twice or not at all.

#![allow(clippy::needless_range_loop)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use clone::digest::{Digest, Meter};
use clone::guard::Kept;
use clone::ka::wire::Layout;
use clone::ka::{Client, Server, WINDOW, client, server};
use clone::outcome::{Patience, Standing};
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
/// More than the window, and no multiple of anything.
const LENGTH: u64 = (90 << 20) + 12_345;
/// What a link carries in a millisecond.
const STEP: u64 = 1 << 20;
const KEPT: u64 = WINDOW + (2 << 20);

#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    None,
    /// Switched off: its connections break.
    Dies(usize, u32),
    /// Silent, and nothing closes: half-open connections.
    Hangs(usize, u32),
    /// Its disk is full at the end.
    BadDisk(usize),
    /// Takes only a tenth.
    Slow(usize),
}

enum Msg {
    ToServer(usize, Vec<u8>),
    ServerAccepted(usize),
    ServerClosed(usize),
    RootChild(usize),
    ToClient(usize, Vec<u8>),
    ClientAnswer(usize, Vec<u8>),
    ClientConnected(usize),
    ClientChild(usize, usize),
    ParentUp(usize),
    ParentClosed(usize),
}

struct Node {
    core: Client,
    received: u64,
    /// Nothing for the server, a number for a node.
    parent: Option<Option<usize>>,
    children: BTreeMap<usize, Option<u64>>,
    complete: bool,
    result: Option<Result<bool, clone::Error>>,
}

struct Room {
    clients: Vec<Option<Result<bool, clone::Error>>>,
    server: Result<Vec<(Ipv4Addr, Standing)>, clone::Error>,
    took: Duration,
}

fn ip(i: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, i as u8 + 2)
}

fn number(ip: Ipv4Addr) -> usize {
    usize::from(ip.octets()[3]) - 2
}

fn digest() -> Digest {
    let mut meter = Meter::default();
    meter.update(b"golden");
    Digest { bytes: LENGTH, ..meter.digest() }
}

fn kept(digest: Digest) -> Kept {
    Kept { digest, read_back: true, pinned: false }
}

fn run(n: usize, arity: usize, fault: Fault) -> Room {
    let mut now = Duration::ZERO;
    let patience = Some(Duration::from_secs(120));
    let options = server::Options {
        session: "room".to_owned(),
        clients: n,
        arity,
        verify: true,
        patience: Patience { start: patience, stall: patience },
    };
    let mut core = Server::new(options, now).unwrap();
    let mut nodes: Vec<Node> = (0..n)
        .map(|i| Node {
            core: Client::new(
                client::Options {
                    session: "room".to_owned(),
                    server: None,
                    layout: if i % 2 == 0 { Layout::I386 } else { Layout::Lp64 },
                    wait: true,
                    go_now: false,
                    tries: 30,
                    patience: Patience { start: patience, stall: patience },
                },
                now,
            ),
            received: 0,
            parent: None,
            children: BTreeMap::new(),
            complete: false,
            result: None,
        })
        .collect();
    let mut root: BTreeMap<usize, Option<u64>> = BTreeMap::new();
    let (mut begun, mut source, mut ended) = (false, 0u64, false);
    let mut outcome: Option<Result<(), clone::Error>> = None;
    let mut air: VecDeque<(Duration, Msg)> = VecDeque::new();
    let mut broken = vec![false; n];
    while now < Duration::from_secs(400) {
        let down = |i: usize| match fault {
            Fault::Dies(node, at) | Fault::Hangs(node, at) => node == i && now >= MS * at,
            _ => false,
        };
        for i in 0..n {
            let off = down(i) && matches!(fault, Fault::Dies(..));
            if (off || nodes[i].result.is_some()) && !broken[i] {
                broken[i] = true;
                air.push_back((now + MS, Msg::ServerClosed(i)));
                root.remove(&i);
                for j in 0..n {
                    nodes[j].children.remove(&i);
                    if nodes[j].parent == Some(Some(i)) {
                        air.push_back((now + MS, Msg::ParentClosed(j)));
                    }
                }
            }
        }
        let due = air.iter().take_while(|m| m.0 <= now).count();
        for (_, msg) in air.drain(..due).collect::<Vec<_>>() {
            let (who, input) = match &msg {
                Msg::ToServer(i, bytes) => (None, Err(server::Input::Client(*i, bytes))),
                Msg::ServerAccepted(i) => {
                    (None, Err(server::Input::Accepted(*i, ip(*i), Ipv4Addr::new(10, 77, 0, 1))))
                }
                Msg::ServerClosed(i) => (None, Err(server::Input::Closed(*i, "gone"))),
                Msg::RootChild(i) => {
                    root.insert(*i, None);
                    (None, Err(server::Input::ChildCame(ip(*i))))
                }
                Msg::ToClient(i, bytes) => (Some(*i), Ok(client::Input::Server(bytes))),
                Msg::ClientAnswer(i, bytes) => {
                    (Some(*i), Ok(client::Input::Answer(Ipv4Addr::new(10, 77, 0, 1), bytes)))
                }
                Msg::ClientConnected(i) => (Some(*i), Ok(client::Input::ServerConnected)),
                Msg::ClientChild(i, child) => {
                    nodes[*i].children.insert(*child, None);
                    (Some(*i), Ok(client::Input::ChildCame(ip(*child))))
                }
                Msg::ParentUp(i) => (Some(*i), Ok(client::Input::ParentConnected)),
                Msg::ParentClosed(i) => {
                    nodes[*i].parent = None;
                    (Some(*i), Ok(client::Input::ParentClosed))
                }
            };
            match (who, input) {
                (None, Err(input)) if outcome.is_none() => {
                    if let Err(e) = core.step(input, now) {
                        outcome = Some(Err(e));
                    }
                }
                (Some(i), Ok(input)) if !down(i) && nodes[i].result.is_none() => {
                    if let Err(e) = nodes[i].core.step(input, now) {
                        nodes[i].result = Some(Err(e));
                    }
                }
                _ => {}
            }
        }
        // The server and its source.
        if outcome.is_none()
            && let Err(e) = core.step(server::Input::Tick, now)
        {
            outcome = Some(Err(e));
        }
        if begun && outcome.is_none() && !ended {
            source = (source + STEP).min(core.allowed()).min(LENGTH);
            if source == LENGTH {
                ended = true;
                core.step(server::Input::End(digest()), now).unwrap();
            }
        }
        while let Some(output) = core.output() {
            match output {
                server::Output::Answer(to, bytes) => {
                    air.push_back((now + MS, Msg::ClientAnswer(number(to), bytes)));
                }
                server::Output::ToClient(i, bytes) => {
                    air.push_back((now + MS, Msg::ToClient(i, bytes)));
                }
                server::Output::Close(i) => {
                    if nodes[i].result.is_none() && !down(i) {
                        panic!("a node in order was thrown out: {i} of {n}, {fault:?}, {now:?}");
                    }
                }
                server::Output::Send(to, position) => {
                    root.insert(number(to), Some(position));
                }
                server::Output::Drop(to) => {
                    root.remove(&number(to));
                }
                server::Output::Say(_) => {}
                server::Output::Begin => begun = true,
                server::Output::Finished => outcome = Some(Ok(())),
            }
        }
        // Data: from the server, and from node to node.
        let mut links: Vec<(Option<usize>, usize)> = root.keys().map(|c| (None, *c)).collect();
        for (i, node) in nodes.iter().enumerate() {
            links.extend(node.children.keys().map(|c| (Some(i), *c)));
        }
        for (from, to) in links {
            let dead = from.is_some_and(|f| down(f) || nodes[f].result.is_some());
            if dead || nodes[to].parent != Some(from) {
                continue;
            }
            let (have, all) = match from {
                None => (source, ended),
                Some(f) => (nodes[f].received, nodes[f].complete),
            };
            let position = match from {
                None => root[&to],
                Some(f) => nodes[f].children[&to],
            };
            let Some(position) = position else { continue };
            assert!(have - position <= KEPT, "the window is lost: {fault:?}");
            assert_eq!(position, nodes[to].received, "a gap or a repetition");
            let slow = fault == Fault::Slow(to);
            let some = (have - position).min(if slow { STEP / 10 } else { STEP });
            if down(to) {
                continue;
            }
            if some == 0 && all {
                match from {
                    None => root.remove(&to),
                    Some(f) => nodes[f].children.remove(&to),
                };
                air.push_back((now + MS, Msg::ParentClosed(to)));
                continue;
            }
            match from {
                None => root.insert(to, Some(position + some)),
                Some(f) => nodes[f].children.insert(to, Some(position + some)),
            };
            nodes[to].received += some;
            let input = client::Input::Received(nodes[to].received);
            nodes[to].core.step(input, now).unwrap();
        }
        for i in 0..n {
            if down(i) || nodes[i].result.is_some() {
                continue;
            }
            if let Err(e) = nodes[i].core.step(client::Input::Tick, now) {
                nodes[i].result = Some(Err(e));
            }
            while let Some(output) = nodes[i].core.output() {
                match output {
                    client::Output::Ask(bytes) => {
                        if outcome.is_none() {
                            let input = server::Input::Question(ip(i), &bytes);
                            core.step(input, now).unwrap();
                        }
                    }
                    client::Output::ConnectServer(_) => {
                        air.push_back((now + MS, Msg::ServerAccepted(i)));
                        air.push_back((now + MS, Msg::ClientConnected(i)));
                    }
                    client::Output::ToServer(bytes) => {
                        air.push_back((now + MS, Msg::ToServer(i, bytes)));
                    }
                    client::Output::ConnectParent(to) => {
                        // Whom it was with is let go of.
                        root.remove(&i);
                        for j in 0..n {
                            nodes[j].children.remove(&i);
                        }
                        if to == Ipv4Addr::new(10, 77, 0, 1) {
                            nodes[i].parent = Some(None);
                            air.push_back((now + MS, Msg::RootChild(i)));
                            air.push_back((now + MS, Msg::ParentUp(i)));
                        } else if down(number(to)) || nodes[number(to)].result.is_some() {
                            // No client answers.
                            air.push_back((now + MS * 3000, Msg::ParentClosed(i)));
                        } else {
                            nodes[i].parent = Some(Some(number(to)));
                            air.push_back((now + MS, Msg::ClientChild(number(to), i)));
                            air.push_back((now + MS, Msg::ParentUp(i)));
                        }
                        air.make_contiguous().sort_by_key(|m| m.0);
                    }
                    client::Output::KeepAlive(_) => {}
                    client::Output::Send(to, position) => {
                        if let Some(place) = nodes[i].children.get_mut(&number(to)) {
                            *place = Some(position);
                        }
                    }
                    client::Output::Drop(to) => {
                        nodes[i].children.remove(&number(to));
                    }
                    client::Output::Complete(bytes) => {
                        assert_eq!(bytes, LENGTH);
                        nodes[i].complete = true;
                        let how = if fault == Fault::BadDisk(i) {
                            Err("full")
                        } else {
                            Ok(kept(digest()))
                        };
                        if let Err(e) = nodes[i].core.step(client::Input::Stored(how), now) {
                            nodes[i].result = Some(Err(e));
                        }
                    }
                    client::Output::Finished { verified } => {
                        nodes[i].result = Some(Ok(verified));
                    }
                }
            }
        }
        air.make_contiguous().sort_by_key(|m| m.0);
        let over = (0..n).all(|i| nodes[i].result.is_some() || down(i));
        if over && outcome.is_some() {
            break;
        }
        now += MS;
    }
    let server = outcome.expect("the server ends");
    let standings = core.clients().map(|(ip, s)| (ip, s.clone())).collect();
    Room {
        clients: nodes.into_iter().map(|n| n.result).collect(),
        server: server.map(|()| standings),
        took: now,
    }
}

fn all_verified_but(room: &Room, bad: Option<usize>, what: &str) {
    for (i, client) in room.clients.iter().enumerate() {
        if Some(i) != bad {
            assert_eq!(*client, Some(Ok(true)), "node {i}: {what}");
        }
    }
    for (who, standing) in room.server.as_ref().unwrap() {
        if Some(number(*who)) != bad {
            assert_eq!(*standing, Standing::Verified, "{who}: {what}");
        }
    }
}

#[test]
fn chains_and_trees_of_all_sizes() {
    for (n, arity) in [(1, 1), (2, 1), (3, 1), (8, 1), (64, 1), (7, 2), (64, 4)] {
        let room = run(n, arity, Fault::None);
        all_verified_but(&room, None, &format!("{n} {arity}"));
        assert!(room.took < Duration::from_secs(5), "{:?}", room.took);
    }
}

#[test]
fn a_slow_node_slows_all_and_loses_none() {
    for who in 0..4 {
        all_verified_but(&run(4, 1, Fault::Slow(who)), None, "slow");
    }
}

#[test]
fn a_full_disk_is_known_and_harms_no_other_machine() {
    for bad in 0..4 {
        let room = run(4, 1, Fault::BadDisk(bad));
        all_verified_but(&room, Some(bad), "full");
        assert!(matches!(room.clients[bad], Some(Err(clone::Error::Store { .. }))));
        let standings = room.server.unwrap();
        assert_eq!(standings[bad].1, Standing::failed("could not store it, or has other bytes"));
    }
}

#[test]
fn a_node_that_is_switched_off_in_any_state_is_bypassed() {
    for (n, arity) in [(4, 1), (7, 2)] {
        for who in 0..n {
            // Set-up is milliseconds, the transfer about a hundred.
            for at in (20..140).step_by(3) {
                let room = run(n, arity, Fault::Dies(who, at));
                all_verified_but(&room, Some(who), &format!("{who} of {n} off at {at} ms"));
                let standings = room.server.unwrap();
                let its = standings.iter().find(|(a, _)| number(*a) == who).unwrap();
                if at < 90 {
                    assert!(matches!(its.1, Standing::Lost(_)), "{at} ms: {}", its.1);
                }
            }
        }
    }
}

#[test]
fn a_node_that_falls_silent_is_bypassed() {
    for who in 0..4 {
        for at in [25, 60, 100, 110] {
            let room = run(4, 1, Fault::Hangs(who, at));
            all_verified_but(&room, Some(who), &format!("{who} silent at {at} ms"));
        }
    }
}
