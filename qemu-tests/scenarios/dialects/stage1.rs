//! Mandriva's stage1 in all its years: where it looked, what it called the second
//! stage, and what it left for it.

use qemu_tests::assets::media::{cloop, run};
use qemu_tests::machine::Bus;
use qemu_tests::{Error, Lab, Machine, Nic, Result, scenario};

use super::{full_client, medium, root_of, small};

/// Boots the rescue system of a directory on the server; returns its machine.
fn rescue(lab: &Lab, method: &str, directory: &str) -> Result<Machine> {
    let line = format!(
        "automatic=method:{method},interface:eth0,network:dhcp,server:10.77.0.1,\
         directory:{directory} root=/dev/ram3 rw rescue init=/bin/sh"
    );
    let mut machine = small(full_client(lab, &line)?.nic(Nic::virtio()))?;
    assert_eq!(root_of(&mut machine)?, "overlay");
    Ok(machine)
}

/// The second stage by the names of its eras: a cloop that holds an ISO (until 2007.0),
/// a cpio archive (OpenMandriva), and the tree of an installer, whose program becomes
/// the first. The squashfs between them is in the other scenarios.
#[test]
fn second_stages_of_all_eras() {
    scenario("stage1-eras", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let disc = lab.tree("clp-root")?.with_all(&lab.assets().small_root()?)?.iso("RESCUE")?;
        let plain = std::fs::read(&disc).map_err(Error::at("read", &disc))?;
        let clp = lab.scratch("clp")?.join("rescue.clp");
        std::fs::write(&clp, cloop(&plain)?).map_err(Error::at("write", &clp))?;
        let cpio = lab.scratch("cpio")?.join("rescue.cpio.xz");
        lab.pack(&cpio, "find . | cpio -o -H newc --quiet | xz -0 --check=crc32 >$out")?;
        let tree = lab.tree("eras")?;
        // One with the architecture between, one without.
        let tree = tree.with("2006/i586/install/stage2/rescue.clp", &clp)?;
        let tree = tree.with("2014/install/stage2/rescue.cpio.xz", &cpio)?;
        let installer = "2010/x86_64/install/stage2/live";
        let tree = tree.with(installer, &lab.assets().small_root()?)?;
        let program = format!("{installer}/usr/bin/runinstall2");
        let tree = tree.text(&program, "#!/bin/sh\nexec /bin/sh -i\n")?;
        let program = tree.path().join(&program);
        run(&["chmod", "+x", &program.to_string_lossy()])?;
        let _nfs = lab.nfs().export("/mandriva", tree.path()).start()?;
        for era in ["2006", "2014"] {
            rescue(lab, "nfs", &format!("/mandriva/{era}"))?;
        }
        let line = "automatic=met:nfs,int:auto,netw:dhcp,ser:10.77.0.1,dir:/mandriva/2010 \
                    root=/dev/ram3";
        let mut machine = small(full_client(lab, line)?.nic(Nic::virtio()))?;
        let said = machine.transcript();
        assert!(said.contains("handing over to /usr/bin/runinstall2"), "{said}");
        machine.run("ls /tmp/image/install/stage2/live/etc/issue").map(drop)
    });
}

/// The directory of a web server, an ISO on it, and both behind a proxy that alone knows
/// the server.
#[test]
fn http_an_iso_and_a_proxy() {
    scenario("stage1-http", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let image = lab.assets().small_squashfs()?;
        let (_, iso) = medium(lab, &image)?;
        let site = lab.tree("site")?.with("isos/cs4.iso", &iso)?;
        let site = site.with("cd/i586/install/stage2/rescue.sqfs", &image)?;
        let http = lab.http(site.path())?;
        rescue(lab, "http", "/cd")?;
        rescue(lab, "http", "/isos/cs4.iso")?;
        for directory in ["/cd", "/isos/cs4.iso"] {
            let line = format!(
                "automatic=method:http,interface:eth0,network:dhcp,server:mirror.invalid,\
                 proxy_host:nas.lab,proxy_port:3128,directory:{directory} \
                 root=/dev/ram3 rescue init=/bin/sh"
            );
            small(full_client(lab, &line)?.nic(Nic::virtio()))?;
        }
        let log = http.log();
        assert!(log.contains("GET http://mirror.invalid/isos/cs4.iso"), "{log}");
        Ok(())
    });
}

/// An ISO in the directory, the directory of an FTP server, and a partition that is
/// named, with the directory on it.
#[test]
fn an_iso_ftp_and_a_partition() {
    scenario("stage1-places", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let image = lab.assets().small_squashfs()?;
        let (files, iso) = medium(lab, &image)?;
        let isos = lab.tree("isos")?.with("isos/cs4.iso", &iso)?;
        let _nfs = lab.nfs().export("/srv", isos.path()).start()?;
        let _ftp = lab.ftp(&files)?;
        let mut machine = rescue(lab, "nfs", "/srv/isos")?;
        let left = machine.run("cat /tmp/env; ls /tmp/image/install/stage2")?;
        assert!(left.contains("METHOD='nfs-iso'") && left.contains("rescue.sqfs"), "{left}");
        drop(machine);
        rescue(lab, "nfs", "/srv/isos/cs4.iso")?;
        rescue(lab, "ftp", "/")?;
        let disk = lab.tree("disk")?.with("mirror/i586/install/stage2/rescue.sqfs", &image)?;
        let disk = disk.image(qemu_tests::assets::media::Fs::Ext4, "MIRROR", 64)?;
        let line = "automatic=method:disk,partition:vda,directory:/mirror rescue init=/bin/sh";
        let mut machine = small(full_client(lab, line)?.disk(Bus::VirtioBlk, &disk))?;
        machine.run("test -e /tmp/media/mirror/i586/install/stage2/rescue.sqfs").map(drop)
    });
}
