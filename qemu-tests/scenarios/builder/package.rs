//! The Debian package, in a Debian that has nothing else of ours.

use std::fs;

use qemu_tests::assets::Flavour;
use qemu_tests::assets::media::run;
use qemu_tests::{Error, packages, scenario, workspace};

use super::assert_contains;

/// Inside the new system. `KERNEL` is a kernel's release.
const INSIDE: &str = r#"
set -eux
apt-get install --yes --no-install-recommends ./bellwether.deb </dev/null
dpkg -s bellwether | grep '^Status: install ok installed'
for file in usr/bin/bellwether usr/share/man/man1/bellwether-build.1.gz \
    usr/share/bash-completion/completions/bellwether usr/share/zsh/vendor-completions/_bellwether \
    usr/share/fish/vendor_completions.d/bellwether.fish etc/default/bellwether \
    etc/kernel/postinst.d/zz-bellwether etc/kernel/postrm.d/zz-bellwether \
    etc/initramfs/post-update.d/bellwether usr/lib/kernel/install.d/90-bellwether.install; do
    test -s "/$file"
done
ldd /usr/bin/bellwether | (! grep 'not found')
bellwether --version

# The command, with its own /init.
bellwether build --modules /lib/modules/KERNEL --profile virt -o /tmp/virt.img
bellwether build --list /tmp/virt.img | grep ' /init$'

# The hooks: off, beside, append, replace; removal of the kernel.
run() { /etc/kernel/postinst.d/zz-bellwether KERNEL /boot/vmlinuz-KERNEL; }
mode() { sed -i "s/^BELLWETHER_MODE=.*/BELLWETHER_MODE=$1/" /etc/default/bellwether; }
sed -i "s/^BELLWETHER_BUILD=.*/BELLWETHER_BUILD='--profile virt'/" /etc/default/bellwether
run; test -z "$(ls /boot)"
mode beside; run; cmp /boot/bellwether-KERNEL.img /tmp/virt.img
cp /tmp/virt.img /boot/initrd.img-KERNEL
mode append; run
test "$(stat -c %s /boot/bellwether-KERNEL.img)" -gt "$(stat -c %s /tmp/virt.img)"
bellwether build --list /boot/bellwether-KERNEL.img | grep '^segment 2 '
rm /boot/initrd.img-KERNEL
mode replace; run; cmp /boot/initrd.img-KERNEL /tmp/virt.img
mode beside; /etc/kernel/postrm.d/zz-bellwether KERNEL; test ! -e /boot/bellwether-KERNEL.img
rm /boot/initrd.img-KERNEL
mkdir /tmp/entry
KERNEL_INSTALL_INITRD_GENERATOR=bellwether \
    /usr/lib/kernel/install.d/90-bellwether.install add KERNEL /tmp/entry
cmp /tmp/entry/initrd /tmp/virt.img
mode beside; run
rm /boot/bellwether-KERNEL.img

# With initramfs-tools: whenever it has made its image, ours takes its place.
echo CONFIG_RD_GZIP=y >/boot/config-KERNEL
apt-get install --yes --no-install-recommends initramfs-tools </dev/null
mode off; update-initramfs -c -k KERNEL; (! cmp /boot/initrd.img-KERNEL /tmp/virt.img)
mode replace; update-initramfs -u -k KERNEL; cmp /boot/initrd.img-KERNEL /tmp/virt.img
update-initramfs -u -k KERNEL; cmp /boot/initrd.img-KERNEL /tmp/virt.img
mode append; update-initramfs -u -k KERNEL; bellwether build --list /boot/bellwether-KERNEL.img | grep ' /init$'
rm /boot/initrd.img-KERNEL

# Gone without a trace, but for what others made: the log of dpkg, and the image.
apt-get purge --yes bellwether
rm -f /boot/bellwether-KERNEL.img
find / -xdev -iname '*bellwether*' -not -path '/proc/*' -not -path '/bellwether.deb' | (! grep .)
echo 'all is well'
"#;

#[test]
#[ignore = "builds the release and a Debian system: cargo xtask test --sweep"]
fn sweep_debian_package() {
    scenario("builder-package", |lab| {
        packages::ensure_all(&[("dpkg-dev", "what the package needs to be named")])?;
        let place = lab.scratch("package")?;
        let root = place.join("root");
        let at = |name: &str| place.join(name).to_string_lossy().into_owned();
        let maker = workspace::root().join("bellwether/packaging/make-deb");
        run(&["sh", "-euc", &format!("'{}' '{}'", maker.display(), at("deb"))])?;
        run(&["sh", "-euc", &format!("cp '{}'/*.deb '{}'", at("deb"), at("bellwether.deb"))])?;
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let script = INSIDE.replace("KERNEL_INSTALL", "\u{1}").replace("KERNEL", &kernel.version);
        let script = script.replace('\u{1}', "KERNEL_INSTALL");
        fs::write(place.join("inside"), script).map_err(Error::at("write", &place))?;
        // mmdebstrap mounts what a package manager wants, and takes it away again.
        let (inside, deb) = (at("inside"), at("bellwether.deb"));
        let hook = format!(
            "set -eu; mkdir -p \"$1/lib/modules\" \"$1/boot\"; cp -a '{}' \"$1/lib/modules/\"; \
             cp '{deb}' \"$1/bellwether.deb\"; cp '{inside}' \"$1/inside\"; \
             chroot \"$1\" /bin/sh /inside >'{}' 2>&1",
            kernel.modules.display(),
            at("inside.log")
        );
        let made = run(&[
            "mmdebstrap",
            "--quiet",
            "--variant=apt",
            &format!("--customize-hook={hook}"),
            lab.assets().release(),
            &root.to_string_lossy(),
        ]);
        let log = fs::read_to_string(place.join("inside.log")).unwrap_or_default();
        assert!(made.is_ok(), "{made:?}\n{log}");
        assert_contains(&log, "all is well");
        Ok(())
    });
}
