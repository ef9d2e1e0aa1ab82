//! The programs that P2V is held against: a conversion server of another release of Debian, as a
//! root to be entered, and virt-p2v in a live system.

use std::path::PathBuf;

use super::{Assets, live, only, sources, write};
use crate::{Result, shell};

/// What is on it: sshd, virt-v2v with what it reads disks with, and the tools for a guest's file
/// systems that its appliance is made of.
const PACKAGES: &str = "openssh-server,virt-v2v,nbdkit,libnbd-bin,libguestfs-xfs,lvm2,\
                        qemu-system-x86,ovmf,procps,mount";

/// What virt-p2v's own list of dependencies has without a screen, and what boots it.
const VIRT_P2V_PACKAGES: &str = "systemd-sysv,udev,dbus,iproute2,kmod,procps,libpcre2-8-0,libxml2,\
     librsvg2-2,libgtk-3-0,libdbus-1-3,openssh-client,nbdkit,debianutils,vim-tiny,open-iscsi,\
     net-tools,curl,ethtool,gawk,lsscsi,pciutils,usbutils,util-linux,less,hwdata,hdparm,\
     smartmontools";

/// Puts the program of the package `$2` into the root `$1`, as virt-p2v-make-disk does. Where
/// NetworkManager is not there, systemd has the network; the program waits for it.
const VIRT_P2V: &str = r#"
xz -dc "$2"/usr/lib/*/virt-p2v/virt-p2v.xz > "$1/usr/bin/virt-p2v"
cp "$2/usr/share/virt-p2v/launch-virt-p2v" "$1/usr/bin/"
chmod 755 "$1/usr/bin/virt-p2v" "$1/usr/bin/launch-virt-p2v"
cp "$2/usr/share/virt-p2v/p2v.service" "$1/etc/systemd/system/"
sed -i 's/^After=.*/After=network-online.target\nWants=network-online.target/' \
    "$1/etc/systemd/system/p2v.service"
printf '[Match]\nName=en* eth*\n[Network]\nDHCP=ipv4\n' > "$1/etc/systemd/network/20-dhcp.network"
chroot "$1" systemctl enable p2v.service systemd-networkd.service
echo live > "$1/etc/hostname"
# Without the name it waits for its own NBD server for ever.
printf '127.0.0.1 localhost\n::1 localhost\n' > "$1/etc/hosts"
: > "$1/etc/machine-id"
: > "$1/etc/fstab"
rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*
"#;

impl Assets {
    /// An ISO with virt-p2v of this computer's release in a live system of Debian, which starts it.
    ///
    /// # Errors
    /// A package cannot be fetched or unpacked.
    pub fn virt_p2v_iso(&self) -> Result<PathBuf> {
        let suite = sources::suite()?;
        let recipe = format!("{suite} {VIRT_P2V_PACKAGES} {VIRT_P2V}");
        let dir = self.entry("virt-p2v", &recipe, |dir| {
            let words = ["download", "virt-p2v"];
            shell::run(shell::command("apt-get").args(words).current_dir(dir))?;
            let package = dir.join("package");
            shell::run(
                shell::command("dpkg-deb").arg("-x").arg(only(dir, "virt-p2v_")?).arg(&package),
            )?;
            let hook = dir.join("settle");
            write(&hook, &format!("#!/bin/sh\nset -eu\n{VIRT_P2V}"))?;
            let root = dir.join("root");
            live::run_bootstrap(live::bootstrap(&suite, VIRT_P2V_PACKAGES, &root)?)?;
            shell::run(shell::command("sh").arg(&hook).arg(&root).arg(&package))?;
            let script = "mkdir -p medium/live; mksquashfs root medium/live/filesystem.squashfs \
                          -comp xz -noappend -quiet -no-progress; \
                          xorriso -as mkisofs -quiet -r -J -V P2V -o p2v.iso medium; \
                          rm -rf root medium package";
            shell::run(shell::command("sh").args(["-euc", script]).current_dir(dir)).map(drop)
        })?;
        Ok(dir.join("p2v.iso"))
    }

    /// The root of such a server, without a kernel.
    ///
    /// # Errors
    /// A package cannot be fetched or unpacked.
    pub fn conversion_server(&self, release: &str) -> Result<PathBuf> {
        let recipe = format!("{release} {PACKAGES}");
        let dir = self.entry(&format!("converter-{release}"), &recipe, |dir| {
            live::run_bootstrap(live::bootstrap(release, PACKAGES, &dir.join("root"))?)
        })?;
        Ok(dir.join("root"))
    }
}
