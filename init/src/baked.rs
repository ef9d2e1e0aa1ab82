//! What a distribution built into its initramfs: read when our archive lies
//! behind it, and absent from an image of our own.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use coldplug::sysfs::names;

/// Longest file read; these hold a line or two.
const MAX: usize = 16 << 10;

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
    /// Reads what there is.
    #[must_use]
    pub fn read() -> Self {
        let mut baked = Self {
            medium_uuid: setting(&text("/conf/uuid.conf"), "UUID").unwrap_or_default(),
            ..Self::default()
        };
        for dir in ["/conf/conf.d", "/etc/cmdline.d"] {
            for name in names(dir).unwrap_or_default() {
                let text = text(&format!("{dir}/{name}"));
                if dir == "/etc/cmdline.d" {
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

fn text(path: &str) -> String {
    let bytes = sys::file::read_file(path, MAX).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The value of `NAME=value` or `export NAME="value"`; a file that is a bare
/// value answers to any name.
pub(crate) fn setting(text: &str, name: &str) -> Option<String> {
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
