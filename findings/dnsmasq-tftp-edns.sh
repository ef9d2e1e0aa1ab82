#!/bin/sh
# dnsmasq 2.90: the largest block of its TFTP server, on an interface with jumbo frames.
#
# Guess: a block of 8192 bytes fits an MTU of 9000, and what DNS is set to has nothing
# to do with TFTP.
# Seen: it agrees to 2263 bytes, also with DNS switched off (-p 0): blocks are made in the
# buffer of DNS packets, which hold --edns-packet-max and 1031 bytes. With
# --edns-packet-max=8192 the block is 8192.
. "$(dirname "$0")/lib.sh"
packages dnsmasq-base=2.90-4~deb12u2

mkdir "$T/tftp"
chmod 755 "$T" "$T/tftp"
head -c 100000 /dev/urandom > "$T/tftp/file"
cat > "$T/ask.py" <<'P'
"""Asks for blocks of 8192 bytes and prints what the server agrees to (RFC 2348)."""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.sendto(b"\0\1file\0octet\0blksize\08192\0", ("127.0.0.1", 69))
answer, server = s.recvfrom(9000)
s.sendto(b"\0\5\0\0\0", server)
print(answer[2:].decode().replace("\0", " ").strip())
P
export T
agreed() { # OPTION...
    unshare --net sh -euc '
        ip link set lo mtu 9000 up
        dnsmasq -k -C /dev/null -p 0 -i lo --bind-interfaces --enable-tftp --tftp-root="$T/tftp" --user=root --pid-file= "$@" &
        trap "kill $!" EXIT
        until ss -Hlun "sport = 69" | grep -q .; do kill -0 $!; sleep 0.1; done
        python3 "$T/ask.py"' - "$@" 2> "$T/log"
}
expect "as it comes" "$(agreed)" "blksize 2263"
expect "--edns-packet-max=4096" "$(agreed --edns-packet-max=4096)" "blksize 5127"
expect "--edns-packet-max=8192" "$(agreed --edns-packet-max=8192)" "blksize 8192"
