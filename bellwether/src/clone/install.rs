//! `install`: the receiving machine of `ka-d`. Partitions its disk as the golden
//! one's, takes the files, and makes them a machine of its own that boots.
//!
//! It runs in an initramfs with the programs that `tools` gathers. What the
//! distribution has a program for, that program does, in the copy: its initramfs,
//! its boot loader.

use super::flags::{Given, Program, flag};
use super::ka;
use super::layout::{FILE, Layout, Part};
use super::prepare::{NAMES, output};
use super::world::{Host, random};
use crate::failure::Failure;
use clone::edge::World;
use p2v::script::quoted;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The grammar.
pub static INSTALL: Program = Program {
    name: "install",
    about: "Makes this machine a copy of ka-d's; its disk is overwritten.",
    rest: "",
    example: "bellwether clone install --disk /dev/sda",
    flags: &[
        flag("disk", None, Some("DISK"), "overwrite this one [the only one]"),
        flag("host", Some('h'), Some("HOST"), "the server [found by broadcast]"),
        flag("name", None, Some("NAME"), "the copy's host name [this machine's, from DHCP]"),
        flag("keep-identity", None, None, "keep machine-id and SSH host keys"),
        flag("timeout", Some('T'), Some("S"), "wait this long for the server [600]"),
        flag("dry-run", None, None, "take the description, show what would be done, and end"),
    ],
};

const WORK: &str = "/tmp/bellwether-clone";
/// Where a copy is mounted.
pub const COPY: &str = "/tmp/bellwether-copy";
const LILO: &str = "etc/lilo.conf";
/// What a copy says its own identifiers in, besides fstab.
const SAYS_UUIDS: [&str; 8] = [
    "etc/fstab",
    "etc/crypttab",
    "etc/default/grub",
    "etc/initramfs-tools/conf.d/resume",
    "etc/kernel/cmdline",
    LILO,
    "boot/extlinux/extlinux.conf",
    "etc/dracut.conf.d/resume.conf",
];
/// Directories in which each file names a root, as the Boot Loader Specification has it.
const ENTRIES: [&str; 3] = ["boot/loader/entries", "boot/efi/loader/entries", "efi/loader/entries"];
/// Where distributions have the code that starts extlinux from a disk's first sector.
const BOOT_CODE: [&str; 4] =
    ["usr/lib/EXTLINUX", "usr/lib/syslinux/mbr", "usr/lib/syslinux/bios", "usr/share/syslinux"];
/// The type of the partition in which GRUB for BIOS is on GPT.
const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";
/// What belongs to the golden machine alone.
const ITS_OWN: [&str; 4] = [
    "var/lib/systemd/random-seed",
    "etc/udev/rules.d/70-persistent-net.rules",
    "etc/udev/rules.d/70-persistent-cd.rules",
    "var/lib/dbus/machine-id",
];

fn failed(what: &str) -> impl Fn(std::io::Error) -> Failure + '_ {
    move |e| Failure::Failed(format!("{what}: {e}"))
}

/// Says what is done.
pub fn say(text: &str) {
    eprintln!("clone: {text}");
}

/// The only disk, or the one named.
pub fn choose(named: Option<&str>) -> Result<String, Failure> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let mut disks = Vec::new();
    for entry in fs::read_dir("/sys/block").map_err(failed("/sys/block"))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let no = ["loop", "ram", "sr", "fd", "nbd", "dm-", "md", "zram"];
        let flag =
            |what: &str| fs::read_to_string(entry.path().join(what)).is_ok_and(|t| t.trim() == "1");
        if !no.iter().any(|n| name.starts_with(n)) && !flag("removable") && !flag("ro") {
            disks.push(format!("/dev/{name}"));
        }
    }
    disks.sort();
    match disks.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Failure::Failed("there is no disk in this machine".to_owned())),
        _ => Err(Failure::Failed(format!("which disk? One of {}", disks.join(", ")))),
    }
}

pub fn disk_mib(disk: &str) -> Result<u64, Failure> {
    use std::io::{Seek, SeekFrom};
    let mut file = fs::OpenOptions::new().write(true).open(disk).map_err(failed(disk))?;
    Ok(file.seek(SeekFrom::End(0)).map_err(failed(disk))? >> 20)
}

/// Runs a program with some input.
pub fn feed(words: &[&str], input: &str) -> Result<(), Failure> {
    let (program, args) = words.split_first().ok_or_else(|| Failure::Failed(String::new()))?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(failed(program))?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // It asks nothing.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
            written => written.map_err(failed(program))?,
        }
    }
    let status = child.wait().map_err(failed(program))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::Failed(format!("{}: {status}", words.join(" "))))
}

fn make(part: &Part, device: &str) -> Result<(), Failure> {
    let mut words: Vec<&str> = match part.fs.as_str() {
        "" => return Ok(()),
        "swap" => vec!["mkswap"],
        "ext2" => vec!["mkfs.ext2", "-q", "-F"],
        "ext3" => vec!["mkfs.ext3", "-q", "-F"],
        "ext4" => vec!["mkfs.ext4", "-q", "-F"],
        "xfs" => vec!["mkfs.xfs", "-q", "-f"],
        "btrfs" => vec!["mkfs.btrfs", "-q", "-f"],
        "vfat" => vec!["mkfs.vfat", "-F", "32"],
        _ => vec!["mkfs.ntfs", "-Q", "-F"],
    };
    let label = if part.fs == "vfat" { "-n" } else { "-L" };
    if !part.label.is_empty() {
        words.extend([label, &part.label]);
    }
    words.push(device);
    output(&words).map(drop)
}

/// Waits until the kernel has made a partition's device.
pub fn wait_for(device: &str) -> Result<(), Failure> {
    let until = Instant::now() + Duration::from_secs(20);
    while !Path::new(device).exists() {
        if Instant::now() > until {
            return Err(Failure::Failed(format!("{device}: the kernel does not show it")));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Mounted file systems, taken down in the end whatever happens.
#[derive(Debug, Default)]
pub struct Mounted(Vec<String>);

impl Mounted {
    /// The file systems of a copy, each in its place below [`COPY`].
    pub fn copy(layout: &Layout, disk: &str) -> Result<Self, Failure> {
        let mut mounted = Self::default();
        for part in layout.mounts() {
            let place = format!("{COPY}{}", part.mount.trim_end_matches('/'));
            // vfat has no owners; that is no reason not to take files with theirs.
            let how = if part.fs == "vfat" { "quiet,umask=0077" } else { "rw" };
            mounted.mount(&["-t", &part.fs, "-o", how, &part.device(disk)], &place)?;
        }
        Ok(mounted)
    }

    /// One more.
    pub fn mount(&mut self, words: &[&str], place: &str) -> Result<(), Failure> {
        fs::create_dir_all(place).map_err(failed(place))?;
        let words: Vec<&str> = std::iter::once("mount").chain(words.iter().copied()).collect();
        output(&[words.as_slice(), &[place]].concat())?;
        self.0.push(place.to_owned());
        Ok(())
    }

    /// All of it is on the disk, and taken down.
    pub fn written(&mut self) -> Result<(), Failure> {
        say("writing everything to the disk");
        let _ = output(&["sync"]);
        self.end()
    }

    fn end(&mut self) -> Result<(), Failure> {
        let mut result = Ok(());
        while let Some(place) = self.0.pop() {
            for attempt in 0..3 {
                match output(&["umount", &place]) {
                    Ok(_) => break,
                    Err(_) if attempt < 2 => std::thread::sleep(Duration::from_secs(1)),
                    Err(e) => result = Err(e),
                }
            }
        }
        result
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Runs it all.
pub fn run(given: &Given) -> Result<(), Failure> {
    let patience = given.seconds("timeout")?.unwrap_or(Duration::from_secs(600));
    let mut world = Host::new("clone", true, true);
    let server = match given.get("host") {
        Some(host) => {
            Some(world.resolve(host).map_err(|e| Failure::Failed(format!("{host}: {e}")))?)
        }
        None => None,
    };
    let disk = choose(given.get("disk"))?;
    let mib = disk_mib(&disk)?;
    fs::create_dir_all(WORK).map_err(failed(WORK))?;
    let got = ka::take("kainstall1", server, &format!("tar -x -C {WORK} -f -"), patience)?;
    let server = server.or(got.sender);
    let path = format!("{WORK}/{FILE}");
    let text = fs::read_to_string(&path).map_err(|_| {
        Failure::Failed("the server sends no layout: is it ka-d of bellwether?".to_owned())
    })?;
    let layout = Layout::parse(&text)?;
    let script = layout.script(mib)?;
    if given.has("dry-run") {
        print!("{script}");
        return Ok(());
    }
    for name in NAMES {
        // Only where there are none: in an initramfs.
        let (from, to) = (format!("{WORK}/{name}"), format!("/etc/{name}"));
        if !Path::new(&to).exists() && Path::new(&from).exists() {
            fs::copy(&from, &to).map_err(failed(&to))?;
        }
    }
    say(&format!("OVERWRITES {disk}, {mib} MiB"));
    feed(&["sfdisk", "-q", "--wipe", "always", "--wipe-partitions", "always", &disk], &script)?;
    for part in layout.parts.iter().filter(|p| !p.fs.is_empty()) {
        let device = part.device(&disk);
        wait_for(&device)?;
        say(&format!(
            "{device}: {} for {}",
            part.fs,
            if part.mount.is_empty() { "swap" } else { &part.mount }
        ));
        make(part, &device)?;
    }
    let mut mounted = Mounted::copy(&layout, &disk)?;
    let extract = format!(
        "tar --extract --numeric-owner --same-owner --same-permissions --sparse --acls --xattrs \
         '--xattrs-include=*' -C {} -f -",
        quoted(COPY)
    );
    let got = ka::take("kainstall2", server, &extract, Duration::from_secs(600))?;
    for digest in &got.digests {
        say(&format!("{} bytes, blake3 {digest}, {}", digest.bytes, got.verdict()));
    }
    own(given, &layout, &disk)?;
    boots(&layout, &disk, &mut mounted)?;
    mounted.written()?;
    // The disk itself must be able to read what was written.
    for part in layout.parts.iter().filter(|p| p.fs.starts_with("ext")) {
        output(&["fsck.ext4", "-n", "-f", &part.device(&disk)])?;
    }
    ka::take("kafinished", server, "cat >/dev/null", Duration::from_secs(1800))?;
    say("the copy is complete");
    Ok(())
}

/// What distinguishes this machine from the golden one.
pub fn own(given: &Given, layout: &Layout, disk: &str) -> Result<(), Failure> {
    let id = |tag: &str, device: &str| {
        output(&["blkid", "-p", "-s", tag, "-o", "value", device])
            .map(|t| t.trim().to_owned())
            .unwrap_or_default()
    };
    let (mut same, mut devices) = (Vec::new(), Vec::new());
    for part in layout.parts.iter().filter(|p| !p.fs.is_empty()) {
        let device = part.device(disk);
        // Names of the golden machine's disk may be another one here.
        let uuid = id("UUID", &device);
        if !uuid.is_empty() {
            devices.push((part.device(&layout.disk), device.clone(), format!("UUID={uuid}")));
            same.push((part.uuid.clone(), uuid));
        }
        same.push((part.partuuid.clone(), id("PART_ENTRY_UUID", &device)));
    }
    // LILO takes no identifier without quotes.
    let lilo = devices.iter().map(|(old, device, _)| (old.clone(), device.clone()));
    let lilo = longest_first(same.iter().cloned().chain(lilo).collect());
    let new = devices.into_iter().map(|(old, _, uuid)| (old, uuid));
    let new = longest_first(same.into_iter().chain(new).collect());
    for file in says_uuids() {
        let path = format!("{COPY}/{file}");
        // A link would lead out of the copy.
        if !fs::symlink_metadata(&path).is_ok_and(|m| m.is_file()) {
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let pairs = if file == LILO { &lilo } else { &new };
        let changed = renamed(&text, pairs, (&layout.disk, disk));
        if changed != text {
            fs::write(&path, changed).map_err(failed(&path))?;
            say(&format!("/{file} says the new identifiers"));
        }
    }
    entries_stay()?;
    let name = match given.get("name") {
        Some(name) => name.to_owned(),
        None => fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default(),
    };
    let name = name.trim();
    if !name.is_empty() && name != "(none)" && name != "localhost" {
        let path = format!("{COPY}/etc/hostname");
        let old = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, format!("{name}\n")).map_err(failed(&path))?;
        let hosts = format!("{COPY}/etc/hosts");
        if let Ok(text) = fs::read_to_string(&hosts) {
            let word = |w: &str| if w == old.trim() { name.to_owned() } else { w.to_owned() };
            let lines = text.lines().map(|line| {
                let words: Vec<String> = line.split(['\t', ' ']).map(word).collect();
                if line.starts_with('#') { line.to_owned() } else { words.join(" ") }
            });
            let text: Vec<String> = lines.collect();
            fs::write(&hosts, text.join("\n") + "\n").map_err(failed(&hosts))?;
        }
        say(&format!("this machine is {name}"));
    }
    if given.has("keep-identity") {
        return Ok(());
    }
    for file in ITS_OWN {
        let _ = fs::remove_file(format!("{COPY}/{file}"));
    }
    if Path::new(&format!("{COPY}/etc/machine-id")).exists() {
        let bytes: [u8; 16] = random()?;
        let path = format!("{COPY}/etc/machine-id");
        fs::write(&path, clone::pact::hex(&bytes) + "\n").map_err(failed(&path))?;
    }
    for entry in fs::read_dir(format!("{COPY}/etc/ssh")).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// The copy's entries of the Boot Loader Specification, each with its directory.
fn entries() -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    for dir in ENTRIES {
        for entry in fs::read_dir(format!("{COPY}/{dir}")).into_iter().flatten().flatten() {
            all.push((dir, entry.file_name().to_string_lossy().into_owned()));
        }
    }
    all.sort();
    all
}

/// The copy's files that say its own identifiers.
fn says_uuids() -> Vec<String> {
    let entries = entries().into_iter().map(|(dir, entry)| format!("{dir}/{entry}"));
    SAYS_UUIDS.iter().map(|file| (*file).to_owned()).chain(entries).collect()
}

/// kernel-install names systemd-boot's entries after the machine, and puts the command line
/// of the running kernel into them. Here that is the installer's, and the names on the
/// copy are the golden machine's: its configuration says what they shall be.
fn entries_stay() -> Result<(), Failure> {
    if !has("bootctl") || has("grub-install") || has("grub2-install") {
        return Ok(());
    }
    let exists = |path: &str| Path::new(&format!("{COPY}/{path}")).exists();
    let own = fs::read_to_string(format!("{COPY}/etc/machine-id")).unwrap_or_default();
    let own = own.trim();
    for (dir, entry) in entries() {
        let text = fs::read_to_string(format!("{COPY}/{dir}/{entry}")).unwrap_or_default();
        let Some(options) = options(&text) else { continue };
        let write = |path: &str, text: &str| {
            let path = format!("{COPY}/{path}");
            let place = Path::new(&path).parent().map_or(Ok(()), fs::create_dir_all);
            place.and_then(|()| fs::write(&path, format!("{text}\n"))).map_err(failed(&path))
        };
        if !exists("etc/kernel/cmdline") && !exists("usr/lib/kernel/cmdline") {
            write("etc/kernel/cmdline", &options)?;
        }
        if !own.is_empty() && entry.starts_with(own) && !exists("etc/kernel/entry-token") {
            write("etc/kernel/entry-token", own)?;
        }
    }
    Ok(())
}

/// The kernel's command line in an entry of the Boot Loader Specification.
fn options(entry: &str) -> Option<String> {
    let key = |line: &str| line.trim().strip_prefix("options").map(str::to_owned);
    let values = entry.lines().filter_map(key).filter(|v| v.starts_with([' ', '\t']));
    let values: Vec<String> = values.map(|v| v.trim().to_owned()).collect();
    (!values.is_empty()).then(|| values.join(" "))
}

/// /dev/sda1 is the beginning of /dev/sda12.
fn longest_first(mut pairs: Vec<(String, String)>) -> Vec<(String, String)> {
    pairs.retain(|(old, new)| !old.is_empty() && !new.is_empty());
    pairs.sort_by_key(|(old, _)| std::cmp::Reverse(old.len()));
    pairs
}

/// A text with the new identifiers, and with the disk's new name where a line is about
/// the whole disk, as LILO's `boot=` is.
fn renamed(text: &str, new: &[(String, String)], disk: (&str, &str)) -> String {
    let mut changed = text.to_owned();
    for (old, new) in new {
        changed = changed.replace(old, new);
        changed = changed.replace(&old.to_uppercase(), new);
    }
    let whole = |line: &str| match line.trim_end().rsplit_once('=') {
        Some((word, name)) if name.trim() == disk.0 => format!("{word}={}\n", disk.1),
        _ => line.to_owned(),
    };
    changed.split_inclusive('\n').map(whole).collect()
}

/// The code in the disk's first sector that starts extlinux, and on GPT by what it finds
/// the partition.
fn boot_code(layout: &Layout, disk: &str) -> Result<(), Failure> {
    let name = if layout.table == "gpt" { "gptmbr.bin" } else { "mbr.bin" };
    let files = BOOT_CODE.iter().map(|dir| format!("{COPY}/{dir}/{name}"));
    let Some(code) = files.filter_map(|path| fs::read(path).ok()).next() else {
        return Err(Failure::Failed(format!("the copy has extlinux without its {name}")));
    };
    // The table begins behind it.
    if code.len() > 440 {
        return Err(Failure::Failed(format!("extlinux's {name} has {} bytes", code.len())));
    }
    say(&format!("extlinux's {name} to {disk}"));
    let mut file = fs::OpenOptions::new().write(true).open(disk).map_err(failed(disk))?;
    file.write_all(&code).map_err(failed(disk))?;
    if layout.table == "gpt" {
        let at = |mount: &str| layout.parts.iter().find(|p| p.mount == mount);
        let part = at("/boot").or_else(|| at("/")).map_or(0, |p| p.number).to_string();
        output(&["sfdisk", "-q", "--part-attrs", disk, &part, "LegacyBIOSBootable"])?;
    }
    Ok(())
}

/// Whether the copy has a program.
fn has(program: &str) -> bool {
    ["usr/sbin", "usr/bin", "sbin", "bin"]
        .iter()
        .any(|dir| Path::new(&format!("{COPY}/{dir}/{program}")).exists())
}

/// Runs a program of the copy's, in it.
fn inside(words: &[&str]) -> Result<(), Failure> {
    say(&words.join(" "));
    let words: Vec<&str> = ["chroot", COPY].iter().chain(words).copied().collect();
    let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    // Without udev there is nothing by which bootctl would know a partition.
    let relaxed = "SYSTEMD_RELAX_ESP_CHECKS=1";
    let words = [&["env", path, "LC_ALL=C", relaxed], words.as_slice()].concat();
    output(&words).map(drop)
}

/// The copy's own programs make it boot on this machine.
pub fn boots(layout: &Layout, disk: &str, mounted: &mut Mounted) -> Result<(), Failure> {
    for place in ["dev", "proc", "sys", "run"] {
        mounted.mount(&["--bind", &format!("/{place}")], &format!("{COPY}/{place}"))?;
    }
    if has("ssh-keygen") && Path::new(&format!("{COPY}/etc/ssh")).exists() {
        inside(&["ssh-keygen", "-A"])?;
    }
    if has("update-initramfs") {
        inside(&["update-initramfs", "-u", "-k", "all"])?;
    } else if has("dracut") {
        inside(&["dracut", "--regenerate-all", "--force"])?;
    } else if has("mkinitcpio") {
        inside(&["mkinitcpio", "-P"])?;
    }
    let efi = layout.parts.iter().find(|p| p.fs == "vfat" && p.mount.starts_with("/boot"));
    let grub = |two: &str, one: &str| {
        if has(two) { Some(two.to_owned()) } else { has(one).then(|| one.to_owned()) }
    };
    let mut loaders = 0;
    if let Some(install) = grub("grub2-install", "grub-install") {
        let modules = |kind: &str| Path::new(&format!("{COPY}/usr/lib/grub/{kind}")).exists();
        // On GPT it needs a partition of its own.
        let room = layout.table == "dos"
            || layout.parts.iter().any(|p| p.kind.eq_ignore_ascii_case(BIOS_BOOT));
        if modules("i386-pc") && room && !Path::new("/sys/firmware/efi").exists() {
            inside(&[&install, "--target=i386-pc", disk])?;
            loaders += 1;
        }
        if let Some(efi) = efi.filter(|_| modules("x86_64-efi")) {
            // Where firmware looks that knows nothing of this disk.
            let directory = format!("--efi-directory={}", efi.mount);
            inside(&[&install, "--target=x86_64-efi", &directory, "--removable", "--no-nvram"])?;
            loaders += 1;
        }
        for (make, config) in
            [("grub-mkconfig", "/boot/grub/grub.cfg"), ("grub2-mkconfig", "/boot/grub2/grub.cfg")]
        {
            if has(make) {
                inside(&[make, "-o", config])?;
            }
        }
    } else if has("bootctl") && efi.is_some() {
        inside(&["bootctl", "install", "--no-variables"])?;
        loaders += 1;
    } else if has("extlinux") {
        inside(&["extlinux", "--install", "/boot/extlinux"])?;
        boot_code(layout, disk)?;
        loaders += 1;
    } else if has("lilo") {
        inside(&["lilo"])?;
        loaders += 1;
    }
    if loaders == 0 {
        return Err(Failure::Failed(
            "the copy has no boot loader for this machine: grub-pc for BIOS, grub-efi for UEFI"
                .to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_golden_disk_become_the_copys() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let new = longest_first(vec![
            pair("/dev/sda1", "/dev/nvme0n1p1"),
            pair("/dev/sda12", "/dev/nvme0n1p12"),
            pair("", "none"),
        ]);
        let disks = ("/dev/sda", "/dev/nvme0n1");
        let lilo = "boot=/dev/sda\nroot = /dev/sda1\nother=/dev/sda12\n# boot is /dev/sda";
        let its =
            "boot=/dev/nvme0n1\nroot = /dev/nvme0n1p1\nother=/dev/nvme0n1p12\n# boot is /dev/sda";
        assert_eq!(renamed(lilo, &new, disks), its);
        assert_eq!(options("title x\noptions a=b  c\noptions d\n"), Some("a=b  c d".to_owned()));
        assert_eq!(options("title x\n"), None);
        let new = [pair("a1b2", "dd")];
        let entry = "options root=UUID=A1B2 ro\n";
        assert_eq!(renamed(entry, &new, disks), "options root=UUID=dd ro\n");
        assert_eq!(renamed("boot = /dev/sda", &new, disks), "boot =/dev/nvme0n1\n");
    }
}
