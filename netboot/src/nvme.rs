//! NVMe over TCP: discovers subsystems and has the kernel connect to them.
//!
//! The kernel speaks the protocol (NVM Express TCP Transport Specification) and reconnects by
//! itself; it gets the address as a line of options written to `/dev/nvme-fabrics`. A discovery
//! controller's log page lists the subsystems (NVMe over Fabrics, Discovery Log Page).
//!
//! Not done: TLS, authentication in-band, transports other than TCP over IPv4.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use rustix::fd::AsFd;
use rustix::fs::OFlags;
use rustix::io::{Errno, read, write};
use sys::errno::Shown;
use sys::file::open;

use crate::io::Tcp;
use sys::clock::Instant;

/// The subsystem of every discovery controller.
pub const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// Bytes of the discovery log's header, and of each of its entries.
const RECORD: usize = 1024;

/// Most entries that are read.
const MAX_RECORDS: usize = 32;

/// Seconds between the kernel's attempts to reconnect.
const RECONNECT_SECONDS: u32 = 2;

/// The address of a subsystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subsystem {
    /// Address and port.
    pub server: SocketAddrV4,
    /// Its qualified name.
    pub nqn: String,
}

/// Why there is no device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NvmeError {
    /// No server answers there.
    Connect(SocketAddrV4, Errno),
    /// `/dev/nvme-fabrics` cannot be used.
    Kernel(Errno),
    /// The server lacks the subsystem, or refuses it to this host.
    Refused(String, Errno),
    /// The discovery log cannot be read.
    Log(Errno),
    /// The discovery controller lists no usable subsystem.
    Nothing(SocketAddrV4),
}

impl fmt::Display for NvmeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(server, errno) => write!(f, "{server}: {}", Shown(*errno)),
            Self::Kernel(errno) => write!(f, "/dev/nvme-fabrics: {}", Shown(*errno)),
            Self::Refused(nqn, errno) => write!(
                f,
                "{nqn}: the server lacks it, or refuses it to this host ({}; the kernel's log says more)",
                Shown(*errno)
            ),
            Self::Log(errno) => {
                write!(f, "cannot read the server's list of subsystems: {}", Shown(*errno))
            }
            Self::Nothing(server) => write!(f, "{server} lists no subsystem for TCP"),
        }
    }
}

impl core::error::Error for NvmeError {}

/// Asks a discovery controller for its subsystems.
///
/// # Errors
/// [`NvmeError`]: no connection, an unreadable log, or no usable subsystem in it.
pub fn discover(
    server: SocketAddrV4,
    host: &str,
    limit: Duration,
) -> Result<Vec<Subsystem>, NvmeError> {
    let controller = Subsystem { server, nqn: DISCOVERY.to_string() };
    let instance = connect(&controller, host, limit)?;
    let mut log = alloc::vec![0; RECORD * (1 + MAX_RECORDS)];
    let device = format!("/dev/nvme{instance}");
    let asked = open(&device, OFlags::RDWR, 0)
        .and_then(|device| sys::nvme::log_page(device.as_fd(), 0x70, &mut log));
    disconnect(instance);
    asked.map_err(NvmeError::Log)?;
    let found = parse_log(&log);
    if found.is_empty() { Err(NvmeError::Nothing(server)) } else { Ok(found) }
}

/// The subsystems in a discovery log with TCP over IPv4.
#[must_use]
pub fn parse_log(log: &[u8]) -> Vec<Subsystem> {
    let count = log.get(8..16).and_then(|bytes| bytes.first_chunk::<8>());
    let count = count.map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let records = log.get(RECORD..).unwrap_or_default().chunks_exact(RECORD);
    let records = records.take(usize::try_from(count).unwrap_or(usize::MAX).min(MAX_RECORDS));
    records.filter_map(subsystem).collect()
}

fn subsystem(record: &[u8]) -> Option<Subsystem> {
    const TCP: u8 = 3;
    const IPV4: u8 = 1;
    const STORAGE: u8 = 2;
    let [TCP, IPV4, STORAGE] = *record.first_chunk()? else { return None };
    let text = |from: usize, length: usize| {
        let bytes = record.get(from..from + length)?;
        let text = bytes.split(|byte| *byte == 0).next()?;
        core::str::from_utf8(text).ok().map(str::trim)
    };
    let (port, nqn, address) = (text(32, 32)?, text(256, 256)?, text(512, 256)?);
    let server = SocketAddrV4::new(address.parse::<Ipv4Addr>().ok()?, port.parse().ok()?);
    // The name goes into a line of comma-separated options.
    let plain = nqn.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    (plain && nqn.starts_with("nqn.") && nqn.len() <= 223)
        .then(|| Subsystem { server, nqn: nqn.to_string() })
}

/// Connects to a subsystem; `host` is our qualified name, the kernel's default if empty.
/// Returns the controller's number, 0 for `nvme0`.
///
/// The kernel waits minutes for a silent server, so the connection is tried first; this may
/// take `limit`.
///
/// # Errors
/// When no server answers, or the server refuses. `EALREADY` inside of
/// [`NvmeError::Refused`] when there is a connection already.
pub fn connect(subsystem: &Subsystem, host: &str, limit: Duration) -> Result<u32, NvmeError> {
    let server = subsystem.server;
    let tried = Tcp::connect(server, false, Instant::now().after(limit));
    drop(tried.map_err(|errno| NvmeError::Connect(server, errno))?);
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let kernel = open("/dev/nvme-fabrics", flags, 0).map_err(NvmeError::Kernel)?;
    let line = options(subsystem, host);
    let refused = |errno| NvmeError::Refused(subsystem.nqn.clone(), errno);
    write(&kernel, line.as_bytes()).map_err(refused)?;
    let mut answer = [0; 64];
    let length = read(&kernel, &mut answer).map_err(refused)?;
    Ok(instance(answer.get(..length).unwrap_or_default()).unwrap_or(0))
}

/// The kernel's option line.
fn options(subsystem: &Subsystem, host: &str) -> String {
    let (address, port) = (subsystem.server.ip(), subsystem.server.port());
    let mut line = format!("nqn={},transport=tcp,traddr={address},trsvcid={port}", subsystem.nqn);
    if subsystem.nqn != DISCOVERY {
        // A root waits for its server forever, as with NFS.
        line.push_str(&format!(",reconnect_delay={RECONNECT_SECONDS},ctrl_loss_tmo=-1"));
    }
    if !host.is_empty() {
        line.push_str(&format!(",hostnqn={host}"));
    }
    line
}

/// `instance=0,cntlid=1`.
fn instance(answer: &[u8]) -> Option<u32> {
    let text = core::str::from_utf8(answer).ok()?;
    text.split(',').find_map(|word| word.trim().strip_prefix("instance=")?.parse().ok())
}

/// Removes a controller.
pub fn disconnect(instance: u32) {
    let path = format!("/sys/class/nvme/nvme{instance}/delete_controller");
    // A controller that is gone needs no removal.
    let _ = sys::file::write_file(&path, b"1", 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn log(records: &[(u8, &str, &str, &str)]) -> Vec<u8> {
        let mut log = vec![0; RECORD * (1 + records.len())];
        log[8] = u8::try_from(records.len()).unwrap();
        for ((kind, port, nqn, address), record) in
            records.iter().zip(log[RECORD..].chunks_mut(RECORD))
        {
            record[..3].copy_from_slice(&[3, 1, *kind]);
            for (at, text) in [(32, port), (256, nqn), (512, address)] {
                record[at..at + text.len()].copy_from_slice(text.as_bytes());
            }
        }
        log
    }

    #[test]
    fn logs() {
        let found = parse_log(&log(&[
            (2, "4420", "nqn.2026-01.lab:root", "10.77.0.50"),
            (1, "8009", DISCOVERY, "10.77.0.50"),
            (2, "4420", "nqn.x,hostnqn=y", "10.77.0.50"),
            (2, "4420", "nqn.six", "fe80::1"),
        ]));
        let server = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 50), 4420);
        assert_eq!(found, [Subsystem { server, nqn: "nqn.2026-01.lab:root".into() }]);
        assert_eq!(
            options(&found[0], "nqn.host"),
            "nqn=nqn.2026-01.lab:root,transport=tcp,traddr=10.77.0.50,trsvcid=4420,\
             reconnect_delay=2,ctrl_loss_tmo=-1,hostnqn=nqn.host"
        );
        assert_eq!(parse_log(&[]), []);
    }

    #[test]
    fn answers() {
        assert_eq!(instance(b"instance=3,cntlid=1\n"), Some(3));
        assert_eq!(instance(b""), None);
    }

    proptest! {
        #[test]
        fn never_panics(junk: Vec<u8>, at in 0..2048_usize) {
            let _ = parse_log(&junk);
            let mut log = log(&[(2, "4420", "nqn.a", "10.0.0.1")]);
            for (slot, byte) in log.iter_mut().skip(at).zip(&junk) {
                *slot = *byte;
            }
            let _ = parse_log(&log);
        }
    }
}
