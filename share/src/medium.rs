//! The content of a medium, and the entries of its own boot menus.

use crate::beneath;
use crate::error::Error;
use crate::foreign;
use crate::iso;
use crate::layout::Layout;
use crate::tree::{ReadAt, Tree};
use cpio_builder::menu::loader_entries::{self, BootEntry};
use cpio_builder::menu::{Dialect, ENTRIES_MAX, Entry, FILE_MAX, Menu};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where media have their menus; `*` stands for any part of a name. GRUB's file for loop-mounted images comes first: it is made
/// for other loaders to read.
const MENUS: &[(Dialect, &str)] = &[
    (Dialect::Syslinux, "/isolinux/isolinux.cfg"),
    (Dialect::Syslinux, "/boot/isolinux/isolinux.cfg"),
    (Dialect::Syslinux, "/boot/x86_64/loader/isolinux.cfg"),
    (Dialect::Syslinux, "/boot/syslinux/isolinux.cfg"),
    (Dialect::Syslinux, "/syslinux/syslinux.cfg"),
    (Dialect::Syslinux, "/boot/syslinux/syslinux.cfg"),
    (Dialect::Syslinux, "/isolinux.cfg"),
    (Dialect::Grub, "/boot/grub/loopback.cfg"),
    (Dialect::Grub, "/boot/grub/grub.cfg"),
    (Dialect::Grub, "/boot/grub2/grub.cfg"),
    (Dialect::Grub, "/EFI/BOOT/grub.cfg"),
    (Dialect::Grub, "/grub/grub.cfg"),
    // Slax and others have the system and its loader in a directory of their own.
    (Dialect::Syslinux, "/*/boot/syslinux.cfg"),
    (Dialect::Syslinux, "/*/boot/isolinux.cfg"),
    (Dialect::Syslinux, "/boot/syslinux/*.cfg"),
    (Dialect::Syslinux, "/boot/*linux/*linux.conf"),
    (Dialect::Syslinux, "/*linux/*linux.conf"),
    (Dialect::Syslinux, "/syslinux.cfg"),
    (Dialect::Syslinux, "/*/*/syslinux.cfg"),
    (Dialect::Syslinux, "/*/*/isolinux.cfg"),
    (Dialect::Syslinux, "/syslinux/isolinux.cfg"),
    (Dialect::Syslinux, "/*/boot/*linux/*.cfg"),
    (Dialect::Grub, "/*/boot/grub/grub.cfg"),
    (Dialect::Grub, "/*/*/grub.cfg"),
    (Dialect::Grub, "/grub.cfg"),
    (Dialect::GrubLegacy, "/boot/grub/menu.lst"),
    (Dialect::GrubLegacy, "/boot/grub/grub.conf"),
    (Dialect::GrubLegacy, "/menu.lst"),
];

/// Kernel and initramfs where there is no menu.
const USUAL: [(&str, &str); 7] = [
    ("/live/vmlinuz", "/live/initrd.img"),
    ("/live/vmlinuz", "/live/initrd"),
    ("/casper/vmlinuz", "/casper/initrd"),
    ("/casper/vmlinuz", "/casper/initrd.lz"),
    ("/casper/vmlinuz", "/casper/initrd.gz"),
    ("/images/pxeboot/vmlinuz", "/images/pxeboot/initrd.img"),
    ("/arch/boot/x86_64/vmlinuz-linux", "/arch/boot/x86_64/initramfs-linux.img"),
];

/// A medium.
pub struct Medium {
    /// A word for paths, made from the file's name.
    pub name: String,
    /// The title: from `.disk/info` or the label.
    pub title: String,
    /// Its files.
    pub tree: Arc<Tree>,
    /// The image, if it is one, and its length.
    pub image: Option<(Arc<dyn ReadAt>, u64)>,
    /// Its own menu, with paths of this medium; may be empty.
    pub menu: Menu,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

impl std::fmt::Debug for Medium {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Medium")
            .field("name", &self.name)
            .field("menu", &self.menu)
            .finish_non_exhaustive()
    }
}

/// A medium that is open. Nothing of its content was looked at.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    opened: Opened,
}

enum Opened {
    Image(Arc<dyn ReadAt>),
    /// The names and properties of its files, which need the owner's rights.
    Directory(Tree),
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Image(_) => "Image",
            Self::Directory(_) => "Directory",
        })
    }
}

impl Source {
    /// Opens an image, a drive or a directory; `as_root` when the process gives up root before it
    /// reads.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be opened; [`Error::Medium`] for any other kind of file,
    /// and for a directory that cannot be shared safely.
    pub fn open(path: &Path, as_root: bool) -> Result<Self, Error> {
        let opened = match (path.metadata().map_err(Error::read(path))?.is_dir(), as_root) {
            (true, true) => Opened::Directory(Tree::of_directory_as_root(path)?),
            (true, false) => Opened::Directory(Tree::of_directory(path)?),
            (false, _) => Opened::Image(Arc::new(beneath::image(path)?)),
        };
        Ok(Self { path: path.to_owned(), opened })
    }
}

impl Medium {
    /// Reads an ISO image, a drive with one, or a directory.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read, [`Error::Image`] for a damaged image.
    pub fn read(Source { path, opened }: Source) -> Result<Self, Error> {
        let path = path.as_path();
        let mut warnings = Vec::new();
        let (tree, image, label) = match opened {
            Opened::Directory(tree) => (tree, None, String::new()),
            Opened::Image(file) => {
                let length = file.length().map_err(Error::read(path))?;
                let iso = iso::open(file.clone())
                    .map_err(|e| Error::Image { why: format!("{}: {e}", path.display()) })?;
                if iso.missing > 0 {
                    warnings.push(format!(
                        "{} lacks {} bytes at its end: the download was not finished, clients may \
                         fail",
                        path.display(),
                        iso.missing
                    ));
                }
                (iso.tree, Some((file, length)), iso.label)
            }
        };
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let mut medium = Self {
            name: word(&stem),
            title: String::new(),
            tree: Arc::new(tree),
            image,
            menu: Menu::default(),
            warnings,
        };
        medium.title = medium
            .text("/.disk/info")
            .and_then(|text| text.lines().next().map(str::trim).map(str::to_owned))
            .filter(|line| !line.is_empty())
            .or(Some(label).filter(|label| !label.is_empty()))
            .unwrap_or_else(|| stem.into_owned())
            .chars()
            .filter(|c| !c.is_control())
            .take(100)
            .collect();
        medium.menu = medium.read_menu();
        if medium.menu.cut {
            medium.warnings.push(format!(
                "{}: its menu has more than {ENTRIES_MAX} entries; those that follow are left out",
                medium.name
            ));
        }
        medium.refuse_packed()?;
        Ok(medium)
    }

    /// A small text file of the medium.
    fn text(&self, path: &str) -> Option<String> {
        let at = self.tree.walk_ignoring_case(path)?;
        let bytes = self.tree.read_all(at, FILE_MAX as u64).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A file that a menu in this directory names, empty when it is none for menus.
    fn named(&self, dir: &str, name: &str) -> Option<String> {
        let places = [resolve(dir, name), resolve("", name)];
        places.iter().find_map(|path| {
            self.tree.walk_ignoring_case(path).map(|_| self.text(path).unwrap_or_default())
        })
    }

    /// Where its menus are, in the order in which they count.
    fn places(&self) -> impl Iterator<Item = (Dialect, String)> + '_ {
        MENUS.iter().flat_map(|(dialect, pattern)| {
            self.tree.matching(pattern).into_iter().map(move |path| (*dialect, path))
        })
    }

    /// The menus as they are written: of each boot loader the first that starts a kernel, with the
    /// path of its file.
    pub fn menus(&self) -> Vec<(String, Menu)> {
        let mut places: Vec<(Dialect, String)> = self.places().collect();
        // What other loaders are to read is not what people see.
        places.sort_by_key(|(_, path)| path.ends_with("/loopback.cfg"));
        let first = |dialect: Dialect| {
            places.iter().filter(|(of, _)| *of == dialect).find_map(|(_, path)| {
                let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
                let mut load = |name: &str| self.named(dir, name);
                let menu = Menu::read_as_written(dialect, &self.text(path)?, &mut load);
                (!menu.entries.is_empty()).then(|| (path.trim_start_matches('/').to_owned(), menu))
            })
        };
        let mut menus: Vec<(String, Menu)> = Dialect::ALL.into_iter().filter_map(first).collect();
        let entries = self.loader_entries();
        if !entries.entries.is_empty() {
            menus.push(("loader/entries".into(), entries));
        }
        menus
    }

    /// What an entry of a menu on it is, by the menu's path.
    pub fn layout(&self, menu: &str, entry: &Entry) -> Layout {
        let mut entry = entry.clone();
        let menu = format!("/{menu}");
        self.settle(&mut entry, menu.rsplit_once('/').map_or("", |(dir, _)| dir));
        Layout::of(&self.tree, &entry, "")
    }

    /// Why there is nothing to boot, with a remedy for a medium that is not known.
    pub fn nothing(&self, remedy: &str) -> String {
        let image = self.image.as_ref().map(|(image, _)| &**image);
        match foreign::of(&self.tree, &self.title, image) {
            Some(what) => {
                format!("{} is {what}: it has no Linux kernel that could be started", self.name)
            }
            None => format!(
                "{} has no boot menu that starts a Linux kernel and no kernel in a usual \
                 place{remedy}",
                self.name
            ),
        }
    }

    /// The first menu of the medium that starts a kernel present on it.
    fn read_menu(&self) -> Menu {
        for (dialect, path) in self.places() {
            let Some(text) = self.text(&path) else { continue };
            let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
            let mut load = |name: &str| self.named(dir, name);
            let mut menu = Menu::read(dialect, &text, &mut load);
            keep(&mut menu, |entry| self.settle(entry, dir).then_some(()));
            if !menu.entries.is_empty() {
                return menu;
            }
        }
        let mut menu = self.loader_entries();
        keep(&mut menu, |entry| self.settle(entry, "").then_some(()));
        if !menu.entries.is_empty() {
            return menu;
        }
        let usual = USUAL.iter().find(|(kernel, initrd)| {
            self.tree.file(kernel).is_some() && self.tree.file(initrd).is_some()
        });
        let entries = usual.map(|(kernel, initrd)| Entry {
            id: "live".into(),
            title: self.title.clone(),
            kernel: (*kernel).into(),
            initrd: vec![(*initrd).into()],
            append: String::new(),
        });
        Menu { entries: entries.into_iter().collect(), ..Menu::default() }
    }

    /// Refuses files that were copied from an ISO as they are stored, compressed: they would be
    /// served so.
    fn refuse_packed(&self) -> Result<(), Error> {
        let packed = self.tree.packed();
        let Some(path) = packed.first() else { return Ok(()) };
        let why = format!(
            "{}: {path} is compressed with zisofs ({} such files), which only its ISO tells: share the \
             ISO, or a copy of its files made from it mounted",
            self.name,
            packed.len()
        );
        Err(Error::Medium { why })
    }

    /// The entries of systemd-boot.
    fn loader_entries(&self) -> Menu {
        let paths = self.tree.matching("/loader/entries/*.conf").into_iter().take(ENTRIES_MAX);
        let entries = paths.filter_map(|path| {
            let name = path.rsplit('/').next().unwrap_or_default();
            Some(BootEntry::text(name, &self.text(&path)?))
        });
        let conf = self.text("/loader/loader.conf").unwrap_or_default();
        loader_entries::menu(entries.collect(), &conf)
    }

    /// Whether a file has the mark of a kernel for x86 or AArch64 (Documentation/arch/x86/boot.rst,
    /// arm64/booting.rst).
    fn is_linux(&self, path: &str) -> bool {
        let mut head = [0; 0x206];
        let at = self.tree.file(path).map(|(at, _)| at);
        at.is_some_and(|at| self.tree.read_at(at, 0, &mut head).is_ok())
            && (head.ends_with(b"HdrS") || head.get(0x38..0x3c) == Some(b"ARM\x64"))
    }

    /// Resolves an entry's paths on this medium; false when its files are missing.
    fn settle(&self, entry: &mut Entry, dir: &str) -> bool {
        let find = |name: &str| {
            let places = [resolve(dir, name), resolve("", name)];
            let at = places.iter().find_map(|path| self.tree.walk_ignoring_case(path))?;
            let path = self.tree.path(at);
            self.tree.file(&path).map(|_| path)
        };
        let Some(kernel) = find(&entry.kernel) else { return false };
        let initrd: Option<Vec<String>> = entry.initrd.iter().map(|name| find(name)).collect();
        let Some(initrd) = initrd else { return false };
        // Systems that a kernel has in itself; memory testers and others have no such mark.
        if initrd.is_empty() && !self.is_linux(&kernel) {
            return false;
        }
        entry.kernel = kernel;
        entry.initrd = initrd;
        if entry.title.is_empty() {
            entry.title.clone_from(&entry.id);
        }
        true
    }
}

/// Leaves out the entries that `change` refuses. Without its default, the menu has none.
pub fn keep<T>(menu: &mut Menu, mut change: impl FnMut(&mut Entry) -> Option<T>) -> Vec<T> {
    let (mut kept, mut entries, mut default) = (Vec::new(), Vec::new(), None);
    for (n, mut entry) in std::mem::take(&mut menu.entries).into_iter().enumerate() {
        let Some(more) = change(&mut entry) else { continue };
        if n == menu.default && !menu.other_default {
            default = Some(entries.len());
        }
        entries.push(entry);
        kept.push(more);
    }
    menu.entries = entries;
    menu.other_default |= default.is_none();
    menu.default = default.unwrap_or(0);
    kept
}

/// Converts a path in a menu to one of the medium: `(loop)/live/vmlinuz`, `vmlinuz`.
fn resolve(dir: &str, name: &str) -> String {
    let name = match name.strip_prefix('(') {
        Some(rest) => rest.split_once(')').map_or(name, |(_, path)| path),
        None => name,
    };
    // GRUB's `$prefix/x` and `${root}/x`.
    let name = match name.strip_prefix('$') {
        Some(rest) => rest.split_once('/').map_or(name, |(_, path)| path),
        None => name,
    };
    if name.starts_with('/') { name.to_owned() } else { format!("{dir}/{name}") }
}

/// Makes a path component from a label.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let word: String = text.chars().map(|c| if plain(c) { c } else { '-' }).take(60).collect();
    let word = word.trim_matches(['-', '.']);
    if word.is_empty() { "medium".into() } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Result<Medium, Error> {
        Medium::read(Source::open(path, false)?)
    }

    #[test]
    fn menus_of_debian_live() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("live/vmlinuz", "k");
        put("live/initrd.img", "i");
        put("live/filesystem.squashfs", "hsqs");
        put(".disk/info", "Debian 12 live\n");
        put("isolinux/isolinux.cfg", "include menu.cfg\ndefault vesamenu.c32\ntimeout 0\n");
        put("isolinux/menu.cfg", "menu title Boot menu\ninclude live.cfg\n");
        put(
            "isolinux/live.cfg",
            "label live-amd64\n menu label ^Live\n menu default\n linux /live/vmlinuz\n \
             initrd /live/initrd.img\n append boot=live components quiet\n\
             label gone\n linux /live/nothing\n initrd /live/initrd.img\n",
        );
        let medium = read(dir.path()).unwrap();
        assert_eq!(medium.title, "Debian 12 live");
        let [entry] = medium.menu.entries.as_slice() else { panic!("{:?}", medium.menu) };
        assert_eq!(entry.kernel, "/live/vmlinuz");
        assert_eq!(medium.tree.images(), ["/live/filesystem.squashfs"]);
        std::fs::remove_dir_all(dir.path().join("isolinux")).unwrap();
        put(
            "boot/grub/grub.cfg",
            "menuentry \"Live\" { linux ($root)/live/vmlinuz boot=live findiso=${iso_path}\n \
             initrd ($root)/live/initrd.img\n}\n",
        );
        let medium = read(dir.path()).unwrap();
        assert_eq!(medium.menu.entries.len(), 1, "{:?}", medium.menu);
        std::fs::remove_dir_all(dir.path().join("boot")).unwrap();
        assert_eq!(read(dir.path()).unwrap().menu.entries.len(), 1);
    }

    /// Files that were taken from an ISO by a program that does not know zisofs.
    #[test]
    fn zisofs_without_its_iso_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("live")).unwrap();
        std::fs::write(dir.path().join("live/initrd"), "i").unwrap();
        std::fs::write(dir.path().join("live/vmlinuz"), "kernel, not packed").unwrap();
        assert_eq!(read(dir.path()).unwrap().menu.entries.len(), 1);
        for head in [&b"\x37\xe4\x53\x96\xc9\xdb\xd6\x07"[..], b"\xef\x22\x55\xa1\xbc\x1b\x95\xa0"]
        {
            std::fs::write(dir.path().join("live/filesystem.squashfs"), head).unwrap();
            let why = read(dir.path()).unwrap_err().to_string();
            assert!(why.contains("/live/filesystem.squashfs is compressed with zisofs"), "{why}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(word("Debian live 12 (amd64)"), "Debian-live-12--amd64");
        assert_eq!(word("../"), "medium");
    }
}
