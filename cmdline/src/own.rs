//! Bellwether's own words. They begin with `bw.`, are the same in every dialect, and
//! override what the dialect says.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::plan::{
    BootPlan, Bytes, CloneMethod, ClonePlan, CloneProtocol, Content, DeviceSelector, ImagePick,
    ImageRule, Integrity, OnCorruption, OnFailure, Payload, PersistPlan, Seconds, SnapshotPlan,
    SnapshotStore, Source, Then, UnionKind, UnionPlan, Upper, UrlSource, Writable,
};
use crate::secrets::Private;
use crate::table::{Draft, text, words};
use crate::text;
use crate::{nfsroot, value};

words! { OWN, OWN_DOCS:
    "bw.dialect" Text Soft "Read the line in this dialect, whatever it looks like.";
    "bw.root" Text Keep "The root's source: nfs:SERVER:/PATH, a URL, nbd:SERVER[:PORT]/EXPORT, nvme:SERVER[:PORT]/NQN, cifs://[USER[:PASSWORD]@]SERVER/SHARE, virtiofs:TAG, 9p:TAG, a device, LABEL=…, cdrom, any, or initramfs. Further files on it follow as ,file=PATH, each inside the one before.";
    "bw.image" Text Keep "This file on the source holds the root; once more for a file inside it.";
    "bw.layers" Text Keep "Image files on the source that are stacked, bottom first.";
    "bw.overlay" OptText Keep "Make the root writable in memory: bw.overlay, bw.overlay=512M, or none.";
    "bw.persist" Text Keep "Keep changes: LABEL=…, /dev/…, or nfs:SERVER:/PATH, where {mac} stands for this machine's address; ,path=FILE names a file or directory there; ,required makes the boot wait until it is found.";
    "bw.snapshot" Text Keep "Make an image writable by a device-mapper snapshot: ram:SIZE or sparse:SIZE, or a device; ,chunk=SECTORS and ,persistent may follow.";
    "bw.medium" Text Keep "Move the medium to this directory of the root.";
    "bw.digest" Text Keep "sha256:HEX, sha512:HEX or blake3:HEX of the file that is fetched or of the image.";
    "bw.verity" Text Keep "dm-verity root hash of the image, or IMAGE:HASH.";
    "bw.clone" OptText Keep "Receive a copy of a disk: alone or room[:PORT] from bellwether clone send; target[:PORT] from clone source, which is told the hardware address and the disk; source[:PORT]: be that source, of this machine's disk; image:URL[,URL] of bellwether clone save; ka[:SESSION], dolly, dollyplus, udpcast[:PORTBASE].";
    "bw.clone.timeout" Number Keep "Seconds to wait for the sender of a copy.";
    "bw.clone.tries" Number Keep "How often to wait for it before the machine reboots.";
    "bw.clone.verify" Switch Keep "Read back what was written before it counts as a copy; it is by default. With bw.clone.verify=no it is not, and not called verified.";
    "bw.clone.from" Text Keep "Take a copy from these addresses alone: the sender, and in a chain or ring the machines before this one, with commas between.";
    "bw.clone.digest" Text Keep "blake3:HEX or sha256:HEX that the copy must have when it is read back.";
    "bw.clone.key" Text Keep "Take a copy only from a sender that knows this key of 16 letters or more.";
    "bw.clone.password" Text Keep "The password of openSUSE's Dolly.";
    "bw.clone.then" Text Keep "What a machine with a copy does: reboot (the default) or poweroff.";
    "bw.clone.count" Number Keep "bw.clone=source begins when so many targets are there [1].";
    "bw.clone.time" Number Keep "bw.clone=source begins so many seconds after the first target has come, however many are there.";
    "bw.clone.bulk" Text Keep "What many targets lack goes from bw.clone=source by chain (the default), by multicast, or auto: as a probe decides.";
    "bw.clone.again" Switch Keep "bw.clone=source waits for the next targets after a copy.";
    "bw.clone.keep-table" Switch Keep "The disk keeps its partition table, which has the copy's partitions at the same places.";
    "bw.disk" Text Keep "The disk that bw.clone (or kamethod, dollymethod, dollyCmethod) writes to; with bw.clone=source, the one that it sends.";
    "bw.timeout" Number Keep "Seconds for the whole boot until it counts as failed.";
    "bw.fail" Text Keep "After a failure: menu[:SECONDS], reboot[:SECONDS] or halt.";
    "bw.lock" Switch Keep "Lock the console: no shell, no editing of the line, no stop at break=. bw.lock=no opens it where panic= or rd.shell=0 has locked it.";
    "bw.debug" Switch Soft "Everything on the console.";
}

/// The words that send a machine's disks, in a build that does.
#[cfg(feature = "p2v")]
pub(crate) use crate::p2v::P2V;
#[cfg(not(feature = "p2v"))]
pub(crate) static P2V: crate::table::Words = crate::table::Words("");

/// Whether a word of ours says where the root is.
pub(crate) fn names_root(d: &Draft<'_>) -> bool {
    d.peek("bw.root").is_some()
}

/// Applies our own words to a finished plan.
pub(crate) fn apply(d: &mut Draft<'_>, plan: &mut BootPlan) {
    if let Some(root) = d.get("bw.root") {
        match source(root) {
            Ok(source) => plan.root.sources = alloc::vec![source],
            Err(why) => d.fatal_word("bw.root", root, &(why, "bw.root=nfs:10.0.0.1:/srv/live")),
        }
    }
    images(d, plan);
    writable(d, plan);
    if let Some(dir) = d.get("bw.medium") {
        plan.handoff.medium_at = Some(value::absolute(dir));
    }
    integrity(d, plan);
    clone(d, plan);
    #[cfg(feature = "p2v")]
    crate::p2v::apply(d, plan);
    if let Some(seconds) = d.number("bw.timeout") {
        plan.failure.deadline = Some(Seconds(seconds)).filter(|s| s.0 > 0);
    }
    if let Some(word) = d.get("bw.fail") {
        let (what, seconds) = word.split_once(':').unwrap_or((word, ""));
        let seconds = if seconds.is_empty() { Some(30) } else { value::number(seconds) };
        match (what, seconds) {
            ("menu", Some(n)) => {
                plan.failure.then = OnFailure::Menu { retry_after: Seconds(n.max(1)) }
            }
            ("reboot", Some(n)) => plan.failure.then = OnFailure::Reboot(Seconds(n)),
            ("halt", _) => plan.failure.then = OnFailure::Halt,
            _ => d.warn_word(
                "bw.fail",
                word,
                &("is neither menu, reboot nor halt with a number of seconds", "bw.fail=reboot:30"),
            ),
        }
    }
    if let Some(lock) = d.switch("bw.lock") {
        plan.failure.locked = lock;
    }
    if plan.failure.locked {
        for point in core::mem::take(&mut plan.failure.breakpoints) {
            let note = ("stops nothing: the line locks the console", "bw.lock=no opens it");
            d.warn_word("break", &point, &note);
        }
    }
}

/// Reads `bw.root=`.
fn source(text: &str) -> Result<Source, &'static str> {
    let Some((first, mut rest)) = text::cut(text, ",file=") else { return place(text) };
    let mut source = place(first)?;
    while let Some((path, inner)) = text::cut(rest, ",file=") {
        source = crate::source::file_on(source, path)?;
        rest = inner;
    }
    crate::source::file_on(source, rest)
}

fn place(text: &str) -> Result<Source, &'static str> {
    if text == "cdrom" {
        return Ok(Source::Scan(crate::source::scan(true, false)));
    }
    if text == "any" {
        return Ok(Source::Scan(crate::source::scan(true, true)));
    }
    if text == "initramfs" {
        return Ok(Source::Initramfs(String::from("/")));
    }
    if text.starts_with("nfs://") || text.starts_with("nfs4://") {
        return nfsroot::from_url(text).map(Source::Nfs);
    }
    if let Some(rest) = text.strip_prefix("nfs:") {
        return nfsroot::parse(rest).map(Source::Nfs);
    }
    if let Some(rest) = text.strip_prefix("nfs4:") {
        let mut source = nfsroot::parse(rest)?;
        nfsroot::force_v4(&mut source);
        return Ok(Source::Nfs(source));
    }
    if let Some(rest) = text.strip_prefix("nbd:") {
        let (server, export) = rest.split_once('/').unwrap_or((rest, ""));
        return crate::source::nbd(server, export).map(Source::Nbd);
    }
    if let Some(rest) = text.strip_prefix("nvme:") {
        let (server, nqn) = rest.split_once('/').unwrap_or((rest, ""));
        return crate::source::nvme(server, nqn).map(Source::NvmeTcp);
    }
    if let Some(rest) = text.strip_prefix("cifs://").or(text.strip_prefix("smb://")) {
        return crate::source::cifs(rest).map(Source::Cifs);
    }
    if let Some(tag) = text.strip_prefix("virtiofs:").filter(|t| !t.is_empty()) {
        return Ok(Source::VirtioFs(tag.to_string()));
    }
    if let Some(tag) = text.strip_prefix("9p:").filter(|t| !t.is_empty()) {
        return Ok(Source::NineP(tag.to_string()));
    }
    if text::has(text, "://") {
        crate::source::fetchable(text)?;
        return Ok(Source::Url(UrlSource {
            url: Private::word(text),
            payload: Payload::Sniff,
            proxy: None,
        }));
    }
    value::device(text).map(Source::Device).ok_or("names no source that is known")
}

fn images(d: &mut Draft<'_>, plan: &mut BootPlan) {
    let layers = d.list("bw.layers");
    if !layers.is_empty() {
        let mut names = Vec::new();
        for layer in &layers {
            match value::inside(layer).filter(|l| !l.is_empty()) {
                Some(layer) => names.push(value::absolute(&layer)),
                None => d.fatal_word("bw.layers", layer, &("is no path on the medium", "")),
            }
        }
        plan.root.content = Content::Images(ImageRule {
            dirs: alloc::vec![String::new()],
            pick: ImagePick::Named(names),
            nested: Vec::new(),
        });
    }
    for path in d.all("bw.image") {
        for on in core::mem::take(&mut plan.root.sources) {
            match crate::source::file_on(on, path) {
                Ok(source) => plan.root.sources.push(source),
                Err(why) => d.fatal_word("bw.image", path, &(why, "")),
            }
        }
        if !matches!(plan.root.content, Content::Tree { .. }) && layers.is_empty() {
            plan.root.content = Content::Tree {
                subdir: String::new(),
                fstype: String::new(),
                flags: String::new(),
            };
        }
    }
}

/// An overlay in memory.
pub(crate) fn overlay(size: &str) -> UnionPlan {
    UnionPlan {
        kind: UnionKind::Overlay,
        upper: Upper::Tmpfs { size: size.to_string() },
        options: Vec::new(),
    }
}

fn writable(d: &mut Draft<'_>, plan: &mut BootPlan) {
    if let Some(value) = d.get("bw.overlay") {
        if matches!(value, "none" | "no" | "off" | "0") {
            plan.writable = Writable::AsIs { read_write: crate::base::read_write(d) };
        } else if value.is_empty() || value::is_tmpfs_size(value) {
            plan.writable = Writable::Union(overlay(value));
        } else {
            d.warn_word("bw.overlay", value, &("is not a size like 512M or 75%", ""));
            plan.writable = Writable::Union(overlay(""));
        }
    }
    if let Some(value) = d.get("bw.snapshot") {
        match snapshot(value) {
            Ok(snapshot) => plan.writable = Writable::DmSnapshot(snapshot),
            Err(why) => d.fatal_word(
                "bw.snapshot",
                value,
                &(why, "bw.snapshot=ram:64M,chunk=8 or bw.snapshot=LABEL=changes,persistent"),
            ),
        }
    }
    if let Some(value) = d.get("bw.persist") {
        match persist(value) {
            Ok(persist) => {
                plan.writable = Writable::Union(UnionPlan {
                    kind: UnionKind::Overlay,
                    upper: Upper::Persistent(persist),
                    options: Vec::new(),
                });
            }
            Err(why) => d.warn_word(
                "bw.persist",
                value,
                &(why, "bw.persist=LABEL=changes or bw.persist=nfs:SERVER:/PATH/{mac}"),
            ),
        }
    }
}

fn snapshot(text: &str) -> Result<SnapshotPlan, &'static str> {
    let mut items = text.split(',');
    let store = items.next().unwrap_or_default();
    let mut persistent = false;
    let mut chunk_sectors = 8;
    for item in items {
        if item == "persistent" {
            persistent = true;
        } else if let Some(n) = item.strip_prefix("chunk=") {
            // dm-snapshot: a power of two; one sector is allowed, as the seed's recipe has it.
            chunk_sectors = value::number(n)
                .filter(|n| n.is_power_of_two() && *n <= 1 << 20)
                .ok_or("the chunk is not a power of two")?;
        } else {
            return Err("only chunk=N and persistent may follow the store");
        }
    }
    let size = |t: &str| -> Result<Bytes, &'static str> {
        value::bytes(t, 1 << 20)
            .filter(|b| b.0 >= 1 << 16)
            .ok_or("the store needs a size of at least 64K")
    };
    let store = if let Some(t) = store.strip_prefix("ram:") {
        SnapshotStore::RamDisk(size(t)?)
    } else if let Some(t) = store.strip_prefix("sparse:") {
        SnapshotStore::SparseFile(size(t)?)
    } else {
        let device = value::device(store)
            .ok_or("the store is neither ram:SIZE, sparse:SIZE nor a device")?;
        SnapshotStore::Persistent({
            let mut persist = PersistPlan::new();
            persist.device = Some(device);
            persist.required = true;
            persist
        })
    };
    if persistent && !matches!(store, SnapshotStore::Persistent(_)) {
        return Err("a store in memory cannot persist");
    }
    Ok(SnapshotPlan { store, fallback: Bytes(512 << 20), persistent, chunk_sectors })
}

fn persist(text: &str) -> Result<PersistPlan, &'static str> {
    let mut plan = {
        let mut persist = PersistPlan::new();
        persist.filesystem = true;
        persist.directory = true;
        persist.file = true;
        persist
    };
    let text = match text.strip_suffix(",required") {
        Some(text) => {
            plan.required = true;
            text
        }
        None => text,
    };
    let (place, path) = match text::cut(text, ",path=") {
        Some((place, path)) => (place, Some(path)),
        None => (text, None),
    };
    if let Some(path) = path {
        let path = value::inside(path)
            .filter(|p| !p.is_empty())
            .ok_or("the path is empty or holds `..`")?;
        plan.path = Some(value::absolute(&path));
    }
    match self::place(place)? {
        Source::Device(DeviceSelector::Label(label)) => plan.labels.push(label),
        Source::Device(device) => plan.device = Some(device),
        Source::Nfs(mut nfs) => {
            nfs.read_write = true;
            plan.network = Some(Source::Nfs(nfs));
        }
        network @ Source::Nbd(_) => plan.network = Some(network),
        _ => return Err("changes are kept on a device, over NFS or over NBD"),
    }
    Ok(plan)
}

fn integrity(d: &mut Draft<'_>, plan: &mut BootPlan) {
    let is_hex =
        |hex: &str, len: usize| hex.len() == len && hex.bytes().all(|b| b.is_ascii_hexdigit());
    for word in d.all("bw.digest") {
        let (algorithm, hex) = word.split_once(':').unwrap_or(("sha256", word));
        let length = match algorithm {
            "sha256" | "blake3" => 64,
            "sha512" => 128,
            _ => 0,
        };
        if length > 0 && is_hex(hex, length) {
            plan.root.integrity.push(Integrity::Digest {
                algorithm: algorithm.to_string(),
                hex: hex.to_ascii_lowercase(),
            });
        } else {
            // A check that was asked for and cannot be made must not pass silently.
            d.fatal_word("bw.digest", word, &("is no digest", "bw.digest=sha256:64-HEX-DIGITS"));
        }
    }
    for word in d.all("bw.verity") {
        let (image, hash) = word.rsplit_once(':').unwrap_or(("", word));
        if hash.len() >= 32 && hash.len() <= 128 && is_hex(hash, hash.len()) && hash.len() % 2 == 0
        {
            plan.root.integrity.push(Integrity::Verity {
                image: image.to_string(),
                root_hash: hash.to_ascii_lowercase(),
                on_corruption: OnCorruption::Error,
            });
        } else {
            d.fatal_word("bw.verity", word, &("is no root hash", "bw.verity=64-HEX-DIGITS"));
        }
    }
}

/// A clone receiver that waits for its sender as long, and tries as often, as the
/// methods' documents say.
pub(crate) fn clone_plan(method: CloneMethod) -> ClonePlan {
    let CloneProtocol { timeout, tries, .. } = *method.protocol;
    ClonePlan {
        method,
        target: None,
        timeout,
        tries,
        verify: true,
        power_off: false,
        from: Vec::new(),
        digest: None,
        key: None,
        password: None,
        options: Vec::new(),
    }
}

/// Words that are options of the host's command.
fn options(d: &mut Draft<'_>, clone: &mut ClonePlan) {
    let name = clone.method.protocol.name;
    for (word, option) in [
        ("bw.clone.count", "--clients"),
        ("bw.clone.time", "--max-wait"),
        ("bw.clone.bulk", "--bulk"),
        ("bw.clone.again", "--again"),
        ("bw.clone.keep-table", "--keep-table"),
    ] {
        let Some(value) = d.get(word) else { continue };
        let switch = matches!(option, "--again" | "--keep-table");
        if switch && value::switch(Some(value)) == Some(false) {
            continue;
        }
        let ours = match option {
            "--keep-table" => matches!(name, "room" | "target"),
            _ => name == "source",
        };
        if !ours {
            d.fatal(word, &("is not for this bw.clone=", ""));
        } else if option == "--bulk" && !matches!(value, "chain" | "multicast" | "auto") {
            d.fatal_word(word, value, &("has no such value", ""));
        }
        clone.options.push(String::from(option));
        if !switch {
            clone.options.push(String::from(value));
        }
    }
    // The host's command has no option for these, and a pin must not be left out.
    if clone.digest.is_some() && clone.program().is_some() {
        d.fatal("bw.clone.digest", &("is not for this bw.clone=", ""));
    }
    if !clone.from.is_empty() && name == "source" {
        d.fatal("bw.clone.from", &("is for machines that receive", ""));
    }
}

/// From whom a copy is taken, and which. What cannot be read is refused: a pin that is asked
/// for must not be left out.
fn pins(d: &mut Draft<'_>, clone: &mut ClonePlan) {
    for word in d.list("bw.clone.from") {
        match word.parse() {
            Ok(address) => clone.from.push(address),
            Err(_) => {
                let why = ("is not a list of IPv4 addresses", "bw.clone.from=10.0.0.1");
                d.fatal_word("bw.clone.from", &word, &why);
            }
        }
    }
    if let Some(word) = d.get("bw.clone.digest") {
        let (name, hex) = word.split_once(':').unwrap_or_default();
        let right = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        if right && matches!(name, "blake3" | "sha256") {
            clone.digest = Some(word.to_string());
        } else {
            let why = ("is no digest", "bw.clone.digest=blake3:64-HEX-DIGITS");
            d.fatal_word("bw.clone.digest", word, &why);
        }
    }
    if let Some(word) = d.get("bw.clone.key") {
        if word.len() >= 16 {
            clone.key = Some(Private::word(&text(&["bw.clone.key=", word])));
        } else {
            let why = ("has less than 16 letters", "the key that the sender prints");
            d.fatal_word("bw.clone.key", word, &why);
        }
    }
    let password = d.get("bw.clone.password");
    clone.password = password.map(|word| Private::word(&text(&["bw.clone.password=", word])));
}

fn clone(d: &mut Draft<'_>, plan: &mut BootPlan) {
    if let Some(word) = d.get("bw.clone") {
        // Without a protocol: the engine of our own.
        match CloneMethod::of(if word.is_empty() { "room" } else { word }) {
            Some(method) => plan.handoff.then = Then::Clone(Box::new(clone_plan(method))),
            None => d.fatal_word(
                "bw.clone",
                word,
                &(
                    "names no clone method",
                    "nothing, room[:PORT], target[:PORT], source[:PORT], image:http://…, ka[:SESSION], dolly, dollyplus or udpcast[:EVEN-PORT]",
                ),
            ),
        }
    }
    if let Then::Clone(clone) = &mut plan.handoff.then {
        if let Some(disk) = d.get("bw.disk") {
            let name = disk.strip_prefix("/dev/").unwrap_or(disk);
            clone.target = value::device(disk)
                .or_else(|| value::device(&text(&["/dev/", name])))
                .filter(|_| !name.starts_with('/') && !name.contains(','));
            if clone.target.is_none() {
                d.fatal_word("bw.disk", disk, &("names no single disk", "bw.disk=/dev/sda"));
            }
        }
        if let Some(seconds) = d.number("bw.clone.timeout") {
            clone.timeout = Seconds(seconds.max(1));
        }
        if let Some(tries) = d.number("bw.clone.tries") {
            clone.tries = tries.max(1);
        }
        clone.verify = d.switch("bw.clone.verify") != Some(false);
        // The small /init refuses all of it.
        if cfg!(feature = "all") {
            pins(d, clone);
            options(d, clone);
        }
        match d.get("bw.clone.then") {
            None | Some("reboot") => {}
            Some("poweroff") => clone.power_off = true,
            Some(word) => d.fatal_word(
                "bw.clone.then",
                word,
                &("is nothing that a machine with a copy does", "reboot or poweroff"),
            ),
        }
        // The receiver is in /init: no root is needed for it.
        plan.root.sources.clear();
        match &mut plan.network {
            Some(network) => network.required = true,
            None => {
                let ip = crate::net::read_ip(d, crate::ip::Form::Kernel);
                let extra = crate::net::Extra { required: true, ..Default::default() };
                plan.network = Some(crate::net::plan(d, ip, extra));
            }
        }
    }
}
