//! Boot menus: one description, read from and written as the configuration of
//! SYSLINUX (isolinux, pxelinux), GRUB and iPXE.
//!
//! The reader takes Linux entries: kernel, initrd, command line. It follows the SYSLINUX wiki's
//! "Config" page and the GRUB manual's "Shell-like scripting", and is no interpreter: both
//! branches of a GRUB `if` count; `.c32` programs but menus, chain loading and local boot are
//! skipped. The caller loads included files. Input, entries and depth are
//! bounded.
//!
//! The writer's files have only the entries, a default and a timeout.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// Most bytes of one configuration file.
pub const FILE_MAX: usize = 1 << 20;
/// Most entries of a menu.
pub const ENTRIES_MAX: usize = 1024;
/// Most files of one menu.
const FILES_MAX: usize = 64;
/// Longest GRUB line after expansion of variables.
const LINE_MAX: usize = 64 << 10;

/// A boot menu.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Menu {
    /// Heading; may be empty.
    pub title: String,
    /// Seconds until the default starts; `None` waits for ever.
    pub timeout: Option<u32>,
    /// Index of the default entry.
    pub default: usize,
    /// The entries in order.
    pub entries: Vec<Entry>,
    /// Over a network, a machine may have a menu of its own beside this one: see
    /// [`disk_menus`].
    pub per_machine: bool,
    /// The file's own default is an entry that starts no Linux kernel.
    pub other_default: bool,
    /// What a reader of the entries should know of the file.
    pub notes: Vec<String>,
}

/// One way to boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Short name, without white space.
    pub id: String,
    /// The title.
    pub title: String,
    /// Path of the kernel, in the boot loader's form; empty for a boot from the machine's own
    /// disk.
    /// disk boots.
    pub kernel: String,
    /// Paths of the initramfs files, in order.
    pub initrd: Vec<String>,
    /// The kernel's command line.
    pub append: String,
}

impl Entry {
    /// An entry that boots from the machine's own disk.
    #[must_use]
    pub fn disk(id: &str, title: &str) -> Self {
        Self { id: id.to_owned(), title: title.to_owned(), ..Self::default() }
    }

    fn is_disk(&self) -> bool {
        self.kernel.is_empty() && self.initrd.is_empty() && self.append.is_empty()
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

/// Which boot loader a configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// isolinux, pxelinux, extlinux.
    Syslinux,
    /// GRUB 2.
    Grub,
}

/// Why a menu cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MenuError {
    /// It has no Linux entry.
    Empty,
    /// More entries or files than any menu has.
    TooMany,
    /// A text that would break its line.
    Text {
        /// The text.
        text: String,
        /// Its purpose.
        what: &'static str,
    },
}

impl fmt::Display for MenuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "it has no entry that starts a Linux kernel"),
            Self::TooMany => {
                write!(f, "it has more than {ENTRIES_MAX} entries or {FILES_MAX} files")
            }
            Self::Text { text, what } => {
                write!(f, "{what} '{}' does not fit a menu", text.escape_debug())
            }
        }
    }
}

impl std::error::Error for MenuError {}

/// Most notes of a menu.
const NOTES_MAX: usize = 32;

/// Loads an included file, if it exists.
pub type Load<'l> = &'l mut dyn FnMut(&str) -> Option<String>;

impl Menu {
    /// Reads a configuration. Without entries it is an empty menu. Control characters in titles
    /// and command lines, such as tabulators, become blanks.
    ///
    /// # Errors
    /// [`MenuError::TooMany`] for too many entries or files.
    pub fn read(dialect: Dialect, text: &str, load: Load<'_>) -> Result<Self, MenuError> {
        Self::read_as(dialect, text, load, false)
    }

    /// The same for people: GRUB's variables that this file does not set stay in the entries as
    /// `${name}`.
    ///
    /// # Errors
    /// As [`Menu::read`].
    pub fn read_as_written(
        dialect: Dialect,
        text: &str,
        load: Load<'_>,
    ) -> Result<Self, MenuError> {
        Self::read_as(dialect, text, load, true)
    }

    fn read_as(
        dialect: Dialect,
        text: &str,
        load: Load<'_>,
        keep: bool,
    ) -> Result<Self, MenuError> {
        let mut menu = match dialect {
            Dialect::Syslinux => Syslinux::default().read(text, load),
            Dialect::Grub => Grub { keep, ..Grub::default() }.read(text, load),
        }?;
        let blank = |text: &mut String| *text = text.replace(char::is_control, " ");
        blank(&mut menu.title);
        for entry in &mut menu.entries {
            blank(&mut entry.title);
            blank(&mut entry.append);
        }
        Ok(menu)
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
        text.lines().find_map(first)
    }

    /// Checks that every text fits its line.
    ///
    /// # Errors
    /// [`MenuError::Text`] for the first that does not.
    pub fn check(&self) -> Result<(), MenuError> {
        if self.entries.is_empty() {
            return Err(MenuError::Empty);
        }
        if self.entries.len() > ENTRIES_MAX {
            return Err(MenuError::TooMany);
        }
        let fits = |text: &str, what, word: bool| {
            let bad =
                text.chars().any(|c| c.is_control() || (word && (c.is_whitespace() || c == ',')));
            match bad || (word && text.is_empty()) {
                true => Err(MenuError::Text { text: text.into(), what }),
                false => Ok(()),
            }
        };
        fits(&self.title, "the heading", false)?;
        for entry in &self.entries {
            fits(&entry.id, "the label", true)?;
            fits(&entry.title, "the title", false)?;
            if !entry.is_disk() {
                fits(&entry.kernel, "the kernel's path", true)?;
            }
            entry.initrd.iter().try_for_each(|path| fits(path, "the initrd's path", true))?;
            fits(&entry.append, "the command line", false)?;
        }
        Ok(())
    }

    /// Whether people see the menu: with one entry, only if it must not start by itself.
    fn waits(&self) -> bool {
        self.entries.len() > 1 || self.timeout.is_none()
    }

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

/// State of reading SYSLINUX files.
struct Syslinux {
    menu: Menu,
    append: String,
    entry: Option<SyslinuxEntry>,
    files: usize,
    in_text: bool,
    /// The menus: of the file, of MENU BEGIN, and of files that an entry leads to.
    levels: Vec<Level>,
    /// The open ones; the first belongs to the file.
    open: Vec<usize>,
    /// Every label, as menu.c32 finds it.
    labels: Vec<(String, Item)>,
    /// What SYSAPPEND says for all entries.
    sysappend: u32,
    /// Menu files that an entry leads to, and their levels.
    further: Vec<(String, usize)>,
    /// PROMPT 1: the boot loader waits even without a menu.
    prompt: bool,
}

impl Default for Syslinux {
    fn default() -> Self {
        Self {
            menu: Menu::default(),
            append: String::new(),
            entry: None,
            files: 0,
            in_text: false,
            levels: vec![Level::default()],
            open: vec![0],
            labels: Vec::new(),
            sysappend: 0,
            further: Vec::new(),
            prompt: false,
        }
    }
}

/// One menu of SYSLINUX, and what says which of its items starts by itself.
#[derive(Default)]
struct Level {
    items: Vec<Item>,
    /// ONTIMEOUT, the strongest.
    ontimeout: Option<String>,
    /// DEFAULT with a label: stronger than MENU DEFAULT unless DEFAULT also names the menu.
    default: Option<String>,
    /// MENU DEFAULT.
    marked: Option<usize>,
    /// A UI line.
    ui: bool,
    /// DEFAULT names a menu program.
    program: bool,
    /// Where MENU START is.
    start: Option<usize>,
}

#[derive(Clone)]
enum Item {
    /// A Linux entry's position.
    Entry(usize),
    /// The name of an entry that starts no kernel.
    Foreign(String),
    /// A menu.
    Menu(usize),
    /// A label that whichsys.c32 goes to on a disc.
    Label(String),
}

#[derive(Default)]
struct SyslinuxEntry {
    entry: Entry,
    append: Option<String>,
    /// Words behind the kernel's name.
    words: String,
    sysappend: Option<u32>,
    foreign: bool,
    default: bool,
    /// The menu file of CONFIG.
    config: Option<String>,
}

impl Syslinux {
    fn read(mut self, text: &str, load: Load<'_>) -> Result<Menu, MenuError> {
        self.file(text, load, 0)?;
        self.end_entry()?;
        if !self.levels.first().is_some_and(|root| root.ui || root.program) && !self.prompt {
            // Without a menu and a prompt, SYSLINUX does not wait.
            self.menu.timeout = Some(0);
        }
        let mut next = 0;
        while let Some((name, level)) = self.further.get(next).cloned() {
            next += 1;
            let Some(more) = load(&name) else { continue };
            self.menu.note(format!("an entry leads to the menu {name}, whose entries follow"));
            self.open = vec![level];
            self.file(&more, load, 1)?;
            self.end_entry()?;
        }
        match self.starts(0, 0) {
            Some(Item::Entry(n)) => self.menu.default = n,
            Some(Item::Foreign(name) | Item::Label(name)) => self.menu.starts_otherwise(&name),
            Some(Item::Menu(_)) => self.menu.other_default = true,
            None => {}
        }
        Ok(self.menu)
    }

    /// What starts in a menu when no key is pressed.
    fn starts(&self, level: usize, depth: usize) -> Option<Item> {
        let menu = self.levels.get(level)?;
        let first = || menu.items.get(menu.marked.unwrap_or(0)).cloned();
        let label = |name: &String| {
            let found = self.labels.iter().find(|(label, _)| label.eq_ignore_ascii_case(name));
            found.map_or_else(|| Item::Foreign(name.clone()), |(_, item)| item.clone())
        };
        let default = menu.default.as_ref().filter(|_| {
            menu.ui || !menu.program || (menu.marked.is_none() && menu.start.is_none())
        });
        let item = match (menu.ontimeout.as_ref().or(default), menu.start) {
            (Some(name), _) => Some(label(name)),
            (None, Some(start)) if start != level => Some(Item::Menu(start)),
            (None, _) => first(),
        };
        match item {
            Some(Item::Label(name)) if depth < 8 => match label(&name) {
                Item::Menu(to) => self.starts(to, depth + 1),
                item => Some(item),
            },
            Some(Item::Menu(to)) if depth < 8 => self.starts(to, depth + 1),
            item => item,
        }
    }

    fn level(&mut self) -> Option<&mut Level> {
        self.open.last().and_then(|n| self.levels.get_mut(*n))
    }

    fn root(&mut self) -> Option<&mut Level> {
        self.open.first().and_then(|n| self.levels.get_mut(*n))
    }

    /// An item of the open menu; `default` as MENU DEFAULT says.
    fn item(&mut self, label: &str, item: Item, default: bool) {
        if self.labels.len() >= 2 * ENTRIES_MAX {
            return;
        }
        self.labels.push((label.to_owned(), item.clone()));
        if let Some(level) = self.level() {
            if default {
                level.marked = Some(level.items.len());
            }
            level.items.push(item);
        }
    }

    fn file(&mut self, text: &str, load: Load<'_>, depth: usize) -> Result<(), MenuError> {
        self.files += 1;
        if self.files > FILES_MAX {
            return Err(MenuError::TooMany);
        }
        for line in text
            .get(..text.floor_char_boundary(FILE_MAX))
            .unwrap_or_default()
            .lines()
            .map(str::trim)
        {
            if line.ends_with('\\') && !self.in_text {
                self.menu.note(format!(
                    "SYSLINUX does not join lines: what follows '{}' is not part of it",
                    line.get(line.floor_char_boundary(line.len().saturating_sub(40))..)
                        .unwrap_or_default()
                ));
            }
            let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let rest = rest.trim();
            let word = word.to_ascii_lowercase();
            if self.in_text {
                self.in_text = word != "endtext";
                continue;
            }
            let (word, rest) = match (word.as_str(), rest.split_once(char::is_whitespace)) {
                ("menu", Some((sub, rest))) => {
                    (format!("menu {}", sub.to_ascii_lowercase()), rest.trim())
                }
                ("menu", None) => (format!("menu {}", rest.to_ascii_lowercase()), ""),
                _ => (word, rest),
            };
            if matches!(word.as_str(), "include" | "menu include") {
                // MENU INCLUDE may have a tag behind the name.
                let name = rest.split_whitespace().next().unwrap_or_default();
                if depth < 8
                    && let Some(more) = load(name)
                {
                    self.file(&more, load, depth + 1)?;
                }
                continue;
            }
            self.line(&word, rest)?;
        }
        Ok(())
    }

    fn line(&mut self, word: &str, rest: &str) -> Result<(), MenuError> {
        match (word, &mut self.entry) {
            ("text", _) => self.in_text = rest.eq_ignore_ascii_case("help"),
            ("label", _) => {
                self.end_entry()?;
                let entry = Entry { id: rest.to_owned(), ..Entry::default() };
                self.entry = Some(SyslinuxEntry { entry, ..SyslinuxEntry::default() });
            }
            ("menu begin", _) => {
                self.end_entry()?;
                let inner = self.levels.len();
                if inner < ENTRIES_MAX {
                    self.item(rest, Item::Menu(inner), false);
                    self.levels.push(Level::default());
                    self.open.push(inner);
                }
            }
            ("menu end", _) => {
                self.end_entry()?;
                if self.open.len() > 1 {
                    self.open.pop();
                }
            }
            ("menu default", None) if self.open.len() > 1 => {
                let inner = self.open.pop().unwrap_or_default();
                if let Some(level) = self.level() {
                    let is_it = |item: &Item| matches!(item, Item::Menu(n) if *n == inner);
                    level.marked = level.items.iter().position(is_it);
                }
                self.open.push(inner);
            }
            ("menu start", _) => {
                let here = self.open.last().copied();
                if let Some(root) = self.root() {
                    root.start = here;
                }
            }
            ("ui", _) => self.root().into_iter().for_each(|root| root.ui = true),
            ("prompt", _) => self.prompt |= rest != "0",
            ("menu title", None) if self.open == [0] => self.menu.title = unmarked(rest),
            ("timeout", _) if self.open == [0] => {
                let tenths: u32 = rest.parse().unwrap_or(0);
                self.menu.timeout = (tenths > 0).then_some(tenths / 10);
            }
            ("ontimeout", _) => {
                let label = rest.split_whitespace().next().map(str::to_owned);
                self.level().into_iter().for_each(|level| level.ontimeout.clone_from(&label));
            }
            ("default", _) => {
                let first = rest.split_whitespace().next().unwrap_or_default().to_owned();
                // DEFAULT may also name the menu program.
                let program = first.to_ascii_lowercase().ends_with(".c32");
                match self.root() {
                    Some(root) if program => root.program = true,
                    Some(root) => root.default = Some(first),
                    None => {}
                }
            }
            ("sysappend" | "ipappend", None) => self.sysappend = number(rest),
            ("sysappend" | "ipappend", Some(at)) => at.sysappend = Some(number(rest)),
            ("config", Some(at)) => {
                at.foreign = true;
                at.config = rest.split_whitespace().next().map(str::to_owned);
            }
            ("append", None) => self.append = rest.to_owned(),
            ("append", Some(at)) => at.append = Some(rest.to_owned()),
            ("menu label", Some(at)) => at.entry.title = unmarked(rest),
            ("menu default", Some(at)) => at.default = true,
            ("linux", Some(at)) => at.kernel(rest, true),
            ("kernel", Some(at)) => at.kernel(rest, false),
            ("initrd", Some(at)) => at.entry.initrd = paths(rest),
            ("com32", Some(at)) => {
                at.foreign = true;
                rest.clone_into(&mut at.entry.kernel);
            }
            ("localboot" | "boot" | "bss" | "pxe" | "fdimage" | "comboot", Some(at)) => {
                at.foreign = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn end_entry(&mut self) -> Result<(), MenuError> {
        let Some(SyslinuxEntry {
            mut entry,
            append,
            words,
            sysappend,
            mut foreign,
            default,
            config,
        }) = self.entry.take()
        else {
            return Ok(());
        };
        let has_words = append.as_ref().is_some_and(|append| !append.is_empty());
        // Such a name is a kernel's with an EFI stub, or another program's of the firmware.
        foreign |= entry.kernel.to_ascii_lowercase().ends_with(".efi")
            && entry.initrd.is_empty()
            && !has_words;
        if foreign || entry.kernel.is_empty() {
            let arguments = append.as_deref().unwrap_or_default();
            let mut words = arguments.split_whitespace();
            let files = match config {
                Some(file) => vec![file],
                None if entry.kernel.ends_with("menu.c32") => {
                    words.by_ref().filter(|file| *file != "~").map(str::to_owned).collect()
                }
                None => Vec::new(),
            };
            let disc = words.skip_while(|word| *word != "-iso-").nth(1);
            if entry.kernel.ends_with("menu.c32") && files.is_empty() {
                self.root().into_iter().for_each(|root| root.program = true);
            }
            let item = match (files.is_empty(), disc) {
                (true, Some(label)) => Item::Label(label.to_owned()),
                (true, None) => Item::Foreign(entry.id.clone()),
                (false, _) => Item::Menu(self.levels.len()),
            };
            self.item(&entry.id, item, default);
            for file in files {
                if self.further.len() < FILES_MAX {
                    self.further.push((file, self.levels.len()));
                    self.levels.push(Level::default());
                }
            }
            return Ok(());
        }
        for (bit, what) in [(1, "ip=CLIENT:SERVER:GATEWAY:MASK"), (2, "BOOTIF=01-MAC")] {
            if sysappend.unwrap_or(self.sysappend) & bit != 0 {
                self.menu.note(format!("to the line of {} pxelinux adds {what}", entry.id));
            }
        }
        if self.menu.entries.len() >= ENTRIES_MAX {
            return Err(MenuError::TooMany);
        }
        let append = append.unwrap_or_else(|| self.append.clone());
        let mut kept: Vec<&str> = words.split_whitespace().collect();
        for word in append.split_whitespace().filter(|word| *word != "-") {
            // Only the boot loader uses this word; the kernel ignores it.
            match word.strip_prefix("initrd=") {
                Some(list) => entry.initrd = paths(list),
                None => kept.push(word),
            }
        }
        entry.append = kept.join(" ");
        self.item(&entry.id, Item::Entry(self.menu.entries.len()), default);
        self.menu.entries.push(entry);
        Ok(())
    }
}

impl SyslinuxEntry {
    fn kernel(&mut self, path: &str, surely: bool) {
        let (path, words) = path.split_once(char::is_whitespace).unwrap_or((path, ""));
        words.clone_into(&mut self.words);
        let lower = path.to_ascii_lowercase();
        let other = [".c32", ".0", ".bin", ".bss", ".bs", ".img", ".com", ".cbt"];
        self.foreign =
            is_no_kernel(path) || !surely && other.iter().any(|end| lower.ends_with(end));
        path.clone_into(&mut self.entry.kernel);
    }
}

/// Whether this is one of the programs that are loaded as a kernel is, and are none: memory
/// testers, `memdisk`, iPXE, GRUB4DOS, loaders of Windows.
pub(crate) fn is_no_kernel(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    ["memtest", "mt86", "memdisk", "wimboot", "ipxe", "gpxe", "grub.exe", "ntloader", "vboot"]
        .iter()
        .any(|start| name.starts_with(start))
        || name.ends_with(".lkrn")
}

/// A label without the mark of its shortcut key: `^Live` is shown as "Live".
fn unmarked(text: &str) -> String {
    text.replacen('^', "", 1)
}

/// A number as SYSLINUX writes it, also `0x3ffff`.
fn number(text: &str) -> u32 {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).unwrap_or(0),
        None => text.parse().unwrap_or(0),
    }
}

impl Menu {
    fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The default is this entry, which is not among ours.
    fn starts_otherwise(&mut self, name: &str) {
        self.other_default = true;
        self.note(format!("the menu's default is '{name}', which starts no Linux kernel"));
    }
}

fn paths(list: &str) -> Vec<String> {
    list.split([',', ' ']).filter(|p| !p.is_empty()).map(str::to_owned).collect()
}

/// Most bytes of GRUB commands that are gone through: loops and functions repeat them.
const WORK_MAX: usize = 8 << 20;

/// A path without the variable that it begins with: `${prefix}/x.cfg` is looked for as `/x.cfg`.
fn after_variable(path: &str) -> &str {
    path.strip_prefix("${").and_then(|rest| rest.split_once('}')).map_or(path, |(_, path)| path)
}

/// The text up to the word that ends this block, past words that open others in it. Quotes,
/// comments and `${…}` count as they do in GRUB.
fn block(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    opening: &[&str],
    closing: &str,
) -> String {
    let mut text = String::new();
    let mut word = String::new();
    let mut depth = 0;
    let mut quote = None;
    // `for` is a word of its own only where a command begins.
    let mut begins = true;
    while let Some(c) = chars.next() {
        text.push(c);
        match (c, quote) {
            (c, Some(open)) => {
                if c == open {
                    quote = None;
                } else if c == '\\' && open == '"' {
                    text.extend(chars.next());
                }
            }
            ('\\', _) => text.extend(chars.next()),
            ('\'' | '"', _) => {
                quote = Some(c);
                word.push(c);
            }
            ('$', _) if chars.peek() == Some(&'{') => {
                word.push(c);
                while let Some(c) = chars.next_if(|c| *c != '\n') {
                    text.push(c);
                    if c == '}' {
                        break;
                    }
                }
            }
            ('{', _) if closing == "}" => {
                depth += 1;
                begins = true;
                word.clear();
            }
            ('#', _) if word.is_empty() => {
                text.pop();
                while chars.next_if(|c| *c != '\n').is_some() {}
            }
            (c, _) if c.is_whitespace() || c == ';' || (c == '}' && closing == "}") => {
                let ends = if c == '}' { "}" } else { word.as_str() };
                if ends == closing && (begins || closing == "}") {
                    if depth == 0 {
                        text.truncate(text.len() - c.len_utf8());
                        let end = text.len() - if c == '}' { 0 } else { closing.len() };
                        text.truncate(end);
                        return text;
                    }
                    depth -= 1;
                } else if opening.contains(&ends) && (begins || closing == "}") {
                    depth += 1;
                }
                let leads = matches!(ends, "do" | "then" | "else" | "" | "{");
                begins = matches!(c, '\n' | ';') || (begins && leads);
                word.clear();
            }
            (c, _) => word.push(c),
        }
    }
    if word == closing && depth == 0 {
        text.truncate(text.len() - closing.len());
    }
    text
}

/// What GRUB's menu shows.
struct GrubItem {
    /// Its position in its menu, behind those of the submenus that it is in.
    place: Vec<usize>,
    id: String,
    title: String,
    /// Its position in `menu.entries` if it starts a kernel.
    entry: Option<usize>,
}

/// State of reading GRUB files.
#[derive(Default)]
struct Grub {
    menu: Menu,
    variables: BTreeMap<String, String>,
    entry: Option<Entry>,
    files: usize,
    /// Open blocks.
    depth: usize,
    items: Vec<GrubItem>,
    /// The place of the submenu that is open.
    submenu: Vec<usize>,
    /// Variables that nothing sets stay.
    keep: bool,
    functions: BTreeMap<String, String>,
    /// Bytes of functions and loops that were gone through.
    work: usize,
}

impl Grub {
    fn read(mut self, text: &str, load: Load<'_>) -> Result<Menu, MenuError> {
        self.file(text, load, 0)?;
        self.end_entry()?;
        let default = self.variables.get("default").map_or("", String::as_str);
        if let Some(item) = self.starts(default) {
            match item.entry {
                Some(n) if n < self.menu.entries.len() => self.menu.default = n,
                _ => {
                    let title = item.title.clone();
                    self.menu.starts_otherwise(&title);
                }
            }
        }
        let timeout = self.variables.get("timeout").and_then(|t| t.parse::<i64>().ok());
        self.menu.timeout = timeout.and_then(|t| u32::try_from(t).ok());
        Ok(self.menu)
    }

    /// The item that a value of `default` starts: a number, an id or a title; for each submenu
    /// one of its own, with `>` between them. What is not there means the first item.
    fn starts(&self, default: &str) -> Option<&GrubItem> {
        let below = |place: &[usize]| {
            let place = place.to_vec();
            self.items.iter().filter(move |item| {
                item.place.len() == place.len() + 1 && item.place.starts_with(&place)
            })
        };
        let item_of = |place: &[usize], name: &str| {
            let numbered = name.parse::<usize>().ok();
            below(place)
                .find(|item| item.id == name || item.title == name)
                .or_else(|| below(place).find(|item| item.place.last().copied() == numbered))
                .or_else(|| below(place).next())
        };
        // A title has `>>` for `>`.
        let default = default.replace(">>", "\0");
        let mut names = default.split('>').map(|name| name.replace('\0', ">"));
        let mut item = item_of(&[], &names.next().unwrap_or_default())?;
        while let Some(inner) = item_of(&item.place, &names.next().unwrap_or_default()) {
            item = inner;
        }
        Some(item)
    }

    fn file(&mut self, text: &str, load: Load<'_>, nesting: usize) -> Result<(), MenuError> {
        self.files += 1;
        if self.files > FILES_MAX {
            return Err(MenuError::TooMany);
        }
        self.body(text.get(..text.floor_char_boundary(FILE_MAX)).unwrap_or_default(), load, nesting)
    }

    /// Goes through commands: a file, a function's, or a loop's.
    fn body(&mut self, text: &str, load: Load<'_>, nesting: usize) -> Result<(), MenuError> {
        self.work += text.len();
        if self.work > WORK_MAX {
            return Err(MenuError::TooMany);
        }
        let mut chars = text.chars().peekable();
        while chars.peek().is_some() {
            let (words, opens) = self.command(&mut chars);
            let depth = self.depth;
            self.depth += usize::from(opens);
            let mut words = words.iter().map(String::as_str);
            let Some(mut first) = words.next() else { continue };
            // Arguments of an earlier command on the line.
            while matches!(first, "if" | "then" | "else" | "elif" | "{" | "}" | "do" | "fi" | "!") {
                if first == "}" {
                    self.end_entry()?;
                    self.depth = self.depth.saturating_sub(1);
                }
                match words.next() {
                    Some(word) => first = word,
                    None => break,
                }
            }
            match first {
                "source" | "configfile" | "." | "extract_entries_source" if nesting < 8 => {
                    if let Some(more) = words.next().map(after_variable).and_then(&mut *load) {
                        self.file(&more, load, nesting + 1)?;
                    }
                }
                "function" if opens => {
                    self.depth = depth;
                    let body = block(&mut chars, &["{"], "}");
                    if let Some(name) = words.next()
                        && self.functions.len() < ENTRIES_MAX
                    {
                        self.functions.insert(name.to_owned(), body);
                    }
                }
                "for" => {
                    let body = block(&mut chars, &["for", "while", "until"], "done");
                    let name = words.next().unwrap_or_default().to_owned();
                    for item in words.skip(1).filter(|_| nesting < 8) {
                        // Which files a pattern means, only the loader knows.
                        if item.contains(['*', '?', '[']) {
                            self.variables.remove(&name);
                        } else {
                            self.set(&name, item);
                        }
                        self.body(&body, load, nesting + 1)?;
                    }
                }
                name if nesting < 8 && self.functions.contains_key(name) => {
                    let body = self.functions.get(name).cloned().unwrap_or_default();
                    let before = self.arguments(words.map(str::to_owned).collect());
                    self.body(&body, load, nesting + 1)?;
                    self.arguments(before);
                }
                first => self.run(first, depth, &mut words)?,
            }
        }
        Ok(())
    }

    fn run<'w>(
        &mut self,
        first: &'w str,
        depth: usize,
        words: &mut dyn Iterator<Item = &'w str>,
    ) -> Result<(), MenuError> {
        match first {
            "menuentry" | "submenu" => {
                self.end_entry()?;
                let mut id = String::new();
                // The title and the arguments of the entry's own commands.
                let mut arguments = Vec::new();
                while let Some(word) = words.next() {
                    match word.strip_prefix("--id=") {
                        Some(given) => given.clone_into(&mut id),
                        None if word == "--id" => {
                            words.next().unwrap_or_default().clone_into(&mut id)
                        }
                        None if matches!(word, "--class" | "--users" | "--hotkey") => {
                            words.next();
                        }
                        None if word.starts_with("--") => {}
                        None => arguments.push(word.to_owned()),
                    }
                }
                let title = arguments.first().cloned().unwrap_or_default();
                self.submenu.truncate(depth);
                let mut place = self.submenu.clone();
                let same = |item: &&GrubItem| {
                    item.place.len() == place.len() + 1 && item.place.starts_with(&place)
                };
                let position = self.items.iter().filter(same).count();
                place.push(position);
                if self.items.len() >= 2 * ENTRIES_MAX {
                    return Err(MenuError::TooMany);
                }
                if first == "submenu" {
                    self.submenu.clone_from(&place);
                }
                let item = GrubItem { place, id: id.clone(), title: title.clone(), entry: None };
                self.items.push(item);
                if first == "menuentry" {
                    self.arguments(arguments);
                }
                if first == "menuentry" {
                    if id.is_empty() {
                        id = format!("entry{}", self.menu.entries.len() + 1);
                    }
                    self.entry = Some(Entry { id, title, ..Entry::default() });
                }
            }
            "linux" | "linuxefi" | "linux16" => {
                let kernel = words.next().unwrap_or_default().to_owned();
                // GRUB quotes words with spaces for the kernel.
                let quoted = |w: &str| {
                    if w.contains(char::is_whitespace) { format!("\"{w}\"") } else { w.to_owned() }
                };
                let append: Vec<String> = words.map(quoted).collect();
                if let Some(entry) = &mut self.entry {
                    entry.kernel = kernel;
                    entry.append = append.join(" ");
                }
            }
            "initrd" | "initrdefi" | "initrd16" => {
                if let Some(entry) = &mut self.entry {
                    entry.initrd = words.map(str::to_owned).collect();
                }
            }
            "set" => {
                if let Some((name, value)) = words.next().and_then(|w| w.split_once('=')) {
                    self.set(name, value);
                }
            }
            "unset" | "read" => {
                words.next().map(|name| self.variables.remove(name));
            }
            _ => self.other(first, words),
        }
        Ok(())
    }

    /// A command that is none of those, as far as it sets variables or starts a kernel.
    fn other<'w>(&mut self, first: &'w str, words: &mut dyn Iterator<Item = &'w str>) {
        let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if let Some((name, value)) = first.split_once('=')
            && is_name(name)
            && !name.is_empty()
        {
            self.set(name, value);
            return;
        }
        // `$linux /vmlinuz …`, where the loader finds out which command that is.
        if let Some(name) = first.strip_prefix("${") {
            let command = if name.contains("initrd") { "initrd" } else { "linux" };
            if self.entry.is_some() && (name.contains("initrd") || name.contains("linux")) {
                let _ = self.run(command, 1, words);
            }
            return;
        }
        // What `search`, `probe`, `regexp` and others set is known to the loader alone.
        while let Some(word) = words.next().filter(|_| self.keep) {
            let name = match word.strip_prefix("--set=") {
                Some(name) => Some(name),
                None if matches!(word, "--set" | "-s") => words.next(),
                None => None,
            };
            if let Some(name) = name {
                let name = name.rsplit(':').next().unwrap_or(name);
                self.variables.remove(if is_name(name) { name } else { "root" });
            }
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        // `default="${saved_entry}"`: a medium has no saved entry, and GRUB's `if` is not run.
        if name == "default" && (value.is_empty() || value.starts_with("${")) {
            return;
        }
        if self.variables.len() < ENTRIES_MAX || self.variables.contains_key(name) {
            self.variables.insert(name.to_owned(), value.to_owned());
        }
    }

    /// Sets `$1` and the following; returns those of before.
    fn arguments(&mut self, arguments: Vec<String>) -> Vec<String> {
        let names = (1..10).map(|n: u8| n.to_string());
        let before = names.clone().map_while(|name| self.variables.remove(&name)).collect();
        for (name, argument) in names.zip(arguments) {
            self.variables.insert(name, argument);
        }
        before
    }

    fn end_entry(&mut self) -> Result<(), MenuError> {
        let starts = |entry: &Entry| !entry.kernel.is_empty() && !is_no_kernel(&entry.kernel);
        let Some(entry) = self.entry.take().filter(starts) else { return Ok(()) };
        if self.menu.entries.len() >= ENTRIES_MAX {
            return Err(MenuError::TooMany);
        }
        if let Some(item) = self.items.last_mut() {
            item.entry = Some(self.menu.entries.len());
        }
        self.menu.entries.push(entry);
        Ok(())
    }

    /// The words up to the end of a command: a line's end, `;`, or a brace; and whether it
    /// opens a block. A closing brace is a command.
    fn command(&self, chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> (Vec<String>, bool) {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut size = 0;
        let mut opens = false;
        while let Some(c) = chars.peek().copied() {
            // Unquoted braces end a word, as blanks do.
            if c == '}' && (word.is_some() || !words.is_empty()) {
                break;
            }
            chars.next();
            match c {
                '}' => {
                    words.push("}".to_owned());
                    break;
                }
                '\n' | ';' => break,
                '#' if word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
                '{' => {
                    opens = true;
                    break;
                }
                c if c.is_whitespace() => words.extend(word.take()),
                '\'' => {
                    let word = word.get_or_insert_default();
                    word.extend(std::iter::from_fn(|| chars.next().filter(|c| *c != '\'')));
                }
                '"' => {
                    let word = word.get_or_insert_default();
                    while let Some(c) = chars.next().filter(|c| *c != '"') {
                        match c {
                            '\\' => match chars.next() {
                                Some(c @ ('"' | '\\' | '$')) => word.push(c),
                                Some('\n') | None => {}
                                Some(c) => word.extend(['\\', c]),
                            },
                            '$' => size += self.expand(chars, word, size),
                            c => word.push(c),
                        }
                    }
                }
                '\\' => match chars.next() {
                    Some('\n') | None => {}
                    Some(c) => word.get_or_insert_default().push(c),
                },
                '$' => {
                    // Unquoted, an empty variable is no word, and one with
                    // spaces is several.
                    let mut value = String::new();
                    size += self.expand(chars, &mut value, size);
                    let mut parts = value.split_whitespace();
                    if let Some(part) = parts.next() {
                        word.get_or_insert_default().push_str(part);
                    }
                    for part in parts {
                        words.extend(word.replace(part.to_owned()));
                    }
                }
                c => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        (words, opens)
    }

    /// Appends a variable's value; returns its length.
    fn expand(
        &self,
        chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
        to: &mut String,
        size: usize,
    ) -> usize {
        let braced = chars.next_if_eq(&'{').is_some();
        let mut name = String::new();
        let part = |c: &char| {
            c.is_ascii_alphanumeric() || *c == '_' || (braced && *c != '}' && *c != '\n')
        };
        while let Some(c) = chars.next_if(part) {
            name.push(c);
        }
        if braced {
            chars.next_if_eq(&'}');
        } else if name.is_empty() {
            name.extend(chars.next_if(|c| matches!(c, '@' | '*' | '#' | '?')));
        }
        let all: Vec<&str> = if matches!(name.as_str(), "@" | "*") {
            (1..10).map_while(|n: u8| self.variables.get(&n.to_string())).map(|v| &**v).collect()
        } else {
            Vec::new()
        };
        let unset = match self.keep && name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            true => format!("${{{name}}}"),
            false => all.join(" "),
        };
        let value = self.variables.get(&name).unwrap_or(&unset);
        if size + value.len() > LINE_MAX {
            return 0;
        }
        to.push_str(value);
        value.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    const ISOLINUX: &str = "\
UI vesamenu.c32
include stdmenu.cfg
menu title ^Welcome
default live
timeout 50
append quiet
label live
  menu label ^Live system
  menu default
  linux /live/vmlinuz
  initrd /live/initrd.img
  append boot=live components
  text help
  label not-one
  endtext
label plain
  kernel /live/vmlinuz
label none
  kernel /live/vmlinuz
  append -
label old
  KERNEL /casper/vmlinuz
  APPEND  file=/cdrom/preseed.seed boot=casper initrd=/casper/a.gz,/casper/b.gz quiet --
label memtest
  kernel /install/mt86plus.bin
label hd
  localboot 0x80
";

    #[test]
    fn isolinux_entries() {
        let mut asked = Vec::new();
        let menu = Menu::read(Dialect::Syslinux, ISOLINUX, &mut |name| {
            asked.push(name.to_owned());
            Some("menu background splash.png\nlabel extra\nlinux /x\n".into())
        });
        let menu = menu.unwrap();
        assert_eq!(asked, ["stdmenu.cfg"]);
        assert_eq!(menu.timeout, Some(5));
        assert_eq!(menu.title, "");
        let ids: Vec<&str> = menu.entries.iter().map(|e| e.id.as_str()).collect();
        assert_eq!(ids, ["extra", "live", "plain", "none", "old"]);
        let live = &menu.entries[menu.default];
        assert_eq!((live.id.as_str(), live.title.as_str()), ("live", "Live system"));
        assert_eq!(live.append, "boot=live components");
        assert_eq!(menu.entries[2].append, "");
        assert_eq!(menu.entries[3].append, "");
        let old = &menu.entries[4];
        assert_eq!(old.initrd, ["/casper/a.gz", "/casper/b.gz"]);
        assert_eq!(old.append, "file=/cdrom/preseed.seed boot=casper quiet --");
    }

    /// A brace stuck to a title was part of it, and the entry's end was lost with one behind the
    /// last word.
    #[test]
    fn braces_of_grub_need_no_blanks() {
        let text = "function f{\n set a=1; if true; then\n menuentry 'in f'{linux /f}\n fi\n}\n\
                    menuentry \"A\"{\n linux /a x=${y}z {\n}\n}\n\
                    menuentry 'B {b}' --class c{\n linux /b w}\nf\nsubmenu S{menuentry C{linux /c}}\n";
        let menu = Menu::read(Dialect::Grub, text, &mut none).unwrap();
        let got: Vec<_> =
            menu.entries.iter().map(|e| (&*e.title, &*e.kernel, &*e.append)).collect();
        let want = [("A", "/a", "x=z"), ("B {b}", "/b", "w"), ("in f", "/f", ""), ("C", "/c", "")];
        assert_eq!(got, want);
    }

    /// `explain --from` said of memory testers that they would fail at boot.
    #[test]
    fn programs_that_are_loaded_as_kernels_are_none() {
        let text = "menuentry a { linux16 /boot/memtest86+x64.bin }\n\
                    menuentry b { linux16 /memdisk iso\n initrd16 /x.iso }\n\
                    menuentry c { linux /netboot.xyz.lkrn }\n\
                    menuentry d { linux /live/vmlinuz boot=live }\n";
        let menu = Menu::read(Dialect::Grub, text, &mut none).unwrap();
        assert_eq!(menu.entries.iter().map(|e| &*e.title).collect::<Vec<_>>(), ["d"]);
        assert!(menu.other_default, "the first starts none");
        let text = "label m\nlinux /memdisk\ninitrd /dos.img\nlabel d\nlinux /memory/vmlinuz\n";
        let menu = Menu::read(Dialect::Syslinux, text, &mut none).unwrap();
        assert_eq!(menu.entries.iter().map(|e| &*e.id).collect::<Vec<_>>(), ["d"]);
    }

    #[test]
    fn a_kernel_with_the_name_of_another_program_stays_a_kernel() {
        let entry = Entry { id: "a".into(), kernel: "linux.img".into(), ..Entry::default() };
        let menu = Menu { entries: vec![entry], ..Menu::default() };
        let written = menu.to_syslinux(false).unwrap();
        let read = Menu::read(Dialect::Syslinux, &written, &mut |_| None).unwrap();
        assert_eq!(read.entries, menu.entries);
    }

    #[test]
    fn a_global_append_is_for_labels_without_one() {
        let text = "append quiet splash\nlabel a\nkernel k\nlabel b\nkernel k\nappend -\n";
        let menu = Menu::read(Dialect::Syslinux, text, &mut none).unwrap();
        assert_eq!(menu.entries[0].append, "quiet splash");
        assert_eq!(menu.entries[1].append, "");
    }

    const GRUB: &str = r#"
if loadfont $prefix/font.pf2 ; then
  set gfxmode=800x600
fi
set default="3"
set timeout=30
set extra="a=1 b=2"
source /boot/grub/config.cfg
menuentry "Live system (amd64)" --hotkey=l --id live {
	linux	/live/vmlinuz-6.1 boot=live $extra "${extra}" file=\$x 'c=$d' $nothing findiso=${iso_path} # comment
	initrd	/live/initrd.img /more.img
}
submenu 'Advanced ...' {
  menuentry 'It'\''s safe' { linuxefi /casper/vmlinuz boot=casper \
     nomodeset ---; initrdefi /casper/initrd }
  menuentry 'Firmware' { fwsetup }
}
menuentry memtest { linux16 }
menuentry last { set gfxpayload=keep
  linux /v root=LABEL="a b"
}
"#;

    fn lines(menu: &Menu) -> Vec<(&str, &str)> {
        menu.entries.iter().map(|e| (e.title.as_str(), e.append.as_str())).collect()
    }

    /// They were emptied: `findiso=` was left out, and the plan said "any drive".
    #[test]
    fn what_no_line_of_the_menu_sets_stays_a_variable() {
        let text = r#"
set opts="quiet splash"
probe -u $root --set=u
menuentry "a" { linux /live/vmlinuz boot=live findiso=${iso_path} $opts $more }
menuentry "b" { linux ($root)/v img_dev=/dev/disk/by-uuid/$u img_loop="$iso_path" }
"#;
        let menu = Menu::read_as_written(Dialect::Grub, text, &mut none).unwrap();
        assert_eq!(
            lines(&menu),
            [
                ("a", "boot=live findiso=${iso_path} quiet splash ${more}"),
                ("b", "img_dev=/dev/disk/by-uuid/${u} img_loop=${iso_path}"),
            ]
        );
        let plain = Menu::read(Dialect::Grub, text, &mut none).unwrap();
        assert_eq!(plain.entries[0].append, "boot=live findiso= quiet splash");
    }

    /// Entries in loops, by functions and by `$linux` were shown with emptied variables, or
    /// were not there at all.
    #[test]
    fn loops_functions_and_assignments_of_grub() {
        let text = r#"
function live {
  # A brace } in a comment, and one in "quotes }".
  linux /live/$1 boot=live ${2} for
  initrd /live/${1}.img
}
if [ "$grub_platform" = efi ]; then k=/efi/v; else k=/bios/v; fi
for flavour in xfce "kde plasma"; do
  menuentry "Live $flavour" { live $flavour toram }
done
for iso in /isos/*.iso; do
  menuentry "$iso" "$iso" --class x { loopback loop $2; linux (loop)/v findiso=$2 ; }; done
menuentry one { linux $k a }
menuentry var { $linuxcmd /v b; $initrdcmd /i }
menuentry args "/x.iso" --class y { set f="$2"; linux /v iso=$f }
"#;
        let menu = Menu::read_as_written(Dialect::Grub, text, &mut none).unwrap();
        assert_eq!(
            lines(&menu),
            [
                ("Live xfce", "boot=live toram for"),
                ("Live kde plasma", "boot=live plasma for"),
                ("${iso}", "findiso=${iso}"),
                ("one", "a"),
                ("var", "b"),
                ("args", "iso=/x.iso"),
            ]
        );
        assert_eq!(menu.entries[3].kernel, "/bios/v");
        assert_eq!(menu.entries[4].initrd, ["/i"]);
        // Loops in loops, and functions that call themselves, come to an end.
        let mut text = String::from("function f { f; f; f; }\nf\n");
        text.push_str(&"for a in 1 2 3 4 5 6 7 8 9; do\n".repeat(7));
        text.push_str("menuentry x { linux /v }\n");
        text.push_str(&"done\n".repeat(7));
        assert_eq!(Menu::read(Dialect::Grub, &text, &mut none), Err(MenuError::TooMany));
    }

    /// The first entry with a kernel was called the default of a menu that starts the disk.
    #[test]
    fn a_default_that_starts_no_kernel_is_not_given_to_another_entry() {
        let local =
            "DEFAULT local\nLABEL ka\nKERNEL v\nAPPEND kamethod\nLABEL local\nLOCALBOOT 0\n";
        let first = "LABEL local\nLOCALBOOT 0\nLABEL ka\nKERNEL v\n";
        let marked = "LABEL ka\nKERNEL v\nLABEL local\nMENU DEFAULT\nLOCALBOOT 0\n";
        for text in [local, first, marked] {
            let menu = Menu::read(Dialect::Syslinux, text, &mut none).unwrap();
            assert!(menu.other_default, "{text}");
            assert!(menu.notes.iter().any(|note| note.contains("'local'")), "{:?}", menu.notes);
        }
        let ours = local.replace("DEFAULT local", "DEFAULT ka");
        assert!(!Menu::read(Dialect::Syslinux, &ours, &mut none).unwrap().other_default);
        let grub = "set default=1\nmenuentry a { linux /v }\nmenuentry b { chainloader +1 }\n";
        assert!(Menu::read(Dialect::Grub, grub, &mut none).unwrap().other_default);
        let ours = grub.replace("default=1", "default=0");
        assert!(!Menu::read(Dialect::Grub, &ours, &mut none).unwrap().other_default);
    }

    fn starts(dialect: Dialect, text: &str) -> String {
        let menu = Menu::read(dialect, text, &mut |name| {
            (name == "other.cfg")
                .then(|| "LABEL x\nKERNEL k\nLABEL y\nMENU DEFAULT\nKERNEL k\n".into())
        });
        let menu = menu.unwrap();
        match menu.other_default {
            true => "other".into(),
            false => menu.entries[menu.default].title.clone() + &menu.entries[menu.default].id,
        }
    }

    /// An installer started by itself where the menu says the live system.
    #[test]
    fn what_starts_by_itself_in_syslinux() {
        let two = "LABEL inst\nMENU DEFAULT\nKERNEL k\nLABEL live\nKERNEL k\n";
        let inner = "MENU BEGIN more\nLABEL a\nKERNEL k\nLABEL b\nMENU DEFAULT\nKERNEL k\n\
                     MENU END\nLABEL c\nKERNEL k\n";
        let which = "DEFAULT select\nLABEL select\nCOM32 whichsys.c32\nAPPEND -pxe- pxe -iso- sys\n\
                     LABEL pxe\nKERNEL k\nLABEL sys\nCONFIG other.cfg\n";
        for (text, id) in [
            (format!("DEFAULT vesamenu.c32\nONTIMEOUT live\n{two}"), "live"),
            (format!("{two}ONTIMEOUT live\n"), "live"),
            (format!("DEFAULT vesamenu.c32\n{two}"), "inst"),
            // UI makes DEFAULT stronger than MENU DEFAULT, wherever it is.
            (format!("UI vesamenu.c32\nDEFAULT live\n{two}"), "live"),
            (format!("DEFAULT live\n{two}"), "live"),
            (format!("ONTIMEOUT nothing\n{two}"), "other"),
            (format!("UI menu.c32\n{inner}"), "b"),
            (format!("UI menu.c32\nLABEL z\nKERNEL k\n{inner}"), "z"),
            (
                format!("LABEL z\nKERNEL k\n{}", inner.replace("more\n", "more\nMENU DEFAULT\n")),
                "b",
            ),
            (format!("LABEL z\nKERNEL k\n{}", inner.replace("more\n", "more\nMENU START\n")), "b"),
            (which.to_owned(), "y"),
        ] {
            assert_eq!(starts(Dialect::Syslinux, &text), id, "{text}");
        }
    }

    #[test]
    fn what_starts_by_itself_in_grub() {
        let text = "menuentry i { linux /k }\nsubmenu s --id sub {\nmenuentry a { linux /k }\n\
                    submenu t {\nmenuentry b --id bb { linux /k }\n}\nmenuentry 'x>y' { linux /k }\n}\n\
                    menuentry off { halt }\n";
        for (default, title) in [
            ("1>0", "aentry2"),
            ("1", "aentry2"),
            ("sub>t>bb", "bbb"),
            ("1>1", "bbb"),
            ("s>x>>y", "x>yentry4"),
            ("1>2>0", "x>yentry4"),
            ("2", "other"),
            ("9", "ientry1"),
            ("${saved_entry}", "ientry1"),
        ] {
            let text = format!("set default=\"{default}\"\n{text}");
            assert_eq!(starts(Dialect::Grub, &text), title, "{default}");
        }
        // Without a saved entry what was set before counts.
        let text = format!("set default=1\nset default=\"${{saved_entry}}\"\n{text}");
        assert_eq!(starts(Dialect::Grub, &text), "aentry2");
    }

    /// A kernel with an EFI stub counted as another program.
    #[test]
    fn kernels_named_efi() {
        let text = "LABEL live\nKERNEL /casper/vmlinuz.efi\nAPPEND initrd=/casper/initrd.lz x\n\
                    LABEL shell\nKERNEL /EFI/shellx64.efi\n";
        let menu = Menu::read(Dialect::Syslinux, text, &mut none).unwrap();
        let [entry] = menu.entries.as_slice() else { panic!("{menu:?}") };
        assert_eq!(entry.kernel, "/casper/vmlinuz.efi");
    }

    /// With a single entry SYSLINUX and iPXE showed no menu and started it.
    #[test]
    fn a_single_entry_can_wait() {
        let entry = Entry { id: "wipe".into(), kernel: "k".into(), ..Entry::default() };
        let menu = Menu { entries: vec![entry], ..Menu::default() };
        assert!(menu.to_syslinux(true).unwrap().contains("UI menu.c32\n"));
        assert!(menu.to_ipxe().unwrap().contains("--timeout 0 target"));
        let menu = Menu { timeout: Some(3), ..menu };
        assert!(!menu.to_syslinux(true).unwrap().contains("UI"));
    }

    /// Words behind the kernel's name were lost, and what pxelinux adds or does not join was
    /// not mentioned.
    #[test]
    fn what_pxelinux_makes_of_a_line() {
        let text = "LABEL a\nLINUX v boot=live toram\nAPPEND quiet\nIPAPPEND 3\n\
            LABEL b\nKERNEL v\nAPPEND root=/dev/ram3 \\\n rescue kamethod\n\
            LABEL c\nCONFIG other.cfg\nLABEL d\nKERNEL menu.c32\nAPPEND third.cfg\n";
        let menu = Menu::read(Dialect::Syslinux, text, &mut |name| {
            Some(format!("LABEL {name}\nKERNEL k\nAPPEND from-{name}\n"))
        });
        let menu = menu.unwrap();
        let appends: Vec<&str> = menu.entries.iter().map(|e| e.append.as_str()).collect();
        assert_eq!(
            appends,
            ["boot=live toram quiet", "root=/dev/ram3 \\", "from-other.cfg", "from-third.cfg"]
        );
        for piece in ["ip=CLIENT:", "BOOTIF=", "does not join", "menu other.cfg"] {
            assert!(menu.notes.iter().any(|note| note.contains(piece)), "{:?}", menu.notes);
        }
        assert_eq!((menu.default, menu.other_default), (0, false));
    }

    /// A tabulator in a label made a whole medium useless.
    #[test]
    fn control_characters_become_blanks() {
        let syslinux = "menu title A\tB\nlabel live\nmenu label Live\t(amd64)\x07\n\
                        kernel /k\nappend initrd=/i quiet\tsplash\n";
        let grub = "menuentry 'Live\t(amd64)' {\nlinux /k quiet\tsplash\ninitrd /i\n}\n";
        for (dialect, text) in [(Dialect::Syslinux, syslinux), (Dialect::Grub, grub)] {
            let menu = Menu::read(dialect, text, &mut none).unwrap();
            assert!(menu.entries[0].title.starts_with("Live (amd64)"), "{menu:?}");
            assert_eq!(menu.entries[0].append, "quiet splash");
            menu.check().unwrap();
        }
    }

    #[test]
    fn grub_entries() {
        let menu = Menu::read(Dialect::Grub, GRUB, &mut none).unwrap();
        assert_eq!((menu.timeout, menu.default), (Some(30), 2));
        let [live, safe, last] = menu.entries.as_slice() else { panic!("{menu:#?}") };
        assert_eq!((live.id.as_str(), live.title.as_str()), ("live", "Live system (amd64)"));
        assert_eq!(live.append, "boot=live a=1 b=2 \"a=1 b=2\" file=$x c=$d findiso=");
        assert_eq!(live.initrd, ["/live/initrd.img", "/more.img"]);
        assert_eq!(safe.title, "It's safe");
        assert_eq!(safe.append, "boot=casper nomodeset ---");
        assert_eq!(safe.initrd, ["/casper/initrd"]);
        assert_eq!(last.append, "\"root=LABEL=a b\"");
    }

    #[test]
    fn variables_and_includes_do_not_explode() {
        let mut text = String::from("set a=xxxxxxxxxxxxxxxx\n");
        for _ in 0..200 {
            text.push_str("set a=\"$a$a\"\n");
        }
        text.push_str("menuentry a { linux /k $a }\n");
        let menu = Menu::read(Dialect::Grub, &text, &mut none).unwrap();
        assert!(menu.entries[0].append.len() <= LINE_MAX);
        for (dialect, text) in
            [(Dialect::Grub, "source x\nsource x\n"), (Dialect::Syslinux, "include x\ninclude x\n")]
        {
            let all = Menu::read(dialect, text, &mut |_| Some(text.into()));
            assert_eq!(all, Err(MenuError::TooMany));
        }
    }

    #[test]
    fn which_loader() {
        assert_eq!(Menu::guess(ISOLINUX), Some(Dialect::Syslinux));
        assert_eq!(Menu::guess(GRUB), Some(Dialect::Grub));
        assert_eq!(Menu::guess("\0\0"), None);
    }

    #[test]
    fn ipxe_scripts() {
        let mut menu = Menu {
            timeout: Some(3),
            entries: vec![Entry {
                id: "live".into(),
                kernel: "vmlinuz".into(),
                initrd: vec!["sub/initrd.img".into()],
                append: "boot=live".into(),
                ..Entry::default()
            }],
            ..Menu::default()
        };
        let text = menu.to_ipxe().unwrap();
        assert!(text.contains("kernel --name BOOT_IMAGE=vmlinuz vmlinuz initrd=initrd.img BOOTIF=01-${netX/mac:hexhyp} boot=live\ninitrd sub/initrd.img\nboot\n"), "{text}");
        let text = menu.to_ipxe_with(|_| vec![("x86_64", "/m/shim.efi".into())]).unwrap();
        assert!(text.contains("&& shim /m/shim.efi ||\nboot ||\necho This kernel did"), "{text}");
        menu.entries[0].append = "x=${y}".into();
        assert!(menu.to_ipxe().is_err());
        menu.entries[0].append = "a\nb".into();
        assert!(menu.to_syslinux(false).unwrap_err().to_string().contains("'a\\nb' does not fit"));
        assert_eq!(Menu::default().to_grub(false), Err(MenuError::Empty));
    }

    #[test]
    fn machines_that_boot_from_their_disks() {
        let entries = vec![
            Entry { id: "copy".into(), kernel: "/vmlinuz".into(), ..Entry::default() },
            Entry::disk("disk", "Disk"),
        ];
        let menu = Menu { entries, per_machine: true, ..Menu::default() };
        assert!(
            menu.to_syslinux(true)
                .unwrap()
                .contains("LABEL disk\n  MENU LABEL Disk\n  LOCALBOOT 0\n")
        );
        let grub = menu.to_grub(true).unwrap();
        assert!(grub.contains("set own=/grub/$net_default_mac.cfg\n"), "{grub}");
        assert!(grub.contains("menuentry Disk --id disk {\n  for loader in /EFI/debian"), "{grub}");
        assert!(grub.ends_with("\n      boot\n    fi\n  done\n  exit\n}\n"), "{grub}");
        let ipxe = menu.to_ipxe().unwrap();
        let own = "#!ipxe\nimgfetch --name own boot-${netX/mac:hexhyp}.ipxe && goto own-menu ||\n";
        assert!(ipxe.starts_with(own), "{ipxe}");
        assert!(ipxe.contains("--drive 0x80 ||\nexit 1\n\n:own-menu\n"), "{ipxe}");
        let files = disk_menus("52:54:00:AB:cd:01").unwrap();
        let paths: Vec<&str> = files.iter().map(|f| f.0.as_str()).collect();
        let name = "01-52-54-00-ab-cd-01";
        assert_eq!(paths[0], format!("pxelinux.cfg/{name}"));
        assert_eq!(paths[1], format!("grub/grub.cfg-{name}"));
        assert_eq!(paths[2..], ["grub/52:54:00:ab:cd:01.cfg", "boot-52-54-00-ab-cd-01.ipxe"]);
        assert!(files[0].1.contains("DEFAULT disk\n"));
    }

    prop_compose! {
        fn entry()(
            kernel in "/[a-z0-9.-]{1,12}[a-z]",
            initrd in prop::collection::vec("/[a-z0-9.$'-]{1,12}", 0..3),
            append in prop::collection::vec("[a-z0-9.=:/$;{}'#,&|<>!*-]{0,12}[a-z0-9]", 0..5),
            title in "[A-Za-z(][A-Za-z0-9 ()'$#{}.-]{0,20}[a-z)]",
        ) -> Entry {
            Entry { id: String::new(), title, kernel, initrd, append: append.join(" ") }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            entries in prop::collection::vec(entry(), 1..5),
            timeout in prop::option::of(1u32..1000),
            default in 0usize..5,
        ) {
            let mut menu = Menu { title: "Some menu".into(), timeout, default: default % entries.len(), entries, per_machine: false, ..Menu::default() };
            for (n, entry) in menu.entries.iter_mut().enumerate() {
                entry.id = format!("entry{n}");
                // SYSLINUX would read these itself.
                entry.append = entry.append.replace("initrd=", "x=");
            }
            let mut read = Menu::read(Dialect::Syslinux, &menu.to_syslinux(true).unwrap(), &mut none);
            if let Ok(read) = &mut read {
                read.notes.clear();
            }
            // Without a menu it starts at once.
            let shown = if menu.waits() { menu.timeout } else { Some(0) };
            let timeout = core::mem::replace(&mut menu.timeout, shown);
            prop_assert_eq!(read.as_ref(), Ok(&menu));
            menu.timeout = timeout;
            menu.title.clear();
            let read = Menu::read(Dialect::Grub, &menu.to_grub(false).unwrap(), &mut none);
            prop_assert_eq!(read.as_ref(), Ok(&menu));
        }

        #[test]
        fn garbage_is_survived(text in any::<String>(), more in "[a-z{}$\"'\\\\\n ;=#]{0,200}") {
            for text in [&text, &more, &format!("{GRUB}{more}{GRUB}"), &format!("{ISOLINUX}{more}")] {
                for dialect in [Dialect::Grub, Dialect::Syslinux] {
                    let _ = Menu::read(dialect, text, &mut |name| (name.len() > 3).then(|| more.clone()));
                }
            }
        }
    }
}
