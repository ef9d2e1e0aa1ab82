//! A whole boot up to the point where the root is chosen: a line that pins, and a machine
//! whose servers, disks and media answer anything.
//!
//! The promise: what the line pins is what is taken, or the boot stops.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use cmdline::BootPlan;
use cmdline::needs::{Steps, needs};
use cmdline::plan::{DeviceSelector, Integrity, Mac, ScanRule, Seconds, Source};
use init::device::Candidate;
use init::log::Level;
use init::source::{Offer, Reach, Reached, find_in};
use init::trace::Fault;
use liveroot::layout::{self, Layout};
use liveroot::{Found, Root};
use overlay::probe::{Format, Superblock};
use sys::clock::Instant;

/// What lies in a file of the world, so that its first bytes say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Image,
    Archive,
    Other,
}

/// Files and directories that the world answers with, made once.
struct Props {
    dir: tempfile::TempDir,
    blobs: Vec<PathBuf>,
    trees: Vec<PathBuf>,
}

/// The media: paths, and what stands there. A directory ends in a slash.
const TREES: &[&[&str]] = &[
    &["live/filesystem.squashfs=image"],
    &["live/filesystem.squashfs=archive"],
    &["live/filesystem.squashfs/etc/"],
    &["live/filesystem.squashfs=image", "live/zz.squashfs=image"],
    &["live/filesystem.squashfs=image", "live/aa.squashfs=archive", "live/filesystem.module=list"],
    &["live/filesystem.squashfs=image", "live/525400123456/own.squashfs=image"],
    &["live/filesystem.squashfs=image", "live/tree.dir/etc/"],
    &["usr/bin/", "etc/", "sbin/init=other"],
    &["casper/filesystem.squashfs=image", "casper/minimal.squashfs=image"],
    &["casper/filesystem.squashfs=archive"],
    &["LiveOS/squashfs.img=image"],
    &["LiveOS/squashfs.img/LiveOS/"],
    &["x.img=image", "filesystem.squashfs=archive", "x.tar=archive"],
    &[],
];

fn write(path: &Path, kind: &str) {
    let mut tar = vec![0; 1024];
    tar[..5].copy_from_slice(b"a.txt");
    tar[124..135].copy_from_slice(b"00000000000");
    tar[156] = b'0';
    tar[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = tar.iter().take(512).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut image = vec![0; 4096];
    image[..4].copy_from_slice(b"hsqs");
    image[28..30].copy_from_slice(&4u16.to_le_bytes());
    let bytes = match kind {
        "image" => image,
        "archive" => tar,
        "list" => b"filesystem.squashfs ../../x aa.squashfs\n".to_vec(),
        _ => b"nothing that is known".to_vec(),
    };
    fs::write(path, bytes).expect("the temporary directory can be written");
}

static PROPS: LazyLock<Props> = LazyLock::new(|| {
    let dir = crate::directory();
    let mut props = Props { blobs: Vec::new(), trees: Vec::new(), dir };
    let at = |name: &str| props.dir.path().join(name);
    for kind in ["image", "archive", "other"] {
        for name in ["filesystem.squashfs", "x.img"] {
            let place = at(&format!("blobs/{kind}"));
            fs::create_dir_all(&place).expect("it can be written");
            write(&place.join(name), kind);
            props.blobs.push(place.join(name));
        }
    }
    for (number, paths) in TREES.iter().enumerate() {
        let tree = at(&format!("trees/{number}"));
        fs::create_dir_all(&tree).expect("it can be written");
        for path in *paths {
            let (path, kind) = path.split_once('=').unwrap_or((path, ""));
            let path = tree.join(path);
            let made =
                if kind.is_empty() { path.as_path() } else { path.parent().unwrap_or(&path) };
            fs::create_dir_all(made).expect("it can be written");
            if !kind.is_empty() {
                write(&path, kind);
            }
        }
        props.trees.push(tree);
    }
    props
});

/// What a file is, by who made it and not by the code under test; nothing for devices.
fn kind(path: &str) -> Option<Kind> {
    let bytes = fs::read(path).ok().filter(|_| !path.starts_with("/dev/"))?;
    Some(match bytes.get(..4) {
        Some(b"hsqs") => Kind::Image,
        Some(b"a.tx") => Kind::Archive,
        _ => Kind::Other,
    })
}

/// A machine whose every answer is the next byte of the input.
struct World<'a> {
    answers: &'a [u8],
    now: Instant,
    changes: u64,
    mounted: Vec<String>,
}

impl World<'_> {
    fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.answers.split_first() else { return 0 };
        self.answers = rest;
        usize::from(*first)
    }

    fn blob(&mut self) -> String {
        let blobs = &PROPS.blobs;
        blobs[self.byte() % blobs.len()].to_string_lossy().into_owned()
    }

    /// "Mounts" any of the trees.
    fn tree(&mut self, target: &str) -> Result<(), Fault> {
        let trees = &PROPS.trees;
        let tree = &trees[self.byte() % trees.len()];
        let parent = Path::new(target).parent().expect("mount points have a parent");
        fs::create_dir_all(parent).expect("the temporary directory can be written");
        symlink(tree, target).map_err(|_| Fault::from("is in use"))?;
        self.mounted.push(target.to_string());
        Ok(())
    }
}

impl Reach for World<'_> {
    fn say(&mut self, _: Level, _: &str) {}

    fn tried(&mut self, _: &str, _: &str) {}

    fn now(&self) -> Instant {
        self.now
    }

    fn wait(&mut self, deadline: Instant) {
        self.now = deadline.max(self.now.after(Duration::from_millis(1)));
        self.changes += u64::from(self.byte() % 4 == 1);
    }

    fn changes(&self) -> u64 {
        self.changes
    }

    fn settled(&self) -> bool {
        self.answers.first().is_none_or(|byte| byte % 2 == 0)
    }

    fn mac(&self) -> Option<Mac> {
        Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]))
    }

    fn reach(
        &mut self,
        _: &Source,
        target: &str,
        _: Option<Seconds>,
    ) -> Result<Reached, (String, Fault)> {
        let name = "a server".to_owned();
        let offers = match self.byte() % 6 {
            0 => return Err((name, "is down".into())),
            1 => return Err((name, Fault::from("has no such file").last())),
            2 | 3 => match self.tree(target) {
                Ok(()) => vec![Offer::Tree(target.to_owned())],
                Err(fault) => return Err((name, fault)),
            },
            4 => vec![Offer::Blob(self.blob())],
            _ => vec![Offer::Blob(self.blob()), Offer::Blob(self.blob())],
        };
        Ok((offers, name))
    }

    fn release(&mut self, _: &Source, offers: &[Offer]) {
        if let Some(Offer::Tree(target)) = offers.first() {
            self.unmount(target);
        }
    }

    fn candidates(&self, rule: &ScanRule) -> Vec<Candidate> {
        init::device::candidates("/nonexistent", ["xda1", "xr0"].into_iter(), rule)
    }

    fn resolve(&mut self, _: &DeviceSelector) -> Result<String, Fault> {
        if self.byte() % 4 == 1 { Err("is not there".into()) } else { Ok(self.blob()) }
    }

    fn inspect(&mut self, path: &str) -> Result<Option<Superblock>, Fault> {
        let format = match (kind(path), self.byte() % 4) {
            (_, 1) => return Err("cannot be read".into()),
            (Some(Kind::Image), _) | (None, 0) => Format::Squashfs,
            (Some(Kind::Archive), _) => Format::Tar,
            _ => return Ok(None),
        };
        Ok(Some(Superblock { format, label: String::new(), uuid: String::new(), size: None }))
    }

    fn partition(&mut self, _: &str, _: u32) -> Result<String, Fault> {
        if self.byte() % 4 == 1 { Err("is not there".into()) } else { Ok(self.blob()) }
    }

    fn mount(&mut self, _: &str, target: &str, _: bool) -> Result<(), Fault> {
        if self.byte() % 4 == 1 { Err("is damaged".into()) } else { self.tree(target) }
    }

    fn unmount(&mut self, target: &str) {
        self.mounted.retain(|mounted| mounted != target);
        let _ = fs::remove_file(target);
    }

    fn expand(&mut self, _: &str) -> Result<Option<String>, Fault> {
        match self.byte() % 4 {
            1 => Err("is damaged".into()),
            2 => Ok(Some(self.blob())),
            _ => Ok(None),
        }
    }
}

const HASH: &str = "abababababababababababababababababababababababababababababababab";

/// How a line pins, and whether every dialect reads the word.
const PINS: [(&str, bool); 6] = [
    ("bw.verity=", true),
    ("bw.verity=filesystem.squashfs:", true),
    ("bw.digest=sha256:", true),
    ("dm-verity-root-hash=filesystem.squashfs:", false),
    ("roothash=", false),
    ("", false),
];

const LINES: [&str; 10] = [
    "boot=live",
    "boot=live fetch=http://10.0.0.1/filesystem.squashfs",
    "boot=live netboot=nfs nfsroot=10.0.0.1:/srv",
    "boot=casper",
    "root=live:LABEL=x rd.live.image",
    "root=/dev/sda1 rd.luks=0",
    "bw.root=http://10.0.0.1/x.img",
    "bw.root=nbd:10.0.0.1:live",
    "bw.root=file:/x.img@/dev/sda1",
    "archisobasedir=arch archisolabel=x",
];

/// The first two bytes choose the pin and the line, the next says how much text of the
/// input stands behind them on the line; the rest are the world's answers.
pub fn boot_plan(data: &[u8]) {
    let [pin, line, length, rest @ ..] = data else { return };
    let (pin, everywhere) = PINS[usize::from(*pin) % PINS.len()];
    let line = LINES[usize::from(*line) % LINES.len()];
    let (more, answers) = rest.split_at(usize::from(length % 64).min(rest.len()));
    let pin = if pin.is_empty() { String::new() } else { format!("{pin}{HASH}") };
    let line = format!("{pin} {line} {}", String::from_utf8_lossy(more));
    let mut plan = cmdline::parse(&line, &cmdline::Context::default());
    if !plan.can_work() {
        return;
    }
    let pins = |plan: &BootPlan| {
        let pin = |i: &Integrity| matches!(i, Integrity::Verity { .. } | Integrity::Digest { .. });
        plan.root.integrity.iter().any(pin)
    };
    assert!(pins(&plan) || !everywhere, "{line}: the pin is lost");
    let lacks = needs(&plan).lacking(Steps::READ_HERE).0;
    assert!(!pins(&plan) || !lacks.is_empty(), "{line}: a program without checks would boot it");
    // An answer may come round after round; three show what there is to see.
    let retry = &mut plan.root.retry;
    retry.attempts = if retry.attempts == 0 { 3 } else { retry.attempts.min(3) };
    search(&plan, answers, &line);
}

fn search(plan: &BootPlan, answers: &[u8], line: &str) {
    // Threads of a test do not share their mount points.
    static PLACES: LazyLock<(String, String, String)> = LazyLock::new(|| {
        let at = |name: &str| PROPS.dir.path().join("mnt").join(name);
        let at = |name: &str| at(name).to_string_lossy().into_owned();
        (at("medium"), at("container"), at("root"))
    });
    let (medium, container, root) = &*PLACES;
    let mut world = World { answers, now: Instant::ZERO, changes: 0, mounted: Vec::new() };
    let places = Layout { medium, container, ..layout::of(plan.handoff.layout) };
    let found = find_in(&mut world, plan, places, root, false);
    if let Ok(found) = &found {
        judge(plan, found, line);
    }
    for target in std::mem::take(&mut world.mounted).iter().rev() {
        world.unmount(target);
    }
}

/// What was found, held against the line by what the files are.
fn judge(plan: &BootPlan, found: &Found, line: &str) {
    let layers: Vec<(String, String)> = match &found.root {
        Root::Tree(_) => Vec::new(),
        Root::Blob(path) => {
            vec![(path.rsplit('/').next().unwrap_or(path).to_owned(), path.clone())]
        }
        Root::Layers(layers) => {
            layers.iter().map(|layer| (layer.name.clone(), layer.path.clone())).collect()
        }
    };
    for (_, path) in &layers {
        let path = Path::new(path);
        let known = path.starts_with("/dev/x") || path.starts_with(PROPS.dir.path());
        assert!(known, "{line}: {path:?} is nowhere");
        assert!(!path.components().any(|part| part.as_os_str() == ".."), "{line}: {path:?}");
    }
    let integrity = &plan.root.integrity;
    if init::pinning::decide(integrity, &init::layers::seen(found)).is_err() {
        return;
    }
    for pin in integrity {
        match pin {
            Integrity::Verity { image, .. } => {
                assert!(!layers.is_empty(), "{line}: a tree is no image");
                let covered = |name: &str| match image.as_str() {
                    "" => layers.len() == 1,
                    image => name == image || name.split('.').next() == Some(image),
                };
                assert!(layers.iter().any(|(name, _)| covered(name)), "{line}: {layers:?}");
            }
            Integrity::Digest { .. } => {
                let file = |path: &String| path.starts_with("/dev/") || Path::new(path).is_file();
                assert!(!layers.is_empty(), "{line}: a tree has no digest");
                assert!(layers.iter().all(|(_, path)| file(path)), "{line}: {layers:?}");
            }
            Integrity::EmbeddedMd5 | Integrity::MediumSums(_) => {}
        }
    }
    let by_root_hash: Vec<&str> = integrity
        .iter()
        .filter_map(|pin| match pin {
            Integrity::Verity { image, .. } => Some(image.as_str()),
            _ => None,
        })
        .collect();
    if by_root_hash.is_empty() {
        return;
    }
    for (name, path) in &layers {
        let image = path.starts_with("/dev/") || kind(path) == Some(Kind::Image);
        assert!(image, "{line}: {path} is not under a root hash");
        let covers = |image: &&str| image.is_empty() || name.starts_with(*image);
        assert!(by_root_hash.iter().any(covers), "{line}: no root hash for {name}");
    }
}
