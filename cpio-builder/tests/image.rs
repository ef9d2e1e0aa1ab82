//! Whole images from made-up kernels.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use coldplug::index::{Class, Compression, Index, ModuleId};
use common::{MODULES, RELEASE, init, module, write_tree};
use cpio_builder::compress::Codec;
use cpio_builder::error::Error;
use cpio_builder::image::{INDEX_PATH, ImageSpec, Include, Report, build, mtime_from_epoch};
use cpio_builder::initrd::{Initrd, Limits};
use cpio_builder::newc::{Archive, Node};
use cpio_builder::profile::Profile;
use cpio_builder::source::{self, Kind};
use std::fs;
use std::path::Path;

fn spec(path: &Path, profile: &str) -> Result<ImageSpec, Error> {
    let kernel = source::open(path, None)?;
    Ok(ImageSpec {
        init: Some(init()),
        init_origin: "init".into(),
        tree: kernel.tree,
        profile: Profile::from_name(profile).unwrap(),
        add: vec![],
        hosted: Default::default(),
        present: Default::default(),
        classes: Default::default(),
        conf: kernel.conf,
        firmware: vec![],
        defaults: None,
        include: vec![],
        microcode: None,
        codec: Codec::Zstd,
        strip: false,
        mtime: 1,
        append_to: match kernel.kind {
            Kind::Initrd { links } => Some(links),
            _ => None,
        },
    })
}

/// The image's index, with the closure of its questions in reach.
fn with_index<T>(report: &Report, ask: impl FnOnce(&Index<'_>) -> T) -> T {
    let initrd = Initrd::open(&report.bytes, Limits::default()).unwrap();
    ask(&Index::parse(initrd.tree()[INDEX_PATH].data).unwrap())
}

fn names(index: &Index<'_>, ids: impl Iterator<Item = ModuleId>) -> Vec<String> {
    ids.map(|id| index.module(id).name().to_owned()).collect()
}

#[test]
fn an_image_from_a_tree_that_depmod_never_saw() {
    let dir = tempfile::tempdir().unwrap();
    write_tree(dir.path());
    let mut spec = spec(dir.path(), "net").unwrap();
    spec.include = vec![
        Include::parse(&format!("{}:/etc/x/", file!().rsplit('/').next().unwrap()))
            .map(|i| Include {
                from: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/image.rs"),
                ..i
            })
            .unwrap(),
    ];
    let report = build(&spec).unwrap();
    assert_eq!(report.release, RELEASE);
    assert_eq!((report.net_drivers, report.storage_drivers), (2, 1));
    assert_eq!(report.missing_firmware, ["acme/a.bin", "acme/b.bin"]);
    assert!(report.unresolved.is_empty() && report.lacking.is_empty(), "{report:?}");
    assert!(!report.modules.contains(&"beep".to_owned()));

    let initrd = Initrd::open(&report.bytes, Limits::default()).unwrap();
    let tree = initrd.tree();
    assert_eq!(tree["init"].data, init());
    assert_eq!(tree["sbin/modprobe"].symlink(), Some("/init"));
    assert_eq!(tree["dev/console"].rdev, (5, 1));
    assert!(tree["etc/x/image.rs"].data.starts_with(b"//! Whole images"));
    for dir in ["dev", "proc", "sys", "run", "tmp"] {
        assert!(tree[dir].is_dir());
    }
    // Decompressed, byte for byte.
    let place = |path: &str| format!("lib/modules/{RELEASE}/{path}");
    let (_, pairs) = MODULES[3];
    assert_eq!(tree[place("kernel/drivers/net/virtio_net.ko").as_str()].data, module(62, pairs));

    with_index(&report, |index| {
        let module = |name| index.module(index.by_name(name).unwrap());
        let nic = module("virtio_net");
        assert_eq!(nic.path(), place("kernel/drivers/net/virtio_net.ko"));
        assert_eq!(nic.compression(), Compression::None);
        assert!(nic.class().intersects(Class::NET));
        assert_eq!(names(index, nic.deps()), ["virtio", "net_failover", "virtio_ring"]);
        assert_eq!(names(index, module("virtio_pci").deps()), ["virtio", "virtio_ring"]);
        assert_eq!(names(index, module("nfs").soft_pre()), ["crc32c_intel"]);
        assert_eq!(names(index, module("nfs").soft_post()), ["helper"]);
        // Weak dependencies come along without being tied.
        assert!(index.by_name("faraway").is_some());
        assert!(index.is_builtin("ext4") && !index.is_builtin("nfs"));
        let mut found = vec![];
        let modalias = "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00";
        index.for_modalias(modalias, &mut |id| found.push(id));
        assert_eq!(names(index, found.into_iter()), ["virtio_pci"]);
        let order: Vec<_> = index.ids().map(|id| index.module(id).name()).collect();
        assert!(
            order.iter().position(|n| *n == "overlay")
                < order.iter().position(|n| *n == "squashfs")
        );
        for id in index.ids() {
            assert!(tree.contains_key(index.module(id).path()));
        }
    });
}

/// f2fs wishes for `crc32`, which is the name of a library, too.
#[test]
fn a_library_is_not_the_algorithm_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    write_tree(dir.path());
    let mut tree = source::open(dir.path(), None).unwrap().tree;
    let wished = tree.wished("crc32c");
    assert_eq!(wished.len(), 1);
    tree.builtin.insert("crc32c".into());
    assert_eq!(tree.resolve("crc32c"), Some(vec![]));
    assert_eq!(tree.wished("crc32c"), wished);
    assert!(tree.wished("ext4").is_empty());
}

/// A new compression is not done before a module of this tree has it.
#[test]
fn every_compression_is_in_the_small_kernel() {
    for compression in Compression::ALL {
        let end = format!(".ko{}", compression.ending());
        assert!(MODULES.iter().any(|(path, _)| path.ends_with(&end)), "no {end}");
    }
}

#[test]
fn the_same_from_another_directory_and_from_depmods_files() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_tree(one.path());
    write_tree(two.path());
    // What depmod would write, in its own order and spelling.
    let base = two.path().join("lib/modules").join(RELEASE);
    let (mut dep, mut alias, mut soft) = (String::new(), String::new(), String::new());
    for (path, pairs) in MODULES.iter().rev() {
        let stem = path.rsplit('/').next().unwrap().split(".ko").next().unwrap();
        let name = stem.replace('-', "_");
        let mut needs = String::new();
        for pair in *pairs {
            match pair.split_once('=').unwrap() {
                ("depends", list) => {
                    for need in list.split(',') {
                        let file = need.replace('-', "_");
                        let at = MODULES.iter().find(|(p, _)| p.contains(&format!("/{file}.ko")));
                        needs += &format!(" {}", at.unwrap().0);
                    }
                }
                ("alias", pattern) => alias += &format!("alias {pattern} {name}\n"),
                ("softdep", text) => soft += &format!("softdep {name} {text}\n"),
                _ => {}
            }
        }
        dep += &format!("{path}:{needs}\n");
    }
    fs::write(base.join("modules.dep"), dep).unwrap();
    fs::write(base.join("modules.alias"), alias).unwrap();
    fs::write(base.join("modules.softdep"), soft).unwrap();
    fs::write(base.join("modules.weakdep"), "weakdep deep faraway\n").unwrap();

    let first = build(&spec(one.path(), "all").unwrap()).unwrap();
    assert_eq!(first, build(&spec(one.path(), "all").unwrap()).unwrap());
    assert_eq!(first, build(&spec(&base, "all").unwrap()).unwrap());
}

#[test]
fn options_blacklists_and_added_modules() {
    let dir = tempfile::tempdir().unwrap();
    write_tree(dir.path());
    let conf = "# comment\nblacklist acme-nic\noptions virtio_net napi_tx=0 \\\n  csum=1\n\
                alias my-card acme-nic\ninstall nfs /bin/false\nsoftdep loop pre: deep\n";
    fs::write(dir.path().join("a.conf"), conf).unwrap();
    fs::write(dir.path().join("ignored.txt"), "blacklist virtio_net").unwrap();
    let mut spec = spec(dir.path(), "virt").unwrap();
    spec.conf.read(dir.path()).unwrap();
    spec.conf.apply(&mut spec.tree);
    spec.add = vec!["my-card".into(), "beep".into(), "ext4".into()];
    let report = build(&spec).unwrap();
    with_index(&report, |index| {
        let module = |name| index.module(index.by_name(name).unwrap());
        assert!(module("acme_nic").blacklisted() && !module("virtio_net").blacklisted());
        assert_eq!(module("virtio_net").options(), "napi_tx=0 csum=1");
        assert_eq!(names(index, module("loop").soft_pre()), ["deep"]);
        assert!(index.by_name("beep").is_some());
    });
    spec.add = vec!["no-such".into()];
    let error = build(&spec).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel 6.1.0-test has no module 'no-such', neither loadable nor built in"
    );
}

#[test]
fn firmware_goes_in_and_what_is_missing_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    write_tree(dir.path());
    let firmware = dir.path().join("fw");
    fs::create_dir_all(firmware.join("acme")).unwrap();
    fs::create_dir_all(firmware.join("updates/acme")).unwrap();
    fs::write(firmware.join("acme/a.bin.xz"), b"packed").unwrap();
    let mut spec = spec(dir.path(), "net").unwrap();
    spec.firmware = vec![firmware.clone()];
    let report = build(&spec).unwrap();
    assert_eq!(report.firmware, ["acme/a.bin.xz"]);
    assert_eq!(report.missing_firmware, ["acme/b.bin"]);
    let initrd = Initrd::open(&report.bytes, Limits::default()).unwrap();
    assert_eq!(initrd.tree()["lib/firmware/acme/a.bin.xz"].data, b"packed");
    // The kernel's search order.
    fs::write(firmware.join("updates/acme/a.bin"), b"newer").unwrap();
    let report = build(&spec).unwrap();
    let initrd = Initrd::open(&report.bytes, Limits::default()).unwrap();
    assert_eq!(initrd.tree()["lib/firmware/acme/a.bin"].data, b"newer");
}

#[test]
fn microcode_comes_first_and_plain() {
    let dir = tempfile::tempdir().unwrap();
    write_tree(dir.path());
    for (name, data) in [("intel-ucode/06-02-01", "b"), ("intel-ucode/06-01-01", "a")] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, data).unwrap();
    }
    let mut spec = spec(dir.path(), "virt").unwrap();
    spec.microcode = Some(dir.path().into());
    let report = build(&spec).unwrap();
    let initrd = Initrd::open(&report.bytes, Limits::default()).unwrap();
    assert_eq!(
        (initrd.segments()[0].codec, initrd.segments()[1].codec),
        (Codec::None, Codec::Zstd)
    );
    assert_eq!(initrd.tree()["kernel/x86/microcode/GenuineIntel.bin"].data, b"ab");
    spec.microcode = Some("/proc/self/fd".into());
    assert!(build(&spec).is_err());
}

/// A distribution's initrd: microcode in front, `lib` a link, modules still
/// compressed, a modprobe.d of its own.
fn distro_initrd(usr_merged: bool) -> Vec<u8> {
    let mut early = Archive::new();
    early.add("kernel/x86/microcode/x", 0o644, Node::File(vec![1])).unwrap();
    let mut main = Archive::new();
    let lib = if usr_merged { "usr/lib" } else { "lib" };
    if usr_merged {
        main.add("lib", 0o777, Node::Symlink("usr/lib".into())).unwrap();
        main.add("bin", 0o777, Node::Symlink("usr/bin".into())).unwrap();
    }
    main.add("init", 0o777, Node::Symlink(format!("{lib}/systemd/systemd"))).unwrap();
    main.add("etc/modprobe.d/b.conf", 0o644, Node::File(b"blacklist loop\n".to_vec())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    write_tree(dir.path());
    let base = dir.path().join("lib/modules").join(RELEASE);
    for (path, _) in MODULES.iter().filter(|(path, _)| !path.contains("squashfs")) {
        let data = fs::read(base.join(path)).unwrap();
        main.add(&format!("{lib}/modules/{RELEASE}/{path}"), 0o644, Node::File(data)).unwrap();
    }
    let mut out = early.write(5).unwrap();
    out.extend(cpio_builder::compress::compress(Codec::Gzip, &main.write(5).unwrap()).unwrap());
    out
}

#[test]
fn the_small_archive_behind_a_distributions_initrd() {
    for usr_merged in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("initrd.img");
        fs::write(&file, distro_initrd(usr_merged)).unwrap();
        // A profile that names none of the compressed modules: they stay as they are.
        let mut spec = spec(&file, "virt").unwrap();
        let virt = std::mem::replace(&mut spec.profile, cpio_builder::profile::HOST);
        let report = build(&spec).unwrap();
        assert_eq!(report.lacking, ["squashfs"]);
        assert_eq!((report.unpacked_modules, report.packed_modules), (0, 3));
        let ours = Initrd::open(&report.bytes, Limits::default()).unwrap();
        let paths: Vec<&str> = ours.tree().keys().copied().collect();
        // A directory `lib` would replace the link and take all libraries away.
        let lib: &[&str] = if usr_merged { &[] } else { &["lib"] };
        assert_eq!(paths, [&["init"], lib, &["lib/bellwether", INDEX_PATH]].concat());
        with_index(&report, |index| {
            assert_eq!(index.len(), MODULES.len() - 1);
            let nic = index.module(index.by_name("virtio_net").unwrap());
            let lib = if usr_merged { "usr/lib" } else { "lib" };
            let path = format!("{lib}/modules/{RELEASE}/kernel/drivers/net/virtio_net.ko.zst");
            assert_eq!((nic.path(), nic.compression()), (path.as_str(), Compression::Zstd));
            assert!(index.module(index.by_name("loop").unwrap()).blacklisted());
        });
        // One that names them: they come unpacked, for kernels that cannot do that.
        spec.profile = virt;
        let report = build(&spec).unwrap();
        assert_eq!((report.unpacked_modules, report.packed_modules), (3, 0));
        with_index(&report, |index| {
            assert_eq!(index.len(), MODULES.len() - 1);
            let nic = index.module(index.by_name("virtio_net").unwrap());
            let path = format!("lib/modules/{RELEASE}/kernel/drivers/net/virtio_net.ko");
            assert_eq!((nic.path(), nic.compression()), (path.as_str(), Compression::None));
            let ours = Initrd::open(&report.bytes, Limits::default()).unwrap();
            assert!(ours.tree()[path.as_str()].data.starts_with(b"\x7fELF"));
            assert!(!ours.tree().contains_key("lib") || !usr_merged);
        });
        // One behind the other, as the boot loader gives them to the kernel.
        let mut both = fs::read(&file).unwrap();
        both.resize(both.len().next_multiple_of(4), 0);
        both.extend(&report.bytes);
        let both = Initrd::open(&both, Limits::default()).unwrap();
        assert_eq!(both.tree()["init"].data, init());
    }
}

#[test]
fn a_debian_package_is_a_source() {
    let dir = tempfile::tempdir().unwrap();
    write_tree(dir.path());
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all(".", dir.path()).unwrap();
    let tar = tar.into_inner().unwrap();
    for (codec, end) in [(Codec::Xz, ".xz"), (Codec::Zstd, ".zst"), (Codec::None, "")] {
        let data = cpio_builder::compress::compress(codec, &tar).unwrap();
        let deb = deb(&[
            ("debian-binary", b"2.0\n"),
            ("control.tar.xz", b"odd"),
            (&format!("data.tar{end}"), &data),
        ]);
        let file = dir.path().join("kernel.deb");
        fs::write(&file, &deb).unwrap();
        let from_deb = build(&spec(&file, "virt").unwrap()).unwrap();
        assert_eq!(from_deb, build(&spec(dir.path(), "virt").unwrap()).unwrap());
        for cut in [deb.len() - 5, deb.len() - 400, deb.len() / 2, 100, 10] {
            fs::write(&file, &deb[..cut]).unwrap();
            let error = spec(&file, "virt").unwrap_err();
            assert!(matches!(error, Error::Container { .. }), "{end} {cut}: {error}");
        }
    }
}

/// deb(5) with these members.
fn deb(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut deb = b"!<arch>\n".to_vec();
    for (name, data) in members {
        let size = data.len();
        let head = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 100_644);
        deb.extend(head.bytes());
        deb.extend(*data);
        deb.resize(deb.len().next_multiple_of(2), b'\n');
    }
    deb
}

/// A kernel of Debian forky comes in several packages, and so does Ubuntu's.
#[test]
fn a_package_without_modules_says_which_one_has_them() {
    let tar = |files: &[(&str, &str)]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("linux.deb");
    let told = |control: &str, data: &[(&str, &str)]| {
        let control = tar(&[("./control", control)]);
        let bytes = deb(&[("control.tar", &control), ("data.tar", &tar(data))]);
        fs::write(&file, bytes).unwrap();
        spec(&file, "virt").unwrap_err().to_string()
    };
    let at = format!("no kernel modules in {}", file.display());
    for (control, data, give) in [
        (
            "Package: linux-image-7.2\nDepends: linux-binary-7.2 (= 1), linux-modules-7.2 (= 1), dracut | initramfs-tools\n",
            &[("./usr/share/doc/x", "")][..],
            "linux-modules-7.2",
        ),
        (
            "Package: linux-base-7.2\nDepends: kmod\n",
            &[
                ("./usr/lib/modules/7.2/modules.builtin", "kernel/fs/fuse/fuse.ko\n"),
                ("./usr/lib/modules/7.2/modules.order", "kernel/fs/isofs/isofs.ko\n"),
            ],
            "linux-modules-7.2",
        ),
        (
            "Package: linux-binary-7.2\n",
            &[("./usr/lib/modules/7.2/vmlinuz", "MZ")],
            "linux-modules-7.2",
        ),
        (
            "Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-50-cloud-amd64 (= 1)\n",
            &[],
            "linux-image-6.1.0-50-cloud-amd64",
        ),
    ] {
        let wanted = format!("{at}: they are in the package {give}, give that one");
        assert_eq!(told(control, data), wanted);
    }
    let wanted = format!("{at}; give a package of a kernel, which has files below lib/modules");
    assert_eq!(told("Package: hello\nDepends: libc6\n", &[]), wanted);
}

#[test]
fn lists_of_modules_that_are_not_there_are_no_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("lib/modules/7.2");
    fs::create_dir_all(&base).unwrap();
    fs::write(base.join("modules.builtin"), "kernel/fs/fuse/fuse.ko\n").unwrap();
    fs::write(base.join("modules.order"), "").unwrap();
    assert!(spec(&base, "virt").is_ok(), "everything is built in");
    fs::write(base.join("modules.order"), "kernel/fs/isofs/isofs.ko\n").unwrap();
    assert!(matches!(spec(&base, "virt"), Err(Error::NoModules { .. })));
}

#[test]
fn a_squashfs_is_a_source() {
    use backhand::{FilesystemWriter, NodeHeader};
    let dir = tempfile::tempdir().unwrap();
    write_tree(dir.path());
    let mut image = FilesystemWriter::default();
    let base = format!("usr/lib/modules/{RELEASE}");
    let from = dir.path().join("lib/modules").join(RELEASE);
    let extra = ["modules.order", "modules.builtin", "modules.builtin.modinfo"];
    for path in MODULES.iter().map(|(path, _)| *path).chain(extra) {
        let to = format!("/{base}/{path}");
        image.push_dir_all(Path::new(&to).parent().unwrap(), NodeHeader::default()).unwrap();
        let data = std::io::Cursor::new(fs::read(from.join(path)).unwrap());
        image.push_file(data, &to, NodeHeader::default()).unwrap();
    }
    image.push_dir_all("usr/lib/firmware/acme", NodeHeader::default()).unwrap();
    let blob = std::io::Cursor::new(b"blob");
    image.push_file(blob, "usr/lib/firmware/acme/real.bin", NodeHeader::default()).unwrap();
    image.push_symlink("real.bin", "usr/lib/firmware/acme/a.bin", NodeHeader::default()).unwrap();
    let mut bytes = std::io::Cursor::new(vec![]);
    image.write(&mut bytes).unwrap();
    let bytes = bytes.into_inner();
    let file = dir.path().join("live.squashfs");
    fs::write(&file, &bytes).unwrap();
    let report = build(&spec(&file, "net").unwrap()).unwrap();
    let expected = build(&spec(dir.path(), "net").unwrap()).unwrap();
    assert_eq!(report.modules, expected.modules);
    assert_eq!(report.firmware, ["acme/a.bin"]);
    assert_eq!(report.missing_firmware, ["acme/b.bin"]);
    for cut in [bytes.len() / 2, 120, 50] {
        fs::write(&file, &bytes[..cut]).unwrap();
        let error = spec(&file, "net").unwrap_err();
        assert!(matches!(error, Error::Container { .. }), "{cut}: {error}");
    }
}

#[test]
fn bad_input_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let told = |path: &Path| spec(path, "virt").unwrap_err().to_string();
    assert!(told(dir.path()).starts_with("no kernel modules in "));
    assert!(told(&dir.path().join("nothing")).contains("cannot read"));

    write_tree(dir.path());
    let base = dir.path().join("lib/modules").join(RELEASE);
    let other = dir.path().join("lib/modules/5.10");
    fs::create_dir_all(other.join("kernel")).unwrap();
    assert!(told(dir.path()).ends_with("choose one with --release: 5.10, 6.1.0-test"));
    assert!(told(&other).starts_with("no kernel modules in "));
    assert!(source::open(dir.path(), Some(RELEASE)).is_ok());
    let error = source::open(dir.path(), Some("4.9")).unwrap_err().to_string();
    assert!(
        error.ends_with("has no modules of kernel 4.9; there are: 5.10, 6.1.0-test"),
        "{error}"
    );

    // Another processor's init.
    let mut wrong = spec(&base, "virt").unwrap();
    wrong.init = Some(module(183, &[]));
    let error = build(&wrong).unwrap_err().to_string();
    assert!(error.starts_with("the modules are for x86-64, /init is for AArch64"), "{error}");
    wrong.init = Some(b"#!/bin/sh\n".to_vec());
    let error = build(&wrong).unwrap_err().to_string();
    assert_eq!(error, "init cannot be /init: it is not a 64-bit ELF file");

    // Damaged modules.
    let path = base.join("kernel/fs/nfs/nfs.ko");
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() - 10]).unwrap();
    assert!(told(&base).ends_with("kernel/fs/nfs/nfs.ko is cut short"), "{}", told(&base));
    fs::write(&path, good).unwrap();
    let path = base.join("kernel/drivers/net/virtio_net.ko.zst");
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() - 10]).unwrap();
    assert!(told(&base).contains("virtio_net.ko.zst does not unpack"), "{}", told(&base));
    fs::write(&path, good).unwrap();

    // A need that no module meets is told, not fatal: the rest boots.
    fs::remove_file(base.join("kernel/drivers/net/net_failover.ko")).unwrap();
    let report = build(&spec(&base, "virt").unwrap()).unwrap();
    assert_eq!(report.unresolved, ["virtio_net needs net_failover"]);

    let file = dir.path().join("initrd");
    let initrd = distro_initrd(true);
    fs::write(&file, &initrd[..initrd.len() / 2]).unwrap();
    assert!(told(&file).contains("the gzip data at byte 1024 does not unpack"), "{}", told(&file));
    assert!(mtime_from_epoch(Some("yesterday")).is_err());
    assert_eq!(mtime_from_epoch(Some("1700000000")).unwrap(), 1_700_000_000);
}

#[test]
fn includes_say_where_they_go() {
    let parsed = |text| Include::parse(text).map(|i| (i.from.display().to_string(), i.to));
    let pair = |from: &str, to: &str| Some((from.to_owned(), to.to_owned()));
    assert_eq!(parsed("/etc/hosts"), pair("/etc/hosts", "etc/hosts"));
    assert_eq!(parsed("./a/b"), pair("./a/b", "a/b"));
    assert_eq!(parsed("a:/etc/b"), pair("a", "etc/b"));
    assert_eq!(parsed("x/a:/etc/"), pair("x/a", "etc/a"));
    for bad in ["", ":x", "a:../b", "../a", "a:/"] {
        assert!(parsed(bad).is_none() || bad == "a:/", "{bad}");
    }
}
