//! `tools`: an image of the programs that `install` needs, with their libraries, to
//! be loaded behind an initramfs of ours.

use super::flags::{Given, Program, flag};
use crate::failure::Failure;
use crate::programs::{find, libraries};
use cpio_builder::compress::{Codec, compress};
use cpio_builder::newc::{Archive, Node};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The grammar.
pub static TOOLS: Program = Program {
    name: "tools",
    about: "Gathers what install needs into an image to load behind the initramfs.",
    rest: "",
    example: "bellwether clone tools -o tools.img && cat initramfs.img tools.img > clone.img",
    flags: &[
        flag("out", Some('o'), Some("FILE"), "the image [clone-tools.img]"),
        flag(
            "adapt",
            None,
            Some("grow,unique"),
            "what is done to a disk that was copied byte by byte: see adapt",
        ),
        flag("add", None, Some("PROGRAM"), "another program"),
    ],
};

/// Without these there is no copy.
const NEEDED: [&str; 13] = [
    "sh",
    "tar",
    "sfdisk",
    "blkid",
    "mkswap",
    "mkfs.ext4",
    "fsck.ext4",
    "mount",
    "umount",
    "chroot",
    "sync",
    "cat",
    "env",
];
/// Each serves one more kind of file system, or a shell.
const WELCOME: [&str; 24] = [
    "blockdev",
    "partx",
    "mkfs.ext2",
    "mkfs.ext3",
    "mkfs.xfs",
    "mkfs.btrfs",
    "mkfs.vfat",
    "mkfs.ntfs",
    "resize2fs",
    "tune2fs",
    "xfs_db",
    "xfs_growfs",
    "btrfs",
    "btrfstune",
    "swaplabel",
    "fatlabel",
    "ntfsresize",
    "ntfslabel",
    "gzip",
    "zstd",
    "cpio",
    "ls",
    "echo",
    "dmesg",
];

/// Runs it.
pub fn run(given: &Given) -> Result<(), Failure> {
    let path = given.get("out").unwrap_or("clone-tools.img");
    make(Path::new(path), given.get("adapt"), given.get("add"))
}

/// Makes the image. `adapt` is what is done to a copied disk, `more` another program.
pub fn make(path: &Path, adapt: Option<&str>, more: Option<&str>) -> Result<(), Failure> {
    let io = |path: &Path, e: std::io::Error| Failure::Failed(format!("{}: {e}", path.display()));
    let mut files: BTreeSet<(PathBuf, String)> = BTreeSet::new();
    let mut missing = Vec::new();
    let own = std::env::current_exe().map_err(|e| Failure::Failed(e.to_string()))?;
    files.insert((own.clone(), "usr/bin/bellwether".to_owned()));
    let mut programs = vec![own];
    for name in NEEDED.iter().copied().chain(WELCOME).chain(more) {
        match find(name) {
            Some(path) => {
                files.insert((path.clone(), format!("usr/bin/{name}")));
                programs.push(path);
            }
            None if NEEDED.contains(&name) => {
                return Err(Failure::Failed(format!("{name} is not on this computer")));
            }
            None => missing.push(name),
        }
    }
    for program in &programs {
        for library in libraries(program)? {
            let to = library.to_string_lossy().trim_start_matches('/').to_owned();
            files.insert((library, to));
        }
    }
    let mut archive = Archive::new();
    for (from, to) in &files {
        let content = fs::read(from).map_err(|e| io(from, e))?;
        let mode = fs::metadata(from).map_err(|e| io(from, e))?.permissions().mode() & 0o7777;
        archive
            .add(to, mode, Node::File(content))
            .map_err(|e| Failure::Failed(format!("{}: {e}", from.display())))?;
    }
    for dir in ["tmp", "proc", "sys", "dev", "run"] {
        let added = archive.add(dir, 0o755, Node::Dir);
        added.map_err(|e| Failure::Failed(format!("{dir}: {e}")))?;
    }
    if let Some(words) = adapt {
        let words: Vec<&str> = words.split(',').collect();
        if let Some(word) = words.iter().find(|w| !["grow", "unique"].contains(w)) {
            return Err(Failure::Usage(format!("--adapt: '{word}' is neither grow nor unique")));
        }
        archive
            .add(
                super::adapt::REQUEST.trim_start_matches('/'),
                0o644,
                Node::File((words.join(" ") + "\n").into_bytes()),
            )
            .map_err(|e| Failure::Failed(e.to_string()))?;
    }
    // Where programs look for it that run commands.
    archive
        .add("bin/sh", 0o777, Node::Symlink("/usr/bin/sh".to_owned()))
        .map_err(|e| Failure::Failed(format!("bin/sh: {e}")))?;
    let plain = archive.write(0).map_err(|e| Failure::Failed(e.to_string()))?;
    // Every kernel unpacks this, and behind an initramfs of any length: archives that are
    // not packed must begin at a multiple of four.
    let image = compress(Codec::Gzip, &plain).map_err(|e| Failure::Failed(e.to_string()))?;
    fs::write(path, &image).map_err(|e| io(path, e))?;
    println!(
        "{}: {} files, {}",
        path.display(),
        archive.len(),
        clone::outcome::Amount(image.len() as u64)
    );
    if !missing.is_empty() {
        println!("without {}", missing.join(", "));
    }
    Ok(())
}
