//! The walk over the plan's sources, round after round.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use cmdline::plan::{
    Content, DeviceSelector, Dialect, Retry, RootPlan, ScanRule, Seconds, Source, ToRam, Writable,
};
use cmdline::render::brief;
use liveroot::Found;
use liveroot::layout::Layout;
use rustix::fs::FileType;

use super::reach::{Offer, Reach};
use crate::log::Level;
use crate::machine::Machine;
use crate::remote;
use crate::trace::{Failure, Fault, Reasons};
use sys::file::{is_there, stat};

/// Finds the root. `tree_target` is where a file system that is itself the root is
/// mounted.
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
    remote::drop_all(machine);
    find_in(machine, plan, layout, tree_target, read_write)
}

/// The same on anything that answers like a machine.
///
/// # Errors
/// As [`find`].
pub fn find_in(
    world: &mut dyn Reach,
    plan: &cmdline::BootPlan,
    layout: Layout,
    tree_target: &str,
    read_write: bool,
) -> Result<Found, Failure> {
    Search::new(world, plan, layout, tree_target, read_write).run()
}

/// A search for the root.
pub struct Search<'m> {
    pub world: &'m mut dyn Reach,
    pub plan: &'m RootPlan,
    pub layout: Layout,
    pub dialect: Dialect,
    /// Where a tree that is itself the root is mounted.
    pub tree_target: String,
    pub read_write: bool,
    /// The root is made of an image that must not be mounted first.
    pub unmounted: bool,
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

impl<'m> Search<'m> {
    /// A search that has tried nothing yet.
    pub fn new(
        world: &'m mut dyn Reach,
        plan: &'m cmdline::BootPlan,
        layout: Layout,
        tree_target: &str,
        read_write: bool,
    ) -> Self {
        Self {
            world,
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
        }
    }
}

impl Search<'_> {
    /// Finds the root.
    ///
    /// # Errors
    /// Everything that was tried, when no source holds it after the plan's rounds.
    pub fn run(&mut self) -> Result<Found, Failure> {
        let plan = self.plan;
        let retry = plan.retry;
        let mut pause = Duration::from(retry.pause.max(Seconds(1)));
        let longest = pause.max(retry.max_pause.into());
        let mut round = 1;
        let budget = if FULL { seconds(retry) } else { 0 };
        let began = self.world.now();
        let mut said = None;
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
            let now = self.world.now();
            let spent = now.since(began).as_secs();
            // A server that lets each try wait uses up the time before the rounds.
            let over = round >= retry.attempts || FULL && round >= FEWEST && spent >= budget;
            if hopeless || (retry.attempts != 0 && over) {
                break;
            }
            if said.is_none_or(|said| FULL && now.since(said) >= SAYS) {
                let mut text = waiting_for(&plan.sources);
                if FULL && said.is_some() {
                    let left = budget.saturating_sub(spent).to_string();
                    let left = [", ", &left, " s left"];
                    let left = if retry.attempts == 0 { String::new() } else { left.concat() };
                    let (tries, spent) = (round.to_string(), spent.to_string());
                    text = [&text, ": tried ", &tries, " times in ", &spent, " s", &left].concat();
                }
                said = Some(now);
                self.world.say(Level::Info, &text);
            }
            let changes = self.world.changes();
            let deadline = self.world.now().after(pause);
            // Something new ends the pause without using up a round.
            while self.world.changes() == changes && self.world.now() < deadline {
                let settled_before = self.world.settled();
                self.world.wait(deadline);
                // Once for all the devices that are there: what is mounted and let go
                // between two rounds makes events, too.
                if !settled_before && self.world.settled() && settled_at != Some(changes) {
                    settled_at = Some(changes);
                    break;
                }
            }
            if self.world.now() >= deadline {
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
    pub fn refuse(&mut self, what: &str, why: impl Into<Fault>) {
        self.note(what, &why.into(), Level::Detail);
    }

    /// The same for what the line names: then it is worth a line on the console.
    pub fn refuse_loudly(&mut self, what: &str, why: impl Into<Fault>) {
        self.note(what, &why.into(), Level::Warning);
    }

    fn note(&mut self, what: &str, why: &Fault, level: Level) {
        let why = why.to_string();
        self.world.tried(what, &why);
        if self.reasons.note(what, &why) {
            self.world.say(level, &format!("{what}: {why}"));
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
                let Ok(stat) = stat(path) else {
                    self.refuse_loudly(path, "is not in the initramfs");
                    return None;
                };
                let offer = match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => Offer::Tree(path.clone()),
                    _ => Offer::Blob(path.clone()),
                };
                examiner(self, offer, path)
            }
            _ => self.offer_remote(source, depth, examiner),
        }
    }

    fn offer_remote(
        &mut self,
        source: &Source,
        depth: usize,
        examiner: &mut Examine<'_>,
    ) -> Option<Found> {
        let target = self.target(depth);
        // A server that is down may come up; a fetched file would be the same once more.
        let fetched = matches!(source, Source::Url(_) | Source::PxeFileList { .. });
        let (offers, name) = match self.world.reach(source, &target, self.plan.attempt_timeout) {
            Ok(reached) => reached,
            Err((name, fault)) => {
                self.hopeless = fetched && fault.is_last();
                self.refuse_loudly(&name, fault);
                return None;
            }
        };
        let devices = !fetched && !matches!(source, Source::Stage2(_));
        let taken = offers.iter().find_map(|offer| match offer {
            Offer::Blob(device) if devices => {
                examiner(self, offer.clone(), &format!("{name} ({device})"))
            }
            _ => examiner(self, offer.clone(), &name),
        });
        if taken.is_none() {
            self.world.release(source, &offers);
            self.hopeless = matches!(source, Source::Url(_));
        }
        taken
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

    fn offer_device(
        &mut self,
        selector: &DeviceSelector,
        examiner: &mut Examine<'_>,
    ) -> Option<Found> {
        let path = self.world.resolve(selector).and_then(|path| {
            self.world.inspect(&path)?;
            Ok(path)
        });
        match path {
            Ok(path) => examiner(self, Offer::Blob(path.clone()), &path),
            Err(fault) => {
                self.refuse(&brief(&Source::Device(selector.clone())), fault);
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
            match search.world.partition(&disk, number) {
                Ok(path) => examiner(search, Offer::Blob(path), &origin),
                Err(fault) => {
                    search.refuse(&origin, fault);
                    None
                }
            }
        });
        self.offers(on, depth, &mut *inner)
    }

    fn offer_scan(&mut self, rule: &ScanRule, examiner: &mut Examine<'_>) -> Option<Found> {
        let settled = self.world.settled();
        for candidate in self.world.candidates(rule) {
            // A fixed disk waits until every removable one had its chance.
            if !(settled || candidate.eager) || self.looked_at.contains(&candidate.name) {
                continue;
            }
            self.looked_at.push(candidate.name.clone());
            let path = candidate.path();
            match self.world.inspect(&path) {
                // Marker files are looked for once it is mounted.
                Ok(Some(found)) if found.format.fs_type().is_some() => {
                    if let Some(taken) = examiner(self, Offer::Blob(path.clone()), &path) {
                        return Some(taken);
                    }
                }
                Ok(Some(found)) => self.refuse(&path, format!("is {}", found.format)),
                Ok(None) => self.refuse(&path, "has no known file system"),
                Err(fault) => self.refuse(&path, fault),
            }
        }
        None
    }

    fn offer_file(
        &mut self,
        on: &Source,
        path: &str,
        depth: usize,
        examiner: &mut Examine<'_>,
    ) -> Option<Found> {
        let holder = self.target(depth + 1);
        let mut inner: Box<Examine<'_>> = Box::new(|search, offer, origin| {
            let (tree, holds) = match offer {
                Offer::Tree(tree) => (tree, None),
                Offer::Blob(blob) => {
                    let blob = search.expanded(blob, origin)?;
                    if let Err(fault) = search.world.mount(&blob, &holder, true) {
                        search.refuse(origin, fault);
                        return None;
                    }
                    (holder.clone(), Some(blob))
                }
            };
            let mut file = format!("{tree}/{}", path.trim_start_matches('/'));
            let origin = format!("{path} on {origin}");
            if let Some((directory, suffix)) = file.split_once("/*") {
                match the_only(directory, suffix) {
                    Ok(found) => file = found,
                    Err(fault) => search.refuse(&origin, fault),
                }
            }
            let there = is_there(&file);
            if there == Ok(true) {
                if let Some(mut found) = examiner(search, Offer::Blob(file), &origin) {
                    // What holds the root's image is the medium, unless that is ourselves.
                    if found.medium.is_none() && tree != "/" {
                        found.medium = Some(tree);
                        found.medium_blob = holds;
                    }
                    return Some(found);
                }
            } else if let Err(errno) = there {
                search.refuse(&origin, errno);
            } else if !file.contains('*') {
                search.refuse(&origin, "is not there");
            }
            if tree == holder {
                search.world.unmount(&holder);
            }
            None
        });
        self.offers(on, depth + 1, &mut *inner)
    }

    /// The expanded form of a device or file that is compressed, itself otherwise.
    pub fn expanded(&mut self, blob: String, origin: &str) -> Option<String> {
        // What took a minute to find out is not tried again in every round.
        if self.spoiled.iter().any(|spoiled| spoiled == origin) {
            return None;
        }
        match self.world.expand(&blob) {
            Ok(None) => Some(blob),
            Ok(expanded) => expanded,
            Err(fault) => {
                self.spoiled.push(origin.to_string());
                self.refuse_loudly(origin, fault);
                None
            }
        }
    }
}

/// The one file of a directory whose name ends so; of several none is chosen.
fn the_only(directory: &str, suffix: &str) -> Result<String, Fault> {
    let names = coldplug::sysfs::names_if_any(directory)
        .map_err(Fault::in_("its directory cannot be listed"))?;
    let mut ending = names.iter().filter(|name| name.ends_with(suffix));
    match (ending.next(), ending.next()) {
        (Some(name), None) => Ok([directory, "/", name].concat()),
        (Some(one), Some(other)) => Err(["is ", one, ", ", other, ", …: name one"].concat().into()),
        _ => Err("is not there".into()),
    }
}

/// The small `/init` waits as long, and says less.
const FULL: bool = cfg!(feature = "full");
/// Between two words on how the search goes.
const SAYS: Duration = Duration::from_secs(10);
/// So many rounds there are at least, however long each takes.
const FEWEST: u32 = 3;

/// Seconds of all pauses between the rounds.
fn seconds(retry: Retry) -> u64 {
    let mut pause = retry.pause.0.max(1);
    let longest = pause.max(retry.max_pause.0);
    let mut all = 0;
    for _ in 0..retry.attempts {
        all += u64::from(pause);
        pause = pause.saturating_mul(2).min(longest);
    }
    all
}

/// Whether something is to be done with the root's image before it is mounted.
fn wants_image(plan: &cmdline::BootPlan) -> bool {
    matches!(plan.writable, Writable::DmSnapshot(_) | Writable::ByImage { .. })
        || plan.root.to_ram != ToRam::No
        || !plan.root.integrity.is_empty()
}

/// The sources in one line, for people.
fn waiting_for(sources: &[Source]) -> String {
    let names: Vec<String> = sources.iter().map(brief).collect();
    format!("looking on {}", names.join(", then "))
}
