//! Images: `/init`, the modules of a profile, their index, and the few directories and device
//! nodes that the kernel needs before `/init` runs.
//!
//! The same [`ImageSpec`] gives the same bytes, on any day and in any
//! directory.

use crate::compress::{self, Codec};
use crate::container::Container;
use crate::error::Error;
use crate::index::{Builder, ModuleEntry};
use crate::modinfo::{machine, machine_name};
use crate::modprobe_conf::ModprobeConf;
use crate::newc::{Archive, Node};
use crate::profile::{self, Profile};
use crate::strip;
use crate::tree::{self, KernelModule, KernelTree};
use coldplug::index::{Class, Compression};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the index is in an image.
pub const INDEX_PATH: &str = "lib/bellwether/modules.idx";
/// The file with the words that an image has beside the line's own; `/init` reads all of this
/// directory.
pub const DEFAULTS_PATH: &str = "etc/cmdline.d/50-defaults.conf";

/// The content of an image.
#[derive(Debug)]
pub struct ImageSpec {
    /// The program for `/init`, if the image has one.
    pub init: Option<Vec<u8>>,
    /// Where `/init` came from, for messages.
    pub init_origin: PathBuf,
    /// The kernel's modules.
    pub tree: KernelTree,
    /// The profile.
    pub profile: Profile,
    /// Further modules, by name or alias.
    pub add: Vec<String>,
    /// Modules for devices with these aliases, if the kernel has any.
    pub hosted: BTreeSet<String>,
    /// All modules of these classes.
    pub classes: Class,
    /// The modprobe.d configuration.
    pub conf: ModprobeConf,
    /// Directories searched for firmware, first match counts.
    pub firmware: Vec<PathBuf>,
    /// Words that come before the line's own, if the image has such.
    pub defaults: Option<String>,
    /// Further files.
    pub include: Vec<Include>,
    /// Firmware directory with `intel-ucode` and `amd-ucode`, for an early
    /// microcode archive in front.
    pub microcode: Option<PathBuf>,
    /// Compression of the main archive.
    pub codec: Codec,
    /// Make modules smaller by removing their signatures, see `strip`.
    pub strip: bool,
    /// Every file's time, seconds since 1970.
    pub mtime: u32,
    /// Make only `/init` and the index, to append to the initramfs with the modules. These are
    /// the symbolic links in it.
    pub append_to: Option<BTreeSet<String>>,
    /// When appending, `tree` may have more modules than the initramfs. These are the modules
    /// in it, by name; the profile's others are added.
    pub present: BTreeMap<String, (String, Compression)>,
}

/// A file to include.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Include {
    /// Its path on this machine. A directory includes everything below.
    pub from: PathBuf,
    /// Path in the image, without the leading `/`.
    pub to: String,
}

impl Include {
    /// From `FILE[:DEST]`; without a destination the file keeps its path. `None` if the file
    /// part is empty or the path leaves the image.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (from, to) = text.split_once(':').unwrap_or((text, ""));
        let named = to.trim_start_matches('/');
        let to = match (to.is_empty(), to.ends_with('/')) {
            (true, _) => from.trim_start_matches("./").trim_matches('/').to_owned(),
            // A directory to put it into.
            (false, true) => format!("{named}{}", from.trim_end_matches('/').rsplit('/').next()?),
            (false, false) => named.to_owned(),
        };
        let plain = |part: &str| !matches!(part, "" | "." | "..");
        (!from.is_empty() && to.split('/').all(plain)).then(|| Self { from: from.into(), to })
    }
}

/// An image, and a report of its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The image.
    pub bytes: Vec<u8>,
    /// Kernel release.
    pub release: String,
    /// Names of the modules in it, sorted.
    pub modules: Vec<String>,
    /// How many of them are for wired network cards.
    pub net_drivers: usize,
    /// How many of them are for storage devices.
    pub storage_drivers: usize,
    /// Bytes of the archive before compression.
    pub unpacked: usize,
    /// Bytes of the index.
    pub index: usize,
    /// How many modules the initramfs to append to lacked.
    pub filled: usize,
    /// How many of that initramfs's compressed modules were added unpacked.
    pub unpacked_modules: usize,
    /// How many modules the kernel has to unpack itself.
    pub packed_modules: usize,
    /// Firmware files in the image.
    pub firmware: Vec<String>,
    /// Firmware files that modules name and no directory has.
    pub missing_firmware: Vec<String>,
    /// Modules with a dependency that is neither a module nor built in.
    pub unresolved: Vec<String>,
    /// Features that a live boot needs and this kernel lacks.
    pub lacking: Vec<String>,
}

/// Makes an image.
///
/// # Errors
/// See [`Error`]. Missing firmware and missing dependencies are in the report instead.
pub fn build(spec: &ImageSpec) -> Result<Report, Error> {
    let tree = &spec.tree;
    let mut report = Report { release: tree.release.clone(), ..Report::default() };
    let mut archive = Archive::new();
    if let Some(init) = &spec.init {
        check_init(init, &spec.init_origin, tree.machine)?;
        archive.add("init", 0o755, Node::File(init.clone()))?;
    }
    let chosen = choose(spec, &mut report)?;
    let index = if spec.append_to.is_some() {
        let lacked = lacked(spec, &chosen);
        let unpacked = to_unpack(spec)?;
        add_modules(spec, &lacked, &mut archive, &mut report)?;
        for module in unpacked.iter().filter_map(|n| tree.modules.get(*n)) {
            // Its firmware is in the initramfs already.
            archive.add(&place(tree, module), 0o644, Node::File(module_data(spec, module)?))?;
        }
        report.filled = lacked.len();
        report.unpacked_modules = unpacked.len();
        let ours: BTreeSet<&str> = lacked
            .union(&unpacked)
            .filter_map(|n| tree.modules.get(*n))
            .map(|m| m.name.as_str())
            .collect();
        let there = |m: &KernelModule| match there(spec, m) {
            Some(there) if !ours.contains(m.name.as_str()) => there,
            _ => (place(tree, m), Compression::None),
        };
        let modules = chosen.iter().filter_map(|n| tree.modules.get(*n));
        report.packed_modules = modules.filter(|m| there(m).1 != Compression::None).count();
        index(tree, &chosen, &spec.conf, &there)?
    } else {
        base(spec, &mut archive)?;
        add_modules(spec, &chosen, &mut archive, &mut report)?;
        index(tree, &chosen, &spec.conf, &|m| (place(tree, m), Compression::None))?
    };
    report.index = index.len();
    archive.add(INDEX_PATH, 0o644, Node::File(index))?;
    if let Some(words) = &spec.defaults {
        archive.add(DEFAULTS_PATH, 0o644, Node::File(format!("{words}\n").into_bytes()))?;
    }
    for include in &spec.include {
        add_tree(&mut archive, &include.from, &include.to)?;
    }
    for link in spec.append_to.iter().flatten() {
        archive.forget_dir(link);
    }

    let main = archive.write(spec.mtime)?;
    report.unpacked = main.len();
    if let Some(dir) = &spec.microcode {
        report.bytes = microcode(dir, spec.mtime)?;
    }
    report.bytes.extend(compress::compress(spec.codec, &main).map_err(Error::Compress)?);
    // No zeros at the end: boot loaders align the next file themselves, and zstd(1) reports
    // them as a damaged frame.
    Ok(report)
}

/// The directories, nodes and files that every image has.
fn base(spec: &ImageSpec, archive: &mut Archive) -> Result<(), Error> {
    for dir in ["dev", "proc", "sys", "run", "tmp", "etc", "sbin"] {
        archive.add(dir, if dir == "tmp" { 0o1777 } else { 0o755 }, Node::Dir)?;
    }
    archive.add("dev/console", 0o600, Node::Char { major: 5, minor: 1 })?;
    archive.add("dev/null", 0o666, Node::Char { major: 1, minor: 3 })?;
    if spec.init.is_some() {
        // The kernel runs /sbin/modprobe to load a module.
        archive.add("sbin/modprobe", 0o777, Node::Symlink("/init".into()))?;
    }
    let version = env!("CARGO_PKG_VERSION");
    let about = format!(
        "NAME=Bellwether\nID=bellwether\nVERSION_ID={version}\n\
         PRETTY_NAME=\"Bellwether {version} ({})\"\n",
        spec.tree.release
    );
    archive.add("etc/initrd-release", 0o644, Node::File(about.into_bytes()))?;
    Ok(())
}

/// The requested modules, without their dependencies.
fn named(spec: &ImageSpec) -> Result<BTreeSet<usize>, Error> {
    let tree = &spec.tree;
    let mut named = spec.profile.select(tree);
    named.extend(profile::for_aliases(tree, &spec.hosted));
    named.extend(profile::of_class(tree, spec.classes));
    for name in &spec.add {
        let found = tree.resolve(name).ok_or_else(|| Error::NoSuchModule {
            name: name.clone(),
            release: tree.release.clone(),
        })?;
        named.extend(found);
    }
    Ok(named)
}

/// The modules of the image: the profile's and the added ones with all dependencies; when
/// appending, those of the initramfs.
fn choose(spec: &ImageSpec, report: &mut Report) -> Result<BTreeSet<usize>, Error> {
    let tree = &spec.tree;
    let mut chosen = named(spec)?;
    if spec.append_to.is_some() {
        let there = |n: &usize| tree.modules.get(*n).is_some_and(|m| there(spec, m).is_some());
        if spec.present.is_empty() {
            chosen.clear();
        }
        chosen.extend((0..tree.modules.len()).filter(there));
    }
    let mut missing = BTreeSet::new();
    let chosen = tree.with_needs(chosen, &mut missing);
    report.unresolved = missing.into_iter().collect();
    for module in chosen.iter().filter_map(|n| tree.modules.get(*n)) {
        report.modules.push(module.name.clone());
        if profile::is_driver(module) {
            let class = profile::class(module);
            report.net_drivers += usize::from(class.intersects(Class::NET));
            report.storage_drivers += usize::from(class.intersects(Class::STORAGE));
        }
    }
    report.modules.sort_unstable();
    let has = |name: &str| {
        tree.resolve(name).is_some_and(|found| found.iter().all(|n| chosen.contains(n)))
    };
    let lacking = profile::ESSENTIAL.into_iter().filter(|name| !has(name));
    report.lacking = lacking.map(str::to_owned).collect();
    Ok(chosen)
}

/// The path of a module in the initramfs to append to, if it is there.
fn there(spec: &ImageSpec, module: &KernelModule) -> Option<(String, Compression)> {
    if spec.present.is_empty() {
        return Some((spec.tree.within(&module.path), module.compression));
    }
    spec.present.get(&module.name).cloned()
}

/// The chosen modules that the initramfs to append to lacks.
fn lacked(spec: &ImageSpec, chosen: &BTreeSet<usize>) -> BTreeSet<usize> {
    let lacks = |n: &&usize| spec.tree.modules.get(**n).is_some_and(|m| there(spec, m).is_none());
    chosen.iter().filter(lacks).copied().collect()
}

/// The modules of the initramfs to append to that are added again, unpacked: the profile's
/// compressed ones, with their dependencies. Kernels before 5.17 load no compressed file, later
/// ones only with `CONFIG_MODULE_DECOMPRESS`, and the initramfs does not tell.
fn to_unpack(spec: &ImageSpec) -> Result<BTreeSet<usize>, Error> {
    let tree = &spec.tree;
    let packed = |n: &usize| {
        let module = tree.modules.get(*n);
        let place = module.and_then(|m| there(spec, m));
        place.is_some_and(|(_, compression)| compression != Compression::None)
    };
    let named = tree.with_needs(named(spec)?, &mut BTreeSet::new());
    Ok(named.into_iter().filter(packed).collect())
}

/// The path of a module: as in the kernel's tree, but decompressed.
fn place(tree: &KernelTree, module: &KernelModule) -> String {
    let (stem, _) = module.path.rsplit_once(".ko").unwrap_or((&module.path, ""));
    format!("lib/modules/{}/{stem}.ko", tree.release)
}

/// Adds the modules and the firmware that they name.
fn add_modules(
    spec: &ImageSpec,
    chosen: &BTreeSet<usize>,
    archive: &mut Archive,
    report: &mut Report,
) -> Result<(), Error> {
    let tree = &spec.tree;
    let mut firmware: BTreeSet<String> = BTreeSet::new();
    for module in chosen.iter().filter_map(|n| tree.modules.get(*n)) {
        let data = module_data(spec, module)?;
        let fail = |source| Error::Module { path: module.path.clone(), source };
        firmware.extend(tree::firmware(&data).map_err(fail)?);
        archive.add(&place(tree, module), 0o644, Node::File(data))?;
    }
    for name in firmware {
        match find_firmware(spec, &name)? {
            Some((path, data)) => {
                archive.add(&format!("lib/firmware/{path}"), 0o644, Node::File(data))?;
                report.firmware.push(path);
            }
            None => report.missing_firmware.push(name),
        }
    }
    Ok(())
}

/// Makes the index of the chosen modules. `place` returns each one's path and compression in
/// the image.
///
/// # Errors
/// [`Error::Index`] when a number exceeds the format.
pub fn index(
    tree: &KernelTree,
    chosen: &BTreeSet<usize>,
    conf: &ModprobeConf,
    place: &dyn Fn(&KernelModule) -> (String, Compression),
) -> Result<Vec<u8>, Error> {
    let ids: BTreeMap<usize, usize> = chosen.iter().enumerate().map(|(id, n)| (*n, id)).collect();
    let here = |list: Vec<usize>| list.iter().filter_map(|n| ids.get(n).copied()).collect();
    let soft = |names: &[String]| here(names.iter().flat_map(|name| tree.wished(name)).collect());
    let mut unresolved = BTreeSet::new();
    let modules = chosen.iter().filter_map(|n| {
        let module = tree.modules.get(*n)?;
        let (path, compression) = place(module);
        Some(ModuleEntry {
            name: module.name.clone(),
            path,
            class: profile::class(module),
            compression,
            blacklisted: conf.blacklist.contains(&module.name),
            options: conf.options.get(&module.name).cloned().unwrap_or_default(),
            aliases: module.aliases.clone(),
            deps: here(tree.closure(*n, &mut unresolved)),
            soft_pre: soft(&module.soft_pre),
            soft_post: soft(&module.soft_post),
        })
    });
    let modules = modules.collect();
    let builtin = tree.builtin.iter().cloned().collect();
    Builder { release: tree.release.clone(), modules, builtin }.build()
}

/// Checks that a program can be PID 1 of these modules' kernel. `modules` is their ELF machine,
/// 0 if unknown.
///
/// # Errors
/// [`Error::Init`] for a file that is not an ELF program, [`Error::Machine`] for another
/// processor.
pub fn check_init(init: &[u8], origin: &Path, modules: u16) -> Result<(), Error> {
    let found =
        machine(init).map_err(|e| Error::Init { path: origin.into(), why: format!("it {e}") })?;
    if modules != 0 && modules != found {
        return Err(Error::Machine { modules: machine_name(modules), init: machine_name(found) });
    }
    Ok(())
}

/// A module as added: unpacked, and stripped if requested.
fn module_data(spec: &ImageSpec, module: &KernelModule) -> Result<Vec<u8>, Error> {
    let data = spec.tree.read(module)?;
    let smaller = if spec.strip { strip::strip(&data) } else { None };
    Ok(smaller.unwrap_or(data))
}

/// Finds a firmware file where the kernel would look, and its name in `lib/firmware`.
fn find_firmware(spec: &ImageSpec, name: &str) -> Result<Option<(String, Vec<u8>)>, Error> {
    for (path, name) in tree::firmware_places(&spec.tree.release, name) {
        for dir in &spec.firmware {
            if let Some(data) = Container::Dir(dir.clone()).read_if_any(&path)? {
                return Ok(Some((name, data)));
            }
        }
        if let Some(data) = spec.tree.firmware(&path)? {
            return Ok(Some((name, data)));
        }
    }
    Ok(None)
}

/// Adds a file, or a directory with everything below. Links are not followed.
fn add_tree(archive: &mut Archive, from: &Path, to: &str) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let fail = |source| Error::Read { path: from.into(), source };
    let meta = fs::symlink_metadata(from).map_err(fail)?;
    let mode = meta.permissions().mode();
    if meta.is_dir() {
        archive.add(to, mode, Node::Dir)?;
        for entry in fs::read_dir(from).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().into_string().map_err(|name| {
                let path = from.join(name);
                Error::Read { path, source: std::io::Error::other("its name is not UTF-8") }
            })?;
            add_tree(archive, &entry.path(), &format!("{to}/{name}"))?;
        }
    } else if meta.is_symlink() {
        let target = fs::read_link(from).map_err(fail)?;
        archive.add(to, 0o777, Node::Symlink(target.to_string_lossy().into_owned()))?;
    } else if meta.is_file() {
        archive.add(to, mode, Node::File(fs::read(from).map_err(fail)?))?;
    } else {
        return Err(fail(std::io::Error::other("not a file, directory or symbolic link")));
    }
    Ok(())
}

/// The uncompressed archive with processor microcode, which the kernel reads
/// before it can decompress anything (Documentation/arch/x86/microcode.rst).
fn microcode(dir: &Path, mtime: u32) -> Result<Vec<u8>, Error> {
    let mut archive = Archive::new();
    for (from, to) in [("intel-ucode", "GenuineIntel"), ("amd-ucode", "AuthenticAMD")] {
        let path = dir.join(from);
        let fail = |source| Error::Read { path: path.clone(), source };
        let mut files = match fs::read_dir(&path) {
            Ok(entries) => entries.flatten().map(|e| e.path()).collect::<Vec<_>>(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(fail(e)),
        };
        // AMD's directory also has signatures (.asc) and read-me files.
        files.retain(|f| from == "intel-ucode" || f.extension().is_some_and(|e| e == "bin"));
        files.sort_unstable();
        let mut data = Vec::new();
        for file in &files {
            data.extend(fs::read(file).map_err(fail)?);
        }
        archive.add(&format!("kernel/x86/microcode/{to}.bin"), 0o644, Node::File(data))?;
    }
    if archive.is_empty() {
        let source = std::io::Error::other("it has neither intel-ucode nor amd-ucode");
        return Err(Error::Read { path: dir.into(), source });
    }
    Ok(archive.write(mtime)?)
}

/// The time of every file: `SOURCE_DATE_EPOCH` if given, else 1. (Some tools treat 0 as "no
/// time".)
///
/// # Errors
/// [`Error::Epoch`] when the text is not a number below 2^32.
pub fn mtime_from_epoch(epoch: Option<&str>) -> Result<u32, Error> {
    epoch.map_or(Ok(1), |text| text.trim().parse().map_err(|_| Error::Epoch(text.into())))
}
