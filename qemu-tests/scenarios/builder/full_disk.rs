//! A disk without room: one line, status 1, nothing under the final name.

use qemu_tests::assets::Flavour;
use qemu_tests::scenario;

use super::{Shop, assert_contains};

/// Each command on a file system of 1 MiB, in a mount namespace of its own.
const FULL: &str = r#"
mkdir -p full
try() {
    name=$1; shift
    echo "case $name"
    unshare -m sh -c '
        mount -t tmpfs -o size=1M tmpfs full
        name=$1; shift
        status=0; "$@" >out.txt 2>err.txt || status=$?
        echo "status $status, lines $(wc -l <err.txt), left: $(ls -A full | tr "\n" " ")"
        cat err.txt' sh "$name" "$@"
}
try build bellwether build --modules modules --profile virt -o full/x.img
try iso bellwether iso --root squashfs --kernel vmlinuz --initrd init.img -o full/x.iso
try image bellwether image init.img -o full/x.ext2
try squashfs bellwether image --format squashfs root -o full/x.squashfs
try clp bellwether image --format clp root -o full/x.clp
try pxe bellwether pxe --kernel vmlinuz --initrd init.img --append boot=live full/tftp
"#;

#[test]
fn a_full_disk() {
    scenario("builder-full-disk", |lab| {
        let shop = Shop::open(lab)?;
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        shop.put(&kernel.image, "vmlinuz")?;
        shop.sh(&format!(
            "ln -s '{}' modules; ln -s '{}' squashfs; ln -s '{}' root
             bellwether build --modules modules -o init.img",
            kernel.modules.display(),
            lab.assets().small_squashfs()?.display(),
            lab.assets().small_root()?.display()
        ))?;
        let told = shop.sh(FULL)?;
        assert_eq!(told.matches("case ").count(), 6, "{told}");
        for case in told.split("case ").skip(1) {
            assert_contains(case, "status 1, lines 1, left: ");
            assert_contains(case, "the disk is full; free some space");
            // A tree for TFTP is a directory: whole files may be in it.
            let left = if case.starts_with("pxe") { "left: tftp" } else { "left: \n" };
            assert_contains(case, left);
        }
        Ok(())
    });
}
