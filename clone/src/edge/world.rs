//! What the loops need of the machine they run on: a clock, names, files, a UDP socket
//! and the user's screen.

use super::net::{Datagrams, Udp};
use super::place::Place;
use crate::Error;
use crate::cook::Cook;
use crate::guard::{Announcement, Kept, Pin};
use crate::outcome::Client;
#[cfg(feature = "files")]
use crate::room::manifest::Manifest;
#[cfg(feature = "room")]
use crate::room::{Ask, Told};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
#[cfg(feature = "files")]
use alloc::sync::Arc;
use alloc::vec::Vec;
#[cfg(feature = "room")]
use core::fmt::{self, Debug};
use core::net::Ipv4Addr;
use core::time::Duration;

/// The users that a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Every user.
    News,
    /// A user that looks for a fault: what single machines say.
    Detail,
}

/// What a thread does.
pub type Work = Box<dyn FnOnce() + Send>;

/// What a loop needs of the machine it runs on.
pub trait World {
    /// Time since some fixed moment.
    fn now(&mut self) -> Duration;

    /// A host's address.
    ///
    /// # Errors
    /// The name is unknown, or has no IPv4 address.
    fn resolve(&mut self, host: &str) -> Result<Ipv4Addr, String>;

    /// Tells the user one thing.
    fn say(&mut self, level: Level, text: &str);

    /// Tells the user how far it is. Called often.
    fn progress(&mut self, done: u64, total: Option<u64>);

    /// Tells the user of the machines, about once a second: how many chunks the disk of each has,
    /// of how many, and whether the copy has begun.
    fn nodes(&mut self, _clients: &[Client], _have: &[u32], _of: u32, _begun: bool) {}

    /// Tells the user how many blocks were sent again so far. Called often.
    fn resent(&mut self, _blocks: u64) {}

    /// Opens the place that the received bytes go to, before a sender hears of this
    /// machine.
    ///
    /// # Errors
    /// The place cannot be written to: its name and the reason.
    fn open(&mut self, target: &Target<'_>) -> Result<Box<dyn Store>, String>;

    /// Opens the disks and files for a copy that comes chunk by chunk, before a sender hears of
    /// this machine. They keep all their bytes until then.
    ///
    /// # Errors
    /// One cannot be written to: its name and the reason.
    fn places(&mut self) -> Result<Vec<Place>, String> {
        Err("this program writes no copy".to_owned())
    }

    /// What takes a copy of this manifest instead of [`World::places`].
    ///
    /// # Errors
    /// It does not: its name and the reason.
    #[cfg(feature = "files")]
    fn shelf(&mut self, _manifest: &Arc<Manifest>) -> Result<Option<Box<dyn Shelf>>, String> {
        Ok(None)
    }

    /// The digest that the user wants the copy to have.
    fn pinned(&self) -> Option<&Pin> {
        None
    }

    /// What starts a thread for slow disks, where the program can have one.
    fn thread(&self) -> Option<fn(Work)> {
        None
    }

    /// Whether the user wants what was written to be read back.
    fn reads_back(&self) -> bool {
        true
    }

    /// Whether the disk keeps its partition table, and gets what partitions hold and boot code alone.
    #[cfg(feature = "own-table")]
    fn keeps_table(&self) -> bool {
        false
    }

    /// Opens the file of this number, to be sent.
    ///
    /// # Errors
    /// It cannot be read: its name and the reason. `/init` has nothing to send.
    fn source(&mut self, _number: usize) -> Result<Box<dyn Source>, String> {
        Err("this program sends nothing".to_owned())
    }

    /// What is known of the file of this number before it is sent.
    fn known(&mut self, _number: usize) -> Announcement {
        Announcement::default()
    }

    /// Opens a UDP socket at this port of all addresses.
    ///
    /// # Errors
    /// [`Error::Port`]: another program has the port, or the system refuses.
    fn datagrams(&mut self, port: u16) -> Result<Box<dyn Datagrams>, Error> {
        Ok(Box::new(Udp::open(port)?))
    }
}

/// What keeps the chunks of a copy.
#[cfg(feature = "room")]
pub trait Shelf: Send {
    /// Does what is asked; `tick` is called as long as it does.
    fn ask(&mut self, ask: Ask, tick: &mut dyn FnMut()) -> Told;
}

/// Each one's own would make `/init` larger by 7 kB.
#[cfg(feature = "room")]
impl Debug for dyn Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shelf")
    }
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

impl Target<'_> {
    /// One stream of bytes, of a protocol that names no file.
    pub const UNNAMED: Target<'static> = Target {
        path: "",
        existing: false,
        cook: Cook { unpack: None, archive: None },
        split: None,
    };
}

/// What takes the received bytes.
pub trait Store {
    /// What the sender tells of the bytes: before the first ones, and again when it tells more.
    ///
    /// # Errors
    /// They cannot be stored: the disk is too small, or the user wants others.
    fn announce(&mut self, _told: &Announcement) -> Result<(), String> {
        Ok(())
    }

    /// Takes the beginning of `bytes` and says how much that was; 0 when it
    /// has enough to do for now.
    ///
    /// # Errors
    /// The bytes cannot be stored, and why; nothing more is then offered.
    fn put(&mut self, bytes: &[u8]) -> Result<usize, String>;

    /// No more will come.
    fn end(&mut self);

    /// After [`Store::end`]: whether all is stored. Called until it says so.
    fn done(&mut self) -> Option<Result<Kept, String>>;
}

/// Where sent bytes come from.
pub trait Source {
    /// The next bytes; 0 at the end, nothing when they are not there yet.
    ///
    /// # Errors
    /// The bytes cannot be read, and why.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, String>;

    /// The length, where it is known.
    fn length(&self) -> Option<u64>;
}
