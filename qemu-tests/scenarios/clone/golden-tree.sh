#!/bin/sh
# The files of a golden machine, as an archive: Debian with what both kinds of golden.sh
# boot with, and its initramfs for any machine. What no lab machine has is left out.
set -eu
out=$1
packages=systemd-sysv,udev,kmod,login,iproute2,initramfs-tools,linux-image-amd64,e2fsprogs
packages=$packages,xfsprogs,dosfstools,grub2-common,grub-pc-bin,grub-efi-amd64-bin,zstd,attr,acl
packages=$packages,libcap2-bin,openssh-server,ifupdown,isc-dhcp-client
set --
for path in /usr/share/man /usr/share/doc /usr/share/locale '/lib/modules/*/kernel/sound' \
	'/lib/modules/*/kernel/drivers/gpu' '/lib/modules/*/kernel/drivers/media' \
	'/lib/modules/*/kernel/drivers/net/wireless' '/lib/modules/*/kernel/drivers/infiniband' \
	'/lib/modules/*/kernel/drivers/staging' '/lib/modules/*/kernel/drivers/iio'; do
	set -- "$@" "--dpkgopt=path-exclude=$path/*"
done
mmdebstrap --quiet --variant=minbase --include="$packages" "$@" bookworm "$out.draft" \
	--format=tar
mv "$out.draft" "$out"
