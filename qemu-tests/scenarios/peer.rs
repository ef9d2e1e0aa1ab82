//! The lab itself works: another project's initramfs boots in it.

use qemu_tests::assets::{Flavour, Peer};
use qemu_tests::{Nic, scenario, secs};

#[test]
#[ignore = "says nothing about us, and takes two minutes: cargo xtask test --sweep"]
fn sweep_live_boot_boots_over_pxe_and_nfs() {
    scenario("peer-live-boot", |lab| {
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let initrd = lab.assets().peer_initrd(Peer::LiveBoot, &kernel)?;
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
        let line = "boot=live netboot=nfs nfsroot=10.77.0.1:/srv/live";
        let mut machine =
            lab.machine().nic(Nic::virtio()).pxe(&kernel.image, &initrd, line)?.start()?;
        machine.login(secs(180))?;
        assert_eq!(machine.run("findmnt -no FSTYPE /")?.trim(), "overlay");
        Ok(())
    });
}
