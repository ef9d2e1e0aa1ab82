//! Instead of a boot: a disk is received over the network and written, and the
//! machine starts again from it.
//!
//! Written is only the disk that the line names, or the sender, or, when
//! neither does, the only one there is. It is opened before any sender hears of
//! this machine, for nobody else while it is written. What was received is
//! passed on before it is stored, and everything stored must be on the disk
//! before this end says so.
//!
//! Streams are whole disks. KA's own sessions describe partitions and bring
//! archives of files: those are carried out by the host command, when it was
//! loaded behind the initramfs with the programs that this takes (`bellwether
//! clone tools`), and refused otherwise.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use clone::digest::{Digest, Meter};
use clone::edge::{self, Store, Target, World};
use clone::ka::wire::Layout;
use clone::{dolly, ka, udpcast};
use cmdline::BootPlan;
use cmdline::plan::{CloneMethod, ClonePlan, Dialect};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, fdatasync, fstat, open};
use rustix::io::{Errno, write};
use rustix::system::{RebootCommand, reboot};
use sys::errno::Shown;

use crate::copy::Progress;
use crate::device;
use crate::log::{Level, now_ms};
use crate::machine::Machine;
use crate::memory::Size;
use crate::network;
use crate::tool;
use crate::trace::Failure;

/// Disks may announce themselves late; so long is waited for the first.
const DISKS_MS: u64 = 20_000;
/// Bytes given to the disk at once.
const CHUNK: usize = 1 << 20;
/// What is held between a fast and a slow side of a chain.
const RING: usize = 16 << 20;
/// Nothing came for so long: the sender is gone.
const STALL: Duration = Duration::from_secs(300);
/// Names of devices that are no disks of this machine.
const NO_DISKS: [&str; 8] = ["loop", "ram", "sr", "fd", "nbd", "dm-", "md", "zram"];

/// The program that makes a copy of files.
const INSTALLER: &str = "bellwether";

const STEP: &str = "receive a copy of a disk";

/// Receives, as often as the plan says, and starts the machine anew. Returns
/// when there is no copy.
pub fn receive(machine: &mut Machine, plan: &BootPlan, clone: &ClonePlan) -> Failure {
    if let Err(why) = carried_out(plan, clone) {
        return Failure::new(STEP, "the line", why).remedy(
            "bw.clone=udpcast, bw.clone=dolly or bw.clone=ka:SESSION, with bw.disk=/dev/sda",
        );
    }
    wait_for_disks(machine);
    let mut failure = Failure::new(STEP, "nobody", "was asked");
    for attempt in 1..=clone.tries {
        let tried = if by_files(plan, &clone.method) {
            install(machine, clone)
        } else {
            once(machine, clone)
        };
        match tried {
            Ok(()) => restart(machine),
            Err(why) => {
                machine.log.warn(&format!("try {attempt} of {}: {why}", clone.tries));
                failure = Failure::new(STEP, method(&clone.method), why);
            }
        }
    }
    failure
}

const fn method(method: &CloneMethod) -> &'static str {
    match method {
        CloneMethod::Ka { .. } => "KA",
        CloneMethod::Dolly => "dolly",
        CloneMethod::DollyPlus => "Dolly+",
        CloneMethod::Udpcast { .. } => "udpcast",
    }
}

/// What this `/init` does not do, said before anything is touched.
fn carried_out(plan: &BootPlan, clone: &ClonePlan) -> Result<(), &'static str> {
    match &clone.method {
        CloneMethod::DollyPlus => Err("Dolly+ is not received here; dollyC of the host command is"),
        method if by_files(plan, method) => tool::find(INSTALLER, &[]).map(drop).ok_or(
            "copying files needs the image of `bellwether clone tools` behind the initramfs",
        ),
        _ => Ok(()),
    }
}

/// Whether the sender describes partitions and sends files, as KA's own sessions do.
fn by_files(plan: &BootPlan, method: &CloneMethod) -> bool {
    let CloneMethod::Ka { session } = method else { return false };
    plan.dialect == Dialect::Stage1 || session.is_empty() || session.starts_with("kainstall")
}

/// One try of that: everything but the network is the installer's.
fn install(machine: &mut Machine, clone: &ClonePlan) -> Result<(), String> {
    machine.network.up().ok_or("the network is not up")?;
    let installer = tool::find(INSTALLER, &[]).ok_or("the installer is gone")?;
    let timeout = clone.timeout.0.to_string();
    let mut words = alloc::vec!["clone", "install", "--timeout", &timeout];
    let disk = match &clone.target {
        Some(target) => {
            let names: Vec<String> = machine.blocks().map(ToString::to_string).collect();
            device::resolve(target, &names)?
        }
        None => String::new(),
    };
    if !disk.is_empty() {
        words.extend(["--disk", &disk]);
    }
    installer.run(&words)?;
    machine.log.say(Level::Verdict, "copy complete");
    Ok(())
}

/// Until the bus is silent and there is a disk, or it is clear that none comes.
fn wait_for_disks(machine: &mut Machine) {
    let deadline = now_ms().saturating_add(DISKS_MS);
    machine.log.info("looking for disks");
    while (disks(machine).is_empty() || !machine.settled()) && now_ms() < deadline {
        let next = machine.quiet_at().max(now_ms() + 50);
        machine.wait(&[], Some(next.min(deadline)));
    }
}

/// The names of all whole disks that could be a target.
fn disks(machine: &Machine) -> Vec<String> {
    let disk = |name: &&str| {
        let class = format!("/sys/class/block/{name}");
        let flag = |what: &str| {
            sys::file::read_file(&format!("{class}/{what}"), 16)
                .is_ok_and(|text| text.starts_with(b"1"))
        };
        !NO_DISKS.iter().any(|no| name.starts_with(no))
            && sys::file::read_file(&format!("{class}/partition"), 16).is_err()
            && !flag("removable")
            && !flag("ro")
    };
    machine.blocks().filter(disk).map(ToString::to_string).collect()
}

/// One try.
fn once(machine: &mut Machine, clone: &ClonePlan) -> Result<(), String> {
    let up = machine.network.up().ok_or("the network is not up")?;
    let address = up.config.address;
    let broadcast = up.config.broadcast.unwrap_or(Ipv4Addr::BROADCAST);
    let names = [Some(address.to_string()), host_name()];
    let names: Vec<String> = names.into_iter().flatten().collect();
    let patience = Some(Duration::from_secs(u64::from(clone.timeout.0)));
    let fixed = match &clone.target {
        Some(target) => {
            let names: Vec<String> = machine.blocks().map(ToString::to_string).collect();
            Some(device::resolve(target, &names)?)
        }
        None => None,
    };
    let mut node = Node { machine, fixed, progress: None, shown: 0 };
    let said = |e: clone::Error| e.to_string();
    let (digest, verified) = match &clone.method {
        CloneMethod::Udpcast { portbase } => {
            let store = node.open(&NO_NAME)?;
            node.say(&format!("waiting for a udpcast sender, port {portbase}"));
            let config = udpcast::receiver::Config {
                start_timeout: patience,
                receive_timeout: Some(STALL),
                ..udpcast::receiver::Config::default()
            };
            let place = edge::udpcast::Place { own: address, broadcast, port: *portbase };
            let got = edge::udpcast::receive(config, place, store, &mut node).map_err(said)?;
            (got.digest, got.verified)
        }
        CloneMethod::Dolly | CloneMethod::DollyPlus => {
            node.say(&format!("waiting for a dolly server, as {}", names.join(" or ")));
            let options = dolly::client::Options {
                names,
                password: None,
                nonce: [0; 32],
                start_timeout: patience,
                stall_timeout: Some(STALL),
            };
            let got = edge::dolly::receive(options, RING, &mut node).map_err(said)?;
            (got.digest, got.verified)
        }
        CloneMethod::Ka { session } => {
            let store = node.open(&NO_NAME)?;
            node.say(&format!("looking for the KA server of session {session}"));
            let options = ka::client::Options {
                session: session.clone(),
                server: None,
                layout: Layout::I386,
                wait: true,
                go_now: false,
                tries: clone.timeout.0,
                start_timeout: patience,
                stall_timeout: Some(STALL),
            };
            let got = edge::ka::receive(options, store, &mut node).map_err(said)?;
            (got.digest, got.verified)
        }
    };
    let summary = node.progress.as_ref().map(Progress::summary).unwrap_or_default();
    let verdict = if verified { "verified with the sender" } else { "NOT verified: old sender" };
    let line = format!("copy complete: {summary}, blake3 {digest}, {verdict}");
    node.machine.log.say(Level::Verdict, &line);
    Ok(())
}

const NO_NAME: Target<'static> = Target {
    path: "",
    existing: true,
    cook: edge::Cook { unpack: None, archive: None },
    split: None,
};

fn host_name() -> Option<String> {
    let name = sys::file::read_file("/proc/sys/kernel/hostname", 256).ok()?;
    let name = String::from_utf8_lossy(&name).trim().to_string();
    (!name.is_empty() && name != "(none)").then_some(name)
}

/// This machine for the loops of the `clone` room.
struct Node<'m> {
    machine: &'m mut Machine,
    /// The disk that the line names.
    fixed: Option<String>,
    progress: Option<Progress>,
    shown: u64,
}

impl World for Node<'_> {
    fn now(&mut self) -> Duration {
        Duration::from_millis(now_ms())
    }

    fn resolve(&mut self, host: &str) -> Result<Ipv4Addr, String> {
        let host = cmdline::plan::Server::Host(host.to_string());
        network::server(self.machine, &host)
    }

    fn say(&mut self, text: &str) {
        self.machine.log.info(text);
    }

    fn progress(&mut self, done: u64, total: Option<u64>) {
        let progress =
            self.progress.get_or_insert_with(|| Progress::new("receiving", total.unwrap_or(0)));
        progress.add(&mut self.machine.log, done.saturating_sub(self.shown));
        self.shown = self.shown.max(done);
    }

    fn open(&mut self, target: &Target<'_>) -> Result<Box<dyn Store>, String> {
        if target.split.is_some() || target.cook != edge::Cook::default() {
            return Err("what is packed or split cannot be written to a disk here".to_string());
        }
        let path = match &self.fixed {
            Some(path) => path.clone(),
            None if !target.path.is_empty() => target.path.to_string(),
            None => {
                let disks = disks(self.machine);
                match disks.as_slice() {
                    [one] => format!("/dev/{one}"),
                    [] => return Err("there is no disk in this machine".to_string()),
                    _ => {
                        let all = disks.join(", ");
                        return Err(format!("which disk? bw.disk= must name one of {all}"));
                    }
                }
            }
        };
        let flags = OFlags::WRONLY | OFlags::EXCL | OFlags::CLOEXEC;
        let disk = open(path.as_str(), flags, Mode::empty()).map_err(|e| match e {
            Errno::NOENT => {
                format!("{path}: no such disk; here: {}", disks(self.machine).join(", "))
            }
            Errno::BUSY => format!("{path}: is in use"),
            Errno::ROFS | Errno::ACCESS | Errno::PERM => format!("{path}: is read-only"),
            e => format!("{path}: {}", Shown(e)),
        })?;
        let kind = fstat(&disk).map(|s| FileType::from_raw_mode(s.st_mode));
        if kind != Ok(FileType::BlockDevice) {
            return Err(format!("{path}: is no disk"));
        }
        let length = sys::blockdev::length_of(disk.as_fd()).unwrap_or(0);
        self.machine.log.say(
            Level::Verdict,
            &format!("OVERWRITES {path}, {}, as soon as a sender begins", Size(length)),
        );
        Ok(Box::new(Disk { disk, path, length, meter: Meter::default(), ended: false }))
    }
}

/// The disk that is written.
struct Disk {
    disk: OwnedFd,
    path: String,
    length: u64,
    meter: Meter,
    ended: bool,
}

impl Store for Disk {
    fn put(&mut self, bytes: &[u8]) -> Result<usize, String> {
        let some = bytes.get(..bytes.len().min(CHUNK)).unwrap_or_default();
        match write(&self.disk, some) {
            Ok(n) if n > 0 => {
                self.meter.update(some.get(..n).unwrap_or_default());
                Ok(n)
            }
            Ok(_) | Err(Errno::NOSPC) => {
                Err(format!("{}: is too small: it has {}", self.path, Size(self.length)))
            }
            Err(Errno::INTR | Errno::AGAIN) => Ok(0),
            Err(e) => Err(format!("{}: cannot be written: {}", self.path, Shown(e))),
        }
    }

    fn end(&mut self) {
        self.ended = true;
    }

    fn done(&mut self) -> Option<Result<Digest, String>> {
        if !self.ended {
            return None;
        }
        // The end is not the end before the disk says so.
        Some(match fdatasync(&self.disk) {
            Ok(()) => Ok(self.meter.digest()),
            Err(e) => Err(format!("{}: cannot be written: {}", self.path, Shown(e))),
        })
    }
}

fn restart(machine: &mut Machine) {
    machine.log.say(Level::Verdict, "rebooting; let the boot server send this machine to its disk");
    rustix::fs::sync();
    if let Err(errno) = reboot(RebootCommand::Restart) {
        machine.log.warn(&format!("the kernel refuses to reboot: {}", Shown(errno)));
    }
}
