//! Where changes are kept from one boot to the next: finding the volume, making
//! it usable, and saying why not when it is not found.
//!
//! A volume is a file system of its own, an image file on one, or a directory
//! on one; on a local device, on the medium itself, on an NFS server or, as a file
//! system of its own, behind an NBD server.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::plan::{DeviceSelector, Dialect, Mac, PersistPlan, Source};
use overlay::persistence_conf::{self, Entry, How};
use overlay::probe::Format;
use overlay::switch::remove_below;
use overlay::union::mount_overlay;
use rustix::fs::{Access, Mode, OFlags, access, ftruncate, open, statfs};
use rustix::mount::{MountFlags, mount_bind, mount_remount};
use sys::errno::Shown;
use sys::file::{make_dir, read_file};
use sys::mount::detach;

use crate::block::{self, MountWith};
use crate::copy::{self, Progress};
use crate::device::{self, without_udev};
use crate::layers::{ROOT, like};
use crate::layout::Layout;
use crate::log::now_ms;
use crate::machine::Machine;
use crate::source::Found;
use crate::trace::Refusal;
use crate::{network, tool};

/// Longest `persistence.conf`, and longest table of mounts, that is read.
const MAX_CONF: usize = 256 << 10;

/// The name of that file.
const CONF: &str = "persistence.conf";

/// How long the bus must be silent before a volume that the line asks for counts as
/// not there: a USB stick says nothing for a second after its controller is up.
const PATIENCE_MS: u64 = 3000;

/// How long a volume is waited for at least, even on a silent bus: the root may have
/// been found seconds before a slower disk, or behind another hub, says anything.
const AT_LEAST_MS: u64 = 8000;

/// How long a volume may take at most, however busy the bus is.
const WAIT_MS: u64 = 30_000;

/// How long a server is waited for that changes are kept on: after a power cut it may
/// start later than the one that the root came from.
const SERVER_MS: u64 = 60_000;

/// The pause before it is asked again.
const PAUSE_MS: u64 = 2000;

/// Size of an image file that is made when the line names none.
const DEFAULT_SIZE: u64 = 1 << 30;

/// Casper never keeps these in the upper directory: they are not of the root.
const NOT_ROOT: &[&str] = &["lost+found", "log", "crash", "upper", "work"];

/// A mounted file system that may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Where.
    pub mounted: String,
    /// What it is on, for people.
    pub device: String,
    /// Its file system; `None` for one over the network.
    format: Option<Format>,
    label: String,
    uuid: String,
    mac: Option<Mac>,
}

impl Volume {
    /// A path of the line with its variables filled in.
    #[must_use]
    pub fn expand(&self, path: &str) -> String {
        expand(path, &self.label, &self.uuid, self.mac)
    }

    /// Bytes that are free.
    #[must_use]
    pub fn free(&self) -> u64 {
        statfs(self.mounted.as_str()).map_or(0, |stat| {
            stat.f_bavail.saturating_mul(u64::try_from(stat.f_bsize).unwrap_or(0))
        })
    }

    /// Whether overlayfs can put its upper layer here.
    fn can_be_upper(&self) -> Result<(), String> {
        match self.format {
            None => Err(format!("{} is a network directory", self.device)),
            Some(Format::Vfat | Format::Exfat | Format::Ntfs) => {
                Err(format!("{} is {}", self.device, self.format.map_or("", Format::name)))
            }
            Some(_) => Ok(()),
        }
        .map_err(|what| {
            format!("{what}, which cannot hold changes as files; keep them in an image file on it")
        })
    }
}

fn expand(path: &str, label: &str, uuid: &str, mac: Option<Mac>) -> String {
    let mut text = path.replace("{label}", label).replace("{uuid}", uuid);
    if text.contains("{mac}") {
        let mac = mac.map_or_else(
            || "no-mac".to_string(),
            |mac| {
                let bytes: Vec<String> = mac.0.iter().map(|byte| format!("{byte:02x}")).collect();
                bytes.join("-")
            },
        );
        text = text.replace("{mac}", &mac);
    }
    // A label may hold anything: it names one entry, and leads nowhere.
    let parts: Vec<&str> =
        text.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
    format!("/{}", parts.join("/"))
}

/// What a plan's place is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A device without a file system.
    Raw(String),
    /// A mounted file system.
    Volume(Volume),
}

/// Everything that looking for a volume needs.
struct Hunt<'h> {
    machine: &'h mut Machine,
    plan: &'h PersistPlan,
    found: &'h Found,
    /// The image's trees, for their programs.
    layers: &'h [String],
    place: &'static str,
    why: String,
    /// Since when it is looked for.
    since: u64,
    waiting: bool,
}

/// A place for a snapshot's store.
///
/// # Errors
/// Why there is none, in words.
pub fn find_place(
    machine: &mut Machine,
    plan: &PersistPlan,
    found: &Found,
    layout: Layout,
) -> Result<Place, String> {
    let mut hunt = Hunt::new(machine, plan, found, &[], layout);
    if let Some(device) = hunt.plan.device.clone() {
        let path = hunt.device(&device)?;
        return match block::inspect(&path) {
            Ok(found) if found.format.fs_type().is_some() => hunt.mount(&path).map(Place::Volume),
            Ok(found) => Err(format!("{path} is {}", found.format)),
            Err(_) => Ok(Place::Raw(path)),
        };
    }
    hunt.volume().map(Place::Volume)
}

/// What is kept, once it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What it is on, for people.
    pub origin: String,
    /// The upper and work directories of the root, when changes of the whole
    /// root are kept.
    pub root: Option<(String, String)>,
    /// Single directories that are kept.
    entries: Vec<(String, Entry)>,
    home: Option<String>,
    read_only: bool,
}

/// Finds what the plan keeps changes on, and makes it ready.
///
/// # Errors
/// Why not, in words: what was looked for, and what is wrong with what is there.
pub fn find(
    machine: &mut Machine,
    plan: &PersistPlan,
    found: &Found,
    layers: &[String],
    layout: Layout,
    dialect: Dialect,
) -> Result<Kept, String> {
    let mut hunt = Hunt::new(machine, plan, found, layers, layout);
    let volume = hunt.volume();
    let home = hunt.home();
    let volume = match volume {
        Ok(volume) => volume,
        Err(_) if home.is_some() => {
            let origin = "the home volume".to_string();
            return Ok(Kept {
                origin,
                root: None,
                entries: Vec::new(),
                home,
                read_only: plan.read_only,
            });
        }
        Err(why) => return Err(why),
    };
    let (base, origin) = hunt.base(&volume)?;
    let conf = format!("{}/{CONF}", base.mounted);
    if plan.reset {
        machine.log.info(&format!("emptying the kept changes on {origin}"));
        remove_below(&base.mounted, &[CONF, "lost+found"])
            .map_err(|errno| format!("{origin} cannot be emptied: {}", Shown(errno)))?;
    }
    let mut entries = Vec::new();
    let mut root = None;
    if plan.conf {
        let text = read_file(&conf, MAX_CONF).map_err(|_| format!("{origin} has no {CONF}"))?;
        let (lines, complaints) = persistence_conf::parse(&String::from_utf8_lossy(&text));
        for complaint in complaints {
            machine.log.warn(&format!("{CONF}: {complaint}"));
        }
        for entry in lines {
            if entry.dir == "/" {
                root = Some(format!("{}/{}", base.mounted, entry.source));
            } else {
                entries.push((base.mounted.clone(), entry));
            }
        }
        if root.is_none() && entries.is_empty() {
            return Err(format!("{CONF} on {origin} keeps nothing (`/ union` keeps everything)"));
        }
    } else {
        root = Some(base.mounted.clone());
    }
    let root = match root {
        None => None,
        Some(root) => {
            base.can_be_upper()?;
            let root = root.trim_end_matches('/');
            let upper = format!("{root}/{}", layout.upper_dir);
            let mut work = format!("{root}/{}", layout.work_dir);
            // dracut's directory is itself the upper one, its work directory a sister.
            let itself = dialect == Dialect::Dracut && plan.path.is_some();
            if let (true, Some((parent, _))) = (itself, root.rsplit_once('/')) {
                work = format!("{parent}/{}", layout.work_dir);
            }
            let upper = if itself { root.to_string() } else { upper };
            if dialect == Dialect::Casper {
                adopt(machine, root, &upper);
            }
            for dir in [&upper, &work] {
                make_dir(dir, 0o755).map_err(|errno| format!("{dir}: {}", Shown(errno)))?;
            }
            Some((upper, work))
        }
    };
    Ok(Kept { origin, root, entries, home, read_only: plan.read_only })
}

/// Older casper kept the root's files at the top of the volume: they move to
/// where they are looked for now.
fn adopt(machine: &mut Machine, root: &str, upper: &str) {
    if access(upper, Access::EXISTS).is_ok() || make_dir(upper, 0o755).is_err() {
        return;
    }
    for name in copy::names(root) {
        if NOT_ROOT.contains(&name.as_str()) || name.starts_with("install-logs-") {
            continue;
        }
        let (from, to) = (format!("{root}/{name}"), format!("{upper}/{name}"));
        if let Err(errno) = rustix::fs::rename(from.as_str(), to.as_str()) {
            machine.log.warn(&format!("{from} cannot be moved to {to}: {}", Shown(errno)));
        }
    }
}

impl Kept {
    /// Puts the single directories in their places of the finished root; each
    /// that cannot be is named, and the rest goes on.
    pub fn place(&self, machine: &mut Machine) {
        for (volume, entry) in &self.entries {
            if let Err(why) = place_entry(machine, volume, entry, self.read_only) {
                machine.log.warn(&format!("{} is not kept: {why}", entry.dir));
            }
        }
        if let Some(home) = &self.home {
            let target = format!("{ROOT}/home");
            let _ = make_dir(&target, 0o755);
            if let Err(errno) = mount_bind(home.as_str(), target.as_str()) {
                machine.log.warn(&format!("/home is not kept: {}", Shown(errno)));
            }
        }
    }

    /// What is kept, in a few words.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut what: Vec<&str> = Vec::new();
        if self.root.is_some() {
            what.push("all changes");
        }
        what.extend(self.entries.iter().map(|(_, entry)| entry.dir.as_str()));
        if self.home.is_some() {
            what.push("/home");
        }
        format!("{} kept on {}", what.join(", "), self.origin)
    }
}

fn place_entry(
    machine: &mut Machine,
    volume: &str,
    entry: &Entry,
    read_only: bool,
) -> Result<(), String> {
    let shown = |errno: rustix::io::Errno| Shown(errno).to_string();
    let source = format!("{volume}/{}", entry.source);
    let target = inside(&entry.dir).map_err(shown)?;
    match entry.how {
        How::Bind => {
            let fresh = access(source.as_str(), Access::EXISTS).is_err();
            make_dir(&source, 0o755).map_err(shown)?;
            make_dir(&target, 0o755).map_err(shown)?;
            if fresh && !read_only {
                let mut progress = Progress::new(&format!("filling {}", entry.dir), 0);
                like(&target, &source);
                copy::tree(&mut machine.log, &target, &source, &mut progress)
                    .map_err(|(path, errno)| format!("{path}: {}", Shown(errno)))?;
            }
            mount_bind(source.as_str(), target.as_str()).map_err(shown)
        }
        How::Union => {
            let (upper, work) = (format!("{source}/rw"), format!("{source}/work"));
            make_dir(&target, 0o755).map_err(shown)?;
            for dir in [&upper, &work] {
                make_dir(dir, 0o755).map_err(shown)?;
            }
            like(&target, &upper);
            mount_overlay(core::slice::from_ref(&target), Some((&upper, &work)), &[], &target)
                .map_err(|error| error.to_string())
        }
        How::Link => {
            make_dir(&source, 0o755).map_err(shown)?;
            make_dir(&target, 0o755).map_err(shown)?;
            link_below(&source, &target, 0);
            Ok(())
        }
    }
}

/// A directory of the new root by its path there, with no link on the way that
/// would lead out of it: the part that exists is resolved inside the root.
fn inside(dir: &str) -> Result<String, rustix::io::Errno> {
    let root = open(ROOT, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let relative = dir.trim_start_matches('/');
    let resolve = rustix::fs::ResolveFlags::IN_ROOT;
    match rustix::fs::openat2(&root, relative, flags, Mode::empty(), resolve) {
        Ok(directory) => {
            let number = rustix::fd::AsRawFd::as_raw_fd(&directory);
            let link =
                rustix::fs::readlink(format!("/proc/self/fd/{number}").as_str(), Vec::new())?;
            link.into_string().map_err(|_| rustix::io::Errno::ILSEQ)
        }
        Err(rustix::io::Errno::NOENT) => Ok(format!("{ROOT}/{relative}")),
        Err(errno) => Err(errno),
    }
}

/// Links every file below one directory into another.
fn link_below(source: &str, target: &str, depth: u32) {
    if depth > 32 {
        return;
    }
    for name in copy::names(source) {
        let (from, to) = (format!("{source}/{name}"), format!("{target}/{name}"));
        let is_dir = rustix::fs::lstat(from.as_str())
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir());
        if is_dir {
            let _ = make_dir(&to, 0o755);
            link_below(&from, &to, depth + 1);
        } else {
            let _ = rustix::fs::unlink(to.as_str());
            // Below /run, so the path holds in the live system, too.
            let _ = rustix::fs::symlink(from.as_str(), to.as_str());
        }
    }
}

impl<'h> Hunt<'h> {
    fn new(
        machine: &'h mut Machine,
        plan: &'h PersistPlan,
        found: &'h Found,
        layers: &'h [String],
        layout: Layout,
    ) -> Self {
        let place = if layout.upper.starts_with("/run/live/") {
            "/run/live/persistence"
        } else {
            "/run/bellwether/persistence"
        };
        Self {
            machine,
            plan,
            found,
            layers,
            place,
            why: String::new(),
            since: now_ms(),
            waiting: false,
        }
    }

    /// Notes why something is not it; the last of these is what the user reads.
    fn not_it(&mut self, why: String) {
        self.machine.log.detail(&why);
        self.why = why;
    }

    /// The file system that the plan means.
    fn volume(&mut self) -> Result<Volume, String> {
        if let Some(source) = &self.plan.network {
            return self.network(source);
        }
        if let Some(device) = self.plan.device.clone() {
            let path = self.device(&device)?;
            return self.mount(&path);
        }
        if !self.plan.labels.is_empty() {
            return self.by_labels(&self.plan.labels.clone());
        }
        let blob = self.found.medium_blob.clone();
        let blob = blob.ok_or("changes would be kept on the medium, and it is no longer there")?;
        self.mount(&blob)
    }

    /// A volume for `/home`, mounted. It is not waited for: that was done for the
    /// other one, and few have it.
    fn home(&mut self) -> Option<String> {
        let labels = self.plan.home_labels.clone();
        let found = if labels.is_empty() { None } else { self.among_all(&labels) };
        found.map(|volume| volume.mounted)
    }

    /// Waits for the server that the line names.
    fn network(&mut self, source: &Source) -> Result<Volume, String> {
        let deadline = self.since.saturating_add(SERVER_MS);
        loop {
            let refusal = match self.server(source) {
                Ok(volume) => return Ok(volume),
                Err(refusal) => refusal,
            };
            let next = now_ms().saturating_add(PAUSE_MS);
            if refusal.last || next >= deadline {
                return Err(refusal.why);
            }
            if !self.waiting {
                self.waiting = true;
                let why = format!("{}; waiting for what changes are kept on", refusal.why);
                self.machine.log.warn(&why);
            }
            while now_ms() < next {
                self.machine.wait(&[], Some(next));
            }
        }
    }

    fn server(&mut self, source: &Source) -> Result<Volume, Refusal> {
        let mac = self.machine.network.mac();
        let nfs = match source {
            Source::Nfs(nfs) => nfs,
            Source::Nbd(nbd) => {
                let mut nbd = nbd.clone();
                // A name, not a path.
                nbd.export = expand(&nbd.export, "", "", mac).trim_start_matches('/').to_string();
                let device = crate::remote::nbd(self.machine, &nbd)
                    .map_err(|refusal| of(&crate::source::describe(source), refusal))?;
                return self.mount(&device).map_err(Refusal::last);
            }
            other => {
                let what = crate::source::describe(other);
                let why = Refusal::last("changes are kept over NFS, over NBD or on a device");
                return Err(of(&what, why));
            }
        };
        let mut nfs = nfs.clone();
        nfs.read_write = true;
        nfs.path =
            nfs.path.map(|path| if path.contains('{') { expand(&path, "", "", mac) } else { path });
        let target = format!("{}/network", self.place);
        let device = network::mount_nfs(self.machine, &nfs, &target)
            .map_err(|(what, refusal)| of(&what, refusal))?;
        Ok(Volume {
            mounted: target,
            device,
            format: None,
            label: String::new(),
            uuid: String::new(),
            mac,
        })
    }

    /// Waits for the device that the line names.
    fn device(&mut self, selector: &DeviceSelector) -> Result<String, String> {
        let wanted = without_udev(selector);
        let deadline = now_ms().saturating_add(WAIT_MS);
        loop {
            let names: Vec<String> = self.machine.blocks().map(ToString::to_string).collect();
            // Its node may be there a moment before the disk answers.
            let answering =
                device::resolve(&wanted, &names).and_then(|path| match device::inspect(&path) {
                    Ok(_) => Ok(path),
                    Err(errno) => Err(format!("{path} cannot be read: {}", Shown(errno))),
                });
            match answering {
                Ok(path) => return Ok(path),
                Err(why) if !self.may_come(deadline) => return Err(why),
                Err(_) => {}
            }
        }
    }

    /// Waits for something to happen on the bus; false when nothing more will.
    fn may_come(&mut self, deadline: u64) -> bool {
        let mut quiet = self.machine.quiet_at();
        // What nobody asked for is not worth a wait.
        if !self.plan.silent {
            quiet = quiet.saturating_add(PATIENCE_MS).max(self.since.saturating_add(AT_LEAST_MS));
        }
        let now = now_ms();
        if now >= deadline || (now >= quiet && self.machine.settled()) {
            return false;
        }
        if !self.plan.silent && !self.waiting {
            self.waiting = true;
            self.machine.log.info("waiting for what changes are kept on");
        }
        // A driver that is still busy ends the wait when it is done.
        self.machine.wait(&[], Some(if quiet > now { quiet.min(deadline) } else { deadline }));
        true
    }

    /// The first volume, file or directory with one of these names.
    fn by_labels(&mut self, labels: &[String]) -> Result<Volume, String> {
        let deadline = now_ms().saturating_add(WAIT_MS);
        // Which of several is meant shows when all are there.
        while !self.machine.settled() && now_ms() < deadline {
            self.machine.wait(&[], Some(deadline));
        }
        let mut seen = None;
        loop {
            if seen != Some(self.machine.block_changes) {
                seen = Some(self.machine.block_changes);
                if let Some(volume) = self.among_all(labels) {
                    return Ok(volume);
                }
            }
            // A volume that is there and does not do is the answer.
            if !self.why.is_empty() {
                return Err(core::mem::take(&mut self.why));
            }
            if !self.may_come(deadline) {
                return Err(format!("no volume is called {}", labels.join(" or ")));
            }
        }
    }

    fn among_all(&mut self, labels: &[String]) -> Option<Volume> {
        let names: Vec<String> = self.machine.blocks().map(ToString::to_string).collect();
        let names = device::volumes(&names, self.plan.removable_only);
        labels.iter().find_map(|label| {
            if self.plan.filesystem
                && let Some(volume) = self.labelled(label, &names)
            {
                return Some(volume);
            }
            if self.plan.file || self.plan.directory { self.named(label, &names) } else { None }
        })
    }

    /// A file system, or a partition, of this name.
    fn labelled(&mut self, label: &str, names: &[String]) -> Option<Volume> {
        for name in names {
            let path = format!("/dev/{name}");
            let inspected = device::inspect(&path).ok().flatten();
            let by_label = inspected.as_ref().is_some_and(|found| found.label == *label);
            if !by_label && device::partition_name(name).as_deref() != Some(label) {
                continue;
            }
            let opened = match inspected.map(|found| found.format) {
                Some(Format::Luks) => self.unlock(&path),
                _ => Ok(path),
            };
            match opened.and_then(|path| self.mount(&path)) {
                Ok(volume) if self.has_conf(&volume.mounted) => return Some(volume),
                Ok(volume) => {
                    self.not_it(format!("{} is called {label} and has no {CONF}", volume.device));
                    self.let_go(&volume);
                }
                Err(why) => self.not_it(why),
            }
        }
        None
    }

    /// An image file or a directory of this name on any file system.
    fn named(&mut self, label: &str, names: &[String]) -> Option<Volume> {
        let dir = self.plan.path.clone().unwrap_or_default();
        for name in names {
            let path = format!("/dev/{name}");
            let Ok(Some(found)) = device::inspect(&path) else { continue };
            if found.format.fs_type().is_none() || found.format.read_only() {
                continue;
            }
            // Looked at read-only: a disk that is not ours is left as it is.
            let (mounted, ours) = match mounted_at(&path) {
                Some(target) => (target, false),
                None => {
                    let target = format!("{}/{}", self.place, name.replace('/', "!"));
                    let flags = if found.format == Format::Ext { "noload" } else { "" };
                    let with = MountWith { read_only: true, flags, ..Default::default() };
                    if let Err(why) = block::mount(self.machine, &path, &target, with) {
                        self.machine.log.detail(&format!("{path}: {why}"));
                        continue;
                    }
                    (target, true)
                }
            };
            let inner = expand(&format!("{dir}/{label}"), &found.label, &found.uuid, None);
            let stat = rustix::fs::stat(format!("{mounted}{inner}").as_str());
            if ours {
                let _ = detach(&mounted);
            }
            let Ok(stat) = stat else { continue };
            let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
            if !(if is_dir { self.plan.directory } else { self.plan.file }) {
                continue;
            }
            let opened = self.mount(&path).and_then(|holder| {
                let inner = format!("{}{inner}", holder.mounted);
                if is_dir {
                    Ok(Volume {
                        mounted: inner.clone(),
                        device: format!("{label} on {path}"),
                        ..holder
                    })
                } else {
                    self.mount_file(&inner, &format!("{label} on {path}"))
                }
            });
            match opened {
                Ok(volume) if self.has_conf(&volume.mounted) => return Some(volume),
                Ok(volume) => self.not_it(format!("{} has no {CONF}", volume.device)),
                Err(why) => self.not_it(why),
            }
        }
        None
    }

    fn has_conf(&self, mounted: &str) -> bool {
        !self.plan.conf || access(format!("{mounted}/{CONF}").as_str(), Access::READ_OK).is_ok()
    }

    fn let_go(&self, volume: &Volume) {
        if volume.mounted.starts_with(self.place) {
            let _ = detach(&volume.mounted);
        }
    }

    /// Mounts a device to be written; one that is mounted already becomes writable.
    fn mount(&mut self, path: &str) -> Result<Volume, String> {
        let fail = |why: &dyn ToString| format!("{path}: {}", why.to_string());
        let found = block::inspect(path).map_err(|why| fail(&why))?;
        if found.format.read_only() {
            return Err(fail(&format!("is {}, which nothing can be kept on", found.format)));
        }
        let read_only = self.plan.read_only;
        let mounted = match mounted_at(path) {
            Some(target) => {
                if !read_only {
                    mount_remount(target.as_str(), MountFlags::empty(), "").map_err(|errno| {
                        fail(&format!("cannot be made writable: {}", Shown(errno)))
                    })?;
                }
                target
            }
            None => {
                let name = path.rsplit('/').next().unwrap_or("volume");
                let target = format!("{}/{name}", self.place);
                let with =
                    MountWith { fstype: &self.plan.fstype, flags: &self.plan.flags, read_only };
                block::mount(self.machine, path, &target, with).map_err(|why| fail(&why))?;
                target
            }
        };
        Ok(Volume {
            mounted,
            device: path.to_string(),
            format: Some(found.format),
            label: self.medium_name().0.unwrap_or(found.label),
            uuid: self.medium_name().1.unwrap_or(found.uuid),
            mac: self.machine.network.mac(),
        })
    }

    /// Label and UUID of the medium, which name its overlay wherever that is.
    fn medium_name(&self) -> (Option<String>, Option<String>) {
        let found = self.found.medium_blob.as_deref().and_then(|blob| block::inspect(blob).ok());
        found.map_or((None, None), |found| (Some(found.label), Some(found.uuid)))
    }

    fn mount_file(&mut self, file: &str, what: &str) -> Result<Volume, String> {
        let name = file.rsplit('/').next().unwrap_or("file");
        let target = format!("{}/{name}-file", self.place);
        let with = MountWith { read_only: self.plan.read_only, ..Default::default() };
        let format = block::mount(self.machine, file, &target, with)
            .map_err(|why| format!("{what}: {why}"))?;
        Ok(Volume {
            mounted: target,
            device: what.to_string(),
            format: Some(format),
            label: String::new(),
            uuid: String::new(),
            mac: None,
        })
    }

    /// The directory or image file on a volume that the plan's path names; the
    /// volume itself without one.
    fn base(&mut self, volume: &Volume) -> Result<(Volume, String), String> {
        let labelled = !self.plan.labels.is_empty() && self.plan.device.is_none();
        let path = match &self.plan.path {
            // There the path has led to the file already.
            Some(_) if labelled && self.plan.network.is_none() => None,
            Some(path) => Some(volume.expand(path)),
            // Files cannot be changes on a network file system, an image can.
            None if volume.format.is_none() => Some(volume.expand("/{mac}.img")),
            None => None,
        };
        let Some(path) = path else { return Ok((volume.clone(), volume.device.clone())) };
        let full = format!("{}{path}", volume.mounted);
        let what = format!("{path} on {}", volume.device);
        let is_dir = rustix::fs::stat(full.as_str())
            .map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir());
        match is_dir {
            Ok(true) => {}
            Ok(false) => return Ok((self.mount_file(&full, &what)?, what)),
            Err(_) if self.plan.silent => return Err(format!("{what} is not there")),
            Err(_) if self.plan.read_only => return Err(format!("{what} is not there")),
            Err(_) if self.wants_file(volume, &path) => {
                self.make_file(volume, &full, &what)?;
                return Ok((self.mount_file(&full, &what)?, what));
            }
            Err(_) => {
                make_dir(&full, 0o755).map_err(|errno| format!("{what}: {}", Shown(errno)))?;
                self.machine.log.info(&format!("made the directory {what} for changes"));
            }
        }
        Ok((Volume { mounted: full, device: what.clone(), ..volume.clone() }, what))
    }

    /// Whether a path that does not exist is to become an image file.
    fn wants_file(&self, volume: &Volume, path: &str) -> bool {
        if volume.can_be_upper().is_err() {
            return true;
        }
        self.plan.file && path.rsplit('/').next().is_some_and(|name| name.ends_with(".img"))
    }

    /// Makes an image file with a file system in it, by the live system's mkfs.
    fn make_file(&mut self, volume: &Volume, file: &str, what: &str) -> Result<(), String> {
        let mkfs = tool::find("mkfs.ext4", self.layers).ok_or_else(|| {
            format!(
                "{what} is not there, and the image has no mkfs.ext4 to make it: make it by hand (truncate -s 1G FILE; mkfs.ext4 FILE)"
            )
        })?;
        let wanted = self.plan.create.map_or(DEFAULT_SIZE, |size| size.0);
        // Sparse where that is possible, but never more than could be had.
        let size = wanted.min(volume.free() / 10 * 9) & !0xfffff;
        if size < 16 << 20 {
            return Err(format!("{} has no room for {what}", volume.device));
        }
        if let Some((parent, _)) = file.rsplit_once('/') {
            make_dir(parent, 0o755).map_err(|errno| format!("{parent}: {}", Shown(errno)))?;
        }
        let fail = |errno: rustix::io::Errno| format!("{what}: {}", Shown(errno));
        // Under another name until it is whole: a boot that is cut short must
        // not leave something that looks like a volume.
        let partial = format!("{file}.new");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let handle = open(partial.as_str(), flags, Mode::from_raw_mode(0o600)).map_err(fail)?;
        ftruncate(&handle, size).map_err(fail)?;
        drop(handle);
        self.machine.log.info(&format!("making {what} for changes, {}", crate::memory::Size(size)));
        let block = block::Block::open(self.machine, &partial, false)?;
        mkfs.run(&["-q", "-F", "-L", "changes", &block.path])?;
        drop(block);
        rustix::fs::rename(partial.as_str(), file).map_err(fail)
    }

    /// Opens a LUKS volume by cryptsetup, which asks for the passphrase.
    fn unlock(&mut self, path: &str) -> Result<String, String> {
        if !self.plan.luks {
            return Err(format!(
                "{path} is encrypted (LUKS), and the line does not allow that: persistence-encryption=luks"
            ));
        }
        let cryptsetup = tool::find("cryptsetup", self.layers).ok_or_else(|| {
            format!(
                "{path} is encrypted (LUKS), and there is no cryptsetup in this initramfs or in the live image to open it"
            )
        })?;
        if !(self.machine.require("dm_mod") && self.machine.require("dm_crypt")) {
            return Err(format!(
                "{path} is encrypted (LUKS), and the module dm-crypt is not in this image"
            ));
        }
        let name = format!("{}-unlocked", path.rsplit('/').next().unwrap_or("volume"));
        self.machine.log.info(&format!("{path} is encrypted: enter its passphrase"));
        cryptsetup.run(&["open", "--type", "luks", "--tries", "3", path, &name])?;
        let control = sys::dm::Control::open().map_err(|errno| Shown(errno).to_string())?;
        let device = control.find(&name).map_err(|errno| Shown(errno).to_string())?;
        Ok(format!("/dev/dm-{}", device.number))
    }
}

/// A refusal with the name of what is refused.
fn of(what: &str, refusal: Refusal) -> Refusal {
    Refusal { why: format!("{what}: {}", refusal.why), ..refusal }
}

/// Where a device or file is mounted already.
fn mounted_at(path: &str) -> Option<String> {
    let text = read_file("/proc/self/mounts", MAX_CONF).ok()?;
    mount_point(&String::from_utf8_lossy(&text), path)
}

fn mount_point(mounts: &str, device: &str) -> Option<String> {
    let mut lines = mounts.lines().map(|line| line.split(' '));
    lines.find_map(|mut fields| {
        (fields.next() == Some(device)).then(|| fields.next())?.map(|target| {
            target.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_lead_nowhere_else() {
        let mac = Some(Mac([0x52, 0x54, 0, 0, 0, 0xab]));
        assert_eq!(
            expand("/LiveOS/overlay-{label}-{uuid}", "My/../Disk", "12-34", None),
            "/LiveOS/overlay-My/Disk-12-34"
        );
        assert_eq!(expand("/{mac}.img", "", "", mac), "/52-54-00-00-00-ab.img");
        assert_eq!(expand("../../etc", "", "", None), "/etc");
    }

    #[test]
    fn a_mounted_device_is_found() {
        let mounts = "proc /proc proc rw 0 0\n/dev/sda1 /run/my\\040medium vfat ro 0 0\n";
        assert_eq!(mount_point(mounts, "/dev/sda1").as_deref(), Some("/run/my medium"));
        assert_eq!(mount_point(mounts, "/dev/sda"), None);
    }

    #[test]
    fn files_are_linked_and_directories_made() {
        let source = tempfile::tempdir().unwrap();
        let target = tempfile::tempdir().unwrap();
        std::fs::create_dir(source.path().join("d")).unwrap();
        std::fs::create_dir(source.path().join(".ssh")).unwrap();
        std::fs::write(source.path().join(".ssh/.k"), "dot").unwrap();
        std::fs::write(source.path().join("d/key"), "secret").unwrap();
        std::fs::create_dir(target.path().join("d")).unwrap();
        std::fs::write(target.path().join("d/key"), "image's").unwrap();
        link_below(source.path().to_str().unwrap(), target.path().to_str().unwrap(), 0);
        assert_eq!(std::fs::read_to_string(target.path().join("d/key")).unwrap(), "secret");
        assert_eq!(std::fs::read_to_string(target.path().join(".ssh/.k")).unwrap(), "dot");
        assert!(target.path().join("d").symlink_metadata().unwrap().is_dir());
    }
}
