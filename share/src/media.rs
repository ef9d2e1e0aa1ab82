//! From media to a boot menu, the files it loads, and the exports that clients mount.

use crate::archive::{self, Cursor, MAX_INITRD, Wanted};
use crate::beneath;
use crate::disk::store::Image;
use crate::error::Error;
use crate::event::{Event, Stage, Watch};
use crate::files::{File, Files};
use crate::layout::{self, Layout, Place};
use crate::medium::{self, Medium, Source};
use crate::nfs::Export;
use crate::options::Options;
use cmdline::BootPlan;
use cmdline::needs::{NOTE, Steps, needs};
use cmdline::plan::Dialect;
use cpio_builder::initrd::{Initrd, Limits};
use cpio_builder::kernel::{self, Machine};
use cpio_builder::menu::{Entry, Menu};
use cpio_builder::newc::{self, TRAILER};
use std::collections::{BTreeMap, BTreeSet};
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
    // One medium starts by itself after a few seconds.
    let mut timeout = None;
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
        timeout = prepared.menu.timeout;
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
        timeout: if several { None } else { timeout },
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
        menu = Menu { entries: vec![entry], timeout: Some(3), ..Menu::default() };
    }
    if menu.entries.is_empty() {
        let why = medium.nothing("; --kernel and --initrd give one");
        return Err(Error::Medium { why });
    }
    let place = Place { path: format!("{}/{name}", above.path), ..*above };
    let own = menu.clone();
    let mut entries = Entries {
        medium: &medium,
        given,
        options,
        place,
        files,
        watch,
        images: medium.tree.images(),
        base,
        wanted: BTreeMap::new(),
        archives: BTreeMap::new(),
        said: BTreeSet::new(),
    };
    let planned: Vec<Planned> = menu.entries.iter().map(|entry| entries.plan(entry)).collect();
    let mut planned = planned.into_iter().enumerate();
    let mut rows = medium::keep(&mut menu, |entry| {
        let (n, planned) = planned.next()?;
        entries.make(n, entry, planned)
    });
    if menu.entries.is_empty() {
        return Err(Error::Medium { why: format!("no entry of {name} can boot over the network") });
    }
    let installers: Vec<bool> = rows.iter().map(Layout::installs).collect();
    let first = order(&mut menu, &installers, &own, watch);
    let row = rows.swap_remove(first);
    watch.ready(
        "medium",
        format!(
            "{name}: \"{}\", {}, {} files, {} boot {}",
            medium.title,
            row.name,
            medium.tree.len(),
            menu.entries.len(),
            if menu.entries.len() == 1 { "entry" } else { "entries" }
        ),
    );
    Ok(Prepared { menu, medium })
}

/// Our archive behind an initramfs, or in its place.
#[derive(Clone)]
struct Ours {
    path: String,
    alone: bool,
    /// The kernel whose modules are in it, if any.
    release: String,
    /// Where the initramfs has to end.
    end: Option<usize>,
}

/// Makes a medium's entries boot over the network, and adds the files they load.
struct Entries<'a> {
    medium: &'a Medium,
    given: Option<&'a [Arc<[u8]>; 2]>,
    options: &'a Options,
    place: Place,
    files: &'a mut Files,
    watch: &'a Watch,
    images: Vec<String>,
    /// Of the paths below which the files are served.
    base: String,
    /// Which archives the entries with an initramfs want.
    wanted: BTreeMap<Vec<String>, Wanted>,
    /// The archives of an initramfs; empty where none can be made.
    archives: BTreeMap<Vec<String>, Vec<Ours>>,
    /// Notes that were said.
    said: BTreeSet<String>,
}

/// What is known of an entry before its archives are made.
struct Planned {
    row: Layout,
    /// Why our `/init` does not run on its kernel.
    other: Option<String>,
    /// Its line on the network, and what our `/init` makes of it.
    append: String,
    plan: BootPlan,
    /// The archive that it wants; `None` where its own `/init` starts.
    ours: Option<Wanted>,
}

impl Entries<'_> {
    /// How an entry boots. Notes which archive it wants.
    fn plan(&mut self, entry: &Entry) -> Planned {
        let tree = &self.medium.tree;
        let other = self.other_machine(entry);
        let mut row = Layout::of(tree, entry, &self.options.append);
        if self.given.is_some() && row == layout::UNKNOWN {
            row = layout::ROOT;
        }
        // Ours comes behind an initramfs.
        if self.options.init.is_none() || entry.initrd.is_empty() || other.is_some() {
            row = row.with_own_init();
        }
        let append = row.line(tree, entry, &self.place, &self.options.append);
        let plan = cmdline::parse(&append, &cmdline::Context::default());
        let alone = self.given.is_none() && needs_modules_only(&plan);
        let starts_ours = !row.has_own_init()
            && self.options.init.is_some()
            && !entry.initrd.is_empty()
            && other.is_none();
        let ours = starts_ours.then_some(Wanted { alone, behind: !alone });
        if let Some(ours) = ours.filter(|_| plan.can_work()) {
            let wanted = self.wanted.entry(entry.initrd.clone()).or_default();
            wanted.alone |= ours.alone;
            wanted.behind |= ours.behind;
        }
        Planned { row, other, append, plan, ours }
    }

    /// The `n`th entry; `None` when it cannot boot, which is said.
    fn make(&mut self, n: usize, entry: &mut Entry, planned: Planned) -> Option<Layout> {
        let Planned { row, other, append, plan, ours } = planned;
        if let Some(why) = other {
            if row.note == layout::ON_A_DRIVE {
                return self.leave_out(entry, &why);
            }
            if !row.has_own_init() && self.said.insert(why.clone()) {
                let text = format!("entry \"{}\": {why}; it boots with its own", entry.title);
                self.watch.tell(&Event::Warning(text));
            }
        }
        entry.append = append;
        if !row.has_own_init() && !plan.can_work() {
            return self.leave_out(entry, &plan.warnings_text().replace('\n', "; "));
        }
        if let Some(path) = self.cut(entry) {
            let why = format!("{path} is behind the end of the image, or cannot be read");
            return self.leave_out(entry, &why);
        }
        self.load(n, entry, row, ours)?;
        let mut note = row.note.to_owned();
        if let Some(path) = row.image_at {
            match self.image_behind(path) {
                Some(files) => entry.initrd.extend(files),
                None => note = layout::ON_A_DRIVE.to_owned(),
            }
        }
        if let Some(image) = self.images.first().filter(|_| row == layout::UNKNOWN) {
            let image = image.trim_start_matches('/');
            note += &format!("; --append bw.layers={image} starts our /init with that image");
        }
        // One that does not fit the boot loaders' menus would make all menus useless.
        let alone = Entry { id: "e".into(), ..entry.clone() };
        if let Err(why) = (Menu { entries: vec![alone], ..Menu::default() }).check() {
            return self.leave_out(entry, &why.to_string());
        }
        if !note.is_empty() {
            let text = format!("entry \"{}\" ({}): {note}", entry.title, row.name);
            if self.said.insert(note) {
                self.watch.tell(&Event::Warning(text));
            }
        }
        Some(row)
    }

    /// Adds the files that an entry loads, and writes their paths into it; the archive that it wants
    /// is one of them.
    fn load(
        &mut self,
        n: usize,
        entry: &mut Entry,
        row: Layout,
        ours: Option<Wanted>,
    ) -> Option<()> {
        let given = self.given.filter(|_| entry.kernel.is_empty());
        let sources = entry.initrd.clone();
        let base = self.base.clone();
        let archive = ours.and_then(|ours| self.archive(&sources, given, ours.alone));
        if given.is_some() {
            entry.kernel = format!("{base}/vmlinuz");
            entry.initrd = vec![format!("{base}/initrd")];
        } else {
            let mut publish = |path: &str, to: String, stage| -> Option<String> {
                self.files.add(&to, File::in_tree(&self.medium.tree, path)?.at(stage));
                Some(to)
            };
            entry.kernel = publish(&entry.kernel, format!("{base}/{n}/vmlinuz"), Stage::Kernel)?;
            let own = if archive.as_ref().is_some_and(|ours| ours.alone) { &[] } else { &*sources };
            entry.initrd = (0..)
                .zip(own)
                .map(|(m, path)| publish(path, format!("{base}/{n}/initrd{m}"), Stage::Initrd))
                .collect::<Option<_>>()?;
        }
        let Some(Ours { path, release, end, alone }) = archive else {
            if given.is_some_and(|[_, initrd]| starts_ours(initrd)) {
                return Some(());
            }
            if row.own_init_knows_nfs() {
                entry.append = without_mount_port(&entry.append);
            } else if ours.is_some() {
                return self.leave_out(entry, "its initramfs cannot be read");
            }
            return Some(());
        };
        if let Some(end) = end.filter(|_| !alone) {
            // The kernel would not come to ours.
            let [path] = entry.initrd.as_slice() else {
                return self.leave_out(entry, "its initramfs has bytes that are no archive");
            };
            if let Some(file) = self.files.find(path) {
                self.files.add(path, File { length: end as u64, ..file });
            }
        }
        self.compare(entry, &release);
        entry.initrd.push(path);
        Some(())
    }

    /// Why our `/init` does not run on an entry's kernel, which is for another machine.
    fn other_machine(&self, entry: &Entry) -> Option<String> {
        let ours = Machine::of_program(self.options.init.as_ref()?)?;
        let kernel = match self.given.filter(|_| entry.kernel.is_empty()) {
            Some([kernel, _]) => Machine::of(kernel),
            None => {
                let file = File::in_tree(&self.medium.tree, &entry.kernel)?;
                Machine::of(&file.start(kernel::START).ok()?)
            }
        };
        kernel.filter(|kernel| *kernel != ours).map(|kernel| {
            format!("its kernel is for {kernel}, and our /init, for {ours}, does not run on it")
        })
    }

    /// The first of an entry's files that a cut image lacks.
    fn cut<'e>(&self, entry: &'e Entry) -> Option<&'e str> {
        let paths = std::iter::once(&entry.kernel).chain(&entry.initrd);
        let whole = |path: &str| File::in_tree(&self.medium.tree, path).map(|file| file.is_whole());
        paths.map(String::as_str).find(|path| matches!(whole(path), Some(Err(_))))
    }

    /// Says when a kernel is another one than that whose modules its initramfs has.
    fn compare(&mut self, entry: &Entry, modules: &str) {
        let start = self.files.find(&entry.kernel).and_then(|file| file.start(kernel::START).ok());
        let Some(own) = start.and_then(|start| kernel::release(&start)) else { return };
        if own == modules || modules.is_empty() {
            return;
        }
        let text = format!(
            "entry \"{}\": the kernel is {own}, and the modules in its initramfs are those of \
             {modules}: it loads none of them, and finds neither network nor root unless it has \
             their drivers built in",
            entry.title
        );
        if self.said.insert(format!("{own} {modules}")) {
            self.watch.tell(&Event::Warning(text));
        }
    }

    /// The medium's image as a file of an archive, in the parts that boot loaders put behind an
    /// initramfs. `None` where there is no image, or a larger one than an archive can have.
    fn image_behind(&mut self, path: &str) -> Option<Vec<String>> {
        let (image, length) = self.medium.image.clone()?;
        let header = newc::header(path, u32::try_from(length).ok()?);
        let end = [vec![0; length.wrapping_neg() as usize % 4], newc::header(TRAILER, 0)].concat();
        let identity = self.medium.tree.identity;
        let parts = [
            ("begin", File::memory(header)),
            ("image", File::image(image, length, identity)),
            ("end", File::memory(end)),
        ];
        let parts = parts.map(|(name, file)| {
            let to = format!("{}/{name}", self.base);
            self.files.add(&to, file.at(Stage::Initrd));
            to
        });
        Some(parts.into())
    }

    fn leave_out<T>(&self, entry: &Entry, why: &str) -> Option<T> {
        let text = format!("entry \"{}\" is left out: {why}", entry.title);
        self.watch.tell(&Event::Warning(text));
        None
    }

    /// The archive that follows these initramfs files, or takes their place; `None` when they
    /// cannot be read, which is said once.
    fn archive(
        &mut self,
        sources: &[String],
        given: Option<&[Arc<[u8]>; 2]>,
        alone: bool,
    ) -> Option<Ours> {
        if !self.archives.contains_key(sources) {
            let made = self.make_archives(sources, given);
            self.archives.insert(sources.to_vec(), made);
        }
        let made = self.archives.get(sources)?;
        made.iter().find(|ours| ours.alone == alone).or_else(|| made.first()).cloned()
    }

    /// All archives that entries with these initramfs files want.
    fn make_archives(&mut self, sources: &[String], given: Option<&[Arc<[u8]>; 2]>) -> Vec<Ours> {
        let Some(init) = &self.options.init else { return Vec::new() };
        let medium = self.medium;
        let initrd = || open_initrd(medium, given, sources);
        let wanted = self.wanted.get(sources).copied().unwrap_or_default();
        let made = archive::make(&medium.tree, &initrd, &self.images, init, wanted);
        let made = made.unwrap_or_else(|e| {
            let of = if given.is_some() { "--initrd".into() } else { sources.join(", ") };
            self.watch.tell(&Event::Warning(format!(
                "{}: {of}: {e}; it boots without our /init if it can",
                medium.name
            )));
            Vec::new()
        });
        let first = self.archives.values().map(Vec::len).sum();
        let place = |(n, made): (usize, archive::Made)| {
            tell_archive(self.watch, &made);
            let archive::Made { bytes, release, end, alone, .. } = made;
            let path = format!("{}/bellwether{n}.img", self.base);
            self.files.add(&path, File::memory(bytes));
            Ours { path, release, end, alone }
        };
        (first..).zip(made).map(place).collect()
    }
}

/// Whether an initramfs starts a Bellwether of its own, which asks no portmapper.
fn starts_ours(initrd: &[u8]) -> bool {
    Initrd::open(initrd, Limits::default())
        .is_ok_and(|initrd| initrd.init_section(NOTE.as_bytes()).is_some())
}

/// The line for an initramfs that mounts the medium itself: klibc's nfsmount, which Debian's and
/// Arch's have, refuses the option `mountport`, and asks a portmapper.
fn without_mount_port(line: &str) -> String {
    let word = |word: &str| {
        let options = word.split(',').filter(|option| !option.starts_with("mountport="));
        options.collect::<Vec<_>>().join(",")
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Whether a line is one for an initramfs that asks a portmapper.
pub fn asks_portmapper(line: &str) -> bool {
    let mounts = |word: &&str| ["nfsopts=", "archiso_nfs_opt="].iter().any(|w| word.starts_with(w));
    line.split(' ').filter(mounts).any(|word| !word.contains(",mountport="))
        // ALT's installer mounts without any options.
        || line.contains("=method:nfs,")
}

/// Words, or parts of words, of an entry's name that say that it changes disks, whatever else it
/// says.
const CHANGES: &[&str] =
    &["erase", "wipe", "nuke", "shred", "autoinstall", "preseed", "kickstart", "unattend"];
/// The same, as whole words.
const CHANGES_ALONE: &[&str] = &["format", "restore", "restoredisk", "restoreparts", "oem"];
/// And those of an installer, unless it is to be tried first.
const INSTALLS: &[&str] = &["install", "upgrade", "reinstall"];
/// The same, as whole words: SystemRescue and Rescuezilla are live systems.
const INSTALLS_ALONE: &[&str] = &["setup", "rescue", "recover", "recovery", "repair"];
/// Words of such a line.
const LINE_CHANGES: &[&str] = &[
    "ks",
    "inst.ks",
    "autoyast",
    "auto",
    "autoinstall",
    "agama.auto",
    "inst.auto",
    "preseed/file",
    "preseed/url",
    "proxmox-start-auto-installer",
    "ocs_live_run",
    "bw.clone",
    "coreos.inst.install_dev",
    "coreos.inst",
    "nuke",
    "nwipe_options",
];
/// Parts of a line that erases disks without a question.
const ERASES: &str = "autonuke";

/// Whether an entry may change a disk of the machine that boots it.
fn changes_disks(entry: &Entry) -> bool {
    let name = format!("{} {}", entry.title, entry.id).to_lowercase();
    let words: Vec<&str> = name.split(|c: char| !c.is_alphanumeric()).collect();
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    let says = |list: &[&str]| words.iter().any(|word| list.contains(word));
    let plain = |word: &'_ str| word.trim_start_matches('"').split('=').next().map(str::to_owned);
    let mut line = entry.append.split_whitespace().map(plain);
    has(CHANGES)
        || says(CHANGES_ALONE)
        || ((has(INSTALLS) || says(INSTALLS_ALONE)) && !says(&["try", "live"]))
        || line.any(|word| word.is_some_and(|word| LINE_CHANGES.contains(&word.as_str())))
}

/// Puts the entry that starts by itself first, and says how long it waits: for ever when the
/// medium's own menu would start none of those that are left, or waits with one that may change
/// disks. Returns where the entry was.
fn order(menu: &mut Menu, installers: &[bool], own: &Menu, watch: &Watch) -> usize {
    let risky = |(n, entry): (usize, &Entry)| {
        installers.get(n).copied().unwrap_or(false) || changes_disks(entry)
    };
    let (mut start, mut seconds) = (menu.default, Some(3));
    let mut why = "the medium's own menu starts none of these".to_owned();
    if menu.other_default {
        let harmless = menu.entries.iter().enumerate().position(|it| !risky(it));
        seconds = harmless.and(seconds);
        start = harmless.unwrap_or(0);
    } else if menu.entries.get(start).is_some_and(|entry| risky((start, entry))) {
        // As the medium's own menu does it, but for a stick that is put into one machine to erase
        // it: a network boots all of them.
        let erases = menu.entries.get(start).filter(|entry| entry.append.contains(ERASES));
        seconds = own.timeout.filter(|_| erases.is_none()).map(|own| own.max(3));
        why = erases
            .map_or(why, |entry| format!("\"{}\" erases disks without a question", entry.title));
        if let (Some(seconds), Some(entry)) = (seconds, menu.entries.get(start)) {
            watch.tell(&Event::Warning(format!(
                "\"{}\" may change disks, and starts by itself after {seconds} s on every client, \
                 as the medium's own menu does it",
                entry.title
            )));
        }
    }
    if seconds.is_none() {
        let text = format!("no entry starts by itself, since {why}: clients wait at the menu");
        watch.tell(&Event::Warning(text));
    }
    menu.timeout = seconds;
    menu.default = 0;
    if start < menu.entries.len() {
        let first = menu.entries.remove(start);
        menu.entries.insert(0, first);
    }
    start
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

/// Whether a boot by this plan takes nothing but modules from the medium's initramfs: no disk of the
/// machine, none of casper's scripts, no shell, and no module by its name.
fn needs_modules_only(plan: &BootPlan) -> bool {
    let needs = needs(plan);
    let wants = needs.must.with(needs.wish);
    let others = [Steps::KEEP, Steps::SHELL, Steps::STAY, Steps::CLONE, Steps::P2V];
    !others.iter().any(|step| wants.has(*step))
        && !plan.root.sources.iter().any(|source| source.on_disk())
        && plan.handoff.layout != Dialect::Casper
        && plan.handoff.swap.is_empty()
        && plan.drivers.force.is_empty()
}

fn tell_archive(watch: &Watch, made: &archive::Made) {
    let size = made.bytes.len() / 1000;
    let place = if made.alone { "in place of it" } else { "behind it" };
    watch.ready(
        "archive",
        format!(
            "kernel {}: {} modules in its initramfs, {} added from the medium; {size} kB {place}",
            if made.release.is_empty() { "without modules" } else { &made.release },
            made.there,
            made.added
        ),
    );
    if let Some(why) = &made.other {
        let not = if made.alone { "comes behind" } else { "takes the place of" };
        watch.tell(&Event::Warning(format!("no archive {not} the initramfs: {why}")));
    }
    if made.end.is_some() && !made.alone {
        watch.tell(&Event::Warning(
            "bytes behind the initramfs that are no archive are not served: kernels read nothing \
             that follows them"
                .into(),
        ));
    }
    if !made.lacking.is_empty() {
        watch.tell(&Event::Warning(format!(
            "the kernel lacks {} and has it neither in its initramfs nor on the medium, unless it \
             is built in: clients may not find their root",
            made.lacking.join(", ")
        )));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, append: &str) -> Entry {
        Entry { id: name.into(), title: name.into(), append: append.into(), ..Entry::default() }
    }

    /// The default was counted before entries were left out: one that wipes disks started.
    #[test]
    fn the_default_does_not_shift() {
        let names = ["check", "live", "wipe"];
        let menu = |default, timeout| Menu {
            entries: names.map(|name| entry(name, "")).into(),
            default,
            timeout,
            ..Menu::default()
        };
        for (default, out, timeout, first, waits) in [
            (1, "check", None, "live", Some(3)),
            // The default itself is gone.
            (0, "check", Some(60), "live", Some(3)),
            (1, "live", Some(60), "check", Some(3)),
            // The medium's own menu wipes.
            (2, "check", Some(60), "wipe", Some(60)),
            (2, "check", None, "wipe", None),
        ] {
            let own = menu(default, timeout);
            let mut kept = own.clone();
            let rows = medium::keep(&mut kept, |entry| (entry.id != out).then(|| entry.id.clone()));
            let start = order(&mut kept, &[], &own, &Watch::new(|_| ()));
            assert_eq!(
                (kept.entries[0].id.as_str(), kept.timeout),
                (first, waits),
                "{default} {out}"
            );
            assert_eq!(rows[start], first);
        }
        let own = menu(1, Some(60));
        let mut kept = own.clone();
        medium::keep(&mut kept, |entry| (entry.id == "wipe").then_some(()));
        order(&mut kept, &[], &own, &Watch::new(|_| ()));
        assert_eq!(kept.timeout, None);
        // An installer whose entry has a harmless name, where the medium's menu starts the disk.
        let mut kept = Menu { other_default: true, ..menu(0, Some(60)) };
        kept.entries.truncate(1);
        order(&mut kept, &[true], &own, &Watch::new(|_| ()));
        assert_eq!(kept.timeout, None);
    }

    /// live-boot's own initramfs never mounted the medium: "nfsmount: bad option 'mountport'".
    #[test]
    fn an_initramfs_of_its_own_gets_no_mount_port() {
        let line = "boot=live nfsopts=vers=3,nolock,port=2049,mountport=2049 quiet a=b,c";
        let own = without_mount_port(line);
        assert_eq!(own, "boot=live nfsopts=vers=3,nolock,port=2049 quiet a=b,c");
        assert!(asks_portmapper(&own) && !asks_portmapper(line) && !asks_portmapper("quiet"));
        assert!(asks_portmapper("automatic=method:nfs,network:dhcp,server:10.0.0.1,directory:/m"));
    }

    #[test]
    fn entries_that_change_disks() {
        for (name, append, does) in [
            ("Try or Install Ubuntu", "boot=casper", false),
            ("Live system", "boot=live", false),
            ("Install", "", true),
            ("Erase disk (live)", "boot=live", true),
            ("Automatic", "inst.ks=http://x/ks.cfg", true),
            ("Live", "boot=live ocs_live_run=restore", true),
            ("Rescue a system", "", true),
            ("Boot SystemRescue using default options", "", false),
            ("Start Rescuezilla", "boot=casper", false),
            ("shredos", "console=tty3", true),
            ("Start", "nuke=\"dwipe --autonuke\"", true),
            ("System information (high resolution format)", "", true),
            ("System information", "", false),
        ] {
            assert_eq!(changes_disks(&entry(name, append)), does, "{name}");
        }
    }
}
