//! Slax: files that lie beside the bundles.

use alloc::string::ToString;
use alloc::vec::Vec;

use cmdline::BootPlan;
use cmdline::plan::Content;

use crate::changes::Change;
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
    let copy = |from| Change::Copy { from, path: "/".to_string(), over: true };
    trees.filter(there).map(copy).collect()
}
