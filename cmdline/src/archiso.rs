//! Arch Linux's mkinitcpio-archiso, and through it the media of its derivatives.
//!
//! Read from mkinitcpio-archiso 73. On purpose otherwise: network words without
//! `ip=` get DHCP instead of being ignored; `${pxeserver}` is replaced and nothing
//! else in a value is ever evaluated; changes may take half the memory, not 256 MiB,
//! unless `cow_spacesize=` says so; a copy in memory keeps the network up.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::ip::Form;
use crate::plan::{
    BootPlan, Bytes, Content, Dialect, ImagePick, Integrity, Marker, Payload, PersistPlan, Retry,
    Seconds, SnapshotPlan, SnapshotStore, Source, ToRam, UnionKind, UnionPlan, Upper, UrlSource,
    Writable,
};
use crate::secrets::Private;
use crate::table::{Draft, Grammar, strings, text, words};
use crate::text;
use crate::{base, net, nfsroot, own, source, value};

words! { ARCHISO, ARCHISO_DOCS:
    "archisobasedir" Text Keep "Directory on the medium; arch.";
    "arch" Text Local "Directory below it; the machine's name.";
    "archisolabel" Text Keep "Label of the medium.";
    "archisodevice" Text Keep "Device of the medium; LABEL=, UUID= and the like too.";
    "archisosearchuuid" Text Keep "UUID of the medium, or of the marker file /boot/UUID.uuid on it.";
    "archisosearchfilename" Text Keep "The medium is what holds this file.";
    "copytoram" OptText Keep "y, n or auto: copy the image to memory.";
    "copytoram_size" Text Idle "The copy takes what it needs, after a look at the memory that is free.";
    "checksum" OptText Keep "y: hold the image to airootfs.sha512 beside it.";
    "verify" OptText Keep "y: PGP signatures are not checked.";
    "cms_verify" OptText Keep "y: CMS signatures are not checked.";
    "cow_spacesize" Text Keep "Size of the changes in memory.";
    "cow_label" Text Keep "Label of the volume that keeps changes.";
    "cow_device" Text Keep "The volume that keeps changes.";
    "cow_flags" Text Keep "Mount options of that volume.";
    "cow_directory" Text Keep "Directory on it; persistent_LABEL/ARCH.";
    "cow_persistent" Text Keep "P or N: whether a snapshot is kept.";
    "cow_chunksize" Number Keep "Chunk of a snapshot in sectors; 8.";
    "dm_snap_prefix" Text Idle "Device-mapper names are Bellwether's own.";
    "img_dev" Text Keep "Device that holds an ISO file.";
    "img_label" Text Keep "Its label.";
    "img_loop" Text Keep "Path of the ISO file there.";
    "img_flags" Text Idle "The device is mounted read-only.";
    "archiso_http_srv" Text Keep "URL of the directory that holds the medium's files.";
    "archiso_http_spc" Text Idle "The copy takes what it needs.";
    "archiso_nfs_srv" Text Keep "SERVER:/PATH of the medium.";
    "archiso_nfs_opt" Text Keep "NFS options.";
    "archiso_nbd_srv" Text Keep "NBD server of the medium.";
    "archiso_nbd_name" Text Keep "NBD export; archiso.";
    "copy_resolvconf" OptText Keep "n: the live system does not get our resolv.conf.";
}

const PASS: &str = "mirror script accessibility driver nvidia nouveau xdriver i915.modeset radeon.modeset \
    checksum_hash systemd.* nomodeset module_blacklist lang keytable tz overlay gpt tgpt \
    earlymodules disablehooks";

pub(crate) static GRAMMAR: Grammar = Grammar {
    dialect: Dialect::Archiso,
    tables: &[&own::OWN, &own::P2V, &ARCHISO, &net::NET, &base::BASE],
    pass: PASS,
    first_wins: false,
    splits_quotes: false,
    build,
};

/// Names of the image.
const IMAGES: [&str; 2] = ["airootfs.sfs", "airootfs.erofs"];

/// Whether a word with y, n (or yes, no, 1, 0) says yes.
fn yes(value: Option<&str>) -> bool {
    value.is_some_and(|v| value::switch(Some(v)) == Some(true))
}

fn build(d: &mut Draft<'_>, plan: &mut BootPlan) {
    let arch = d.get("arch").unwrap_or(d.cx.arch).to_string();
    let base_dir = d.get("archisobasedir").unwrap_or("arch");
    let dir = value::inside(&text(&[base_dir, "/", &arch])).unwrap_or_else(|| {
        d.warn_word(
            "archisobasedir",
            base_dir,
            &("leads out of the medium", "archisobasedir=arch"),
        );
        text(&["arch/", &arch])
    });
    let label = d.text("archisolabel");
    let pick = ImagePick::FirstOf(strings(&IMAGES));
    plan.root.content = Content::Images(source::rule(&[&dir], pick, &["airootfs.img"]));
    let seconds = d.number("rootdelay").filter(|n| *n > 0).unwrap_or(30);
    plan.root.retry = base::rounds(seconds, 1);
    let network = network_sources(d, plan, &dir);
    if !network {
        local(d, plan, label.as_deref());
    }
    plan.root.to_ram = to_ram(d, network);
    integrity(d, plan, &dir);
    plan.writable = writable(d, label.as_deref(), &arch);
    let ip = net::read_ip(d, Form::Kernel);
    if ip.is_some() || source::needs_network(plan) {
        plan.network = Some(net::plan(d, ip, net::Extra::default()));
    }
    if d.get("copy_resolvconf").is_some_and(|v| value::switch(Some(v)) == Some(false)) {
        plan.handoff.resolv_conf = false;
    }
}

/// The boot server stands in a value as `${pxeserver}`; an empty host means it.
fn pxeserver(value: &str) -> String {
    text::swap(value, "${pxeserver}", "")
}

fn network_sources(d: &mut Draft<'_>, plan: &mut BootPlan, dir: &str) -> bool {
    if let Some(url) = d.get("archiso_http_srv") {
        let base = pxeserver(url);
        let (scheme, place) = text::cut(&base, "://").unwrap_or((&base, ""));
        // Without a host it is the boot server: `http:///arch/…`.
        let place = value::join(if place.is_empty() { "/" } else { place }, dir);
        for image in IMAGES {
            let url = text(&[scheme, "://", &value::join(&place, image)]);
            match source::fetchable(&url) {
                Ok(_) => plan.root.sources.push(Source::Url(UrlSource {
                    url: Private::word(&url),
                    payload: Payload::Image,
                    proxy: None,
                })),
                Err(why) => {
                    d.fatal_word(
                        "archiso_http_srv",
                        &base,
                        &(why, "archiso_http_srv=http://SERVER/"),
                    );
                    return true;
                }
            }
        }
        if let Content::Images(rule) = &plan.root.content {
            plan.root.content = Content::Either(rule.clone());
        }
        plan.root.retry = Retry { attempts: 10, pause: Seconds(1), max_pause: Seconds(10) };
        return true;
    }
    if let Some(place) = d.get("archiso_nfs_srv") {
        match nfsroot::parse(&pxeserver(place)) {
            Ok(mut nfs) => {
                if let Some(options) = d.get("archiso_nfs_opt") {
                    nfsroot::apply_options(&mut nfs, options);
                }
                nfs.read_write = false;
                plan.root.sources.push(Source::Nfs(nfs));
            }
            Err(why) => {
                d.fatal_word("archiso_nfs_srv", place, &(why, "archiso_nfs_srv=SERVER:/PATH"));
            }
        }
        return true;
    }
    if let Some(server) = d.get("archiso_nbd_srv") {
        let export = d.get("archiso_nbd_name").unwrap_or("archiso");
        match source::nbd(&pxeserver(server), export) {
            Ok(nbd) => plan.root.sources.push(Source::Nbd(nbd)),
            Err(why) => d.fatal_word("archiso_nbd_srv", server, &(why, "")),
        }
        return true;
    }
    false
}

fn local(d: &mut Draft<'_>, plan: &mut BootPlan, label: Option<&str>) {
    let container = d.get_any(&["img_dev", "img_label"]);
    if let Some((name, text)) = container {
        let device = if name == "img_label" {
            Some(crate::plan::DeviceSelector::Label(value::unescape(text)))
        } else {
            value::device(text)
        };
        let path = d.get("img_loop").and_then(value::inside).filter(|p| !p.is_empty());
        match (device, path) {
            (Some(device), Some(path)) => {
                plan.root.sources.push(Source::File {
                    on: Box::new(Source::Device(device)),
                    path: value::absolute(&path),
                });
                return;
            }
            (None, _) => d.fatal_word(name, text, &("names no device", "img_dev=/dev/sda1")),
            (_, None) => d.fatal_word(
                name,
                text,
                &("needs img_loop= with the path of the ISO", "img_loop=/arch.iso"),
            ),
        }
        return;
    }
    let mut file = d.get("archisosearchfilename").map(value::absolute);
    let uuid = d.get("archisosearchuuid");
    // A search beats the device and the label.
    if file.is_some() || uuid.is_some() {
        let mut rule = source::scan(true, true);
        rule.removable_first = true;
        if let Some(uuid) = uuid {
            let device = crate::plan::DeviceSelector::Uuid(uuid.to_string());
            plan.root.sources.push(Source::Device(device));
            file = file.or_else(|| Some(text(&["/boot/", uuid, ".uuid"])));
        }
        rule.marker = file.map(Marker::Path);
        plan.root.sources.push(Source::Scan(rule));
        return;
    }
    if let Some(text) = d.get("archisodevice") {
        match value::device(text) {
            Some(device) => plan.root.sources.push(Source::Device(device)),
            None => {
                d.fatal_word("archisodevice", text, &("names no device", "archisodevice=/dev/sdb1"))
            }
        }
        return;
    }
    if let Some(label) = label {
        let label = crate::plan::DeviceSelector::Label(value::unescape(label));
        plan.root.sources.push(Source::Device(label));
        return;
    }
    let mut rule = source::scan(true, true);
    rule.removable_first = true;
    plan.root.sources.push(Source::Scan(rule));
}

fn to_ram(d: &mut Draft<'_>, network: bool) -> ToRam {
    let http = d.peek("archiso_http_srv").is_some();
    match d.get("copytoram") {
        // What is fetched is in memory already.
        _ if http => ToRam::No,
        Some("auto") | None if !network => {
            ToRam::Auto { below: Bytes(4 << 30), spare: Bytes(2 << 30) }
        }
        Some("auto") | None => ToRam::Image(None),
        Some(value) => match value::switch(Some(value)) {
            Some(true) => ToRam::Image(None),
            Some(false) => ToRam::No,
            None => {
                d.warn_word("copytoram", value, &("is neither y, n nor auto", ""));
                ToRam::No
            }
        },
    }
}

fn integrity(d: &mut Draft<'_>, plan: &mut BootPlan, dir: &str) {
    if yes(d.get("checksum")) {
        let file = value::join(dir, "airootfs.sha512");
        plan.root.integrity.push(Integrity::MediumSums(alloc::vec![file]));
    }
    let pinned = d.peek("bw.digest").is_some() || d.peek("bw.verity").is_some();
    for name in &["verify", "cms_verify"] {
        if yes(d.get(name)) && !pinned {
            d.fatal_word(
                name,
                "y",
                &(
                    "asks for a signature check, which is not made before the root is up",
                    "checksum=y finds damage; bw.digest=sha512:… finds forgery",
                ),
            );
        }
    }
}

fn writable(d: &mut Draft<'_>, label: Option<&str>, arch: &str) -> Writable {
    let size = d.get("cow_spacesize").unwrap_or_default();
    let size = if size.is_empty() || value::is_tmpfs_size(size) {
        size
    } else {
        d.warn_word("cow_spacesize", size, &("is not a size like 512M or 75%", ""));
        ""
    };
    let fallback = value::bytes(size, 1).unwrap_or(Bytes(4 << 30));
    let device = d.get_any(&["cow_device", "cow_label"]).and_then(|(name, text)| {
        let device = if name == "cow_label" {
            Some(crate::plan::DeviceSelector::Label(value::unescape(text)))
        } else {
            value::device(text)
        };
        if device.is_none() {
            d.warn_word(name, text, &("names no device; changes stay in memory", ""));
        }
        device
    });
    let chunk_sectors = d.number("cow_chunksize").filter(|n| n.is_power_of_two()).unwrap_or(8);
    let (upper, store, persistent) = match device {
        Some(device) => {
            let default = text(&["persistent_", label.unwrap_or_default(), "/", arch]);
            let dir = d.get("cow_directory").unwrap_or(&default);
            let plan = {
                let mut persist = PersistPlan::new();
                persist.device = Some(device);
                persist.path = value::inside(dir).map(|dir| value::absolute(&dir));
                persist.filesystem = true;
                persist.directory = true;
                persist.flags = d.text("cow_flags").filter(|f| f != "defaults").unwrap_or_default();
                persist
            };
            let kept = d.get("cow_persistent").is_none_or(|v| v != "N");
            (Upper::Persistent(plan.clone()), SnapshotStore::Persistent(plan), kept)
        }
        None => {
            (Upper::Tmpfs { size: size.to_string() }, SnapshotStore::SparseFile(fallback), false)
        }
    };
    Writable::ByImage {
        union: UnionPlan { kind: UnionKind::Overlay, upper, options: Vec::new() },
        snapshot: SnapshotPlan { store, fallback, persistent, chunk_sectors },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_server_is_the_only_variable() {
        assert_eq!(pxeserver("http://${pxeserver}/"), "http:///");
        assert_eq!(pxeserver("${pxeserver}:/run/archiso"), ":/run/archiso");
        assert_eq!(pxeserver("$(reboot)"), "$(reboot)");
    }
}
