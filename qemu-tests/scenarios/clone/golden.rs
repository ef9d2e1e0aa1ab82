//! A golden Debian machine, and copies of it on other disks that boot by themselves.

use std::path::{Path, PathBuf};

use qemu_tests::assets::media::run;
use qemu_tests::assets::{Flavour, Profile, released};
use qemu_tests::machine::{Bus, MachineBuilder};
use qemu_tests::{Error, Lab, Nic, Result, scenario, secs, workspace};

use super::empty_disk;

/// How a golden machine boots.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// DOS table, GRUB for BIOS, ext4, swap.
    Mbr,
    /// The same, with extlinux in place of GRUB.
    Extlinux,
    /// The same, with GPT.
    ExtlinuxGpt,
    /// GPT, GRUB on an EFI system partition, ext4, swap, xfs on `/var`.
    Efi,
    /// The same, with systemd-boot in place of GRUB.
    SystemdBoot,
    /// As `Efi`, with btrfs and NTFS, and free space behind the last partition.
    Everything,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Mbr => "mbr",
            Kind::Extlinux => "extlinux",
            Kind::ExtlinuxGpt => "extlinux-gpt",
            Kind::Efi => "efi",
            Kind::SystemdBoot => "systemd-boot",
            Kind::Everything => "everything",
        }
    }

    fn is_uefi(self) -> bool {
        matches!(self, Kind::Efi | Kind::SystemdBoot | Kind::Everything)
    }
}

/// How it is copied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Partitions, file systems, files.
    Ka,
    /// The whole disk through a chain.
    Dolly,
    /// The whole disk through a ring.
    DollyPlus,
}

/// The room: what each machine's disk is called there, and how large it is.
const ROOM: [(Bus, &str, u64); 3] = [
    (Bus::VirtioBlk, "/dev/vda", 2400),
    (Bus::Ahci, "/dev/sda", 2600),
    (Bus::Nvme, "/dev/nvme0n1", 2800),
];

pub fn script(name: &str) -> String {
    format!("{}/scenarios/clone/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A golden machine on a disk image.
pub struct Golden {
    place: String,
    kind: Kind,
}

impl Golden {
    pub fn make(lab: &Lab, kind: Kind) -> Result<Golden> {
        let place = lab.scratch("golden")?.to_string_lossy().into_owned();
        let recipe = std::fs::read_to_string(script("golden-tree.sh"))
            .map_err(|e| Error::Input(e.to_string()))?;
        let sum = run(&["sh", "-c", "printf %s \"$1\" | md5sum", "sh", &recipe])?;
        // What would make itself felt on the other kinds.
        let more: &[&str] = if kind == Kind::SystemdBoot { &["systemd-boot"] } else { &[] };
        let name = format!("golden-{}{}.tar", sum.get(..16).unwrap_or_default(), more.concat());
        let tree = workspace::lab().join("cache").join(name).to_string_lossy().into_owned();
        if !Path::new(&tree).exists() {
            run(&[&["sh", &script("golden-tree.sh"), &tree], more].concat())?;
        }
        let word = kind.word();
        let golden = Golden { place, kind };
        run(&["sh", &script("golden.sh"), word, &tree, &golden.place])?;
        Ok(golden)
    }

    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.place)
    }

    /// Its firmware.
    pub fn machine<'lab>(&self, lab: &'lab Lab, number: usize) -> Result<MachineBuilder<'lab>> {
        let machine = lab.machine();
        if !self.kind.is_uefi() {
            return Ok(machine.nic(Nic::virtio().mac(&mac(number))));
        }
        // Without a card: where one is in the boot order, this firmware looks at nothing
        // that is not.
        machine.uefi()
    }
}

pub fn mac(number: usize) -> String {
    format!("52:54:00:77:c0:{number:02x}")
}

/// What check.sh says of a disk: all identifiers, and the sum of its files.
fn check(golden: &Golden, disk: &Path) -> Result<(Vec<String>, String)> {
    let (disk, dir) = (disk.to_string_lossy(), golden.path("checked"));
    let said = run(&["sh", &script("check.sh"), &disk, &dir, &script("digest.sh")])?;
    let (files, ids): (Vec<&str>, Vec<&str>) =
        said.lines().partition(|line| line.starts_with("files "));
    Ok((ids.into_iter().map(str::to_owned).collect(), files.concat()))
}

/// Copies a golden machine to `ROOM`'s first `machines`, and boots each copy.
fn copies_that_boot(name: &str, kind: Kind, way: Way, machines: usize) {
    scenario(name, |lab| {
        let room = ROOM.get(..machines).unwrap_or_default();
        let kernel = lab.assets().kernel(Flavour::Stock)?;
        let base = lab.assets().our_initrd(&kernel, Profile::Disks)?;
        let golden = Golden::make(lab, kind)?;
        let ours = golden.path("bellwether");
        let built = released()?;
        run(&["strip", "-o", &ours, &built.to_string_lossy()])?;
        let (image, root) = (golden.path("golden.img"), golden.path("mounted"));
        let mounted = script("mounted.sh");
        // Before a command that reads the golden machine's files.
        let reading = ["sh", &mounted, &image, &root, &ours, "clone"];
        let (work, tools, initrd) =
            (golden.path("work"), golden.path("tools.img"), golden.path("clone.img"));
        let menus = golden.path("tftp");
        run(&[&ours, "clone", "tools", "-o", &tools, "--adapt", "grow,unique"])?;
        run(&["sh", "-c", &format!("cat '{}' '{tools}' >'{initrd}'", base.display())])?;
        let mut dhcp = lab.dhcp();
        for number in 0..machines {
            let (mac, ip) = (mac(number), 51 + number);
            dhcp = dhcp.option(&format!("dhcp-host={mac},10.77.0.{ip},copy{number}"));
        }
        let _dhcp = dhcp.serve()?;
        let hosts: Vec<String> = (0..machines).map(|n| format!("10.77.0.{}", 51 + n)).collect();
        let (hosts, count) = (hosts.join(","), machines.to_string());
        let through = |program| -> [&str; 9] {
            [&ours, "clone", program, "-I", &image, "-O", "/dev/sda", "-H", &hosts]
        };
        let (method, mut server) = match way {
            Way::Ka => {
                let words = ["prepare", &image, "--root", &root, "--out", &work];
                run(&[&reading[..], &words].concat())?;
                run(&["mkdir", "-p", &format!("{menus}/pxelinux.cfg")])?;
                let words = ["ka-d", "-n", &count, "-w", &work, "--root", &root, "-q"];
                let more = ["--pxelinux", &menus, "--finish", "3600"];
                ("ka", Some(lab.golden_node(&[&reading[..], &words, &more].concat())?))
            }
            Way::Dolly => {
                ("dolly", Some(lab.golden_node(&[&through("dolly")[..], &["-s", "-q"]].concat())?))
            }
            Way::DollyPlus => ("dollyplus", None),
        };
        let mut receivers = Vec::new();
        let mut disks: Vec<PathBuf> = Vec::new();
        for (number, (bus, device, mib)) in room.iter().enumerate() {
            let disk = empty_disk(lab, &format!("copy{number}.img"), *mib)?;
            let line = format!(
                "bw.clone={method} bw.disk={device} bw.clone.timeout=600 bw.clone.tries=1 ip=dhcp"
            );
            let machine = lab
                .machine()
                .kernel(&kernel.image, Path::new(&initrd), &line)
                .nic(Nic::virtio().mac(&mac(number)))
                .kept_disk(*bus, &disk)
                .qemu(&["-no-reboot"])
                .start()?;
            receivers.push(machine);
            disks.push(disk);
        }
        if way == Way::DollyPlus {
            // Its server leaves out whom it cannot reach.
            for machine in &receivers {
                machine.expect("waiting for a Dolly+ server", secs(300))?;
            }
            server = Some(lab.golden_node(&[&through("dollyS")[..], &["-q"]].concat())?);
        }
        for machine in &receivers {
            machine.expect("verified with the se", secs(1800))?;
        }
        for machine in receivers {
            machine.expect("rebooting", secs(3600))?;
            machine.wait_off(secs(120))?;
        }
        if way == Way::Ka {
            for number in 0..machines {
                let menu = format!("{menus}/pxelinux.cfg/01-{}", mac(number).replace(':', "-"));
                assert!(run(&["cat", &menu])?.contains("LOCALBOOT 0"), "{menu}");
            }
        }
        drop(server);
        let mut booted = Vec::new();
        for (number, (bus, ..)) in room.iter().enumerate() {
            let disk = disks.get(number).map_or(Path::new(""), PathBuf::as_path);
            booted.push(golden.machine(lab, number)?.kept_disk(*bus, disk).start()?);
        }
        for (number, (machine, (_, device, mib))) in booted.iter_mut().zip(room).enumerate() {
            machine.login(secs(900))?;
            let up = "for i in $(seq 50); do systemctl -q is-active multi-user.target && break; \
                      sleep 1; done; systemctl is-active multi-user.target ssh";
            assert_eq!(machine.run(up)?.trim(), "active\nactive");
            assert_eq!(machine.run("hostname")?.trim(), format!("copy{number}"));
            assert!(machine.run("findmnt -no SOURCE /")?.trim().starts_with(device));
            assert!(machine.run("swapon --show=NAME --noheadings")?.trim().starts_with(device));
            let last = kind.is_uefi() && way != Way::Ka;
            let (grown, fs) = if last { ("/var", "xfs") } else { ("/", "ext4") };
            assert_eq!(machine.run(&format!("findmnt -no FSTYPE {grown}"))?.trim(), fs);
            let size = machine.run(&format!("df -m --output=size {grown} | tail -1"))?;
            // On the DOS table the last one is swap, when it is not made anew.
            let grows = kind.is_uefi() || way == Way::Ka;
            let size: u64 = size.trim().parse().unwrap_or(0);
            assert!(!grows || size > mib - 1000, "{device}: {grown} has {size} MiB");
            machine.send_line("poweroff")?;
            machine.wait_off(secs(300))?;
        }
        let (mut ids, files) = check(&golden, Path::new(&image))?;
        for disk in &disks {
            let (its, its_files) = check(&golden, disk)?;
            assert_eq!(its_files, files, "{}", disk.display());
            ids.extend(its);
        }
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all, "identifiers that two machines have: {ids:?}");
        Ok(())
    });
}

#[test]
#[ignore = "a quarter of an hour: cargo xtask test --sweep"]
fn sweep_files_by_ka_make_machines_that_boot() {
    copies_that_boot("clone-ka-mbr", Kind::Mbr, Way::Ka, 3);
}

#[test]
#[ignore = "a quarter of an hour: cargo xtask test --sweep"]
fn sweep_files_by_ka_make_uefi_machines_that_boot() {
    copies_that_boot("clone-ka-efi", Kind::Efi, Way::Ka, 3);
}

#[test]
#[ignore = "ten minutes: cargo xtask test --sweep"]
fn sweep_files_by_ka_make_a_machine_that_extlinux_boots() {
    copies_that_boot("clone-ka-extlinux", Kind::Extlinux, Way::Ka, 1);
}

#[test]
#[ignore = "ten minutes: cargo xtask test --sweep"]
fn sweep_files_by_ka_make_a_machine_that_extlinux_boots_from_gpt() {
    copies_that_boot("clone-ka-extlinux-gpt", Kind::ExtlinuxGpt, Way::Ka, 1);
}

#[test]
#[ignore = "ten minutes: cargo xtask test --sweep"]
fn sweep_files_by_ka_make_a_machine_that_systemd_boot_boots() {
    copies_that_boot("clone-ka-systemd-boot", Kind::SystemdBoot, Way::Ka, 1);
}

#[test]
#[ignore = "a quarter of an hour: cargo xtask test --sweep"]
fn sweep_a_disk_by_dolly_makes_machines_that_boot() {
    copies_that_boot("clone-dolly-mbr", Kind::Mbr, Way::Dolly, 3);
}

#[test]
#[ignore = "a quarter of an hour: cargo xtask test --sweep"]
fn sweep_a_disk_by_dolly_makes_uefi_machines_that_boot() {
    copies_that_boot("clone-dolly-efi", Kind::Efi, Way::Dolly, 3);
}

#[test]
#[ignore = "a quarter of an hour: cargo xtask test --sweep"]
fn sweep_a_disk_by_dollyplus_makes_machines_that_boot() {
    copies_that_boot("clone-dollyplus-mbr", Kind::Mbr, Way::DollyPlus, 3);
}

#[test]
#[ignore = "a quarter of an hour: cargo xtask test --sweep"]
fn sweep_a_disk_by_dollyplus_makes_uefi_machines_that_boot() {
    copies_that_boot("clone-dollyplus-efi", Kind::Efi, Way::DollyPlus, 3);
}
