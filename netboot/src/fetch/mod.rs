//! Files by URL: HTTP, FTP and TFTP, read as one stream that survives lost connections.
//!
//! [`Download::read`] returns the file's bytes in order. After a lost connection it connects
//! again and continues at the same offset, by HTTP ranges and FTP restarts; from a server
//! without them the repeated start is discarded. Only [`Options::patience`] without a new byte
//! ends it. A file that changed on the server meanwhile is an error: half of each is no file.
//!
//! The end of the stream is reported only when the whole file has arrived; the caller checks
//! its digest.

pub mod ftp;
pub mod http;
pub mod tftp;
pub mod url;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddrV4;
use core::time::Duration;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;

use crate::io::{FreeUdp, Tcp, pause};
use crate::resolve::{self, Resolver};
use ftp::FtpError;
use http::HttpError;
use sys::clock::Instant;
use sys::errno::Shown;
use tftp::{TftpError, Transfer};
use url::{Scheme, Url, UrlError};

/// Redirections followed for one request.
const MAX_REDIRECTS: u32 = 10;
/// Between two words on a server that fails again and again.
const TOLD: Duration = Duration::from_secs(10);
/// The longest pause between attempts.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A connection without data for this long is replaced.
const STALL: Duration = Duration::from_secs(15);

/// Settings of a download.
#[derive(Debug, Clone)]
pub struct Options {
    /// The resolver of server names.
    pub resolver: Resolver,
    /// Text of a hosts file.
    pub hosts: String,
    /// `http://host:port` of a proxy for HTTP.
    pub proxy: Option<String>,
    /// The boot server, for URLs without a server.
    pub boot_server: Option<String>,
    /// How long to wait without a single byte.
    pub patience: Duration,
    /// The whole transfer is given up then.
    pub until: Option<Instant>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            resolver: Resolver::default(),
            hosts: String::new(),
            proxy: None,
            boot_server: None,
            patience: Duration::from_secs(60),
            until: None,
        }
    }
}

/// Why a file cannot be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchError {
    /// The URL, or one it redirects to, cannot be used.
    Url(UrlError),
    /// The URL names no server, and there is no boot server.
    NoServer,
    /// The server's name has no address.
    Resolve(resolve::Error),
    /// No connection.
    Connect(SocketAddrV4, Errno),
    /// HTTP.
    Http(HttpError),
    /// The web server's status code.
    Status(u16),
    /// Too many redirections.
    Redirects,
    /// FTP.
    Ftp(FtpError),
    /// TFTP.
    Tftp(TftpError),
    /// The file on the server changed.
    Changed,
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchError::Url(error) => write!(f, "{error}"),
            FetchError::NoServer => {
                f.write_str("the URL names no server and DHCP gave no boot server")
            }
            FetchError::Resolve(error) => write!(f, "{error}"),
            FetchError::Connect(peer, errno) => write!(f, "{peer}: {}", Shown(*errno)),
            FetchError::Http(error) => write!(f, "{error}"),
            FetchError::Status(code) => {
                let meaning = match code {
                    401 | 407 => ", a password is needed (http://USER:PASSWORD@…)",
                    403 => ", access denied",
                    404 | 410 => ", no such file",
                    500..600 => ", an error of the server's own",
                    _ => "",
                };
                write!(f, "the web server answers {code}{meaning}")
            }
            FetchError::Redirects => {
                write!(f, "more than {MAX_REDIRECTS} redirections, probably in a circle")
            }
            FetchError::Ftp(error) => write!(f, "{error}"),
            FetchError::Tftp(error) => write!(f, "{error}"),
            FetchError::Changed => {
                f.write_str("the file changed on the server while it was being fetched")
            }
        }
    }
}

impl core::error::Error for FetchError {}

impl FetchError {
    /// Whether a retry is useless.
    pub fn is_final(&self) -> bool {
        match self {
            FetchError::Url(_)
            | FetchError::NoServer
            | FetchError::Redirects
            | FetchError::Changed => true,
            FetchError::Resolve(error) => !matches!(error, resolve::Error::Failed { .. }),
            FetchError::Connect(..) => false,
            FetchError::Http(error) => {
                matches!(error, HttpError::Encoded(_) | HttpError::Malformed(_))
            }
            // 408, 425 and 429 ask for a retry.
            FetchError::Status(code) => {
                (400..500).contains(code) && !matches!(code, 408 | 425 | 429)
            }
            FetchError::Ftp(error) => error.is_final(),
            FetchError::Tftp(error) => error.is_final(),
        }
    }
}

/// The connection of a transfer.
#[derive(Debug)]
enum Connection {
    Http(http::Stream<Tcp>),
    Ftp(ftp::Stream<Tcp>),
    Tftp(TftpStream),
}

/// A file being fetched.
#[derive(Debug)]
pub struct Download {
    url: Url,
    options: Options,
    connection: Option<Connection>,
    /// Bytes returned to the caller.
    position: u64,
    /// Bytes that the connection has to repeat before new ones.
    skip: u64,
    total: Option<u64>,
    validator: Option<String>,
    /// Since when no byte arrived.
    stalled: Instant,
    /// The pause before the next connection.
    rest: Duration,
    attempts: u32,
    notes: Vec<String>,
    /// When the last of them was made.
    told: Instant,
    /// Why the last try ended that was not cut off by [`Options::until`].
    last: Option<FetchError>,
    done: bool,
}

impl Download {
    /// Prepares to fetch a file; sends nothing yet.
    ///
    /// # Errors
    /// [`FetchError::Url`] or [`FetchError::NoServer`] when the URL cannot be used.
    pub fn new(url: &str, options: Options) -> Result<Download, FetchError> {
        let mut url = Url::parse(url).map_err(FetchError::Url)?;
        if url.host.is_empty() {
            url.host = options.boot_server.clone().ok_or(FetchError::NoServer)?;
        }
        Ok(Download {
            url,
            options,
            connection: None,
            position: 0,
            skip: 0,
            total: None,
            validator: None,
            stalled: Instant::now(),
            rest: Duration::ZERO,
            attempts: 0,
            notes: Vec::new(),
            told: Instant::now(),
            last: None,
            done: false,
        })
    }

    /// Size of the file, once the server reported it.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes on at this byte: a connection that is elsewhere is closed.
    pub fn seek(&mut self, position: u64) {
        if position != self.position {
            (self.connection, self.done, self.skip) = (None, false, 0);
            self.position = position;
        }
    }

    /// Bytes that come again before new ones: the server answers no range requests.
    pub fn repeats(&self) -> u64 {
        self.skip
    }

    /// What to wait for before [`Download::read`], which then does not wait. Nothing when
    /// there is no such thing, or bytes are there already.
    pub fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        match &self.connection {
            Some(Connection::Http(stream)) => stream.waits_for().map(AsFd::as_fd),
            _ => None,
        }
    }

    /// Events, for the console: redirections, lost connections.
    pub fn take_notes(&mut self) -> Vec<String> {
        core::mem::take(&mut self.notes)
    }

    /// Connects, so that [`Download::total`] is known, without reading. False when that failed
    /// for now: the reason is among the notes, and the next call tries again after a pause.
    ///
    /// # Errors
    /// As [`Download::read`].
    pub fn open(&mut self) -> Result<bool, FetchError> {
        if self.attempts == 0 {
            self.stalled = Instant::now();
        }
        if self.connection.is_some() || self.done {
            return Ok(true);
        }
        pause(core::mem::take(&mut self.rest));
        self.attempts = self.attempts.saturating_add(1);
        match self.connect() {
            Ok(()) => Ok(true),
            Err(error) => self.bear(error).map(|()| false),
        }
    }

    /// Reads the next bytes; 0 at the end of the file. `None` when there are none yet, or the
    /// connection failed for now: the next call connects again after a pause, and the reason is
    /// among the notes.
    ///
    /// # Errors
    /// [`FetchError`] when a retry is useless, or nothing arrived for [`Options::patience`].
    pub fn read(&mut self, out: &mut [u8]) -> Result<Option<usize>, FetchError> {
        loop {
            if self.done || out.is_empty() {
                return Ok(Some(0));
            }
            if !self.open()? {
                return Ok(None);
            }
            let failed = match self.receive(out) {
                Ok(0) if self.total.is_none_or(|total| total == self.position) => {
                    self.done = true;
                    self.connection = None;
                    continue;
                }
                Ok(0) => FetchError::Http(HttpError::CutShort),
                Ok(length) => {
                    // Bytes that a server repeats are no progress: one that ends too early
                    // each time would be asked for ever.
                    let length = self.drop_known(out, length);
                    if length > 0 {
                        self.stalled = Instant::now();
                        self.attempts = 1;
                        self.position = self.position.saturating_add(length as u64);
                        return Ok(Some(length));
                    }
                    return Ok(None);
                }
                Err(error) => error,
            };
            self.bear(failed)?;
            return Ok(None);
        }
    }

    /// Removes bytes that the caller already has; returns how many are left.
    fn drop_known(&mut self, out: &mut [u8], length: usize) -> usize {
        if self.skip == 0 {
            return length;
        }
        let known = usize::try_from(self.skip).unwrap_or(usize::MAX).min(length);
        self.skip = self.skip.saturating_sub(known as u64);
        out.copy_within(known..length, 0);
        length.saturating_sub(known)
    }

    /// Handles a failure: fatal, or a retry after a pause.
    fn bear(&mut self, error: FetchError) -> Result<(), FetchError> {
        self.connection = None;
        let now = Instant::now();
        let end = self.stalled.after(self.options.patience);
        let end = self.options.until.map_or(end, |until| end.min(until));
        if error.is_final() {
            return Err(error);
        }
        if now >= end {
            // The last try was cut off, which tells nothing of the server.
            let cut_off = self.options.until.is_some_and(|until| now >= until);
            return Err(self.last.take().filter(|_| cut_off).unwrap_or(error));
        }
        if self.attempts <= 1 || now >= self.told.after(TOLD) {
            let then = match self.position {
                0 => String::from("trying again"),
                position => format!("going on at byte {position}"),
            };
            let mut note = format!("{}: {error}; {then}", self.url);
            if self.attempts > 1 {
                let seconds = |time: Duration| time.as_secs().to_string();
                let tries = self.attempts.to_string();
                let (spent, left) = (seconds(now.since(self.stalled)), seconds(end.since(now)));
                let more = ["; tried ", &tries, " times in ", &spent, " s, ", &left, " s left"];
                more.iter().for_each(|part| note.push_str(part));
            }
            self.told = now;
            self.notes.push(note);
        }
        let shift = self.attempts.min(8);
        let span = Duration::from_millis(100u64.checked_shl(shift).unwrap_or(u64::MAX));
        self.rest = span.min(MAX_PAUSE);
        self.attempts = self.attempts.max(1);
        self.last = Some(error);
        Ok(())
    }

    /// Connects at the present offset, or before it.
    fn connect(&mut self) -> Result<(), FetchError> {
        let deadline = self.until(STALL.min(self.options.patience));
        match self.url.scheme {
            Scheme::Http => self.connect_http(deadline),
            Scheme::Ftp => {
                let server = self.address(&self.url.host, self.url.port)?;
                let mut connect =
                    |port| Tcp::connect(SocketAddrV4::new(*server.ip(), port), false, deadline);
                let stream = ftp::Stream::open(&self.url, self.position, &mut connect)
                    .map_err(FetchError::Ftp)?;
                self.settle(stream.size, stream.start)?;
                self.connection = Some(Connection::Ftp(stream));
                Ok(())
            }
            Scheme::Tftp => {
                let server = self.address(&self.url.host, self.url.port)?;
                let file = self.url.file();
                let name = file.strip_prefix('/').unwrap_or(&file);
                let stream = TftpStream::open(name, server, self.until(self.options.patience))?;
                self.settle(stream.transfer.size(), 0)?;
                self.connection = Some(Connection::Tftp(stream));
                Ok(())
            }
        }
    }

    fn connect_http(&mut self, deadline: Instant) -> Result<(), FetchError> {
        for _ in 0..=MAX_REDIRECTS {
            let proxy = match &self.options.proxy {
                Some(proxy) => Some(Url::parse(proxy).map_err(FetchError::Url)?),
                None => None,
            };
            let via = proxy.as_ref().unwrap_or(&self.url);
            let peer = self.address(&via.host, via.port)?;
            let tcp = Tcp::connect(peer, false, deadline)
                .map_err(|errno| FetchError::Connect(peer, errno))?;
            let validator = self.validator.as_deref();
            let request = http::request(&self.url, self.position, validator, proxy.is_some());
            let (head, stream) = http::Stream::open(tcp, &request).map_err(FetchError::Http)?;
            match head.status {
                200 | 206 => {
                    http::check_encoding(&head, &self.url).map_err(FetchError::Http)?;
                    let (start, total) = match (head.status, head.range) {
                        (206, Some((first, total))) if first <= self.position => (first, total),
                        (206, _) => return Err(FetchError::Http(HttpError::WrongRange)),
                        _ => (0, if head.chunked { None } else { head.length }),
                    };
                    // Nothing is known of it when it is had from its middle on.
                    let known = self.total.is_some() || self.validator.is_some();
                    if head.status == 200
                        && self.position > 0
                        && known
                        && self.validator != head.validator
                    {
                        // Sent from the start, and changed meanwhile.
                        return Err(FetchError::Changed);
                    }
                    self.settle(total, start)?;
                    self.validator = head.validator;
                    self.connection = Some(Connection::Http(stream));
                    return Ok(());
                }
                301 | 302 | 303 | 307 | 308 => {
                    let Some(location) = &head.location else {
                        return Err(FetchError::Http(HttpError::Malformed("redirection")));
                    };
                    let next = self.url.join(location).map_err(FetchError::Url)?;
                    if next.scheme != Scheme::Http {
                        let scheme = UrlError::Scheme(format!("{next}"));
                        return Err(FetchError::Url(scheme));
                    }
                    self.notes.push(format!("{} is at {next}", self.url));
                    self.url = next;
                }
                code => return Err(FetchError::Status(code)),
            }
        }
        Err(FetchError::Redirects)
    }

    /// Records where a connection starts and how long the file is.
    fn settle(&mut self, total: Option<u64>, start: u64) -> Result<(), FetchError> {
        if let (Some(known), Some(total)) = (self.total, total)
            && known != total
        {
            return Err(FetchError::Changed);
        }
        self.total = self.total.or(total);
        self.skip = self.position.saturating_sub(start);
        Ok(())
    }

    fn address(&self, host: &str, port: u16) -> Result<SocketAddrV4, FetchError> {
        let limit = Duration::from_secs(10).min(self.options.patience);
        let resolver = &self.options.resolver;
        let address =
            resolver.resolve(host, &self.options.hosts, limit).map_err(FetchError::Resolve)?;
        Ok(SocketAddrV4::new(address, port))
    }

    /// The end of a wait of so long.
    fn until(&self, limit: Duration) -> Instant {
        let end = Instant::now().after(limit);
        self.options.until.map_or(end, |until| end.min(until))
    }

    fn receive(&mut self, out: &mut [u8]) -> Result<usize, FetchError> {
        let deadline = self.until(STALL.min(self.options.patience));
        let silent = self.until(self.options.patience);
        match &mut self.connection {
            Some(Connection::Http(stream)) => stream.read(out, deadline).map_err(FetchError::Http),
            Some(Connection::Ftp(stream)) => stream.read(out, deadline).map_err(FetchError::Ftp),
            Some(Connection::Tftp(stream)) => stream.read(out, silent),
            None => Ok(0),
        }
    }
}

/// A TFTP transfer with its socket.
#[derive(Debug)]
struct TftpStream {
    socket: FreeUdp,
    server: SocketAddrV4,
    transfer: Transfer,
    /// Received data that were not read yet.
    ready: Vec<u8>,
    taken: usize,
    buffer: Vec<u8>,
}

impl TftpStream {
    /// Sends the request and waits for the server's first answer.
    fn open(name: &str, server: SocketAddrV4, end: Instant) -> Result<TftpStream, FetchError> {
        let transfer = Transfer::new(name, Instant::now()).map_err(FetchError::Tftp)?;
        let socket = FreeUdp::open().map_err(|errno| FetchError::Connect(server, errno))?;
        let mut stream = TftpStream {
            socket,
            server,
            transfer,
            ready: Vec::new(),
            taken: 0,
            buffer: vec![0; 2048],
        };
        while stream.transfer.port().is_none() && !stream.transfer.is_done() {
            stream.turn(end)?;
        }
        Ok(stream)
    }

    /// Waits for one datagram, or for the time of a retransmission.
    fn turn(&mut self, end: Instant) -> Result<(), FetchError> {
        let failed = |errno| FetchError::Connect(self.server, errno);
        if end.is_past() {
            return Err(failed(Errno::TIMEDOUT));
        }
        let received =
            self.socket.receive_from(&mut self.buffer, self.transfer.deadline().min(end));
        let datagram = match received {
            Ok((length, from)) if from.ip() == self.server.ip() => {
                Some((from.port(), self.buffer.get(..length).unwrap_or_default()))
            }
            Ok(_) => return Ok(()),
            Err(Errno::TIMEDOUT) => None,
            Err(errno) => return Err(failed(errno)),
        };
        let known = self.transfer.port();
        let output = self.transfer.step(Instant::now(), datagram).map_err(FetchError::Tftp)?;
        // This distinguishes a server that stopped from a slow one.
        if let (None, Some(port)) = (known, self.transfer.port()) {
            self.socket.stay_with(SocketAddrV4::new(*self.server.ip(), port)).map_err(failed)?;
        }
        if let Some(datagram) = output.send {
            let port = self.transfer.port().unwrap_or(self.server.port());
            let to = SocketAddrV4::new(*self.server.ip(), port);
            self.socket.send_to(&datagram, to).map_err(failed)?;
        }
        self.ready.extend_from_slice(&output.data);
        Ok(())
    }

    fn read(&mut self, out: &mut [u8], end: Instant) -> Result<usize, FetchError> {
        while self.taken >= self.ready.len() {
            self.ready.clear();
            self.taken = 0;
            if self.transfer.is_done() {
                return Ok(0);
            }
            self.turn(end)?;
        }
        let left = self.ready.get(self.taken..).unwrap_or_default();
        let length = left.len().min(out.len());
        for (to, byte) in out.iter_mut().zip(left) {
            *to = *byte;
        }
        self.taken = self.taken.saturating_add(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// A boot with a time limit waited for such a server until its watcher restarted the machine.
    #[test]
    fn a_silent_server_is_given_up_when_the_time_is_over() {
        let http = TcpListener::bind("127.0.0.1:0").unwrap();
        let tftp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (http, tftp) = (http.local_addr().unwrap(), tftp.local_addr().unwrap());
        for url in [format!("http://{http}/x"), format!("tftp://{tftp}/x")] {
            let until = Instant::now().after(Duration::from_secs(1));
            let mut download =
                Download::new(&url, Options { until: Some(until), ..Options::default() }).unwrap();
            let error = loop {
                match download.read(&mut [0; 64]) {
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert!(error.to_string().contains("ETIMEDOUT"), "{error}");
            let late = until.after(Duration::from_secs(2));
            assert!(!late.is_past(), "{url}: within the pause between two tries");
        }
    }

    /// The failure screen told of the try that the time limit cut off, not of what is wrong.
    #[test]
    fn the_time_limit_does_not_hide_why_tries_failed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for (n, client) in listener.incoming().enumerate() {
                let mut client = client.unwrap();
                if n < 2 {
                    let _ = client.read(&mut [0; 1024]);
                    let _ = client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbytes");
                } else {
                    silent.push(client);
                }
            }
        });
        let until = Some(Instant::now().after(Duration::from_secs(2)));
        let mut download = Download::new(&url, Options { until, ..Options::default() }).unwrap();
        let error = loop {
            match download.read(&mut [0; 64]) {
                Ok(_) => {}
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("ended before the file did"), "{error}");
    }

    /// It was asked for ever: what it repeats each time was taken for progress.
    #[test]
    fn a_server_that_ends_too_early_each_time_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                let _ = client.read(&mut [0; 1024]);
                let _ = client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbytes");
            }
        });
        let patience = Duration::from_millis(700);
        let mut download = Download::new(&url, Options { patience, ..Options::default() }).unwrap();
        let (mut file, mut buffer) = (Vec::new(), [0; 64]);
        let limit = Instant::now().after(Duration::from_secs(20));
        let error = loop {
            match download.read(&mut buffer) {
                Ok(length) => file.extend_from_slice(&buffer[..length.unwrap_or(0)]),
                Err(error) => break error,
            }
            assert!(!limit.is_past(), "it is asked for ever");
        };
        assert_eq!((error, &file[..]), (FetchError::Http(HttpError::CutShort), &b"bytes"[..]));
        assert_eq!(download.take_notes().len(), 1, "each repetition was told");
    }
}
