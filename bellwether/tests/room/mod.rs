//! A room of machines as network namespaces on one switch.
//!
//! Every node is an anonymous namespace that lives as long as one sleeping
//! process, which dies with the test: nothing has a name on the host and
//! nothing is left behind. Node `n` has the address 10.77.0.`n+1`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Room {
    switch: Child,
    nodes: Vec<Child>,
    pub dir: tempfile::TempDir,
}

fn holder() -> Child {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--uts", "--mount", "--"]);
    command.args(["sh", "-c", "ip link set lo up && echo ready && exec sleep infinity"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("unshare; is this root?");
    let mut line = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "ready\n", "a network namespace needs root");
    child
}

fn shell(pid: u32, script: &str) {
    let status = Command::new("nsenter")
        .args(["-t", &pid.to_string(), "-n", "-u", "sh", "-ec", script])
        .status()
        .unwrap();
    assert!(status.success(), "{script}");
}

impl Room {
    /// `n` machines.
    pub fn new(n: usize) -> Self {
        let switch = holder();
        shell(switch.id(), "ip link add br0 type bridge mcast_snooping 0; ip link set br0 up");
        let nodes: Vec<Child> = (0..n)
            .map(|i| {
                let node = holder();
                shell(
                    switch.id(),
                    &format!(
                        "ip link add p{i} type veth peer name eth0 netns {}; ip link set p{i} master br0 up",
                        node.id()
                    ),
                );
                let host = i + 1;
                shell(
                    node.id(),
                    &format!(
                        "hostname node{host}; ip addr add 10.77.0.{host}/24 broadcast 10.77.0.255 dev eth0; \
                         ip link set eth0 up; ip route add default dev eth0"
                    ),
                );
                node
            })
            .collect();
        Self { switch, nodes, dir: tempfile::tempdir().unwrap() }
    }

    /// Both directions of these nodes lose so many of a hundred packets.
    pub fn lossy(&self, nodes: impl IntoIterator<Item = usize>, percent: u32) {
        let drop = |pid: u32, device: &str| {
            shell(
                pid,
                &format!(
                    "nft add table netdev loss_{device}
                     nft add chain netdev loss_{device} in '{{ type filter hook ingress device {device} priority 0; }}'
                     nft add rule netdev loss_{device} in meta protocol ip numgen random mod 100 '<' {percent} counter drop"
                ),
            );
        };
        for i in nodes {
            drop(self.nodes[i].id(), "eth0");
            drop(self.switch.id(), &format!("p{i}"));
        }
    }

    /// A second network between two nodes: `eth1` with 10.88.0.`n+1`. The second node has no other.
    pub fn cable(&self, first: usize, second: usize) {
        let link = format!(
            "ip link add eth1 type veth peer name eth1 netns {}; ip addr add 10.88.0.{}/24 dev eth1; ip link set eth1 up",
            self.nodes[second].id(),
            first + 1
        );
        shell(self.nodes[first].id(), &link);
        let only = format!(
            "ip link set eth0 down; ip addr add 10.88.0.{}/24 dev eth1; ip link set eth1 up; ip route add default via 10.88.0.{}",
            second + 1,
            first + 1
        );
        shell(self.nodes[second].id(), &only);
    }

    /// As `ip addr add` makes an address without `brd`, and with no other route.
    pub fn without_broadcast(&self) {
        for (i, node) in self.nodes.iter().enumerate() {
            let address = format!("10.77.0.{}/24", i + 1);
            let script = format!("ip addr flush dev eth0; ip addr add {address} dev eth0");
            shell(node.id(), &script);
        }
    }

    /// All links carry so many megabits a second.
    pub fn slow(&self, megabits: u32) {
        let shape = |pid: u32, device: &str| {
            let tbf = format!("tbf rate {megabits}mbit burst 64k latency 20ms");
            shell(pid, &format!("tc qdisc add dev {device} root {tbf}"));
        };
        for (i, node) in self.nodes.iter().enumerate() {
            shape(node.id(), "eth0");
            shape(self.switch.id(), &format!("p{i}"));
        }
    }

    /// Runs a shell's lines at a node.
    pub fn run(&self, node: usize, script: &str) {
        shell(self.nodes[node].id(), script);
    }

    /// Bytes that a node has received, or the first one has sent.
    pub fn traffic(&self, node: usize) -> u64 {
        let table = format!("/proc/{}/net/dev", self.nodes[node].id());
        let table = std::fs::read_to_string(table).unwrap();
        let line = table.lines().find_map(|line| line.trim().strip_prefix("eth0:")).unwrap();
        let column = if node == 0 { 8 } else { 0 };
        line.split_whitespace().nth(column).unwrap().parse().unwrap()
    }

    /// Runs a script in a node's network.
    pub fn shell(&self, node: usize, script: &str) {
        shell(self.nodes[node].id(), script);
    }

    pub fn namespace(&self, node: usize) -> Namespace {
        let path = format!("/proc/{}/ns/net", self.nodes[node].id());
        Namespace(std::fs::File::open(path).unwrap())
    }

    /// Does something in a node's network: sockets that are opened there stay there.
    pub fn inside<T: Send>(&self, node: usize, what: impl FnOnce() -> T + Send) -> T {
        let there = self.namespace(node);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                there.enter();
                what()
            });
            thread.join().unwrap()
        })
    }

    pub fn ip(&self, node: usize) -> String {
        format!("10.77.0.{}", node + 1)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a program at a node; its messages are kept in a file.
    pub fn start(&self, node: usize, what: &[&str]) -> Running {
        let log = self.path(&format!("log.{node}.{}", what[0].rsplit('/').next().unwrap()));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "nsenter", "-n", "-u", "-t"])
            .arg(self.nodes[node].id().to_string())
            .args(what)
            .env_remove("HOST")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        Running { child: command.spawn().unwrap(), log, name: what.join(" ") }
    }

    /// Waits until a program of a node has bound this UDP port.
    pub fn listens(&self, node: usize, port: u16) {
        let table = format!("/proc/{}/net/udp", self.nodes[node].id());
        let bound = format!(":{port:04X}");
        let local = |line: &str| line.split_whitespace().nth(1).unwrap().ends_with(&bound);
        until(
            || format!("node {node} listens at port {port}"),
            || std::fs::read_to_string(&table).unwrap().lines().any(local),
        );
    }

    pub fn bellwether(&self, node: usize, what: &[&str]) -> Running {
        let mut all = vec![env!("CARGO_BIN_EXE_bellwether"), "clone"];
        all.extend(what);
        self.start(node, &all)
    }
}

/// The network of a node.
pub struct Namespace(std::fs::File);

impl Namespace {
    /// Moves this thread there, and what it starts.
    pub fn enter(&self) {
        nix::sched::setns(&self.0, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().chain([&mut self.switch]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub struct Running {
    pub child: Child,
    log: PathBuf,
    name: String,
}

impl Running {
    /// Ends within so many seconds, well or not.
    pub fn ends(&mut self, seconds: u64) -> bool {
        let until = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            if Instant::now() > until {
                let _ = self.child.kill();
                panic!("{} still runs:\n{}\nall said:\n{}", self.name, self.log(), self.logs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn succeeds(&mut self, seconds: u64) {
        assert!(self.ends(seconds), "{} failed:\n{}", self.name, self.log());
    }

    pub fn fails(&mut self, seconds: u64) {
        assert!(!self.ends(seconds), "{} did not fail:\n{}", self.name, self.log());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What all programs of the room have said.
    fn logs(&self) -> String {
        let of_log = |path: &PathBuf| path.to_string_lossy().contains("/log.");
        let mut all: Vec<PathBuf> = std::fs::read_dir(self.log.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(of_log)
            .collect();
        all.sort();
        let text = |path: &PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        all.iter().map(|path| format!("{}:\n{}", path.display(), text(path))).collect()
    }

    /// Waits until it has said this.
    pub fn says(&self, text: &str) {
        let what = || format!("{} says '{text}':\n{}", self.name, self.log());
        until(what, || self.log().contains(text));
    }

    pub fn kill(&mut self) {
        // nsenter without --fork is the program itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An initramfs with `/init`.
pub fn initramfs() -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, data, mode) in [("init", &b"#!/bin/sh\n"[..], 0o100_755), ("TRAILER!!!", b"", 0)] {
        bytes.extend(b"070701");
        let fields = [1, mode, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0];
        fields.iter().for_each(|field| bytes.extend(format!("{field:08x}").bytes()));
        bytes.extend(name.bytes().chain([0]));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// Waits until an event has happened.
pub fn until(event: impl Fn() -> String, mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !happened() {
        assert!(Instant::now() < end, "not within a minute: {}", event());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until a file has grown to so many bytes.
pub fn grows(path: &Path, bytes: u64) {
    let event = || format!("{bytes} bytes in {}", path.display());
    until(event, || std::fs::metadata(path).map_or(0, |m| m.len()) >= bytes);
}

/// A file of so many bytes that nothing compresses.
pub fn noise(path: &Path, len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ len as u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    std::fs::write(path, &bytes).unwrap();
    bytes
}

pub fn same(path: &Path, bytes: &[u8]) {
    let got = std::fs::read(path).unwrap();
    assert_eq!(got.len(), bytes.len(), "{}", path.display());
    assert!(got == bytes, "{} has other bytes", path.display());
}
