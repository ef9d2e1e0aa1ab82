//! Where the state machines meet sockets: loops that move the bytes.
//!
//! One loop a protocol and role, the same in `/init` and in the host command.
//! What differs between those two, files and disks, names and the user's
//! screen, is behind [`World`], [`Store`] and [`Source`]. Data goes to the next
//! nodes before it goes to the disk; a [`Ring`](crate::ring::Ring) bounds what
//! is held meanwhile.
//!
//! IPv4 only, as the programs that these protocols come from.

pub mod dolly;
pub mod dollyplus;
pub mod ka;
pub mod net;
pub mod protocol;
mod relay;
#[cfg(test)]
mod testing;
pub mod udpcast;
pub mod world;

pub use protocol::{Here, Order, Protocol};
pub use world::{Level, Source, Store, Target, World};

use crate::Error;
use crate::outcome::{Received, Sent};

/// Receives by a protocol with its defaults and this argument.
pub type Receive = fn(&str, &Here, &mut dyn World) -> Result<Received, Error>;
/// Sends by a protocol with its defaults and this argument.
pub type Send = fn(&str, &Order<'_>, &mut dyn World) -> Result<Sent, Error>;

fn receive<P: Protocol>(arg: &str, here: &Here, world: &mut dyn World) -> Result<Received, Error> {
    P::new(arg)?.receive(here, world)
}

fn send<P: Protocol>(arg: &str, order: &Order<'_>, world: &mut dyn World) -> Result<Sent, Error> {
    P::new(arg)?.send(order, world)
}

/// Two tables of the same rows: a program that uses the receivers alone, as `/init` does,
/// links no sender.
macro_rules! protocols {
    ($($name:literal: $protocol:ty,)*) => {
        /// All receivers by the names of their protocols.
        pub static RECEIVERS: &[(&str, Receive)] = &[$(($name, receive::<$protocol>),)*];
        /// All senders, in the same order.
        pub static SENDERS: &[(&str, Send)] = &[$(($name, send::<$protocol>),)*];
    };
}

protocols! {
    "udpcast": udpcast::Udpcast,
    "dolly": dolly::Dolly,
    "dollyplus": dollyplus::DollyPlus,
    "ka": ka::Ka,
}

/// The row of this name.
#[must_use]
pub fn named<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|row| row.0 == name).map(|row| row.1)
}
