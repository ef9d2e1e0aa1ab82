//! What comes after the steps: the live system, or a clone.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use super::clone::CloneMethod;
use super::dialect::Dialect;
#[cfg(feature = "p2v")]
use super::p2v::P2vPlan;
use super::root::DeviceSelector;
use super::units::Seconds;
use crate::secrets::Private;

/// What the live system finds when it takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handoff {
    /// Whose layout of mount points and state files.
    pub layout: Dialect,
    /// The real init; tried before the usual places.
    pub init: Option<String>,
    /// Arguments for it, in order.
    pub args: Vec<String>,
    /// Leave the root's fstab alone.
    pub keep_fstab: bool,
    /// Leave the root's network configuration alone.
    pub keep_network: bool,
    /// Copy our resolv.conf to the root.
    pub resolv_conf: bool,
    /// `KEY=value` settings that the dialect's own scripts in the root read
    /// (`username`, `hostname`, … for `/etc/casper.conf`).
    pub settings: Vec<(String, String)>,
    /// Show the layers' mounts in the root (`showmounts`).
    pub show_layers: bool,
    /// Where in the root the medium is moved, beside what the layout says.
    pub medium_at: Option<String>,
    /// Add the swap partitions that are found to the root's fstab; globs of
    /// `/dev/` paths, empty for none.
    pub swap: Vec<String>,
    /// Boot on, or become something else.
    pub then: Then,
}

/// What happens after the steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    /// switch_root and exec the real init.
    SwitchRoot,
    /// Become a clone receiver.
    Clone(Box<ClonePlan>),
    /// Send this machine's disks.
    #[cfg(feature = "p2v")]
    P2v(Box<P2vPlan>),
    /// Ask at the console where this machine's disks go.
    #[cfg(feature = "p2v")]
    AskP2v,
}

/// A clone receiver, or the source of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClonePlan {
    /// How it is fed.
    pub method: CloneMethod,
    /// The disk named on the line, if any; otherwise the method's own rule picks it.
    pub target: Option<DeviceSelector>,
    /// How long to wait for the sender.
    pub timeout: Seconds,
    /// How often to try before rebooting.
    pub tries: u32,
    /// What was written is read back before it counts as a copy.
    pub verify: bool,
    /// With a copy, the machine is switched off instead of started anew.
    pub power_off: bool,
    /// A copy is taken from these alone, if there are any; the sender is the first.
    pub from: Vec<Ipv4Addr>,
    /// `blake3:HEX` or `sha256:HEX` that the copy must have.
    pub digest: Option<String>,
    /// The word with the key that the sender must know.
    pub key: Option<Private>,
    /// The word with the password of openSUSE's Dolly.
    pub password: Option<Private>,
    /// Options of the host's command, which does what `/init` does not.
    pub options: Vec<String>,
}

impl ClonePlan {
    /// The command of the host that does it, out of the image of `clone tools`; nothing when
    /// `/init` does it.
    #[must_use]
    pub fn program(&self) -> Option<&'static str> {
        match self.method.protocol.name {
            "source" => Some("source"),
            _ if self.options.is_empty() => None,
            "room" => Some("receive"),
            name => Some(name),
        }
    }
}
