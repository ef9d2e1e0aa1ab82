#!/bin/sh
# Linux 6.1.176 (Debian's 6.1.0-50-cloud) and an initramfs in two gzip members.
#
# Guess: gzip members in a row are one stream (RFC 1952, section 2.2; gzip -d gives
# the whole archive), so a cpio archive may be compressed in pieces, in parallel.
# Seen: the kernel takes each member for an archive of its own. What the first
# member cuts off is lost: it says "junk at the end of compressed archive" and the
# files behind the cut are not there. Needs qemu-system-x86_64.
. "$(dirname "$0")/lib.sh"
packages linux-image-6.1.0-50-cloud-amd64=6.1.176-1 busybox-static=1:1.35.0-4+deb12u1+b1 cpio=2.13+dfsg-7.1

mkdir -p "$T/tree/dev"
cp "$T/root/bin/busybox" "$T/tree/busybox"
mknod "$T/tree/dev/console" c 5 1
head -c 3000000 /dev/urandom > "$T/tree/1-before"
echo last > "$T/tree/2-last"
cat > "$T/tree/init" <<'I'
#!/busybox sh
/busybox echo "unpacked: $(/busybox cat /2-last)"
/busybox poweroff -f
I
chmod +x "$T/tree/init"
(cd "$T/tree" && printf '%s\n' . dev dev/console busybox init 1-before 2-last | cpio -o -H newc --quiet) > "$T/cpio"
gzip -1 < "$T/cpio" > "$T/one"
half=$(($(wc -c < "$T/cpio") - 1000000))
{ head -c $half "$T/cpio" | gzip -1; tail -c +$((half + 1)) "$T/cpio" | gzip -1; } > "$T/two"
gzip -dc "$T/two" | cmp -s - "$T/cpio" && same=yes || same=no
expect "gzip -d of the two members is the archive" $same yes

boot() {
    LD_LIBRARY_PATH= timeout 120 qemu-system-x86_64 -accel tcg -cpu max -m 512 -nodefaults -display none -no-reboot \
        -serial file:"$T/console" -kernel "$T"/root/boot/vmlinuz-* -initrd "$1" -append "console=ttyS0 panic=-1" || true
}
boot "$T/one"
expect "one member" "$(grep -ao 'unpacked: last' "$T/console")" "unpacked: last"
boot "$T/two"
expect "two members, the kernel says" \
    "$(grep -ao -m1 'junk at the end of compressed archive' "$T/console")" "junk at the end of compressed archive"
expect "two members, the last file" "$(grep -ao 'unpacked:.*last' "$T/console" || echo missing)" missing
