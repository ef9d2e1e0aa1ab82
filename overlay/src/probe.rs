//! Identifies a block device or image: file-system type, label, UUID and the size that its
//! superblock claims.
//!
//! Follows each format's on-disk documentation (kernel `include/uapi/linux`,
//! `Documentation/filesystems`, ECMA-119, ECMA-167). Reads only the few sectors in the table
//! below, and trusts none of their values. Checksums are not verified: the kernel does when it
//! mounts.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use sys::bytes::{array, be32, be64, le16, le32, le64};

/// Reads up to `buffer.len()` bytes at a byte offset; returns how many were read.
pub type ReadAt<'r> = &'r mut dyn FnMut(u64, &mut [u8]) -> usize;

/// A format recognised by its first sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Format {
    Squashfs,
    Erofs,
    Iso9660,
    Udf,
    Ext,
    Xfs,
    Btrfs,
    F2fs,
    Vfat,
    Exfat,
    Ntfs,
    Cramfs,
    Swap,
    Luks,
    Lvm,
    MdRaid,
    /// gzip, with any content.
    Gzip,
    /// xz, with any content.
    Xz,
    /// Zstandard, with any content.
    Zstd,
    /// cloop V2: an image in compressed blocks.
    Cloop,
    /// A newc cpio archive.
    Cpio,
    /// A tar archive.
    Tar,
}

impl Format {
    /// The kernel's file-system type; `None` for other formats.
    #[must_use]
    pub const fn fs_type(self) -> Option<&'static str> {
        Some(match self {
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::Iso9660 => "iso9660",
            Self::Udf => "udf",
            // ext4 mounts all three, and is the only one that every kernel has.
            Self::Ext => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::F2fs => "f2fs",
            Self::Vfat => "vfat",
            Self::Exfat => "exfat",
            Self::Ntfs => "ntfs3",
            Self::Cramfs => "cramfs",
            _ => return None,
        })
    }

    /// The format's common name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.fs_type() {
            Some(name) => name,
            None => match self {
                Self::Swap => "swap",
                Self::Luks => "LUKS",
                Self::Lvm => "LVM",
                Self::MdRaid => "MD RAID",
                Self::Gzip => "gzip",
                Self::Xz => "xz",
                Self::Zstd => "zstd",
                Self::Cloop => "cloop",
                Self::Cpio => "cpio",
                _ => "tar",
            },
        }
    }

    /// Whether it can never be written, however it is mounted.
    #[must_use]
    pub const fn read_only(self) -> bool {
        matches!(
            self,
            Self::Squashfs | Self::Erofs | Self::Iso9660 | Self::Cramfs | Self::Udf | Self::Cloop
        )
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The content of a superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// The format.
    pub format: Format,
    /// The volume's label; empty when it has none.
    pub label: String,
    /// The volume's UUID or serial number as `blkid` writes it; empty when it has none.
    pub uuid: String,
    /// Bytes that the file system claims to need; `None` when it does not say.
    pub size: Option<u64>,
}

/// One row: how a format is recognised, and its superblock's parser.
struct Row {
    format: Format,
    /// Byte offset of the block for the parser.
    block: u64,
    /// Offset of the magic inside that block.
    magic_at: usize,
    magic: &'static [u8],
    read: fn(&[u8], &mut Superblock),
}

/// Bytes read at a row's block.
const BLOCK: usize = 1024;

/// Tried in this order. Formats with a magic that other formats cannot carry come first; the
/// boot-sector formats last, because any disk may start with a boot sector; hybrid ISOs carry a
/// partition table, so ISO 9660 precedes it.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { format: Format::Squashfs, block: 0, magic_at: 0, magic: b"hsqs", read: squashfs },
    Row { format: Format::Luks, block: 0, magic_at: 0, magic: b"LUKS\xba\xbe", read: luks },
    Row { format: Format::Xfs, block: 0, magic_at: 0, magic: b"XFSB", read: xfs },
    Row { format: Format::Cramfs, block: 0, magic_at: 0, magic: &[0x45, 0x3d, 0xcd, 0x28], read: nothing },
    Row { format: Format::Gzip, block: 0, magic_at: 0, magic: &[0x1f, 0x8b, 0x08], read: nothing },
    Row { format: Format::Xz, block: 0, magic_at: 0, magic: b"\xfd7zXZ\0", read: nothing },
    Row { format: Format::Zstd, block: 0, magic_at: 0, magic: &[0x28, 0xb5, 0x2f, 0xfd], read: nothing },
    Row { format: Format::Cpio, block: 0, magic_at: 0, magic: b"070701", read: nothing },
    Row { format: Format::Cloop, block: 0, magic_at: 0, magic: b"#!/bin/sh\n#V2.0", read: nothing },
    Row { format: Format::Lvm, block: 512, magic_at: 0, magic: b"LABELONE", read: nothing },
    Row { format: Format::Erofs, block: 1024, magic_at: 0, magic: &[0xe2, 0xe1, 0xf5, 0xe0], read: erofs },
    Row { format: Format::Ext, block: 1024, magic_at: 56, magic: &[0x53, 0xef], read: ext },
    Row { format: Format::F2fs, block: 1024, magic_at: 0, magic: &[0x10, 0x20, 0xf5, 0xf2], read: f2fs },
    Row { format: Format::Iso9660, block: 32768, magic_at: 1, magic: b"CD001\x01", read: iso9660 },
    Row { format: Format::Udf, block: 32768, magic_at: 1, magic: b"BEA01", read: nothing },
    Row { format: Format::Btrfs, block: 65536, magic_at: 64, magic: b"_BHRfS_M", read: btrfs },
    Row { format: Format::MdRaid, block: 4096, magic_at: 0, magic: &[0xfc, 0x4e, 0x2b, 0xa9], read: nothing },
    Row { format: Format::Swap, block: 3072, magic_at: 1014, magic: b"SWAPSPACE2", read: nothing },
    Row { format: Format::Tar, block: 0, magic_at: 257, magic: b"ustar", read: nothing },
    Row { format: Format::Exfat, block: 0, magic_at: 3, magic: b"EXFAT   ", read: exfat },
    Row { format: Format::Ntfs, block: 0, magic_at: 3, magic: b"NTFS    ", read: ntfs },
    Row { format: Format::Vfat, block: 0, magic_at: 82, magic: b"FAT32", read: fat32 },
    Row { format: Format::Vfat, block: 0, magic_at: 54, magic: b"FAT1", read: fat16 },
];

/// Identifies the format; `None` when it is unknown.
#[must_use]
pub fn probe(read: ReadAt<'_>) -> Option<Superblock> {
    let mut block = [0; BLOCK];
    let mut have = u64::MAX;
    let mut length = 0;
    for row in ROWS {
        if row.block != have {
            length = read(row.block, &mut block).min(BLOCK);
            have = row.block;
        }
        let bytes = block.get(..length).unwrap_or_default();
        if bytes.get(row.magic_at..).is_some_and(|rest| rest.starts_with(row.magic)) {
            let mut found = Superblock {
                format: row.format,
                label: String::new(),
                uuid: String::new(),
                size: None,
            };
            (row.read)(bytes, &mut found);
            if row.format == Format::Iso9660 {
                joliet_label(read, &mut found);
            }
            return Some(found);
        }
    }
    None
}

/// Every format whose mark is there, in the order of [`probe`]: more than one when something is
/// left over of an earlier use, or of what an image is made for.
#[must_use]
pub fn formats(read: ReadAt<'_>) -> Vec<Format> {
    let mut block = [0; BLOCK];
    let marked = ROWS.iter().filter(|row| {
        let length = read(row.block, &mut block).min(BLOCK);
        let bytes = block.get(..length).and_then(|bytes| bytes.get(row.magic_at..));
        bytes.is_some_and(|rest| rest.starts_with(row.magic))
    });
    marked.map(|row| row.format).collect()
}

fn nothing(_: &[u8], _: &mut Superblock) {}

fn squashfs(block: &[u8], found: &mut Superblock) {
    found.size = le64(block, 40);
}

fn luks(block: &[u8], found: &mut Superblock) {
    found.uuid = text(block, 168, 40);
}

fn xfs(block: &[u8], found: &mut Superblock) {
    found.label = text(block, 108, 12);
    found.uuid = uuid(block, 32);
    found.size = product(be32(block, 4), be64(block, 8));
}

fn erofs(block: &[u8], found: &mut Superblock) {
    found.label = text(block, 64, 16);
    found.uuid = uuid(block, 48);
    let bits = block.get(12).copied().unwrap_or(12).min(16);
    found.size = product(Some(1 << bits), le32(block, 36).map(u64::from));
}

fn ext(block: &[u8], found: &mut Superblock) {
    const INCOMPAT_64BIT: u32 = 0x80;
    found.label = text(block, 120, 16);
    found.uuid = uuid(block, 104);
    let shift = le32(block, 24).unwrap_or(0).min(6);
    let low = le32(block, 4).map(u64::from);
    let high = match le32(block, 96) {
        Some(features) if features & INCOMPAT_64BIT != 0 => le32(block, 336).unwrap_or(0),
        _ => 0,
    };
    found.size = product(Some(1024 << shift), low.map(|low| u64::from(high) << 32 | low));
}

fn f2fs(block: &[u8], found: &mut Superblock) {
    found.uuid = uuid(block, 108);
    found.label = utf16(block.get(124..).unwrap_or_default(), 64, u16::from_le_bytes);
    let bits = le32(block, 16).unwrap_or(12).min(16);
    found.size = product(Some(1 << bits), le64(block, 36));
}

fn iso9660(block: &[u8], found: &mut Superblock) {
    found.label = text(block, 40, 32);
    // As blkid: the modification date, or the creation date without one.
    let date = |at: usize| {
        block.get(at..at + 16).filter(|date| date.iter().any(|c| !matches!(c, b'0' | 0)))
    };
    if let Some(date) = date(830).or_else(|| date(813)) {
        let part = |from: usize, to: usize| {
            date.get(from..to).and_then(|s| core::str::from_utf8(s).ok()).unwrap_or("")
        };
        found.uuid = format!(
            "{}-{}-{}-{}-{}-{}-{}",
            part(0, 4),
            part(4, 6),
            part(6, 8),
            part(8, 10),
            part(10, 12),
            part(12, 14),
            part(14, 16)
        );
    }
    let block_size = le16(block, 128).map(u64::from);
    found.size = product(block_size.map(|size| size as u32), le32(block, 80).map(u64::from));
}

/// A Joliet volume name may be longer and in both cases of letters; it counts
/// when the primary one is its upper-case stub.
fn joliet_label(read: ReadAt<'_>, found: &mut Superblock) {
    let mut block = [0; 128];
    for sector in 17..32_u64 {
        if read(sector * 2048, &mut block) < block.len() {
            return;
        }
        match block.first() {
            Some(2) if block.get(1..6) == Some(b"CD001") => {
                let name = utf16(block.get(40..72).unwrap_or_default(), 16, u16::from_be_bytes);
                let stub = found.label.chars().take(name.chars().count().min(16));
                let same = name
                    .chars()
                    .map(|c| c.to_ascii_uppercase())
                    .eq(stub.map(|c| c.to_ascii_uppercase()))
                    && found.label.chars().count() <= name.chars().count();
                if same && !name.is_empty() {
                    found.label = name;
                }
                return;
            }
            Some(255) | None => return,
            Some(_) => {}
        }
    }
}

fn btrfs(block: &[u8], found: &mut Superblock) {
    found.uuid = uuid(block, 32);
    found.label = text(block, 299, 256);
    found.size = le64(block, 112);
}

fn exfat(block: &[u8], found: &mut Superblock) {
    found.uuid = le32(block, 100).map(serial32).unwrap_or_default();
    found.size = product(Some(512), le64(block, 72));
}

fn ntfs(block: &[u8], found: &mut Superblock) {
    found.uuid = le64(block, 72).map(|serial| format!("{serial:016X}")).unwrap_or_default();
    found.size = product(le16(block, 11).map(u32::from), le64(block, 40));
}

fn fat32(block: &[u8], found: &mut Superblock) {
    fat(block, found, 67, 71);
}

fn fat16(block: &[u8], found: &mut Superblock) {
    fat(block, found, 39, 43);
}

fn fat(block: &[u8], found: &mut Superblock, serial_at: usize, label_at: usize) {
    found.uuid = le32(block, serial_at).map(serial32).unwrap_or_default();
    let label = text(block, label_at, 11);
    if label != "NO NAME" {
        found.label = label;
    }
    let sectors = match le16(block, 19) {
        Some(0) | None => le32(block, 32).map(u64::from),
        Some(small) => Some(u64::from(small)),
    };
    found.size = product(le16(block, 11).map(u32::from), sectors);
}

fn serial32(serial: u32) -> String {
    format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)
}

fn product(size: Option<u32>, count: Option<u64>) -> Option<u64> {
    u64::from(size?).checked_mul(count?)
}

/// A fixed-length text field: up to the first NUL, blanks at the end removed.
fn text(block: &[u8], at: usize, length: usize) -> String {
    let field = block.get(at..at.saturating_add(length)).unwrap_or_default();
    let field = field.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from(String::from_utf8_lossy(field).trim_end())
}

fn utf16(field: &[u8], most: usize, unit: fn([u8; 2]) -> u16) -> String {
    let units = field.as_chunks::<2>().0.iter().take(most).map(|pair| unit(*pair));
    let text: String = char::decode_utf16(units.take_while(|unit| *unit != 0))
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    String::from(text.trim_end())
}

fn uuid(block: &[u8], at: usize) -> String {
    let bytes = array::<16>(block, at).filter(|bytes| bytes.iter().any(|b| *b != 0));
    bytes.map(|bytes| sys::bytes::uuid(&bytes)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn probe_bytes(bytes: &[u8]) -> Option<Superblock> {
        probe(&mut |at, buffer| {
            let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
            let length = rest.len().min(buffer.len());
            buffer[..length].copy_from_slice(&rest[..length]);
            length
        })
    }

    fn image(size: usize, patches: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; size];
        for (at, patch) in patches {
            bytes[*at..at + patch.len()].copy_from_slice(patch);
        }
        bytes
    }

    #[test]
    fn squashfs_says_how_long_it_is() {
        let bytes = image(4096, &[(0, b"hsqs"), (40, &123_456_u64.to_le_bytes())]);
        let found = probe_bytes(&bytes).unwrap();
        assert_eq!((found.format, found.size), (Format::Squashfs, Some(123_456)));
    }

    #[test]
    fn ext4_has_label_uuid_and_size() {
        let bytes = image(
            4096,
            &[
                (1024 + 4, &1000_u32.to_le_bytes()),
                (1024 + 24, &2_u32.to_le_bytes()),
                (1024 + 56, &[0x53, 0xef]),
                (1024 + 104, &[0x12; 16]),
                (1024 + 120, b"persistence\0"),
            ],
        );
        let found = probe_bytes(&bytes).unwrap();
        assert_eq!(found.format, Format::Ext);
        assert_eq!(found.label, "persistence");
        assert_eq!(found.uuid, "12121212-1212-1212-1212-121212121212");
        assert_eq!(found.size, Some(4_096_000));
    }

    #[test]
    fn hybrid_iso_is_an_iso_and_not_a_disk() {
        let mut bytes = image(40960, &[(510, &[0x55, 0xaa]), (32768, b"\x01CD001\x01")]);
        bytes[32768 + 40..32768 + 72].copy_from_slice(b"DEBIAN_LIVE                     ");
        bytes[32768 + 80..32768 + 84].copy_from_slice(&500_u32.to_le_bytes());
        bytes[32768 + 128..32768 + 130].copy_from_slice(&2048_u16.to_le_bytes());
        bytes[32768 + 830..32768 + 846].copy_from_slice(b"2026112107390300");
        let found = probe_bytes(&bytes).unwrap();
        assert_eq!(found.format, Format::Iso9660);
        assert_eq!(found.label, "DEBIAN_LIVE");
        assert_eq!(found.uuid, "2026-11-21-07-39-03-00");
        assert_eq!(found.size, Some(1_024_000));
    }

    #[test]
    fn nothing_known_is_nothing() {
        assert_eq!(probe_bytes(&[]), None);
        assert_eq!(probe_bytes(&[0; 70000]), None);
    }

    proptest! {
        #[test]
        fn never_panics(start: Vec<u8>, row in 0..ROWS.len(), junk in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let _ = probe_bytes(&start);
            let row = &ROWS[row];
            let mut bytes = image(70000, &[]);
            let at = row.block as usize;
            bytes[at..at + junk.len()].copy_from_slice(&junk);
            bytes[at + row.magic_at..at + row.magic_at + row.magic.len()].copy_from_slice(row.magic);
            prop_assert!(probe_bytes(&bytes).is_some());
            bytes.truncate(at + row.magic_at + row.magic.len());
            let _ = probe_bytes(&bytes);
        }
    }
}
