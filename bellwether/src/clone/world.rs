//! The host's files, names and screen for the loops of the `clone` room.

use super::files;
use super::net::{Sockets, Together};
use super::progress::Progress;
use super::seats::{Seat, Seats, shown};
use super::store::{How, Source, Target, Writer, part, why};
use crate::failure::Failure;
use ::share::room::Room;
use clone::cook::{Archive, Packing};
use clone::digest::Digest;
use clone::edge::net::Datagrams;
use clone::edge::place::Place;
use clone::edge::world::Shelf;
use clone::edge::{self, Level};
use clone::guard::{Announcement, Kept, Pin, Terms};
use clone::outcome::{Amount, Client, Standing, Summary};
use clone::room::manifest::Manifest;
use cmdline::json::Json;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

/// One buffer on the way to the disk. Of larger ones less is in the processor's caches when it
/// is digested and written.
const CHUNK: usize = 256 << 10;
/// Buffers that may wait for the disk.
const QUEUE: usize = 16;

/// What a node sends.
pub enum Sources {
    /// Nothing.
    None,
    /// This, once.
    Open(Option<Box<dyn edge::Source>>),
    /// These files, opened when they are needed; each goes through the shell command.
    Files(Vec<PathBuf>, Option<String>),
}

/// This machine as a node.
pub struct Host {
    /// The program's name in messages.
    pub name: &'static str,
    clock: Instant,
    progress: Progress,
    quiet: bool,
    begun: bool,
    verbose: bool,
    /// Written to instead of what the sender names.
    pub target: Option<PathBuf>,
    /// Disks and files for a copy that comes chunk by chunk.
    pub places: Vec<String>,
    /// They keep their partition tables.
    pub keep_table: bool,
    /// A directory for a tree of files instead, and whether what the sender lacks goes.
    pub tree: Option<(PathBuf, bool)>,
    /// A shell command between the stream and the target.
    pub pipe: Option<String>,
    /// What is sent.
    pub sources: Sources,
    /// What the user wants of a copy.
    pub terms: Terms,
    /// The digest of what is sent, where it was read before.
    pub digest: Option<Digest>,
    /// How UDP sockets are opened.
    pub sockets: Sockets,
    /// Blocks that were sent again.
    pub again: u64,
    /// What happens is told as JSON, too, a line each on standard output.
    pub json: bool,
    /// Of the progress, the last one was told then.
    told: Duration,
    /// The machines of a room.
    pub seats: Seats,
    /// What is copied, and the page that shows it.
    pub page: (String, Option<Arc<Room>>),
}

impl Host {
    /// A world that speaks as `name`.
    pub fn new(name: &'static str, quiet: bool, verbose: bool) -> Self {
        Self {
            name,
            clock: Instant::now(),
            progress: Progress::new(quiet, 0),
            quiet,
            begun: false,
            verbose,
            target: None,
            places: Vec::new(),
            keep_table: false,
            tree: None,
            pipe: None,
            sources: Sources::None,
            terms: Terms::default(),
            digest: None,
            sockets: Sockets::default(),
            again: 0,
            json: false,
            told: Duration::ZERO,
            seats: Seats::default(),
            page: (String::new(), None),
        }
    }

    /// A room has ended: its page shows how, as long as the user needs to see it.
    pub fn room_ended(&mut self, clients: &[Client]) {
        for (seat, client) in self.seats.all.iter_mut().zip(clients) {
            seat.client.clone_from(client);
        }
        self.seats.all.iter().for_each(|seat| self.seat(seat));
        self.show(true);
        if self.page.1.as_ref().is_some_and(|room| room.is_seen()) {
            std::thread::sleep(Duration::from_millis(1500));
        }
    }

    /// Tells of one machine.
    fn seat(&self, seat: &Seat) {
        let (pace, of) = (self.seats.pace(seat, self.clock.elapsed()), self.seats.chunks());
        let Client { name, address, standing, .. } = &seat.client;
        let address = address.map(|ip| ip.to_string()).unwrap_or_default();
        let (_, state) = shown(standing, true);
        let fields = [("name", &**name), ("address", &*address), ("state", &*state)];
        let mut counts =
            vec![("chunks", seat.have.into()), ("of", of.into()), ("bytes_per_second", pace.rate)];
        counts.extend(pace.left.map(|left| ("seconds_left", left)));
        self.event("node", &fields, &counts);
        if self.verbose && of > 0 && *standing == Standing::Receiving {
            let percent = u64::from(seat.have) * 100 / u64::from(of);
            let left = pace.left.map_or_else(String::new, |left| format!(", {left} s left"));
            self.progress.end();
            eprintln!("{}: {name}: {percent} %, {}/s{left}", self.name, Amount(pace.rate));
        }
    }

    fn show(&self, begun: bool) {
        if let (text, Some(room)) = &self.page {
            room.set(self.seats.json(text, begun, self.clock.elapsed()));
        }
    }

    /// Since the first byte.
    pub fn took(&self) -> Duration {
        self.progress.elapsed()
    }

    /// Tells programs of something.
    fn event(&self, name: &str, fields: &[(&str, &str)], counts: &[(&str, u64)]) {
        if !self.json {
            return;
        }
        let mut json = Json::new();
        json.object().field("event", name);
        for (key, value) in fields {
            json.field(key, value);
        }
        for (key, value) in counts {
            json.count(key, *value);
        }
        json.end_object();
        crate::output::write_out((json.finish() + "\n").as_bytes());
    }

    /// Prints the last line about a copy.
    pub fn last_line(&self, summary: &Summary<'_>) {
        eprintln!("{}: {summary}", self.name);
        self.event("end", &[("text", &summary.to_string())], &[]);
    }

    /// Ends the progress line.
    pub fn end(&self) {
        self.progress.end();
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

    fn say(&mut self, level: Level, text: &str) {
        if level == Level::News {
            self.event("news", &[("text", text)], &[]);
        }
        if level == Level::News || self.verbose {
            self.progress.end();
            eprintln!("{}: {text}", self.name);
        }
    }

    fn progress(&mut self, done: u64, total: Option<u64>) {
        if !self.begun && done > 0 {
            self.begun = true;
            self.progress = Progress::new(self.quiet, done);
        }
        if done > 0 && self.clock.elapsed().saturating_sub(self.told) >= Duration::from_secs(1) {
            self.told = self.clock.elapsed();
            let total = total.unwrap_or(0);
            let (rate, left) = self.progress.pace(done, total);
            let counts = [("done", done), ("total", total), ("bytes_per_second", rate)];
            self.event("progress", &[], &[&counts[..], &[("seconds_left", left)]].concat());
        }
        let again = self.again;
        self.progress.show(done, total, || match again {
            0 => String::new(),
            blocks => format!(", {blocks} blocks again"),
        });
    }

    fn nodes(&mut self, clients: &[Client], have: &[u32], of: u32, begun: bool) {
        let now = self.clock.elapsed();
        let news = self.seats.set(clients, have, of, now);
        self.show(begun);
        if !begun {
            return;
        }
        news.iter().filter_map(|at| self.seats.all.get(*at)).for_each(|seat| self.seat(seat));
    }

    fn resent(&mut self, blocks: u64) {
        self.again = blocks;
    }

    fn places(&mut self) -> Result<Vec<Place>, String> {
        for path in &self.places {
            if let Some(mark) = edge::place::marked(path) {
                eprintln!("{}: {path} {mark}", self.name);
            }
        }
        self.places.iter().map(|path| Place::resume(path).map_err(|e| e.to_string())).collect()
    }

    fn shelf(&mut self, manifest: &Arc<Manifest>) -> Result<Option<Box<dyn Shelf>>, String> {
        let Some((dir, delete)) = &self.tree else { return Ok(None) };
        let target = files::Target::new(self.name, dir, manifest, *delete, self.terms.read_back)?;
        Ok(Some(Box::new(target)))
    }

    fn pinned(&self) -> Option<&Pin> {
        self.terms.pin.as_ref()
    }

    fn thread(&self) -> Option<fn(edge::world::Work)> {
        Some(|work| drop(std::thread::spawn(work)))
    }

    fn reads_back(&self) -> bool {
        self.terms.read_back
    }

    fn keeps_table(&self) -> bool {
        self.keep_table
    }

    fn source(&mut self, number: usize) -> Result<Box<dyn edge::Source>, String> {
        match &mut self.sources {
            Sources::Files(paths, command) => {
                let path = paths.get(number).ok_or("there is no such file")?;
                source(path, command.as_deref(), false).map_err(why)
            }
            Sources::Open(source) => source.take().ok_or_else(|| "it was read already".to_owned()),
            Sources::None => Err("nothing is to be sent".to_owned()),
        }
    }

    fn known(&mut self, number: usize) -> Announcement {
        let bytes = match &self.sources {
            Sources::Open(source) => source.as_ref().and_then(|source| source.length()),
            Sources::Files(paths, None) => {
                let source = paths.get(number).and_then(|p| Source::open(Some(p), None).ok());
                source.and_then(|source| source.length)
            }
            Sources::Files(_, Some(_)) | Sources::None => None,
        };
        // A pipe has no length; what it gives is known at its end.
        let bytes = self.digest.map(|digest| digest.bytes).or(bytes.filter(|bytes| *bytes > 0));
        Announcement { sender: None, bytes, blake3: self.digest.map(|digest| digest.blake3) }
    }

    fn datagrams(&mut self, port: u16) -> Result<Box<dyn Datagrams>, clone::Error> {
        Ok(Box::new(Together::open(&self.sockets, port)?))
    }

    fn open(&mut self, wanted: &edge::Target<'_>) -> Result<Box<dyn edge::Store>, String> {
        let named = (!wanted.path.is_empty()).then(|| PathBuf::from(wanted.path));
        let path = self.target.clone().or(named);
        let cook = wanted.cook;
        // gzip unpacks compress's format, too.
        let unpack = cook.unpack.map(|(Packing::Gzip | Packing::Compress)| "gzip -dc");
        let extract = cook.archive.map(|archive| match archive {
            Archive::Tar => "tar --numeric-owner -xpf -",
            Archive::Cpio => "cpio -idm --quiet --no-absolute-filenames",
        });
        let command = match (unpack, extract) {
            (Some(a), Some(b)) => Some(format!("{a} | {b}")),
            (a, b) => a.or(b).map(str::to_owned).or_else(|| self.pipe.clone()),
        };
        let how = How {
            pipe: command.as_deref(),
            directory: cook.archive.is_some(),
            split: wanted.split,
            existing: wanted.existing && self.target.is_none(),
            terms: self.terms.clone(),
        };
        let target = Target::open(path.as_deref(), how).map_err(why)?;
        self.say(Level::News, &format!("writing to {}", target.name()));
        Ok(Box::new(HostStore::new(target)))
    }
}

/// A writer thread behind a buffer.
#[derive(Debug)]
pub struct HostStore {
    writer: Writer,
    filling: Vec<u8>,
    full: Option<Vec<u8>>,
    told: Announcement,
    ended: bool,
}

impl HostStore {
    /// Starts its thread.
    pub fn new(target: Target) -> Self {
        let writer = Writer::start(target, QUEUE);
        Self {
            writer,
            filling: Vec::with_capacity(CHUNK),
            full: None,
            told: Announcement::default(),
            ended: false,
        }
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
    fn announce(&mut self, told: &Announcement) -> Result<(), String> {
        if self.told != *told {
            self.told = *told;
            self.writer.tell(told);
        }
        Ok(())
    }

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

    fn done(&mut self) -> Option<Result<Kept, String>> {
        if !self.ended {
            self.end();
        }
        if !self.ended || !self.writer.idle() {
            return None;
        }
        Some(self.writer.finish())
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

/// Opens a source to send: a file, standard input, or the parts of a file, perhaps
/// through a command.
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
    Ok(opened(Source::open(Some(path), pipe)?))
}

/// An open source, read as it can be: a file at once, anything else by a thread.
pub fn opened(source: Source) -> Box<dyn edge::Source> {
    if source.length.is_some() {
        Box::new(FileSource(source))
    } else {
        Box::new(PipeSource::new(vec![source]))
    }
}

/// The addresses of the hosts that are known.
pub fn addresses<'a>(hosts: impl Iterator<Item = &'a String>, world: &mut Host) -> Vec<Ipv4Addr> {
    hosts.filter_map(|host| edge::World::resolve(world, host.trim_end()).ok()).collect()
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

/// All names and addresses by which this machine may be listed.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> =
        ["MYNODENAME", "HOST"].iter().filter_map(|v| std::env::var(v).ok()).collect();
    if let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        let name = name.trim().to_owned();
        // Lists may have the short name. An address has none.
        if name.parse::<std::net::IpAddr>().is_err() {
            names.extend(name.split_once('.').map(|(short, _)| short.to_owned()));
        }
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
    let mut once: Vec<String> = Vec::new();
    for name in names {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    once
}

/// Random bytes of the kernel, for secrets and identifiers.
pub fn random<const N: usize>() -> Result<[u8; N], Failure> {
    use std::io::Read;
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(|e| Failure::Failed(format!("/dev/urandom: {e}")))?;
    Ok(bytes)
}
