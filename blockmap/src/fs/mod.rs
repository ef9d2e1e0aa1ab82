//! The readers of allocation maps, one a file system.

mod btrfs;
mod exfat;
mod ext;
mod fat;
mod map;
mod ntfs;
mod swap;
mod xfs;

use crate::raw::Raw;
use crate::read::Window;
use overlay::probe::Format;

pub use map::Map;

type Reader = fn(&mut Window<'_>) -> Result<Map, Raw>;

const READERS: &[(Format, Reader)] = &[
    (Format::Ext, ext::read),
    (Format::Xfs, xfs::read),
    (Format::Btrfs, btrfs::read),
    (Format::Ntfs, ntfs::read),
    (Format::Vfat, fat::read),
    (Format::Exfat, exfat::read),
    (Format::Swap, swap::read),
];

/// The map of a file system of this format.
///
/// # Errors
/// [`Raw`]: why all of it must be copied.
pub fn read(format: Format, window: &mut Window<'_>) -> Result<Map, Raw> {
    let reader = READERS.iter().find(|(of, _)| *of == format);
    reader.ok_or(Raw::NoReader(format)).and_then(|(_, reader)| reader(window))
}
