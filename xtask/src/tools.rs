//! Other programs that commands here run, and cargo's subcommands that few of them need.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use qemu_tests::{Error, Result, workspace};

/// Runs a command with its output on the terminal.
///
/// # Errors
/// [`Error::Io`] when it does not start, [`Error::Command`] when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let shown = words.join(" ");
    let status = command.status().map_err(Error::io(format!("start {shown}")))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Command { command: shown, status: status.to_string(), output: String::new() })
}

/// The path of a cargo subcommand, say `cargo-deny`. Where it is not installed, it is built
/// into the target directory, which takes minutes.
///
/// # Errors
/// [`Error::Command`] when cargo cannot install it.
pub fn cargo_tool(name: &str) -> Result<PathBuf> {
    let there = |program: &PathBuf| {
        let word = name.trim_start_matches("cargo-");
        let mut command = Command::new(program);
        command.args([word, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let root = workspace::target().join("tools");
    let built = root.join("bin").join(name);
    for program in [PathBuf::from(name), built.clone()] {
        if there(&program) {
            return Ok(program);
        }
    }
    println!("installing {name} into {}", root.display());
    let mut cargo = Command::new("cargo");
    cargo.args(["install", "--quiet", "--locked", "--root"]).arg(&root).arg(name);
    run(&mut cargo)?;
    Ok(built)
}
