//! [`BootPlan`]: what will be done, in order, as plain data.
//!
//! A dialect module turns words into a plan; `init` executes it and knows no
//! dialects; `bellwether explain` prints it; tests compare it. Everything that a
//! dialect leaves to a default is spelled out here, so that a reader of a plan
//! need not know the dialect. The one thing that stays dialect-shaped is
//! [`Handoff::layout`]: where the live system's own scripts look for the medium.
//!
//! A plan does no I/O and checks nothing about the machine it will run on.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use core::str::FromStr;

use crate::secrets::Private;

/// Seconds, as every dialect counts its timeouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Seconds(pub u32);

impl From<Seconds> for core::time::Duration {
    fn from(seconds: Seconds) -> Self {
        Self::from_secs(seconds.0.into())
    }
}

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Bytes(pub u64);

/// The language a command line is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dialect {
    /// The kernel's own `root=`, `ip=`, `nfsroot=` and initramfs-tools' additions.
    Kernel,
    /// Ubuntu's casper, `boot=casper`.
    Casper,
    /// Debian's live-boot, `boot=live`.
    LiveBoot,
    /// dracut: dmsquash-live, livenet, nfs, overlay.
    Dracut,
    /// Arch Linux's mkinitcpio-archiso.
    Archiso,
    /// Mandriva's and Mageia's stage1, `automatic=`.
    Stage1,
    /// Slax's linux-live.
    Slax,
    /// LTSP image chains.
    Ltsp,
    /// Alpine's mkinitfs.
    Alpine,
    /// Tiny Core's tc-config.
    TinyCore,
    /// Knoppix.
    Knoppix,
    /// Bellwether's own `bw.` words alone.
    Bellwether,
}

impl Dialect {
    /// Every dialect, in the order of the documentation.
    pub const ALL: [Self; 12] = [
        Self::Kernel,
        Self::Casper,
        Self::LiveBoot,
        Self::Dracut,
        Self::Archiso,
        Self::Stage1,
        Self::Slax,
        Self::Ltsp,
        Self::Alpine,
        Self::TinyCore,
        Self::Knoppix,
        Self::Bellwether,
    ];

    /// Its name, as `bw.dialect=` takes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Casper => "casper",
            Self::LiveBoot => "live-boot",
            Self::Dracut => "dracut",
            Self::Archiso => "archiso",
            Self::Stage1 => "stage1",
            Self::Slax => "slax",
            Self::Ltsp => "ltsp",
            Self::Alpine => "alpine",
            Self::TinyCore => "tiny-core",
            Self::Knoppix => "knoppix",
            Self::Bellwether => "bw",
        }
    }
}

/// What will be done with this boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootPlan {
    /// The dialect that the words were read in.
    pub dialect: Dialect,
    /// What is said on the console.
    pub log: LogPlan,
    /// Which drivers are loaded.
    pub drivers: DriverPlan,
    /// How the network comes up; `None` when nothing in the plan needs one.
    pub network: Option<NetworkPlan>,
    /// Where the root comes from.
    pub root: RootPlan,
    /// How the root becomes writable.
    pub writable: Writable,
    /// What the live system finds when it takes over.
    pub handoff: Handoff,
    /// What happens when a step fails.
    pub failure: FailurePlan,
    /// Every word of the line and what became of it.
    pub words: Vec<Word>,
    /// Remarks for `explain` and for one line each on the console.
    pub warnings: Vec<Warning>,
}

impl BootPlan {
    /// Whether the boot can succeed as far as the line alone tells.
    #[must_use]
    pub fn can_work(&self) -> bool {
        !self.warnings.iter().any(|warning| warning.fatal)
    }

    /// Whether the initramfs is itself the live system (Tiny Core, `bw.root=initramfs`).
    #[must_use]
    pub fn stays(&self) -> bool {
        matches!(self.root.sources.first(), Some(Source::Initramfs(path)) if path == "/")
    }
}

/// One word of the command line and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The word as written, quotes and passwords removed.
    pub text: String,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It shaped the plan.
    Used,
    /// A later (or, in stage1, an earlier) word of the same name won.
    Overridden,
    /// Known, and meant for the kernel or the live system, not for us.
    PassedOn,
    /// Known to the dialect and without effect here; a warning says why.
    Ignored,
    /// A word of another dialect than the one in force.
    Foreign(Dialect),
    /// No dialect knows it; kept for the real init.
    Unknown,
}

/// Something the user should know about the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The word it is about, as written, without passwords; empty when it is about the whole line.
    pub word: String,
    /// What is wrong or remarkable, in the user's words.
    pub message: String,
    /// What to write instead; empty when there is nothing to change.
    pub hint: String,
    /// Whether the boot cannot succeed because of it.
    pub fatal: bool,
}

/// What is said on the console.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogPlan {
    /// Only warnings and errors.
    pub quiet: bool,
    /// Everything, system calls of each step included.
    pub debug: bool,
}

/// Which drivers are loaded beyond those that the hardware and the plan ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DriverPlan {
    /// Never loaded by a device's alias (`blacklist=`, `modprobe.blacklist=`,
    /// `rd.driver.blacklist=`), normalised to underscores.
    pub blacklist: Vec<String>,
    /// Loaded before the devices are walked (`rd.driver.pre=`, `modules=`).
    pub force: Vec<String>,
    /// `module.param=value` words, in the order given.
    pub options: Vec<ModuleOption>,
}

/// One `module.param[=value]` word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleOption {
    /// Module name, normalised to underscores.
    pub module: String,
    /// `param=value` as finit_module wants it.
    pub option: String,
}

/// How the network comes up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPlan {
    /// Whether the boot fails without it. When not (`ip=` with a local root), it
    /// is brought up beside the other steps and nothing waits for it.
    pub required: bool,
    /// Which links may be used.
    pub links: LinkChoice,
    /// How addresses are found; the first link that satisfies it wins.
    pub addressing: Addressing,
    /// Names that links are given before anything else (`ifname=`).
    pub names: Vec<LinkName>,
    /// VLAN to put on top of the chosen link.
    pub vlan: Option<Vlan>,
    /// Host name from the line; wins over DHCP's.
    pub hostname: Option<String>,
    /// Name servers from the line; put before DHCP's.
    pub dns: Vec<Ipv4Addr>,
    /// NTP servers from the line.
    pub ntp: Vec<Ipv4Addr>,
    /// Routes from the line (`rd.route=`).
    pub routes: Vec<Route>,
    /// MTU from the line; wins over DHCP's.
    pub mtu: Option<u16>,
    /// Use DHCP's name servers (`rd.peerdns=0` says no).
    pub peer_dns: bool,
    /// The server that field 2 of `ip=` names; used where a source has none.
    pub boot_server: Option<Ipv4Addr>,
    /// How long to wait for a link to appear at all (drivers still loading).
    pub link_timeout: Seconds,
    /// How long to wait for a carrier once links exist.
    pub carrier_timeout: Seconds,
    /// How long one attempt at DHCP lasts before the console says so and it is
    /// tried again; the failure policy bounds the attempts.
    pub dhcp_timeout: Seconds,
}

/// Which links may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkChoice {
    /// Every wired link, raced; the first with an answer wins.
    Race,
    /// These devices, raced (`ethdevice=a,b`, `ip=…:eth0`); others are left alone.
    Named(Vec<String>),
    /// The link with this address (`BOOTIF=`); all of them, with a warning, when
    /// none has it.
    Mac(Mac),
}

/// A name for the link with this address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkName {
    /// The new name.
    pub name: String,
    /// The link's address.
    pub mac: Mac,
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `52-54-00-12-34-56`, as boot loaders write it in file names.
    #[must_use]
    pub fn dashed(self) -> String {
        self.text('-')
    }

    fn text(self, separator: char) -> String {
        let mut text = String::new();
        for byte in self.0 {
            if !text.is_empty() {
                text.push(separator);
            }
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        text
    }
}

/// `52:54:00:12:34:56`
impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(':'))
    }
}

/// Reads two hexadecimal digits an octet, with colons or dashes.
impl FromStr for Mac {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(())?;
            *byte = u8::from_str_radix(part, 16).map_err(drop)?;
        }
        if parts.next().is_none() { Ok(Self(bytes)) } else { Err(()) }
    }
}

/// How addresses are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressing {
    /// DHCP (RFC 2131).
    Dhcp(DhcpRequest),
    /// Written on the line.
    Static(StaticAddress),
    /// The line says that there is none to set (`ip=off` with a network root):
    /// use what is already configured, by the kernel for example.
    Existing,
}

/// What a DHCP client says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DhcpRequest {
    /// Ask for this address first (`ip=ADDR::::::dhcp`).
    pub requested: Option<Ipv4Addr>,
    /// Option 61 as `(type, bytes)`; by default the hardware address is used.
    pub client_id: Option<(u8, Vec<u8>)>,
    /// Option 60.
    pub vendor_class: Option<String>,
}

/// An address written on the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticAddress {
    /// Our address.
    pub address: Ipv4Addr,
    /// Prefix length, 0 to 32; guessed from the address's class when the line has none.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
}

/// One route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destination network.
    pub destination: Ipv4Addr,
    /// Its prefix length, 0 to 32.
    pub prefix: u8,
    /// Next hop; `None` for on-link.
    pub gateway: Option<Ipv4Addr>,
}

/// A VLAN on top of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vlan {
    /// Name of the new device.
    pub name: String,
    /// The device it sits on.
    pub link: String,
    /// 1 to 4094.
    pub id: u16,
}

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

/// What the live system finds when it takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handoff {
    /// Whose layout of mount points and state files.
    pub layout: Dialect,
    /// The real init; tried before the usual places.
    pub init: Option<String>,
    /// Arguments for it, in order.
    pub args: Vec<String>,
    /// Leave the root's fstab alone.
    pub keep_fstab: bool,
    /// Leave the root's network configuration alone.
    pub keep_network: bool,
    /// Copy our resolv.conf to the root.
    pub resolv_conf: bool,
    /// `KEY=value` settings that the dialect's own scripts in the root read
    /// (`username`, `hostname`, … for `/etc/casper.conf`).
    pub settings: Vec<(String, String)>,
    /// Show the layers' mounts in the root (`showmounts`).
    pub show_layers: bool,
    /// Where in the root the medium is moved, beside what the layout says.
    pub medium_at: Option<String>,
    /// Add the swap partitions that are found to the root's fstab; globs of
    /// `/dev/` paths, empty for none.
    pub swap: Vec<String>,
    /// Boot on, or become something else.
    pub then: Then,
}

/// What happens after the steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    /// switch_root and exec the real init.
    SwitchRoot,
    /// Become a clone receiver.
    Clone(Box<ClonePlan>),
    /// Send this machine's disks.
    #[cfg(feature = "p2v")]
    P2v(Box<P2vPlan>),
    /// Ask at the console where this machine's disks go.
    #[cfg(feature = "p2v")]
    AskP2v,
}

/// How disks are sent.
#[cfg(feature = "p2v")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum P2vWay {
    /// A conversion server's virt-v2v reads them over ssh.
    V2v,
    /// Over ssh as files.
    Ssh,
    /// To the empty disk of an NBD server.
    Nbd,
    /// As bytes over TCP.
    Tcp,
    /// To `bellwether clone p2v-server`.
    Own,
}

#[cfg(feature = "p2v")]
impl P2vWay {
    /// The scheme of its URL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            P2vWay::V2v => "v2v",
            P2vWay::Ssh => "ssh",
            P2vWay::Nbd => "nbd",
            P2vWay::Tcp => "tcp",
            P2vWay::Own => "p2v",
        }
    }
}

/// A machine that sends its disks.
#[cfg(feature = "p2v")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct P2vPlan {
    /// How.
    pub way: P2vWay,
    /// Where to.
    pub server: Server,
    /// The port there.
    pub port: u16,
    /// The path of `ssh://`, the export of `nbd://`.
    pub path: String,
    /// The user to log in as.
    pub user: String,
    /// The word with the password.
    pub password: Option<Private>,
    /// The word with the URL of a private key.
    pub identity: Option<Private>,
    /// The word with the key of `p2v://`.
    pub key: Option<Private>,
    /// The fingerprint that the host's key must have.
    pub host_key: Option<String>,
    /// virt-v2v is run by sudo.
    pub sudo: bool,
    /// The guest's name.
    pub name: Option<String>,
    /// Its processors.
    pub vcpus: Option<u32>,
    /// They are arranged as in this machine.
    pub topology: bool,
    /// Its memory in KiB.
    pub memory_kib: Option<u64>,
    /// Its processor's vendor.
    pub cpu_vendor: Option<String>,
    /// Its processor's model.
    pub cpu_model: Option<String>,
    /// `acpi`, `apic`, `pae`, where the line says whether it has them.
    pub features: Vec<(&'static str, bool)>,
    /// `utc`, `localtime` or `unknown`.
    pub clock: Option<String>,
    /// Hours that the clock is ahead of UTC.
    pub clock_hours: i32,
    /// The disks; all that stay in the machine when there are none.
    pub disks: Vec<String>,
    /// CD drives, if the line names any.
    pub removable: Option<Vec<String>>,
    /// Network cards, if the line names any.
    pub interfaces: Option<Vec<String>>,
    /// Cards and their networks; an empty card is for all others.
    pub networks: Vec<(String, String)>,
    /// virt-v2v's output.
    pub output: String,
    /// Where it is stored; empty where virt-v2v has no use for it.
    pub storage: String,
    /// Further options of virt-v2v with their values.
    pub options: Vec<(&'static str, String)>,
    /// Sectors that cannot be read are sent as zeros.
    pub zero_bad: bool,
    /// The copy is changed for a virtual machine.
    pub edit: bool,
    /// A command before.
    pub pre: String,
    /// What is done after success.
    pub post: String,
    /// What is done after a failure.
    pub fail: String,
}

#[cfg(feature = "p2v")]
impl P2vPlan {
    /// The defaults of virt-p2v.
    #[must_use]
    pub fn new(way: P2vWay, server: Server, port: u16) -> Self {
        Self {
            way,
            server,
            port,
            path: String::new(),
            user: String::from("root"),
            password: None,
            identity: None,
            key: None,
            host_key: None,
            sudo: false,
            name: None,
            vcpus: None,
            topology: false,
            memory_kib: None,
            cpu_vendor: None,
            cpu_model: None,
            features: Vec::new(),
            clock: None,
            clock_hours: 0,
            disks: Vec::new(),
            removable: None,
            interfaces: None,
            networks: Vec::new(),
            output: String::from("local"),
            storage: String::new(),
            options: Vec::new(),
            zero_bad: false,
            edit: false,
            pre: String::new(),
            post: String::from("poweroff"),
            fail: String::new(),
        }
    }
}

/// A clone protocol, as a line names it. The protocols themselves are the `clone` crate's.
#[derive(Debug, PartialEq, Eq)]
pub struct CloneProtocol {
    /// The name on a line, `bw.clone=NAME`, and in the `clone` crate's tables.
    pub name: &'static str,
    /// The name in messages.
    pub title: &'static str,
    /// What may follow the name behind a colon.
    pub argument: CloneArgument,
    /// How long a receiver waits for its sender, as the protocol's documents say; 0 for ever.
    pub timeout: Seconds,
    /// How often it tries.
    pub tries: u32,
}

/// What a line may say behind a clone protocol's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneArgument {
    /// Nothing.
    None,
    /// A session's name; empty for the names that the protocol itself uses.
    Session,
    /// An even port; 9000 without one. The next port is used, too.
    Port,
    /// A port; that of the protocol without one.
    Room,
    /// URLs of one file, with commas between.
    Urls,
}

/// All clone protocols.
pub static CLONE_PROTOCOLS: [CloneProtocol; 8] = [
    protocol("ka", "KA", CloneArgument::Session, 120, 5),
    protocol("dolly", "Dolly", CloneArgument::None, 300, 3),
    protocol("dollyplus", "Dolly+", CloneArgument::None, 300, 3),
    protocol("udpcast", "udpcast", CloneArgument::Port, 300, 3),
    protocol("room", "the room", CloneArgument::Room, 300, 3),
    protocol("target", "target of a room", CloneArgument::Room, 300, 3),
    protocol("image", "image", CloneArgument::Urls, 300, 3),
    protocol("source", "source of a room", CloneArgument::Room, 0, 3),
];

const fn protocol(
    name: &'static str,
    title: &'static str,
    argument: CloneArgument,
    timeout: u32,
    tries: u32,
) -> CloneProtocol {
    CloneProtocol { name, title, argument, timeout: Seconds(timeout), tries }
}

/// How a clone receiver is fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneMethod {
    /// By this protocol.
    pub protocol: &'static CloneProtocol,
    /// What follows its name on a line; the default where nothing does.
    pub argument: String,
}

impl CloneMethod {
    /// What `NAME` or `NAME:ARGUMENT` stands for, if there is such a protocol and the argument
    /// is one of its.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        let (name, argument) = word.split_once(':').unwrap_or((word, ""));
        let protocol = CLONE_PROTOCOLS.iter().find(|protocol| protocol.name == name)?;
        let argument = match (protocol.argument, argument) {
            (CloneArgument::Port, "") => "9000",
            (CloneArgument::Port, port) => {
                port.parse().ok().filter(|p: &u16| *p > 0 && p.is_multiple_of(2)).map(|_| port)?
            }
            (CloneArgument::Room, port) if !port.is_empty() => {
                port.parse().ok().filter(|p: &u16| (1..u16::MAX).contains(p)).map(|_| port)?
            }
            (CloneArgument::None | CloneArgument::Room, "") | (CloneArgument::Session, _) => {
                argument
            }
            (CloneArgument::Urls, urls) => {
                urls.split(',').all(|url| url.starts_with("http://")).then_some(urls)?
            }
            (CloneArgument::None | CloneArgument::Room, _) => return None,
        };
        Some(Self { protocol, argument: String::from(argument) })
    }
}

/// A clone receiver, or the source of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClonePlan {
    /// How it is fed.
    pub method: CloneMethod,
    /// The disk named on the line, if any; otherwise the method's own rule picks it.
    pub target: Option<DeviceSelector>,
    /// How long to wait for the sender.
    pub timeout: Seconds,
    /// How often to try before rebooting.
    pub tries: u32,
    /// What was written is read back before it counts as a copy.
    pub verify: bool,
    /// With a copy, the machine is switched off instead of started anew.
    pub power_off: bool,
    /// A copy is taken from these alone, if there are any; the sender is the first.
    pub from: Vec<Ipv4Addr>,
    /// `blake3:HEX` or `sha256:HEX` that the copy must have.
    pub digest: Option<String>,
    /// The word with the key that the sender must know.
    pub key: Option<Private>,
    /// The word with the password of openSUSE's Dolly.
    pub password: Option<Private>,
    /// Options of the host's command, which does what `/init` does not.
    pub options: Vec<String>,
}

impl ClonePlan {
    /// The command of the host that does it, out of the image of `clone tools`; nothing when
    /// `/init` does it.
    #[must_use]
    pub fn program(&self) -> Option<&'static str> {
        match self.method.protocol.name {
            "source" => Some("source"),
            _ if self.options.is_empty() => None,
            "room" => Some("receive"),
            name => Some(name),
        }
    }
}

/// What happens when a step fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailurePlan {
    /// After the failure screen.
    pub then: OnFailure,
    /// The whole boot's limit, counted from our start; `None` for none.
    pub deadline: Option<Seconds>,
    /// Stop for a shell at these points (`break=`, `rd.break=`), by their own names.
    pub breakpoints: Vec<String>,
    /// The console is locked: no shell, no editing of the line, no stops.
    pub locked: bool,
}

/// Steps of a boot, each with the points of the dialects (`break=`, `rd.break=`) that
/// stop before it. The order of steps is the same everywhere, what lies between two
/// points is not: premount of initramfs-tools is before its network, dracut's pre-mount
/// behind it.
#[cfg(feature = "all")]
const POINTS: [(&str, &str); 6] = [
    ("drivers", "top modules cmdline pre-udev pre-trigger"),
    ("network", "premount initqueue y yes 1"),
    ("source", "mount mountroot pre-mount"),
    ("layers", ""),
    ("handoff", "bottom postmount"),
    ("switch", "init pre-pivot cleanup"),
];

/// The step of a boot that a breakpoint stops before; a step's own name is a point
/// too. `None` for an unknown point.
#[cfg(feature = "all")]
#[must_use]
pub fn point(name: &str) -> Option<&'static str> {
    let known = |(step, names): &&(&str, &str)| {
        *step == name || names.split(' ').any(|point| point == name && !point.is_empty())
    };
    POINTS.iter().find(known).map(|(step, _)| *step)
}

/// After the failure screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// A console menu; the boot is tried again by itself after this long, so
    /// that an unattended machine never hangs.
    Menu {
        /// Time to the next try.
        retry_after: Seconds,
    },
    /// Reboot after this long (`panic=N`; 0 for at once).
    Reboot(Seconds),
    /// Stay on the failure screen (`panic=0`), saying so.
    Halt,
}
