//! `desc`: KA's description of a disk's partitions, which it makes anew on
//! every machine.
//!
//! One partition a line: `[logical] TYPE SIZE`, where TYPE is `linux`, `swap`,
//! `extended` or `type` and a hexadecimal number, and SIZE a number of MiB or
//! `fill`. Primary partitions and the extended one are numbered as they come,
//! logical ones from 5 on. Gaps, start sectors and the boot flag cannot be said.
//!
//! The old reader dropped what it did not expect; here every such word is an
//! error with its line.

use crate::Error;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use sys::bytes::or_zero::le32;

const FORMAT: &str = "desc";
/// The table on the disk has one byte for the type and 32 bits for sectors.
const MAX_MIB: u64 = 2 << 20;
const MAX_PARTITIONS: usize = 60;
const LINUX: u8 = 0x83;
const SWAP: u8 = 0x82;

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of this type in the table; 83 is `linux`, 82 is `swap`.
    Type(u8),
    /// Holds the logical partitions.
    Extended,
}

/// How large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// So many MiB.
    Mib(u64),
    /// All that is left.
    Fill,
}

/// A partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// It lies in the extended partition.
    pub logical: bool,
    /// Its use.
    pub kind: Kind,
    /// How large it is.
    pub size: Size,
}

/// All partitions of a disk, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desc(pub Vec<Entry>);

impl Desc {
    /// Reads a description.
    ///
    /// # Errors
    /// [`Error::Config`] with line and word of the first fault.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut number = 0;
        let wrong = |line: usize, word: &str, why| {
            let word = word.chars().take(80).collect();
            Err(Error::Config { format: FORMAT, line, word, why })
        };
        for line in text.lines() {
            number += 1;
            let words: Vec<&str> = line.split_ascii_whitespace().take(4).collect();
            let (logical, kind, size) = match words.as_slice() {
                [] => continue,
                [first, ..] if first.starts_with('#') => continue,
                ["logical", kind, size] => (true, *kind, *size),
                [kind, size] => (false, *kind, *size),
                [word] => return wrong(number, word, "needs a size: MiB, or fill"),
                [first, _, third, ..] if *first == "logical" => {
                    return wrong(number, third, "must be the last word of the line");
                }
                [first, ..] => {
                    return wrong(number, first, "must be logical, where a line has three words");
                }
            };
            let kind = match kind {
                "linux" => Kind::Type(LINUX),
                "swap" => Kind::Type(SWAP),
                "extended" => Kind::Extended,
                _ => match kind.strip_prefix("type").map(|hex| u8::from_str_radix(hex, 16)) {
                    Some(Ok(0x05 | 0x0f | 0x85)) => Kind::Extended,
                    Some(Ok(n)) if n != 0 => Kind::Type(n),
                    _ => {
                        return wrong(number, kind, "must be linux, swap, extended or type83");
                    }
                },
            };
            let size = match size {
                "fill" => Size::Fill,
                _ => match size.parse() {
                    Ok(mib) if (1..=MAX_MIB).contains(&mib) => Size::Mib(mib),
                    _ => return wrong(number, size, "must be fill, or MiB up to 2 TiB"),
                },
            };
            let extended = entries.iter().any(|e| e.kind == Kind::Extended);
            if logical && !extended {
                return wrong(number, "logical", "comes before any extended partition");
            }
            if logical && kind == Kind::Extended {
                return wrong(number, "extended", "cannot be logical");
            }
            if kind == Kind::Extended && extended {
                return wrong(number, "extended", "is there already");
            }
            // What fills leaves nothing for those behind it.
            let filled = entries.iter().any(|e| e.logical == logical && e.size == Size::Fill);
            if filled {
                return wrong(number, "", "comes behind a partition that fills all there is");
            }
            if !logical && entries.iter().filter(|e| !e.logical).count() == 4 {
                return wrong(number, "", "is the fifth primary partition; a table has four");
            }
            if entries.len() == MAX_PARTITIONS {
                return wrong(number, "", "there are more than 60 partitions");
            }
            entries.push(Entry { logical, kind, size });
        }
        if entries.is_empty() {
            return wrong(number.max(1), "", "there are no partitions");
        }
        Ok(Self(entries))
    }

    /// The text of this description, as KA reads it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for entry in &self.0 {
            let kind = match entry.kind {
                Kind::Type(LINUX) => "linux".to_owned(),
                Kind::Type(SWAP) => "swap".to_owned(),
                Kind::Type(n) => format!("type{n:x}"),
                Kind::Extended => "extended".to_owned(),
            };
            let size = match entry.size {
                Size::Mib(n) => format!("{n}"),
                Size::Fill => "fill".to_owned(),
            };
            let logical = if entry.logical { "logical " } else { "" };
            out += &format!("{logical}{kind} {size}\n");
        }
        out
    }

    /// Makes room for logical partitions that their extended one is too small for: the old
    /// `fdisk_to_desc` wrote such sizes for large disks, and the table was not made. As its
    /// manual says by hand, the extended partition and the last logical one then fill what there
    /// is. What was changed, in words.
    ///
    /// # Errors
    /// [`Error::Config`] when other partitions stand behind the extended one, which cannot fill
    /// the disk then.
    pub fn mend(self) -> Result<(Self, Option<String>), Error> {
        let place = self.0.iter().position(|e| e.kind == Kind::Extended);
        let Some((at, Size::Mib(room))) = place.and_then(|at| Some((at, self.0.get(at)?.size)))
        else {
            return Ok((self, None));
        };
        let logical = || self.0.iter().filter(|e| e.logical);
        let mib = |e: &Entry| if let Size::Mib(mib) = e.size { mib } else { 0 };
        let needed: u64 = logical().map(mib).sum();
        let fills = logical().any(|e| e.size == Size::Fill);
        // What fills needs a MiB at least.
        if needed + u64::from(fills) <= room {
            return Ok((self, None));
        }
        let what = format!(
            "the logical partitions need {needed} MiB and their extended one has {room}: it and \
             the last of them fill the disk now"
        );
        let mut mended = self;
        let last = mended.0.iter().rposition(|e| e.logical);
        for n in [Some(at), last].into_iter().flatten() {
            if let Some(entry) = mended.0.get_mut(n).filter(|_| Some(n) == place || !fills) {
                entry.size = Size::Fill;
            }
        }
        Self::parse(&mended.text()).map(|mended| (mended, Some(what)))
    }

    /// The description of a disk's table, and what it cannot say of it.
    ///
    /// The extended partition and the last logical one fill what there is: sizes
    /// that were rounded one by one do not add up on another disk, which was the
    /// old program's known fault.
    ///
    /// # Errors
    /// [`Error::Unfit`] when there are no partitions, or some without a counterpart in `desc`.
    pub fn of_disk(partitions: &[Partition]) -> Result<(Self, Vec<String>), Error> {
        let unfit = |why| Err(Error::Unfit { what: "a desc of this disk", why });
        let mut partitions: Vec<&Partition> = partitions.iter().collect();
        partitions.sort_by_key(|p| p.number);
        if partitions.is_empty() {
            return unfit("there are no partitions");
        }
        let mut notes = Vec::new();
        let mut entries = Vec::new();
        let last_logical = partitions.iter().filter(|p| p.number > 4).map(|p| p.number).max();
        // Those in the order in which KA will number them.
        let (mut primary, mut logical) = (1, 5);
        for p in partitions {
            let next = if p.number > 4 { &mut logical } else { &mut primary };
            if p.number != *next {
                notes.push(format!("partition {} will have the number {next}", p.number));
            }
            *next += 1;
            let mib = p.sectors / 2048;
            let extended = matches!(p.kind, 0x05 | 0x0f | 0x85);
            let size = if extended || last_logical == Some(p.number) {
                Size::Fill
            } else if mib == 0 {
                notes.push(format!("partition {} is smaller than 1 MiB and gets 1", p.number));
                Size::Mib(1)
            } else if mib > MAX_MIB {
                return unfit("a partition is larger than the 2 TiB that its table can say");
            } else {
                Size::Mib(mib)
            };
            if p.boot {
                notes.push(format!("that partition {} is active cannot be said", p.number));
            }
            let kind = if extended { Kind::Extended } else { Kind::Type(p.kind) };
            entries.push(Entry { logical: p.number > 4, kind, size });
        }
        // The extended one may stand behind others, logical ones always behind it.
        let text = Self(entries).text();
        Ok((Self::parse(&text)?, notes))
    }
}

/// A partition as it stands in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// 1 to 4, or from 5 on for logical ones.
    pub number: u32,
    /// First sector of 512 bytes.
    pub start: u64,
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
    /// Type in the table.
    pub kind: u8,
    /// Active.
    pub boot: bool,
}

/// Reads so many bytes at an offset; how many there were.
pub type ReadAt<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> usize;

fn entries(sector: &[u8; 512]) -> impl Iterator<Item = (u8, u8, u64, u64)> + '_ {
    sector.get(446..510).unwrap_or_default().chunks_exact(16).map(|e| {
        let word = |at| u64::from(le32(e, at));
        let byte = |at: usize| e.get(at).copied().unwrap_or(0);
        (byte(0), byte(4), word(8), word(12))
    })
}

/// Reads a DOS partition table with its logical partitions. Sectors of 512 bytes.
///
/// # Errors
/// [`Error::Unfit`] when there is no such table, or its chain of logical partitions is
/// broken.
pub fn read_table(read: ReadAt<'_>) -> Result<Vec<Partition>, Error> {
    let unfit = |why| Err(Error::Unfit { what: "the partition table", why });
    let mut load = |at: u64| -> Option<[u8; 512]> {
        let mut sector = [0; 512];
        let n = read(at.checked_mul(512)?, &mut sector);
        (n == 512 && sector.ends_with(&[0x55, 0xaa])).then_some(sector)
    };
    let Some(first) = load(0) else {
        return unfit("is none of DOS: the mark at its end is missing");
    };
    let mut found = Vec::new();
    let mut extended = None;
    for (number, (flag, kind, start, sectors)) in (1..).zip(entries(&first)) {
        if kind == 0 || sectors == 0 {
            continue;
        }
        if kind == 0xee {
            return unfit("is GPT; desc describes DOS tables only");
        }
        if matches!(kind, 0x05 | 0x0f | 0x85) {
            extended = Some(start);
        }
        found.push(Partition { number, start, sectors, kind, boot: flag == 0x80 });
    }
    let Some(base) = extended else { return Ok(found) };
    let mut at = base;
    let mut seen = Vec::new();
    for number in 5.. {
        if seen.contains(&at) || number > 64 {
            return unfit("has a chain of logical partitions without an end");
        }
        seen.push(at);
        let Some(sector) = load(at) else {
            // An extended partition that never had a logical one is empty.
            if number == 5 {
                break;
            }
            return unfit("has a broken chain of logical partitions");
        };
        let mut next = None;
        for (flag, kind, start, sectors) in entries(&sector).take(2) {
            if matches!(kind, 0x05 | 0x0f | 0x85) {
                next = base.checked_add(start);
            } else if kind != 0 && sectors != 0 {
                let start = at.saturating_add(start);
                found.push(Partition { number, start, sectors, kind, boot: flag == 0x80 });
            }
        }
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEED: &str = "linux 3500\nextended fill\nlogical swap 500\nlogical linux fill\n";

    #[test]
    fn the_documented_example() {
        let desc = Desc::parse(SEED).unwrap();
        assert_eq!(desc.0.len(), 4);
        assert_eq!(desc.text(), SEED);
        let commented =
            "# a disk\n\n  linux\t3500\nextended fill\nlogical type82 500\nlogical linux fill";
        assert_eq!(Desc::parse(commented).unwrap(), desc);
        let other = Desc::parse("type7 100\nlinux fill\n").unwrap();
        assert_eq!(other.text(), "type7 100\nlinux fill\n");
    }

    /// The text that the old manual calls wrong, and how it mends it.
    #[test]
    fn logical_partitions_that_do_not_fit() {
        let wrong = "swap 509\nlinux 5992\nextended 71657\nlogical linux 52281\n\
                     logical linux 19375\nlogical linux 78167\nlogical linux 156327\n";
        let (desc, what) = Desc::parse(wrong).unwrap().mend().unwrap();
        assert_eq!(
            desc.text(),
            "swap 509\nlinux 5992\nextended fill\nlogical linux 52281\nlogical linux 19375\n\
             logical linux 78167\nlogical linux fill\n"
        );
        assert!(what.unwrap().contains("need 306150 MiB and their extended one has 71657"));
        assert_eq!(desc.clone().mend().unwrap(), (desc, None));
        let fits = Desc::parse("extended 100\nlogical linux 60\nlogical linux 40\n").unwrap();
        assert_eq!(fits.clone().mend().unwrap(), (fits, None));
        let full = Desc::parse("extended 100\nlogical linux 100\nlogical linux fill\n").unwrap();
        let (full, _) = full.mend().unwrap();
        assert_eq!(full.text(), "extended fill\nlogical linux 100\nlogical linux fill\n");
        let behind = Desc::parse("extended 9\nlogical linux 60\nlinux 40\n").unwrap();
        assert!(behind.mend().is_err(), "it cannot fill the disk");
    }

    #[test]
    fn errors_name_line_and_word() {
        let wrong = |text: &str| match Desc::parse(text) {
            Err(Error::Config { line, word, .. }) => (line, word),
            other => panic!("{other:?}"),
        };
        assert_eq!(wrong("linux\n"), (1, "linux".to_owned()));
        assert_eq!(wrong("linux 10 20\n"), (1, "linux".to_owned()));
        assert_eq!(wrong("\nlinus 10\n"), (2, "linus".to_owned()));
        assert_eq!(wrong("linux ten\n"), (1, "ten".to_owned()));
        assert_eq!(wrong("linux -1\n"), (1, "-1".to_owned()));
        assert_eq!(wrong("logical linux 5\n"), (1, "logical".to_owned()));
        assert_eq!(wrong("extended fill\nextended 5\n"), (2, "extended".to_owned()));
        assert_eq!(wrong("linux fill\nlinux 5\n"), (2, String::new()));
        assert_eq!(wrong("linux 1\nlinux 1\nlinux 1\nlinux 1\nlinux 1\n"), (5, String::new()));
        assert_eq!(wrong("extended fill\nlogical linux 5 x\n"), (2, "5".to_owned()));
        assert_eq!(wrong(""), (1, String::new()));
    }

    /// The seed's large disk, whose description by the old program did not fit it.
    #[test]
    fn a_large_disk_adds_up() {
        let mib = |n: u64| n * 2048 + 1337;
        let p = |number, kind, size| Partition {
            number,
            start: 0,
            sectors: mib(size),
            kind,
            boot: false,
        };
        let disk = [
            p(1, 0x82, 509),
            p(2, 0x83, 5992),
            p(3, 0x0f, 306_154),
            p(5, 0x83, 52_281),
            p(6, 0x83, 19_375),
            p(7, 0x83, 78_167),
            p(8, 0x83, 156_327),
        ];
        let (desc, notes) = Desc::of_disk(&disk).unwrap();
        assert_eq!(
            desc.text(),
            "swap 509\nlinux 5992\nextended fill\nlogical linux 52281\nlogical linux 19375\nlogical linux 78167\nlogical linux fill\n"
        );
        assert!(notes.is_empty(), "{notes:?}");
        let (_, notes) = Desc::of_disk(&[p(2, 0x83, 5)]).unwrap();
        assert_eq!(notes, ["partition 2 will have the number 1"]);
    }

    #[test]
    fn a_table_made_by_sfdisk() {
        let dir = std::env::temp_dir().join(format!("desc-{}", std::process::id()));
        std::fs::write(&dir, []).unwrap();
        std::fs::OpenOptions::new().write(true).open(&dir).unwrap().set_len(3 << 30).unwrap();
        let script = "label: dos\nsize=300M,type=83,bootable\nsize=100M,type=82\ntype=5\nsize=500M,type=83\nsize=7M,type=7\ntype=8e\n";
        let sfdisk = std::process::Command::new("sfdisk")
            .arg("-q")
            .arg(&dir)
            .stdin(std::process::Stdio::piped())
            .spawn();
        let Ok(mut sfdisk) = sfdisk else {
            println!("skipped: no sfdisk here");
            return std::fs::remove_file(&dir).unwrap();
        };
        std::io::Write::write_all(&mut sfdisk.stdin.take().unwrap(), script.as_bytes()).unwrap();
        assert!(sfdisk.wait().unwrap().success());
        let file = std::fs::File::open(&dir).unwrap();
        let mut read = |at: u64, buffer: &mut [u8]| {
            std::os::unix::fs::FileExt::read_at(&file, buffer, at).unwrap_or(0)
        };
        let table = read_table(&mut read).unwrap();
        std::fs::remove_file(&dir).unwrap();
        let (desc, notes) = Desc::of_disk(&table).unwrap();
        assert_eq!(
            desc.text(),
            "linux 300\nswap 100\nextended fill\nlogical linux 500\nlogical type7 7\nlogical type8e fill\n"
        );
        assert_eq!(notes.len(), 1, "{notes:?}");
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in "((logical )?(linux|swap|extended|type[0-9a-f]{0,3}|#) ([0-9]{0,7}|fill)\n|[ -~\n]{0,10}){0,12}") {
            if let Ok(desc) = Desc::parse(&text) {
                prop_assert_eq!(Desc::parse(&desc.text()), Ok(desc));
            }
        }

        #[test]
        fn broken_tables_end(sectors in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 64), 1..6)) {
            let mut read = |at: u64, buffer: &mut [u8]| {
                let Some(entries) = sectors.get((at / 512) as usize % sectors.len()) else { return 0 };
                buffer[446..510].copy_from_slice(entries);
                buffer[510..].copy_from_slice(&[0x55, 0xaa]);
                512
            };
            if let Ok(found) = read_table(&mut read) {
                prop_assert!(found.len() <= 68);
                let _ = Desc::of_disk(&found);
            }
        }
    }
}
