//! A copy on a disk that keeps its own partition table: of the copy it gets what partitions hold,
//! boot code, and what that has before the first partition.

use super::manifest::Disk;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use blockmap::{Bare, Extent, Extents, TableKind};
use core::ops::Range;

/// Boot code of a GPT's protective MBR, in bytes.
const CODE: u64 = 440;
/// Of another MBR, with the disk's signature behind it, by which Windows knows where it is.
const SIGNED: u64 = 446;
/// Without it firmware starts no disk.
const SIGNATURE: (Range<usize>, [u8; 2]) = (510..512, [0x55, 0xaa]);

/// The bytes of a copy that a disk with its own table gets, in order.
#[derive(Debug, Default)]
pub struct OwnTable(Vec<Extent>);

impl OwnTable {
    /// Of this copy, on a disk with this table.
    ///
    /// # Errors
    /// The copy's partitions are not where the disk has its own.
    pub fn of(copy: &Disk, table: &Bare) -> Result<Self, String> {
        let areas = || copy.areas.iter().filter(|area| area.number > 0);
        if areas().next().is_none() {
            return Err("what is sent has no partitions".to_string());
        }
        // A type of a GPT is a UUID.
        let gpt = areas().any(|area| area.texts[0].len() > 2);
        let kind = if gpt { TableKind::Gpt } else { TableKind::Dos };
        if kind != table.kind {
            return Err(format!(
                "is of the kind {}, what is sent is {}",
                table.kind.name(),
                kind.name()
            ));
        }
        let mut all = Extents::default();
        for area in areas() {
            let own = table.partitions.iter().find(|(number, ..)| *number == area.number);
            match own {
                Some((_, start, length)) if *start == area.start && *length >= area.length => {}
                Some((number, start, length)) => {
                    return Err(format!(
                        "has {length} bytes from byte {start} on for partition {number}, what is sent \
                         needs {} from {} on",
                        area.length, area.start
                    ));
                }
                None => return Err(format!("has no partition {}", area.number)),
            }
            all.add(area.start, area.length);
        }
        let starts = table.partitions.iter().map(|(_, start, _)| *start);
        let first = starts.min().unwrap_or(0);
        let table_end = table.sectors.iter().map(Extent::end).filter(|end| *end <= first).max();
        let free = table_end.unwrap_or(first);
        all.add(0, if gpt { CODE } else { SIGNED });
        all.add(free, first - free);
        Ok(Self(all.finish()))
    }

    /// What it gets of this extent.
    #[must_use]
    pub fn gets(&self, of: Extent) -> Vec<Extent> {
        let part = |extent: &Extent| {
            let (start, end) = (extent.start.max(of.start), extent.end().min(of.end()));
            (start < end).then(|| Extent { start, length: end - start })
        };
        self.0.iter().filter_map(part).collect()
    }

    /// Puts the mark of an interrupted copy in the place of boot code alone.
    pub fn mark(&self, first: &mut [u8], mark: &[u8]) {
        let code = usize::try_from(CODE).unwrap_or(0);
        first.iter_mut().zip(mark).take(code).for_each(|(to, from)| *to = *from);
        first.get_mut(SIGNATURE.0).unwrap_or_default().fill(0);
    }

    /// What makes firmware start the disk is there again.
    pub fn boots(&self, first: &mut [u8]) {
        let place = first.get_mut(SIGNATURE.0).unwrap_or_default();
        place.iter_mut().zip(SIGNATURE.1).for_each(|(to, from)| *to = from);
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::Area;
    use super::*;

    fn disk(kind: &str, areas: &[(u32, u64, u64)]) -> Disk {
        let area = |(number, start, length): &(u32, u64, u64)| {
            let texts = [kind.to_string(), String::new(), String::new()];
            Area { number: *number, start: *start, length: *length, texts }
        };
        Disk::new("sda", 1 << 30, 512, areas.iter().map(area).collect(), &[])
    }

    fn bare(kind: TableKind, partitions: &[(u32, u64, u64)], sectors: &[(u64, u64)]) -> Bare {
        let sectors =
            sectors.iter().map(|(start, length)| Extent { start: *start, length: *length });
        Bare { kind, partitions: partitions.to_vec(), sectors: sectors.collect() }
    }

    #[test]
    fn tables_are_never_among_the_bytes_that_are_written() {
        let mib = 1 << 20;
        let dos = bare(
            TableKind::Dos,
            &[(1, mib, 9 * mib), (5, 12 * mib, mib), (2, 20 * mib, mib)],
            &[(0, 512), (11 * mib, 512)],
        );
        let copy = disk("07", &[(1, mib, 8 * mib), (5, 12 * mib, mib)]);
        let got = OwnTable::of(&copy, &dos).unwrap().0;
        let got: Vec<_> = got.iter().map(|extent| (extent.start, extent.end())).collect();
        assert_eq!(got, [(0, 446), (512, 9 * mib), (12 * mib, 13 * mib)]);
        let gpt =
            bare(TableKind::Gpt, &[(1, mib, mib)], &[(0, 512), (512, 33 * 512), (99 * mib, 512)]);
        let kind = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7";
        let got = OwnTable::of(&disk(kind, &[(1, mib, mib)]), &gpt).unwrap().0;
        let got: Vec<_> = got.iter().map(|extent| (extent.start, extent.end())).collect();
        assert_eq!(got, [(0, 440), (34 * 512, 2 * mib)]);
        for (wrong, says) in [
            (disk("07", &[]), "no partitions"),
            (disk("07", &[(3, mib, mib)]), "has no partition 3"),
            (disk("07", &[(1, 2 * mib, mib)]), "from byte 1048576 on for partition 1"),
            (disk("07", &[(5, 12 * mib, 2 * mib)]), "needs 2097152 from"),
            (disk(kind, &[(1, mib, mib)]), "is of the kind dos"),
        ] {
            let why = OwnTable::of(&wrong, &dos).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
        let extent = |start, length| Extent { start, length };
        let own = OwnTable(Vec::from([extent(0, 5), extent(8, 9)]));
        assert_eq!(own.gets(extent(3, 7)), [extent(3, 2), extent(8, 2)]);
    }
}
