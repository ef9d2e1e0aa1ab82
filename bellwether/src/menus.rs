//! Boot menus that already exist: in a file, or on an ISO.

use crate::failure::Failure;
use cpio_builder::error::Error;
use cpio_builder::iso::{Iso, IsoError};
use cpio_builder::menu::ipxe;
use cpio_builder::menu::loader_entries::{self, BootEntry};
use cpio_builder::menu::{Dialect, ENTRIES_MAX, FILE_MAX, Menu};
use share::medium::{Medium, Source};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

/// Menus, each with the name of its file, and the medium that they are on.
#[derive(Debug)]
pub struct Found {
    pub menus: Vec<(String, Menu)>,
    pub medium: Option<Medium>,
}

impl From<Vec<(String, Menu)>> for Found {
    fn from(menus: Vec<(String, Menu)>) -> Self {
        Self { menus, medium: None }
    }
}

/// A path as a boot loader writes it, on the medium: `($root)/live/vmlinuz`
/// is `live/vmlinuz`.
pub fn on_medium(path: &str) -> &str {
    let path = match path.strip_prefix('(') {
        Some(rest) => rest.split_once(')').map_or(path, |(_, path)| path),
        None => path,
    };
    path.trim_start_matches('/')
}

/// Reads the menus of a file or an ISO.
///
/// # Errors
/// It cannot be read, or starts no kernel.
pub fn read(path: &Path) -> Result<Found, Failure> {
    let fail = |source| Failure::from(Error::Read { path: path.into(), source });
    let bad = |why: String| Failure::from(Error::Container { path: path.into(), why });
    // A pipe can be read only once, and waits for its writer.
    let kind = std::fs::metadata(path).map_err(fail)?.file_type();
    if kind.is_fifo() || kind.is_socket() || kind.is_char_device() {
        return Err(bad("neither a file nor a directory; put the menu into a file first".into()));
    }
    let file = File::open(path).map_err(fail)?;
    if file.metadata().map_err(fail)?.is_dir() {
        return in_directory(path).map(Found::from).or_else(|why| {
            let found = on_medium_at(path)?;
            if found.menus.is_empty() { Err(bad(why)) } else { Ok(found) }
        });
    }
    match Iso::open(file) {
        // As `share` reads it.
        Ok(_) => {
            let found = on_medium_at(path)?;
            match (&found.medium, found.menus.is_empty()) {
                (Some(medium), true) => Err(Failure::Failed(medium.nothing(""))),
                _ => Ok(found),
            }
        }
        Err(IsoError::NotIso(kind)) => {
            let neither = |why: String| match &kind {
                Some(kind) => {
                    let path = path.display();
                    Failure::Failed(format!("{path} is neither an ISO nor a boot menu but {kind}"))
                }
                None => bad(why),
            };
            let mut bytes = at_most(path, FILE_MAX as u64 + 1).map_err(fail)?;
            if loader_entries::is_efi_program(&bytes) {
                bytes = at_most(path, loader_entries::UKI_MAX).map_err(fail)?;
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let found = BootEntry::unified(&name, &bytes).map_err(bad)?;
                return Ok(
                    vec![(path.display().to_string(), loader_entries::menu(found, ""))].into()
                );
            }
            if bytes.len() > FILE_MAX {
                let is_text = !bytes.contains(&0);
                let why = "neither an ISO nor a boot menu: it is larger than 1 MiB";
                return Err(if is_text { bad(why.into()) } else { neither(why.into()) });
            }
            if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
                return Err(bad(
                    "text in UTF-16, which no boot loader reads: save it as UTF-8".into()
                ));
            }
            let text = String::from_utf8_lossy(&bytes);
            let marked = text.strip_prefix('\u{feff}');
            if marked.is_some_and(ipxe::is_script) {
                let why = "a script behind a byte order mark, with which iPXE does not take it for \
                           one: save it as UTF-8 without the mark";
                return Err(bad(why.into()));
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if ipxe::is_script(&text) {
                let mut lost = Vec::new();
                let menu = ipxe::read(&text, &mut |name| found(path, name, &mut lost));
                if menu.entries.is_empty() {
                    return Err(bad(no_entry("script", &lost)));
                }
                return Ok(vec![(path.display().to_string(), menu)].into());
            }
            let entry = marked.unwrap_or(&text);
            if loader_entries::is_entry(entry) {
                let mut menu = loader_entries::menu(vec![BootEntry::text(&name, entry)], "");
                menu.notes.extend(marked.map(|_| MARKED.to_owned()));
                return Ok(vec![(path.display().to_string(), menu)].into());
            }
            let guessed = Menu::guess(&text);
            // grub.conf is of both.
            let by_name = (name.starts_with("grub") || name == "loopback.cfg")
                && guessed != Some(Dialect::GrubLegacy);
            let dialect = if by_name { Some(Dialect::Grub) } else { guessed };
            let dialect = dialect.ok_or_else(|| {
                neither("neither an ISO nor a menu of SYSLINUX, GRUB, iPXE or systemd-boot".into())
            })?;
            let mut lost = Vec::new();
            let load = &mut |name: &str| found(path, name, &mut lost);
            let mut menu = Menu::read_as_written(dialect, &text, load);
            if menu.entries.is_empty() {
                return Err(bad(no_entry("menu", &lost)));
            }
            menu.notes.extend(marked.map(|_| MARKED.to_owned()));
            Ok(vec![(path.display().to_string(), menu)].into())
        }
        Err(e) => Err(bad(e.to_string())),
    }
}

/// The menus of an ISO, or of a directory with the files of one.
fn on_medium_at(path: &Path) -> Result<Found, Failure> {
    let medium = Medium::read(Source::open(path, false)?)?;
    Ok(Found { menus: medium.menus(), medium: Some(medium) })
}

/// Of a file that an editor of Windows saved.
const MARKED: &str = "the file begins with a byte order mark: its first line is unknown to the boot \
                      loader, which goes on with the next";

fn at_most(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The entries of systemd-boot: in `loader/entries` and `EFI/Linux` of a boot partition, in the
/// directory `loader`, or in a directory of entries itself.
fn in_directory(path: &Path) -> Result<Vec<(String, Menu)>, String> {
    let places = [
        ("loader/entries", "loader/loader.conf"),
        ("entries", "loader.conf"),
        ("", "../loader.conf"),
    ];
    let mut found = Vec::new();
    let mut conf = String::new();
    for (entries, beside) in places {
        let texts = named(&path.join(entries), ".conf", FILE_MAX as u64)?;
        let texts = texts.iter().map(|(name, text)| (name, String::from_utf8_lossy(text)));
        found.extend(
            texts
                .filter(|(_, text)| loader_entries::is_entry(text))
                .map(|(name, text)| BootEntry::text(name, &text)),
        );
        if !found.is_empty() {
            let text = at_most(&path.join(beside), FILE_MAX as u64).unwrap_or_default();
            conf = String::from_utf8_lossy(&text).into_owned();
            break;
        }
    }
    for (name, image) in named(&path.join("EFI/Linux"), ".efi", loader_entries::UKI_MAX)? {
        found.extend(BootEntry::unified(&name, &image).map_err(|why| format!("{name}: {why}"))?);
    }
    if found.is_empty() {
        return Err("a directory without entries of systemd-boot (loader/entries, EFI/Linux); of \
                    another boot loader give the menu's file, or an ISO"
            .into());
    }
    Ok(vec![(path.display().to_string(), loader_entries::menu(found, &conf))])
}

/// The regular files of a directory with that ending, sorted; none where there is no such
/// directory.
fn named(dir: &Path, ending: &str, most: u64) -> Result<Vec<(String, Vec<u8>)>, String> {
    let Ok(list) = std::fs::read_dir(dir) else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    for file in list.flatten().take(ENTRIES_MAX) {
        let name = file.file_name().to_string_lossy().into_owned();
        if name.ends_with(ending) && file.path().is_file() {
            let bytes = at_most(&file.path(), most).map_err(|e| format!("{name}: {e}"))?;
            files.push((name, bytes));
        }
    }
    files.sort();
    Ok(files)
}

/// Why there is nothing to explain, with the files that may have the entries.
fn no_entry(what: &str, lost: &[String]) -> String {
    let mut why = format!("the {what} has no entry that starts a Linux kernel");
    if !lost.is_empty() {
        why += &format!("; it goes on in {}, not found here", lost.join(", "));
    }
    why
}

/// As [`beside`]; `lost` gets the first names of files that are not there.
fn found(path: &Path, name: &str, lost: &mut Vec<String>) -> Option<String> {
    let text = beside(path, name);
    let name = if name.is_empty() { "a file that a variable names" } else { name };
    if text.is_none() && lost.len() < 8 && !lost.iter().any(|known| known == name) {
        lost.push(name.to_owned());
    }
    text
}

/// A file that a menu includes: beside it, or below a directory above it, as
/// the path in the menu counts from the medium's root.
fn beside(path: &Path, name: &str) -> Option<String> {
    let name = on_medium(name);
    if name.is_empty() || name.split('/').any(|part| part == "..") {
        return None;
    }
    let read = |file: PathBuf| {
        let mut text = Vec::new();
        let read = File::open(file).and_then(|f| f.take(FILE_MAX as u64).read_to_end(&mut text));
        read.ok().map(|_| String::from_utf8_lossy(&text).into_owned())
    };
    let absolute = std::path::absolute(path).ok()?;
    absolute.ancestors().skip(1).take(4).find_map(|dir| read(dir.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn paths_of_boot_loaders() {
        for (path, there) in
            [("/live/v", "live/v"), ("(loop)/casper/v", "casper/v"), ("v", "v"), ("()/x", "x")]
        {
            assert_eq!(on_medium(path), there);
        }
    }

    #[test]
    fn a_menu_in_several_files() {
        let dir = tempfile::tempdir().unwrap();
        let isolinux = dir.path().join("isolinux");
        fs::create_dir(&isolinux).unwrap();
        fs::write(
            isolinux.join("isolinux.cfg"),
            "include menu.cfg\ninclude /isolinux/live.cfg\ninclude ../x\n",
        )
        .unwrap();
        fs::write(isolinux.join("menu.cfg"), "menu title x\n").unwrap();
        fs::write(isolinux.join("live.cfg"), "label live\nlinux /live/v\nappend boot=live\n")
            .unwrap();
        let menus = read(&isolinux.join("isolinux.cfg")).unwrap().menus;
        assert_eq!(menus[0].1.entries[0].append, "boot=live");
        for (name, text, word) in [
            ("empty", "", "neither an ISO nor a boot menu but empty"),
            ("none.cfg", "label x\nlocalboot 0\n", "no entry that starts"),
            ("grub.cfg", "source /boot/x.cfg\n", "it goes on in /boot/x.cfg, not found"),
            ("grub-v.cfg", "source $x\n", "it goes on in a file that a variable names, not found"),
            ("a.ipxe", "#!ipxe\nchain x.ipxe\n", "it goes on in x.ipxe, not found"),
            ("b.ipxe", "\u{feff}#!ipxe\nkernel k boot=live\nboot\n", "byte order mark"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
            match read(&dir.path().join(name)) {
                Err(Failure::Failed(told)) => assert!(told.contains(word), "{told}"),
                other => panic!("{other:?}"),
            }
        }
        // The directory is taken for a medium.
        assert_eq!(read(dir.path()).unwrap().menus[0].1.entries[0].append, "boot=live");
        assert!(read(&dir.path().join("isolinux/gone")).is_err());
        fs::create_dir(dir.path().join("bare")).unwrap();
        match read(&dir.path().join("bare")) {
            Err(Failure::Failed(told)) => assert!(told.contains("without entries of systemd-boot")),
            other => panic!("{other:?}"),
        }
        let wide: Vec<u8> = "\u{feff}label x\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        fs::write(dir.path().join("wide.cfg"), wide).unwrap();
        let Err(Failure::Failed(told)) = read(&dir.path().join("wide.cfg")) else { panic!() };
        assert!(told.contains("UTF-16"), "{told}");
        let marked =
            "\u{feff}default b\nlabel a\nlinux k\nappend root=/dev/sda1\nlabel b\nlinux k\n";
        fs::write(dir.path().join("marked.cfg"), marked).unwrap();
        let (_, menu) = &read(&dir.path().join("marked.cfg")).unwrap().menus[0];
        // DEFAULT is lost with the first line.
        assert!(menu.other_default && menu.notes.contains(&MARKED.to_owned()), "{:?}", menu.notes);
        // A pipe was waited for without a word.
        assert!(read(Path::new("/dev/zero")).is_err());
    }

    /// Menus in places that only `share` knew were not found, installers' entries were said to fail at
    /// boot, and other files were called "neither an ISO nor a boot menu".
    #[test]
    fn media_are_what_share_takes_them_for() {
        let dir = tempfile::tempdir().unwrap();
        let made = |files: &[(&str, &str)]| {
            let tree = dir.path().join("tree");
            fs::remove_dir_all(&tree).ok();
            for (path, text) in files {
                let path = tree.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            let iso = dir.path().join("a.iso");
            let mut xorriso = std::process::Command::new("xorriso");
            xorriso.args(["-as", "mkisofs", "-quiet", "-r", "-o"]).arg(&iso).arg(&tree);
            xorriso.output().is_ok_and(|made| made.status.success()).then_some(iso)
        };
        let menu = "label a\nkernel vmlinuz\nappend initrd=i inst.stage2=hd:LABEL=R\n";
        let files =
            [("syslinux/isolinux.cfg", menu), ("syslinux/vmlinuz", "k"), ("syslinux/i", "i")];
        let Some(iso) = made(&files) else { return };
        let found = read(&iso).unwrap();
        let (name, menu) = &found.menus[0];
        assert_eq!(name, "syslinux/isolinux.cfg");
        let layout = found.medium.unwrap().layout(name, &menu.entries[0]);
        assert_eq!((layout.name, layout.has_own_init()), ("Anaconda installer", true));
        made(&[("sources/boot.wim", "MSWIM"), ("bootmgr", "x")]).unwrap();
        let zip = dir.path().join("b.iso");
        fs::write(&zip, b"PK\x03\x04 in it is an ISO").unwrap();
        for (path, told) in [(&iso, "a is a Windows medium"), (&zip, "but a ZIP archive: unpack")] {
            match read(path) {
                Err(Failure::Failed(why)) => assert!(why.contains(told), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }

    /// `explain --from` read no entry of systemd-boot.
    #[test]
    fn a_boot_partition_of_systemd_boot() {
        let dir = tempfile::tempdir().unwrap();
        let entries = dir.path().join("loader/entries");
        fs::create_dir_all(&entries).unwrap();
        fs::write(dir.path().join("loader/loader.conf"), "default b*\ntimeout 3\n").unwrap();
        fs::write(entries.join("a.conf"), "title A\nlinux /k\noptions root=/dev/vda1\n").unwrap();
        fs::write(entries.join("b.conf"), "title B\nlinux /k\noptions boot=live\n").unwrap();
        fs::write(entries.join("README"), "no entry\n").unwrap();
        for place in [dir.path(), &dir.path().join("loader"), &entries] {
            let (_, menu) = &read(place).unwrap().menus[0];
            assert_eq!(menu.entries[menu.default].append, "boot=live", "{place:?}");
            assert_eq!((menu.entries.len(), menu.timeout), (2, Some(3)));
        }
        let one = read(&entries.join("a.conf")).unwrap();
        assert_eq!(one.menus[0].1.entries[0].title, "A");
    }
}
