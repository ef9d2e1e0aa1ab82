//! Settings that are bound to one network card: by its address, by its place in the machine, or
//! by a name that says its place. The virtual machine has another card, which they must fit.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Forms of files that have such settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Rules of udev, which name cards.
    Udev,
    /// `systemd.link(5)` and `systemd.network(5)`.
    Systemd,
    /// A keyfile of NetworkManager.
    Keyfile,
    /// `ifcfg-NAME` of Red Hat's systems.
    Ifcfg,
    /// YAML of netplan.
    Netplan,
    /// Files that name cards, and do not bind them: `interfaces(5)` and SUSE's `ifcfg-NAME`.
    Names,
}

/// A network card's address as Linux shows it, `52:54:00:12:34:56`, from the forms of settings.
#[must_use]
pub fn address(text: &str) -> Option<String> {
    let text = text.trim().trim_matches(['"', '\'']);
    let bytes: Vec<&str> = text.split([':', '-']).collect();
    let hex = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    (bytes.len() == 6 && bytes.iter().all(hex)).then(|| bytes.join(":").to_ascii_lowercase())
}

/// Whether a setting is to be loosened, by the card that it is bound to: an address, or a place.
pub type Loosen<'l> = &'l mut dyn FnMut(&str) -> bool;

/// Loosens what is bound; every other line stays as it is.
#[must_use]
pub fn loosen(form: Form, text: &str, wanted: Loosen<'_>) -> String {
    let mut all = String::with_capacity(text.len());
    let mut section = String::new();
    let mut parents: Vec<(usize, &str)> = Vec::new();
    for whole in text.split_inclusive('\n') {
        let end = whole.trim_end_matches(['\n', '\r']).len();
        let (line, ending) = whole.split_at_checked(end).unwrap_or((whole, ""));
        let bare = line.trim_start();
        if let Some(name) = bare.strip_prefix('[') {
            section = name.split(']').next().unwrap_or_default().to_string();
        }
        let comment = bare.is_empty() || bare.starts_with('#') || bare.starts_with(';');
        let new = match form {
            _ if comment => None,
            Form::Udev => udev(line, wanted),
            Form::Systemd if section == "Match" => systemd(line, wanted),
            Form::Keyfile if section.ends_with("ethernet") => {
                bound(line, &["mac-address"], wanted).map(|_| ["#", line].concat())
            }
            Form::Ifcfg => bound(line, &["HWADDR"], wanted).map(|_| ["#", line].concat()),
            Form::Netplan => netplan(line, &mut parents, wanted),
            Form::Systemd | Form::Keyfile | Form::Names => None,
        };
        all.push_str(new.as_deref().unwrap_or(line));
        all.push_str(ending);
    }
    all
}

/// The address of a line `KEY=ADDRESS`, if that is to be loosened.
fn bound<'l>(line: &'l str, keys: &[&str], wanted: Loosen<'_>) -> Option<&'l str> {
    let (key, value) = line.split_once('=')?;
    let at = address(value)?;
    (keys.contains(&key.trim()) && wanted(&at)).then_some(value)
}

/// `Path=*` is every card that is a device: bridges and the like have no path.
fn systemd(line: &str, wanted: Loosen<'_>) -> Option<String> {
    let (key, value) = line.split_once('=')?;
    let cards: Vec<String> = match key.trim() {
        "MACAddress" | "PermanentMACAddress" => {
            value.split_whitespace().filter_map(address).collect()
        }
        "Path" => {
            value.split_whitespace().filter(|p| is_place(p)).map(ToString::to_string).collect()
        }
        _ => return None,
    };
    // Each is asked for, also behind one that stays.
    let free = cards.iter().filter(|card| wanted(card)).count();
    (free == cards.len() && free > 0).then(|| "Path=*".to_string())
}

/// Whether a path is that of one device, `pci-0000:03:00.0`.
fn is_place(path: &str) -> bool {
    path.contains(|c: char| c.is_ascii_digit())
}

fn udev(line: &str, wanted: Loosen<'_>) -> Option<String> {
    let named = line.split(',').any(|part| {
        let part = part.trim();
        part.strip_prefix("NAME").is_some_and(|rest| {
            let rest = rest.trim_start();
            (rest.starts_with('=') && !rest.starts_with("==")) || rest.starts_with(":=")
        })
    });
    if !named {
        return None;
    }
    let net = line.contains("\"net\"");
    let mut new = line.to_string();
    let mut changed = false;
    for part in line.split(',') {
        let Some((key, value)) = part.split_once("==") else { continue };
        let value = value.trim().trim_matches('"');
        let card = match key.trim() {
            "ATTR{address}" | "ATTRS{address}" | "SYSFS{address}" => address(value),
            "KERNELS" | "ID" | "ENV{ID_PATH}" if net && is_place(value) => Some(value.to_string()),
            _ => None,
        };
        if card.is_some_and(|card| wanted(&card)) {
            new = new.replacen(part, &part.replacen(value, "?*", 1), 1);
            changed = true;
        }
    }
    // Without a driver it would be every interface, lo and bridges with it.
    let device = ["DRIVERS==", "KERNELS==", "DRIVER=="].iter().any(|key| new.contains(key));
    let start = if device { "" } else { "DRIVERS==\"?*\", " };
    changed.then(|| [start, &new].concat())
}

/// Follows the keys that a line is below, and takes an address below `match:`.
fn netplan<'t>(
    line: &'t str,
    parents: &mut Vec<(usize, &'t str)>,
    wanted: Loosen<'_>,
) -> Option<String> {
    let bare = line.trim_start();
    let depth = line.len() - bare.len();
    while parents.last().is_some_and(|(above, _)| *above >= depth) {
        parents.pop();
    }
    let (key, _) = bare.split_once(':')?;
    let inside = parents.last().is_some_and(|(_, key)| *key == "match");
    parents.push((depth, key.trim()));
    let in_braces = || {
        let at = bare.find("match:")? + "match:".len();
        let behind = bare.get(at..)?;
        let mapping = behind.trim_start().strip_prefix('{')?.split('}').next()?;
        let start = behind.find('{')? + 1;
        Some(at + start + mapping.find("macaddress:")?)
    };
    let key_at = if inside && key.trim() == "macaddress" { 0 } else { in_braces()? };
    let rest = bare.get(key_at..)?;
    let value = rest.split_once(':')?.1;
    let value = value.split(['}', ',', '#']).next().unwrap_or_default().trim_end();
    let card = address(value)?;
    let old = rest.get(.."macaddress:".len() + value.len())?;
    wanted(&card).then(|| line.replacen(old, "name: \"e*\"", 1))
}

/// The name that a file gives to cards: of a rule of udev, or of a `.link`.
#[must_use]
pub fn given(form: Form, text: &str) -> Vec<&str> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with(['#', ';']));
    let parts = lines.flat_map(|line| line.split(','));
    let named = parts.filter_map(|part| {
        let value = part.trim().strip_prefix("NAME")?.trim_start();
        let value = value.strip_prefix(':').unwrap_or(value).strip_prefix('=')?.trim();
        Some(value.trim_matches('"'))
    });
    let link = || text.lines().filter_map(|line| line.trim().strip_prefix("Name="));
    match form {
        Form::Udev => named.collect(),
        Form::Systemd => link().collect(),
        _ => Vec::new(),
    }
}

/// The names in a file that say where a card is: `enp3s0`, `eno1`, `em1`, `p1p2`. Another machine
/// has none of that name.
#[must_use]
pub fn places(text: &str) -> Vec<&str> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with(['#', ';']));
    let words = lines.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric()));
    words.filter(|word| is_place_name(word)).collect()
}

/// Whether a name is made of a card's place or address (systemd.net-naming-scheme(7), biosdevname).
fn is_place_name(word: &str) -> bool {
    let number = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    if let Some(rest) = word.strip_prefix("en") {
        let kind = rest.get(..1).unwrap_or_default();
        let rest = rest.get(1..).unwrap_or_default();
        return match kind {
            "x" => rest.len() == 12 && rest.bytes().all(|b| b.is_ascii_hexdigit()),
            "p" => number(rest) && rest.contains('s'),
            "o" | "s" | "P" => number(rest),
            _ => false,
        };
    }
    let all = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if let Some(rest) = word.strip_prefix("em") {
        return all(rest);
    }
    let ports = word.strip_prefix('p').and_then(|rest| rest.split_once('p'));
    ports.is_some_and(|(slot, port)| all(slot) && all(port))
}

/// A `.link` that gives the only card a name.
#[must_use]
pub fn link(name: &str) -> String {
    ["[Match]\nPath=*\n\n[Link]\nName=", name, "\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: &str = "00:11:22:aa:bb:cc";

    fn loose(form: Form, text: &str) -> String {
        loosen(form, text, &mut |card| {
            card == MAC || card == "0000:03:00.0" || card == "pci-0000:03:00.0"
        })
    }

    #[test]
    fn rules_of_udev_name_the_card_that_is_there() {
        for (old, new) in [
            (
                "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{address}==\"00:11:22:AA:BB:CC\", ATTR{dev_id}==\"0x0\", KERNEL==\"eth*\", NAME=\"eth0\"\n",
                "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{address}==\"?*\", ATTR{dev_id}==\"0x0\", KERNEL==\"eth*\", NAME=\"eth0\"\n",
            ),
            (
                "SUBSYSTEM==\"net\",ATTRS{address}==\"00:11:22:aa:bb:cc\",NAME:=\"lan0\"",
                "DRIVERS==\"?*\", SUBSYSTEM==\"net\",ATTRS{address}==\"?*\",NAME:=\"lan0\"",
            ),
            (
                "SUBSYSTEM==\"net\", KERNELS==\"0000:03:00.0\", NAME=\"lan0\"",
                "SUBSYSTEM==\"net\", KERNELS==\"?*\", NAME=\"lan0\"",
            ),
        ] {
            assert_eq!(loose(Form::Udev, old), new);
            assert_eq!(given(Form::Udev, old).len(), 1);
        }
        for other in [
            "# SUBSYSTEM==\"net\", ATTR{address}==\"00:11:22:aa:bb:cc\", NAME=\"eth0\"",
            "SUBSYSTEM==\"net\", ATTR{address}==\"00:11:22:aa:bb:cc\", RUN+=\"/bin/x\"",
            "SUBSYSTEM==\"net\", ATTR{address}==\"00:11:22:aa:bb:dd\", NAME=\"eth0\"",
            "KERNELS==\"0000:03:00.0\", NAME=\"disk\"",
            "ATTR{address}==\"00:11:22:aa:bb:cc\", NAME==\"eth0\", ENV{x}=\"1\"",
        ] {
            assert_eq!(loose(Form::Udev, other), other);
        }
    }

    #[test]
    fn matches_of_systemd_are_loosened_and_settings_stay() {
        let old = "[Match]\n# MACAddress=00:11:22:aa:bb:cc\nMACAddress=00:11:22:AA:BB:CC\n\n\
                   [Link]\nMACAddress=00:11:22:aa:bb:cc\nName=lan0\n";
        let new = "[Match]\n# MACAddress=00:11:22:aa:bb:cc\nPath=*\n\n\
                   [Link]\nMACAddress=00:11:22:aa:bb:cc\nName=lan0\n";
        assert_eq!(loose(Form::Systemd, old), new);
        assert_eq!(given(Form::Systemd, old), ["lan0"]);
        for (old, new) in [
            ("[Match]\nPath=pci-0000:03:00.0\n", "[Match]\nPath=*\n"),
            ("[Match]\nPermanentMACAddress=00-11-22-aa-bb-cc", "[Match]\nPath=*"),
        ] {
            assert_eq!(loose(Form::Systemd, old), new);
        }
        for other in [
            "[Match]\nPath=*\n",
            "[Match]\nMACAddress=00:11:22:aa:bb:cc 00:11:22:aa:bb:dd\n",
            "[Match]\nName=lan0\n",
            "MACAddress=00:11:22:aa:bb:cc\n",
        ] {
            assert_eq!(loose(Form::Systemd, other), other);
        }
    }

    #[test]
    fn network_manager_and_netplan_are_loosened() {
        let old = "[connection]\nid=lan\ninterface-name=enp3s0\n[ethernet]\nmac-address=00:11:22:AA:BB:CC\n\
                   cloned-mac-address=00:11:22:AA:BB:CC\n[ipv4]\nmethod=auto\n";
        let new = old.replace("\nmac-address", "\n#mac-address");
        assert_eq!(loose(Form::Keyfile, old), new);
        let old =
            "DEVICE=eth0\nHWADDR=\"00:11:22:AA:BB:CC\"\nMACADDR=00:11:22:AA:BB:CC\nONBOOT=yes\n";
        assert_eq!(loose(Form::Ifcfg, old), old.replace("\nHWADDR", "\n#HWADDR"));
        let old = "network:\n  version: 2\n  ethernets:\n    lan0:\n      match:\n        \
                   macaddress: \"00:11:22:aa:bb:cc\" # ours\n      set-name: lan0\n      macaddress: \
                   00:11:22:aa:bb:cc\n      dhcp4: true\n    b: {match: {macaddress: 00:11:22:aa:bb:cc}, dhcp4: true}\n\
                   \x20   c:\n      match: {macaddress: 00:11:22:aa:bb:cc, driver: x}\n";
        let new = "network:\n  version: 2\n  ethernets:\n    lan0:\n      match:\n        \
                   name: \"e*\" # ours\n      set-name: lan0\n      macaddress: \
                   00:11:22:aa:bb:cc\n      dhcp4: true\n    b: {match: {name: \"e*\"}, dhcp4: true}\n\
                   \x20   c:\n      match: {name: \"e*\", driver: x}\n";
        assert_eq!(loose(Form::Netplan, old), new);
    }

    #[test]
    fn names_of_places_are_found_and_others_are_not() {
        let text = "auto lo enp3s0\niface enp3s0.100 inet dhcp\n# eno1\nbridge_ports eno2 em1 p1p2\n\
                    enx001122aabbcc ens3f0 eth0 bond0 br0 wlan0 lan0 enable english en0 pp p1 ens";
        assert_eq!(
            places(text),
            ["enp3s0", "enp3s0", "eno2", "em1", "p1p2", "enx001122aabbcc", "ens3f0"]
        );
    }

    proptest! {
        #[test]
        fn nothing_wanted_nothing_changed(text in "([ a-zA-Z{}:=\"\\[\\]#,0-9]|00:11:22:aa:bb:cc|match:|macaddress:|\\[Match\\]\n|MACAddress=|HWADDR=|ATTR\\{address\\}==|NAME=|\n|é){0,40}") {
            for form in [Form::Udev, Form::Systemd, Form::Keyfile, Form::Ifcfg, Form::Netplan, Form::Names] {
                prop_assert_eq!(loosen(form, &text, &mut |_| false), text.as_str());
                let once = loosen(form, &text, &mut |_| true);
                prop_assert_eq!(once.lines().count(), text.lines().count());
                prop_assert_eq!(loosen(form, &once, &mut |_| true), once.as_str());
            }
            let _ = (places(&text), address(&text));
        }
    }
}
