//! What the user asks of a session.

use cpio_builder::menu::Menu;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// What the session does about DHCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DhcpMode {
    /// Search for a DHCP server: beside one do as [`DhcpMode::Proxy`], without one as
    /// [`DhcpMode::Full`].
    #[default]
    Auto,
    /// Tell machines what to boot, and leave addresses to the DHCP server that is there.
    Proxy,
    /// Be the DHCP server: addresses and what to boot.
    Full,
    /// Nothing: another server tells machines what to boot.
    Off,
}

/// Everything that the user asks for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Images, drives and directories.
    pub media: Vec<PathBuf>,
    /// The interface to share on.
    pub interface: Option<String>,
    /// What is done about DHCP.
    pub dhcp: DhcpMode,
    /// Addresses to give, ends included.
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Kernel to boot instead of the medium's.
    pub kernel: Option<PathBuf>,
    /// Initramfs instead of the medium's.
    pub initrd: Option<PathBuf>,
    /// Words for every kernel.
    pub append: String,
    /// Our `/init`; without one, the media's own has to do it.
    pub init: Option<Vec<u8>>,
    /// Firmware that is iPXE itself is given a boot loader, too.
    pub no_ipxe: bool,
    /// Where leases are kept.
    pub state: PathBuf,
    /// Every client has a disk of its own here, below `state`, where what it changes is
    /// kept.
    pub keep_settings: bool,
    /// Where clients find us when there is another machine in between.
    pub behind: Option<Behind>,
    /// What boots instead of media.
    pub room: Option<Room>,
}

/// A menu of what is in a directory, for machines that boot something else than media.
/// What is in it is served as it is when it is asked for.
#[derive(Debug, Clone, Default)]
pub struct Room {
    /// The directory.
    pub directory: PathBuf,
    /// What boots; paths are those of HTTP and TFTP.
    pub menu: Menu,
    /// What machines with an address of ours are told: the way out of the network; this
    /// computer's when there is none.
    pub router: Option<Ipv4Addr>,
    /// And who knows names; this computer's when there are none.
    pub dns: Vec<Ipv4Addr>,
}

/// Sharing behind a network that gives addresses and names the first file itself, as
/// an emulator's own network does: NFS and HTTP on any free ports, nothing else, and no
/// need to be root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// The address that is listened on.
    pub listen: Ipv4Addr,
    /// The address under which clients know it.
    pub known_as: Ipv4Addr,
}
