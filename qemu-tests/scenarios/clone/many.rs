//! A disk with file systems of every kind to three machines with disks of other kinds and sizes:
//! one is switched off in the middle and comes back, one comes after half of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use qemu_tests::assets::media::run;
use qemu_tests::assets::{Flavour, Profile, bellwether};
use qemu_tests::machine::{Bus, Machine};
use qemu_tests::{Error, Lab, Nic, Result, packages, scenario, secs};

use super::golden::{Golden, Kind, script};
use super::{empty_disk, golden};

/// Megabits a second from the sender: a copy takes long enough to be broken off.
const RATE: &str = "40mbit";

/// What the sender says, in a file.
pub struct Told(PathBuf);

impl Told {
    pub const fn at(path: PathBuf) -> Told {
        Told(path)
    }

    pub fn path(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }

    pub fn waits_for(&self, wanted: &str, limit: Duration) -> Result<String> {
        let until = Instant::now() + limit;
        loop {
            let said = std::fs::read_to_string(&self.0).unwrap_or_default();
            if said.contains(wanted) {
                return Ok(said);
            }
            if Instant::now() > until {
                return Err(Error::Input(format!("the sender never said '{wanted}': {said}")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The machines of a room.
struct Room<'l> {
    lab: &'l Lab,
    initrd: String,
    kernel: PathBuf,
    disks: Vec<PathBuf>,
}

const BUSES: [(Bus, &str); 3] =
    [(Bus::VirtioBlk, "/dev/vda"), (Bus::Ahci, "/dev/sda"), (Bus::Nvme, "/dev/nvme0n1")];

impl Room<'_> {
    fn start(&self, number: usize, more: &str) -> Result<Machine> {
        let (bus, device) = BUSES.get(number).copied().unwrap_or((Bus::VirtioBlk, ""));
        let disk = self.disks.get(number).map_or(Path::new(""), PathBuf::as_path);
        // One by the name of its role, and by its only disk.
        let method = if number == 1 { "=target" } else { "" };
        let line = format!(
            "bw.clone{method} bw.disk={device} bw.clone.timeout=300 bw.clone.then=poweroff ip=dhcp \
             {more}"
        );
        let machine = self.lab.machine();
        machine
            .kernel(&self.kernel, Path::new(&self.initrd), &line)
            .nic(Nic::virtio().mac(&golden::mac(number)))
            .kept_disk(bus, disk)
            .qemu(&["-no-reboot"])
            .start()
    }
}

/// Copies this disk to three machines, whose disks have so many MiB, and compares all of it; the
/// first of them gives what is more to its last partition.
fn copies(lab: &Lab, golden: &str, [larger, smaller, other]: [u64; 3]) -> Result<Vec<PathBuf>> {
    packages::ensure_all(packages::FOR_DISKS)?;
    packages::ensure_all(packages::FOR_TABLES)?;
    let kernel = lab.assets().kernel(Flavour::Stock)?;
    let base = lab.assets().our_initrd(&kernel, Profile::Disks)?;
    let place = lab.scratch("room")?;
    let path = |name: &str| place.join(name).to_string_lossy().into_owned();
    let (ours, tools, initrd) = (path("bellwether"), path("tools.img"), path("clone.img"));
    run(&["strip", "-o", &ours, &bellwether()?.to_string_lossy()])?;
    run(&[&ours, "clone", "tools", "-o", &tools, "--adapt", "grow"])?;
    run(&["sh", "-c", &format!("cat '{}' '{tools}' >'{initrd}'", base.display())])?;
    let disks: Vec<PathBuf> = [larger, smaller, other]
        .iter()
        .enumerate()
        .map(|(number, mib)| {
            let name = format!("copy{number}.img");
            // A run that was ended has left its own.
            let _ = std::fs::remove_file(lab.scratch("disks")?.join(&name));
            empty_disk(lab, &name, *mib)
        })
        .collect::<Result<_>>()?;
    let _dhcp = lab.dhcp().serve()?;
    lab.run(&[
        "tc", "qdisc", "add", "dev", "lan", "root", "tbf", "rate", RATE, "burst", "64kb",
        "latency", "100ms",
    ])?;
    let sender = Told::at(place.join("sender.log"));
    let log = sender.path();
    let command = format!("exec '{ours}' clone source '{golden}' -n 2 --linger 900 >'{log}' 2>&1");
    let _sender = lab.golden_node(&["sh", "-c", &command])?;
    let base = base.to_string_lossy().into_owned();
    let room = |initrd: &str| Room {
        lab,
        initrd: initrd.to_owned(),
        kernel: kernel.image.clone(),
        disks: disks.clone(),
    };
    let (adapts, plain) = (room(&initrd), room(&base));
    let first = adapts.start(0, "")?;
    let second = plain.start(1, "")?;
    second.expect("OVERWRITES /dev/sda", secs(240))?;
    // A source is told who waits: hardware address, disk and its size.
    let announced = format!("{} sda ", golden::mac(1));
    sender.waits_for(&announced, secs(60))?;
    // An empty disk has the chunks of zeros.
    let (zeros, _) = had(&second.expect(" chunks\n", secs(240))?);
    let begun = percent(&second.expect(" %), ", secs(240))?);
    let half = begun.midpoint(100);
    while percent(&second.expect(" %), ", secs(240))?) < half {}
    // The plug is pulled.
    drop(second);
    while percent(&first.expect(" %), ", secs(240))?) < half {}
    let third = plain.start(2, "")?;
    third.expect("OVERWRITES /dev/nvme0n1", secs(240))?;
    let second = plain.start(1, "")?;
    second.expect("/dev/sda holds an interrupted copy", secs(240))?;
    let told = second.expect(" chunks\n", secs(240))?;
    let (had, all) = had(&told);
    // Each 64 chunks are written out.
    let kept = if all - zeros > 200 { zeros + 64 } else { zeros };
    assert!(kept <= had && had < all, "{zeros}: {told}");
    for machine in [&first, &second, &third] {
        machine.expect("copy complete", secs(600))?;
        machine.expect("powering off", secs(300))?;
    }
    for machine in [&first, &second, &third] {
        assert!(machine.transcript().contains("verified with the sender"));
    }
    assert!(first.transcript().contains("takes the rest of the disk"), "{}", first.transcript());
    for machine in [first, second, third] {
        machine.wait_off(secs(60))?;
    }
    let said = sender.waits_for("  result\n", secs(60))?;
    let (_, table) = said.rsplit_once("  result\n").unwrap_or_default();
    let verified = table.lines().filter(|line| line.ends_with("  verified"));
    assert_eq!(verified.count(), 3, "{said}");
    for disk in &disks {
        let dir = path("compared");
        print!("{}", run(&["sh", &script("same.sh"), golden, &disk.to_string_lossy(), &dir])?);
    }
    Ok(disks)
}

/// The last number before " %".
fn percent(text: &str) -> u32 {
    let words = text.rsplit_once(" %").and_then(|(before, _)| before.rsplit_once('('));
    words.and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

/// "the disk has N of M chunks".
fn had(text: &str) -> (u32, u32) {
    let part = text.rsplit_once("the disk has ").map_or("", |(_, behind)| behind);
    let mut words = part.split(' ').filter_map(|word| word.parse().ok());
    (words.next().unwrap_or(0), words.next().unwrap_or(0))
}

fn many(name: &str, kind: &str, sizes: [u64; 3]) {
    scenario(name, |lab| {
        let disk = lab.scratch("golden")?.join("golden.img").to_string_lossy().into_owned();
        run(&["sh", &script("many.sh"), kind, &disk])?;
        copies(lab, &disk, sizes).map(drop)
    });
}

#[test]
#[ignore = "two minutes: cargo xtask test --sweep"]
fn sweep_every_file_system_to_disks_of_other_kinds_and_sizes() {
    many("clone-many", "gpt", [900, 600, 700]);
}

#[test]
#[ignore = "as above for Windows: cargo xtask test --sweep"]
fn sweep_a_dos_table_with_ntfs_to_disks_of_other_kinds_and_sizes() {
    many("clone-many-ntfs", "ntfs", [500, 220, 300]);
}

/// And each of the three is a Debian that boots.
#[test]
#[ignore = "ten minutes: cargo xtask test --sweep"]
fn sweep_debian_with_every_file_system_boots_from_disks_of_other_kinds() {
    scenario("clone-many-debian", |lab| {
        let golden = Golden::make(lab, Kind::Everything)?;
        let disks = copies(lab, &golden.path("golden.img"), [1800, 1200, 1300])?;
        for (number, ((bus, device), disk)) in BUSES.iter().zip(&disks).enumerate() {
            let mut machine = golden.machine(lab, number)?.kept_disk(*bus, disk).start()?;
            machine.login(secs(900))?;
            assert!(machine.run("findmnt -no SOURCE /")?.trim().starts_with(device));
            let size = machine.run("df -m --output=size /var | tail -1")?;
            let size: u64 = size.trim().parse().unwrap_or(0);
            assert_eq!(size > 800, number == 0, "{device}: /var has {size} MiB");
            machine.send_line("poweroff")?;
            machine.wait_off(secs(300))?;
        }
        Ok(())
    });
}
