//! Machines that send their disks: to files over ssh, and to a conversion server.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use qemu_tests::assets::media::{run, sha256};
use qemu_tests::assets::{Flavour, Profile, bellwether};
use qemu_tests::machine::Bus;
use qemu_tests::{Error, Lab, Machine, Nic, Result, packages, scenario, secs, until};

/// OpenSSH as Debian has it, in the lab's network, and an image with a key for it.
struct Site<'lab> {
    lab: &'lab Lab,
    _sshd: Box<dyn std::any::Any>,
    place: PathBuf,
    print: String,
    kernel: PathBuf,
    initrd: PathBuf,
}

impl<'lab> Site<'lab> {
    /// With these variables (`NAME=VALUE …`) for what sshd starts.
    fn new(lab: &'lab Lab, environment: &str) -> Result<Self> {
        Self::with_client(lab, environment, "--ssh")
    }

    fn with_client(lab: &'lab Lab, environment: &str, client: &str) -> Result<Self> {
        packages::ensure_all(packages::FOR_P2V)?;
        let place = lab.scratch("p2v")?;
        let file = |name: &str| place.join(name).to_string_lossy().into_owned();
        for name in ["host", "id"] {
            let _ = fs::remove_file(place.join(name));
            run(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &file(name)])?;
        }
        let config = format!(
            "Port 22\nHostKey {0}/host\nPidFile none\nUsePAM no\nPermitRootLogin yes\nStrictModes no\n\
             AuthorizedKeysFile {0}/id.pub\nSetEnv PATH={0}/bin:/usr/bin:/bin {environment}\n",
            place.display()
        );
        fs::write(place.join("config"), config).map_err(Error::at("write", &place))?;
        for made in [place.join("bin"), place.join("images")] {
            fs::create_dir_all(&made).map_err(Error::at("make", &made))?;
        }
        // The lab's /run is its own. Without the other one supermin makes no appliance of a kernel
        // that is elsewhere.
        let start = "mkdir -p /run/sshd /lib/modules && exec /usr/sbin/sshd -D -e -f \"$0\"";
        let sshd = lab.golden_node(&["sh", "-c", start, &file("config")])?;
        let shown = run(&["ssh-keygen", "-lf", &file("host.pub")])?;
        let print = shown.split(' ').nth(1).unwrap_or_default().to_owned();
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let key = format!("{}:/etc/p2v.key", file("id"));
        let options = ["--profile", "virt", client, "--include", &key];
        let initrd = lab.assets().our_initrd_of(&kernel, Profile::P2v, "p2v-key", &options)?;
        Ok(Self { lab, _sshd: Box::new(sshd), place, print, kernel: kernel.image, initrd })
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
    let images = site.place.join("images");
    let way = format!("bw.p2v=ssh://root@10.77.0.1{}", images.display());
    // Of another key than the server's nothing is sent.
    let wrong = format!("{way} bw.p2v.hostkey=SHA256:{}", "A".repeat(43));
    let machine = site.machine(disk, &wrong)?;
    machine.expect("asks for SHA256:AAAA", secs(120))?;
    machine.expect("nothing was sent", secs(20))?;
    drop(machine);
    let sent = fs::read_dir(&images).map_err(Error::at("list", &images))?.count();
    assert_eq!(sent, 0);
    let machine = site.machine(disk, &format!("{way} bw.p2v.hostkey={}", site.print))?;
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
        let site = Site::new(lab, "")?;
        let disk = disk(lab)?;
        let file = sent_over_ssh(&site, &disk)?;
        let stored = fs::metadata(&file).unwrap().blocks() * 512;
        assert!(stored < fs::metadata(&disk).unwrap().len() * 3 / 4, "{stored} bytes in the file");
        run(&["fsck.ext4", "-fn", &file.to_string_lossy()]).map(drop)
    });
}

/// The same with OpenSSH's own client in the image.
#[test]
#[ignore = "not seen to pass to its end yet"]
fn sweep_openssh_s_client_carries_disks_too() {
    scenario("p2v-openssh", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let site = Site::with_client(lab, "", "--openssh")?;
        sent_over_ssh(&site, &disk(lab)?).map(drop)
    });
}

/// A machine that sends this disk; its image needs no ssh client.
fn sender(lab: &Lab, disk: &Path, line: &str) -> Result<Machine> {
    let kernel = lab.assets().kernel(Flavour::Cloud)?;
    let initrd = lab.assets().our_initrd(&kernel, Profile::P2v)?;
    let line = format!("{line} p2v.name=box");
    let machine = lab.machine().kernel(&kernel.image, &initrd, &line).nic(Nic::virtio());
    machine.kept_disk(Bus::VirtioBlk, disk).qemu(&["-no-reboot"]).start()
}

/// A disk that takes a machine some seconds to send: 160 MiB of what cannot be guessed.
fn long_disk(lab: &Lab) -> Result<PathBuf> {
    let disk = lab.scratch("disks")?.join("long.img");
    run(&["dd", "if=/dev/urandom", &format!("of={}", disk.display()), "bs=1M", "count=160"])?;
    Ok(disk)
}

/// The cable is pulled while the disk goes, and the server starts anew meanwhile.
#[test]
fn a_cut_link_to_an_nbd_server_is_made_again() {
    scenario("p2v-nbd", |lab| {
        packages::ensure_all(packages::FOR_P2V)?;
        let _dhcp = lab.dhcp().serve()?;
        let disk = long_disk(lab)?;
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
#[ignore = "its wait was changed after its last run"]
fn sweep_nc_has_the_disk_after_a_cut_link() {
    scenario("p2v-tcp", |lab| {
        packages::ensure_all(packages::FOR_P2V)?;
        let _dhcp = lab.dhcp().serve()?;
        let disk = long_disk(lab)?;
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
#[ignore = "libvirt's start of the guest was not seen to pass yet"]
fn sweep_a_disk_becomes_a_guest_of_a_server_of_ours() {
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
        starts(lab, &xml)?;
        run(&["fsck.ext4", "-fn", &image.to_string_lossy()]).map(drop)
    });
}

/// libvirt starts a guest by its description: without its daemon, and so without its networks,
/// and with QEMU's own processor, since others may not be there.
fn starts(lab: &Lab, xml: &Path) -> Result<()> {
    let text = fs::read_to_string(xml).map_err(Error::at("read", xml))?;
    let (before, rest) = text.split_once("    <interface").unwrap_or((&text, ""));
    let after = rest.rsplit_once("</interface>\n").map_or(rest, |(_, after)| after);
    let text = format!("{before}{after}").replace("type=\"kvm\"", "type=\"qemu\"");
    let text = text.replace("  <cpu mode=\"host-passthrough\"/>\n", "");
    let own = lab.scratch("libvirt")?.join("box.xml");
    fs::write(&own, text).map_err(Error::at("write", &own))?;
    let place = lab.scratch("libvirt")?.join("root");
    let start = "timeout -s INT 20 virt-qemu-run -v -r \"$0\" \"$1\" 2>&1 || true";
    let words = ["sh", "-c", start, &place.to_string_lossy(), &own.to_string_lossy()];
    let told = lab.run(&words)?;
    assert!(told.contains("guest running"), "{told}");
    Ok(())
}

/// virt-v2v's part is played by what it starts: nbdkit with the filter cow, and nbdcopy.
const STAND_IN: &str = "#!/bin/sh
[ \"$1\" = --version ] && { echo virt-v2v 2.2.0; exit 0; }
[ \"$1\" = --machine-readable ] && { echo libguestfs-rewrite; exit 0; }
port=$(sed -n 's/.*port=\"\\([0-9]*\\)\".*/\\1/p' physical.xml)
nbdkit -U - --filter cow nbd hostname=localhost port=$port shared=true \\
  --run 'nbdcopy \"$uri\" COPY' || exit 5
echo the copy is made
";

#[test]
fn a_conversion_server_reads_the_disk_through_the_tunnel() {
    scenario("p2v-v2v", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let site = Site::new(lab, "")?;
        let disk = disk(lab)?;
        let before = sha256(&disk)?;
        let copy = site.place.join("copy.img");
        let program = site.place.join("bin/virt-v2v");
        fs::write(&program, STAND_IN.replace("COPY", &copy.to_string_lossy())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let line = format!("p2v.server=10.77.0.1 p2v.o=null bw.p2v.hostkey={}", site.print);
        let machine = site.machine(&disk, &line)?;
        machine.expect("the server has virt-v2v 2.2.0", secs(120))?;
        machine.expect("the copy is made", secs(120))?;
        machine.expect("converted;", secs(20))?;
        machine.wait_off(secs(30))?;
        assert_eq!(sha256(&disk)?, before);
        run(&["fsck.ext4", "-fn", &copy.to_string_lossy()]).map(drop)
    });
}

/// Debian's virt-v2v, unchanged, converts a machine that Debian was installed on. Twenty
/// minutes without a hypervisor, half of them for the guest's new initramfs.
#[test]
#[ignore = "minutes"]
fn sweep_virt_v2v_converts_a_machine() {
    scenario("p2v-conversion", |lab| {
        packages::ensure_all(packages::FOR_CONVERSIONS)?;
        let _dhcp = lab.dhcp().serve()?;
        // libguestfs looks for the kernel of this computer, which may have none.
        let own = lab.assets().kernel(Flavour::Stock)?;
        let environment = format!(
            "LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg SUPERMIN_KERNEL={} \
             SUPERMIN_MODULES={}",
            own.image.display(),
            own.modules.display()
        );
        let site = Site::new(lab, &environment)?;
        let disk = lab.scratch("disks")?.join("physical.img");
        let from = lab.assets().installed_disk()?;
        run(&["cp", "--sparse=always", &from.to_string_lossy(), &disk.to_string_lossy()])?;
        let before = sha256(&disk)?;
        let used = fs::metadata(&disk).unwrap().blocks() * 512;
        let images = site.place.join("images");
        let line = format!(
            "p2v.server=10.77.0.1 p2v.o=local p2v.os={} p2v.of=qcow2 bw.p2v.hostkey={}",
            images.display(),
            site.print
        );
        let machine = site.machine_with(Bus::VirtioScsi, &disk, &line)?;
        machine.expect("converting; the logs are in", secs(180))?;
        let (ended, _) = machine.expect_any(&["converted;", "bellwether: FAILED"], secs(2400))?;
        assert_eq!(ended, 0, "{}", machine.transcript());
        let sent = lab.sent_by(0, 0)?;
        machine.wait_off(secs(60))?;
        assert_eq!(sha256(&disk)?, before);
        assert!(sent <= used * 11 / 10, "{sent} bytes at the link, {used} in use");
        eprintln!("p2v-conversion: {sent} bytes at the link, {used} in use");
        let image = images.join("box-sda");
        let flat = images.join("flat.img");
        let (from, to) = (image.to_string_lossy(), flat.to_string_lossy());
        run(&["qemu-img", "convert", "-O", "raw", &from, &to])?;
        // Without a screen GRUB stands still.
        let guest = lab.machine().kept_disk(Bus::VirtioBlk, &flat).qemu(&["-device", "VGA"]);
        let guest = guest.start()?;
        guest.expect("INSTALLED root=/dev/vda2 swap=/dev/vda3", secs(600))?;
        guest.wait_off(secs(60))
    });
}
