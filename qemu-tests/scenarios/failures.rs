//! What cannot work says so, in words, and then does what the line says.

use qemu_tests::assets::{Flavour, Profile};
use qemu_tests::{Nic, scenario, secs};

const LIVE: &str = "boot=live netboot=nfs nfsroot=10.77.0.1:/srv/live";

/// A line that gives up on the network after seconds instead of minutes.
const IMPATIENT: &str = "root=live:nfs://10.77.0.1/srv/live/live/filesystem.squashfs ip=dhcp \
                         rd.net.timeout.iflink=5 rd.net.timeout.dhcp=5";

const FAILED: &str = "bellwether: FAILED:";

#[test]
fn wrong_path_is_named_and_panic_reboots() {
    scenario("failure-wrong-path", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
        let line = "boot=live netboot=nfs nfsroot=10.77.0.1:/srv/typo panic=5";
        let machine = lab.client(line)?.start()?;
        machine.expect(FAILED, secs(180))?;
        machine.expect("/srv/typo", secs(5))?;
        // The same machine starts again by itself.
        machine.expect("Linux version", secs(60)).map(drop)
    });
}

/// Without `panic=` the boot is tried again, and the server may be right by then.
#[test]
fn wrong_path_is_tried_again() {
    scenario("failure-then-retry", |lab| {
        let tree = lab.assets().live_tree()?;
        let _dhcp = lab.dhcp().serve()?;
        let wrong = lab.nfs().export("/srv/typo", &tree).start()?;
        let mut machine = lab.client(&format!("{LIVE} init=/bin/sh"))?.start()?;
        machine.expect(FAILED, secs(180))?;
        let said = machine.expect("trying again in", secs(5))?;
        assert!(said.contains("10.77.0.1:/srv/live"), "the export is not named:\n{said}");
        drop(wrong);
        let _right = lab.nfs().export("/srv/live", &tree).start()?;
        machine.shell(secs(120))
    });
}

#[test]
fn truncated_image_is_named() {
    scenario("failure-truncated-image", |lab| {
        let tree = lab.truncated_live_tree()?;
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export("/srv/live", &tree).start()?;
        let machine = lab.client(&format!("{LIVE} panic=5"))?.start()?;
        let said =
            machine.expect(FAILED, secs(180))? + &machine.expect("Linux version", secs(60))?;
        assert!(said.contains("filesystem.squashfs"), "the file is not named:\n{said}");
        assert!(said.contains("is cut short"), "the reason is not named:\n{said}");
        Ok(())
    });
}

/// Without its index `/init` has no drivers: it says which file is broken, then
/// what it could not do without, and the keys of the screen work.
#[test]
fn truncated_index_is_named() {
    scenario("failure-truncated-index", |lab| {
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let whole = lab.assets().our_initrd(&kernel, Profile::Virt)?;
        let initrd = lab.with_cut_index(&whole)?;
        let client = lab.machine().nic(Nic::virtio()).kernel(&kernel.image, &initrd, IMPATIENT);
        let mut machine = client.start()?;
        machine.expect("/lib/bellwether/modules.idx: ", secs(120))?;
        machine.expect(FAILED, secs(120))?;
        machine.expect("keys: r retry", secs(5))?;
        machine.send(b"o")?;
        machine.wait_off(secs(30))
    });
}

/// Options that a parser could choke on do not stop a boot; each is named.
#[test]
fn garbage_options_are_named_and_left_out() {
    scenario("failure-garbage-options", |lab| {
        let _dhcp = lab.rogue_dhcp(|answer| {
            answer.extend([121, 3, 255, 255, 255]);
            answer.extend([119, 4, 0xc0, 0, 0xc0, 0]);
            answer.extend([33, 1, 1]);
            answer.extend([26, 2, 0, 1]);
            answer.extend([12, 4, 27, b'[', b'2', b'J']);
            answer.extend([6, 3, 10, 77, 0]);
        })?;
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
        let mut machine = lab.client(&format!("{LIVE} init=/bin/sh"))?.start()?;
        machine.shell(secs(180))?;
        for option in ["121", "119", "33", "26", "12", "6"] {
            let said = machine.transcript();
            assert!(said.contains(&format!("option {option}")), "{option} is not named:\n{said}");
        }
        assert!(machine.run("ip -4 -o address")?.contains("10.77.0.66/24"));
        Ok(())
    });
}

/// Answers that are no DHCP at all: the screen says that somebody answers, and that
/// it is of no use.
#[test]
fn garbage_answers_are_named() {
    scenario("failure-garbage-answers", |lab| {
        let _dhcp = lab.rogue_dhcp(|answer| answer.truncate(238))?;
        let machine = lab.client(&format!("{IMPATIENT} panic=5"))?.start()?;
        machine.expect(FAILED, secs(180))?;
        let said = machine.expect("rebooting in", secs(5))?;
        assert!(said.contains("10.77.0.1"), "the server is not named:\n{said}");
        machine.expect("Linux version", secs(60)).map(drop)
    });
}
