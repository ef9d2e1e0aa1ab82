//! The process that stays behind when the root is a snapshot: it says on the
//! console and in the kernel's log how full the store of changes is, before it
//! is full, because then every write and read of the root fails.
//!
//! The kernel tells of a full store only when it is too late, so this asks, and
//! asks more often the faster the store fills. The process runs our own program
//! again under a name that begins with `@`, which tells systemd to leave it
//! alone at shutdown (its INITRD_INTERFACE); it holds on to nothing of the root.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;

use overlay::dm::{Fill, SECTOR, snapshot_fill};
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use rustix::io::{Errno, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{NanosleepRelativeResult, Timespec, nanosleep};
use sys::dm::Control;
use sys::file::open;
use sys::process::Child;

use crate::memory::Size;

/// The name it runs under.
pub const NAME: &CStr = c"@bellwether-watch";

/// Percent at which it speaks, once each.
const MARKS: &[u32] = &[80, 90, 95];

/// Time between two looks while nothing happens, in seconds.
const CALM: u64 = 5;

/// Starts it for a snapshot.
///
/// # Errors
/// The kernel's.
pub fn start(snapshot: &str) -> Result<(), Errno> {
    spawn(NAME, &[&CString::new(snapshot).unwrap_or_default()], &[]).map(drop)
}

/// Starts our own program under another name, with words and open descriptors, and
/// waits until it no longer needs our `/dev`.
///
/// # Errors
/// The kernel's.
pub fn spawn(name: &CStr, words: &[&CStr], keep: &[OwnedFd]) -> Result<Child, Errno> {
    let (ready, started) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut args = Vec::from([name]);
    args.extend(words);
    let child = sys::process::fork(|| {
        for fd in keep {
            // The program tells a missing descriptor by itself.
            let _ = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty());
        }
        // As its standard input the pipe outlives exec; it closes when the
        // program has opened what it needs, or dies before that.
        match rustix::stdio::dup2_stdin(&started) {
            Ok(()) => sys::process::exec(c"/proc/self/exe", &args, &[]),
            Err(errno) => errno,
        }
        .raw_os_error()
    })?;
    drop(started);
    let mut byte = [0];
    while rustix::io::read(&ready, &mut byte) == Err(Errno::INTR) {}
    Ok(child)
}

/// The process itself; ends when the snapshot is gone or lost.
pub fn run(args: impl Iterator<Item = &'static CStr>) -> i32 {
    let Some(name) = args.filter_map(|arg| arg.to_str().ok()).next() else { return 2 };
    let Ok(control) = Control::open() else { return 1 };
    let Some(mut voice) = Voice::open() else { return 1 };
    let mut watch = Watch::default();
    loop {
        let fill = match control.status(name) {
            Ok(targets) => targets.first().and_then(|target| snapshot_fill(&target.parameters)),
            Err(_) => None,
        };
        let Some(fill) = fill else { return 0 };
        let (text, pause) = watch.look(fill);
        if let Some(text) = text {
            voice.say(&text);
        }
        let Some(pause) = pause else { return 0 };
        self::pause(pause);
    }
}

/// Sleeps for some seconds.
pub fn pause(seconds: u64) {
    let mut left = Timespec { tv_sec: seconds.cast_signed(), tv_nsec: 0 };
    while let NanosleepRelativeResult::Interrupted(rest) = nanosleep(&left) {
        left = rest;
    }
}

/// Where a process that stays behind says something.
#[derive(Debug)]
pub struct Voice {
    console: Option<OwnedFd>,
    kmsg: Option<OwnedFd>,
}

impl Voice {
    /// Opens console and kernel log, and tells the parent process that it
    /// has what it needs; nothing when it has not.
    #[must_use]
    pub fn open() -> Option<Self> {
        let node = |path: &str| open(path, OFlags::RDWR | OFlags::NOCTTY, 0);
        let voice = Self { console: node("/dev/console").ok(), kmsg: node("/dev/kmsg").ok() };
        rustix::stdio::dup2_stdin(&node("/dev/null").ok()?).ok()?;
        Some(voice)
    }

    /// Says it on the console, and in the kernel's log.
    pub fn say(&mut self, text: &str) {
        if let Some(kmsg) = &self.kmsg {
            // Priority 5: in the journal, and not a second time on the console.
            // One of the two has a reader, or neither does.
            let _ = write(kmsg, format!("<5>bellwether: {text}\n").as_bytes());
        }
        if let Some(console) = &self.console {
            let _ = write(console, format!("\r\nbellwether: {text}\r\n").as_bytes());
        }
    }
}

/// What was seen and said so far.
#[derive(Debug, Default)]
struct Watch {
    said: u32,
    last_used: Option<u64>,
}

impl Watch {
    /// What is to be said, and in how many seconds to look again; `None` when
    /// there is nothing left to see.
    fn look(&mut self, fill: Fill) -> (Option<String>, Option<u64>) {
        let Fill::Part { used, total } = fill else {
            let text = "the store of changes is FULL: the root no longer works; reboot".into();
            return (Some(text), None);
        };
        let percent = fill.percent();
        let mark = MARKS.iter().copied().filter(|mark| *mark <= percent).max().unwrap_or(0);
        let text = (mark > self.said).then(|| {
            let (used, total) = (used.saturating_mul(SECTOR), total.saturating_mul(SECTOR));
            format!(
                "WARNING: changes fill {percent} % of their store ({} of {}); when it is full the root stops working. Deleting files gives nothing back: save what matters and reboot, or boot with a larger store",
                Size(used),
                Size(total),
            )
        });
        self.said = self.said.max(mark);
        // How long until the next mark at the present rate, halved to be early.
        let grown = used.saturating_sub(self.last_used.replace(used).unwrap_or(used));
        let next = MARKS.iter().copied().find(|mark| *mark > percent).unwrap_or(100);
        let room = (total / 100).saturating_mul(u64::from(next - percent.min(next)));
        let pause = match grown {
            0 => CALM,
            _ => (room / grown / 2).clamp(1, CALM),
        };
        (text, Some(pause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_is_said_once_and_the_end_is_the_end() {
        let mut watch = Watch::default();
        let mut said = alloc::vec::Vec::new();
        for used in [0, 50, 79, 80, 81, 92, 92, 93, 99, 99] {
            let (text, pause) = watch.look(Fill::Part { used: used * 10, total: 1000 });
            assert!(pause.is_some_and(|pause| (1..=CALM).contains(&pause)));
            if text.is_some() {
                said.push(used);
            }
        }
        assert_eq!(said, [80, 92, 99]);
        let (text, pause) = watch.look(Fill::Lost);
        assert!(text.is_some_and(|text| text.contains("FULL")));
        assert_eq!(pause, None);
    }
}
