//! Ubuntu's casper.
//!
//! Read from casper 1.470 (22.04) with its differences back to 14.04. On purpose
//! otherwise: any network boot without a usable `ip=` gets DHCP, as casper did until
//! 19.04 and users expect; `netboot=url` takes squashfs images too; `nfsroot=`
//! implies `netboot=nfs`; NFS v4 and names are fine; no partition is ever created.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::ip::{Form, Method};
#[cfg(feature = "all")]
use crate::plan::Fate;
use crate::plan::{
    BootPlan, CifsSource, Content, Dialect, ImagePick, Marker, Payload, PersistPlan, Retry,
    Seconds, Source, ToRam, UnionKind, UnionPlan, Upper, UrlSource, Writable,
};
use crate::secrets::Private;
use crate::table::{Draft, Grammar, strings, text, words};
use crate::{base, net, nfsroot, own, source, value};

words! { CASPER, CASPER_DOCS:
    "boot" Text Soft "casper selects this dialect.";
    "netboot" OptText Keep "nfs, cifs or url: the medium comes over the network; also http with fetch=URL, as rebuilt media have it.";
    "nfsroot" OptText Keep "SERVER:PATH of the medium, //SERVER/SHARE for CIFS; auto or absent takes DHCP's root path.";
    "nfsopts" Text Keep "Further mount options (read by casper until 18.04).";
    "url" Text Soft "URL of an ISO or squashfs; implies netboot=url when it ends in .iso, .squashfs or another image's suffix. Otherwise it is the installer's preseed URL.";
    "iso-url" Text Keep "URL of an ISO (22.10 and later).";
    "live-media" Text Keep "This device (or directory of the initramfs) is looked at first, without a check of its UUID.";
    "bootfrom" Text Local "Old name of live-media=.";
    "live-media-path" Text Keep "Directory of the images on the medium; casper.";
    "live-media-offset" Text Idle "Offsets are found from the image itself.";
    "live-media-timeout" Number Keep "Seconds to keep scanning.";
    "layerfs-path" Text Keep "The top image; its dotted name gives the ones below.";
    "iso-scan/filename" Text Keep "An ISO file with this path on any disk is the medium.";
    "uuid" Text Keep "The medium must have this UUID in .disk/casper-uuid*, or as its own.";
    "ignore_uuid" Flag Keep "Any medium will do.";
    "toram" Flag Keep "Copy the medium to memory.";
    "todisk" Text Idle "Copying the medium to a disk is not done; use toram, or install it.";
    "persistent" Flag Keep "Keep changes on a volume or file labelled writable or casper-rw.";
    "nopersistent" Flag Keep "Keep no changes.";
    "persistent-path" Text Keep "Directory of the persistence file.";
    "showmounts" Flag Keep "Show the layers under /casper.";
    "show-cow" Flag Keep "The same.";
    "union" Text Keep "overlay or aufs (read by casper until 18.04).";
    "username" Text Setting "Name of the live user.";
    "userfullname" Text Setting "Full name of the live user.";
    "hostname" Text Setting "Host name of the live system.";
    "locale" Text Setting "Language of the live system.";
    "debian-installer/locale" Text Setting "The same.";
    "keyboard-configuration/*" Text Setting "layoutcode, variantcode, modelcode, optionscode: the keyboard of the live system.";
    "console-setup/*" Text Setting "The same.";
    "console-keymaps-at/*" Text Setting "keymap: its layout.";
}

/// For casper-bottom and the live system.
const PASS: &str = "noprompt noeject debian-installer/* console-keymaps* file preseed/* auto textonly only-ubiquity automatic-ubiquity \
    maybe-ubiquity access* automatic* autoinstall subiquity/* snapd* cdrom-detect/* netcfg/* netboot-url \
    languagechooser/* countrychooser/* oem-config/* splash cloud-init ds network-config ---";

pub(crate) static GRAMMAR: Grammar = Grammar {
    dialect: Dialect::Casper,
    tables: &[&own::OWN, &own::P2V, &CASPER, &net::NET, &base::BASE],
    pass: PASS,
    first_wins: false,
    splits_quotes: true,
    build,
};

/// Rounds for what is fetched: casper tries once, but servers start late.
pub(crate) const FETCH_RETRY: Retry =
    Retry { attempts: 10, pause: Seconds(1), max_pause: Seconds(10) };

fn build(d: &mut Draft<'_>, plan: &mut BootPlan) {
    plan.root.retry = base::rounds(60, 1);
    let content = content(d);
    plan.root.content = content.clone();
    match sources(d, plan) {
        Some(sources) => plan.root.sources = sources,
        None => local(d, plan),
    }
    if d.has("toram") {
        plan.root.to_ram = ToRam::Medium;
    }
    plan.writable = writable(d);
    plan.handoff.show_layers = d.has("showmounts") | d.has("show-cow");
    network(d, plan);
}

fn content(d: &mut Draft<'_>) -> Content {
    let dir = image_dir(d, "casper");
    let layerfs = d.get("layerfs-path").or(Some(d.cx.layerfs_path)).filter(|p| !p.is_empty());
    let layerfs = layerfs.filter(|path| path.len() <= 1024);
    let pick = match layerfs.map(layers) {
        Some(names) => ImagePick::Named(names),
        None => ImagePick::Suffixes {
            groups: [".ext2", ".squashfs", ".dir"].map(|s| alloc::vec![s.to_string()]).to_vec(),
            skip: strings(&["ltsp.squashfs", "server.squashfs"]),
            module_list: Vec::new(),
            per_mac: false,
        },
    };
    Content::Images(source::rule(&[&dir], pick, &[]))
}

/// `live-media-path=`, or the dialect's own directory.
pub(crate) fn image_dir(d: &mut Draft<'_>, default: &str) -> String {
    let Some(dir) = d.get("live-media-path") else { return default.to_string() };
    value::inside(dir).unwrap_or_else(|| {
        d.warn_word("live-media-path", dir, &("leads out of the medium and was left out", ""));
        default.to_string()
    })
}

/// `a.b.c.squashfs` stands on `a.b.squashfs`, which stands on `a.squashfs`.
fn layers(path: &str) -> Vec<String> {
    let (dir, file) = match path.rsplit_once('/') {
        Some((dir, file)) => (text(&[dir, "/"]), file),
        None => (String::new(), path),
    };
    let Some((stem, suffix)) = file.rsplit_once('.') else { return alloc::vec![path.to_string()] };
    let mut names = Vec::new();
    let mut stem = stem;
    loop {
        names.insert(0, text(&[&dir, stem, ".", suffix]));
        match stem.rsplit_once('.') {
            Some((shorter, _)) if !shorter.is_empty() && names.len() < 64 => stem = shorter,
            _ => return names,
        }
    }
}

fn is_image(suffix: Option<&str>) -> bool {
    matches!(suffix, Some("iso" | "squashfs" | "sfs" | "erofs" | "img" | "ext2" | "ext4"))
}

/// The URL of `netboot=http fetch=URL`, which rebuilt Ubuntu media have.
#[cfg(feature = "all")]
fn fetched<'a>(d: &mut Draft<'a>) -> Option<&'a str> {
    let token = d.tokens().filter(|t| t.name == "fetch").last()?;
    d.mark(Fate::Used, |t| *t == token);
    token.value.filter(|url| !url.is_empty())
}

/// Network sources, `None` for a local boot.
fn sources(d: &mut Draft<'_>, plan: &mut BootPlan) -> Option<Vec<Source>> {
    let url_is_image =
        |d: &Draft<'_>| d.peek("url").is_some_and(|u| is_image(value::suffix(u).as_deref()));
    let netboot = match d.get("netboot") {
        _ if d.peek("iso-url").is_some() || url_is_image(d) => "url",
        Some("") => "nfs",
        Some(word) => word,
        None if d.peek("nfsroot").is_some() => {
            d.warn(
                "nfsroot",
                &("is taken as netboot=nfs, which casper itself would want to see", "netboot=nfs"),
            );
            "nfs"
        }
        None => return None,
    };
    #[cfg(feature = "all")]
    let fetch = if netboot == "http" { fetched(d) } else { None };
    #[cfg(not(feature = "all"))]
    let fetch = None;
    if netboot == "url" || fetch.is_some() {
        let (name, url) = if let Some(url) = fetch {
            ("fetch", url)
        } else if d.peek("iso-url").is_some() || d.peek("url").is_some() {
            d.get_any(&["iso-url", "url"])?
        } else {
            d.fatal("netboot=url", &("needs a URL", "url=http://SERVER/PATH.iso"));
            return Some(Vec::new());
        };
        plan.root.retry = FETCH_RETRY;
        let proxy = None;
        return Some(match source::fetchable(url) {
            Ok(_) => {
                let payload = match value::suffix(url).as_deref() {
                    Some("iso") => Payload::Medium,
                    Some("squashfs" | "sfs" | "erofs" | "ext2" | "ext4") => Payload::Image,
                    _ => Payload::Sniff,
                };
                if payload != Payload::Medium
                    && let Content::Images(rule) = &plan.root.content
                {
                    plan.root.content = Content::Either(rule.clone());
                }
                alloc::vec![Source::Url(UrlSource { url: Private::word(url), payload, proxy })]
            }
            Err(why) => {
                d.fatal_word(name, url, &(why, "url=http://SERVER/PATH.iso"));
                Vec::new()
            }
        });
    }
    let opts = d.get("nfsopts").unwrap_or_default();
    let root = d.get("nfsroot").unwrap_or_default();
    Some(share(d, root, opts, netboot))
}

/// `nfsroot=` as casper and live-boot read it: `//server/share` is CIFS, anything
/// else NFS. Both try CIFS first unless told `nfs`; a `server:/path` is no share
/// that a CIFS server could have, so that is skipped.
pub(crate) fn share(d: &mut Draft<'_>, root: &str, opts: &str, netboot: &str) -> Vec<Source> {
    if let Some(share) = root.strip_prefix("//") {
        let (host, share) = share.split_once('/').unwrap_or((share, ""));
        let server = value::server(host).filter(|_| !host.is_empty() && !share.is_empty());
        let Some(server) = server else {
            d.fatal_word("nfsroot", root, &("is not //SERVER/SHARE", "nfsroot=//10.0.0.1/live"));
            return Vec::new();
        };
        let mut options: Vec<Private> =
            value::list(opts).iter().map(|option| Private::word(option)).collect();
        if options.is_empty() {
            options = crate::source::cifs_login("root", "");
        }
        return alloc::vec![Source::Cifs(CifsSource {
            server,
            share: share.to_string(),
            options,
            read_write: false,
        })];
    }
    if netboot == "cifs" {
        d.warn_word(
            "nfsroot",
            root,
            &(
                "is an NFS path, although netboot=cifs; it is mounted by NFS",
                "nfsroot=//SERVER/SHARE for CIFS",
            ),
        );
    }
    match nfsroot::parse(root) {
        Ok(mut nfs) => {
            nfsroot::apply_options(&mut nfs, opts);
            // The medium is read-only under the layers.
            nfs.read_write = false;
            alloc::vec![Source::Nfs(nfs)]
        }
        Err(why) => {
            d.fatal_word("nfsroot", root, &(why, "nfsroot=10.0.0.1:/srv/live"));
            Vec::new()
        }
    }
}

fn local(d: &mut Draft<'_>, plan: &mut BootPlan) {
    let mut rule = source::scan(true, true);
    let ignore = d.has("ignore_uuid");
    let uuid = d.get("uuid").unwrap_or(d.cx.medium_uuid);
    if !uuid.is_empty() && !ignore {
        rule.marker =
            Some(Marker::DiskUuid { prefix: "casper-uuid".to_string(), uuid: uuid.to_string() });
    }
    if let Some(path) = d.get("iso-scan/filename") {
        plan.root.sources = iso_file(d, "iso-scan/filename", path);
        return;
    }
    let sources = &mut plan.root.sources;
    if let Some((name, media)) = d.get_any(&["live-media", "bootfrom"]) {
        match live_media(media) {
            Some(source) => sources.push(source),
            None => d.warn_word(
                name,
                media,
                &("is neither a device nor a directory", "live-media=/dev/sdb1"),
            ),
        }
    }
    sources.push(Source::Scan(rule));
    if let Some(seconds) = d.number("live-media-timeout") {
        plan.root.retry.attempts = seconds.max(1);
    }
}

/// A device, a file on a device (`/dev/sda1/path.iso`), or a directory of the initramfs.
pub(crate) fn live_media(media: &str) -> Option<Source> {
    if value::suffix(media).as_deref() == Some("iso") {
        return device_file(media);
    }
    if let Some(device) = value::device(media) {
        return Some(Source::Device(device));
    }
    media.starts_with('/').then(|| Source::Initramfs(media.to_string()))
}

/// `/dev/sda1/path/x.iso`, `LABEL=x/path/x.iso`: a device, then a path on it. Without a
/// device, a file of the initramfs.
pub(crate) fn device_file(path: &str) -> Option<Source> {
    let tagged = path.split_once('=').is_some_and(|(tag, _)| {
        matches!(tag, "LABEL" | "UUID" | "PARTUUID" | "PARTLABEL" | "CDLABEL")
    });
    let depth = if tagged {
        1
    } else if path.starts_with("/dev/disk/by-") {
        5
    } else if path.starts_with("/dev/mapper/") {
        4
    } else if path.starts_with("/dev/") {
        3
    } else if path.starts_with('/') {
        return Some(Source::Initramfs(path.to_string()));
    } else {
        return None;
    };
    let (at, _) = path.match_indices('/').nth(depth - 1)?;
    let (device, file) = path.split_at_checked(at)?;
    let file = value::inside(file).filter(|f| !f.is_empty())?;
    Some(Source::File {
        on: Box::new(Source::Device(value::device(device)?)),
        path: value::absolute(&file),
    })
}

/// A file looked for on every file system.
pub(crate) fn iso_file(d: &mut Draft<'_>, name: &str, path: &str) -> Vec<Source> {
    if path.starts_with("/dev/")
        && let Some(source) = device_file(path)
    {
        return alloc::vec![source];
    }
    match value::inside(path).filter(|p| !p.is_empty()) {
        Some(path) => {
            let rule = source::scan(true, true);
            alloc::vec![Source::File {
                on: Box::new(Source::Scan(rule)),
                path: value::absolute(&path)
            }]
        }
        None => {
            d.fatal_word(name, path, &("is no path of a file", "a path like /images/live.iso"));
            Vec::new()
        }
    }
}

fn writable(d: &mut Draft<'_>) -> Writable {
    // `toram` implies `nopersistent` unless `persistent` is written as well.
    let off = d.has("nopersistent");
    let on = d.has("persistent") && !off;
    let kind = union_kind(d);
    let upper = if on {
        let path =
            d.text("persistent-path").and_then(|p| value::inside(&p)).map(|p| value::absolute(&p));
        Upper::Persistent({
            let mut persist = PersistPlan::new();
            persist.labels = strings(&["writable", "casper-rw"]);
            persist.home_labels = alloc::vec!["home-rw".to_string()];
            persist.path = path;
            persist.filesystem = true;
            persist.file = true;
            persist
        })
    } else {
        Upper::Tmpfs { size: String::new() }
    };
    Writable::Union(UnionPlan { kind, upper, options: Vec::new() })
}

/// `union=`.
pub(crate) fn union_kind(d: &mut Draft<'_>) -> UnionKind {
    match d.get("union") {
        None | Some("overlay" | "overlayfs") => UnionKind::Overlay,
        Some("aufs") => UnionKind::Aufs,
        Some(other) => {
            d.warn_word("union", other, &("is neither overlay nor aufs; overlay is used", ""));
            UnionKind::Overlay
        }
    }
}

fn network(d: &mut Draft<'_>, plan: &mut BootPlan) {
    let needed = source::needs_network(plan);
    let given = d.peek("ip").or(d.peek("nfsaddrs"));
    if matches!(given, Some("frommedia")) {
        // Leave the live system's network files alone; nothing about our own network.
        let _ = d.get("ip");
        plan.handoff.keep_network = true;
        if needed {
            plan.network =
                Some(net::plan(d, None, net::Extra { required: true, ..Default::default() }));
        }
        return;
    }
    let ip = net::read_ip(d, Form::Kernel);
    let off = ip.as_ref().is_some_and(|ip| ip.method == Method::Off && ip.client.is_none());
    let asked = given.is_some_and(|v| !v.is_empty()) && !off;
    if needed || asked {
        plan.network =
            Some(net::plan(d, ip, net::Extra { required: needed, ..Default::default() }));
    }
}
