//! A room that `clone_script` serves: an empty disk gets a copy over the network, and
//! the machine is sent to that disk from then on.

use qemu_tests::assets::media::run;
use qemu_tests::assets::{Flavour, Profile, bellwether};
use qemu_tests::machine::{Bus, KERNEL_WORDS};
use qemu_tests::{Nic, scenario, secs};

use super::empty_disk;

/// What shows the machine its menu.
#[derive(PartialEq)]
enum Loader {
    /// As with the ROMs of most cards.
    Pxelinux,
    /// QEMU's own ROM.
    Ipxe,
    /// By UEFI.
    Grub,
}

/// The golden disk is a live system's.
fn served(name: &str, loader: Loader) {
    scenario(name, |lab| {
        let by_uefi = loader == Loader::Grub;
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let place = lab.scratch("room")?;
        let path = |name: &str| place.join(name).to_string_lossy().into_owned();
        let (ours, room, golden) = (path("bellwether"), path("tftp"), path("golden.iso"));
        // Without an /init in it, it takes the one beside it.
        run(&["cp", &bellwether()?.to_string_lossy(), &ours])?;
        run(&["cp", &lab.assets().our_init(Profile::Net)?.to_string_lossy(), &path("init")])?;
        let (image, modules) = (kernel.image.to_string_lossy(), kernel.modules.to_string_lossy());
        let from = ["--kernel", &*image, "--modules", &*modules];
        let line = format!("{KERNEL_WORDS} boot=live init=/bin/sh");
        let root = lab.assets().small_squashfs()?;
        let stick = ["iso", "--root", &root.to_string_lossy(), "--append", &line, "-o", &golden];
        run(&[&[&*ours][..], &stick, &from, &["--profile", "virt"]].concat())?;
        let golden = match by_uefi {
            // After another loader, firmware starts from partitions that it knows only,
            // and of a stick for both it knows none.
            true => {
                let disk = path("golden.img");
                let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/clone/stick.sh");
                run(&["sh", script, &golden, &disk])?;
                disk
            }
            false => golden,
        };
        let script = [&*ours, "clone", "clone_script", "-q", "-p", "10.77.0.1", "-t", "10.77.0.1"];
        let state = path("state");
        let more = ["-n", "10.77.0", "-d", &room, "--state", &state, "-e", "udpcast"];
        let words = format!("{KERNEL_WORDS} bw.disk=/dev/vda");
        let append = ["--append", &words];
        let ipxe: &[&str] = if loader == Loader::Pxelinux { &["--no-ipxe"] } else { &[] };
        let _room = lab.clone_room(&[&script[..], &more, &append, &from, ipxe].concat())?;
        let disk = empty_disk(lab, "copy.img", 256)?;
        let mut machine = lab
            .machine()
            .nic(Nic::virtio())
            .kept_disk(Bus::VirtioBlk, &disk)
            .qemu(&["-global", "virtio-blk-pci.bootindex=9"]);
        if by_uefi {
            machine = machine.uefi()?;
        }
        let mut machine = machine.start()?;
        machine.expect("OVERWRITES /dev/vda", secs(240))?;
        let sender = ["udp-sender", "-q", "-f", &golden, "--interface", "lan", "--nokbd"];
        let more = ["--min-receivers", "1", "--max-wait", "60", "--pxelinux", &room];
        let _golden = lab.golden_node(&[&[&*ours, "clone"][..], &sender, &more].concat())?;
        machine.expect("verified with the sender", secs(120))?;
        machine.expect("rebooting", secs(30))?;
        machine.shell(secs(240))?;
        let line = machine.run("cat /proc/cmdline")?;
        assert!(line.contains("boot=live"), "{line}");
        assert!(machine.run("cat /proc/mounts")?.contains("/dev/vda"));
        Ok(())
    });
}

#[test]
fn a_room_of_clone_script() {
    served("clone-room-pxelinux", Loader::Pxelinux);
}

#[test]
#[ignore = "as above with another loader: cargo xtask test --sweep"]
fn sweep_a_room_of_clone_script_by_ipxe() {
    served("clone-room-ipxe", Loader::Ipxe);
}

#[test]
#[ignore = "as above with another loader: cargo xtask test --sweep"]
fn sweep_a_room_of_clone_script_by_uefi() {
    served("clone-room-uefi", Loader::Grub);
}
