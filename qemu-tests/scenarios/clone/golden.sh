#!/bin/sh
# A golden machine as a disk image: Debian with a DOS table, GRUB for BIOS, ext4 and
# swap, and files of every kind. Its root stays mounted at DIR/root.
#
# GRUB is put there by hand: not every kernel that this runs on shows the partitions of
# loop devices, which its installer needs.
set -eu
dir=$1
disk=$dir/golden.img
root=$dir/root
packages=systemd-sysv,udev,kmod,login,iproute2,initramfs-tools,linux-image-cloud-amd64,grub-pc
packages=$packages,e2fsprogs,attr,acl,libcap2-bin,openssh-server,ifupdown,isc-dhcp-client
mmdebstrap --quiet --variant=minbase --include="$packages" \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$dir/tree"
truncate -s 1500M "$disk"
printf 'label: dos\nstart=2048,size=1200M,type=83,bootable\ntype=82\n' | sfdisk -q "$disk"
first=$(losetup -f --show -o $((2048 * 512)) --sizelimit $((1200 * 1048576)) "$disk")
second=$(losetup -f --show -o $(((2048 + 1200 * 2048) * 512)) "$disk")
trap 'losetup -d "$second"' EXIT
mkfs.ext4 -q -L golden "$first"
mkswap "$second" >/dev/null
mkdir -p "$root"
mount "$first" "$root"
# Gone when it is taken down.
losetup -d "$first"
cp -a "$dir/tree/." "$root/"
rm -rf "$dir/tree"
id=$(blkid -p -s UUID -o value "$first")
swap=$(blkid -p -s UUID -o value "$second")
printf 'UUID=%s / ext4 errors=remount-ro 0 1\nUUID=%s none swap sw 0 0\n' "$id" "$swap" \
	>"$root/etc/fstab"
echo golden >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 golden\n' >"$root/etc/hosts"
passwd --root "$root" --delete root >/dev/null
echo "RESUME=UUID=$swap" >"$root/etc/initramfs-tools/conf.d/resume"
cat >>"$root/etc/default/grub" <<END
GRUB_CMDLINE_LINUX="console=ttyS0 net.ifnames=0"
GRUB_TIMEOUT=1
GRUB_TERMINAL=serial
GRUB_DISABLE_OS_PROBER=true
END
printf 'auto eth0\niface eth0 inet dhcp\n' >"$root/etc/network/interfaces"
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
cd /
