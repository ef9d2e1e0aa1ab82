//! `p2v-server`: machines that boot with `bw.p2v=p2v://…` send their disks here, and become
//! guests of libvirt.
//!
//! Each connection is sealed by the key (`p2v::seal`). What is inside goes to `qemu-nbd`, which
//! writes the image: this program never sees a format. An image has its name when all disks of
//! its machine are there, and was read back by the machine.

use super::copying::shown;
use super::flags::{Given, Program, flag};
use super::net::interface;
use super::world::random;
use crate::failure::Failure;
use crate::programs::find;
use cpio_builder::error::Error;
use p2v::guest::{Ask, Guest, MOST};
use p2v::seal::{self, Key, Nonce, Opener, SHORTEST, Sealer};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The grammar.
pub static P2V_SERVER: Program = Program {
    name: "p2v-server",
    about: "Takes the disks of machines that boot with bw.p2v=p2v://…, and makes guests of them.",
    rest: "DIR",
    example: "bellwether clone p2v-server /var/lib/libvirt/images",
    flags: &[
        flag("port", Some('P'), Some("PORT"), "TCP port [10810]"),
        flag(
            "key",
            None,
            Some("WORD"),
            "the key of 16 letters or more that machines must have [a new one]",
        ),
        flag("format", Some('f'), Some("qcow2|raw"), "the form of the images [qcow2]"),
        flag("once", None, None, "end when one machine is there"),
    ],
};

/// How long a connection may take to say what it wants.
const GREETING: Duration = Duration::from_secs(10);
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(300);
/// How long qemu-nbd may take to begin, or to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections at once; more are closed.
const CONNECTIONS: usize = 32;
/// Machines whose disks are not all there; the oldest that is not connected makes room.
const MACHINES: usize = 256;

/// One disk that is being filled.
#[derive(Debug, Default)]
struct Slot {
    size: u64,
    /// The connection that fills it.
    tcp: Option<TcpStream>,
    /// Why the last connection's bytes are not all in the image.
    failed: Option<String>,
    /// Held while qemu-nbd has the image.
    busy: Arc<Mutex<()>>,
}

/// One machine whose disks come.
#[derive(Debug, Default)]
struct Machine {
    run: String,
    disks: BTreeMap<String, Slot>,
}

#[derive(Debug)]
struct Server {
    dir: PathBuf,
    key: Key,
    format: &'static str,
    /// Sockets of qemu-nbd.
    sockets: PathBuf,
    count: AtomicUsize,
    /// It ends.
    over: AtomicBool,
    machines: Mutex<BTreeMap<String, Machine>>,
}

/// Runs until it is stopped.
pub fn run(given: &Given) -> Result<(), Failure> {
    let [dir] = given.rest.as_slice() else {
        return Err(Failure::Usage("p2v-server: needs a directory for the images".to_owned()));
    };
    let format = match given.get("format") {
        None | Some("qcow2") => "qcow2",
        Some("raw") => "raw",
        Some(other) => {
            return Err(Failure::Usage(format!("--format: '{other}' is neither qcow2 nor raw")));
        }
    };
    for program in ["qemu-img", "qemu-nbd"] {
        if find(program).is_none() {
            let text = format!("{program} is not installed: it is in the package qemu-utils");
            return Err(Failure::Failed(text));
        }
    }
    let failed = |what: &str| {
        let what = what.to_owned();
        move |e: io::Error| Failure::Failed(format!("{what}: {e}"))
    };
    let dir = fs::canonicalize(dir).map_err(failed(dir))?;
    nix::unistd::access(&dir, nix::unistd::AccessFlags::W_OK)
        .map_err(|e| Error::write(&dir)(e.into()))?;
    // Files of copies that did not end may be replaced: they are no other server's.
    let lock = File::open(&dir).map_err(failed(&dir.to_string_lossy()))?;
    lock.try_lock().map_err(|_| {
        Failure::Failed(format!("{}: another p2v-server has this directory", dir.display()))
    })?;
    let word = match given.get("key") {
        Some(word) => word.to_owned(),
        None => new_key()?,
    };
    let key = Key::new(&word)
        .ok_or_else(|| Failure::Usage(format!("--key: has less than {SHORTEST} letters")))?;
    let port = given.parsed("port")?.unwrap_or(10810_u16);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .map_err(failed(&format!("port {port}")))?;
    let sockets = std::env::temp_dir().join(format!("bellwether-p2v-{}", new_key()?));
    fs::create_dir(&sockets).map_err(failed(&sockets.to_string_lossy()))?;
    let here =
        interface(None).map_or_else(|_| "THIS-COMPUTER".to_owned(), |i| i.address.to_string());
    let at = if port == 10810 { String::new() } else { format!(":{port}") };
    eprintln!("p2v-server: waits at port {port}; images go to {} as {format}", dir.display());
    eprintln!(
        "p2v-server: boot the machine with  bw.p2v=p2v://{here}{at} bw.p2v.key={}",
        shown(&word, !given.has("key"))
    );
    let server = Server {
        dir,
        key,
        format,
        sockets,
        count: AtomicUsize::new(0),
        over: AtomicBool::new(false),
        machines: Mutex::default(),
    };
    let done = server.listen(&listener, given.has("once"));
    let _ = fs::remove_dir_all(&server.sockets);
    done
}

/// A key of 26 letters: 130 bits.
fn new_key() -> Result<String, Failure> {
    let bytes: [u8; 26] = random()?;
    let letters = b"abcdefghijkmnpqrstuvwxyz23456789";
    Ok(bytes.iter().filter_map(|b| letters.get(usize::from(b % 32))).map(|b| *b as char).collect())
}

/// What has no way back to the machine but its own words.
type Told<T> = Result<T, String>;

fn named<T, E: std::fmt::Display>(what: &Path, result: Result<T, E>) -> Told<T> {
    result.map_err(|e| format!("{}: {e}", what.display()))
}

impl Server {
    fn listen(&self, listener: &TcpListener, once: bool) -> Result<(), Failure> {
        let own = listener.local_addr().map(|address| (Ipv4Addr::LOCALHOST, address.port()));
        std::thread::scope(|scope| {
            for tcp in listener.incoming() {
                if self.over.load(Ordering::SeqCst) {
                    return;
                }
                // A connection that ended before it was taken is no reason to end.
                let Ok(tcp) = tcp else { continue };
                let Ok(peer) = tcp.peer_addr() else { continue };
                if self.count.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS {
                    self.count.fetch_sub(1, Ordering::SeqCst);
                    eprintln!("p2v-server: {peer}: too many connections");
                    continue;
                }
                let own = own.as_ref().ok().copied();
                scope.spawn(move || {
                    let done = self.serve(&tcp, peer);
                    let _ = tcp.shutdown(Shutdown::Both);
                    self.count.fetch_sub(1, Ordering::SeqCst);
                    if done && once {
                        self.over.store(true, Ordering::SeqCst);
                        // The listener wakes up, and sees it.
                        let _ = own.map(TcpStream::connect);
                    }
                });
            }
        });
        Ok(())
    }

    fn machines(&self) -> MutexGuard<'_, BTreeMap<String, Machine>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One connection; whether a machine is there now.
    fn serve(&self, tcp: &TcpStream, peer: SocketAddr) -> bool {
        let (ask, mut sealer, mut opener) = match self.greet(tcp) {
            Ok(asked) => asked,
            Err(why) => {
                eprintln!("p2v-server: {peer}: {why}");
                return false;
            }
        };
        let done = match &ask {
            Ask::Disk { run, guest, disk, size } => {
                self.fill(tcp, (&mut sealer, &mut opener), [run, guest, disk], *size, peer)
            }
            Ask::Done { run, guest } => self.finish(run, guest).map(Some),
        };
        let (answer, there) = match done {
            Ok(None) => return false,
            Ok(Some(text)) => {
                eprintln!("p2v-server: {peer}: {text}");
                (format!("ok {text}\n"), true)
            }
            Err(why) => {
                eprintln!("p2v-server: {peer}: {why}");
                (format!("the server: {why}\n"), false)
            }
        };
        let mut to = tcp;
        let _ = to.write_all(&sealer.seal(answer.as_bytes()));
        there
    }

    /// What the other end wants; it has shown that it has the key.
    fn greet(&self, tcp: &TcpStream) -> Told<(Ask, Sealer, Opener)> {
        let silent = |e: io::Error| format!("sent no greeting of a machine: {e}");
        let end = Instant::now() + GREETING;
        let patience =
            || end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let (mut from, mut to) = (tcp, tcp);
        tcp.set_nodelay(true).map_err(silent)?;
        tcp.set_write_timeout(Some(SILENCE)).map_err(silent)?;
        let own: Nonce = random().map_err(|e| e.to_string())?;
        to.write_all(&seal::hello(&own)).map_err(silent)?;
        let mut read = |room: &mut [u8]| -> Told<usize> {
            tcp.set_read_timeout(Some(patience())).map_err(silent)?;
            match from.read(room).map_err(silent)? {
                0 => Err("ended before it said what it wants".to_owned()),
                n => Ok(n),
            }
        };
        let (mut hello, mut done) = ([0; seal::HELLO], 0);
        while let Some(rest) = hello.get_mut(done..).filter(|rest| !rest.is_empty()) {
            done += read(rest)?;
        }
        let nonce = seal::peer(&hello).ok_or("is no machine of ours: nothing is sent to it")?;
        let (sealer, mut opener) = seal::pair(&self.key, &own, &nonce, false);
        let mut room = [0; 4 << 10];
        let text = loop {
            match opener.open() {
                Err(seal::Forged) => return Err("has another key: refused".to_owned()),
                Ok(Some(text)) => break text,
                Ok(None) => {
                    let length = read(&mut room)?;
                    opener.push(room.get(..length).unwrap_or_default());
                }
            }
        };
        if text.len() > MOST {
            return Err("says too much".to_owned());
        }
        let text = String::from_utf8(text).map_err(|_| "says no text")?;
        tcp.set_read_timeout(Some(SILENCE)).map_err(silent)?;
        Ok((Ask::parse(&text)?, sealer, opener))
    }

    /// The file of a disk, whole or not.
    fn file(&self, guest: &str, disk: &str, whole: bool) -> PathBuf {
        let part = if whole { "" } else { ".part" };
        self.dir.join(format!("{guest}-{disk}.{}{part}", self.format))
    }

    /// Takes the place of a disk: nothing else writes to its image.
    fn claim(
        &self,
        tcp: &TcpStream,
        [run, guest, disk]: [&str; 3],
        size: u64,
    ) -> Told<Arc<Mutex<()>>> {
        let xml = self.dir.join(format!("{guest}.xml"));
        for there in [self.file(guest, disk, true), xml] {
            if fs::symlink_metadata(&there).is_ok() {
                return Err(format!(
                    "{} is there, and none is overwritten; move it, or give another p2v.name",
                    there.display()
                ));
            }
        }
        let mut machines = self.machines();
        let idle = |machine: &Machine| machine.disks.values().all(|slot| slot.tcp.is_none());
        if machines.get(guest).is_some_and(|known| known.run != *run && !idle(known)) {
            return Err(format!(
                "another machine that is called {guest} is sending; give another p2v.name"
            ));
        }
        if machines.get(guest).is_none_or(|known| known.run != *run) {
            if machines.len() >= MACHINES {
                let old = machines.iter().find(|(_, machine)| idle(machine));
                let old = old.map(|(name, _)| name.clone()).ok_or("too many machines at once")?;
                machines.remove(&old);
            }
            machines
                .insert(guest.to_owned(), Machine { run: run.to_owned(), ..Machine::default() });
        }
        let machine = machines.entry(guest.to_owned()).or_default();
        if machine.disks.len() >= 64 && !machine.disks.contains_key(disk) {
            return Err("too many disks".to_owned());
        }
        let slot = machine.disks.entry(disk.to_owned()).or_default();
        if slot.size != 0 && slot.size != size {
            return Err(format!("{disk} had {} bytes before", slot.size));
        }
        // A connection of before that is not known to be cut yet.
        if let Some(old) = &slot.tcp {
            let _ = old.shutdown(Shutdown::Both);
        }
        slot.tcp = tcp.try_clone().ok();
        let new = slot.size == 0;
        slot.size = size;
        let busy = slot.busy.clone();
        drop(machines);
        if new {
            let part = self.file(guest, disk, false);
            let _ = fs::remove_file(&part);
            named(&part, File::create_new(&part))?;
            let mut create = Command::new("qemu-img");
            create.args(["create", "-q", "-f", self.format]).arg(&part).arg(size.to_string());
            let out = named(&part, create.output())?;
            if !out.status.success() {
                let _ = fs::remove_file(&part);
                let text = String::from_utf8_lossy(&out.stderr);
                return Err(text.lines().last().unwrap_or("qemu-img failed").to_owned());
            }
        }
        Ok(busy)
    }

    /// Carries bytes between the machine and qemu-nbd.
    fn fill(
        &self,
        tcp: &TcpStream,
        (sealer, opener): (&mut Sealer, &mut Opener),
        names: [&String; 3],
        size: u64,
        peer: SocketAddr,
    ) -> Told<Option<String>> {
        let names = names.map(String::as_str);
        let [_, guest, disk] = names;
        let busy = self.claim(tcp, names, size)?;
        let _busy = busy.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self.carry(tcp, (sealer, opener), names, peer);
        let own = tcp.peer_addr().ok();
        if let Some(slot) = self.machines().get_mut(guest).and_then(|m| m.disks.get_mut(disk)) {
            // Not that of a newer connection.
            let is = slot.tcp.as_ref().and_then(|tcp| tcp.peer_addr().ok());
            if is.is_none() || is == own || own.is_none() {
                slot.tcp = None;
                slot.failed = done.as_ref().err().cloned();
            }
        }
        done.map(|()| None)
    }

    fn carry(
        &self,
        tcp: &TcpStream,
        (sealer, opener): (&mut Sealer, &mut Opener),
        [_, guest, disk]: [&str; 3],
        peer: SocketAddr,
    ) -> Told<()> {
        let socket = self.sockets.join(format!("{}", peer.port()));
        let mut nbd = Nbd::start(&socket, self.format, &self.file(guest, disk, false))?;
        let unix = nbd.connect()?;
        eprintln!("p2v-server: {peer}: {guest}: {disk} comes");
        let mut to = tcp;
        let _ = to.write_all(&sealer.seal(b"ok go\n"));
        std::thread::scope(|scope| {
            let back = scope.spawn(|| {
                let (mut from, mut room) = (&unix, vec![0; seal::MOST]);
                while let Ok(length @ 1..) = from.read(&mut room) {
                    let sealed = sealer.seal(room.get(..length).unwrap_or_default());
                    if to.write_all(&sealed).is_err() {
                        break;
                    }
                }
                // Neither way goes on alone.
                let _ = tcp.shutdown(Shutdown::Both);
            });
            forward(tcp, opener, &unix);
            let _ = unix.shutdown(Shutdown::Both);
            let _ = back.join();
        });
        drop(unix);
        nbd.end()
    }

    /// All disks are there: they get their names, and a description.
    fn finish(&self, run: &str, guest: &Guest) -> Told<String> {
        let name = &guest.name;
        let xml = self.dir.join(format!("{name}.xml"));
        for (disk, _) in &guest.disks {
            let of = |server: &Self| -> Told<(Arc<Mutex<()>>, Option<String>)> {
                let machines = server.machines();
                let known = machines.get(name).filter(|known| known.run == run);
                let known = known.ok_or_else(|| format!("no disk of {name} came in this run"))?;
                let slot = known.disks.get(disk).ok_or_else(|| format!("{disk} did not come"))?;
                Ok((slot.busy.clone(), slot.failed.clone()))
            };
            // The machine's end of the connection is closed; qemu-nbd may still write.
            drop(of(self)?.0.lock().unwrap_or_else(PoisonError::into_inner));
            if let (_, Some(why)) = of(self)? {
                return Err(format!("{disk}: {why}"));
            }
        }
        let mut files = Vec::new();
        for (disk, sum) in &guest.disks {
            let (part, whole) = (self.file(name, disk, false), self.file(name, disk, true));
            // A link does not replace a file; a rename does.
            named(&whole, fs::hard_link(&part, &whole))?;
            named(&part, fs::remove_file(&part))?;
            eprintln!("p2v-server: {}: a disk with sha256 {sum}", whole.display());
            files.push(whole.to_string_lossy().into_owned());
        }
        let kvm = File::options().read(true).write(true).open("/dev/kvm").is_ok();
        let text = guest.libvirt(if kvm { "kvm" } else { "qemu" }, self.format, &files);
        let written = File::create_new(&xml).and_then(|mut file| file.write_all(text.as_bytes()));
        named(&xml, written)?;
        self.machines().remove(name);
        Ok(format!("{name} is there; virsh define {}", xml.display()))
    }
}

/// Opens what the machine sends, and hands it on.
fn forward(mut tcp: &TcpStream, opener: &mut Opener, mut unix: &UnixStream) {
    let mut room = vec![0; seal::MOST];
    loop {
        match opener.open() {
            Err(seal::Forged) => return eprintln!("p2v-server: a frame was changed on the way"),
            Ok(Some(bytes)) => {
                if unix.write_all(&bytes).is_err() {
                    return;
                }
            }
            Ok(None) => match tcp.read(&mut room) {
                Ok(length @ 1..) => opener.push(room.get(..length).unwrap_or_default()),
                _ => return,
            },
        }
    }
}

/// A qemu-nbd for one connection: it ends with it.
struct Nbd {
    child: Child,
    socket: PathBuf,
}

impl Nbd {
    fn start(socket: &Path, format: &str, file: &Path) -> Told<Self> {
        let _ = fs::remove_file(socket);
        let mut command = Command::new("qemu-nbd");
        command.args(["--discard=unmap", "--cache=writeback", "-f", format, "-k"]);
        let child = command.arg(socket).arg(file).stdin(Stdio::null()).spawn();
        Ok(Self { child: named(Path::new("qemu-nbd"), child)?, socket: socket.to_owned() })
    }

    /// The connection, once it listens.
    fn connect(&mut self) -> Told<UnixStream> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Ok(unix) = UnixStream::connect(&self.socket) {
                return Ok(unix);
            }
            let ended = matches!(self.child.try_wait(), Ok(Some(_)) | Err(_));
            if ended || Instant::now() > end {
                return Err("qemu-nbd does not begin: its own words are above".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until it has written everything.
    fn end(mut self) -> Told<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("qemu-nbd: {status}")),
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
                _ => return Err("qemu-nbd does not end".to_owned()),
            }
        }
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}
