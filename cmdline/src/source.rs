//! Sources that several dialects name, and the checks that hold for every plan.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use crate::plan::{
    Addressing, BootPlan, CifsSource, Content, ImagePick, ImageRule, NbdSource, NetworkPlan,
    NvmeTcpSource, PersistPlan, ScanRule, Server, Source, Then, Upper, Writable,
};
#[cfg(feature = "all")]
use crate::plan::{DeviceSelector, Dialect};
use crate::secrets::Private;
use crate::table::{Draft, strings, text};
use crate::value;

/// A scan of optical drives, disks, or both, in no particular order.
pub(crate) fn scan(optical: bool, disks: bool) -> ScanRule {
    ScanRule { optical, disks, removable_only: false, removable_first: false, marker: None }
}

/// A network block device from `server[:port]` and an export's name.
pub(crate) fn nbd(server: &str, export: &str) -> Result<NbdSource, &'static str> {
    let (host, port) = split_port(server, 10809)?;
    Ok(NbdSource {
        server: value::server(host).ok_or("the server is not a name or an address")?,
        port,
        export: export.to_string(),
        connections: 1,
    })
}

/// dracut's `SERVER:PORT|EXPORT[:FSTYPE[:MOUNT OPTIONS[:NBD OPTIONS]]]`: the device, the type of
/// its file system and the mount options.
pub(crate) fn nbd_with_colons(rest: &str) -> Result<(NbdSource, &str, &str), &'static str> {
    let (host, rest) = match rest.strip_prefix('[').and_then(|r| crate::text::cut(r, "]:")) {
        Some((host, rest)) => (text(&["[", host, "]"]), rest),
        None => {
            let (host, rest) = rest.split_once(':').unwrap_or((rest, ""));
            (host.to_string(), rest)
        }
    };
    let mut fields = rest.split(':');
    let export = fields.next().unwrap_or_default();
    // A number is a port, also one that no port has.
    let found = match export.parse::<u64>() {
        Ok(port) => nbd(&text(&[&host, ":", &port.to_string()]), ""),
        Err(_) => nbd(&host, export),
    };
    Ok((found?, fields.next().unwrap_or_default(), fields.next().unwrap_or_default()))
}

/// The network block device that DHCP's root path names as `nbd:SERVER:EXPORT`; `None` for other
/// root paths. What follows the export is not read: the file system is found by looking at it.
///
/// # Errors
/// What is wrong with it.
#[must_use]
pub fn nbd_of_root_path(path: &str) -> Option<Result<NbdSource, &'static str>> {
    path.strip_prefix("nbd:").map(|rest| nbd_with_colons(rest).map(|(found, ..)| found))
}

/// NVMe over TCP from `server[:port]` and the subsystem's name; without a name the
/// server's discovery service is asked.
pub(crate) fn nvme(server: &str, nqn: &str) -> Result<NvmeTcpSource, &'static str> {
    let discovery = nqn.is_empty();
    let (host, port) = split_port(server, if discovery { 8009 } else { 4420 })?;
    if !discovery && (!nqn.starts_with("nqn.") || nqn.len() > 223) {
        return Err("the subsystem's name does not begin with nqn.");
    }
    Ok(NvmeTcpSource {
        server: value::server(host).ok_or("the server is not a name or an address")?,
        port,
        nqn: String::from(if discovery { "nqn.2014-08.org.nvmexpress.discovery" } else { nqn }),
        host_nqn: None,
    })
}

/// A CIFS share from `[user[:password]@]server/share`.
pub(crate) fn cifs(rest: &str) -> Result<CifsSource, &'static str> {
    let (login, place) = match rest.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, rest),
    };
    let (host, share) = place.split_once('/').unwrap_or((place, ""));
    if share.is_empty() {
        return Err("the share is missing");
    }
    let options = match login {
        Some(login) => {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            cifs_login(user, password)
        }
        None => Vec::from([Private::word("guest")]),
    };
    Ok(CifsSource {
        server: value::server(host).ok_or("the server is not a name or an address")?,
        share: String::from(share.trim_matches('/')),
        options,
        read_write: false,
    })
}

/// The options of a CIFS mount for a user.
pub(crate) fn cifs_login(user: &str, password: &str) -> Vec<Private> {
    [text(&["user=", user]), text(&["password=", password])].map(|one| Private::word(&one)).into()
}

fn split_port(server: &str, default: u16) -> Result<(&str, u16), &'static str> {
    match server.rsplit_once(':') {
        Some((host, port)) if !server.ends_with(']') => {
            Ok((host, port.parse().map_err(|_| "the port is none: 1 to 65535")?))
        }
        _ => Ok((server, default)),
    }
}

/// A URL with a scheme that we fetch.
pub(crate) fn fetchable(text: &str) -> Result<value::Url<'_>, &'static str> {
    let url = value::url(text)?;
    match url.scheme {
        "http" | "https" | "ftp" | "tftp" => {}
        _ => return Err("only http, https, ftp and tftp are fetched"),
    }
    if url.path.len() < 2 {
        return Err("the URL names no file");
    }
    Ok(url)
}

/// A rule of one or more directories.
pub(crate) fn rule(dirs: &[&str], pick: ImagePick, nested: &[&str]) -> ImageRule {
    ImageRule { dirs: strings(dirs), pick, nested: strings(nested) }
}

/// Deepest nesting of files in files.
const MAX_DEPTH: usize = 16;

/// A file on a source's file system.
///
/// # Errors
/// A path that leads nowhere, or files nested deeper than anyone means.
pub(crate) fn file_on(on: Source, path: &str) -> Result<Source, &'static str> {
    let path = value::inside(path).filter(|p| !p.is_empty());
    let path = path.ok_or("a path is empty or holds `..`")?;
    let mut depth = 0;
    let mut inner = &on;
    while let Source::File { on, .. } | Source::Partition { on, .. } = inner {
        depth += 1;
        inner = on;
    }
    if depth >= MAX_DEPTH {
        return Err("there are more than 16 files inside each other");
    }
    Ok(Source::File { on: Box::new(on), path: value::absolute(&path) })
}

/// The whole file system of the source.
pub(crate) fn tree() -> Content {
    Content::Tree { subdir: String::new(), fstype: String::new(), flags: String::new() }
}

/// Whether a source comes over the network.
#[must_use]
pub fn is_network(source: &Source) -> bool {
    match source {
        Source::Nfs(_)
        | Source::Cifs(_)
        | Source::Url(_)
        | Source::Nbd(_)
        | Source::NvmeTcp(_)
        | Source::PxeFileList { .. }
        | Source::Stage2(_) => true,
        Source::File { on, .. } | Source::Partition { on, .. } => is_network(on),
        Source::NineP(_)
        | Source::VirtioFs(_)
        | Source::Device(_)
        | Source::Scan(_)
        | Source::Initramfs(_) => false,
    }
}

/// Where a plan keeps changes, if it does.
pub(crate) fn persist(writable: &Writable) -> Option<&PersistPlan> {
    let union = match writable {
        Writable::Union(union)
        | Writable::ByImage { union, .. }
        | Writable::Directories { union, .. } => union,
        Writable::AsIs { .. } | Writable::DmSnapshot(_) => return None,
    };
    match &union.upper {
        Upper::Persistent(persist) => Some(persist),
        Upper::Tmpfs { .. } => None,
    }
}

fn server_of(source: &Source) -> Option<&Server> {
    match source {
        Source::Nfs(s) => Some(&s.server),
        Source::Cifs(s) => Some(&s.server),
        Source::Nbd(s) => Some(&s.server),
        Source::NvmeTcp(s) => Some(&s.server),
        Source::PxeFileList { server, .. } => Some(server),
        Source::File { on, .. } | Source::Partition { on, .. } => server_of(on),
        _ => None,
    }
}

/// The host that a source names, as written; empty for the boot server.
pub(crate) fn host_of(source: &Source) -> Option<String> {
    match source {
        Source::Url(s) => value::url(s.url.reveal()).ok().map(|url| url.host.to_string()),
        Source::File { on, .. } | Source::Partition { on, .. } => host_of(on),
        _ => server_of(source).map(|server| match server {
            Server::Host(host) => host.clone(),
            Server::Boot => String::new(),
        }),
    }
}

fn nfs_without_path(source: &Source) -> bool {
    match source {
        Source::Nfs(s) => s.path.is_none(),
        Source::File { on, .. } | Source::Partition { on, .. } => nfs_without_path(on),
        _ => false,
    }
}

fn uses_tls(source: &Source) -> Option<String> {
    match source {
        Source::Url(s) if s.url.reveal().starts_with("https:") => Some(s.url.to_string()),
        Source::File { on, .. } | Source::Partition { on, .. } => uses_tls(on),
        _ => None,
    }
}

/// Directories of /dev that hold disks and partitions: of udev, of drivers of their own, of devfs.
#[cfg(feature = "all")]
const DISK_DIRS: [&str; 13] = [
    "ataraid", "block", "cciss", "cdroms", "disk", "discs", "dasd", "floppy", "i2o", "ida", "ide",
    "md", "scsi",
];

/// A device that device-mapper makes of others: a logical volume, an opened LUKS volume.
/// `/dev/GROUP/VOLUME` is LVM's other name of one.
#[cfg(feature = "all")]
fn mapped(source: &Source) -> Option<String> {
    match source {
        Source::Device(DeviceSelector::Path(path)) => {
            let (group, _) = path.strip_prefix("/dev/")?.split_once('/')?;
            let volume = !group.is_empty()
                && !DISK_DIRS.contains(&group)
                && !path.contains(char::is_whitespace);
            volume.then(|| path.clone())
        }
        Source::File { on, .. } | Source::Partition { on, .. } => mapped(on),
        _ => None,
    }
}

/// A device that the kernel makes of several others when it is told to: RAID, a cache.
#[cfg(feature = "explain")]
fn assembled(source: &Source) -> Option<String> {
    match source {
        Source::Device(DeviceSelector::Path(path)) => {
            let name = path.strip_prefix("/dev/")?;
            (name.starts_with("md") || name.starts_with("bcache")).then(|| path.clone())
        }
        Source::File { on, .. } | Source::Partition { on, .. } => assembled(on),
        _ => None,
    }
}

/// Whether anything in the plan cannot be had without a network.
pub(crate) fn needs_network(plan: &BootPlan) -> bool {
    plan.handoff.then != Then::SwitchRoot
        || plan.root.sources.iter().any(is_network)
        || persist(&plan.writable).and_then(|p| p.network.as_ref()).is_some_and(is_network)
}

/// What is said of a line that names no root.
pub const NO_ROOT: &str = "the line does not say where the root is";

/// Checks that need the whole plan: what cannot work is said before it is tried.
pub(crate) fn check(d: &mut Draft<'_>, plan: &mut BootPlan) {
    if needs_network(plan) {
        match &mut plan.network {
            Some(network) => network.required = true,
            None => {
                let ip = crate::net::read_ip(d, crate::ip::Form::Kernel);
                let extra = crate::net::Extra { required: true, ..Default::default() };
                plan.network = Some(crate::net::plan(d, ip, extra));
            }
        }
    }
    #[cfg(feature = "all")]
    crate::families::check(d, plan);
    let boots = plan.handoff.then == Then::SwitchRoot;
    if plan.root.sources.is_empty() && boots && !d.warnings.iter().any(|w| w.fatal) {
        d.fatal(
            "",
            &(
                NO_ROOT,
                "root=/dev/nfs nfsroot=SERVER:/PATH ip=dhcp, boot=live, boot=casper, or bw.root=…",
            ),
        );
    }
    #[cfg(feature = "all")]
    if !d.warnings.iter().any(|warning| warning.fatal) {
        let message = "is a logical volume (LVM) or an unlocked disk, and neither is opened here";
        let hint = "boot it with its own initrd, or keep the image on a plain partition";
        unusable(d, plan, mapped, &(message, hint));
    }
    #[cfg(feature = "explain")]
    if let [source] = plan.root.sources.as_slice()
        && let Some(device) = assembled(source)
        && !d.warnings.iter().any(|warning| warning.fatal)
    {
        let why = "is put together of other disks (RAID, bcache), which is not done here";
        d.fatal(&device, &(why, "boot it with its own initrd"));
    }
    if !d.cx.tls {
        let message = "https needs TLS, which is not spoken before the root is up";
        let hint =
            "serve it by http:// and add bw.digest=sha256:… to know that it is the right file";
        unusable(d, plan, uses_tls, &(message, hint));
    }
    // The kernel's own default, where no DHCP server can say more.
    #[cfg(feature = "all")]
    if d.grammar.dialect == Dialect::Kernel
        && plan.network.as_ref().is_some_and(|n| !matches!(n.addressing, Addressing::Dhcp(_)))
    {
        for source in &mut plan.root.sources {
            if let Source::Nfs(nfs) = source {
                nfs.path.get_or_insert_with(|| String::from("/tftpboot/%s"));
            }
        }
    }
    if let Some(network) = plan.network.as_ref().filter(|network| network.required) {
        check_hosts(d, plan, network);
        check_servers(d, plan, network);
        check_subnet(d, plan, network);
    }
}

/// Warns of the first source that `which` names; the boot cannot succeed where it names all.
fn unusable(
    d: &mut Draft<'_>,
    plan: &BootPlan,
    which: fn(&Source) -> Option<String>,
    note: &(&str, &str),
) {
    let mut named = plan.root.sources.iter().filter_map(which);
    let Some(first) = named.next() else { return };
    match named.count() + 1 == plan.root.sources.len() {
        true => d.fatal(&first, note),
        false => d.warn(&first, note),
    }
}

/// What is written as IPv6.
fn check_hosts(d: &mut Draft<'_>, plan: &BootPlan, network: &NetworkPlan) {
    let hint = "name the server by its IPv4 address, or by a host name that has one";
    let mut hosts = plan.root.sources.iter().filter_map(host_of);
    if let Some(host) = hosts.find(|host| host.starts_with('[')) {
        d.fatal(&host, &(value::IPV6, hint));
    }
    // No address of ours is left, and DHCP is not to be asked.
    if network.addressing == Addressing::Existing {
        for warning in d.warnings.iter_mut().filter(|warning| warning.message == value::IPV6) {
            warning.fatal = true;
        }
    }
}

/// Without DHCP the line has to say what DHCP would.
fn check_servers(d: &mut Draft<'_>, plan: &BootPlan, network: &NetworkPlan) {
    if matches!(network.addressing, Addressing::Dhcp(_)) {
        return;
    }
    let mut dead = 0;
    for source in plan.root.sources.iter().filter(|source| is_network(source)) {
        let host = host_of(source);
        if network.boot_server.is_none() && host.as_deref() == Some("") {
            dead += 1;
        } else if nfs_without_path(source) {
            dead += 1;
            let message = "the NFS path would come from DHCP, and the line turns DHCP off";
            d.warn("", &(message, "nfsroot=SERVER:/PATH"));
        } else if network.dns.is_empty()
            && let Some(host) =
                host.filter(|h| !h.is_empty() && !h.starts_with('[') && value::address(h).is_none())
        {
            let message =
                "is a name, and with a fixed address the line gives no name server to ask";
            d.warn(&host, &(message, "write its address, or put a name server in field 8 of ip="));
        }
    }
    if dead > 0 && dead == plan.root.sources.len() {
        // Where the server is named, it is the path that is missing.
        #[cfg(feature = "explain")]
        if network.boot_server.is_some()
            && let Some(last) = d.warnings.last_mut()
        {
            last.fatal = true;
            return;
        }
        let message = "no server is named, and without DHCP no other source can name one";
        let hint = "write SERVER:/PATH, put the server in field 2 of ip=, or use ip=dhcp";
        d.fatal("", &(message, hint));
    }
}

/// A server that a fixed address does not reach.
fn check_subnet(d: &mut Draft<'_>, plan: &BootPlan, network: &NetworkPlan) {
    if let Addressing::Static(address) = &network.addressing
        && let Some(server) = server_address(plan)
        && address.gateway.is_none()
        && !same_subnet(address.address, server, address.prefix)
    {
        let message = "lies outside the subnet of the fixed address, and there is no gateway";
        d.warn(&server.to_string(), &(message, "put the gateway in field 3 of ip="));
    }
}

/// The IPv4 address of the first server that the line names by one.
pub(crate) fn server_address(plan: &BootPlan) -> Option<Ipv4Addr> {
    plan.root.sources.iter().find_map(|source| host_of(source)?.parse().ok())
}

pub(crate) fn same_subnet(a: Ipv4Addr, b: Ipv4Addr, prefix: u8) -> bool {
    let shift = 32 - u32::from(prefix.min(32));
    (a.to_bits() ^ b.to_bits()).checked_shr(shift).unwrap_or(0) == 0
}
