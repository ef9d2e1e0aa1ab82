#!/bin/sh
# iPXE 1.0.0+git20190125 on BIOS (the boot ROM that QEMU has) and an initramfs in several files.
#
# Guess: the files are put one behind the other, with up to three zeros between them, as the format
# needs and as GRUB and PXELINUX do it. So the header of a cpio entry may be one file, and what it
# describes the next: a large file is then served as it is.
# Seen: each file starts at a page of 4096 bytes. The entry gets the zeros of the gap as its content,
# and the kernel is content with that. Needs qemu-system-x86_64 with the boot ROM of its package
# ipxe-qemu, 1.0.0+git-20190125.36a4c85-5.1.
. "$(dirname "$0")/lib.sh"
packages linux-image-6.1.0-50-cloud-amd64=6.1.176-1 busybox-static=1:1.35.0-4+deb12u1+b1 cpio=2.13+dfsg-7.1

mkdir -p "$T/tree/dev" "$T/tftp"
cp "$T/root/bin/busybox" "$T/tree/busybox"
mknod "$T/tree/dev/console" c 5 1
cat > "$T/tree/init" <<'I'
#!/busybox sh
/busybox echo "content: $(/busybox tr '\000' 0 < /content)."
/busybox poweroff -f
I
chmod +x "$T/tree/init"
(cd "$T/tree" && printf '%s\n' . dev dev/console busybox init | cpio -o -H newc --quiet) > "$T/tftp/system"

# entry NAME SIZE: the header of a plain file, with zeros to a multiple of four bytes.
entry() {
    printf 070701
    printf %08x 0 33188 0 0 1 0 "$2" 0 0 0 0 $((${#1} + 1)) 0
    printf '%s\000' "$1"
    head -c $(((4 - (111 + ${#1}) % 4) % 4)) /dev/zero
}
entry content 8 > "$T/tftp/header"
printf original > "$T/tftp/original"
entry 'TRAILER!!!' 0 > "$T/tftp/trailer"
cp "$T"/root/boot/vmlinuz-* "$T/tftp/vmlinuz"
cat > "$T/tftp/script" <<'S'
#!ipxe
kernel vmlinuz console=ttyS0 panic=-1
initrd system
initrd header
initrd original
initrd trailer
boot
S

boot() {
    LD_LIBRARY_PATH= timeout 120 qemu-system-x86_64 -accel tcg -cpu max -m 512 -nodefaults -display none -no-reboot \
        -serial file:"$T/console" "$@" || true
    grep -ao -m1 'content: [a-z0]*\.' "$T/console" || echo nothing
}
(cd "$T/tftp" && cat system header original trailer) > "$T/whole"
expect "one behind the other" "$(boot -kernel "$T/tftp/vmlinuz" -initrd "$T/whole" -append 'console=ttyS0 panic=-1')" \
    "content: original."
expect "by iPXE" "$(boot -netdev user,id=n,tftp="$T/tftp",bootfile=script -boot n \
    -device virtio-net-pci,netdev=n)" "content: 00000000."
