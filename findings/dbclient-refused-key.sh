#!/bin/sh
# Dropbear 2022.83: dbclient without a terminal whose key the server refuses.
#
# Guess: with a key given and no terminal there is nothing left to try, and the client ends.
# Seen: it prints "password: " on its standard error and waits for a line on its standard input,
# for as long as that stays open. No option turns that off (ssh has BatchMode). A program that
# holds the pipe open waits for ever.
. "$(dirname "$0")/lib.sh"
packages dropbear-bin=2022.83-1+deb12u3 openssh-server=1:9.2p1-2+deb12u10 openssh-client=1:9.2p1-2+deb12u10

finish() { kill "$sshd" 2>/dev/null || true; }
ssh-keygen -q -t ed25519 -N '' -f "$T/host"
dropbearkey -t ed25519 -f "$T/key" > /dev/null 2>&1
getent passwd sshd > /dev/null || { echo "this machine has no user sshd" >&2; exit 2; }
mkdir -p /run/sshd
cat > "$T/config" <<C
Port 52023
ListenAddress 127.0.0.1
HostKey $T/host
PidFile none
UsePAM no
PermitRootLogin yes
AuthorizedKeysFile none
C
"$T/root/usr/sbin/sshd" -D -f "$T/config" 2>/dev/null &
sshd=$!
until ssh-keyscan -p 52023 127.0.0.1 2>/dev/null | grep -q .; do kill -0 $sshd || exit 2; done
mkfifo "$T/in"
HOME=/dev/null timeout 20 setsid -w dbclient -y -y -T -i "$T/key" -p 52023 root@127.0.0.1 'echo done' \
    > "$T/out" 2> "$T/err" <> "$T/in" && status=0 || status=$?
expect "ended by the time limit, status" $status 124
expect "what it asks" "$(tail -c 10 "$T/err")" "password: "
expect "a word about batches in its help" "$(dbclient -o help x 2>&1 | grep -ci batch)" 0
