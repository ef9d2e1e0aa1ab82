//! Finds the cause of an NFS failure before the kernel mounts.
//!
//! The kernel's mount call gives up after minutes, with one error number for a dozen causes. A
//! few RPC calls tell within milliseconds whether the server is not up yet, is not an NFS
//! server, lacks the export, or refuses access; and the ports that they find save the kernel
//! its own search.
//!
//! Version 3 (and 2): portmapper (RFC 1833), then the MOUNT protocol (RFC 1813 appendix I).
//! Version 4: a COMPOUND of LOOKUPs from the root (RFC 7530), which also finds the first
//! missing part of the path.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use cmdline::plan::NfsVersion;
use rustix::io::Errno;

use super::rpc::{Call, Decoder, Encoder, Records, Refusal, parse_reply};
use crate::io::{Broken, Tcp};
use crate::random::random;
use embedded_io::{Read as _, Write as _};
use sys::clock::Instant;
use sys::errno::Shown;

const PORTMAPPER: u16 = 111;
/// The port of NFS, unless the line or the portmapper says otherwise.
pub const NFS_PORT: u16 = 2049;
/// The usual port of a mountd with a fixed port and without a portmapper.
const USUAL_MOUNT_PORT: u16 = 20048;
const PROGRAM_PORTMAP: u32 = 100_000;
const PROGRAM_NFS: u32 = 100_003;
const PROGRAM_MOUNT: u32 = 100_005;
const TCP: u32 = 6;
/// The kernel checks deeper paths.
const MAX_COMPONENTS: usize = 64;

/// A service of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// The portmapper: the ports of the others.
    Portmapper,
    /// mountd: access to exports before version 4.
    Mount,
    /// NFS itself.
    Nfs,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Service::Portmapper => "portmapper",
            Service::Mount => "mount service",
            Service::Nfs => "NFS",
        })
    }
}

/// A server's answer about an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The export does not exist, or has no such directory.
    Missing,
    /// Access denied for this machine.
    Access,
    /// It is a file.
    NotDirectory,
    /// Another status of the protocol.
    Other(u32),
}

/// Why an export cannot be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No connection.
    Unreachable {
        /// The service.
        service: Service,
        /// Its TCP port.
        port: u16,
        /// The errno.
        errno: Errno,
    },
    /// The service answers with a refusal.
    Refused {
        /// The service.
        service: Service,
        /// Its TCP port.
        port: u16,
        /// The refusal.
        refusal: Refusal,
    },
    /// The portmapper lacks the service.
    NotRegistered(Service),
    /// The server has the service but not the directory.
    Denied {
        /// The path.
        path: String,
        /// The first part of it that failed, if known.
        part: Option<String>,
        /// The answer.
        denial: Denial,
    },
}

impl Failure {
    /// Whether a retry may help: a server that is starting answers like this. Denied access is
    /// not included, although a server that has not read its exports yet denies, too: it is a
    /// wrong path far more often.
    pub fn is_transient(&self) -> bool {
        match self {
            Failure::Unreachable { .. } | Failure::NotRegistered(_) => true,
            Failure::Refused { refusal, .. } => {
                matches!(refusal, Refusal::System | Refusal::NoProgram)
            }
            // A server that exports before its disks are mounted has no directory there yet.
            Failure::Denied { denial, .. } => {
                matches!(denial, Denial::Missing | Denial::Other(_))
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unreachable { service, port, errno } => {
                write!(f, "{service}, TCP port {port}: {}; ", Shown(*errno))?;
                f.write_str(match *errno {
                    Errno::CONNREFUSED => "the machine is up, the service is not running there",
                    Errno::NETUNREACH => "is there a gateway?",
                    Errno::CONNRESET | Errno::PIPE => "the server closed the connection",
                    _ => "is the server up, its address right, no firewall between?",
                })
            }
            Failure::Refused { service, port, refusal } => {
                write!(f, "{service}, TCP port {port}: {refusal}")
            }
            Failure::NotRegistered(service) => {
                write!(f, "the server runs a portmapper but no {service} (starting up?)")
            }
            Failure::Denied { path, part, denial } => {
                match denial {
                    Denial::Missing => write!(f, "the server has no {path}")?,
                    Denial::Access => {
                        write!(f, "the server refuses {path} to this machine (access denied)")?
                    }
                    Denial::NotDirectory => write!(f, "{path} is not a directory")?,
                    Denial::Other(status) => write!(f, "{path}: NFS error {status}")?,
                }
                match (part, denial) {
                    (Some(part), _) => {
                        write!(
                            f,
                            " ({part} is where it ends; NFSv4 paths begin at the export with fsid=0)"
                        )
                    }
                    (None, Denial::Access) => f.write_str(
                        " (is it exported at all, and to this address? is 'insecure' needed?)",
                    ),
                    (None, _) => f.write_str(" (compare with 'exportfs -v' on the server)"),
                }
            }
        }
    }
}

/// The export to mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// Server.
    pub address: Ipv4Addr,
    /// Exported directory.
    pub path: &'a str,
    /// The version; the minor ones of 4 are treated alike.
    pub version: NfsVersion,
    /// `port=` of the line.
    pub nfs_port: Option<u16>,
    /// `mountport=` of the line.
    pub mount_port: Option<u16>,
}

/// The ports that answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Of the file service.
    pub nfs: u16,
    /// Of the mount service; none in version 4.
    pub mount: Option<u16>,
}

/// Checks whether the target can be mounted. Blocks for `limit` at most.
///
/// # Errors
/// [`Failure`] with what stands in the way and whether it may pass.
pub fn probe(target: &Target<'_>, limit: Duration) -> Result<Ports, Failure> {
    let deadline = Instant::now().after(limit);
    match target.version {
        NfsVersion::V2 => probe_mount(target, 2, 1, limit, deadline),
        NfsVersion::V3 => probe_mount(target, 3, 3, limit, deadline),
        NfsVersion::V4 | NfsVersion::V4_1 | NfsVersion::V4_2 => probe_4(target, deadline),
    }
}

/// Portmapper, MOUNT, NFS NULL.
fn probe_mount(
    target: &Target<'_>,
    nfs_version: u32,
    mount_version: u32,
    limit: Duration,
    deadline: Instant,
) -> Result<Ports, Failure> {
    let mut unmapped = None;
    let mut find = |given: Option<u16>, program, version, service, usual| {
        if let Some(port) = given {
            return Ok(port);
        }
        if unmapped.is_some() {
            return Ok(usual);
        }
        // A firewall may drop the call; keep time for the usual ports.
        let soon = Instant::now().after(limit.checked_div(3).unwrap_or(limit)).min(deadline);
        match ask_port(target.address, program, version, service, soon) {
            Err(failure @ Failure::Unreachable { .. }) => {
                unmapped = Some(failure);
                Ok(usual)
            }
            other => other,
        }
    };
    let mount =
        find(target.mount_port, PROGRAM_MOUNT, mount_version, Service::Mount, USUAL_MOUNT_PORT)?;
    let nfs = find(target.nfs_port, PROGRAM_NFS, nfs_version, Service::Nfs, NFS_PORT)?;
    let call = Call {
        xid: random(1),
        program: PROGRAM_MOUNT,
        version: mount_version,
        procedure: 1,
        arguments: &Encoder::default().opaque(target.path.as_bytes()).finish(),
        root: true,
    };
    let results = exchange(target.address, mount, Service::Mount, call, deadline).map_err(
        |failure| match (failure, unmapped) {
            // The usual ports do not answer either: report the portmapper's error.
            (Failure::Unreachable { .. }, Some(first)) => first,
            (failure, _) => failure,
        },
    )?;
    parse_mount(&results, target.path, mount)?;
    let call = Call { version: nfs_version, ..null(PROGRAM_NFS) };
    exchange(target.address, nfs, Service::Nfs, call, deadline)?;
    Ok(Ports { nfs, mount: Some(mount) })
}

fn null(program: u32) -> Call<'static> {
    Call { xid: random(2), program, version: 4, procedure: 0, arguments: &[], root: false }
}

fn ask_port(
    address: Ipv4Addr,
    program: u32,
    version: u32,
    service: Service,
    deadline: Instant,
) -> Result<u16, Failure> {
    let arguments = Encoder::default().u32(program).u32(version).u32(TCP).u32(0).finish();
    let call = Call {
        xid: random(3),
        program: PROGRAM_PORTMAP,
        version: 2,
        procedure: 3,
        arguments: &arguments,
        root: false,
    };
    let results = exchange(address, PORTMAPPER, Service::Portmapper, call, deadline)?;
    let port = Decoder::new(&results).u32().and_then(|port| u16::try_from(port).ok());
    match port {
        Some(0) => Err(Failure::NotRegistered(service)),
        Some(port) => Ok(port),
        None => Err(Failure::Refused {
            service: Service::Portmapper,
            port: PORTMAPPER,
            refusal: Refusal::NotRpc,
        }),
    }
}

/// Parses the answer to MNT.
fn parse_mount(results: &[u8], path: &str, port: u16) -> Result<(), Failure> {
    let Some(status) = Decoder::new(results).u32() else {
        return Err(Failure::Refused { service: Service::Mount, port, refusal: Refusal::NotRpc });
    };
    match denial(status) {
        None => Ok(()),
        Some(denial) => Err(Failure::Denied { path: path.to_owned(), part: None, denial }),
    }
}

/// The meaning of a status of the MOUNT protocol or of NFS; `None` for success.
fn denial(status: u32) -> Option<Denial> {
    match status {
        0 => None,
        2 => Some(Denial::Missing),
        1 | 13 => Some(Denial::Access),
        20 => Some(Denial::NotDirectory),
        other => Some(Denial::Other(other)),
    }
}

const OP_LOOKUP: u32 = 15;
const OP_PUTROOTFH: u32 = 24;

/// PUTROOTFH and a LOOKUP for every part of the path.
fn compound(path: &str) -> Vec<u8> {
    let parts: Vec<&str> = components(path).collect();
    let count = u32::try_from(parts.len()).unwrap_or(0).saturating_add(1);
    let mut xdr = Encoder::default().opaque(&[]).u32(0).u32(count).u32(OP_PUTROOTFH);
    for part in parts {
        xdr = xdr.u32(OP_LOOKUP).opaque(part.as_bytes());
    }
    xdr.finish()
}

fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").take(MAX_COMPONENTS)
}

/// Parses the answer to [`compound`]: the parts of the path before a failure.
fn parse_compound(results: &[u8], path: &str) -> Result<(), Failure> {
    let mut xdr = Decoder::new(results);
    let status = xdr.u32();
    let tag = xdr.opaque(1024);
    let (Some(status), Some(_), Some(count)) = (status, tag, xdr.u32()) else {
        return Err(Failure::Refused {
            service: Service::Nfs,
            port: NFS_PORT,
            refusal: Refusal::NotRpc,
        });
    };
    let denial = match status {
        // Only the kernel can judge these: grace periods and delays, links, referrals, security
        // flavours, minor versions.
        10_008 | 10_013 | 10_016 | 10_019 | 10_021 | 10_029 => return Ok(()),
        other => match denial(other) {
            None => return Ok(()),
            Some(denial) => denial,
        },
    };
    // The last result is the failed one; the first belongs to PUTROOTFH.
    let failed = usize::try_from(count).ok().and_then(|count| count.checked_sub(2));
    let part = failed.and_then(|at| components(path).nth(at)).map(ToOwned::to_owned);
    Err(Failure::Denied { path: path.to_owned(), part, denial })
}

fn probe_4(target: &Target<'_>, deadline: Instant) -> Result<Ports, Failure> {
    let port = target.nfs_port.unwrap_or(NFS_PORT);
    let arguments = compound(target.path);
    let call = Call { procedure: 1, arguments: &arguments, root: true, ..null(PROGRAM_NFS) };
    let results = exchange(target.address, port, Service::Nfs, call, deadline)?;
    parse_compound(&results, target.path)?;
    Ok(Ports { nfs: port, mount: None })
}

/// One call on its own connection.
fn exchange(
    address: Ipv4Addr,
    port: u16,
    service: Service,
    call: Call<'_>,
    deadline: Instant,
) -> Result<Vec<u8>, Failure> {
    let unreachable = |errno| Failure::Unreachable { service, port, errno };
    let refused = |refusal| Failure::Refused { service, port, refusal };
    let peer = SocketAddrV4::new(address, port);
    let mut tcp =
        Tcp::connect(peer, service != Service::Portmapper, deadline).map_err(unreachable)?;
    tcp.write_all(&call.to_record()).map_err(|Broken(errno)| unreachable(errno))?;
    let mut records = Records::default();
    let mut buffer = [0u8; 2048];
    loop {
        let length = tcp.read(&mut buffer).map_err(|Broken(errno)| unreachable(errno))?;
        if length == 0 {
            return Err(unreachable(Errno::CONNRESET));
        }
        let piece = buffer.get(..length).unwrap_or_default();
        if let Some(record) = records.push(piece).map_err(refused)? {
            return parse_reply(&record, call.xid).map(<[u8]>::to_vec).map_err(refused);
        }
    }
}

/// Parses any bytes as each of the answers above; for fuzzing.
pub fn parse_any(bytes: &[u8]) {
    let _ = parse_mount(bytes, "/srv/live", 1);
    let _ = parse_compound(bytes, "/srv/live");
    let _ = parse_reply(bytes, 1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_missing_part_of_a_v4_path_is_named() {
        // PUTROOTFH ok, LOOKUP srv ok, LOOKUP liv: no such entry
        let answer = Encoder::default()
            .u32(2)
            .opaque(&[])
            .u32(3)
            .u32(24)
            .u32(0)
            .u32(15)
            .u32(0)
            .u32(15)
            .u32(2)
            .finish();
        let failure = parse_compound(&answer, "/srv/liv/x").unwrap_err();
        assert_eq!(
            failure.to_string(),
            "the server has no /srv/liv/x (liv is where it ends; \
             NFSv4 paths begin at the export with fsid=0)"
        );
        assert!(failure.is_transient());
    }

    #[test]
    fn mount_answers() {
        let text = |status: u32| {
            parse_mount(&status.to_be_bytes(), "/srv", 5).map_err(|failure| failure.to_string())
        };
        assert_eq!(text(0), Ok(()));
        assert!(text(2).unwrap_err().starts_with("the server has no /srv"));
        assert!(text(13).unwrap_err().contains("refuses /srv to this machine"));
        assert!(text(10_006).unwrap_err().contains("NFS error 10006"));
        assert!(parse_mount(&[0], "/srv", 5).is_err());
    }

    #[test]
    fn a_compound_has_one_lookup_a_part() {
        let bytes = compound("//srv/./live/");
        let mut xdr = Decoder::new(&bytes);
        assert_eq!(xdr.opaque(0), Some(&[][..]));
        assert_eq!((xdr.u32(), xdr.u32(), xdr.u32()), (Some(0), Some(3), Some(24)));
        assert_eq!((xdr.u32(), xdr.opaque(9)), (Some(15), Some(&b"srv"[..])));
        assert_eq!((xdr.u32(), xdr.opaque(9)), (Some(15), Some(&b"live"[..])));
        assert_eq!(xdr.u32(), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), path: String) {
            parse_any(&bytes);
            let _ = parse_compound(&bytes, &path);
            let _ = compound(&path);
        }
    }
}
