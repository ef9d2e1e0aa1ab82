//! What a machine says to `bellwether clone p2v-server`: which disk comes on a connection, and
//! at the end the guest that they belong to. Texts of a few lines, one word and its value each.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::domain::{Card, escaped, guest_name};
use crate::edit::address;

/// The longest text.
pub const MOST: usize = 16 << 10;
/// The largest disk in bytes: 64 TiB.
const LARGEST: u64 = 64 << 40;
const DISKS: usize = 64;
const CARDS: usize = 64;
const FIRST: &str = "bellwether-p2v 1";

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A disk follows, as an NBD client fills it.
    Disk {
        /// The run of the machine: a connection that breaks is followed by one of the same.
        run: String,
        /// The guest.
        guest: String,
        /// The disk's name, in the form of [`disk_name`].
        disk: String,
        /// Its bytes.
        size: u64,
    },
    /// All disks are there.
    Done {
        /// As above.
        run: String,
        /// What they are to become.
        guest: Guest,
    },
}

/// A guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// As `uname -m` has it.
    pub arch: String,
    /// The machine has UEFI.
    pub uefi: bool,
    /// Memory in KiB.
    pub memory_kib: u64,
    /// Processors.
    pub vcpus: u32,
    /// Names and SHA-256 digests.
    pub disks: Vec<(String, String)>,
    /// Network cards.
    pub cards: Vec<Card>,
}

/// A disk's name as a part of a file's: `cciss/c0d0` has a dash.
#[must_use]
pub fn disk_name(name: &str) -> String {
    guest_name(&name.replace('/', "-")).chars().take(32).collect()
}

fn hexadecimal(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// `52:54:00:12:34:56`, or nothing.
fn is_mac(text: &str) -> bool {
    text.is_empty() || address(text).as_deref() == Some(text)
}

impl Ask {
    /// The text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = Vec::from([FIRST.to_string()]);
        let mut line = |word: &str, value: &str| lines.push(format!("{word} {value}"));
        match self {
            Self::Disk { run, guest, disk, size } => {
                line("run", run);
                line("name", guest);
                line("disk", disk);
                line("size", &size.to_string());
            }
            Self::Done { run, guest } => {
                line("run", run);
                line("name", &guest.name);
                line("arch", &guest.arch);
                line("firmware", if guest.uefi { "uefi" } else { "bios" });
                line("memory", &guest.memory_kib.to_string());
                line("vcpus", &guest.vcpus.to_string());
                guest.disks.iter().for_each(|(name, sum)| line("has", &format!("{name} {sum}")));
                for Card { mac, network } in &guest.cards {
                    line("card", &format!("{mac} {network}"));
                }
            }
        }
        lines.join("\n") + "\n"
    }

    /// Reads such a text. Names have nothing that a file's name or a description must not have.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > MOST {
            return Err("the text is too long");
        }
        let mut lines = text.lines();
        if lines.next() != Some(FIRST) {
            return Err("is of another version: both ends must be of one version");
        }
        let mut guest = Guest::default();
        let (mut run, mut disk, mut size) = (String::new(), String::new(), 0);
        for line in lines {
            let (word, value) = line.split_once(' ').unwrap_or((line, ""));
            let number = |most: u64| {
                let number = value.parse().ok().filter(|n: &u64| (1..=most).contains(n));
                number.ok_or("a number is out of its range")
            };
            let pair = value.split_once(' ').unwrap_or((value, ""));
            match word {
                "run" if hexadecimal(value, 32) => run = value.to_string(),
                "name" if !value.is_empty() && guest_name(value) == value => {
                    guest.name = value.to_string();
                }
                "disk" if !value.is_empty() && disk_name(value) == value => {
                    disk = value.to_string();
                }
                "size" => size = number(LARGEST)?,
                "arch" if matches!(value, "x86_64" | "aarch64") => guest.arch = value.to_string(),
                "firmware" => guest.uefi = value == "uefi",
                "memory" => guest.memory_kib = number(1 << 40)?,
                "vcpus" => guest.vcpus = u32::try_from(number(4096)?).unwrap_or(1),
                "has" if guest.disks.len() < DISKS => {
                    let (name, sum) = pair;
                    if disk_name(name) != name || name.is_empty() || !hexadecimal(sum, 64) {
                        return Err("a disk's name or digest is not valid");
                    }
                    guest.disks.push((name.to_string(), sum.to_string()));
                }
                "card" if guest.cards.len() < CARDS && is_mac(pair.0) && pair.1.len() <= 256 => {
                    let (mac, network) = (pair.0.to_string(), pair.1.to_string());
                    guest.cards.push(Card { mac, network });
                }
                _ => return Err("a line is not understood"),
            }
        }
        if run.is_empty() || guest.name.is_empty() {
            return Err("the run or the guest's name is missing");
        }
        if !disk.is_empty() {
            let whole = size > 0 && size.is_multiple_of(512);
            return match whole {
                true => Ok(Self::Disk { run, guest: guest.name, disk, size }),
                false => Err("the disk's size is not a number of whole sectors"),
            };
        }
        let names: BTreeSet<&str> = guest.disks.iter().map(|(name, _)| name.as_str()).collect();
        if names.is_empty() || names.len() != guest.disks.len() {
            return Err("the guest has no disks, or two of one name");
        }
        if guest.arch.is_empty() || guest.memory_kib == 0 || guest.vcpus == 0 {
            return Err("the guest's processor or memory is missing");
        }
        Ok(Self::Done { run, guest })
    }
}

impl Guest {
    /// A libvirt domain (<https://libvirt.org/formatdomain.html>) of the kind `kvm` or `qemu`, with
    /// these files in the format `raw` or `qcow2`.
    ///
    /// Disks are on SATA, which every system's initramfs has a driver for, unless the machine had
    /// them on virtio; likewise the cards.
    #[must_use]
    pub fn libvirt(&self, kind: &str, format: &str, files: &[String]) -> String {
        let virtio = self.disks.iter().all(|(name, _)| name.starts_with("vd"));
        let (bus, letter, card) = match virtio {
            true => ("virtio", "vd", "virtio"),
            false => ("sata", "sd", "e1000e"),
        };
        let (machine, arm) = match self.arch.as_str() {
            "aarch64" => ("virt", true),
            _ => ("q35", false),
        };
        let (bus, letter) = if arm && !virtio { ("scsi", "sd") } else { (bus, letter) };
        // Left to itself, libvirt of Debian 12 takes firmware that starts nothing but what Microsoft
        // has signed: the machine's own loader may not be.
        let (firmware, features) = match self.uefi || arm {
            true => (
                " firmware=\"efi\"",
                "    <firmware>\n      <feature enabled=\"no\" name=\"enrolled-keys\"/>\n      \
                 <feature enabled=\"no\" name=\"secure-boot\"/>\n    </firmware>\n",
            ),
            false => ("", ""),
        };
        let mut devices = String::new();
        for (n, file) in files.iter().enumerate() {
            let (n, boot) = (u32::try_from(n).unwrap_or(0), n + 1);
            // sda to sdz, then sdaa.
            let last = char::from_u32(u32::from('a') + n % 26).unwrap_or('a');
            let more =
                if n < 26 { String::new() } else { ((b'a' - 1 + (n / 26) as u8) as char).into() };
            devices += &format!(
                "    <disk type=\"file\" device=\"disk\">\n\
                 \x20     <driver name=\"qemu\" type=\"{format}\"/>\n\
                 \x20     <source file=\"{}\"/>\n\
                 \x20     <target dev=\"{letter}{more}{last}\" bus=\"{bus}\"/>\n\
                 \x20     <boot order=\"{boot}\"/>\n    </disk>\n",
                escaped(file)
            );
        }
        if bus == "scsi" {
            devices += "    <controller type=\"scsi\" model=\"virtio-scsi\"/>\n";
        }
        for Card { mac, network } in &self.cards {
            let network = if network.is_empty() { "default" } else { network };
            devices += "    <interface type=\"network\">\n";
            if !mac.is_empty() {
                devices += &format!("      <mac address=\"{mac}\"/>\n");
            }
            devices += &format!(
                "      <source network=\"{}\"/>\n      <model type=\"{card}\"/>\n    </interface>\n",
                escaped(network)
            );
        }
        devices += "    <serial type=\"pty\"/>\n    <console type=\"pty\"/>\n";
        if !arm {
            devices += "    <graphics type=\"vnc\" autoport=\"yes\" listen=\"127.0.0.1\"/>\n\
                        \x20   <video><model type=\"vga\"/></video>\n";
        }
        // A processor that is emulated has none to hand on.
        let cpu = if kind == "kvm" { "  <cpu mode=\"host-passthrough\"/>\n" } else { "" };
        format!(
            "<domain type=\"{kind}\">\n  <name>{}</name>\n  <memory unit=\"KiB\">{}</memory>\n  \
             <vcpu>{}</vcpu>\n  <os{firmware}>\n    <type arch=\"{}\" machine=\"{machine}\">hvm</type>\n{features}  \
             </os>\n  <features><acpi/>{}</features>\n{cpu}  <clock offset=\"utc\"/>\n  \
             <on_poweroff>destroy</on_poweroff>\n  <on_reboot>restart</on_reboot>\n  \
             <devices>\n{devices}  </devices>\n</domain>\n",
            escaped(&self.name),
            self.memory_kib,
            self.vcpus,
            self.arch,
            if arm { "" } else { "<apic/>" },
        )
    }
}

/// Reads any text; for fuzzers.
///
/// # Panics
/// When a name is taken that leaves the directory, or a text is read as another one.
pub fn fuzz(data: &[u8]) {
    let Ok(ask) = Ask::parse(&String::from_utf8_lossy(data)) else { return };
    let names: Vec<&String> = match &ask {
        Ask::Disk { guest, disk, .. } => Vec::from([guest, disk]),
        Ask::Done { guest, .. } => guest.disks.iter().map(|d| &d.0).chain([&guest.name]).collect(),
    };
    for name in names {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        assert!(name.chars().all(plain) && !name.starts_with('.') && name.len() <= 64, "{name}");
    }
    assert_eq!(Ask::parse(&ask.text()).as_ref(), Ok(&ask));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RUN: &str = "0123456789abcdef0123456789abcdef";
    const SUM: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn done() -> Guest {
        Guest {
            name: "web01".into(),
            arch: "x86_64".into(),
            memory_kib: 1 << 20,
            vcpus: 2,
            disks: [("sda", SUM), ("nvme0n1", SUM)].map(|(n, s)| (n.into(), s.into())).into(),
            cards: [Card { mac: "52:54:00:12:34:56".into(), network: "br <0>".into() }].into(),
            ..Guest::default()
        }
    }

    #[test]
    fn texts_are_read_as_they_were_meant() {
        for ask in [
            Ask::Disk { run: RUN.into(), guest: "web01".into(), disk: "sda".into(), size: 1 << 30 },
            Ask::Done { run: RUN.into(), guest: done() },
        ] {
            assert_eq!(Ask::parse(&ask.text()), Ok(ask));
        }
        assert_eq!(disk_name("cciss/c0d0"), "cciss-c0d0");
    }

    #[test]
    fn what_would_do_harm_is_refused() {
        let disk = format!("{FIRST}\nrun {RUN}\nname web01\ndisk sda\nsize 1024\n");
        assert!(Ask::parse(&disk).is_ok());
        for (from, to) in [
            ("name web01", "name ../../etc/cron.d/x"),
            ("name web01", "name .hidden"),
            ("name web01", "name a/b"),
            ("name web01", "name "),
            ("disk sda", "disk a/b"),
            ("disk sda", "disk sda,format=raw"),
            ("size 1024", "size 0"),
            ("size 1024", "size 1025"),
            ("size 1024", "size 99999999999999999"),
            ("size 1024", "size -1"),
            (RUN, "../x"),
            ("p2v 1", "p2v 2"),
            ("size 1024", "shape 1024"),
        ] {
            assert!(Ask::parse(&disk.replace(from, to)).is_err(), "{to}");
        }
        let text = Ask::Done { run: RUN.into(), guest: done() }.text();
        for (from, to) in [
            ("has nvme0n1", "has sda"),
            ("52:54:00:12:34:56", "52:54:00:12:34:56'/>"),
            ("vcpus 2", "vcpus 0"),
            ("vcpus 2", "vcpus 99999"),
            ("arch x86_64", "arch \"x"),
            (SUM, "12"),
        ] {
            assert!(Ask::parse(&text.replace(from, to)).is_err(), "{to}");
        }
        assert!(Ask::parse(&"x".repeat(MOST + 1)).is_err());
    }

    #[test]
    fn the_description_is_escaped_and_names_each_disk_once() {
        let guest = done();
        let files: Vec<String> = (0..30).map(|n| format!("/srv/a&b-{n}")).collect();
        let xml = guest.libvirt("kvm", "qcow2", &files);
        for piece in
            ["/srv/a&amp;b-3", "br &lt;0&gt;", "dev=\"sdz\"", "dev=\"sdaa\"", "dev=\"sdad\""]
        {
            assert!(xml.contains(piece), "{piece}: {xml}");
        }
        assert!(xml.contains("bus=\"sata\"") && xml.contains("e1000e") && !xml.contains("efi"));
        let virtio = Guest { disks: [("vda".into(), SUM.into())].into(), uefi: true, ..done() };
        let xml = virtio.libvirt("qemu", "raw", &["/x".into()]);
        assert!(xml.contains("bus=\"virtio\"") && xml.contains("firmware=\"efi\""), "{xml}");
        assert!(xml.contains("<feature enabled=\"no\" name=\"secure-boot\"/>"), "{xml}");
        assert!(!xml.contains("host-passthrough"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "(bellwether-p2v 1\n)?([a-z]{3,8} [ -~]{0,70}\n){0,9}") {
            fuzz(text.as_bytes());
        }
    }
}
