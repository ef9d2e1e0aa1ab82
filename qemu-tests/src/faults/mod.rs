//! The table of faults: what can be wrong with a site, and what the machine must say and do
//! about it.
//!
//! Each row is run against a real machine; `docs/faults.md` is made of the rows and of what
//! their last run has shown.

mod dhcp;
mod files;
mod links;
mod machines;
mod media;
mod row;
mod shares;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::sync::{Mutex, PoisonError};

pub use row::{Ends, Fault, Room, Seen, Stays};

use crate::assets::sources;
use crate::{Error, Result, release, workspace};

/// The parts of the table.
pub const TABLE: &[(&str, &[Fault])] = &[
    ("Cables", links::ROWS),
    ("DHCP", dhcp::ROWS),
    ("HTTP and TFTP", files::ROWS),
    ("NFS and NBD", shares::ROWS),
    ("Media and initramfs", media::ROWS),
    ("Machines", machines::ROWS),
];

/// What the last runs have shown: a line for each row.
const RESULTS: &str = "qemu-tests/faults.tsv";

/// Runs rows of a part of the table, all of them or those that CI runs. A run of all keeps
/// what it has shown for [`page`].
///
/// # Panics
/// When a machine does something else: this is the body of a `#[test]`.
#[allow(clippy::panic, reason = "the verdict of a test")]
pub fn check(part: &str, all: bool) {
    // For development: the rows whose names hold one of these.
    let only = std::env::var("BELLWETHER_FAULTS").unwrap_or_default();
    let rows = TABLE.iter().filter(|(name, _)| *name == part).flat_map(|(_, rows)| *rows);
    let rows: Vec<&Fault> = rows.filter(|row| all || row.quick).collect();
    assert!(!all || !rows.is_empty(), "no row in {part:?}");
    // The page shows what the machines say with this machine's own release.
    let own = release::chosen().ok() == sources::suite().ok();
    let mut failed = Vec::new();
    for row in rows.into_iter().filter(|row| only.split(',').any(|part| row.name.contains(part))) {
        match row.run() {
            Ok(Some(seen)) if all && own => {
                failed.extend(keep(row, &seen).err().map(|e| e.to_string()))
            }
            Ok(_) => {}
            Err(error) => failed.push(error.to_string()),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

/// Results by name.
fn results() -> Result<BTreeMap<String, Seen>> {
    let path = workspace::root().join(RESULTS);
    let text = fs::read_to_string(&path).unwrap_or_default();
    text.lines()
        .map(|line| parse(line).ok_or_else(|| Error::Input(format!("{RESULTS}: {line}"))))
        .collect()
}

fn parse(line: &str) -> Option<(String, Seen)> {
    let mut fields = line.split('\t');
    let (name, seconds, silence) = (fields.next()?, fields.next()?, fields.next()?);
    let lines = fields.map(str::to_owned).collect();
    let seen = Seen { seconds: seconds.parse().ok()?, silence: silence.parse().ok()?, lines };
    Some((name.to_owned(), seen))
}

/// Keeps the result of a row in the place of its last one.
fn keep(row: &Fault, seen: &Seen) -> Result<()> {
    static WRITING: Mutex<()> = Mutex::new(());
    let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut results = results()?;
    results.insert(row.name.to_owned(), seen.clone());
    let mut text = String::new();
    for row in TABLE.iter().flat_map(|(_, rows)| *rows) {
        if let Some(seen) = results.get(row.name) {
            let lines = seen.lines.iter().map(|line| line.replace('\t', " "));
            let fields = [row.name.to_owned(), seen.seconds.to_string(), seen.silence.to_string()];
            let fields: Vec<String> = fields.into_iter().chain(lines).collect();
            text.push_str(&fields.join("\t"));
            text.push('\n');
        }
    }
    let path = workspace::root().join(RESULTS);
    fs::write(&path, text).map_err(Error::at("write", &path))
}

/// The page of the table: rows that were not run as they are now are named below it.
///
/// # Errors
/// [`Error::Input`] when a result cannot be read.
pub fn page() -> Result<String> {
    let results = results()?;
    let (mut page, mut unrun) = (String::new(), Vec::new());
    for (part, rows) in TABLE {
        let head = "| fault | the line | the console says | ends | s | silent |";
        // Writing to a string cannot fail.
        let _ = write!(page, "## {part}\n\n{head}\n| --- | --- | --- | --- | --- | --- |\n");
        for row in *rows {
            let Some(seen) = results.get(row.name).filter(|seen| shows(seen, row)) else {
                unrun.push(row.name);
                continue;
            };
            let lines: Vec<String> = seen.lines.iter().map(|line| code(line)).collect();
            let Fault { name, what, line, ends, quick, .. } = row;
            let runs = if *quick { " (*CI*)" } else { "" };
            let (lines, line) = (lines.join("<br>"), code(line));
            let Seen { seconds, silence, .. } = seen;
            let _ = writeln!(
                page,
                "| **{name}**{runs}: {what} | {line} | {lines} | {ends} | {seconds} | {silence} |"
            );
        }
        page.push('\n');
    }
    if !unrun.is_empty() {
        let _ = writeln!(page, "Not run since they were written or changed: {}.", unrun.join(", "));
    }
    Ok(page.trim_end().to_owned())
}

/// Whether a result has what the row wants.
fn shows(seen: &Seen, row: &Fault) -> bool {
    let text = seen.lines.join("\n");
    !seen.lines.is_empty() && row.says.iter().all(|sentence| text.contains(sentence))
}

/// A text of the console in a table of Markdown.
fn code(text: &str) -> String {
    // A backquote would end it.
    format!("`{}`", text.replace('|', "\\|").replace('`', "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_is_blank_or_twice_there() {
        let mut names: Vec<&str> = Vec::new();
        for row in TABLE.iter().flat_map(|(_, rows)| *rows) {
            assert!(!row.what.is_empty() && !row.line.is_empty(), "{}", row.name);
            assert!(!row.says.is_empty(), "{} says nothing", row.name);
            assert!(!names.contains(&row.name), "{} is twice there", row.name);
            names.push(row.name);
        }
    }

    #[test]
    fn a_result_is_read_as_written() {
        let (name, seen) = parse("dhcp-x\t12\t3\tone\ttwo").unwrap();
        assert_eq!((name.as_str(), seen.seconds, seen.silence), ("dhcp-x", 12, 3));
        assert_eq!(seen.lines, ["one", "two"]);
        assert!(parse("dhcp-x").is_none());
        assert_eq!(code("a|b"), "`a\\|b`");
    }
}
