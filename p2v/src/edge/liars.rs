//! ssh servers that lie, and clients that hand on what they say: each is told in a sentence, in a
//! bounded time, with a bounded number of lines on the console.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use super::{BadSectors, Disk, Login, Order, World, archive, convert};

#[derive(Default)]
struct Watcher {
    lines: usize,
}

impl World for Watcher {
    fn say(&mut self, _: &str) {
        self.lines += 1;
    }
    fn output(&mut self, line: &str) {
        assert!(line.len() < 32 << 10);
        self.lines += 1;
    }
    fn progress(&mut self, _: u64, _: u64) {}
    fn reads_back(&mut self) {}
    fn served(&mut self, _: u64, _: u64, _: u64) {}
    fn go_on(&mut self) -> bool {
        true
    }
}

const CLIENTS: [&str; 2] = ["/usr/bin/dbclient", "/usr/bin/ssh"];

/// Both ways over ssh with this client; what is said, and how many lines there were.
fn tried(program: &str, port: u16) -> Vec<(String, usize)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::File::create(&path).unwrap().set_len(16 << 20).unwrap();
    let open = || Disk::open(path.to_str().unwrap(), None, BadSectors::Fail).unwrap();
    // Where the client cannot read it, the server does not come so far.
    let login = Login {
        program,
        host: "127.0.0.1",
        port,
        user: "root",
        password: Some("hush"),
        judge: "/bin/true",
        askpass: "/bin/false",
        ..Login::default()
    };
    let mut all = Vec::new();
    for way in 0..2 {
        let (mut watcher, start) = (Watcher::default(), Instant::now());
        let why = match way {
            0 => convert(&mut watcher, &login, &Order::default(), vec![open()]).map(drop),
            _ => archive(&mut watcher, &login, &mut open(), ("/tmp", "x")).map(drop),
        };
        let why = why.unwrap_err().to_string();
        assert!(start.elapsed() < Duration::from_secs(40), "{program}: {why}");
        assert!(!why.contains("hush") && why.len() < 1000, "{why}");
        eprintln!("{program}: {why}");
        all.push((why, watcher.lines));
    }
    all
}

/// What a server does with a connection.
type Lie = fn(TcpStream);

/// A server that does this with each connection.
fn server(with: Lie) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || with(stream));
        }
    });
    port
}

fn silent(mut stream: TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Lines may come before the version (RFC 4253, 4.2); these do not end.
fn chatty(mut stream: TcpStream) {
    while stream.write_all(b"an ssh server, in a moment\r\n").is_ok() {}
}

/// Packets that a client ignores (RFC 4253, 6 and 11.2) in the place of a key exchange.
fn endless(mut stream: TcpStream) {
    let _ = stream.write_all(b"SSH-2.0-liar\r\n");
    let ignored = [0, 0, 0, 12, 6, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    while stream.write_all(&ignored).is_ok() {}
}

fn closing(mut stream: TcpStream) {
    let _ = stream.write_all(b"SSH-2.0-liar\r\n");
}

fn rubbish(mut stream: TcpStream) {
    let _ = stream.write_all(&[0xff; 1 << 16]);
}

#[test]
fn a_server_that_never_lets_in_is_told() {
    let rows: [(&str, Lie); 5] = [
        ("silent", silent),
        ("chatty", chatty),
        ("endless", endless),
        ("closing", closing),
        ("rubbish", rubbish),
    ];
    for (name, with) in rows {
        let port = server(with);
        for client in CLIENTS.into_iter().filter(|client| sys::file::exists(client)) {
            eprintln!("{name}");
            for (why, lines) in tried(client, port) {
                let told =
                    ["has not finished the login", "ended the connection and ran no command"];
                assert!(told.iter().any(|text| why.contains(text)), "{name}, {client}: {why}");
                assert!(lines <= 70, "{name}, {client}: {lines} lines");
            }
        }
    }
}

/// A program in the place of the client, as one that a lying server talks to: the script gets the
/// local port in `$port`.
fn behind(script: &str) -> Vec<(String, usize)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("client");
    let start =
        "#!/bin/bash\nfor word; do case $word in 0:127.0.0.1:*) port=${word##*:};; esac; done\n";
    std::fs::write(&path, [start, script].concat()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    tried(path.to_str().unwrap(), 22)
}

#[test]
fn a_banner_without_an_end_is_not_shown_without_an_end() {
    for (why, lines) in behind("exec yes 'a banner' >&2\n") {
        assert!(why.contains("has not finished the login"), "{why}");
        assert!(lines <= 61, "{lines} lines");
    }
    // Without a line feed, and with signs that control a terminal.
    for (why, lines) in behind("exec tr '\\0' '\\033' < /dev/zero >&2\n") {
        assert!(why.contains("has not finished the login"), "{why}");
        assert!(lines <= 61, "{lines} lines");
    }
}

/// What comes through the tunnel is a stranger's.
#[test]
fn rubbish_through_the_tunnel_ends_that_connection_alone() {
    let script = "echo \"dbclient: Allocated port 7 for remote forward to 127.0.0.1:$port\" >&2\n\
                  [ -n \"$port\" ] && for n in 1 2 3; do\n\
                    { head -c 300000 /dev/urandom; echo; } > /dev/tcp/127.0.0.1/$port\n\
                  done 2>/dev/null\n\
                  echo 'virt-v2v: no such command' \nexit 1\n";
    for (why, lines) in behind(script) {
        assert!(!why.is_empty() && lines <= 70, "{why}");
    }
}

/// The server lets in, asks for the archive, and reads none of it.
#[test]
fn a_server_that_takes_nothing_is_told() {
    let script = "echo 'dbclient: logged in' >&2\necho \"@p2v ready /tmp/x\"\nexec sleep 60\n";
    let script = script.replace("@p2v ", crate::script::MARK);
    let told = behind(&script);
    assert!(told[1].0.contains("has taken none of"), "{}", told[1].0);
}
