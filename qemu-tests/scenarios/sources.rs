//! Roots that come from servers other than NFS, and what happens when those
//! servers, or the network, fail in the middle.
//!
//! Every machine has the cloud kernel, one virtio card and the full `/init`; its
//! root is a few megabytes with `/bin/sh` as the first program. What must last a
//! while gets ballast and a slow server.

mod archives;
mod http;
mod nbd;
mod nvme;
mod outage;
mod shares;

use std::path::PathBuf;

use qemu_tests::assets::{FULL, Flavour, Kernel, Profile};
use qemu_tests::machine::MachineBuilder;
use qemu_tests::{Lab, Machine, Nic, Result, secs};

/// Modules that the sources here need and the `virt` profile leaves out.
const MODULES: [&str; 17] = [
    "nbd",
    "virtiofs",
    "cifs",
    "nls_utf8",
    "nvme_tcp",
    "nvmet_tcp",
    "configfs",
    "crypto-md5",
    "crypto-md4",
    "crypto-hmac",
    "crypto-cmac",
    "crypto-aes",
    "crypto-ecb",
    "crypto-ccm",
    "crypto-gcm",
    "crypto-sha256",
    "crypto-sha512",
];

/// The full `/init` with what these sources need.
fn initrd(lab: &Lab, kernel: &Kernel) -> Result<PathBuf> {
    let mut words = FULL.to_vec();
    words.extend(MODULES.iter().flat_map(|module| ["--add", module]));
    lab.assets().our_initrd_of(kernel, Profile::Disks, "sources", &words)
}

/// A medium of live-boot's, as a directory.
fn medium(lab: &Lab) -> Result<PathBuf> {
    let tree = lab.tree("medium")?;
    let tree = tree.with("live/filesystem.squashfs", &lab.assets().small_squashfs()?)?;
    Ok(tree.path().to_owned())
}

/// A machine that is to end at a shell, or at the failure screen.
fn client<'lab>(lab: &'lab Lab, line: &str) -> Result<MachineBuilder<'lab>> {
    let kernel = lab.assets().kernel(Flavour::Cloud)?;
    let initrd = initrd(lab, &kernel)?;
    let line = format!("{line} init=/bin/sh");
    Ok(lab.machine().kernel(&kernel.image, &initrd, &line).nic(Nic::virtio()))
}

/// Boots to the shell of the live system.
fn boot(lab: &Lab, line: &str) -> Result<Machine> {
    up(client(lab, line)?)
}

/// The same for a machine with something more.
fn up(client: MachineBuilder<'_>) -> Result<Machine> {
    let mut machine = client.start()?;
    machine.shell(secs(90))?;
    Ok(machine)
}

/// Boots to the failure screen, and returns what stands on it.
fn refused(lab: &Lab, line: &str) -> Result<String> {
    let machine = client(lab, line)?.start()?;
    machine.expect("bellwether: FAILED:", secs(90))?;
    machine.expect("keys:", secs(10))
}

/// Fails, with all of it, when a text does not hold another.
#[track_caller]
fn assert_contains(text: &str, wanted: &str) {
    assert!(text.contains(wanted), "no {wanted:?} in:\n{text}");
}

/// That the machine runs the small live system under an overlay, which can be
/// written.
#[track_caller]
fn assert_live(machine: &mut Machine) -> Result<()> {
    assert_contains(&machine.run("cat /etc/issue")?, "a small live system");
    assert_contains(&machine.run("echo x >/etc/issue; cat /proc/mounts")?, " / overlay ");
    // Every byte of the root can be read.
    machine.run("cat /usr/bin/busybox | wc -c").map(drop)
}
