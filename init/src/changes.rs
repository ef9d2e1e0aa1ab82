//! Makes the changes that the live system's root gets at the handoff.

use alloc::string::ToString;

use liveroot::{Act, Change};
use rustix::io::Errno;
use sys::errno::Shown;

use crate::log::Log;
use crate::newroot::NewRoot;

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
        if let Err(errno) = make(change, root, log) {
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

fn make(change: &Change, root: &NewRoot, log: &mut Log) -> Result<(), Errno> {
    let Change { act, path, with } = change;
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
            log.detail(&[&*change.to_string(), ": ", &Shown(errno).to_string()].concat());
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

fn ignore(made: Result<(), Errno>, fine: Errno) -> Result<(), Errno> {
    made.or_else(|errno| if errno == fine { Ok(()) } else { Err(errno) })
}
