#!/bin/sh
# Debian forky's kernel package, linux-image-7.2.12+deb14-cloud-amd64 7.2.12-1.
#
# Guess: a linux-image .deb holds /boot/vmlinuz-VERSION and the modules, as in every
# Debian release before, so a boot image can be built from that one file.
# Seen: it holds neither. The modules are in linux-modules-VERSION. The kernel is in
# linux-binary-VERSION, below /usr/lib/modules; no package has a file in /boot.
. "$(dirname "$0")/lib.sh"
suite forky
v=7.2.12+deb14-cloud-amd64
mkdir "$T/debs"
(cd "$T/debs" && apt-get -qq download linux-image-$v=7.2.12-1 linux-modules-$v=7.2.12-1 linux-binary-$v=7.2.12-1) || exit 2
holds() { # PACKAGE PATTERN
    dpkg-deb --fsys-tarfile "$T"/debs/linux-"$1"-*.deb | tar -t | grep -c "$2" || true
}
expect "linux-image: kernels and modules" "$(holds image 'vmlinuz\|\.ko')" 0
expect "linux-modules: has modules" "$([ "$(holds modules '\.ko\.xz$')" -gt 100 ] && echo yes)" yes
expect "linux-binary: the kernel" \
    "$(dpkg-deb --fsys-tarfile "$T"/debs/linux-binary-*.deb | tar -t | grep vmlinuz)" "./usr/lib/modules/$v/vmlinuz"
expect "files in /boot, all three" "$(($(holds image '^\./boot/.') + $(holds modules '^\./boot/.') + $(holds binary '^\./boot/.')))" 0
