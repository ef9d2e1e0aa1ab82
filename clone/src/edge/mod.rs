//! Where the state machines meet sockets: loops that move the bytes.
//!
//! One loop a protocol and role, the same in `/init` and in the host command.
//! What differs between those two, files and disks, names and the user's
//! screen, is behind [`World`], [`Store`] and [`Source`]. Data goes to the next
//! nodes before it goes to the disk; a [`Ring`] bounds what
//! is held meanwhile.
//!
//! IPv4 only, as the programs that these protocols come from.

pub mod dolly;
pub mod dollyplus;
pub mod ka;
pub mod net;
pub mod udpcast;

use crate::cook::Cook;
use crate::digest::Digest;
use crate::ring::Ring;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use core::net::Ipv4Addr;
use core::time::Duration;

/// What a loop needs of the machine it runs on.
pub trait World {
    /// Time since some fixed moment.
    fn now(&mut self) -> Duration;

    /// A host's address.
    ///
    /// # Errors
    /// When the name is not known.
    fn resolve(&mut self, host: &str) -> Result<Ipv4Addr, String>;

    /// Tells the user one thing.
    fn say(&mut self, text: &str);

    /// Tells the user how far it is. Called often.
    fn progress(&mut self, done: u64, total: Option<u64>);

    /// Opens what the received bytes go to, before anyone waits for this node.
    ///
    /// # Errors
    /// When it cannot be written to; says its name and why.
    fn open(&mut self, target: &Target<'_>) -> Result<Box<dyn Store>, String>;
}

/// What is to be written, as the sender names it.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its name; empty when the protocol has none.
    pub path: &'a str,
    /// It must be there already.
    pub existing: bool,
    /// What is to be done with the bytes on the way.
    pub cook: Cook,
    /// Into parts of this many bytes, `NAME_0`, `NAME_1` and so on.
    pub split: Option<u64>,
}

/// What takes the received bytes.
pub trait Store {
    /// Takes the beginning of `bytes` and says how much that was; 0 when it
    /// has enough to do for now.
    ///
    /// # Errors
    /// When it cannot be stored; nothing more is then offered.
    fn put(&mut self, bytes: &[u8]) -> Result<usize, String>;

    /// No more will come.
    fn end(&mut self);

    /// After [`Store::end`]: whether all is stored, and the digest of it.
    fn done(&mut self) -> Option<Result<Digest, String>>;
}

/// Where sent bytes come from.
pub trait Source {
    /// The next bytes; 0 at the end, nothing when they are not there yet.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, String>;

    /// The length, where it is known.
    fn length(&self) -> Option<u64>;
}

/// How long to wait when something that cannot be waited for is busy.
const SOON: Duration = Duration::from_millis(3);

/// A node's own copy of the stream in its ring.
#[derive(Default)]
struct Keep {
    store: Option<Box<dyn Store>>,
    stored: u64,
    digest: Option<Digest>,
}

impl Keep {
    fn new(store: Box<dyn Store>) -> Self {
        Self { store: Some(store), ..Self::default() }
    }

    /// The position that must not be lost.
    fn needed(&self, ring: &Ring) -> u64 {
        if self.store.is_some() { self.stored } else { ring.end() }
    }

    /// How long the network alone may be waited for.
    fn limit(&self, ring: &Ring, complete: bool) -> Duration {
        let busy = self.store.is_some() && (complete || self.stored < ring.end());
        if busy { SOON } else { Duration::from_secs(1) }
    }

    /// Stores what can be stored now; how it ended, the moment it has.
    fn step(
        &mut self,
        ring: &Ring,
        complete: bool,
        world: &mut dyn World,
    ) -> Option<Result<Digest, String>> {
        let store = self.store.as_mut()?;
        let mut ended = None;
        while let Some(bytes) = ring.from(self.stored).filter(|b| !b.is_empty()) {
            match store.put(bytes) {
                Ok(0) => break,
                Ok(n) => self.stored += n as u64,
                Err(why) => {
                    world.say(&format!("cannot store, but goes on relaying: {why}"));
                    ended = Some(Err(why));
                    break;
                }
            }
        }
        if ended.is_none() && complete && self.stored == ring.end() {
            store.end();
            ended = store.done();
        }
        if let Some(how) = &ended {
            self.store = None;
            self.digest = how.as_ref().ok().copied();
        }
        ended
    }
}
