//! Cloning between real processes, each in a network namespace of its own, and
//! against Debian's udpcast. Needs root, and the packages iproute2 and udpcast.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod chunks;
mod middle;
mod refuses;
#[allow(dead_code, reason = "other tests use the rest")]
mod room;
mod trees;

use room::{Room, Running, grows, noise, same};
use std::path::PathBuf;

/// A chain through all nodes but the first; the list has addresses.
fn dolly_config(room: &Room, n: usize, extra: &str) -> String {
    let hosts: Vec<String> = (1..=n).map(|i| room.ip(i)).collect();
    let text = format!(
        "infile {}\noutfile {}\n{extra}server 10.77.0.1\nfirstclient {}\nlastclient {}\nclients {n}\n{}\nendconfig\n",
        room.path("golden").display(),
        room.path("copy").display(),
        hosts[0],
        hosts[n - 1],
        hosts.join("\n"),
    );
    let path = room.path("dolly.cfg");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn dolly(len: usize, fanout: usize, n: usize) {
    let room = Room::new(n + 1);
    let golden = noise(&room.path("golden"), len);
    let extra = if fanout > 1 { format!("fanout {fanout}\n") } else { String::new() };
    let config = dolly_config(&room, n, &extra);
    let mut clients: Vec<_> = (1..=n)
        .map(|i| {
            let target = room.path(&format!("copy{i}")).display().to_string();
            room.bellwether(i, &["dolly", "-v", "--verify", "--target", &target])
        })
        .collect();
    let mut server = room.bellwether(0, &["dolly", "-s", "-v", "-f", &config, "-a", "60"]);
    server.succeeds(60);
    for (i, client) in clients.iter_mut().enumerate() {
        client.succeeds(20);
        assert!(client.log().contains("; verified with the sender; read back"), "{}", client.log());
        same(&room.path(&format!("copy{}", i + 1)), &golden);
    }
    assert_eq!(server.log().matches(" verified\n").count(), n, "{}", server.log());
}

#[test]
fn dolly_in_a_chain() {
    dolly(30_000_001, 1, 3);
}

#[test]
fn dolly_of_nothing() {
    dolly(0, 1, 2);
}

#[test]
fn dolly_in_a_tree() {
    dolly(1_234_567, 2, 6);
}

#[test]
fn dolly_of_opensuse_with_a_password() {
    let room = Room::new(4);
    let golden = noise(&room.path("golden"), 5_000_000);
    let start = |i: usize, word: &str| {
        let target = room.path(&format!("copy{i}")).display().to_string();
        room.bellwether(i, &["dolly", "-P", word, "--target", &target])
    };
    let mut clients: Vec<_> = (1..4).map(|i| start(i, "sheep")).collect();
    let input = room.path("golden").display().to_string();
    let all = ["dolly", "-s", "-I", &input, "-O", "/tmp/x", "-H", "10.77.0.2,10.77.0.3,10.77.0.4"];
    let mut server = room.bellwether(0, &[&all[..], &["-P", "sheep"]].concat());
    server.succeeds(30);
    for (i, client) in clients.iter_mut().enumerate() {
        client.succeeds(10);
        assert!(client.log().contains("NOT verified"), "{}", client.log());
        same(&room.path(&format!("copy{}", i + 1)), &golden);
    }
    let mut wrong: Vec<_> = (1..4).map(|i| start(i, "goat")).collect();
    let mut server = room.bellwether(0, &[&all[..], &["-P", "sheep"]].concat());
    server.fails(30);
    assert!(server.log().contains("another password"), "{}", server.log());
    wrong[0].fails(10);
}

#[test]
fn dolly_without_a_node_ends_everywhere() {
    let room = Room::new(4);
    noise(&room.path("golden"), 200_000_000);
    let config = dolly_config(&room, 3, "");
    let mut clients: Vec<_> = (1..4)
        .map(|i| {
            room.bellwether(i, &["dolly", "--stall", "20", "-a", "20", "--target", "/dev/null"])
        })
        .collect();
    let mut server = room.bellwether(0, &["dolly", "-s", "-f", &config, "-a", "20"]);
    server.says("all clients are ready");
    clients[1].kill();
    server.fails(30);
    clients[0].fails(30);
    clients[2].fails(30);
    assert!(server.log().contains("has gone"), "{}", server.log());
}

#[test]
fn dolly_with_a_full_disk_in_the_middle() {
    let room = Room::new(4);
    let golden = noise(&room.path("golden"), 3_000_000);
    let config = dolly_config(&room, 3, "");
    let mut clients: Vec<_> = (1..4)
        .map(|i| {
            let target = room.path(&format!("copy{i}")).display().to_string();
            let target = if i == 2 { "/dev/full" } else { &target };
            room.bellwether(i, &["dolly", "--target", target])
        })
        .collect();
    let mut server = room.bellwether(0, &["dolly", "-s", "-f", &config, "-a", "20"]);
    server.fails(30);
    clients[0].succeeds(10);
    clients[1].fails(10);
    clients[2].succeeds(10);
    same(&room.path("copy1"), &golden);
    same(&room.path("copy3"), &golden);
    assert!(server.log().contains("1 of 3 machines"), "{}", server.log());
}

/// One of udpcast's programs: Debian's, or ours under its name.
#[derive(Clone, Copy)]
enum Whose {
    Debian,
    Ours,
}

/// A run with a sender at node 0 and `n` receivers.
struct Cast<'a> {
    sender: Whose,
    receivers: Whose,
    n: usize,
    len: usize,
    loss: u32,
    send: &'a [&'a str],
    receive: &'a [&'a str],
}

impl Cast<'_> {
    fn program(whose: Whose, name: &str) -> Vec<String> {
        match whose {
            Whose::Debian => vec![name.to_owned()],
            Whose::Ours => {
                vec![
                    env!("CARGO_BIN_EXE_bellwether").to_owned(),
                    "clone".to_owned(),
                    name.to_owned(),
                ]
            }
        }
    }

    fn start(room: &Room, node: usize, whose: Whose, name: &str, more: &[&str]) -> room::Running {
        let program = Self::program(whose, name);
        let all: Vec<&str> =
            program.iter().map(String::as_str).chain(more.iter().copied()).collect();
        room.start(node, &all)
    }

    fn run(self) {
        let room = Room::new(self.n + 1);
        let golden = noise(&room.path("golden"), self.len);
        if self.loss > 0 {
            room.lossy(1..=self.n, self.loss);
        }
        let copy = |i: usize| room.path(&format!("copy{i}"));
        let mut receivers: Vec<_> = (1..=self.n)
            .map(|i| {
                let copy = copy(i).display().to_string();
                let base = ["-f", &copy, "--nokbd", "--start-timeout", "60"];
                Self::start(
                    &room,
                    i,
                    self.receivers,
                    "udp-receiver",
                    &[&base[..], self.receive].concat(),
                )
            })
            .collect();
        let file = room.path("golden").display().to_string();
        let count = self.n.to_string();
        let asynchronous = self.send.contains(&"--async");
        let mut send = vec!["-f", &file, "--nokbd"];
        if asynchronous {
            // No receiver answers: they must listen by now.
            (1..=self.n).for_each(|i| room.listens(i, 9000));
            send.extend(["--autostart", "2", "--rexmit-hello-interval", "500"]);
        } else {
            send.extend(["--min-receivers", &count, "--max-wait", "60"]);
        }
        send.extend(self.send);
        let mut sender = Self::start(&room, 0, self.sender, "udp-sender", &send);
        for (i, receiver) in receivers.iter_mut().enumerate() {
            receiver.succeeds(120);
            same(&copy(i + 1), &golden);
        }
        sender.succeeds(30);
        if matches!((self.sender, self.receivers), (Whose::Ours, Whose::Ours)) && !asynchronous {
            assert_eq!(sender.log().matches(" verified\n").count(), self.n, "{}", sender.log());
        }
    }
}

const PLAIN: Cast<'_> = Cast {
    sender: Whose::Ours,
    receivers: Whose::Ours,
    n: 2,
    len: 3_000_001,
    loss: 0,
    send: &[],
    receive: &[],
};

/// Debian to us, us to Debian, us to us.
fn each_way(cast: impl Fn(Whose, Whose)) {
    cast(Whose::Debian, Whose::Ours);
    cast(Whose::Ours, Whose::Debian);
    cast(Whose::Ours, Whose::Ours);
}

#[test]
fn udpcast_to_two_and_to_four() {
    for n in [1, 2, 4] {
        each_way(|sender, receivers| Cast { sender, receivers, n, len: 9_000_001, ..PLAIN }.run());
    }
}

#[test]
fn udpcast_with_a_fifth_of_all_packets_lost() {
    // Debian's sender says where its data goes once before it begins. Who misses that,
    // and the reply to its request too, has no way to learn it.
    let send = &["--rexmit-hello-interval", "100"];
    each_way(|sender, receivers| {
        Cast { sender, receivers, n: 3, len: 1_500_001, loss: 20, send, ..PLAIN }.run();
    });
}

#[test]
fn udpcast_of_nothing() {
    each_way(|sender, receivers| Cast { sender, receivers, len: 0, ..PLAIN }.run());
}

#[test]
fn udpcast_without_a_way_back() {
    each_way(|sender, receivers| {
        let send = &["--async", "--fec", "8x8/128", "--max-bitrate", "40m"];
        Cast { sender, receivers, loss: 1, send, ..PLAIN }.run();
    });
}

#[test]
fn udpcast_half_duplex_and_streaming() {
    each_way(|sender, receivers| {
        Cast { sender, receivers, send: &["--half-duplex"], ..PLAIN }.run();
        Cast { sender, receivers, send: &["--streaming"], ..PLAIN }.run();
    });
}

#[test]
fn udpcast_receivers_that_come_late() {
    // After the start the sender takes no more receivers: the late one gives up, with a
    // word, and spoils nothing.
    each_way(|sender, receivers| {
        let room = Room::new(3);
        let golden = noise(&room.path("golden"), 4_000_000);
        let file = room.path("golden").display().to_string();
        let copy = |i: usize| room.path(&format!("copy{i}")).display().to_string();
        let mut first =
            Cast::start(&room, 1, receivers, "udp-receiver", &["-f", &copy(1), "--nokbd"]);
        let slow = ["-f", &file, "--nokbd", "--min-receivers", "1", "--max-bitrate", "4m"];
        let mut sender = Cast::start(&room, 0, sender, "udp-sender", &slow);
        grows(&room.path("copy1"), 1);
        let late = ["-f", &copy(2), "--nokbd", "--start-timeout", "3"];
        let mut late = Cast::start(&room, 2, Whose::Ours, "udp-receiver", &late);
        late.fails(20);
        first.succeeds(60);
        sender.succeeds(20);
        same(&room.path("copy1"), &golden);
    });
}

#[test]
fn udpcast_streaming_is_joined_late() {
    // With --streaming a late one gets the rest, and says that it lacks the
    // beginning.
    let room = Room::new(3);
    let golden = noise(&room.path("golden"), 4_000_000);
    let file = room.path("golden").display().to_string();
    let copy = |i: usize| room.path(&format!("copy{i}")).display().to_string();
    let first = ["-f", &copy(1), "--nokbd"];
    let mut first = Cast::start(&room, 1, Whose::Ours, "udp-receiver", &first);
    let slow =
        ["-f", &file, "--nokbd", "--min-receivers", "1", "--max-bitrate", "4m", "--streaming"];
    let mut sender = Cast::start(&room, 0, Whose::Ours, "udp-sender", &slow);
    grows(&room.path("copy1"), 1);
    let late = ["-f", &copy(2), "--nokbd", "--start-timeout", "10"];
    let mut late = Cast::start(&room, 2, Whose::Ours, "udp-receiver", &late);
    late.ends(30);
    assert!(late.log().contains("MISSING"), "{}", late.log());
    first.succeeds(60);
    sender.ends(30);
    same(&room.path("copy1"), &golden);
    let rest = std::fs::read(room.path("copy2")).unwrap();
    assert!(!rest.is_empty() && golden.ends_with(&rest), "{} bytes", rest.len());
}

/// Waits for a server and its clients, of which one may be killed when so many of a
/// hundred bytes have come to it: the server calls that one `gone`, and all others have
/// their copies, compared with the sender and read back.
fn served(
    server: &mut Running,
    clients: &mut [Running],
    copies: &[PathBuf],
    golden: &[u8],
    kill: Option<(usize, u64)>,
    gone: &str,
) {
    let dead = kill.map(|(who, percent)| {
        grows(&copies[who - 1], (golden.len() as u64 * percent / 100).max(1));
        clients[who - 1].kill();
        who - 1
    });
    if dead.is_some() {
        server.fails(90);
        assert!(server.log().contains(gone), "{}", server.log());
    } else {
        server.succeeds(90);
    }
    for (i, (client, copy)) in clients.iter_mut().zip(copies).enumerate() {
        if dead != Some(i) {
            client.succeeds(20);
            let said = client.log();
            assert!(said.contains("; verified with the sender; read back"), "{said}");
            same(copy, golden);
        }
    }
    let there = clients.len() - usize::from(dead.is_some());
    assert_eq!(server.log().matches(" verified\n").count(), there, "{}", server.log());
}

/// A KA session of `n` clients; `kill` of them dies when so many of a hundred
/// bytes have come to it.
fn ka(n: usize, len: usize, more: &[&str], kill: Option<(usize, u64)>) {
    let room = Room::new(n + 1);
    let golden = noise(&room.path("golden"), len);
    let copy = |i: usize| room.path(&format!("copy{i}"));
    let file = room.path("golden").display().to_string();
    let count = n.to_string();
    let server = ["ka-d-server", "-s", "room1", "-n", &count, "-f", &file, "-T", "60"];
    let mut server = room.bellwether(0, &[&server[..], more].concat());
    let mut clients: Vec<_> = (1..=n)
        .map(|i| {
            let copy = copy(i).display().to_string();
            let layout = if i % 2 == 0 { "--lp64" } else { "-w" };
            room.bellwether(i, &["ka-d-client", "-s", "room1", "-f", &copy, layout, "--verify"])
        })
        .collect();
    let copies: Vec<_> = (1..=n).map(copy).collect();
    served(&mut server, &mut clients, &copies, &golden, kill, "LOST");
}

#[test]
fn ka_in_a_chain_of_both_layouts() {
    ka(3, 60_000_001, &[], None);
}

#[test]
fn ka_in_a_tree() {
    ka(6, 5_000_000, &["-a", "2"], None);
}

#[test]
fn ka_of_nothing() {
    ka(2, 0, &[], None);
}

#[test]
fn ka_mends_its_chain() {
    for who in 1..=4 {
        ka(4, 150_000_000, &[], Some((who, 10 + 20 * who as u64)));
    }
}

/// Each of four machines dies at some tenth of the transfer, and at each tenth one
/// does.
#[test]
fn ka_when_a_machine_dies_at_each_tenth() {
    for tenth in 0..10 {
        ka(4, 60_000_000, &[], Some((1 + tenth % 4, 10 * tenth as u64)));
    }
}

/// A file to `n` hosts through Dolly+'s ring; one may die when so many of a hundred
/// bytes have come to it.
fn dolly_plus(n: usize, len: usize, kill: Option<(usize, u64)>) {
    let room = Room::new(n + 1);
    let golden = noise(&room.path("golden"), len);
    let copy = |i: usize| room.path(&format!("copy{i}"));
    let mut clients: Vec<_> = (1..=n)
        .map(|i| {
            let copy = copy(i).display().to_string();
            room.bellwether(i, &["dollyC", "--target", &copy, "--verify"])
        })
        .collect();
    let hosts: Vec<String> = (1..=n).map(|i| room.ip(i)).collect();
    let config = format!(
        "iofiles 1\n{} > /dev/null\nserver {}\nfirstclient x\nlastclient x\nclients {n}\n{}\nendconfig\n",
        room.path("golden").display(),
        room.ip(0),
        hosts.join("\n"),
    );
    std::fs::write(room.path("plus.cfg"), config).unwrap();
    let config = room.path("plus.cfg").display().to_string();
    let mut server = room.bellwether(0, &["dollyS", "-f", &config, "-a", "60"]);
    let copies: Vec<_> = (1..=n).map(copy).collect();
    served(&mut server, &mut clients, &copies, &golden, kill, "LOST");
}

#[test]
fn dolly_plus_in_a_ring() {
    dolly_plus(3, 60_000_001, None);
}

#[test]
fn dolly_plus_when_a_machine_dies_at_each_tenth() {
    for tenth in 0..10 {
        dolly_plus(4, 60_000_000, Some((1 + tenth % 4, 10 * tenth as u64)));
    }
}
