#!/bin/sh
# check.sh DISK DIR DIGEST: every table and file system of a disk image must be without
# errors; then it says the identifiers that are on it, and what the script DIGEST prints
# of its files as one number. Its root is mounted in DIR for that.
set -eu
disk=$1
dir=$2
digest=$3
table=$(sfdisk -V "$disk" 2>&1) || { echo "$table" && exit 1; }
case $table in *"not on the end"*) echo "$table" && exit 1 ;; esac
sfdisk -d "$disk" | sed -n 's/^label-id: /id /p'
for part in $(sfdisk -d "$disk" | sed -n 's/^.*start= *\([0-9]*\), size= *\([0-9]*\).*/\1:\2/p'); do
	loop=$(losetup -rf --show -o $((${part%:*} * 512)) --sizelimit $((${part#*:} * 512)) "$disk")
	echo "id $(blkid -p -s UUID -o value "$loop")"
	case $(blkid -p -s TYPE -o value "$loop") in
	ext4) check="fsck.ext4 -n -f" ;;
	xfs) check="xfs_repair -n" ;;
	vfat) check="fsck.vfat -n" ;;
	*) check=true ;;
	esac
	said=$($check "$loop" 2>&1) || { echo "$check: $said"; losetup -d "$loop"; exit 1; }
	losetup -d "$loop"
done
sh "$(dirname "$0")/mounted.sh" "$disk" "$dir" sh -c '
	echo "machine $(cat "$1/etc/machine-id")"
	echo "files $(chroot "$1" sh <"$2" | md5sum)"' sh "$dir" "$digest"
