//! The options of a session.

use cpio_builder::menu::Menu;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// The session's DHCP mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DhcpMode {
    /// Search for a DHCP server: beside one do as [`DhcpMode::Proxy`], without one as
    /// [`DhcpMode::Full`].
    #[default]
    Auto,
    /// Tell clients what to boot, and leave addresses to the other DHCP server.
    Proxy,
    /// Be the DHCP server: addresses and what to boot.
    Full,
    /// No DHCP: another server tells clients what to boot.
    Off,
}

/// All options.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Images, drives and directories.
    pub media: Vec<PathBuf>,
    /// The interface to share on.
    pub interface: Option<String>,
    /// The DHCP mode.
    pub dhcp: DhcpMode,
    /// Addresses to lease, ends included.
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Kernel to boot instead of the medium's.
    pub kernel: Option<PathBuf>,
    /// Initramfs instead of the medium's.
    pub initrd: Option<PathBuf>,
    /// Words for every kernel command line.
    pub append: String,
    /// Our `/init`; without one, the medium's own initramfs has to find the root.
    pub init: Option<Vec<u8>>,
    /// Firmware that is iPXE gets a boot loader, too.
    pub no_ipxe: bool,
    /// iPXE's release for Secure Boot, `ipxeboot.tar.gz`.
    pub ipxe: Option<PathBuf>,
    /// Where leases are kept.
    pub state: PathBuf,
    /// Every client has a disk of its own here, below `state`, for its changes.
    pub keep_settings: bool,
    /// Bytes that the clients' files may take together; half of their file system when `None`.
    pub settings_limit: Option<u64>,
    /// The addresses of this machine as clients see them, when another machine is in between.
    pub behind: Option<Behind>,
    /// A menu to boot instead of media.
    pub room: Option<Room>,
}

/// A menu for a directory's files, for clients that boot something else than media. The files
/// are read at each request.
#[derive(Debug, Clone, Default)]
pub struct Room {
    /// The directory.
    pub directory: PathBuf,
    /// The menu; paths are those of HTTP and TFTP.
    pub menu: Menu,
    /// The router in leases; this computer's when `None`.
    pub router: Option<Ipv4Addr>,
    /// The name servers in leases; this computer's when empty.
    pub dns: Vec<Ipv4Addr>,
}

/// Sharing behind a network with its own DHCP server that names the first file, such as an
/// emulator's: NFS and HTTP on any free ports, no other service, and no root needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// The address to listen on.
    pub listen: Ipv4Addr,
    /// The address under which clients know it.
    pub known_as: Ipv4Addr,
}
