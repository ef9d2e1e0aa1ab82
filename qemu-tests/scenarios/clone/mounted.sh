#!/bin/sh
# mounted.sh DISK DIR COMMAND...: runs the command while the file systems of a disk image
# are at DIR, to be read: the one labelled golden, and on its /var the one labelled var.
set -eu
disk=$1
dir=$2
shift 2
trap 'umount -R "$dir" 2>/dev/null || true' EXIT
root= var=
for part in $(sfdisk -d "$disk" | sed -n 's/^.*start= *\([0-9]*\), size= *\([0-9]*\).*/\1:\2/p'); do
	loop=$(losetup -rf --show -o $((${part%:*} * 512)) --sizelimit $((${part#*:} * 512)) "$disk")
	case $(blkid -p -s LABEL -o value "$loop") in
	golden) root=$loop ;;
	var) var=$loop ;;
	*) losetup -d "$loop" ;;
	esac
done
mkdir -p "$dir"
mount -o ro "$root" "$dir"
[ -z "$var" ] || mount -o ro,nouuid "$var" "$dir/var"
for loop in $root $var; do losetup -d "$loop"; done
"$@"
