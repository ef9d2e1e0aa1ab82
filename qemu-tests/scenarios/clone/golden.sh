#!/bin/sh
# A golden machine as a disk image that boots: golden.sh KIND TREE DIR makes
# DIR/golden.img of the archive TREE. KIND is mbr (DOS table, GRUB for BIOS, ext4, swap),
# extlinux (the same, without GRUB), extlinux-gpt, efi (GPT, EFI system partition with
# GRUB, ext4, swap, xfs on /var), systemd-boot (the same, without GRUB) or everything (efi with
# btrfs and NTFS, and free space behind the last partition).
#
# GRUB is put there by hand: not every kernel that this runs on shows the partitions of
# loop devices, which its installer needs. Nor has each of them vfat: what is on the
# system partition is also in the directory on which the machine mounts it.
set -eu
kind=$1
tree=$2
dir=$3
disk=$dir/golden.img
root=$dir/root
mkdir -p "$root"
# A run that was ended has left its own.
rm -f "$disk"

# A loop device for part of the disk: start and length in MiB. It goes when it is not
# mounted any more.
part() {
	losetup -f --show -o $(($1 * 1048576)) --sizelimit $(($2 * 1048576)) "$disk"
}
id() {
	blkid -p -s UUID -o value "$1"
}

case $kind in
mbr | extlinux | extlinux-gpt)
	truncate -s 601M "$disk"
	table='label: dos\nstart=2048,size=560M,type=83,bootable\nsize=39M,type=82\n'
	[ "$kind" != extlinux-gpt ] || table='label: gpt\nstart=2048,size=560M,type=L\nsize=39M,type=S\n'
	printf "$table" | sfdisk -q "$disk"
	first=$(part 1 560)
	swap=$(part 561 39)
	;;
efi | systemd-boot | everything)
	size=970M end=657 more=
	if [ "$kind" = everything ]; then
		size=1300M end=849
		more='size=128M,type=L\nsize=64M,type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n'
	fi
	truncate -s "$size" "$disk"
	table='label: gpt\nstart=2048,size=64M,type=U,name=esp\nsize=560M,type=L\nsize=32M,type=S\n'
	printf "$table${more}size=312M,type=L\n" | sfdisk -q "$disk"
	esp=$(part 1 64)
	first=$(part 65 560)
	swap=$(part 625 32)
	# The last MiB has the other header; an xfs has more than 300.
	var=$(part "$end" 312)
	mkfs.vfat -F 32 -n ESP "$esp" >/dev/null
	mkfs.xfs -q -L var "$var"
	;;
esac
if [ "$kind" = everything ]; then
	more=$(part 657 128)
	windows=$(part 785 64)
	mkfs.btrfs -q "$more" >/dev/null
	mkntfs -q -F -Q -p $((785 * 2048)) -H 255 -S 63 "$windows" 2>/dev/null
	for place in "mount $more" "ntfs-3g $windows"; do
		$place "$root"
		for number in $(seq 40); do
			head -c $((number * 9973)) /dev/urandom >"$root/file$number"
		done
		umount "$root"
	done
	losetup -d "$more" "$windows"
fi
mkfs.ext4 -q -L golden "$first"
mkswap "$swap" >/dev/null
mount "$first" "$root"
uuid=$(id "$first")
fstab="UUID=$uuid / ext4 errors=remount-ro 0 1
UUID=$(id "$swap") none swap sw 0 0"
if [ -n "${var:-}" ]; then
	mkdir -p "$root/var" "$root/boot/efi"
	mount "$var" "$root/var"
	fstab="$fstab
UUID=$(id "$var") /var xfs defaults 0 2
UUID=$(id "$esp") /boot/efi vfat umask=0077 0 2"
	losetup -d "$esp" "$var"
fi
swap_id=$(id "$swap")
losetup -d "$first" "$swap"
tar -x --numeric-owner --xattrs '--xattrs-include=*' -C "$root" -f "$tree"
echo "$fstab" >"$root/etc/fstab"
echo golden >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 golden\n' >"$root/etc/hosts"
passwd --root "$root" --delete root >/dev/null
echo 3f0c5b6a7d8e49f0a1b2c3d4e5f60718 >"$root/etc/machine-id"
echo "RESUME=UUID=$swap_id" >"$root/etc/initramfs-tools/conf.d/resume"
line='console=ttyS0 net.ifnames=0 systemd.log_color=0'
cat >>"$root/etc/default/grub" <<END
GRUB_CMDLINE_LINUX="$line"
GRUB_TIMEOUT=1
GRUB_TERMINAL=serial
GRUB_DISABLE_OS_PROBER=true
END
printf 'auto eth0\niface eth0 inet dhcp\n' >"$root/etc/network/interfaces"

# Files of every kind.
mkdir -p "$root/srv/odd"
cd "$root/srv/odd"
echo linked >one
ln one two
truncate -s 50M holes
printf x | dd of=holes bs=1 seek=30000000 conv=notrunc status=none
chroot "$root" setfattr -n user.colour -v red /srv/odd/one
chroot "$root" setfacl -m u:www-data:r /srv/odd/one
cp "$root/bin/true" capable
chroot "$root" setcap cap_net_raw+ep /srv/odd/capable
mknod device c 1 3
mkfifo fifo
ln -s ../nowhere dangling
touch -d '2001-02-03 04:05:06' old
chown 1234:5678 old
chmod 4750 old
mkdir -p "$root/var/local/odd"
cp -a one old capable "$root/var/local/odd/"
cd /

# The boot loader.
kernel=$(basename "$root"/boot/vmlinuz-*)
mkdir -p "$root/boot/grub"
cat >"$root/boot/grub/grub.cfg" <<END
serial
terminal_output serial
search --no-floppy --fs-uuid --set=root $uuid
linux /boot/$kernel root=UUID=$uuid ro $line
initrd /boot/initrd.img-${kernel#vmlinuz-}
boot
END
modules="ext2 search search_fs_uuid normal linux echo serial terminal"
case $kind in
mbr)
	chroot "$root" grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o /tmp/core.img \
		biosdisk part_msdos $modules
	dd if="$root/usr/lib/grub/i386-pc/boot.img" of="$disk" bs=440 count=1 conv=notrunc \
		status=none
	dd if="$root/tmp/core.img" of="$disk" bs=512 seek=1 conv=notrunc status=none
	rm "$root/tmp/core.img"
	;;
extlinux*)
	# The copies alone boot.
	rm "$root"/usr/sbin/grub-* "$root/boot/grub/grub.cfg"
	mkdir "$root/boot/extlinux"
	cat >"$root/boot/extlinux/extlinux.conf" <<END
serial 0
default linux
label linux
	kernel /boot/$kernel
	append initrd=/boot/initrd.img-${kernel#vmlinuz-} root=UUID=$uuid ro $line
END
	;;
efi | everything)
	mkdir -p "$root/boot/efi/EFI/BOOT"
	printf 'search.fs_uuid %s root\nset prefix=($root)/boot/grub\n' "$uuid" >"$root/tmp/early"
	chroot "$root" grub-mkimage -O x86_64-efi -p /boot/grub -c /tmp/early \
		-o /boot/efi/EFI/BOOT/BOOTX64.EFI part_gpt fat $modules
	rm "$root/tmp/early"
	chmod -R go= "$root/boot/efi"
	mcopy -s -i "$disk@@1M" "$root/boot/efi/EFI" ::
	;;
systemd-boot)
	# As Debian's package does it, whose machine-id is in all names.
	rm "$root"/usr/sbin/grub-* "$root/boot/grub/grub.cfg"
	own=$(cat "$root/etc/machine-id")
	# The same files with new times are no difference that is looked for.
	ln -s /dev/null "$root/etc/kernel/install.d/50-depmod.install"
	esp=$root/boot/efi
	mkdir -p "$esp/EFI/systemd" "$esp/loader/entries" "$esp/$own/${kernel#vmlinuz-}"
	cp "$root/usr/lib/systemd/boot/efi/systemd-bootx64.efi" "$esp/EFI/systemd/"
	cp "$root/boot/$kernel" "$esp/$own/${kernel#vmlinuz-}/linux"
	cat >"$esp/loader/entries/$own-${kernel#vmlinuz-}.conf" <<END
title Debian
version ${kernel#vmlinuz-}
machine-id $own
sort-key debian
options root=UUID=$uuid ro $line
linux /$own/${kernel#vmlinuz-}/linux
END
	chmod -R go= "$esp"
	;;
esac
# The copies' own initramfs has what each of them needs, and nothing else; to pack it well
# costs an emulated processor more than to load it.
printf 'MODULES=dep\nCOMPRESSLEVEL=1\n' >"$root/etc/initramfs-tools/conf.d/modules"
# Clean also where another process has inherited the mount.
for at in $(findmnt -Rnro TARGET "$root"); do
	mount -o remount,ro "$at"
done
umount -R "$root"
