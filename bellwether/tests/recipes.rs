//! The recipes in `docs/recipes`: every `sh` block is run as it stands.
//!
//! The kernel, its modules and `/init` are made up, so that nothing is
//! fetched; xorriso, squashfs-tools, e2fsprogs, mtools and the boot loaders
//! are real. Without them a recipe is passed over, which is said.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../../cpio-builder/tests/common/mod.rs"]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the recipes' commands need that Rust does not bring.
const NEEDED: &[&str] = &[
    "/usr/bin/xorriso",
    "/usr/bin/mksquashfs",
    "/usr/sbin/mke2fs",
    "/usr/bin/mcopy",
    "/usr/lib/ISOLINUX/isolinux.bin",
    "/usr/lib/PXELINUX/pxelinux.0",
    "/usr/lib/grub/x86_64-efi/monolithic/gcdx64.efi",
    "/usr/share/OVMF/OVMF_VARS_4M.fd",
    "/usr/bin/qemu-system-x86_64",
];

/// The shell lines of a page.
fn commands(page: &str) -> String {
    let blocks = page.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap()).collect()
}

fn bellwether() -> Command {
    Command::new(env!("CARGO_BIN_EXE_bellwether"))
}

/// Something with the marks of a kernel for x86.
fn kernel() -> Vec<u8> {
    let mut kernel = vec![0; 4096];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel
}

/// Runs a page in a directory that `prepare` filled.
fn run(page: &str, prepare: impl FnOnce(&Path)) -> Option<tempfile::TempDir> {
    if let Some(missing) = NEEDED.iter().find(|path| !Path::new(path).exists()) {
        eprintln!("passed over: {missing} is not installed");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    // `bellwether` with the made-up /init, which a release has inside.
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(dir.path().join("init"), common::init()).unwrap();
    let script = format!(
        "#!/bin/sh\ncase \"$1 $*\" in *--initrd*|*--append-only*) ;; build*|iso*|pxe*) c=$1; shift; \
         set -- \"$c\" --init {}/init \"$@\";; esac\ncase \"$*\" in *--append-only*) shift; \
         set -- build --init {}/init \"$@\";; esac\nexec {} \"$@\"\n",
        dir.path().display(),
        dir.path().display(),
        env!("CARGO_BIN_EXE_bellwether")
    );
    let wrapper = bin.join("bellwether");
    fs::write(&wrapper, script).unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recipes").join(page);
    let commands = commands(&fs::read_to_string(page).unwrap());
    assert!(!commands.is_empty());
    let mut shell = Command::new("sh");
    shell.args(["-euxc", &commands]).env("PATH", path).env_remove("SOURCE_DATE_EPOCH");
    let done = shell.current_dir(dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{text}\n{}", String::from_utf8_lossy(&done.stdout));
    Some(dir)
}

/// A small root directory with a kernel and its modules.
fn root(dir: &Path) {
    common::write_tree(dir);
    fs::create_dir_all(dir.join("boot")).unwrap();
    fs::write(dir.join("boot").join(format!("vmlinuz-{}", common::RELEASE)), kernel()).unwrap();
    fs::create_dir_all(dir.join("sbin")).unwrap();
    fs::write(dir.join("sbin/init"), common::init()).unwrap();
}

/// An initramfs of a distribution: the modules in a plain archive.
fn initrd(work: &Path, to: &Path) {
    let tree = work.join("tree");
    root(&tree);
    let made = bellwether()
        .current_dir(work)
        .args(["build", "--modules", "tree", "--profile", "all", "--init", "tree/sbin/init", "-o"])
        .arg(to)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::remove_dir_all(tree).unwrap();
}

/// A live ISO and its initramfs.
fn live_iso(dir: &Path) {
    root(&dir.join("root"));
    initrd(dir, &dir.join("initrd.img"));
    let made = bellwether()
        .current_dir(dir)
        .args(["iso", "--root", "root", "--initrd", "initrd.img", "-o", "live.iso"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn file(dir: &tempfile::TempDir, name: &str) -> Vec<u8> {
    fs::read(dir.path().join(name)).unwrap()
}

#[test]
fn device_mapper_cd() {
    let dir = run("device-mapper-cd.md", |dir| {
        fs::create_dir_all(dir.join("CD/isolinux")).unwrap();
        fs::write(dir.join("CD/isolinux/vmlinuz"), kernel()).unwrap();
        initrd(dir, &dir.join("CD/isolinux/initrd.img"));
        common::write_tree(&dir.join("modules"));
    });
    let Some(dir) = dir else { return };
    let image = file(&dir, "initrd-ext2");
    assert_eq!((image.len(), &image[1080..1082]), (40 << 20, &[0x53, 0xef][..]));
    let names = Command::new("/usr/sbin/debugfs")
        .args(["-R", "ls -l /dev", "initrd-ext2"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let names = String::from_utf8(names.stdout).unwrap();
    assert!(names.lines().any(|l| l.contains("20600") && l.ends_with("console")), "{names}");
}

#[test]
fn shared_cd() {
    let dir = run("shared-cd.md", live_iso);
    let Some(dir) = dir else { return };
    for name in ["pxelinux.0", "ldlinux.c32", "bootx64.efi", "grub/grub.cfg", "live/vmlinuz"] {
        assert!(dir.path().join("tftp").join(name).exists(), "{name}");
    }
    let menu = String::from_utf8(file(&dir, "tftp2/pxelinux.cfg/default")).unwrap();
    assert!(menu.contains("INITRD live/initrd.img,live/initrd2.img"), "{menu}");
    assert!(menu.contains("IPAPPEND 2"), "{menu}");
}

#[test]
fn thin_clients() {
    run("thin-clients.md", |_| {});
}

#[test]
fn iso_without_a_drive() {
    let dir = run("iso-without-a-drive.md", live_iso);
    let Some(dir) = dir else { return };
    assert!(file(&dir, "bellwether.img").len() < file(&dir, "initrd.img").len());
}

#[test]
fn stage2() {
    let dir = run("stage2.md", |dir| {
        root(&dir.join("rescue-root"));
        let made = bellwether()
            .current_dir(dir)
            .args(["image", "rescue-root", "-o", "rescue.clp"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    });
    let Some(dir) = dir else { return };
    assert!(file(&dir, "mirror/install/stage2/rescue.sqfs").starts_with(b"hsqs"));
    assert!(file(&dir, "mirror/install/stage2/rescue.clp").starts_with(b"#!/bin/sh\n#V2.0 Format"));
    assert_eq!(file(&dir, "stage2.img")[1080..1082], [0x53, 0xef]);
    assert!(file(&dir, "rescue.iso")[0x8001..].starts_with(b"CD001"));
}

#[test]
fn bootable_iso() {
    let Some(dir) = run("bootable-iso.md", |dir| root(&dir.join("root"))) else { return };
    let iso = file(&dir, "my.iso");
    // A boot sector for sticks, a volume for discs.
    assert_eq!((&iso[510..512], &iso[0x8001..0x8006]), (&[0x55, 0xaa][..], &b"CD001"[..]));
    let told = bellwether()
        .current_dir(dir.path())
        .args(["explain", "--json", "--from", "my.iso"])
        .output()
        .unwrap();
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(text.contains("\"title\":\"My system\",\"default\":true"), "{text}");
    assert!(text.contains("boot/grub/grub.cfg") && text.contains("bw.verity="), "{text}");
}

/// Modules from a live system's squashfs, however it is packed; a directory behind a
/// symbolic link is a directory.
#[test]
fn squashfs_in_and_out() {
    if !Path::new("/usr/bin/mksquashfs").exists() {
        eprintln!("passed over: mksquashfs is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    root(&dir.path().join("root"));
    fs::write(dir.path().join("init"), common::init()).unwrap();
    std::os::unix::fs::symlink("root", dir.path().join("link")).unwrap();
    let pack = |args: &str| {
        let mut command = bellwether();
        command.current_dir(dir.path()).args(args.split(' ')).output().unwrap()
    };
    let told = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    for from in ["root", "link"] {
        let made = pack(&format!("image {from} -o {from}.squashfs"));
        assert!(made.status.success(), "{}", told(&made));
    }
    assert_eq!(file(&dir, "root.squashfs"), file(&dir, "link.squashfs"));
    // A damaged or cut root became a medium without a word.
    let whole = file(&dir, "root.squashfs");
    let tables = usize::try_from(u64::from_le_bytes(whole[64..72].try_into().unwrap())).unwrap();
    let mut damaged = whole.clone();
    damaged[tables..].fill(0xa5);
    for (bytes, why) in [(&whole[..whole.len() / 2], "it is cut"), (&damaged, "damaged.squashfs")] {
        fs::write(dir.path().join("damaged.squashfs"), bytes).unwrap();
        fs::write(dir.path().join("k"), kernel()).unwrap();
        let made = pack("iso --root damaged.squashfs --kernel k --initrd k -o x.iso");
        assert_eq!(made.status.code(), Some(1), "{}", told(&made));
        assert!(told(&made).contains(why), "{}", told(&made));
        assert!(!dir.path().join("x.iso").exists());
    }
    for codec in ["gzip", "xz", "zstd", "lz4", "lzo"] {
        let made = Command::new("mksquashfs")
            .args(["root", "packed", "-noappend", "-quiet", "-no-progress", "-comp", codec])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", told(&made));
        let made = pack("build --modules packed --init init --compress none -o x.img");
        if codec == "lzo" {
            assert_eq!(made.status.code(), Some(1));
            assert_eq!(
                told(&made),
                "bellwether: cannot read packed: squashfs: packed by lzo or lzma; repack it \
                 with gzip, xz, zstd or lz4\n"
            );
        } else {
            assert!(made.status.success(), "{codec}: {}", told(&made));
        }
    }
}

/// Bad input ends with one clear line, status 1, and no file.
#[test]
fn what_cannot_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { dir.path().join(name) };
    fs::create_dir(at("empty")).unwrap();
    fs::write(
        at("cut.clp"),
        [b"#!/bin/sh\n".as_slice(), &[b' '; 118], &[0, 1, 0, 0, 0, 0, 0, 1], &[0; 7]].concat(),
    )
    .unwrap();
    let mut iso = vec![0; 0x8800];
    iso[0x8000..0x8006].copy_from_slice(b"\x01CD001");
    fs::write(at("cut.iso"), iso).unwrap();
    fs::write(at("vmlinuz"), "no kernel").unwrap();
    for (args, status, word) in [
        ("image cut.clp -o x.iso", 1, "cut.clp"),
        ("image cut.iso -o x.squashfs", 1, "no root directory"),
        ("image no-such -o x.squashfs", 1, "no-such"),
        ("image empty -o no/such/x.ext2", 1, "no/such/x.ext2"),
        ("image empty -o x.zip", 2, "--format"),
        ("image --size 4K --format squashfs empty -o x", 2, "--size is for ext2"),
        ("iso --kernel vmlinuz --initrd vmlinuz -o x.iso", 1, "no Linux kernel"),
        ("iso --root empty -o x.iso", 1, "empty/boot"),
        ("explain --from cut.iso", 1, "cut.iso"),
        ("explain --from vmlinuz", 1, "neither an ISO nor"),
        ("try", 2, "nothing to boot"),
        ("pxe tftp", 2, "--append"),
    ] {
        let done = bellwether().current_dir(dir.path()).args(args.split(' ')).output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(status), "{args}: {told}");
        assert!(told.contains(word) && told.lines().count() == 1, "{args}: {told}");
    }
    let left = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 4, "something was left behind");
}
