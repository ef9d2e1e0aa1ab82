//! What the live system finds, and how it goes down.

use qemu_tests::assets::{FULL, Flavour, Profile};
use qemu_tests::machine::Bus;
use qemu_tests::{Nic, scenario, secs};

use crate::dialects::{full_client, medium, small};

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

/// systemd gives the machine back to us in the end: the overlay goes first, then the
/// image, then the server, and nothing is left that could not be let go.
#[test]
fn the_root_is_taken_down_in_order() {
    scenario("handoff-shutdown", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
        let line = "boot=live netboot=nfs nfsroot=10.77.0.1:/srv/live";
        let mut machine = full_client(lab, line)?.nic(Nic::virtio()).start()?;
        machine.login(secs(240))?;
        machine.send_line("systemctl reboot")?;
        let said = machine.expect("bellwether: root taken down after", secs(90))?;
        assert!(!said.contains("cannot be taken down"), "{said}");
        machine.expect("Linux version", secs(60)).map(drop)
    });
}

/// live-boot's words for the live system's own files, and casper's for its layers.
#[test]
fn words_reach_the_live_system_s_files() {
    scenario("handoff-words", |lab| {
        let (_, iso) = medium(lab, &lab.assets().small_squashfs()?)?;
        let swap = lab.scratch("swap")?.join("swap.img").to_string_lossy().into_owned();
        qemu_tests::assets::media::run(&["truncate", "--size=8M", &swap])?;
        qemu_tests::assets::media::run(&["mkswap", &swap])?;
        let line = "boot=live swap ip=eth0:10.0.0.5:255.255.255.0:10.0.0.1 init=/bin/sh";
        let client = full_client(lab, line)?.cdrom(Bus::VirtioScsi, &iso);
        let mut machine = small(client.disk(Bus::VirtioBlk, swap.as_ref()))?;
        assert!(machine.run("cat /etc/fstab")?.contains("/dev/vda none swap sw 0 0"));
        let interfaces = machine.run("cat /etc/network/interfaces")?;
        assert!(interfaces.contains("iface eth0 inet static\n    address 10.0.0.5\n"));
        drop(machine);
        let line = "boot=casper showmounts hostname=lab7 init=/bin/sh";
        let mut machine = small(full_client(lab, line)?.cdrom(Bus::VirtioScsi, &iso))?;
        machine.run("test -e /casper/filesystem.squashfs/etc/issue -a -e /rofs/etc/issue")?;
        assert_eq!(machine.run("cat /etc/hostname")?.trim(), "lab7");
        Ok(())
    });
}

/// A distribution's own scripts beside us set its live system up.
#[test]
fn casper_s_own_scripts_are_run() {
    scenario("handoff-casper-scripts", |lab| {
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let busybox = lab.assets().small_root()?.join("usr/bin");
        let script = |body: &str| format!("#!/bin/sh\n. /scripts/casper-functions\n{body}\n");
        let initramfs = lab.tree("initramfs")?;
        let initramfs = initramfs
            .text("casper-functions", "seen() { echo \"$1\" >>/root/etc/seen; }\n")?
            .text(
                "casper-bottom/ORDER",
                "/scripts/casper-bottom/05mountpoints \"$@\"\n\
                 /scripts/casper-bottom/18hostname \"$@\"\n\
                 [ -e /conf/param.conf ] && . /conf/param.conf\n\
                 /scripts/casper-bottom/25adduser \"$@\"\n",
            )?
            .text("casper-bottom/05mountpoints", &script("seen mountpoints"))?
            .text("casper-bottom/18hostname", &script("seen \"$HOST $(cat $rootmnt/etc/issue)\""))?
            .text(
                "casper-bottom/25adduser",
                &script("seen \"$USERNAME $(cat /cdrom/.disk/info)\"; chroot /root touch /added"),
            )?;
        for name in ["05mountpoints", "18hostname", "25adduser"] {
            let path = initramfs.path().join("casper-bottom").join(name);
            qemu_tests::assets::media::run(&["chmod", "+x", &path.to_string_lossy()])?;
        }
        let scripts = format!("{}:scripts", initramfs.path().display());
        let busybox = format!("{}:bin", busybox.display());
        let options = [&FULL[..], &["--include", &busybox, "--include", &scripts]].concat();
        let initrd = lab.assets().our_initrd_of(&kernel, Profile::Disks, "casper", &options)?;
        let (_, iso) = medium(lab, &lab.assets().small_squashfs()?)?;
        let line = "boot=casper username=anna init=/bin/sh";
        let client = lab.machine().kernel(&kernel.image, &initrd, line);
        let mut machine = small(client.cdrom(Bus::VirtioScsi, &iso))?;
        let seen = machine.run("cat /etc/seen; ls /added")?;
        assert_eq!(
            seen.trim(),
            "labuntu a small live system\nanna Labuntu 24.04 \"Bellwether\" - lab\n/added"
        );
        assert!(machine.run("cat /etc/casper.conf")?.contains("USERNAME=\"anna\""));
        Ok(())
    });
}

/// The device-mapper CD is let go, too: the snapshot, the image's loop device, the disc.
/// What systemd does before it runs us is done by hand here.
#[test]
fn a_snapshot_is_taken_down() {
    scenario("handoff-snapshot", |lab| {
        let image = lab.assets().small_ext4()?;
        let iso = lab.tree("cd")?.with("initrd-ext2", &image)?.iso("SEED")?;
        let line = "bw.root=cdrom bw.image=/initrd-ext2 bw.snapshot=ram:16M,chunk=1 \
                    bw.medium=/mnt2 init=/bin/sh";
        let client = lab.client_of(Flavour::Cloud, Profile::Disks, line)?;
        let mut machine = small(client.cdrom(Bus::VirtioScsi, &iso))?;
        machine.run(
            "cd /run/initramfs && mount --bind . . && cd . && mkdir -p oldroot sys dev run proc",
        )?;
        machine
            .run("cd /run/initramfs && for i in sys dev run proc; do mount --bind /$i $i; done")?;
        machine.send_line(
            "cd /run/initramfs && pivot_root . oldroot && \
             exec chroot . /shutdown poweroff <dev/console >dev/console 2>&1",
        )?;
        let said = machine.expect("bellwether: root taken down after", secs(60))?;
        assert!(!said.contains("cannot be taken down"), "{said}");
        machine.wait_off(secs(30))
    });
}
