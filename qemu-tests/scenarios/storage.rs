//! Disks, media and images: what a root is found on and made of, what makes it
//! writable, what keeps its changes, what checks it.
//!
//! Every machine has the cloud kernel, virtual disks and no card; its root is
//! a few megabytes with `/bin/sh` as the first program, so that a boot takes seconds.
//! What takes longer or needs more is called `sweep_…` and ignored; run it by
//! `cargo xtask test --sweep`.

mod compressed;
mod encrypted;
mod formats;
mod integrity;
mod layers;
mod per_client;
mod persistence;
mod pinned;
mod snapshot;
mod to_ram;

use std::path::PathBuf;

use qemu_tests::assets::media::sha256;
use qemu_tests::assets::{Flavour, Profile};
use qemu_tests::machine::{Bus, MachineBuilder};
use qemu_tests::{Lab, Machine, Result, secs};

/// How disks are attached, and media as if written to a stick: the first is `vda`.
const DISK: Bus = Bus::VirtioBlk;

/// How optical drives are. The kernel asks 256 addresses of this bus, which takes an
/// emulated processor seconds.
const SCSI: Bus = Bus::VirtioScsi;

/// A machine that is to end at a shell, or at the failure screen.
fn client<'lab>(lab: &'lab Lab, line: &str) -> Result<MachineBuilder<'lab>> {
    lab.client_of(Flavour::Cloud, Profile::Disks, &format!("{line} init=/bin/sh"))
}

/// The same with an image that has no device-mapper: what `--profile virt --full`
/// makes, and `extra`.
fn plain_client<'lab>(lab: &'lab Lab, extra: &[&str], line: &str) -> Result<MachineBuilder<'lab>> {
    let kernel = lab.assets().kernel(Flavour::Cloud)?;
    let options = [&qemu_tests::assets::FULL[..], extra].concat();
    let name = format!("plain{}", extra.concat().replace(['/', ':'], "_"));
    let initrd = lab.assets().our_initrd_of(&kernel, Profile::Disks, &name, &options)?;
    Ok(lab.machine().kernel(&kernel.image, &initrd, &format!("{line} init=/bin/sh")))
}

/// live-boot's medium.
fn live_iso(lab: &Lab) -> Result<PathBuf> {
    lab.tree("live")?.with("live/filesystem.squashfs", &lab.assets().small_squashfs()?)?.iso("LIVE")
}

/// dracut's medium as older Fedoras have it: the root is an ext4 image inside of a
/// squashfs.
fn nested_iso(lab: &Lab) -> Result<PathBuf> {
    use qemu_tests::assets::media::Fs;
    let squashfs = lab
        .tree("nested-squashfs")?
        .with("LiveOS/rootfs.img", &lab.assets().small_ext4()?)?
        .image(Fs::Squashfs, "", 0)?;
    lab.tree("nested")?.with("LiveOS/squashfs.img", &squashfs)?.iso("DRA")
}

/// Boots to the shell.
fn boot(client: MachineBuilder<'_>) -> Result<Machine> {
    let mut machine = client.start()?;
    machine.shell(secs(90))?;
    Ok(machine)
}

/// Boots to the failure screen, and returns what stands on it.
fn refused(client: MachineBuilder<'_>) -> Result<String> {
    let machine = client.start()?;
    machine.expect("bellwether: FAILED:", secs(90))?;
    machine.expect("keys:", secs(10))
}

/// The line of `/proc/mounts` for a mount point, the last when there are several.
fn mounted(machine: &mut Machine, target: &str) -> Result<String> {
    let mounts = machine.run("cat /proc/mounts")?;
    let here = |line: &&str| line.split(' ').nth(1) == Some(target);
    Ok(mounts.lines().rfind(here).unwrap_or_default().to_owned())
}

/// Fails when the console has not shown this.
#[track_caller]
fn assert_said(machine: &Machine, text: &str) {
    assert_contains(&machine.transcript(), text);
}

/// Fails, with all of it, when a text does not hold another.
#[track_caller]
fn assert_contains(text: &str, wanted: &str) {
    assert!(text.contains(wanted), "no {wanted:?} in:\n{text}");
}
