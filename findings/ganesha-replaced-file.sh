#!/bin/sh
# NFS-Ganesha 4.3-2 (Debian bookworm), a file that is replaced by rename on the server.
#
# Guess: a client that mounts anew and looks a name up reads what the name stands for
# on the server's disk, as with the kernel's own server; caches are the client's.
# Seen: by NFS 3 the server hands out the old file, which has no name any more, for
# 60 s to every client, also to one that has just come (here: libnfs, which has no
# cache). With Attr_Expiration_Time = 0 in EXPORT_DEFAULTS it serves the new one.
# Needs root; waits for nothing but the servers.
. "$(dirname "$0")/lib.sh"
packages nfs-ganesha=4.3-2 nfs-ganesha-vfs=4.3-2 libntirpc4.3=4.3-2 \
    libnfs-utils=4.0.0-1+deb12u1 libnfs13=4.0.0-1+deb12u1 liburcu8=0.13.2-1 rpcbind=1.2.6-6+b1
export LD_LIBRARY_PATH PATH T
read_twice() { # WORDS OF EXPORT_DEFAULTS: what is read before and after the replacement
    rm -rf "$T/srv" && mkdir -p "$T/srv"
    cat > "$T/conf" <<C
NFS_CORE_PARAM { Protocols = 3; NFS_Port = 2049; MNT_Port = 2050; Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = true; Plugins_Dir = "$T/root/usr/lib/x86_64-linux-gnu/ganesha"; }
EXPORT_DEFAULTS { SecType = sys; Squash = No_Root_Squash; $1 }
EXPORT { Export_Id = 1; Path = $T/srv; Pseudo = /srv; Access_Type = RO; Transports = TCP; FSAL { Name = VFS; } }
C
    unshare -mnp --fork --kill-child sh -euc '
        ip link set lo up; mount -t tmpfs none /run; mkdir -p /run/ganesha /run/rpcbind /var/lib/nfs/ganesha
        rpcbind -w 2> /dev/null; until ss -Hltn "sport = :111" | grep -q .; do sleep 0.1; done
        ganesha.nfsd -F -L "$T/log" -f "$T/conf" -p /run/pid > /dev/null 2>&1 &
        until ss -Hltn "sport = :2049" | grep -q .; do kill -0 $!; sleep 0.1; done
        read_it() { nfs-cat nfs://127.0.0.1/srv/file 2> /dev/null; }
        printf old > "$T/srv/file"; before=$(read_it)
        printf new > "$T/srv/other"; mv "$T/srv/other" "$T/srv/file"
        echo "$before, then $(read_it)"'
}
expect "as it comes" "$(read_twice "")" "old, then old"
expect "with Attr_Expiration_Time = 0" "$(read_twice "Attr_Expiration_Time = 0;")" "old, then new"
