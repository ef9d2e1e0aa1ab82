//! Boot loaders of this system's packages, and the menus that they read.
//!
//! Nothing is linked or shipped: SYSLINUX, GRUB and shim are under licences of their
//! own and are taken from where distributions put them.

use crate::dhcp::client::Arch;
use crate::event::Stage;
use crate::files::{File, Files};
use cpio_builder::menu::{Menu, MenuError};
use std::path::Path;

/// A loader for one kind of client.
struct Kind {
    arch: Arch,
    /// The path that clients are told, and what is served there.
    entry: &'static str,
    /// Chains that do, the best first: served name and places on this system.
    chains: &'static [&'static [(&'static str, &'static [&'static str])]],
    /// What to install when none is there.
    install: &'static str,
}

const PXELINUX: &[&str] = &[
    "/usr/lib/PXELINUX/pxelinux.0",
    "/usr/lib/syslinux/bios/pxelinux.0",
    "/usr/share/syslinux/pxelinux.0",
];
const LDLINUX: &[&str] = &[
    "/usr/lib/syslinux/modules/bios/ldlinux.c32",
    "/usr/lib/syslinux/bios/ldlinux.c32",
    "/usr/share/syslinux/ldlinux.c32",
];
const SHIM: &[&str] = &["/usr/lib/shim/shimx64.efi.signed", "/usr/share/efi/x86_64/shim.efi"];
const GRUB_SIGNED: &[&str] = &["/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"];
const GRUB: &[&str] = &["/usr/lib/grub/x86_64-efi/monolithic/grubnetx64.efi"];

const KINDS: [Kind; 2] = [
    Kind {
        arch: Arch::Bios,
        entry: "pxelinux.0",
        chains: &[&[("pxelinux.0", PXELINUX), ("ldlinux.c32", LDLINUX)]],
        install: "apt install pxelinux syslinux-common",
    },
    Kind {
        arch: Arch::UefiX64,
        entry: "bootx64.efi",
        // shim loads GRUB under this name from beside itself. Nothing tells a server
        // whether a client has Secure Boot on, so the signed pair goes to all.
        chains: &[
            &[("bootx64.efi", SHIM), ("grubx64.efi", GRUB_SIGNED)],
            &[("bootx64.efi", GRUB_SIGNED)],
            &[("bootx64.efi", GRUB)],
        ],
        install: "apt install grub-efi-amd64-signed shim-signed",
    },
];

/// Modules that pxelinux wants for a menu.
const MENU_MODULES: [&str; 2] = ["menu.c32", "libutil.c32"];
const MODULE_DIRS: [&str; 3] =
    ["/usr/lib/syslinux/modules/bios", "/usr/lib/syslinux/bios", "/usr/share/syslinux"];

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Loaders, by kind of client.
    pub loaders: Vec<(Arch, String)>,
    /// What is missing and how to get it.
    pub missing: Vec<String>,
}

/// Puts this system's loaders into the files that are served.
pub fn add(files: &mut Files) -> Found {
    let mut found = Found::default();
    for kind in &KINDS {
        let read = |(name, places): &(&'static str, &[&str])| {
            let bytes = places.iter().find_map(|place| std::fs::read(place).ok())?;
            Some((*name, bytes))
        };
        let chain = kind
            .chains
            .iter()
            .find_map(|chain| chain.iter().map(read).collect::<Option<Vec<(&str, Vec<u8>)>>>());
        let Some(chain) = chain else {
            found.missing.push(format!(
                "{} machines cannot boot: their boot loader is not on this system; {}",
                kind.arch, kind.install
            ));
            continue;
        };
        for (name, bytes) in chain {
            let file = File::memory(bytes);
            let stage = (name == kind.entry).then(|| Stage::Loader(name.to_owned()));
            files.add(&format!("/{name}"), File { stage, ..file });
        }
        found.loaders.push((kind.arch, kind.entry.to_owned()));
    }
    for name in MENU_MODULES {
        let bytes =
            MODULE_DIRS.iter().find_map(|dir| std::fs::read(Path::new(dir).join(name)).ok());
        if let Some(bytes) = bytes {
            files.add(&format!("/{name}"), File::memory(bytes));
        }
    }
    found
}

/// Puts the menu in all three languages into the files that are served.
///
/// # Errors
/// A text of the menu fits none of the loaders.
pub fn add_menu(menu: &Menu, files: &mut Files) -> Result<(), MenuError> {
    let mut add = |path: &str, text: String| {
        files.add(path, File::memory(text.into_bytes()).at(Stage::Menu));
    };
    add("/pxelinux.cfg/default", menu.to_syslinux(true)?);
    let grub = menu.to_grub(true)?;
    // Where Debian's, Ubuntu's and Fedora's network images look.
    for path in ["/grub/grub.cfg", "/boot/grub/grub.cfg", "/EFI/BOOT/grub.cfg", "/grub.cfg"] {
        add(path, grub.clone());
    }
    add("/boot.ipxe", menu.to_ipxe()?);
    Ok(())
}
