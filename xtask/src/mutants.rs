//! `cargo xtask mutants`: policy with one decision changed, and whether a test notices.
//!
//! cargo-mutants changes the files that `.cargo/mutants.toml` names, one place at a time, and
//! runs the tests of the crate. A mutant that survives is a check that could be taken out
//! without a test that fails.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use argh::FromArgs;
use qemu_tests::{Error, Result, workspace};

use crate::tools;

/// Change the policy one place at a time and print which changes no test notices.
/// For instance: cargo xtask mutants init/src/pinning.rs
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "mutants")]
pub struct Mutants {
    /// files to change, instead of those that .cargo/mutants.toml names
    #[argh(positional)]
    files: Vec<String>,

    /// change this tree itself instead of a copy, which builds much faster: leave the tree
    /// alone meanwhile
    #[argh(switch)]
    in_place: bool,
}

/// cargo-mutants' lists, and what they are called here.
const FATES: [&str; 4] = ["caught", "timeout", "missed", "unviable"];

impl Mutants {
    /// Runs cargo-mutants and prints the table.
    ///
    /// # Errors
    /// [`Error::Input`] with every mutant that survived, or when there was none at all.
    pub fn run(self) -> Result<()> {
        let program = tools::cargo_tool("cargo-mutants")?;
        let place = workspace::target();
        let mut command = Command::new(&program);
        command.args(["mutants", "--no-shuffle", "--colors", "never", "--output"]).arg(&place);
        command.args(self.files.iter().flat_map(|file| ["--file", file]));
        if !self.files.is_empty() {
            // The file's own list would come on top.
            command.arg("--no-config");
        }
        if self.in_place {
            command.arg("--in-place");
        }
        command.args(["--", "--lib"]).current_dir(workspace::root());
        let status = command.status().map_err(Error::at("start", &program))?;
        // 2: some survived. 3: some ran into the time limit. The lists say which.
        if !matches!(status.code(), Some(0 | 2 | 3)) {
            let (command, output) = ("cargo mutants".to_owned(), String::new());
            return Err(Error::Command { command, status: status.to_string(), output });
        }
        let (table, missed) = table(&place.join("mutants.out"))?;
        print!("{table}");
        match missed.as_slice() {
            [] => Ok(()),
            missed => Err(Error::Input(format!("no test notices:\n{}", missed.join("\n")))),
        }
    }
}

/// Mutants by file and fate, and those that survived.
fn table(out: &Path) -> Result<(String, Vec<String>)> {
    let mut files: BTreeMap<String, [usize; FATES.len()]> = BTreeMap::new();
    let mut survived = Vec::new();
    for (number, fate) in FATES.iter().enumerate() {
        let list = out.join(format!("{fate}.txt"));
        let text = fs::read_to_string(&list).map_err(Error::at("read", &list))?;
        for mutant in text.lines() {
            let file = mutant.split(':').next().unwrap_or_default();
            if let Some(count) = files.entry(file.to_owned()).or_default().get_mut(number) {
                *count += 1;
            }
            if *fate == "missed" {
                survived.push(mutant.to_owned());
            }
        }
    }
    if files.is_empty() {
        return Err(Error::Input("no mutant was made: does the file hold a function?".to_owned()));
    }
    let mut text = format!("{:<32}", "file");
    for fate in ["killed", "timed out", "survived", "no program"] {
        let _ = write!(text, "{fate:>11}");
    }
    text.push('\n');
    for (file, counts) in &files {
        let _ = write!(text, "{file:<32}");
        for count in counts {
            let _ = write!(text, "{count:>11}");
        }
        text.push('\n');
    }
    Ok((text, survived))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_counts_by_file_and_names_the_survivors() {
        let dir = tempfile::tempdir().unwrap();
        let write =
            |fate: &str, text: &str| fs::write(dir.path().join(format!("{fate}.txt")), text);
        write("caught", "a.rs:1:1: replace f -> bool with true\na.rs:2:1: replace || with &&\n")
            .unwrap();
        write("missed", "b.rs:3:1: replace g -> bool with false in h\n").unwrap();
        write("timeout", "").unwrap();
        assert!(table(dir.path()).is_err(), "a list is missing");
        write("unviable", "").unwrap();
        let (text, survived) = table(dir.path()).unwrap();
        let row = |file: &str| text.lines().find(|line| line.starts_with(file)).unwrap();
        let numbers = |file| row(file).split_whitespace().skip(1).collect::<Vec<_>>().join(" ");
        assert_eq!((numbers("a.rs"), numbers("b.rs")), ("2 0 0 0".into(), "0 0 1 0".into()));
        assert_eq!(survived, ["b.rs:3:1: replace g -> bool with false in h"]);
    }
}
