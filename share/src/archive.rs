//! The archive that follows a medium's own initramfs, or takes its place: our `/init`, the module
//! index, and modules.
//!
//! Behind an initramfs it has the modules from the medium's squashfs that the initramfs lacks: the
//! kernel unpacks both one after the other, and files of the second replace those of the first
//! (Documentation/filesystems/ramfs-rootfs-initramfs.rst). In its place it has the modules of both
//! that a boot over the network needs, with their firmware, the processors' microcode and what
//! the distribution built in: a fifth of what clients load otherwise.

use crate::error::Error;
use crate::initrd::{self, Picked};
use crate::tree::{At, Tree};
use backhand::{FilesystemReader, InnerNode};
use coldplug::index::Compression;
use cpio_builder::compress;
use cpio_builder::container::Container;
use cpio_builder::error::Error as BuildError;
use cpio_builder::image::{INDEX_PATH, index};
use cpio_builder::initrd::Limits;
use cpio_builder::modprobe_conf::ModprobeConf;
use cpio_builder::newc::{Archive, Node};
use cpio_builder::profile::{ESSENTIAL, Profile};
use cpio_builder::tree::{self, KernelModule, KernelTree};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::thread;

/// The largest initramfs that is read.
pub const MAX_INITRD: u64 = 2 << 30;
/// The largest module file.
const MAX_MODULE: u64 = 128 << 20;
/// All modules taken from a squashfs.
const MAX_MODULES: u64 = 2 << 30;

/// Below `kernel/`, what a network boot may need of a squashfs.
const PLACES: [&str; 17] = [
    "drivers/net/ethernet/",
    "drivers/net/phy/",
    "drivers/net/mdio/",
    "drivers/net/pcs/",
    "drivers/net/usb/",
    "drivers/net/hyperv/",
    "drivers/net/vmxnet3/",
    "drivers/net/",
    "drivers/virtio/",
    "drivers/hv/",
    "drivers/block/loop",
    "drivers/block/virtio",
    "fs/",
    "net/",
    "lib/",
    "crypto/",
    "arch/",
];
/// Directories among these that a network boot does not need.
const NOT: [&str; 6] = [
    "drivers/net/wireless/",
    "drivers/net/can/",
    "drivers/net/wwan/",
    "net/mac80211/",
    "net/bluetooth/",
    "net/wireless/",
];

/// An initramfs, which may be read more than once.
pub type Open<'o> = &'o (dyn Fn() -> Result<Box<dyn BufRead + Send>, Error> + Sync);

/// The archive and what it contains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    /// The archive, compressed.
    pub bytes: Vec<u8>,
    /// Whether it takes the place of the initramfs.
    pub alone: bool,
    /// Kernel release; empty when the initramfs has no modules.
    pub release: String,
    /// Modules in the initramfs.
    pub there: usize,
    /// Modules that were added.
    pub added: usize,
    /// Where in the initramfs bytes begin that the kernel does not read, and nothing behind them.
    pub end: Option<usize>,
    /// Modules that a live boot needs and neither the initramfs nor the medium has.
    pub lacking: Vec<String>,
}

/// Makes the archive for an initramfs. `squashfs` lists images in `tree` that may have modules
/// of the same kernel. With `alone` it takes the initramfs's place if all the modules are there
/// that a boot over the network needs.
///
/// # Errors
/// [`Error::File`] when the initramfs is damaged or not one, `/init` is for another
/// processor, or a module is damaged.
pub fn make(
    tree: &Arc<Tree>,
    initrd: Open<'_>,
    squashfs: &[String],
    init: &[u8],
    alone: bool,
) -> Result<Made, Error> {
    // All modules are in memory for a moment. A thread of its own gives that memory back to the
    // system before compression takes as much again.
    let collected =
        thread::scope(|scope| scope.spawn(|| collect(tree, initrd, squashfs, init, alone)).join());
    let failed =
        |_| Error::System { doing: "make an archive", source: io::ErrorKind::Other.into() };
    let collected = collected.map_err(failed)??;
    let (mut made, plain) = collected.clone();
    drop(collected);
    made.bytes.extend(compress::quickly(&plain).map_err(BuildError::Compress)?);
    made.bytes.resize(made.bytes.len().next_multiple_of(4), 0);
    Ok(made)
}

fn is_module(path: &str) -> bool {
    within_usr(path).starts_with("lib/modules/")
}

fn is_conf(path: &str) -> bool {
    let path = within_usr(path);
    path.ends_with(".conf")
        && ["lib/modprobe.d/", "etc/modprobe.d/"].iter().any(|dir| path.starts_with(dir))
}

fn is_microcode(path: &str) -> bool {
    path.starts_with("kernel/x86/microcode/")
}

/// What [`cmdline::Baked`] reads.
fn is_baked(path: &str) -> bool {
    path == "conf/uuid.conf"
        || ["conf/conf.d/", "etc/cmdline.d/"].iter().any(|dir| path.starts_with(dir))
}

/// The archive in two parts: what stands before it and stays plain (microcode, which the kernel
/// looks for before it can unpack anything: Documentation/arch/x86/microcode.rst), and the rest,
/// not yet compressed.
fn collect(
    tree: &Arc<Tree>,
    initrd: Open<'_>,
    squashfs: &[String],
    init: &[u8],
    alone: bool,
) -> Result<(Made, Vec<u8>), Error> {
    let wanted = |path: &str| {
        is_module(path) || is_conf(path) || alone && (is_microcode(path) || is_baked(path))
    };
    let Picked { mut files, links, end } =
        initrd::pick(&mut initrd()?, Limits::default(), &wanted)?;
    let mut conf = ModprobeConf::default();
    for (_, text) in files.extract_if(.., |path, _| is_conf(path)) {
        conf.parse(&String::from_utf8_lossy(&text));
    }
    let kept: Vec<_> = files.extract_if(.., |path, _| !is_module(path)).collect();
    // An initramfs without modules belongs to a kernel with everything built in, or is the
    // first of several: no modules are looked for.
    let Some(base) = only_base(&files)? else {
        cpio_builder::image::check_init(init, Path::new("/init"), 0)?;
        let mut archive = Archive::new();
        add(&mut archive, "init", 0o755, init.to_vec())?;
        return Ok((Made { end, ..Made::default() }, finish(archive, &links)?));
    };
    let there: BTreeSet<String> = files.keys().cloned().collect();
    let release = base.rsplit('/').next().unwrap_or_default().to_owned();
    for path in squashfs {
        let Some((at, _)) = tree.file(path) else { continue };
        if add_missing(tree, at, &release, &base, &mut files)? {
            break;
        }
    }
    let mut kernel = KernelTree::load(Container::memory(files), &base)?;
    conf.apply(&mut kernel);
    cpio_builder::image::check_init(init, Path::new("/init"), kernel.machine)?;
    let is_there = |module: &KernelModule| there.contains(&kernel.within(&module.path));
    let select = |profile| {
        let chosen = Profile::from_name(profile).map(|profile| profile.select(&kernel));
        kernel.with_needs(chosen.unwrap_or_default(), &mut BTreeSet::new())
    };
    let mut chosen = select("lan");
    let has = |chosen: &BTreeSet<usize>, name: &str| {
        kernel.resolve(name).is_some_and(|found| found.iter().all(|n| chosen.contains(n)))
    };
    let needed = ESSENTIAL.into_iter().chain(["nfsv3"]);
    let lacking = needed.filter(|name| !has(&chosen, name)).map(str::to_owned).collect::<Vec<_>>();
    let alone = alone && lacking.is_empty();
    if !alone {
        chosen = select("net");
        let modules = (0..).zip(&kernel.modules);
        chosen.extend(modules.filter(|(_, module)| is_there(module)).map(|(n, _)| n));
        chosen = kernel.with_needs(chosen, &mut BTreeSet::new());
    }
    // Not every kernel unpacks a module.
    let place = |module: &KernelModule| {
        if is_there(module) && !alone {
            return (kernel.within(&module.path), module.compression);
        }
        let stem = module.path.rsplit_once(".ko").map_or(module.path.as_str(), |(stem, _)| stem);
        (format!("{base}/{stem}.ko"), Compression::None)
    };
    let mut archive = Archive::new();
    add(&mut archive, "init", 0o755, init.to_vec())?;
    add(&mut archive, INDEX_PATH, 0o644, index(&kernel, &chosen, &conf, &place)?)?;
    let mut firmware = BTreeSet::new();
    let modules = chosen.iter().filter_map(|n| kernel.modules.get(*n));
    let (old, new): (Vec<_>, Vec<_>) = modules.partition(|module| is_there(module));
    for module in new.iter().chain(old.iter().filter(|_| alone)) {
        let bytes = kernel.read(module)?;
        if alone {
            let path = &module.path;
            let damaged = |source| BuildError::Module { path: path.clone(), source };
            firmware.extend(tree::firmware(&bytes).map_err(damaged)?);
        }
        add(&mut archive, &place(module).0, 0o644, bytes)?;
    }
    let (there, added) = (old.len(), new.len());
    let mut made = Made { bytes: Vec::new(), alone, release, there, added, end, lacking };
    if !alone {
        return Ok((made, finish(archive, &links)?));
    }
    let mut early = Archive::new();
    for (path, bytes) in kept {
        let of = if is_microcode(&path) { &mut early } else { &mut archive };
        add(of, &path, 0o644, bytes)?;
    }
    for (path, bytes) in firmware_of(&firmware, initrd)? {
        add(&mut archive, &path, 0o644, bytes)?;
    }
    if !early.is_empty() {
        made.bytes = early.write(0).map_err(BuildError::from)?;
    }
    Ok((made, finish(archive, &BTreeSet::new())?))
}

fn add(archive: &mut Archive, path: &str, mode: u32, bytes: Vec<u8>) -> Result<(), Error> {
    Ok(archive.add(path, mode, Node::File(bytes)).map_err(BuildError::from)?)
}

/// The directory of modules, if there are any: of one kernel.
fn only_base(files: &BTreeMap<String, Vec<u8>>) -> Result<Option<String>, Error> {
    let bases = bases(files.keys());
    match bases.len() {
        0 | 1 => Ok(bases.into_iter().next()),
        _ => {
            let (path, releases) = ("initrd".into(), bases.into_iter().collect());
            Err(BuildError::ManyKernels { path, releases }.into())
        }
    }
}

/// The files of the initramfs that are this firmware, plain or packed, with their paths.
fn firmware_of(
    names: &BTreeSet<String>,
    initrd: Open<'_>,
) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    // It would be read whole once more for nothing.
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let wanted = |path: &str| {
        let name = within_usr(path).strip_prefix("lib/firmware/");
        let ends = tree::FIRMWARE_ENDINGS;
        name.is_some_and(|name| {
            ends.iter().any(|end| name.strip_suffix(end).is_some_and(|name| names.contains(name)))
        })
    };
    let found = initrd::pick(&mut initrd()?, Limits::default(), &wanted)?.files;
    Ok(found.into_iter().map(|(path, bytes)| (within_usr(&path).to_owned(), bytes)).collect())
}

fn finish(mut archive: Archive, links: &BTreeSet<String>) -> Result<Vec<u8>, Error> {
    // A directory in this archive would replace a link of that name in the medium's initramfs.
    for link in links {
        archive.forget_dir(link);
    }
    Ok(archive.write(0).map_err(BuildError::from)?)
}

/// Strips `/` or `/usr` from a path.
fn within_usr(path: &str) -> &str {
    path.strip_prefix("usr/").unwrap_or(path)
}

/// The `lib/modules/RELEASE` directories among paths.
fn bases<'p>(paths: impl Iterator<Item = &'p String>) -> BTreeSet<String> {
    let base = |path: &String| {
        let (lib, rest) = path.split_once("lib/modules/")?;
        let release = rest.split_once('/')?.0;
        (matches!(lib, "" | "usr/")).then(|| format!("{lib}lib/modules/{release}"))
    };
    paths.filter_map(base).collect()
}

/// Adds the modules of a squashfs for `release` that `files` lacks. False when it has none for
/// that release.
fn add_missing(
    tree: &Arc<Tree>,
    at: At,
    release: &str,
    base: &str,
    files: &mut BTreeMap<String, Vec<u8>>,
) -> Result<bool, Error> {
    let reader = BufReader::new(Cursor::new(tree.clone(), at));
    // A layer in another format, or a damaged one: the client's kernel will report it.
    let Ok(image) = FilesystemReader::from_reader(reader) else { return Ok(false) };
    let known: BTreeSet<String> =
        files.keys().filter_map(|path| module_name(path)).map(str::to_owned).collect();
    let mut left = MAX_MODULES;
    let mut found = false;
    for node in image.files() {
        let Some(path) = node.fullpath.to_str() else { continue };
        let path = within_usr(path.trim_start_matches('/'));
        let below = path.strip_prefix("lib/modules/").and_then(|p| p.strip_prefix(release));
        let Some(below) = below.and_then(|p| p.strip_prefix('/')) else { continue };
        let InnerNode::File(file) = &node.inner else { continue };
        found = true;
        // The initramfs's depmod files cover its own modules only; without any, `.modinfo`
        // counts.
        let Some(name) = module_name(below) else { continue };
        let Some(inside) = below.strip_prefix("kernel/") else { continue };
        let fits = |list: &[&str]| list.iter().any(|place| inside.starts_with(place));
        if known.contains(name) || !fits(&PLACES) || fits(&NOT) {
            continue;
        }
        let fail = |source| Error::System { doing: "read a module from the squashfs", source };
        let mut bytes = Vec::new();
        let reader = image.file(file).reader_checked();
        let reader = reader.map_err(|e| fail(io::Error::other(e.to_string())))?;
        reader.take(MAX_MODULE).read_to_end(&mut bytes).map_err(fail)?;
        left = left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| fail(io::ErrorKind::FileTooLarge.into()))?;
        files.insert(format!("{base}/{below}"), bytes);
    }
    if found {
        for name in ["modules.dep", "modules.alias", "modules.softdep"] {
            files.remove(&format!("{base}/{name}"));
        }
    }
    Ok(found)
}

/// A module's file name up to `.ko`.
fn module_name(path: &str) -> Option<&str> {
    let file = path.rsplit('/').next()?;
    file.find(".ko").and_then(|at| file.get(..at))
}

/// A file of a tree as a stream.
pub(crate) struct Cursor {
    tree: Arc<Tree>,
    at: At,
    position: u64,
}

impl Cursor {
    /// Reads from its beginning.
    pub(crate) fn new(tree: Arc<Tree>, at: At) -> Self {
        Self { tree, at, position: 0 }
    }
}

impl Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.tree.read_at(self.at, self.position, buffer)?;
        self.position = self.position.saturating_add(read as u64);
        Ok(read)
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let size = self.tree.node(self.at).map_or(0, |node| node.size);
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => size.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_modules_are() {
        let paths = ["usr/lib/modules/6.1/kernel/a.ko".to_owned(), "x/lib/modules/5/b.ko".into()];
        assert_eq!(bases(paths.iter()), ["usr/lib/modules/6.1".to_owned()].into());
        assert_eq!(module_name("kernel/a/b-c.ko.xz"), Some("b-c"));
        assert_eq!(module_name("modules.dep"), None);
    }

    #[test]
    fn damage_is_an_error() {
        let tree = Arc::new(Tree::of_directory(tempfile::tempdir().unwrap().path()).unwrap());
        let open = |bytes: &[u8]| {
            let bytes: Arc<[u8]> = bytes.into();
            move || Ok(Box::new(io::Cursor::new(bytes.clone())) as Box<dyn BufRead + Send>)
        };
        assert!(make(&tree, &open(b"no initrd"), &[], b"", true).is_err());
        let mut archive = Archive::new();
        archive.add("bin", 0o755, Node::Dir).unwrap();
        let initrd = archive.write(0).unwrap();
        assert!(make(&tree, &open(&initrd), &[], b"no program", true).is_err());
        let mut own = std::fs::read("/proc/self/exe").unwrap();
        own.truncate(4096);
        let made = make(&tree, &open(&initrd), &[], &own, true).unwrap();
        let opened = cpio_builder::initrd::Initrd::open(&made.bytes, Limits::default()).unwrap();
        assert!(opened.tree().contains_key("init"));
    }
}
