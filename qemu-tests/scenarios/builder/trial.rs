//! `bellwether try`: what it starts comes up, and it ends with the machine.

use qemu_tests::assets::Flavour;
use qemu_tests::machine::KERNEL_WORDS;
use qemu_tests::{Lab, Result, scenario};

use super::{Shop, assert_contains};

/// The live system's first program: tells what machine this is, and switches it off.
const FIRST: &str = "#!/bin/sh
mount -t sysfs sysfs /sys 2>/dev/null
firmware=BIOS; [ ! -d /sys/firmware/efi ] || firmware=UEFI
read -r _ kib _ </proc/meminfo
cd /sys/block
echo \"first: $firmware, $((kib / 1024)) MiB,\" *
poweroff -f
";

/// Everything in the shop that is to be tried: `live.iso`, a PXE tree, a kernel.
fn goods(lab: &Lab, flavour: Flavour, profile: &str) -> Result<Shop> {
    let shop = Shop::open(lab)?;
    let kernel = lab.assets().kernel(flavour)?;
    let root =
        lab.tree("root")?.with_all(&lab.assets().small_root()?)?.text("usr/bin/first", FIRST)?;
    shop.put(&kernel.image, "vmlinuz")?;
    shop.sh(&format!(
        "chmod +x '{root}/usr/bin/first'; ln -s '{modules}' modules
         line='{KERNEL_WORDS} boot=live init=/bin/first'
         bellwether build --modules modules --profile {profile} -o initrd.img
         bellwether iso --root '{root}' --kernel vmlinuz --initrd initrd.img --append \"$line\" -o live.iso
         bellwether pxe --kernel vmlinuz --initrd initrd.img --append \"$line\" tftp",
        root = root.path().display(),
        modules = kernel.modules.display(),
    ))?;
    Ok(shop)
}

/// Runs it, which must end by itself and well, and gives the words of the machine.
fn tried(shop: &Shop, words: &str) -> Result<String> {
    let told = shop.sh(&format!("timeout 240 bellwether try --emulate {words} </dev/null"))?;
    let said = told.lines().find(|line| line.starts_with("first: ")).map(str::to_owned);
    Ok(said.unwrap_or(told))
}

/// An ISO by UEFI with an empty disk beside it and less memory; from the network by
/// BIOS, the root on a disk image.
#[test]
fn try_a_medium_and_a_network() {
    scenario("builder-try", |lab| {
        let shop = goods(lab, Flavour::Cloud, "virt")?;
        let said = tried(&shop, "--uefi --disk=64M --memory=768 live.iso")?;
        assert_contains(&said, "first: UEFI, 7");
        assert!(said.contains("sr0") && said.contains("vda"), "{said}");
        let said = tried(&shop, "--pxe tftp --disk live.iso")?;
        assert_contains(&said, "first: BIOS, 9");
        assert_contains(&said, "sr0");
        Ok(())
    });
}

/// A kernel without firmware with its root on NVMe, and the network by UEFI.
#[test]
#[ignore = "the firmware's network boot takes its time: cargo xtask test --sweep"]
fn sweep_try_more() {
    scenario("builder-try-more", |lab| {
        let shop = goods(lab, Flavour::Cloud, "virt")?;
        let direct = "--kernel vmlinuz --initrd initrd.img --append 'boot=live init=/bin/first' \
                      --bus nvme --disk live.iso";
        assert_contains(&tried(&shop, direct)?, "nvme0n1");
        let said = tried(&shop, "--uefi --pxe tftp --disk live.iso")?;
        assert_contains(&said, "first: UEFI,");
        Ok(())
    });
}

/// The stock kernel on hardware that the cloud kernel does not know: a stick, and a
/// drive on SATA.
#[test]
#[ignore = "packs a net image, and two boots: cargo xtask test --sweep"]
fn sweep_try_a_stick() {
    scenario("builder-try-stick", |lab| {
        let shop = goods(lab, Flavour::Stock, "net --compress gzip")?;
        assert_contains(&tried(&shop, "--bus usb live.iso")?, "sda");
        assert_contains(&tried(&shop, "--uefi --bus sata live.iso")?, "sr0");
        Ok(())
    });
}
