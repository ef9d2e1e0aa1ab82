//! A simulated room: one udpcast sender, 1 to 64 receivers, a network that
//! delays and loses, machines that are slow or fall silent. Time is counted,
//! chance is seeded: a failure here happens again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use clone::digest::Meter;
use clone::outcome::Standing;
use clone::udpcast::wire::{Capabilities, ToReceiver, ToSender};
use clone::udpcast::{Bits, Receiver, Sender, default_group, receiver, sender};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

fn address(i: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1 + (i / 200) as u8, (i % 200) as u8 + 1)
}

struct Chance(u64);
impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn percent(&mut self, n: u64) -> bool {
        self.next() % 100 < n
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Good,
    /// Takes one slice at most in so many milliseconds.
    Slow(u64),
    /// Falls silent after so many packets.
    DiesAfter(u64),
    /// Comes only after so many milliseconds.
    Late(u64),
    /// Old program: knows nothing of digests.
    Old,
    /// Its disk fails at the end.
    BadDisk,
}

struct Node {
    kind: Kind,
    core: Receiver,
    got: Vec<u8>,
    next_take: Duration,
    packets: u64,
    stored: bool,
    end: Option<Result<bool, clone::Error>>,
}

struct Room {
    sender: Result<Sender, clone::Error>,
    nodes: Vec<Node>,
    now: Duration,
}

fn payload(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i as u32 / 4).wrapping_mul(2_654_435_761).to_le_bytes()[i % 4]).collect()
}

/// Runs until everybody has ended or `limit` has passed.
fn run(
    config: sender::Config,
    kinds: &[Kind],
    data: &[u8],
    loss: u64,
    seed: u64,
    limit: Duration,
) -> Room {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut now = Duration::ZERO;
    let asynchronous = config.asynchronous;
    let mut core = Sender::new(config, now).unwrap();
    let mut failed = None;
    let mut nodes: Vec<Node> = kinds
        .iter()
        .map(|kind| Node {
            kind: *kind,
            core: Receiver::new(
                receiver::Config {
                    verify: *kind != Kind::Old,
                    receive_timeout: Some(Duration::from_secs(30)),
                    start_timeout: Some(Duration::from_secs(60)),
                    ..receiver::Config::default()
                },
                now,
            ),
            got: Vec::new(),
            next_take: now,
            packets: 0,
            stored: false,
            end: None,
        })
        .collect();
    // (arrival, order, receiver or sender, from, bytes)
    type Flight = (Duration, u64, Option<usize>, Ipv4Addr, Vec<u8>);
    let mut air: BinaryHeap<Reverse<Flight>> = BinaryHeap::new();
    let mut order = 0u64;
    let mut at = 0;
    let mut out = Vec::new();
    let mut spare = Vec::new();
    while now < limit {
        // The sender's turn: at most as many packets as a link carries in the
        // time of a step.
        let mut budget = 100;
        if failed.is_none() && !core.finished() {
            loop {
                let want = core.wants();
                let step = if at < data.len() && want > 0 {
                    let n = want.min(data.len() - at);
                    at += n;
                    core.step(sender::Input::Data(&data[at - n..at]), now)
                } else if at == data.len() && want > 0 {
                    core.step(sender::Input::End, now)
                } else {
                    core.step(sender::Input::Tick, now)
                };
                if let Err(e) = step {
                    failed = Some(e);
                    break;
                }
                let mut sent = false;
                while budget > 0
                    && let Some(to) = core.transmit(now, &mut out)
                {
                    sent = true;
                    budget -= 1;
                    for i in 0..nodes.len() {
                        let for_it = match to {
                            sender::To::Everybody | sender::To::Group(_) if !matches!(to, sender::To::Group(a) if !a.is_multicast()) => {
                                true
                            }
                            sender::To::Group(a) | sender::To::Machine(a) => a == address(i),
                            sender::To::Everybody => true,
                        };
                        if for_it && !chance.percent(loss) {
                            order += 1;
                            let delay = Duration::from_micros(100 + chance.next() % 400);
                            air.push(Reverse((now + delay, order, Some(i), SERVER, out.clone())));
                        }
                    }
                }
                while core.event().is_some() {}
                if !sent || budget == 0 {
                    break;
                }
            }
        }
        for (i, node) in nodes.iter_mut().enumerate() {
            if node.end.is_some() || matches!(node.kind, Kind::DiesAfter(n) if node.packets > n) {
                continue;
            }
            if matches!(node.kind, Kind::Late(ms) if now < MS * ms as u32) {
                continue;
            }
            if let Err(e) = node.core.step(receiver::Input::Tick, now) {
                node.end = Some(Err(e));
            }
            if now >= node.next_take {
                while node.core.take(&mut spare) {
                    node.got.extend_from_slice(&spare);
                    if let Kind::Slow(ms) = node.kind {
                        node.next_take = now + MS * ms as u32;
                        break;
                    }
                }
            }
            while let Some(event) = node.core.event() {
                match event {
                    receiver::Event::End(digest) => {
                        let mut meter = Meter::default();
                        meter.update(&node.got);
                        assert_eq!(meter.digest(), digest);
                        node.stored = true;
                        let how =
                            if node.kind == Kind::BadDisk { Err("no space") } else { Ok(true) };
                        if let Err(e) = node.core.step(receiver::Input::Stored(how), now) {
                            node.end = Some(Err(e));
                        }
                    }
                    receiver::Event::Finished { verified, .. } => node.end = Some(Ok(verified)),
                    _ => {}
                }
            }
            while node.core.transmit(&mut out).is_some() {
                assert!(
                    !asynchronous || out.len() == 4 || out.len() == 12,
                    "answers without a way back"
                );
                if !chance.percent(loss) {
                    order += 1;
                    let delay = Duration::from_micros(100 + chance.next() % 400);
                    air.push(Reverse((now + delay, order, None, address(i), out.clone())));
                }
            }
        }
        let over = failed.is_some() || core.finished();
        if over && nodes.iter().all(|n| n.end.is_some() || matches!(n.kind, Kind::DiesAfter(_))) {
            break;
        }
        now += MS;
        while air.peek().is_some_and(|Reverse(f)| f.0 <= now) {
            let Some(Reverse((when, _, to, from, bytes))) = air.pop() else { break };
            match to {
                None => {
                    if failed.is_none()
                        && let Err(e) =
                            core.step(sender::Input::Packet { from, bytes: &bytes }, when)
                    {
                        failed = Some(e);
                    }
                }
                Some(i) => {
                    let node = &mut nodes[i];
                    node.packets += 1;
                    if node.end.is_some()
                        || matches!(node.kind, Kind::DiesAfter(n) if node.packets > n)
                        || matches!(node.kind, Kind::Late(ms) if when < MS * ms as u32)
                    {
                        continue;
                    }
                    if let Err(e) =
                        node.core.step(receiver::Input::Packet { from, bytes: &bytes }, when)
                    {
                        node.end = Some(Err(e));
                    }
                }
            }
        }
    }
    Room { sender: failed.map_or(Ok(core), Err), nodes, now }
}

fn config(n: usize) -> sender::Config {
    sender::Config {
        min_receivers: n as u16,
        hello_interval: Some(MS * 200),
        ..sender::Config::new(default_group(SERVER))
    }
}

fn all_verified(room: &Room, data: &[u8]) {
    let core = room.sender.as_ref().expect("the sender failed");
    assert!(core.finished(), "the sender has not ended after {:?}", room.now);
    for (i, node) in room.nodes.iter().enumerate() {
        assert_eq!(node.got.len(), data.len(), "receiver {i}");
        assert!(node.got == data, "receiver {i} has other bytes");
        assert_eq!(node.end, Some(Ok(true)), "receiver {i}");
    }
    assert!(
        core.machines().iter().all(|m| m.standing == Standing::Verified),
        "{:?}",
        core.machines()
    );
}

#[test]
fn rooms_of_all_sizes_without_loss() {
    for n in [1, 2, 3, 8, 64] {
        let data = payload(900_001);
        let room = run(config(n), &vec![Kind::Good; n], &data, 0, 1, Duration::from_secs(60));
        all_verified(&room, &data);
    }
}

#[test]
fn odd_lengths() {
    for length in [0, 1, 193, 1455, 1456, 1457, 163_072, 163_073] {
        let data = payload(length);
        for full_duplex in [true, false] {
            let c = sender::Config { full_duplex, ..config(2) };
            let room =
                run(c, &[Kind::Good; 2], &data, 5, length as u64 + 3, Duration::from_secs(60));
            all_verified(&room, &data);
        }
    }
}

#[test]
fn a_fifth_of_all_packets_lost() {
    for (n, seed) in [(1, 1), (2, 2), (4, 3), (16, 4)] {
        let data = payload(700_003);
        let room = run(config(n), &vec![Kind::Good; n], &data, 20, seed, Duration::from_secs(300));
        all_verified(&room, &data);
        assert!(room.sender.unwrap().resent() > 0);
    }
}

/// An old receiver that has heard of the end leaves half a second later; when its
/// answers were lost it was counted as gone, and when it still lacked a block it
/// waited for ever.
#[test]
fn the_end_is_told_when_all_have_the_data() {
    let now = Duration::ZERO;
    let mut core = Sender::new(config(1), now).unwrap();
    let say = |core: &mut Sender, packet: &ToSender, now| {
        let mut bytes = Vec::new();
        packet.write(&mut bytes);
        core.step(sender::Input::Packet { from: address(0), bytes: &bytes }, now).unwrap();
    };
    let old = Capabilities(Capabilities::NEW_GENERATION);
    say(&mut core, &ToSender::ConnectReq { capabilities: old, receive_buffer: 1 << 20 }, now);
    core.step(sender::Input::Data(&payload(100)), now).unwrap();
    core.step(sender::Input::End, now).unwrap();
    let mut out = Vec::new();
    let mut ends = |core: &mut Sender, from: u32, to: u32| {
        let mut ends = 0;
        for ms in from..to {
            core.step(sender::Input::Tick, MS * ms).unwrap();
            while core.transmit(MS * ms, &mut out).is_some() {
                let packet = ToReceiver::parse(&out);
                ends += u32::from(matches!(packet, Some(ToReceiver::ReqAck { bytes: 0, .. })));
            }
        }
        ends
    };
    assert_eq!(ends(&mut core, 0, 1), 0);
    let lacks_all = ToSender::Retransmit { slice: 0, round: [0; 4], have: Bits::default() };
    say(&mut core, &lacks_all, MS);
    assert_eq!(ends(&mut core, 1, 1000), 0, "no receiver has said that the data is there");
    say(&mut core, &ToSender::Ok { slice: 0 }, MS * 1000);
    // Then it is busy, and reads no packet for more than a second.
    assert!(ends(&mut core, 1000, 2500) > 10);
    assert!(!core.finished(), "the end was not answered yet, and it may still be asked for");
    say(&mut core, &ToSender::Ok { slice: 1 }, MS * 2500);
    assert!(core.finished());
    assert_eq!(core.machines()[0].standing, Standing::Acknowledged);
}

#[test]
fn a_slow_disk_slows_all_and_loses_none() {
    let data = payload(900_001);
    let kinds = [Kind::Good, Kind::Slow(150), Kind::Good];
    let room = run(config(3), &kinds, &data, 2, 5, Duration::from_secs(120));
    all_verified(&room, &data);
}

#[test]
fn a_machine_that_dies_is_dropped_and_the_others_finish() {
    for at in [0, 1, 2, 10, 100, 300, 450] {
        let data = payload(600_000);
        let c = sender::Config { retries_until_drop: 20, max_wait: Some(MS * 3000), ..config(4) };
        let kinds = [Kind::Good, Kind::DiesAfter(at), Kind::Good, Kind::Old];
        let room = run(c, &kinds, &data, 1, at + 1, Duration::from_secs(200));
        let core = room.sender.expect("the sender ends well");
        assert!(core.finished());
        for i in [0, 2] {
            assert!(
                room.nodes[i].got == data && room.nodes[i].end == Some(Ok(true)),
                "dies at {at}"
            );
        }
        // The old one got all, but no machine may claim that it was verified.
        assert!(room.nodes[3].got == data);
        assert_eq!(room.nodes[3].end, Some(Ok(false)));
        for machine in core.machines() {
            let want = if machine.address == address(1) {
                [Standing::lost("dropped, did not answer"), Standing::lost("left before the end")]
            } else if machine.address == address(3) {
                [Standing::Acknowledged, Standing::Acknowledged]
            } else {
                [Standing::Verified, Standing::Verified]
            };
            assert!(want.contains(&machine.standing), "dies at {at}: {machine:?}");
        }
    }
}

#[test]
fn a_failing_disk_is_known_at_both_ends() {
    let data = payload(100_000);
    let room = run(config(2), &[Kind::Good, Kind::BadDisk], &data, 0, 9, Duration::from_secs(60));
    assert!(matches!(room.nodes[1].end, Some(Err(clone::Error::Store { .. }))));
    let core = room.sender.unwrap();
    let bad = core.machines().iter().find(|m| m.address == address(1)).unwrap();
    // It says so if the sender has asked by then; verified it can never be.
    assert!(!matches!(bad.standing, Standing::Verified | Standing::Receiving));
}

#[test]
fn all_gone_is_a_failure() {
    let data = payload(600_000);
    let c = sender::Config { retries_until_drop: 15, ..config(2) };
    let room = run(c, &[Kind::DiesAfter(50); 2], &data, 0, 2, Duration::from_secs(100));
    assert!(matches!(room.sender, Err(clone::Error::Gone { .. })), "{:?}", room.sender);
}

#[test]
fn too_late_is_told_and_given_up() {
    let data = payload(8_000_000);
    let room =
        run(config(1), &[Kind::Good, Kind::Late(800)], &data, 0, 2, Duration::from_secs(100));
    assert!(room.nodes[0].got == data);
    assert!(
        matches!(room.nodes[1].end, Some(Err(clone::Error::Stalled { .. }))),
        "{:?}",
        room.nodes[1].end
    );
    assert!(room.nodes[1].got.is_empty());
}

#[test]
fn a_streaming_sender_is_joined_late() {
    let data = payload(30_000_000);
    let c = sender::Config { streaming: true, ..config(1) };
    let room = run(c, &[Kind::Good, Kind::Late(300)], &data, 0, 2, Duration::from_secs(100));
    assert!(
        room.nodes[0].got == data,
        "{:?} {:?} {} {:?}",
        room.nodes[0].end,
        room.now,
        room.nodes[0].got.len(),
        room.sender.as_ref().map(|s| s.machines().to_vec())
    );
    let late = &room.nodes[1];
    assert!(!late.got.is_empty() && late.got.len() < data.len());
    assert!(data.ends_with(&late.got));
    // Part of a stream is not a verified stream.
    assert_eq!(late.end, Some(Ok(false)));
}

#[test]
fn without_a_way_back_redundancy_repairs() {
    let data = payload(2_000_000);
    let c = sender::Config {
        asynchronous: true,
        autostart: Some(1),
        fec: Some(sender::Redundancy { stripes: 8, redundancy: 24, stripe_size: 64 }),
        max_bitrate: Some(50_000_000),
        ..config(0)
    };
    let room = run(c, &[Kind::Good; 3], &data, 10, 11, Duration::from_secs(100));
    assert!(room.sender.is_ok_and(|s| s.finished()));
    for node in &room.nodes {
        assert!(node.got == data, "{:?}", node.end);
        assert_eq!(node.end, Some(Ok(true)));
        assert!(node.core.repaired() > 0);
    }
}

#[test]
fn without_a_way_back_too_much_loss_is_a_failure() {
    let data = payload(2_000_000);
    let c = sender::Config {
        asynchronous: true,
        autostart: Some(1),
        fec: Some(sender::Redundancy { stripes: 8, redundancy: 2, stripe_size: 64 }),
        max_bitrate: Some(50_000_000),
        ..config(0)
    };
    let room = run(c, &[Kind::Good; 1], &data, 30, 11, Duration::from_secs(100));
    assert!(matches!(room.nodes[0].end, Some(Err(_))), "{:?}", room.nodes[0].end);
}
