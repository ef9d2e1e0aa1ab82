//! Processes: fork, exec, exit and children for poll(2).

use alloc::vec::Vec;
use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicI32, Ordering};
use core::{fmt, ptr};

use linux_raw_sys::general::{
    __NR_clone, __NR_execve, __NR_exit_group, __NR_waitid, P_ALL, SIGCHLD,
};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::raw::syscall;

/// A child process whose exit can be waited for with poll(2).
///
/// Dropping it does not end the child; [`reap_orphans`] reaps it.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

/// Processes that a [`Child`] will reap. A process without a place here is taken for an
/// orphan; so many at once are never started.
static OURS: [AtomicI32; 32] = [const { AtomicI32::new(0) }; 32];

fn replace(old: i32, new: i32) {
    let slot = OURS.iter().find(|slot| slot.load(Ordering::Relaxed) == old);
    if let Some(slot) = slot {
        slot.store(new, Ordering::Relaxed);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        replace(self.pid(), 0);
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Status(i32),
    /// It was killed by this signal.
    Signal(i32),
}

/// Signals that end programs by themselves; others are shown by number.
const SIGNALS: [(i32, &str); 9] = [
    (2, "SIGINT"),
    (4, "SIGILL"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (9, "SIGKILL"),
    (11, "SIGSEGV"),
    (13, "SIGPIPE"),
    (15, "SIGTERM"),
];

impl fmt::Display for Exit {
    /// As the end of a sentence: "ended with status 3", "was killed by signal 9 (SIGKILL)".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "ended with status {status}"),
            Self::Signal(signal) => {
                write!(f, "was killed by signal {signal}")?;
                match SIGNALS.iter().find(|(number, _)| number == signal) {
                    Some((_, name)) => write!(f, " ({name})"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl Child {
    /// Process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Kills the child and reaps it.
    pub fn end(&self) {
        // A child that has ended already is what is wanted.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = self.wait();
    }

    /// Reaps the child if it has ended; `None` while it runs.
    ///
    /// # Errors
    /// The errno of waitid(2).
    pub fn try_wait(&self) -> Result<Option<Exit>, Errno> {
        self.wait_with(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Waits for the child to end and reaps it.
    ///
    /// # Errors
    /// The errno of waitid(2).
    pub fn wait(&self) -> Result<Exit, Errno> {
        loop {
            match self.wait_with(WaitIdOptions::EXITED) {
                Ok(Some(exit)) => return Ok(exit),
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn wait_with(&self, options: WaitIdOptions) -> Result<Option<Exit>, Errno> {
        let ended = waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
        Ok(ended.map(|status| match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Status(code),
            (None, signal) => Exit::Signal(signal.unwrap_or(0)),
        }))
    }
}

impl AsFd for Child {
    /// Readable once the child has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Runs `work` in a child process; its result is the exit status.
///
/// The child is a copy of this process, file descriptors included, and never returns from here.
/// Only for single-threaded processes: another thread could hold the allocator's lock during
/// the copy.
///
/// # Errors
/// The errno of clone(2) or pidfd_open(2).
pub fn fork(work: impl FnOnce() -> i32) -> Result<Child, Errno> {
    let flags = SIGCHLD as usize;
    // SAFETY: a plain fork: no shared memory, no new stack. The child continues
    // on its own copy of this stack.
    let pid = unsafe { syscall(__NR_clone, &[flags])? };
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        exit(work());
    };
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    replace(0, pid.as_raw_nonzero().get());
    Ok(Child { pid, pidfd })
}

/// Ends the process at once, without destructors.
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: takes one integer and does not return.
        let _ = unsafe { syscall(__NR_exit_group, &[status as usize]) };
    }
}

/// Replaces this process by the program at `path`.
///
/// Returns only on failure, with the errno of execve(2).
pub fn exec(path: &CStr, args: &[&CStr], env: &[&CStr]) -> Errno {
    let args = pointers(args);
    let env = pointers(env);
    // SAFETY: three NUL-terminated strings or NULL-terminated arrays of them,
    // all alive for the call.
    let result = unsafe {
        syscall(
            __NR_execve,
            &[path.as_ptr() as usize, args.as_ptr() as usize, env.as_ptr() as usize],
        )
    };
    result.err().unwrap_or(Errno::NOEXEC)
}

fn pointers(strings: &[&CStr]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// Reaps every exited child without a [`Child`].
///
/// PID 1 inherits orphans; unreaped they stay zombies. Stops at a child of a [`Child`]: the
/// ones after it are for the next call.
pub fn reap_orphans() {
    while let Some(pid) = ended() {
        let ours =
            OURS.iter().any(|slot| slot.load(Ordering::Relaxed) == pid.as_raw_nonzero().get());
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        if ours || waitid(WaitId::Pid(pid), look).is_err() {
            return;
        }
    }
}

/// A child that has exited and is not reaped yet. rustix does not tell which.
fn ended() -> Option<Pid> {
    /// `siginfo_t` is 128 bytes long on every architecture; on 64-bit ones `si_pid`
    /// of a child is its fifth word.
    const PID: usize = 4;
    let mut info = [0_i32; 32];
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // SAFETY: the kernel writes at most 128 bytes, which is the buffer's size; a null
    // pointer for resource usage is allowed.
    let waited = unsafe {
        syscall(
            __NR_waitid,
            &[P_ALL as usize, 0, info.as_mut_ptr() as usize, look.bits() as usize, 0],
        )
    };
    waited.ok()?;
    info.get(PID).copied().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_somebody_waits_for_is_no_orphan() {
        // An inner process: the test's own children are others' to wait for.
        let outer = fork(|| {
            let Ok(ours) = fork(|| 7) else { return 1 };
            let Ok(forgotten) = fork(|| 0) else { return 2 };
            let forgotten_pid = forgotten.pid();
            drop(forgotten);
            for _ in 0..2000 {
                reap_orphans();
                match ours.try_wait() {
                    Ok(None) => std::thread::sleep(std::time::Duration::from_millis(1)),
                    Ok(Some(Exit::Status(7))) => break,
                    _ => return 3,
                }
            }
            for _ in 0..2000 {
                reap_orphans();
                if !std::path::Path::new(&std::format!("/proc/{forgotten_pid}")).exists() {
                    return 0;
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            4
        });
        assert_eq!(outer.unwrap().wait(), Ok(Exit::Status(0)));
    }
}
