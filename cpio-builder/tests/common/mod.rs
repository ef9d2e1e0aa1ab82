//! Module trees made up for tests.

#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing)]

use cpio_builder::compress::{Codec, compress};
use std::fs;
use std::path::Path;

pub const RELEASE: &str = "6.1.0-test";

/// An ELF file that has a `.modinfo` section and nothing else.
pub fn module(machine: u16, pairs: &[&str]) -> Vec<u8> {
    let vermagic = format!("vermagic={RELEASE} SMP mod_unload");
    let pairs = pairs.iter().copied().chain([vermagic.as_str()]);
    let modinfo: Vec<u8> = pairs.flat_map(|p| [p.as_bytes(), b"\0"].concat()).collect();
    elf(machine, ".modinfo", &modinfo)
}

/// An ELF file with one section.
fn elf(machine: u16, name: &str, modinfo: &[u8]) -> Vec<u8> {
    let names = format!("\0{name}\0.shstrtab\0").into_bytes();
    let last = name.len() as u32 + 2;
    let mut out = vec![0; 64];
    out[..6].copy_from_slice(b"\x7fELF\x02\x01");
    out[18..20].copy_from_slice(&machine.to_le_bytes());
    let modinfo_at = out.len() as u64;
    out.extend(modinfo);
    let names_at = out.len() as u64;
    out.extend(&names);
    let table_at = out.len() as u64;
    for (name, at, len) in
        [(0, 0, 0), (1, modinfo_at, modinfo.len()), (last, names_at, names.len())]
    {
        let mut header = vec![0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[0x18..0x20].copy_from_slice(&at.to_le_bytes());
        header[0x20..0x28].copy_from_slice(&(len as u64).to_le_bytes());
        out.extend(header);
    }
    out[0x28..0x30].copy_from_slice(&table_at.to_le_bytes());
    out[0x3a..0x40].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
    out
}

/// A program for `/init`: the kernel would not run it, but its header is right, and its
/// note says that it has every step (`cmdline::needs`).
pub fn init() -> Vec<u8> {
    let note = [&b"\x0b\0\0\0\x08\0\0\0\x01\0\0\0Bellwether\0\0"[..], &[0xff; 8]].concat();
    elf(62, ".note.bellwether", &note)
}

/// Files of a small kernel: path in the tree, `.modinfo`.
pub const MODULES: &[(&str, &[&str])] = &[
    ("kernel/drivers/virtio/virtio.ko", &[]),
    ("kernel/drivers/virtio/virtio_ring.ko.gz", &["depends=virtio"]),
    (
        "kernel/drivers/virtio/virtio_pci.ko.xz",
        &["depends=virtio,virtio_ring", "alias=pci:v00001AF4d*sv*sd*bc*sc*i*"],
    ),
    (
        "kernel/drivers/net/virtio_net.ko.zst",
        &["depends=virtio,net-failover,virtio_ring", "alias=virtio:d00000001v*"],
    ),
    ("kernel/drivers/net/net_failover.ko", &[]),
    (
        "kernel/drivers/net/ethernet/acme/acme-nic.ko",
        &["alias=pci:v0000ACEDd*sv*sd*bc*sc*i*", "firmware=acme/a.bin", "firmware=acme/b.bin"],
    ),
    ("kernel/drivers/block/virtio_blk.ko", &["depends=virtio", "alias=virtio:d00000002v*"]),
    ("kernel/fs/overlayfs/overlay.ko", &["alias=fs-overlay"]),
    ("kernel/fs/squashfs/squashfs.ko", &["alias=fs-squashfs"]),
    ("kernel/drivers/block/loop.ko", &["alias=devname:loop-control", "alias=char-major-10-237"]),
    ("kernel/fs/nfs/nfs.ko", &["alias=fs-nfs", "alias=nfs4", "softdep=pre: crc32c post: helper"]),
    ("kernel/arch/x86/crypto/crc32c-intel.ko", &["alias=crypto-crc32c", "alias=crc32c"]),
    ("kernel/lib/helper.ko", &["depends=deep"]),
    ("kernel/lib/deep.ko", &["weakdep=faraway"]),
    ("kernel/lib/faraway.ko", &[]),
    ("kernel/sound/beep.ko", &[]),
];

/// Writes the small kernel's tree, in the manner of a package just unpacked:
/// without anything that depmod makes.
pub fn write_tree(root: &Path) {
    let base = root.join("lib/modules").join(RELEASE);
    // What every Debian root has, and which holds no modules.
    fs::create_dir_all(root.join("etc/kernel/postinst.d")).unwrap();
    for (path, pairs) in MODULES {
        let data = module(62, pairs);
        let codec = Codec::from_ending(path.rsplit_once(".ko").unwrap().1).unwrap();
        let path = base.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, compress(codec, &data).unwrap()).unwrap();
    }
    fs::write(base.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\nkernel/net/ipv6/ipv6.ko\n")
        .unwrap();
    fs::write(base.join("modules.builtin.modinfo"), "ext4.alias=fs-ext4\0ext4.license=GPL\0")
        .unwrap();
    // overlay before squashfs, against the alphabet of their directories.
    let order: String = MODULES
        .iter()
        .map(|(path, _)| format!("{}.ko\n", path.rsplit_once(".ko").unwrap().0))
        .collect();
    fs::write(base.join("modules.order"), order).unwrap();
}
