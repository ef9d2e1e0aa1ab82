#!/bin/sh
# many.sh KIND DISK: a disk image with files of every kind, and free space behind its last
# partition. KIND is gpt (EFI system partition, ext4, swap, btrfs, NTFS, xfs) or ntfs (a DOS table
# with NTFS alone, as Windows makes it).
set -eu
kind=$1
disk=$2
root=$2.root
mkdir -p "$root"
# A run that was ended has left its own.
rm -f "$disk"
fill() {
	mkdir -p "$1/many/deep" "$1/empty"
	for number in $(seq 40); do
		head -c $((number * 9973)) /dev/urandom >"$1/many/file$number"
		echo "small $number" >"$1/many/deep/small$number"
	done
	# A copy takes long enough to be broken off.
	[ "$kind" != ntfs ] || head -c 60M /dev/urandom >"$1/large"
	# What is free again has old bytes.
	rm "$1"/many/file*[37]
}
odd() {
	ln "$1/many/file1" "$1/hard"
	ln -s many/file2 "$1/soft"
	mkfifo "$1/fifo"
	truncate -s 30M "$1/holes"
	printf x | dd of="$1/holes" bs=1 seek=20000000 conv=notrunc status=none
	chmod 4751 "$1/many/file2"
	chown 1234:5678 "$1/many/file4"
	touch -d '2001-02-03 04:05:06' "$1/many/file5"
}
# The loop device of a part: start and length in MiB.
part() {
	losetup -f --show -o $(($1 * 1048576)) --sizelimit $(($2 * 1048576)) "$disk"
}
# part, mkfs and how it is mounted
make() {
	loop=$(part "$1" "$2")
	shift 2
	mount=$1
	shift
	"$@" "$loop" >/dev/null 2>&1
	[ "$mount" = none ] || {
		$mount "$loop" "$root"
		fill "$root"
		case $mount in mount) odd "$root" ;; esac
		umount "$root"
	}
	losetup -d "$loop"
}
case $kind in
gpt)
	truncate -s 640M "$disk"
	printf 'label: gpt\nsize=40M,type=U,name=esp\nsize=60M\nsize=16M,type=S\nsize=120M\nsize=40M,type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\nsize=300M,name=last\n' |
		sfdisk -q "$disk"
	make 1 40 none mkfs.vfat -F 32 -n ESP
	fill "$root/esp"
	mcopy -i "$disk@@1M" -s "$root/esp/many" "$root/esp/empty" ::
	rm -r "$root/esp"
	make 41 60 mount mkfs.ext4 -q -L data
	make 101 16 none mkswap -L swap
	make 117 120 mount mkfs.btrfs -q
	make 237 40 ntfs-3g mkntfs -F -Q -p 485376 -H 255 -S 63
	make 277 300 mount mkfs.xfs -q
	;;
ntfs)
	truncate -s 300M "$disk"
	printf 'label: dos\nlabel-id: 0x5eedcafe\nsize=200M,type=7,bootable\n' | sfdisk -q "$disk"
	# Some boot code, which a table is written behind.
	printf '\372\063\300\216\320' | dd of="$disk" conv=notrunc status=none
	make 1 200 ntfs-3g mkntfs -F -Q -p 2048 -H 255 -S 63 -L Windows
	;;
esac
