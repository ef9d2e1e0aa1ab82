//! Which card, and which address.

use qemu_tests::assets::{Flavour, Profile};
use qemu_tests::{Nic, scenario, secs};

const LIVE: &str = "boot=live netboot=nfs nfsroot=10.77.0.1:/srv/live init=/bin/sh";

/// A real card's driver, from the kernel that people run.
#[test]
fn e1000e_with_the_stock_kernel() {
    scenario("nic-e1000e", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
        let client = lab.client_of(Flavour::Stock, Profile::Net, LIVE)?;
        let mut machine = client.nic(Nic::e1000e()).start()?;
        machine.shell(secs(180))?;
        assert!(machine.run("grep -l DRIVER=e1000e /sys/class/net/*/device/uevent").is_ok());
        Ok(())
    });
}

/// Three cards: one has no cable, one has no DHCP server, one works.
#[test]
fn dead_and_silent_cards_do_not_matter() {
    scenario("nic-dead-and-silent", |lab| {
        lab.network("silent", "10.78.0.1/24")?;
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
        let mut machine = lab
            .bare_client(LIVE)?
            .nic(Nic::virtio().unplugged())
            .nic(Nic::virtio().on("silent"))
            .nic(Nic::virtio())
            .start()?;
        // A boot that waits for the dead card does not make it.
        machine.shell(secs(60))?;
        assert!(machine.run("ip -4 -o address")?.contains("10.77.0."));
        Ok(())
    });
}

/// Both networks answer; `BOOTIF` says which one counts.
#[test]
fn bootif_picks_the_card() {
    scenario("nic-bootif", |lab| {
        lab.network("other", "10.78.0.1/24")?;
        let range = "10.78.0.100,10.78.0.199,255.255.255.0,1h";
        let _other = lab.server_of("other").serve_on("other", range)?;
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
        let mut machine = lab
            .bare_client(&format!("{LIVE} BOOTIF=01-52-54-00-AA-BB-02"))?
            .nic(Nic::virtio().on("other").mac("52:54:00:aa:bb:01"))
            .nic(Nic::virtio().mac("52:54:00:aa:bb:02"))
            .start()?;
        machine.shell(secs(120))?;
        let addresses = machine.run("ip -4 -o address")?;
        assert!(addresses.contains("10.77.0.") && !addresses.contains("10.78.0."), "{addresses}");
        Ok(())
    });
}

/// No DHCP server anywhere: everything is on the line.
#[test]
fn static_address() {
    scenario("nic-static", |lab| {
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().casper_tree()?).start()?;
        let ip = "ip=10.77.0.50:10.77.0.1:10.77.0.1:255.255.255.0:lab-client::off:10.77.0.1";
        let line = format!("boot=casper netboot=nfs nfsroot=10.77.0.1:/srv/live {ip} init=/bin/sh");
        let mut machine = lab.client(&line)?.start()?;
        machine.shell(secs(120))?;
        assert!(machine.run("ip -4 -o address")?.contains("10.77.0.50/24"));
        assert!(machine.run("ip route show default")?.contains("via 10.77.0.1"));
        assert!(machine.run("cat /etc/resolv.conf")?.contains("nameserver 10.77.0.1"));
        Ok(())
    });
}
