//! Instead of a boot: a disk is received over the network and written, and the
//! machine starts again from it.
//!
//! Written is only the disk that the line names, or the sender, or, when
//! neither does, the only one there is. It is opened before any sender hears of
//! this machine, and exclusively; `clone::guard` has the order in which it is written. Received
//! bytes are passed on before they are stored, and everything stored must be on the disk, and
//! be read back from it, before this end says so.
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
use clone::digest::Meter;
use clone::edge::place::{Place as Opened, marked};
use clone::edge::{self, Here, Pins, Store, Target, World};
use clone::guard::{Announcement, Guard, Kept, Media as _, Pin, Terms};
use clone::outcome::{Patience, Summary};
use cmdline::BootPlan;
use cmdline::plan::{CloneArgument, CloneMethod, ClonePlan, Dialect, Mac, Seconds};
use cmdline::secrets::Private;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, write};
use rustix::system::{RebootCommand, reboot};
use sys::clock::Instant;
use sys::errno::Shown;
use sys::file::{open, stat};
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
/// What that does for files.
const INSTALL: &str = "install";

/// The step, as failures name it.
fn step(clone: &ClonePlan) -> &'static str {
    match clone.method.protocol.name {
        "source" => "send a copy of a disk",
        _ => "receive a copy of a disk",
    }
}

/// Receives, as often as the plan says, and starts the machine anew. Returns
/// when there is no copy.
pub fn receive(machine: &mut Machine, plan: &BootPlan, clone: &ClonePlan) -> Failure {
    if let Err(why) = carried_out(plan, clone) {
        return Failure::new(step(clone), "the line", why)
            .remedy("bw.clone=udpcast, dolly, dollyplus or ka:SESSION, with bw.disk=/dev/sda");
    }
    wait_for_disks(machine);
    let mut failure = Failure::new(step(clone), "nobody", "was asked");
    for attempt in 1..=clone.tries {
        let tried = match hosted(plan, clone) {
            Some(program) => by_host(machine, clone, program),
            None => once(machine, clone),
        };
        match tried {
            Ok(()) => restart(machine, clone.power_off),
            Err(why) => {
                machine.log.warn(&format!("try {attempt} of {}: {why}", clone.tries));
                failure = Failure::new(step(clone), clone.method.protocol.title, why);
            }
        }
    }
    failure
}

/// What this `/init` does not do, said before anything is touched.
fn carried_out(plan: &BootPlan, clone: &ClonePlan) -> Result<(), &'static str> {
    if by_files(plan, &clone.method) && (clone.key.is_some() || clone.digest.is_some()) {
        return Err("bw.clone.key and bw.clone.digest are of whole disks; KA's sessions of files \
                    have neither");
    }
    if hosted(plan, clone).is_some() && tool::find(INSTALLER, &[]).is_none() {
        return Err("this needs the image of `bellwether clone tools` behind the initramfs");
    }
    Ok(())
}

/// The command of the host that does it.
fn hosted(plan: &BootPlan, clone: &ClonePlan) -> Option<&'static str> {
    match by_files(plan, &clone.method) {
        true => Some(INSTALL),
        false => clone.program(),
    }
}

/// One try of what the host's command does: everything but the network is its.
fn by_host(machine: &mut Machine, clone: &ClonePlan, program: &str) -> Result<(), Fault> {
    machine.network.up().ok_or("the network is not up")?;
    let command = tool::find(INSTALLER, &[]).ok_or("the installer is gone")?;
    let installs = program == INSTALL;
    let mut disk = named(machine, clone)?;
    if !installs {
        disk = Some(choose(disk.as_deref(), "", &disks(machine, program != "source"))?);
    }
    let timeout = clone.timeout.0.to_string();
    let mut words = Vec::from(["clone", program, "--timeout", &timeout]);
    words.extend(clone.options.iter().map(String::as_str));
    if let Some(disk) = disk.as_deref().filter(|_| program == "source") {
        sys::blockdev::set_read_only(disk, true).map_err(Fault::on(disk))?;
    } else if !installs && !clone.verify {
        words.push("--no-read-back");
    }
    let most = if installs { 1 } else { usize::MAX };
    let from: Vec<String> = clone.from.iter().take(most).map(ToString::to_string).collect();
    let (from, key) = (from.join(","), value(&clone.key).unwrap_or_default());
    for (option, value) in [
        (if installs { "--host" } else { "--from" }, from.as_str()),
        ("--key", &key),
        ("--port", if installs { "" } else { &clone.method.argument }),
        (if installs { "--disk" } else { "--" }, disk.as_deref().unwrap_or_default()),
    ] {
        if !value.is_empty() {
            words.extend([option, value]);
        }
    }
    command.run(&words)?;
    machine.log.say(Level::Verdict, "copy complete");
    Ok(())
}

/// The value of a word that is not shown.
fn value(word: &Option<Private>) -> Option<String> {
    let (_, value) = word.as_ref()?.reveal().split_once('=')?;
    Some(value.to_string())
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

/// Until the bus is silent and there is a disk, or it is clear that none comes.
pub fn wait_for_disks(machine: &mut Machine) {
    let deadline = Instant::now().after(DISKS);
    machine.log.info("looking for disks");
    while (disks(machine, false).is_empty() || !machine.settled()) && !deadline.is_past() {
        let next = machine.quiet_at().max(Instant::now().after(Duration::from_millis(50)));
        machine.wait(&[], Some(next.min(deadline)));
    }
}

/// The names of all whole disks that could be a source, or, if one is `written`, a target.
fn disks(machine: &Machine, written: bool) -> Vec<String> {
    let disk = |name: &&str| whole("/sys/class/block", name, written);
    machine.blocks().filter(disk).map(ToString::to_string).collect()
}

/// Whether the device of this name, described below `class`, is a whole disk that stays
/// and, if it is to be `written`, can be.
fn whole(class: &str, name: &str, written: bool) -> bool {
    let read = |what: &str| sys::file::read_file(&format!("{class}/{name}/{what}"), 16);
    let flag = |what: &str| read(what).is_ok_and(|text| text.starts_with(b"1"));
    !NO_DISKS.iter().any(|no| name.starts_with(no))
        && read("partition").is_err()
        && !flag("removable")
        && (!written || !flag("ro"))
}

/// The path of the disk to write: the line's, the sender's, or that of the only disk.
fn choose(line: Option<&str>, sender: &str, disks: &[String]) -> Result<String, Fault> {
    match (line, sender, disks) {
        (Some(path), _, _) => Ok(path.to_string()),
        (None, "", [one]) => Ok(format!("/dev/{one}")),
        (None, "", []) => Err("there is no disk in this machine".into()),
        (None, "", all) => {
            Err(format!("which disk? bw.disk= must name one of {}", all.join(", ")).into())
        }
        (None, path, _) => Ok(path.to_string()),
    }
}

/// The disks of this machine that hold an interrupted copy, for the failure screen.
pub fn interrupted(machine: &Machine) -> Vec<String> {
    let mark = |disk: String| {
        let path = format!("/dev/{disk}");
        marked(&path).map(|mark| format!("{path} {mark}: it does not boot until a copy is whole"))
    };
    disks(machine, true).into_iter().filter_map(mark).collect()
}

/// One try.
fn once(machine: &mut Machine, clone: &ClonePlan) -> Result<(), Fault> {
    let disk = named(machine, clone)?;
    let pin = clone.digest.as_deref().and_then(Pin::parse);
    let terms = Terms { read_back: clone.verify, pin };
    let mut node = Node::new(machine, Place::Disk(disk, terms));
    let pins = Pins {
        from: clone.from.clone(),
        key: value(&clone.key).as_deref().and_then(clone::pact::Key::new),
        password: value(&clone.password),
    };
    node.take(&clone.method, clone.timeout, pins)?;
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
    let taken = node.take(&method, timeout.unwrap_or(STAGE2), Pins::default());
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

/// What a source shows of a target: its hardware address, its disk and that one's size.
fn announcement(mac: Option<[u8; 6]>, disk: Option<&str>) -> String {
    let mac = mac.map(|mac| Mac(mac).to_string()).unwrap_or_default();
    let disk = disk.unwrap_or("no disk");
    let size = sys::blockdev::length(disk).map_or_else(|_| String::new(), |n| Size(n).to_string());
    let name = disk.rsplit('/').next().unwrap_or(disk);
    format!("{mac} {name} {size}")
}

/// Where a copy goes.
enum Place {
    /// To the disk that the line names, or else to the one of the rule.
    Disk(Option<String>, Terms),
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
    fn take(&mut self, method: &CloneMethod, timeout: Seconds, pins: Pins) -> Result<(), Fault> {
        let up = self.machine.network.up().ok_or("the network is not up")?;
        let address = up.config.address;
        let target = (method.protocol.name == "target").then(|| {
            let disk = match &self.place {
                Place::Disk(line, _) => {
                    choose(line.as_deref(), "", &disks(self.machine, true)).ok()
                }
                Place::Memory => None,
            };
            announcement(up.mac, disk.as_deref())
        });
        let names = [Some(address.to_string()), host_name(), target];
        let names = names.into_iter().flatten().collect();
        let here = Here {
            address,
            broadcast: up.config.broadcast.unwrap_or(Ipv4Addr::BROADCAST),
            names,
            listen: Ipv4Addr::UNSPECIFIED,
            patience: Patience { start: Some(timeout.into()), stall: Some(STALL) },
            pins,
        };
        let receive = edge::receiver(method.protocol.name).ok_or(
            "this /init has no such protocol; build it with the feature room, or name another",
        )?;
        let got = receive(&method.argument, &here, self).map_err(|e| e.to_string())?;
        let began = self.began.unwrap_or_else(|| self.now());
        let took = self.now().saturating_sub(began);
        let (digests, came, unpacked) = (&got.digests[..], got.came, got.unpacked);
        let summary = Summary { digests, took, came, unpacked, verdict: got.verdict() };
        self.machine.log.say(Level::Verdict, &format!("copy complete: {summary}"));
        match got.digests.is_empty() {
            true => Err("the sender sent no file".into()),
            false => Ok(()),
        }
    }

    /// The disk to write, opened exclusively.
    fn disk(&mut self, line: Option<&str>, target: &Target<'_>) -> Result<Opened, Fault> {
        let disks = disks(self.machine, true);
        let path = choose(line, target.path, &disks)?;
        let kind = stat(&path).map(|s| FileType::from_raw_mode(s.st_mode));
        match kind {
            Ok(FileType::BlockDevice) => {}
            Ok(_) => return Err(Fault::from("is no disk").of(&path)),
            Err(_) => {
                let why = format!("no such disk; here: {}", disks.join(", "));
                return Err(Fault::from(why).of(&path));
            }
        }
        Opened::open(&path, true).map_err(|e| Fault::from(e.to_string()))
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

    #[cfg(feature = "room")]
    fn places(&mut self) -> Result<Vec<Opened>, String> {
        let Place::Disk(line, _) = &self.place else {
            return Err("the second stage is no disk".to_string());
        };
        let line = line.clone();
        let disk = self.disk(line.as_deref(), &Target::UNNAMED)?;
        self.path = disk.name().to_string();
        if let Some(mark) = marked(&self.path) {
            self.machine.log.say(Level::Verdict, &format!("{} {mark}", self.path));
        }
        let length = Size(disk.room().unwrap_or(0));
        let text =
            format!("OVERWRITES {}, {length}, where it differs from the sender's", self.path);
        self.machine.log.say(Level::Verdict, &text);
        Ok(Vec::from([disk]))
    }

    #[cfg(feature = "room")]
    fn pinned(&self) -> Option<&Pin> {
        match &self.place {
            Place::Disk(_, terms) => terms.pin.as_ref(),
            Place::Memory => None,
        }
    }

    #[cfg(feature = "room")]
    fn reads_back(&self) -> bool {
        matches!(&self.place, Place::Disk(_, terms) if terms.read_back)
    }

    fn open(&mut self, target: &Target<'_>) -> Result<Box<dyn Store>, String> {
        if target.split.is_some() || target.cook != Cook::default() {
            return Err("what is packed or split cannot be written to a disk here".to_string());
        }
        if !self.path.is_empty() {
            return Err(format!("{}: a second file cannot go to the same place", self.path));
        }
        let (line, terms) = match &self.place {
            Place::Disk(line, terms) => (line.clone(), terms.clone()),
            Place::Memory => {
                self.path = format!("{}/stage2", fetch::PLACE);
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = open(&self.path, flags, 0o600);
                let file = file.map_err(|e| format!("{}: {}", self.path, Shown(e)))?;
                return Ok(Box::new(Memory { file, meter: Meter::default(), ended: false }));
            }
        };
        let disk = self.disk(line.as_deref(), target)?;
        self.path = disk.name().to_string();
        if let Some(mark) = marked(&self.path) {
            self.machine.log.say(Level::Verdict, &format!("{} {mark}", self.path));
        }
        let length = Size(disk.room().unwrap_or(0));
        let text = format!("OVERWRITES {}, {length}, as soon as a sender begins", self.path);
        self.machine.log.say(Level::Verdict, &text);
        Ok(Box::new(Disk { guard: Guard::new(disk, terms), ended: false }))
    }
}

/// The disk that is written.
struct Disk {
    guard: Guard<Opened>,
    ended: bool,
}

impl Store for Disk {
    fn announce(&mut self, told: &Announcement) -> Result<(), String> {
        self.guard.announce(told).map_err(|e| e.to_string())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize, String> {
        self.guard.put(bytes).map_err(|e| e.to_string())
    }

    fn end(&mut self) {
        self.ended = true;
    }

    fn done(&mut self) -> Option<Result<Kept, String>> {
        if !self.ended {
            return None;
        }
        self.guard.finish().map_err(|e| e.to_string()).transpose()
    }
}

/// The file in memory that is written.
struct Memory {
    file: OwnedFd,
    meter: Meter,
    ended: bool,
}

impl Store for Memory {
    fn put(&mut self, bytes: &[u8]) -> Result<usize, String> {
        let some = bytes.get(..bytes.len().min(CHUNK)).unwrap_or_default();
        if available() < SPARE {
            return Err("the second stage does not fit into memory".to_string());
        }
        match write(&self.file, some) {
            Ok(n) => {
                self.meter.update(some.get(..n).unwrap_or_default());
                Ok(n)
            }
            Err(Errno::INTR | Errno::AGAIN) => Ok(0),
            Err(e) => Err(format!("the second stage cannot be stored: {}", Shown(e))),
        }
    }

    fn end(&mut self) {
        self.ended = true;
    }

    fn done(&mut self) -> Option<Result<Kept, String>> {
        self.ended.then(|| Ok(Kept::unread(self.meter.digest())))
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
        let none = choose(None, "", &[]).unwrap_err().to_string();
        assert_eq!(none, "there is no disk in this machine");
        let which = choose(None, "", &two).unwrap_err().to_string();
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
        let found = |written| -> Vec<_> {
            devices.iter().filter(|d| whole(class, d.0, written)).map(|d| d.0).collect()
        };
        assert_eq!(found(true), ["sda", "nvme0n1"]);
        // A source is set read-only, and must be found again by the next try.
        assert_eq!(found(false).len(), 3);
        std::fs::remove_dir_all(class).unwrap();
    }

    #[test]
    fn a_target_is_known_by_its_card_and_its_disk() {
        assert_eq!(announcement(Some([82, 84, 0, 0, 0, 9]), None), "52:54:00:00:00:09 no disk ");
    }

    #[test]
    fn every_protocol_of_a_line_has_a_receiver() {
        for protocol in &cmdline::plan::CLONE_PROTOCOLS {
            // Another crate of the workspace may have turned the room's feature of `clone` on.
            let own = match protocol.name {
                "room" | "target" | "image" => cfg!(feature = "room"),
                // The host's command.
                "source" => false,
                _ => true,
            };
            assert!(edge::receiver(protocol.name).is_some() || !own, "{}", protocol.name);
        }
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
