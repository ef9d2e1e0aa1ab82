//! share-budget: clients of every protocol that mean no good, all at once, against a server
//! process with 1024 descriptors whose standard output is not read. Meanwhile an honest client is
//! served within a second, a mounted one sees no error, and the process stays small.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use netboot::nfs::rpc::{Call, Decoder, Encoder, parse_reply};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use share::budget::Budget;
use share::console::Console;
use share::dhcp::client::{Arch, Loaders};
use share::dhcp::lease::Leases;
use share::dhcp::server::{Network, Server as Dhcp};
use share::disk::access::Disks;
use share::disk::store::Image;
use share::ending::Ending;
use share::event::Watch;
use share::files::Files;
use share::nfs::{Export, Server as Nfs};
use share::serve;
use share::tree::Tree;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Descriptors of the server.
const DESCRIPTORS: u64 = 1024;
/// Where it runs, for the process that is the server.
const PLACE: &str = "BELLWETHER_BUDGET_PLACE";
const MIB: usize = 1 << 20;
const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 99);
const MOUNTED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 98);

/// The n-th hostile address.
fn hostile(n: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x7f01_0001 + n as u32)
}

/// The server, in a process of its own: its memory and descriptors are counted.
#[test]
#[ignore = "started by share_budget"]
fn the_server() {
    let place = std::env::var_os(PLACE).unwrap();
    let place = Path::new(&place);
    setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS / 2, DESCRIPTORS).unwrap();
    let ending = Ending::expect().unwrap();
    ending.enforce(|| Duration::from_secs(2), || ()).unwrap();
    let budget = Budget::of_process();
    let out = std::io::stdout().as_fd().try_clone_to_owned().unwrap();
    let mut out = std::fs::File::from(out);
    let write = move |line: &str| drop(out.write_all(line.as_bytes()));
    let console = Console::start(write, |n| format!("{n} dropped")).unwrap();
    let said = console.clone();
    let watch = Arc::new(Watch::new(move |event| said.say(event.to_string())));
    let tree = Arc::new(Tree::of_directory(&place.join("m")).unwrap());
    let export = Export { path: "/m".into(), tree };
    let mut files = Files::default();
    files.add_tree(export.clone());
    let image = Arc::new(std::fs::File::open(place.join("image")).unwrap());
    let size = image.metadata().unwrap().len();
    let file = share::files::File::image(image.clone(), size, 1);
    files.add("/image", file);
    let image = Image { name: "m".into(), image, size, identity: 1 };
    let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = || UdpSocket::bind("127.0.0.1:0").unwrap();
    let (http, nfs, nbd, tftp, dhcp) = (tcp(), tcp(), tcp(), udp(), [udp(), udp()]);
    let tcp = [&http, &nfs, &nbd].map(|socket| socket.local_addr().unwrap());
    let udp = [&tftp, &dhcp[0]].map(|socket| socket.local_addr().unwrap());
    let ports: Vec<String> = tcp.iter().chain(&udp).map(|at| at.port().to_string()).collect();

    let own = Ipv4Addr::new(10, 0, 0, 1);
    let at = |last: u8| Ipv4Addr::new(10, 0, 0, last);
    let network = Network { prefix: 24, router: None, dns: Vec::new(), lease: 4 * 3600 };
    let loaders = Loaders {
        files: vec![(Arch::Bios, "pxelinux.0".into())],
        script: None,
        http: SocketAddrV4::new(own, 80),
        tftp: own,
    };
    let leases = Leases::new(at(100), at(149), &Default::default());
    let server = Dhcp { own, loaders, full: Some((network, leases)), cautious: None };
    serve::dhcp::start(server, dhcp, &watch, Some(place.join("leases")), None).unwrap();
    let files = Arc::new(files);
    serve::tftp::start(files.clone(), tftp, watch.clone(), &budget).unwrap();
    serve::http::start(files, http, watch.clone(), None, &budget).unwrap();
    let server = Nfs { exports: vec![export], port: tcp[1].port() };
    serve::nfs::start(Arc::new(server), nfs, watch.clone(), &budget).unwrap();
    let disks = Disks::new(vec![image], None);
    serve::nbd::start(Arc::new(disks), nbd, watch.clone(), &budget).unwrap();
    serve::watch_over(&watch, None).unwrap();
    std::fs::write(place.join("ports.new"), ports.join(" ")).unwrap();
    std::fs::rename(place.join("ports.new"), place.join("ports")).unwrap();
    ending.wait().unwrap();
    share::session::stopped(&watch);
    console.flush(Duration::from_millis(500));
    std::process::exit(0);
}

/// The server as its clients see it.
struct Site {
    place: tempfile::TempDir,
    child: Child,
    at: [SocketAddrV4; 5],
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Site {
    fn start() -> Self {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("m")).unwrap();
        std::fs::write(place.path().join("m/file"), content(2 * MIB)).unwrap();
        std::fs::write(place.path().join("image"), content(40 * MIB)).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_server", "--ignored", "--nocapture"])
            .env(PLACE, place.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Full after a few messages, and never read.
        let pipe = child.stdout.as_ref().unwrap();
        nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        let ports = loop {
            if let Ok(ports) = std::fs::read_to_string(place.path().join("ports")) {
                break ports;
            }
            assert!(Instant::now() < end && child.try_wait().unwrap().is_none());
            thread::sleep(Duration::from_millis(20));
        };
        let ports: Vec<u16> = ports.split(' ').map(|port| port.parse().unwrap()).collect();
        let at = std::array::from_fn(|n| SocketAddrV4::new(Ipv4Addr::LOCALHOST, ports[n]));
        Self { place, child, at }
    }

    fn http(&self) -> SocketAddrV4 {
        self.at[0]
    }

    fn nfs(&self) -> SocketAddrV4 {
        self.at[1]
    }

    fn nbd(&self) -> SocketAddrV4 {
        self.at[2]
    }

    fn tftp(&self) -> SocketAddrV4 {
        self.at[3]
    }

    fn dhcp(&self) -> SocketAddrV4 {
        self.at[4]
    }

    /// The most memory that the server ever had, in MiB.
    fn memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    fn descriptors(&self) -> u64 {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count() as u64
    }
}

fn content(length: usize) -> Vec<u8> {
    (0..length / 4).flat_map(|n| (n as u32).to_be_bytes()).collect()
}

/// From this address, so that one client can be told from another.
fn connect(to: SocketAddrV4, from: Ipv4Addr) -> std::io::Result<TcpStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, socket};
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
    let stream = TcpStream::from(fd);
    nix::sys::socket::connect(stream.as_fd().as_raw_fd(), &SockaddrIn::from(to))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// A disk, chosen in the old way.
fn disk(site: &Site, from: Ipv4Addr) -> std::io::Result<TcpStream> {
    let mut stream = connect(site.nbd(), from)?;
    stream.read_exact(&mut [0; 18])?;
    stream.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x01m")?;
    stream.read_exact(&mut [0; 10])?;
    Ok(stream)
}

fn request(command: u8, offset: u64, length: u32) -> Vec<u8> {
    let head = [0x25, 0x60, 0x95, 0x13, 0, 0, 0, command];
    [&head[..], &[7; 8], &offset.to_be_bytes(), &length.to_be_bytes()].concat()
}

fn nfs_call(
    stream: &mut TcpStream,
    (program, procedure): (u32, u32),
    arguments: &[u8],
) -> std::io::Result<Vec<u8>> {
    let call = Call { xid: 9, program, version: 3, procedure, arguments, root: true };
    stream.write_all(&call.to_record())?;
    let mut mark = [0; 4];
    stream.read_exact(&mut mark)?;
    let mut reply = vec![0; (u32::from_be_bytes(mark) & 0x7fff_ffff) as usize];
    stream.read_exact(&mut reply)?;
    Ok(parse_reply(&reply, 9).unwrap().to_vec())
}

/// Mounts and looks the file up; returns its handle.
fn mount(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let got = nfs_call(stream, (100_005, 1), &Encoder::default().opaque(b"/m").finish())?;
    let mut xdr = Decoder::new(&got);
    assert_eq!(xdr.u32(), Some(0));
    let root = xdr.opaque(64).unwrap().to_vec();
    let asked = Encoder::default().opaque(&root).opaque(b"file").finish();
    let got = nfs_call(stream, (100_003, 3), &asked)?;
    let mut xdr = Decoder::new(&got);
    assert_eq!(xdr.u32(), Some(0));
    Ok(xdr.opaque(64).unwrap().to_vec())
}

/// A client that has the medium mounted, as a kernel does: it connects again and repeats what
/// was not answered, waits when it is told to, and passes every other error on.
fn mounted(at: SocketAddrV4, end: &AtomicBool) -> Result<usize, String> {
    let whole = content(2 * MIB);
    let mut stream = connect(at, MOUNTED).unwrap();
    let handle = mount(&mut stream).unwrap();
    let (mut offset, mut reads) = (0usize, 0);
    while !end.load(Ordering::Relaxed) {
        let asked = Encoder::default().opaque(&handle).u32(0).u32(offset as u32).u32(256 << 10);
        let started = Instant::now();
        let got = match nfs_call(&mut stream, (100_003, 6), &asked.finish()) {
            Ok(got) => got,
            Err(_) => {
                stream = match connect(at, MOUNTED) {
                    Ok(stream) => stream,
                    Err(_) => continue,
                };
                continue;
            }
        };
        let mut xdr = Decoder::new(&got);
        match xdr.u32() {
            Some(0) => {}
            Some(10_008) => continue,
            other => return Err(format!("status {other:?}")),
        }
        // Attributes, count, end of file, data.
        xdr.u32().filter(|there| *there == 1).ok_or("no attributes")?;
        for _ in 0..21 {
            xdr.u32();
        }
        let (count, _) = (xdr.u32().unwrap_or(0) as usize, xdr.u32());
        let data = xdr.opaque(MIB).unwrap_or_default();
        if count == 0 || data.len() != count || *data != whole[offset..offset + count] {
            return Err(format!("{count} bytes that are not those of the file at {offset}"));
        }
        if started.elapsed() > Duration::from_secs(20) {
            return Err(format!("a read took {:?}", started.elapsed()));
        }
        offset = (offset + count) % whole.len();
        reads += 1;
        thread::sleep(Duration::from_millis(2));
    }
    Ok(reads)
}

/// What an honest client does with a protocol.
type Honestly = fn(&Site) -> std::io::Result<()>;

const HONESTLY: [(&str, Honestly); 4] = [
    ("HTTP", |site| {
        for path in ["/m/file", "/image"] {
            let mut stream = connect(site.http(), HONEST)?;
            let range = "Range: bytes=0-99999\r\nConnection: close";
            write!(stream, "GET {path} HTTP/1.1\r\n{range}\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            assert!(answer.starts_with(b"HTTP/1.1 206 "), "{:?}", answer.get(..20));
            assert!(answer.ends_with(&content(100_000)));
        }
        Ok(())
    }),
    ("TFTP", |site| {
        let socket = UdpSocket::bind((HONEST, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut buffer = [0; 1500];
        socket.send_to(b"\0\x01m/file\0octet\0blksize\x001024\0", site.tftp())?;
        let (_, port) = socket.recv_from(&mut buffer)?;
        for block in 0..20u16 {
            let [high, low] = block.to_be_bytes();
            socket.send_to(&[0, 4, high, low], port)?;
            let (length, _) = socket.recv_from(&mut buffer)?;
            assert_eq!((length, buffer[1]), (1028, 3));
        }
        Ok(())
    }),
    ("NFS", |site| mount(&mut connect(site.nfs(), HONEST)?).map(drop)),
    ("NBD", |site| {
        let mut stream = disk(site, HONEST)?;
        stream.write_all(&request(0, 0, 65536))?;
        let mut reply = vec![0; 16 + 65536];
        stream.read_exact(&mut reply)?;
        assert_eq!(reply[4..8], [0; 4]);
        assert!(reply[16..] == content(65536));
        Ok(())
    }),
];

/// Every protocol serves an honest client within a second, in which it may have to connect
/// again. Other work of this machine may take one of several attempts longer.
fn is_served(site: &Site, when: &str) {
    for (protocol, honestly) in HONESTLY {
        let mut tries = (0..10).map(|_| {
            let start = Instant::now();
            while let Err(e) = honestly(site) {
                if start.elapsed() > Duration::from_secs(2) {
                    return Err(e);
                }
                thread::sleep(Duration::from_millis(20));
            }
            Ok(start.elapsed())
        });
        let best = tries.find(|t| t.as_ref().is_ok_and(|t| *t < Duration::from_secs(1)));
        assert!(best.is_some(), "{protocol} {when}");
        println!("{protocol} {when}: {best:?}");
    }
}

fn discover(mac: [u8; 6], kind: u8, options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 240];
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    bytes[28..34].copy_from_slice(&mac);
    bytes[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    bytes.extend([53, 1, kind]);
    bytes.extend(options);
    bytes.push(255);
    bytes
}

/// What each kind of hostile client holds open.
type Held = Vec<TcpStream>;

/// An attack; what it returns stays open.
type Attack = fn(&Site) -> Held;

const ATTACKS: [(&str, Attack); 9] = [
    ("TFTP requests with a timeout of 255 s", |site| {
        for n in 0..700 {
            let socket = UdpSocket::bind((hostile(n % 5), 0)).unwrap();
            socket.send_to(b"\0\x01m/file\0octet\0timeout\x00255\0", site.tftp()).unwrap();
        }
        Held::new()
    }),
    ("TFTP requests with forged addresses", |site| {
        for n in 0..2000 {
            let socket = UdpSocket::bind((hostile(100 + n), 0)).unwrap();
            socket.send_to(b"\0\x01m/file\0octet\0", site.tftp()).unwrap();
        }
        Held::new()
    }),
    ("idle connections", |site| {
        let open =
            |n: usize| connect([site.http(), site.nfs(), site.nbd()][n % 3], hostile(n / 3 % 6));
        (0..1440).filter_map(|n| open(n).ok()).collect()
    }),
    ("half a head", |site| {
        let open = |n| {
            let mut stream = connect(site.http(), hostile(n)).ok()?;
            stream.write_all(b"GET / HTTP/1.1\r\nX: ").ok()?;
            Some(stream)
        };
        (0..300).filter_map(open).collect()
    }),
    ("announced calls", |site| {
        let open = |n| {
            let mut stream = connect(site.nfs(), hostile(n)).ok()?;
            stream.write_all(&[0x80, 0, 0xff, 0xf0]).ok()?;
            Some(stream)
        };
        (0..300).filter_map(open).collect()
    }),
    ("announced writes of 32 MiB", |site| {
        let open = |n: usize| {
            let mut stream = disk(site, hostile(n % 6)).ok()?;
            stream.write_all(&request(1, 0, 32 << 20)).ok()?;
            Some(stream)
        };
        (0..300).filter_map(open).collect()
    }),
    ("reads of 32 MiB that are not taken", |site| {
        let open = |n: usize| {
            let mut stream = disk(site, hostile(50 + n)).ok()?;
            stream.write_all(&request(0, 0, 32 << 20)).ok()?;
            Some(stream)
        };
        (0..60).filter_map(open).collect()
    }),
    ("NFS reads of 1 MiB that are not taken", |site| {
        let open = |n: usize| {
            let mut stream = connect(site.nfs(), hostile(50 + n)).ok()?;
            let handle = mount(&mut stream).ok()?;
            let arguments = Encoder::default().opaque(&handle).u32(0).u32(0).u32(1 << 20).finish();
            let call = Call {
                xid: 1,
                program: 100_003,
                version: 3,
                procedure: 6,
                arguments: &arguments,
                root: true,
            };
            stream.set_nonblocking(true).ok()?;
            for _ in 0..50 {
                let _ = stream.write_all(&call.to_record());
            }
            Some(stream)
        };
        (0..60).filter_map(open).collect()
    }),
    ("refused mounts, and requests of many clients for addresses", |site| {
        let socket = UdpSocket::bind((hostile(0), 0)).unwrap();
        for n in 0..10_000u32 {
            let [_, a, b, c] = n.to_be_bytes();
            socket.send_to(&discover([2, 0, 0, a, b, c], 1, &[]), site.dhcp()).unwrap();
        }
        let mut stream = connect(site.nfs(), hostile(0)).unwrap();
        for n in 0..5000 {
            let path = format!("/{n}/\x1b[2J{}", "x".repeat(900));
            let path = Encoder::default().opaque(path.as_bytes()).finish();
            if nfs_call(&mut stream, (100_005, 1), &path).is_err() {
                break;
            }
        }
        Held::new()
    }),
];

#[test]
fn share_budget() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let mut site = Site::start();
    // A server that stopped would let every connection of an attack wait for its timeout.
    let id = nix::unistd::Pid::from_raw(site.child.id() as i32);
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(180));
        let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGKILL);
        eprintln!("the server does not answer any more");
        std::process::exit(1);
    });
    is_served(&site, "at first");
    let end = Arc::new(AtomicBool::new(false));
    let client = {
        let (at, end) = (site.nfs(), end.clone());
        thread::spawn(move || mounted(at, &end))
    };
    let mut held: Vec<Held> = Vec::new();
    for (what, attack) in ATTACKS {
        held.push(attack(&site));
        let (memory, descriptors) = (site.memory(), site.descriptors());
        println!("{what}: {} open, {memory} MiB, {descriptors} descriptors", held.len());
        is_served(&site, what);
        assert!(!client.is_finished(), "{what}: {:?}", client.join());
        assert!(memory <= 128, "{what}: {memory} MiB");
        assert!(descriptors <= DESCRIPTORS - 64, "{what}: {descriptors} descriptors");
    }
    // All of them at once, again and again.
    let site_ref = &site;
    let open: Vec<Held> = thread::scope(|scope| {
        let threads: Vec<_> =
            ATTACKS.map(|(_, attack)| scope.spawn(move || attack(site_ref))).into();
        is_served(site_ref, "while all attack");
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    is_served(&site, "after all attacked");
    let (memory, descriptors) = (site.memory(), site.descriptors());
    println!("at the end: {memory} MiB at most, {descriptors} descriptors");
    assert!(memory <= 128, "{memory} MiB");
    assert!(descriptors <= DESCRIPTORS - 64, "{descriptors} descriptors");
    // An honest client gets an address although thousands of others asked for one.
    let mac = [0x52, 0x54, 0, 0, 0, 1];
    let socket = UdpSocket::bind((HONEST, 0)).unwrap();
    let leases = site.place.path().join("leases");
    let until = Instant::now() + Duration::from_secs(10);
    while !std::fs::read_to_string(&leases).is_ok_and(|text| text.contains("52:54:00:00:00:01")) {
        assert!(Instant::now() < until, "no lease");
        socket.send_to(&discover(mac, 1, &[]), site.dhcp()).unwrap();
        socket.send_to(&discover(mac, 3, &[50, 4, 10, 0, 0, 120]), site.dhcp()).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    end.store(true, Ordering::Relaxed);
    let reads = client.join().unwrap().unwrap();
    println!("the mounted client read {reads} times");
    assert!(reads > 0);
    drop((held, open));
    // Standard output was full all the time.
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
    let until = Instant::now() + Duration::from_secs(8);
    while site.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until, "SIGTERM did not end it");
        thread::sleep(Duration::from_millis(20));
    }
    let mut said = String::new();
    site.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.len() <= 8192, "{} bytes in a pipe of 4096", said.len());
}
