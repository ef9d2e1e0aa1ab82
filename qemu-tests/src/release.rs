//! Which release of Debian the guests of a run are made of: kernels, live systems, and the
//! initramfs of others. Servers and QEMU are this machine's own.
//!
//! `--release` of `cargo xtask test` names one for all scenarios, and `--all-releases` runs the
//! scenarios on each; what they have shown is kept in `qemu-tests/releases.tsv`. Without them it
//! is the turn of another release in every run: a scenario that has passed there before runs
//! there, and the others on this machine's own. A scenario that is started by `cargo test` has
//! this machine's own as well.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::time::Duration;

use crate::assets::sources;
use crate::{Error, Result, shell, workspace};

/// The releases, by code name.
pub const RELEASES: [&str; 3] = ["bookworm", "trixie", "forky"];

/// The variable that names the release of all scenarios.
pub const CHOSEN: &str = "BELLWETHER_RELEASE";

/// The variable that names the release whose turn it is.
pub const TURN: &str = "BELLWETHER_TURN";

/// What the last runs on each release have shown.
const KEPT: &str = "qemu-tests/releases.tsv";

/// The release of this run: the one in [`CHOSEN`], or this machine's own.
///
/// # Errors
/// [`Error::Input`] when it is none of [`RELEASES`], or this machine is no Debian.
pub fn chosen() -> Result<String> {
    named_by(CHOSEN)?.map_or_else(sources::suite, |name| Ok(name.to_owned()))
}

fn named_by(variable: &str) -> Result<Option<&'static str>> {
    match std::env::var(variable) {
        Ok(name) if !name.is_empty() => known(&name).map(Some),
        _ => Ok(None),
    }
}

/// One of [`RELEASES`] by its name.
///
/// # Errors
/// [`Error::Input`] with all of them.
pub fn known(name: &str) -> Result<&'static str> {
    let found = RELEASES.into_iter().find(|release| *release == name);
    found.ok_or_else(|| Error::Input(format!("{name} is none of {}", RELEASES.join(", "))))
}

/// The release whose turn it is. The number of commits counts the runs: where every run has a
/// commit more than the last one, three runs have all of them. Without a repository it is the
/// first one's turn.
pub fn by_turn() -> &'static str {
    let mut git = shell::command("git");
    git.args(["-c", "safe.directory=*", "rev-list", "--count", "HEAD"]);
    let count = shell::run(git.current_dir(workspace::root())).unwrap_or_default();
    let count: usize = count.trim().parse().unwrap_or(0);
    RELEASES.get(count % RELEASES.len()).copied().unwrap_or(RELEASES[0])
}

/// The release of a scenario in this run.
pub(crate) fn of_scenario(name: &str) -> Result<String> {
    match named_by(TURN)? {
        Some(turn) if Seen::open().passed(name, turn) => Ok(turn.to_owned()),
        _ => chosen(),
    }
}

/// Notes how a scenario went on a release, for [`keep`].
pub(crate) fn note(scenario: &str, release: &str, passed: bool, took: Duration) -> Result<()> {
    let path = notes();
    let line = Line { scenario, release, passed, seconds: took.as_secs() };
    let mut file =
        File::options().create(true).append(true).open(&path).map_err(Error::at("open", &path))?;
    writeln!(file, "{line}").map_err(Error::at("write", &path))
}

fn notes() -> std::path::PathBuf {
    workspace::lab().join("releases.tsv")
}

/// A line of the notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line<'a> {
    scenario: &'a str,
    release: &'a str,
    passed: bool,
    seconds: u64,
}

impl std::fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = if self.passed { "passed" } else { "failed" };
        write!(f, "{}\t{}\t{verdict}\t{}", self.scenario, self.release, self.seconds)
    }
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Option<Line<'a>> {
        let mut fields = line.split('\t');
        let (scenario, release) = (fields.next()?, fields.next()?);
        let passed = fields.next()? == "passed";
        let seconds = fields.next()?.parse().ok()?;
        (!scenario.is_empty()).then_some(Line { scenario, release, passed, seconds })
    }
}

/// Scenarios by name and release.
type Table<'a> = BTreeMap<(&'a str, &'a str), Line<'a>>;

/// Later lines count.
fn table(text: &str) -> Table<'_> {
    let lines = text.lines().filter_map(Line::read);
    lines.map(|line| ((line.scenario, line.release), line)).collect()
}

/// Puts what scenarios have noted into the workspace's own table, with the state of each
/// release that they ran on, and returns the table as a text for people.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read or written.
pub fn keep(states: &[(&str, String)]) -> Result<String> {
    let kept = workspace::root().join(KEPT);
    let old = fs::read_to_string(&kept).unwrap_or_default();
    let new = fs::read_to_string(notes()).unwrap_or_default();
    let mut text = String::new();
    for release in RELEASES {
        let new = states.iter().find(|(name, _)| *name == release).map(|(_, state)| state.as_str());
        let old = old.lines().find_map(|line| line.strip_prefix(&format!("\t{release}\t")));
        if let Some(state) = new.or(old) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\t{release}\t{state}");
        }
    }
    let both = format!("{old}\n{new}");
    let table = table(&both);
    for line in table.values() {
        let _ = writeln!(text, "{line}");
    }
    fs::write(&kept, &text).map_err(Error::at("write", &kept))?;
    Ok(matrix(&text))
}

/// What the last runs have shown, a line for each scenario and a column for each release.
fn matrix(text: &str) -> String {
    let table = table(text);
    let mut names: Vec<&str> = table.keys().map(|(scenario, _)| *scenario).collect();
    names.dedup();
    let mut out = String::new();
    for line in text.lines().filter_map(|line| line.strip_prefix('\t')) {
        let _ = writeln!(out, "{}", line.replace('\t', ": "));
    }
    let _ = writeln!(out, "{:<32}{:>10}{:>10}{:>10}", "", RELEASES[0], RELEASES[1], RELEASES[2]);
    for name in names {
        let cells = RELEASES.map(|release| match table.get(&(name, release)) {
            None => "-".to_owned(),
            Some(Line { passed: true, seconds, .. }) => format!("{seconds} s"),
            Some(_) => "FAILED".to_owned(),
        });
        let _ = writeln!(out, "{name:<32}{:>10}{:>10}{:>10}", cells[0], cells[1], cells[2]);
    }
    out
}

/// The releases that a scenario was last seen to pass on, and the states of all of them, from
/// the workspace's table.
#[derive(Debug)]
pub struct Seen(String);

impl Seen {
    /// Reads the table.
    pub fn open() -> Seen {
        Seen(fs::read_to_string(workspace::root().join(KEPT)).unwrap_or_default())
    }

    /// Whether a scenario has passed on a release.
    fn passed(&self, scenario: &str, release: &str) -> bool {
        table(&self.0).get(&(scenario, release)).is_some_and(|line| line.passed)
    }

    /// The releases of a scenario, in words.
    pub fn of(&self, scenario: &str) -> String {
        let on = RELEASES.into_iter().filter(|release| self.passed(scenario, release));
        let on: Vec<&str> = on.collect();
        if on.len() == RELEASES.len() { "all".to_owned() } else { on.join(", ") }
    }

    /// The state of each release.
    pub fn states(&self) -> impl Iterator<Item = &str> {
        let lines = self.0.lines().filter_map(|line| line.strip_prefix('\t'));
        lines.filter_map(|line| line.split_once('\t')).map(|(_, state)| state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_run_on_a_release_counts() {
        let text = "\ttrixie\ttrixie 13.8 of today, Linux 6.12\n\
                    nfs\ttrixie\tfailed\t9\nnfs\tbookworm\tpassed\t4\nnfs\ttrixie\tpassed\t7\n";
        let seen = Seen(text.to_owned());
        assert_eq!(seen.of("nfs"), "bookworm, trixie");
        assert_eq!(seen.of("other"), "");
        assert!(!seen.passed("nfs", "forky") && seen.passed("nfs", "trixie"));
        assert_eq!(seen.states().collect::<Vec<_>>(), ["trixie 13.8 of today, Linux 6.12"]);
        let shown = matrix(text);
        assert!(shown.contains("trixie: trixie 13.8 of today"), "{shown}");
        let row = shown.lines().last().unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(row, ["nfs", "4", "s", "7", "s", "-"]);
    }

    #[test]
    fn a_note_is_read_as_written() {
        let line = Line { scenario: "a", release: "forky", passed: false, seconds: 3 };
        assert_eq!(Line::read(&line.to_string()), Some(line));
        assert_eq!(Line::read("\tforky\tforky of today, Linux 7"), None);
    }

    #[test]
    fn only_three_releases_are_known() {
        assert_eq!(known("forky").unwrap(), "forky");
        assert!(known("sid").unwrap_err().to_string().contains("bookworm, trixie, forky"));
    }
}
