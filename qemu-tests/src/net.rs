//! Private networks: one network namespace a lab, bridges and taps inside it.
//!
//! The namespace is anonymous and lives as long as one sleeping process, which the
//! kernel kills when the test process dies: nothing has a name that could collide
//! and nothing can be left behind, not even by `kill -9`. That process is the first
//! of a process namespace, so everything started in the lab goes with it; servers
//! that change their user lose the parent-death signal. A mount namespace has
//! empty `/run` and `/var/lib/nfs`, so that servers with fixed state paths run in
//! two labs at once. There is no route out.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::shell::{self, Daemon, kill_group};
use crate::{Error, Result};

/// A namespace with bridges.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
    /// The first process inside, as the host numbers it.
    inside: u32,
    /// The root that servers have their programs from, where it is not this machine's.
    servers: Option<PathBuf>,
}

/// Runs `$@` with the programs and libraries of the root `$0`. All else stays the lab's.
const FROM: &str = r#"set -e
mount --bind "$0/usr" /usr
mount --bind "$0/etc/ld.so.cache" /etc/ld.so.cache
exec "$@""#;

/// What the namespace's first process does before it sleeps.
const SETTLE: &str = "
set -e
# The host's /proc still: this shell's number outside.
read -r pid rest </proc/self/stat
mount -t proc proc /proc
mount -t tmpfs -o mode=755 lab /run
mkdir -p /var/lib/nfs /run/lock
mount -t tmpfs -o mode=755 lab /var/lib/nfs
# Every installed Debian has it, a minimal container does not; Ganesha reads it.
test -e /etc/mtab || ln -s ../proc/self/mounts /etc/mtab
sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 || true
ip link set lo up
echo ready $pid
exec sleep infinity
";

impl Namespace {
    /// Makes the namespace, with nothing but loopback in it; its servers have their programs
    /// from the root `servers`.
    ///
    /// # Errors
    /// [`Error::NotRoot`], or [`Error::Command`] when the kernel refuses.
    pub fn new(servers: Option<PathBuf>) -> Result<Namespace> {
        if !crate::packages::is_root() {
            return Err(Error::NotRoot { what: "a lab's private network" });
        }
        let mut unshare = shell::command("setpriv");
        unshare.args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--mount"]);
        unshare.args([
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
            "--",
            "sh",
            "-c",
            SETTLE,
        ]);
        unshare.stdout(Stdio::piped());
        let mut holder = unshare.spawn().map_err(Error::io("start unshare"))?;
        let mut line = String::new();
        if let Some(stdout) = holder.stdout.take() {
            let read = BufReader::new(stdout).read_line(&mut line);
            read.map_err(Error::io("read from unshare"))?;
        }
        let inside = line.trim().strip_prefix("ready ").and_then(|pid| pid.parse().ok());
        let namespace = Namespace { holder, inside: inside.unwrap_or_default(), servers };
        if inside.is_none() {
            return Err(Error::Input(
                "this system does not let the lab make a network namespace: see the messages \
                 above"
                    .into(),
            ));
        }
        Ok(namespace)
    }

    /// A command that runs inside and dies with this process.
    pub fn command(&self, program: &str) -> Command {
        let mut command = shell::command("nsenter");
        command.arg(format!("--target={}", self.inside));
        command.args([
            "--net",
            "--mount",
            "--pid",
            "--",
            "setpriv",
            "--pdeathsig",
            "KILL",
            "--",
            program,
        ]);
        command
    }

    /// The same for a server: the program is that of the release which the lab is about.
    pub fn released(&self, program: &str) -> Command {
        self.from(self.servers(), program)
    }

    /// The root that servers have their programs from, where it is not this machine's.
    pub fn servers(&self) -> Option<&Path> {
        self.servers.as_deref()
    }

    /// The same from another root, or this machine's own.
    pub fn from(&self, root: Option<&Path>, program: &str) -> Command {
        let Some(root) = root else { return self.command(program) };
        let mut command = self.command("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-c", FROM]);
        command.arg(root).arg(program);
        command
    }

    /// Runs words inside, to the end.
    ///
    /// # Errors
    /// [`Error::Command`] when the command fails.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let (program, args) =
            words.split_first().ok_or_else(|| Error::Input("an empty command".into()))?;
        shell::run(self.command(program).args(args))
    }

    /// A UDP socket inside, for a server that is part of the lab itself.
    ///
    /// # Errors
    /// [`Error::Io`] when the address is taken.
    pub fn udp(&self, address: &str) -> Result<UdpSocket> {
        self.bound(address, || UdpSocket::bind(address))
    }

    /// The same for TCP.
    ///
    /// # Errors
    /// [`Error::Io`] when the address is taken.
    pub fn tcp(&self, address: &str) -> Result<TcpListener> {
        self.bound(address, || TcpListener::bind(address))
    }

    /// Makes a socket inside: a thread enters the network and ends, its socket stays there.
    fn bound<S: Send>(
        &self,
        address: &str,
        bind: impl FnOnce() -> io::Result<S> + Send,
    ) -> Result<S> {
        let path = format!("/proc/{}/ns/net", self.inside);
        let enter = || -> io::Result<S> {
            setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
            bind()
        };
        let bound = thread::scope(|scope| scope.spawn(enter).join());
        bound
            .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
            .map_err(Error::io(format!("listen on {address} in the lab")))
    }

    /// Adds a bridge; `address` is `A.B.C.D/LEN`.
    ///
    /// # Errors
    /// [`Error::Command`] when `ip` fails.
    pub fn bridge(&self, name: &str, address: &str) -> Result<()> {
        self.run(&["ip", "link", "add", name, "type", "bridge", "mcast_snooping", "0"])?;
        self.run(&["ip", "address", "add", address, "dev", name])?;
        self.run(&["ip", "link", "set", name, "up"]).map(drop)
    }

    /// Adds a network namespace `name` whose card `eth0` has a cable, `name` with a `0` behind
    /// it, to the bridge `lan`.
    ///
    /// # Errors
    /// [`Error::Command`] when `ip` fails.
    pub fn neighbour(&self, name: &str) -> Result<()> {
        let cable = format!("{name}0");
        self.run(&["ip", "netns", "add", name])?;
        let ends = ["type", "veth", "peer", "name", "eth0", "netns", name];
        self.run(&[&["ip", "link", "add", &cable][..], &ends].concat())?;
        self.run(&["ip", "link", "set", &cable, "master", "lan", "up"])?;
        self.run(&["ip", "-n", name, "link", "set", "eth0", "up"]).map(drop)
    }

    /// Whether a program inside listens on this TCP port.
    pub fn listens(&self, port: u16) -> bool {
        self.has_socket("-Hltn", port)
    }

    /// Whether a program inside waits for datagrams on this UDP port.
    pub fn listens_udp(&self, port: u16) -> bool {
        self.has_socket("-Hlun", port)
    }

    fn has_socket(&self, kind: &str, port: u16) -> bool {
        let filter = format!("sport = :{port}");
        self.run(&["ss", kind, &filter]).is_ok_and(|found| !found.trim().is_empty())
    }

    /// Starts a server inside, and waits until it listens on this TCP port.
    ///
    /// # Errors
    /// [`Error::Command`] with the end of its log when it does not come up.
    pub fn server(&self, name: &str, command: Command, log: &Path, port: u16) -> Result<Daemon> {
        let mut daemon = Daemon::start(name, command, log)?;
        daemon.wait_until(Duration::from_secs(20), || self.listens(port))?;
        Ok(daemon)
    }

    /// Adds a tap to a bridge.
    ///
    /// # Errors
    /// [`Error::Command`] when `ip` fails.
    pub fn tap(&self, name: &str, bridge: &str) -> Result<()> {
        self.run(&["ip", "tuntap", "add", "dev", name, "mode", "tap"])?;
        self.run(&["ip", "link", "set", name, "master", bridge, "up"]).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        kill_group(&mut self.holder);
    }
}
