//! NVMe over TCP: the target is another machine's kernel.

use qemu_tests::machine::Bus;
use qemu_tests::{Lab, Machine, Result, scenario, secs};

use super::{assert_contains, boot, client, up};

const NQN: &str = "nqn.2026-01.lab.nas:root";

/// What makes a disk a subsystem, in the kernel's configfs.
const TARGET: &str = "
until [ -e /dev/sdb ] && [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
mount -t configfs configfs /sys/kernel/config
ip link set lo up
ip link set eth0 up
ip addr add 10.77.0.50/24 dev eth0
cd /sys/kernel/config/nvmet
mkdir subsystems/NQN ports/1 ports/2
echo 1 >subsystems/NQN/attr_allow_any_host
mkdir subsystems/NQN/namespaces/1
echo /dev/sdb >subsystems/NQN/namespaces/1/device_path
echo 1 >subsystems/NQN/namespaces/1/enable
for port in 1:4420 2:8009; do
    cd /sys/kernel/config/nvmet/ports/${port%:*}
    echo tcp >addr_trtype; echo ipv4 >addr_adrfam
    echo 10.77.0.50 >addr_traddr; echo ${port#*:} >addr_trsvcid
    ln -s /sys/kernel/config/nvmet/subsystems/NQN subsystems/NQN
done
";

/// A machine whose second disk is a subsystem of its own.
fn target(lab: &Lab) -> Result<Machine> {
    let disk = lab.assets().small_ext4()?;
    let line = "root=/dev/sda ro ip=off rd.driver.pre=nvmet_tcp,configfs,virtio_net";
    let client = client(lab, line)?.disk(Bus::VirtioScsi, &disk).disk(Bus::VirtioScsi, &disk);
    let mut target = up(client)?;
    for line in TARGET.replace("NQN", NQN).lines().filter(|line| !line.is_empty()) {
        target.send_line(line)?;
    }
    target.run("true")?;
    Ok(target)
}

#[test]
fn nvme_by_name_and_by_discovery() {
    scenario("sources-nvme", |lab| {
        let _target = target(lab)?;
        let _dhcp = lab.dhcp().serve()?;
        for line in [
            format!("bw.root=nvme:10.77.0.50/{NQN} bw.overlay=none rw"),
            "rd.nvmf.discover=tcp,10.77.0.50,,4420 root=/dev/nvme0n1 ip=dhcp rw".to_owned(),
        ] {
            let mut machine = boot(lab, &line)?;
            let mounts = machine.run("cat /proc/mounts")?;
            assert_contains(&mounts, "n1 / ext4 rw");
            machine.run("echo x >/proof; sync; cat /etc/issue")?;
        }
        Ok(())
    });
}

/// A cable that is out for half a minute stops the root for so long and no longer.
#[test]
fn nvme_network_is_cut() {
    scenario("sources-nvme-cut", |lab| {
        let _target = target(lab)?;
        let _dhcp = lab.dhcp().serve()?;
        let line = format!("bw.root=nvme:10.77.0.50/{NQN} bw.overlay=none rw");
        let mut machine = boot(lab, &line)?;
        lab.port(1, 0, false)?;
        machine.send_line("echo x >/proof; sync; echo writ''ten")?;
        std::thread::sleep(secs(30));
        lab.port(1, 0, true)?;
        machine.expect("written", secs(60))?;
        assert_eq!(machine.run("echo 3 >/proc/sys/vm/drop_caches; cat /proof")?.trim(), "x");
        assert_eq!(machine.run("dmesg | grep -E 'Buffer I/O|EXT4-fs error' || true")?, "");
        Ok(())
    });
}
