//! `cargo xtask docs`: the pages that are made from the code, so that they cannot
//! say anything else.

use std::process::Command;

use argh::FromArgs;
use qemu_tests::bench::kept;
use qemu_tests::{Error, Result, workspace};

use crate::marks::fill;
use crate::tools::run;
use crate::{status, structure};

/// Write the documentation that is made from the code.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "docs")]
pub struct Docs {
    /// write nothing, fail when a page is not what the code would make
    #[argh(switch)]
    pub check: bool,
}

/// A page's path from the workspace's root, and what makes it.
type Page = (&'static str, fn() -> Result<String>);

const PAGES: &[Page] = &[
    ("docs/command-line.md", command_line),
    ("docs/status.md", status::page),
    ("docs/faults.md", faults),
    ("docs/numbers.md", numbers),
    ("README.md", ratios),
    ("ARCHITECTURE.md", structure::page),
];

impl Docs {
    /// Writes or checks every page.
    pub fn run(self) -> Result<()> {
        for (name, make) in PAGES {
            let path = workspace::root().join(name);
            let (new, old) = (make()?, std::fs::read_to_string(&path).unwrap_or_default());
            if new == old {
                continue;
            }
            if self.check {
                return Err(Error::Input(format!("{name} is out of date: run cargo xtask docs")));
            }
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir).map_err(Error::at("make", dir))?;
            }
            std::fs::write(&path, new).map_err(Error::at("write", &path))?;
            println!("{name}");
        }
        // Its own unit test checks it: that program is not linked into this one.
        if self.check { Ok(()) } else { host_command() }
    }
}

/// The page about the host command, which writes it itself.
fn host_command() -> Result<()> {
    let words = ["run", "--quiet", "--package", "bellwether", "--", "docs", "--page"];
    let page = "docs/host-command.md";
    let mut cargo = Command::new("cargo");
    cargo.args(words).arg(page).current_dir(workspace::root());
    run(&mut cargo)
}

fn faults() -> Result<String> {
    let intro = "<!-- Made by `cargo xtask docs` from the rows of qemu-tests/src/faults and from what \
                 their last run has shown, qemu-tests/faults.tsv. -->\n\
                 # Faults, and what the machine makes of them\n\n\
                 Each row is a machine of the laboratory with something wrong around it. The \
                 console's sentences are those of the last run, which ends with the live system, \
                 with the failure screen, or as the row says. `s` is the time from switching on to \
                 there under emulation, `silent` the longest time without a word on the console, \
                 both in seconds. Rows with *CI* run in every `cargo xtask test`; \
                 `cargo xtask test --sweep --only faults` runs all of them and keeps what they \
                 show.\n\n";
    Ok(format!("{intro}{}\n", qemu_tests::faults::page()?))
}

fn numbers() -> Result<String> {
    fill("docs/numbers.md", "boot", &kept::page()?)
}

fn ratios() -> Result<String> {
    fill("README.md", "speed", &kept::ratio_page()?)
}

fn command_line() -> Result<String> {
    let intro = "<!-- Made by `cargo xtask docs` from the tables that /init reads lines by. -->\n\
                 # The kernel command line\n\n\
                 Every word that Bellwether knows, by the dialect whose word it is, with a line \
                 whose plan the tests hold it to, and a scenario of the laboratory that boots \
                 with it, where there is one. The dialect \
                 of a line follows from its words; `bw.dialect=` names one. \
                 `bellwether explain 'LINE'` says what a line will do.\n\n";
    let scenarios: Vec<String> =
        status::sources()?.iter().flat_map(std::fs::read_to_string).collect();
    Ok(format!("{intro}{}\n", cmdline::docs::tables(&scenarios).trim_end()))
}
