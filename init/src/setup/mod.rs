//! What a distribution's initramfs sets up in the live system that its own services
//! do not.

mod casper;
mod live_boot;
mod ltsp;
mod slax;
mod stage1;

use alloc::ffi::CString;
use alloc::vec::Vec;

use cmdline::BootPlan;
use cmdline::plan::Dialect;

use crate::machine::Machine;
use crate::newroot::{Change, ROOT, put};
use crate::source::Found;

/// Sets up what the dialect's own initramfs would have set up in the new root, which
/// can be written. `medium_at` is where in the root the medium is, empty when it is
/// outside.
pub fn apply(machine: &mut Machine, plan: &BootPlan, found: &Found, medium_at: &str) {
    let handoff = &plan.handoff;
    match handoff.layout {
        Dialect::Casper => {
            let medium = match medium_at {
                "" => found.medium.clone(),
                place => Some([ROOT, place].concat()),
            };
            casper::set_up(machine, &handoff.settings, medium.as_deref());
        }
        Dialect::Ltsp => ltsp::set_up(machine),
        Dialect::LiveBoot => {
            let boot_link = machine.network.up().map(|up| up.device.clone());
            if let Some(text) = live_boot::interfaces(&handoff.settings, boot_link.as_deref()) {
                put(machine, &Change::new("/etc/network/interfaces", text));
            }
            live_boot::swap(machine, &handoff.swap);
        }
        Dialect::Stage1 => {
            let text = stage1::sourced(&stage1::answers(plan, found));
            put(machine, &Change::new("/tmp/env", text));
        }
        Dialect::Slax => slax::rootcopy(machine, plan, found),
        _ => {}
    }
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
