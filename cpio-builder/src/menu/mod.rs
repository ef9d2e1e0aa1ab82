//! Boot menus: read from the files of SYSLINUX, GRUB (2 and 0.97), systemd-boot and iPXE, written
//! for three of them.
//!
//! The readers take Linux entries: kernel, initrd, command line. The caller loads included files.
//! Input, entries and depth are bounded.

mod grub;
mod grub_legacy;
pub mod ipxe;
pub mod loader_entries;
mod model;
mod syslinux;
#[cfg(test)]
mod tests;
mod write;

pub use model::{Dialect, ENTRIES_MAX, Entry, FILE_MAX, Load, Menu, MenuError};

impl Menu {
    /// Reads a configuration. Without entries it is an empty menu; entries beyond
    /// [`ENTRIES_MAX`] are left out, with a note. Control characters in titles and command lines,
    /// such as tabulators, become blanks.
    pub fn read(dialect: Dialect, text: &str, load: Load<'_>) -> Self {
        Self::read_as(dialect, text, load, false)
    }

    /// The same for people: GRUB's variables that this file does not set stay in the entries as
    /// `${name}`.
    pub fn read_as_written(dialect: Dialect, text: &str, load: Load<'_>) -> Self {
        Self::read_as(dialect, text, load, true)
    }

    fn read_as(dialect: Dialect, text: &str, load: Load<'_>, keep: bool) -> Self {
        let mut menu = match dialect {
            Dialect::Syslinux => syslinux::read(text, load),
            Dialect::Grub => grub::read(text, load, keep),
            Dialect::GrubLegacy => grub_legacy::read(text, load),
        };
        let blank = |text: &mut String| *text = text.replace(char::is_control, " ");
        menu.loader = Some(dialect);
        blank(&mut menu.title);
        for entry in &mut menu.entries {
            blank(&mut entry.title);
            blank(&mut entry.append);
        }
        menu
    }

    /// Detects the boot loader by its own keywords.
    #[must_use]
    pub fn guess(text: &str) -> Option<Dialect> {
        let first = |line: &str| {
            let word = line.split_whitespace().next()?.to_ascii_lowercase();
            match word.as_str() {
                "menuentry" | "submenu" | "set" | "insmod" | "search" | "if" | "linux16"
                | "linuxefi" | "configfile" | "function" => Some(Dialect::Grub),
                "label" | "append" | "prompt" | "ui" | "kernel" | "say" | "ipappend"
                | "sysappend" | "localboot" | "include" => Some(Dialect::Syslinux),
                _ => None,
            }
        };
        let legacy = grub_legacy::is_menu(text).then_some(Dialect::GrubLegacy);
        legacy.or_else(|| text.lines().find_map(first))
    }
}

/// Files below a TFTP server's directory that let the machine with this hardware address
/// (`52:54:00:12:34:56`) boot from its own disk: path and content. For pxelinux, for GRUB's own
/// search and for [`Menu::per_machine`], and for iPXE.
///
/// # Errors
/// None in practice: [`MenuError`] only for texts from outside.
pub fn disk_menus(mac: &str) -> Result<[(String, String); 4], MenuError> {
    let mac = mac.to_ascii_lowercase();
    let dashes = mac.replace(':', "-");
    let entries = vec![Entry::disk("disk", "This machine's disk")];
    let menu = Menu { timeout: Some(0), entries, ..Menu::default() };
    let grub = menu.to_grub(true)?;
    Ok([
        (format!("pxelinux.cfg/01-{dashes}"), menu.to_syslinux(true)?),
        (format!("grub/grub.cfg-01-{dashes}"), grub.clone()),
        (format!("grub/{mac}.cfg"), grub),
        (format!("boot-{dashes}.ipxe"), menu.to_ipxe()?),
    ])
}
