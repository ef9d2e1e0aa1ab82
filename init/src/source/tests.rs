//! The search over a world of tables, see `cases.txt`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cmdline::plan::{DeviceSelector, Mac, ScanRule, Seconds, Source};
use cmdline::render::brief;
use liveroot::layout;
use liveroot::{Found, Root};
use overlay::probe::{Format, Superblock};
use rustix::io::Errno;
use sys::clock::Instant;

use super::reach::{Offer, Reach, Reached};
use super::search::Search;
use crate::device::{self, Candidate};
use crate::log::Level;
use crate::trace::Fault;

/// Something that the search can come upon.
struct Thing {
    name: String,
    kind: String,
    files: PathBuf,
    /// When it appears.
    at: Instant,
}

/// A machine made of a table; its clock goes on only while the search waits.
struct World {
    dir: tempfile::TempDir,
    things: Vec<Thing>,
    now: Instant,
    settled: bool,
    said: String,
}

impl World {
    fn new(rows: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut things = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            if let Some(disk) = row.strip_prefix("removable ") {
                let disk = dir.path().join("sysfs").join(disk);
                fs::create_dir_all(&disk).unwrap();
                fs::write(disk.join("removable"), "1\n").unwrap();
                continue;
            }
            let (at, row) = match row.strip_prefix('+').and_then(|row| row.split_once(' ')) {
                Some((seconds, row)) => (seconds.parse::<u64>().unwrap() * 1000, row),
                None => (0, *row),
            };
            let mut parts = row.split('|').map(str::trim);
            let name = parts.next().unwrap().to_string();
            let kind = parts.next().unwrap_or_else(|| panic!("{row} has no kind")).to_string();
            let files = dir.path().join(number.to_string());
            fs::create_dir(&files).unwrap();
            for file in parts.next().unwrap_or_default().split(' ').filter(|file| !file.is_empty())
            {
                fs::create_dir_all(files.join(file).parent().unwrap()).unwrap();
                fs::write(files.join(file), file).unwrap();
            }
            if let Some(partition) =
                name.strip_prefix("/dev/").filter(|name| name.ends_with(char::is_numeric))
            {
                let node = dir.path().join("sysfs").join(partition);
                fs::create_dir_all(&node).unwrap();
                fs::write(node.join("partition"), "1\n").unwrap();
            }
            things.push(Thing { name, kind, files, at: Instant::from_millis(at) });
        }
        Self { dir, things, now: Instant::ZERO, settled: false, said: String::new() }
    }

    /// The thing of this name, or of a file of this name, that has appeared.
    fn thing(&self, name: &str) -> Option<&Thing> {
        let mut there = self.things.iter().filter(|thing| thing.at <= self.now);
        there.find(|thing| {
            let is_file = !name.starts_with("/dev/");
            thing.name == name
                || is_file && thing.name.rsplit('/').next() == name.rsplit('/').next()
        })
    }

    fn format(kind: &str) -> Option<Format> {
        let word = kind.split(' ').next().unwrap();
        Some(match word {
            "ext4" => Format::Ext,
            "vfat" => Format::Vfat,
            "iso9660" => Format::Iso9660,
            "squashfs" => Format::Squashfs,
            "swap" => Format::Swap,
            "gzip" => Format::Gzip,
            "unknown" => return None,
            other => panic!("{other} is no kind of thing"),
        })
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_string()
    }
}

impl Reach for World {
    fn say(&mut self, _: Level, text: &str) {
        writeln!(self.said, "{text}").unwrap();
    }

    fn tried(&mut self, _: &str, _: &str) {}

    fn now(&self) -> Instant {
        self.now
    }

    fn wait(&mut self, deadline: Instant) {
        let now = self.now;
        let next = self.things.iter().map(|thing| thing.at).filter(|at| *at > now).min();
        // The bus is silent the first time that nothing happens.
        if self.settled {
            self.now = next.map_or(deadline, |next| next.min(deadline));
        }
        self.settled = true;
    }

    fn changes(&self) -> u64 {
        self.things.iter().filter(|thing| thing.at <= self.now).count() as u64
    }

    fn settled(&self) -> bool {
        self.settled
    }

    fn mac(&self) -> Option<Mac> {
        None
    }

    fn reach(
        &mut self,
        source: &Source,
        target: &str,
        _: Option<Seconds>,
    ) -> Result<Reached, (String, Fault)> {
        let name = brief(source);
        let fail = |fault: Fault| (name.clone(), fault);
        let thing = self.thing(&name).ok_or_else(|| fail("there is no server".into()))?;
        let offer = match thing.kind.split_once(' ') {
            Some(("refused", why)) => return Err(fail(why.into())),
            Some(("hopeless", why)) => return Err(fail(Fault::from(why).last())),
            _ if thing.kind == "tree" => {
                link(&thing.files, target);
                Offer::Tree(target.to_string())
            }
            _ => Offer::Blob(format!("/file/{}", name.rsplit('/').next().unwrap())),
        };
        Ok((Vec::from([offer]), name))
    }

    fn release(&mut self, source: &Source, offers: &[Offer]) {
        assert_eq!(offers.len(), 1, "an offer that was not taken is released");
        if let Some(Offer::Tree(target)) = offers.first() {
            self.unmount(target);
        }
        self.say(Level::Detail, &format!("lets go of {}", brief(source)));
    }

    fn candidates(&self, rule: &ScanRule) -> Vec<Candidate> {
        let there = self.things.iter().filter(|thing| thing.at <= self.now);
        let names = there.filter_map(|thing| thing.name.strip_prefix("/dev/"));
        device::candidates(&self.path("sysfs"), names, rule)
    }

    fn resolve(&mut self, selector: &DeviceSelector) -> Result<String, Fault> {
        let there = self.things.iter().filter(|thing| thing.at <= self.now);
        let mut there = there.filter(|thing| thing.name.starts_with("/dev/"));
        let found = match selector {
            DeviceSelector::Path(path) => there.find(|thing| thing.name == *path),
            DeviceSelector::Label(label) => {
                there.find(|thing| thing.kind.split(' ').nth(1) == Some(label.as_str()))
            }
            other => panic!("{other:?} is in no table"),
        };
        found.map(|thing| thing.name.clone()).ok_or_else(|| match selector {
            DeviceSelector::Path(path) => format!("there is no device {path}").into(),
            _ => format!("no device has {}", cmdline::render::property(selector)).into(),
        })
    }

    fn inspect(&mut self, path: &str) -> Result<Option<Superblock>, Fault> {
        let thing = self.thing(path).ok_or(Fault::new("cannot be read", Errno::NOENT))?;
        if thing.kind == "unreadable" {
            return Err(Fault::new("cannot be read", Errno::IO));
        }
        let known =
            |format| Superblock { format, label: String::new(), uuid: String::new(), size: None };
        Ok(Self::format(&thing.kind).map(known))
    }

    fn partition(&mut self, disk: &str, number: u32) -> Result<String, Fault> {
        let name = format!("{disk}{number}");
        self.thing(&name).map(|thing| thing.name.clone()).ok_or_else(|| "has no such".into())
    }

    fn mount(&mut self, blob: &str, target: &str, _: bool) -> Result<(), Fault> {
        let found = self.inspect(blob)?.ok_or("has no known file system")?;
        if found.format.fs_type().is_none() {
            return Err(format!("is {}", found.format).into());
        }
        link(&self.thing(blob).unwrap().files, target);
        Ok(())
    }

    fn unmount(&mut self, target: &str) {
        fs::remove_file(target).unwrap();
    }

    fn expand(&mut self, _: &str) -> Result<Option<String>, Fault> {
        Ok(None)
    }
}

/// "Mounts" files: nothing else may be mounted there.
fn link(files: &Path, target: &str) {
    fs::create_dir_all(Path::new(target).parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(files, target)
        .unwrap_or_else(|error| panic!("{target} is in use: {error}"));
}

fn show(found: &Found, world: &World) -> String {
    let medium = found.medium.as_deref().unwrap_or_default();
    let mut text = match &found.root {
        Root::Tree(_) => "tree".to_string(),
        Root::Blob(path) => format!("blob {}", path.trim_start_matches("/file/")),
        Root::Layers(layers) => layers.iter().fold("layers".to_string(), |text, layer| {
            assert!(Path::new(&layer.path).starts_with(world.dir.path()));
            format!("{text} {}", layer.path.trim_start_matches(medium).trim_start_matches('/'))
        }),
    };
    write!(text, " from {}", found.origin).unwrap();
    if let Some(blob) = &found.medium_blob {
        write!(text, " on {}", blob.replace(&world.path("mnt"), "")).unwrap();
    }
    text
}

/// One case: the line, and its rows.
fn check(line: &str, rows: &[&str]) -> Vec<String> {
    let is_claim =
        |row: &&str| row.starts_with(['=', '~', '!']) || row.ends_with(" s") && !row.contains('|');
    let (claims, things): (Vec<&str>, Vec<&str>) = rows.iter().partition(|row| is_claim(row));
    assert!(claims.iter().any(|claim| claim.starts_with('=')), "{line}: claims nothing");
    let mut world = World::new(&things);
    let plan = cmdline::parse(line, &cmdline::Context::default());
    let mut places = layout::of(plan.handoff.layout);
    // Tests mount below their own directory.
    places.medium = world.path("mnt/medium").leak();
    places.container = world.path("mnt/container").leak();
    let target = world.path("mnt/root");
    let result = Search::new(&mut world, &plan, places, &target, false).run();
    let result = match result {
        Ok(found) => show(&found, &world),
        Err(failure) => {
            for tried in &failure.tried {
                world.say(Level::Detail, &format!("{}: {}", tried.what, tried.why));
            }
            world.say(Level::Detail, &failure.remedy);
            let mounted = fs::read_dir(world.path("mnt")).map_or(0, Iterator::count);
            assert_eq!(mounted, 0, "{line}: something stays mounted");
            "fails".to_string()
        }
    };
    let said = world.said.replace(&world.path(""), "/");
    let mut broken = Vec::new();
    for claim in claims {
        let holds = match claim.split_at(1) {
            ("=", wanted) => result == wanted.trim(),
            ("~", text) => said.contains(text.trim()),
            ("!", text) => !said.contains(text.trim()),
            _ => {
                let seconds = claim.trim_end_matches(" s").parse().unwrap();
                world.now.since(Instant::ZERO) == Duration::from_secs(seconds)
            }
        };
        if !holds {
            let now = world.now;
            broken.push(format!("{line}\n  {claim}\nfails at {now:?}: {result}\n{said}"));
        }
    }
    broken
}

#[test]
fn cases() {
    let mut case: (&str, Vec<&str>) = ("", Vec::new());
    let (mut count, mut broken) = (0, Vec::new());
    for row in include_str!("cases.txt").lines().chain(["end"]) {
        if row.is_empty() || row.starts_with('#') {
            continue;
        }
        if row.starts_with(' ') {
            case.1.push(row.trim());
            continue;
        }
        if !case.0.is_empty() {
            broken.extend(check(case.0, &case.1));
            count += 1;
        }
        case = (row, Vec::new());
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(count > 15, "only {count} cases were read");
}
