#!/bin/sh
# live-boot 20230131 and the words of the kernel's line behind a lone "--".
#
# Guess: "--" ends the kernel's own words, and what follows is for the init program
# alone (Documentation/admin-guide/kernel-parameters.rst).
# Seen: live-boot reads all of /proc/cmdline. Its words count behind the dashes, too,
# and menus with `boot=live components -- persistence` rely on that. A program that
# stops at the dashes keeps no changes, without a word.
. "$(dirname "$0")/lib.sh"
packages live-boot=1:20230131+deb12u1

cat > "$T/read.sh" <<'R'
. "$1/lib/live/boot/9990-cmdline-old"
LIVE_BOOT_CMDLINE=$2
Cmdline_old > /dev/null 2>&1
echo "persistence ${PERSISTENCE:-off}, toram ${TORAM:-off}"
R
expect "boot=live" "$(sh "$T/read.sh" "$T/root" "boot=live")" "persistence off, toram off"
expect "boot=live -- persistence toram" \
    "$(sh "$T/read.sh" "$T/root" "boot=live -- persistence toram")" "persistence true, toram true"
