//! From media to a boot menu, the files it loads, and the exports that clients mount.

use crate::archive::{self, Cursor, MAX_INITRD};
use crate::beneath;
use crate::disk::store::Image;
use crate::error::Error;
use crate::event::{Event, Stage, Watch};
use crate::files::{File, Files};
use crate::medium::{self, Medium, Place, Source};
use crate::nfs::Export;
use crate::options::Options;
use cpio_builder::menu::{Entry, Menu};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::PathBuf;
use std::sync::Arc;

/// The menu, exports and disks of all media.
#[derive(Debug)]
pub struct Media {
    /// The boot menu.
    pub menu: Menu,
    /// The NFS exports.
    pub exports: Vec<Export>,
    /// The disks.
    pub images: Vec<Image>,
}

/// What the options name, open. Nothing of its content was looked at.
#[derive(Debug)]
pub struct Sources {
    media: Vec<Source>,
    /// Why others could not be opened.
    failed: Vec<Error>,
    /// The kernel and the initramfs to boot instead of the medium's.
    given: Option<[Arc<[u8]>; 2]>,
}

impl Sources {
    /// Opens the media, and reads `--kernel` and `--initrd` into memory; `as_root` when the
    /// process gives up root before it reads the media.
    ///
    /// # Errors
    /// [`Error::File`] when none can be opened, [`Error::Medium`] when it is another kind of
    /// file; [`Error::File`] for the kernel and the initramfs.
    pub fn open(options: &Options, as_root: bool) -> Result<Self, Error> {
        let (mut media, mut failed) = (Vec::new(), Vec::new());
        for path in &options.media {
            match Source::open(path, as_root) {
                Ok(source) => media.push(source),
                Err(e) => failed.push(e),
            }
        }
        let mut failed = failed.into_iter();
        if media.is_empty()
            && let Some(e) = failed.next()
        {
            return Err(e);
        }
        let failed = failed.collect();
        let whole = |path: &PathBuf| -> Result<Arc<[u8]>, Error> {
            let mut bytes = Vec::new();
            let read = beneath::image(path)?.take(MAX_INITRD + 1).read_to_end(&mut bytes);
            match read.map_err(Error::read(path))? as u64 > MAX_INITRD {
                true => Err(Error::read(path)(io::ErrorKind::FileTooLarge.into())),
                false => Ok(bytes.into()),
            }
        };
        let given = match (&options.kernel, &options.initrd) {
            (Some(kernel), Some(initrd)) => Some([whole(kernel)?, whole(initrd)?]),
            _ => None,
        };
        Ok(Self { media, failed, given })
    }
}

/// A medium and its boot entries.
struct Prepared {
    medium: Medium,
    menu: Menu,
}

/// Reads every medium and adds the files of its boot entries to `files`. `above` is the NFS
/// export that the media are below.
///
/// # Errors
/// [`Error::Image`] or [`Error::File`] when no medium can be read, [`Error::Medium`] when none
/// has anything that boots over a network. One of several is left out with a warning.
pub fn read(
    sources: Sources,
    options: &Options,
    above: &Place,
    files: &mut Files,
    watch: &Watch,
) -> Result<Media, Error> {
    let mut images = Vec::new();
    let mut exports: Vec<Export> = Vec::new();
    let mut entries = Vec::new();
    let several = options.media.len() > 1;
    let mut title = String::new();
    let given = sources.given.as_ref();
    let mut add = |source: Source| -> Result<(), Error> {
        let mut medium = Medium::read(source)?;
        while exports.iter().any(|e| e.path == format!("/{}", medium.name)) {
            medium.name.push_str("-2");
        }
        let mut prepared = prepare(medium, given, options, above, files, watch)?;
        let medium = &prepared.medium;
        let export = Export { path: format!("/{}", medium.name), tree: medium.tree.clone() };
        files.add_tree(export.clone());
        if let Some((image, length)) = &medium.image {
            let file = File::image(image.clone(), *length, medium.tree.identity);
            files.add(&format!("/{}.iso", medium.name), file);
            images.push(Image {
                name: medium.name.clone(),
                image: image.clone(),
                size: *length,
                identity: medium.tree.identity,
            });
        }
        if several {
            for entry in &mut prepared.menu.entries {
                entry.title = format!("{}: {}", medium.title, entry.title);
            }
        }
        title.clone_from(&medium.title);
        entries.append(&mut prepared.menu.entries);
        exports.push(export);
        Ok(())
    };
    let unread: Vec<Error> =
        sources.media.into_iter().filter_map(|source| add(source).err()).collect();
    let mut failed = sources.failed.into_iter().chain(unread);
    if exports.is_empty()
        && let Some(e) = failed.next()
    {
        return Err(e);
    }
    for e in failed {
        watch.tell(&Event::Warning(format!("a medium is left out: {e}")));
    }
    for (n, entry) in entries.iter_mut().enumerate() {
        // Labels of several media may be equal, and a label may contain a space.
        entry.id = format!("e{n}");
    }
    let menu = Menu {
        title: if several { "Bellwether".into() } else { title },
        // One medium starts by itself after a few seconds.
        timeout: if several { None } else { Some(3) },
        default: 0,
        entries,
        ..Menu::default()
    };
    Ok(Media { menu, exports, images })
}

/// Turns a medium's entries into network-boot entries, and adds the files they load.
fn prepare(
    medium: Medium,
    given: Option<&[Arc<[u8]>; 2]>,
    options: &Options,
    above: &Place,
    files: &mut Files,
    watch: &Watch,
) -> Result<Prepared, Error> {
    for text in &medium.warnings {
        watch.tell(&Event::Warning(text.clone()));
    }
    let (base, name) = (format!("/boot/{}", medium.name), &medium.name);
    let mut menu = medium.menu.clone();
    if let Some([kernel, initrd]) = given {
        files.add(&format!("{base}/vmlinuz"), File::memory(kernel.clone()).at(Stage::Kernel));
        files.add(&format!("{base}/initrd"), File::memory(initrd.clone()).at(Stage::Initrd));
        let append = menu.entries.get(menu.default).map(|e| e.append.clone()).unwrap_or_default();
        let entry = Entry {
            id: "live".into(),
            title: medium.title.clone(),
            kernel: String::new(),
            initrd: vec![String::new()],
            append,
        };
        menu = Menu { entries: vec![entry], ..Menu::default() };
    }
    if menu.entries.is_empty() {
        return Err(Error::Medium {
            why: format!(
                "{name} has no boot menu that starts a Linux kernel and no kernel in a usual \
                 place; give one with --kernel and --initrd"
            ),
        });
    }
    let place = Place { path: format!("{}/{name}", above.path), ..*above };
    let squashfs = medium.squashfs();
    // Entries with the same initramfs share its archive.
    let mut archives: BTreeMap<Vec<String>, Option<String>> = BTreeMap::new();
    let mut kept = Vec::new();
    for (n, mut entry) in menu.entries.into_iter().enumerate() {
        entry.append = medium::line(medium.layout, &entry.append, &place, &options.append);
        let plan = cmdline::parse(&entry.append, &cmdline::Context::default());
        if !plan.can_work() {
            watch.tell(&Event::Warning(format!(
                "entry \"{}\" would fail and is left out: {}",
                entry.title,
                plan.warnings_text().replace('\n', "; ")
            )));
            continue;
        }
        let given = given.filter(|_| entry.kernel.is_empty());
        let sources = entry.initrd.clone();
        if given.is_some() {
            entry.kernel = format!("{base}/vmlinuz");
            entry.initrd = vec![format!("{base}/initrd")];
        } else {
            let mut publish = |path: &str, to: String, stage| -> Option<String> {
                files.add(&to, File::in_tree(&medium.tree, path)?.at(stage));
                Some(to)
            };
            let kernel = publish(&entry.kernel, format!("{base}/{n}/vmlinuz"), Stage::Kernel);
            let initrd: Option<Vec<String>> = (0..)
                .zip(&sources)
                .map(|(m, path)| publish(path, format!("{base}/{n}/initrd{m}"), Stage::Initrd))
                .collect();
            let (Some(kernel), Some(initrd)) = (kernel, initrd) else { continue };
            (entry.kernel, entry.initrd) = (kernel, initrd);
        }
        if let Some(init) = &options.init {
            let archive = match archives.get(&sources) {
                Some(known) => known.clone(),
                None => {
                    let to = format!("{base}/bellwether{}.img", archives.len());
                    let mut initrd = open_initrd(&medium, given, &sources)?;
                    let made = archive::make(&medium.tree, &mut initrd, &squashfs, init)?;
                    tell_archive(watch, &made);
                    files.add(&to, File::memory(made.bytes));
                    archives.insert(sources, Some(to.clone()));
                    Some(to)
                }
            };
            entry.initrd.extend(archive);
        }
        // One that does not fit the boot loaders' menus would make all menus useless.
        let alone = Entry { id: "e".into(), ..entry.clone() };
        if let Err(why) = (Menu { entries: vec![alone], ..Menu::default() }).check() {
            let text = format!("entry \"{}\" is left out: {why}", entry.title);
            watch.tell(&Event::Warning(text));
            continue;
        }
        kept.push(entry);
    }
    if kept.is_empty() {
        return Err(Error::Medium { why: format!("no entry of {name} can boot over the network") });
    }
    let default = menu.default.min(kept.len().saturating_sub(1));
    // The default first: it starts by itself.
    let first = kept.remove(default);
    kept.insert(0, first);
    watch.ready(
        "medium",
        format!(
            "{name}: \"{}\", {}, {} files, {} boot {}",
            medium.title,
            medium.layout,
            medium.tree.len(),
            kept.len(),
            if kept.len() == 1 { "entry" } else { "entries" }
        ),
    );
    Ok(Prepared { menu: Menu { entries: kept, ..Menu::default() }, medium })
}

/// The initramfs files of an entry, one after the other.
fn open_initrd(
    medium: &Medium,
    given: Option<&[Arc<[u8]>; 2]>,
    sources: &[String],
) -> Result<Box<dyn BufRead + Send>, Error> {
    if let Some([_, initrd]) = given {
        return Ok(Box::new(io::Cursor::new(initrd.clone())));
    }
    let mut all: Box<dyn BufRead + Send> = Box::new(io::empty());
    for path in sources {
        let Some((at, size)) = medium.tree.file(path) else { continue };
        if size > MAX_INITRD {
            return Err(Error::read(path)(io::ErrorKind::FileTooLarge.into()));
        }
        let file = BufReader::with_capacity(128 << 10, Cursor::new(medium.tree.clone(), at));
        // Padded to four bytes, as boot loaders do.
        let padding: &'static [u8] = match size % 4 {
            0 => &[],
            1 => &[0; 3],
            2 => &[0; 2],
            _ => &[0],
        };
        all = Box::new(all.chain(file).chain(padding));
    }
    Ok(all)
}

fn tell_archive(watch: &Watch, made: &archive::Made) {
    let size = made.bytes.len() / 1000;
    watch.ready(
        "archive",
        format!(
            "kernel {}: {} modules in its initramfs, {} added from the medium; {size} kB behind it",
            if made.release.is_empty() { "without modules" } else { &made.release },
            made.there,
            made.added
        ),
    );
    if !made.lacking.is_empty() {
        watch.tell(&Event::Warning(format!(
            "the kernel lacks {} and has it neither in its initramfs nor on the medium, unless it \
             is built in: clients may not find their root",
            made.lacking.join(", ")
        )));
    }
}
