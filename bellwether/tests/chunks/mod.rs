//! `clone send` and `clone receive`: a room that is cloned chunk by chunk.

use crate::room::{Room, Running, noise, same, until};
use std::path::Path;

fn receive(room: &Room, node: usize) -> Running {
    let copy = room.path(&format!("copy{node}")).display().to_string();
    room.bellwether(node, &["receive", "-v", "--from", "10.77.0.1", &copy])
}

fn send(room: &Room, nodes: usize, bulk: &str) -> Running {
    let golden = room.path("golden").display().to_string();
    room.bellwether(0, &["send", "-v", "-n", &nodes.to_string(), "--bulk", bulk, &golden])
}

#[test]
fn chunks_to_three_and_again_onto_the_same_nothing() {
    let room = Room::new(4);
    let golden = noise(&room.path("golden"), 20_000_001);
    for again in [false, true] {
        let mut nodes: Vec<_> = (1..4).map(|node| receive(&room, node)).collect();
        let mut sender = send(&room, 3, "chain");
        sender.succeeds(60);
        for (node, machine) in (1..4).zip(&mut nodes) {
            machine.succeeds(20);
            same(&room.path(&format!("copy{node}")), &golden);
        }
        let log = sender.log();
        let rows: Vec<&str> =
            log.lines().filter(|l| l.starts_with("10.77.0.") && l.ends_with("verified")).collect();
        assert_eq!(rows.len(), if again { 6 } else { 3 }, "{log}");
        // The table has what travelled, not the size of the disk.
        let travelled = if again { " 0 B " } else { "20.0 MB" };
        assert!(rows.iter().rev().take(3).all(|row| row.contains(travelled)), "{log}");
    }
}

/// By multicast, with two packets of a hundred lost: every disk is equal, and the sender has sent
/// not much more than one copy.
#[test]
fn multicast_to_eight_that_lose_packets() {
    for (bulk, key, percent) in [("multicast", "", 0), ("auto", "0123456789abcdef", 1)] {
        let room = Room::new(9);
        let golden = noise(&room.path("golden"), 50_000_001);
        room.slow(400);
        room.lossy((1..9).filter(|_| percent > 0), percent);
        let key = |words: &[&str]| -> Vec<String> {
            let key = ["--key", key];
            words
                .iter()
                .chain(key.iter().filter(|_| !key[1].is_empty()))
                .map(|w| w.to_string())
                .collect()
        };
        let start = |node: usize, words: &[&str]| {
            let words = key(words);
            room.bellwether(node, &words.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let copy = |node: usize| room.path(&format!("copy{node}")).display().to_string();
        let mut nodes: Vec<_> = (1..9)
            .map(|node| start(node, &["receive", "-v", "--from", "10.77.0.1", &copy(node)]))
            .collect();
        let golden_path = room.path("golden").display().to_string();
        let mut sender = start(0, &["send", "-v", "-n", "8", "--bulk", bulk, &golden_path]);
        sender.succeeds(120);
        for (node, machine) in (1..9).zip(&mut nodes) {
            machine.succeeds(20);
            same(&room.path(&format!("copy{node}")), &golden);
        }
        let (log, sent) = (sender.log(), room.traffic(0));
        println!("{bulk}: {sent} bytes sent\n{log}");
        assert!(log.contains("multicast"), "{log}");
        let chain = log.contains("a chain brings");
        assert!(bulk == "auto" || !chain && sent < 60_000_000, "{sent} {log}");
    }
}

/// Where the network carries no multicast, the machines get their copies all the same.
#[test]
fn no_multicast_is_said_once_and_a_chain_it_is() {
    let room = Room::new(4);
    let golden = noise(&room.path("golden"), 40_000_001);
    let drop = "nft add table ip no; nft add chain ip no out '{ type filter hook output priority 0; }'; \
                nft add rule ip no out ip daddr 224.0.0.0/4";
    for (bulk, rule) in [("auto", "drop"), ("multicast", "drop"), ("multicast", "reject")] {
        room.run(0, &format!("{drop} {rule}"));
        let mut nodes: Vec<_> = (1..4).map(|node| receive(&room, node)).collect();
        let file = room.path("golden").display().to_string();
        let mut sender = room.bellwether(0, &["send", "-n", "3", "--bulk", bulk, &file]);
        sender.succeeds(60);
        for (node, machine) in (1..4).zip(&mut nodes) {
            machine.succeeds(20);
            same(&room.path(&format!("copy{node}")), &golden);
            std::fs::remove_file(room.path(&format!("copy{node}"))).unwrap();
        }
        let log = sender.log();
        println!("{bulk}, {rule}:\n{log}");
        let told = log.lines().filter(|line| line.contains("no multicast: ")).count();
        assert!(told > 0 && log.contains("a chain brings the chunks"), "{log}");
        room.run(0, "nft delete table ip no");
    }
}

/// Every machine and the sender, killed at each tenth of what it gets or sends: the others
/// finish, it goes on where it was, and what is called verified is equal.
#[test]
#[ignore = "a sweep of minutes"]
fn sweep_killed_at_each_tenth() {
    killed_at_each_tenth("chain");
}

#[test]
#[ignore = "a sweep of minutes"]
fn sweep_killed_at_each_tenth_by_multicast() {
    killed_at_each_tenth("multicast");
}

fn killed_at_each_tenth(bulk: &str) {
    const NODES: usize = 3;
    const LEN: usize = 40_000_001;
    for victim in 0..=NODES {
        for tenth in 1..10 {
            let room = Room::new(NODES + 1);
            room.slow(150);
            let golden = noise(&room.path("golden"), LEN);
            let mut nodes: Vec<_> = (1..=NODES).map(|node| receive(&room, node)).collect();
            let mut sender = send(&room, NODES, bulk);
            let part = (LEN / 10 * tenth) as u64;
            let what = || format!("machine {victim} at {part} bytes");
            until(what, || room.traffic(victim) >= part);
            match victim {
                0 => {
                    sender.kill();
                    sender = send(&room, NODES, bulk);
                }
                _ => {
                    nodes[victim - 1].kill();
                    let claims = nodes[victim - 1].log().contains("; verified with");
                    assert!(!claims || equal(&room.path(&format!("copy{victim}")), &golden));
                    nodes[victim - 1] = receive(&room, victim);
                }
            }
            sender.succeeds(120);
            for (node, machine) in (1..=NODES).zip(&mut nodes) {
                machine.succeeds(30);
                same(&room.path(&format!("copy{node}")), &golden);
                assert!(machine.log().contains("; verified with the sender; read back"));
            }
            let log = nodes[victim.max(1) - 1].log();
            let looks: Vec<&str> = log.lines().filter(|l| l.contains(" chunks")).collect();
            println!("{bulk}: machine {victim} killed at {tenth}0 %: all equal; {looks:?}");
        }
    }
}

fn equal(path: &Path, bytes: &[u8]) -> bool {
    std::fs::read(path).is_ok_and(|own| own == bytes)
}

/// Each end without the key, or with another one, says what to do.
#[test]
fn another_key_is_told_at_both_ends() {
    let with = |room: &Room, sender: &[&str], machine: &[&str]| {
        let (golden, copy) =
            (room.path("golden").display().to_string(), room.path("copy").display().to_string());
        let machine = room.bellwether(
            1,
            &[&["receive", "--from", "10.77.0.1", "-a", "4", &copy], machine].concat(),
        );
        let sender = room.bellwether(0, &[&["send", "-a", "4", &golden], sender].concat());
        (sender, machine)
    };
    let key = ["--key", "0123456789abcdef"];
    for (ours, theirs, says, told) in [
        (&key[..], &[][..], "has no key", "--key"),
        (&[][..], &key[..], "has a key", "--key"),
        (&key[..], &["--key", "another, long enough"][..], "another key", "--key"),
    ] {
        let room = Room::new(2);
        noise(&room.path("golden"), 2_000_000);
        let (mut sender, mut machine) = with(&room, ours, theirs);
        machine.fails(30);
        sender.fails(30);
        println!("sender:\n{}machine:\n{}", sender.log(), machine.log());
        assert!(sender.log().contains(says) && sender.log().contains(told), "{}", sender.log());
        assert!(machine.log().contains("--key"), "{}", machine.log());
        assert!(
            !room.path("copy").exists() || std::fs::metadata(room.path("copy")).unwrap().len() == 0
        );
    }
}

/// Targets tell what they are; the source waits no longer than it was told, and then for the
/// next room.
#[test]
fn targets_are_known_by_their_disks_and_a_source_goes_on() {
    let room = Room::new(3);
    let golden = noise(&room.path("golden"), 5_000_001);
    let file = room.path("golden").display().to_string();
    let words =
        ["source", &file, "-n", "9", "--max-wait", "1", "--again", "--linger", "2", "--json"];
    let source = room.bellwether(0, &words);
    for round in 1..=2 {
        let target = |node: usize| {
            let copy = room.path(&format!("copy{node}.{round}"));
            std::fs::write(&copy, noise(&room.path("garbage"), 6_000_000)).unwrap();
            room.bellwether(node, &["target", "--from", "10.77.0.1", &copy.display().to_string()])
        };
        let mut targets: Vec<_> = (1..3).map(target).collect();
        for (node, target) in (1..3).zip(&mut targets) {
            target.succeeds(30);
            let copy = std::fs::read(room.path(&format!("copy{node}.{round}"))).unwrap();
            assert!(copy[..golden.len()] == golden);
        }
        for node in 1..3 {
            source.says(&format!("copy{node}.{round} 6000.0 kB (10.77.0.{}) has joined", node + 1));
        }
    }
    assert!(source.log().contains(r#"{"event":"node","name":""#), "{}", source.log());
}

/// A request to the page of a source, from another machine of the room.
fn asks(room: &Room, request: &str) -> String {
    use std::io::{Read, Write};
    room.inside(1, || {
        let mut page = std::net::TcpStream::connect(("10.77.0.1", 8080)).unwrap();
        page.write_all(format!("{request}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        page.read_to_string(&mut answer).unwrap();
        answer
    })
}

/// Everybody sees the machines; a copy begins only by a proof of the key that the terminal shows.
#[test]
fn the_page_of_a_source_shows_its_room_and_begins_it() {
    let room = Room::new(3);
    let golden = noise(&room.path("golden"), 5_000_001);
    let file = room.path("golden").display().to_string();
    let words = ["source", &file, "-n", "9", "--page", "8080", "--linger", "2"];
    let mut source = room.bellwether(0, &words);
    let copy = |node: usize| room.path(&format!("copy{node}"));
    let target = |node: usize| {
        let copy = copy(node).display().to_string();
        room.bellwether(node, &["target", "--from", "10.77.0.1", &copy])
    };
    let mut targets: Vec<_> = (1..3).map(target).collect();
    source.says("; 2 machines");
    let get = "GET /state.json HTTP/1.1\r\nHost: 10.77.0.1:8080";
    let ready = || asks(&room, get).matches(r#""text":"is ready""#).count() == 2;
    until(|| format!("both machines are shown: {}", asks(&room, get)), ready);
    let state = asks(&room, get);
    println!("{state}");
    assert!(state.contains(r#""begun":false"#) && state.contains("10.77.0.3"), "{state}");
    let other = asks(&room, "GET /state.json HTTP/1.1\r\nHost: evil.example:8080");
    assert!(other.starts_with("HTTP/1.1 421 "), "{other}");
    let begin = "POST /control/room/begin HTTP/1.1\r\nHost: 10.77.0.1:8080";
    let refused = asks(&room, begin);
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    let log = source.log();
    let key = log.split_once("http://10.77.0.1:8080/#").unwrap().1.split_whitespace().next();
    let mut bytes = [0; 32];
    bytes[..24].copy_from_slice(key.unwrap().as_bytes());
    let proof = blake3::keyed_hash(&bytes, b"POST /control/room/begin 0 11");
    let begun = asks(&room, &format!("{begin}\r\nX-Bellwether-Proof: 0-11-{proof}"));
    assert!(begun.starts_with("HTTP/1.1 204 "), "{begun}");
    for target in &mut targets {
        target.succeeds(30);
    }
    source.succeeds(30);
    for node in 1..3 {
        assert!(std::fs::read(copy(node)).unwrap() == golden);
    }
}
