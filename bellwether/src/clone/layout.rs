//! What a golden machine's disk looks like, in a text that a copy is made from.
//!
//! KA's own files (`desc`, `pfstab`) know DOS tables, no labels and no EFI. This
//! one is beside them in the same session, and taken first:
//!
//! ```text
//! table dos
//! disk /dev/sda
//! part 1 size=1200 type=83 boot fs=ext4 label=golden mount=/ uuid=5f1c…
//! part 2 size=299 type=82 fs=swap uuid=9be0…
//! ```
//!
//! Sizes are MiB, or `fill` for what is left of the disk. Blanks in labels are
//! written as in fstab, `\040`.

use crate::failure::Failure;

/// The name of the file in a session.
pub const FILE: &str = "layout";

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Part {
    /// Its number in the table.
    pub number: u32,
    /// MiB; nothing for what is left.
    pub size: Option<u64>,
    /// Its first sector of 512 bytes, where it was read from a disk; not in the text.
    pub start: u64,
    /// As sfdisk writes it: two hex digits or a GUID.
    pub kind: String,
    /// Active in a DOS table.
    pub boot: bool,
    /// File system, `swap`, or empty.
    pub fs: String,
    /// Its label.
    pub label: String,
    /// Where it is mounted, or empty.
    pub mount: String,
    /// The golden one's identifiers, which the copy's files still have.
    pub uuid: String,
    /// The identifier of the partition itself on the golden machine.
    pub partuuid: String,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    /// `dos` or `gpt`.
    pub table: String,
    /// The golden machine's name of the disk.
    pub disk: String,
    /// In the order of their numbers.
    pub parts: Vec<Part>,
}

const FILE_SYSTEMS: [&str; 9] =
    ["", "swap", "ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "ntfs"];

fn escape(text: &str) -> String {
    text.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011")
}

fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

impl Layout {
    /// Reads the text.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let mut layout = Self::default();
        for (i, line) in text.lines().enumerate() {
            let wrong = |word: &str, why: &str| {
                Err(Failure::Failed(format!("{FILE}, line {}: '{word}': {why}", i + 1)))
            };
            let mut words = line.split_ascii_whitespace();
            match words.next().unwrap_or("#") {
                "table" => layout.table = words.next().unwrap_or_default().to_owned(),
                "disk" => layout.disk = words.next().unwrap_or_default().to_owned(),
                "part" => {
                    let number = words.next().unwrap_or_default();
                    let mut part = Part::default();
                    match number.parse() {
                        Ok(n) if (1..=128).contains(&n) => part.number = n,
                        _ => return wrong(number, "must be a number from 1 to 128"),
                    }
                    for word in words {
                        let (key, value) = word.split_once('=').unwrap_or((word, ""));
                        let value = unescape(value);
                        match key {
                            "size" if value == "fill" => part.size = None,
                            "size" => match value.parse() {
                                Ok(mib) if (1..=1 << 30).contains(&mib) => part.size = Some(mib),
                                _ => return wrong(word, "must be MiB, or fill"),
                            },
                            "type" => part.kind = value,
                            "boot" => part.boot = true,
                            "fs" => part.fs = value,
                            "label" => part.label = value,
                            "mount" => part.mount = value,
                            "uuid" => part.uuid = value,
                            "partuuid" => part.partuuid = value,
                            _ => return wrong(word, "is not known"),
                        }
                    }
                    // What comes over the network goes to commands: as little as
                    // possible is let through.
                    let safe = |t: &str| t.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
                    if !safe(&part.kind) || part.kind.is_empty() {
                        return wrong(&part.kind, "is no type of a partition");
                    }
                    if !FILE_SYSTEMS.contains(&part.fs.as_str()) {
                        return wrong(&part.fs, "is no file system that can be made");
                    }
                    if !safe(&part.uuid) || !safe(&part.partuuid) {
                        return wrong(number, "has an identifier that is none");
                    }
                    let absolute = part.mount.is_empty() || part.mount.starts_with('/');
                    if !absolute || part.mount.split('/').any(|p| p == "..") {
                        return wrong(&part.mount, "is no place to mount at");
                    }
                    if part.label.starts_with('-') {
                        return wrong(&part.label, "is no label");
                    }
                    layout.parts.push(part);
                }
                word if word.starts_with('#') => {}
                word => return wrong(word, "must be table, disk or part"),
            }
        }
        if !["dos", "gpt"].contains(&layout.table.as_str()) {
            return Err(Failure::Failed(format!("{FILE}: the table is neither dos nor gpt")));
        }
        if !layout.parts.iter().any(|p| p.mount == "/") {
            return Err(Failure::Failed(format!("{FILE}: no partition is mounted at /")));
        }
        let fills = layout.parts.iter().filter(|p| p.size.is_none() && !p.extended()).count();
        if fills > 1 {
            return Err(Failure::Failed(format!("{FILE}: two partitions fill the disk")));
        }
        layout.parts.sort_by_key(|p| p.number);
        Ok(layout)
    }

    /// The text.
    pub fn text(&self) -> String {
        let mut out = "# A golden machine's disk, by bellwether clone prepare.\n".to_owned();
        out += &format!("table {}\ndisk {}\n", self.table, self.disk);
        for part in &self.parts {
            let size = part.size.map_or("fill".to_owned(), |n| n.to_string());
            out += &format!("part {} size={size} type={}", part.number, part.kind);
            if part.boot {
                out += " boot";
            }
            for (key, value) in [
                ("fs", &part.fs),
                ("label", &part.label),
                ("mount", &part.mount),
                ("uuid", &part.uuid),
                ("partuuid", &part.partuuid),
            ] {
                if !value.is_empty() {
                    out += &format!(" {key}={}", escape(value));
                }
            }
            out += "\n";
        }
        out
    }

    /// The MiB that the disk must have.
    pub fn needs(&self) -> u64 {
        // One at each end, one before each logical one.
        let logical = self.parts.iter().filter(|p| p.number > 4 && self.table == "dos").count();
        let own = self.parts.iter().filter(|p| !p.extended());
        2 + logical as u64 + own.map(|p| p.size.unwrap_or(64)).sum::<u64>()
    }

    /// sfdisk's script for a disk of so many MiB.
    pub fn script(&self, disk: u64) -> Result<String, Failure> {
        if disk < self.needs() {
            return Err(Failure::Failed(format!(
                "the disk is too small: it has {disk} MiB, and the copy needs {}",
                self.needs()
            )));
        }
        let rest = disk - self.needs() + 64;
        let mut out = format!("label: {}\n", self.table);
        for part in &self.parts {
            out += &format!("{} : ", part.number);
            if part.extended() {
                // It holds the rest of its kind: sfdisk's default is all that is left.
                let after = self.parts.iter().filter(|p| p.number <= 4 && p.number > part.number);
                let after: u64 = after.map(|p| p.size.unwrap_or(rest)).sum();
                let before = self.parts.iter().filter(|p| p.number < part.number);
                let before: u64 = before.map(|p| p.size.unwrap_or(rest)).sum();
                out += &format!("size={}MiB, ", disk.saturating_sub(2 + before + after));
            } else {
                out += &format!("size={}MiB, ", part.size.unwrap_or(rest));
            }
            out += &format!("type={}", part.kind);
            if part.boot {
                out += ", bootable";
            }
            out += "\n";
        }
        Ok(out)
    }

    /// What is mounted, outer ones first.
    pub fn mounts(&self) -> Vec<&Part> {
        let mut mounts: Vec<&Part> = self.parts.iter().filter(|p| !p.mount.is_empty()).collect();
        mounts.sort_by_key(|p| p.mount.split('/').filter(|p| !p.is_empty()).count());
        mounts
    }
}

impl Part {
    /// Holds logical ones.
    pub fn extended(&self) -> bool {
        ["5", "05", "f", "0f", "85"].contains(&self.kind.as_str())
    }

    /// Its device on this disk.
    pub fn device(&self, disk: &str) -> String {
        let p = if disk.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
        format!("{disk}{p}{}", self.number)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const GOLDEN: &str = "# A golden machine's disk, by bellwether clone prepare.\ntable dos\ndisk /dev/sda\npart 1 size=fill type=83 boot fs=ext4 label=my\\040disk mount=/ uuid=1-2\npart 2 size=299 type=82 fs=swap\npart 3 size=100 type=83 fs=xfs mount=/var\n";

    #[test]
    fn a_text_that_returns_and_grows() {
        let layout = Layout::parse(GOLDEN).unwrap();
        assert_eq!(layout.text(), GOLDEN);
        assert_eq!(layout.parts[0].label, "my disk");
        assert_eq!(layout.needs(), 2 + 64 + 299 + 100);
        let script = layout.script(1000).unwrap();
        assert!(script.contains("1 : size=599MiB, type=83, bootable\n2 : size=299MiB"), "{script}");
        assert!(layout.script(300).is_err());
        assert_eq!(layout.parts[1].device("/dev/nvme0n1"), "/dev/nvme0n1p2");
        assert_eq!(layout.parts[1].device("/dev/vda"), "/dev/vda2");
        let mounts: Vec<_> = layout.mounts().iter().map(|p| p.mount.as_str()).collect();
        assert_eq!(mounts, ["/", "/var"]);
    }

    #[test]
    fn what_would_reach_a_command_is_refused() {
        for (from, to) in [
            ("fs=xfs", "fs=xfs;reboot"),
            ("type=82", "type=82,wipe=always"),
            ("mount=/var", "mount=/../etc"),
            ("uuid=1-2", "uuid=$(x)"),
            ("label=my", "label=-my"),
            ("size=299", "size=-1"),
            ("size=299", "size=fill"),
            ("table dos", "table bsd"),
            ("part 2", "part 0"),
            ("mount=/ ", ""),
        ] {
            assert!(Layout::parse(&GOLDEN.replacen(from, to, 1)).is_err(), "{to}");
        }
    }
}
