//! Finding the volume that changes are kept on.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use cmdline::plan::{DeviceSelector, PersistPlan, Source};
use cmdline::render::brief;
use liveroot::Found;
use liveroot::layout::Layout;
use overlay::probe::Format;
use rustix::fs::Access;
use sys::clock::Instant;
use sys::file::{access, stat};
use sys::mount::detach;

use super::volume::{Opener, Volume, expand, mounted_at};
use crate::block::{self, MountWith};
use crate::device::{self, without_udev};
use crate::machine::Machine;
use crate::network;
use crate::trace::Fault;

/// The file that says which directories are kept.
pub const CONF: &str = "persistence.conf";

/// How long the bus must be silent before a volume that the line asks for counts as
/// not there: a USB stick says nothing for a second after its controller is up.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a volume is waited for at least, even on a silent bus: the root may have
/// been found seconds before a slower disk, or behind another hub, says anything.
const AT_LEAST: Duration = Duration::from_secs(8);

/// How long a volume may take at most, however busy the bus is.
const WAIT: Duration = Duration::from_secs(30);

/// How long a server is waited for that changes are kept on: after a power cut it may
/// start later than the one that the root came from.
const SERVER: Duration = Duration::from_secs(60);

/// The pause before it is asked again.
const PAUSE: Duration = Duration::from_secs(2);

/// A search for a volume.
pub struct Hunt<'h> {
    /// What makes a volume usable.
    pub open: Opener<'h>,
    why: String,
    /// Since when it is looked for.
    since: Instant,
    waiting: bool,
}

impl<'h> Hunt<'h> {
    pub fn new(
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
            open: Opener { machine, plan, found, layers, place },
            why: String::new(),
            since: Instant::now(),
            waiting: false,
        }
    }

    /// Notes why something is not it; the last of these is what the user reads.
    fn not_it(&mut self, why: String) {
        self.open.machine.log.detail(&why);
        self.why = why;
    }

    /// The file system that the plan means.
    pub fn volume(&mut self) -> Result<Volume, Fault> {
        if let Some(source) = &self.open.plan.network {
            return self.network(source);
        }
        if let Some(device) = self.open.plan.device.clone() {
            let path = self.device(&device)?;
            return self.open.mount(&path);
        }
        if !self.open.plan.labels.is_empty() {
            return self.by_labels(&self.open.plan.labels.clone());
        }
        let blob = self.open.found.medium_blob.clone();
        let blob = blob.ok_or("changes would be kept on the medium, and it is no longer there")?;
        self.open.mount(&blob)
    }

    /// A volume for `/home`, mounted. It is not waited for: that was done for the
    /// other one, and few have it.
    pub fn home(&mut self) -> Option<String> {
        let labels = self.open.plan.home_labels.clone();
        let found = if labels.is_empty() { None } else { self.among_all(&labels) };
        found.map(|volume| volume.mounted)
    }

    /// Waits for the server that the line names.
    fn network(&mut self, source: &Source) -> Result<Volume, Fault> {
        let deadline = self.since.after(SERVER);
        loop {
            let fault = match self.server(source) {
                Ok(volume) => return Ok(volume),
                Err(fault) => fault,
            };
            let next = Instant::now().after(PAUSE);
            if fault.is_last() || next >= deadline {
                return Err(fault);
            }
            if !self.waiting {
                self.waiting = true;
                let why = format!("{fault}; waiting for what changes are kept on");
                self.open.machine.log.warn(&why);
            }
            while !next.is_past() {
                self.open.machine.wait(&[], Some(next));
            }
        }
    }

    fn server(&mut self, source: &Source) -> Result<Volume, Fault> {
        let mac = self.open.machine.network.mac();
        let nfs = match source {
            Source::Nfs(nfs) => nfs,
            Source::Nbd(nbd) => {
                let mut nbd = nbd.clone();
                // A name, not a path.
                nbd.export = expand(&nbd.export, "", "", mac).trim_start_matches('/').to_string();
                let device = crate::remote::nbd(self.open.machine, &nbd)
                    .map_err(|fault| fault.of(&brief(source)))?;
                return self.open.mount(&device).map_err(Fault::last);
            }
            other => {
                let why = "changes are kept over NFS, over NBD or on a device";
                return Err(Fault::from(why).of(&brief(other)).last());
            }
        };
        let mut nfs = nfs.clone();
        nfs.read_write = true;
        nfs.path =
            nfs.path.map(|path| if path.contains('{') { expand(&path, "", "", mac) } else { path });
        let target = format!("{}/network", self.open.place);
        let device = network::mount_nfs(self.open.machine, &nfs, &target)
            .map_err(|(what, fault)| fault.of(&what))?;
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
    pub fn device(&mut self, selector: &DeviceSelector) -> Result<String, Fault> {
        let wanted = without_udev(selector);
        let deadline = Instant::now().after(WAIT);
        loop {
            let names: Vec<String> = self.open.machine.blocks().map(ToString::to_string).collect();
            // Its node may be there a moment before the disk answers.
            let answering =
                device::resolve(&wanted, &names).and_then(|path| match device::inspect(&path) {
                    Ok(_) => Ok(path),
                    Err(errno) => Err(Fault::new("cannot be read", errno).of(&path)),
                });
            match answering {
                Ok(path) => return Ok(path),
                Err(why) if !self.may_come(deadline) => return Err(why),
                Err(_) => {}
            }
        }
    }

    /// Waits for something to happen on the bus; false when nothing more will.
    fn may_come(&mut self, deadline: Instant) -> bool {
        let mut quiet = self.open.machine.quiet_at();
        // A volume that the line does not ask for is not waited for.
        if !self.open.plan.silent {
            quiet = quiet.after(PATIENCE).max(self.since.after(AT_LEAST));
        }
        let now = Instant::now();
        if now >= deadline || (now >= quiet && self.open.machine.settled()) {
            return false;
        }
        if !self.open.plan.silent && !self.waiting {
            self.waiting = true;
            self.open.machine.log.info("waiting for what changes are kept on");
        }
        // A driver that is still busy ends the wait when it is done.
        self.open.machine.wait(&[], Some(if quiet > now { quiet.min(deadline) } else { deadline }));
        true
    }

    /// The first volume, file or directory with one of these names.
    fn by_labels(&mut self, labels: &[String]) -> Result<Volume, Fault> {
        let deadline = Instant::now().after(WAIT);
        // Which of several is meant shows when all are there.
        while !self.open.machine.settled() && !deadline.is_past() {
            self.open.machine.wait(&[], Some(deadline));
        }
        let mut seen = None;
        loop {
            if seen != Some(self.open.machine.block_changes) {
                seen = Some(self.open.machine.block_changes);
                if let Some(volume) = self.among_all(labels) {
                    return Ok(volume);
                }
            }
            // A volume that is there and does not do is the answer.
            if !self.why.is_empty() {
                return Err(core::mem::take(&mut self.why).into());
            }
            if !self.may_come(deadline) {
                return Err(format!("no volume is called {}", labels.join(" or ")).into());
            }
        }
    }

    fn among_all(&mut self, labels: &[String]) -> Option<Volume> {
        let names: Vec<String> = self.open.machine.blocks().map(ToString::to_string).collect();
        let names = device::volumes(&names, self.open.plan.removable_only);
        labels.iter().find_map(|label| {
            if self.open.plan.filesystem
                && let Some(volume) = self.labelled(label, &names)
            {
                return Some(volume);
            }
            if self.open.plan.file || self.open.plan.directory {
                self.named(label, &names)
            } else {
                None
            }
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
                Some(Format::Luks) => self.open.unlock(&path),
                _ => Ok(path),
            };
            match opened.and_then(|path| self.open.mount(&path)) {
                Ok(volume) if self.has_conf(&volume.mounted) => return Some(volume),
                Ok(volume) => {
                    self.not_it(format!("{} is called {label} and has no {CONF}", volume.device));
                    self.let_go(&volume);
                }
                Err(fault) => self.not_it(fault.to_string()),
            }
        }
        None
    }

    /// An image file or a directory of this name on any file system.
    fn named(&mut self, label: &str, names: &[String]) -> Option<Volume> {
        let dir = self.open.plan.path.clone().unwrap_or_default();
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
                    let target = format!("{}/{}", self.open.place, name.replace('/', "!"));
                    let flags = if found.format == Format::Ext { "noload" } else { "" };
                    let with = MountWith { read_only: true, flags, ..Default::default() };
                    if let Err(why) = block::mount(self.open.machine, &path, &target, with) {
                        self.open.machine.log.detail(&format!("{path}: {why}"));
                        continue;
                    }
                    (target, true)
                }
            };
            let inner = expand(&format!("{dir}/{label}"), &found.label, &found.uuid, None);
            let stat = stat(&format!("{mounted}{inner}"));
            if ours {
                // A volume that stays mounted does no harm.
                let _ = detach(&mounted);
            }
            let Ok(stat) = stat else { continue };
            let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
            if !(if is_dir { self.open.plan.directory } else { self.open.plan.file }) {
                continue;
            }
            let opened = self.open.mount(&path).and_then(|holder| {
                let inner = format!("{}{inner}", holder.mounted);
                if is_dir {
                    Ok(Volume {
                        mounted: inner.clone(),
                        device: format!("{label} on {path}"),
                        ..holder
                    })
                } else {
                    self.open.mount_file(&inner, &format!("{label} on {path}"))
                }
            });
            match opened {
                Ok(volume) if self.has_conf(&volume.mounted) => return Some(volume),
                Ok(volume) => self.not_it(format!("{} has no {CONF}", volume.device)),
                Err(fault) => self.not_it(fault.to_string()),
            }
        }
        None
    }

    fn has_conf(&self, mounted: &str) -> bool {
        !self.open.plan.conf || access(&format!("{mounted}/{CONF}"), Access::READ_OK)
    }

    fn let_go(&self, volume: &Volume) {
        if volume.mounted.starts_with(self.open.place) {
            // As above.
            let _ = detach(&volume.mounted);
        }
    }
}
