//! The host command. What a subcommand does is in the module of its name.

#[macro_use]
mod output;
mod args;
mod build;
mod carries;
mod changes;
mod clone;
mod docs;
mod explain;
mod failure;
mod image;
mod interrupted;
mod iso;
mod list;
mod medium;
mod menus;
mod programs;
mod pxe;
mod share;
mod standins;
mod r#try;

use std::process::ExitCode;

fn main() -> ExitCode {
    let given: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let done = match clone::called(&given) {
        Some(done) => done,
        None => match args::parse(given) {
            Err(early) => early.end(),
            Ok(args::Command::Build(what)) => build::run(&what),
            Ok(args::Command::Docs(what)) => docs::run(&what),
            Ok(args::Command::Iso(what)) => iso::run(&what),
            Ok(args::Command::Pxe(what)) => pxe::run(&what),
            Ok(args::Command::Clone(what)) => clone::run(&what.words),
            Ok(args::Command::Image(what)) => image::run(&what),
            Ok(args::Command::Share(what)) => share::run(&what),
            Ok(args::Command::Try(what)) => r#try::run(&what),
            Ok(args::Command::Explain(what)) => explain::run(&what),
        },
    };
    output::finish(done)
}
