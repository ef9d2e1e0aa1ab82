//! Servers that are not there yet: after a power cut everything starts at once.

use std::thread::sleep;

use qemu_tests::{scenario, secs};

const LIVE: &str = "boot=live netboot=nfs nfsroot=10.77.0.1:/srv/live init=/bin/sh";

#[test]
fn dhcp_answers_after_20_seconds() {
    scenario("late-dhcp", |lab| {
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
        let mut machine = lab.client(LIVE)?.start()?;
        machine.expect("Run /init", secs(60))?;
        sleep(secs(20));
        let _dhcp = lab.dhcp().serve()?;
        machine.shell(secs(60))
    });
}

#[test]
fn nfs_server_comes_up_after_20_seconds() {
    scenario("late-nfs", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let mut machine = lab.client(LIVE)?.start()?;
        machine.expect("Run /init", secs(60))?;
        sleep(secs(20));
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
        machine.shell(secs(90))
    });
}
