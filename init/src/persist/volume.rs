//! A volume made usable: mounted, unlocked, or made where there is none yet.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::plan::{Mac, PersistPlan};
use liveroot::Found;
use overlay::probe::Format;
use rustix::fs::{OFlags, ftruncate, statfs};
use rustix::mount::{MountFlags, mount_remount};
use sys::file::{make_dir, open, read_file, stat};

use crate::block::{self, MountWith};
use crate::machine::Machine;
use crate::tool;
use crate::trace::Fault;

/// Longest table of mounts that is read.
const MAX_MOUNTS: usize = 256 << 10;

/// Size of an image file that is made when the line names none.
const DEFAULT_SIZE: u64 = 1 << 30;

/// A mounted file system that may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Where.
    pub mounted: String,
    /// What it is on, for people.
    pub device: String,
    /// Its file system; `None` for one over the network.
    pub format: Option<Format>,
    /// Its name.
    pub label: String,
    /// Its UUID.
    pub uuid: String,
    /// The boot link's address.
    pub mac: Option<Mac>,
}

impl Volume {
    /// A path of the line with its variables filled in.
    #[must_use]
    pub fn expand(&self, path: &str) -> String {
        expand(path, &self.label, &self.uuid, self.mac)
    }

    /// Bytes that are free.
    #[must_use]
    pub fn free(&self) -> u64 {
        statfs(self.mounted.as_str()).map_or(0, |stat| {
            stat.f_bavail.saturating_mul(u64::try_from(stat.f_bsize).unwrap_or(0))
        })
    }

    /// Whether overlayfs can put its upper layer here.
    ///
    /// # Errors
    /// It is a network directory or a file system without owners and modes.
    pub fn can_be_upper(&self) -> Result<(), Fault> {
        let what = match self.format {
            None => "a network directory",
            Some(format @ (Format::Vfat | Format::Exfat | Format::Ntfs)) => format.name(),
            Some(_) => return Ok(()),
        };
        let why = format!("{} is {what}, which cannot hold changes as files", self.device);
        Err(Fault::from(why).remedy("keep them in an image file on it"))
    }
}

/// Fills in the variables of a path.
#[must_use]
pub fn expand(path: &str, label: &str, uuid: &str, mac: Option<Mac>) -> String {
    let mut text = path.replace("{label}", label).replace("{uuid}", uuid);
    if text.contains("{mac}") {
        let mac = mac.map_or_else(|| "no-mac".to_string(), Mac::dashed);
        text = text.replace("{mac}", &mac);
    }
    // A label may hold anything: it names one entry, and leads nowhere.
    let parts: Vec<&str> =
        text.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
    format!("/{}", parts.join("/"))
}

/// Makes volumes usable.
pub struct Opener<'h> {
    /// The machine under us.
    pub machine: &'h mut Machine,
    /// What is asked for.
    pub plan: &'h PersistPlan,
    /// What the root is made of.
    pub found: &'h Found,
    /// The image's trees, for their programs.
    pub layers: &'h [String],
    /// Where volumes are mounted.
    pub place: &'static str,
}

impl Opener<'_> {
    /// Mounts a device to be written; one that is mounted already becomes writable.
    ///
    /// # Errors
    /// It cannot be read, is read-only by nature, or the kernel refuses the mount.
    pub fn mount(&mut self, path: &str) -> Result<Volume, Fault> {
        let found = block::inspect(path).map_err(|fault| fault.of(path))?;
        if found.format.read_only() {
            let why = format!("is {}, which nothing can be kept on", found.format);
            return Err(Fault::from(why).of(path));
        }
        let read_only = self.plan.read_only;
        let mounted = match mounted_at(path) {
            Some(target) => {
                if !read_only {
                    mount_remount(target.as_str(), MountFlags::empty(), "")
                        .map_err(|errno| Fault::new("cannot be made writable", errno).of(path))?;
                }
                target
            }
            None => {
                let name = path.rsplit('/').next().unwrap_or("volume");
                let target = format!("{}/{name}", self.place);
                let with =
                    MountWith { fstype: &self.plan.fstype, flags: &self.plan.flags, read_only };
                block::mount(self.machine, path, &target, with).map_err(|fault| fault.of(path))?;
                target
            }
        };
        Ok(Volume {
            mounted,
            device: path.to_string(),
            format: Some(found.format),
            label: self.medium_name().0.unwrap_or(found.label),
            uuid: self.medium_name().1.unwrap_or(found.uuid),
            mac: self.machine.network.mac(),
        })
    }

    /// Label and UUID of the medium, which name its overlay wherever that is.
    fn medium_name(&self) -> (Option<String>, Option<String>) {
        let found = self.found.medium_blob.as_deref().and_then(|blob| block::inspect(blob).ok());
        found.map_or((None, None), |found| (Some(found.label), Some(found.uuid)))
    }

    /// Mounts an image file.
    ///
    /// # Errors
    /// The file holds no file system, or the kernel refuses the mount.
    pub fn mount_file(&mut self, file: &str, what: &str) -> Result<Volume, Fault> {
        let name = file.rsplit('/').next().unwrap_or("file");
        let target = format!("{}/{name}-file", self.place);
        let with = MountWith { read_only: self.plan.read_only, ..Default::default() };
        let format =
            block::mount(self.machine, file, &target, with).map_err(|fault| fault.of(what))?;
        Ok(Volume {
            mounted: target,
            device: what.to_string(),
            format: Some(format),
            label: String::new(),
            uuid: String::new(),
            mac: None,
        })
    }

    /// The directory or image file on a volume that the plan's path names; the
    /// volume itself without one.
    ///
    /// # Errors
    /// The path is not there and cannot be made.
    pub fn base(&mut self, volume: &Volume) -> Result<(Volume, String), Fault> {
        let labelled = !self.plan.labels.is_empty() && self.plan.device.is_none();
        let path = match &self.plan.path {
            // There the path has led to the file already.
            Some(_) if labelled && self.plan.network.is_none() => None,
            Some(path) => Some(volume.expand(path)),
            // Files cannot be changes on a network file system, an image can.
            None if volume.format.is_none() => Some(volume.expand("/{mac}.img")),
            None => None,
        };
        let Some(path) = path else { return Ok((volume.clone(), volume.device.clone())) };
        let full = format!("{}{path}", volume.mounted);
        let what = format!("{path} on {}", volume.device);
        let is_dir =
            stat(&full).map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir());
        match is_dir {
            Ok(true) => {}
            Ok(false) => return Ok((self.mount_file(&full, &what)?, what)),
            Err(_) if self.plan.silent => return Err(format!("{what} is not there").into()),
            Err(_) if self.plan.read_only => return Err(format!("{what} is not there").into()),
            Err(_) if self.wants_file(volume, &path) => {
                self.make_file(volume, &full, &what)?;
                return Ok((self.mount_file(&full, &what)?, what));
            }
            Err(_) => {
                make_dir(&full, 0o755).map_err(Fault::on(&what))?;
                self.machine.log.info(&format!("made the directory {what} for changes"));
            }
        }
        Ok((Volume { mounted: full, device: what.clone(), ..volume.clone() }, what))
    }

    /// Whether a path that does not exist is to become an image file.
    fn wants_file(&self, volume: &Volume, path: &str) -> bool {
        if volume.can_be_upper().is_err() {
            return true;
        }
        self.plan.file && path.rsplit('/').next().is_some_and(|name| name.ends_with(".img"))
    }

    /// Makes an image file with a file system in it, by the live system's mkfs.
    fn make_file(&mut self, volume: &Volume, file: &str, what: &str) -> Result<(), Fault> {
        let mkfs = tool::find("mkfs.ext4", self.layers).ok_or_else(|| {
            format!(
                "{what} is not there, and the image has no mkfs.ext4 to make it: make it by hand (truncate -s 1G FILE; mkfs.ext4 FILE)"
            )
        })?;
        let wanted = self.plan.create.map_or(DEFAULT_SIZE, |size| size.0);
        // Sparse where that is possible, but never more than could be had.
        let size = wanted.min(volume.free() / 10 * 9) & !0xfffff;
        if size < 16 << 20 {
            return Err(format!("{} has no room for {what}", volume.device).into());
        }
        if let Some((parent, _)) = file.rsplit_once('/') {
            make_dir(parent, 0o755).map_err(Fault::on(parent))?;
        }
        let fail = |errno: rustix::io::Errno| Fault::from(errno).of(what);
        // Under another name until it is whole: a boot that is cut short must
        // not leave something that looks like a volume.
        let partial = format!("{file}.new");
        // The rest of such a boot goes; where there is none, nothing does.
        let _ = rustix::fs::unlink(partial.as_str());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let handle = open(&partial, flags, 0o600).map_err(fail)?;
        ftruncate(&handle, size).map_err(fail)?;
        drop(handle);
        self.machine.log.info(&format!("making {what} for changes, {}", crate::memory::Size(size)));
        let block = block::Block::open(self.machine, &partial, false)?;
        mkfs.run(&["-q", "-F", "-L", "changes", &block.path])?;
        drop(block);
        rustix::fs::rename(partial.as_str(), file).map_err(fail)
    }

    /// Opens a LUKS volume by cryptsetup, which asks for the passphrase.
    ///
    /// # Errors
    /// What is missing, or how cryptsetup ended.
    pub fn unlock(&mut self, path: &str) -> Result<String, Fault> {
        if !self.plan.luks {
            return Err(format!(
                "{path} is encrypted (LUKS), and the line does not allow that: persistence-encryption=luks"
            ).into());
        }
        let cryptsetup = tool::find("cryptsetup", self.layers).ok_or_else(|| {
            format!(
                "{path} is encrypted (LUKS), and there is no cryptsetup in this initramfs or in the live image to open it"
            )
        })?;
        // The kernel knows what it has built in; the index may not.
        self.machine.require("dm_mod");
        self.machine.require("dm_crypt");
        let control = sys::dm::Control::open().map_err(Fault::from)?;
        if control.lacks("crypt") {
            return Err(format!(
                "{path} is encrypted (LUKS), and the module dm-crypt is not in this image"
            )
            .into());
        }
        let name = format!("{}-unlocked", path.rsplit('/').next().unwrap_or("volume"));
        self.machine.log.info(&format!("{path} is encrypted: enter its passphrase"));
        cryptsetup.run(&["open", "--type", "luks", "--tries", "3", path, &name])?;
        let device = control.find(&name).map_err(Fault::from)?;
        Ok(format!("/dev/dm-{}", device.number))
    }
}

/// Where a device or file is mounted already.
#[must_use]
pub fn mounted_at(path: &str) -> Option<String> {
    let text = read_file("/proc/self/mounts", MAX_MOUNTS).ok()?;
    mount_point(&String::from_utf8_lossy(&text), path)
}

fn mount_point(mounts: &str, device: &str) -> Option<String> {
    let mut lines = mounts.lines().map(|line| line.split(' '));
    lines.find_map(|mut fields| {
        (fields.next() == Some(device)).then(|| fields.next())?.map(|target| {
            target.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_lead_nowhere_else() {
        let mac = Some(Mac([0x52, 0x54, 0, 0, 0, 0xab]));
        assert_eq!(
            expand("/LiveOS/overlay-{label}-{uuid}", "My/../Disk", "12-34", None),
            "/LiveOS/overlay-My/Disk-12-34"
        );
        assert_eq!(expand("/{mac}.img", "", "", mac), "/52-54-00-00-00-ab.img");
        assert_eq!(expand("../../etc", "", "", None), "/etc");
    }

    #[test]
    fn a_mounted_device_is_found() {
        let mounts = "proc /proc proc rw 0 0\n/dev/sda1 /run/my\\040medium vfat ro 0 0\n";
        assert_eq!(mount_point(mounts, "/dev/sda1").as_deref(), Some("/run/my medium"));
        assert_eq!(mount_point(mounts, "/dev/sda"), None);
    }
}
