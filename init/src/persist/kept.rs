//! Using a volume that was found: kept directories in their places of the new root.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use overlay::persistence_conf::{Entry, How};
use overlay::union::mount_overlay;
use rustix::fs::{Access, access};
use rustix::mount::mount_bind;
use sys::errno::Shown;
use sys::file::make_dir;

use crate::copy::{self, Progress};
use crate::machine::Machine;
use crate::newroot::{ROOT, inside, like};

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
    if access(upper, Access::EXISTS).is_ok() || make_dir(upper, 0o755).is_err() {
        return;
    }
    for name in copy::names(root) {
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
    pub fn place(&self, machine: &mut Machine) {
        for (volume, entry) in &self.entries {
            if let Err(why) = place_entry(machine, volume, entry, self.read_only) {
                machine.log.warn(&format!("{} is not kept: {why}", entry.dir));
            }
        }
        if let Some(home) = &self.home {
            let target = format!("{ROOT}/home");
            let _ = make_dir(&target, 0o755);
            if let Err(errno) = mount_bind(home.as_str(), target.as_str()) {
                machine.log.warn(&format!("/home is not kept: {}", Shown(errno)));
            }
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
    machine: &mut Machine,
    volume: &str,
    entry: &Entry,
    read_only: bool,
) -> Result<(), String> {
    let shown = |errno: rustix::io::Errno| Shown(errno).to_string();
    let source = format!("{volume}/{}", entry.source);
    let target = inside(&entry.dir).map_err(shown)?;
    match entry.how {
        How::Bind => {
            let fresh = access(source.as_str(), Access::EXISTS).is_err();
            make_dir(&source, 0o755).map_err(shown)?;
            make_dir(&target, 0o755).map_err(shown)?;
            if fresh && !read_only {
                let mut progress = Progress::new(&format!("filling {}", entry.dir), 0);
                like(&target, &source);
                copy::tree(&mut machine.log, &target, &source, &mut progress)
                    .map_err(|(path, errno)| format!("{path}: {}", Shown(errno)))?;
            }
            mount_bind(source.as_str(), target.as_str()).map_err(shown)
        }
        How::Union => {
            let (upper, work) = (format!("{source}/rw"), format!("{source}/work"));
            make_dir(&target, 0o755).map_err(shown)?;
            for dir in [&upper, &work] {
                make_dir(dir, 0o755).map_err(shown)?;
            }
            like(&target, &upper);
            mount_overlay(core::slice::from_ref(&target), Some((&upper, &work)), &[], &target)
                .map_err(|error| error.to_string())
        }
        How::Link => {
            make_dir(&source, 0o755).map_err(shown)?;
            make_dir(&target, 0o755).map_err(shown)?;
            link_below(&source, &target, 0);
            Ok(())
        }
    }
}

/// Links every file below one directory into another.
fn link_below(source: &str, target: &str, depth: u32) {
    if depth > 32 {
        return;
    }
    for name in copy::names(source) {
        let (from, to) = (format!("{source}/{name}"), format!("{target}/{name}"));
        let is_dir = rustix::fs::lstat(from.as_str())
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir());
        if is_dir {
            let _ = make_dir(&to, 0o755);
            link_below(&from, &to, depth + 1);
        } else {
            let _ = rustix::fs::unlink(to.as_str());
            // Below /run, so the path holds in the live system, too.
            let _ = rustix::fs::symlink(from.as_str(), to.as_str());
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
        link_below(source.path().to_str().unwrap(), target.path().to_str().unwrap(), 0);
        assert_eq!(std::fs::read_to_string(target.path().join("d/key")).unwrap(), "secret");
        assert_eq!(std::fs::read_to_string(target.path().join(".ssh/.k")).unwrap(), "dot");
        assert!(target.path().join("d").symlink_metadata().unwrap().is_dir());
    }
}
