//! Slax: files that lie beside the bundles.

use alloc::string::ToString;

use cmdline::BootPlan;
use cmdline::plan::Content;
use rustix::fs::{Access, access};
use sys::errno::Shown;

use crate::copy::{self, Progress};
use crate::machine::Machine;
use crate::newroot::ROOT;
use crate::source::Found;

/// The files of this directory on the medium come over those of the bundles.
pub fn rootcopy(machine: &mut Machine, plan: &BootPlan, found: &Found) {
    let (Content::Images(rule), Some(medium)) = (&plan.root.content, &found.medium) else { return };
    for dir in &rule.dirs {
        let from = [medium, "/", dir, "/rootcopy"].concat();
        if access(from.as_str(), Access::EXISTS).is_ok() {
            let mut progress = Progress::new("rootcopy", copy::tree_size(&from));
            if let Err((path, errno)) = copy::over(&mut machine.log, &from, ROOT, &mut progress) {
                machine
                    .log
                    .warn(&[&path, " cannot be copied: ", &*Shown(errno).to_string()].concat());
            }
        }
    }
}
