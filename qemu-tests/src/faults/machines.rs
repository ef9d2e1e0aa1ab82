//! Machines with little memory, many cards, many disks, no firmware, no clock.

use super::row::{Ends, Fault, Room, bare, client};
use crate::assets::{Flavour, Profile};
use crate::lab::Lab;
use crate::machine::{Machine, MachineBuilder, Nic};
use crate::{Result, shell};

const HTTP: &str = "bw.root=http://10.77.0.1/root.squashfs bw.overlay";

pub(super) const ROWS: &[Fault] = &[
    Fault {
        name: "memory-128",
        what: "128 MiB of memory, and a root over NFS",
        line: "bw.root=nfs:10.77.0.1:/srv/root bw.overlay",
        room: |lab, line| {
            let room = Room::of(client(lab, line)?.memory(128)).with(lab.dhcp().serve()?);
            Ok(room.with(lab.nfs().export("/srv/root", &lab.assets().small_root()?).start()?))
        },
        says: &["mounting NFS 10.77.0.1:/srv/root", "ready in"],
        ends: Ends::Boots,
        quick: true,
    },
    Fault {
        name: "memory-128-download",
        what: "the same, and an image that is larger than the free memory",
        line: HTTP,
        room: |lab, line| {
            let site = site(lab)?;
            shell::sh(&["truncate", "--size=64M", &format!("{site}/root.squashfs")])?;
            let room = Room::of(client(lab, line)?.memory(128)).with(lab.dhcp().serve()?);
            Ok(room.with(lab.http(site.as_ref())?))
        },
        says: &["FAILED", "it does not fit; give the machine more memory or boot over NFS"],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "cards-16",
        what: "16 cards: two without a cable, 13 without a DHCP server, and the last one works",
        line: HTTP,
        room: |lab, line| {
            lab.network("silent", "10.78.0.1/24")?;
            let mut machine = bare(lab, line)?;
            for _ in 0..2 {
                machine = machine.nic(Nic::virtio().unplugged());
            }
            for _ in 0..13 {
                machine = machine.nic(Nic::virtio().on("silent"));
            }
            served(lab, machine.nic(Nic::virtio()))
        },
        says: &["carrier up", "10.77.0.", "ready in"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "disks-200",
        what: "200 disks, of which the last one has the root",
        line: "boot=live",
        room: |lab, line| {
            let image = lab.assets().small_squashfs()?;
            let iso = lab.tree("live")?.with("live/filesystem.squashfs", &image)?.iso("LIVE")?;
            let mut words = vec!["-device".to_owned(), "virtio-scsi-pci,id=many".to_owned()];
            for number in 0..200 {
                let drive = match number {
                    199 => format!("format=raw,snapshot=on,file={}", iso.display()),
                    _ => "driver=null-co,size=1M,read-zeroes=on".to_owned(),
                };
                let device = format!("scsi-hd,bus=many.0,scsi-id={number},drive=many{number}");
                words.extend(["-drive".into(), format!("if=none,id=many{number},{drive}")]);
                words.extend(["-device".into(), device]);
            }
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let room = Room::of(bare(lab, line)?.qemu(&words));
            Ok(room.after(|machine: &mut Machine| {
                machine.run("test $(ls /sys/block | grep -c ^sd) = 200").map(drop)
            }))
        },
        says: &["looking on optical drives and disks", "ready in"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "firmware-missing",
        what: "the only card (an 82551) needs firmware that the image lacks",
        line: HTTP,
        room: |lab, line| {
            let line = format!("{line} init=/bin/sh");
            let machine = lab.client_of(Flavour::Stock, Profile::Net, &line)?;
            served(lab, machine.nic(Nic::model("i82551")))
        },
        says: &[
            "FAILED: could not bring up the network",
            "tried:",
            "asked for the firmware e100/d102e_ucode.bin, which this initramfs lacks",
        ],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "clock-1970",
        what: "the clock's battery is empty: it is 1970",
        line: HTTP,
        room: |lab, line| {
            let machine = client(lab, line)?.qemu(&["-rtc", "base=1970-01-01T00:00:00"]);
            Ok(served(lab, machine)?
                .after(|machine: &mut Machine| machine.run("test $(date +%Y) = 1970").map(drop)))
        },
        says: &["fetched http://", "ready in"],
        ends: Ends::Boots,
        quick: true,
    },
];

/// The path of a directory with the small image.
fn site(lab: &Lab) -> Result<String> {
    let site = lab.scratch("site")?.to_string_lossy().into_owned();
    let image = lab.assets().small_squashfs()?;
    shell::sh(&["cp", &image.to_string_lossy(), &format!("{site}/root.squashfs")])?;
    Ok(site)
}

fn served<'l>(lab: &'l Lab, machine: MachineBuilder<'l>) -> Result<Room<'l>> {
    let room = Room::of(machine).with(lab.dhcp().serve()?);
    Ok(room.with(lab.http(site(lab)?.as_ref())?))
}
