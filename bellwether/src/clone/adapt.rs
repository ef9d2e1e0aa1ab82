//! `adapt`: a disk that was copied byte by byte becomes this machine's own.
//!
//! The partition table is fitted to the disk's length. On request the last partition and
//! its file system take what a larger disk has more, and everything by which two
//! machines are told apart becomes new: identifiers of the disk, its partitions and file
//! systems, host name, machine-id, SSH host keys. The copy's files then say the new
//! ones, and its own programs build its initramfs and install its boot loader, as for
//! `install`.

use super::flags::{Given, Program, flag};
use super::install::{COPY, Mounted, boots, choose, feed, own, say, wait_for};
use super::layout::{Layout, Part};
use super::map::Source;
use super::prepare::{output, survey, with_mounts};
use super::world::random;
use crate::failure::Failure;
use blockmap::{Place, ReadAt, fit_table};
use std::fmt::Display;
use std::fs;
use std::os::unix::fs::FileExt;

/// Where the image of `tools` has what was asked for.
pub const REQUEST: &str = "/etc/bellwether-clone";

/// The grammar.
pub static ADAPT: Program = Program {
    name: "adapt",
    about: "Fits a disk that is a copy of another machine's to this machine.",
    rest: "",
    example: "bellwether clone adapt --disk /dev/sda --grow --unique",
    flags: &[
        flag("disk", None, Some("DISK"), "this one [the only one]"),
        flag("grow", None, None, "the last partition takes the rest of the disk"),
        flag("unique", None, None, "new identifiers, host name, machine-id, SSH host keys"),
        flag("name", None, Some("NAME"), "the copy's host name [this machine's, from DHCP]"),
        flag("keep-identity", None, None, "keep machine-id and SSH host keys all the same"),
    ],
};

/// Runs it.
pub fn run(given: &Given) -> Result<(), Failure> {
    let disk = choose(given.get("disk"))?;
    let asked = fs::read_to_string(REQUEST).unwrap_or_default();
    let wants = |what: &str| given.has(what) || asked.split_ascii_whitespace().any(|w| w == what);
    let last = fit(&disk, wants("grow"))?;
    let before = survey(&disk)?;
    if let Some(last) = last {
        grow(&before, last)?;
    }
    if wants("unique") {
        unique(given, before)?;
    }
    Ok(())
}

/// The table, of a disk of whatever length, ends at the end of this one. Not by sfdisk: it keeps
/// the last usable sector that a table brought along, and takes a GPT that is longer than its disk
/// for a DOS table.
fn fit(disk: &str, grow: bool) -> Result<Option<Place>, Failure> {
    let failed = |why: &dyn Display| Failure::Failed(format!("{disk}: {why}"));
    let fit = fit_table(&mut Source::open(disk)?, grow).map_err(|e| failed(&e))?;
    let last = fit.last.map(|(last, _)| last);
    if grow && last.is_none() {
        return Err(failed(&"there is no partition to grow"));
    }
    if fit.writes.is_empty() {
        return Ok(last);
    }
    let file = fs::OpenOptions::new().write(true).open(disk).map_err(|e| failed(&e))?;
    for (at, bytes) in &fit.writes {
        file.write_all_at(bytes, *at).and_then(|()| file.sync_data()).map_err(|e| failed(&e))?;
    }
    drop(file);
    // The kernel refuses a table that is longer than its disk: it has no partitions yet. partx
    // also changes a disk in use, and with kernels that read no tables; without the numbers it
    // stops before logical partitions.
    if output(&["partx", "--update", "--nr", "1:256", disk]).is_err() {
        let _ = output(&["blockdev", "--rereadpt", disk]);
    }
    say(&match fit.last {
        Some((last, true)) => format!("{disk}: partition {} reaches to its end", last.number),
        _ => format!("{disk}: the partition table reaches to the end of the disk"),
    });
    Ok(last)
}

/// `fsck` of a file system, mended where that needs no answer.
fn check(device: &str) -> Result<(), Failure> {
    // 1: errors were there, and are not any more.
    feed(&["sh", "-c", "fsck.ext4 -f -y \"$1\"; [ $? -le 1 ]", "sh", device], "")
}

/// What is in the last partition, which reaches to the end of the disk, takes all of it.
fn grow(layout: &Layout, place: Place) -> Result<(), Failure> {
    let disk = &layout.disk;
    let Some(last) = layout.parts.iter().find(|part| part.number == place.number) else {
        return Err(Failure::Failed(format!("{disk}: sfdisk finds no partition {}", place.number)));
    };
    let device = last.device(disk);
    wait_for(&device)?;
    let length = Source::open(&device)?.size();
    if length < place.length {
        return Err(Failure::Failed(format!(
            "{device}: the kernel still takes it for {length} bytes of {}; after a restart, or \
             'partx --update --nr 1:256 {disk}' (util-linux), run this again",
            place.length
        )));
    }
    match last.fs.as_str() {
        "ext2" | "ext3" | "ext4" => {
            check(&device)?;
            output(&["resize2fs", &device])?;
        }
        "xfs" => mounted(last, disk, &["xfs_growfs", COPY])?,
        "btrfs" => mounted(last, disk, &["btrfs", "filesystem", "resize", "max", COPY])?,
        "ntfs" => feed(&["ntfsresize", "-f", "-f", &device], "y\n")?,
        "swap" => {
            let label = if last.label.is_empty() { vec![] } else { vec!["-L", &last.label] };
            output(&[&["mkswap", "-U", &last.uuid][..], &label, &[&device]].concat())?;
        }
        "" => {}
        fs => {
            say(&format!("{device}: {fs} keeps its size; only the partition has grown"));
            return Ok(());
        }
    }
    say(&format!("{device} takes the rest of the disk"));
    Ok(())
}

/// Runs a program on a file system that must be mounted for it.
fn mounted(part: &Part, disk: &str, words: &[&str]) -> Result<(), Failure> {
    let mut place = Mounted::default();
    place.mount(&["-t", &part.fs, &part.device(disk)], COPY)?;
    output(words).map(drop)
}

/// A random identifier, as RFC 9562's version 4.
fn uuid() -> Result<String, Failure> {
    let n = u128::from_be_bytes(random()?);
    let n = n & !(0xf << 76) & !(0x3 << 62) | 4 << 76 | 2 << 62;
    let hex = format!("{n:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    Ok([part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-"))
}

/// New identifiers, and a copy that knows them. Where NTFS is, those of the table stay: Windows'
/// loader finds its disk and its partition by them.
fn unique(given: &Given, before: Layout) -> Result<(), Failure> {
    let disk = before.disk.clone();
    let fstab = file_systems(&disk)?;
    let (layout, linux) = match &fstab {
        Some(fstab) => (with_mounts(before, fstab, None)?, true),
        None => (before, false),
    };
    let short = || random::<4>().map(u32::from_be_bytes);
    if layout.parts.iter().any(|part| part.fs == "ntfs") {
        say(&format!(
            "{disk}: the table's identifiers stay: Windows' loader finds its disk by them"
        ));
    } else if layout.table == "gpt" {
        output(&["sfdisk", "-q", "--disk-id", &disk, &uuid()?])?;
        for part in &layout.parts {
            let number = part.number.to_string();
            output(&["sfdisk", "-q", "--part-uuid", &disk, &number, &uuid()?])?;
        }
    } else {
        output(&["sfdisk", "-q", "--disk-id", &disk, &format!("{:#010x}", short()?)])?;
    }
    for part in &layout.parts {
        let device = part.device(&disk);
        wait_for(&device)?;
        let fresh = uuid()?;
        match part.fs.as_str() {
            "ext2" | "ext3" | "ext4" => {
                check(&device)?;
                output(&["tune2fs", "-U", &fresh, &device])?;
            }
            // What xfs_admin, a shell script, does.
            "xfs" => {
                let command = format!("uuid {fresh}");
                output(&["xfs_db", "-x", "-p", "xfs_admin", "-c", &command, &device])?;
            }
            "btrfs" => output(&["btrfstune", "-f", "-U", &fresh, &device]).map(drop)?,
            "swap" => output(&["swaplabel", "-U", &fresh, &device]).map(drop)?,
            "vfat" => {
                output(&["fatlabel", "-i", &device, &format!("{:08x}", short()?)])?;
            }
            "ntfs" => output(&["ntfslabel", "--new-serial", &device]).map(drop)?,
            _ => continue,
        }
        say(&format!("{device}: {} with a new identifier", part.fs));
    }
    if !linux {
        say(&format!("{disk}: no partition has /etc/fstab: there are no files to adapt"));
        return Ok(());
    }
    let mut mounted = Mounted::copy(&layout, &disk)?;
    own(given, &layout, &disk)?;
    boots(&layout, &disk, &mut mounted)?;
    mounted.written()
}

/// The file system table of the copy, where one of its partitions has it.
fn file_systems(disk: &str) -> Result<Option<String>, Failure> {
    for part in survey(disk)?.parts {
        if !["ext2", "ext3", "ext4", "xfs", "btrfs"].contains(&part.fs.as_str()) {
            continue;
        }
        let device = part.device(disk);
        wait_for(&device)?;
        let mut place = Mounted::default();
        place.mount(&["-t", &part.fs, "-o", "ro", &device], COPY)?;
        if let Ok(fstab) = fs::read_to_string(format!("{COPY}/etc/fstab")) {
            return Ok(Some(fstab));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_random_ones() {
        let (one, two) = (uuid().unwrap(), uuid().unwrap());
        assert_ne!(one, two);
        let parts: Vec<&str> = one.split('-').collect();
        assert_eq!(parts.iter().map(|p| p.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert!(parts[2].starts_with('4'), "{one}");
        assert!(parts[3].starts_with(['8', '9', 'a', 'b']), "{one}");
    }
}
