//! The mounting steps of `/init` on real mounts, in a mount namespace of their own:
//! between the unit tests and the machines.
//!
//! Root is not needed: `unshare` gives a user namespace to those who are not root.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::Command;

use coldplug::index::Class;
use init::changes::apply;
use init::log::Log;
use init::machine::{Machine, Orders};
use init::newroot::NewRoot;
use init::persist::Kept;
use init::{expand, unpack};
use liveroot::{Act, Change};
use overlay::persistence_conf;
use rustix::mount::{MountFlags, mount};

/// Set in the process that has the namespace.
const INSIDE: &str = "BELLWETHER_IN_NAMESPACE";

/// Runs a test of this file again in a new mount namespace; true in there, with a tmpfs
/// of its own at the directory that it gets.
fn in_namespace(test: &str, work: impl FnOnce(&Path)) {
    if std::env::var_os(INSIDE).is_some() {
        // Any directory does: no other process sees the mounts on it.
        let scratch = Path::new("/tmp");
        mount("tmpfs", scratch, "tmpfs", MountFlags::empty(), None).unwrap();
        work(scratch);
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]);
    if !rustix::process::getuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let status = command
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare of util-linux");
    assert!(status.success(), "{test}: {status}; are user namespaces allowed here?");
}

/// An image's tree whose usual directories are links that lead out of it when they are
/// followed from outside: absolute ones and climbing ones.
fn planted(root: &Path) {
    for made in ["data/var", "data/home/user", "data/etc", "usr/lib/live", "dev", "proc", "sys"] {
        fs::create_dir_all(root.join(made)).unwrap();
    }
    fs::write(root.join("data/home/user/.profile"), "image\n").unwrap();
    for (link, to) in [
        ("var", "/data/var"),
        ("home", "../../../../../data/home"),
        ("etc", "/data/etc"),
        ("lib", "/usr/lib"),
        ("run", "../../data/run"),
        ("srv", "/data/srv"),
    ] {
        symlink(to, root.join(link)).unwrap();
    }
}

/// What is below a directory, with where links lead; mounts are not entered.
fn listing(dir: &Path) -> String {
    let script = "find . -xdev -printf '%p %y %l\\n' | sort";
    let command = Command::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
    String::from_utf8(command.stdout).unwrap()
}

#[test]
fn mounts_go_where_planted_links_lead_inside() {
    in_namespace("mounts_go_where_planted_links_lead_inside", |scratch| {
        let (root, medium, outside) =
            (scratch.join("root"), scratch.join("medium"), scratch.join("data"));
        for dir in [&root, &medium, &outside] {
            fs::create_dir_all(dir).unwrap();
        }
        mount("tmpfs", &root, "tmpfs", MountFlags::empty(), None).unwrap();
        mount("tmpfs", &medium, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(medium.join("on-medium"), "").unwrap();
        planted(&root);
        let before = listing(scratch);
        let new = NewRoot::at(root.to_str().unwrap()).unwrap();
        let medium = medium.to_str().unwrap();
        let changes = [
            Change::new(Act::Bind, "/lib/live/mount", medium),
            Change::new(Act::Move, "/var/cdrom", medium),
            Change::new(Act::Link, "/srv/link", "/var/cdrom"),
            Change::file("/etc/deep/new", "text"),
            Change::new(Act::Rename, "/home/new", "/etc/deep/new"),
        ];
        assert!(apply(&new, &mut Log::open(), &changes));
        for path in ["usr/lib/live/mount/on-medium", "data/var/cdrom/on-medium"] {
            assert!(root.join(path).exists(), "{path}");
        }
        assert_eq!(fs::read_to_string(root.join("data/home/new")).unwrap(), "text");
        assert!(root.join("data/srv/link").symlink_metadata().unwrap().is_symlink());
        // As the initramfs' own /run in the end.
        mount("run", scratch.join("data"), "tmpfs", MountFlags::empty(), None).unwrap();
        new.take(scratch.join("data").to_str().unwrap(), "/run").unwrap();
        assert_eq!(listing(scratch), before, "something outside the new root changed");
    });
}

#[test]
fn directories_are_kept_behind_planted_links() {
    in_namespace("directories_are_kept_behind_planted_links", |scratch| {
        let (root, volume) = (scratch.join("root"), scratch.join("volume"));
        for dir in [&root, &volume, &scratch.join("data")] {
            fs::create_dir_all(dir).unwrap();
        }
        mount("tmpfs", &root, "tmpfs", MountFlags::empty(), None).unwrap();
        planted(&root);
        fs::create_dir_all(volume.join("conf")).unwrap();
        fs::write(volume.join("conf/kept.conf"), "kept").unwrap();
        let (entries, complaints) = persistence_conf::parse(
            "/home/user bind,source=user\n/var union,source=var\n/etc link,source=conf\n",
        );
        assert_eq!((entries.len(), complaints.len()), (3, 0), "{complaints:?}");
        let on = volume.to_str().unwrap().to_string();
        let kept = Kept {
            origin: "a volume".into(),
            root: None,
            entries: entries.into_iter().map(|entry| (on.clone(), entry)).collect(),
            home: None,
            read_only: false,
        };
        let outside = listing(&scratch.join("data"));
        let new = NewRoot::at(root.to_str().unwrap()).unwrap();
        kept.place(&mut Log::open(), &new);
        fs::write(root.join("data/home/user/new"), "new").unwrap();
        fs::write(root.join("data/var/new"), "new").unwrap();
        // Filled from the image the first time, and written to ever after.
        assert_eq!(fs::read_to_string(volume.join("user/.profile")).unwrap(), "image\n");
        assert_eq!(fs::read_to_string(volume.join("user/new")).unwrap(), "new");
        assert_eq!(fs::read_to_string(volume.join("var/rw/new")).unwrap(), "new");
        assert_eq!(fs::read_to_string(root.join("data/etc/kept.conf")).unwrap(), "kept");
        assert_eq!(listing(&scratch.join("data")), outside);
    });
}

/// A machine on the kernel that runs the test; no driver is loaded.
fn machine(line: &'static str) -> Machine {
    let plan = Box::leak(Box::new(cmdline::parse(line, &cmdline::Context::default())));
    let line = Box::leak(Box::new(cmdline::secrets::PrivateLine::new(line.to_string())));
    Machine::new(Log::open(), Orders { plan, line, env: Vec::new() }, Class::BUS)
}

/// Packs what a script makes in a directory of its own; `$out` is the archive.
fn packed(scratch: &Path, name: &str, script: &str) -> String {
    let dir = scratch.join(format!("{name}.d"));
    fs::create_dir_all(&dir).unwrap();
    let out = scratch.join(name);
    let mut command = Command::new("sh");
    command.args(["-ec", script]).current_dir(dir).env("out", &out);
    assert!(command.status().unwrap().success(), "{script}");
    out.to_str().unwrap().to_string()
}

#[test]
fn an_unpacked_root_has_its_devices_and_an_archive_of_nothing_is_refused() {
    let this = "an_unpacked_root_has_its_devices_and_an_archive_of_nothing_is_refused";
    in_namespace(this, |scratch| {
        let mut machine = machine("");
        // Who is not the machine's root makes no device, there is none to test then.
        let makes = "mkdir -p sbin; echo x >sbin/init; mknod null c 1 3 || true; tar -cf $out .";
        let root = packed(scratch, "root.tar", makes);
        let target = scratch.join("target");
        let to = target.to_str().unwrap();
        assert_eq!(unpack::unpacked(&mut machine, &root, to), Ok(true));
        if target.join("null").symlink_metadata().is_ok_and(|m| m.file_type().is_char_device()) {
            fs::write(target.join("null"), "what is written here is gone").unwrap();
        }
        for (name, script, said) in [
            ("none.cpio", "true | cpio -o -H newc --quiet >$out", "is an empty archive"),
            ("none.tar.gz", "tar -cT /dev/null | gzip >$out", "no archive once it is expanded"),
            ("none.gz", "true | gzip >$out", "no archive once it is expanded (0 KiB)"),
        ] {
            let archive = packed(scratch, name, script);
            let mut take = || {
                unpack::unpacked(&mut machine, &archive, to)?;
                expand::expanded(&mut machine, &archive)
            };
            let why = take().unwrap_err().to_string();
            assert!(why.contains(said), "{name}: {why}");
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains("/expanded/"), "the memory is not free: {mounts}");
    });
}
