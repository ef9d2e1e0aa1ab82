//! Machines that send their disks: to files over ssh, and to a conversion server.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use qemu_tests::assets::media::{run, sha256};
use qemu_tests::assets::{Flavour, Profile};
use qemu_tests::machine::Bus;
use qemu_tests::{Error, Lab, Machine, Nic, Result, packages, scenario, secs};

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
    fn new(lab: &'lab Lab) -> Result<Self> {
        packages::ensure_all(packages::FOR_P2V)?;
        let place = lab.scratch("p2v")?;
        let file = |name: &str| place.join(name).to_string_lossy().into_owned();
        for name in ["host", "id"] {
            let _ = fs::remove_file(place.join(name));
            run(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &file(name)])?;
        }
        let config = format!(
            "Port 22\nHostKey {0}/host\nPidFile none\nUsePAM no\nPermitRootLogin yes\nStrictModes no\n\
             AuthorizedKeysFile {0}/id.pub\nSetEnv PATH={0}/bin:/usr/bin:/bin\n",
            place.display()
        );
        fs::write(place.join("config"), config).map_err(Error::at("write", &place))?;
        for made in [place.join("bin"), place.join("images")] {
            fs::create_dir_all(&made).map_err(Error::at("make", &made))?;
        }
        // The lab's /run is its own.
        let start = "mkdir -p /run/sshd && exec /usr/sbin/sshd -D -e -f \"$0\"";
        let sshd = lab.golden_node(&["sh", "-c", start, &file("config")])?;
        let shown = run(&["ssh-keygen", "-lf", &file("host.pub")])?;
        let print = shown.split(' ').nth(1).unwrap_or_default().to_owned();
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let key = format!("{}:/etc/p2v.key", file("id"));
        let options = ["--profile", "virt", "--ssh", "--include", &key];
        let initrd = lab.assets().our_initrd_of(&kernel, Profile::P2v, "p2v-key", &options)?;
        Ok(Self { lab, _sshd: Box::new(sshd), place, print, kernel: kernel.image, initrd })
    }

    /// A machine with this disk, which it could write to.
    fn machine(&self, disk: &Path, line: &str) -> Result<Machine> {
        let line = format!("{line} p2v.identity=file:///etc/p2v.key p2v.name=box");
        let machine = self.lab.machine().kernel(&self.kernel, &self.initrd, &line);
        let machine = machine.nic(Nic::virtio()).kept_disk(Bus::VirtioBlk, disk);
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

#[test]
fn a_disk_becomes_a_file_over_ssh_and_stays_as_it_was() {
    scenario("p2v-ssh", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let site = Site::new(lab)?;
        let disk = disk(lab)?;
        let before = sha256(&disk)?;
        let images = site.place.join("images");
        let way = format!("bw.p2v=ssh://root@10.77.0.1{}", images.display());
        // Of another key than the server's nothing is sent.
        let wrong = format!("{way} bw.p2v.hostkey=SHA256:{}", "A".repeat(43));
        let machine = site.machine(&disk, &wrong)?;
        machine.expect("asks for SHA256:AAAA", secs(120))?;
        machine.expect("nothing was sent", secs(20))?;
        drop(machine);
        assert_eq!(fs::read_dir(&images).unwrap().count(), 0);
        let machine = site.machine(&disk, &format!("{way} bw.p2v.hostkey={}", site.print))?;
        machine.expect("the host key that the line asks for", secs(120))?;
        let told = machine.expect("the other end has the same digest", secs(120))?;
        machine.expect("the disks are as they were", secs(20))?;
        machine.wait_off(secs(30))?;
        let file = images.join("box-vda.img");
        let after = sha256(&file)?;
        assert!(told.contains(&format!("sha256 {after}")), "{told}");
        assert_eq!(sha256(&disk)?, before);
        let stored = fs::metadata(&file).unwrap().blocks() * 512;
        assert!(stored < fs::metadata(&disk).unwrap().len() * 3 / 4, "{stored} bytes in the file");
        run(&["fsck.ext4", "-fn", &file.to_string_lossy()]).map(drop)
    });
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
        let site = Site::new(lab)?;
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
