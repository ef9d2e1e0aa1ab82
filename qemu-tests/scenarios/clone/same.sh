#!/bin/sh
# same.sh GOLDEN COPY DIR: a copy of a disk image on one of another length has the same table but
# for ends, one that fits it, file systems without errors, and the same trees.
set -eu
golden=$1
copy=$2
dir=$3
mkdir -p "$dir"
say() {
	echo "$copy: $*"
	exit 1
}
# Each partition: number, start and length in MiB, then all but the length.
table() {
	sfdisk -d "$1" | sed -n "s#^$1\([0-9]*\) : start= *\([0-9]*\), size= *\([0-9]*\),*\(.*\)#\1 \2 \3 \4#p"
}
sfdisk -d "$golden" | grep label-id >"$dir/one"
sfdisk -d "$copy" | grep label-id | diff "$dir/one" - || say "another identifier"
cmp -n 440 "$golden" "$copy" || say "another boot code"
checked=$(sfdisk -V "$copy" 2>&1) || say "$checked"
case $(sfdisk -d "$copy") in
*'label: gpt'*)
	checked=$(sgdisk -v "$copy")
	case $checked in *'No problems found'*) ;; *) say "$checked" ;; esac
	;;
esac
without() { table "$1" | cut -d' ' -f1,2,4-; }
without "$golden" >"$dir/one"
without "$copy" | diff "$dir/one" - || say "another table"
digest() {
	# Directories of some file systems have a size by their history.
	find "$1" -mindepth 1 ! -type d -printf '%P %y %m %U %G %n %s %Ts %l\n' | sort
	find "$1" -mindepth 1 -type d -printf '%P %m %U %G\n' | sort
	(cd "$1" && find . -type f -print0 | sort -z | xargs -0r sha256sum)
}
# tree DISK START LENGTH: what is in a partition; a copy is checked first.
tree() {
	loop=$(losetup -rf --show -o $(($2 * 512)) --sizelimit $(($3 * 512)) "$1")
	kind=$(blkid -p -s TYPE -o value "$loop")
	check=true mount="mount -r"
	case $kind in
	ext4) check="fsck.ext4 -n -f" ;;
	xfs) check="xfs_repair -n" mount="mount -o ro,nouuid,norecovery" ;;
	btrfs) check="btrfs check" ;;
	vfat) check="fsck.vfat -n" ;;
	ntfs) check="ntfsfix -n" mount="ntfs-3g -o ro" ;;
	esac
	[ "$1" = "$golden" ] || said=$($check "$loop" 2>&1) || say "$check: $said"
	echo "$kind $(blkid -p -s UUID -s LABEL -o value "$loop")"
	case $kind in
	vfat)
		rm -rf "$dir/tree"
		mkdir "$dir/tree"
		mcopy -i "$loop" -s -m ::/ "$dir/tree"
		(cd "$dir/tree" && find . -type f -print0 | sort -z | xargs -0r sha256sum)
		;;
	swap | "") ;;
	*)
		mkdir -p "$dir/tree"
		$mount "$loop" "$dir/tree"
		digest "$dir/tree"
		umount "$dir/tree"
		[ "$kind" != btrfs ] || btrfs device scan --forget >/dev/null 2>&1 || :
		;;
	esac
	if [ "$kind" = ntfs ]; then
		last=$(($3 - 1))
		dd if="$loop" bs=512 skip=$last count=1 status=none | cmp -n 512 - "$loop" >&2 ||
			say "no copy of NTFS's boot sector in its last sector"
		echo "hidden $(od -An -tu4 -j 28 -N 4 "$loop")"
	fi
	losetup -d "$loop"
}
table "$golden" | while read -r number start length _; do
	its=$(table "$copy" | sed -n "s/^$number $start \([0-9]*\) .*/\1/p")
	tree "$golden" "$start" "$length" >"$dir/one"
	tree "$copy" "$start" "$its" >"$dir/other"
	diff "$dir/one" "$dir/other" || say "partition $number differs"
	echo "partition $number: $(head -1 "$dir/one" | cut -d' ' -f1), $(wc -l <"$dir/one") lines, $((its / 2048)) MiB"
done
