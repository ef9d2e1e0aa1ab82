//! Every kind of file at every path of a medium or a root that `/init` opens: nothing but
//! a regular file is opened. A pipe on a medium stopped the boot for ever, and opening a
//! device can do things by itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use cmdline::plan::{ImagePick, ImageRule, Integrity};
use coldplug::index::Class;
use init::log::Log;
use init::look::Here;
use init::machine::{Machine, Orders};
use init::newroot::NewRoot;
use init::{block, copy, expand, images, integrity, setup, unpack};
use liveroot::{Found, Layer, Root};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

/// A kind of file, and what makes one at a path.
type Kind = (&'static str, fn(&Path) -> bool);

/// What a medium may hold where a file is expected; a kind that
/// cannot be made (devices, for who is not root) is left out.
const KINDS: &[Kind] = &[
    ("a pipe", |at| node(at, FileType::Fifo, (0, 0))),
    ("a character device", |at| node(at, FileType::CharacterDevice, (1, 3))),
    ("a block device", |at| node(at, FileType::BlockDevice, (1, 0))),
    ("a socket", |at| UnixListener::bind(at).is_ok()),
    ("a link to a pipe", |at| {
        let pipe = at.with_extension("pipe");
        node(&pipe, FileType::Fifo, (0, 0)) && symlink(&pipe, at).is_ok()
    }),
    ("a directory", |at| fs::create_dir(at).is_ok()),
    ("a dangling link", |at| symlink("nothing", at).is_ok()),
    ("a link to itself", |at| symlink(at.file_name().unwrap(), at).is_ok()),
];

fn node(at: &Path, kind: FileType, (major, minor): (u32, u32)) -> bool {
    mknodat(CWD, at, kind, Mode::from_raw_mode(0o644), makedev(major, minor)).is_ok()
}

fn machine(line: &'static str) -> Machine {
    let plan = Box::leak(Box::new(cmdline::parse(line, &cmdline::Context::default())));
    let line = Box::leak(Box::new(cmdline::secrets::PrivateLine::new(line.to_string())));
    Machine::new(Log::open(), Orders { plan, line, env: Vec::new() }, Class::BUS)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn suffixes(list: &str) -> ImageRule {
    let pick = ImagePick::Suffixes {
        groups: vec![vec!["squashfs".into()]],
        skip: Vec::new(),
        module_list: vec![list.into()],
        per_mac: false,
    };
    ImageRule { dirs: vec!["live".into()], pick, nested: Vec::new() }
}

fn on_medium(medium: &Path, root: Root) -> Found {
    Found { medium: Some(text(medium).into()), ..Found::root("the test", root) }
}

/// What casper sets up in a root, by the root's files and the medium's.
fn casper(root: &Path, medium: Option<&Path>) -> bool {
    let mut machine = machine("boot=casper");
    let plan = machine.orders.plan;
    let at = |path: &Path| NewRoot::at(text(path)).unwrap();
    let (root, on) = (at(root), medium.map(at));
    let mut here = Here { machine: &mut machine, root: &root, medium: on, remote: false };
    setup::apply(
        plan,
        &Found::root("the test", Root::Tree("/".into())),
        &mut here,
        medium.map(text),
    );
    false
}

const DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A path below the medium (or root), and what opens it; true when it was taken for
/// something.
type Place = (&'static str, fn(&Path, &Path) -> bool);

const PLACES: &[Place] = &[
    ("live/filesystem.module", |medium, _| {
        // Without a list the images are what lies there.
        fs::write(medium.join("live/filesystem.squashfs"), "").unwrap();
        let rule = suffixes("filesystem.module");
        images::pick(&rule, text(medium), None).unwrap().len() != 1
    }),
    ("live/filesystem.squashfs", |_, odd| block::inspect(text(odd)).is_ok()),
    ("live/root.tar.gz", |_, odd| unpack::archive_in(text(odd)).is_some()),
    ("live/root.tar", |medium, odd| {
        unpack::unpacked(&mut machine(""), text(odd), text(&medium.join("to"))) != Ok(false)
    }),
    ("live/disk.img.xz", |_, odd| expand::expanded(&mut machine(""), text(odd)) != Ok(None)),
    ("live/to-check.squashfs", |medium, odd| {
        let plan = [Integrity::Digest { algorithm: "sha256".into(), hex: DIGEST.into() }];
        let layer = Layer { name: "x".into(), path: text(odd).into(), is_dir: false };
        let found = on_medium(medium, Root::Layers(vec![layer]));
        integrity::check_images(&mut machine(""), &plan, &found).is_ok()
    }),
    ("sha256sum.txt", |medium, _| {
        let plan = [Integrity::MediumSums(vec!["sha256sum.txt".into()])];
        let found = on_medium(medium, Root::Tree("/none".into()));
        integrity::check_medium(&mut machine(""), &plan, &found).is_ok()
    }),
    ("live/summed", |medium, _| {
        fs::write(medium.join("SHA256SUMS"), format!("{DIGEST}  ./live/summed\n")).unwrap();
        let plan = [Integrity::MediumSums(vec!["SHA256SUMS".into()])];
        let found = on_medium(medium, Root::Tree("/none".into()));
        integrity::check_medium(&mut machine(""), &plan, &found).is_ok()
    }),
    ("live/embedded.iso", |medium, odd| {
        let mut found = on_medium(medium, Root::Tree("/none".into()));
        found.medium_blob = Some(text(odd).into());
        integrity::check_medium(&mut machine(""), &[Integrity::EmbeddedMd5], &found).is_ok()
    }),
    (".disk/info", |medium, _| {
        let root = medium.join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        casper(&root, Some(medium))
    }),
    ("etc/casper.conf", |medium, _| casper(medium, None)),
    ("etc/fstab", |medium, _| NewRoot::at(text(medium)).unwrap().read("/etc/fstab").is_some()),
    ("etc/hostname", |medium, odd| {
        let new = NewRoot::at(text(medium)).unwrap();
        // It gives way, unless it is a directory.
        let written = new.replace("/etc/hostname", "name", 0o644).is_ok();
        written && fs::symlink_metadata(odd).is_ok_and(|meta| !meta.is_file())
    }),
    ("live/copied", |medium, odd| {
        let to = text(&medium.join("copy")).to_string();
        copy::file(&mut Log::open(), text(odd), &to, &mut copy::Progress::new("x", 0)).is_ok()
    }),
    ("live/tree", |medium, _| {
        // A tree with it is copied, with a node of its kind.
        fs::create_dir(medium.join("copies")).unwrap();
        let (from, to) = (medium.join("live"), medium.join("copies"));
        let mut progress = copy::Progress::new("x", 0);
        let copied = copy::tree(&mut Log::open(), text(&from), text(&to), &mut progress);
        copied.is_err()
    }),
];

#[test]
fn files_of_every_kind() {
    for (kind, make) in KINDS {
        for (path, takes) in PLACES {
            let dir = tempfile::tempdir().unwrap();
            for made in ["live", ".disk", "etc"] {
                fs::create_dir(dir.path().join(made)).unwrap();
            }
            let odd: PathBuf = dir.path().join(path);
            if !make(&odd) {
                eprintln!("{kind} cannot be made here");
                break;
            }
            let opened = inotify::init(CreateFlags::NONBLOCK).unwrap();
            let watched = fs::metadata(&odd).is_ok_and(|meta| !meta.is_dir());
            if watched {
                inotify::add_watch(&opened, &odd, WatchFlags::OPEN).unwrap();
            }
            assert!(!takes(dir.path(), &odd), "{kind} at {path} is taken for a file");
            // Events have 16 bytes, the second four of which say what happened. The end of
            // a file that gives way is one, too.
            let mut events = [0; 256];
            let length = rustix::io::read(&opened, &mut events).unwrap_or(0);
            let open = |event: &[u8]| event[4..8] == WatchFlags::OPEN.bits().to_ne_bytes();
            assert!(!events[..length].chunks(16).any(open), "{kind} at {path} was opened");
        }
    }
}

/// Files that open something by themselves, and how often: each is a file of `/init`'s
/// own, in `/dev` or below `/run`, or is looked at in a test above. All else goes through
/// `sys::file::open_read`, `open_data` and `NewRoot`, which open regular files only.
const OPENING: &[(&str, usize)] = &[
    ("clone.rs", 1),
    ("copy.rs", 4),
    ("device.rs", 2),
    ("expand.rs", 1),
    ("fetch.rs", 1),
    ("firmware.rs", 1),
    ("log.rs", 2),
    ("newroot.rs", 4),
    ("p2v.rs", 1),
    ("p2v_edit.rs", 4),
    ("persist/volume.rs", 1),
    ("snapshot.rs", 2),
    ("unpack.rs", 2),
    ("watch.rs", 1),
];

fn count(dir: &Path, found: &mut Vec<(String, usize)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            count(&path, found);
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let code = source.split("#[cfg(test)]").next().unwrap();
        let lines = code.lines().map(str::trim).filter(|line| !line.starts_with("//"));
        let raw = |line: &&str| {
            [
                " open(",
                "(open(",
                "&open(",
                "!open(",
                "openat(",
                "fs::open(",
                "file::open(",
                "openat2(",
            ]
            .iter()
            .any(|call| line.contains(call))
                && !line.contains("fn ")
        };
        let number = lines.filter(raw).count();
        if number > 0 {
            let name = path.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap();
            found.push((name.display().to_string(), number));
        }
    }
}

#[test]
fn files_that_open_something_by_themselves_are_known() {
    let mut found = Vec::new();
    count(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);
    found.sort();
    let found: Vec<(&str, usize)> = found.iter().map(|(name, n)| (&**name, *n)).collect();
    assert_eq!(found, OPENING, "a foreign file is opened by sys::file::open_read or NewRoot");
}
