//! Where the root comes from and what of it is used.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use super::clone::CloneMethod;
use super::units::{Bytes, Seconds};
use crate::secrets::Private;

/// Where the root comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootPlan {
    /// Tried in this order in every round, until one holds what [`Self::content`] asks for.
    pub sources: Vec<Source>,
    /// What must be there, and what of it becomes the root.
    pub content: Content,
    /// Rounds over the sources before the step fails.
    pub retry: Retry,
    /// How long one try of a source may take before it counts as failed; `None`
    /// for what the protocol itself says.
    pub attempt_timeout: Option<Seconds>,
    /// Copy to RAM before use.
    pub to_ram: ToRam,
    /// Further directories, relative to the one that [`ImageRule::dirs`] found, whose
    /// files are sorted in with its own (Slax's `modules`).
    pub extra_dirs: Vec<String>,
    /// Of the images so found only those whose names match, see
    /// [`crate::pattern::matches`] (Slax's `load=`); empty for all of them.
    pub only: String,
    /// None of those whose names match (Slax's `noload=`); empty for none left out.
    pub except: String,
    /// Digests and checksums to hold.
    pub integrity: Vec<Integrity>,
    /// Block devices set read-only before anything is mounted, as `/dev/` paths
    /// that may hold `*` (`read-only=`).
    pub protect: Vec<String>,
}

/// How often something is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Rounds; 0 for no limit.
    pub attempts: u32,
    /// First pause between rounds; it may grow to [`Self::max_pause`].
    pub pause: Seconds,
    /// The longest pause.
    pub max_pause: Seconds,
}

/// One place that may hold the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory exported by NFS.
    Nfs(NfsSource),
    /// A CIFS/SMB share.
    Cifs(CifsSource),
    /// Something fetched by URL (http, https, ftp, tftp).
    Url(UrlSource),
    /// A network block device, fixed newstyle.
    Nbd(NbdSource),
    /// NVMe over TCP.
    NvmeTcp(NvmeTcpSource),
    /// A 9p mount tag.
    NineP(String),
    /// A virtiofs tag.
    VirtioFs(String),
    /// One block device.
    Device(DeviceSelector),
    /// Every block device that may hold a medium, in the order that the rule says.
    Scan(ScanRule),
    /// A file on another source's file system, loop-attached: an ISO on a disk,
    /// an image on a medium. Nests as deep as needed.
    File {
        /// Whose file system.
        on: Box<Source>,
        /// Path from its root, with a leading slash. A last component of `*.iso`
        /// means the only file that matches, and fails when there are several.
        path: String,
    },
    /// A partition of another source's image, counted from 1.
    Partition {
        /// The disk image.
        on: Box<Source>,
        /// Its number.
        number: u32,
    },
    /// A file or directory inside the initramfs; `/` for the initramfs itself,
    /// which is then copied to a tmpfs that becomes the root.
    Initramfs(String),
    /// Slax's PXE boot: the list `PXEFILELIST` and the files that it names,
    /// fetched by HTTP from this port, by TFTP when that fails.
    PxeFileList {
        /// Server.
        server: Server,
        /// HTTP port, usually 7529.
        port: u16,
    },
    /// The clone protocols of Mandriva's stage1 bring the second stage (`method:ka`, `method:dolly`).
    Stage2(CloneMethod),
}

impl Source {
    /// Whether it is on a disk of the machine, or in a file on one.
    #[must_use]
    pub fn on_disk(&self) -> bool {
        match self {
            Self::Device(_) | Self::Scan(_) => true,
            Self::File { on, .. } | Self::Partition { on, .. } => on.on_disk(),
            _ => false,
        }
    }
}

/// Which server: written on the line, or to be taken from DHCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// An address or a name to resolve.
    Host(String),
    /// Whatever DHCP calls the boot server: `ip=` field 2, next-server, the
    /// TFTP server name, the DHCP server itself, in this order.
    Boot,
}

/// A directory exported by NFS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NfsSource {
    /// Server.
    pub server: Server,
    /// Exported path; `%s` stands for the host name, or our address without one,
    /// `{mac}` for the boot link's address with dashes.
    /// `None`: DHCP's root path (option 17) gives server and path.
    pub path: Option<String>,
    /// Protocol versions in the order they are tried.
    pub versions: Vec<NfsVersion>,
    /// Mount options as written, `vers=` and what we set ourselves removed.
    pub options: Vec<String>,
    /// Mounted read-write.
    pub read_write: bool,
}

/// An NFS protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NfsVersion {
    /// RFC 1094.
    V2,
    /// RFC 1813.
    V3,
    /// RFC 7530.
    V4,
    /// RFC 8881.
    V4_1,
    /// RFC 7862.
    V4_2,
}

/// A CIFS/SMB share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CifsSource {
    /// Server.
    pub server: Server,
    /// Share and path below it, without leading slashes.
    pub share: String,
    /// Mount options as written.
    pub options: Vec<Private>,
    /// Mounted read-write.
    pub read_write: bool,
}

/// Something fetched by URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlSource {
    /// The URL as written; `scheme:///path` takes the boot server.
    pub url: Private,
    /// What to do with the bytes.
    pub payload: Payload,
    /// `http://host:port` of a proxy.
    pub proxy: Option<Private>,
}

/// What a fetched file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// An image of a medium: looked into for images.
    Medium,
    /// A root file-system image.
    Image,
    /// An archive (tar, cpio; compressed or not) unpacked into the root.
    Archive,
    /// Decided by what its first blocks say.
    Sniff,
}

/// A network block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdSource {
    /// Server.
    pub server: Server,
    /// TCP port, usually 10809.
    pub port: u16,
    /// Export name, may be empty.
    pub export: String,
    /// Parallel connections, at least 1.
    pub connections: u8,
}

/// NVMe over TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmeTcpSource {
    /// Server.
    pub server: Server,
    /// TCP port, usually 4420.
    pub port: u16,
    /// Subsystem's qualified name.
    pub nqn: String,
    /// Our own qualified name, when the line has one.
    pub host_nqn: Option<String>,
}

/// How a block device is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceSelector {
    /// `/dev/…` or `major:minor`.
    Path(String),
    /// File-system label.
    Label(String),
    /// File-system UUID.
    Uuid(String),
    /// GPT partition UUID, or MBR `SERIAL-NN`.
    PartUuid(String),
    /// GPT partition name.
    PartLabel(String),
}

/// Which block devices a scan looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanRule {
    /// Optical drives.
    pub optical: bool,
    /// Disks and partitions.
    pub disks: bool,
    /// Only removable ones.
    pub removable_only: bool,
    /// Removable ones first, then the rest.
    pub removable_first: bool,
    /// A file that must be there (`archisosearchfilename=`, `.disk/casper-uuid*`).
    pub marker: Option<Marker>,
}

/// What proves that a medium is the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marker {
    /// This path exists.
    Path(String),
    /// One of the files that match `.disk/<prefix>*` holds this text, or the
    /// file system has it as its UUID.
    DiskUuid {
        /// `casper-uuid` or `live-uuid`.
        prefix: String,
        /// The UUID to find.
        uuid: String,
    },
}

/// What a source must hold and what of it becomes the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The source's file system is the root.
    Tree {
        /// Directory below it, empty for all of it.
        subdir: String,
        /// File-system type given by the line; sniffed when empty.
        fstype: String,
        /// Mount options given by the line.
        flags: String,
    },
    /// A medium with images in a directory.
    Images(ImageRule),
    /// Decided when it is seen: an image of a root, or a medium with images by the rule.
    Either(ImageRule),
}

/// Which images on a medium make the root, and in which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRule {
    /// Directories tried in order, relative to the medium: `casper`, `live`, `LiveOS`.
    pub dirs: Vec<String>,
    /// Which files of that directory.
    pub pick: ImagePick,
    /// Images inside an image, tried in order: `LiveOS/rootfs.img` inside
    /// `squashfs.img`, `airootfs.img` inside `airootfs.sfs`.
    pub nested: Vec<String>,
}

/// Which files of the directory are layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImagePick {
    /// These, bottom first; all must exist. An absolute path counts from the
    /// medium's root.
    Named(Vec<String>),
    /// The first of these that exists; a name that ends in a slash is a
    /// directory that holds the tree itself.
    FirstOf(Vec<String>),
    /// Every file with one of these suffixes, group by group, sorted by name
    /// inside a group; later on top.
    Suffixes {
        /// Suffix groups in stacking order.
        groups: Vec<Vec<String>>,
        /// File names that are skipped.
        skip: Vec<String>,
        /// A file in the directory that, when present, lists the layers instead, bottom first.
        module_list: Vec<String>,
        /// Also look in the sub-directory named by the boot MAC without separators.
        per_mac: bool,
    },
}

/// Copying to RAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToRam {
    /// Never.
    No,
    /// The whole medium.
    Medium,
    /// Only the images, or the one named.
    Image(Option<String>),
    /// When it is smaller than the limit and leaves this much free.
    Auto {
        /// Largest image to copy.
        below: Bytes,
        /// Memory that must stay available.
        spare: Bytes,
    },
}

/// One digest or checksum to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Integrity {
    /// Digest of the fetched file or image, checked while it streams in.
    Digest {
        /// `sha256`, `sha512`, `blake3`.
        algorithm: String,
        /// Lower-case hexadecimal.
        hex: String,
    },
    /// dm-verity with this root hash for the named image (empty: the only one).
    Verity {
        /// Image file name.
        image: String,
        /// Root hash in hexadecimal.
        root_hash: String,
        /// What a corrupted block does.
        on_corruption: OnCorruption,
    },
    /// The MD5 that is written inside the ISO's own descriptor (`rd.live.check`).
    EmbeddedMd5,
    /// The medium's own checksum files, tried in this order.
    MediumSums(Vec<String>),
}

/// What a block that does not match its hash does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnCorruption {
    /// Its reader gets an I/O error.
    #[default]
    Error,
    /// The kernel logs it and hands out the block.
    Ignore,
    /// The machine restarts.
    Restart,
    /// The kernel panics.
    Panic,
}
