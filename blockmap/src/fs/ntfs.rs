//! NTFS (the layout as in the Linux kernel's `fs/ntfs3/ntfs.h`): the file `$Bitmap`, record 6 of
//! the master file table, has a bit for each cluster.
//!
//! The copy of the boot sector is behind the last cluster; the rest of the partition is in use.

use super::map::Map;
use crate::bytes::{bit, field, le16, le32, le64, u8_at};
use crate::raw::Raw;
use crate::read::{ReadAt, Window};
use alloc::vec;
use alloc::vec::Vec;

const LOG_FILE: u64 = 2;
const VOLUME: u64 = 3;
const BITMAP: u64 = 6;

const LIST: u32 = 0x20;
const INFORMATION: u32 = 0x70;
const DATA: u32 = 0x80;
const LAST: u32 = u32::MAX;

/// Runs of one file, and bytes of an attribute list: far more than a bitmap has.
const MOST_RUNS: usize = 1 << 18;
const MOST_LIST: u64 = 1 << 20;
/// Bytes of the bitmap that are read at once.
const PIECE: u64 = 64 << 10;
const DAMAGED: Raw = Raw::Damaged("a record of its master file table");

/// Some clusters of a file.
#[derive(Clone, Copy)]
struct Run {
    /// The first cluster in the file.
    file: u64,
    /// The first cluster on the disk; nothing for a hole.
    disk: Option<u64>,
    clusters: u64,
}

struct Volume {
    cluster: u64,
    clusters: u64,
    record: usize,
    /// Where the master file table is.
    table: Vec<Run>,
}

pub fn read(window: &mut Window<'_>) -> Result<Map, Raw> {
    let boot = window.bytes(0, 512)?;
    let sector = u64::from(le16(&boot, 11));
    let shift = |byte: u8| 1_u64.checked_shl(256 - u32::from(byte)).unwrap_or(0);
    let per_cluster = match u8_at(&boot, 13) {
        byte @ 0..=0x80 => u64::from(byte),
        byte => shift(byte),
    };
    let cluster = sector.saturating_mul(per_cluster);
    let record = match u8_at(&boot, 64) {
        byte @ 0..0x80 => u64::from(byte).saturating_mul(cluster),
        byte => shift(byte),
    };
    let sane = |n: u64, from: u64, to: u64| n.is_power_of_two() && (from..=to).contains(&n);
    if !sane(sector, 512, 4096) || !sane(cluster, 512, 2 << 20) || !sane(record, 512, 64 << 10) {
        return Err(Raw::Damaged("the numbers of its boot sector"));
    }
    let total = le64(&boot, 40);
    let clusters = total / per_cluster;
    let size = Raw::fits(total.checked_mul(sector).filter(|_| clusters > 0), window)?;
    let first = Run { file: 0, disk: Some(le64(&boot, 48)), clusters: clusters.min(1 << 20) };
    let (record, table) = (record as usize, vec![first]);
    let mut volume = Volume { cluster, clusters, record, table };
    // The beginning of the table is in one piece; what it says of itself has the rest.
    let zero = volume.record(window, 0)?;
    volume.table = volume.runs(window, &zero, 0)?.0;
    ended(window, &volume)?;
    let mut map = Map::new("ntfs", clusters * cluster);
    map.used.add(0, (16 * sector).min(size));
    let bitmap = volume.record(window, BITMAP)?;
    let (runs, length) = volume.runs(window, &bitmap, BITMAP)?;
    if length < clusters.div_ceil(8) {
        return Err(Raw::Damaged("its bitmap is too short"));
    }
    let mut at = 0;
    while at < clusters.div_ceil(8) {
        let piece = PIECE.min(clusters.div_ceil(8) - at);
        let bytes = volume.content(window, &runs, at, piece as usize)?;
        for index in 0..(piece * 8).min(clusters - at * 8) {
            if bit(&bytes, index as usize) {
                map.used.add((at * 8 + index) * cluster, cluster);
            }
        }
        at += piece;
    }
    Ok(map)
}

/// Whether Windows has ended it: the mark of the volume, and the log.
fn ended(window: &mut Window<'_>, volume: &Volume) -> Result<(), Raw> {
    let record = volume.record(window, VOLUME)?;
    let information = attributes(&record).find(|a| le32(a, 0) == INFORMATION).ok_or(DAMAGED)?;
    let value = resident(information);
    match (u8_at(value, 8), u8_at(value, 9)) {
        (1, 2) | (3, 0 | 1) => {}
        (major, minor) => {
            let bits = u64::from(major) << 8 | u64::from(minor);
            return Err(Raw::Feature { field: "version", bits });
        }
    }
    if le16(value, 10) & 1 != 0 {
        return Err(Raw::Unclean("it has the mark that Windows must check it"));
    }
    let log = volume.record(window, LOG_FILE)?;
    let (runs, _) = volume.runs(window, &log, LOG_FILE)?;
    let head = volume.content(window, &runs, 0, 4096)?;
    // Emptied, as mkntfs and ntfs-3g leave it.
    if head.iter().all(|byte| *byte == 0xff) {
        return Ok(());
    }
    let page = le32(&head, 16);
    if !head.starts_with(b"RSTR") || !(512..=64 << 10).contains(&page) {
        return Err(Raw::Unclean("its log has no beginning that is understood"));
    }
    let second = volume.content(window, &runs, u64::from(page), 4096)?;
    let state = |page: &[u8]| {
        let area = page.get(usize::from(le16(page, 24))..).unwrap_or_default();
        page.starts_with(b"RSTR")
            .then(|| (le64(area, 0), le16(area, 12) == u16::MAX || le16(area, 14) & 2 != 0))
    };
    match state(&head).max(state(&second)) {
        Some((_, true)) => Ok(()),
        _ => Err(Raw::Unclean("Windows has not ended it: hibernated, started fast, or cut off")),
    }
}

impl Volume {
    /// A record of the table, as it was before its last bytes of sectors were put aside.
    fn record(&self, window: &mut Window<'_>, number: u64) -> Result<Vec<u8>, Raw> {
        let at = number.checked_mul(self.record as u64).ok_or(DAMAGED)?;
        let mut record = self.content(window, &self.table, at, self.record)?;
        let (from, count) = (usize::from(le16(&record, 4)), usize::from(le16(&record, 6)));
        // The unit is 512 bytes, whatever the sectors are.
        if !record.starts_with(b"FILE") || count != self.record / 512 + 1 {
            return Err(DAMAGED);
        }
        let kept = field(&record, from, count * 2).to_vec();
        let (own, rest) = kept.split_first_chunk::<2>().ok_or(DAMAGED)?;
        for (unit, bytes) in record.chunks_mut(512).zip(rest.chunks(2)) {
            match unit.last_chunk_mut::<2>().zip(bytes.first_chunk::<2>()) {
                Some((end, bytes)) if end == own => *end = *bytes,
                _ => return Err(DAMAGED),
            }
        }
        Ok(record)
    }

    /// Where the unnamed data of a file are, and how many bytes they have.
    fn runs(
        &self,
        window: &mut Window<'_>,
        record: &[u8],
        own: u64,
    ) -> Result<(Vec<Run>, u64), Raw> {
        let mut runs = Vec::new();
        let mut length = None;
        let mut take = |attribute: &[u8]| {
            if le16(attribute, 12) & 0xff != 0 || u8_at(attribute, 8) == 0 {
                return Err(Raw::Form("a map of clusters that is compressed or resident"));
            }
            if le64(attribute, 16) == 0 {
                length = Some(le64(attribute, 48));
            }
            decode(attribute, self.clusters, &mut runs)
        };
        let is_data = |a: &&[u8]| le32(a, 0) == DATA && u8_at(a, 9) == 0;
        let list = attributes(record).find(|a| le32(a, 0) == LIST);
        match list {
            None => attributes(record).filter(is_data).try_for_each(&mut take)?,
            Some(list) => {
                let list = match u8_at(list, 8) {
                    0 => resident(list).to_vec(),
                    _ => {
                        let mut runs = Vec::new();
                        decode(list, self.clusters, &mut runs)?;
                        let length = le64(list, 48).min(MOST_LIST);
                        self.content(window, &runs, 0, length as usize)?
                    }
                };
                let mut rest = list.as_slice();
                let mut seen = Vec::new();
                while rest.len() >= 26 {
                    let length = usize::from(le16(rest, 4));
                    if length < 26 {
                        return Err(DAMAGED);
                    }
                    let holder = le64(rest, 16) & 0xffff_ffff_ffff;
                    let wanted = le32(rest, 0) == DATA && u8_at(rest, 6) == 0;
                    rest = rest.get(length..).unwrap_or_default();
                    if !wanted || seen.contains(&holder) {
                        continue;
                    }
                    seen.push(holder);
                    if holder == own {
                        attributes(record).filter(is_data).try_for_each(&mut take)?;
                    } else {
                        let other = self.record(window, holder)?;
                        attributes(&other).filter(is_data).try_for_each(&mut take)?;
                    }
                }
            }
        }
        runs.sort_by_key(|run: &Run| run.file);
        let whole = runs.iter().try_fold(0, |at, run| (run.file == at).then(|| at + run.clusters));
        let length = length.ok_or(DAMAGED)?;
        let held = whole.ok_or(DAMAGED)?.checked_mul(self.cluster).ok_or(DAMAGED)?;
        if held < length { Err(DAMAGED) } else { Ok((runs, length)) }
    }

    /// Some bytes of a file.
    fn content(
        &self,
        window: &mut Window<'_>,
        runs: &[Run],
        mut at: u64,
        length: usize,
    ) -> Result<Vec<u8>, Raw> {
        let mut bytes = vec![0; length];
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            let (wanted, inside) = (at / self.cluster, at % self.cluster);
            let run =
                runs.iter().find(|run| wanted >= run.file && wanted - run.file < run.clusters);
            let run = run.ok_or(DAMAGED)?;
            let left = (run.clusters - (wanted - run.file)) * self.cluster - inside;
            let some = left.min(rest.len() as u64) as usize;
            let (part, more) = rest.split_at_mut_checked(some).ok_or(DAMAGED)?;
            if let Some(disk) = run.disk {
                let cluster = disk.checked_add(wanted - run.file).ok_or(DAMAGED)?;
                let byte = cluster.checked_mul(self.cluster).ok_or(DAMAGED)?;
                window.read_at(byte.saturating_add(inside), part)?;
            }
            (rest, at) = (more, at + some as u64);
        }
        Ok(bytes)
    }
}

/// The attributes of a record.
fn attributes(record: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = record.get(usize::from(le16(record, 20))..).unwrap_or_default();
    core::iter::from_fn(move || {
        let length = le32(rest, 4) as usize;
        if rest.len() < 24 || le32(rest, 0) == LAST || length < 24 {
            return None;
        }
        let (one, more) = rest.split_at_checked(length)?;
        rest = more;
        Some(one)
    })
}

/// The value of an attribute that is in the record itself.
fn resident(attribute: &[u8]) -> &[u8] {
    field(attribute, usize::from(le16(attribute, 20)), le32(attribute, 16) as usize)
}

/// The runs of an attribute: for each a byte that says how long length and place are.
fn decode(attribute: &[u8], clusters: u64, runs: &mut Vec<Run>) -> Result<(), Raw> {
    let mut rest = attribute.get(usize::from(le16(attribute, 32))..).unwrap_or_default();
    let (mut file, mut disk) = (le64(attribute, 16), 0_i64);
    while let Some((head, more)) = rest.split_first().filter(|(head, _)| **head != 0) {
        let (count, place) = (usize::from(head & 15), usize::from(head >> 4));
        let (length, more) = more.split_at_checked(count).ok_or(DAMAGED)?;
        let (offset, more) = more.split_at_checked(place).ok_or(DAMAGED)?;
        let number = |bytes: &[u8], start: i64| {
            (bytes.len() <= 8)
                .then(|| bytes.iter().rev().fold(start, |n, byte| n << 8 | i64::from(*byte)))
        };
        let length = number(length, 0).and_then(|n| u64::try_from(n).ok()).ok_or(DAMAGED)?;
        let negative = offset.last().is_some_and(|byte| byte & 0x80 != 0);
        let step = number(offset, if negative { -1 } else { 0 }).ok_or(DAMAGED)?;
        disk = disk.checked_add(step).ok_or(DAMAGED)?;
        let at = u64::try_from(disk).map_err(|_| DAMAGED)?;
        let inside = place == 0 || at.checked_add(length).is_some_and(|end| end <= clusters);
        if length == 0 || length > clusters || !inside || runs.len() >= MOST_RUNS {
            return Err(DAMAGED);
        }
        runs.push(Run { file, disk: (place > 0).then_some(at), clusters: length });
        file = file.checked_add(length).ok_or(DAMAGED)?;
        rest = more;
    }
    Ok(())
}
