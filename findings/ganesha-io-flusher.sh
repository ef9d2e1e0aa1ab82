#!/bin/sh
# NFS-Ganesha 6.5 (Debian trixie) in a container without CAP_SYS_RESOURCE.
#
# Guess: a user-space NFS server that has root's file capabilities starts in a
# container, as 4.3 of Debian bookworm does; resource limits are a refinement.
# Seen: PR_SET_IO_FLUSHER fails with EPERM, and the server ends for that reason
# alone, unless NFS_CORE_PARAM has allow_set_io_flusher_fail = true.
# Needs mmdebstrap and root.
. "$(dirname "$0")/lib.sh"
suite trixie
expect "version" "$(apt-cache policy nfs-ganesha | sed -n 's/ *Candidate: //p')" 6.5-5
mirror=$(sed 's/.*\] //; s/ .*//' "$T/apt/sources")
unset APT_CONFIG
mmdebstrap --quiet --mode=root --variant=extract --include=nfs-ganesha,nfs-ganesha-mem,libc-bin,dash,coreutils,netbase \
    --aptopt='Acquire::Check-Valid-Until "false"' trixie "$T/root" "$mirror" 2> "$T/log" || { cat "$T/log"; exit 2; }
cat > "$T/root/plain.conf" <<'C'
NFS_CORE_PARAM { Protocols = 4; NFS_Port = 20490; Enable_NLM = false; Enable_RQUOTA = false; }
EXPORT { Export_Id = 1; Path = /x; Pseudo = /x; Access_Type = RO; FSAL { Name = MEM; } }
C
sed 's/Protocols = 4;/& allow_set_io_flusher_fail = true;/' "$T/root/plain.conf" > "$T/root/allowed.conf"
serve() { # CONFIGURATION: "ends" or "serves" (the log says so when it is up), without CAP_SYS_RESOURCE
    rm -f "$T/root/log"
    unshare -mnp --fork --kill-child sh -c '
        ip link set lo up
        mount -t proc proc "$1/proc"; mount -t tmpfs none "$1/run"; mkdir -p "$1/run/ganesha" "$1/var/lib/nfs/ganesha"
        exec setpriv --bounding-set -sys_resource --inh-caps -sys_resource \
            chroot "$1" /usr/bin/ganesha.nfsd -F -L /log -f "/$2" -p /run/pid' - "$T/root" "$1" > "$T/err" 2>&1 &
    server=$!
    while kill -0 $server 2> /dev/null; do
        grep -q 'NFS SERVER INITIALIZED' "$T/root/log" 2> /dev/null && { kill -KILL $server; wait $server 2> /dev/null || true; echo serves; return; }
        sleep 0.2
    done
    echo ends
}
expect "as it comes" "$(serve plain.conf)" ends
expect "the log's reason" "$(grep -o -m1 'PR_SET_IO_FLUSHER[^.]*' "$T/root/log")" "PR_SET_IO_FLUSHER with EPERM"
expect "with allow_set_io_flusher_fail" "$(serve allowed.conf)" serves
