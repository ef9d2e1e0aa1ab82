//! A tree that takes a copy.
//!
//! Nothing below the directory changes until all data is there and was read back: what differs is
//! written to files in a directory beside ([`STAGE`]), which then take the place of the old ones.
//! That directory stays when a copy is broken off, and the next one goes on with it. Every path is
//! resolved from the directory by a call that follows no link, and never leads out of the directory
//! or into another mount.

use super::{KIND, NAME, attributes, by_error, by_number, fixed, name, path, shown};
use ::share::beneath::Directory;
use clone::edge::world::Shelf;
use clone::room::bits::Bits;
use clone::room::manifest::{Extent, Manifest};
use clone::room::tree::{Entry, Kind, Listing, Part, STAGE, grains};
use clone::room::{Ask, Told};
use rustix::fs::{
    Access, Advice, AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, SeekFrom, Stat, accessat,
    chmod, fadvise, flock, fstat, linkat, makedev, mkdirat, mknodat, readlinkat, renameat, seek,
    statat, symlinkat, syncfs, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Reads and writes of a file are of so many bytes.
const PIECE: usize = 256 << 10;
/// Whose owner alone may look.
const PRIVATE: Mode = Mode::RWXU;
/// In the stage: what takes a name next.
const NEW: &[u8] = b"new";
/// The most lines about what could not be set.
const LINES: usize = 16;
/// While the system writes out what it remembers, it is asked so often whether that goes on.
const LOOKS: Duration = Duration::from_secs(1);
/// Besides letters and digits, what every file system takes in a name.
const PLAIN: &[u8] = b"-_+,=@~#%(){}[]!$&';^. ";
/// Longer names are tried: encrypted file systems have shorter ones.
const SHORT: usize = 143;

/// A tree that becomes the sender's.
#[derive(Debug)]
pub struct Target {
    /// The program's name in messages.
    program: &'static str,
    root: Directory,
    /// `st_dev` of its file system. What has another one, as a subvolume of btrfs without a mount,
    /// is left alone, too.
    device: u64,
    /// Locked.
    stage: Directory,
    listing: Listing,
    manifest: Arc<Manifest>,
    /// What the sender does not have goes.
    delete: bool,
    read_back: bool,
    /// Files whose content may stay as it is, if all chunks are there.
    good: BTreeSet<u32>,
    /// Files that are written beside.
    staged: BTreeSet<u32>,
    /// Their data is in the place of the old ones.
    moved: bool,
    /// The file that was read or written last.
    open: Option<(u32, bool, File)>,
}

/// Of a name that may not change.
const FIXED: &str = ": it, or the directory that it is in, is immutable or append-only; chattr -ia \
                     takes that away";

/// What went wrong, and where.
type Wrong = (Vec<u8>, Errno);

/// What could not be set: of which path first, why, and of how many more.
type Lost = BTreeMap<String, (Vec<u8>, Errno, u64)>;

/// Errors of this path.
fn at<'p>(path: &'p [u8]) -> impl Fn(Errno) -> Wrong + 'p {
    move |errno| (path.to_vec(), errno)
}

fn io(path: &[u8]) -> impl Fn(std::io::Error) -> Wrong + '_ {
    move |e| (path.to_vec(), by_error(&e))
}

impl Target {
    /// The directory `dir` for the tree of this manifest. Only the directory beside is made.
    pub fn new(
        program: &'static str,
        dir: &Path,
        manifest: &Arc<Manifest>,
        delete: bool,
        read_back: bool,
    ) -> Result<Self, String> {
        let listing = match manifest.layout.tree.as_slice() {
            [] => return Err("the sender sends disks, and no files".to_owned()),
            tree => Listing::read(tree)?,
        };
        if manifest.layout.used() != listing.bytes() {
            return Err("the sender's listing has another length than its files".to_owned());
        }
        let failed = |e: Errno| format!("{}: {e}", dir.display());
        let root = Directory::open(dir).map_err(|e| e.to_string())?.of_one_mount();
        let device = fstat(&root).map_err(failed)?.st_dev;
        let old = match mkdirat(&root, path(STAGE), PRIVATE) {
            Ok(()) => false,
            Err(Errno::EXIST) => true,
            Err(errno) => {
                let why = if fixed(&root) { FIXED } else { "" };
                return Err(failed(errno) + why);
            }
        };
        let beside = dir.join(path(STAGE));
        let stage =
            root.directory(path(STAGE)).map_err(|e| format!("{}: {e}", beside.display()))?;
        let is = fstat(&stage).map_err(failed)?;
        // Who can change what is in it chooses what the files of the copy have.
        if is.st_uid != geteuid().as_raw() || old && is.st_mode & 0o077 != 0 {
            return Err(format!(
                "{}: another user made it, or may look into it; delete it, and begin again",
                beside.display()
            ));
        }
        flock(&stage, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| format!("{}: another copy is made there", dir.display()))?;
        let (good, staged) = (BTreeSet::new(), BTreeSet::new());
        let manifest = manifest.clone();
        let open = None;
        Ok(Self {
            program,
            root,
            device,
            stage,
            listing,
            manifest,
            delete,
            read_back,
            good,
            staged,
            moved: false,
            open,
        })
    }

    fn entry(&self, n: u32) -> Option<&Entry> {
        self.listing.entries().get(n as usize)
    }

    fn file(&self, n: u32) -> Option<(u64, &[Extent])> {
        match &self.entry(n)?.kind {
            Kind::File(size, data) => Some((*size, data)),
            _ => None,
        }
    }

    /// The name in the stage: a file of another copy is none of this one's.
    fn beside(&self, n: u32) -> String {
        format!("{}-{n}", clone::pact::hex(&self.manifest.session()))
    }

    /// A new directory has nothing to read, and may be unable to take the tree.
    fn look(&mut self, tick: &mut dyn FnMut()) -> Result<bool, Wrong> {
        let here = at(b".");
        let some = |dir: &Directory| -> Result<bool, Errno> {
            let names = Dir::read_from(dir)?.filter_map(Result::ok);
            Ok(names.map(|one| one.file_name().to_bytes().to_vec()).any(|n| !own(&n)))
        };
        if some(&self.root).map_err(&here)? || some(&self.stage).map_err(here)? {
            return Ok(true);
        }
        self.survey(tick)?;
        Ok(false)
    }

    /// What is there: which files may stay, which were begun, and what no copy can be made over.
    fn survey(&mut self, tick: &mut dyn FnMut()) -> Result<(), Wrong> {
        let prefix = self.beside(0);
        let prefix = prefix.trim_end_matches('0').as_bytes().to_vec();
        let names = Dir::read_from(&self.stage).map_err(at(STAGE))?.filter_map(Result::ok);
        for name in names.map(|one| one.file_name().to_bytes().to_vec()) {
            if matches!(&*name, b"." | b"..") {
                continue;
            }
            let number =
                name.strip_prefix(&*prefix).and_then(|n| str::from_utf8(n).ok()?.parse().ok());
            match number.filter(|n| self.file(*n).is_some()) {
                Some(n) => drop(self.staged.insert(n)),
                None => self.remove(&self.stage, &name, tick)?,
            }
        }
        self.names(tick)?;
        let mut seen = HashSet::new();
        let mut makes = HashSet::new();
        let mut shut = HashSet::new();
        if fixed(&self.root) {
            shut.insert(0);
        }
        for n in 1..self.listing.entries().len() as u32 {
            tick();
            let own = self.listing.path(n);
            let kind = self.entry(n).map_or(Kind::Directory, |entry| entry.kind.clone());
            let found = match self.there(&own) {
                Err((_, Errno::XDEV)) if kind == Kind::Mount => continue,
                other => other?,
            };
            let stat = found.as_ref().map(|(_, stat)| *stat);
            if !stat.is_some_and(|stat| self.is(&kind, &stat, &own)) {
                self.makes(&kind, &mut makes).map_err(at(&own))?;
            }
            let changes = self.changes(n, stat.as_ref(), &own);
            let parent = self.entry(n).map_or(0, |entry| entry.parent);
            if changes && shut.contains(&parent) {
                return Err((own, Errno::PERM));
            }
            let Some((fd, stat)) = found else { continue };
            if fixed(fd) {
                if changes {
                    return Err((own, Errno::PERM));
                }
                shut.insert(n);
            }
            let directory = stat.st_mode & KIND == 0o040_000;
            if directory && stat.st_dev != self.device && kind != Kind::Mount {
                return Err((own, Errno::XDEV));
            }
            if directory && !matches!(kind, Kind::Directory | Kind::Mount) {
                if !self.delete {
                    return Err((own, Errno::ISDIR));
                }
                let (dir, name) = self.parent(n)?;
                self.removable(&dir, &name, &own, tick)?;
            }
            // Of two names of one file only one can get its own content.
            let other = stat.st_nlink > 1 && !seen.insert((stat.st_dev, stat.st_ino));
            let regular = stat.st_mode & KIND == 0o100_000;
            if let Some((size, data)) = self.file(n)
                && regular
                && !other
                && u64::try_from(stat.st_size).ok() == Some(size)
                && self.holes(&own, size, data, tick)?
            {
                self.good.insert(n);
            }
        }
        if self.delete {
            self.unlisted(tick, |dir, name, own, tick| self.removable(dir, name, own, tick))?;
        }
        Ok(())
    }

    /// Whether nothing of what is there may change.
    fn fixed(&self, own: &[u8]) -> bool {
        name(&self.root, own).is_ok_and(|(fd, _)| fixed(fd))
    }

    /// Whether a name will be another one, as far as its length, mode, owner and time tell.
    fn changes(&self, n: u32, stat: Option<&Stat>, own: &[u8]) -> bool {
        let (Some(entry), Some(stat)) = (self.entry(n), stat) else { return true };
        let size = u64::try_from(stat.st_size).ok();
        let kind = match &entry.kind {
            // Another name of what was looked at.
            Kind::Same(_) => return stat.st_nlink < 2,
            Kind::File(length, _) => stat.st_mode & KIND == 0o100_000 && size == Some(*length),
            kind => self.is(kind, stat, own),
        };
        // A directory's time is that of the names in it, which are looked at one by one.
        let time = match entry.kind {
            Kind::Directory | Kind::Mount | Kind::Link(_) => true,
            _ => attributes::time(stat) == entry.time,
        };
        !kind || !time || (stat.st_uid, stat.st_gid) != entry.owner
    }

    /// Tries names that not every file system takes, and those which are one name where upper and
    /// lower case are not told apart: the second would take the place of the first.
    fn names(&self, tick: &mut dyn FnMut()) -> Result<(), Wrong> {
        let odd = |name: &[u8]| {
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || PLAIN.contains(byte);
            name.len() > SHORT
                || name.ends_with(b".")
                || name.ends_with(b" ")
                || !name.iter().all(plain)
        };
        let mut alike: BTreeMap<(u32, String), Vec<u32>> = BTreeMap::new();
        for (n, entry) in (0..).zip(self.listing.entries()).skip(1) {
            tick();
            if odd(&entry.name) {
                self.takes(&[n])?;
            }
            let name = String::from_utf8_lossy(&entry.name).to_lowercase();
            alike.entry((entry.parent, name)).or_default().push(n);
        }
        alike.values().filter(|all| all.len() > 1).try_for_each(|all| {
            tick();
            self.takes(all)
        })
    }

    /// Makes these names side by side, and takes them away.
    fn takes(&self, all: &[u32]) -> Result<(), Wrong> {
        let (mut made, mut done) = (Vec::new(), Ok(()));
        for n in all {
            let name = self.entry(*n).map_or(&[][..], |entry| &*entry.name);
            if let Err(errno) = mkdirat(&self.stage, path(name), PRIVATE) {
                done = Err((self.listing.path(*n), errno));
                break;
            }
            made.push(name);
        }
        // Some make both, and find the first by either name.
        let mut found = HashSet::new();
        for (n, name) in all.iter().zip(&made) {
            let is = statat(&self.stage, path(name), AtFlags::SYMLINK_NOFOLLOW);
            if done.is_ok() && !is.is_ok_and(|is| found.insert(is.st_ino)) {
                done = Err((self.listing.path(*n), Errno::EXIST));
            }
        }
        for name in made {
            unlinkat(&self.stage, path(name), AtFlags::REMOVEDIR).map_err(at(STAGE))?;
        }
        done
    }

    /// Whether that is already there, but for attributes and the content of files.
    fn is(&self, kind: &Kind, stat: &Stat, own: &[u8]) -> bool {
        let has = stat.st_mode & KIND;
        match kind {
            Kind::Directory | Kind::Mount => has == 0o040_000,
            Kind::File(..) | Kind::Same(_) => false,
            Kind::Link(to) => {
                has == 0o120_000
                    && name(&self.root, own)
                        .and_then(|(fd, _)| readlinkat(fd, "", Vec::new()))
                        .is_ok_and(|own| own.as_bytes() == to.as_slice())
            }
            Kind::Node(of, major, minor) => {
                has == u32::from(*of)
                    && (stat.st_rdev == makedev(*major, *minor)
                        || !matches!(of, 0o020_000 | 0o060_000))
            }
        }
    }

    /// A link, device, pipe or socket in the stage.
    fn make(&self, kind: &Kind) -> Result<(), Errno> {
        match kind {
            Kind::Link(to) => symlinkat(path(to), &self.stage, path(NEW)),
            Kind::Node(of, major, minor) => {
                let of = FileType::from_raw_mode((*of).into());
                mknodat(&self.stage, path(NEW), of, Mode::RUSR, makedev(*major, *minor))
            }
            _ => Ok(()),
        }
    }

    /// Tries each kind once: the user or the file system may not have it.
    fn makes(&self, kind: &Kind, tried: &mut HashSet<u16>) -> Result<(), Errno> {
        let of = match kind {
            Kind::Link(_) => 0,
            Kind::Node(of, ..) => *of,
            _ => return Ok(()),
        };
        if tried.insert(of) {
            self.make(kind)?;
            unlinkat(&self.stage, path(NEW), AtFlags::empty())?;
        }
        Ok(())
    }

    /// Whether a path, or the directory that it is in, may not change.
    fn shut(&self, own: &[u8]) -> bool {
        let above = own.iter().rposition(|byte| *byte == b'/').and_then(|at| own.get(..at));
        self.fixed(own) || self.fixed(above.unwrap_or(b"."))
    }

    fn there(&self, own: &[u8]) -> Result<Option<(OwnedFd, Stat)>, Wrong> {
        match name(&self.root, own) {
            Ok(found) => Ok(Some(found)),
            // A link where a directory will be.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err((own.to_vec(), errno)),
        }
    }

    /// Whether a file has zeros where the sender's has holes.
    fn holes(
        &self,
        own: &[u8],
        size: u64,
        data: &[Extent],
        tick: &mut dyn FnMut(),
    ) -> Result<bool, Wrong> {
        let all = [Extent { start: 0, length: size }];
        if data == grains(size, &all) {
            return Ok(true);
        }
        let file = self.root.file(path(own)).map_err(io(own))?;
        let mut buffer = vec![0; PIECE];
        let starts = data.iter().map(|run| run.start).chain([size]);
        let ends = [0].into_iter().chain(data.iter().map(Extent::end));
        for (mut from, to) in ends.zip(starts) {
            while from < to {
                // Its own holes need not be read.
                match seek(&file, SeekFrom::Data(from)) {
                    Ok(at) => from = at.max(from),
                    Err(Errno::NXIO) => break,
                    Err(_) => {}
                }
                if from >= to {
                    break;
                }
                let most = usize::try_from(to - from).unwrap_or(PIECE).min(PIECE);
                tick();
                let some = buffer.get_mut(..most).unwrap_or_default();
                file.read_exact_at(some, from).map_err(io(own))?;
                if some.iter().any(|byte| *byte != 0) {
                    return Ok(false);
                }
                from += most as u64;
            }
        }
        Ok(true)
    }

    fn scan(&mut self, tick: &mut dyn FnMut()) -> Result<Bits, Wrong> {
        self.survey(tick)?;
        let mut have = Bits::new(self.manifest.layout.count());
        for n in 0..have.len() {
            tick();
            if self.read(n)?.is_some() {
                have.add(n);
            }
        }
        Ok(have)
    }

    /// The file's own bytes, or those beside; none when it is not there.
    fn opened(&mut self, n: u32) -> Result<Option<&File>, Wrong> {
        let beside = self.staged.contains(&n) && !self.moved;
        if self.open.as_ref().is_none_or(|open| (open.0, open.1) != (n, beside)) {
            let own = self.listing.path(n);
            let file = match beside {
                true => {
                    let flags = OFlags::RDWR | OFlags::NOFOLLOW;
                    let file = self.stage.at(path(self.beside(n).as_bytes()), flags, Mode::empty());
                    Ok(File::from(file.map_err(at(STAGE))?))
                }
                false => self.root.file(path(&own)),
            };
            self.open = match file {
                Ok(file) => Some((n, beside, file)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
                // No directory, or a link in its place.
                Err(e) if matches!(by_error(&e), Errno::NOTDIR | Errno::LOOP) => None,
                Err(e) => return Err(io(&own)(e)),
            };
            if self.open.is_none() {
                return Ok(None);
            }
        }
        Ok(self.open.as_ref().map(|open| &open.2))
    }

    /// Bytes of a file as they are, zeros behind its end; false when it has fewer.
    fn part(&mut self, part: Part, buffer: &mut [u8]) -> Result<bool, Wrong> {
        let Some((size, _)) = self.file(part.entry) else { return Ok(false) };
        let own = self.listing.path(part.entry);
        let there = usize::try_from(size.saturating_sub(part.at)).unwrap_or(usize::MAX);
        let (bytes, rest) = buffer.split_at_mut(there.min(buffer.len()));
        rest.fill(0);
        let Some(file) = self.opened(part.entry)? else { return Ok(false) };
        match file.read_exact_at(bytes, part.at) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(io(&own)(e)),
        }
    }

    fn parts(&self, n: u32) -> Vec<Part> {
        let layout = &self.manifest.layout;
        let pieces = layout.chunk(n).into_iter().flat_map(|chunk| layout.pieces(chunk));
        pieces.flat_map(|piece| self.listing.parts(piece)).collect()
    }

    /// A chunk, if the files have it.
    fn read(&mut self, n: u32) -> Result<Option<Arc<Vec<u8>>>, Wrong> {
        let mut all = Vec::new();
        for part in self.parts(n) {
            let from = all.len();
            all.resize(from + usize::try_from(part.length).unwrap_or(0), 0);
            if !self.part(part, all.get_mut(from..).unwrap_or_default())? {
                return Ok(None);
            }
        }
        Ok(Some(all).filter(|all| self.manifest.is(n, all)).map(Arc::new))
    }

    fn store(&mut self, n: u32, data: &[u8], tick: &mut dyn FnMut()) -> Result<(), Wrong> {
        let mut rest = data;
        for part in self.parts(n) {
            let length = usize::try_from(part.length).unwrap_or(0).min(rest.len());
            let (bytes, behind) = rest.split_at(length);
            rest = behind;
            if self.good.contains(&part.entry) && !self.staged.contains(&part.entry) {
                let mut own = vec![0; length];
                if self.part(part, &mut own)? && own == bytes {
                    continue;
                }
            }
            self.stage(part.entry, tick)?;
            let size = self.file(part.entry).map_or(0, |file| file.0);
            let there = usize::try_from(size.saturating_sub(part.at)).unwrap_or(usize::MAX);
            let bytes = bytes.get(..there.min(length)).unwrap_or_default();
            if let Some(file) = self.opened(part.entry)? {
                file.write_all_at(bytes, part.at).map_err(io(STAGE))?;
            }
        }
        Ok(())
    }

    /// A file is written beside from now on, and has there what it had before.
    fn stage(&mut self, n: u32, tick: &mut dyn FnMut()) -> Result<(), Wrong> {
        let Some((size, data)) = self.file(n) else { return Ok(()) };
        if self.staged.contains(&n) {
            return Ok(());
        }
        let data = data.to_vec();
        self.open = None;
        let name = self.beside(n);
        let begun = format!("{name}~");
        let _ = unlinkat(&self.stage, &begun, AtFlags::empty());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = self.stage.at(path(begun.as_bytes()), flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(file.map_err(at(STAGE))?);
        file.set_len(size).map_err(io(STAGE))?;
        let mut buffer = vec![0; PIECE];
        for run in data {
            let (mut from, end) = (run.start, run.end().min(size));
            while from < end {
                tick();
                let most = usize::try_from(end - from).unwrap_or(PIECE).min(PIECE);
                let some = buffer.get_mut(..most).unwrap_or_default();
                let part = Part { entry: n, at: from, length: most as u64 };
                if !self.part(part, some)? {
                    break;
                }
                file.write_all_at(some, from).map_err(io(STAGE))?;
                from += most as u64;
            }
        }
        // A copy that is broken off here begins this file again.
        renameat(&self.stage, begun, &self.stage, &name).map_err(at(STAGE))?;
        self.staged.insert(n);
        self.open = None;
        Ok(())
    }

    /// All data is there: it is read back, and takes its place.
    fn finish(&mut self, tick: &mut dyn FnMut()) -> Result<Result<bool, String>, Wrong> {
        let files = 0..self.listing.entries().len() as u32;
        for n in files.filter(|n| self.file(*n).is_some()).collect::<Vec<_>>() {
            if !self.good.contains(&n) {
                self.stage(n, tick)?;
            }
        }
        flushed(|| syncfs(&self.root), written, LOOKS, tick).map_err(at(b"."))?;
        if self.read_back {
            for n in &self.staged {
                let own = self.beside(*n);
                let file = self.stage.at(path(own.as_bytes()), OFlags::RDONLY, Mode::empty());
                let _ = fadvise(file.map_err(at(STAGE))?, 0, None, Advice::DontNeed);
            }
            self.open = None;
            let runs: Vec<_> =
                self.listing.runs().filter(|(n, _)| self.staged.contains(n)).collect();
            let chunks = 0..self.manifest.layout.count();
            let layout = self.manifest.clone();
            let mut at = 0;
            for n in chunks {
                let Some(chunk) = layout.layout.chunk(n) else { continue };
                let end = chunk.start + u64::from(chunk.bytes);
                while runs.get(at).is_some_and(|(_, run)| run.end() <= chunk.start) {
                    at += 1;
                }
                let touched = runs.get(at).is_some_and(|(_, run)| run.start < end);
                tick();
                if touched && self.read(n)?.is_none() {
                    let names = self.parts(n);
                    let name = names.first().map_or(0, |part| part.entry);
                    return Ok(Err(format!(
                        "{}, or a file behind it: has other bytes than were written to it",
                        shown(&self.listing.path(name))
                    )));
                }
            }
        }
        let mut lost = Lost::new();
        let placed = self.place(&mut lost, tick)?;
        self.moved = true;
        self.open = None;
        let rest = |n: &u32, entry: &Entry| entry.kind != Kind::Directory && !placed.contains(n);
        self.attributes(rest, &mut lost, tick)?;
        let deleted = match self.delete {
            true => self.unlisted(tick, |dir, name, _, tick| self.remove(dir, name, tick)),
            false => Ok(()),
        };
        // Before the root gets its time.
        self.remove(&self.root, STAGE, tick)?;
        self.attributes(|_, entry| entry.kind == Kind::Directory, &mut lost, tick)?;
        flushed(|| syncfs(&self.root), written, LOOKS, tick).map_err(at(b"."))?;
        let warn = |text: String| eprintln!("{}: WARNING: {text}", self.program);
        lines(&lost).into_iter().for_each(warn);
        // The tree has the modes of the sender's whatever happens here.
        deleted?;
        Ok(Ok(self.read_back))
    }

    /// The directory of a path, and the name in it.
    fn parent(&self, n: u32) -> Result<(Directory, Vec<u8>), Wrong> {
        let entry = self.entry(n);
        let (parent, name) = entry.map_or((0, Vec::new()), |e| (e.parent, e.name.clone()));
        let dir = self.listing.path(parent);
        Ok((self.root.directory(path(&dir)).map_err(io(&dir))?, name))
    }

    /// Every name becomes what it is at the sender. What is new has its owner, mode and attributes
    /// before it has its name; it is returned.
    fn place(&self, lost: &mut Lost, tick: &mut dyn FnMut()) -> Result<HashSet<u32>, Wrong> {
        let mut placed = HashSet::new();
        for n in 1..self.listing.entries().len() as u32 {
            tick();
            let own = self.listing.path(n);
            let wrong = at(&own);
            let Some(entry) = self.entry(n) else { continue };
            let (dir, name) = self.parent(n)?;
            let there = match statat(&dir, path(&name), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Some(stat),
                Err(Errno::NOENT) => None,
                Err(errno) => return Err(wrong(errno)),
            };
            if there.is_some_and(|stat| self.is(&entry.kind, &stat, &own)) {
                // Names in a directory that even its owner may not write to; it gets its mode again.
                let may = || accessat(&dir, path(&name), Access::WRITE_OK, AtFlags::empty());
                if entry.kind == Kind::Directory && may().is_err() {
                    let fd = dir.at(path(&name), NAME, Mode::empty()).map_err(&wrong)?;
                    let mode = fstat(&fd).map_err(&wrong)?.st_mode & !KIND;
                    let _ = chmod(by_number(&fd), Mode::from_raw_mode(mode) | PRIVATE);
                }
                continue;
            }
            let directory = there.is_some_and(|stat| stat.st_mode & KIND == 0o040_000);
            let new = path(NEW);
            let _ = unlinkat(&self.stage, new, AtFlags::empty());
            match &entry.kind {
                Kind::Directory | Kind::Mount => {
                    if there.is_some() {
                        self.remove(&dir, &name, tick)?;
                    }
                    mkdirat(&dir, path(&name), PRIVATE).map_err(wrong)?;
                    continue;
                }
                Kind::File(..) if !self.staged.contains(&n) => continue,
                Kind::File(..) => {
                    let beside = self.beside(n);
                    renameat(&self.stage, beside, &self.stage, new).map_err(at(STAGE))?;
                }
                Kind::Link(_) | Kind::Node(..) => self.make(&entry.kind).map_err(&wrong)?,
                Kind::Same(first) => {
                    let (other, first) = self.parent(*first)?;
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    let is = statat(&other, path(&first), flags).map_err(&wrong)?;
                    if there.is_some_and(|own| (own.st_dev, own.st_ino) == (is.st_dev, is.st_ino)) {
                        continue;
                    }
                    linkat(&other, path(&first), &self.stage, new, AtFlags::empty())
                        .map_err(&wrong)?;
                }
            }
            if !matches!(entry.kind, Kind::Same(_)) {
                let fd = self.stage.at(new, NAME, Mode::empty()).map_err(at(STAGE))?;
                set(&fd, entry, &own, lost)?;
                placed.insert(n);
            }
            if directory {
                self.remove(&dir, &name, tick)?;
            }
            renameat(&self.stage, new, &dir, path(&name)).map_err(wrong)?;
        }
        Ok(placed)
    }

    /// Does something with each name that the sender does not have, in directories that it has.
    fn unlisted(
        &self,
        tick: &mut dyn FnMut(),
        act: impl Fn(&Directory, &[u8], &[u8], &mut dyn FnMut()) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        let mut listed: BTreeMap<u32, BTreeSet<&[u8]>> = BTreeMap::new();
        for (n, entry) in (0..).zip(self.listing.entries()) {
            if entry.kind == Kind::Directory {
                listed.entry(n).or_default();
            }
            if n > 0 {
                listed.entry(entry.parent).or_default().insert(&entry.name);
            }
        }
        for (n, names) in listed {
            tick();
            let above = self.listing.path(n);
            let dir = match self.root.directory(path(&above)) {
                Ok(dir) => dir,
                Err(e) => match by_error(&e) {
                    // It will be made.
                    Errno::NOENT | Errno::NOTDIR | Errno::LOOP => continue,
                    errno => return Err((above, errno)),
                },
            };
            self.here(&dir).map_err(at(&above))?;
            let there = Dir::read_from(&dir).map_err(at(&above))?.filter_map(Result::ok);
            for name in there.map(|one| one.file_name().to_bytes().to_vec()) {
                let keeps = matches!(&*name, b"." | b"..") || (n == 0 && name == STAGE);
                if !keeps && !names.contains(&*name) {
                    let own = if n == 0 { name.clone() } else { [&*above, b"/", &name].concat() };
                    act(&dir, &name, &own, tick)?;
                }
            }
        }
        Ok(())
    }

    /// A directory of the same file system.
    fn here(&self, dir: &Directory) -> Result<(), Errno> {
        if fstat(dir)?.st_dev == self.device { Ok(()) } else { Err(Errno::XDEV) }
    }

    /// Whether nothing is mounted at or below a name.
    fn removable(
        &self,
        dir: &Directory,
        name: &[u8],
        own: &[u8],
        tick: &mut dyn FnMut(),
    ) -> Result<(), Wrong> {
        tick();
        let wrong = at(own);
        // A file can be a mount, too.
        let fd = match dir.at(path(name), NAME, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            fd => fd.map_err(&wrong)?,
        };
        if fixed(&fd) || fixed(dir) {
            return Err(wrong(Errno::PERM));
        }
        if fstat(&fd).map_err(&wrong)?.st_mode & KIND != 0o040_000 {
            return Ok(());
        }
        let below = dir.directory(path(name)).map_err(io(own))?;
        self.here(&below).map_err(&wrong)?;
        for one in Dir::read_from(&below).map_err(&wrong)? {
            let name = one.map_err(&wrong)?.file_name().to_bytes().to_vec();
            if !matches!(&*name, b"." | b"..") {
                self.removable(&below, &name, &[own, b"/", &name].concat(), tick)?;
            }
        }
        Ok(())
    }

    /// A name, and all that is below it. Nothing of another file system.
    fn remove(&self, dir: &Directory, own: &[u8], tick: &mut dyn FnMut()) -> Result<(), Wrong> {
        tick();
        let wrong = at(own);
        match unlinkat(dir, path(own), AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {}
            done => return done.map_err(wrong),
        }
        let below = dir.directory(path(own)).map_err(io(own))?;
        self.here(&below).map_err(&wrong)?;
        for one in Dir::read_from(&below).map_err(&wrong)? {
            let name = one.map_err(&wrong)?.file_name().to_bytes().to_vec();
            if !matches!(&*name, b"." | b"..") {
                self.remove(&below, &name, tick)?;
            }
        }
        unlinkat(dir, path(own), AtFlags::REMOVEDIR).map_err(wrong)
    }

    /// Owner, mode, attributes and time of these names, what is in a directory before it.
    fn attributes(
        &self,
        of: impl Fn(&u32, &Entry) -> bool,
        lost: &mut Lost,
        tick: &mut dyn FnMut(),
    ) -> Result<(), Wrong> {
        for n in (0..self.listing.entries().len() as u32).rev() {
            tick();
            let Some(entry) = self.entry(n).filter(|entry| of(&n, entry)) else { continue };
            let own = self.listing.path(n);
            let fd = match self.root.at(path(&own), NAME, Mode::empty()) {
                Err(Errno::XDEV) if entry.kind == Kind::Mount => continue,
                fd => fd.map_err(at(&own))?,
            };
            let other = fstat(&fd).map_err(at(&own))?.st_dev != self.device;
            if matches!(entry.kind, Kind::Same(_)) || entry.kind == Kind::Mount && other {
                continue;
            }
            set(&fd, entry, &own, lost)?;
        }
        Ok(())
    }
}

/// Pages that the system has written out since it started, if it tells.
fn written() -> Option<u64> {
    let all = std::fs::read_to_string("/proc/vmstat").ok()?;
    all.lines().find_map(|line| line.strip_prefix("nr_written ")?.parse().ok())
}

/// Does what may take long and says nothing, beside a sign of life for each look that finds more
/// written than the one before.
fn flushed(
    flush: impl FnOnce() -> Result<(), Errno> + Send,
    written: impl Fn() -> Option<u64>,
    looks: Duration,
    tick: &mut dyn FnMut(),
) -> Result<(), Errno> {
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || tell.send(flush()));
        let mut last = written();
        loop {
            match told.recv_timeout(looks) {
                Ok(done) => return done,
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(Errno::IO),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            let now = written();
            if now != last || now.is_none() {
                tick();
            }
            last = now;
        }
    })
}

/// Owner, mode, attributes and time of a name.
fn set(fd: &OwnedFd, entry: &Entry, own: &[u8], lost: &mut Lost) -> Result<(), Wrong> {
    for (what, errno) in attributes::set(fd, entry).map_err(at(own))? {
        match lost.get_mut(&what) {
            Some(first) => first.2 += 1,
            None => drop(lost.insert(what, (own.to_vec(), errno, 0))),
        }
    }
    Ok(())
}

/// What could not be set, for the user.
fn lines(lost: &Lost) -> Vec<String> {
    let line = |(what, (path, errno, more)): (&String, &(Vec<u8>, Errno, u64))| {
        let more = if *more > 0 { format!(", and of {more} more") } else { String::new() };
        format!("{} of {}{more} could not be set: {errno}", shown(what.as_bytes()), shown(path))
    };
    let mut all: Vec<String> = lost.iter().take(LINES).map(line).collect();
    if lost.len() > LINES {
        all.push(format!("{} more attributes could not be set", lost.len() - LINES));
    }
    all
}

impl Drop for Target {
    /// With files of a copy that was broken off it stays.
    fn drop(&mut self) {
        let _ = unlinkat(&self.root, path(STAGE), AtFlags::REMOVEDIR);
    }
}

/// Names that are no part of a tree.
fn own(name: &[u8]) -> bool {
    matches!(name, b"." | b"..") || name == STAGE
}

impl Shelf for Target {
    fn ask(&mut self, ask: Ask, tick: &mut dyn FnMut()) -> Told {
        let told = match ask {
            Ask::Look => self.look(tick).map(Told::Looked),
            Ask::Scan => self.scan(tick).map(Told::Scanned),
            Ask::Store(n, data) => self.store(n, &data, tick).map(|()| Told::Stored(n)),
            // It is had elsewhere.
            Ask::Read(n) => Ok(Told::Read(n, self.read(n).ok().flatten())),
            Ask::Finish => self.finish(tick).map(|kept| match kept {
                Ok(read_back) => Told::Kept(read_back),
                Err(why) => Told::Failed(why),
            }),
        };
        told.unwrap_or_else(|(path, errno)| {
            let remedy = match errno {
                Errno::ISDIR => {
                    ": it is a directory here, and none at the sender; --delete takes it away"
                }
                Errno::XDEV => {
                    ": another file system, a mount or a subvolume is there, which --files neither \
                     changes nor deletes; take it away, or copy to another directory"
                }
                Errno::PERM if self.shut(&path) => FIXED,
                Errno::EXIST => {
                    ": another name of the sender's is the same one here; this file system does not \
                     tell upper from lower case"
                }
                Errno::INVAL | Errno::ILSEQ | Errno::NAMETOOLONG => {
                    ": this file system does not take the name"
                }
                Errno::NOSPC | Errno::DQUOT => {
                    ": what differs needs room beside the old files; make some, and the next copy \
                     goes on with what came"
                }
                Errno::PERM => {
                    ": run it as root; some file systems and containers refuse even that"
                }
                _ => "",
            };
            Told::Failed(format!("{}: {errno}{remedy}", shown(&path)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clone::room::manifest::Layout;
    use std::fs::{Permissions, create_dir, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    fn target(dir: &Path) -> Result<Target, String> {
        let (owner, attributes) = ((0, 0), Vec::new());
        let (kind, name, time) = (Kind::Directory, Vec::new(), (1, 0));
        let root = Entry { parent: 0, name, mode: 0o755, owner, time, attributes, kind };
        let listing = Listing::new(vec![root]).unwrap();
        let layout = Layout::of_tree(4096, listing.bytes(), listing.write()).unwrap();
        Target::new("target", dir, &Arc::new(Manifest::plan(layout)), true, true)
    }

    #[test]
    fn a_stage_into_which_others_may_look_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(target(dir.path()).unwrap());
        let stage = dir.path().join(path(STAGE));
        assert!(!stage.exists());
        create_dir(&stage).unwrap();
        for (mode, good) in [(0o750, false), (0o705, false), (0o701, false), (0o700, true)] {
            set_permissions(&stage, Permissions::from_mode(mode)).unwrap();
            match target(dir.path()) {
                Ok(_) => assert!(good, "{mode:o}"),
                Err(why) => {
                    assert!(!good, "{mode:o}: {why}");
                    assert!(why.contains(".bellwether-copy: another user"), "{why}");
                    assert!(why.contains("delete it, and begin again"), "{why}");
                }
            }
        }
    }

    /// Where case is not told apart the second took the place of the first.
    #[test]
    fn two_names_that_are_one_are_refused_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut own = target(dir.path()).unwrap();
        let entry = |parent, name: &[u8]| {
            let (owner, time, attributes) = ((0, 0), (1, 0), Vec::new());
            let (name, kind) = (name.to_vec(), Kind::Directory);
            Entry { parent, name, mode: 0o755, owner, time, attributes, kind }
        };
        let all = vec![entry(0, b""), entry(0, b"A"), entry(0, b"a")];
        own.listing = Listing::new(all).unwrap();
        assert_eq!(own.names(&mut || ()), Ok(()));
        assert_eq!(own.takes(&[1, 1]), Err((b"A".to_vec(), Errno::EXIST)));
        assert_eq!(std::fs::read_dir(dir.path().join(path(STAGE))).unwrap().count(), 0);
    }

    /// Peers gave up on a machine whose system wrote out for more than five minutes.
    #[test]
    fn writing_out_gives_signs_of_life_as_long_as_it_goes_on() {
        let (end, wait) = mpsc::channel();
        let (pages, ticks) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        let flush = move || wait.recv().map_err(|_| Errno::IO);
        // From the fifth page on nothing is written any more.
        let written = || {
            pages.set(pages.get() + 1);
            if pages.get() == 9 {
                end.send(()).unwrap();
            }
            Some(pages.get().min(5))
        };
        let mut tick = || ticks.set(ticks.get() + 1);
        flushed(flush, written, Duration::from_millis(1), &mut tick).unwrap();
        assert_eq!(ticks.get(), 4);
        assert!(super::written().is_some());
    }

    /// A sender could write to the terminal of who copies.
    #[test]
    fn names_of_attributes_are_shown_without_control_characters_and_not_without_end() {
        let mut lost = Lost::new();
        for n in 0..LINES + 3 {
            let what = format!("user.\u{1b}[31m{n:02}");
            lost.insert(what, (b"a\nb".to_vec(), Errno::PERM, n as u64));
        }
        let all = lines(&lost);
        assert_eq!(all.len(), LINES + 1);
        assert!(!all.concat().contains(|c: char| c.is_control()), "{all:?}");
        assert!(all[1].contains(", and of 1 more could not be set: "), "{all:?}");
        assert_eq!(all[LINES], "3 more attributes could not be set");
    }
}
