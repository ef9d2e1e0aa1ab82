//! Archives: written, read back, and held against GNU cpio.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use cpio_builder::compress::{Codec, compress};
use cpio_builder::initrd::{Initrd, InitrdError, Limits};
use cpio_builder::newc::{Archive, ArchiveError, NewcError, Node, Reader, TRAILER, header};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

fn sample() -> Archive {
    let mut archive = Archive::new();
    archive.add("dev/console", 0o600, Node::Char { major: 5, minor: 1 }).unwrap();
    archive.add("dev/vda", 0o660, Node::Block { major: 254, minor: 0 }).unwrap();
    archive.add("init", 0o755, Node::File(b"\x7fELF...".to_vec())).unwrap();
    archive.add("sbin/modprobe", 0o777, Node::Symlink("/init".into())).unwrap();
    archive.add("etc/a", 0o644, Node::File(b"one content".to_vec())).unwrap();
    archive.add("etc/b", 0o644, Node::HardLink("etc/a".into())).unwrap();
    archive.add("aaa", 0o644, Node::HardLink("etc/a".into())).unwrap();
    archive.add("tmp", 0o1777, Node::Dir).unwrap();
    archive.add("empty", 0o644, Node::File(Vec::new())).unwrap();
    archive
}

#[test]
fn reads_back_what_it_wrote() {
    let bytes = sample().write(1_700_000_000).unwrap();
    assert_eq!(bytes.len() % 512, 0);
    let initrd = Initrd::open(&bytes, Limits::default()).unwrap();
    let tree = initrd.tree();
    let names: Vec<&str> = tree.keys().copied().collect();
    let expected = [
        "aaa",
        "dev",
        "dev/console",
        "dev/vda",
        "empty",
        "etc",
        "etc/a",
        "etc/b",
        "init",
        "sbin",
        "sbin/modprobe",
        "tmp",
    ];
    assert_eq!(names, expected);
    assert_eq!(tree["dev/console"].rdev, (5, 1));
    assert_eq!(tree["dev/console"].mode_text(), "crw-------");
    assert_eq!(tree["dev/vda"].rdev, (254, 0));
    assert_eq!(tree["sbin/modprobe"].symlink(), Some("/init"));
    for name in ["aaa", "etc/a", "etc/b"] {
        assert_eq!((tree[name].data, tree[name].nlink), (&b"one content"[..], 3));
    }
    assert_eq!(tree["etc/a"].ino, tree["aaa"].ino);
    assert!(tree.values().all(|e| e.mtime == 1_700_000_000 && e.uid == 0));
}

#[test]
fn refuses_what_cannot_be_in_an_image() {
    let mut archive = Archive::new();
    for path in ["", "/etc", "a/../b", "a//b", "TRAILER!!!", "a\0b"] {
        let error = archive.add(path, 0o644, Node::Dir).unwrap_err();
        assert_eq!(error, ArchiveError::Path(path.into()));
    }
    archive.add("file", 0o644, Node::File(vec![])).unwrap();
    assert!(matches!(archive.add("file/x", 0, Node::Dir), Err(ArchiveError::Parent(_))));
    assert!(matches!(archive.add("file", 0, Node::Dir), Err(ArchiveError::Twice(_))));
    archive.add("link", 0, Node::HardLink("nothing".into())).unwrap();
    assert_eq!(archive.write(0), Err(ArchiveError::Link("link".into())));
}

#[test]
fn every_cut_of_an_archive_is_told() {
    let bytes = sample().write(0).unwrap();
    let full = {
        let mut r = Reader::new(&bytes);
        r.by_ref().for_each(drop);
        r.consumed()
    };
    let mut reader = Reader::new(&bytes);
    let ends: Vec<usize> =
        std::iter::from_fn(|| reader.next().map(|_| reader.consumed())).collect();
    // The last three bytes are the padding of the trailer's name.
    for cut in 0..full - 3 {
        let error = Reader::new(&bytes[..cut]).find_map(Result::err);
        // Behind an entry and its padding only the trailer is missing, which kernels do not need.
        if error.is_none() {
            assert!(ends.contains(&cut.next_multiple_of(4)), "{cut}");
            let zeros = [&bytes[..cut.next_multiple_of(4)], &[0; 512]].concat();
            assert!(Reader::new(&zeros).any(|entry| entry.is_err()), "zeros are no header");
            continue;
        }
        assert!(matches!(error, Some(NewcError::Truncated { .. })), "{cut}: {error:?}");
    }
}

#[test]
fn segments_as_distributions_stack_them() {
    let mut microcode = Archive::new();
    let path = "kernel/x86/microcode/GenuineIntel.bin";
    microcode.add(path, 0o644, Node::File(vec![1; 100])).unwrap();
    let microcode = microcode.write(0).unwrap();
    let main = sample().write(0).unwrap();
    let mut ours = Archive::new();
    ours.add("init", 0o755, Node::File(b"another".to_vec())).unwrap();
    let ours = ours.write(0).unwrap();
    for codec in Codec::ALL {
        let mut file = microcode.clone();
        file.extend(compress(codec, &main).unwrap());
        file.extend([0; 7]);
        // A pair compressed together, as the kernel also takes it.
        file.extend(compress(Codec::Zstd, &[ours.clone(), microcode.clone()].concat()).unwrap());
        let initrd = Initrd::open(&file, Limits::default()).unwrap();
        let codecs: Vec<Codec> = initrd.segments().iter().map(|s| s.codec).collect();
        assert_eq!(codecs, [Codec::None, codec, Codec::Zstd]);
        assert_eq!(initrd.tree()["init"].data, b"another");
        assert!(initrd.tree().contains_key("etc/a"));
        assert_eq!(initrd.segments()[2].entries().count(), 5);
    }
}

#[test]
fn says_what_an_initramfs_is_not() {
    let told = |bytes: &[u8]| Initrd::open(bytes, Limits::default()).unwrap_err().to_string();
    assert_eq!(told(b""), "it is empty");
    assert_eq!(told(&[0; 4096]), "it is empty");
    assert_eq!(told(b"#!/bin/sh"), "this is neither cpio nor compressed cpio");
    assert!(told(b"\x89LZO\0\r\n\x1a\n").contains("the lzo data at byte 0 does not unpack"));
    let good = sample().write(0).unwrap();
    // Kernels read nothing that follows and is no archive.
    let junk = [&good[..], b"junk"].concat();
    assert_eq!(Initrd::open(&junk, Limits::default()).unwrap().behind(), 4);
    let packed = compress(Codec::Xz, &good).unwrap();
    assert!(told(&packed[..packed.len() - 40]).contains("the xz data at byte 0 does not unpack"));
    let small = Limits { bytes: 100, segments: 2 };
    assert!(matches!(Initrd::open(&packed, small), Err(InitrdError::Unpack { .. })));
    let many = good.repeat(3);
    assert!(matches!(
        Initrd::open(&many, Limits { bytes: 1 << 20, segments: 2 }),
        Err(InitrdError::Segments)
    ));
}

/// GNU cpio unpacks it, and what it packs is read. It is not part of a bare
/// system, so without it only the round trips above speak.
#[test]
fn gnu_cpio_agrees() {
    if Command::new("cpio").arg("--version").output().is_err() {
        eprintln!("skipped: GNU cpio is not installed (apt-get install cpio)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str], input: &[u8]| {
        let mut child = Command::new("cpio")
            .args(args)
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    let bytes = sample().write(1_000_000).unwrap();
    let list = String::from_utf8(run(&["-itv", "--quiet", "--numeric-uid-gid"], &bytes)).unwrap();
    assert!(list.lines().any(|l| l.starts_with("crw-------") && l.contains("5,   1")), "{list}");
    assert!(list.lines().any(|l| l.ends_with("sbin/modprobe -> /init")), "{list}");
    // Making device nodes needs root; the rest does not.
    run(&["-idm", "--quiet", "-f", "dev/*"], &bytes);
    use std::os::unix::fs::MetadataExt;
    let meta = |name: &str| std::fs::symlink_metadata(dir.path().join(name)).unwrap();
    assert_eq!(std::fs::read(dir.path().join("etc/b")).unwrap(), b"one content");
    assert_eq!((meta("aaa").nlink(), meta("aaa").ino()), (3, meta("etc/a").ino()));
    assert_eq!((meta("init").mode(), meta("init").mtime()), (0o100_755, 1_000_000));
    assert_eq!(meta("tmp").mode() & 0o7777, 0o1777);

    let theirs = run(&["-o", "-H", "newc", "--quiet"], b"aaa\netc\netc/a\netc/b\nsbin/modprobe\n");
    let initrd = Initrd::open(&theirs, Limits::default()).unwrap();
    assert_eq!(initrd.tree()["aaa"].data, b"one content");
    assert_eq!(initrd.tree()["sbin/modprobe"].symlink(), Some("/init"));
}

proptest! {
    #[test]
    fn any_tree_round_trips(
        files in proptest::collection::btree_map("[a-c]{1,2}(/[a-c]{1,3}){0,2}", proptest::collection::vec(any::<u8>(), 0..40), 0..12),
        mtime: u32,
    ) {
        let mut archive = Archive::new();
        let mut kept = BTreeMap::new();
        for (path, data) in files {
            if archive.add(&path, 0o640, Node::File(data.clone())).is_ok() {
                kept.insert(path, data);
            }
        }
        let bytes = archive.write(mtime).unwrap();
        prop_assert_eq!(&bytes, &archive.clone().write(mtime).unwrap());
        let initrd = Initrd::open(&bytes, Limits::default()).unwrap();
        let tree = initrd.tree();
        let read: BTreeMap<String, Vec<u8>> = tree
            .iter()
            .filter(|(_, e)| e.is_file())
            .map(|(path, e)| ((*path).to_owned(), e.data.to_vec()))
            .collect();
        prop_assert_eq!(read, kept);
    }

    #[test]
    fn garbage_never_panics(bytes: Vec<u8>, flips in proptest::collection::vec((0usize..1500, any::<u8>()), 0..4)) {
        let _ = Initrd::open(&bytes, Limits::default());
        let mut archive = sample().write(0).unwrap();
        for (at, value) in flips {
            archive[at] = value;
        }
        if let Ok(initrd) = Initrd::open(&archive, Limits::default()) {
            let _ = initrd.tree();
        }
    }
}

/// iPXE on BIOS puts each file of an initramfs at the start of a page: zeros stood before the content.
#[test]
fn a_file_from_elsewhere_begins_at_a_page() {
    let head = header("proxmox.iso", 5);
    assert_eq!(head.len(), 4096);
    // The fields: size and length of the name, whose first zero ends it in the kernel.
    assert_eq!((&head[54..62], &head[94..102]), (&b"00000005"[..], &b"00000f92"[..]));
    assert_eq!(&head[110..122], b"proxmox.iso\0");
    assert!(head[122..].iter().all(|byte| *byte == 0) && header(TRAILER, 0).len() == 4096);
}
