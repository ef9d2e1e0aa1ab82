//! A disk or a file that a copy is written to: opened, refused with the name of what uses it,
//! and read past what the kernel remembers of it.
//!
//! Reading goes past the page cache by `O_DIRECT`, after `fdatasync`: the bytes then come from
//! the device itself. Dropping the range from the cache (`POSIX_FADV_DONTNEED`) would be no
//! proof, because the kernel may keep what it was asked to drop. A file system in memory has no
//! other place than memory; any other file system that refuses `O_DIRECT` is not read back.
//! What a disk keeps in a cache of its own cannot be seen from here.

use super::net::reason;
use crate::error::Trouble;
use crate::guard::Media;
use crate::mark::{LENGTH, Mark};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{
    Dir, FileType, Mode, OFlags, SeekFrom, Stat, fdatasync, fstat, fstatfs, fstatvfs, ftruncate,
    major, minor, open, seek, stat, unlink,
};
use rustix::io::{Errno, pread, pwrite, read};
use rustix::time::{ClockId, clock_gettime};

/// What `O_DIRECT` wants of addresses, positions and lengths; enough for every disk.
const PAGE: usize = 4096;
/// A disk is given no more than so much before it must have written it: the last flush would
/// otherwise take minutes, in which nothing is answered.
const DIRTY: u64 = 256 << 20;
/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of linux/magic.h.
const MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];
/// The most that is read of a file of the kernel's.
const LIST: usize = 1 << 20;

/// Reading, which waits for nothing.
const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);
/// Writing.
const WRITE: OFlags = OFlags::WRONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// A disk or a file.
#[derive(Debug)]
pub struct Place {
    fd: OwnedFd,
    path: String,
    room: Option<u64>,
    /// A disk, not a file.
    block: bool,
    /// A file that gets a new content.
    fresh: bool,
    /// A file that was made here, and not begun.
    made: bool,
    /// What reads it back; nothing when that cannot be done.
    reads: Option<OwnedFd>,
    /// What reads it through the page cache, once that was needed.
    cached: Option<OwnedFd>,
    /// A file that is made longer at the end, and keeps its content.
    grows: bool,
    /// The length of a file that had to be there. It keeps the rest of its content, and does not
    /// stay as long as the mark that stood in it.
    had: Option<u64>,
    buffer: Vec<u8>,
    dirty: u64,
}

impl Place {
    /// Opens a disk, or a file that is made if need be unless it must be `existing`. Neither is
    /// changed.
    ///
    /// # Errors
    /// [`Trouble::InUse`], [`Trouble::Kind`] when it is neither disk nor file, or the system's.
    pub fn open(path: &str, existing: bool) -> Result<Self, Trouble> {
        let name = || path.to_string();
        let before = stat(path).ok();
        let kind = before.as_ref().map(kind);
        let block = kind == Some(FileType::BlockDevice);
        let mut flags = WRITE;
        match kind {
            // The kernel then refuses a disk that is mounted or otherwise held.
            Some(FileType::BlockDevice) => flags |= OFlags::EXCL,
            Some(FileType::RegularFile) => {}
            // A disk's name with a mistake in it would fill the memory behind /dev.
            None if path.strip_prefix("/dev/").is_some_and(|name| !name.starts_with("shm/")) => {
                return Err(Trouble::Kind { name: name(), why: "there is no such disk" });
            }
            None if !existing => flags |= OFlags::CREATE,
            None => {
                let why = "does not exist; this protocol writes to what is there already";
                return Err(Trouble::Kind { name: name(), why });
            }
            Some(_) => {
                return Err(Trouble::Kind { name: name(), why: "is neither a disk nor a file" });
            }
        }
        let users = || before.as_ref().map(|stat| users(path, stat)).unwrap_or_default();
        let fd = open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| match e {
            Errno::BUSY | Errno::TXTBSY => {
                let by = users().join(", ");
                let by = if by.is_empty() { "something holds it".to_owned() } else { by };
                Trouble::InUse { name: name(), by }
            }
            e => system(path, "cannot be opened for writing", e),
        })?;
        // A loop device does not hold what is behind it.
        if let Some(by) = users().first() {
            return Err(Trouble::InUse { name: name(), by: by.clone() });
        }
        let failed = |e| system(path, "cannot be measured", e);
        let room = if block {
            Some(seek(&fd, SeekFrom::End(0)).map_err(failed)?)
        } else {
            let old = fstat(&fd).map_err(failed)?.st_blocks;
            let free = fstatvfs(&fd).ok();
            let free = free.map(|free| free.f_bavail.saturating_mul(free.f_frsize));
            free.map(|free| free.saturating_add(u64::try_from(old).unwrap_or(0) * 512))
        };
        let reads = reader(&fd);
        let (path, buffer) = (path.to_owned(), Vec::new());
        let (fresh, cached, grows) = (!block && !existing, None, false);
        let made = before.is_none();
        let had = before.filter(|_| !block && existing);
        let had = had.map(|stat| u64::try_from(stat.st_size).unwrap_or(0));
        Ok(Self { fd, path, room, block, fresh, made, reads, cached, grows, had, buffer, dirty: 0 })
    }

    /// As [`Place::open`], but a file keeps what it has: a copy may go on there.
    ///
    /// # Errors
    /// As [`Place::open`].
    pub fn resume(path: &str) -> Result<Self, Trouble> {
        let mut place = Self::open(path, false)?;
        place.grows = core::mem::take(&mut place.fresh);
        Ok(place)
    }

    /// Its name.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it is a disk.
    #[must_use]
    pub const fn block(&self) -> bool {
        self.block
    }

    fn failed(&self, operation: &'static str, e: Errno) -> Trouble {
        system(&self.path, operation, e)
    }

    /// The beginning of these bytes that is all zeros, or has none, in whole pages.
    fn run(bytes: &[u8]) -> (bool, &[u8]) {
        let zero = |page: &[u8]| page.len() == PAGE && page.iter().all(|b| *b == 0);
        let first = bytes.get(..bytes.len().min(PAGE)).is_some_and(zero);
        let run = bytes.chunks(PAGE).take_while(|page| zero(page) == first).map(<[u8]>::len).sum();
        (first, bytes.get(..run).unwrap_or_default())
    }
}

impl Drop for Place {
    /// Where nothing was to be written, no empty file is left.
    fn drop(&mut self) {
        if self.made && fstat(&self.fd).is_ok_and(|stat| stat.st_size == 0) {
            let _ = unlink(self.path.as_str());
        }
    }
}

fn system(path: &str, operation: &'static str, e: Errno) -> Trouble {
    let why = match e {
        Errno::NOSPC => "no space is left".to_owned(),
        Errno::ROFS => "it is read-only".to_owned(),
        Errno::IO => "input/output error: the disk is bad".to_owned(),
        e => reason(e),
    };
    Trouble::System { name: path.to_owned(), operation, why }
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// What reads past the page cache, or in memory where that is the only place.
fn reader(fd: &OwnedFd) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    if let Ok(direct) = open(&path, READ.union(OFlags::DIRECT), Mode::empty()) {
        return Some(direct);
    }
    let memory = fstatfs(fd).is_ok_and(|fs| MEMORY.contains(&fs.f_type));
    memory.then(|| open(&path, READ, Mode::empty()).ok()).flatten()
}

impl Media for Place {
    fn name(&self) -> &str {
        &self.path
    }

    fn room(&self) -> Option<u64> {
        self.room
    }

    fn begin(&mut self) -> Result<(), Trouble> {
        self.made = false;
        match self.fresh {
            true => ftruncate(&self.fd, 0).map_err(|e| self.failed("cannot be emptied", e)),
            false => Ok(()),
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<usize, Trouble> {
        let mut some = bytes;
        // Whole pages of zeros become holes, but in place of the mark.
        if self.fresh && at >= PAGE as u64 && at.is_multiple_of(PAGE as u64) {
            let (zero, run) = Self::run(bytes);
            if zero {
                return Ok(run.len());
            }
            some = run;
        }
        let n = loop {
            match pwrite(&self.fd, some, at) {
                Ok(0) => return Err(self.failed("cannot be written", Errno::NOSPC)),
                Ok(n) => break n,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(e) => return Err(self.failed("cannot be written", e)),
            }
        };
        self.dirty += n as u64;
        if self.block && self.dirty >= DIRTY {
            self.flush()?;
        }
        Ok(n)
    }

    fn end(&mut self, length: u64) -> Result<(), Trouble> {
        let short = |fd| fstat(fd).is_ok_and(|s| u64::try_from(s.st_size).unwrap_or(0) < length);
        let length = self.had.map_or(length, |had| had.max(length));
        match self.fresh || self.had.is_some() || self.grows && short(&self.fd) {
            true => ftruncate(&self.fd, length).map_err(|e| self.failed("cannot be ended", e)),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), Trouble> {
        self.dirty = 0;
        fdatasync(&self.fd).map_err(|e| self.failed("cannot be written out", e))
    }

    fn read(&mut self, at: u64, bytes: usize) -> Result<Option<&[u8]>, Trouble> {
        let Some(reads) = &self.reads else { return Ok(None) };
        let whole = bytes.next_multiple_of(PAGE);
        if self.buffer.len() < whole + PAGE {
            self.buffer.resize(whole + PAGE, 0);
        }
        let skip = self.buffer.as_ptr().align_offset(PAGE).min(PAGE);
        let room = self.buffer.get_mut(skip..skip + whole).unwrap_or_default();
        let n = loop {
            match pread(reads, &mut *room, at) {
                Ok(n) => break n.min(bytes),
                Err(Errno::INTR) => {}
                Err(Errno::INVAL) => return Ok(None),
                Err(e) => return Err(system(&self.path, "cannot be read back", e)),
            }
        };
        Ok(Some(self.buffer.get(skip..skip + n).unwrap_or_default()))
    }

    fn fetch(&mut self, at: u64, buffer: &mut [u8]) -> Result<usize, Trouble> {
        if self.cached.is_none() {
            let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
            let fd = open(&path, READ, Mode::empty());
            self.cached = Some(fd.map_err(|e| self.failed("cannot be read", e))?);
        }
        let Some(fd) = &self.cached else { return Ok(0) };
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match pread(fd, rest, at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.failed("cannot be read", e)),
            }
        }
        Ok(done)
    }

    fn clock(&self) -> u64 {
        u64::try_from(clock_gettime(ClockId::Realtime).tv_sec).unwrap_or(0)
    }
}

/// What uses a disk or a file that is to be read: a mount, swap space, a device made of it.
#[must_use]
pub fn in_use(path: &str) -> Option<String> {
    users(path, &stat(path).ok()?).into_iter().next()
}

/// The mark that this disk or file begins with, if there is one.
#[must_use]
pub fn marked(path: &str) -> Option<Mark> {
    let wanted = [FileType::BlockDevice, FileType::RegularFile];
    if !stat(path).is_ok_and(|stat| wanted.contains(&kind(&stat))) {
        return None;
    }
    Mark::read(&list(path, LENGTH)?)
}

/// The beginning of a file.
fn list(path: &str, most: usize) -> Option<Vec<u8>> {
    let file = open(path, READ, Mode::empty()).ok()?;
    let (mut all, mut part) = (Vec::new(), [0; PAGE]);
    while all.len() < most {
        let room = part.len().min(most - all.len());
        match read(&file, part.get_mut(..room)?) {
            Ok(0) => break,
            Ok(n) => all.extend_from_slice(part.get(..n)?),
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(all)
}

fn text(path: &str) -> String {
    String::from_utf8_lossy(&list(path, LIST).unwrap_or_default()).trim_end().to_owned()
}

/// The names in a directory.
fn names(path: &str) -> Vec<String> {
    let dir = open(path, READ.union(OFlags::DIRECTORY), Mode::empty()).and_then(Dir::new);
    let entries = dir.into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.starts_with('.')).collect()
}

/// What uses this disk, one of its partitions, or this file: each in words.
fn users(path: &str, of: &Stat) -> Vec<String> {
    if kind(of) != FileType::BlockDevice {
        return loops(path, of).collect();
    }
    let dir = format!("/sys/dev/block/{}:{}", major(of.st_rdev), minor(of.st_rdev));
    let own = path.rsplit('/').next().unwrap_or_default().to_owned();
    let parts = names(&dir).into_iter().filter_map(|name| {
        let dir = format!("{dir}/{name}");
        (!text(&format!("{dir}/partition")).is_empty()).then_some((dir, name))
    });
    let all: Vec<(String, String)> = parts.chain([(dir.clone(), own)]).collect();
    let mut found = Vec::new();
    let (mounts, swaps) = (text("/proc/self/mountinfo"), text("/proc/swaps"));
    for (dir, name) in &all {
        let number = text(&format!("{dir}/dev"));
        let is = |path: &str| {
            path.starts_with('/')
                && stat(path).is_ok_and(|s| {
                    kind(&s) == FileType::BlockDevice
                        && format!("{}:{}", major(s.st_rdev), minor(s.st_rdev)) == number
                })
        };
        found.extend(names(&format!("{dir}/holders")).iter().map(|holder| held(name, holder)));
        // Number, parent, device, root, place, …, -, file system, source (proc(5)).
        let mount = mounts.lines().find_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let source = words.iter().position(|w| *w == "-").and_then(|at| words.get(at + 2));
            let here = words.get(2) == Some(&number.as_str()) || source.is_some_and(|s| is(s));
            here.then(|| words.get(4).copied().unwrap_or_default().to_owned())
        });
        found.extend(mount.map(|place| format!("{name} is mounted at {place}")));
        let swap = swaps.lines().any(|line| line.split([' ', '\t']).next().is_some_and(is));
        found.extend(swap.then(|| format!("{name} is swap space")));
    }
    found.extend(loops(path, of));
    found
}

/// A device that the kernel has made of another.
fn held(name: &str, holder: &str) -> String {
    let kind = maker(&text(&format!("/sys/class/block/{holder}/dm/uuid")), holder);
    format!("{name} is in {kind}, {holder}")
}

/// What made it, by the device mapper's name for it or its own.
fn maker(uuid: &str, holder: &str) -> &'static str {
    match uuid.split('-').next() {
        Some("CRYPT") => "an open encrypted volume",
        Some("LVM") => "a volume of LVM",
        Some("mpath") => "a multipath device",
        _ if holder.starts_with("md") => "a RAID array",
        _ => "another device",
    }
}

/// The loop devices behind which this is.
fn loops<'a>(path: &'a str, of: &'a Stat) -> impl Iterator<Item = String> + 'a {
    let loops = names("/sys/class/block").into_iter().filter(|name| name.starts_with("loop"));
    loops.filter_map(move |name| {
        let behind = text(&format!("/sys/class/block/{name}/loop/backing_file"));
        let same = !behind.is_empty()
            && (behind == path
                || stat(behind.as_str()).is_ok_and(|s| match kind(of) {
                    FileType::BlockDevice => s.st_rdev == of.st_rdev && kind(&s) == kind(of),
                    _ => (s.st_dev, s.st_ino) == (of.st_dev, of.st_ino),
                }));
        same.then(|| format!("{path} is behind {name}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{Guard, HELD, Terms};
    use std::path::PathBuf;

    /// A file of a test's own, which is gone with it.
    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str, bytes: &[u8]) -> Self {
            let own = format!("clone-place-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(own);
            std::fs::write(&path, bytes).unwrap();
            Self(path)
        }

        fn path(&self) -> &str {
            self.0.to_str().unwrap()
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn noise(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
    }

    /// `clone restore` onto a place with too little room left an empty file.
    #[test]
    fn a_file_that_was_not_begun_is_not_left() {
        let file = Temporary::new("unbegun", b"");
        std::fs::remove_file(&file.0).unwrap();
        for begins in [false, true] {
            let mut place = Place::resume(file.path()).unwrap();
            if begins {
                place.begin().unwrap();
            }
            drop(place);
            assert_eq!(file.0.exists(), begins);
        }
        // One that was there stays.
        drop(Place::open(file.path(), false).unwrap());
        assert!(file.0.exists());
    }

    #[test]
    fn a_file_is_written_read_back_and_keeps_its_holes() {
        let file = Temporary::new("whole", b"what was there");
        let mut bytes = noise(HELD + 5);
        bytes.extend(std::vec![0; 4 << 20]);
        bytes.extend(noise(77));
        let mut guard = Guard::new(Place::open(file.path(), false).unwrap(), Terms::default());
        assert_eq!(std::fs::read(&file.0).unwrap(), b"what was there", "opened, not emptied");
        let mut done = 0;
        while done < bytes.len() {
            done += guard.put(&bytes[done..]).unwrap();
        }
        assert!(marked(file.path()).is_some(), "until it is whole");
        let kept = loop {
            if let Some(kept) = guard.finish().unwrap() {
                break kept;
            }
        };
        assert!(kept.read_back);
        assert!(std::fs::read(&file.0).unwrap() == bytes);
        assert_eq!(marked(file.path()), None);
        let blocks = stat(file.path()).unwrap().st_blocks;
        assert!(blocks * 512 < 3 << 20, "zeros are a hole: {blocks}");
    }

    /// `restore golden.bwi /dev/sdx` filled the memory behind /dev, and called that verified.
    #[test]
    fn a_misspelt_disk_is_no_new_file() {
        let path = format!("/dev/clone-place-{}", std::process::id());
        for existing in [false, true] {
            let refused = Place::open(&path, existing).map(|_| ());
            assert!(matches!(refused, Err(Trouble::Kind { .. })), "{refused:?}");
        }
        assert!(!std::path::Path::new(&path).exists());
    }

    #[test]
    fn what_is_no_disk_and_no_file_is_refused_by_name() {
        for (path, existing) in [("/dev/null", false), ("/", false), ("/nowhere/x", true)] {
            let why = Place::open(path, existing).unwrap_err();
            assert!(matches!(why, Trouble::Kind { .. }) && why.to_string().contains(path), "{why}");
        }
        let why = Place::open("/nowhere/x", false).unwrap_err();
        assert!(matches!(why, Trouble::System { .. }), "{why}");
        assert_eq!(marked("/dev/zero"), None);
        assert_eq!(marked("/nowhere"), None);
    }

    #[test]
    fn a_file_that_is_there_keeps_its_rest_and_takes_zeros() {
        let old = noise(4 * PAGE);
        let file = Temporary::new("existing", &old);
        let mut place = Place::open(file.path(), true).unwrap();
        assert_eq!(place.name(), file.path());
        place.begin().unwrap();
        for at in [0, 2 * PAGE] {
            assert_eq!(place.write(at as u64, &[0; PAGE]).unwrap(), PAGE);
        }
        place.end(PAGE as u64).unwrap();
        let wanted = [&[0; PAGE], &old[PAGE..2 * PAGE], &[0; PAGE], &old[3 * PAGE..]].concat();
        assert!(std::fs::read(&file.0).unwrap() == wanted);
    }

    /// The classic dolly writes to files that are there, often empty ones; the mark is longer than
    /// a short copy.
    #[test]
    fn a_short_copy_in_a_file_that_is_there_is_not_as_long_as_the_mark() {
        for (old, length) in [(0, PAGE + 1), (PAGE, PAGE + 1), (3 * PAGE, 3 * PAGE)] {
            let file = Temporary::new("short", &noise(old));
            let mut place = Place::open(file.path(), true).unwrap();
            place.begin().unwrap();
            place.write(0, &noise(8 * PAGE)).unwrap();
            place.end((PAGE + 1) as u64).unwrap();
            assert_eq!(std::fs::metadata(&file.0).unwrap().len(), length as u64, "had {old}");
        }
    }

    #[test]
    fn a_new_file_begins_empty_and_has_the_length_of_the_copy() {
        let file = Temporary::new("new", &noise(4 * PAGE));
        let mut place = Place::open(file.path(), false).unwrap();
        place.begin().unwrap();
        assert_eq!(std::fs::read(&file.0).unwrap(), b"");
        place.write(0, &noise(PAGE)).unwrap();
        // Where the mark was, zeros are written.
        place.write(0, &[0; PAGE]).unwrap();
        assert!(std::fs::read(&file.0).unwrap() == [0; PAGE]);
        assert_eq!(place.write(PAGE as u64, &[0; 2 * PAGE]).unwrap(), 2 * PAGE);
        // Noise, then zeros: only the noise is written, and the zeros come next.
        let mixed = [noise(PAGE), std::vec![0; PAGE]].concat();
        assert_eq!(place.write(3 * PAGE as u64, &mixed).unwrap(), PAGE);
        place.end(9 * PAGE as u64).unwrap();
        let wanted = [&[0; 3 * PAGE], &noise(PAGE)[..], &[0; 5 * PAGE]].concat();
        assert!(std::fs::read(&file.0).unwrap() == wanted);
    }

    #[test]
    fn a_file_that_is_not_there_is_made_for_its_owner_alone() {
        let file = Temporary::new("made", b"");
        std::fs::remove_file(&file.0).unwrap();
        Place::open(file.path(), false).unwrap().write(0, b"text").unwrap();
        assert_eq!(std::fs::read(&file.0).unwrap(), b"text");
        assert_eq!(stat(file.path()).unwrap().st_mode & 0o7777, 0o600);
    }

    /// A disk that is given gigabytes at once is silent for minutes at the last flush.
    #[test]
    fn a_disk_is_flushed_on_the_way_and_a_file_is_not() {
        let file = Temporary::new("dirty", b"");
        let mut place = Place::open(file.path(), false).unwrap();
        assert!(!place.block());
        for (block, dirty, after) in [
            (false, 0, 9),
            (false, DIRTY, DIRTY + 9),
            (true, 0, 9),
            (true, DIRTY - 10, DIRTY - 1),
            (true, DIRTY - 9, 0),
        ] {
            (place.block, place.dirty) = (block, dirty);
            place.write(0, b"some data").unwrap();
            assert_eq!(place.dirty, after, "{block} {dirty}");
        }
        assert!(place.block());
        place.dirty = 9;
        place.flush().unwrap();
        assert_eq!(place.dirty, 0);
    }

    /// What is read back comes from the disk wherever the file system can do that.
    #[test]
    fn reading_back_goes_past_the_cache() {
        let file = Temporary::new("direct", &noise(9 * PAGE));
        let direct = READ.union(OFlags::DIRECT);
        let can = open(file.path(), direct, Mode::empty()).is_ok();
        let mut place = Place::open(file.path(), true).unwrap();
        let flags = place.reads.as_ref().map(|fd| rustix::fs::fcntl_getfl(fd).unwrap());
        assert_eq!(flags.is_some_and(|flags| flags.contains(OFlags::DIRECT)), can);
        if flags.is_some() {
            place.flush().unwrap();
            // Ever longer reads, at addresses that direct reading takes.
            for pages in 1..9 {
                let bytes = pages * PAGE;
                assert!(place.read(0, bytes).unwrap() == Some(&noise(bytes)[..]), "{pages}");
                assert_eq!(place.buffer.len(), bytes + PAGE);
            }
        }
    }

    #[test]
    fn a_file_may_take_its_own_old_space_again() {
        let path = format!("/dev/shm/clone-place-room-{}", std::process::id());
        let file = Temporary(PathBuf::from(&path));
        std::fs::write(&file.0, noise(8 << 20)).unwrap();
        let room = Place::open(&path, false).unwrap().room().unwrap();
        let free = rustix::fs::statvfs(&path).map(|free| free.f_bavail * free.f_frsize).unwrap();
        let own = room.abs_diff(free);
        assert!(((4 << 20)..(64 << 20)).contains(&own), "{own}");
    }

    #[test]
    fn lists_end_where_they_must() {
        let dir = std::env::temp_dir().join(format!("clone-place-names-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for name in ["shown", ".hidden"] {
            std::fs::write(dir.join(name), [&noise(9000)[..], b"\n"].concat()).unwrap();
        }
        assert_eq!(names(dir.to_str().unwrap()), ["shown"]);
        let shown = dir.join("shown");
        let shown = shown.to_str().unwrap();
        assert_eq!(list(shown, 5000).as_deref(), Some(&noise(5000)[..]));
        assert_eq!(list(shown, 1 << 20).map(|all| all.len()), Some(9001));
        assert_eq!(text(shown), String::from_utf8_lossy(&noise(9000)));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_holds_a_disk_is_named() {
        for (uuid, holder, kind) in [
            ("CRYPT-LUKS2-0-x", "dm-0", "an open encrypted volume"),
            ("LVM-0", "dm-1", "a volume of LVM"),
            ("mpath-0", "dm-2", "a multipath device"),
            ("", "md0", "a RAID array"),
            ("", "bcache0", "another device"),
        ] {
            assert_eq!(maker(uuid, holder), kind);
        }
        assert_eq!(held("sda1", "md-none"), "sda1 is in a RAID array, md-none");
    }

    #[test]
    fn the_clock_is_the_system_s() {
        let file = Temporary::new("clock", b"");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let clock = Place::open(file.path(), true).unwrap().clock();
        assert!(clock.abs_diff(now.as_secs()) < 3600, "{clock}");
    }

    /// On a file system in memory, memory is the place.
    #[test]
    fn a_file_in_memory_is_read_back_there() {
        let path = format!("/dev/shm/clone-place-{}", std::process::id());
        let file = Temporary(PathBuf::from(&path));
        std::fs::write(&file.0, noise(9000)).unwrap();
        let mut place = Place::open(&path, true).unwrap();
        assert_eq!(place.read(0, 9000).unwrap(), Some(&noise(9000)[..]));
    }
}
