//! Files fetched into memory: HTTP, FTP, TFTP.

use qemu_tests::assets::media::run;
use qemu_tests::{Lab, Result, scenario, secs, until};

use super::{assert_contains, assert_live, boot, client, refused};

/// What the servers serve: images bare and as media, with 24 MiB that do not
/// compress where a transfer must last.
fn site(lab: &Lab) -> Result<std::path::PathBuf> {
    let image = lab.assets().small_squashfs()?;
    let casper = lab
        .tree("casper")?
        .text(".disk/info", "a small casper medium\n")?
        .with("casper/filesystem.squashfs", &image)?
        .ballast("ballast", 24)?
        .iso("CASPER")?;
    let live = lab.tree("live")?.with("live/filesystem.squashfs", &image)?.iso("LIVE")?;
    let site = lab.tree("site")?;
    let site = site.with("filesystem.squashfs", &image)?.with("casper.iso", &casper)?;
    Ok(site.with("live.iso", &live)?.path().to_owned())
}

/// An image by name, in the words of three dialects; the casper one redirected.
#[test]
fn http_images() {
    scenario("sources-http-images", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let _http = lab.http(&site(lab)?)?;
        for line in [
            "boot=casper url=http://nas.lab/moved/filesystem.squashfs",
            "boot=live fetch=http://nas.lab/filesystem.squashfs",
            "root=live:http://nas.lab/filesystem.squashfs ip=dhcp",
        ] {
            let mut machine = boot(lab, line)?;
            assert_live(&mut machine)?;
            assert_contains(&machine.transcript(), "fetched http://nas.lab/");
            assert_eq!(
                line.contains("moved"),
                machine.transcript().contains(" is at http://nas.lab/")
            );
        }
        Ok(())
    });
}

/// A whole medium, whose images are then found as on a disc.
#[test]
fn http_media() {
    scenario("sources-http-media", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let _http = lab.http(&site(lab)?)?;
        let mut machine = boot(lab, "boot=casper url=http://nas.lab/casper.iso")?;
        assert_live(&mut machine)?;
        machine.run("test -e /cdrom/casper/filesystem.squashfs")?;
        drop(machine);
        let mut machine = boot(lab, "boot=live fetch=http://10.77.0.1/live.iso")?;
        assert_live(&mut machine)?;
        machine.run("test -e /run/live/medium/live/filesystem.squashfs").map(drop)
    });
}

/// The servers are killed in the middle, and come back: a file goes on where it
/// stopped or, from a server without ranges, is thrown away up to there.
#[test]
fn servers_restart() {
    scenario("sources-restart", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let site = site(lab)?;
        let digest = run(&["sha256sum", &site.join("casper.iso").to_string_lossy()])?;
        let digest = digest.split(' ').next().unwrap_or_default();
        let (mut http, mut ftp) = (lab.http(&site)?, lab.ftp(&site)?);
        let mut machines = Vec::new();
        for place in ["http://nas.lab/slow", "http://nas.lab/whole", "ftp://nas.lab"] {
            let line = format!("boot=casper url={place}/casper.iso");
            machines.push((place, client(lab, &line)?.start()?));
        }
        // All of them are in the middle when the first line of progress is there.
        for (_, machine) in &machines {
            machine.expect("casper.iso: ", secs(90))?;
        }
        http.stop();
        ftp.stop();
        for (_, machine) in &machines {
            machine.expect("going on at byte", secs(30))?;
        }
        let before = http.log().len();
        lab.knocks(6, secs(60))?;
        http.start()?;
        ftp.start()?;
        for (place, machine) in &mut machines {
            machine.shell(secs(90))?;
            let sum = machine.run("sha256sum /run/bellwether/fetched/casper.iso")?;
            assert_contains(&format!("{place}: {sum}"), digest);
        }
        // One of them had to send the beginning once more.
        let log = http.log();
        let log = log.get(before..).unwrap_or_default();
        assert_contains(log, "/slow/casper.iso HTTP/1.1\" 206 ");
        assert_contains(log, "/whole/casper.iso HTTP/1.1\" 200 ");
        Ok(())
    });
}

#[test]
fn ftp_and_tftp() {
    scenario("sources-ftp-tftp", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let site = site(lab)?;
        let _ftp = lab.ftp(&site)?;
        let _tftp = lab.tftp(&site)?;
        for line in [
            "boot=live fetch=ftp://nas.lab/filesystem.squashfs",
            "boot=live fetch=ftp://nas.lab/live.iso",
            "boot=live fetch=tftp://nas.lab:1069/filesystem.squashfs",
            "boot=live fetch=tftp://nas.lab:1069/live.iso",
        ] {
            let mut machine = boot(lab, line)?;
            assert_live(&mut machine)?;
            drop(machine);
        }
        Ok(())
    });
}

/// TFTP knows no ranges: a transfer whose server was killed begins anew, and what is
/// known already is thrown away.
#[test]
fn tftp_server_restarts() {
    scenario("sources-tftp-restart", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let image = lab.assets().small_squashfs()?;
        let iso = lab.tree("casper")?.with("casper/filesystem.squashfs", &image)?;
        let iso = iso.ballast("ballast", 96)?.iso("CASPER")?;
        let site = lab.tree("site")?.with("casper.iso", &iso)?;
        let digest = run(&["sha256sum", &iso.to_string_lossy()])?;
        let digest = digest.split(' ').next().unwrap_or_default();
        let mut tftp = lab.tftp(site.path())?;
        let line = "boot=casper url=tftp://nas.lab:1069/casper.iso";
        let mut machine = client(lab, line)?.start()?;
        machine.expect("fetching tftp://", secs(60))?;
        let serving = || Ok(tftp.log().contains("Serving casper.iso"));
        until("the server has begun", secs(30), serving)?;
        // More than is under way at a time: some of it has arrived.
        let before = lab.sent_to(0, 0)?;
        until("a megabyte was sent", secs(60), || Ok(lab.sent_to(0, 0)? > before + (1 << 20)))?;
        tftp.stop();
        machine.expect("going on at byte", secs(30))?;
        tftp.start()?;
        machine.shell(secs(90))?;
        assert_contains(&machine.run("sha256sum /run/bellwether/fetched/casper.iso")?, digest);
        Ok(())
    });
}

/// dnsmasq's own TFTP, at the boot server that DHCP names.
#[test]
fn tftp_from_the_boot_server() {
    scenario("sources-tftp-boot-server", |lab| {
        let image = lab.assets().small_squashfs()?;
        run(&["cp", &image.to_string_lossy(), &lab.scratch("tftp")?.to_string_lossy()])?;
        let _dhcp = lab.dhcp().serve()?;
        let mut machine = boot(lab, "boot=live fetch=tftp:///filesystem.squashfs")?;
        assert_live(&mut machine)
    });
}

/// What does not fit is refused before its first byte, and what has another digest
/// than the line says is not booted.
#[test]
fn too_large_and_not_the_right_one() {
    scenario("sources-http-refused", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let site = site(lab)?;
        run(&["truncate", "--size=3G", &site.join("large.iso").to_string_lossy()])?;
        let http = lab.http(&site)?;
        let said = refused(lab, "root=live:http://nas.lab/large.iso ip=dhcp")?;
        assert_contains(&said, "it does not fit");
        let zeroes = "0".repeat(64);
        let line = "boot=live fetch=http://nas.lab/filesystem.squashfs bw.digest=sha256";
        let said = refused(lab, &format!("{line}:{zeroes}"))?;
        assert_contains(&said, "its sha256 is ");
        let said = refused(lab, "boot=live fetch=http://nas.lab/nothing.squashfs")?;
        assert_contains(&said, "the web server answers 404, no such file");
        // The large one was asked for, and not taken.
        let large = http.log();
        let large = large.lines().filter(|line| line.contains("large.iso")).count();
        assert!(large > 0, "{}", http.log());
        Ok(())
    });
}
