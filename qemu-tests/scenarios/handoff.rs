//! What the live system finds, and how it goes down.

use qemu_tests::{scenario, secs};

/// systemd comes up completely, keeps the boot card's address and the name server,
/// and shuts down without waiting for a network root that is gone.
#[test]
fn systemd_keeps_the_network_and_shuts_down() {
    scenario("handoff-systemd", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
        let line = "boot=live netboot=nfs nfsroot=10.77.0.1:/srv/live";
        let mut machine = lab.client(line)?.start()?;
        machine.login(secs(180))?;
        machine.run("timeout 50 systemctl is-system-running --wait || true")?;
        machine.run("systemctl is-active multi-user.target")?;
        assert_eq!(machine.run("systemctl --failed --no-legend")?.trim(), "");
        assert_eq!(machine.run("findmnt -no FSTYPE /")?.trim(), "overlay");
        assert!(machine.run("ip -4 -o address")?.contains("10.77.0."));
        assert!(machine.run("ip route show default")?.contains("via 10.77.0.1"));
        assert!(machine.run("cat /etc/resolv.conf")?.contains("nameserver 10.77.0.1"));
        assert!(machine.run("getent hosts nas.lab")?.contains("10.77.0.1"));
        machine.run("cat /run/net-*.conf | grep -q IPV4ADDR")?;
        machine.run("test -s /run/bellwether/log && test -s /run/bellwether/plan.json")?;
        machine.send_line("systemctl poweroff")?;
        machine.wait_off(secs(60))
    });
}
