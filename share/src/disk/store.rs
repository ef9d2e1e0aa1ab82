//! The clients' files: each client's own disk, and its changes to media.
//!
//! The files are sparse, below one directory that only its owner may read, and named after the
//! client's hardware address. A file in use is locked (`flock`).

use super::cow::Cow;
use super::device::Disk;
use super::space::Space;
use crate::beneath::Directory;
use crate::error::Error;
use crate::tree::ReadAt;
use cmdline::json::Json;
use cmdline::plan::Mac;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Whence, lseek};
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt, MetadataExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::SystemTime;

/// Time of the last write to a disk that was never written to, in seconds since 1970.
const NEVER: i64 = 0;
/// Size of a client's own disk in bytes. Its sparse file takes only the blocks written.
pub const SIZE: u64 = 4 << 30;
/// What a new disk takes of it, about.
const SIZE_NEW: u64 = 4 << 20;
/// Modes of the directory and the files: they hold the clients' keys and passwords.
const PRIVATE_DIR: u32 = 0o700;
const PRIVATE: u32 = 0o600;
/// Most files of clients.
const MAX_FILES: usize = 1000;

/// The files of one client in a [`Store`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// Its hardware address, with dashes.
    pub mac: String,
    /// Bytes that they occupy on this machine's disk.
    pub bytes: u64,
    /// Seconds since the last write.
    pub age: u64,
    /// A client has one of them open.
    pub used: bool,
}

impl ClientFiles {
    /// A JSON object.
    pub fn to_json(&self) -> String {
        let mut json = Json::new();
        json.object().field("mac", &self.mac).count("bytes", self.bytes);
        json.count("seconds", self.age).flag("used", self.used).end_object();
        json.finish()
    }
}

/// A medium that is offered as a disk.
#[derive(Clone)]
pub struct Image {
    /// The medium's name, and the disk's.
    pub name: String,
    /// Its image.
    pub image: Arc<dyn ReadAt>,
    /// Its size in bytes.
    pub size: u64,
    /// The medium's fingerprint, which tells it from others ([`crate::tree::Tree`]).
    pub identity: u64,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The directory with the clients' files.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    space: Arc<Space>,
    /// An empty disk, which new clients get a copy of.
    empty: Option<Arc<File>>,
}

impl Store {
    /// The store below a state directory, made if it does not exist. What exists is made private.
    /// All files together may take `quota` bytes; half of the file system without one.
    ///
    /// # Errors
    /// [`Error::File`] when the directory cannot be created or made private.
    pub fn below(state: &Path, quota: Option<u64>) -> Result<Self, Error> {
        let dir = state.join("settings");
        fs::create_dir_all(state).map_err(Error::write(state))?;
        match fs::DirBuilder::new().mode(PRIVATE_DIR).create(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::write(&dir)(e));
            }
            _ => {}
        }
        let private = Permissions::from_mode(PRIVATE_DIR);
        fs::set_permissions(&dir, private).map_err(Error::write(&dir))?;
        let held = Directory::open(&dir)?;
        for entry in fs::read_dir(&dir).map_err(Error::read(&dir))?.flatten() {
            // Links are not the server's, nor a file that has a second name elsewhere.
            let Ok(file) = held.file(Path::new(&entry.file_name())) else { continue };
            if file.metadata().is_ok_and(|about| about.nlink() == 1) {
                let private = file.set_permissions(Permissions::from_mode(PRIVATE));
                private.map_err(Error::write(entry.path()))?;
            }
        }
        let shown = dir.canonicalize().unwrap_or_else(|_| dir.clone());
        let space = Arc::new(Space::new(&dir, &shown, quota));
        Ok(Self { dir, space, empty: None })
    }

    /// A warning when the room for the files became scarce since the last call.
    pub fn warning(&self) -> Option<String> {
        self.space.warning()
    }

    /// The same, able to make disks for new clients. `mkfs.ext4` runs now: no program can be
    /// started while clients are served.
    ///
    /// # Errors
    /// [`Error::File`] when the disk cannot be made.
    pub fn for_new_clients(self) -> Result<Self, Error> {
        let path = self.dir.join("empty.new");
        let made = make(&path);
        // Only this process has the file; it goes with the process.
        let gone = fs::remove_file(&path);
        let file = made.and_then(|file| gone.map(|()| file)).map_err(Error::write(&path))?;
        Ok(Self { empty: Some(Arc::new(file)), ..self })
    }

    pub(crate) fn open(&self, mac: Mac, image: Option<&Image>) -> io::Result<Disk> {
        // The names are part of the format: docs/share-disks.md.
        let name = match image {
            None => format!("{}.img", mac.dashed()),
            Some(image) => format!("{}.{}.cow", mac.dashed(), image.name),
        };
        let path = self.dir.join(name);
        if !path.exists() {
            if fs::read_dir(&self.dir)?.count() >= MAX_FILES && !self.forget_unused()? {
                return Err(io::Error::other(format!(
                    "{MAX_FILES} files of clients are kept, and no more; reset some"
                )));
            }
            self.space.admit(SIZE_NEW, || false)?;
            if image.is_none() {
                self.make_for(&path).map_err(|e| self.space.named(e))?;
            }
        }
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(PRIVATE);
        let file = options.open(&path);
        let file = lock(file?)?;
        let size = file.metadata()?.len();
        Ok(match image {
            None => Disk::Own(file, size, self.space.clone()),
            Some(i) => {
                let cow = Cow::open(file, i.image.clone(), i.size, i.identity)?;
                Disk::Cow(cow, self.space.clone())
            }
        })
    }

    /// Makes a client's disk: a copy of the empty one.
    fn make_for(&self, path: &Path) -> io::Result<()> {
        let empty = self.empty.as_ref();
        let empty = empty.ok_or_else(|| io::Error::other("there is no empty disk"))?;
        let new = path.with_extension("new");
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(true).mode(PRIVATE).open(&new)?;
        let done = sparse_copy(empty, &file)
            .and_then(|()| file.set_modified(SystemTime::UNIX_EPOCH))
            .and_then(|()| fs::rename(&new, path));
        if done.is_err() {
            // The error before is the one to tell.
            let _ = fs::remove_file(&new);
        }
        done
    }

    /// Deletes a disk that was made for a client and never written to: forged addresses leave
    /// such disks. False when there is none.
    fn forget_unused(&self) -> io::Result<bool> {
        for entry in fs::read_dir(&self.dir)?.flatten() {
            let unused = entry.metadata().is_ok_and(|meta| meta.mtime() == NEVER);
            if unused && File::open(entry.path()).and_then(lock).is_ok() {
                fs::remove_file(entry.path())?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Every client that has files here, by address.
    ///
    /// # Errors
    /// [`Error::File`] when the directory cannot be read.
    pub fn list(&self) -> Result<Vec<ClientFiles>, Error> {
        let mut found: BTreeMap<String, ClientFiles> = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).map_err(Error::read(&self.dir))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((mac, kind)) = name.split_once('.') else { continue };
            let Some(mac) =
                mac.parse::<Mac>().ok().filter(|_| kind == "img" || kind.ends_with(".cow"))
            else {
                continue;
            };
            let Ok(meta) = entry.metadata() else { continue };
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
            let written = if meta.mtime() == NEVER { meta.ctime() } else { meta.mtime() };
            let age = u64::try_from(now.saturating_sub(written)).unwrap_or(0);
            let used = File::open(entry.path()).is_ok_and(|file| lock(file).is_err());
            let new = ClientFiles { mac: mac.dashed(), bytes: 0, age, used: false };
            let kept = found.entry(mac.dashed()).or_insert(new);
            kept.bytes = kept.bytes.saturating_add(meta.blocks().saturating_mul(512));
            kept.age = kept.age.min(age);
            kept.used |= used;
        }
        Ok(found.into_values().collect())
    }

    fn files(&self, mac: &str) -> Result<Vec<PathBuf>, Error> {
        let mac = mac.parse::<Mac>().ok().ok_or_else(|| Error::Medium {
            why: format!("'{mac}' is not a hardware address such as 52:54:00:12:34:56"),
        })?;
        let own = |entry: &fs::DirEntry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.split_once('.').is_some_and(|(word, _)| word.parse() == Ok(mac))
        };
        let all = fs::read_dir(&self.dir).map_err(Error::read(&self.dir))?.flatten();
        let files: Vec<PathBuf> = all.filter(own).map(|entry| entry.path()).collect();
        match files.is_empty() {
            true => Err(Error::Medium { why: format!("{mac} has no files here") }),
            false => Ok(files),
        }
    }

    /// Deletes a client's files.
    ///
    /// # Errors
    /// [`Error::Medium`] when the client has no files; [`Error::File`] when one is open or cannot
    /// be deleted.
    pub fn reset(&self, mac: &str) -> Result<(), Error> {
        let files = self.files(mac)?;
        for path in &files {
            let file = File::open(path).map_err(Error::read(path))?;
            drop(lock(file).map_err(Error::write(path))?);
        }
        files.iter().try_for_each(|path| fs::remove_file(path).map_err(Error::write(path)))
    }

    /// Opens and locks a client's own disk.
    ///
    /// # Errors
    /// [`Error::Medium`] when the client has no disk; [`Error::File`] when it is in use.
    pub fn image(&self, mac: &str) -> Result<Flock<File>, Error> {
        let files = self.files(mac)?;
        let image = files.iter().find(|path| path.extension().is_some_and(|ext| ext == "img"));
        let image = image.ok_or_else(|| Error::Medium {
            why: format!("{mac} has no disk of its own here, only changes to a medium"),
        })?;
        lock(File::open(image).map_err(Error::read(image))?).map_err(Error::read(image))
    }

    /// Copies a client's own disk to a new sparse file.
    ///
    /// # Errors
    /// As [`Store::image`]; [`Error::File`] when `to` exists or cannot be written.
    pub fn export(&self, mac: &str, to: &Path) -> Result<(), Error> {
        let from = self.image(mac)?;
        let mut options = File::options();
        let out = options.write(true).create_new(true).mode(PRIVATE).open(to);
        let out = out.map_err(Error::write(to))?;
        sparse_copy(&from, &out).map_err(Error::write(to))
    }
}

/// Locks a file exclusively: two writers destroy a file system.
fn lock(file: File) -> io::Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => io::Error::other("the client has it open"),
        error => error.into(),
    })
}

/// Copies the data and skips the holes.
fn sparse_copy(from: &File, to: &File) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let end = from.metadata()?.len();
    to.set_len(end)?;
    let mut at = 0;
    while let Some(data) = seek(from, at, Whence::SeekData)? {
        let hole = seek(from, data, Whence::SeekHole)?.unwrap_or(end).min(end);
        at = data;
        while at < hole {
            let length = usize::try_from(hole - at).unwrap_or(usize::MAX).min(buffer.len());
            let part = buffer.get_mut(..length).unwrap_or_default();
            FileExt::read_exact_at(from, part, at)?;
            FileExt::write_all_at(to, part, at)?;
            at += length as u64;
        }
    }
    Ok(())
}

/// Offset of the next data or the next hole; `None` after the last.
fn seek(file: &File, from: u64, to: Whence) -> io::Result<Option<u64>> {
    let from = i64::try_from(from).map_err(|_| io::ErrorKind::FileTooLarge)?;
    match lseek(file, from, to) {
        Ok(at) => Ok(u64::try_from(at).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Makes a disk with an empty file system.
fn make(new: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(PRIVATE).open(new)?.set_len(SIZE)?;
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-F", "-L", "settings", "-E", "lazy_itable_init=1,lazy_journal_init=1"]);
    mkfs.args(["-m", "0"]).arg(new).stdin(Stdio::null()).stdout(Stdio::null());
    // Root's PATH has /sbin, other users' may not.
    mkfs.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    let done = mkfs.output();
    let failed = match &done {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(e) => Some(e.to_string()),
    };
    match failed {
        Some(why) => Err(io::Error::other(format!("mkfs.ext4 (of e2fsprogs) failed: {why}"))),
        None => File::open(new),
    }
}
