//! Sorting in a few hundred bytes of code.
//!
//! core's sorts are made for speed and take five kilobytes of code a type; /init sorts
//! directory listings. Heapsort: no allocation, and no slow input.

/// Sorts by `<`; equal items may be reordered.
pub fn sort<T: Ord>(items: &mut [T]) {
    sort_by(items, |a, b| a < b);
}

/// Sorts by a strict order; equal items may be reordered.
pub fn sort_by<T>(items: &mut [T], less: impl Fn(&T, &T) -> bool) {
    let length = items.len();
    for root in (0..length / 2).rev() {
        sift(items, root, length, &less);
    }
    for end in (1..length).rev() {
        items.swap(0, end);
        sift(items, 0, end, &less);
    }
}

/// Sifts the item at `root` down the heap of the first `length` items.
fn sift<T>(items: &mut [T], mut root: usize, length: usize, less: &impl Fn(&T, &T) -> bool) {
    let before = |items: &[T], a: usize, b: usize| match (items.get(a), items.get(b)) {
        (Some(a), Some(b)) => less(a, b),
        _ => false,
    };
    loop {
        let mut child = 2 * root + 1;
        if child >= length {
            return;
        }
        if child + 1 < length && before(items, child, child + 1) {
            child += 1;
        }
        if !before(items, root, child) {
            return;
        }
        items.swap(root, child);
        root = child;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_the_standard_sort(mut items: Vec<u8>) {
            let mut expected = items.clone();
            expected.sort_unstable();
            sort(&mut items);
            prop_assert_eq!(items, expected);
        }
    }
}
