//! udpcast: one sender, up to 1024 receivers, UDP multicast.
//!
//! The protocol is that of the udpcast programs (`udp-sender`,
//! `udp-receiver`; the 2012 and later lines, big-endian). A stream is cut into
//! slices of at most 1024 blocks; after each slice the sender asks the receivers for it,
//! and sends again what a receiver lacks, until all have it. Without a way back
//! (asynchronous mode) forward error correction takes the place of asking.
//!
//! * [`wire`]: the packets.
//! * [`fec`]: the erasure code.
//! * [`sender`], [`receiver`]: the two ends.
//!
//! The sender is the only authority on which machine is which; machines are
//! told apart by IPv4 address alone, nothing is authenticated. Use it on a
//! network that you trust; use [`crate::digest`] to know that the copy is good.

pub mod fec;
pub mod receiver;
pub mod sender;
pub mod wire;

pub use receiver::Receiver;
pub use sender::Sender;

/// The name in messages.
const NAME: &str = "udpcast";

/// Blocks in a slice at most: what a packet's bit map has room for.
pub const MAX_SLICE_BLOCKS: usize = 1024;

/// Bytes of a block at most: an Ethernet frame less all headers, a multiple
/// of four.
pub const MAX_BLOCK_SIZE: usize = 1456;

/// A set of blocks in a slice, or of receivers: bit `i` is bit `i % 8` of byte
/// `i / 8`, as in the packets.
#[derive(Clone, PartialEq, Eq)]
pub struct Bits([u8; 128]);

impl Default for Bits {
    fn default() -> Self {
        Self([0; 128])
    }
}

impl core::fmt::Debug for Bits {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} set", self.count())
    }
}

impl Bits {
    /// The set that a packet carries.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 128]) -> Self {
        Self(bytes)
    }

    /// The set as a packet carries it.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 128] {
        &self.0
    }

    /// The first `n` members.
    #[must_use]
    pub fn first(n: usize) -> Self {
        let mut all = Self::default();
        (0..n.min(1024)).for_each(|i| all.set(i));
        all
    }

    /// Whether `i` is a member; false beyond 1023.
    #[must_use]
    pub fn get(&self, i: usize) -> bool {
        self.0.get(i / 8).is_some_and(|b| b & (1 << (i % 8)) != 0)
    }

    /// Makes `i` a member; nothing beyond 1023.
    pub fn set(&mut self, i: usize) {
        if let Some(b) = self.0.get_mut(i / 8) {
            *b |= 1 << (i % 8);
        }
    }

    /// Makes `i` no member.
    pub fn clear(&mut self, i: usize) {
        if let Some(b) = self.0.get_mut(i / 8) {
            *b &= !(1 << (i % 8));
        }
    }

    /// How many members.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|b| b.count_ones() as usize).sum()
    }

    /// The lowest member that is `from` or more.
    #[must_use]
    pub fn next(&self, from: usize) -> Option<usize> {
        let mut i = from;
        while i < 1024 {
            let b = *self.0.get(i / 8)? >> (i % 8);
            if b != 0 {
                return Some(i + b.trailing_zeros() as usize);
            }
            i = (i / 8 + 1) * 8;
        }
        None
    }

    /// Adds the members of `other`.
    pub fn union(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a |= b);
    }

    /// Of the first `n`, those that are not members.
    #[must_use]
    pub fn missing(&self, n: usize) -> Self {
        let mut all = Self::first(n);
        all.0.iter_mut().zip(self.0).for_each(|(a, b)| *a &= !b);
        all
    }
}

/// The multicast address for data that udpcast derives from the sender's own.
#[must_use]
pub const fn default_group(sender: core::net::Ipv4Addr) -> core::net::Ipv4Addr {
    core::net::Ipv4Addr::from_bits((sender.to_bits() & 0x07ff_ffff) | 0xe800_0000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_recorded_run() {
        assert_eq!(default_group([10, 77, 0, 1].into()), core::net::Ipv4Addr::new(234, 77, 0, 1));
    }

    #[test]
    fn bits_are_counted_from_the_lowest() {
        // From a recorded RETRANSMIT: 58 blocks, those from 7 to 12 missing.
        let mut map = [0; 128];
        map[..8].copy_from_slice(&[0x7f, 0xe0, 0xff, 0xff, 0xff, 0xff, 0xff, 0x03]);
        let have = Bits::from_bytes(map);
        let holes = have.missing(58);
        assert_eq!(holes.count(), 6);
        assert_eq!(holes.next(0), Some(7));
        assert_eq!(holes.next(12), Some(12));
        assert_eq!(holes.next(13), None);
    }
}
