//! Cables that are out until a download gives its connection up, and servers that are killed, for every
//! source at once: a machine for each waits through the same outage.

use std::path::Path;

use qemu_tests::assets::media::run;
use qemu_tests::servers::Offer;
use qemu_tests::{Lab, Machine, Result, scenario, secs};

use super::{assert_contains, assert_live, client, medium, nvme};

/// Reads from the server what is not in use, and says what it is.
const READ: &str = "echo read''ing; echo 3 >/proc/sys/vm/drop_caches; sync; cat /usr/sbin/dmsetup /usr/lib/*/libdevm* | md5sum";

/// Starts reading, while the server cannot be reached.
fn read_all(machines: &mut [Machine]) -> Result<()> {
    machines.iter_mut().try_for_each(|machine| {
        machine.send_line(READ)?;
        machine.expect("reading", secs(30)).map(drop)
    })
}

/// That all of it was read, and is what it was, and that nothing but waiting happened.
fn assert_read(machines: &mut [Machine], sums: &[String]) -> Result<()> {
    for (machine, sum) in machines.iter_mut().zip(sums) {
        machine.expect(sum, secs(120))?;
        // A request that failed on its way and was sent again is none.
        let log = machine.run("dmesg")?;
        let errors = ["Buffer I/O", "EXT4-fs error", "SQUASHFS error"];
        let error = log.lines().find(|line| errors.iter().any(|error| line.contains(error)));
        assert_eq!(error, None);
    }
    Ok(())
}

/// NVMe/TCP, NFS, NBD and CIFS under running systems, HTTP in the middle of a
/// stream; then the servers of the running ones.
#[test]
fn cut_cables_and_killed_servers() {
    scenario("sources-outage", |lab| {
        let (medium, image) = (medium(lab)?, lab.assets().small_squashfs()?);
        let iso = lab.tree("live")?.ballast("ballast", 16)?;
        let iso = iso.with("live/filesystem.squashfs", &image)?.iso("LIVE")?;
        let disk = lab.scratch("disk")?.join("root.img");
        run(&["cp", &lab.assets().small_ext4()?.to_string_lossy(), &disk.to_string_lossy()])?;
        let target = nvme::target(lab, &[&disk])?;
        let _dhcp = lab.dhcp().serve()?;
        let _http = lab.http(iso.parent().unwrap_or(Path::new("/")))?;
        let mut nfs = lab.nfs().export("/srv/live", &medium).start()?;
        let mut nbd = lab.nbd(&[Offer::read_only("image", &image)])?;
        let mut cifs = lab.cifs(&[Offer::read_only("medium", &medium)])?;

        let mut machines = Vec::new();
        for line in [
            &format!("bw.root=nvme:10.77.0.50/{} bw.overlay=none rw", nvme::nqn(0)),
            "boot=live netboot=nfs nfsroot=nas.lab:/srv/live",
            "bw.root=nbd:nas.lab/image bw.overlay",
            "boot=live netboot=cifs nfsroot=//nas.lab/medium",
        ] {
            machines.push(client(lab, line)?.start()?);
        }
        let mut sums = Vec::new();
        for machine in &mut machines {
            machine.shell(secs(120))?;
            sums.push(machine.run(READ)?.trim_start_matches("reading\n").to_owned());
        }
        let mut fetching = client(lab, "boot=live fetch=http://nas.lab/slow/live.iso")?.start()?;
        // Its first line of progress.
        fetching.expect("live.iso: ", secs(90))?;

        // The target is machine 0.
        let count = machines.len() + 1;
        let cables = |up| (1..=count).try_for_each(|number| lab.port(number, 0, up));
        cables(false)?;
        read_all(&mut machines)?;
        // That one gives its connection up, and asks for a new one in vain.
        fetching.expect("going on at byte", secs(90))?;
        cables(true)?;
        assert_read(&mut machines, &sums)?;
        fetching.shell(secs(90))?;
        assert_live(&mut fetching)?;
        drop(fetching);

        drop(target);
        nfs.stop();
        nbd.stop();
        cifs.stop();
        read_all(&mut machines)?;
        // The target is a machine that is gone: it refuses nothing.
        lab.knocks(6, secs(60))?;
        nfs.start()?;
        nbd.start()?;
        cifs.start()?;
        let _target = nvme::target(lab, &[&disk])?;
        assert_read(&mut machines, &sums)
    });
}

/// A machine whose server is gone when `/init` wants to read the image from it.
fn stuck(lab: &Lab, line: &str) -> Result<Machine> {
    let _dhcp = lab.dhcp().serve()?;
    let mut nfs = lab.nfs().export("/srv/live", &medium(lab)?).start()?;
    let line =
        format!("boot=live netboot=nfs nfsroot=nas.lab:/srv/live break=layers bw.lock=no {line}");
    let mut machine = client(lab, &line)?.start()?;
    machine.expect("keys: c continue", secs(90))?;
    nfs.stop();
    machine.send(b"c")?;
    Ok(machine)
}

/// The kernel waits for an NFS server that is gone, and no signal ends that: the boot's
/// limit does.
#[test]
fn a_wait_in_the_kernel_has_a_limit() {
    scenario("sources-stuck", |lab| {
        let machine = stuck(lab, "bw.timeout=15 panic=2")?;
        machine.expect("FAILED: could not finish the step layers in time: /init ", secs(60))?;
        let said = machine.expect("rebooting in 2 s, unless it goes on", secs(10))?;
        assert_contains(&said, "has been ");
        machine.expect("Kernel panic - not syncing: sysrq triggered crash", secs(20))?;
        machine.expect("Linux version", secs(60)).map(drop)
    });
}

/// The same without a limit on the line: it is told after 30 s and ends after 300 s.
#[test]
#[ignore = "waits for minutes"]
fn sweep_a_wait_in_the_kernel_without_a_limit() {
    scenario("sweep-sources-stuck", |lab| {
        let machine = stuck(lab, "panic=2")?;
        machine.expect("step layers: /init has been ", secs(90))?;
        machine.expect("; after 300 s that counts as failed", secs(5))?;
        machine.expect("FAILED: could not finish the step layers: /init has been ", secs(330))?;
        machine.expect("Kernel panic - not syncing: sysrq triggered crash", secs(20))?;
        machine.expect("Linux version", secs(60)).map(drop)
    });
}
