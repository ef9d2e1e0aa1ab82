//! A tree of files as something to copy: the listing of its names and what they are, and the
//! place of each file's bytes in one row, which is cut into chunks as a disk is.
//!
//! A row has the data of all files behind each other, each run of data filled up to a multiple of
//! [`GRAIN`] with zeros; holes are not in it. Where bytes belong follows from the listing, at both
//! ends by the same rule.

use super::manifest::{Extent, GRAIN};
use alloc::vec;
use alloc::vec::Vec;
use sys::bytes::Cursor;

/// The most entries.
pub const ENTRIES: usize = 1 << 20;
/// The most extended attributes of all of them.
const ATTRIBUTES: usize = 1 << 21;
/// The most bytes of a path, as the kernel has it.
const PATH: usize = 4095;
/// The most bytes of an attribute's value, as the kernel has it.
const VALUE: usize = 65536;
/// In the root of a copy, while it is made.
pub const STAGE: &[u8] = b".bellwether-copy";

/// One name of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The number of the directory that it is in, which is smaller than its own. The first entry
    /// is the root.
    pub parent: u32,
    /// Its name there; none of the root.
    pub name: Vec<u8>,
    /// Permissions.
    pub mode: u16,
    /// User and group.
    pub owner: (u32, u32),
    /// Seconds and nanoseconds when it was changed.
    pub time: (i64, u32),
    /// Extended attributes: names and values.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// What it is.
    pub kind: Kind,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A directory below which nothing is listed: another file system is there.
    Mount,
    /// A file of this size, and where it has data: sorted, from multiples of [`GRAIN`] on.
    File(u64, Vec<Extent>),
    /// A symbolic link, and where it leads to.
    Link(Vec<u8>),
    /// A device, pipe or socket: the type in `st_mode`, major and minor number.
    Node(u16, u32, u32),
    /// Another name of the entry of this number.
    Same(u32),
}

/// `st_mode` of devices, pipes and sockets.
const NODES: [u16; 4] = [0o020_000, 0o060_000, 0o010_000, 0o140_000];

/// A tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    entries: Vec<Entry>,
    /// For each run of data its first byte in the row, its file, and its place there.
    runs: Vec<(u64, u32, Extent)>,
    bytes: u64,
}

/// A part of a file in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The file.
    pub entry: u32,
    /// Its first byte in the file.
    pub at: u64,
    /// How many bytes, of which those behind the file's end are zeros.
    pub length: u64,
}

/// The extents of a file as a listing has them.
#[must_use]
pub fn grains(size: u64, data: &[Extent]) -> Vec<Extent> {
    super::manifest::Disk::new("", size.next_multiple_of(GRAIN), 0, Vec::new(), data).used
}

impl Listing {
    /// Of these entries.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(entries: Vec<Entry>) -> Result<Self, &'static str> {
        if entries.len() > ENTRIES {
            return Err("the tree has more than a million names");
        }
        if entries.iter().map(|entry| entry.attributes.len()).sum::<usize>() > ATTRIBUTES {
            return Err("the tree has more than two million extended attributes");
        }
        let Some(Entry { kind: Kind::Directory, parent: 0, .. }) = entries.first() else {
            return Err("the tree has no root");
        };
        // Of each directory how long its path is, and its last name.
        let mut paths: Vec<Option<(usize, &[u8])>> = vec![Some((0, &[]))];
        let (mut runs, mut row) = (Vec::new(), 0u64);
        for (n, entry) in (0..).zip(&entries).skip(1) {
            let name = entry.name.as_slice();
            let above = paths.get_mut(entry.parent as usize).and_then(Option::as_mut);
            let (length, last) = above.ok_or("a name of the tree is in no directory")?;
            if name <= *last {
                return Err("names of the tree are out of order, or twice there");
            }
            *last = name;
            let length = *length + 1 + name.len();
            let bad = matches!(name, b"." | b"..") || name.iter().any(|b| matches!(b, 0 | b'/'));
            if bad || name.len() > 255 || length > PATH || (entry.parent == 0 && name == STAGE) {
                return Err("a name of the tree is none, or its path is too long");
            }
            paths.push((entry.kind == Kind::Directory).then_some((length, &[])));
            let of = entry.attributes.iter();
            if !of.clone().all(|(name, value)| plain(name) && value.len() <= VALUE)
                || !of.clone().zip(of.skip(1)).all(|(a, b)| a.0 < b.0)
                || entry.time.1 >= 1_000_000_000
                || entry.mode > 0o7777
            {
                return Err("an attribute, a time or a mode of the tree is none");
            }
            match &entry.kind {
                Kind::Directory | Kind::Mount => {}
                Kind::File(size, data) => {
                    let mut end = None;
                    let most = size.checked_next_multiple_of(GRAIN).ok_or("a file is too long")?;
                    for run in data {
                        let next = run.start.checked_add(run.length).filter(|next| *next <= most);
                        let grains = run.start.is_multiple_of(GRAIN)
                            && run.length.is_multiple_of(GRAIN)
                            && run.length > 0;
                        if !grains || next.is_none() || end.is_some_and(|end| run.start <= end) {
                            return Err("the data of a file is out of order, or past its end");
                        }
                        end = next;
                        runs.push((row, n, *run));
                        row = row.checked_add(run.length).ok_or("the tree is too large")?;
                    }
                }
                Kind::Link(to) if plain_path(to) => {}
                Kind::Node(kind, ..) if NODES.contains(kind) => {}
                Kind::Same(of) => match entries.get(*of as usize).map(|other| &other.kind) {
                    Some(Kind::File(..) | Kind::Link(_) | Kind::Node(..)) if *of < n => {}
                    _ => return Err("a name of the tree stands for what is no file before it"),
                },
                _ => return Err("a link or a device of the tree is none"),
            }
        }
        Ok(Self { entries, runs, bytes: row })
    }

    /// All of them; the first is the root.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The length of the row.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The path of an entry below the root; `.` for the root.
    #[must_use]
    pub fn path(&self, n: u32) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = n;
        while let Some(entry) = self.entries.get(at as usize).filter(|_| at > 0) {
            names.push(entry.name.as_slice());
            at = entry.parent;
        }
        names.reverse();
        if names.is_empty() { b".".to_vec() } else { names.join(&b'/') }
    }

    /// What these bytes of the row belong to.
    pub fn parts(&self, of: Extent) -> impl Iterator<Item = Part> {
        let first = self.runs.partition_point(|(row, _, run)| row + run.length <= of.start);
        self.runs.get(first..).unwrap_or_default().iter().map_while(move |(row, entry, run)| {
            let from = of.start.max(*row);
            let length = of.end().min(row + run.length).saturating_sub(from);
            (length > 0).then_some(Part { entry: *entry, at: run.start + (from - row), length })
        })
    }

    /// Where each file's data is in the row: its number and the bytes there.
    pub fn runs(&self) -> impl Iterator<Item = (u32, Extent)> {
        self.runs.iter().map(|(row, n, run)| (*n, Extent { start: *row, length: run.length }))
    }

    /// On the wire.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut all = Vec::new();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        let short = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_le_bytes();
        all.extend(count(self.entries.len()));
        for entry in &self.entries {
            let kind = match entry.kind {
                Kind::Directory => 1,
                Kind::File(..) => 2,
                Kind::Link(_) => 3,
                Kind::Node(..) => 4,
                Kind::Same(_) => 5,
                Kind::Mount => 6,
            };
            all.push(kind);
            all.extend(entry.parent.to_le_bytes());
            all.extend(short(entry.name.len()));
            all.extend(&entry.name);
            all.extend(entry.mode.to_le_bytes());
            all.extend(entry.owner.0.to_le_bytes());
            all.extend(entry.owner.1.to_le_bytes());
            all.extend(entry.time.0.to_le_bytes());
            all.extend(entry.time.1.to_le_bytes());
            all.extend(short(entry.attributes.len()));
            for (name, value) in &entry.attributes {
                all.extend(short(name.len()));
                all.extend(name);
                all.extend(count(value.len()));
                all.extend(value);
            }
            match &entry.kind {
                Kind::Directory | Kind::Mount => {}
                Kind::File(size, data) => {
                    all.extend(size.to_le_bytes());
                    all.extend(count(data.len()));
                    for run in data {
                        all.extend(run.start.to_le_bytes());
                        all.extend(run.length.to_le_bytes());
                    }
                }
                Kind::Link(to) => {
                    all.extend(short(to.len()));
                    all.extend(to);
                }
                Kind::Node(kind, major, minor) => {
                    all.extend(kind.to_le_bytes());
                    all.extend(major.to_le_bytes());
                    all.extend(minor.to_le_bytes());
                }
                Kind::Same(of) => all.extend(of.to_le_bytes()),
            }
        }
        all
    }

    /// Reads it. What a hostile sender announces takes no memory before it is there.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut cursor = Cursor(bytes);
        let short = "the listing of the tree ends too early, or is too long";
        let entries = entries(&mut cursor).ok_or(short)?;
        if !cursor.0.is_empty() {
            return Err("the listing of the tree has bytes behind its end");
        }
        Self::new(entries)
    }
}

/// A name that the kernel takes.
fn plain(name: &[u8]) -> bool {
    (1..=255).contains(&name.len()) && !name.contains(&0)
}

fn plain_path(to: &[u8]) -> bool {
    (1..=PATH).contains(&to.len()) && !to.contains(&0)
}

fn entries(from: &mut Cursor<'_>) -> Option<Vec<Entry>> {
    let text = |from: &mut Cursor<'_>| {
        let length = from.le16()?;
        from.some(length.into()).map(<[u8]>::to_vec)
    };
    let mut all = Vec::new();
    let (names, mut left) = (from.le32()?, ATTRIBUTES);
    // In memory each is much larger than on the wire.
    if usize::try_from(names).ok()? > ENTRIES {
        return None;
    }
    for _ in 0..names {
        let [kind] = from.take()?;
        let (parent, name) = (from.le32()?, text(from)?);
        let (mode, owner) = (from.le16()?, (from.le32()?, from.le32()?));
        let time = (from.le64()?.cast_signed(), from.le32()?);
        let mut attributes = Vec::new();
        let count = from.le16()?;
        left = left.checked_sub(count.into())?;
        for _ in 0..count {
            let name = text(from)?;
            let length = from.le32()?;
            attributes.push((name, from.some(usize::try_from(length).ok()?)?.to_vec()));
        }
        let kind = match kind {
            1 => Kind::Directory,
            2 => {
                let (size, mut data) = (from.le64()?, Vec::new());
                for _ in 0..from.le32()? {
                    data.push(Extent { start: from.le64()?, length: from.le64()? });
                }
                Kind::File(size, data)
            }
            3 => Kind::Link(text(from)?),
            4 => Kind::Node(from.le16()?, from.le32()?, from.le32()?),
            5 => Kind::Same(from.le32()?),
            6 => Kind::Mount,
            _ => return None,
        };
        all.push(Entry { parent, name, mode, owner, time, attributes, kind });
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::super::manifest::{Layout, Manifest};
    use super::*;
    use proptest::prelude::*;

    fn entry(parent: u32, name: &str, kind: Kind) -> Entry {
        let (name, attributes) = (name.as_bytes().to_vec(), Vec::new());
        Entry { parent, name, mode: 0o644, owner: (1, 2), time: (-3, 4), attributes, kind }
    }

    fn run(start: u64, length: u64) -> Extent {
        Extent { start: start * GRAIN, length: length * GRAIN }
    }

    fn tree() -> Vec<Entry> {
        let mut root = entry(0, "", Kind::Directory);
        root.attributes.push((b"user.a".to_vec(), vec![0; 3]));
        Vec::from([
            root,
            entry(0, "a", Kind::File(5, vec![run(0, 1)])),
            entry(0, "d", Kind::Directory),
            entry(2, "a", Kind::File(9 * GRAIN - 1, vec![run(1, 2), run(8, 1)])),
            entry(2, "b", Kind::Same(1)),
            entry(0, "e", Kind::Link(b"../..".to_vec())),
            entry(0, "f", Kind::Node(0o020_000, 1, 3)),
            entry(0, "g", Kind::File(0, Vec::new())),
            entry(0, "h", Kind::Mount),
        ])
    }

    #[test]
    fn the_row_has_the_data_of_all_files_behind_each_other() {
        let listing = Listing::new(tree()).unwrap();
        assert_eq!(listing.bytes(), 4 * GRAIN);
        let parts = |start, length| listing.parts(Extent { start, length }).collect::<Vec<_>>();
        let part = |entry, at, length| Part { entry, at, length };
        assert_eq!(
            parts(0, 4 * GRAIN),
            [part(1, 0, GRAIN), part(3, GRAIN, 2 * GRAIN), part(3, 8 * GRAIN, GRAIN)]
        );
        assert_eq!(parts(2 * GRAIN + 5, 7), [part(3, 2 * GRAIN + 5, 7)]);
        assert_eq!(parts(4 * GRAIN, 1), []);
        assert_eq!(listing.path(4), b"d/b");
        assert_eq!((listing.path(0), listing.path(1)), (b".".to_vec(), b"a".to_vec()));
        assert_eq!(Listing::read(&listing.write()), Ok(listing));
    }

    /// The vector of docs/clone-protocol.md.
    #[test]
    fn a_tree_on_the_wire() {
        let mut root = entry(0, "", Kind::Directory);
        (root.mode, root.owner, root.time) = (0o755, (0, 0), (1, 0));
        let listing = Listing::new(vec![root]).unwrap();
        let layout = Layout::of_tree(4096, listing.bytes(), listing.write()).unwrap();
        let page = include_str!("../../../docs/clone-protocol.md");
        assert!(
            page.contains(&sys::bytes::hex(&layout.bytes())),
            "{}",
            sys::bytes::hex(&layout.bytes())
        );
        let read = Manifest::read_plan(&layout.bytes()).unwrap();
        assert_eq!((read.layout.count(), &read.layout.tree), (0, &listing.write()));
        assert!(Layout::of_tree(4096, 1, Vec::new()).is_err());
    }

    /// What would write elsewhere, or twice, or without an end.
    #[test]
    fn what_is_hostile_is_refused() {
        assert!(Listing::new(Vec::new()).is_err());
        let with = |change: &dyn Fn(&mut Vec<Entry>)| {
            let mut tree = tree();
            change(&mut tree);
            Listing::new(tree)
        };
        assert!(with(&|_| ()).is_ok());
        for name in ["", ".", "..", "a/b", "/", "c\0", ".bellwether-copy"] {
            assert!(with(&|tree| tree[1].name = name.into()).is_err(), "{name}");
        }
        assert!(with(&|tree| tree[1].name = vec![b'a'; 256]).is_err());
        assert!(with(&|tree| tree[2].name = b"a".to_vec()).is_err(), "twice");
        for (n, parent) in [(0, 1), (1, 1), (3, 1), (3, 3), (3, 5), (3, 8), (3, 99)] {
            assert!(with(&|tree| tree[n].parent = parent).is_err(), "{n} in {parent}");
        }
        for data in [
            vec![run(0, 2)],
            vec![run(1, 1)],
            vec![run(0, 0)],
            vec![run(0, 1), run(0, 1)],
            vec![Extent { start: 1, length: GRAIN }],
            vec![Extent { start: 0, length: 5 }],
            vec![Extent { start: u64::MAX - GRAIN + 1, length: GRAIN }],
        ] {
            assert!(with(&|tree| tree[1].kind = Kind::File(5, data.clone())).is_err(), "{data:?}");
        }
        for kind in [
            Kind::File(u64::MAX, Vec::new()),
            Kind::Same(4),
            Kind::Same(2),
            Kind::Same(7),
            Kind::Same(99),
            Kind::Node(0o100_000, 0, 0),
            Kind::Link(Vec::new()),
            Kind::Link(b"a\0".to_vec()),
        ] {
            assert!(with(&|tree| tree[4].kind = kind.clone()).is_err(), "{kind:?}");
        }
        assert!(with(&|tree| tree[1].mode = 0o10_000).is_err());
        assert!(with(&|tree| tree[1].time.1 = 1_000_000_000).is_err());
        assert!(with(&|tree| tree[1].attributes = vec![(Vec::new(), Vec::new())]).is_err());
        // A chain of directories whose path no kernel takes.
        let deep = (0..17).map(|n| entry(n, if n > 0 { "x" } else { "" }, Kind::Directory));
        let mut deep: Vec<Entry> = deep.collect();
        deep.iter_mut().skip(1).for_each(|entry| {
            entry.parent -= 1;
            entry.name = vec![b'x'; 255];
        });
        assert!(Listing::new(deep.clone()).is_err());
        deep.pop();
        assert!(Listing::new(deep).is_ok());
    }

    /// 48 MiB of them took 400 MB.
    #[test]
    fn too_many_names_or_attributes_are_refused_before_they_are_read() {
        let mut tree = tree();
        tree[1].attributes = vec![(b"user.a".to_vec(), Vec::new()); 0xffff];
        // The root and a name 33 times: one attribute list too many.
        let lists = |n: usize| {
            let mut all = alloc::vec![tree[0].clone()];
            all[0].attributes.clear();
            all.resize(n + 1, tree[1].clone());
            all
        };
        assert_eq!(entries(&mut Cursor(&write(&lists(32)))).map(|all| all.len()), Some(33));
        assert!(entries(&mut Cursor(&write(&lists(33)))).is_none());
        let why = Listing::new(lists(33)).unwrap_err();
        assert!(why.contains("extended attributes"), "{why}");
        let root = write(&lists(0));
        let many =
            [&(ENTRIES as u32 + 1).to_le_bytes()[..], &root[4..].repeat(ENTRIES + 1)].concat();
        assert!(entries(&mut Cursor(&many)).is_none());
        let most = [&(ENTRIES as u32).to_le_bytes()[..], &many[4..]].concat();
        assert!(entries(&mut Cursor(&most)).is_some());
    }

    fn write(entries: &[Entry]) -> Vec<u8> {
        Listing { entries: entries.to_vec(), runs: Vec::new(), bytes: 0 }.write()
    }

    proptest! {
        #[test]
        fn all_bytes_of_a_row_belong_to_a_file_once(
            files in prop::collection::vec(prop::collection::vec((0u64..40, 1u64..9), 0..5), 1..9),
            cuts in prop::collection::vec(0u64..400_000, 0..9),
        ) {
            let mut entries = vec![entry(0, "", Kind::Directory)];
            for (n, data) in files.iter().enumerate() {
                let data: Vec<_> = data.iter().map(|(start, length)| run(*start, *length)).collect();
                let mut data = data;
                data.sort_unstable();
                let size = 48 * GRAIN + n as u64;
                entries.push(entry(0, &alloc::format!("{n:03}"), Kind::File(size, grains(size, &data))));
            }
            let listing = Listing::new(entries).unwrap();
            let mut cuts: Vec<u64> = cuts.into_iter().filter(|at| *at < listing.bytes()).collect();
            cuts.extend([0, listing.bytes()]);
            cuts.sort_unstable();
            let mut parts = Vec::new();
            for two in cuts.windows(2) {
                let of = Extent { start: two[0], length: two[1] - two[0] };
                let some: Vec<Part> = listing.parts(of).collect();
                prop_assert_eq!(some.iter().map(|part| part.length).sum::<u64>(), of.length);
                parts.extend(some);
            }
            let behind = |two: &[Part]| two[0].entry < two[1].entry || two[0].at + two[0].length <= two[1].at;
            prop_assert!(parts.windows(2).all(behind));
            prop_assert_eq!(Listing::read(&listing.write()), Ok(listing));
        }

        #[test]
        fn a_damaged_listing_is_refused_or_another_one(at in any::<usize>(), with: u8, cut in any::<usize>()) {
            let mut bytes = Listing::new(tree()).unwrap().write();
            prop_assert!(Listing::read(&bytes[..cut % bytes.len()]).is_err());
            let at = at % bytes.len();
            bytes[at] = with;
            if let Ok(listing) = Listing::read(&bytes) {
                prop_assert_eq!(listing.write(), bytes);
            }
        }
    }
}
