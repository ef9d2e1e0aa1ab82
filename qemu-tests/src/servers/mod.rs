//! The servers of a lab: the programs that real sites run, each with its own
//! configuration and log, all stopped when dropped.

mod clone;
mod dnsmasq;
mod files;
mod nfs;
mod rogue;
mod share;

pub use dnsmasq::Dnsmasq;
pub use files::{Offer, Server};
pub use nfs::{Nfs, NfsBuilder};
pub use rogue::Rogue;
pub use share::{Browser, Share, Terminal, machine_of_anybody};
