//! An NBD client's side of a disk that is filled: requests and their replies, from bytes to
//! bytes. The negotiation is `netboot`'s; structured replies are not asked for.

use crate::extents::Extents;

/// The most data of one request: every server accepts as much.
const MAX_DATA: u32 = 1 << 20;
/// The most bytes that are zeroed at once; the reply must not take long.
const MAX_ZEROES: u32 = 128 << 20;

/// One step of filling a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The first byte of the disk.
    pub at: u64,
    /// Bytes: as many as the length of a request can say.
    pub length: u32,
    /// Whether they are in use; the others are zeroed.
    pub used: bool,
}

impl Step {
    /// The first byte behind it.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.at.saturating_add(self.length as u64)
    }
}

/// The steps that fill a disk from `from` on, in order. Without `zeroes` the holes come in
/// pieces that can be sent as data.
pub fn steps(map: &Extents, from: u64, zeroes: bool) -> impl Iterator<Item = Step> + '_ {
    map.pieces(from..map.size()).flat_map(move |piece| {
        let most = if piece.used || !zeroes { MAX_DATA } else { MAX_ZEROES };
        let mut at = piece.range.start;
        core::iter::from_fn(move || {
            let left = piece.range.end.saturating_sub(at);
            let length = u32::try_from(left).unwrap_or(u32::MAX).min(most);
            let step = Step { at, length, used: piece.used };
            at = step.end();
            (length > 0).then_some(step)
        })
    })
}

/// The reason of an error number of the protocol.
#[must_use]
pub fn reason(number: u32) -> &'static str {
    match number {
        1 => "the server's disk is read only",
        5 => "the server's disk fails",
        12 => "the server has no memory left",
        22 => "the server does not understand the request",
        28 => "the server's disk is full",
        95 => "the server cannot do that",
        108 => "the server is shutting down",
        _ => "the server refuses",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netboot::nbd::wire::{Command, Request, replied};
    use proptest::prelude::*;

    #[test]
    fn headers_and_replies() {
        let (command, cookie) = (Command::Zeroes, 7_u64.to_be_bytes());
        let request = Request { flags: 0, command, cookie, offset: 0x1000, length: 0x200 };
        let bytes = request.bytes();
        assert_eq!(bytes[..8], [0x25, 0x60, 0x95, 0x13, 0, 0, 0, 6]);
        assert_eq!((bytes.len(), bytes[15], bytes[22], bytes[26]), (28, 7, 0x10, 2));
        let bytes = *b"\x67\x44\x66\x98\0\0\0\x1c\0\0\0\0\0\0\0\x09";
        assert_eq!(replied(&bytes), Some((9_u64.to_be_bytes(), 28)));
        assert_eq!(replied(&[0; 16]), None);
        assert_eq!(reason(28), "the server's disk is full");
    }

    proptest! {
        #[test]
        fn steps_cover_the_rest_of_the_disk(from in 0u64..1 << 30, zeroes: bool) {
            let map = Extents::new(1 << 30, [5000..9000, 1 << 20..5 << 20, (1 << 30) - 7..1 << 30]);
            let mut at = from;
            for step in steps(&map, from, zeroes) {
                prop_assert!(step.at == at && step.length > 0);
                let most = if step.used || !zeroes { MAX_DATA } else { MAX_ZEROES };
                prop_assert!(step.length <= most);
                at = step.end();
            }
            prop_assert_eq!(at, 1 << 30);
        }
    }
}
