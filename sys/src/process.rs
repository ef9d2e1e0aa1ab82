//! Processes: fork, exec, exit and a child that can be polled.

use alloc::vec::Vec;
use core::ffi::{CStr, c_char};
use core::ptr;

use linux_raw_sys::general::{__NR_clone, __NR_execve, __NR_exit_group, SIGCHLD};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use crate::raw::syscall;

/// A child process whose end can be waited for with poll.
///
/// Dropping it does not end the child; PID 1 reaps whatever is left.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl Child {
    /// Process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Reaps the child if it has ended; `None` while it runs.
    ///
    /// # Errors
    /// The kernel's, from waitid(2).
    pub fn try_wait(&self) -> Result<Option<Exit>, Errno> {
        self.wait_with(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Waits for the child to end and reaps it.
    ///
    /// # Errors
    /// The kernel's, from waitid(2).
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
/// The child is a copy of this process, file descriptors included, and never
/// returns from here. Only for single-threaded processes: another thread could
/// hold the allocator's lock at the moment of the copy.
///
/// # Errors
/// The kernel's, from clone(2) or pidfd_open(2).
pub fn fork(work: impl FnOnce() -> i32) -> Result<Child, Errno> {
    let flags = SIGCHLD as usize;
    // SAFETY: a plain fork: no shared memory, no new stack. The child continues
    // on its own copy of this stack.
    let pid = unsafe { syscall(__NR_clone, &[flags])? };
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        exit(work());
    };
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
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
/// Returns only on failure, with the kernel's error from execve(2).
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

/// Reaps every child that has ended and belongs to no [`Child`] any more.
///
/// PID 1 inherits orphans; unreaped they stay as zombies for ever.
pub fn reap_orphans() {
    while let Ok(Some(_)) = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {}
}
