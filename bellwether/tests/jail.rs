//! What a running `share` can still do on its machine, and what it gives out. Needs root, and the
//! packages iproute2, curl, e2fsprogs and grub-efi-amd64-bin.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[allow(dead_code, reason = "the tests of copies use the rest")]
mod room;

use room::{Room, Running, initramfs};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const OWN: u32 = 72_355;
const SECRET: &str = "what only root may read";

struct Site {
    room: Room,
    medium: PathBuf,
    outside: PathBuf,
    state: PathBuf,
}

impl Site {
    /// A medium on node 0, and a secret beside it with the names of the medium's files.
    fn new(nodes: usize) -> Self {
        let room = Room::new(nodes);
        fs::set_permissions(room.dir.path(), Permissions::from_mode(0o755)).unwrap();
        let (medium, outside) = (room.path("medium"), room.path("outside"));
        let state = room.path("state");
        fs::create_dir_all(medium.join("live")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        for name in ["vmlinuz", "initrd.img", "filesystem.squashfs", "pipe"] {
            fs::write(medium.join("live").join(name), "shared").unwrap();
            fs::write(outside.join(name), SECRET).unwrap();
            fs::set_permissions(outside.join(name), Permissions::from_mode(0o600)).unwrap();
        }
        fs::write(medium.join("live/initrd.img"), initramfs()).unwrap();
        fs::write(medium.join("closed"), "the owner's").unwrap();
        fs::set_permissions(medium.join("closed"), Permissions::from_mode(0o600)).unwrap();
        Self { room, medium, outside, state }
    }

    /// Starts `share` on node 0, behind these words. grub-mkimage tells what it could do.
    fn share(&self, before: &[&str]) -> Running {
        let tools = self.room.path("tools");
        fs::create_dir_all(&tools).unwrap();
        fs::set_permissions(&tools, Permissions::from_mode(0o777)).unwrap();
        let tool = tools.join("grub-mkimage");
        let script = format!("#!/bin/sh\ncat /proc/self/status >{}/tool.$$\n", tools.display());
        fs::write(&tool, script).unwrap();
        fs::set_permissions(&tool, Permissions::from_mode(0o755)).unwrap();
        // Where the tree is built may be closed to other users, as a home of root's is.
        let command = tools.join("bellwether");
        fs::copy(env!("CARGO_BIN_EXE_bellwether"), &command).unwrap();
        let path = format!("PATH={}:{}", tools.display(), std::env::var("PATH").unwrap());
        let mut all = before.to_vec();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (state, medium) = (text(&self.state), text(&self.medium));
        let command = text(&command);
        all.extend(["env", path.as_str(), &command, "share", "--plain"]);
        all.extend(["--init", "/bin/true", "--interface", "eth0", "--dhcp", "proxy"]);
        all.extend(["--keep-settings", "--state", &state, &medium]);
        self.room.start(0, &all)
    }

    /// Fetches a path on a node; how it ended and what came.
    fn get(&self, node: usize, words: &[&str]) -> (bool, String) {
        let out = self.room.path("got");
        let _ = fs::remove_file(&out);
        let mut all = vec!["curl", "-s", "-m", "5", "-o", out.to_str().unwrap()];
        all.extend(words);
        let ended = self.room.start(node, &all).ends(20);
        (ended, fs::read_to_string(&out).unwrap_or_default())
    }
}

/// A process's rights: the lines of a status file of /proc, the first word of each value.
fn rights(status: &str) -> Vec<(String, String)> {
    let wanted = [
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
    ];
    let rows = status.lines().filter_map(|line| line.split_once(':'));
    let rows = rows.filter(|(name, _)| wanted.contains(name));
    let rows = rows.map(|(name, value)| {
        let words: Vec<&str> = value.split_whitespace().collect();
        let same = name != "Groups" && words.iter().all(|word| *word == words[0]);
        (name.to_owned(), if same { words[0].to_owned() } else { words.join(" ") })
    });
    rows.collect()
}

/// The rights of a process without any, under this user; `seccomp` is 2 behind a filter.
fn none(user: u32, seccomp: u32) -> Vec<(String, String)> {
    let user = user.to_string();
    let zero = "0".repeat(16);
    let seccomp = seccomp.to_string();
    [
        ("Uid", user.as_str()),
        ("Gid", &user),
        ("Groups", ""),
        ("CapInh", &zero),
        ("CapPrm", &zero),
        ("CapEff", &zero),
        ("CapBnd", &zero),
        ("CapAmb", &zero),
        ("NoNewPrivs", "1"),
        ("Seccomp", &seccomp),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// Every thread of a process: its name and rights.
fn threads(process: u32) -> Vec<(String, Vec<(String, String)>)> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|task| {
        let task = task.unwrap().path();
        let name = fs::read_to_string(task.join("comm")).unwrap();
        (name.trim().to_owned(), rights(&fs::read_to_string(task.join("status")).unwrap()))
    });
    tasks.collect()
}

fn owner_and_mode(path: &Path) -> (u32, u32) {
    let about = path.symlink_metadata().unwrap();
    (about.uid(), about.mode() & 0o7777)
}

#[test]
fn a_server_that_runs_can_only_serve() {
    let site = Site::new(2);
    let settings = site.state.join("settings");
    // A state of an older version, with traps of the user that it was given to.
    fs::create_dir_all(&settings).unwrap();
    fs::write(site.state.join("leases-eth0"), "").unwrap();
    fs::write(settings.join("52-54-00-00-00-01.img"), "old").unwrap();
    chown(&settings, Some(65534), Some(65534)).unwrap();
    let secret = site.outside.join("vmlinuz");
    symlink(&secret, settings.join("52-54-00-00-00-02.img")).unwrap();
    fs::hard_link(&secret, settings.join("52-54-00-00-00-03.img")).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(settings.join("52-54-00-00-00-04.img"))
            .status()
            .unwrap()
            .success()
    );

    let rich =
        ["setpriv", "--groups", "4,27", "--inh-caps", "+net_raw", "--ambient-caps", "+net_raw"];
    let mut share = site.share(&rich);
    share.says("ready: switch clients on");
    // A client of each kind is connected: the page's viewer, and a disk of its own.
    let at = site.room.ip(0);
    let _viewer = site.room.start(1, &["curl", "-s", "-N", &format!("http://{at}:8080/events")]);
    let disk = format!(
        "mac=$(cat /sys/class/net/eth0/address | tr : -); exec 3<>/dev/tcp/{at}/10809
         head -c 18 <&3 >/dev/null; printf '\\0\\0\\0\\3IHAVEOPT\\0\\0\\0\\7\\0\\0\\0\\x1c\\0\\0\\0\\x16keep-%s\\0\\0' $mac >&3
         head -c 20 <&3 >/dev/null && echo has a disk; exec sleep infinity"
    );
    let client = site.room.start(1, &["mount", "-t", "sysfs", "none", "/sys"]).ends(5);
    assert!(client, "sysfs of the node");
    let client = site.room.start(1, &["bash", "-c", &disk]);
    client.says("has a disk");

    let found = threads(share.child.id());
    for name in ["bellwether", "dhcp", "tftp", "http", "nfs", "nbd"] {
        assert!(found.iter().any(|(found, _)| found == name), "{name}: {found:?}");
    }
    for (name, rights) in &found {
        assert_eq!(*rights, none(OWN, 2), "thread {name}");
    }
    // The boot-loader tool ran without root, too, and before the list of calls.
    let tools: Vec<_> =
        fs::read_dir(site.room.path("tools")).unwrap().map(|e| e.unwrap().path()).collect();
    let told: Vec<_> = tools.iter().filter(|p| p.to_string_lossy().contains("/tool.")).collect();
    assert!(!told.is_empty(), "no GRUB modules on this machine");
    for told in told {
        assert_eq!(rights(&fs::read_to_string(told).unwrap()), none(OWN, 0));
    }
    // What it keeps is closed to all others, and the traps are what they were.
    assert_eq!(owner_and_mode(&site.state), (OWN, 0o700));
    assert_eq!(owner_and_mode(&settings), (OWN, 0o700));
    assert_eq!(owner_and_mode(&site.state.join("leases-eth0")), (OWN, 0o600));
    assert_eq!(owner_and_mode(&secret), (0, 0o600));
    let kept: Vec<_> = fs::read_dir(&settings).unwrap().map(|e| e.unwrap().path()).collect();
    let files = kept.iter().filter(|path| {
        let about = path.symlink_metadata().unwrap();
        about.is_file() && about.nlink() == 1
    });
    let files: Vec<_> = files.collect();
    assert_eq!(files.len(), 2, "{kept:?}");
    for file in files {
        assert_eq!(owner_and_mode(file), (OWN, 0o600), "{}", file.display());
    }
    let pipe = settings.join("52-54-00-00-00-04.img");
    assert_eq!(pipe.symlink_metadata().unwrap().uid(), 0);
    share.kill();
}

#[test]
fn what_is_swapped_after_the_start_is_not_given_out() {
    let site = Site::new(3);
    let mut share = site.share(&["setpriv", "--clear-groups"]);
    share.says("ready: switch clients on");
    let base = format!("http://{}:8080/medium", site.room.ip(0));
    let url = |path: &str| format!("{base}/{path}");
    assert_eq!(site.get(1, &[&url("live/vmlinuz")]), (true, "shared".into()));
    assert_eq!(site.get(1, &[&url("closed")]), (true, "the owner's".into()));
    // Its own machine, and no other network than the one that it was told.
    assert_eq!(site.get(0, &[&url("live/vmlinuz")]), (true, "shared".into()));
    site.room.cable(0, 2);
    assert_eq!(site.get(2, &[&url("live/vmlinuz")]), (false, String::new()));
    for port in ["2049", "10809", "8080"] {
        let open = format!("exec 3<>/dev/tcp/{}/{port}", site.room.ip(0));
        assert!(site.room.start(1, &["bash", "-c", &open]).ends(9), "{port}");
        assert!(!site.room.start(2, &["bash", "-c", &open]).ends(9), "{port}");
    }
    // A name that was made to point here.
    let (_, text) = site.get(
        1,
        &["-H", "Host: evil.example", &format!("http://{}:8080/state.json", site.room.ip(0))],
    );
    assert!(text.starts_with("Misdirected Request: this server has another name"), "{text}");

    fs::remove_file(site.medium.join("live/pipe")).unwrap();
    assert!(Command::new("mkfifo").arg(site.medium.join("live/pipe")).status().unwrap().success());
    assert!(!site.get(1, &[&url("live/pipe")]).1.contains("shared"));
    fs::rename(site.medium.join("live"), site.medium.join("old")).unwrap();
    symlink(&site.outside, site.medium.join("live")).unwrap();
    // The server could not read the secret, either: that must not be why.
    for name in ["vmlinuz", "initrd.img", "filesystem.squashfs", "pipe"] {
        fs::set_permissions(site.outside.join(name), Permissions::from_mode(0o644)).unwrap();
        let (_, text) = site.get(1, &[&url(&format!("live/{name}"))]);
        assert!(!text.contains(&SECRET[..4]), "{name}: {text}");
    }
    let tftp = format!("tftp://{}/medium/live/vmlinuz", site.room.ip(0));
    let (_, text) = site.get(1, &[&tftp]);
    assert!(!text.contains(&SECRET[..4]), "{text}");
    assert_eq!(site.get(1, &[&url("closed")]), (true, "the owner's".into()));
    share.kill();
}

/// A medium that cannot be parsed finds a parser without root.
#[test]
fn root_is_gone_before_anything_is_parsed() {
    let site = Site::new(1);
    fs::write(site.medium.join("live/initrd.img"), "not an archive").unwrap();
    // Without a kernel the medium cannot be shared, and nothing but parsing tells.
    fs::remove_file(site.medium.join("live/vmlinuz")).unwrap();
    let mut share = site.share(&["setpriv", "--clear-groups"]);
    share.fails(60);
    assert!(share.log().contains("no kernel in a usual place"), "{}", share.log());
    assert_eq!(owner_and_mode(&site.state), (OWN, 0o700));
}

#[test]
fn a_directory_with_other_things_is_not_taken() {
    let site = Site::new(1);
    fs::create_dir(&site.state).unwrap();
    fs::write(site.state.join("thesis.tex"), "").unwrap();
    let mut share = site.share(&["setpriv", "--clear-groups"]);
    share.fails(60);
    assert!(share.log().contains("also holds \"thesis.tex\""), "{}", share.log());
    assert_eq!(owner_and_mode(&site.state).0, 0);
}

#[test]
fn a_user_without_root_shares_as_itself() {
    let site = Site::new(2);
    let ports = "echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start";
    site.room.start(0, &["sh", "-c", ports]).succeeds(9);
    fs::create_dir(&site.state).unwrap();
    chown(&site.state, Some(1000), Some(1000)).unwrap();
    fs::remove_file(site.medium.join("closed")).unwrap();
    // It may have got capabilities, for example to bind ports, and keeps none.
    let words = "setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps +net_raw \
                 --ambient-caps +net_raw";
    let mut share = site.share(&words.split_whitespace().collect::<Vec<_>>());
    share.says("ready: switch clients on");
    let base = format!("http://{}:8080/medium/live/vmlinuz", site.room.ip(0));
    assert_eq!(site.get(1, &[&base]), (true, "shared".into()));
    for (name, rights) in threads(share.child.id()) {
        // Only root can empty the bounding set; no_new_privs has the same effect.
        let all: Vec<_> = rights.into_iter().filter(|(name, _)| name != "CapBnd").collect();
        let wanted: Vec<_> =
            none(1000, 2).into_iter().filter(|(name, _)| name != "CapBnd").collect();
        assert_eq!(all, wanted, "thread {name}");
    }
    share.kill();
}

/// Ctrl-C while it starts took three seconds.
#[test]
fn it_can_be_ended_while_it_starts() {
    let site = Site::new(1);
    let (state, medium) = (site.state.to_str().unwrap(), site.medium.to_str().unwrap());
    let words = ["--plain", "--init", "/bin/true", "--interface", "eth0", "--state", state, medium];
    let program = [env!("CARGO_BIN_EXE_bellwether"), "share"];
    let mut share = site.room.start(0, &[&program, &words[..]].concat());
    // It looks for another DHCP server for seconds.
    share.says("Debian live layout");
    let began = std::time::Instant::now();
    Command::new("kill").args(["-INT", &share.child.id().to_string()]).status().unwrap();
    assert!(share.ends(2), "after {:?}", began.elapsed());
}
