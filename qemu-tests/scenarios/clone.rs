//! Machines that boot from the network to receive a copy of a disk, and then
//! from that disk.

mod golden;
mod many;
mod multicast;
mod roles;
mod room;

use std::path::{Path, PathBuf};

use qemu_tests::assets::{Flavour, Profile};
use qemu_tests::machine::{Bus, MachineBuilder, mac_of};
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
        let line = "bw.clone=udpcast bw.clone.timeout=120 bw.clone.then=poweroff";
        let machine = node(lab, &disk, line)?.start()?;
        machine.expect("OVERWRITES /dev/vda", secs(90))?;
        let _golden = lab.udp_sender(&image)?;
        machine.expect("copy complete", secs(120))?;
        machine.expect("what was received was read back", secs(60))?;
        machine.expect("powering off", secs(20))?;
        machine.wait_off(secs(20))?;
        boots(lab, &disk).map(drop)
    });
}

/// Only what is in use of a disk, to one machine with an empty disk and one whose disk has the
/// copy already: the first boots from it, and to the second nothing is sent.
#[test]
fn used_bytes_to_a_room() {
    scenario("clone-used-bytes", |lab| {
        let golden = lab.scratch("golden")?.join("golden.img");
        std::fs::copy(lab.assets().small_ext4()?, &golden)
            .map_err(qemu_tests::Error::at("copy to", &golden))?;
        let disk = empty_disk(lab, "copy.img", 48)?;
        let _dhcp = lab.dhcp().serve()?;
        let file = golden.to_string_lossy().into_owned();
        let program = qemu_tests::assets::bellwether()?.to_string_lossy().into_owned();
        let line = "bw.clone bw.clone.timeout=120 bw.clone.then=poweroff";
        for sends in [true, false] {
            let machine = node(lab, &disk, line)?.start()?;
            machine.expect("OVERWRITES /dev/vda", secs(90))?;
            let sent = lab.run(&[&program, "clone", "send", "-q", &file])?;
            machine.expect("copy complete", secs(120))?;
            machine.expect("powering off", secs(20))?;
            machine.wait_off(secs(20))?;
            assert!(sent.contains("verified"), "{sent}");
            let screen = machine.transcript();
            let told = screen.lines().find(|line| line.contains("chunks were on the disk; "));
            let told = told.unwrap_or(&screen);
            assert_eq!(told.contains("; 0 B came"), !sends, "{told}");
        }
        boots(lab, &disk).map(drop)
    });
}

/// An image from plain web servers, of which one is not there and one has other bytes.
#[test]
fn an_image_from_web_servers() {
    scenario("clone-image", |lab| {
        let site = lab.tree("site")?;
        let at = |name: &str| site.path().join(name).to_string_lossy().into_owned();
        let (good, bad) = (at("golden.bwi"), at("bad.bwi"));
        let program = qemu_tests::assets::bellwether()?.to_string_lossy().into_owned();
        let golden = lab.assets().small_ext4()?.to_string_lossy().into_owned();
        let digest = lab.run(&[&program, "clone", "save", "-q", &golden, "-o", &good])?;
        let mut bytes =
            std::fs::read(&good).map_err(qemu_tests::Error::at("read", Path::new(&good)))?;
        bytes.iter_mut().skip(64 << 10).for_each(|byte| *byte ^= 1);
        std::fs::write(&bad, bytes).map_err(qemu_tests::Error::at("write", Path::new(&bad)))?;
        let disk = empty_disk(lab, "copy.img", 48)?;
        let _dhcp = lab.dhcp().serve()?;
        let _http = lab.http(site.path())?;
        let urls = ["nas.lab:81/golden", "nas.lab/bad", "nas.lab/slow/golden"];
        let urls = urls.map(|url| format!("http://{url}.bwi")).join(",");
        let line = format!("bw.clone=image:{urls} bw.clone.then=poweroff {}", digest.trim());
        let machine = node(lab, &disk, &line)?.start()?;
        machine.expect("OVERWRITES /dev/vda", secs(90))?;
        machine.expect("/bad.bwi: has other bytes than the image", secs(60))?;
        machine.expect("copy complete", secs(120))?;
        machine.expect("powering off", secs(20))?;
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
        let _golden = lab.udp_sender(&image)?;
        machine.expect("bellwether: FAILED: could not receive a copy of a disk", secs(60))?;
        let screen = machine.expect("keys:", secs(10))?;
        assert!(screen.contains("/dev/vda: is too small"), "{screen}");
        assert!(screen.contains("/dev/vda holds an interrupted copy of"), "{screen}");
        assert!(!machine.transcript().contains("copy complete"));
        Ok(())
    });
}

/// A disk that takes every write and keeps none: neither end may call the copy verified. Then
/// the same disk without reading it back: it is called what it is.
#[test]
fn a_disk_that_drops_writes() {
    scenario("clone-tells-the-truth", |lab| {
        let image = lab.assets().small_ext4()?;
        let _dhcp = lab.dhcp().serve()?;
        let ours = qemu_tests::assets::bellwether()?;
        let ours = ours.to_string_lossy();
        let image = image.to_string_lossy();
        // QEMU's null driver, which reads as zeros.
        let disk = "driver=null-co,node-name=drops,size=50331648,read-zeroes=on";
        let words = ["udp-sender", "-f", &image, "--interface", "lan", "--min-receivers", "1"];
        for (word, says) in [
            ("", "/dev/vda: HAS OTHER BYTES than were written to it"),
            ("bw.clone.verify=no", "received whole, not read back"),
        ] {
            let line = format!("bw.clone=udpcast bw.clone.tries=1 bw.clone.timeout=120 {word}");
            let machine = lab
                .client_of(Flavour::Cloud, Profile::Disks, &line)?
                .nic(Nic::virtio())
                .qemu(&["-no-reboot", "-blockdev", disk, "-device", "virtio-blk-pci,drive=drops"])
                .start()?;
            machine.expect("OVERWRITES /dev/vda", secs(90))?;
            let golden = lab.golden_node(&[&[&ours, "clone"][..], &words].concat())?;
            machine.expect(says, secs(120))?;
            assert!(!machine.transcript().contains("; verified"), "{}", machine.transcript());
            drop(golden);
        }
        Ok(())
    });
}

/// Mandriva's second stage, brought into memory: an image by Dolly, an archive by KA.
#[test]
#[ignore = "two boots: cargo xtask test --sweep"]
fn sweep_second_stages_by_dolly_and_ka() {
    scenario("clone-stage2", |lab| {
        let _dhcp = lab
            .dhcp()
            .option(&format!("dhcp-host={},10.77.0.51", mac_of(0, 0)))
            .option(&format!("dhcp-host={},10.77.0.52", mac_of(1, 0)))
            .serve()?;
        let ours = qemu_tests::assets::bellwether()?;
        let ours = ours.to_string_lossy();
        let image = lab.assets().small_ext4()?;
        let image = image.to_string_lossy();
        let root = lab.assets().small_root()?;
        let root = root.to_string_lossy();
        let dolly = ["dolly", "-s", "-q", "-I", &image, "-O", "/dev/ram3", "-H", "10.77.0.51"];
        let ka = ["ka-d-session", "-n", "1", "-q", "--data", &root];
        for (method, server) in [("dolly", &dolly[..]), ("ka", &ka)] {
            let line = format!(
                "automatic=method:{method},interface:eth0,network:dhcp root=/dev/ram3 rw rescue \
                 init=/bin/sh"
            );
            let mut machine =
                lab.client_of(Flavour::Cloud, Profile::Disks, &line)?.nic(Nic::virtio()).start()?;
            let _golden = lab.golden_node(&[&[&ours, "clone"][..], server].concat())?;
            machine.expect("received whole", secs(120))?;
            machine.shell(secs(60))?;
            assert!(machine.run("cat /etc/issue")?.contains("a small live system"));
            machine.run("echo x >/etc/issue")?;
        }
        Ok(())
    });
}

/// Through Dolly+'s ring of one, and the copy as the root of the next boot.
#[test]
#[ignore = "two boots: cargo xtask test --sweep"]
fn sweep_dollyplus_to_a_disk_that_boots() {
    scenario("clone-dollyplus", |lab| {
        let image = lab.assets().small_ext4()?;
        let image = image.to_string_lossy();
        let disk = empty_disk(lab, "copy.img", 48)?;
        let host = format!("dhcp-host={},10.77.0.51", mac_of(0, 0));
        let _dhcp = lab.dhcp().option(&host).serve()?;
        let line = "bw.clone=dollyplus bw.disk=/dev/vda bw.clone.timeout=120";
        let machine = node(lab, &disk, line)?.start()?;
        // Its server leaves out whom it cannot reach.
        machine.expect("waiting for a Dolly+ server", secs(90))?;
        let ours = qemu_tests::assets::bellwether()?;
        let ours = ours.to_string_lossy();
        let words = ["dollyS", "-q", "-I", &image, "-O", "/dev/sda", "-H", "10.77.0.51"];
        let _golden = lab.golden_node(&[&[&ours, "clone"][..], &words].concat())?;
        machine.expect("OVERWRITES /dev/vda", secs(30))?;
        machine.expect("verified with the sender", secs(120))?;
        machine.expect("rebooting", secs(20))?;
        machine.wait_off(secs(20))?;
        boots(lab, &disk).map(drop)
    });
}
