//! What all protocols have in common for the programs that use them.

use super::world::{Level, World};
use crate::Error;
use crate::cook::Output;
use crate::digest::Digest;
use crate::outcome::{Client, Patience, Received, Sent};
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
