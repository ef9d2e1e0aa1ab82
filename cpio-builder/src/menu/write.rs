//! Menus as SYSLINUX, GRUB and iPXE read them: the entries, a default and a timeout, and nothing
//! else.

use std::fmt::Write as _;

use super::model::{Entry, Menu, MenuError};

impl Menu {
    /// The menu for isolinux and pxelinux. Over a network (`from_network`) the kernel gets the
    /// boot card as `BOOTIF=`.
    ///
    /// # Errors
    /// See [`Menu::check`].
    pub fn to_syslinux(&self, from_network: bool) -> Result<String, MenuError> {
        self.check()?;
        let mut out = String::from("SERIAL 0 115200\n");
        if self.waits() {
            out.push_str("UI menu.c32\n");
        }
        if !self.title.is_empty() {
            let _ = writeln!(out, "MENU TITLE {}", self.title);
        }
        let _ = writeln!(out, "PROMPT 0");
        // Tenths of seconds; 0 means forever, so immediately is 1.
        let tenths = self.timeout.map_or(0, |s| s.saturating_mul(10).max(1));
        let _ = writeln!(out, "TIMEOUT {tenths}");
        if let Some(entry) = self.entries.get(self.default) {
            let _ = writeln!(out, "DEFAULT {}", entry.id);
        }
        for entry in &self.entries {
            let _ = write!(out, "\nLABEL {}\n", entry.id);
            if !entry.title.is_empty() {
                let _ = writeln!(out, "  MENU LABEL {}", entry.title);
            }
            if entry.is_disk() {
                let _ = writeln!(out, "  LOCALBOOT 0");
                continue;
            }
            // KERNEL would guess the program's type by its suffix.
            let _ = writeln!(out, "  LINUX {}", entry.kernel);
            if !entry.initrd.is_empty() {
                let _ = writeln!(out, "  INITRD {}", entry.initrd.join(","));
            }
            // A lone - overrides a global APPEND.
            let append = if entry.append.is_empty() { "-" } else { &entry.append };
            let _ = writeln!(out, "  APPEND {append}");
            if from_network {
                let _ = writeln!(out, "  IPAPPEND 2");
            }
        }
        Ok(out)
    }

    /// The menu for GRUB. Paths stay as they are: absolute ones count from GRUB's `$root`.
    ///
    /// # Errors
    /// See [`Menu::check`].
    pub fn to_grub(&self, from_network: bool) -> Result<String, MenuError> {
        self.check()?;
        let mut out = String::from(
            "if serial --unit=0 --speed=115200; then\n  terminal_input console serial\n  \
             terminal_output console serial\nfi\n",
        );
        if self.per_machine {
            // GRUB cannot print the address with dashes, as its own search does, and -e reads
            // directories, which networks do not show.
            out.push_str(
                "set own=/grub/$net_default_mac.cfg\nif test -s $own; then\n  \
                 configfile $own\nfi\n",
            );
        }
        let _ = writeln!(out, "set default={}", self.default);
        let _ = match self.timeout {
            Some(seconds) => writeln!(out, "set timeout={seconds}"),
            None => writeln!(out, "set timeout=-1"),
        };
        for entry in &self.entries {
            let title = if entry.title.is_empty() { &entry.id } else { &entry.title };
            let _ =
                write!(out, "\nmenuentry {} --id {} {{\n", grub_word(title), grub_word(&entry.id));
            if entry.is_disk() {
                grub_disk(&mut out);
                continue;
            }
            let _ = write!(out, "  linux {}", grub_word(&entry.kernel));
            if from_network {
                out.push_str(" BOOTIF=01-$net_default_mac");
            }
            for word in kernel_words(&entry.append) {
                let _ = write!(out, " {}", grub_word(&word));
            }
            out.push('\n');
            if !entry.initrd.is_empty() {
                let paths: Vec<String> = entry.initrd.iter().map(|p| grub_word(p)).collect();
                let _ = writeln!(out, "  initrd {}", paths.join(" "));
            }
            out.push_str("}\n");
        }
        Ok(out)
    }

    /// The menu as an iPXE script. Paths are relative to the script's.
    ///
    /// # Errors
    /// See [`Menu::check`]; also for `${` in a command line, which iPXE would expand.
    pub fn to_ipxe(&self) -> Result<String, MenuError> {
        self.to_ipxe_with(|_| Vec::new())
    }

    /// The menu for iPXE, in which an entry has the shims that check its kernel with Secure Boot
    /// on: pairs of iPXE's name of the architecture and a path. An iPXE without the command, or
    /// with Secure Boot off, goes on without.
    ///
    /// # Errors
    /// As [`Menu::to_ipxe`].
    pub fn to_ipxe_with(
        &self,
        shims: impl Fn(&Entry) -> Vec<(&'static str, String)>,
    ) -> Result<String, MenuError> {
        self.check()?;
        for entry in &self.entries {
            for (text, what) in [(&entry.append, "the command line"), (&entry.title, "the title")] {
                if text.contains("${") || text.contains("||") || text.contains("&&") {
                    return Err(MenuError::Text { text: text.clone(), what });
                }
            }
        }
        let mut out = String::from("#!ipxe\n");
        if self.per_machine {
            out.push_str("imgfetch --name own boot-${netX/mac:hexhyp}.ipxe && goto own-menu ||\n");
        }
        if self.waits() {
            let _ = writeln!(out, "menu {}", self.title);
            for entry in &self.entries {
                let title = if entry.title.is_empty() { &entry.id } else { &entry.title };
                let _ = writeln!(out, "item {} {title}", entry.id);
            }
            let default = self.entries.get(self.default).map_or("", |e| e.id.as_str());
            // Milliseconds; 0 is for ever.
            let wait = self.timeout.map_or(0, |s| s.saturating_mul(1000).max(1));
            let _ = writeln!(
                out,
                "choose --default {default} --timeout {wait} target && goto ${{target}}"
            );
        }
        for entry in &self.entries {
            let _ = writeln!(out, "\n:{}", entry.id);
            if entry.is_disk() {
                // UEFI continues with its next boot option only after a failure.
                out.push_str(
                    "iseq ${platform} pcbios && sanboot --no-describe --drive 0x80 ||\nexit 1\n",
                );
                continue;
            }
            // UEFI's stub takes the name for the line's first word, which GRUB gives as well. Any
            // other word is an argument of init: `init=/bin/sh` would look for a file of that name.
            let name = entry.kernel.rsplit('/').next().unwrap_or_default();
            let _ = write!(out, "kernel --name BOOT_IMAGE={name} {}", entry.kernel);
            // UEFI's stub gets the files from iPXE only under these names.
            for path in &entry.initrd {
                let _ = write!(out, " initrd={}", path.rsplit('/').next().unwrap_or(path));
            }
            let _ = writeln!(out, " BOOTIF=01-${{netX/mac:hexhyp}} {}", entry.append);
            for path in &entry.initrd {
                let _ = writeln!(out, "initrd {path}");
            }
            let shims = shims(entry);
            for (arch, path) in &shims {
                let _ = writeln!(out, "iseq ${{buildarch}} {arch} && shim {path} ||");
            }
            // A shim shows a box with "Security Violation", and then comes back.
            out.push_str(if shims.is_empty() { "boot\n" } else { REFUSED });
        }
        if self.per_machine {
            out.push_str("\n:own-menu\nimgexec --autofree own ||\nexit 1\n");
        }
        Ok(out)
    }
}

/// Starts a kernel; says what it means when that fails.
const REFUSED: &str = "boot ||\n\
    echo This kernel did not start. With Secure Boot on, the shim of its medium must trust it.\n\
    echo Choose another system, or switch Secure Boot off in the firmware's settings.\n\
    prompt --timeout 60000 Press a key to go on. ||\nexit 1\n";

/// Boot loaders on an EFI system partition; the last is the firmware's default (UEFI 2.10,
/// 3.5.1.1).
const EFI_LOADERS: [&str; 9] = [
    "/EFI/debian/shimx64.efi",
    "/EFI/debian/grubx64.efi",
    "/EFI/ubuntu/shimx64.efi",
    "/EFI/fedora/shimx64.efi",
    "/EFI/opensuse/shim.efi",
    "/EFI/systemd/systemd-bootx64.efi",
    "/EFI/Microsoft/Boot/bootmgfw.efi",
    "/EFI/GRUB/grubx64.efi",
    "/EFI/BOOT/BOOTX64.EFI",
];

/// Starts the disk's boot loader. Returns to the firmware only without one: after GRUB, most
/// stop at their menu and do not try the next boot option.
fn grub_disk(out: &mut String) {
    let _ = writeln!(out, "  for loader in {}; do", EFI_LOADERS.join(" "));
    // Firmware starts only from partitions; a stick's whole disk may have the file, too.
    let hints = ["gpt1", "gpt2", "msdos1", "msdos2"].map(|part| format!("--hint hd0,{part}"));
    let _ = writeln!(
        out,
        "    if search --no-floppy {} --set=root --file $loader; then",
        hints.join(" ")
    );
    out.push_str(
        "      \
         chainloader $loader\n      boot\n    fi\n  done\n  exit\n}\n",
    );
}

/// Splits a kernel command line at spaces outside double quotes, and takes
/// the quotes off: GRUB puts them back around words with spaces.
fn kernel_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// A word as GRUB's shell takes it literally.
fn grub_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}
