//! Sources of kernel modules: a directory, a Debian package, an initramfs, the squashfs of a
//! live system.
//!
//! None of them is unpacked to disk. A package or an initramfs is one compressed stream, so its
//! modules are kept in memory; a squashfs is read file by file.

use crate::compress::{self, Codec};
use crate::container::{Container, Squashfs, images};
use crate::error::Error;
use crate::initrd::{self, Initrd, Limits};
use crate::modprobe_conf::ModprobeConf;
use crate::tree::KernelTree;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most that all files kept of one container may hold.
const KEPT_MAX: usize = 4 << 30;

/// The kind of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A Debian package.
    Deb,
    /// A squashfs image.
    Squashfs,
    /// An ISO with a squashfs on it.
    Iso,
    /// An initramfs.
    Initrd {
        /// Paths of its symbolic links, such as `lib` for `usr/lib`.
        links: BTreeSet<String>,
    },
}

/// A kernel's modules and their source.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The modules.
    pub tree: KernelTree,
    /// The container's own modprobe.d. Empty for a directory, which has none.
    pub conf: ModprobeConf,
    /// Their source.
    pub kind: Kind,
}

/// Finds one kernel's modules in a source of any kind. `release` chooses among several kernels.
///
/// # Errors
/// [`Error::Read`], [`Error::Container`] or [`Error::Initrd`] when it cannot be read,
/// [`Error::NoModules`] without modules, [`Error::ManyKernels`] for several kernels without a
/// choice.
pub fn open(path: &Path, release: Option<&str>) -> Result<Kernel, Error> {
    let kernel = open_any(path, release)?;
    match release {
        // A directory may be one kernel's tree, but not the wanted one's.
        Some(wanted) if wanted != kernel.tree.release => Err(Error::NoSuchKernel {
            path: path.into(),
            wanted: wanted.into(),
            releases: vec![kernel.tree.release],
        }),
        _ => Ok(kernel),
    }
}

fn open_any(path: &Path, release: Option<&str>) -> Result<Kernel, Error> {
    let fail = |source| Error::Read { path: path.into(), source };
    if fs::metadata(path).map_err(fail)?.is_dir() {
        return open_dir(path, release);
    }
    let mut magic = Vec::new();
    File::open(path).and_then(|f| f.take(0x8006).read_to_end(&mut magic)).map_err(fail)?;
    if magic.get(0x8001..) == Some(b"CD001") {
        return open_iso(path, release);
    }
    magic.truncate(8);
    if magic == b"!<arch>\n" {
        return open_deb(path, release);
    }
    let (source, kind) = if magic.starts_with(b"hsqs") {
        (Container::Squashfs(Arc::new(Squashfs::open(path)?)), Kind::Squashfs)
    } else {
        let bytes = initrd::read_file(path).map_err(fail)?;
        let initrd = Initrd::open(&bytes, Limits::default())
            .map_err(|source| Error::Initrd { path: path.into(), source })?;
        let tree = initrd.tree();
        let links = tree.iter().filter(|(_, entry)| entry.symlink().is_some());
        let links = links.map(|(path, _)| (*path).to_owned()).collect();
        let kept = tree.iter().filter(|(path, entry)| entry.is_file() && wanted(path));
        let kept = kept.map(|(path, entry)| ((*path).to_owned(), entry.data.to_vec())).collect();
        (Container::memory(kept), Kind::Initrd { links })
    };
    from_container(path, source, kind, release)
}

/// The modules of a Debian package. A kernel may be split into several packages, of which one
/// has them.
fn open_deb(path: &Path, release: Option<&str>) -> Result<Kernel, Error> {
    let deb = read_deb(path)?;
    let elsewhere = Error::OtherPackage { path: path.into(), give: deb.modules_package() };
    match from_container(path, Container::memory(deb.files), Kind::Deb, release) {
        Ok(kernel) if kernel.tree.modules.is_empty() => Err(elsewhere),
        Err(Error::NoModules { .. }) => Err(elsewhere),
        found => found,
    }
}

/// The first image on a medium that has the modules.
fn open_iso(path: &Path, release: Option<&str>) -> Result<Kernel, Error> {
    let mut refused = None;
    for (name, at, len) in images(path)? {
        let mut magic = [0; 4];
        let read = File::open(path)
            .and_then(|mut file| file.seek(SeekFrom::Start(at)).map(|_| file))
            .and_then(|mut file| file.read_exact(&mut magic));
        read.map_err(Error::read(path))?;
        if magic != *b"hsqs" {
            continue;
        }
        let image = Squashfs::open_part(path, at, len)?;
        let source = Container::Squashfs(Arc::new(image));
        match from_container(&path.join(name), source, Kind::Iso, release) {
            // Another layer may have them.
            Err(e @ (Error::NoModules { .. } | Error::NoSuchKernel { .. })) => refused = Some(e),
            other => return other,
        }
    }
    Err(refused.unwrap_or(Error::NoModules { path: path.into() }))
}

/// The one kernel's modules in a container.
fn from_container(
    path: &Path,
    source: Container,
    kind: Kind,
    release: Option<&str>,
) -> Result<Kernel, Error> {
    let paths: Vec<&String> = match &source {
        Container::Memory(files) => files.keys().collect(),
        Container::Squashfs(image) => image.paths().collect(),
        Container::Dir(_) => Vec::new(),
    };
    let base = choose(path, bases(&paths), release)?;
    let mut conf = ModprobeConf::default();
    for dir in ["usr/lib/modprobe.d/", "lib/modprobe.d/", "etc/modprobe.d/"] {
        for file in paths.iter().filter(|p| p.starts_with(dir) && p.ends_with(".conf")) {
            conf.parse(&String::from_utf8_lossy(&source.read(file)?));
        }
    }
    let tree = KernelTree::load(source, &base)?;
    Ok(Kernel { tree, conf, kind })
}

/// Whether a container's file is kept.
fn wanted(path: &str) -> bool {
    let path = path.strip_prefix("usr/").unwrap_or(path);
    ["lib/modules/", "lib/firmware/", "lib/modprobe.d/", "etc/modprobe.d/"]
        .iter()
        .any(|dir| path.starts_with(dir))
}

/// The `lib/modules/RELEASE` directories among paths, by release.
fn bases(paths: &[&String]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for path in paths {
        for place in ["lib/modules/", "usr/lib/modules/"] {
            if let Some((release, _)) = path.strip_prefix(place).and_then(|p| p.split_once('/')) {
                found.insert(release.to_owned(), format!("{place}{release}"));
            }
        }
    }
    found
}

/// Finds the `lib/modules/VERSION` directory of a path: itself, or the one below it.
fn open_dir(path: &Path, release: Option<&str>) -> Result<Kernel, Error> {
    let is_tree = |dir: &Path| {
        ["modules.order", "modules.dep", "modules.builtin", "kernel"]
            .iter()
            .any(|name| dir.join(name).exists())
    };
    fs::read_dir(path).map_err(Error::read(path))?;
    let dir = if is_tree(path) {
        path.to_owned()
    } else {
        let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
        for place in ["lib/modules", "usr/lib/modules", ""] {
            // A root may have /etc/kernel and the like, for kernel-install.
            if place.is_empty() && !found.is_empty() {
                continue;
            }
            let Ok(dir) = fs::read_dir(path.join(place)) else { continue };
            for entry in dir.flatten().filter(|entry| is_tree(&entry.path())) {
                let Ok(name) = entry.file_name().into_string() else { continue };
                found.entry(name).or_insert_with(|| entry.path());
            }
        }
        choose(path, found, release)?
    };
    // The directory has the release's name, unless reached by a link.
    let dir = fs::canonicalize(&dir).map_err(Error::read(&dir))?;
    let tree = KernelTree::load(Container::Dir(dir), "")?;
    Ok(Kernel { tree, conf: ModprobeConf::default(), kind: Kind::Dir })
}

/// Chooses among several kernels.
fn choose<T>(
    path: &Path,
    mut found: BTreeMap<String, T>,
    release: Option<&str>,
) -> Result<T, Error> {
    let releases: Vec<String> = found.keys().cloned().collect();
    match release {
        _ if releases.is_empty() => Err(Error::NoModules { path: path.into() }),
        Some(wanted) => found.remove(wanted).ok_or_else(|| Error::NoSuchKernel {
            path: path.into(),
            wanted: wanted.into(),
            releases,
        }),
        None if releases.len() > 1 => Err(Error::ManyKernels { path: path.into(), releases }),
        None => found.pop_first().map(|(_, t)| t).ok_or(Error::NoModules { path: path.into() }),
    }
}

/// What is kept of a Debian package.
#[derive(Debug, Default, PartialEq, Eq)]
struct Deb {
    /// Its control file, deb-control(5).
    control: String,
    /// Its files of interest.
    files: BTreeMap<String, Vec<u8>>,
}

impl Deb {
    /// A field of the control file; continued lines are not read.
    fn field(&self, name: &str) -> &str {
        let mut lines = self.control.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default().trim()
    }

    /// The package that has the modules which this kernel package lacks: one that it depends
    /// on, or the one for the same kernel.
    fn modules_package(&self) -> Option<String> {
        let depends = self.field("Depends").split([',', '|']);
        let mut depends = depends.filter_map(|one| one.split_whitespace().next());
        let of_kernel = |name: &&str| {
            let kinds = ["linux-modules-", "linux-image-"];
            kinds.iter().any(|kind| name.starts_with(kind)) && name.contains(char::is_numeric)
        };
        if let Some(name) = depends.find(of_kernel) {
            return Some(name.to_owned());
        }
        let kinds = ["linux-image-", "linux-binary-", "linux-base-"];
        let kernel = kinds.iter().find_map(|kind| self.field("Package").strip_prefix(kind))?;
        let kernel = kernel.trim_end_matches("-unsigned");
        kernel.contains(char::is_numeric).then(|| format!("linux-modules-{kernel}"))
    }
}

/// Longest control file that is read.
const CONTROL_MAX: u64 = 1 << 20;

/// The modules of a Debian package: deb(5), an ar archive with a tar in it.
fn read_deb(path: &Path) -> Result<Deb, Error> {
    let fail = |source: io::Error| bad_deb(path, &source.to_string());
    let file = File::open(path).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    parse_deb(path, BufReader::new(file), length, KEPT_MAX as u64)
}

fn bad_deb(path: &Path, why: &str) -> Error {
    Error::Container { path: path.into(), why: format!(".deb: {why}") }
}

/// Runs the reader of packages on arbitrary bytes; for fuzzers.
///
/// # Panics
/// When more is kept than may be.
pub fn fuzz(data: &[u8]) {
    const MOST: usize = 1 << 20;
    match parse_deb(Path::new("a.deb"), data, data.len() as u64, MOST as u64) {
        Ok(deb) => {
            assert!(deb.files.values().map(Vec::len).sum::<usize>() <= MOST);
            drop(deb.modules_package());
        }
        Err(error) => drop(error.to_string()),
    }
}

fn parse_deb(path: &Path, mut file: impl BufRead, mut left: u64, most: u64) -> Result<Deb, Error> {
    let mut deb = Deb::default();
    let bad = |why: &str| bad_deb(path, why);
    let fail = |source: io::Error| bad(&source.to_string());
    let mut head = [0; 8];
    file.read_exact(&mut head).map_err(fail)?;
    left = left.saturating_sub(8);
    loop {
        // Name in 16 bytes, size in decimal at 48, and a two-byte mark.
        let mut member = [0; 60];
        file.read_exact(&mut member).map_err(|_| bad("it has no data.tar, or is truncated"))?;
        let text = |from: usize, to: usize| {
            let field = member.get(from..to).and_then(|b| std::str::from_utf8(b).ok());
            field.unwrap_or_default().trim_end_matches([' ', '/'])
        };
        let name = text(0, 16);
        let size: u64 = text(48, 58).parse().map_err(|_| bad("it has a damaged member header"))?;
        left = left.saturating_sub(60);
        if size > left {
            return Err(bad("it is cut short"));
        }
        if let Some(ending) = name.strip_prefix("control.tar")
            && let Some(codec) = Codec::from_ending(ending)
        {
            let mut member = file.by_ref().take(size + size % 2);
            let control = compress::reader(codec, member.by_ref().take(size));
            // It is only for advice: damage in it is no reason to refuse the modules.
            deb.control = control.and_then(read_control).unwrap_or_default();
            io::copy(&mut member, &mut io::sink()).map_err(fail)?;
            left = left.saturating_sub(size + size % 2);
            continue;
        }
        if !name.starts_with("data.tar") {
            // Members start on even offsets.
            let skip = size + size % 2;
            left = left.saturating_sub(skip);
            io::copy(&mut file.by_ref().take(skip), &mut io::sink()).map_err(fail)?;
            continue;
        }
        let ending = name.strip_prefix("data.tar").unwrap_or_default();
        let codec = Codec::from_ending(ending)
            .ok_or_else(|| bad(&format!("its data.tar{ending} is not supported")))?;
        let data = compress::reader(codec, file.take(size)).map_err(fail)?;
        deb.files = read_tar(data, most).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => bad("its data.tar is cut short"),
            _ => fail(e),
        })?;
        return Ok(deb);
    }
}

/// The control file in a tar stream; empty when there is none.
fn read_control(from: impl Read) -> io::Result<String> {
    for entry in tar::Archive::new(from.take(CONTROL_MAX)).entries()? {
        let mut entry = entry?;
        if entry.path()?.file_name().is_some_and(|name| name == "control") {
            let mut text = Vec::new();
            entry.read_to_end(&mut text)?;
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
    }
    Ok(String::new())
}

/// Files of a tar stream that are worth keeping, `left` bytes at most.
fn read_tar(from: impl Read, mut left: u64) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut kept = BTreeMap::new();
    for entry in tar::Archive::new(from).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let path = path.trim_start_matches("./").trim_start_matches('/');
        if !entry.header().entry_type().is_file() || !wanted(path) {
            continue;
        }
        let size = entry.size();
        left = left.checked_sub(size).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut data = Vec::new();
        entry.read_to_end(&mut data)?;
        if data.len() as u64 != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        kept.insert(path.to_owned(), data);
    }
    Ok(kept)
}
