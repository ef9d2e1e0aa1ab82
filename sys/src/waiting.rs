//! In which system call another process waits, as proc(5) tells: `/proc/PID/syscall`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use linux_raw_sys::general as linux;
use rustix::fs::{CWD, readlinkat};

use crate::file::{c_path, read_file};

/// What a system call is to who asks where a process hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A wait for events, for another process, or for a time: it is meant to last.
    Wait,
    /// It is done when the kernel has done it.
    Work,
    /// The same with a descriptor as its first argument.
    Descriptor,
}

const CALLS: &[(u32, Kind, &str)] = &[
    #[cfg(target_arch = "x86_64")]
    (linux::__NR_poll, Kind::Wait, "waiting for events"),
    (linux::__NR_ppoll, Kind::Wait, "waiting for events"),
    (linux::__NR_waitid, Kind::Wait, "waiting for a program"),
    (linux::__NR_nanosleep, Kind::Wait, "waiting for a time"),
    (linux::__NR_clock_nanosleep, Kind::Wait, "waiting for a time"),
    (linux::__NR_fsconfig, Kind::Work, "mounting a file system"),
    (linux::__NR_mount, Kind::Work, "mounting a file system"),
    (linux::__NR_move_mount, Kind::Work, "mounting a file system"),
    (linux::__NR_umount2, Kind::Work, "unmounting a file system"),
    #[cfg(target_arch = "x86_64")]
    (linux::__NR_open, Kind::Work, "opening a file"),
    #[cfg(target_arch = "x86_64")]
    (linux::__NR_access, Kind::Work, "looking at a file"),
    (linux::__NR_openat, Kind::Work, "opening a file"),
    (linux::__NR_openat2, Kind::Work, "opening a file"),
    (linux::__NR_newfstatat, Kind::Work, "looking at a file"),
    (linux::__NR_faccessat2, Kind::Work, "looking at a file"),
    (linux::__NR_sync, Kind::Work, "writing everything back to the disks"),
    (linux::__NR_getdents64, Kind::Descriptor, "reading the directory"),
    (linux::__NR_read, Kind::Descriptor, "reading"),
    (linux::__NR_pread64, Kind::Descriptor, "reading"),
    (linux::__NR_write, Kind::Descriptor, "writing"),
    (linux::__NR_pwrite64, Kind::Descriptor, "writing"),
    (linux::__NR_close, Kind::Descriptor, "closing"),
    (linux::__NR_ioctl, Kind::Descriptor, "asking the driver of"),
    (linux::__NR_finit_module, Kind::Descriptor, "loading"),
];

/// A wait in a system call. Two are equal when it is the same wait: the same call from
/// the same place, and none was finished in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pid: i32,
    /// The call; then what the process has read and written so far.
    text: Vec<u8>,
}

/// In which system call a process waits; `None` when it runs, or that cannot be known.
#[must_use]
pub fn of(pid: i32) -> Option<Waiting> {
    let read = |name| read_file(&format!("/proc/{pid}/{name}"), 8 << 10).ok();
    let call = read("syscall")?;
    // Kernels without this count at least how often the process has slept; a wait for an
    // NFS server sleeps often, and is not known for one wait then.
    let progress = read("io").or_else(|| {
        let status = read("status")?;
        let mut lines = status.split(|byte| *byte == b'\n');
        Some(lines.find(|line| line.starts_with(b"voluntary_ctxt_switches"))?.to_vec())
    });
    Waiting::new(pid, call, &progress?)
}

impl Waiting {
    /// A process's wait by the text of its `syscall` and by what changes when a call of
    /// the same kind is finished; `None` when it runs.
    #[must_use]
    pub fn new(pid: i32, call: Vec<u8>, progress: &[u8]) -> Option<Self> {
        let mut text = call;
        // "running", or the number, six arguments and two addresses.
        if !text.first()?.is_ascii_digit() {
            return None;
        }
        text.extend_from_slice(progress);
        Some(Self { pid, text })
    }

    fn word(&self, at: usize) -> &str {
        let word = self.text.split(|byte| *byte == b' ').nth(at).unwrap_or_default();
        core::str::from_utf8(word).unwrap_or_default()
    }

    fn known(&self) -> Option<(Kind, &'static str)> {
        let number = self.word(0).parse().ok()?;
        let call = CALLS.iter().find(|(known, ..)| *known == number)?;
        Some((call.1, call.2))
    }

    /// Whether the call is a wait for events, for another process or for a time.
    #[must_use]
    pub fn is_meant(&self) -> bool {
        matches!(self.known(), Some((Kind::Wait, _)))
    }

    /// What the process does, as in "reading /dev/sda".
    #[must_use]
    pub fn doing(&self) -> String {
        let (what, of) = match self.known() {
            Some((_, what)) => (what, self.file().unwrap_or_default()),
            None => ("in system call", self.word(0).into()),
        };
        [what, if of.is_empty() { "" } else { " " }, &of].concat()
    }

    /// The file that the call is about, where that is known.
    #[must_use]
    pub fn file(&self) -> Option<String> {
        let Some((Kind::Descriptor, _)) = self.known() else { return None };
        let number = u32::from_str_radix(self.word(1).strip_prefix("0x")?, 16).ok()?;
        let path = c_path(format!("/proc/{}/fd/{number}", self.pid).as_bytes()).ok()?;
        // A link of the kernel's own: no server is asked.
        let to = readlinkat(CWD, &*path, Vec::new()).ok()?;
        Some(String::from_utf8_lossy(to.to_bytes()).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Child, fork};
    use rustix::pipe::pipe;
    use rustix::process::{Pid, Signal, kill_process};

    /// A child that waits in what `work` does, once it does.
    fn waits(work: impl FnOnce()) -> (Child, Waiting) {
        let child = fork(|| {
            work();
            0
        })
        .unwrap();
        let mut last = None;
        loop {
            // A wait that is the same twice has begun.
            match of(child.pid()) {
                Some(now) if last.as_ref() == Some(&now) => return (child, now),
                now => last = now,
            }
            std::thread::yield_now();
        }
    }

    fn end(child: &Child) {
        kill_process(Pid::from_raw(child.pid()).unwrap(), Signal::KILL).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_wait_names_what_it_waits_for() {
        let (reader, writer) = pipe().unwrap();
        let (child, waiting) = waits(|| {
            let _ = rustix::io::read(&reader, &mut [0; 1]);
            let _ = rustix::io::read(&reader, &mut [0; 1]);
        });
        assert!(!waiting.is_meant());
        let text = waiting.doing();
        assert!(text.starts_with("reading pipe:["), "{text}");
        assert_eq!(waiting.file().as_deref(), text.strip_prefix("reading "));
        // The next wait in the same place is another one.
        rustix::io::write(&writer, b"x").unwrap();
        while of(child.pid()).is_none_or(|now| now == waiting) {
            std::thread::yield_now();
        }
        end(&child);
        assert_eq!(of(child.pid()), None);
    }

    #[test]
    fn a_wait_for_events_is_meant_and_one_that_runs_waits_for_nothing() {
        let (reader, _writer) = pipe().unwrap();
        let (child, waiting) = waits(|| {
            use rustix::event::{PollFd, PollFlags, poll};
            let _ = poll(&mut [PollFd::new(&reader, PollFlags::IN)], None);
        });
        assert!(waiting.is_meant());
        assert_eq!((waiting.doing().as_str(), waiting.file()), ("waiting for events", None));
        end(&child);
        assert_eq!(Waiting::new(1, b"running\n".to_vec(), b""), None);
        let odd = Waiting::new(1, b"9999 0x1".to_vec(), b"").unwrap();
        assert_eq!((odd.is_meant(), odd.doing().as_str()), (false, "in system call 9999"));
    }
}
