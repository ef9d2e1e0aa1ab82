//! Which bytes of a disk are in use: the partition table, what each partition holds, and the
//! parts that a copy of the disk must have.
//!
//! Pure: the caller's [`ReadAt`] reads. [`whole_disk`] gives one sorted list of extents. A byte
//! that is in no extent is one that the partition table or a file system calls free; a copy
//! onto a disk full of other bytes is complete without it. Whatever is not understood to the
//! last bit is in use as a whole: [`How::Raw`] says why, in a sentence.
//!
//! The map is that of the moment: of a file system that is mounted for writing it is out of
//! date when it is made. Nothing is mounted and no journal is replayed here. A file system
//! whose journal or dirty mark says that it was not ended well is in use as a whole.
//!
//! What is read is hostile: sizes are checked before anything is computed with them, the memory
//! is bounded (extents are joined when there are too many of them), and chains end.

#![cfg_attr(not(test), no_std)]
extern crate alloc;

mod bytes;
mod crc;
mod disk;
mod extents;
mod fit;
mod fs;
mod lvm;
mod raw;
mod read;
mod table;
#[cfg(test)]
mod vectors;

pub use disk::{DiskMap, Error, How, Part, whole_disk};
pub use extents::{Extent, Extents};
pub use fit::{Fit, Misfit, Place, fit_gpt, fit_table};
pub use lvm::{Logical, logical_volumes};
pub use overlay::probe::Format;
pub use raw::Raw;
pub use read::{ReadAt, ReadError};
pub use table::{Bare, TableKind, bare_table};
