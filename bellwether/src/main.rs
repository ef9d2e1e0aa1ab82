//! The host command. What a subcommand does is in the module of its name.

mod args;
mod build;
mod carries;
mod clone;
mod docs;
mod explain;
mod imaging;
mod list;
mod medium;
mod menus;
mod output;
mod share;
mod trial;

use std::process::ExitCode;

/// How a command ended badly. The exit codes are part of the contract with
/// scripts: 0 done, 1 failed, 2 wrong usage.
#[derive(Debug)]
enum Failure {
    /// It was asked for something that makes no sense.
    Usage(String),
    /// It could not be done.
    Failed(String),
}

impl From<cpio_builder::error::Error> for Failure {
    fn from(e: cpio_builder::error::Error) -> Self {
        Self::Failed(e.to_string())
    }
}

fn main() -> ExitCode {
    let given: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let done = match clone::called(&given) {
        Some(done) => done,
        None => match args::parse(given) {
            Err(early) => return early.end(),
            Ok(args::Command::Build(what)) => build::run(&what),
            Ok(args::Command::Docs(what)) => docs::run(&what),
            Ok(args::Command::Iso(what)) => medium::iso(&what),
            Ok(args::Command::Pxe(what)) => medium::pxe(&what),
            Ok(args::Command::Clone(what)) => clone::run(&what.words),
            Ok(args::Command::Image(what)) => imaging::run(&what),
            Ok(args::Command::Share(what)) => share::run(&what),
            Ok(args::Command::Try(what)) => trial::run(&what),
            Ok(args::Command::Explain(what)) => return explain::run(&what),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(why)) => {
            eprintln!("bellwether: {why}");
            ExitCode::from(1)
        }
        Err(Failure::Usage(why)) => {
            eprintln!("bellwether: {why}");
            ExitCode::from(2)
        }
    }
}
