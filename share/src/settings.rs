//! What each client keeps on this machine: `--keep-settings`.
//!
//! Every client, known by its hardware address, has a disk of its own here with an ext4
//! file system, made when it is first asked for. A medium that is an image can be had as
//! a disk that may be written, too: what a client changes is in a file of its own, the
//! image is never touched. The files are sparse, below one directory, and named after
//! the address.
//!
//! A client is given its own and nobody else's: the kernel's table of neighbours says
//! which address it has. That stops accidents and not a person who forges addresses on
//! one's own network; NBD has no passwords.

use crate::dhcp::message::Mac;
use crate::error::Error;
use crate::tree::ReadAt;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::unistd::{Whence, lseek};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

/// Bytes that a client's disk seems to have; it takes what is written to it.
pub const SIZE: u64 = 4 << 30;
/// Clients that may keep something.
const MAX_KEPT: usize = 1000;
/// What a client's own disk is called, before its address with dashes.
pub const KEEP: &str = "keep-";
/// What is between a medium's name and the address, for a disk over the medium.
const OVER: &str = "-for-";
/// Bytes that are changed together.
const BLOCK: u64 = 4096;
const MAGIC: &[u8; 16] = b"bellwether cow 1";
/// Where the map of changed blocks begins.
const MAP_AT: u64 = 4096;

/// A disk that clients have over NBD.
pub enum Disk {
    /// A medium.
    Medium(Arc<dyn ReadAt>, u64),
    /// A client's own; it stays locked.
    Kept(Flock<File>, u64),
    /// A medium with what a client changed.
    Changed(Changes),
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("size", &self.size()).finish_non_exhaustive()
    }
}

impl Disk {
    /// Bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Medium(_, size) | Self::Kept(_, size) => *size,
            Self::Changed(changes) => changes.size,
        }
    }

    /// Nothing can be written.
    pub fn read_only(&self) -> bool {
        matches!(self, Self::Medium(..))
    }

    /// Reads; the range must be on the disk.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Medium(image, _) => image.read_exact_at(buffer, offset),
            Self::Kept(file, _) => FileExt::read_exact_at(&**file, buffer, offset),
            Self::Changed(changes) => changes.read(offset, buffer),
        }
    }

    /// Writes; the range must be on the disk.
    ///
    /// # Errors
    /// The system's; a medium cannot be written.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Medium(..) => Err(io::ErrorKind::PermissionDenied.into()),
            Self::Kept(file, _) => FileExt::write_all_at(&**file, data, offset),
            Self::Changed(changes) => changes.write(offset, data),
        }
    }

    /// Returns when everything that was written is on this machine's disk.
    ///
    /// # Errors
    /// The system's.
    pub fn flush(&self) -> io::Result<()> {
        match self {
            Self::Medium(..) => Ok(()),
            Self::Kept(file, _) => file.sync_data(),
            Self::Changed(changes) => changes.file.sync_data(),
        }
    }

    /// Gives back what a range takes; best effort, as the protocol says.
    pub fn trim(&self, offset: u64, length: u64) {
        if let (Self::Kept(file, _), Ok(offset), Ok(length)) =
            (self, i64::try_from(offset), i64::try_from(length))
            && length > 0
        {
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // Some file systems have no holes: then it takes what it takes.
            let _ = fallocate(&**file, hole, offset, length);
        }
    }
}

/// A medium with what one client changed.
pub struct Changes {
    below: Arc<dyn ReadAt>,
    size: u64,
    file: Flock<File>,
    /// Blocks that are in the file, a bit each. The file has the same map.
    map: Mutex<Vec<u8>>,
    data_at: u64,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Changes {
    /// Opens what a client changed, or begins with nothing.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::InvalidData`] when the changes are of another
    /// medium.
    pub fn open(
        file: Flock<File>,
        below: Arc<dyn ReadAt>,
        size: u64,
        identity: u64,
    ) -> io::Result<Self> {
        let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
        let length = usize::try_from(size.div_ceil(BLOCK).div_ceil(8)).map_err(|_| too_large())?;
        let mut map = vec![0; length];
        let data_at = (MAP_AT + length as u64).next_multiple_of(BLOCK);
        let head = [&MAGIC[..], &identity.to_be_bytes(), &size.to_be_bytes()].concat();
        if file.metadata()?.len() == 0 {
            FileExt::write_all_at(&*file, &head, 0)?;
            file.set_len(data_at.checked_add(size).ok_or_else(too_large)?)?;
        } else {
            let mut there = vec![0; head.len()];
            FileExt::read_exact_at(&*file, &mut there, 0)?;
            if there != head {
                let why = "what was changed belongs to another version of the medium: reset it";
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            FileExt::read_exact_at(&*file, &mut map, MAP_AT)?;
        }
        Ok(Self { below, size, file, map: Mutex::new(map), data_at })
    }

    /// Calls back for each piece of a range that is in one block: block, place on the
    /// disk, place in the range.
    fn pieces(
        offset: u64,
        length: usize,
        mut each: impl FnMut(u64, u64, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0usize;
        while done < length {
            let at = offset.saturating_add(done as u64);
            let left = usize::try_from(BLOCK - at % BLOCK).unwrap_or(1).min(length - done);
            each(at / BLOCK, at, done..done + left)?;
            done += left;
        }
        Ok(())
    }

    fn is_changed(map: &[u8], block: u64) -> bool {
        let byte = usize::try_from(block / 8).ok().and_then(|at| map.get(at));
        byte.is_some_and(|byte| byte & (1 << (block % 8)) != 0)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        Self::pieces(offset, buffer.len(), |block, at, place| {
            let part = buffer.get_mut(place).unwrap_or_default();
            match Self::is_changed(&map, block) {
                true => FileExt::read_exact_at(&*self.file, part, self.data_at + at),
                false => self.below.read_exact_at(part, at),
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        Self::pieces(offset, data.len(), |block, at, place| {
            let part = data.get(place).unwrap_or_default();
            if Self::is_changed(&map, block) {
                return FileExt::write_all_at(&*self.file, part, self.data_at + at);
            }
            // The rest of the block comes from the medium.
            let begin = block * BLOCK;
            let length = BLOCK.min(self.size - begin);
            let mut whole = vec![0; usize::try_from(length).unwrap_or(0)];
            if part.len() < whole.len() {
                self.below.read_exact_at(&mut whole, begin)?;
            }
            let from = usize::try_from(at - begin).unwrap_or(0);
            let to = whole.get_mut(from..from + part.len());
            to.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(part);
            FileExt::write_all_at(&*self.file, &whole, self.data_at + begin)?;
            let byte = usize::try_from(block / 8).ok().and_then(|at| map.get_mut(at));
            let byte = byte.ok_or(io::ErrorKind::InvalidInput)?;
            *byte |= 1 << (block % 8);
            // The data first, and then the word that it is there.
            FileExt::write_all_at(&*self.file, &[*byte], MAP_AT + block / 8)
        })
    }
}

impl ReadAt for Flock<File> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        ReadAt::read_exact_at(&**self, buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        (**self).length()
    }

    fn file(&self) -> Option<&File> {
        Some(self)
    }
}

/// What one client keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its address, with dashes.
    pub mac: String,
    /// Bytes that it takes here.
    pub bytes: u64,
    /// Seconds since it was last written.
    pub age: u64,
    /// Somebody has it now.
    pub used: bool,
}

impl Kept {
    /// As an object of JSON.
    pub fn to_json(&self) -> String {
        let Self { mac, bytes, age, used } = self;
        format!("{{\"mac\":\"{mac}\",\"bytes\":{bytes},\"seconds\":{age},\"used\":{used}}}")
    }
}

/// A medium that can be had as a disk.
#[derive(Clone)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub image: Arc<dyn ReadAt>,
    /// How many.
    pub size: u64,
    /// Tells it from others.
    pub identity: u64,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a client does not get a disk.
#[derive(Debug)]
pub enum Refused {
    /// There is none of that name.
    Unknown,
    /// It is for another machine.
    NotYours(String),
    /// It cannot be opened; in words.
    Broken(String),
}

/// Every disk that is served.
#[derive(Debug, Default)]
pub struct Disks {
    /// Media.
    pub images: Vec<Image>,
    /// Where clients' disks are; nothing when they keep nothing.
    pub kept: Option<Store>,
    open: Mutex<BTreeMap<String, Weak<Disk>>>,
}

impl Disks {
    /// All of these.
    pub fn new(images: Vec<Image>, kept: Option<Store>) -> Self {
        Self { images, kept, open: Mutex::default() }
    }

    /// The disks that everybody may have.
    pub fn names(&self) -> Vec<String> {
        self.images.iter().map(|image| image.name.clone()).collect()
    }

    /// The disk of this name, for the client with this address.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn open(&self, name: &str, client: &str) -> Result<Arc<Disk>, Refused> {
        if let Some(image) = self.images.iter().find(|image| image.name == name) {
            return Ok(Arc::new(Disk::Medium(image.image.clone(), image.size)));
        }
        let store = self.kept.as_ref().ok_or(Refused::Unknown)?;
        let below = |image: &Image| {
            let mac = name.strip_prefix(&image.name)?.strip_prefix(OVER)?;
            Some((mac, Some(image.clone())))
        };
        let own = name.strip_prefix(KEEP).map(|mac| (mac, None));
        let found = own.or_else(|| self.images.iter().find_map(below));
        let (mac, image) = found.ok_or(Refused::Unknown)?;
        let mac = plain(mac).ok_or(Refused::Unknown)?;
        if plain(client) != Some(mac) {
            return Err(Refused::NotYours(format!("it is of {mac}, and you are {client}")));
        }
        // Several connections to one disk have to see the same.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, disk| disk.strong_count() > 0);
        if let Some(disk) = open.get(name).and_then(Weak::upgrade) {
            return Ok(disk);
        }
        let disk = store.open(mac, image.as_ref()).map_err(|e| Refused::Broken(e.to_string()))?;
        let disk = Arc::new(disk);
        open.insert(name.to_owned(), Arc::downgrade(&disk));
        Ok(disk)
    }
}

/// An address in either of its spellings.
fn plain(text: &str) -> Option<Mac> {
    text.replace('-', ":").parse().ok()
}

fn dashed(mac: Mac) -> String {
    mac.to_string().replace(':', "-")
}

/// The directory with what clients keep.
#[derive(Debug, Clone)]
pub struct Store {
    /// Where it is.
    pub dir: PathBuf,
}

impl Store {
    /// The store below a state directory; it is made when it is not there.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn below(state: &Path) -> Result<Self, Error> {
        let dir = state.join("settings");
        fs::create_dir_all(&dir).map_err(Error::write(&dir))?;
        Ok(Self { dir })
    }

    fn open(&self, mac: Mac, image: Option<&Image>) -> io::Result<Disk> {
        let name = match image {
            None => format!("{}.img", dashed(mac)),
            Some(image) => format!("{}.{}.cow", dashed(mac), image.name),
        };
        let path = self.dir.join(name);
        if !path.exists() {
            if fs::read_dir(&self.dir)?.count() >= MAX_KEPT {
                return Err(io::Error::other("too many machines keep something here"));
            }
            if image.is_none() {
                make(&path)?;
            }
        }
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = lock(file?)?;
        let size = file.metadata()?.len();
        Ok(match image {
            None => Disk::Kept(file, size),
            Some(i) => Disk::Changed(Changes::open(file, i.image.clone(), i.size, i.identity)?),
        })
    }

    /// Who keeps what, by address.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Vec<Kept>, Error> {
        let mut found: BTreeMap<String, Kept> = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).map_err(Error::read(&self.dir))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((mac, kind)) = name.split_once('.') else { continue };
            let Some(mac) = plain(mac).filter(|_| kind == "img" || kind.ends_with(".cow")) else {
                continue;
            };
            let Ok(meta) = entry.metadata() else { continue };
            let age = meta.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            let age = age.map_or(0, |age| age.as_secs());
            let used = File::open(entry.path()).is_ok_and(|file| lock(file).is_err());
            let new = Kept { mac: dashed(mac), bytes: 0, age, used: false };
            let kept = found.entry(dashed(mac)).or_insert(new);
            kept.bytes = kept.bytes.saturating_add(meta.blocks().saturating_mul(512));
            kept.age = kept.age.min(age);
            kept.used |= used;
        }
        Ok(found.into_values().collect())
    }

    fn files(&self, mac: &str) -> Result<Vec<PathBuf>, Error> {
        let mac = plain(mac).ok_or_else(|| Error::Medium {
            why: format!("'{mac}' is no hardware address, as in 52:54:00:12:34:56"),
        })?;
        let own = |entry: &fs::DirEntry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.split_once('.').is_some_and(|(word, _)| plain(word) == Some(mac))
        };
        let all = fs::read_dir(&self.dir).map_err(Error::read(&self.dir))?.flatten();
        let files: Vec<PathBuf> = all.filter(own).map(|entry| entry.path()).collect();
        match files.is_empty() {
            true => Err(Error::Medium { why: format!("{mac} keeps nothing here") }),
            false => Ok(files),
        }
    }

    /// Forgets what a client keeps.
    ///
    /// # Errors
    /// It keeps nothing, or is using it.
    pub fn reset(&self, mac: &str) -> Result<(), Error> {
        let files = self.files(mac)?;
        for path in &files {
            let file = File::open(path).map_err(Error::read(path))?;
            drop(lock(file).map_err(Error::write(path))?);
        }
        files.iter().try_for_each(|path| fs::remove_file(path).map_err(Error::write(path)))
    }

    /// A client's own disk.
    ///
    /// # Errors
    /// It has none, or is using it.
    pub fn image(&self, mac: &str) -> Result<Flock<File>, Error> {
        let files = self.files(mac)?;
        let image = files.iter().find(|path| path.extension().is_some_and(|ext| ext == "img"));
        let image = image.ok_or_else(|| Error::Medium {
            why: format!("{mac} has no disk of its own here, only changes of a medium"),
        })?;
        lock(File::open(image).map_err(Error::read(image))?).map_err(Error::read(image))
    }

    /// Copies a client's own disk to a file that takes no more room than it has to.
    ///
    /// # Errors
    /// It has none, is using it, or the file cannot be written.
    pub fn export(&self, mac: &str, to: &Path) -> Result<(), Error> {
        let from = self.image(mac)?;
        let out =
            File::options().write(true).create_new(true).open(to).map_err(Error::write(to))?;
        sparse_copy(&from, &out).map_err(Error::write(to))
    }
}

/// A file that nobody else has open here. Two programs on one file system would
/// destroy it.
fn lock(file: File) -> io::Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => io::Error::other("it is being used"),
        error => error.into(),
    })
}

/// Copies what is there, and leaves out what is not.
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

/// Where the next data or the next hole is; nothing behind the last of them.
fn seek(file: &File, from: u64, to: Whence) -> io::Result<Option<u64>> {
    let from = i64::try_from(from).map_err(|_| io::ErrorKind::FileTooLarge)?;
    match lseek(file, from, to) {
        Ok(at) => Ok(u64::try_from(at).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// A new disk with an empty file system.
fn make(path: &Path) -> io::Result<()> {
    let new = path.with_extension("new");
    File::create(&new)?.set_len(SIZE)?;
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-F", "-L", "settings", "-E", "lazy_itable_init=1,lazy_journal_init=1"]);
    mkfs.args(["-m", "0"]).arg(&new).stdin(Stdio::null()).stdout(Stdio::null());
    // Root's path has it, others' may not.
    mkfs.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    let done = mkfs.output();
    let failed = match &done {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(e) => Some(e.to_string()),
    };
    if let Some(why) = failed {
        // An image without a file system must not look like one.
        let _ = fs::remove_file(&new);
        return Err(io::Error::other(format!("mkfs.ext4 (of e2fsprogs) failed: {why}")));
    }
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: &str = "52:54:00:12:34:56";

    fn disks(dir: &Path) -> (Disks, Vec<u8>) {
        let bytes: Vec<u8> = (0..100_000u32).map(|n| (n / 7) as u8).collect();
        let image = Image {
            name: "debian".into(),
            image: Arc::new(bytes.clone()),
            size: bytes.len() as u64,
            identity: 5,
        };
        (Disks::new(vec![image], Some(Store::below(dir).unwrap())), bytes)
    }

    #[test]
    fn a_client_has_its_own_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (disks, _) = disks(dir.path());
        let name = "keep-52-54-00-12-34-56";
        let error = disks.open(name, "52:54:00:12:34:57").unwrap_err();
        assert!(matches!(error, Refused::NotYours(_)), "{error:?}");
        assert!(matches!(disks.open(name, "10.0.0.7"), Err(Refused::NotYours(_))));
        for unknown in ["keep-../x", "keep-", "other", "debian-for-x", "", "/etc/passwd"] {
            assert!(matches!(disks.open(unknown, MAC), Err(Refused::Unknown)), "{unknown}");
        }
        let store = disks.kept.clone().unwrap();
        assert!(store.list().unwrap().is_empty());
        let disk = disks.open(name, MAC).unwrap();
        let again = disks.open(name, MAC).unwrap();
        assert!(Arc::ptr_eq(&disk, &again));
        let mut magic = [0; 2];
        disk.read(0x438, &mut magic).unwrap();
        assert_eq!((disk.size(), magic), (SIZE, [0x53, 0xef]), "no ext4");
        disk.write(SIZE - 3, b"end").unwrap();
        disk.flush().unwrap();
        let [kept] = store.list().unwrap().try_into().unwrap();
        assert!(kept.used && kept.bytes < 200 << 20 && kept.mac == "52-54-00-12-34-56", "{kept:?}");
        assert!(store.reset(MAC).unwrap_err().to_string().contains("being used"));
        drop((disk, again));
        let copy = dir.path().join("copy");
        store.export("52-54-00-12-34-56", &copy).unwrap();
        let copied = File::open(&copy).unwrap();
        let mut end = [0; 3];
        FileExt::read_exact_at(&copied, &mut end, SIZE - 3).unwrap();
        let meta = copied.metadata().unwrap();
        assert!(&end == b"end" && meta.len() == SIZE && meta.blocks() * 512 < 200 << 20);
        store.reset(MAC).unwrap();
        assert!(store.list().unwrap().is_empty());
        assert!(store.reset(MAC).unwrap_err().to_string().contains("keeps nothing"));
        assert!(store.reset("../..").is_err());
    }

    #[test]
    fn changes_of_a_medium_stay_and_the_medium_too() {
        let dir = tempfile::tempdir().unwrap();
        let (disks, mut wanted) = disks(dir.path());
        let name = "debian-for-52-54-00-12-34-56";
        let untouched = wanted.clone();
        for (offset, data) in [(4090u64, &[1u8; 20][..]), (99_990, &[2; 10]), (0, &[3; 4096])] {
            let disk = disks.open(name, MAC).unwrap();
            disk.write(offset, data).unwrap();
            disk.flush().unwrap();
            wanted[offset as usize..offset as usize + data.len()].copy_from_slice(data);
            // Every time it is opened anew.
            drop(disk);
            let disk = disks.open(name, MAC).unwrap();
            let mut all = vec![0; wanted.len()];
            disk.read(0, &mut all).unwrap();
            assert_eq!(all, wanted);
        }
        let medium = disks.open("debian", "10.0.0.7").unwrap();
        let mut all = vec![0; untouched.len()];
        medium.read(0, &mut all).unwrap();
        assert_eq!(all, untouched);
        assert!(medium.write(0, b"x").is_err() && medium.read_only());
        // The same name, and another medium.
        let mut other = Disks::new(disks.images.clone(), disks.kept.clone());
        other.images[0].identity = 6;
        assert!(matches!(other.open(name, MAC), Err(Refused::Broken(_))));
    }
}
