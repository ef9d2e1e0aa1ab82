#!/bin/sh
# tftp-hpa 5.2's client, and dnsmasq 2.90 as the server, for a file that is not there.
#
# Guess: `tftp HOST -c get NAME` ends with another status than 0 when the server says
# that there is no such file, as curl does; a script that checks a boot server looks at it.
# Seen: it prints "Error code 1", ends with 0, and leaves an empty file of that name.
. "$(dirname "$0")/lib.sh"
packages tftp-hpa=5.2+20150808-1.4 dnsmasq-base=2.90-4~deb12u2

mkdir "$T/tftp" "$T/here"
chmod 755 "$T" "$T/tftp"
echo content > "$T/tftp/there"
export T
unshare --net sh -euc '
    ip link set lo up
    dnsmasq -k -C /dev/null -p 0 -i lo --bind-interfaces --enable-tftp --tftp-root="$T/tftp" --user=root --pid-file= &
    trap "kill $!" EXIT
    until ss -Hlun "sport = 69" | grep -q .; do kill -0 $!; sleep 0.1; done
    cd "$T/here"
    for name in there absent; do
        tftp -m binary 127.0.0.1 -c get $name > "$T/said.$name" 2>&1 && status=0 || status=$?
        echo $status > "$T/status.$name"
    done' 2> "$T/log"
expect "a file that is there, status" "$(cat "$T/status.there")" 0
expect "its content" "$(cat "$T/here/there")" content
expect "one that is not, status" "$(cat "$T/status.absent")" 0
expect "what it says" "$(grep -o 'Error code 1' "$T/said.absent")" "Error code 1"
expect "bytes of what it leaves" "$(stat -c %s "$T/here/absent" 2>&1)" 0
