//! The kernel's own file systems, before anything else.

use core::ffi::CStr;

use rustix::fs::{Mode, mkdir, symlink};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use sys::errno::Shown;
use sys::file::stat;
use sys::mount::mount_nodev;

use crate::log::Log;

/// One early mount: type, target, flags, options.
struct Early {
    fs_type: &'static CStr,
    target: &'static str,
    flags: MountFlags,
    options: &'static str,
}

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// In this order. `/run` as systemd wants to inherit it (INITRD_INTERFACE).
const MOUNTS: &[Early] = &[
    Early { fs_type: c"devtmpfs", target: "/dev", flags: MountFlags::NOSUID, options: "mode=0755" },
    Early { fs_type: c"proc", target: "/proc", flags: SAFE, options: "" },
    Early { fs_type: c"sysfs", target: "/sys", flags: SAFE, options: "" },
    Early {
        fs_type: c"tmpfs",
        target: "/run",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: "mode=0755",
    },
];

/// What userspace expects in `/dev` and the kernel does not make.
const LINKS: &[(&CStr, &CStr)] = &[
    (c"/proc/self/fd", c"/dev/fd"),
    (c"/proc/self/fd/0", c"/dev/stdin"),
    (c"/proc/self/fd/1", c"/dev/stdout"),
    (c"/proc/self/fd/2", c"/dev/stderr"),
];

/// Whether another file system than that of `/` is there.
fn is_mounted(target: &str) -> bool {
    let device = |path: &str| stat(path).map(|stat| stat.st_dev);
    matches!((device("/"), device(target)), (Ok(root), Ok(here)) if root != here)
}

/// Mounts the table; says what failed and goes on, since the rest may do.
///
/// The log is opened in between: it needs `/dev`, and failures need it.
#[must_use]
pub fn mounts() -> Log {
    let mut failed: [Option<(&'static str, Errno)>; MOUNTS.len()] = [None; MOUNTS.len()];
    for (early, slot) in MOUNTS.iter().zip(&mut failed) {
        // There already when the parent program has mounted it, or this is a new start.
        if mkdir(early.target, Mode::from_raw_mode(0o755)).is_err() && is_mounted(early.target) {
            continue;
        }
        match mount_nodev(early.fs_type, early.target, early.flags, early.options) {
            // Busy: the kernel has mounted it already.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(errno) => *slot = Some((early.target, errno)),
        }
    }
    for (target, link) in LINKS {
        // One that is there already, by the kernel or a first try, is as good.
        let _ = symlink(*target, *link);
    }
    let mut log = Log::open();
    for (target, errno) in failed.into_iter().flatten() {
        log.warn(&alloc::format!("{target} cannot be mounted: {errno}", errno = Shown(errno)));
    }
    log
}
