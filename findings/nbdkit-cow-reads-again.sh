#!/bin/sh
# nbdkit 1.32.5: small reads through the filter cow, which virt-v2v puts before every disk.
#
# Guess: a client that reads 16 neighbouring pieces of 4 KiB, one after another, makes the server
# behind it read 64 KiB once, or 4 KiB sixteen times.
# Seen: each piece makes it read its whole block of 64 KiB: 1 MiB for 64 KiB. Nothing is kept
# between two reads unless `cow-on-read` says so. Of a system that was converted over a network 463
# MiB travelled before the copy began, and 98 MiB of them were not there already.
. "$(dirname "$0")/lib.sh"
packages nbdkit=1.32.5-1 "qemu-utils=1:7.2+dfsg-7+deb12u18+b3"

truncate -s 1M "$T/disk"
reads() {
    rm -f "$T/log"
    commands=
    for n in $(seq 0 15); do commands="$commands -c 'read $((n * 4096)) 4096'"; done
    nbdkit -U - --filter=cow --filter=log file "$T/disk" logfile="$T/log" "$@" \
        --run "qemu-io -f raw -r $commands \"\$uri\"" > /dev/null
    sed -n 's/.* Read .*count=\(0x[0-9a-f]*\).*/\1/p' "$T/log" | {
        sum=0
        while read -r count; do sum=$((sum + count)); done
        echo $sum
    }
}
expect "bytes read behind it for 65536" "$(reads)" 1048576
expect "the same with cow-on-read=true" "$(reads cow-on-read=true)" 65536
