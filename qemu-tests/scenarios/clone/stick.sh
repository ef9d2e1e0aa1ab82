#!/bin/sh
# stick.sh ISO DISK: what is on an ISO as a disk with a GPT and an EFI system partition.
set -e
iso=$1 disk=$2 tree=$2.tree
xorriso -abort_on FAILURE -osirrox on -indev "$iso" -extract / "$tree" >/dev/null 2>&1
chmod -R u+w "$tree"
truncate --size=128M "$disk"
printf 'label: gpt\nstart=2048, size=257024, type=uefi\n' | sfdisk --quiet "$disk"
mformat -i "$disk@@1M" -F -T 257024 -h 64 -s 32 -v BELLWETHER ::
MTOOLS_SKIP_CHECK=1 mcopy -i "$disk@@1M" -s -Q "$tree"/* ::/
rm -r "$tree"
