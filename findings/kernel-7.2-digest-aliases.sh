#!/bin/sh
# Debian's cloud kernels 6.12.117 (trixie) and 7.2.12 (forky): the digests that btrfs uses.
#
# Guess: what needs a digest of the kernel asks for `crypto-NAME`, so an initramfs for btrfs takes
# Seen: 7.2 has no module with the alias crypto-xxhash64 or crypto-blake2b-256, nor are they built in
# under these names: btrfs.ko needs the library libblake2b instead, and has no soft dependency left.
# A list of names that may not be missing makes no image for 7.2.
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
fetch() { # RELEASE PACKAGE=VERSION
    suite "$1"
    mkdir -p "$T/debs" "$T/$1"
    (cd "$T/debs" && apt-get -qq download "$2") || exit 2
    dpkg-deb -x "$T/debs/${2%%=*}"_*.deb "$T/$1"
}
alias() { # RELEASE ALIAS: the module that has it, without its folders
    find "$T/$1" -name '*.ko*' -path '*/kernel/*' | grep '/crypto/\|/lib/' |
        while read -r module; do modinfo -F alias "$module" | grep -qx "$2" && basename "$module"; done |
        cut -d. -f1 | sort | tr '\n' ' '
}
btrfs() { # RELEASE FIELD
    modinfo -F "$2" "$(find "$T/$1" -name 'btrfs.ko*')" | sort | tr '\n' ' '
}
fetch trixie linux-image-6.12.117+deb13-cloud-amd64=6.12.117-1
fetch forky linux-modules-7.2.12+deb14-cloud-amd64=7.2.12-1
expect "6.12, btrfs asks first for" "$(btrfs trixie softdep)" "pre: blake2b-256 pre: crypto-crc32c pre: sha256 pre: xxhash64 "
expect "6.12, crypto-xxhash64" "$(alias trixie crypto-xxhash64)" "xxhash_generic "
expect "6.12, crypto-blake2b-256" "$(alias trixie crypto-blake2b-256)" "blake2b_generic "
expect "7.2, btrfs asks first for" "$(btrfs forky softdep)" ""
expect "7.2, btrfs depends on" "$(btrfs forky depends)" "xor,libblake2b,raid6_pq "
expect "7.2, crypto-xxhash64" "$(alias forky crypto-xxhash64)" ""
expect "7.2, crypto-blake2b-256" "$(alias forky crypto-blake2b-256)" ""
