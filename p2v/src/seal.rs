//! The connection to `bellwether clone p2v-server`: nothing on it can be read or changed without
//! the key that both ends were given.
//!
//! Each end first sends [`HELLO`] bytes: a mark and a [`Nonce`] that was never used. BLAKE3, keyed
//! by the key, makes four keys of both nonces, two for each direction: one for the stream that is
//! laid over the bytes, one for the codes. After that there are frames of at most [`MOST`] bytes:
//! a length, the hidden bytes, and a code of 128 bits over the frame's number, its length and what
//! is hidden. A frame that is changed, repeated, left out or of another direction ends the
//! connection.
//!
//! Not done: forward secrecy. With the key a recorded connection can be read later.

use alloc::vec::Vec;

use blake3::Hasher;

use sys::bytes::{be32, length};

/// A number that is used once.
pub type Nonce = [u8; 24];
/// The shortest key: a listener may try keys on what it heard.
pub const SHORTEST: usize = 16;
/// Bytes of each end's first message.
pub const HELLO: usize = MARK.len() + 24;
/// The most bytes of a frame.
pub const MOST: usize = 64 << 10;

const MARK: [u8; 8] = *b"BW-P2V\x01\n";
const CODE: usize = 16;

/// The key that both ends were given.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// The key of this text; nothing when it has less than [`SHORTEST`] bytes.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let key = blake3::derive_key("bellwether p2v 1 bw.p2v.key", text.as_bytes());
        (text.len() >= SHORTEST).then_some(Self(key))
    }
}

/// What an end sends first.
#[must_use]
pub fn hello(own: &Nonce) -> Vec<u8> {
    [&MARK[..], own].concat()
}

/// The other end's nonce; nothing when that is no such end.
#[must_use]
pub fn peer(hello: &[u8; HELLO]) -> Option<Nonce> {
    hello.strip_prefix(&MARK)?.try_into().ok()
}

/// Why nothing more is taken from a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forged;

/// One direction: its keys, and how many frames there were.
struct Lane {
    stream: [u8; 32],
    code: [u8; 32],
    number: u64,
}

impl core::fmt::Debug for Lane {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Lane {}", self.number)
    }
}

impl Lane {
    fn code(&self, head: &[u8], hidden: &[u8]) -> blake3::Hash {
        let mut hash = Hasher::new_keyed(&self.code);
        hash.update(&self.number.to_le_bytes()).update(head).update(hidden);
        hash.finalize()
    }

    /// Hides bytes, or shows hidden ones.
    fn turn(&self, bytes: &mut [u8]) {
        let mut stream = Hasher::new_keyed(&self.stream);
        let mut stream = stream.update(&self.number.to_le_bytes()).finalize_xof();
        let mut mask = [0; 4 << 10];
        for piece in bytes.chunks_mut(mask.len()) {
            stream.fill(&mut mask);
            piece.iter_mut().zip(&mask).for_each(|(byte, mask)| *byte ^= mask);
        }
    }
}

/// Makes frames.
#[derive(Debug)]
pub struct Sealer(Lane);

/// Opens frames.
#[derive(Debug)]
pub struct Opener {
    lane: Lane,
    input: Vec<u8>,
}

/// Both directions of a connection, for the end that dialled or for the other one.
#[must_use]
pub fn pair(key: &Key, own: &Nonce, peer: &Nonce, dialled: bool) -> (Sealer, Opener) {
    let (first, second) = if dialled { (own, peer) } else { (peer, own) };
    let mut keys = Hasher::new_keyed(&key.0);
    let mut keys = keys.update(first).update(second).finalize_xof();
    let mut lane = || {
        let mut lane = Lane { stream: [0; 32], code: [0; 32], number: 0 };
        keys.fill(&mut lane.stream);
        keys.fill(&mut lane.code);
        lane
    };
    let (there, back) = (lane(), lane());
    let (sends, hears) = if dialled { (there, back) } else { (back, there) };
    (Sealer(sends), Opener { lane: hears, input: Vec::new() })
}

impl Sealer {
    /// The frames of these bytes.
    #[must_use]
    pub fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + (4 + CODE) * (1 + bytes.len() / MOST));
        for piece in bytes.chunks(MOST) {
            let head = length(piece).to_be_bytes();
            let mut hidden = piece.to_vec();
            self.0.turn(&mut hidden);
            out.extend(head);
            out.extend(&hidden);
            out.extend(self.0.code(&head, &hidden).as_bytes().iter().take(CODE));
            self.0.number += 1;
        }
        out
    }
}

impl Opener {
    /// Takes bytes of the other end.
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next frame's bytes, when all of it has come.
    ///
    /// # Errors
    /// It is not of the other end: nothing of the connection is believed any more.
    pub fn open(&mut self) -> Result<Option<Vec<u8>>, Forged> {
        let Some(length) = be32(&self.input, 0) else { return Ok(None) };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length == 0 || length > MOST {
            return Err(Forged);
        }
        let whole = 4 + length + CODE;
        if self.input.len() < whole {
            return Ok(None);
        }
        let rest = self.input.split_off(whole);
        let frame = core::mem::replace(&mut self.input, rest);
        let (head, rest) = frame.split_at_checked(4).ok_or(Forged)?;
        let (hidden, code) = rest.split_at_checked(length).ok_or(Forged)?;
        let own = self.lane.code(head, hidden);
        let differ = own.as_bytes().iter().zip(code).fold(0, |all, (a, b)| all | (a ^ b));
        if differ != 0 {
            return Err(Forged);
        }
        let mut bytes = hidden.to_vec();
        self.lane.turn(&mut bytes);
        self.lane.number += 1;
        Ok(Some(bytes))
    }
}

/// Opens any bytes; for fuzzers.
///
/// # Panics
/// When a frame is believed.
pub fn fuzz(data: &[u8]) {
    let Some(key) = Key::new("sixteen letters.") else { return };
    let (_, mut opener) = pair(&key, &[1; 24], &[2; 24], false);
    for piece in data.chunks(11) {
        opener.push(piece);
        match opener.open() {
            Ok(bytes) => assert!(bytes.is_none(), "nothing is believed without its code"),
            Err(Forged) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ends(a: &str, b: &str) -> ((Sealer, Opener), (Sealer, Opener)) {
        let (one, two) = (Key::new(a).unwrap(), Key::new(b).unwrap());
        (pair(&one, &[1; 24], &[2; 24], true), pair(&two, &[2; 24], &[1; 24], false))
    }

    const KEY: &str = "0123456789abcdef";

    #[test]
    fn bytes_arrive_as_they_were_and_nothing_else_is_taken() {
        let ((mut to, mut from), (mut back, mut opener)) = ends(KEY, KEY);
        let long: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        let sealed = to.seal(&long);
        assert_eq!(sealed.len(), long.len() + 4 * 20);
        assert!(!sealed.windows(64).any(|part| *part == long[..64]), "it can be read");
        opener.push(&sealed);
        let mut got = Vec::new();
        while let Some(bytes) = opener.open().unwrap() {
            got.extend(bytes);
        }
        assert!(got == long);
        // The other direction has keys of its own: no frame can be sent back.
        let one = back.seal(b"hello");
        from.push(&to.seal(b"hello"));
        assert_eq!(from.open(), Err(Forged));
        let ((_, mut from), _) = ends(KEY, KEY);
        from.push(&one);
        assert_eq!(from.open().unwrap().unwrap(), b"hello");
        // A second time.
        from.push(&one);
        assert_eq!(from.open(), Err(Forged));
    }

    #[test]
    fn another_key_is_no_key() {
        let ((mut to, _), (_, mut opener)) = ends(KEY, "0123456789abcdeF");
        opener.push(&to.seal(b"x"));
        assert_eq!(opener.open(), Err(Forged));
        assert!(Key::new("0123456789abcde").is_none());
        let mut words = hello(&[7; 24]);
        assert_eq!(peer(words[..].try_into().unwrap()), Some([7; 24]));
        words[7] = 0;
        assert_eq!(peer(words[..].try_into().unwrap()), None);
    }

    proptest! {
        #[test]
        fn a_changed_bit_is_seen(at in 0usize..40, bit in 0u32..8) {
            let ((mut to, _), (_, mut opener)) = ends(KEY, KEY);
            let mut sealed = to.seal(&[5; 20]);
            sealed[at] ^= 1 << bit;
            opener.push(&sealed);
            prop_assert!(!matches!(opener.open(), Ok(Some(_))));
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz(&bytes);
        }
    }
}
