//! `--files`: a tree, file by file, by the engine that copies disks.

mod attributes;
mod source;
mod target;

pub use source::Source;
pub use target::Target;

use ::share::beneath::Directory;
use rustix::fs::{AtFlags, Mode, OFlags, Stat, StatxAttributes, StatxFlags, fstat, statx};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Only the name: nothing is opened that could wait or act.
const NAME: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW);

/// The bits of `st_mode` that say what it is, and the rest.
const KIND: u32 = 0o170_000;

fn path(of: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(of))
}

fn by_error(e: &std::io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}

/// What `--files` is given is a directory.
///
/// # Errors
/// It is something else, or not there.
pub fn directory(dir: &Path) -> Result<(), String> {
    match std::fs::metadata(dir) {
        Ok(is) if is.is_dir() => Ok(()),
        Ok(_) => Err(format!(
            "{}: is no directory; without --files one file is copied as a disk is",
            dir.display()
        )),
        Err(e) => Err(format!("{}: {e}", dir.display())),
    }
}

/// What a path is for the user.
fn shown(of: &[u8]) -> String {
    super::map::safe(&String::from_utf8_lossy(of))
}

/// The name below a tree, and what is there.
fn name(root: &Directory, at: &[u8]) -> Result<(OwnedFd, Stat), Errno> {
    let fd = root.at(path(at), NAME, Mode::empty())?;
    let stat = fstat(&fd)?;
    Ok((fd, stat))
}

/// Whether nothing of it may change, or what is there may not: `chattr +i` or `+a`.
fn fixed(fd: impl AsFd) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    statx(fd, "", flags, StatxFlags::BASIC_STATS)
        .is_ok_and(|is| is.stx_attributes.intersects(fixed))
}

/// A path that leads to exactly what is open, for the calls that take no descriptor.
fn by_number(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
