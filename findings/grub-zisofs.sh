#!/bin/sh
# GRUB 2.06 and an ISO whose files are packed with zisofs.
#
# Guess: a loader either unpacks such a file, as Linux does, or says that it cannot.
# Seen: it gives the packed bytes as the file, with status 0. A configuration file or a
# kernel read that way is no such thing, and the message that follows names something else.
. "$(dirname "$0")/lib.sh"
packages grub-common=2.06-13+deb12u2 xorriso=1.5.4-4 libisoburn1=1.5.4-4 libisofs6=1.5.4-1 libburn4=1.5.4-1 libjte2=1.22-3

mkdir "$T/tree"
seq 1 100000 > "$T/tree/kernel"
for kind in plain packed; do
    [ $kind = packed ] && filter="-set_filter_r --zisofs / --" || filter=
    xorriso -outdev "stdio:$T/$kind" -map "$T/tree" / $filter > "$T/log" 2>&1
    grub-fstest "$T/$kind" cat /kernel > "$T/$kind.read" 2> "$T/err" && status=0 || status=$?
    expect "$kind, status" $status 0
done
cmp -s "$T/tree/kernel" "$T/plain.read" && same=yes || same=no
expect "plain: the file's bytes" $same yes
expect "packed: the bytes it starts with (37e4 5396: zisofs)" "$(od -An -tx1 -N 4 "$T/packed.read")" " 37 e4 53 96"
expect "packed: fewer bytes than the file has" \
    "$([ "$(stat -c %s "$T/packed.read")" -lt "$(stat -c %s "$T/tree/kernel")" ] && echo yes)" yes
