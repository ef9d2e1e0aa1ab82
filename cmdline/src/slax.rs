//! Slax's linux-live, and what was made with it.
//!
//! Read from linux-live of 2024-11-14. On purpose otherwise: overlayfs even where
//! Slax would take aufs; a session is chosen without asking (`perchdir=ask` resumes);
//! HTTP images are fetched to memory.

use alloc::boxed::Box;
use alloc::string::{String, ToString};

use crate::ip;
use crate::plan::{
    BootPlan, Bytes, Content, Dialect, ImagePick, Payload, PersistPlan, Server, Source, ToRam,
    UnionKind, UnionPlan, Upper, UrlSource, Writable,
};
use crate::secrets::Private;
use crate::table::{Draft, Grammar, text, words};
use crate::text;
use crate::{base, casper, net, own, source, value};

words! { SLAX, SLAX_DOCS:
    "from" Text Local "Directory, DEVICE/DIRECTORY, path of an ISO, or URL of an ISO; slax.";
    "ip" Text Keep "CLIENT:SERVER:GATEWAY:MASK[:PORT]: boot over the network, files from that HTTP port (7529).";
    "perch" Flag Keep "Keep changes on the medium.";
    "perchdir" Text Keep "resume, a session's number, or DEVICE/DIRECTORY for the changes.";
    "perchsize" Text Keep "Size of the file for changes on FAT and NTFS.";
    "perchmode" Text Idle "The kind of file is chosen by the file system.";
    "toram" Flag Local "Copy the medium to memory.";
    "load" Text Keep "Only the bundles whose names match this pattern; commas or | between several.";
    "noload" Text Keep "None of the bundles whose names match this pattern.";
    "slax.flags" Text Keep "perch, toram and flags for the live system, separated by commas.";
    "automount" Flag Pass "For the live system.";
    "cache" Text Idle "Nothing is read by FUSE.";
}

pub(crate) static GRAMMAR: Grammar = Grammar {
    dialect: Dialect::Slax,
    tables: &[&own::OWN, &own::P2V, &SLAX, &net::NET, &base::BASE],
    pass: "text apparmor nosound noagp lang autoexec guiexec probeusb",
    first_wins: false,
    splits_quotes: true,
    build,
};

/// Slax's HTTP port.
const PORT: u16 = 7529;

fn build(d: &mut Draft<'_>, plan: &mut BootPlan) {
    plan.root.retry = base::rounds(45, 1);
    let mut dir = "slax".to_string();
    let mut rule = source::scan(true, true);
    rule.removable_first = true;
    let flags = d.list("slax.flags");
    let flag = |name: &str| flags.iter().any(|flag| flag == name);
    let from = d.get("from").unwrap_or_default();
    let scan = Source::Scan(rule);
    let found = if from.is_empty() || from == "ask" {
        if from == "ask" {
            d.warn("from=ask", &("there is no prompt; every drive is searched", ""));
        }
        scan
    } else if text::has(from, "://") {
        if let Err(why) = source::fetchable(from) {
            d.fatal_word("from", from, &(why, "from=http://SERVER/slax.iso"));
        }
        Source::Url(UrlSource { url: Private::word(from), payload: Payload::Medium, proxy: None })
    } else if value::suffix(from).as_deref() == Some("iso") {
        match casper::device_file(from).filter(|_| from.starts_with("/dev/")) {
            Some(file) => file,
            None => Source::File { on: Box::new(scan), path: value::absolute(from) },
        }
    } else if let Some(rest) = from.strip_prefix("/dev/") {
        let (device, below) = rest.split_once('/').unwrap_or((rest, ""));
        if let Some(below) = value::inside(below).filter(|b| !b.is_empty()) {
            dir = below;
        }
        match value::device(&text(&["/dev/", device])) {
            Some(device) => Source::Device(device),
            None => scan,
        }
    } else {
        match value::inside(from).filter(|b| !b.is_empty()) {
            Some(below) => dir = below,
            None => d.warn_word("from", from, &("names no directory; slax is used", "from=slax")),
        }
        scan
    };
    let pick = ImagePick::Suffixes {
        groups: alloc::vec![alloc::vec![".sb".to_string()]],
        skip: alloc::vec::Vec::new(),
        module_list: alloc::vec::Vec::new(),
        per_mac: false,
    };
    plan.root.content = Content::Images(source::rule(&[&dir], pick, &[]));
    plan.root.extra_dirs = alloc::vec!["modules".to_string()];
    plan.root.only = d.get("load").unwrap_or_default().to_string();
    plan.root.except = d.get("noload").unwrap_or_default().to_string();
    if d.has("toram") | flag("toram") {
        plan.root.to_ram = ToRam::Medium;
    }
    if let Some(text) = d.get("ip") {
        let ip = net::checked(d, "ip", text, ip::slax(text));
        let port = ip.as_ref().and_then(|ip| ip.port).unwrap_or(PORT);
        plan.root.sources.push(Source::PxeFileList { server: Server::Boot, port });
        plan.network = Some(net::plan(d, ip, net::Extra { required: true, ..Default::default() }));
    }
    plan.root.sources.push(found);
    plan.writable = writable(d, &dir, flag("perch"));
}

fn writable(d: &mut Draft<'_>, dir: &str, perch: bool) -> Writable {
    let perch = perch | d.has("perch");
    let place = d.get("perchdir");
    let create = d.get("perchsize").and_then(|size| {
        let bytes = value::bytes(size, 1 << 20);
        if bytes.is_none() {
            d.warn_word("perchsize", size, &("is not a size like 16GB", ""));
        }
        bytes
    });
    let upper = if perch || place.is_some() {
        let mut persist = {
            let mut persist = PersistPlan::new();
            // Slax makes the file itself where the file system has no Unix owners.
            persist.path = Some(text(&["/", dir, "/changes"]));
            persist.directory = true;
            persist.file = true;
            persist.filesystem = true;
            persist.create = create.or(Some(Bytes(16_000 << 20)));
            persist
        };
        match place {
            None | Some("resume") => {}
            Some(asked @ ("ask" | "new")) => {
                d.warn_word("perchdir", asked, &("the last session is resumed", "perchdir=NUMBER"));
            }
            Some(number) if value::number(number).is_some() => {
                persist.path = Some(text(&["/", dir, "/changes/", number]));
            }
            Some(path) => {
                let rest = path.strip_prefix("/dev/").unwrap_or_default();
                let (device, below) = rest.split_once('/').unwrap_or((rest, ""));
                persist.device = value::device(&text(&["/dev/", device]));
                match (&persist.device, value::inside(below)) {
                    (Some(_), Some(below)) => persist.path = Some(value::absolute(&below)),
                    _ => d.warn_word(
                        "perchdir",
                        path,
                        &(
                            "is neither a session nor DEVICE/DIRECTORY",
                            "perchdir=/dev/sdb1/changes",
                        ),
                    ),
                }
            }
        }
        Upper::Persistent(persist)
    } else {
        Upper::Tmpfs { size: String::new() }
    };
    Writable::Union(UnionPlan { kind: UnionKind::Overlay, upper, options: alloc::vec::Vec::new() })
}
