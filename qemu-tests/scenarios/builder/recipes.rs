//! The pages of `docs/recipes`, their commands run with a real kernel, and what came
//! out booted. `bellwether/tests/recipes.rs` runs them all without a machine.

use std::fs;

use qemu_tests::assets::{Flavour, Kernel};
use qemu_tests::machine::Bus;
use qemu_tests::{Error, Lab, Nic, Result, scenario, secs, workspace};

use super::{Shop, assert_contains, seen};

/// Runs the commands of a page, with some words of it exchanged; every line that
/// boots gets the lab's console and ends at a shell.
fn run_page(shop: &Shop, page: &str, exchange: &[(&str, &str)]) -> Result<()> {
    let path = workspace::root().join("docs/recipes").join(page);
    let text = fs::read_to_string(&path).map_err(Error::at("read", &path))?;
    let blocks = text.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
    let mut script =
        blocks.collect::<String>().replace("--append '", &format!("--append '{} ", seen("")));
    for (from, to) in exchange {
        assert!(script.contains(from), "{page} has no {from}");
        script = script.replace(from, to);
    }
    shop.sh(&script).map(drop)
}

/// An initramfs that fills memory with the whole of a root, as old installers have
/// it; the modules are beside it.
fn installer(lab: &Lab, shop: &Shop) -> Result<Kernel> {
    let kernel = lab.assets().kernel(Flavour::Cloud)?;
    shop.put(&kernel.image, "CD/isolinux/vmlinuz")?;
    shop.sh(&format!(
        "(cd '{}'; find . | cpio -o -H newc --quiet) | gzip -1 >CD/isolinux/initrd.img
         ln -s '{}' modules",
        lab.assets().small_root()?.display(),
        kernel.modules.display()
    ))?;
    Ok(kernel)
}

#[test]
fn device_mapper_cd() {
    scenario("builder-recipe-device-mapper", |lab| {
        let shop = Shop::open(lab)?;
        installer(lab, &shop)?;
        run_page(&shop, "device-mapper-cd.md", &[])?;
        let mut machine =
            lab.machine().cdrom(Bus::VirtioScsi, &shop.path("installer.iso")).start()?;
        machine.shell(secs(180))?;
        let mounts = machine.run("cat /proc/mounts")?;
        assert!(
            mounts
                .lines()
                .any(|l| l.starts_with("/dev/") && l.contains(" / ext") && l.contains(" rw")),
            "{mounts}"
        );
        assert_contains(&mounts, " /mnt2 iso9660 ro");
        assert_contains(&machine.run("dmsetup table")?, " snapshot ");
        machine.run("echo new >/new; test -s /mnt2/initrd-ext2")?;
        assert!(
            machine
                .run("df -m / | tail -1 | awk '{print $2}'")?
                .trim()
                .parse()
                .is_ok_and(|mib: u32| (30..=40).contains(&mib))
        );
        Ok(())
    });
}

/// The CD's own kernel and initramfs with Bellwether behind it, by TFTP; the CD's
/// files by NFS.
#[test]
#[ignore = "a network boot as others have, with a larger image: cargo xtask test --sweep"]
fn sweep_shared_cd() {
    scenario("builder-recipe-shared-cd", |lab| {
        let shop = Shop::open(lab)?;
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let initrd = lab.assets().peer_initrd(qemu_tests::assets::Peer::LiveBoot, &kernel)?;
        shop.sh(&format!(
            "bellwether iso --root '{}' --kernel '{}' --initrd '{}' -o live.iso
             xorriso -osirrox on -indev live.iso -extract / cd >/dev/null 2>&1; chmod -R u+w cd",
            lab.assets().small_squashfs()?.display(),
            kernel.image.display(),
            initrd.display()
        ))?;
        run_page(&shop, "shared-cd.md", &[("10.0.0.1:/mnt/iso", "10.77.0.1:/mnt/iso")])?;
        // The lab's TFTP server has a directory of its own.
        shop.sh("mkdir -p ../tftp; cp -a tftp2/. ../tftp/")?;
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export("/mnt/iso", &shop.path("cd")).start()?;
        let mut machine = lab.machine().nic(Nic::virtio()).qemu(&["-boot", "order=n"]).start()?;
        machine.shell(secs(240))?;
        assert_contains(&machine.transcript(), "NFS 10.77.0.1:/mnt/iso");
        assert_contains(&machine.run("cat /proc/cmdline")?, "BOOTIF=01-52-54-00-77-00-00");
        assert_contains(&machine.run("cat /proc/mounts")?, "overlay / overlay rw");
        Ok(())
    });
}
