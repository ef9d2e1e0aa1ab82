//! Where the live system sees the medium and the layers: its dialect's places, as
//! changes.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::BootPlan;
use cmdline::plan::Dialect;

use crate::changes::Change;
use crate::layout::Layout;
use crate::source::{Found, Root};

/// Where in the root the medium is moved; empty when it stays.
#[must_use]
pub fn of_medium(plan: &BootPlan, layout: Layout) -> &str {
    plan.handoff.medium_at.as_deref().unwrap_or(layout.medium_in_root)
}

/// What the dialect wants to see inside the root.
#[must_use]
pub fn changes(plan: &BootPlan, found: &Found, layout: Layout) -> Vec<Change> {
    let mut changes = Vec::new();
    let place = of_medium(plan, layout);
    if let (Some(medium), true) = (&found.medium, !place.is_empty()) {
        changes.push(Change::Move { from: medium.clone(), path: place.to_string() });
        if !layout.medium_link.is_empty() && place == layout.medium_in_root {
            changes.push(Change::link(layout.medium_link, &link_target(plan, found, layout)));
        }
    }
    if let Root::Layers(layers) = &found.root {
        let mounted = |name: &str| format!("{}/{name}", layout.images);
        let images = layers.iter().filter(|layer| !layer.is_dir && plan.handoff.show_layers);
        changes.extend(images.map(|layer| Change::Bind {
            from: mounted(&layer.name),
            path: format!("/casper/{}", layer.name),
        }));
        if let Some(lowest) = layers.first()
            && !lowest.is_dir
            && !layout.lowest_at.is_empty()
        {
            let path = layout.lowest_at.to_string();
            changes.push(Change::Move { from: mounted(&lowest.name), path });
        }
    }
    let (from, path) = layout.alias;
    if !from.is_empty() {
        changes.push(Change::Bind { from: from.to_string(), path: path.to_string() });
    }
    changes
}

/// Where the second name of the medium leads: stage1's to the directory of the
/// architecture that the second stage was found in.
fn link_target(plan: &BootPlan, found: &Found, layout: Layout) -> String {
    let mut target = layout.medium_in_root.to_string();
    if cfg!(feature = "full")
        && plan.handoff.layout == Dialect::Stage1
        && let (Root::Layers(layers), Some(medium)) = (&found.root, &found.medium)
        && let Some(path) = layers.first().and_then(|layer| layer.path.strip_prefix(medium))
        && let Some((directory, _)) = path.split_once("/install/")
    {
        target.push_str(directory);
    }
    target
}
