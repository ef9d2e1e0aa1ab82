#!/bin/sh
# zstd 1.5.4 and lz4 1.9.4, which unpack an image onto a device that is not empty.
#
# Guess: with a device as the output file every byte of the image is written, as by
# dd or through a pipe; sparse output is for files that the program makes.
# Seen: both skip long runs of zeros also there, and end with 0. Where the image has
# zeros the device keeps what it held: the copy is another one than the image. With
# --no-sparse, or by the standard output, it is the image.
. "$(dirname "$0")/lib.sh"
packages zstd=1.5.4+dfsg2-5+deb12u1 lz4=1.9.4-1 liblz4-1=1.9.4-1

head -c 1M /dev/urandom > "$T/image"
truncate -s 8M "$T/image"
head -c 1M /dev/urandom >> "$T/image"
zstd -q "$T/image" -o "$T/image.zst"
lz4 -q "$T/image" "$T/image.lz4"
truncate -s 9M "$T/disk"
loop=$(losetup --find --show "$T/disk")
finish() { losetup --detach "$loop"; }

# unpacks COMMAND...: what the device, full of old text before, holds after it.
unpacks() {
    yes old | head -c 9M > "$loop"
    "$@" > "$T/log" 2>&1 && status=0 || status=$?
    cmp -s "$T/image" "$loop" && copy=equal || copy=other
    echo "status $status, $copy, old bytes in the zeros: $(dd if="$loop" bs=1M skip=4 count=1 2> /dev/null | head -c 3)"
}
expect "zstd -d -o DEVICE" "$(unpacks zstd -q -d -f "$T/image.zst" -o "$loop")" "status 0, other, old bytes in the zeros: old"
expect "lz4 -d DEVICE" "$(unpacks lz4 -q -d -f "$T/image.lz4" "$loop")" "status 0, other, old bytes in the zeros: old"
# The shell drops zero bytes, so nothing stands behind the colon where zeros were written.
expect "zstd --no-sparse" "$(unpacks zstd -q -d -f --no-sparse "$T/image.zst" -o "$loop" | tr -d '\000')" \
    "status 0, equal, old bytes in the zeros: "
expect "lz4 --no-sparse" "$(unpacks lz4 -q -d -f --no-sparse "$T/image.lz4" "$loop" | tr -d '\000')" \
    "status 0, equal, old bytes in the zeros: "
expect "zstd -dc > DEVICE" "$(unpacks sh -c "zstd -dc '$T/image.zst' > '$loop'" | tr -d '\000')" \
    "status 0, equal, old bytes in the zeros: "
