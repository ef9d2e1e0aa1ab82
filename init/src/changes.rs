//! What the handoff changes, as data: a step says what is to be where, and one
//! function does it.

use alloc::string::{String, ToString};
use core::fmt;

use rustix::io::Errno;
use sys::errno::Shown;

use crate::log::{Level, Log};
use crate::newroot::NewRoot;

/// One change. Paths are those of the live system: below `/run` they are of the
/// initramfs, whose `/run` moves there, else of the new root. `from` is a path of the
/// initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A file that holds this text and nothing else.
    File {
        /// Where.
        path: String,
        /// All of it.
        text: String,
        /// Mode when it is new; a file that is there keeps its own.
        mode: u32,
    },
    /// The same where its directory is there: a system without it has nothing that
    /// reads the file.
    Update {
        /// Where.
        path: String,
        /// All of it.
        text: String,
    },
    /// A link; whatever is there stays.
    Link {
        /// Where.
        path: String,
        /// Where it leads.
        to: String,
    },
    /// An empty directory, unless there is one.
    Directory(String),
    /// A file or link is removed.
    Remove(String),
    /// A file gets another name.
    Rename {
        /// Its name so far.
        from: String,
        /// The new one.
        path: String,
    },
    /// What is mounted moves.
    Move {
        /// From there.
        from: String,
        /// To this directory.
        path: String,
    },
    /// A tree is shown a second time.
    Bind {
        /// What.
        from: String,
        /// At this directory.
        path: String,
    },
    /// A tree is copied.
    #[cfg(feature = "full")]
    Copy {
        /// What.
        from: String,
        /// Into this directory.
        path: String,
        /// Whether files that are there give way; otherwise they are an error.
        over: bool,
    },
}

impl Change {
    /// A file that everybody may read.
    #[must_use]
    pub fn file(path: &str, text: impl ToString) -> Self {
        Self::File { path: path.to_string(), text: text.to_string(), mode: 0o644 }
    }

    /// A file whose directory may be missing.
    #[must_use]
    pub fn update(path: &str, text: impl ToString) -> Self {
        Self::Update { path: path.to_string(), text: text.to_string() }
    }

    /// A link.
    #[must_use]
    pub fn link(path: &str, to: &str) -> Self {
        Self::Link { path: path.to_string(), to: to.to_string() }
    }

    /// The path that changes.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Directory(path) | Self::Remove(path) => path,
            Self::File { path, .. }
            | Self::Update { path, .. }
            | Self::Link { path, .. }
            | Self::Rename { path, .. }
            | Self::Move { path, .. }
            | Self::Bind { path, .. } => path,
            #[cfg(feature = "full")]
            Self::Copy { path, .. } => path,
        }
    }

    #[cfg_attr(not(feature = "full"), allow(unused_variables, reason = "only a copy says more"))]
    fn make(&self, root: &NewRoot, log: &mut Log) -> Result<(), Errno> {
        match self {
            Self::File { path, text, mode } => {
                root.parent(path.as_bytes())?;
                root.replace(path, text, *mode)
            }
            Self::Update { path, text } => match root.replace(path, text, 0o644) {
                Err(Errno::NOENT) => Ok(()),
                other => other,
            },
            Self::Link { path, to } => match root.link(to, path) {
                Err(Errno::EXIST) => Ok(()),
                other => other,
            },
            Self::Directory(path) => root.make_dir(path.as_bytes()).map(drop),
            Self::Remove(path) => root.remove(path),
            Self::Rename { from, path } => root.rename(from, path),
            Self::Move { from, path } => root.take(from, path),
            Self::Bind { from, path } => root.bind(from, path).map(drop),
            #[cfg(feature = "full")]
            Self::Copy { from, path, over } => {
                use crate::copy::{self, Progress};

                let mut progress =
                    Progress::new(&["copying ", from].concat(), copy::tree_size(from));
                copy::into_root(log, from, (root, path), &mut progress, *over).map_err(
                    |(failed, errno)| {
                        log.warn(&[&failed, ": ", &*Shown(errno).to_string()].concat());
                        errno
                    },
                )
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } | Self::Update { path, .. } => write!(f, "write {path}"),
            Self::Link { path, to } => write!(f, "link {path} to {to}"),
            Self::Directory(path) => write!(f, "make {path}"),
            Self::Remove(path) => write!(f, "remove {path}"),
            Self::Rename { from, path } => write!(f, "rename {from} to {path}"),
            Self::Move { from, path } => write!(f, "move the mount {from} to {path}"),
            Self::Bind { from, path } => write!(f, "show {from} at {path}"),
            #[cfg(feature = "full")]
            Self::Copy { from, path, .. } => write!(f, "copy {from} to {path}"),
        }
    }
}

/// Makes the changes in their order. One that fails is a warning, and the rest goes
/// on; returns whether all were made.
pub fn apply(root: &NewRoot, log: &mut Log, changes: &[Change]) -> bool {
    let initramfs = NewRoot::at("/");
    let mut all = true;
    for change in changes {
        let made = match &initramfs {
            Ok(initramfs) if change.path().starts_with("/run/") => change.make(initramfs, log),
            _ => change.make(root, log),
        };
        if let Err(errno) = made {
            all = false;
            // A second showing of what is there already can be missed.
            let level =
                if matches!(change, Change::Bind { .. }) { Level::Detail } else { Level::Warning };
            let (why, path) = (Shown(errno).to_string(), change.path());
            let text = match change {
                Change::File { .. } | Change::Update { .. } => {
                    [path, " cannot be written: ", &why].concat()
                }
                _ => ["cannot ", &*change.to_string(), ": ", &why].concat(),
            };
            log.say(level, &text);
        }
    }
    all
}
