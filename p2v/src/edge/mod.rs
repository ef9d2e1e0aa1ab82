//! The ways to send a disk, with files, sockets and processes: a file each.
//!
//! Each is one loop that ends when the disks have arrived or it is clear that they do not.
//! The machine around it is a [`World`].

mod disk;
#[cfg(test)]
mod liars;
mod nbd;
mod own;
mod serve;
mod ssh;
mod tar;
mod tcp;
mod v2v;

use alloc::format;
use alloc::string::String;
use core::time::Duration;

use overlay::digest::{Algorithm, Hasher};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use sys::clock::{Instant, poll_timeout};

pub use blockmap::{Logical, Part};
pub use disk::{BadSectors, Disk};
pub use nbd::fill;
pub use own::{Receiver, deliver, finish_guest};
pub use serve::Server;
pub use ssh::{Login, judge_for_ssh, print};
pub use tar::archive;
pub use tcp::stream;
pub use v2v::{Order, convert};

use crate::trouble::Trouble;

/// What a loop needs of the machine it runs on.
pub trait World {
    /// Tells the user one thing.
    fn say(&mut self, text: &str);

    /// Shows a line of a program at the other end.
    fn output(&mut self, line: &str);

    /// Tells how many of how many bytes are sent. Called often.
    fn progress(&mut self, done: u64, total: u64);

    /// What was sent is read back from now on: [`World::progress`] tells of that.
    fn reads_back(&mut self);

    /// Tells how many of how many bytes a server has read by itself, and how many once more.
    /// Called when they change.
    fn served(&mut self, fresh: u64, total: u64, again: u64);

    /// Called between all waits, at least once a second; false when the user has stopped it.
    fn go_on(&mut self) -> bool;
}

/// A disk that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// What `sha256sum` prints of the whole image.
    pub sha256: String,
    /// Bytes that were sent.
    pub sent: u64,
    /// The other end has the digest, too: it was read back there.
    pub compared: bool,
}

/// How long a peer may be silent while it has something to do.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause before a connection that broke is made anew.
const PAUSE: Duration = Duration::from_secs(2);
/// Connections that may break, one after another, without a byte more having arrived.
const TRIES: u32 = 10;

fn canceled() -> Trouble {
    Trouble::new("stopped at the console", "the disks are as they were")
}

/// Pauses; an error when the user has stopped it.
fn pause(world: &mut dyn World, span: Duration) -> Result<(), Trouble> {
    let end = Instant::now().after(span);
    while !end.is_past() {
        if !world.go_on() {
            return Err(canceled());
        }
        wait(&[], Some(Duration::from_millis(200)));
    }
    Ok(())
}

/// Waits until a descriptor is ready, at most so long and at most a second.
fn wait(fds: &[(BorrowedFd<'_>, PollFlags)], most: Option<Duration>) {
    let second = Duration::from_secs(1);
    let now = Instant::now();
    let end = now.after(most.unwrap_or(second).min(second));
    let mut list: alloc::vec::Vec<PollFd<'_>> =
        fds.iter().map(|(fd, what)| PollFd::from_borrowed_fd(*fd, *what)).collect();
    // The callers look at all descriptors again.
    let _ = poll(&mut list, poll_timeout(Some(end), now).as_ref());
}

/// A system error in words.
fn broken(errno: Errno) -> String {
    format!("{}", sys::errno::Shown(errno))
}

/// A digest of a disk whose holes are zeros.
#[derive(Debug)]
struct Digest {
    hasher: Hasher,
    at: u64,
}

/// Zeros, for holes.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Digest {
    fn new() -> Self {
        Self { hasher: Algorithm::Sha256.start(), at: 0 }
    }

    /// Takes the bytes at a place; those that it has are left out, since some are sent twice.
    fn bytes(&mut self, at: u64, bytes: &[u8]) {
        let known = usize::try_from(self.at.saturating_sub(at)).unwrap_or(usize::MAX);
        let new = bytes.get(known..).unwrap_or_default();
        self.hasher.update(new);
        self.at += new.len() as u64;
    }

    /// Takes zeros up to a place.
    fn zeros(&mut self, to: u64) {
        while self.at < to {
            let length = usize::try_from(to - self.at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.hasher.update(ZEROS.get(..length).unwrap_or_default());
            self.at += length as u64;
        }
    }

    fn finish(self) -> String {
        self.hasher.finish()
    }
}
