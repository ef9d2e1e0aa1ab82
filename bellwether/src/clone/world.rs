//! The host's files, names and screen for the loops of the `clone` room.

use super::flags::Given;
use super::progress::Progress;
use super::report::Machine;
use super::store::{How, Source, Target, Writer, part};
use crate::failure::Failure;
use clone::cook::{Archive, Packing};
use clone::digest::Digest;
use clone::edge;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

/// One buffer on the way to the disk.
const CHUNK: usize = 1 << 20;

/// This machine as a node.
#[derive(Debug)]
pub struct Host {
    name: &'static str,
    clock: Instant,
    progress: Progress,
    quiet: bool,
    begun: bool,
    verbose: bool,
    /// Written to instead of what the sender names.
    pub target: Option<PathBuf>,
    /// Wait for the disk at the end.
    pub sync: Option<bool>,
    /// What was opened, if it can be read back.
    opened: Vec<Option<PathBuf>>,
}

impl Host {
    /// A world that speaks as `name`.
    pub fn new(name: &'static str, quiet: bool, verbose: bool) -> Self {
        Self {
            name,
            clock: Instant::now(),
            progress: Progress::new(quiet),
            quiet,
            begun: false,
            verbose,
            target: None,
            sync: None,
            opened: Vec::new(),
        }
    }

    /// Since the first byte.
    pub fn took(&self) -> Duration {
        self.progress.elapsed()
    }

    /// Ends the progress line.
    pub fn end(&self) {
        self.progress.end();
    }

    /// What was opened holds this, in its order, or why that cannot be said.
    pub fn read_back(&self, digests: &[Digest]) -> Result<(), Failure> {
        for (path, digest) in self.opened.iter().zip(digests) {
            let path = path.as_deref().ok_or_else(|| {
                Failure::Failed("what was unpacked or split cannot be read back".to_owned())
            })?;
            super::store::read_back(path, *digest)?;
        }
        Ok(())
    }
}

impl edge::World for Host {
    fn now(&mut self) -> Duration {
        self.clock.elapsed()
    }

    fn resolve(&mut self, host: &str) -> Result<Ipv4Addr, String> {
        let found = (host, 0u16).to_socket_addrs().map_err(|e| e.to_string())?;
        found
            .filter_map(|a| match a {
                SocketAddr::V4(a) => Some(*a.ip()),
                SocketAddr::V6(_) => None,
            })
            .next()
            .ok_or_else(|| "has no IPv4 address".to_owned())
    }

    fn say(&mut self, text: &str) {
        // What the nodes say one by one is for the curious.
        let chatter = ["Host ", "Client "].iter().any(|w| text.starts_with(w));
        if !chatter || self.verbose {
            self.progress.end();
            eprintln!("{}: {text}", self.name);
        }
    }

    fn progress(&mut self, done: u64, total: Option<u64>) {
        if !self.begun && done > 0 {
            self.begun = true;
            self.progress = Progress::new(self.quiet);
        }
        self.progress.show(done, total, String::new);
    }

    fn open(&mut self, wanted: &edge::Target<'_>) -> Result<Box<dyn edge::Store>, String> {
        let path = self.target.clone().unwrap_or_else(|| PathBuf::from(wanted.path));
        let cook = wanted.cook;
        let unpack = match cook.unpack {
            Some(Packing::Gzip) => Some("gzip -dc"),
            // gzip knows this format too.
            Some(Packing::Compress) => Some("gzip -dc"),
            None => None,
        };
        let extract = match cook.archive {
            Some(Archive::Tar) => Some("tar --numeric-owner -xpf -"),
            Some(Archive::Cpio) => Some("cpio -idm --quiet --no-absolute-filenames"),
            None => None,
        };
        let command = match (unpack, extract) {
            (Some(a), Some(b)) => Some(format!("{a} | {b}")),
            (a, b) => a.or(b).map(str::to_owned),
        };
        let how = How {
            pipe: command.as_deref(),
            directory: cook.archive.is_some(),
            split: wanted.split,
            sync: self.sync,
            existing: wanted.existing && self.target.is_none(),
            new: false,
        };
        let target = Target::open(Some(&path), how).map_err(why)?;
        self.say(&format!("writing to {}", target.name()));
        self.opened.push((command.is_none() && wanted.split.is_none()).then_some(path));
        Ok(Box::new(HostStore::new(target)))
    }
}

/// A failure's reason alone.
pub fn why(e: Failure) -> String {
    e.to_string()
}

/// A writer thread behind a buffer.
#[derive(Debug)]
pub struct HostStore {
    writer: Writer,
    filling: Vec<u8>,
    full: Option<Vec<u8>>,
    ended: bool,
}

impl HostStore {
    /// Starts its thread.
    pub fn new(target: Target) -> Self {
        let writer = Writer::start(target, 8, true);
        Self { writer, filling: Vec::with_capacity(CHUNK), full: None, ended: false }
    }

    /// Hands over what is full; false when the thread has enough to do.
    fn hand_over(&mut self) -> Result<bool, String> {
        if let Some(bytes) = self.full.take() {
            self.full = self.writer.try_write(bytes)?;
        }
        Ok(self.full.is_none())
    }
}

impl edge::Store for HostStore {
    fn put(&mut self, bytes: &[u8]) -> Result<usize, String> {
        if !self.hand_over()? {
            return Ok(0);
        }
        let some = bytes.len().min(CHUNK - self.filling.len().min(CHUNK));
        self.filling.extend_from_slice(bytes.get(..some).unwrap_or_default());
        if self.filling.len() >= CHUNK {
            let mut empty = self.writer.buffer();
            empty.clear();
            empty.reserve(CHUNK);
            self.full = Some(std::mem::replace(&mut self.filling, empty));
            self.hand_over()?;
        }
        Ok(some)
    }

    fn end(&mut self) {
        if self.ended || !self.hand_over().unwrap_or(true) {
            return;
        }
        if !self.filling.is_empty() {
            self.full = Some(std::mem::take(&mut self.filling));
            if !self.hand_over().unwrap_or(true) {
                return;
            }
        }
        self.ended = true;
        self.writer.end();
    }

    fn done(&mut self) -> Option<Result<Digest, String>> {
        if !self.ended {
            self.end();
        }
        if !self.ended || !self.writer.idle() {
            return None;
        }
        Some(self.writer.finish().map(|()| self.writer.digest()))
    }
}

/// A file that is read as it is asked for.
#[derive(Debug)]
pub struct FileSource(pub Source);

impl edge::Source for FileSource {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, String> {
        self.0.read(buffer).map(Some).map_err(why)
    }

    fn length(&self) -> Option<u64> {
        self.0.length
    }
}

/// A pipe, a command or parts of a file, read by a thread: waiting for them
/// must not hold up the network.
#[derive(Debug)]
pub struct PipeSource {
    chunks: Receiver<Result<Vec<u8>, String>>,
    now: Vec<u8>,
    at: usize,
    ended: bool,
    length: Option<u64>,
}

impl PipeSource {
    /// Starts to read the sources, one after another.
    pub fn new(sources: Vec<Source>) -> Self {
        let length = sources.iter().map(|s| s.length).sum();
        let (send, chunks) = sync_channel(4);
        std::thread::spawn(move || {
            for mut source in sources {
                loop {
                    let mut bytes = vec![0; CHUNK];
                    match source.read(&mut bytes) {
                        Ok(0) => break,
                        Ok(n) => {
                            bytes.truncate(n);
                            if send.send(Ok(bytes)).is_err() {
                                return;
                            }
                        }
                        Err(e) => {
                            let _ = send.send(Err(why(e)));
                            return;
                        }
                    }
                }
            }
            let _ = send.send(Ok(Vec::new()));
        });
        Self { chunks, now: Vec::new(), at: 0, ended: false, length }
    }
}

impl edge::Source for PipeSource {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, String> {
        if self.at == self.now.len() && !self.ended {
            match self.chunks.try_recv() {
                Ok(Ok(bytes)) => {
                    self.ended = bytes.is_empty();
                    self.now = bytes;
                    self.at = 0;
                }
                Ok(Err(why)) => return Err(why),
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => {
                    return Err("the reader has crashed".to_owned());
                }
            }
        }
        let rest = self.now.get(self.at..).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer.get_mut(..n).unwrap_or_default().copy_from_slice(rest.get(..n).unwrap_or_default());
        self.at += n;
        Ok(Some(n))
    }

    fn length(&self) -> Option<u64> {
        self.length
    }
}

/// Opens what is to be sent: a file, standard input, or the parts of a file,
/// perhaps through a command.
pub fn source(
    path: &Path,
    pipe: Option<&str>,
    split: bool,
) -> Result<Box<dyn edge::Source>, Failure> {
    if split {
        let mut parts = Vec::new();
        while let number = u32::try_from(parts.len()).unwrap_or(u32::MAX)
            && part(path, number).exists()
        {
            parts.push(Source::open(Some(&part(path, number)), None)?);
        }
        if parts.is_empty() {
            return Err(Failure::Failed(format!(
                "{}: there is no such part",
                part(path, 0).display()
            )));
        }
        return Ok(Box::new(PipeSource::new(parts)));
    }
    let source = Source::open(Some(path), pipe)?;
    Ok(if source.length.is_some() {
        Box::new(FileSource(source))
    } else {
        Box::new(PipeSource::new(vec![source]))
    })
}

/// Says at which addresses the hosts are, or why they cannot be reached.
pub fn show_addresses<'a>(hosts: impl IntoIterator<Item = &'a String>) {
    let mut world = Host::new("", true, false);
    for host in hosts {
        let host = host.trim_end();
        match edge::World::resolve(&mut world, host) {
            Ok(ip) => println!("  {host:<20} {ip}"),
            Err(why) => println!("  {host:<20} {why}"),
        }
    }
}

/// How it went with listed machines, for the table of them. Names are looked up only
/// where an address is needed: to look for one that nobody knows takes seconds.
pub fn listed<S: std::fmt::Display>(
    clients: &[(String, S)],
    good: impl Fn(&S) -> bool,
    given: &Given,
    world: &mut Host,
) -> Vec<Machine> {
    let needed = given.has("pxelinux");
    let machine = |(name, standing): &(String, S)| Machine {
        name: name.clone(),
        address: needed.then(|| edge::World::resolve(world, name.trim_end()).ok()).flatten(),
        result: standing.to_string(),
        good: good(standing),
    };
    clients.iter().map(machine).collect()
}

/// All names and addresses by which this machine may be listed.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> =
        ["MYNODENAME", "HOST"].iter().filter_map(|v| std::env::var(v).ok()).collect();
    if let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        let name = name.trim().to_owned();
        // Lists may have the short name.
        names.extend(name.split_once('.').map(|(short, _)| short.to_owned()));
        names.push(name);
    }
    for one in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        if one.flags.contains(nix::net::if_::InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        if let Some(ip) = one.address.and_then(|a| a.as_sockaddr_in().map(|a| a.ip())) {
            names.push(ip.to_string());
        }
    }
    names
}

/// Bytes that nobody can guess.
pub fn random<const N: usize>() -> Result<[u8; N], Failure> {
    use std::io::Read;
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(|e| Failure::Failed(format!("/dev/urandom: {e}")))?;
    Ok(bytes)
}
