//! Servers that are not there yet: after a power cut everything starts at once.

use qemu_tests::{scenario, secs};

const LIVE: &str = "boot=live netboot=nfs nfsroot=10.77.0.1:/srv/live init=/bin/sh";

#[test]
fn dhcp_answers_late() {
    scenario("late-dhcp", |lab| {
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
        let mut machine = lab.client(LIVE)?.start()?;
        for _ in 0..3 {
            machine.expect("no answer from DHCP yet", secs(90))?;
        }
        let _dhcp = lab.dhcp().serve()?;
        machine.shell(secs(60))
    });
}

#[test]
fn nfs_server_comes_up_late() {
    scenario("late-nfs", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let mut machine = lab.client(LIVE)?.start()?;
        // Several rounds of asking for all versions.
        lab.knocks(10, secs(150))?;
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
        machine.shell(secs(90))
    });
}
