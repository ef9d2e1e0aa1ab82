//! A live medium shared with one command, to machines of every kind.

use std::path::{Path, PathBuf};

use qemu_tests::assets::{Flavour, Peer, Signer};
use qemu_tests::machine::MachineBuilder;
use qemu_tests::{Lab, Machine, Nic, Result, bench, scenario, secs, until};

/// How a distribution lays its medium out.
struct Layout {
    name: &'static str,
    kernel: &'static str,
    initrd: &'static str,
    image: &'static str,
    /// The medium's own menu: place, text.
    menu: (&'static str, &'static str),
    /// What a client's kernel is told.
    told: &'static str,
}

const LIVE_BOOT: Layout = Layout {
    name: "live",
    kernel: "live/vmlinuz",
    initrd: "live/initrd.img",
    image: "live/filesystem.squashfs",
    menu: (
        "isolinux/isolinux.cfg",
        "default vesamenu.c32\nprompt 0\ntimeout 0\n\nlabel live\n  menu label ^Live system\n  \
         menu default\n  linux /live/vmlinuz\n  initrd /live/initrd.img\n  \
         append boot=live components quiet splash findiso=${iso_path}\n",
    ),
    told: "boot=live netboot=nfs",
};

const CASPER: Layout = Layout {
    name: "casper",
    kernel: "casper/vmlinuz",
    initrd: "casper/initrd",
    image: "casper/filesystem.squashfs",
    menu: (
        "boot/grub/grub.cfg",
        "set timeout=30\nmenuentry \"Try or Install\" {\n\tset gfxpayload=keep\n\t\
         linux\t/casper/vmlinuz  --- quiet splash\n\tinitrd\t/casper/initrd\n}\n",
    ),
    told: "boot=casper netboot=nfs",
};

const DRACUT: Layout = Layout {
    name: "fedora",
    kernel: "images/pxeboot/vmlinuz",
    initrd: "images/pxeboot/initrd.img",
    image: "LiveOS/squashfs.img",
    menu: (
        "EFI/BOOT/grub.cfg",
        "menuentry 'Start Live' --class fedora {\n\tlinux /images/pxeboot/vmlinuz \
         root=live:CDLABEL=Live-40 rd.live.image quiet\n\tinitrd /images/pxeboot/initrd.img\n}\n",
    ),
    told: "root=live:CDLABEL=Live-40",
};

const ARCHISO: Layout = Layout {
    name: "archlinux",
    kernel: "arch/boot/x86_64/vmlinuz-linux",
    initrd: "arch/boot/x86_64/initramfs-linux.img",
    image: "arch/x86_64/airootfs.sfs",
    menu: (
        "boot/syslinux/syslinux.cfg",
        "LABEL arch64\nMENU LABEL Arch Linux install medium\n\
         LINUX /arch/boot/x86_64/vmlinuz-linux\nINITRD /arch/boot/x86_64/initramfs-linux.img\n\
         APPEND archisobasedir=arch archisolabel=ARCH_202401\n",
    ),
    told: "archiso_nfs_srv=",
};

/// What every kernel here gets besides its own words.
const WORDS: &str = "console=ttyS0 init_on_alloc=0 init=/bin/sh";

/// A medium with the small root, and a distribution's own initramfs.
fn medium(lab: &Lab, layout: &Layout) -> Result<PathBuf> {
    let kernel = lab.assets().kernel(Flavour::Cloud)?;
    let initrd = lab.assets().peer_initrd(Peer::LiveBoot, &kernel)?;
    lab.tree(layout.name)?
        .with(layout.kernel, &kernel.image)?
        .with(layout.initrd, &initrd)?
        .with(layout.image, &lab.assets().small_squashfs()?)?
        .text(layout.menu.0, layout.menu.1)?
        .iso("LIVE")
}

/// A machine with UEFI.
fn uefi<'lab>(lab: &'lab Lab, words: &[&str]) -> Result<MachineBuilder<'lab>> {
    Ok(lab.machine().uefi()?.qemu(words).nic(Nic::virtio()))
}

/// The same with Secure Boot.
fn secure_uefi(lab: &Lab) -> Result<MachineBuilder<'_>> {
    Ok(lab.machine().secure_uefi()?.nic(Nic::virtio()))
}

fn bios(lab: &Lab) -> Result<MachineBuilder<'_>> {
    Ok(lab.machine().nic(Nic::virtio()))
}

/// It is up, its root is the medium's image, and what is on the server cannot be
/// written.
fn at_home(machine: &mut Machine, layout: &Layout) -> Result<()> {
    machine.shell(secs(180))?;
    assert!(machine.run("cat /etc/issue")?.contains("a small live system"));
    let mounts = machine.run("cat /proc/mounts")?;
    assert!(mounts.lines().any(|m| m.starts_with("overlay / ")), "{mounts}");
    assert!(mounts.contains(&format!("10.77.0.1:/{} ", layout.name)), "{mounts}");
    let line = machine.run("cat /proc/cmdline")?;
    assert!(line.contains(layout.told), "{line}");
    machine.run("echo x >/etc/issue").map(drop)
}

/// Boots one machine from a medium that is shared with these words.
fn boot(
    name: &str,
    layout: &Layout,
    router: bool,
    words: &[&str],
    machine: impl Fn(&Lab) -> Result<MachineBuilder<'_>>,
    stages: &[&str],
) {
    boot_and(name, layout, (router, words), machine, stages, |_| Ok(()));
}

/// The same, and looks at the machine.
fn boot_and(
    name: &str,
    layout: &Layout,
    (router, words): (bool, &[&str]),
    machine: impl Fn(&Lab) -> Result<MachineBuilder<'_>>,
    stages: &[&str],
    look: impl Fn(&mut Machine) -> Result<()>,
) {
    scenario(name, |lab| {
        let iso = medium(lab, layout)?;
        let _router = if router { Some(lab.router()?) } else { None };
        let words = [words, &["--append", WORDS]].concat();
        let share = lab.share(&iso, &words)?;
        let mode = if router { "10.77.0.2 is the DHCP server" } else { "no DHCP server on" };
        share.expect(mode, secs(1))?;
        let mut machine = machine(lab)?.start()?;
        at_home(&mut machine, layout)?;
        look(&mut machine)?;
        for stage in stages.iter().chain(&["is up: its own system starts"]) {
            share.expect(stage, secs(5))?;
        }
        Ok(())
    });
}

const ROUTER: bool = true;
const ALONE: bool = false;

fn plain_uefi(lab: &Lab) -> Result<MachineBuilder<'_>> {
    uefi(lab, &[])
}

/// A test for each row: when it runs, its name, the scenario's name, the medium, whether
/// another DHCP server is there, the firmware, words for `share`, and stages that it
/// reports.
macro_rules! ways {
    ($($when:ident $test:ident $name:literal $layout:ident $router:ident $firmware:ident
       $words:tt $stages:tt;)*) => {
        $(ways!(@$when $test { boot($name, &$layout, $router, &$words, $firmware, &$stages); });)*
    };
    (@always $test:ident $body:block) => {
        #[test]
        fn $test() $body
    };
    (@sweep $test:ident $body:block) => {
        #[test]
        #[ignore = "one more of sixteen ways: cargo xtask test --sweep"]
        fn $test() $body
    };
}

// pxelinux (`--no-ipxe`) or a script for a ROM that is iPXE, and GRUB; beside a router with a
// DHCP server, or as the DHCP server.
ways! {
    always live_boot_on_bios_beside_a_router "share-bios-router" LIVE_BOOT ROUTER bios
        ["--no-ipxe"] ["loads pxelinux.0", "has the boot menu", "mounted /live"];
    always casper_on_uefi_alone "share-casper-uefi" CASPER ALONE plain_uefi
        [] ["UEFI x86-64", "loads bootx64.efi", "has the boot menu", "mounted /casper"];
    sweep sweep_live_boot_on_bios_alone "share-bios-alone" LIVE_BOOT ALONE bios
        [] ["iPXE on BIOS", "loads the kernel", "loads the initramfs", "mounted /live"];
    sweep sweep_live_boot_on_uefi_alone "share-uefi-alone" LIVE_BOOT ALONE plain_uefi
        [] ["UEFI x86-64", "loads bootx64.efi", "has the boot menu", "mounted /live"];
    sweep sweep_live_boot_on_uefi_beside_a_router "share-uefi-router" LIVE_BOOT ROUTER plain_uefi
        [] ["UEFI x86-64", "loads bootx64.efi", "has the boot menu", "mounted /live"];
    sweep sweep_casper_on_bios_beside_a_router "share-casper-router" CASPER ROUTER bios
        ["--no-ipxe"] ["mounted /casper"];
    sweep sweep_casper_on_bios_alone "share-casper-alone" CASPER ALONE bios
        ["--no-ipxe"] ["mounted /casper"];
    sweep sweep_casper_on_uefi_beside_a_router "share-casper-uefi-router" CASPER ROUTER plain_uefi
        [] ["mounted /casper"];
    sweep sweep_dracut_on_bios_alone "share-dracut" DRACUT ALONE bios [] ["mounted /fedora"];
    sweep sweep_dracut_on_bios_beside_a_router "share-dracut-router" DRACUT ROUTER bios
        ["--no-ipxe"] ["mounted /fedora"];
    sweep sweep_dracut_on_uefi_alone "share-dracut-uefi-alone" DRACUT ALONE plain_uefi
        [] ["mounted /fedora"];
    sweep sweep_dracut_on_uefi_beside_a_router "share-dracut-uefi" DRACUT ROUTER plain_uefi
        [] ["mounted /fedora"];
    sweep sweep_archiso_on_bios_beside_a_router "share-archiso" ARCHISO ROUTER bios
        [] ["mounted /archlinux"];
    sweep sweep_archiso_on_bios_alone "share-archiso-alone" ARCHISO ALONE bios
        ["--no-ipxe"] ["mounted /archlinux"];
    sweep sweep_archiso_on_uefi_alone "share-archiso-uefi" ARCHISO ALONE plain_uefi
        [] ["mounted /archlinux"];
    sweep sweep_archiso_on_uefi_beside_a_router "share-archiso-uefi-router" ARCHISO ROUTER plain_uefi
        [] ["mounted /archlinux"];
}

#[test]
#[ignore = "firmware takes its time: cargo xtask test --sweep"]
fn sweep_http_boot_of_uefi() {
    let no_pxe = [
        "-fw_cfg",
        "name=opt/org.tianocore/IPv4PXESupport,string=no",
        "-fw_cfg",
        "name=opt/org.tianocore/IPv6PXESupport,string=no",
    ];
    let stages = ["UEFI x86-64 by HTTP", "loads bootx64.efi", "mounted /live"];
    boot("share-uefi-http", &LIVE_BOOT, true, &[], |lab| uefi(lab, &no_pxe), &stages);
}

/// Firmware, shim, GRUB, kernel and modules: each checks the next.
#[test]
#[ignore = "firmware takes its time: cargo xtask test --sweep"]
fn sweep_secure_boot_alone() {
    // share takes them up when it starts.
    let signed = [
        ("shim-signed", "what firmware with Secure Boot starts"),
        ("grub-efi-amd64-signed", "what shim starts"),
    ];
    qemu_tests::packages::ensure_all(&signed).unwrap();
    let on = |machine: &mut Machine| machine.run("dmesg | grep -i 'secure boot enabled'").map(drop);
    let stages = ["loads bootx64.efi", "has the boot menu", "mounted /live"];
    let alone = (false, &[][..]);
    boot_and("share-secure-boot", &LIVE_BOOT, alone, secure_uefi, &stages, on);
}

/// A medium with the kernel that a machine with Secure Boot has to check, and its shim.
fn signed_medium(lab: &Lab, signer: &Signer, name: &str, kernel: &Path) -> Result<PathBuf> {
    let cloud = lab.assets().kernel(Flavour::Cloud)?;
    let initrd = lab.assets().peer_initrd(Peer::LiveBoot, &cloud)?;
    lab.tree(name)?
        .with(LIVE_BOOT.kernel, kernel)?
        .with(LIVE_BOOT.initrd, &initrd)?
        .with(LIVE_BOOT.image, &lab.assets().small_squashfs()?)?
        .with("EFI/BOOT/BOOTX64.EFI", &signer.shim()?)?
        .text(LIVE_BOOT.menu.0, LIVE_BOOT.menu.1)?
        .iso("LIVE")
}

/// Firmware, Debian's shim, iPXE 2.0, and Debian's kernel: each checks the next, beside another
/// DHCP server. Where no shim is before iPXE, the medium's own checks the kernel. A kernel without
/// a signature is refused, with words.
#[test]
#[ignore = "firmware takes its time: cargo xtask test --sweep"]
fn sweep_secure_boot_beside_a_router() {
    scenario("share-secure-boot-ipxe", |lab| {
        let signer = Signer::new(&lab.scratch("signed")?)?;
        let kernel = lab.assets().kernel(Flavour::Cloud)?.image;
        let _router = lab.router()?;
        let medium = signed_medium(lab, &signer, "live", &kernel)?;
        let share = |medium: &Path, alone: bool| {
            let archive = signer.ipxe(lab.assets(), alone)?.to_string_lossy().into_owned();
            lab.share(medium, &["--ipxe", &archive, "--append", WORDS])
        };
        let machine = || lab.machine().own_secure_uefi().map(|machine| machine.nic(Nic::virtio()));

        for (alone, checked) in [(false, "Fetching Netboot Image"), (true, "BOOTX64.EFI... ok")] {
            let share = share(&medium, alone)?;
            share.expect("10.77.0.2 is the DHCP server", secs(1))?;
            let mut trusted = machine()?.start()?;
            at_home(&mut trusted, &LIVE_BOOT)?;
            assert!(trusted.transcript().contains(checked), "{}", trusted.transcript());
            trusted.run("dmesg | grep -i 'secure boot enabled'")?;
            let lockdown = "mount -t securityfs securityfs /sys/kernel/security; \
                            cat /sys/kernel/security/lockdown";
            let lockdown = trusted.run(lockdown)?;
            assert!(lockdown.contains("[integrity]"), "{lockdown}");
            for stage in ["is told to load x86_64-sb/snponly-shimx64.efi", "has the boot menu"] {
                share.expect(stage, secs(5))?;
            }
            share.expect("is up: its own system starts", secs(5))?;
            assert!(!share.log().contains("carries no signature"), "{}", share.log());
        }

        let unsigned = signed_medium(lab, &signer, "unsigned", &signer.unsigned(&kernel)?)?;
        let share = share(&unsigned, true)?;
        share.expect("with Secure Boot on: its kernel carries no signature", secs(1))?;
        let mut refused = machine()?.start()?;
        refused.expect("(0x1A) Security Violation", secs(120))?;
        refused.send(b"\r")?;
        refused.expect("This kernel did not start. With Secure Boot on", secs(30))?;
        // The first two machines' lines: the log goes on.
        assert_eq!(share.log().matches(": mounted /").count(), 2, "{}", share.log());
        Ok(())
    });
}

/// Two networks: one with a DHCP server, one without.
#[test]
#[ignore = "two machines: cargo xtask test --sweep"]
fn sweep_two_networks() {
    scenario("share-two-networks", |lab| {
        let iso = medium(lab, &LIVE_BOOT)?;
        lab.network("wing", "10.78.0.1/24")?;
        let _router = lab.router()?;
        let words = ["--append", WORDS];
        let (here, there) =
            (lab.share_on("lan", &iso, &words)?, lab.share_on("wing", &iso, &words)?);
        here.expect("10.77.0.2 is the DHCP server", secs(1))?;
        there.expect("no DHCP server on", secs(1))?;
        let mut first = bios(lab)?.start()?;
        at_home(&mut first, &LIVE_BOOT)?;
        drop(first);
        let mut second = lab.machine().nic(Nic::virtio().on("wing")).start()?;
        second.shell(secs(180))?;
        let mounts = second.run("cat /proc/mounts")?;
        assert!(mounts.contains("10.78.0.1:/live "), "{mounts}");
        here.expect("mounted /live", secs(1))?;
        there.expect("mounted /live", secs(1))
    });
}

/// A client's changes are on the server; they can be listed, copied and deleted, and no other
/// client gets them.
#[test]
#[ignore = "boots a whole system twice: cargo xtask test --sweep"]
fn sweep_settings_that_stay() {
    scenario("share-settings", |lab| {
        qemu_tests::packages::ensure_all(&[("qemu-utils", "a client of NBD")])?;
        let iso = medium(lab, &LIVE_BOOT)?;
        let mut share = lab.share(&iso, &["--keep-settings", "--append", WORDS])?;
        let state = lab.share_state("lan")?.to_string_lossy().into_owned();
        let settings = |words: &[&str]| {
            lab.bellwether(&[&["share", "--state", state.as_str()][..], words].concat())
        };
        let mut machine = bios(lab)?.start()?;
        machine.shell(secs(180))?;
        machine.run("echo once >/kept")?;
        share.expect("has the disk keep-52-54-00-77-00-00", secs(1))?;
        // The medium's own line says "quiet": the kernel does not greet again.
        machine.send_line("sync; echo b >/proc/sysrq-trigger")?;
        machine.shell(secs(180))?;
        assert_eq!(machine.run("cat /kept")?.trim(), "once");
        // The killed client closed nothing: its old connections are not in its way, and
        // close soon.
        let connections =
            || lab.run(&["ss", "-Htn", "state", "established", "sport", "=", ":10809"]);
        machine.run("sync")?;
        until("connections from before its restart are gone", secs(30), || {
            Ok(connections()?.lines().count() <= 4)
        })?;
        machine.run("sync")?;
        let after = connections()?;
        assert!((1..=4).contains(&after.lines().count()), "{after}");
        assert!(settings(&["--list-settings"])?.contains("52-54-00-77-00-00"));
        let error = settings(&["--reset-settings", "52:54:00:77:00:00"]).unwrap_err().to_string();
        assert!(error.contains("has it open"), "{error}");
        drop(machine);

        // The medium as a disk, to be read.
        let copy = lab.scratch("copy")?.join("live.iso").to_string_lossy().into_owned();
        let from = "nbd://10.77.0.1/live";
        lab.run(&["qemu-img", "convert", "-f", "raw", "-O", "raw", from, &copy])?;
        qemu_tests::assets::media::run(&["cmp", &copy, &iso.to_string_lossy()])?;
        let other = "nbd://10.77.0.1/keep-52-54-00-77-00-00";
        let error = lab.run(&["qemu-img", "info", other]).unwrap_err().to_string();
        assert!(error.contains("52:54:00:77:00:00"), "{error}");

        // It has to be root for its ports, and for nothing afterwards.
        let who = lab.run(&["ps", "-o", "user=", "-C", "bellwether"])?;
        assert_eq!(who.trim(), "72355");
        // A machine that lost its power said no goodbye: its disk is in use until its
        // connections are missed.
        let start = std::time::Instant::now();
        until("the disk is not in use any more", secs(45), || {
            Ok(!settings(&["--list-settings"])?.contains("in use"))
        })?;
        println!("in use for {} s after the machine was gone", start.elapsed().as_secs());
        share.stop();

        let disk = lab.scratch("disk")?.join("disk.img").to_string_lossy().into_owned();
        settings(&["--export-settings", &format!("52:54:00:77:00:00={disk}")])?;
        qemu_tests::assets::media::run(&[
            "cmp",
            &disk,
            &format!("{state}/settings/52-54-00-77-00-00.img"),
        ])?;
        settings(&["--reset-settings", "52:54:00:77:00:00"])?;
        assert!(settings(&["--list-settings"])?.trim().is_empty());
        Ok(())
    });
}

/// A machine loses its power and comes back at once under another address: what it had
/// open before ends long before it would be missed. One that is alive is left alone.
#[test]
fn a_disk_yields_to_the_machine_that_comes_back() {
    scenario("share-power-cut", |lab| {
        let iso = medium(lab, &LIVE_BOOT)?;
        let share = lab.share(&iso, &["--keep-settings", "--dhcp", "off"])?;
        let (mac, other) = ("52:54:00:99:00:01", "52:54:00:99:00:02");
        let disk = format!("keep-{}", mac.replace(':', "-"));
        let _old = lab.holder_of_a_disk("old", mac, "10.77.0.51", &disk)?;
        let _other =
            lab.holder_of_a_disk("other", other, "10.77.0.53", "keep-52-54-00-99-00-02")?;
        share.expect(&format!("{mac}: has the disk"), secs(1))?;
        // Longer than the connections of one start are apart: the one thing here that the
        // server tells by the clock, and a busy machine only makes it longer.
        std::thread::sleep(secs(4));
        lab.run(&["ip", "link", "set", "old0", "down"])?;
        let _new = lab.holder_of_a_disk("new", mac, "10.77.0.52", &disk)?;
        let start = std::time::Instant::now();
        let open = || lab.run(&["ss", "-Htn", "state", "established", "sport", "=", ":10809"]);
        until("the old connection ends", secs(8), || Ok(!open()?.contains("10.77.0.51:")))?;
        println!("the old connection ended {:.1} s later", start.elapsed().as_secs_f32());
        let left = open()?;
        assert!(left.contains("10.77.0.52:") && left.contains("10.77.0.53:"), "{left}");
        Ok(())
    });
}

/// The page in a browser and the view on a terminal, while a machine boots.
#[test]
#[ignore = "needs a browser: cargo xtask test --sweep"]
fn sweep_what_a_person_sees() {
    scenario("share-views", |lab| {
        let iso = medium(lab, &LIVE_BOOT)?;
        let terminal = lab.share_on_a_terminal(&iso, &["--keep-settings", "--append", WORDS])?;
        let screen = terminal.expect("In a browser: http://", secs(60))?;
        assert!(screen.contains("Sharing 10.77.0.1:/live"), "{screen}");
        assert!(screen.contains("No clients yet"), "{screen}");
        let page = screen.split("In a browser: ").nth(1).and_then(|s| s.split_whitespace().next());
        let page = page.unwrap_or_default();

        let browser = lab.browser()?;
        let text =
            |id: &str| browser.run(&format!("return document.querySelector('{id}').innerText"));
        let wait = |id: &str, wanted: &str| -> Result<()> {
            until(&format!("{id} is {wanted}"), secs(20), || Ok(text(id)?.contains(wanted)))
        };
        // Who has no key may look and not touch.
        let (plain, _) = page.split_once('#').unwrap_or((page, ""));
        browser.open(plain)?;
        wait("#link", "live")?;
        let off = browser.run("return document.querySelector('#service-nfs button').disabled")?;
        assert_eq!(off, "true");

        browser.open("about:blank")?;
        browser.open(page)?;
        wait("#link", "live")?;
        browser.click("#service-nfs button")?;
        wait("#service-nfs", "off")?;
        terminal.expect("4 NFS OFF", secs(5))?;
        terminal.press("4")?;
        wait("#service-nfs", "on")?;

        let mut machine = bios(lab)?.start()?;
        let mut stages: Vec<String> = Vec::new();
        while !stages.iter().any(|stage| stage.contains("up")) {
            let rows =
                "return (document.querySelector('tr[data-stage]')||{dataset:{}}).dataset.stage";
            let stage = browser.run(rows)?;
            if stage != "null" && stages.last() != Some(&stage) {
                stages.push(stage);
            }
            assert!(stages.len() < 20, "{stages:?}");
        }
        machine.shell(secs(180))?;
        // What came between two looks is not there.
        for wanted in ["asked", "initrd", "up"] {
            assert!(stages.iter().any(|stage| stage.contains(wanted)), "{stages:?}");
        }
        wait("#clients", "52:54:00:77:00:00")?;
        wait("#kept", "52-54-00-77-00-00")?;
        let screen = terminal.expect("52:54:00:77:00:00 #######", secs(5))?;
        println!("{screen}");
        browser.screenshot(&lab.scratch("pictures")?.join("page.png"))?;
        browser.size(400, 800)?;
        let narrow = "return document.documentElement.scrollWidth <= window.innerWidth";
        assert_eq!(browser.run(narrow)?, "true");
        browser.screenshot(&lab.scratch("pictures")?.join("phone.png"))?;

        terminal.press("q")?;
        terminal.expect("stopped; 1 client was served", secs(10))?;
        nothing_is_left(lab)
    });
}

/// Nothing runs or listens any more, and no drive is made of a medium.
fn nothing_is_left(lab: &Lab) -> Result<()> {
    // Killed children that are not reaped yet do not count.
    let runs = || -> Result<bool> {
        let all = lab.run(&["ps", "-e", "-o", "stat=,comm="])?;
        Ok(all.lines().any(|line| line.contains("bellwether") && !line.starts_with('Z')))
    };
    until("no bellwether runs", secs(10), || Ok(!runs()?))?;
    let open = lab.run(&["ss", "-Hlntu", "sport", "<", ":10810"])?;
    let ours = [":67 ", ":69 ", ":2049 ", ":8080 ", ":4011 ", ":10809 "];
    assert!(!ours.iter().any(|port| open.contains(port)), "{open}");
    let drives = lab.run(&["losetup", "--list", "--noheadings", "--output", "BACK-FILE"])?;
    assert!(!drives.contains("share-"), "{drives}");
    Ok(())
}

/// The server is killed and started again under a running client.
#[test]
fn a_client_outlives_a_restart() {
    scenario("share-restart", |lab| {
        let iso = medium(lab, &LIVE_BOOT)?;
        let mounts = lab.run(&["cat", "/proc/mounts"])?;
        let mut share = lab.share(&iso, &["--append", WORDS])?;
        let mut machine = bios(lab)?.start()?;
        at_home(&mut machine, &LIVE_BOOT)?;
        share.stop();
        nothing_is_left(lab)?;
        assert_eq!(lab.run(&["cat", "/proc/mounts"])?, mounts);
        let state = lab.share_state("lan")?;
        let state = std::fs::read_dir(state).map_err(qemu_tests::Error::io("look at the state"))?;
        let left: Vec<_> = state.flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["leases-lan"]);
        // Neither read before nor in the page cache.
        machine
            .send_line("echo 3 >/proc/sys/vm/drop_caches; md5sum /usr/sbin/dmsetup; echo ev''en")?;
        lab.knocks(1, secs(60))?;
        share.start()?;
        let said = machine.expect("even", secs(60))?;
        let sum = qemu_tests::assets::media::run(&["md5sum", "/usr/sbin/dmsetup"])?;
        assert!(said.contains(sum.split(' ').next().unwrap_or(&sum)), "{said}");
        assert!(!machine.transcript().contains("Stale file handle"));
        machine.run("echo 3 >/proc/sys/vm/drop_caches; ls -lR /usr >/dev/null").map(drop)
    });
}

/// The medium goes: the server says so, and the client's reads fail instead of giving
/// something else.
#[test]
fn a_medium_that_is_pulled_out() {
    scenario("share-pulled", |lab| {
        let iso = medium(lab, &LIVE_BOOT)?;
        let share = lab.share(&iso, &["--append", WORDS])?;
        let mut machine = bios(lab)?.start()?;
        at_home(&mut machine, &LIVE_BOOT)?;
        // This shell is to see it, and must not need the medium itself.
        machine.run("cp /bin/busybox /run/busybox")?;
        machine.send_line("exec /run/busybox sh")?;
        cut(&iso)?;
        let read =
            "echo 3 >/proc/sys/vm/drop_caches; /run/busybox cat /usr/sbin/dmsetup >/dev/null";
        let failed = machine.run(read).unwrap_err().to_string();
        assert!(failed.contains("Input/output error"), "{failed}");
        share.expect("the medium cannot be read any more", secs(10))
    });
}

/// The recipe for servers of one's own, with those servers.
#[test]
#[ignore = "two machines: cargo xtask test --sweep"]
fn sweep_configuration_for_other_servers() {
    scenario("share-write-config", |lab| {
        let iso = medium(lab, &LIVE_BOOT)?;
        let _router = lab.router()?;
        let dir = lab.scratch("written")?;
        lab.share_configuration(&iso, &dir, &["--append", WORDS])?;
        qemu_tests::packages::ensure_all(&[("isc-dhcp-server", "dhcpd, to read what is for it")])?;
        let dhcpd = dir.join("dhcpd.conf").to_string_lossy().into_owned();
        lab.run(&["dhcpd", "-t", "-4", "-cf", &dhcpd])?;
        let exported = dir.join("nfs/live").to_string_lossy().into_owned();
        let image = iso.to_string_lossy().into_owned();
        let unpack = ["xorriso", "-osirrox", "on", "-indev", &image, "-extract", "/", &exported];
        qemu_tests::assets::media::run(&unpack)?;
        let _nfs = lab.nfs().export(&exported, Path::new(&exported)).start()?;
        let _dnsmasq = lab.dnsmasq_from(&dir.join("dnsmasq.conf"))?;
        let mut machine = bios(lab)?.start()?;
        machine.shell(secs(180))?;
        let mounts = machine.run("cat /proc/mounts")?;
        assert!(mounts.contains(&format!("10.77.0.1:{exported} ")), "{mounts}");
        drop(machine);
        let mut machine = uefi(lab, &[])?.start()?;
        machine.shell(secs(180))
    });
}

/// Leaves nothing of an image but its beginning.
fn cut(iso: &Path) -> Result<()> {
    qemu_tests::assets::media::run(&["truncate", "--size=1M", &iso.to_string_lossy()]).map(drop)
}

/// A room full of machines: fifty clients fetch kernel, initramfs and 200 MB of an
/// image at once, from us and from what sites serve with today.
#[test]
#[ignore = "takes minutes of both cores: cargo xtask test --sweep"]
fn sweep_fifty_clients_at_once() {
    scenario("share-fifty-clients", |lab| {
        let storm = bench::share::in_lab(lab, &bench::share::Room::default())?;
        println!("{storm}");
        assert!(storm.most < 100_000, "{storm}");
        let [share, nginx, least] = &storm.http;
        let [time, _, kernel] = bench::share::ratios([share, nginx]);
        assert!(time < 1.0 && kernel < 1.0, "{storm}");
        let [_, processor, _] = bench::share::ratios([share, least]);
        assert!(processor < 1.2, "{storm}");
        let [ours, ganesha] = &storm.nfs;
        let [time, processor, _] = bench::share::ratios([ours, ganesha]);
        assert!(time < 1.0 && processor < 1.0, "{storm}");
        Ok(())
    });
}
