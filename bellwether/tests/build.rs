//! `bellwether build` as a user meets it: exit status, messages, files.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../../cpio-builder/tests/common/mod.rs"]
mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn bellwether() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bellwether"));
    command.env_remove("SOURCE_DATE_EPOCH");
    command
}

/// Runs `bellwether build` with words separated by spaces, in a directory
/// that has a kernel in `root` and an `/init` in `init`.
fn build(dir: &Path, args: &str) -> Output {
    bellwether().current_dir(dir).arg("build").args(args.split(' ')).output().unwrap()
}

fn workplace() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    common::write_tree(&dir.path().join("root"));
    fs::write(dir.path().join("init"), common::init()).unwrap();
    dir
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_image_and_what_is_in_it() {
    let dir = workplace();
    let made = build(dir.path(), "--modules=root --init=init --profile net -o out.img");
    assert_eq!(made.status.code(), Some(0), "{}", told(&made));
    assert!(made.stdout.is_empty());
    assert!(told(&made).contains("kernel 6.1.0-test, profile net: "), "{}", told(&made));
    assert!(told(&made).contains("2 network drivers and 1 storage drivers"), "{}", told(&made));
    assert!(told(&made).contains("acme/a.bin, acme/b.bin"), "{}", told(&made));

    let explain = |line: &str| {
        let words = ["explain", "--initrd", "out.img", line];
        let output = bellwether().current_dir(dir.path()).args(words).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = explain("root=/dev/vda1");
    assert_eq!((code, text.contains("carries what this line asks for")), (Some(0), true), "{text}");
    let (code, text) = explain("bw.root=nbd:10.0.0.1/live");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("error: nbd is not in it") && text.contains("would fail"), "{text}");
    fs::write(dir.path().join("out.img2"), "no image").unwrap();
    let words = ["explain", "--initrd", "out.img2", "root=/dev/vda1"];
    let output = bellwether().current_dir(dir.path()).args(words).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("out.img2"), "{}", told(&output));

    let list = build(dir.path(), "--list out.img");
    let text = String::from_utf8(list.stdout).unwrap();
    assert!(text.starts_with("segment 1 at byte 0: zstd, "), "{text}");
    assert!(text.lines().any(|l| l.ends_with("/sbin/modprobe -> /init")), "{text}");
    assert!(text.lines().any(|l| l.starts_with("crw------- 0:0") && l.ends_with("/dev/console")));
    let json = build(dir.path(), "--json --list out.img");
    assert!(json.stdout.starts_with(b"{\"segments\":[{\"offset\":0,\"compression\":\"zstd\""));
}

#[test]
fn the_same_bytes_in_another_place_and_with_every_compression() {
    let (one, two) = (workplace(), workplace());
    for codec in ["zstd", "gzip", "xz", "lz4", "none"] {
        let args = format!("--modules root --init init --compress {codec} -o {codec}.img");
        for dir in [&one, &two] {
            let made = build(dir.path(), &args);
            assert_eq!(made.status.code(), Some(0), "{}", told(&made));
        }
        let read =
            |dir: &tempfile::TempDir| fs::read(dir.path().join(format!("{codec}.img"))).unwrap();
        assert_eq!(read(&one), read(&two), "{codec}");
    }
    let dated = |epoch: &str| {
        let mut command = bellwether();
        command.current_dir(one.path()).env("SOURCE_DATE_EPOCH", epoch);
        command.args(["build", "--modules=root", "--init=init", "--compress=none", "--output=-"]);
        command.output().unwrap()
    };
    let (first, second) = (dated("1000000000"), dated("1000000001"));
    assert_eq!(first.status.code(), Some(0), "{}", told(&first));
    assert!(first.stdout.starts_with(b"070701"));
    assert_ne!(first.stdout, second.stdout);
    assert_eq!(first.stdout, dated("1000000000").stdout);
    let bad = dated("noon");
    assert_eq!((bad.status.code(), bad.stdout.len()), (Some(1), 0));
    assert!(told(&bad).contains("SOURCE_DATE_EPOCH is 'noon'"));
}

#[test]
fn behind_an_initrd() {
    let dir = workplace();
    assert!(build(dir.path(), "--modules root --init init -o distro.img").status.success());
    let made = build(dir.path(), "--append-only --modules distro.img --init init -o small.img");
    assert_eq!(made.status.code(), Some(0), "{}", told(&made));
    assert!(told(&made).contains("index of the initrd"), "{}", told(&made));
    let list = String::from_utf8(build(dir.path(), "--list small.img").stdout).unwrap();
    assert!(list.contains(" /init\n") && list.contains("/lib/bellwether/modules.idx\n"), "{list}");
    assert!(!list.contains(".ko"), "{list}");
    let made = build(dir.path(), "--append-only --modules root --init init -o x.img");
    assert_eq!(made.status.code(), Some(2));
    assert!(told(&made).contains("--append-only needs the initrd"), "{}", told(&made));
}

#[test]
fn every_failure_is_one_line_and_leaves_no_file() {
    let dir = workplace();
    let before = fs::read_dir(dir.path()).unwrap().count();
    let order = "root/lib/modules/6.1.0-test/modules.order";
    let cases = [
        ("--modules nowhere --init init -o out", 1, "there is no nowhere; "),
        ("--modules init --init init -o out", 1, "cannot read init as an initramfs: "),
        ("--modules root --init nowhere -o out", 1, "cannot read nowhere: "),
        (&format!("--modules root --init {order} -o out"), 1, "cannot be /init"),
        ("--modules root --init init -o no/such/out", 1, "cannot write no/such/out: "),
        ("--modules root --init init --add nothing -o out", 1, "has no module 'nothing'"),
        ("--modules root --init init --include nowhere -o out", 1, "cannot read nowhere: "),
        ("--modules root --init init --release 5 -o out", 1, "has no modules of kernel 5"),
        ("--modules root --init init", 2, "-o says where"),
        ("--init init -o out", 2, "--modules says where"),
        ("--modules root --profile huge -o out", 2, "no profile 'huge'"),
        ("--list nowhere", 1, "cannot read nowhere: "),
        ("--list init", 1, "neither cpio nor compressed cpio"),
    ];
    for (args, status, message) in cases {
        let made = build(dir.path(), args);
        let text = told(&made);
        assert_eq!(made.status.code(), Some(status), "{args}: {text}");
        assert!(text.starts_with("bellwether: ") && text.contains(message), "{args}: {text}");
        assert!(status == 2 || text.lines().count() == 1, "{args}: {text}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before, "{args}");
    }
}

/// What is wrong with the input is said, in one line, and nothing is written.
#[test]
fn bad_input() {
    let dir = workplace();
    let at = |name: &str| dir.path().join(name);
    let write = |name: &str, bytes: &[u8]| fs::write(at(name), bytes).unwrap();
    // Initrds cut in the middle, of an archive and of what packs it.
    for (codec, name) in [("none", "cut.cpio"), ("zstd", "cut.zst"), ("xz", "cut.xz")] {
        let made =
            build(dir.path(), &format!("--modules root --init init --compress {codec} -o x"));
        assert_eq!(made.status.code(), Some(0), "{}", told(&made));
        let whole = fs::read(at("x")).unwrap();
        write(name, &whole[..whole.len() / 2]);
        fs::remove_file(at("x")).unwrap();
    }
    // Programs and modules for another processor.
    write("init-arm", &common::module(183, &[]));
    let arm = at("arm/lib/modules/6.1.0-test/kernel");
    fs::create_dir_all(&arm).unwrap();
    fs::write(arm.join("loop.ko"), common::module(183, &[])).unwrap();
    // A medium of which only the first sectors could be read.
    let mut iso = vec![0; 0x8800];
    iso[0x8000..0x8006].copy_from_slice(b"\x01CD001");
    write("cut.iso", &iso);
    // Trees without modules, and with one that is cut.
    fs::create_dir_all(at("empty/lib/modules/6.1.0-test")).unwrap();
    common::write_tree(&at("damaged"));
    let module = at("damaged/lib/modules").join(common::RELEASE);
    let module = module.join("kernel/drivers/net/net_failover.ko");
    let whole = fs::read(&module).unwrap();
    fs::write(&module, &whole[..100]).unwrap();

    let before = fs::read_dir(dir.path()).unwrap().count();
    for (args, message) in [
        ("build --list cut.cpio", "cannot read cut.cpio as an initramfs: "),
        ("build --list cut.zst", "cannot read cut.zst as an initramfs: "),
        ("build --append-only --modules cut.cpio --init init -o x", "cannot read cut.cpio"),
        ("build --append-only --modules cut.zst --init init -o x", "cannot read cut.zst"),
        ("build --modules cut.xz --init init -o x", "cannot read cut.xz"),
        ("image cut.cpio -o x.ext2", "cut.cpio"),
        ("build --modules root --init init-arm -o x", "the modules are for x86-64, /init is for "),
        ("build --modules arm --init init -o x", "/init is for x86-64; build both for the same"),
        ("build --modules cut.iso --init init -o x", "cut.iso"),
        ("pxe --iso cut.iso --append boot=live x", "cut.iso"),
        ("explain --from cut.iso", "cut.iso"),
        ("image cut.iso -o x.squashfs", "cut.iso"),
        ("build --modules empty --init init -o x", "no kernel modules in empty"),
        ("build --modules damaged --init init -o x", "net_failover.ko"),
    ] {
        let done = bellwether().current_dir(dir.path()).args(args.split(' ')).output().unwrap();
        let text = told(&done);
        assert_eq!(done.status.code(), Some(1), "{args}: {text}");
        assert!(text.starts_with("bellwether: ") && text.contains(message), "{args}: {text}");
        assert_eq!(text.lines().count(), 1, "{args}: {text}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before, "{args} left something");
    }
}

/// Neither is a reason to make no image: depmod's files are not needed, and firmware
/// that is not there is listed.
#[test]
fn a_tree_without_indexes_or_firmware() {
    let dir = workplace();
    let base = dir.path().join("root/lib/modules").join(common::RELEASE);
    for name in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        fs::remove_file(base.join(name)).unwrap();
    }
    let made = build(dir.path(), "--json --modules root --init init --profile net -o out");
    assert_eq!(made.status.code(), Some(0), "{}", told(&made));
    let json = String::from_utf8_lossy(&made.stdout);
    assert!(json.contains("\"missing_firmware\":[\"acme/a.bin\",\"acme/b.bin\"]"), "{json}");
    assert!(json.contains("\"virtio_net\""), "{json}");
    // The one that is there is put in, and no longer listed.
    fs::create_dir_all(dir.path().join("firmware/acme")).unwrap();
    fs::write(dir.path().join("firmware/acme/a.bin"), "code").unwrap();
    let made = build(
        dir.path(),
        "--json --modules root --init init --profile net --firmware firmware -o out",
    );
    let json = String::from_utf8_lossy(&made.stdout);
    assert!(json.contains("\"firmware\":[\"acme/a.bin\"]"), "{json}");
    assert!(json.contains("\"missing_firmware\":[\"acme/b.bin\"]"), "{json}");
}

/// Values joined to their names, by every command.
#[test]
fn values_joined_to_their_names() {
    let dir = workplace();
    let joined = build(dir.path(), "--modules=root --init=init --compress=none --output=one.img");
    let apart = build(dir.path(), "--modules root --init init --compress none --output two.img");
    assert_eq!(
        (joined.status.code(), apart.status.code()),
        (Some(0), Some(0)),
        "{}",
        told(&joined)
    );
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert_eq!(read("one.img"), read("two.img"));
    let page = bellwether().args(["docs", "--page", "/dev/stdout"]).output().unwrap();
    let page = String::from_utf8(page.stdout).unwrap();
    for command in page.lines().filter_map(|line| line.strip_prefix("## bellwether ")) {
        let help = bellwether().args([command, "--help"]).output().unwrap();
        assert_eq!(help.status.code(), Some(0), "{command}");
        let bad = bellwether().args([command, "--no-such=value"]).output().unwrap();
        assert_eq!(bad.status.code(), Some(2), "{command}");
        assert!(told(&bad).contains("--no-such"), "{command}: {}", told(&bad));
    }
    assert!(
        page.contains("## bellwether build\n") && page.contains("| `--append-only` |"),
        "{page}"
    );
}

#[test]
fn a_file_that_cannot_be_finished_is_not_left() {
    let dir = workplace();
    let out = dir.path().join("out.img");
    fs::write(&out, b"the old one").unwrap();
    // A file size limit stops the writing half-way, as a full disk would.
    let script = format!(
        "trap '' XFSZ; ulimit -f 1; exec {} build --modules root --init init --compress none \
         -o out.img",
        env!("CARGO_BIN_EXE_bellwether")
    );
    let made = Command::new("sh").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
    assert_eq!(made.status.code(), Some(1), "{}", told(&made));
    assert!(told(&made).starts_with("bellwether: cannot write out.img: "), "{}", told(&made));
    assert_eq!(fs::read(&out).unwrap(), b"the old one");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    // And a disk that is full from the start.
    let made = build(dir.path(), "--modules root --init init -o /dev/full");
    assert_eq!(made.status.code(), Some(1));
    assert!(told(&made).contains("the disk is full; free some space"), "{}", told(&made));
}
