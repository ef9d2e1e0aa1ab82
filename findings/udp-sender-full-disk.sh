#!/bin/sh
# udpcast 20120424: what udp-sender reports when a receiver's disk is full.
#
# Guess: the sender's status tells whether the receivers have the data.
# Seen: the receiver stops with an error and status 1; the sender drops it and ends
# with status 0, "Transfer complete". A script that looks at the sender's status
# takes a machine without its copy for a good one.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/room.sh"
packages udpcast=20120424-2+b1
room "brd +"

head -c 8000000 /dev/urandom > "$T/data"
ip netns exec $B udp-receiver --nokbd > /dev/full 2> "$T/receiver" &
receiver=$!
ip netns exec $A udp-sender --nokbd --min-receivers 1 --retries-until-drop 5 -f "$T/data" > "$T/sender" 2>&1 && status=0 || status=$?
wait $receiver && received=0 || received=$?
expect "the receiver says" "$(grep -o -m1 'No space left on device' "$T/receiver")" "No space left on device"
expect "the receiver, status" $received 1
expect "the sender, status" $status 0
expect "the sender says" "$(grep -o -m1 'Transfer complete.' "$T/sender")" "Transfer complete."
