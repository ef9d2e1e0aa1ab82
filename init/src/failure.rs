//! When a step fails: one screen that says what was tried and what to change,
//! then what the line asked for. Never a silent hang.

use alloc::format;
use alloc::string::{String, ToString};

use cmdline::plan::OnFailure;
use rustix::fd::{AsFd, OwnedFd};
use rustix::system::{RebootCommand, reboot};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use sys::errno::Shown;
use sys::file::{make_dir, write_file};

use crate::log::{Level, now_ms};
use crate::machine::Machine;
use crate::trace::{Failure, Tried};
use crate::{console, fetch, layers};

/// What to do after the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try the boot again.
    Retry,
}

/// Shows the screen, waits as the plan says, and tells what comes next. Reboots
/// and power-offs happen in here.
pub fn handle(machine: &mut Machine, failure: &Failure) -> Next {
    machine.stop_clock();
    show(machine, failure);
    let plan = machine.orders.plan;
    let (text, wait) = match plan.failure.then {
        OnFailure::Reboot(after) => ("rebooting", Some(after.0)),
        OnFailure::Menu { retry_after } => ("trying again", Some(retry_after.0.max(5))),
        OnFailure::Halt => ("staying here, as panic=0 says", None),
    };
    let keys = ["keys: r retry now, ", console::KEYS, "b reboot, o power off, l log"].concat();
    let _keys = SingleKeys::of(machine.log.console());
    match wait {
        Some(seconds) => machine.log.say(Level::Verdict, &format!("{text} in {seconds} s; {keys}")),
        None => machine.log.say(Level::Verdict, &format!("{text}; {keys}")),
    }
    loop {
        // Somebody who presses keys is not hurried on.
        let deadline = wait.map(|seconds| now_ms().saturating_add(u64::from(seconds) * 1000));
        match wait_key(machine, deadline) {
            Some(b'r') => return Next::Retry,
            Some(key) => act(machine, key),
            None => match plan.failure.then {
                OnFailure::Reboot(_) => restart(machine, RebootCommand::Restart),
                _ => return Next::Retry,
            },
        }
    }
}

/// Does what a key of the screen says.
pub fn act(machine: &mut Machine, key: u8) {
    match key {
        b'b' => restart(machine, RebootCommand::Restart),
        b'o' => restart(machine, RebootCommand::PowerOff),
        b'l' => {
            let record = machine.log.record();
            for line in record.lines() {
                machine.log.print(line);
            }
        }
        key => console::key(machine, key),
    }
}

/// The whole boot took longer than the line allows: the screen, then what the plan
/// says. Whatever was being done is given up, so this program starts anew.
pub fn out_of_time(machine: &mut Machine) -> ! {
    let plan = machine.orders.plan;
    let limit = plan.failure.deadline.unwrap_or_default().0;
    let mut tried = machine.trace.so_far();
    tried.push(Tried {
        what: machine.trace.latest().to_string(),
        why: format!("was not done {limit} s after the boot began, as long as the line gives it"),
    });
    let step = "finish in time".to_string();
    let failure = Failure { step, tried, remedy: String::new() };
    let Next::Retry = handle(machine, &failure);
    machine.log.info("trying again");
    start_anew(machine);
    restart(machine, RebootCommand::Restart);
    // The kernel does not even reboot: there is nothing else that could be done.
    sys::process::exit(1)
}

/// Takes down what was set up and starts this program again, which reads the line
/// again. Returns when the kernel refuses.
pub fn start_anew(machine: &mut Machine) {
    layers::undo(machine);
    fetch::drop_all();
    let env = machine.orders.env.clone();
    let errno = sys::process::exec(c"/proc/self/exe", &[c"/init"], &env);
    machine.log.warn(&format!("/init cannot be started again: {}", Shown(errno)));
}

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
        let console = rustix::io::dup(console?).ok()?;
        let before = tcgetattr(&console).ok()?;
        let mut single = before.clone();
        single.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        tcsetattr(&console, OptionalActions::Now, &single).ok()?;
        Some(Self { console, before })
    }

    /// The opposite: whole lines, echoed, as a shell expects to find a terminal.
    #[cfg(feature = "full")]
    #[must_use]
    pub fn released(console: Option<&OwnedFd>) -> Option<Self> {
        let console = rustix::io::dup(console?).ok()?;
        let before = tcgetattr(&console).ok()?;
        let mut whole = before.clone();
        whole.local_modes.insert(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        tcsetattr(&console, OptionalActions::Now, &whole).ok()?;
        Some(Self { console, before })
    }
}

impl Drop for SingleKeys {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.console, OptionalActions::Now, &self.before);
    }
}

/// The screen: plan, step, candidates, remedy.
fn show(machine: &mut Machine, failure: &Failure) {
    let (plan, line) = (machine.orders.plan, machine.orders.line);
    let log = &mut machine.log;
    log.say(Level::Verdict, &format!("FAILED: could not {}", failure.step));
    log.say(Level::Verdict, &format!("  line:   {line}"));
    log.say(Level::Verdict, &format!("  read as {}", plan.dialect.name()));
    for tried in &failure.tried {
        log.say(Level::Verdict, &format!("  tried:  {}: {}", tried.what, tried.why));
    }
    if !failure.remedy.is_empty() {
        log.say(Level::Verdict, &format!("  remedy: {}", failure.remedy));
    }
    for warning in &plan.warnings {
        let mut text = String::from("  note:   ");
        if !warning.word.is_empty() {
            text.push_str(&warning.word);
            text.push_str(": ");
        }
        text.push_str(&warning.message);
        if !warning.hint.is_empty() {
            text.push_str("; ");
            text.push_str(&warning.hint);
        }
        log.say(Level::Verdict, &text);
    }
    let _ = make_dir("/run/bellwether", 0o755);
    let _ = write_file("/run/bellwether/log", log.record().as_bytes(), 0o644);
    let trace = machine.trace.to_json(machine.log.elapsed().0, Some(failure));
    let _ = write_file("/run/bellwether/trace.json", trace.as_bytes(), 0o644);
}

/// Waits for a key on the console, or for the deadline; drivers go on meanwhile.
pub fn wait_key(machine: &mut Machine, deadline: Option<u64>) -> Option<u8> {
    loop {
        if deadline.is_some_and(|deadline| now_ms() >= deadline) {
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

fn restart(machine: &mut Machine, command: RebootCommand) {
    let what = if command == RebootCommand::PowerOff { "powering off" } else { "rebooting" };
    machine.log.say(Level::Verdict, what);
    rustix::fs::sync();
    if let Err(errno) = reboot(command) {
        machine.log.warn(&format!("the kernel refuses: {}", Shown(errno)));
    }
}
