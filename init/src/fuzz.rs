//! What reads the texts of media, servers and users, run once on arbitrary bytes; for
//! fuzzers.

use alloc::string::String;
use alloc::vec::Vec;

use cmdline::baked;
use cmdline::plan::Dialect;
use liveroot::casper::Casper;
use liveroot::{fstab, live_boot};

use crate::{console, fetch, images};

/// Texts that become paths, settings or files of the live system.
///
/// # Panics
/// When a promise does not hold: a path leads upwards, a setting has more than one line,
/// an fstab has a root too many.
pub fn texts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for line in text.lines() {
        let path = fetch::downwards(line);
        let upwards = |part: &str| matches!(part, "." | "..");
        assert!(!path.starts_with('/') && !path.split('/').any(upwards), "{path}");
    }
    for file in images::listed(&text) {
        let path = images::resolve("/medium", "/medium/live", &file);
        assert!(path.starts_with("/medium") && !path.split('/').any(|part| part == ".."), "{path}");
    }
    for name in ["UUID", "BOOT", "LAYERFS_PATH"] {
        let value = baked::setting(&text, name);
        assert!(!value.is_some_and(|value| value.contains('\n')));
    }
    let swaps = Vec::from([String::from("/dev/sda2")]);
    let fstab = live_boot::fstab(&text, &swaps);
    assert_eq!(fstab.lines().count(), text.lines().count() + 1);
    if let Some(fstab) = fstab::fstab(Dialect::Casper, Some(&text)) {
        let lines = fstab.lines().filter(|line| !line.trim_start().starts_with('#'));
        let roots = lines.filter(|line| line.split_whitespace().nth(1) == Some("/"));
        assert_eq!(roots.count(), 1, "{fstab}");
    }
    let (conf, info) = text.split_once('\0').unwrap_or((&text, ""));
    let _ = Casper::new(conf, info, &[]).marks();
}

/// The editor of the failure screen: a line, and behind its first line end the keys.
///
/// # Panics
/// When the line gets a control character, or a screen line too wide.
pub fn editor(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (line, keys) = data.split_at(end);
    let mut editor = console::Editor::new(&String::from_utf8_lossy(line));
    for key in keys.iter().skip(1) {
        if editor.feed(*key) != console::Step::More {
            break;
        }
        assert!(!editor.text().chars().any(char::is_control));
        let shown = editor.shown();
        assert!(shown.chars().count() <= console::WINDOW + 24, "{shown:?}");
    }
}
