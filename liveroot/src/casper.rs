//! casper (Ubuntu): the live session's user, host name, autologin, keyboard and
//! locale. Facts: casper 1.470's casper-bottom.
//!
//! When the distribution's own scripts lie beside `/init` in the initramfs (our archive
//! stands behind theirs) and there is a shell, `/init` runs those instead; they know their
//! release best. This is their minimum, as changes of files.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::BootPlan;

use crate::{Act, Change, Look};

/// Uid of casper's live user, when it is free.
const LIVE_UID: u32 = 999;

/// Groups that casper puts its user in, when the system has them.
const GROUPS: &[&str] =
    &["adm", "cdrom", "sudo", "dip", "plugdev", "users", "lpadmin", "sambashare", "netdev"];

/// Reads a file of the new root; the text of a directory is empty.
type Read<'r> = dyn Fn(&str) -> Option<String> + 'r;

/// The live system's own settings, `/etc/casper.conf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Casper {
    /// `KEY` and value, in the order of the file.
    values: Vec<(String, String)>,
    /// Whether the line names the host.
    host_is_named: bool,
}

impl Casper {
    /// Settings as casper finds them: its file, the medium's `.disk/info` unless the
    /// file names a flavour, then the line.
    #[must_use]
    pub fn new(conf: &str, disk_info: &str, line: &[(String, String)]) -> Self {
        let mut values: Vec<(String, String)> = Vec::new();
        let mut set = |key: &str, value: &str| match values.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value.to_string(),
            None => values.push((key.to_string(), value.to_string())),
        };
        set("USERNAME", "ubuntu");
        set("USERFULLNAME", "Live session user");
        set("HOST", "ubuntu");
        set("BUILD_SYSTEM", "Ubuntu");
        let mut flavour = false;
        for text in conf.lines() {
            let text = text.trim();
            let text = text.strip_prefix("export ").unwrap_or(text);
            if let Some((key, value)) = text.split_once('=')
                && !key.starts_with('#')
            {
                flavour |= key == "FLAVOUR";
                set(key.trim(), value.trim().trim_matches(['"', '\'']));
            }
        }
        let first = disk_info.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        if !flavour && is_name(&first) {
            for key in ["FLAVOUR", "HOST", "USERNAME"] {
                set(key, &first);
            }
        }
        let mut host_is_named = false;
        for (name, value) in line {
            let key = match name.as_str() {
                "username" if is_name(value) => "USERNAME",
                "userfullname" => "USERFULLNAME",
                "hostname" if is_name(value) => {
                    host_is_named = true;
                    "HOST"
                }
                _ => continue,
            };
            set(key, value);
        }
        Self { values, host_is_named }
    }

    /// The settings that lie in the initramfs, in the root and on the medium.
    #[must_use]
    pub fn find(plan: &BootPlan, look: &impl Look) -> Self {
        let path = "/etc/casper.conf";
        let conf = look.initramfs(path).or_else(|| look.root(path)).unwrap_or_default();
        let info = look.beside_images(plan, "/.disk/info").unwrap_or_default();
        Self::new(&conf, &info, &plan.handoff.settings)
    }

    fn get(&self, key: &str) -> &str {
        self.values.iter().find(|(k, _)| k == key).map_or("", |(_, value)| value)
    }

    /// The file for scripts and for the next to come.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text =
            String::from("# Settings of this live session, from the medium and the boot line.\n");
        for (key, value) in &self.values {
            let value = keep(value, |c| !matches!(c, '"' | '\\' | '$' | '`' | '\n'));
            text.push_str(&["export ", key, "=\"", &value, "\"\n"].concat());
        }
        text
    }

    /// What the live session's own programs read.
    #[must_use]
    pub fn marks(&self) -> [Change; 2] {
        // The second is empty: its presence is what casper's own services ask for.
        [Change::file("/etc/casper.conf", &self.text()), Change::file("/run/.casper-boot", "")]
    }

    /// What the scripts would change, done here.
    #[must_use]
    pub fn changes(&self, plan: &BootPlan, look: &impl Look) -> Vec<Change> {
        let named = look.up().is_some_and(|up| !up.config.hostname.is_empty());
        let read = |path: &str| look.root(path);
        self.files(&plan.handoff.settings, named, &read)
    }

    fn files(&self, line: &[(String, String)], named: bool, read: &Read<'_>) -> Vec<Change> {
        let mut changes = Vec::from(self.marks());
        let host = self.get("HOST");
        if self.host_is_named || !named {
            changes.push(Change::file("/etc/hostname", &[host, "\n"].concat()));
            changes.push(Change::file(
                "/etc/hosts",
                &[
                    "127.0.0.1 localhost\n127.0.1.1 ",
                    host,
                    "\n\n::1 ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\n\
                     ff02::2 ip6-allrouters\n",
                ]
                .concat(),
            ));
        }
        self.user(&mut changes, read);
        self.logins(&mut changes, read);
        locale(&mut changes, line, read);
        // systemd would try to unmount what everything is on.
        changes.push(Change::new(Act::Link, "/run/systemd/system/cdrom.mount", "/dev/null"));
        changes
    }

    fn user(&self, changes: &mut Vec<Change>, read: &Read<'_>) {
        let name = self.get("USERNAME");
        let passwd = read("/etc/passwd").unwrap_or_default();
        let (Some(shadow), Some(group)) = (read("/etc/shadow"), read("/etc/group")) else { return };
        if has(&passwd, name) {
            return;
        }
        let taken = |id: u32| {
            let id = id.to_string();
            [&passwd, &group]
                .iter()
                .any(|file| file.lines().any(|entry| entry.split(':').nth(2) == Some(id.as_str())))
        };
        let Some(id) = (LIVE_UID..LIVE_UID + 1000).find(|id| !taken(*id)) else { return };
        let id = id.to_string();
        let full = keep(self.get("USERFULLNAME"), |c| !matches!(c, ':' | ',' | '\n'));
        let shell = if read("/bin/bash").is_some() { "/bin/bash" } else { "/bin/sh" };
        let mut groups = String::new();
        for entry in group.lines() {
            groups.push_str(entry);
            if GROUPS.iter().any(|known| entry.split(':').next() == Some(known)) {
                groups.push_str(if entry.ends_with(':') { "" } else { "," });
                groups.push_str(name);
            }
            groups.push('\n');
        }
        changes.push(Change::file("/etc/group", &[&groups, name, ":x:", &id, ":\n"].concat()));
        changes.push(Change::file(
            "/etc/passwd",
            &[
                &*ended(&passwd),
                name,
                ":x:",
                &id,
                ":",
                &id,
                ":",
                &full,
                ",,,:/home/",
                name,
                ":",
                shell,
                "\n",
            ]
            .concat(),
        ));
        // No password: who sits at a live system may use it.
        let secret = [&*ended(&shadow), name, "::19000:0:99999:7:::\n"].concat();
        changes.push(Change::new(Act::File(0o640), "/etc/shadow", &secret));
        if read("/etc/sudoers.d").is_some() {
            let rule = [name, " ALL=(ALL) NOPASSWD: ALL\n"].concat();
            changes.push(Change::new(Act::File(0o440), "/etc/sudoers.d/casper", &rule));
        }
        // systemd copies the skeleton before the first login.
        changes.push(Change::file(
            "/run/tmpfiles.d/casper.conf",
            &[
                "C /home/",
                name,
                " 0750 ",
                name,
                " ",
                name,
                " - /etc/skel\nZ /home/",
                name,
                " - ",
                name,
                " ",
                name,
                "\n",
            ]
            .concat(),
        ));
    }

    fn logins(&self, changes: &mut Vec<Change>, read: &Read<'_>) {
        let name = self.get("USERNAME");
        changes.push(Change::file(
            "/run/systemd/system/getty@.service.d/casper.conf",
            &[
                "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin ",
                name,
                " --noclear %I $TERM\n",
            ]
            .concat(),
        ));
        if read("/etc/lightdm").is_some() {
            changes.push(Change::file(
                "/etc/lightdm/lightdm.conf.d/90-casper.conf",
                &["[Seat:*]\nautologin-user=", name, "\nautologin-user-timeout=0\n"].concat(),
            ));
        }
        if read("/usr/bin/sddm").is_some() {
            changes.push(Change::file(
                "/etc/sddm.conf.d/90-casper.conf",
                &["[Autologin]\nUser=", name, "\n"].concat(),
            ));
        }
        if read("/etc/gdm3").is_some() {
            let old = read("/etc/gdm3/custom.conf").unwrap_or_default();
            let mut text = String::new();
            let ours = ["AutomaticLoginEnable=true\nAutomaticLogin=", name, "\n"].concat();
            let mut done = false;
            for entry in old.lines().filter(|entry| !entry.starts_with("AutomaticLogin")) {
                text.push_str(entry);
                text.push('\n');
                if entry.trim() == "[daemon]" {
                    text.push_str(&ours);
                    done = true;
                }
            }
            if !done {
                text.push_str("[daemon]\n");
                text.push_str(&ours);
            }
            changes.push(Change::file("/etc/gdm3/custom.conf", &text));
        }
    }
}

/// Keyboard and language, by the words of casper and of the installer.
fn locale(changes: &mut Vec<Change>, line: &[(String, String)], read: &Read<'_>) {
    let said = |names: &[&str]| {
        line.iter().rev().find(|(name, _)| names.contains(&name.as_str())).map(|(_, value)| value)
    };
    let mut keyboard = read("/etc/default/keyboard").unwrap_or_default();
    let before = keyboard.clone();
    for (key, names) in [
        ("XKBMODEL", &["keyboard-configuration/modelcode", "console-setup/modelcode"][..]),
        (
            "XKBLAYOUT",
            &[
                "keyboard-configuration/layoutcode",
                "console-setup/layoutcode",
                "console-keymaps-at/keymap",
            ],
        ),
        ("XKBVARIANT", &["keyboard-configuration/variantcode", "console-setup/variantcode"]),
        ("XKBOPTIONS", &["keyboard-configuration/optionscode", "console-setup/optionscode"]),
    ] {
        if let Some(value) = said(names) {
            keyboard = assign(&keyboard, key, value);
        }
    }
    if keyboard != before {
        changes.push(Change::file("/etc/default/keyboard", &keyboard));
    }
    if let Some(value) = said(&["locale", "debian-installer/locale"]) {
        // Since Debian 13 the first is a link to the second, which systemd-tmpfiles makes again.
        for path in ["/etc/default/locale", "/etc/locale.conf"] {
            let old = read(path).unwrap_or_default();
            changes.push(Change::file(path, &assign(&old, "LANG", value)));
        }
    }
}

/// With a newline at the end.
fn ended(text: &str) -> String {
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    [text, newline].concat()
}

/// A file of shell assignments with one of them set.
fn assign(text: &str, key: &str, value: &str) -> String {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ',' | ':' | '@' | '+');
    let value = keep(value, plain);
    let mut out = String::new();
    for entry in text.lines() {
        if !entry.strip_prefix(key).is_some_and(|rest| rest.starts_with('=')) {
            out.push_str(entry);
            out.push('\n');
        }
    }
    [&out, key, "=\"", &value, "\"\n"].concat()
}

/// Whether `name` is an entry of a file like `/etc/passwd`.
fn has(file: &str, name: &str) -> bool {
    file.lines().any(|entry| entry.split(':').next() == Some(name))
}

/// The characters of a text that `allowed` lets pass.
#[inline(never)]
fn keep(text: &str, allowed: fn(char) -> bool) -> String {
    text.chars().filter(|c| allowed(*c)).collect()
}

/// A name for a user or a host: what every tool accepts.
fn is_name(text: &str) -> bool {
    text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[(&str, &str)]) -> Vec<(String, String)> {
        words.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
    }

    fn image(path: &str) -> Option<String> {
        Some(String::from(match path {
            "/etc/passwd" => "root:x:0:0:root:/root:/bin/bash\nx:x:999:999::/:/bin/sh",
            "/etc/shadow" => "root:*:1:0:99999:7:::\n",
            "/etc/group" => "root:x:0:\nadm:x:4:syslog\nsudo:x:27:\n",
            "/etc/default/keyboard" => "XKBMODEL=\"pc105\"\nXKBLAYOUT=\"us\"\n",
            "/etc/gdm3/custom.conf" => "[daemon]\nAutomaticLogin=old\n[security]\n",
            "/bin/bash" | "/etc/sudoers.d" | "/etc/gdm3" => "",
            _ => return None,
        }))
    }

    fn text<'c>(changes: &'c [Change], path: &str) -> &'c str {
        &changes.iter().find(|change| change.path == path).unwrap().with
    }

    #[test]
    fn the_medium_names_user_and_host_and_the_line_wins() {
        let casper = Casper::new("# x\nexport BUILD_SYSTEM=\"Debian\"\n", "Kubuntu 24.04\n", &[]);
        assert_eq!((casper.get("USERNAME"), casper.get("HOST")), ("kubuntu", "kubuntu"));
        assert_eq!(casper.get("BUILD_SYSTEM"), "Debian");
        let words = line(&[("username", "anna"), ("hostname", "lab7"), ("username", "Bad Name")]);
        let casper = Casper::new("FLAVOUR=mine\nUSERNAME='live'", "Kubuntu 24.04", &words);
        assert_eq!((casper.get("USERNAME"), casper.get("HOST")), ("anna", "lab7"));
        assert!(casper.text().contains("export FLAVOUR=\"mine\"\n"));
    }

    #[test]
    fn a_user_is_added_once_and_can_log_in() {
        let words = line(&[
            ("username", "anna"),
            ("userfullname", "Anna: \"X\""),
            ("keyboard-configuration/layoutcode", "de"),
            ("locale", "de_DE.UTF-8"),
        ]);
        let casper = Casper::new("", "", &words);
        let changes = casper.files(&words, true, &image);
        let passwd = text(&changes, "/etc/passwd");
        assert!(
            passwd.contains("/:/bin/sh\nanna:x:1000:1000:Anna \"X\",,,:/home/anna:/bin/bash\n")
        );
        assert!(text(&changes, "/etc/shadow").ends_with("\nanna::19000:0:99999:7:::\n"));
        assert_eq!(
            text(&changes, "/etc/group"),
            "root:x:0:\nadm:x:4:syslog,anna\nsudo:x:27:anna\nanna:x:1000:\n"
        );
        assert_eq!(
            text(&changes, "/etc/default/keyboard"),
            "XKBMODEL=\"pc105\"\nXKBLAYOUT=\"de\"\n"
        );
        for path in ["/etc/default/locale", "/etc/locale.conf"] {
            assert_eq!(text(&changes, path), "LANG=\"de_DE.UTF-8\"\n");
        }
        assert_eq!(
            text(&changes, "/etc/gdm3/custom.conf"),
            "[daemon]\nAutomaticLoginEnable=true\nAutomaticLogin=anna\n[security]\n"
        );
        let sudo = changes.iter().find(|change| change.path == "/etc/sudoers.d/casper").unwrap();
        assert_eq!(sudo.act, Act::File(0o440));
        assert!(changes.contains(&Change::new(
            Act::Link,
            "/run/systemd/system/cdrom.mount",
            "/dev/null"
        )));
        // The network named the machine, and the line does not.
        assert!(!changes.iter().any(|change| change.path == "/etc/hostname"));
        // A user who is there stays as they are.
        let there = Casper::new("", "", &line(&[("username", "root")]));
        let changes = there.files(&[], false, &image);
        assert!(!changes.iter().any(|change| change.path == "/etc/passwd"));
        assert_eq!(text(&changes, "/etc/hostname"), "ubuntu\n");
    }
}
