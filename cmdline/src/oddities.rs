//! Values that are well formed and cannot be meant: addresses that no server and no machine
//! has, port 0, versions of NFS that do not exist.
//!
//! Not in `/init`: the boot fails on them all the same, in the kernel's words.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use crate::plan::{Addressing, BootPlan, DeviceSelector, Dialect, Server, Source};
use crate::source::{host_of, same_subnet};
use crate::table::{Act, Draft, listed};
use crate::token::Token;
use crate::{nfsroot, value};

/// Words whose value may end in options of an NFS mount.
const NFS_WORDS: &str = "root netroot nfsroot nfsopts nfsoverlay nfsdir archiso_nfs_opt bw.root";

/// What no machine can have as its own address; a server neither.
fn nobodys(address: Ipv4Addr) -> Option<&'static str> {
    Some(match () {
        () if address.is_unspecified() => "is no address: it stands for any",
        () if address.is_loopback() => "is a machine's own loopback address",
        () if address.is_multicast() => "is the address of a multicast group, not of a machine",
        () if address.is_broadcast() => "is the broadcast address, not a machine's",
        () => return None,
    })
}

/// Words whose value is a path on the medium or in a file system of it.
const PATH_WORDS: &str = "live-media-path iso-scan/filename findiso persistent-path persistence-path \
    layerfs-path rd.live.dir rd.live.squashimg archisobasedir archisosearchfilename img_loop \
    knoppix_dir knoppix_name loop module bw.image";

/// What web pages and word processors make of quotes and dashes.
const TYPOGRAPHIC: [char; 7] = ['“', '”', '„', '‘', '’', '–', '—'];

/// Slips of who types a line, or takes it from a page.
fn typed(d: &mut Draft<'_>, plan: &BootPlan) {
    let tokens: Vec<_> = d.tokens().collect();
    for token in &tokens {
        let word = token.text();
        let read = d.grammar.find(token.name).is_some_and(|spec| spec.act != Act::Pass);
        if word.contains(TYPOGRAPHIC) {
            let why = "holds a quote or a dash as web pages write it, which no program knows";
            d.warn(&word, &(why, "type it again: \" ' -"));
        } else if read && token.value.is_some_and(|value| value.contains(['"', '\''])) {
            let why = "holds a quote, which stays a part of it";
            d.warn(&word, &(why, "NAME=\"VALUE\", and so only for a value with blanks"));
        } else if read && token.value.is_some_and(|value| value.ends_with(';')) {
            d.warn(&word, &("ends in a semicolon, which is a part of it", "blanks part words"));
        }
        let boot = token.name.eq_ignore_ascii_case("boot");
        let value = token.value.unwrap_or_default();
        let start = value.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        let meant = ["live", "casper"].into_iter().find(|name| start.eq_ignore_ascii_case(name));
        if let Some(meant) = meant.filter(|meant| boot && (token.name, value) != ("boot", *meant)) {
            d.fatal(&word, &("is not written so", &crate::table::text(&["boot=", meant])));
        }
    }
    for source in &plan.root.sources {
        if let Source::Device(DeviceSelector::Path(path)) = source
            && path.contains([',', ';', '\\'])
        {
            d.fatal(path, &("is no name of a device", "words are parted by blanks"));
        }
        if let Source::Device(DeviceSelector::PartUuid(id)) = source
            && crate::text::has(id, "/PARTNROFF=")
        {
            let why = "counts from another partition, as the kernel alone does";
            d.fatal_word("root", id, &(why, "root=PARTUUID=… of the partition itself"));
        }
        let digits = |host: &str| host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let host = host_of(source).filter(|host| !host.is_empty() && digits(host));
        if let Some(host) = host.filter(|host| host.parse::<Ipv4Addr>().is_err()) {
            d.fatal(&host, &("is no IPv4 address", "four numbers from 0 to 255"));
        }
    }
    if let Some(network) = plan.network.as_ref().filter(|network| network.required)
        && network.addressing == Addressing::Existing
    {
        for warning in d.warnings.iter_mut().filter(|w| w.message == crate::ip::NO_ADDRESS) {
            warning.fatal = true;
        }
    }
}

/// Words of Ubuntu's lines that the initramfs does not read.
const UBUNTUS: &str =
    "splash file maybe-ubiquity only-ubiquity autoinstall ds cloud-init snapd* bw.*";

/// A URL where a path is meant, and Ubuntu's line that Debian's installer could have as well.
fn words(d: &mut Draft<'_>, plan: &BootPlan) {
    let tokens: Vec<_> = d.tokens().collect();
    for token in
        tokens.iter().filter(|t| listed(PATH_WORDS, t.name) && d.grammar.find(t.name).is_some())
    {
        let url = token.value.filter(|value| crate::text::has(value, "://"));
        if url.is_some() {
            let hint = match d.grammar.dialect {
                Dialect::Casper => "url=http://SERVER/PATH.iso",
                Dialect::LiveBoot => "fetch=http://SERVER/PATH",
                Dialect::Dracut => "root=live:http://SERVER/PATH",
                _ => "bw.root=http://SERVER/PATH",
            };
            d.fatal(&token.text(), &("is a URL, and this word names a path on the medium", hint));
        }
        let out = token.value.is_some_and(|value| value.split('/').any(|part| part == ".."));
        let word = token.text();
        if out && !d.warnings.iter().any(|warning| warning.word == word) {
            d.fatal(&word, &("leads out of the medium", "a path without `..`"));
        }
    }
    if let Some(kind) = d.peek("netboot")
        && matches!(d.grammar.dialect, Dialect::Casper | Dialect::LiveBoot)
        && !matches!(kind, "" | "nfs" | "cifs" | "url" | "http")
        && plan.root.sources.iter().any(is_nfs)
    {
        let why = "is no way to boot that is known; NFS is tried";
        d.warn_word("netboot", kind, &(why, "netboot=nfs, netboot=cifs, fetch=http://SERVER/PATH"));
    }
    // Whether the file is there or not, the kernel then starts no /init.
    if let Some(init) = d.peek("rdinit").filter(|init| !matches!(*init, "" | "/init")) {
        let why = "is started by the kernel in the place of /init: nothing of this is done";
        d.fatal_word("rdinit", init, &(why, "leave it out, or boot with that initramfs alone"));
    }
    let of_casper = |t: &Token<'_>| {
        listed(UBUNTUS, t.name)
            || crate::casper::CASPER.find(t.name).is_some()
            || t.value.is_some_and(|value| crate::text::has(value, "casper/"))
    };
    if d.grammar.dialect == Dialect::Casper
        && matches!(plan.root.sources.as_slice(), [Source::Scan(_)])
        && !tokens.iter().any(of_casper)
    {
        let why = "is all that makes this line Ubuntu's, and Debian's installer has it as well";
        d.warn("---", &(why, "boot=casper says so; that installer runs from its own initrd"));
    }
}

fn port_of(source: &Source) -> Option<u16> {
    match source {
        Source::Nbd(nbd) => Some(nbd.port),
        Source::NvmeTcp(nvme) => Some(nvme.port),
        Source::File { on, .. } | Source::Partition { on, .. } => port_of(on),
        _ => None,
    }
}

fn nfs_path(source: &Source) -> Option<&str> {
    match source {
        Source::Nfs(nfs) => nfs.path.as_deref(),
        Source::File { on, .. } | Source::Partition { on, .. } => nfs_path(on),
        _ => None,
    }
}

/// The path of an NFS source without a server that begins with what looks like one.
fn misplaced_server(source: &Source) -> Option<&str> {
    match source {
        Source::Nfs(nfs) if nfs.server == Server::Boot => {
            let path = nfs.path.as_deref()?.strip_prefix("/tftpboot/")?;
            value::address(path.split(|c: char| !c.is_ascii_digit() && c != '.').next()?)?;
            Some(path)
        }
        Source::File { on, .. } | Source::Partition { on, .. } => misplaced_server(on),
        _ => None,
    }
}

/// Says what is odd in the plan.
pub(crate) fn check(d: &mut Draft<'_>, plan: &BootPlan) {
    for source in &plan.root.sources {
        let host = host_of(source).and_then(|host| Some((host.parse().ok()?, host)));
        if let Some((why, host)) = host.and_then(|(address, host)| Some((nobodys(address)?, host)))
        {
            d.fatal(&host, &(why, "write the server's own address"));
        }
        if port_of(source) == Some(0) {
            d.fatal("", &("port 0 is none", "leave it out: NBD has port 10809"));
        }
        if let Some(path) = nfs_path(source)
            .filter(|path| path.ends_with(":ro") || path.ends_with(":rw") || path.contains('\\'))
        {
            let hint = "SERVER:/PATH,OPTIONS for NFS, //SERVER/SHARE for CIFS";
            d.warn(path, &("is taken as a path of the NFS server, as it is", hint));
        }
        if let Some(path) = misplaced_server(source) {
            let hint = "SERVER:/PATH, with a colon behind the server";
            d.warn(path, &("is taken as a path on the boot server", hint));
        }
    }
    words(d, plan);
    typed(d, plan);
    address(d, plan);
    let nfs = plan.root.sources.iter().any(is_nfs);
    let tokens: Vec<_> = d.tokens().collect();
    for token in tokens.iter().filter(|t| nfs && listed(NFS_WORDS, t.name)) {
        for option in token.value.unwrap_or_default().split([',', ':']) {
            let version = option.strip_prefix("vers=").or_else(|| option.strip_prefix("nfsvers="));
            let port = option.strip_prefix("port=").or_else(|| option.strip_prefix("mountport="));
            if port.is_some_and(|port| port.parse::<u16>().is_err()) {
                d.warn(option, &("is no port: the kernel refuses to mount", "1 to 65535"));
            }
            if version.is_some_and(|version| nfsroot::versions(version).is_none()) {
                let known = "2, 3, 4, 4.0, 4.1 and 4.2 are known";
                d.warn(option, &("is no version of NFS; the usual ones are tried", known));
            }
        }
    }
}

fn is_nfs(source: &Source) -> bool {
    match source {
        Source::Nfs(_) => true,
        Source::File { on, .. } | Source::Partition { on, .. } => is_nfs(on),
        _ => false,
    }
}

/// The fixed address of the line.
fn address(d: &mut Draft<'_>, plan: &BootPlan) {
    let Some(network) = &plan.network else { return };
    let Addressing::Static(fixed) = &network.addressing else { return };
    let name = fixed.address.to_string();
    let hint = "ip=ADDRESS::GATEWAY:NETMASK::DEVICE:off";
    if let Some(why) = nobodys(fixed.address) {
        d.warn(&name, &(why, hint));
        return;
    }
    let hosts = u32::MAX.checked_shr(u32::from(fixed.prefix)).unwrap_or(0);
    let host = fixed.address.to_bits() & hosts;
    // Networks of two addresses and of one have neither.
    if fixed.prefix < 31 && (host == 0 || host == hosts) {
        d.warn(&name, &("is the network's own or its broadcast address, not a machine's", hint));
    }
    if let Some(gateway) = fixed.gateway
        && !same_subnet(fixed.address, gateway, fixed.prefix)
    {
        let why = "is the gateway, and lies outside the subnet of the fixed address";
        d.warn(&gateway.to_string(), &(why, "a wider netmask, or a gateway in the subnet"));
    }
}
