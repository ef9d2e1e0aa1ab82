//! Giving up root's powers once the ports are bound.
//!
//! Ports below 1024 and a socket for everybody on one interface are root's; serving is
//! not. What stays is what a medium needs that is a directory: reading what only root
//! may read.

use crate::error::Error;
use nix::unistd::{Gid, Uid, chown, geteuid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_keep_capabilities};
use std::path::Path;

/// `nobody`, on every Linux.
const NOBODY: u32 = 65534;

/// The user that the process becomes: the caller of sudo, or `nobody`.
fn successor() -> (Uid, Gid) {
    let number = |name: &str| std::env::var(name).ok()?.parse().ok().filter(|id: &u32| *id != 0);
    let id = |name: &str| number(name).unwrap_or(NOBODY);
    (Uid::from_raw(id("SUDO_UID")), Gid::from_raw(id("SUDO_GID")))
}

/// Gives a file or directory, if it exists, to that user.
fn give(path: &Path) -> Result<(), Error> {
    let (user, group) = successor();
    match chown(path, Some(user), Some(group)) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(e) => Err(Error::write(path)(e.into())),
    }
}

/// Becomes an ordinary user, in this thread and those that it will start; nothing
/// happens when it is one, and the answer is false. `state`, its `settings` and what is
/// in these are given to that user, and the process goes there: that user may not be
/// allowed to. With `read_all` everything can still be read.
///
/// # Errors
/// The system refuses: better not to serve than to serve as root.
pub fn drop_root(state: Option<&Path>, read_all: bool) -> Result<bool, Error> {
    if !geteuid().is_root() {
        return Ok(false);
    }
    if let Some(state) = state {
        std::env::set_current_dir(state).map_err(Error::write(state))?;
    }
    for dir in state.into_iter().flat_map(|state| [state.to_owned(), state.join("settings")]) {
        give(&dir)?;
        for entry in dir.read_dir().into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = name.starts_with("leases-") || dir.ends_with("settings");
            if ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                give(&entry.path())?;
            }
        }
    }
    let doing = |e: nix::errno::Errno| Error::system("give up root's powers")(e.into());
    let system = |e: rustix::io::Errno| doing(nix::errno::Errno::from_raw(e.raw_os_error()));
    let (user, group) = successor();
    if read_all {
        set_keep_capabilities(true).map_err(system)?;
    }
    setgroups(&[]).map_err(doing)?;
    setresgid(group, group, group).map_err(doing)?;
    setresuid(user, user, user).map_err(doing)?;
    let kept = if read_all { CapabilitySet::DAC_READ_SEARCH } else { CapabilitySet::empty() };
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(system).map(|()| true)
}
