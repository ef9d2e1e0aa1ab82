//! The content of a medium: its layout, the entries of its own boot menus, and the command
//! lines with which its kernel finds it over the network.

use crate::beneath;
use crate::error::Error;
use crate::iso;
use crate::tree::{ReadAt, Tree};
use cpio_builder::menu::{Dialect, Entry, FILE_MAX, Menu};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The layout of a live system on its medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Debian's live-boot: `live/`.
    LiveBoot,
    /// Ubuntu's casper: `casper/`.
    Casper,
    /// dracut's dmsquash-live: `LiveOS/`.
    Dracut,
    /// Arch Linux: `arch/`.
    Archiso,
    /// Any other; its own command line has to name the root.
    Other,
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::LiveBoot => "Debian live layout",
            Self::Casper => "casper layout",
            Self::Dracut => "LiveOS layout",
            Self::Archiso => "archiso layout",
            Self::Other => "layout of its own",
        })
    }
}

/// Directory, layout.
const LAYOUTS: [(&str, Layout); 4] = [
    ("/casper", Layout::Casper),
    ("/live", Layout::LiveBoot),
    ("/LiveOS", Layout::Dracut),
    ("/arch", Layout::Archiso),
];

/// Where media have their menus. GRUB's file for loop-mounted images comes first: it is made
/// for other loaders to read.
const MENUS: [(Dialect, &str); 13] = [
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
    (Dialect::Grub, "/EFI/boot/grub.cfg"),
    (Dialect::Grub, "/grub/grub.cfg"),
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
    /// The live system's layout.
    pub layout: Layout,
    /// Its own menu, with paths of this medium; may be empty.
    pub menu: Menu,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

impl std::fmt::Debug for Medium {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Medium")
            .field("name", &self.name)
            .field("layout", &self.layout)
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
            layout: Layout::Other,
            menu: Menu::default(),
            warnings,
        };
        let is_there = |dir: &str| medium.tree.walk(dir).is_some();
        let layout = LAYOUTS.iter().find(|(dir, _)| is_there(dir));
        medium.layout = layout.map_or(Layout::Other, |(_, layout)| *layout);
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
        Ok(medium)
    }

    /// A small text file of the medium.
    fn text(&self, path: &str) -> Option<String> {
        let at = self.tree.walk_ignoring_case(path)?;
        let bytes = self.tree.read_all(at, FILE_MAX as u64).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The first menu of the medium that starts a kernel present on it.
    fn read_menu(&self) -> Menu {
        for (dialect, path) in MENUS {
            let Some(text) = self.text(path) else { continue };
            let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
            let mut load = |name: &str| {
                self.text(&resolve(dir, name)).or_else(|| self.text(&resolve("", name)))
            };
            let Ok(mut menu) = Menu::read(dialect, &text, &mut load) else { continue };
            let default = menu.entries.get(menu.default).map(|entry| entry.id.clone());
            menu.entries.retain_mut(|entry| self.settle(entry, dir));
            let same = |entry: &Entry| Some(&entry.id) == default.as_ref();
            menu.default = menu.entries.iter().position(same).unwrap_or(0);
            if !menu.entries.is_empty() {
                return menu;
            }
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
        let Some(initrd) = initrd.filter(|initrd| !initrd.is_empty()) else { return false };
        entry.kernel = kernel;
        entry.initrd = initrd;
        true
    }

    /// Images of the live system's root, the most likely first.
    pub fn squashfs(&self) -> Vec<String> {
        let dirs = ["/live", "/casper", "/LiveOS", "/arch/x86_64"];
        let mut found = Vec::new();
        for at in dirs.iter().filter_map(|dir| self.tree.walk(dir)) {
            for child in self.tree.children(at) {
                let path = self.tree.path(*child);
                let ends = [".squashfs", ".sfs", "/squashfs.img"];
                if ends.iter().any(|end| path.ends_with(end)) {
                    found.push((self.tree.node(*child).map_or(0, |node| node.size), path));
                }
            }
        }
        found.sort_by(|a, b| b.cmp(a));
        found.into_iter().map(|(_, path)| path).collect()
    }
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

/// Where a medium is on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Our address.
    pub server: Ipv4Addr,
    /// The TCP port of NFS and of its mount service; `None` when a portmapper knows it.
    pub port: Option<u16>,
    /// The exported path.
    pub path: String,
}

/// Words that say where the medium is, or that belong to a loader: they would contradict ours.
const DROPPED: [&str; 28] = [
    "copytoram",
    "BOOT_IMAGE",
    "BOOTIF",
    "initrd",
    "boot",
    "netboot",
    "nfsroot",
    "nfsopts",
    "ip",
    "findiso",
    "fromiso",
    "iso-scan/filename",
    "fetch",
    "url",
    "live-media",
    "live-media-path",
    "cdrom-detect/try-usb",
    "file",
    "archisodevice",
    "archisolabel",
    "archisosearchuuid",
    "archisosearchfilename",
    "archiso_http_srv",
    "archiso_nfs_srv",
    "archiso_nfs_opt",
    "img_dev",
    "img_loop",
    "toram",
];

/// The command line with which a medium's kernel finds it over the network.
pub fn line(layout: Layout, own: &str, place: &Place, more: &str) -> String {
    let Place { server, port, path } = place;
    let port = port.map_or_else(String::new, |port| format!(",port={port},mountport={port}"));
    let options = format!("vers=3,tcp,nolock{port}");
    let at = format!("{server}:{path}");
    let mut words = match layout {
        Layout::LiveBoot | Layout::Casper => {
            let boot = if layout == Layout::Casper { "casper" } else { "live" };
            vec![
                format!("boot={boot}"),
                "netboot=nfs".into(),
                format!("nfsroot={at}"),
                format!("nfsopts={options}"),
                "ip=dhcp".into(),
            ]
        }
        Layout::Archiso => vec![
            format!("archiso_nfs_srv={at}"),
            format!("archiso_nfs_opt={options}"),
            // Without this word it copies to memory if there is room.
            "copytoram=n".into(),
            "ip=dhcp".into(),
        ],
        Layout::Dracut | Layout::Other => {
            vec![format!("bw.root=nfs:{at},{options}"), "ip=dhcp".into()]
        }
    };
    words.extend(more.split_whitespace().map(str::to_owned));
    let kept = own.split_whitespace().filter(|word| {
        let name = word.split_once('=').map_or(*word, |(name, _)| name);
        // The value of a loader's variable is not known here.
        !DROPPED.contains(&name) && !word.contains('$')
    });
    words.extend(kept.map(str::to_owned));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Result<Medium, Error> {
        Medium::read(Source::open(path, false)?)
    }

    fn place() -> Place {
        Place { server: Ipv4Addr::new(10, 0, 0, 1), port: Some(2049), path: "/debian".into() }
    }

    #[test]
    fn lines_work_in_their_dialects() {
        for (layout, own, dialect) in [
            (
                Layout::LiveBoot,
                "boot=live components quiet splash findiso=${iso_path}",
                "live-boot",
            ),
            (Layout::Casper, "maybe-ubiquity iso-scan/filename=${iso_path} --- quiet", "casper"),
            (Layout::Archiso, "archisobasedir=arch archisolabel=ARCH_2024", "archiso"),
            (
                Layout::Dracut,
                "root=live:CDLABEL=Fedora-WS-Live-40 rd.live.image quiet rhgb",
                "dracut",
            ),
            (Layout::Other, "bw.image=root.squashfs", "bw"),
        ] {
            let line = line(layout, own, &place(), "console=ttyS0");
            let plan = cmdline::parse(&line, &cmdline::Context::default());
            assert!(plan.can_work(), "{line}: {}", plan.warnings_text());
            assert_eq!(plan.dialect.name(), dialect, "{line}");
            // Directly, or a file on it.
            assert!(format!("{:?}", plan.root.sources).contains("Nfs("), "{line}");
            assert!(!line.contains('$'), "{line}");
        }
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
        put("live/filesystem.squashfs", "s");
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
        assert_eq!((medium.layout, medium.title.as_str()), (Layout::LiveBoot, "Debian 12 live"));
        let [entry] = medium.menu.entries.as_slice() else { panic!("{:?}", medium.menu) };
        assert_eq!(entry.kernel, "/live/vmlinuz");
        assert_eq!(medium.squashfs(), ["/live/filesystem.squashfs"]);
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

    #[test]
    fn names() {
        assert_eq!(word("Debian live 12 (amd64)"), "Debian-live-12--amd64");
        assert_eq!(word("../"), "medium");
    }
}
