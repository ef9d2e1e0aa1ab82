//! Directories of other machines: CIFS, 9p, virtiofs.

use qemu_tests::assets::{FULL, Flavour, Profile};
use qemu_tests::scenario;
use qemu_tests::servers::Offer;

use super::{assert_contains, assert_live, boot, client, medium, up};

#[test]
fn cifs_media_files_and_trees() {
    scenario("sources-cifs", |lab| {
        let (medium, root) = (medium(lab)?, lab.assets().small_root()?);
        let _dhcp = lab.dhcp().serve()?;
        let shares = [Offer::read_only("medium", &medium), Offer::read_only("root", &root)];
        let _cifs = lab.cifs(&shares)?;
        for line in [
            "boot=live netboot=cifs nfsroot=//nas.lab/medium",
            "bw.root=cifs://nas.lab/medium,file=/live/filesystem.squashfs bw.overlay",
            "bw.root=cifs://nas.lab/root bw.overlay",
        ] {
            let mut machine = boot(lab, line)?;
            assert_live(&mut machine)?;
            assert_contains(&machine.transcript(), "mounting //10.77.0.1/");
        }
        Ok(())
    });
}

#[test]
fn virtiofs_media_and_trees() {
    scenario("sources-virtiofs", |lab| {
        let (medium, root) = (medium(lab)?, lab.assets().small_root()?);
        for (tag, tree, line) in [
            ("media", &medium, "boot=live bw.root=virtiofs:media"),
            ("tree", &root, "bw.root=virtiofs:tree bw.overlay"),
        ] {
            let (_server, words) = lab.virtiofs(tag, tree)?;
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let mut machine = up(client(lab, line)?.qemu(&words))?;
            assert_live(&mut machine)?;
        }
        Ok(())
    });
}

/// Debian's cloud kernel has no 9p: the stock one.
#[test]
fn ninep_media_and_trees() {
    scenario("sources-9p", |lab| {
        let (medium, root) = (medium(lab)?, lab.assets().small_root()?);
        let kernel = lab.assets().kernel(Flavour::Stock)?;
        let initrd = lab.assets().our_initrd_of(&kernel, Profile::Disks, "sources-9p", &FULL)?;
        for (tree, line) in [
            (&medium, "boot=live bw.root=9p:share init=/bin/sh"),
            (&root, "bw.root=9p:share bw.overlay init=/bin/sh"),
        ] {
            let share =
                format!("local,id=share,path={},security_model=none,readonly=on", tree.display());
            let machine = lab.machine().kernel(&kernel.image, &initrd, line);
            let device = "virtio-9p-pci,fsdev=share,mount_tag=share";
            let mut machine = up(machine.qemu(&["-fsdev", &share, "-device", device]))?;
            assert_live(&mut machine)?;
        }
        Ok(())
    });
}
