//! Where the instructions of a boot go: the kernel's share and ours, by what is done.
//!
//! Counted by a plugin in QEMU (`qemu-tests/plugin`) between the same two moments as
//! the bench's clock, and named by the kernel's own symbols, which the live system's
//! first program writes out at the end. Once for each kernel there is another boot: where
//! "Run /init" is in the kernel must be known before it can be waited for. (`/init` itself
//! runs earlier than that, as the kernel's modprobe.)

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Contender, Medium, Row, Run, boot, initrd, iso_machine, line, no_counts};
use crate::assets::live::FIRST_THEN_SYMBOLS;
use crate::assets::{Assets, Flavour, Profile};
use crate::{Error, Result, packages, shell, workspace};

/// Prints "Run /init" and executes it.
const BEGIN: &str = "run_init_process";

/// Functions of the kernel by what they are for: names or their beginnings, or a
/// module's name in brackets. The first row that fits counts.
const KERNEL: &[(&str, &[&str])] = &[
    ("module signatures: SHA-256 of each module", &["sha256", "[sha256_ssse3]", "[sha256_ce]"]),
    (
        "module signatures: RSA",
        &["mpi", "mul_n", "rsa_", "pkcs", "public_key", "x509", "asn1", "look_up_OID"],
    ),
    ("modules: type information (BTF)", &["btf_", "__btf"]),
    (
        "modules: symbols, relocation, tables for tracing",
        &[
            "find_kallsyms",
            "kallsyms",
            "add_kallsyms",
            "strncpy",
            "strcmp",
            "sort_r",
            "do_swap",
            "orc_",
            "apply_",
            "check_version",
            "bsearch",
            "load_module",
            "module_",
            "__module",
            "mod_",
            "get_next_modinfo",
            "find_sec",
            "find_symbol",
            "find_exported",
            "cmp_name",
            "resolve_symbol",
            "layout_",
            "insn_",
            "inat_",
            "text_poke",
            "__text_poke",
            "ftrace",
            "trace_",
            "test_for_valid_rec",
            "jump_label",
            "static_call",
            "__static_call",
        ],
    ),
    (
        "self-tests of what was just loaded",
        &["build_test_sglist", "test_ahash", "test_shash", "check_hash_result"],
    ),
    ("unpacking", &["LZ4_", "ZSTD_", "xz_", "zlib_inflate", "[squashfs]"]),
    (
        "memory",
        &[
            "pcpu_",
            "kmem_",
            "__kmem",
            "kmalloc",
            "__kmalloc",
            "kfree",
            "slab",
            "allocate_slab",
            "__slab",
            "___slab",
            "memcg_",
            "mem_cgroup",
            "__mod_",
            "mod_node",
            "cache_from_obj",
            "setup_object",
            "clear_page",
            "copy_page",
            "memset",
            "memcpy",
            "get_page",
            "alloc_pages",
            "__alloc_pages",
            "free_",
            "rmqueue",
            "vmap",
            "__vmap",
            "__vunmap",
            "vmalloc",
            "alloc_vmap",
            "purge_",
            "__purge",
            "__change_page",
            "change_page",
            "lookup_address",
            "static_protections",
            "__cpa",
            "flush_tlb",
            "folio",
            "lru_",
            "release_pages",
            "unmap_",
            "handle_mm",
            "__handle_mm",
            "next_uptodate",
            "filemap",
            "__filemap",
            "do_set_pte",
        ],
    ),
    (
        "devices",
        &[
            "acpi",
            "kernfs",
            "__kernfs",
            "sysfs",
            "kobject",
            "kset",
            "device_",
            "driver_",
            "pci_",
            "bus_",
            "blk_",
            "__blk",
            "sbitmap",
            "add_uevent",
            "idr_",
            "[virtio",
            "[scsi",
            "[sr_mod]",
            "[cdrom]",
        ],
    ),
    (
        "file systems",
        &[
            "link_path",
            "path_",
            "step_into",
            "walk_component",
            "lookup",
            "__lookup",
            "d_",
            "__d_",
            "dput",
            "inode",
            "generic_permission",
            "iget",
            "vfs_",
            "do_mount",
            "mntput",
            "shmem",
            "[overlay]",
            "[isofs]",
            "[loop]",
        ],
    ),
    (
        "console",
        &[
            "serial8250",
            "io_serial",
            "wait_for_lsr",
            "uart_",
            "tty_",
            "n_tty",
            "vt_",
            "printk",
            "vprintk",
            "console_",
            "_prb",
            "desc_",
            "vsnprintf",
            "format_decode",
            "string",
            "number",
        ],
    ),
];

/// Crates of `/init`.
const CRATES: &[&str] = &[
    "init", "cmdline", "coldplug", "netboot", "overlay", "sys", "rt", "rustix", "smoltcp", "talc",
    "alloc", "core",
];

/// A part of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// What for, or which function.
    pub name: String,
    /// Instructions.
    pub count: u64,
}

/// A counted boot.
#[derive(Debug, Clone)]
pub struct Counted {
    /// All instructions between the two moments.
    pub instructions: u64,
    /// What the machine's clock says: instructions and waiting.
    pub clock: Duration,
    /// The kernel's work, by purpose, the largest first.
    pub kernel: Vec<Share>,
    /// User space's, by crate, the largest first.
    pub user: Vec<Share>,
    /// Single functions of the kernel, the largest first.
    pub functions: Vec<Share>,
}

/// What is counted: from one address to another.
#[derive(Debug)]
pub struct Span {
    plugin: PathBuf,
    start: u64,
    stop: u64,
}

impl Span {
    /// The plugin with the span, for QEMU's command line.
    pub fn plugin(&self) -> String {
        let Span { plugin, start, stop } = self;
        format!("{},start={start:x},stop={stop:x}", plugin.display())
    }
}

/// The instructions from "Run /init" of a release's kernel, without address
/// randomisation, to the live system's first program.
///
/// # Errors
/// What building and booting need, once for each kernel.
pub fn span(assets: &Assets, release: &'static str) -> Result<Span> {
    let version = assets.kernel_of(release, Flavour::Cloud)?.version;
    let dir = assets.entry(&format!("begin-{version}"), "1", |dir| {
        let (_, symbols) = boot_for_symbols(assets, release, dir, &[])?;
        let begin = symbols
            .address(BEGIN)
            .ok_or_else(|| Error::Input(format!("the kernel has no function {BEGIN}")))?;
        let file = dir.join("address");
        fs::write(&file, format!("{begin:x}")).map_err(Error::at("write", &file))
    })?;
    let file = dir.join("address");
    let begin = fs::read_to_string(&file).map_err(Error::at("read", &file))?;
    let input = |why: &str| Error::Input(why.into());
    let start = u64::from_str_radix(&begin, 16).map_err(|_| input("no address"))?;
    let first = fs::read(assets.first_program()?).map_err(Error::io("read the first program"))?;
    let stop = entry(&first).ok_or_else(|| input("the first program is no ELF"))?;
    Ok(Span { plugin: plugin()?, start, stop })
}

/// Boots our initramfs from the ISO; the kernel's symbols come out at the end.
fn boot_for_symbols(
    assets: &Assets,
    release: &'static str,
    directory: &Path,
    words: &[&str],
) -> Result<(Run, Symbols)> {
    let row = Row { release, board: "q35", medium: Medium::Iso };
    let kernel = assets.kernel_of(release, Flavour::Cloud)?;
    let initrd = initrd(assets, row, &kernel, Contender::Bellwether)?;
    let line =
        format!("{} nokaslr init={FIRST_THEN_SYMBOLS}", line(Contender::Bellwether, Medium::Iso));
    let symbols = directory.join("symbols.txt");
    let port = format!("file,id=symbols,path={}", symbols.display());
    let machine = iso_machine(assets, directory, 0)?
        .kernel(&kernel.image, &initrd, &line)
        .qemu(&["-icount", "shift=0,sleep=off", "-chardev", &port])
        .qemu(&["-device", "isa-debugcon,iobase=0xe9,chardev=symbols"])
        .qemu(words);
    let run = boot(machine)?;
    let text = fs::read(&symbols).map_err(Error::at("read", &symbols))?;
    Ok((run, Symbols::of_kernel(&String::from_utf8_lossy(&text))))
}

/// Boots Bellwether from the local ISO and counts.
///
/// # Errors
/// What building and booting need; [`Error::Input`] when the plugin left no counts,
/// for instance because this QEMU has no plugins.
pub fn count(release: &'static str) -> Result<Counted> {
    packages::ensure()?;
    let directory = workspace::lab().join("captures/bench-where");
    fs::create_dir_all(&directory).map_err(Error::at("make", &directory))?;
    let assets = Assets::open()?;
    let counts = directory.join("counts.txt");
    let _ = fs::remove_file(&counts);
    let plugin = format!("{},out={}", span(&assets, release)?.plugin(), counts.display());
    let (run, kernel) = boot_for_symbols(&assets, release, &directory, &["-plugin", &plugin])?;
    let text = fs::read_to_string(&counts).map_err(|_| no_counts())?;
    let init = assets.our_init_with_symbols(Profile::Virt)?;
    let init = Symbols::of_program(&fs::read(&init).map_err(Error::at("read", &init))?)?;
    Ok(share_out(&text, run.took, &kernel, &init))
}

/// Builds the plugin.
fn plugin() -> Result<PathBuf> {
    let mut cargo = shell::command("cargo");
    cargo.args(["build", "--quiet", "--release", "-p", "instruction-profile"]);
    shell::run(cargo.current_dir(workspace::root()))?;
    Ok(workspace::target().join("release/libinstruction_profile.so"))
}

/// Adds up `ADDRESS COUNT` lines.
fn share_out(counts: &str, clock: Duration, kernel: &Symbols, init: &Symbols) -> Counted {
    let mut all = Counted {
        instructions: 0,
        clock,
        kernel: Vec::new(),
        user: Vec::new(),
        functions: Vec::new(),
    };
    for line in counts.lines() {
        let number = |word: Option<&str>| u64::from_str_radix(word?, 16).ok();
        let mut words = line.split(' ');
        let (Some(address), Some(count)) = (number(words.next()), number(words.next())) else {
            continue;
        };
        all.instructions += count;
        // The kernel has the upper half of the address space.
        if address >> 63 == 0 {
            add(&mut all.user, init.at(address).map_or("?", crate_of), count);
            continue;
        }
        let name = kernel.at(address).unwrap_or("?");
        add(&mut all.kernel, purpose(name), count);
        add(&mut all.functions, name, count);
    }
    for shares in [&mut all.kernel, &mut all.user, &mut all.functions] {
        shares.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
    }
    all
}

fn add(shares: &mut Vec<Share>, name: &str, count: u64) {
    match shares.iter_mut().find(|share| share.name == name) {
        Some(share) => share.count += count,
        None => shares.push(Share { name: name.to_owned(), count }),
    }
}

/// What a function of the kernel (`name` or `name [module]`) is for.
fn purpose(name: &str) -> &str {
    let module = name.split_once(' ').map(|(_, module)| module);
    let fits = |word: &&str| match word.starts_with('[') {
        true => module.is_some_and(|module| module.starts_with(*word)),
        false => name.starts_with(*word),
    };
    let row = KERNEL.iter().find(|(_, words)| words.iter().any(fits));
    row.map_or_else(|| module.unwrap_or("all else"), |(purpose, _)| purpose)
}

/// The crate that a mangled name belongs to: the one that it names first.
fn crate_of(mangled: &str) -> &str {
    let place = |name: &&&str| {
        let spelt = [format!("{}{name}", name.len()), format!("{name}..")];
        spelt.iter().filter_map(|spelt| mangled.find(spelt)).min()
    };
    let named = CRATES.iter().filter_map(|name| Some((place(&name)?, *name)));
    named.min().map_or("other", |(_, name)| name)
}

/// Functions by address.
#[derive(Debug, Default)]
struct Symbols {
    /// Sorted by address.
    list: Vec<(u64, String)>,
}

impl Symbols {
    /// Further behind a function's beginning than this is no part of it: what ran
    /// there has been freed since, as a module's initialisation is.
    const REACH: u64 = 16 << 10;

    /// Reads /proc/kallsyms: `ADDRESS TYPE NAME [MODULE]`.
    fn of_kernel(text: &str) -> Symbols {
        let read = |line: &str| {
            let (address, rest) = line.split_once(' ')?;
            let (kind, name) = rest.split_once(' ')?;
            let address = u64::from_str_radix(address, 16).ok()?;
            matches!(kind, "t" | "T" | "w" | "W").then(|| (address, name.replace('\t', " ")))
        };
        let mut list: Vec<_> = text.lines().filter_map(read).collect();
        list.sort();
        Symbols { list }
    }

    /// Reads the symbol table of an ELF64 program; see elf(5).
    fn of_program(elf: &[u8]) -> Result<Symbols> {
        let mut list = symbols(elf)
            .ok_or_else(|| Error::Input("/init was built without its symbols".into()))?;
        list.sort();
        Ok(Symbols { list })
    }

    fn at(&self, address: u64) -> Option<&str> {
        let next = self.list.partition_point(|(start, _)| *start <= address);
        let (start, name) = self.list.get(next.checked_sub(1)?)?;
        (address - start < Symbols::REACH).then_some(name)
    }

    fn address(&self, name: &str) -> Option<u64> {
        self.list.iter().find(|(_, known)| known == name).map(|(address, _)| *address)
    }
}

/// A little-endian number in a file.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    Some(bytes.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)))
}

/// Where an ELF64 program begins.
fn entry(elf: &[u8]) -> Option<u64> {
    (elf.get(..5)? == b"\x7fELF\x02").then(|| number(elf, 24, 8))?
}

/// Addresses and names of an ELF64 program's functions.
fn symbols(elf: &[u8]) -> Option<Vec<(u64, String)>> {
    const SYMTAB: u64 = 2;
    const FUNCTION: u64 = 2;
    let usize_at = |at, size| usize::try_from(number(elf, at, size)?).ok();
    let section = |index: usize| {
        let table = usize_at(40, 8)?;
        table.checked_add(index.checked_mul(64)?)
    };
    let found = (0..usize_at(60, 2)?)
        .filter_map(section)
        .find(|header| number(elf, header + 4, 4) == Some(SYMTAB))?;
    let (from, size) = (usize_at(found + 24, 8)?, usize_at(found + 32, 8)?);
    let names = usize_at(section(usize_at(found + 40, 4)?)? + 24, 8)?;
    let table = elf.get(from..from.checked_add(size)?)?;
    let read = |symbol: &[u8]| {
        if number(symbol, 4, 1)? & 15 != FUNCTION {
            return None;
        }
        let name = elf.get(names.checked_add(usize::try_from(number(symbol, 0, 4)?).ok()?)?..)?;
        let name = name.split(|byte| *byte == 0).next()?;
        Some((number(symbol, 8, 8)?, String::from_utf8_lossy(name).into_owned()))
    };
    Some(table.chunks_exact(24).filter_map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_addresses() {
        let text = "ffffffff81000000 T _text\nffffffff81000010 t mpi_add\n\
                    ffffffffc0000000 t open\t[loop]\nffffffffc0000100 d data\t[loop]\n";
        let symbols = Symbols::of_kernel(text);
        assert_eq!(symbols.at(0xffff_ffff_8100_000f), Some("_text"));
        assert_eq!(symbols.at(0xffff_ffff_c000_0104), Some("open [loop]"));
        assert_eq!(symbols.at(0xffff_ffff_c100_0000), None);
        assert_eq!(symbols.at(1), None);
        assert_eq!(symbols.address("mpi_add"), Some(0xffff_ffff_8100_0010));
    }

    #[test]
    fn crates_of_mangled_names() {
        assert_eq!(crate_of("_ZN8coldplug4load6Loader3run17h0123456789abcdefE"), "coldplug");
        assert_eq!(crate_of("_RNvNtCs1234_8coldplug4load3run"), "coldplug");
        assert_eq!(
            crate_of("_ZN72_$LT$netboot..race..Race$u20$as$u20$core..fmt..Debug$GT$3fmtE"),
            "netboot"
        );
        assert_eq!(crate_of("memcpy"), "other");
    }

    #[test]
    fn shares_add_up() {
        let kernel = Symbols::of_kernel("ffffffff81000000 T known\n");
        let counts = "ffffffff81000001 a\nffffffff81000002 1\n201000 2\nffffffffc0000000 1\n";
        let all = share_out(counts, Duration::ZERO, &kernel, &Symbols::default());
        assert_eq!(all.instructions, 14);
        assert_eq!(all.functions[0], Share { name: "known".into(), count: 11 });
        assert_eq!(all.user, [Share { name: "?".into(), count: 2 }]);
    }

    #[test]
    fn reads_this_program() {
        let this = fs::read(std::env::current_exe().unwrap()).unwrap();
        let list = symbols(&this).unwrap();
        assert!(list.iter().any(|(_, name)| name.contains("reads_this_program")));
        assert!(entry(&this).is_some());
        assert_eq!(entry(b"\x7fELF"), None);
        assert_eq!(symbols(&this[..100]), None);
    }
}
