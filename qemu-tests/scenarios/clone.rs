//! Machines that boot from the network to receive a copy of a disk, and then
//! from that disk.

use std::path::{Path, PathBuf};

use qemu_tests::assets::{Flavour, Profile};
use qemu_tests::machine::{Bus, MachineBuilder};
use qemu_tests::{Lab, Machine, Nic, Result, scenario, secs};

/// A machine with an empty disk of 48 MiB, larger than what it is sent.
fn node<'lab>(lab: &'lab Lab, disk: &Path, line: &str) -> Result<MachineBuilder<'lab>> {
    let client = lab.client_of(Flavour::Cloud, Profile::Disks, line)?.nic(Nic::virtio());
    Ok(client.kept_disk(Bus::VirtioBlk, disk).qemu(&["-no-reboot"]))
}

fn empty_disk(lab: &Lab, name: &str, mib: u64) -> Result<PathBuf> {
    let disk = lab.scratch("disks")?.join(name);
    qemu_tests::assets::media::run(&[
        "truncate",
        &format!("--size={mib}M"),
        &disk.to_string_lossy(),
    ])?;
    Ok(disk)
}

/// Boots from the copy to a shell.
fn boots(lab: &Lab, disk: &Path) -> Result<Machine> {
    let line = "root=/dev/vda ro init=/bin/sh";
    let mut machine = lab
        .client_of(Flavour::Cloud, Profile::Disks, line)?
        .kept_disk(Bus::VirtioBlk, disk)
        .start()?;
    machine.shell(secs(90))?;
    assert!(machine.run("cat /etc/issue")?.contains("a small live system"));
    Ok(machine)
}

/// Debian's sender, our init as the receiver, and the copy as the root of the next
/// boot.
#[test]
fn udpcast_to_a_disk_that_boots() {
    scenario("clone-udpcast", |lab| {
        let image = lab.assets().small_ext4()?;
        let disk = empty_disk(lab, "copy.img", 48)?;
        let _dhcp = lab.dhcp().serve()?;
        let machine = node(lab, &disk, "bw.clone=udpcast bw.clone.timeout=120")?.start()?;
        machine.expect("OVERWRITES /dev/vda", secs(90))?;
        let file = image.to_string_lossy();
        let _golden = lab.golden_node(&[
            "udp-sender",
            "--file",
            &file,
            "--interface",
            "lan",
            "--nokbd",
            "--min-receivers",
            "1",
            "--max-wait",
            "60",
        ])?;
        machine.expect("copy complete", secs(120))?;
        machine.expect("rebooting", secs(20))?;
        machine.wait_off(secs(20))?;
        boots(lab, &disk).map(drop)
    });
}

/// A disk too small is reported by its name, nothing is called complete, and the
/// machine starts over after the tries it was given.
#[test]
fn a_disk_too_small() {
    scenario("clone-too-small", |lab| {
        let image = lab.assets().small_ext4()?;
        let disk = empty_disk(lab, "small.img", 8)?;
        let _dhcp = lab.dhcp().serve()?;
        let line = "bw.clone=udpcast bw.clone.tries=1 bw.disk=/dev/vda";
        let machine = node(lab, &disk, line)?.start()?;
        machine.expect("OVERWRITES /dev/vda", secs(90))?;
        let file = image.to_string_lossy();
        let _golden = lab.golden_node(&[
            "udp-sender",
            "--file",
            &file,
            "--interface",
            "lan",
            "--nokbd",
            "--min-receivers",
            "1",
            "--max-wait",
            "60",
        ])?;
        machine.expect("bellwether: FAILED: could not receive a copy of a disk", secs(60))?;
        let screen = machine.expect("keys:", secs(10))?;
        assert!(screen.contains("/dev/vda: is too small"), "{screen}");
        assert!(!machine.transcript().contains("copy complete"));
        Ok(())
    });
}

/// A golden Debian machine is copied file by file to a larger disk of another kind: the
/// copy makes its own initramfs, installs its own boot loader, and boots.
#[test]
#[ignore = "a quarter of an hour without KVM: cargo xtask test --sweep"]
fn sweep_files_by_ka_make_a_machine_that_boots() {
    scenario("clone-ka-files", |lab| {
        let run = |words: &[&str]| qemu_tests::assets::media::run(words);
        let dir = lab.scratch("golden")?;
        let (place, here) = (dir.to_string_lossy(), env!("CARGO_MANIFEST_DIR"));
        run(&["sh", &format!("{here}/scenarios/clone/golden.sh"), &place])?;
        let root = format!("{place}/root");
        let _root = Unmount(root.clone());
        let line = "bw.clone=ka bw.clone.timeout=300 bw.clone.tries=1 ip=dhcp";
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let base = lab.assets().our_initrd(&kernel, Profile::Disks)?;
        let ours = qemu_tests::workspace::target().join("quick/bellwether");
        let ours = ours.to_string_lossy();
        let (work, tools) = (format!("{place}/work"), format!("{place}/tools.img"));
        let disk = format!("{place}/golden.img");
        run(&[&ours, "clone", "prepare", &disk, "--root", &root, "--out", &work])?;
        run(&[&ours, "clone", "tools", "-o", &tools])?;
        let initrd = dir.join("clone.img");
        let join = format!("cat '{}' '{tools}' >'{}'", base.display(), initrd.display());
        run(&["sh", "-c", &join])?;
        let copy = empty_disk(lab, "copy.img", 2500)?;
        let _dhcp = lab.dhcp().serve()?;
        let _golden = lab.golden_node(&[
            &ours, "clone", "ka-d", "-n", "1", "-w", &work, "--root", &root, "-q",
        ])?;
        let machine = lab
            .machine()
            .kernel(&kernel.image, &initrd, line)
            .nic(Nic::virtio())
            .kept_disk(Bus::VirtioBlk, &copy)
            .qemu(&["-no-reboot"])
            .start()?;
        machine.expect("OVERWRITES /dev/vda", secs(120))?;
        machine.expect("verified with the server", secs(600))?;
        machine.expect("the copy is complete", secs(900))?;
        machine.wait_off(secs(60))?;

        let mut machine =
            lab.machine().nic(Nic::virtio()).kept_disk(Bus::VirtioBlk, &copy).start()?;
        machine.login(secs(400))?;
        let script = std::fs::read_to_string(format!("{here}/scenarios/clone/digest.sh"))
            .map_err(|e| qemu_tests::Error::Input(e.to_string()))?;
        let lines: Vec<&str> = script.lines().filter(|line| !line.starts_with('#')).collect();
        let script = format!("{{ {}; }} | md5sum", lines.join("; "));
        let theirs = machine.run(&script)?;
        let golden = run(&["chroot", &root, "sh", "-c", &script])?;
        assert_eq!(theirs.trim(), golden.trim());
        assert_ne!(
            machine.run("cat /etc/machine-id")?,
            run(&["cat", &format!("{root}/etc/machine-id")])?
        );
        assert!(machine.run("swapon --show=NAME --noheadings")?.contains("/dev/vda2"));
        assert!(
            machine
                .run("df -m --output=size / | tail -1")?
                .trim()
                .parse::<u32>()
                .is_ok_and(|m| m > 1900)
        );
        Ok(())
    });
}

/// A directory whose mount ends with the scenario.
struct Unmount(String);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = qemu_tests::assets::media::run(&["umount", &self.0]);
    }
}
