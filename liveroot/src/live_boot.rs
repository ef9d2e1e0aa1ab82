//! live-boot (Debian): interfaces(5) and swap, as the line's words ask for.

use alloc::string::String;
use alloc::vec::Vec;

use cmdline::BootPlan;

use crate::{Change, Look};

/// The files that the line's words change.
pub fn changes(plan: &BootPlan, look: &mut impl Look) -> Vec<Change> {
    let handoff = &plan.handoff;
    let boot_link = look.up().map(|up| &*up.device);
    let mut changes = Vec::new();
    if let Some(text) = interfaces(&handoff.settings, boot_link) {
        changes.push(Change::file("/etc/network/interfaces", &text));
    }
    if !handoff.swap.is_empty() {
        let swaps = look.swaps(&handoff.swap);
        let old = look.root("/etc/fstab").unwrap_or_default();
        changes.push(Change::file("/etc/fstab", &fstab(&old, &swaps)));
    }
    changes
}

/// What live-boot's `ip=` and `dhcp` write: stanzas of interfaces(5). `None` without
/// such words; the boot link alone is the network step's to describe.
fn interfaces(settings: &[(String, String)], boot_link: Option<&str>) -> Option<String> {
    let said = |name: &str| settings.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let (ip, dhcp) = (said("ip").filter(|ip| !ip.is_empty()), said("dhcp").is_some());
    if ip.is_none() && !(dhcp && boot_link.is_some()) {
        return None;
    }
    let mut text = String::from("auto lo\niface lo inet loopback\n");
    let mut named = Vec::new();
    for stanza in ip.into_iter().flat_map(|ip| ip.split(',')) {
        let mut fields = stanza.split(':').map(|field| {
            field.chars().filter(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c)).collect()
        });
        let device: String = fields.next().unwrap_or_default();
        text.push_str(&["\nauto ", &*device, "\niface ", &*device, " inet static\n"].concat());
        for (key, value) in ["address", "netmask", "gateway", "dns-nameservers"].iter().zip(fields)
        {
            let value: String = value;
            if !value.is_empty() {
                text.push_str(&["    ", key, " ", &*value, "\n"].concat());
            }
        }
        named.push(device);
    }
    if let Some(device) = boot_link.filter(|device| !named.iter().any(|name| name == device)) {
        // Without the word the root's link stays as it is.
        let (start, how) = if dhcp { ("auto", "dhcp") } else { ("# root:", "manual") };
        text.push_str(
            &["\n", start, " ", device, "\niface ", device, " inet ", how, "\n"].concat(),
        );
    }
    Some(text)
}

/// An fstab with these swap partitions.
#[must_use]
pub fn fstab(old: &str, swaps: &[String]) -> String {
    let mut text = String::from(old);
    for path in swaps {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&[path, " none swap sw 0 0\n"].concat());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[(&str, &str)]) -> Vec<(String, String)> {
        words.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
    }

    #[test]
    fn live_boot_s_words_become_stanzas() {
        let words = line(&[("ip", "eth0:10.0.0.5:255.255.255.0:10.0.0.1,wlan0:10.1.0.2")]);
        assert_eq!(
            interfaces(&words, Some("eth1")).unwrap(),
            "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n    \
             address 10.0.0.5\n    netmask 255.255.255.0\n    gateway 10.0.0.1\n\n\
             auto wlan0\niface wlan0 inet static\n    address 10.1.0.2\n\n\
             # root: eth1\niface eth1 inet manual\n"
        );
        let dhcp = interfaces(&line(&[("dhcp", "")]), Some("eth0")).unwrap();
        assert!(dhcp.ends_with("auto eth0\niface eth0 inet dhcp\n"));
        assert_eq!(interfaces(&line(&[("nodhcp", "")]), Some("eth0")), None);
        assert_eq!(
            fstab("/dev/a / ext4", &["/dev/b".into(), "/dev/c".into()]),
            "/dev/a / ext4\n/dev/b none swap sw 0 0\n/dev/c none swap sw 0 0\n"
        );
    }
}
