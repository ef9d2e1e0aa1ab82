#!/bin/sh
# ISC dhcpd 4.4.3 with an address pool that is denied to unknown clients, beside dnsmasq 2.90.
#
# Guess: a server that ignores a card is silent to every question of it, as dnsmasq is.
# Seen: dhcpd says nothing to the card's DHCPDISCOVER and answers its DHCPINFORM. So a search for
# other DHCP servers that sends only DHCPDISCOVER misses it.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/room.sh"
packages dnsmasq-base=2.90-4~deb12u2 isc-dhcp-server=4.4.3-P1-2
room "brd +"

cat > "$T/ask.py" <<'P'
"""Sends DHCPDISCOVER, then DHCPINFORM, and prints the type of each answer (RFC 2131)."""
import os, socket, struct, sys
MAC = bytes.fromhex("020000000091")
def ask(kind, own):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    s.bind(("0.0.0.0", 68))
    s.settimeout(3)
    xid = os.urandom(4)
    flags = 0x8000 if kind == 1 else 0
    head = struct.pack("!4B4sHH", 1, 1, 6, 0, xid, 0, flags)
    head = (head + socket.inet_aton(own) + bytes(12) + MAC).ljust(236, b"\0")
    s.sendto(head + b"\x63\x82\x53\x63" + bytes([53, 1, kind, 55, 2, 1, 3, 255]), ("255.255.255.255", 67))
    try:
        while True:
            answer = s.recv(2048)
            if answer[4:8] == xid and answer[0] == 2:
                at = 240
                while answer[at] != 53:
                    at += 2 + answer[at + 1]
                return {2: "OFFER", 5: "ACK", 6: "NAK"}.get(answer[at + 2], "other")
    except TimeoutError:
        return "nothing"
print(ask(1, "0.0.0.0"), ask(8, "10.91.0.2"))
P

asked() { ip netns exec $B python3 "$T/ask.py"; }
listening() { until ip netns exec $A ss -Hlun 'sport = 67' | grep -q .; do kill -0 "$1" || exit 2; done; }

ip netns exec $A dnsmasq -k -C /dev/null -p 0 -i eth0 --bind-dynamic \
    --dhcp-range=10.91.0.50,10.91.0.60 --dhcp-ignore=tag:!known --dhcp-leasefile="$T/leases" --user=root &
listening $!
expect "dnsmasq, DHCPDISCOVER and DHCPINFORM of an unknown card" "$(asked)" "nothing nothing"
kill $!
wait $! 2> /dev/null || true

cat > "$T/dhcpd.conf" <<'C'
authoritative;
subnet 10.91.0.0 netmask 255.255.255.0 { pool { range 10.91.0.50 10.91.0.60; deny unknown-clients; } }
C
: > "$T/dhcpd.leases"
ip netns exec $A dhcpd -q -f -4 -cf "$T/dhcpd.conf" -lf "$T/dhcpd.leases" -pf "$T/dhcpd.pid" eth0 2> "$T/dhcpd.log" &
listening $!
expect "dhcpd, the same" "$(asked)" "nothing ACK"
