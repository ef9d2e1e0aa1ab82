//! HTTP: the files, and the web page.

use super::{CHUNK, HEAD_PATIENCE, PATIENCE, Slots, accept};
use crate::error::Error;
use crate::event::Watch;
use crate::files::{File, Files};
use crate::http::{self, Head};
use crate::net::name_of;
use crate::page::{self, Page};
use crate::services::Service;
use nix::errno::Errno;
use nix::sys::sendfile::sendfile64;
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that the kernel copies at once, between two updates of a client's progress.
const LARGE: usize = 1 << 20;
/// Bytes that may wait in the kernel for a client.
const WAITING: usize = 200 << 10;

/// Serves HTTP.
///
/// # Errors
/// [`Error::System`] when a thread cannot be started.
pub fn start(
    files: Arc<Files>,
    listener: TcpListener,
    watch: Arc<Watch>,
    page: Option<Arc<Page>>,
) -> Result<(), Error> {
    let viewers = Slots::default();
    accept("http", listener, move |stream, from| {
        let page = page.as_deref().map(|page| (page, &viewers));
        serve(stream, from, &files, &watch, page)
    })
}

/// Answers requests for the page; false for others.
fn answer_page(
    stream: &mut TcpStream,
    request: &http::Request,
    from: Ipv4Addr,
    (page, viewers): (&Page, &Slots),
) -> io::Result<bool> {
    match request.path.as_str() {
        path if request.post => {
            stream
                .write_all(http::refuse(page.control(path, request.token.as_deref())).as_bytes())?;
        }
        "/" => stream.write_all(http::text("text/html", page::HTML).as_bytes())?,
        "/state.json" => {
            stream.write_all(http::text("application/json", &page.state()).as_bytes())?;
        }
        "/events" => {
            let Some(_slot) = viewers.take(from) else {
                stream.write_all(http::refuse(503).as_bytes())?;
                return Ok(true);
            };
            stream.write_all(http::event_stream().as_bytes())?;
            // Until the viewer disconnects: writing fails then.
            loop {
                stream.write_all(format!("data: {}\n\n", page.state()).as_bytes())?;
                thread::sleep(Duration::from_secs(1));
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn serve(
    mut stream: TcpStream,
    from: Ipv4Addr,
    files: &Files,
    watch: &Watch,
    page: Option<(&Page, &Slots)>,
) -> io::Result<()> {
    // A slow client must not fill the processor's caches: the kernel would let megabytes wait
    // for each.
    setsockopt(&stream, sockopt::SndBuf, &WAITING)?;
    let mut input: Vec<u8> = Vec::new();
    let mut buffer = vec![0; CHUNK];
    // The name needs a look into a table: once a connection.
    let who = name_of(from);
    loop {
        // The timeout starts at a request's first byte: a connection may be idle, but not in
        // the middle of a request.
        let mut end = None;
        let (request, used) = loop {
            if end.is_none() && !input.is_empty() {
                end = Some(Instant::now() + HEAD_PATIENCE);
            }
            match http::read(&input) {
                Head::Whole(request, used) => break (request, used),
                Head::Bad(status) => return stream.write_all(http::refuse(status).as_bytes()),
                Head::Partial => {}
            }
            let left = end.map_or(PATIENCE, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return stream.write_all(http::refuse(408).as_bytes());
            }
            stream.set_read_timeout(Some(left))?;
            let mut more = [0; 4096];
            match stream.read(&mut more)? {
                0 => return Ok(()),
                length => input.extend_from_slice(more.get(..length).unwrap_or_default()),
            }
        };
        input.drain(..used.min(input.len()));
        if let Some(page) = page
            && answer_page(&mut stream, &request, from, page)?
        {
            return Ok(());
        }
        let kept = page.and_then(|(page, _)| page.own_disk(&request.path));
        let file = kept.or_else(|| files.find(&request.path)).filter(|_| !request.post);
        let Some(file) = file else {
            return stream.write_all(http::refuse(404).as_bytes());
        };
        if !watch.switches.is_on(Service::Http) {
            return stream.write_all(http::refuse(503).as_bytes());
        }
        if let Some(stage) = file.stage.clone().filter(|_| !request.head) {
            watch.reached(&who, stage);
        }
        let answer = http::answer(&request, file.length, &file.tag);
        stream.write_all(answer.head.as_bytes())?;
        let mut at = answer.body.start;
        while at < answer.body.end {
            // Closing early tells the client that data is missing.
            let sent = send_some(&mut stream, &file, at..answer.body.end, &mut buffer, watch)?;
            at += sent;
            watch.sent(&who, sent);
        }
        if request.close {
            return Ok(());
        }
    }
}

/// Sends the beginning of a part of a file; returns how many bytes, never zero.
fn send_some(
    stream: &mut TcpStream,
    file: &File,
    part: Range<u64>,
    buffer: &mut [u8],
    watch: &Watch,
) -> io::Result<u64> {
    let left = part.end.saturating_sub(part.start);
    let broken = |e: io::Error| {
        watch.broken("", &e);
        e
    };
    if let Some((source, offset, together)) = file.lies_in(part.start) {
        let count = usize::try_from(left.min(together)).unwrap_or(LARGE).min(LARGE);
        let mut at = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        return match sendfile64(&*stream, source, Some(&mut at), count) {
            Ok(0) => Err(broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(sent) => Ok(sent as u64),
            Err(Errno::EIO) => Err(broken(Errno::EIO.into())),
            Err(e) => Err(e.into()),
        };
    }
    let length = usize::try_from(left).unwrap_or(CHUNK).min(buffer.len());
    let bytes = buffer.get_mut(..length).unwrap_or_default();
    file.read_exact_at(part.start, bytes).map_err(broken)?;
    stream.write_all(bytes)?;
    Ok(length as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::fixture::{files, watch};

    #[test]
    fn http_serves_parts_on_one_connection() {
        let (dir, files) = files();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        start(files, listener, watch(), None).unwrap();
        let whole = std::fs::read(dir.path().join("big")).unwrap();
        let mut stream = TcpStream::connect(at).unwrap();
        for (from, to) in [(0, 9), (1_000_000, 1_199_999)] {
            let ask = format!("GET /m/big HTTP/1.1\r\nHost: x\r\nRange: bytes={from}-{to}\r\n\r\n");
            stream.write_all(ask.as_bytes()).unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            assert!(head.starts_with(b"HTTP/1.1 206 "));
            let mut body = vec![0; to - from + 1];
            stream.read_exact(&mut body).unwrap();
            assert_eq!(body, whole[from..=to]);
        }
        stream.write_all(b"GET /nothing HTTP/1.1\r\n\r\n").unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.starts_with("HTTP/1.1 404 "));
    }
}
