#!/bin/sh
# Debian forky's live-boot-initramfs-tools 1:20250815 and the initramfs that it makes.
#
# Guess: the packages live-boot, live-boot-initramfs-tools, systemd-sysv and udev in a root of
# essential packages are enough for update-initramfs, as they are in Debian 12 and 13.
# Seen: live-boot's hook copies /sbin/losetup, which is in the package mount. Neither live-boot's
# packages nor systemd ask for mount any more, and it is not essential: update-initramfs ends
# with "binary '/sbin/losetup' not found".
. "$(dirname "$0")/lib.sh"
suite forky
mkdir "$T/debs" "$T/hook"
version=$(apt-cache policy live-boot-initramfs-tools | awk '$1 == "Candidate:" { print $2 }')
case $version in *20250815*) ;; *) exit 2 ;; esac
(cd "$T/debs" && apt-get -qq download live-boot-initramfs-tools mount util-linux) || exit 2
dpkg-deb -x "$T"/debs/live-boot-initramfs-tools_*.deb "$T/hook"
holds() { dpkg-deb --fsys-tarfile "$T"/debs/"$1"_*.deb | tar -t | grep -c 'sbin/losetup$' || true; }
expect "the hook copies it" "$(grep -c 'losetup' "$T/hook/usr/share/initramfs-tools/hooks/live" | sed 's/^[1-9].*/yes/')" yes
expect "losetup in util-linux, which is essential" "$(holds util-linux)" 0
expect "losetup in mount" "$(holds mount)" 1
expect "mount is essential" "$(apt-cache show mount | grep -c '^Essential: yes' || true)" 0
apt-get -s --no-install-recommends install live-boot live-boot-initramfs-tools systemd-sysv udev util-linux > "$T/plan"
expect "apt installs initramfs-tools" "$(grep -c '^Inst initramfs-tools ' "$T/plan")" 1
expect "apt installs mount" "$(grep -c '^Inst mount ' "$T/plan" || true)" 0
