//! The kernel's own file systems, before anything else.

use rustix::fs::{Mode, mkdir, symlink};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use sys::errno::Shown;

use crate::log::Log;

/// One early mount: type, target, flags, options.
struct Early {
    fs_type: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: &'static core::ffi::CStr,
}

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// In this order. `/run` as systemd wants to inherit it (INITRD_INTERFACE).
const MOUNTS: &[Early] = &[
    Early { fs_type: "devtmpfs", target: "/dev", flags: MountFlags::NOSUID, options: c"mode=0755" },
    Early { fs_type: "proc", target: "/proc", flags: SAFE, options: c"" },
    Early { fs_type: "sysfs", target: "/sys", flags: SAFE, options: c"" },
    Early {
        fs_type: "tmpfs",
        target: "/run",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: c"mode=0755",
    },
];

/// What userspace expects in `/dev` and the kernel does not make.
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Whether another file system than that of `/` is there.
fn is_mounted(target: &str) -> bool {
    let device = |path: &str| rustix::fs::stat(path).map(|stat| stat.st_dev);
    matches!((device("/"), device(target)), (Ok(root), Ok(here)) if root != here)
}

/// Mounts the table; says what failed and goes on, since the rest may do.
///
/// The log is opened in between: it needs `/dev`, and failures need it.
#[must_use]
pub fn mounts() -> Log {
    let mut failed: [Option<(&'static str, Errno)>; MOUNTS.len()] = [None; MOUNTS.len()];
    for (early, slot) in MOUNTS.iter().zip(&mut failed) {
        // There already when whoever started us has mounted it, or this is a new start.
        if mkdir(early.target, Mode::from_raw_mode(0o755)).is_err() && is_mounted(early.target) {
            continue;
        }
        match mount(early.fs_type, early.target, early.fs_type, early.flags, Some(early.options)) {
            // Busy: the kernel has mounted it already.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(errno) => *slot = Some((early.target, errno)),
        }
    }
    for (target, link) in LINKS {
        let _ = symlink(*target, *link);
    }
    let mut log = Log::open();
    for (target, errno) in failed.into_iter().flatten() {
        log.warn(&alloc::format!("{target} cannot be mounted: {errno}", errno = Shown(errno)));
    }
    log
}
