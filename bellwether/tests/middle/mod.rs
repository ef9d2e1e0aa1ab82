//! A machine between the sender and a machine of the room that changes what they say.

use crate::room::{Room, noise};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};

const PORT: u16 = 9011;
const HELLO: usize = 22;
const KEY: [&str; 2] = ["--key", "0123456789abcdef"];
/// Kinds of frames of the sender: docs/clone-protocol.md.
const MANIFEST: u8 = 2;
const CHUNK: u8 = 7;
const DIGESTS: u8 = 11;
/// Bytes of a chunk's own head.
const CHUNK_HEAD: usize = 34;

/// A frame of the sender. With a key its code is at the start of the rest.
struct Frame {
    kind: u8,
    rest: Vec<u8>,
    keyed: bool,
    /// How many of its kind were before it, on all connections.
    before: usize,
}

impl Frame {
    fn body(&mut self) -> &mut [u8] {
        &mut self.rest[if self.keyed { 16 } else { 0 }..]
    }

    fn flip(&mut self, at: usize) {
        self.body()[at] ^= 1;
    }
}

/// What the middle does: how often the frame goes on.
type Lie = fn(&mut Frame) -> usize;

fn read(stream: &mut TcpStream, length: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).map(|()| bytes)
}

/// Hands the sender's frames on, changed.
fn relay(
    from: &mut TcpStream,
    to: &mut TcpStream,
    lie: Lie,
    counts: &Mutex<[usize; 256]>,
) -> std::io::Result<()> {
    let hello = read(from, HELLO)?;
    let keyed = hello[10] == 1;
    to.write_all(&hello)?;
    loop {
        let head = read(from, 5)?;
        let length = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        let rest = read(from, length + if keyed { 16 } else { 0 })?;
        let kind = head[4];
        let before = {
            let mut counts = counts.lock().unwrap();
            counts[usize::from(kind)] += 1;
            counts[usize::from(kind)] - 1
        };
        let mut frame = Frame { kind, rest, keyed, before };
        for _ in 0..lie(&mut frame) {
            to.write_all(&head)?;
            to.write_all(&frame.rest)?;
        }
    }
}

/// Stands at node 2 between the sender at node 0 and who takes node 2 for the sender.
fn middle(room: &Room, lie: Lie) {
    let counts = Arc::new(Mutex::new([0; 256]));
    let (listener, asked) = room.inside(2, || {
        (TcpListener::bind(("0.0.0.0", PORT)).unwrap(), UdpSocket::bind(("0.0.0.0", PORT)).unwrap())
    });
    let dial = room.namespace(2);
    std::thread::spawn(move || {
        let mut ask = [0; 64];
        while let Ok((_, from)) = asked.recv_from(&mut ask) {
            let _ = asked.send_to(b"bwroom!1", from);
        }
    });
    std::thread::spawn(move || {
        // Threads that this one starts are inside, too.
        dial.enter();
        for client in listener.incoming() {
            let (mut client, counts) = (client.unwrap(), counts.clone());
            std::thread::spawn(move || {
                let Ok(mut server) = TcpStream::connect(("10.77.0.1", PORT)) else { return };
                let (mut back, mut there) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut back, &mut there);
                    let _ = there.shutdown(std::net::Shutdown::Both);
                });
                let _ = relay(&mut server, &mut client, lie, &counts);
                let _ = client.shutdown(std::net::Shutdown::Both);
            });
        }
    });
}

/// A copy through the middle: whether it has the golden bytes, and what its machine said.
fn copied(lie: Lie, key: &[&str]) -> (bool, String) {
    let room = Room::new(3);
    let golden = noise(&room.path("golden"), 12_000_001);
    let path = |name: &str| room.path(name).display().to_string();
    middle(&room, lie);
    let send = [&["send", "-a", "60", "--linger", "2", "--stall", "4", &path("golden")], key];
    let _sender = room.bellwether(0, &send.concat());
    let receive = [&["receive", "-v", "--from", "10.77.0.3", "-a", "6", "--stall", "4"], key];
    let mut machine = room.bellwether(1, &[&receive.concat()[..], &[&path("copy")]].concat());
    let ended = machine.ends(120);
    let equal = std::fs::read(room.path("copy")).is_ok_and(|copy| copy == golden);
    println!("ended well: {ended}, equal: {equal}\n{}", machine.log());
    let verified = machine.log().contains("; verified with the sender; read back");
    assert_eq!(ended, verified, "{}", machine.log());
    assert!(equal || !verified, "wrong bytes are called verified:\n{}", machine.log());
    (ended, machine.log())
}

/// With and without a key, no byte that is not the sender's is called verified, and the machine
/// says what is wrong.
#[test]
fn a_middle_changes_nothing_that_is_called_verified() {
    let honest: Lie = |_| 1;
    // Once: the chunk is asked for again, of a new connection.
    let a_chunk: Lie = |frame| {
        if frame.kind == CHUNK && frame.before == 1 {
            frame.flip(CHUNK_HEAD + 1000);
        }
        1
    };
    let every_chunk: Lie = |frame| {
        if frame.kind == CHUNK {
            frame.flip(CHUNK_HEAD);
        }
        1
    };
    let session: Lie = |frame| {
        if frame.kind == CHUNK && frame.before == 0 {
            frame.flip(0);
        }
        1
    };
    let digests: Lie = |frame| {
        if frame.kind == DIGESTS {
            frame.flip(4);
        }
        1
    };
    let manifest: Lie = |frame| {
        if frame.kind == MANIFEST {
            let last = frame.body().len() - 1;
            frame.flip(last);
        }
        1
    };
    let twice: Lie = |frame| 1 + usize::from(matches!(frame.kind, CHUNK | DIGESTS));
    for key in [&[][..], &KEY] {
        let keyed = |with, without| if key.is_empty() { without } else { with };
        let changed = "changed or repeated on the way";
        for (what, lie, well, says) in [
            ("nothing", honest, true, "verified"),
            ("a chunk, once", a_chunk, true, "other bytes than the sender has"),
            ("every chunk", every_chunk, false, "other bytes than the sender has"),
            ("the session of a chunk", session, true, keyed(changed, "a chunk of another copy")),
            ("the digests", digests, false, keyed(changed, "other digests than the manifest has")),
            ("the manifest", manifest, false, keyed("another key", "takes nothing from")),
            // Without a key a chunk that comes again is no harm.
            ("frames twice", twice, key.is_empty(), keyed(changed, "verified")),
        ] {
            println!("--- {what}, with the key {key:?}");
            let (ended, log) = copied(lie, key);
            assert_eq!(ended, well, "{what}, {key:?}: {log}");
            assert!(log.contains(says), "{what}, {key:?}: {log}");
        }
    }
}

/// udpcast: a third machine forges what the sender is about to send, from its own address or from
/// the sender's. Receivers pass over the first; the second is found out by the digest.
#[test]
fn a_third_machine_forges_nothing_that_is_called_verified() {
    for (spoofs, from) in [(false, "10.77.0.4"), (true, "10.77.0.1")] {
        let room = Room::new(4);
        room.slow(40);
        let golden = noise(&room.path("golden"), 12_000_001);
        let path = |name: &str| room.path(name).display().to_string();
        if spoofs {
            // It has the sender's address, and answers no ARP request for it. So it hears no
            // packet of the sender: that is what node 2 is for.
            room.shell(3, "echo 8 > /proc/sys/net/ipv4/conf/all/arp_ignore");
            room.shell(3, "ip addr add 10.77.0.1/32 dev lo");
        }
        let forger = room.inside(3, || UdpSocket::bind((from, 9001)).unwrap());
        let group = room.inside(2, || {
            let group = UdpSocket::bind(("0.0.0.0", 9000)).unwrap();
            let own = [10, 77, 0, 3].into();
            group.join_multicast_v4(&[234, 77, 0, 1].into(), &own).unwrap();
            group
        });
        std::thread::spawn(move || {
            let mut packet = [0; 2048];
            while let Ok((length, _)) = group.recv_from(&mut packet) {
                let data = &mut packet[..length];
                if length < 100 || data[..2] != [0, 8] {
                    continue;
                }
                // A later block of the slice, with other bytes.
                let block = u16::from_be_bytes([data[8], data[9]]) + 40;
                data[8..10].copy_from_slice(&block.to_be_bytes());
                data[16..].iter_mut().for_each(|byte| *byte = !*byte);
                forger.send_to(data, ("10.77.0.2", 9000)).unwrap();
            }
        });
        let receive = ["udp-receiver", "--nokbd", "-i", "eth0", "--start-timeout", "30", "-f"];
        let mut machine = room.bellwether(1, &[&receive[..], &[&path("copy")]].concat());
        let send = ["udp-sender", "--nokbd", "-i", "eth0", "--min-receivers", "1"];
        let file = path("golden");
        let mut sender =
            room.bellwether(0, &[&send[..], &["--nopointopoint", "-f", &file]].concat());
        let ended = machine.ends(120);
        let told = sender.ends(60);
        let equal = std::fs::read(room.path("copy")).is_ok_and(|copy| copy == golden);
        let (log, sent) = (machine.log(), sender.log());
        println!("from {from}: ended well: {ended}, equal: {equal}\n{log}\n{sent}");
        assert_eq!(log.contains("; verified with the sender; read back"), equal, "{log}");
        assert_eq!(sent.contains(" verified\n"), equal, "{sent}");
        assert_eq!((ended, told), (equal, equal), "{log}\n{sent}");
        // A way that forges nothing would show nothing.
        assert_eq!(equal, !spoofs, "{log}");
        let found_out = "other bytes have come than the sender tells of; the disk keeps the mark";
        assert!(equal || log.contains(found_out), "{log}");
    }
}
