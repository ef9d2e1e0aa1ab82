//! switch_root: the new root replaces the initramfs
//! (`Documentation/filesystems/ramfs-rootfs-initramfs.rst`).

use alloc::string::{String, ToString};
use core::fmt;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, statat, unlinkat};
use rustix::io::Errno;
use rustix::mount::mount_move;
use rustix::process::{chdir, chroot};
use sys::errno::Shown;
use sys::file::c_path;

/// Deepest directory that is emptied: a bound on our stack.
const MAX_DEPTH: u32 = 64;

/// The step of switch_root that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchError {
    /// The operation.
    pub step: &'static str,
    /// Its object.
    pub path: String,
    /// The errno.
    pub errno: Errno,
}

impl fmt::Display for SwitchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "switch_root: cannot {} {}: {}", self.step, self.path, Shown(self.errno))
    }
}

impl core::error::Error for SwitchError {}

/// Empties the initramfs, and makes `root` the root of this process. The caller execs next. The
/// kernel's file systems must have been moved before.
///
/// # Errors
/// [`SwitchError`] of the failed step. The initramfs may be empty by then: only the steps
/// before `enter` can be repeated.
pub fn switch_root(root: &str) -> Result<(), SwitchError> {
    let fail = |step, path: &str, errno| SwitchError { step, path: path.to_string(), errno };
    // Opened before / changes: afterwards it has no path.
    let old = open_dir(rustix::fs::CWD, "/").map_err(|errno| fail("open", "/", errno))?;
    chdir(root).map_err(|errno| fail("enter", root, errno))?;
    let device = fstat(&old).map_err(|errno| fail("stat", "/", errno))?.st_dev;
    let new = fstat(&open_dir(rustix::fs::CWD, ".").map_err(|errno| fail("open", root, errno))?)
        .map_err(|errno| fail("stat", root, errno))?
        .st_dev;
    mount_move(c".", c"/").map_err(|errno| fail("move to / from", root, errno))?;
    chroot(c".").map_err(|errno| fail("chroot to", root, errno))?;
    chdir(c"/").map_err(|errno| fail("enter", "/", errno))?;
    // A child frees the initramfs's memory, which has no path any more, so that the real init
    // need not wait.
    if new != device
        && sys::process::fork(|| {
            empty(old.as_fd(), device, 0, &[]);
            0
        })
        .is_err()
    {
        empty(old.as_fd(), device, 0, &[]);
    }
    Ok(())
}

/// Removes everything below a directory, except the named entries at its top.
/// Other file systems that are mounted below are left alone.
///
/// # Errors
/// The errno of openat(2), when the directory cannot be opened.
pub fn remove_below(path: &str, except: &[&str]) -> Result<(), Errno> {
    let directory = open_dir(rustix::fs::CWD, path)?;
    let device = fstat(&directory)?.st_dev;
    empty(directory.as_fd(), device, 0, except);
    Ok(())
}

fn open_dir(at: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    openat(
        at,
        &*c_path(path.as_bytes())?,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Removes everything below `directory` that is on the same file system, except
/// entries of these names.
fn empty(directory: BorrowedFd<'_>, device: u64, depth: u32, except: &[&str]) {
    if depth > MAX_DEPTH {
        return;
    }
    // Unreadable and undeletable entries stay.
    let _ = sys::file::entries(directory, &mut |name, kind| {
        if except.iter().any(|kept| kept.as_bytes() == name.to_bytes()) {
            return;
        }
        let is_dir = match kind {
            FileType::Directory => true,
            FileType::Unknown => statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
            _ => false,
        };
        if !is_dir {
            // As above: it stays.
            let _ = unlinkat(directory, name, AtFlags::empty());
            return;
        }
        let Some(child) = name.to_str().ok().and_then(|name| open_dir(directory, name).ok()) else {
            return;
        };
        if fstat(&child).is_ok_and(|stat| stat.st_dev == device) {
            empty(child.as_fd(), device, depth + 1, &[]);
            let _ = unlinkat(directory, name, AtFlags::REMOVEDIR);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emptying_stays_inside() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("keep"), "x").unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(inside.path().join("a/b/c")).unwrap();
        std::fs::write(inside.path().join("a/b/file"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("a/link")).unwrap();

        let directory = open_dir(rustix::fs::CWD, inside.path().to_str().unwrap()).unwrap();
        let device = fstat(&directory).unwrap().st_dev;
        empty(directory.as_fd(), device, 0, &[]);

        assert_eq!(std::fs::read_dir(inside.path()).unwrap().count(), 0);
        assert!(outside.path().join("keep").exists());
    }
}
