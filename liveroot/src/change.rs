//! A change: what is to be where.

use alloc::string::{String, ToString};
use core::fmt;

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
