//! cloop images, version 2: `rescue.clp` of Mandriva's stage 2 and Knoppix's
//! `KNOPPIX/KNOPPIX`. No current kernel reads them.
//!
//! All numbers are big-endian: a 128-byte text, the block size (u32), the
//! number of blocks (u32), one more offset than that (u64), then each block
//! as a zlib stream. What the text says differs between tools, so an image is
//! known by its numbers: the first offset is where the table ends. Versions
//! 0.x and 3 and later, and LZMA in V2 images, are other formats, not read.

use flate2::read::{ZlibDecoder, ZlibEncoder};
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use sys::bytes::or_zero::be32;

/// The text before the numbers.
const PREAMBLE: usize = 128;
/// Length of everything before the offsets.
const HEADER: usize = PREAMBLE + 8;
/// Block size that Mandriva's tools used.
pub const BLOCK: u32 = 65536;
/// Largest block taken: cloop's own limit.
const BLOCK_MAX: u32 = 1 << 20;
/// Most blocks taken: 64 GiB in Mandriva's blocks.
const BLOCKS_MAX: u32 = 1 << 20;

/// A shell that runs the image says what it is; current tools look for the
/// version in the second line.
const TEXT: &[u8] = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\nexit $?\n";

/// Why an image is not read or written.
#[derive(Debug)]
pub enum CloopError {
    /// The numbers at the start are not those of a cloop image.
    NotCloop(&'static str),
    /// It is cut short.
    Truncated {
        /// The incomplete block, from 0.
        block: u32,
    },
    /// A block does not unpack to what it should.
    Block {
        /// Its number, from 0.
        block: u32,
        /// The codec's error.
        source: io::Error,
    },
    /// Too much for the format's limits here.
    TooBig,
    /// Reading the input failed.
    Read(io::Error),
    /// Writing the output failed.
    Write(io::Error),
}

impl fmt::Display for CloopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCloop(why) => write!(f, "not a cloop V2 image: {why}"),
            Self::Truncated { block } => write!(f, "the image is cut short in block {block}"),
            Self::Block { block, source } => write!(f, "block {block} does not unpack: {source}"),
            Self::TooBig => write!(f, "more than {BLOCKS_MAX} blocks"),
            Self::Read(e) => write!(f, "cannot be read: {e}"),
            Self::Write(e) => write!(f, "cannot write: {e}"),
        }
    }
}

impl std::error::Error for CloopError {}

fn cut(block: u32) -> impl Fn(io::Error) -> CloopError {
    move |e| match e.kind() {
        io::ErrorKind::UnexpectedEof => CloopError::Truncated { block },
        _ => CloopError::Read(e),
    }
}

/// The header and the table of offsets of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Bytes of an unpacked block.
    pub block_size: u32,
    /// Where each block starts; the last one is the end of the image.
    offsets: Vec<u64>,
}

impl Header {
    /// Reads and checks the header and the table of offsets.
    ///
    /// # Errors
    /// [`CloopError::NotCloop`] for an impossible header or table, [`CloopError::Truncated`]
    /// for a short one, [`CloopError::Read`].
    pub fn read(from: &mut impl Read) -> Result<Self, CloopError> {
        let mut head = [0; HEADER];
        from.read_exact(&mut head).map_err(|_| CloopError::NotCloop("it is too short"))?;
        let (block_size, blocks) = (be32(&head, PREAMBLE), be32(&head, PREAMBLE + 4));
        if block_size == 0 || block_size > BLOCK_MAX || block_size % 512 != 0 {
            return Err(CloopError::NotCloop(
                "its block size is not a multiple of 512 up to 1 MiB",
            ));
        }
        if blocks > BLOCKS_MAX {
            return Err(CloopError::TooBig);
        }
        // Read before memory is reserved for it: the number may be false.
        let size = (u64::from(blocks) + 1) * 8;
        let mut table = Vec::new();
        from.take(size).read_to_end(&mut table).map_err(CloopError::Read)?;
        if table.len() as u64 != size {
            return Err(CloopError::Truncated { block: 0 });
        }
        let (entries, _) = table.as_chunks::<8>();
        let offsets: Vec<u64> = entries.iter().map(|b| u64::from_be_bytes(*b)).collect();
        if offsets.first() != Some(&(HEADER as u64 + size)) {
            return Err(CloopError::NotCloop("its first block does not follow its table"));
        }
        // zlib makes incompressible data a little larger.
        let most = u64::from(block_size) + u64::from(block_size) / 64 + 64;
        let grows = |pair: &[u64]| matches!(pair, [a, b] if b > a && b - a <= most);
        if !offsets.windows(2).all(grows) {
            return Err(CloopError::NotCloop("its offsets do not increase"));
        }
        Ok(Self { block_size, offsets })
    }

    /// Number of blocks.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        u32::try_from(self.offsets.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }
}

/// Unpacks an image; returns the number of bytes written. `told` is called with the number of
/// blocks done.
///
/// # Errors
/// [`CloopError::Truncated`] or [`CloopError::Block`] with the damaged block;
/// [`CloopError::Write`].
pub fn unpack(
    from: &mut impl Read,
    to: &mut impl Write,
    told: &mut dyn FnMut(u32, u32),
) -> Result<u64, CloopError> {
    let header = Header::read(from)?;
    let mut written = 0;
    let mut packed = Vec::new();
    for (block, pair) in (0..).zip(header.offsets.windows(2)) {
        let [start, end] = *pair else { continue };
        packed.clear();
        from.by_ref().take(end - start).read_to_end(&mut packed).map_err(CloopError::Read)?;
        if packed.len() as u64 != end - start {
            return Err(CloopError::Truncated { block });
        }
        let mut data = Vec::with_capacity(header.block_size as usize);
        let read = ZlibDecoder::new(packed.as_slice())
            .take(u64::from(header.block_size) + 1)
            .read_to_end(&mut data);
        read.map_err(|source| CloopError::Block { block, source })?;
        // Only the last block may be short.
        let full = data.len() == header.block_size as usize;
        let last = block + 1 == header.blocks() && data.len() <= header.block_size as usize;
        if !full && !last {
            let source = io::Error::other(format!("{} bytes in it", data.len()));
            return Err(CloopError::Block { block, source });
        }
        to.write_all(&data).map_err(CloopError::Write)?;
        written += data.len() as u64;
        told(block + 1, header.blocks());
    }
    Ok(written)
}

/// Packs `len` bytes into an image. The last block is filled with zeros, as other readers need
/// it. The same input gives the same bytes.
///
/// # Errors
/// [`CloopError::TooBig`] for too many blocks, [`CloopError::NotCloop`] for an invalid block
/// size, [`CloopError::Read`] for a short input, [`CloopError::Write`].
pub fn pack(
    from: &mut impl Read,
    len: u64,
    block_size: u32,
    to: &mut (impl Write + Seek),
    told: &mut dyn FnMut(u32, u32),
) -> Result<(), CloopError> {
    if block_size == 0 || block_size > BLOCK_MAX || !block_size.is_multiple_of(512) {
        return Err(CloopError::NotCloop("the block size must be a multiple of 512 up to 1 MiB"));
    }
    let blocks = u32::try_from(len.div_ceil(u64::from(block_size))).unwrap_or(u32::MAX);
    if blocks > BLOCKS_MAX {
        return Err(CloopError::TooBig);
    }
    let mut head = TEXT.to_vec();
    head.resize(PREAMBLE, 0);
    head.extend(block_size.to_be_bytes());
    head.extend(blocks.to_be_bytes());
    let mut at = HEADER as u64 + (u64::from(blocks) + 1) * 8;
    to.seek(SeekFrom::Start(at)).map_err(CloopError::Write)?;
    let mut table = at.to_be_bytes().to_vec();
    let mut data = vec![0; block_size as usize];
    let mut left = len;
    for block in 0..blocks {
        data.fill(0);
        let here = usize::try_from(left.min(u64::from(block_size))).unwrap_or(data.len());
        from.read_exact(data.get_mut(..here).unwrap_or_default()).map_err(cut(block))?;
        left -= here as u64;
        let mut packed = Vec::new();
        ZlibEncoder::new(data.as_slice(), flate2::Compression::best())
            .read_to_end(&mut packed)
            .map_err(CloopError::Read)?;
        to.write_all(&packed).map_err(CloopError::Write)?;
        at += packed.len() as u64;
        table.extend(at.to_be_bytes());
        told(block + 1, blocks);
    }
    to.seek(SeekFrom::Start(0)).map_err(CloopError::Write)?;
    to.write_all(&head).and_then(|()| to.write_all(&table)).map_err(CloopError::Write)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    /// Reads an image in memory.
    fn unpack_bytes(mut bytes: &[u8], limit: usize) -> Result<Vec<u8>, CloopError> {
        struct Bounded(Vec<u8>, usize);
        impl Write for Bounded {
            fn write(&mut self, data: &[u8]) -> io::Result<usize> {
                if self.0.len() + data.len() > self.1 {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                self.0.extend_from_slice(data);
                Ok(data.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut out = Bounded(Vec::new(), limit);
        unpack(&mut bytes, &mut out, &mut |_, _| ())?;
        Ok(out.0)
    }

    fn packed(data: &[u8], block: u32) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        pack(&mut &data[..], data.len() as u64, block, &mut out, &mut |_, _| ()).unwrap();
        out.into_inner()
    }

    /// An image put together by hand from the description of the format, with
    /// Python's zlib: 700 times 'a' in blocks of 512.
    fn by_hand() -> Vec<u8> {
        let block = |bytes: &[u8]| {
            let mut out = Vec::new();
            ZlibEncoder::new(bytes, flate2::Compression::fast()).read_to_end(&mut out).unwrap();
            out
        };
        let (one, two) = (block(&[b'a'; 512]), block(&[b'a'; 188]));
        let mut image = b"#!/bin/sh\n#V2.0 Format, another tool's words".to_vec();
        image.resize(128, b' ');
        image.extend([0, 0, 2, 0, 0, 0, 0, 2]);
        let mut at = 160u64;
        image.extend(at.to_be_bytes());
        for block in [&one, &two] {
            at += block.len() as u64;
            image.extend(at.to_be_bytes());
        }
        image.extend(one);
        image.extend(two);
        image
    }

    #[test]
    fn an_image_of_another_tool() {
        let image = by_hand();
        assert_eq!(unpack_bytes(&image, 4096).unwrap(), vec![b'a'; 700]);
        let short = unpack_bytes(&image[..image.len() - 1], 4096);
        assert!(matches!(short, Err(CloopError::Truncated { block: 1 })), "{short:?}");
        let mut damaged = image.clone();
        damaged[164] ^= 0xff;
        let told = unpack_bytes(&damaged, 4096).unwrap_err().to_string();
        assert!(told.starts_with("block 0 does not unpack") || told.contains("not rise"), "{told}");
        assert!(unpack_bytes(&image[..100], 4096).unwrap_err().to_string().contains("too short"));
        assert!(matches!(unpack_bytes(&image, 600), Err(CloopError::Write(_))));
    }

    #[test]
    fn what_is_written() {
        let image = packed(&[7; 1000], 512);
        assert!(image.starts_with(b"#!/bin/sh\n#V2.0 Format\n"));
        assert_eq!(image[128..136], [0, 0, 2, 0, 0, 0, 0, 2]);
        let out = unpack_bytes(&image, 4096).unwrap();
        assert_eq!((&out[..1000], &out[1000..]), (&[7; 1000][..], &[0; 24][..]));
        assert_eq!(image, packed(&[7; 1000], 512));
        assert_eq!(unpack_bytes(&packed(&[], 512), 10).unwrap(), b"");
        let mut short = Cursor::new(Vec::new());
        let told = pack(&mut &[1, 2][..], 600, 512, &mut short, &mut |_, _| ());
        assert!(matches!(told, Err(CloopError::Truncated { block: 0 })));
    }

    proptest! {
        #[test]
        fn round_trip(data in prop::collection::vec(any::<u8>(), 0..5000), block in 1u32..5) {
            let block = block * 512;
            let out = unpack_bytes(&packed(&data, block), 1 << 16).unwrap();
            prop_assert_eq!(&out[..data.len()], &data[..]);
            prop_assert_eq!(out.len(), data.len().next_multiple_of(block as usize));
        }

        #[test]
        fn damage_is_survived(at in 0usize..200, with: u8, len in 0usize..260, noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut image = by_hand();
            if let Some(byte) = image.get_mut(at) {
                *byte = with;
            }
            image.truncate(len);
            let _ = unpack_bytes(&image, 1 << 16);
            let _ = unpack_bytes(&noise, 1 << 16);
        }
    }
}
