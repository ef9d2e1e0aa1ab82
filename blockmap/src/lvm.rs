//! LVM2 physical volumes (`lvm2`, `lib/format_text/layout.h`): a text says which extents belong to
//! which logical volume.
//!
//! A logical volume that lies in whole pieces on this one disk is read as a disk of its own.
//! Every other one (thin pools, RAID, caches, snapshots' stores, volumes on several disks) is in
//! use as a whole. What belongs to no volume is free.

use crate::bytes::{field, le32, le64};
use crate::extents::Extents;
use crate::fs::Map;
use crate::raw::Raw;
use crate::read::{ReadAt, ReadError, Window};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

const SECTOR: u64 = 512;
/// The text of a group of volumes; lvm2 itself makes areas of a megabyte.
const MOST_TEXT: u64 = 16 << 20;
/// Values and sections of the text.
const MOST_VALUES: usize = 1 << 20;
const DAMAGED: Raw = Raw::Damaged("the description of its volumes");

/// Reads what one logical volume holds.
pub type Inside<'i> = &'i mut dyn FnMut(&mut Window<'_>) -> Result<Map, Raw>;

/// A logical volume of plain pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logical {
    /// Its name in the group.
    pub name: String,
    /// In its order: first byte of the partition, and bytes.
    pub pieces: Vec<(u64, u64)>,
}

/// A logical volume's pieces on the disk.
struct Volume<'d> {
    disk: &'d mut dyn ReadAt,
    /// First byte on the disk, and bytes.
    pieces: Vec<(u64, u64)>,
}

impl ReadAt for Volume<'_> {
    fn size(&self) -> u64 {
        self.pieces.iter().fold(0, |sum, piece| sum.saturating_add(piece.1))
    }

    fn read_at(&mut self, mut at: u64, mut buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len() as u64;
        let outside = ReadError { at, length };
        for (start, length) in &self.pieces {
            if at >= *length {
                at -= length;
                continue;
            }
            let some = (length - at).min(buffer.len() as u64) as usize;
            let (part, rest) = buffer.split_at_mut_checked(some).ok_or(outside)?;
            self.disk.read_at(start.saturating_add(at), part)?;
            (buffer, at) = (rest, 0);
            if buffer.is_empty() {
                return Ok(());
            }
        }
        if buffer.is_empty() { Ok(()) } else { Err(outside) }
    }

    fn sector(&self) -> u64 {
        self.disk.sector()
    }
}

pub fn read(window: &mut Window<'_>, inside: Inside<'_>) -> Result<Map, Raw> {
    let mut map = Map::new("LVM", window.size());
    for (Logical { name, pieces }, whole) in volumes(window, &mut map)? {
        logical(window, &name, pieces, whole, inside, &mut map);
    }
    Ok(map)
}

/// The logical volumes of a partition, given by its first byte and its bytes, that lie in it as a
/// whole, in plain pieces. What cannot be read has none.
pub fn logical_volumes(disk: &mut dyn ReadAt, start: u64, length: u64) -> Vec<Logical> {
    let mut window = Window::new(disk, start, length);
    let mut map = Map::new("LVM", window.size());
    let all = volumes(&mut window, &mut map).unwrap_or_default();
    all.into_iter().filter(|(_, whole)| *whole).map(|(volume, _)| volume).collect()
}

/// All logical volumes with pieces here, and whether these are plain ones and all that it has;
/// what is in use besides them goes into the map.
fn volumes(window: &mut Window<'_>, map: &mut Map) -> Result<Vec<(Logical, bool)>, Raw> {
    let label = window.bytes(SECTOR, SECTOR as usize)?;
    if !label.starts_with(b"LABELONE") || field(&label, 24, 8) != b"LVM2 001" {
        return Err(Raw::Form("a label of another version"));
    }
    let header = label.get(le32(&label, 20) as usize..).unwrap_or_default();
    let own = field(header, 0, 32);
    // Two lists of places and lengths, each behind zeros: data, then descriptions.
    let mut list = header.get(40..).unwrap_or_default().chunks_exact(16);
    let mut area = || list.next().map(|a| (le64(a, 0), le64(a, 8))).filter(|a| a.0 != 0);
    while area().is_some() {}
    let mut text = None;
    while let Some((at, length)) = area() {
        map.used.add(at, length);
        if text.is_none() {
            text = Some(description(window, at, length)?);
        }
    }
    let text = text.ok_or(Raw::Form("its description on another disk"))?;
    let group = parse(&text)?;
    let id = |value: &str| value.bytes().filter(|b| *b != b'-').eq(own.iter().copied());
    let disk = group
        .section("physical_volumes")
        .and_then(|all| all.sections().find(|(_, one)| one.text("id").is_some_and(id)));
    let (name, disk) = disk.ok_or(DAMAGED)?;
    let extent = group.number("extent_size").and_then(|n| n.checked_mul(SECTOR));
    let start = disk.number("pe_start").and_then(|n| n.checked_mul(SECTOR));
    let count = disk.number("pe_count");
    let (Some(extent), Some(start), Some(count)) = (extent, start, count) else {
        return Err(DAMAGED);
    };
    let end = count.checked_mul(extent).and_then(|n| n.checked_add(start));
    let end = end.filter(|end| *end <= window.size() && extent > 0).ok_or(DAMAGED)?;
    map.used.add(0, start);
    map.size = end;
    let mut found = Vec::new();
    for (label, volume) in group.section("logical_volumes").into_iter().flat_map(Value::sections) {
        let mut pieces = Vec::new();
        let mut whole = volume.list("status").any(|s| s.text_value() == Some("VISIBLE"));
        let mut segments: Vec<&Value> =
            volume.sections().filter(|(n, _)| n.starts_with("segment")).map(|(_, v)| v).collect();
        segments.sort_by_key(|segment| segment.number("start_extent"));
        let mut at = 0;
        for segment in segments {
            let count = segment.number("extent_count").ok_or(DAMAGED)?;
            let linear = segment.text("type") == Some("striped")
                && segment.number("stripe_count") == Some(1)
                && segment.number("start_extent") == Some(at);
            whole &= linear;
            at = at.saturating_add(count);
            let stripes: Vec<&Value> = segment.list("stripes").collect();
            let share = count.div_ceil((stripes.len() as u64 / 2).max(1));
            for pair in stripes.chunks_exact(2) {
                let [of, first] = pair else { continue };
                if of.text_value() != Some(name) {
                    whole = false;
                    continue;
                }
                let place = first.number_value().and_then(|n| n.checked_mul(extent));
                let bytes = share.checked_mul(extent).ok_or(DAMAGED)?;
                let place = place.and_then(|p| p.checked_add(start)).ok_or(DAMAGED)?;
                if place.checked_add(bytes).is_none_or(|e| e > end) {
                    return Err(DAMAGED);
                }
                pieces.push((place, bytes));
            }
        }
        if !pieces.is_empty() {
            found.push((Logical { name: label.to_string(), pieces }, whole));
        }
    }
    Ok(found)
}

/// Adds what of one logical volume is in use.
fn logical(
    window: &mut Window<'_>,
    name: &str,
    pieces: Vec<(u64, u64)>,
    whole: bool,
    inside: Inside<'_>,
    map: &mut Map,
) {
    let mut volume = Volume { disk: window, pieces };
    let size = volume.size();
    let found = match whole {
        true => inside(&mut Window::new(&mut volume, 0, size)),
        false => Err(Raw::Form("pieces that are not plain ones of this disk")),
    };
    let mut own = Extents::default();
    match found {
        Ok(found) => {
            map.notes.push(format!("logical volume {name}: {}", found.name));
            map.notes
                .extend(found.notes.iter().map(|note| format!("logical volume {name}: {note}")));
            found.used.finish().iter().for_each(|e| own.add(e.start, e.length));
            own.add(found.size, size.saturating_sub(found.size));
        }
        Err(raw) => {
            map.notes.push(format!("all of logical volume {name} is copied: {raw}"));
            own.add(0, size);
        }
    }
    let (mut pieces, mut at) = (volume.pieces.into_iter(), 0);
    let mut piece = pieces.next();
    let own = own.finish();
    let mut extents = own.iter().copied();
    let mut extent = extents.next();
    while let (Some((start, length)), Some(one)) = (piece, extent) {
        let (from, to) = (one.start.max(at), one.end().min(at + length));
        if from < to {
            map.used.add(start + (from - at), to - from);
        }
        if one.end() <= at + length {
            extent = extents.next();
        } else {
            at += length;
            piece = pieces.next();
        }
    }
}

/// The newest text of a metadata area, which is a ring behind its first sector.
fn description(window: &mut Window<'_>, at: u64, length: u64) -> Result<String, Raw> {
    let head = window.bytes(at, SECTOR as usize)?;
    if field(&head, 4, 16) != b" LVM2 x[5A%r0N*>" || le32(&head, 20) != 1 {
        return Err(DAMAGED);
    }
    let (offset, bytes) = (le64(&head, 40), le64(&head, 48));
    if offset < SECTOR || offset >= length || bytes > length - SECTOR || bytes > MOST_TEXT {
        return Err(DAMAGED);
    }
    let first = bytes.min(length - offset);
    let mut text = window.bytes(at.saturating_add(offset), first as usize)?;
    text.extend(window.bytes(at.saturating_add(SECTOR), (bytes - first) as usize)?);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A value of the text.
#[derive(Debug)]
enum Value {
    Number(u64),
    Text(String),
    List(Vec<Value>),
    Section(Vec<(String, Value)>),
}

impl Value {
    fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Section(all) => all.iter().find(|(n, _)| n == name).map(|(_, value)| value),
            _ => None,
        }
    }

    fn section(&self, name: &str) -> Option<&Self> {
        self.get(name).filter(|value| matches!(value, Self::Section(_)))
    }

    fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        let all = match self {
            Self::Section(all) => all.as_slice(),
            _ => &[],
        };
        all.iter()
            .filter(|(_, value)| matches!(value, Self::Section(_)))
            .map(|(name, value)| (name.as_str(), value))
    }

    fn list(&self, name: &str) -> impl Iterator<Item = &Self> {
        let all = match self.get(name) {
            Some(Self::List(all)) => all.as_slice(),
            _ => &[],
        };
        all.iter()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(Self::number_value)
    }

    const fn number_value(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Self::text_value)
    }

    fn text_value(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// The section of the group of volumes.
fn parse(text: &str) -> Result<Value, Raw> {
    let mut parser = Parser { rest: text, left: MOST_VALUES };
    let all = parser.section(0)?;
    let group = all.sections().next().map(|(name, _)| name.to_string()).ok_or(DAMAGED)?;
    match all {
        Value::Section(all) => {
            all.into_iter().find(|(name, _)| *name == group).map(|(_, value)| value).ok_or(DAMAGED)
        }
        _ => Err(DAMAGED),
    }
}

struct Parser<'t> {
    rest: &'t str,
    left: usize,
}

impl Parser<'_> {
    fn blanks(&mut self) {
        loop {
            self.rest = self.rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\0');
            let Some(comment) = self.rest.strip_prefix('#') else { return };
            self.rest = comment.find('\n').and_then(|at| comment.get(at..)).unwrap_or_default();
        }
    }

    fn takes(&mut self, sign: char) -> bool {
        self.blanks();
        match self.rest.strip_prefix(sign) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> String {
        let end = |c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '+' | '.' | '/'));
        let (word, rest) = self
            .rest
            .split_at_checked(self.rest.find(end).unwrap_or(self.rest.len()))
            .unwrap_or_default();
        self.rest = rest;
        word.to_string()
    }

    /// Names with values or sections, up to a brace or the end.
    fn section(&mut self, depth: u32) -> Result<Value, Raw> {
        let mut all = Vec::new();
        loop {
            self.blanks();
            if self.rest.is_empty() && depth == 0 || depth > 0 && self.takes('}') {
                return Ok(Value::Section(all));
            }
            let name = self.word();
            self.left = self.left.checked_sub(1).ok_or(DAMAGED)?;
            if name.is_empty() || depth > 8 {
                return Err(DAMAGED);
            }
            let value = match self.takes('{') {
                true => self.section(depth + 1)?,
                false if self.takes('=') => self.value()?,
                false => return Err(DAMAGED),
            };
            all.push((name, value));
        }
    }

    fn value(&mut self) -> Result<Value, Raw> {
        if !self.takes('[') {
            return self.single();
        }
        let mut all = Vec::new();
        while !self.takes(']') {
            self.left = self.left.checked_sub(1).ok_or(DAMAGED)?;
            all.push(self.single()?);
            let _ = self.takes(',');
        }
        Ok(Value::List(all))
    }

    fn single(&mut self) -> Result<Value, Raw> {
        if self.takes('"') {
            let mut text = String::new();
            let mut signs = self.rest.char_indices();
            while let Some((at, sign)) = signs.next() {
                match sign {
                    '\\' => text.extend(signs.next().map(|(_, sign)| sign)),
                    '"' => {
                        self.rest = self.rest.get(at + 1..).unwrap_or_default();
                        return Ok(Value::Text(text));
                    }
                    sign => text.push(sign),
                }
            }
            return Err(DAMAGED);
        }
        self.blanks();
        let word = self.word();
        match word.parse() {
            _ if word.is_empty() => Err(DAMAGED),
            Ok(number) => Ok(Value::Number(number)),
            Err(_) => Ok(Value::Text(word)),
        }
    }
}
