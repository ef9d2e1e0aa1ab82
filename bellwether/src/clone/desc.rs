//! `fdisk_to_desc`: the description of a disk's partitions for KA.

use super::flags::{Given, Program, flag};
use crate::failure::Failure;
use clone::ka::desc::{Desc, read_table};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The grammar.
pub static FDISK_TO_DESC: Program = Program {
    name: "fdisk_to_desc",
    about: "Writes KA's description of a disk's partitions, or checks one that is there.",
    rest: "[DISK]",
    example: "bellwether clone fdisk_to_desc /dev/sda > desc",
    flags: &[flag("check", Some('c'), Some("DESC"), "read this description instead of a disk")],
};

/// Reads the disk, prints the description.
pub fn run(given: &Given) -> Result<(), Failure> {
    if let Some(path) = given.get("check") {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::Failed(format!("{path}: cannot be read: {e}")))?;
        print!("{}", checked(path, &text)?.text());
        return Ok(());
    }
    let disk = match given.rest.as_slice() {
        [disk] => disk.clone(),
        [] => only_disk(Path::new("/sys/block"))?,
        [..] => return Err(Failure::Usage("fdisk_to_desc: takes one disk".to_owned())),
    };
    let failed = |why: String| Failure::Failed(format!("{disk}: {why}"));
    let file = std::fs::File::open(&disk).map_err(|e| failed(format!("cannot be read: {e}")))?;
    let mut read = |at: u64, buffer: &mut [u8]| file.read_at(buffer, at).unwrap_or(0);
    let table = read_table(&mut read).map_err(|e| failed(e.to_string()))?;
    let (desc, notes) = Desc::of_disk(&table).map_err(|e| failed(e.to_string()))?;
    for note in notes {
        eprintln!("fdisk_to_desc: {disk}: {note}");
    }
    print!("{}", desc.text());
    Ok(())
}

/// The description in a file, with room for all its partitions.
pub fn checked(path: &str, text: &str) -> Result<Desc, Failure> {
    let failed = |e: clone::Error| Failure::Failed(format!("{path}: {e}"));
    let (desc, changed) = Desc::parse(text).and_then(Desc::mend).map_err(failed)?;
    if let Some(what) = changed {
        eprintln!("{path}: {what}");
    }
    Ok(desc)
}

/// The machine's disk, where it has one: what has a device of its own, cannot be taken out and
/// is not empty.
fn only_disk(blocks: &Path) -> Result<String, Failure> {
    let list = std::fs::read_dir(blocks);
    let list = list.map_err(|e| Failure::Failed(format!("{}: {e}", blocks.display())))?;
    let number = |path: &Path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let is_disk = |dir: &Path| {
        let fixed = number(&dir.join("removable")) == Some(0);
        dir.join("device").exists() && fixed && number(&dir.join("size")) > Some(0)
    };
    let disks = list.flatten().map(|entry| entry.path()).filter(|dir| is_disk(dir));
    let mut names: Vec<String> = disks
        .filter_map(|dir| Some(format!("/dev/{}", dir.file_name()?.to_str()?.replace('!', "/"))))
        .collect();
    names.sort();
    match names.as_slice() {
        [disk] => {
            eprintln!("fdisk_to_desc: {disk}");
            Ok(disk.clone())
        }
        [] => Err(Failure::Usage("fdisk_to_desc: there is no disk here; name one".to_owned())),
        _ => {
            let names = names.join(", ");
            Err(Failure::Usage(format!("fdisk_to_desc: which disk? There are {names}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Without a name the command ended with 2, where there was nothing to choose.
    #[test]
    fn the_only_disk_needs_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let disk = |name: &str, size: &str, removable: &str, device: bool| {
            let place = dir.path().join(name);
            fs::create_dir_all(if device { place.join("device") } else { place.clone() }).unwrap();
            fs::write(place.join("size"), size).unwrap();
            fs::write(place.join("removable"), removable).unwrap();
        };
        disk("loop0", "8\n", "0\n", false);
        disk("sr0", "8\n", "1\n", true);
        disk("sdb", "0\n", "0\n", true);
        assert!(only_disk(dir.path()).is_err());
        disk("cciss!c0d0", "8\n", "0\n", true);
        assert_eq!(only_disk(dir.path()).unwrap(), "/dev/cciss/c0d0");
        disk("sda", "8\n", "0\n", true);
        let Err(Failure::Usage(why)) = only_disk(dir.path()) else { panic!("it chose") };
        assert!(why.contains("/dev/cciss/c0d0, /dev/sda"), "{why}");
    }
}
