//! dracut: dmsquash-live, livenet, nfs, nbd, cifs, virtiofs, overlayfs, and its
//! network words.
//!
//! Read from dracut.cmdline(7) and the modules of dracut-ng 111, with the older
//! names of dracut 059. On purpose otherwise: every link is asked at once (what
//! `ip=single-dhcp` was made for); a bond, team or bridge is not built, its ports are
//! used as they are; a missing persistent overlay never waits for a key.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use crate::bootif;
use crate::ip::{self, Form, Ip, Method};
use crate::plan::{
    BootPlan, Bytes, Content, Dialect, ImagePick, Integrity, LinkChoice, LinkName, NetworkPlan,
    OnFailure, Payload, PersistPlan, Retry, Route, Seconds, SnapshotPlan, SnapshotStore, Source,
    ToRam, UnionKind, UnionPlan, Upper, UrlSource, Writable,
};
use crate::secrets::Private;
use crate::table::{Draft, Grammar, strings, text, words};
use crate::text;
use crate::{base, casper, kernel, net, nfsroot, own, source, value};

words! { DRACUT, DRACUT_DOCS:
    "root" Text Keep "live:DEVICE, live:URL, a URL, nfs:SERVER:/PATH, nbd:…, cifs:…, virtiofs:TAG, dhcp, or a device.";
    "netroot" Text Keep "The network root when root= names something else.";
    "nfsroot" Text Keep "With root=/dev/nfs: [SERVER:]PATH[,OPTIONS].";
    "rd.live.image" Switch Keep "root= is a live medium (older spelling of root=live:).";
    "rd.live.dir" Text Keep "Directory of the image on the medium; LiveOS.";
    "rd.live.squashimg" Text Keep "File name of the image; squashfs.img.";
    "rd.live.ram" Switch Keep "Copy the image to memory.";
    "rd.minmem" Number Idle "Free memory is compared with the image's own size.";
    "rd.live.check" Switch Keep "Hold the medium to the MD5 inside the ISO.";
    "rd.live.debug" Switch Soft "Everything on the console.";
    "rd.live.overlay" Text Keep "Older name of rd.overlay=.";
    "rd.live.overlay.overlayfs" Switch Keep "Older name of rd.overlay=1.";
    "rd.live.overlay.size" Size Keep "Size of the snapshot in memory in MiB; 32768. With a unit or %: of the overlay in memory, as kiwi's media have it.";
    "rd.live.overlay.readonly" Switch Keep "The kept changes stay read-only under this session's.";
    "rd.live.overlayfs.readonly" Switch Keep "The same.";
    "rd.live.overlay.persistent" Switch Keep "Keep changes on the partition labelled cow, as kiwi's media do, or beside an ISO file in the file live_system.cow; neither is made.";
    "rd.live.cowfile.path" Text Keep "Another path of that file.";
    "rd.live.cowfile.mbsize" Number Idle "The file is not made.";
    "rd.live.overlay.reset" Switch Keep "Empty the kept changes first.";
    "rd.live.overlay.thin" Switch Idle "A thin snapshot is not made; an ordinary one is.";
    "rd.live.overlay.cowfs" Text Idle "No partition is created for changes.";
    "rd.live.overlay.nouserconfirmprompt" OptText Idle "There is no prompt anyway.";
    "rd.overlay" OptText Keep "Alone: overlayfs in memory. Otherwise DEVICE[:PATH], LABEL=…, tmpfs:size=…, or none.";
    "rd.overlayfs" OptText Local "The same.";
    "rd.overlay.readonly" Switch Keep "The kept changes stay read-only under this session's.";
    "rd.overlay.reset" Switch Keep "Empty the kept changes first.";
    "rd.overlay.crypt" Text Keep "An encrypted overlay is not made.";
    "rd.writable.fsimg" Switch Keep "The whole image in memory, writable.";
    "iso-scan/filename" Text Keep "An ISO file with this path on any disk is the medium.";
    "live.updates" Text Idle "Files to copy over the root are not fetched.";
    "proxy" Text Keep "http://HOST:PORT of a proxy.";
    "rd.noverifyssl" Flag Idle "https is not spoken before the root is up.";
    "cifsuser" Text Local "User for a CIFS root.";
    "cifspass" Text Local "Password for a CIFS root.";
    "rd.nfs.domain" Text Pass "For the live system's idmapd.";
    "rd.nvmf.discover" Text Keep "tcp,ADDRESS[,,PORT]: asks that NVMe/TCP discovery service.";
    "nvmf.discover" Text Local "The same.";
    "rd.nvmf.hostnqn" Text Keep "Our own name for NVMe/TCP.";
    "nvmf.hostnqn" Text Local "The same.";
    "rd.systemd.pull" Text Keep "OPTIONS:NAME:URL fetches a root as systemd 257 does.";
    "systemd.volatile" OptText Keep "overlay keeps changes in memory; state is for the live system's own systemd; yes is taken for overlay.";
    "roothash" Text Keep "dm-verity root hash of the root image.";
    "ip" OptText Keep "dhcp, off, DEVICE:METHOD[:MTU[:MAC]], or ADDRESS:[PEER]:GATEWAY:MASK:HOST:DEVICE:METHOD[:MTU[:MAC]|:DNS1[:DNS2]]; once for each device.";
    "BOOTIF" OptText Keep "Address of the link that the firmware booted from.";
    "rd.bootif" Switch Keep "0: take no notice of BOOTIF=.";
    "bootdev" Text Keep "The device whose settings count when there are several.";
    "ksdevice" Text Local "The same, as anaconda wrote it.";
    "ifname" Text Keep "NAME:MAC names the link with this address.";
    "rd.neednet" Switch Keep "Bring the network up even for a local root.";
    "rd.peerdns" Switch Keep "0: DHCP's name servers are not used.";
    "nameserver" Text Keep "A name server; may be repeated.";
    "rd.route" Text Keep "NETWORK/PREFIX:GATEWAY[:DEVICE].";
    "vlan" Text Keep "NAME:LINK.";
    "bond" OptText Keep "Its ports are used as they are.";
    "team" OptText Local "Its ports are used as they are.";
    "bridge" OptText Local "Its ports are used as they are.";
    "gateway" Text Local "With ip=ADDRESS, as anaconda wrote it.";
    "netmask" Text Local "With ip=ADDRESS, as anaconda wrote it.";
    "mtu" Number Local "With ip=ADDRESS, as anaconda wrote it.";
    "rd.net.timeout.dhcp" Number Keep "Seconds for one attempt at DHCP.";
    "rd.net.timeout.iflink" Number Keep "Seconds until a link exists; 60.";
    "rd.net.timeout.carrier" Number Keep "Seconds to wait for a carrier.";
    "rd.net.timeout.ifup" Number Idle "Links are brought up at once.";
    "rd.net.timeout.route" Number Idle "Routes need no waiting.";
    "rd.net.timeout.ipv6dad" Number Idle "IPv6 is left to the live system.";
    "rd.net.timeout.ipv6auto" Number Idle "IPv6 is left to the live system.";
    "rd.net.dhcp.retry" Number Idle "DHCP is retried until the boot's own limits.";
    "rd.net.dhcp.vendor-class" Text Keep "Vendor class that DHCP is asked with.";
    "rd.znet" Text Idle "s390 network devices are not set up.";
    "rd.retry" Number Keep "Seconds until the search for the root counts as failed; 180.";
    "rd.timeout" Number Keep "Seconds for the whole boot; 0 for no limit.";
    "rd.break" OptText Keep "Stop at this point for a shell and the keys of the console (pre-pivot when no point is named).";
    "rd.shell" Switch Keep "0: the console is locked, as by bw.lock.";
    "rd.emergency" OptText Keep "reboot, poweroff or halt after a failure; alone, a shell before the network comes up.";
    "rd.rescue" Flag Keep "A shell before the network comes up.";
    "rd.debug" Switch Soft "Everything on the console.";
    "rd.info" Switch Pass "More messages; there are enough.";
    "rd.driver.blacklist" Text Keep "Modules that no device may pull in.";
    "rd.driver.pre" Text Keep "Modules loaded before the devices are walked.";
    "rd.driver.post" Text Keep "Modules loaded as well.";
    "boot" Text Pass "A script of initramfs-tools; not dracut's.";
}

/// Words of dracut modules for what a live root does not have, and of the live system.
const PASS: &str = "rd.luks* rd.lvm* rd.md* rd.dm* rd.auto rd.hostonly rd.fips* rd.skipfsck rd.fstab rd.memdebug \
    rd.plymouth rd.udev.* rd.systemd.* rd.cmdline rd.znet_ifname rd.zfcp* rd.dasd* rd.iscsi.* rd.fcoe* rd.nvmf.nonbft \
    rd.live.overlay.nouserconfirmprompt liveimg xdriver liveuser_password stage2 repo inst.* \
    checkisomd5 selinux enforcing live_ram live_locale";

pub(crate) static GRAMMAR: Grammar = Grammar {
    dialect: Dialect::Dracut,
    tables: &[&own::OWN, &own::P2V, &DRACUT, &net::NET, &base::BASE],
    pass: PASS,
    first_wins: false,
    splits_quotes: false,
    build,
};

/// livenet asks curl 100 times, 5 s apart.
const LIVENET_RETRY: Retry = Retry { attempts: 100, pause: Seconds(5), max_pause: Seconds(5) };

/// Size of the snapshot when the line has none: a sparse file, so that only what is
/// written counts.
const SNAPSHOT_MIB: u64 = 32768;

fn build(d: &mut Draft<'_>, plan: &mut BootPlan) {
    plan.log.debug |= d.switch("rd.debug") == Some(true) || d.switch("rd.live.debug") == Some(true);
    plan.root.retry = base::rounds(d.number("rd.retry").filter(|n| *n > 0).unwrap_or(180), 1);
    drivers(d, plan);
    failure(d, plan);

    let live = root(d, plan);
    kernel::roothash(d, plan);
    if live {
        if d.switch("rd.live.ram") == Some(true) {
            plan.root.to_ram = ToRam::Image(None);
        }
        if d.switch("rd.live.check") == Some(true) {
            plan.root.integrity.push(Integrity::EmbeddedMd5);
        }
    }
    writable(d, plan, live);
    if !live {
        kernel::volatile(d, plan);
    }
    network(d, plan);
}

fn drivers(d: &mut Draft<'_>, plan: &mut BootPlan) {
    for module in d.list("rd.driver.blacklist") {
        plan.drivers.blacklist.push(module.replace('-', "_"));
    }
    for name in &["rd.driver.pre", "rd.driver.post"] {
        for module in d.list(name) {
            plan.drivers.force.push(module.replace('-', "_"));
        }
    }
}

fn failure(d: &mut Draft<'_>, plan: &mut BootPlan) {
    if let Some(seconds) = d.number("rd.timeout") {
        plan.failure.deadline = Some(Seconds(seconds)).filter(|s| s.0 > 0);
    }
    for point in d.all("rd.break") {
        let point = if point.is_empty() { "pre-pivot" } else { point };
        plan.failure.breakpoints.push(point.to_string());
    }
    if d.has("rd.rescue") {
        plan.failure.breakpoints.push("initqueue".to_string());
    }
    if d.switch("rd.shell") == Some(false) {
        plan.failure.locked = true;
    }
    match d.get("rd.emergency") {
        None => {}
        // systemd's words for the initrd: a shell instead of a boot.
        Some("" | "1" | "yes" | "on") => plan.failure.breakpoints.push("initqueue".to_string()),
        Some("reboot") => plan.failure.then = OnFailure::Reboot(Seconds(0)),
        Some("halt" | "poweroff") => plan.failure.then = OnFailure::Halt,
        Some(other) => {
            d.warn_word("rd.emergency", other, &("is neither reboot, poweroff nor halt", ""));
        }
    }
}

/// Which files of a live medium.
fn live_rule(d: &mut Draft<'_>) -> crate::plan::ImageRule {
    let dir = d.get("rd.live.dir").unwrap_or("LiveOS");
    let image = d.get("rd.live.squashimg").unwrap_or("squashfs.img");
    let dir = value::inside(dir).unwrap_or_else(|| "LiveOS".to_string());
    let names = strings(&[image, "rootfs.img", "ext3fs.img"]);
    source::rule(&[&dir], ImagePick::FirstOf(names), &["LiveOS/rootfs.img", "LiveOS/ext3fs.img"])
}

/// Chooses source and content; true for a live medium.
fn root(d: &mut Draft<'_>, plan: &mut BootPlan) -> bool {
    let root = d.get("root").unwrap_or_default();
    let netroot = d.get("netroot").unwrap_or_default();
    let old_live = d.switch("rd.live.image") == Some(true);
    // Its name until 2012.
    #[cfg(feature = "all")]
    let old_live = old_live || d.tokens().any(|token| token.name == "liveimg");
    let nvmf = d.get_any(&["rd.nvmf.discover", "nvmf.discover"]);
    let root = if netroot.is_empty() { root } else { netroot };
    if let Some(path) = d.get("iso-scan/filename") {
        // root=live:CDLABEL=… then names what is inside the ISO.
        plan.root.sources = casper::iso_file(d, "iso-scan/filename", path);
        plan.root.content = Content::Images(live_rule(d));
        return true;
    }
    if let Some(pull) = d.get("rd.systemd.pull") {
        kernel::pull(d, plan, pull);
        return false;
    }
    if let Some(rest) = root.strip_prefix("live:") {
        live(d, plan, rest);
        return true;
    }
    if old_live && value::device(root).is_some() {
        live(d, plan, root);
        return true;
    }
    if ["http://", "https://", "ftp://", "tftp://"].iter().any(|p| root.starts_with(p)) {
        live(d, plan, root);
        return true;
    }
    if root.is_empty() && nvmf.is_none() {
        d.fatal(
            "",
            &(
                "dracut's words are there, but root= is missing",
                "root=live:LABEL=…, root=live:http://…",
            ),
        );
        return false;
    }
    plan.root.content = source::tree();
    let read_write = base::read_write(d);
    let word = Draft::word(if netroot.is_empty() { "root" } else { "netroot" }, root);
    let found = if let Some((name, text)) = nvmf {
        nvme(d, name, text)
    } else {
        plain(d, plan, root, read_write)
    };
    let mut read_write = read_write;
    match found {
        Ok(Some(source)) => {
            if let Source::Nfs(nfs) = &source {
                read_write = nfs.read_write;
            }
            plan.root.sources = alloc::vec![source];
        }
        Ok(None) => kernel::device_root(d, plan, root),
        Err(why) => d.fatal(&word, &(why, "root=live:…, root=nfs:SERVER:/PATH, root=LABEL=…")),
    }
    plan.writable = Writable::AsIs { read_write };
    false
}

/// Roots that are no live media. `None` for a device.
fn plain(
    d: &mut Draft<'_>,
    plan: &mut BootPlan,
    root: &str,
    read_write: bool,
) -> Result<Option<Source>, &'static str> {
    let mut nfs = if root.starts_with("nfs://") || root.starts_with("nfs4://") {
        nfsroot::from_url(root)?
    } else if let Some(rest) = root.strip_prefix("nfs:") {
        nfsroot::dracut(rest)?
    } else if let Some(rest) = root.strip_prefix("nfs4:") {
        let mut source = nfsroot::dracut(rest)?;
        nfsroot::force_v4(&mut source);
        source
    } else if root == "/dev/nfs" || root == "/dev/nfs4" {
        nfsroot::of_device(root, d.get("nfsroot").unwrap_or_default())?
    } else if root == "dhcp" || root == "dhcp6" {
        #[cfg(feature = "explain")]
        if root == "dhcp6" {
            d.warn(
                "root=dhcp6",
                &("DHCP over IPv4 is asked: IPv6 is not spoken here", "root=dhcp"),
            );
        }
        nfsroot::from_dhcp()
    } else if let Some(rest) = root.strip_prefix("nbd:") {
        return nbd(plan, rest).map(Some);
    } else if let Some(rest) = root.strip_prefix("cifs://") {
        let mut source = source::cifs(rest)?;
        if let Some(user) = d.get("cifsuser") {
            let password = d.get("cifspass").unwrap_or_default();
            source.options = source::cifs_login(user, password);
        }
        source.read_write = read_write;
        return Ok(Some(Source::Cifs(source)));
    } else if let Some(tag) = root.strip_prefix("virtiofs:").filter(|t| !t.is_empty()) {
        return Ok(Some(Source::VirtioFs(tag.to_string())));
    } else if root.starts_with("iscsi:") {
        return Err("iSCSI is not spoken");
    } else if value::device(root).is_some() || !text::has(root, ":/") {
        return Ok(None);
    } else {
        nfsroot::dracut(root)?
    };
    // The line's own ro or rw beats the option behind the path.
    if d.peek("ro").is_some() || d.peek("rw").is_some() {
        nfs.read_write = read_write;
    }
    plan.root.retry = base::rounds(plan.root.retry.attempts.div_ceil(5), 5);
    Ok(Some(Source::Nfs(nfs)))
}

fn nbd(plan: &mut BootPlan, rest: &str) -> Result<Source, &'static str> {
    let (result, fstype, flags) = source::nbd_with_colons(rest)?;
    plan.root.content = Content::Tree {
        subdir: String::new(),
        fstype: fstype.to_string(),
        flags: flags.to_string(),
    };
    Ok(Source::Nbd(result))
}

/// `tcp,ADDRESS[,HOST ADDRESS[,PORT]]`
fn nvme(d: &mut Draft<'_>, name: &str, text: &str) -> Result<Option<Source>, &'static str> {
    let mut fields = text.split(',');
    if fields.next() != Some("tcp") {
        d.fatal_word(name, text, &("only NVMe over TCP is spoken", "rd.nvmf.discover=tcp,ADDRESS"));
        return Err("only NVMe over TCP is spoken");
    }
    let mut server = fields.next().unwrap_or_default().to_string();
    if let Some(port) = fields.nth(1).filter(|p| !p.is_empty()) {
        server.push(':');
        server.push_str(port);
    }
    let mut result = source::nvme(&server, "")?;
    result.host_nqn =
        d.get_any(&["rd.nvmf.hostnqn", "nvmf.hostnqn"]).map(|(_, nqn)| nqn.to_string());
    Ok(Some(Source::NvmeTcp(result)))
}

/// What follows `live:`.
fn live(d: &mut Draft<'_>, plan: &mut BootPlan, place: &str) {
    // kiwi's spelling of a URL.
    let place = place.strip_prefix("net:").filter(|url| text::has(url, "://")).unwrap_or(place);
    let rule = live_rule(d);
    plan.root.content = Content::Images(rule.clone());
    let word = text(&["root=live:", place]);
    let found = if place.starts_with("AOEINTERFACE") {
        Err("AoE is not spoken")
    } else if place.starts_with("nfs://") || place.starts_with("nfs:") {
        live_nfs(place).inspect(|source| {
            // A file that is no ISO may be the image of the root itself.
            if let Source::File { path, .. } = source
                && value::suffix(path).as_deref() != Some("iso")
            {
                plan.root.content = Content::Either(rule.clone());
            }
        })
    } else if text::has(place, "://") {
        plan.root.retry = LIVENET_RETRY;
        let proxy = d.text("proxy").as_deref().map(Private::word);
        source::fetchable(place).map(|_| {
            let payload = match value::suffix(place).as_deref() {
                Some("iso") => Payload::Medium,
                Some("tgz" | "tar" | "txz") => Payload::Archive,
                _ => Payload::Sniff,
            };
            if payload == Payload::Sniff {
                plan.root.content = Content::Either(rule.clone());
            }
            Source::Url(UrlSource { url: Private::word(place), payload, proxy })
        })
    } else if let Some(device) = value::device(place) {
        Ok(Source::Device(device))
    } else if place.starts_with('/') && value::suffix(place).is_some() {
        plan.root.content = Content::Either(rule);
        Ok(Source::Initramfs(place.to_string()))
    } else {
        // A bare name of a device, which is no file's name and no tag without a value.
        value::device(&text(&["/dev/", place]))
            .filter(|_| place.bytes().all(|b| b.is_ascii_alphanumeric()))
            .map(Source::Device)
            .ok_or("names no device, file or URL")
    };
    match found {
        Ok(source) => plan.root.sources = alloc::vec![source],
        Err(why) => d.fatal(&word, &(why, "root=live:LABEL=…, root=live:http://SERVER/live.iso")),
    }
}

/// A directory or an image file exported by NFS.
fn live_nfs(place: &str) -> Result<Source, &'static str> {
    let mut nfs = if place.starts_with("nfs://") {
        nfsroot::from_url(place)?
    } else {
        nfsroot::dracut(place.strip_prefix("nfs:").unwrap_or(place))?
    };
    nfs.read_write = false;
    let file = nfs.path.clone().filter(|path| {
        matches!(value::suffix(path).as_deref(), Some("iso" | "img" | "squashfs" | "erofs"))
    });
    let Some(file) = file else { return Ok(Source::Nfs(nfs)) };
    let (dir, name) = file.rsplit_once('/').unwrap_or(("", &file));
    nfs.path = Some(value::absolute(dir));
    Ok(Source::File { on: Box::new(Source::Nfs(nfs)), path: value::absolute(name) })
}

/// kiwi's size of the overlay, which has a unit; dracut's number of MiB is the snapshot's.
fn overlay_size(d: &mut Draft<'_>) -> String {
    if !cfg!(feature = "all") {
        return String::new();
    }
    let size = d.text("rd.live.overlay.size").unwrap_or_default();
    if value::number(&size).is_some() { String::new() } else { size }
}

fn writable(d: &mut Draft<'_>, plan: &mut BootPlan, live: bool) {
    // One word says where changes are kept, another that it is an overlayfs and no snapshot.
    let mut place = None;
    let mut overlayfs = false;
    let words = ["rd.overlay", "rd.overlayfs", "rd.live.overlay", "rd.live.overlay.overlayfs"];
    for (name, value) in d.all_any(&words) {
        match value::switch(Some(value)) {
            Some(on) => overlayfs = on,
            None => place = Some((name, value)),
        }
    }
    let (name, value) = place.unwrap_or_default();
    let asked = overlayfs || place.is_some();
    if let Some(word) = d.get("rd.overlay.crypt") {
        d.fatal_word(
            "rd.overlay.crypt",
            word,
            &(
                "wants an encrypted overlay, which is not made before the root is up",
                "rd.overlay=LABEL=…",
            ),
        );
    }
    if value == "none" {
        if live {
            plan.writable = Writable::AsIs { read_write: false };
        }
        return;
    }
    if !asked && !live {
        return;
    }
    let mut persist = kept(d, live);
    let kiwi = live && d.switch("rd.live.overlay.persistent") == Some(true);
    let memory_only = value.strip_prefix("tmpfs").map(|rest| {
        // tmpfs:size=1G,nr_inodes=…: only the size is ours.
        rest.trim_start_matches(':')
            .split(',')
            .find_map(|o| o.strip_prefix("size="))
            .unwrap_or_default()
    });
    let upper = if kiwi && !asked {
        kiwi_place(d, &mut persist);
        Upper::Persistent(persist)
    } else if let Some(size) = memory_only {
        let size = if size.is_empty() || value::is_tmpfs_size(size) { size } else { "" };
        Upper::Tmpfs { size: size.to_string() }
    } else if place.is_some() {
        named(d, persist, name, value)
    } else if !live || plan.root.sources.iter().any(|s| matches!(s, Source::Url(_))) {
        Upper::Tmpfs { size: overlay_size(d) }
    } else {
        // dracut takes an overlay at the default place without being asked.
        persist.silent = true;
        Upper::Persistent(persist)
    };
    let union = UnionPlan { kind: UnionKind::Overlay, upper, options: Vec::new() };
    let mib = d.number("rd.live.overlay.size").map_or(SNAPSHOT_MIB, u64::from).max(1);
    if d.switch("rd.writable.fsimg") == Some(true) {
        plan.root.to_ram = ToRam::Image(None);
    }
    plan.writable = if !live || kiwi || overlayfs || memory_only.is_some() {
        Writable::Union(union)
    } else {
        let store = match &union.upper {
            Upper::Persistent(persist) => SnapshotStore::Persistent(persist.clone()),
            Upper::Tmpfs { .. } => SnapshotStore::SparseFile(Bytes(mib << 20)),
        };
        let persistent = matches!(store, SnapshotStore::Persistent(_));
        let snapshot =
            SnapshotPlan { store, fallback: Bytes(mib << 20), persistent, chunk_sectors: 8 };
        Writable::ByImage { union, snapshot }
    };
}

/// Kept changes at the default place.
fn kept(d: &mut Draft<'_>, live: bool) -> PersistPlan {
    let mut on = |names: &[&'static str]| {
        d.get_any(names).is_some_and(|(_, v)| value::switch(Some(v)) == Some(true))
    };
    let mut persist = PersistPlan::new();
    persist.filesystem = true;
    persist.file = true;
    persist.directory = true;
    persist.read_only =
        on(&["rd.overlay.readonly", "rd.live.overlay.readonly", "rd.live.overlayfs.readonly"]);
    persist.reset = on(&["rd.overlay.reset", "rd.live.overlay.reset"]);
    let path = match live {
        true => text(&["/", d.get("rd.live.dir").unwrap_or("LiveOS"), "/overlay-{label}-{uuid}"]),
        false => String::from("/overlay"),
    };
    // The medium's root is a directory as well: rd.live.dir=/.
    #[cfg(feature = "all")]
    let path = value::inside(&path).map_or(path, |p| value::absolute(&p));
    persist.path = Some(path);
    persist
}

/// Where kiwi's media keep changes.
fn kiwi_place(d: &mut Draft<'_>, persist: &mut PersistPlan) {
    if cfg!(feature = "all") && d.has("iso-scan/filename") {
        // A file beside the ISO: there is no room for a partition.
        let file = d.get("rd.live.cowfile.path").and_then(value::inside);
        persist.labels = alloc::vec![file.unwrap_or_else(|| String::from("live_system.cow"))];
        persist.filesystem = false;
        persist.directory = false;
        persist.path = None;
    } else {
        persist.device = Some(crate::plan::DeviceSelector::Label(String::from("cow")));
        persist.path = Some(String::from("/rw"));
    }
}

/// The place that the word `name` gives as `DEVICE[:PATH]`.
fn named(d: &mut Draft<'_>, mut persist: PersistPlan, name: &str, value: &str) -> Upper {
    let (place, path) = split_overlay(value);
    persist.device = value::device(place);
    if persist.device.is_none() {
        d.warn_word(
            name,
            value,
            &("names no device; changes stay in memory", "rd.overlay=LABEL=changes:/path"),
        );
        return Upper::Tmpfs { size: String::new() };
    }
    if !matches!(path, "" | "auto") {
        persist.path = value::inside(path).map(|p| value::absolute(&p));
    }
    Upper::Persistent(persist)
}

/// `DEVICE[:PATH]`; the colon of `8:1` is no such colon, and no label holds `:/`.
fn split_overlay(value: &str) -> (&str, &str) {
    match text::find(value, ":/") {
        Some(at) => (value.get(..at).unwrap_or(value), value.get(at + 1..).unwrap_or_default()),
        None => match value.strip_suffix(":auto") {
            Some(place) => (place, "auto"),
            None => (value, ""),
        },
    }
}

fn network(d: &mut Draft<'_>, plan: &mut BootPlan) {
    let needed = source::needs_network(plan);
    let mut names = Vec::new();
    each(d, "ifname", &("is not NAME:MAC and was left out", ""), &mut |text| {
        names.push(link_name(text)?);
        Some(())
    });
    let settings = settings(d);
    let bootdev = d.get_any(&["bootdev", "ksdevice"]).map(|(_, device)| device);
    let asked = d.switch("rd.neednet") == Some(true);
    if !needed && !asked && settings.is_empty() {
        return;
    }
    let mut ip = choose(d, settings, bootdev, source::server_address(plan));
    let off = ip.as_ref().is_some_and(|ip| ip.method == Method::Off && ip.client.is_none());
    if off && !needed && !asked {
        return;
    }
    let named =
        bootdev.filter(|name| !matches!(*name, "link" | "bootif") && bootif::parse(name).is_none());
    let mut devices: Vec<String> = named.map(ToString::to_string).into_iter().collect();
    let groups = groups(d);
    let ports = ports(d, &groups, ip.as_ref().and_then(|ip| ip.device.as_deref()).or(bootdev));
    if !ports.is_empty() {
        devices = ports;
        if let Some(ip) = &mut ip {
            ip.device = None;
        }
    }
    let ignore_bootif = d.switch("rd.bootif") == Some(false);
    let mut network = net::plan(d, ip, net::Extra { devices, required: needed });
    vlan_on_ports(d, &groups, &mut network);
    if ignore_bootif && matches!(network.links, LinkChoice::Mac(_)) {
        network.links = LinkChoice::Race;
    }
    network.names = names;
    network.peer_dns = d.switch("rd.peerdns") != Some(false);
    let problem = ("is no IPv4 address and was left out", "");
    each(d, "nameserver", &problem, &mut |text| {
        network.dns.push(value::address(text)?);
        Some(())
    });
    let problem =
        ("is not NETWORK/PREFIX:GATEWAY and was left out", "rd.route=10.1.0.0/16:10.0.0.1");
    each(d, "rd.route", &problem, &mut |text| {
        network.routes.push(route(text)?);
        Some(())
    });
    if let Some(class) = d.text("rd.net.dhcp.vendor-class")
        && let crate::plan::Addressing::Dhcp(request) = &mut network.addressing
    {
        request.vendor_class = Some(class);
    }
    let timeout = |d: &mut Draft<'_>, name| d.number(name).filter(|n| *n > 0).map(Seconds);
    if let Some(seconds) = timeout(d, "rd.net.timeout.dhcp") {
        network.dhcp_timeout = seconds;
    }
    if let Some(seconds) = timeout(d, "rd.net.timeout.iflink") {
        network.link_timeout = seconds;
    }
    if let Some(seconds) = timeout(d, "rd.net.timeout.carrier") {
        network.carrier_timeout = seconds;
    }
    plan.network = Some(network);
}

/// Hands each word of this name to `read`, and warns of those that it does not take.
fn each(
    d: &mut Draft<'_>,
    name: &str,
    problem: &(&str, &str),
    read: &mut dyn FnMut(&str) -> Option<()>,
) {
    for text in d.all(name) {
        if read(text).is_none() {
            d.warn_word(name, text, problem);
        }
    }
}

/// Every `ip=`, with its text.
fn settings<'a>(d: &mut Draft<'a>) -> Vec<(&'a str, Ip)> {
    let mut settings = Vec::new();
    for text in d.all("ip") {
        if let Some(mut ip) = net::checked(d, "ip", text, ip::parse(text, Form::Dracut)) {
            anaconda(d, &mut ip);
            settings.push((text, ip));
        }
    }
    settings
}

/// The settings of the link that boots: the one that `bootdev=` names, else the one in the
/// server's network, else the first that has settings.
fn choose(
    d: &mut Draft<'_>,
    settings: Vec<(&str, Ip)>,
    bootdev: Option<&str>,
    server: Option<Ipv4Addr>,
) -> Option<Ip> {
    let says = |ip: &Ip| ip.method != Method::Off || ip.client.is_some();
    let reaches = |ip: &Ip| {
        let near = |at, server| source::same_subnet(at, server, ip.prefix.unwrap_or(32));
        ip.client.zip(server).is_some_and(|(at, server)| near(at, server))
    };
    let chosen = settings
        .iter()
        .position(|(_, ip)| bootdev.is_some() && ip.device.as_deref() == bootdev)
        .or_else(|| settings.iter().position(|(_, ip)| reaches(ip)))
        .or_else(|| settings.iter().position(|(_, ip)| says(ip)))
        .unwrap_or(0);
    for (_, (text, _)) in
        settings.iter().enumerate().filter(|(n, (_, ip))| *n != chosen && says(ip))
    {
        let word = Draft::word("ip", text);
        d.warn(
            &word,
            &("is left to the live system; one link is enough to boot", "bootdev= chooses another"),
        );
    }
    settings.into_iter().nth(chosen).map(|(_, ip)| ip)
}

/// `ip=ADDRESS gateway= netmask= hostname= mtu=`.
fn anaconda(d: &mut Draft<'_>, ip: &mut Ip) {
    if ip.client.is_none() || ip.prefix.is_some() {
        return;
    }
    if let Some(mask) = d.get("netmask") {
        ip.prefix = value::prefix(mask);
    }
    if let Some(gateway) = d.get("gateway") {
        ip.gateway = value::address(gateway);
    }
    if let Some(mtu) = d.get("mtu") {
        ip.mtu = mtu.parse().ok();
    }
    if ip.prefix.is_none() {
        d.warn("ip", &("has an address without a netmask; the one of its class is used", ""));
    }
}

/// `NAME:MAC`
fn link_name(text: &str) -> Option<LinkName> {
    let (name, mac) = text.split_once(':')?;
    let mac = bootif::parse(mac)?;
    ip::is_device_name(name).then(|| LinkName { name: name.to_string(), mac })
}

/// A bond, team or bridge: the word, what follows it, the group's name and its ports.
type Group<'a> = (&'a str, &'a str, String, Vec<String>);

fn groups<'a>(d: &mut Draft<'a>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (name, text) in d.all_any(&["bond", "team", "bridge"]) {
        let mut fields = text.split(':');
        let master = fields.next().unwrap_or_default();
        let list = value::list(fields.next().unwrap_or_default());
        let (master, list) = match (name, master.is_empty(), list.is_empty()) {
            ("bridge", true, _) => ("br0", alloc::vec!["eth0".to_string()]),
            (_, true, _) => ("bond0", strings(&["eth0", "eth1"])),
            (_, _, true) => (master, strings(&["eth0", "eth1"])),
            (_, _, false) => (master, list),
        };
        groups.push((name, text, master.to_string(), list));
    }
    groups
}

/// The ports of the group that is booted over, with a word about it.
fn ports(d: &mut Draft<'_>, groups: &[Group<'_>], device: Option<&str>) -> Vec<String> {
    for (name, text, master, list) in groups {
        if device.is_none_or(|device| device == master) {
            d.warn_word(name, text, &("is not put together before the root is up; its ports are tried one beside the other", "a switch that insists on LACP needs a port outside the group"));
            // A bridge's port may be a bond.
            let below = |port: &String| {
                let group = groups.iter().find(|(_, _, name, _)| name == port && name != master);
                group.map_or_else(|| alloc::vec![port.clone()], |(_, _, _, list)| list.clone())
            };
            return list.iter().flat_map(below).collect();
        }
    }
    Vec::new()
}

/// A VLAN needs one link under it: a group of several ports is refused.
fn vlan_on_ports(d: &mut Draft<'_>, groups: &[Group<'_>], network: &mut NetworkPlan) {
    let Some(vlan) = &mut network.vlan else { return };
    let Some((name, text, _, list)) = groups.iter().find(|(_, _, name, _)| *name == vlan.link)
    else {
        return;
    };
    if let [port] = list.as_slice() {
        vlan.link.clone_from(port);
        network.links = LinkChoice::Named(list.clone());
    } else if network.required {
        d.fatal_word(
            name,
            text,
            &(
                "is not put together before the root is up, and a VLAN lies on it",
                "vlan=NAME:PORT puts the VLAN on one of its ports",
            ),
        );
    }
}

fn route(text: &str) -> Option<Route> {
    let (network, rest) = text.split_once(':').unwrap_or((text, ""));
    let (destination, prefix) = network.split_once('/')?;
    let gateway = rest.split(':').next().unwrap_or_default();
    let gateway = if gateway.is_empty() { None } else { Some(value::address(gateway)?) };
    Some(Route { destination: destination.parse().ok()?, prefix: value::prefix(prefix)?, gateway })
}
