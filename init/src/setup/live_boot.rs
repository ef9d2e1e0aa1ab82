//! live-boot (Debian): interfaces(5) and swap, as the line's words ask for.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use overlay::probe::Format;
use sys::clock::Instant;

use crate::block;
use crate::machine::Machine;

/// How long drivers may take to show the disks that swap is looked for on.
const SWAP_WAIT: Duration = Duration::from_secs(5);

/// What live-boot's `ip=` and `dhcp` write: stanzas of interfaces(5). `None` without
/// such words; the boot link alone is the network step's to describe.
#[must_use]
pub fn interfaces(settings: &[(String, String)], boot_link: Option<&str>) -> Option<String> {
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

/// The swap partitions of these devices.
pub fn swaps(machine: &mut Machine, devices: &[String]) -> Vec<String> {
    if devices.is_empty() {
        return Vec::new();
    }
    // The root may have been found before the other disks.
    let deadline = Instant::now().after(SWAP_WAIT);
    while !machine.settled() && !deadline.is_past() {
        machine.wait(&[], Some(deadline));
    }
    let paths: Vec<String> = machine.blocks().map(|name| ["/dev/", name].concat()).collect();
    let swap = |path: &String| {
        devices.iter().any(|device| matches(device, path))
            && block::inspect(path).is_ok_and(|found| found.format == Format::Swap)
    };
    paths.into_iter().filter(swap).collect()
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

/// Whether a path is what a word names, `*` at its end standing for anything.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(stem) => path.starts_with(stem),
        None => path == pattern,
    }
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
        assert!(matches("/dev/sd*", "/dev/sda2") && !matches("/dev/sda", "/dev/sda2"));
    }
}
