//! What the handoff changes, as data: a step says what is to be where, and one
//! function does it.

use alloc::string::{String, ToString};
use core::fmt;

use rustix::io::Errno;
use sys::errno::Shown;

use crate::log::Log;
use crate::newroot::NewRoot;

/// What is done at a path; the words are those of [`Change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A file is made that holds the text `with`; a file that is there keeps its mode,
    /// a new one gets this.
    File(u32),
    /// The same where the file's directory is there: a system without it has nothing
    /// that reads the file.
    Update,
    /// A link to `with` is made; whatever is there stays.
    Link,
    /// An empty directory is made, unless there is one.
    Directory,
    /// A file or link is removed.
    Remove,
    /// The file `with` gets this name.
    Rename,
    /// What is mounted at `with` moves to this directory.
    Move,
    /// The tree at `with` is shown at this directory, too.
    Bind,
    /// The tree at `with` is copied into this directory. Files that are there give way
    /// when this is true; otherwise they are an error.
    #[cfg(feature = "full")]
    Copy(bool),
}

/// One change. Paths are those of the live system: below `/run` they are of the
/// initramfs, whose `/run` moves there, else of the new root. What is moved, shown or
/// copied is a path of the initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What is done.
    pub act: Act,
    /// The path that changes.
    pub path: String,
    /// The text, the link's target or the source, as the act says; else empty.
    pub with: String,
}

impl Change {
    /// A change.
    #[must_use]
    pub fn new(act: Act, path: &str, with: &str) -> Self {
        Self { act, path: path.to_string(), with: with.to_string() }
    }

    /// A file that everybody may read.
    #[must_use]
    pub fn file(path: &str, text: &str) -> Self {
        Self::new(Act::File(0o644), path, text)
    }

    fn make(&self, root: &NewRoot, log: &mut Log) -> Result<(), Errno> {
        let Self { act, path, with } = self;
        match act {
            Act::File(mode) => {
                root.parent(path.as_bytes())?;
                root.replace(path, with, *mode)
            }
            Act::Update => ignore(root.replace(path, with, 0o644), Errno::NOENT),
            Act::Link => ignore(root.link(with, path), Errno::EXIST),
            Act::Directory => root.make_dir(path.as_bytes()).map(drop),
            Act::Remove => root.remove(path),
            Act::Rename => root.rename(with, path),
            Act::Move => root.take(with, path),
            // A second view of what is there already can be missed.
            Act::Bind => root.bind(with, path).map(drop).or_else(|errno| {
                log.detail(&[&*self.to_string(), ": ", &Shown(errno).to_string()].concat());
                Ok(())
            }),
            #[cfg(feature = "full")]
            Act::Copy(over) => {
                use crate::copy::{self, Progress};

                let size = copy::tree_size(with);
                let mut progress = Progress::new(&["copying ", with].concat(), size);
                copy::into_root(log, with, (root, path), &mut progress, *over).map_err(
                    |(failed, errno)| {
                        log.warn(&[&failed, ": ", &*Shown(errno).to_string()].concat());
                        errno
                    },
                )
            }
        }
    }
}

fn ignore(made: Result<(), Errno>, fine: Errno) -> Result<(), Errno> {
    made.or_else(|errno| if errno == fine { Ok(()) } else { Err(errno) })
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, with) = (&*self.path, &*self.with);
        let words = match self.act {
            Act::File(_) | Act::Update => ["write ", path, "", ""],
            Act::Link => ["link ", path, " to ", with],
            Act::Directory => ["make ", path, "", ""],
            Act::Remove => ["remove ", path, "", ""],
            Act::Rename => ["rename ", with, " to ", path],
            Act::Move => ["move the mount ", with, " to ", path],
            Act::Bind => ["show ", with, " at ", path],
            #[cfg(feature = "full")]
            Act::Copy(_) => ["copy ", with, " to ", path],
        };
        words.iter().try_for_each(|word| f.write_str(word))
    }
}

/// Makes the changes in their order. One that fails is a warning, and the rest goes
/// on; returns whether all were made.
pub fn apply(root: &NewRoot, log: &mut Log, changes: &[Change]) -> bool {
    let initramfs = NewRoot::at("/");
    let mut all = true;
    for change in changes {
        let root = match &initramfs {
            Ok(initramfs) if change.path.starts_with("/run/") => initramfs,
            _ => root,
        };
        if let Err(errno) = change.make(root, log) {
            all = false;
            let (why, what) = (Shown(errno).to_string(), change.to_string());
            let text = match change.act {
                Act::File(_) | Act::Update => [&change.path, " cannot be written: ", &why].concat(),
                _ => ["cannot ", &*what, ": ", &why].concat(),
            };
            log.warn(&text);
        }
    }
    all
}
