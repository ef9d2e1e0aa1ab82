#!/bin/sh
# mkfs.btrfs 6.2 --rootdir and a file that has a second name outside the folder.
#
# Guess: an image is made of what is below the folder, and a file counts the names that
# it has there, as mke2fs -d, mksquashfs and cpio do it.
# Seen: the link count of the source is taken over, with status 0. btrfs check calls the
# new file system damaged: "link count wrong". A tree that was made with `cp -al`, or one
# whose packages share files with another tree, makes such an image.
. "$(dirname "$0")/lib.sh"
packages btrfs-progs=6.2-1+deb12u2 e2fsprogs=1.47.0-2+b2 libext2fs2=1.47.0-2+b2

# makes: an image of $T/tree, and what the file system's own check says.
makes() {
    rm -f "$T/image"
    truncate -s 200M "$T/image"
    mkfs.btrfs -q --rootdir "$T/tree" "$T/image" > "$T/log" 2>&1 && status=0 || status=$?
    btrfs check --readonly "$T/image" > "$T/check" 2>&1 && found=clean || found=damaged
    echo "status $status, $found"
}
mkdir "$T/tree"
echo content > "$T/tree/one"
ln "$T/tree/one" "$T/tree/two"
expect "both names inside" "$(makes)" "status 0, clean"
rm "$T/tree/two"
ln "$T/tree/one" "$T/outside"
expect "one name outside" "$(makes)" "status 0, damaged"
expect "what the check says" "$(grep -o -m1 'link count wrong' "$T/check")" "link count wrong"
mke2fs -q -t ext4 -d "$T/tree" "$T/ext4" 64M
e2fsck -fn "$T/ext4" > "$T/check" 2>&1 && found=clean || found=damaged
expect "ext4 of the same tree, by e2fsck" $found clean
