//! `bellwether build --list`: what is in an initramfs, anyone's.

use crate::failure::Failure;
use crate::output::size;
use cmdline::json::Json;
use cpio_builder::error::Error;
use cpio_builder::initrd::{self, Initrd, Limits};
use std::fmt::Write as _;
use std::path::Path;

/// Prints segments and entries.
pub fn run(path: &Path, json: bool) -> Result<(), Failure> {
    let bytes = initrd::read_file(path).map_err(Error::read(path))?;
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
                entry.shown()
            );
        }
    }
    if initrd.behind() > 0 {
        let _ =
            writeln!(out, "{} bytes behind it are no archive and are not read", initrd.behind());
    }
    out
}

fn as_json(initrd: &Initrd<'_>) -> String {
    let mut json = Json::new();
    json.object().key("segments").array();
    for segment in initrd.segments() {
        json.object().count("offset", segment.offset as u64);
        json.field("compression", &segment.codec.to_string());
        json.count("packed", segment.packed as u64).count("unpacked", segment.unpacked() as u64);
        json.key("entries").array();
        for entry in segment.entries() {
            json.object().field("path", &entry.shown()).field("mode", &format!("{:o}", entry.mode));
            json.count("uid", entry.uid.into()).count("gid", entry.gid.into());
            json.count("size", entry.data.len() as u64).count("mtime", entry.mtime.into());
            if let Some(target) = entry.symlink() {
                json.field("target", target);
            }
            json.end_object();
        }
        json.end_array().end_object();
    }
    json.end_array().end_object();
    json.finish() + "\n"
}
