//! The machine under us: its drivers, its block devices, and waiting for
//! something to happen.
//!
//! One poll for everything: uevents, drivers that finish loading, whatever a
//! step brings along. Nothing here sleeps.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::CStr;
use core::time::Duration;

use cmdline::BootPlan;
use cmdline::plan::{DeviceSelector, Seconds, Source};
use cmdline::secrets::PrivateLine;
use coldplug::index::{Class, Index};
use coldplug::load::{Event, Loader, Policy, Reason};
use coldplug::{sysfs, uevent};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd};
use sys::clock::{Instant, poll_timeout};
use sys::errno::Shown;
use sys::loopdev::Loop;
#[cfg(feature = "full")]
use sys::process::Child;

use crate::device;
use crate::link::Network;
use crate::log::Log;
#[cfg(feature = "full")]
use crate::stuck::Watcher;
use crate::trace::Trace;

/// Where the image keeps the index of its modules.
const INDEX: &str = "/lib/bellwether/modules.idx";

/// Largest index read: that of a whole distribution kernel is under 2 MiB.
const MAX_INDEX: usize = 16 << 20;

/// How long the bus must be silent before devices count as settled. Disks may
/// announce themselves long after their driver is loaded; a step that must
/// choose between devices waits this long after the last one came.
const QUIET: Duration = Duration::from_millis(150);

/// SCSI hosts are scanned in the context of the driver that found them, and each
/// disk is there the moment it answers; in the kernel's background scan none is
/// there before the last address of the bus was asked.
const SCAN: &[(&str, &str)] = &[("scsi_mod", "scan=sync")];

/// The scan's kernel default, which the live system gets back.
const SCAN_AFTER: (&str, &[u8]) = ("/sys/module/scsi_mod/parameters/scan", b"async");

/// What the boot loader asked for.
#[derive(Debug)]
pub struct Orders {
    /// What is made of the line.
    pub plan: &'static BootPlan,
    /// The command line as it arrived.
    pub line: &'static PrivateLine,
    /// The environment that the kernel made of the line.
    pub env: Vec<&'static CStr>,
}

/// Ends a boot that took too long.
pub type OutOfTime = fn(&mut Machine) -> !;

/// The machine under us.
#[derive(Debug)]
pub struct Machine {
    /// What this boot is to do.
    pub orders: Orders,
    /// When this try of the boot counts as failed.
    deadline: Option<Instant>,
    /// How long a try may take, and what ends one that takes longer.
    limit: Option<(Seconds, OutOfTime)>,
    /// What we say.
    pub log: Log,
    /// The network, which comes up inside [`Self::wait`].
    pub network: Network,
    /// What happened, for the record.
    pub trace: Trace,
    /// Who sees to it that the deadline holds when this process is stuck in the kernel.
    #[cfg(feature = "full")]
    pub watcher: Option<Watcher>,
    /// The processes that keep network block devices, by the devices' numbers.
    #[cfg(feature = "full")]
    pub keepers: Vec<(u32, Child)>,
    /// The initramfs is not what was made: it explains whatever fails later.
    pub damaged: bool,
    drivers: Loader<'static>,
    uevents: Option<uevent::Socket>,
    /// Sorted.
    blocks: Vec<String>,
    /// Loop devices that something is to be mounted from.
    pub held: Vec<Loop>,
    /// Grows whenever a block device comes, changes or goes; not for those that the
    /// boot itself makes.
    pub block_changes: u64,
    last_event: Instant,
}

impl Machine {
    /// Reads the index and gets ready to load; loads nothing yet.
    #[must_use]
    pub fn new(mut log: Log, orders: Orders, classes: Class) -> Self {
        let plan = &orders.plan.drivers;
        let ours = SCAN.iter().map(|(module, option)| (module.to_string(), option.to_string()));
        let lines = plan.options.iter().map(|line| (line.module.clone(), line.option.clone()));
        let policy = Policy {
            classes,
            blacklist: plan.blacklist.clone(),
            // The line's come last and win.
            options: ours.chain(lines).collect(),
            // Where the line has a disk by its number, numbers are given as ever.
            patient: matches!(
                orders.plan.root.sources.first(),
                Some(Source::Scan(_) | Source::Device(DeviceSelector::Label(_)))
            ),
        };
        let index = read_index(&mut log);
        let uevents = uevent::Socket::open()
            .map_err(|errno| {
                log.warn(&format!("no uevents, devices may go unseen: {}", Shown(errno)))
            })
            .ok();
        Self {
            orders,
            deadline: None,
            limit: None,
            log,
            network: Network::default(),
            trace: Trace::default(),
            held: Vec::new(),
            #[cfg(feature = "full")]
            watcher: None,
            #[cfg(feature = "full")]
            keepers: Vec::new(),
            damaged: index.is_none(),
            drivers: Loader::new(index.unwrap_or_else(Index::empty), policy),
            uevents,
            blocks: Vec::new(),
            block_changes: 0,
            last_event: Instant::now(),
        }
    }

    /// Starts the drivers of every device that is there; those that come later
    /// follow by themselves while [`Self::wait`] runs.
    pub fn coldplug(&mut self) {
        self.walk();
        self.settle_events();
    }

    /// Takes in every device that is there.
    fn walk(&mut self) {
        let drivers = &mut self.drivers;
        if let Err(errno) = sysfs::each_modalias(&mut |modalias| drivers.device(modalias)) {
            let why = Shown(errno).to_string();
            let what = ["cannot walk /sys/bus: ", &why, "; only built-in drivers serve"];
            self.log.warn(&what.concat());
        }
        self.find_blocks();
    }

    /// Loads a module that the plan needs and waits for it. What the kernel has
    /// built in is fine; a failure is a warning, because the step that needs it
    /// will say what it could not do.
    pub fn require(&mut self, module: &str) -> bool {
        let result = self.drivers.require(module);
        self.say_driver_events();
        match result {
            Ok(()) => true,
            // The index may not know what is built in: the kernel does.
            Err(error)
                if cfg!(feature = "full")
                    && error.reason == Reason::NotInImage
                    && in_kernel(TOP, module) =>
            {
                true
            }
            Err(error) => {
                self.log.detail(&error.to_string());
                false
            }
        }
    }

    /// Adds options for a module that is not loaded yet; those of the line win.
    pub fn module_options(&mut self, module: &str, options: &str) {
        self.drivers.add_options(module, options);
    }

    /// Whether the image has a module of this name.
    #[must_use]
    pub fn has(&self, module: &str) -> bool {
        self.drivers.has(module)
    }

    /// Names of the block devices that are there (`sda`, `sda1`, `sr0`), sorted.
    pub fn blocks(&self) -> impl Iterator<Item = &str> {
        self.blocks.iter().map(String::as_str)
    }

    /// What [`Self::wait`] calls when a try takes longer than the plan says. The
    /// small `/init` keeps no time.
    pub fn limit(&mut self, out_of_time: OutOfTime) {
        let limit = self.orders.plan.failure.deadline.filter(|_| cfg!(feature = "full"));
        self.limit = limit.map(|limit| (limit, out_of_time));
    }

    /// A try of the boot begins, which has as long as the plan says.
    pub fn start_clock(&mut self) {
        self.deadline = self.limit.map(|(limit, _)| Instant::now().after(limit.into()));
        self.tell_watcher();
    }

    /// The deadline is off: a user is at the console, or the boot is over.
    pub fn stop_clock(&mut self) {
        self.deadline = None;
        self.tell_watcher();
    }

    fn tell_watcher(&self) {
        #[cfg(feature = "full")]
        if let Some(watcher) = &self.watcher {
            watcher.tell(self.trace.latest(), self.deadline);
        }
    }

    /// A step of the boot begins.
    pub fn step(&mut self, name: &'static str) {
        rt::set_step(name);
        let at = self.log.elapsed();
        self.trace.step(name, at);
        self.tell_watcher();
    }

    /// Starts this program again, which reads the line again. Returns when the kernel
    /// refuses.
    pub fn start_anew(&mut self) {
        let errno = sys::process::exec(c"/proc/self/exe", &[c"/init"], &self.orders.env);
        self.log.warn(&format!("/init cannot be started again: {}", Shown(errno)));
    }

    /// Undoes what was set for the boot alone, before the real init takes over.
    pub fn back_to_normal(&mut self) {
        let (path, value) = SCAN_AFTER;
        // There is no such file where SCSI is not loaded.
        let _ = sys::file::write_file(path, value, 0);
        set_urgent(false);
    }

    /// Whether no driver is being loaded and the bus has been silent a while.
    #[must_use]
    pub fn settled(&self) -> bool {
        !self.drivers.busy() && self.quiet_at().is_past()
    }

    /// When the silence will have lasted long enough.
    #[must_use]
    pub fn quiet_at(&self) -> Instant {
        self.last_event.after(QUIET)
    }

    /// Waits until something happens or `deadline` has come, and deals with uevents
    /// and drivers. `extra` are descriptors that a step waits for; whether they are
    /// readable is for it to find out. When the whole boot's time is over, this ends it and does not return.
    pub fn wait(&mut self, extra: &[BorrowedFd<'_>], deadline: Option<Instant>) {
        // What is there did not do.
        self.drivers.release();
        // A settled bus is something that happens, too: the network waits for it.
        let quiet = (!self.settled() && !self.drivers.busy()).then(|| self.quiet_at());
        let deadlines = [deadline, self.network.deadline(), quiet, self.deadline];
        let deadline = deadlines.into_iter().flatten().min();
        let timeout = poll_timeout(deadline, Instant::now());
        {
            let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(extra.len() + 10);
            let all = self.drivers.fds().chain(self.uevents.as_ref().map(AsFd::as_fd));
            for fd in all.chain(self.network.fds()).chain(extra.iter().copied()) {
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            }
            // An interrupted poll is looked at like any other: every descriptor is tried.
            let _ = poll(&mut fds, timeout.as_ref());
        }
        // The small /init starts nothing that leaves orphans, and keeps no time.
        if cfg!(feature = "full") {
            sys::process::reap_orphans();
            self.keep_time();
        }
        // In this order: what a driver that is done has found is known before the slow ones start.
        self.drivers.on_ready();
        self.settle_events();
        let settled = self.settled();
        self.network.on_ready(&mut self.log, settled);
    }

    /// Ends this try of the boot when its time is over, and does not return then: for work that
    /// does not [wait](Self::wait).
    pub fn keep_time(&mut self) {
        if let Some((_, out_of_time)) = self.limit
            && self.deadline.is_some_and(Instant::is_past)
        {
            out_of_time(self);
        }
    }

    /// When this try of the boot counts as failed, where the line limits it.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Takes in what the kernel has announced so far.
    fn settle_events(&mut self) {
        let Some(uevents) = &mut self.uevents else { return };
        let drivers = &mut self.drivers;
        let blocks = &mut self.blocks;
        let protected = &self.orders.plan.root.protect;
        let log = &mut self.log;
        let (mut seen, mut block_changes) = (false, 0);
        let lost = uevents.receive(&mut |event| {
            seen = true;
            if event.action == "add" && !event.modalias.is_empty() {
                drivers.device(event.modalias);
            }
            if event.subsystem == "block" && !event.devname.is_empty() {
                block_changes += u64::from(!is_ours(event.devname));
                if event.action == "remove" {
                    blocks.retain(|name| name != event.devname);
                } else if add(blocks, event.devname) {
                    device::protect(log, protected, event.devname);
                }
            }
        });
        self.block_changes += block_changes;
        if seen {
            self.last_event = Instant::now();
        }
        if lost {
            self.log.warn(
                "the kernel announced more devices than could be heard; walking the buses again",
            );
            self.walk();
        }
        self.say_driver_events();
    }

    fn find_blocks(&mut self) {
        for name in sysfs::names("/sys/class/block").unwrap_or_default() {
            // A slash in a device's name is a ! in sysfs.
            let name = name.replace('!', "/");
            if add(&mut self.blocks, &name) {
                device::protect(&mut self.log, &self.orders.plan.root.protect, &name);
                self.block_changes += 1;
            }
        }
    }

    fn say_driver_events(&mut self) {
        for event in self.drivers.take_events() {
            match event {
                Event::Loaded(name) => self.log.detail(&format!("driver {name}")),
                // A driver that finds nothing to drive is no news.
                Event::Failed(error)
                    if error.reason == Reason::Kernel(rustix::io::Errno::NODEV) =>
                {
                    self.log.detail(&error.to_string());
                }
                Event::Failed(error) => {
                    self.damaged |= error.reason == Reason::Open(rustix::io::Errno::NOENT);
                    self.log.warn(&error.to_string());
                }
            }
        }
    }
}

/// Whether a block device is one that the boot itself makes: what it does with them
/// is no news to it.
fn is_ours(name: &str) -> bool {
    ["loop", "dm-", "nbd", "ram", "zram"].iter().any(|kind| name.starts_with(kind))
}

/// Puts this process before the kernel's own probing, so that the rest of a bus
/// is searched while the root that was found on it starts; or back.
pub fn set_urgent(urgent: bool) {
    // It is only faster.
    let _ = rustix::process::setpriority_process(None, if urgent { -20 } else { 0 });
}

/// Adds a name to a sorted list; returns whether it is new.
fn add(names: &mut Vec<String>, name: &str) -> bool {
    match names.binary_search_by(|known| known.as_str().cmp(name)) {
        Ok(_) => false,
        Err(at) => {
            names.insert(at, name.to_string());
            true
        }
    }
}

/// The directory of `/proc` and `/sys`; a test's machine has no kernel.
const TOP: &str = if cfg!(test) { "/nowhere" } else { "" };

/// Whether a kernel has this built in, or loaded: a file system (`fs-…`), or a module that
/// has parameters.
fn in_kernel(top: &str, module: &str) -> bool {
    let Some(fs_type) = module.strip_prefix("fs-") else {
        return sys::file::exists(&format!("{top}/sys/module/{module}"));
    };
    let known = sys::file::read_file(&format!("{top}/proc/filesystems"), 16 << 10);
    // "nodev" before those without a device.
    String::from_utf8_lossy(&known.unwrap_or_default())
        .lines()
        .any(|line| line.rsplit('\t').next() == Some(fs_type))
}

/// The index; an empty one with a word why when there is none, for a kernel with
/// everything built in needs none; nothing when it is damaged.
fn read_index(log: &mut Log) -> Option<Index<'static>> {
    let (index, why) = match sys::file::read_file(INDEX, MAX_INDEX) {
        Ok(bytes) => match Index::parse(bytes.leak()) {
            Ok(index) => return Some(index),
            Err(error) => (None, error.to_string()),
        },
        Err(errno) => (Some(Index::empty()), Shown(errno).to_string()),
    };
    log.warn(&[INDEX, ": ", &why, "; only built-in drivers serve"].concat());
    index
}

#[cfg(test)]
pub(crate) mod tests {
    use liveroot::NetworkUp;
    use rustix::pipe::pipe;

    use super::*;

    #[test]
    fn what_is_built_in_is_the_kernel_s_to_say() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(top.path().join("sys/module/nbd")).unwrap();
        std::fs::create_dir(top.path().join("proc")).unwrap();
        let known = "nodev\tsysfs\n\text4\nnodev\taufs\n";
        std::fs::write(top.path().join("proc/filesystems"), known).unwrap();
        let known = |module| in_kernel(top.path().to_str().unwrap(), module);
        assert!(known("fs-aufs") && known("fs-ext4") && known("nbd"));
        assert!(!known("fs-fs") && !known("fs-xfs") && !known("brd") && !known("fs-"));
        assert!(!in_kernel(TOP, "fs-sysfs"), "a test's machine has no kernel");
    }

    /// A machine for a line, on the kernel that runs the test; no driver is loaded.
    pub fn machine(line: &'static str) -> Machine {
        let plan = cmdline::parse(line, &cmdline::Context::default());
        let line = Box::leak(Box::new(PrivateLine::new(line.to_string())));
        let orders = Orders { plan: Box::leak(Box::new(plan)), line, env: Vec::new() };
        Machine::new(Log::open(), orders, Class::BUS)
    }

    /// A boot link that DHCP has set up.
    pub fn boot_link() -> NetworkUp {
        let plan = cmdline::parse("root=/dev/nfs ip=dhcp", &cmdline::Context::default());
        liveroot::example::link(plan.network.as_ref().unwrap())
    }

    #[test]
    fn a_wait_ends_with_what_it_waits_for() {
        let mut machine = machine("");
        let (ready, write) = pipe().unwrap();
        let far = Instant::now().after(Duration::from_secs(3600));
        rustix::io::write(&write, b"x").unwrap();
        machine.wait(&[ready.as_fd()], Some(far));
        assert!(!far.is_past());
        assert_eq!(rustix::io::ioctl_fionread(&ready), Ok(1), "the byte is the step's to read");
    }

    #[test]
    fn a_wait_ends_with_its_deadline() {
        let mut machine = machine("");
        let (silent, _write) = pipe().unwrap();
        let soon = Instant::now().after(Duration::from_millis(5));
        while !soon.is_past() {
            machine.wait(&[silent.as_fd()], Some(soon));
        }
        machine.wait(&[silent.as_fd()], Some(Instant::ZERO));
    }

    #[test]
    fn the_bus_settles_after_a_silence_and_that_ends_a_wait() {
        let mut machine = machine("");
        machine.last_event = Instant::now();
        assert!(!machine.settled());
        // Without a deadline: only the silence ends this.
        while !machine.settled() {
            machine.wait(&[], None);
        }
        assert!(machine.quiet_at().is_past());
    }

    #[test]
    #[should_panic = "out of time"]
    fn a_try_that_takes_too_long_is_ended() {
        let mut machine = machine("boot=live");
        machine.limit = Some((Seconds(0), |_| panic!("out of time")));
        machine.wait(&[], Some(Instant::ZERO));
        machine.start_clock();
        machine.wait(&[], Some(Instant::ZERO));
    }

    #[test]
    fn a_boot_that_is_over_has_no_hurry() {
        let mut machine = machine("boot=live");
        machine.limit = Some((Seconds(0), |_| panic!("out of time")));
        machine.start_clock();
        machine.stop_clock();
        machine.wait(&[], Some(Instant::ZERO));
    }

    #[test]
    fn block_devices_are_listed_once_and_sorted_and_those_of_the_boot_are_no_news() {
        let mut names = Vec::new();
        let news: Vec<bool> =
            ["sdb", "sda", "sdb", "sda1"].iter().map(|name| add(&mut names, name)).collect();
        assert_eq!(news, [true, true, false, true]);
        assert_eq!(names, ["sda", "sda1", "sdb"]);
        let ours = ["loop3", "dm-0", "nbd1", "zram0"].iter().all(|name| is_ours(name));
        assert!(ours && !["sda", "nvme0n1", "mmcblk0", "vda"].iter().any(|name| is_ours(name)));
    }
}
