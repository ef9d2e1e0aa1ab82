#!/bin/sh
# Debian forky's dracut-core 112-7, which provides dracut-live.
#
# Guess: what installs dracut-live gets all that dracut's module dmsquash-live needs, as in
# Debian 12, where dracut-live asks for dmsetup.
# Seen: dracut-core provides the name, and only suggests dmsetup. The module dm is refused
# without it, and `dracut --add dmsquash-live` ends with "depends on module 'dm', which can't be
# installed". dracut-squash is provided by no package: apt refuses that name.
. "$(dirname "$0")/lib.sh"
suite forky
mkdir "$T/debs" "$T/core"
(cd "$T/debs" && apt-get -qq download dracut-core=112-7) || exit 2
dpkg-deb -x "$T"/debs/dracut-core_*.deb "$T/core"
modules=$T/core/usr/lib/dracut/modules.d
field() { dpkg-deb -f "$T"/debs/dracut-core_*.deb "$1" | grep -c "$2" || true; }
expect "provides dracut-live" "$(field Provides dracut-live)" 1
expect "depends on or recommends dmsetup" "$(($(field Depends dmsetup) + $(field Recommends dmsetup)))" 0
expect "suggests dmsetup" "$(field Suggests dmsetup)" 1
expect "the module dm asks for the program" "$(grep -c 'require_binaries dmsetup' "$modules"/*dm/module-setup.sh)" 1
apt-get -s install dracut-live > "$T/plan"
expect "apt takes the name dracut-live" "$(grep -c '^Inst dracut-core ' "$T/plan")" 1
expect "apt takes the name dracut-squash" "$(apt-get -s install dracut-squash > "$T/plan" 2>&1 && echo yes || echo no)" no
