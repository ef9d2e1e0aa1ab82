//! Places that kernel modules come from: a directory, a Debian package, an
//! initramfs, the squashfs of a live system.
//!
//! All but the directory are read without unpacking them to disk. A package
//! or an initramfs is one compressed stream, so its modules are kept in
//! memory; a squashfs is read file by file.

use crate::compress::{self, Codec};
use crate::error::Error;
use crate::initrd::{Initrd, Limits};
use crate::iso::{Iso, IsoError, Section};
use crate::modinfo::{self, Modinfo, ModinfoError};
use crate::tree::{KernelTree, ModprobeConf};
use backhand::{BackhandError, FilesystemReader, InnerNode};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most that one file taken from a container may hold.
const FILE_MAX: usize = 512 << 20;
/// The most that all files kept of one container may hold.
const KEPT_MAX: usize = 4 << 30;

/// A set of files with paths relative to its root.
#[derive(Debug, Clone)]
pub enum Source {
    /// A directory.
    Dir(PathBuf),
    /// Files in memory.
    Memory(Arc<BTreeMap<String, Vec<u8>>>),
    /// A squashfs image.
    Squashfs(Arc<Squashfs>),
}

impl Source {
    /// Files in memory.
    #[must_use]
    pub fn memory(files: BTreeMap<String, Vec<u8>>) -> Self {
        Self::Memory(Arc::new(files))
    }

    /// Paths of the files below a directory, without that directory, sorted.
    /// Links to directories are not followed: in a module tree they lead into
    /// the kernel's sources.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self, base: &str) -> Result<Vec<String>, Error> {
        let below = |path: &String| Some(path.strip_prefix(base)?.strip_prefix('/')?.to_owned());
        let mut found: Vec<String> = match self {
            Self::Memory(files) => files.keys().filter_map(below).collect(),
            Self::Squashfs(image) => image.files.keys().filter_map(below).collect(),
            Self::Dir(root) => walk(&root.join(base))?,
        };
        found.sort_unstable();
        Ok(found)
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// It is not there, cannot be read, or is absurdly large.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        let absent = || Error::Read { path: path.into(), source: io::ErrorKind::NotFound.into() };
        match self {
            Self::Memory(files) => files.get(path).cloned().ok_or_else(absent),
            Self::Squashfs(image) => image.read(path),
            Self::Dir(root) => {
                let path = root.join(path);
                fs::read(&path).map_err(|source| Error::Read { path, source })
            }
        }
    }

    /// Reads a file that need not be there.
    ///
    /// # Errors
    /// It is there, but cannot be read.
    pub fn read_if_any(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Reads the `.modinfo` of an uncompressed module, touching as little of
    /// the file as the source allows.
    ///
    /// # Errors
    /// The file cannot be read, or is not a module.
    pub fn modinfo(&self, path: &str) -> Result<Modinfo, Error> {
        let fail = |source| Error::Module { path: path.into(), source };
        match self {
            Self::Dir(root) => {
                let file = File::open(root.join(path)).map_err(|e| fail(ModinfoError::Read(e)))?;
                modinfo::read(&file).map_err(fail)
            }
            Self::Memory(files) => {
                modinfo::read(files.get(path).map_or(&[][..], Vec::as_slice)).map_err(fail)
            }
            Self::Squashfs(_) => modinfo::read(self.read(path)?.as_slice()).map_err(fail),
        }
    }
}

/// Files below a directory, links to files included.
fn walk(root: &Path) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    let mut todo = vec![String::new()];
    while let Some(dir) = todo.pop() {
        let path = root.join(&dir);
        let fail = |source| Error::Read { path: path.clone(), source };
        for entry in fs::read_dir(&path).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let name = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let kind = entry.file_type().map_err(fail)?;
            if kind.is_dir() {
                todo.push(name);
            } else if kind.is_file() || (kind.is_symlink() && entry.path().is_file()) {
                found.push(name);
            }
        }
    }
    Ok(found)
}

/// A squashfs image whose files are read when they are wanted.
pub struct Squashfs {
    origin: PathBuf,
    reader: FilesystemReader<'static>,
    /// Number of each file's node.
    files: BTreeMap<String, usize>,
    /// Targets of symbolic links.
    links: BTreeMap<String, String>,
}

impl fmt::Debug for Squashfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Squashfs").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// Where live media keep the images of their root; each directory's in the
/// order of their names.
const IMAGE_DIRS: [&str; 8] =
    ["live", "casper", "LiveOS", "arch/x86_64", "arch/aarch64", "loopbacks", "install/stage2", ""];

/// The squashfs images on a medium: path, offset and length.
fn images(path: &Path) -> Result<Vec<(String, u64, u64)>, Error> {
    let fail = |e: IsoError| Error::Container { path: path.into(), why: e.to_string() };
    let file = File::open(path).map_err(|source| Error::Read { path: path.into(), source })?;
    let iso = Iso::open(file).map_err(fail)?;
    let mut found = Vec::new();
    for dir in IMAGE_DIRS {
        let nodes = match iso.find(dir).and_then(|node| iso.list(&node)) {
            Ok(nodes) => nodes,
            Err(IsoError::NotFound(_) | IsoError::Kind(_)) => continue,
            Err(e) => return Err(fail(e)),
        };
        let mut nodes: Vec<_> = nodes.into_iter().filter(|node| !node.is_dir).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        for node in nodes {
            let ends = [".squashfs", ".sfs", ".sqfs", ".img"];
            if let Some(at) =
                node.offset().filter(|_| ends.iter().any(|end| node.name.ends_with(end)))
                && node.len() > 96
            {
                found.push((format!("{dir}/{}", node.name), at, node.len()));
            }
        }
    }
    Ok(found)
}

impl Squashfs {
    fn open(path: &Path) -> Result<Self, Error> {
        let len = fs::metadata(path).map_err(|source| Error::Read { path: path.into(), source })?;
        Self::open_part(path, 0, len.len())
    }

    /// Opens an image that is part of a file.
    fn open_part(path: &Path, at: u64, len: u64) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let reader =
            FilesystemReader::from_reader(BufReader::new(Section::new(file, at, len))).map_err(
                |e| Error::Container { path: path.into(), why: format!("squashfs: {}", why(&e)) },
            )?;
        let (mut files, mut links) = (BTreeMap::new(), BTreeMap::new());
        for (n, node) in reader.files().enumerate() {
            let Some(name) = node.fullpath.to_str() else { continue };
            let name = name.trim_start_matches('/').to_owned();
            match &node.inner {
                InnerNode::File(_) => drop(files.insert(name, n)),
                InnerNode::Symlink(link) => {
                    links.insert(name, link.link.to_string_lossy().into_owned());
                }
                _ => {}
            }
        }
        Ok(Self { origin: path.into(), reader, files, links })
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        let fail = |source| Error::Read { path: self.origin.join(path), source };
        let mut name = path.to_owned();
        // As many links in a row as the kernel follows.
        for _ in 0..40 {
            let Some(target) = self.links.get(&name) else { break };
            name = join(&name, target);
        }
        let node = self.files.get(&name).and_then(|n| self.reader.files().nth(*n));
        let Some(InnerNode::File(file)) = node.map(|node| &node.inner) else {
            return Err(fail(io::ErrorKind::NotFound.into()));
        };
        let reader = self.reader.file(file).reader_checked();
        let reader = reader.map_err(|e| fail(io::Error::other(why(&e))))?;
        let mut out = Vec::new();
        reader.take(FILE_MAX as u64 + 1).read_to_end(&mut out).map_err(fail)?;
        if out.len() > FILE_MAX {
            return Err(fail(io::ErrorKind::FileTooLarge.into()));
        }
        Ok(out)
    }
}

/// What is wrong with a squashfs: the library is built without its own words.
fn why(error: &BackhandError) -> String {
    match error {
        BackhandError::StdIo(error) => error.to_string(),
        BackhandError::UnsupportedCompression(_) => {
            "packed by lzo or lzma; repack it with gzip, xz, zstd or lz4".to_owned()
        }
        BackhandError::UnsupportedSquashfsVersion(major, minor) => {
            format!("version {major}.{minor} of the format; only 4.0 is read")
        }
        _ => "damaged, or cut short".to_owned(),
    }
}

/// The path that a symbolic link at `from` leads to.
fn join(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = match target.starts_with('/') {
        true => Vec::new(),
        false => from.rsplit_once('/').map_or(Vec::new(), |(dir, _)| dir.split('/').collect()),
    };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// What kind of thing modules were taken from.
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

/// A kernel's modules and where they come from.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The modules.
    pub tree: KernelTree,
    /// What the container's own modprobe.d says. Empty for a directory,
    /// which has none.
    pub conf: ModprobeConf,
    /// What they were taken from.
    pub kind: Kind,
}

/// Finds the one kernel's modules in whatever a path means. `release`
/// chooses among several kernels.
///
/// # Errors
/// It cannot be read, has no modules, or has several kernels' without one
/// being chosen.
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
    let (source, kind) = if magic == b"!<arch>\n" {
        (Source::memory(read_deb(path)?), Kind::Deb)
    } else if magic.starts_with(b"hsqs") {
        (Source::Squashfs(Arc::new(Squashfs::open(path)?)), Kind::Squashfs)
    } else {
        let bytes = fs::read(path).map_err(fail)?;
        let initrd = Initrd::open(&bytes, Limits::default())
            .map_err(|source| Error::Initrd { path: path.into(), source })?;
        let tree = initrd.tree();
        let links = tree.iter().filter(|(_, entry)| entry.symlink().is_some());
        let links = links.map(|(path, _)| (*path).to_owned()).collect();
        let kept = tree.iter().filter(|(path, entry)| entry.is_file() && wanted(path));
        let kept = kept.map(|(path, entry)| ((*path).to_owned(), entry.data.to_vec())).collect();
        (Source::memory(kept), Kind::Initrd { links })
    };
    from_container(path, source, kind, release)
}

/// The first image on a medium that has the modules.
fn open_iso(path: &Path, release: Option<&str>) -> Result<Kernel, Error> {
    let mut refused = None;
    for (name, at, len) in images(path)? {
        let mut magic = [0; 4];
        let read = File::open(path)
            .and_then(|mut file| file.seek(SeekFrom::Start(at)).map(|_| file))
            .and_then(|mut file| file.read_exact(&mut magic));
        read.map_err(|source| Error::Read { path: path.into(), source })?;
        if magic != *b"hsqs" {
            continue;
        }
        let image = Squashfs::open_part(path, at, len)?;
        let source = Source::Squashfs(Arc::new(image));
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
    source: Source,
    kind: Kind,
    release: Option<&str>,
) -> Result<Kernel, Error> {
    let paths: Vec<&String> = match &source {
        Source::Memory(files) => files.keys().collect(),
        Source::Squashfs(image) => image.files.keys().collect(),
        Source::Dir(_) => Vec::new(),
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

/// Which files of a container are worth keeping.
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

/// Finds the `lib/modules/VERSION` directory that a path means: itself, or
/// the one below it.
fn open_dir(path: &Path, release: Option<&str>) -> Result<Kernel, Error> {
    let is_tree = |dir: &Path| {
        ["modules.order", "modules.dep", "modules.builtin", "kernel"]
            .iter()
            .any(|name| dir.join(name).exists())
    };
    fs::read_dir(path).map_err(|source| Error::Read { path: path.into(), source })?;
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
    // The directory is called like the release, unless reached by a link.
    let dir = fs::canonicalize(&dir).map_err(|source| Error::Read { path: dir, source })?;
    let tree = KernelTree::load(Source::Dir(dir), "")?;
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

/// The modules of a Debian package: deb(5), an ar archive with a tar in it.
fn read_deb(path: &Path) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let bad = |why: &str| Error::Container { path: path.into(), why: format!(".deb: {why}") };
    let fail = |source: io::Error| bad(&source.to_string());
    let file = File::open(path).map_err(fail)?;
    let mut left = file.metadata().map_err(fail)?.len();
    let mut file = BufReader::new(file);
    let mut head = [0; 8];
    file.read_exact(&mut head).map_err(fail)?;
    left = left.saturating_sub(8);
    loop {
        // Name in 16 bytes, size in decimal at 48, and a two-byte mark.
        let mut member = [0; 60];
        file.read_exact(&mut member).map_err(|_| bad("it has no data.tar, or is cut short"))?;
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
        if !name.starts_with("data.tar") {
            // Members start on even offsets.
            let skip = size + size % 2;
            left = left.saturating_sub(skip);
            io::copy(&mut file.by_ref().take(skip), &mut io::sink()).map_err(fail)?;
            continue;
        }
        let codec = match name.strip_prefix("data.tar").unwrap_or_default() {
            "" => Codec::None,
            ".gz" => Codec::Gzip,
            ".xz" => Codec::Xz,
            ".zst" => Codec::Zstd,
            other => return Err(bad(&format!("its data.tar{other} is not read"))),
        };
        let data = compress::reader(codec, file.take(size)).map_err(fail)?;
        return read_tar(data).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => bad("its data.tar is cut short"),
            _ => fail(e),
        });
    }
}

/// Files of a tar stream that are worth keeping.
fn read_tar(from: impl Read) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut kept = BTreeMap::new();
    let mut left = KEPT_MAX as u64;
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
