#!/bin/sh
# util-linux 2.38.1: partx --update on a disk with logical partitions.
#
# Guess: it makes the kernel's list that of the table, as partx --add does for a disk of which the
# kernel knows nothing.
# Seen: it adds the primary and the extended partition, leaves out the logical ones, and ends
# with 0. With --nr 1:256 they come.
. "$(dirname "$0")/lib.sh"
packages util-linux=2.38.1-5+deb12u3 fdisk=2.38.1-5+deb12u3

truncate -s 64M "$T/disk"
printf 'label: dos\nsize=8M,type=83\ntype=5\nsize=8M,type=83\ntype=83\n' | sfdisk -q "$T/disk"
loop=$(losetup --find --show "$T/disk")
finish() { partx --delete "$loop" 2>/dev/null || true; losetup --detach "$loop"; }

# tells OPTION...: the partitions that the kernel knows after it, when it knew none.
tells() {
    partx --delete "$loop" 2>/dev/null || true
    partx "$@" "$loop" && status=0 || status=$?
    (cd "/sys/block/${loop#/dev/}" && ls -d loop*p* | sed 's/.*p//' | tr '\n' ' ')
    echo "status $status"
}
expect "partx --add" "$(tells --add)" "1 2 5 6 status 0"
expect "partx --update" "$(tells --update)" "1 2 status 0"
expect "partx --update --nr 1:256" "$(tells --update --nr 1:256)" "1 2 5 6 status 0"
