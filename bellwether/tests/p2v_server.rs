//! `clone p2v-server` and machines that send to it: the machine's own loops, the command as a
//! process, qemu-img and qemu-nbd as they are installed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::expect_used)]

use p2v::domain::Card;
use p2v::edge::{self, BadSectors, Disk, Receiver, World};
use p2v::extents::Extents;
use p2v::guest::{Ask, Guest};
use p2v::seal::{self, Key};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

#[path = "../../p2v/tests/relay/mod.rs"]
mod relay;

const KEY: &str = "a key of more than sixteen letters";

#[derive(Default)]
struct Watcher(Vec<String>);

impl World for Watcher {
    fn say(&mut self, text: &str) {
        self.0.push(text.into());
    }
    fn output(&mut self, _: &str) {}
    fn progress(&mut self, _: u64, _: u64) {}
    fn reads_back(&mut self) {}
    fn served(&mut self, _: u64, _: u64, _: u64) {}
    fn go_on(&mut self) -> bool {
        true
    }
}

/// The command, and what it said.
struct Server {
    child: Child,
    port: u16,
    said: Arc<Mutex<String>>,
}

impl Server {
    fn start(dir: &Path, more: &[&str]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bellwether"));
        command.args(["clone", "p2v-server", "--port", &free.to_string(), "--key", KEY]);
        let mut child = command.args(more).arg(dir).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = Arc::new(Mutex::new(String::new()));
        loop {
            let line = lines.next().expect("it says that it waits").unwrap();
            if line.contains("boot the machine with") {
                break;
            }
        }
        let into = said.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("{line}");
                *into.lock().unwrap() += &format!("{line}\n");
            }
        });
        Self { child, port: free, said }
    }

    fn until(&self, what: &str) {
        for _ in 0..1000 {
            if self.said.lock().unwrap().contains(what) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the server never said {what:?}: {}", self.said.lock().unwrap());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn to(port: u16, key: &str) -> Receiver {
    Receiver::new(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), Key::new(key).unwrap()).unwrap()
}

/// A sparse disk of 48 MiB.
fn disk(dir: &Path, name: &str) -> (PathBuf, Disk) {
    let path = dir.join(name);
    let file = fs::File::create(&path).unwrap();
    file.set_len(48 << 20).unwrap();
    let ranges = [0..65536_u64, 10 << 20..13 << 20, (48 << 20) - 4096..48 << 20];
    for range in &ranges {
        let bytes: Vec<u8> = (range.start..range.end).map(|at| ((at * 7) >> 3) as u8 | 1).collect();
        file.write_all_at(&bytes, range.start).unwrap();
    }
    let map = Extents::new(48 << 20, ranges);
    let mut disk = Disk::open(path.to_str().unwrap(), Some(map), BadSectors::Fail).unwrap();
    disk.name = name.to_owned();
    (path, disk)
}

fn sha256(path: &Path) -> String {
    let out = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8_lossy(&out.stdout).split(' ').next().unwrap().to_owned()
}

fn guest(name: &str, disks: &[(&str, &str)]) -> Guest {
    Guest {
        name: name.into(),
        arch: "x86_64".into(),
        memory_kib: 256 << 10,
        vcpus: 1,
        disks: disks.iter().map(|(n, s)| ((*n).into(), (*s).into())).collect(),
        cards: [Card { mac: "52:54:00:00:00:01".into(), network: "default".into() }].into(),
        ..Guest::default()
    }
}

#[test]
fn disks_become_a_guest_whose_digests_are_the_printed_ones() {
    for (format, end) in [("raw", "raw"), ("qcow2", "qcow2")] {
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path().join("images & more");
        fs::create_dir(&images).unwrap();
        let mut server = Server::start(&images, &["--format", format, "--once"]);
        let there = to(server.port, KEY);
        let mut sums = Vec::new();
        for name in ["sda", "sdb"] {
            let (path, mut disk) = disk(dir.path(), name);
            let arrived =
                edge::deliver(&mut Watcher::default(), &mut disk, &there, "web01").unwrap();
            assert_eq!((arrived.sha256.as_str(), arrived.compared), (&*sha256(&path), true));
            sums.push(arrived.sha256);
        }
        assert!(images.join(format!("web01-sda.{end}.part")).exists(), "not whole yet");
        let told = guest("web01", &[("sda", &sums[0]), ("sdb", &sums[1])]);
        let answer = edge::finish_guest(&there, told).unwrap();
        assert!(answer.contains("virsh define"), "{answer}");
        assert!(server.child.wait().unwrap().success());
        for (name, sum) in ["sda", "sdb"].iter().zip(&sums) {
            let image = images.join(format!("web01-{name}.{end}"));
            let flat = dir.path().join("flat");
            let mut convert = Command::new("qemu-img");
            convert.args(["convert", "-f", format, "-O", "raw"]).args([&image, &flat]);
            assert!(convert.status().unwrap().success());
            assert_eq!(&sha256(&flat), sum, "{}", image.display());
        }
        let xml = images.join("web01.xml");
        if let Ok(out) = Command::new("virt-xml-validate").arg(&xml).arg("domain").output() {
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        } else {
            eprintln!("passed over: virt-xml-validate is not here");
        }
        assert_eq!(fs::read_dir(&images).unwrap().count(), 3);
    }
}

#[test]
fn a_cut_connection_goes_on_at_the_same_image() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["-f", "raw"]);
    // The first connection is cut in the middle, and its end at the server stays open.
    let way = relay::cutting(server.port, 2 << 20, true);
    let (path, mut disk) = disk(dir.path(), "sda");
    let (mut watcher, there) = (Watcher::default(), to(way, KEY));
    let arrived = edge::deliver(&mut watcher, &mut disk, &there, "box").unwrap();
    assert!(watcher.0.iter().any(|text| text.contains("connecting anew")), "{:?}", watcher.0);
    edge::finish_guest(&there, guest("box", &[("sda", &arrived.sha256)])).unwrap();
    assert_eq!(sha256(&dir.path().join("box-sda.raw")), sha256(&path));
    assert_eq!(sha256(&path), arrived.sha256);
}

#[test]
fn peers_that_have_no_business_here_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    let server = Server::start(&images, &["-f", "raw"]);
    let (_, mut disk) = disk(dir.path(), "sda");
    let mut send = |there: &Receiver, name: &str| {
        edge::deliver(&mut Watcher::default(), &mut disk, there, name)
    };
    // Another key.
    let why = send(&to(server.port, "another key of sixteen letters"), "box").unwrap_err();
    assert!(why.to_string().contains("bw.p2v.key="), "{why}");
    server.until("has another key: refused");
    // No machine at all; one that says nothing holds up no other.
    let silent = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    let mut garbage = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n").unwrap();
    server.until("is no machine of ours");
    assert_eq!(fs::read_dir(&images).unwrap().count(), 0);
    // With the key, and a name that leaves the directory.
    let mut tcp = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    let mut hello = [0; seal::HELLO];
    tcp.read_exact(&mut hello).unwrap();
    tcp.write_all(&seal::hello(&[9; 24])).unwrap();
    let peer = seal::peer(&hello).unwrap();
    let (mut sealer, _) = seal::pair(&Key::new(KEY).unwrap(), &[9; 24], &peer, true);
    let run = "0".repeat(32);
    let ask = Ask::Disk { run, guest: "../../out".into(), disk: "sda".into(), size: 1 << 20 };
    tcp.write_all(&sealer.seal(ask.text().as_bytes())).unwrap();
    server.until("a line is not understood");
    assert!(!dir.path().join("out-sda.raw.part").exists());
    // Files that are there stay as they are.
    fs::write(images.join("box-sda.raw"), "precious").unwrap();
    let why = send(&to(server.port, KEY), "box").unwrap_err().to_string();
    assert!(why.contains("none is overwritten"), "{why}");
    assert_eq!(fs::read(images.join("box-sda.raw")).unwrap(), b"precious");
    // A guest of disks that never came.
    let sum = "0".repeat(64);
    let why =
        edge::finish_guest(&to(server.port, KEY), guest("none", &[("sda", &sum)])).unwrap_err();
    assert!(why.to_string().contains("no disk of none came"), "{why}");
    // No room there: the machine is told, and the server goes on.
    let mount = |words: &[&str]| Command::new(words[0]).args(&words[1..]).arg(&images).status();
    if mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs"]).is_ok_and(|done| done.success()) {
        let why = send(&to(server.port, KEY), "full");
        mount(&["umount", "--lazy"]).unwrap();
        let why = why.unwrap_err().to_string();
        assert!(why.contains("the server's disk is full"), "{why}");
    } else {
        eprintln!("passed over: only root mounts a disk that is full");
    }
    // A second server in the directory.
    let mut second = Command::new(env!("CARGO_BIN_EXE_bellwether"));
    let out = second.args(["clone", "p2v-server", "-P", "0"]).arg(&images).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("another p2v-server"), "{out:?}");
    let good = to(server.port, KEY);
    let arrived = send(&good, "good").unwrap();
    edge::finish_guest(&good, guest("good", &[("sda", &arrived.sha256)])).unwrap();
    drop(silent);
}
