#!/bin/sh
# udpcast 20120424 on interfaces without a broadcast address, which is what
# `ip addr add 10.91.0.1/24 dev eth0` makes.
#
# Guess: sender and receiver of one release find each other on one cable.
# Seen: the sender calls at the multicast address 224.0.0.1, and its own receiver,
# started before it, does not hear it there. With a broadcast address both work.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/room.sh"
packages udpcast=20120424-2+b1
head -c 100000 /dev/urandom > "$T/data"

try() {
    rm -f "$T/copy"
    room "$1"
    timeout 15 ip netns exec $B udp-receiver --nokbd --start-timeout 10 -f "$T/copy" > "$T/receiver" 2>&1 &
    timeout 15 ip netns exec $A udp-sender --nokbd --min-receivers 1 --max-wait 6 -f "$T/data" > "$T/sender" 2>&1 || true
    wait
    cmp -s "$T/data" "$T/copy" && echo copied || echo "not copied"
    finish
}
with=$(try "brd +")
expect "with a broadcast address" "$with" copied
without=$(try "")
expect "the sender calls at" "$(sed -n 's/^Broadcasting control to //p' "$T/sender")" 224.0.0.1
expect "without one" "$without" "not copied"
