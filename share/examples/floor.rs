//! The least that sends files by HTTP: a thread a connection, and `sendfile`. `floor DIRECTORY`
//! serves it on port 8181. It checks nothing, and is only there to be measured.

use nix::sys::sendfile::sendfile64;
use nix::sys::socket::{setsockopt, sockopt};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

fn main() -> io::Result<()> {
    let root = std::env::args().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    for stream in TcpListener::bind("0.0.0.0:8181")?.incoming() {
        let root = root.clone();
        std::thread::spawn(move || stream.and_then(|stream| send(stream, Path::new(&root))));
    }
    Ok(())
}

fn send(mut stream: TcpStream, root: &Path) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // As `share` has it.
    setsockopt(&stream, sockopt::SndBuf, &(200 << 10))?;
    let (mut head, mut part) = (Vec::new(), [0; 4096]);
    while !head.ends_with(b"\r\n\r\n") {
        let got = stream.read(&mut part)?;
        head.extend(
            part.get(..got).filter(|got| !got.is_empty()).ok_or(io::ErrorKind::BrokenPipe)?,
        );
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let file = File::open(root.join(path))?;
    let length = file.metadata()?.len();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
    let mut at = 0;
    while (at as u64) < length && sendfile64(&stream, &file, Some(&mut at), 1 << 20)? > 0 {}
    Ok(())
}
