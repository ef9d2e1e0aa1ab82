#!/bin/sh
# PXELINUX 6.04 and a line of its configuration that ends in a backslash.
#
# Guess: a backslash at a line's end joins the next line, as in shell, in GRUB's
# menus and in published PXELINUX menus that are printed that way.
# Seen: no lines are joined. The kernel gets a lone backslash as its last word, and
# the words of the next line are lost without a message. Needs qemu-system-x86_64
# with a network boot ROM.
. "$(dirname "$0")/lib.sh"
packages linux-image-6.1.0-50-cloud-amd64=6.1.176-1 \
    pxelinux=3:6.04~git20190206.bf6db5b4+dfsg1-3 syslinux-common=3:6.04~git20190206.bf6db5b4+dfsg1-3

mkdir -p "$T/tftp/pxelinux.cfg"
cp "$T/root/usr/lib/PXELINUX/pxelinux.0" "$T/root/usr/lib/syslinux/modules/bios/ldlinux.c32" "$T/tftp"
cp "$T"/root/boot/vmlinuz-* "$T/tftp/vmlinuz"
cat > "$T/tftp/pxelinux.cfg/default" <<'C'
DEFAULT one
LABEL one
  KERNEL vmlinuz
  APPEND console=ttyS0 panic=-1 first=1 \
         second=2
C
LD_LIBRARY_PATH= timeout 300 qemu-system-x86_64 -accel tcg -cpu max -m 512 -nodefaults -display none -no-reboot \
    -serial file:"$T/console" -netdev user,id=n,tftp="$T/tftp",bootfile=pxelinux.0 -device virtio-net-pci,netdev=n -boot n || true
expect "the kernel's line" \
    "$(grep -ao -m1 'Command line: .*' "$T/console" | tr -d '\r' | grep -o 'first=1.*second=[^ ]*\|first=1 [^ ]*')" 'first=1 \'
