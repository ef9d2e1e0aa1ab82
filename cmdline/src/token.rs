//! Splits a command line into words.
//!
//! Follows the kernel's own splitter (`next_arg` in `lib/cmdline.c`): blanks
//! separate words, a double quote switches quoting on and off anywhere in a word,
//! and the quotes around a whole word or around a whole value are dropped. The
//! first `=` separates name and value. casper, live-boot, Slax and Alpine split
//! at blanks whatever the quotes say; a quoted blank never works there, so the
//! kernel's rule is used for every dialect and the difference is only reported.
//!
//! Length and count are bounded; what is over the bounds is cut off and said so.

use alloc::string::String;
use alloc::vec::Vec;

/// Longest line that is read. The kernel's own limit is 2 KiB on x86; the rest
/// is room for other architectures and for words from configuration files.
pub const MAX_LINE: usize = 64 * 1024;
/// Most words of a line that are read.
pub const MAX_WORDS: usize = 4096;

/// One word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// What is left of the first `=`, or the whole word.
    pub name: &'a str,
    /// What is right of the first `=`; `None` when the word has none.
    pub value: Option<&'a str>,
    /// A blank stands inside quotes.
    pub quoted_blank: bool,
}

impl Token<'_> {
    /// The word as it was written, without quotes.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::from(self.name);
        if let Some(value) = self.value {
            text.push('=');
            text.push_str(value);
        }
        text
    }
}

/// A line taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Line<'a> {
    /// Words before a lone `--`.
    pub words: Vec<Token<'a>>,
    /// Words after it: arguments for init, unless the dialect reads them too.
    pub init_args: Vec<Token<'a>>,
    /// The last quote was never closed.
    pub open_quote: bool,
    /// The line was longer than [`MAX_LINE`] or had more words than [`MAX_WORDS`].
    pub cut: bool,
}

/// Takes a line apart. Never fails; see [`Line`] for what it could not make sense of.
#[must_use]
pub fn split(line: &str) -> Line<'_> {
    let mut result = Line::default();
    let mut rest = line;
    if rest.len() > MAX_LINE {
        result.cut = true;
        let mut end = MAX_LINE;
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        rest = rest.get(..end).unwrap_or_default();
    }
    let mut after_dashes = false;
    loop {
        rest = rest.trim_start_matches(is_blank);
        if rest.is_empty() {
            return result;
        }
        if result.words.len() + result.init_args.len() >= MAX_WORDS {
            result.cut = true;
            return result;
        }
        let (raw, left, open) = next_raw(rest);
        rest = left;
        result.open_quote |= open;
        if raw == "--" && !after_dashes {
            after_dashes = true;
            continue;
        }
        let token = token(raw);
        if after_dashes {
            result.init_args.push(token);
        } else {
            result.words.push(token);
        }
    }
}

/// The words of a line as they stand there, quotes included.
pub(crate) fn raw_words(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    core::iter::from_fn(move || {
        rest = rest.trim_start_matches(is_blank);
        let (raw, left, _) = next_raw(rest);
        rest = left;
        (!raw.is_empty()).then_some(raw)
    })
}

/// Blanks as the kernel's `isspace` sees them, and control characters, which no
/// boot loader can have meant.
fn is_blank(c: char) -> bool {
    c == ' ' || c.is_control() || c == '\u{a0}'
}

/// The first word with its quotes, what follows it, and whether a quote stayed open.
fn next_raw(line: &str) -> (&str, &str, bool) {
    let mut in_quote = false;
    let mut end = line.len();
    for (at, c) in line.char_indices() {
        if c == '"' {
            in_quote = !in_quote;
        } else if is_blank(c) && !in_quote {
            end = at;
            break;
        }
    }
    let (raw, rest) = line.split_at_checked(end).unwrap_or((line, ""));
    (raw, rest, in_quote)
}

/// A word as it stands in a line, quotes included, taken apart.
pub(crate) fn token(raw: &str) -> Token<'_> {
    let quoted_blank = raw.contains(is_blank);
    let body = match raw.strip_prefix('"') {
        Some(inner) => inner.strip_suffix('"').unwrap_or(inner),
        None => raw,
    };
    let (name, value) = match body.split_once('=') {
        None => (body, None),
        Some((name, value)) => match value.strip_prefix('"') {
            Some(inner) => (name, Some(inner.strip_suffix('"').unwrap_or(inner))),
            None => (name, Some(value)),
        },
    };
    Token { name, value, quoted_blank }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(line: &str) -> Vec<(&str, Option<&str>)> {
        split(line).words.iter().map(|t| (t.name, t.value)).collect()
    }

    #[test]
    fn the_kernels_quoting_rules() {
        assert_eq!(
            pairs("a b=c  d=\"e f\" \"g=h i\"\tj=k=l"),
            [
                ("a", None),
                ("b", Some("c")),
                ("d", Some("e f")),
                ("g", Some("h i")),
                ("j", Some("k=l")),
            ]
        );
        assert_eq!(
            pairs("x= =y \"\" z=\"\""),
            [("x", Some("")), ("", Some("y")), ("", None), ("z", Some(""))]
        );
        // A quote in the middle of a value keeps the blank and stays, as in the kernel.
        assert_eq!(pairs("dyndbg=a\"b c\"d"), [("dyndbg", Some("a\"b c\"d"))]);
        assert_eq!(
            pairs("BOOT_IMAGE=/vmlinuz\nroot=/dev/nfs\n"),
            [("BOOT_IMAGE", Some("/vmlinuz")), ("root", Some("/dev/nfs"))]
        );
    }

    #[test]
    fn what_follows_two_dashes_is_inits() {
        let line = split("quiet -- single root=/x -- y");
        assert_eq!(line.words.len(), 1);
        let args: Vec<String> = line.init_args.iter().map(Token::text).collect();
        assert_eq!(args, ["single", "root=/x", "--", "y"]);
    }

    #[test]
    fn an_open_quote_and_bounds_are_reported() {
        assert!(split("a \"b c").open_quote);
        assert!(!split("a \"b c\"").open_quote);
        let long = "ä".repeat(MAX_LINE);
        assert!(split(&long).cut);
        let many = "a ".repeat(MAX_WORDS + 1);
        let line = split(&many);
        assert!(line.cut);
        assert_eq!(line.words.len(), MAX_WORDS);
    }

    proptest! {
        #[test]
        fn any_text_is_split_without_loss_of_plain_words(line in "\\PC{0,200}") {
            let split = split(&line);
            prop_assert!(split.words.len() + split.init_args.len() <= MAX_WORDS);
            if !line.contains('"') {
                for token in split.words.iter().chain(&split.init_args) {
                    prop_assert!(line.contains(&token.text()));
                }
            }
        }

        #[test]
        fn quoting_a_word_round_trips(name in "[a-z.]{1,12}", value in "[a-z =:/,]{0,20}") {
            let line = alloc::format!("x {name}=\"{value}\" y");
            let split = split(&line);
            prop_assert_eq!(split.words.len(), 3);
            prop_assert_eq!((split.words[1].name, split.words[1].value), (name.as_str(), Some(value.as_str())));
        }
    }
}
