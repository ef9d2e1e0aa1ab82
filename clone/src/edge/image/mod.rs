//! Restoring disks from an image: see [`image`](crate::image).
//!
//! The image is a file here, or at any number of plain web servers, which are asked for ranges
//! of it. All of them send at the same time. One that is lost, or cut short, or has other bytes
//! is passed, and the others bring what it was to bring. A disk is looked at first, and only
//! what it lacks is fetched: so a restore that was interrupted goes on.

mod lane;

use super::room::disks::Disks;
use super::{Here, Level, Order, Protocol, World};
use crate::Error;
use crate::digest::Digest;
use crate::edge::world::Shelf as _;
use crate::guard::Pin;
use crate::image::Image as Found;
use crate::image::work::Work;
use crate::outcome::{Amount, Received, Sent};
use crate::room::keep;
use crate::room::manifest::Manifest;
use crate::room::{Ask, Told};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use lane::{Came, Lane};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const NAME: &str = "image";
/// The longest sleep.
const NAP: Duration = Duration::from_millis(200);
/// A server whose bytes do not come for so long is passed.
const STALLED: Duration = Duration::from_secs(10);

/// An image.
#[derive(Debug)]
pub struct Image {
    /// A file, or URLs of the same one.
    places: Vec<String>,
}

impl Protocol for Image {
    fn new(argument: &str) -> Result<Self, Error> {
        let places: Vec<String> = argument
            .split(',')
            .filter(|place| !place.is_empty())
            .map(ToString::to_string)
            .collect();
        if places.is_empty() {
            return Err(Error::Unfit { what: "the image", why: "has no URL" });
        }
        Ok(Self { places })
    }

    fn receive(&self, here: &Here, world: &mut dyn World) -> Result<Received, Error> {
        if here.pins.key.is_some() {
            return Err(Error::Unfit {
                what: "an image",
                why: "has no key; bw.clone.digest=blake3:HEX or --digest says which one it must be",
            });
        }
        let lanes = self.places.iter().map(|place| Lane::new(place));
        let mut lanes = lanes.collect::<Result<Vec<_>, _>>()?;
        let (image, pinned) = found(&mut lanes, here, world)?;
        let places = world.places().map_err(|why| Error::Store { why })?;
        let disks = Disks::new(&image.manifest, places, world, None);
        let mut disks = disks.map_err(|trouble| Error::Store { why: trouble.to_string() })?;
        let have = match disks.ask(Ask::Scan, &mut || ()) {
            Told::Scanned(have) => have,
            other => return Err(failed(other)),
        };
        let all = have.len();
        world.say(Level::News, &format!("the disk has {} of {all} chunks", have.count()));
        let layout = &image.manifest.layout;
        let done =
            have.iter().filter_map(|n| layout.chunk(n)).map(|c| u64::from(c.bytes)).sum::<u64>();
        let mut restore = Restore {
            work: Work::new(have.not(), lanes.len()),
            lanes,
            image,
            disks,
            done,
            came: 0,
        };
        restore.run(here, world)?;
        world.say(Level::News, &format!("{} came", Amount(restore.came)));
        let came = Some((restore.came, restore.done - done));
        finished(&mut restore.disks, &restore.image.manifest, pinned, came)
    }

    fn send(&self, _: &Order<'_>, _: &mut dyn World) -> Result<Sent, Error> {
        Err(Error::Unfit { what: "an image", why: "is handed out by a web server" })
    }
}

fn digest(manifest: &Manifest) -> Digest {
    Digest { bytes: manifest.layout.used(), blake3: *manifest.root() }
}

/// Writes what something else than an image gives, to as many places as there are disks. It is
/// asked for the bytes of each disk in their order.
///
/// # Errors
/// A place cannot be written, or the bytes are not those of the manifest.
pub fn write(
    manifest: &Arc<Manifest>,
    fetch: &mut keep::Fetch<'_, Error>,
    world: &mut dyn World,
) -> Result<Received, Error> {
    let places = world.places().map_err(|why| Error::Store { why })?;
    let disks = Disks::new(manifest, places, world, None);
    let mut disks = disks.map_err(|trouble| Error::Store { why: trouble.to_string() })?;
    let have = match disks.ask(Ask::Scan, &mut || ()) {
        Told::Scanned(have) => have,
        other => return Err(failed(other)),
    };
    let (layout, mut done) = (&manifest.layout, 0);
    for n in 0..layout.count() {
        done += layout.chunk(n).map_or(0, |chunk| u64::from(chunk.bytes));
        if have.has(n) {
            continue;
        }
        let bytes = keep::read(layout, n, fetch)?.filter(|bytes| manifest.is(n, bytes));
        let bytes = bytes.ok_or_else(|| Error::Source { why: "it has changed".to_string() })?;
        match disks.ask(Ask::Store(n, Arc::new(bytes)), &mut || ()) {
            Told::Stored(_) => world.progress(done, Some(layout.used())),
            other => return Err(failed(other)),
        }
    }
    finished(&mut disks, manifest, false, None)
}

fn finished(
    disks: &mut Disks,
    manifest: &Manifest,
    pinned: bool,
    came: Option<(u64, u64)>,
) -> Result<Received, Error> {
    match disks.ask(Ask::Finish, &mut || ()) {
        Told::Kept(read_back) => Ok(Received {
            digests: Vec::from([digest(manifest)]),
            equal: true,
            read_back,
            pinned,
            sender: None,
            came: came.map(|came| came.0),
            unpacked: came.map(|came| came.1),
        }),
        other => Err(failed(other)),
    }
}

fn failed(told: Told) -> Error {
    let why = match told {
        Told::Failed(why) => why,
        _ => "the disk does not answer".to_string(),
    };
    Error::Store { why }
}

/// The reasons of all of them that have one.
fn reasons(lanes: &[Lane]) -> String {
    let all = lanes.iter().filter(|lane| !lane.why.is_empty());
    let all = all.map(|lane| format!("{}: {}", lane.name, lane.why));
    all.collect::<Vec<_>>().join("; ")
}

/// What the image holds, from the first place that has it, and whether it is what the user
/// named.
fn found(lanes: &mut [Lane], here: &Here, world: &mut dyn World) -> Result<(Found, bool), Error> {
    let began = world.now();
    let pin = match world.pinned() {
        Some(Pin::Blake3(root)) => Some(*root),
        Some(Pin::Sha256(_)) => {
            return Err(Error::Unfit { what: "an image", why: "is named by its blake3 digest" });
        }
        None => None,
    };
    loop {
        for at in 0..lanes.len() {
            let ready = |lane: &&mut Lane| lane.ready(world.now());
            let Some(lane) = lanes.get_mut(at).filter(ready) else { continue };
            let found = lane.head(world).and_then(|image| {
                match pin.is_none_or(|root| root == *image.manifest.root()) {
                    true => Ok(image),
                    false => {
                        let own = Pin::Blake3(*image.manifest.root());
                        Err((
                            format!("is another image than the digest names: its own is {own}"),
                            true,
                        ))
                    }
                }
            });
            match found {
                Ok(image) => {
                    tell(&image, &lane.name, world);
                    let end = image.place(image.manifest.layout.count().saturating_sub(1));
                    let end = end.map_or(0, |place| place.end);
                    lanes.iter_mut().for_each(|lane| lane.same(end));
                    return Ok((image, pin.is_some()));
                }
                Err((why, last)) => {
                    let news = (lane.why != why).then(|| format!("{}: {why}", lane.name));
                    lane.failed(why, last, world.now());
                    // The error that follows the last one names the reasons itself.
                    if let Some(text) = news.filter(|_| lanes.iter().any(|lane| !lane.refused)) {
                        world.say(Level::News, &text);
                    }
                }
            }
        }
        if lanes.iter().all(|lane| lane.refused) {
            return Err(Error::Fetch { why: reasons(lanes) });
        }
        Error::stalled(NAME, "server", (began, here.patience.start), world.now())
            .map_err(|stalled| stalled.because(&reasons(lanes)))?;
        netboot::io::pause(NAP);
    }
}

fn tell(image: &Found, from: &str, world: &mut dyn World) {
    let layout = &image.manifest.layout;
    for disk in &layout.disks {
        let used = disk.used.iter().map(|extent| extent.length).sum();
        let text =
            format!("{from}: {}, {} of {} in use", disk.name, Amount(used), Amount(disk.size));
        world.say(Level::News, &text);
    }
}

/// A restore under way.
struct Restore {
    image: Found,
    lanes: Vec<Lane>,
    work: Work,
    disks: Disks,
    /// Bytes of the disks that are there.
    done: u64,
    /// Packed bytes that came.
    came: u64,
}

impl Restore {
    fn run(&mut self, here: &Here, world: &mut dyn World) -> Result<(), Error> {
        let used = self.image.manifest.layout.used();
        let mut moved = world.now();
        while !self.work.over() {
            let before = self.came;
            for at in 0..self.lanes.len() {
                self.ask(at, world);
            }
            self.wait();
            for at in 0..self.lanes.len() {
                self.turn(at, world)?;
            }
            let now = world.now();
            if self.came != before {
                moved = now;
            }
            world.progress(self.done, Some(used));
            if self.lanes.iter().all(|lane| lane.refused) {
                return Err(Error::Fetch { why: reasons(&self.lanes) });
            }
            Error::stalled(NAME, "chunk", (moved, here.patience.stall), now)
                .map_err(|stalled| stalled.because(&reasons(&self.lanes)))?;
        }
        Ok(())
    }

    fn fail(&mut self, at: usize, why: String, last: bool, world: &mut dyn World) {
        self.work.lost(at);
        let Some(lane) = self.lanes.get_mut(at) else { return };
        let then = if last { "it is not asked again" } else { "it is asked again later" };
        let text = format!("{}: {why}; {then}", lane.name);
        lane.failed(why, last, world.now());
        // The error that follows the last one names the reasons itself.
        if self.lanes.iter().any(|lane| !lane.refused) {
            world.say(Level::News, &text);
        }
    }

    /// Gives a server that has nothing to do its next chunk.
    fn ask(&mut self, at: usize, world: &mut dyn World) {
        let now = world.now();
        let Some(lane) = self.lanes.get_mut(at) else { return };
        if !lane.ready(now) || lane.chunk.is_some() {
            return;
        }
        let Some(n) = self.work.next(at) else { return };
        let Some(place) = self.image.place(n) else { return };
        let asked = lane.ask(&place, world);
        (lane.chunk, lane.moved) = (Some(n), world.now());
        // From its beginning for each run: only when there is no other.
        let repeats = lane.repeats();
        if let Err((why, last)) = asked {
            self.fail(at, why, last, world);
        } else if repeats > 0 {
            let others = (0..).zip(&self.lanes).filter(|(other, _)| *other != at);
            let alone = others.into_iter().all(|(_, lane)| lane.refused);
            let why = "answers no range requests and sends the file from its beginning";
            match (alone, self.lanes.get(at)) {
                (true, Some(lane)) => world.say(
                    Level::News,
                    &format!("{}: {why}; {} come for nothing", lane.name, Amount(repeats)),
                ),
                _ => self.fail(at, why.to_string(), true, world),
            }
        }
    }

    /// Until a server has sent something.
    fn wait(&self) {
        let busy = || self.lanes.iter().filter(|lane| lane.chunk.is_some());
        if busy().any(|lane| lane.waits_for().is_none()) {
            return;
        }
        let fds = busy().filter_map(Lane::waits_for);
        let mut fds: Vec<PollFd<'_>> =
            fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let nap = Timespec { tv_sec: 0, tv_nsec: i64::from(NAP.subsec_nanos()) };
        let _ = poll(&mut fds, Some(&nap));
    }

    /// Takes what a server has sent.
    fn turn(&mut self, at: usize, world: &mut dyn World) -> Result<(), Error> {
        let now = world.now();
        let Some(lane) = self.lanes.get_mut(at) else { return Ok(()) };
        let Some((n, place)) = lane.chunk.and_then(|n| Some((n, self.image.place(n)?))) else {
            return Ok(());
        };
        let there = lane.waits_for().is_none_or(|fd| {
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap_or(0) > 0
        });
        if !there {
            if now.saturating_sub(lane.moved) >= STALLED {
                let why = format!("has sent nothing for {} s", STALLED.as_secs());
                self.fail(at, why, false, world);
            }
            return Ok(());
        }
        match lane.read(&place) {
            Ok(Came::Nothing) => {}
            Ok(Came::Some) => lane.moved = now,
            Ok(Came::All(packed)) => {
                lane.good();
                self.came += packed.len() as u64;
                let Some(bytes) = self.image.chunk(n, &packed) else {
                    let why = format!("has other bytes than the image in chunk {n}");
                    self.fail(at, why, true, world);
                    return Ok(());
                };
                self.done += bytes.len() as u64;
                match self.disks.ask(Ask::Store(n, Arc::new(bytes)), &mut || ()) {
                    Told::Stored(_) => self.work.came(n),
                    other => return Err(failed(other)),
                }
            }
            Err((why, last)) => self.fail(at, why, last, world),
        }
        Ok(())
    }
}
