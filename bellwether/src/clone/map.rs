//! `map`: what of a disk a copy must have, and why.

use super::flags::{Given, Program, flag};
use crate::failure::Failure;
use blockmap::{DiskMap, How, Part, ReadAt, ReadError, whole_disk};
use clone::outcome::Amount;
use cmdline::json::Json;
use cpio_builder::error::Error;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};

/// The grammar.
pub static MAP: Program = Program {
    name: "map",
    about: "Shows what of a disk or an image is in use, by its tables and file systems.",
    rest: "DISK|FILE",
    example: "bellwether clone map /dev/sda",
    flags: &[
        flag("json", None, None, "for programs, with each extent in use"),
        flag("extents", None, None, "only the extents: first byte and length, one a line"),
    ],
};

/// A disk or an image that is only read.
#[derive(Debug)]
pub struct Source {
    file: File,
    size: u64,
    sector: u64,
}

impl Source {
    /// Opens it.
    pub fn open(path: &str) -> Result<Self, Failure> {
        let failed = |e| Failure::from(Error::read(path)(e));
        // Without the flag a pipe waits for a program at its other end.
        let flags = nix::libc::O_NONBLOCK;
        let mut file = File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
        let kind = file.metadata().map_err(failed)?;
        let block = kind.file_type().is_block_device();
        if !block && !kind.is_file() {
            return Err(Failure::Failed(format!("{path}: is neither a disk nor a file")));
        }
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let (major, minor) =
            (nix::sys::stat::major(kind.rdev()), nix::sys::stat::minor(kind.rdev()));
        // A partition's own directory has no queue: its disk's has.
        let queue = |up: &str| {
            let path = format!("/sys/dev/block/{major}:{minor}/{up}queue/logical_block_size");
            std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok())
        };
        let sector = block.then(|| queue("").or_else(|| queue("../"))).flatten().unwrap_or(512);
        Ok(Self { file, size, sector })
    }
}

impl ReadAt for Source {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len() as u64;
        self.file.read_exact_at(buffer, at).map_err(|_| ReadError { at, length })
    }

    fn sector(&self) -> u64 {
        self.sector
    }
}

/// Reads the disk, prints what is in use.
pub fn run(given: &Given) -> Result<(), Failure> {
    let [path] = given.rest.as_slice() else {
        return Err(Failure::Usage("map: needs one disk or file, as /dev/sda".to_owned()));
    };
    let map = whole_disk(&mut Source::open(path)?)
        .map_err(|e| Failure::Failed(format!("{path}: {e}")))?;
    let text = match () {
        () if given.has("extents") => {
            map.used.iter().map(|e| format!("{} {}\n", e.start, e.length)).collect()
        }
        () if given.has("json") => json(&map),
        () => text(path, &map),
    };
    crate::output::write_out(text.as_bytes());
    Ok(())
}

fn text(path: &str, map: &DiskMap) -> String {
    let table = map.table.map_or("no partition table", |table| table.name());
    let mut out =
        format!("{path}: {}, {table}, sectors of {} bytes\n", Amount(map.size), map.sector);
    for part in &map.parts {
        let name = match part.number {
            0 => "whole".to_owned(),
            number => number.to_string(),
        };
        let label =
            if part.label.is_empty() { String::new() } else { format!(" '{}'", safe(&part.label)) };
        out += &format!(
            "  {name:>5}  {:<8} {:>10} of {:>10} in use{label}\n",
            part.content,
            Amount(part.used).to_string(),
            Amount(part.length).to_string()
        );
        if let How::Raw(why) = &part.how {
            out += &format!("         all of it is copied: {why}\n");
        }
        for note in &part.notes {
            out += &format!("         {}\n", safe(note));
        }
    }
    for note in &map.notes {
        out += &format!("  {}\n", safe(note));
    }
    out + &format!("  a copy has {} in {} extents\n", Amount(map.used_bytes()), map.used.len())
}

/// What comes from a disk does not control the terminal.
pub fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn json(map: &DiskMap) -> String {
    let mut json = Json::new();
    json.object().count("size", map.size).count("sector", map.sector);
    json.key("table").maybe(map.table.map(|table| table.name()));
    json.count("used", map.used_bytes()).key("partitions").array();
    map.parts.iter().for_each(|part| partition(&mut json, part));
    json.end_array().key("notes").strings(&map.notes).key("extents").array();
    for extent in &map.used {
        json.array().number(extent.start).number(extent.length).end_array();
    }
    json.end_array().end_object();
    json.finish() + "\n"
}

fn partition(json: &mut Json, part: &Part) {
    json.object().count("number", part.number.into()).count("start", part.start);
    json.count("length", part.length).count("used", part.used);
    json.field("content", &part.content).field("type", &part.kind).field("partuuid", &part.uuid);
    json.field("name", &part.name).field("label", &part.label).field("uuid", &part.fs_uuid);
    let why = match &part.how {
        How::Used => None,
        How::Raw(why) => Some(why.to_string()),
    };
    json.key("raw").maybe(why.as_deref()).key("notes").strings(&part.notes).end_object();
}
