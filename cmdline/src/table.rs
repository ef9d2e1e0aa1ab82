//! The words of the dialects as data, and the bookkeeping of what became of each
//! word of a line.
//!
//! A dialect is a [`Grammar`]: tables of [`Spec`]s and one function that builds the
//! plan. That function asks a [`Draft`] for words by name; asking is what marks a
//! word as used. Whatever a table knows and no dialect asked for had no effect, and is
//! reported without the dialect having to think of it: `nfsroot=` beside
//! `netboot=url`, a persistence label without `persistence`.
//!
//! The tables' descriptions stand in constants of their own that only host tools
//! refer to, so that the linker leaves them out of /init.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::context::Context;
#[cfg(feature = "all")]
use crate::hints::instead;
#[cfg(feature = "explain")]
use crate::hints::iso_file;
use crate::kernel_words::KERNEL_WORDS;
use crate::plan::{BootPlan, Dialect, Fate, Warning, Word};
use crate::secrets::masked;
use crate::token::{Line, Token};
use crate::value;

/// What a word's value looks like. Words whose value does not fit are left out with
/// a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Stands alone.
    Flag,
    /// Alone, or with a yes or no.
    Switch,
    /// Needs a value.
    Text,
    /// May have a value.
    OptText,
    /// A number that fits in 32 bits.
    Number,
    /// A tmpfs size: `256M`, `75%`.
    Size,
}

/// What is done with a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// The dialect reads it.
    Keep,
    /// The dialect reads it; the name is too common to call it foreign elsewhere.
    Local,
    /// The dialect may read it; the kernel reads it too, so that nothing is said
    /// when the dialect does not.
    Soft,
    /// A setting that the live system's own scripts read from the layout's state files.
    Setting,
    /// For the kernel or the live system.
    Pass,
    /// Known, and without effect here; the description says why.
    Idle,
}

/// One word of a dialect. A name that ends in `*` stands for all words that begin so.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Name.
    pub name: &'static str,
    /// Shape of the value.
    pub shape: Shape,
    /// What is done with it.
    pub act: Act,
}

/// A table of words as one text: a line a word, its name and a letter each for
/// [`Shape`] and [`Act`]. A third of the size of an array of [`Spec`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Words(pub &'static str);

impl Words {
    /// The words in the order of the table.
    pub fn iter(self) -> impl Iterator<Item = Spec> {
        self.rows().map(|(name, codes)| Self::spec(name, codes))
    }

    /// The first word that covers a name.
    pub fn find(self, name: &str) -> Option<Spec> {
        let row = self.rows().find(|(pattern, _)| covers(pattern, name));
        row.map(|(name, codes)| Self::spec(name, codes))
    }

    /// Names, and what stands behind them: a tab and two letters.
    fn rows(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let lines = self.0.split('\n');
        lines.filter_map(|line| line.split_at_checked(line.len().checked_sub(3)?))
    }

    fn spec(name: &'static str, codes: &str) -> Spec {
        let code = |at| codes.as_bytes().get(at).copied();
        let shape = match code(1) {
            Some(b'f') => Shape::Flag,
            Some(b'b') => Shape::Switch,
            Some(b't') => Shape::Text,
            Some(b'o') => Shape::OptText,
            Some(b'n') => Shape::Number,
            _ => Shape::Size,
        };
        let act = match code(2) {
            Some(b'k') => Act::Keep,
            Some(b'l') => Act::Local,
            Some(b's') => Act::Soft,
            Some(b'w') => Act::Setting,
            Some(b'p') => Act::Pass,
            _ => Act::Idle,
        };
        Spec { name, shape, act }
    }
}

/// The letter of a [`Shape`] or an [`Act`] in [`Words`].
#[rustfmt::skip]
macro_rules! code {
    (Flag) => { "f" }; (Switch) => { "b" }; (Text) => { "t" };
    (OptText) => { "o" }; (Number) => { "n" }; (Size) => { "z" };
    (Keep) => { "k" }; (Local) => { "l" }; (Soft) => { "s" };
    (Setting) => { "w" }; (Pass) => { "p" }; (Idle) => { "i" };
}
pub(crate) use code;

/// Makes a table of words and, beside it, the table of their descriptions.
macro_rules! words {
    ($words:ident, $docs:ident: $($name:literal $shape:ident $act:ident $doc:literal;)*) => {
        /// The words of this module.
        pub(crate) static $words: $crate::table::Words = $crate::table::Words(concat!(
            $($name, "\t", $crate::table::code!($shape), $crate::table::code!($act), "\n"),*
        ));
        /// What each of them does, in the same order.
        #[cfg(feature = "all")]
        pub(crate) const $docs: &[&str] = &[$($doc),*];
    };
}
pub(crate) use words;

/// A dialect: how its words are found and how they become a plan.
#[derive(Debug)]
pub(crate) struct Grammar {
    pub dialect: Dialect,
    /// In order of precedence.
    pub tables: &'static [&'static Words],
    /// Further words for the live system, separated by blanks; `*` at the end as in [`Spec`].
    pub pass: &'static str,
    /// The first of several equal words wins, not the last.
    pub first_wins: bool,
    /// The dialect's own scripts split words at blanks inside quotes.
    pub splits_quotes: bool,
    pub build: fn(&mut Draft<'_>, &mut BootPlan),
}

impl Grammar {
    pub fn find(&self, name: &str) -> Option<Spec> {
        self.tables.iter().find_map(|table| table.find(name))
    }

    /// Whether a word behind `--` is the dialect's. The kernel's own reader stops there,
    /// so that its common words (`ro`, `debug`) are init's.
    pub fn reads(&self, token: &Token<'_>) -> bool {
        let plain = matches!(self.dialect, Dialect::Kernel | Dialect::Bellwether);
        self.find(token.name).is_some_and(|spec| !plain || spec.act == Act::Keep)
    }
}

/// Whether a name of a table (perhaps with `*`) is this word's.
pub(crate) fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(stem) => name.starts_with(stem),
        None => pattern == name,
    }
}

/// Whether a blank-separated list of names covers this word.
pub(crate) fn listed(list: &str, name: &str) -> bool {
    !name.is_empty() && list.split(' ').any(|pattern| covers(pattern, name))
}

#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub token: Token<'a>,
    spec: Option<Spec>,
    fate: Option<Fate>,
}

/// A line being turned into a plan.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub cx: &'a Context<'a>,
    /// Of all dialects that this build reads.
    pub grammars: &'static [&'static Grammar],
    pub grammar: &'static Grammar,
    words: Vec<Entry<'a>>,
    pub init_args: Vec<Token<'a>>,
    pub warnings: Vec<Warning>,
    /// Another system's line: the first warning says so, and all that is said after it would
    /// take the words for ones of ours.
    #[cfg(feature = "all")]
    pub refused: bool,
}

/// Puts pieces together; cheaper in code than `format!`.
#[inline(never)]
pub(crate) fn text(pieces: &[&str]) -> String {
    pieces.concat()
}

/// Owned copies of fixed texts.
#[inline(never)]
pub(crate) fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

impl<'a> Draft<'a> {
    pub fn new(
        cx: &'a Context<'a>,
        grammars: &'static [&'static Grammar],
        grammar: &'static Grammar,
        line: Line<'a>,
    ) -> Self {
        let mut draft = Draft {
            cx,
            grammars,
            grammar,
            words: Vec::with_capacity(line.words.len()),
            init_args: line.init_args,
            warnings: Vec::new(),
            #[cfg(feature = "all")]
            refused: false,
        };
        for token in line.words {
            let spec = grammar.find(token.name);
            let mut entry = Entry { token, spec, fate: None };
            if let Some(spec) = &spec
                && let Some(expected) = misfit(spec, &token, grammar.first_wins)
            {
                // Words that the kernel or the live system reads as well are theirs to judge.
                entry.fate = Some(Fate::Ignored);
                if !matches!(spec.act, Act::Pass | Act::Setting | Act::Idle) {
                    draft.warn(&token.text(), &(expected, ""));
                }
            }
            draft.words.push(entry);
        }
        draft
    }

    /// The value of the word that wins; empty for a word without one. Marks it as
    /// used and the others of the name as overridden.
    #[inline(never)]
    pub fn get(&mut self, name: &str) -> Option<&'a str> {
        self.get_any(&[name]).map(|(_, value)| value)
    }

    /// The same for words that mean the same: the one that wins among all of them,
    /// with its name.
    #[inline(never)]
    pub fn get_any(&mut self, names: &[&str]) -> Option<(&'a str, &'a str)> {
        #[cfg(test)]
        for name in names {
            assert!(self.grammar.find(name).is_some(), "{name} is in no table");
        }
        let mut candidates = (0..self.words.len()).filter(|at| {
            self.words.get(*at).is_some_and(|entry| {
                names.contains(&entry.token.name) && entry.fate != Some(Fate::Ignored)
            })
        });
        let found =
            if self.grammar.first_wins { candidates.next() } else { candidates.next_back() };
        let winner = found?;
        for (at, entry) in self.words.iter_mut().enumerate() {
            if names.contains(&entry.token.name) && entry.fate != Some(Fate::Ignored) {
                entry.fate = Some(if at == winner { Fate::Used } else { Fate::Overridden });
            }
        }
        let entry = self.words.get(winner)?;
        Some((entry.token.name, entry.token.value.unwrap_or_default()))
    }

    /// Every value of the name in order; all of them are used.
    #[inline(never)]
    pub fn all(&mut self, name: &str) -> Vec<&'a str> {
        self.all_any(&[name]).into_iter().map(|(_, value)| value).collect()
    }

    /// Every word of these names in order, with its name.
    #[inline(never)]
    pub fn all_any(&mut self, names: &[&str]) -> Vec<(&'a str, &'a str)> {
        #[cfg(test)]
        for name in names {
            assert!(self.grammar.find(name).is_some(), "{name} is in no table");
        }
        let mut result = Vec::new();
        for entry in &mut self.words {
            if names.contains(&entry.token.name) && entry.fate != Some(Fate::Ignored) {
                entry.fate = Some(Fate::Used);
                result.push((entry.token.name, entry.token.value.unwrap_or_default()));
            }
        }
        result
    }

    /// Whether the word is there at all.
    #[inline(never)]
    pub fn has(&mut self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether the word is there, without counting as a use.
    #[inline(never)]
    pub fn peek(&self, name: &str) -> Option<&'a str> {
        self.words
            .iter()
            .rev()
            .find(|e| e.token.name == name && e.fate != Some(Fate::Ignored))
            .map(|e| e.token.value.unwrap_or_default())
    }

    /// The value of a word, whether a table knows it or not; empty without one.
    #[cfg(feature = "all")]
    pub fn value(&self, name: &str) -> &'a str {
        let mut named = self.words.iter().rev().filter(|entry| entry.token.name == name);
        named.next().and_then(|entry| entry.token.value).unwrap_or_default()
    }

    /// A yes-or-no word; `None` when it is absent.
    #[inline(never)]
    pub fn switch(&mut self, name: &str) -> Option<bool> {
        let value = self.get(name)?;
        value::switch(Some(value))
    }

    /// A word with a number.
    #[inline(never)]
    pub fn number(&mut self, name: &str) -> Option<u32> {
        self.get(name).and_then(value::number)
    }

    /// A word with a list of items between commas; all words of the name add up.
    #[inline(never)]
    pub fn list(&mut self, name: &str) -> Vec<String> {
        self.all(name).into_iter().flat_map(value::list).collect()
    }

    /// A text that is not empty.
    #[inline(never)]
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.get(name).filter(|value| !value.is_empty()).map(ToString::to_string)
    }

    /// All words, for what goes by more than names.
    pub fn tokens(&self) -> impl Iterator<Item = Token<'a>> + '_ {
        self.words.iter().map(|entry| entry.token)
    }

    /// Marks words that were recognised by more than their names.
    pub fn mark(&mut self, fate: Fate, is: impl Fn(&Token<'a>) -> bool) {
        for entry in &mut self.words {
            if is(&entry.token) {
                entry.fate = Some(fate);
            }
        }
    }

    /// Warns about a word as written; the note is what is wrong and what to write.
    #[inline(never)]
    pub fn warn(&mut self, word: &str, note: &(&str, &str)) {
        self.push(word, note, false);
    }

    /// The same about `name=value`.
    #[inline(never)]
    pub fn warn_word(&mut self, name: &str, value: &str, note: &(&str, &str)) {
        self.push(&Self::word(name, value), note, false);
    }

    /// A warning about a line that cannot work.
    #[inline(never)]
    pub fn fatal(&mut self, word: &str, note: &(&str, &str)) {
        self.push(word, note, true);
    }

    /// The same about `name=value`.
    #[inline(never)]
    pub fn fatal_word(&mut self, name: &str, value: &str, note: &(&str, &str)) {
        self.push(&Self::word(name, value), note, true);
    }

    #[inline(never)]
    fn push(&mut self, word: &str, (message, hint): &(&str, &str), fatal: bool) {
        let warning = Warning {
            word: masked(word),
            message: (*message).to_string(),
            hint: (*hint).to_string(),
            fatal,
        };
        if self.warnings.len() < MAX_WARNINGS && !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// `name=value`, for warnings.
    #[inline(never)]
    pub fn word(name: &str, value: &str) -> String {
        text(&[name, "=", value])
    }

    /// Settings for the layout's state files, in the order of the line.
    pub fn settings(&self) -> Vec<(String, String)> {
        let mut result: Vec<(String, String)> = Vec::new();
        for entry in &self.words {
            if entry.spec.is_some_and(|spec| spec.act == Act::Setting)
                && let Some(value) = entry.token.value
            {
                result.retain(|(name, _)| name != entry.token.name);
                result.push((entry.token.name.to_string(), value.to_string()));
            }
        }
        result
    }

    /// What became of every word, and the warnings that follow from it.
    pub fn account(&mut self) -> Vec<Word> {
        let mut result = Vec::with_capacity(self.words.len());
        let words = core::mem::take(&mut self.words);
        for entry in &words {
            let fate = entry.fate.unwrap_or_else(|| match entry.spec.map(|spec| spec.act) {
                Some(Act::Pass | Act::Setting | Act::Soft) => Fate::PassedOn,
                Some(Act::Idle) => {
                    self.warn(
                        &entry.token.text(),
                        &("is known and has no effect in Bellwether", ""),
                    );
                    Fate::Ignored
                }
                Some(Act::Keep | Act::Local) => {
                    self.warn(
                        &entry.token.text(),
                        &("has no effect together with the rest of the line", ""),
                    );
                    Fate::Ignored
                }
                None => self.stranger(&entry.token),
            });
            result.push(Word { text: masked(&entry.token.text()), fate });
        }
        self.words = words;
        result
    }

    /// A word that no table of the dialect holds.
    fn stranger(&mut self, token: &Token<'_>) -> Fate {
        let name = token.name;
        if listed(self.grammar.pass, name) || listed(KERNEL_WORDS, name) {
            return Fate::PassedOn;
        }
        let mine = self.grammar.dialect;
        let mut others = self.grammars.iter().filter(|g| g.dialect != mine);
        let mut known = false;
        let foreign = others.find(|g| {
            let mut specs = g.tables.iter().filter_map(|table| table.find(name)).peekable();
            known |= specs.peek().is_some() || listed(g.pass, name);
            specs.any(|spec| spec.act == Act::Keep)
        });
        let instead = instead(mine, name);
        if let Some(grammar) = foreign {
            let reads = text(&["bw.dialect=", grammar.dialect.name(), " reads the line that way"]);
            self.warn(
                &token.text(),
                &(
                    &text(&[
                        "is a word of ",
                        grammar.dialect.name(),
                        ", and this line is read as ",
                        self.grammar.dialect.name(),
                    ]),
                    instead.unwrap_or(&reads),
                ),
            );
            return Fate::Foreign(grammar.dialect);
        }
        if known {
            return Fate::PassedOn;
        }
        if let Some(instead) = instead {
            self.warn(&token.text(), &("is not known", instead));
        } else if let Some(near) = self.nearest(name) {
            self.warn(&token.text(), &("is not known", &text(&["did you mean ", near, "?"])));
        } else if names_iso(token) {
            let note = ("names an ISO file, and is not read", iso_file(mine).unwrap_or_default());
            self.warn(&token.text(), &note);
        }
        Fate::Unknown
    }

    /// The known word that this one is most likely a misspelling of.
    fn nearest(&self, name: &str) -> Option<&'static str> {
        let specs = self.grammar.tables.iter().flat_map(|t| t.iter()).map(|spec| spec.name);
        let passed = self.grammar.pass.split_ascii_whitespace();
        let mut best: Option<(usize, &'static str)> = None;
        for known in specs.chain(passed) {
            if let Some(distance) = near(name, known)
                && best.is_none_or(|(least, _)| distance < least)
            {
                best = Some((distance, known));
            }
        }
        best.map(|(_, known)| known)
    }
}

/// Most warnings of one plan; a line of garbage need not fill memory with them.
pub(crate) const MAX_WARNINGS: usize = 256;

/// The small build has no table of other families.
#[cfg(not(feature = "all"))]
fn instead(_: Dialect, _: &str) -> Option<&'static str> {
    None
}

/// Whether the value of an unknown word is a path of an ISO file.
#[cfg(feature = "explain")]
fn names_iso(token: &Token<'_>) -> bool {
    token.value.is_some_and(|value| value::suffix(value).as_deref() == Some("iso"))
}
#[cfg(not(feature = "explain"))]
fn names_iso(_: &Token<'_>) -> bool {
    false
}
#[cfg(not(feature = "explain"))]
fn iso_file(_: Dialect) -> Option<&'static str> {
    None
}

/// What a word should have looked like, when it does not.
fn misfit(spec: &Spec, token: &Token<'_>, by_name_only: bool) -> Option<&'static str> {
    let value = token.value;
    let given = value.filter(|v| !v.is_empty());
    match spec.shape {
        Shape::Flag => (!by_name_only
            && given.is_some_and(|v| value::switch(Some(v)) != Some(true)))
        .then_some("stands alone and takes no value; it was left out"),
        Shape::Switch => {
            value::switch(value).is_none().then_some("is neither yes nor no; it was left out")
        }
        Shape::Text => given.is_none().then_some("has no value; it was left out"),
        Shape::OptText => None,
        Shape::Number => given
            .is_none_or(|v| value::number(v).is_none())
            .then_some("is not a number; it was left out"),
        Shape::Size => given
            .is_none_or(|v| !value::is_tmpfs_size(v))
            .then_some("is not a size like 512M or 75%; it was left out"),
    }
}

/// The distance of a misspelling from what was plausibly meant, `None` when it is
/// too far: two edits (swapped neighbours count as one), one in short words, and the
/// same first letter. Case and `_` for `-` cost nothing.
#[must_use]
pub fn near(name: &str, known: &str) -> Option<usize> {
    // Nearly all are too long or too short.
    if known.ends_with('*') || name.len().abs_diff(known.len()) > 2 {
        return None;
    }
    let fold = |b: u8| if b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    let (a, b) = (name.as_bytes(), known.as_bytes());
    // In capitals only the case is ever wrong: `bootid` is no `BOOTIF`.
    let limit = if known.bytes().any(|b| b.is_ascii_uppercase()) {
        0
    } else if a.len().min(b.len()) < 7 {
        1
    } else {
        2
    };
    let same_start = a.first().map(|x| fold(*x)) == b.first().map(|x| fold(*x));
    let swapped_start = a.first() == b.get(1) && a.get(1) == b.first();
    if a.len() < 4
        || b.len() < 4
        || a.len() > 40
        || a.len().abs_diff(b.len()) > limit
        || !(same_start || swapped_start)
    {
        return None;
    }
    // Three rows of the usual table (optimal string alignment).
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    let mut last_a = None;
    for (i, x) in a.iter().map(|x| fold(*x)).enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        let mut last_b = None;
        for (j, y) in b.iter().map(|y| fold(*y)).enumerate() {
            let at = |row: &Vec<usize>, n: usize| row.get(n).copied().unwrap_or(usize::MAX / 2);
            let change = at(&above, j) + usize::from(x != y);
            let mut least = change.min(at(&above, j + 1) + 1).min(at(&row, j) + 1);
            if last_a == Some(y) && last_b == Some(x) && j > 0 {
                least = least.min(at(&before, j - 1) + 1);
            }
            row.push(least);
            last_b = Some(y);
        }
        before = core::mem::replace(&mut above, row);
        last_a = Some(x);
    }
    let distance = above.last().copied()?;
    (distance <= limit).then_some(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspellings_that_are_plausible() {
        assert_eq!(near("netbot", "netboot"), Some(1));
        assert_eq!(near("nfsrooot", "nfsroot"), Some(1));
        assert_eq!(near("nfsorot", "nfsroot"), Some(1));
        assert_eq!(near("NFSROOT", "nfsroot"), Some(0));
        assert_eq!(near("live_media", "live-media"), Some(0));
        assert_eq!(near("persistant", "persistent"), Some(1));
        assert_eq!(near("toram", "todisk"), None);
        assert_eq!(near("ro", "rw"), None);
        assert_eq!(near("bootif", "BOOTIF"), Some(0));
        assert_eq!(near("bootid", "BOOTIF"), None);
        assert_eq!(near("text", "test"), Some(1));
        assert_eq!(near("test", "rest"), None);
        assert_eq!(near("ünfug", "nfsroot"), None);
    }

    #[test]
    fn families_cover_what_begins_so() {
        assert!(covers("keyboard-*", "keyboard-layouts"));
        assert!(!covers("keyboard-*", "keyboard"));
        assert!(listed("a b* c", "bee") && !listed("a b* c", "d"));
    }
}
