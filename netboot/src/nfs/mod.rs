//! NFS roots: from the plan to a mounted directory.
//!
//! [`locate`] determines server and path (the line, DHCP's root path, `%s`); [`options`] builds
//! the kernel's mount options; [`probe`] asks the server for the cause of a failure before the
//! kernel mounts; [`mount`] tries the plan's versions in order and keeps the reason of each
//! failure.
//!
//! The plan has the order of versions: the kernel and klibc tried 3 before 4, and paths for one
//! are often wrong for the other (version 4 counts from the export with `fsid=0`), so the line
//! was tested with its own order. The probe makes a wrong first guess cost milliseconds.

pub mod options;
pub mod probe;
pub mod rpc;

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use core::time::Duration;

use cmdline::plan::{NfsSource, NfsVersion, Server};
use cmdline::text;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};
use sys::file::{names, open_read, write_file};
use sys::mount::{FsContext, MountError, detach};
use sys::process::{Child, Exit, fork};

use crate::network::NetworkUp;
use options::{OptionError, Options};
use probe::{Failure, Ports, Target};
use sys::clock::{Instant, poll_timeout};

/// A name that no medium has. `/init` looks it up on the medium when the root is complete;
/// `bellwether share` recognises it.
pub const UP: &str = ".bellwether-up";
use sys::errno::Shown;

/// An export and how to mount it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Address or name of the server.
    pub host: String,
    /// Exported directory, with a leading slash.
    pub path: String,
    /// Mount options: DHCP's first, then the line's, which override.
    pub options: Vec<String>,
    /// Versions in the order of attempts.
    pub versions: Vec<NfsVersion>,
    /// Mounted read-write.
    pub read_write: bool,
}

/// Why there is no export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocateError {
    /// Neither the line nor DHCP names a server.
    NoServer,
    /// Neither the line nor DHCP (option 17) names a directory.
    NoPath,
    /// DHCP's root path is not for NFS.
    NotNfs(String),
}

impl fmt::Display for LocateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocateError::NoServer => f.write_str(
                "no NFS server: write nfsroot=SERVER:/PATH, or let DHCP name one (next-server, option 66)",
            ),
            LocateError::NoPath => f.write_str(
                "no directory to mount: write nfsroot=SERVER:/PATH, or let DHCP give a root path (option 17)",
            ),
            LocateError::NotNfs(path) => write!(f, "DHCP's root path \"{path}\" is not for NFS"),
        }
    }
}

impl core::error::Error for LocateError {}

/// The parts of DHCP's root path or an `nfsroot=` value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RootPath {
    /// Server, if present.
    pub host: Option<String>,
    /// Directory.
    pub path: String,
    /// Options, in order.
    pub options: Vec<String>,
    /// Whether it requires version 4.
    pub v4: bool,
}

/// Parses `[SERVER:]/PATH[,OPTIONS]`, dracut's `nfs[4]:[SERVER:]/PATH[:OPTIONS]` and
/// `nfs://SERVER/PATH`; `None` for a scheme that is not NFS.
pub fn parse_root_path(text: &str) -> Option<RootPath> {
    let mut root = RootPath::default();
    let rest = if let Some(rest) = text.strip_prefix("nfs://") {
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        root.host = (!host.is_empty()).then(|| host.to_owned());
        root.path = format!("/{path}");
        return Some(root);
    } else if let Some(rest) = text.strip_prefix("nfs4:") {
        root.v4 = true;
        rest
    } else {
        text.strip_prefix("nfs:").unwrap_or(text)
    };
    if text::has(text, "://") {
        return None;
    }
    let (rest, options) = rest.split_once(',').unwrap_or((rest, ""));
    let split = match text::cut(rest, ":/") {
        Some((host, path)) if !host.contains('/') => {
            root.host = (!host.is_empty()).then(|| host.to_owned());
            path
        }
        _ if rest.starts_with('/') => rest.get(1..)?,
        // iscsi:…, nbd:…, a single word: not NFS.
        _ => return None,
    };
    // dracut's options come after a colon.
    let (path, after_colon) = split.split_once(':').unwrap_or((split, ""));
    root.path = format!("/{path}");
    root.options = options
        .split(',')
        .chain(after_colon.split(','))
        .filter(|option| !option.is_empty())
        .map(ToOwned::to_owned)
        .collect();
    Some(root)
}

/// Determines the plan's export with the network's settings.
///
/// # Errors
/// [`LocateError`] when server or path is missing, or the root path is not for NFS.
pub fn locate(source: &NfsSource, up: Option<&NetworkUp>) -> Result<Location, LocateError> {
    let offered = match up.map(NetworkUp::root_path) {
        None | Some("") => None,
        Some(text) => match parse_root_path(text) {
            Some(root) => Some(root),
            None if source.path.is_none() => return Err(LocateError::NotNfs(text.to_owned())),
            None => None,
        },
    };
    let mut options = Vec::new();
    let mut versions = source.versions.clone();
    let mut offered_host = None;
    let path = match (&source.path, offered) {
        (Some(path), _) => path.clone(),
        (None, Some(root)) => {
            options = root.options;
            offered_host = root.host;
            if root.v4 {
                versions = vec![NfsVersion::V4_2, NfsVersion::V4_1, NfsVersion::V4];
            }
            root.path
        }
        (None, None) => return Err(LocateError::NoPath),
    };
    options.extend(source.options.iter().cloned());
    let host = match &source.server {
        Server::Host(host) if !host.is_empty() => Some(host.clone()),
        _ => offered_host.or_else(|| up.and_then(NetworkUp::boot_server)),
    };
    Ok(Location {
        host: host.ok_or(LocateError::NoServer)?,
        path: substitute(&path, up),
        options,
        versions,
        read_write: source.read_write,
    })
}

/// Replaces `%s` by the host name, or by our address without one.
fn substitute(path: &str, up: Option<&NetworkUp>) -> String {
    let Some(up) = up else { return path.to_owned() };
    let Some((before, after)) = text::cut(path, "%s") else { return path.to_owned() };
    let name = match up.config.hostname.as_str() {
        "" => format!("{}", up.config.address),
        name => name.to_owned(),
    };
    format!("{before}{name}{after}")
}

/// Why one attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The server's reason.
    Server(Failure),
    /// An option is invalid.
    Option(OptionError),
    /// The kernel's error.
    Kernel(MountError),
    /// The kernel's mount call did not return in time.
    Stuck(Duration),
    /// It is mounted, and this of it does not work.
    Unusable(MountError),
}

impl Reason {
    /// Whether a retry may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Reason::Server(failure) => failure.is_transient(),
            Reason::Option(_) => false,
            Reason::Kernel(error) => !matches!(
                error.errno,
                Errno::NODEV | Errno::INVAL | Errno::PROTONOSUPPORT | Errno::PERM | Errno::ACCESS
            ),
            Reason::Stuck(_) | Reason::Unusable(_) => true,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Server(failure) => write!(f, "{failure}"),
            Reason::Option(error) => write!(f, "{error}"),
            Reason::Stuck(limit) => {
                write!(f, "the kernel did not finish mounting within {} s", limit.as_secs())
            }
            Reason::Unusable(error) => {
                write!(f, "can be mounted, and {error}; the server lacks a part of this version")
            }
            Reason::Kernel(error) => {
                let hint = match error.errno {
                    Errno::NODEV => {
                        "this kernel has no NFS: the module nfs, nfsv3 or nfsv4 is missing"
                    }
                    Errno::PROTONOSUPPORT => {
                        "the server or this kernel does not have this version (modules nfsv3, nfsv4)"
                    }
                    Errno::INVAL => "the kernel rejects these options",
                    Errno::NOENT => "the server has no such directory",
                    Errno::ACCESS | Errno::PERM => {
                        "the server refuses it to this machine (access denied)"
                    }
                    Errno::TIMEDOUT => "the server does not answer",
                    _ => "",
                };
                write!(f, "{}", Shown(error.errno))?;
                if !error.log.is_empty() {
                    write!(f, ", the kernel says: {}", error.log)?;
                }
                if !hint.is_empty() {
                    write!(f, "; {hint}")?;
                }
                Ok(())
            }
        }
    }
}

/// One failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The version.
    pub version: NfsVersion,
    /// The reason.
    pub reason: Reason,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NFS {}: {}", options::version_text(self.version), self.reason)
    }
}

/// A mounted export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The version.
    pub version: NfsVersion,
    /// The device in `/proc/mounts`.
    pub source: String,
    /// The kernel's mount options.
    pub options: Options,
    /// Failed attempts before it.
    pub failed: Vec<Attempt>,
}

/// Time limits of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For the probe.
    pub probe: Duration,
    /// For the kernel's mount call.
    pub mount: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { probe: Duration::from_secs(4), mount: Duration::from_secs(30) }
    }
}

/// Mounts an export at `target`, trying the location's versions in order.
///
/// `address` is the server's, `ours` our own. Blocks at most for the sum of the limits for
/// every version; an unreachable server is tried only once. Servers exist that accept the
/// kernel's version 4.1 or 4.2 and fail at operations of it: these are tried out, and an older
/// version follows, whatever the line says.
///
/// # Errors
/// Every [`Attempt`] with its reason; never empty.
pub fn mount(
    location: &Location,
    address: Ipv4Addr,
    ours: Ipv4Addr,
    target: &str,
    limits: Limits,
) -> Result<Mounted, Vec<Attempt>> {
    let mut failed: Vec<Attempt> = Vec::new();
    let mut versions = location.versions.clone();
    if versions.is_empty() {
        versions.push(NfsVersion::V3);
    }
    // The minor versions of 4 share server and port.
    let mut probed_4: Option<Result<Ports, Failure>> = None;
    let mut next = 0;
    let mut delegations = true;
    while let Some(version) = versions.get(next).copied() {
        next += 1;
        let outcome = attempt(location, address, ours, target, limits, version, &mut probed_4);
        match outcome {
            Ok((source, options)) => return Ok(Mounted { version, source, options, failed }),
            Err(mut reason) => {
                // Options are the same for every version.
                let last = matches!(reason, Reason::Option(_));
                if let Reason::Unusable(error) = &mut reason {
                    // Kernel 7.2 asks for delegations of directories, which Ganesha 4 to 6 refuse.
                    let off = delegations && error.errno == Errno::REMOTEIO;
                    if off && write_file(DELEGATIONS, b"0", 0).is_ok() {
                        delegations = false;
                        versions.insert(next, version);
                        error.log.push_str(OFF);
                    }
                    let older = match version {
                        NfsVersion::V4_2 => NfsVersion::V4_1,
                        _ => NfsVersion::V4,
                    };
                    if !versions.contains(&older) {
                        versions.push(older);
                    }
                }
                failed.push(Attempt { version, reason });
                if last {
                    break;
                }
            }
        }
    }
    Err(failed)
}

fn attempt(
    location: &Location,
    address: Ipv4Addr,
    ours: Ipv4Addr,
    target: &str,
    limits: Limits,
    version: NfsVersion,
    probed_4: &mut Option<Result<Ports, Failure>>,
) -> Result<(String, Options), Reason> {
    let given = options::read(&location.options).map_err(Reason::Option)?;
    let what = Target {
        address,
        path: &location.path,
        version,
        nfs_port: given.nfs_port,
        mount_port: given.mount_port,
    };
    let ports = if given.udp {
        // The probe uses TCP, which such a server may not have.
        None
    } else if matches!(version, NfsVersion::V2 | NfsVersion::V3) {
        Some(probe::probe(&what, limits.probe).map_err(Reason::Server)?)
    } else {
        let known = probed_4.get_or_insert_with(|| probe::probe(&what, limits.probe));
        Some(known.clone().map_err(Reason::Server)?)
    };
    let options = options::build(&given, version, address, ours, ports, location.read_write);
    let source = format!("{}:{}", location.host, location.path);
    // Without the driver the mount must fail.
    drop(FsContext::open("nfs").map_err(Reason::Kernel)?);
    in_child(limits.mount, &|| mount_now(&source, &options, target))?;
    if matches!(version, NfsVersion::V4_1 | NfsVersion::V4_2)
        && let Err(reason) = in_child(limits.mount, &|| try_out(target))
    {
        // What stays mounted lies below the next.
        let _ = detach(target);
        return Err(match reason {
            Reason::Kernel(error) => Reason::Unusable(error),
            other => other,
        });
    }
    Ok((source, options))
}

/// The parameter of the kernel's client that turns delegations of directories off.
const DELEGATIONS: &str = "/sys/module/nfsv4/parameters/directory_delegations";

/// What is said of it.
const OFF: &str = " with delegations (nfsv4.directory_delegations=0 from here on)";

/// How many files and directories are looked at, and how many of one directory.
const MOST: usize = 64;
const OF_ONE: usize = 16;

/// Lists directories until there is a file, and reads of it.
///
/// # Errors
/// What the server cannot do; what it refuses to this machine says nothing about the version.
fn try_out(target: &str) -> Result<(), MountError> {
    let mut todo = Vec::from([String::from(target)]);
    let mut next = 0;
    while let Some(path) = todo.get(next).filter(|_| next < MOST).cloned() {
        next += 1;
        // The kernel asks for a delegation of a directory that it has listed before.
        let mut what = "a directory cannot be listed";
        let failed = match names(&path).and_then(|_| names(&path)) {
            Ok(names) => {
                todo.extend(names.iter().take(OF_ONE).map(|name| [&path, "/", name].concat()));
                continue;
            }
            Err(Errno::NOTDIR) => {
                what = "a file cannot be read";
                match open_read(&path).and_then(|file| rustix::io::read(&file, &mut [0])) {
                    Ok(0) => continue,
                    Ok(_) => break,
                    Err(errno) => errno,
                }
            }
            Err(errno) => errno,
        };
        if matches!(failed, Errno::IO | Errno::REMOTEIO | Errno::OPNOTSUPP) {
            return Err(MountError { errno: failed, log: String::from(what) });
        }
    }
    Ok(())
}

/// Does it in a child process, because a call may never return: then the child is killed.
fn in_child(limit: Duration, work: &dyn Fn() -> Result<(), MountError>) -> Result<(), Reason> {
    let kernel = |errno: Errno| Reason::Kernel(MountError::from(errno));
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(kernel)?;
    let child = fork(|| {
        let Err(error) = work() else { return 0 };
        // The pipe is larger than a log; a lost message does no harm.
        let _ = rustix::io::write(&writer, error.log.as_bytes());
        // Error numbers end at 133.
        match error.errno.raw_os_error() {
            code @ 1..=254 => code,
            _ => 255,
        }
    })
    .map_err(kernel)?;
    match wait_for(&child, limit) {
        Some(Exit::Status(0)) => Ok(()),
        Some(Exit::Status(code)) => {
            let log = read_log(&reader);
            Err(Reason::Kernel(MountError { errno: Errno::from_raw_os_error(code), log }))
        }
        Some(Exit::Signal(_)) => Err(kernel(Errno::INTR)),
        None => {
            if let Some(pid) = Pid::from_raw(child.pid()) {
                // One that has just ended takes no signal.
                let _ = kill_process(pid, Signal::KILL);
            }
            Err(Reason::Stuck(limit))
        }
    }
}

fn wait_for(child: &Child, limit: Duration) -> Option<Exit> {
    let deadline = Instant::now().after(limit);
    loop {
        if let Ok(Some(exit)) = child.try_wait() {
            return Some(exit);
        }
        let now = Instant::now();
        if now >= deadline {
            return None;
        }
        let mut fds = [PollFd::from_borrowed_fd(child.as_fd(), PollFlags::IN)];
        // Interrupted: the child is looked at again.
        let _ = poll(&mut fds, poll_timeout(Some(deadline), now).as_ref());
    }
}

fn read_log(reader: &OwnedFd) -> String {
    let mut buffer = [0u8; 1024];
    let length = rustix::io::read(reader, &mut buffer).unwrap_or(0);
    String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned()
}

fn mount_now(source: &str, options: &Options, target: &str) -> Result<(), MountError> {
    let context = FsContext::open("nfs")?;
    context.set("source", Some(source))?;
    for (key, value) in options.entries() {
        context.set(key, value)?;
    }
    let mut attributes = MountAttrFlags::empty();
    if options.read_only {
        context.set("ro", None)?;
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    context.mount(target, attributes | options.attributes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::up;
    use proptest::prelude::*;

    fn source(server: Server, path: Option<&str>) -> NfsSource {
        NfsSource {
            server,
            path: path.map(ToOwned::to_owned),
            versions: vec![NfsVersion::V3],
            options: vec!["rsize=8192".into()],
            read_write: false,
        }
    }

    #[test]
    fn root_paths_of_all_peers() {
        let root = |text: &str| parse_root_path(text);
        let plain = |host: Option<&str>, path: &str| RootPath {
            host: host.map(ToOwned::to_owned),
            path: path.to_owned(),
            ..RootPath::default()
        };
        assert_eq!(root("10.0.0.1:/srv/live"), Some(plain(Some("10.0.0.1"), "/srv/live")));
        assert_eq!(root("/srv/live"), Some(plain(None, "/srv/live")));
        assert_eq!(root("nfs:10.0.0.1:/srv"), Some(plain(Some("10.0.0.1"), "/srv")));
        assert_eq!(root("nfs:/srv"), Some(plain(None, "/srv")));
        assert_eq!(root("nfs://files/srv"), Some(plain(Some("files"), "/srv")));
        let options = root("10.0.0.1:/srv,vers=3,tcp").unwrap();
        assert_eq!(options.options, ["vers=3", "tcp"]);
        let dracut = root("nfs4:files:/srv:ro,nolock").unwrap();
        assert_eq!((dracut.v4, dracut.host.as_deref()), (true, Some("files")));
        assert_eq!((dracut.path.as_str(), dracut.options.len()), ("/srv", 2));
        assert_eq!(root("iscsi:10.0.0.1:::1:iqn.x"), None);
        assert_eq!(root("http://x/y"), None);
        assert_eq!(root("word"), None);
    }

    #[test]
    fn dhcp_fills_what_the_line_leaves_open() {
        let up = up(b"\x11\x17files:/srv/%s,timeo=600\x0c\x03pc1");
        let location = locate(&source(Server::Boot, None), Some(&up)).unwrap();
        assert_eq!(location.host, "files");
        assert_eq!(location.path, "/srv/pc1");
        assert_eq!(location.options, ["timeo=600", "rsize=8192"]);
        let line = locate(&source(Server::Host("10.0.0.7".into()), Some("/x")), Some(&up)).unwrap();
        assert_eq!((line.host.as_str(), line.path.as_str()), ("10.0.0.7", "/x"));
        assert_eq!(line.options, ["rsize=8192"]);
        let boot = locate(&source(Server::Boot, Some("/x/%s")), Some(&up)).unwrap();
        assert_eq!((boot.host.as_str(), boot.path.as_str()), ("10.0.0.1", "/x/pc1"));
    }

    #[test]
    fn without_a_name_the_address_stands_for_it() {
        let up = up(b"\x11\x0c/tftpboot/%s");
        let location = locate(&source(Server::Boot, None), Some(&up)).unwrap();
        assert_eq!(location.path, "/tftpboot/10.0.0.5");
    }

    #[test]
    fn nothing_to_mount_says_what_to_write() {
        let none = locate(&source(Server::Boot, None), Some(&up(&[]))).unwrap_err();
        assert!(none.to_string().contains("nfsroot=SERVER:/PATH"));
        let server = locate(&source(Server::Boot, Some("/x")), None).unwrap_err();
        assert_eq!(server, LocateError::NoServer);
        let iscsi = locate(&source(Server::Boot, None), Some(&up(b"\x11\x08iscsi:ab")));
        assert_eq!(iscsi, Err(LocateError::NotNfs("iscsi:ab".into())));
    }

    proptest! {
        #[test]
        fn any_root_path(text: String) {
            if let Some(root) = parse_root_path(&text) {
                prop_assert!(root.path.starts_with('/'));
            }
        }
    }
}
