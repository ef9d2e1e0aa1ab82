//! What a distribution's initramfs sets up in the live system that its own services
//! do not: the dialect's changes, or casper's own scripts.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use cmdline::plan::Dialect;
use cmdline::{BootPlan, pins};
use liveroot::casper::Casper;
use liveroot::{Found, stage1};
use sys::errno::Shown;
use sys::file::{make_dir, read_file, write_file};
use sys::mount::{bind, detach};

use crate::look::Here;
use crate::machine::Machine;
use crate::newroot::ROOT;
use crate::{changes, tool};

/// Scripts of casper that we have done ourselves, or that must not be done twice:
/// mount points and fstab.
const OUR_PART: &[&str] = &["05mountpoints", "12fstab"];

/// Longest list of scripts read.
const MAX_ORDER: usize = 64 << 10;

/// Where initramfs-tools keeps casper's scripts.
const CASPER_BOTTOM: &str = "/scripts/casper-bottom";

/// Sets up what the dialect's own initramfs would have set up in the new root, which
/// can be written. `medium` is where the medium is mounted.
pub fn apply(plan: &BootPlan, found: &Found, here: &mut Here<'_>, medium: Option<&str>) {
    let dialect = plan.handoff.layout;
    if dialect == Dialect::Casper {
        let casper = Casper::find(plan, here);
        // What lies on the medium beside pinned images is not pinned.
        let medium = medium.filter(|_| !pins::pinned(plan));
        if scripts(here.machine, &casper, medium) {
            changes::apply(here.root, &mut here.machine.log, &casper.marks());
            return;
        }
    }
    let [first, then] = liveroot::of_dialect(plan, found, here);
    if changes::apply(here.root, &mut here.machine.log, &first)
        && !then.is_empty()
        && changes::apply(here.root, &mut here.machine.log, &then)
    {
        here.machine.log.info("LTSP's init comes first");
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

/// Runs casper's own scripts on the new root, when the initramfs has them and a
/// shell. Returns whether they did their work.
fn scripts(machine: &mut Machine, casper: &Casper, medium: Option<&str>) -> bool {
    let Ok(order) = read_file(&format!("{CASPER_BOTTOM}/ORDER"), MAX_ORDER) else { return false };
    let Some(shell) = tool::find("sh", &[]) else {
        machine.log.warn("casper's scripts are here and no shell; doing their minimum");
        return false;
    };
    let order = String::from_utf8_lossy(&order).into_owned();
    let scripts = scripts_of(&order);
    machine.log.info(&format!("running {} scripts of {CASPER_BOTTOM}", scripts.len()));
    if let Err(errno) = write_file("/etc/casper.conf", casper.text().as_bytes(), 0o644) {
        machine.log.warn(&format!("/etc/casper.conf of the initramfs: {}", Shown(errno)));
    }
    // The scripts' own names for the new root and the medium. They are the distribution's
    // programs with its tools, and follow the root's links as they do in its own initramfs.
    let mut bound = Vec::new();
    for (from, to) in [(Some(ROOT), "/root"), (medium, "/cdrom")] {
        let Some(from) = from else { continue };
        match make_dir(to, 0o755).and_then(|()| bind(from, to)) {
            Ok(()) => bound.push(to),
            Err(errno) => machine.log.warn(&format!("{to} for casper: {}", Shown(errno))),
        }
    }
    let mut text = String::from(
        "set -a; rootmnt=/root; [ ! -r /etc/casper.conf ] || . /etc/casper.conf\n\
         for c in /conf/initramfs.conf /conf/conf.d/*; do [ ! -r $c ] || . $c; done; set +a\n\
         [ ! -r /scripts/functions ] || . /scripts/functions; failed=\n",
    );
    for script in &scripts {
        text.push_str(
            &[
                "s=",
                script,
                "; [ ! -x $s ] || $s || failed=\"$failed $s\"\n",
                "[ ! -e /conf/param.conf ] || . /conf/param.conf\n",
            ]
            .concat(),
        );
    }
    text.push_str("[ -z \"$failed\" ] || { echo \"failed:$failed\"; exit 1; }\n");
    let ended = shell.run(&["-c", &text]);
    for target in bound.iter().rev() {
        if let Err(errno) = detach(target) {
            machine.log.detail(&format!("{target} stays mounted: {}", Shown(errno)));
        }
    }
    if let Err(why) = &ended {
        machine.log.warn(&format!("{CASPER_BOTTOM}: {why}; its other scripts were run"));
    }
    true
}

/// The scripts that an ORDER file of initramfs-tools calls, without those that are
/// our part.
fn scripts_of(order: &str) -> Vec<&str> {
    let words = order.lines().filter_map(|line| line.split_whitespace().next());
    words
        .filter(|path| path.starts_with(CASPER_BOTTOM))
        .filter(|path| path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b)))
        .filter(|path| !OUR_PART.iter().any(|ours| path.ends_with(ours)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_files_give_scripts() {
        let order = "/scripts/casper-bottom/05mountpoints \"$@\"\n\
                     [ -e /conf/param.conf ] && . /conf/param.conf\n\
                     /scripts/casper-bottom/15autologin \"$@\"\n\
                     /scripts/casper-bottom/x;reboot\n/etc/passwd\n";
        assert_eq!(scripts_of(order), ["/scripts/casper-bottom/15autologin"]);
    }
}
