//! How the two ends of a copy show each other that they know one key.
//!
//! The key is a text that the user gives to both. Everything below is BLAKE3 keyed by it, cut
//! to 128 bits, over the name of what is said, the protocol and the parts that are named here,
//! each with its length before it.
//!
//! * The receiver sends a [`Nonce`] that it never sent before.
//! * The sender answers with its own nonce, the session's, what it [announces](Pact::announce)
//!   and the code of both. The receiver opens nothing for a sender without it.
//! * The receiver [answers](Pact::answer); the sender counts no machine without it.
//! * The [end](Pact::end) of the stream, its length and digest, has the session's code. The
//!   first sector of the disk is written only after that was compared with what is stored.
//! * The receiver's [verdict](Pact::verdict) has a code with both nonces.
//!
//! The data has no code of its own: other bytes on the way show in the digest. Nothing is
//! encrypted. Who knows the key can be sender and receiver.

use crate::digest::Digest;
use core::fmt;
pub use sys::bytes::hex;

/// A number that is used once.
pub type Nonce = [u8; 10];
/// A message's code.
pub type Mac = [u8; 16];
/// The shortest key: a listener may try keys on the packets that it heard.
pub const SHORTEST: usize = 16;

/// The key that all machines of a copy know.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// The key of this text; nothing when it has less than [`SHORTEST`] bytes.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let key = blake3::derive_key("bellwether clone 1 bw.clone.key", text.as_bytes());
        (text.len() >= SHORTEST).then_some(Self(key))
    }
}

/// One session with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pact {
    key: Key,
    protocol: &'static str,
    session: Nonce,
}

impl Pact {
    /// Of this protocol and the sender's nonce.
    #[must_use]
    pub const fn new(key: Key, protocol: &'static str, session: Nonce) -> Self {
        Self { key, protocol, session }
    }

    /// The sender's nonce.
    #[must_use]
    pub const fn session(&self) -> &Nonce {
        &self.session
    }

    fn code(&self, what: &str, parts: [&[u8]; 2]) -> Mac {
        let mut hash = blake3::Hasher::new_keyed(&self.key.0);
        for part in [what.as_bytes(), self.protocol.as_bytes(), &self.session].iter().chain(&parts)
        {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut mac = Mac::default();
        mac.iter_mut().zip(hash.finalize().as_bytes()).for_each(|(to, from)| *to = *from);
        mac
    }

    /// The sender's code of what it announces to the receiver with this nonce.
    #[must_use]
    pub fn announce(&self, receiver: &Nonce, text: &[u8]) -> Mac {
        self.code("announce", [receiver, text])
    }

    /// The receiver's code that it is there.
    #[must_use]
    pub fn answer(&self, receiver: &Nonce) -> Mac {
        self.code("answer", [receiver, &[]])
    }

    /// The sender's code of the end of the file of this number.
    #[must_use]
    pub fn end(&self, number: usize, digest: &Digest) -> Mac {
        let (number, bytes) = (number as u64, digest.bytes);
        let head = [number.to_le_bytes(), bytes.to_le_bytes()].concat();
        self.code("end", [&head, &digest.blake3])
    }

    /// The code of a frame of a room's connection, whose other nonce this is.
    #[must_use]
    pub fn frame(&self, peer: &Nonce, frame: &[u8]) -> Mac {
        self.code("frame", [peer, frame])
    }

    /// The receiver's code of what became of its copy.
    #[must_use]
    pub fn verdict(&self, receiver: &Nonce, verdict: &[u8]) -> Mac {
        self.code("verdict", [receiver, verdict])
    }
}

/// Whether two codes are the same, in a time that does not tell where they differ.
#[must_use]
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// The bytes of so many hexadecimal digits; nothing when these are not just that.
#[must_use]
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? * 16 + digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::vec::Vec;

    fn pact(key: &str, protocol: &'static str, session: u8) -> Pact {
        Pact::new(Key::new(key).unwrap(), protocol, [session; 10])
    }

    #[test]
    fn every_part_changes_every_code() {
        let digest = |n| Digest { bytes: n, blake3: [1; 32] };
        let codes = |p: &Pact, nonce: &Nonce, n: u64| {
            [
                p.announce(nonce, &n.to_le_bytes()),
                p.answer(nonce),
                p.end(0, &digest(n)),
                p.verdict(nonce, &n.to_le_bytes()),
            ]
        };
        let mut all: Vec<Mac> = Vec::new();
        all.extend(codes(&pact("0123456789abcdef", "udpcast", 1), &[2; 10], 3));
        all.extend(codes(&pact("0123456789abcdeg", "udpcast", 1), &[2; 10], 3));
        all.extend(codes(&pact("0123456789abcdef", "dolly", 1), &[2; 10], 3));
        all.extend(codes(&pact("0123456789abcdef", "udpcast", 4), &[2; 10], 3));
        let p = pact("0123456789abcdef", "udpcast", 1);
        all.extend([p.announce(&[5; 10], &3u64.to_le_bytes()), p.answer(&[5; 10])]);
        all.extend([
            p.end(0, &digest(4)),
            p.end(1, &digest(3)),
            p.verdict(&[5; 10], &3u64.to_le_bytes()),
        ]);
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| !same(a, b)), "{i}");
            assert!(same(a, a));
        }
        // Two differences do not make up for each other, and a part is not the whole.
        assert!(!same(&[1, 1], &[0, 0]) && !same(&[1], &[1, 2]));
        assert_eq!(pact("0123456789abcdef", "udpcast", 4).session(), &[4; 10]);
    }

    #[test]
    fn a_short_key_is_none_and_no_key_is_printed() {
        assert!(Key::new("0123456789abcde").is_none());
        let key = Key::new("0123456789abcdef").unwrap();
        assert_eq!(format!("{key:?}"), "Key");
    }

    #[test]
    fn hexadecimal() {
        assert_eq!(hex(&[0, 0xab, 0xff]), "00abff");
        assert_eq!(unhex("00ABff"), Some([0, 0xab, 0xff]));
        for wrong in ["00abf", "00abff0", "00abfg", "+0abff", "é0abf"] {
            assert_eq!(unhex::<3>(wrong), None, "{wrong}");
        }
    }
}
