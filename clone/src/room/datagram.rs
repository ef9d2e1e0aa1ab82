//! A datagram of a room's multicast: a piece of a chunk. docs/clone-protocol.md has it.
//!
//! It has no code of its own, also with a key: a chunk that was put together is compared with the
//! digest that the sender tells on its connection.

use alloc::vec::Vec;
use core::time::Duration;
use sys::bytes::Cursor;

/// The bytes of each piece of a chunk but the last: with its head and those of UDP and IPv4 it
/// is a packet of 1500 bytes.
pub const PIECE: usize = 1452;
/// The bytes before the piece.
pub const HEAD: usize = 20;
/// The bit of [`Datagram::every`] that asks for a report at once.
const NOW: u16 = 0x8000;

/// A piece of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// What the sender has told the machines that listen.
    pub token: [u8; 8],
    /// How many datagrams the sender has sent before.
    pub count: u32,
    /// The chunk's number.
    pub chunk: u32,
    /// The piece's number in it.
    pub piece: u16,
    /// So often the machines report, in milliseconds.
    pub every: u16,
    /// They report at once.
    pub now: bool,
    /// The bytes.
    pub data: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads it; nothing when it is too short or too long.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = Cursor(bytes);
        let (token, count, chunk) = (rest.take()?, rest.le32()?, rest.le32()?);
        let (piece, every, data) = (rest.le16()?, rest.le16()?, rest.0);
        let (every, now) = (every & !NOW, every & NOW != 0);
        let fits = (1..=PIECE).contains(&data.len());
        fits.then_some(Self { token, count, chunk, piece, every, now, data })
    }

    /// Appends it.
    pub fn write(&self, to: &mut Vec<u8>) {
        let every = self.every.min(!NOW) | if self.now { NOW } else { 0 };
        to.extend(self.token);
        to.extend(self.count.to_le_bytes());
        to.extend(self.chunk.to_le_bytes());
        to.extend(self.piece.to_le_bytes());
        to.extend(every.to_le_bytes());
        to.extend_from_slice(self.data);
    }

    /// How often the machines report.
    #[must_use]
    pub fn pause(&self) -> Duration {
        Duration::from_millis(self.every.into())
    }
}

/// How many pieces a chunk of so many bytes has.
#[must_use]
pub fn pieces(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The vector of docs/clone-protocol.md.
    #[test]
    fn vector() {
        let (token, data) = ([1, 2, 3, 4, 5, 6, 7, 8], &[0xab, 0xcd][..]);
        let datagram =
            Datagram { token, count: 258, chunk: 7, piece: 722, every: 10, now: true, data };
        let mut bytes = Vec::new();
        datagram.write(&mut bytes);
        assert_eq!(crate::pact::hex(&bytes), "01020304050607080201000007000000d2020a80abcd");
        assert_eq!(Datagram::read(&bytes), Some(datagram));
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
            let read = Datagram::read(&bytes);
            prop_assert_eq!(read.is_some(), (HEAD + 1..=HEAD + PIECE).contains(&bytes.len()));
            let mut again = Vec::new();
            read.iter().for_each(|datagram| datagram.write(&mut again));
            prop_assert!(read.is_none() || again == bytes);
        }
    }
}
