//! NFS and DNS against real servers, in network namespaces. Needs root; skipped
//! with a word otherwise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod lab;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant as Clock};

use cmdline::plan::NfsVersion;
use lab::{Lab, skip};
use netboot::nfs::probe::{Denial, Failure, Ports, Target, probe};
use netboot::nfs::{Limits, Location, Reason, mount};
use netboot::resolve::Resolver;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 5);
const LIMIT: Duration = Duration::from_secs(4);

fn client_of(name: &str) -> Option<Lab> {
    let lab = Lab::new(name, 1)?;
    lab.client("ip addr add 10.77.0.5/24 dev nic0; ip link set nic0 up; ip link set lo up");
    Some(lab)
}

fn target(path: &str, version: NfsVersion) -> Target<'_> {
    Target { address: SERVER, path, version, nfs_port: None, mount_port: None }
}

/// What the probe says, and how long it took.
fn ask(lab: &Lab, target: Target<'_>) -> (Result<Ports, Failure>, Duration) {
    let began = Clock::now();
    let result = lab.in_client(|| probe(&target, LIMIT));
    match &result {
        Ok(ports) => println!("{target:?}: {ports:?}"),
        Err(failure) => println!("{target:?}: {failure}"),
    }
    (result, began.elapsed())
}

#[test]
fn an_nfs_server_is_asked_before_the_kernel_is() {
    let Some(lab) = client_of("nfs") else { return skip() };
    let directory = lab.dir().join("export");
    std::fs::create_dir_all(directory.join("inner")).unwrap();
    std::fs::write(directory.join("file"), "x").unwrap();

    // No server yet.
    for version in [NfsVersion::V3, NfsVersion::V4_2] {
        let (result, took) = ask(&lab, target("/srv/live", version));
        let failure = result.unwrap_err();
        assert!(failure.is_transient());
        assert!(failure.to_string().contains("the machine is up"), "{failure}");
        assert!(took < LIMIT / 2, "{took:?}");
    }

    let server = lab.ganesha("3, 4", 2049, &[("/srv/live", &directory)]);
    let (ports, took) = ask(&lab, target("/srv/live", NfsVersion::V3));
    assert_eq!(ports, Ok(Ports { nfs: 2049, mount: Some(2050) }));
    assert!(took < LIMIT / 2, "{took:?}");
    let (ports, _) = ask(&lab, target("/srv/live/inner", NfsVersion::V4_1));
    assert_eq!(ports, Ok(Ports { nfs: 2049, mount: None }));

    let (result, took) = ask(&lab, target("/srv/liv", NfsVersion::V3));
    assert!(matches!(
        &result,
        Err(Failure::Denied { denial: Denial::Missing | Denial::Access, .. })
    ));
    assert!(took < LIMIT / 2, "{took:?}");
    let (result, _) = ask(&lab, target("/srv/live/nowhere", NfsVersion::V4_2));
    let Err(Failure::Denied { part, denial, .. }) = result else { panic!("{result:?}") };
    assert_eq!((part.as_deref(), denial), (Some("nowhere"), Denial::Missing));

    // Ports of the line are used, right or wrong.
    let wrong = Target { mount_port: Some(9), ..target("/srv/live", NfsVersion::V3) };
    let (result, _) = ask(&lab, wrong);
    assert!(matches!(result, Err(Failure::Unreachable { port: 9, .. })), "{result:?}");
    let right = Target {
        mount_port: Some(2050),
        nfs_port: Some(2049),
        ..target("/srv/live", NfsVersion::V3)
    };
    assert!(ask(&lab, right).0.is_ok());

    // All of it, up to what this kernel can do.
    let location = Location {
        host: "files".into(),
        path: "/srv/live".into(),
        options: vec!["timeo=600".into()],
        versions: vec![NfsVersion::V3, NfsVersion::V4_2],
        read_write: false,
    };
    let has_nfs = std::fs::read_to_string("/proc/filesystems").unwrap().contains("\tnfs\n");
    if !has_nfs {
        let failed = lab
            .in_client(|| mount(&location, SERVER, OURS, "/mnt", Limits::default()))
            .unwrap_err();
        for attempt in &failed {
            println!("{attempt}");
            assert!(matches!(&attempt.reason, Reason::Kernel(_)));
            assert!(attempt.to_string().contains("module nfs, nfsv3 or nfsv4 is missing"));
        }
        assert_eq!(failed.len(), 2);
    }
    drop(server);
}

#[test]
fn a_v4_only_server_refuses_version_3_by_name() {
    let Some(lab) = client_of("nfs4") else { return skip() };
    let directory = lab.dir().join("export");
    std::fs::create_dir_all(&directory).unwrap();
    let _server = lab.ganesha("4", 2055, &[("/srv/live", &directory)]);
    let at = |version| Target { nfs_port: Some(2055), ..target("/srv/live", version) };
    let (result, _) = ask(&lab, at(NfsVersion::V3));
    let text = result.unwrap_err().to_string();
    assert!(text.contains("no mount service") || text.contains("mount service"), "{text}");
    assert!(ask(&lab, at(NfsVersion::V4)).0.is_ok());
    let (result, _) = ask(&lab, target("/srv/live", NfsVersion::V4));
    assert!(matches!(result, Err(Failure::Unreachable { port: 2049, .. })));
}

#[test]
fn what_is_no_nfs_server_is_told_apart() {
    let Some(lab) = client_of("web") else { return skip() };
    // A web server on NFS's port; then one that takes the call and says nothing.
    let listener = lab.in_server(|| TcpListener::bind((SERVER, 2049)).unwrap());
    let (asked, wait) = std::sync::mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        let (mut talker, _) = listener.accept().unwrap();
        let mut buffer = [0; 512];
        let _ = talker.read(&mut buffer);
        talker.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let (silent, _) = listener.accept().unwrap();
        // Until the client has given it up.
        let _ = wait.recv();
        drop(silent);
    });
    let (result, _) = ask(&lab, target("/srv/live", NfsVersion::V4));
    let text = result.unwrap_err().to_string();
    assert_eq!(text, "NFS, TCP port 2049: the service on that port does not speak RPC");
    let began = Clock::now();
    let what = target("/srv/live", NfsVersion::V4);
    let result = lab.in_client(|| probe(&what, Duration::from_millis(700)));
    println!("{}", result.clone().unwrap_err());
    assert!(result.is_err() && began.elapsed() < Duration::from_secs(2));
    drop(asked);
    // An address without a machine.
    let absent = Target { address: Ipv4Addr::new(10, 77, 0, 99), ..what };
    let began = Clock::now();
    let result = lab.in_client(|| probe(&absent, Duration::from_secs(2)));
    println!("{}", result.clone().unwrap_err());
    assert!(result.is_err() && began.elapsed() < Duration::from_secs(3));
    // And one that has no route.
    let far = Target { address: Ipv4Addr::new(192, 0, 2, 1), ..what };
    let failure = lab.in_client(|| probe(&far, LIMIT)).unwrap_err();
    assert!(failure.to_string().contains("is there a gateway?"), "{failure}");
    server.join().unwrap();
}

#[test]
fn names_are_looked_up() {
    let Some(lab) = client_of("dns") else { return skip() };
    let _dnsmasq = lab.dnsmasq(
        0,
        "address=/files.lab.example/10.77.0.9\nlocal=/lab.example/\n\
         host-record=nas.lab.example,10.77.0.8\ncname=alias.lab.example,nas.lab.example\n",
    );
    let resolver = Resolver { servers: vec![SERVER], search: vec!["lab.example".into()] };
    let look = |resolver: &Resolver, name: &str| {
        let result = lab.in_client(|| resolver.resolve(name, "", LIMIT));
        println!("{name}: {result:?}");
        result
    };
    assert_eq!(look(&resolver, "files.lab.example"), Ok(Ipv4Addr::new(10, 77, 0, 9)));
    assert_eq!(look(&resolver, "files"), Ok(Ipv4Addr::new(10, 77, 0, 9)));
    assert_eq!(look(&resolver, "alias"), Ok(Ipv4Addr::new(10, 77, 0, 8)));
    let missing = look(&resolver, "nothing.lab.example.").unwrap_err().to_string();
    assert_eq!(
        missing,
        "cannot look up nothing.lab.example.: 10.77.0.1 says that there is no such name"
    );
    // The first server is dead, the second answers.
    let two = Resolver { servers: vec![Ipv4Addr::new(10, 77, 0, 77), SERVER], ..resolver };
    let began = Clock::now();
    assert!(look(&two, "files").is_ok());
    assert!(began.elapsed() < Duration::from_secs(3));
    let dead = Resolver { servers: vec![Ipv4Addr::new(10, 77, 0, 77)], search: Vec::new() };
    let began = Clock::now();
    look(&dead, "files.lab.example").unwrap_err();
    assert!(began.elapsed() < LIMIT + Duration::from_secs(1));
}

#[test]
fn nbd_server_is_negotiated_with() {
    if !std::path::Path::new("/usr/bin/nbd-server").exists() {
        eprintln!("skipped: nbd-server is not installed");
        return;
    }
    let Some(lab) = client_of("nbd") else { return skip() };
    let image = lab.dir().join("image");
    let mut bytes = vec![0u8; 1 << 20];
    bytes[512..520].copy_from_slice(b"sector 1");
    std::fs::write(&image, &bytes).unwrap();
    let config = lab.dir().join("nbd.conf");
    std::fs::write(
        &config,
        format!(
            "[generic]\nlistenaddr = 10.77.0.1\nport = 10809\nallowlist = true\n\
             [live]\nexportname = {}\nreadonly = true\nmulticonn = true\n",
            image.display()
        ),
    )
    .unwrap();
    let _server = lab.serve("nbd-server", &["-C", config.to_str().unwrap()]);
    lab.wait_for("10.77.0.1:10809 ");
    let connected =
        lab.in_client(|| netboot::nbd::connect(SERVER, 10809, "live", 3, LIMIT)).unwrap();
    println!("{connected:?}");
    assert_eq!(connected.export.size, 1 << 20);
    assert_ne!(connected.export.flags & netboot::nbd::wire::flag::READ_ONLY, 0);
    let multi = connected.export.flags & netboot::nbd::wire::flag::MULTI != 0;
    assert_eq!(connected.sockets.len(), if multi { 3 } else { 1 });

    // The connection is where the kernel would take it over: read a sector.
    let socket = &connected.sockets[0];
    let mut request = b"\x25\x60\x95\x13\0\0\0\0handle!!".to_vec();
    request.extend(512u64.to_be_bytes());
    request.extend(8u32.to_be_bytes());
    rustix::io::write(socket, &request).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0u8; 64];
    while answer.len() < 24 {
        match rustix::io::read(socket, &mut buffer) {
            Ok(length) => answer.extend_from_slice(&buffer[..length]),
            Err(rustix::io::Errno::AGAIN) => std::thread::sleep(Duration::from_millis(5)),
            Err(errno) => panic!("{errno}"),
        }
    }
    assert_eq!(answer, b"\x67\x44\x66\x98\0\0\0\0handle!!sector 1");

    let error =
        lab.in_client(|| netboot::nbd::connect(SERVER, 10809, "nothing", 1, LIMIT)).unwrap_err();
    println!("{error}");
    assert!(error.to_string().contains("it has \"live\""), "{error}");
    match lab.in_client(|| netboot::nbd::attach(&connected)) {
        Ok(device) => println!("attached as {device}"),
        Err(error) => {
            println!("{error}");
            assert!(error.to_string().contains("is the module nbd loaded?"), "{error}");
        }
    }
}
