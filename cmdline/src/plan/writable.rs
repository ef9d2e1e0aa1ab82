//! How the root becomes writable, and where changes are kept.

use alloc::string::String;
use alloc::vec::Vec;

use super::root::{DeviceSelector, Source};
use super::units::Bytes;

/// How the root becomes writable.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a plan holds one of it")]
pub enum Writable {
    /// As the source is; `rw` or `ro` of the line.
    AsIs {
        /// Mounted read-write.
        read_write: bool,
    },
    /// A union with a writable upper layer.
    Union(UnionPlan),
    /// A device-mapper snapshot over the root image.
    DmSnapshot(SnapshotPlan),
    /// A snapshot when the root is a writable file system inside an image
    /// (`LiveOS/rootfs.img`, `airootfs.img`), and a union when it is a read-only tree.
    ByImage {
        /// For a read-only tree.
        union: UnionPlan,
        /// For a file system inside an image.
        snapshot: SnapshotPlan,
    },
    /// The root stays read-only but for these directories, each under a union of
    /// its own (`exposedroot`).
    Directories {
        /// How each of them becomes writable.
        union: UnionPlan,
        /// Absolute paths; those that the root lacks are skipped.
        dirs: Vec<String>,
    },
}

/// A union with a writable upper layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnionPlan {
    /// Which union file system.
    pub kind: UnionKind,
    /// The upper layer.
    pub upper: Upper,
    /// Further options for the union mount.
    pub options: Vec<String>,
}

/// Which union file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnionKind {
    /// overlayfs.
    Overlay,
    /// aufs, where the kernel has it; overlayfs otherwise, with a warning.
    Aufs,
}

/// The writable upper layer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a plan holds one of it")]
pub enum Upper {
    /// Memory; the size is a tmpfs `size=` value, empty for the default (50%).
    Tmpfs {
        /// `256M`, `75%`, or empty.
        size: String,
    },
    /// Something that lasts; a tmpfs takes its place, with a warning, when it is not found.
    Persistent(PersistPlan),
}

/// Where changes are kept. Without labels, device and network it is looked for on
/// the medium itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PersistPlan {
    /// Labels of file systems, partition names or file names, tried in order.
    pub labels: Vec<String>,
    /// The same for a volume that becomes `/home` (`home-rw`).
    pub home_labels: Vec<String>,
    /// One device, when the line names it.
    pub device: Option<DeviceSelector>,
    /// A network directory, when the line names it (`nfsoverlay=`).
    pub network: Option<Source>,
    /// Path of a file or directory on the device. `{label}` and `{uuid}` stand for
    /// those of the medium's file system, `{mac}` for the boot link's address
    /// with dashes.
    pub path: Option<String>,
    /// Look for file systems.
    pub filesystem: bool,
    /// Look for files on file systems.
    pub file: bool,
    /// Look for directories on file systems.
    pub directory: bool,
    /// Stack it read-only under a tmpfs.
    pub read_only: bool,
    /// Honour `persistence.conf`; without that file a volume is ignored.
    pub conf: bool,
    /// Allow LUKS.
    pub luks: bool,
    /// Only removable media.
    pub removable_only: bool,
    /// Empty it first.
    pub reset: bool,
    /// The boot fails when it is not found.
    pub required: bool,
    /// Nothing is said when it is not found: the line did not ask for it.
    pub silent: bool,
    /// File-system type; sniffed when empty.
    pub fstype: String,
    /// Mount options for it.
    pub flags: String,
    /// Size of the image file that is made when there is none yet.
    pub create: Option<Bytes>,
}

impl PersistPlan {
    /// A plan that looks nowhere yet.
    #[inline(never)]
    #[must_use]
    pub fn new() -> Self {
        PersistPlan::default()
    }
}

/// A device-mapper snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPlan {
    /// Where changed chunks go.
    pub store: SnapshotStore,
    /// Size of the sparse file in memory that takes the place of a persistent store
    /// that is not found.
    pub fallback: Bytes,
    /// Keep the store's contents across boots (`P`), or not (`N`).
    pub persistent: bool,
    /// Chunk size in 512-byte sectors.
    pub chunk_sectors: u32,
}

/// Where a snapshot keeps changed chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a plan holds one of it")]
pub enum SnapshotStore {
    /// A RAM disk (`brd`) of this size.
    RamDisk(Bytes),
    /// A sparse file of this size on tmpfs.
    SparseFile(Bytes),
    /// A device or file that lasts.
    Persistent(PersistPlan),
}
