//! What cannot work says so, in words, and then does what the line says.

use qemu_tests::{scenario, secs};

#[test]
fn wrong_path_is_named_and_panic_reboots() {
    scenario("failure-wrong-path", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
        let line = "boot=live netboot=nfs nfsroot=10.77.0.1:/srv/typo panic=5";
        let machine = lab.client(line)?.start()?;
        machine.expect("bellwether: FAILED:", secs(180))?;
        machine.expect("/srv/typo", secs(5))?;
        // The same machine starts again by itself.
        machine.expect("Linux version", secs(60)).map(drop)
    });
}

#[test]
fn truncated_image_is_named() {
    scenario("failure-truncated-image", |lab| {
        let tree = lab.truncated_live_tree()?;
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export("/srv/live", &tree).start()?;
        let line = "boot=live netboot=nfs nfsroot=10.77.0.1:/srv/live panic=5";
        let machine = lab.client(line)?.start()?;
        let said = machine.expect("bellwether: FAILED:", secs(180))?
            + &machine.expect("Linux version", secs(60))?;
        assert!(said.contains("filesystem.squashfs"), "the file is not named:\n{said}");
        Ok(())
    });
}
