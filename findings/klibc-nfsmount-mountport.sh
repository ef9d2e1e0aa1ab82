#!/bin/sh
# klibc 2.0.12: nfsmount, which mounts NFS in the initramfs of live-boot and initramfs-tools.
#
# Guess: it takes the options of nfs(5), so a server without a portmapper is named by port= and
# mountport=, as for any other client.
# Seen: mountport= is a "bad option", which ends it before it makes any call. It takes port=, and its
# first call then still goes to the portmapper: a server that this initramfs is to mount has to
# answer on port 111.
. "$(dirname "$0")/lib.sh"
packages klibc-utils=2.0.12-1 libklibc=2.0.12-1

# The first TCP port that it calls at a server where nothing listens but what notes that.
cat > "$T/first.py" <<'P'
import selectors, socket, subprocess, sys
waits = selectors.DefaultSelector()
for port in (111, 2049, 20048):
    calls = socket.create_server(("127.0.0.1", port))
    waits.register(calls, selectors.EVENT_READ, port)
run = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
called = None
while run.poll() is None and called is None:
    for key, _ in waits.select(0.1):
        called = key.data
if called:
    run.kill()
print(called or "none", run.stderr.read().strip().splitlines()[-1:])
P
mkdir "$T/root/at"
try() {
    unshare --net sh -c 'ip link set lo up; exec "$@"' - python3 "$T/first.py" \
        chroot "$T/root" /usr/lib/klibc/bin/nfsmount -o "nfsvers=3,tcp,nolock,$1" 127.0.0.1:/srv /at
}
expect "with port= and mountport= it calls" "$(try port=2049,mountport=20048)" \
    "none [\"/usr/lib/klibc/bin/nfsmount: bad option 'mountport'\"]"
expect "with port= it calls" "$(try port=2049)" "111 []"
