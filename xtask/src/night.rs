//! `cargo xtask fuzz --night`: every target in turn until so many inputs were run over all
//! of them. What was run is written down after each slice, so that an interrupted night
//! goes on where it ended.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use qemu_tests::{Error, Result};

/// How long a target runs before the next one's turn.
const SLICE: Duration = Duration::from_secs(30);

/// What was run of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    name: String,
    executions: u64,
    millis: u64,
    findings: u64,
}

/// All rows, with the file that keeps them.
struct Ledger<'a> {
    file: &'a Path,
    rows: Vec<Row>,
    /// Targets that run now.
    busy: Vec<String>,
}

impl Ledger<'_> {
    fn total(&self) -> u64 {
        self.rows.iter().map(|row| row.executions).sum()
    }

    /// The target that ran least, so that each gets the same time.
    fn next(&mut self) -> Option<String> {
        let free = self.rows.iter().filter(|row| !self.busy.contains(&row.name));
        let name = free.min_by_key(|row| row.millis)?.name.clone();
        self.busy.push(name.clone());
        Some(name)
    }

    fn add(&mut self, slice: &Row) -> Result<()> {
        self.busy.retain(|name| *name != slice.name);
        if let Some(row) = self.rows.iter_mut().find(|row| row.name == slice.name) {
            row.executions += slice.executions;
            row.millis += slice.millis;
            row.findings += slice.findings;
        }
        // A power cut leaves the old file or the new one.
        let beside = self.file.with_extension("new");
        fs::write(&beside, write(&self.rows)).map_err(Error::at("write", &beside))?;
        fs::rename(&beside, self.file).map_err(Error::at("replace", self.file))
    }
}

fn write(rows: &[Row]) -> String {
    rows.iter().fold(String::new(), |mut text, row| {
        let _ = writeln!(text, "{} {} {} {}", row.name, row.executions, row.millis, row.findings);
        text
    })
}

fn read(text: &str) -> Vec<Row> {
    let row = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next()?.to_owned();
        let mut number = || words.next()?.parse().ok();
        Some(Row { name, executions: number()?, millis: number()?, findings: number()? })
    };
    text.lines().filter_map(row).collect()
}

/// Runs `names` until `goal` inputs were run, counting those that `file` knows of, `jobs`
/// at a time. `command` makes the command for a target and the directory of its findings.
///
/// # Errors
/// [`Error::Input`] when a target found something, in this night or before;
/// [`Error::Io`] when a fuzzer does not start or the file cannot be written.
pub fn run(
    names: &[String],
    goal: u64,
    jobs: usize,
    file: &Path,
    command: &(dyn Fn(&str, Duration) -> Result<Command> + Sync),
) -> Result<()> {
    let known = read(&fs::read_to_string(file).unwrap_or_default());
    let row = |name: &String| {
        let empty = || Row { name: name.clone(), executions: 0, millis: 0, findings: 0 };
        known.iter().find(|row| row.name == *name).cloned().unwrap_or_else(empty)
    };
    let ledger = Ledger { file, rows: names.iter().map(row).collect(), busy: Vec::new() };
    println!("{} of {goal} inputs were run before", ledger.total());
    let ledger = Mutex::new(ledger);
    let lock = || ledger.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || -> Result<()> {
        loop {
            let Some(name) = Some(lock()).filter(|l| l.total() < goal).and_then(|mut l| l.next())
            else {
                return Ok(());
            };
            let slice = slice(&name, command(&name, SLICE)?)?;
            let mut ledger = lock();
            ledger.add(&slice)?;
            println!("{:>14} of {goal}  {name}: {}", ledger.total(), slice.executions);
        }
    };
    let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.clamp(1, names.len())).map(|_| scope.spawn(work)).collect();
        let ended = || Err(Error::Input("a worker of the night panicked".to_owned()));
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| ended())).collect()
    });
    let ledger = lock();
    print!("{}", table(&ledger.rows));
    outcomes.into_iter().collect::<Result<()>>()?;
    let found: Vec<&str> =
        ledger.rows.iter().filter(|row| row.findings > 0).map(|row| row.name.as_str()).collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::Input(format!(
        "input that breaks something: {}; when it is mended, remove {}",
        found.join(", "),
        file.display()
    )))
}

/// Runs one target for a while.
fn slice(name: &str, mut command: Command) -> Result<Row> {
    let start = Instant::now();
    let output = command.arg("-print_final_stats=1").output().map_err(Error::io("start fuzz"))?;
    let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let text = String::from_utf8_lossy(&output.stderr);
    let findings = u64::from(!output.status.success());
    if findings > 0 {
        println!("{name}: {}\n{}", output.status, tail(&text, 30));
    }
    // After a finding there are no statistics: the last line with a count has to do.
    let executions = executions(&text);
    Ok(Row { name: name.to_owned(), executions, millis, findings })
}

/// How many inputs libFuzzer says that it ran: in its statistics, or, where a finding ended
/// it before, in the last of its lines (`#4096 pulse …`).
fn executions(text: &str) -> u64 {
    let last = |prefix: &str| {
        let lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
        lines.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).next_back()
    };
    last("stat::number_of_executed_units:").or_else(|| last("#")).unwrap_or(0)
}

fn tail(text: &str, lines: usize) -> String {
    let skip = text.lines().count().saturating_sub(lines);
    text.lines().skip(skip).collect::<Vec<_>>().join("\n")
}

/// The rows, slowest first.
fn table(rows: &[Row]) -> String {
    let rate = |row: &Row| row.executions.saturating_mul(1000) / row.millis.max(1);
    let mut rows = rows.to_vec();
    rows.sort_by_key(rate);
    let mut text =
        format!("{:<22}{:>14}{:>10}{:>12}\n", "target", "inputs", "a second", "findings");
    for row in &rows {
        let _ = writeln!(
            text,
            "{:<22}{:>14}{:>10}{:>12}",
            row.name,
            row.executions,
            rate(row),
            row.findings
        );
    }
    let total: u64 = rows.iter().map(|row| row.executions).sum();
    let millis: u64 = rows.iter().map(|row| row.millis).sum();
    let _ = writeln!(text, "{:<22}{total:>14}, {} core-seconds", rows.len(), millis / 1000);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_either_end() {
        let whole = "#2\tINITED\n#4096\tpulse cov: 1\nDone\nstat::number_of_executed_units: 5000\n";
        assert_eq!(executions(whole), 5000);
        assert_eq!(executions("#2\tINITED\n#4096\tpulse cov: 1\n==1== ERROR: libFuzzer"), 4096);
        assert_eq!(executions("no such target"), 0);
    }

    /// A night in three slices, one of which finds something; the next night goes on.
    #[test]
    fn a_night_goes_on_where_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("night");
        let names = ["a".to_owned(), "b".to_owned()];
        let command = |name: &str, _: Duration| {
            let mut command = Command::new("sh");
            let code = u8::from(name == "b");
            command.args([
                "-c",
                &format!("echo 'stat::number_of_executed_units: 7' >&2; exit {code}"),
            ]);
            Ok(command)
        };
        let ended = run(&names, 14, 1, &file, &command);
        assert!(ended.unwrap_err().to_string().contains(": b;"));
        let rows = read(&fs::read_to_string(&file).unwrap());
        let of = |name: &str| rows.iter().find(|row| row.name == name).unwrap();
        assert_eq!(rows.iter().map(|row| row.executions).sum::<u64>(), 14);
        assert_eq!((of("a").findings, of("b").findings), (0, 1));
        // Its goal is reached: nothing is run.
        let never = |_: &str, _: Duration| -> Result<Command> { panic!("was run") };
        assert!(run(&names, 14, 2, &file, &never).is_err());
        assert_eq!(read(&write(&rows)), rows);
        assert!(table(&rows).contains("14, "));
    }
}
