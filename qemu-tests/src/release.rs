//! Which release of Debian the machines of a run are made of: kernels, live systems, the
//! initramfs of others, and servers. QEMU and what makes media are this machine's own.
//!
//! `--release` of `cargo xtask test` names one for all scenarios, and `--all-releases` runs the
//! scenarios on each; what they have shown is kept in `qemu-tests/releases.tsv`. What has passed
//! there with the same state of the release is not run again. Without them it
//! is the turn of another release in every run: a scenario that has passed there before runs
//! there, and the others on this machine's own. A scenario that is started by `cargo test` has
//! this machine's own as well.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::time::Duration;

use crate::assets::{Assets, sources};
use crate::{Error, Result, shell, workspace};

/// The releases, by code name.
pub const RELEASES: [&str; 3] = ["bookworm", "trixie", "forky"];

/// The variable that names the release of all scenarios.
pub const CHOSEN: &str = "BELLWETHER_RELEASE";

/// The variable that names the release whose turn it is.
pub const TURN: &str = "BELLWETHER_TURN";

/// The variable that has what is recorded as passed run again.
pub const AGAIN: &str = "BELLWETHER_AGAIN";

/// Scenarios that make no sense on a release, and why.
const NOT_ON: &[(&str, &str, &str)] = &[];

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

/// Where a scenario is to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// On this release.
    On(String),
    /// Nowhere, and why.
    Not(String),
}

/// The release of a scenario in this run.
pub(crate) fn of_scenario(name: &str) -> Result<Where> {
    if let Some(turn) = named_by(TURN)?.filter(|turn| Seen::open().passed(name, turn)) {
        return Ok(Where::On(turn.to_owned()));
    }
    let release = chosen()?;
    if let Some(why) = not_on(name, &release) {
        return Ok(Where::Not(format!("not on {release}: {why}")));
    }
    // By hand a scenario always runs.
    if std::env::var(AGAIN).as_deref() == Ok("no") {
        let (kept, notes) = (Seen::open(), fs::read_to_string(notes()).unwrap_or_default());
        let seen = Seen(format!("{}\n{notes}", kept.0));
        if seen.is_of(&release, &Assets::of(&release)?.state()?) && seen.passed(name, &release) {
            return Ok(Where::Not(format!("has passed on {release} before")));
        }
    }
    Ok(Where::On(release))
}

fn not_on(scenario: &str, release: &str) -> Option<&'static str> {
    let found = NOT_ON.iter().find(|(name, on, _)| *name == scenario && *on == release);
    found.map(|(_, _, why)| *why)
}

/// Notes how a scenario went on a release, for [`keep`].
pub(crate) fn note(scenario: &str, release: &str, passed: bool, took: Duration) -> Result<()> {
    let path = notes();
    let line = Line { scenario, release, passed, seconds: took.as_secs(), older: false };
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
    /// With an earlier state of the release than the table's.
    older: bool,
}

impl std::fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = if self.passed { "passed" } else { "failed" };
        let older = if self.older { "\tolder" } else { "" };
        write!(f, "{}\t{}\t{verdict}\t{}{older}", self.scenario, self.release, self.seconds)
    }
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Option<Line<'a>> {
        let mut fields = line.split('\t');
        let (scenario, release) = (fields.next()?, fields.next()?);
        let passed = fields.next()? == "passed";
        let seconds = fields.next()?.parse().ok()?;
        let older = fields.next() == Some("older");
        (!scenario.is_empty()).then_some(Line { scenario, release, passed, seconds, older })
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
/// release that they ran on.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read or written.
pub fn keep(states: &[(&str, String)]) -> Result<()> {
    let (kept, notes) = (workspace::root().join(KEPT), notes());
    let new = fs::read_to_string(&notes).unwrap_or_default();
    let text = merged(&Seen::open(), &new, states);
    fs::write(&kept, &text).map_err(Error::at("write", &kept))?;
    fs::write(&notes, "").map_err(Error::at("write", &notes))
}

/// The table with new lines. Where the state of a release has changed, its old lines say so.
fn merged(old: &Seen, new: &str, states: &[(&str, String)]) -> String {
    let mut text = String::new();
    let mut table = table(&old.0);
    for release in RELEASES {
        let state = states.iter().find(|(name, _)| *name == release).map(|(_, state)| &**state);
        if let (Some(was), Some(is)) = (old.state(release), state) {
            let lines = table.values_mut().filter(|line| line.release == release);
            lines.for_each(|line| line.older |= was != is);
        }
        if let Some(state) = state.or(old.state(release)) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\t{release}\t{state}");
        }
    }
    table.extend(self::table(new));
    for line in table.values() {
        let _ = writeln!(text, "{line}");
    }
    text
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

    /// Whether a scenario has run on some release.
    pub fn anywhere(&self, scenario: &str) -> bool {
        table(&self.0).keys().any(|(name, _)| *name == scenario)
    }

    /// How a scenario went on each release, in words.
    pub fn of(&self, scenario: &str) -> [String; 3] {
        let table = table(&self.0);
        RELEASES.map(|release| match (not_on(scenario, release), table.get(&(scenario, release))) {
            (Some(why), _) => format!("no: {why}"),
            (_, None) => "not run".to_owned(),
            (_, Some(Line { passed: false, .. })) => "FAILED".to_owned(),
            (_, Some(Line { seconds, older: false, .. })) => format!("{seconds} s"),
            (_, Some(Line { seconds, .. })) => format!("{seconds} s, older state"),
        })
    }

    /// What the last runs have shown, a line for each of these scenarios and a column for each
    /// release.
    pub fn matrix(&self, scenarios: &[String]) -> String {
        let mut out = String::new();
        for release in RELEASES {
            let state = self.state(release).unwrap_or("no state of it was run");
            let _ = writeln!(out, "{release}: {state}");
        }
        let mut row = |name: &str, cells: [&str; 3]| {
            let _ = writeln!(out, "{name:<34} {:<16} {:<16} {}", cells[0], cells[1], cells[2]);
        };
        row("", RELEASES);
        for name in scenarios {
            row(name, self.of(name).each_ref().map(String::as_str));
        }
        out
    }

    /// Whether the lines of a release are of this state of it.
    fn is_of(&self, release: &str, state: &str) -> bool {
        self.state(release).is_none_or(|of| of == state)
    }

    /// The state of a release: its version, its date, and its kernel.
    pub fn state(&self, release: &str) -> Option<&str> {
        let mut lines = self.0.lines().filter_map(|line| line.strip_prefix('\t')?.split_once('\t'));
        lines.find(|(name, _)| *name == release).map(|(_, state)| state)
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
        assert_eq!(seen.of("nfs"), ["4 s", "7 s", "not run"]);
        assert!(!seen.passed("nfs", "forky") && seen.passed("nfs", "trixie"));
        assert_eq!(seen.state("trixie"), Some("trixie 13.8 of today, Linux 6.12"));
        let shown = seen.matrix(&["nfs".to_owned(), "other".to_owned()]);
        assert!(shown.contains("trixie: trixie 13.8 of today"), "{shown}");
        let row = shown.lines().last().unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(row, ["other", "not", "run", "not", "run", "not", "run"]);
    }

    #[test]
    fn a_new_state_leaves_the_old_lines_and_says_so() {
        let old = "\ttrixie\t13.8\n\tforky\tOctober\n\
                   a\ttrixie\tpassed\t4\nb\ttrixie\tpassed\t5\na\tforky\tpassed\t6\n";
        let new = "b\ttrixie\tpassed\t7\nb\tforky\tfailed\t8\n";
        let states = [("trixie", "13.9".to_owned()), ("forky", "October".to_owned())];
        let seen = Seen(merged(&Seen(old.to_owned()), new, &states));
        assert_eq!(seen.of("a"), ["not run", "4 s, older state", "6 s"]);
        assert_eq!(seen.of("b"), ["not run", "7 s", "FAILED"]);
        assert!(seen.is_of("trixie", "13.9") && !seen.is_of("trixie", "13.8"));
    }

    #[test]
    fn a_note_is_read_as_written() {
        for older in [false, true] {
            let line = Line { scenario: "a", release: "forky", passed: false, seconds: 3, older };
            assert_eq!(Line::read(&line.to_string()), Some(line));
        }
        assert_eq!(Line::read("\tforky\tforky of today, Linux 7"), None);
    }

    #[test]
    fn only_three_releases_are_known() {
        assert_eq!(known("forky").unwrap(), "forky");
        assert!(known("sid").unwrap_err().to_string().contains("bookworm, trixie, forky"));
    }
}
