//! A row of the table of faults, and the run of it with a real machine.

use std::fmt;
use std::time::Duration;

use crate::assets::{Flavour, Profile};
use crate::lab::{Lab, noted};
use crate::machine::{Machine, MachineBuilder, Nic};
use crate::{Error, Result, secs};

/// A fault, and what the machine must make of it.
#[derive(Debug)]
pub struct Fault {
    /// Its name, and its scenario's after `fault-`.
    pub name: &'static str,
    /// What is wrong, for people.
    pub what: &'static str,
    /// The kernel command line; `{sha256}` stands for the whole image's digest.
    pub line: &'static str,
    /// Builds the room: the servers and the machine, which gets this line.
    pub room: for<'l> fn(&'l Lab, &str) -> Result<Room<'l>>,
    /// What the console says, in this order.
    pub says: &'static [&'static str],
    /// How it ends.
    pub ends: Ends,
    /// It takes seconds, and runs in CI.
    pub quick: bool,
}

/// How a boot ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// In the live system.
    Boots,
    /// In the live system, after the fault was mended.
    Mended,
    /// With the failure screen.
    Refuses,
    /// With a restart.
    Reboots,
    /// In the kernel, before the first program.
    Stops,
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ends::Boots => "boots",
            Ends::Mended => "boots when it is mended",
            Ends::Refuses => "failure screen",
            Ends::Reboots => "reboots",
            Ends::Stops => "the kernel stops",
        })
    }
}

/// Servers and the like: they do their work until they are dropped.
pub trait Stays {}

impl<T> Stays for T {}

/// What mends a fault; what it starts stays.
type Mend<'l> = Box<dyn FnOnce() -> Result<Box<dyn Stays + 'l>> + 'l>;

/// A machine that is about to start, and what is around it.
pub struct Room<'l> {
    machine: MachineBuilder<'l>,
    servers: Vec<Box<dyn Stays + 'l>>,
    mend: Option<Mend<'l>>,
    after: fn(&mut Machine) -> Result<()>,
}

impl fmt::Debug for Room<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("machine", &self.machine).finish_non_exhaustive()
    }
}

impl<'l> Room<'l> {
    /// This machine alone.
    pub fn of(machine: MachineBuilder<'l>) -> Room<'l> {
        // The root is there: its first program reads all of it.
        let after =
            |machine: &mut Machine| machine.run("cat /usr/bin/busybox >/dev/null").map(drop);
        Room { machine, servers: Vec::new(), mend: None, after }
    }

    /// With something that goes on until the end.
    #[must_use]
    pub fn with(mut self, server: impl Stays + 'l) -> Self {
        self.servers.push(Box::new(server));
        self
    }

    /// What mends the fault once the console has said what it must.
    #[must_use]
    pub fn mend<S: Stays + 'l>(mut self, mend: impl FnOnce() -> Result<S> + 'l) -> Self {
        self.mend = Some(Box::new(move || Ok(Box::new(mend()?))));
        self
    }

    /// What must hold in the live system.
    #[must_use]
    pub fn after(mut self, after: fn(&mut Machine) -> Result<()>) -> Self {
        self.after = after;
        self
    }
}

/// A machine with the full `/init`, without a card; its first program is a shell.
///
/// # Errors
/// What building the initramfs needs.
pub fn bare<'l>(lab: &'l Lab, line: &str) -> Result<MachineBuilder<'l>> {
    lab.client_of(Flavour::Cloud, Profile::Disks, &format!("{line} init=/bin/sh"))
}

/// The same with a card.
///
/// # Errors
/// As [`bare`].
pub fn client<'l>(lab: &'l Lab, line: &str) -> Result<MachineBuilder<'l>> {
    Ok(bare(lab, line)?.nic(Nic::virtio()))
}

/// What a run has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Seconds from switching on to the end.
    pub seconds: u64,
    /// The longest time without a word on the console, in seconds.
    pub silence: u64,
    /// The console's lines that say what the row wants.
    pub lines: Vec<String>,
}

/// How long a boot may take; the faults that take longest wait for a server twice.
const LIMIT: Duration = secs(240);

impl Fault {
    /// Boots the machine. Nothing comes back where it is not to run on this release.
    ///
    /// # Errors
    /// What the machine did instead.
    pub fn run(&self) -> Result<Option<Seen>> {
        noted(&self.scenario(), |lab| self.boot(lab))
    }

    /// Its name among the scenarios.
    pub fn scenario(&self) -> String {
        format!("fault-{}", self.name)
    }

    fn boot(&self, lab: &Lab) -> Result<Seen> {
        let room = (self.room)(lab, self.line)?;
        let start = std::time::Instant::now();
        let mut machine = room.machine.start()?;
        let mut mended = None;
        match self.ends {
            Ends::Boots => machine.shell(LIMIT)?,
            Ends::Mended => {
                for sentence in self.says {
                    machine.expect(sentence, LIMIT)?;
                }
                mended = room.mend.map(|mend| mend()).transpose()?;
                machine.expect("bellwether: ready in", LIMIT)?;
                machine.at_shell()?;
            }
            Ends::Refuses => {
                let (which, _) =
                    machine.expect_any(&["bellwether: FAILED:", "bellwether: ready in"], LIMIT)?;
                if which == 1 {
                    return Err(Error::Input(format!("it boots:\n{}", machine.transcript())));
                }
                machine.expect("keys: ", secs(10))?;
            }
            Ends::Reboots => {
                machine.expect("Linux version", LIMIT)?;
                // By a panic where /init waits in the kernel: so the kernel keeps its log.
                if machine.expect_any(&["Kernel panic", "Linux version"], LIMIT)?.0 == 0 {
                    machine.expect("Linux version", LIMIT)?;
                }
            }
            Ends::Stops => match machine.expect("bellwether: ready in", LIMIT) {
                Err(Error::Machine { instead, .. }) if instead.contains("panic") => {}
                Err(error) => return Err(error),
                Ok(_) => return Err(Error::Input("it boots".into())),
            },
        }
        let seconds = start.elapsed().as_secs();
        if matches!(self.ends, Ends::Boots | Ends::Mended) {
            (room.after)(&mut machine)?;
        }
        drop(mended);
        drop(room.servers);
        let lines = lines_with(&machine.transcript(), self.says).map_err(|missing| {
            let screen = machine.transcript();
            Error::Input(format!("the console does not say {missing:?}, or too early:\n{screen}"))
        })?;
        Ok(Seen { seconds, silence: machine.longest_silence(), lines })
    }
}

/// The lines of a screen that hold these texts, in this order.
fn lines_with<'s>(screen: &str, says: &[&'s str]) -> Result<Vec<String>, &'s str> {
    let mut found: Vec<String> = Vec::new();
    let mut at = 0;
    for text in says {
        let rest = screen.get(at..).unwrap_or_default();
        let hit = at + rest.find(text).ok_or(*text)?;
        let begin = screen.get(..hit).and_then(|before| before.rfind('\n')).map_or(0, |n| n + 1);
        let line = screen.get(begin..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        at = hit + text.len();
        if found.last().is_none_or(|last| last != line) {
            found.push(line.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_in_order() {
        let screen = "a one\nb two three\nc four\n";
        let found = lines_with(screen, &["two", "three", "four"]).unwrap();
        assert_eq!(found, ["b two three", "c four"]);
        assert_eq!(lines_with(screen, &["four", "one"]), Err("one"));
    }
}
