//! An NBD client's side of a disk that is filled: requests and their replies, from bytes to
//! bytes. The negotiation is `netboot`'s; structured replies are not asked for.

use alloc::vec::Vec;
use core::ops::Range;

use crate::bytes::{u32_at, u64_at};
use crate::extents::Extents;

/// Transmission flags of an export.
pub const FLAG_FLUSH: u16 = 1 << 2;
/// The server can zero a range without its bytes.
pub const FLAG_ZEROES: u16 = 1 << 6;

/// The most data of one request: every server takes so much.
const MAX_DATA: u64 = 1 << 20;
/// The most bytes that are zeroed at once; the reply must not take long.
const MAX_ZEROES: u64 = 128 << 20;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Bytes are read.
    Read = 0,
    /// Bytes follow and are written.
    Write = 1,
    /// The connection ends.
    Disconnect = 2,
    /// What was written is on the server's disk afterwards.
    Flush = 3,
    /// A range reads as zeros afterwards.
    Zeroes = 6,
}

/// A request's header.
#[must_use]
pub fn request(command: Command, cookie: u64, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    bytes.extend([0, 0]);
    bytes.extend((command as u16).to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(u32::try_from(length).unwrap_or(0).to_be_bytes());
    bytes
}

/// Bytes of a reply without the data of a read.
pub const REPLY: usize = 16;

/// A server's reply: the request's cookie, and its error number if it failed. `None` for
/// what is no simple reply.
#[must_use]
pub fn reply(bytes: &[u8; REPLY]) -> Option<(u64, u32)> {
    let magic = u32_at(bytes, 0)?;
    let (error, cookie) = (u32_at(bytes, 4)?, u64_at(bytes, 8)?);
    (magic == 0x6744_6698).then_some((cookie, error))
}

/// One step of filling a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the disk.
    pub range: Range<u64>,
    /// Whether they are in use; the others are zeroed.
    pub used: bool,
}

/// The steps that fill a disk from `from` on, in order. Without `zeroes` the holes come in
/// pieces that can be sent as data.
pub fn steps(map: &Extents, from: u64, zeroes: bool) -> impl Iterator<Item = Step> + '_ {
    map.pieces(from..map.size()).flat_map(move |piece| {
        let most = if piece.used || !zeroes { MAX_DATA } else { MAX_ZEROES };
        let mut at = piece.range.start;
        core::iter::from_fn(move || {
            let end = at.saturating_add(most).min(piece.range.end);
            let range = at..end;
            at = end;
            (!range.is_empty()).then_some(Step { range, used: piece.used })
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
    use proptest::prelude::*;

    #[test]
    fn headers_and_replies() {
        let bytes = request(Command::Zeroes, 7, 0x1000, 0x200);
        assert_eq!(bytes[..8], [0x25, 0x60, 0x95, 0x13, 0, 0, 0, 6]);
        assert_eq!((bytes.len(), bytes[15], bytes[22], bytes[26]), (28, 7, 0x10, 2));
        let bytes = *b"\x67\x44\x66\x98\0\0\0\x1c\0\0\0\0\0\0\0\x09";
        assert_eq!(reply(&bytes), Some((9, 28)));
        assert_eq!(reply(&[0; 16]), None);
        assert_eq!(reason(28), "the server's disk is full");
    }

    proptest! {
        #[test]
        fn steps_cover_the_rest_of_the_disk(from in 0u64..1 << 30, zeroes: bool) {
            let map = Extents::new(1 << 30, [5000..9000, 1 << 20..5 << 20, (1 << 30) - 7..1 << 30]);
            let mut at = from;
            for step in steps(&map, from, zeroes) {
                let length = step.range.end - step.range.start;
                prop_assert!(step.range.start == at && length > 0);
                let most = if step.used || !zeroes { MAX_DATA } else { MAX_ZEROES };
                prop_assert!(length <= most);
                at = step.range.end;
            }
            prop_assert_eq!(at, 1 << 30);
        }
    }
}
