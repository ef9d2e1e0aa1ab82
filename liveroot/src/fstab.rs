//! An fstab that agrees with what is mounted.

use alloc::string::String;

use cmdline::BootPlan;
use cmdline::plan::Dialect;

use crate::{Act, Change, Look};

/// The root's fstab, unless the line wants it as it is.
pub fn change(plan: &BootPlan, look: &impl Look) -> Option<Change> {
    if plan.handoff.keep_fstab {
        return None;
    }
    let text = fstab(plan.handoff.layout, look.root("/etc/fstab").as_deref())?;
    Some(Change::new(Act::Update, "/etc/fstab", &text))
}

/// `None` leaves the image's own alone.
#[must_use]
pub fn fstab(layout: Dialect, old: Option<&str>) -> Option<String> {
    if !matches!(layout, Dialect::LiveBoot | Dialect::Casper) {
        return None;
    }
    let mut text = String::new();
    // The image was another machine's disk: its devices do not exist here.
    for line in old.unwrap_or_default().lines() {
        let target = line.split_whitespace().nth(1).unwrap_or_default();
        if line.trim_start().starts_with('#') || !matches!(target, "/" | "/tmp" | "") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text.push_str("overlay / overlay rw 0 0\ntmpfs /tmp tmpfs nosuid,nodev 0 0\n");
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fstab_keeps_what_is_not_the_root() {
        let old = "# mine\nUUID=1 / ext4 defaults 0 1\nUUID=2 /home ext4 nofail 0 2\n";
        let text = fstab(Dialect::LiveBoot, Some(old)).unwrap();
        assert!(text.contains("# mine") && text.contains("/home"));
        assert!(!text.contains("UUID=1"));
        assert!(text.contains("overlay / overlay"));
        assert_eq!(fstab(Dialect::Kernel, Some(old)), None);
    }
}
