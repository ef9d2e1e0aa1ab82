//! `fdisk_to_desc`: the description of a disk's partitions for KA.

use super::flags::{Given, Program, flag};
use crate::failure::Failure;
use clone::ka::desc::{Desc, read_table};
use std::os::unix::fs::FileExt;

/// The grammar.
pub static FDISK_TO_DESC: Program = Program {
    name: "fdisk_to_desc",
    about: "Writes KA's description of a disk's partitions, or checks one that is there.",
    rest: "DISK",
    example: "bellwether clone fdisk_to_desc /dev/sda > desc",
    flags: &[flag("check", Some('c'), Some("DESC"), "read this description instead of a disk")],
};

/// Reads the disk, prints the description.
pub fn run(given: &Given) -> Result<(), Failure> {
    if let Some(path) = given.get("check") {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::Failed(format!("{path}: cannot be read: {e}")))?;
        let desc = Desc::parse(&text).map_err(|e| Failure::Failed(format!("{path}: {e}")))?;
        print!("{}", desc.text());
        return Ok(());
    }
    let [disk] = given.rest.as_slice() else {
        return Err(Failure::Usage("fdisk_to_desc: needs one disk, as /dev/sda".to_owned()));
    };
    let failed = |why: String| Failure::Failed(format!("{disk}: {why}"));
    let file = std::fs::File::open(disk).map_err(|e| failed(format!("cannot be read: {e}")))?;
    let mut read = |at: u64, buffer: &mut [u8]| file.read_at(buffer, at).unwrap_or(0);
    let table = read_table(&mut read).map_err(|e| failed(e.to_string()))?;
    let (desc, notes) = Desc::of_disk(&table).map_err(|e| failed(e.to_string()))?;
    for note in notes {
        eprintln!("fdisk_to_desc: {disk}: {note}");
    }
    print!("{}", desc.text());
    Ok(())
}
