//! Keys on the console: one at a time, and those that do the same wherever the
//! boot waits for one.

use alloc::format;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::system::{RebootCommand, reboot};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use sys::clock::Instant;
use sys::errno::Shown;

use crate::log::Level;
use crate::machine::Machine;

/// The console passes each key on, without waiting for Enter, while this lives.
#[derive(Debug)]
pub struct SingleKeys {
    console: OwnedFd,
    before: Termios,
}

impl SingleKeys {
    /// Nothing when there is no console, or it is no terminal.
    #[must_use]
    pub fn of(console: Option<&OwnedFd>) -> Option<Self> {
        Self::set(console?, false)
    }

    /// The opposite: whole lines, echoed, as a shell expects to find a terminal.
    #[cfg(feature = "full")]
    #[must_use]
    pub fn released(console: Option<&OwnedFd>) -> Option<Self> {
        Self::set(console?, true)
    }

    fn set(console: &OwnedFd, whole_lines: bool) -> Option<Self> {
        let console = rustix::io::dup(console).ok()?;
        let before = tcgetattr(&console).ok()?;
        let mut modes = before.clone();
        let lines = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        modes.local_modes.set(lines, whole_lines);
        tcsetattr(&console, OptionalActions::Now, &modes).ok()?;
        Some(Self { console, before })
    }
}

impl Drop for SingleKeys {
    fn drop(&mut self) {
        // A console that is gone needs no mode.
        let _ = tcsetattr(&self.console, OptionalActions::Now, &self.before);
    }
}

/// Waits for a key on the console, or for the deadline; drivers go on meanwhile.
pub fn wait_key(machine: &mut Machine, deadline: Option<Instant>) -> Option<u8> {
    loop {
        if deadline.is_some_and(Instant::is_past) {
            return None;
        }
        let console = machine.log.console().and_then(|console| rustix::io::dup(console).ok());
        match console {
            Some(console) => {
                machine.wait(&[console.as_fd()], deadline);
                let mut key = [0];
                let ready = rustix::io::ioctl_fionread(&console).is_ok_and(|waiting| waiting > 0);
                if ready && rustix::io::read(&console, &mut key) == Ok(1) {
                    return key.first().copied();
                }
            }
            None => machine.wait(&[], deadline),
        }
    }
}

/// Does what `b`, `o` and `l` say. Returns false for another key.
pub fn act(machine: &mut Machine, key: u8) -> bool {
    match key {
        b'b' => restart(machine, RebootCommand::Restart),
        b'o' => restart(machine, RebootCommand::PowerOff),
        b'l' => {
            let record = machine.log.record();
            for line in record.lines() {
                machine.log.print(line);
            }
        }
        _ => return false,
    }
    true
}

/// Writes back what the disks do not have yet; one that does not answer is waited for
/// for ten seconds, and by the small `/init` for ever.
fn sync() {
    if !cfg!(feature = "full") {
        return rustix::fs::sync();
    }
    let child = sys::process::fork(|| {
        rustix::fs::sync();
        0
    });
    if let Ok(child) = child {
        let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
        // An early end leaves it to the disks.
        let _ = poll(&mut [PollFd::new(&child, PollFlags::IN)], Some(&limit));
    }
}

/// Restarts the machine, or powers it off. Returns when the kernel refuses.
pub fn restart(machine: &mut Machine, command: RebootCommand) {
    let what = if command == RebootCommand::PowerOff { "powering off" } else { "rebooting" };
    machine.log.say(Level::Verdict, what);
    sync();
    if let Err(errno) = reboot(command) {
        machine.log.warn(&format!("the kernel refuses: {}", Shown(errno)));
    }
}
