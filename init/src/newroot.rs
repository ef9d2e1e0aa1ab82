//! The new root while it is put together: every path below it is resolved inside
//! it, so that no link of an image leads out.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid, openat, openat2, readlinkat, unlinkat,
};
use rustix::io::Errno;
use sys::errno::Shown;
use sys::file::{make_dir, write_file};

use crate::machine::Machine;

/// Where the new root is put together.
pub const ROOT: &str = "/sysroot";

/// A file of the new root or of `/run`, and what it holds from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Path from the new root; below `/run` it is ours.
    pub path: String,
    /// All of it.
    pub text: String,
    /// Mode when it is new; a file that is there keeps its own.
    pub mode: u32,
}

impl Change {
    /// A change of a file; a new one can be read by everybody.
    #[must_use]
    pub fn new(path: &str, text: String) -> Self {
        Self { path: path.to_string(), text, mode: 0o644 }
    }
}

/// Writes a change; says what cannot be written.
pub fn put(machine: &mut Machine, change: &Change) {
    let below_run = change.path.starts_with("/run/");
    let parent = change.path.rsplit_once('/').map_or("", |(parent, _)| parent);
    let base = if below_run { "" } else { ROOT };
    let _ = make_dir(&[base, parent].concat(), 0o755);
    let put = if below_run {
        write_file(&change.path, change.text.as_bytes(), change.mode)
    } else {
        replace(&change.path, &change.text, change.mode)
    };
    if let Err(errno) = put {
        machine.log.warn(&format!("{} cannot be written: {}", change.path, Shown(errno)));
    }
}

/// Reads a file of the new root, or says whether a directory is there (as empty text).
pub type Read<'r> = dyn Fn(&str) -> Option<String> + 'r;

/// With a newline at the end.
#[must_use]
pub fn ended(text: &str) -> String {
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    [text, newline].concat()
}

/// Whether a path leads to something executable, links followed as they will
/// be once the new root is `/`.
///
/// # Errors
/// The kernel's; `EISDIR` and `EACCES` when it can be no program.
pub fn inside_root(path: &str) -> Result<(), Errno> {
    let root = open_root()?;
    let relative = path.trim_start_matches('/');
    let file = openat2(
        &root,
        relative,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    )?;
    let stat = rustix::fs::fstat(&file)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Err(Errno::ISDIR);
    }
    if stat.st_mode & 0o111 == 0 {
        return Err(Errno::ACCESS);
    }
    Ok(())
}

fn open_root() -> Result<rustix::fd::OwnedFd, Errno> {
    rustix::fs::open(ROOT, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Puts a file in the new root in place of whatever is there. Links on the way
/// are followed inside the root only; the file itself is never written through one.
/// A file that is there keeps its owner and mode; a new one gets `mode`.
///
/// # Errors
/// The kernel's; the directory must be there.
pub fn replace(path: &str, text: &str, mode: u32) -> Result<(), Errno> {
    let (parent, name) = path.trim_start_matches('/').rsplit_once('/').ok_or(Errno::INVAL)?;
    let directory = openat2(
        open_root()?,
        parent,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    )?;
    let old = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).ok();
    let old = old.filter(|old| rustix::fs::FileType::from_raw_mode(old.st_mode).is_file());
    let mode = old.map_or(mode, |old| old.st_mode & 0o7777);
    match unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&directory, name, flags, Mode::from_raw_mode(mode))?;
    if let Some(old) = old {
        let (uid, gid) = (Uid::from_raw(old.st_uid), Gid::from_raw(old.st_gid));
        rustix::fs::fchown(&file, Some(uid), Some(gid))?;
    }
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let length = rustix::io::write(&file, rest)?;
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(())
}

/// Where a link in the new root points; `None` when it is no link.
#[must_use]
pub fn link_in_root(path: &str) -> Option<String> {
    let link = readlinkat(open_root().ok()?, path.trim_start_matches('/'), Vec::new()).ok()?;
    link.into_string().ok()
}

/// The text of a file in the new root; links are not followed out of it. `None` for
/// what is no text, or longer than 64 KiB.
#[must_use]
pub fn in_root(path: &str) -> Option<String> {
    let root = open_root().ok()?;
    let file = openat2(
        &root,
        path.trim_start_matches('/'),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    )
    .ok()?;
    let mut bytes = alloc::vec![0; 64 << 10];
    let length = rustix::io::read(&file, bytes.as_mut_slice()).ok()?;
    if length == bytes.len() {
        return None;
    }
    bytes.truncate(length);
    String::from_utf8(bytes).ok()
}

/// A directory of the new root by its path there, with no link on the way that
/// would lead out of it: the part that exists is resolved inside the root.
///
/// # Errors
/// The kernel's.
pub fn inside(dir: &str) -> Result<String, rustix::io::Errno> {
    let root = open_root()?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let relative = dir.trim_start_matches('/');
    let resolve = rustix::fs::ResolveFlags::IN_ROOT;
    match rustix::fs::openat2(&root, relative, flags, Mode::empty(), resolve) {
        Ok(directory) => {
            let number = rustix::fd::AsRawFd::as_raw_fd(&directory);
            let link =
                rustix::fs::readlink(format!("/proc/self/fd/{number}").as_str(), Vec::new())?;
            link.into_string().map_err(|_| rustix::io::Errno::ILSEQ)
        }
        Err(rustix::io::Errno::NOENT) => Ok(format!("{ROOT}/{relative}")),
        Err(errno) => Err(errno),
    }
}

/// Gives one directory the owner and the mode of another; what cannot be is left.
pub fn like(from: &str, to: &str) {
    let Ok(stat) = rustix::fs::stat(from) else { return };
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let _ = rustix::fs::chown(to, Some(uid), Some(gid));
    let _ = rustix::fs::chmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777));
}
