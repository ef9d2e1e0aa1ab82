//! Where the live system sees the medium and the layers: its dialect's places, as
//! changes.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::BootPlan;
use cmdline::plan::Dialect;

use crate::layout::Layout;
use crate::{Act, Change, Found, Root};

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
        changes.push(Change::new(Act::Move, place, medium));
        if !layout.medium_link.is_empty() && place == layout.medium_in_root {
            changes.push(Change::new(
                Act::Link,
                layout.medium_link,
                &link_target(plan, found, layout),
            ));
        }
    }
    if let Root::Layers(layers) = &found.root {
        let mounted = |name: &str| format!("{}/{name}", layout.images);
        let images = layers.iter().filter(|layer| !layer.is_dir && plan.handoff.show_layers);
        changes.extend(images.map(|layer| {
            let path = format!("/casper/{}", layer.name);
            Change::new(Act::Bind, &path, &mounted(&layer.name))
        }));
        if let Some(lowest) = layers.first()
            && !lowest.is_dir
            && !layout.lowest_at.is_empty()
        {
            changes.push(Change::new(Act::Move, layout.lowest_at, &mounted(&lowest.name)));
        }
    }
    let (from, path) = layout.alias;
    if !from.is_empty() {
        changes.push(Change::new(Act::Bind, path, from));
    }
    if cfg!(feature = "full") && plan.handoff.layout == Dialect::Dracut {
        // Names by which dracut's own programs know what the root is made of.
        changes.push(Change::new(Act::Link, "/run/overlayfs", "initramfs/overlay/overlayfs"));
        if let Some(device) = found.medium_blob.as_deref().filter(|it| it.starts_with("/dev/")) {
            changes.push(Change::new(Act::Link, "/run/initramfs/livedev", device));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layer, layout};

    fn layer(name: &str, path: &str, is_dir: bool) -> Layer {
        Layer { name: name.to_string(), path: path.to_string(), is_dir }
    }

    /// What a line makes of one image on a medium, a line of text a change.
    fn changes_of(line: &str, path: &str) -> Vec<String> {
        let plan = cmdline::parse(line, &cmdline::Context::default());
        let layout = layout::of(plan.handoff.layout);
        let found = Found {
            origin: String::new(),
            root: Root::Layers(Vec::from([
                layer("a.squashfs", &format!("{}/{path}", layout.medium), false),
                layer("dir", "/x", true),
            ])),
            medium: Some(layout.medium.to_string()),
            medium_blob: Some("/dev/sr0".to_string()),
        };
        changes(&plan, &found, layout).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_dialect_has_its_places() {
        let table: [(&str, &[&str]); 5] = [
            (
                "boot=casper",
                &[
                    "move the mount /run/bellwether/cdrom to /cdrom",
                    "link /media/cdrom to /cdrom",
                    "move the mount /run/bellwether/images/a.squashfs to /rofs",
                ],
            ),
            (
                "boot=casper showmounts",
                &[
                    "move the mount /run/bellwether/cdrom to /cdrom",
                    "link /media/cdrom to /cdrom",
                    "show /run/bellwether/images/a.squashfs at /casper/a.squashfs",
                    "move the mount /run/bellwether/images/a.squashfs to /rofs",
                ],
            ),
            ("boot=live", &["show /run/live at /lib/live/mount"]),
            (
                "root=live:/dev/sr0 rd.live.image",
                &[
                    "move the mount /run/initramfs/images/a.squashfs to /run/rootfsbase",
                    "link /run/overlayfs to initramfs/overlay/overlayfs",
                    "link /run/initramfs/livedev to /dev/sr0",
                ],
            ),
            ("root=/dev/sda1", &[]),
        ];
        for (line, wanted) in table {
            assert_eq!(changes_of(line, "a.squashfs"), wanted, "{line}");
        }
    }

    #[test]
    fn stage1_s_link_leads_to_the_architecture_s_directory() {
        let line = "automatic=method:cdrom rescue";
        let changes = changes_of(line, "x86_64/install/stage2/a.squashfs");
        assert!(
            changes.contains(&"link /tmp/image to /tmp/media/x86_64".to_string()),
            "{changes:?}"
        );
    }
}
