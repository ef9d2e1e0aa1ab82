//! The multicast clone CD in one word each: a golden machine that sends, a target that keeps its
//! own partition table.

use std::path::Path;

use qemu_tests::assets::media::run;
use qemu_tests::assets::{Flavour, Profile, bellwether};
use qemu_tests::machine::Bus;
use qemu_tests::{Nic, packages, scenario, secs};

use super::golden::mac;

/// A disk of so many MiB with a partition of 40 MiB, and what `sfdisk` is told of more.
fn table(disk: &str, mib: u32, more: &str) -> qemu_tests::Result<()> {
    let script = format!(
        "rm -f '{disk}'; truncate -s {mib}M '{disk}'; \
         printf 'label: dos\\nstart=2048,size=81920,type=83\\n{more}' | sfdisk -q '{disk}'"
    );
    run(&["sh", "-c", &script]).map(drop)
}

#[test]
fn a_golden_machine_sends_and_a_target_keeps_its_table() {
    scenario("clone-roles", |lab| {
        packages::ensure_all(packages::FOR_DISKS)?;
        packages::ensure_all(packages::FOR_TABLES)?;
        let place = lab.scratch("roles")?;
        let path = |name: &str| place.join(name).to_string_lossy().into_owned();
        let (golden, copy, tools) = (path("golden.img"), path("copy.img"), path("tools.img"));
        table(&golden, 48, "")?;
        let content = lab.assets().small_ext4()?.to_string_lossy().into_owned();
        let put = |from: &str, to: &str, mib: &str| {
            let (from, to) = (format!("if={from}"), format!("of={to}"));
            run(&["dd", &from, &to, "bs=1M", &format!("seek={mib}"), "conv=notrunc", "status=none"])
        };
        put(&content, &golden, "1")?;
        // Its second partition is its own.
        table(&copy, 64, "start=100000,size=20000,type=82\\n")?;
        put(&content, &copy, "50")?;
        let digest = |what: &str| run(&["sh", "-c", &format!("{what} | sha256sum")]);
        let all = format!("cat '{golden}'");
        let others = format!(
            "{{ dd if='{copy}' bs=1 skip=446 count=66; dd if='{copy}' bs=1M skip=41; }} 2>/dev/null"
        );
        let (was, own) = (digest(&all)?, digest(&others)?);
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let base = lab.assets().our_initrd(&kernel, Profile::Disks)?;
        let (ours, initrd) = (path("bellwether"), path("clone.img"));
        run(&["strip", "-o", &ours, &bellwether()?.to_string_lossy()])?;
        run(&[&ours, "clone", "tools", "-o", &tools])?;
        run(&["sh", "-c", &format!("cat '{}' '{tools}' >'{initrd}'", base.display())])?;
        let _dhcp = lab.dhcp().serve()?;
        let start = |number: usize, disk: &str, line: &str| {
            let line = format!("{line} bw.clone.then=poweroff ip=dhcp");
            let machine = lab.machine();
            machine
                .kernel(&kernel.image, Path::new(&initrd), &line)
                .nic(Nic::virtio().mac(&mac(number)))
                .kept_disk(Bus::VirtioBlk, Path::new(disk))
                .qemu(&["-no-reboot"])
                .start()
        };
        let source = start(0, &golden, "bw.clone=source bw.clone.count=1")?;
        source.expect("source: waits for 1 machine", secs(240))?;
        let target = start(1, &copy, "bw.clone=target bw.clone.keep-table")?;
        source.expect(&format!("{} vda ", mac(1)), secs(240))?;
        for machine in [&source, &target] {
            machine.expect("copy complete", secs(240))?;
            machine.expect("powering off", secs(60))?;
        }
        assert!(target.transcript().contains("verified with the sender"));
        for machine in [source, target] {
            machine.wait_off(secs(60))?;
        }
        assert_eq!(digest(&all)?, was, "the golden disk is as it was");
        assert_eq!(digest(&others)?, own, "table and second partition are as they were");
        let first = |of: &str| digest(&format!("dd if='{of}' bs=1M skip=1 count=40 2>/dev/null"));
        let size = run(&["sh", "-c", &format!("blkid -p -O 1048576 -s TYPE '{copy}'")])?;
        assert!(size.contains("ext"), "{size}");
        println!("{}{}", first(&golden)?, first(&copy)?);
        run(&[
            "sh",
            "-c",
            &format!(
                "dd if='{copy}' of='{0}' bs=1M skip=1 count=40 status=none && \
             e2fsck -fn '{0}'",
                path("part.img")
            ),
        ])?;
        Ok(())
    });
}
