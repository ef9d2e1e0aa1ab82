//! A machine's disk as an installer leaves it: Debian with a kernel and a boot loader.

use std::path::PathBuf;

use super::{Assets, live, sources, write};
use crate::{Result, shell};

/// What is on it: the cloud kernel, whose initramfs is made in a minute where a processor is
/// emulated.
const PACKAGES: &str =
    "linux-image-cloud-amd64,initramfs-tools,grub-pc,systemd-sysv,udev,e2fsprogs,kmod,zstd,mount";

/// In the root before it is on a disk. The service tells what it runs on, and ends the machine.
const SETTLE: &str = r#"R=$1
printf '/dev/sda2 / ext4 errors=remount-ro 0 1\n/dev/sda3 none swap sw 0 0\n' > $R/etc/fstab
echo box > $R/etc/hostname
sed -i 's/^GRUB_CMDLINE_LINUX_DEFAULT=.*/GRUB_CMDLINE_LINUX_DEFAULT="console=ttyS0"/
  s/^GRUB_TIMEOUT=.*/GRUB_TIMEOUT=0/' $R/etc/default/grub
cat > $R/etc/systemd/system/told.service <<'U'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
StandardOutput=tty
TTYPath=/dev/console
ExecStart=/bin/sh -c 'echo INSTALLED root=$(findmnt -no SOURCE /) swap=$(tail -n 1 /proc/swaps | cut -d" " -f1)'
ExecStart=/bin/systemctl --no-block poweroff
[Install]
WantedBy=multi-user.target
U
ln -sf /etc/systemd/system/told.service $R/etc/systemd/system/multi-user.target.wants/told.service
"#;

/// GPT, GRUB for BIOS, ext4, swap.
const DISK: &str = r#"cd "$1"
truncate -s 1200M draft.img
printf 'label: gpt\nstart=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649
start=4096, size=2252800, type=linux\ntype=swap\n' | sfdisk --quiet draft.img
L=$(losetup -fP --show draft.img)
trap 'umount -q mnt/dev mnt/proc mnt/sys mnt || true; losetup -d $L' EXIT
# The nodes come a moment later.
n=0
until [ -b ${L}p2 ] && [ -b ${L}p3 ]; do n=$((n + 1)); [ $n -lt 100 ]; partx -u $L || true; sleep 0.1; done
mkfs.ext4 -q -L rootfs ${L}p2
mkswap -q ${L}p3
mkdir -p mnt
mount ${L}p2 mnt
cp -a root/. mnt/
for d in dev proc sys; do mount --bind /$d mnt/$d; done
chroot mnt grub-install --target=i386-pc --modules="part_gpt ext2" $L
chroot mnt update-grub
umount mnt/dev mnt/proc mnt/sys mnt
trap - EXIT
losetup -d $L
rm -rf root
mv draft.img disk.img
"#;

impl Assets {
    /// The disk of a machine that Debian was installed on: GPT, ext4 and swap, BIOS. It has
    /// `/dev/sda` in its fstab, and says `INSTALLED root=… swap=…` on its serial line when it
    /// is up, before it powers off. Needs root.
    ///
    /// # Errors
    /// A package cannot be fetched, or there is no loop device.
    pub fn installed_disk(&self) -> Result<PathBuf> {
        let suite = sources::suite()?;
        let recipe = format!("{suite} {PACKAGES} {SETTLE} {DISK}");
        let dir = self.entry("installed", &recipe, |dir| {
            let root = dir.join("root");
            live::run_bootstrap(live::bootstrap(&suite, PACKAGES, &root)?)?;
            for (name, script, place) in [("settle", SETTLE, &*root), ("disk", DISK, dir)] {
                let file = dir.join(name);
                write(&file, &format!("set -eu\nPATH=$PATH:/usr/sbin:/sbin\n{script}"))?;
                let words = ["sh", &file.to_string_lossy(), &place.to_string_lossy()];
                shell::sh(&words)?;
            }
            Ok(())
        })?;
        Ok(dir.join("disk.img"))
    }
}
