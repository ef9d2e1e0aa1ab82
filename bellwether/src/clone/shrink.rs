//! `shrink`: a copy of a disk in a file, for disks that are smaller: what is behind the last
//! partition goes, and file systems are made smaller by their own programs, on copies of them.

use super::flags::{Given, Program, flag};
use super::install::{Mounted, feed, say};
use super::map::Source;
use super::prepare::output;
use crate::args::bytes;
use crate::failure::Failure;
use blockmap::{DiskMap, Extent, How, Part, ReadAt, TableKind, whole_disk};
use clone::outcome::Amount;
use cpio_builder::tools::{Draft, Workplace};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The grammar.
pub static SHRINK: Program = Program {
    name: "shrink",
    about: "Copies a disk to a file that fits smaller disks; the disk stays as it is.",
    rest: "DISK|FILE",
    example: "bellwether clone shrink /dev/sda --size 100G -o small.img",
    flags: &[
        flag("size", None, Some("BYTES"), "the disks that it is for have so many, as 100G"),
        flag("output", Some('o'), Some("FILE"), "the file, which has holes"),
    ],
};

const MIB: u64 = 1 << 20;
/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;

/// What can be made smaller, and the least that its program or the kernel still makes.
const SHRINKS: [(&str, u64); 6] = [
    ("ext2", MIB),
    ("ext3", MIB),
    ("ext4", MIB),
    ("ntfs", MIB),
    ("btrfs", 256 * MIB),
    ("xfs", 320 * MIB),
];

fn failed(path: &str, why: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("{path}: {why}"))
}

/// The new length of each partition that becomes shorter, by its number: each gives its share of
/// what is free. What file systems need to work stays.
fn plan(map: &DiskMap, size: u64) -> Result<BTreeMap<u32, u64>, String> {
    // A GPT's copy, and the next partition's place.
    let tail = if map.table == Some(TableKind::Gpt) { MIB } else { 0 };
    let end = map.parts.iter().map(|part| part.start + part.length).max().unwrap_or(0) + tail;
    let over = end.saturating_sub(size);
    let spare = |part: &Part| {
        let least = SHRINKS.iter().find(|(name, _)| *name == part.content);
        let Some((_, least)) = least.filter(|_| part.how == How::Used) else { return 0 };
        let keep = (part.used + (part.used / 4).max(32 * MIB)).max(*least);
        part.length.saturating_sub(keep) / MIB * MIB
    };
    let most: u64 = map.parts.iter().map(spare).sum();
    if over > most {
        return Err(format!(
            "does not fit into {}: with all its file systems as small as they can be it needs {}; \
             remove files, or take larger disks",
            Amount(size),
            Amount(end - most)
        ));
    }
    let mut cuts = BTreeMap::new();
    for part in map.parts.iter().filter(|part| over > 0 && spare(part) > 0) {
        let share = u128::from(spare(part)) * u128::from(over) / u128::from(most.max(1));
        let cut = u64::try_from(share).unwrap_or(0).next_multiple_of(MIB).min(spare(part));
        cuts.insert(part.number, part.length - cut);
    }
    Ok(cuts)
}

/// Where a byte of the old disk is on the new one: all partitions before it that become shorter
/// move it to the front.
fn moved(map: &DiskMap, cuts: &BTreeMap<u32, u64>, at: u64) -> u64 {
    let before = map.parts.iter().filter(|part| part.start < at);
    let gone = before.filter_map(|part| Some(part.length - cuts.get(&part.number)?));
    at - gone.sum::<u64>()
}

/// sfdisk's dump with the new places, for a disk of so many bytes.
fn script(dump: &str, map: &DiskMap, cuts: &BTreeMap<u32, u64>, size: u64) -> String {
    let mut out = String::new();
    for line in dump.lines() {
        let Some((device, fields)) = line.split_once(" : ") else {
            // It binds the table to the old disk.
            if !line.starts_with("last-lba") && !line.starts_with("device") {
                out += &format!("{line}\n");
            }
            continue;
        };
        let digits = device.trim_end().trim_end_matches(|c: char| c.is_ascii_digit());
        let number = device.trim_end().get(digits.len()..).unwrap_or_default();
        let field = |key: &str| {
            let value = fields.split(',').find_map(|field| field.trim().strip_prefix(key));
            value.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0) * map.sector
        };
        let (start, end) = (field("start="), field("start=") + field("size="));
        let length = cuts.get(&number.parse().unwrap_or(0)).copied();
        // An extended partition ends where its last one does.
        let length = length.unwrap_or(moved(map, cuts, end).min(size) - moved(map, cuts, start));
        let rest = fields.split(',').map(str::trim);
        let rest = rest.filter(|field| !field.starts_with("start=") && !field.starts_with("size="));
        let (start, length) = (moved(map, cuts, start) / map.sector, length / map.sector);
        let rest: Vec<&str> = rest.collect();
        out += &format!("{number} : start={start}, size={length}, {}\n", rest.join(", "));
    }
    out
}

/// Copies what is in use of a part of a disk to a file; zeros become holes.
fn copy(
    from: &mut Source,
    used: &[Extent],
    (start, length): (u64, u64),
    to: &File,
    place: u64,
) -> Result<(), String> {
    let mut buffer = vec![0; PIECE];
    for extent in used {
        let end = extent.end().min(start + length);
        let mut at = extent.start.max(start);
        while at < end {
            let some = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let bytes = buffer.get_mut(..some).unwrap_or_default();
            from.read_at(at, bytes).map_err(|e| e.to_string())?;
            if bytes.iter().any(|byte| *byte != 0) {
                to.write_all_at(bytes, at - start + place).map_err(|e| e.to_string())?;
            }
            at += some as u64;
        }
    }
    Ok(())
}

/// Makes the file system in this file smaller: to so many bytes.
fn smaller(part: &Part, file: &str, bytes: u64, work: &Workplace) -> Result<(), Failure> {
    let text = bytes.to_string();
    let place = |name: &str| work.join(name).to_string_lossy().into_owned();
    let old = place("old");
    match part.content.as_str() {
        "ntfs" => feed(&["ntfsresize", "-f", "-f", "-s", &text, file], "y\n"),
        "btrfs" => {
            let mut mounted = Mounted::default();
            mounted.mount(&["-t", "btrfs", "-o", "loop", file], &old)?;
            output(&["btrfs", "filesystem", "resize", &text, &old]).map(drop)
        }
        // It cannot be made smaller: another one with the same names and files.
        "xfs" => {
            let (next, new) = (format!("{file}.new"), place("new"));
            File::create(&next)
                .and_then(|made| made.set_len(bytes))
                .map_err(|e| failed(&next, e))?;
            let id = format!("uuid={}", part.fs_uuid);
            output(&["mkfs.xfs", "-q", "-f", "-m", &id, "-L", &part.label, &next])?;
            let mut mounted = Mounted::default();
            mounted.mount(&["-t", "xfs", "-o", "loop,nouuid", file], &old)?;
            mounted.mount(&["-t", "xfs", "-o", "loop,nouuid", &next], &new)?;
            output(&["cp", "-a", "--sparse=always", &format!("{old}/."), &new])?;
            drop(mounted);
            std::fs::rename(&next, file).map_err(|e| failed(&next, e))
        }
        _ => {
            // 1: errors were there, and are not any more.
            feed(&["sh", "-c", "fsck.ext4 -f -y \"$1\"; [ $? -le 1 ]", "sh", file], "")?;
            output(&["resize2fs", file, &format!("{}s", bytes / 512)]).map(drop)
        }
    }
}

/// What the boot sectors of NTFS and FAT say of the partition's place, where they said it right:
/// hidden sectors. NTFS has a copy of its one in the partition's last sector.
fn settle(disk: &File, part: &Part, start: u64, length: u64, sector: u64) -> std::io::Result<()> {
    let mut boot = [0; 512];
    disk.read_exact_at(&mut boot, start)?;
    let number = |at: u64| u32::try_from(at / sector).unwrap_or(u32::MAX).to_le_bytes();
    let right = boot.get(28..32) == Some(&number(part.start));
    if !["ntfs", "FAT12", "FAT16", "FAT32"].contains(&part.content.as_str()) || !right {
        return Ok(());
    }
    let hidden = number(start);
    disk.write_all_at(&hidden, start + 28)?;
    if part.content == "FAT32" {
        let copy = boot.get(50..52).and_then(|bytes| bytes.first_chunk()).copied();
        let copy = u64::from(copy.map_or(0, u16::from_le_bytes)) * sector;
        return if copy > 0 { disk.write_all_at(&hidden, start + copy + 28) } else { Ok(()) };
    }
    if part.content == "ntfs" {
        disk.read_exact_at(&mut boot, start)?;
        disk.write_all_at(&boot, start + length - sector)?;
    }
    Ok(())
}

/// Runs it.
pub fn run(given: &Given) -> Result<(), Failure> {
    let [disk] = given.rest.as_slice() else {
        return Err(Failure::Usage("shrink: needs one disk or file, as /dev/sda".to_owned()));
    };
    let missing = |what: &str| Failure::Usage(format!("shrink: needs {what}"));
    let to = given.get("output").ok_or_else(|| missing("-o FILE"))?;
    let size = given.get("size").ok_or_else(|| missing("--size, as 100G"))?;
    let size = bytes(size).map_err(|why| Failure::Usage(format!("--size: {why}")))? / MIB * MIB;
    let mut source = Source::open(disk)?;
    let map = whole_disk(&mut source).map_err(|e| failed(disk, e))?;
    if map.table.is_none() || map.sector != 512 {
        let why = "only disks with a partition table and sectors of 512 bytes can be made smaller";
        return Err(failed(disk, why));
    }
    let cuts = plan(&map, size).map_err(|why| failed(disk, why))?;
    let dump = output(&["sfdisk", "-d", disk])?;
    let draft = Draft::new(Path::new(to))?;
    let wrong = |e: std::io::Error| failed(to, e);
    let out = draft.create()?;
    out.set_len(size).map_err(wrong)?;
    let name = draft.path().to_string_lossy().into_owned();
    feed(
        &["sfdisk", "-q", "--no-reread", "--no-tell-kernel", &name],
        &script(&dump, &map, &cuts, size),
    )?;
    // Boot code, and what it has behind the table.
    let first = map.parts.iter().map(|part| part.start).min().unwrap_or(0);
    let entries = dump.lines().find_map(|line| line.strip_prefix("table-length:"));
    let entries = entries.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(128);
    let free = match map.table {
        Some(TableKind::Gpt) => (2 * 512 + entries.min(8192) * 128).next_multiple_of(512),
        _ => 512,
    };
    let all = [Extent { start: 0, length: first }];
    for (start, end) in [(0, 440), (free, first)] {
        copy(&mut source, &all, (start, end.saturating_sub(start)), &out, start)
            .map_err(|why| failed(disk, why))?;
    }
    let work = Workplace::new(Path::new(to)).map_err(|e| failed(to, e))?;
    for part in &map.parts {
        let start = moved(&map, &cuts, part.start);
        let length = cuts.get(&part.number).copied().unwrap_or(part.length);
        let own = (part.start, part.length);
        if length == part.length {
            copy(&mut source, &map.used, own, &out, start).map_err(|why| failed(disk, why))?;
        } else {
            let amounts = (Amount(part.length), Amount(length));
            say(&format!(
                "partition {}: {} from {} to {}",
                part.number, part.content, amounts.0, amounts.1
            ));
            let path = work.join(&format!("part{}", part.number));
            let file = path.to_string_lossy().into_owned();
            let system = File::options().read(true).write(true).create_new(true).open(&path);
            let system = system.map_err(|e| failed(&file, e))?;
            system.set_len(part.length).map_err(|e| failed(&file, e))?;
            copy(&mut source, &map.used, own, &system, 0).map_err(|why| failed(disk, why))?;
            smaller(part, &file, length, &work)?;
            let system = File::options().write(true).open(&path).map_err(|e| failed(&file, e))?;
            system.set_len(length).map_err(|e| failed(&file, e))?;
            let mut system = Source::open(&file)?;
            let used = whole_disk(&mut system).map_err(|e| failed(&file, e))?.used;
            copy(&mut system, &used, (0, length), &out, start).map_err(|why| failed(to, why))?;
            std::fs::remove_file(&path).map_err(|e| failed(&file, e))?;
        }
        settle(&out, part, start, length, map.sector).map_err(wrong)?;
    }
    out.sync_all().map_err(wrong)?;
    draft.keep()?;
    println!("{to}: for disks of {} and more: bellwether clone send {to}", Amount(size));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u32, start: u64, length: u64, content: &str, used: u64) -> Part {
        Part {
            number,
            start: start * MIB,
            length: length * MIB,
            kind: String::new(),
            uuid: String::new(),
            name: String::new(),
            content: content.to_owned(),
            format: None,
            label: String::new(),
            fs_uuid: String::new(),
            how: How::Used,
            used: used * MIB,
            notes: Vec::new(),
        }
    }

    fn disk() -> DiskMap {
        let parts = vec![
            part(1, 1, 100, "FAT32", 1),
            part(2, 101, 500, "ext4", 100),
            part(5, 602, 300, "ntfs", 80),
        ];
        let (used, notes) = (Vec::new(), Vec::new());
        DiskMap { size: 1000 * MIB, sector: 512, table: Some(TableKind::Dos), parts, used, notes }
    }

    #[test]
    fn each_file_system_gives_its_share() {
        let cut = |mib: u64| {
            plan(&disk(), mib * MIB).map(|cuts| {
                cuts.into_iter().map(|(number, bytes)| (number, bytes / MIB)).collect::<Vec<_>>()
            })
        };
        assert_eq!(cut(902), Ok(vec![]));
        assert_eq!(cut(700), Ok(vec![(2, 366), (5, 231)]));
        assert_eq!(cut(400), Ok(vec![(2, 167), (5, 130)]));
        let why = cut(200).unwrap_err();
        assert!(why.contains("it needs 362.8 MB"), "{why}");
    }

    #[test]
    fn what_is_behind_moves_and_an_extended_partition_ends_with_its_last() {
        let map = disk();
        let cuts = BTreeMap::from([(2, 300 * MIB), (5, 200 * MIB)]);
        let dump = "label: dos\nlabel-id: 0x1\ndevice: x\nlast-lba: 9\n\n\
                    x1 : start= 2048, size= 204800, type=b, bootable\n\
                    x2 : start= 206848, size= 1024000, type=83\n\
                    x3 : start= 1230848, size= 616448, type=5\n\
                    x5 : start= 1232896, size= 614400, type=7\n";
        let wanted = "label: dos\nlabel-id: 0x1\n\n\
                      1 : start=2048, size=204800, type=b, bootable\n\
                      2 : start=206848, size=614400, type=83\n\
                      3 : start=821248, size=411648, type=5\n\
                      5 : start=823296, size=409600, type=7\n";
        assert_eq!(script(dump, &map, &cuts, 603 * MIB), wanted);
    }
}
