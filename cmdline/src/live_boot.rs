//! Debian's live-boot.
//!
//! Read from live-boot 1:20230131+deb12u1. On purpose otherwise: every link is asked
//! at once; names, NFS v4 and any port work; `fetch=` needs no particular suffix;
//! a kernel-style `ip=` (pxelinux's, `ip=dhcp`) is honoured although live-boot reads
//! that word as a description of the live system's interfaces; `verify-checksums`
//! does not reboot a machine whose medium is good.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::casper::{self, device_file, image_dir, iso_file, live_media, union_kind};
use crate::ip::{self, Form, Method};
use crate::plan::{
    BootPlan, Content, Dialect, ImagePick, Integrity, LinkChoice, Marker, OnCorruption, Payload,
    PersistPlan, Seconds, Source, ToRam, UnionKind, UnionPlan, Upper, UrlSource, Writable,
};
use crate::secrets::Private;
use crate::table::{Draft, Grammar, strings, text, words};
use crate::text;
use crate::{base, bootif, kernel, net, nfsroot, own, source, value};

words! { LIVE, LIVE_DOCS:
    "boot" Text Soft "live selects this dialect.";
    "netboot" OptText Keep "nfs (also alone) or cifs: the medium comes over the network.";
    "nfsroot" OptText Keep "[SERVER:]PATH of the medium, //SERVER/SHARE for CIFS; auto or absent takes DHCP's root path.";
    "nfsopts" Text Keep "Further NFS options, or all options for CIFS.";
    "nfsoverlay" Text Keep "SERVER:PATH[,OPTIONS]: changes are kept there; client_mac_address in it is replaced.";
    "fetch" Text Keep "URL of an ISO, a squashfs, or a tar archive, fetched to memory.";
    "httpfs" Text Keep "The same; it is fetched, not mounted.";
    "ftpfs" Text Keep "The same.";
    "iscsi" Text Keep "iSCSI is not spoken.";
    "dns" Text Keep "Further name servers, separated by commas.";
    "dhcp" Flag Keep "The live system asks DHCP itself, even after a network boot.";
    "nodhcp" Flag Keep "The live system never asks DHCP.";
    "nonetworking" Flag Keep "Leave the live system's network files alone.";
    "nofstab" Flag Keep "Leave the live system's fstab alone.";
    "skipconfig" Flag Keep "Both of these.";
    "ethdevice" Text Keep "Only these network devices, separated by commas.";
    "ethdevice-timeout" Number Keep "Seconds to wait for a carrier.";
    "live-netdev" Text Keep "Only this network device, or the one with this hardware address.";
    "live-media" Text Keep "A device or directory looked at first, or removable, or removable-usb.";
    "bootfrom" Text Local "The same.";
    "live-media-path" Text Keep "Directory of the images on the medium; live.";
    "live-media-offset" Text Idle "Offsets are found from the image itself.";
    "live-media-timeout" Number Keep "Seconds before media are looked for by themselves.";
    "findiso" Text Keep "An ISO file with this path on any disk is the medium.";
    "fromiso" Text Keep "[FSTYPE:]DEVICE/PATH of an ISO file; the file system is found out.";
    "isofrom" Text Keep "The same.";
    "ignore_uuid" Flag Keep "Any medium will do.";
    "uuid" Text Local "The medium must have this UUID.";
    "module" Text Local "NAME: the list of layers is filesystem.NAME.module or NAME.module.";
    "toram" OptText Keep "Copy the medium to memory, or only the image named.";
    "todisk" Text Idle "Copying the medium to a disk is not done; use toram, or install it.";
    "ramdisk-size" Text Idle "The copy takes what it needs, after a look at the memory that is free.";
    "overlay-size" Size Keep "Size of the changes in memory: 512M, 75%.";
    "union" Text Keep "overlay or aufs.";
    "exposedroot" Flag Keep "The root stays read-only; only /var/tmp, /home and the like are writable.";
    "skipunion" Flag Keep "With exposedroot: nothing is writable.";
    "plainroot" Flag Keep "root= is the root itself; no images are looked for.";
    "persistence" Flag Keep "Keep changes on a volume or file labelled persistence that holds persistence.conf.";
    "nopersistence" Flag Keep "Keep no changes.";
    "persistence-label" Text Keep "Other labels, separated by commas.";
    "persistence-storage" Text Keep "Any of filesystem, file, directory; filesystem,file.";
    "persistence-media" Text Keep "removable or removable-usb: nowhere else.";
    "persistence-encryption" Text Keep "Any of none, luks, lukslabel; none.";
    "persistence-method" Text Idle "overlay is the only method.";
    "persistence-path" Text Keep "Directory of the persistence file.";
    "persistence-read-only" Flag Keep "Changes of this session stay in memory, above the kept ones.";
    "persistence-remove" Flag Keep "Empty the persistence first.";
    "quickusbmodules" Flag Idle "Drivers are loaded as devices appear; there is nothing to skip.";
    "read-only" OptText Keep "Set these block devices read-only first; /dev/sd* and /dev/vd*.";
    "swap" OptText Keep "Add swap partitions on these devices to the fstab; /dev/sd* and /dev/vd*.";
    "verify-checksums" OptText Keep "Hold the medium to its checksum files; algorithms in order of preference.";
    "dm-verity-root-hash" Text Keep "IMAGE:HASH[,…]: the image is read through dm-verity.";
    "dm-verity-oncorruption" Text Keep "ignore, panic or restart; an I/O error when not given.";
    "dm-verity-enforce-roothash-signature" Flag Keep "Signatures of root hashes are not checked.";
    "live-boot.debug" Flag Soft "Everything on the console.";
    "username" Text Setting "For live-config.";
    "hostname" Text Setting "For live-config.";
}

/// For live-config and live-tools.
const PASS: &str = "noeject noprompt components nocomponents user-fullname user-default-groups locales locale \
    keyboard-* timezone utc hooks live-config live-config.* config xorg-* sudo noroot noautologin nottyautologin \
    nox11autologin x-session-manager desktop desktop-conf quiet splash live-snapshot live-getty \
    memtest noswap ocs_* ocs-* bootid netscript ssh services skipconfig systemd-show findpreseed toram-eject";

pub(crate) static GRAMMAR: Grammar = Grammar {
    dialect: Dialect::LiveBoot,
    tables: &[&own::OWN, &own::P2V, &LIVE, &net::NET, &base::BASE],
    pass: PASS,
    first_wins: false,
    splits_quotes: true,
    build,
};

/// Suffixes of images, as one group: live-boot sorts them together.
const SUFFIXES: [&str; 7] = [".squashfs", ".ext2", ".ext3", ".ext4", ".xfs", ".jffs2", ".dir"];

/// What `exposedroot` makes writable.
const EXPOSED: [&str; 7] =
    ["/var/tmp", "/var/lock", "/var/run", "/var/log", "/var/spool", "/home", "/var/lib/live"];

/// Devices of `read-only` and `swap` without a value.
const DISKS: [&str; 2] = ["/dev/sd*", "/dev/vd*"];

fn build(d: &mut Draft<'_>, plan: &mut BootPlan) {
    plan.log.debug |= d.has("live-boot.debug");
    plan.root.retry = base::rounds(60, 1);
    let module = d.get("module").unwrap_or("filesystem");
    let mut lists = alloc::vec![text(&[module, ".module"])];
    if module != "filesystem" {
        lists.insert(0, text(&["filesystem.", module, ".module"]));
    }
    let rule = source::rule(
        &[&image_dir(d, "live")],
        ImagePick::Suffixes {
            groups: alloc::vec![strings(&SUFFIXES)],
            skip: Vec::new(),
            module_list: lists,
            per_mac: true,
        },
        &[],
    );
    plan.root.content = Content::Images(rule.clone());
    if !network_sources(d, plan) {
        local(d, plan);
    }
    match d.get("toram") {
        Some("") => plan.root.to_ram = ToRam::Medium,
        Some(file) => plan.root.to_ram = ToRam::Image(Some(file.to_string())),
        None => {}
    }
    if let Some(devices) = d.get("read-only") {
        plan.root.protect = devices_of(devices);
    }
    if let Some(devices) = d.get("swap") {
        plan.handoff.swap = devices_of(devices);
    }
    integrity(d, plan);
    writable(d, plan);
    network(d, plan);
    let skip = d.has("skipconfig");
    plan.handoff.keep_fstab = d.has("nofstab") | skip;
    plan.handoff.keep_network |= d.has("nonetworking") | skip;
    for word in ["dhcp", "nodhcp"] {
        if d.has(word) {
            plan.handoff.settings.push((word.to_string(), String::new()));
        }
    }
}

fn devices_of(value: &str) -> Vec<String> {
    let list: Vec<String> =
        value::list(value).into_iter().filter(|item| item.starts_with("/dev/")).collect();
    if list.is_empty() { strings(&DISKS) } else { list }
}

/// Sources over the network; false for a local boot.
fn network_sources(d: &mut Draft<'_>, plan: &mut BootPlan) -> bool {
    if let Some((name, url)) = d.get_any(&["fetch", "httpfs", "ftpfs"]) {
        let word = Draft::word(name, url);
        if name != "fetch" {
            d.warn(
                &word,
                &("is fetched to memory, not mounted", "netboot=nfs needs no copy in memory"),
            );
        }
        plan.root.retry = casper::FETCH_RETRY;
        match source::fetchable(url) {
            Ok(_) => {
                let payload = match value::suffix(url).as_deref() {
                    Some("iso") => Payload::Medium,
                    Some("squashfs" | "ext2" | "ext3" | "ext4" | "xfs") => Payload::Image,
                    Some("tgz" | "tar") => Payload::Archive,
                    Some("gz" | "xz" | "zst") if text::has(url, ".tar.") => Payload::Archive,
                    _ => Payload::Sniff,
                };
                if payload != Payload::Medium
                    && let Content::Images(rule) = &plan.root.content
                {
                    plan.root.content = Content::Either(rule.clone());
                }
                plan.root.sources = alloc::vec![Source::Url(UrlSource {
                    url: Private::word(url),
                    payload,
                    proxy: None
                })];
            }
            Err(why) => d.fatal(&word, &(why, "fetch=http://SERVER/filesystem.squashfs")),
        }
        return true;
    }
    if let Some(target) = d.get("iscsi") {
        d.fatal_word(
            "iscsi",
            target,
            &("iSCSI is not spoken", "netboot=nfs, fetch=, or bw.root=nbd:…"),
        );
        return true;
    }
    let root = d.peek("root");
    let netboot = match d.get("netboot") {
        Some("") => "nfs",
        Some(word) => word,
        None if root == Some("/dev/nfs") => "nfs",
        None if root == Some("/dev/cifs") => "cifs",
        None if d.peek("nfsroot").is_some() => {
            d.warn(
                "nfsroot",
                &(
                    "is taken as netboot=nfs, which live-boot itself would want to see",
                    "netboot=nfs",
                ),
            );
            "nfs"
        }
        None => return false,
    };
    if netboot != "nfs"
        || root.is_some_and(|r| r.starts_with("/dev/nfs") || r.starts_with("/dev/cifs"))
    {
        let _ = d.get("root");
    }
    let opts = d.get("nfsopts").unwrap_or_default();
    let root = d.get("nfsroot").unwrap_or_default();
    plan.root.sources = casper::share(d, root, opts, netboot);
    true
}

fn local(d: &mut Draft<'_>, plan: &mut BootPlan) {
    if d.has("plainroot") {
        let root = d.get("root").unwrap_or_default();
        if root.is_empty() {
            d.fatal("plainroot", &("needs root= with a device", "root=/dev/sda1 plainroot"));
        } else {
            kernel::device_root(d, plan, root);
        }
        return;
    }
    let mut rule = source::scan(true, true);
    rule.removable_first = true;
    let ignore = d.has("ignore_uuid");
    let uuid = d.get("uuid").unwrap_or(d.cx.medium_uuid);
    if !uuid.is_empty() && !ignore {
        rule.marker =
            Some(Marker::DiskUuid { prefix: "live-uuid".to_string(), uuid: uuid.to_string() });
    }
    if let Some(path) = d.get("findiso") {
        plan.root.sources = iso_file(d, "findiso", path);
        return;
    }
    if let Some((name, path)) = d.get_any(&["fromiso", "isofrom"]) {
        // Since 20250815 with a file system in front: `ext4:/dev/sda1/x.iso`.
        let place = path.split_once(":/dev/").filter(|(fstype, _)| !fstype.contains(['/', '=']));
        let place = place.map(|(fstype, _)| path.get(fstype.len() + 1..).unwrap_or_default());
        match device_file(place.unwrap_or(path)) {
            Some(source) => plan.root.sources = alloc::vec![source],
            None => d.fatal_word(
                name,
                path,
                &("is not DEVICE/PATH of a file", "fromiso=/dev/sda1/live.iso"),
            ),
        }
        return;
    }
    if let Some((name, media)) = d.get_any(&["live-media", "bootfrom"]) {
        match media {
            "removable" | "removable-usb" => rule.removable_only = true,
            _ => match live_media(media) {
                Some(source) => plan.root.sources.push(source),
                None => d.warn_word(
                    name,
                    media,
                    &("is neither a device, a directory nor removable", "live-media=/dev/sdb1"),
                ),
            },
        }
    }
    plan.root.sources.push(Source::Scan(rule));
    if let Some(seconds) = d.number("live-media-timeout") {
        // live-boot looks at nothing but live-media= until then; here it only means patience.
        plan.root.retry.attempts = plan.root.retry.attempts.saturating_add(seconds);
    }
}

fn integrity(d: &mut Draft<'_>, plan: &mut BootPlan) {
    if let Some(algorithms) = d.get("verify-checksums") {
        let mut list = value::list(algorithms);
        if list.is_empty() {
            list = strings(&["sha512", "sha384", "sha256", "sha224", "sha1", "md5"]);
        }
        let mut files = Vec::new();
        for algorithm in &list {
            files.push(text(&[&algorithm.to_ascii_uppercase(), "SUMS"]));
            files.push(text(&[algorithm, "sum.txt"]));
        }
        plan.root.integrity.push(Integrity::MediumSums(files));
    }
    let on_corruption = match d.peek("dm-verity-oncorruption") {
        Some("ignore") => OnCorruption::Ignore,
        Some("panic") => OnCorruption::Panic,
        Some("restart") => OnCorruption::Restart,
        _ => OnCorruption::Error,
    };
    for item in d.list("dm-verity-root-hash") {
        let parsed = item.rsplit_once(':').filter(|(image, hash)| {
            !image.is_empty()
                && (32..=128).contains(&hash.len())
                && hash.bytes().all(|b| b.is_ascii_hexdigit())
        });
        match parsed {
            Some((image, hash)) => {
                let _ = d.get("dm-verity-oncorruption");
                plan.root.integrity.push(Integrity::Verity {
                    image: image.to_string(),
                    root_hash: hash.to_ascii_lowercase(),
                    on_corruption,
                });
            }
            None => d.fatal_word(
                "dm-verity-root-hash",
                &item,
                &("is not IMAGE:HASH", "dm-verity-root-hash=filesystem.squashfs:64-HEX-DIGITS"),
            ),
        }
    }
    if d.has("dm-verity-enforce-roothash-signature") {
        d.fatal(
            "dm-verity-enforce-roothash-signature",
            &(
                "signatures of root hashes are not checked before the root is up",
                "put the root hash itself on the line: dm-verity-root-hash=IMAGE:HASH",
            ),
        );
    }
}

fn persistence(d: &mut Draft<'_>) -> Option<PersistPlan> {
    let off = d.has("nopersistence");
    if let Some(place) = d.get("nfsoverlay") {
        let read_only = d.has("persistence-read-only");
        match nfsroot::parse(place) {
            Ok(mut nfs) if nfs.path.is_some() && !off => {
                nfs.path = nfs.path.map(|p| text::swap(&p, "client_mac_address", "{mac}"));
                nfs.read_write = !read_only;
                return Some({
                    let mut persist = PersistPlan::new();
                    persist.network = Some(Source::Nfs(nfs));
                    persist.directory = true;
                    persist.read_only = read_only;
                    persist.reset = d.has("persistence-remove");
                    persist
                });
            }
            Ok(_) => {}
            Err(why) => d.warn_word("nfsoverlay", place, &(why, "nfsoverlay=SERVER:/PATH")),
        }
    }
    if !d.has("persistence") || off {
        return None;
    }
    let mut labels = d.list("persistence-label");
    if labels.is_empty() {
        labels.push("persistence".to_string());
    }
    let mut kinds = d.list("persistence-storage");
    if kinds.is_empty() {
        kinds = strings(&["filesystem", "file"]);
    }
    for kind in &kinds {
        if !matches!(kind.as_str(), "filesystem" | "file" | "directory") {
            d.warn_word(
                "persistence-storage",
                kind,
                &("is none of filesystem, file and directory", ""),
            );
        }
    }
    let has = |kind: &str| kinds.iter().any(|k| k == kind);
    let path =
        d.text("persistence-path").and_then(|p| value::inside(&p)).map(|p| value::absolute(&p));
    let encryption = d.list("persistence-encryption");
    let media = d.get("persistence-media");
    if let Some(other) = media
        && !matches!(other, "removable" | "removable-usb")
    {
        d.warn_word("persistence-media", other, &("is neither removable nor removable-usb", ""));
    }
    Some({
        let mut persist = PersistPlan::new();
        persist.labels = labels;
        persist.path = path;
        persist.filesystem = has("filesystem");
        persist.file = has("file");
        persist.directory = has("directory");
        persist.read_only = d.has("persistence-read-only");
        persist.conf = true;
        persist.luks = encryption.iter().any(|e| e.starts_with("luks"));
        persist.removable_only = media.is_some_and(|m| m.starts_with("removable"));
        persist.reset = d.has("persistence-remove");
        persist
    })
}

fn writable(d: &mut Draft<'_>, plan: &mut BootPlan) {
    if matches!(plan.root.content, Content::Tree { .. }) {
        return;
    }
    let kind = union_kind(d);
    let size = d.text("overlay-size").unwrap_or_default();
    let upper = match persistence(d) {
        Some(persist) => Upper::Persistent(persist),
        None => Upper::Tmpfs { size },
    };
    // live-boot's own option: without it a directory of the image cannot be renamed.
    let options = match kind {
        UnionKind::Overlay => strings(&["redirect_dir=on"]),
        UnionKind::Aufs => Vec::new(),
    };
    let union = UnionPlan { kind, upper, options };
    plan.writable = if d.has("exposedroot") {
        let dirs = if d.has("skipunion") { Vec::new() } else { strings(&EXPOSED) };
        Writable::Directories { union, dirs }
    } else {
        Writable::Union(union)
    };
}

fn network(d: &mut Draft<'_>, plan: &mut BootPlan) {
    plan.network = None;
    let needed = source::needs_network(plan);
    let given = d.get_any(&["ip", "nfsaddrs"]);
    let mut ip = None;
    match given {
        None => {}
        Some((_, "" | "frommedia")) => plan.handoff.keep_network = true,
        Some((name, text)) => {
            if let Some(interfaces) = ip::live_boot(text) {
                // What live-boot itself means by it.
                let _ = interfaces;
                plan.handoff.settings.push(("ip".to_string(), text.to_string()));
            } else {
                ip = net::checked(d, name, text, ip::parse(text, Form::Kernel));
            }
        }
    }
    let off = ip.as_ref().is_none_or(|ip| ip.method == Method::Off && ip.client.is_none());
    if !needed && off {
        return;
    }
    let mut devices = d.list("ethdevice");
    let mut mac = None;
    if devices.is_empty()
        && let Some(device) = d.get("live-netdev")
    {
        mac = bootif::parse(device);
        if mac.is_none() {
            devices.push(device.to_string());
        }
    }
    let mut network = net::plan(d, ip, net::Extra { devices, required: needed });
    if let Some(mac) = mac {
        network.links = LinkChoice::Mac(mac);
    }
    for text in d.all("dns") {
        for item in value::list(text) {
            match value::address(&item) {
                Some(dns) => network.dns.push(dns),
                None => {
                    d.warn_word("dns", &item, &("is no address and was left out", "dns=10.0.0.53"))
                }
            }
        }
    }
    if let Some(seconds) = d.number("ethdevice-timeout") {
        network.carrier_timeout = Seconds(seconds.max(1));
    }
    plan.network = Some(network);
}
