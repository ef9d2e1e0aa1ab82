//! NVMe over TCP: the target is another machine's kernel.

use std::fmt::Write as _;
use std::path::Path;

use qemu_tests::assets::media::run;
use qemu_tests::machine::Bus;
use qemu_tests::{Lab, Machine, Result, scenario};

use super::{assert_contains, assert_live, boot, client, up};

/// The name of the subsystem that a disk of the target is.
pub fn nqn(disk: usize) -> String {
    format!("nqn.2026-01.lab.nas:disk{disk}")
}

/// The target's address, and its ports: for subsystems, and for discovery.
const TARGET: &str = "
mount -t configfs configfs /sys/kernel/config
ip link set lo up; ip link set eth0 up; ip addr add 10.77.0.50/24 dev eth0
for port in 1:4420 2:8009; do
    mkdir /sys/kernel/config/nvmet/ports/${port%:*}
    cd /sys/kernel/config/nvmet/ports/${port%:*}
    echo tcp >addr_trtype; echo ipv4 >addr_adrfam
    echo 10.77.0.50 >addr_traddr; echo ${port#*:} >addr_trsvcid
done
cd /sys/kernel/config/nvmet
";

/// What makes a disk a subsystem, in the kernel's configfs. A target that is started
/// again gives it the same identity: a client would not take it for the same disk.
const SUBSYSTEM: &str = "
mkdir subsystems/NQN subsystems/NQN/namespaces/1
echo 1 >subsystems/NQN/attr_allow_any_host
echo DISK >subsystems/NQN/namespaces/1/device_path
echo UUID >subsystems/NQN/namespaces/1/device_uuid
echo 1 >subsystems/NQN/namespaces/1/enable
ln -s /sys/kernel/config/nvmet/subsystems/NQN ports/1/subsystems/NQN
ln -s /sys/kernel/config/nvmet/subsystems/NQN ports/2/subsystems/NQN
";

/// A machine whose disks are subsystems; what is written to them stays.
pub fn target(lab: &Lab, disks: &[&Path]) -> Result<Machine> {
    let line = "root=/dev/vda ro ip=off rd.driver.pre=nvmet_tcp,configfs,virtio_net";
    let mut client = client(lab, line)?.disk(Bus::VirtioBlk, &lab.assets().small_squashfs()?);
    let mut wait = "until [ -e /sys/class/net/eth0 ]".to_owned();
    let mut subsystems = String::new();
    for ((number, letter), disk) in ('b'..='z').enumerate().zip(disks) {
        client = client.kept_disk(Bus::VirtioBlk, disk);
        let device = format!("/dev/vd{letter}");
        let _ = write!(wait, " && [ -e {device} ]");
        let uuid = format!("6f5e0c1a-0000-4000-8000-{number:012}");
        let made = SUBSYSTEM.replace("NQN", &nqn(number)).replace("DISK", &device);
        subsystems += &made.replace("UUID", &uuid);
    }
    let mut target = up(client)?;
    target.run(&format!("{wait}; do sleep 0.1; done"))?;
    for line in (TARGET.to_owned() + &subsystems).lines().filter(|line| !line.is_empty()) {
        target.send_line(line)?;
    }
    let last = nqn(disks.len().saturating_sub(1));
    target.run(&format!("test -d ports/2/subsystems/{last}")).map(|_| target)
}

/// An ext4 that is written to, by its name and by discovery, and a squashfs.
#[test]
fn nvme_by_name_and_by_discovery() {
    scenario("sources-nvme", |lab| {
        let disks = lab.scratch("disks")?;
        for (from, to) in
            [(lab.assets().small_ext4()?, "ext4"), (lab.assets().small_squashfs()?, "squashfs")]
        {
            run(&["cp", &from.to_string_lossy(), &disks.join(to).to_string_lossy()])?;
        }
        let _target = target(lab, &[&disks.join("ext4"), &disks.join("squashfs")])?;
        let _dhcp = lab.dhcp().serve()?;
        let line = format!("bw.root=nvme:10.77.0.50/{} bw.overlay=none rw", nqn(0));
        let mut machine = boot(lab, &line)?;
        assert_contains(&machine.run("cat /proc/mounts")?, "/dev/nvme0n1 / ext4 rw");
        machine.run("echo x >/proof; sync")?;
        drop(machine);
        let line = "rd.nvmf.discover=tcp,10.77.0.50,,4420 root=/dev/nvme0n1 ip=dhcp rw";
        let mut machine = boot(lab, line)?;
        assert_contains(&machine.run("cat /proof; ls /dev/nvme*")?, "x\n/dev/nvme-fabrics");
        assert_contains(&machine.run("ls /dev")?, "nvme1n1");
        drop(machine);
        let mut machine = boot(lab, &format!("bw.root=nvme:10.77.0.50/{} bw.overlay", nqn(1)))?;
        assert_live(&mut machine)
    });
}
