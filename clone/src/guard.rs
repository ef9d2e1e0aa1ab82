//! The order in which a copy is written, the same for disks and files and for every protocol.
//!
//! The stream's first MiB is held back until all else is on the disk. What it says about the
//! size of the disk is known before the first write; a disk that is too small keeps all of its
//! bytes. Then the [mark](crate::mark) of an interrupted copy takes the place of the old first
//! MiB. At the end everything is flushed and read back, the first MiB is written but for its
//! first sector, and then that sector. So no moment exists at which the disk has a partition
//! table, the old or the new one, without the whole copy behind it.
//!
//! [`Media`] is what is written to.

use crate::digest::Meter;
use crate::error::Trouble;
use crate::mark::{LENGTH, Mark};
pub use crate::outcome::Kept;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use overlay::partition;
use sha2::Digest as _;

/// So many bytes of the beginning are written last.
pub const HELD: usize = 1 << 20;
/// So much is read back at once.
const READ: usize = 4 << 20;
/// The most bytes at the end of a disk that hold the copy of a GPT's header.
const TAIL: u64 = 4096;

/// What a disk or a file does.
pub trait Media {
    /// Its name in messages.
    fn name(&self) -> &str;

    /// The bytes that fit, where that is known.
    fn room(&self) -> Option<u64>;

    /// Before the first write: a file loses its old content here.
    ///
    /// # Errors
    /// The system's.
    fn begin(&mut self) -> Result<(), Trouble>;

    /// Writes the beginning of these bytes, and says how many; some, if there are any.
    ///
    /// # Errors
    /// The system's.
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<usize, Trouble>;

    /// So long is the copy; a file that was begun anew gets that length.
    ///
    /// # Errors
    /// The system's.
    fn end(&mut self, length: u64) -> Result<(), Trouble>;

    /// All that was written leaves the caches of the system and of the disk.
    ///
    /// # Errors
    /// The system's, also of earlier writes.
    fn flush(&mut self) -> Result<(), Trouble>;

    /// Reads what the disk has, not what the system remembers of it: up to `bytes` from a
    /// multiple of 4096 on. Nothing where that cannot be told apart.
    ///
    /// # Errors
    /// The system's.
    fn read(&mut self, at: u64, bytes: usize) -> Result<Option<&[u8]>, Trouble>;

    /// Fills the buffer, also from what the system remembers; how many bytes there were.
    ///
    /// # Errors
    /// The system's.
    fn fetch(&mut self, at: u64, buffer: &mut [u8]) -> Result<usize, Trouble>;

    /// Seconds since 1970.
    fn clock(&self) -> u64;
}

/// What a sender tells of its stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Announcement {
    /// The sender.
    pub sender: Option<Ipv4Addr>,
    /// The stream's length.
    pub bytes: Option<u64>,
    /// Its BLAKE3 digest.
    pub blake3: Option<[u8; 32]>,
}

/// Bytes of an announcement on the wire.
pub const ANNOUNCEMENT: usize = 41;

impl Announcement {
    /// What our own ends send: the length, whether there is a digest, and that; all ones and
    /// zeros in the place of what is not known.
    #[must_use]
    pub fn bytes(&self) -> [u8; ANNOUNCEMENT] {
        let mut all = [0; ANNOUNCEMENT];
        let length = self.bytes.unwrap_or(u64::MAX).to_le_bytes();
        let parts = length.into_iter().chain([u8::from(self.blake3.is_some())]);
        let parts = parts.chain(self.blake3.unwrap_or_default());
        all.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        all
    }

    /// Reads it.
    #[must_use]
    pub fn read(bytes: &[u8; ANNOUNCEMENT]) -> Self {
        let (length, rest) = bytes
            .split_first_chunk::<8>()
            .map_or((u64::MAX, &[][..]), |(l, r)| (u64::from_le_bytes(*l), r));
        let digest = rest.split_first().filter(|(known, _)| **known == 1);
        Self {
            sender: None,
            bytes: (length != u64::MAX).then_some(length),
            blake3: digest.and_then(|(_, digest)| digest.first_chunk()).copied(),
        }
    }
}

/// The digest that a copy must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// BLAKE3.
    Blake3([u8; 32]),
    /// SHA-256.
    Sha256([u8; 32]),
}

impl Pin {
    /// Reads `blake3:HEX` or `sha256:HEX`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (algorithm, hex) = text.split_once(':')?;
        let bytes = crate::pact::unhex(hex)?;
        match algorithm {
            "blake3" => Some(Self::Blake3(bytes)),
            "sha256" => Some(Self::Sha256(bytes)),
            _ => None,
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bytes) = match self {
            Self::Blake3(bytes) => ("blake3:", bytes),
            Self::Sha256(bytes) => ("sha256:", bytes),
        };
        f.write_str(name)?;
        bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// What the user wants of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// What was written is read back.
    pub read_back: bool,
    /// The digest that it must have.
    pub pin: Option<Pin>,
}

impl Default for Terms {
    fn default() -> Self {
        Self { read_back: true, pin: None }
    }
}

/// Both kinds of digest over one stream.
#[derive(Debug, Default)]
struct Tally {
    blake3: Meter,
    sha256: Option<sha2::Sha256>,
}

impl Tally {
    fn new(pin: Option<&Pin>) -> Self {
        let sha256 = matches!(pin, Some(Pin::Sha256(_))).then(sha2::Sha256::new);
        Self { blake3: Meter::default(), sha256 }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.blake3.update(bytes);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    /// Whether the bytes so far have this digest.
    fn is(&self, pin: &Pin) -> bool {
        match pin {
            Pin::Blake3(wanted) => self.blake3.digest().blake3 == *wanted,
            Pin::Sha256(wanted) => {
                self.sha256.clone().is_some_and(|sum| sum.finalize().as_slice() == wanted)
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing is written.
    Held,
    /// The mark is there, and what comes is written.
    Open,
    /// All but the beginning is read back, up to here.
    Reading(u64),
    /// All but the beginning is there.
    Beginning,
}

/// A copy that is being written.
#[derive(Debug)]
pub struct Guard<M: Media> {
    media: M,
    terms: Terms,
    told: Announcement,
    head: Vec<u8>,
    came: Tally,
    back: Tally,
    read_back: bool,
    step: Step,
}

impl<M: Media> Guard<M> {
    /// A copy to this disk or file, which keeps all its bytes until the first MiB has come.
    #[must_use]
    pub fn new(media: M, terms: Terms) -> Self {
        let tally = || Tally::new(terms.pin.as_ref());
        Self {
            media,
            told: Announcement::default(),
            head: Vec::new(),
            came: tally(),
            back: tally(),
            read_back: terms.read_back,
            terms,
            step: Step::Held,
        }
    }

    /// What is written to.
    pub const fn media(&self) -> &M {
        &self.media
    }

    /// Takes what the sender tells; what it told before stays.
    ///
    /// # Errors
    /// [`Trouble::TooSmall`], or [`Trouble::Announced`] when the user named another digest.
    pub fn announce(&mut self, told: &Announcement) -> Result<(), Trouble> {
        self.told.sender = told.sender.or(self.told.sender);
        self.told.bytes = told.bytes.or(self.told.bytes);
        self.told.blake3 = told.blake3.or(self.told.blake3);
        if let (Some(wanted @ Pin::Blake3(pin)), Some(blake3)) = (&self.terms.pin, self.told.blake3)
            && *pin != blake3
        {
            let (name, wanted) = (self.media.name().to_string(), wanted.to_string());
            return Err(match self.step {
                Step::Held => Trouble::Announced { name, wanted },
                _ => Trouble::Pinned { name, wanted },
            });
        }
        self.told.bytes.map_or(Ok(()), |bytes| self.fits(bytes, "the copy has"))
    }

    fn fits(&self, bytes: u64, why: &'static str) -> Result<(), Trouble> {
        match self.media.room().filter(|room| *room < bytes) {
            Some(room) => Err(self.small(room, bytes, why)),
            None => Ok(()),
        }
    }

    fn small(&self, room: u64, bytes: u64, why: &'static str) -> Trouble {
        let touched = self.step != Step::Held;
        Trouble::TooSmall { name: self.name(), room, bytes, why, touched }
    }

    fn name(&self) -> String {
        self.media.name().to_string()
    }

    /// Takes the beginning of the stream's next bytes, and says how many.
    ///
    /// # Errors
    /// The disk is too small, or cannot be written.
    pub fn put(&mut self, bytes: &[u8]) -> Result<usize, Trouble> {
        if self.step == Step::Held {
            let some = bytes.get(..bytes.len().min(HELD - self.head.len())).unwrap_or_default();
            if !some.is_empty() {
                self.head.extend_from_slice(some);
                self.came.update(some);
                return Ok(some.len());
            }
            self.begin()?;
        }
        let at = self.came.blake3.bytes();
        let some = bytes.get(..bytes.len().min(HELD)).unwrap_or_default();
        self.fits(at.saturating_add(some.len() as u64), "the copy has at least")?;
        let n = self.media.write(at, some)?;
        self.came.update(some.get(..n).unwrap_or_default());
        Ok(n)
    }

    /// Puts the mark there. Nothing was written before.
    fn begin(&mut self) -> Result<(), Trouble> {
        if self.told.bytes.is_none()
            && let Some(bytes) = partition::extent(&self.head)
        {
            self.fits(bytes, "the partition table that comes needs")?;
        }
        self.fits(self.head.len() as u64, "the copy has at least")?;
        self.media.begin()?;
        self.step = Step::Open;
        mark(&mut self.media, self.told.sender)?;
        if let Some(tail) = old_table(&mut self.media) {
            write_all(&mut self.media, tail, &[0; TAIL as usize])?;
        }
        self.media.flush()
    }

    /// Ends the copy, a piece of work each time: nothing until it is stored.
    ///
    /// # Errors
    /// The disk cannot be written or read, or has other bytes. The mark stays.
    pub fn finish(&mut self) -> Result<Option<Kept>, Trouble> {
        let length = self.came.blake3.bytes();
        match self.step {
            // A copy of nothing leaves a disk as it is, and a file empty.
            Step::Held if length == 0 => {
                self.expected(&self.came)?;
                self.media.begin()?;
                self.media.flush()?;
                self.step = Step::Beginning;
            }
            Step::Held => self.begin()?,
            Step::Open => {
                self.expected(&self.came)?;
                self.media.end(length.max(LENGTH as u64))?;
                self.media.flush()?;
                self.back.update(&self.head);
                self.step = Step::Reading(HELD as u64);
            }
            Step::Reading(at) if self.read_back && at < length => self.read(at, length)?,
            Step::Reading(_) => {
                if self.read_back && self.back.blake3.digest() != self.came.blake3.digest() {
                    return Err(Trouble::Differs { name: self.name() });
                }
                self.step = Step::Beginning;
            }
            Step::Beginning => return self.beginning(length).map(Some),
        }
        Ok(None)
    }

    /// That the bytes are those that the sender has and the user wants.
    fn expected(&self, tally: &Tally) -> Result<(), Trouble> {
        let digest = tally.blake3.digest();
        let sent = self.told.blake3.is_none_or(|blake3| blake3 == digest.blake3)
            && self.told.bytes.is_none_or(|bytes| bytes == digest.bytes);
        match &self.terms.pin {
            Some(pin) if !tally.is(pin) => {
                Err(Trouble::Pinned { name: self.name(), wanted: pin.to_string() })
            }
            _ if !sent => Err(Trouble::Received { name: self.name() }),
            _ => Ok(()),
        }
    }

    fn read(&mut self, at: u64, length: u64) -> Result<(), Trouble> {
        let some = usize::try_from(length - at).unwrap_or(usize::MAX).min(READ);
        match self.media.read(at, some)? {
            // Nothing that can be told apart from what the system remembers.
            None => self.read_back = false,
            Some([]) => self.step = Step::Reading(length),
            Some(bytes) => {
                self.back.update(bytes);
                self.step = Step::Reading(at + bytes.len() as u64);
            }
        }
        Ok(())
    }

    /// The first MiB; what makes a disk bootable comes last.
    fn beginning(&mut self, length: u64) -> Result<Kept, Trouble> {
        let pinned = self.terms.pin.is_some();
        let digest = self.came.blake3.digest();
        if length == 0 {
            return Ok(Kept { digest, read_back: self.read_back, pinned });
        }
        let head = core::mem::take(&mut self.head);
        let (first, rest) = head.split_at(head.len().min(LENGTH));
        write_all(&mut self.media, LENGTH as u64, rest)?;
        self.media.flush()?;
        write_all(&mut self.media, 0, first)?;
        self.media.end(length)?;
        self.media.flush()?;
        if self.read_back {
            match self.media.read(0, head.len())? {
                None => self.read_back = false,
                Some(bytes) if bytes == head => {}
                Some(_) => {
                    let marked = mark(&mut self.media, self.told.sender);
                    let _ = marked.and_then(|()| self.media.flush());
                    return Err(Trouble::Differs { name: self.name() });
                }
            }
        }
        Ok(Kept { digest, read_back: self.read_back, pinned })
    }
}

/// Where the copy of the table of the disk's old content is: firmware may repair a disk from it.
pub(crate) fn old_table(media: &mut impl Media) -> Option<u64> {
    let tail = media.room()?.checked_sub(TAIL).filter(|tail| *tail >= HELD as u64)?;
    let begins = tail / HELD as u64 * HELD as u64;
    let skip = usize::try_from(tail - begins).unwrap_or(usize::MAX);
    // What cannot be read is no table.
    let there = media.read(begins, skip.saturating_add(TAIL as usize)).ok().flatten();
    let last = there.and_then(|bytes| bytes.get(skip..)).unwrap_or_default();
    last.chunks(512).any(|sector| sector.starts_with(b"EFI PART")).then_some(tail)
}

/// The whole held part: the mark and zeros.
pub(crate) fn mark(media: &mut impl Media, sender: Option<Ipv4Addr>) -> Result<(), Trouble> {
    let room = media.room().unwrap_or(u64::MAX);
    let mut head = alloc::vec![0; HELD.min(usize::try_from(room).unwrap_or(HELD))];
    let mark = Mark::new(media.clock(), sender).bytes();
    head.iter_mut().zip(mark).for_each(|(at, byte)| *at = byte);
    write_all(media, 0, &head)
}

pub(crate) fn write_all(media: &mut impl Media, at: u64, bytes: &[u8]) -> Result<(), Trouble> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        done += media.write(at + done as u64, rest)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// A disk in memory that keeps its bytes when the copy is given up, as by a power cut.
    #[derive(Clone)]
    struct Ram {
        bytes: Rc<RefCell<Vec<u8>>>,
        /// Writes that count, and then the power is cut.
        power: Rc<RefCell<usize>>,
        /// Writes after so many are lost without an error.
        drops: usize,
        buffer: Vec<u8>,
        file: bool,
        writes: usize,
    }

    impl Ram {
        fn new(bytes: Vec<u8>) -> Self {
            Self {
                bytes: Rc::new(RefCell::new(bytes)),
                power: Rc::new(RefCell::new(usize::MAX)),
                drops: usize::MAX,
                buffer: Vec::new(),
                file: false,
                writes: 0,
            }
        }
    }

    impl Media for Ram {
        fn name(&self) -> &str {
            "ram"
        }

        fn room(&self) -> Option<u64> {
            (!self.file).then(|| self.bytes.borrow().len() as u64)
        }

        fn begin(&mut self) -> Result<(), Trouble> {
            if self.file {
                self.bytes.borrow_mut().clear();
            }
            Ok(())
        }

        fn write(&mut self, at: u64, bytes: &[u8]) -> Result<usize, Trouble> {
            let mut power = self.power.borrow_mut();
            let Some(left) = power.checked_sub(1) else {
                return Err(Trouble::Differs { name: "no power".into() });
            };
            *power = left;
            self.writes += 1;
            // Never all at once.
            let some = &bytes[..bytes.len().min(300_000)];
            let mut disk = self.bytes.borrow_mut();
            let end = at as usize + some.len();
            if self.file && disk.len() < end {
                disk.resize(end, 0);
            }
            if self.writes <= self.drops {
                disk[at as usize..end].copy_from_slice(some);
            }
            Ok(some.len())
        }

        fn end(&mut self, length: u64) -> Result<(), Trouble> {
            if self.file {
                self.bytes.borrow_mut().resize(length as usize, 0);
            }
            Ok(())
        }

        fn flush(&mut self) -> Result<(), Trouble> {
            Ok(())
        }

        fn read(&mut self, at: u64, bytes: usize) -> Result<Option<&[u8]>, Trouble> {
            assert!(at.is_multiple_of(4096) && bytes <= READ, "{bytes} bytes at {at}");
            let disk = self.bytes.borrow();
            let rest = disk.get(at as usize..).unwrap_or_default();
            self.buffer = rest[..rest.len().min(bytes)].to_vec();
            Ok(Some(&self.buffer))
        }

        fn fetch(&mut self, at: u64, buffer: &mut [u8]) -> Result<usize, Trouble> {
            let disk = self.bytes.borrow();
            let rest = disk.get(at as usize..).unwrap_or_default();
            let n = rest.len().min(buffer.len());
            buffer[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        }

        fn clock(&self) -> u64 {
            1_735_689_599
        }
    }

    fn noise(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
    }

    /// Bootable: a sector with the signature, and a partition up to this sector.
    fn bootable(len: usize, last: u32) -> Vec<u8> {
        let mut disk = noise(len);
        disk[446..512].fill(0);
        disk[446 + 4] = 0x83;
        disk[446 + 8..446 + 12].copy_from_slice(&8u32.to_le_bytes());
        disk[446 + 12..446 + 16].copy_from_slice(&(last - 7).to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk
    }

    fn copy(guard: &mut Guard<Ram>, bytes: &[u8]) -> Result<Kept, Trouble> {
        let mut done = 0;
        while done < bytes.len() {
            done += guard.put(&bytes[done..])?;
        }
        loop {
            if let Some(kept) = guard.finish()? {
                return Ok(kept);
            }
        }
    }

    fn small(why: &Trouble) -> bool {
        matches!(why, Trouble::TooSmall { touched: false, .. })
    }

    #[test]
    fn a_copy_is_whole_at_every_length() {
        for len in [0, 1, 511, 512, 513, HELD - 1, HELD, HELD + 1, 3 * HELD + 77, 9 * HELD] {
            for file in [false, true] {
                let bytes = noise(len);
                let mut ram = Ram::new(vec![9; 10 * HELD]);
                ram.file = file;
                let mut guard = Guard::new(ram.clone(), Terms::default());
                let kept = copy(&mut guard, &bytes).unwrap();
                assert!(kept.read_back && kept.digest.bytes == len as u64);
                let disk = ram.bytes.borrow();
                assert!(disk[..len] == bytes, "{len} {file}");
                assert!(!file || disk.len() == len);
            }
        }
    }

    /// At each tenth of the writes, and at each of the last ones.
    #[test]
    fn a_power_cut_leaves_the_mark_or_the_whole_copy() {
        let new = bootable(5 * HELD, 1000);
        let old = bootable(6 * HELD, 2000);
        let run = |power: usize| {
            let ram = Ram::new(old.clone());
            *ram.power.borrow_mut() = power;
            let mut guard = Guard::new(ram.clone(), Terms::default());
            let told = Announcement { sender: Some([10, 0, 0, 1].into()), ..Default::default() };
            guard.announce(&told).unwrap();
            let how = copy(&mut guard, &new);
            let left = *ram.power.borrow();
            (how, ram.bytes.take(), left)
        };
        let (how, disk, left) = run(1_000);
        assert!(how.is_ok() && disk[..new.len()] == new);
        let all = 1_000 - left;
        assert!(all > 15, "enough writes to cut between: {all}");
        for power in 0..all {
            let (how, disk, _) = run(power);
            assert!(how.is_err(), "{power}");
            if power == 0 {
                assert!(disk == old, "nothing was written");
                continue;
            }
            let mark = Mark::read(&disk).unwrap_or_else(|| panic!("no mark after {power}"));
            assert_eq!(mark.sender, "10.0.0.1");
            assert_ne!(disk[510..512], [0x55, 0xaa], "it boots after {power} of {all}");
        }
    }

    #[test]
    fn a_disk_that_is_too_small_keeps_its_bytes() {
        let old = bootable(2 * HELD, 1000);
        let refused = |announced: Option<u64>, new: &[u8]| {
            let ram = Ram::new(old.clone());
            let mut guard = Guard::new(ram.clone(), Terms::default());
            let told = Announcement { bytes: announced, ..Default::default() };
            let how = guard.announce(&told).and_then(|()| copy(&mut guard, new).map(drop));
            assert!(ram.bytes.take() == old, "{announced:?}");
            how.unwrap_err()
        };
        let sectors = |bytes: usize| u32::try_from(bytes / 512).unwrap();
        assert!(small(&refused(Some(3 << 20), &bootable(3 * HELD, 1000))), "announced");
        let table = refused(None, &bootable(3 * HELD, sectors(3 * HELD)));
        assert!(small(&table), "by the table: {table}");
        assert!(table.to_string().contains("partition table"), "{table}");
        assert!(table.to_string().contains("ram"), "it is named: {table}");
        // Neither tells, and the disk ends: it has the mark.
        let ram = Ram::new(old.clone());
        let mut guard = Guard::new(ram.clone(), Terms::default());
        let late = copy(&mut guard, &noise(3 * HELD)).unwrap_err();
        assert!(matches!(late, Trouble::TooSmall { touched: true, .. }), "{late}");
        assert!(Mark::read(&ram.bytes.borrow()).is_some());
    }

    #[test]
    fn a_disk_that_loses_writes_is_never_called_read_back() {
        let bytes = noise(4 * HELD);
        let mut whole = Ram::new(vec![0; 4 * HELD]);
        let writes = {
            let mut guard = Guard::new(whole.clone(), Terms::default());
            copy(&mut guard, &bytes).unwrap();
            guard.media().writes
        };
        for drops in 0..writes {
            whole.bytes.borrow_mut().fill(0);
            whole.drops = drops;
            let mut guard = Guard::new(whole.clone(), Terms::default());
            let why = copy(&mut guard, &bytes).unwrap_err();
            assert!(matches!(why, Trouble::Differs { .. }), "{drops}: {why}");
        }
        let unread = Terms { read_back: false, pin: None };
        whole.drops = 3;
        let kept = copy(&mut Guard::new(whole, unread), &bytes).unwrap();
        assert!(!kept.read_back, "no byte was looked at");
    }

    #[test]
    fn another_digest_than_was_named_is_no_copy() {
        let bytes = noise(2 * HELD + 5);
        let hex = |sum: &[u8]| sum.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let (blake3, sha256) = (blake3::hash(&bytes), sha2::Sha256::digest(&bytes));
        for good in [format!("blake3:{blake3}"), format!("sha256:{}", hex(&sha256))] {
            let pin = Pin::parse(&good);
            assert_eq!(pin.as_ref().map(ToString::to_string), Some(good.clone()));
            let terms = Terms { read_back: true, pin };
            let run = |bytes: &[u8]| {
                let ram = Ram::new(vec![0; 4 * HELD]);
                let how = copy(&mut Guard::new(ram.clone(), terms.clone()), bytes);
                (how, Mark::read(&ram.bytes.borrow()).is_some())
            };
            let (kept, marked) = run(&bytes);
            assert!(kept.unwrap().pinned && !marked);
            let (why, marked) = run(&bytes[1..]);
            assert!(matches!(why, Err(Trouble::Pinned { .. })) && marked, "{good}: {why:?}");
        }
        // A sender that tells another digest is refused before the first write.
        let pin = Pin::parse(&format!("blake3:{blake3}"));
        let ram = Ram::new(vec![7; 4 * HELD]);
        let mut guard = Guard::new(ram, Terms { read_back: true, pin });
        let told = Announcement { blake3: Some([1; 32]), ..Default::default() };
        assert!(matches!(guard.announce(&told), Err(Trouble::Announced { .. })));
        assert_eq!(guard.media().writes, 0);
        for wrong in ["", "blake3", "blake3:12", "md5:00", &format!("blake3:{}", "g".repeat(64))] {
            assert_eq!(Pin::parse(wrong), None, "{wrong}");
        }
    }

    /// By the digest or the length alone, and the disk keeps its mark.
    #[test]
    fn other_bytes_than_the_sender_told_are_no_copy() {
        let bytes = noise(2 * HELD + 5);
        let blake3 = |bytes: &[u8]| Some(*blake3::hash(bytes).as_bytes());
        let length = bytes.len() as u64;
        for (told_bytes, told_blake3, good) in [
            (Some(length), blake3(&bytes), true),
            (None, blake3(&bytes), true),
            (Some(length), None, true),
            (Some(length + 1), blake3(&bytes), false),
            (Some(length), blake3(&bytes[1..]), false),
        ] {
            let ram = Ram::new(vec![0; 4 * HELD]);
            let mut guard = Guard::new(ram.clone(), Terms::default());
            let told = Announcement { sender: None, bytes: told_bytes, blake3: told_blake3 };
            guard.announce(&told).unwrap();
            let how = copy(&mut guard, &bytes);
            assert_eq!(how.is_ok(), good, "{told:?}");
            assert!(good || matches!(how, Err(Trouble::Received { .. })), "{how:?}");
            assert_eq!(Mark::read(&ram.bytes.borrow()).is_some(), !good);
        }
    }

    #[test]
    fn a_copy_of_nothing_leaves_a_disk_as_it_is() {
        let ram = Ram::new(bootable(2 * HELD, 100));
        let mut guard = Guard::new(ram.clone(), Terms::default());
        assert!(copy(&mut guard, &[]).unwrap().read_back);
        assert!(ram.bytes.take() == bootable(2 * HELD, 100));
    }

    #[test]
    fn an_announcement_is_read_as_it_was_written() {
        for bytes in [None, Some(0), Some(1 << 40)] {
            for blake3 in [None, Some([7; 32])] {
                let told = Announcement { sender: None, bytes, blake3 };
                assert_eq!(Announcement::read(&told.bytes()), told);
            }
        }
    }

    #[test]
    fn what_is_no_table_at_the_end_stays() {
        let old = noise(6 * HELD + 512);
        let ram = Ram::new(old.clone());
        copy(&mut Guard::new(ram.clone(), Terms::default()), &noise(2 * HELD)).unwrap();
        assert!(ram.bytes.borrow()[2 * HELD..] == old[2 * HELD..]);
    }

    #[test]
    fn the_copy_of_the_old_table_goes_first() {
        let mut old = noise(6 * HELD);
        let end = old.len();
        old[end - 512..end - 504].copy_from_slice(b"EFI PART");
        let ram = Ram::new(old);
        *ram.power.borrow_mut() = 8;
        let mut guard = Guard::new(ram.clone(), Terms::default());
        assert!(copy(&mut guard, &noise(5 * HELD)).is_err(), "no power");
        assert!(ram.bytes.borrow()[end - 512..].iter().all(|b| *b == 0));
    }
}
