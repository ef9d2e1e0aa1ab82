//! The module index: which kernel module serves which device, worked out
//! ahead of time.
//!
//! `modules.dep`, `modules.alias` and their friends are text files made for
//! `modprobe`; reading them costs more than loading the drivers they name.
//! `cpio-builder` closes dependencies and sorts aliases once, when the image
//! is made, and `/init` borrows the answers from the bytes of one file.
//!
//! The meaning follows kmod: '-' and '_' are the same letter in names and
//! aliases, alias patterns are `fnmatch(3)` without flags (`*`, `?`, `[...]`),
//! and where several modules claim a device they are reported in the order of `modules.order`.
//! Only modules in the image are listed.
//!
//! What it does not do: load anything, read `modules.*` text files, or run
//! `install`/`remove` commands of `modprobe.d`.
//!
//! # The file
//! Little-endian, no alignment. [`layout`] has the numbers.
//!
//! | part | content |
//! | --- | --- |
//! | header | magic, version, file length, checksum, then `(offset, count)` for each section |
//! | release | kernel release, bytes |
//! | modules | one record a module, in `modules.order` order |
//! | names | module ids sorted by normalised name |
//! | ids | module ids: each module's closure, soft pre, soft post |
//! | exact | aliases without wildcards, sorted |
//! | groups | `(first 4 literal bytes, literal length)` → run of `globs` |
//! | globs | aliases with wildcards, by group, then sorted |
//! | builtin | names of what is compiled into the kernel, sorted |
//! | strings | every text, shared |
//!
//! A glob is found by two binary searches: the groups that begin like the
//! modalias, then, in each, the patterns whose literal prefix *is* the start
//! of the modalias. Only those few are matched character by character.

use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;
use core::ops::Range;

use sys::bytes::or_zero::{le16, le32};

/// Numbers of the file format, shared with the writer in `cpio-builder`.
pub mod layout {
    /// First eight bytes of the file.
    pub const MAGIC: [u8; 8] = *b"BWMODIDX";
    /// Format version. Any change of layout increments it. An image and its `/init` are always
    /// made together, so older versions are not read.
    pub const VERSION: u32 = 1;
    /// Offset of the checksum; it covers the bytes after it.
    pub const CHECKSUM_AT: usize = 16;
    /// Offset of the section table: `(offset: u32, count: u32)` each.
    pub const SECTIONS_AT: usize = 24;
    /// Number of sections.
    pub const SECTIONS: usize = 9;
    /// Length of the header.
    pub const HEADER: usize = SECTIONS_AT + SECTIONS * 8;
    /// Bytes of one record in each section, in section order.
    pub const RECORD: [usize; SECTIONS] = [1, MODULE, 2, 2, ALIAS, GROUP, ALIAS, NAME, 1];

    /// Section numbers.
    pub const RELEASE: usize = 0;
    /// See [`RELEASE`].
    pub const MODULES: usize = 1;
    /// See [`RELEASE`].
    pub const NAMES: usize = 2;
    /// See [`RELEASE`].
    pub const IDS: usize = 3;
    /// See [`RELEASE`].
    pub const EXACT: usize = 4;
    /// See [`RELEASE`].
    pub const GROUPS: usize = 5;
    /// See [`RELEASE`].
    pub const GLOBS: usize = 6;
    /// See [`RELEASE`].
    pub const BUILTIN: usize = 7;
    /// See [`RELEASE`].
    pub const STRINGS: usize = 8;

    /// Module record: name `u32 off, u16 len`; class `u16`; path `u32, u16`;
    /// compression `u8`; flags `u8`; ids offset `u32`; counts of closure, pre
    /// and post `u16` each; options `u32, u16`.
    pub const MODULE: usize = 32;
    /// Alias record: pattern `u32 off, u16 len`, module `u16`.
    pub const ALIAS: usize = 8;
    /// Group record: key `[u8; 4]`, literal length `u32`, first `u32`, count `u32`.
    pub const GROUP: usize = 16;
    /// Name record: `u32 off, u16 len`.
    pub const NAME: usize = 6;
    /// Bytes of a glob's literal prefix that go into its group's key.
    pub const KEY: usize = 4;
    /// Flag: a `blacklist` line names the module.
    pub const FLAG_BLACKLISTED: u8 = 1;

    /// The checksum: a multiply-and-rotate over 8-byte words. Each step is a bijection of the
    /// state, so damage within one word is always detected. It detects bad memory and truncated
    /// files, not forgery.
    #[must_use]
    pub fn checksum(bytes: &[u8]) -> u64 {
        const K: u64 = 0x9e37_79b9_7f4a_7c15;
        let step = |h: u64, w: u64| (h ^ w).wrapping_mul(K).rotate_left(29);
        let (words, tail) = bytes.as_chunks::<8>();
        let mut h = words.iter().fold(K, |h, w| step(h, u64::from_le_bytes(*w)));
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(tail) {
            *to = *from;
        }
        h = step(h, u64::from_le_bytes(last));
        step(h, bytes.len() as u64)
    }

    /// The literal start of a pattern: everything before the first `*`, `?` or `[`. The whole
    /// pattern when it has none.
    #[must_use]
    pub fn literal_prefix(pattern: &[u8]) -> &[u8] {
        let end = pattern.iter().position(|b| matches!(b, b'*' | b'?' | b'['));
        pattern.get(..end.unwrap_or(pattern.len())).unwrap_or(pattern)
    }

    /// The group key of a literal prefix: its first bytes, zero-filled.
    #[must_use]
    pub fn group_key(literal: &[u8]) -> [u8; KEY] {
        let mut key = [0; KEY];
        for (to, from) in key.iter_mut().zip(literal) {
            *to = *from;
        }
        key
    }
}

/// Why bytes are not a usable module index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexError {
    /// Shorter than the header.
    TooShort {
        /// Bytes given.
        len: usize,
    },
    /// The first bytes are not the index magic.
    NotAnIndex,
    /// Written by another version of the builder.
    Version {
        /// Version found.
        found: u32,
    },
    /// The file ends before, or goes on after, its own stated length.
    Length {
        /// Length the header states.
        stated: u32,
        /// Bytes given.
        len: usize,
    },
    /// The checksum does not match the content.
    Checksum,
    /// A section lies outside the file.
    Section {
        /// Section number, see [`layout`].
        number: usize,
    },
    /// A module record points outside the file.
    Module {
        /// Record number.
        number: usize,
    },
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { len } => {
                write!(f, "module index: truncated, {len} bytes are less than a header")
            }
            Self::NotAnIndex => write!(f, "module index: wrong magic, this is not an index"),
            Self::Version { found } => write!(
                f,
                "module index: version {found}, this init reads {}; build image and init together",
                layout::VERSION
            ),
            Self::Length { stated, len } => {
                write!(f, "module index: its header says {stated} bytes, but it has {len}")
            }
            Self::Checksum => write!(f, "module index: damaged, the checksum does not match"),
            Self::Section { number } => {
                write!(f, "module index: damaged, section {number} lies outside the file")
            }
            Self::Module { number } => {
                write!(f, "module index: damaged, module record {number} points outside the file")
            }
        }
    }
}

impl core::error::Error for IndexError {}

/// A module of one [`Index`]. The numbers are dense, `0..Index::len()`, and
/// ordered by priority, so a plain array can hold each module's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleId(u16);

impl ModuleId {
    /// Position in `0..Index::len()`.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Classes of a module: a set of bits, so that a plan can say "storage only".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Class(pub u16);

impl Class {
    /// Disks, CD drives and the controllers in front of them.
    pub const STORAGE: Self = Self(1);
    /// Network cards, PHYs and network protocols.
    pub const NET: Self = Self(1 << 1);
    /// Buses and their controllers: PCI, USB, virtio, Hyper-V buses…
    pub const BUS: Self = Self(1 << 2);
    /// File systems, their character sets, and block layers like dm and loop.
    pub const FS: Self = Self(1 << 3);
    /// Keyboards and other input.
    pub const INPUT: Self = Self(1 << 4);
    /// Ciphers, checksums, compression and other libraries.
    pub const LIB: Self = Self(1 << 5);
    /// Everything else.
    pub const OTHER: Self = Self(1 << 6);

    /// Whether any bit of `other` is set in `self`.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// How a module file is compressed. Its place in [`Compression::ALL`] is its number in
/// the file: new ones go to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A plain ELF object.
    None,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// All of them, by their number in the file.
    pub const ALL: [Self; 4] = [Self::None, Self::Gzip, Self::Xz, Self::Zstd];

    /// What follows `.ko` in a file's name.
    #[must_use]
    pub const fn ending(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Xz => ".xz",
            Self::Zstd => ".zst",
        }
    }

    /// The number in the file.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        self as u8
    }

    /// From the number in the file.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

/// Bytes `offset..offset + len`; `None` past the end.
fn span(bytes: &[u8], offset: u32, len: usize) -> Option<&[u8]> {
    bytes.get(offset as usize..)?.get(..len)
}

/// A parsed index, borrowing from the file's bytes.
///
/// Parsing checks the frame, the checksum and every module record. Lookups
/// afterwards allocate only when the text has to be rewritten ('-' → '_') or
/// something was found, and cannot fail or panic.
#[derive(Debug, Clone, Copy)]
pub struct Index<'a> {
    release: &'a str,
    modules: &'a [u8],
    names: &'a [u8],
    ids: &'a [u8],
    exact: &'a [u8],
    groups: &'a [u8],
    globs: &'a [u8],
    builtin: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Index<'a> {
    /// An index without modules: for a kernel with everything built in.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            release: "",
            modules: &[],
            names: &[],
            ids: &[],
            exact: &[],
            groups: &[],
            globs: &[],
            builtin: &[],
            strings: &[],
        }
    }

    /// Reads an index.
    ///
    /// # Errors
    /// [`IndexError`] for bytes that are not an index, are of another version, or are truncated
    /// or damaged.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, IndexError> {
        use layout as l;
        if bytes.len() < l::HEADER {
            let foreign = !l::MAGIC.starts_with(bytes) && !bytes.starts_with(&l::MAGIC);
            return Err(if foreign {
                IndexError::NotAnIndex
            } else {
                IndexError::TooShort { len: bytes.len() }
            });
        }
        if !bytes.starts_with(&l::MAGIC) {
            return Err(IndexError::NotAnIndex);
        }
        let version = le32(bytes, 8);
        if version != l::VERSION {
            return Err(IndexError::Version { found: version });
        }
        let stated = le32(bytes, 12);
        if usize::try_from(stated).ok() != Some(bytes.len()) {
            return Err(IndexError::Length { stated, len: bytes.len() });
        }
        let sum = u64::from(le32(bytes, l::CHECKSUM_AT))
            | u64::from(le32(bytes, l::CHECKSUM_AT + 4)) << 32;
        if l::checksum(bytes.get(l::SECTIONS_AT..).unwrap_or_default()) != sum {
            return Err(IndexError::Checksum);
        }
        let section = |number: usize| -> Result<&'a [u8], IndexError> {
            let at = l::SECTIONS_AT + number * 8;
            let record = l::RECORD.get(number).copied().unwrap_or(1);
            (le32(bytes, at + 4) as usize)
                .checked_mul(record)
                .and_then(|len| span(bytes, le32(bytes, at), len))
                .ok_or(IndexError::Section { number })
        };
        let release = core::str::from_utf8(section(l::RELEASE)?)
            .map_err(|_| IndexError::Section { number: l::RELEASE })?;
        let index = Self {
            release,
            modules: section(l::MODULES)?,
            names: section(l::NAMES)?,
            ids: section(l::IDS)?,
            exact: section(l::EXACT)?,
            groups: section(l::GROUPS)?,
            globs: section(l::GLOBS)?,
            builtin: section(l::BUILTIN)?,
            strings: section(l::STRINGS)?,
        };
        if index.len() > usize::from(u16::MAX) || index.names.len() / 2 != index.len() {
            return Err(IndexError::Section { number: l::NAMES });
        }
        for (number, record) in index.modules.chunks_exact(l::MODULE).enumerate() {
            index.check_module(record).ok_or(IndexError::Module { number })?;
        }
        Ok(index)
    }

    fn check_module(&self, record: &[u8]) -> Option<()> {
        for at in [0, 8, 26] {
            let text = span(self.strings, le32(record, at), le16(record, at + 4).into())?;
            core::str::from_utf8(text).ok()?;
        }
        Compression::from_byte(*record.get(14)?)?;
        let count: usize = [20, 22, 24].iter().map(|at| usize::from(le16(record, *at))).sum();
        let ids = self.ids.get((le32(record, 16) as usize).checked_mul(2)?..)?;
        let ids = ids.get(..count * 2)?;
        let known = |id: &[u8]| usize::from(le16(id, 0)) < self.len();
        ids.chunks_exact(2).all(known).then_some(())
    }

    /// Kernel release the modules belong to, as in `uname -r`.
    #[must_use]
    pub const fn release(&self) -> &'a str {
        self.release
    }

    /// Number of modules.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.modules.len() / layout::MODULE
    }

    /// Whether there are no modules at all, as with a kernel that has
    /// everything built in.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All modules, by priority.
    pub fn ids(&self) -> impl Iterator<Item = ModuleId> + use<> {
        // `parse` checked the count.
        (0..u16::try_from(self.len()).unwrap_or(u16::MAX)).map(ModuleId)
    }

    /// The module of an id of *this* index. An id past the end gives a module with empty
    /// fields.
    #[must_use]
    pub fn module(&self, id: ModuleId) -> Module<'a> {
        let at = id.index() * layout::MODULE;
        let record = self.modules.get(at..).and_then(|r| r.get(..layout::MODULE));
        Module { id, record: record.unwrap_or_default(), index: *self }
    }

    /// Finds a module by name; '-' and '_' are the same. No aliases.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<ModuleId> {
        let name = Normal::new(name.as_bytes());
        let id_at = |n: usize| ModuleId(le16(self.names, n * 2));
        search(self.len(), |n| self.module(id_at(n)).name().as_bytes().cmp(name.as_bytes()))
            .next()
            .map(id_at)
    }

    /// Whether a module of this name is compiled into the kernel.
    #[must_use]
    pub fn is_builtin(&self, name: &str) -> bool {
        let name = Normal::new(name.as_bytes());
        let count = self.builtin.len() / layout::NAME;
        search(count, |n| self.text(self.builtin, n * layout::NAME).cmp(name.as_bytes()))
            .next()
            .is_some()
    }

    /// Calls `found` once for each module that claims this modalias (or this
    /// name alias, such as `fs-ext4`), in order of priority. Blacklisted
    /// modules are reported too: see [`Module::blacklisted`].
    pub fn for_modalias(&self, modalias: &str, found: &mut dyn FnMut(ModuleId)) {
        let text = Normal::new(modalias.as_bytes());
        let text = text.as_bytes();
        let mut hits: Vec<ModuleId> = Vec::new();

        let count = self.exact.len() / layout::ALIAS;
        for n in self.run(self.exact, 0, count, text, None) {
            self.push_alias(&mut hits, self.exact, n);
        }
        // A pattern's key is its first literal bytes, so one with fewer than
        // KEY of them sits under a shorter, zero-filled key.
        for taken in 0..=layout::KEY.min(text.len()) {
            let key = layout::group_key(text.get(..taken).unwrap_or_default());
            let total = self.groups.len() / layout::GROUP;
            let key_of = |n: usize| {
                let at = n * layout::GROUP;
                self.groups.get(at..at + layout::KEY).unwrap_or_default()
            };
            for group in search(total, |n| key_of(n).cmp(&key)) {
                let at = group * layout::GROUP;
                let literal = le32(self.groups, at + 4) as usize;
                // Under a short key only patterns exactly that short belong.
                if literal.min(layout::KEY) != taken {
                    continue;
                }
                let Some((head, rest)) = text.split_at_checked(literal) else { continue };
                let first = le32(self.groups, at + 8) as usize;
                let count = le32(self.groups, at + 12) as usize;
                for n in self.run(self.globs, first, count, head, Some(literal)) {
                    let pattern = self.text(self.globs, n * layout::ALIAS);
                    if fnmatch(pattern.get(literal..).unwrap_or_default(), rest) {
                        self.push_alias(&mut hits, self.globs, n);
                    }
                }
            }
        }
        sys::sort::sort(&mut hits);
        hits.dedup();
        hits.into_iter().for_each(found);
    }

    /// Resolves a name given to `modprobe`: a module's name if it exists, else an alias.
    pub fn for_request(&self, name: &str, found: &mut dyn FnMut(ModuleId)) {
        match self.by_name(name) {
            Some(id) => found(id),
            None => self.for_modalias(name, found),
        }
    }

    /// Records of `table[first..first + count]` whose text, or its first
    /// `literal` bytes, equals `wanted`.
    fn run(
        &self,
        table: &'a [u8],
        first: usize,
        count: usize,
        wanted: &[u8],
        literal: Option<usize>,
    ) -> Range<usize> {
        let total = table.len() / layout::ALIAS;
        let count = count.min(total.saturating_sub(first));
        let found = search(count, |n| {
            let text = self.text(table, (first + n) * layout::ALIAS);
            text.get(..literal.unwrap_or(text.len())).unwrap_or(text).cmp(wanted)
        });
        first + found.start..first + found.end
    }

    /// The text of the `(u32 offset, u16 length)` at `at`.
    fn text(&self, table: &[u8], at: usize) -> &'a [u8] {
        span(self.strings, le32(table, at), le16(table, at + 4).into()).unwrap_or_default()
    }

    fn push_alias(&self, hits: &mut Vec<ModuleId>, table: &[u8], n: usize) {
        let id = ModuleId(le16(table, n * layout::ALIAS + 6));
        if id.index() < self.len() {
            hits.push(id);
        }
    }
}

/// Finds the run of records equal to the wanted one in `0..count` sorted
/// records; `compare(n)` orders record `n` against it.
fn search(count: usize, compare: impl Fn(usize) -> Ordering) -> Range<usize> {
    let (mut start, mut high) = (0, count);
    while start < high {
        let middle = start + (high - start) / 2;
        if compare(middle) == Ordering::Less { start = middle + 1 } else { high = middle }
    }
    // Runs are short, so walk; most searches find nothing and stop here.
    let mut end = start;
    while end < count && compare(end) == Ordering::Equal {
        end += 1;
    }
    start..end
}

/// Text with '-' replaced by '_', copied only when there is something to
/// replace.
enum Normal<'t> {
    Same(&'t [u8]),
    Copied(Vec<u8>),
}

impl<'t> Normal<'t> {
    fn new(text: &'t [u8]) -> Self {
        if text.contains(&b'-') {
            Self::Copied(text.iter().map(|b| if *b == b'-' { b'_' } else { *b }).collect())
        } else {
            Self::Same(text)
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Same(text) => text,
            Self::Copied(text) => text,
        }
    }
}

/// A name as the index spells it: '-' becomes '_'.
#[must_use]
pub fn normalise_name(name: &str) -> String {
    name.replace('-', "_")
}

/// An alias pattern as the index spells it: '-' becomes '_' except inside
/// `[...]`, where it makes a range. As kmod's `alias_normalize` does.
#[must_use]
pub fn normalise_pattern(pattern: &str) -> String {
    let mut inside = false;
    let spell = |c: char| {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            _ => {}
        }
        if c == '-' && !inside { '_' } else { c }
    };
    pattern.chars().map(spell).collect()
}

/// `fnmatch(3)` without flags, for the patterns that occur in module aliases:
/// `*` any run, `?` any one byte, `[...]` one of a set with ranges and
/// `!`/`^` negation. No backslash escapes: aliases have none. An unclosed `[`
/// stands for itself. Takes at most `pattern.len() * text.len()` steps.
#[must_use]
pub fn fnmatch(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // Where to continue when a match after the last `*` fails: the pattern after the star, and
    // its last start in the text.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match pattern.split_first() {
            Some((b'*', rest)) => {
                if rest.is_empty() {
                    return true;
                }
                retry = Some((rest, text));
                pattern = rest;
                continue;
            }
            Some((first, rest)) => {
                if let Some((byte, text_rest)) = text.split_first()
                    && let Some(pattern_rest) = match_one(*first, rest, *byte)
                {
                    pattern = pattern_rest;
                    text = text_rest;
                    continue;
                }
            }
            None if text.is_empty() => return true,
            None => {}
        }
        // A mismatch: let the last star swallow one byte more.
        let Some((after_star, tried)) = retry else { return false };
        let Some((_, shorter)) = tried.split_first() else { return false };
        pattern = after_star;
        text = shorter;
        retry = Some((after_star, shorter));
    }
}

/// Matches one pattern element (`first`, continued in `rest`) against a byte; returns the
/// pattern after it.
fn match_one(first: u8, rest: &[u8], byte: u8) -> Option<&[u8]> {
    match first {
        b'?' => Some(rest),
        b'[' => match match_set(rest, byte) {
            Some((true, rest)) => Some(rest),
            Some((false, _)) => None,
            None => (byte == b'[').then_some(rest),
        },
        literal => (literal == byte).then_some(rest),
    }
}

/// Matches a byte against the set that starts after its `[`. Returns whether it is a member,
/// and the pattern after the `]`; `None` if unclosed.
fn match_set(set: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (negated, mut set) = match set.split_first() {
        Some((b'!' | b'^', rest)) => (true, rest),
        _ => (false, set),
    };
    let mut member = false;
    let mut at_start = true;
    loop {
        let (&low, rest) = set.split_first()?;
        if low == b']' && !at_start {
            return Some((member != negated, rest));
        }
        at_start = false;
        match rest {
            [b'-', high, rest @ ..] if *high != b']' => {
                member |= (low..=*high).contains(&byte);
                set = rest;
            }
            _ => {
                member |= low == byte;
                set = rest;
            }
        }
    }
}

/// One module of an [`Index`].
#[derive(Debug, Clone, Copy)]
pub struct Module<'a> {
    id: ModuleId,
    record: &'a [u8],
    index: Index<'a>,
}

impl<'a> Module<'a> {
    /// Its id.
    #[must_use]
    pub const fn id(&self) -> ModuleId {
        self.id
    }

    fn str_at(&self, at: usize) -> &'a str {
        core::str::from_utf8(self.index.text(self.record, at)).unwrap_or_default()
    }

    /// Normalised name, as in `/proc/modules`: `virtio_net`.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.str_at(0)
    }

    /// Its classes.
    #[must_use]
    pub fn class(&self) -> Class {
        Class(le16(self.record, 6))
    }

    /// Path of its file relative to the root of the image:
    /// `lib/modules/VERSION/kernel/...`.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.str_at(8)
    }

    /// How its file is compressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        let byte = self.record.get(14).copied().unwrap_or_default();
        Compression::from_byte(byte).unwrap_or(Compression::None)
    }

    /// Whether a `blacklist` line names it: then its own aliases are not to
    /// be followed, while asking for it by name still works.
    #[must_use]
    pub fn blacklisted(&self) -> bool {
        self.record.get(15).is_some_and(|f| f & layout::FLAG_BLACKLISTED != 0)
    }

    /// Every module that must be loaded before this one, in load order. The
    /// closure is complete: no recursion is needed. Itself not included.
    pub fn deps(&self) -> impl Iterator<Item = ModuleId> + use<'a> {
        self.ids(0, 20)
    }

    /// Modules that should be loaded before it if they can be; a failure is
    /// not an error. Each has dependencies of its own.
    pub fn soft_pre(&self) -> impl Iterator<Item = ModuleId> + use<'a> {
        self.ids(self.count(20), 22)
    }

    /// Modules that should be loaded after it if they can be.
    pub fn soft_post(&self) -> impl Iterator<Item = ModuleId> + use<'a> {
        self.ids(self.count(20) + self.count(22), 24)
    }

    /// Parameters from `options` lines of modprobe.d, space-separated, as
    /// `finit_module(2)` takes them. Empty when there are none.
    #[must_use]
    pub fn options(&self) -> &'a str {
        self.str_at(26)
    }

    fn count(&self, at: usize) -> usize {
        le16(self.record, at).into()
    }

    fn ids(&self, skip: usize, count_at: usize) -> impl Iterator<Item = ModuleId> + use<'a> {
        let first = (le32(self.record, 16) as usize).saturating_add(skip).saturating_mul(2);
        let bytes = self.index.ids.get(first..).unwrap_or_default();
        bytes.chunks_exact(2).take(self.count(count_at)).map(|id| ModuleId(le16(id, 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// fnmatch as its definition reads, with recursion for `*`.
    fn oracle(pattern: &[u8], text: &[u8]) -> bool {
        let Some((first, rest)) = pattern.split_first() else { return text.is_empty() };
        if *first == b'*' {
            return (0..=text.len()).any(|n| oracle(rest, &text[n..]));
        }
        let Some((byte, text_rest)) = text.split_first() else { return false };
        if *first == b'['
            && let Some(close) = rest.iter().skip(1).position(|b| *b == b']').map(|n| n + 1)
        {
            let body = &rest[..close];
            // Only the simple sets that the strategy below makes.
            let (negated, body) = match body {
                [b'!', body @ ..] => (true, body),
                body => (false, body),
            };
            let member = match body {
                [low, b'-', high] => (*low..=*high).contains(byte),
                body => body.contains(byte),
            };
            return member != negated && oracle(&rest[close + 1..], text_rest);
        }
        (*first == b'?' || first == byte) && oracle(rest, text_rest)
    }

    #[test]
    fn compressions_have_their_numbers() {
        for (n, compression) in (0..).zip(Compression::ALL) {
            assert_eq!(compression.to_byte(), n);
            assert_eq!(Compression::from_byte(n), Some(compression));
        }
        assert_eq!(Compression::from_byte(4), None);
    }

    #[test]
    fn patterns_of_real_modules() {
        let yes = [
            (
                "pci:v00001AF4d00001000sv*sd*bc*sc*i*",
                "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00",
            ),
            ("acpi*:PNP0303:*", "acpi:PNP0303:PNP0F13:"),
            ("usb:v0421p0147d00[0-9]*dc*dsc*", "usb:v0421p0147d0075dc00dsc00"),
            ("input:b*v*p*e*-e*0,*1,*k*", "input:b0003v046Dp0001e0110-e0,1,4,k71"),
            ("[a-", "[a-"),
            ("", ""),
            ("**", "x"),
        ];
        for (pattern, text) in yes {
            assert!(fnmatch(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        let no = [
            ("pci:v00001AF4d00001000sv*", "pci:v00001AF4d00001001sv0"),
            ("usb:v0421p0147d00[0-9]*", "usb:v0421p0147d00A5dc00"),
            ("a?c", "ac"),
            ("a*b", "a"),
            ("[!a]", "a"),
            ("", "a"),
        ];
        for (pattern, text) in no {
            assert!(!fnmatch(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }

    #[test]
    fn names_and_patterns_are_spelt_as_kmod_does() {
        assert_eq!(normalise_name("snd-hda-intel"), "snd_hda_intel");
        assert_eq!(normalise_pattern("usb:v[0-9]-x"), "usb:v[0-9]_x");
    }

    #[test]
    fn says_what_is_wrong_with_the_frame() {
        assert_eq!(Index::parse(b"").err(), Some(IndexError::TooShort { len: 0 }));
        assert_eq!(Index::parse(b"BWMOD").err(), Some(IndexError::TooShort { len: 5 }));
        assert_eq!(Index::parse(b"hello").err(), Some(IndexError::NotAnIndex));
        assert_eq!(Index::parse(&[7; 500]).err(), Some(IndexError::NotAnIndex));
        let mut head = [0; 200];
        head[..8].copy_from_slice(&layout::MAGIC);
        head[8] = 9;
        assert_eq!(Index::parse(&head).err(), Some(IndexError::Version { found: 9 }));
    }

    proptest! {
        #[test]
        fn fnmatch_agrees_with_its_definition(
            pattern in r"([ab*?]|\[[ab]\]|\[!a\]|\[a-c\]){0,8}",
            text in "[abc]{0,10}",
        ) {
            prop_assert_eq!(
                fnmatch(pattern.as_bytes(), text.as_bytes()),
                oracle(pattern.as_bytes(), text.as_bytes())
            );
        }

        #[test]
        fn fnmatch_never_panics(pattern: Vec<u8>, text: Vec<u8>) {
            let _ = fnmatch(&pattern, &text);
        }

        /// A valid checksum over garbage: the frame passes, every lookup must
        /// still hold.
        #[test]
        fn lookups_in_garbage_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), layout::HEADER..400),
            small in proptest::collection::vec(0u32..12, layout::SECTIONS),
            text in "[a-z:*-]{0,12}",
        ) {
            bytes[..8].copy_from_slice(&layout::MAGIC);
            bytes[8..12].copy_from_slice(&layout::VERSION.to_le_bytes());
            let len = bytes.len() as u32;
            bytes[12..16].copy_from_slice(&len.to_le_bytes());
            for (n, count) in small.iter().enumerate() {
                let at = layout::SECTIONS_AT + n * 8;
                bytes[at..at + 4].copy_from_slice(&(count * 3).to_le_bytes());
                let empty = [layout::RELEASE, layout::MODULES, layout::NAMES].contains(&n);
                let count = if empty { 0 } else { *count };
                bytes[at + 4..at + 8].copy_from_slice(&count.to_le_bytes());
            }
            let sum = layout::checksum(&bytes[layout::SECTIONS_AT..]);
            bytes[16..24].copy_from_slice(&sum.to_le_bytes());
            if let Ok(index) = Index::parse(&bytes) {
                let _ = index.by_name(&text);
                let _ = index.is_builtin(&text);
                index.for_request(&text, &mut |_| {});
            }
        }

        #[test]
        fn parse_never_panics(bytes: Vec<u8>) {
            let _ = Index::parse(&bytes);
        }
    }
}
