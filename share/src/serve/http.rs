//! HTTP: the files, and the web page.

use super::{Client, HEAD_PATIENCE, Timed, accept, patiently, timed_out};
use crate::budget::{Budget, Places, Use, is_shortage};
use crate::error::Error;
use crate::event::Watch;
use crate::files::{Content, File, Files};
use crate::http::{self, Head};
use crate::page::{self, Page};
use crate::services::Service;
use nix::errno::Errno;
use nix::sys::sendfile::sendfile64;
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Bytes that the kernel copies at once, between two updates of a client's progress.
const LARGE: usize = 1 << 20;
/// Bytes of a file that are read at once.
const CHUNK: usize = 128 << 10;
/// Viewers of the page.
const VIEWERS: usize = 32;
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
    budget: &Budget,
) -> Result<(), Error> {
    let viewers = Places::new(VIEWERS);
    let (memory, told) = (budget.memory.clone(), watch.clone());
    accept("http", listener, &budget.http, &told, http::refuse(503), move |stream, from, place| {
        let page = page.as_deref().map(|page| (page, &viewers));
        serve(stream, &Client::new(from, place, &memory), &files, &watch, page)
    })
}

/// Answers requests for the page; false for others.
fn answer_page(
    mut stream: &TcpStream,
    request: &http::Request,
    client: &Client<'_>,
    (page, viewers): (&Page, &Places),
) -> io::Result<bool> {
    match request.path.as_str() {
        path if request.post => {
            stream
                .write_all(http::refuse(page.control(path, request.proof.as_deref())).as_bytes())?;
        }
        "/" => stream.write_all(http::text("text/html", page::HTML).as_bytes())?,
        "/state.json" => {
            stream.write_all(http::text("application/json", &page.state()).as_bytes())?;
        }
        "/events" => {
            // It ends at its next write.
            let Some(viewer) = viewers.take(client.from, || ()) else {
                stream.write_all(http::refuse(503).as_bytes())?;
                return Ok(true);
            };
            // Browsers come back by themselves.
            viewer.is(Use::Idle);
            client.place.is(Use::Idle);
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
    mut stream: &TcpStream,
    client: &Client<'_>,
    files: &Files,
    watch: &Watch,
    page: Option<(&Page, &Places)>,
) -> io::Result<()> {
    // A slow client must not fill the processor's caches: the kernel would let megabytes wait
    // for each.
    setsockopt(stream, sockopt::SndBuf, &WAITING)?;
    let mut input: Vec<u8> = Vec::new();
    let mut timed = Timed::new(stream);
    loop {
        // The deadline starts at a request's first byte: a connection may be idle, but not in
        // the middle of a request.
        timed.end = None;
        let (request, used) = loop {
            if timed.end.is_none() && !input.is_empty() {
                timed.within(HEAD_PATIENCE);
            }
            match http::read(&input) {
                Head::Whole(request, used) => break (request, used),
                Head::Bad(status) => return stream.write_all(http::refuse(status).as_bytes()),
                Head::Partial => {}
            }
            let mut more = [0; 4096];
            match timed.read(&mut more) {
                Ok(0) => return Ok(()),
                Ok(length) => input.extend_from_slice(more.get(..length).unwrap_or_default()),
                Err(e) if timed_out(&e) && !input.is_empty() => {
                    return stream.write_all(http::refuse(408).as_bytes());
                }
                Err(e) => return Err(e),
            }
        };
        input.drain(..used.min(input.len()));
        client.place.is(Use::Busy);
        if let Some((page, _)) = page
            && !page.is_here(request.host.as_deref())
        {
            let here = stream.local_addr()?.to_string();
            return stream.write_all(http::misdirected(&here).as_bytes());
        }
        if let Some(page) = page
            && answer_page(stream, &request, client, page)?
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
            watch.reached(&client.who, stage);
        }
        let answer = http::answer(&request, file.length, &file.tag);
        if let Err(e) = can_be_read(&file, &answer.body) {
            let status = if is_shortage(&e) { 503 } else { 500 };
            if status == 500 {
                watch.broken(&request.path, &e);
            }
            return stream.write_all(http::refuse(status).as_bytes());
        }
        stream.write_all(answer.head.as_bytes())?;
        let mut at = answer.body.start;
        while at < answer.body.end {
            client.place.is(Use::Owing);
            // Closing early tells the client that data is missing.
            let sent = send_some(stream, &file, at..answer.body.end, client, watch)?;
            at += sent;
            watch.sent(&client.who, sent);
        }
        if request.close {
            return Ok(());
        }
        client.place.is(Use::Idle);
    }
}

/// Whether the first byte of a body can be read: an error after the head cannot be said.
fn can_be_read(file: &File, body: &Range<u64>) -> io::Result<()> {
    match body.is_empty() {
        true => Ok(()),
        false => file.read_exact_at(body.start, &mut [0]),
    }
}

/// Sends the beginning of a part of a file; returns how many bytes, never zero.
fn send_some(
    mut stream: &TcpStream,
    file: &File,
    part: Range<u64>,
    client: &Client<'_>,
    watch: &Watch,
) -> io::Result<u64> {
    let left = part.end.saturating_sub(part.start);
    let broken = |e: io::Error| {
        watch.broken("", &e);
        e
    };
    let most = usize::try_from(left).unwrap_or(LARGE).min(LARGE);
    if let Some(piece) = file.piece(part.start, most) {
        let mut at = i64::try_from(piece.offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        return match sendfile64(stream, piece.file(), Some(&mut at), piece.length) {
            Ok(0) => Err(broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(sent) => Ok(sent as u64),
            Err(Errno::EIO) => Err(broken(Errno::EIO.into())),
            Err(e) => Err(e.into()),
        };
    }
    let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
    if let Content::Memory(bytes) = &file.content {
        let from = usize::try_from(part.start).unwrap_or(usize::MAX);
        let bytes = bytes.get(from..).and_then(|rest| rest.get(..length));
        stream.write_all(bytes.ok_or(io::ErrorKind::UnexpectedEof)?)?;
        return Ok(length as u64);
    }
    let room = client.memory.room(client.from, length);
    let mut bytes = vec![0; room.bytes];
    patiently(|| file.read_exact_at(part.start, &mut bytes)).map_err(broken)?;
    stream.write_all(&bytes)?;
    Ok(room.bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::fixture::{budget, files, watch};

    #[test]
    fn http_serves_parts_on_one_connection() {
        let (dir, files) = files();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        start(files, listener, watch(), None, &budget()).unwrap();
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
