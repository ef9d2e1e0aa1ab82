//! Expands compressed images as streams: gzip (RFC 1952), xz, Zstandard (RFC 8878), and cloop,
//! an image in blocks of zlib (RFC 1950).
//!
//! Bytes come from one closure and go to another, so a download is expanded as it arrives. The
//! checksums of gzip and xz are verified. Zstandard's is optional and ignored: a digest or
//! dm-verity is the better check.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use miniz_oxide::inflate::stream::{InflateState, MinReset, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};
use rustix::io::Errno;
use ruzstd::decoding::errors::FrameDecoderError;

use crate::probe::Format;

/// Bytes of input held at a time.
const BUFFER: usize = 64 << 10;

/// Largest dictionary or window that is allocated for a stream.
const MAX_WINDOW: u64 = 128 << 20;

/// Largest block of a cloop image, and most of them.
const MAX_BLOCK: u32 = 4 << 20;
const MAX_BLOCKS: u32 = 1 << 24;

/// Why an image could not be expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpandError {
    /// The input cannot be read.
    Read(Errno),
    /// The output cannot be written.
    Write(Errno),
    /// It is truncated.
    CutShort,
    /// It is damaged, or not in the format.
    Damaged(&'static str),
    /// The format is not supported.
    NotCompressed(Format),
}

impl fmt::Display for ExpandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(errno) => write!(f, "cannot be read: {}", sys::errno::Shown(*errno)),
            Self::Write(Errno::NOSPC) => f.write_str("does not fit into memory when expanded"),
            Self::Write(errno) => {
                write!(f, "cannot be written when expanded: {}", sys::errno::Shown(*errno))
            }
            Self::CutShort => f.write_str("is cut short; copy it again"),
            Self::Damaged(why) => write!(f, "is damaged: {why}"),
            Self::NotCompressed(format) => write!(f, "is {format}, which is not expanded"),
        }
    }
}

impl core::error::Error for ExpandError {}

/// Whether a format is one that [`expand`] knows.
#[must_use]
pub const fn is_compressed(format: Format) -> bool {
    matches!(format, Format::Gzip | Format::Xz | Format::Zstd | Format::Cloop)
}

/// The input; 0 at the end.
pub type Read<'r> = &'r mut dyn FnMut(&mut [u8]) -> Result<usize, Errno>;

/// The output.
pub type Write<'w> = &'w mut dyn FnMut(&[u8]) -> Result<(), Errno>;

/// Expands a stream from its first byte to its end. Returns the bytes written.
///
/// # Errors
/// [`ExpandError`] of the first failure; the bytes written before it stay.
pub fn expand(format: Format, read: Read<'_>, write: Write<'_>) -> Result<u64, ExpandError> {
    let mut input = Input::new(read);
    let mut output = Output { write, written: 0 };
    match format {
        Format::Gzip => gzip(&mut input, &mut output)?,
        Format::Xz => xz(&mut input, &mut output)?,
        Format::Zstd => zstd(&mut input, &mut output)?,
        Format::Cloop => cloop(&mut input, &mut output)?,
        other => return Err(ExpandError::NotCompressed(other)),
    }
    Ok(output.written)
}

/// A buffer before the source.
struct Input<'r> {
    read: Read<'r>,
    buffer: Vec<u8>,
    at: usize,
    filled: usize,
}

impl<'r> Input<'r> {
    fn new(read: Read<'r>) -> Self {
        Self { read, buffer: alloc::vec![0; BUFFER], at: 0, filled: 0 }
    }

    /// The buffered bytes, refilled when empty. Empty at the end.
    fn fill(&mut self) -> Result<&[u8], ExpandError> {
        if self.at >= self.filled {
            self.at = 0;
            self.filled = match (self.read)(&mut self.buffer) {
                Ok(length) => length.min(BUFFER),
                Err(errno) => {
                    self.filled = 0;
                    return Err(ExpandError::Read(errno));
                }
            };
        }
        Ok(self.buffer.get(self.at..self.filled).unwrap_or_default())
    }

    fn consume(&mut self, length: usize) {
        self.at = self.at.saturating_add(length).min(self.filled);
    }

    fn some(&mut self, room: &mut [u8]) -> Result<usize, ExpandError> {
        let have = self.fill()?;
        let length = have.len().min(room.len());
        for (slot, byte) in room.iter_mut().zip(have) {
            *slot = *byte;
        }
        self.consume(length);
        Ok(length)
    }

    fn exact(&mut self, room: &mut [u8]) -> Result<(), ExpandError> {
        let mut done = 0;
        while let Some(rest) = room.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.some(rest)? {
                0 => return Err(ExpandError::CutShort),
                length => done += length,
            }
        }
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, ExpandError> {
        let mut byte = [0];
        self.exact(&mut byte)?;
        let [byte] = byte;
        Ok(byte)
    }
}

struct Output<'w> {
    write: Write<'w>,
    written: u64,
}

impl Output<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), ExpandError> {
        (self.write)(bytes).map_err(ExpandError::Write)?;
        self.written = self.written.saturating_add(bytes.len() as u64);
        Ok(())
    }
}

fn gzip(input: &mut Input<'_>, output: &mut Output<'_>) -> Result<(), ExpandError> {
    let mut room = alloc::vec![0; BUFFER];
    let mut state = InflateState::new_boxed(DataFormat::Raw);
    loop {
        gzip_header(input)?;
        state.reset_as(MinReset);
        let mut sum = Crc::new();
        let mut length: u32 = 0;
        inflate_all(&mut state, input, &mut room, &mut |bytes| {
            sum.add(bytes);
            length = length.wrapping_add(bytes.len() as u32);
            output.put(bytes)
        })?;
        let mut tail = [0; 8];
        input.exact(&mut tail)?;
        let [a, b, c, d, e, f, g, h] = tail;
        if u32::from_le_bytes([a, b, c, d]) != sum.finish() {
            return Err(ExpandError::Damaged("its checksum does not match"));
        }
        if u32::from_le_bytes([e, f, g, h]) != length {
            return Err(ExpandError::Damaged("its length does not match"));
        }
        // Another member may follow; padding is ignored.
        if input.fill()?.first() != Some(&0x1f) {
            return Ok(());
        }
    }
}

/// RFC 1952, 2.3.
fn gzip_header(input: &mut Input<'_>) -> Result<(), ExpandError> {
    const HCRC: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    let mut head = [0; 10];
    input.exact(&mut head)?;
    let [0x1f, 0x8b, 8, flags, ..] = head else {
        return Err(ExpandError::Damaged("its gzip header is malformed"));
    };
    if flags & EXTRA != 0 {
        let length = u16::from_le_bytes([input.byte()?, input.byte()?]);
        for _ in 0..length {
            input.byte()?;
        }
    }
    for field in [NAME, COMMENT] {
        while flags & field != 0 && input.byte()? != 0 {}
    }
    if flags & HCRC != 0 {
        input.byte()?;
        input.byte()?;
    }
    Ok(())
}

/// Inflates to the end of the deflate stream; the bytes after it stay in the input.
fn inflate_all(
    state: &mut InflateState,
    input: &mut Input<'_>,
    room: &mut [u8],
    put: &mut dyn FnMut(&[u8]) -> Result<(), ExpandError>,
) -> Result<(), ExpandError> {
    loop {
        let bytes = input.fill()?;
        let ended = bytes.is_empty();
        let result = inflate(state, bytes, room, MZFlush::None);
        input.consume(result.bytes_consumed);
        put(room.get(..result.bytes_written).unwrap_or_default())?;
        match result.status {
            Ok(MZStatus::StreamEnd) => return Ok(()),
            Ok(_) | Err(MZError::Buf) if ended && result.bytes_written == 0 => {
                return Err(ExpandError::CutShort);
            }
            Ok(_) | Err(MZError::Buf) => {}
            Err(_) => {
                return Err(ExpandError::Damaged("its compressed data make no sense"));
            }
        }
    }
}

/// CRC-32 of gzip, with a table of sixteen: small, and fast enough.
struct Crc(u32);

const CRC_TABLE: [u32; 16] = {
    let mut table = [0; 16];
    let mut n = 0;
    while n < 16 {
        let mut value = n as u32;
        let mut bit = 0;
        while bit < 4 {
            value = if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
            bit += 1;
        }
        #[allow(clippy::indexing_slicing)]
        {
            table[n] = value;
        }
        n += 1;
    }
    table
};

impl Crc {
    const fn new() -> Self {
        Self(!0)
    }

    fn add(&mut self, bytes: &[u8]) {
        let step = |crc: u32| {
            let row = CRC_TABLE.get((crc & 15) as usize).copied().unwrap_or(0);
            row ^ (crc >> 4)
        };
        for byte in bytes {
            self.0 = step(step(self.0 ^ u32::from(*byte)));
        }
    }

    const fn finish(&self) -> u32 {
        !self.0
    }
}

/// xz by the crate's push interface: its readers have other types in a program that has `std`.
fn xz(input: &mut Input<'_>, output: &mut Output<'_>) -> Result<(), ExpandError> {
    use lzma_rust2::{Action, Status, XzStream};
    let mut room = alloc::vec![0; BUFFER];
    let limit = u32::try_from(MAX_WINDOW / 1024).unwrap_or(u32::MAX);
    let mut stream = XzStream::new_mem_limit(true, limit);
    loop {
        let bytes = input.fill()?;
        let ended = bytes.is_empty();
        let action = if ended { Action::Finish } else { Action::Run };
        let result = match stream.process(bytes, &mut room, action) {
            Ok(result) => result,
            Err(_) if ended => return Err(ExpandError::CutShort),
            Err(_) => {
                return Err(ExpandError::Damaged(
                    "its xz data are malformed, or need a window of more than 128 MiB",
                ));
            }
        };
        input.consume(result.bytes_consumed);
        output.put(room.get(..result.bytes_produced).unwrap_or_default())?;
        if matches!(result.status, Status::StreamEnd) {
            return Ok(());
        }
        if ended && result.bytes_produced == 0 {
            return Err(ExpandError::CutShort);
        }
    }
}

/// Bytes that hold any block with its header (RFC 8878, 3.1.1.2).
const ZSTD_BLOCK: usize = (128 << 10) + 64;

/// The first number of skippable frames (RFC 8878, 3.1.2); the last is 15 more.
const ZSTD_SKIP: u32 = 0x184d_2a50;

/// Zstandard by slices, for the same reason.
fn zstd(input: &mut Input<'_>, output: &mut Output<'_>) -> Result<(), ExpandError> {
    let mut room = alloc::vec![0; BUFFER];
    let mut decoder = Box::new(ruzstd::decoding::FrameDecoder::new());
    decoder.set_max_window_size(MAX_WINDOW);
    let mut held: Vec<u8> = Vec::new();
    // Several frames may follow each other, and skippable ones between them.
    loop {
        let mut ended = top_up(input, &mut held)?;
        let Some(magic) = held.first_chunk().copied().map(u32::from_le_bytes) else {
            return if held.is_empty() { Ok(()) } else { Err(ExpandError::CutShort) };
        };
        if magic & !15 == ZSTD_SKIP {
            let length = held.get(4..).and_then(|rest| rest.first_chunk()).copied();
            let length = u32::from_le_bytes(length.ok_or(ExpandError::CutShort)?);
            skip(input, &mut held, u64::from(length) + 8)?;
            continue;
        }
        let mut rest = held.as_slice();
        decoder.reset(&mut rest).map_err(zstd_finds)?;
        let header = held.len() - rest.len();
        held.drain(..header);
        // One block at a time: thousands of small ones may expand to gigabytes.
        loop {
            ended = ended || top_up(input, &mut held)?;
            let next = zstd_next(&held).ok_or(ExpandError::CutShort)?;
            let (read, written) = decoder.decode_from_to(next, &mut room).map_err(zstd_finds)?;
            output.put(room.get(..written).unwrap_or_default())?;
            // The decoder does not count an absent checksum.
            if read > held.len() {
                return Err(ExpandError::CutShort);
            }
            held.drain(..read);
            // The bytes held back for later blocks follow the last one.
            while decoder.can_collect() > 0 {
                let (_, written) = decoder.decode_from_to(&[], &mut room).map_err(zstd_finds)?;
                if written == 0 {
                    break;
                }
                output.put(room.get(..written).unwrap_or_default())?;
            }
            if decoder.is_finished() && decoder.can_collect() == 0 {
                break;
            }
            if read == 0 {
                return Err(ExpandError::CutShort);
            }
        }
    }
}

/// The next block, with its header (RFC 8878, 3.1.1.2) and, after the last, the optional
/// checksum.
fn zstd_next(held: &[u8]) -> Option<&[u8]> {
    const CHECKSUM: usize = 4;
    let [a, b, c] = held.first_chunk().copied()?;
    let header = u32::from_le_bytes([a, b, c, 0]);
    // A block of one repeated byte holds just that byte.
    let content = if header >> 1 & 3 == 1 { 1 } else { (header >> 3) as usize };
    let whole = 3 + content;
    let last = header & 1 == 1;
    held.get(..if last { held.len().min(whole + CHECKSUM) } else { whole })
        .filter(|block| block.len() >= whole)
}

/// The library's own texts would add those of all its errors.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn zstd_finds(why: FrameDecoderError) -> ExpandError {
    ExpandError::Damaged(match why {
        FrameDecoderError::WindowSizeTooBig { .. } => "it needs a window of more than 128 MiB",
        FrameDecoderError::DictNotProvided { .. } => "it needs a dictionary",
        _ => "its compressed data make no sense",
    })
}

/// Reads until a whole block is held; `true` at the end of the input.
fn top_up(input: &mut Input<'_>, held: &mut Vec<u8>) -> Result<bool, ExpandError> {
    while held.len() < ZSTD_BLOCK {
        let bytes = input.fill()?;
        if bytes.is_empty() {
            return Ok(true);
        }
        held.extend_from_slice(bytes);
        let length = bytes.len();
        input.consume(length);
    }
    Ok(false)
}

fn skip(input: &mut Input<'_>, held: &mut Vec<u8>, length: u64) -> Result<(), ExpandError> {
    let mut left = length;
    loop {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(held.len());
        held.drain(..now);
        left -= now as u64;
        if left == 0 {
            return Ok(());
        }
        if top_up(input, held)? && held.is_empty() {
            return Err(ExpandError::CutShort);
        }
    }
}

/// Preamble of 128 bytes, block size and count, offsets, blocks; all numbers
/// big-endian.
fn cloop(input: &mut Input<'_>, output: &mut Output<'_>) -> Result<(), ExpandError> {
    let mut preamble = [0; 128];
    input.exact(&mut preamble)?;
    let mut numbers = [0; 8];
    input.exact(&mut numbers)?;
    let [a, b, c, d, e, f, g, h] = numbers;
    let (size, count) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    if size == 0 || size % 512 != 0 || size > MAX_BLOCK || count == 0 || count > MAX_BLOCKS {
        return Err(ExpandError::Damaged("its cloop header is malformed"));
    }
    let mut offsets = Vec::new();
    for _ in 0..=count {
        let mut raw = [0; 8];
        input.exact(&mut raw)?;
        offsets.push(u64::from_be_bytes(raw));
    }
    let mut at = 136 + 8 * (u64::from(count) + 1);
    let mut room = alloc::vec![0; size as usize];
    let mut state = InflateState::new_boxed(DataFormat::Zlib);
    for pair in offsets.windows(2) {
        let [start, end] = pair else { break };
        // Some tools leave a gap before a block.
        let gap = start.checked_sub(at).filter(|gap| *gap <= u64::from(MAX_BLOCK));
        let gap = gap.ok_or(ExpandError::Damaged("its block offsets do not rise"))?;
        let length = end
            .checked_sub(*start)
            .filter(|length| *length <= u64::from(size) * 2 + 1024)
            .ok_or(ExpandError::Damaged("its block offsets do not rise"))?;
        for _ in 0..gap {
            input.byte()?;
        }
        let mut packed = alloc::vec![0; usize::try_from(length).unwrap_or(0)];
        input.exact(&mut packed)?;
        at = *end;
        state.reset_as(MinReset);
        let result = inflate(&mut state, &packed, &mut room, MZFlush::Finish);
        if result.status != Ok(MZStatus::StreamEnd) {
            return Err(ExpandError::Damaged("one of its blocks is malformed"));
        }
        // The last block may be shorter.
        output.put(room.get(..result.bytes_written).unwrap_or_default())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Hands out a few bytes at a time, as a network does.
    fn run(format: Format, bytes: &[u8], step: usize) -> Result<Vec<u8>, ExpandError> {
        let mut rest = bytes;
        let mut out = Vec::new();
        let written = expand(
            format,
            &mut |room| {
                let length = rest.len().min(room.len()).min(step.max(1));
                room[..length].copy_from_slice(&rest[..length]);
                rest = &rest[length..];
                Ok(length)
            },
            &mut |bytes| {
                out.extend_from_slice(bytes);
                Ok(())
            },
        )?;
        assert_eq!(written, out.len() as u64);
        Ok(out)
    }

    fn sample() -> Vec<u8> {
        (0..300_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    fn gzipped(data: &[u8]) -> Vec<u8> {
        use std::io::Write as _;
        let mut encoder = flate2::GzBuilder::new()
            .filename("name")
            .comment("why")
            .extra(vec![1, 2, 3])
            .write(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn clooped(data: &[u8], block: usize) -> Vec<u8> {
        let mut bytes = b"#!/bin/sh\n#V2.0 Format\n".to_vec();
        bytes.resize(128, 0);
        let blocks: Vec<Vec<u8>> = data
            .chunks(block)
            .map(|chunk| miniz_oxide::deflate::compress_to_vec_zlib(chunk, 3))
            .collect();
        bytes.extend((block as u32).to_be_bytes());
        bytes.extend((blocks.len() as u32).to_be_bytes());
        let mut at = 136 + 8 * (blocks.len() as u64 + 1);
        bytes.extend(at.to_be_bytes());
        for packed in &blocks {
            at += packed.len() as u64;
            bytes.extend(at.to_be_bytes());
        }
        bytes.extend(blocks.concat());
        bytes
    }

    fn packed(format: Format) -> Vec<u8> {
        let data = sample();
        match format {
            Format::Gzip => [gzipped(&data[..1000]), gzipped(&data[1000..]), vec![0; 100]].concat(),
            Format::Zstd => {
                let skip = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..]].concat();
                let first = zstd::encode_all(&data[..1000], 3).unwrap();
                [first, skip, zstd::encode_all(&data[1000..], 3).unwrap()].concat()
            }
            Format::Cloop => clooped(&data, 65536),
            _ => {
                use std::io::Write as _;
                let mut child = std::process::Command::new("xz")
                    .args(["-c", "-0"])
                    .stdin(std::process::Stdio::piped())
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut stdin = child.stdin.take().unwrap();
                let writer = std::thread::spawn(move || stdin.write_all(&data).unwrap());
                let out = child.wait_with_output().unwrap().stdout;
                writer.join().unwrap();
                out
            }
        }
    }

    const ALL: [Format; 4] = [Format::Gzip, Format::Xz, Format::Zstd, Format::Cloop];

    #[test]
    fn everything_comes_back() {
        for format in ALL {
            let bytes = packed(format);
            for step in [bytes.len(), 777] {
                assert!(run(format, &bytes, step).unwrap() == sample(), "{format} by {step}");
            }
        }
    }

    #[test]
    fn a_checksum_and_many_small_blocks() {
        let zeroes = vec![0; 64 << 20];
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(true).unwrap();
        std::io::Write::write_all(&mut encoder, &zeroes).unwrap();
        let bytes = encoder.finish().unwrap();
        let (mut rest, mut total) = (bytes.as_slice(), 0);
        let written = expand(
            Format::Zstd,
            &mut |room| {
                let length = rest.len().min(room.len()).min(100);
                room[..length].copy_from_slice(&rest[..length]);
                rest = &rest[length..];
                Ok(length)
            },
            &mut |bytes| {
                assert!(bytes.iter().all(|byte| *byte == 0));
                total += bytes.len();
                Ok(())
            },
        );
        assert_eq!((written, total), (Ok(64 << 20), 64 << 20));
    }

    #[test]
    fn a_short_stream_is_said_to_be_short() {
        for format in ALL {
            let mut bytes = packed(format);
            bytes.truncate(bytes.len() / 2);
            assert_eq!(run(format, &bytes, 10_000), Err(ExpandError::CutShort), "{format}");
        }
    }

    #[test]
    fn damage_is_found() {
        for format in [Format::Gzip, Format::Xz, Format::Cloop] {
            let mut bytes = packed(format);
            let at = bytes.len() / 2;
            bytes[at] ^= 0xff;
            bytes[at + 1] ^= 0x55;
            assert!(run(format, &bytes, 10_000).is_err(), "{format}");
        }
    }

    #[test]
    fn errors_of_both_ends_are_theirs() {
        for format in ALL {
            let read = expand(format, &mut |_| Err(Errno::IO), &mut |_| Ok(()));
            assert_eq!(read, Err(ExpandError::Read(Errno::IO)));
            let bytes = packed(format);
            let mut rest = bytes.as_slice();
            let write = expand(
                format,
                &mut |room| {
                    let length = rest.len().min(room.len());
                    room[..length].copy_from_slice(&rest[..length]);
                    rest = &rest[length..];
                    Ok(length)
                },
                &mut |_| Err(Errno::NOSPC),
            );
            assert_eq!(write, Err(ExpandError::Write(Errno::NOSPC)), "{format}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn never_panics(junk: Vec<u8>, which in 0..4_usize, cut in 0..200_usize) {
            let format = ALL[which];
            let _ = run(format, &junk, 64);
            let head: &[u8] = match format {
                Format::Gzip => &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0],
                Format::Xz => b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46",
                Format::Zstd => &[0x28, 0xb5, 0x2f, 0xfd],
                _ => b"",
            };
            let mut bytes = [head, &junk].concat();
            let _ = run(format, &bytes, 64);
            bytes = clooped(&junk, 512);
            for (slot, byte) in bytes.iter_mut().skip(cut).zip(&junk) {
                *slot ^= byte;
            }
            let _ = run(Format::Cloop, &bytes, 64);
        }
    }
}
