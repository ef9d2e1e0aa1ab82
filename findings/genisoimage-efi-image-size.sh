#!/bin/sh
# genisoimage 1.1.11 and an EFI boot image of more than 32 MiB.
#
# Guess: El Torito's field for the size of a boot image has 16 bits and counts 512
# bytes, so a larger image is refused, or the field gets its largest value.
# Seen: the count wraps, with status 0 and no word. For 40 MiB the ISO says 8 MiB, and
# for 32 MiB it says 0. A firmware that believes the field sees a cut FAT.
. "$(dirname "$0")/lib.sh"
packages genisoimage=9:1.1.11-3.4

# loads MIB: the sectors of 512 bytes that the catalogue's first entry names.
loads() {
    rm -rf "$T/tree" && mkdir "$T/tree"
    truncate -s "$1M" "$T/tree/efi.img"
    genisoimage -quiet -R -e efi.img -no-emul-boot -o "$T/iso" "$T/tree" 2> "$T/err" && status=0 || status=$?
    [ -s "$T/err" ] && said=words || said=silent
    catalogue=$(od -An -tu4 -j $((17 * 2048 + 71)) -N 4 "$T/iso")
    echo "status $status, $said," $(od -An -tu2 -j $((catalogue * 2048 + 32 + 6)) -N 2 "$T/iso")
}
expect "16 MiB (32768 sectors)" "$(loads 16)" "status 0, silent, 32768"
expect "32 MiB (65536 sectors)" "$(loads 32)" "status 0, silent, 0"
expect "40 MiB (81920 sectors)" "$(loads 40)" "status 0, silent, 16384"
