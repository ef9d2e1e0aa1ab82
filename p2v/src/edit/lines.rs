//! Files whose lines name devices: `fstab(5)`, `crypttab(5)`, and the kernel's words in the files
//! of boot loaders. Only the names change; every other byte stays.

use alloc::string::{String, ToString};

use blockmap::Format;

/// A name of a device in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mention<'t> {
    /// The device.
    pub device: &'t str,
    /// What the file says of its content, where it says so.
    pub holds: Option<Format>,
    /// Where it is mounted; empty where it is not.
    pub place: &'t str,
}

/// What a name is to be; `None` leaves it.
pub type Rename<'r> = &'r mut dyn FnMut(Mention<'_>) -> Option<String>;

/// The words of a kernel's line that name a device.
const WORDS: [&str; 6] = ["root", "real_root", "resume", "RESUME", "rd.resume", "cryptdevice"];

/// What a type of `fstab(5)` is on a disk; `None` where it says nothing.
fn format(kind: &str) -> Option<Format> {
    match kind {
        "ext2" | "ext3" | "ext4" => Some(Format::Ext),
        "xfs" => Some(Format::Xfs),
        "btrfs" => Some(Format::Btrfs),
        "f2fs" => Some(Format::F2fs),
        "vfat" | "msdos" => Some(Format::Vfat),
        "exfat" => Some(Format::Exfat),
        "ntfs" | "ntfs3" | "ntfs-3g" => Some(Format::Ntfs),
        "swap" => Some(Format::Swap),
        _ => None,
    }
}

/// Renames the devices of an `fstab`.
#[must_use]
pub fn fstab(text: &str, rename: Rename<'_>) -> String {
    by_field(text, 0, &mut |line| {
        let mut fields = line.split_whitespace();
        let (device, place) = (fields.next()?, fields.next()?);
        let kind = fields.next().unwrap_or_default();
        if matches!(kind, "iso9660" | "udf") {
            return None;
        }
        let place = if kind == "swap" { "" } else { place };
        rename(Mention { device, holds: format(kind), place })
    })
}

/// Renames the devices of a `crypttab`.
#[must_use]
pub fn crypttab(text: &str, rename: Rename<'_>) -> String {
    by_field(text, 1, &mut |line| {
        let device = line.split_whitespace().nth(1)?;
        let options = line.split_whitespace().nth(3).unwrap_or_default();
        let plain = options.split(',').any(|word| matches!(word, "swap" | "plain" | "tmp"));
        // What is encrypted anew at each start has no mark on the disk.
        let holds = if plain { None } else { Some(Format::Luks) };
        rename(Mention { device, holds, place: "" })
    })
}

/// Replaces one field of lines.
fn by_field(text: &str, field: usize, new: &mut dyn FnMut(&str) -> Option<String>) -> String {
    let mut all = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let comment = line.trim_start().starts_with('#');
        let replaced = if comment { None } else { new(line) };
        match replaced.zip(line.split_whitespace().nth(field)) {
            Some((new, old)) => {
                // The field is a part of the line, and so is what is before it.
                let at = (old.as_ptr() as usize).saturating_sub(line.as_ptr() as usize);
                let (before, rest) = line.split_at_checked(at).unwrap_or((line, ""));
                all.push_str(before);
                all.push_str(&new);
                all.push_str(rest.get(old.len()..).unwrap_or_default());
            }
            None => all.push_str(line),
        }
    }
    all
}

/// Renames the devices of words like `root=/dev/sda1`, wherever they stand in a text.
#[must_use]
pub fn words(text: &str, rename: Rename<'_>) -> String {
    let mut all = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("=/dev/") {
        let (before, behind) = rest.split_at_checked(at + 1).unwrap_or((rest, ""));
        all.push_str(before);
        let sign = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let word = before.get(..at).unwrap_or_default();
        let word = word.rsplit(|c: char| !sign(c)).next().unwrap_or_default();
        let end = |c: char| c.is_whitespace() || c.is_control() || "\"'`,;)\\".contains(c);
        let value = behind.split(end).next().unwrap_or_default();
        // Behind a colon is the name of what is decrypted, and so may be a part of a path.
        let device = match value.rsplit_once(':') {
            Some((device, _)) if word == "cryptdevice" => device,
            _ => value,
        };
        let holds = if word == "cryptdevice" { Some(Format::Luks) } else { None };
        let place = if matches!(word, "root" | "real_root") { "/" } else { "" };
        let known = WORDS.contains(&word);
        match known.then(|| rename(Mention { device, holds, place })).flatten() {
            Some(new) => all.push_str(&new),
            None => all.push_str(device),
        }
        rest = behind.get(device.len()..).unwrap_or_default();
    }
    all.push_str(rest);
    all
}

/// A changed environment block of GRUB, padded with `#` to its 1024 bytes again. `None` when it
/// is no such block, or the change does not fit.
#[must_use]
pub fn env_block(text: &str) -> Option<String> {
    const LENGTH: usize = 1024;
    let words = text.trim_end_matches('#');
    let room = LENGTH.checked_sub(words.len())?;
    (text.starts_with("# GRUB Environment Block\n") && room > 0)
        .then(|| [words, &"#".repeat(room)].concat().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn upper(mention: Mention<'_>) -> Option<String> {
        mention.device.starts_with("/dev/sd").then(|| "UUID=1".to_string())
    }

    #[test]
    fn names_of_an_fstab_change_and_nothing_else() {
        let old = "# /dev/sda1 was /\n\n/dev/sda1\t /  ext4  errors=remount-ro,x=/dev/sda9 0 1\r\n\
                   UUID=2 /home ext4 defaults\n  /dev/sda5 none swap sw\n/dev/sr0 /cd iso9660 ro\n\
                   tmpfs /tmp tmpfs\n/dev/sdb1\n/dev/sda3 /data auto";
        let new = "# /dev/sda1 was /\n\nUUID=1\t /  ext4  errors=remount-ro,x=/dev/sda9 0 1\r\n\
                   UUID=2 /home ext4 defaults\n  UUID=1 none swap sw\n/dev/sr0 /cd iso9660 ro\n\
                   tmpfs /tmp tmpfs\n/dev/sdb1\nUUID=1 /data auto";
        assert_eq!(fstab(old, &mut upper), new);
        let mut seen = Vec::new();
        let _ = fstab(old, &mut |mention| {
            seen.push((mention.device.to_string(), mention.holds, mention.place.to_string()));
            None
        });
        let one = |device: &str, holds, place: &str| (device.into(), holds, place.into());
        assert_eq!(seen[0], one("/dev/sda1", Some(Format::Ext), "/"));
        assert_eq!(seen[2], one("/dev/sda5", Some(Format::Swap), ""));
        assert_eq!(seen.last(), Some(&one("/dev/sda3", None, "/data")));
    }

    #[test]
    fn names_of_a_crypttab_change() {
        let old =
            "data  /dev/sda3 none luks\nsw /dev/sda4 /dev/urandom swap,cipher=x\n#a /dev/sda1\n";
        let new = "data  UUID=1 none luks\nsw UUID=1 /dev/urandom swap,cipher=x\n#a /dev/sda1\n";
        assert_eq!(crypttab(old, &mut upper), new);
    }

    #[test]
    fn words_of_kernels_change_wherever_they_stand() {
        for (old, new) in [
            ("linux /vmlinuz root=/dev/sda2 ro quiet", "linux /vmlinuz root=UUID=1 ro quiet"),
            ("GRUB_CMDLINE_LINUX=\"resume=/dev/sda3\"\n", "GRUB_CMDLINE_LINUX=\"resume=UUID=1\"\n"),
            ("# kopt=root=/dev/sda1 ro", "# kopt=root=UUID=1 ro"),
            ("append root=/dev/sda1,x", "append root=UUID=1,x"),
            (
                "cryptdevice=/dev/sda2:root root=/dev/mapper/root",
                "cryptdevice=UUID=1:root root=/dev/mapper/root",
            ),
            ("boot=/dev/sda", "boot=/dev/sda"),
            ("chroot=/dev/sda1 overlayroot=/dev/sda1", "chroot=/dev/sda1 overlayroot=/dev/sda1"),
            ("root=/dev/vg/root", "root=/dev/vg/root"),
            ("RESUME=/dev/sda5", "RESUME=UUID=1"),
            ("root=/dev/", "root=/dev/"),
            ("=/dev/=/dev/sda1", "=/dev/=/dev/sda1"),
        ] {
            assert_eq!(words(old, &mut upper), new);
        }
    }

    #[test]
    fn an_environment_block_keeps_its_length() {
        let block = |text: &str| format!("# GRUB Environment Block\n{text}\n");
        let old = block("kernelopts=root=/dev/sda1 ro");
        let old = format!("{old}{}", "#".repeat(1024 - old.len()));
        let new = env_block(&words(&old, &mut upper)).unwrap();
        assert_eq!(new.len(), 1024);
        assert!(new.starts_with(&block("kernelopts=root=UUID=1 ro")));
        assert_eq!(env_block(&old).as_deref(), Some(old.as_str()));
        assert_eq!(env_block(&block(&"x".repeat(1000))), None);
        assert_eq!(env_block("saved_entry=0\n"), None);
    }

    proptest! {
        /// Whatever the file: a second pass finds nothing, and without a new name nothing changes.
        #[test]
        fn a_change_is_made_once(
            text in "([ \t#\"':=a-z0-9]|/dev/sda[0-9]?|root=|resume=|ext4|swap|luks|\n){0,40}"
        ) {
            type Pass = fn(&str, Rename<'_>) -> String;
            for pass in [fstab as Pass, crypttab, words] {
                prop_assert_eq!(pass(&text, &mut |_| None), text.as_str());
                let once = pass(&text, &mut upper);
                prop_assert_eq!(pass(&once, &mut upper), once.as_str());
                prop_assert_eq!(once.lines().count(), text.lines().count());
            }
            let _ = env_block(&text);
        }
    }
}
