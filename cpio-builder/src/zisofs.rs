//! Files of an ISO that are stored compressed (zisofs), unpacked as they are read.
//!
//! A `ZF` entry of the file's record says so, and how long the file is; kernels with
//! `CONFIG_ZISOFS` show it unpacked (`zisofs-format.txt` of libisofs, fs/isofs/compress.c). The file
//! is a head, a table of where each block begins and where the last one ends, and the blocks, each
//! a zlib stream; an empty one stands for zeros.
//!
//! Both versions are read: 1, and 2 with 64-bit numbers, which kernels do not read.

use std::io::{self, Read};
use std::ops::Range;

/// Most bytes of a block: 2 to the power of this.
const BLOCK_LOG: Range<u8> = 15..21;

/// How a file is stored compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// Bytes of the file, unpacked.
    pub size: u64,
    /// Where the table is.
    table: u64,
    block: u64,
    /// Bytes of a number in the table.
    width: usize,
}

impl Packed {
    /// From the data of a `ZF` entry; `None` for a method that is not known.
    #[must_use]
    pub fn read(entry: &[u8]) -> Option<Self> {
        let (method, rest) = entry.split_first_chunk::<2>()?;
        let ([head, log], size) = rest.split_first_chunk::<2>()?;
        let (size, width) = match method {
            b"pz" => (u64::from(u32::from_le_bytes(*size.first_chunk()?)), 4),
            b"PZ" => (u64::from_le_bytes(*size.first_chunk()?), 8),
            _ => return None,
        };
        let block = BLOCK_LOG.contains(log).then(|| 1 << log)?;
        Some(Self { size, table: u64::from(*head) * 4, block, width })
    }

    /// Fills `buffer` with the file's bytes from `offset` on; `stored` reads bytes as they are stored.
    ///
    /// # Errors
    /// Those of `stored`; [`io::ErrorKind::InvalidData`] for a damaged file,
    /// [`io::ErrorKind::UnexpectedEof`] beyond its end.
    pub fn read_exact_at(
        &self,
        buffer: &mut [u8],
        offset: u64,
        stored: &dyn Fn(&mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.size);
        end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let inside = at % self.block;
            let here = (self.block - inside).min(rest.len() as u64);
            let (part, after) = rest
                .split_at_mut_checked(usize::try_from(here).unwrap_or(usize::MAX))
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            self.of_block(at / self.block, inside, part, stored)?;
            (at, rest) = (at + here, after);
        }
        Ok(())
    }

    /// Fills `part` from one block.
    fn of_block(
        &self,
        number: u64,
        inside: u64,
        part: &mut [u8],
        stored: &dyn Fn(&mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "its zisofs data are damaged");
        let width = self.width;
        let mut both = [0; 16];
        let both = both.get_mut(..2 * width).unwrap_or_default();
        stored(both, self.table + number * width as u64)?;
        let (from, to) = both.split_at(width);
        let number =
            |bytes: &[u8]| bytes.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
        let (from, to) = (number(from), number(to));
        let length = to.checked_sub(from).filter(|length| *length <= 2 * self.block);
        let length = usize::try_from(length.ok_or_else(damaged)?).map_err(|_| damaged())?;
        if length == 0 {
            part.fill(0);
            return Ok(());
        }
        let mut packed = vec![0; length];
        stored(&mut packed, from)?;
        let mut stream = flate2::bufread::ZlibDecoder::new(packed.as_slice());
        let before = io::copy(&mut stream.by_ref().take(inside), &mut io::sink());
        if before.map_err(|_| damaged())? < inside {
            return Err(damaged());
        }
        stream.read_exact(part).map_err(|_| damaged())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    fn entry(method: &[u8; 2], head: u8, log: u8, size: u64) -> Vec<u8> {
        let mut out = [&method[..], &[head / 4, log]].concat();
        match method {
            b"PZ" => out.extend(size.to_le_bytes()),
            _ => out.extend([(size as u32).to_le_bytes(), (size as u32).to_be_bytes()].concat()),
        }
        out
    }

    /// As version 1 and 2 store it, with blocks of 32 KiB.
    fn stored(data: &[u8], width: usize) -> Vec<u8> {
        let head = if width == 4 { 16 } else { 24 };
        let blocks: Vec<Vec<u8>> = data
            .chunks(1 << 15)
            .map(|block| {
                let mut out =
                    flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                if block.iter().any(|byte| *byte != 0) {
                    out.write_all(block).unwrap();
                    return out.finish().unwrap();
                }
                Vec::new()
            })
            .collect();
        let mut at = head + (blocks.len() + 1) * width;
        let mut out = vec![0; head];
        let mut number = |at: usize| out.extend(&(at as u64).to_le_bytes()[..width]);
        number(at);
        for block in &blocks {
            at += block.len();
            number(at);
        }
        out.extend(blocks.concat());
        out
    }

    fn read(packed: &Packed, bytes: &[u8], offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut out = vec![1; length];
        packed.read_exact_at(&mut out, offset, &|buffer, at| {
            crate::modinfo::ReadAt::read_exact_at(&bytes.to_vec(), buffer, at)
        })?;
        Ok(out)
    }

    #[test]
    fn blocks_are_one_file() {
        let mut data: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(n) >> 9) as u8).collect();
        data[1 << 15..1 << 16].fill(0);
        for (method, head, width) in [(b"pz", 16, 4), (b"PZ", 24, 8)] {
            let packed = Packed::read(&entry(method, head, 15, 100_000)).unwrap();
            let bytes = stored(&data, width);
            for (from, to) in [(0, 100_000), (32_767, 32_769), (40_000, 70_000), (99_999, 100_000)]
            {
                let read = read(&packed, &bytes, from as u64, to - from).unwrap();
                assert_eq!(read, data[from..to], "{from}");
            }
            let error = read(&packed, &bytes, 99_999, 2).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            let cut = &bytes[..bytes.len() - 9];
            assert!(read(&packed, cut, 99_999, 1).is_err());
        }
        assert_eq!(Packed::read(&entry(b"xz", 16, 15, 1)), None);
        assert_eq!(Packed::read(&entry(b"pz", 16, 40, 1)), None);
        assert_eq!(Packed::read(b"pz"), None);
    }

    proptest! {
        #[test]
        fn damage_is_an_error(
            at in 0usize..400, value: u8, head: u8, log: u8, size: u32, offset: u32
        ) {
            let data: Vec<u8> = (0..70_000u32).map(|n| (n % 7) as u8).collect();
            let mut bytes = stored(&data, 4);
            let length = bytes.len();
            bytes[at % length] = value;
            if let Some(packed) = Packed::read(&entry(b"pz", head, log, u64::from(size))) {
                let _ = read(&packed, &bytes, u64::from(offset), 100);
            }
        }
    }
}
