//! What a distribution, or the builder of an image, put into an initramfs for its `/init`.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// The initramfs's own settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Baked {
    /// Words that come before the line's (`/etc/cmdline.d`, `BOOT=`).
    pub defaults: Vec<String>,
    /// `/conf/uuid.conf` of casper and live-boot.
    pub medium_uuid: String,
    /// `LAYERFS_PATH` of casper.
    pub layerfs_path: String,
}

impl Baked {
    /// Reads what there is. `names` lists the files of a directory, sorted; `text` gives a file's
    /// text, empty where there is none. Paths have no leading `/`.
    pub fn read(
        names: &mut dyn FnMut(&str) -> Vec<String>,
        text: &mut dyn FnMut(&str) -> String,
    ) -> Self {
        let mut baked = Self {
            medium_uuid: setting(&text("conf/uuid.conf"), "UUID").unwrap_or_default(),
            ..Self::default()
        };
        for dir in ["conf/conf.d", "etc/cmdline.d"] {
            for name in names(dir) {
                let text = text(&format!("{dir}/{name}"));
                if dir == "etc/cmdline.d" {
                    baked.defaults.push(text.replace('\n', " "));
                    continue;
                }
                if let Some(path) = setting(&text, "LAYERFS_PATH") {
                    baked.layerfs_path = path;
                }
                if let Some(boot) = setting(&text, "BOOT") {
                    baked.defaults.push(format!("boot={boot}"));
                }
            }
        }
        baked
    }
}

/// The value of `NAME=value` or `export NAME="value"`; a file that is a bare
/// value answers to any name.
#[must_use]
pub fn setting(text: &str, name: &str) -> Option<String> {
    for line in text.lines() {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let value = match line.split_once('=') {
            Some((key, value)) if key.trim() == name => value,
            None if name == "UUID" && !line.is_empty() && !line.starts_with('#') => line,
            _ => continue,
        };
        return Some(value.trim().trim_matches(['"', '\'']).to_string());
    }
    None
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_as_shells_write_them() {
        assert_eq!(setting("UUID=abc-1\n", "UUID").as_deref(), Some("abc-1"));
        assert_eq!(setting("abc-2\n", "UUID").as_deref(), Some("abc-2"));
        let text =
            "# casper\nexport BOOT=\"casper\"\nLAYERFS_PATH=minimal.standard.live.squashfs\n";
        assert_eq!(setting(text, "BOOT").as_deref(), Some("casper"));
        assert_eq!(
            setting(text, "LAYERFS_PATH").as_deref(),
            Some("minimal.standard.live.squashfs")
        );
        assert_eq!(setting("", "UUID"), None);
    }
}
