//! The servers of a lab: the programs that real sites run, each with its own
//! configuration and log, all stopped when dropped.

mod bad_link;
mod browser;
mod busy;
mod clone;
mod dnsmasq;
mod files;
mod inside;
mod moody_nbd;
mod nfs;
mod rogue;
mod share;
mod short_tftp;
mod site;
mod sshd;
mod terminal;
pub mod web;

pub use bad_link::{BadLink, Trouble};
pub use browser::Browser;
pub use dnsmasq::Dnsmasq;
pub use files::{Offer, Server};
pub use moody_nbd::{Mood, MoodyNbd, Reading, Reply};
pub use nfs::{Nfs, NfsBuilder};
pub use rogue::{Answer, Rogue};
pub use share::Share;
pub use short_tftp::{ShortTftp, Tail};
pub use sshd::Sshd;
pub use terminal::Terminal;
pub use web::{Asked, Web};
