//! Golden node and receivers: the cloning programs under one roof, and under
//! their old names when a link of that name points here.

mod adapt;
mod chunks;
mod copying;
mod desc;
mod dolly;
mod dollyplus;
mod files;
pub mod flags;
mod foreign;
mod image;
mod install;
mod ka;
mod layout;
mod map;
mod net;
mod p2v;
mod prepare;
mod progress;
mod report;
mod room;
mod seats;
mod shrink;
mod store;
mod tools;
mod udp;
mod world;

use crate::failure::Failure;
use flags::{Given, Program};
use std::ffi::OsString;
use std::path::Path;

impl From<clone::Error> for Failure {
    fn from(e: clone::Error) -> Self {
        Self::Failed(e.to_string())
    }
}

pub type Run = fn(&Given) -> Result<(), Failure>;

/// All programs: names, grammar, what runs.
pub static PROGRAMS: &[(&[&str], &Program, Run)] = &[
    (&["send"], &chunks::SEND, chunks::send),
    (&["receive"], &chunks::RECEIVE, chunks::receive),
    (&["source"], &chunks::SOURCE, chunks::source),
    (&["target"], &chunks::TARGET, chunks::target),
    (&["save"], &image::SAVE, image::save),
    (&["restore"], &image::RESTORE, image::restore),
    (&["dolly"], &dolly::DOLLY, dolly::run),
    (&["dollyS"], &dollyplus::SERVER, dollyplus::send),
    (&["dollyC"], &dollyplus::CLIENT, dollyplus::receive),
    (&["ka-d-server"], &ka::SERVER, ka::send),
    (&["ka-d-client"], &ka::CLIENT, ka::receive),
    (&["prepare"], &prepare::PREPARE, prepare::prepare),
    (&["ka-d"], &prepare::KA_D, prepare::serve),
    (&["ka-d.sh"], &prepare::KA_D_SH, prepare::old_script),
    (&["ka-d-session", "ka-d-session.sh"], &prepare::SESSION, prepare::session),
    (&["install"], &install::INSTALL, install::run),
    (&["adapt"], &adapt::ADAPT, adapt::run),
    (&["shrink"], &shrink::SHRINK, shrink::run),
    (&["tools"], &tools::TOOLS, tools::run),
    (&["clone_script"], &room::SCRIPT, room::run),
    (&["fdisk_to_desc"], &desc::FDISK_TO_DESC, desc::run),
    (&["map"], &map::MAP, map::run),
    (&["p2v-server"], &p2v::P2V_SERVER, p2v::run),
    (&["udp-sender", "udp-send"], &udp::SENDER, udp::send),
    (&["udp-receiver", "udp-receive"], &udp::RECEIVER, udp::receive_run),
];

/// Names too common for a link of that name to mean these.
const NEW: [&str; 13] = [
    "send",
    "receive",
    "source",
    "target",
    "save",
    "restore",
    "prepare",
    "install",
    "adapt",
    "shrink",
    "tools",
    "map",
    "p2v-server",
];

/// Whether a link of this name to the command runs the clone program.
pub fn is_link(name: &str) -> bool {
    !NEW.contains(&name)
}

/// Runs the program that was called by its old name, or as `bellwether clone
/// NAME`; nothing when it was neither.
pub fn called(args: &[OsString]) -> Option<Result<(), Failure>> {
    let own = Path::new(args.first()?).file_name()?.to_str()?;
    let text = |args: &[OsString]| -> Result<Vec<String>, Failure> {
        args.iter()
            .map(|a| {
                a.clone()
                    .into_string()
                    .map_err(|a| Failure::Usage(format!("{} is not UTF-8", a.display())))
            })
            .collect()
    };
    let old = |p: &&(&[&str], &Program, Run)| p.0.contains(&own) && is_link(own);
    if let Some(program) = PROGRAMS.iter().find(old) {
        return Some(text(args.get(1..)?).and_then(|args| start(program, &args)));
    }
    if args.get(1)? != "clone" {
        return None;
    }
    Some(text(args.get(2..)?).and_then(|args| run(&args)))
}

/// Runs `bellwether clone` with these words.
pub fn run(words: &[String]) -> Result<(), Failure> {
    let Some((name, rest)) = words.split_first() else { return Err(Failure::Usage(list())) };
    if name == "--help" || name == "help" || name == "-h" {
        println!("{}", list());
        return Ok(());
    }
    match PROGRAMS.iter().find(|p| p.0.contains(&name.as_str())) {
        Some(program) => start(program, rest),
        None => Err(Failure::Usage(format!("there is no clone command '{name}'\n{}", list()))),
    }
}

fn start(program: &(&[&str], &'static Program, Run), args: &[String]) -> Result<(), Failure> {
    match program.1.parse(args)? {
        Some(given) => {
            if let Some(extra) = given.rest.first().filter(|_| program.1.rest.is_empty()) {
                return Err(Failure::Usage(format!(
                    "{}: unexpected argument '{extra}'",
                    program.1.name
                )));
            }
            (program.2)(&given)
        }
        None => Ok(()),
    }
}

fn list() -> String {
    let mut text = "bellwether clone COMMAND [options]; COMMAND --help tells more:".to_owned();
    for (_, program, _) in PROGRAMS {
        text += &format!("\n{}", flags::item(program.name, program.about, 17));
    }
    text
}
