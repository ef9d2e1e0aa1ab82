//! End-to-end verification: what both ends must agree on before "done".
//!
//! The digest is BLAKE3 over the bytes of one stream in order. It says that
//! what was handed to the store is what the golden machine read; whether the
//! disk kept it, only reading it back can say.

use core::fmt;

/// A stream's length and BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of those bytes.
    pub blake3: [u8; 32],
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.blake3.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({} bytes)", self.bytes)
    }
}

/// A digest in the making.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    bytes: u64,
    hasher: blake3::Hasher,
}

impl Meter {
    /// Takes the stream's next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        self.hasher.update(bytes);
    }

    /// Bytes so far.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The digest of all bytes so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest { bytes: self.bytes, blake3: *self.hasher.finalize().as_bytes() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn the_empty_stream_has_the_published_digest() {
        assert_eq!(
            Meter::default().digest().to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }

    #[test]
    fn pieces_do_not_matter() {
        let mut a = Meter::default();
        a.update(b"golden");
        a.update(b" node");
        let mut b = Meter::default();
        b.update(b"golden node");
        assert_eq!(a.digest(), b.digest());
        assert_eq!(a.bytes(), 11);
    }
}
