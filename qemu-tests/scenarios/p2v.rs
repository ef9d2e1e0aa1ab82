//! Machines that send their disks: to files over ssh, and to a conversion server.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use qemu_tests::assets::media::{run, sha256};
use qemu_tests::assets::{Flavour, Profile, bellwether};
use qemu_tests::machine::{Bus, MachineBuilder};
use qemu_tests::servers::Sshd;
use qemu_tests::{Error, Lab, Machine, Nic, Result, packages, scenario, secs, until};

/// OpenSSH as Debian has it, in the lab's network, and an image with a key for it.
struct Site<'lab> {
    lab: &'lab Lab,
    sshd: Sshd,
    kernel: PathBuf,
    initrd: PathBuf,
}

impl<'lab> Site<'lab> {
    /// With dbclient in the image.
    fn new(lab: &'lab Lab) -> Result<Self> {
        Self::with(lab, lab.sshd(None, "", "")?, "--ssh")
    }

    /// With that client in the image.
    fn with(lab: &'lab Lab, sshd: Sshd, client: &str) -> Result<Self> {
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let key = format!("{}:/etc/p2v.key", sshd.place.join("id").display());
        let options = ["--profile", "virt", client, "--include", &key];
        let initrd = lab.assets().our_initrd_of(&kernel, Profile::P2v, "p2v-key", &options)?;
        Ok(Self { lab, sshd, kernel: kernel.image, initrd })
    }

    /// A machine with this disk, which it could write to.
    fn machine(&self, disk: &Path, line: &str) -> Result<Machine> {
        self.machine_with(Bus::VirtioBlk, disk, line)
    }

    fn machine_with(&self, bus: Bus, disk: &Path, line: &str) -> Result<Machine> {
        let line = format!("{line} p2v.identity=file:///etc/p2v.key p2v.name=box");
        let machine = self.lab.machine().kernel(&self.kernel, &self.initrd, &line);
        let machine = machine.nic(Nic::virtio()).kept_disk(bus, disk);
        machine.qemu(&["-no-reboot"]).start()
    }
}

/// Debian's virt-v2v, unchanged, converts a machine that Debian was installed on: of this
/// computer's release or of another one, with a file as output or without any. Twenty minutes
/// without a hypervisor, half of them for the guest's new initramfs.
fn converts(name: &str, release: Option<&str>, volumes: bool, output: &str) {
    scenario(name, |lab| {
        packages::ensure_all(packages::FOR_CONVERSIONS)?;
        let _dhcp = lab.dhcp().serve()?;
        // libguestfs looks for the kernel of its computer, which may have none.
        let own = match release {
            Some(release) => lab.assets().kernel_of(release, Flavour::Cloud)?,
            None => lab.assets().kernel(Flavour::Stock)?,
        };
        let environment = format!(
            "LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg SUPERMIN_KERNEL={} \
             SUPERMIN_MODULES={}",
            own.image.display(),
            own.modules.display()
        );
        // OpenSSH's client compresses nothing: what is counted at the link is what was sent.
        let site = Site::with(lab, lab.sshd(release, &environment, "")?, "--openssh")?;
        let disk = installed(lab, volumes)?;
        let before = sha256(&disk)?;
        // Of ext4 what it says itself: its log is in use, and a hole of the file.
        let used = match volumes {
            true => fs::metadata(&disk).map_err(Error::at("look at", &disk))?.blocks() * 512,
            false => in_use(&disk, 4096 * 512)?,
        };
        let images = site.sshd.place.join("images");
        let more = match output {
            "local" => format!("p2v.os={} p2v.of=qcow2", images.display()),
            _ => String::new(),
        };
        let line = format!(
            "p2v.server=10.77.0.1 p2v.o={output} {more} bw.p2v.hostkey={}",
            site.sshd.print
        );
        let machine = site.machine_with(Bus::VirtioScsi, &disk, &line)?;
        machine.expect("converting; the logs are in", secs(180))?;
        let (ended, _) = machine.expect_any(&["converted;", "bellwether: FAILED"], secs(3600))?;
        assert_eq!(ended, 0, "{}", machine.transcript());
        let sent = lab.sent_by(0, 0)?;
        machine.wait_off(secs(60))?;
        assert_eq!(sha256(&disk)?, before);
        eprintln!("{name}: {sent} bytes at the link, {used} in use");
        assert!(sent <= used * 11 / 10, "{sent} bytes at the link, {used} in use");
        if output != "local" {
            return Ok(());
        }
        let image = images.join("box-sda");
        let flat = images.join("flat.img");
        let (from, to) = (image.to_string_lossy(), flat.to_string_lossy());
        run(&["qemu-img", "convert", "-O", "raw", &from, &to])?;
        // Without a screen GRUB stands still.
        let guest = lab.machine().kept_disk(Bus::VirtioBlk, &flat).qemu(&["-device", "VGA"]);
        let (guest, root) = match volumes {
            true => (guest.uefi()?, "INSTALLED root=/dev/mapper/box-root swap=/dev/dm-"),
            false => (guest, "INSTALLED root=/dev/vda2 swap=/dev/vda3"),
        };
        let guest = guest.start()?;
        guest.expect(root, secs(900))?;
        guest.wait_off(secs(60))
    });
}

/// A disk with an ext4 file system, a quarter full, of 160 MiB.
fn disk(lab: &Lab) -> Result<PathBuf> {
    let disk = lab.scratch("disks")?.join("physical.img");
    let _ = fs::remove_file(&disk);
    let image = lab.assets().small_ext4()?;
    fs::copy(&image, &disk).map_err(Error::at("copy", &image))?;
    Ok(disk)
}

/// Sends the disk by `ssh://`, first with another host key than the server's; the file at the server.
fn sent_over_ssh(site: &Site, disk: &Path) -> Result<PathBuf> {
    let before = sha256(disk)?;
    let images = site.sshd.place.join("images");
    let way = format!("bw.p2v=ssh://root@10.77.0.1{}", images.display());
    // Of another key than the server's nothing is sent.
    let wrong = format!("{way} bw.p2v.hostkey=SHA256:{}", "A".repeat(43));
    let machine = site.machine(disk, &wrong)?;
    machine.expect("asks for SHA256:AAAA", secs(120))?;
    machine.expect("nothing was sent", secs(20))?;
    drop(machine);
    let sent = fs::read_dir(&images).map_err(Error::at("list", &images))?.count();
    assert_eq!(sent, 0);
    let machine = site.machine(disk, &format!("{way} bw.p2v.hostkey={}", site.sshd.print))?;
    machine.expect("the host key that the line asks for", secs(120))?;
    let told = machine.expect("the other end has the same digest", secs(120))?;
    machine.expect("the disks are as they were", secs(20))?;
    machine.wait_off(secs(30))?;
    assert!(told.contains(&format!("sha256 {before}")), "{told}");
    let file = images.join("box-vda.img");
    assert_eq!((sha256(&file)?, sha256(disk)?), (before.clone(), before));
    Ok(file)
}

#[test]
fn a_disk_becomes_a_file_over_ssh_and_stays_as_it_was() {
    scenario("p2v-ssh", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let site = Site::new(lab)?;
        let disk = disk(lab)?;
        let file = sent_over_ssh(&site, &disk)?;
        let stored = fs::metadata(&file).unwrap().blocks() * 512;
        assert!(stored < fs::metadata(&disk).unwrap().len() * 3 / 4, "{stored} bytes in the file");
        run(&["fsck.ext4", "-fn", &file.to_string_lossy()]).map(drop)
    });
}

/// The cable is pulled until the server has given the connection up, and taken away what came.
#[test]
fn a_cut_link_to_an_ssh_server_is_made_again() {
    scenario("p2v-ssh-cut", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let patience = "ClientAliveInterval 5\nClientAliveCountMax 2\n";
        let site = Site::with(lab, lab.sshd(None, "", patience)?, "--ssh")?;
        let disk = long_disk(lab, 48)?;
        let before = sha256(&disk)?;
        let images = site.sshd.place.join("images");
        let files = || -> Result<usize> {
            Ok(fs::read_dir(&images).map_err(Error::at("list", &images))?.count())
        };
        let line = format!("bw.p2v=ssh://root@10.77.0.1{}", images.display());
        let machine = site.machine(&disk, &line)?;
        machine.expect("sending vda to", secs(120))?;
        machine.expect("sending:", secs(120))?;
        assert_eq!(files()?, 1);
        lab.port(0, 0, false)?;
        until("the server gives up", secs(120), || Ok(files()? == 0))?;
        lab.port(0, 0, true)?;
        machine.expect("the archive begins anew", secs(180))?;
        let told = machine.expect("the other end has the same digest", secs(300))?;
        machine.wait_off(secs(60))?;
        assert!(told.contains(&format!("sha256 {before}")), "{told}");
        let file = images.join("box-vda.img");
        assert_eq!((sha256(&file)?, sha256(&disk)?), (before.clone(), before));
        Ok(())
    });
}

/// OpenSSH's own client is in the image.
#[test]
fn openssh_s_client_carries_disks_too() {
    scenario("p2v-openssh", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let site = Site::with(lab, lab.sshd(None, "", "")?, "--openssh")?;
        sent_over_ssh(&site, &disk(lab)?).map(drop)
    });
}

/// A machine that sends this disk; its image needs no ssh client.
fn sender(lab: &Lab, disk: &Path, line: &str) -> Result<Machine> {
    sender_on(lab, Bus::VirtioBlk, disk, line)?.start()
}

/// The same with its disk at that bus, before it is switched on.
fn sender_on<'l>(lab: &'l Lab, bus: Bus, disk: &Path, line: &str) -> Result<MachineBuilder<'l>> {
    let kernel = lab.assets().kernel(Flavour::Cloud)?;
    let initrd = lab.assets().our_initrd(&kernel, Profile::P2v)?;
    let line = format!("{line} p2v.name=box");
    let machine = lab.machine().kernel(&kernel.image, &initrd, &line).nic(Nic::virtio());
    Ok(machine.kept_disk(bus, disk).qemu(&["-no-reboot"]))
}

/// A disk that takes a machine some seconds to send: so many MiB of what cannot be guessed.
fn long_disk(lab: &Lab, mib: u32) -> Result<PathBuf> {
    let disk = lab.scratch("disks")?.join("long.img");
    run(&[
        "dd",
        "if=/dev/urandom",
        &format!("of={}", disk.display()),
        "bs=1M",
        &format!("count={mib}"),
    ])?;
    Ok(disk)
}

/// The cable is pulled while the disk goes, and the server starts anew meanwhile.
#[test]
fn a_cut_link_to_an_nbd_server_is_made_again() {
    scenario("p2v-nbd", |lab| {
        packages::ensure_all(packages::FOR_P2V)?;
        let _dhcp = lab.dhcp().serve()?;
        let disk = long_disk(lab, 160)?;
        let before = sha256(&disk)?;
        let image = lab.scratch("images")?.join("box.qcow2");
        let file = image.to_string_lossy();
        run(&["qemu-img", "create", "-q", "-f", "qcow2", &file, "160M"])?;
        let words = ["qemu-nbd", "-t", "-f", "qcow2", "-b", "10.77.0.1", "-p", "10809", &file];
        let server = lab.golden_node(&words)?;
        let machine = sender(lab, &disk, "bw.p2v=nbd://10.77.0.1")?;
        machine.expect("filling the server's disk from vda", secs(120))?;
        machine.expect("sending:", secs(60))?;
        lab.port(0, 0, false)?;
        drop(server);
        let _server = lab.golden_node(&words)?;
        lab.port(0, 0, true)?;
        machine.expect("connecting anew", secs(120))?;
        let told = machine.expect("the other end has the same digest", secs(300))?;
        machine.wait_off(secs(60))?;
        assert!(told.contains(&format!("sha256 {before}")), "{told}");
        let flat = image.with_extension("raw");
        run(&["qemu-img", "convert", "-U", "-O", "raw", &file, &flat.to_string_lossy()])?;
        assert_eq!((sha256(&flat)?, sha256(&disk)?), (before.clone(), before));
        Ok(())
    });
}

/// The cable is pulled for a moment: what nc has at the end is the disk.
#[test]
fn nc_has_the_disk_after_a_cut_link() {
    scenario("p2v-tcp", |lab| {
        packages::ensure_all(packages::FOR_P2V)?;
        let _dhcp = lab.dhcp().serve()?;
        let disk = long_disk(lab, 160)?;
        let before = sha256(&disk)?;
        let image = lab.scratch("images")?.join("box.img");
        let _nc =
            lab.golden_node(&["sh", "-c", "nc -l 9000 > \"$0\"", &image.to_string_lossy()])?;
        let machine = sender(lab, &disk, "bw.p2v=tcp://10.77.0.1:9000")?;
        machine.expect("sending all", secs(120))?;
        machine.expect("sending:", secs(60))?;
        lab.port(0, 0, false)?;
        let mut before_that = 0;
        until("the file does not grow", secs(60), || {
            let now = fs::metadata(&image).map_or(0, |file| file.len());
            Ok(std::mem::replace(&mut before_that, now) == now && now > 0)
        })?;
        lab.port(0, 0, true)?;
        let told = machine.expect("NOT VERIFIED", secs(300))?;
        machine.wait_off(secs(60))?;
        assert!(told.contains(&format!("sha256 {before}")), "{told}");
        assert_eq!((sha256(&image)?, sha256(&disk)?), (before.clone(), before));
        Ok(())
    });
}

/// Writes files into the ext file system that begins at a byte of an image; `more` are commands of
/// debugfs(8) behind that.
fn plant(image: &Path, at: u64, files: &[(&str, &str)], more: &str) -> Result<()> {
    let place = image.with_extension("files");
    fs::create_dir_all(&place).map_err(Error::at("make", &place))?;
    let mut script = String::new();
    for (n, (path, text)) in files.iter().enumerate() {
        let file = place.join(n.to_string());
        fs::write(&file, text).map_err(Error::at("write", &file))?;
        let parents = path.match_indices('/').map(|(end, _)| &path[..end]);
        parents.for_each(|parent| script += &format!("mkdir {parent}\n"));
        script += &format!("rm {path}\nwrite {} {path}\n", file.display());
    }
    script += more;
    let commands = place.join("commands");
    fs::write(&commands, script).map_err(Error::at("write", &commands))?;
    let image = format!("{}?offset={at}", image.display());
    run(&["debugfs", "-w", "-f", &commands.to_string_lossy(), &image]).map(drop)
}

/// What debugfs(8) prints of the file system that begins at a byte of an image.
fn look(image: &Path, at: u64, command: &str) -> Result<String> {
    run(&["debugfs", "-R", command, &format!("{}?offset={at}", image.display())])
}

/// Bytes that the ext file system says are in use, which begins at a byte of an image.
fn in_use(image: &Path, at: u64) -> Result<u64> {
    let said = look(image, at, "show_super_stats -h")?;
    let number = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|number| number.trim().parse::<u64>().ok())
    };
    let used = number("Block count:").zip(number("Free blocks:")).map(|(all, free)| all - free);
    let bytes = used.zip(number("Block size:")).map(|(blocks, size)| blocks * size);
    bytes.ok_or_else(|| Error::Input(format!("{}: {said}", image.display())))
}

/// What binds a network card's name to an address that no other machine has.
const LINK: &str = "[Match]\nMACAddress=52:54:00:aa:bb:cc\n[Link]\nName=lan0\n";

/// The copy is changed, the log of its file system replayed, and the disk is as it was.
#[test]
fn a_copy_is_changed_for_a_virtual_machine_and_the_disk_is_not() {
    scenario("p2v-edit", |lab| {
        packages::ensure_all(packages::FOR_P2V)?;
        let _dhcp = lab.dhcp().serve()?;
        let disk = disk(lab)?;
        let fstab = "/dev/sda / ext4 defaults 0 1\n/dev/sdb1 /data ext4 defaults 0 2\n";
        let files = [("etc/fstab", fstab), ("etc/systemd/network/10-lan.link", LINK)];
        // A transaction that was written to the log and nowhere else.
        let log =
            format!("jo\njw -b 7000 {}\njc\n", disk.with_extension("files").join("0").display());
        plant(&disk, 0, &files, &log)?;
        assert!(look(&disk, 0, "show_super_stats -h")?.contains("needs_recovery"));
        let before = sha256(&disk)?;
        let image = lab.scratch("images")?.join("box.img");
        let _nc =
            lab.golden_node(&["sh", "-c", "nc -l 9000 > \"$0\"", &image.to_string_lossy()])?;
        let machine = sender(lab, &disk, "bw.p2v=tcp://10.77.0.1:9000 bw.p2v.edit")?;
        machine.expect("of changes in memory, of", secs(120))?;
        let told = machine.expect("NOT VERIFIED", secs(120))?;
        machine.expect("the disks are as they were", secs(20))?;
        machine.wait_off(secs(30))?;
        let screen = machine.transcript();
        assert!(screen.contains("in the copy: vda: etc/fstab: /dev/sda becomes UUID="), "{screen}");
        assert!(screen.contains("/dev/sdb1 stays"), "{screen}");
        assert!(screen.contains("holds for any network card"), "{screen}");
        assert_eq!(sha256(&disk)?, before);
        assert!(told.contains(&format!("sha256 {}", sha256(&image)?)), "{told}");
        run(&["fsck.ext4", "-fn", &image.to_string_lossy()])?;
        assert!(!look(&image, 0, "show_super_stats -h")?.contains("needs_recovery"));
        let uuid = run(&["blkid", "-p", "-s", "UUID", "-o", "value", &image.to_string_lossy()])?;
        let text = look(&image, 0, "cat etc/fstab")?;
        assert!(text.contains(&format!("UUID={} / ext4 defaults 0 1\n", uuid.trim())), "{text}");
        assert!(text.contains("\n/dev/sdb1 /data"), "{text}");
        let text = look(&image, 0, "cat etc/systemd/network/10-lan.link")?;
        assert!(text.contains("[Match]\nPath=*\n[Link]\nName=lan0\n"), "{text}");
        Ok(())
    });
}

/// A log that is larger than the memory for changes: nothing is sent, and that is said.
#[test]
fn changes_that_do_not_fit_into_memory_end_the_copy() {
    scenario("p2v-edit-memory", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let disk = lab.scratch("disks")?.join("physical.img");
        let file = disk.to_string_lossy();
        run(&["truncate", "-s", "1G", &file])?;
        run(&["mkfs.ext4", "-q", "-b", "4096", "-J", "size=256", &file])?;
        let noise = long_disk(lab, 180)?;
        let log = format!("jo\njw -b 100000-146000 {}\njc\n", noise.display());
        plant(&disk, 0, &[("etc/fstab", "UUID=1 / ext4 defaults 0 1\n")], &log)?;
        assert!(look(&disk, 0, "show_super_stats -h")?.contains("needs_recovery"));
        let before = sha256(&disk)?;
        let line = "bw.p2v=tcp://10.77.0.1:9000 bw.p2v.edit p2v.fail=poweroff";
        let machine = sender_on(lab, Bus::VirtioBlk, &disk, line)?.memory(384).start()?;
        machine.expect("need more memory than this machine has for them", secs(180))?;
        machine.wait_off(secs(60))?;
        assert!(!machine.transcript().contains("sending all"));
        assert_eq!(sha256(&disk)?, before);
        Ok(())
    });
}

/// Debian's own boot loader and init come up in a virtual machine, from a copy of a disk that has
/// `/dev/sda2` in its fstab and a card's address in a `.link`.
#[test]
#[ignore = "minutes"]
fn sweep_a_changed_copy_comes_up_on_virtio() {
    scenario("p2v-edit-boots", |lab| {
        packages::ensure_all(packages::FOR_P2V)?;
        let _dhcp = lab.dhcp().serve()?;
        let disk = installed(lab, false)?;
        let unit = "[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\nStandardOutput=tty\n\
                    TTYPath=/dev/console\nExecStart=/bin/sh -c 'echo CHANGED root=$(findmnt -no SOURCE /) \
                    swap=$(tail -n 1 /proc/swaps | cut -d\" \" -f1) cards=$(ls /sys/class/net)'\n\
                    ExecStart=/bin/systemctl --no-block poweroff\n";
        let files =
            [("etc/systemd/network/10-lan.link", LINK), ("etc/systemd/system/told.service", unit)];
        plant(&disk, 4096 * 512, &files, "")?;
        let before = sha256(&disk)?;
        let image = lab.scratch("images")?.join("box.qcow2");
        let file = image.to_string_lossy();
        run(&["qemu-img", "create", "-q", "-f", "qcow2", &file, "1200M"])?;
        let words = ["qemu-nbd", "-t", "-f", "qcow2", "-b", "10.77.0.1", "-p", "10809", &file];
        let server = lab.golden_node(&words)?;
        let line = "bw.p2v=nbd://10.77.0.1 bw.p2v.edit";
        let machine = sender_on(lab, Bus::VirtioScsi, &disk, line)?.start()?;
        let told = machine.expect("the other end has the same digest", secs(600))?;
        machine.wait_off(secs(60))?;
        drop(server);
        assert_eq!(sha256(&disk)?, before);
        let flat = image.with_extension("raw");
        run(&["qemu-img", "convert", "-U", "-O", "raw", &file, &flat.to_string_lossy()])?;
        assert!(told.contains(&format!("sha256 {}", sha256(&flat)?)), "{told}");
        // Without a screen GRUB stands still.
        let guest = lab.machine().kept_disk(Bus::VirtioBlk, &flat).qemu(&["-device", "VGA"]);
        let guest = guest.nic(Nic::virtio()).start()?;
        let told = guest.expect("CHANGED root=/dev/vda2 swap=/dev/vda3", secs(900))?;
        guest.wait_off(secs(60))?;
        assert!(told.contains("lan0"), "{told}{}", guest.transcript());
        Ok(())
    });
}

/// virt-v2v has no key for it: that is said before there is a connection.
#[test]
fn a_machine_with_nothing_but_luks_is_told_so() {
    scenario("p2v-luks", |lab| {
        packages::ensure_all(packages::FOR_DISKS)?;
        let _dhcp = lab.dhcp().serve()?;
        let disk = lab.scratch("disks")?.join("luks.img");
        let file = disk.to_string_lossy();
        run(&["truncate", "-s", "64M", &file])?;
        let format =
            ["cryptsetup", "luksFormat", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations"];
        run(&[&format[..], &["1000", &file, "/proc/self/exe", "-l", "64"]].concat())?;
        let before = sha256(&disk)?;
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let initrd = lab.assets().our_initrd(&kernel, Profile::P2v)?;
        let line = "p2v.server=10.77.0.1 p2v.password=x p2v.fail=poweroff";
        let machine = lab.machine().kernel(&kernel.image, &initrd, line).nic(Nic::virtio());
        let machine = machine.kept_disk(Bus::VirtioBlk, &disk).qemu(&["-no-reboot"]).start()?;
        machine.expect("is encrypted (LUKS), and virt-v2v has no key for it", secs(120))?;
        machine.wait_off(secs(60))?;
        assert!(machine.transcript().contains("bw.p2v=ssh://USER@HOST/PATH sends the disks"));
        assert_eq!(sha256(&disk)?, before);
        Ok(())
    });
}

/// A server of ours makes a guest of the disk, which its description starts.
#[test]
fn a_disk_becomes_a_guest_of_a_server_of_ours() {
    scenario("p2v-own", |lab| {
        packages::ensure_all(packages::FOR_P2V)?;
        let _dhcp = lab.dhcp().serve()?;
        let disk = disk(lab)?;
        let before = sha256(&disk)?;
        let images = lab.scratch("images")?;
        let command = bellwether()?.to_string_lossy().into_owned();
        let (place, key) = (images.to_string_lossy(), "sixteen letters.");
        let words = [&*command, "clone", "p2v-server", "-f", "raw", "--key", key, &place];
        let _server = lab.golden_node(&words)?;
        let line = "bw.p2v=p2v://10.77.0.1 bw.p2v.key=\"sixteen letters.\"";
        let machine = sender(lab, &disk, line)?;
        let told = machine.expect("the other end has the same digest", secs(120))?;
        machine.expect("the server has a guest: box is there", secs(20))?;
        machine.wait_off(secs(30))?;
        let told_of = |line: &&str| line.contains("bellwether:") && line.contains(key);
        assert_eq!(machine.transcript().lines().find(told_of), None, "the key is shown");
        let image = images.join("box-vda.raw");
        assert!(told.contains(&format!("sha256 {}", sha256(&image)?)), "{told}");
        assert_eq!((sha256(&disk)?, sha256(&image)?), (before.clone(), before));
        let xml = images.join("box.xml");
        run(&["virt-xml-validate", &xml.to_string_lossy(), "domain"])?;
        let told = lab.run(&["sh", "-c", LIBVIRT, &started(lab, &xml)?.0, "running, Ctrl-C"])?;
        assert!(told.contains("guest running"), "{told}");
        run(&["fsck.ext4", "-fn", &image.to_string_lossy()]).map(drop)
    });
}

/// A machine with UEFI, LVM and xfs becomes a guest of libvirt that comes up.
#[test]
#[ignore = "minutes"]
fn sweep_a_guest_of_a_server_of_ours_comes_up() {
    scenario("p2v-own-volumes", |lab| {
        packages::ensure_all(packages::FOR_P2V)?;
        packages::ensure_all(packages::FOR_CONVERSIONS)?;
        let _dhcp = lab.dhcp().serve()?;
        let disk = installed(lab, true)?;
        let before = sha256(&disk)?;
        let images = lab.scratch("images")?;
        let command = bellwether()?.to_string_lossy().into_owned();
        let (place, key) = (images.to_string_lossy(), "sixteen-letters.");
        let words = [&*command, "clone", "p2v-server", "--key", key, &place];
        let _server = lab.golden_node(&words)?;
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let initrd = lab.assets().our_initrd(&kernel, Profile::P2v)?;
        let line = format!("bw.p2v=p2v://10.77.0.1 bw.p2v.key={key} p2v.name=box");
        let machine = lab.machine().kernel(&kernel.image, &initrd, &line).nic(Nic::virtio());
        let machine = machine.kept_disk(Bus::VirtioBlk, &disk).qemu(&["-no-reboot"]).uefi()?;
        let machine = machine.start()?;
        let told = machine.expect("the other end has the same digest", secs(900))?;
        machine.expect("the server has a guest: box is there", secs(20))?;
        machine.wait_off(secs(30))?;
        assert!(told.contains(&format!("sha256 {before}")), "{told}");
        assert_eq!(sha256(&disk)?, before);
        let (own, serial) = started(lab, &images.join("box.xml"))?;
        let told = lab.run(&["sh", "-c", LIBVIRT, &own, "INSTALLED", &serial])?;
        let screen = fs::read_to_string(&serial).unwrap_or_default();
        assert!(
            screen.contains("INSTALLED root=/dev/mapper/box-root swap=/dev/dm-"),
            "{told}{screen}"
        );
        Ok(())
    });
}

/// Starts the guest of a description, `$0`, until a file or libvirt itself says `$1`, ten minutes
/// at most. libvirt's daemon is not there, and with it neither the daemon of its logs nor the user
/// that Debian's package makes; nor are groups of processes needed.
const LIBVIRT: &str = r#"set -eu
cd "$(dirname "$0")"
exec unshare --mount --pid --fork --kill-child --mount-proc sh -euc '
mkdir -p root/etc
for list in passwd group; do cp /etc/$list $list; mount --bind $list /etc/$list; done
id libvirt-qemu >/dev/null 2>&1 || {
    echo "libvirt-qemu:x:64055:" >> group
    echo "libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin" >> passwd
}
while umount -Rl /sys 2>/dev/null; do :; done
mount -t sysfs sysfs /sys
printf "%s\n" "stdio_handler = \"file\"" "security_driver = \"none\"" "user = \"root\"" \
    "group = \"root\"" "namespaces = []" > root/etc/qemu.conf
virt-qemu-run -v -r "$PWD/root" "$0" > told 2>&1 &
n=0
until grep -q "$1" told "${2:-told}" 2>/dev/null; do
    n=$((n + 1)); kill -0 $! 2>/dev/null && [ $n -lt 6000 ] || break
    sleep 0.1
done
kill -INT $! || true
wait $! || true
cat told
find root -name "*.log" -exec cat {} +' "$0" "$@" 2>&1
"#;

/// A description for [`LIBVIRT`] and its guest's screen: without networks, which a daemon makes,
/// with QEMU's own processor, since others may not be there, and with its serial line in a file.
fn started(lab: &Lab, xml: &Path) -> Result<(String, String)> {
    let text = fs::read_to_string(xml).map_err(Error::at("read", xml))?;
    let (before, rest) = text.split_once("    <interface").unwrap_or((&text, ""));
    let after = rest.rsplit_once("</interface>\n").map_or(rest, |(_, after)| after);
    let place = lab.scratch("libvirt")?;
    let (own, serial) = (place.join("box.xml"), place.join("serial"));
    let file = format!(
        "type=\"file\"><source path=\"{}\"/><target port=\"0\"/></serial>",
        serial.display()
    );
    let text = format!("{before}{after}").replace("type=\"kvm\"", "type=\"qemu\"");
    let text = text.replace("  <cpu mode=\"host-passthrough\"/>\n", "");
    let text = text.replace("serial type=\"pty\"/>", &format!("serial {file}"));
    let text = text.replace("    <console type=\"pty\"/>\n", "");
    fs::write(&own, text).map_err(Error::at("write", &own))?;
    Ok((own.to_string_lossy().into_owned(), serial.to_string_lossy().into_owned()))
}

/// A copy of the disk of a machine that Debian was installed on, with its holes: a log of xfs is in
/// use and all zeros.
fn installed(lab: &Lab, volumes: bool) -> Result<PathBuf> {
    let disk = lab.scratch("disks")?.join("physical.img");
    let assets = lab.assets();
    let from = if volumes { assets.installed_volumes() } else { assets.installed_disk() }?;
    run(&["cp", "--sparse=auto", &from.to_string_lossy(), &disk.to_string_lossy()])?;
    Ok(disk)
}

#[test]
fn a_conversion_server_reads_the_disk_through_the_tunnel() {
    scenario("p2v-v2v", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let site = Site::new(lab)?;
        let disk = disk(lab)?;
        let before = sha256(&disk)?;
        let copy = site.sshd.stand_in()?;
        let line = format!("p2v.server=10.77.0.1 p2v.o=null bw.p2v.hostkey={}", site.sshd.print);
        let machine = site.machine(&disk, &line)?;
        machine.expect("the server has virt-v2v 2.2.0", secs(120))?;
        machine.expect("the copy is made", secs(120))?;
        machine.expect("converted;", secs(20))?;
        machine.wait_off(secs(30))?;
        assert_eq!(sha256(&disk)?, before);
        run(&["fsck.ext4", "-fn", &copy.to_string_lossy()]).map(drop)
    });
}

/// A line that names no server: the console asks, what does not work is said and asked again, and
/// nothing is sent before Enter.
#[test]
fn a_machine_without_words_asks_at_its_console() {
    scenario("p2v-dialog", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let site = Site::new(lab)?;
        let disk = disk(lab)?;
        let before = sha256(&disk)?;
        let copy = site.sshd.stand_in()?;
        let mut machine = site.machine(&disk, "bw.p2v p2v.o=null")?;
        for (to, disks, why) in [
            ("root@10.77.0.1", "vdz", "vdz: there is no such disk"),
            ("ftp://10.77.0.1", "", "is none of v2v://"),
            ("root@10.77.0.1:9", "", "no ssh server listens at that port"),
        ] {
            machine.expect("Where to?", secs(120))?;
            machine.send_line(to)?;
            machine.expect("Name of the guest", secs(20))?;
            machine.send_line("")?;
            machine.expect("Disks, with commas", secs(20))?;
            machine.send_line(disks)?;
            machine.expect(why, secs(60))?;
        }
        machine.expect("vda: 32 MiB", secs(20))?;
        machine.expect("Where to?", secs(20))?;
        // What a backspace takes away is not there.
        machine.send(b"rootx\x7f@10.77.0.1\r")?;
        machine.expect("Name of the guest", secs(20))?;
        machine.send_line("web01")?;
        machine.expect("Disks, with commas", secs(20))?;
        machine.send_line("vda")?;
        machine.expect("the server has virt-v2v 2.2.0", secs(60))?;
        machine.expect("Enter sends vda to root@10.77.0.1", secs(20))?;
        assert!(!copy.exists());
        machine.send(b"\r")?;
        machine.expect("the copy is made", secs(120))?;
        machine.expect("converted;", secs(20))?;
        machine.wait_off(secs(30))?;
        assert_eq!(sha256(&disk)?, before);
        run(&["fsck.ext4", "-fn", &copy.to_string_lossy()]).map(drop)
    });
}

/// Debian 12's virt-v2v, unchanged, converts a machine with ext4 and swap; it comes up on virtio.
#[test]
#[ignore = "minutes"]
fn sweep_virt_v2v_converts_a_machine() {
    converts("p2v-conversion", None, false, "local");
}

/// The same with UEFI, LVM and xfs, without an output.
#[test]
#[ignore = "minutes"]
fn sweep_virt_v2v_converts_volumes() {
    converts("p2v-conversion-volumes", None, true, "null");
}

/// Debian 13's virt-v2v converts a machine with UEFI, LVM and xfs, which comes up on virtio.
#[test]
#[ignore = "minutes"]
fn sweep_virt_v2v_of_debian_13_converts_volumes() {
    converts("p2v-conversion-trixie-volumes", Some("trixie"), true, "local");
}

/// The same with ext4 and swap, without an output.
#[test]
#[ignore = "minutes"]
fn sweep_virt_v2v_of_debian_13_converts_a_machine() {
    converts("p2v-conversion-trixie", Some("trixie"), false, "null");
}
