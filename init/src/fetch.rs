//! A file fetched by URL into memory: asked for its size first, refused before
//! the first byte when it does not fit, shown while it comes.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use core::time::Duration;

use cmdline::plan::UrlSource;
use netboot::fetch::{Download, FetchError, Options};
use netboot::resolve::Resolver;
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, mount};
use sys::errno::Shown;
use sys::file::make_dir;

use crate::copy::Progress;
use crate::machine::Machine;
use crate::memory::{Size, available};

/// Where fetched files are kept: a tmpfs of their own, which lives as long as
/// the root that is made of them.
const PLACE: &str = "/run/bellwether/fetched";

/// Memory that a fetched file must leave for the system that runs from it.
const SPARE: u64 = 64 << 20;

/// Bytes read at a time.
const BUFFER: usize = 256 << 10;

/// Without a byte for this long a server counts as gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a file is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In words.
    pub why: String,
    /// Asking again would change nothing.
    pub last: bool,
}

impl Refusal {
    fn now(why: impl ToString) -> Self {
        Self { why: why.to_string(), last: false }
    }
}

impl From<FetchError> for Refusal {
    fn from(error: FetchError) -> Self {
        Self { why: error.to_string(), last: error.is_final() }
    }
}

/// Fetches a file; returns its path.
///
/// # Errors
/// Why it could not be had, or does not fit.
pub fn fetch(machine: &mut Machine, source: &UrlSource) -> Result<String, Refusal> {
    let up = machine.network.up().ok_or_else(|| Refusal::now("the network is not up"))?;
    let hosts = sys::file::read_file("/etc/hosts", 64 << 10).unwrap_or_default();
    let options = Options {
        resolver: Resolver::new(&up.config),
        hosts: String::from_utf8_lossy(&hosts).into_owned(),
        proxy: source.proxy.clone(),
        boot_server: up.boot_server(),
        patience: PATIENCE,
    };
    machine.log.info(&format!("fetching {}", source.url));
    let mut download = Download::new(&source.url, options)?;
    let result = receive(machine, &source.url, &mut download);
    tell(machine, &mut download);
    if result.is_err() {
        drop_all();
    }
    result
}

/// Gives the memory of fetched files back.
pub fn drop_all() {
    let _ = sys::mount::detach(PLACE);
}

/// Says what happened to the connection.
fn tell(machine: &mut Machine, download: &mut Download) {
    for note in download.take_notes() {
        machine.log.info(&note);
    }
}

fn receive(machine: &mut Machine, url: &str, download: &mut Download) -> Result<String, Refusal> {
    while !download.open()? {
        tell(machine, download);
    }
    let free = available();
    if let Some(total) = download.total()
        && total.saturating_add(SPARE) > free
    {
        let why = format!(
            "is {} large and {} of memory are free, of which {} must stay free: it does not fit; give the machine more memory or boot over NFS",
            Size(total),
            Size(free),
            Size(SPARE)
        );
        return Err(Refusal { why, last: true });
    }
    let path = prepare(url).map_err(|errno| cannot(PLACE, errno))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = open(path.as_str(), flags, Mode::from_raw_mode(0o600))
        .map_err(|errno| cannot(&path, errno))?;
    let mut progress = Progress::new(&format!("fetching {url}"), download.total().unwrap_or(0));
    let mut buffer = vec![0; BUFFER];
    let mut until_look = SPARE / 2;
    loop {
        let length = download.read(&mut buffer)?;
        tell(machine, download);
        let Some(length) = length else { continue };
        let Some(mut rest) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else { break };
        while !rest.is_empty() {
            let written = rustix::io::write(&file, rest).map_err(|errno| cannot(&path, errno))?;
            rest = rest.get(written..).unwrap_or_default();
        }
        progress.add(&mut machine.log, length as u64);
        // Without an announced size the memory is watched as it fills.
        until_look = until_look.saturating_sub(length as u64);
        if download.total().is_none() && until_look == 0 {
            until_look = SPARE / 2;
            if available() < SPARE {
                let why = format!("does not fit into memory: {} so far", Size(download.position()));
                return Err(Refusal { why, last: true });
            }
        }
    }
    machine.log.info(&format!("fetched {url}: {}", progress.summary()));
    Ok(path)
}

fn cannot(path: &str, errno: rustix::io::Errno) -> Refusal {
    Refusal::now(format!("{path}: {}", Shown(errno)))
}

/// Makes room: a tmpfs that may grow as large as memory allows, since the size
/// was checked against what is free.
fn prepare(url: &str) -> Result<String, rustix::io::Errno> {
    drop_all();
    make_dir(PLACE, 0o700)?;
    let options = CString::from(c"mode=0700,size=100%");
    mount(
        "tmpfs",
        PLACE,
        "tmpfs",
        MountFlags::NODEV | MountFlags::NOSUID,
        Some(options.as_c_str()),
    )?;
    let name =
        url.split(['?', '#']).next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let name = if matches!(name, "" | "." | "..") { "file" } else { name };
    Ok(format!("{PLACE}/{name}"))
}
