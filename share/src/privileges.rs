//! Drops root once the ports are bound.
//!
//! Only ports below 1024 and a broadcast socket on one interface need root. Serving a directory
//! keeps one capability: reading files that only root may read.

use crate::error::Error;
use nix::unistd::{Gid, Uid, chown, geteuid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_keep_capabilities};
use std::path::Path;

/// The user `nobody` on every Linux.
const UNPRIVILEGED: u32 = 65534;

/// The user that the process becomes: the caller of sudo, or `nobody`.
fn successor() -> (Uid, Gid) {
    let number = |name: &str| std::env::var(name).ok()?.parse().ok().filter(|id: &u32| *id != 0);
    let id = |name: &str| number(name).unwrap_or(UNPRIVILEGED);
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

/// Becomes an ordinary user, in this thread and those that it will start. Returns false, and
/// does nothing, when it is one already. `state`, its `settings` and the files in these are
/// given to that user, and the process changes into the directory: that user may not be allowed
/// to. With `read_all` it keeps the capability to read every file.
///
/// # Errors
/// [`Error::System`] when the kernel refuses: the session must not serve as root.
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
