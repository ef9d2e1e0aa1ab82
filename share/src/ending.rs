//! The signals that end a session.

use crate::error::Error;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;

/// SIGINT, SIGTERM and SIGHUP, read from a signalfd.
#[derive(Debug)]
pub struct Ending(SignalFd);

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
        SignalFd::with_flags(&signals, flags).map(Self).map_err(doing)
    }

    /// Whether one of the signals arrived.
    pub fn came(&self) -> bool {
        !matches!(self.0.read_signal(), Ok(None))
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
