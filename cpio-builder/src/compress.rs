//! The compressions that kernels unpack: zstd, gzip, xz and lz4; bzip2, LZMA and LZO are read only.
//!
//! The codecs are libraries. This module chooses parameters that the *kernel's* decoders
//! accept, and reads one of several concatenated streams.
//!
//! - zstd: `lib/decompress_unzstd.c` refuses windows over 128 MiB, and takes
//!   the window's size in memory; 8 MiB is used here.
//! - xz: the kernel checks CRC32 or nothing.
//! - lz4: the kernel reads only the legacy frame (`lz4 -l`): a magic, then
//!   blocks of 8 MiB, each behind its length, with no mark at the end.
//! - LZO is the file format of lzop, of which the kernel reads blocks of at most 256 KiB
//!   (`lib/decompress_unlzo.c`).

use coldplug::index::Compression;
use std::fmt;
use std::io::{self, BufRead, Read, Write};

/// A way to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// The .xz format 1.0.4.
    Xz,
    /// RFC 8878.
    Zstd,
    /// LZ4 legacy frame. Read: the current frame format too.
    Lz4,
    /// bzip2 1.0. Not written.
    Bzip2,
    /// LZMA alone, the format before .xz. Not written.
    Lzma,
    /// LZO1X in lzop's file format. Not written.
    Lzo,
}

impl Codec {
    /// Those that are written, in the order shown to people.
    pub const ALL: [Self; 5] = [Self::Zstd, Self::Gzip, Self::Xz, Self::Lz4, Self::None];

    /// The word used on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Lzo => "lzo",
        }
    }

    /// From the word used on the command line.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }

    /// From the ending of a file's name: `.gz`, or empty.
    #[must_use]
    pub fn from_ending(ending: &str) -> Option<Self> {
        Compression::ALL.into_iter().find(|known| known.ending() == ending).map(Self::from)
    }

    /// Recognises a stream by its first bytes. Nothing recognised is `None`
    /// of the option, not [`Codec::None`].
    #[must_use]
    pub fn detect(bytes: &[u8]) -> Option<Self> {
        let known: [(&[u8], Self); 8] = [
            (&[0x1f, 0x8b, 0x08], Self::Gzip),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Self::Xz),
            (&[0x28, 0xb5, 0x2f, 0xfd], Self::Zstd),
            (&LZ4_LEGACY, Self::Lz4),
            (&LZ4_FRAME, Self::Lz4),
            (b"BZh", Self::Bzip2),
            (&[0x5d, 0, 0], Self::Lzma),
            (&LZOP[..8], Self::Lzo),
        ];
        known.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, codec)| *codec)
    }
}

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Gzip => Self::Gzip,
            Compression::Xz => Self::Xz,
            Compression::Zstd => Self::Zstd,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an lzop file starts with.
const LZOP: [u8; 9] = [0x89, b'L', b'Z', b'O', 0, 0x0d, 0x0a, 0x1a, 0x0a];
/// An lzop file's flags: checksums of each block, plain and packed.
const ADLER32: u32 = 1;
const ADLER32_PACKED: u32 = 2;
const CRC32: u32 = 0x100;
const CRC32_PACKED: u32 = 0x200;
/// The largest block of an lzop file that the kernel reads.
const LZOP_BLOCK: usize = 256 << 10;

const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const LZ4_FRAME: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// Uncompressed size of a block in the legacy frame; fixed by the format.
const LZ4_BLOCK: usize = 8 << 20;

/// zstd's parameters, spelt out so that a library version with other levels makes the same
/// image. Chosen on kernel modules: 0.4 % larger than level 18 and 15 % faster, 2 % smaller
/// than level 17.
const ZSTD_STRATEGY: zstd::zstd_safe::Strategy = zstd::zstd_safe::Strategy::ZSTD_btultra;
const ZSTD_WINDOW_LOG: u32 = 23;
/// The smallest window, of 128 KiB.
const ZSTD_SMALLEST_LOG: u32 = 17;
const ZSTD_CHAIN_LOG: u32 = 23;
const ZSTD_HASH_LOG: u32 = 22;
const ZSTD_SEARCH_LOG: u32 = 5;
const ZSTD_MIN_MATCH: u32 = 3;
const ZSTD_TARGET_LENGTH: u32 = 64;
/// How much of the previous job's window a job starts with: an eighth.
const ZSTD_OVERLAP: u32 = 6;
/// The level after which time grows faster than what it saves.
const QUICK_LEVEL: i32 = 9;
/// Number of jobs, whatever the machine: the split changes the output, the number of threads
/// does not.
const ZSTD_JOBS: usize = 2;
/// The smallest job that zstd allows.
const ZSTD_JOB_MIN: usize = 512 << 10;

/// Compresses. The same input gives the same bytes on every machine.
///
/// # Errors
/// The codec's error, such as a lack of memory; [`io::ErrorKind::Unsupported`] for one that is only
/// read.
pub fn compress(codec: Codec, data: &[u8]) -> io::Result<Vec<u8>> {
    match codec {
        Codec::None => Ok(data.to_vec()),
        Codec::Gzip => {
            let mut out =
                flate2::GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::best());
            out.write_all(data)?;
            out.finish()
        }
        Codec::Xz => {
            let mut options = lzma_rust2::XzOptions::with_preset(6);
            options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
            let mut out = lzma_rust2::XzWriter::new(Vec::new(), options)?;
            out.write_all(data)?;
            out.finish()
        }
        Codec::Zstd => {
            use zstd::zstd_safe::CParameter;
            let job = data.len().div_ceil(ZSTD_JOBS).max(ZSTD_JOB_MIN);
            // Tables for more than there is take memory, and find nothing more.
            let log = |size: usize| {
                let log = usize::BITS - size.leading_zeros();
                log.clamp(ZSTD_SMALLEST_LOG, ZSTD_WINDOW_LOG)
            };
            let (all, of_job) = (log(data.len()), log(job));
            let mut out = zstd::Encoder::new(Vec::new(), 0)?;
            for parameter in [
                CParameter::Strategy(ZSTD_STRATEGY),
                CParameter::WindowLog(all),
                CParameter::ChainLog(ZSTD_CHAIN_LOG.min(of_job + 1)),
                CParameter::HashLog(ZSTD_HASH_LOG.min(of_job)),
                CParameter::SearchLog(ZSTD_SEARCH_LOG),
                CParameter::MinMatch(ZSTD_MIN_MATCH),
                CParameter::TargetLength(ZSTD_TARGET_LENGTH),
                CParameter::NbWorkers(2),
                CParameter::JobSize(u32::try_from(job).unwrap_or(0)),
                CParameter::OverlapSizeLog(ZSTD_OVERLAP),
            ] {
                out.set_parameter(parameter)?;
            }
            out.set_pledged_src_size(Some(data.len() as u64))?;
            out.include_contentsize(true)?;
            // The kernel checks it, and says that the archive is corrupt: one bit that flipped
            // in memory or in a boot loader ran unnoticed.
            out.include_checksum(true)?;
            out.write_all(data)?;
            out.finish()
        }
        Codec::Lz4 => {
            let mut out = LZ4_LEGACY.to_vec();
            for block in data.chunks(LZ4_BLOCK) {
                let packed = lz4_flex::block::compress(block);
                let len = u32::try_from(packed.len()).map_err(io::Error::other)?;
                out.extend_from_slice(&len.to_le_bytes());
                out.extend_from_slice(&packed);
            }
            Ok(out)
        }
        Codec::Bzip2 | Codec::Lzma | Codec::Lzo => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Compresses with zstd in a tenth of the time that [`compress`] takes, to an eighth more: for
/// what is made anew at each start. The output depends on the library's version.
///
/// # Errors
/// As [`compress`].
pub fn quickly(data: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = zstd::Encoder::new(Vec::new(), QUICK_LEVEL)?;
    out.set_parameter(zstd::zstd_safe::CParameter::WindowLog(ZSTD_WINDOW_LOG))?;
    out.set_pledged_src_size(Some(data.len() as u64))?;
    out.include_checksum(true)?;
    out.write_all(data)?;
    out.finish()
}

/// Unpacks the first stream in `bytes`; returns the data and the stream's length. At most
/// `limit` bytes are unpacked.
///
/// # Errors
/// [`io::ErrorKind::FileTooLarge`] above `limit` bytes; the codec's error for a damaged or
/// truncated stream.
pub fn decompress(codec: Codec, bytes: &[u8], limit: usize) -> io::Result<(Vec<u8>, usize)> {
    let mut rest = bytes;
    let out = match codec {
        Codec::None => {
            rest = &[];
            bounded(bytes, limit)?
        }
        Codec::Gzip | Codec::Xz | Codec::Zstd | Codec::Bzip2 | Codec::Lzma | Codec::Lzo => {
            bounded(one(codec, &mut rest)?, limit)?
        }
        Codec::Lz4 if bytes.starts_with(&LZ4_FRAME) => {
            bounded(lz4_flex::frame::FrameDecoder::new(&mut rest), limit)?
        }
        Codec::Lz4 => lz4_legacy(&mut rest, limit)?,
    };
    Ok((out, bytes.len() - rest.len()))
}

/// Unpacks the first stream of `from` as it is read, and leaves the bytes after it. Not LZ4,
/// whose legacy frame does not mark its end.
///
/// # Errors
/// The start of the stream is damaged, or the codec does not mark its end.
pub fn one<'r>(codec: Codec, from: impl BufRead + 'r) -> io::Result<Box<dyn Read + 'r>> {
    Ok(match codec {
        Codec::Gzip => Box::new(flate2::bufread::GzDecoder::new(from)),
        // The decoder's own memory is bounded, too: kernels use at most 64 MiB.
        Codec::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(from, false, 1 << 18)),
        Codec::Zstd => Box::new(zstd::Decoder::with_buffer(from)?.single_frame()),
        Codec::Bzip2 => Box::new(bzip2::bufread::BzDecoder::new(from)),
        Codec::Lzma => Box::new(lzma(from)?),
        Codec::Lzo => Box::new(Lzop::new(from)?),
        Codec::None | Codec::Lz4 => return Err(io::ErrorKind::Unsupported.into()),
    })
}

/// Unpacks one stream as it is read. Not LZ4's legacy frame, which does not mark its end.
///
/// # Errors
/// The start of the stream is damaged, or the codec is not supported here.
pub fn reader<'r>(codec: Codec, from: impl BufRead + 'r) -> io::Result<Box<dyn Read + 'r>> {
    Ok(match codec {
        Codec::None => Box::new(from),
        Codec::Gzip => Box::new(flate2::bufread::GzDecoder::new(from)),
        Codec::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(from, true, 1 << 18)),
        Codec::Zstd => Box::new(zstd::Decoder::with_buffer(from)?),
        Codec::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(from)),
        Codec::Lzma => Box::new(lzma(from)?),
        Codec::Lzo => Box::new(Lzop::new(from)?),
        Codec::Lz4 => return Err(io::ErrorKind::Unsupported.into()),
    })
}

fn lzma<R: BufRead>(from: R) -> io::Result<lzma_rust2::LzmaReader<OneByte<R>>> {
    lzma_rust2::LzmaReader::new_mem_limit(OneByte(from), 1 << 18, None)
}

/// Unpacks one lzop file as it is read. Checksums of the plain bytes are compared, which the kernel
/// does not; those of the packed bytes are passed over.
struct Lzop<R> {
    from: R,
    /// Which checksums its blocks have.
    flags: u32,
    block: io::Cursor<Vec<u8>>,
    ended: bool,
}

impl<R: BufRead> Lzop<R> {
    /// Reads the header: version, method, flags, name and times (lzop's `lzop.c`, `conf.h`).
    fn new(mut from: R) -> io::Result<Self> {
        /// The version since which two more fields are there.
        const NEWER: u16 = 0x0940;
        const FILTER: u32 = 0x800;
        if bytes::<9>(&mut from)? != LZOP {
            return Err(damaged("not an lzop file"));
        }
        let newer = u16::from_be_bytes(bytes(&mut from)?) >= NEWER;
        // The library's version, the one needed to unpack, the method and its level.
        skip(&mut from, if newer { 6 } else { 3 })?;
        let flags = u32::from_be_bytes(bytes(&mut from)?);
        // The filter, the mode, and the time in one or two numbers.
        let filter = if flags & FILTER == 0 { 0 } else { 4 };
        skip(&mut from, filter + if newer { 12 } else { 8 })?;
        let [name] = bytes(&mut from)?;
        skip(&mut from, u64::from(name) + 4)?;
        Ok(Self { from, flags, block: io::Cursor::default(), ended: false })
    }

    /// Reads the next block.
    fn fill(&mut self) -> io::Result<()> {
        let size = u32::from_be_bytes(bytes(&mut self.from)?) as usize;
        if size == 0 {
            self.ended = true;
            return Ok(());
        }
        let packed = u32::from_be_bytes(bytes(&mut self.from)?) as usize;
        if size > LZOP_BLOCK || packed == 0 || packed > size {
            return Err(damaged("an lzop block of a size that kernels refuse"));
        }
        let mut sum = |bit: u32| -> io::Result<Option<u32>> {
            let has = self.flags & bit != 0;
            has.then(|| bytes(&mut self.from).map(u32::from_be_bytes)).transpose()
        };
        let (adler, crc) = (sum(ADLER32)?, sum(CRC32)?);
        // A block that does not shrink is stored, and has no checksums of its packed bytes.
        if packed < size {
            sum(ADLER32_PACKED)?;
            sum(CRC32_PACKED)?;
        }
        let mut data = vec![0; packed];
        self.from.read_exact(&mut data)?;
        if packed < size {
            let mut out = vec![0; size];
            if lzokay::decompress::decompress(&data, &mut out) != Ok(size) {
                return Err(damaged("a damaged lzop block"));
            }
            data = out;
        }
        let mut found = flate2::Crc::new();
        found.update(&data);
        let differs = |sum: Option<u32>, found: u32| sum.is_some_and(|sum| sum != found);
        if differs(adler, adler2::adler32_slice(&data)) || differs(crc, found.sum()) {
            return Err(damaged("an lzop block with a wrong checksum"));
        }
        self.block = io::Cursor::new(data);
        Ok(())
    }
}

impl<R: BufRead> Read for Lzop<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.block.read(buffer)?;
            if read > 0 || self.ended || buffer.is_empty() {
                return Ok(read);
            }
            self.fill()?;
        }
    }
}

fn bytes<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn skip(from: &mut impl Read, count: u64) -> io::Result<()> {
    let skipped = io::copy(&mut from.take(count), &mut io::sink())?;
    if skipped == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Gives one byte at a time: the decoder reads ahead, and what follows the stream would be lost.
struct OneByte<R>(R);

impl<R: Read> Read for OneByte<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let one = buffer.len().min(1);
        self.0.read(buffer.get_mut(..one).unwrap_or_default())
    }
}

fn bounded(from: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let read = from.take(limit as u64 + 1).read_to_end(&mut out)?;
    if read > limit { Err(too_big(limit)) } else { Ok(out) }
}

fn too_big(limit: usize) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("unpacks to more than {limit} bytes"))
}

fn lz4_legacy(rest: &mut &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut at = rest.get(LZ4_LEGACY.len()..).unwrap_or_default();
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "cut short inside an lz4 block");
    while let Some((len, after)) = at.split_first_chunk::<4>() {
        if *len == LZ4_LEGACY {
            at = after;
            continue;
        }
        let len = u32::from_le_bytes(*len) as usize;
        // Padding, or the start of the data after the stream.
        if len == 0 || len > lz4_flex::block::get_maximum_output_size(LZ4_BLOCK) {
            break;
        }
        let (block, after) = after.split_at_checked(len).ok_or_else(cut)?;
        let room = LZ4_BLOCK.min(limit.saturating_sub(out.len()));
        let data = lz4_flex::block::decompress(block, room).map_err(|e| match e {
            lz4_flex::block::DecompressError::OutputTooSmall { .. } if room < LZ4_BLOCK => {
                too_big(limit)
            }
            e => io::Error::new(io::ErrorKind::InvalidData, e.to_string()),
        })?;
        out.extend_from_slice(&data);
        at = after;
    }
    *rest = at;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REAL: [Codec; 4] = [Codec::Zstd, Codec::Gzip, Codec::Xz, Codec::Lz4];
    const BZIP2_FIRST: &[u8] = &[
        0x42, 0x5a, 0x68, 0x39, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, 0x13, 0xca, 0xfd, 0x8d, 0x00,
        0x00, 0x00, 0xc1, 0x80, 0x00, 0x10, 0x01, 0x20, 0x1c, 0x00, 0x20, 0x00, 0x21, 0x80, 0x0c,
        0x03, 0x27, 0x2e, 0xe2, 0xee, 0x48, 0xa7, 0x0a, 0x12, 0x02, 0x79, 0x5f, 0xb1, 0xa0,
    ];
    const BZIP2_SECOND: &[u8] = &[
        0x42, 0x5a, 0x68, 0x39, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, 0x96, 0xda, 0x59, 0xcf, 0x00,
        0x00, 0x03, 0x41, 0x80, 0x00, 0x10, 0x0e, 0x01, 0x88, 0x00, 0x20, 0x00, 0x31, 0x0c, 0x01,
        0x0d, 0x31, 0xa9, 0xce, 0x00, 0x78, 0xbb, 0x92, 0x29, 0xc2, 0x84, 0x84, 0xb6, 0xd2, 0xce,
        0x78,
    ];
    const LZMA_FIRST: &[u8] = &[
        0x5d, 0x00, 0x00, 0x80, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x33,
        0x1a, 0x4a, 0xac, 0x0c, 0x72, 0x1b, 0xa8, 0xb1, 0xff, 0xff, 0xfe, 0x2b, 0x78, 0x00,
    ];
    const LZMA_SECOND: &[u8] = &[
        0x5d, 0x00, 0x00, 0x80, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x39,
        0x99, 0x48, 0x91, 0xb1, 0x69, 0x95, 0x7d, 0x33, 0xa4, 0xff, 0xff, 0xfe, 0x73, 0xb0, 0x00,
    ];
    const LZO_FIRST: &[u8] = &[
        0x89, 0x4c, 0x5a, 0x4f, 0x00, 0x0d, 0x0a, 0x1a, 0x0a, 0x10, 0x40, 0x20, 0xa0, 0x09, 0x40,
        0x03, 0x09, 0x03, 0x00, 0x00, 0x0d, 0x00, 0x00, 0x00, 0x00, 0x6b, 0x0d, 0xca, 0xf7, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x2f, 0x45, 0x03, 0xaf, 0x00, 0x00, 0x00, 0x06, 0x00, 0x00, 0x00,
        0x06, 0x08, 0x8a, 0x02, 0x33, 0x66, 0x69, 0x72, 0x73, 0x74, 0x0a, 0x00, 0x00, 0x00, 0x00,
    ];
    const LZO_TEXT: &[u8] = &[
        0x89, 0x4c, 0x5a, 0x4f, 0x00, 0x0d, 0x0a, 0x1a, 0x0a, 0x10, 0x40, 0x20, 0xa0, 0x09, 0x40,
        0x03, 0x09, 0x03, 0x00, 0x00, 0x0d, 0x00, 0x00, 0x00, 0x00, 0x6b, 0x0d, 0xcb, 0x0b, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x29, 0xc4, 0x02, 0xc4, 0x00, 0x00, 0x0b, 0xb8, 0x00, 0x00, 0x00,
        0x21, 0xaa, 0x18, 0x5c, 0xf4, 0x1c, 0x42, 0x65, 0x6c, 0x6c, 0x77, 0x65, 0x74, 0x68, 0x65,
        0x72, 0x0a, 0x20, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xe6, 0x28, 0x00, 0x20, 0x00,
        0x00, 0x00, 0x8f, 0x28, 0x00, 0x11, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    ];
    const LZO_TWO_SUMS: &[u8] = &[
        0x89, 0x4c, 0x5a, 0x4f, 0x00, 0x0d, 0x0a, 0x1a, 0x0a, 0x10, 0x40, 0x20, 0xa0, 0x10, 0x01,
        0x03, 0x09, 0x03, 0x00, 0x13, 0x0c, 0x00, 0x00, 0x00, 0x00, 0x6b, 0x0d, 0xcb, 0x0b, 0x00,
        0x00, 0x00, 0x00, 0x00, 0xea, 0xdb, 0xb5, 0xab, 0x00, 0x00, 0x0b, 0xb8, 0x00, 0x00, 0x00,
        0x21, 0xa1, 0x16, 0x9f, 0xfb, 0x33, 0x9d, 0x5c, 0x7f, 0x1c, 0x42, 0x65, 0x6c, 0x6c, 0x77,
        0x65, 0x74, 0x68, 0x65, 0x72, 0x0a, 0x20, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xe6,
        0x28, 0x00, 0x20, 0x00, 0x00, 0x00, 0x8f, 0x28, 0x00, 0x11, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00,
    ];
    const LZO_SECOND: &[u8] = &[
        0x89, 0x4c, 0x5a, 0x4f, 0x00, 0x0d, 0x0a, 0x1a, 0x0a, 0x10, 0x40, 0x20, 0xa0, 0x09, 0x40,
        0x03, 0x09, 0x03, 0x00, 0x00, 0x0d, 0x00, 0x00, 0x00, 0x00, 0x6b, 0x0d, 0xca, 0xf7, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x2f, 0x45, 0x03, 0xaf, 0x00, 0x00, 0x00, 0x07, 0x00, 0x00, 0x00,
        0x07, 0x0b, 0x51, 0x02, 0x87, 0x73, 0x65, 0x63, 0x6f, 0x6e, 0x64, 0x0a, 0x00, 0x00, 0x00,
        0x00,
    ];

    #[test]
    fn streams_behind_each_other_are_told_apart() {
        for codec in REAL {
            let mut bytes = compress(codec, b"first").unwrap();
            let first = bytes.len();
            bytes.extend_from_slice(b"\0\0\0\0");
            bytes.extend_from_slice(&compress(codec, b"second").unwrap());
            assert_eq!(Codec::detect(&bytes), Some(codec));
            let (data, used) = decompress(codec, &bytes, 100).unwrap();
            assert_eq!((data.as_slice(), used), (&b"first"[..], first), "{codec}");
        }
    }

    /// Streams by bzip2 1.0.8, xz 5.4 (`--format=lzma`) and lzop 1.04 of "first\n" and "second\n".
    #[test]
    fn what_is_only_read() {
        let bzip2: [&[u8]; 2] = [BZIP2_FIRST, BZIP2_SECOND];
        let lzma: [&[u8]; 2] = [LZMA_FIRST, LZMA_SECOND];
        let lzo: [&[u8]; 2] = [LZO_FIRST, LZO_SECOND];
        for (codec, [first, second]) in
            [(Codec::Bzip2, bzip2), (Codec::Lzma, lzma), (Codec::Lzo, lzo)]
        {
            let bytes = [first, b"\0\0\0\0", second].concat();
            assert_eq!(Codec::detect(&bytes), Some(codec));
            let (data, used) = decompress(codec, &bytes, 100).unwrap();
            assert_eq!((data.as_slice(), used), (&b"first\n"[..], first.len()), "{codec}");
            assert_eq!(decompress(codec, second, 100).unwrap().0, b"second\n");
            assert!(decompress(codec, &first[..first.len() - 5], 100).is_err(), "{codec}");
            assert!(decompress(codec, first, 3).is_err(), "{codec}");
            assert!(compress(codec, b"").is_err());
        }
    }

    /// What `yes Bellwether | head -c 3000 | lzop -9` writes, and the same with two checksums of each
    /// block (`--crc32 -CC`).
    #[test]
    fn blocks_of_lzop() {
        let text: Vec<u8> = b"Bellwether\n".iter().copied().cycle().take(3000).collect();
        for (file, head) in [(LZO_TEXT, 38), (LZO_TWO_SUMS, 38)] {
            let (data, used) = decompress(Codec::Lzo, file, text.len()).unwrap();
            assert!(data == text && used == file.len());
            let block = &file[head..file.len() - 4];
            let twice = [file.get(..head).unwrap(), block, block, &[0; 4]].concat();
            assert_eq!(decompress(Codec::Lzo, &twice, 1 << 20).unwrap().0, text.repeat(2));
            // Its plain and its packed size, a checksum, and what is packed.
            for (at, value) in [(1, 1), (1, 5), (3, 0), (7, 1), (6, 255), (8, 0), (22, b'!')] {
                let mut bad = file.to_vec();
                bad[head + at] = value;
                assert!(decompress(Codec::Lzo, &bad, 1 << 20).is_err(), "{at} {value}");
            }
        }
    }

    #[test]
    fn a_limit_is_a_limit() {
        let big = vec![7; 9 << 20];
        for codec in REAL {
            let bytes = compress(codec, &big).unwrap();
            assert_eq!(decompress(codec, &bytes, big.len()).unwrap().0.len(), big.len());
            for limit in [0, 1000, big.len() - 1] {
                let error = decompress(codec, &bytes, limit).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{codec} {limit} {error}");
            }
        }
    }

    #[test]
    fn a_cut_stream_is_an_error() {
        let text: Vec<u8> = (0..5000u32).flat_map(|n| (n * n).to_le_bytes()).collect();
        for codec in REAL {
            let bytes = compress(codec, &text).unwrap();
            for cut in [bytes.len() / 2, bytes.len() - 1] {
                assert!(decompress(codec, &bytes[..cut], 1 << 20).is_err(), "{codec} {cut}");
            }
        }
    }

    #[test]
    fn the_kernel_accepts_the_zstd_window() {
        // Frame header descriptor and window byte, RFC 8878 section 3.1.1.1.
        let data: Vec<u8> = (0..9_000_000u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        let bytes = compress(Codec::Zstd, &data).unwrap();
        assert_eq!(bytes[4] & 0x20, 0, "not a single segment");
        let window_log = 10 + (bytes[5] >> 3);
        assert!(window_log <= 23, "window 2^{window_log}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn round_trip(data in proptest::collection::vec(0u8..4, 0..5000)) {
            for codec in Codec::ALL {
                let packed = compress(codec, &data).unwrap();
                prop_assert_eq!(&decompress(codec, &packed, data.len()).unwrap().0, &data);
            }
        }

        #[test]
        fn garbage_never_panics(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            for stream in [BZIP2_FIRST, LZMA_FIRST, LZO_FIRST] {
                let codec = Codec::detect(stream).unwrap();
                let at = data.len() % stream.len();
                let _ = decompress(codec, &[&stream[..at], &data].concat(), 1 << 20);
            }
            for codec in REAL {
                let magic = &compress(codec, b"").unwrap()[..4];
                let _ = decompress(codec, &[magic, &data].concat(), 1 << 20);
                let _ = decompress(codec, &data, 1 << 20);
            }
        }
    }
}
