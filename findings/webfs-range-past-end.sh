#!/bin/sh
# webfs 1.21 and a range that begins in the file and ends behind it.
#
# Guess: a client that reads a file in pieces of one size may ask for a whole piece at
# the end: the server gives what is there, with 206 (RFC 9110, section 14.1.2), as
# others do.
# Seen: 400 Bad Request. With pieces of 4096 bytes every file fails at its last piece,
# unless its size is a multiple.
. "$(dirname "$0")/lib.sh"
packages webfs=1.21+ds1-12+b1 busybox-static=1:1.35.0-4+deb12u1+b1

mkdir "$T/www"
head -c 10000 /dev/urandom > "$T/www/file"
chmod -R a+rX "$T"
cat > "$T/ask.py" <<'P'
import http.client, sys
for piece in ("0-4095", "4096-8191", "8192-9999", "8192-12287"):
    c = http.client.HTTPConnection("127.0.0.1", 8080, timeout=10)
    c.request("GET", "/file", headers={"Range": "bytes=" + piece})
    answer = c.getresponse()
    body = answer.read()
    sys.stdout.write(f"{answer.status}:{len(body) if answer.status == 206 else 0} ")
P
export T
serve() { # COMMAND...
    unshare --net sh -euc '
        ip link set lo up
        "$@" & trap "kill $!" EXIT
        until ss -Hltn "sport = 8080" | grep -q .; do kill -0 $!; sleep 0.1; done
        python3 "$T/ask.py"' - "$@" 2> "$T/log"
}
expect "busybox httpd" "$(serve busybox httpd -f -p 8080 -h "$T/www")" "206:4096 206:4096 206:1808 206:1808 "
expect "webfsd" "$(serve webfsd -F -p 8080 -r "$T/www")" "206:4096 206:4096 206:1808 400:0 "
