//! The edge against programs that none of us wrote: nbdcopy, nbdinfo, qemu-img and nbdkit
//! read our server, qemu-nbd and nbdkit are filled, nc listens, OpenSSH and Dropbear carry an
//! archive and a conversion. What is not installed is passed over, and said.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::expect_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use netboot::nbd::wire::{self, Request};
use p2v::edge::{self, BadSectors, Disk, Login, Order, Server, World};
use p2v::extents::Extents;

mod relay;
use relay::cutting;

const MIB: u64 = 1 << 20;

/// A user who reads along, and may have had enough.
#[derive(Default)]
struct Watcher {
    told: Vec<String>,
    output: Vec<String>,
    done: u64,
    again: u64,
    stop_at: Option<u64>,
    stop_on: Option<&'static str>,
}

impl World for Watcher {
    fn say(&mut self, text: &str) {
        self.told.push(text.into());
    }
    fn output(&mut self, line: &str) {
        self.output.push(line.into());
    }
    fn progress(&mut self, done: u64, total: u64) {
        assert!(done <= total, "{done} of {total}");
        self.done = done;
    }
    fn reads_back(&mut self) {
        self.told.push("reads back".into());
    }
    fn served(&mut self, fresh: u64, total: u64, again: u64) {
        assert!(fresh <= total, "{fresh} of {total}");
        (self.done, self.again) = (fresh, again);
    }
    fn go_on(&mut self) -> bool {
        let line = |text: &&str| self.output.iter().any(|line| line.contains(*text));
        self.stop_at.is_none_or(|at| self.done < at) && !self.stop_on.is_some_and(|t| line(&t))
    }
}

fn have(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let there =
        path.split(':').chain(["/usr/sbin"]).any(|dir| Path::new(dir).join(program).exists());
    if !there {
        eprintln!("passed over: {program} is not here");
    }
    there
}

/// A sparse image of `size` bytes with data at some places, and its map.
fn image(dir: &Path, size: u64) -> (PathBuf, Extents) {
    let path = dir.join("disk.img");
    let file = fs::File::create(&path).unwrap();
    file.set_len(size).unwrap();
    let ranges = [0..65536, 10 * MIB..13 * MIB, size / 2..size / 2 + 4096, size - 4096..size];
    for range in &ranges {
        let bytes: Vec<u8> = (range.start..range.end).map(|at| ((at * 7) >> 3) as u8 | 1).collect();
        file.write_all_at(&bytes, range.start).unwrap();
    }
    (path, Extents::new(size, ranges))
}

fn sha256(path: &Path) -> String {
    let out = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8_lossy(&out.stdout).split(' ').next().unwrap().to_owned()
}

fn ok(command: &mut Command) -> String {
    let out = command.output().unwrap();
    let both =
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command:?}: {both}");
    both
}

/// Ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves the disk until dropped; the bytes that were sent come back.
struct Serving {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Serving {
    fn of(disk: Disk) -> Self {
        let mut server = Server::open(disk).unwrap();
        let (port, stop) = (server.port, Arc::new(AtomicBool::new(false)));
        let until = stop.clone();
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                server.wait();
                server.go_on();
            }
            server.sent
        });
        Self { port, stop, thread: Some(thread) }
    }

    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn open(path: &Path, map: &Extents) -> Disk {
    Disk::open(path.to_str().unwrap(), Some(map.clone()), BadSectors::Fail).unwrap()
}

#[test]
fn clients_of_others_copy_the_used_bytes_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = image(dir.path(), 64 * MIB);
    let digest = sha256(&path);
    let copy = dir.path().join("copy.img");
    type Args<'a> = &'a dyn Fn(u16) -> Vec<String>;
    let commands: [(&str, Args<'_>); 3] = [
        ("nbdcopy", &|port| vec![format!("nbd://localhost:{port}"), copy.display().to_string()]),
        ("qemu-img", &|port| {
            let from = format!("nbd://localhost:{port}");
            ["convert", "-f", "raw", "-O", "raw", &from, copy.to_str().unwrap()]
                .map(String::from)
                .into()
        }),
        // The client inside of virt-v2v, with its filter.
        ("nbdkit", &|port| {
            let run = format!("nbdcopy \"$uri\" {}", copy.display());
            let port = format!("port={port}");
            [
                "-U",
                "-",
                "--exit-with-parent",
                "--filter=cow",
                "nbd",
                "hostname=localhost",
                &port,
                "shared=true",
                "--run",
                &run,
            ]
            .map(String::from)
            .into()
        }),
    ];
    for (program, args) in commands {
        if !have(program) {
            continue;
        }
        let _ = fs::remove_file(&copy);
        let serving = Serving::of(open(&path, &map));
        ok(Command::new(program).args(args(serving.port)));
        let sent = serving.end();
        assert_eq!(sha256(&copy), digest, "{program}");
        let most = map.used_bytes() * 11 / 10;
        assert!(sent <= most, "{program}: {sent} of {} used", map.used_bytes());
        println!("{program}: {sent} bytes for {} used", map.used_bytes());
    }
    if have("nbdinfo") {
        let serving = Serving::of(open(&path, &map));
        let text = ok(Command::new("nbdinfo").arg(format!("nbd://localhost:{}", serving.port)));
        assert!(text.contains("is_read_only: true") && text.contains("base:allocation"), "{text}");
        let totals = ok(Command::new("nbdinfo")
            .args(["--map", "--totals"])
            .arg(format!("nbd://localhost:{}", serving.port)));
        assert!(totals.contains(&map.used_bytes().to_string()), "{totals}");
        serving.end();
    }
    // Nothing of that changed the disk.
    assert_eq!(sha256(&path), digest);
}

/// No name is resolved on the way: the machine has no list of hosts. Through a tunnel to
/// `localhost` virt-v2v met a closed connection there.
#[test]
fn the_client_is_given_addresses_alone() {
    let dir = tempfile::tempdir().unwrap();
    let told = dir.path().join("told");
    let client = dir.path().join("client");
    fs::write(&client, format!("#!/bin/sh\necho \"$*\" > {}\n", told.display())).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&client, mode).unwrap();
    let (path, map) = image(dir.path(), 16 * MIB);
    let login = Login {
        program: client.to_str().unwrap(),
        host: "127.0.0.1",
        user: "root",
        port: 22,
        ..Login::default()
    };
    edge::convert(&mut Watcher::default(), &login, &order(), vec![open(&path, &map)]).unwrap_err();
    let told = fs::read_to_string(told).unwrap();
    assert!(told.contains(" -R 0:127.0.0.1:") && !told.contains("localhost"), "{told}");
}

/// A port that is free.
fn free() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn until(what: &str, is: impl Fn() -> bool) {
    for _ in 0..1000 {
        if is() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{what} never came");
}

fn listens(port: u16) -> bool {
    let port = format!(":{port:04X} ");
    fs::read_to_string("/proc/net/tcp")
        .unwrap()
        .lines()
        .any(|line| line.contains(&port) && line.contains(" 0A "))
}

fn qemu_nbd(port: u16, file: &Path, format: &str, more: &[&str]) -> Killed {
    let mut command = Command::new("qemu-nbd");
    command
        .args(["-t", "-f", format, "-b", "127.0.0.1", "-p", &port.to_string()])
        .args(more)
        .arg(file);
    let killed = Killed(command.spawn().unwrap());
    until("qemu-nbd", || listens(port));
    killed
}

fn local(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

#[test]
fn qemu_nbd_and_nbdkit_are_filled_and_read_back() {
    if !have("qemu-nbd") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = image(dir.path(), 64 * MIB);
    let digest = sha256(&path);
    let copy = dir.path().join("copy");
    for format in ["qcow2", "raw"] {
        ok(Command::new("qemu-img").args(["create", "-f", format]).arg(&copy).arg("64M"));
        if format == "raw" {
            // What was there before must not shine through.
            fs::write(&copy, vec![0xaa; 64 << 20]).unwrap();
        }
        let port = free();
        let _server = qemu_nbd(port, &copy, format, &[]);
        let arrived =
            edge::fill(&mut Watcher::default(), &mut open(&path, &map), local(port), "").unwrap();
        assert_eq!((arrived.sha256.as_str(), arrived.compared), (digest.as_str(), true));
        assert!(arrived.sent <= map.used_bytes(), "{arrived:?}");
        drop(_server);
        let flat = dir.path().join("flat");
        ok(Command::new("qemu-img")
            .args(["convert", "-f", format, "-O", "raw"])
            .args([&copy, &flat]));
        assert_eq!(sha256(&flat), digest, "{format}");
        fs::remove_file(&copy).unwrap();
    }
    if have("nbdkit") {
        let port = free();
        let mut kit = Command::new("nbdkit");
        kit.args(["-f", "-i", "127.0.0.1", "-p", &port.to_string(), "memory", "64M"]);
        let _kit = Killed(kit.spawn().unwrap());
        until("nbdkit", || listens(port));
        let arrived =
            edge::fill(&mut Watcher::default(), &mut open(&path, &map), local(port), "").unwrap();
        assert_eq!(arrived.sha256, digest);
    }
}

#[test]
fn a_disk_at_the_server_that_cannot_take_it_is_said() {
    if !have("qemu-nbd") || !have("nbdkit") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = image(dir.path(), 64 * MIB);
    let small = dir.path().join("small");
    ok(Command::new("qemu-img").args(["create", "-f", "raw"]).arg(&small).arg("8M"));
    let fill = |port| {
        edge::fill(&mut Watcher::default(), &mut open(&path, &map), local(port), "")
            .unwrap_err()
            .to_string()
    };
    let port = free();
    let server = qemu_nbd(port, &small, "raw", &[]);
    let why = fill(port);
    assert!(why.contains("8388608 bytes") && why.contains("qemu-img create"), "{why}");
    drop(server);
    let _server = qemu_nbd(port, &small, "raw", &["-r"]);
    assert!(fill(port).contains("read only"));
    let none = fill(free());
    assert!(none.contains("qemu-nbd -t"), "{none}");
    let port = free();
    let mut kit = Command::new("nbdkit");
    kit.args([
        "-f",
        "-i",
        "127.0.0.1",
        "-p",
        &port.to_string(),
        "--filter=error",
        "memory",
        "64M",
        "error-pwrite=ENOSPC",
        "error-pwrite-rate=100%",
    ]);
    let _kit = Killed(kit.spawn().unwrap());
    until("nbdkit", || listens(port));
    let full = fill(port);
    assert!(full.contains("the server's disk is full"), "{full}");
}

#[test]
fn a_cut_connection_goes_on() {
    if !have("qemu-nbd") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = image(dir.path(), 64 * MIB);
    let copy = dir.path().join("copy");
    ok(Command::new("qemu-img").args(["create", "-f", "raw"]).arg(&copy).arg("64M"));
    let port = free();
    let _server = qemu_nbd(port, &copy, "raw", &["-e", "4"]);
    let mut watcher = Watcher::default();
    let way = cutting(port, 2 << 20, false);
    let arrived = edge::fill(&mut watcher, &mut open(&path, &map), local(way), "").unwrap();
    assert_eq!(arrived.sha256, sha256(&path));
    assert_eq!(sha256(&copy), sha256(&path));
    assert!(watcher.told.iter().any(|text| text.contains("connecting anew")), "{:?}", watcher.told);
}

/// What a server that lies does with a request.
type Lie = fn(&Request, &mut [u8], &mut Liar, &mut TcpStream);

/// What it remembers.
#[derive(Default)]
struct Liar {
    kept: Option<[u8; 8]>,
    reads: usize,
}

fn says(stream: &mut TcpStream, bytes: &[&[u8]]) {
    let _ = stream.write_all(&bytes.concat());
}

fn as_it_is(request: &Request, disk: &mut [u8], _: &mut Liar, stream: &mut TcpStream) {
    let at = request.offset as usize..request.offset as usize + request.length as usize;
    match request.command {
        wire::Command::Write => stream.read_exact(&mut disk[at]).unwrap(),
        wire::Command::Read => {
            return says(stream, &[&wire::simple(None, request.cookie), &disk[at]]);
        }
        wire::Command::Zeroes => disk[at].fill(0),
        _ => {}
    }
    says(stream, &[&wire::simple(None, request.cookie)]);
}

/// An NBD server of a disk in memory that lies. It serves its clients one after another.
fn liar(size: u64, lie: Lie) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut disk = vec![0; size as usize];
        for stream in listener.incoming() {
            let (mut stream, mut liar) = (stream.unwrap(), Liar::default());
            says(&mut stream, &[&wire::greeting()]);
            let mut flags = [0; 4];
            let _ = stream.read_exact(&mut flags);
            let mut head = [0; 16];
            let _ = stream.read_exact(&mut head);
            let length = u32::from_be_bytes(head[12..].try_into().unwrap());
            let _ = stream.read_exact(&mut vec![0; length as usize]);
            let go = wire::option::GO;
            let flags = wire::flag::HAS_FLAGS | wire::flag::ZEROES;
            let export = wire::inform(go, wire::info::EXPORT, &wire::described(size, flags));
            says(&mut stream, &[&export, &wire::answer(go, wire::reply::ACK, &[])]);
            let mut bytes = [0; wire::REQUEST];
            while stream.read_exact(&mut bytes).is_ok()
                && let Some(request) = Request::read(&bytes)
            {
                lie(&request, &mut disk, &mut liar, &mut stream);
            }
        }
    });
    port
}

/// Whatever an NBD server says, no disk is called copied that was not, nothing hangs, and the
/// memory does not fill.
#[test]
fn a_server_that_lies_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = image(dir.path(), 32 * MIB);
    let lies: [(&str, Lie, &str); 5] = [
        (
            "drops writes",
            |request, disk, liar, stream| {
                let before = disk.to_vec();
                as_it_is(request, disk, liar, stream);
                disk.copy_from_slice(&before);
            },
            "has another digest",
        ),
        (
            "changes a byte when it is read",
            |request, disk, liar, stream| {
                liar.reads += usize::from(request.command == wire::Command::Read);
                disk[11 << 20] ^= u8::from(liar.reads == 3);
                as_it_is(request, disk, liar, stream);
            },
            "has another digest",
        ),
        (
            "answers what was not asked",
            |request, _, _, stream| {
                if request.command == wire::Command::Read {
                    return says(stream, &[&wire::simple(None, *b"no such ")]);
                }
                as_it_is(request, &mut vec![0; 32 << 20], &mut Liar::default(), stream);
            },
            "breaks the protocol",
        ),
        (
            "says that its disk is full",
            |request, _, _, stream| {
                if request.command == wire::Command::Write {
                    stream.read_exact(&mut vec![0; request.length as usize]).unwrap();
                }
                says(stream, &[&wire::simple(Some(wire::Failure::NoSpace), request.cookie)]);
            },
            "the server's disk is full",
        ),
        (
            "cuts each connection",
            |_, _, _, stream| {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            },
            "the messages there say why",
        ),
    ];
    for (what, lie, told) in lies {
        let mut watcher = Watcher::default();
        let to = local(liar(32 * MIB, lie));
        let trouble = edge::fill(&mut watcher, &mut open(&path, &map), to, "").unwrap_err();
        let text = trouble.to_string();
        assert!(text.contains(told), "{what}: {text}");
        println!("{what}: {text}");
        assert!(!watcher.told.iter().any(|text| text.contains("verified")), "{what}");
    }
}

/// A server that answers all reads but the first one is not asked for the whole disk meanwhile:
/// what came too early is kept in memory.
#[test]
fn answers_out_of_order_do_not_fill_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    let size = 40 * MIB;
    fs::write(&path, vec![7; size as usize]).unwrap();
    let port = liar(size, |request, disk, liar, stream| {
        if request.command != wire::Command::Read {
            return as_it_is(request, disk, liar, stream);
        }
        liar.reads += 1;
        match (liar.reads, liar.kept) {
            (1, _) => liar.kept = Some(request.cookie),
            // The client waits for the first one now.
            (16, Some(first)) => {
                as_it_is(request, disk, liar, stream);
                stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                assert!(stream.peek(&mut [0]).is_err(), "it asks for more");
                stream.set_read_timeout(None).unwrap();
                as_it_is(&Request { cookie: first, offset: 0, ..*request }, disk, liar, stream);
                liar.kept = None;
            }
            _ => as_it_is(request, disk, liar, stream),
        }
    });
    let map = Extents::whole(size);
    let mut disk = open(&path, &map);
    let arrived = edge::fill(&mut Watcher::default(), &mut disk, local(port), "").unwrap();
    assert_eq!(arrived.sha256, sha256(&path));
}

#[test]
fn nc_gets_the_whole_disk() {
    if !have("nc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = image(dir.path(), 20 * MIB);
    let copy = dir.path().join("copy");
    let port = free();
    let mut nc = Command::new("nc");
    nc.args(["-l", "127.0.0.1", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(fs::File::create(&copy).unwrap());
    let mut nc = nc.spawn().unwrap();
    until("nc", || listens(port));
    let arrived =
        edge::stream(&mut Watcher::default(), &mut open(&path, &map), local(port)).unwrap();
    assert!(nc.wait().unwrap().success());
    assert_eq!((arrived.sha256.as_str(), arrived.compared), (sha256(&path).as_str(), false));
    assert_eq!(sha256(&copy), arrived.sha256);
    let why =
        edge::stream(&mut Watcher::default(), &mut open(&path, &map), local(port)).unwrap_err();
    assert!(why.to_string().contains("nc -l"), "{why}");
}

#[test]
fn a_bad_sector_is_named_and_may_be_passed_over() {
    if !have("nbdkit") || !have("nbdcopy") || !have("qemu-nbd") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = image(dir.path(), 32 * MIB);
    // A file that is shorter than it was fails where it ends.
    let cut = |policy| {
        let disk = Disk::open(path.to_str().unwrap(), Some(map.clone()), policy).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(11 * MIB).unwrap();
        disk
    };
    let serving = Serving::of(cut(BadSectors::Fail));
    let copy = dir.path().join("copy");
    let out = Command::new("nbdcopy")
        .arg(format!("nbd://localhost:{}", serving.port))
        .arg(&copy)
        .output()
        .unwrap();
    assert!(!out.status.success());
    serving.end();
    fs::File::options().write(true).open(&path).unwrap().set_len(32 * MIB).unwrap();
    let mut disk = cut(BadSectors::Zero);
    let port = free();
    ok(Command::new("qemu-img").args(["create", "-f", "raw"]).arg(&copy).arg("32M"));
    let _server = qemu_nbd(port, &copy, "raw", &[]);
    let arrived = edge::fill(&mut Watcher::default(), &mut disk, local(port), "").unwrap();
    let list = disk.bad_list().unwrap();
    assert!(list.contains(&format!("at bytes {}-", 11 * MIB)), "{list}");
    assert_eq!(arrived.sha256, sha256(&copy));
}

/// A real OpenSSH server on loopback, and a user's password or key. Needs root.
struct Sshd {
    _dir: tempfile::TempDir,
    _daemon: Killed,
    port: u16,
    key: PathBuf,
    print: String,
    home: PathBuf,
}

impl Sshd {
    fn start(more: &str) -> Option<Self> {
        Self::without(more, None)
    }

    /// Without the programs of these paths, each a line.
    fn without(more: &str, hidden: Option<String>) -> Option<Self> {
        let root = fs::metadata("/proc/self").unwrap().uid() == 0;
        if !root || !have("sshd") || !have("dbclient") || !have("ssh-keygen") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path();
        for name in ["host", "id"] {
            ok(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(place.join(name)));
        }
        let key = p2v::key::for_dropbear(&fs::read(place.join("id")).unwrap()).unwrap();
        fs::write(place.join("id.db"), key).unwrap();
        let port = free();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nPidFile none\nUsePAM no\n\
             PermitRootLogin yes\nStrictModes no\nAuthorizedKeysFile {0}/id.pub\n\
             SetEnv PATH={0}/bin:/usr/bin:/bin\n{more}\n",
            place.display()
        );
        fs::write(place.join("config"), config).unwrap();
        fs::create_dir_all("/run/sshd").unwrap();
        fs::create_dir(place.join("bin")).unwrap();
        let mut sshd = Command::new("/usr/sbin/sshd");
        if let Some(paths) = hidden {
            fs::write(place.join("hidden"), paths).unwrap();
            let start = "while read -r path; do mount --bind /dev/null \"$path\"; done < \"$0\"; \
                         exec /usr/sbin/sshd \"$@\"";
            sshd = Command::new("unshare");
            sshd.args(["--mount", "--", "sh", "-c", start]).arg(place.join("hidden"));
        }
        sshd.args(["-D", "-e", "-f"])
            .arg(place.join("config"))
            .stderr(fs::File::create(place.join("log")).unwrap());
        let daemon = Killed(sshd.spawn().unwrap());
        until("sshd", || listens(port));
        let shown = ok(Command::new("ssh-keygen").arg("-lf").arg(place.join("host.pub")));
        let print = shown.split(' ').nth(1).unwrap().to_owned();
        Some(Self {
            port,
            key: place.join("id.db"),
            print,
            home: place.to_owned(),
            _dir: dir,
            _daemon: daemon,
        })
    }

    fn login(&self) -> Login<'_> {
        Login {
            program: "/usr/bin/dbclient",
            host: "127.0.0.1",
            port: self.port,
            user: "root",
            key: self.key.to_str(),
            pin: Some(&self.print),
            ..Login::default()
        }
    }

    /// OpenSSH's client instead, with its helpers as scripts.
    fn openssh(&self) -> Option<Login<'_>> {
        if !have("ssh") {
            return None;
        }
        self.program(
            "judge",
            "#!/bin/sh\n[ \"$3\" = NONE ] && exit 0\necho \"p2v-host-key $4\" >&2\n\
             if [ \"$5\" = any ] || [ \"$5\" = \"$4\" ]; then echo \"$1 $2 $3\"; fi\n",
        );
        self.program("askpass", "#!/bin/sh\necho S3cret\n");
        let path = |name: &str| {
            let path = self.home.join(name).to_str().unwrap().to_owned();
            &*Box::leak(path.into_boxed_str())
        };
        Some(Login {
            program: "/usr/bin/ssh",
            judge: path("bin/judge"),
            askpass: path("bin/askpass"),
            key: Some(path("id")),
            ..self.login()
        })
    }

    /// Puts a program where the login finds it first.
    fn program(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.home.join("bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn tar_at_the_other_end_of_ssh_makes_a_sparse_file() {
    let Some(sshd) = Sshd::start("AllowTcpForwarding no") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = image(dir.path(), 64 * MIB);
    let place = dir.path().join("images");
    fs::create_dir(&place).unwrap();
    let to = (place.to_str().unwrap(), "web01-sda.img");
    let mut watcher = Watcher::default();
    let arrived = edge::archive(&mut watcher, &sshd.login(), &mut open(&path, &map), to).unwrap();
    let file = place.join("web01-sda.img");
    assert_eq!((arrived.sha256.as_str(), arrived.compared), (sha256(&file).as_str(), true));
    assert_eq!(arrived.sha256, sha256(&path));
    let stored = fs::metadata(&file).unwrap().blocks() * 512;
    assert!(
        stored <= map.used_bytes() + 65536 && arrived.sent <= map.used_bytes() + 65536,
        "{stored} {arrived:?}"
    );
    assert!(watcher.told[0].contains("the host key that the line asks for"), "{:?}", watcher.told);
    // Again: it is there. Elsewhere: there is no such directory. To a full disk: it says so.
    let again = |to: (&str, &str)| {
        edge::archive(&mut Watcher::default(), &sshd.login(), &mut open(&path, &map), to)
            .unwrap_err()
            .to_string()
    };
    let why = again(to);
    assert!(why.contains("none is overwritten"), "{why}");
    let why = again(("/nonexistent/a/b", "x"));
    assert!(why.contains("no such directory"), "{why}");
    let full = dir.path().join("full");
    fs::create_dir(&full).unwrap();
    ok(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&full));
    let why = again((full.to_str().unwrap(), "x"));
    let left = fs::read_dir(&full).unwrap().count();
    ok(Command::new("umount").arg(&full));
    assert!(why.contains("a disk of the server is full"), "{why}");
    assert_eq!(left, 0, "what did not fit is taken away");
    // Another host key: nothing is sent.
    let wrong = Login { pin: Some("SHA256:AAAA"), ..sshd.login() };
    let why = edge::archive(&mut Watcher::default(), &wrong, &mut open(&path, &map), (to.0, "y"))
        .unwrap_err()
        .to_string();
    assert!(
        why.contains(&sshd.print)
            && why.contains("SHA256:AAAA")
            && why.contains("nothing was sent"),
        "{why}"
    );
    assert!(!place.join("y").exists());
    // Of a client that takes the key without a question, because it has it from elsewhere.
    sshd.program("knows", "#!/bin/sh\nexec dbclient -y -y \"$@\"\n");
    let program = sshd.home.join("bin/knows");
    let sure = Login { program: program.to_str().unwrap(), ..sshd.login() };
    let why = edge::archive(&mut Watcher::default(), &sure, &mut open(&path, &map), (to.0, "y"));
    assert!(why.unwrap_err().to_string().contains("without asking"));
    assert!(!place.join("y").exists());
    // No pin: the fingerprint is shown.
    let mut watcher = Watcher::default();
    edge::archive(
        &mut watcher,
        &Login { pin: None, ..sshd.login() },
        &mut open(&path, &map),
        (to.0, "z"),
    )
    .unwrap();
    assert!(
        watcher.told[0].contains(&sshd.print) && watcher.told[0].contains("NOT CHECKED"),
        "{:?}",
        watcher.told
    );
}

#[test]
fn openssh_s_client_is_one_too() {
    let Some(sshd) = Sshd::start("PasswordAuthentication yes") else { return };
    let Some(login) = sshd.openssh() else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let (path, map) = image(dir.path(), 64 * MIB);
    let send = |login: &Login<'_>, name: &str| {
        let to = (dir.path().to_str().unwrap(), name);
        let mut watcher = Watcher::default();
        let done = edge::archive(&mut watcher, login, &mut open(&path, &map), to);
        (done, watcher.told)
    };
    let (done, told) = send(&login, "a");
    assert_eq!(done.unwrap().sha256, sha256(&path));
    assert!(told[0].contains("the host key that the line asks for"), "{told:?}");
    let (done, told) = send(&Login { pin: None, ..login.clone() }, "b");
    assert!(done.is_ok() && told[0].contains("NOT CHECKED"), "{told:?}");
    assert!(told[0].contains(&sshd.print), "{told:?}");
    let why = |login: Login<'_>| send(&login, "c").0.unwrap_err().to_string();
    let other = why(Login { pin: Some("SHA256:AAAA"), ..login.clone() });
    assert!(other.contains(&sshd.print) && other.contains("nothing was sent"), "{other}");
    let password = why(Login { key: None, password: Some("S3cret"), ..login.clone() });
    assert!(password.contains("p2v.password") && !password.contains("S3cret"), "{password}");
    let none = why(Login { port: free(), ..login.clone() });
    assert!(none.contains("no ssh server listens at that port"), "{none}");
    if have("nbdkit") && have("nbdcopy") {
        stand_in(&sshd, out.path(), "exit 0");
        let disks = vec![open(&path, &map), open(&path, &map)];
        let (done, _) = edge::convert(&mut Watcher::default(), &login, &order(), disks).unwrap();
        assert_eq!(sha256(&out.path().join("disk2")), sha256(&path));
        forget(&done.directory);
    }
    let closed = Sshd::start("AllowTcpForwarding no").unwrap();
    let login = closed.openssh().unwrap();
    let disks = vec![open(&path, &map)];
    let why = edge::convert(&mut Watcher::default(), &login, &order(), disks).unwrap_err();
    assert!(why.to_string().contains("AllowTcpForwarding yes"), "{why}");
}

#[test]
fn a_wrong_password_and_an_absent_server_are_said() {
    let Some(sshd) = Sshd::start("PasswordAuthentication yes") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = image(dir.path(), 16 * MIB);
    let fail = |login: Login<'_>| {
        let to = (dir.path().to_str().unwrap(), "x");
        edge::archive(&mut Watcher::default(), &login, &mut open(&path, &map), to)
            .unwrap_err()
            .to_string()
    };
    let why = fail(Login { key: None, password: Some("S3cret"), ..sshd.login() });
    assert!(why.contains("p2v.password") && !why.contains("S3cret"), "{why}");
    let why = fail(Login { port: free(), ..sshd.login() });
    assert!(why.contains("no ssh server listens at that port"), "{why}");
    // Of a key that the server does not take. The client then asks for a password and waits.
    let other = sshd.home.join("other");
    ok(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&other));
    let other = p2v::key::for_dropbear(&fs::read(other).unwrap()).unwrap();
    let path = sshd.home.join("other.db");
    fs::write(&path, other).unwrap();
    let start = std::time::Instant::now();
    let why = fail(Login { key: path.to_str(), ..sshd.login() });
    assert!(why.contains("does not take the key") && why.contains("authorized_keys"), "{why}");
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

/// The password or the key was right: the user is not sent to look at these.
#[test]
fn a_server_that_lets_in_and_runs_nothing_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = image(dir.path(), 16 * MIB);
    let rows = [
        ("ForceCommand kill -9 $PPID", ""),
        ("ForceCommand /bin/false", ""),
        ("ForceCommand echo This account is currently not available.", ": This account is"),
        ("ChrootDirectory /nonexistent", ": safely_chroot: stat(\"/nonexistent\")"),
        ("MaxSessions 0", ""),
    ];
    for (line, says) in rows {
        let Some(sshd) = Sshd::start(line) else { return };
        for login in [Some(sshd.login()), sshd.openssh()].into_iter().flatten() {
            let to = (dir.path().to_str().unwrap(), "x");
            let mut watcher = Watcher::default();
            let archive = edge::archive(&mut watcher, &login, &mut open(&path, &map), to);
            let disks = vec![open(&path, &map)];
            let converts = edge::convert(&mut watcher, &login, &order(), disks);
            for why in [archive.map(drop), converts.map(drop)] {
                let why = why.unwrap_err().to_string();
                eprintln!("{line}, {}: {why}", login.program);
                assert!(why.contains(&format!("ran no command{says}")), "{line}: {why}");
                assert!(why.contains("may run commands there") && !why.contains("p2v.password"));
            }
        }
    }
}

/// What a conversion server does with the disks, without an appliance: it reads them through
/// nbdkit as virt-v2v does, and copies them.
const STAND_IN: &str = r#"#!/bin/sh
[ "$1" = --version ] && { echo "virt-v2v 2.2.0"; exit 0; }
[ "$1" = --machine-readable ] && { printf '%s\n' libguestfs-rewrite output:local output:null; exit 0; }
n=0
for port in $(sed -n 's/.*port="\([0-9]*\)".*/\1/p' physical.xml); do
  n=$((n + 1))
  nbdkit -U - --filter cow nbd hostname=localhost port=$port shared=true --run "nbdcopy \"\$uri\" OUT/disk$n" || exit 5
  echo "copied disk $n"
done
STATUS
"#;

fn stand_in(sshd: &Sshd, out: &Path, last: &str) {
    sshd.program(
        "virt-v2v",
        &STAND_IN.replace("OUT", out.to_str().unwrap()).replace("STATUS", last),
    );
}

fn order() -> Order {
    let mut order = Order { output: "local".into(), ..Order::default() };
    order.domain.name = "web01".into();
    order.domain.arch = "x86_64".into();
    (order.domain.memory_kib, order.domain.vcpus) = (1 << 20, 2);
    order.conversion.args = ["-o", "local", "-os", "/var/tmp"].map(String::from).into();
    order
}

/// A disk, and a server that is to convert it with the programs that virt-v2v reads with.
struct Site {
    sshd: Sshd,
    path: PathBuf,
    map: Extents,
    /// Where its output goes.
    out: tempfile::TempDir,
    dir: tempfile::TempDir,
}

impl Site {
    fn with(size: u64) -> Option<Self> {
        let sshd = Sshd::start("")?;
        if !have("nbdkit") || !have("nbdcopy") {
            return None;
        }
        let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (path, map) = image(dir.path(), size);
        Some(Self { sshd, path, map, out, dir })
    }
}

/// virt-v2v reads for the conversion what it copies afterwards. Once over the network is enough.
#[test]
fn what_a_conversion_reads_twice_travels_once() {
    let Some(Site { sshd, out, path, map, dir: _dir }) = Site::with(64 * MIB) else { return };
    // The whole disk to look at it, then the copy, as virt-v2v announces it.
    let start = STAND_IN.split_once("  nbdkit").unwrap().0;
    let twice = format!(
        "{start}  nbdcopy nbd://localhost:$port null: || exit 4\n  echo '[ 8.7] Copying disk 1/1'\n  \
         nbdcopy nbd://localhost:$port {}/disk$n || exit 5\ndone\n",
        out.path().display()
    );
    sshd.program("virt-v2v", &twice);
    let copy = || {
        let mut watcher = Watcher::default();
        let disks = vec![open(&path, &map)];
        let (done, _) = edge::convert(&mut watcher, &sshd.login(), &order(), disks).unwrap();
        assert_eq!(sha256(&out.path().join("disk1")), sha256(&path));
        assert_eq!(watcher.done, map.used_bytes());
        (done, watcher.again)
    };
    let (done, again) = copy();
    println!("{} bytes for {} used, {again} again", done.sent, map.used_bytes());
    assert!(done.sent <= map.used_bytes() * 11 / 10, "{} of {}", done.sent, map.used_bytes());
    assert_eq!(again, 0);
    // It has ended, too.
    let files = fs::read_dir(&done.directory).unwrap().flatten();
    let names = files.map(|file| file.file_name().into_string().unwrap());
    let pid = names.filter_map(|name| name.strip_prefix("keeper-")?.parse::<u16>().ok()).next();
    let pid = fs::read_to_string(format!("{}/keeper-{}", done.directory, pid.unwrap())).unwrap();
    until("its end", || !Path::new(&format!("/proc/{}", pid.trim())).exists());
    forget(&done.directory);
    // A server whose nbdkit does not work: the disk is read as it comes, and that is counted.
    sshd.program("nbdkit", "#!/bin/sh\necho no such plugin >&2\nexit 1\n");
    let (done, again) = copy();
    assert!(
        done.sent > map.used_bytes() * 19 / 10 && again == map.used_bytes(),
        "{done:?} {again}"
    );
    forget(&done.directory);
}

/// The directories of one test, taken away by the test.
fn forget(directory: &str) {
    assert!(directory.starts_with("/tmp/virt-p2v-20"), "{directory}");
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_conversion_over_one_connection() {
    let Some(Site { sshd, out, path, map, dir: _dir }) = Site::with(64 * MIB) else { return };
    stand_in(&sshd, out.path(), "exit 0");
    let mut watcher = Watcher::default();
    let disks = vec![open(&path, &map), open(&path, &map)];
    let (done, _) = edge::convert(&mut watcher, &sshd.login(), &order(), disks).unwrap();
    for copy in ["disk1", "disk2"] {
        assert_eq!(sha256(&out.path().join(copy)), sha256(&path));
    }
    assert!(done.sent <= 2 * map.used_bytes() * 11 / 10, "{done:?}");
    assert!(watcher.output.iter().any(|line| line == "copied disk 2"), "{:?}", watcher.output);
    let status = fs::read_to_string(format!("{}/status", done.directory)).unwrap();
    assert_eq!(status, "0\n");
    forget(&done.directory);
    // A status of its own comes back, with what was said last and where the log is.
    stand_in(
        &sshd,
        out.path(),
        "echo 'virt-v2v: error: inspection could not detect the source guest'; exit 9",
    );
    let why = edge::convert(&mut watcher, &sshd.login(), &order(), vec![open(&path, &map)])
        .unwrap_err()
        .to_string();
    assert!(why.contains("no system that it knows") && why.contains("/tmp/virt-p2v-20"), "{why}");
    forget(why.split_whitespace().find(|word| word.starts_with("/tmp/virt-p2v")).unwrap());
}

#[test]
fn servers_that_cannot_convert_are_told_apart() {
    let Some(sshd) = Sshd::start("") else { return };
    let Some(closed) = Sshd::start("AllowTcpForwarding no") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = image(dir.path(), 16 * MIB);
    let fail = |sshd: &Sshd, order: &Order| {
        edge::convert(&mut Watcher::default(), &sshd.login(), order, vec![open(&path, &map)])
            .unwrap_err()
            .to_string()
    };
    let why = fail(&closed, &order());
    assert!(why.contains("AllowTcpForwarding yes"), "{why}");
    stand_in(&sshd, dir.path(), "exit 0");
    let other = Order { output: "rhv".into(), ..order() };
    let why = fail(&sshd, &other);
    assert!(why.contains("no output \"rhv\"") && why.contains("local, null"), "{why}");
    sshd.program("virt-v2v", "#!/bin/sh\necho virt-v2v 3.0\n");
    let why = fail(&sshd, &order());
    assert!(why.contains("not known: \"virt-v2v 3.0\""), "{why}");
    let mut sudo = order();
    sudo.conversion.sudo = true;
    sshd.program("sudo", "#!/bin/sh\nexit 1\n");
    let why = fail(&sshd, &sudo);
    assert!(why.contains("NOPASSWD"), "{why}");
}

#[test]
fn a_server_without_virt_v2v_is_told_so() {
    let places = ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin"];
    let paths = places.iter().map(|place| format!("{place}/virt-v2v"));
    let there: String = paths
        .filter(|path| Path::new(path).exists())
        .fold(String::new(), |all, path| all + &path + "\n");
    let Some(sshd) = Sshd::without("", Some(there)) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = image(dir.path(), 16 * MIB);
    let disks = vec![open(&path, &map)];
    let why = edge::convert(&mut Watcher::default(), &sshd.login(), &order(), disks).unwrap_err();
    let why = why.to_string();
    assert!(why.contains("the server has no virt-v2v") && why.contains("bw.p2v=ssh://"), "{why}");
}

#[test]
fn a_conversion_that_finds_the_server_full_or_a_bad_sector_says_so() {
    let Some(Site { sshd, out, path, map, dir }) = Site::with(16 * MIB) else { return };
    let (out, dir) = (out.path(), dir.path());
    stand_in(&sshd, out, "exit 0");
    let fail = |disk| {
        let done = edge::convert(&mut Watcher::default(), &sshd.login(), &order(), vec![disk]);
        let why = done.unwrap_err().to_string();
        println!("{why}");
        forget(why.split_whitespace().find(|word| word.starts_with("/tmp/virt-p2v")).unwrap());
        why
    };
    ok(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(out));
    let why = fail(open(&path, &map));
    ok(Command::new("umount").arg(out));
    assert!(why.contains("a disk of the server is full") && why.contains("p2v.os"), "{why}");
    // A file that is shorter than it was fails where it ends.
    let cut = || {
        let disk = open(&path, &map);
        fs::File::options().write(true).open(&path).unwrap().set_len(11 * MIB).unwrap();
        disk
    };
    let why = fail(cut());
    // nbdcopy asks for several places at once: which of them is asked for first is its own choice.
    assert!(
        why.contains("disk.img cannot be read at byte 11") && why.contains("bw.p2v.bad=zero"),
        "{why}"
    );
    fs::File::options().write(true).open(&path).unwrap().set_len(16 * MIB).unwrap();
    let to = (dir.to_str().unwrap(), "x.img");
    let why = edge::archive(&mut Watcher::default(), &sshd.login(), &mut cut(), to).unwrap_err();
    let why = why.to_string();
    let sentence = format!("cannot be read at byte {} (sector {})", 11 * MIB, 11 * MIB / 512);
    assert!(why.contains(&sentence) && why.contains("bw.p2v.bad=zero"), "{why}");
    until("the script's end", || {
        fs::read_dir(dir)
            .unwrap()
            .flatten()
            .all(|file| !file.file_name().to_str().unwrap().starts_with(".p2v-"))
    });
    assert!(!dir.join("x.img").exists());
}

#[test]
fn a_user_who_has_had_enough_leaves_nothing_behind() {
    let Some(sshd) = Sshd::start("") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = image(dir.path(), 16 * MIB);
    let pid = dir.path().join("pid");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && {{ echo virt-v2v 2.2.0; exit 0; }}\n\
         [ \"$1\" = --machine-readable ] && {{ echo libguestfs-rewrite; exit 0; }}\n\
         echo $$ > {}; pwd; echo under way; exec sleep 1000\n",
        pid.display()
    );
    sshd.program("virt-v2v", &text);
    let mut watcher = Watcher { stop_on: Some("under way"), ..Watcher::default() };
    let why =
        edge::convert(&mut watcher, &sshd.login(), &order(), vec![open(&path, &map)]).unwrap_err();
    assert!(why.to_string().contains("stopped at the console"), "{why}");
    let pid = fs::read_to_string(pid).unwrap();
    until("the end of the conversion", || !Path::new(&format!("/proc/{}", pid.trim())).exists());
    let place = watcher.output.iter().find(|line| line.starts_with("/tmp/virt-p2v")).unwrap();
    until("its status", || {
        fs::read_to_string(format!("{place}/status")).is_ok_and(|text| text == "143\n")
    });
    forget(place);
}

/// The real virt-v2v reads our description, and finds the disks and the card in it.
#[test]
fn virt_v2v_reads_the_description() {
    if !have("virt-v2v") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = image(dir.path(), 16 * MIB);
    let (one, two) = (Serving::of(open(&path, &map)), Serving::of(open(&path, &map)));
    let mut domain = order().domain;
    let disk = |name: &str, port| p2v::domain::Disk { name: name.into(), port };
    domain.disks = vec![disk("nvme0n1", one.port), disk("sda", two.port)];
    domain.drives = vec!["sr0".into()];
    domain.cards =
        vec![p2v::domain::Card { mac: "02:00:00:00:00:01".into(), network: "br <&> 0".into() }];
    domain.features = vec!["acpi", "apic", "pae"];
    domain.topology = Some(p2v::domain::Topology { sockets: 1, cores: 1, threads: 2 });
    (domain.cpu_vendor, domain.cpu_model) = ("Intel".into(), "Haswell".into());
    domain.clock = p2v::domain::Clock::Utc(3600);
    let xml = dir.path().join("physical.xml");
    fs::write(&xml, domain.xml()).unwrap();
    let mut v2v = Command::new("virt-v2v");
    v2v.args(["-i", "libvirtxml"])
        .arg(&xml)
        .args(["-o", "null", "--print-source"])
        .env("LIBGUESTFS_BACKEND", "direct");
    let text = ok(&mut v2v);
    println!("{text}");
    for piece in ["web01", "1073741824", "nr vCPUs: 2", "Haswell", "br <&> 0", "02:00:00:00:00:01"]
    {
        assert!(text.contains(piece), "{piece}: {text}");
    }
    assert!(text.contains("disks:\n\t0\n\t1\n") && text.contains("CD-ROM"), "{text}");
    one.end();
    two.end();
}
