//! A room of machines to measure copies in: network namespaces on one bridge.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use qemu_tests::assets::media::run;
use qemu_tests::{Error, Result};

/// What Ethernet, IPv4 and TCP with time stamps leave of a gigabit: 1448 of 1538
/// bytes on the wire; tbf counts 1514 of them.
pub const LINK_BYTES_PER_S: f64 = 125e6 * 1448.0 / 1514.0;

/// Bytes that nothing compresses.
pub fn noise(path: &Path, len: u64) -> Result<()> {
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

/// The addresses of so many machines besides the first, for the list of a command.
pub fn hosts(nodes: usize) -> String {
    let addresses: Vec<String> = (1..=nodes).map(|i| format!("10.77.0.{}", i + 1)).collect();
    addresses.join(",")
}

/// Machines on a bridge; the first has the file.
pub struct Room {
    holders: Vec<Child>,
}

impl Room {
    /// So many, on links of 1 Gbit/s or free ones.
    pub fn new(machines: usize, shaped: bool) -> Result<Room> {
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
        let timed = format!("set -o pipefail; TIMEFORMAT='%U %S'; time {{ {script}; }} >/dev/null");
        let pid = self.pid(machine + 1).to_string();
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "nsenter", "-n", "-u", "-t", &pid])
            .args(["unshare", "--pid", "--fork", "--kill-child", "bash", "-c", &timed])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::io("start nsenter"))
    }

    /// Runs these programs, the last machine's first, and then that of the first machine:
    /// how long it took from there, and the CPU seconds of all.
    pub fn run(&self, way: &str, nodes: &[String], golden: &str) -> Result<(Duration, f64)> {
        let mut all = Programs(Vec::new());
        // A chain of socats must have someone to connect to.
        for (i, node) in nodes.iter().enumerate().rev() {
            all.0.push(self.start(i + 1, node)?);
        }
        std::thread::sleep(Duration::from_millis(700));
        let start = Instant::now();
        all.0.push(self.start(0, golden)?);
        let mut cpu = 0.0;
        for child in all.0.iter_mut().rev() {
            let mut messages = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                let _ = stderr.read_to_string(&mut messages);
            }
            if !child.wait().map_err(Error::io("wait"))?.success() {
                return Err(Error::Input(format!("{way} failed:\n{messages}")));
            }
            let times = messages.lines().last().unwrap_or_default();
            cpu += times.split(' ').filter_map(|t| t.parse::<f64>().ok()).sum::<f64>();
        }
        Ok((start.elapsed(), cpu))
    }

    /// Bytes that this machine has sent, and those that it was sent.
    pub fn wire(&self, machine: usize) -> (u64, u64) {
        let path = format!("/proc/{}/net/dev", self.pid(machine + 1));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
        let words = line.unwrap_or_default().split_whitespace();
        let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
        let at = |i: usize| numbers.get(i).copied().unwrap_or(0);
        (at(8), at(0))
    }
}

/// What runs at the machines, ended with the measurement whatever happens.
pub struct Programs(Vec<Child>);

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
    run(&["nsenter", "-t", &pid.to_string(), "-n", "-u", "sh", "-ec", script]).map(drop)
}
