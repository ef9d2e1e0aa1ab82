//! An image of disks in one file: the manifest of a room, and the chunks behind it, each packed
//! by itself, so that any machine can take any chunk of it from any server of files.
//!
//! `docs/clone-image.md` has the format. [`Head`] is its fixed beginning, [`Image`] where each
//! chunk is, [`work`] which of several servers brings which chunk. No part does I/O.

pub mod foreign;
pub mod work;

use crate::room::manifest::{Layout, Manifest};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use overlay::expand::expand;
use overlay::probe::Format;
use rustix::io::Errno;
use sys::bytes::or_zero::{le32, le64};

/// What an image begins with.
pub const MAGIC: [u8; 16] = *b"bellwether-image";
/// The version of the format.
const VERSION: u32 = 1;
/// How chunks are packed: a zstd frame each, or as they are.
const ZSTD: u32 = 1;
/// Bytes of the fixed beginning.
pub const HEAD: usize = 128;
/// The most bytes of a manifest.
const MANIFEST: u64 = 256 << 20;
/// Bytes of a chunk's length in the index.
const ENTRY: usize = 4;

/// The fixed beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the manifest.
    pub manifest: usize,
    /// Bytes of the file.
    pub file: u64,
    /// The manifest's BLAKE3 digest: what the image is named with.
    pub root: [u8; 32],
    /// The index's.
    index: [u8; 32],
}

impl Head {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(bytes: &[u8; HEAD]) -> Result<Self, &'static str> {
        if part::<16>(bytes, 0) != MAGIC {
            return Err(match bytes.iter().all(|byte| *byte == 0) {
                true => "begins with zeros: it is no image, or one that was not finished",
                false => "is no image of bellwether clone save",
            });
        }
        if le32(bytes, 16) != VERSION || le32(bytes, 20) != ZSTD {
            return Err("is an image of another version; save it with this one");
        }
        let (manifest, file) = (le64(bytes, 24), le64(bytes, 32));
        if manifest > MANIFEST || manifest + HEAD as u64 > file {
            return Err("is damaged: its manifest has a wrong length");
        }
        let manifest = usize::try_from(manifest).unwrap_or(usize::MAX);
        Ok(Self { manifest, file, root: part(bytes, 40), index: part(bytes, 72) })
    }

    fn bytes(&self) -> Vec<u8> {
        let mut all = Vec::from(MAGIC);
        all.extend(VERSION.to_le_bytes());
        all.extend(ZSTD.to_le_bytes());
        all.extend((self.manifest as u64).to_le_bytes());
        all.extend(self.file.to_le_bytes());
        all.extend(self.root);
        all.extend(self.index);
        all.resize(HEAD, 0);
        all
    }
}

fn part<const N: usize>(bytes: &[u8; HEAD], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

/// What an image holds, and where.
#[derive(Debug, Clone)]
pub struct Image {
    /// Disks, chunks, digests.
    pub manifest: Arc<Manifest>,
    /// Where each chunk begins in the file, and where the last one ends.
    places: Vec<u64>,
}

impl Image {
    /// From its head and its manifest, how many bytes the index has that follows.
    ///
    /// # Errors
    /// What is wrong with the manifest.
    pub fn manifest(head: &Head, bytes: &[u8]) -> Result<(Manifest, usize), &'static str> {
        let manifest = Manifest::read(bytes)?;
        if manifest.missing() > 0 || *manifest.root() != head.root {
            return Err("is damaged: its manifest has another digest");
        }
        let index = manifest.layout.count() as usize * ENTRY;
        Ok((manifest, index))
    }

    /// From the index, too.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(head: &Head, manifest: Manifest, index: &[u8]) -> Result<Self, &'static str> {
        if *blake3::hash(index).as_bytes() != head.index {
            return Err("is damaged: its index has another digest");
        }
        let (entries, rest) = index.as_chunks::<ENTRY>();
        let mut at = (HEAD + head.manifest + index.len()) as u64;
        let mut places = Vec::from([at]);
        for (n, entry) in (0..).zip(entries) {
            let length = u32::from_le_bytes(*entry);
            let most = manifest.layout.chunk(n).map_or(0, |chunk| chunk.bytes);
            if length == 0 || length > most {
                return Err("is damaged: a chunk has a wrong length");
            }
            at += u64::from(length);
            places.push(at);
        }
        if !rest.is_empty() || entries.len() != manifest.layout.count() as usize {
            return Err("is damaged: its index has a wrong length");
        }
        if at != head.file {
            return Err("is damaged: its length is not that of its chunks");
        }
        Ok(Self { manifest: Arc::new(manifest), places })
    }

    /// Where in the file a chunk is.
    #[must_use]
    pub fn place(&self, n: u32) -> Option<Range<u64>> {
        let n = n as usize;
        Some(*self.places.get(n)?..*self.places.get(n.checked_add(1)?)?)
    }

    /// The bytes of a chunk, from what is at its place; nothing when they are not those of the
    /// manifest.
    #[must_use]
    pub fn chunk(&self, n: u32, packed: &[u8]) -> Option<Vec<u8>> {
        let bytes = self.manifest.layout.chunk(n)?.bytes as usize;
        let bytes = unpack(packed, bytes)?;
        self.manifest.is(n, &bytes).then_some(bytes)
    }
}

/// One that is as long as its chunk is the chunk.
fn unpack(packed: &[u8], bytes: usize) -> Option<Vec<u8>> {
    if packed.len() == bytes {
        return Some(packed.to_vec());
    }
    let (mut rest, mut all) = (packed, Vec::with_capacity(bytes));
    let mut read = |room: &mut [u8]| {
        let (some, more) = rest.split_at(rest.len().min(room.len()));
        room.iter_mut().zip(some).for_each(|(to, from)| *to = *from);
        rest = more;
        Ok(some.len())
    };
    let mut write = |some: &[u8]| {
        if all.len() + some.len() > bytes {
            return Err(Errno::FBIG);
        }
        all.extend_from_slice(some);
        Ok(())
    };
    expand(Format::Zstd, &mut read, &mut write).ok()?;
    (all.len() == bytes).then_some(all)
}

/// How many bytes are before the first chunk. So an image is written in one pass: the
/// beginning is as long as the layout says, and is written last.
#[must_use]
pub fn before_chunks(layout: &Layout) -> u64 {
    let count = layout.count() as usize;
    let manifest = Manifest::new(layout.clone(), vec![[0; 32]; count]);
    (HEAD + manifest.map_or(0, |manifest| manifest.bytes().len()) + count * ENTRY) as u64
}

/// What is before the first chunk; the lengths are those of the packed chunks, in their order.
#[must_use]
pub fn beginning(manifest: &Manifest, lengths: &[u32]) -> Vec<u8> {
    let bytes = manifest.bytes();
    let index: Vec<u8> = lengths.iter().flat_map(|length| length.to_le_bytes()).collect();
    let chunks: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
    let head = Head {
        manifest: bytes.len(),
        file: (HEAD + bytes.len() + index.len()) as u64 + chunks,
        root: *manifest.root(),
        index: *blake3::hash(&index).as_bytes(),
    };
    [head.bytes(), bytes, index].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::manifest::{Disk, Extent};
    use proptest::prelude::*;

    /// A disk of 16 KiB with 8 KiB of ones in use, chunks of 4 KiB, as they are.
    fn small() -> Vec<u8> {
        let used = [Extent { start: 4096, length: 8192 }];
        let disk = Disk::new("sda", 16384, 512, Vec::new(), &used);
        let layout = Layout::new(4096, Vec::from([disk])).unwrap();
        let before = before_chunks(&layout);
        let chunk = [1; 4096];
        let hash = *blake3::hash(&chunk).as_bytes();
        let manifest = Manifest::new(layout, Vec::from([hash, hash])).unwrap();
        let mut image = beginning(&manifest, &[4096, 4096]);
        assert_eq!(image.len() as u64, before);
        image.extend([chunk, chunk].concat());
        image
    }

    fn read(bytes: &[u8]) -> Result<Image, &'static str> {
        let (first, rest) = bytes.split_first_chunk().ok_or("short")?;
        let head = Head::read(first)?;
        let (manifest, rest) = rest.split_at_checked(head.manifest).ok_or("short")?;
        let (manifest, index) = Image::manifest(&head, manifest)?;
        Image::new(&head, manifest, rest.get(..index).ok_or("short")?)
    }

    #[test]
    fn an_image_of_two_chunks() {
        let bytes = small();
        let image = read(&bytes).unwrap();
        for n in 0..2 {
            let place = image.place(n).unwrap();
            let packed = &bytes[place.start as usize..place.end as usize];
            assert_eq!(image.chunk(n, packed), Some([1; 4096].to_vec()));
            assert_eq!(image.chunk(n, &[2; 4096]), None);
        }
        assert_eq!(image.place(2), None);
        // The vector of docs/clone-image.md.
        let hex: String = bytes[..HEAD].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, VECTOR);
    }

    const VECTOR: &str = "62656c6c7765746865722d696d616765010000000100000071000000000000\
                          00f9200000000000002b09152231bf5c6049ea1052ecbef13057fdfb080c1115\
                          cc78bf31631acb612c3257a0e6da28a3abda32e58ce1930615dd2a9c19f8d54d\
                          48feffa5e4a1652d110000000000000000000000000000000000000000000000\
                          00";

    #[test]
    fn a_packed_chunk_is_unpacked_and_bounded() {
        // zstd frames of one RLE block: of 4096 and of 4097 bytes `1`.
        let frame = |bytes: u32| {
            let mut frame = Vec::from([0x28, 0xb5, 0x2f, 0xfd, 0xa0]);
            frame.extend(bytes.to_le_bytes());
            frame.extend((bytes << 3 | 0b011).to_le_bytes().first_chunk::<3>().unwrap());
            frame.push(1);
            frame
        };
        assert_eq!(unpack(&frame(4096), 4096), Some([1; 4096].to_vec()));
        assert_eq!(unpack(&frame(4097), 4096), None);
        assert_eq!(unpack(&frame(4096), 4097), None);
        assert_eq!(unpack(&[], 4096), None);
        assert_eq!(unpack(&[0x28, 0xb5, 0x2f], 4096), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |at: usize, value: u8| {
            let mut bytes = small();
            bytes[at] = value;
            read(&bytes).map(|_| ())
        };
        assert_eq!(with(0, b'B'), Err("is no image of bellwether clone save"));
        assert_eq!(with(16, 2), Err("is an image of another version; save it with this one"));
        assert_eq!(with(20, 2), Err("is an image of another version; save it with this one"));
        assert_eq!(with(27, 1), Err("is damaged: its manifest has a wrong length"));
        assert_eq!(with(32, 0), Err("is damaged: its length is not that of its chunks"));
        assert_eq!(with(40, 0xee), Err("is damaged: its manifest has another digest"));
        assert_eq!(with(72, 0xee), Err("is damaged: its index has another digest"));
        let mut unfinished = small();
        unfinished[..HEAD].fill(0);
        assert_eq!(
            read(&unfinished).map(|_| ()),
            Err("begins with zeros: it is no image, or one that was not finished")
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, at in 0usize..400, value: u8) {
            let _ = read(&bytes);
            let mut image = small();
            image[at % (HEAD + 0x81 + 8)] = value;
            if let Ok(image) = read(&image) {
                prop_assert_eq!(image.manifest.bytes(), read(&small()).unwrap().manifest.bytes());
            }
            let _ = unpack(&bytes, 4096);
        }
    }
}
