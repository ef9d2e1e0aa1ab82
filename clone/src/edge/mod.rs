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
#[cfg(feature = "room")]
pub mod image;
pub mod ka;
pub mod net;
pub mod place;
pub mod protocol;
mod relay;
#[cfg(feature = "room")]
pub mod room;
#[cfg(test)]
mod testing;
pub mod udpcast;
pub mod world;

pub use protocol::{Here, Order, Pins, Protocol};
pub use world::{Level, Source, Store, Target, World};

use crate::Error;
use crate::outcome::Received;

/// Receives by a protocol with its defaults and this argument.
pub type Receive = fn(&str, &Here, &mut dyn World) -> Result<Received, Error>;

fn receive<P: Protocol>(arg: &str, here: &Here, world: &mut dyn World) -> Result<Received, Error> {
    P::new(arg)?.receive(here, world)
}

/// All receivers by the names of their protocols. Senders are not in the table, so that
/// `/init`, which only receives, links none.
pub static RECEIVERS: &[(&str, Receive)] = &[
    ("udpcast", receive::<udpcast::Udpcast>),
    ("dolly", receive::<dolly::Dolly>),
    ("dollyplus", receive::<dollyplus::DollyPlus>),
    ("ka", receive::<ka::Ka>),
    #[cfg(feature = "room")]
    ("room", receive::<room::Room>),
    #[cfg(feature = "room")]
    ("target", receive::<room::Room>),
    #[cfg(feature = "room")]
    ("image", receive::<image::Image>),
];

/// The receiver of the protocol of this name.
#[must_use]
pub fn receiver(name: &str) -> Option<Receive> {
    RECEIVERS.iter().find(|row| row.0 == name).map(|row| row.1)
}
