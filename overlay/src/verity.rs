//! The header of `veritysetup format` before a hash tree: all parameters of dm-verity except
//! the root hash.
//!
//! Layout from cryptsetup's on-disk description of the verity superblock, version 1. A hash
//! device without a header is not supported.

use alloc::string::{String, ToString};
use sys::bytes::{le16, le32, le64};

/// Bytes of a header.
pub const LENGTH: usize = 512;

/// The fields of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Hash format, 0 (Chrome OS) or 1.
    pub version: u32,
    /// `sha256` and the like.
    pub algorithm: String,
    /// Bytes of a data block.
    pub data_block: u32,
    /// Bytes of a hash block.
    pub hash_block: u32,
    /// Data blocks.
    pub blocks: u64,
    /// Salt in hexadecimal, `-` for none.
    pub salt: String,
}

/// Why a header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// It does not begin with `verity`.
    NoMagic,
    /// A field of it has an invalid value.
    BadValue(&'static str),
}

impl core::fmt::Display for HeaderError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoMagic => f.write_str("has no verity header; make it with veritysetup format"),
            Self::BadValue(what) => write!(f, "its verity header has a wrong {what}"),
        }
    }
}

impl core::error::Error for HeaderError {}

/// Parses a header.
///
/// # Errors
/// [`HeaderError::NoMagic`] without a header, [`HeaderError::BadValue`] for an invalid field.
pub fn parse(bytes: &[u8]) -> Result<Header, HeaderError> {
    let bad = HeaderError::BadValue;
    if !bytes.starts_with(b"verity\0\0") {
        return Err(HeaderError::NoMagic);
    }
    if le32(bytes, 8) != Some(1) {
        return Err(bad("version"));
    }
    let version = le32(bytes, 12).filter(|version| *version <= 1).ok_or(bad("hash type"))?;
    let name = bytes.get(32..64).ok_or(bad("length"))?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    // The name goes into a device-mapper table: letters and digits only.
    let algorithm = core::str::from_utf8(name)
        .ok()
        .filter(|name| {
            !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
        })
        .ok_or(bad("algorithm"))?;
    let block = |at| {
        le32(bytes, at).filter(|size| size.is_power_of_two() && (512..=1 << 19).contains(size))
    };
    let data_block = block(64).ok_or(bad("data block size"))?;
    let hash_block = block(68).ok_or(bad("hash block size"))?;
    let blocks = le64(bytes, 72)
        .filter(|blocks| *blocks > 0 && blocks.checked_mul(u64::from(data_block)).is_some())
        .ok_or(bad("number of blocks"))?;
    let salt_length = usize::from(le16(bytes, 80).ok_or(bad("length"))?);
    let salt = bytes.get(88..344).and_then(|salt| salt.get(..salt_length)).ok_or(bad("salt"))?;
    let salt = if salt.is_empty() { "-".to_string() } else { sys::bytes::hex(salt) };
    Ok(Header { version, algorithm: algorithm.to_string(), data_block, hash_block, blocks, salt })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
        put(0, b"verity\0\0");
        put(8, &1_u32.to_le_bytes());
        put(12, &1_u32.to_le_bytes());
        put(32, b"sha256");
        put(64, &4096_u32.to_le_bytes());
        put(68, &4096_u32.to_le_bytes());
        put(72, &17_691_u64.to_le_bytes());
        put(80, &2_u16.to_le_bytes());
        put(88, &[0xab, 0x01]);
        bytes
    }

    #[test]
    fn a_header_is_read() {
        let found = parse(&header()).unwrap();
        assert_eq!(found.algorithm, "sha256");
        assert_eq!((found.data_block, found.blocks), (4096, 17_691));
        assert_eq!(found.salt, "ab01");
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(parse(b"hsqs"), Err(HeaderError::NoMagic));
        let mut bytes = header();
        bytes[32..38].copy_from_slice(b"sha 25");
        assert_eq!(parse(&bytes), Err(HeaderError::BadValue("algorithm")));
        let mut bytes = header();
        bytes[64] = 1;
        assert_eq!(parse(&bytes), Err(HeaderError::BadValue("data block size")));
    }

    proptest! {
        #[test]
        fn never_panics(at in 0..LENGTH, junk: Vec<u8>) {
            let _ = parse(&junk);
            let mut bytes = header();
            for (slot, byte) in bytes.iter_mut().skip(at).zip(junk) {
                *slot = byte;
            }
            let _ = parse(&bytes);
            bytes.truncate(at);
            let _ = parse(&bytes);
        }
    }
}
