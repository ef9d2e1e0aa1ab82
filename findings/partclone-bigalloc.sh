#!/bin/sh
# partclone 0.3.23 and ext4 with clusters (bigalloc).
#
# Guess: the used-block map of a sound ext4 is right whatever options mkfs was
# given, or the copy fails; and an image that partclone.chkimg calls good restores.
# Seen: the plain copy stops with "bitmap error". With -F (force) the status is 0 and
# the checksums of the image are good, but clusters in use are left out: the restored
# file system has files of other bytes.
. "$(dirname "$0")/lib.sh"
packages partclone=0.3.23+repack-1 e2fsprogs=1.47.0-2+b2 libext2fs2=1.47.0-2+b2

mkdir "$T/tree"
for n in 1 2 3 4 5 6 7 8; do head -c 30000000 /dev/urandom > "$T/tree/file$n"; done
mkfs.ext4 -qF -O bigalloc -C 16384 -d "$T/tree" "$T/disk" 1G 2> /dev/null
e2fsck -fn "$T/disk" > "$T/log" 2>&1 && before=clean || before=damaged
expect "source by e2fsck" $before clean

partclone.ext4 -c -s "$T/disk" -o "$T/plain" -L "$T/log" > /dev/null 2>&1 && plain=0 || plain=$?
expect "plain copy, status" $plain 1
expect "its message" "$(grep -o -m1 'bitmap error' "$T/log")" "bitmap error"

partclone.ext4 -F -c -s "$T/disk" -o "$T/image" -L "$T/log" > /dev/null 2>&1 && forced=0 || forced=$?
expect "copy with -F, status" $forced 0
partclone.chkimg -s "$T/image" -L "$T/log" > /dev/null 2>&1 && good=0 || good=$?
expect "check of the image, status" $good 0
head -c 1G /dev/urandom > "$T/copy"
partclone.restore -s "$T/image" -O "$T/copy" -L "$T/log" > /dev/null 2>&1 && restored=0 || restored=$?
expect "restore, status" $restored 0
mkdir "$T/restored"
debugfs -R "rdump / $T/restored" "$T/copy" > /dev/null 2>&1
wrong=0
for file in "$T"/tree/*; do cmp -s "$file" "$T/restored/${file##*/}" || wrong=$((wrong + 1)); done
expect "restored files that are not the source's" "$([ $wrong -gt 0 ] && echo some || echo none)" some
