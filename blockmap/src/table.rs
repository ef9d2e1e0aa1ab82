//! The partition table, taken only when it is certain: a copy by a wrong table loses data.

use crate::bytes::{le32, le64};
use crate::crc::crc32;
use crate::extents::{Extent, Extents};
use crate::read::{ReadAt, Window};
use alloc::string::String;
use alloc::vec::Vec;
use overlay::partition::{self, Partition};

/// The kind of a partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// GPT.
    Gpt,
    /// MBR, as DOS made it.
    Dos,
}

impl TableKind {
    /// Its name as `sfdisk` says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gpt => "gpt",
            Self::Dos => "dos",
        }
    }
}

/// A table that can be trusted.
pub struct Table {
    pub kind: TableKind,
    pub sector: u64,
    pub partitions: Vec<Partition>,
    pub notes: Vec<String>,
}

/// What the first sectors say.
pub enum Found {
    /// No table.
    Nothing,
    /// There is one, and it is not to be trusted.
    Doubtful(&'static str),
    /// A table.
    Table(Table),
}

/// A table without what its partitions hold.
#[derive(Debug)]
pub struct Bare {
    /// What it is.
    pub kind: TableKind,
    /// Number, first byte and bytes of each partition.
    pub partitions: Vec<(u32, u64, u64)>,
    /// The sectors that it is in.
    pub sectors: Vec<Extent>,
}

/// A disk's table alone.
///
/// # Errors
/// There is none, or it is not to be trusted, and why.
pub fn bare_table(disk: &mut dyn ReadAt) -> Result<Bare, &'static str> {
    let size = disk.size();
    let mut used = Extents::default();
    match read(&mut Window::new(disk, 0, size), &mut used) {
        Found::Nothing => Err("it has no partition table"),
        Found::Doubtful(why) => Err(why),
        Found::Table(table) => {
            let partitions = table.partitions.iter().map(|p| (p.number, p.start, p.length));
            let partitions = partitions.collect();
            Ok(Bare { kind: table.kind, partitions, sectors: used.finish() })
        }
    }
}

const HEADER: usize = 512;
pub const SIGNATURE: &[u8] = b"EFI PART";
/// Most bytes of GPT's entries: as many as `overlay::partition` reads, of the longest.
pub const ENTRIES: u64 = 1 << 20;

/// GPT's first header, and the size of sectors that its place tells.
pub fn header(disk: &mut Window<'_>) -> Option<(u64, Vec<u8>)> {
    // An image of a disk with sectors of 4096 bytes is a file, whose sectors are 512.
    [disk.sector(), 512, 4096].into_iter().find_map(|sector| {
        let header = disk.bytes(sector, HEADER).ok()?;
        header.starts_with(SIGNATURE).then_some((sector, header))
    })
}

/// Reads the table, and adds the sectors that it is in.
pub fn read(disk: &mut Window<'_>, used: &mut Extents) -> Found {
    let Ok(boot) = disk.bytes(0, 512) else { return Found::Nothing };
    let own = disk.sector();
    let protective =
        boot.get(446..510).unwrap_or_default().chunks(16).any(|e| e.get(4) == Some(&0xee));
    let found = header(disk);
    let sector = found.as_ref().map_or(own, |(sector, _)| *sector);
    let Some(table) = partition::table(&mut |at, buffer| disk.some(at, buffer), sector) else {
        return Found::Nothing;
    };
    if !protective {
        // A boot sector of a file system ends as a table does.
        if partition::extent(&boot).is_none() {
            return Found::Nothing;
        }
        if !table.complete {
            return Found::Doubtful("its chain of logical partitions is broken or has a loop");
        }
        used.add(0, sector);
        table.records.iter().for_each(|record| used.add(*record, sector));
        let (kind, partitions, notes) = (TableKind::Dos, table.partitions, Vec::new());
        return Found::Table(Table { kind, sector, partitions, notes });
    }
    let Some((_, header)) = found else {
        return Found::Doubtful("its MBR announces a GPT, and there is none");
    };
    if !whole(disk, sector, 1, &header, used) {
        return Found::Doubtful("its GPT has a wrong checksum; sfdisk or sgdisk can repair it");
    }
    if !table.complete {
        return Found::Doubtful("its GPT has entries that are not understood");
    }
    used.add(0, sector);
    let copy = le64(&header, 32);
    let place = copy.checked_mul(sector).filter(|at| *at < disk.size());
    let second = place.and_then(|at| disk.bytes(at, HEADER).ok());
    let good = second.is_some_and(|second| whole(disk, sector, copy, &second, used));
    let mut notes = Vec::new();
    if !good {
        notes.push(String::from(
            "the copy of the GPT that should be at the end of the disk is missing or damaged",
        ));
    }
    let (kind, partitions) = (TableKind::Gpt, table.partitions);
    Found::Table(Table { kind, sector, partitions, notes })
}

/// Whether a GPT's header and entries have the checksums that it says; adds where they are.
pub fn whole(
    disk: &mut Window<'_>,
    sector: u64,
    own: u64,
    header: &[u8],
    used: &mut Extents,
) -> bool {
    let length = le32(header, 12) as usize;
    let (Some(before), Some(after)) = (header.get(..16), header.get(20..length)) else {
        return false;
    };
    let right = length >= 92
        && header.starts_with(SIGNATURE)
        && crc32(&[before, &[0; 4], after]) == le32(header, 16)
        && le64(header, 24) == own;
    let bytes = u64::from(le32(header, 80)) * u64::from(le32(header, 84));
    let (Some(at), Some(header_at)) =
        (le64(header, 72).checked_mul(sector), own.checked_mul(sector))
    else {
        return false;
    };
    if !right || bytes > ENTRIES {
        return false;
    }
    let Ok(entries) = disk.bytes(at, bytes as usize) else { return false };
    used.add(header_at, sector);
    used.add(at, bytes.next_multiple_of(sector));
    crc32(&[&entries]) == le32(header, 88)
}
