//! A tree that takes a copy.
//!
//! Nothing below the directory changes until all data is there and was read back: what differs is
//! written to files in a directory beside ([`STAGE`]), which then take the place of the old ones.
//! That directory stays when a copy is broken off, and the next one goes on with it. Every path is
//! resolved from the directory by a call that follows no link and leaves it not.

use super::{KIND, NAME, attributes, name, path, shown};
use ::share::beneath::Directory;
use clone::edge::world::Shelf;
use clone::room::bits::Bits;
use clone::room::manifest::{Extent, Manifest};
use clone::room::tree::{Entry, Kind, Listing, Part, STAGE, grains};
use clone::room::{Ask, Told};
use rustix::fs::{
    Advice, AtFlags, Dir, FlockOperation, Mode, OFlags, Stat, fadvise, flock, fstat, linkat,
    makedev, mkdirat, mknodat, readlinkat, renameat, statat, symlinkat, syncfs, unlinkat,
};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Reads and writes of a file are of so many bytes.
const PIECE: usize = 256 << 10;
/// Whose owner alone may look.
const PRIVATE: Mode = Mode::RWXU;

/// A tree that becomes the sender's.
#[derive(Debug)]
pub struct Target {
    root: Directory,
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

/// What went wrong, and where.
type Wrong = (Vec<u8>, Errno);

/// What could not be kept: of which path first, why, and of how many more.
type Lost = BTreeMap<String, (Vec<u8>, Errno, u64)>;

/// Errors of this path.
fn at<'p>(path: &'p [u8]) -> impl Fn(Errno) -> Wrong + 'p {
    move |errno| (path.to_vec(), errno)
}

fn io(path: &[u8]) -> impl Fn(std::io::Error) -> Wrong + '_ {
    move |e| (path.to_vec(), Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

impl Target {
    /// The directory `dir` for the tree of this manifest. Only the directory beside is made.
    pub fn new(
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
        let root = Directory::open(dir).map_err(|e| e.to_string())?;
        match mkdirat(&root, path(STAGE), PRIVATE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let stage = root.directory(path(STAGE)).map_err(|e| format!("{}: {e}", dir.display()))?;
        flock(&stage, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| format!("{}: another copy is made there", dir.display()))?;
        let (good, staged) = (BTreeSet::new(), BTreeSet::new());
        let manifest = manifest.clone();
        let open = None;
        Ok(Self {
            root,
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

    /// A new directory has nothing to look at.
    fn look(&self) -> Result<bool, Wrong> {
        let here = at(b".");
        let some = |dir: &Directory| -> Result<bool, Errno> {
            let names = Dir::read_from(dir)?.filter_map(Result::ok);
            Ok(names.map(|one| one.file_name().to_bytes().to_vec()).any(|n| !own(&n)))
        };
        Ok(some(&self.root).map_err(&here)? || some(&self.stage).map_err(here)?)
    }

    /// What is there: which files may stay, which were begun, and what no copy can be made over.
    fn survey(&mut self) -> Result<(), Wrong> {
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
                None => self.remove(&self.stage, &name)?,
            }
        }
        let mut seen = HashSet::new();
        for n in 1..self.listing.entries().len() as u32 {
            let own = self.listing.path(n);
            let Some(stat) = self.there(&own)? else { continue };
            let directory = stat.st_mode & KIND == 0o040_000;
            let wanted = self.entry(n).is_some_and(|entry| entry.kind == Kind::Directory);
            if directory && !wanted && !self.delete {
                return Err((own, Errno::ISDIR));
            }
            // Of two names of one file only one can get its own content.
            let other = stat.st_nlink > 1 && !seen.insert((stat.st_dev, stat.st_ino));
            let regular = stat.st_mode & KIND == 0o100_000;
            if let Some((size, data)) = self.file(n)
                && regular
                && !other
                && u64::try_from(stat.st_size).ok() == Some(size)
                && self.holes(&own, size, data)?
            {
                self.good.insert(n);
            }
        }
        Ok(())
    }

    fn there(&self, own: &[u8]) -> Result<Option<Stat>, Wrong> {
        match name(&self.root, own) {
            Ok((_, stat)) => Ok(Some(stat)),
            // A link where a directory will be.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err((own.to_vec(), errno)),
        }
    }

    /// Whether a file has zeros where the sender's has holes.
    fn holes(&self, own: &[u8], size: u64, data: &[Extent]) -> Result<bool, Wrong> {
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
                let most = usize::try_from(to - from).unwrap_or(PIECE).min(PIECE);
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
        self.survey()?;
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
                Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::NOTDIR | Errno::LOOP)) => {
                    None
                }
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

    fn store(&mut self, n: u32, data: &[u8]) -> Result<(), Wrong> {
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
            self.stage(part.entry)?;
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
    fn stage(&mut self, n: u32) -> Result<(), Wrong> {
        let Some((size, data)) = self.file(n) else { return Ok(()) };
        if self.staged.contains(&n) {
            return Ok(());
        }
        let data = data.to_vec();
        self.open = None;
        let name = self.beside(n);
        let begun = format!("{name}~");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let file = self.stage.at(path(begun.as_bytes()), flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(file.map_err(at(STAGE))?);
        file.set_len(size).map_err(io(STAGE))?;
        let mut buffer = vec![0; PIECE];
        for run in data {
            let (mut from, end) = (run.start, run.end().min(size));
            while from < end {
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
                self.stage(n)?;
            }
        }
        syncfs(&self.root).map_err(at(b"."))?;
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
        self.place(tick)?;
        self.moved = true;
        self.open = None;
        if self.delete {
            self.delete()?;
        }
        // Before the root gets its time.
        self.remove(&self.root, STAGE)?;
        let lost = self.attributes(tick)?;
        syncfs(&self.root).map_err(at(b"."))?;
        for (what, (path, errno, more)) in lost {
            let more = if more > 0 { format!(", and of {more} more") } else { String::new() };
            eprintln!("receive: WARNING: {what} of {}{more} is not kept: {errno}", shown(&path));
        }
        Ok(Ok(self.read_back))
    }

    /// The directory of a path, and the name in it.
    fn parent(&self, n: u32) -> Result<(OwnedFd, Vec<u8>), Wrong> {
        let entry = self.entry(n);
        let (parent, name) = entry.map_or((0, Vec::new()), |e| (e.parent, e.name.clone()));
        let dir = self.listing.path(parent);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        Ok((self.root.at(path(&dir), flags, Mode::empty()).map_err(at(&dir))?, name))
    }

    /// Every name becomes what it is at the sender.
    fn place(&self, tick: &mut dyn FnMut()) -> Result<(), Wrong> {
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
            let kind = |kind: u32| there.is_some_and(|stat| stat.st_mode & KIND == kind);
            let new = path(b"new");
            let _ = unlinkat(&self.stage, new, AtFlags::empty());
            match &entry.kind {
                Kind::Directory => {
                    if !kind(0o040_000) {
                        if there.is_some() {
                            self.remove(&dir, &name)?;
                        }
                        mkdirat(&dir, path(&name), PRIVATE).map_err(wrong)?;
                    }
                    continue;
                }
                Kind::File(..) if !self.staged.contains(&n) => continue,
                Kind::File(..) => {
                    let beside = self.beside(n);
                    renameat(&self.stage, beside, &self.stage, new).map_err(at(STAGE))?;
                }
                Kind::Link(to) => {
                    let same = kind(0o120_000)
                        && readlinkat(&dir, path(&name), Vec::new())
                            .is_ok_and(|own| own.as_bytes() == to.as_slice());
                    if same {
                        continue;
                    }
                    symlinkat(path(to), &self.stage, new).map_err(&wrong)?;
                }
                Kind::Node(of, major, minor) => {
                    let device = makedev(*major, *minor);
                    let same = kind(u32::from(*of))
                        && there.is_some_and(|stat| {
                            stat.st_rdev == device || !matches!(of, 0o020_000 | 0o060_000)
                        });
                    if same {
                        continue;
                    }
                    let of = rustix::fs::FileType::from_raw_mode((*of).into());
                    mknodat(&self.stage, new, of, Mode::RUSR, device).map_err(&wrong)?;
                }
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
            if kind(0o040_000) {
                self.remove(&dir, &name)?;
            }
            renameat(&self.stage, new, &dir, path(&name)).map_err(wrong)?;
        }
        Ok(())
    }

    /// What the sender does not have goes.
    fn delete(&self) -> Result<(), Wrong> {
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
            let own = self.listing.path(n);
            let dir = self.root.directory(path(&own)).map_err(io(&own))?;
            let there = Dir::read_from(&dir).map_err(at(&own))?.filter_map(Result::ok);
            for name in there.map(|one| one.file_name().to_bytes().to_vec()) {
                let keeps = matches!(&*name, b"." | b"..") || (n == 0 && name == STAGE);
                if !keeps && !names.contains(&*name) {
                    self.remove(&dir, &name)?;
                }
            }
        }
        Ok(())
    }

    /// A name, and all that is below it. Nothing of another file system.
    fn remove(&self, dir: impl AsFd, own: &[u8]) -> Result<(), Wrong> {
        let wrong = at(own);
        match unlinkat(&dir, path(own), AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {}
            done => return done.map_err(wrong),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = rustix::fs::openat(&dir, path(own), flags, Mode::empty()).map_err(&wrong)?;
        let (inside, outside) = (fstat(&below).map_err(&wrong)?, fstat(&dir).map_err(&wrong)?);
        if inside.st_dev != outside.st_dev {
            return Err(wrong(Errno::XDEV));
        }
        for one in Dir::read_from(&below).map_err(&wrong)? {
            let name = one.map_err(&wrong)?.file_name().to_bytes().to_vec();
            if !matches!(&*name, b"." | b"..") {
                self.remove(&below, &name)?;
            }
        }
        unlinkat(&dir, path(own), AtFlags::REMOVEDIR).map_err(wrong)
    }

    /// Owner, mode, attributes and time of all names, those of directories last.
    fn attributes(&self, tick: &mut dyn FnMut()) -> Result<Lost, Wrong> {
        let mut lost: Lost = BTreeMap::new();
        // From the last to the first: what is in a directory comes behind it.
        for (n, entry) in
            (0..).zip(self.listing.entries()).collect::<Vec<(u32, _)>>().into_iter().rev()
        {
            if matches!(entry.kind, Kind::Same(_)) {
                continue;
            }
            tick();
            let own = self.listing.path(n);
            let fd = self.root.at(path(&own), NAME, Mode::empty()).map_err(at(&own))?;
            for (what, errno) in attributes::set(&fd, entry).map_err(at(&own))? {
                match lost.get_mut(&what) {
                    Some(first) => first.2 += 1,
                    None => drop(lost.insert(what, (own.clone(), errno, 0))),
                }
            }
        }
        Ok(lost)
    }
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
            Ask::Look => self.look().map(Told::Looked),
            Ask::Scan => self.scan(tick).map(Told::Scanned),
            Ask::Store(n, data) => self.store(n, &data).map(|()| Told::Stored(n)),
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
                Errno::XDEV => ": another file system is mounted there",
                _ => "",
            };
            Told::Failed(format!("{}: {errno}{remedy}", shown(&path)))
        })
    }
}
