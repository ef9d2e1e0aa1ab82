//! Results as they are printed and kept (`qemu-tests/boot.tsv`), and what the
//! documentation shows of them.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::{Contender, Measured, Row};
use crate::{Error, Result, workspace};

/// A contender's results on a row. A number that was not measured is 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// `RELEASE BOARD MEDIUM CONTENDER`.
    pub name: String,
    /// Instructions: the median, and from the least to the most.
    instructions: Spread,
    /// Microseconds by the guest's clock.
    took: Spread,
    medium: u64,
    wire: u64,
    available_kib: u64,
    initrd: u64,
}

/// Several measurements of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Spread {
    median: u64,
    least: u64,
    most: u64,
    count: u64,
}

impl Spread {
    fn of(mut all: Vec<u64>) -> Spread {
        all.sort_unstable();
        let at = |index: usize| all.get(index).copied().unwrap_or_default();
        let last = all.len().saturating_sub(1);
        Spread { median: at(last / 2), least: at(0), most: at(last), count: all.len() as u64 }
    }

    /// From the least to the most, in percent of the median.
    fn percent(self) -> f64 {
        (self.most - self.least) as f64 * 100.0 / self.median.max(1) as f64
    }
}

impl Kept {
    /// What is kept of a contender's boots.
    #[must_use]
    pub fn of(row: Row, measured: &Measured) -> Kept {
        let Row { release, board, medium } = row;
        let micros = |took: &Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let contender = measured.contender.word();
        Kept {
            name: format!("{release} {board} {} {contender}", medium.word()),
            instructions: Spread::of(measured.instructions.clone()),
            took: Spread::of(measured.took.iter().map(micros).collect()),
            medium: measured.medium,
            wire: measured.wire,
            available_kib: measured.available_kib,
            initrd: measured.initrd,
        }
    }

    fn row(&self) -> &str {
        self.name.rsplit_once(' ').map_or("", |(row, _)| row)
    }

    fn contender(&self) -> &str {
        self.name.rsplit(' ').next().unwrap_or_default()
    }

    fn write(&self) -> String {
        let Spread { median, least, most, count } = self.instructions;
        let took = self.took;
        format!(
            "{}\t{median}\t{least}\t{most}\t{count}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\n",
            self.name,
            took.median,
            took.least,
            took.most,
            took.count,
            self.medium,
            self.wire,
            self.available_kib,
            self.initrd
        )
    }

    fn read(line: &str) -> Option<Kept> {
        let mut words = line.split('\t');
        let name = words.next()?.to_owned();
        let mut number = || words.next()?.parse().ok();
        let mut spread = || {
            Some(Spread { median: number()?, least: number()?, most: number()?, count: number()? })
        };
        let (instructions, took) = (spread()?, spread()?);
        Some(Kept {
            name,
            instructions,
            took,
            medium: number()?,
            wire: number()?,
            available_kib: number()?,
            initrd: number()?,
        })
    }

    /// The columns of the table.
    fn cells(&self) -> [String; 8] {
        let millions = |count: u64| count as f64 / 1e6;
        let or_dash = |there: bool, text: String| if there { text } else { "–".into() };
        let Kept { instructions, took, .. } = self;
        [
            or_dash(instructions.count > 0, format!("{:.1}", millions(instructions.median))),
            or_dash(instructions.count > 1, format!("{:.1}", instructions.percent())),
            or_dash(took.count > 0, format!("{:.3}", millions(took.median))),
            or_dash(
                took.count > 0,
                format!("{:.3}–{:.3} ({})", millions(took.least), millions(took.most), took.count),
            ),
            format!("{:.2}", millions(self.medium)),
            format!("{:.2}", millions(self.wire)),
            format!("{:.1}", self.available_kib as f64 / 1024.0),
            format!("{:.2}", millions(self.initrd)),
        ]
    }
}

/// The columns' names.
const HEAD: [&str; 8] = [
    "M instructions",
    "± %",
    "clock s",
    "from–to (boots)",
    "MB from drive",
    "MB from network",
    "MiB free",
    "MB initramfs",
];

/// The results of one row for a terminal, with how many times Bellwether is ahead.
#[must_use]
pub fn table(rows: &[Kept]) -> String {
    let mut text = format!("{:<12}", "");
    let line = |text: &mut String, cells: &[String]| {
        for cell in cells {
            // Writing to a string cannot fail.
            let _ = write!(text, "{cell:>19}");
        }
        text.push('\n');
    };
    line(&mut text, &HEAD.map(str::to_owned));
    for kept in rows {
        let _ = write!(text, "{:<12}", kept.contender());
        line(&mut text, &kept.cells());
    }
    text + &ratios(rows)
}

/// How many times Bellwether is ahead of each other contender of one row.
fn ratios(rows: &[Kept]) -> String {
    let mut text = String::new();
    let Some(ours) = rows.iter().find(|kept| kept.contender() == Contender::Bellwether.word())
    else {
        return text;
    };
    for other in rows.iter().filter(|kept| kept.name != ours.name) {
        let _ = writeln!(
            text,
            "ahead of {}: {} in instructions, {} by the guest's clock",
            other.contender(),
            times(other.instructions, ours.instructions),
            times(other.took, ours.took)
        );
    }
    text
}

/// How many times more the first is.
fn times(other: Spread, ours: Spread) -> String {
    match other.count.min(ours.count) {
        0 => "–".into(),
        _ => format!("{:.1} ×", other.median as f64 / ours.median.max(1) as f64),
    }
}

fn file() -> PathBuf {
    workspace::root().join("qemu-tests/boot.tsv")
}

/// The kept results, in the file's order.
///
/// # Errors
/// [`Error::Input`] when a line cannot be read.
fn kept() -> Result<Vec<Kept>> {
    let text = fs::read_to_string(file()).unwrap_or_default();
    let read = |line: &str| {
        Kept::read(line).ok_or_else(|| Error::Input(format!("boot.tsv has a bad line: {line}")))
    };
    text.lines().map(read).collect()
}

/// Puts these results in the place of older ones.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written.
pub fn keep(new: &[Kept]) -> Result<()> {
    let mut all = kept()?;
    for one in new {
        match all.iter_mut().find(|old| old.name == one.name) {
            Some(old) => old.clone_from(one),
            None => all.push(one.clone()),
        }
    }
    let text: String = all.iter().map(Kept::write).collect();
    fs::write(file(), text).map_err(Error::at("write", &file()))
}

/// The kept results as a table of Markdown.
///
/// # Errors
/// Those of reading the kept results.
pub fn page() -> Result<String> {
    let mut page = format!("| kernel, board, medium | | {} |\n| --- | --- |", HEAD.join(" | "));
    page.push_str(&" ---: |".repeat(HEAD.len()));
    for kept in kept()? {
        let cells = kept.cells().join(" | ");
        let _ = write!(page, "\n| {} | {} | {cells} |", kept.row(), kept.contender());
    }
    Ok(page)
}

/// How many times Bellwether is ahead, row by row, as a table of Markdown.
///
/// # Errors
/// Those of reading the kept results.
pub fn ratio_page() -> Result<String> {
    let all = kept()?;
    let mut page = "| kernel, board, medium | ahead of live-boot | ahead of dracut |\n\
                    | --- | ---: | ---: |"
        .to_owned();
    let ours = |kept: &&Kept| kept.contender() == Contender::Bellwether.word();
    for ours in all.iter().filter(ours) {
        let cell = |contender: Contender| {
            let name = format!("{} {}", ours.row(), contender.word());
            let other = all.iter().find(|kept| kept.name == name);
            other.map_or("–".into(), |other| times(other.took, ours.took))
        };
        let cells = [cell(Contender::LiveBoot), cell(Contender::Dracut)].join(" | ");
        let _ = write!(page, "\n| {} | {cells} |", ours.row());
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Medium;

    fn kept(contender: Contender, millis: &[u64]) -> Kept {
        let row = Row { release: "forky", board: "pc", medium: Medium::Iso };
        let measured = Measured {
            contender,
            initrd: 1_970_000,
            instructions: vec![200_000_000, 201_000_000, 199_000_000],
            took: millis.iter().map(|millis| Duration::from_millis(*millis)).collect(),
            medium: 5_000_000,
            wire: 0,
            available_kib: 1024,
        };
        Kept::of(row, &measured)
    }

    #[test]
    fn results_are_read_as_they_were_written() {
        let one = kept(Contender::Dracut, &[3000, 1000, 2000]);
        assert_eq!(Kept::read(one.write().trim_end()), Some(one.clone()));
        assert_eq!((one.row(), one.contender()), ("forky pc iso", "dracut"));
        assert_eq!(one.cells()[..4], ["200.0", "1.0", "2.000", "1.000–3.000 (3)"]);
        assert_eq!(Kept::read("forky pc iso dracut\t1"), None);
    }

    #[test]
    fn ratios_are_those_of_medians() {
        let rows =
            [kept(Contender::LiveBoot, &[2000, 9000, 1000]), kept(Contender::Bellwether, &[200])];
        let said = ratios(&rows);
        assert_eq!(
            said,
            "ahead of live-boot: 1.0 × in instructions, 10.0 × by the guest's clock\n"
        );
        assert_eq!(ratios(&rows[..1]), "");
    }
}
