//! Mounts by the file-descriptor API of Linux 5.2, with the kernel's error texts (`fsopen(2)`,
//! "error messages" of `Documentation/filesystems/mount_api.rst`).
//!
//! rustix has the calls; this adds the error texts, which mount(2) cannot return.

use alloc::string::String;
use core::ffi::CStr;
use core::fmt;

use crate::errno::Shown;
use crate::file::{c_path, make_dir};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::CWD;
use rustix::io::{Errno, read};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_bind_recursive,
    move_mount,
};

/// Longest log kept; the kernel keeps eight messages at most.
const MAX_LOG: usize = 1024;

/// Why a mount failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountError {
    /// The errno.
    pub errno: Errno,
    /// The file system's messages; often empty.
    pub log: String,
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.log.is_empty() {
            write!(f, "{}", Shown(self.errno))
        } else {
            write!(f, "{}: {}", self.log, Shown(self.errno))
        }
    }
}

impl core::error::Error for MountError {}

impl From<Errno> for MountError {
    fn from(errno: Errno) -> Self {
        Self { errno, log: String::new() }
    }
}

/// A file system being configured.
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
}

impl FsContext {
    /// Starts to configure a file system of this type.
    ///
    /// # Errors
    /// `ENODEV` when the kernel does not know the type; its module may not be loaded.
    pub fn open(fs_type: &str) -> Result<Self, MountError> {
        Ok(Self { fd: fsopen(&*c_path(fs_type.as_bytes())?, FsOpenFlags::FSOPEN_CLOEXEC)? })
    }

    /// Sets `key=value`; a `value` of `None` sets a flag.
    ///
    /// # Errors
    /// The errno of fsconfig(2) when the file system rejects the option. A value has at most
    /// 255 bytes.
    pub fn set(&self, key: &str, value: Option<&str>) -> Result<(), MountError> {
        let key = c_path(key.as_bytes())?;
        match value {
            Some(value) => fsconfig_set_string(&self.fd, &*key, &*c_path(value.as_bytes())?),
            None => fsconfig_set_flag(&self.fd, &*key),
        }
        .map_err(|errno| self.explain(errno))
    }

    /// Sets every option of a comma-separated list.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn set_all(&self, options: &str) -> Result<(), MountError> {
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some((key, value)) => self.set(key, Some(value))?,
                None => self.set(option, None)?,
            }
        }
        Ok(())
    }

    /// Mounts it at `target`.
    ///
    /// # Errors
    /// The errno of fsconfig(2), fsmount(2) or move_mount(2).
    pub fn mount(&self, target: &str, attributes: MountAttrFlags) -> Result<(), MountError> {
        fsconfig_create(&self.fd).map_err(|errno| self.explain(errno))?;
        let mount = fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|errno| self.explain(errno))?;
        attach(mount.as_fd(), target)?;
        Ok(())
    }

    fn explain(&self, errno: Errno) -> MountError {
        let mut log = String::new();
        let mut message = [0; 256];
        while let Ok(length @ 1..) = read(&self.fd, &mut message) {
            let text = message.get(..length).unwrap_or_default();
            // "e message": the letter is the severity.
            let text = String::from_utf8_lossy(text.get(2..).unwrap_or_default());
            if !log.is_empty() {
                log.push_str("; ");
            }
            log.push_str(text.trim());
            if log.len() > MAX_LOG {
                break;
            }
        }
        MountError { errno, log }
    }
}

/// Attaches a detached mount at `target`.
///
/// # Errors
/// The errno of move_mount(2).
pub fn attach(mount: BorrowedFd<'_>, target: &str) -> Result<(), Errno> {
    let target = c_path(target.as_bytes())?;
    move_mount(mount, c"", CWD, &*target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Shows a tree, what is mounted in it included, at a second place.
///
/// # Errors
/// As mount(2).
pub fn bind(from: &str, target: &str) -> Result<(), Errno> {
    mount_bind_recursive(&*c_path(from.as_bytes())?, &*c_path(target.as_bytes())?)
}

/// Makes a directory and mounts a tmpfs there.
///
/// # Errors
/// As mkdir(2) and mount(2).
pub fn tmpfs(target: &str, flags: MountFlags, options: &str) -> Result<(), Errno> {
    make_dir(target, 0o755)?;
    mount_nodev(c"tmpfs", target, flags, options)
}

/// Mounts a file system that has no device, by mount(2).
///
/// # Errors
/// The kernel's, or `EINVAL` for a NUL in the target or the options.
pub fn mount_nodev(
    fs_type: &CStr,
    target: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), Errno> {
    let (target, options) = (c_path(target.as_bytes())?, c_path(options.as_bytes())?);
    rustix::mount::mount(fs_type, &*target, fs_type, flags, &*options)
}

/// Mounts a file system of a known type on a device.
///
/// # Errors
/// As [`FsContext::mount`].
pub fn mount_device(
    device: &str,
    fs_type: &str,
    target: &str,
    read_only: bool,
    options: &str,
) -> Result<(), MountError> {
    let context = FsContext::open(fs_type)?;
    context.set("source", Some(device))?;
    let mut attributes = MountAttrFlags::empty();
    if read_only {
        context.set("ro", None)?;
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    context.set_all(options)?;
    context.mount(target, attributes)
}

/// Detaches a mount at once; open files keep it alive until closed.
///
/// # Errors
/// The errno of umount2(2).
pub fn detach(target: &str) -> Result<(), Errno> {
    rustix::mount::unmount(&*c_path(target.as_bytes())?, UnmountFlags::DETACH)
}
