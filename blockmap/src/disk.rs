//! A whole disk: its table, its partitions, and what of it is in use.

use crate::bytes::le32;
use crate::extents::{Extent, Extents};
use crate::fs;
use crate::lvm;
use crate::raw::Raw;
use crate::read::{ReadAt, ReadError, Window};
use crate::table::{self, Found, TableKind};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use overlay::probe::{Format, formats, probe};

/// Of free space between partitions, so much is taken as used at both of its ends: boot loaders,
/// disk managers and RAID firmware keep things there that no table names.
const MARGIN: u64 = 1 << 20;

/// Why there is no map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The disk has no bytes.
    Empty,
    /// Its first sector cannot be read.
    Unreadable(ReadError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there is nothing on it: its length is 0"),
            Self::Unreadable(error) => write!(f, "{error}: is the disk in order?"),
        }
    }
}

impl core::error::Error for Error {}

/// How a partition is to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// Only what its file system has in use.
    Used,
    /// All of it, and why.
    Raw(Raw),
}

/// A partition, or the whole of a disk that has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its number as the kernel counts, from 1; 0 for a disk without a table.
    pub number: u32,
    /// Its first byte on the disk.
    pub start: u64,
    /// Its bytes.
    pub length: u64,
    /// Its type in the table: a UUID, two digits, or empty.
    pub kind: String,
    /// Its own UUID, from the table: PARTUUID.
    pub uuid: String,
    /// Its name in a GPT.
    pub name: String,
    /// What it holds, in a word: `ext4`, `FAT32`, `unknown`.
    pub content: String,
    /// What the probe takes it for.
    pub format: Option<Format>,
    /// The file system's label.
    pub label: String,
    /// The file system's UUID or serial number.
    pub fs_uuid: String,
    /// Used blocks, or all.
    pub how: How,
    /// Its bytes in use.
    pub used: u64,
    /// What a person should know, a sentence each.
    pub notes: Vec<String>,
}

/// What of a disk is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskMap {
    /// Its bytes.
    pub size: u64,
    /// Bytes of a logical sector, as the table counts.
    pub sector: u64,
    /// The kind of its table; nothing without one.
    pub table: Option<TableKind>,
    /// Its partitions in the order of their places.
    pub parts: Vec<Part>,
    /// Everything in use: tables, boot code, gaps, partitions. Sorted; no two touch.
    pub used: Vec<Extent>,
    /// What a person should know of the disk as a whole, a sentence each.
    pub notes: Vec<String>,
}

impl DiskMap {
    /// All bytes in use.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        sum(&self.used)
    }
}

fn sum(extents: &[Extent]) -> u64 {
    extents.iter().fold(0, |sum, extent| sum.saturating_add(extent.length))
}

/// Finds what of a disk is in use. A table or a file system that is not understood is no error:
/// all of it is in use then, and the notes or [`Part::how`] say why.
///
/// # Errors
/// [`Error`] when there is nothing to copy, or the first sector cannot be read.
pub fn whole_disk(disk: &mut dyn ReadAt) -> Result<DiskMap, Error> {
    let size = disk.size();
    if size == 0 {
        return Err(Error::Empty);
    }
    let mut window = Window::new(disk, 0, size);
    let first = size.min(512) as usize;
    window.bytes(0, first).map_err(Error::Unreadable)?;
    let mut used = Extents::default();
    let found = table::read(&mut window, &mut used);
    let marks = formats(&mut |at, buffer| window.some(at, buffer));
    let mut map = DiskMap {
        size,
        sector: window.sector(),
        table: None,
        parts: Vec::new(),
        used: Vec::new(),
        notes: Vec::new(),
    };
    let whole = |map: &mut DiskMap, note: String| {
        map.notes.push(note);
        map.used = Vec::from([Extent { start: 0, length: size }]);
    };
    let in_boot_sector = |format| matches!(format, Format::Vfat | Format::Exfat | Format::Ntfs);
    match found {
        Found::Doubtful(why) if !marks.iter().any(|format| in_boot_sector(*format)) => {
            whole(&mut map, format!("all of the disk is copied: {why}"));
        }
        Found::Table(table) if marks.is_empty() => {
            (map.table, map.sector, map.notes) = (Some(table.kind), table.sector, table.notes);
            let mut taken = Extents::default();
            for entry in &table.partitions {
                taken.add(entry.start, entry.length);
                let mut part = Part::new(entry.number, entry.start, entry.length);
                part.kind = entry.kind();
                (part.uuid, part.name) = (entry.uuid.clone(), entry.name.clone());
                part.examine(window.disk(), &mut used);
                map.parts.push(part);
            }
            map.parts.sort_by_key(|part| (part.start, part.number));
            gaps(&taken.finish(), size, &mut used);
            map.used = clip(used.finish(), size);
        }
        Found::Table(table) => {
            let mark = marks.first().map_or("a file system", |format| format.name());
            (map.table, map.sector) = (Some(table.kind), table.sector);
            let why = "which of them counts is not known";
            whole(
                &mut map,
                format!("all of the disk is copied: it has a partition table and is {mark}; {why}"),
            );
        }
        Found::Nothing | Found::Doubtful(_) => {
            let mut part = Part::new(0, 0, size);
            let mut used = Extents::default();
            part.examine(window.disk(), &mut used);
            map.parts.push(part);
            map.used = clip(used.finish(), size);
        }
    }
    Ok(map)
}

/// What is outside of partitions: all before the first one, the ends of every other gap.
fn gaps(taken: &[Extent], size: u64, used: &mut Extents) {
    let mut at = 0;
    let end = Extent { start: size, length: 0 };
    for next in taken.iter().chain([&end]) {
        let gap = next.start.min(size).saturating_sub(at);
        if at == 0 && next.start < size || gap <= 2 * MARGIN {
            used.add(at, gap);
        } else {
            used.add(at, MARGIN);
            used.add(at + gap - MARGIN, MARGIN);
        }
        at = at.max(next.end());
    }
}

/// What of the extents is on the disk.
fn clip(mut extents: Vec<Extent>, size: u64) -> Vec<Extent> {
    extents.retain(|extent| extent.start < size);
    if let Some(last) = extents.last_mut() {
        last.length = last.length.min(size - last.start);
    }
    extents
}

impl Part {
    fn new(number: u32, start: u64, length: u64) -> Self {
        Self {
            number,
            start,
            length,
            kind: String::new(),
            uuid: String::new(),
            name: String::new(),
            content: "unknown".to_string(),
            format: None,
            label: String::new(),
            fs_uuid: String::new(),
            how: How::Used,
            used: 0,
            notes: Vec::new(),
        }
    }

    /// Finds out what it holds, and adds what of it is in use.
    fn examine(&mut self, disk: &mut dyn ReadAt, used: &mut Extents) {
        let mut window = Window::new(disk, self.start, self.length);
        let size = window.size();
        let map = self.read(&mut window);
        let mut own = Extents::default();
        self.how = match map {
            Ok(map) => {
                self.content = map.name.to_string();
                self.notes.extend(map.notes);
                map.used.finish().iter().for_each(|e| own.add(e.start, e.length));
                let rest = size.saturating_sub(map.size);
                own.add(map.size, rest);
                if rest > MARGIN {
                    self.notes.push(format!(
                        "{rest} bytes behind the end of the file system are copied, too"
                    ));
                }
                How::Used
            }
            Err(raw) => {
                own.add(0, size);
                How::Raw(raw)
            }
        };
        let own = clip(own.finish(), size);
        self.used = sum(&own);
        own.iter()
            .for_each(|extent| used.add(self.start.saturating_add(extent.start), extent.length));
    }

    fn read(&mut self, window: &mut Window<'_>) -> Result<fs::Map, Raw> {
        if let Some(found) = probe(&mut |at, buffer| window.some(at, buffer)) {
            (self.label, self.fs_uuid) = (found.label, found.uuid);
            (self.format, self.content) = (Some(found.format), found.format.name().to_string());
        }
        if window.size() < self.length {
            return Err(Raw::Damaged("the partition goes past the end of the disk"));
        }
        let map = match content(window)? {
            Format::Lvm => lvm::read(window, &mut |volume| fs::read(content(volume)?, volume))?,
            format => fs::read(format, window)?,
        };
        Raw::fits(Some(map.size), window)?;
        Ok(map)
    }
}

/// What some bytes hold, if that is beyond doubt.
fn content(window: &mut Window<'_>) -> Result<Format, Raw> {
    let marks = formats(&mut |at, buffer| window.some(at, buffer));
    match marks.as_slice() {
        [] if window.bytes(0, 11).is_ok_and(|head| head.ends_with(b"-FVE-FS-")) => {
            Err(Raw::Encrypted("BitLocker"))
        }
        [] => Err(Raw::Unknown),
        [one, rest @ ..] => match rest.iter().find(|format| *format != one) {
            Some(other) => Err(Raw::Ambiguous([*one, *other])),
            None if raid_at_end(window) => Err(Raw::NoReader(Format::MdRaid)),
            None => Ok(*one),
        },
    }
}

/// Whether a RAID array has its superblock at the end, where the file system is not touched
/// (`include/uapi/linux/raid/md_p.h`): version 1.0, and 0.90.
fn raid_at_end(window: &mut Window<'_>) -> bool {
    let size = window.size();
    let newer = (size >> 9).saturating_sub(16) & !7;
    let older = (size & !0xffff).saturating_sub(0x1_0000);
    [newer << 9, older]
        .into_iter()
        .any(|at| window.bytes(at, 4).is_ok_and(|magic| at > 0 && le32(&magic, 0) == 0xa92b_4efc))
}
