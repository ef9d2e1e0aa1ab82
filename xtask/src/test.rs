//! `cargo xtask test`: everything that must hold before a change is kept.

use std::process::Command;
use std::time::{Duration, Instant};

use argh::FromArgs;
use qemu_tests::assets::Assets;
use qemu_tests::release::{self, RELEASES, Seen};
use qemu_tests::{Error, Result, packages, workspace};

use crate::demo::Demo;
use crate::docs::Docs;
use crate::reproducible::Reproducible;
use crate::sizes::{self, Sizes};
use crate::unsafety::UnsafeCheck;
use crate::{status, structure, tools};

/// All checks and tests.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "test")]
pub struct Test {
    /// without machines: no root, no packages, minutes less
    #[argh(switch)]
    quick: bool,

    /// with the scenarios that take minutes each or need much more than the others:
    /// those called sweep_… and marked as ignored
    #[argh(switch)]
    sweep: bool,

    /// one step alone, by its name in the summary
    #[argh(option)]
    only: Option<String>,

    /// the release of Debian whose kernels, live systems and servers all scenarios have, sweeps
    /// as well: bookworm, trixie or forky. Otherwise each run takes another one, for those that
    /// have passed there
    #[argh(option)]
    release: Option<String>,

    /// run the scenarios on every release
    #[argh(switch)]
    all_releases: bool,

    /// with a release: run also what has passed on this state of it
    #[argh(switch)]
    again: bool,

    /// of the scenarios only those whose names have this in them, as `nfs::`
    #[argh(option)]
    part: Option<String>,
}

type Step = (&'static str, fn() -> Result<()>);

/// First: some unit tests run programs that come with them.
const PACKAGES: &[Step] = &[("packages", packages::ensure_for_tests)];

const QUICK: &[Step] = &[
    ("tools", packages::tools),
    ("rustfmt", || cargo(&["fmt", "--all", "--check"])),
    ("clippy", || {
        cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
    }),
    ("clippy, scenarios", || {
        let features = "qemu-tests/machines,bellwether/rooms";
        let words = ["clippy", "--quiet", "-p", "qemu-tests", "-p", "bellwether", "--all-targets"];
        cargo(&[&words[..], &["--features", features, "--", "-D", "warnings"]].concat())
    }),
    ("clippy, /init itself", || {
        let words = ["clippy", "--quiet", "-p", "init", "--bin", "init", "--profile", "init"];
        cargo(&[&words[..], &["--features", "freestanding", "--", "-D", "warnings"]].concat())
    }),
    ("clippy, the small /init", || {
        let words = ["clippy", "--quiet", "-p", "init", "--bin", "init", "--profile", "init"];
        let small = ["--no-default-features", "--features", "freestanding"];
        cargo(&[&words[..], &small, &["--", "-D", "warnings"]].concat())
    }),
    ("documentation", || cargo(&["doc", "--quiet", "--workspace", "--no-deps"])),
    ("no circles of modules", structure::no_circles),
    ("plain words", crate::words::check),
    ("paths in pages", crate::paths::check),
    ("generated pages", || Docs { check: true }.run()),
    ("unit tests", || cargo(&["test", "--quiet", "--workspace", "--no-fail-fast"])),
    ("no libc in /init", no_libc_in_init),
    ("supply chain", crate::deny::check),
    ("/init small and static", sizes::check_init),
    ("fuzz targets", crate::fuzz::check),
];

const MACHINES: &[Step] = &[
    ("sizes", || Sizes {}.run()),
    ("jail of share", || {
        packages::ensure_all(packages::FOR_JAIL)?;
        let words = ["test", "-p", "bellwether", "--features", "rooms"];
        cargo(&[&words[..], &["--test", "jail"]].concat())?;
        // They wait for each other's answers, and hardly compute.
        cargo(&[&words[..], &["--test", "dhcp", "--", "--test-threads=16"]].concat())
    }),
    ("p2v-server", || {
        packages::ensure_all(packages::FOR_P2V)?;
        cargo(&["test", "-p", "bellwether", "--features", "rooms", "--test", "p2v_server"])
    }),
    ("demo", || Demo { once: true }.run()),
];

const SWEEPS: &[Step] = &[
    ("clone rooms", || {
        packages::ensure_all(packages::FOR_ROOMS)?;
        let words = ["test", "-p", "bellwether", "--features", "rooms", "--test", "clone_live"];
        cargo(&words)
    }),
    ("cargo deny", crate::deny::check_by_cargo_deny),
    ("reproducible", || Reproducible {}.run()),
    ("unsafe code, watched", || UnsafeCheck {}.run()),
    ("used blocks of file systems", || {
        packages::ensure_all(packages::FOR_TABLES)?;
        let words = ["test", "-p", "bellwether", "--features", "rooms", "--test", "used_blocks"];
        let words = [&words[..], &["--test", "adapt", "--", "--ignored", "sweep_"]].concat();
        cargo(&words)
    }),
];

/// Groups of scenarios, and what the program that has them is told.
const SCENARIOS: Group = ("scenarios", &["--test-threads=4"]);
const SWEEPS_OF_SCENARIOS: &[Group] = &[
    ("faults", &["--test-threads=3", "--ignored", "faults::every_"]),
    ("sweeps", &["--test-threads=3", "--ignored", "sweep_"]),
];

type Group = (&'static str, &'static [&'static str]);

impl Test {
    /// The releases whose guests the scenarios boot.
    fn releases(&self) -> Result<Vec<&'static str>> {
        match &self.release {
            _ if self.all_releases => Ok(RELEASES.to_vec()),
            Some(name) => Ok(vec![release::known(name)?]),
            None => Ok(vec![release::by_turn()]),
        }
    }

    /// Runs every step, also after a failure, and prints a summary.
    pub fn run(self) -> Result<()> {
        let (packages, machines) =
            if self.quick { (&[][..], &[][..]) } else { (PACKAGES, MACHINES) };
        let sweeps = if self.sweep { SWEEPS } else { &[] };
        let releases = if self.quick { Vec::new() } else { self.releases()? };
        let plain = |&(name, step): &Step| (name, name.to_owned(), Run::Plain(step));
        let turn = self.release.is_none() && !self.all_releases;
        let variable = if turn { release::TURN } else { release::CHOSEN };
        let again = if turn || self.again { "yes" } else { "no" };
        let on = |&(name, words): &Group, release: &'static str| {
            let environment = vec![(variable, release), (release::AGAIN, again)];
            (name, format!("{name} on {release}"), Run::Scenarios(words, environment))
        };
        let mut scenarios: Vec<_> =
            releases.iter().map(|release| on(&SCENARIOS, release)).collect();
        if self.sweep && turn {
            let here =
                |&(name, words): &Group| (name, name.to_owned(), Run::Scenarios(words, Vec::new()));
            scenarios.extend(SWEEPS_OF_SCENARIOS.iter().map(here));
        } else if self.sweep {
            let all = releases.iter().flat_map(|release| {
                SWEEPS_OF_SCENARIOS.iter().map(move |group| on(group, release))
            });
            scenarios.extend(all);
        }
        let steps = packages.iter().chain(QUICK).chain(machines).map(plain);
        let steps = steps.chain(scenarios).chain(sweeps.iter().map(plain));
        let wanted = |step: &str| self.only.as_deref().is_none_or(|only| only == step);
        let mut failed = 0;
        let mut summary = Vec::new();
        for (_, name, run) in steps.filter(|(step, ..)| wanted(step)) {
            println!("== {name}");
            let start = Instant::now();
            let outcome = match run {
                Run::Plain(step) => step(),
                Run::Scenarios(words, environment) => {
                    // Sweeps have a part of their own.
                    let part = self.part.as_deref().filter(|_| words == SCENARIOS.1);
                    self::scenarios(words, part, &environment)
                }
            };
            summary.push((name.clone(), outcome.is_ok(), start.elapsed()));
            if let Err(error) = outcome {
                // Half an hour of steps that need them is no answer to that.
                if ["packages", "tools"].contains(&name.as_str()) {
                    return Err(error);
                }
                eprintln!("{name}: {error}");
                failed += 1;
            }
        }
        if !turn && !self.quick {
            release::keep(&states(&releases)?)?;
            println!("\n== releases\n{}", Seen::open().matrix(&status::matrix_rows()?));
        }
        println!("\n== summary");
        for (name, passed, took) in &summary {
            let verdict = if *passed { "ok" } else { "FAILED" };
            println!("{verdict:<8}{:>7.1} s  {name}", took.as_secs_f32());
        }
        let total: Duration = summary.iter().map(|(_, _, took)| *took).sum();
        println!("{:>15.1} s", total.as_secs_f32());
        println!("{} passed, {failed} failed", summary.len() - failed);
        match failed {
            0 if summary.is_empty() => Err(Error::Input("no step has that name".to_string())),
            0 => Ok(()),
            n => Err(Error::Input(format!("{n} of {} steps failed", summary.len()))),
        }
    }
}

/// A step, or the scenarios on a release of Debian.
#[derive(Debug)]
enum Run {
    Plain(fn() -> Result<()>),
    Scenarios(&'static [&'static str], Vec<(&'static str, &'static str)>),
}

/// Scenarios, after a line that says which state of a release it is; variables say
/// whether all of them run there.
fn scenarios(words: &[&str], part: Option<&str>, environment: &[(&str, &str)]) -> Result<()> {
    if let Some((_, release)) = environment.first() {
        println!("{}", Assets::of(release)?.state()?);
    }
    let first = ["test", "-p", "qemu-tests", "--features", "machines", "--test", "scenarios", "--"];
    let mut command = Command::new("cargo");
    command.envs(environment.iter().copied());
    run(command, &[&first[..], words, part.as_slice()].concat())
}

/// The state of each release.
fn states(releases: &[&'static str]) -> Result<Vec<(&'static str, String)>> {
    let state = |&release: &&'static str| Ok((release, Assets::of(release)?.state()?));
    releases.iter().map(state).collect()
}

/// Runs cargo with its output on the terminal.
fn cargo(words: &[&str]) -> Result<()> {
    run(Command::new("cargo"), words)
}

fn run(mut cargo: Command, words: &[&str]) -> Result<()> {
    cargo.args(words).current_dir(workspace::root());
    tools::run(cargo.env("RUSTDOCFLAGS", "-D warnings -D missing_docs"))
}

/// libc links into a program without a C runtime and crashes it at run time, so it
/// must not be in the tree at all: asking for it by name has to find nothing.
fn no_libc_in_init() -> Result<()> {
    let tree = Command::new("cargo")
        .args(["tree", "-p", "init", "-e", "normal", "--features", "freestanding"])
        .args(["--target", "x86_64-unknown-linux-gnu", "--prefix", "none", "--format", "{p}"])
        .current_dir(workspace::root())
        .output()
        .map_err(Error::io("start cargo"))?;
    let text = String::from_utf8_lossy(&tree.stdout);
    if !tree.status.success() || !text.contains("rustix ") {
        return Err(Error::Input(format!(
            "cargo tree does not show init's dependencies:\n{}",
            String::from_utf8_lossy(&tree.stderr)
        )));
    }
    match text.lines().find(|line| line.starts_with("libc ")) {
        None => Ok(()),
        Some(line) => Err(Error::Input(format!(
            "{line} is in init's tree: see `cargo tree -p init -e normal --features \
             freestanding -i libc`"
        ))),
    }
}
