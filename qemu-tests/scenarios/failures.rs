//! What cannot work says so, in words, and then does what the line says.

use std::path::Path;

use qemu_tests::assets::{FULL, Flavour, Profile};
use qemu_tests::machine::{Bus, MachineBuilder};
use qemu_tests::{Lab, Machine, Nic, Result, scenario, secs};

use crate::dialects::{full_client, root_of};

const LIVE: &str = "boot=live netboot=nfs nfsroot=10.77.0.1:/srv/live";

/// A line that gives up after seconds instead of minutes.
const IMPATIENT: &str = "root=live:nfs://10.77.0.1/srv/live/live/filesystem.squashfs ip=dhcp \
                         rd.net.timeout.iflink=3 rd.net.timeout.dhcp=2 rd.retry=2";

const FAILED: &str = "bellwether: FAILED:";

#[test]
fn wrong_path_is_named_and_panic_reboots() {
    scenario("failure-wrong-path", |lab| {
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
        let line = IMPATIENT.replace("/srv/live", "/srv/typo");
        let machine = lab.client(&format!("{line} panic=2"))?.start()?;
        machine.expect(FAILED, secs(180))?;
        machine.expect("/srv/typo", secs(5))?;
        // The same machine starts again by itself.
        machine.expect("Linux version", secs(60)).map(drop)
    });
}

/// Without `panic=` the boot is tried again, and the server may be right by then.
#[test]
fn wrong_path_is_tried_again() {
    scenario("failure-then-retry", |lab| {
        let tree = lab.assets().live_tree()?;
        let _dhcp = lab.dhcp().serve()?;
        let wrong = lab.nfs().export("/srv/typo", &tree).start()?;
        let line = format!("{IMPATIENT} bw.fail=menu:5 init=/bin/sh");
        let mut machine = lab.client(&line)?.start()?;
        machine.expect(FAILED, secs(180))?;
        let said = machine.expect("trying again in", secs(5))?;
        assert!(said.contains("10.77.0.1:/srv/live"), "the export is not named:\n{said}");
        drop(wrong);
        let _right = lab.nfs().export("/srv/live", &tree).start()?;
        machine.shell(secs(120))
    });
}

#[test]
fn truncated_image_is_named() {
    scenario("failure-truncated-image", |lab| {
        let tree = lab.truncated_live_tree()?;
        let _dhcp = lab.dhcp().serve()?;
        let _nfs = lab.nfs().export("/srv/live", &tree).start()?;
        let machine = lab.client(&format!("{LIVE} panic=5"))?.start()?;
        let said =
            machine.expect(FAILED, secs(180))? + &machine.expect("Linux version", secs(60))?;
        assert!(said.contains("filesystem.squashfs"), "the file is not named:\n{said}");
        assert!(said.contains("is cut short"), "the reason is not named:\n{said}");
        Ok(())
    });
}

/// Without its index `/init` has no drivers: it says which file is broken, then
/// what it could not do without, and the keys of the screen work.
#[test]
fn truncated_index_is_named() {
    scenario("failure-truncated-index", |lab| {
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let whole = lab.assets().our_initrd(&kernel, Profile::Virt)?;
        let initrd = lab.with_cut_index(&whole)?;
        let client = lab.machine().nic(Nic::virtio()).kernel(&kernel.image, &initrd, IMPATIENT);
        let mut machine = client.start()?;
        machine.expect("/lib/bellwether/modules.idx: ", secs(120))?;
        machine.expect(FAILED, secs(120))?;
        machine.expect("keys: r retry", secs(5))?;
        machine.send(b"o")?;
        machine.wait_off(secs(30))
    });
}

/// Options that a parser could choke on do not stop a boot; each is named.
#[test]
fn garbage_options_are_named_and_left_out() {
    scenario("failure-garbage-options", |lab| {
        let _dhcp = lab.rogue_dhcp(|answer| {
            answer.extend([121, 3, 255, 255, 255]);
            answer.extend([119, 4, 0xc0, 0, 0xc0, 0]);
            answer.extend([33, 1, 1]);
            answer.extend([26, 2, 0, 1]);
            answer.extend([12, 4, 27, b'[', b'2', b'J']);
            answer.extend([6, 3, 10, 77, 0]);
        })?;
        let _nfs = lab.nfs().export("/srv/live", &lab.assets().live_tree()?).start()?;
        let mut machine = lab.client(&format!("{LIVE} init=/bin/sh"))?.start()?;
        machine.shell(secs(180))?;
        for option in ["121", "119", "33", "26", "12", "6"] {
            let said = machine.transcript();
            assert!(said.contains(&format!("option {option}")), "{option} is not named:\n{said}");
        }
        assert!(machine.run("ip -4 -o address")?.contains("10.77.0.66/24"));
        Ok(())
    });
}

/// Answers that are no DHCP at all: the screen says that a server answers, and that
/// it is of no use.
#[test]
fn garbage_answers_are_named() {
    scenario("failure-garbage-answers", |lab| {
        let _dhcp = lab.rogue_dhcp(|answer| answer.truncate(238))?;
        let machine = lab.client(&format!("{IMPATIENT} panic=5"))?.start()?;
        machine.expect(FAILED, secs(180))?;
        let said = machine.expect("rebooting in", secs(5))?;
        assert!(said.contains("10.77.0.1"), "the server is not named:\n{said}");
        machine.expect("Linux version", secs(60)).map(drop)
    });
}

/// A machine whose initramfs has a shell.
pub fn client_with_shell<'l>(lab: &'l Lab, line: &str) -> Result<MachineBuilder<'l>> {
    let kernel = lab.assets().kernel(Flavour::Cloud)?;
    let busybox = lab.assets().small_root()?.join("usr/bin");
    let include = format!("{}:bin", busybox.display());
    let options = [&FULL[..], &["--include", &include]].concat();
    let initrd = lab.assets().our_initrd_of(&kernel, Profile::Disks, "shell", &options)?;
    Ok(lab.machine().kernel(&kernel.image, &initrd, line))
}

fn with_disk<'l>(client: MachineBuilder<'l>, image: &Path) -> MachineBuilder<'l> {
    client.disk(Bus::VirtioBlk, image)
}

/// A wrong word is put right at the console, and everything reads the line anew.
#[test]
fn the_line_is_edited_at_the_console() {
    scenario("failure-edit", |lab| {
        let image = lab.assets().small_squashfs()?;
        let line = "rootwait=3 init=/bin/sh panic=0 root=/dev/vdz";
        let mut machine = with_disk(full_client(lab, line)?, &image).start()?;
        machine.expect(FAILED, secs(120))?;
        machine.expect("staying here, as panic=0 says", secs(5))?;
        machine.expect("keys: r retry now, e edit the line", secs(5))?;
        // First a change of mind, then the change.
        machine.send(b"exyz")?;
        machine.expect("xyz", secs(5))?;
        machine.send(b"\x03")?;
        machine.send(b"e\x7fa\r")?;
        machine.expect("starting anew with: ", secs(5))?;
        machine.shell(secs(60))?;
        assert_eq!(root_of(&mut machine)?, "squashfs");
        assert!(machine.run("cat /proc/cmdline")?.trim_end().ends_with("root=/dev/vda"));
        Ok(())
    });
}

/// The keys of the screen, one after the other, on a machine that finds nothing.
#[test]
fn the_keys_of_the_screen() {
    scenario("failure-keys", |lab| {
        let line = "root=live:LABEL=NOWHERE rd.live.image rd.retry=2 bw.fail=menu:600";
        let mut machine = full_client(lab, line)?.start()?;
        machine.expect(FAILED, secs(120))?;
        let said = machine.expect("trying again in 600 s", secs(5))?;
        assert!(said.contains("NOWHERE"), "the label is not named:\n{said}");
        machine.send(b"l")?;
        machine.expect("! FAILED: could not", secs(5))?;
        machine.send(b"s")?;
        machine.expect("no shell in this image", secs(5))?;
        machine.send(b"r")?;
        machine.expect("trying again", secs(5))?;
        machine.expect(FAILED, secs(30))?;
        machine.expect("keys: ", secs(5))?;
        machine.send(b"b")?;
        machine.expect("Linux version", secs(60))?;
        machine.expect(FAILED, secs(60))?;
        machine.expect("keys: ", secs(5))?;
        machine.send(b"o")?;
        machine.wait_off(secs(30))
    });
}

/// A locked console gives no shell, no editor and no stop; and nothing that is printed or
/// kept holds a password, of which the initramfs's own file is full.
#[test]
fn a_locked_console_and_no_passwords() {
    scenario("failure-locked", |lab| {
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let words = "bw.root=http://me:SECRET@10.77.0.1/root.img cifsuser=me cifspass=SECRET \
             rd.iscsi.password=SECRET nfsopts=user=me,password=SECRET bw.clone.key=SECRET \
             systemd.set_credential=a:SECRET automatic=method:cifs,user:me,pass:SECRET";
        let secret = "hunter2";
        let baked = lab.tree("baked")?.text("secret.conf", &words.replace("SECRET", secret))?;
        let include = format!("{}:etc/cmdline.d", baked.path().display());
        let options = [&FULL[..], &["--include", &include]].concat();
        let initrd = lab.assets().our_initrd_of(&kernel, Profile::Disks, "locked", &options)?;
        let line =
            "bw.dialect=bw bw.lock break=mount bw.overlay bw.fail=menu:600 debug init=/bin/sh";
        let web = lab.scratch("web")?;
        let _dhcp = lab.dhcp().serve()?;
        let _http = lab.http(&web)?;
        let client = lab.machine().kernel(&kernel.image, &initrd, line).nic(Nic::virtio());
        let mut machine = client.start()?;
        machine.expect("break=mount stops nothing: the line locks the console", secs(120))?;
        machine.expect(FAILED, secs(60))?;
        let said = machine
            .expect("keys: r retry now, b reboot, o power off, l log; the line locks", secs(5))?;
        assert!(said.contains("http://***@10.77.0.1/root.img: "), "{said}");
        for key in [b"s", b"e"] {
            machine.send(key)?;
            machine.expect("the line locks shell and editor", secs(5))?;
        }
        machine.send(b"l")?;
        machine.expect("! FAILED: could not", secs(5))?;
        let image = lab.assets().small_squashfs()?;
        std::fs::copy(&image, web.join("root.img"))
            .map_err(qemu_tests::Error::at("copy", &image))?;
        machine.send(b"r")?;
        machine.shell(secs(60))?;
        let said = machine.transcript();
        assert!(!said.contains(secret), "a password is on the console:\n{said}");
        // Not as it stands there: the console shows the command.
        let search = "find /run -xdev -type f -size -1000k -exec grep -l 'hunt''er2' {} +";
        let places = machine.run(&format!("dmesg >/run/dmesg; {search} || true"))?;
        assert_eq!(places.trim(), "");
        let kept = machine.run("grep -c '[*][*][*]' /run/bellwether/plan.json /run/dmesg")?;
        assert!(!kept.contains(":0"), "{kept}");
        assert_eq!(machine.run("stat -c %a /run/bellwether")?.trim(), "755");
        Ok(())
    });
}

/// A root that is waited for without end does not outlast the boot's own limit.
#[test]
fn the_whole_boot_has_a_limit() {
    scenario("failure-limit", |lab| {
        let line = "root=/dev/vdz rootwait bw.timeout=4 bw.fail=reboot:1";
        let machine = full_client(lab, line)?.start()?;
        let said = machine.expect("FAILED: could not finish in time", secs(120))?
            + &machine.expect("rebooting in 1 s", secs(5))?;
        assert!(said.contains("source: was not done 4 s after"), "{said}");
        machine.expect("Linux version", secs(60))?;
        // With a menu the boot starts anew by itself.
        let line = "root=/dev/vdz rootwait rd.timeout=3 bw.dialect=dracut bw.fail=menu:5";
        let machine = full_client(lab, line)?.start()?;
        for _ in 0..2 {
            machine.expect("FAILED: could not finish in time", secs(120))?;
        }
        Ok(())
    });
}

/// A breakpoint gives the image's own shell, and the boot goes on afterwards.
#[test]
fn a_breakpoint_is_a_shell() {
    scenario("failure-break", |lab| {
        let image = lab.assets().small_squashfs()?;
        let line = "root=/dev/vda break=mount,init init=/bin/sh";
        let mut machine = with_disk(client_with_shell(lab, line)?, &image).start()?;
        machine.expect("stopped before the step source, at mount", secs(120))?;
        machine.expect("# ", secs(10))?;
        // Orphans of the shell are reaped while it runs.
        machine.send_line("orphan=$(sleep 1 >/dev/null & echo $!); echo is $orphan")?;
        machine.send_line("while [ -e /proc/$orphan ]; do sleep 0.1; done; echo reap''ed")?;
        machine.expect("reaped", secs(20))?;
        machine.send_line("cat /proc/[0-9]*/stat | grep -c ' Z '")?;
        machine.expect("\n0", secs(20))?;
        machine.send_line("exit")?;
        machine.expect("keys: c continue", secs(10))?;
        machine.send(b"c")?;
        machine.expect("stopped before the step switch, at init", secs(30))?;
        machine.expect("# ", secs(10))?;
        machine.send_line("cat /sysroot/etc/issue")?;
        machine.expect("a small live system", secs(10))?;
        machine.send_line("exit")?;
        machine.expect("keys: c continue", secs(10))?;
        machine.send(b"c")?;
        went_on(&mut machine)?;
        drop(machine);
        // Without a shell of its own an image offers the live system's, once there is one.
        let line = "root=/dev/vda rd.break=pre-mount rd.break bw.dialect=dracut init=/bin/sh";
        let mut machine = with_disk(full_client(lab, line)?, &image).start()?;
        machine.expect("no shell in this image", secs(120))?;
        machine.expect("keys: c continue", secs(10))?;
        machine.send(b"c")?;
        machine.expect("/usr/bin/sh of the live system", secs(60))?;
        machine.expect("# ", secs(10))?;
        machine.send_line("exit")?;
        machine.expect("keys: c continue", secs(10))?;
        machine.send(b"c")?;
        went_on(&mut machine)
    });
}

/// The live system's first program, a shell, is there after the last stop.
fn went_on(machine: &mut Machine) -> Result<()> {
    machine.expect("# ", secs(30))?;
    machine.send_line("readlink /proc/1/exe; grep -c /sysroot /proc/mounts")?;
    machine.expect("/usr/bin/busybox", secs(10))?;
    machine.expect("\n0", secs(10)).map(drop)
}

/// Room for the kernel's log on the mainboard, as servers have it (ACPI ERST): pstore.
fn with_pstore<'l>(lab: &Lab, client: MachineBuilder<'l>) -> Result<MachineBuilder<'l>> {
    let file = lab.scratch("pstore")?.join("erst");
    let memory =
        format!("memory-backend-file,id=erst,mem-path={},size=64K,share=on", file.display());
    Ok(client.qemu(&["-object", &memory, "-device", "acpi-erst,memdev=erst"]))
}

/// A machine that stands in the shell before it looks for the root.
fn at_the_shell(client: MachineBuilder<'_>) -> Result<Machine> {
    let mut machine = client.start()?;
    machine.expect("stopped before the step source, at mount", secs(120))?;
    machine.expect("# ", secs(10))?;
    machine.send_line("export PS1='% '; dmesg -n 1")?;
    machine.expect("\n% ", secs(10))?;
    Ok(machine)
}

/// A fault of PID 1 names the step, follows the line's policy and is in pstore
/// afterwards; a process without memory for its heap says so.
#[test]
fn a_fault_of_pid_1_is_told() {
    scenario("failure-fault", |lab| {
        let image = lab.assets().small_squashfs()?;
        let line =
            |panic| format!("root=/dev/vda break=mount init=/bin/sh panic={panic} bw.lock=no");
        let client = with_disk(client_with_shell(lab, &line(3))?, &image);
        let mut machine = at_the_shell(with_pstore(lab, client)?)?;
        // A process of our own without memory for its heap.
        machine.send_line(
            "for kib in $(seq 1400 -20 900); do (ulimit -v $kib; exec /sbin/modprobe x) 2>/dev/null; \
             status=$?; [ $status = 134 ] && break; done; echo it en''ded with $status",
        )?;
        let said = machine.expect("ended with 134", secs(60))?;
        let wanted =
            ["FAILED: internal error, please report it:", "memory allocation of", "in the step"];
        for wanted in wanted {
            assert!(said.contains(wanted), "no {wanted:?} in:\n{said}");
        }
        machine.expect("\n% ", secs(30))?;
        machine.send_line("kill -SEGV 1")?;
        let said = machine.expect("rebooting in 3 s", secs(10))?;
        let wanted =
            "FAILED: internal error, please report it: an invalid access to memory (SIGSEGV)";
        assert!(said.contains(wanted), "{said}");
        assert!(said.contains("; in the step source; "), "{said}");
        // The kernel keeps its log when it panics.
        machine.expect("Kernel panic", secs(20))?;
        machine.expect("Linux version", secs(60))?;
        machine.expect("stopped before the step source, at mount", secs(120))?;
        machine.expect("# ", secs(10))?;
        machine.send_line("mount -t pstore pstore /sys/fs/pstore; cd /sys/fs/pstore; ls")?;
        machine.send_line("grep -ho 'internal er''ror, .*' *")?;
        let kept = machine.expect("; in the step source; rebooting in 3 s", secs(20))?;
        assert!(kept.contains("internal error, please report it: an invalid access"), "{kept}");
        drop(machine);

        let client = with_disk(client_with_shell(lab, &line(0))?, &image);
        let mut machine = at_the_shell(client)?;
        machine.send_line("kill -BUS 1")?;
        machine.expect("in the step source; staying here, as panic=0 says", secs(10))?;
        machine.send_line("sleep 2; echo still al''ive")?;
        machine.expect("still alive", secs(20)).map(drop)
    });
}
