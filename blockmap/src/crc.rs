//! The two cyclic redundancy checks that tables and file systems carry.

/// CRC-32 as in GPT (UEFI 2.10, 5.3.2).
pub fn crc32(bytes: &[&[u8]]) -> u32 {
    !reflected(0xedb8_8320, !0, bytes)
}

/// CRC-32C, as in btrfs and xfs.
pub fn crc32c(bytes: &[&[u8]]) -> u32 {
    !reflected(0x82f6_3b78, !0, bytes)
}

fn reflected(polynomial: u32, start: u32, parts: &[&[u8]]) -> u32 {
    parts.iter().flat_map(|part| part.iter()).fold(start, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { polynomial } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_check_values() {
        assert_eq!(crc32(&[b"12345", b"6789"]), 0xcbf4_3926);
        assert_eq!(crc32c(&[b"123456789"]), 0xe306_9283);
    }
}
