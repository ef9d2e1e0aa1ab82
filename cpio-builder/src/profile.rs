//! Tables: the modules of each profile, and the class of each module.

use crate::error::Error;
use crate::tree::{KernelModule, KernelTree};
pub use coldplug::index::Class;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A selection of modules. Modules that a kernel lacks or has built in are skipped: one table
/// serves all kernels. A list has words between white space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// The word on the command line.
    pub name: &'static str,
    /// A description, one line.
    pub about: &'static str,
    /// Whole directories below `kernel/`, or starts of file names there.
    places: &'static [&'static str],
    /// Exceptions to `places`.
    without: &'static [&'static str],
    /// Modules or aliases by name.
    names: &'static str,
    /// Further lists of names, shared by profiles.
    also: &'static [&'static str],
}

/// All profiles, smallest first.
pub const PROFILES: [Profile; 4] = [VIRT, LAN, NET, ALL];

impl Profile {
    /// From the word on the command line.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        PROFILES.into_iter().find(|profile| profile.name == name)
    }

    /// The profile's modules in a kernel, without their dependencies.
    #[must_use]
    pub fn select(&self, tree: &KernelTree) -> BTreeSet<usize> {
        let under = |place: &str, lists: &[&str]| {
            let mut starts = lists.iter().flat_map(|list| list.split_ascii_whitespace());
            starts.any(|start| start == "/" || place.starts_with(start))
        };
        let placed = |module: &KernelModule| {
            under(module.place(), self.places) && !under(module.place(), self.without)
        };
        let modules = tree.modules.iter().enumerate();
        let mut chosen: BTreeSet<usize> =
            modules.filter(|(_, m)| placed(m)).map(|(n, _)| n).collect();
        let lists = std::iter::once(&self.names).chain(self.also);
        let names = lists.flat_map(|list| list.split_ascii_whitespace());
        chosen.extend(names.filter_map(|name| tree.resolve(name)).flatten());
        chosen
    }
}

/// Guests of QEMU/KVM, Hyper-V, VMware and Xen that boot a live system.
const VIRT: Profile = Profile {
    name: "virt",
    about: "virtual machines booting a live system from NFS, an ISO or a disk",
    places: &[],
    without: &[],
    names: "
        virtio_pci virtio_mmio virtio_net virtio_blk virtio_scsi
        hv_vmbus hv_netvsc hv_storvsc hyperv_keyboard
        vmxnet3 vmw_pvscsi xen_netfront xen_blkfront
        e1000 e1000e 8139cp ne2k_pci pcnet32
        ata_piix ata_generic ahci nvme sd_mod sr_mod mptspi sym53c8xx sdhci_pci mmc_block
        xhci_pci ehci_pci uhci_hcd usb_storage uas",
    also: &[LIVE],
};

/// File systems of a live boot, with the block layers and libraries they need; and the fast
/// SHA-256 for the kernel's check of module signatures.
const LIVE: &str = "
    loop squashfs overlay aufs isofs ext4 vfat nls_cp437 nls_ascii nls_iso8859-1 nls_utf8
    nfs nfsv3 nfsv4 9p 9pnet_virtio af_packet ipv6
    crc32c_intel crc32c_generic crc32c
    sha256_ssse3 sha256_ce";

/// The devices of this machine: [`host_aliases`] adds its modules.
pub const HOST: Profile = Profile {
    name: "host",
    about: "the machine that the image is made on",
    places: &[],
    without: &[],
    names: "",
    also: &[LIVE],
};

/// Classes by the word on the command line.
pub const CLASSES: [(&str, Class); 6] = [
    ("net", Class::NET),
    ("storage", Class::STORAGE),
    ("fs", Class::FS),
    ("input", Class::INPUT),
    ("bus", Class::BUS),
    ("lib", Class::LIB),
];

/// The aliases of a machine's devices: every `modalias` below a sysfs's `devices`, sorted.
///
/// # Errors
/// [`Error::Read`] when the directory cannot be read.
pub fn host_aliases(sys: &Path) -> Result<BTreeSet<String>, Error> {
    let top = sys.join("devices");
    let mut todo = vec![top.clone()];
    let mut found = BTreeSet::new();
    while let Some(dir) = todo.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            // Devices come and go.
            Err(_) if dir != top => continue,
            Err(source) => return Err(Error::Read { path: dir, source }),
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push(entry.path());
            } else if entry.file_name() == "modalias"
                && let Ok(text) = fs::read_to_string(entry.path())
                && !text.trim().is_empty()
            {
                found.insert(text.trim().to_owned());
            }
        }
    }
    Ok(found)
}

/// The modules that drive devices with these aliases, without those that no
/// boot needs (sound, graphics).
#[must_use]
pub fn for_aliases(tree: &KernelTree, aliases: &BTreeSet<String>) -> BTreeSet<usize> {
    let found = aliases.iter().filter_map(|alias| tree.resolve(alias)).flatten();
    let wanted = |n: &usize| tree.modules.get(*n).is_some_and(|m| class(m) != Class::OTHER);
    found.filter(wanted).collect()
}

/// All modules of some classes.
#[must_use]
pub fn of_class(tree: &KernelTree, wanted: Class) -> BTreeSet<usize> {
    let modules = tree.modules.iter().enumerate();
    modules.filter(|(_, m)| class(m).intersects(wanted)).map(|(n, _)| n).collect()
}

/// Every live system needs these, wherever its image comes from.
pub const ESSENTIAL: [&str; 3] = ["loop", "squashfs", "overlay"];

/// Wired network cards, and the buses that they are on.
const CARDS: &str = "
    drivers/net/ethernet/ drivers/net/usb/ drivers/net/phy/ drivers/net/mdio/
    drivers/net/pcs/ drivers/net/hyperv/ drivers/net/vmxnet3/ drivers/net/fjes/
    drivers/net/fddi/ drivers/net/hippi/ drivers/staging/qlge/
    drivers/usb/host/ drivers/virtio/ drivers/hv/ drivers/phy/ drivers/pinctrl/";

/// Drivers among these that no boot needs.
const NO_CARDS: &str = "
    drivers/net/usb/hso drivers/net/usb/sierra_net drivers/net/usb/qmi_wwan
    drivers/net/usb/cdc_mbim drivers/net/usb/huawei_cdc_ncm drivers/net/usb/cdc-phonet
    drivers/hv/hv_balloon drivers/hv/hv_utils
    drivers/virtio/virtio_balloon drivers/virtio/virtio_mem drivers/net/phy/dp83640";

/// What a boot over the network needs beside cards: keyboards, images of other file systems and
/// in other sources, and their checks.
const OVER_NETWORK: &str = "
    virtio_net xen_netfront xen_pcifront hyperv_keyboard pci_hyperv
    thunderbolt_net 8021q
    usbhid hid_generic hid_apple hid_microsoft hid_hyperv atkbd i8042
    udf erofs cifs nfsv2 rpcsec_gss_krb5 virtiofs efivarfs nbd nvme_tcp
    nls_iso8859-15 nls_cp850 nls_cp852 nls_cp1250 nls_cp1251 nls_cp932 nls_cp936
    dm_mod dm_snapshot dm_verity dm_zero
    tls libcrc32c
    crypto-sha256 crypto-sha512 crypto-sha1 crypto-md5 crypto-md4 crypto-hmac crypto-cmac
    crypto-aes crypto-ecb crypto-cbc crypto-ctr crypto-cts crypto-xts crypto-gcm crypto-ccm
    crypto-arc4 crypto-des crypto-crc32 crypto-xxhash64";

/// Any machine with a wired network whose root comes over it: no driver of a disk.
const LAN: Profile = Profile {
    name: "lan",
    about: "any machine whose root comes over a wired network: no disks",
    places: &[CARDS],
    without: &[NO_CARDS],
    names: OVER_NETWORK,
    also: &[LIVE],
};

/// Any machine with a wired network, and the disks that such machines have.
/// Without storage that is itself a network of another kind (Fibre Channel,
/// iSCSI offload): a machine whose root comes over Ethernet does not need it,
/// and those drivers weigh more than all others in `drivers/scsi`.
const NET: Profile = Profile {
    name: "net",
    about: "any machine: all wired network and storage drivers, network and live file systems",
    places: &[
        CARDS,
        "drivers/ata/ drivers/scsi/ drivers/message/ drivers/nvme/host/
        drivers/block/ drivers/cdrom/ drivers/mmc/ drivers/memstick/ drivers/ufs/
        drivers/usb/storage/ drivers/firewire/ drivers/misc/cardreader/
        drivers/nvdimm/ drivers/staging/rts5208/",
    ],
    without: &[
        NO_CARDS,
        "
        drivers/scsi/lpfc/ drivers/scsi/qla2xxx/ drivers/scsi/qla4xxx/ drivers/scsi/bfa/
        drivers/scsi/libfc/ drivers/scsi/fcoe/ drivers/scsi/fnic/ drivers/scsi/snic/
        drivers/scsi/bnx2fc/ drivers/scsi/bnx2i/ drivers/scsi/qedf/ drivers/scsi/qedi/
        drivers/scsi/csiostor/ drivers/scsi/cxgbi/ drivers/scsi/be2iscsi/
        drivers/nvme/host/nvme-rdma drivers/nvme/host/nvme-fc drivers/block/xen-blkback
        drivers/scsi/xen-scsiback drivers/block/null_blk drivers/scsi/scsi_debug
        drivers/block/ublk_drv drivers/block/drbd drivers/block/zram drivers/block/rbd
        drivers/block/rnbd drivers/block/pktcdvd drivers/firewire/firewire-net
        drivers/firewire/nosy drivers/message/fusion/mptlan drivers/message/fusion/mptctl
        drivers/scsi/ch. drivers/scsi/st. drivers/scsi/ses.",
    ],
    names: "vmd exfat ntfs3 ntfs dm_crypt dm_mirror",
    also: &[LIVE, OVER_NETWORK],
};

/// Everything.
const ALL: Profile = Profile {
    name: "all",
    about: "every module of the kernel",
    places: &["/"],
    without: &[],
    names: "",
    also: &[],
};

/// Class by directory below `kernel/`; the longest that fits counts.
const CLASS_BY_DIR: &[(Class, &str)] = &[
    (Class::LIB, "arch/x86/crypto/ arch/arm64/crypto/ crypto/ drivers/crypto/ lib/"),
    (
        Class::STORAGE,
        "block/ drivers/ata/ drivers/block/ drivers/cdrom/ drivers/dax/ \
         drivers/firewire/firewire-sbp2 drivers/memstick/ drivers/message/ \
         drivers/misc/cardreader/ drivers/mmc/ drivers/nvdimm/ drivers/nvme/ drivers/scsi/ \
         drivers/staging/rts5208/ drivers/ufs/ drivers/usb/storage/",
    ),
    (
        Class::BUS,
        "drivers/bcma/ drivers/bus/ drivers/firewire/ drivers/gpio/ drivers/hv/hv_vmbus \
         drivers/i2c/ drivers/mfd/ drivers/pci/ drivers/pcmcia/ drivers/phy/ drivers/pinctrl/ \
         drivers/ssb/ drivers/thunderbolt/ drivers/usb/core/ drivers/usb/host/ \
         drivers/virtio/",
    ),
    (
        Class::FS,
        "drivers/block/aoe/ drivers/block/loop drivers/block/nbd drivers/block/zram/ \
         drivers/md/ fs/ net/9p/ net/dns_resolver/ net/sunrpc/",
    ),
    (Class::NET, "drivers/firewire/firewire-net drivers/net/ drivers/staging/qlge/ net/"),
    (Class::INPUT, "drivers/hid/ drivers/input/ drivers/virtio/virtio_input"),
    (
        Class::OTHER,
        "drivers/virtio/virtio_balloon drivers/virtio/virtio_mem drivers/xen/xen-privcmd",
    ),
];

/// Class by the start of an alias, for modules whose directory does not tell (out-of-tree
/// drivers under `updates/` and `extra/`).
const CLASS_BY_ALIAS: &[(&str, Class)] = &[
    ("fs_", Class::FS),
    ("crypto_", Class::LIB),
    ("hid:", Class::INPUT),
    ("input:", Class::INPUT),
    ("scsi:", Class::STORAGE),
    ("virtio:d00000001", Class::NET),
    ("virtio:d00000002", Class::STORAGE),
    ("virtio:d00000008", Class::STORAGE),
    ("vmbus:635161f83edfc546913ff2d2f965ed0e", Class::NET),
    ("xen:vif", Class::NET),
    ("xen:vbd", Class::STORAGE),
];

/// Class by a PCI base class in an alias: `…bc02…`.
const CLASS_BY_PCI: &[(&str, Class)] = &[
    ("bc01", Class::STORAGE),
    ("bc02", Class::NET),
    ("bc06", Class::BUS),
    ("bc0Csc03", Class::BUS),
];

/// The class of a module.
#[must_use]
pub fn class(module: &KernelModule) -> Class {
    let place = module.place();
    let dirs = |(class, dirs): &'static (Class, &str)| dirs.split(' ').map(|dir| (dir, *class));
    let by_dir = CLASS_BY_DIR.iter().flat_map(dirs).filter(|(dir, _)| place.starts_with(dir));
    if let Some((_, class)) = by_dir.max_by_key(|(dir, _)| dir.len()) {
        return class;
    }
    let mut class = Class::default();
    for alias in &module.aliases {
        let starts = CLASS_BY_ALIAS.iter().filter(|(start, _)| alias.starts_with(start));
        let pci = alias.starts_with("pci:");
        let bases = CLASS_BY_PCI.iter().filter(|(base, _)| pci && alias.contains(base));
        class = starts.chain(bases).fold(class, |all, (_, one)| all.union(*one));
    }
    if class == Class::default() { Class::OTHER } else { class }
}

/// Whether a module drives devices, rather than helping others that do.
#[must_use]
pub fn is_driver(module: &KernelModule) -> bool {
    const BUSES: &[&str] = &[
        "pci:",
        "usb:",
        "virtio:",
        "vmbus:",
        "xen:",
        "acpi",
        "platform:",
        "pcmcia:",
        "scsi:",
        "eisa:",
        "pnp:",
        "sdio:",
        "ieee1394:",
        "nvme",
        "of:",
        "mmc:",
        "tbsvc:",
    ];
    module.aliases.iter().any(|alias| BUSES.iter().any(|bus| alias.starts_with(bus)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coldplug::index::Compression;

    fn module(path: &str, aliases: &[&str]) -> KernelModule {
        KernelModule {
            name: "m".into(),
            path: path.into(),
            compression: Compression::None,
            depends: vec![],
            aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
            soft_pre: vec![],
            soft_post: vec![],
            weak: vec![],
        }
    }

    #[test]
    fn classes_follow_the_tables() {
        for (path, aliases, expected) in [
            ("kernel/drivers/net/ethernet/intel/e1000/e1000.ko", &[][..], Class::NET),
            ("kernel/drivers/block/virtio_blk.ko.xz", &[], Class::STORAGE),
            ("kernel/drivers/block/loop.ko", &[], Class::FS),
            ("kernel/drivers/virtio/virtio_pci.ko", &[], Class::BUS),
            ("kernel/drivers/virtio/virtio_input.ko", &[], Class::INPUT),
            ("kernel/sound/pci/ac97.ko", &[], Class::OTHER),
            ("updates/dkms/r8125.ko", &["pci:v000010ECd00008125sv*sd*bc02sc00i*"], Class::NET),
            ("extra/x.ko", &["fs_x"], Class::FS),
            ("extra/y.ko", &[], Class::OTHER),
        ] {
            assert_eq!(class(&module(path, aliases)), expected, "{path}");
        }
    }

    #[test]
    fn a_machines_aliases() {
        let sys = tempfile::tempdir().unwrap();
        assert!(host_aliases(sys.path()).is_err());
        let device = sys.path().join("devices/pci0000:00/0000:00:01.0");
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("modalias"), "pci:v00001AF4d00001000\n").unwrap();
        fs::write(device.parent().unwrap().join("modalias"), "\n").unwrap();
        let found = host_aliases(sys.path()).unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["pci:v00001AF4d00001000"]);
    }

    #[test]
    fn profiles_are_found_by_name() {
        assert_eq!(Profile::from_name("virt"), Some(VIRT));
        assert_eq!(Profile::from_name("Virt"), None);
    }
}
