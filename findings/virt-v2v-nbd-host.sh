#!/bin/sh
# virt-v2v 2.2.0 and the host name of an NBD disk in a libvirt XML.
#
# Guess: 127.0.0.1 and localhost are the same host, and a disk that cannot be used
# ends the conversion.
# Seen: a disk counts only when its host is the word localhost. With 127.0.0.1 it is
# left out with a warning and status 0: the machine has one disk less.
. "$(dirname "$0")/lib.sh"
packages virt-v2v=2.2.0-1 libvirt0=9.0.0-4+deb12u2 libnbd0=1.14.2-1 libguestfs0=1:1.48.6-2 libosinfo-1.0-0=1.10.0-2 \
    libyajl2=2.1.0-3+deb12u2 libssh-4=0.10.6-0+deb12u3 libsoup-3.0-0=3.2.3-0+deb12u2 nbdkit=1.32.5-1

domain() { # HOST of the second disk
    cat <<X
<domain type="physical"><name>m</name><memory unit="KiB">1048576</memory><vcpu>1</vcpu>
<os><type arch="x86_64">hvm</type></os><devices>
<disk type="network" device="disk"><driver name="qemu" type="raw"/>
<source protocol="nbd"><host name="localhost" port="50901"/></source><target dev="sda"/></disk>
<disk type="network" device="disk"><driver name="qemu" type="raw"/>
<source protocol="nbd"><host name="$1" port="50902"/></source><target dev="sdb"/></disk>
</devices></domain>
X
}
# nbdkit finds its plugins at fixed paths: the packages' libraries are laid over the
# machine's own in a private view.
disks() {
    domain "$1" > "$T/xml"
    unshare -m sh -c '
        lib=/usr/lib/x86_64-linux-gnu
        mount -t overlay -o lowerdir="$1/root$lib:$lib" none $lib
        unset LD_LIBRARY_PATH
        exec virt-v2v -i libvirtxml "$1/xml" -o null --print-source' \
        - "$T" > "$T/out" 2> "$T/err" && status=0 || status=$?
    echo "status $status, disks: $(sed -n '/^disks:/,/^removable/p' "$T/out" | grep -c '[0-9]')"
}
expect "second disk at localhost" "$(disks localhost)" "status 0, disks: 2"
expect "second disk at 127.0.0.1" "$(disks 127.0.0.1)" "status 0, disks: 1"
expect "what it says" "$(grep -oh 'warning:.*' "$T/out" "$T/err")" \
    "warning: <disk type='network'> with <source protocol='nbd'> was ignored"
