//! Boot loaders from this system's packages, and their menus.
//!
//! Nothing is linked or shipped: SYSLINUX, GRUB and shim have their own licences and are read
//! from where distributions install them.
//!
//! Signed GRUB fetches its menu only from the DHCP server that gave the lease: beside another
//! DHCP server it never finds us. `grub-mkimage` therefore builds one with our address in it.
//! That one is unsigned: Secure Boot needs us to be the DHCP server.

use crate::dhcp::client::Arch;
use crate::event::Stage;
use crate::files::{File, Files};
use cpio_builder::menu::{Menu, MenuError};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::{Command, Stdio};

/// A file: the name it is served under, and the places where systems have it.
type Part = (&'static str, &'static [&'static str]);

/// A loader for one kind of client.
struct Kind {
    arch: Arch,
    /// The path that clients are sent, and that is served.
    entry: &'static str,
    /// Sets of files that work, the best first.
    chains: &'static [&'static [Part]],
    /// What `grub-mkimage` calls it.
    grub: Option<&'static str>,
    /// How to install it.
    install: &'static str,
}

const PXELINUX: &[&str] = &[
    "/usr/lib/PXELINUX/pxelinux.0",
    "/usr/lib/syslinux/bios/pxelinux.0",
    "/usr/share/syslinux/pxelinux.0",
];
const LPXELINUX: &[&str] = &["/usr/lib/PXELINUX/lpxelinux.0", "/usr/share/syslinux/lpxelinux.0"];
const LDLINUX: &[&str] = &[
    "/usr/lib/syslinux/modules/bios/ldlinux.c32",
    "/usr/lib/syslinux/bios/ldlinux.c32",
    "/usr/share/syslinux/ldlinux.c32",
];
const SHIM: &[&str] = &["/usr/lib/shim/shimx64.efi.signed", "/usr/share/efi/x86_64/shim.efi"];
const GRUB_SIGNED: &[&str] = &["/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"];
const GRUB_IA32: &[&str] = &["/usr/lib/grub/i386-efi/monolithic/grubnetia32.efi"];
const GRUB_ARM64: &[&str] = &["/usr/lib/grub/arm64-efi/monolithic/grubnetaa64.efi"];
const GRUB: &[&str] = &["/usr/lib/grub/x86_64-efi/monolithic/grubnetx64.efi"];

const KINDS: [Kind; 7] = [
    Kind {
        arch: Arch::Bios,
        entry: "pxelinux.0",
        chains: &[&[("pxelinux.0", PXELINUX), ("ldlinux.c32", LDLINUX)]],
        grub: None,
        install: "apt install pxelinux syslinux-common",
    },
    Kind {
        arch: Arch::UefiX64,
        entry: "bootx64.efi",
        // shim loads GRUB under this name from the same directory. Nothing tells a server
        // whether a client has Secure Boot on, so all get the signed pair.
        chains: &[
            &[("bootx64.efi", SHIM), ("grubx64.efi", GRUB_SIGNED)],
            &[("bootx64.efi", GRUB_SIGNED)],
            &[("bootx64.efi", GRUB)],
        ],
        grub: Some("x86_64-efi"),
        install: "apt install grub-efi-amd64-bin, or grub-efi-amd64-signed and shim-signed",
    },
    Kind {
        arch: Arch::UefiIa32,
        entry: "bootia32.efi",
        chains: &[&[("bootia32.efi", GRUB_IA32)]],
        grub: Some("i386-efi"),
        install: "apt install grub-efi-ia32-bin",
    },
    Kind {
        arch: Arch::UefiArm64,
        entry: "bootaa64.efi",
        chains: &[&[("bootaa64.efi", GRUB_ARM64)]],
        grub: Some("arm64-efi"),
        install: "apt install grub-efi-arm64-bin:arm64, after dpkg --add-architecture arm64",
    },
    Kind {
        arch: Arch::UefiArm32,
        entry: "bootarm.efi",
        chains: &[],
        grub: Some("arm-efi"),
        install: "apt install grub-efi-arm-bin:armhf, after dpkg --add-architecture armhf",
    },
    Kind {
        arch: Arch::UefiRiscv64,
        entry: "bootriscv64.efi",
        chains: &[],
        grub: Some("riscv64-efi"),
        install: "apt install grub-efi-riscv64-bin:riscv64, after dpkg --add-architecture riscv64",
    },
    Kind {
        arch: Arch::UefiLoong64,
        entry: "bootloongarch64.efi",
        chains: &[],
        grub: Some("loongarch64-efi"),
        install: "apt install grub-efi-loong64-bin:loong64, after dpkg --add-architecture loong64",
    },
];

/// Where distributions keep GRUB's modules, and which ones our build contains.
const GRUB_MODULES: [&str; 2] = ["/usr/lib/grub", "/usr/share/grub"];
const IN_GRUB: [&str; 24] = [
    "efinet",
    "http",
    "tftp",
    "normal",
    "configfile",
    "linux",
    "echo",
    "test",
    "sleep",
    "minicmd",
    "serial",
    "terminal",
    "gzio",
    "all_video",
    "gfxterm",
    "reboot",
    "halt",
    "true",
    // To boot from the machine's own disk.
    "chain",
    "search",
    "search_fs_file",
    "part_gpt",
    "part_msdos",
    "fat",
];

/// Modules that pxelinux needs for a menu.
const MENU_MODULES: [&str; 2] = ["menu.c32", "libutil.c32"];
const MODULE_DIRS: [&str; 3] =
    ["/usr/lib/syslinux/modules/bios", "/usr/lib/syslinux/bios", "/usr/share/syslinux"];

/// The loaders found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Loaders, by kind of client.
    pub loaders: Vec<(Arch, String)>,
    /// Loaders for the time when another DHCP server leases the addresses.
    pub beside: Vec<(Arch, String)>,
    /// Missing packages and how to install them.
    pub missing: Vec<String>,
}

/// The addresses that loaders need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The HTTP server, if any.
    pub http: Option<SocketAddrV4>,
    /// The TFTP server.
    pub tftp: Ipv4Addr,
    /// Another DHCP server leases the addresses.
    pub proxy: bool,
    /// Another one may do so later.
    pub may_change: bool,
}

/// Adds this system's loaders to the served files.
pub fn add(files: &mut Files, wanted: &Wanted) -> Found {
    let mut found = Found::default();
    for kind in &KINDS {
        let read = |(name, places): &Part| {
            let bytes = places.iter().find_map(|place| std::fs::read(place).ok())?;
            Some((*name, bytes))
        };
        let packaged = || {
            let mut chains = kind.chains.iter();
            chains.find_map(|chain| chain.iter().map(read).collect::<Option<Vec<_>>>())
        };
        let made = || Some(vec![(kind.entry, make_grub(kind.grub?, wanted)?)]);
        // Signed ones where they work, the plain one only if nothing else exists.
        let signed = kind.chains.first().is_some_and(|chain| chain.iter().all(is_there));
        let chain = match wanted.proxy || !signed {
            true => made().or_else(packaged),
            false => packaged(),
        };
        let Some(chain) = chain else {
            // Rare ones are named when such a machine asks.
            if matches!(kind.arch, Arch::Bios | Arch::UefiX64) {
                found.missing.push(format!(
                    "{} machines cannot boot: their boot loader is not on this system; {}",
                    kind.arch, kind.install
                ));
            }
            continue;
        };
        for (name, bytes) in chain {
            let file = File::memory(bytes);
            let stage = (name == kind.entry).then(|| Stage::Loader(name.to_owned()));
            files.add(&format!("/{name}"), File { stage, ..file });
        }
        found.loaders.push((kind.arch, kind.entry.to_owned()));
        let mut beside = kind.entry.to_owned();
        if wanted.may_change
            && signed
            && let Some(grub) = kind.grub.and_then(|target| make_grub(target, wanted))
        {
            beside = format!("beside/{}", kind.entry);
            let stage = Stage::Loader(beside.clone());
            files.add(&format!("/{beside}"), File::memory(grub).at(stage));
        }
        found.beside.push((kind.arch, beside));
    }
    add_menu_modules(files);
    found
}

/// How to install the boot loader for an architecture; `None` when there is none.
pub fn install(arch: Arch) -> Option<&'static str> {
    KINDS.iter().find(|kind| kind.arch == arch).map(|kind| kind.install)
}

fn add_menu_modules(files: &mut Files) {
    for name in MENU_MODULES {
        let bytes =
            MODULE_DIRS.iter().find_map(|dir| std::fs::read(Path::new(dir).join(name)).ok());
        if let Some(bytes) = bytes {
            files.add(&format!("/{name}"), File::memory(bytes));
        }
    }
}

/// Adds the pxelinux that speaks HTTP to the served files, for networks without a TFTP server.
/// Returns its path; `None` when this system lacks it.
pub fn add_lpxelinux(files: &mut Files) -> Option<&'static str> {
    let read = |places: &[&str]| places.iter().find_map(|place| std::fs::read(place).ok());
    let (loader, core) = (read(LPXELINUX)?, read(LDLINUX)?);
    let stage = Stage::Loader("lpxelinux.0".into());
    files.add("/lpxelinux.0", File::memory(loader).at(stage));
    files.add("/ldlinux.c32", File::memory(core));
    add_menu_modules(files);
    Some("/lpxelinux.0")
}

fn is_there((_, places): &Part) -> bool {
    places.iter().any(|place| Path::new(place).exists())
}

/// GRUB with our address in it; `None` when this system lacks its modules or `grub-mkimage`.
fn make_grub(target: &str, wanted: &Wanted) -> Option<Vec<u8>> {
    let modules =
        GRUB_MODULES.iter().map(|dir| Path::new(dir).join(target)).find(|d| d.is_dir())?;
    // A private directory: grub-mkimage reads its first commands only from a file, and writes
    // its output only to one, which it syncs.
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").ok()?;
    let dir = std::env::temp_dir().join(format!("bellwether-grub-{}", random.trim()));
    std::fs::create_dir(&dir).ok()?;
    let (first, out) = (dir.join("first"), dir.join("out"));
    let made = std::fs::write(&first, first_commands(wanted)).ok().and_then(|()| {
        let mut program = Command::new("grub-mkimage");
        program.args(["-O", target, "-p", "/grub", "-d"]).arg(&modules).arg("-c").arg(&first);
        program.arg("-o").arg(&out).args(IN_GRUB).stdin(Stdio::null());
        let done = program.output().ok()?;
        if done.status.success() { std::fs::read(&out).ok() } else { None }
    });
    // A leftover stays in a temporary directory.
    let _ = std::fs::remove_dir_all(&dir);
    made.filter(|made| !made.is_empty())
}

/// GRUB's first commands: load our menu, by HTTP if GRUB can.
fn first_commands(wanted: &Wanted) -> String {
    let quick = wanted.http.map_or_else(String::new, |http| {
        format!(
            "set root=http,{http}\nif test -s /grub/grub.cfg; then\n  \
             configfile /grub/grub.cfg\nfi\n"
        )
    });
    format!("{quick}set root=tftp,{}\nconfigfile /grub/grub.cfg\n", wanted.tftp)
}

/// iPXE's name of an architecture, and the name of the shim on media.
const SHIMS_OF_MEDIA: [(&str, &str); 2] = [("x86_64", "BOOTX64.EFI"), ("arm64", "BOOTAA64.EFI")];

/// Adds the menu in all three languages to the served files.
///
/// # Errors
/// [`MenuError`] when a text cannot be written in one of the languages.
pub fn add_menu(menu: &Menu, files: &mut Files) -> Result<(), MenuError> {
    // A kernel that its distribution signed is checked by the shim on its medium.
    let ipxe = menu.to_ipxe_with(|entry| {
        let kernel = entry.kernel.strip_prefix("/boot").unwrap_or(&entry.kernel);
        let medium = kernel.split('/').nth(1).unwrap_or_default();
        let path = |(arch, name): &(&'static str, &str)| {
            let places = [
                format!("/{medium}/EFI/BOOT/{name}"),
                format!("/{medium}/efi/boot/{}", name.to_lowercase()),
            ];
            Some((*arch, places.into_iter().find(|path| files.find(path).is_some())?))
        };
        SHIMS_OF_MEDIA.iter().filter_map(path).collect()
    })?;
    let mut add = |path: &str, text: String| {
        files.add(path, File::memory(text.into_bytes()).at(Stage::Menu));
    };
    add("/pxelinux.cfg/default", menu.to_syslinux(true)?);
    let grub = menu.to_grub(true)?;
    // Where Debian's, Ubuntu's and Fedora's network images look.
    for path in ["/grub/grub.cfg", "/boot/grub/grub.cfg", "/EFI/BOOT/grub.cfg", "/grub.cfg"] {
        add(path, grub.clone());
    }
    add("/boot.ipxe", ipxe);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grub_knows_where_we_are() {
        let http = Some(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 8080));
        let wanted =
            Wanted { http, tftp: Ipv4Addr::new(10, 0, 0, 1), proxy: true, may_change: false };
        let text = first_commands(&wanted);
        assert!(text.contains("set root=http,10.0.0.1:8080\n"), "{text}");
        assert!(text.ends_with("set root=tftp,10.0.0.1\nconfigfile /grub/grub.cfg\n"), "{text}");
        // Where GRUB's modules are installed, building an image must work.
        if Path::new("/usr/lib/grub/x86_64-efi/normal.mod").exists()
            && Command::new("grub-mkimage").arg("--version").output().is_ok()
        {
            let made = make_grub("x86_64-efi", &wanted).unwrap();
            assert!(made.starts_with(b"MZ") && made.len() > 100_000, "{} bytes", made.len());
        }
    }
}
