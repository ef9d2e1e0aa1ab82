#!/bin/sh
# golden-tree.sh OUT [PACKAGE]: the files of a golden machine, as an archive: Debian with
# what golden.sh boots with, and its initramfs for any machine. What no lab machine has is
# left out.
set -eu
out=$1
more=${2:+,$2}
packages=systemd-sysv,udev,kmod,login,iproute2,initramfs-tools,linux-image-amd64,e2fsprogs
packages=$packages,xfsprogs,dosfstools,grub2-common,grub-pc-bin,grub-efi-amd64-bin,zstd,attr,acl
packages=$packages,libcap2-bin,openssh-server,ifupdown,isc-dhcp-client,extlinux$more
set --
modules='/lib/modules/*/kernel'
for path in /usr/share/man/ /usr/share/doc/ /usr/share/locale/ "$modules/sound/" \
	"$modules/lib/test_" "$modules/drivers/" "$modules/fs/" "$modules/net/"; do
	set -- "$@" "--dpkgopt=path-exclude=$path*"
done
for path in drivers/ata drivers/nvme drivers/virtio drivers/block drivers/scsi/s drivers/scsi/v \
	drivers/net/virtio drivers/net/net_failover drivers/char drivers/input drivers/hid drivers/md \
	drivers/usb/host drivers/usb/common drivers/usb/core fs/ext4 fs/jbd2 fs/mbcache fs/xfs fs/fat \
	fs/nls fs/fuse fs/autofs fs/efivarfs fs/configfs fs/overlayfs fs/squashfs fs/binfmt_misc \
	net/core net/ipv4 net/ipv6 net/802 net/8021q net/bridge net/llc net/packet net/unix; do
	set -- "$@" "--dpkgopt=path-include=$modules/$path*"
done
mmdebstrap --quiet --variant=minbase --include="$packages" "$@" bookworm "$out.draft" \
	--format=tar
mv "$out.draft" "$out"
