//! Looking for text in text.
//!
//! The standard library's search is made for long texts and brings 7 KB of code;
//! a kernel command line is short, and `/init` counts its bytes.

use alloc::string::String;

/// Where `needle` starts in `text`; an empty one is nowhere.
#[must_use]
pub fn find(text: &str, needle: &str) -> Option<usize> {
    let needle = needle.as_bytes();
    if needle.is_empty() {
        return None;
    }
    text.as_bytes().windows(needle.len()).position(|part| part == needle)
}

/// Whether `needle` is in `text`.
#[must_use]
pub fn has(text: &str, needle: &str) -> bool {
    find(text, needle).is_some()
}

/// What is before and after the first `needle`.
#[must_use]
pub fn cut<'a>(text: &'a str, needle: &str) -> Option<(&'a str, &'a str)> {
    let (before, rest) = text.split_at_checked(find(text, needle)?)?;
    Some((before, rest.get(needle.len()..)?))
}

/// `text` with every `needle` replaced.
#[must_use]
pub fn swap(text: &str, needle: &str, by: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = cut(rest, needle) {
        out.push_str(before);
        out.push_str(by);
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{cut, find, has, swap};

    #[test]
    fn an_empty_needle_is_nowhere() {
        assert_eq!((find("a", ""), cut("a", ""), swap("a", "", "x")), (None, None, "a".into()));
    }

    proptest! {
        #[test]
        fn finds_what_the_standard_library_finds(text in "[ab:/é]{0,12}", needle in "[ab:/é]{1,3}") {
            prop_assert_eq!(find(&text, &needle), text.find(&needle));
            prop_assert_eq!(has(&text, &needle), text.contains(&needle));
            prop_assert_eq!(cut(&text, &needle), text.split_once(&needle));
            prop_assert_eq!(swap(&text, &needle, "x"), text.replace(&needle, "x"));
        }
    }
}
