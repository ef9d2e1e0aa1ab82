//! Images of one file system that other programs made: partclone's (version 2) and ntfsclone's
//! (version 10). They are only read.
//!
//! Both are streams: [`Foreign::next`] gives the pieces of the partition in their order, and
//! compares the checksums that a stream has. Facts: partclone's `IMAGE_FORMATS.md` and images of
//! partclone 0.3.23, ntfsclone(8) and images of ntfs-3g 2022.10.3.
//!
//! Not read: partclone's version 1, its bitmap of one byte a block, XXH64 and XXH128 (those are
//! not compared), ntfsclone before version 10.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

/// Fills all of the buffer with what comes next; false at the end of the stream, when there is
/// nothing more.
pub type Input<'i> = dyn FnMut(&mut [u8]) -> Result<bool, String> + 'i;

/// What partclone's images begin with.
pub const PARTCLONE: &[u8] = b"partclone-image\0";
/// What ntfsclone's do.
pub const NTFSCLONE: &[u8] = b"\0ntfsclone-image";
/// Bytes that tell which of them it is.
pub const MAGIC: usize = 16;

/// The largest block of either.
const BLOCK: u32 = 2 << 20;
/// The most blocks: 512 MiB of a bitmap.
const BLOCKS: u64 = 1 << 32;
/// The most bytes of one piece.
const PIECE: u64 = 1 << 20;

/// An image that is being read.
#[derive(Debug)]
pub struct Foreign {
    /// What made it, and of which file system: for users.
    pub name: String,
    /// Bytes of the partition.
    pub size: u64,
    /// What users should know.
    pub notes: Vec<String>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Partclone(Partclone),
    /// Where it is, and how many clusters must come yet.
    Ntfsclone {
        cluster: u64,
        at: u64,
        left: u64,
    },
}

#[derive(Debug)]
struct Partclone {
    block: u64,
    /// One bit a block; empty when all are there.
    bitmap: Vec<u8>,
    blocks: u64,
    at: u64,
    /// CRC-32 of what is read; nothing when it is not compared.
    crc: Option<u32>,
    table: Crc,
    /// Bytes of a checksum, and blocks between two of them; 0 for none.
    sum: usize,
    every: u64,
    since: u64,
    reseed: bool,
}

/// An exact number of bytes that must come.
fn need(input: &mut Input<'_>, bytes: usize) -> Result<Vec<u8>, String> {
    let mut all = vec![0; bytes];
    match input(&mut all)? {
        true => Ok(all),
        false => Err(CUT.to_string()),
    }
}

const CUT: &str = "is cut short";

fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let some = bytes.get(at..).unwrap_or_default().iter().take(length).rev();
    some.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// CRC-32 without its last inversion: as partclone stores it.
#[derive(Debug)]
struct Crc(Vec<u32>);

impl Crc {
    fn new() -> Self {
        let bit = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        Self((0..256).map(|n| (0..8).fold(n, bit)).collect())
    }

    fn of(&self, start: u32, bytes: &[u8]) -> u32 {
        bytes.iter().fold(start, |crc, byte| {
            let at = (crc ^ u32::from(*byte)) & 0xff;
            crc >> 8 ^ self.0.get(at as usize).copied().unwrap_or(0)
        })
    }
}

impl Foreign {
    /// Reads the head, after [`MAGIC`] bytes that were read before.
    ///
    /// # Errors
    /// It is no such image, or one that is not read here.
    pub fn new(magic: &[u8], input: &mut Input<'_>) -> Result<Self, String> {
        if magic == PARTCLONE {
            Self::partclone(input)
        } else if magic == NTFSCLONE {
            Self::ntfsclone(input)
        } else {
            Err("is no image of partclone or ntfsclone".to_string())
        }
    }

    fn partclone(input: &mut Input<'_>) -> Result<Self, String> {
        let mut head = PARTCLONE.to_vec();
        head.extend(need(input, 110 - MAGIC)?);
        let (version, order) = (head.get(30..34), number(&head, 34, 2));
        if version != Some(b"0002") || order != 0xc0de {
            return Err("is an image of partclone before version 0.3, or of a machine of other \
                        byte order; restore it with partclone"
                .to_string());
        }
        let table = Crc::new();
        if u64::from(table.of(!0, head.get(..106).unwrap_or_default())) != number(&head, 106, 4) {
            return Err("is damaged: its head has another checksum".to_string());
        }
        let name = head.get(36..52).unwrap_or_default();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name: String =
            name.iter().filter(|b| b.is_ascii_graphic()).map(|b| char::from(*b)).collect();
        let (size, blocks) = (number(&head, 52, 8), number(&head, 60, 8));
        let (block, mode) = (number(&head, 84, 4), number(&head, 96, 2));
        let (sum, every) = (number(&head, 98, 2), number(&head, 100, 4));
        let (reseed, map) = (number(&head, 104, 1) != 0, number(&head, 105, 1));
        if block == 0 || block > u64::from(BLOCK) || blocks > BLOCKS || sum > 64 {
            return Err("is damaged: its head has numbers that cannot be".to_string());
        }
        let mut notes = Vec::new();
        let crcs = match (mode, sum) {
            (0, _) => false,
            (0x20, 4) => true,
            (0x30 | 0x31, _) => {
                notes.push("its checksums are XXH, which are not compared here".to_string());
                false
            }
            _ => return Err("has checksums of a kind that is not known here".to_string()),
        };
        let (sum, every) = if mode == 0 { (0, 0) } else { (sum, every) };
        let bitmap = match map {
            0 => Vec::new(),
            1 => {
                let length = usize::try_from(blocks.div_ceil(8)).unwrap_or(usize::MAX);
                // No more memory than bytes that come.
                let mut bitmap = Vec::new();
                while bitmap.len() < length {
                    bitmap.extend(need(input, (length - bitmap.len()).min(1 << 20))?);
                }
                let own = number(&need(input, 4)?, 0, 4);
                if u64::from(table.of(!0, &bitmap)) != own {
                    return Err("is damaged: its bitmap has another checksum".to_string());
                }
                bitmap
            }
            _ => return Err("has a bitmap of bytes; restore it with partclone".to_string()),
        };
        let kind = Kind::Partclone(Partclone {
            block,
            bitmap,
            blocks,
            at: 0,
            crc: crcs.then_some(!0),
            table,
            sum: usize::try_from(sum).unwrap_or(0),
            every,
            since: 0,
            reseed,
        });
        // The last block may be longer than the partition, and a file system shorter.
        let size = size.max(blocks.saturating_mul(block));
        Ok(Self { name: format!("partclone's image of {name}"), size, notes, kind })
    }

    fn ntfsclone(input: &mut Input<'_>) -> Result<Self, String> {
        let head = need(input, 50 - MAGIC)?;
        // Major and minor version, the rest without gaps.
        if number(&head, 0, 1) != 10 {
            return Err("is an image of an ntfsclone before 2007; restore it with ntfsclone".into());
        }
        let (cluster, size, clusters) =
            (number(&head, 2, 4), number(&head, 6, 8), number(&head, 14, 8));
        let offset = number(&head, 30, 4);
        if !(512..=u64::from(BLOCK)).contains(&cluster)
            || clusters.checked_mul(cluster).is_none_or(|all| all > size)
            || clusters > BLOCKS
            || size - clusters * cluster > cluster
            || !(50..=4096).contains(&offset)
        {
            return Err("is damaged: its head has numbers that cannot be".to_string());
        }
        need(input, usize::try_from(offset).unwrap_or(0).saturating_sub(50))?;
        let kind = Kind::Ntfsclone { cluster, at: 0, left: number(&head, 22, 8) };
        Ok(Self { name: "ntfsclone's image of NTFS".to_string(), size, notes: Vec::new(), kind })
    }

    /// The next piece: its first byte in the partition, and its bytes. Nothing at the end, when
    /// all came.
    ///
    /// # Errors
    /// The stream is cut short or damaged.
    pub fn next(&mut self, input: &mut Input<'_>) -> Result<Option<(u64, Vec<u8>)>, String> {
        match &mut self.kind {
            Kind::Partclone(image) => image.next(input),
            Kind::Ntfsclone { cluster, at, left } => loop {
                let mut command = [0];
                if !input(&mut command)? {
                    // The backup boot sector is not counted.
                    return if *left == 0 { Ok(None) } else { Err(CUT.to_string()) };
                }
                let start = at.saturating_mul(*cluster);
                match command {
                    [0] => {
                        let gap = number(&need(input, 8)?, 0, 8);
                        *at = at.checked_add(gap).filter(|at| *at <= BLOCKS).ok_or(BACK)?;
                    }
                    // The last one is what is left of the partition: the backup boot sector.
                    [1] if start < self.size => {
                        (*at, *left) = (*at + 1, left.saturating_sub(1));
                        let length = (self.size - start).min(*cluster);
                        let length = usize::try_from(length).unwrap_or(0);
                        return Ok(Some((start, need(input, length)?)));
                    }
                    [1] => return Err("is damaged: it is longer than its partition".to_string()),
                    _ => return Err("is damaged: it has an unknown command".to_string()),
                }
            },
        }
    }
}

const BACK: &str = "is damaged: it goes back";

impl Partclone {
    fn used(&self, n: u64) -> bool {
        let byte = usize::try_from(n / 8).ok().and_then(|at| self.bitmap.get(at));
        n < self.blocks && (self.bitmap.is_empty() || byte.is_some_and(|b| b >> (n % 8) & 1 == 1))
    }

    fn next(&mut self, input: &mut Input<'_>) -> Result<Option<(u64, Vec<u8>)>, String> {
        while self.at < self.blocks && !self.used(self.at) {
            self.at += 1;
        }
        if self.at >= self.blocks {
            // The last strip may be a short one.
            if self.since > 0 {
                self.sum(input)?;
            }
            return Ok(None);
        }
        let first = self.at;
        let most = (PIECE / self.block).max(1);
        let until = if self.every == 0 { most } else { (self.every - self.since).min(most) };
        while self.used(self.at) && self.at - first < until {
            self.at += 1;
        }
        let blocks = self.at - first;
        let bytes = need(input, usize::try_from(blocks * self.block).unwrap_or(0))?;
        self.crc = self.crc.map(|sum| self.table.of(sum, &bytes));
        self.since += blocks;
        if self.every > 0 && self.since >= self.every {
            self.sum(input)?;
        }
        Ok(Some((first * self.block, bytes)))
    }

    fn sum(&mut self, input: &mut Input<'_>) -> Result<(), String> {
        self.since = 0;
        if self.sum == 0 {
            return Ok(());
        }
        let own = number(&need(input, self.sum)?, 0, self.sum);
        if self.crc.is_some_and(|crc| u64::from(crc) != own) {
            let at = self.at.saturating_mul(self.block);
            return Err(format!("is damaged: another checksum before byte {at} of the partition"));
        }
        if self.reseed {
            self.crc = self.crc.map(|_| !0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Piece = (u64, Vec<u8>);

    /// All pieces.
    fn read(bytes: &[u8]) -> Result<(u64, Vec<Piece>), String> {
        let mut rest = bytes;
        let mut input = |room: &mut [u8]| {
            let Some((some, more)) = rest.split_at_checked(room.len()) else {
                return if rest.is_empty() { Ok(false) } else { Err(CUT.to_string()) };
            };
            room.copy_from_slice(some);
            rest = more;
            Ok(true)
        };
        let magic = need(&mut input, MAGIC)?;
        let mut image = Foreign::new(&magic, &mut input)?;
        let mut pieces = Vec::new();
        while let Some(piece) = image.next(&mut input)? {
            pieces.push(piece);
        }
        Ok((image.size, pieces))
    }

    /// Five blocks of 512 bytes, of which 0, 1 and 3 are there; a checksum every two.
    fn partclone() -> Vec<u8> {
        let mut image = PARTCLONE.to_vec();
        image.extend(b"0.3.23\0\0\0\0\0\0\0\0");
        image.extend(b"0002\xde\xc0EXTFS\0\0\0\0\0\0\0\0\0\0\0");
        for number in [2560u64, 5, 3, 3] {
            image.extend(number.to_le_bytes());
        }
        image.extend([0, 2, 0, 0, 18, 0, 0, 0, 2, 0, 64, 0, 0x20, 0, 4, 0, 2, 0, 0, 0, 1, 1]);
        let with = |image: &mut Vec<u8>, bytes: &[u8]| {
            image.extend(bytes);
            image.extend(Crc::new().of(!0, bytes).to_le_bytes());
        };
        let head = core::mem::take(&mut image);
        with(&mut image, &head);
        with(&mut image, &[0b01011]);
        with(&mut image, &[[7; 512], [8; 512]].concat());
        with(&mut image, &[9; 512]);
        image
    }

    /// Three clusters of 512 bytes and half of one: a gap of one, two clusters, the rest.
    fn ntfsclone() -> Vec<u8> {
        let mut image = NTFSCLONE.to_vec();
        image.extend([10, 1, 0, 2, 0, 0]);
        for number in [3 * 512 + 256u64, 3, 2] {
            image.extend(number.to_le_bytes());
        }
        image.extend([56, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        image.extend([0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        image.extend([7; 512]);
        image.push(1);
        image.extend([8; 512]);
        image.push(1);
        image.extend([9; 256]);
        image
    }

    #[test]
    fn pieces_are_where_they_belong() {
        let (size, pieces) = read(&partclone()).unwrap();
        let [(0, first), (1536, second)] = pieces.as_slice() else { panic!("{pieces:?}") };
        assert_eq!((size, first.len(), first[512], second[..].len()), (2560, 1024, 8, 512));
        let (size, pieces) = read(&ntfsclone()).unwrap();
        let places: Vec<_> =
            pieces.iter().map(|(at, bytes)| (*at, bytes.len(), bytes[0])).collect();
        assert_eq!((size, places), (1792, vec![(512, 512, 7), (1024, 512, 8), (1536, 256, 9)]));
    }

    #[test]
    fn every_damaged_byte_of_partclone_is_seen() {
        let good = partclone();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(read(&bad).is_err(), "byte {at}");
            assert!(read(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn an_image_of_ntfsclone_that_ends_within_a_record_is_cut_short() {
        let good = ntfsclone();
        // The head counts two clusters; what follows cannot be told.
        let records = [1091, good.len()];
        for at in 1..good.len() {
            assert_eq!(read(&good[..at]).is_err(), !records.contains(&at), "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, kind: bool, at in 0usize..2000, value: u8) {
            let mut image = if kind { partclone() } else { ntfsclone() };
            let _ = read(&[&image[..MAGIC], &bytes].concat());
            let at = at % image.len();
            image[at] = value;
            if let Ok((size, pieces)) = read(&image) {
                let mut end = 0;
                for (at, bytes) in pieces {
                    prop_assert!(at >= end);
                    end = at + bytes.len() as u64;
                }
                prop_assert!(end <= size);
            }
        }
    }
}
