//! A boot menu as data, whatever its file is.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Most bytes of one configuration file.
pub const FILE_MAX: usize = 1 << 20;
/// Longest line with its variables filled in.
pub(super) const LINE_MAX: usize = 64 << 10;
/// Most entries of a menu.
pub const ENTRIES_MAX: usize = 1024;
/// Most files of one menu.
pub(super) const FILES_MAX: usize = 64;

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
    /// [`super::disk_menus`].
    pub per_machine: bool,
    /// The file's own default is an entry that starts no Linux kernel.
    pub other_default: bool,
    /// What a reader of the entries should know of the file.
    pub notes: Vec<String>,
    /// The boot loader whose file it was read from, if that puts words on a line.
    pub loader: Option<Dialect>,
    /// Entries were left out, as there are too many.
    pub cut: bool,
}

impl Menu {
    /// The words that the boot loader puts in front of an entry's line.
    #[must_use]
    pub fn words_in_front(&self, entry: &Entry) -> String {
        let initrd = entry.initrd.join(",");
        match self.loader {
            None | Some(Dialect::GrubLegacy) => String::new(),
            Some(Dialect::Syslinux) if !initrd.is_empty() => {
                format!("BOOT_IMAGE={} initrd={initrd} ", entry.kernel)
            }
            Some(_) => format!("BOOT_IMAGE={} ", entry.kernel),
        }
    }
}

/// Which boot loader a configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// isolinux, pxelinux, extlinux.
    Syslinux,
    /// GRUB 2.
    Grub,
    /// GRUB 0.97 and GRUB4DOS, which put no words on a line.
    GrubLegacy,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Syslinux, Self::Grub, Self::GrubLegacy];
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

    pub(super) fn is_disk(&self) -> bool {
        self.kernel.is_empty() && self.initrd.is_empty() && self.append.is_empty()
    }
}

/// Why a menu cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MenuError {
    /// It has no Linux entry.
    Empty,
    /// More entries than any menu has.
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
                write!(f, "it has more than {ENTRIES_MAX} entries")
            }
            Self::Text { text, what } => {
                write!(f, "{what} '{}' does not fit a menu", text.escape_debug())
            }
        }
    }
}

impl std::error::Error for MenuError {}

/// The files that a menu is read from.
#[derive(Default)]
pub(super) struct Files {
    /// Texts of those that are being read, each inside the one before.
    open: Vec<String>,
    count: usize,
    /// Menus that others lead to, by what they are read with.
    menus: HashSet<u64>,
}

impl Files {
    /// Whether to read this one: it is not inside itself, and the menu has not too many.
    pub(super) fn begin(&mut self, text: &str, menu: &mut Menu) -> bool {
        if self.open.iter().any(|open| open == text) {
            return false;
        }
        self.count += 1;
        if self.count > FILES_MAX {
            menu.note(format!("it leads to more than {FILES_MAX} files; no more were read"));
            return false;
        }
        self.open.push(text.to_owned());
        true
    }

    /// The last one that was begun is read.
    pub(super) fn end(&mut self) {
        self.open.pop();
    }

    /// Whether another menu was read already, with these variables: menus lead to each other.
    pub(super) fn knows(&mut self, text: &str, variables: &BTreeMap<String, String>) -> bool {
        let mut hasher = DefaultHasher::new();
        (text, variables).hash(&mut hasher);
        !self.menus.insert(hasher.finish())
    }
}

/// Most notes of a menu.
const NOTES_MAX: usize = 32;

/// Loads an included file, if it exists.
pub type Load<'l> = &'l mut dyn FnMut(&str) -> Option<String>;

impl Menu {
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
    pub(super) fn waits(&self) -> bool {
        self.entries.len() > 1 || self.timeout.is_none()
    }

    pub(super) fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The default is this entry, which is not among ours.
    pub(super) fn starts_otherwise(&mut self, name: &str) {
        self.other_default = true;
        let why = if self.cut { "was not read" } else { "starts no Linux kernel" };
        self.note(format!("the menu's default is '{name}', which {why}"));
    }

    /// Adds an entry, if there is room for one more.
    pub(super) fn add(&mut self, entry: Entry) -> bool {
        let fits = self.entries.len() < ENTRIES_MAX;
        if fits {
            self.entries.push(entry);
        } else {
            self.cut(&format!("it has more than {ENTRIES_MAX} entries"));
        }
        fits
    }

    /// The rest of the menu is not read.
    pub(super) fn cut(&mut self, why: &str) {
        self.cut = true;
        // The first of the notes, which are bounded.
        let note = format!("{why}; those that follow are left out");
        if !self.notes.contains(&note) {
            self.notes.insert(0, note);
        }
    }
}

/// Whether this is one of the programs that are loaded as a kernel is, and are none: memory
/// testers, `memdisk`, iPXE, GRUB4DOS, Plop's boot manager, loaders of Windows; also where a variable
/// of that name has the path.
pub(crate) fn is_no_kernel(path: &str) -> bool {
    const NAMES: [&str; 12] = [
        "memtest", "mt86", "memdisk", "wimboot", "ipxe", "gpxe", "grub.exe", "grldr", "ntloader",
        "vboot", "plpbt", "plpinst",
    ];
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    NAMES.iter().any(|start| match name.strip_prefix("${") {
        // `${image_memtest}`
        Some(variable) => variable.contains(start),
        None => name.starts_with(start),
    })
        // A kernel's name may end in the name of the machine that built it.
        || (!name.starts_with("vmlinuz")
            && [".lkrn", ".c32", ".com"].iter().any(|end| name.ends_with(end)))
}
