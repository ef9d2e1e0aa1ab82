//! `cargo xtask bench clone`: copying to a room of machines, against a chain of
//! `socat` programs in the same run.
//!
//! The machines are network namespaces on one bridge, so all of them share this
//! computer's processors: with many nodes that, not the network, is the limit of
//! whatever is not shaped. What is received is thrown away.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use argh::FromArgs;
use qemu_tests::{Error, Result, packages};

/// Copy to rooms of machines by each protocol, and by socat.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "clone")]
pub struct BenchClone {
    /// how many machines (1,3,8)
    #[argh(option, default = "String::from(\"1,3,8\")")]
    nodes: String,

    /// megabytes, of 1000000 bytes (512)
    #[argh(option, default = "512")]
    size: u64,

    /// only this: dolly, ka, dollyplus, udpcast or socat
    #[argh(option)]
    only: Option<String>,

    /// only links of 1 Gbit/s
    #[argh(switch)]
    shaped: bool,
}

const WAYS: [&str; 5] = ["socat", "dolly", "ka", "dollyplus", "udpcast"];

/// What Ethernet, IPv4 and TCP with time stamps leave of a gigabit: 1448 of 1538
/// bytes on the wire; tbf counts 1514 of them.
const LINK_BYTES_PER_S: f64 = 125e6 * 1448.0 / 1514.0;

impl BenchClone {
    /// Measures and prints the table.
    pub fn run(self) -> Result<()> {
        packages::ensure_all(packages::FOR_ROOMS)?;
        let ours = qemu_tests::assets::released()?;
        let file = std::env::temp_dir().join(format!("bench-clone-{}", std::process::id()));
        noise(&file, self.size * 1_000_000)?;
        let outcome = self.table(&ours, &file);
        let _ = std::fs::remove_file(&file);
        outcome
    }

    fn table(&self, ours: &Path, file: &Path) -> Result<()> {
        let bytes = self.size as f64 * 1e6;
        println!(
            "{} MB; the limit of 1 Gbit/s is {:.2} s. CPU is that of all machines together.",
            self.size,
            bytes / LINK_BYTES_PER_S
        );
        println!("{:<8}{:>6}{:>10}{:>9}{:>9}{:>9}", "", "nodes", "link", "s", "MB/s", "CPU s");
        for shaped in [true, false] {
            if self.shaped && !shaped {
                continue;
            }
            for nodes in self.nodes.split(',') {
                let nodes: usize =
                    nodes.trim().parse().map_err(|_| Error::Input(format!("--nodes: {nodes}")))?;
                for way in WAYS {
                    if self.only.as_deref().is_some_and(|only| only != way) {
                        continue;
                    }
                    let room = Room::new(nodes + 1, shaped)?;
                    let (took, cpu) = room.copy(way, nodes, ours, file)?;
                    let link = if shaped { "1 Gbit/s" } else { "free" };
                    let took = took.as_secs_f64();
                    println!(
                        "{way:<8}{nodes:>6}{link:>10}{took:>9.2}{:>9.1}{cpu:>9.2}",
                        bytes / took / 1e6
                    );
                }
            }
        }
        Ok(())
    }
}

/// Bytes that nothing compresses.
fn noise(path: &Path, len: u64) -> Result<()> {
    let mut file = std::fs::File::create(path).map_err(Error::at("create", path))?;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut block = Vec::with_capacity(1 << 20);
    let mut left = len;
    while left > 0 {
        block.clear();
        while block.len() < 1 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend_from_slice(&state.to_le_bytes());
        }
        let now = left.min(block.len() as u64);
        let part = block.get(..now as usize).unwrap_or_default();
        file.write_all(part).map_err(Error::at("write", path))?;
        left -= now;
    }
    Ok(())
}

/// Machines on a bridge; the first has the file.
struct Room {
    holders: Vec<Child>,
}

impl Room {
    fn new(machines: usize, shaped: bool) -> Result<Room> {
        let mut room = Room { holders: vec![holder()?] };
        let switch = room.pid(0);
        inside(switch, "ip link add br0 type bridge mcast_snooping 0; ip link set br0 up")?;
        for i in 1..=machines {
            room.holders.push(holder()?);
            let pid = room.pid(i);
            inside(
                switch,
                &format!(
                    "ip link add p{i} type veth peer name eth0 netns {pid}; \
                     ip link set p{i} master br0 up"
                ),
            )?;
            let mut script = format!(
                "ip addr add 10.77.0.{i}/24 broadcast 10.77.0.255 dev eth0; ip link set eth0 up; \
                 ip route add default dev eth0"
            );
            if shaped {
                // Large segments would be one packet to the shaper.
                script += "; tc qdisc add dev eth0 root tbf rate 1gbit burst 256k latency 20ms";
                inside(
                    switch,
                    &format!("tc qdisc add dev p{i} root tbf rate 1gbit burst 256k latency 20ms"),
                )?;
            }
            inside(pid, &script)?;
        }
        Ok(room)
    }

    fn pid(&self, i: usize) -> u32 {
        self.holders.get(i).map_or(0, Child::id)
    }

    /// Runs a program at a machine; its last line of messages is its CPU time. It is
    /// the first of a process namespace, so nothing that it starts is left when it, or
    /// this program, ends.
    fn start(&self, machine: usize, script: &str) -> Result<Child> {
        let timed = format!("TIMEFORMAT='%U %S'; time {{ {script}; }} >/dev/null");
        let pid = self.pid(machine + 1).to_string();
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "nsenter", "-n", "-u", "-t", &pid])
            .args(["unshare", "--pid", "--fork", "--kill-child", "bash", "-c", &timed])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::io("start nsenter"))
    }

    /// One copy: how long it took, and the CPU seconds of all programs.
    fn copy(&self, way: &str, nodes: usize, ours: &Path, file: &Path) -> Result<(Duration, f64)> {
        let (ours, file) = (ours.display(), file.display());
        let mut hosts = String::new();
        for i in 1..=nodes {
            let comma = if i == 1 { "" } else { "," };
            let _ = write!(hosts, "{comma}10.77.0.{}", i + 1);
        }
        let node = |i: usize| match way {
            "dolly" => format!("{ours} clone dolly -q --target /dev/null"),
            "dollyplus" => format!("{ours} clone dollyC -q --target /dev/null"),
            "ka" => format!("{ours} clone ka-d-client -q -s bench -f /dev/null"),
            "udpcast" => format!("{ours} clone udp-receiver -q -f /dev/null --nokbd"),
            _ if i == nodes => "socat -b 262144 -u TCP-LISTEN:7000,reuseaddr OPEN:/dev/null".into(),
            _ => format!(
                "socat -b 262144 -u TCP-LISTEN:7000,reuseaddr - | tee /dev/null | \
                 socat -b 262144 -u - TCP:10.77.0.{}:7000,retry=50,interval=0.1",
                i + 2
            ),
        };
        let golden = match way {
            "dolly" => {
                format!("{ours} clone dolly -q -s -I {file} -O /dev/null -H {hosts}")
            }
            "dollyplus" => format!("{ours} clone dollyS -q -I {file} -O /dev/null -H {hosts}"),
            "ka" => format!("{ours} clone ka-d-server -q -s bench -n {nodes} -f {file}"),
            "udpcast" => format!(
                "{ours} clone udp-sender -q -f {file} --nokbd --min-receivers {nodes} --max-wait 30"
            ),
            _ => format!("socat -b 262144 -u OPEN:{file} TCP:10.77.0.2:7000,retry=50,interval=0.1"),
        };
        let mut all = Programs(Vec::new());
        // The last first: a chain of socats must have someone to connect to.
        for i in (1..=nodes).rev() {
            all.0.push(self.start(i, &node(i))?);
        }
        std::thread::sleep(Duration::from_millis(700));
        let start = Instant::now();
        all.0.push(self.start(0, &golden)?);
        let mut cpu = 0.0;
        for child in all.0.iter_mut().rev() {
            let status = child.wait().map_err(Error::io("wait"))?;
            let mut messages = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                let _ = std::io::Read::read_to_string(&mut stderr, &mut messages);
            }
            if !status.success() {
                return Err(Error::Input(format!("{way} failed:\n{messages}")));
            }
            let times = messages.lines().last().unwrap_or_default();
            cpu += times.split(' ').filter_map(|t| t.parse::<f64>().ok()).sum::<f64>();
        }
        Ok((start.elapsed(), cpu))
    }
}

/// What runs at the machines, ended with the measurement whatever happens.
struct Programs(Vec<Child>);

impl Drop for Programs {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        end(&mut self.holders);
    }
}

fn end(children: &mut [Child]) {
    for child in children {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A process that holds a network namespace, and dies with this one.
fn holder() -> Result<Child> {
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--uts", "--mount", "--"])
        .args(["sh", "-c", "ip link set lo up && echo ready && exec sleep infinity"])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Error::io("start unshare"))?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        let _ = BufReader::new(out).read_line(&mut line);
    }
    if line.trim() == "ready" {
        return Ok(child);
    }
    Err(Error::NotRoot { what: "a room of network namespaces" })
}

fn inside(pid: u32, script: &str) -> Result<()> {
    let status = Command::new("nsenter")
        .args(["-t", &pid.to_string(), "-n", "-u", "sh", "-ec", script])
        .status()
        .map_err(Error::io("start nsenter"))?;
    if status.success() { Ok(()) } else { Err(Error::Input(format!("failed: {script}"))) }
}
