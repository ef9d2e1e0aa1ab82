//! Clients that mean no good, at the sockets: what they send is answered or dropped,
//! and everybody else is served meanwhile.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use share::budget::Budget;
use share::dhcp::client::{Arch, Loaders};
use share::dhcp::lease::Leases;
use share::dhcp::message::Message;
use share::dhcp::server::{Arrival, Network, Seen, Server as Dhcp};
use share::disk::access::Disks;
use share::disk::store::Image;
use share::event::Watch;
use share::files::Files;
use share::nfs::{Export, Server as Nfs};
use share::serve;
use share::tree::Tree;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SECRET: &str = "outside of what is shared";

/// A directory that is shared beside one that is not.
struct Site {
    _place: tempfile::TempDir,
    http: SocketAddr,
    nfs: SocketAddr,
    tftp: SocketAddr,
    nbd: SocketAddr,
}

fn site() -> Site {
    let place = tempfile::tempdir().unwrap();
    let shared = place.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(place.path().join("secret"), SECRET).unwrap();
    std::fs::write(shared.join("file"), "what is shared").unwrap();
    std::os::unix::fs::symlink("../secret", shared.join("out")).unwrap();
    std::os::unix::fs::symlink(place.path().join("secret"), shared.join("away")).unwrap();
    let export = Export { path: "/m".into(), tree: Arc::new(Tree::of_directory(&shared).unwrap()) };
    let mut files = Files::default();
    files.add_tree(export.clone());
    let files = Arc::new(files);
    let watch = Arc::new(Watch::new(|_| ()));
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let nfs = TcpListener::bind("127.0.0.1:0").unwrap();
    let tftp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nbd = TcpListener::bind("127.0.0.1:0").unwrap();
    let site = Site {
        _place: place,
        http: http.local_addr().unwrap(),
        nfs: nfs.local_addr().unwrap(),
        tftp: tftp.local_addr().unwrap(),
        nbd: nbd.local_addr().unwrap(),
    };
    let budget = Budget::of_process();
    let image = Arc::new(b"a medium".to_vec());
    let image = Image { name: "m".into(), image, size: 8, identity: 1 };
    serve::nbd::start(Arc::new(Disks::new(vec![image], None)), nbd, watch.clone(), &budget)
        .unwrap();
    serve::http::start(files.clone(), http, watch.clone(), None, &budget).unwrap();
    serve::tftp::start(files, tftp, watch.clone(), &budget).unwrap();
    let server = Nfs { exports: vec![export], port: site.nfs.port() };
    serve::nfs::start(Arc::new(server), nfs, watch, &budget).unwrap();
    site
}

/// From this address, so that one client can be told from another.
fn connect(to: SocketAddr, from: Ipv4Addr) -> TcpStream {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, socket};
    use std::os::fd::AsRawFd;
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0))).unwrap();
    let SocketAddr::V4(to) = to else { panic!("{to}") };
    nix::sys::socket::connect(fd.as_raw_fd(), &SockaddrIn::from(to)).unwrap();
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn ask(site: &Site, from: Ipv4Addr, request: &[u8]) -> String {
    let mut stream = connect(site.http, from);
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// An honest client, on an address of its own.
fn is_served(site: &Site) {
    let honest = Ipv4Addr::new(127, 0, 0, 99);
    let start = Instant::now();
    let answer = ask(site, honest, b"GET /m/file HTTP/1.0\r\n\r\n");
    assert!(answer.ends_with("\r\n\r\nwhat is shared"), "{answer}");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.send_to(b"\0\x01m/file\0octet\0", site.tftp).unwrap();
    let mut buffer = [0; 600];
    let (length, _) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"\0\x03\0\x01what is shared");
    let call = netboot::nfs::rpc::Call {
        xid: 7,
        program: 100_003,
        version: 3,
        procedure: 0,
        arguments: &[],
        root: true,
    };
    let mut stream = connect(site.nfs, honest);
    stream.write_all(&call.to_record()).unwrap();
    let mut reply = [0; 28];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[4..8], [0, 0, 0, 7]);
    let mut stream = disk(site, honest, "m");
    stream.write_all(&request(0, 2, 6)).unwrap();
    let mut reply = [0; 22];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!((&reply[4..8], &reply[16..]), (&[0; 4][..], &b"medium"[..]));
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// A connection on which a disk was chosen, in the old way: what is told about it is
/// read and thrown away.
fn disk(site: &Site, from: Ipv4Addr, name: &str) -> TcpStream {
    let mut stream = connect(site.nbd, from);
    stream.read_exact(&mut [0; 18]).unwrap();
    let length = u32::try_from(name.len()).unwrap().to_be_bytes();
    let option = [&[0, 0, 0, 3][..], b"IHAVEOPT", &[0, 0, 0, 1], &length, name.as_bytes()];
    stream.write_all(&option.concat()).unwrap();
    stream.read_exact(&mut [0; 10]).unwrap();
    stream
}

fn request(command: u8, offset: u64, length: u32) -> Vec<u8> {
    let head = [0x25, 0x60, 0x95, 0x13, 0, 0, 0, command];
    [&head[..], &[7; 8], &offset.to_be_bytes(), &length.to_be_bytes()].concat()
}

/// What is not on the disk, and what would write to it.
#[test]
fn disks_have_an_end() {
    let site = site();
    let mut stream = disk(&site, Ipv4Addr::LOCALHOST, "m");
    let mut ask = |request: Vec<u8>| {
        stream.write_all(&request).unwrap();
        let mut reply = [0; 16];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!((&reply[..4], &reply[8..]), (&[0x67, 0x44, 0x66, 0x98][..], &[7; 8][..]));
        reply[7]
    };
    assert_eq!(ask(request(0, 4, 5)), 22);
    assert_eq!(ask(request(0, u64::MAX, 32 << 20)), 22);
    assert_eq!(ask([request(1, 0, 3), b"abc".to_vec()].concat()), 1);
    assert_eq!(ask(request(4, 0, u32::MAX)), 22);
    assert_eq!(ask(request(200, 0, 0)), 22);
    assert_eq!(ask(request(3, 0, 0)), 0);
    // More than any kernel asks for ends the connection.
    stream.write_all(&request(1, 0, u32::MAX)).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    is_served(&site);
}

/// Noise that is the same in every run.
fn noise() -> impl FnMut() -> u8 {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    }
}

#[test]
fn garbage() {
    let site = site();
    let mut byte = noise();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 0..1000usize {
        let mut packet: Vec<u8> = (0..n % 600).map(|_| byte()).collect();
        if n % 2 == 0 && packet.len() > 2 {
            // Something that is looked at.
            packet[0] = 0;
            packet[1] = (n % 7) as u8;
        }
        socket.send_to(&packet, site.tftp).unwrap();
    }
    for n in 0..200usize {
        let bytes: Vec<u8> = (0..n * 7).map(|_| byte()).collect();
        for at in [site.http, site.nfs, site.nbd] {
            let mut stream = connect(at, Ipv4Addr::new(127, 0, 0, 3));
            let _ = stream.write_all(&bytes);
        }
    }
    // A record of NFS that never ends, and one that is larger than any.
    for mark in [[0x80, 0, 0x10, 0], [0xff, 0xff, 0xff, 0xff]] {
        let mut stream = connect(site.nfs, Ipv4Addr::new(127, 0, 0, 3));
        stream.write_all(&mark).unwrap();
        std::mem::forget(stream);
    }
    is_served(&site);
}

#[test]
fn paths_that_lead_out() {
    let site = site();
    for path in [
        "/m/../secret",
        "/m/%2e%2e/secret",
        "/m/..%2fsecret",
        "/../../../../etc/passwd",
        "/m//../../secret",
        "/m/out",
        "/m/away",
        "/m/file/../../secret",
        "/m/..\\secret",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = ask(&site, Ipv4Addr::LOCALHOST, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 40"), "{path}: {answer}");
        assert!(!answer.contains(SECRET) && !answer.contains("root:"), "{path}: {answer}");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let request = [b"\0\x01", path.as_bytes(), b"\0octet\0"].concat();
        socket.send_to(&request, site.tftp).unwrap();
        let mut buffer = [0; 600];
        let (length, _) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..2], [0, 5], "{path}: {:?}", &buffer[..length]);
    }
}

/// One that opens hundreds of connections and says little or nothing on them takes
/// nothing from others.
#[test]
fn half_open_clients() {
    let site = site();
    let greedy = Ipv4Addr::new(127, 0, 0, 2);
    let mut open = Vec::new();
    for n in 0..600 {
        let mut stream = connect([site.http, site.nfs, site.nbd][n % 3], greedy);
        let _ = stream.write_all(if n % 3 == 0 { b"G" } else { b"" });
        open.push(stream);
    }
    is_served(&site);
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    // Three services, each with 128 clients of one address at most.
    assert!(threads < 450, "{threads} threads");
    drop(open);
    is_served(&site);
}

/// A request has to be whole in time, however diligently its bytes drip.
#[test]
fn a_request_that_drips() {
    let site = site();
    let mut stream = connect(site.http, Ipv4Addr::new(127, 0, 0, 4));
    let start = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut ended = false;
    while start.elapsed() < Duration::from_secs(40) && !ended {
        ended = stream.write_all(b"G").is_err() || stream.read(&mut [0; 200]).is_ok();
    }
    assert!(ended && start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn a_thousand_forged_discovers() {
    let own = Ipv4Addr::new(10, 0, 0, 1);
    let at = |last: u8| Ipv4Addr::new(10, 0, 0, last);
    let network = Network { prefix: 24, router: None, dns: Vec::new(), lease: 3600 };
    let loaders = Loaders {
        files: vec![(Arch::Bios, "pxelinux.0".into())],
        script: None,
        http: SocketAddrV4::new(own, 80),
        tftp: own,
    };
    let leases = Leases::new(at(100), at(149), &Default::default());
    let mut server = Dhcp { own, loaders, full: Some((network, leases)), cautious: None };
    let discover = |server: &mut Dhcp, mac: [u8; 6], now: u64| {
        let mut bytes = vec![0; 240];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[28..34].copy_from_slice(&mac);
        bytes[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
        bytes.extend([53, 1, 1, 255]);
        let message = Message::read(&bytes).unwrap();
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
        server.handle(&message, &Arrival { port: 67, from, now })
    };
    let mut refused = 0;
    for n in 0..1000u16 {
        let [high, low] = n.to_be_bytes();
        let (_, seen) = discover(&mut server, [2, 0, 0, 0, high, low], 1000);
        refused += usize::from(seen == Seen::Exhausted);
    }
    // Offers that no client accepted hold nothing.
    assert_eq!(refused, 0);
    let honest = [0x52, 0x54, 0, 0, 0, 1];
    assert!(discover(&mut server, honest, 1000).0.is_some());
    // And nothing of it is kept over a restart.
    let (_, leases) = server.full.unwrap();
    assert_eq!(leases.to_text().lines().count(), 1);
}
