#!/bin/sh
# Linux 6.1.176 (Debian's 6.1.0-50-cloud): two archives of an initramfs, of which the
# first has the link lib -> usr/lib and the second the folder lib.
#
# Guess: as `cp -a` into a merged /usr or tar with --keep-directory-symlink: the second
# archive's lib/more comes to usr/lib, and what was below /lib stays there.
# Seen: the link is taken away and an empty folder put in its place, without a word. All
# that was reached through /lib (modules, the dynamic loader) is gone from there. An
# archive that is to go behind another initramfs must have no folder where that has a
# link. Needs qemu-system-x86_64.
. "$(dirname "$0")/lib.sh"
packages linux-image-6.1.0-50-cloud-amd64=6.1.176-1 busybox-static=1:1.35.0-4+deb12u1+b1 cpio=2.13+dfsg-7.1

mkdir -p "$T/first/dev" "$T/first/usr/lib" "$T/second/lib" "$T/third/usr/lib"
cp "$T/root/bin/busybox" "$T/first/busybox"
mknod "$T/first/dev/console" c 5 1
ln -s usr/lib "$T/first/lib"
echo > "$T/first/usr/lib/loader"
echo > "$T/second/lib/more"
echo > "$T/third/usr/lib/more"
cat > "$T/first/init" <<'I'
#!/busybox sh
for file in /lib/loader /lib/more /usr/lib/more; do
    [ -e $file ] && found="$found $file"
done
[ -L /lib ] && kind=link || kind=folder
/busybox echo "lib is a $kind:$found."
/busybox poweroff -f
I
chmod +x "$T/first/init"
for name in first second third; do (cd "$T/$name" && find . | sort | cpio -o -H newc --quiet) > "$T/$name.cpio"; done

boot() { # ARCHIVE behind the first
    cat "$T/first.cpio" "$T/$1.cpio" > "$T/initramfs"
    LD_LIBRARY_PATH= timeout 120 qemu-system-x86_64 -accel tcg -cpu max -m 512 -nodefaults -display none -no-reboot \
        -serial file:"$T/console" -kernel "$T"/root/boot/vmlinuz-* -initrd "$T/initramfs" -append "console=ttyS0 panic=-1" || true
    grep -ao 'lib is a [^.]*\.' "$T/console" || echo nothing
}
expect "with usr/lib/more" "$(boot third)" "lib is a link: /lib/loader /lib/more /usr/lib/more."
expect "with lib/more" "$(boot second)" "lib is a folder: /lib/more."
