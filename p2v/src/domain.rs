//! `physical.xml`: the machine as virt-v2v reads it (`virt-v2v -i libvirtxml`).
//!
//! virt-v2v requires the type and the name of the domain, and takes disks by NBD from
//! exactly the host `localhost`; it leaves others out with no more than a warning.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// What the clock of the machine shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Clock {
    /// It is not known.
    #[default]
    Unknown,
    /// UTC, and so many seconds ahead of it.
    Utc(i64),
    /// The time of the place.
    Local,
}

/// A disk of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its name on the machine (`sda`, `nvme0n1`).
    pub name: String,
    /// The port at the server's end of the tunnel.
    pub port: u16,
}

/// A network card of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its address, as `52:54:00:…`; empty when it is not known.
    pub mac: String,
    /// The network of the hypervisor that it is connected to.
    pub network: String,
}

/// Sockets, cores of each, threads of each core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Sockets.
    pub sockets: u32,
    /// Cores of a socket.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Domain {
    /// The guest's name.
    pub name: String,
    /// As `uname -m` has it.
    pub arch: String,
    /// Memory in KiB.
    pub memory_kib: u64,
    /// Processors.
    pub vcpus: u32,
    /// How they are arranged, where that is to be kept.
    pub topology: Option<Topology>,
    /// The processor's vendor (`Intel`), where one is to be kept.
    pub cpu_vendor: String,
    /// The processor's model.
    pub cpu_model: String,
    /// `acpi`, `apic`, `pae`.
    pub features: Vec<&'static str>,
    /// The clock.
    pub clock: Clock,
    /// The disks.
    pub disks: Vec<Disk>,
    /// CD drives by name: the guest gets empty ones.
    pub drives: Vec<String>,
    /// The cards.
    pub cards: Vec<Card>,
}

/// Memory rounded up to the next power of two, as virt-p2v does: what a machine shows is
/// less than what is built into it.
#[must_use]
pub fn round_memory(kib: u64) -> u64 {
    kib.max(1).checked_next_power_of_two().unwrap_or(kib)
}

/// A name that virt-v2v and the file systems of servers take: letters, digits and `-_.+`.
#[must_use]
pub fn guest_name(text: &str) -> String {
    let kept = |c: &char| c.is_ascii_alphanumeric() || "-_.+".contains(*c);
    let name: String = text.chars().filter(kept).take(64).collect();
    name.trim_start_matches(['.', '-']).to_string()
}

/// Text for an XML attribute or element.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&apos;",
            // XML 1.0 has no other control characters, and no non-characters.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

impl Domain {
    /// The text.
    #[must_use]
    pub fn xml(&self) -> String {
        let mut out = String::from("<?xml version=\"1.0\"?>\n<domain type=\"physical\">\n");
        let mut line = |text: String| {
            out += "  ";
            out += &text;
            out.push('\n');
        };
        line(format!("<name>{}</name>", escaped(&self.name)));
        for tag in ["memory", "currentMemory"] {
            line(format!("<{tag} unit=\"KiB\">{}</{tag}>", self.memory_kib));
        }
        line(format!("<vcpu>{}</vcpu>", self.vcpus));
        self.cpu(&mut line);
        match self.clock {
            Clock::Unknown => {}
            Clock::Utc(0) => line("<clock offset=\"utc\"/>".to_string()),
            Clock::Utc(ahead) => {
                line(format!("<clock offset=\"variable\" basis=\"utc\" adjustment=\"{ahead}\"/>"))
            }
            Clock::Local => line("<clock offset=\"localtime\"/>".to_string()),
        }
        line(format!("<os><type arch=\"{}\">hvm</type></os>", escaped(&self.arch)));
        let features: String = self.features.iter().map(|name| format!("<{name}/>")).collect();
        line(format!("<features>{features}</features>"));
        line("<devices>".to_string());
        for Disk { name, port } in &self.disks {
            line(format!(
                "  <disk type=\"network\" device=\"disk\"><driver name=\"qemu\" type=\"raw\"/>\
                 <source protocol=\"nbd\"><host name=\"localhost\" port=\"{port}\"/></source>\
                 <target dev=\"{}\"/></disk>",
                escaped(name)
            ));
        }
        for name in &self.drives {
            line(format!(
                "  <disk type=\"network\" device=\"cdrom\"><driver name=\"qemu\" type=\"raw\"/>\
                 <target dev=\"{}\"/></disk>",
                escaped(name)
            ));
        }
        for Card { mac, network } in &self.cards {
            let mac = match mac.is_empty() {
                true => String::new(),
                false => format!("<mac address=\"{}\"/>", escaped(mac)),
            };
            line(format!(
                "  <interface type=\"network\"><source network=\"{}\"/>{mac}</interface>",
                escaped(network)
            ));
        }
        line("</devices>".to_string());
        out += "</domain>\n";
        out
    }

    fn cpu(&self, line: &mut dyn FnMut(String)) {
        if self.cpu_model.is_empty() && self.topology.is_none() {
            return;
        }
        let mut text = String::from("<cpu match=\"minimum\">");
        if !self.cpu_model.is_empty() {
            if !self.cpu_vendor.is_empty() {
                text += &format!("<vendor>{}</vendor>", escaped(&self.cpu_vendor));
            }
            text += &format!("<model fallback=\"allow\">{}</model>", escaped(&self.cpu_model));
        }
        if let Some(Topology { sockets, cores, threads }) = self.topology {
            text += &format!(
                "<topology sockets=\"{sockets}\" cores=\"{cores}\" threads=\"{threads}\"/>"
            );
        }
        line(text + "</cpu>");
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Domain {
        Domain {
            name: "o'brien & <co>".into(),
            arch: "x86_64".into(),
            memory_kib: 524_288,
            vcpus: 4,
            topology: Some(Topology { sockets: 1, cores: 2, threads: 2 }),
            cpu_vendor: "Intel".into(),
            cpu_model: "Haswell".into(),
            features: vec!["acpi", "apic", "pae"],
            clock: Clock::Utc(3600),
            disks: vec![
                Disk { name: "nvme0n1".into(), port: 40001 },
                Disk { name: "sda".into(), port: 40002 },
            ],
            drives: vec!["sr0".into()],
            cards: vec![
                Card { mac: "02:00:00:00:00:01".into(), network: "default".into() },
                Card { mac: String::new(), network: "br\"0".into() },
            ],
        }
    }

    #[test]
    fn names_cannot_leave_their_place() {
        let xml = example().xml();
        assert!(xml.contains("<name>o&apos;brien &amp; &lt;co&gt;</name>"), "{xml}");
        assert!(xml.contains("network=\"br&quot;0\""), "{xml}");
        assert!(xml.contains("host name=\"localhost\" port=\"40002\""), "{xml}");
        assert_eq!(escaped("a\u{1}b\u{ffff}"), "a b ");
    }

    #[test]
    fn memory_is_rounded_and_names_are_names() {
        assert_eq!(round_memory(16_000_000), 16_777_216);
        assert_eq!(round_memory(1 << 20), 1 << 20);
        assert_eq!((round_memory(0), round_memory(u64::MAX)), (1, u64::MAX));
        assert_eq!(guest_name("../web 01;rm"), "web01rm");
        assert_eq!(guest_name("-x/../y"), "x..y");
        assert_eq!(guest_name("ü"), "");
    }
}
