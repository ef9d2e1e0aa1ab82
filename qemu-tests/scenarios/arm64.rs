//! Machines with 64-bit ARM processors.

use std::path::PathBuf;

use qemu_tests::assets::{Arm64, media};
use qemu_tests::machine::Bus;
use qemu_tests::{Lab, Machine, Nic, Result, scenario, secs};

/// A Debian live medium of that architecture, with its own menu for GRUB.
fn medium(lab: &Lab, arm: &Arm64) -> Result<PathBuf> {
    let image = lab.scratch("image")?.join("filesystem.squashfs");
    let (from, to) = (arm.root.to_string_lossy(), image.to_string_lossy());
    media::run(&["mksquashfs", &from, &to, "-comp", "zstd", "-quiet"])?;
    lab.tree("medium")?
        .with("live/vmlinuz", &arm.kernel)?
        .with("live/initrd.img", &arm.initrd)?
        .with("live/filesystem.squashfs", &image)?
        .text(
            "boot/grub/grub.cfg",
            "menuentry \"Live\" {\n linux /live/vmlinuz boot=live console=ttyAMA0 init=/bin/sh\n \
             initrd /live/initrd.img\n}\n",
        )?
        .iso("ARMLIVE")
}

/// At the shell: the processor, and a root that can be written.
fn reached(machine: &mut Machine, root: &str) -> Result<()> {
    machine.shell(secs(240))?;
    machine.run("mount -t proc proc /proc || :; echo written >/etc/written")?;
    assert_eq!(machine.run("uname -m")?.trim(), "aarch64");
    let mounts = machine.run("cat /proc/mounts")?;
    let mut found = mounts.lines().filter(|line| line.split(' ').nth(1) == Some("/"));
    assert_eq!(found.next_back().and_then(|line| line.split(' ').nth(2)), Some(root), "{mounts}");
    Ok(())
}

/// A live medium on a virtio disk, without firmware.
#[test]
#[ignore = "sweep"]
fn sweep_disk() {
    scenario("arm64-disk", |lab| {
        let arm = lab.assets().arm64()?;
        let iso = medium(lab, &arm)?;
        let line = "console=ttyAMA0 boot=live init=/bin/sh";
        let machine = lab.machine().arm64().kernel(&arm.kernel, &arm.initrd, line);
        let mut machine = machine.disk(Bus::VirtioBlk, &iso).start()?;
        reached(&mut machine, "overlay")
    });
}

/// The line of a Raspberry Pi whose root is a tree on a server.
#[test]
#[ignore = "sweep"]
fn sweep_kernel_nfs_root() {
    scenario("arm64-nfs", |lab| {
        let arm = lab.assets().arm64()?;
        let root = lab.tree("root")?.with_all(&arm.root)?;
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export_rw("/srv/root", root.path()).start()?;
        let line = "console=serial0,115200 console=ttyAMA0 root=/dev/nfs \
                    nfsroot=10.77.0.1:/srv/root,vers=3 rw ip=dhcp rootwait elevator=deadline \
                    init=/bin/sh";
        let machine = lab.machine().arm64().kernel(&arm.kernel, &arm.initrd, line);
        let mut machine = machine.nic(Nic::virtio()).start()?;
        reached(&mut machine, "nfs")?;
        assert!(root.path().join("etc/written").exists());
        Ok(())
    });
}

/// A live medium fetched by HTTP.
#[test]
#[ignore = "sweep"]
fn sweep_http() {
    scenario("arm64-http", |lab| {
        let arm = lab.assets().arm64()?;
        let iso = medium(lab, &arm)?;
        let _dhcp = lab.dhcp().serve()?;
        let web = lab.tree("web")?.with("live.iso", &iso)?;
        let _web = lab.http(web.path())?;
        let line = "console=ttyAMA0 boot=live fetch=http://10.77.0.1/live.iso init=/bin/sh";
        let machine = lab.machine().arm64().kernel(&arm.kernel, &arm.initrd, line);
        let mut machine = machine.nic(Nic::virtio()).start()?;
        reached(&mut machine, "overlay")
    });
}

/// Firmware that boots from the network, GRUB, and a medium that `share` serves.
#[test]
#[ignore = "sweep"]
fn sweep_share() {
    scenario("arm64-share", |lab| {
        let arm = lab.assets().arm64()?;
        let iso = medium(lab, &arm)?;
        let share = lab.share_foreign(&iso, &arm.init, &arm.grub)?;
        let machine = lab.machine().arm64_uefi()?.nic(Nic::virtio());
        let mut machine = machine.start()?;
        share.expect("UEFI arm64, is told to load bootaa64.efi", secs(120))?;
        reached(&mut machine, "overlay")?;
        assert!(machine.run("cat /proc/cmdline")?.contains("netboot=nfs"));
        Ok(())
    });
}
