//! Recorded runs of real Dolly programs, old and new: our client between the
//! real server and the real second client, and our server before the real
//! first client. Where the recorded program spoke, ours must say the same
//! bytes on the same connection.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use clone::digest::Meter;
use clone::dolly::{Client, Config, Server, client, server};
use clone::guard::Kept;
use clone::outcome::{Patience, Standing};
use common::{Event, Part, payload, read};
use std::collections::BTreeMap;
use std::time::Duration;

const LENGTH: usize = 410_603;

fn concat(parts: &[Part]) -> Vec<u8> {
    parts.iter().flat_map(Part::bytes).collect()
}

fn port(to: &str) -> u16 {
    to.rsplit(':').next().unwrap().parse().unwrap()
}

/// The nonce that the recorded node sent to the next.
fn nonce_of(events: &[Event], from: &str) -> [u8; 32] {
    let found = events.iter().find_map(|e| match e {
        Event::Data { from: f, parts, .. } if f == from => match &parts[0] {
            Part::Bytes(b) if b.len() == 32 && (from == "10.77.0.1" || b[0] == 0xee) => {
                Some(b.clone())
            }
            _ => None,
        },
        _ => None,
    });
    found.map_or([7; 32], |b| b.try_into().unwrap())
}

fn as_client(name: &str, password: Option<&str>) {
    let events = read(name);
    let me = "10.77.0.2";
    let mut now = Duration::ZERO;
    let mut core = Client::new(
        client::Options {
            names: vec![me.to_owned()],
            password: password.map(str::to_owned),
            nonce: nonce_of(&events, me),
            patience: Patience {
                start: Some(Duration::from_secs(120)),
                stall: Some(Duration::from_secs(120)),
            },
        },
        now,
    );
    let mut ports = BTreeMap::new();
    let mut wanted: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut said: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut child_control = None;
    let mut parent_control = None;
    let mut received = 0u64;
    let mut finished = None;
    let mut connect: Vec<usize> = Vec::new();
    for event in &events {
        match event {
            Event::Open { conn, from, to } => {
                ports.insert(*conn, port(to));
                if port(to) == 9997 && from == me {
                    child_control = Some(*conn);
                    assert_eq!(connect, [1], "the second client is our child");
                    core.step(client::Input::Connected(1), now).unwrap();
                } else if port(to) == 9997 {
                    parent_control = Some(*conn);
                }
            }
            Event::Data { conn, from, parts } if from == me => {
                if ports[conn] == 9998 {
                    continue; // relayed by the caller
                }
                let stream = wanted.entry(*conn).or_default();
                stream.extend(concat(parts));
                let need = stream.len();
                let mut patience = 0;
                while said.get(conn).map_or(0, Vec::len) < need && patience < 50 {
                    patience += 1;
                    pump(
                        &mut core,
                        parent_control,
                        child_control,
                        &mut said,
                        &mut finished,
                        &mut connect,
                        now,
                    );
                    if said.get(conn).map_or(0, Vec::len) < need {
                        now = core
                            .deadline()
                            .map_or(now, |d| d.max(now).min(now + Duration::from_millis(200)));
                        core.step(client::Input::Tick, now).unwrap();
                    }
                }
            }
            Event::Data { conn, parts, .. } => {
                let bytes = concat(parts);
                if ports[conn] == 9998 {
                    received += bytes.len() as u64;
                    core.step(client::Input::Received(received), now).unwrap();
                } else if Some(*conn) == parent_control {
                    // Split in two: nothing may depend on one read.
                    let (a, b) = bytes.split_at(bytes.len() / 2);
                    core.step(client::Input::Parent(a), now).unwrap();
                    core.step(client::Input::Parent(b), now).unwrap();
                } else {
                    core.step(client::Input::Child(1, &bytes), now).unwrap();
                }
            }
            Event::Fin { conn, from } if ports[conn] == 9998 && from == "10.77.0.1" => {
                core.step(client::Input::DataEnd, now).unwrap();
            }
            _ => {}
        }
        pump(&mut core, parent_control, child_control, &mut said, &mut finished, &mut connect, now);
    }
    for (conn, stream) in &wanted {
        assert_eq!(
            String::from_utf8_lossy(stream),
            String::from_utf8_lossy(&said[conn]),
            "connection {conn} to port {}",
            ports[conn]
        );
    }
    assert_eq!(finished, Some(false), "an old server verifies nothing");
    assert_eq!(received, LENGTH as u64);
}

fn pump(
    core: &mut Client,
    parent: Option<u32>,
    child: Option<u32>,
    said: &mut BTreeMap<u32, Vec<u8>>,
    finished: &mut Option<bool>,
    connect: &mut Vec<usize>,
    now: Duration,
) {
    while let Some(output) = core.output() {
        match output {
            client::Output::ToParent(b) => said.entry(parent.unwrap()).or_default().extend(b),
            client::Output::ToChild(_, b) => said.entry(child.unwrap()).or_default().extend(b),
            client::Output::Configured { children, config, index, .. } => {
                assert_eq!(index, 0);
                assert_eq!(config.hosts.len(), 3);
                connect.extend(children);
            }
            client::Output::Complete(n) => {
                assert_eq!(n, LENGTH as u64);
                let mut meter = Meter::default();
                meter.update(&payload(0, LENGTH));
                core.step(client::Input::Stored(Ok(Kept::unread(meter.digest()))), now).unwrap();
            }
            client::Output::Finished { verified } => *finished = Some(verified),
            client::Output::Length(_) => {}
            client::Output::Refused(why) => panic!("{why}"),
        }
    }
}

fn as_server(name: &str, password: Option<&str>) {
    let events = read(name);
    let me = "10.77.0.1";
    let text = events
        .iter()
        .find_map(|e| match e {
            Event::Data { from, parts, .. } if from == me => {
                let bytes = concat(parts);
                let at = bytes.windows(7).position(|w| w == b"infile ")?;
                Some(String::from_utf8(bytes[at..].to_vec()).unwrap())
            }
            _ => None,
        })
        .unwrap();
    let mut now = Duration::ZERO;
    let options = server::Options {
        password: password.map(str::to_owned),
        nonce: nonce_of(&events, me),
        patience: Patience {
            start: Some(Duration::from_secs(120)),
            stall: Some(Duration::from_secs(120)),
        },
        directories: false,
    };
    let config = Config::parse(&text).unwrap();
    let mut core = Server::new(config, &text, false, options, now).unwrap();
    let mut control = None;
    let mut wanted = Vec::new();
    let mut said = Vec::new();
    let mut begun = false;
    let mut finished = false;
    let mut ports = BTreeMap::new();
    let mut meter = Meter::default();
    meter.update(&payload(0, LENGTH));
    for event in &events {
        match event {
            Event::Open { conn, from, to } => {
                ports.insert(*conn, port(to));
                if from == me && port(to) == 9997 {
                    control = Some(*conn);
                    core.step(server::Input::Connected(0), now).unwrap();
                }
            }
            Event::Data { conn, from, parts } if from == me => {
                if ports[conn] == 9998 {
                    assert!(
                        begun,
                        "the real server sends data: ours thinks that not all are ready"
                    );
                    continue;
                }
                let bytes = concat(parts);
                if bytes == (LENGTH as u64).to_le_bytes() {
                    core.step(server::Input::End(meter.digest()), now).unwrap();
                }
                wanted.extend(bytes);
                for _ in 0..50 {
                    while let Some(o) = core.output() {
                        match o {
                            server::Output::ToChild(0, b) => said.extend(b),
                            server::Output::Begin => begun = true,
                            _ => {}
                        }
                    }
                    if said.len() >= wanted.len() {
                        break;
                    }
                    now = core
                        .deadline()
                        .map_or(now, |d| d.max(now).min(now + Duration::from_millis(200)));
                    core.step(server::Input::Tick, now).unwrap();
                }
            }
            Event::Data { conn, parts, .. } if Some(*conn) == control => {
                core.step(server::Input::Child(0, &concat(parts)), now).unwrap();
            }
            _ => {}
        }
        while let Some(o) = core.output() {
            match o {
                server::Output::ToChild(0, b) => said.extend(b),
                server::Output::Begin => begun = true,
                server::Output::Finished => finished = true,
                server::Output::Connect(i) => assert_eq!(i, 0),
                _ => {}
            }
        }
    }
    assert_eq!(said, wanted);
    assert!(begun && finished);
    assert!(core.clients().all(|(_, s)| *s == Standing::Acknowledged));
}

#[test]
fn client_of_0_57() {
    as_client("dolly-0.57", None);
}

#[test]
fn client_of_0_58c() {
    as_client("dolly-0.58C", None);
}

#[test]
fn client_of_0_72() {
    as_client("dolly-0.72", None);
}

#[test]
fn client_of_0_72_with_password() {
    as_client("dolly-0.72-password", Some("sheep"));
}

#[test]
fn server_of_0_57() {
    as_server("dolly-0.57", None);
}

#[test]
fn server_of_0_58c() {
    as_server("dolly-0.58C", None);
}

#[test]
fn server_of_0_72() {
    as_server("dolly-0.72", None);
}

#[test]
fn server_of_0_72_with_password() {
    as_server("dolly-0.72-password", Some("sheep"));
}

#[test]
#[should_panic(expected = "password")]
fn a_wrong_password_is_not_the_recorded_proof() {
    as_server("dolly-0.72-password", Some("goat"));
}

/// An old server is told of a lost copy in the only words it has: each old client sends on the
/// length that it is told, and the server compares that with its own.
#[test]
fn a_lost_copy_is_acknowledged_by_another_length() {
    for (own, behind, acknowledges) in
        [(Err("no space left"), 64u64, 0u64), (Ok(()), 64, 64), (Ok(()), 0, 0)]
    {
        let now = Duration::ZERO;
        let options = client::Options {
            names: vec!["a".to_owned()],
            password: None,
            nonce: [7; 32],
            patience: Patience::default(),
        };
        let mut core = Client::new(options, now);
        let text = "infile /i\noutfile /o\nserver s\nfirstclient a\nlastclient b\nclients 2\na\nb\nendconfig\n";
        core.step(client::Input::Parent(text.as_bytes()), now).unwrap();
        core.step(client::Input::Connected(1), now).unwrap();
        core.step(client::Input::Child(1, b"Host got parameters 'b'.\nHost ready 'b'.\n"), now)
            .unwrap();
        core.step(client::Input::Parent(&64u64.to_le_bytes()), now).unwrap();
        core.step(client::Input::Received(64), now).unwrap();
        while core.output().is_some() {}
        let kept = || Kept::unread(Meter::default().digest());
        core.step(client::Input::Stored(own.map(|()| kept())), now).unwrap();
        let ended = core.step(client::Input::Child(1, &behind.to_le_bytes()), now);
        assert_eq!(ended.is_err(), own.is_err(), "another's loss is not its own: {ended:?}");
        let said: Vec<u8> = std::iter::from_fn(|| core.output())
            .filter_map(|output| match output {
                client::Output::ToParent(bytes) => Some(bytes),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(said, acknowledges.to_le_bytes());
    }
}
