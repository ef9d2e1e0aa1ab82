//! What a command does when its output cannot be written.

use cpio_builder::newc::{Archive, Node};
use std::fs::File;
use std::io::pipe;
use std::process::{Command, Output, Stdio};

/// As a shell shows a command that SIGPIPE ended.
const CLOSED_PIPE: i32 = 141;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bellwether"));
    command.args(args).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Runs it with the reader of its output gone.
fn into_closed_pipe(args: &[&str]) -> std::io::Result<Output> {
    let (reader, writer) = pipe()?;
    drop(reader);
    command(args).stdout(writer).output()
}

const PROGRAMS: [&str; 15] = [
    "dolly",
    "dollyS",
    "dollyC",
    "ka-d-server",
    "ka-d-client",
    "prepare",
    "ka-d",
    "ka-d-session",
    "install",
    "adapt",
    "tools",
    "clone_script",
    "fdisk_to_desc",
    "udp-sender",
    "udp-receiver",
];

#[test]
fn a_closed_pipe_ends_every_command_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let initrd = dir.path().join("initrd.img");
    let mut archive = Archive::new();
    archive.add("init", 0o755, Node::File(vec![b'x'; 100])).unwrap();
    std::fs::write(&initrd, archive.write(0).unwrap()).unwrap();
    let initrd = initrd.to_str().unwrap();
    let mut lines: Vec<Vec<&str>> = vec![
        vec!["--help"],
        vec!["--version"],
        vec!["build", "--list", initrd],
        vec!["build", "--list", initrd, "--json"],
        vec!["explain", "root=/dev/sda1"],
        vec!["explain", "--json", "root=/dev/sda1"],
        vec!["docs", "--page", "--", "-"],
        vec!["clone", "--help"],
        vec!["clone", "dolly", "-V"],
    ];
    for name in ["build", "explain", "share", "try", "iso", "image", "pxe", "docs"] {
        lines.push(vec![name, "--help"]);
    }
    for name in PROGRAMS {
        lines.push(vec!["clone", name, "--help"]);
    }
    for line in lines {
        let done = into_closed_pipe(&line).unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(CLOSED_PIPE), "{line:?}: {said}");
        assert_eq!(said, "", "{line:?}");
    }
    // What failed stays a failure.
    assert_eq!(into_closed_pipe(&["explain", "quiet"]).unwrap().status.code(), Some(1));
    assert_eq!(into_closed_pipe(&["clone", "nothing"]).unwrap().status.code(), Some(2));
}

#[test]
fn a_closed_standard_error_is_no_reason_to_panic() {
    for (args, status) in [(&["bild"][..], 2), (&["build", "--list", "/no/such"], 1)] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let done = command(args).stderr(writer).status().unwrap();
        assert_eq!(done.code(), Some(status), "{args:?}");
    }
}

/// /dev/full fails every write, as a full disk does.
#[test]
fn output_that_is_lost_is_a_failure() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let done = command(&["explain", "root=/dev/sda1"]).stdout(full).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("standard output cannot be written"), "{said}");
}

/// Ctrl-C in the middle of `iso` or `image` left hidden files of the image's size until the next run.
#[test]
fn a_signal_leaves_nothing_behind() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::ExitStatusExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (tools, root, made) =
        (dir.path().join("tools"), dir.path().join("root"), dir.path().join("made"));
    for dir in [&tools, &root, &made] {
        std::fs::create_dir(dir).unwrap();
    }
    // It begins its output and does not end.
    let tool = tools.join("mksquashfs");
    std::fs::write(&tool, "#!/bin/sh\n: >\"$2\"\n: >\"$0.began\"\nexec sleep 60\n").unwrap();
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let to = made.join("x.squashfs");
    for signal in [2, 15] {
        let mut image = command(&["image", root.to_str().unwrap(), "-o", to.to_str().unwrap()]);
        let mut image = image.env("PATH", &path).stdout(Stdio::null()).spawn().unwrap();
        let began = tools.join("mksquashfs.began");
        while !began.exists() {
            assert!(image.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_ne!(std::fs::read_dir(&made).unwrap().count(), 0);
        let kill =
            Command::new("kill").args([format!("-{signal}"), image.id().to_string()]).status();
        assert!(kill.unwrap().success());
        assert_eq!(image.wait().unwrap().signal(), Some(signal));
        assert_eq!(std::fs::read_dir(&made).unwrap().count(), 0);
        std::fs::remove_file(began).unwrap();
    }
}
