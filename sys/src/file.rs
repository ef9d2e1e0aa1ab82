//! Small files and directories, read and written in one piece.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Access, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::{Errno, read};

/// A path as the kernel takes it. rustix converts strings, too, but with a buffer and
/// code of its own at every call.
///
/// # Errors
/// `EINVAL` for a path with a NUL.
pub fn c_path(path: &[u8]) -> Result<CString, Errno> {
    CString::new(path).map_err(|_| Errno::INVAL)
}

/// Opens a file; the descriptor does not outlive exec(2).
///
/// # Errors
/// The errno of open(2).
pub fn open(path: &str, flags: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
    let path = c_path(path.as_bytes())?;
    rustix::fs::open(&*path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(mode))
}

/// Opens a file as foreign media have them, or a device in `/dev`. Nothing but a regular
/// file is opened elsewhere: to open a pipe waits for ever, to open a device can do
/// things (a watchdog starts, a tape winds back).
///
/// # Errors
/// As open(2), and as [`regular`] for paths elsewhere.
pub fn open_data(path: &str, access: OFlags) -> Result<OwnedFd, Errno> {
    // The kernel's own files are what they are.
    if ["/dev/", "/proc/", "/sys/"].iter().any(|own| path.starts_with(own)) {
        return open(path, access, 0);
    }
    regular(&open(path, OFlags::PATH, 0)?, access)
}

/// Opens a file that was only looked up (`O_PATH`), when it is a regular one. Needs
/// `/proc`.
///
/// # Errors
/// As open(2); `EISDIR` for a directory, `EINVAL` for a pipe, socket or device.
pub fn regular(found: &OwnedFd, access: OFlags) -> Result<OwnedFd, Errno> {
    match FileType::from_raw_mode(rustix::fs::fstat(found)?.st_mode) {
        FileType::RegularFile => open(&format!("/proc/self/fd/{}", found.as_raw_fd()), access, 0),
        FileType::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::INVAL),
    }
}

/// Opens a file or block device to read it.
///
/// # Errors
/// As [`open_data`].
pub fn open_read(path: &str) -> Result<OwnedFd, Errno> {
    open_data(path, OFlags::RDONLY)
}

/// The metadata of a path, links followed (stat(2)).
///
/// # Errors
/// The errno of stat(2).
pub fn stat(path: &str) -> Result<Stat, Errno> {
    rustix::fs::stat(&*c_path(path.as_bytes())?)
}

/// Whether this process has this access to a path.
#[must_use]
pub fn access(path: &str, access: Access) -> bool {
    c_path(path.as_bytes()).is_ok_and(|path| rustix::fs::access(&*path, access).is_ok())
}

/// Whether a path exists.
#[must_use]
pub fn exists(path: &str) -> bool {
    access(path, Access::EXISTS)
}

/// Makes a directory and its parents; one that is there is fine.
///
/// # Errors
/// The errno of mkdir(2).
pub fn make_dir(path: &str, mode: u32) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode);
    let mut end = 0;
    loop {
        let next = path.get(end + 1..).and_then(|rest| rest.find('/'));
        end = next.map_or(path.len(), |at| end + 1 + at);
        let path_so_far = c_path(path.as_bytes().get(..end).unwrap_or_default())?;
        match rustix::fs::mkdir(&*path_so_far, mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            // A read-only parent that exists answers so before EEXIST.
            Err(Errno::ROFS) if end < path.len() => {}
            Err(errno) => return Err(errno),
        }
        if end >= path.len() {
            return Ok(());
        }
    }
}

/// Whether an error says that something is not there, rather than that it cannot be asked:
/// a directory that a server refuses to list is not an empty one.
#[must_use]
pub fn is_absent(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR)
}

/// Whether something is there, links followed.
///
/// # Errors
/// Every error that does not say so.
pub fn is_there(path: &str) -> Result<bool, Errno> {
    match rustix::fs::access(&*c_path(path.as_bytes())?, Access::EXISTS) {
        Ok(()) => Ok(true),
        Err(errno) if is_absent(errno) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Calls `each` with every entry of a directory that was just opened, `.` and
/// `..` left out, in the file system's order. Entries may be removed meanwhile.
///
/// # Errors
/// The errno of getdents64(2), after `each` was called for earlier entries.
pub fn entries(
    directory: BorrowedFd<'_>,
    each: &mut dyn FnMut(&CStr, FileType),
) -> Result<(), Errno> {
    // On the heap: callers go down trees.
    let mut buffer = Vec::<u8>::with_capacity(8 << 10);
    let mut list = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = list.next() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            each(entry.file_name(), entry.file_type());
        }
    }
    Ok(())
}

/// Names of all entries of a directory, sorted, dot entries left out.
///
/// # Errors
/// The errno of openat(2) or getdents64(2).
pub fn names(path: &str) -> Result<Vec<String>, Errno> {
    let directory = open(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)?;
    let mut names = Vec::new();
    entries(directory.as_fd(), &mut |name, _| {
        if let Ok(name) = name.to_str()
            && !name.starts_with('.')
        {
            names.push(String::from(name));
        }
    })?;
    crate::sort::sort(&mut names);
    Ok(names)
}

/// The same; a directory that is not there has no names.
///
/// # Errors
/// As [`names`].
pub fn names_if_any(path: &str) -> Result<Vec<String>, Errno> {
    match names(path) {
        Err(errno) if is_absent(errno) => Ok(Vec::new()),
        names => names,
    }
}

/// Writes a file, replacing what it held.
///
/// # Errors
/// The errno of openat(2) or write(2).
pub fn write_file(path: &str, bytes: &[u8], mode: u32) -> Result<(), Errno> {
    write_all(open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC, mode)?, bytes)
}

/// Writes all of it, over signals and in as many pieces as the kernel takes.
///
/// # Errors
/// The errno of write(2); `EIO` when it takes nothing.
pub fn write_all(file: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(&file, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Reads a whole file of at most `most` bytes; what lies behind is left out.
///
/// # Errors
/// As [`open_data`], and the kernel's from read(2).
pub fn read_file(path: &str, most: usize) -> Result<Vec<u8>, Errno> {
    let file = open_read(path)?;
    // A file in memory says how long it is; one in /proc says 0.
    let said =
        rustix::fs::fstat(&file).map_or(0, |stat| usize::try_from(stat.st_size).unwrap_or(0));
    let mut bytes = alloc::vec![0; said.saturating_add(1).max(2048).min(most.max(1))];
    let mut length = 0;
    loop {
        let room = bytes.get_mut(length..).unwrap_or_default();
        if room.is_empty() {
            if length >= most {
                break;
            }
            bytes.resize(length.saturating_mul(2).min(most), 0);
            continue;
        }
        match read(&file, room) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_entries_are_told_while_they_go() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..1000 {
            std::fs::write(dir.path().join(format!("a rather long name {number:04}")), "").unwrap();
        }
        let opened = std::fs::File::open(dir.path()).unwrap();
        let mut told = 0;
        entries(std::os::fd::AsFd::as_fd(&opened), &mut |name, kind| {
            assert_eq!(kind, FileType::RegularFile);
            std::fs::remove_file(dir.path().join(name.to_str().unwrap())).unwrap();
            told += 1;
        })
        .unwrap();
        assert_eq!((told, std::fs::read_dir(dir.path()).unwrap().count()), (1000, 0));
    }

    /// A pipe on a medium stopped the boot for ever.
    #[test]
    fn only_regular_files_are_opened() {
        use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let make = |name: &str, kind, device| {
            let mode = Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, path(name).as_str(), kind, mode, device)
        };
        let mut odd = vec!["pipe", "socket", "link"];
        make("pipe", FileType::Fifo, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        std::os::unix::fs::symlink(path("pipe"), path("link")).unwrap();
        // Who is not root makes no devices.
        for (name, kind, device) in [
            ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
            ("ram", FileType::BlockDevice, rustix::fs::makedev(1, 0)),
        ] {
            if make(name, kind, device).is_ok() {
                odd.push(name);
            }
        }
        std::os::unix::fs::symlink(path("nothing"), path("dangling")).unwrap();
        std::os::unix::fs::symlink(path("loop"), path("loop")).unwrap();
        std::fs::create_dir(path("directory")).unwrap();
        std::fs::write(path("file"), "data").unwrap();
        std::os::unix::fs::symlink("file", path("near")).unwrap();
        let opened = inotify::init(CreateFlags::NONBLOCK).unwrap();
        for name in &odd {
            inotify::add_watch(&opened, path(name).as_str(), WatchFlags::OPEN).unwrap();
        }
        let read = |name: &str| read_file(&path(name), 100);
        for name in odd {
            assert_eq!(read(name), Err(Errno::INVAL), "{name}");
        }
        assert_eq!(read("directory"), Err(Errno::ISDIR));
        assert_eq!((read("loop"), read("dangling")), (Err(Errno::LOOP), Err(Errno::NOENT)));
        assert_eq!((read("file"), read("near")), (Ok(b"data".to_vec()), Ok(b"data".to_vec())));
        assert_eq!(rustix::io::read(&opened, &mut [0; 64]), Err(Errno::AGAIN), "one was opened");
    }

    #[test]
    fn a_small_limit_cuts_and_does_not_fail() {
        let limit = 16;
        let bytes = read_file("/proc/self/status", limit).unwrap();
        assert_eq!(bytes.len(), limit);
        assert!(bytes.starts_with(b"Name:"));
        assert_eq!(read_file("/proc/self/status", 0).unwrap().len(), 1);
    }
}
