//! What people and CI type: `cargo xtask …` and `cargo demo`.

mod bench;

use std::process::ExitCode;

use argh::FromArgs;

/// Bellwether's own tools: tests, benches, the demo.
#[derive(FromArgs, Debug)]
struct Xtask {
    #[argh(subcommand)]
    task: Task,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Task {
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let Xtask { task } = argh::from_env();
    let outcome = match task {
        Task::Bench(task) => task.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
