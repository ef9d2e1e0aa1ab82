//! Boot loader entries: the text files of systemd-boot and of GRUB's `blscfg`, and unified kernel
//! images (<https://uapi-group.org/specifications/specs/boot_loader_specification/> and
//! `unified_kernel_image/`).
//!
//! The files are read for their Linux command lines. Nothing is verified: a signature, the
//! machine's architecture and the files that an entry names are not looked at.

use super::model::{ENTRIES_MAX, Entry, FILE_MAX, Menu};
use coldplug::index::fnmatch;
use object::read::pe::PeFile64;
use object::{Object as _, ObjectSection as _};
use std::cmp::Ordering;

/// Largest unified kernel image that is read: kernel and initramfs are inside.
pub const UKI_MAX: u64 = 1 << 30;

/// Keys of an entry's lines.
const KEYS: &[&str] = &[
    "title",
    "version",
    "machine-id",
    "sort-key",
    "linux",
    "initrd",
    "options",
    "efi",
    "uki",
    "uki-url",
    "profile",
    "devicetree",
    "devicetree-overlay",
    "architecture",
    "extra",
    "grub_hotkey",
    "grub_users",
    "grub_class",
    "grub_arg",
    "id",
];

/// Whether a text is such an entry: it has known keys only, and one that starts something.
#[must_use]
pub fn is_entry(text: &str) -> bool {
    let mut keys = lines(text).map(|(key, _)| key).peekable();
    let starts = lines(text).any(|(key, _)| matches!(key, "linux" | "uki" | "efi"));
    keys.peek().is_some() && starts && keys.all(|key| KEYS.contains(&key))
}

/// Whether these bytes are a program for UEFI, as a unified kernel image is.
#[must_use]
pub fn is_efi_program(head: &[u8]) -> bool {
    head.starts_with(b"MZ")
}

/// One profile of a unified kernel image.
#[derive(Debug, Clone, Default)]
struct Unified {
    has_kernel: bool,
    has_initrd: bool,
    line: String,
    system: String,
    profile: String,
}

impl Unified {
    fn entry(&self, name: &str) -> BootEntry {
        let mut read = BootEntry::named(name, ".efi");
        let system = |key| assigned(&self.system, key);
        let title = system("PRETTY_NAME").unwrap_or_else(|| name.to_owned());
        read.entry.title = match assigned(&self.profile, "TITLE") {
            Some(profile) => blank(&format!("{title} ({profile})")),
            None => blank(&title),
        };
        read.entry.kernel = format!("{name}:.linux");
        read.entry.initrd.extend(self.has_initrd.then(|| format!("{name}:.initrd")));
        read.entry.append = blank(&self.line);
        read.starts_linux = true;
        read.sort_key = system("IMAGE_ID").or_else(|| system("ID")).unwrap_or_default();
        read.version = ["IMAGE_VERSION", "VERSION_ID", "BUILD_ID"]
            .iter()
            .find_map(|key| system(key))
            .unwrap_or_default();
        if self.line.is_empty() {
            let from = "the boot loader or files beside the image give the command line";
            read.note = Some(format!("{name} has no section .cmdline: {from}"));
        }
        read
    }
}

/// A section's text, without the padding at its end.
fn content<'d>(section: &impl object::ObjectSection<'d>) -> String {
    let data = section.data().unwrap_or_default();
    let data = data.get(..data.len().min(FILE_MAX)).unwrap_or_default();
    String::from_utf8_lossy(data).trim_matches(['\0', ' ', '\n']).to_owned()
}

/// The value of a line `KEY=value` or `KEY="value"`, as os-release has them.
fn assigned(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

fn blank(text: &str) -> String {
    text.replace(char::is_control, " ").trim().to_owned()
}

/// The lines `key value`, without comments.
fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let text = text.get(..text.floor_char_boundary(FILE_MAX)).unwrap_or_default();
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let (key, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        (key, value.trim())
    })
}

/// An entry and what the loader sorts it by.
#[derive(Debug, Clone, Default)]
pub struct BootEntry {
    entry: Entry,
    file: String,
    starts_linux: bool,
    sort_key: String,
    machine: String,
    version: String,
    /// The file's name counts its boots, and none is left.
    is_bad: bool,
    note: Option<String>,
}

impl BootEntry {
    /// An entry of that file name. The name's end `+LEFT-DONE` counts boots and is no part of the
    /// entry's name.
    fn named(name: &str, suffix: &str) -> Self {
        let stem = name.strip_suffix(suffix).unwrap_or(name);
        let (stem, left) = match stem.rsplit_once('+') {
            Some((stem, count)) if count.starts_with(|c: char| c.is_ascii_digit()) => {
                (stem, count.split('-').next().and_then(|left| left.parse::<u32>().ok()))
            }
            _ => (stem, None),
        };
        let id = stem.replace(|c: char| c.is_whitespace() || c == ',', "_");
        Self {
            entry: Entry { id, ..Entry::default() },
            file: format!("{stem}{suffix}"),
            is_bad: left == Some(0),
            ..Self::default()
        }
    }

    /// Reads an entry's text file.
    #[must_use]
    pub fn text(name: &str, text: &str) -> Self {
        let mut read = Self::named(name, ".conf");
        let entry = &mut read.entry;
        for (key, value) in lines(text) {
            match key {
                "title" => entry.title = blank(value),
                "version" => value.clone_into(&mut read.version),
                "machine-id" => value.clone_into(&mut read.machine),
                "sort-key" => value.clone_into(&mut read.sort_key),
                "linux" => {
                    value.clone_into(&mut entry.kernel);
                    read.starts_linux = true;
                }
                "initrd" if entry.initrd.len() < ENTRIES_MAX => entry.initrd.push(value.into()),
                "options" => {
                    entry.append.push(' ');
                    entry.append.push_str(value);
                }
                _ => {}
            }
        }
        entry.append = blank(&entry.append);
        if entry.append.contains('$') {
            let by_grub = "GRUB's blscfg fills in what begins with $; systemd-boot does not";
            read.note = Some(format!("{}: {by_grub}", read.file));
        }
        read
    }

    /// Reads a unified kernel image: one entry for each of its profiles.
    ///
    /// # Errors
    /// A sentence: it is no such image.
    pub fn unified(name: &str, bytes: &[u8]) -> Result<Vec<Self>, String> {
        let bad = |e| format!("this program for UEFI cannot be read: {e}");
        let file = PeFile64::parse(bytes).map_err(bad)?;
        let mut profiles = vec![Unified::default()];
        for section in file.sections().take(ENTRIES_MAX) {
            let Some(last) = profiles.last_mut() else { break };
            match section.name() {
                Ok(".linux") => last.has_kernel = true,
                Ok(".initrd") => last.has_initrd = true,
                Ok(".cmdline") => last.line = content(&section),
                Ok(".osrel") => last.system = content(&section),
                // What stands before the first profile is the base of every one.
                Ok(".profile") => {
                    let base = profiles.first().cloned().unwrap_or_default();
                    profiles.push(Unified { profile: content(&section), ..base });
                }
                _ => {}
            }
        }
        if profiles.len() > 1 {
            profiles.remove(0);
        }
        profiles.retain(|found| found.has_kernel);
        if profiles.is_empty() {
            return Err(
                "a program for UEFI without a section .linux, so no unified kernel image".into()
            );
        }
        Ok(profiles.iter().map(|found| found.entry(name)).collect())
    }

    /// The order of the menu: entries that still may boot, then by sort key, machine and falling
    /// version; entries without a sort key come last, by falling file name.
    fn order(&self, other: &Self) -> Ordering {
        let by_key = || match self.sort_key.is_empty() {
            true => Ordering::Equal,
            false => self
                .sort_key
                .cmp(&other.sort_key)
                .then_with(|| self.machine.cmp(&other.machine))
                .then_with(|| version(&other.version, &self.version)),
        };
        self.is_bad
            .cmp(&other.is_bad)
            .then_with(|| self.sort_key.is_empty().cmp(&other.sort_key.is_empty()))
            .then_with(by_key)
            .then_with(|| version(&other.file, &self.file))
    }
}

/// The loader's menu of these entries, in its order and with the default that `loader.conf`
/// names. Entries that start no Linux kernel are left out.
#[must_use]
pub fn menu(mut entries: Vec<BootEntry>, conf: &str) -> Menu {
    entries.truncate(ENTRIES_MAX);
    entries.sort_by(BootEntry::order);
    let says = |key| lines(conf).filter(|(found, _)| *found == key).map(|(_, value)| value).last();
    let mut menu =
        Menu { timeout: says("timeout").and_then(|t| t.parse().ok()), ..Menu::default() };
    let pattern = says("default").unwrap_or_default();
    let is_named = |entry: &BootEntry| {
        let stem = entry.file.strip_suffix(".conf").unwrap_or(&entry.file);
        [stem, &entry.file].iter().any(|name| fnmatch(pattern.as_bytes(), name.as_bytes()))
    };
    let named = entries.iter().position(|entry| !pattern.is_empty() && is_named(entry));
    let told = |why| format!("loader.conf's default is '{}': {why}", pattern.escape_debug());
    if pattern.starts_with('@') {
        menu.notes.push(told("the loader remembers which entry that is"));
    } else if !pattern.is_empty() && named.is_none() {
        menu.notes.push(told("none of these entries, so the first one starts"));
    }
    let default = named.unwrap_or(0);
    menu.other_default = entries.get(default).is_some_and(|entry| !entry.starts_linux);
    menu.default = entries.iter().take(default).filter(|entry| entry.starts_linux).count();
    entries.retain(|entry| entry.starts_linux);
    menu.notes.extend(entries.iter_mut().filter_map(|entry| entry.note.take()));
    menu.entries = entries.into_iter().map(|entry| entry.entry).collect();
    menu
}

/// Compares versions: runs of digits as numbers, everything else as text.
fn version(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    loop {
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).count();
        let (a, b) = (digits(one), digits(other));
        if a > 0 && b > 0 {
            let (number, rest) = one.split_at(a);
            let (number2, rest2) = other.split_at(b);
            let trimmed = |n: &str| n.trim_start_matches('0').to_owned();
            let (number, number2) = (trimmed(number), trimmed(number2));
            let order = number.len().cmp(&number2.len()).then_with(|| number.cmp(&number2));
            if order != Ordering::Equal {
                return order;
            }
            (one, other) = (rest, rest2);
            continue;
        }
        let (mut chars, mut chars2) = (one.chars(), other.chars());
        match (chars.next(), chars2.next()) {
            (None, None) => return Ordering::Equal,
            (c, c2) if c != c2 => return c.cmp(&c2),
            _ => (one, other) = (chars.as_str(), chars2.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ARCH: &str = "# by archiso\ntitle    Arch Linux install medium\nsort-key 01\n\
        linux    /arch/boot/x86_64/vmlinuz-linux\ninitrd   /arch/boot/intel-ucode.img\n\
        initrd   /arch/boot/x86_64/initramfs-linux.img\n\
        options  archisobasedir=arch\noptions  archisosearchuuid=2026-11-01-08-00-00-00\n";

    #[test]
    fn an_entry_of_systemd_boot() {
        assert!(is_entry(ARCH));
        assert!(!is_entry("label x\nlinux v\nappend boot=live\n"), "SYSLINUX");
        assert!(!is_entry("title x\nversion 1\n"), "it starts nothing");
        assert!(!is_entry("title x\nroot (hd0,0)\nkernel /vmlinuz ro\n"), "GRUB 0.97");
        let menu = menu(vec![BootEntry::text("01-archiso.conf", ARCH)], "");
        let entry = &menu.entries[0];
        assert_eq!((&*entry.id, &*entry.title), ("01-archiso", "Arch Linux install medium"));
        assert_eq!(entry.kernel, "/arch/boot/x86_64/vmlinuz-linux");
        assert_eq!(entry.initrd.len(), 2);
        assert_eq!(entry.append, "archisobasedir=arch archisosearchuuid=2026-11-01-08-00-00-00");
    }

    /// The order and the default of systemd-boot's menu.
    #[test]
    fn order_and_default_are_the_loaders() {
        let file = |name: &str, more: &str| BootEntry::text(name, &format!("linux /k\n{more}"));
        let files = || {
            vec![
                file("b-6.9.conf", ""),
                file("b-6.10.conf", ""),
                file("d.conf", "sort-key z\nversion 6.9"),
                file("c+0-3.conf", "sort-key a"),
                file("e.conf", "sort-key z\nversion 6.10"),
                BootEntry::text("shell.conf", "efi /shell.efi"),
            ]
        };
        let ids = |conf| {
            let menu = menu(files(), conf);
            let ids = menu.entries.iter().map(|e| e.id.clone()).collect::<Vec<_>>().join(" ");
            (ids, menu.default, menu.other_default, menu.notes.len())
        };
        assert_eq!(ids(""), ("e d b-6.10 b-6.9 c".into(), 0, false, 0));
        assert_eq!(
            ids("timeout 3\ndefault b-*.conf\n"),
            ("e d b-6.10 b-6.9 c".into(), 2, false, 0)
        );
        assert_eq!(ids("default d").1, 1);
        assert!(ids("default shell.conf").2, "it starts no kernel");
        assert_eq!(ids("default none-*").3, 1);
        assert_eq!(ids("default @saved").3, 1);
    }

    /// A program for UEFI with these sections, as ukify lays it out.
    fn uki(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let put = |out: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            out.resize(out.len().max(at + bytes.len()), 0);
            out[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let mut out = b"MZ".to_vec();
        put(&mut out, 0x3c, &64u32.to_le_bytes());
        put(&mut out, 64, b"PE\0\0\x64\x86");
        put(&mut out, 70, &(sections.len() as u16).to_le_bytes());
        put(&mut out, 84, &240u16.to_le_bytes());
        put(&mut out, 88, &0x20bu16.to_le_bytes());
        put(&mut out, 88 + 108, &16u32.to_le_bytes());
        let (headers, mut data) = (88 + 240, 4096);
        for (n, (name, content)) in sections.iter().enumerate() {
            let at = headers + 40 * n;
            put(&mut out, at, name.as_bytes());
            for (field, value) in [(8, content.len()), (12, data), (16, content.len()), (20, data)]
            {
                put(&mut out, at + field, &(value as u32).to_le_bytes());
            }
            put(&mut out, data, content);
            data += content.len().next_multiple_of(512);
        }
        out
    }

    #[test]
    fn a_unified_kernel_image_and_its_profiles() {
        let system = b"ID=debian\nVERSION_ID=13\nPRETTY_NAME=\"Debian 13\"\n";
        let base: [(&str, &[u8]); 4] = [
            (".osrel", system),
            (".cmdline", b"root=/dev/vda1 quiet\n\0\0"),
            (".linux", b"k"),
            (".initrd", b"i"),
        ];
        let one = BootEntry::unified("deb.efi", &uki(&base)).unwrap();
        let read = menu(one, "default deb.efi");
        assert_eq!(read.entries[0].append, "root=/dev/vda1 quiet");
        assert_eq!(read.entries[0].title, "Debian 13");
        assert_eq!(read.entries[0].initrd, ["deb.efi:.initrd"]);
        assert!(read.notes.is_empty());
        let mut more = base.to_vec();
        more.push((".profile", b"ID=main\nTITLE=\"As ever\""));
        more.push((".profile", b"ID=reset\nTITLE=Reset"));
        more.push((".cmdline", b"root=/dev/vda1 reset"));
        let two = menu(BootEntry::unified("deb.efi", &uki(&more)).unwrap(), "");
        let lines: Vec<_> = two.entries.iter().map(|e| (&*e.title, &*e.append)).collect();
        let expected = [
            ("Debian 13 (As ever)", "root=/dev/vda1 quiet"),
            ("Debian 13 (Reset)", "root=/dev/vda1 reset"),
        ];
        assert_eq!(lines, expected);
        let bare = menu(BootEntry::unified("k.efi", &uki(&[(".linux", b"k")])).unwrap(), "");
        assert!(bare.notes[0].contains("no section .cmdline"));
        let loader = BootEntry::unified("shim.efi", &uki(&[(".text", b"x")])).unwrap_err();
        assert!(loader.contains("no unified kernel image"), "{loader}");
        assert!(BootEntry::unified("x.efi", b"MZ").is_err());
    }

    proptest! {
        #[test]
        fn any_text(name in ".{0,20}", text in "([a-z-]{0,8} ?.{0,9}\n?){0,9}", conf in ".{0,40}") {
            let _ = (is_entry(&text), menu(vec![BootEntry::text(&name, &text)], &conf));
        }

        /// Bytes anywhere in an image that is right otherwise.
        #[test]
        fn any_bytes(at in 0usize..600, byte: u8, cut in 0usize..5000) {
            let mut image = uki(&[(".cmdline", b"root=/dev/vda1"), (".linux", b"k")]);
            if let Some(old) = image.get_mut(at) { *old = byte; }
            image.truncate(cut);
            let _ = BootEntry::unified("x.efi", &image);
        }
    }
}
