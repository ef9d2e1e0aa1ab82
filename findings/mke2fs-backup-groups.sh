#!/bin/sh
# mke2fs 1.47.0: block bitmaps of groups that hold backup super blocks.
#
# Guess: a group whose bitmap is marked uninitialised holds nothing, so a reader of
# used blocks may take the bitmap on the disk, zero or not, for what is in use.
# Seen: groups with a backup super block and descriptors are marked BLOCK_UNINIT and
# their bitmap on the disk is all zero. The blocks of the backups are in use all the
# same: a copy by the bitmaps loses every backup super block.
. "$(dirname "$0")/lib.sh"
packages e2fsprogs=1.47.0-2+b2 libext2fs2=1.47.0-2+b2

truncate -s 1G "$T/disk"
mkfs.ext4 -q "$T/disk"
group=$(dumpe2fs "$T/disk" 2> /dev/null | sed -n '/^Group 3:/,/^Group 4:/p')
echo "$group" | head -3 | sed 's/^/    /'
expect "group 3 is marked" "$(echo "$group" | grep -o -m1 BLOCK_UNINIT)" BLOCK_UNINIT
expect "it holds a backup super block" "$(echo "$group" | grep -o -m1 'Backup superblock')" "Backup superblock"
at=$(echo "$group" | sed -n 's/.*Block bitmap at \([0-9]*\).*/\1/p')
expect "bits that are set in its bitmap on the disk" \
    "$(dd if="$T/disk" bs=4096 skip="$at" count=1 2> /dev/null | tr -d '\0' | wc -c)" 0
