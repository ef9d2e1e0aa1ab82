//! `cargo xtask sizes`: what a boot loader has to load, against the budget.

use std::path::{Path, PathBuf};

use argh::FromArgs;
use qemu_tests::assets::{Assets, Flavour, Profile};
use qemu_tests::{Error, Result, workspace};

/// Size of /init and of each initramfs, against the budget.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "sizes")]
pub struct Sizes {}

/// What something should weigh, and what it may weigh before the checks fail.
#[derive(Debug, Clone, Copy)]
struct Budget {
    aim: u64,
    limit: u64,
}

// Raised once since the first release, for what unattended machines need: last words of
// PID 1 and masked passwords in both; in the full one also copies that are guarded, keyed
// and read back, pinned layers, and the watcher of stuck system calls. Reading the lines of
// more families took 15 kB in both. Trying out versions of NFS, and telling what cannot be
// listed from what is empty, took 3.5 kB in both; the room's engine, which copies what is in
// use of a disk, takes 60 kB in the full one, and restoring an image from several web servers
// 26 kB. Telling while a source is waited for how often it was tried and how long still,
// within the time that the line allows, took 1 kB in both. Partition tables that fit disks of
// other sizes took 10 kB in the full one, and listening to a room's multicast, which spares each
// machine the handing on, 8.5 kB. Being the source of a room, and keeping a disk's own table, took
// 1.1 kB: the host's command does both, since readers of file systems and tables have no room here.
// genkernel's and dracut's older words, and families told apart on lines that menus put together,
// took 1 kB.
const SMALL_INIT: Budget = Budget { aim: 386_000, limit: 419_000 };
const FULL_INIT: Budget = Budget { aim: 512_000, limit: 1_137_000 };
/// The release whose kernels' modules are weighed: those of later ones are larger by a tenth.
const WEIGHED: &str = "bookworm";

const VIRT: Budget = Budget { aim: 2_000_000, limit: 2_000_000 };
const NET: Budget = Budget { aim: 12_000_000, limit: 17_000_000 };

impl Sizes {
    /// Builds everything and prints the table; an error when something is too big or
    /// `/init` is not a static program.
    pub fn run(self) -> Result<()> {
        let assets = Assets::open()?;
        let mut files = inits(&assets)?;
        let cloud = assets.kernel_of(WEIGHED, Flavour::Cloud)?;
        let stock = assets.kernel_of(WEIGHED, Flavour::Stock)?;
        files.push(("virt, cloud kernel", assets.our_initrd(&cloud, Profile::Virt)?, VIRT));
        files.push(("net, stock kernel", assets.our_initrd(&stock, Profile::Net)?, NET));
        weigh(&files)
    }
}

/// The same for `/init` alone, which needs no Debian package.
pub fn check_init() -> Result<()> {
    weigh(&inits(&Assets::open()?)?)
}

type Weighed = (&'static str, PathBuf, Budget);

fn inits(assets: &Assets) -> Result<Vec<Weighed>> {
    let small = assets.our_init(Profile::Virt)?;
    let full = assets.our_init(Profile::Net)?;
    for init in [&small, &full] {
        require_static(init)?;
        require_no_path(init)?;
    }
    Ok(vec![("/init, small (virt)", small, SMALL_INIT), ("/init, full (net)", full, FULL_INIT)])
}

/// Prints sizes and budgets; an error when something is over its limit.
fn weigh(files: &[Weighed]) -> Result<()> {
    let mut over = Vec::new();
    let mut unfolded = false;
    println!("{:<22}{:>12}{:>12}{:>12}", "", "bytes", "aim", "limit");
    for (name, file, budget) in files {
        let size = std::fs::metadata(file).map_err(Error::at("stat", file))?.len();
        println!("{name:<22}{size:>12}{:>12}{:>12}", budget.aim, budget.limit);
        if size > budget.limit {
            over.push(*name);
            let elf = std::fs::read(file).map_err(Error::at("read", file))?;
            unfolded |= elf.starts_with(b"\x7fELF") && !folded(&elf);
        }
    }
    if over.is_empty() {
        return Ok(());
    }
    let remedy = if unfolded { UNFOLDED } else { "" };
    Err(Error::Input(format!("over the limit: {}{remedy}", over.join(", "))))
}

/// What to do when the linker is the reason.
const UNFOLDED: &str = "\nThe linker of this build cannot fold equal functions, and /init is 3 % \
                        larger for it. To install one that can:\n\n    apt-get install --yes \
                        --no-install-recommends lld\n";

/// Whether a linker that folds equal functions made this ELF program: it leaves its name
/// in the section .comment. GNU ld cannot fold, and leaves none.
fn folded(elf: &[u8]) -> bool {
    let names = [&b"Linker: LLD "[..], b"mold "];
    names.iter().any(|name| contains(elf, name))
}

/// A dynamic program would ask the kernel for an interpreter that an initramfs
/// does not have.
fn require_static(file: &Path) -> Result<()> {
    let elf = std::fs::read(file).map_err(Error::at("read", file))?;
    match interpreter(&elf) {
        Some(false) => Ok(()),
        Some(true) => Err(Error::Input(format!("{} asks for an interpreter", file.display()))),
        None => Err(Error::Input(format!("{} is not a 64-bit ELF program", file.display()))),
    }
}

/// A path of the builder's would make the bytes differ from computer to computer, and tell
/// others where it was built.
fn require_no_path(file: &Path) -> Result<()> {
    let bytes = std::fs::read(file).map_err(Error::at("read", file))?;
    match workspace::builders_paths().iter().find_map(|(path, _)| path_in(&bytes, path)) {
        None => Ok(()),
        Some(path) => {
            Err(Error::Input(format!("{} has the builder's path {path} in it", file.display())))
        }
    }
}

/// A place below this directory that a program names. The directory alone may be part of
/// another path: `/src` is in `/cargo/registry/src`.
fn path_in(program: &[u8], dir: &str) -> Option<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut places = entries.map(|entry| format!("{dir}/{}/", entry.file_name().to_string_lossy()));
    places.find(|place| contains(program, place.as_bytes()))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Whether an ELF64 little-endian program has a PT_INTERP segment; nothing for
/// other files. See elf(5).
fn interpreter(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let bytes = |at: usize, len: usize| elf.get(at..at.checked_add(len)?);
    if bytes(0, 6)? != [0x7f, b'E', b'L', b'F', 2, 1] {
        return None;
    }
    let word = |at| Some(u16::from_le_bytes(bytes(at, 2)?.try_into().ok()?));
    let table = usize::try_from(u64::from_le_bytes(bytes(32, 8)?.try_into().ok()?)).ok()?;
    let (size, count) = (usize::from(word(54)?), usize::from(word(56)?));
    for index in 0..count {
        let at = table.checked_add(index.checked_mul(size)?)?;
        if u32::from_le_bytes(bytes(at, 4)?.try_into().ok()?) == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::{Budget, folded, interpreter, path_in, weigh};

    #[test]
    fn a_program_that_was_not_folded_names_the_package_lld() {
        let dir = std::env::temp_dir();
        let files = [
            ("ld", &b"\x7fELF GCC: (Debian 14.2.0-19) 14.2.0\0"[..]),
            ("lld", b"\x7fELF rustc version 1.96.0\0Linker: LLD 22.1.2\0"),
            ("img", b"070701 no program"),
        ];
        let refusal = |(kind, bytes): (&str, &[u8])| {
            let file = dir.join(format!("sizes-{}-{kind}", std::process::id()));
            std::fs::write(&file, bytes).unwrap();
            let refused = weigh(&[("it", file.clone(), Budget { aim: 1, limit: 1 })]);
            std::fs::remove_file(file).unwrap();
            refused.unwrap_err().to_string()
        };
        assert_eq!(files.map(|file| refusal(file).contains(" lld\n")), [true, false, false]);
        assert!(folded(b"mold 2.37.1 (compatible with GNU ld)"));
    }

    #[test]
    fn a_path_counts_with_what_lies_below_it() {
        let dir = std::env::temp_dir().join(format!("sizes-{}-src", std::process::id()));
        std::fs::create_dir_all(dir.join("init")).unwrap();
        let name = dir.to_string_lossy();
        let found = |place: &str| path_in(format!("lib{name}/{place}/x.rs").as_bytes(), &name);
        assert_eq!(found("init"), Some(format!("{name}/init/")));
        assert_eq!(found("fmt"), None);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn tells_dynamic_programs_from_others() {
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(interpreter(&this), Some(true));
        let mut program = vec![0u8; 64 + 56];
        program[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        program[32] = 64;
        program[54] = 56;
        program[56] = 1;
        assert_eq!(interpreter(&program), Some(false));
        assert_eq!(interpreter(&program[..70]), Some(false));
        assert_eq!(interpreter(&program[..66]), None);
        assert_eq!(interpreter(b"#!/bin/sh"), None);
    }
}
