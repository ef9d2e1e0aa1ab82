//! One sparse file as a tar archive, in GNU's pax form 1.0: `tar -xS` and bsdtar make of it
//! a file with holes, so that a host with nothing but tar gets the used bytes alone.
//!
//! Format: "Storing Sparse Files" in the manual of GNU tar; the headers are POSIX pax.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::extents::Extents;

const BLOCK: usize = 512;
/// The largest size that eleven octal digits hold.
const MOST_OCTAL: u64 = 0o777_7777_7777;
/// The longest name.
const MAX_NAME: usize = 80;

/// Everything before the bytes in use: these follow, extent by extent, then [`tail`].
/// Extents must be [`Extents::aligned`] to 512 bytes: GNU tar reads each from a new block.
#[must_use]
pub fn head(name: &str, map: &Extents) -> Vec<u8> {
    let name: String = name.chars().filter(|c| !c.is_control() && *c != '/').collect();
    let mut name = name.as_str();
    while name.len() > MAX_NAME {
        let mut chars = name.chars();
        chars.next_back();
        name = chars.as_str();
    }
    // The last extent is empty and stands at the end: the file has that length.
    let mut list = format!("{}\n", map.used().len() + 1);
    for range in map.used() {
        list += &format!("{}\n{}\n", range.start, range.end.saturating_sub(range.start));
    }
    list += &format!("{}\n0\n", map.size());
    let mut list = list.into_bytes();
    pad(&mut list);
    let size = map.used_bytes().saturating_add(list.len() as u64);
    let mut records = Vec::new();
    for (key, value) in [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", name),
        ("GNU.sparse.realsize", &format!("{}", map.size())),
        ("size", &format!("{size}")),
    ] {
        records.extend(record(key, value).into_bytes());
    }
    let mut bytes = header("./PaxHeaders/disk", b'x', records.len() as u64);
    pad(&mut records);
    bytes.extend(records);
    bytes.extend(header(&format!("./GNUSparseFile.0/{name}"), b'0', size));
    bytes.extend(list);
    bytes
}

/// What follows the bytes in use: padding, and the end of the archive.
#[must_use]
pub fn tail(map: &Extents) -> Vec<u8> {
    let over = usize::try_from(map.used_bytes() % BLOCK as u64).unwrap_or(0);
    alloc::vec![0; (BLOCK - over) % BLOCK + 2 * BLOCK]
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
}

/// A pax record: its own length in decimal, which counts the digits, too.
fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while format!("{length}").len() + rest != length {
        length += 1;
    }
    format!("{length} {key}={value}\n")
}

fn header(name: &str, kind: u8, size: u64) -> Vec<u8> {
    // A larger size stands in the record above.
    let size = if size > MOST_OCTAL { 0 } else { size };
    let mut bytes = Vec::with_capacity(BLOCK);
    let mut field = |text: &str, width: usize| {
        let text = text.as_bytes();
        bytes.extend_from_slice(text.get(..text.len().min(width)).unwrap_or_default());
        bytes.resize(bytes.len() + width.saturating_sub(text.len()), 0);
    };
    field(name, 100);
    field("0000600", 8);
    field("0000000", 8);
    field("0000000", 8);
    field(&format!("{size:011o}"), 12);
    field("00000000000", 12);
    // The checksum counts its own field as blanks.
    field("        ", 8);
    field(if kind == b'x' { "x" } else { "0" }, 1);
    field("", 100);
    field("ustar", 6);
    field("00", 2);
    field("", 247);
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    let text = format!("{sum:06o}\0 ");
    for (to, from) in bytes.iter_mut().skip(148).zip(text.bytes()) {
        *to = from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;
    use std::process::{Command, Stdio};

    /// GNU tar, which none of us wrote.
    #[test]
    fn gnu_tar_makes_the_disk_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let size: usize = (8 << 20) + 512;
        for ranges in [
            vec![0..4096, 65536..65536 + 1024, (1 << 20)..(1 << 20) + 300_032],
            vec![0..512, (8 << 20) - 512..(8 << 20) + 512],
            vec![],
        ] {
            let map = Extents::new(size as u64, ranges);
            let mut disk = vec![0; size];
            let mut archive = head("a disk's image", &map);
            for range in map.used() {
                let range = range.start as usize..range.end as usize;
                for (n, byte) in disk[range.clone()].iter_mut().enumerate() {
                    *byte = (n % 251) as u8 + 1;
                }
                archive.extend(&disk[range]);
            }
            archive.extend(tail(&map));
            assert_eq!(archive.len() % 512, 0);
            let mut tar = Command::new("tar");
            tar.args(["-xSf", "-", "-C"]).arg(dir.path()).stdin(Stdio::piped());
            let mut tar = tar.spawn().unwrap();
            tar.stdin.take().unwrap().write_all(&archive).unwrap();
            assert!(tar.wait().unwrap().success());
            let file = dir.path().join("a disk's image");
            assert!(std::fs::read(&file).unwrap() == disk);
            let stored = std::fs::metadata(&file).unwrap().blocks() * 512;
            assert!(stored < map.used_bytes() + 40960, "{stored} bytes on the disk");
        }
    }

    #[test]
    fn records_count_themselves_and_large_sizes_are_records() {
        assert_eq!(record("size", "1"), "9 size=1\n");
        assert_eq!(record("a", &"b".repeat(94)).len(), 101);
        let map = Extents::new(1 << 44, std::iter::once(0..1 << 43));
        let head = head("../../x\ny", &map);
        let text = String::from_utf8_lossy(&head);
        assert!(text.contains("GNU.sparse.name=....xy\n"), "{text}");
        assert!(text.contains(&format!(" size={}\n", (1u64 << 43) + 512)), "{text}");
        assert!(super::head(&"ü".repeat(99), &map).len() == 2048);
    }
}
