//! Images as block devices: a file through a loop device, a device as it is,
//! and device-mapper on top of either.

use alloc::format;
use alloc::string::{String, ToString};
use sys::errno::Shown;

use overlay::image;
use overlay::probe::{Format, Superblock};
use rustix::io::Errno;
use sys::dm::{Control, Target};
use sys::loopdev::Loop;
use sys::mount::{MountError, mount_device};

use crate::device;
use crate::machine::Machine;
use crate::trace::{Failure, Fault};

/// Every device-mapper device that a boot may make: taken down before a retry.
const NAMES: &[&str] = &["live-rw", "arch_airootfs", "bellwether-root"];

/// The start of the names of verified images.
pub const VERIFIED: &str = "bellwether-verity-";

/// Most verified images of one root.
pub const MAX_VERIFIED: usize = 64;

/// A block device, with the loop device behind it as long as no other owner holds that.
#[derive(Debug)]
pub struct Block {
    /// Its node.
    pub path: String,
    _held: Option<Loop>,
}

impl Block {
    /// A device as it is.
    #[must_use]
    pub fn device(path: &str) -> Self {
        Self { path: path.to_string(), _held: None }
    }

    /// A device, or a file through a loop device.
    ///
    /// # Errors
    /// There is no loop device.
    pub fn open(machine: &mut Machine, path: &str, read_only: bool) -> Result<Self, Fault> {
        if path.starts_with("/dev/") {
            return Ok(Self::device(path));
        }
        machine.require("loop");
        let held = image::attach(path, read_only).map_err(Fault::in_("no loop device"))?;
        Ok(Self { path: format!("/dev/loop{}", held.number), _held: Some(held) })
    }

    /// Bytes.
    ///
    /// # Errors
    /// The kernel does not tell it.
    pub fn length(&self) -> Result<u64, Fault> {
        sys::blockdev::length(&self.path).map_err(Fault::in_("its length cannot be read"))
    }
}

/// Bytes of a device or a file.
#[cfg(feature = "full")]
#[must_use]
pub fn length(path: &str) -> Option<u64> {
    if path.starts_with("/dev/") {
        return sys::blockdev::length(path).ok();
    }
    u64::try_from(sys::file::stat(path).ok()?.st_size).ok()
}

/// What is on a device or in a file.
///
/// # Errors
/// When it cannot be read, is nothing known, or ends too early.
pub fn inspect(path: &str) -> Result<Superblock, Fault> {
    if !path.starts_with("/dev/") {
        return image::inspect(path).map_err(|error| error.why.to_string().into());
    }
    match device::inspect(path) {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err("has no known file system".into()),
        Err(errno) => Err(Fault::new("cannot be read", errno)),
    }
}

/// Options that a line gives for a mount.
#[derive(Debug, Clone, Copy, Default)]
pub struct MountWith<'a> {
    /// The type that the line names; what is found there counts when it is empty.
    pub fstype: &'a str,
    /// Mount options, separated by commas.
    pub flags: &'a str,
    /// Refuse writes.
    pub read_only: bool,
}

/// Mounts a device or an image file.
///
/// # Errors
/// It cannot be read, is no file system, or the kernel refuses it.
pub fn mount(
    machine: &mut Machine,
    path: &str,
    target: &str,
    with: MountWith<'_>,
) -> Result<Format, Fault> {
    sys::file::make_dir(target, 0o755).map_err(Fault::on(target))?;
    let found = inspect(path)?;
    let known = found.format.fs_type().ok_or_else(|| not_mountable(found.format))?;
    let fs_type = match with.fstype {
        "" | "auto" => known,
        named => named,
    };
    let read_only = with.read_only || found.format.read_only();
    let flags = generic_flags(with.flags);
    machine.require(&format!("fs-{fs_type}"));
    machine.log.detail(&format!("mounting {path} ({fs_type}) at {target}"));
    // Since Linux 6.12 erofs reads files; other kernels want a device.
    if cfg!(feature = "full")
        && found.format == Format::Erofs
        && mount_device(path, fs_type, target, read_only, &flags).is_ok()
    {
        return Ok(found.format);
    }
    let block = Block::open(machine, path, read_only)?;
    let mut mounted = mount_device(&block.path, fs_type, target, read_only, &flags);
    if let (Err(MountError { errno: Errno::NODEV, .. }), Some(other)) = (&mounted, alike(fs_type)) {
        machine.require(&format!("fs-{other}"));
        mounted = mount_device(&block.path, other, target, read_only, &flags);
    }
    mounted.map_err(|error| format!("{fs_type} cannot be mounted: {error}"))?;
    Ok(found.format)
}

/// The other driver for a file system: which one there is depends on the kernel's release.
fn alike(fs_type: &str) -> Option<&'static str> {
    match fs_type {
        "ntfs3" if cfg!(feature = "full") => Some("ntfs"),
        "ntfs" if cfg!(feature = "full") => Some("ntfs3"),
        _ => None,
    }
}

fn not_mountable(format: Format) -> String {
    format!("is {format}, not a file system")
}

/// What mount(8) understands and no file system does is left out.
fn generic_flags(flags: &str) -> String {
    const GENERIC: &[&str] =
        &["defaults", "rw", "ro", "auto", "noauto", "loop", "noatime", "relatime", "nofail"];
    let mut text = String::new();
    for flag in flags.split(',').filter(|flag| !flag.is_empty() && !GENERIC.contains(flag)) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(flag);
    }
    text
}

/// Loads device-mapper and one of its targets.
///
/// # Errors
/// What is missing, with what to do about it.
pub fn require_dm(machine: &mut Machine, step: &str, target: &str) -> Result<Control, Failure> {
    let missing = |name: &str| {
        let why = "is not in this image, and the kernel does not have it built in";
        let remedy =
            ["build the image with it: bellwether build --add ", name, ", or a larger profile"];
        Failure::new(step, &["module ", name].concat(), why).remedy(&remedy.concat())
    };
    // The kernel knows what it has built in; the index may not.
    machine.require("dm_mod");
    machine.require(&["dm_", target].concat());
    let control = Control::open().map_err(|errno| match errno {
        Errno::NOENT | Errno::NODEV => missing("dm-mod"),
        errno => Failure::new(step, sys::dm::CONTROL, errno),
    })?;
    if control.lacks(target) {
        return Err(missing(&["dm-", target].concat()));
    }
    Ok(control)
}

/// Makes a device-mapper device, with the link that udev would make.
///
/// # Errors
/// The kernel refuses the table.
pub fn make_dm(
    control: &Control,
    name: &str,
    table: &[Target],
    read_only: bool,
) -> Result<String, Fault> {
    // What a try before this one left behind; mostly nothing.
    let _ = control.remove(name, false);
    let device = control.set_up(name, table, read_only).map_err(|errno| {
        format!("device-mapper refuses the table: {} (the kernel's log says more)", Shown(errno))
    })?;
    let link = format!("/dev/mapper/{name}");
    // The link is for people and their tools; nothing of the boot goes through it.
    let _ = rustix::fs::unlink(link.as_str());
    let _ = rustix::fs::symlink(format!("../dm-{}", device.number).as_str(), link.as_str());
    Ok(format!("/dev/dm-{}", device.number))
}

/// Takes down what [`make_dm`] made in a try that failed.
pub fn remove_all() {
    let Ok(control) = Control::open() else { return };
    for name in NAMES {
        // Most of them were never made.
        let _ = control.remove(name, true);
    }
    for index in 0..MAX_VERIFIED {
        if control.remove(&format!("{VERIFIED}{index}"), true).is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_mount_8_are_not_the_file_system_s() {
        assert_eq!(generic_flags("defaults,noatime,data=journal,rw"), "data=journal");
        assert_eq!(generic_flags(""), "");
    }
}
