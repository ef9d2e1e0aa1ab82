//! What machines boot: kernels, live systems, media, other projects' initramfs.
//!
//! Everything comes from the host's Debian packages and is kept under
//! `lab/cache/NAME-HASH`, where the hash covers the recipe and those it builds on;
//! a changed recipe is a new entry, an interrupted one leaves nothing under the
//! final name, and two runs that want the same entry wait for each other.

mod kernel;
pub mod live;
pub mod media;
mod ours;
mod peers;
mod sources;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub use kernel::{Flavour, Kernel};
pub use ours::{FULL, Profile, bellwether, released, replace};
pub use peers::Peer;

use crate::{Error, Result, shell, workspace};

/// The cache, and how to get each thing out of it.
#[derive(Debug, Clone)]
pub struct Assets {
    cache: PathBuf,
}

impl Assets {
    /// Opens (and makes) the cache.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be made.
    pub fn open() -> Result<Assets> {
        let cache = workspace::lab().join("cache");
        fs::create_dir_all(&cache).map_err(Error::at("make", &cache))?;
        Ok(Assets { cache })
    }

    /// The directory of entry `name`, made by `build` unless it is there already.
    fn entry(
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
            // A draft of a run that was killed; nothing is mounted in it.
            fs::remove_dir_all(&draft).map_err(Error::at("remove", &draft))?;
        }
        fs::create_dir(&draft).map_err(Error::at("make", &draft))?;
        build(&draft)?;
        fs::rename(&draft, &entry).map_err(Error::at("rename", &draft))?;
        Ok(entry)
    }
}

/// FNV-1a, 64 bits: names cache entries, protects nothing.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The only file in `dir` whose name starts with `prefix`.
fn only(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).map_err(Error::at("list", dir))?;
    let mut found = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)));
    found.next().ok_or_else(|| Error::Input(format!("no file {prefix}… in {}", dir.display())))
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
