//! What each dialect's live system expects to find when it takes over, as changes of
//! its root.
//!
//! Pure: the plan and what [`Look`] tells of the machine become a list. `/init` makes the
//! changes; `bellwether explain --changes` prints them.

#![cfg_attr(not(test), no_std)]
extern crate alloc;

#[cfg(feature = "full")]
pub mod casper;
mod change;
pub mod example;
mod found;
pub mod fstab;
pub mod layout;
#[cfg(feature = "full")]
pub mod live_boot;
mod look;
#[cfg(feature = "full")]
mod ltsp;
pub mod managers;
pub mod places;
#[cfg(feature = "full")]
mod slax;
#[cfg(feature = "full")]
pub mod stage1;

pub use change::{Act, Change};
pub use found::{Found, Layer, Root};
pub use look::Look;
pub use netboot::network::NetworkUp;

use alloc::vec::Vec;

use cmdline::BootPlan;
#[cfg(feature = "full")]
use cmdline::plan::Dialect;
use cmdline::plan::Writable;

/// Whether files of the new root can change.
#[must_use]
pub const fn is_writable(plan: &BootPlan) -> bool {
    !matches!(plan.writable, Writable::AsIs { read_write: false } | Writable::Directories { .. })
}

/// What every live system gets: mounts in their places, the network's files, an fstab
/// that agrees with them.
#[must_use]
pub fn common(
    plan: &BootPlan,
    found: &Found,
    layout: layout::Layout,
    look: &impl Look,
) -> Vec<Change> {
    let (up, remote) = (look.up(), look.remote());
    let mut changes = places::changes(plan, found, layout);
    changes.extend(managers::state(up, plan, remote));
    if is_writable(plan) {
        changes.extend(managers::updates(up, plan, &|path| look.link(path)));
        changes.extend(fstab::change(plan, look));
    }
    changes.extend(managers::settings(up, plan, remote));
    changes
}

/// What the dialect's own initramfs would set up in a root that can be written, after
/// [`common`]. The second list is only for when the whole first one could be made.
#[cfg(feature = "full")]
#[must_use]
pub fn of_dialect(plan: &BootPlan, found: &Found, look: &mut impl Look) -> [Vec<Change>; 2] {
    let changes = match plan.handoff.layout {
        Dialect::Casper => casper::Casper::find(plan, look).changes(plan, look),
        Dialect::Ltsp if look.initramfs(ltsp::INIT).is_some() => {
            return [Vec::from(ltsp::files()), Vec::from(ltsp::links())];
        }
        Dialect::LiveBoot => live_boot::changes(plan, look),
        Dialect::Stage1 => {
            // It may hold a password.
            let answers = stage1::sourced(&stage1::answers(plan, found));
            Vec::from([Change::new(Act::File(0o600), "/tmp/env", &answers)])
        }
        Dialect::Slax => slax::changes(plan, found, look),
        _ => Vec::new(),
    };
    [changes, Vec::new()]
}
