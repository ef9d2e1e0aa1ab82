//! The signals that end a session.

use crate::error::Error;
use crate::privileges::keep_no_capability;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// SIGINT, SIGTERM and SIGHUP, seen by a signalfd. They are not read from it: every thread
/// that looks sees them.
#[derive(Debug, Clone)]
pub struct Ending(Arc<SignalFd>);

impl Ending {
    /// Blocks the signals from now on. Call it before [`crate::session::start`], whose threads
    /// inherit the mask.
    ///
    /// # Errors
    /// [`Error::System`] when the kernel refuses the signal mask or the signalfd.
    pub fn expect() -> Result<Self, Error> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        let doing = |e: Errno| Error::system("wait for signals")(e.into());
        signals.thread_block().map_err(doing)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        SignalFd::with_flags(&signals, flags).map(|fd| Self(Arc::new(fd))).map_err(doing)
    }

    /// Whether one of the signals arrived.
    pub fn came(&self) -> bool {
        let mut this = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        !matches!(poll(&mut this, PollTimeout::ZERO), Ok(0) | Err(Errno::EINTR))
    }

    /// Ends the process after the first signal if it has not ended by itself within `patience`,
    /// which is asked then: a thread may be blocked in a write to a terminal that is stopped.
    /// `last` is called before.
    ///
    /// # Errors
    /// [`Error::System`] when the thread cannot be started.
    pub fn enforce(
        &self,
        patience: impl FnOnce() -> Duration + Send + 'static,
        last: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        let ending = self.clone();
        let thread = thread::Builder::new().name("ending".into()).spawn(move || {
            // As the console: `drop_root` ends the program where the kernel refuses.
            let _ = keep_no_capability();
            if ending.wait().is_ok() {
                thread::sleep(patience());
                last();
                std::process::exit(0);
            }
        });
        thread.map(drop).map_err(Error::system("start a thread"))
    }

    /// Waits for one of the signals.
    ///
    /// # Errors
    /// [`Error::System`] when poll(2) fails.
    pub fn wait(&self) -> Result<(), Error> {
        let mut this = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut this, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                Err(e) => return Err(Error::system("wait for signals")(e.into())),
                Ok(_) => return Ok(()),
            }
        }
    }
}
