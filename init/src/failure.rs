//! When a step fails: one screen that says what was tried and what to change,
//! then what the line asked for. Never a silent hang.

use alloc::format;
use alloc::string::{String, ToString};

use cmdline::plan::{OnFailure, Seconds};
use cmdline::render::warning_text;
use rustix::system::RebootCommand;
use sys::clock::Instant;
use sys::file::{make_dir, write_file};

use crate::keys::{SingleKeys, act, restart, wait_key};
use crate::log::Level;
use crate::machine::Machine;
use crate::trace::{Failure, Tried};
use crate::{clone, console, firmware, layers};

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
    // The small /init has no such keys.
    let (more, lock) = match cfg!(feature = "full") && plan.failure.locked {
        true => ("", "; the line locks shell and editor"),
        false => (console::KEYS, ""),
    };
    let keys = ["keys: r retry now, ", more, "b reboot, o power off, l log", lock].concat();
    let _keys = SingleKeys::of(machine.log.console());
    match wait {
        Some(seconds) => machine.log.say(Level::Verdict, &format!("{text} in {seconds} s; {keys}")),
        None => machine.log.say(Level::Verdict, &format!("{text}; {keys}")),
    }
    loop {
        // A user who presses keys is not hurried on.
        let deadline = wait.map(|seconds| Instant::now().after(Seconds(seconds).into()));
        match wait_key(machine, deadline) {
            Some(b'r') => return Next::Retry,
            Some(key) if act(machine, key) => {}
            Some(key) => console::key(machine, key),
            None => match plan.failure.then {
                OnFailure::Reboot(_) => restart(machine, RebootCommand::Restart),
                _ => return Next::Retry,
            },
        }
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
    layers::undo(machine);
    machine.start_anew();
    restart(machine, RebootCommand::Restart);
    // The kernel does not even reboot: there is nothing else that could be done.
    sys::process::exit(1)
}

/// What to do about an initramfs that is not what was made, whatever failed for it.
const DAMAGED: &str = "the initramfs is damaged or cut short: copy it again, or build it anew";

/// The screen: plan, step, candidates, remedy.
fn show(machine: &mut Machine, failure: &Failure) {
    let (plan, line) = (machine.orders.plan, machine.orders.line);
    let interrupted = clone::interrupted(machine);
    let log = &mut machine.log;
    log.say(Level::Verdict, &format!("FAILED: could not {}", failure.step));
    log.say(Level::Verdict, &format!("  line:   {line}"));
    log.say(Level::Verdict, &format!("  read as {}", plan.dialect.name()));
    for tried in &failure.tried {
        log.say(Level::Verdict, &format!("  tried:  {}: {}", tried.what, tried.why));
    }
    for disk in interrupted {
        log.say(Level::Verdict, &["  note:   ", &disk].concat());
    }
    for lacking in firmware::missing() {
        log.say(Level::Verdict, &["  note:   ", &lacking].concat());
    }
    let remedy = match machine.damaged {
        true => DAMAGED,
        false => &failure.remedy,
    };
    if !remedy.is_empty() {
        log.say(Level::Verdict, &format!("  remedy: {remedy}"));
    }
    for warning in &plan.warnings {
        // The one that the boot failed by is said above.
        if failure.tried.iter().all(|tried| tried.why != warning.message) {
            log.say(Level::Verdict, &["  note:   ", &warning_text(warning)].concat());
        }
    }
    // The screen has said it all; a record that cannot be kept is no further failure.
    let _ = make_dir("/run/bellwether", 0o755);
    let _ = write_file("/run/bellwether/log", log.record().as_bytes(), 0o644);
    let trace = machine.trace.to_json(machine.log.elapsed(), Some(failure));
    let _ = write_file("/run/bellwether/trace.json", trace.as_bytes(), 0o644);
}
