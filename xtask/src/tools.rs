//! Cargo's subcommands by others that few commands here need.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use qemu_tests::{Error, Result, workspace};

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
    let status = cargo.status().map_err(Error::io("start cargo"))?;
    if status.success() {
        return Ok(built);
    }
    let command = format!("cargo install --locked {name}");
    Err(Error::Command { command, status: status.to_string(), output: String::new() })
}
