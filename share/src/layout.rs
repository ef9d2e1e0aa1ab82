//! What is known of live systems and installers, as a table: by what an entry of a medium's menu
//! is recognised, which `/init` boots it, and what its command line becomes.
//!
//! A row tells one kind of system. The first row that fits an entry counts; one that none
//! fits boots from the largest image on the medium that is a file system, or, without one, keeps
//! its own `/init` and words.

use crate::tree::Tree;
use coldplug::index::fnmatch;
use cpio_builder::menu::Entry;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Where a medium is on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Our address.
    pub server: Ipv4Addr,
    /// The TCP port of NFS and of its mount service; `None` when a portmapper knows it.
    pub port: Option<u16>,
    /// The HTTP server; `None` where other programs serve.
    pub http: Option<SocketAddrV4>,
    /// The exported path.
    pub path: String,
}

/// How a kind of system finds its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// live-boot's words.
    LiveBoot,
    /// casper's words.
    Casper,
    /// archiso's words.
    Archiso,
    /// The medium is the source of the line's own words, such as dracut's `rd.live.dir=`; these
    /// are added.
    Medium(&'static [&'static str]),
    /// These images are the root, the lowest first; a `*` stands for any part of a name, and
    /// `{loop}` for the value of that word of the line.
    Images(&'static [&'static str]),
    /// Its own `/init` and these words, see `put_in`.
    Own(&'static [&'static str]),
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The name, as people see it.
    pub name: &'static str,
    /// One of these must be on the medium, unless the list is empty.
    files: &'static [&'static str],
    /// One of these words must be in the line, or one of `kernels` in a path that the entry loads,
    /// unless both lists are empty.
    words: &'static [&'static str],
    kernels: &'static [&'static str],
    /// Words of the line that do not count here.
    without: &'static [&'static str],
    /// How it boots.
    pub way: Way,
    /// Words for its own `/init` where that is asked for and `way` is another one.
    own: &'static [&'static str],
    /// The path in the initramfs at which its own `/init` looks for the medium's image.
    pub image_at: Option<&'static str>,
    /// What people should know before a client boots it.
    pub note: &'static str,
}

const ROW: Layout = Layout {
    name: "",
    files: &[],
    words: &[],
    kernels: &[],
    without: &[],
    way: Way::Own(&[]),
    own: &[],
    image_at: None,
    note: "",
};

/// What people should know of one that cannot be told where its medium is.
pub const ON_A_DRIVE: &str =
    "its own initramfs looks for the medium on a drive and will not find it over the network";

/// The medium is the root file system itself, or the line says where it is. A client cannot write
/// to the medium; `bw.overlay=none` leaves its root so.
pub const ROOT: Layout =
    Layout { name: "layout of its own", way: Way::Medium(&["bw.overlay"]), ..ROW };
/// What fits no row.
pub const UNKNOWN: Layout = Layout {
    name: "unknown layout",
    note: "no layout that is known: clients start its own initramfs with its own words, and boot \
           only if that needs no drive",
    ..ROW
};

/// The table.
pub const LAYOUTS: &[Layout] = &[
    Layout {
        name: "Debian installer",
        kernels: &["/install/", "/install.", "/debian-installer/", "/d-i/"],
        ..ROW
    },
    Layout { name: "Debian installer", files: &["/.disk/mini-info"], ..ROW },
    Layout { name: "casper layout", words: &["boot=casper"], way: Way::Casper, ..ROW },
    Layout { name: "Debian live layout", words: &["boot=live"], way: Way::LiveBoot, ..ROW },
    Layout {
        name: "Debian installer",
        words: &["preseed/file", "preseed/url", "priority", "DEBIAN_FRONTEND", "rescue/enable"],
        ..ROW
    },
    Layout {
        name: "LiveOS layout",
        words: &["root=live:*"],
        way: Way::Medium(&[]),
        own: LIVENET,
        ..ROW
    },
    Layout { name: "kiwi installer", words: &["root=install:*"], note: ON_A_DRIVE, ..ROW },
    Layout {
        name: "Anaconda installer",
        words: &["inst.stage2", "inst.repo", "inst.install", "inst.rescue"],
        without: &["inst.stage2", "inst.repo", "rd.live.check"],
        way: Way::Own(&[
            "inst.stage2={http}",
            "?/repodata inst.repo={http}",
            "?/BaseOS/repodata inst.repo={http}",
            "ip=dhcp",
        ]),
        ..ROW
    },
    Layout {
        name: "Fedora CoreOS",
        words: &["coreos.liveiso", "coreos.live.rootfs_url"],
        without: &["coreos.liveiso", "coreos.live.rootfs_url"],
        way: Way::Own(&[
            "coreos.live.rootfs_url={http:/images/pxeboot/rootfs.img}",
            "rd.neednet=1",
            "ip=dhcp",
        ]),
        ..ROW
    },
    Layout {
        name: "openSUSE installer",
        files: &["/boot/*/root", "/boot/*/rescue"],
        kernels: &["/loader/", "/boot/x86_64/linux", "/boot/aarch64/linux"],
        without: &["install", "netdevice", "netsetup"],
        way: Way::Own(&["install={http}", "netsetup=dhcp"]),
        ..ROW
    },
    Layout {
        name: "Alpine Linux",
        files: &["/.alpine-release", "/apks"],
        without: &["alpine_dev", "alpine_repo", "modloop"],
        way: Way::Own(&["alpine_repo={http:/apks}", "modloop={like:/boot/*modloop*}", "ip=dhcp"]),
        note: "its own initramfs must have the driver of the client's network card",
        ..ROW
    },
    Layout {
        name: "Tiny Core",
        files: &["/cde", "/boot/core.gz", "/boot/corepure64.gz", "/boot/tinycore.gz"],
        without: &["cde", "iso"],
        note: "it boots to its base system; extensions on the medium are not loaded",
        ..ROW
    },
    Layout {
        name: "NixOS",
        files: &["/nix-store.squashfs"],
        note: "its own initramfs looks for the medium on a drive and will not find it over the \
               network: NixOS has a kernel and an initramfs for network boot",
        ..ROW
    },
    Layout { name: "Guix System", words: &["gnu.system"], note: ON_A_DRIVE, ..ROW },
    Layout {
        name: "Android-x86",
        files: &["/system.sfs", "/system.efs", "/system.img"],
        words: &["androidboot.*", "SRC"],
        note: ON_A_DRIVE,
        ..ROW
    },
    Layout { name: "Parted Magic", kernels: &["/pmagic/"], note: ON_A_DRIVE, ..ROW },
    Layout {
        name: "disk eraser",
        kernels: &["/shredos", "/dban.bzi", "/nwipe"],
        note: "it is there to erase the disks of the client that starts it",
        ..ROW
    },
    Layout {
        name: "disk eraser",
        words: &["nuke", "nwipe_options"],
        note: "it is there to erase the disks of the client that starts it",
        ..ROW
    },
    Layout {
        name: "Slackware installer",
        files: &["/slackware", "/slackware64", "/slackware-*"],
        kernels: &["/kernels/", "/huge.s/", "/generic.s/"],
        note: "it asks where its packages are: by NFS or HTTP they are on this medium here",
        ..ROW
    },
    Layout {
        name: "Proxmox installer",
        files: &["/.p??-cd-id.txt", "/pve-base.squashfs"],
        image_at: Some("proxmox.iso"),
        note: "clients load the whole image into memory behind its initramfs: they need more than \
               twice its size, and time",
        ..ROW
    },
    Layout {
        name: "ALT live layout",
        files: &["/live"],
        words: &["stagename=live"],
        way: Way::Images(&["/live"]),
        ..ROW
    },
    Layout {
        name: "ALT installer",
        words: &["stagename", "bootchain", "root=bootchain", "automatic=method:*"],
        way: Way::Own(&[
            "automatic=method:nfs,network:dhcp,server:{server},directory:{path}",
            "ip=dhcp",
        ]),
        ..ROW
    },
    Layout {
        name: "archiso layout",
        words: &["archisobasedir", "archisolabel", "archisosearchuuid", "archisodevice"],
        kernels: &["/arch/boot/"],
        way: Way::Archiso,
        ..ROW
    },
    Layout { name: "casper layout", kernels: &["/casper"], way: Way::Casper, ..ROW },
    Layout { name: "Debian live layout", kernels: &["/live"], way: Way::LiveBoot, ..ROW },
    Layout {
        name: "Slax",
        files: &["/*/*.sb"],
        without: &["from"],
        way: Way::Medium(&["from={dir:/*/*.sb}"]),
        ..ROW
    },
    Layout {
        name: "Porteus",
        files: &["/*/base/*.xzm"],
        way: Way::Images(&["/*/base/*.xzm", "/*/modules/*.xzm"]),
        ..ROW
    },
    Layout {
        name: "Knoppix",
        files: &["/KNOPPIX*/KNOPPIX[1-9]"],
        way: Way::Images(&["/KNOPPIX*/KNOPPIX", "/KNOPPIX*/KNOPPIX[1-9]"]),
        ..ROW
    },
    Layout {
        name: "Knoppix",
        files: &["/KNOPPIX*/KNOPPIX"],
        without: &["fromhd", "bootfrom", "knoppix_dir", "nfsdir", "tohd"],
        way: Way::Medium(&["knoppix_dir={dir:/KNOPPIX*/KNOPPIX}"]),
        ..ROW
    },
    Layout {
        name: "Manjaro",
        files: &["/*/x86_64/rootfs.sfs"],
        way: Way::Images(&[
            "/*/x86_64/rootfs.sfs",
            "/*/x86_64/desktopfs.sfs",
            "/*/x86_64/mhwdfs.sfs",
            "/*/x86_64/livefs.sfs",
        ]),
        ..ROW
    },
    Layout {
        name: "antiX and MX",
        files: &["/*/linuxfs"],
        way: Way::Images(&["/*/linuxfs"]),
        ..ROW
    },
    Layout {
        name: "Gentoo",
        words: &["looptype=squashfs", "cdroot"],
        // The name of its initramfs's /init, and no program of the root.
        without: &["init"],
        way: Way::Images(&["{loop}", "/image.squashfs"]),
        ..ROW
    },
    Layout {
        name: "Gentoo",
        files: &["/image.squashfs"],
        without: &["init"],
        way: Way::Images(&["/image.squashfs"]),
        ..ROW
    },
    Layout {
        name: "Mageia",
        files: &["/loopbacks/*.sqfs"],
        way: Way::Images(&["/loopbacks/*.sqfs"]),
        ..ROW
    },
    Layout {
        name: "PCLinuxOS",
        files: &["/livecd.sqfs"],
        way: Way::Images(&["/livecd.sqfs"]),
        ..ROW
    },
    Layout {
        name: "EasyOS",
        files: &["/easy.sfs", "/easyos/easy.sfs"],
        way: Way::Images(&["/easy.sfs", "/easyos/easy.sfs"]),
        ..ROW
    },
    Layout {
        name: "Puppy Linux",
        files: &["/puppy_*.sfs", "/*/puppy_*.sfs"],
        way: Way::Images(&[
            "/puppy_*.sfs",
            "/*/puppy_*.sfs",
            "/fdrv_*.sfs",
            "/*/fdrv_*.sfs",
            "/zdrv_*.sfs",
            "/*/zdrv_*.sfs",
        ]),
        ..ROW
    },
    Layout {
        name: "archiso layout",
        files: &["/*/*/airootfs.*"],
        // A child's own names for archiso's words.
        without: &["parabolaisobasedir", "parabolaisolabel"],
        way: Way::Archiso,
        ..ROW
    },
    Layout {
        name: "LiveOS layout",
        files: &["/LiveOS"],
        without: &["root"],
        // So that our /init takes it for one, wherever the medium is.
        way: Way::Medium(&["root=live:LABEL=LiveOS"]),
        own: LIVENET,
        ..ROW
    },
    Layout {
        name: "casper layout",
        files: &["/casper", "/casper*/*.squashfs"],
        way: Way::Casper,
        ..ROW
    },
    Layout {
        name: "Debian live layout",
        files: &["/live/*.squashfs", "/live/*/*.squashfs", "/live/filesystem.*"],
        way: Way::LiveBoot,
        ..ROW
    },
];

/// Words for dracut's livenet module.
const LIVENET: &[&str] = &["root=live:{http:/LiveOS/*.img}", "rd.neednet=1", "ip=dhcp"];

/// Words of installers that name a file on the medium, and those for a file on the network.
const ON_THE_MEDIUM: &[(&str, &str)] = &[
    ("inst.ks", "inst.ks"),
    ("ks", "ks"),
    ("inst.updates", "inst.updates"),
    ("inst.addrepo", "inst.addrepo"),
    ("autoyast", "autoyast"),
    ("file", "url"),
    ("preseed/file", "preseed/url"),
];

/// How such words say that a file is on the medium; the last with a device before its path.
const OF_THE_MEDIUM: &[&str] =
    &["/cdrom/", "/media/cdrom/", "cdrom:/", "cd:///", "cd:/", "file:///cdrom/", "hd:*:/"];

/// Words of our own, and of other ways over a network, with which a line names its root itself.
const NAMES_ROOT: &[&str] = &["bw.root", "bw.image", "bw.layers"];

/// Programs that make a medium itself a root file system.
const ROOTS: &[&str] = &["/sbin/init", "/usr/sbin/init", "/usr/lib/systemd/systemd"];

impl Layout {
    /// The row for an entry of a medium.
    pub fn of(tree: &Tree, entry: &Entry, more: &str) -> Self {
        let line = format!("{} {more}", entry.append);
        let has =
            |specs: &[&str]| specs.iter().any(|spec| line.split_whitespace().any(|w| is(w, spec)));
        let loads = |part: &&str| {
            let paths = std::iter::once(&entry.kernel).chain(&entry.initrd);
            paths.into_iter().any(|path| path.to_ascii_lowercase().contains(*part))
        };
        let there = |patterns: &[&str]| patterns.iter().any(|p| !tree.matching(p).is_empty());
        if has(NAMES_ROOT) {
            return ROOT;
        }
        let fits = |row: &&Self| {
            (row.files.is_empty() || there(row.files))
                && ((row.words.is_empty() && row.kernels.is_empty())
                    || has(row.words)
                    || row.kernels.iter().any(loads))
        };
        let row = LAYOUTS.iter().find(fits).copied();
        row.unwrap_or_else(|| if there(ROOTS) { ROOT } else { UNKNOWN })
    }

    /// The same system, booted by its own `/init`.
    #[must_use]
    pub fn with_own_init(self) -> Self {
        match self.way {
            Way::Medium(_) | Way::Images(_) => {
                let note = if self.own.is_empty() { ON_A_DRIVE } else { self.note };
                Self { way: Way::Own(self.own), note, ..self }
            }
            _ => self,
        }
    }

    /// Whether the medium's own `/init` boots it.
    pub fn has_own_init(&self) -> bool {
        matches!(self.way, Way::Own(_))
    }

    /// Whether it is a system's installer, or erases disks.
    pub fn installs(&self) -> bool {
        self.name.ends_with("installer") || self.name == "disk eraser"
    }

    /// Whether the medium's own `/init` finds the root by this line, too.
    pub fn own_init_knows_nfs(&self) -> bool {
        matches!(self.way, Way::LiveBoot | Way::Casper | Way::Archiso)
    }

    /// The command line with which the entry's kernel finds the medium over the network.
    pub fn line(&self, tree: &Tree, entry: &Entry, place: &Place, more: &str) -> String {
        let Place { server, port, path, .. } = place;
        let port = port.map_or_else(String::new, |port| format!(",port={port},mountport={port}"));
        let options = format!("vers=3,tcp,nolock{port}");
        let at = format!("{server}:{path}");
        let source = format!("bw.root=nfs:{at},{options}");
        let own = entry.append.split_whitespace().filter(|word| {
            // The value of a loader's variable is not known here.
            !word.contains('$') && !self.is_left_out(word, tree)
        });
        let mut kept: Vec<String> = own.map(str::to_owned).collect();
        let put_in = |word: &&str| put_in(word, tree, entry, place);
        let more = more.split_whitespace().map(str::to_owned);
        let mut words = match self.way {
            Way::LiveBoot | Way::Casper => {
                let casper = self.way == Way::Casper;
                let mut words = vec![
                    format!("boot={}", if casper { "casper" } else { "live" }),
                    "netboot=nfs".into(),
                    format!("nfsroot={at}"),
                    format!("nfsopts={options}"),
                    "ip=dhcp".into(),
                ];
                let usual = if casper { "/casper" } else { "/live" };
                let says = kept.iter().any(|word| is(word, "live-media-path"));
                if let Some(dir) = images_elsewhere(tree, usual).filter(|_| !says) {
                    words.push(format!("live-media-path={dir}"));
                }
                words
            }
            Way::Archiso => {
                let mut words = vec![
                    format!("archiso_nfs_srv={at}"),
                    format!("archiso_nfs_opt={options}"),
                    // Without this word it copies to memory if there is room.
                    "copytoram=n".into(),
                    "ip=dhcp".into(),
                ];
                let base = tree.matching("/*/*/airootfs.*").into_iter().next();
                let base = base.and_then(|path| path.split('/').nth(1).map(str::to_owned));
                if let Some(dir) = base.filter(|dir| {
                    dir != "arch" && !kept.iter().any(|word| is(word, "archisobasedir"))
                }) {
                    words.push(format!("archisobasedir={dir}"));
                }
                words
            }
            Way::Medium(added) => {
                let mut words = vec![source, "ip=dhcp".into()];
                words.extend(added.iter().filter_map(put_in));
                words
            }
            Way::Images(patterns) => {
                let named = kept.iter().find_map(|word| word.strip_prefix("loop="));
                let named = named.unwrap_or_default().to_owned();
                let mut images: Vec<String> = Vec::new();
                for pattern in patterns {
                    for path in tree.matching(&pattern.replace("{loop}", &named)) {
                        if tree.file(&path).is_some() && !images.contains(&path) {
                            images.push(path);
                        }
                    }
                }
                let images: Vec<&str> =
                    images.iter().map(|path| path.trim_start_matches('/')).collect();
                let layers = format!("bw.layers={}", images.join(","));
                let words = vec![source, layers, "bw.overlay".into(), "ip=dhcp".into()];
                // Its own initramfs would understand the others; here they are wrong.
                kept.retain(|word| fits(&words, word));
                words
            }
            Way::Own(added) => {
                let added: Vec<String> = added.iter().filter_map(put_in).collect();
                let name = |word: &str| word.split('=').next().map(str::to_owned);
                kept.retain(|word| added.iter().all(|new| name(new) != name(word)));
                kept.iter_mut().for_each(|word| from_here(word, tree, place));
                added
            }
        };
        words.extend(more);
        words.extend(kept);
        words.join(" ")
    }

    /// Whether a word of the medium's line is not for a client on the network.
    fn is_left_out(&self, word: &str, tree: &Tree) -> bool {
        let path = |word: &str| word.split_once('=').map_or("", |(_, path)| path).to_owned();
        self.without.iter().any(|spec| is(word, spec))
            || LOADERS.iter().any(|spec| is(word, spec))
            || (!self.has_own_init() && DROPPED.iter().any(|spec| is(word, spec)))
            // One that is true on the medium stays true over the network.
            || (is(word, "live-media-path") && tree.walk(path(word).trim_end_matches('/')).is_none())
    }
}

/// Words that only a boot loader uses.
const LOADERS: &[&str] = &["BOOT_IMAGE", "BOOTIF", "initrd"];

/// Words that say where the medium is, or what starts: they would contradict ours.
const DROPPED: &[&str] = &[
    "archiso_http_srv",
    "archiso_nfs_opt",
    "archiso_nfs_srv",
    "archisodevice",
    "archisolabel",
    "archisosearchfilename",
    "archisosearchuuid",
    "boot",
    "cdrom-detect/try-usb",
    "copytoram",
    "fetch",
    "file",
    "findiso",
    "fromiso",
    "img_dev",
    "img_loop",
    "ip",
    "iso-scan/filename",
    "live-media",
    "netboot",
    "nfsopts",
    "nfsroot",
    "rdinit",
    "toram",
    "url",
];

/// Whether a word is this one: `name` with or without a value, or `name=PATTERN`. `*` and `?` stand
/// for parts of either.
fn is(word: &str, spec: &str) -> bool {
    // GRUB puts a word with blanks into quotes as a whole.
    let word = word.trim_start_matches('"');
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    match spec.contains('=') {
        true => fnmatch(spec.as_bytes(), word.as_bytes()),
        false => fnmatch(spec.as_bytes(), name.as_bytes()),
    }
}

/// Whether a word goes with ours: the plan still works, and is the same but for this word.
fn fits(ours: &[String], word: &str) -> bool {
    let parse = |line: &str| cmdline::parse(line, &cmdline::Context::default());
    let (plain, more) = (ours.join(" "), format!("{} {word}", ours.join(" ")));
    let (plain, more) = (parse(&plain), parse(&more));
    more.can_work()
        && more.root == plain.root
        && more.dialect == plain.dialect
        && more.handoff.init == plain.handoff.init
}

/// The directory of the live system's images if it is not the usual one.
fn images_elsewhere(tree: &Tree, usual: &str) -> Option<String> {
    if !tree.matching(&format!("{usual}/*.squashfs")).is_empty() {
        return None;
    }
    let dir = |path: &String| path.rsplit_once('/').map(|(dir, _)| dir.to_owned());
    let places = [format!("{usual}*/*.squashfs"), format!("{usual}/*/*.squashfs")];
    let near = places.iter().find_map(|pattern| tree.matching(pattern).iter().find_map(dir));
    let any = || tree.matching("/*/*.squashfs").iter().find_map(dir);
    near.or_else(any)
}

/// A word of the table for this medium: `{http}` stands for its address, `{http:PATTERN}` for that
/// of the first file that fits, `{like:PATTERN}` for that of the file whose name ends as the
/// kernel's does, `{dir:PATTERN}` for the first file's directory, `{server}` and `{path}` for where
/// it is by NFS. Behind `?PATTERN` and a blank, a word counts only where such a file is. `None` without
/// the file.
fn put_in(word: &str, tree: &Tree, entry: &Entry, place: &Place) -> Option<String> {
    let word = match word.strip_prefix('?').and_then(|rest| rest.split_once(' ')) {
        Some((pattern, _)) if tree.matching(pattern).is_empty() => return None,
        Some((_, word)) => word,
        None => word,
    };
    let Place { server, path, http, .. } = place;
    let word = word.replace("{server}", &server.to_string()).replace("{path}", path);
    let Some((before, rest)) = word.split_once('{') else { return Some(word) };
    let (kind, pattern) = rest.strip_suffix('}')?.split_once(':').unwrap_or(("http", ""));
    let found = tree.matching(pattern);
    let found = match kind {
        "like" => {
            let flavour = entry.kernel.rsplit(['-', '/']).next().unwrap_or_default();
            found.iter().find(|path| path.contains(flavour)).or(found.first())?
        }
        _ => found.first()?,
    };
    if kind == "dir" {
        let dir = found.rsplit_once('/').map_or("", |(dir, _)| dir);
        // Knoppix writes it without a slash, Slax with one.
        let dir = if before == "from=" { dir } else { dir.trim_start_matches('/') };
        return Some(format!("{before}{dir}"));
    }
    let found = if pattern.is_empty() { "" } else { found };
    Some(format!("{before}http://{}{path}{found}", (*http)?))
}

/// Makes a word that names a file on the medium one that names it on the network.
fn from_here(word: &mut String, tree: &Tree, place: &Place) {
    let Some((name, value)) = word.split_once('=') else { return };
    let Some((_, new)) = ON_THE_MEDIUM.iter().find(|(old, _)| *old == name) else { return };
    let path = OF_THE_MEDIUM.iter().find_map(|start| match start.split_once('*') {
        Some((kind, end)) => value.strip_prefix(kind)?.split_once(end).map(|(_, path)| path),
        None => value.strip_prefix(start),
    });
    let path = path.map(|path| format!("/{}", path.trim_start_matches('/')));
    if let (Some(path), Some(http)) = (path.filter(|path| tree.file(path).is_some()), place.http) {
        *word = format!("{new}=http://{http}{}{path}", place.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn medium(files: &str) -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        for file in files.split_whitespace() {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let image =
                ["sfs", "sqfs", "squashfs", "img", "linuxfs"].iter().any(|e| file.ends_with(e));
            std::fs::write(path, if image { "hsqs" } else { "x" }).unwrap();
        }
        let tree = Tree::of_directory(dir.path()).unwrap();
        (dir, tree)
    }

    fn place() -> Place {
        let server = Ipv4Addr::new(10, 0, 0, 1);
        Place { server, port: None, http: Some(SocketAddrV4::new(server, 8080)), path: "/m".into() }
    }

    /// A medium's files, kernel and line; its row's name and a part of the line.
    const MEDIA: &[(&str, &str, &str, &str, &str)] = &[
        (
            "live/filesystem.squashfs",
            "/live/vmlinuz",
            "boot=live components quiet findiso=${iso_path}",
            "Debian live layout",
            "boot=live netboot=nfs nfsroot=10.0.0.1:/m nfsopts=vers=3,tcp,nolock ip=dhcp console=ttyS0 components",
        ),
        (
            "live/grml64-full/g.squashfs",
            "/boot/grml64full/vmlinuz",
            "boot=live live-media-path=/live/grml64-full/ bootid=x",
            "Debian live layout",
            "live-media-path=/live/grml64-full/",
        ),
        (
            "live/grml64-full/g.squashfs",
            "/boot/grml64full/vmlinuz",
            "boot=live",
            "Debian live layout",
            "live-media-path=/live/grml64-full",
        ),
        (
            "mylive/g.squashfs",
            "/mylive/vmlinuz",
            "boot=live live-media-path=/gone",
            "Debian live layout",
            "live-media-path=/mylive",
        ),
        (
            "casper/filesystem.squashfs",
            "/casper/vmlinuz",
            "--- quiet iso-scan/filename=x",
            "casper layout",
            "boot=casper",
        ),
        (
            "casper_pop-os_22.04/filesystem.squashfs",
            "/casper_pop-os_22.04/vmlinuz.efi",
            "boot=casper live-media-path=/casper_pop-os_22.04 hostname=pop-os",
            "casper layout",
            "live-media-path=/casper_pop-os_22.04",
        ),
        (
            "casper_pop-os_22.04/filesystem.squashfs",
            "/casper_pop-os_22.04/vmlinuz.efi",
            "hostname=pop-os",
            "casper layout",
            "live-media-path=/casper_pop-os_22.04",
        ),
        (
            "LiveOS/squashfs.img",
            "/images/pxeboot/vmlinuz",
            "root=live:CDLABEL=F rd.live.image",
            "LiveOS layout",
            "bw.root=nfs:10.0.0.1:/m",
        ),
        (
            "arch/x86_64/airootfs.sfs",
            "/arch/boot/x86_64/vmlinuz-linux",
            "archisobasedir=arch archisolabel=A",
            "archiso layout",
            "archiso_nfs_srv=10.0.0.1:/m",
        ),
        (
            "sysresccd/x86_64/airootfs.sfs",
            "/sysresccd/boot/x86_64/vmlinuz",
            "setkmap=us",
            "archiso layout",
            "archisobasedir=sysresccd",
        ),
        (
            "manjaro/x86_64/rootfs.sfs manjaro/x86_64/livefs.sfs",
            "/boot/vmlinuz-x86_64",
            "misobasedir=manjaro misolabel=M quiet",
            "Manjaro",
            "bw.layers=manjaro/x86_64/rootfs.sfs,manjaro/x86_64/livefs.sfs bw.overlay ip=dhcp console=ttyS0 ",
        ),
        (
            "slax/01-core.sb slax/boot/vmlinuz",
            "/slax/boot/vmlinuz",
            "from=/x load_ramdisk=1",
            "Slax",
            "from=/slax",
        ),
        (
            "porteus/base/001.xzm porteus/base/000.xzm",
            "/boot/syslinux/vmlinuz",
            "changes=/porteus",
            "Porteus",
            "bw.layers=porteus/base/000.xzm,porteus/base/001.xzm",
        ),
        (
            "KNOPPIX/KNOPPIX",
            "/boot/isolinux/linux",
            "lang=de apm=power-off",
            "Knoppix",
            "knoppix_dir=KNOPPIX",
        ),
        (
            "antiX/linuxfs antiX/vmlinuz",
            "/antiX/vmlinuz",
            "quiet splasht bdir=/antiX",
            "antiX and MX",
            "bw.layers=antiX/linuxfs",
        ),
        (
            "image.squashfs",
            "/boot/gentoo",
            "root=/dev/ram0 init=/linuxrc looptype=squashfs loop=/image.squashfs cdroot",
            "Gentoo",
            "bw.layers=image.squashfs",
        ),
        (
            "loopbacks/distrib-lzma.sqfs",
            "/boot/vmlinuz",
            "root=mgalive:LABEL=M",
            "Mageia",
            "bw.layers=loopbacks/distrib-lzma.sqfs",
        ),
        (
            "puppy_fossa64_9.5.sfs zdrv_fossa64_9.5.sfs",
            "/vmlinuz",
            "pmedia=cd",
            "Puppy Linux",
            "bw.layers=puppy_fossa64_9.5.sfs,zdrv_fossa64_9.5.sfs",
        ),
        (
            "live rescue",
            "/boot/vmlinuz",
            "root=bootchain bootchain=fg,altboot stagename=live",
            "ALT live layout",
            "bw.layers=live",
        ),
        ("sbin/init", "/boot/vmlinuz", "quiet", "layout of its own", " bw.overlay "),
        (
            "a",
            "/vmlinuz",
            "bw.image=a",
            "layout of its own",
            " bw.overlay console=ttyS0 bw.image=a",
        ),
        (
            "KNOPPIX/KNOPPIX KNOPPIX/KNOPPIX1 KNOPPIX/KNOPPIX2 KNOPPIX/modules/x.ko",
            "/boot/isolinux/linux",
            "lang=de",
            "Knoppix",
            "bw.layers=KNOPPIX/KNOPPIX,KNOPPIX/KNOPPIX1,KNOPPIX/KNOPPIX2",
        ),
        (
            "minios/01-kernel.sb minios/boot/vmlinuz",
            "/minios/boot/vmlinuz",
            "from=minios",
            "Slax",
            "from=/minios",
        ),
        (
            "livecd.squashfs",
            "/boot/kernel",
            "root=/dev/ram0 cdroot looptype=squashfs loop=/livecd.squashfs",
            "Gentoo",
            "bw.layers=livecd.squashfs",
        ),
        (
            "LiveOS/squashfs.img images/pxeboot/vmlinuz",
            "/images/pxeboot/vmlinuz",
            "quiet",
            "LiveOS layout",
            "ip=dhcp root=live:LABEL=LiveOS console=ttyS0 quiet",
        ),
        (
            "LiveOS/rootfs.img",
            "/boot/vmlinuz",
            "root=live:LABEL=CDROM rd.live.image rd.live.squashimg=rootfs.img",
            "LiveOS layout",
            "bw.root=nfs:10.0.0.1:/m",
        ),
    ];

    /// The same of those that keep their `/init`, with the whole line.
    const OWN: &[(&str, &str, &str, &str, &str)] = &[
        (
            "live/filesystem.squashfs install/vmlinuz",
            "/install/vmlinuz",
            "vga=788 --- quiet",
            "Debian installer",
            "vga=788 --- quiet",
        ),
        (".disk/mini-info", "/linux", "vga=788 --- quiet", "Debian installer", "vga=788 --- quiet"),
        (
            "images/install.img BaseOS/repodata/x",
            "/images/pxeboot/vmlinuz",
            "inst.stage2=hd:LABEL=R rd.live.check quiet",
            "Anaconda installer",
            "inst.stage2=http://10.0.0.1:8080/m inst.repo=http://10.0.0.1:8080/m ip=dhcp quiet",
        ),
        (
            "boot/x86_64/root boot/x86_64/loader/linux",
            "/boot/x86_64/loader/linux",
            "splash=silent",
            "openSUSE installer",
            "install=http://10.0.0.1:8080/m netsetup=dhcp splash=silent",
        ),
        (
            "apks/x boot/modloop-lts",
            "/boot/vmlinuz-lts",
            "modules=loop,squashfs quiet",
            "Alpine Linux",
            "alpine_repo=http://10.0.0.1:8080/m/apks modloop=http://10.0.0.1:8080/m/boot/modloop-lts ip=dhcp modules=loop,squashfs quiet",
        ),
        ("boot/core.gz", "/boot/vmlinuz", "loglevel=3 cde", "Tiny Core", "loglevel=3"),
        (
            "images/pxeboot/rootfs.img",
            "/images/pxeboot/vmlinuz",
            "coreos.liveiso=fedora ignition.firstboot",
            "Fedora CoreOS",
            "coreos.live.rootfs_url=http://10.0.0.1:8080/m/images/pxeboot/rootfs.img rd.neednet=1 ip=dhcp ignition.firstboot",
        ),
        (
            "apks/x boot/modloop-lts boot/modloop-virt boot/vmlinuz-virt",
            "/boot/vmlinuz-virt",
            "modules=loop",
            "Alpine Linux",
            "alpine_repo=http://10.0.0.1:8080/m/apks modloop=http://10.0.0.1:8080/m/boot/modloop-virt ip=dhcp modules=loop",
        ),
        (
            "images/install.img osbuild.ks",
            "/images/pxeboot/vmlinuz",
            "inst.stage2=hd:LABEL=R inst.ks=hd:LABEL=R:/osbuild.ks",
            "Anaconda installer",
            "inst.stage2=http://10.0.0.1:8080/m ip=dhcp inst.ks=http://10.0.0.1:8080/m/osbuild.ks",
        ),
        (
            "install.amd/vmlinuz own.preseed",
            "/install.amd/vmlinuz",
            "preseed/file=/cdrom/own.preseed quiet",
            "Debian installer",
            "preseed/url=http://10.0.0.1:8080/m/own.preseed quiet",
        ),
        (
            "altinst boot/vmlinuz",
            "/boot/vmlinuz",
            "root=bootchain bootchain=fg,altboot automatic=method:cdrom,uuid:x stagename=altinst",
            "ALT installer",
            "automatic=method:nfs,network:dhcp,server:10.0.0.1,directory:/m ip=dhcp root=bootchain bootchain=fg,altboot stagename=altinst",
        ),
        (
            ".pve-cd-id.txt pve-base.squashfs",
            "/boot/linux26",
            "ro ramdisk_size=16777216 rw quiet",
            "Proxmox installer",
            "ro ramdisk_size=16777216 rw quiet",
        ),
        ("any/where/root.sfs", "/vmlinuz", "magic=1", "unknown layout", "magic=1"),
        (
            "nix-store.squashfs",
            "/boot/bzImage",
            "root=LABEL=nixos-x",
            "NixOS",
            "root=LABEL=nixos-x",
        ),
        ("boot/vmlinuz", "/boot/vmlinuz", "rw", "unknown layout", "rw"),
        (
            "gnu/store/x-system",
            "/gnu/store/x-linux-libre/bzImage",
            "root=3139 gnu.system=/gnu/store/x-system gnu.load=/gnu/store/x-system/boot",
            "Guix System",
            "root=3139 gnu.system=/gnu/store/x-system gnu.load=/gnu/store/x-system/boot",
        ),
        (
            "system.sfs",
            "/kernel",
            "root=/dev/ram0 androidboot.selinux=permissive quiet SRC= DATA=",
            "Android-x86",
            "root=/dev/ram0 androidboot.selinux=permissive quiet SRC= DATA=",
        ),
        (
            "boot/x86_64/loader/linux",
            "/boot/x86_64/loader/linux",
            "root=install:CDLABEL=INSTALL",
            "kiwi installer",
            "root=install:CDLABEL=INSTALL",
        ),
        ("boot/shredos", "/boot/shredos", "console=tty3", "disk eraser", "console=tty3"),
        (
            "slackware64/a kernels/huge.s/bzImage",
            "/kernels/huge.s/bzImage",
            "nomodeset SLACK_KERNEL=huge.s",
            "Slackware installer",
            "nomodeset SLACK_KERNEL=huge.s",
        ),
    ];

    #[test]
    fn systems_that_our_init_boots() {
        for (files, kernel, append, name, part) in MEDIA {
            let (_dir, tree) = medium(files);
            let entry =
                Entry { kernel: (*kernel).into(), append: (*append).into(), ..Entry::default() };
            let row = Layout::of(&tree, &entry, "");
            assert_eq!((row.name, row.has_own_init()), (*name, false), "{files}");
            let line = row.line(&tree, &entry, &place(), "console=ttyS0");
            assert!(format!("{line} ").contains(part) && !line.contains('$'), "{line}");
            let plan = cmdline::parse(&line, &cmdline::Context::default());
            assert!(plan.can_work(), "{line}: {}", plan.warnings_text());
            assert!(format!("{:?}", plan.root.sources).contains("Nfs("), "{line}");
        }
    }

    /// The table in docs/share.md is what this run makes of the media here. Its last column is
    /// written by the scenario that boots them.
    #[test]
    fn the_documented_table_is_what_is_done() {
        let docs = include_str!("../../docs/share.md");
        let rows: Vec<&str> = docs.lines().filter(|row| row.starts_with("| ")).collect();
        let mut lacking = Vec::new();
        for (files, kernel, append, _, _) in MEDIA.iter().chain(OWN) {
            let (_dir, tree) = medium(files);
            let entry =
                Entry { kernel: (*kernel).into(), append: (*append).into(), ..Entry::default() };
            let row = Layout::of(&tree, &entry, "");
            let line = row.line(&tree, &entry, &place(), "");
            let init = if row.has_own_init() { "its own" } else { "ours" };
            let names = files.split_whitespace().collect::<Vec<_>>().join("`, `");
            let wanted = format!("| {} | `{names}` | `{append}` | `{line}` | {init} | ", row.name);
            if !rows.iter().any(|row| row.starts_with(&wanted)) {
                lacking.push(format!("{wanted}not tried |"));
            }
        }
        assert!(lacking.is_empty(), "no rows in docs/share.md:\n{}", lacking.join("\n"));
    }

    #[test]
    fn own_init_on_request() {
        let line = |files: &str, append: &str| {
            let (_dir, tree) = medium(files);
            let (kernel, append) = ("/v".to_owned(), append.to_owned());
            let entry = Entry { kernel, append, ..Entry::default() };
            let row = Layout::of(&tree, &entry, "").with_own_init();
            (row.line(&tree, &entry, &place(), ""), row.note)
        };
        let (text, note) = line("LiveOS/squashfs.img", "root=live:CDLABEL=F rd.live.image");
        let found = "root=live:http://10.0.0.1:8080/m/LiveOS/squashfs.img rd.neednet=1 ip=dhcp";
        assert_eq!((text.as_str(), note), (format!("{found} rd.live.image").as_str(), ""));
        let (text, note) = line("antiX/linuxfs", "quiet bdir=/antiX toram");
        assert_eq!((text.as_str(), note), ("quiet bdir=/antiX toram", ON_A_DRIVE));
        assert!(line("live/x.squashfs", "boot=live").0.contains("nfsroot=10.0.0.1:/m "));
    }

    #[test]
    fn installers_and_systems_in_memory_keep_their_init() {
        for (files, kernel, append, name, line) in OWN {
            let (_dir, tree) = medium(files);
            let entry =
                Entry { kernel: (*kernel).into(), append: (*append).into(), ..Entry::default() };
            let row = Layout::of(&tree, &entry, "");
            assert_eq!((row.name, row.has_own_init()), (*name, true), "{files}");
            assert_eq!(row.line(&tree, &entry, &place(), ""), *line);
        }
    }
}
