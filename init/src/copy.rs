//! Files and trees copied, with a word on the console while it takes long.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chmodat, chownat, fstat,
    mknodat, openat, readlinkat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use sys::clock::Instant;
use sys::file::{is_absent, open, open_read};

use crate::log::Log;
use crate::memory::Size;
use crate::newroot::NewRoot;

/// Bytes moved by one call: large enough that calls do not count, small enough
/// that progress is seen.
const CHUNK: usize = 4 << 20;

/// Deepest tree that is copied.
const MAX_DEPTH: u32 = 128;

/// Time between two lines of progress.
const EVERY: Duration = Duration::from_secs(2);

/// What failed, on which path.
pub type CopyError = (String, Errno);

/// Says how far a long work is, now and then.
#[derive(Debug)]
pub struct Progress {
    what: String,
    total: u64,
    done: u64,
    started: Instant,
    next: Instant,
}

impl Progress {
    /// Work of `total` bytes begins; `what` as in "copying WHAT".
    #[must_use]
    pub fn new(what: &str, total: u64) -> Self {
        let now = Instant::now();
        Self { what: what.to_string(), total, done: 0, started: now, next: now.after(EVERY) }
    }

    /// So many bytes more are done.
    pub fn add(&mut self, log: &mut Log, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next = now.after(EVERY);
        let (_, rate) = self.pace(now);
        if self.total == 0 {
            // How much there will be is not known.
            log.info(&format!("{}: {}, {}/s", self.what, Size(self.done), Size(rate)));
            return;
        }
        let left = self.total.saturating_sub(self.done) / rate.max(1);
        let percent = self.done.saturating_mul(100).checked_div(self.total).unwrap_or(0).min(100);
        log.info(&format!(
            "{}: {} of {} ({percent} %), {}/s, {left} s left",
            self.what,
            Size(self.done),
            Size(self.total),
            Size(rate),
        ));
    }

    /// Milliseconds so far, and bytes a second.
    fn pace(&self, now: Instant) -> (u64, u64) {
        let elapsed = now.millis().saturating_sub(self.started.millis()).max(1);
        (elapsed, self.done.saturating_mul(1000) / elapsed)
    }

    /// What was done, and how fast, for the last line.
    #[must_use]
    pub fn summary(&self) -> String {
        let (elapsed, rate) = self.pace(Instant::now());
        format!(
            "{} in {}.{} s ({}/s)",
            Size(self.done),
            elapsed / 1000,
            elapsed % 1000 / 100,
            Size(rate)
        )
    }
}

/// Copies a file's contents; the target is made, or replaced.
///
/// # Errors
/// The path that failed and the kernel's error.
pub fn file(log: &mut Log, from: &str, to: &str, progress: &mut Progress) -> Result<(), CopyError> {
    let source = open_read(from).map_err(|errno| (from.to_string(), errno))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let target = open(to, flags, 0o644).map_err(|errno| (to.to_string(), errno))?;
    contents(log, source.as_fd(), target.as_fd(), progress)
        .map_err(|errno| (from.to_string(), errno))
}

/// Moves all bytes inside the kernel.
fn contents(
    log: &mut Log,
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    progress: &mut Progress,
) -> Result<(), Errno> {
    loop {
        match rustix::fs::sendfile(target, source, None, CHUNK) {
            Ok(0) => return Ok(()),
            Ok(length) => progress.add(log, length as u64),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Bytes of all regular files of a tree, of its file system only.
#[must_use]
pub fn tree_size(path: &str) -> u64 {
    let Ok(root) = open_dir(rustix::fs::CWD, path) else { return 0 };
    let Ok(stat) = fstat(&root) else { return 0 };
    size_below(root.as_fd(), stat.st_dev, 0)
}

fn size_below(directory: BorrowedFd<'_>, device: u64, depth: u32) -> u64 {
    let mut total: u64 = 0;
    // The copy says what cannot be listed.
    for (name, stat) in entries(directory).unwrap_or_default() {
        // Every entry costs a page of memory, too.
        total = total.saturating_add(4096);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                total = total.saturating_add(size.next_multiple_of(4096));
            }
            FileType::Directory if stat.st_dev == device && depth < MAX_DEPTH => {
                if let Ok(child) = open_dir(directory, &name) {
                    total = total.saturating_add(size_below(child.as_fd(), device, depth + 1));
                }
            }
            _ => {}
        }
    }
    total
}

/// Copies what is below one directory to another that exists: owners, modes,
/// times, links and devices as they are. Stays on one file system; extended
/// attributes and hard links are not kept.
///
/// # Errors
/// The path that failed, below `from`, and the kernel's error.
pub fn tree(log: &mut Log, from: &str, to: &str, progress: &mut Progress) -> Result<(), CopyError> {
    let root = NewRoot::at(to).map_err(|errno| (to.to_string(), errno))?;
    into_root(log, from, (&root, ""), progress, false)
}

/// The same to a directory of the new root, which is made when it is missing. Links to
/// directories are followed, inside the root only; with `over`, files and links that
/// are there are replaced.
///
/// # Errors
/// As [`tree`].
pub fn into_root(
    log: &mut Log,
    from: &str,
    (root, to): (&NewRoot, &str),
    progress: &mut Progress,
    over: bool,
) -> Result<(), CopyError> {
    let fail = |path: &str| {
        let path = path.to_string();
        move |errno| (path, errno)
    };
    let source = open_dir(rustix::fs::CWD, from).map_err(fail(from))?;
    let target = root.make_dir(to.as_bytes()).map_err(fail(to))?;
    let device = fstat(&source).map_err(fail(from))?.st_dev;
    let mut walk = Walk { log, progress, device, over, root, from, to };
    walk.copy_below(source.as_fd(), target.as_fd(), from, 0)
}

/// Names in a directory, dot files included, sorted.
///
/// # Errors
/// The kernel's, when it cannot be listed.
pub fn names(path: &str) -> Result<Vec<String>, Errno> {
    let directory = open_dir(rustix::fs::CWD, path)?;
    Ok(entries(directory.as_fd())?.into_iter().map(|(name, _)| name).collect())
}

struct Walk<'w> {
    log: &'w mut Log,
    progress: &'w mut Progress,
    device: u64,
    /// Whether what is in the way is replaced.
    over: bool,
    /// Where `from` is copied to the directory `to`.
    root: &'w NewRoot,
    from: &'w str,
    to: &'w str,
}

impl Walk<'_> {
    fn copy_below(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        path: &str,
        depth: u32,
    ) -> Result<(), CopyError> {
        for (name, stat) in entries(source).map_err(|errno| (path.to_string(), errno))? {
            let path = format!("{path}/{name}");
            self.copy_entry(source, target, &name, &stat, &path, depth)
                .map_err(|(deeper, errno)| (deeper.unwrap_or(path), errno))?;
        }
        Ok(())
    }

    fn copy_entry(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &str,
        stat: &Stat,
        path: &str,
        depth: u32,
    ) -> Result<(), (Option<String>, Errno)> {
        let here = |errno: Errno| (None, errno);
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let kind = FileType::from_raw_mode(stat.st_mode);
        if self.over && kind != FileType::Directory {
            // Nothing is there, or making the new one says what is.
            let _ = unlinkat(target, name, AtFlags::empty());
        }
        match kind {
            FileType::Directory => {
                let below = [self.to, path.strip_prefix(self.from).unwrap_or(path)].concat();
                let to = self.root.make_dir(below.as_bytes()).map_err(here)?;
                if stat.st_dev == self.device {
                    if depth >= MAX_DEPTH {
                        return Err(here(Errno::NAMETOOLONG));
                    }
                    let from = open_dir(source, name).map_err(here)?;
                    self.copy_below(from.as_fd(), to.as_fd(), path, depth + 1)
                        .map_err(|(path, errno)| (Some(path), errno))?;
                }
                settle(to.as_fd(), ".", stat);
                return Ok(());
            }
            FileType::RegularFile => {
                // A server may make it a pipe meanwhile, whose opening waits.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let from = openat(source, name, flags, Mode::empty()).map_err(here)?;
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let to = openat(target, name, flags, mode).map_err(here)?;
                contents(self.log, from.as_fd(), to.as_fd(), self.progress).map_err(here)?;
            }
            FileType::Symlink => {
                let link = readlinkat(source, name, Vec::new()).map_err(here)?;
                symlinkat(link.as_c_str(), target, name).map_err(here)?;
            }
            _ => mknodat(target, name, kind, mode, stat.st_rdev).map_err(here)?,
        }
        settle(target, name, stat);
        Ok(())
    }
}

/// Gives what is called `name` in a directory, which was made a moment ago and is no
/// link that could be followed, the owner, mode and times of `stat`.
fn settle(directory: BorrowedFd<'_>, name: &str, stat: &Stat) {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let time = |sec: i64, nsec: u64| Timespec { tv_sec: sec, tv_nsec: nsec.cast_signed() };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    // What a file system cannot keep (vfat has no owners) is no failure.
    let _ = chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let _ = chmodat(directory, name, mode, AtFlags::empty());
    }
    let _ = utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW);
}

fn open_dir(at: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Names that are text, with what they are; sorted, so that every run is alike.
fn entries(directory: BorrowedFd<'_>) -> Result<Vec<(String, Stat)>, Errno> {
    let mut found: Vec<(String, Stat)> = Vec::new();
    let mut failed = Ok(());
    sys::file::entries(directory, &mut |name, _| {
        let Ok(name) = name.to_str() else { return };
        // What was removed meanwhile is not missed.
        match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => found.push((name.to_string(), stat)),
            Err(errno) if is_absent(errno) => {}
            Err(errno) => failed = Err(errno),
        }
    })?;
    failed?;
    sys::sort::sort_by(&mut found, |(a, _), (b, _)| a < b);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_tree_arrives_as_it_was() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(from.path().join("a/b")).unwrap();
        std::fs::write(from.path().join("a/b/file"), vec![7; 100_000]).unwrap();
        std::fs::set_permissions(
            from.path().join("a/b/file"),
            std::fs::Permissions::from_mode(0o4751),
        )
        .unwrap();
        symlink("b/file", from.path().join("a/link")).unwrap();
        let from_path = from.path().to_str().unwrap();
        assert!(tree_size(from_path) >= 100_000);

        let mut log = Log::open();
        let mut progress = Progress::new("copying", 100_000);
        tree(&mut log, from_path, to.path().to_str().unwrap(), &mut progress).unwrap();

        let old = std::fs::metadata(from.path().join("a/b/file")).unwrap();
        let new = std::fs::metadata(to.path().join("a/link")).unwrap();
        assert_eq!((old.len(), old.mode(), old.mtime()), (new.len(), new.mode(), new.mtime()));
        assert_eq!(progress.done, 100_000);
    }

    #[test]
    fn what_is_in_the_way_is_replaced_when_asked() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(from.path().join("lib/a")).unwrap();
        std::fs::create_dir_all(to.path().join("usr/lib")).unwrap();
        symlink("/usr/lib", to.path().join("lib")).unwrap();
        std::fs::write(from.path().join("lib/a/new"), "new").unwrap();
        for (root, text) in [(&from, "new"), (&to, "old")] {
            std::fs::write(root.path().join("file"), text).unwrap();
        }
        let mut progress = Progress::new("copying", 1);
        let (from, to) = (from.path().to_str().unwrap(), to.path());
        let root = NewRoot::at(to.to_str().unwrap()).unwrap();
        into_root(&mut Log::open(), from, (&root, "/"), &mut progress, true).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("file")).unwrap(), "new");
        assert_eq!(std::fs::read_to_string(to.join("usr/lib/a/new")).unwrap(), "new");
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        std::fs::create_dir(from.path().join("d")).unwrap();
        std::fs::write(from.path().join("d/x"), "new").unwrap();
        std::fs::create_dir(to.path().join("d")).unwrap();
        std::fs::write(to.path().join("d/x"), "old").unwrap();
        let mut log = Log::open();
        let error = tree(
            &mut log,
            from.path().to_str().unwrap(),
            to.path().to_str().unwrap(),
            &mut Progress::new("copying", 0),
        )
        .unwrap_err();
        assert!(error.0.ends_with("/d/x"), "{error:?}");
        assert_eq!(error.1, Errno::EXIST);
    }
}
