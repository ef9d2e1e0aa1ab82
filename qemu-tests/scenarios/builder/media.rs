//! `bellwether iso`: one medium, booted by both firmwares, as a disc and as a stick.

use std::path::PathBuf;

use qemu_tests::assets::Flavour;
use qemu_tests::machine::{Bus, MachineBuilder};
use qemu_tests::{Lab, Machine, Result, packages, scenario, secs};

use super::{Shop, assert_contains, seen};

/// The cloud kernel, the small root checked by dm-verity, the modules of machines
/// that are virtual.
fn medium(lab: &Lab, shop: &Shop) -> Result<PathBuf> {
    let kernel = lab.assets().kernel(Flavour::Cloud)?;
    shop.sh(&format!(
        "bellwether iso --root '{}' --kernel '{}' --modules '{}' --profile virt \
         --append '{}' --entry 'To memory=toram' --timeout 1 -o live.iso",
        lab.assets().small_squashfs()?.display(),
        kernel.image.display(),
        kernel.modules.display(),
        seen("boot=live")
    ))?;
    Ok(shop.path("live.iso"))
}

/// Boots to the shell, and says what the firmware was.
fn firmware(machine: MachineBuilder<'_>) -> Result<(Machine, String)> {
    let mut machine = machine.start()?;
    machine.shell(secs(180))?;
    assert_contains(&machine.run("cat /proc/mounts")?, "overlay / overlay rw");
    let told = machine.run("if [ -d /sys/firmware/efi ]; then echo UEFI; else echo BIOS; fi")?;
    Ok((machine, told.trim().to_owned()))
}

/// From an optical drive.
#[test]
fn iso_by_bios() {
    scenario("builder-iso-bios", |lab| {
        let shop = Shop::open(lab)?;
        let iso = medium(lab, &shop)?;
        assert_eq!(firmware(lab.machine().cdrom(Bus::VirtioScsi, &iso))?.1, "BIOS");
        Ok(())
    });
}

/// From a stick.
#[test]
fn iso_by_uefi() {
    scenario("builder-iso-uefi", |lab| {
        let shop = Shop::open(lab)?;
        let iso = medium(lab, &shop)?;
        let machine = lab.machine().disk(Bus::VirtioBlk, &iso);
        assert_eq!(firmware(machine.uefi()?)?.1, "UEFI");
        Ok(())
    });
}

/// The other two: a stick by BIOS, an optical drive by UEFI.
#[test]
#[ignore = "two boots more of the same medium: cargo xtask test --sweep"]
fn sweep_iso_the_other_way() {
    scenario("builder-iso-other", |lab| {
        let shop = Shop::open(lab)?;
        let iso = medium(lab, &shop)?;
        assert_eq!(firmware(lab.machine().disk(Bus::VirtioBlk, &iso))?.1, "BIOS");
        let machine = lab.machine().cdrom(Bus::VirtioScsi, &iso);
        assert_eq!(firmware(machine.uefi()?)?.1, "UEFI");
        Ok(())
    });
}

/// With Microsoft's keys in the firmware: shim, GRUB and the kernel are Debian's
/// signed ones, the kernel takes only signed modules, and those in the image are.
#[test]
#[ignore = "firmware that checks signatures takes its time: cargo xtask test --sweep"]
fn sweep_iso_by_secure_boot() {
    scenario("builder-iso-secure-boot", |lab| {
        packages::ensure_all(&[
            ("shim-signed", "what Secure Boot starts"),
            ("grub-efi-amd64-signed", "what that starts"),
        ])?;
        let shop = Shop::open(lab)?;
        let iso = medium(lab, &shop)?;
        let machine = lab.machine().cdrom(Bus::VirtioScsi, &iso);
        let (mut machine, firmware) = firmware(machine.secure_uefi()?)?;
        assert_eq!(firmware, "UEFI");
        assert_contains(&machine.run("cat /sys/kernel/security/lockdown || { mount -t securityfs securityfs /sys/kernel/security && cat /sys/kernel/security/lockdown; }")?, "[integrity]");
        assert_contains(&machine.transcript(), "secureboot: Secure boot enabled");
        Ok(())
    });
}
