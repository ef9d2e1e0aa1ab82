//! `bellwether build --list`: what is in an initramfs, anyone's.

use crate::failure::Failure;
use crate::output::{json_string, size};
use cpio_builder::error::Error;
use cpio_builder::initrd::{Initrd, Limits};
use std::fmt::Write as _;
use std::path::Path;

/// Prints segments and entries.
pub fn run(path: &Path, json: bool) -> Result<(), Failure> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.into(), source })?;
    let initrd = Initrd::open(&bytes, Limits::default())
        .map_err(|source| Error::Initrd { path: path.into(), source })?;
    let text = if json { as_json(&initrd) } else { as_text(&initrd) };
    print!("{text}");
    Ok(())
}

fn as_text(initrd: &Initrd<'_>) -> String {
    let mut out = String::new();
    for (n, segment) in initrd.segments().iter().enumerate() {
        let _ = writeln!(
            out,
            "segment {} at byte {}: {}, {} unpacked to {}, {} entries",
            n + 1,
            segment.offset,
            segment.codec,
            size(segment.packed),
            size(segment.unpacked()),
            segment.entries().count()
        );
        for entry in segment.entries() {
            let arrow = entry.symlink().map(|to| format!(" -> {to}")).unwrap_or_default();
            let what = match entry.mode_text().chars().next() {
                Some('c' | 'b') => format!("{},{}", entry.rdev.0, entry.rdev.1),
                _ => entry.data.len().to_string(),
            };
            let _ = writeln!(
                out,
                "{} {}:{} {what:>10} /{}{arrow}",
                entry.mode_text(),
                entry.uid,
                entry.gid,
                entry.path()
            );
        }
    }
    out
}

fn as_json(initrd: &Initrd<'_>) -> String {
    let segments = initrd.segments().iter().map(|segment| {
        let entries = segment.entries().map(|entry| {
            let link = entry.symlink().map(|to| format!(",\"target\":{}", json_string(to)));
            format!(
                "{{\"path\":{},\"mode\":\"{:o}\",\"uid\":{},\"gid\":{},\"size\":{},\"mtime\":{}{}}}",
                json_string(entry.path()),
                entry.mode,
                entry.uid,
                entry.gid,
                entry.data.len(),
                entry.mtime,
                link.unwrap_or_default()
            )
        });
        format!(
            "{{\"offset\":{},\"compression\":\"{}\",\"packed\":{},\"unpacked\":{},\"entries\":[{}]}}",
            segment.offset,
            segment.codec,
            segment.packed,
            segment.unpacked(),
            entries.collect::<Vec<_>>().join(",")
        )
    });
    format!("{{\"segments\":[{}]}}\n", segments.collect::<Vec<_>>().join(","))
}
