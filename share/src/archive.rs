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
use cpio_builder::container::{Container, follow};
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
    /// Why the other archive that was wanted, in place of the initramfs or behind it, is not made.
    pub other: Option<String>,
}

/// Which archives of an initramfs are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// One in its place, if all the modules are there that a boot over the network needs; one behind
    /// it otherwise.
    pub alone: bool,
    /// One behind it.
    pub behind: bool,
}

/// An archive in two parts: what stands before it and stays plain (microcode, which the kernel
/// looks for before it can unpack anything: Documentation/arch/x86/microcode.rst), and the rest,
/// not yet compressed.
type Parts = (Made, Vec<u8>);

/// Makes the archives for an initramfs, which is read once for all, and once more if a module
/// names firmware. `squashfs` lists images in `tree` that may have modules of the same kernel.
/// Damage that only one archive meets leaves the other.
///
/// # Errors
/// [`Error::File`] when the initramfs is damaged or not one, `/init` is for another
/// processor, or a module is damaged.
pub fn make(
    tree: &Arc<Tree>,
    initrd: Open<'_>,
    squashfs: &[String],
    init: &[u8],
    wanted: Wanted,
) -> Result<Vec<Made>, Error> {
    // All modules are in memory for a moment. A thread of its own gives that memory back to the
    // system before compression takes as much again.
    let collected =
        thread::scope(|scope| scope.spawn(|| collect(tree, initrd, squashfs, init, wanted)).join());
    let failed =
        |_| Error::System { doing: "make an archive", source: io::ErrorKind::Other.into() };
    let collected = collected.map_err(failed)??;
    let parts = collected.clone();
    drop(collected);
    parts.into_iter().map(pack).collect()
}

fn pack((mut made, plain): Parts) -> Result<Made, Error> {
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

fn collect(
    tree: &Arc<Tree>,
    initrd: Open<'_>,
    squashfs: &[String],
    init: &[u8],
    wanted: Wanted,
) -> Result<Vec<Parts>, Error> {
    let picks = |path: &str| {
        let alone = is_microcode(path) || is_baked(path);
        is_module(path) || is_conf(path) || wanted.alone && alone
    };
    let Picked { mut files, links, end } = initrd::pick(&mut initrd()?, Limits::default(), &picks)?;
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
        return Ok(vec![(Made { end, ..Made::default() }, finish(archive, &links)?)]);
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
    let read = Contents { initrd, kernel, conf, base, there, kept, links, end };
    let lacking = read.lacking();
    let alone = wanted.alone && lacking.is_empty();
    let alone = alone.then(|| read.archive(init, true, &lacking));
    let first = alone.as_ref().is_some_and(Result::is_ok);
    let behind = (wanted.behind || !first).then(|| read.archive(init, false, &lacking));
    let (mut made, mut failed) = (Vec::new(), None);
    for one in alone.into_iter().chain(behind) {
        match one {
            Ok(parts) => made.push(parts),
            Err(error) => failed = Some(error),
        }
    }
    match (made.first_mut(), failed) {
        (None, Some(error)) => return Err(error),
        (Some((first, _)), failed) => first.other = failed.map(|error| error.to_string()),
        (None, None) => {}
    }
    Ok(made)
}

/// What was read of an initramfs and of its medium.
struct Contents<'o> {
    initrd: Open<'o>,
    kernel: KernelTree,
    conf: ModprobeConf,
    /// The directory of its modules.
    base: String,
    /// The paths of the modules that the initramfs has.
    there: BTreeSet<String>,
    /// Its microcode and what the distribution built in.
    kept: Vec<(String, Vec<u8>)>,
    links: BTreeMap<String, String>,
    end: Option<usize>,
}

impl Contents<'_> {
    fn is_there(&self, module: &KernelModule) -> bool {
        self.there.contains(&self.kernel.within(&module.path))
    }

    /// The modules of a profile, with those that they need.
    fn select(&self, profile: &str) -> BTreeSet<usize> {
        let chosen = Profile::from_name(profile).map(|profile| profile.select(&self.kernel));
        self.kernel.with_needs(chosen.unwrap_or_default(), &mut BTreeSet::new())
    }

    /// The modules that a boot over the network needs, and that are nowhere.
    fn lacking(&self) -> Vec<String> {
        let chosen = self.select("lan");
        let has = |name: &&str| {
            let found = self.kernel.resolve(name);
            found.is_some_and(|found| found.iter().all(|n| chosen.contains(n)))
        };
        let needed = ESSENTIAL.into_iter().chain(["nfsv3"]);
        needed.filter(|name| !has(name)).map(str::to_owned).collect()
    }

    fn chosen(&self, alone: bool) -> BTreeSet<usize> {
        if alone {
            return self.select("lan");
        }
        let mut chosen = self.select("net");
        let modules = (0..).zip(&self.kernel.modules);
        chosen.extend(modules.filter(|(_, module)| self.is_there(module)).map(|(n, _)| n));
        self.kernel.with_needs(chosen, &mut BTreeSet::new())
    }

    /// Makes one of the archives.
    fn archive(&self, init: &[u8], alone: bool, lacking: &[String]) -> Result<Parts, Error> {
        let Self { kernel, base, .. } = self;
        let chosen = self.chosen(alone);
        // Not every kernel unpacks a module.
        let place = |module: &KernelModule| {
            if self.is_there(module) && !alone {
                return (kernel.within(&module.path), module.compression);
            }
            let path = module.path.as_str();
            let stem = path.rsplit_once(".ko").map_or(path, |(stem, _)| stem);
            (format!("{base}/{stem}.ko"), Compression::None)
        };
        let mut archive = Archive::new();
        add(&mut archive, "init", 0o755, init.to_vec())?;
        add(&mut archive, INDEX_PATH, 0o644, index(kernel, &chosen, &self.conf, &place)?)?;
        let mut firmware = BTreeSet::new();
        let modules = chosen.iter().filter_map(|n| kernel.modules.get(*n));
        let (old, new): (Vec<_>, Vec<_>) = modules.partition(|module| self.is_there(module));
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
        let (release, end, lacking) = (kernel.release.clone(), self.end, lacking.to_vec());
        let mut made = Made { alone, release, there, added, end, lacking, ..Made::default() };
        if !alone {
            return Ok((made, finish(archive, &self.links)?));
        }
        let mut early = Archive::new();
        for (path, bytes) in &self.kept {
            let of = if is_microcode(path) { &mut early } else { &mut archive };
            add(of, path, 0o644, bytes.clone())?;
        }
        for (path, bytes) in firmware_of(&firmware, &kernel.release, &self.links, self.initrd)? {
            add(&mut archive, &path, 0o644, bytes)?;
        }
        if !early.is_empty() {
            made.bytes = early.write(0).map_err(BuildError::from)?;
        }
        Ok((made, finish(archive, &BTreeMap::new())?))
    }
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

/// The files of the initramfs that a kernel takes for this firmware, with their paths in the
/// archive.
fn firmware_of(
    names: &BTreeSet<String>,
    release: &str,
    links: &BTreeMap<String, String>,
    initrd: Open<'_>,
) -> Result<Vec<(String, Vec<u8>)>, Error> {
    // It would be read whole once more for nothing.
    if names.is_empty() {
        return Ok(Vec::new());
    }
    // Of each file, where it may be in the initramfs, and its path in the archive.
    let places: Vec<Vec<(String, String)>> = names
        .iter()
        .map(|name| {
            let places = tree::firmware_places(release, name);
            let all = places.iter().flat_map(|(path, name)| {
                let at = |lib| follow(&format!("{lib}/firmware/{path}"), links);
                ["lib", "usr/lib"].map(|lib| (at(lib), format!("lib/firmware/{name}")))
            });
            all.collect()
        })
        .collect();
    let wanted: BTreeSet<&str> = places.iter().flatten().map(|(at, _)| at.as_str()).collect();
    let picks = |path: &str| wanted.contains(path);
    let found = initrd::pick(&mut initrd()?, Limits::default(), &picks)?.files;
    let first = |places: &Vec<(String, String)>| {
        places.iter().find_map(|(at, to)| Some((to.clone(), found.get(at)?.clone())))
    };
    Ok(places.iter().filter_map(first).collect())
}

fn finish(mut archive: Archive, links: &BTreeMap<String, String>) -> Result<Vec<u8>, Error> {
    // A directory in this archive would replace a link of that name in the medium's initramfs.
    for link in links.keys() {
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

    const ALONE: Wanted = Wanted { alone: true, behind: false };

    #[test]
    fn where_modules_are() {
        let paths = ["usr/lib/modules/6.1/kernel/a.ko".to_owned(), "x/lib/modules/5/b.ko".into()];
        assert_eq!(bases(paths.iter()), ["usr/lib/modules/6.1".to_owned()].into());
        assert_eq!(module_name("kernel/a/b-c.ko.xz"), Some("b-c"));
        assert_eq!(module_name("modules.dep"), None);
    }

    /// Where the kernel would look: in `updates/` first, and behind links, as of `cxgb4/t4fw.bin`.
    #[test]
    fn firmware_is_where_a_kernel_looks() {
        let mut archive = Archive::new();
        for (path, text) in [
            ("usr/lib/firmware/a.bin", "old"),
            ("usr/lib/firmware/updates/6.1/a.bin", "new"),
            ("usr/lib/firmware/cxgb4/t4fw-1.bin", "versioned"),
            ("usr/lib/firmware/6.1/b.bin.xz", "xz"),
            ("usr/lib/firmware/updates/b.bin.zst", "zstd"),
            ("usr/lib/firmware/other.bin", "not asked for"),
        ] {
            archive.add(path, 0o644, Node::File(text.into())).unwrap();
        }
        let link = Node::Symlink("t4fw-1.bin".into());
        archive.add("usr/lib/firmware/cxgb4/t4fw.bin", 0o777, link).unwrap();
        archive.add("lib", 0o777, Node::Symlink("usr/lib".into())).unwrap();
        let bytes: Arc<[u8]> = archive.write(0).unwrap().into();
        let open = || Ok(Box::new(io::Cursor::new(bytes.clone())) as Box<dyn BufRead + Send>);
        let links =
            initrd::pick(&mut open().unwrap(), Limits::default(), &|_| false).unwrap().links;
        let names = ["a.bin", "b.bin", "cxgb4/t4fw.bin", "gone.bin", "../../etc/shadow"];
        let found = firmware_of(&names.map(str::to_owned).into(), "6.1", &links, &open).unwrap();
        let found: Vec<(&str, &[u8])> =
            found.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
        let wanted: [(&str, &[u8]); 3] = [
            ("lib/firmware/a.bin", b"new"),
            ("lib/firmware/b.bin.zst", b"zstd"),
            ("lib/firmware/cxgb4/t4fw.bin", b"versioned"),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn damage_is_an_error() {
        let tree = Arc::new(Tree::of_directory(tempfile::tempdir().unwrap().path()).unwrap());
        let open = |bytes: &[u8]| {
            let bytes: Arc<[u8]> = bytes.into();
            move || Ok(Box::new(io::Cursor::new(bytes.clone())) as Box<dyn BufRead + Send>)
        };
        assert!(make(&tree, &open(b"no initrd"), &[], b"", ALONE).is_err());
        let mut archive = Archive::new();
        archive.add("bin", 0o755, Node::Dir).unwrap();
        let initrd = archive.write(0).unwrap();
        assert!(make(&tree, &open(&initrd), &[], b"no program", ALONE).is_err());
        let mut own = std::fs::read("/proc/self/exe").unwrap();
        own.truncate(4096);
        let made = make(&tree, &open(&initrd), &[], &own, ALONE).unwrap();
        let opened = cpio_builder::initrd::Initrd::open(&made[0].bytes, Limits::default()).unwrap();
        assert!(opened.tree().contains_key("init"));
    }
}
