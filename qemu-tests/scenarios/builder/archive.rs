//! The archive itself: the same on any day, GNU cpio reads it, a kernel boots it.

use qemu_tests::assets::Flavour;
use qemu_tests::machine::Bus;
use qemu_tests::{packages, scenario, secs};

use super::{Shop, live_iso, seen};

/// Two directories, two days, two time zones, two masks, other times and another
/// order of the files read.
const TWICE: &str = "
mkdir -p one two/deeper
cp -a MODULES one/VERSION
mkdir two/deeper/VERSION
(cd MODULES; find . -type f | sort -r | cpio -pdm --quiet \"$OLDPWD/two/deeper/VERSION\")
find two -exec touch -d '2001-02-03 04:05' {} +
(cd one; umask 022; TZ=UTC bellwether build --modules VERSION --profile virt -o image.img)
(cd two/deeper; umask 077; export TZ=Pacific/Kiritimati
 faketime '2031-05-06 07:08:09' bellwether build --modules VERSION --profile virt -o image.img
 faketime '2031-05-06 07:08:09' date +%Y)
cmp one/image.img two/deeper/image.img";

/// faketime would change the times of files, too.
const TWO_MEDIA: &str = "
export NO_FAKE_STAT=1
(cd one; umask 022; bellwether iso --root ROOT --kernel KERNEL --initrd image.img -o live.iso)
(cd two/deeper; umask 077; export TZ=Pacific/Kiritimati
 faketime '2031-05-06 07:08:09' bellwether iso --root ROOT --kernel KERNEL --initrd image.img -o live.iso)
cmp one/live.iso two/deeper/live.iso";

/// What GNU cpio makes of it, against what the command says is in it.
const UNPACKED: &str = "
mkdir unpacked; cd unpacked
zstd -dcq ../one/image.img | cpio -idm --quiet
find . -mindepth 1 | sed 's/^.//' | sort >../theirs
bellwether build --list ../one/image.img | grep -v ^segment | awk '{ print $4 }' | sort >../ours
diff ../ours ../theirs
stat -c '%F %a %t,%T' dev/console init
readlink sbin/modprobe
find . -type f -newermt '1970-01-02' | head -1
wc -l <../ours";

#[test]
fn the_same_on_another_day_and_it_boots() {
    scenario("builder-archive", |lab| {
        packages::ensure_all(&[("faketime", "another day")])?;
        let shop = Shop::open(lab)?;
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let filled = |script: &str| {
            script
                .replace("MODULES", &kernel.modules.to_string_lossy())
                .replace("VERSION", &kernel.version)
                .replace("KERNEL", &kernel.image.to_string_lossy())
        };
        let told = shop.sh(&filled(TWICE))?;
        assert!(told.trim_end().ends_with("2031"), "another day was not there: {told}");
        let root = lab.assets().small_root()?;
        shop.sh(&filled(TWO_MEDIA).replace("ROOT", &root.to_string_lossy()))?;

        let told = shop.sh(UNPACKED)?;
        let mut lines = told.lines();
        assert_eq!(lines.next(), Some("character special file 600 5,1"));
        assert_eq!(lines.next(), Some("regular file 755 0,0"));
        assert_eq!(lines.next(), Some("/init"));
        let entries: usize = lines.next().unwrap_or_default().parse().unwrap_or(0);
        assert!(entries > 60, "{told}");

        let image = shop.path("two/deeper/image.img");
        let client = lab.machine().kernel(&kernel.image, &image, &seen("boot=live"));
        let mut machine = client.disk(Bus::VirtioBlk, &live_iso(lab)?).start()?;
        machine.shell(secs(90))
    });
}
