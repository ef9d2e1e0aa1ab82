//! Two network namespaces and cables between them.
#![allow(dead_code)]

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

/// Says that a test did not run.
pub fn skip() {
    eprintln!("skipped: needs root and network namespaces (ip netns, dnsmasq)");
}

/// A laboratory; everything goes away with it.
pub struct Lab {
    name: String,
    dir: PathBuf,
}

/// A server that ends with the test.
pub struct Server(pub Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether an event happens within ten seconds at least.
fn happens(mut event: impl FnMut() -> bool) -> bool {
    (0..500).any(|_| {
        let now = event();
        if !now {
            std::thread::sleep(Duration::from_millis(20));
        }
        now
    })
}

fn run(command: &str) -> (bool, String) {
    let output = Command::new("sh").arg("-c").arg(command).output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.success(), text)
}

impl Lab {
    /// A laboratory with this many cables: `nic<n>` in the client, `cable<n>` with
    /// 10.77.n.1/24 in the server. `None` when that is not possible here.
    pub fn new(name: &str, cables: u8) -> Option<Lab> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let name = format!("bw{}{name}", std::process::id());
        let (made, _) = run(&format!("ip netns add {name}s && ip netns add {name}c"));
        if !made {
            return None;
        }
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir).unwrap();
        let lab = Lab { name, dir };
        lab.server("ip link set lo up");
        for cable in 0..cables {
            lab.plug(cable);
        }
        Some(lab)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Adds a cable.
    pub fn plug(&self, cable: u8) {
        self.server(&format!(
            "ip link add cable{cable} type veth peer name nic{cable} netns {name}c \
             address 52:54:00:00:77:{cable:02x} && \
             ip addr add 10.77.{cable}.1/24 dev cable{cable} && ip link set cable{cable} up",
            name = self.name
        ));
    }

    /// Takes the signal off a cable.
    pub fn unplug(&self, cable: u8) {
        self.server(&format!("ip link set cable{cable} down"));
    }

    fn at(&self, side: char, command: &str) -> (bool, String) {
        run(&format!("exec ip netns exec {}{side} sh -c '{command}'", self.name))
    }

    /// Runs a command in the server's namespace.
    pub fn server(&self, command: &str) -> String {
        let (ok, text) = self.at('s', command);
        assert!(ok, "{command}: {text}");
        text
    }

    /// Runs a command in the client's namespace.
    pub fn client(&self, command: &str) -> String {
        let (ok, text) = self.at('c', command);
        assert!(ok, "{command}: {text}");
        text
    }

    /// Whether a command works in the client's namespace.
    pub fn try_client(&self, command: &str) -> bool {
        self.at('c', command).0
    }

    /// Starts a program in the server's namespace.
    pub fn serve(&self, program: &str, arguments: &[&str]) -> Server {
        let log = File::create(
            self.dir
                .join(format!("{}.log", Path::new(program).file_name().unwrap().to_string_lossy())),
        )
        .unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &format!("{}s", self.name), program])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Server(child)
    }

    /// Starts dnsmasq on a cable.
    pub fn dnsmasq(&self, cable: u8, lines: &str) -> Server {
        self.dnsmasq_on(&format!("cable{cable}"), lines)
    }

    /// Starts dnsmasq on a device, and returns when it listens.
    pub fn dnsmasq_on(&self, device: &str, lines: &str) -> Server {
        let path = self.dir.join(format!("dnsmasq-{device}.conf"));
        let mut file = File::create(&path).unwrap();
        write!(
            file,
            "no-daemon\nno-resolv\nno-hosts\nuser=root\nbind-interfaces\nno-ping\nlog-dhcp\n\
             interface={device}\nexcept-interface=lo\ndhcp-leasefile={dir}/leases-{device}\n\
             pid-file={dir}/dnsmasq-{device}.pid\n{lines}",
            dir = self.dir.display()
        )
        .unwrap();
        let server = self.serve("dnsmasq", &["-C", path.to_str().unwrap()]);
        for _ in 0..100 {
            if self.at('s', "ss -lun").1.contains(":67 ")
                || self.at('s', "ss -lun").1.contains(":53 ")
            {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Whether the client reaches a host: it answers, be it with a refusal.
    pub fn reaches(&self, host: Ipv4Addr) -> bool {
        let address = SocketAddr::from((host, 9));
        let result =
            self.in_client(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)));
        result.map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionRefused, |_| true)
    }

    /// Starts NFS-Ganesha (and rpcbind) and returns when it listens; `protocols` as
    /// its configuration has them, `exports` as pairs of pseudo path and directory.
    pub fn ganesha(&self, protocols: &str, port: u16, exports: &[(&str, &Path)]) -> Server {
        let mut text = format!(
            "NFS_CORE_PARAM {{ Protocols = {protocols}; NFS_Port = {port}; MNT_Port = {mount}; \
             Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; \
             mount_path_pseudo = true; allow_set_io_flusher_fail = true; }}\n\
             NFSv4 {{ Graceless = true; RecoveryBackend = fs; }}\n\
             EXPORT_DEFAULTS {{ SecType = sys; Squash = No_Root_Squash; Access_Type = RO; }}\n",
            mount = port + 1
        );
        for (id, (pseudo, path)) in (1..).zip(exports) {
            text.push_str(&format!(
                "EXPORT {{ Export_Id = {id}; Path = {}; Pseudo = {pseudo}; Transports = TCP; \
                 FSAL {{ Name = VFS; }} }}\n",
                path.display()
            ));
        }
        let config = self.dir.join("ganesha.conf");
        std::fs::write(&config, text).unwrap();
        // `ip netns exec` gave it mounts of its own already. A Debian that was never
        // booted has no mtab, and Ganesha then no file systems.
        let script = format!(
            "test -e /etc/mtab || ln -s ../proc/self/mounts /etc/mtab; mount -t tmpfs none /run && mount -t tmpfs none /var/lib/nfs && \
             mkdir -p /run/ganesha /run/rpcbind /var/lib/nfs/ganesha && rpcbind -w; \
             exec ganesha.nfsd -F -N EVENT -p /run/ganesha.pid -L {log} -f {config}",
            log = self.dir.join("ganesha.log").display(),
            config = config.display()
        );
        let server = self.serve("sh", &["-c", &script]);
        self.wait_for(&format!(":{port} "));
        server
    }

    /// Ends every process of this name in the server's namespace, hard.
    pub fn kill(&self, program: &str) {
        let (_, pids) = run(&format!("ip netns pids {}s", self.name));
        for pid in pids.split_ascii_whitespace() {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.trim() == program {
                run(&format!("kill -9 {pid}"));
            }
        }
    }

    /// Waits until something in the server's namespace listens at an address that
    /// contains this text.
    pub fn wait_for(&self, address: &str) {
        assert!(self.comes(address, true), "nothing listens at {address}");
    }

    /// Waits until nothing there listens at such an address any more.
    pub fn wait_gone(&self, address: &str) {
        assert!(self.comes(address, false), "something still listens at {address}");
    }

    /// Waits until the server's namespace has refused so many connections more than now:
    /// until the client has knocked that often where nothing listens.
    pub fn knocks(&self, count: u64) {
        let before = self.refused();
        assert!(happens(|| self.refused() >= before + count), "the client does not knock");
    }

    /// How many segments the server's namespace has refused (OutRsts of RFC 4022).
    fn refused(&self) -> u64 {
        let text = self.server("cat /proc/net/snmp");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let mut both = names.split(' ').zip(values.split(' '));
        both.find(|(name, _)| *name == "OutRsts").unwrap().1.parse().unwrap()
    }

    fn comes(&self, address: &str, listens: bool) -> bool {
        happens(|| self.at('s', "ss -Hltun").1.contains(address) == listens)
    }

    /// Runs code in the client's namespace.
    pub fn in_client<T: Send>(&self, code: impl FnOnce() -> T + Send) -> T {
        self.within('c', code)
    }

    /// Runs code in the server's namespace.
    pub fn in_server<T: Send>(&self, code: impl FnOnce() -> T + Send) -> T {
        self.within('s', code)
    }

    fn within<T: Send>(&self, side: char, code: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}{side}", self.name)).unwrap();
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    // Only this thread moves.
                    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                    code()
                })
                .join()
                .unwrap()
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // What a server left behind: rpcbind puts itself into the background.
        let (_, left) = run(&format!("ip netns pids {}s", self.name));
        for pid in left.split_ascii_whitespace() {
            run(&format!("kill {pid}"));
        }
        run(&format!("ip netns del {name}s; ip netns del {name}c", name = self.name));
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
