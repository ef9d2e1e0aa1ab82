//! Opens what is shared, and nothing beside it.
//!
//! A user of this machine may change a shared directory at any time: replace a directory by a
//! link to `/etc`, or a file by a pipe that blocks its reader. Every path below a shared directory
//! is therefore resolved from a descriptor that is held since the start, by `openat2` (Linux 5.6),
//! which follows no link and leaves no directory. What it opened must be a regular file.

use crate::error::Error;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

/// A read returns at once, whatever the file is.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// The same of a directory.
const DIRECTORY: OFlags = READ.union(OFlags::DIRECTORY);
/// No link is followed, and nothing above or beside it is reached.
const WITHIN: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A directory that is held open, and what is reached below it.
#[derive(Debug)]
pub struct Directory(OwnedFd, ResolveFlags);

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Directory {
    /// Opens a directory by the path that the user of this program gave; links in it are
    /// followed.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be opened, [`Error::Medium`] on a kernel without `openat2`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let opened = rustix::fs::open(path, DIRECTORY, Mode::empty());
        let opened = Self(opened.map_err(|e| Error::read(path)(e.into()))?, WITHIN);
        match opened.resolve(Path::new("."), DIRECTORY) {
            Ok(_) => Ok(opened),
            // EPERM: the filter of a container that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => Err(Error::Medium {
                why: format!(
                    "{} cannot be shared: only openat2 keeps readers inside a directory, and this \
                     kernel (before Linux 5.6) or this container does not have it; share an ISO \
                     image instead",
                    path.display()
                ),
            }),
            Err(e) => Err(Error::read(path)(e.into())),
        }
    }

    /// The same one, below which no other mount is reached: `XDEV` instead.
    #[must_use]
    pub fn of_one_mount(self) -> Self {
        Self(self.0, self.1 | ResolveFlags::NO_XDEV)
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        self.at(path, flags, Mode::empty())
    }

    /// Opens, or with [`OFlags::CREATE`] makes, what is there below it.
    ///
    /// # Errors
    /// The system's error; a link on the way is refused.
    pub fn at(&self, path: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        openat2(&self.0, path, flags | OFlags::CLOEXEC, mode, self.1)
    }

    /// Opens a file below it to be read.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when a link, or anything else than a regular file, is there;
    /// else the system's error.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        match self.resolve(path, READ) {
            Ok(file) if kind(&file)? == FileType::RegularFile => Ok(file.into()),
            // ENXIO: a socket. The others: a link, or a file in the place of a directory.
            Ok(_) | Err(Errno::LOOP | Errno::XDEV | Errno::NOTDIR | Errno::NXIO) => {
                let why = format!("{} is not a regular file any more", path.display());
                Err(io::Error::new(io::ErrorKind::NotFound, why))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Opens a directory below it, or itself (`.`).
    ///
    /// # Errors
    /// The system's error; a link is refused.
    pub fn directory(&self, path: &Path) -> io::Result<Self> {
        Ok(Self(self.resolve(path, DIRECTORY)?, self.1))
    }
}

fn kind(file: &impl AsFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode))
}

/// Opens an image, a drive, or another file by the path that the user of this program gave.
///
/// # Errors
/// [`Error::File`] when it cannot be opened, [`Error::Medium`] when it is neither a regular file
/// nor a drive: a pipe has no end to find a table of contents at.
pub fn image(path: &Path) -> Result<File, Error> {
    let opened = rustix::fs::open(path, READ, Mode::empty());
    let opened = opened.map_err(|e| Error::read(path)(e.into()))?;
    match kind(&opened).map_err(Error::read(path))? {
        FileType::RegularFile => Ok(opened.into()),
        // Opened to be read, the drive waits until its disc is ready, and locks its tray.
        FileType::BlockDevice => {
            File::open(format!("/proc/self/fd/{}", opened.as_raw_fd())).map_err(Error::read(path))
        }
        _ => Err(Error::Medium {
            why: format!("{} is neither a file, nor a drive, nor a directory", path.display()),
        }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    /// A kind's name, and what makes such a file.
    type Maker<'a> = (&'static str, Box<dyn Fn(&Path) + 'a>);

    /// Makes every kind of file that is not a regular one, with a name for each. Devices need
    /// root.
    pub(crate) fn every_kind(secret: &Path) -> Vec<Maker<'_>> {
        use rustix::fs::{CWD, makedev, mknodat};
        let node = |kind, device| {
            move |at: &Path| {
                let made = mknodat(CWD, at, kind, Mode::from_raw_mode(0o666), device);
                // Without root the name stays free, which is one more kind.
                assert!(made.is_ok() || made == Err(Errno::PERM), "{made:?}");
            }
        };
        vec![
            ("pipe", Box::new(node(FileType::Fifo, 0))),
            ("character device", Box::new(node(FileType::CharacterDevice, makedev(1, 5)))),
            ("block device", Box::new(node(FileType::BlockDevice, makedev(7, 0)))),
            ("socket", Box::new(|at: &Path| drop(UnixListener::bind(at).unwrap()))),
            ("directory", Box::new(|at: &Path| std::fs::create_dir(at).unwrap())),
            ("link that dangles", Box::new(|at: &Path| symlink("nothing", at).unwrap())),
            ("link to itself", Box::new(|at: &Path| symlink(at.file_name().unwrap(), at).unwrap())),
            ("link to a secret", Box::new(move |at: &Path| symlink(secret, at).unwrap())),
            ("nothing", Box::new(|_: &Path| ())),
        ]
    }

    #[test]
    fn only_regular_files_below_it_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("shared"), dir.path().join("outside"));
        std::fs::create_dir_all(inside.join("sub")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        let secret = outside.join("file");
        std::fs::write(&secret, "secret").unwrap();
        std::fs::write(inside.join("sub/file"), "shared").unwrap();
        let held = Directory::open(&inside).unwrap();
        assert!(held.file(Path::new("sub/file")).is_ok());
        for bad in
            ["", ".", "sub", "..", "../outside/file", "/etc/passwd", "sub/../../outside/file"]
        {
            assert!(held.file(Path::new(bad)).is_err(), "{bad}");
        }
        assert!(held.directory(Path::new("sub")).is_ok());
        assert!(held.directory(Path::new("sub/file")).is_err());
        assert!(Directory::open(&inside.join("sub/file")).is_err());
        // The user may name a link.
        symlink("sub/file", inside.join("link")).unwrap();
        assert_eq!(io::read_to_string(image(&inside.join("link")).unwrap()).unwrap(), "shared");
        std::fs::remove_file(inside.join("link")).unwrap();
        for (name, make) in every_kind(&secret) {
            let at = inside.join("file");
            make(&at);
            let error = held.file(Path::new("file")).unwrap_err();
            let expected = error.kind() == io::ErrorKind::NotFound
                // A device without a driver.
                || error.raw_os_error() == Some(Errno::NXIO.raw_os_error());
            assert!(expected, "{name}: {error}");
            // What the user names may be a link and a drive, but never something that blocks.
            if matches!(name, "pipe" | "character device" | "socket" | "directory") {
                assert!(image(&at).is_err(), "{name}");
            }
            let _ = std::fs::remove_file(&at).or_else(|_| std::fs::remove_dir(&at));
        }
        // A link to another file of the tree: a client was not promised that one.
        symlink("sub/file", inside.join("file")).unwrap();
        assert!(held.file(Path::new("file")).is_err());
        std::fs::remove_file(inside.join("file")).unwrap();
        // A directory on the way becomes a link.
        std::fs::rename(inside.join("sub"), inside.join("old")).unwrap();
        symlink(&outside, inside.join("sub")).unwrap();
        assert!(held.file(Path::new("sub/file")).is_err());
        assert!(held.directory(Path::new("sub")).is_err());
        // The held directory itself moves, and its old path leads elsewhere.
        std::fs::rename(&inside, dir.path().join("moved")).unwrap();
        symlink(&outside, &inside).unwrap();
        assert!(held.file(Path::new("file")).is_err());
        assert!(held.file(Path::new("old/file")).is_ok());
    }
}
