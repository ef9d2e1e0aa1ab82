//! A set of chunk numbers, one bit each.

use alloc::vec;
use alloc::vec::Vec;

/// A set of numbers below a length.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bits {
    words: Vec<u64>,
    len: u32,
}

fn place(n: u32) -> (usize, u64) {
    ((n / 64) as usize, 1 << (n % 64))
}

impl Bits {
    /// The empty set.
    #[must_use]
    pub fn new(len: u32) -> Self {
        Self { words: vec![0; len.div_ceil(64) as usize], len }
    }

    /// All numbers.
    #[must_use]
    pub fn full(len: u32) -> Self {
        Self::new(len).not()
    }

    /// Numbers in it are below this.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether it has no number.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Whether it has this number.
    #[must_use]
    pub fn has(&self, n: u32) -> bool {
        let (word, bit) = place(n);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Puts a number in; one past the end is left out.
    pub fn add(&mut self, n: u32) {
        let (word, bit) = place(n);
        if n < self.len
            && let Some(word) = self.words.get_mut(word)
        {
            *word |= bit;
        }
    }

    /// Takes a number out.
    pub fn remove(&mut self, n: u32) {
        let (word, bit) = place(n);
        if let Some(word) = self.words.get_mut(word) {
            *word &= !bit;
        }
    }

    /// How many it has.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// The numbers that it has not.
    #[must_use]
    pub fn not(&self) -> Self {
        let mut all = Self { words: self.words.iter().map(|word| !word).collect(), len: self.len };
        if let Some(last) = all.words.last_mut().filter(|_| !self.len.is_multiple_of(64)) {
            *last &= (1 << (self.len % 64)) - 1;
        }
        all
    }

    /// The first number from `from` on that both sets have.
    #[must_use]
    pub fn first_in_both(&self, other: &Self, from: u32) -> Option<u32> {
        let (first, _) = place(from);
        let below = !0 << (from % 64);
        let mut both = self.words.iter().zip(&other.words).enumerate().skip(first);
        both.find_map(|(at, (a, b))| {
            let word = a & b & if at == first { below } else { !0 };
            let n = u32::try_from(at * 64).ok()?.checked_add(word.trailing_zeros())?;
            (word != 0).then_some(n)
        })
    }

    /// The first number from `from` on that one of these sets has, or, for `two`, that at least
    /// two have.
    #[must_use]
    pub fn first_of(sets: &[&Self], two: bool, from: u32) -> Option<u32> {
        let (first, _) = place(from);
        let words = sets.iter().map(|set| set.words.len()).max().unwrap_or(0);
        (first..words).find_map(|at| {
            let (mut once, mut twice) = (0, 0);
            for word in sets.iter().filter_map(|set| set.words.get(at)) {
                twice |= once & word;
                once |= word;
            }
            let mask = if at == first { !0 << (from % 64) } else { !0 };
            let word: u64 = if two { twice } else { once } & mask;
            let n = u32::try_from(at * 64).ok()?.checked_add(word.trailing_zeros())?;
            (word != 0).then_some(n)
        })
    }

    /// All numbers, from the lowest on.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        (0..self.len).filter(|n| self.has(*n))
    }

    /// On the wire: words of 64 bits, little-endian.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Reads it; nothing when it has another length, or bits past its end.
    #[must_use]
    pub fn read(len: u32, bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        let all = Self { words: words.iter().map(|word| u64::from_le_bytes(*word)).collect(), len };
        let whole = rest.is_empty() && all.words.len() == len.div_ceil(64) as usize;
        (whole && all.not().not() == all).then_some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(len in 0u32..200, numbers: Vec<u8>, from in 0u32..220) {
            let mut bits = Bits::new(len);
            let mut set = BTreeSet::new();
            for n in numbers.iter().map(|n| u32::from(*n)) {
                if n % 3 == 0 { bits.remove(n); set.remove(&n); } else { bits.add(n); if n < len { set.insert(n); } }
            }
            prop_assert_eq!(bits.iter().collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(bits.count() as usize, set.len());
            prop_assert_eq!(bits.is_empty(), set.is_empty());
            prop_assert_eq!(bits.not().count(), len - bits.count());
            let first = set.range(from..).next().copied();
            prop_assert_eq!(bits.first_in_both(&Bits::full(len), from), first);
            prop_assert_eq!(bits.first_in_both(&bits.not(), 0), None);
            prop_assert_eq!(Bits::read(len, &bits.bytes()), Some(bits));
        }
    }

    proptest! {
        #[test]
        fn what_one_or_two_of_several_have(
            lists in proptest::collection::vec(proptest::collection::vec(0u32..150, 0..60), 0..5),
            from in 0u32..170,
        ) {
            let set = |list: &Vec<u32>| {
                let mut bits = Bits::new(150);
                list.iter().for_each(|n| bits.add(*n));
                bits
            };
            let sets: Vec<Bits> = lists.iter().map(set).collect();
            let sets: Vec<&Bits> = sets.iter().collect();
            for least in [1, 2] {
                let has = |n: &u32| sets.iter().filter(|set| set.has(*n)).count() >= least;
                prop_assert_eq!(Bits::first_of(&sets, least == 2, from), (from..150).find(has));
            }
        }
    }

    #[test]
    fn bits_past_the_end_are_refused() {
        assert_eq!(Bits::read(3, &[8, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(Bits::read(3, &[7, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(Bits::read(65, &[0; 8]), None);
        assert!(Bits::read(3, &[7, 0, 0, 0, 0, 0, 0, 0]).is_some());
    }
}
