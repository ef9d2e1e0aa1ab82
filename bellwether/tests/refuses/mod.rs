//! What a receiver refuses before the first sector, for every protocol: a smaller disk, a disk in
//! use, another sender, another key, another digest. And what a copy leaves that is cut off.

use crate::room::{Room, Running, grows, noise};
use std::path::{Path, PathBuf};
use std::process::Command;

const KEY: &str = "a key of sixteen and more";

/// A protocol by its two programs; the golden machine is node 0, its one receiver node 1.
struct By {
    name: &'static str,
    send: &'static [&'static str],
    receive: &'static [&'static str],
    /// The option that names the target.
    target: &'static str,
    /// The option that names the source.
    source: &'static str,
}

const TO: [&str; 4] = ["-O", "/nowhere", "-H", "10.77.0.2"];

const ALL: [By; 4] = [
    By {
        name: "udpcast",
        send: &["udp-sender", "--nokbd", "-i", "eth0", "--min-receivers", "1"],
        receive: &["udp-receiver", "--nokbd", "-i", "eth0", "--start-timeout", "100"],
        target: "-f",
        source: "-f",
    },
    By {
        name: "dolly",
        send: &["dolly", "-s", "-a", "100", TO[0], TO[1], TO[2], TO[3]],
        receive: &["dolly", "-a", "100"],
        target: "--target",
        source: "-I",
    },
    By {
        name: "dollyplus",
        send: &["dollyS", "-a", "100", TO[0], TO[1], TO[2], TO[3]],
        receive: &["dollyC", "-a", "100"],
        target: "--target",
        source: "-I",
    },
    By {
        name: "ka",
        send: &["ka-d-server", "-s", "r", "-n", "1", "-T", "100"],
        receive: &["ka-d-client", "-s", "r", "-T", "100"],
        target: "-f",
        source: "-f",
    },
];

impl By {
    fn sends(&self, room: &Room, more: &[&str]) -> Running {
        let golden = room.path("golden").display().to_string();
        room.bellwether(0, &[self.send, &[self.source, &golden], more].concat())
    }

    fn receives(&self, room: &Room, target: &Path, more: &[&str]) -> Running {
        let target = target.display().to_string();
        room.bellwether(1, &[self.receive, &[self.target, &target], more].concat())
    }
}

/// The bytes of a disk with a partition table up to its last sector.
fn bootable(path: &Path, len: usize) {
    let mut disk = noise(path, len);
    disk[446..512].fill(0);
    disk[446 + 4] = 0x83;
    disk[446 + 8] = 8;
    let sectors = u32::try_from(len / 512 - 8).unwrap();
    disk[446 + 12..446 + 16].copy_from_slice(&sectors.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(path, &disk).unwrap();
}

/// A disk of a test's own, behind a loop device.
struct Disk {
    device: String,
    behind: PathBuf,
    was: Vec<u8>,
}

fn run(words: &[&str]) -> String {
    let out = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

impl Disk {
    fn new(room: &Room, name: &str, mib: usize) -> Self {
        let behind = room.path(name);
        bootable(&behind, mib << 20);
        let was = std::fs::read(&behind).unwrap();
        let device = run(&["losetup", "-f", "--show", &behind.display().to_string()]);
        Self { device, behind, was }
    }

    fn path(&self) -> &Path {
        Path::new(&self.device)
    }

    fn bytes(&self) -> Vec<u8> {
        run(&["blockdev", "--flushbufs", &self.device]);
        std::fs::read(&self.behind).unwrap()
    }

    fn untouched(&self, what: &str) {
        let now = self.bytes();
        let first = now.iter().zip(&self.was).position(|(a, b)| a != b);
        assert_eq!(first, None, "{what}: the disk has other bytes from there on");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

#[test]
fn a_smaller_disk_keeps_its_first_sector() {
    for by in &ALL {
        let room = Room::new(2);
        bootable(&room.path("golden"), 8 << 20);
        let disk = Disk::new(&room, "small", 4);
        let mut receiver = by.receives(&room, disk.path(), &[]);
        let mut sender = by.sends(&room, &[]);
        receiver.fails(60);
        let log = receiver.log();
        assert!(log.contains("is too small") && log.contains("nothing was written"), "{log}");
        sender.fails(60);
        disk.untouched(by.name);
    }
    // Debian's sender does not tell the size; the partition table does.
    let room = Room::new(2);
    bootable(&room.path("golden"), 8 << 20);
    let disk = Disk::new(&room, "small", 4);
    let mut receiver = ALL[0].receives(&room, disk.path(), &[]);
    let golden = room.path("golden").display().to_string();
    let debian = ["udp-sender", "--nokbd", "--min-receivers", "1", "--max-wait", "60", "-f"];
    let _sender = room.start(0, &[&debian[..], &[&golden]].concat());
    receiver.fails(60);
    let log = receiver.log();
    assert!(log.contains("the partition table that comes needs 8388.6 kB"), "{log}");
    disk.untouched("Debian's sender");
}

#[test]
fn a_disk_in_use_is_refused_with_what_uses_it() {
    let room = Room::new(2);
    bootable(&room.path("golden"), 4 << 20);
    let mut disk = Disk::new(&room, "mounted", 8);
    run(&["mkfs.ext4", "-q", "-F", &disk.device]);
    let at = room.path("mount");
    std::fs::create_dir(&at).unwrap();
    let at = at.display().to_string();
    run(&["mount", "-o", "ro", &disk.device, &at]);
    disk.was = disk.bytes();
    let behind = disk.behind.clone();
    for by in &ALL {
        for (target, by_whom) in [(disk.path(), "is mounted at"), (&behind, "is behind loop")] {
            let mut receiver = by.receives(&room, target, &[]);
            let _sender = by.sends(&room, &[]);
            receiver.fails(60);
            let log = receiver.log();
            assert!(log.contains("is in use") && log.contains(by_whom), "{}: {log}", by.name);
        }
    }
    run(&["umount", &at]);
    disk.untouched("mounted");
}

/// Nothing of it is written, and the one that is waited for may still come.
#[test]
fn another_sender_is_not_taken() {
    for by in &ALL {
        let room = Room::new(2);
        bootable(&room.path("golden"), 4 << 20);
        let disk = Disk::new(&room, "disk", 8);
        // Another address, another key, no key at the sender, none at the receiver.
        let others: [(&[&str], &[&str], &str); 4] = [
            (&["--from", "10.77.0.9"], &[], "other machines"),
            (&["--key", KEY], &["--key", "another key of sixteen"], "another key"),
            (&["--key", KEY], &[], "knows no key"),
            (&[], &["--key", KEY], "has a key"),
        ];
        for (receive, send, why) in others {
            let mut receiver = by.receives(&room, disk.path(), receive);
            let mut sender = by.sends(&room, send);
            // KA asks the address that is named, and no other.
            let silent = by.name == "ka" && receive.first() == Some(&"--from");
            receiver.says(if silent { "the server is 10.77.0.9" } else { why });
            sender.kill();
            receiver.kill();
            disk.untouched(&format!("{}: {why}\n{}\n{}", by.name, receiver.log(), sender.log()));
        }
    }
    // An old program, and a receiver with a key.
    let room = Room::new(2);
    bootable(&room.path("golden"), 4 << 20);
    let disk = Disk::new(&room, "disk", 8);
    let mut receiver = ALL[0].receives(&room, disk.path(), &["--key", KEY]);
    let golden = room.path("golden").display().to_string();
    let _old = room.start(0, &["udp-sender", "--nokbd", "--min-receivers", "1", "-f", &golden]);
    receiver.says("knows no key: it is an old program");
    receiver.kill();
    disk.untouched("Debian's sender");
}

#[test]
fn another_digest_is_not_taken() {
    let wrong = format!("blake3:{}", "0".repeat(64));
    for by in ALL.iter().filter(|by| by.name != "dollyplus") {
        let room = Room::new(2);
        bootable(&room.path("golden"), 4 << 20);
        let disk = Disk::new(&room, "disk", 8);
        let mut receiver = by.receives(&room, disk.path(), &["--digest", &wrong]);
        // A sender that has read its disk before tells the digest first.
        let tells = by.name != "dolly";
        let mut sender = by.sends(&room, if tells { &["--digest"] } else { &[] });
        receiver.fails(60);
        sender.fails(60);
        if tells {
            assert!(receiver.log().contains("nothing was written"), "{}", receiver.log());
            disk.untouched(by.name);
        }
        // One that has not tells it at the end: the disk does not boot.
        let mut receiver = by.receives(&room, disk.path(), &["--digest", &wrong]);
        let mut sender = by.sends(&room, &[]);
        receiver.fails(60);
        sender.fails(60);
        let log = receiver.log();
        assert!(log.contains("does not have the digest blake3:0000"), "{log}");
        assert!(!log.contains("; verified"), "{log}");
        let sector = &disk.bytes()[..512];
        assert!(sector.starts_with(b"BELLWETHER: AN INTERRUPTED COPY"));
        assert_eq!(sector[510..], [0, 0]);
    }
}

/// The line that the sender prints is what its receivers need.
#[test]
fn who_knows_the_key_gets_a_verified_copy() {
    for by in &ALL {
        let room = Room::new(2);
        bootable(&room.path("golden"), 4 << 20);
        let disk = Disk::new(&room, "disk", 8);
        let from = ["--key", KEY, "--from", "10.77.0.1"];
        let mut receiver = by.receives(&room, disk.path(), &from);
        let mut sender = by.sends(&room, &["--key", KEY]);
        receiver.succeeds(60);
        sender.succeeds(60);
        let (got, sent) = (receiver.log(), sender.log());
        assert!(got.contains("; verified with the sender; read back"), "{}: {got}", by.name);
        assert_eq!(sent.matches(" verified\n").count(), 1, "{}: {sent}", by.name);
        // A key that was given is on no screen.
        assert!(sent.contains("bw.clone.from=10.77.0.1"), "{sent}");
        assert!(sent.contains(" bw.clone.key=…\n") && !sent.contains(KEY), "{sent}");
        let golden = std::fs::read(room.path("golden")).unwrap();
        assert!(disk.bytes().starts_with(&golden), "{}", by.name);
    }
}

/// Without reading back nothing is called verified, at either end.
#[test]
fn what_is_not_read_back_is_not_called_verified() {
    for by in &ALL {
        let room = Room::new(2);
        bootable(&room.path("golden"), 4 << 20);
        let mut receiver = by.receives(&room, &room.path("copy"), &["--no-read-back"]);
        let mut sender = by.sends(&room, &[]);
        receiver.succeeds(60);
        sender.succeeds(60);
        let all = receiver.log() + &sender.log();
        assert!(!all.contains("verified"), "{}: {all}", by.name);
        assert_eq!(all.matches("received whole, not read back").count(), 2, "{all}");
    }
}

/// As by a power cut: the file does not begin as a disk that boots, its receiver says so the
/// next time, and no sender takes it for a golden disk.
#[test]
fn a_copy_that_is_cut_off_has_the_mark() {
    for by in &ALL {
        let room = Room::new(2);
        bootable(&room.path("golden"), 60 << 20);
        for tenth in [1u64, 4, 7] {
            let copy = room.path("copy");
            let _ = std::fs::remove_file(&copy);
            let mut receiver = by.receives(&room, &copy, &[]);
            let mut sender = by.sends(&room, &[]);
            grows(&copy, tenth * (6 << 20));
            receiver.kill();
            let bytes = std::fs::read(&copy).unwrap();
            let whole = bytes == std::fs::read(room.path("golden")).unwrap();
            sender.kill();
            let marked = bytes.starts_with(b"BELLWETHER: AN INTERRUPTED COPY");
            assert!(marked != whole, "{} at {tenth}", by.name);
        }
    }
    let room = Room::new(2);
    let mark = clone::mark::Mark::new(1_735_689_599, Some([10, 77, 0, 1].into()));
    std::fs::write(room.path("golden"), mark.bytes()).unwrap();
    let mut sender = ALL[0].sends(&room, &[]);
    sender.fails(20);
    let log = sender.log();
    assert!(log.contains("holds an interrupted copy of 2024-12-31 23:59 UTC, from 10.77.0.1"));
    assert!(log.contains("it cannot be sent"), "{log}");
}

/// `ip addr add 10.77.0.1/24` without `brd`, at both ends; Debian's programs and ours.
#[test]
fn networks_without_a_broadcast_address() {
    let room = Room::new(2);
    room.without_broadcast();
    let golden = noise(&room.path("golden"), 3_000_001);
    let file = room.path("golden").display().to_string();
    let ours = [env!("CARGO_BIN_EXE_bellwether"), "clone"];
    // Debian's receiver then asks its own machine for a sender (0.0.0.0), unless it is told where.
    let told: &[&str] = &["--mcast-rdv-address", "224.0.0.1"];
    let pairs: [(&[&str], &[&str], &[&str]); 3] =
        [(&ours, &ours, &[]), (&[], &ours, &[]), (&ours, &[], told)];
    for (sends, receives, told) in pairs {
        let copy = room.path("copy").display().to_string();
        let _ = std::fs::remove_file(&copy);
        let words = ["udp-receiver", "--nokbd", "--start-timeout", "60", "-f", &copy];
        let mut receiver = room.start(1, &[receives, &words, told].concat());
        let words = ["udp-sender", "--nokbd", "--min-receivers", "1", "--max-wait", "50", "-f"];
        let mut sender = room.start(0, &[sends, &words, &[&file]].concat());
        receiver.succeeds(60);
        sender.succeeds(60);
        crate::room::same(Path::new(&copy), &golden);
    }
    let copy = room.path("ka");
    let mut receiver = ALL[3].receives(&room, &copy, &[]);
    let mut sender = ALL[3].sends(&room, &[]);
    receiver.succeeds(60);
    sender.succeeds(60);
    crate::room::same(&copy, &golden);
}
