//! Block devices: which are candidates, in which order, and what is on them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::plan::{DeviceSelector, ScanRule};
use cmdline::render::property;
use cmdline::text;
use coldplug::index::fnmatch;
use overlay::partition::{self, Partition};
use overlay::probe::{Superblock, probe};
use rustix::fs::OFlags;
use rustix::io::{Errno, pread};
use sys::errno::Shown;
use sys::file::{open, stat};

use crate::log::Log;
use crate::trace::Fault;

/// Names that are never a medium: devices that /init or the kernel made up.
const NOT_MEDIA: &[&str] = &["loop", "ram", "zram", "fd", "dm-", "mtdblock"];

/// A block device of a scan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Lower goes first.
    rank: u8,
    /// The disk it is, or is a partition of.
    disk: String,
    /// Partitions go before their disk.
    whole: bool,
    /// Its name below `/dev`.
    pub name: String,
    /// Optical or removable: worth a look before the bus has settled.
    pub eager: bool,
}

impl Candidate {
    /// Its node.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/dev/{}", self.name)
    }
}

/// Where the kernel describes block devices.
pub const BLOCKS: &str = "/sys/class/block";

/// The devices that a rule looks at, in its order; `blocks` is [`BLOCKS`], or a test's.
pub fn candidates<'a>(
    blocks: &str,
    names: impl Iterator<Item = &'a str>,
    rule: &ScanRule,
) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = names
        .filter(|name| !NOT_MEDIA.iter().any(|prefix| name.starts_with(prefix)))
        .filter_map(|name| {
            let optical = name.starts_with("sr");
            let disk = disk_of(blocks, name);
            let removable = optical || is_removable(blocks, &disk);
            let wanted = if optical { rule.optical } else { rule.disks };
            if !wanted || (rule.removable_only && !removable) {
                return None;
            }
            Some(Candidate {
                rank: u8::from(rule.removable_first && !removable),
                whole: disk == *name,
                disk,
                name: name.to_string(),
                eager: removable,
            })
        })
        .collect();
    sys::sort::sort(&mut found);
    found
}

/// The disk that a partition belongs to, itself for a disk.
fn disk_of(blocks: &str, name: &str) -> String {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if stem.len() == name.len() {
        return name.to_string();
    }
    let partition = format!("{blocks}/{}/partition", name.replace('/', "!"));
    if sys::file::read_file(&partition, 16).is_err() {
        return name.to_string();
    }
    // nvme0n1p2, mmcblk0p1: a p stands between two numbers.
    match stem.strip_suffix('p') {
        Some(disk) if disk.ends_with(|c: char| c.is_ascii_digit()) => disk.to_string(),
        _ => stem.to_string(),
    }
}

fn is_removable(blocks: &str, disk: &str) -> bool {
    let path = format!("{blocks}/{}/removable", disk.replace('/', "!"));
    sys::file::read_file(&path, 16).is_ok_and(|text| text.starts_with(b"1"))
}

/// Looks at a device's first sectors.
///
/// # Errors
/// The kernel's, when it cannot be opened or not even its start can be read.
pub fn inspect(path: &str) -> Result<Option<Superblock>, Errno> {
    let device = open(path, OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
    let mut failed = None;
    let found = probe(&mut |at, buffer| match pread(&device, &mut *buffer, at) {
        Ok(length) => length,
        Err(errno) => {
            // Only the very first sector must be readable.
            if at == 0 {
                failed = Some(errno);
            }
            0
        }
    });
    match failed {
        Some(errno) if found.is_none() => Err(errno),
        _ => Ok(found),
    }
}

/// Makes a device refuse writes when the plan's patterns (`/dev/sd*`) name it. A
/// device that cannot be set so is left as it is, with a warning.
pub fn protect(log: &mut Log, patterns: &[String], name: &str) {
    let path = format!("/dev/{name}");
    if patterns.iter().any(|pattern| fnmatch(pattern.as_bytes(), path.as_bytes()))
        && let Err(errno) = sys::blockdev::set_read_only(&path, true)
    {
        log.warn(&format!(
            "{path} can be written to: it cannot be set read-only: {}",
            Shown(errno)
        ));
    }
}

/// The form of a selector that is looked up, not opened: udev's link names mean
/// the property they are named after, and there is no udev here.
#[must_use]
pub fn without_udev(selector: &DeviceSelector) -> DeviceSelector {
    let DeviceSelector::Path(path) = selector else { return selector.clone() };
    let Some((kind, name)) =
        path.strip_prefix("/dev/disk/by-").and_then(|rest| rest.split_once('/'))
    else {
        return selector.clone();
    };
    let name = udev_unescape(name);
    match kind {
        "label" => DeviceSelector::Label(name),
        "uuid" => DeviceSelector::Uuid(name),
        "partuuid" => DeviceSelector::PartUuid(name),
        "partlabel" => DeviceSelector::PartLabel(name),
        _ => selector.clone(),
    }
}

/// udev writes blanks and slashes of labels as `\x20` and the like.
fn udev_unescape(name: &str) -> String {
    let mut text = String::new();
    let mut rest = name;
    while let Some((before, after)) = text::cut(rest, "\\x") {
        text.push_str(before);
        match after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                text.push(char::from(byte));
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                text.push_str("\\x");
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

/// The node of what a selector names, among these devices.
///
/// # Errors
/// Why none of them is it, with what was seen instead.
pub fn resolve(selector: &DeviceSelector, names: &[String]) -> Result<String, Fault> {
    match selector {
        DeviceSelector::Path(path) => by_path(path),
        DeviceSelector::PartUuid(_) | DeviceSelector::PartLabel(_) => by_partition(selector, names),
        DeviceSelector::Label(_) | DeviceSelector::Uuid(_) => {
            let mut seen: Vec<String> = Vec::new();
            for name in names {
                let path = format!("/dev/{name}");
                let Ok(Some(found)) = inspect(&path) else { continue };
                if matches(selector, &found) {
                    return Ok(path);
                }
                let what = match selector {
                    DeviceSelector::Label(_) => found.label,
                    _ => found.uuid,
                };
                if !what.is_empty() && seen.len() < 16 {
                    seen.push(format!("{name} is {what}"));
                }
            }
            Err(no_match(selector, &seen))
        }
    }
}

fn no_match(selector: &DeviceSelector, seen: &[String]) -> Fault {
    let name = property(selector);
    if seen.is_empty() {
        format!("no device has {name}").into()
    } else {
        format!("no device has {name} ({})", seen.join(", ")).into()
    }
}

/// A path, or the kernel's `major:minor`.
fn by_path(path: &str) -> Result<String, Fault> {
    let numbers = path.split_once(':').filter(|(major, minor)| {
        [major, minor]
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit()))
    });
    let path = match numbers {
        None => path.to_string(),
        Some(_) => {
            let uevent = sys::file::read_file(&format!("/sys/dev/block/{path}/uevent"), 4096);
            let text = uevent.map_err(|_| format!("there is no device {path}"))?;
            let name = uevent_line(&String::from_utf8_lossy(&text), "DEVNAME");
            format!("/dev/{}", name.ok_or_else(|| format!("device {path} has no name"))?)
        }
    };
    match stat(&path) {
        Ok(_) => Ok(path),
        Err(_) => Err(format!("there is no device {path}").into()),
    }
}

/// A line of a uevent file.
fn uevent_line(uevent: &str, key: &str) -> Option<String> {
    let value = uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value.map(ToString::to_string)
}

/// The GPT name of a partition, as the kernel read it; `None` without one.
#[must_use]
pub fn partition_name(name: &str) -> Option<String> {
    let path = format!("/sys/class/block/{}/uevent", name.replace('/', "!"));
    let text = sys::file::read_file(&path, 4096).ok()?;
    uevent_line(&String::from_utf8_lossy(&text), "PARTNAME")
}

/// The partitions of a disk or of an image, by its own table.
///
/// # Errors
/// The kernel's, when it cannot be opened.
pub fn partitions(path: &str) -> Result<Vec<Partition>, Errno> {
    let disk = open(path, OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
    let name = path.strip_prefix("/dev/").unwrap_or_default().replace('/', "!");
    let size =
        sys::file::read_file(&format!("/sys/class/block/{name}/queue/logical_block_size"), 16);
    let size = size.ok().and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
    Ok(partition::read(
        &mut |at, buffer| pread(&disk, &mut *buffer, at).unwrap_or(0),
        // Optical discs carry tables that were written for disks.
        size.filter(|size| *size == 4096).unwrap_or(512),
    ))
}

fn by_partition(selector: &DeviceSelector, names: &[String]) -> Result<String, Fault> {
    let mut seen = Vec::new();
    for disk in names.iter().filter(|name| disk_of(BLOCKS, name) == **name) {
        for found in partitions(&format!("/dev/{disk}")).unwrap_or_default() {
            let (is_it, what) = match selector {
                DeviceSelector::PartUuid(uuid) => {
                    (found.uuid.eq_ignore_ascii_case(uuid), &found.uuid)
                }
                DeviceSelector::PartLabel(name) => (found.name == *name, &found.name),
                _ => return Err(no_match(selector, &[])),
            };
            if is_it {
                return partition_node(disk, found.number).ok_or_else(|| {
                    format!(
                        "{} is partition {} of {disk}, and the kernel has no device for it",
                        property(selector),
                        found.number
                    )
                    .into()
                });
            }
            if !what.is_empty() && seen.len() < 16 {
                seen.push(format!("{disk} partition {} is {what}", found.number));
            }
        }
    }
    Err(no_match(selector, &seen))
}

/// The kernel's device for a partition of a disk.
#[must_use]
pub fn partition_node(disk: &str, number: u32) -> Option<String> {
    let joint = if disk.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    let path = format!("/dev/{disk}{joint}{number}");
    stat(&path).ok().map(|_| path)
}

/// Devices that may hold a user's volume: partitions before whole disks.
#[must_use]
pub fn volumes(names: &[String], removable_only: bool) -> Vec<String> {
    let rule = ScanRule {
        optical: false,
        disks: true,
        removable_only,
        removable_first: true,
        marker: None,
    };
    let found = candidates(BLOCKS, names.iter().map(String::as_str), &rule);
    found.into_iter().map(|candidate| candidate.name).collect()
}

/// Whether a superblock is the one that a selector names. Partition properties
/// are not in a superblock and never match here.
#[must_use]
pub fn matches(selector: &DeviceSelector, found: &Superblock) -> bool {
    match selector {
        DeviceSelector::Label(label) => found.label == *label,
        DeviceSelector::Uuid(uuid) => found.uuid.eq_ignore_ascii_case(uuid),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udev_names_are_properties() {
        let path = DeviceSelector::Path("/dev/disk/by-label/My\\x20Disk".to_string());
        assert_eq!(without_udev(&path), DeviceSelector::Label("My Disk".to_string()));
        let path = DeviceSelector::Path("/dev/sda1".to_string());
        assert_eq!(without_udev(&path), path);
    }

    #[test]
    fn made_up_devices_are_no_candidates_and_removable_ones_go_first() {
        let sysfs = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("sda/removable", "0\n"),
            ("sda1/partition", "1\n"),
            ("sda2/partition", "2\n"),
            ("sdb/removable", "1\n"),
            ("sdb1/partition", "1\n"),
            ("nvme0n1/removable", "0\n"),
            ("nvme0n1p3/partition", "3\n"),
            ("cciss!c0d0/removable", "1\n"),
        ] {
            let path = sysfs.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let mut rule = ScanRule {
            optical: true,
            disks: true,
            removable_only: false,
            removable_first: true,
            marker: None,
        };
        let all = [
            "loop0",
            "sda",
            "sda2",
            "sda1",
            "ram1",
            "sr0",
            "zram0",
            "sdb",
            "sdb1",
            "nvme0n1",
            "nvme0n1p3",
            "cciss/c0d0",
            "dm-0",
        ];
        let names = |rule: &ScanRule| -> Vec<String> {
            let found = candidates(sysfs.path().to_str().unwrap(), all.into_iter(), rule);
            found.into_iter().map(|candidate| candidate.name).collect()
        };
        let removable = ["cciss/c0d0", "sdb1", "sdb", "sr0"];
        let fixed = ["nvme0n1p3", "nvme0n1", "sda1", "sda2", "sda"];
        assert_eq!(names(&rule), [removable.as_slice(), &fixed].concat());
        rule.removable_only = true;
        assert_eq!(names(&rule), removable);
        rule.optical = false;
        assert_eq!(names(&rule), ["cciss/c0d0", "sdb1", "sdb"]);
    }
}
