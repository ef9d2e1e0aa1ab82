#!/bin/sh
# partclone 0.3.23 and the backup boot sector of NTFS.
#
# Guess: a copied NTFS partition has its backup boot sector, the last sector of the
# partition, since Windows and chkdsk repair the volume from it.
# Seen: status 0, and the last sector is what the target disk held before.
. "$(dirname "$0")/lib.sh"
packages partclone=0.3.23+repack-1 ntfs-3g=1:2022.10.3-1+deb12u4 libntfs-3g89=1:2022.10.3-1+deb12u4

sectors=500000
truncate -s $((sectors * 512)) "$T/disk"
mkntfs -q -Q -F -p 2048 -H 255 -S 63 -s 512 "$T/disk" > "$T/log" 2>&1
cmp -s -n 512 -i 0:$(((sectors - 1) * 512)) "$T/disk" "$T/disk" && kept=equal || kept=different
expect "source: last sector and boot sector" $kept equal

partclone.ntfs -c -s "$T/disk" -o "$T/image" -L "$T/log" > /dev/null 2>&1 && copied=0 || copied=$?
expect "copy, status" $copied 0
yes old | head -c $((sectors * 512)) > "$T/copy"
partclone.restore -s "$T/image" -O "$T/copy" -L "$T/log" > /dev/null 2>&1 && restored=0 || restored=$?
expect "restore, status" $restored 0
expect "restored: first bytes of the last sector" "$(tail -c 512 "$T/copy" | head -c 7 | tr '\n' ' ')" "old old"
