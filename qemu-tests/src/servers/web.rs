//! A web server that does what a scenario says, request by request.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::inside::Inside;
use crate::lab::Lab;
use crate::{Error, Result};

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its path.
    pub path: String,
    /// The first byte of the range that it asks for, 0 for all.
    pub from: usize,
    /// How many requests were made before.
    pub nth: usize,
}

/// The server; it stops when it is dropped.
#[derive(Debug)]
pub struct Web(#[allow(dead_code, reason = "ends its thread when dropped")] Inside);

impl Lab {
    /// A web server on port 80 of which each answer, status line included, is what `answer`
    /// writes. The connection is closed afterwards.
    ///
    /// # Errors
    /// [`Error::Io`] when the port is taken.
    pub fn web(
        &self,
        answer: impl Fn(&Asked, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Web> {
        let listener = self.namespace().tcp("0.0.0.0:80")?;
        let mut server = Inside::default();
        let serve = move |mut stream: TcpStream, nth| {
            // A client that goes away is what some scenarios want.
            let _ = read(&stream, nth).and_then(|asked| answer(&asked, &mut stream));
        };
        server.add_tcp(listener, serve).map_err(Error::io("set up the web server's socket"))?;
        Ok(Web(server))
    }
}

/// Reads a request to the end of its head.
fn read(stream: &TcpStream, nth: usize) -> io::Result<Asked> {
    const LONGEST: u64 = 8192;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut lines = BufReader::new(stream.take(LONGEST)).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut from = 0;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            return Ok(Asked { path, from, nth });
        }
        if let Some(range) = line.strip_prefix("Range: bytes=") {
            from = range.split('-').next().and_then(|first| first.parse().ok()).unwrap_or(0);
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Writes a head with these lines after its status.
///
/// # Errors
/// The connection's.
pub fn head(stream: &mut TcpStream, status: &str, lines: &[&str]) -> io::Result<()> {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    write!(stream, "HTTP/1.1 {status}\r\n{lines}\r\n")
}

/// Answers as a good server does, ranges included.
///
/// # Errors
/// The connection's.
pub fn serve(file: &[u8], asked: &Asked, stream: &mut TcpStream) -> io::Result<()> {
    let rest = file.get(asked.from..).unwrap_or_default();
    let length = format!("Content-Length: {}", rest.len());
    let range = format!(
        "Content-Range: bytes {}-{}/{}",
        asked.from,
        file.len().saturating_sub(1),
        file.len()
    );
    match asked.from {
        0 => head(stream, "200 OK", &[&length])?,
        _ => head(stream, "206 Partial Content", &[&length, &range])?,
    }
    stream.write_all(rest)
}

/// Says nothing until the client has closed the connection.
///
/// # Errors
/// The connection's.
pub fn hold(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(600)))?;
    while stream.read(&mut [0; 512])? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn a_range_is_served() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let asked = read(&stream, 7).unwrap();
            serve(b"hello world", &asked, &mut stream).unwrap();
            asked
        });
        client.write_all(b"GET /x HTTP/1.1\r\nRange: bytes=6-\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 206 ") && answer.ends_with("\r\n\r\nworld"));
        assert!(answer.contains("Content-Range: bytes 6-10/11\r\n"), "{answer}");
        assert_eq!(server.join().unwrap(), Asked { path: "/x".into(), from: 6, nth: 7 });
    }
}
