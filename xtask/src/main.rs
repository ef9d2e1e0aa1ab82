//! What people and CI type: `cargo xtask …` and `cargo demo`.

mod bench;
mod bench_clone;
mod bench_disk;
mod bench_room;
mod demo;
mod deny;
mod dist;
mod docs;
mod fuzz;
mod marks;
mod mutants;
mod night;
mod paths;
mod reproducible;
mod sizes;
mod status;
mod structure;
mod test;
mod tools;
mod unsafety;
mod words;

use std::process::ExitCode;

use argh::FromArgs;

/// Bellwether's own tools. For instance: cargo xtask test --quick
#[derive(FromArgs, Debug)]
struct Xtask {
    #[argh(subcommand)]
    task: Task,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Task {
    Demo(demo::Demo),
    Deny(deny::Deny),
    Dist(dist::Dist),
    Docs(docs::Docs),
    Test(test::Test),
    Bench(bench::Bench),
    Fuzz(fuzz::Fuzz),
    Mutants(mutants::Mutants),
    Reproducible(reproducible::Reproducible),
    Sizes(sizes::Sizes),
    UnsafeCheck(unsafety::UnsafeCheck),
}

fn main() -> ExitCode {
    let Xtask { task } = argh::from_env();
    let outcome = match task {
        Task::Demo(task) => task.run(),
        Task::Deny(task) => task.run(),
        Task::Dist(task) => task.run(),
        Task::Docs(task) => task.run(),
        Task::Test(task) => task.run(),
        Task::Bench(task) => task.run(),
        Task::Fuzz(task) => task.run(),
        Task::Mutants(task) => task.run(),
        Task::Reproducible(task) => task.run(),
        Task::Sizes(task) => task.run(),
        Task::UnsafeCheck(task) => task.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
