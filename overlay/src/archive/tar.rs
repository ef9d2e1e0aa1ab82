//! tar: ustar, pax and GNU's additions.

use alloc::vec::Vec;

use super::entry::{ArchiveError, Dialect, Entry, Kind, Next, State, clean, target, text};

/// Size of a block.
const BLOCK: usize = 512;

/// Most extended attributes of one entry.
const MAX_ATTRIBUTES: usize = 64;

/// Data for the next entry, from extended headers.
#[derive(Debug, Default)]
pub struct Tar {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<i64>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Dialect for Tar {
    fn header_length(&self) -> usize {
        BLOCK
    }

    fn header(&mut self, bytes: &[u8]) -> Result<Next, ArchiveError> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Next::END);
        }
        let field = |at: usize, length: usize| bytes.get(at..at + length).unwrap_or_default();
        let spaces = bytes.iter().enumerate().map(|(at, byte)| match at {
            148..156 => u32::from(b' '),
            _ => u32::from(*byte),
        });
        if number(field(148, 8)) != u64::from(spaces.sum::<u32>()) {
            return Err(ArchiveError::Damaged("one of its checksums does not match"));
        }
        let length = number(field(124, 12));
        let kind = bytes.get(156).copied().unwrap_or_default();
        match kind {
            0 | b'0'..=b'7' => {}
            // For the next entry.
            b'L' | b'K' | b'x' => return Ok(after(None, State::Facts(kind), length)),
            b'S' | b'M' => {
                return Err(ArchiveError::Unsupported("a sparse file or a part of one"));
            }
            // For all entries; labels, directory dumps.
            _ => return Ok(after(None, State::Skip, length)),
        }
        let length = self.size.unwrap_or(length);
        let path = self.path.take().unwrap_or_else(|| {
            // GNU's variant has other things at the prefix's place.
            let prefix = if field(257, 6) == b"ustar\0" { text(field(345, 155)) } else { &[] };
            let name = text(field(0, 100));
            [prefix, if prefix.is_empty() { &[] } else { b"/" }, name].concat()
        });
        let link = self.link.take().unwrap_or_else(|| text(field(157, 100)).to_vec());
        let device = (small(number(field(329, 8))), small(number(field(337, 8))));
        // Old archives tell a directory by its name.
        let is_directory = kind == b'5' || (matches!(kind, b'0' | 0) && path.ends_with(b"/"));
        let kind = match kind {
            _ if is_directory => Kind::Directory,
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::Link(clean(&link)?),
            b'2' => Kind::Symlink(target(&link)?),
            b'3' => Kind::Character(device.0, device.1),
            b'4' => Kind::Block(device.0, device.1),
            _ => Kind::Fifo,
        };
        let data = matches!(kind, Kind::File);
        let entry = Entry {
            path: clean(&path)?,
            kind,
            mode: small(number(field(100, 8))) & 0o7777,
            uid: self.uid.unwrap_or_else(|| small(number(field(108, 8)))),
            gid: self.gid.unwrap_or_else(|| small(number(field(116, 8)))),
            mtime: self.mtime.unwrap_or_else(|| number(field(136, 12)).try_into().unwrap_or(0)),
            size: if data { length } else { 0 },
            attributes: core::mem::take(&mut self.attributes),
        };
        *self = Self::default();
        // A directory's size is meaningless: it has no data.
        let (state, length) = if data { (State::Data, length) } else { (State::Skip, 0) };
        Ok(after(Some(entry), state, length))
    }

    fn facts(&mut self, kind: u8, bytes: &[u8]) -> Result<Next, ArchiveError> {
        match kind {
            b'L' => self.path = Some(text(bytes).to_vec()),
            b'K' => self.link = Some(text(bytes).to_vec()),
            _ => {
                let mut rest = bytes;
                while let Some((record, later)) = record(rest) {
                    rest = later;
                    self.fact(record)?;
                }
            }
        }
        Ok(Next::HEADER)
    }
}

impl Tar {
    /// One record of an extended header, `key=value`.
    fn fact(&mut self, record: &[u8]) -> Result<(), ArchiveError> {
        let Some(at) = record.iter().position(|byte| *byte == b'=') else { return Ok(()) };
        let (key, value) = (record.get(..at).unwrap_or_default(), record.get(at + 1..));
        let value = value.unwrap_or_default();
        let decimal = || core::str::from_utf8(value).ok()?.split('.').next()?.parse::<i64>().ok();
        let id = || decimal().and_then(|id| u32::try_from(id).ok());
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            if self.attributes.len() < MAX_ATTRIBUTES {
                self.attributes.push((name.to_vec(), value.to_vec()));
            }
            return Ok(());
        }
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => {
                let size = decimal().and_then(|size| u64::try_from(size).ok());
                self.size =
                    Some(size.ok_or(ArchiveError::Damaged("the size of a file is malformed"))?);
            }
            b"uid" => self.uid = id(),
            b"gid" => self.gid = id(),
            b"mtime" => self.mtime = decimal(),
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(ArchiveError::Unsupported("a sparse file"));
            }
            _ => {}
        }
        Ok(())
    }
}

/// `LENGTH key=value\n`, LENGTH of all of it; the record without length and newline,
/// and what follows.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = core::str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
    let (record, later) = bytes.split_at_checked(length)?;
    Some((record.get(space + 1..)?.strip_suffix(b"\n")?, later))
}

/// Data and their padding to whole blocks.
fn after(entry: Option<Entry>, state: State, length: u64) -> Next {
    let padding = length.next_multiple_of(BLOCK as u64).saturating_sub(length);
    Next { entry, state, length, padding }
}

/// Octal digits; or, GNU's way, binary with the highest bit set. 0 when malformed.
fn number(field: &[u8]) -> u64 {
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        // Negative numbers are times before 1970.
        let start = if first & 0x40 != 0 { return 0 } else { u64::from(first & 0x3f) };
        return rest.iter().fold(start, |all, byte| all << 8 | u64::from(*byte));
    }
    let digits = field.iter().skip_while(|byte| **byte == b' ');
    let digits = digits.take_while(|byte| (b'0'..=b'7').contains(*byte));
    digits.fold(0, |all, digit| all << 3 | u64::from(digit - b'0'))
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Writes a header's checksum.
    pub fn sum(bytes: &mut [u8]) {
        bytes[148..156].fill(b' ');
        let sum: u32 = bytes[..BLOCK].iter().map(|byte| u32::from(*byte)).sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    /// An archive with one file.
    pub fn file(name: &[u8], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        bytes[..name.len()].copy_from_slice(name);
        bytes[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        bytes[156] = b'0';
        bytes[257..263].copy_from_slice(b"ustar\0");
        sum(&mut bytes);
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
        bytes
    }

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), 0o644);
        assert_eq!(number(b"   17 \0"), 0o17);
        assert_eq!(number(&[0x80, 0, 0, 1, 0]), 256);
        assert_eq!(number(&[0xff; 12]), 0);
        assert_eq!(number(b"junk"), 0);
    }

    #[test]
    fn records() {
        assert_eq!(record(b"11 path=ab\n6 a=\n"), Some((&b"path=ab"[..], &b"6 a=\n"[..])));
        assert_eq!(record(b"99 path=ab\n"), None);
        assert_eq!(record(b"x"), None);
    }
}
