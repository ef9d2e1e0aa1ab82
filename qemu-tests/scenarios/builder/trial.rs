//! `bellwether try`: what it starts comes up, and it ends with the machine.

use qemu_tests::assets::Flavour;
use qemu_tests::machine::KERNEL_WORDS;
use qemu_tests::{Lab, Result, scenario};

use super::{Shop, assert_contains};

/// The live system's first program: tells what machine this is, and switches it off.
const FIRST: &str = "#!/bin/sh
mount -t sysfs sysfs /sys 2>/dev/null
firmware=BIOS; [ ! -d /sys/firmware/efi ] || firmware=UEFI
cd /sys/block
echo \"first: $firmware,\" *
poweroff -f
";

/// Everything in the shop that is to be tried: `live.iso`, a PXE tree, a kernel.
fn goods(lab: &Lab) -> Result<Shop> {
    let shop = Shop::open(lab)?;
    let kernel = lab.assets().kernel(Flavour::Cloud)?;
    let root =
        lab.tree("root")?.with_all(&lab.assets().small_root()?)?.text("usr/bin/first", FIRST)?;
    shop.put(&kernel.image, "vmlinuz")?;
    shop.sh(&format!(
        "chmod +x '{root}/usr/bin/first'; ln -s '{modules}' modules
         line='{KERNEL_WORDS} boot=live init=/bin/first'
         bellwether build --modules modules -o initrd.img
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

/// An ISO by UEFI with an empty disk beside it, as a stick, and a kernel alone.
#[test]
fn try_media() {
    scenario("builder-try", |lab| {
        let shop = goods(lab)?;
        let said = tried(&shop, "--uefi --disk 64M --memory 768 live.iso")?;
        assert_contains(&said, "first: UEFI,");
        assert!(said.contains("sr0") && said.contains("vda"), "{said}");
        let said = tried(&shop, "--bus usb live.iso")?;
        assert_contains(&said, "first: BIOS,");
        assert_contains(&said, "sda");
        let direct = "--kernel vmlinuz --initrd initrd.img --append 'boot=live init=/bin/first' \
                      --bus nvme --disk live.iso";
        assert_contains(&tried(&shop, direct)?, "nvme0n1");
        Ok(())
    });
}

/// From the network, by both firmwares; the root is a disk image.
#[test]
fn try_pxe() {
    scenario("builder-try-pxe", |lab| {
        let shop = goods(lab)?;
        let said = tried(&shop, "--pxe tftp --disk live.iso")?;
        assert_contains(&said, "first: BIOS,");
        let said = tried(&shop, "--uefi --pxe tftp --disk live.iso")?;
        assert_contains(&said, "first: UEFI,");
        Ok(())
    });
}
