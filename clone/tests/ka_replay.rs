//! Recorded runs of the real KA, in both struct layouts: our client in the
//! place of the real first client, and our server in that of the real server.
//! What the structs leave unused carried garbage, so what is compared is what
//! the packets mean.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use clone::digest::Meter;
use clone::guard::Kept;
use clone::ka::wire::{Layout, ToClient, ToServer};
use clone::ka::{Client, Server, client, server};
use clone::outcome::{Patience, Standing};
use common::{Event, Part, payload, read};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

const LENGTH: usize = 9_000_001;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const ME: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

fn concat(parts: &[Part]) -> Vec<u8> {
    parts.iter().flat_map(Part::bytes).collect()
}

fn words_up(layout: Layout, bytes: &[u8]) -> Vec<ToServer> {
    bytes.chunks(layout.from_client()).map(|p| ToServer::parse(layout, p).unwrap()).collect()
}

fn words_down(layout: Layout, mut bytes: &[u8]) -> Vec<ToClient> {
    let mut words = Vec::new();
    while let Some((word, n)) = ToClient::parse(layout, bytes).unwrap() {
        words.push(word);
        bytes = &bytes[n..];
    }
    assert!(bytes.is_empty());
    words
}

fn control_of(events: &[Event]) -> u32 {
    events
        .iter()
        .find_map(|e| match e {
            Event::Open { conn, to, .. } if to.ends_with(":30765") => Some(*conn),
            _ => None,
        })
        .unwrap()
}

fn as_client(name: &str, layout: Layout) {
    let events = read(name);
    let control = control_of(&events);
    let now = Duration::ZERO;
    let options = client::Options {
        session: "kainstall1".to_owned(),
        server: None,
        layout,
        wait: true,
        go_now: false,
        tries: 10,
        patience: Patience { start: None, stall: None },
    };
    let mut core = Client::new(options, now);
    core.step(client::Input::Tick, now).unwrap();
    let mut said = Vec::new();
    let mut wanted = Vec::new();
    let mut asked = None;
    let mut parents = Vec::new();
    let mut sends = Vec::new();
    let mut received = 0u64;
    let mut ports = BTreeMap::new();
    let mut finished = None;
    for event in &events {
        match event {
            Event::Udp { from, to, bytes } if from.starts_with("10.77.0.2:") => {
                assert_eq!(to, "255.255.255.255:4957");
                assert_eq!(asked.as_ref(), Some(bytes));
            }
            Event::Udp { from, bytes, .. } if from.starts_with("10.77.0.1:") => {
                core.step(client::Input::Answer(SERVER, bytes), now).unwrap();
            }
            Event::Udp { .. } => {}
            Event::Open { conn, from, to } => {
                ports.insert(*conn, to.clone());
                if *conn == control {
                    core.step(client::Input::ServerConnected, now).unwrap();
                } else if from == "10.77.0.2" {
                    assert_eq!(parents, [SERVER], "the real client had this parent");
                    core.step(client::Input::ParentConnected, now).unwrap();
                } else {
                    let ip = from.parse().unwrap();
                    core.step(client::Input::ChildCame(ip), now).unwrap();
                }
            }
            Event::Data { conn, from, parts } if *conn == control => {
                let bytes = concat(parts);
                if from == "10.77.0.2" {
                    wanted.extend(bytes);
                } else {
                    // In two pieces: nothing may depend on one read.
                    let (a, b) = bytes.split_at(bytes.len() / 2);
                    core.step(client::Input::Server(a), now).unwrap();
                    core.step(client::Input::Server(b), now).unwrap();
                }
            }
            Event::Data { from, parts, .. } if from == "10.77.0.1" => {
                received += concat(parts).len() as u64;
                core.step(client::Input::Received(received), now).unwrap();
            }
            Event::Data { .. } => {}
            Event::Fin { conn, from } => {
                if from == "10.77.0.1" && *conn != control {
                    core.step(client::Input::ParentClosed, now).unwrap();
                }
            }
        }
        while let Some(output) = core.output() {
            match output {
                client::Output::Ask(bytes) => asked = Some(bytes),
                client::Output::ConnectServer(ip) => assert_eq!(ip, SERVER),
                client::Output::ToServer(bytes) => said.extend(bytes),
                client::Output::ConnectParent(ip) => parents.push(ip),
                client::Output::Send(ip, position) => sends.push((ip, position)),
                client::Output::Complete(n) => {
                    assert_eq!(n, LENGTH as u64);
                    let mut meter = Meter::default();
                    meter.update(&payload(0, LENGTH));
                    core.step(client::Input::Stored(Ok(Kept::unread(meter.digest()))), now)
                        .unwrap();
                }
                client::Output::Finished { verified } => finished = Some(verified),
                client::Output::Drop(_) | client::Output::KeepAlive(_) => panic!("{output:?}"),
            }
        }
    }
    let mut ours = words_up(layout, &said);
    assert_eq!(ours[0], ToServer::Hello { verifies: true, told: true, nonce: None });
    ours[0] = ToServer::Hello { verifies: false, told: false, nonce: None };
    // When a child's coming is told depends on when it was noticed.
    let first_child = |words: &mut Vec<ToServer>| {
        let at = words.iter().position(|w| matches!(w, ToServer::GotClient(_))).unwrap();
        words.remove(at)
    };
    let mut theirs = words_up(layout, &wanted);
    assert_eq!(first_child(&mut ours), first_child(&mut theirs));
    assert_eq!(ours, theirs);
    assert_eq!(sends, [(Ipv4Addr::new(10, 77, 0, 3), 0)]);
    assert_eq!(finished, Some(false), "an old server verifies nothing");
    assert_eq!(received, LENGTH as u64);
}

/// Only the first client's connection was recorded; the others do what it does.
fn as_server(name: &str, layout: Layout) {
    let events = read(name);
    let control = control_of(&events);
    let now = Duration::ZERO;
    let options = server::Options {
        session: "kainstall1".to_owned(),
        clients: 3,
        arity: 1,
        verify: true,
        patience: Patience { start: None, stall: None },
    };
    let mut core = Server::new(options, now).unwrap();
    core.step(server::Input::Question(ME, b"kainstall\0"), now).unwrap();
    core.step(server::Input::Question(ME, b"kainstall12\0"), now).unwrap();
    assert_eq!(core.output(), None, "another session's name");
    let others = [Ipv4Addr::new(10, 77, 0, 3), Ipv4Addr::new(10, 77, 0, 4)];
    for (i, ip) in others.iter().enumerate() {
        core.step(server::Input::Accepted(10 + i, *ip, SERVER), now).unwrap();
        for word in
            [ToServer::Hello { verifies: false, told: false, nonce: None }, ToServer::AcceptsData]
        {
            core.step(server::Input::Client(10 + i, &word.bytes(layout)), now).unwrap();
        }
    }
    let mut said = Vec::new();
    let mut wanted = Vec::new();
    let mut log = Vec::new();
    let mut meter = Meter::default();
    meter.update(&payload(0, LENGTH));
    let mut ended = false;
    let hear = |core: &mut Server, who: usize, word: ToServer| {
        core.step(server::Input::Client(who, &word.bytes(layout)), now).unwrap();
    };
    for event in &events {
        match event {
            Event::Udp { from, bytes, .. } if from.starts_with("10.77.0.2:") => {
                core.step(server::Input::Question(ME, bytes), now).unwrap();
                let answer = core.output();
                let is = matches!(&answer, Some(server::Output::Say(_)));
                log.extend(answer.filter(|_| !is));
            }
            Event::Open { conn, from, to } => {
                if *conn == control {
                    core.step(server::Input::Accepted(0, ME, SERVER), now).unwrap();
                } else if to.starts_with("10.77.0.1:") {
                    core.step(server::Input::ChildCame(from.parse().unwrap()), now).unwrap();
                }
            }
            Event::Data { conn, from, parts } if *conn == control => {
                if from == "10.77.0.1" {
                    wanted.extend(concat(parts));
                } else {
                    for packet in concat(parts).chunks(layout.from_client()) {
                        core.step(server::Input::Client(0, packet), now).unwrap();
                    }
                }
            }
            Event::Fin { from, .. } if from == "10.77.0.1" && !ended => {
                ended = true;
                core.step(server::Input::End(meter.digest()), now).unwrap();
            }
            _ => {}
        }
        while let Some(output) = core.output() {
            match output {
                server::Output::ToClient(0, bytes) => said.extend(bytes),
                server::Output::ToClient(who, bytes) => {
                    // The other two follow: .4 is the child of .3.
                    for word in words_down(layout, &bytes) {
                        match word {
                            ToClient::GivesIp(_) if who == 11 => {
                                hear(&mut core, 10, ToServer::GotClient(others[1]));
                            }
                            ToClient::GivesAuth(ip, 0) => {
                                hear(&mut core, who, ToServer::GotClient(ip));
                            }
                            ToClient::ReportPosition(_) => {
                                hear(&mut core, who, ToServer::ReportsPosition(0));
                            }
                            _ => {}
                        }
                    }
                }
                other => log.push(other),
            }
        }
    }
    for (who, dad) in [(10, ME), (11, others[0])] {
        let position = LENGTH as u64;
        hear(&mut core, who, ToServer::DadDisconnected { dad, position });
        hear(&mut core, who, ToServer::HasFinished(clone::ka::wire::Verdict::Old, [0; 16]));
    }
    while let Some(output) = core.output() {
        match output {
            server::Output::ToClient(0, bytes) => said.extend(bytes),
            other => log.push(other),
        }
    }
    // That the chain's end reports regularly is more than the old server asks
    // of each node.
    let mut ours = words_down(layout, &said);
    ours.retain(|w| *w != ToClient::ReportPosition(clone::ka::wire::Report::Regularly));
    assert_eq!(ours, words_down(layout, &wanted));
    assert!(log.contains(&server::Output::Begin) && log.contains(&server::Output::Finished));
    assert!(log.contains(&server::Output::Send(ME, 0)), "{log:?}");
    assert!(core.clients().all(|(_, s)| *s == Standing::Acknowledged));
}

#[test]
fn client_of_the_32_bit_program() {
    as_client("ka-0.94-i386", Layout::I386);
}

#[test]
fn client_of_the_64_bit_program() {
    as_client("ka-0.94-lp64", Layout::Lp64);
}

#[test]
fn server_of_the_32_bit_program() {
    as_server("ka-0.94-i386", Layout::I386);
}

#[test]
fn server_of_the_64_bit_program() {
    as_server("ka-0.94-lp64", Layout::Lp64);
}
