//! Using a volume that was found: kept directories in their places of the new root.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use overlay::persistence_conf::{Entry, How};
use overlay::union::mount_overlay;
use sys::errno::Shown;
use sys::file::{exists, make_dir};

use crate::copy::{self, Progress};
use crate::log::Log;
use crate::machine::Machine;
use crate::newroot::{NewRoot, Place, like};
use crate::trace::Fault;

/// Casper never keeps these in the upper directory: they are not of the root.
const NOT_ROOT: &[&str] = &["lost+found", "log", "crash", "upper", "work"];

/// What is kept, once it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What it is on, for people.
    pub origin: String,
    /// The upper and work directories of the root, when changes of the whole
    /// root are kept.
    pub root: Option<(String, String)>,
    /// Single directories that are kept.
    pub entries: Vec<(String, Entry)>,
    /// A volume for `/home`.
    pub home: Option<String>,
    /// Whether they are only read.
    pub read_only: bool,
}

/// Older casper kept the root's files at the top of the volume: they move to
/// where they are looked for now.
pub fn adopt(machine: &mut Machine, root: &str, upper: &str) {
    if exists(upper) {
        return;
    }
    let names = match copy::names(root) {
        Ok(names) => names,
        Err(errno) => {
            machine.log.warn(&format!("{root} cannot be listed: {}", Shown(errno)));
            return;
        }
    };
    if make_dir(upper, 0o755).is_err() {
        return;
    }
    for name in names {
        if NOT_ROOT.contains(&name.as_str()) || name.starts_with("install-logs-") {
            continue;
        }
        let (from, to) = (format!("{root}/{name}"), format!("{upper}/{name}"));
        if let Err(errno) = rustix::fs::rename(from.as_str(), to.as_str()) {
            machine.log.warn(&format!("{from} cannot be moved to {to}: {}", Shown(errno)));
        }
    }
}

impl Kept {
    /// Puts the single directories in their places of the finished root; each
    /// that cannot be is named, and the rest goes on.
    pub fn place(&self, log: &mut Log, root: &NewRoot) {
        for (volume, entry) in &self.entries {
            if let Err(why) = place_entry(log, root, volume, entry, self.read_only) {
                log.warn(&format!("{} is not kept: {why}", entry.dir));
            }
        }
        if let Some(home) = &self.home
            && let Err(errno) = root.bind(home, "/home")
        {
            log.warn(&format!("/home is not kept: {}", Shown(errno)));
        }
    }

    /// What is kept, in a few words.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut what: Vec<&str> = Vec::new();
        if self.root.is_some() {
            what.push("all changes");
        }
        what.extend(self.entries.iter().map(|(_, entry)| entry.dir.as_str()));
        if self.home.is_some() {
            what.push("/home");
        }
        format!("{} kept on {}", what.join(", "), self.origin)
    }
}

fn place_entry(
    log: &mut Log,
    root: &NewRoot,
    volume: &str,
    entry: &Entry,
    read_only: bool,
) -> Result<(), Fault> {
    // A volume's own links lead out of it as little as the image's.
    let store = NewRoot::at(volume)?;
    let target = root.place(&entry.dir)?;
    match entry.how {
        How::Bind => {
            let fresh = !store.has(&entry.source);
            let source = store.place(&entry.source)?;
            let source = source.path();
            if fresh && !read_only {
                let mut progress = Progress::new(&format!("filling {}", entry.dir), 0);
                lend(log, &target, &source);
                copy::tree(log, &target.path(), &source, &mut progress)
                    .map_err(|(path, errno)| Fault::from(errno).of(&path))?;
            }
            root.bind(&source, &entry.dir).map(drop).map_err(Fault::from)
        }
        How::Union => {
            let upper = store.place(&format!("{}/rw", entry.source))?;
            let work = store.place(&format!("{}/work", entry.source))?;
            lend(log, &target, &upper.path());
            let dirs = (&*upper.path(), &*work.path());
            mount_overlay(&[target.path()], Some(dirs), &[], &target.path())
                .map_err(|error| error.to_string().into())
        }
        How::Link => {
            store.make_dir(entry.source.as_bytes())?;
            let source = format!("{volume}/{}", entry.source);
            link_below(log, &source, (root, &entry.dir), 0);
            Ok(())
        }
    }
}

/// Gives a directory of a volume the owner and mode of the one that it stands for;
/// a file system that has none is no failure.
fn lend(log: &mut Log, from: &Place, to: &str) {
    if let Err(errno) = like(&from.path(), to) {
        log.detail(&format!("{to} has owner and mode of its own: {}", Shown(errno)));
    }
}

/// Links every file below one directory into another of the new root.
fn link_below(log: &mut Log, source: &str, (root, target): (&NewRoot, &str), depth: u32) {
    if depth > 32 {
        return;
    }
    let names = copy::names(source).unwrap_or_else(|errno| {
        log.warn(&format!("{target} is not kept: {source} cannot be listed: {}", Shown(errno)));
        Vec::new()
    });
    for name in names {
        let (from, to) = (format!("{source}/{name}"), format!("{target}/{name}"));
        let is_dir = rustix::fs::lstat(from.as_str())
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir());
        let put = if is_dir {
            root.make_dir(to.as_bytes()).map(drop)
        } else {
            // Below /run, so the path holds in the live system, too.
            root.remove(&to).and_then(|()| root.link(&from, &to))
        };
        match put {
            Ok(()) if is_dir => link_below(log, &from, (root, &to), depth + 1),
            Ok(()) => {}
            Err(errno) => log.warn(&format!("{to} is not kept: {}", Shown(errno))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_linked_and_directories_made() {
        let source = tempfile::tempdir().unwrap();
        let target = tempfile::tempdir().unwrap();
        std::fs::create_dir(source.path().join("d")).unwrap();
        std::fs::create_dir(source.path().join(".ssh")).unwrap();
        std::fs::write(source.path().join(".ssh/.k"), "dot").unwrap();
        std::fs::write(source.path().join("d/key"), "secret").unwrap();
        std::fs::create_dir(target.path().join("d")).unwrap();
        std::fs::write(target.path().join("d/key"), "image's").unwrap();
        let root = NewRoot::at(target.path().to_str().unwrap()).unwrap();
        link_below(&mut Log::open(), source.path().to_str().unwrap(), (&root, ""), 0);
        assert_eq!(std::fs::read_to_string(target.path().join("d/key")).unwrap(), "secret");
        assert_eq!(std::fs::read_to_string(target.path().join(".ssh/.k")).unwrap(), "dot");
        assert!(target.path().join("d").symlink_metadata().unwrap().is_dir());
    }
}
