//! Archives unpacked into memory: a root that comes as tar or cpio, compressed or
//! not. One pass: what is expanded goes straight into files.
//!
//! Every path is resolved below the new root, links included, data go into regular
//! files only, and no device works while the archive is unpacked: an archive reaches
//! nothing else. Owners, permissions, times of files, devices, hard links and
//! extended attributes are kept.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use overlay::archive::{ArchiveError, Entry, Event, Kind, Reader, is_archive};
use overlay::expand::{ExpandError, expand, is_compressed};
use overlay::probe::{Format, probe};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fsetxattr, fstat, futimens, linkat, makedev, mkdirat, mknodat, openat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::{Errno, read};
use rustix::mount::{MountFlags, mount_remount};
use sys::file::{c_path, open_read, write_all};
use sys::mount::{detach, tmpfs};

use crate::block;
use crate::copy::Progress;
use crate::machine::Machine;
use crate::memory::{self, Size};
use crate::newroot::{self, NewRoot};
use crate::trace::Fault;

/// Bytes that tell what something is, once expanded: tar has its magic at 257.
const HEAD: usize = 1024;

/// Bytes read at a time from what is not compressed.
const BUFFER: usize = 64 << 10;

/// Which kind of archive a file or device holds, expanded if need be.
#[must_use]
pub fn archive_in(path: &str) -> Option<Format> {
    let found = block::inspect(path).ok()?.format;
    if !is_compressed(found) {
        return Some(found).filter(|format| is_archive(*format));
    }
    let source = open_read(path).ok()?;
    let mut head: Vec<u8> = Vec::new();
    // Ends by the error of the closure, as soon as there is enough.
    let _ = expand(found, &mut |room| read(&source, room), &mut |bytes| {
        head.extend(bytes.iter().take(HEAD - head.len()));
        if head.len() < HEAD { Ok(()) } else { Err(Errno::CANCELED) }
    });
    let inside = probe(&mut |at, room| {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let bytes = head.get(at..).unwrap_or_default();
        room.iter_mut().zip(bytes).for_each(|(slot, byte)| *slot = *byte);
        bytes.len().min(room.len())
    })?;
    Some(inside.format).filter(|format| is_archive(*format))
}

/// Unpacks an archive into a tmpfs at `target`; false when it is none.
///
/// # Errors
/// The archive cannot be read, is damaged, or does not fit into memory.
pub fn unpacked(machine: &mut Machine, path: &str, target: &str) -> Result<bool, Fault> {
    let Some(kind) = archive_in(path) else { return Ok(false) };
    let packed = block::inspect(path)?.format;
    let source = open_read(path).map_err(Fault::in_("cannot be read"))?;
    let size = block::length(path).unwrap_or(0);
    let room = memory::room_for(size, format_args!("must be unpacked into memory"))?;
    tmpfs(target, MountFlags::NODEV, &format!("mode=0755,size={room}"))
        .map_err(Fault::on(target))?;
    let name = path.rsplit('/').next().unwrap_or("archive");
    machine.log.info(&format!("unpacking {name} ({kind}, {}) into memory", Size(size)));
    let result = unpack(machine, &source, (packed, kind), target, name, size).and_then(|made| {
        if made == 0 {
            return Err(Fault::from("is an empty archive: it holds not one file"));
        }
        // The root that it becomes needs its devices.
        mount_remount(target, MountFlags::empty(), "").map_err(Fault::on(target))?;
        Ok(made)
    });
    match result {
        Ok(made) => {
            machine.log.info(&format!("unpacked {name}: {made} files and directories"));
            Ok(true)
        }
        Err(why) => {
            // The error below is the one to tell.
            let _ = detach(target);
            Err(why)
        }
    }
}

/// One pass over the archive; how many entries it had.
fn unpack(
    machine: &mut Machine,
    source: &OwnedFd,
    (packed, kind): (Format, Format),
    target: &str,
    name: &str,
    size: u64,
) -> Result<u64, Fault> {
    let mut tree = Tree::open(target).map_err(Fault::on(target))?;
    let mut reader = Reader::new(kind).ok_or("is no archive")?;
    let mut progress = Progress::new(&format!("unpacking {name}"), size);
    let log = &mut machine.log;
    let mut next = |room: &mut [u8]| loop {
        match read(source, &mut *room) {
            Ok(length) => {
                progress.add(log, length as u64);
                return Ok(length);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    };
    let mut failed = None;
    let mut push = |bytes: &[u8]| {
        reader.push(bytes, &mut |event| tree.take(event)).map_err(|error| {
            failed = Some(error);
            Errno::CANCELED
        })
    };
    let result = if is_compressed(packed) {
        expand(packed, &mut next, &mut push).map(drop)
    } else {
        plain(&mut next, &mut push)
    };
    match (failed, result) {
        (Some(error), _) => return Err(error.to_string().into()),
        (None, Err(error)) => return Err(error.to_string().into()),
        (None, Ok(())) => {}
    }
    reader.finish().map_err(|error| error.to_string())?;
    Ok(tree.made)
}

fn plain(
    next: &mut dyn FnMut(&mut [u8]) -> Result<usize, Errno>,
    push: &mut dyn FnMut(&[u8]) -> Result<(), Errno>,
) -> Result<(), ExpandError> {
    let mut buffer = alloc::vec![0; BUFFER];
    loop {
        let length = next(&mut buffer).map_err(ExpandError::Read)?;
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        push(bytes).map_err(ExpandError::Write)?;
    }
}

/// The new root while it is being filled.
struct Tree {
    root: NewRoot,
    /// The latest directory that something was made in, and its path.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// The file that data go to, and when it was changed last.
    file: Option<(OwnedFd, i64)>,
    left: u64,
    path: Vec<u8>,
    made: u64,
}

impl Tree {
    fn open(target: &str) -> Result<Self, Errno> {
        let root = NewRoot::at(target)?;
        Ok(Self { root, parent: None, file: None, left: 0, path: Vec::new(), made: 0 })
    }

    fn take(&mut self, event: Event<'_>) -> Result<(), ArchiveError> {
        let result = match event {
            Event::Entry(entry) => {
                self.path.clone_from(&entry.path);
                self.made += 1;
                if let Kind::Link(to) = &entry.kind
                    && entry.size > 0
                    && !self.is_file(to)
                {
                    let what = "data for a second name of what is no file";
                    return Err(ArchiveError::Unsupported(what));
                }
                self.make(entry)
            }
            Event::Data(bytes) => self.put(bytes),
        };
        result.map_err(|errno| {
            ArchiveError::Write(String::from_utf8_lossy(&self.path).to_string(), errno)
        })
    }

    /// Whether there is a regular file at a path. A device or pipe must not even be opened:
    /// that can wait for ever, and what is written leaves the tree.
    fn is_file(&self, path: &[u8]) -> bool {
        let file = self.root.resolve(path, OFlags::PATH | OFlags::NOFOLLOW).and_then(fstat);
        file.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let Some((file, mtime)) = &self.file else { return Ok(()) };
        write_all(file, bytes)?;
        self.left = self.left.saturating_sub(bytes.len() as u64);
        if self.left == 0 {
            // A time that cannot be set is missed by no boot.
            let _ = futimens(file, &times(*mtime));
            self.file = None;
        }
        Ok(())
    }

    /// The directory of a path, made when it is not there (archives need not name
    /// every directory, and name some late), and the path's last part.
    fn parent(&mut self, path: &[u8]) -> Result<(OwnedFd, CString), Errno> {
        let (above, name) = newroot::split(path)?;
        let known = self.parent.take().filter(|(known, _)| known.as_slice() == above);
        let (_, directory) = match known {
            Some(known) => self.parent.insert(known),
            None => {
                let made = self.root.make_until_link(above)?.map_err(|_| Errno::EXIST)?;
                self.parent.insert((above.to_vec(), made))
            }
        };
        Ok((rustix::io::fcntl_dupfd_cloexec(&*directory, 0)?, name))
    }

    fn make(&mut self, entry: &Entry) -> Result<(), Errno> {
        self.file = None;
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        let mode = Mode::from_raw_mode(entry.mode);
        if entry.path.is_empty() {
            return self.settle_directory(&[], entry);
        }
        let (parent, name) = self.parent(&entry.path)?;
        let name = &*name;
        let device = match entry.kind {
            Kind::Character(major, minor) => Some((FileType::CharacterDevice, major, minor)),
            Kind::Block(major, minor) => Some((FileType::BlockDevice, major, minor)),
            Kind::Fifo => Some((FileType::Fifo, 0, 0)),
            _ => None,
        };
        // What is there already gives way, but for directories, which are filled.
        if entry.kind == Kind::Directory {
            match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            return self.settle_directory(&entry.path, entry);
        }
        match unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        match &entry.kind {
            Kind::File => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = openat(&parent, name, flags, Mode::from_raw_mode(0o600))?;
                self.expect(file, entry)
            }
            Kind::Symlink(to) => {
                symlinkat(&*c_path(to)?, &parent, name)?;
                chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                // A time that cannot be set is missed by no boot.
                let _ = utimensat(&parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW);
                Ok(())
            }
            Kind::Link(to) => {
                let (other, first) = self.parent(to)?;
                linkat(&other, &*first, &parent, name, AtFlags::empty())?;
                if entry.size > 0 {
                    let flags = OFlags::WRONLY
                        | OFlags::TRUNC
                        | OFlags::NOFOLLOW
                        | OFlags::NONBLOCK
                        | OFlags::CLOEXEC;
                    let file = openat(&parent, name, flags, Mode::empty())?;
                    self.expect(file, entry)?;
                }
                Ok(())
            }
            _ => {
                let (kind, major, minor) = device.ok_or(Errno::INVAL)?;
                mknodat(&parent, name, kind, Mode::from_raw_mode(0o600), makedev(major, minor))?;
                chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                rustix::fs::chmodat(&parent, name, mode, AtFlags::empty())
            }
        }
    }

    /// A file whose data come next.
    fn expect(&mut self, file: OwnedFd, entry: &Entry) -> Result<(), Errno> {
        settle(&file, entry)?;
        self.left = entry.size;
        if entry.size == 0 {
            // As above.
            let _ = futimens(&file, &times(entry.mtime));
        } else {
            self.file = Some((file, entry.mtime));
        }
        Ok(())
    }

    fn settle_directory(&self, path: &[u8], entry: &Entry) -> Result<(), Errno> {
        settle(&self.root.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)?, entry)
    }
}

/// Owner, permissions and attributes; the owner first, since the kernel takes
/// set-user-id away when that changes.
fn settle(file: &OwnedFd, entry: &Entry) -> Result<(), Errno> {
    fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    fchmod(file.as_fd(), Mode::from_raw_mode(entry.mode))?;
    for (name, value) in &entry.attributes {
        // tmpfs keeps those of security and trusted only, and others can be missed.
        let _ = fsetxattr(file, name.as_slice(), value, XattrFlags::empty());
    }
    Ok(())
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn entry(path: &str, kind: Kind, mode: u32, size: u64) -> Entry {
        let path = path.as_bytes().to_vec();
        let (uid, gid) = (Uid::as_raw(rustix::process::getuid()), rustix::process::getgid());
        Entry { path, kind, mode, uid, gid: gid.as_raw(), mtime: 7, size, attributes: vec![] }
    }

    /// One entry of a cpio archive: name, mode, inode, names, device numbers, data.
    fn newc(name: &str, mode: u32, ino: u32, rdev: (u32, u32), data: &[u8]) -> Vec<u8> {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let (links, size, length) = (2, data.len() as u32, name.len() as u32 + 1);
        let fields = [ino, mode, uid, gid, links, 7, size, 0, 0, rdev.0, rdev.1, length, 0];
        let mut bytes = b"070701".to_vec();
        fields.iter().for_each(|field| bytes.extend(format!("{field:08x}").bytes()));
        for part in [name.as_bytes(), data] {
            bytes.extend(part);
            bytes.extend(&[0][..usize::from(part == name.as_bytes())]);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    /// What comes of an archive in an empty directory.
    fn unpacked(kind: Format, bytes: &[u8]) -> (tempfile::TempDir, Result<(), ArchiveError>) {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(dir.path().to_str().unwrap()).unwrap();
        let result = Reader::new(kind).unwrap().push(bytes, &mut |event| tree.take(event));
        (dir, result)
    }

    /// A second name of a file whose first name became a device wrote to this machine's
    /// disks; one that became a pipe stopped the boot.
    #[test]
    fn data_for_a_second_name_reach_no_device_and_no_pipe() {
        // Who is not root makes no device.
        let root = rustix::process::getuid().is_root();
        let null = root.then_some((0o020_600, (1, 3)));
        for (mode, rdev) in [(0o010_600, (0, 0)), (0o140_600, (0, 0))].into_iter().chain(null) {
            let file = 0o100_600;
            let archive = [
                newc("node", file, 9, (0, 0), b""),
                newc("node", mode, 10, rdev, b""),
                newc("second", file, 9, (0, 0), &[b'x'; 512]),
                newc("TRAILER!!!", 0, 0, (0, 0), b""),
            ];
            let (dir, result) = unpacked(Format::Cpio, &archive.concat());
            if mode == 0o140_600 {
                // No socket is made, and the first name is still the file.
                assert_eq!(result, Ok(()));
                assert_eq!(std::fs::metadata(dir.path().join("node")).unwrap().len(), 512);
                continue;
            }
            assert!(matches!(result, Err(ArchiveError::Unsupported(_))), "{mode:o}: {result:?}");
            assert!(!dir.path().join("second").exists(), "{mode:o}");
        }
    }

    /// tar's second names have no data: a name of a pipe is made and not opened.
    #[test]
    fn a_second_name_of_a_pipe_is_a_name_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(dir.path().to_str().unwrap()).unwrap();
        let mut make = |entry: Entry| tree.take(Event::Entry(&entry));
        make(entry("node", Kind::File, 0o600, 0)).unwrap();
        make(entry("node", Kind::Fifo, 0o600, 0)).unwrap();
        make(entry("second", Kind::Link(b"node".to_vec()), 0o600, 0)).unwrap();
        make(entry("link", Kind::Symlink(b"second".to_vec()), 0o777, 0)).unwrap();
        let data = make(entry("third", Kind::Link(b"link".to_vec()), 0o600, 4));
        assert!(matches!(data, Err(ArchiveError::Unsupported(_))), "{data:?}");
        let second = std::fs::symlink_metadata(dir.path().join("second")).unwrap();
        assert_eq!((second.nlink(), second.mode() & 0o170_000), (2, 0o010_000));
    }

    #[test]
    fn a_tree_is_filled_and_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("passwd"), "mine").unwrap();
        // A link that leads out when it is followed from here.
        symlink(&outside, root.join("out")).unwrap();
        let mut tree = Tree::open(root.to_str().unwrap()).unwrap();
        let mut make = |entry: Entry, data: &[u8]| {
            tree.take(Event::Entry(&entry))?;
            tree.take(Event::Data(data))
        };
        make(entry("", Kind::Directory, 0o755, 0), b"").unwrap();
        make(entry("usr/lib/deep/file", Kind::File, 0o640, 4), b"data").unwrap();
        make(entry("lib", Kind::Symlink(b"/usr/lib".to_vec()), 0o777, 0), b"").unwrap();
        make(entry("lib/more", Kind::File, 0o4755, 1), b"x").unwrap();
        make(entry("lib/again", Kind::Link(b"lib/more".to_vec()), 0o4755, 0), b"").unwrap();
        make(entry("lib", Kind::Directory, 0o700, 0), b"").unwrap();
        let failed = make(entry("out/passwd", Kind::File, 0o644, 1), b"y");
        assert!(matches!(failed, Err(ArchiveError::Write(..))), "{failed:?}");
        assert_eq!(std::fs::read(outside.join("passwd")).unwrap(), b"mine");

        let more = std::fs::metadata(root.join("usr/lib/more")).unwrap();
        assert_eq!((more.mode() & 0o7777, more.nlink(), more.mtime()), (0o4755, 2, 7));
        assert_eq!(std::fs::read(root.join("usr/lib/deep/file")).unwrap(), b"data");
        assert_eq!(std::fs::metadata(root.join("usr/lib")).unwrap().mode() & 0o7777, 0o700);
        // A file in the place of a link is a file, and what the link led to stays.
        let mut tree = Tree::open(root.to_str().unwrap()).unwrap();
        tree.take(Event::Entry(&entry("out", Kind::File, 0o644, 0))).unwrap();
        assert!(std::fs::symlink_metadata(root.join("out")).unwrap().is_file());
    }
}
