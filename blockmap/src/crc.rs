//! The two cyclic redundancy checks that tables and file systems carry.

/// CRC-32 as in GPT (UEFI 2.10, 5.3.2).
pub fn crc32(bytes: &[&[u8]]) -> u32 {
    !bytes.iter().fold(!0, |crc, bytes| reflected(0xedb8_8320, crc, bytes))
}

/// CRC-32C in the making, without the inversion at its end.
#[derive(Debug, Clone, Copy)]
pub struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Self(!0)
    }
}

impl From<u32> for Crc32c {
    fn from(state: u32) -> Self {
        Self(state)
    }
}

impl Crc32c {
    /// With more bytes.
    pub fn and(self, bytes: &[u8]) -> Self {
        Self(reflected(0x82f6_3b78, self.0, bytes))
    }

    /// As it is, which is how ext4 stores it.
    pub const fn value(self) -> u32 {
        self.0
    }

    /// Inverted, which is how btrfs and xfs store it.
    pub const fn inverted(self) -> u32 {
        !self.0
    }
}

fn reflected(polynomial: u32, start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |crc, byte| {
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
        assert_eq!(Crc32c::default().and(b"12345").and(b"6789").inverted(), 0xe306_9283);
        assert_eq!(Crc32c::default().and(b"123456789").value(), !0xe306_9283);
    }
}
