//! The end of a process that cannot go on: last words that name the step and the reason,
//! then, for PID 1, what the plan says.
//!
//! The words go to the console and to the kernel's log. PID 1 ends by a kernel panic, so
//! that pstore and kdump, which keep the kernel's log only then, have the words, too.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Signal, getpid, kill_process};
use rustix::system::{RebootCommand, reboot};
use rustix::thread::{Timespec, nanosleep};
use spin::Mutex;

/// No reboot, however long.
const NEVER: u32 = u32::MAX;

/// Seconds between the last words of PID 1 and the reboot.
static REBOOT_AFTER: AtomicU32 = AtomicU32::new(30);

/// The step of the boot.
static STEP: Mutex<&str> = Mutex::new("start");

/// Whether the last words were said.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Sets how many seconds the last words of PID 1 stay on the console before the machine
/// is restarted; `None` for as long as the machine has power.
pub fn set_reboot_after(seconds: Option<u32>) {
    REBOOT_AFTER.store(seconds.unwrap_or(NEVER), Ordering::Relaxed);
}

/// Sets the step that last words name.
pub fn set_step(step: &'static str) {
    *STEP.lock() = step;
}

/// A line on the stack: the heap may be damaged, or full.
struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if let Some(slot) = self.bytes.get_mut(self.len) {
                // A panic's message has lines.
                *slot = if byte < b' ' { b' ' } else { byte };
                self.len += 1;
            }
        }
        Ok(())
    }
}

/// Kernel log level "critical": also on consoles of the kernel's that are not ours, as a
/// network console.
const LEVEL: &str = "<2>";

fn words(line: &mut Line, why: fmt::Arguments<'_>, step: &str, after: Option<u32>) {
    // A line cuts what is too long, and that is all that can fail.
    let _ = write!(line, "{LEVEL}bellwether: FAILED: internal error, please report it: {why}");
    let _ = write!(line, "; in the step {step}");
    let _ = match after {
        None => Ok(()),
        Some(NEVER) => line.write_str("; staying here, as panic=0 says"),
        Some(seconds) => write!(line, "; rebooting in {seconds} s"),
    };
}

/// Says why this process cannot go on, and ends it; other processes than PID 1 by
/// `signal`. Uses no heap.
pub fn die(why: fmt::Arguments<'_>, signal: Signal) -> ! {
    // A fault within this function has nothing to add.
    if ENDING.swap(true, Ordering::Relaxed) {
        abort(signal);
    }
    let after = REBOOT_AFTER.load(Ordering::Relaxed);
    let pid1 = rustix::thread::gettid().is_init();
    let step = STEP.try_lock().map_or("", |step| *step);
    let mut line = Line { bytes: [0; 512], len: 0 };
    words(&mut line, why, step, pid1.then_some(after));
    let text = line.bytes.get(..line.len).unwrap_or_default();
    let put = |path: &str, text: &[u8]| {
        // A console that a user has stopped must not stop this; what cannot be said here
        // may be said there.
        let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK;
        let file = open(path, flags, Mode::empty())?;
        rustix::io::write(file, text)
    };
    let _ = put("/dev/kmsg", text);
    for part in [b"\r\n", text.get(LEVEL.len()..).unwrap_or_default(), b"\r\n"] {
        if put("/dev/console", part).is_err() {
            #[allow(unused_unsafe, reason = "rustix's function is safe beside std")]
            // SAFETY: fd 2 is never closed or reused by us; if it is not open, write says so.
            let _ = rustix::io::write(unsafe { rustix::stdio::stderr() }, part);
        }
    }
    if !pid1 {
        abort(signal);
    }
    loop {
        // An early end of the sleep only restarts the machine early.
        let _ = nanosleep(&Timespec { tv_sec: i64::from(after), tv_nsec: 0 });
        if after != NEVER {
            break;
        }
    }
    // The kernel restarts the machine at once after its own panic, or else we do.
    if put("/proc/sys/kernel/panic", b"-1").is_err() {
        let _ = reboot(RebootCommand::Restart);
    }
    abort(signal)
}

/// Ends the process by a signal; for PID 1, which no signal of its own ends, by an
/// illegal instruction, which is a kernel panic.
fn abort(signal: Signal) -> ! {
    let _ = kill_process(getpid(), signal);
    loop {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: traps; touches no memory.
        unsafe {
            core::arch::asm!("ud2", options(nomem, nostack))
        };
        #[cfg(target_arch = "aarch64")]
        // SAFETY: traps; touches no memory.
        unsafe {
            core::arch::asm!("brk #1", options(nomem, nostack))
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(why: fmt::Arguments<'_>, after: Option<u32>) -> String {
        let mut line = Line { bytes: [0; 512], len: 0 };
        words(&mut line, why, "source", after);
        String::from_utf8_lossy(&line.bytes[..line.len]).into_owned()
    }

    #[test]
    fn last_words_are_one_line_of_step_reason_and_policy() {
        assert_eq!(
            said(format_args!("panicked at a.rs:1:2:\nno luck"), Some(7)),
            "<2>bellwether: FAILED: internal error, please report it: \
             panicked at a.rs:1:2: no luck; in the step source; rebooting in 7 s"
        );
        assert!(said(format_args!("x"), Some(NEVER)).ends_with("staying here, as panic=0 says"));
        assert!(said(format_args!("x"), None).ends_with("in the step source"));
        assert_eq!(said(format_args!("{}", "x".repeat(600)), None).len(), 512);
    }
}
