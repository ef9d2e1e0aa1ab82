//! Slax: files that lie beside the bundles.

use alloc::string::String;
use alloc::vec::Vec;

use cmdline::BootPlan;
use cmdline::plan::Content;

use crate::{Act, Change, Found, Look};

/// The files of `rootcopy` on the medium come over those of the bundles.
pub fn changes(plan: &BootPlan, found: &Found, look: &impl Look) -> Vec<Change> {
    let (Content::Images(rule), Some(medium)) = (&plan.root.content, &found.medium) else {
        return Vec::new();
    };
    let trees = rule.dirs.iter().map(|dir| ["/", dir, "/rootcopy"].concat());
    let there = trees.filter(|tree| look.beside_images(plan, tree).is_some());
    there
        .map(|tree: String| Change::new(Act::Copy(true), "/", &[medium, &*tree].concat()))
        .collect()
}
