//! A laboratory for network boot: private networks, the servers that real sites
//! run, and machines under QEMU that boot from them.
//!
//! Exists because nothing below it can show that a boot works: an initramfs is
//! right when a real kernel, a real DHCP server, a real NFS server and a real
//! systemd agree that it is. Everything is built from the host's own Debian
//! packages ([`assets`]), runs in a network namespace of its own ([`net`]), and
//! is taken down when the scenario ends, however it ends.
//!
//! A test is a call of [`scenario`]; what it may say is in [`lab`]. Machines run
//! under TCG, so results do not depend on what the host's processor offers.
//!
//! Does not: run without root (namespaces, taps and an NFS server that opens
//! files by handle need it), reach any network outside, or install anything but
//! the packages in [`packages::NEEDED`].

pub mod assets;
pub mod bench;
mod console;
mod error;
pub mod faults;
pub mod lab;
pub mod machine;
pub mod net;
pub mod packages;
mod pxe;
pub mod release;
pub mod servers;
mod shell;
pub mod workspace;

use std::fmt;
use std::io::{Write, stderr};
use std::time::{Duration, Instant};

pub use error::Error;
pub use lab::{Lab, scenario, secs};
pub use machine::{Machine, Nic};

/// What everything in the lab returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Waits until `happened` says so, asking it several times a second. Scenarios wait for
/// events with this, never for a time to pass.
///
/// # Errors
/// [`Error::Input`] with `event` when it does not happen within `limit`; what `happened`
/// fails with, at once.
pub fn until(
    event: &str,
    limit: Duration,
    mut happened: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let end = Instant::now() + limit;
    while !happened()? {
        if Instant::now() > end {
            return Err(Error::Input(format!("not within {} s: {event}", limit.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Says what is going on. Not by `eprintln!`, which cargo's test harness keeps to
/// itself: the first run builds for minutes, and must not look dead.
pub(crate) fn say(what: impl fmt::Display) {
    // Without a stderr there is no reader.
    let _ = writeln!(stderr().lock(), "lab: {what}");
}
