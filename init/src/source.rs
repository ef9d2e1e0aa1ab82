//! Finding the root: every source of the plan, in its order, round after round,
//! until one holds what the plan asks for.
//!
//! A source is a way to things that might do: one export, one file, or every
//! disk there is. Each thing is offered to an examiner, which takes it or says
//! why not; the reasons are the failure screen.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use cmdline::plan::{
    Content, DeviceSelector, Dialect, Marker, RootPlan, ScanRule, Seconds, Source, ToRam, Writable,
};
use cmdline::text;
use overlay::expand::is_compressed;
use overlay::image;
use overlay::probe::Superblock;
use sys::clock::Instant;
use sys::errno::Shown;
use sys::file::make_dir;
use sys::mount::{FsContext, detach, mount_device};

use crate::block;
use crate::device::{self, candidates, name_of, without_udev};
use crate::expand;
use crate::images::{self, Layer};
use crate::layout::Layout;
use crate::machine::Machine;
use crate::trace::{Failure, Reasons};
use crate::{clone, fetch, network, remote, unpack};

/// What a source offers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Offer {
    /// A file system, mounted at this path.
    Tree(String),
    /// A device or file with something in it.
    Blob(String),
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where from, for people.
    pub origin: String,
    /// What it is.
    pub root: Root,
    /// The mount point of the medium, when there is one.
    pub medium: Option<String>,
    /// The device or file that the medium is on, when it is on one.
    pub medium_blob: Option<String>,
}

/// What will become the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// A mounted file system, as it is.
    Tree(String),
    /// A device or an image file that holds it and is not mounted yet.
    Blob(String),
    /// Images on the medium, bottom first.
    Layers(Vec<Layer>),
}

/// A search for the root.
struct Search<'m> {
    machine: &'m mut Machine,
    plan: &'m RootPlan,
    layout: Layout,
    dialect: Dialect,
    /// Where a tree that is itself the root is mounted.
    tree_target: String,
    read_write: bool,
    /// The root is made of an image that must not be mounted first.
    unmounted: bool,
    reasons: Reasons,
    /// Devices that were looked at since they last changed.
    looked_at: Vec<String>,
    /// Compressed things that could not be expanded.
    spoiled: Vec<String>,
    /// The latest source would be refused again for the same reason.
    hopeless: bool,
}

/// Takes an offer, or says why not. The text is where the offer came from.
type Examine<'e> = dyn FnMut(&mut Search<'_>, Offer, &str) -> Option<Found> + 'e;

/// Finds the root.
///
/// # Errors
/// Everything that was tried, when no source holds it after the plan's rounds.
pub fn find(
    machine: &mut Machine,
    plan: &cmdline::BootPlan,
    layout: Layout,
    tree_target: &str,
    read_write: bool,
) -> Result<Found, Failure> {
    remote::drop_all();
    let mut search = Search {
        machine,
        plan: &plan.root,
        layout,
        dialect: plan.handoff.layout,
        tree_target: tree_target.to_string(),
        read_write,
        unmounted: wants_image(plan),
        reasons: Reasons::default(),
        looked_at: Vec::new(),
        spoiled: Vec::new(),
        hopeless: false,
    };
    search.run()
}

impl Search<'_> {
    fn run(&mut self) -> Result<Found, Failure> {
        let plan = self.plan;
        let retry = plan.retry;
        let mut pause = Duration::from(retry.pause.max(Seconds(1)));
        let longest = pause.max(retry.max_pause.into());
        let mut round = 1;
        let mut announced = false;
        let mut settled_at = None;
        loop {
            let mut hopeless = true;
            for source in &plan.sources {
                self.hopeless = false;
                if let Some(found) = self
                    .offers(source, 0, &mut |search, offer, origin| search.examine(offer, origin))
                {
                    return Ok(found);
                }
                hopeless &= self.hopeless;
            }
            if hopeless || (retry.attempts != 0 && round >= retry.attempts) {
                break;
            }
            if !announced {
                announced = true;
                self.machine.log.info(&waiting_for(&plan.sources));
            }
            let changes = self.machine.block_changes;
            let deadline = Instant::now().after(pause);
            // Something new ends the pause without using up a round.
            while self.machine.block_changes == changes && !deadline.is_past() {
                let settled_before = self.machine.settled();
                self.machine.wait(&[], Some(deadline));
                // Once for all the devices that are there: what is mounted and let go
                // between two rounds makes events, too.
                if !settled_before && self.machine.settled() && settled_at != Some(changes) {
                    settled_at = Some(changes);
                    break;
                }
            }
            if deadline.is_past() {
                round += 1;
                self.looked_at.clear();
                pause = pause.saturating_mul(2).min(longest);
            }
        }
        let reasons = core::mem::take(&mut self.reasons).into_list();
        let remedy = if reasons.is_empty() {
            "no block device appeared at all: is the driver of the disk controller in this image? (build with a larger profile)"
        } else {
            ""
        };
        Err(Failure {
            step: format!("find the root ({})", waiting_for(&plan.sources)),
            tried: reasons,
            remedy: remedy.to_string(),
        })
    }

    /// Notes why something did not do, and says so once.
    fn refuse(&mut self, what: &str, why: &str) {
        self.machine.trace.tried(what, why);
        if self.reasons.note(what, why) {
            self.machine.log.detail(&format!("{what}: {why}"));
        }
    }

    /// The same for what the line names: then it is worth a line on the console.
    fn refuse_loudly(&mut self, what: &str, why: &str) {
        self.machine.trace.tried(what, why);
        if self.reasons.note(what, why) {
            self.machine.log.warn(&format!("{what}: {why}"));
        }
    }

    /// Offers everything that a source leads to, until the examiner takes one.
    fn offers(
        &mut self,
        source: &Source,
        depth: usize,
        examiner: &mut Examine<'_>,
    ) -> Option<Found> {
        match source {
            Source::Device(selector) => self.offer_device(selector, examiner),
            Source::Scan(rule) => self.offer_scan(rule, examiner),
            Source::File { on, path } => self.offer_file(on, path, depth, examiner),
            Source::Partition { on, number } => self.offer_partition(on, *number, depth, examiner),
            Source::Initramfs(path) => {
                if rustix::fs::access(path.as_str(), rustix::fs::Access::EXISTS).is_err() {
                    self.refuse_loudly(path, "is not in the initramfs");
                    return None;
                }
                let is_dir = rustix::fs::stat(path.as_str())
                    .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir());
                let path = path.clone();
                let offer =
                    if is_dir { Offer::Tree(path.clone()) } else { Offer::Blob(path.clone()) };
                examiner(self, offer, &path)
            }
            Source::Nfs(nfs) => {
                let target = self.target(depth);
                match network::mount_nfs(self.machine, nfs, &target) {
                    Ok(origin) => self.offer_tree(target, &origin, examiner),
                    Err((what, refusal)) => {
                        self.refuse_loudly(&what, &refusal.why);
                        None
                    }
                }
            }
            Source::Url(url) => match fetch::fetch(self.machine, url) {
                Ok(path) => {
                    let taken = examiner(self, Offer::Blob(path), &url.url);
                    if taken.is_none() {
                        fetch::drop_all();
                        // It would be the same once more.
                        self.hopeless = true;
                    }
                    taken
                }
                Err(refusal) => {
                    self.hopeless = refusal.last;
                    self.refuse_loudly(&url.url, &refusal.why);
                    None
                }
            },
            Source::Nbd(nbd) => match remote::nbd(self.machine, nbd) {
                Ok(device) => {
                    let origin = format!("{} ({device})", describe(source));
                    let taken = examiner(self, Offer::Blob(device.clone()), &origin);
                    if taken.is_none() {
                        remote::drop_nbd(&device);
                    }
                    taken
                }
                Err(refusal) => {
                    self.refuse_loudly(&describe(source), &refusal.why);
                    None
                }
            },
            Source::NvmeTcp(nvme) => match remote::nvme(self.machine, nvme) {
                Ok(devices) => {
                    let name = describe(source);
                    let taken = devices.iter().find_map(|device| {
                        let origin = format!("{name} ({device})");
                        examiner(self, Offer::Blob(device.clone()), &origin)
                    });
                    if let (None, Some(device)) = (&taken, devices.first()) {
                        remote::drop_nvme(device);
                    }
                    taken
                }
                Err(why) => {
                    self.refuse_loudly(&describe(source), &why);
                    None
                }
            },
            Source::Cifs(cifs) => {
                let target = self.target(depth);
                match remote::cifs(self.machine, cifs, &target) {
                    Ok(()) => self.offer_tree(target, &describe(source), examiner),
                    Err(why) => {
                        self.refuse_loudly(&describe(source), &why);
                        None
                    }
                }
            }
            Source::NineP(tag) => self.offer_tag(
                "9p",
                tag,
                "trans=virtio,version=9p2000.L,msize=262144",
                depth,
                examiner,
            ),
            Source::VirtioFs(tag) => self.offer_tag("virtiofs", tag, "", depth, examiner),
            Source::PxeFileList { server, port } => {
                match fetch::fetch_list(self.machine, server, *port) {
                    Ok(tree) => self.offer_tree(tree, &describe(source), examiner),
                    Err(refusal) => {
                        self.hopeless = refusal.last;
                        self.refuse_loudly(&describe(source), &refusal.why);
                        None
                    }
                }
            }
            Source::Stage2(method) => {
                let timeout = self.plan.attempt_timeout;
                match clone::stage2(self.machine, method, timeout) {
                    Ok(path) => {
                        let taken = examiner(self, Offer::Blob(path), &describe(source));
                        if taken.is_none() {
                            fetch::drop_all();
                        }
                        taken
                    }
                    Err(why) => {
                        self.refuse_loudly(&describe(source), &why);
                        None
                    }
                }
            }
        }
    }

    /// Where something that is mounted on the way to the root goes: the medium
    /// itself, or, deeper, what holds the medium's file.
    fn target(&self, depth: usize) -> String {
        match (depth, &self.plan.content) {
            (0, Content::Tree { .. }) => self.tree_target.clone(),
            (0, _) => self.layout.medium.to_string(),
            (1, _) => self.layout.container.to_string(),
            _ => format!("{}-{depth}", self.layout.container),
        }
    }

    fn offer_tree(
        &mut self,
        target: String,
        origin: &str,
        examiner: &mut Examine<'_>,
    ) -> Option<Found> {
        let taken = examiner(self, Offer::Tree(target.clone()), origin);
        if taken.is_none() {
            let _ = detach(&target);
        }
        taken
    }

    fn offer_tag(
        &mut self,
        fs_type: &str,
        tag: &str,
        options: &str,
        depth: usize,
        examiner: &mut Examine<'_>,
    ) -> Option<Found> {
        let origin = format!("{fs_type} tag {tag}");
        self.machine.require(&format!("fs-{fs_type}"));
        if fs_type == "9p" {
            self.machine.require("9pnet_virtio");
        }
        let target = self.target(depth);
        let mounted = make_dir(&target, 0o755).map_err(Into::into).and_then(|()| {
            let context = FsContext::open(fs_type)?;
            context.set("source", Some(tag))?;
            context.set_all(options)?;
            context.mount(&target, rustix::mount::MountAttrFlags::empty())
        });
        match mounted {
            Ok(()) => self.offer_tree(target, &origin, examiner),
            Err(error) => {
                self.refuse_loudly(&origin, &error.to_string());
                None
            }
        }
    }

    fn offer_device(
        &mut self,
        selector: &DeviceSelector,
        examiner: &mut Examine<'_>,
    ) -> Option<Found> {
        let wanted = without_udev(selector);
        let what = name_of(selector);
        let names: Vec<String> = self.machine.blocks().map(ToString::to_string).collect();
        let path = match device::resolve(&wanted, &names) {
            Ok(path) => path,
            Err(why) => {
                self.refuse(&what, &why);
                return None;
            }
        };
        match device::inspect(&path) {
            Ok(_) => examiner(self, Offer::Blob(path.clone()), &path),
            Err(errno) => {
                self.refuse(&what, &format!("cannot be read: {}", Shown(errno)));
                None
            }
        }
    }

    /// A partition of a disk, or of the image of one.
    fn offer_partition(
        &mut self,
        on: &Source,
        number: u32,
        depth: usize,
        examiner: &mut Examine<'_>,
    ) -> Option<Found> {
        let mut inner: Box<Examine<'_>> = Box::new(|search, offer, origin| {
            let origin = format!("partition {number} of {origin}");
            let Offer::Blob(disk) = offer else {
                search.refuse(&origin, "is no disk, but a directory");
                return None;
            };
            let disk = search.expanded(disk, &origin)?;
            match search.partition(&disk, number) {
                Ok(path) => examiner(search, Offer::Blob(path), &origin),
                Err(why) => {
                    search.refuse(&origin, &why);
                    None
                }
            }
        });
        self.offers(on, depth, &mut *inner)
    }

    /// The device of a partition: the kernel's own, or a loop device where the
    /// kernel makes none (image files, optical discs).
    fn partition(&mut self, disk: &str, number: u32) -> Result<String, String> {
        if let Some(node) =
            disk.strip_prefix("/dev/").and_then(|name| device::partition_node(name, number))
        {
            return Ok(node);
        }
        let partitions = device::partitions(disk)
            .map_err(|errno| format!("cannot be read: {}", Shown(errno)))?;
        let Some(found) = partitions.iter().find(|partition| partition.number == number) else {
            let numbers: Vec<String> =
                partitions.iter().map(|partition| partition.number.to_string()).collect();
            return Err(match numbers.as_slice() {
                [] => "has no partition table".to_string(),
                _ => format!("is not in its table (there are {})", numbers.join(", ")),
            });
        };
        self.machine.require("loop");
        let file = rustix::fs::open(
            disk,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(|errno| format!("cannot be read: {}", Shown(errno)))?;
        let options = sys::loopdev::Options {
            offset: found.start,
            size_limit: found.length,
            read_only: true,
            ..Default::default()
        };
        let device = sys::loopdev::attach(rustix::fd::AsFd::as_fd(&file), options)
            .map_err(|errno| format!("no loop device: {}", Shown(errno)))?;
        let path = format!("/dev/loop{}", device.number);
        self.machine.held.push(device);
        Ok(path)
    }

    fn offer_scan(&mut self, rule: &ScanRule, examiner: &mut Examine<'_>) -> Option<Found> {
        let settled = self.machine.settled();
        let devices = candidates(self.machine.blocks(), rule);
        for candidate in devices {
            // A fixed disk waits until every removable one had its chance.
            if !(settled || candidate.eager) || self.looked_at.contains(&candidate.name) {
                continue;
            }
            self.looked_at.push(candidate.name.clone());
            let path = candidate.path();
            match device::inspect(&path) {
                Ok(Some(found)) if found.format.fs_type().is_some() => {
                    if !self.has_marker_uuid(rule, &found) {
                        continue;
                    }
                    if let Some(taken) = examiner(self, Offer::Blob(path.clone()), &path) {
                        return Some(taken);
                    }
                }
                Ok(Some(found)) => self.refuse(&path, &format!("is {}", found.format)),
                Ok(None) => self.refuse(&path, "has no known file system"),
                Err(errno) => self.refuse(&path, &format!("cannot be read: {}", Shown(errno))),
            }
        }
        None
    }

    /// Whether a superblock rules a device out already; marker files are looked
    /// for once it is mounted.
    fn has_marker_uuid(&self, _rule: &ScanRule, _found: &Superblock) -> bool {
        true
    }

    fn offer_file(
        &mut self,
        on: &Source,
        path: &str,
        depth: usize,
        examiner: &mut Examine<'_>,
    ) -> Option<Found> {
        let path = path.to_string();
        let holder = self.target(depth + 1);
        let mut inner: Box<Examine<'_>> = Box::new(|search, offer, origin| {
            let mut holds = None;
            let tree = match offer {
                Offer::Tree(tree) => tree,
                Offer::Blob(blob) => match search
                    .expanded(blob, origin)
                    .map(|blob| (search.mount_blob(&blob, &holder, true), blob))?
                {
                    (Ok(()), blob) => {
                        holds = Some(blob);
                        holder.clone()
                    }
                    (Err(why), _) => {
                        search.refuse(origin, &why);
                        return None;
                    }
                },
            };
            let mut file = format!("{tree}/{}", path.trim_start_matches('/'));
            let origin = format!("{path} on {origin}");
            if let Some((directory, suffix)) = file.split_once("/*") {
                match the_only(directory, suffix) {
                    Ok(found) => file = found,
                    Err(why) => search.refuse(&origin, &why),
                }
            }
            if rustix::fs::access(file.as_str(), rustix::fs::Access::READ_OK).is_ok() {
                if let Some(mut found) = examiner(search, Offer::Blob(file), &origin) {
                    // What holds the root's image is the medium, unless that is ourselves.
                    if found.medium.is_none() && tree != "/" {
                        found.medium = Some(tree);
                        found.medium_blob = holds;
                    }
                    return Some(found);
                }
            } else if !file.contains('*') {
                search.refuse(&origin, "is not there");
            }
            if tree == holder {
                let _ = detach(&holder);
            }
            None
        });
        self.offers(on, depth + 1, &mut *inner)
    }

    /// Mounts a device or image file.
    fn mount_blob(&mut self, blob: &str, target: &str, read_only: bool) -> Result<(), String> {
        make_dir(target, 0o755)
            .map_err(|errno| format!("{target}: {errno}", errno = Shown(errno)))?;
        if let Some(name) = blob.strip_prefix("/dev/") {
            let found = device::inspect(blob)
                .map_err(|errno| format!("cannot be read: {}", Shown(errno)))?;
            let found = found.ok_or("has no known file system")?;
            let fs_type = found.format.fs_type().ok_or_else(|| format!("is {}", found.format))?;
            self.machine.require(&format!("fs-{fs_type}"));
            let read_only = read_only || found.format.read_only();
            self.machine.log.detail(&format!("mounting {name} ({fs_type}) at {target}"));
            return mount_device(blob, fs_type, target, read_only, "")
                .map_err(|error| format!("{fs_type} cannot be mounted: {error}"));
        }
        let found = image::inspect(blob).map_err(|error| error.to_string())?;
        self.machine.require("loop");
        if let Some(fs_type) = found.format.fs_type() {
            self.machine.require(&format!("fs-{fs_type}"));
        }
        self.machine.log.detail(&format!("mounting {blob} ({}) at {target}", found.format));
        let read_only = read_only || found.format.read_only();
        image::mount(blob, &found, target, read_only).map_err(|error| error.to_string())
    }

    /// The expanded form of a device or file that is compressed, itself otherwise.
    fn expanded(&mut self, blob: String, origin: &str) -> Option<String> {
        // What took a minute to find out is not tried again in every round.
        if self.spoiled.iter().any(|spoiled| spoiled == origin) {
            return None;
        }
        match expand::expanded(self.machine, &blob) {
            Ok(None) => Some(blob),
            Ok(expanded) => expanded,
            Err(why) => {
                self.spoiled.push(origin.to_string());
                self.refuse_loudly(origin, &why);
                None
            }
        }
    }

    /// Takes an offer if it holds what the plan asks for.
    fn examine(&mut self, offer: Offer, origin: &str) -> Option<Found> {
        // An archive is unpacked when the root is put together.
        if let Offer::Blob(blob) = &offer
            && unpack::archive_in(blob).is_some()
        {
            return Some(image(blob, origin));
        }
        let offer = match (offer, &self.plan.content) {
            // Its digest is that of the file as it is: checked first, expanded then.
            (Offer::Blob(blob), Content::Tree { .. }) if self.unmounted => Offer::Blob(blob),
            (Offer::Blob(blob), _) => Offer::Blob(self.expanded(blob, origin)?),
            (tree, _) => tree,
        };
        match &self.plan.content {
            Content::Tree { subdir, .. } => {
                if let (Offer::Blob(blob), true) = (&offer, self.unmounted && subdir.is_empty()) {
                    return match block::inspect(blob) {
                        Ok(found)
                            if found.format.fs_type().is_some() || is_compressed(found.format) =>
                        {
                            Some(image(blob, origin))
                        }
                        Ok(found) => {
                            self.refuse(origin, &format!("is {}, not a file system", found.format));
                            None
                        }
                        Err(why) => {
                            self.refuse(origin, &why);
                            None
                        }
                    };
                }
                let tree = match offer {
                    Offer::Tree(tree) => tree,
                    Offer::Blob(blob) => {
                        let target = self.tree_target.clone();
                        if let Err(why) = self.mount_blob(&blob, &target, !self.read_write) {
                            self.refuse(origin, &why);
                            return None;
                        }
                        target
                    }
                };
                let root = match subdir.trim_matches('/') {
                    "" => tree,
                    subdir => format!("{tree}/{subdir}"),
                };
                Some(Found {
                    origin: origin.to_string(),
                    root: Root::Tree(root),
                    medium: None,
                    medium_blob: None,
                })
            }
            Content::Images(rule) | Content::Either(rule) => {
                let rule = rule.clone();
                let bare = matches!(self.plan.content, Content::Either(_))
                    || self.dialect == Dialect::Casper;
                let mut on = None;
                let (medium, ours) = match offer {
                    Offer::Tree(tree) => (tree, false),
                    Offer::Blob(blob) => {
                        let target = self.layout.medium.to_string();
                        if let Err(why) = self.mount_blob(&blob, &target, true) {
                            self.refuse(origin, &why);
                            return None;
                        }
                        on = Some(blob);
                        (target, true)
                    }
                };
                let mac = self.machine.network.mac();
                let layers =
                    self.check_marker(&medium).and_then(|()| images::pick(&rule, &medium, mac));
                let layers = if cfg!(feature = "full") {
                    layers.and_then(|layers| images::choose(self.plan, &medium, layers))
                } else {
                    layers
                };
                match layers {
                    Ok(layers) => {
                        return Some(Found {
                            origin: origin.to_string(),
                            root: Root::Layers(layers),
                            medium: Some(medium),
                            medium_blob: on,
                        });
                    }
                    // The device is itself the image of a root.
                    Err(_) if ours && bare && images::looks_like_root(&medium) => {
                        if let (Some(blob), true) = (&on, self.unmounted) {
                            let _ = detach(&medium);
                            return Some(image(blob, origin));
                        }
                        return Some(Found {
                            origin: origin.to_string(),
                            root: Root::Tree(medium),
                            medium: None,
                            medium_blob: None,
                        });
                    }
                    Err(why) => self.refuse(origin, &why),
                }
                if ours {
                    let _ = detach(&medium);
                }
                None
            }
        }
    }

    /// Whether the medium carries what proves that it is the right one.
    fn check_marker(&self, medium: &str) -> Result<(), String> {
        for source in &self.plan.sources {
            let Source::Scan(ScanRule { marker: Some(marker), .. }) = source else { continue };
            match marker {
                Marker::Path(path) => {
                    let file = format!("{medium}/{}", path.trim_start_matches('/'));
                    if rustix::fs::access(file.as_str(), rustix::fs::Access::EXISTS).is_err() {
                        return Err(format!("has no {path}"));
                    }
                }
                Marker::DiskUuid { prefix, uuid } => {
                    let disk = format!("{medium}/.disk");
                    let holds =
                        coldplug::sysfs::names(&disk).unwrap_or_default().iter().any(|name| {
                            name.starts_with(prefix.as_str())
                                && sys::file::read_file(&format!("{disk}/{name}"), 4096).is_ok_and(
                                    |bytes| text::has(&String::from_utf8_lossy(&bytes), uuid),
                                )
                        });
                    if !holds {
                        return Err(format!("is another medium: no .disk/{prefix}* holds {uuid}"));
                    }
                }
            }
        }
        Ok(())
    }
}

/// The one file of a directory whose name ends so: nobody is asked which of several.
fn the_only(directory: &str, suffix: &str) -> Result<String, String> {
    let names = coldplug::sysfs::names(directory).unwrap_or_default();
    let mut ending = names.iter().filter(|name| name.ends_with(suffix));
    match (ending.next(), ending.next()) {
        (Some(name), None) => Ok([directory, "/", name].concat()),
        (Some(one), Some(other)) => Err(["is ", one, ", ", other, ", …: name one"].concat()),
        _ => Err("is not there".to_string()),
    }
}

/// A root that is in an image and not mounted yet.
fn image(blob: &str, origin: &str) -> Found {
    Found {
        origin: origin.to_string(),
        root: Root::Blob(blob.to_string()),
        medium: None,
        medium_blob: None,
    }
}

/// Whether something is to be done with the root's image before it is mounted.
fn wants_image(plan: &cmdline::BootPlan) -> bool {
    matches!(plan.writable, Writable::DmSnapshot(_) | Writable::ByImage { .. })
        || plan.root.to_ram != ToRam::No
        || !plan.root.integrity.is_empty()
}

/// The sources in one line, for people.
fn waiting_for(sources: &[Source]) -> String {
    let names: Vec<String> = sources.iter().map(describe).collect();
    format!("looking on {}", names.join(", then "))
}

/// One source, for people.
#[must_use]
pub fn describe(source: &Source) -> String {
    match source {
        Source::Nfs(nfs) => network::describe_nfs(nfs),
        Source::Cifs(cifs) => {
            format!("CIFS share //{}/{}", network::name_of(&cifs.server), cifs.share)
        }
        Source::Url(url) => url.url.clone(),
        Source::Nbd(nbd) => {
            format!("NBD {}:{}/{}", network::name_of(&nbd.server), nbd.port, nbd.export)
        }
        Source::NvmeTcp(nvme) => {
            format!("NVMe/TCP {}:{}", network::name_of(&nvme.server), nvme.port)
        }
        Source::NineP(tag) => format!("9p tag {tag}"),
        Source::VirtioFs(tag) => format!("virtiofs tag {tag}"),
        Source::Device(selector) => name_of(selector),
        Source::Scan(rule) => match (rule.optical, rule.removable_only) {
            (_, true) => "removable disks".to_string(),
            (true, _) => "optical drives and disks".to_string(),
            (false, _) => "disks".to_string(),
        },
        Source::File { on, path } => format!("{path} on {}", describe(on)),
        Source::Partition { on, number } => format!("partition {number} of {}", describe(on)),
        Source::Initramfs(path) => format!("{path} in the initramfs"),
        Source::PxeFileList { port, .. } => format!("PXEFILELIST, port {port}"),
        Source::Stage2(_) => "a clone sender".to_string(),
    }
}
