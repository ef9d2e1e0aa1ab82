//! `cargo xtask fuzz`: libFuzzer on a stable toolchain.
//!
//! The coverage that libFuzzer steers by is put in by LLVM's own passes, which
//! stable rustc lets through; only the sanitizers would need nightly. The targets
//! are in `fuzz/src/lib.rs`, a crate outside the workspace, because libFuzzer
//! wants a C++ compiler, which nothing else here does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use argh::FromArgs;
use qemu_tests::{Error, Result, workspace};

use crate::night;
use crate::tools::run;

/// Throw made-up input at everything that reads bytes from outside.
/// For instance: cargo xtask fuzz dhcp-message --seconds 600
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "fuzz")]
pub struct Fuzz {
    /// one target instead of all, one after the other
    #[argh(positional)]
    target: Option<String>,

    /// how long each target runs (60)
    #[argh(option, default = "60")]
    seconds: u32,

    /// run the target on this file only, as after a crash
    #[argh(option)]
    input: Option<PathBuf>,

    /// print the names of the targets and end
    #[argh(switch)]
    list: bool,

    /// run all targets in turn until --executions inputs were run over all nights; an
    /// interrupted one goes on where it ended. `target/fuzz/night` has the counts
    #[argh(switch)]
    night: bool,

    /// how many inputs a night runs (1000000000)
    #[argh(option, default = "1_000_000_000")]
    executions: u64,

    /// how many targets run at the same time at night (one for each core)
    #[argh(option)]
    jobs: Option<usize>,
}

/// Edge coverage as libFuzzer reads it: counters, where they are, comparisons.
const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

impl Fuzz {
    /// Builds the fuzzer and runs it; an error when a target found something.
    pub fn run(self) -> Result<()> {
        let mut names = targets()?;
        if self.list {
            names.iter().for_each(|name| println!("{name}"));
            return Ok(());
        }
        if let Some(target) = &self.target {
            names.retain(|name| name == target);
        }
        if names.is_empty() {
            return Err(Error::Input("no such target; --list names them".to_owned()));
        }
        if self.input.is_some() && self.target.is_none() {
            return Err(Error::Input("--input needs a target before it".to_owned()));
        }
        let fuzzer = build()?;
        if self.night {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let jobs = self.jobs.unwrap_or(cores);
            let command = |name: &str, time: Duration| command(&fuzzer, name, time);
            return night::run(&names, self.executions, jobs, &home().join("night"), &command);
        }
        let mut found = Vec::new();
        for name in &names {
            println!("== {name}");
            if !self.passes(&fuzzer, name)? {
                found.push(name.as_str());
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        Err(Error::Input(format!("input that breaks something: {}", found.join(", "))))
    }

    /// Runs one target.
    fn passes(&self, fuzzer: &Path, name: &str) -> Result<bool> {
        let mut command = match &self.input {
            Some(input) => {
                let mut command = on(fuzzer, name);
                command.arg(input);
                command
            }
            None => command(fuzzer, name, Duration::from_secs(self.seconds.into()))?,
        };
        let status = command.status().map_err(Error::at("start", fuzzer))?;
        Ok(status.success())
    }
}

/// A fuzzer on one target.
fn on(fuzzer: &Path, name: &str) -> Command {
    let mut command = Command::new(fuzzer);
    command.env("FUZZ_TARGET", name).args(["-timeout=10", "-rss_limit_mb=1024"]);
    command
}

/// The same for so long, on the inputs that are known.
fn command(fuzzer: &Path, name: &str, time: Duration) -> Result<Command> {
    let grown = home().join("corpus").join(name);
    let crashes = home().join("crashes");
    for dir in [&grown, &crashes] {
        fs::create_dir_all(dir).map_err(Error::at("make", dir))?;
    }
    let prefix = crashes.join(format!("{name}-"));
    let mut command = on(fuzzer, name);
    command
        .arg(format!("-max_total_time={}", time.as_secs()))
        .arg(format!("-artifact_prefix={}", prefix.display()))
        // The first directory takes what is new; the seeds stay as they are.
        .args([grown, seeds().join(name)]);
    Ok(command)
}

/// What the workspace's checks do, for this crate outside of it; its tests replay
/// the corpus, without libFuzzer.
pub fn check() -> Result<()> {
    cargo(&["fmt", "--check"], &workspace::target(), "")?;
    let clippy = ["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"];
    cargo(&clippy, &workspace::target(), "")?;
    cargo(&["test", "--quiet"], &workspace::target(), "")
}

/// Compiles the fuzzer; gives its path.
fn build() -> Result<PathBuf> {
    let host = host()?;
    // A named target keeps the flags away from build scripts and proc-macros.
    let words = ["build", "--quiet", "--release", "--features", "libfuzzer"];
    cargo(&[&words[..], &["--target", &host]].concat(), &home(), COVERAGE)?;
    Ok(home().join(host).join("release/fuzz"))
}

/// Runs cargo on the crate with the targets.
fn cargo(words: &[&str], target_dir: &Path, rustflags: &str) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(words).current_dir(source()).env("CARGO_TARGET_DIR", target_dir);
    if !rustflags.is_empty() {
        command.env("RUSTFLAGS", rustflags);
    }
    run(&mut command)
}

/// The toolchain's own target triple.
pub fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().map_err(Error::io("start rustc"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| Error::Input("rustc -vV names no host".to_owned()))
}

/// Every target has a directory of seeds; a test in the crate sees to it.
fn targets() -> Result<Vec<String>> {
    let seeds = seeds();
    let entries = fs::read_dir(&seeds).map_err(Error::at("read", &seeds))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    Ok(names)
}

fn source() -> PathBuf {
    workspace::root().join("fuzz")
}

fn seeds() -> PathBuf {
    source().join("corpus")
}

/// Built with other flags than everything else, so in a place of its own.
fn home() -> PathBuf {
    workspace::target().join("fuzz")
}
