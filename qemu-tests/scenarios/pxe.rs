//! The whole way, as a machine on a site goes it.

use qemu_tests::assets::{Flavour, Profile};
use qemu_tests::{Nic, scenario, secs};

/// ROM, pxelinux, kernel, our init, NFS, overlay, login; what is written is gone
/// after a reboot.
#[test]
fn rom_to_login_and_writes_vanish() {
    scenario("pxe", |lab| {
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let initrd = lab.assets().our_initrd(&kernel, Profile::Virt)?;
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
        let line = "boot=live netboot=nfs nfsroot=10.77.0.1:/srv/live";
        let client = lab.machine().nic(Nic::virtio());
        let mut machine = client.pxe(&kernel.image, &initrd, line)?.start()?;
        machine.login(secs(180))?;
        machine.run("echo proof >/etc/proof && test -s /etc/proof")?;
        machine.send_line("systemctl reboot")?;
        machine.expect("Linux version", secs(120))?;
        machine.login(secs(180))?;
        machine.run("test ! -e /etc/proof")?;
        Ok(())
    });
}
