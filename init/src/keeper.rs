//! The process that stays behind when the root is a network block device: when a
//! connection is lost it connects anew and hands the connection to the kernel,
//! which meanwhile lets the root's readers and writers wait.
//!
//! It sees that a connection is lost by sockets that it shares with the kernel: the
//! kernel shuts down what no longer serves. Like the other process that stays (see
//! [`crate::watch`]) it is our own program under a name that begins with `@`, which
//! systemd leaves alone at shutdown, and it holds on to nothing of the root.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use cmdline::plan::NbdSource;
use netboot::nbd::{self, Connected, NbdError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use sys::clock::Instant;
use sys::process::Child;

use crate::watch::{self, Voice};

/// The name it runs under.
pub const NAME: &CStr = c"@bellwether-nbd";

/// How long a server may take to answer.
const LIMIT: Duration = Duration::from_secs(15);

/// Pauses between two tries grow to this, in seconds.
const MAX_PAUSE: u64 = 5;

/// Starts it for a device; who lets go of the device ends it.
///
/// # Errors
/// The kernel's.
pub fn start(
    index: u32,
    server: Ipv4Addr,
    source: &NbdSource,
    connected: &Connected,
) -> Result<Child, Errno> {
    let mut words = Vec::from([
        format!("{index}"),
        format!("{server}:{}", source.port),
        format!("{}", connected.export.size),
        source.export.clone(),
    ]);
    words.extend(connected.sockets.iter().map(|socket| format!("{}", socket.as_raw_fd())));
    let words: Vec<CString> =
        words.into_iter().map(|word| CString::new(word).unwrap_or_default()).collect();
    let words: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
    watch::spawn(NAME, &words, &connected.sockets)
}

/// What there is to keep.
struct Keeper<'a> {
    index: u32,
    server: SocketAddrV4,
    size: u64,
    export: &'a str,
    sockets: Vec<OwnedFd>,
}

/// The process itself; ends when the device was taken down.
pub fn run(args: impl Iterator<Item = &'static CStr>) -> i32 {
    let Some(mut keeper) = Keeper::read(args) else { return 2 };
    let Some(mut voice) = Voice::open() else { return 1 };
    // Memory that is short is got back by reading the root: not by ending this.
    let _ = sys::file::write_file("/proc/self/oom_score_adj", b"-1000", 0);
    loop {
        let before = keeper.sockets.len();
        keeper.wait();
        let mut lost = before - keeper.sockets.len();
        if lost == 0 {
            continue;
        }
        let since = Instant::now();
        let (name, server) = (keeper.export, keeper.server);
        voice.say(&format!(
            "WARNING: NBD {server}/{name} does not answer any more; what needs the root waits until it does"
        ));
        while lost > 0 {
            if !keeper.connect(&mut voice) {
                return 0;
            }
            lost -= 1;
        }
        let seconds = Instant::now().since(since).as_secs();
        voice.say(&format!("NBD {server}/{name} is connected again after {seconds} s"));
    }
}

impl Keeper<'_> {
    fn read(mut args: impl Iterator<Item = &'static CStr>) -> Option<Self> {
        let mut word = || args.next()?.to_str().ok();
        let (index, server, size, export) = (word()?, word()?, word()?, word()?);
        let mut sockets = Vec::new();
        // A descriptor becomes ours by asking for it as if it were another process's.
        let this = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
        while let Some(socket) = word() {
            let socket = socket.parse().ok()?;
            sockets.push(pidfd_getfd(&this, socket, PidfdGetfdFlags::empty()).ok()?);
        }
        Some(Keeper {
            index: index.parse().ok()?,
            server: server.parse().ok()?,
            size: size.parse().ok()?,
            export,
            sockets,
        })
    }

    /// Waits until connections are lost, and forgets those.
    fn wait(&mut self) {
        let lost: Vec<bool> = {
            let fds = self.sockets.iter();
            // Nothing is asked for: errors and hang-ups are told always.
            let mut fds: Vec<PollFd<'_>> =
                fds.map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::empty())).collect();
            // Interrupted, no descriptor has news, and the caller waits again.
            let _ = poll(&mut fds, None);
            fds.iter().map(|fd| !fd.revents().is_empty()).collect()
        };
        let mut lost = lost.into_iter();
        self.sockets.retain(|_| !lost.next().unwrap_or(false));
    }

    /// Puts one connection in the place of a lost one, however long that takes;
    /// false when the device is gone.
    fn connect(&mut self, voice: &mut Voice) -> bool {
        let mut pause = 1;
        let mut told = String::new();
        loop {
            let (server, port) = (*self.server.ip(), self.server.port());
            let why = match nbd::connect(server, port, self.export, 1, LIMIT) {
                Ok(connected) if connected.export.size == self.size => {
                    match nbd::reconnect(self.index, &connected) {
                        Ok(()) => {
                            self.sockets.extend(connected.sockets);
                            return true;
                        }
                        Err(NbdError::Kernel(error)) if error.errno == Errno::INVAL => {
                            return false;
                        }
                        // The kernel has not noticed yet.
                        Err(_) => String::new(),
                    }
                }
                Ok(other) => format!(
                    "it has {} bytes now instead of {}, and is not the same any more",
                    other.export.size, self.size
                ),
                // What a server does that is down or starting.
                Err(error) if error.is_transient() => String::new(),
                Err(error) => format!("{error}"),
            };
            if !why.is_empty() && why != told {
                voice.say(&format!("NBD {}: {why}", self.server));
                told = why;
            }
            watch::pause(pause);
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
}
