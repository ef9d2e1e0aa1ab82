//! The process that watches PID 1: a deadline must hold even when PID 1 waits inside the
//! kernel, for a server or a disk that does not answer any more.
//!
//! No signal ends most of these waits, so nothing that PID 1 does itself could. The
//! process is forked before the first driver is loaded, gets every step and deadline by
//! a pipe, and ends with that pipe: exec(2) of the real init closes it. It asks the
//! kernel in which system call PID 1 is (proc(5)). PID 1 that waits for events or for a
//! program is well; one that has not left another call for `LIMIT` is stuck. Then this
//! says what the failure screen would say and does what the plan says. All that it can
//! do is restart the machine: nothing else ends such a wait.

use alloc::format;
use alloc::string::{String, ToString};
use core::time::Duration;

use cmdline::plan::OnFailure;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{getpid, setpriority_process};
use rustix::system::{RebootCommand, reboot};
use sys::clock::{Instant, poll_timeout};
use sys::file::{read_file, write_file};
use sys::process::fork;
use sys::waiting::{self, Waiting};

use crate::log::{Level, Log};

/// Time inside one system call after which PID 1 counts as stuck; a text below has it, too. A disk with bad sectors
/// may take minutes for one read.
const LIMIT: Duration = Duration::from_secs(300);

/// After this long the console says what PID 1 waits for.
const WORD: Duration = Duration::from_secs(30);

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// PID 1 deals with the boot's own deadline where it can; this much later it cannot.
const GRACE: Duration = Duration::from_secs(5);

/// PID 1's end of the pipe.
#[derive(Debug)]
pub struct Watcher(OwnedFd);

impl Watcher {
    /// Forks the process that watches this one.
    ///
    /// # Errors
    /// The kernel's: there can be no further process or pipe.
    pub fn start(then: OnFailure) -> Result<Self, Errno> {
        // In packets: one read takes one message.
        let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK | PipeFlags::DIRECT;
        let (orders, ours) = pipe_with(flags)?;
        let mut ours = Some(ours);
        let watched = getpid().as_raw_nonzero().get();
        drop(fork(|| {
            // Open in this process as well, the pipe would never end.
            ours = None;
            watch(&orders, watched, then);
            0
        })?);
        ours.map(Self).ok_or(Errno::BADF)
    }

    /// Tells the step, and when this try of the boot counts as failed.
    pub fn tell(&self, step: &str, deadline: Option<Instant>) {
        let deadline = deadline.map_or(0, Instant::millis).to_ne_bytes();
        // The pipe is never full: who watches does nothing but read it.
        let _ = write(&self.0, &[&deadline, step.as_bytes()].concat());
    }
}

/// The process itself.
fn watch(orders: &OwnedFd, watched: i32, then: OnFailure) {
    let mut log = Log::open();
    if let Some(console) = log.console() {
        // A console that a user has stopped must not stop this.
        let _ = fcntl_setfl(console, OFlags::RDWR | OFlags::NONBLOCK);
    }
    // PID 1 is urgent, this is not. Memory that is short is not won here.
    let _ = setpriority_process(None, 0);
    let _ = write_file("/proc/self/oom_score_adj", b"-1000", 0);
    let mut watch = Watch::new(then);
    loop {
        let timeout = poll_timeout(Some(Instant::ZERO.after(LOOK)), Instant::ZERO);
        // A signal only makes the look earlier.
        let _ = poll(&mut [PollFd::new(orders, PollFlags::IN)], timeout.as_ref());
        let mut message = [0; 64];
        match read(orders, &mut message) {
            Ok(0) => return,
            Ok(length) => watch.hear(message.get(..length).unwrap_or_default()),
            // Nothing came in time.
            Err(_) => match watch.look(waiting::of(watched), Instant::now()) {
                Act::Nothing => {}
                Act::Say(text) => {
                    log.warn(&["step ", &watch.step, ": /init ", &text].concat());
                }
                Act::Fail(text, next) => {
                    log.say(Level::Verdict, &text);
                    log.say(Level::Verdict, &next);
                    // For a report; there is none in kernels without stack traces.
                    let stack = read_file(&format!("/proc/{watched}/stack"), 4096);
                    for line in String::from_utf8_lossy(&stack.unwrap_or_default()).lines() {
                        log.detail(&["/init waits in ", line].concat());
                    }
                }
                Act::Restart => {
                    log.say(Level::Verdict, "rebooting");
                    restart();
                }
            },
        }
    }
}

/// Restarts the machine without waiting for a disk or server. By a kernel panic, so that
/// pstore and kdump keep the kernel's log.
fn restart() {
    // What one way refuses, the next one may do.
    let _ = write_file("/proc/sys/kernel/panic", b"-1", 0);
    for key in [b"c", b"b"] {
        let _ = write_file("/proc/sysrq-trigger", key, 0);
    }
    let _ = reboot(RebootCommand::Restart);
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    Nothing,
    Say(String),
    /// The verdict, and what comes next.
    Fail(String, String),
    Restart,
}

/// How far it is with PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// It is well, or not stuck for long.
    #[default]
    Well,
    /// The console knows that it waits.
    Told,
    /// It counts as stuck; when the machine is to be restarted.
    Failed(Option<Instant>),
}

/// What is known of PID 1.
#[derive(Debug)]
struct Watch {
    then: OnFailure,
    step: String,
    deadline: Option<Instant>,
    /// The wait that PID 1 is in, and when it was seen first.
    wait: Option<(Waiting, Instant)>,
    stage: Stage,
}

impl Watch {
    fn new(then: OnFailure) -> Self {
        Self { then, step: "start".into(), deadline: None, wait: None, stage: Stage::Well }
    }

    /// A message of PID 1.
    fn hear(&mut self, message: &[u8]) {
        let Some((deadline, step)) = message.split_first_chunk() else { return };
        let deadline = u64::from_ne_bytes(*deadline);
        self.deadline = (deadline > 0).then(|| Instant::from_millis(deadline));
        self.step = String::from_utf8_lossy(step).into_owned();
    }

    /// Looks at the call that PID 1 waits in, if any.
    fn look(&mut self, waiting: Option<Waiting>, now: Instant) -> Act {
        let overdue = self.deadline.is_some_and(|deadline| now >= deadline.after(GRACE));
        let console = |wait: &Waiting| wait.file().is_some_and(|file| file == "/dev/console");
        self.wait = match (waiting, self.wait.take()) {
            (Some(wait), Some((known, since))) if wait == known => Some((known, since)),
            // A user may stop the console to read it.
            (Some(wait), _) if !wait.is_meant() && !console(&wait) => Some((wait, now)),
            _ => None,
        };
        let long = self.wait.as_ref().map_or(Duration::ZERO, |(_, since)| now.since(*since));
        let doing = match &self.wait {
            Some((wait, _)) => {
                ["has been ", &wait.doing(), " for ", &long.as_secs().to_string(), " s"].concat()
            }
            None => "is still busy with it".to_string(),
        };
        let failed = overdue || long >= LIMIT;
        match self.stage {
            Stage::Failed(Some(at)) if failed && now >= at => Act::Restart,
            Stage::Failed(_) if failed => Act::Nothing,
            _ if failed => self.fail(now, overdue, &doing),
            Stage::Well if long >= WORD => {
                self.stage = Stage::Told;
                Act::Say([&doing, "; after 300 s that counts as failed"].concat())
            }
            Stage::Told | Stage::Failed(_) if long < WORD => {
                self.stage = Stage::Well;
                Act::Say("goes on".to_string())
            }
            _ => Act::Nothing,
        }
    }

    fn fail(&mut self, now: Instant, overdue: bool, doing: &str) -> Act {
        let late = if overdue { " in time" } else { "" };
        let step = &*self.step;
        let verdict =
            ["FAILED: could not finish the step ", step, late, ": /init ", doing].concat();
        let check = "check the disk or the server that it waits for";
        let (OnFailure::Reboot(after) | OnFailure::Menu { retry_after: after }) = self.then else {
            self.stage = Stage::Failed(None);
            let halt = "staying here, as panic=0 says; ";
            return Act::Fail(verdict, [halt, check, ", then restart the machine"].concat());
        };
        self.stage = Stage::Failed(Some(now.after(after.into())));
        let seconds = after.0.to_string();
        let next = ["rebooting in ", &seconds, " s, unless it goes on; ", check].concat();
        Act::Fail(verdict, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cmdline::plan::Seconds;

    const READ: &str = "17 0x3 0x1";
    const POLL: &str = "271 0x3 0x1";
    const RUNS: &str = "running";

    /// PID 1 in a call of a process that is not there, whose files have no names.
    fn wait(call: &str, count: u32) -> Option<Waiting> {
        Waiting::new(i32::MAX, call.as_bytes().to_vec(), format!("syscr: {count}").as_bytes())
    }

    fn text(act: Act) -> String {
        match act {
            Act::Nothing => String::new(),
            Act::Say(text) => text,
            Act::Fail(verdict, next) => verdict + "\n" + &next,
            Act::Restart => "restart".into(),
        }
    }

    /// What is said when PID 1 is seen so, each look at its second.
    fn story(then: OnFailure, looks: &[(&str, u32, u64, &str)]) {
        let mut watch = Watch::new(then);
        watch.hear(b"\0\0\0\0\0\0\0\0source");
        for (call, count, second, wanted) in looks {
            let now = Instant::from_millis(second * 1000);
            let said = text(watch.look(wait(call, *count), now));
            match *wanted {
                "" => assert_eq!(said, "", "{second} s"),
                wanted => assert!(said.contains(wanted), "{second} s: {said:?}"),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_wait_that_does_not_end_is_told_and_ends_by_the_plan() {
        let failed = "FAILED: could not finish the step source: /init has been reading for 300 s\n";
        story(
            OnFailure::Reboot(Seconds(20)),
            &[
                (READ, 1, 10, ""),
                (READ, 1, 39, ""),
                (READ, 1, 40, "has been reading for 30 s; after 300 s"),
                (READ, 1, 309, ""),
                (READ, 1, 310, &(failed.to_string() + "rebooting in 20 s, unless it goes on")),
                (READ, 1, 329, ""),
                (READ, 1, 330, "restart"),
            ],
        );
        let menu = OnFailure::Menu { retry_after: Seconds(30) };
        story(
            menu,
            &[(READ, 1, 0, ""), (READ, 1, 300, "rebooting in 30 s"), (READ, 1, 330, "restart")],
        );
        let stays = "staying here, as panic=0 says; check the disk";
        story(
            OnFailure::Halt,
            &[
                (READ, 1, 0, ""),
                (READ, 1, 300, stays),
                (READ, 1, 9999, ""),
                (RUNS, 2, 10_000, "goes on"),
            ],
        );
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn who_goes_on_and_who_waits_for_events_is_not_stuck() {
        let now = OnFailure::Reboot(Seconds(0));
        // Each is another wait in the same call: a disk that answers, however slowly.
        let slow: Vec<_> = (0..100).map(|n| (READ, n, u64::from(n) * 25, "")).collect();
        story(now, &slow);
        story(now, &[(POLL, 1, 0, ""), (POLL, 1, 100_000, ""), (RUNS, 1, 200_000, "")]);
        story(
            now,
            &[
                (READ, 1, 0, ""),
                (READ, 1, 30, "has been reading"),
                (READ, 2, 35, "goes on"),
                (READ, 2, 65, "has been reading"),
                (READ, 2, 335, "FAILED"),
                (POLL, 3, 336, "goes on"),
            ],
        );
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_boot_s_deadline_holds_whatever_init_does() {
        for (call, doing) in
            [(READ, "has been reading for"), (POLL, "is still busy"), (RUNS, "is still busy")]
        {
            let mut watch = Watch::new(OnFailure::Reboot(Seconds(1)));
            watch.hear(&[&60_000_u64.to_ne_bytes()[..], b"layers"].concat());
            let mut look = |seconds: u64| {
                text(watch.look(wait(call, 1), Instant::from_millis(seconds * 1000)))
            };
            // Until then /init itself deals with it.
            assert_eq!((look(50), look(64)), (String::new(), String::new()));
            let said = look(65);
            let wanted = "FAILED: could not finish the step layers in time: /init ";
            assert!(said.contains(&[wanted, doing].concat()), "{said}");
            assert_eq!(look(66), "restart");
            // The failure screen has no deadline.
            watch.hear(&[0; 8]);
            assert!(
                text(watch.look(wait(POLL, 2), Instant::from_millis(67_000))).contains("goes on")
            );
        }
    }

    #[test]
    fn it_hears_packets_and_ends_with_the_pipe() {
        // An inner process: the test's own children are others' to wait for.
        let inner = fork(|| {
            let Ok(watcher) = Watcher::start(OnFailure::Halt) else { return 1 };
            for step in ["network", "source", "layers"] {
                watcher.tell(step, Some(Instant::now()));
            }
            drop(watcher);
            loop {
                sys::process::reap_orphans();
                match std::fs::read_to_string("/proc/thread-self/children") {
                    Ok(children) if children.is_empty() => return 0,
                    Ok(_) => std::thread::yield_now(),
                    Err(_) => return 2,
                }
            }
        });
        assert_eq!(inner.unwrap().wait(), Ok(sys::process::Exit::Status(0)));
    }
}
