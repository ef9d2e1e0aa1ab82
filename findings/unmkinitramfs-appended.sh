#!/bin/sh
# initramfs-tools 0.142's unmkinitramfs (and lsinitramfs, which is made of it), on an
# initramfs with an archive behind its compressed one.
#
# Guess: what the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst
# allows archives in any order, packed or not) is listed, or at least its first archive is.
# Seen: nothing is. It tries each compression on the whole rest of the file and
# believes none of them because of what stands behind; the message is "premature end of
# archive". The same archives the other way round are shown in full.
. "$(dirname "$0")/lib.sh"
packages initramfs-tools-core=0.142+deb12u3 cpio=2.13+dfsg-7.1 zstd=1.5.4+dfsg2-5+deb12u1

for name in main added; do
    mkdir "$T/$name"
    echo content > "$T/$name/file-$name"
    (cd "$T/$name" && find . | cpio -o -H newc --quiet) > "$T/$name.cpio"
done
# shows FILE: status, and the files that are unpacked.
shows() {
    rm -rf "$T/out"
    sh "$T/root/usr/bin/unmkinitramfs" "$1" "$T/out" > "$T/log" 2>&1 && status=0 || status=$?
    echo "status $status:" $(find "$T/out" -type f -name 'file-*' -printf '%f\n' | sort)
}
for pack in "gzip -c" "xz -c --check=crc32" "zstd -c"; do
    $pack "$T/main.cpio" > "$T/packed" 2> /dev/null
    # The kernel wants an archive to begin at a multiple of four bytes.
    { cat "$T/packed"; head -c $(((4 - $(stat -c %s "$T/packed") % 4) % 4)) /dev/zero; cat "$T/added.cpio"; } > "$T/both"
    cat "$T/added.cpio" "$T/packed" > "$T/turned"
    expect "${pack%% *}: alone" "$(shows "$T/packed")" "status 0: file-main"
    expect "${pack%% *}: with one in front" "$(shows "$T/turned")" "status 0: file-added file-main"
    expect "${pack%% *}: with one behind" "$(shows "$T/both")" "status 2:"
    expect "  what it says" "$(grep -o -m1 'premature end of archive' "$T/log")" "premature end of archive"
done
