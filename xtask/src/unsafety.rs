//! `cargo xtask unsafe-check`: the tests of the crates with `unsafe` code, watched.

use std::process::Command;

use argh::FromArgs;
use qemu_tests::{Result, workspace};

use crate::tools::run;

/// Run the tests of rt and sys where undefined behaviour shows: by Miri, by AddressSanitizer
/// and by valgrind's memcheck, each where it is installed.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "unsafe-check")]
pub struct UnsafeCheck {}

/// The crates that may have `unsafe` code.
const ROOMS: [&str; 4] = ["-p", "rt", "-p", "sys"];

/// Crates without any whose tests call those rooms with what the system says.
const CALLERS: [&str; 4] = ["-p", "coldplug", "-p", "overlay"];

/// A watcher: how it is called, whether it is there, what it runs, and what it sees.
struct Watcher {
    name: &'static str,
    /// A command that succeeds where it is installed.
    there: &'static [&'static str],
    run: fn() -> Result<()>,
    sees: &'static str,
}

const WATCHERS: &[Watcher] = &[
    Watcher {
        name: "Miri",
        there: &["cargo", "+nightly", "miri", "--version"],
        run: miri,
        sees: "every access of the tests that make no system call: bounds, alignment, \
               aliasing, uninitialised bytes. Not: inline assembly",
    },
    Watcher {
        name: "AddressSanitizer",
        there: &["cargo", "--version"],
        run: address_sanitizer,
        sees: "accesses outside of heap, stack and static objects, use after free; system \
               calls included. Not: aliasing, uninitialised bytes",
    },
    Watcher {
        name: "memcheck",
        there: &["valgrind", "--version"],
        run: memcheck,
        sees: "uninitialised bytes in branches and in system calls' arguments, accesses \
               outside of heap objects. Not: the stack",
    },
];

impl UnsafeCheck {
    /// Runs all that are there.
    ///
    /// # Errors
    /// That of the first that finds something.
    pub fn run(self) -> Result<()> {
        for watcher in WATCHERS {
            let (program, words) = watcher.there.split_first().unwrap_or((&"false", &[]));
            let there = Command::new(program).args(words).output();
            if !there.is_ok_and(|output| output.status.success()) {
                println!("== {}: not installed ({})", watcher.name, watcher.there.join(" "));
                continue;
            }
            println!("== {}: {}", watcher.name, watcher.sees);
            (watcher.run)()?;
        }
        Ok(())
    }
}

fn miri() -> Result<()> {
    let mut cargo = cargo("miri", &["+nightly", "miri", "test", "--quiet", "--lib"]);
    cargo.args(ROOMS).env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", "8");
    // Their tests make system calls, which Miri does not know.
    run(&mut without(cargo, &["clock::", "fault::", "file::", "process::", "waiting::"]))
}

/// The sanitizer's runtime comes with stable Rust; the flag that turns it on does not, so
/// the compiler is told that it may take it.
fn address_sanitizer() -> Result<()> {
    let host = crate::fuzz::host()?;
    let mut cargo = cargo("asan", &["test", "--quiet", "--lib", "--target", &host]);
    cargo.args(ROOMS).args(CALLERS);
    cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address");
    // The sanitizer takes faults that are made on purpose for its own.
    run(&mut without(cargo, &["fault::"]))
}

fn memcheck() -> Result<()> {
    let host = crate::fuzz::host()?;
    let runner = format!("CARGO_TARGET_{}_RUNNER", host.to_uppercase().replace('-', "_"));
    let mut cargo = cargo("", &["test", "--quiet", "--lib"]);
    cargo.args(ROOMS).args(CALLERS);
    cargo.env(runner, "valgrind --quiet --error-exitcode=9 --fair-sched=yes");
    // So does memcheck, whose process and its threads are not the test's own in /proc.
    run(&mut without(cargo, &["fault::", "process::", "waiting::"]))
}

/// Cargo with a target directory of its own, since other flags build everything anew.
fn cargo(place: &str, words: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(words).current_dir(workspace::root());
    cargo.env("CARGO_TARGET_DIR", workspace::target().join(place));
    cargo
}

/// Leaves the tests of some modules out.
fn without(mut cargo: Command, modules: &[&str]) -> Command {
    cargo.arg("--").args(modules.iter().flat_map(|module| ["--skip", module]));
    cargo
}
