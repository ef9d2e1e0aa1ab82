//! Which disks a machine has to send, from what sysfs says of its block devices.
//!
//! A disk is sent once, however many devices show it: an array of whole disks (also one of
//! the firmware) and a multipath device stand for their members, and of several paths without
//! such a device the first does. The boot medium is not sent.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::trouble::Trouble;

/// What `/sys/block/NAME` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fact {
    /// The name of the device; a `!` of sysfs is a slash.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// `removable`: the medium can be taken out.
    pub removable: bool,
    /// `hidden`: a path that has no device of its own.
    pub hidden: bool,
    /// The device is on USB, as its place in `/sys/devices` shows.
    pub usb: bool,
    /// It begins as an ISO 9660 medium does.
    pub iso: bool,
    /// The product's name.
    pub model: String,
    /// What identifies the disk over all of its paths: `device/wwid` or `wwid`.
    pub wwid: String,
    /// The devices that are made of it or of its partitions.
    pub holders: Vec<String>,
    /// The devices that it is made of.
    pub slaves: Vec<String>,
    /// `dm/uuid`.
    pub dm_uuid: String,
    /// `md/level`.
    pub md_level: String,
}

/// A disk to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// The product's name, or what it is made of.
    pub model: String,
}

/// A disk that is not sent, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Its name.
    pub name: String,
    /// Why, as the end of a sentence.
    pub why: String,
}

/// The disks of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// To be sent, in the kernel's order of names.
    pub disks: Vec<Disk>,
    /// Not to be sent, and why.
    pub left: Vec<Left>,
}

/// How names of disks begin. CCISS has a directory of its own in `/dev`.
const KINDS: [&str; 11] =
    ["sd", "hd", "vd", "xvd", "ubd", "nvme", "mmcblk", "dasd", "cciss/", "ida/", "pmem"];

/// Whether a device is a disk, or made of disks.
fn is_disk(fact: &Fact) -> bool {
    let name = fact.name.as_str();
    let kind = KINDS.iter().any(|kind| name.starts_with(kind));
    // Hidden areas of eMMC.
    let area =
        name.starts_with("mmcblk") && ["boot", "rpmb", "gp"].iter().any(|a| name.contains(a));
    (kind && !area && !fact.hidden) || is_array(fact)
}

/// An array or a multipath device. Volumes of LVM and LUKS are on a disk, not one.
fn is_array(fact: &Fact) -> bool {
    let dm = ["mpath-", "DMRAID-"].iter().any(|kind| fact.dm_uuid.starts_with(kind));
    let md =
        fact.name.starts_with("md") && !fact.md_level.is_empty() && fact.md_level != "container";
    dm || md
}

/// Where a name belongs: `sda` before `sdb` before `sdaa`, `nvme2n1` before `nvme10n1`.
fn order(name: &str) -> (String, usize, String) {
    let start: String = name.chars().take_while(|c| !c.is_ascii_digit()).collect();
    let kind = KINDS.iter().find(|kind| name.starts_with(**kind)).copied().unwrap_or(&start);
    (kind.to_string(), name.len(), name.to_string())
}

/// Sorts the disks of a machine: those to be sent, and the others.
#[must_use]
pub fn find(facts: &[Fact]) -> Found {
    let mut found = Found::default();
    let mut sorted: Vec<&Fact> = facts.iter().filter(|fact| is_disk(fact)).collect();
    sorted.sort_by_key(|fact| order(&fact.name));
    for fact in &sorted {
        match reason(fact, facts, &sorted) {
            Some(why) => found.left.push(Left { name: fact.name.clone(), why }),
            None => found.disks.push(disk(fact)),
        }
    }
    found
}

fn disk(fact: &Fact) -> Disk {
    let model = match fact.slaves.is_empty() {
        true => fact.model.split_whitespace().collect::<Vec<_>>().join(" "),
        false => format!("made of {}", fact.slaves.join(", ")),
    };
    Disk { name: fact.name.clone(), size: fact.size, model }
}

/// Why a disk is not sent.
fn reason(fact: &Fact, all: &[Fact], disks: &[&Fact]) -> Option<String> {
    if fact.size == 0 {
        return Some("has no medium in it".to_string());
    }
    if fact.iso {
        return Some("is a boot medium (ISO 9660)".to_string());
    }
    if fact.removable {
        return Some("is a removable drive".to_string());
    }
    if fact.usb {
        return Some("is on USB".to_string());
    }
    if is_array(fact) {
        // Partitions as members: the array is inside their disks.
        let whole = |name: &String| disks.iter().any(|disk| disk.name == *name);
        let inside = !fact.slaves.iter().all(whole);
        return inside.then(|| format!("is inside {}", fact.slaves.join(", ")));
    }
    let holds = |name: &&String| {
        let holder = all.iter().find(|holder| holder.name == **name);
        holder.is_some_and(|holder| is_array(holder) && holder.size > 0)
    };
    if let Some(array) = fact.holders.iter().find(holds) {
        return Some(format!("is part of {array}"));
    }
    let same = |other: &&&Fact| {
        !is_array(other)
            && !fact.wwid.is_empty()
            && other.wwid == fact.wwid
            && other.size == fact.size
    };
    let first = disks.iter().find(same)?;
    (first.name != fact.name).then(|| format!("is another path to {}", first.name))
}

/// The disks that the line names, by name or path, of all that there are; those that would
/// be sent when it names none.
///
/// # Errors
/// A name is no disk of this machine, or there is none at all.
pub fn choose(facts: &[Fact], names: &[String]) -> Result<Vec<Disk>, Trouble> {
    let found = find(facts);
    let list =
        |disks: &[Disk]| disks.iter().map(|d| d.name.as_str()).collect::<Vec<_>>().join(", ");
    if names.is_empty() {
        if found.disks.is_empty() {
            let left: Vec<String> =
                found.left.iter().map(|left| format!("{} {}", left.name, left.why)).collect();
            return Err(Trouble::new(
                "this machine has no disk to send",
                &match left.is_empty() {
                    true => "its controller's driver may not be in this image: bellwether build \
                             --profile pc has those of most machines"
                        .to_string(),
                    false => format!("{}: p2v.disks=NAME sends one all the same", left.join(", ")),
                },
            ));
        }
        return Ok(found.disks);
    }
    let mut chosen: Vec<Disk> = Vec::new();
    for name in names {
        let bare = name.strip_prefix("/dev/").unwrap_or(name);
        let fact = facts.iter().find(|fact| fact.name == bare && fact.size > 0);
        match fact {
            Some(fact) if chosen.iter().all(|disk| disk.name != fact.name) => {
                chosen.push(disk(fact));
            }
            Some(_) => {}
            None => {
                return Err(Trouble::new(
                    &format!("{bare}: there is no such disk"),
                    &format!("this machine has {}", list(&found.disks)),
                ));
            }
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(name: &str) -> Fact {
        Fact { name: name.into(), size: 1 << 30, ..Fact::default() }
    }

    fn names(facts: &[Fact]) -> (Vec<String>, Vec<String>) {
        let found = find(facts);
        let left = found.left.into_iter().map(|left| format!("{} {}", left.name, left.why));
        (found.disks.into_iter().map(|disk| disk.name).collect(), left.collect())
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_kind_of_disk_in_the_kernel_s_order() {
        let all = [
            "loop0",
            "ram1",
            "zram0",
            "sr0",
            "fd0",
            "nbd0",
            "sdaa",
            "sdb",
            "sda",
            "nvme10n1",
            "nvme2n1",
            "mmcblk0",
            "mmcblk0boot0",
            "mmcblk0boot1",
            "mmcblk0rpmb",
            "xvda",
            "vda",
            "dasda",
            "hda",
            "cciss/c0d0",
            "mtdblock0",
            "dm-0",
            "md127",
        ];
        let facts: Vec<Fact> = all.iter().map(|name| fact(name)).collect();
        let (disks, left) = names(&facts);
        let right = [
            "cciss/c0d0",
            "dasda",
            "hda",
            "mmcblk0",
            "nvme2n1",
            "nvme10n1",
            "sda",
            "sdb",
            "sdaa",
            "vda",
            "xvda",
        ];
        assert_eq!((disks, left), (list(&right), list(&[])));
    }

    #[test]
    fn what_stays_at_home() {
        let rows: [(Fact, &str); 5] = [
            (Fact { size: 0, removable: true, ..fact("sdb") }, "sdb has no medium in it"),
            (Fact { removable: true, ..fact("sdc") }, "sdc is a removable drive"),
            (Fact { usb: true, ..fact("sdd") }, "sdd is on USB"),
            (Fact { iso: true, ..fact("sde") }, "sde is a boot medium (ISO 9660)"),
            (Fact { wwid: "naa.1".into(), ..fact("sdf") }, "sdf is another path to sda"),
        ];
        let sda = Fact { wwid: "naa.1".into(), ..fact("sda") };
        for (other, why) in rows {
            assert_eq!(names(&[sda.clone(), other]), (list(&["sda"]), list(&[why])));
        }
        let other_size = Fact { size: 5, wwid: "naa.1".into(), ..fact("sdf") };
        assert_eq!(names(&[sda, other_size]).0, ["sda", "sdf"]);
        // A path of an NVMe disk, which the kernel hides.
        let path = Fact { hidden: true, ..fact("nvme0c0n1") };
        assert_eq!(names(&[fact("nvme0n1"), path]).0, ["nvme0n1"]);
    }

    #[test]
    fn arrays_and_paths_are_one_disk() {
        let member = |name: &str, of: &[&str]| Fact { holders: list(of), ..fact(name) };
        let made = |name: &str, of: &[&str]| Fact { slaves: list(of), ..fact(name) };
        // Firmware RAID: a container without a size, and the volume in it.
        let facts = [
            member("sda", &["md126", "md127"]),
            member("sdb", &["md126", "md127"]),
            Fact { size: 0, md_level: "container".into(), ..made("md127", &["sda", "sdb"]) },
            Fact { md_level: "raid1".into(), ..made("md126", &["sda", "sdb"]) },
        ];
        let (disks, left) = names(&facts);
        assert_eq!(disks, ["md126"]);
        assert_eq!(left, ["sda is part of md126", "sdb is part of md126"]);
        assert_eq!(find(&facts).disks[0].model, "made of sda, sdb");
        // An array of partitions is inside its disks.
        let facts = [
            member("sda", &[]),
            member("sdb", &[]),
            Fact { md_level: "raid1".into(), ..made("md0", &["sda1", "sdb1"]) },
        ];
        assert_eq!(names(&facts), (list(&["sda", "sdb"]), list(&["md0 is inside sda1, sdb1"])));
        // Multipath, and a volume of LVM on it.
        let facts = [
            member("sda", &["dm-0"]),
            member("sdb", &["dm-0"]),
            Fact {
                dm_uuid: "mpath-3600".into(),
                holders: list(&["dm-1"]),
                ..made("dm-0", &["sda", "sdb"])
            },
            Fact { dm_uuid: "LVM-x".into(), ..made("dm-1", &["dm-0"]) },
        ];
        assert_eq!(names(&facts).0, ["dm-0"]);
        // LUKS or LVM on a whole disk is on that disk.
        let facts = [
            member("sda", &["dm-0"]),
            Fact { dm_uuid: "CRYPT-LUKS2".into(), ..made("dm-0", &["sda"]) },
        ];
        assert_eq!(names(&facts), (list(&["sda"]), list(&[])));
    }

    #[test]
    fn the_line_chooses_and_a_wrong_name_lists_what_there_is() {
        let stick = Fact { removable: true, ..fact("sdb") };
        let facts = [fact("sda"), stick];
        let chosen = |names: &[&str]| {
            choose(&facts, &list(names))
                .map(|disks| disks.into_iter().map(|d| d.name).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&[]), Ok(list(&["sda"])));
        assert_eq!(chosen(&["/dev/sdb", "sda", "sda"]), Ok(list(&["sdb", "sda"])));
        let why = chosen(&["sdz"]).unwrap_err().to_string();
        assert_eq!(why, "sdz: there is no such disk; this machine has sda");
        let why = choose(&facts[1..], &[]).unwrap_err().to_string();
        assert!(why.contains("sdb is a removable drive: p2v.disks=NAME"), "{why}");
        assert!(choose(&[], &[]).unwrap_err().to_string().contains("driver"));
    }
}
