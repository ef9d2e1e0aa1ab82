//! Slax: files that lie beside the bundles.

use alloc::vec::Vec;

use cmdline::BootPlan;
use cmdline::plan::Content;

use crate::changes::{Act, Change};
use crate::newroot::NewRoot;
use crate::source::Found;

/// The files of `rootcopy` on the medium come over those of the bundles.
#[must_use]
pub fn changes(plan: &BootPlan, found: &Found) -> Vec<Change> {
    let (Content::Images(rule), Some(medium)) = (&plan.root.content, &found.medium) else {
        return Vec::new();
    };
    let there = |from: &alloc::string::String| NewRoot::at(from).is_ok();
    let trees = rule.dirs.iter().map(|dir| [medium, "/", dir, "/rootcopy"].concat());
    let copy = |from: alloc::string::String| Change::new(Act::Copy(true), "/", &from);
    trees.filter(there).map(copy).collect()
}
