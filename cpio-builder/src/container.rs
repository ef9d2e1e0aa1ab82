//! Files with paths below one root: a directory, memory, or a squashfs image.
//!
//! A squashfs is read file by file; nothing is unpacked to disk.

use crate::error::Error;
use crate::iso::{self, Iso, IsoError, Section};
use crate::modinfo::{self, Modinfo, ModinfoError};
use backhand::{BackhandError, BufReadSeek, FilesystemReader, InnerNode};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest file read from a container.
const FILE_MAX: usize = 512 << 20;

/// A set of files with paths relative to its root.
#[derive(Debug, Clone)]
pub enum Container {
    /// A directory.
    Dir(PathBuf),
    /// Files in memory.
    Memory(Arc<BTreeMap<String, Vec<u8>>>),
    /// A squashfs image.
    Squashfs(Arc<Squashfs>),
}

impl Container {
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
    /// [`Error::Read`] when the directory cannot be read.
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
    /// [`Error::Read`] when the file is missing or unreadable, [`Error::Container`] for a
    /// damaged squashfs or a file that is too large.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        let absent = || Error::Read { path: path.into(), source: io::ErrorKind::NotFound.into() };
        match self {
            Self::Memory(files) => files.get(path).cloned().ok_or_else(absent),
            Self::Squashfs(image) => image.read(path),
            Self::Dir(root) => {
                let path = root.join(path);
                fs::read(&path).map_err(Error::read(&path))
            }
        }
    }

    /// Reads a file that may be missing.
    ///
    /// # Errors
    /// [`Error::Read`] when the file exists but cannot be read.
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
    /// [`Error::Read`] or [`Error::Module`] when the file cannot be read or is not a module.
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

/// Opens arbitrary bytes as a squashfs and reads what is in it; for fuzzers.
///
/// # Panics
/// When a file is longer than asked for.
pub fn fuzz(data: &[u8]) {
    const MOST: usize = 1 << 16;
    let Ok(image) = Squashfs::of(Path::new("a.squashfs"), io::Cursor::new(data.to_vec())) else {
        return;
    };
    for path in image.paths().take(16) {
        let bytes = image.read_most(path, MOST).unwrap_or_default();
        assert!(bytes.len() <= MOST, "{path}: {} bytes", bytes.len());
    }
}

/// A squashfs image, of which only requested files are read.
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

/// Where live media have the images of their root, each directory's sorted by name.
const IMAGE_DIRS: [&str; 8] =
    ["live", "casper", "LiveOS", "arch/x86_64", "arch/aarch64", "loopbacks", "install/stage2", ""];

/// The squashfs images on a medium: path, offset and length.
pub(crate) fn images(path: &Path) -> Result<Vec<(String, u64, u64)>, Error> {
    let fail = |e: IsoError| Error::Container { path: path.into(), why: e.to_string() };
    let file = File::open(path).map_err(Error::read(path))?;
    let iso = Iso::open(file).map_err(fail)?;
    let mut found = Vec::new();
    for dir in IMAGE_DIRS {
        let nodes = match iso.find(dir).and_then(|node| iso.list(&node)) {
            Ok(nodes) => nodes,
            Err(IsoError::NotFound(_) | IsoError::Kind(_)) => continue,
            Err(e) => return Err(fail(e)),
        };
        let mut nodes: Vec<_> =
            nodes.into_iter().filter(|node| node.kind == iso::Kind::File).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        for node in nodes {
            let ends = [".squashfs", ".sfs", ".sqfs", ".img"];
            if let Some(at) =
                node.offset().filter(|_| ends.iter().any(|end| node.name.ends_with(end.as_bytes())))
                && node.len() > 96
            {
                found.push((format!("{dir}/{}", node.text()), at, node.len()));
            }
        }
    }
    Ok(found)
}

/// Reads the tables of a squashfs image: all of them, or only its length where its compression is
/// not read here (LZO, LZMA). Does not read the files' data.
///
/// # Errors
/// [`Error::Container`] when it is cut or damaged.
pub fn check_squashfs(path: &Path) -> Result<(), Error> {
    let file = File::open(path).map_err(Error::read(path))?;
    let there = file.metadata().map_err(Error::read(path))?.len();
    let mut head = Vec::new();
    file.take(96).read_to_end(&mut head).map_err(Error::read(path))?;
    // Documentation/filesystems/squashfs: the superblock's `compression_id` and `bytes_used`.
    let field = |at: usize, length: usize| -> u64 {
        let bytes = head.get(at..at + length).unwrap_or_default();
        bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    let used = field(40, 8);
    if used > there || head.len() < 96 {
        let why = format!("it is cut: {there} of {used} bytes are there");
        return Err(Error::Container { path: path.into(), why });
    }
    // gzip, xz, lz4, zstd.
    match field(20, 2) {
        1 | 4 | 5 | 6 => Squashfs::open(path).map(drop),
        _ => Ok(()),
    }
}

impl Squashfs {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let len = fs::metadata(path).map_err(Error::read(path))?;
        Self::open_part(path, 0, len.len())
    }

    /// Opens an image that is part of a file.
    pub(crate) fn open_part(path: &Path, at: u64, len: u64) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::read(path))?;
        Self::of(path, BufReader::new(Section::new(file, at, len)))
    }

    fn of(path: &Path, image: impl BufReadSeek + 'static) -> Result<Self, Error> {
        let reader = FilesystemReader::from_reader(image).map_err(|e| Error::Container {
            path: path.into(),
            why: format!("squashfs: {}", why(&e)),
        })?;
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

    /// Paths of its files, sorted.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &String> {
        self.files.keys()
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.read_most(path, FILE_MAX)
    }

    fn read_most(&self, path: &str, most: usize) -> Result<Vec<u8>, Error> {
        let fail = |source| Error::Read { path: self.origin.join(path), source };
        let node =
            self.files.get(&follow(path, &self.links)).and_then(|n| self.reader.files().nth(*n));
        let Some(InnerNode::File(file)) = node.map(|node| &node.inner) else {
            return Err(fail(io::ErrorKind::NotFound.into()));
        };
        let reader = self.reader.file(file).reader_checked();
        let reader = reader.map_err(|e| fail(io::Error::other(why(&e))))?;
        let mut out = Vec::new();
        reader.take(most as u64 + 1).read_to_end(&mut out).map_err(fail)?;
        if out.len() > most {
            return Err(fail(io::ErrorKind::FileTooLarge.into()));
        }
        Ok(out)
    }
}

/// Why a squashfs cannot be read: the library is built without its error texts.
fn why(error: &BackhandError) -> String {
    match error {
        BackhandError::StdIo(error) => error.to_string(),
        BackhandError::UnsupportedCompression(_) => {
            "packed by lzo or lzma; repack it with gzip, xz, zstd or lz4".to_owned()
        }
        BackhandError::UnsupportedSquashfsVersion(major, minor) => {
            format!("version {major}.{minor} of the format; only 4.0 is read")
        }
        _ => "damaged or truncated".to_owned(),
    }
}

/// The path of a file where symbolic links lead, those to directories on the way included.
#[must_use]
pub fn follow(path: &str, links: &BTreeMap<String, String>) -> String {
    let mut path = path.to_owned();
    // The kernel's limit on chained links.
    for _ in 0..40 {
        let mut parts = path.match_indices('/').map(|(at, _)| path.split_at(at));
        let link = |(dir, rest): (&str, &str)| Some(join(dir, links.get(dir)?) + rest);
        let Some(next) = parts.find_map(link).or_else(|| link((&path, ""))) else { break };
        path = next;
    }
    path
}

/// The path that a symbolic link at `from` points to.
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
