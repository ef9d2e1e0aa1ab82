#!/bin/sh
# partclone 0.3.23 and btrfs, whose metadata are kept twice (profile DUP).
#
# Guess: a copy of the used blocks carries both copies of the metadata, since both
# are used.
# Seen: status 0, but blocks of second copies are left out. The restored file
# system has only one good copy of them: the redundancy that DUP stands for is gone,
# and nothing says so until the first copy is damaged.
. "$(dirname "$0")/lib.sh"
packages partclone=0.3.23+repack-1 btrfs-progs=6.2-1+deb12u2

mkdir "$T/tree"
for n in 1 2 3 4; do head -c 20000000 /dev/urandom > "$T/tree/file$n"; done
truncate -s 1G "$T/disk"
mkfs.btrfs -q -m dup --rootdir "$T/tree" "$T/disk" > "$T/log" 2>&1
btrfs check --readonly "$T/disk" > "$T/log" 2>&1 && before=clean || before=damaged
expect "source by btrfs check" $before clean

partclone.btrfs -c -s "$T/disk" -o "$T/image" -L "$T/log" > /dev/null 2>&1 && copied=0 || copied=$?
expect "copy, status" $copied 0
yes garbage | head -c 1G > "$T/copy"
partclone.restore -s "$T/image" -O "$T/copy" -L "$T/log" > /dev/null 2>&1 && restored=0 || restored=$?
expect "restore, status" $restored 0
btrfs check --readonly "$T/copy" > "$T/check" 2>&1 && after=clean || after=damaged
expect "restored copy by btrfs check" $after clean

# The root of the chunk tree is one node of 16 KiB, kept at both stripes of the SYSTEM chunk.
node=$(btrfs inspect-internal dump-super "$T/disk" | awk '$1 == "chunk_root" { print $2 }')
set -- $(btrfs inspect-internal dump-tree -t chunk "$T/disk" | awk '
    /CHUNK_ITEM/ { sub(/\)/, "", $6); start = $6; system_chunk = 0 }
    /SYSTEM\|DUP/ { system_chunk = 1 }
    /stripe [01] devid/ && system_chunk { print start, $6 }')
for stripe in "$1 $2" "$3 $4"; do
    at=$((node - ${stripe% *} + ${stripe#* }))
    if cmp -s -i $at -n 16384 "$T/disk" "$T/copy"; then same="${same-} carried"; else same="${same-} left_out"; fi
done
expect "chunk tree's root, first and second copy" "${same# }" "carried left_out"
