//! A read-only file tree, read from an image or a directory.
//!
//! All directories are read once, bounded; file contents stay in place and are read by offset.
//! Every node has a number that stays the same after a restart ([`FileId`]), so that clients'
//! handles stay valid.
//!
//! Not done: noticing that a directory changes while it is shared (new files are not seen;
//! deleted ones give an error when read).

use crate::beneath::Directory;
use crate::error::Error;
use coldplug::index::fnmatch;
pub use cpio_builder::iso::Extent;
use cpio_builder::iso::read_extents;
pub use cpio_builder::zisofs::Packed;
use rustix::fs::{AtFlags, Dir, FileType, Stat, fstat, readlinkat, statat};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most files and directories that a medium may have.
pub const MAX_NODES: usize = 2_000_000;
/// The deepest directory.
pub const MAX_DEPTH: usize = 128;
/// Most files of a directory that only their owner or group may read: each takes a descriptor.
pub const MAX_HELD: usize = 1000;
/// Most files that a search gives, or looks into.
const MAX_FOUND: usize = 4096;
/// Directories below the root in which images of live systems are.
const IMAGE_DEPTH: usize = 3;
/// Most path components still to be followed, links included.
const MAX_PARTS: usize = 4096;

/// The first bytes of a file that is stored compressed, of both versions (zisofs-format.txt of
/// libisofs).
const ZISOFS: [[u8; 8]; 2] = [
    [0x37, 0xe4, 0x53, 0x96, 0xc9, 0xdb, 0xd6, 0x07],
    [0xef, 0x22, 0x55, 0xa1, 0xbc, 0x1b, 0x95, 0xa0],
];

/// Random access to an image.
pub trait ReadAt: Send + Sync {
    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// The system's read error; [`io::ErrorKind::UnexpectedEof`] past the end.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Its length in bytes.
    ///
    /// # Errors
    /// The system's error from fstat(2) or a seek.
    fn length(&self) -> io::Result<u64>;

    /// The file behind it, for sendfile(2).
    fn file(&self) -> Option<&File> {
        None
    }
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        use std::io::{Seek, SeekFrom};
        let meta = self.metadata()?;
        if meta.is_file() {
            return Ok(meta.len());
        }
        // A drive's metadata says 0.
        let mut file = self;
        file.seek(SeekFrom::End(0))
    }

    fn file(&self) -> Option<&File> {
        Some(self)
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|from| self.get(from..));
        let bytes = from.and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// A node's number, unique in its tree and the same after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u64);

/// Where a node is in its tree. Only valid for the tree it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct At(u32);

/// The kinds of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory; its children sorted by name.
    Directory(Vec<At>),
    /// A file in the image.
    Extents(Vec<Extent>),
    /// A file in the image that is stored compressed.
    Packed(Vec<Extent>, Packed),
    /// A file, by its path below the directory that is shared.
    Path(PathBuf),
    /// A symbolic link's target.
    Link(Vec<u8>),
    /// A device, pipe or socket; only its existence is shown.
    Special,
}

/// Bytes of a file that lie in one piece in a file of this machine.
#[derive(Debug)]
pub struct Piece<'t> {
    file: Held<'t>,
    /// Where in it.
    pub offset: u64,
    /// How many.
    pub length: usize,
}

#[derive(Debug)]
enum Held<'t> {
    Open(&'t File),
    /// Opened for this piece.
    Own(File),
}

impl<'t> Piece<'t> {
    /// Bytes of an open file.
    pub fn of(file: &'t File, offset: u64, length: usize) -> Self {
        Self { file: Held::Open(file), offset, length }
    }

    /// The file that holds them.
    pub fn file(&self) -> &File {
        self.file.file()
    }
}

impl Held<'_> {
    fn file(&self) -> &File {
        match self {
            Held::Open(file) => file,
            Held::Own(file) => file,
        }
    }
}

/// A file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub id: FileId,
    /// Name in its directory; empty for the root.
    pub name: Vec<u8>,
    /// Permission bits, without the type.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last change, seconds since 1970.
    pub mtime: i64,
    /// Bytes, for files and links.
    pub size: u64,
    /// Its kind.
    pub kind: Kind,
}

/// A file tree. See the module.
pub struct Tree {
    /// Hash of the tree's source; tells one medium from another.
    pub identity: u64,
    nodes: Vec<Node>,
    parents: Vec<At>,
    by_id: HashMap<FileId, At>,
    source: Source,
}

/// Where the bytes of a tree's files are.
enum Source {
    Image(Arc<dyn ReadAt>),
    /// A directory, and the files in it that are open since the start.
    Directory(Directory, HashMap<At, File>),
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree")
            .field("identity", &self.identity)
            .field("nodes", &self.nodes.len())
            .finish_non_exhaustive()
    }
}

/// FNV-1a: the same on every machine and in every version, which the standard
/// library's hashers do not promise.
pub fn hash(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter().chain(&[0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A tree being read.
pub(crate) struct Builder {
    nodes: Vec<Node>,
    parents: Vec<At>,
}

impl Builder {
    pub(crate) fn new(root: Node) -> Self {
        Self { nodes: vec![root], parents: vec![At(0)] }
    }

    /// Adds a node to a directory. `None` when there are too many.
    pub(crate) fn add(&mut self, parent: At, node: Node) -> Option<At> {
        let at = At(u32::try_from(self.nodes.len()).ok().filter(|n| *n < MAX_NODES as u32)?);
        self.nodes.push(node);
        self.parents.push(parent);
        match self.nodes.get_mut(parent.0 as usize).map(|node| &mut node.kind) {
            Some(Kind::Directory(children)) => children.push(at),
            _ => return None,
        }
        Some(at)
    }

    /// A tree with its files in an image.
    pub(crate) fn finish(self, identity: u64, image: Arc<dyn ReadAt>) -> Tree {
        self.with(identity, Source::Image(image))
    }

    fn with(mut self, identity: u64, source: Source) -> Tree {
        let order: HashMap<At, Vec<u8>> =
            (0u32..).zip(&self.nodes).map(|(n, node)| (At(n), node.name.clone())).collect();
        for node in &mut self.nodes {
            if let Kind::Directory(children) = &mut node.kind {
                children.sort_by(|a, b| order.get(a).cmp(&order.get(b)));
                // Of two with one name the first counts: clients could not tell them apart.
                children.dedup_by(|a, b| order.get(a) == order.get(b));
            }
        }
        let mut by_id = HashMap::with_capacity(self.nodes.len());
        for (n, node) in (0u32..).zip(&self.nodes) {
            by_id.entry(node.id).or_insert(At(n));
        }
        Tree { identity, nodes: self.nodes, parents: self.parents, by_id, source }
    }
}

impl Tree {
    /// The root directory.
    pub const ROOT: At = At(0);

    /// Reads a directory and everything below it, across file systems. Symbolic links stay
    /// links.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read, [`Error::Medium`] when it has more than
    /// [`MAX_NODES`] entries.
    pub fn of_directory(path: &Path) -> Result<Self, Error> {
        Self::read(path, false)
    }

    /// The same for a process that gives up root later: files that only their owner or group may
    /// read are opened now, and stay open.
    ///
    /// # Errors
    /// As [`Tree::of_directory`]; [`Error::Medium`] for more than [`MAX_HELD`] of these files.
    pub fn of_directory_as_root(path: &Path) -> Result<Self, Error> {
        Self::read(path, true)
    }

    fn read(path: &Path, hold: bool) -> Result<Self, Error> {
        let path = path.canonicalize().map_err(Error::read(path))?;
        let root = Directory::open(&path)?;
        let stat = |e: rustix::io::Errno| Error::read(&path)(e.into());
        let about = fstat(&root).map_err(stat)?;
        let identity = hash(&[
            path.as_os_str().as_encoded_bytes(),
            &about.st_dev.to_be_bytes(),
            &about.st_ino.to_be_bytes(),
        ]);
        let mut builder = Builder::new(node_of(&about, Vec::new(), Kind::Directory(Vec::new())));
        let mut held = HashMap::new();
        // Users without a group of their own may pass a directory, and read a file.
        let passes = |about: &Stat| about.st_mode & 0o1 != 0;
        let reads = |about: &Stat| about.st_mode & 0o4 != 0;
        let mut todo = vec![(Self::ROOT, PathBuf::new(), passes(&about))];
        while let Some((at, below, reached)) = todo.pop() {
            let whole = path.join(&below);
            let failed = |e: rustix::io::Errno| Error::read(&whole)(e.into());
            let here = if below.as_os_str().is_empty() { Path::new(".") } else { &below };
            let dir = root.directory(here).map_err(Error::read(&whole))?;
            for entry in Dir::read_from(&dir).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                let about = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                let below = below.join(OsStr::from_bytes(name.to_bytes()));
                let file_type = FileType::from_raw_mode(about.st_mode);
                let kind = match file_type {
                    FileType::Directory => Kind::Directory(Vec::new()),
                    FileType::RegularFile => Kind::Path(below.clone()),
                    FileType::Symlink => {
                        Kind::Link(readlinkat(&dir, name, Vec::new()).map_err(failed)?.into_bytes())
                    }
                    _ => Kind::Special,
                };
                let child = builder.add(at, node_of(&about, name.to_bytes().to_vec(), kind));
                let child = child.ok_or_else(|| Error::Medium {
                    why: format!("more than {MAX_NODES} files: share a smaller directory"),
                })?;
                match file_type {
                    FileType::Directory if below.components().count() <= MAX_DEPTH => {
                        todo.push((child, below, reached && passes(&about)));
                    }
                    FileType::RegularFile if hold && !(reached && reads(&about)) => {
                        if held.len() >= MAX_HELD {
                            return Err(too_private(&path));
                        }
                        let file = root.file(&below);
                        held.insert(child, file.map_err(Error::read(path.join(&below)))?);
                    }
                    _ => {}
                }
            }
        }
        Ok(builder.with(identity, Source::Directory(root, held)))
    }

    /// A node. Every [`At`] of this tree has one.
    pub fn node(&self, at: At) -> Option<&Node> {
        self.nodes.get(at.0 as usize)
    }

    /// The node with this number.
    pub fn find(&self, id: FileId) -> Option<At> {
        self.by_id.get(&id).copied()
    }

    /// The parent of a node; the root is its own.
    pub fn parent(&self, at: At) -> At {
        self.parents.get(at.0 as usize).copied().unwrap_or(Self::ROOT)
    }

    /// The children of a directory, sorted by name; empty for other nodes.
    pub fn children(&self, at: At) -> &[At] {
        match self.node(at).map(|node| &node.kind) {
            Some(Kind::Directory(children)) => children,
            _ => &[],
        }
    }

    /// The child of this name, including `.` and `..`.
    pub fn lookup(&self, at: At, name: &[u8]) -> Option<At> {
        match name {
            b"." => Some(at),
            b".." => Some(self.parent(at)),
            _ => {
                let children = self.children(at);
                let name_of = |at: &At| self.node(*at).map_or(&[][..], |node| &node.name);
                let found = children.binary_search_by(|at| name_of(at).cmp(name)).ok()?;
                children.get(found).copied()
            }
        }
    }

    /// Follows a path from the root, symbolic links inside the tree included. `..` at the root
    /// stays at the root.
    pub fn walk(&self, path: &str) -> Option<At> {
        let mut todo: Vec<Vec<u8>> = split(path.as_bytes());
        let mut at = Self::ROOT;
        let mut links = 0;
        while let Some(name) = todo.pop() {
            let next = self.lookup(at, &name)?;
            match self.node(next).map(|node| &node.kind) {
                Some(Kind::Link(target)) => {
                    links += 1;
                    if links > 40 || todo.len() > MAX_PARTS {
                        return None;
                    }
                    if target.starts_with(b"/") {
                        at = Self::ROOT;
                    }
                    todo.extend(split(target));
                }
                _ => at = next,
            }
        }
        Some(at)
    }

    /// The file at a path, with its size.
    pub fn file(&self, path: &str) -> Option<(At, u64)> {
        let at = self.walk(path)?;
        let node = self.node(at)?;
        matches!(node.kind, Kind::Extents(_) | Kind::Packed(..) | Kind::Path(_))
            .then_some((at, node.size))
    }

    /// The child of a directory by name, ignoring case, as boot loaders look up files on ISO
    /// 9660.
    pub fn walk_ignoring_case(&self, path: &str) -> Option<At> {
        self.walk(path).or_else(|| {
            split(path.as_bytes()).into_iter().rev().try_fold(Self::ROOT, |at, name| {
                self.children(at).iter().copied().find(|child| {
                    self.node(*child).is_some_and(|node| node.name.eq_ignore_ascii_case(&name))
                })
            })
        })
    }

    /// The paths that fit a pattern, sorted: `*` and `?` stand for parts of one name, and case does
    /// not count. At most 4096.
    pub fn matching(&self, pattern: &str) -> Vec<String> {
        let mut found = vec![Self::ROOT];
        for part in split(pattern.to_ascii_lowercase().as_bytes()).into_iter().rev() {
            let fits = |at: &At| {
                let name = self.node(*at).map(|node| node.name.to_ascii_lowercase());
                name.is_some_and(|name| fnmatch(&part, &name))
            };
            let children = found.iter().flat_map(|at| self.children(*at)).copied();
            found = children.filter(fits).take(MAX_FOUND).collect();
        }
        found.into_iter().map(|at| self.path(at)).collect()
    }

    /// Files that are an image of a file system (squashfs, erofs), the largest first. Only those
    /// near the root are looked at, and no more than 4096.
    pub fn images(&self) -> Vec<String> {
        self.near_root(|at| self.is_image(at))
    }

    /// Files near the root that are stored compressed (zisofs) and were copied as they are.
    pub fn packed(&self) -> Vec<String> {
        let mut head = [0; ZISOFS[0].len()];
        self.near_root(|at| self.read_at(at, 0, &mut head).is_ok() && ZISOFS.contains(&head))
    }

    fn near_root(&self, mut fits: impl FnMut(At) -> bool) -> Vec<String> {
        let mut looked = 0;
        let mut found = Vec::new();
        let mut todo = vec![(Self::ROOT, 0)];
        while let Some((dir, depth)) = todo.pop() {
            for at in self.children(dir) {
                let Some(node) = self.node(*at) else { continue };
                match &node.kind {
                    Kind::Directory(_) if depth < IMAGE_DEPTH => todo.push((*at, depth + 1)),
                    Kind::Extents(_) | Kind::Packed(..) | Kind::Path(_) if looked < MAX_FOUND => {
                        looked += 1;
                        if fits(*at) {
                            found.push((node.size, self.path(*at)));
                        }
                    }
                    _ => {}
                }
            }
        }
        found.sort_by(|a, b| b.cmp(a));
        found.into_iter().map(|(_, path)| path).collect()
    }

    fn is_image(&self, at: At) -> bool {
        let is = |offset, magic: [u8; 4]| {
            let mut head = [0; 4];
            self.read_at(at, offset, &mut head).is_ok_and(|read| read == 4) && head == magic
        };
        // erofs: EROFS_SUPER_MAGIC_V1 behind 1 KiB.
        is(0, *b"hsqs") || is(1024, 0xe0f5_e1e2u32.to_le_bytes())
    }

    /// The path of a node, from the root, with a leading `/`.
    pub fn path(&self, at: At) -> String {
        let mut parts = Vec::new();
        let mut at = at;
        while at != Self::ROOT && parts.len() <= MAX_DEPTH * 2 {
            let name = self.node(at).map(|node| String::from_utf8_lossy(&node.name));
            parts.push(name.unwrap_or_default());
            at = self.parent(at);
        }
        parts.reverse();
        format!("/{}", parts.join("/"))
    }

    /// Reads a file from `offset` on; returns how many bytes, fewer than requested only at the
    /// end of the file.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a node that is not a file; else the system's error:
    /// the medium was removed, or the image is truncated.
    pub fn read_at(&self, at: At, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let node = self.node(at).ok_or(io::ErrorKind::NotFound)?;
        let wanted = node.size.saturating_sub(offset).min(buffer.len() as u64);
        let buffer = buffer.get_mut(..usize::try_from(wanted).unwrap_or(0)).unwrap_or_default();
        match (&node.kind, &self.source) {
            (Kind::Extents(extents), Source::Image(image)) => {
                let read = |buffer: &mut [u8], at| image.read_exact_at(buffer, at);
                read_extents(&read, extents, buffer, offset)?;
                Ok(buffer.len())
            }
            (Kind::Packed(extents, packed), Source::Image(image)) => {
                let read = |buffer: &mut [u8], at| image.read_exact_at(buffer, at);
                let stored = |buffer: &mut [u8], at| read_extents(&read, extents, buffer, at);
                packed.read_exact_at(buffer, offset, &stored)?;
                Ok(buffer.len())
            }
            (Kind::Path(path), Source::Directory(root, held)) => match held.get(&at) {
                Some(file) => read_file(file, offset, buffer),
                None => read_file(&root.file(path)?, offset, buffer),
            },
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Where at most `length` bytes of a file lie in one piece, for sendfile(2); `None` where that is
    /// not known, and at the file's end.
    pub fn piece(&self, at: At, offset: u64, length: usize) -> Option<Piece<'_>> {
        let node = self.node(at)?;
        let piece = |file, from: u64, together: u64| {
            let length = length.min(usize::try_from(together).unwrap_or(usize::MAX));
            (length > 0).then_some(Piece { file, offset: from, length })
        };
        match (&node.kind, &self.source) {
            (Kind::Extents(extents), Source::Image(image)) => {
                let mut skip = offset;
                for extent in extents {
                    if let Some(left) = extent.length.checked_sub(skip).filter(|left| *left > 0) {
                        let from = extent.start.checked_add(skip)?;
                        return piece(Held::Open(image.file()?), from, left);
                    }
                    skip -= extent.length;
                }
                None
            }
            (Kind::Path(path), Source::Directory(root, held)) => {
                let file = match held.get(&at) {
                    Some(file) => Held::Open(file),
                    None => Held::Own(root.file(path).ok()?),
                };
                // It may have been cut short, or have grown, since the start.
                let length = file.file().metadata().ok()?.len().min(node.size);
                piece(file, offset, length.checked_sub(offset)?)
            }
            _ => None,
        }
    }

    /// Reads a whole file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Tree::read_at`]; also when the file is larger.
    pub fn read_all(&self, at: At, limit: u64) -> io::Result<Vec<u8>> {
        let size = self.node(at).map_or(0, |node| node.size);
        if size > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?];
        let read = self.read_at(at, 0, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is only the root.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() <= 1
    }
}

/// The parts of a path, last first.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    parts.rev().map(<[u8]>::to_vec).collect()
}

fn too_private(path: &Path) -> Error {
    Error::Medium {
        why: format!(
            "more than {MAX_HELD} files of {0} are closed to other users, and the server does not \
             stay root to read them: 'chmod -R a+rX {0}', or share an ISO image of it",
            path.display()
        ),
    }
}

fn node_of(about: &Stat, name: Vec<u8>, kind: Kind) -> Node {
    Node {
        // Inode numbers of several file systems below one directory may collide.
        id: FileId(about.st_ino ^ about.st_dev.rotate_left(40)),
        name,
        permissions: about.st_mode & 0o7777,
        uid: about.st_uid,
        gid: about.st_gid,
        mtime: about.st_mtime,
        size: match kind {
            Kind::Directory(_) => 4096,
            _ => u64::try_from(about.st_size).unwrap_or(0),
        },
        kind,
    }
}

fn read_file(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beneath::tests::every_kind;
    use std::os::unix::fs::PermissionsExt as _;

    fn sample() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("live/sub")).unwrap();
        std::fs::write(dir.path().join("live/a"), b"hello").unwrap();
        std::fs::write(dir.path().join("live/sub/b"), b"").unwrap();
        std::os::unix::fs::symlink("live", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("../../../../etc/passwd", dir.path().join("live/out")).unwrap();
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        dir
    }

    #[test]
    fn a_directory_as_a_tree() {
        let dir = sample();
        let tree = Tree::of_directory(dir.path()).unwrap();
        let again = Tree::of_directory(dir.path()).unwrap();
        assert_eq!(tree.identity, again.identity);
        let (a, size) = tree.file("/live/a").unwrap();
        assert_eq!(size, 5);
        assert_eq!(tree.path(a), "/live/a");
        assert_eq!(
            again.find(tree.node(a).unwrap().id).map(|at| again.path(at)).unwrap(),
            "/live/a"
        );
        assert_eq!(tree.file("//link//a"), Some((a, 5)));
        assert_eq!(tree.file("/LIVE/A"), None);
        assert_eq!(tree.walk_ignoring_case("/LIVE/A"), Some(a));
        let mut buffer = [0; 9];
        assert_eq!(tree.read_at(a, 1, &mut buffer).unwrap(), 4);
        assert_eq!(&buffer[..4], b"ello");
        assert_eq!(tree.read_at(a, 9, &mut buffer).unwrap(), 0);
        assert!(tree.read_at(Tree::ROOT, 0, &mut buffer).is_err());
    }

    #[test]
    fn nothing_leads_out() {
        let dir = sample();
        let tree = Tree::of_directory(dir.path()).unwrap();
        assert_eq!(tree.walk("/live/out"), None);
        assert_eq!(tree.walk("/../.."), Some(Tree::ROOT));
        assert_eq!(tree.walk("/../../etc/passwd"), None);
        assert_eq!(tree.walk("/loop"), None);
    }

    /// Whatever takes the place of a shared file after the start, nothing else is read, and at
    /// once.
    #[test]
    fn a_file_that_was_replaced_is_not_read() {
        let dir = sample();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("a"), b"secret").unwrap();
        std::fs::create_dir(dir.path().join("closed")).unwrap();
        std::fs::write(dir.path().join("closed/own"), b"owner's").unwrap();
        std::fs::set_permissions(
            dir.path().join("closed/own"),
            std::fs::Permissions::from_mode(0o600),
        )
        .unwrap();
        let tree = Tree::of_directory_as_root(dir.path()).unwrap();
        let (a, _) = tree.file("/live/a").unwrap();
        let mut buffer = [0; 9];
        let at = dir.path().join("live/a");
        for (name, make) in every_kind(&outside.path().join("a")) {
            std::fs::remove_file(&at).or_else(|_| std::fs::remove_dir(&at)).ok();
            make(&at);
            assert!(tree.read_at(a, 0, &mut buffer).is_err(), "{name}");
        }
        std::fs::remove_dir_all(dir.path().join("live")).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("live")).unwrap();
        let error = tree.read_at(a, 0, &mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        // What only its owner may read was opened at the start.
        let (own, _) = tree.file("/closed/own").unwrap();
        std::fs::remove_dir_all(dir.path().join("closed")).unwrap();
        assert_eq!(tree.read_at(own, 0, &mut buffer).unwrap(), 7);
        assert_eq!(&buffer[..7], b"owner's");
    }

    #[test]
    fn extents_are_one_file() {
        let image: Vec<u8> = (0..100).collect();
        let extents = [Extent { start: 10, length: 4 }, Extent { start: 50, length: 3 }];
        let read = |buffer: &mut [u8], at| ReadAt::read_exact_at(&image, buffer, at);
        let mut buffer = [0; 5];
        read_extents(&read, &extents, &mut buffer, 2).unwrap();
        assert_eq!(buffer, [12, 13, 50, 51, 52]);
        assert!(read_extents(&read, &extents, &mut buffer, 3).is_err());
    }
}
