//! Roots that come as tar or cpio and are unpacked into memory.

use qemu_tests::assets::media::sha256;
use qemu_tests::machine::Bus;
use qemu_tests::scenario;

use super::{assert_contains, assert_live, boot, client, refused, up};

#[test]
fn tar_over_http() {
    scenario("sources-tar", |lab| {
        let site = lab.scratch("site")?;
        lab.pack(&site.join("root.tar.xz"), "tar -cJf $out .")?;
        lab.pack(&site.join("root.tar.gz"), "tar -czf $out --format=pax --xattrs *")?;
        lab.pack(&site.join("root.tar"), "tar -cf $out --numeric-owner .")?;
        let digest = sha256(&site.join("root.tar"))?;
        let _dhcp = lab.dhcp().serve()?;
        let _http = lab.http(&site)?;
        for line in [
            "boot=live fetch=http://nas.lab/root.tar.xz".to_owned(),
            "root=live:http://nas.lab/root.tar.gz ip=dhcp".to_owned(),
            format!("bw.root=http://nas.lab/root.tar bw.overlay bw.digest=sha256:{digest}"),
        ] {
            let mut machine = boot(lab, &line)?;
            assert_live(&mut machine)?;
            assert_contains(&machine.transcript(), "unpacked root.tar");
            // Links, owners and permissions are as they were.
            assert_eq!(machine.run("readlink /bin")?.trim(), "usr/bin");
            assert_eq!(machine.run("stat -c '%u %a' /etc/issue")?.trim(), "0 644");
        }
        Ok(())
    });
}

/// A cpio archive as a file on a disc; the root is what was unpacked, itself.
#[test]
fn cpio_from_an_iso() {
    scenario("sources-cpio", |lab| {
        let tree = lab.tree("disc")?;
        for (name, packer) in [("root.cpio.gz", "gzip"), ("root.cpio.zst", "zstd -q")] {
            let command = format!("find . | cpio -o -H newc --quiet | {packer} >$out");
            lab.pack(&tree.path().join(name), &command)?;
        }
        let iso = tree.iso("DISC")?;
        for name in ["root.cpio.gz", "root.cpio.zst"] {
            let line = format!("bw.root=cdrom,file=/{name} bw.overlay=none rw");
            let mut machine = up(client(lab, &line)?.cdrom(Bus::VirtioScsi, &iso))?;
            assert_contains(&machine.run("cat /etc/issue")?, "a small live system");
            assert_contains(&machine.run("echo x >/etc/issue; cat /proc/mounts")?, " / tmpfs rw");
        }
        Ok(())
    });
}

/// What is cut short, leads out of itself or has another digest says so.
#[test]
fn bad_archives() {
    scenario("sources-bad-archives", |lab| {
        let site = lab.scratch("site")?;
        lab.pack(&site.join("whole.tar"), "tar -cf $out .")?;
        lab.pack(&site.join("cut.tar"), "tar -cf $out .; truncate -s 1000000 $out")?;
        lab.pack(&site.join("cut.tar.gz"), "tar -czf $out .; truncate -s 1000000 $out")?;
        let evil = "tar -cPf $out --transform 's,^etc/issue,../../evil,' etc/issue";
        lab.pack(&site.join("evil.tar"), evil)?;
        lab.pack(&site.join("empty.tar.gz"), "tar -cT /dev/null | gzip >$out")?;
        lab.pack(&site.join("empty.cpio"), "true | cpio -o -H newc --quiet >$out")?;
        lab.pack(
            &site.join("pictures.tar"),
            "tar -cf $out --transform s,etc/issue,readme.txt, etc/issue",
        )?;
        let _dhcp = lab.dhcp().serve()?;
        let _http = lab.http(&site)?;
        for (name, why) in [
            ("cut.tar", "is cut short: its end is missing"),
            ("cut.tar.gz", "is cut short"),
            ("evil.tar", "holds a path that leads out of it: ../../evil"),
            ("empty.tar.gz", "is no image and no archive once it is expanded"),
            ("empty.cpio", "is an empty archive"),
            ("pictures.tar", "the root: holds readme.txt"),
        ] {
            let said = refused(lab, &format!("bw.root=http://nas.lab/{name} bw.overlay"))?;
            assert_contains(&said, why);
        }
        let zeroes = "0".repeat(64);
        let line = format!("bw.root=http://nas.lab/whole.tar bw.overlay bw.digest=sha256:{zeroes}");
        assert_contains(&refused(lab, &line)?, "its sha256 is ");
        Ok(())
    });
}
