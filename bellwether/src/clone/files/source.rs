//! A tree that is sent: its listing, and the bytes of its files.

use super::{KIND, attributes, by_error, name, path, shown};
use crate::failure::Failure;
use ::share::beneath::Directory;
use clone::Error;
use clone::edge::room::Readable;
use clone::room::manifest::Extent;
use clone::room::tree::{Entry, Kind, Listing, STAGE, grains};
use rustix::fs::{Dir, OFlags, SeekFrom, Stat, fstat, major, minor, readlinkat, seek};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

/// A tree.
#[derive(Debug)]
pub struct Source {
    root: Directory,
    pub listing: Listing,
    /// The file that was read last, and its number.
    open: Mutex<Option<(u32, File)>>,
}

/// What is found on the way.
struct Walk<'r> {
    root: &'r Directory,
    device: u64,
    entries: Vec<Entry>,
    /// Files with several names: device and number, and where the first one is.
    linked: HashMap<(u64, u64), u32>,
}

impl Source {
    /// Reads all names of the file system below this directory. Of another file system there only
    /// the directory is listed, as [`Kind::Mount`].
    pub fn open(dir: &Path) -> Result<Self, Failure> {
        super::directory(dir).map_err(Failure::Failed)?;
        let root = Directory::open(dir).map_err(|e| Failure::Failed(e.to_string()))?;
        let failed = |at: &[u8], e: Errno| {
            let at = if at == b"." { String::new() } else { format!("/{}", shown(at)) };
            Failure::Failed(format!("{}{at}: {e}", dir.display()))
        };
        let (fd, stat) = name(&root, b".").map_err(|e| failed(b".", e))?;
        let attributes = attributes::read(&fd).map_err(|e| failed(b".", e))?;
        let first = entry(0, Vec::new(), &stat, Kind::Directory, attributes);
        let (device, entries, linked) = (stat.st_dev, vec![first], HashMap::new());
        let mut walk = Walk { root: &root, device, entries, linked };
        walk.below(0, b".").map_err(|(at, e)| failed(&at, e))?;
        let listing = Listing::new(walk.entries);
        let listing =
            listing.map_err(|why| Failure::Failed(format!("{}: {why}", dir.display())))?;
        Ok(Self { root, listing, open: Mutex::default() })
    }
}

fn entry(
    parent: u32,
    name: Vec<u8>,
    stat: &Stat,
    kind: Kind,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
) -> Entry {
    let mode = u16::try_from(stat.st_mode & !KIND).unwrap_or(0);
    let (owner, time) = ((stat.st_uid, stat.st_gid), attributes::time(stat));
    Entry { parent, name, mode, owner, time, attributes, kind }
}

impl Walk<'_> {
    fn below(&mut self, parent: u32, dir: &[u8]) -> Result<(), (Vec<u8>, Errno)> {
        let at = |e| (dir.to_vec(), e);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = self.root.at(path(dir), flags, rustix::fs::Mode::empty()).map_err(at)?;
        let mut names = Vec::new();
        for one in Dir::read_from(&fd).map_err(at)? {
            let name = one.map_err(at)?.file_name().to_bytes().to_vec();
            let own = parent == 0 && name == STAGE;
            if name != b"." && name != b".." && !own {
                names.push(name);
            }
        }
        drop(fd);
        names.sort_unstable();
        for own in names {
            let path = if dir == b"." { own.clone() } else { [dir, b"/", &own].concat() };
            self.one(parent, own, &path).map_err(|e| (path.clone(), e)).and_then(|inside| {
                match inside {
                    Some(number) => self.below(number, &path),
                    None => Ok(()),
                }
            })?;
        }
        Ok(())
    }

    /// One name; its number if more is below it.
    fn one(&mut self, parent: u32, own: Vec<u8>, at: &[u8]) -> Result<Option<u32>, Errno> {
        let (fd, stat) = match name(self.root, at) {
            // It has just gone.
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let number = u32::try_from(self.entries.len()).map_err(|_| Errno::NOSPC)?;
        let kind = u16::try_from(stat.st_mode & KIND).unwrap_or(0);
        let again = (stat.st_dev, stat.st_ino);
        let first = match kind != 0o040_000 && stat.st_nlink > 1 {
            true => *self.linked.entry(again).or_insert(number),
            false => number,
        };
        if first != number {
            self.entries.push(entry(parent, own, &stat, Kind::Same(first), Vec::new()));
            return Ok(None);
        }
        let kind = match kind {
            0o040_000 if stat.st_dev != self.device => Kind::Mount,
            0o040_000 => Kind::Directory,
            0o100_000 => {
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let sparse = u64::try_from(stat.st_blocks).unwrap_or(0) * 512 < size;
                let data = match sparse {
                    true => self.data(at, size)?,
                    false => vec![Extent { start: 0, length: size }],
                };
                Kind::File(size, grains(size, &data))
            }
            0o120_000 => Kind::Link(readlinkat(&fd, "", Vec::new())?.into_bytes()),
            kind => Kind::Node(kind, major(stat.st_rdev), minor(stat.st_rdev)),
        };
        let below = kind == Kind::Directory;
        self.entries.push(entry(parent, own, &stat, kind, attributes::read(&fd)?));
        Ok(below.then_some(number))
    }

    /// Where a file has data.
    fn data(&self, at: &[u8], size: u64) -> Result<Vec<Extent>, Errno> {
        let file = self.root.file(path(at)).map_err(|e| by_error(&e))?;
        let (mut all, mut end) = (Vec::new(), 0);
        while end < size {
            let start = match seek(&file, SeekFrom::Data(end)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                Err(errno) => return Err(errno),
            };
            end = seek(&file, SeekFrom::Hole(start))?.min(size);
            all.push(Extent { start, length: end.saturating_sub(start) });
        }
        Ok(all)
    }
}

impl Readable for Source {
    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut done = 0;
        for part in self.listing.parts(Extent { start: at, length: buffer.len() as u64 }) {
            let failed = |e: std::io::Error| {
                let why = format!("{}: {e}", shown(&self.listing.path(part.entry)));
                Error::Source { why }
            };
            let file = match &mut *open {
                Some((number, file)) if *number == part.entry => file,
                other => {
                    let file = self.root.file(path(&self.listing.path(part.entry)));
                    &mut other.insert((part.entry, file.map_err(failed)?)).1
                }
            };
            let Some(Entry { kind: Kind::File(size, _), time, .. }) =
                self.listing.entries().get(part.entry as usize)
            else {
                break;
            };
            let end = done + usize::try_from(part.length).unwrap_or(usize::MAX);
            let Some(some) = buffer.get_mut(done..end) else { break };
            let there = usize::try_from(size.saturating_sub(part.at)).unwrap_or(usize::MAX);
            let (bytes, rest) = some.split_at_mut(there.min(some.len()));
            let read = file.read_exact_at(bytes, part.at);
            // Else a file could be half of the old one and half of the new one.
            let is = fstat(&*file).map_err(|e| failed(e.into()))?;
            if (u64::try_from(is.st_size).ok(), attributes::time(&is)) != (Some(*size), *time) {
                return Err(failed(std::io::Error::other("changed while it was read")));
            }
            read.map_err(failed)?;
            rest.fill(0);
            done = end;
        }
        Ok(done)
    }

    fn name(&self, at: u64) -> String {
        let part = self.listing.parts(Extent { start: at, length: 1 }).next();
        shown(&self.listing.path(part.map_or(0, |part| part.entry)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{OpenOptions, remove_file, write};

    #[test]
    fn a_file_that_changes_while_it_is_read_is_not_sent() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("a");
        let read = |source: &Source| source.read(0, &mut [0; 4096]).map_err(|e| e.to_string());
        let opened = || {
            write(&at, b"some").unwrap();
            Source::open(dir.path()).unwrap()
        };
        assert_eq!(read(&opened()), Ok(4096));
        let cases: [(&str, &dyn Fn()); 4] = [
            ("longer", &|| write(&at, b"some more").unwrap()),
            ("shorter", &|| write(&at, b"s").unwrap()),
            ("of the same size", &|| {
                write(&at, b"else").unwrap();
                let file = OpenOptions::new().write(true).open(&at).unwrap();
                file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
            }),
            ("another one", &|| {
                remove_file(&at).unwrap();
                write(&at, b"another").unwrap();
            }),
        ];
        for (what, change) in cases {
            // Once before it is opened, and once while it is.
            for open in [false, true] {
                let source = opened();
                if open {
                    assert_eq!(read(&source), Ok(4096));
                }
                change();
                let said = read(&source);
                // What was opened is still whole.
                let whole = open && what == "another one";
                let changed = said.as_ref().is_err_and(|why| why.contains("a: changed while it"));
                assert!(changed || whole && said == Ok(4096), "{what}: {said:?}");
            }
        }
        let source = opened();
        remove_file(&at).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &at, rustix::fs::Mode::RUSR).unwrap();
        let why = read(&source).unwrap_err();
        assert!(why.contains("not a regular file any more"), "{why}");
        drop(source);
        assert!(Source::open(dir.path()).is_ok(), "nothing waits for who writes to a pipe");
    }
}
