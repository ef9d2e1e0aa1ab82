#!/bin/sh
# Dropbear 2022.83: the exit status of dbclient after a refused password.
#
# Guess: an ssh client that could not log in ends with a status other than 0, as it does
# for a closed port.
# Seen: with a wrong DROPBEAR_PASSWORD it tries until the server disconnects, says
# "Disconnect received" and ends with 0. A script takes the command for done.
. "$(dirname "$0")/lib.sh"
packages dropbear-bin=2022.83-1+deb12u3 openssh-server=1:9.2p1-2+deb12u10 openssh-client=1:9.2p1-2+deb12u10

finish() { kill "$sshd" 2>/dev/null || true; }
ssh-keygen -q -t ed25519 -N '' -f "$T/key"
# sshd wants a user and a directory of its own, which come with an installation.
mkdir -p "$T/empty"
getent passwd sshd > /dev/null || { echo "this machine has no user sshd" >&2; exit 2; }
mkdir -p /run/sshd
cat > "$T/config" <<C
Port 52022
ListenAddress 127.0.0.1
HostKey $T/key
PidFile none
UsePAM no
PermitRootLogin yes
PasswordAuthentication yes
C
"$T/root/usr/sbin/sshd" -D -f "$T/config" &
sshd=$!
until ssh-keyscan -p 52022 127.0.0.1 2>/dev/null | grep -q .; do kill -0 $sshd || exit 2; done
login() { # PORT
    DROPBEAR_PASSWORD=wrong HOME=/dev/null dbclient -y -y -T -p "$1" root@127.0.0.1 'echo done' \
        > "$T/out" 2> "$T/err" < /dev/null && status=0 || status=$?
}
login 52022
expect "wrong password, status" $status 0
expect "the command ran" "$(grep -c done "$T/out")" 0
expect "its last message" "$(grep -o 'exited: .*' "$T/err")" "exited: Disconnect received"
login 1
expect "closed port, status" $status 1
