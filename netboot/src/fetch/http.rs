//! HTTP/1.1 (RFC 9112) for fetching a file: GET, ranges, chunks.
//!
//! The core builds requests, and parses response heads and bodies. No TLS, no compression (it
//! is refused, not passed on), no keep-alive: one connection for each file.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use rustix::io::Errno;

use super::url::Url;
use crate::io::{self, Broken};
use sys::clock::Instant;

/// The longest response head that is read.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 100;
/// The longest line of a chunked body outside the data.
const MAX_CHUNK_LINE: u32 = 4096;
const BUFFER: usize = 64 * 1024;

/// Why an answer cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpError {
    /// Not HTTP, or malformed; in which part.
    Malformed(&'static str),
    /// The body is compressed although the request did not allow it.
    Encoded(String),
    /// Another range than the requested one.
    WrongRange,
    /// The connection ended early.
    CutShort,
    /// The connection failed.
    Io(Errno),
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HttpError::Malformed(part) => write!(f, "malformed answer ({part}); not a web server?"),
            HttpError::Encoded(encoding) => {
                write!(f, "the server sends the file {encoding}-encoded without being asked")
            }
            HttpError::WrongRange => f.write_str("the server sent another part of the file"),
            HttpError::CutShort => f.write_str("the connection ended before the file did"),
            HttpError::Io(errno) => write!(f, "{}", sys::errno::Shown(*errno)),
        }
    }
}

impl From<Broken> for HttpError {
    fn from(Broken(errno): Broken) -> Self {
        HttpError::Io(errno)
    }
}

/// Whether a body in this encoding is the requested file: a `.gz` file that its server declares
/// as gzip-encoded is.
///
/// # Errors
/// [`HttpError::Encoded`] when the server compressed the file for the transfer.
pub fn check_encoding(head: &Head, url: &Url) -> Result<(), HttpError> {
    let Some(encoding) = &head.encoding else { return Ok(()) };
    let path = url.path.split('?').next().unwrap_or_default();
    let own = match encoding.as_str() {
        "gzip" | "x-gzip" => path.ends_with(".gz") || path.ends_with(".tgz"),
        "zstd" => path.ends_with(".zst"),
        "x-xz" => path.ends_with(".xz"),
        _ => false,
    };
    if own { Ok(()) } else { Err(HttpError::Encoded(encoding.clone())) }
}

/// Builds the request for a file from byte `from` on.
///
/// `validator` is an entity tag or date: the server starts over when the file has changed. With
/// `proxy` the request has the whole URL.
pub fn request(url: &Url, from: u64, validator: Option<&str>, proxy: bool) -> Vec<u8> {
    let port = if url.port == url.scheme.port() { String::new() } else { format!(":{}", url.port) };
    let target = if proxy { format!("{url}") } else { url.path.clone() };
    let mut text = format!(
        "GET {target} HTTP/1.1\r\nHost: {}{port}\r\nUser-Agent: bellwether\r\nAccept: */*\r\n\
         Accept-Encoding: identity\r\nConnection: close\r\n",
        url.host
    );
    if from > 0 {
        text.push_str(&format!("Range: bytes={from}-\r\n"));
        if let Some(validator) = validator {
            text.push_str(&format!("If-Range: {validator}\r\n"));
        }
    }
    if let Some(user) = &url.user {
        let password = url.password.as_deref().unwrap_or_default();
        let login = base64(format!("{user}:{password}").as_bytes());
        text.push_str(&format!("Authorization: Basic {login}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let mut bits = 0u32;
        for at in 0..3 {
            bits = bits << 8 | u32::from(group.get(at).copied().unwrap_or(0));
        }
        for at in 0..4usize {
            let digit = (bits >> (18 - 6 * at)) & 63;
            let digit = DIGITS.get(digit as usize).copied().unwrap_or(b'=');
            out.push(if at <= group.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// A response head.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// `Content-Length`.
    pub length: Option<u64>,
    /// Whether the body is chunked.
    pub chunked: bool,
    /// First byte and size of the whole file, from `Content-Range`.
    pub range: Option<(u64, Option<u64>)>,
    /// `Content-Encoding`, lower case, unless it is none.
    pub encoding: Option<String>,
    /// `Location`.
    pub location: Option<String>,
    /// A strong entity tag, or the date of the last change: for `If-Range`.
    pub validator: Option<String>,
}

/// Parses a response head; returns it and its length, or `None` when it is incomplete.
///
/// # Errors
/// [`HttpError`] when it is malformed or not supported.
pub fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, HttpError> {
    let malformed = HttpError::Malformed;
    if bytes.len() >= 5 && !bytes.starts_with(b"HTTP/") {
        return Err(malformed("status line"));
    }
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        if bytes.len() > MAX_HEAD {
            return Err(malformed("head too long"));
        }
        return Ok(None);
    };
    let text = bytes.get(..end).and_then(|head| core::str::from_utf8(head).ok());
    let mut lines = text.ok_or(malformed("head"))?.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let code = status.split(' ').nth(1).filter(|code| code.len() == 3);
    let code = code.and_then(|code| code.parse::<u16>().ok()).ok_or(malformed("status line"))?;
    let mut head = Head { status: code, ..Head::default() };
    let mut modified = None;
    for line in lines.take(MAX_HEADERS) {
        let (name, value) = line.split_once(':').ok_or(malformed("header"))?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let length = number(value).ok_or(malformed("Content-Length"))?;
                if head.length.is_some_and(|known| known != length) {
                    return Err(malformed("two Content-Lengths"));
                }
                head.length = Some(length);
            }
            "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => head.chunked = true,
            "transfer-encoding" if !value.eq_ignore_ascii_case("identity") => {
                return Err(HttpError::Encoded(value.to_owned()));
            }
            "content-encoding" if !value.eq_ignore_ascii_case("identity") => {
                head.encoding = Some(value.to_ascii_lowercase());
            }
            "content-range" => {
                head.range = Some(parse_range(value).ok_or(malformed("Content-Range"))?);
            }
            "location" => head.location = Some(value.to_owned()),
            "etag" if value.starts_with('"') => head.validator = Some(value.to_owned()),
            "last-modified" => modified = Some(value.to_owned()),
            _ => {}
        }
    }
    head.validator = head.validator.or(modified);
    Ok(Some((head, end.saturating_add(4))))
}

/// Digits only: no sign, no blanks.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// `bytes FIRST-LAST/TOTAL`.
fn parse_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.trim().split_once('/')?;
    let total = if total == "*" { None } else { Some(number(total)?) };
    if range == "*" {
        return Some((u64::MAX, total));
    }
    let (first, _) = range.split_once('-')?;
    Some((number(first)?, total))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The rest of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// This many bytes.
    Length(u64),
    /// Everything until the connection ends.
    UntilClose,
    /// Chunks.
    Chunked(Chunk),
    /// Nothing.
    Done,
}

/// Position in a chunked body (RFC 9112 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// In the line with its size; size so far, digits, whether an extension began.
    Size(u64, u32, bool),
    /// In its data, this many bytes before its end.
    Data(u64),
    /// After its data.
    End(u32),
    /// In the lines after the last chunk; length of the line so far.
    Trailer(u32),
}

impl Body {
    /// The body that follows a head.
    pub fn new(head: &Head) -> Body {
        match (head.chunked, head.length) {
            (true, _) => Body::Chunked(Chunk::Size(0, 0, false)),
            (false, Some(0)) => Body::Done,
            (false, Some(length)) => Body::Length(length),
            (false, None) => Body::UntilClose,
        }
    }

    /// Takes input: returns how much of it was used, and which part of that, at its end, is
    /// data of the file.
    ///
    /// [`HttpError::Malformed`] when the chunks are malformed.
    /// When the chunks are malformed.
    pub fn take(&mut self, input: &[u8]) -> Result<(usize, usize), HttpError> {
        let most = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        match self {
            Body::Done => Ok((0, 0)),
            Body::UntilClose => Ok((input.len(), input.len())),
            Body::Length(left) => {
                let used = most(*left);
                *left = left.saturating_sub(used as u64);
                if *left == 0 {
                    *self = Body::Done;
                }
                Ok((used, used))
            }
            Body::Chunked(Chunk::Data(left)) => {
                let used = most(*left);
                *left = left.saturating_sub(used as u64);
                if *left == 0 {
                    *self = Body::Chunked(Chunk::End(0));
                }
                Ok((used, used))
            }
            Body::Chunked(_) => {
                let mut used = 0usize;
                for byte in input {
                    used = used.saturating_add(1);
                    self.chunk_byte(*byte)?;
                    if matches!(self, Body::Done | Body::Chunked(Chunk::Data(_))) {
                        break;
                    }
                }
                Ok((used, 0))
            }
        }
    }

    /// One byte between the data of chunks.
    fn chunk_byte(&mut self, byte: u8) -> Result<(), HttpError> {
        let malformed = HttpError::Malformed("chunk");
        let Body::Chunked(chunk) = self else { return Ok(()) };
        *chunk = match (*chunk, byte) {
            (Chunk::Size(_, 0, _), b'\n') => return Err(malformed),
            (Chunk::Size(0, _, _), b'\n') => Chunk::Trailer(0),
            (Chunk::Size(size, _, _), b'\n') => Chunk::Data(size),
            (Chunk::Size(size, digits, _), b'\r' | b';' | b' ' | b'\t') => {
                Chunk::Size(size, digits, true)
            }
            (Chunk::Size(size, digits, true), _) if digits < MAX_CHUNK_LINE => {
                Chunk::Size(size, digits.saturating_add(1), true)
            }
            (Chunk::Size(size, digits, false), digit) if digits < 16 => {
                let digit = char::from(digit).to_digit(16).ok_or(malformed)?;
                Chunk::Size(size << 4 | u64::from(digit), digits.saturating_add(1), false)
            }
            (Chunk::End(0), b'\r') => Chunk::End(1),
            (Chunk::End(_), b'\n') => Chunk::Size(0, 0, false),
            (Chunk::Trailer(_), b'\r') => return Ok(()),
            (Chunk::Trailer(0), b'\n') => {
                *self = Body::Done;
                return Ok(());
            }
            (Chunk::Trailer(_), b'\n') => Chunk::Trailer(0),
            (Chunk::Trailer(length), _) if length < MAX_CHUNK_LINE => {
                Chunk::Trailer(length.saturating_add(1))
            }
            _ => return Err(malformed),
        };
        Ok(())
    }
}

/// A file transfer.
#[derive(Debug)]
pub struct Stream<S> {
    peer: S,
    buffer: Vec<u8>,
    /// The unused range of the buffer.
    start: usize,
    end: usize,
    body: Body,
}

impl<S: io::Stream> Stream<S> {
    /// Sends a request and reads the response head, also of redirections and errors.
    ///
    /// # Errors
    /// [`HttpError`] when no usable head arrives before the connection's deadline.
    pub fn open(mut peer: S, request: &[u8]) -> Result<(Head, Self), HttpError> {
        peer.write_all(request)?;
        let mut stream =
            Stream { peer, buffer: vec![0; BUFFER], start: 0, end: 0, body: Body::Done };
        loop {
            let got = stream.buffer.get(..stream.end).unwrap_or_default();
            match parse_head(got)? {
                // 1xx: the real one follows.
                Some((head, length)) if head.status < 200 => {
                    stream.buffer.copy_within(length..stream.end, 0);
                    stream.end = stream.end.saturating_sub(length);
                }
                Some((head, length)) => {
                    stream.start = length;
                    stream.body = Body::new(&head);
                    return Ok((head, stream));
                }
                None => {
                    let room = stream.buffer.get_mut(stream.end..).unwrap_or_default();
                    match stream.peer.read(room)? {
                        0 => return Err(HttpError::CutShort),
                        length => stream.end = stream.end.saturating_add(length),
                    }
                }
            }
        }
    }

    /// The connection, when the next [`Stream::read`] reads from it.
    pub fn waits_for(&self) -> Option<&S> {
        (self.start >= self.end && self.body != Body::Done).then_some(&self.peer)
    }

    /// Reads more of the file; 0 at its end.
    ///
    /// # Errors
    /// [`HttpError`] when the connection fails or ends early.
    pub fn read(&mut self, out: &mut [u8], deadline: Instant) -> Result<usize, HttpError> {
        self.peer.set_deadline(deadline);
        loop {
            if self.body == Body::Done || out.is_empty() {
                return Ok(0);
            }
            if self.start < self.end {
                let limit = self.end.min(self.start.saturating_add(out.len()));
                let input = self.buffer.get(self.start..limit).unwrap_or_default();
                let (used, data) = self.body.take(input)?;
                let from = used.saturating_sub(data);
                for (to, byte) in out.iter_mut().zip(input.get(from..used).unwrap_or_default()) {
                    *to = *byte;
                }
                self.start = self.start.saturating_add(used);
                if data > 0 {
                    return Ok(data);
                }
                continue;
            }
            // Most of a file goes straight to the caller.
            let direct = match self.body {
                Body::Length(left) | Body::Chunked(Chunk::Data(left)) => {
                    usize::try_from(left).unwrap_or(usize::MAX).min(out.len())
                }
                Body::UntilClose => out.len(),
                _ => 0,
            };
            if direct > 0 {
                let room = out.get_mut(..direct).unwrap_or_default();
                let length = self.peer.read(room)?;
                if length == 0 {
                    let whole = self.body == Body::UntilClose;
                    self.body = Body::Done;
                    return if whole { Ok(0) } else { Err(HttpError::CutShort) };
                }
                self.body.take(out.get(..length).unwrap_or_default())?;
                return Ok(length);
            }
            match self.peer.read(&mut self.buffer)? {
                0 => return Err(HttpError::CutShort),
                length => (self.start, self.end) = (0, length),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::tests::Peer;
    use proptest::prelude::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn requests() {
        let text = String::from_utf8(request(&url("http://h:81/x"), 0, Some("\"e\""), false));
        assert_eq!(
            text.unwrap(),
            "GET /x HTTP/1.1\r\nHost: h:81\r\nUser-Agent: bellwether\r\nAccept: */*\r\n\
             Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
        );
        let text = String::from_utf8(request(&url("http://me:secret@h/x"), 5, Some("\"e\""), true))
            .unwrap();
        assert!(text.starts_with("GET http://h/x HTTP/1.1\r\n"));
        assert!(text.contains("\r\nRange: bytes=5-\r\nIf-Range: \"e\"\r\n"));
        assert!(text.contains("\r\nAuthorization: Basic bWU6c2VjcmV0\r\n"));
        assert_eq!(base64(b"a"), "YQ==");
        assert_eq!(base64(b"ab"), "YWI=");
    }

    #[test]
    fn heads() {
        let text = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\nETag: \"x\"\r\n\
                     Content-Range: bytes 5-14/15\r\nLast-Modified: now\r\n\r\nbody";
        let (head, length) = parse_head(text).unwrap().unwrap();
        assert_eq!(&text[length..], b"body");
        assert_eq!(head.status, 206);
        assert_eq!((head.length, head.range), (Some(10), Some((5, Some(15)))));
        assert_eq!(head.validator.as_deref(), Some("\"x\""));
        assert_eq!(parse_head(&text[..40]), Ok(None));
        let weak = b"HTTP/1.0 200\r\nETag: W/\"x\"\r\nLast-Modified: now\r\n\r\n";
        assert_eq!(parse_head(weak).unwrap().unwrap().0.validator.as_deref(), Some("now"));
    }

    #[test]
    fn bad_heads_are_refused() {
        let bad = |text: &[u8]| parse_head(text).unwrap_err();
        assert_eq!(bad(b"SSH-2.0-x"), HttpError::Malformed("status line"));
        assert_eq!(bad(b"HTTP/1.1 abc\r\n\r\n"), HttpError::Malformed("status line"));
        assert_eq!(
            bad(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            HttpError::Malformed("two Content-Lengths")
        );
        assert_eq!(
            bad(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
            HttpError::Malformed("Content-Length")
        );
        assert_eq!(
            bad(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"),
            HttpError::Encoded("gzip".into())
        );
        assert_eq!(
            bad(&[b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; MAX_HEAD]].concat()),
            HttpError::Malformed("head too long")
        );
    }

    /// Runs a body through in pieces; gives its data and what was left over.
    fn run(mut body: Body, input: &[u8], piece: usize) -> Result<(Vec<u8>, usize), HttpError> {
        let mut data = Vec::new();
        let mut at = 0;
        while at < input.len() && body != Body::Done {
            let end = input.len().min(at + piece);
            let (used, size) = body.take(&input[at..end])?;
            assert!(used > 0 && size <= used);
            data.extend(&input[at + used - size..at + used]);
            at += used;
        }
        Ok((data, input.len() - at))
    }

    #[test]
    fn chunks() {
        let input = b"5\r\nhello\r\n06;name=value\r\n world\r\n0\r\nX-T: y\r\n\r\nrest";
        let head = Head { chunked: true, length: Some(3), ..Head::default() };
        for piece in 1..input.len() {
            let (data, left) = run(Body::new(&head), input, piece).unwrap();
            assert_eq!((data.as_slice(), left), (&b"hello world"[..], 4));
        }
        for bad in [&b"x\r\n"[..], b"\r\n", b"11111111111111111\r\n", b"1\r\nab"] {
            assert!(run(Body::new(&head), bad, 3).is_err(), "{bad:?}");
        }
    }

    /// Fetches from a peer in the way that a download does.
    fn fetch(peer: Peer) -> Result<Vec<u8>, HttpError> {
        let (_, mut stream) = Stream::open(peer, b"GET")?;
        assert_eq!(stream.peer.sent, b"GET");
        let mut file = Vec::new();
        let mut buffer = [0; 7];
        loop {
            match stream.read(&mut buffer, Instant::now())? {
                0 => return Ok(file),
                length => file.extend_from_slice(&buffer[..length]),
            }
        }
    }

    #[test]
    fn a_file_comes_over_peers_that_dribble_cut_and_fail() {
        let answers: [&[u8]; 3] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
              5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\nhello world",
        ];
        for (at, answer) in answers.iter().enumerate() {
            for piece in [1, 2, 3, 7, 4096] {
                assert_eq!(fetch(Peer::new(answer, piece, Ok(0))).unwrap(), b"hello world");
            }
            let cut = &answer[..answer.len() - 6];
            let reset = Peer::new(cut, 1, Err(Errno::CONNRESET));
            assert_eq!(fetch(reset), Err(HttpError::Io(Errno::CONNRESET)));
            // Only a length or chunks tell a cut from the end.
            let expected = if at == 2 { Ok(b"hello".to_vec()) } else { Err(HttpError::CutShort) };
            assert_eq!(fetch(Peer::new(cut, 1, Ok(0))), expected);
        }
        assert_eq!(fetch(Peer::new(b"HTTP/1.1 2", 1, Ok(0))), Err(HttpError::CutShort));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1usize..40) {
            let _ = parse_head(&bytes);
            let _ = parse_head(&[b"HTTP/1.1 200 OK\r\n".as_slice(), &bytes, b"\r\n\r\n"].concat());
            let _ = run(Body::Chunked(Chunk::Size(0, 0, false)), &bytes, piece);
        }

        #[test]
        fn chunked_bodies_round_trip(parts in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 1..50), 0..10), piece in 1usize..60)
        {
            let mut wire = Vec::new();
            for part in &parts {
                wire.extend(format!("{:x}\r\n", part.len()).bytes());
                wire.extend(part);
                wire.extend(b"\r\n");
            }
            wire.extend(b"0\r\n\r\n");
            let (data, left) =
                run(Body::Chunked(Chunk::Size(0, 0, false)), &wire, piece).unwrap();
            prop_assert_eq!((data, left), (parts.concat(), 0));
        }
    }
}
