#!/bin/sh
# GRUB 2.06 and squashfs images by compression.
#
# Guess: GRUB has zstd (its btrfs reads it), so a kernel and an initramfs can be taken
# out of a live system's squashfs whatever mksquashfs packed it with.
# Seen: squashfs with gzip, xz and lzo is read. With zstd or lz4 it is an "unknown
# filesystem": the message points at the format, not at the compression.
. "$(dirname "$0")/lib.sh"
packages grub-common=2.06-13+deb12u2 squashfs-tools=1:4.5.1-1

mkdir "$T/tree"
seq 1 100000 > "$T/tree/kernel"
reads() { # COMPRESSION
    rm -f "$T/image"
    mksquashfs "$T/tree" "$T/image" -quiet -no-progress -comp "$1" > "$T/log"
    if grub-fstest "$T/image" cat /kernel 2> "$T/err" | cmp -s - "$T/tree/kernel"; then echo reads
    else grep -o -m1 'unknown filesystem' "$T/err" || cat "$T/err"; fi
}
for name in gzip xz lzo; do expect "$name" "$(reads $name)" reads; done
for name in zstd lz4; do expect "$name" "$(reads $name)" "unknown filesystem"; done
