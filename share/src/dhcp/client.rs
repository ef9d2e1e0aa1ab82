//! Which kind of client sent a message, and which file it needs.
//!
//! The numbers are IANA's "Processor Architecture Types"; 7 and 9 are both used for
//! 64-bit UEFI on PCs (RFC 4578 and its errata).

use super::message::{Message, code};
use std::net::Ipv4Addr;

/// Firmware and processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Arch {
    Bios,
    UefiX64,
    UefiIa32,
    UefiArm64,
    UefiArm32,
    UefiRiscv64,
    UefiLoong64,
    RaspberryPi,
    /// An architecture number without a loader here.
    Other(u16),
}

/// Number, what it is, whether it boots by HTTP.
const ARCHES: [(u16, Arch, bool); 16] = [
    (0, Arch::Bios, false),
    (6, Arch::UefiIa32, false),
    (7, Arch::UefiX64, false),
    (9, Arch::UefiX64, false),
    (10, Arch::UefiArm32, false),
    (11, Arch::UefiArm64, false),
    (15, Arch::UefiIa32, true),
    (16, Arch::UefiX64, true),
    (18, Arch::UefiArm32, true),
    (20, Arch::Bios, true),
    (19, Arch::UefiArm64, true),
    (27, Arch::UefiRiscv64, false),
    (28, Arch::UefiRiscv64, true),
    (39, Arch::UefiLoong64, false),
    (40, Arch::UefiLoong64, true),
    (41, Arch::RaspberryPi, false),
];

/// Hardware addresses of the Raspberry Pi (IEEE's list): its boot ROM calls itself a BIOS.
const RASPBERRY_PI: [[u8; 3]; 7] = [
    [0xb8, 0x27, 0xeb],
    [0xdc, 0xa6, 0x32],
    [0xe4, 0x5f, 0x01],
    [0x28, 0xcd, 0xc1],
    [0x2c, 0xcf, 0x67],
    [0xd8, 0x3a, 0xdd],
    [0x88, 0xa2, 0x9e],
];

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bios => "BIOS",
            Self::UefiX64 => "UEFI x86-64",
            Self::UefiIa32 => "UEFI ia32",
            Self::UefiArm64 => "UEFI arm64",
            Self::UefiArm32 => "UEFI arm",
            Self::UefiRiscv64 => "UEFI riscv64",
            Self::UefiLoong64 => "UEFI loongarch64",
            Self::RaspberryPi => "a Raspberry Pi, whose boot ROM loads only firmware of its own",
            Self::Other(number) => return write!(f, "architecture {number}"),
        })
    }
}

/// The program that sent the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The firmware's PXE.
    Pxe,
    /// UEFI's HTTP boot.
    Http,
    /// iPXE, which takes scripts.
    Ipxe {
        /// It can fetch by HTTP and start a Linux kernel; cut-down builds cannot.
        able: bool,
    },
}

/// A network-booting client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The program that sent the message.
    pub program: Program,
    /// The machine's architecture.
    pub arch: Arch,
}

impl Client {
    /// Identifies a client by its options. `None` for a client that does not boot from the
    /// network.
    pub fn of(message: &Message) -> Option<Self> {
        let get = |option| message.options.get(option).unwrap_or_default();
        let class = get(code::VENDOR_CLASS);
        let http = class.starts_with(b"HTTPClient");
        let ipxe = get(code::USER_CLASS).windows(4).any(|w| w == b"iPXE");
        if !http && !ipxe && !class.starts_with(b"PXEClient") {
            return None;
        }
        // RFC 4578: a list, the most wanted first. Without it the class says it; older ROMs omit
        // both and are BIOS.
        let (pairs, _) = get(code::CLIENT_ARCH).as_chunks::<2>();
        let mut numbers = pairs.iter().map(|pair| u16::from_be_bytes(*pair));
        let row = |number: u16| ARCHES.iter().find(|(n, ..)| *n == number);
        let first = numbers.clone().next().or_else(|| arch_in(class)).unwrap_or(0);
        let known = numbers.find_map(row).or_else(|| row(first));
        let mut arch = known.map_or(Arch::Other(first), |(_, arch, _)| *arch);
        let maker = message.mac.0.first_chunk::<3>();
        if arch == Arch::Bios && maker.is_some_and(|maker| RASPBERRY_PI.contains(maker)) {
            arch = Arch::RaspberryPi;
        }
        let program = if ipxe {
            let features = get(code::IPXE);
            let has = |feature| suboption(features, feature) == Some(&[1]);
            // HTTP, and bzImage or EFI. A build too old to list its features has to try.
            Program::Ipxe { able: features.is_empty() || has(0x13) && (has(0x18) || has(0x24)) }
        } else if http || known.is_some_and(|(_, _, http)| *http) {
            Program::Http
        } else {
            Program::Pxe
        };
        Some(Self { program, arch })
    }

    /// The file that the client shall load; `None` when there is no loader for it.
    pub fn file(&self, loaders: &Loaders) -> Option<String> {
        let url = |path: &str| format!("http://{}{path}", loaders.http);
        if let (Program::Ipxe { able: true }, Some(script)) = (self.program, &loaders.script) {
            return Some(url(script));
        }
        let path = loaders.files.iter().find(|(arch, _)| *arch == self.arch).map(|(_, p)| p)?;
        Some(match self.program {
            Program::Http => url(&format!("/{path}")),
            _ => path.clone(),
        })
    }
}

/// The number in a class such as `PXEClient:Arch:00007:UNDI:003001`.
fn arch_in(class: &[u8]) -> Option<u16> {
    let mut words = std::str::from_utf8(class).ok()?.split(':').skip(1);
    words.find(|word| word.eq_ignore_ascii_case("arch"))?;
    words.next()?.parse().ok()
}

/// The boot files and the servers that have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaders {
    /// TFTP paths of boot loaders, without a leading `/`; HTTP uses the same paths.
    pub files: Vec<(Arch, String)>,
    /// Path of the iPXE script on the HTTP server.
    pub script: Option<String>,
    /// The HTTP server.
    pub http: std::net::SocketAddrV4,
    /// The TFTP server.
    pub tftp: Ipv4Addr,
}

/// A suboption of an encapsulated option.
fn suboption(mut area: &[u8], wanted: u8) -> Option<&[u8]> {
    while let Some((&code, rest)) = area.split_first() {
        if code == 0 {
            area = rest;
            continue;
        }
        let (&length, rest) = rest.split_first()?;
        let (value, rest) = rest.split_at_checked(usize::from(length))?;
        if code == wanted {
            return Some(value);
        }
        area = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::message::{Type, tests::asked};
    use super::*;

    fn client(options: &[(u8, &[u8])]) -> Option<(Client, Option<String>)> {
        let loaders = Loaders {
            files: vec![(Arch::Bios, "pxelinux.0".into()), (Arch::UefiX64, "shimx64.efi".into())],
            script: Some("/boot.ipxe".into()),
            http: "10.0.0.1:8080".parse().unwrap(),
            tftp: Ipv4Addr::new(10, 0, 0, 1),
        };
        let client = Client::of(&asked(Type::Discover, options))?;
        Some((client, client.file(&loaders)))
    }

    #[test]
    fn every_kind_gets_its_file() {
        let pxe = |n: u8| client(&[(60, b"PXEClient:Arch:xxxxx"), (93, &[0, n])]).unwrap();
        assert_eq!(pxe(0).1.as_deref(), Some("pxelinux.0"));
        assert_eq!(pxe(7).1.as_deref(), Some("shimx64.efi"));
        assert_eq!(pxe(9).1.as_deref(), Some("shimx64.efi"));
        assert_eq!(pxe(11).1, None);
        assert_eq!(pxe(99).0.arch, Arch::Other(99));
        let http = client(&[(60, b"HTTPClient:Arch:00016"), (93, &[0, 16])]).unwrap();
        assert_eq!(http.1.as_deref(), Some("http://10.0.0.1:8080/shimx64.efi"));
        assert_eq!(client(&[(60, b"PXEClient")]).unwrap().0.arch, Arch::Bios);
        assert_eq!(client(&[(60, b"MSFT 5.0")]), None);
        assert_eq!(client(&[]), None);
    }

    #[test]
    fn lists_of_architectures_and_classes_without_one() {
        let arch = |options: &[(u8, &[u8])]| client(options).unwrap().0.arch;
        // A list counts by the first that is known.
        assert_eq!(arch(&[(60, b"PXEClient"), (93, &[0, 17, 0, 7])]), Arch::UefiX64);
        assert_eq!(arch(&[(60, b"PXEClient"), (93, &[0, 7, 0, 6])]), Arch::UefiX64);
        assert_eq!(arch(&[(60, b"PXEClient"), (93, &[0, 99, 0, 98])]), Arch::Other(99));
        assert_eq!(arch(&[(60, b"PXEClient:Arch:00007:UNDI:003001")]), Arch::UefiX64);
        assert_eq!(arch(&[(60, b"PXEClient:Arch:00007"), (93, &[0, 0])]), Arch::Bios);
        for odd in [
            &b"PXEClient:Arch:"[..],
            b"PXEClient:Arch:x",
            b"PXEClient:Arch:99999999",
            b"PXEClient:\xff",
        ] {
            assert_eq!(arch(&[(60, odd), (93, &[0])]), Arch::Bios);
        }
        let http = client(&[(60, b"HTTPClient:Arch:00016:UNDI:003001")]).unwrap().0;
        assert_eq!((http.program, http.arch), (Program::Http, Arch::UefiX64));
    }

    /// Its boot ROM was told to load pxelinux.0.
    #[test]
    fn a_raspberry_pi_is_no_bios() {
        let class = b"PXEClient:Arch:00000:UNDI:002001";
        let mut message = asked(Type::Discover, &[(60, class), (93, &[0, 0])]);
        assert_eq!(Client::of(&message).unwrap().arch, Arch::Bios);
        message.mac = cmdline::plan::Mac([0xdc, 0xa6, 0x32, 1, 2, 3]);
        assert_eq!(Client::of(&message).unwrap().arch, Arch::RaspberryPi);
        // With UEFI firmware it is any other machine.
        let mut message = asked(Type::Discover, &[(60, b"PXEClient"), (93, &[0, 11])]);
        message.mac = cmdline::plan::Mac([0xdc, 0xa6, 0x32, 1, 2, 3]);
        assert_eq!(Client::of(&message).unwrap().arch, Arch::UefiArm64);
        let named = client(&[(60, b"PXEClient:Arch:00041:UNDI:002001"), (93, &[0, 41])]);
        assert_eq!(named.unwrap().0.arch, Arch::RaspberryPi);
    }

    #[test]
    fn ipxe_gets_a_script_and_so_no_loop() {
        let able = [0x13, 1, 1, 0, 0x18, 1, 1];
        let ipxe = |features: &[u8]| {
            client(&[(60, b"PXEClient"), (93, &[0, 0]), (77, b"iPXE"), (175, features)]).unwrap().1
        };
        assert_eq!(ipxe(&able).as_deref(), Some("http://10.0.0.1:8080/boot.ipxe"));
        assert_eq!(ipxe(&[0x13, 1, 1]).as_deref(), Some("pxelinux.0"));
        assert_eq!(ipxe(&[0x13]).as_deref(), Some("pxelinux.0"));
        // RFC 3004: each class with its length in front.
        let user_class = client(&[(60, b"PXEClient"), (77, b"\x04iPXE")]).unwrap();
        assert_eq!(user_class.1.as_deref(), Some("http://10.0.0.1:8080/boot.ipxe"));
    }
}
