//! What a boot changes in the live system's root, on a machine that is only stated.

use cmdline::BootPlan;
use cmdline::plan::{Content, Dialect, Source, Then, ToRam};
use liveroot::{Found, Layer, Look, NetworkUp, Root, example, layout};

/// What the stated root has. An empty text is a directory's, or of no account.
const ROOT: [(&str, &str); 5] = [
    ("/bin/bash", ""),
    ("/etc/group", "root:x:0:\nsudo:x:27:\n"),
    ("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
    ("/etc/shadow", "root:*:1:0:99999:7:::\n"),
    ("/etc/sudoers.d", ""),
];

/// What is stated of a dialect's own parts.
const BESIDE: [(Dialect, &str); 3] = [
    (Dialect::Casper, "no scripts of casper in the initramfs, which would run instead;"),
    (Dialect::Ltsp, "LTSP's client part in the initramfs;"),
    (Dialect::Slax, "a directory rootcopy beside the bundles;"),
];

struct Stated {
    up: Option<NetworkUp>,
    remote: bool,
}

impl Look for Stated {
    fn up(&self) -> Option<&NetworkUp> {
        self.up.as_ref()
    }

    fn remote(&self) -> bool {
        self.remote
    }

    fn root(&self, path: &str) -> Option<String> {
        ROOT.iter().find(|(known, _)| *known == path).map(|(_, text)| (*text).to_owned())
    }

    fn link(&self, _: &str) -> Option<String> {
        None
    }

    /// Only LTSP's client part is asked for by its presence.
    fn initramfs(&self, path: &str) -> Option<String> {
        path.starts_with("/usr/share/ltsp/").then(String::new)
    }

    fn medium(&self, path: &str) -> Option<String> {
        path.ends_with("/rootcopy").then(String::new)
    }

    fn swaps(&mut self, devices: &[String]) -> Vec<String> {
        devices.to_vec()
    }
}

/// The facts that are stated, and the changes, one a line each.
pub fn of(plan: &BootPlan) -> (Vec<String>, Vec<String>) {
    let Some(source) = plan.root.sources.first().filter(|_| plan.handoff.then == Then::SwitchRoot)
    else {
        return (vec!["no root, no changes".to_owned()], Vec::new());
    };
    let layout = layout::of(plan.handoff.layout);
    let (found, what) = found(plan, source, layout.medium);
    let mut stated = Stated {
        up: plan.network.as_ref().map(example::link),
        remote: is_remote(source) && plan.root.to_ram == ToRam::No,
    };
    let mut facts = vec![
        "of a root with systemd, bash and sudo, without a display manager;".to_owned(),
        format!("{what};"),
    ];
    let beside = BESIDE.iter().filter(|(dialect, _)| *dialect == plan.handoff.layout);
    facts.extend(beside.map(|(_, fact)| (*fact).to_owned()));
    facts.push(match &stated.up {
        None => "no network".to_owned(),
        Some(up) => format!(
            "boot link {} with {}/{}, {} needs",
            up.device,
            up.config.address,
            up.config.prefix,
            if stated.remote { "which the root" } else { "which the root no longer" }
        ),
    });
    let mut changes = liveroot::common(plan, &found, layout, &stated);
    if liveroot::is_writable(plan) {
        changes.extend(liveroot::of_dialect(plan, &found, &mut stated).concat());
    }
    (facts, changes.iter().map(ToString::to_string).collect())
}

/// One image called IMAGE where the plan wants images.
fn found(plan: &BootPlan, source: &Source, medium: &str) -> (Found, String) {
    let (Content::Images(rule) | Content::Either(rule)) = &plan.root.content else {
        let root = Root::Tree(medium.to_owned());
        return (Found::root("", root), "the file system that the line names".to_owned());
    };
    let dir = rule.dirs.first().map_or("", |dir| dir.trim_matches('/'));
    let layer =
        Layer { name: "IMAGE".to_owned(), path: format!("{medium}/{dir}/IMAGE"), is_dir: false };
    let blob = match source {
        Source::Device(_) | Source::Scan(_) => Some("/dev/MEDIUM".to_owned()),
        _ => None,
    };
    let on = blob.as_deref().map_or(String::new(), |blob| format!(" in {blob}"));
    let what = format!("IMAGE is its image, in /{dir} of a medium{on}");
    let root = Root::Layers(vec![layer]);
    (Found { medium: Some(medium.to_owned()), medium_blob: blob, ..Found::root("", root) }, what)
}

/// Whether the root needs the network once it is mounted.
fn is_remote(source: &Source) -> bool {
    match source {
        Source::Nfs(_) | Source::Cifs(_) | Source::Nbd(_) | Source::NvmeTcp(_) => true,
        Source::File { on, .. } | Source::Partition { on, .. } => is_remote(on),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_s_changes_are_listed() {
        let table: [(&str, &[&str], &[&str]); 7] = [
            (
                "boot=casper netboot=nfs nfsroot=10.0.0.1:/x ip=dhcp username=anna",
                &[
                    "move the mount /run/bellwether/cdrom to /cdrom",
                    "write /run/systemd/network/05-bellwether-eth0.network",
                    "write /run/netplan/eth0.yaml",
                    "write /etc/passwd",
                    "write /etc/sudoers.d/casper",
                ],
                &["write /etc/lightdm/lightdm.conf.d/90-casper.conf"],
            ),
            (
                "boot=live fetch=http://10.0.0.1/x.squashfs ip=dhcp",
                &["show /run/live at /lib/live/mount", "write /etc/network/interfaces"],
                // Nothing holds the link: the image is in memory.
                &["write /run/systemd/network/05-bellwether-eth0.network"],
            ),
            (
                "root=live:/dev/sr0 rd.live.image",
                &["link /run/initramfs/livedev to /dev/MEDIUM"],
                &["write /etc/fstab", "write /run/net-eth0.conf"],
            ),
            ("from=slax", &["copy /run/bellwether/medium/slax/rootcopy to /"], &[]),
            ("root=/dev/nfs nfsroot=10.0.0.1:/srv ip=dhcp ltsp.image=images/x.img", &[], &[]),
            ("root=/dev/sda1 ro", &[], &["write /etc/fstab"]),
            ("bw.clone=ka bw.target=/dev/sda", &[], &["write /etc/fstab"]),
        ];
        for (line, there, missing) in table {
            let plan = cmdline::parse(line, &cmdline::Context::default());
            let (facts, changes) = of(&plan);
            assert!(!facts.is_empty());
            for wanted in there {
                assert!(changes.iter().any(|it| it == wanted), "{line}: {wanted} in {changes:#?}");
            }
            for unwanted in missing {
                assert!(!changes.iter().any(|it| it == unwanted), "{line}: {changes:#?}");
            }
        }
    }
}
