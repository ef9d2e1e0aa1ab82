#!/bin/sh
# The ISO of memtest86+ 6.10 in Debian's package.
#
# Guess: as on other media, a boot loader on it starts a file with the tester
# (memtest.bin or memtest.efi), so a look at the files tells what the ISO is.
# Seen: there is no boot loader, no menu and no such file. BIOS boots a floppy image,
# whose first sector loads the tester that follows it without a file system; UEFI's
# default loader, bootx64.efi, is the tester. Only the volume's label names it.
. "$(dirname "$0")/lib.sh"
packages memtest86+=6.10-4 libisoburn1=1.5.4-4 xorriso=1.5.4-4 libisofs6=1.5.4-1 libburn4=1.5.4-1 libjte2=1.22-3

iso=$T/root/usr/lib/memtest86+/memtest86+x64.iso
# LD_LIBRARY_PATH has the unpacked libraries.
xorriso -indev "$iso" -osirrox on -find / -type f > "$T/files" 2>/dev/null
xorriso -indev "$iso" -osirrox on -extract /boot/floppy.img "$T/floppy" -extract /EFI/BOOT/bootx64.efi "$T/efi" 2>/dev/null
expect "files" "$(tr -d "'" < "$T/files" | sort | tr '\n' ' ' | sed 's/ $//')" \
    "/EFI/BOOT/bootx64.efi /boot/floppy.img"
expect "label" "$(dd if="$iso" bs=1 skip=$((16 * 2048 + 40)) count=32 2>/dev/null | tr -d ' \0')" MT86PLUS_64
expect "floppy with a FAT" "$(dd if="$T/floppy" bs=1 skip=54 count=3 2>/dev/null | grep -c FAT || true)" 0
expect "the tester's name in the EFI loader" "$(grep -ac 'Memtest86+' "$T/efi" | sed 's/[1-9][0-9]*/yes/')" yes
