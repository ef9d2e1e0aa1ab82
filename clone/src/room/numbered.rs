//! A map from numbers in as few bytes of code as that takes: a sorted list. The standard
//! library's tree of nodes is ten kilobytes of `/init`, for some hundred entries at the most.

use alloc::vec::Vec;

/// Values by their numbers, in the order of these.
#[derive(Debug)]
pub struct Numbered<V>(Vec<(u32, V)>);

impl<V> Default for Numbered<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V> Numbered<V> {
    fn find(&self, number: u32) -> Result<usize, usize> {
        self.0.binary_search_by_key(&number, |(number, _)| *number)
    }

    /// The value of a number.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&V> {
        self.find(number).ok().and_then(|at| self.0.get(at)).map(|(_, value)| value)
    }

    /// The value of a number, to be changed.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut V> {
        let at = self.find(number).ok()?;
        self.0.get_mut(at).map(|(_, value)| value)
    }

    /// Puts a value in the place of the one that the number had.
    pub fn insert(&mut self, number: u32, value: V) {
        match self.find(number) {
            Ok(at) => self.0.splice(at..=at, [(number, value)]).for_each(drop),
            Err(at) => self.0.insert(at, (number, value)),
        }
    }

    /// Takes a value out.
    pub fn remove(&mut self, number: u32) -> Option<V> {
        self.find(number).ok().map(|at| self.0.remove(at).1)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u32, &V)> {
        self.0.iter().map(|(number, value)| (*number, value))
    }

    /// All of them, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut V)> {
        self.0.iter_mut().map(|(number, value)| (*number, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_is_a_map(steps: Vec<(u8, u8)>) {
            let (mut ours, mut theirs) = (Numbered::default(), BTreeMap::new());
            for (number, value) in steps.into_iter().map(|(n, value)| (u32::from(n % 16), value)) {
                if value % 3 == 0 {
                    prop_assert_eq!(ours.remove(number), theirs.remove(&number));
                } else {
                    ours.insert(number, value);
                    theirs.insert(number, value);
                }
                ours.iter_mut().for_each(|(_, value)| *value = value.wrapping_add(1));
                theirs.values_mut().for_each(|value| *value = value.wrapping_add(1));
                prop_assert_eq!(ours.get(number), theirs.get(&number));
                prop_assert_eq!(ours.get_mut(number), theirs.get_mut(&number));
                prop_assert_eq!(ours.len(), theirs.len());
                prop_assert!(ours.iter().eq(theirs.iter().map(|(number, value)| (*number, value))));
            }
        }
    }
}
