//! A file fetched by URL into memory: asked for its size first, refused before
//! the first byte when it does not fit, shown while it comes.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use cmdline::plan::{Payload, Server, UrlSource};
use cmdline::secrets::Private;
use cmdline::value;
use netboot::fetch::{Download, FetchError, Options};
use netboot::network::NetworkUp;
use netboot::resolve::Resolver;
use rustix::fs::OFlags;
use rustix::mount::MountFlags;
use sys::file::{make_dir, open, write_all};
use sys::mount::tmpfs;

use crate::copy::Progress;
use crate::machine::Machine;
use crate::memory::{Size, available};
use crate::trace::Fault;

/// Where fetched files are kept: a tmpfs of their own, which lives as long as
/// the root that is made of them.
pub const PLACE: &str = "/run/bellwether/fetched";

/// Memory that a fetched file must leave for the system that runs from it.
const SPARE: u64 = 64 << 20;

/// Bytes read at a time.
const BUFFER: usize = 256 << 10;

/// Longest list of files, and most files that are fetched by it.
const MAX_LIST: usize = 64 << 10;
const MAX_FILES: usize = 500;

/// Without a byte for this long a server counts as gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// The same for a list that may be had in another way.
const A_LIST: Duration = Duration::from_secs(3);

impl From<FetchError> for Fault {
    fn from(error: FetchError) -> Self {
        let fault = Self::from(error.to_string());
        if error.is_final() { fault.last() } else { fault }
    }
}

/// Fetches a file; returns its path.
///
/// # Errors
/// Why it could not be had, or does not fit.
pub fn fetch(machine: &mut Machine, source: &UrlSource) -> Result<String, Fault> {
    // Not of the whole text: a URL without a path would lend its login.
    let path = value::url(source.url.reveal()).map_or("", |url| url.path);
    let name = path.split(['?', '#']).next().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default();
    let name = if matches!(name, "" | "." | "..") { "file" } else { name };
    let result = prepare().and_then(|()| into_place(machine, source, name, PATIENCE));
    if result.is_err() {
        drop_all();
    }
    result
}

/// Fetches what Slax's list names, by HTTP or, when that has no list, by TFTP; returns
/// the directory that holds it all.
///
/// # Errors
/// As [`fetch`], and what is wrong with the list.
pub fn fetch_list(machine: &mut Machine, server: &Server, port: u16) -> Result<String, Fault> {
    let result = prepare().and_then(|()| listed(machine, server, port));
    match result {
        Ok(()) => Ok(PLACE.to_string()),
        Err(fault) => {
            drop_all();
            Err(fault)
        }
    }
}

fn listed(machine: &mut Machine, server: &Server, port: u16) -> Result<(), Fault> {
    let host = match server {
        Server::Host(host) => host.clone(),
        Server::Boot => machine
            .network
            .up()
            .and_then(NetworkUp::boot_server)
            .ok_or_else(|| Fault::from("neither the line nor DHCP names a server"))?,
    };
    let system = rustix::system::uname();
    let (release, kind) = (system.release().to_string_lossy(), system.machine().to_string_lossy());
    let source =
        |url: String| UrlSource { url: Private::word(&url), payload: Payload::Sniff, proxy: None };
    let mut base = format!("http://{host}:{port}/");
    let list = format!("{base}PXEFILELIST?{release}:{kind}");
    let list = match into_place(machine, &source(list), "PXEFILELIST", A_LIST) {
        // A server of TFTP alone refuses the connection.
        Err(fault) => {
            machine.log.warn(&format!("{base}PXEFILELIST: {fault}; TFTP is tried"));
            base = format!("tftp://{host}/");
            into_place(machine, &source(format!("{base}PXEFILELIST")), "PXEFILELIST", PATIENCE)?
        }
        Ok(list) => list,
    };
    let list = sys::file::read_file(&list, MAX_LIST).map_err(Fault::on(&list))?;
    let list = String::from_utf8_lossy(&list).into_owned();
    let files = list.lines().map(str::trim).filter(|file| !file.is_empty());
    for file in files.take(MAX_FILES) {
        let name = downwards(file);
        if let Some((directory, _)) = name.rsplit_once('/') {
            let directory = format!("{PLACE}/{directory}");
            make_dir(&directory, 0o755).map_err(Fault::on(&directory))?;
        }
        into_place(machine, &source(format!("{base}{name}")), &name, PATIENCE)?;
    }
    Ok(())
}

/// A path of a server's list, without what would lead out of [`PLACE`].
pub(crate) fn downwards(path: &str) -> String {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "." | ".."));
    parts.collect::<Vec<&str>>().join("/")
}

/// Fetches one file to that name below [`PLACE`].
fn into_place(
    machine: &mut Machine,
    source: &UrlSource,
    name: &str,
    patience: Duration,
) -> Result<String, Fault> {
    let up = machine.network.up().ok_or_else(|| Fault::from("the network is not up"))?;
    let hosts = sys::file::read_file("/etc/hosts", 64 << 10).unwrap_or_default();
    let options = Options {
        resolver: Resolver::new(&up.config),
        hosts: String::from_utf8_lossy(&hosts).into_owned(),
        proxy: source.proxy.as_ref().map(|proxy| proxy.reveal().to_string()),
        boot_server: up.boot_server(),
        patience,
        // A silent server keeps the boot no longer than the line gives it.
        until: machine.deadline(),
    };
    machine.log.info(&format!("fetching {}", source.url));
    let mut download = Download::new(source.url.reveal(), options)?;
    let path = format!("{PLACE}/{name}");
    let result = receive(machine, &source.url.to_string(), &path, &mut download);
    tell(machine, &mut download);
    result.map(|()| path)
}

/// Gives the memory of fetched files back.
pub fn drop_all() {
    // Mostly there is none.
    let _ = sys::mount::detach(PLACE);
}

/// Says what happened to the connection.
fn tell(machine: &mut Machine, download: &mut Download) {
    for note in download.take_notes() {
        machine.log.info(&note);
    }
}

fn receive(
    machine: &mut Machine,
    url: &str,
    path: &str,
    download: &mut Download,
) -> Result<(), Fault> {
    while !download.open()? {
        tell(machine, download);
        machine.keep_time();
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
        return Err(Fault::from(why).last());
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = open(path, flags, 0o600).map_err(Fault::on(path))?;
    let mut progress = Progress::new(&format!("fetching {url}"), download.total().unwrap_or(0));
    let mut buffer = vec![0; BUFFER];
    let mut until_look = SPARE / 2;
    loop {
        let length = download.read(&mut buffer)?;
        tell(machine, download);
        machine.keep_time();
        let Some(length) = length else { continue };
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else { break };
        write_all(&file, bytes).map_err(Fault::on(path))?;
        progress.add(&mut machine.log, length as u64);
        // Without an announced size the memory is watched as it fills.
        until_look = until_look.saturating_sub(length as u64);
        if download.total().is_none() && until_look == 0 {
            until_look = SPARE / 2;
            if available() < SPARE {
                let why = format!("does not fit into memory: {} so far", Size(download.position()));
                return Err(Fault::from(why).last());
            }
        }
    }
    machine.log.info(&format!("fetched {url}: {}", progress.summary()));
    Ok(())
}

/// Makes room: a tmpfs that may grow as large as memory allows, since every size is
/// checked against what is free.
///
/// # Errors
/// When there can be none.
pub fn prepare() -> Result<(), Fault> {
    drop_all();
    tmpfs(PLACE, MountFlags::NODEV | MountFlags::NOSUID, "mode=0700,size=100%")
        .map_err(Fault::on(PLACE))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;
    use crate::machine::tests::machine;

    /// Fetches from a server that answers one request so.
    fn fetched(answer: &'static [u8]) -> Result<Vec<u8>, Fault> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            client.write_all(answer).unwrap();
        });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let options = Options { patience: PATIENCE, ..Options::default() };
        let mut download = Download::new(&url, options).unwrap();
        let result = receive(&mut machine(""), &url, path.to_str().unwrap(), &mut download);
        server.join().unwrap();
        result.map(|()| std::fs::read(path).unwrap())
    }

    #[test]
    fn a_file_arrives() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbytes";
        assert_eq!(fetched(answer), Ok(b"bytes".to_vec()));
    }

    #[test]
    fn what_does_not_fit_is_refused_before_its_first_byte() {
        let fault = fetched(b"HTTP/1.1 200 OK\r\nContent-Length: 4611686018427387904\r\n\r\n");
        let fault = fault.unwrap_err();
        assert!(fault.is_last() && fault.to_string().contains("it does not fit"), "{fault}");
    }

    #[test]
    fn what_the_server_does_not_have_is_not_asked_for_again() {
        let fault = fetched(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        let fault = fault.unwrap_err();
        assert!(fault.is_last() && fault.to_string().contains("404"), "{fault}");
    }

    #[test]
    fn a_server_without_a_network_is_not_asked() {
        let url = Private::word("http://10.0.0.1/x");
        let source = UrlSource { url, payload: Payload::Sniff, proxy: None };
        let fault = into_place(&mut machine(""), &source, "x", PATIENCE).unwrap_err();
        assert_eq!((fault.to_string().as_str(), fault.is_last()), ("the network is not up", false));
    }

    #[test]
    fn a_list_does_not_lead_out_of_the_place() {
        assert_eq!(downwards("/slax/./modules//10-x.sb"), "slax/modules/10-x.sb");
        assert_eq!(downwards("../../etc/passwd"), "etc/passwd");
        assert_eq!(downwards(".."), "");
    }
}
