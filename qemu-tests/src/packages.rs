//! The Debian packages that the lab needs, and how they get here.

use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use crate::shell;
use crate::{Error, Result};

/// Every package the lab needs on the host, with the reason, in one place.
pub const NEEDED: &[(&str, &str)] = &[
    ("qemu-system-x86", "the machines"),
    ("ipxe-qemu", "their network boot ROMs"),
    ("seabios", "their firmware"),
    ("dnsmasq-base", "DHCP, TFTP and DNS"),
    ("pxelinux", "the boot loader that most sites use"),
    ("syslinux-common", "its modules"),
    ("nfs-ganesha", "NFS versions 3 and 4 without the host's kernel"),
    ("nfs-ganesha-vfs", "its exports of directories"),
    ("rpcbind", "port lookups of NFS version 3"),
    ("netbase", "/etc/services, without which rpcbind hears no client"),
    ("mmdebstrap", "live systems from Debian packages"),
    ("squashfs-tools", "their images"),
    ("xorriso", "their ISOs"),
    ("mtools", "the FAT image inside an ISO"),
    ("isolinux", "boot loader of ISOs for BIOS"),
    ("grub-efi-amd64-bin", "boot loader of ISOs for UEFI"),
    ("ovmf", "UEFI firmware"),
    ("e2fsprogs", "ext2 images"),
    ("iproute2", "bridges and taps"),
    ("util-linux", "namespaces: unshare, nsenter, setpriv"),
    ("kmod", "module indexes: depmod"),
    ("tcpdump", "captures of what went over the wire"),
    ("procps", "sysctl"),
];

/// What the scenarios about disks need besides: programs that make file
/// systems and archives.
/// `cargo demo` does without them.
pub const FOR_DISKS: &[(&str, &str)] = &[
    ("e2fsprogs", "ext4"),
    ("xfsprogs", "xfs"),
    ("btrfs-progs", "btrfs"),
    ("f2fs-tools", "f2fs"),
    ("dosfstools", "vfat"),
    ("mtools", "files on it"),
    ("ntfs-3g", "NTFS"),
    ("erofs-utils", "erofs"),
    ("udftools", "udf"),
    ("fdisk", "partition tables"),
    ("cryptsetup-bin", "dm-verity's trees, LUKS"),
    ("dmsetup", "what device-mapper made, seen from inside"),
    ("isomd5sum", "the MD5 inside an ISO"),
    ("b3sum", "BLAKE3 digests"),
    ("gzip", "compressed images"),
    ("xz-utils", "the same"),
    ("zstd", "the same"),
    ("cpio", "archives by another hand"),
];

/// What the scenarios about servers besides NFS need.
pub const FOR_SOURCES: &[(&str, &str)] = &[
    ("nginx-light", "HTTP"),
    ("vsftpd", "FTP"),
    ("atftpd", "TFTP with windows"),
    ("nbd-server", "network block devices"),
    ("samba", "CIFS"),
    ("qemu-system-common", "virtiofsd, in Debian 12"),
];

/// What makes, changes and judges the partition tables of copied disks.
pub const FOR_TABLES: &[(&str, &str)] =
    &[("fdisk", "sfdisk, fdisk"), ("gdisk", "sgdisk"), ("parted", "parted")];

/// What rooms of machines that copy need: peers, and networks that lose packets.
pub const FOR_ROOMS: &[(&str, &str)] = &[
    ("udpcast", "udp-sender and udp-receiver, as Debian has them"),
    ("nftables", "packets lost on purpose"),
    ("socat", "chains to measure against"),
    ("rsync", "says whether trees are equal"),
    ("acl", "trees with lists of access"),
    ("attr", "with attributes"),
    ("libcap2-bin", "with capabilities"),
    ("python3", "with sockets"),
];

/// What a room's copy is measured against.
pub const FOR_ROOM_BENCH: &[(&str, &str)] = &[
    ("partclone", "the used blocks of a file system, as Clonezilla sends them"),
    ("zstd", "which packs them"),
    ("aria2", "a client of BitTorrent"),
    ("e2fsprogs", "the golden disk"),
    ("python3", "makes the torrent"),
];

/// What machines that send their disks need: servers that take them.
pub const FOR_P2V: &[(&str, &str)] = &[
    ("dropbear-bin", "the ssh client that goes into the image"),
    ("openssh-server", "the server"),
    ("openssh-client", "its keys"),
    ("nbdkit", "what virt-v2v reads disks with"),
    ("libnbd-bin", "the same: nbdcopy"),
    ("qemu-utils", "what p2v-server writes images with"),
    ("netcat-openbsd", "nc, which a disk is sent to"),
    ("libvirt-clients", "virt-xml-validate"),
    ("libxml2-utils", "what it runs"),
    ("libvirt-daemon", "virt-qemu-run, which starts a guest by its description"),
    ("libvirt-daemon-driver-qemu", "the same"),
];

/// What a conversion of a machine needs besides.
pub const FOR_CONVERSIONS: &[(&str, &str)] = &[
    ("virt-v2v", "the conversion server"),
    ("libguestfs-xfs", "the file system of a machine, in its appliance"),
    ("fdisk", "the machine's partition table"),
    ("lvm2", "the machine's volumes"),
    ("xfsprogs", "a file system on one of them"),
];

/// What the tests of a server's rights need.
pub const FOR_JAIL: &[(&str, &str)] = &[
    ("curl", "a client by HTTP and TFTP"),
    ("e2fsprogs", "mkfs.ext4, for a client's disk"),
    ("grub-efi-amd64-bin", "modules, without which grub-mkimage is not run"),
    ("dnsmasq-base", "DHCP servers of other people"),
    ("isc-dhcp-server", "the same"),
    ("isc-dhcp-relay", "a relay"),
    ("kea-dhcp4-server", "another DHCP server"),
    ("udhcpd", "a small router's"),
    ("udhcpc", "a client by DHCP"),
    ("pxelinux", "what a client by PXE is told to load"),
];

/// What bad cables need.
pub const FOR_FAULTS: &[(&str, &str)] = &[("socat", "the network's end of a bad cable")];

/// What the checks without machines need.
pub const FOR_CHECKS: &[(&str, &str)] = &[
    ("e2fsprogs", "mkfs.ext4, for the tests of client disks"),
    ("git", "the list of files whose words are checked"),
    ("xz-utils", "xz streams, for the tests of expansion"),
    ("squashfs-tools", "images, for the tests of recipes"),
    ("xorriso", "ISOs, for the same"),
    ("mtools", "the FAT image inside one"),
    ("isolinux", "its boot loader for BIOS"),
    ("syslinux-common", "the modules of that"),
    ("grub-efi-amd64-bin", "and for UEFI"),
    ("dropbear-bin", "dropbearconvert, which reads a key that we made"),
    ("openssh-client", "ssh-keygen, which makes one"),
];

/// Of [`NEEDED`], the servers that checks without machines start, as root, in a network
/// namespace.
const SERVERS: [&str; 5] = ["dnsmasq-base", "nfs-ganesha", "nfs-ganesha-vfs", "rpcbind", "netbase"];

/// How packages are installed.
const INSTALL: &str = "apt-get install --yes --no-install-recommends";

/// True when this process is root.
pub fn is_root() -> bool {
    shell::sh(&["id", "-u"]).is_ok_and(|id| id.trim() == "0")
}

/// The names in [`NEEDED`] that are not installed.
pub fn missing() -> Vec<&'static str> {
    missing_of(NEEDED)
}

fn missing_of(needed: &[(&'static str, &str)]) -> Vec<&'static str> {
    let installed = |name: &str| {
        shell::sh(&["dpkg-query", "-W", "-f", "${db:Status-Status}", name])
            .is_ok_and(|status| status.trim() == "installed")
    };
    needed.iter().map(|&(name, _)| name).filter(|name| !installed(name)).collect()
}

/// Makes sure that every package is here; installs what is missing when root.
///
/// # Errors
/// [`Error::Packages`] with the one command to run when not root;
/// [`Error::Command`] when apt fails.
pub fn ensure() -> Result<()> {
    ensure_all(NEEDED)
}

/// The same for everything that any test needs.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_for_tests() -> Result<()> {
    let mut needed = [NEEDED, FOR_DISKS, FOR_SOURCES, FOR_FAULTS].concat();
    if let (parts, true) = parts_of_rust() {
        needed.extend(parts.into_iter().map(|part| (part, "a part of Rust")));
    }
    ensure_all(&needed)
}

/// Makes sure that every one of these packages is here, as [`ensure`] does; two
/// that ask at once wait for each other.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_all(needed: &[(&'static str, &str)]) -> Result<()> {
    static ASKING: Mutex<()> = Mutex::new(());
    let _alone = ASKING.lock().unwrap_or_else(PoisonError::into_inner);
    let missing = missing_of(needed);
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        return Err(Error::Packages { remedy: by_hand(&missing) });
    }
    install(&missing)
}

/// The line that installs packages. A fresh system has no lists of them.
fn by_hand(packages: &[&str]) -> String {
    format!("apt-get update && {INSTALL} {}", packages.join(" "))
}

/// Installs packages, as root.
fn install(packages: &[&str]) -> Result<()> {
    crate::say(format_args!("installing {}", packages.join(" ")));
    apt(&["update"])?;
    let mut words: Vec<&str> = INSTALL.split(' ').skip(1).collect();
    words.extend(packages);
    apt(&words)
}

/// Makes sure of what the checks without machines need: parts of Rust's toolchain, and the
/// programs of [`FOR_CHECKS`]. What this user may not install is told, all of it at once.
///
/// # Errors
/// [`Error::Input`] with the commands that install it; [`Error::Command`] when apt fails.
pub fn tools() -> Result<()> {
    let (parts, debian) = parts_of_rust();
    let mut remedies = Vec::new();
    let mut packages = missing_of(FOR_CHECKS);
    if is_root() {
        packages.extend(missing().into_iter().filter(|name| SERVERS.contains(name)));
    }
    if debian {
        packages.extend(parts);
    } else if !parts.is_empty() {
        // It writes into its user's own directory.
        let words = [&["rustup", "component", "add"], &parts[..]].concat();
        crate::say(format_args!("{}", words.join(" ")));
        if shell::sh(&words).is_err() {
            remedies.push(words.join(" "));
        }
    }
    match packages.as_slice() {
        [] => {}
        missing if is_root() => install(missing)?,
        missing => remedies.push(by_hand(missing)),
    }
    match remedies.join("\n    ") {
        none if none.is_empty() => Ok(()),
        all => Err(Error::Input(format!("tools are missing; to install them:\n\n    {all}\n"))),
    }
}

/// The parts of Rust's toolchain that are missing, and whether they are Debian packages;
/// otherwise they are components of rustup.
fn parts_of_rust() -> (Vec<&'static str>, bool) {
    let owner = shell::sh(&["sh", "-c", "dpkg-query -S \"$(command -v cargo)\""]);
    let owner = owner.ok().and_then(|line| Some(line.split_once(':')?.0.to_owned()));
    let lacks = |tool: &&str| shell::sh(&["cargo", tool, "--version"]).is_err();
    let parts = ["fmt", "clippy"].into_iter().filter(lacks);
    let names = parts.map(|tool| match (owner.as_deref(), tool) {
        (Some("cargo-web"), "fmt") => "rustfmt-web",
        (Some("cargo-web"), _) => "rust-web-clippy",
        (_, "fmt") => "rustfmt",
        (Some(_), _) => "rust-clippy",
        (None, _) => "clippy",
    });
    (names.collect(), owner.is_some())
}

fn apt(words: &[&str]) -> Result<()> {
    let mut apt = shell::command("apt-get");
    apt.args(words).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
    // Servers are started by scenarios only: Debian's own units stay off.
    apt.env("RUNLEVEL", "1");
    shell::run(&mut apt).map(drop)
}
