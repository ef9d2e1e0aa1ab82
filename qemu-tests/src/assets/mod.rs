//! What machines boot: kernels, live systems, media, other projects' initramfs.
//!
//! Everything comes from the host's Debian packages and is kept under
//! `lab/cache/NAME-HASH`, where the hash covers the recipe and those it builds on;
//! a changed recipe is a new entry, an interrupted one leaves nothing under the
//! final name, and two runs that want the same entry wait for each other.

mod apt;
mod arm64;
mod converter;
mod installed;
mod kernel;
pub mod live;
pub mod media;
mod ours;
mod peers;
mod servers;
mod signed;
pub mod sources;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub use arm64::Arm64;
pub use kernel::{Flavour, Kernel};
pub use ours::{FULL, Profile, bellwether, released, replace};
pub use peers::Peer;
pub use signed::Signer;

use crate::{Error, Result, shell, workspace};

/// The cache, and how to get each thing out of it.
#[derive(Debug, Clone)]
pub struct Assets {
    cache: PathBuf,
    release: String,
}

impl Assets {
    /// Opens (and makes) the cache. Kernels, live systems and initramfs are of this
    /// machine's own release of Debian.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be made; [`Error::Input`] when this machine
    /// is no Debian.
    pub fn open() -> Result<Assets> {
        Assets::of(&sources::suite()?)
    }

    /// The same of another release, by its code name.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be made.
    pub fn of(release: &str) -> Result<Assets> {
        let cache = workspace::lab().join("cache");
        fs::create_dir_all(&cache).map_err(Error::at("make", &cache))?;
        Ok(Assets { cache, release: release.to_owned() })
    }

    /// The code name of the release.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The directory of entry `name`, made by `build` unless it is there already.
    pub(crate) fn entry(
        &self,
        name: &str,
        recipe: &str,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let entry = self.cache.join(format!("{name}-{:016x}", fnv1a(recipe.as_bytes())));
        if entry.exists() {
            return Ok(entry);
        }
        let lock_path = self.cache.join(format!("{name}.lock"));
        let lock = File::create(&lock_path).map_err(Error::at("open", &lock_path))?;
        lock.lock().map_err(Error::at("lock", &lock_path))?;
        if entry.exists() {
            return Ok(entry);
        }
        crate::say(format_args!("building {name}"));
        let draft = self.cache.join(format!("{name}.draft"));
        if draft.exists() {
            discard(&draft)?;
        }
        fs::create_dir(&draft).map_err(Error::at("make", &draft))?;
        build(&draft)?;
        fs::rename(&draft, &entry).map_err(Error::at("rename", &draft))?;
        Ok(entry)
    }
}

/// Removes the draft of a run that was killed or failed. What that run mounted in it is
/// unmounted first: behind a mount there may be this machine's own `/dev`.
fn discard(draft: &Path) -> Result<()> {
    let draft = draft.canonicalize().map_err(Error::at("find", draft))?;
    let mounted = || -> Result<Vec<PathBuf>> {
        let table = Path::new("/proc/self/mountinfo");
        let text = fs::read_to_string(table).map_err(Error::at("read", table))?;
        Ok(mounted_below(&text, &draft))
    };
    // What was mounted last may lie in what was mounted before.
    for place in mounted()?.iter().rev() {
        shell::run(shell::command("umount").arg("--lazy").arg(place))?;
    }
    match mounted()?.first() {
        None => fs::remove_dir_all(&draft).map_err(Error::at("remove", &draft)),
        Some(place) => Err(Error::Input(format!("unmount {} and try again", place.display()))),
    }
}

/// The mount points in and below `dir`, in the order of mounting. The format is in
/// proc_pid_mountinfo(5): the fifth field, with octal escapes for what separates fields.
fn mounted_below(mountinfo: &str, dir: &Path) -> Vec<PathBuf> {
    let places = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    let unescaped = places.map(|place| {
        let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
        let plain =
            escapes.iter().fold(place.to_owned(), |text, (from, to)| text.replace(from, to));
        PathBuf::from(plain)
    });
    unescaped.filter(|place| place.starts_with(dir)).collect()
}

/// FNV-1a, 64 bits: names cache entries, protects nothing.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The only file in `dir` whose name starts with `prefix`.
fn only(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let found = named(dir, |name| name.starts_with(prefix))?;
    found.ok_or_else(|| Error::Input(format!("no file {prefix}… in {}", dir.display())))
}

/// A file in `dir` with such a name.
fn named(dir: &Path, fits: impl Fn(&str) -> bool) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(Error::at("list", dir))?;
    let mut entries = entries.flatten();
    let found = entries.find(|entry| fits(&entry.file_name().to_string_lossy()));
    Ok(found.map(|entry| entry.path()))
}

/// `cp -a`, with hard links where the file system can: images are large.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
    shell::sh(&["cp", "-a", "--link", &from, &to])
        .or_else(|_| shell::sh(&["cp", "-a", &from, &to]))
        .map(drop)
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(Error::at("make", dir))?;
    }
    fs::write(path, text).map_err(Error::at("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn finds_mounts_by_their_place() {
        let table = "22 1 0:20 / /sys rw shared:1 - sysfs sysfs rw\n\
                     40 22 0:40 / /lab/x.draft/root/sys ro - sysfs sysfs ro\n\
                     41 40 0:41 / /lab/x.draft/root/a\\040b rw - tmpfs tmpfs rw\n\
                     42 22 0:42 / /lab/x.draft2 rw - tmpfs tmpfs rw\n";
        let found = mounted_below(table, Path::new("/lab/x.draft"));
        assert_eq!(found, ["/lab/x.draft/root/sys", "/lab/x.draft/root/a b"].map(PathBuf::from));
    }

    /// A run that was killed left a draft with a read-only mount in it, on which every
    /// later run failed.
    #[test]
    fn a_draft_with_mounts_is_built_anew() {
        const INSIDE: &str = "BELLWETHER_LAB_DRAFT";
        let Some(cache) = std::env::var_os(INSIDE).map(PathBuf::from) else {
            // A mount needs a namespace of its own, and who is not root one of users. The kernel
            // makes none of users in a chroot.
            let user = ["--user", "--map-root-user"];
            let user = if crate::packages::is_root() { &[][..] } else { &user };
            let cache = std::env::temp_dir().join(format!("lab-draft-{}", std::process::id()));
            fs::create_dir(&cache).unwrap();
            let mut unshare = Command::new("unshare");
            unshare.args(user).arg("--mount");
            unshare.arg(std::env::current_exe().unwrap());
            unshare.args(["--exact", "assets::tests::a_draft_with_mounts_is_built_anew"]);
            let out = unshare.env(INSIDE, &cache).output().unwrap();
            fs::remove_dir_all(&cache).unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
            return;
        };
        let place = cache.join("thing.draft/root/sys");
        fs::create_dir_all(place.join("below")).unwrap();
        let place = place.to_string_lossy().into_owned();
        shell::sh(&["mount", "-t", "tmpfs", "lab", &place]).unwrap();
        fs::create_dir(format!("{place}/deeper")).unwrap();
        shell::sh(&["mount", "-t", "tmpfs", "lab", &format!("{place}/deeper")]).unwrap();
        fs::write(format!("{place}/deeper/kept"), "").unwrap();
        shell::sh(&["mount", "-o", "remount,ro", &format!("{place}/deeper")]).unwrap();
        let made = Assets { cache, release: String::new() }
            .entry("thing", "1", |dir| write(&dir.join("made"), "yes"));
        let made = made.unwrap();
        assert_eq!(fs::read_to_string(made.join("made")).unwrap(), "yes");
        assert!(!made.join("root").exists());
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains("thing.draft"), "{table}");
    }
}
