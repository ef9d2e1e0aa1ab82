//! Why a partition is in use as a whole.

use crate::read::{ReadAt, ReadError, Window};
use core::fmt;
use overlay::probe::Format;

/// Why all bytes are taken as used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Raw {
    /// Its content is not recognised.
    Unknown,
    /// Nothing here reads the allocation map of this format, or it has none.
    NoReader(Format),
    /// Encrypted in a form that the probe does not tell.
    Encrypted(&'static str),
    /// The marks of several formats are there: one of them is left over.
    Ambiguous([Format; 2]),
    /// Feature bits, or a version, that this reader does not know.
    Feature {
        /// The field.
        field: &'static str,
        /// The bits that are not known, or the version.
        bits: u64,
    },
    /// A form of the file system whose map this reader does not follow.
    Form(&'static str),
    /// It was not unmounted, or waits for its check: the map on the disk may be out of date.
    Unclean(&'static str),
    /// The file system contradicts itself.
    Damaged(&'static str),
    /// A part of the map cannot be read.
    Unreadable(ReadError),
}

impl Raw {
    /// Refuses bits of these fields that are not known.
    pub(crate) fn known<const N: usize>(fields: [(&'static str, u64); N]) -> Result<(), Self> {
        match fields.into_iter().find(|(_, bits)| *bits != 0) {
            Some((field, bits)) => Err(Self::Feature { field, bits }),
            None => Ok(()),
        }
    }

    /// The size of a file system, which its partition has to hold.
    pub(crate) fn fits(size: Option<u64>, window: &Window<'_>) -> Result<u64, Self> {
        size.filter(|size| *size <= window.size())
            .ok_or(Self::Damaged("its file system is larger than the partition"))
    }
}

impl From<ReadError> for Raw {
    fn from(error: ReadError) -> Self {
        Self::Unreadable(error)
    }
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("its content is not recognised"),
            Self::NoReader(Format::Luks) => {
                f.write_str("it is encrypted: which blocks are in use cannot be seen from outside")
            }
            Self::Encrypted(by) => write!(
                f,
                "it is encrypted by {by}: which blocks are in use cannot be seen from outside"
            ),
            Self::NoReader(Format::MdRaid) => {
                f.write_str("it is one disk of a RAID array, whose map is not on this disk alone")
            }
            Self::NoReader(format) => write!(f, "no map of used blocks is read from {format}"),
            Self::Ambiguous([one, other]) => write!(
                f,
                "it has the marks of {one} and of {other}; wipefs shows and removes the one that \
                 is left over"
            ),
            Self::Feature { field, bits } => {
                write!(f, "its {field} {bits:#x} is not known to this program")
            }
            Self::Form(what) => write!(f, "it has {what}, whose map is not followed"),
            Self::Unclean(what) => {
                write!(f, "{what}: its map may be out of date; mount and unmount it once first")
            }
            Self::Damaged(what) => write!(f, "it is damaged: {what}; have it checked first"),
            Self::Unreadable(error) => write!(f, "its map cannot be read: {error}"),
        }
    }
}
