//! Which bytes of a disk are in use: the others read as zeros and do not travel.

use alloc::vec::Vec;
use core::ops::Range;

/// The bytes of a disk that are in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extents {
    size: u64,
    /// Sorted, apart from each other, none empty, none beyond the size.
    used: Vec<Range<u64>>,
}

/// A part of a range that is all in use, or all not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of the disk.
    pub range: Range<u64>,
    /// Whether they are in use.
    pub used: bool,
}

impl Piece {
    /// How many bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }
}

impl Extents {
    /// A disk all of which is in use.
    #[must_use]
    pub fn whole(size: u64) -> Self {
        Self::new(size, core::iter::once(0..size))
    }

    /// A disk of which these ranges are in use, in any order; what lies beyond its end is
    /// left out.
    #[must_use]
    pub fn new(size: u64, ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut all = blockmap::Extents::default();
        for range in ranges {
            let (start, end) = (range.start.min(size), range.end.min(size));
            all.add(start, end.saturating_sub(start));
        }
        let used = all.finish().iter().map(|extent| extent.start..extent.end()).collect();
        Self { size, used }
    }

    /// The same with ranges that begin and end at multiples of `unit`, or at the end of the
    /// disk: so that what reads and writes them does whole sectors.
    #[must_use]
    pub fn aligned(&self, unit: u64) -> Self {
        let unit = unit.max(1);
        let widen = |range: &Range<u64>| {
            let end = range.end.checked_next_multiple_of(unit).unwrap_or(range.end);
            range.start - range.start % unit..end
        };
        Self::new(self.size, self.used.iter().map(widen))
    }

    /// Bytes of the disk.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Bytes in use.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used.iter().map(|range| range.end.saturating_sub(range.start)).sum()
    }

    /// The ranges in use, in order.
    #[must_use]
    pub fn used(&self) -> &[Range<u64>] {
        &self.used
    }

    /// The pieces of a range in order, without a gap; none outside of the disk.
    pub fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Piece> + '_ {
        let end = range.end.min(self.size);
        let mut at = range.start;
        let mut next = self.used.partition_point(|used| used.end <= range.start);
        core::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let ahead = self.used.get(next);
            let (used, until) = match ahead {
                Some(used) if used.start <= at => (true, used.end),
                Some(used) => (false, used.start),
                None => (false, end),
            };
            next += usize::from(used);
            let piece = Piece { range: at..until.min(end), used };
            at = piece.range.end;
            Some(piece)
        })
    }
}

/// Which parts of a disk a client has read: so that what it reads again is no progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Bytes of a chunk. A chunk counts as read once a byte of it is.
    chunk: u64,
    /// A bit for each.
    bits: Vec<u64>,
    fresh: u64,
    read: u64,
}

/// Chunks of a disk at most: 128 KiB of bits.
const CHUNKS: u64 = 1 << 20;
/// The smallest chunk: nbdkit's filter cow reads such blocks.
const SMALLEST: u64 = 64 << 10;

impl Seen {
    /// Nothing of a disk of so many bytes.
    #[must_use]
    pub fn of(size: u64) -> Self {
        let chunk = size.div_ceil(CHUNKS).next_power_of_two().max(SMALLEST);
        let words = size.div_ceil(chunk).div_ceil(64);
        let bits = alloc::vec![0; usize::try_from(words).unwrap_or(0)];
        Self { chunk, bits, fresh: 0, read: 0 }
    }

    /// A client has read a range of the disk with this map.
    pub fn take(&mut self, range: Range<u64>, map: &Extents) {
        let used = |range: Range<u64>| -> u64 {
            map.pieces(range).filter(|piece| piece.used).map(|piece| piece.length()).sum()
        };
        self.read += used(range.clone());
        if range.is_empty() {
            return;
        }
        for n in range.start / self.chunk..range.end.div_ceil(self.chunk) {
            let word = usize::try_from(n / 64).ok().and_then(|word| self.bits.get_mut(word));
            let Some(word) = word.filter(|word| **word >> (n % 64) & 1 == 0) else { continue };
            *word |= 1 << (n % 64);
            self.fresh += used(n * self.chunk..(n + 1).saturating_mul(self.chunk));
        }
    }

    /// Bytes in use that were read at least once.
    #[must_use]
    pub const fn fresh(&self) -> u64 {
        self.fresh
    }

    /// Bytes in use that were read once more.
    #[must_use]
    pub const fn again(&self) -> u64 {
        self.read.saturating_sub(self.fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_read_again_is_no_progress() {
        let kib = |n: u64| n << 10;
        let map = Extents::new(kib(1024), [0..kib(100), kib(512)..kib(1000)]);
        let mut seen = Seen::of(map.size());
        seen.take(0..kib(4), &map);
        assert_eq!((seen.fresh(), seen.again()), (kib(64), 0));
        seen.take(0..kib(1024), &map);
        assert_eq!((seen.fresh(), seen.again()), (map.used_bytes(), kib(4)));
        seen.take(kib(200)..kib(600), &map);
        seen.take(kib(7)..kib(7), &map);
        assert_eq!((seen.fresh(), seen.again()), (map.used_bytes(), kib(4 + 88)));
        // A disk of 64 TiB needs no more room than one of 64 GiB.
        assert_eq!(
            (Seen::of(64 << 40).bits.len(), Seen::of(64 << 30).bits.len()),
            (1 << 14, 1 << 14)
        );
        let mut none = Seen::of(0);
        none.take(0..kib(64), &Extents::whole(0));
        assert_eq!(none.fresh(), 0);
    }

    #[test]
    fn ranges_are_sorted_joined_and_cut() {
        let extents = Extents::new(100, [50..60, 10..20, 20..30, 55..70, 90..200, 300..400, 5..5]);
        assert_eq!(extents.used(), [10..30, 50..70, 90..100]);
        assert_eq!(extents.used_bytes(), 50);
        assert_eq!(extents.aligned(16).used(), [0..32, 48..100]);
        assert_eq!(Extents::whole(7).used().first(), Some(&(0..7)));
        assert_eq!(Extents::whole(0).used(), []);
    }

    proptest! {
        #[test]
        fn pieces_are_the_range(
            ranges in proptest::collection::vec((0u64..120, 0u64..40), 0..12),
            start in 0u64..130, length in 0u64..130,
        ) {
            let extents = Extents::new(100, ranges.iter().map(|(at, n)| *at..at + n));
            let mut at = start;
            for piece in extents.pieces(start..start + length) {
                prop_assert!(piece.range.start == at && piece.length() > 0);
                for byte in piece.range.clone() {
                    let used = ranges.iter().any(|(at, n)| (*at..at + n).contains(&byte));
                    prop_assert_eq!(used, piece.used);
                }
                at = piece.range.end;
            }
            prop_assert_eq!(at, (start + length).min(100).max(start));
        }
    }
}
