//! A library's thin clients: each keeps its changes in a file of its own on the
//! server, named by its card's address.

use qemu_tests::assets::media::{Fs, add_program, run};
use qemu_tests::assets::{Flavour, Profile};
use qemu_tests::servers::Offer;
use qemu_tests::{Nic, scenario, secs};

use super::{DISK, assert_said, boot, live_iso, mounted};

#[test]
fn a_file_on_nfs() {
    scenario("storage-keep-nfs", |lab| {
        let root = lab.tree("root")?.with_all(&lab.assets().small_root()?)?;
        add_program(root.path(), "/usr/sbin/mkfs.ext4")?;
        let live = lab
            .tree("live")?
            .with("live/filesystem.squashfs", &root.image(Fs::Squashfs, "", 0)?)?;
        let keep = lab.scratch("keep")?;
        let _dhcp = lab.dhcp().serve()?;
        let _nfs =
            lab.nfs().export("/srv/live", live.path()).export_rw("/srv/keep", &keep).start()?;
        let line = "boot=live netboot=nfs nfsroot=10.77.0.1:/srv/live \
                    bw.persist=nfs:10.77.0.1:/srv/keep,path=/{mac}.img init=/bin/sh";
        let client = lab.client_of(Flavour::Cloud, Profile::Disks, line)?;
        let mut machine = boot(client.nic(Nic::virtio().mac("52:54:00:12:34:56")))?;
        assert_said(&machine, "making /52-54-00-12-34-56.img on");
        machine.run("echo once >/kept")?;
        machine.restart(secs(90))?;
        assert_eq!(machine.run("cat /kept")?.trim(), "once");
        assert!(keep.join("52-54-00-12-34-56.img").exists());
        drop(machine);

        // Another machine has nothing to do with that.
        let client = lab.client_of(Flavour::Cloud, Profile::Disks, line)?;
        let mut machine = boot(client.nic(Nic::virtio().mac("52:54:00:12:34:57")))?;
        machine.run("test ! -e /kept")?;
        Ok(())
    });
}

/// After a power cut the server of the changes starts later than the machine; a line
/// that insists on its changes does not boot without.
#[test]
fn a_server_that_comes_later() {
    scenario("storage-keep-server-late", |lab| {
        let iso = live_iso(lab)?;
        let disk = lab.tree("changes")?.image(Fs::Ext4, "changes", 32)?;
        let image = lab.scratch("keep")?.join("all.img");
        run(&["cp", &disk.to_string_lossy(), &image.to_string_lossy()])?;
        let keep = lab.scratch("keep")?;
        let _dhcp = lab.dhcp().serve()?;
        let mut machines = Vec::new();
        for place in
            ["nbd:10.77.0.1/changes", "nfs:10.77.0.1:/srv/keep,path=/all.img", "nbd:10.77.0.1/none"]
        {
            let line = format!("boot=live bw.persist={place},required init=/bin/sh");
            let client = lab.client_of(Flavour::Cloud, Profile::Disks, &line)?;
            machines.push(client.nic(Nic::virtio()).disk(DISK, &iso).start()?);
        }
        for machine in &machines {
            machine.expect("waiting for what changes are kept on", secs(90))?;
        }
        let _nbd = lab.nbd(&[Offer::writable("changes", &disk)])?;
        let _nfs = lab.nfs().export_rw("/srv/keep", &keep).start()?;
        // What the server does not have is not waited for, and nothing is lost unseen.
        let refused = machines.pop();
        let failed = "FAILED: could not find what changes are kept on";
        refused.map(|machine| machine.expect(failed, secs(60))).transpose()?;
        for machine in &mut machines {
            machine.shell(secs(60))?;
            assert_said(machine, "all changes kept on");
        }
        Ok(())
    });
}

/// A disk of its own on an NBD server, under a medium that is local.
#[test]
fn an_export_over_nbd() {
    scenario("storage-keep-nbd", |lab| {
        let iso = live_iso(lab)?;
        let disk = lab.tree("changes")?.image(Fs::Ext4, "changes", 32)?;
        let _dhcp = lab.dhcp().serve()?;
        let mut nbd = lab.nbd(&[Offer::writable("keep-52-54-00-12-34-56", &disk)])?;
        let line = "boot=live bw.persist=nbd:10.77.0.1/keep-{mac} init=/bin/sh";
        let client = lab.client_of(Flavour::Cloud, Profile::Disks, line)?.disk(DISK, &iso);
        let mut machine = boot(client.nic(Nic::virtio().mac("52:54:00:12:34:56")))?;
        assert_said(&machine, "all changes kept on /dev/nbd0");
        assert!(mounted(&mut machine, "/run/live/persistence/nbd0")?.contains(" ext4 rw"));
        machine.run("echo once >/kept")?;
        machine.send_line("sync; echo b >/proc/sysrq-trigger")?;
        machine.expect("Linux version", secs(60))?;
        // In the foreground this server takes one client and ends.
        nbd.stop();
        nbd.start()?;
        machine.shell(secs(90))?;
        assert_eq!(machine.run("cat /kept")?.trim(), "once");
        drop(machine);

        // Another machine has no export: it boots, and says what it goes without.
        let client = lab.client_of(Flavour::Cloud, Profile::Disks, line)?.disk(DISK, &iso);
        let machine = boot(client.nic(Nic::virtio().mac("52:54:00:12:34:57")))?;
        assert_said(&machine, "changes stay in memory");
        Ok(())
    });
}
