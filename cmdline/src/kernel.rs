//! The kernel's own root words, as initramfs-tools and klibc understand them too:
//! `root=/dev/nfs nfsroot= ip=`, `root=DEVICE`, `loop=`; and cloud-initramfs-tools'
//! `overlayroot=`.
//!
//! Kernel documentation: `admin-guide/nfs/nfsroot.rst`. Differences on purpose: a
//! network root without `ip=` gets DHCP (the kernel documents that and does
//! nothing), and v3 is tried first instead of v2.

use alloc::boxed::Box;
use alloc::string::{String, ToString};

use crate::ip::Form;
use crate::plan::{
    BootPlan, Content, DeviceSelector, Dialect, NfsSource, Payload, PersistPlan, Retry, Seconds,
    Source, UnionKind, UnionPlan, Upper, UrlSource, Writable,
};
use crate::secrets::Private;
use crate::table::{Draft, Grammar, listed, text, words};
use crate::{base, net, nfsroot, own, source, value};

words! { KERNEL, KERNEL_DOCS:
    "nfsroot" OptText Keep "[SERVER:]DIRECTORY[,OPTIONS]; what is missing comes from DHCP, then from /tftpboot/%s.";
    "nbdroot" Text Keep "SERVER,EXPORT or SERVER:EXPORT of nbd-client: root=/dev/nbd0 is this export, root=/dev/nbd0p2 its second partition.";
    "cifsroot" Text Keep "//SERVER/SHARE[,OPTIONS] of root=/dev/cifs.";
    "nfsopts" Text Local "Further NFS options.";
    "overlayroot" Text Keep "tmpfs, a device, device:dev=…, or disabled: the root stays read-only under an overlay.";
    "overlayroot_cfgdisk" Text Idle "Configuration disks are not read.";
    "rd.systemd.pull" Text Keep "OPTIONS:NAME:URL fetches a root as systemd 257 does; root= then names it.";
    "systemd.volatile" OptText Keep "overlay keeps changes in memory; state is for the live system's own systemd; yes is taken for overlay.";
    "roothash" Text Keep "dm-verity root hash of the root image.";
    "boot" Text Soft "The script that mounts the root; nfs and local are these words, casper and live other dialects; overlay keeps changes in memory.";
}

#[cfg(feature = "all")]
words! { GENKERNEL, GENKERNEL_DOCS:
    "real_root" Text Keep "genkernel's root=; it wins.";
    "real_rootflags" Text Keep "genkernel's rootflags=; it wins.";
}

pub(crate) static GRAMMAR: Grammar = Grammar {
    dialect: Dialect::Kernel,
    tables: &[
        &own::OWN,
        &own::P2V,
        &KERNEL,
        #[cfg(feature = "all")]
        &GENKERNEL,
        &net::NET,
        &base::BASE,
    ],
    pass: "usrhash mount.usr mount.usrfstype mount.usrflags",
    first_wins: false,
    splits_quotes: false,
    build,
};

/// What `root=` with a device means; shared with the dialects that allow a plain root.
pub(crate) fn device_root(d: &mut Draft<'_>, plan: &mut BootPlan, root: &str) {
    match d.get("rootfstype") {
        // The kernel takes root= as the tag (filesystems/9p, filesystems/virtiofs).
        Some("9p") => plan.root.sources = alloc::vec![Source::NineP(root.to_string())],
        Some("virtiofs") => plan.root.sources = alloc::vec![Source::VirtioFs(root.to_string())],
        _ => device(d, plan, root),
    }
    let flags = d.text("rootflags").unwrap_or_default();
    #[cfg(feature = "all")]
    let flags = match d.peek("real_rootflags") {
        Some(_) if d.grammar.dialect == Dialect::Kernel => {
            d.text("real_rootflags").unwrap_or(flags)
        }
        _ => flags,
    };
    plan.root.content = Content::Tree {
        subdir: String::new(),
        fstype: d.text("rootfstype").unwrap_or_default(),
        flags,
    };
    wait(d, plan);
}

fn device(d: &mut Draft<'_>, plan: &mut BootPlan, root: &str) {
    match value::device(root).or_else(|| by_number(root)) {
        Some(device) => plan.root.sources = alloc::vec![Source::Device(device)],
        None if root.starts_with("/") => {
            d.fatal_word("root", root, &("is no device", "root=/dev/sda1, LABEL=…, UUID=…"));
        }
        None => {
            d.fatal_word(
                "root",
                root,
                &(
                    "is no root that is known",
                    "root=/dev/nfs, root=/dev/sda1, root=LABEL=…, root=UUID=…",
                ),
            );
        }
    }
}

/// The hexadecimal number of a device, as LILO and rdev write it: `801` is 8:1 (`new_decode_dev`
/// of the kernel).
fn by_number(root: &str) -> Option<DeviceSelector> {
    let digits = root.strip_prefix("0x").unwrap_or(root);
    let number = u32::from_str_radix(digits, 16).ok().filter(|_| digits.len() >= 3)?;
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00);
    let path = text(&[&major.to_string(), ":", &minor.to_string()]);
    (major != 0).then_some(DeviceSelector::Path(path))
}

/// `rootdelay=`, `roottimeout=`, `rootwait`: how long a device is waited for.
pub(crate) fn wait(d: &mut Draft<'_>, plan: &mut BootPlan) {
    // initramfs-tools waits 30 s and only longer when asked to.
    let asked = d.get_any(&["rootdelay", "roottimeout"]).and_then(|(_, v)| value::number(v));
    let mut attempts = asked.unwrap_or(30).max(30);
    if let Some(seconds) = d.get("rootwait") {
        attempts = value::number(seconds).filter(|n| *n > 0).unwrap_or(0);
    }
    plan.root.retry = base::rounds(attempts, 1);
}

/// The NFS source of `nfsroot=`; `read_write` unless the options say otherwise.
pub(crate) fn nfs(d: &mut Draft<'_>) -> Option<NfsSource> {
    let text = d.get("nfsroot").unwrap_or_default();
    match nfsroot::of_device(d.get("root").unwrap_or_default(), text) {
        Ok(source) => Some(source),
        Err(why) => {
            d.fatal_word("nfsroot", text, &(why, "nfsroot=10.0.0.1:/srv/live"));
            None
        }
    }
}

/// As the kernel does it: 5 s between rounds, growing to 30.
pub(crate) const NFS_RETRY: Retry =
    Retry { attempts: 6, pause: Seconds(5), max_pause: Seconds(30) };

/// For what is fetched.
const FETCH_RETRY: Retry = Retry { attempts: 10, pause: Seconds(1), max_pause: Seconds(30) };

/// nbd-client's `SERVER,EXPORT[,DEVICE]`; LTSP 5 and others write `:` or `/` for the comma.
fn nbd(d: &mut Draft<'_>, plan: &mut BootPlan, root: &str, place: &str) {
    let (server, rest) = place.split_once([',', ':', '/']).unwrap_or((place, ""));
    let export = rest.split(',').next().unwrap_or_default();
    let server = if server == "dhcp" { "" } else { server };
    let found = match export.parse::<u64>() {
        Ok(port) => source::nbd(&text(&[server, ":", &port.to_string()]), ""),
        Err(_) if server.is_empty() && export.is_empty() => {
            Err("names no export, and DHCP's root path is read for NFS alone")
        }
        Err(_) => source::nbd(server, export),
    };
    match found {
        Ok(nbd) => {
            let on = Source::Nbd(nbd);
            let partition = root.strip_prefix("/dev/nbd").and_then(|rest| rest.split_once('p'));
            let number = partition.and_then(|(_, number)| value::number(number));
            plan.root.sources = alloc::vec![match number {
                Some(number) => Source::Partition { on: Box::new(on), number },
                None => on,
            }];
        }
        Err(why) => d.fatal_word("nbdroot", place, &(why, "nbdroot=SERVER,EXPORT")),
    }
    plan.root.content = Content::Tree {
        subdir: String::new(),
        fstype: d.text("rootfstype").unwrap_or_default(),
        flags: d.text("rootflags").unwrap_or_default(),
    };
    plan.root.retry = NFS_RETRY;
}

/// The kernel's `cifsroot=//SERVER/SHARE[,OPTIONS]` (`admin-guide/cifs`, `fs/smb`).
fn cifs(d: &mut Draft<'_>) -> Option<Source> {
    let place = d.get("cifsroot").unwrap_or_default();
    let (share, options) = place.split_once(',').unwrap_or((place, ""));
    match share.strip_prefix("//").ok_or("is not //SERVER/SHARE").and_then(source::cifs) {
        Ok(mut source) => {
            if !options.is_empty() {
                source.options = value::list(options).iter().map(|o| Private::word(o)).collect();
            }
            source.read_write = base::read_write(d);
            Some(Source::Cifs(source))
        }
        Err(why) => {
            d.fatal_word("cifsroot", place, &(why, "cifsroot=//10.0.0.1/root,username=…"));
            None
        }
    }
}

/// A script of initramfs-tools that is none of ours.
fn script(d: &mut Draft<'_>, plan: &mut BootPlan, name: &str) {
    match name {
        "" | "nfs" | "local" => {}
        // raspi-config's, until 2023.
        "overlay" => plan.writable = Writable::Union(own::overlay("")),
        // dracut's FIPS checks want the boot partition by this word.
        _ if value::device(name).is_some() => {}
        "zfs" => d.fatal_word(
            "boot",
            name,
            &("asks for a root on ZFS, which is not read", "boot it with its own initramfs"),
        ),
        _ => d.warn_word(
            "boot",
            name,
            &(
                "names a script that only the system's own initramfs has; root= is mounted as it is",
                "bw.overlay makes the root writable in memory",
            ),
        ),
    }
}

fn build(d: &mut Draft<'_>, plan: &mut BootPlan) {
    let root = d.get("root").unwrap_or_default();
    // genkernel's name of it, which wins over root=.
    #[cfg(feature = "all")]
    let root = d.get("real_root").filter(|root| !root.is_empty()).unwrap_or(root);
    let boot = d.get("boot").unwrap_or_default();
    let boot_nfs = boot == "nfs";
    let has_nfsroot = d.peek("nfsroot").is_some();
    let is_nfs = matches!(root, "/dev/nfs" | "/dev/nfs4" | "nfs");
    if is_nfs || boot_nfs || (has_nfsroot && root.is_empty()) {
        if root.is_empty() && !boot_nfs {
            d.warn(
                "nfsroot",
                &("is taken as the root, although root=/dev/nfs is missing", "root=/dev/nfs"),
            );
        }
        let read_write = base::read_write(d);
        if let Some(mut source) = nfs(d) {
            source.read_write |= read_write;
            if let Some(options) = d.get("nfsopts") {
                nfsroot::apply_options(&mut source, options);
            }
            plan.writable = Writable::AsIs { read_write: source.read_write };
            plan.root.sources = alloc::vec![Source::Nfs(source)];
        }
        plan.root.retry = NFS_RETRY;
    } else if let Some(place) = d.get("nbdroot") {
        nbd(d, plan, root, place);
    } else if root == "/dev/cifs" {
        plan.root.sources.extend(cifs(d));
        plan.root.retry = NFS_RETRY;
    } else if let Some(url) = root.strip_prefix("squash:") {
        match source::fetchable(url) {
            Ok(_) => {
                let url = Private::word(url);
                let image = UrlSource { url, payload: Payload::Image, proxy: None };
                plan.root.sources.push(Source::Url(image));
                plan.root.retry = FETCH_RETRY;
            }
            Err(why) => d.fatal_word("root", root, &(why, "root=squash:http://SERVER/PATH")),
        }
    } else if !root.is_empty() {
        if let Some(url) = d.get("rd.systemd.pull") {
            pull(d, plan, url);
        } else {
            device_root(d, plan, root);
        }
    }
    if let Some(path) = d.get("loop") {
        let inner = d.text("loopfstype").unwrap_or_default();
        let flags = d.text("loopflags").unwrap_or_default();
        let sources = core::mem::take(&mut plan.root.sources);
        plan.root.sources = sources
            .into_iter()
            .map(|on| Source::File { on: Box::new(on), path: value::absolute(path) })
            .collect();
        plan.root.content = Content::Tree { subdir: String::new(), fstype: inner, flags };
    }
    roothash(d, plan);
    volatile(d, plan);
    script(d, plan, boot);
    overlayroot(d, plan);
    let ip = net::read_ip(d, Form::Kernel);
    let unused =
        ip.as_ref().is_some_and(|ip| ip.method == crate::ip::Method::Off && ip.client.is_none());
    if crate::source::needs_network(plan)
        || own::names_root(d) && ip.is_some()
        || ip.is_some() && !unused
    {
        plan.network = Some(net::plan(d, ip, net::Extra::default()));
    }
}

/// `roothash=HEX` of systemd: the root image is held to it.
pub(crate) fn roothash(d: &mut Draft<'_>, plan: &mut BootPlan) {
    let Some(hash) = d.get("roothash") else { return };
    if hash.len() >= 32 && hash.len() <= 128 && hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        plan.root.integrity.push(crate::plan::Integrity::Verity {
            image: String::new(),
            root_hash: hash.to_ascii_lowercase(),
            on_corruption: crate::plan::OnCorruption::Error,
        });
    } else {
        d.fatal_word("roothash", hash, &("is no root hash", ""));
    }
}

/// `rd.systemd.pull=OPTIONS:NAME:URL` (systemd-import-generator).
pub(crate) fn pull(d: &mut Draft<'_>, plan: &mut BootPlan, text: &str) {
    let mut pieces = text.splitn(3, ':');
    let (options, _name, url) = (
        pieces.next().unwrap_or_default(),
        pieces.next().unwrap_or_default(),
        pieces.next().unwrap_or_default(),
    );
    let word = Draft::word("rd.systemd.pull", text);
    match crate::source::fetchable(url) {
        Ok(_) => {
            let mut payload = Payload::Sniff;
            for option in options.split(',') {
                match option {
                    "tar" => payload = Payload::Archive,
                    "raw" => payload = Payload::Image,
                    "verify=signature" | "verify=checksum" => d.warn(
                        &word,
                        &(
                            "asks for a check against files beside the image, which is not made",
                            "bw.digest=sha256:… holds the image to a digest",
                        ),
                    ),
                    "bootorigin" => d.warn(
                        &word,
                        &("asks for the UEFI HTTP boot origin, which is not read", ""),
                    ),
                    _ => {}
                }
            }
            plan.root.sources = alloc::vec![Source::Url(UrlSource {
                url: Private::word(url),
                payload,
                proxy: None
            })];
            plan.root.retry = FETCH_RETRY;
            let volatile = own::overlay("");
            plan.writable = Writable::Union(volatile);
        }
        Err(why) => {
            d.fatal(&word, &(why, "rd.systemd.pull=raw,blockdev:root:http://SERVER/root.raw"))
        }
    }
}

/// systemd's `systemd.volatile=`, as far as it is for the initramfs.
pub(crate) fn volatile(d: &mut Draft<'_>, plan: &mut BootPlan) {
    let Some(kind) = d.get("systemd.volatile") else { return };
    match kind {
        "overlay" => {}
        // The live system's own generator mounts a tmpfs over /var.
        "state" => return,
        _ if value::switch(Some(kind)) == Some(false) => return,
        _ => d.warn_word(
            "systemd.volatile",
            kind,
            &("would leave nothing but /usr; an overlay in memory is used", "overlay"),
        ),
    }
    plan.writable = Writable::Union(own::overlay(""));
}

/// cloud-initramfs-tools' `overlayroot=`.
pub(crate) fn overlayroot(d: &mut Draft<'_>, plan: &mut BootPlan) {
    let Some(text) = d.get("overlayroot") else { return };
    let (kind, options) = text.split_once(':').unwrap_or((text, ""));
    let mut device = kind.strip_prefix("/dev/").map(|_| kind);
    let mut flags: Option<&str> = None;
    let mut dir = "/overlay";
    let word = Draft::word("overlayroot", text);
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("dev", value) => device = Some(value),
            ("dir", value) => dir = value,
            ("fstype", value) => flags = Some(value),
            (key, _) if listed("driver debug timeout swap recurse mkfs mapname pass", key) => {}
            _ => d.warn(&word, &("holds an option that overlayroot does not know", "")),
        }
    }
    let upper = match (kind, device) {
        ("disabled" | "", _) => return,
        ("crypt", _) => {
            // It formats the device when it is no LUKS volume; that is never done from a word.
            d.fatal(
                &word,
                &(
                    "wants an encrypted overlay, which is not made before the root is up",
                    "overlayroot=tmpfs, or overlayroot=device:dev=…",
                ),
            );
            return;
        }
        (_, Some(device)) if kind == "device" || kind.starts_with("/dev/") => {
            let selector = value::device(device);
            if selector.is_none() {
                d.fatal(&word, &("names no device", "overlayroot=device:dev=/dev/sdb1"));
            }
            let path = value::inside(dir).map(|dir| value::absolute(&dir));
            Upper::Persistent({
                let mut persist = PersistPlan::new();
                persist.device = selector;
                persist.path = path;
                persist.directory = true;
                persist.filesystem = true;
                persist.required = true;
                persist.fstype = String::from(flags.unwrap_or_default());
                persist
            })
        }
        ("tmpfs", _) => Upper::Tmpfs { size: String::new() },
        _ => {
            d.warn(&word, &("is not known; an overlay in memory is used", "overlayroot=tmpfs"));
            Upper::Tmpfs { size: String::new() }
        }
    };
    plan.writable = Writable::Union(UnionPlan {
        kind: UnionKind::Overlay,
        upper,
        options: alloc::vec::Vec::new(),
    });
}
