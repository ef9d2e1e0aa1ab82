//! `--files`: trees, file by file, with rsync as the one who says whether they are equal.

use crate::room::{Room, Running, until};
use std::path::Path;
use std::process::Command;

/// A tree with everything that Linux has, and nothing that is the same by chance.
const TREE: &str = r#"
mkdir -p a/b/c empty deep/er; echo hello >a/one; ln a/one a/b/two; ln -s ../../x a/link
head -c 3000001 /dev/urandom >a/b/big; : >zero; touch "a name
in two lines"; truncate -s 50M sparse
dd if=/dev/urandom of=sparse bs=4096 count=3 seek=1000 conv=notrunc status=none
mknod device c 1 3; mknod disk b 7 200; mkfifo pipe; chmod 4755 a/one
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
chown 1234:5678 a/b/big; chown -h 9:9 a/link; chmod 0500 empty; chmod 1777 deep
setfattr -n user.x -v y a/b/c; setfattr -n trusted.y -v z a/link -h; setfacl -m u:77:rw a/one
setfacl -d -m u:78:rwx a/b; touch -d '2001-02-03 04:05:06.789' a/b/c; touch -h -d '1960-01-01' a/link
i=0; while [ $i -lt 300 ]; do echo $i >deep/er/f$i; i=$((i+1)); done; setcap cap_net_raw+ep a/b/big
"#;

fn shell(dir: &Path, script: &str) -> String {
    let said = Command::new("sh").arg("-ec").arg(script).current_dir(dir).output().unwrap();
    let all = [said.stdout, said.stderr].concat();
    let all = String::from_utf8_lossy(&all).into_owned();
    assert!(said.status.success(), "{script}: {all}");
    all
}

/// rsync finds nothing that it would change.
fn equal(room: &Room, copy: &str) {
    let script = format!("rsync -aHAXn --delete -i golden/ '{copy}/'");
    assert_eq!(shell(&room.path("."), &script), "", "{copy}");
    // It does not look at the content of what has the same size and time.
    let script = format!("rsync -aHAXnc --delete -i golden/ '{copy}/'");
    assert_eq!(shell(&room.path("."), &script), "", "{copy}");
}

fn golden(room: &Room) {
    std::fs::create_dir(room.path("golden")).unwrap();
    shell(&room.path("golden"), TREE);
}

fn receive(room: &Room, node: usize, more: &[&str]) -> Running {
    let copy = room.path(&format!("copy{node}"));
    let _ = std::fs::create_dir(&copy);
    let copy = copy.display().to_string();
    let words = ["receive", "--files", &copy, "--from", "10.77.0.1,10.77.0.2", "-a", "30"];
    room.bellwether(node, &[&words[..], more].concat())
}

fn send(room: &Room, nodes: &str) -> Running {
    let golden = room.path("golden").display().to_string();
    room.bellwether(0, &["send", "--files", &golden, "-n", nodes])
}

/// One machine with nothing, and one with an older tree in which much is in the way. Then only
/// what has changed travels.
#[test]
fn trees_to_two_and_again_only_what_differs() {
    let room = Room::new(3);
    golden(&room);
    std::fs::create_dir_all(room.path("outside/er")).unwrap();
    shell(&room.path("."), "echo keep >outside/er/f1; cp -a golden copy2");
    // Content, size and time of 'big' are as before, but for a byte; a hole has other bytes; a
    // link leads out of the tree; names are of another kind, or of the same file.
    shell(
        &room.path("copy2"),
        "touch -r a/b/big ../time; printf x | dd of=a/b/big bs=1 seek=2000000 conv=notrunc status=none
         touch -r ../time a/b/big; printf x | dd of=sparse bs=1 seek=9 conv=notrunc status=none
         rm -r deep empty pipe a/link; ln -s ../outside deep; mkdir -p pipe/x; ln zero empty
         ln a/b/big again; mkdir a/link; setfattr -n user.old -v y zero; chmod 0 zero; rm a/b/two
         ln -f device 'a/b/two'; echo own >'only here'",
    );
    for (again, most) in [(false, 9_000_000), (true, 600_000)] {
        let mut machines = [receive(&room, 1, &["--delete"]), receive(&room, 2, &["--delete"])];
        let mut sender = send(&room, "2");
        machines.iter_mut().for_each(|machine| machine.succeeds(60));
        sender.succeeds(60);
        for copy in ["copy1", "copy2"] {
            equal(&room, copy);
        }
        let traffic = room.traffic(0);
        if !again {
            assert!(traffic < most, "{traffic}");
            shell(&room.path("golden"), "echo more >>deep/er/f7; mv deep/er/f8 new; rm a/b/two");
        } else {
            assert!(traffic < 9_000_000 + most, "{traffic}");
            let log = machines[0].log();
            assert!(log.contains("read back") && log.contains(", of which "), "{log}");
        }
    }
    assert_eq!(shell(&room.path("outside"), "cat er/f1; find . | wc -l"), "keep\n3\n");
    assert_eq!(shell(&room.path("copy1"), "du -k sparse | cut -f1"), "12\n", "holes stay holes");
}

/// Without --delete nothing goes that the sender does not have; what cannot be made so is said
/// before anything changes.
#[test]
fn what_only_a_copy_has_stays_without_delete() {
    let room = Room::new(2);
    golden(&room);
    shell(&room.path("."), "mkdir -p copy1/deep copy1/zero/x; echo own >copy1/deep/own");
    let mut machine = receive(&room, 1, &[]);
    let mut sender = send(&room, "1");
    machine.fails(30);
    sender.kill();
    let log = machine.log();
    assert!(
        log.contains("zero: Is a directory") && log.contains("--delete takes it away"),
        "{log}"
    );
    assert_eq!(shell(&room.path("copy1"), "find . -type f"), "./deep/own\n");
    shell(&room.path("copy1"), "rm -r zero");
    let mut machine = receive(&room, 1, &[]);
    let mut sender = send(&room, "1");
    machine.succeeds(30);
    sender.succeeds(60);
    let differs = "rsync -aHAXn --delete -i golden/ copy1/";
    assert_eq!(shell(&room.path("."), differs), "*deleting   deep/own\n");
}

/// What ends with the test, also when it fails.
struct Mount(std::path::PathBuf);

impl Mount {
    fn new(words: &[&str], at: std::path::PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        assert!(Command::new("mount").args(words).arg(&at).status().unwrap().success());
        Self(at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// --delete emptied the file systems that were mounted at the target, and the directories at which
/// one was mounted at the sender.
#[test]
fn delete_does_not_empty_what_is_mounted() {
    let room = Room::new(2);
    let tmpfs = ["-t", "tmpfs", "none"];
    shell(
        &room.path("."),
        "mkdir -p golden/deep golden/data copy1/deep copy1/data copy1/gone bound
         echo new >golden/deep/new; echo own | tee copy1/data/own copy1/gone/own bound/own",
    );
    let _there = Mount::new(&tmpfs, room.path("golden/data"));
    shell(&room.path("golden"), "echo theirs >data/theirs");
    let bound = room.path("bound").display().to_string();
    // In a listed directory, in one that goes, and the same file system at another place.
    for (words, at) in
        [(&tmpfs[..], "deep"), (&tmpfs[..], "gone/sub"), (&["--bind", &bound], "gone/b")]
    {
        let mount = Mount::new(words, room.path("copy1").join(at));
        shell(&mount.0, "echo keep >keep");
        let mut machine = receive(&room, 1, &["--delete"]);
        let mut sender = send(&room, "1");
        machine.fails(30);
        sender.kill();
        let log = machine.log();
        assert!(log.contains(&format!("{at}: ")), "{log}");
        assert!(log.contains("neither changes nor deletes"), "{log}");
        assert_eq!(shell(&mount.0, "cat keep"), "keep\n");
        assert_eq!(shell(&room.path("copy1"), "cat gone/own"), "own\n");
        assert!(!room.path("copy1/deep/new").exists());
    }
    // What is mounted where the sender has another one is no matter.
    for mounted in [true, false] {
        let mount = mounted.then(|| Mount::new(&tmpfs, room.path("copy1/data")));
        shell(&room.path("copy1"), "echo keep >data/keep; mkdir -p gone/more");
        let mut machine = receive(&room, 1, &["--delete"]);
        let mut sender = send(&room, "1");
        machine.succeeds(30);
        sender.succeeds(30);
        let has = if mounted { "data/keep\n" } else { "data/keep\ndata/own\n" };
        assert_eq!(shell(&room.path("copy1"), "ls -d data/* gone 2>/dev/null || true"), has);
        drop(mount);
    }
    assert_eq!(shell(&room.path("copy1"), "cat deep/new"), "new\n");
}

/// A subvolume of btrfs has no mount of its own. At the sender it is left out; at a machine nothing
/// of it goes.
#[test]
fn a_subvolume_counts_as_another_file_system() {
    let room = Room::new(2);
    shell(&room.path("."), "truncate -s 256M image; mkfs.btrfs -q image");
    let image = room.path("image").display().to_string();
    let volume = Mount::new(&["-o", "loop", &image], room.path("volume"));
    shell(
        &volume.0,
        "mkdir golden copy; btrfs -q subvolume create golden/own; echo theirs >golden/own/theirs
         btrfs -q subvolume create copy/snapshot; echo keep >copy/snapshot/keep
         mkdir copy/own; echo keep >copy/own/keep; echo new >golden/new",
    );
    let _golden =
        Mount::new(&["--bind", &format!("{}/golden", volume.0.display())], room.path("golden"));
    let _copy =
        Mount::new(&["--bind", &format!("{}/copy", volume.0.display())], room.path("copy1"));
    let mut machine = receive(&room, 1, &["--delete"]);
    let mut sender = send(&room, "1");
    machine.fails(30);
    sender.kill();
    let log = machine.log();
    assert!(log.contains("snapshot: ") && log.contains("a subvolume is there"), "{log}");
    assert_eq!(shell(&room.path("copy1"), "cat snapshot/keep; ls"), "keep\nown\nsnapshot\n");
    let mut machine = receive(&room, 1, &[]);
    let mut sender = send(&room, "1");
    machine.succeeds(30);
    sender.succeeds(30);
    let has = "own:\nkeep\n\nsnapshot:\nkeep\n";
    assert_eq!(shell(&room.path("copy1"), "cat new; ls own snapshot"), format!("new\n{has}"));
}

/// A machine without a right that copies to there, and its sender.
fn limited(room: &Room, without: &str, copy: &str) -> (Running, Running) {
    let program =
        ["setpriv", "--bounding-set", without, "--", env!("CARGO_BIN_EXE_bellwether"), "clone"];
    let path = room.path(copy).display().to_string();
    let words = ["receive", "--files", &path, "--from", "10.77.0.1", "-a", "30"];
    (room.start(1, &[&program[..], &words].concat()), send(room, "1"))
}

/// Without the right to give files away another user's program does not get the right to run as
/// the user who copies.
#[test]
fn files_of_another_owner_lose_set_user_id() {
    let room = Room::new(2);
    shell(
        &room.path("."),
        "mkdir golden copy1; cd golden; echo a >a; chown 7:7 a; chmod 6755 a
         echo b >b; chmod 6755 b; cp -a a ../copy1; chown 0:0 ../copy1/a; chmod 6755 ../copy1/a",
    );
    for copy in ["copy1", "copy2"] {
        let _ = std::fs::create_dir(room.path(copy));
        let (mut machine, mut sender) = limited(&room, "-chown", copy);
        machine.succeeds(30);
        sender.succeeds(30);
        let log = machine.log();
        assert!(log.contains("receive: WARNING: owner of a could not be set"), "{log}");
        assert!(log.contains("set-user-ID or set-group-ID bit of a could not be set"), "{log}");
        let modes = shell(&room.path(copy), "stat -c '%n %u %a' a b");
        assert_eq!(modes, "a 0 755\nb 0 6755\n");
    }
    // A directory that its owner may not write to.
    shell(&room.path("."), "mkdir -m 500 golden/ro copy1/ro; echo c >golden/ro/c");
    let (mut machine, mut sender) = limited(&room, "-dac_override", "copy1");
    machine.succeeds(30);
    sender.succeeds(30);
    assert_eq!(shell(&room.path("copy1"), "stat -c %a ro; cat ro/c"), "500\nc\n");
    // What cannot be made is found before anything changes.
    shell(&room.path("golden"), "mknod device c 1 3; echo other >b");
    let (mut machine, mut sender) = limited(&room, "-mknod", "copy1");
    machine.fails(30);
    sender.kill();
    assert!(machine.log().contains("device: Operation not permitted"), "{}", machine.log());
    assert_eq!(shell(&room.path("copy1"), "cat b"), "b\n");
}

/// A machine that is killed has its old tree, and goes on with what had come.
#[test]
fn a_tree_changes_only_when_all_is_there() {
    let room = Room::new(2);
    golden(&room);
    shell(&room.path("."), "mkdir copy1; echo old >copy1/zero; cp -a copy1 was");
    room.slow(20);
    let mut machine = receive(&room, 1, &[]);
    let mut sender = send(&room, "1");
    let stage = room.path("copy1/.bellwether-copy");
    let files = || std::fs::read_dir(&stage).map_or(0, |dir| dir.flatten().count());
    until(|| "files are staged".to_owned(), || files() > 3);
    machine.kill();
    let script = "rsync -aHAXn --delete --exclude /.bellwether-copy -i was/ copy1/ | { grep -v '^.d..t' || true; }; ls copy1";
    assert_eq!(shell(&room.path("."), script), "zero\n");
    let mut machine = receive(&room, 1, &["-v"]);
    machine.succeeds(60);
    sender.succeeds(60);
    let log = machine.log();
    let had = log.rsplit_once(" of 17 chunks were on the disk").map(|(log, _)| log);
    let had = had.and_then(|log| log.rsplit([' ', '\n']).next()?.parse::<u32>().ok());
    assert!(had.is_some_and(|had| had > 0), "{log}");
    equal(&room, "copy1");
}

/// Each says what the other sends.
#[test]
fn files_and_disks_are_told_apart() {
    let room = Room::new(2);
    golden(&room);
    for (words, why) in [
        (&["receive", "--delete", "/tmp/none"][..], "--delete is for --files DIR"),
        (&["receive", "--files", "/tmp", "--keep-table"], "--keep-table is for disks"),
        (&["send", "--files", "/tmp", "--whole"], "--whole is for disks"),
    ] {
        let mut refused = room.bellwether(1, words);
        refused.fails(9);
        assert!(refused.log().contains(why), "{}", refused.log());
    }
    let mut machine =
        room.bellwether(1, &["receive", "--from", "10.77.0.1", "-a", "9", "/tmp/none"]);
    let mut sender = send(&room, "1");
    machine.fails(30);
    sender.kill();
    assert!(machine.log().contains("receive --files DIR takes them"), "{}", machine.log());
    let big = room.path("golden/a/b/big").display().to_string();
    let mut machine = receive(&room, 1, &[]);
    let mut sender = room.bellwether(0, &["send", &big]);
    machine.fails(30);
    sender.kill();
    assert!(machine.log().contains("the sender sends disks, and no files"), "{}", machine.log());
}

/// What `chattr` closed was found when all data had come, and the answer was to run it as root.
#[test]
fn an_immutable_name_is_told_before_data_flows() {
    let room = Room::new(2);
    let cases = [
        ("i", "y", "echo 3 >y", "y", ""),
        ("a", "y", "echo 3 >y", "y", ""),
        ("i", "d", "mkdir d", "d/q", ""),
        ("i", "own", "echo 3 >own", "own", "--delete"),
    ];
    for (flag, shut, make, told, more) in cases {
        shell(&room.path("."), "rm -rf golden copy1; mkdir -p golden/d copy1; echo 1 >golden/a");
        shell(&room.path("golden"), "echo other >y; echo 2 >d/q");
        shell(&room.path("copy1"), &format!("{make}; chattr +{flag} {shut}"));
        let more: Vec<&str> = more.split_whitespace().collect();
        let mut machine = receive(&room, 1, &more);
        let mut sender = send(&room, "1");
        let failed = !machine.ends(30);
        sender.kill();
        shell(&room.path("copy1"), &format!("chattr -{flag} {shut}"));
        let log = machine.log();
        assert!(failed && log.contains(&format!("{told}: Operation not permitted")), "{log}");
        assert!(log.contains("chattr -ia takes that away"), "{log}");
        assert!(!log.contains("the disk has"), "{log}");
        assert!(!room.path("copy1/a").exists());
    }
    // One that need not change is no matter.
    shell(&room.path("."), "rm -rf copy1; cp -a golden copy1; rm copy1/a; chattr +i copy1/y");
    let mut machine = receive(&room, 1, &[]);
    let mut sender = send(&room, "1");
    let done = machine.ends(30);
    sender.ends(30);
    shell(&room.path("copy1"), "chattr -i y");
    assert!(done, "{}", machine.log());
    equal(&room, "copy1");
}

/// What a file system for Windows said to have set, and had not, was not told; a name that it does
/// not take was found when others had been changed.
#[test]
fn a_file_system_that_keeps_less_says_so() {
    let room = Room::new(2);
    shell(&room.path("."), "truncate -s 32M image; mkfs.ntfs -qF image; mkdir golden copy1");
    let image = room.path("image").display().to_string();
    let lower = room.path("copy1").display().to_string();
    let mounted = |options: &str| {
        let program = Command::new("lowntfs-3g").args(["-o", options, &image, &lower]).status();
        assert!(program.unwrap().success());
        Mount(room.path("copy1"))
    };
    let mount = mounted("windows_names");
    shell(&room.path("golden"), "echo 1 >A; echo 2 >'b:c'");
    let mut machine = receive(&room, 1, &[]);
    let mut sender = send(&room, "1");
    machine.fails(30);
    sender.kill();
    let log = machine.log();
    assert!(log.contains("b:c: Invalid argument"), "{log}");
    assert!(log.contains("this file system does not take the name"), "{log}");
    assert_eq!(shell(&room.path("copy1"), "ls"), "");
    drop(mount);
    let _mount = mounted("windows_names");
    shell(&room.path("golden"), "rm -f *; echo 1 >A; echo 2 >a; chown 7:7 A; chmod 640 A");
    let mut machine = receive(&room, 1, &[]);
    let mut sender = send(&room, "1");
    machine.succeeds(30);
    sender.succeeds(30);
    let log = machine.log();
    for what in ["owner of ", "mode of "] {
        assert!(log.contains(&format!("WARNING: {what}")), "{log}");
    }
}

/// A sender that could not go on was waited for, without a word why.
#[test]
fn machines_are_told_why_the_sender_ends() {
    let room = Room::new(2);
    std::fs::create_dir(room.path("golden")).unwrap();
    shell(&room.path("golden"), "head -c 30M /dev/urandom >a; head -c 9M /dev/urandom >b");
    room.slow(80);
    let mut machine = receive(&room, 1, &[]);
    let mut sender = send(&room, "1");
    sender.says("begins with 1 machine");
    shell(&room.path("golden"), "echo more >>b");
    sender.fails(30);
    machine.fails(30);
    let log = machine.log();
    assert!(log.contains("the sender ends: cannot read: b: changed while it was read"), "{log}");
}

/// The line about a full disk came once for each chunk that was on its way.
#[test]
fn a_full_target_is_told_once_and_with_what_helps() {
    let room = Room::new(2);
    std::fs::create_dir(room.path("golden")).unwrap();
    shell(&room.path("golden"), "head -c 5M /dev/urandom >a");
    let _full = Mount::new(&["-t", "tmpfs", "-o", "size=1m", "none"], room.path("copy1"));
    let mut machine = receive(&room, 1, &[]);
    let mut sender = send(&room, "1");
    machine.fails(30);
    sender.fails(30);
    assert!(machine.log().contains("needs room beside the old files"), "{}", machine.log());
    let log = sender.log();
    // As news, and in the table.
    assert_eq!(log.matches("FAILED").count(), 2, "{log}");
}

/// A machine that was there and read its disk was called absent.
#[test]
fn a_machine_that_reads_its_disk_is_waited_for() {
    let room = Room::new(2);
    std::fs::create_dir(room.path("golden")).unwrap();
    shell(&room.path("golden"), "echo 1 >a; truncate -s 900M sparse");
    // Zeros where the sender has a hole must be read.
    shell(&room.path("."), "mkdir copy1; head -c 900M /dev/zero >copy1/sparse");
    let mut machine = receive(&room, 1, &[]);
    let golden = room.path("golden").display().to_string();
    let mut sender = room.bellwether(0, &["send", "--files", &golden, "-a", "1"]);
    sender.succeeds(90);
    machine.succeeds(30);
}
