//! The new root while it is put together: every path below it is resolved inside
//! it (`openat2(2)`, `RESOLVE_IN_ROOT`), so that no link of an image leads out of it.
//!
//! This is the only file of `/init` that makes a path of the root's mount point; a
//! test below reads the others and sees to it. A [`NewRoot`] is also what a part of
//! the root is filled through before it is mounted there: an unpacked archive, a copy
//! in memory.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, fstat, mkdirat, openat,
    openat2, readlinkat, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use sys::file::{c_path, open, regular, stat, write_all};
use sys::mount::detach;

/// Where the new root is mounted.
pub const ROOT: &str = "/sysroot";

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// Longest file read.
const MAX_TEXT: usize = 64 << 10;

/// How a directory is held: to be passed through, not to be read.
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// Both ends of a mount's move are descriptors.
const BY_FD: MoveMountFlags =
    MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH.union(MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH);

/// A tree that no path leads out of. Paths are those of the live system: absolute
/// ones begin at this root, and so do links.
#[derive(Debug)]
pub struct NewRoot {
    directory: OwnedFd,
}

/// A directory inside, by a path that leads to it whatever the links on the way to it
/// become: what mount(2) and overlayfs take.
#[derive(Debug)]
pub struct Place {
    directory: OwnedFd,
}

impl Place {
    /// The path, good while this lives and in this process.
    #[must_use]
    pub fn path(&self) -> String {
        path_of(&self.directory)
    }

    /// Whether it is this directory of the live system, or below it.
    #[must_use]
    pub fn is_below(&self, root: &NewRoot, top: &str) -> bool {
        let name = |directory| read_link_at(CWD, &c_path(path_of(directory).as_bytes())?);
        let (Ok(here), Ok(base)) = (name(&self.directory), name(&root.directory)) else {
            return false;
        };
        let inside = here.strip_prefix(base.as_slice()).unwrap_or_default();
        inside.strip_prefix(top.as_bytes()).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl NewRoot {
    /// The root that is mounted at [`ROOT`].
    ///
    /// # Errors
    /// `ENOENT` when there is none, and open(2)'s others.
    pub fn open() -> Result<Self, Errno> {
        Self::at(ROOT)
    }

    /// A tree that is to become the root, or a part of it.
    ///
    /// # Errors
    /// As open(2): `ENOENT`, `ENOTDIR`.
    pub fn at(path: &str) -> Result<Self, Errno> {
        Ok(Self { directory: open(path, FOLDER, 0)? })
    }

    /// Opens what a path leads to, all links followed inside.
    ///
    /// # Errors
    /// As openat2(2); `ELOOP` for links in a circle.
    pub fn resolve(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = c_path(if path.is_empty() { b"/" } else { path })?;
        let (flags, inside) = (flags | OFlags::CLOEXEC, ResolveFlags::IN_ROOT);
        let mut tries = MAX_LINKS;
        loop {
            match openat2(&self.directory, &*path, flags, Mode::empty(), inside) {
                // Something was mounted meanwhile, and the kernel cannot vouch for a `..`.
                Err(Errno::AGAIN) if tries > 0 => tries -= 1,
                other => return other,
            }
        }
    }

    /// The directory that a path leads to. What is missing on the way is made (0755),
    /// also behind links that lead to nothing yet.
    ///
    /// # Errors
    /// As mkdir(2) and openat2(2).
    pub fn make_dir(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let mut path = path.to_vec();
        for _ in 0..MAX_LINKS {
            match self.make_until_link(&path)? {
                Ok(directory) => return Ok(directory),
                Err(behind) => path = behind,
            }
        }
        Err(Errno::LOOP)
    }

    /// The same up to the first link that leads to nothing: then, instead of the
    /// directory, the path with that link followed.
    ///
    /// # Errors
    /// As mkdir(2) and openat2(2).
    pub fn make_until_link(&self, path: &[u8]) -> Result<Result<OwnedFd, Vec<u8>>, Errno> {
        match self.resolve(path, FOLDER) {
            Err(Errno::NOENT) => {}
            found => return found.map(Ok),
        }
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let ends = slashes.map(|(at, _)| at).chain([path.len()]);
        let mut above = self.resolve(b"/", FOLDER)?;
        let mut start = 0;
        for end in ends {
            let (before, name) = (path.get(..start), path.get(start..end).unwrap_or_default());
            start = end + 1;
            if name.is_empty() {
                continue;
            }
            let here = path.get(..end).unwrap_or_default();
            match self.resolve(here, FOLDER) {
                Err(Errno::NOENT) => {}
                found => {
                    above = found?;
                    continue;
                }
            }
            let name = c_path(name)?;
            match mkdirat(&above, &*name, Mode::from_raw_mode(0o755)) {
                Ok(()) => above = self.resolve(here, FOLDER)?,
                Err(Errno::EXIST) => {
                    let link = read_link_at(above.as_fd(), &name)?;
                    let from = if link.starts_with(b"/") { None } else { before };
                    let rest = path.get(end..).unwrap_or_default();
                    return Ok(Err([from.unwrap_or_default(), &link, rest].concat()));
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(Ok(above))
    }

    /// The directory of a path, made when it is missing, and the path's last name.
    ///
    /// # Errors
    /// As [`Self::make_dir`]; `EINVAL` when there is no last name.
    pub fn parent(&self, path: &[u8]) -> Result<(OwnedFd, CString), Errno> {
        let (above, name) = split(path)?;
        Ok((self.make_dir(above)?, name))
    }

    /// A directory to mount something on, made when it is missing.
    ///
    /// # Errors
    /// As [`Self::make_dir`].
    pub fn place(&self, path: &str) -> Result<Place, Errno> {
        Ok(Place { directory: self.make_dir(path.as_bytes())? })
    }

    /// The same for a directory that is there.
    ///
    /// # Errors
    /// As openat2(2): `ENOENT`, `ENOTDIR`.
    pub fn existing(&self, path: &str) -> Result<Place, Errno> {
        Ok(Place { directory: self.resolve(path.as_bytes(), FOLDER)? })
    }

    /// Whether a path leads to anything.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.resolve(path.as_bytes(), OFlags::PATH).is_ok()
    }

    /// Whether a path leads to a program.
    ///
    /// # Errors
    /// As openat2(2); `EISDIR` and `EACCES` for what cannot be executed.
    pub fn executable(&self, path: &str) -> Result<(), Errno> {
        let stat = fstat(self.resolve(path.as_bytes(), OFlags::PATH)?)?;
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            return Err(Errno::ISDIR);
        }
        if stat.st_mode & 0o111 == 0 {
            return Err(Errno::ACCESS);
        }
        Ok(())
    }

    /// What is at the top, sorted: the first twelve names, for people.
    #[cfg(feature = "full")]
    #[must_use]
    pub fn listing(&self) -> String {
        let mut names: Vec<String> = Vec::new();
        if let Ok(top) = self.resolve(b"/", OFlags::RDONLY | OFlags::DIRECTORY) {
            // What cannot be read is not in the list.
            let _ = sys::file::entries(top.as_fd(), &mut |name, _| {
                if names.len() < 1000 {
                    names.push(name.to_string_lossy().into_owned());
                }
            });
        }
        sys::sort::sort(&mut names);
        let more = if names.len() > 12 { ", …" } else { "" };
        names.truncate(12);
        if names.is_empty() { "nothing".into() } else { names.join(", ") + more }
    }

    /// The text of a regular file; `None` for what is no text, or has 64 KiB or more.
    #[must_use]
    pub fn read(&self, path: &str) -> Option<String> {
        let file =
            regular(&self.resolve(path.as_bytes(), OFlags::PATH).ok()?, OFlags::RDONLY).ok()?;
        let mut bytes = alloc::vec![0; MAX_TEXT];
        let length = rustix::io::read(&file, bytes.as_mut_slice()).ok()?;
        if length == bytes.len() {
            return None;
        }
        bytes.truncate(length);
        String::from_utf8(bytes).ok()
    }

    /// Where the link at a path leads; `None` when that is no link.
    #[must_use]
    pub fn read_link(&self, path: &str) -> Option<String> {
        let (above, name) = split(path.as_bytes()).ok()?;
        let above = self.resolve(above, FOLDER).ok()?;
        String::from_utf8(read_link_at(above.as_fd(), &name).ok()?).ok()
    }

    /// Puts a file in place of the file or link that is there; its directory must be
    /// there. A file that is there keeps its owner and mode; a new one gets `mode`.
    ///
    /// # Errors
    /// As openat2(2) and write(2); `ENOENT` without the directory.
    pub fn replace(&self, path: &str, text: &str, mode: u32) -> Result<(), Errno> {
        let (above, name) = split(path.as_bytes())?;
        let above = self.resolve(above, FOLDER)?;
        let old = statat(&above, &*name, AtFlags::SYMLINK_NOFOLLOW).ok();
        let old = old.filter(|old| FileType::from_raw_mode(old.st_mode).is_file());
        let mode = old.map_or(mode, |old| old.st_mode & 0o7777);
        unlink(&above, &name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&above, &*name, flags, Mode::from_raw_mode(mode))?;
        if let Some(old) = old {
            let (uid, gid) = owner(&old);
            rustix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        write_all(&file, text.as_bytes())
    }

    /// Makes a link; its directory is made when it is missing.
    ///
    /// # Errors
    /// As symlink(2): `EEXIST` when something is there.
    pub fn link(&self, to: &str, path: &str) -> Result<(), Errno> {
        let (above, name) = self.parent(path.as_bytes())?;
        symlinkat(&*c_path(to.as_bytes())?, above, &*name)
    }

    /// Removes a file or a link; none is fine.
    ///
    /// # Errors
    /// As unlink(2): `EISDIR` for a directory.
    pub fn remove(&self, path: &str) -> Result<(), Errno> {
        let (above, name) = split(path.as_bytes())?;
        match self.resolve(above, FOLDER) {
            Ok(above) => unlink(&above, &name),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Gives a file or link another name.
    ///
    /// # Errors
    /// As rename(2).
    pub fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        let (old, name) = split(from.as_bytes())?;
        let (new, new_name) = self.parent(to.as_bytes())?;
        renameat(self.resolve(old, FOLDER)?, &*name, new, &*new_name)
    }

    /// Shows a tree of the initramfs at a directory, what is mounted in it included;
    /// returns the mount.
    ///
    /// # Errors
    /// As open_tree(2) and move_mount(2).
    pub fn bind(&self, from: &str, path: &str) -> Result<SecondView, Errno> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, &*c_path(from.as_bytes())?, flags)?;
        self.attach(&tree, path)?;
        Ok(SecondView { tree })
    }

    /// Moves what is mounted at `from` in the initramfs to a directory.
    ///
    /// # Errors
    /// As move_mount(2).
    pub fn take(&self, from: &str, path: &str) -> Result<(), Errno> {
        self.attach(&open(from, FOLDER, 0)?, path)
    }

    fn attach(&self, tree: &OwnedFd, path: &str) -> Result<(), Errno> {
        move_mount(tree, c"", self.make_dir(path.as_bytes())?, c"", BY_FD)
    }
}

/// A tree that is shown a second time.
#[derive(Debug)]
pub struct SecondView {
    tree: OwnedFd,
}

impl SecondView {
    /// Takes the second view away.
    ///
    /// # Errors
    /// As umount2(2).
    pub fn end(self) -> Result<(), Errno> {
        detach(&path_of(&self.tree))
    }
}

fn path_of(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

fn read_link_at(directory: BorrowedFd<'_>, name: &CStr) -> Result<Vec<u8>, Errno> {
    readlinkat(directory, name, Vec::new()).map(CString::into_bytes)
}

/// A path's directory and its last name.
///
/// # Errors
/// `EINVAL` when it has none.
pub fn split(path: &[u8]) -> Result<(&[u8], CString), Errno> {
    let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    let (above, name) = path.split_at_checked(at).ok_or(Errno::INVAL)?;
    match name {
        b"" | b"." | b".." => Err(Errno::INVAL),
        name => Ok((above, c_path(name)?)),
    }
}

fn unlink(above: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    match unlinkat(above, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

/// Gives one directory the owner and the mode of another.
///
/// # Errors
/// As stat(2), chown(2) and chmod(2).
pub fn like(from: &str, to: &str) -> Result<(), Errno> {
    let stat = stat(from)?;
    let (uid, gid) = owner(&stat);
    let to = c_path(to.as_bytes())?;
    rustix::fs::chown(&*to, Some(uid), Some(gid))?;
    rustix::fs::chmod(&*to, Mode::from_raw_mode(stat.st_mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::{Path, PathBuf};

    /// A root with links that lead out of it where they are followed from outside, and
    /// the directory that they lead to.
    fn planted() -> (tempfile::TempDir, NewRoot, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        for made in ["etc", "data/etc"] {
            fs::create_dir_all(root.join(made)).unwrap();
        }
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "outside").unwrap();
        symlink(&outside, root.join("absolute")).unwrap();
        symlink("../outside", root.join("climbing")).unwrap();
        symlink("../../../../../../../../data/etc", root.join("etc/deep")).unwrap();
        symlink("/nowhere/yet", root.join("home")).unwrap();
        symlink("round", root.join("round")).unwrap();
        symlink(outside.join("file"), root.join("etc/link")).unwrap();
        let opened = NewRoot::at(root.to_str().unwrap()).unwrap();
        (dir, opened, outside)
    }

    fn names(path: &Path) -> Vec<String> {
        let names = fs::read_dir(path).unwrap();
        let mut names: Vec<String> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_is_reached_through_a_planted_link() {
        let (dir, root, outside) = planted();
        let inside = dir.path().join("root");
        for link in ["absolute", "climbing"] {
            root.make_dir(format!("/{link}/made/deep").as_bytes()).unwrap();
            root.link("/x", &format!("/{link}/link")).unwrap();
            root.remove(&format!("/{link}/file")).unwrap();
            root.place(&format!("/{link}")).unwrap();
            assert_eq!(root.replace(&format!("{link}/new"), "", 0o644), Ok(()));
            assert_eq!(root.read(&format!("/{link}/file")), None);
            assert_eq!(root.rename(&format!("/{link}/new"), &format!("/{link}/old")), Ok(()));
        }
        assert_eq!(names(&outside), ["file"]);
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "outside");
        // Both lead to directories of the root, by the names that they have from there.
        let behind = inside.join(outside.strip_prefix("/").unwrap());
        assert_eq!(names(&behind), ["link", "made", "old"]);
        assert_eq!(names(&inside.join("outside")), ["link", "made", "old"]);
    }

    #[test]
    fn directories_are_made_behind_links_that_lead_nowhere() {
        let (dir, root, _) = planted();
        root.make_dir(b"/home/user").unwrap();
        assert!(dir.path().join("root/nowhere/yet/user").is_dir());
        root.make_dir(b"etc/deep/more//deeper/").unwrap();
        assert!(dir.path().join("root/data/etc/more/deeper").is_dir());
        assert_eq!(root.make_dir(b"/round/x").unwrap_err(), Errno::LOOP);
        fs::write(dir.path().join("root/data/file"), "").unwrap();
        assert_eq!(root.make_dir(b"/data/file/x").unwrap_err(), Errno::NOTDIR);
    }

    #[test]
    fn a_file_takes_the_place_of_a_link_and_keeps_a_file_s_mode() {
        let (dir, root, outside) = planted();
        root.replace("/etc/link", "new", 0o600).unwrap();
        assert_eq!(root.read("/etc/link").as_deref(), Some("new"));
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "outside");
        let file = dir.path().join("root/etc/mine");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        root.replace("/etc/mine", "new", 0o644).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(root.replace("/none/x", "", 0o644), Err(Errno::NOENT));
        assert_eq!(root.executable("/etc/mine"), Err(Errno::ACCESS));
        assert_eq!(root.executable("/etc"), Err(Errno::ISDIR));
        assert_eq!(root.read_link("/home").as_deref(), Some("/nowhere/yet"));
        assert!(root.has("/etc/deep") && !root.has("/home"));
    }

    #[test]
    fn a_place_knows_where_it_is() {
        let (_dir, root, _) = planted();
        let place = root.existing("/etc/deep").unwrap();
        assert!(place.is_below(&root, "/data") && place.is_below(&root, "/data/etc"));
        assert!(!place.is_below(&root, "/dat") && !place.is_below(&root, "/etc"));
        assert!(fs::metadata(place.path()).unwrap().is_dir());
    }

    /// How often each file names the root's mount point as a whole: to mount there, or
    /// to say what an error is about. A path below it is a [`NewRoot`]'s to resolve.
    const NAMED: &[(&str, usize)] = &[
        ("boot.rs", 1),
        ("console.rs", 1),
        ("handoff.rs", 3),
        ("layers.rs", 9),
        ("setup.rs", 1),
        ("snapshot.rs", 1),
    ];

    fn count(dir: &Path, found: &mut Vec<(String, usize)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                count(&path, found);
                continue;
            }
            let name = path.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap();
            if name == Path::new("newroot.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let lines = code.lines().map(str::trim);
            let lines = lines.filter(|line| !line.starts_with("//") && !line.starts_with("use "));
            let word = |c: char| !c.is_alphanumeric() && c != '_';
            let words = lines.flat_map(|line| line.split(word));
            let words = words.filter(|word| *word == "ROOT" || *word == ROOT.trim_matches('/'));
            let count = words.count();
            assert!(!code.contains("{ROOT}/"), "{name:?} makes a path of ROOT");
            if count > 0 {
                found.push((name.display().to_string(), count));
            }
        }
    }

    #[test]
    fn no_other_file_makes_a_path_of_the_root_s_mount_point() {
        let mut found = Vec::new();
        count(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);
        found.sort();
        let found: Vec<(&str, usize)> = found.iter().map(|(name, n)| (&**name, *n)).collect();
        assert_eq!(found, NAMED, "a path below the new root is a NewRoot's to resolve");
    }
}
