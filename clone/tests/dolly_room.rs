//! A simulated room for Dolly: 1 to 64 nodes in a chain or a tree, links with
//! delay, a node that dies or hangs in any state. Without recovery the promise
//! is this: everybody ends, with the whole verified stream or with an error.

#![allow(clippy::needless_range_loop)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use clone::digest::{Digest, Meter};
use clone::dolly::config::{Input as Infile, Output as Outfile, What};
use clone::dolly::{Client, Config, Line, Server, client, server};
use clone::guard::Kept;
use clone::outcome::{Patience, Standing};
use std::collections::VecDeque;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const LENGTH: u64 = 400_001;
const STEP: u64 = 8192;

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The node's machine is switched off: its connections break.
    Dies {
        node: usize,
        at_ms: u32,
    },
    /// The node goes silent and nothing closes: half-open connections.
    Hangs {
        node: usize,
        at_ms: u32,
    },
    /// The disk fails at the end.
    BadDisk(usize),
    /// What it stores is not what it got.
    BadBytes(usize),
    /// An old program that does not know of verification.
    Old(usize),
    /// Takes only so much in a millisecond.
    Slow(usize),
}

#[derive(Clone)]
enum Msg {
    Connected(usize),
    FromParent(Vec<u8>),
    FromChild(usize, Vec<u8>),
    ParentClosed,
    ChildClosed(usize),
    Data(u64),
    DataEnd,
}

/// Server is `None`.
type Who = Option<usize>;

struct Outcome {
    server: Option<Result<Vec<Standing>, clone::Error>>,
    clients: Vec<Option<Result<bool, clone::Error>>>,
    took: Duration,
}

fn kept(digest: Digest) -> Kept {
    Kept { digest, read_back: true, pinned: false }
}

fn digest(bad: bool) -> Digest {
    let mut meter = Meter::default();
    meter.update(if bad { b"other" } else { b"bytes" });
    Digest { bytes: LENGTH, ..meter.digest() }
}

/// What a node still has to say goes out before it ends.
fn last_words(
    client: &mut Client,
    air: &mut VecDeque<(Duration, Who, Msg)>,
    now: Duration,
    (to, me): (Who, usize),
) {
    while let Some(o) = client.output() {
        if let client::Output::ToParent(b) = o {
            air.push_back((now + MS, to, Msg::FromChild(me, b)));
        }
    }
}

fn run(n: usize, fanout: usize, line: Line, fault: Fault) -> Outcome {
    let hosts: Vec<String> = (0..n).map(|i| format!("node{i}ready")).collect();
    let classic = line == Line::Classic;
    let name = |s: &str| if classic { s.to_owned() } else { String::new() };
    let config = Config {
        line,
        what: What::File {
            input: Infile { path: "/dev/sda".into(), ..Infile::default() },
            output: Outfile { path: "/dev/sda".into(), ..Outfile::default() },
        },
        segment_size: None,
        cards: None,
        fanout,
        hyphen: None,
        server: name("golden"),
        first: name(&hosts[0]),
        last: name(&hosts[n - 1]),
        hosts: hosts.clone(),
        verify: false,
        bytes: None,
    };
    let mut now = Duration::ZERO;
    let patience = Some(Duration::from_secs(5));
    let options = server::Options {
        password: (!classic).then(|| "sheep".to_owned()),
        nonce: [3; 32],
        patience: Patience {
            start: Some(Duration::from_secs(60)),
            stall: Some(Duration::from_secs(20)),
        },
        directories: false,
    };
    let text = config.text();
    let mut core = Server::new(config.clone(), &text, true, options, now).unwrap();
    let mut clients: Vec<Client> = hosts
        .iter()
        .map(|h| {
            Client::new(
                client::Options {
                    names: vec![h.clone()],
                    password: (!classic).then(|| "sheep".to_owned()),
                    nonce: [4; 32],
                    patience: Patience {
                        start: Some(Duration::from_secs(60)),
                        stall: patience.map(|p| p * 4),
                    },
                },
                now,
            )
        })
        .collect();
    let parent = |i: usize| -> Who { (0..n).find(|p| config.children(Some(*p)).contains(&i)) };
    let mut outcome = Outcome { server: None, clients: vec![None; n], took: now };
    let mut air: VecDeque<(Duration, Who, Msg)> = VecDeque::new();
    let mut received = vec![0u64; n];
    let mut relayed = vec![0u64; n];
    let mut begun = false;
    let mut sent = 0u64;
    let mut broken = vec![false; n];
    while now < Duration::from_secs(300) {
        let down = |i: usize, now: Duration| match fault {
            Fault::Dies { node, at_ms } | Fault::Hangs { node, at_ms } => {
                node == i && now >= MS * at_ms
            }
            _ => false,
        };
        // A machine that is gone, or has ended with an error, breaks its
        // connections; one that hangs does not.
        for i in 0..n {
            let ended_badly = matches!(outcome.clients[i], Some(Err(_)));
            let dead = down(i, now) && matches!(fault, Fault::Dies { .. });
            if (dead || ended_badly) && !broken[i] {
                broken[i] = true;
                air.push_back((now + MS, parent(i), Msg::ChildClosed(i)));
                for c in config.children(Some(i)) {
                    air.push_back((now + MS, Some(c), Msg::DataEnd));
                    air.push_back((now + MS, Some(c), Msg::ParentClosed));
                }
            }
        }
        // Deliver.
        let due: Vec<_> = air.iter().filter(|m| m.0 <= now).cloned().collect();
        air.retain(|m| m.0 > now);
        for (_, who, msg) in due {
            match who {
                None => {
                    if outcome.server.is_some() {
                        continue;
                    }
                    let result = match &msg {
                        Msg::Connected(i) => core.step(server::Input::Connected(*i), now),
                        Msg::FromChild(i, b) => core.step(server::Input::Child(*i, b), now),
                        Msg::ChildClosed(i) => {
                            core.step(server::Input::ChildClosed(*i, "reset"), now)
                        }
                        _ => Ok(()),
                    };
                    if let Err(e) = result {
                        outcome.server = Some(Err(e));
                    }
                }
                Some(i) => {
                    if outcome.clients[i].is_some() || down(i, now) {
                        continue;
                    }
                    let c = &mut clients[i];
                    let result = match &msg {
                        Msg::Connected(k) => c.step(client::Input::Connected(*k), now),
                        Msg::FromParent(b) => c.step(client::Input::Parent(b), now),
                        Msg::FromChild(k, b) => c.step(client::Input::Child(*k, b), now),
                        Msg::ParentClosed => c.step(client::Input::ParentClosed, now),
                        Msg::ChildClosed(k) => c.step(client::Input::ChildClosed(*k, "reset"), now),
                        Msg::Data(n) => {
                            received[i] += n;
                            c.step(client::Input::Received(received[i]), now)
                        }
                        Msg::DataEnd => c.step(client::Input::DataEnd, now),
                    };
                    if let Err(e) = result {
                        last_words(&mut clients[i], &mut air, now, (parent(i), i));
                        outcome.clients[i] = Some(Err(e));
                    }
                }
            }
        }
        // Time.
        if outcome.server.is_none()
            && let Err(e) = core.step(server::Input::Tick, now)
        {
            outcome.server = Some(Err(e));
        }
        if outcome.server.is_none() && begun && sent < LENGTH {
            let slow = config.children(None).iter().any(|c| fault == Fault::Slow(*c));
            let some = (LENGTH - sent).min(if slow { 700 } else { STEP });
            sent += some;
            for c in config.children(None) {
                air.push_back((now + MS, Some(c), Msg::Data(some)));
            }
            if sent == LENGTH
                && let Err(e) = core.step(server::Input::End(digest(false)), now)
            {
                outcome.server = Some(Err(e));
            }
        }
        while let Some(o) = core.output() {
            match o {
                server::Output::Connect(i) => {
                    // A machine that is off refuses; the edge tries again.
                    if down(i, now) {
                        air.push_back((now + MS * 500, None, Msg::ChildClosed(i)));
                    } else {
                        air.push_back((now + MS, None, Msg::Connected(i)));
                    }
                }
                server::Output::ToChild(i, b) => {
                    air.push_back((now + MS, Some(i), Msg::FromParent(b)))
                }
                server::Output::Begin => begun = true,
                server::Output::Finished => {
                    outcome.server = Some(Ok(core.clients().map(|(_, s)| s.clone()).collect()));
                }
                server::Output::Said(_) | server::Output::EndData => {}
            }
        }
        if matches!(outcome.server, Some(Err(_))) && begun != (sent == u64::MAX) {
            // The server's end breaks its connections once.
            sent = u64::MAX;
            begun = true;
            for c in config.children(None) {
                air.push_back((now + MS, Some(c), Msg::DataEnd));
                air.push_back((now + MS, Some(c), Msg::ParentClosed));
            }
        }
        for i in 0..n {
            if outcome.clients[i].is_some() || down(i, now) {
                continue;
            }
            if let Err(e) = clients[i].step(client::Input::Tick, now) {
                last_words(&mut clients[i], &mut air, now, (parent(i), i));
                outcome.clients[i] = Some(Err(e));
            }
            // Relay: at most a step in a millisecond.
            let kids = config.children(Some(i));
            let some =
                (received[i] - relayed[i]).min(if fault == Fault::Slow(i) { 700 } else { STEP });
            if some > 0 {
                relayed[i] += some;
                for c in kids {
                    air.push_back((now + MS, Some(c), Msg::Data(some)));
                }
            }
            while let Some(o) = clients[i].output() {
                match o {
                    client::Output::ToParent(b) => {
                        // An old program does not speak of verification.
                        let quiet = fault == Fault::Old(i)
                            && b.starts_with(b"Host verifies '")
                            && String::from_utf8_lossy(&b).contains(&format!("'{}'", hosts[i]));
                        if !quiet {
                            air.push_back((now + MS, parent(i), Msg::FromChild(i, b)));
                        }
                    }
                    client::Output::ToChild(c, b) => {
                        air.push_back((now + MS, Some(c), Msg::FromParent(b)));
                    }
                    client::Output::Configured { children, .. } => {
                        for c in children {
                            if down(c, now) {
                                air.push_back((now + MS * 500, Some(i), Msg::ChildClosed(c)));
                            } else {
                                air.push_back((now + MS, Some(i), Msg::Connected(c)));
                            }
                        }
                    }
                    client::Output::Complete(_) => {
                        let how = match fault {
                            Fault::BadDisk(b) if b == i => Err("no space left"),
                            Fault::BadBytes(b) if b == i => Ok(kept(digest(true))),
                            _ => Ok(kept(digest(false))),
                        };
                        if let Err(e) = clients[i].step(client::Input::Stored(how), now) {
                            last_words(&mut clients[i], &mut air, now, (parent(i), i));
                            outcome.clients[i] = Some(Err(e));
                            break;
                        }
                    }
                    client::Output::Finished { verified } => {
                        outcome.clients[i] = Some(Ok(verified));
                        air.push_back((now + MS * 2, parent(i), Msg::ChildClosed(i)));
                    }
                    client::Output::Length(_) => {}
                    client::Output::Refused(why) => panic!("{why}"),
                }
            }
        }
        let all = (0..n).all(|i| outcome.clients[i].is_some() || down(i, now));
        if all && outcome.server.is_some() {
            break;
        }
        now += MS;
    }
    outcome.took = now;
    outcome
}

#[test]
fn chains_and_trees_of_all_sizes() {
    for (n, fanout) in [(1, 1), (2, 1), (3, 1), (8, 1), (64, 1), (5, 2), (64, 3), (64, 8)] {
        let o = run(n, fanout, Line::Classic, Fault::None);
        assert!(o.clients.iter().all(|c| *c == Some(Ok(true))), "{n} {fanout} {:?}", o.clients);
        let standings = o.server.unwrap().unwrap();
        assert!(standings.iter().all(|s| *s == Standing::Verified));
    }
}

#[test]
fn the_new_line_with_a_password() {
    for n in [1, 2, 5, 16] {
        let o = run(n, 1, Line::Suse, Fault::None);
        assert!(o.clients.iter().all(|c| *c == Some(Ok(false))), "{n} {:?}", o.clients);
        assert!(o.server.unwrap().unwrap().iter().all(|s| *s == Standing::Acknowledged));
    }
}

#[test]
fn a_slow_node_slows_all() {
    let quick = run(4, 1, Line::Classic, Fault::None).took;
    let o = run(4, 1, Line::Classic, Fault::Slow(0));
    assert!(o.clients.iter().all(|c| *c == Some(Ok(true))));
    assert!(o.took > quick);
}

#[test]
fn with_one_old_node_nobody_claims_to_have_verified() {
    for old in 0..4 {
        let o = run(4, 1, Line::Classic, Fault::Old(old));
        assert!(o.clients.iter().all(|c| *c == Some(Ok(false))), "{:?}", o.clients);
    }
}

#[test]
fn a_bad_disk_or_bad_bytes_are_reported_and_the_others_verify() {
    for bad in 0..4 {
        for fault in [Fault::BadDisk(bad), Fault::BadBytes(bad)] {
            let o = run(4, 1, Line::Classic, fault);
            let standings = o.server.unwrap().unwrap();
            for (i, (client, standing)) in o.clients.iter().zip(&standings).enumerate() {
                if i == bad {
                    assert!(matches!(client, Some(Err(_))), "{client:?}");
                    assert!(matches!(standing, Standing::Failed(_)), "{standings:?}");
                } else {
                    assert_eq!(*client, Some(Ok(true)));
                    assert_eq!(*standing, Standing::Verified);
                }
            }
        }
    }
}

#[test]
fn a_node_that_goes_in_any_state_leaves_nobody_waiting() {
    for (n, fanout) in [(4, 1), (7, 2)] {
        for node in 0..n {
            for at_ms in (0..120).step_by(3) {
                for fault in [Fault::Dies { node, at_ms }, Fault::Hangs { node, at_ms }] {
                    let o = run(n, fanout, Line::Classic, fault);
                    // A broken connection is news; only silence takes its time.
                    let dies = matches!(fault, Fault::Dies { .. });
                    let limit = Duration::from_secs(if dies { 10 } else { 200 });
                    let built = o.server.as_ref().is_some_and(Result::is_ok);
                    assert!(o.took < limit || !built, "node {node} at {at_ms} ms: {:?}", o.took);
                    let server = o.server.as_ref().expect("the server ends");
                    for (i, c) in o.clients.iter().enumerate() {
                        if i != node {
                            assert!(c.is_some(), "node {i} waits for ever: {node} at {at_ms} ms");
                        }
                    }
                    // Success at the server means success everywhere.
                    if let Ok(standings) = server {
                        for (i, s) in standings.iter().enumerate() {
                            if *s != Standing::Verified {
                                assert!(matches!(s, Standing::Failed(_)), "{s:?}");
                            } else if i != node {
                                let end = o.clients[i].as_ref().unwrap();
                                let fair = matches!(end, Ok(true) | Err(clone::Error::Gone { .. }));
                                assert!(
                                    fair || matches!(end, Err(clone::Error::Stalled { .. })),
                                    "{end:?}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
