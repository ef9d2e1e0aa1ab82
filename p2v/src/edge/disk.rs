//! A disk that is read, and nothing else.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use blockmap::{Part, ReadError, whole_disk};
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use rustix::io::{Errno, pread};

use crate::extents::Extents;
use crate::trouble::Trouble;

/// What is done about sectors that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BadSectors {
    /// The copy fails.
    #[default]
    Fail,
    /// Zeros are sent in their place, and they are listed.
    Zero,
}

/// The unit in which a bad place is narrowed down.
const SECTOR: usize = 512;
/// Bad ranges that are remembered; the rest is counted with the last.
const MAX_BAD: usize = 1000;

/// A device for the reader of maps, to which a bad sector is no reason to end.
struct Plain<'p> {
    fd: &'p OwnedFd,
    size: u64,
    sector: u64,
}

impl blockmap::ReadAt for Plain<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match pread(self.fd, rest, at.saturating_add(done as u64)) {
                Ok(n) if n > 0 => done += n,
                Err(Errno::INTR) => {}
                _ => return Err(ReadError { at, length: buffer.len() as u64 }),
            }
        }
        Ok(())
    }

    fn sector(&self) -> u64 {
        self.sector
    }
}

type ReadAt = Box<dyn FnMut(u64, &mut [u8]) -> Result<usize, Errno> + Send>;

/// A disk and what is known of it.
pub struct Disk {
    /// Its name on the machine.
    pub name: String,
    /// Which of its bytes are in use.
    pub map: Extents,
    pub(super) reader: Reader,
}

/// The part of it that reads.
pub(super) struct Reader {
    read: ReadAt,
    policy: BadSectors,
    bad: Vec<Range<u64>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} of {} bytes)", self.name, self.map.used_bytes(), self.map.size())
    }
}

impl Disk {
    /// Opens a device or an image read-only. All of it counts as in use unless `map` says
    /// otherwise.
    ///
    /// # Errors
    /// The errno of open(2), or of the question for its length.
    pub fn open(path: &str, map: Option<Extents>, policy: BadSectors) -> Result<Self, Errno> {
        let fd = sys::file::open(path, OFlags::RDONLY, 0)?;
        let size = rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0))?;
        let map = map.filter(|map| map.size() == size).unwrap_or_else(|| Extents::whole(size));
        let name = path.strip_prefix("/dev/").unwrap_or(path).to_string();
        let read = move |at, room: &mut [u8]| pread(&fd, room, at);
        Ok(Self::new(&name, map, Box::new(read), policy))
    }

    /// Opens a device and finds out which of its bytes are in use, and by what. `sector` is
    /// the length of its logical sectors.
    ///
    /// # Errors
    /// As [`Self::open`]. A disk whose table cannot be read is in use as a whole.
    pub fn examine(
        path: &str,
        sector: u64,
        policy: BadSectors,
    ) -> Result<(Self, Vec<Part>), Errno> {
        let mut disk = Self::open(path, None, policy)?;
        let size = disk.map.size();
        let fd = sys::file::open(path, OFlags::RDONLY, 0)?;
        let found = whole_disk(&mut Plain { fd: &fd, size, sector });
        let Ok(found) = found else { return Ok((disk, Vec::new())) };
        let used = found.used.iter().map(|extent| extent.start..extent.end());
        disk.map = Extents::new(size, used).aligned(4096);
        Ok((disk, found.parts))
    }

    /// The logical volumes that lie in a partition, with their pieces in bytes of the partition.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn logical_volumes(
        path: &str,
        sector: u64,
        start: u64,
        length: u64,
    ) -> Result<Vec<blockmap::Logical>, Errno> {
        let size = Self::open(path, None, BadSectors::Fail)?.map.size();
        let fd = sys::file::open(path, OFlags::RDONLY, 0)?;
        Ok(blockmap::logical_volumes(&mut Plain { fd: &fd, size, sector }, start, length))
    }

    fn new(name: &str, map: Extents, read: ReadAt, policy: BadSectors) -> Self {
        // What reads and writes whole sectors is faster, and an archive needs it.
        let reader = Reader { read, policy, bad: Vec::new() };
        Self { name: name.to_string(), map: map.aligned(4096), reader }
    }

    /// Fills a buffer from a place of the disk.
    ///
    /// # Errors
    /// A sector cannot be read, and the policy is to fail.
    pub(super) fn read(&mut self, at: u64, room: &mut [u8]) -> Result<(), Trouble> {
        self.reader.read(at, room).map_err(|at| unreadable(&self.name, at))
    }

    /// Places that could not be read.
    #[must_use]
    pub fn bad(&self) -> &[Range<u64>] {
        &self.reader.bad
    }

    /// What to tell of a copy that failed because of them.
    #[must_use]
    pub fn bad_trouble(&self) -> Option<Trouble> {
        let failed = self.bad().iter().filter(|_| self.reader.policy == BadSectors::Fail);
        failed.map(|range| range.start).min().map(|at| unreadable(&self.name, at))
    }

    /// What to tell of a copy that has zeros in their place.
    #[must_use]
    pub fn bad_list(&self) -> Option<String> {
        let bad = self.bad();
        if bad.is_empty() {
            return None;
        }
        let bytes: u64 = bad.iter().map(|range| range.end - range.start).sum();
        let mut text = format!(
            "{}: {bytes} bytes could not be read and are zeros in the copy, at bytes",
            self.name
        );
        for range in bad.iter().take(8) {
            text += &format!(" {}-{}", range.start, range.end - 1);
        }
        if bad.len() > 8 {
            text += &format!(" and {} more places", bad.len() - 8);
        }
        Some(text)
    }
}

impl Reader {
    /// As [`Disk::read`]; the error is the first byte that cannot be read, see [`unreadable`].
    pub fn read(&mut self, at: u64, room: &mut [u8]) -> Result<(), u64> {
        if room.is_empty() || self.whole(at, room) {
            return Ok(());
        }
        // A failing read takes a disk seconds: halves find a bad sector in few of them.
        let half = (room.len() / 2).next_multiple_of(SECTOR);
        if room.len() > SECTOR
            && let Some((first, second)) = room.split_at_mut_checked(half)
        {
            self.read(at, first)?;
            return self.read(at + half as u64, second);
        }
        self.note(at..at + room.len() as u64);
        match self.policy {
            BadSectors::Fail => Err(at),
            BadSectors::Zero => {
                room.fill(0);
                Ok(())
            }
        }
    }

    /// Whether all of it could be read.
    fn whole(&mut self, at: u64, room: &mut [u8]) -> bool {
        let mut done = 0;
        while let Some(rest) = room.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match (self.read)(at + done as u64, rest) {
                Ok(n) if n > 0 => done += n,
                Err(Errno::INTR) => {}
                _ => return false,
            }
        }
        true
    }

    fn note(&mut self, range: Range<u64>) {
        // A client that asks again meets the same sector.
        if self.bad.iter().any(|known| known.contains(&range.start)) {
            return;
        }
        let count = self.bad.len();
        match self.bad.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ if count < MAX_BAD => self.bad.push(range),
            _ => {}
        }
    }
}

/// What to tell of a disk that cannot be read at a byte.
pub(super) fn unreadable(name: &str, at: u64) -> Trouble {
    Trouble::new(
        &format!("{name} cannot be read at byte {at} (sector {})", at / 512),
        "bw.p2v.bad=zero sends zeros for sectors that cannot be read, and lists them",
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A disk whose sectors 3, 4 and 9 are bad.
    pub fn damaged(policy: BadSectors) -> Disk {
        let read = |at: u64, room: &mut [u8]| {
            let range = at..at + room.len() as u64;
            let bad = [1536..2560, 4608..5120u64];
            if bad.iter().any(|bad| bad.start < range.end && range.start < bad.end) {
                return Err(Errno::IO);
            }
            room.fill(7);
            Ok(room.len())
        };
        Disk::new("sdx", Extents::whole(8192), Box::new(read), policy)
    }

    #[test]
    fn bad_sectors_fail_or_are_zeros_and_are_named() {
        let mut disk = damaged(BadSectors::Fail);
        let mut room = [1; 8192];
        let told = disk.read(0, &mut room).unwrap_err();
        assert_eq!(disk.bad_trouble(), Some(told.clone()));
        let told = told.to_string();
        assert!(told.starts_with("sdx cannot be read at byte 1536 (sector 3)"), "{told}");
        let mut disk = damaged(BadSectors::Zero);
        assert_eq!(disk.read(0, &mut room), Ok(()));
        assert_eq!(disk.read(1000, &mut [0; 1000]), Ok(()));
        assert_eq!(disk.bad()[..2], [1536..2560, 4608..5120]);
        let zero = |at: &usize| room[*at] == 0;
        assert_eq!((0..8192).filter(zero).count(), 1536);
        assert!(room[..1536].iter().chain(&room[2560..4608]).all(|byte| *byte == 7));
        assert!(disk.bad_list().unwrap().contains("at bytes 1536-2559 4608-5119"));
        assert_eq!(disk.bad_trouble(), None);
    }

    #[test]
    fn a_disk_that_ends_early_fails() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(10_000).unwrap();
        let mut disk = Disk::open(file.path().to_str().unwrap(), None, BadSectors::Fail).unwrap();
        assert_eq!((disk.map.size(), disk.map.used_bytes()), (10_000, 10_000));
        file.as_file().set_len(5000).unwrap();
        assert!(disk.read(0, &mut [0; 8192]).is_err());
    }
}
