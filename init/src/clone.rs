//! Instead of a boot: a disk is received over the network and written, and the
//! machine starts again from it.
//!
//! Written is only the disk that the line names, or the sender, or, when
//! neither does, the only one there is. It is opened before any sender hears of
//! this machine, and exclusively. Received bytes are passed on before they are
//! stored, and everything stored must be on the disk before this end says so.
//!
//! Streams are whole disks. When the host command was loaded behind the initramfs
//! with the programs that it takes (`bellwether clone tools`), it then fits such a
//! disk to this machine (`adapt`), and carries out KA's own sessions, which
//! describe partitions and bring archives of files; without it those are refused.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use clone::cook::Cook;
use clone::digest::{Digest, Meter};
use clone::edge::{self, Here, Store, Target, World};
use clone::outcome::{Patience, Summary};
use cmdline::BootPlan;
use cmdline::plan::{CloneArgument, CloneMethod, ClonePlan, Dialect, Seconds};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Advice, FileType, OFlags, fadvise, fdatasync, fstat};
use rustix::io::{Errno, read, write};
use rustix::system::{RebootCommand, reboot};
use sys::clock::Instant;
use sys::errno::Shown;
use sys::file::{open, open_read};
use sys::netlink::Route;

use crate::copy::Progress;
use crate::device;
use crate::fetch;
use crate::log::Level;
use crate::machine::Machine;
use crate::memory::{Size, available};
use crate::network;
use crate::tool;
use crate::trace::{Failure, Fault};

/// Disks may announce themselves late; so long is waited for the first.
const DISKS: Duration = Duration::from_secs(20);
/// Bytes given to the disk at once.
const CHUNK: usize = 1 << 20;
/// A second stage is waited for so long where the line does not say.
const STAGE2: Seconds = Seconds(120);
/// Memory that it must leave for the system in it.
const SPARE: u64 = 64 << 20;
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
        return Failure::new(STEP, "the line", why)
            .remedy("bw.clone=udpcast, dolly, dollyplus or ka:SESSION, with bw.disk=/dev/sda");
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
            Ok(()) => restart(machine, clone.power_off),
            Err(why) => {
                machine.log.warn(&format!("try {attempt} of {}: {why}", clone.tries));
                failure = Failure::new(STEP, clone.method.protocol.title, why);
            }
        }
    }
    failure
}

/// What this `/init` does not do, said before anything is touched.
fn carried_out(plan: &BootPlan, clone: &ClonePlan) -> Result<(), &'static str> {
    if by_files(plan, &clone.method) && clone.verify {
        return Err("bw.clone.verify reads back a disk; of files no digest of the disk is known");
    }
    if by_files(plan, &clone.method) && tool::find(INSTALLER, &[]).is_none() {
        return Err(
            "copying files needs the image of `bellwether clone tools` behind the initramfs",
        );
    }
    Ok(())
}

/// Whether the sender describes partitions and sends files, as KA's own sessions do.
fn by_files(plan: &BootPlan, method: &CloneMethod) -> bool {
    let session = &method.argument;
    method.protocol.name == "ka"
        && (plan.dialect == Dialect::Stage1
            || session.is_empty()
            || session.starts_with("kainstall"))
}

/// The disk that the line names, if it names one.
fn named(machine: &Machine, clone: &ClonePlan) -> Result<Option<String>, Fault> {
    let Some(target) = &clone.target else { return Ok(None) };
    let names: Vec<String> = machine.blocks().map(ToString::to_string).collect();
    device::resolve(target, &names).map(Some)
}

/// One try of that: everything but the network is the installer's.
fn install(machine: &mut Machine, clone: &ClonePlan) -> Result<(), Fault> {
    machine.network.up().ok_or("the network is not up")?;
    let installer = tool::find(INSTALLER, &[]).ok_or("the installer is gone")?;
    let timeout = clone.timeout.0.to_string();
    let mut words = alloc::vec!["clone", "install", "--timeout", &timeout];
    let disk = named(machine, clone)?;
    if let Some(disk) = &disk {
        words.extend(["--disk", disk]);
    }
    installer.run(&words)?;
    machine.log.say(Level::Verdict, "copy complete");
    Ok(())
}

/// Until the bus is silent and there is a disk, or it is clear that none comes.
fn wait_for_disks(machine: &mut Machine) {
    let deadline = Instant::now().after(DISKS);
    machine.log.info("looking for disks");
    while (disks(machine).is_empty() || !machine.settled()) && !deadline.is_past() {
        let next = machine.quiet_at().max(Instant::now().after(Duration::from_millis(50)));
        machine.wait(&[], Some(next.min(deadline)));
    }
}

/// The names of all whole disks that could be a target.
fn disks(machine: &Machine) -> Vec<String> {
    let disk = |name: &&str| whole("/sys/class/block", name);
    machine.blocks().filter(disk).map(ToString::to_string).collect()
}

/// Whether the device of this name, described below `class`, is a whole disk that stays
/// and can be written.
fn whole(class: &str, name: &str) -> bool {
    let read = |what: &str| sys::file::read_file(&format!("{class}/{name}/{what}"), 16);
    let flag = |what: &str| read(what).is_ok_and(|text| text.starts_with(b"1"));
    !NO_DISKS.iter().any(|no| name.starts_with(no))
        && read("partition").is_err()
        && !flag("removable")
        && !flag("ro")
}

/// The path of the disk to write: the line's, the sender's, or that of the only disk.
fn choose(line: Option<&str>, sender: &str, disks: &[String]) -> Result<String, String> {
    match (line, sender, disks) {
        (Some(path), _, _) => Ok(path.to_string()),
        (None, "", [one]) => Ok(format!("/dev/{one}")),
        (None, "", []) => Err("there is no disk in this machine".to_string()),
        (None, "", all) => Err(format!("which disk? bw.disk= must name one of {}", all.join(", "))),
        (None, path, _) => Ok(path.to_string()),
    }
}

/// One try.
fn once(machine: &mut Machine, clone: &ClonePlan) -> Result<(), Fault> {
    let disk = named(machine, clone)?;
    let mut node = Node::new(machine, Place::Disk(disk));
    let digest = node.take(&clone.method, clone.timeout)?;
    if clone.verify {
        read_back(&node.path, digest)?;
        node.machine.log.say(Level::Verdict, "read back: the disk has what was received");
    }
    // What a copied disk still needs to be this machine's, where the programs are there.
    match tool::find(INSTALLER, &[]) {
        Some(installer) => installer.run(&["clone", "adapt", "--disk", &node.path]),
        None => Ok(()),
    }
}

/// Receives Mandriva's second stage into memory: an archive of it, or an image. Returns
/// its path.
///
/// # Errors
/// A [`Fault`] when no sender comes, the copy breaks off, or memory is too small.
pub fn stage2(
    machine: &mut Machine,
    method: &CloneMethod,
    timeout: Option<Seconds>,
) -> Result<String, Fault> {
    let mut method = method.clone();
    if method.protocol.argument == CloneArgument::Session && method.argument.is_empty() {
        method.argument = "getstage2".to_string();
    }
    fetch::prepare()?;
    let mut node = Node::new(machine, Place::Memory);
    let taken = node.take(&method, timeout.unwrap_or(STAGE2));
    if taken.is_err() {
        fetch::drop_all();
    }
    taken?;
    Ok(node.path)
}

fn host_name() -> Option<String> {
    let name = sys::file::read_file("/proc/sys/kernel/hostname", 256).ok()?;
    let name = String::from_utf8_lossy(&name).trim().to_string();
    (!name.is_empty() && name != "(none)").then_some(name)
}

/// Reads the disk, past what the kernel remembers of it.
fn read_back(path: &str, wanted: Digest) -> Result<(), String> {
    let failed = |e| format!("{path}: cannot be read back: {}", Shown(e));
    let disk = open_read(path).map_err(failed)?;
    fadvise(&disk, 0, None, Advice::DontNeed).map_err(failed)?;
    let mut meter = Meter::default();
    let mut buffer = alloc::vec![0; CHUNK];
    while meter.bytes() < wanted.bytes {
        let left = usize::try_from(wanted.bytes - meter.bytes()).unwrap_or(usize::MAX);
        let room = buffer.get_mut(..left.min(CHUNK)).unwrap_or_default();
        match read(&disk, &mut *room) {
            Ok(0) => break,
            Ok(n) => meter.update(room.get(..n).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    match meter.digest() == wanted {
        true => Ok(()),
        false => Err(format!("{path}: HAS OTHER BYTES than were written to it")),
    }
}

/// Where a copy goes.
enum Place {
    /// To the disk that the line names, or else to the one of the rule.
    Disk(Option<String>),
    /// To a file in memory.
    Memory,
}

/// This machine for the loops of the `clone` room.
struct Node<'m> {
    machine: &'m mut Machine,
    place: Place,
    /// What is written.
    path: String,
    progress: Option<Progress>,
    /// When the first bytes had come.
    began: Option<Duration>,
    shown: u64,
}

impl<'m> Node<'m> {
    fn new(machine: &'m mut Machine, place: Place) -> Self {
        Self { machine, place, path: String::new(), progress: None, began: None, shown: 0 }
    }

    /// Waits for a sender, receives, and says how that went.
    fn take(&mut self, method: &CloneMethod, timeout: Seconds) -> Result<Digest, String> {
        let up = self.machine.network.up().ok_or("the network is not up")?;
        let address = up.config.address;
        let here = Here {
            address,
            broadcast: up.config.broadcast.unwrap_or(Ipv4Addr::BROADCAST),
            names: [Some(address.to_string()), host_name()].into_iter().flatten().collect(),
            listen: Ipv4Addr::UNSPECIFIED,
            patience: Patience { start: Some(timeout.into()), stall: Some(STALL) },
        };
        let receive =
            edge::receiver(method.protocol.name).ok_or("this /init has no such protocol")?;
        let got = receive(&method.argument, &here, self).map_err(|e| e.to_string())?;
        let began = self.began.unwrap_or_else(|| self.now());
        let took = self.now().saturating_sub(began);
        let summary = Summary { digests: &got.digests, took, verdict: got.verdict() };
        self.machine.log.say(Level::Verdict, &format!("copy complete: {summary}"));
        got.digests.last().copied().ok_or_else(|| "the sender sent no file".to_string())
    }

    /// The disk to write, opened exclusively.
    fn disk(&mut self, target: &Target<'_>) -> Result<(OwnedFd, String), String> {
        let line = match &self.place {
            Place::Disk(Some(path)) => Some(path.as_str()),
            _ => None,
        };
        let path = choose(line, target.path, &disks(self.machine))?;
        let flags = OFlags::WRONLY | OFlags::EXCL | OFlags::CLOEXEC;
        let disk = open(&path, flags, 0).map_err(|e| match e {
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
        Ok((disk, path))
    }
}

impl World for Node<'_> {
    fn now(&mut self) -> Duration {
        sys::clock::since_start()
    }

    fn resolve(&mut self, host: &str) -> Result<Ipv4Addr, String> {
        let host = cmdline::plan::Server::Host(host.to_string());
        Ok(network::server(self.machine, &host)?)
    }

    fn say(&mut self, level: edge::Level, text: &str) {
        match level {
            edge::Level::News => self.machine.log.info(text),
            edge::Level::Detail => self.machine.log.detail(text),
        }
    }

    fn progress(&mut self, done: u64, total: Option<u64>) {
        self.began = self.began.or_else(|| Some(self.now()));
        let progress =
            self.progress.get_or_insert_with(|| Progress::new("receiving", total.unwrap_or(0)));
        progress.add(&mut self.machine.log, done.saturating_sub(self.shown));
        self.shown = self.shown.max(done);
    }

    fn open(&mut self, target: &Target<'_>) -> Result<Box<dyn Store>, String> {
        if target.split.is_some() || target.cook != Cook::default() {
            return Err("what is packed or split cannot be written to a disk here".to_string());
        }
        if !self.path.is_empty() {
            return Err(format!("{}: a second file cannot go to the same place", self.path));
        }
        let (disk, path, length) = if matches!(self.place, Place::Memory) {
            let path = format!("{}/stage2", fetch::PLACE);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = open(&path, flags, 0o600).map_err(|e| format!("{path}: {}", Shown(e)))?;
            (file, path, None)
        } else {
            let (disk, path) = self.disk(target)?;
            let length = sys::blockdev::length_of(disk.as_fd()).unwrap_or(0);
            let text = format!("OVERWRITES {path}, {}, as soon as a sender begins", Size(length));
            self.machine.log.say(Level::Verdict, &text);
            (disk, path, Some(length))
        };
        self.path.clone_from(&path);
        Ok(Box::new(Disk { disk, path, length, meter: Meter::default(), ended: false }))
    }
}

/// The disk, or the file in memory, that is written.
struct Disk {
    disk: OwnedFd,
    path: String,
    /// Of a disk.
    length: Option<u64>,
    meter: Meter,
    ended: bool,
}

impl Store for Disk {
    fn put(&mut self, bytes: &[u8]) -> Result<usize, String> {
        let some = bytes.get(..bytes.len().min(CHUNK)).unwrap_or_default();
        if self.length.is_none() && available() < SPARE {
            return Err("the second stage does not fit into memory".to_string());
        }
        match write(&self.disk, some) {
            Ok(n) if n > 0 => {
                self.meter.update(some.get(..n).unwrap_or_default());
                Ok(n)
            }
            Ok(_) | Err(Errno::NOSPC) => {
                let length = Size(self.length.unwrap_or(0));
                Err(format!("{}: is too small: it has {length}", self.path))
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
        // Report success only after fdatasync.
        Some(match fdatasync(&self.disk) {
            Ok(()) => Ok(self.meter.digest()),
            Err(e) => Err(format!("{}: cannot be written: {}", self.path, Shown(e))),
        })
    }
}

fn restart(machine: &mut Machine, power_off: bool) {
    let (word, command) = match power_off {
        true => ("powering off", RebootCommand::PowerOff),
        false => {
            ("rebooting; let the boot server send this machine to its disk", RebootCommand::Restart)
        }
    };
    machine.log.say(Level::Verdict, word);
    rustix::fs::sync();
    // virtio's cards are reset at the end, and those with packets on their way then may
    // hold the kernel's only processor for ever.
    if let Ok(mut route) = Route::open() {
        for link in route.links().unwrap_or_default() {
            let _ = route.set_up(link.index, false);
        }
    }
    if let Err(errno) = reboot(command) {
        machine.log.warn(&format!("the kernel refuses: {}", Shown(errno)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cmdline::plan::Then;
    use std::path::PathBuf;

    /// A directory of a test's own.
    fn place(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("clone-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn the_line_chooses_before_the_sender_and_the_only_disk() {
        let one = ["sda".to_string()];
        let two = ["sda".to_string(), "nvme0n1".to_string()];
        assert_eq!(choose(Some("/dev/sdb"), "/dev/hda", &two).unwrap(), "/dev/sdb");
        assert_eq!(choose(None, "/dev/hda", &two).unwrap(), "/dev/hda");
        assert_eq!(choose(None, "", &one).unwrap(), "/dev/sda");
        assert_eq!(choose(None, "", &[]).unwrap_err(), "there is no disk in this machine");
        let which = choose(None, "", &two).unwrap_err();
        assert_eq!(which, "which disk? bw.disk= must name one of sda, nvme0n1");
    }

    #[test]
    fn partitions_and_what_can_be_taken_out_are_no_targets() {
        let class = place("disks");
        let devices: [(&str, &[(&str, &str)]); 7] = [
            ("sda", &[("removable", "0\n"), ("ro", "0\n")]),
            ("sda1", &[("partition", "1\n")]),
            ("sdb", &[("removable", "1\n")]),
            ("vda", &[("ro", "1\n")]),
            ("sr0", &[]),
            ("loop0", &[]),
            ("nvme0n1", &[]),
        ];
        for (name, flags) in devices {
            std::fs::create_dir(class.join(name)).unwrap();
            for (flag, text) in flags {
                std::fs::write(class.join(name).join(flag), text).unwrap();
            }
        }
        let class = class.to_str().unwrap();
        let found: Vec<_> = devices.iter().filter(|d| whole(class, d.0)).map(|d| d.0).collect();
        assert_eq!(found, ["sda", "nvme0n1"]);
        std::fs::remove_dir_all(class).unwrap();
    }

    fn disk(path: &str) -> Disk {
        let disk = open(path, OFlags::WRONLY, 0).unwrap();
        let (path, meter) = (path.to_string(), Meter::default());
        Disk { disk, path, length: Some(4096), meter, ended: false }
    }

    #[test]
    fn a_full_disk_says_how_large_it_is() {
        let why = disk("/dev/full").put(&[7; 9000]).unwrap_err();
        assert_eq!(why, format!("/dev/full: is too small: it has {}", Size(4096)));
    }

    #[test]
    fn what_was_stored_is_what_is_read_back() {
        let dir = place("read-back");
        let path = dir.join("disk");
        // A disk is longer than the copy on it.
        std::fs::write(&path, [1; 9000]).unwrap();
        let path = path.to_str().unwrap();
        let mut store = disk(path);
        let bytes: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
        let mut done = 0;
        while done < bytes.len() {
            done += store.put(&bytes[done..]).unwrap();
        }
        assert!(store.done().is_none(), "more may come");
        store.end();
        let digest = store.done().unwrap().unwrap();
        assert_eq!(digest.bytes, 5000);
        assert_eq!(read_back(path, digest), Ok(()));
        std::fs::write(path, [1; 9000]).unwrap();
        assert!(read_back(path, digest).unwrap_err().contains("HAS OTHER BYTES"));
        std::fs::write(path, [1; 10]).unwrap();
        assert!(read_back(path, digest).is_err(), "a disk that ends early");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn every_protocol_of_a_line_has_a_receiver() {
        for protocol in &cmdline::plan::CLONE_PROTOCOLS {
            assert!(edge::receiver(protocol.name).is_some(), "{}", protocol.name);
        }
        assert_eq!(edge::RECEIVERS.len(), cmdline::plan::CLONE_PROTOCOLS.len());
    }

    #[test]
    fn sessions_of_files_are_told_from_those_of_disks() {
        let files = |line: &str| {
            let plan = cmdline::parse(line, &cmdline::Context::default());
            let Then::Clone(clone) = &plan.handoff.then else { panic!("{line}") };
            by_files(&plan, &clone.method)
        };
        assert!(files("bw.clone=ka") && files("bw.clone=ka:kainstall2"));
        assert!(!files("bw.clone=ka:room1") && !files("bw.clone=udpcast"));
    }
}
