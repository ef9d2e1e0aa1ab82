//! What a distribution's initramfs sets up in the live system that its own services
//! do not.

pub(crate) mod casper;
pub(crate) mod live_boot;
mod ltsp;
mod slax;
mod stage1;

use alloc::ffi::CString;
use alloc::vec::Vec;

use cmdline::plan::Dialect;
use cmdline::{BootPlan, pins};

use crate::changes::{self, Act, Change};
use crate::machine::Machine;
use crate::newroot::NewRoot;
use crate::source::Found;

/// Sets up what the dialect's own initramfs would have set up in the new root, which
/// can be written. `medium` is where the medium is mounted.
pub fn apply(
    machine: &mut Machine,
    plan: &BootPlan,
    found: &Found,
    root: &NewRoot,
    medium: Option<&str>,
) {
    let handoff = &plan.handoff;
    // What lies on the medium beside pinned images is not pinned.
    let pinned = pins::pinned(plan);
    let medium = medium.filter(|_| !pinned);
    let changes = match handoff.layout {
        Dialect::Casper => casper::changes(machine, &handoff.settings, root, medium),
        Dialect::Ltsp => {
            let here = NewRoot::at(ltsp::SHARE).is_ok_and(|share| share.has("client/init/init"));
            if here
                && changes::apply(root, &mut machine.log, &ltsp::files())
                && changes::apply(root, &mut machine.log, &ltsp::links())
            {
                machine.log.info("LTSP's init comes first");
            }
            return;
        }
        Dialect::LiveBoot => {
            let boot_link = machine.network.up().map(|up| up.device.clone());
            let interfaces = live_boot::interfaces(&handoff.settings, boot_link.as_deref());
            let interfaces = interfaces.map(|text| Change::file("/etc/network/interfaces", &text));
            let swaps = live_boot::swaps(machine, &handoff.swap);
            let fstab = (!handoff.swap.is_empty()).then(|| {
                let old = root.read("/etc/fstab").unwrap_or_default();
                Change::file("/etc/fstab", &live_boot::fstab(&old, &swaps))
            });
            interfaces.into_iter().chain(fstab).collect()
        }
        Dialect::Stage1 => {
            // It may hold a password.
            let answers = stage1::sourced(&stage1::answers(plan, found));
            Vec::from([Change::new(Act::File(0o600), "/tmp/env", &answers)])
        }
        Dialect::Slax if !pinned => slax::changes(plan, found),
        _ => return,
    };
    changes::apply(root, &mut machine.log, &changes);
}

/// What the real init gets into its environment besides the kernel's words: stage1's
/// answers, by which the rescue system's scripts find their server again.
#[must_use]
pub fn environment(plan: &BootPlan, found: &Found) -> Vec<CString> {
    if plan.handoff.layout != Dialect::Stage1 {
        return Vec::new();
    }
    let answers = stage1::answers(plan, found);
    answers
        .iter()
        .filter_map(|(key, value)| CString::new([key, "=", value].concat()).ok())
        .collect()
}
