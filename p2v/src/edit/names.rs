//! Names of block devices that mean another device on another machine, and names that last.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use blockmap::Format;

/// A disk of the copy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disk {
    /// Its name on this machine.
    pub name: String,
    /// Its serial number and its identifiers, of which udev makes names in `/dev/disk/by-id`.
    pub ids: Vec<String>,
}

/// A part of a disk with something on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Volume {
    /// The disk's name on this machine; empty for a logical volume.
    pub disk: String,
    /// The partition's number; 0 for a disk without a table.
    pub partition: u32,
    /// What it holds.
    pub holds: Option<Format>,
    /// The UUID or serial number of what it holds.
    pub uuid: String,
    /// The partition's own, from the table.
    pub part_uuid: String,
}

/// A name that changes with the machine: a disk by the order in which a kernel found it, or by
/// what it is or hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'n> {
    /// The disk's, without `/dev/`.
    pub disk: &'n str,
    /// The partition's number; 0 for the whole disk.
    pub partition: u32,
}

/// Kernels number disks with letters here, and with numbers there.
const LETTERED: [&str; 6] = ["sd", "hd", "vd", "xvd", "ubd", "dasd"];
// A loop device is what a system was put on its disk through.
const NUMBERED: [&str; 6] = ["nvme", "mmcblk", "pmem", "cciss/c", "ida/c", "loop"];
/// In `/dev/disk/by-id` these come from what is on the disk, and go with it.
const OF_CONTENT: [&str; 3] = ["dm-", "lvm-", "md-"];

impl<'n> Name<'n> {
    /// Reads a path; `None` for every name that stays what it is.
    #[must_use]
    pub fn read(path: &'n str) -> Option<Self> {
        let rest = path.strip_prefix("/dev/")?;
        if let Some(link) = rest.strip_prefix("disk/") {
            let (kind, link) = link.split_once('/')?;
            let of_machine = match kind {
                "by-id" => !OF_CONTENT.iter().any(|start| link.starts_with(start)),
                "by-path" => true,
                _ => false,
            };
            if !of_machine || link.is_empty() {
                return None;
            }
            let part = rest.rsplit_once("-part");
            let numbered = part.and_then(|(disk, number)| Some((disk, number.parse().ok()?)));
            let (disk, partition) = numbered.unwrap_or((rest, 0));
            return Some(Self { disk, partition });
        }
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if let Some(start) = LETTERED.iter().find(|start| rest.starts_with(**start)) {
            let (disk, number) =
                rest.split_at_checked(rest.trim_end_matches(|c: char| c.is_ascii_digit()).len())?;
            let letters = disk.strip_prefix(start)?;
            if letters.is_empty() || !letters.bytes().all(|b| b.is_ascii_lowercase()) {
                return None;
            }
            return Some(Self { disk, partition: number.parse().unwrap_or(0) });
        }
        let start = NUMBERED.iter().find(|start| rest.starts_with(**start))?;
        let (disk, partition) = match rest.rsplit_once('p') {
            Some((disk, number)) if !number.is_empty() && digits(number) => {
                (disk, number.parse().ok()?)
            }
            _ => (rest, 0),
        };
        let numbers = disk.strip_prefix(start)?;
        let plain = |b: u8| b.is_ascii_digit() || matches!(b, b'n' | b'd' | b'c');
        let starts = numbers.starts_with(|c: char| c.is_ascii_digit());
        (starts && numbers.bytes().all(plain)).then_some(Self { disk, partition })
    }

    fn is_link(&self) -> bool {
        self.disk.starts_with("disk/")
    }
}

/// Whether a kernel that ran on the machine counted its disks by this name: no two of them mean one
/// disk. A link, and the loop device that a system was made on, come beside.
fn counted(stem: &str) -> bool {
    !stem.starts_with("disk/") && !stem.starts_with("loop")
}

/// Where a name stands, and what must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use<'u> {
    /// The name.
    pub name: Name<'u>,
    /// What the file that has it says of its content.
    pub holds: Option<Format>,
    /// It can only be this one: the volume that has the file says that it is mounted here.
    pub is: Option<usize>,
}

/// What the names of one system mean on this machine.
#[derive(Debug)]
pub struct Names<'v> {
    volumes: &'v [Volume],
    /// Disks by the names that the system has for them, and by ours.
    known: Vec<(String, &'v str)>,
}

impl<'v> Names<'v> {
    /// Finds out which disk each name means. All that is said of its partitions must be true of a
    /// disk. Of these it is the one with the volume that the name was found on; else the one
    /// of the same name or with an identifier in it; else the only one that the machine has
    /// (`alone`). A name for which that does not decide means none.
    #[must_use]
    pub fn settle(disks: &'v [Disk], volumes: &'v [Volume], uses: &[Use<'_>], alone: bool) -> Self {
        let mut names = Self { volumes, known: Vec::new() };
        let certain = uses.iter().filter(|one| one.is.is_some());
        // Which name it is that the running kernel counts otherwise is not known then.
        let mut moved = false;
        for one in certain.chain(uses) {
            let stem = one.name.disk;
            if names.disk(stem).is_some() {
                continue;
            }
            let fits = |disk: &&Disk| {
                let mut same = uses.iter().filter(|other| other.name.disk == stem);
                same.all(|other| names.fits(disk, other)) && !names.is_taken(&one.name, disk)
            };
            let fitting: Vec<&Disk> = disks.iter().filter(fits).collect();
            let named = |disk: &&&Disk| match one.name.is_link() {
                true => disk.ids.iter().any(|id| id.len() >= 4 && stem.contains(id.as_str())),
                false => !moved && disk.name == stem,
            };
            let found = match (one.is, fitting.as_slice()) {
                (Some(_), [only]) => Some(only),
                _ => fitting.iter().find(named).or(match fitting.as_slice() {
                    [only] if alone => Some(only),
                    _ => None,
                }),
            };
            if let Some(disk) = found {
                moved |= counted(stem) && disk.name != stem;
                names.known.push((stem.to_string(), disk.name.as_str()));
            }
        }
        names
    }

    fn disk(&self, stem: &str) -> Option<&'v str> {
        self.known.iter().find(|(known, _)| known == stem).map(|(_, disk)| *disk)
    }

    /// Whether another kernel's name means this disk.
    fn is_taken(&self, name: &Name<'_>, disk: &Disk) -> bool {
        let mut taken = self.known.iter().filter(|(stem, of)| counted(stem) && *of == disk.name);
        counted(name.disk) && taken.any(|(stem, _)| stem != name.disk)
    }

    fn fits(&self, disk: &Disk, one: &Use<'_>) -> bool {
        let at =
            |volume: &&Volume| volume.disk == disk.name && volume.partition == one.name.partition;
        let Some(volume) = self.volumes.iter().find(at) else { return false };
        let is = one.is.and_then(|n| self.volumes.get(n));
        (one.holds.is_none() || volume.holds == one.holds) && is.is_none_or(|is| is == volume)
    }

    /// The volume that a name means.
    #[must_use]
    pub fn volume(&self, name: &Name<'_>) -> Option<&'v Volume> {
        let disk = self.disk(name.disk)?;
        self.volumes.iter().find(|v| v.disk == disk && v.partition == name.partition)
    }

    /// What to write in the place of a name, as mount(8), initramfs-tools and dracut read it: the
    /// UUID of what is there, or the partition's.
    #[must_use]
    pub fn lasting(&self, name: &Name<'_>) -> Option<String> {
        self.by_uuid(name).or_else(|| self.by_part_uuid(name))
    }

    /// As [`Self::lasting`], for a kernel without an initramfs.
    #[must_use]
    pub fn by_part_uuid(&self, name: &Name<'_>) -> Option<String> {
        let uuid = self.volume(name)?.part_uuid.as_str();
        let same = self.volumes.iter().filter(|volume| volume.part_uuid == uuid).count();
        (is_uuid(uuid) && same == 1).then(|| ["PARTUUID=", uuid].concat())
    }

    fn by_uuid(&self, name: &Name<'_>) -> Option<String> {
        let volume = self.volume(name)?;
        let same = self.volumes.iter().filter(|other| other.uuid == volume.uuid).count();
        // The devices of one btrfs have one UUID.
        let one = same == 1 || volume.holds == Some(Format::Btrfs);
        (is_uuid(&volume.uuid) && one).then(|| ["UUID=", volume.uuid.as_str()].concat())
    }
}

/// The text is from a disk: only a UUID or a serial number may go into a file.
fn is_uuid(text: &str) -> bool {
    !text.is_empty() && text.len() <= 40 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_machine_are_told_from_names_of_the_content() {
        let parts = |path| Name::read(path).map(|name| (name.disk, name.partition));
        for (path, disk, partition) in [
            ("/dev/sda1", "sda", 1),
            ("/dev/sdaa12", "sdaa", 12),
            ("/dev/hdb", "hdb", 0),
            ("/dev/vda3", "vda", 3),
            ("/dev/nvme0n1p2", "nvme0n1", 2),
            ("/dev/nvme10n1", "nvme10n1", 0),
            ("/dev/mmcblk0p1", "mmcblk0", 1),
            ("/dev/cciss/c0d0p5", "cciss/c0d0", 5),
            ("/dev/dasda1", "dasda", 1),
            ("/dev/loop0p2", "loop0", 2),
            ("/dev/disk/by-id/ata-DISK_1-part2", "disk/by-id/ata-DISK_1", 2),
            ("/dev/disk/by-id/wwn-0x5000c500a", "disk/by-id/wwn-0x5000c500a", 0),
            (
                "/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part1",
                "disk/by-path/pci-0000:00:1f.2-ata-1",
                1,
            ),
        ] {
            assert_eq!(parts(path), Some((disk, partition)), "{path}");
        }
        for path in [
            "UUID=1",
            "LABEL=sda1",
            "/dev/mapper/vg-root",
            "/dev/vg/root",
            "/dev/md0",
            "/dev/md/0",
            "/dev/disk/by-uuid/1-2",
            "/dev/disk/by-label/x",
            "/dev/disk/by-partuuid/1-01",
            "/dev/disk/by-id/dm-name-vg-root",
            "/dev/disk/by-id/lvm-pv-uuid-x",
            "/dev/disk/by-id/",
            "/dev/sd",
            "/dev/sda1x",
            "/dev/sdA1",
            "/dev/nvme",
            "/dev/nvmet0",
            "/dev/sr0",
            "/dev/dm-0",
            "tmpfs",
            "/swapfile",
            "",
            "sda1",
            "/dev/mmcblk0boot0",
        ] {
            assert_eq!(parts(path), None, "{path}");
        }
    }

    fn volume(disk: &str, partition: u32, holds: Format, uuid: &str) -> Volume {
        Volume {
            disk: disk.into(),
            partition,
            holds: Some(holds),
            uuid: uuid.into(),
            part_uuid: format!("{uuid}-0{partition}"),
        }
    }

    fn disk(name: &str, id: &str) -> Disk {
        Disk { name: name.into(), ids: vec![id.into()] }
    }

    fn a_use(path: &'static str, holds: Format, is: Option<usize>) -> Use<'static> {
        Use { name: Name::read(path).unwrap(), holds: Some(holds), is }
    }

    #[test]
    fn the_root_tells_which_disk_its_name_means() {
        // This kernel found the two disks in the other order.
        let disks = [disk("sda", "S1"), disk("sdb", "S2")];
        let volumes = [
            volume("sda", 1, Format::Ext, "da"),
            volume("sdb", 1, Format::Ext, "aa"),
            volume("sdb", 2, Format::Swap, "a5"),
        ];
        let uses = [
            a_use("/dev/sdb1", Format::Ext, None),
            a_use("/dev/sda1", Format::Ext, Some(1)),
            a_use("/dev/sda2", Format::Swap, None),
        ];
        let names = Names::settle(&disks, &volumes, &uses, false);
        let lasting = |path| names.lasting(&Name::read(path).unwrap());
        assert_eq!(lasting("/dev/sda1").as_deref(), Some("UUID=aa"));
        assert_eq!(lasting("/dev/sda2").as_deref(), Some("UUID=a5"));
        // Which disk the other name means is not known: names are another kernel's here.
        assert_eq!(lasting("/dev/sdb1"), None);
    }

    #[test]
    fn a_name_means_a_disk_that_is_as_the_files_say() {
        let disks = [disk("sda", "WD-1234")];
        let volumes = [volume("sda", 1, Format::Ext, "e1"), volume("sda", 2, Format::Swap, "52")];
        let lasting = |paths: &[(&'static str, Format)], alone| {
            let uses: Vec<_> =
                paths.iter().map(|(path, holds)| a_use(path, *holds, None)).collect();
            let names = Names::settle(&disks, &volumes, &uses, alone);
            names.lasting(&uses[0].name)
        };
        assert_eq!(lasting(&[("/dev/sda2", Format::Swap)], false).as_deref(), Some("UUID=52"));
        // Of another type, or with a partition that is not there: another disk.
        assert_eq!(lasting(&[("/dev/sda2", Format::Ext)], true), None);
        assert_eq!(lasting(&[("/dev/sda2", Format::Swap), ("/dev/sda3", Format::Ext)], true), None);
        // Another name of the machine's only disk, but not one of several.
        assert_eq!(lasting(&[("/dev/hda1", Format::Ext)], true).as_deref(), Some("UUID=e1"));
        assert_eq!(lasting(&[("/dev/hda1", Format::Ext)], false), None);
        let by_id = "/dev/disk/by-id/ata-WDC_WD-1234-part1";
        assert_eq!(lasting(&[(by_id, Format::Ext)], false).as_deref(), Some("UUID=e1"));
        let other = "/dev/disk/by-id/ata-WDC_WD-9999-part1";
        assert_eq!(lasting(&[(other, Format::Ext)], false), None);
    }

    /// A system that was made on a loop device has it in grub.cfg, and its disk's name in fstab.
    #[test]
    fn a_loop_device_is_the_disk_beside_its_other_name() {
        let disks = [disk("sda", "")];
        let volumes = [volume("sda", 2, Format::Ext, "e1"), volume("sda", 3, Format::Swap, "52")];
        let [build, root, swap, gone] = ["/dev/loop0p2", "/dev/sda2", "/dev/sda3", "/dev/sdb2"]
            .map(|path| Name::read(path).unwrap());
        let a_use = |name, is| Use { name, holds: None, is };
        for uses in [
            [a_use(build, None), a_use(root, Some(0)), a_use(swap, None), a_use(gone, None)],
            [a_use(root, None), a_use(swap, None), a_use(build, None), a_use(gone, None)],
        ] {
            let names = Names::settle(&disks, &volumes, &uses, true);
            let lasting = [build, root, swap, gone].map(|name| names.lasting(&name));
            let lasting = lasting.each_ref().map(Option::as_deref);
            let same = Some("UUID=e1");
            assert_eq!(lasting, [same, same, Some("UUID=52"), None], "{uses:?}");
        }
    }

    #[test]
    fn what_two_have_is_no_name_and_what_is_no_uuid_is_none() {
        let disks = [disk("sda", ""), disk("sdb", "")];
        let twins = [volume("sda", 1, Format::Ext, "e1"), volume("sdb", 1, Format::Ext, "e1")];
        let uses = [a_use("/dev/sda1", Format::Ext, None)];
        assert_eq!(Names::settle(&disks, &twins, &uses, false).lasting(&uses[0].name), None);
        let pair = twins.clone().map(|twin| Volume { holds: Some(Format::Btrfs), ..twin });
        let uses = [a_use("/dev/sda1", Format::Btrfs, None)];
        let names = Names::settle(&disks, &pair, &uses, false);
        assert_eq!(names.lasting(&uses[0].name).as_deref(), Some("UUID=e1"));
        let odd = [Volume { uuid: "x\n/ y".into(), part_uuid: "ab-01".into(), ..twins[0].clone() }];
        let uses = [a_use("/dev/sda1", Format::Ext, None)];
        let names = Names::settle(&disks, &odd, &uses, false);
        assert_eq!(names.lasting(&uses[0].name).as_deref(), Some("PARTUUID=ab-01"));
    }
}
