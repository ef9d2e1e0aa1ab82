//! What stands on disks, and the lists of digests on media.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, LazyLock};

use cpio_builder::iso::Iso;
use nix::fcntl::{Flock, FlockArg};
use overlay::expand::{expand, is_compressed};
use overlay::probe::Format;
use overlay::{digest, dm, partition, persistence_conf, probe, verity};
use share::disk::cow::Cow;
use share::tree::ReadAt;

/// Offsets that the probe looks at.
const BLOCKS: [u64; 7] = [0, 512, 1024, 3072, 4096, 32768, 65536];

/// A device that is empty but for the input: its first byte chooses the block
/// where the rest stands.
pub fn superblock(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let at = BLOCKS[usize::from(*choice) % BLOCKS.len()];
    let found = probe::probe(&mut |offset, buffer| {
        let end = at + rest.len() as u64;
        let length = buffer.len().min(end.saturating_sub(offset) as usize);
        for (byte, offset) in buffer[..length].iter_mut().zip(offset..) {
            let inside = offset.checked_sub(at).and_then(|at| rest.get(at as usize));
            *byte = inside.copied().unwrap_or(0);
        }
        length
    });
    if let Some(found) = found {
        for text in [&found.label, &found.uuid] {
            assert!(text.len() <= 4096);
        }
        let _ = (found.format.to_string(), found.format.fs_type(), found.format.read_only());
    }
}

/// A disk's first sectors, of both sizes of sectors.
pub fn partition_table(data: &[u8]) {
    for sector in [512, 4096] {
        let mut reads = 0;
        let found = partition::read(
            &mut |offset, buffer| {
                reads += 1;
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
                let length = buffer.len().min(data.len() - start);
                buffer[..length].copy_from_slice(&data[start..start + length]);
                length
            },
            sector,
        );
        assert!(found.len() <= 256 && reads <= 1024, "{} partitions, {reads} reads", found.len());
        for partition in found {
            let _ = partition.start.checked_add(partition.length);
        }
    }
}

/// A verity header. What it says becomes a line of words for the kernel.
pub fn verity_header(data: &[u8]) {
    match verity::parse(data) {
        Ok(header) => {
            assert!(!header.algorithm.contains(char::is_whitespace));
            assert!(header.blocks.checked_mul(u64::from(header.data_block)).is_some());
        }
        Err(error) => drop(error.to_string()),
    }
}

/// `md5sum.txt`, the note of implantisomd5, the status of a snapshot.
pub fn checksum_files(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for sum in digest::parse_sums(&text) {
        assert!(!sum.path.starts_with('/'), "{} leaves the medium", sum.path);
        assert!(sum.path.split('/').all(|part| part != ".."), "{} leaves the medium", sum.path);
        assert!(sum.hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
    }
    let length = data.first().map_or(0, |byte| u64::from(*byte) << 20);
    if let Some(embedded) = digest::parse_embedded(data, length) {
        assert!(embedded.length <= length);
    }
    let fill = dm::snapshot_fill(&text);
    assert!(fill.is_none_or(|fill| fill.percent() <= 100));
}

/// `persistence.conf` of a volume: nothing in it may lead out of the volume or
/// out of the root.
pub fn persistence_conf(data: &[u8]) {
    let (entries, _) = persistence_conf::parse(&String::from_utf8_lossy(data));
    assert!(entries.len() <= 4096);
    for entry in entries {
        assert!(entry.dir.starts_with('/') && !entry.source.starts_with('/'), "{entry:?}");
        for path in [&entry.dir, &entry.source] {
            assert!(path.split('/').all(|part| part != ".."), "{entry:?} leads upwards");
        }
    }
}

/// An ISO image from its sixteenth sector on: what comes before is not read. The one
/// reader lists it for the host command and makes the server's tree of it.
pub fn iso_image(data: &[u8]) {
    const START: usize = 32768;
    let mut whole = vec![0; START];
    whole.extend_from_slice(data);
    share::iso::fuzz(&whole);
    let Ok(iso) = Iso::open(whole) else { return };
    let mut dirs: Vec<_> = iso.find("/").into_iter().collect();
    // Directories may lead in a circle: a few levels are enough.
    for _ in 0..16 {
        let Some(dir) = dirs.pop() else { return };
        for node in iso.list(&dir).unwrap_or_default().into_iter().take(64) {
            let _ = (node.offset(), node.is_empty());
            if node.is_dir() {
                dirs.push(node);
            } else {
                let bytes = iso.read(&node, 1 << 16).unwrap_or_default();
                assert!(bytes.len() as u64 <= node.len());
            }
        }
    }
}

/// A compressed image, expanded as `/init` does it, into little room.
pub fn compressed_image(data: &[u8]) {
    const ROOM: usize = 1 << 20;
    for format in [Format::Gzip, Format::Xz, Format::Zstd, Format::Cloop] {
        assert!(is_compressed(format));
        let (mut rest, mut expanded) = (data, 0);
        let written = expand(
            format,
            &mut |buffer| {
                // Networks deliver in pieces.
                let length = buffer.len().min(rest.len()).min(1000);
                let (now, later) = rest.split_at(length);
                buffer[..length].copy_from_slice(now);
                rest = later;
                Ok(length)
            },
            &mut |bytes| {
                expanded += bytes.len();
                if expanded > ROOM { Err(rustix::io::Errno::NOSPC) } else { Ok(()) }
            },
        );
        match written {
            Ok(written) => assert_eq!(written, expanded as u64),
            Err(error) => drop(error.to_string()),
        }
    }
}

/// A medium whose every byte is a seven.
struct Sevens(u64);

impl ReadAt for Sevens {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.0) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.fill(7);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0)
    }
}

/// A client's file of changes: as it is, and, behind a right header, as map and blocks. It
/// is read as a whole, written and read again.
pub fn cow_file(data: &[u8]) {
    const SIZE: u64 = 9 * 4096 + 100;
    const IDENTITY: u64 = 77;
    static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(crate::directory);
    let path = DIR.path().join("cow");
    let header = [&b"bellwether cow 1"[..], &IDENTITY.to_be_bytes(), &SIZE.to_be_bytes()].concat();
    let mut headed = [header, vec![0; 4096 - 32]].concat();
    headed.extend_from_slice(data);
    headed.resize(headed.len().max(8192 + SIZE as usize), 0);
    for content in [data, &headed] {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(&path).expect("it can be made");
        let written = file.write_all_at(content, 0);
        written.expect("the temporary directory has room");
        let file = Flock::lock(file, FlockArg::LockExclusive).expect("it is ours");
        let cow = match Cow::open(file, Arc::new(Sevens(SIZE)), SIZE, IDENTITY) {
            Ok(cow) => cow,
            Err(error) => {
                assert!(content.len() < headed.len(), "a right header is refused: {error}");
                continue;
            }
        };
        let mut before = vec![0; SIZE as usize];
        if cow.read(0, &mut before).is_err() {
            continue;
        }
        let at = u64::from(data.first().copied().unwrap_or(0)) * 100;
        cow.write(at, b"changed").expect("it can be written");
        let mut after = vec![0; SIZE as usize];
        cow.read(0, &mut after).expect("it can be read again");
        before[at as usize..at as usize + 7].copy_from_slice(b"changed");
        assert!(before == after, "a write changes other bytes");
    }
}

/// Real disks with changed bytes, from the vectors of `blockmap`.
static VECTORS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../blockmap/vectors");
    let mut files: Vec<_> =
        std::fs::read_dir(dir).expect("there are vectors").flatten().map(|e| e.path()).collect();
    files.sort();
    let unpacked =
        files.iter().map(|path| std::fs::read(path).and_then(|b| zstd::decode_all(&b[..])));
    unpacked.map(|bytes| bytes.expect("a vector can be unpacked")).collect()
});

/// A vector of `blockmap` (its `vectors.rs` has the form), and edits: sector of those that are
/// there, place in it, byte.
struct Edited {
    size: u64,
    sectors: std::collections::BTreeMap<u64, [u8; 512]>,
    left: u64,
}

impl blockmap::ReadAt for Edited {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), blockmap::ReadError> {
        let length = buffer.len() as u64;
        assert!(length <= 32 << 20, "{length} bytes at once");
        self.left = self.left.checked_sub(1).expect("a reader ends");
        if at.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(blockmap::ReadError { at, length });
        }
        buffer.fill(0);
        for (number, sector) in self.sectors.range(at / 512..(at + length).div_ceil(512)) {
            for (byte, place) in sector.iter().zip(number * 512..) {
                if let Some(index) = place.checked_sub(at).filter(|index| *index < length) {
                    buffer[index as usize] = *byte;
                }
            }
        }
        Ok(())
    }
}

/// What of a disk is in use: no panic, no end of reading, and extents that are on it. The first
/// byte chooses the disk; each five that follow are a sector, a place and a byte.
pub fn block_map(data: &[u8]) {
    let Some((which, edits)) = data.split_first() else { return };
    let bytes = &VECTORS[usize::from(*which) % VECTORS.len()];
    let Some((size, mut rest)) = bytes.split_first_chunk() else { return };
    let size = u64::from_le_bytes(*size);
    let mut disk = Edited { size, sectors: Default::default(), left: 1 << 20 };
    while let Some((head, more)) = rest.split_first_chunk::<6>() {
        let first = u64::from(u32::from_le_bytes([head[0], head[1], head[2], head[3]]));
        let count = usize::from(u16::from_le_bytes([head[4], head[5]]));
        let (run, behind) = more.split_at(count * 512);
        disk.sectors.extend((first..).zip(run.as_chunks::<512>().0.iter().copied()));
        rest = behind;
    }
    let numbers: Vec<u64> = disk.sectors.keys().copied().collect();
    for edit in edits.as_chunks::<5>().0.iter().take(64) {
        let number = numbers[usize::from(u16::from_le_bytes([edit[0], edit[1]])) % numbers.len()];
        let place = usize::from(u16::from_le_bytes([edit[2], edit[3]])) % 512;
        disk.sectors.entry(number).and_modify(|sector| sector[place] = edit[4]);
    }
    let map = blockmap::whole_disk(&mut disk).expect("the first sector can be read");
    assert!(map.used.windows(2).all(|w| w[0].end() < w[1].start));
    assert!(map.used.iter().all(|e| e.length > 0 && e.end() <= size));
    for grow in [false, true] {
        let fit = blockmap::fit_table(&mut disk, grow).unwrap_or_default();
        assert!(fit.writes.iter().all(|(at, bytes)| at + bytes.len() as u64 <= size));
        assert!(fit.last.is_none_or(|(last, _)| last.start + last.length <= size));
    }
}
