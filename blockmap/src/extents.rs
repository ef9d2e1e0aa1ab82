//! A sorted list of byte ranges, of bounded length.

use alloc::vec::Vec;

/// Most extents of a list: 32 MiB of memory.
const MOST: usize = 1 << 20;
/// The first gap that is closed when there are too many.
const GRAIN: u64 = 64 << 10;

/// Some bytes of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extent {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub length: u64,
}

impl Extent {
    /// The first byte behind it.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }
}

/// A list in the making. Extents may come in any order and overlap.
///
/// Past about a million extents small gaps are taken as used, ever larger ones: more is copied
/// than must be, never less.
#[derive(Debug, Clone)]
pub struct Extents {
    list: Vec<Extent>,
    most: usize,
    gap: u64,
}

impl Default for Extents {
    fn default() -> Self {
        Self::with_most(MOST)
    }
}

impl Extents {
    /// A list of at most so many extents.
    #[must_use]
    pub const fn with_most(most: usize) -> Self {
        Self { list: Vec::new(), most, gap: 0 }
    }

    /// Adds bytes; what goes past the last number of a byte is cut off.
    pub fn add(&mut self, start: u64, length: u64) {
        let length = length.min(u64::MAX - start);
        if length == 0 {
            return;
        }
        let next = Extent { start, length };
        if let Some(last) = self.list.last_mut()
            && start >= last.start
            && start <= last.end().saturating_add(self.gap)
        {
            last.length = next.end().max(last.end()) - last.start;
            return;
        }
        self.list.push(next);
        if self.list.len() > self.most {
            self.join();
            while self.list.len() > self.most / 2 && self.gap < u64::MAX / 2 {
                self.gap = (self.gap * 2).max(GRAIN);
                self.join();
            }
        }
    }

    /// The sorted list, in which no two extents touch.
    #[must_use]
    pub fn finish(mut self) -> Vec<Extent> {
        self.join();
        self.list
    }

    fn join(&mut self) {
        if !self.list.is_sorted() {
            sys::sort::sort(&mut self.list);
        }
        let gap = self.gap;
        self.list.dedup_by(|next, last| {
            let touches = next.start <= last.end().saturating_add(gap);
            if touches {
                last.length = next.end().max(last.end()) - last.start;
            }
            touches
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(parts: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut all = Extents::default();
        parts.iter().for_each(|(start, length)| all.add(*start, *length));
        all.finish().iter().map(|e| (e.start, e.length)).collect()
    }

    #[test]
    fn extents_are_sorted_and_joined() {
        assert_eq!(list(&[(10, 5), (0, 0), (15, 1), (3, 2), (0, 3), (4, 1)]), [(0, 5), (10, 6)]);
        assert_eq!(list(&[(5, u64::MAX), (1, 1)]), [(1, 1), (5, u64::MAX - 5)]);
    }

    proptest! {
        /// Every byte that was added is in the list, whatever the order and the bound.
        #[test]
        fn no_byte_is_lost(
            parts in prop::collection::vec((0_u64..1 << 20, 0_u64..3000), 0..200),
            most in 2_usize..20,
        ) {
            let mut all = Extents::with_most(most);
            parts.iter().for_each(|(start, length)| all.add(*start, *length));
            let all = all.finish();
            prop_assert!(all.len() <= most + 1);
            prop_assert!(all.windows(2).all(|w| w[0].end() < w[1].start));
            for (start, length) in parts.into_iter().filter(|(_, length)| *length > 0) {
                prop_assert!(all.iter().any(|e| e.start <= start && start + length <= e.end()));
            }
        }

        #[test]
        fn an_exact_list_has_no_other_byte(
            parts in prop::collection::vec((0_u64..4000, 0_u64..99), 0..50),
        ) {
            let mut all = Extents::default();
            parts.iter().for_each(|(start, length)| all.add(*start, *length));
            let all = all.finish();
            for byte in 0..4200 {
                let wanted = parts.iter().any(|(s, l)| (*s..s + l).contains(&byte));
                prop_assert_eq!(all.iter().any(|e| e.start <= byte && byte < e.end()), wanted);
            }
        }
    }
}
