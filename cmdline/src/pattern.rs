//! The patterns that Slax chooses its bundles by (`load=`, `noload=`): what people
//! write of extended regular expressions there.
//!
//! Alternatives by `|` or `,`; `.` for any byte; `*`, `+` and `?` behind one byte;
//! `^` and `$` at the ends; a backslash takes the next byte as it is. Brackets and
//! groups are not read: they stand for themselves. All states are followed at once,
//! so that no pattern takes long.

/// Bytes of an alternative, at most: one bit for each state.
const MAX_ATOMS: usize = 63;

/// One byte of a pattern, and how often it may come.
#[derive(Debug, Clone, Copy)]
struct Atom {
    /// `None` for any byte.
    byte: Option<u8>,
    optional: bool,
    many: bool,
}

/// Whether one of the alternatives matches somewhere in `text`. An empty pattern, or one
/// that is too long, matches nothing.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    pattern
        .split(['|', ','])
        .any(|one| !one.is_empty() && one.len() <= MAX_ATOMS && branch(one, text.as_bytes()))
}

fn branch(pattern: &str, text: &[u8]) -> bool {
    let (pattern, from_start) = match pattern.strip_prefix('^') {
        Some(rest) => (rest, true),
        None => (pattern, false),
    };
    let (pattern, to_end) = match pattern.strip_suffix('$') {
        // One that a backslash takes as it is, is none.
        Some(rest) if (rest.len() - rest.trim_end_matches('\\').len()).is_multiple_of(2) => {
            (rest, true)
        }
        _ => (pattern, false),
    };
    let mut atoms = [Atom { byte: None, optional: false, many: false }; MAX_ATOMS];
    let mut count = 0;
    let mut escaped = false;
    for byte in pattern.bytes() {
        match (escaped, byte, atoms.get_mut(..count).and_then(<[Atom]>::last_mut)) {
            (false, b'\\', _) => escaped = true,
            (false, b'*' | b'+' | b'?', Some(last)) => {
                last.optional |= byte != b'+';
                last.many |= byte != b'?';
            }
            _ => {
                if let Some(atom) = atoms.get_mut(count) {
                    atom.byte = (escaped || byte != b'.').then_some(byte);
                    count += 1;
                }
                escaped = false;
            }
        }
    }
    let atoms = atoms.get(..count).unwrap_or_default();
    // Bit n: the first n atoms have been seen.
    let skip = |mut states: u64| {
        for (at, atom) in atoms.iter().enumerate() {
            states |= u64::from(atom.optional) * ((states >> at & 1) << (at + 1));
        }
        states
    };
    let done = 1 << count;
    let mut states = skip(1);
    for byte in text {
        if states & done != 0 && !to_end {
            return true;
        }
        let mut next = u64::from(!from_start);
        for (at, atom) in atoms.iter().enumerate() {
            if states >> at & 1 == 1 && atom.byte.is_none_or(|wanted| wanted == *byte) {
                next |= 2 << at | u64::from(atom.many) << at;
            }
        }
        states = skip(next);
    }
    states & done != 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::matches;

    #[test]
    fn what_people_write() {
        for (pattern, text, wanted) in [
            ("firefox", "05-firefox.sb", true),
            ("02-xorg|03-desktop", "03-desktop.sb", true),
            ("02-xorg,03-desktop", "04-apps.sb", false),
            ("^0[12]", "01-core.sb", false),
            ("^01-", "01-core.sb", true),
            ("^core", "01-core.sb", false),
            (r"core\.sb$", "01-core.sb", true),
            (r"core\.sb$", "01-coreXsb", false),
            ("core$", "01-core.sb", false),
            (r"a\$", "a$b", true),
            (r"a\\$", r"xa\", true),
            ("0.-c.*e", "01-core.sb", true),
            ("o+re", "cooore", true),
            ("co?re", "cre", true),
            ("a*$", "b", true),
            ("*", "a*b", true),
            ("", "x", false),
            ("||", "x", false),
        ] {
            assert_eq!(matches(pattern, text), wanted, "{pattern} in {text}");
        }
        assert!(!matches(&"a*".repeat(40), "a"));
        assert!(matches(&"a?".repeat(31), &"a".repeat(4096)));
    }

    proptest! {
        #[test]
        fn plain_text_is_found_as_it_is(pattern in "[a-c]{1,4}", text in "[a-c]{0,12}") {
            prop_assert_eq!(matches(&pattern, &text), text.contains(&pattern));
        }

        #[test]
        fn anything(pattern in r"[ab.*+?^$|,\\\\]{0,70}", text in ".{0,40}") {
            let _ = matches(&pattern, &text);
        }
    }
}
