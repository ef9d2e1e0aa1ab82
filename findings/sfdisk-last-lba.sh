#!/bin/sh
# sfdisk 2.38.1: a GPT carried to a larger disk by its own dump.
#
# Guess: `sfdisk -d small | sfdisk large` lays the table out for the larger disk,
# so that the last partition can then grow to the disk's end.
# Seen: the dump's last-lba line binds the new table to the small disk's size.
# Growing with "-N 1" and ", +" ends with status 0 and does not pass that size, and
# so does moving the backup header to the disk's end with --relocate gpt-bak-std.
. "$(dirname "$0")/lib.sh"
packages fdisk=2.38.1-5+deb12u3 libfdisk1=2.38.1-5+deb12u3 libsmartcols1=2.38.1-5+deb12u3

truncate -s 100M "$T/small"
truncate -s 400M "$T/large"
echo 'label: gpt
start=2048' | sfdisk -q "$T/small"
sfdisk -d "$T/small" | sfdisk -q "$T/large"
inside() { # whether the partition still ends inside the small disk's 204,800 sectors
    sfdisk -d "$T/large" | sed -n 's/.*start= *\([0-9]*\), size= *\([0-9]*\).*/\1 \2/p' | {
        read -r start size
        [ $((start + size)) -le 204800 ] && echo yes || echo no
    }
}
echo ', +' | sfdisk -q -N 1 "$T/large" && grown=0 || grown=$?
expect "growing the partition, status" $grown 0
expect "it still ends inside the small disk's size" "$(inside)" yes
sfdisk -q --relocate gpt-bak-std "$T/large" && moved=0 || moved=$?
echo ', +' | sfdisk -q -N 1 "$T/large"
expect "moving the backup header, status" $moved 0
expect "after that and growing again, it ends inside" "$(inside)" yes

sfdisk -d "$T/small" | sed '/^last-lba/d' | sfdisk -q "$T/large"
echo ', +' | sfdisk -q -N 1 "$T/large"
expect "without the last-lba line, it ends inside" "$(inside)" no
