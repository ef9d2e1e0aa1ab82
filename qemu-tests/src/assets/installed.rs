//! A machine's disk as an installer leaves it: Debian with a kernel and a boot loader, in two
//! arrangements.

use std::path::PathBuf;

use super::{Assets, live, write};
use crate::{Result, shell};

/// What is on it: the cloud kernel, whose initramfs is made in a minute where a processor is
/// emulated.
const PACKAGES: &str =
    "linux-image-cloud-amd64,initramfs-tools,grub-pc,systemd-sysv,udev,e2fsprogs,kmod,zstd,mount";

/// The same with what the other arrangement needs.
const VOLUME_PACKAGES: &str = "linux-image-cloud-amd64,initramfs-tools,grub-efi-amd64,lvm2,xfsprogs,dosfstools,systemd-sysv,\
     udev,kmod,zstd,mount";

const FSTAB: &str = r"/dev/sda2 / ext4 errors=remount-ro 0 1\n/dev/sda3 none swap sw 0 0\n";
const VOLUME_FSTAB: &str = r"/dev/mapper/box-root / xfs defaults 0 0\n/dev/mapper/box-swap none swap sw 0 0\nUUID=B0C5-BEEF /boot/efi vfat umask=0077 0 1\n";

/// In the root before it is on a disk. The service tells what it runs on, and ends the machine.
const SETTLE: &str = r#"R=$1
printf "$FSTAB" > $R/etc/fstab
echo box > $R/etc/hostname
# A converted guest's initramfs is packed by an emulated processor.
echo COMPRESSLEVEL=1 > $R/etc/initramfs-tools/conf.d/quick
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

/// GPT, an EFI system partition, and a volume group with xfs and swap. The host may have no
/// device-mapper: lvm writes the metadata alone, and the volumes are where that puts them.
const VOLUME_DISK: &str = r#"cd "$1"
truncate -s 2G draft.img
printf 'label: gpt\nstart=2048, size=65536, type=uefi\nstart=67584, size=4118528, type=lvm\n' |
    sfdisk --quiet draft.img
P=$(losetup -f --show -o $((67584 * 512)) --sizelimit $((4118528 * 512)) draft.img)
V=
trap 'umount -q mnt || true; losetup -d $V $P' EXIT
lvm() {
    command lvm "$@" --driverloaded n --nolocking --devices $P \
        --config 'backup/backup=0 backup/archive=0 global/event_activation=0'
}
lvm pvcreate -ff -y $P
lvm vgcreate box $P
lvm lvcreate -an -Zn -Wn -y -n root -l 400 box
lvm lvcreate -an -Zn -Wn -y -n swap -l 100%FREE box
# Where a volume begins: bytes of the partition.
at() {
    lvm pvs --noheadings --nosuffix --units b --segments -o pe_start,pvseg_start,lv_name $P |
        awk -v name=$1 '$3 == name { printf "%d", $1 + $2 * 4194304 }'
}
V=$(losetup -f --show -o $((67584 * 512 + $(at root))) --sizelimit $((400 * 4194304)) draft.img)
mkfs.xfs -q -L rootfs $V
W=$(losetup -f --show -o $((67584 * 512 + $(at swap))) --sizelimit $((100 * 4194304)) draft.img)
V="$V $W"
mkswap -q $W
K=$(ls root/lib/modules)
cat > root/boot/grub/grub.cfg <<G
set timeout=0
menuentry Debian {
    linux /boot/vmlinuz-$K root=/dev/mapper/box-root ro console=ttyS0
    initrd /boot/initrd.img-$K
}
G
mkdir -p root/boot/efi
chroot root grub-mkimage -O x86_64-efi -p '(lvm/box-root)/boot/grub' -o /boot.efi \
    part_gpt lvm xfs normal linux configfile search echo
E=draft.img@@1048576
mformat -i $E -T 65536 -N B0C5BEEF ::
mmd -i $E ::/EFI ::/EFI/BOOT ::/EFI/debian
mcopy -i $E root/boot.efi ::/EFI/BOOT/BOOTX64.EFI
# As grub-install of Debian's signed GRUB writes it. virt-v2v knows no loader of UEFI without it.
cat > boot.cfg <<G
search.fs_uuid $(blkid -p -s UUID -o value ${V%% *}) root
set prefix=(\$root)'/boot/grub'
configfile \$prefix/grub.cfg
G
mcopy -i $E boot.cfg ::/EFI/debian/grub.cfg
rm root/boot.efi boot.cfg
mkdir -p mnt
mount ${V%% *} mnt
cp -a root/. mnt/
umount mnt
trap - EXIT
losetup -d $V $P
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
        self.installed("installed", PACKAGES, FSTAB, DISK)
    }

    /// The same with GPT, UEFI, and xfs and swap on LVM.
    ///
    /// # Errors
    /// As [`Assets::installed_disk`].
    pub fn installed_volumes(&self) -> Result<PathBuf> {
        self.installed("installed-volumes", VOLUME_PACKAGES, VOLUME_FSTAB, VOLUME_DISK)
    }

    fn installed(&self, name: &str, packages: &str, fstab: &str, disk: &str) -> Result<PathBuf> {
        let suite = &self.release;
        let recipe = format!("{suite} {packages} {fstab} {SETTLE} {disk}");
        let dir = self.entry(name, &recipe, |dir| {
            let root = dir.join("root");
            live::run_bootstrap(live::bootstrap(suite, packages, &root)?)?;
            for (name, script, place) in [("settle", SETTLE, &*root), ("disk", disk, dir)] {
                let file = dir.join(name);
                let start = format!("set -eu\nPATH=$PATH:/usr/sbin:/sbin\nFSTAB='{fstab}'\n");
                write(&file, &(start + script))?;
                let words = ["sh", &file.to_string_lossy(), &place.to_string_lossy()];
                shell::sh(&words)?;
            }
            Ok(())
        })?;
        Ok(dir.join("disk.img"))
    }
}
