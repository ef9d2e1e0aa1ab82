//! One night: nothing is right at first, and no hand is on the machine.

use std::path::Path;

use qemu_tests::assets::media::{damage, run, sha256};
use qemu_tests::assets::{Flavour, Profile};
use qemu_tests::{Error, Lab, Nic, Result, scenario, secs};

/// How often the machine must have met a fault before the next one takes its place.
struct Length {
    /// "no network yet", which a round of DHCP without an answer ends with, each a minute.
    without_dhcp: usize,
    /// Failure screens with the wrong root path, each about a minute after the other.
    wrong_path: usize,
}

/// No DHCP, a wrong root path, an image that is cut short, an image of another digest, and
/// then all is well: the machine ends in the live system.
#[test]
#[ignore = "minutes; with the sweeps"]
fn sweep_a_short_night() {
    scenario("night", |lab| night(lab, &Length { without_dhcp: 0, wrong_path: 1 }));
}

/// The same with two minutes without DHCP and one minute with the wrong root path.
#[test]
#[ignore = "minutes"]
fn sweep_a_night() {
    scenario("night-long", |lab| night(lab, &Length { without_dhcp: 2, wrong_path: 1 }));
}

/// The phases change when the console shows that the machine has met the fault.
fn night(lab: &Lab, length: &Length) -> Result<()> {
    let good = lab.assets().small_squashfs()?;
    let sum = sha256(&good)?;
    let kernel = lab.assets().kernel(Flavour::Cloud)?;
    let initrd = lab.assets().our_initrd(&kernel, Profile::Disks)?;
    // The path is DHCP's to say, and the image is the line's to pin.
    let line = format!("boot=live netboot=nfs bw.digest=sha256:{sum} bw.fail=menu:5 init=/bin/sh");
    let export = lab.tree("export")?.with("live/filesystem.squashfs", &good)?;
    let image = export.path().join("live/filesystem.squashfs");
    let _nfs = lab.nfs().export("/srv/live", export.path()).start()?;
    let machine = lab.machine().kernel(&kernel.image, &initrd, &line).nic(Nic::virtio());
    let machine = machine.start()?;

    machine.expect("no answer from DHCP yet", secs(90))?;
    for _ in 0..length.without_dhcp {
        machine.expect("no network yet: no DHCP server answered", secs(90))?;
    }
    let mut dhcp = lab.dhcp().option("dhcp-option=option:root-path,10.77.0.1:/srv/typo").serve()?;
    for _ in 0..length.wrong_path {
        machine.expect("bellwether: FAILED: could not find the root", secs(150))?;
        machine.expect("the server refuses /srv/typo to this machine", secs(5))?;
        machine.expect("trying again in 5 s", secs(5))?;
    }

    put(&image, &good, |file| run(&["truncate", "--size=1M", &file.to_string_lossy()]).map(drop))?;
    dhcp.stop();
    drop(dhcp);
    let _dhcp = lab.dhcp().option("dhcp-option=option:root-path,10.77.0.1:/srv/live").serve()?;
    // The line's digest is compared before the image is looked into.
    failed(&machine, &format!("its sha256 is {}", sha256(&image)?))?;

    put(&image, &good, |file| damage(file, 1 << 20))?;
    failed(&machine, &format!("its sha256 is {}", sha256(&image)?))?;

    put(&image, &good, |_| Ok(()))?;
    machine.expect("bellwether: ready in", secs(150))?;
    machine.expect("# ", secs(60)).map(drop)
}

/// Waits for a screen that says this; those of the phase before may come first.
fn failed(machine: &qemu_tests::Machine, reason: &str) -> Result<String> {
    for _ in 0..5 {
        machine.expect("bellwether: FAILED: ", secs(150))?;
        let said = machine.expect("trying again in 5 s", secs(5))?;
        if said.contains(reason) {
            return Ok(said);
        }
    }
    Err(Error::Input(format!("no {reason:?} in five screens:\n{}", machine.transcript())))
}

/// Puts a changed copy of an image in the place of the one that is served.
fn put(image: &Path, good: &Path, change: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let new = image.with_extension("new");
    run(&["cp", &good.to_string_lossy(), &new.to_string_lossy()])?;
    change(&new)?;
    std::fs::rename(&new, image).map_err(Error::at("rename", &new))
}
