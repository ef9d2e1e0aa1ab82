//! The files that HTTP and TFTP serve, under one set of paths: boot loaders, menus and our
//! archive from memory; kernels, initramfs and media from where they are stored.

use crate::beneath::Directory;
use crate::event::Stage;
use crate::nfs::Export;
use crate::tree::{At, Piece, ReadAt, Tree};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

/// Where a file's bytes are.
#[derive(Clone)]
pub enum Content {
    /// In memory.
    Memory(Arc<[u8]>),
    /// In a medium.
    Tree(Arc<Tree>, At),
    /// A whole image.
    Image(Arc<dyn ReadAt>),
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Memory(_) => "Memory",
            Self::Tree(..) => "Tree",
            Self::Image(_) => "Image",
        })
    }
}

/// A file.
#[derive(Clone)]
pub struct File {
    /// Where its bytes are.
    pub content: Content,
    /// Its length in bytes.
    pub length: u64,
    /// Tells its content from other content under the same path (ETag).
    pub tag: String,
    /// The stage of a client that fetches it.
    pub stage: Option<Stage>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("length", &self.length).field("tag", &self.tag).finish()
    }
}

impl File {
    /// A file in memory.
    pub fn memory(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self {
            length: bytes.len() as u64,
            tag: format!("{:x}", crate::tree::hash(&[&bytes])),
            content: Content::Memory(bytes),
            stage: None,
        }
    }

    /// A file of a medium; `None` for other nodes.
    pub fn in_tree(tree: &Arc<Tree>, path: &str) -> Option<Self> {
        let (at, length) = tree.file(path)?;
        let id = tree.node(at)?.id.0;
        Some(Self {
            content: Content::Tree(tree.clone(), at),
            length,
            tag: format!("{:x}-{id:x}-{length:x}", tree.identity),
            stage: None,
        })
    }

    /// A whole image.
    pub fn image(image: Arc<dyn ReadAt>, length: u64, identity: u64) -> Self {
        Self {
            content: Content::Image(image),
            length,
            tag: format!("{identity:x}-{length:x}"),
            stage: None,
        }
    }

    /// Sets the stage of a client that fetches it.
    #[must_use]
    pub fn at(mut self, stage: Stage) -> Self {
        self.stage = Some(stage);
        self
    }

    /// Where at most `most` bytes from `offset` on lie in one piece in a file of this machine; `None`
    /// when no file holds them.
    pub fn piece(&self, offset: u64, most: usize) -> Option<Piece<'_>> {
        let left = self.length.checked_sub(offset)?;
        let most = most.min(usize::try_from(left).unwrap_or(usize::MAX));
        match &self.content {
            Content::Memory(_) => None,
            Content::Image(image) => Some(Piece::of(image.file()?, offset, most)),
            Content::Tree(tree, at) => tree.piece(*at, offset, most),
        }
    }

    /// Its beginning, at most so many bytes.
    ///
    /// # Errors
    /// As [`File::read_exact_at`].
    pub fn start(&self, most: usize) -> io::Result<Vec<u8>> {
        let mut start = vec![0; usize::try_from(self.length).unwrap_or(most).min(most)];
        self.read_exact_at(0, &mut start)?;
        Ok(start)
    }

    /// Whether its last byte can be read: an image may be cut off.
    ///
    /// # Errors
    /// As [`File::read_exact_at`].
    pub fn is_whole(&self) -> io::Result<()> {
        match self.length.checked_sub(1) {
            Some(last) => self.read_exact_at(last, &mut [0]),
            None => Ok(()),
        }
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// The system's read error; [`io::ErrorKind::UnexpectedEof`] when the file is shorter.
    pub fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match &self.content {
            Content::Memory(bytes) => {
                let from = usize::try_from(offset).ok().and_then(|from| bytes.get(from..));
                let bytes = from.and_then(|rest| rest.get(..buffer.len()));
                buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Content::Tree(tree, at) => match tree.read_at(*at, offset, buffer)? {
                read if read == buffer.len() => Ok(()),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            },
            Content::Image(image) => image.read_exact_at(buffer, offset),
        }
    }
}

/// Every file there is.
#[derive(Debug, Clone, Default)]
pub struct Files {
    named: BTreeMap<String, File>,
    exports: Vec<Export>,
    /// Directories whose content is looked up at each request: it may change.
    directory: Option<Arc<Directory>>,
}

impl Files {
    /// Adds a file under a path with a leading `/`, and replaces an earlier one.
    pub fn add(&mut self, path: &str, file: File) {
        self.named.insert(path.to_owned(), file);
    }

    /// Adds all files of a medium, below its path.
    pub fn add_tree(&mut self, export: Export) {
        self.exports.push(export);
    }

    /// Also serves the files of a directory, looked up at each request. Symbolic links in it
    /// are not followed.
    pub fn add_directory(&mut self, directory: Directory) {
        self.directory = Some(Arc::new(directory));
    }

    fn in_directory(&self, path: &str) -> Option<File> {
        let path = Path::new(path.trim_start_matches('/'));
        let file = self.directory.as_ref()?.file(path).ok()?;
        let about = file.metadata().ok()?;
        let changed = about.mtime_nsec().unsigned_abs() ^ about.mtime().unsigned_abs() << 30;
        let identity = about.ino() ^ changed;
        Some(File::image(Arc::new(file), about.len(), identity))
    }

    /// The file at a normalised path.
    pub fn find(&self, path: &str) -> Option<File> {
        if let Some(file) = self.named.get(path) {
            return Some(file.clone());
        }
        let in_medium = self.exports.iter().find_map(|export| {
            let rest = path.strip_prefix(&export.path)?;
            rest.starts_with('/').then(|| File::in_tree(&export.tree, rest))?
        });
        in_medium.or_else(|| self.in_directory(path))
    }

    /// The file that a TFTP client asks for: loaders write paths with and without a leading
    /// slash, and some with backslashes. Firmware that overlooks the end of DHCP option 67 asks
    /// for the name with the end mark 0xff behind it, which is no UTF-8.
    pub fn find_loosely(&self, name: &str) -> Option<File> {
        let find = |name: &str| {
            let name = name.replace('\\', "/").replace('%', "%25");
            self.find(&crate::http::path(&format!("/{name}"))?)
        };
        let cut = || name.split_once(char::REPLACEMENT_CHARACTER).map(|(before, _)| before);
        find(name).or_else(|| find(cut()?))
    }

    /// Every path in memory or with a file of its own.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_set_of_paths() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("live")).unwrap();
        std::fs::write(dir.path().join("live/a b"), b"hello").unwrap();
        let tree = Arc::new(Tree::of_directory(dir.path()).unwrap());
        let mut files = Files::default();
        files.add_tree(Export { path: "/debian".into(), tree });
        files.add("/pxelinux.0", File::memory(b"loader".to_vec()));
        assert_eq!(files.find_loosely("pxelinux.0").unwrap().length, 6);
        assert_eq!(files.find_loosely("\\pxelinux.0").unwrap().length, 6);
        assert_eq!(files.find_loosely("pxelinux.0\u{fffd}").unwrap().length, 6);
        assert!(files.find_loosely("\u{fffd}").is_none());
        let found = files.find("/debian/live/a b").unwrap();
        let mut buffer = [0; 4];
        found.read_exact_at(1, &mut buffer).unwrap();
        assert_eq!(&buffer, b"ello");
        assert!(found.read_exact_at(2, &mut buffer).is_err());
        assert!(files.find("/debianlive/a b").is_none());
        assert!(files.find("/debian/live").is_none());
        assert!(files.find_loosely("debian/../../etc/passwd").is_none());
    }

    #[test]
    fn a_directory_is_served_as_it_is_and_not_left() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("tree");
        std::fs::create_dir_all(inside.join("pxelinux.cfg")).unwrap();
        std::fs::write(dir.path().join("secret"), b"no").unwrap();
        std::os::unix::fs::symlink("../secret", inside.join("link")).unwrap();
        let mut files = Files::default();
        files.add_directory(Directory::open(&inside).unwrap());
        let menu = "/pxelinux.cfg/01-52-54-00-12-34-56";
        assert!(files.find(menu).is_none());
        std::fs::write(inside.join(&menu[1..]), b"DEFAULT disk").unwrap();
        let found = files.find(menu).unwrap();
        let mut buffer = [0; 7];
        found.read_exact_at(0, &mut buffer).unwrap();
        assert_eq!(&buffer, b"DEFAULT");
        std::fs::write(inside.join(&menu[1..]), b"DEFAULT copy").unwrap();
        assert_ne!(files.find(menu).unwrap().tag, found.tag);
        for bad in ["/link", "/../secret", "/pxelinux.cfg", "", "/", "/pxelinux.cfg/../../secret"] {
            assert!(files.find(bad).is_none(), "{bad}");
        }
        assert!(Directory::open(&dir.path().join("absent")).is_err());
    }
}
