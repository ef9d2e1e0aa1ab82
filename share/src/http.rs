//! HTTP/1.1 (RFC 9112) for reading files: GET and HEAD, one byte range (RFC 9110 section 14),
//! persistent connections. Requests and responses, without sockets.
//!
//! Doubled slashes in a path count as one, without a redirect, which firmware would not follow.
//! Several ranges in one request are answered with the whole file, as the standard allows.

use std::ops::Range;

/// The longest head of a request.
pub const MAX_HEAD: usize = 16 << 10;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// HEAD: only the head is sent.
    pub head: bool,
    /// POST, without a body: a control request.
    pub post: bool,
    /// X-Bellwether-Proof: that the sender of a control request has the page's key.
    pub proof: Option<String>,
    /// Host, as sent.
    pub host: Option<String>,
    /// Path, decoded, with a leading `/`, without `.`, `..` and empty parts.
    pub path: String,
    /// Part of the file.
    pub range: Option<Part>,
    /// The range counts only for the file with this tag.
    pub if_range: Option<String>,
    /// The client has the file with this tag cached.
    pub if_none_match: Option<String>,
    /// The connection closes after the response.
    pub close: bool,
    /// User-Agent: printable characters, at most 100.
    pub agent: String,
}

/// One byte range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// From an offset, up to and including another (or to the end).
    From(u64, Option<u64>),
    /// The last bytes, this many.
    Last(u64),
}

/// The result of parsing the head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// The head is incomplete.
    Partial,
    /// A request, and its length in bytes.
    Whole(Request, usize),
    /// Not a request that can be served: the status to answer with.
    Bad(u16),
}

/// Parses the head of a request.
pub fn read(bytes: &[u8]) -> Head {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    let used = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Head::Partial,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Head::Bad(431);
        }
        Err(_) => return Head::Bad(400),
    };
    let (head, post) = match parsed.method {
        Some("GET") => (false, false),
        Some("HEAD") => (true, false),
        Some("POST") => (false, true),
        _ => return Head::Bad(405),
    };
    let Some(path) = parsed.path.and_then(path) else { return Head::Bad(400) };
    let mut request = Request {
        head,
        post,
        proof: None,
        host: None,
        path,
        range: None,
        if_range: None,
        if_none_match: None,
        close: parsed.version == Some(0),
        agent: String::new(),
    };
    for header in parsed.headers {
        let value = String::from_utf8_lossy(header.value).trim().to_owned();
        match header.name.to_ascii_lowercase().as_str() {
            "range" => request.range = range(&value),
            "x-bellwether-proof" => request.proof = Some(value),
            "host" if request.host.is_some() => return Head::Bad(400),
            "host" => request.host = Some(value),
            "if-range" => request.if_range = Some(value),
            "if-none-match" => request.if_none_match = Some(value),
            "user-agent" => {
                request.agent = value.chars().filter(|c| !c.is_control()).take(100).collect();
            }
            "connection" => {
                request.close = match value.to_ascii_lowercase().as_str() {
                    "close" => true,
                    "keep-alive" => false,
                    _ => request.close,
                }
            }
            // A body would have to be skipped to find the next request.
            "transfer-encoding" => return Head::Bad(501),
            "content-length" if value != "0" => return Head::Bad(413),
            _ => {}
        }
    }
    Head::Whole(request, used)
}

/// The path of a request target, decoded and normalised. `None` when it leaves the root, has a
/// NUL or is not a path.
pub fn path(target: &str) -> Option<String> {
    let target = match target.split_once("://") {
        // The absolute form, as sent to a proxy.
        Some((scheme, rest)) if !scheme.contains('/') => {
            rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/")
        }
        _ => target,
    };
    let target = target.split(['?', '#']).next()?;
    let mut bytes = Vec::with_capacity(target.len());
    let mut rest = target.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    let decoded = String::from_utf8(bytes).ok()?;
    if !decoded.starts_with('/') || decoded.contains('\0') {
        return None;
    }
    let mut plain = String::new();
    for part in decoded.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            return None;
        }
        plain.push('/');
        plain.push_str(part);
    }
    Some(if plain.is_empty() { "/".into() } else { plain })
}

/// Parses a `Range` header; `None` for an unsupported one, which is then ignored.
fn range(value: &str) -> Option<Part> {
    let spec = value.strip_prefix("bytes=")?.trim();
    let (from, to) = spec.split_once('-')?;
    let number = |text: &str| {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten()
    };
    match (from, to) {
        ("", to) => Some(Part::Last(number(to)?)),
        (from, "") => Some(Part::From(number(from)?, None)),
        (from, to) => {
            let (from, to) = (number(from)?, number(to)?);
            (from <= to).then_some(Part::From(from, Some(to)))
        }
    }
}

/// A response: its head, and the range of the file that follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The head with its empty line, and the text of an error after it.
    pub head: String,
    /// Bytes of the file to send after it.
    pub body: Range<u64>,
}

/// Answers a request for a file of `length` bytes with this tag.
pub fn answer(request: &Request, length: u64, tag: &str) -> Answer {
    let tag = format!("\"{tag}\"");
    if request.if_none_match.as_ref().is_some_and(|tags| tags.contains(&tag)) {
        return finish(request, 304, 0..0, &format!("ETag: {tag}\r\n"));
    }
    let counts = request.if_range.as_ref().is_none_or(|wanted| *wanted == tag);
    let common = format!(
        "Accept-Ranges: bytes\r\nETag: {tag}\r\nContent-Type: application/octet-stream\r\n"
    );
    let body = match request.range.filter(|_| counts) {
        None => return finish(request, 200, 0..length, &common),
        Some(Part::From(from, to)) => {
            from..to.map_or(length, |to| to.saturating_add(1).min(length))
        }
        Some(Part::Last(0)) => length..length,
        Some(Part::Last(count)) => length.saturating_sub(count)..length,
    };
    if body.start >= length {
        return finish(request, 416, 0..0, &format!("Content-Range: bytes */{length}\r\n"));
    }
    let more = format!("Content-Range: bytes {}-{}/{length}\r\n", body.start, body.end - 1);
    finish(request, 206, body, &(common + &more))
}

/// Answers with a text and closes the connection.
pub fn text(kind: &str, body: &str) -> String {
    let fields = format!(
        "Content-Type: {kind}; charset=utf-8\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\n"
    );
    head(200, &fields, Some(body.len() as u64), true) + body
}

/// The head of a stream of server-sent events.
pub fn event_stream() -> String {
    head(200, "Content-Type: text/event-stream\r\nCache-Control: no-store\r\n", None, true)
}

/// Answers with an error, which closes the connection.
pub fn refuse(status: u16) -> String {
    let body = format!("{}\n", reason(status));
    let again = if status == 503 { "Retry-After: 2\r\n" } else { "" };
    let fields = format!("Content-Type: text/plain\r\n{again}");
    head(status, &fields, Some(body.len() as u64), true) + &body
}

/// Answers a request that was meant for another machine: tells at which address this one is.
pub fn misdirected(here: &str) -> String {
    let body =
        format!("{}: this server has another name. Open http://{here}/ instead.\n", reason(421));
    head(421, "Content-Type: text/plain\r\n", Some(body.len() as u64), true) + &body
}

fn finish(request: &Request, status: u16, body: Range<u64>, fields: &str) -> Answer {
    let length = (status != 304).then(|| body.end.saturating_sub(body.start));
    let head = head(status, fields, length, request.close);
    Answer { status, head, body: if request.head { 0..0 } else { body } }
}

/// The head of every response. Add headers that all of them need here.
fn head(status: u16, fields: &str, length: Option<u64>, close: bool) -> String {
    let length = length.map_or_else(String::new, |n| format!("Content-Length: {n}\r\n"));
    let connection = if close { "close" } else { "keep-alive" };
    format!(
        "HTTP/1.1 {status} {}\r\nServer: bellwether\r\n{fields}{length}\
         Connection: {connection}\r\n\r\n",
        reason(status)
    )
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        304 => "Not Modified",
        204 => "No Content",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        416 => "Range Not Satisfiable",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(text: &str) -> Request {
        match read(text.as_bytes()) {
            Head::Whole(request, used) => {
                assert_eq!(used, text.len());
                request
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn paths_are_plain() {
        assert_eq!(path("//boot//vmlinuz").as_deref(), Some("/boot/vmlinuz"));
        assert_eq!(path("/a%20b/./c?x=1#y").as_deref(), Some("/a b/c"));
        assert_eq!(path("http://10.0.0.1:8080/x").as_deref(), Some("/x"));
        assert_eq!(path("/").as_deref(), Some("/"));
        for bad in ["/../etc/passwd", "/a/%2e%2e/b", "/a%00b", "a", "*", "/%f", "/%zz", "/%ff"] {
            assert_eq!(path(bad), None, "{bad}");
        }
    }

    #[test]
    fn ranges() {
        let get = |range: &str| {
            let text = format!("GET /x HTTP/1.1\r\nHost: a\r\nRange: {range}\r\n\r\n");
            let answer = answer(&asked(&text), 100, "t");
            (answer.status, answer.body)
        };
        assert_eq!(get("bytes=0-9"), (206, 0..10));
        assert_eq!(get("bytes=90-"), (206, 90..100));
        assert_eq!(get("bytes=90-999"), (206, 90..100));
        assert_eq!(get("bytes=-5"), (206, 95..100));
        assert_eq!(get("bytes=-500"), (206, 0..100));
        assert_eq!(get("bytes=100-"), (416, 0..0));
        assert_eq!(get("bytes=-0"), (416, 0..0));
        assert_eq!(get("bytes=0-18446744073709551615"), (206, 0..100));
        for ignored in ["bytes=9-0", "bytes=0-1,3-4", "lines=1-2", "bytes=+1-2", "bytes=x-"] {
            assert_eq!(get(ignored), (200, 0..100), "{ignored}");
        }
    }

    #[test]
    fn heads() {
        let request = asked("HEAD /x HTTP/1.0\r\nUser-Agent: iPXE/1.21\r\n\r\n");
        assert!(request.close && request.head);
        assert_eq!(request.agent, "iPXE/1.21");
        let got = answer(&request, 7, "ab");
        assert_eq!(got.body, 0..0);
        assert!(
            got.head.contains("Content-Length: 7\r\n") && got.head.contains("ETag: \"ab\"\r\n")
        );
        let cached = asked("GET /x HTTP/1.1\r\nIf-None-Match: \"ab\"\r\n\r\n");
        assert_eq!(answer(&cached, 7, "ab").status, 304);
        let stale = asked("GET /x HTTP/1.1\r\nRange: bytes=3-\r\nIf-Range: \"no\"\r\n\r\n");
        assert_eq!(answer(&stale, 7, "ab").body, 0..7);
        assert_eq!(read(b"PUT /x HTTP/1.1\r\n\r\n"), Head::Bad(405));
        assert_eq!(read(b"GET /x HTTP/1.1\r\nContent-Length: 5\r\n\r\n"), Head::Bad(413));
        assert_eq!(read(b"GET /x HT"), Head::Partial);
        assert_eq!(read(&[b'a'; MAX_HEAD]), Head::Bad(431));
        assert_eq!(read(b"\x16\x03\x01 tls"), Head::Bad(400));
    }

    #[test]
    fn a_busy_server_says_when_to_come_back() {
        assert!(refuse(503).contains("\r\nRetry-After: 2\r\n"));
        assert!(!refuse(404).contains("Retry-After"));
    }

    #[test]
    fn every_response_has_one_head() {
        assert_eq!(
            refuse(404),
            "HTTP/1.1 404 Not Found\r\nServer: bellwether\r\nContent-Type: text/plain\r\n\
             Content-Length: 10\r\nConnection: close\r\n\r\nNot Found\n"
        );
        assert_eq!(
            event_stream(),
            "HTTP/1.1 200 OK\r\nServer: bellwether\r\nContent-Type: text/event-stream\r\n\
             Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(
            text("text/html", "ab"),
            "HTTP/1.1 200 OK\r\nServer: bellwether\r\nContent-Type: text/html; charset=utf-8\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nContent-Length: 2\r\n\
             Connection: close\r\n\r\nab"
        );
        let kept = asked("GET /x HTTP/1.1\r\nIf-None-Match: \"t\"\r\n\r\n");
        assert_eq!(
            answer(&kept, 7, "t").head,
            "HTTP/1.1 304 Not Modified\r\nServer: bellwether\r\nETag: \"t\"\r\n\
             Connection: keep-alive\r\n\r\n"
        );
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), target: String) {
            let _ = read(&bytes);
            if let Some(path) = path(&target) {
                prop_assert!(path.starts_with('/') && !path.split('/').any(|part| part == ".."));
            }
        }

        #[test]
        fn bodies_are_inside_the_file(from: u64, to: Option<u64>, last: bool, length: u64) {
            let to = to.map(|to| to.max(from));
            let mut request = asked("GET /x HTTP/1.1\r\n\r\n");
            request.range = Some(if last { Part::Last(from) } else { Part::From(from, to) });
            let body = answer(&request, length, "t").body;
            prop_assert!(body.start <= body.end && body.end <= length);
        }
    }
}
