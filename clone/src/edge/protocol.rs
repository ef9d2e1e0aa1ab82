//! What all protocols have in common for the programs that use them.

use super::world::{Level, World};
use crate::Error;
use crate::cook::Output;
use crate::digest::Digest;
use crate::outcome::{Client, Patience, Received, Sent};
use crate::pact::{Key, Nonce, Pact};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use rustix::fd::BorrowedFd;

/// A protocol as it is configured.
pub trait Protocol: Sized {
    /// The protocol with its defaults. `argument` follows the protocol's name on a line: a
    /// session's name or a port, or nothing.
    ///
    /// # Errors
    /// [`Error::Unfit`]: the argument is none of this protocol's.
    fn new(argument: &str) -> Result<Self, Error>;

    /// Waits for a sender, and receives, stores and relays what it sends.
    ///
    /// # Errors
    /// Any [`Error`]: this machine has no whole copy.
    fn receive(&self, here: &Here, world: &mut dyn World) -> Result<Received, Error>;

    /// Waits for the machines, and sends them the world's files. That a machine has no copy
    /// is no error where the others go on: see [`Sent::clients`].
    ///
    /// # Errors
    /// [`Error::Gone`] when no machine has a whole copy, [`Error::Stalled`] when nothing moves,
    /// [`Error::Source`] when a file cannot be read, [`Error::Port`] or [`Error::Unfit`] before
    /// any machine is told. The world was told how it stands with each machine.
    fn send(&self, order: &Order<'_>, world: &mut dyn World) -> Result<Sent, Error>;
}

/// This machine, as protocols name it.
#[derive(Debug, Clone)]
pub struct Here {
    /// Its address on the network of the copy.
    pub address: Ipv4Addr,
    /// The broadcast address of that network.
    pub broadcast: Ipv4Addr,
    /// The names and addresses by which lists of machines may name it.
    pub names: Vec<String>,
    /// The address whose TCP ports are opened, and from which connections are made;
    /// [`Ipv4Addr::UNSPECIFIED`] for every address.
    pub listen: Ipv4Addr,
    /// How long it waits.
    pub patience: Patience,
    /// What it knows of the other machines.
    pub pins: Pins,
}

/// The machines that a copy is taken from, or sent to; by default any.
#[derive(Debug, Clone, Default)]
pub struct Pins {
    /// A receiver takes nothing from other addresses. The sender's is the first; in a chain or
    /// a ring, those of the machines before this one follow.
    pub from: Vec<Ipv4Addr>,
    /// The key that all machines know.
    pub key: Option<Key>,
    /// The password of openSUSE's Dolly.
    pub password: Option<String>,
}

/// The machines from which nothing is taken: each is named to the user once.
#[derive(Debug, Default)]
pub(super) struct Strangers(Vec<Ipv4Addr>);

impl Strangers {
    /// So many are named.
    const MOST: usize = 16;

    pub(super) fn meet(&mut self, from: Ipv4Addr, why: &str, world: &mut dyn World) {
        if !self.0.contains(&from) && self.0.len() < Self::MOST {
            self.0.push(from);
            world.say(Level::News, &format!("takes nothing from {from}: {why}"));
        }
    }
}

/// Why nothing is taken from a machine that [`Pins::from`] does not name.
pub(super) const NOT_NAMED: &str = "bw.clone.from= or --from names other machines";

impl Here {
    /// Whether a copy may come from this address.
    #[must_use]
    pub fn takes(&self, from: Ipv4Addr) -> bool {
        self.pins.from.is_empty() || self.pins.from.contains(&from)
    }

    /// A receiver's key, and a nonce.
    pub(super) fn keyed(&self) -> Option<(Key, Nonce)> {
        self.pins.key.clone().map(|key| (key, super::net::random()))
    }

    /// A sender's session with its key.
    pub(super) fn pact(&self, protocol: &'static str) -> Option<Pact> {
        let key = self.pins.key.clone();
        key.map(|key| Pact::new(key, protocol, super::net::random()))
    }
}

/// What is sent, and to which machines.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// This machine.
    pub here: &'a Here,
    /// The machines, in the order of a chain. Protocols without a list of machines wait for
    /// so many.
    pub clients: &'a [String],
    /// What the files are called at the machines. Protocols without names send the first.
    pub files: &'a [Output],
    /// Its first readable bytes start the copy before all machines are there: a terminal.
    pub start: Option<BorrowedFd<'a>>,
}

impl<'a> Order<'a> {
    /// For protocols that need no lists.
    #[must_use]
    pub const fn of(here: &'a Here) -> Self {
        Self { here, clients: &[], files: &[], start: None }
    }
}

/// Joins a result and the machines. Of a copy that failed the user hears how it stands with
/// each.
pub(super) fn sent(
    result: Result<Vec<Digest>, Error>,
    clients: Vec<Client>,
    world: &mut dyn World,
) -> Result<Sent, Error> {
    if result.is_err() {
        for Client { name, standing, .. } in &clients {
            world.say(Level::News, &format!("  {name:<20} {standing}"));
        }
    }
    Ok(Sent { digests: result?, clients })
}
