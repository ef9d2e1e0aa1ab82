//! FTP (RFC 959) for fetching a file: passive mode (RFC 2428 `EPSV`, or `PASV`), binary,
//! restart (RFC 3659 `REST`, `SIZE`).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use rustix::io::Errno;

use super::url::Url;
use crate::io::{self, Broken};
use sys::clock::Instant;

/// The longest reply with all its lines.
const MAX_REPLY: usize = 16 * 1024;

/// Why a file cannot be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FtpError {
    /// Not an FTP server.
    Malformed,
    /// The server refuses: code and text.
    Refused(u16, String),
    /// The connection failed.
    Io(Errno),
    /// The connection ended early.
    CutShort,
}

impl fmt::Display for FtpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FtpError::Malformed => f.write_str("malformed answer; not an FTP server?"),
            FtpError::Refused(code, text) => write!(f, "the server says: {code} {text}"),
            FtpError::Io(errno) => write!(f, "{}", sys::errno::Shown(*errno)),
            FtpError::CutShort => f.write_str("the connection ended before the file did"),
        }
    }
}

impl FtpError {
    /// Whether a retry is useless: refusals of the 5xx kind.
    pub fn is_final(&self) -> bool {
        matches!(self, FtpError::Malformed | FtpError::Refused(500..600, _))
    }
}

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// The text of its last line.
    pub text: String,
}

/// Assembles replies; several lines make one when the first has a hyphen.
#[derive(Debug, Default)]
pub struct Replies {
    pending: Vec<u8>,
    open: Option<u16>,
}

impl Replies {
    /// Adds bytes of the control connection.
    ///
    /// # Errors
    /// [`FtpError::Malformed`] when the reply is too long or not FTP.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), FtpError> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() > MAX_REPLY { Err(FtpError::Malformed) } else { Ok(()) }
    }

    /// The next complete reply, if any.
    ///
    /// # Errors
    /// [`FtpError::Malformed`] when the bytes are not an FTP reply.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, FtpError> {
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let rest = self.pending.split_off(end.saturating_add(1));
            let line = core::mem::replace(&mut self.pending, rest);
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            let code = line.get(..3).and_then(|code| code.parse::<u16>().ok());
            let code = code.filter(|code| (100..600).contains(code));
            let mark = line.as_bytes().get(3).copied();
            match (self.open, code, mark) {
                (None, Some(code), Some(b'-')) => self.open = Some(code),
                (None, Some(code), Some(b' ') | None) => {
                    return Ok(Some(reply(code, line)));
                }
                (Some(open), Some(code), Some(b' ') | None) if open == code => {
                    self.open = None;
                    return Ok(Some(reply(code, line)));
                }
                (Some(_), ..) => {}
                (None, ..) => return Err(FtpError::Malformed),
            }
        }
        Ok(None)
    }
}

fn reply(code: u16, line: &str) -> Reply {
    let text = line.get(4..).unwrap_or_default();
    Reply { code, text: text.chars().filter(|c| !c.is_control()).take(200).collect() }
}

/// The port in `Entering Extended Passive Mode (|||PORT|)`.
pub fn parse_epsv(text: &str) -> Option<u16> {
    let inner = text.split_once('(')?.1.split_once(')')?.0;
    let mark = inner.chars().next()?;
    let mut fields = inner.split(mark);
    let port = fields.nth(3)?.parse::<u16>().ok()?;
    (port != 0).then_some(port)
}

/// The port in `Entering Passive Mode (a,b,c,d,HIGH,LOW)`. The address is ignored: behind NAT
/// it is wrong, from a malicious server it is an attack.
pub fn parse_pasv(text: &str) -> Option<u16> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let digits = text.get(start..)?;
    let end = digits.find(|c: char| !c.is_ascii_digit() && c != ',').unwrap_or(digits.len());
    let mut numbers = digits.get(..end)?.split(',').map(|field| field.parse::<u8>().ok());
    let high = numbers.nth(4)??;
    let low = numbers.next()??;
    let port = u16::from_be_bytes([high, low]);
    (port != 0).then_some(port)
}

/// A file transfer.
#[derive(Debug)]
pub struct Stream<S> {
    control: S,
    replies: Replies,
    data: S,
    /// The control connection confirmed the end.
    confirmed: bool,
    /// Size of the whole file, if the server reported it.
    pub size: Option<u64>,
    /// Offset of the data in the file.
    pub start: u64,
}

impl<S: io::Stream> Stream<S> {
    /// Logs in and requests a file from byte `from` on; from the start when the server cannot
    /// restart. `connect` opens a connection to a port of the server.
    ///
    /// # Errors
    /// [`FtpError::Refused`] for a refusal, else the connection's failure.
    pub fn open(
        url: &Url,
        from: u64,
        connect: &mut dyn FnMut(u16) -> Result<S, Errno>,
    ) -> Result<Self, FtpError> {
        let peer = connect(url.port).map_err(FtpError::Io)?;
        let mut control = Control { peer, replies: Replies::default() };
        let greeting = control.reply()?;
        if greeting.code != 220 {
            return Err(refused(greeting));
        }
        let user = url.user.as_deref().unwrap_or("anonymous");
        let mut answer = control.ask("USER", user)?;
        if answer.code == 331 {
            let password = url.password.as_deref().unwrap_or("bellwether@");
            answer = control.ask("PASS", password)?;
        }
        if !matches!(answer.code, 230 | 202) {
            return Err(refused(answer));
        }
        let answer = control.ask("TYPE", "I")?;
        if answer.code != 200 {
            return Err(refused(answer));
        }
        // RFC 1738: relative to where the login put us; some lines mean from the root.
        let path = url.file();
        let relative = path.strip_prefix('/').unwrap_or(&path).to_owned();
        let mut names = Vec::new();
        for name in [relative, path] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let mut last = FtpError::Malformed;
        for name in names {
            let size = control.ask("SIZE", &name)?;
            let size = if size.code == 213 { size.text.trim().parse().ok() } else { None };
            let port = control.passive()?;
            let mut start = 0;
            if from > 0 && control.ask("REST", &format!("{from}"))?.code == 350 {
                start = from;
            }
            let data = connect(port).map_err(FtpError::Io)?;
            let answer = control.ask("RETR", &name)?;
            match answer.code {
                125 | 150 => {
                    let Control { peer: control, replies } = control;
                    return Ok(Stream { control, replies, data, confirmed: false, size, start });
                }
                _ => last = refused(answer),
            }
        }
        Err(last)
    }

    /// Reads more of the file; 0 at its end, once the server confirmed it.
    ///
    /// # Errors
    /// [`FtpError`] when the connection fails or ends early.
    pub fn read(&mut self, out: &mut [u8], deadline: Instant) -> Result<usize, FtpError> {
        self.data.set_deadline(deadline);
        let length = self.data.read(out)?;
        if length > 0 || self.confirmed {
            return Ok(length);
        }
        self.control.set_deadline(deadline);
        match read_reply(&mut self.control, &mut self.replies)? {
            Reply { code: 226 | 250, .. } => {
                self.confirmed = true;
                Ok(0)
            }
            // 426 and the like: the server aborted the transfer.
            _ => Err(FtpError::CutShort),
        }
    }
}

impl From<Broken> for FtpError {
    fn from(Broken(errno): Broken) -> Self {
        FtpError::Io(errno)
    }
}

fn refused(reply: Reply) -> FtpError {
    FtpError::Refused(reply.code, reply.text)
}

struct Control<S> {
    peer: S,
    replies: Replies,
}

impl<S: io::Stream> Control<S> {
    fn reply(&mut self) -> Result<Reply, FtpError> {
        read_reply(&mut self.peer, &mut self.replies)
    }

    fn ask(&mut self, command: &str, argument: &str) -> Result<Reply, FtpError> {
        // Arguments hold no control characters: URLs drop them when decoded.
        let line = format!("{command} {argument}\r\n");
        self.send(&line)?;
        self.reply()
    }

    fn send(&mut self, line: &str) -> Result<(), FtpError> {
        Ok(self.peer.write_all(line.as_bytes())?)
    }

    fn passive(&mut self) -> Result<u16, FtpError> {
        self.send("EPSV\r\n")?;
        let answer = self.reply()?;
        if answer.code == 229
            && let Some(port) = parse_epsv(&answer.text)
        {
            return Ok(port);
        }
        self.send("PASV\r\n")?;
        let answer = self.reply()?;
        match parse_pasv(&answer.text) {
            Some(port) if answer.code == 227 => Ok(port),
            _ => Err(refused(answer)),
        }
    }
}

fn read_reply(peer: &mut impl io::Stream, replies: &mut Replies) -> Result<Reply, FtpError> {
    let mut buffer = [0u8; 1024];
    loop {
        if let Some(reply) = replies.next_reply()? {
            return Ok(reply);
        }
        match peer.read(&mut buffer)? {
            0 => return Err(FtpError::CutShort),
            length => replies.push(buffer.get(..length).unwrap_or_default())?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::tests::Peer;
    use alloc::vec;
    use proptest::prelude::*;

    #[test]
    fn replies_of_several_lines() {
        let mut replies = Replies::default();
        let text = b"220-Welcome\r\n220-to\r\n 220 not yet\r\n220 here\r\n331 Password\r\n23";
        let mut got = Vec::new();
        for byte in text {
            replies.push(&[*byte]).unwrap();
            got.extend(replies.next_reply().unwrap());
        }
        let got: Vec<_> = got.iter().map(|reply| (reply.code, reply.text.as_str())).collect();
        assert_eq!(got, [(220, "here"), (331, "Password")]);
        let mut bad = Replies::default();
        bad.push(b"HTTP/1.1 400\r\n").unwrap();
        assert_eq!(bad.next_reply(), Err(FtpError::Malformed));
        assert!(Replies::default().push(&[b'x'; MAX_REPLY + 1]).is_err());
    }

    #[test]
    fn a_file_comes_over_peers_that_dribble_and_cut() {
        const SESSION: &str = "220 hello\r\n331 password\r\n230 in\r\n200 binary\r\n213 5\r\n\
                               229 ok (|||4000|)\r\n350 from there\r\n150 coming\r\n";
        let fetch = |end: &str, data: Peer| {
            let session = [SESSION, end].concat();
            let mut peers = vec![data, Peer::new(session.as_bytes(), 1, Ok(0))];
            let mut ports = Vec::new();
            let mut connect = |port| {
                ports.push(port);
                peers.pop().ok_or(Errno::CONNREFUSED)
            };
            let url = Url::parse("ftp://server/live/file").unwrap();
            let mut stream = Stream::open(&url, 2, &mut connect)?;
            assert_eq!((stream.size, stream.start, ports), (Some(5), 2, vec![21, 4000]));
            let commands = "USER anonymous\r\nPASS bellwether@\r\nTYPE I\r\nSIZE live/file\r\n\
                            EPSV\r\nREST 2\r\nRETR live/file\r\n";
            assert_eq!(String::from_utf8_lossy(&stream.control.sent), commands);
            let mut file = Vec::new();
            let mut buffer = [0; 9];
            loop {
                match stream.read(&mut buffer, Instant::now())? {
                    0 => return Ok(file),
                    length => file.extend_from_slice(&buffer[..length]),
                }
            }
        };
        let whole = || Peer::new(b"llo", 1, Ok(0));
        assert_eq!(fetch("226 done\r\n", whole()).unwrap(), b"llo");
        // Without the server's word the end of the data is no end of the file.
        assert_eq!(fetch("", whole()), Err(FtpError::CutShort));
        assert_eq!(fetch("426 broken\r\n", whole()), Err(FtpError::CutShort));
        let broken = Peer::new(b"l", 1, Err(Errno::CONNRESET));
        assert_eq!(fetch("226 done\r\n", broken), Err(FtpError::Io(Errno::CONNRESET)));
    }

    #[test]
    fn passive_ports() {
        assert_eq!(parse_epsv("Entering Extended Passive Mode (|||40123|)"), Some(40123));
        assert_eq!(parse_epsv("x (!!!7!)"), Some(7));
        assert_eq!(parse_epsv("x (|||99999|)"), None);
        assert_eq!(parse_pasv("Entering Passive Mode (10,0,0,1,156,64)."), Some(40000));
        assert_eq!(parse_pasv("=10,0,0,1,156,64"), Some(40000));
        assert_eq!(parse_pasv("Entering Passive Mode (10,0,0,1,256,64)."), None);
        assert_eq!(parse_pasv("nothing"), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), text: String) {
            let mut replies = Replies::default();
            let _ = replies.push(&bytes);
            while let Ok(Some(_)) = replies.next_reply() {}
            let _ = parse_epsv(&text);
            let _ = parse_pasv(&text);
        }
    }
}
