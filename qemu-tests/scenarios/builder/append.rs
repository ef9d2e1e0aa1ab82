//! `--append-only`: our `/init` behind initrds that Debian's generators made.

use std::path::{Path, PathBuf};

use cpio_builder::compress::{Codec, compress};
use cpio_builder::initrd::{Initrd, Limits};
use cpio_builder::newc::{Archive, Entry, Node};
use qemu_tests::assets::{Flavour, Peer};
use qemu_tests::machine::Bus;
use qemu_tests::{Error, Lab, Nic, Result, scenario, secs};

use super::{Shop, assert_contains, live_iso};

/// The cloud kernel, a generator's initrd with ours behind it, and that modules came along only
/// where the release's own are compressed (since Debian 13): not every kernel loads those.
fn unchanged(lab: &Lab, peer: Peer) -> Result<(PathBuf, PathBuf)> {
    let shop = Shop::open(lab)?;
    let kernel = lab.assets().kernel(Flavour::Cloud)?;
    let initrd = lab.assets().peer_initrd(peer, &kernel)?;
    let (both, told) = behind(&shop, &initrd, "")?;
    let list =
        format!("bellwether build --list '{}' | grep -c '\\.ko\\.' || true", initrd.display());
    let packed = shop.sh(&list)?.trim() != "0";
    assert_eq!(told.contains(".ko"), packed, "compressed: {packed}\n{told}");
    Ok((kernel.image, both))
}

/// Makes the archive and puts it behind; returns both and what the command said.
fn behind(shop: &Shop, initrd: &Path, options: &str) -> Result<(PathBuf, String)> {
    let told = shop.sh(&format!(
        "bellwether build --append-only {options} --modules '{}' -o ours.img
         cat '{}' ours.img >both.img; stat -c 'appended %s' ours.img
         if bellwether build --list ours.img | grep '\\.ko'; then :; fi",
        initrd.display(),
        initrd.display()
    ))?;
    Ok((shop.path("both.img"), told))
}

/// initramfs-tools with live-boot, its modules as they are: the root over NFS.
#[test]
fn behind_initramfs_tools() {
    scenario("builder-append-initramfs-tools", |lab| {
        let (kernel, both) = unchanged(lab, Peer::LiveBoot)?;
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
        let line = "boot=live netboot=nfs nfsroot=10.77.0.1:/srv/live init=/bin/sh";
        let client = lab.machine().kernel(&kernel, &both, line).nic(Nic::virtio());
        let mut machine = client.start()?;
        machine.shell(secs(120))?;
        assert_contains(&machine.run("cat /proc/mounts")?, "overlay / overlay rw");
        assert_contains(&machine.run("cat /sys/class/net/eth0/device/uevent")?, "virtio_net");
        Ok(())
    });
}

/// dracut with dmsquash-live: its own words, from a medium.
#[test]
fn behind_dracut() {
    scenario("builder-append-dracut", |lab| {
        let (kernel, both) = unchanged(lab, Peer::Dracut)?;
        let squashfs = lab.assets().small_squashfs()?;
        let iso = lab.tree("dracut")?.with("LiveOS/squashfs.img", &squashfs)?.iso("DRA")?;
        let line = "root=live:CDLABEL=DRA rd.live.image rd.overlay init=/bin/sh";
        let client = lab.machine().kernel(&kernel, &both, line);
        let mut machine = client.disk(Bus::VirtioBlk, &iso).start()?;
        machine.shell(secs(120))?;
        assert_contains(&machine.run("cat /proc/mounts")?, "overlay / overlay rw");
        Ok(())
    });
}

/// Debian's kernel of this release loads no compressed module: those that the boot
/// needs are put in unpacked.
#[test]
#[ignore = "compresses every module of an initrd: cargo xtask test --sweep"]
fn sweep_behind_compressed_modules() {
    scenario("builder-append-compressed", |lab| {
        let shop = Shop::open(lab)?;
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let initrd = lab.assets().peer_initrd(Peer::LiveBoot, &kernel)?;
        let packed = with_compressed_modules(&shop, &initrd)?;
        let (both, told) = behind(&shop, &packed, "")?;
        assert_contains(&told, "note: that initrd has its modules compressed");
        assert_contains(&told, "/virtio_blk.ko");
        boot_medium(lab, &kernel.image, &both)
    });
}

fn boot_medium(lab: &Lab, kernel: &Path, initrd: &Path) -> Result<()> {
    let client = lab.machine().kernel(kernel, initrd, "boot=live init=/bin/sh");
    let mut machine = client.disk(Bus::VirtioBlk, &live_iso(lab)?).start()?;
    machine.shell(secs(120))?;
    assert_contains(&machine.run("cat /proc/modules")?, "virtio_blk ");
    assert_contains(&machine.run("cat /proc/mounts")?, "overlay / overlay rw");
    Ok(())
}

/// The same initrd as distributions ship it that compress modules: every second one
/// by xz, the others by zstd.
fn with_compressed_modules(shop: &Shop, initrd: &Path) -> Result<PathBuf> {
    let bad = |why: &dyn std::fmt::Display| Error::Input(format!("{}: {why}", initrd.display()));
    let bytes = std::fs::read(initrd).map_err(Error::at("read", initrd))?;
    let opened = Initrd::open(&bytes, Limits::default()).map_err(|e| bad(&e))?;
    let mut archive = Archive::new();
    let mut packed = 0;
    for (path, entry) in opened.tree() {
        let mode = entry.mode & 0o7777;
        let name = match path.ends_with(".ko") {
            true if path.len() % 2 == 0 => format!("{path}.xz"),
            true => format!("{path}.zst"),
            false => path.to_owned(),
        };
        packed += usize::from(name != *path);
        let node = node(&name, &entry).map_err(|e| bad(&e))?;
        archive.add(&name, mode, node).map_err(|e| bad(&e))?;
    }
    assert!(packed > 50, "only {packed} modules in {}", initrd.display());
    let made = shop.path("compressed.img");
    let written = archive.write(0).map_err(|e| bad(&e))?;
    let written = compress(Codec::Gzip, &written).map_err(|e| bad(&e))?;
    std::fs::write(&made, written).map_err(Error::at("write", &made))?;
    Ok(made)
}

fn node(name: &str, entry: &Entry<'_>) -> std::io::Result<Node> {
    Ok(match entry.mode_text().chars().next() {
        Some('d') => Node::Dir,
        Some('l') => Node::Symlink(entry.symlink().unwrap_or_default().to_owned()),
        Some('c') => Node::Char { major: entry.rdev.0, minor: entry.rdev.1 },
        Some('b') => Node::Block { major: entry.rdev.0, minor: entry.rdev.1 },
        _ if name.ends_with(".xz") => Node::File(compress(Codec::Xz, entry.data)?),
        _ if name.ends_with(".zst") => Node::File(compress(Codec::Zstd, entry.data)?),
        _ => Node::File(entry.data.to_vec()),
    })
}
