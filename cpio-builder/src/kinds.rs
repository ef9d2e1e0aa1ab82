//! What a file is that people take for an image of a medium: the end of the sentence that refuses
//! it.
//!
//! Looks at the first bytes only, and trusts none of them.

use crate::modinfo::ReadAt;
use overlay::probe::{self, Format};
use sys::bytes::or_zero::le16;

/// Less than two to the power of this are looked at.
const HEAD_BITS: u32 = 16;

const UNPACK: &str = "unpack it first";
const A_DISK: &str = "a virtual machine's disk";

/// Offset, first bytes, and what such a file is.
const ROWS: &[(usize, &[u8], &str, &str)] = &[
    (0, b"PK\x03\x04", "a ZIP archive", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (0, b"Rar!", "a RAR archive", UNPACK),
    (0, b"BZh", "compressed with bzip2", UNPACK),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4", UNPACK),
    (0, b"LZIP", "compressed with lzip", UNPACK),
    (0, b"\x89LZO\0", "compressed with lzop", UNPACK),
    (0, b"!<arch>\ndebian", "a Debian package", UNPACK),
    (0, b"\xed\xab\xee\xdb", "an RPM package", UNPACK),
    (0, b"QFI\xfb", A_DISK, "'qemu-nbd --read-only' shows its partitions"),
    (0, b"KDMV", A_DISK, "'qemu-nbd --read-only' shows its partitions"),
    (0, b"conectix", A_DISK, "'qemu-nbd --read-only' shows its partitions"),
    (0, b"vhdxfile", A_DISK, "'qemu-nbd --read-only' shows its partitions"),
    (0x40, b"\x7f\x10\xda\xbe", A_DISK, "'qemu-nbd --read-only' shows its partitions"),
    (0, b"MSWIM\0\0\0", "an image of Windows (WIM)", ""),
    (0, b"\x7fELF", "a program", ""),
    (0, b"d8:announce", "a torrent", "a BitTorrent client fetches what it names"),
    (
        0,
        b"\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0",
        "a CD's raw sectors",
        "'bchunk' or 'ccd2iso' makes an image of them",
    ),
];

/// What `file` is; `None` when it is nothing that is known here.
pub fn of(file: &impl ReadAt) -> Option<String> {
    let mut head = Vec::new();
    // As many as there are.
    for bit in (0..HEAD_BITS).rev() {
        let mut piece = vec![0; 1 << bit];
        if file.read_exact_at(&mut piece, head.len() as u64).is_ok() {
            head.append(&mut piece);
        }
    }
    if head.is_empty() {
        return Some("empty: get it again".into());
    }
    let known = ROWS
        .iter()
        .find(|(at, magic, ..)| head.get(*at..).is_some_and(|from| from.starts_with(magic)));
    let (what, remedy) = match known {
        Some((_, _, what, remedy)) => ((*what).to_owned(), *remedy),
        None => system(file).or_else(|| table(&head)).or_else(|| text(&head)).or_else(|| {
            let zeros = head.len() >= 512 && head.iter().all(|byte| *byte == 0);
            zeros.then(|| ("only zeros at its beginning".into(), "get it again"))
        })?,
    };
    Some(if remedy.is_empty() { what } else { format!("{what}: {remedy}") })
}

/// A file system, or what is packed as one file.
fn system(file: &impl ReadAt) -> Option<(String, &'static str)> {
    let found = probe::probe(&mut |at, buffer: &mut [u8]| {
        // Shorter at the end of the file.
        let whole = file.read_exact_at(buffer, at).is_ok();
        if whole { buffer.len() } else { 0 }
    })?;
    let name = found.format.name();
    Some(match found.format {
        Format::Gzip | Format::Xz | Format::Zstd => (format!("compressed with {name}"), UNPACK),
        Format::Tar | Format::Cpio => (format!("a {name} archive"), UNPACK),
        Format::Udf => {
            ("a UDF medium without ISO 9660".into(), "mount it, and give the directory instead")
        }
        // The rest of its description is not there.
        Format::Iso9660 => ("the first sectors of one".into(), "get it again"),
        _ if found.format.fs_type().is_some() => {
            (format!("a file system ({name})"), "mount it, and give the directory instead")
        }
        _ => (format!("a partition of another kind ({name})"), ""),
    })
}

/// A disk with a partition table (UEFI 2.10, 5.2 and 5.3).
fn table(head: &[u8]) -> Option<(String, &'static str)> {
    let kinds = [0x1c2, 0x1d2, 0x1e2, 0x1f2].map(|at| head.get(at).copied().unwrap_or_default());
    let dos = le16(head, 510) == 0xaa55 && kinds.iter().any(|kind| *kind != 0);
    (dos || head.get(512..520) == Some(b"EFI PART")).then_some((
        "a disk with partitions".into(),
        "'losetup --find --show --partscan --read-only FILE' shows them; mount the one with the \
         system, and give the directory instead",
    ))
}

/// A web page in the place of a download, a list of checksums, a pointer.
fn text(head: &[u8]) -> Option<(String, &'static str)> {
    let start = head.get(..head.len().min(512)).unwrap_or_default();
    let start = String::from_utf8_lossy(start);
    let start = start.trim_start_matches('\u{feff}').trim_start();
    let plain = |c: char| !c.is_control() || c.is_ascii_whitespace();
    // A character may be cut in two at the end.
    let whole = start.trim_end_matches(char::REPLACEMENT_CHARACTER);
    if whole.is_empty() || !whole.chars().all(plain) || whole.contains(char::REPLACEMENT_CHARACTER)
    {
        return None;
    }
    let lower = whole.to_ascii_lowercase();
    if lower.starts_with("<!doctype html") || lower.starts_with("<html") || lower.contains("<html")
    {
        return Some(("a web page".into(), "the download did not give the image; get it again"));
    }
    let first: String = whole.lines().next().unwrap_or_default().chars().take(60).collect();
    Some((format!("a text that begins with \"{}\"", first.trim_end()), ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(bytes: &[u8]) -> String {
        of(&bytes.to_vec()).unwrap_or_default()
    }

    fn with(at: usize, magic: &[u8]) -> Vec<u8> {
        let mut bytes = vec![1; 128 << 10];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        bytes
    }

    #[test]
    fn files_that_are_given_for_an_image() {
        for (bytes, told) in [
            (&b""[..], "empty: get it again"),
            (b"PK\x03\x04....", "a ZIP archive: unpack it first"),
            (&with(0, b"\x1f\x8b\x08"), "compressed with gzip: unpack it first"),
            (&with(0, b"\xfd7zXZ\0"), "compressed with xz: unpack it first"),
            (b"\n<!DOCTYPE html>\n<html><title>404", "a web page: the download did not"),
            (b"\xef\xbb\xbf<HTML>", "a web page"),
            (b"<?xml version=\"1.0\"?>\n<!DOCTYPE html PUBLIC\n<html>", "a web page"),
            (b"404: Not Found", "a text that begins with \"404: Not Found\""),
            (b"version https://git-lfs.github.com/spec/v1\noid", "\"version https://git-lfs"),
            ("größe: 3 ü".as_bytes(), "a text that begins with \"größe: 3 ü\""),
            (&with(0, b"QFI\xfb"), "a virtual machine's disk"),
            (&with(32769, b"BEA01"), "a UDF medium"),
            (&with(82, b"FAT32"), "a file system (vfat): mount it"),
            (&with(1080, b"\x53\xef"), "a file system (ext4)"),
            (&with(0, b"hsqs"), "a file system (squashfs)"),
            (&with(510, b"\x55\xaa"), "a disk with partitions"),
            (&with(512, b"EFI PART"), "a disk with partitions"),
            (&vec![0; 1 << 20], "only zeros at its beginning: get it again"),
            (&vec![0xa5; 1 << 20], ""),
            (&[0xff; 40], ""),
        ] {
            let said = said(bytes);
            assert!(said.contains(told) && said.is_empty() == told.is_empty(), "{said:?} {told:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn garbage_is_looked_at(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2000)) {
            let _ = said(&bytes);
        }
    }
}
