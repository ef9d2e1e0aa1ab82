//! Owner, mode, time and extended attributes of a name: read, and set where they differ.
//!
//! Access control lists are attributes, and so are capabilities and what ntfs3 keeps of NTFS.

use super::{KIND, by_number};
use clone::room::tree::{Entry, Kind};
use rustix::fs::{
    AtFlags, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmod, chownat,
    fstat, fstatfs, getxattr, listxattr, removexattr, setxattr, utimensat,
};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// In a mode: what runs the file does so as its owner or group.
const AS_OWNER: u16 = 0o6000;
/// `s_magic` of ntfs3, and what it has of a file without listing it.
const NTFS3: u64 = 0x7366_746e;
const OF_NTFS3: [&[u8]; 2] = [b"system.ntfs_attrib", b"system.ntfs_security"];

type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// The extended attributes, sorted.
pub fn read(fd: &OwnedFd) -> Result<Attributes, Errno> {
    let path = by_number(fd);
    let mut names = match sized(|buffer| listxattr(&path, buffer)) {
        Ok(list) => list.split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect(),
        Err(Errno::NOTSUP) => Vec::new(),
        Err(errno) => return Err(errno),
    };
    if fstatfs(fd).is_ok_and(|fs| u64::try_from(fs.f_type).ok() == Some(NTFS3)) {
        names.extend(OF_NTFS3.map(<[u8]>::to_vec));
    }
    names.sort_unstable();
    names.dedup();
    let mut all = Attributes::new();
    for name in names {
        match sized(|buffer| getxattr(&path, &*name, buffer)) {
            Ok(value) => all.push((name, value)),
            // It has just gone, or has never been there.
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(all)
}

/// Asks until the buffer is large enough.
fn sized(mut ask: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 1024];
    loop {
        match ask(&mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            Err(errno) => return Err(errno),
        }
    }
}

/// When it was changed, as an entry has it.
pub fn time(stat: &Stat) -> (i64, u32) {
    (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0))
}

/// Makes them those of the entry. What could not be set, and why. A file that stays another user's
/// does not get the right to run as its owner.
pub fn set(fd: &OwnedFd, entry: &Entry) -> Result<Vec<(String, Errno)>, Errno> {
    let (path, mut lost) = (by_number(fd), Vec::new());
    let mut did = |what: &str, done: Result<(), Errno>| {
        if let Err(errno) = done {
            lost.push((what.to_owned(), errno));
        }
    };
    let is = fstat(fd)?;
    let mut mode = entry.mode;
    if (is.st_uid, is.st_gid) != entry.owner {
        let owner = (Uid::from_raw(entry.owner.0), Gid::from_raw(entry.owner.1));
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let done = chownat(fd, "", Some(owner.0), Some(owner.1), flags);
        // Some file systems say that they did, and have no owners.
        let is = fstat(fd)?;
        let done = match done {
            Ok(()) if (is.st_uid, is.st_gid) != entry.owner => Err(Errno::NOTSUP),
            done => done,
        };
        did("owner", done);
        if done.is_err() && mode & AS_OWNER != 0 {
            did("set-user-ID or set-group-ID bit", done);
            mode &= !AS_OWNER;
        }
    }
    // A new owner takes set-user-ID and capabilities away.
    let link = matches!(entry.kind, Kind::Link(_));
    if !link && fstat(fd)?.st_mode & !KIND != u32::from(mode) {
        did("mode", chmod(&path, Mode::from_raw_mode(mode.into())));
    }
    let has = read(fd)?;
    for (name, value) in &entry.attributes {
        if !has.iter().any(|own| own.0 == *name && own.1 == *value) {
            let set = setxattr(&path, name.as_slice(), value, XattrFlags::empty());
            did(&String::from_utf8_lossy(name), set);
        }
    }
    let listed = |name: &[u8]| entry.attributes.iter().any(|other| other.0 == name);
    for (name, _) in has.iter().filter(|(name, _)| !listed(name)) {
        // A label that the system gives to all files.
        if name != b"security.selinux" && !OF_NTFS3.contains(&&**name) {
            did(&String::from_utf8_lossy(name), removexattr(&path, name.as_slice()));
        }
    }
    // A list of access changes the mode, too; and all of it the time of a directory does not.
    if !link && fstat(fd)?.st_mode & !KIND != u32::from(mode) {
        did("mode", chmod(&path, Mode::from_raw_mode(mode.into())));
    }
    if time(&fstat(fd)?) != entry.time {
        let last_modification =
            Timespec { tv_sec: entry.time.0, tv_nsec: i64::from(entry.time.1) as _ };
        let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access, last_modification };
        did("time", utimensat(fd, "", &times, AtFlags::EMPTY_PATH));
    }
    // As with owners. Less than two seconds are what file systems round to.
    let is = fstat(fd)?;
    let mut kept = |what: &str, same: bool| {
        if !same && lost.iter().all(|(other, _)| other != what) {
            lost.push((what.to_owned(), Errno::NOTSUP));
        }
    };
    kept("mode", link || is.st_mode & !KIND == u32::from(mode));
    kept("time", is.st_mtime.abs_diff(entry.time.0) < 2);
    Ok(lost)
}
