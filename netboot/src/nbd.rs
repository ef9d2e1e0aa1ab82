//! Network block devices: the fixed newstyle negotiation, and the handover of the connections
//! to the kernel.
//!
//! Follows the protocol description of the NBD project (`doc/proto.md`):
//! `NBD_OPT_GO`, with `NBD_OPT_EXPORT_NAME` for servers that do not know it, and
//! `NBD_OPT_LIST` to say which exports there are when the wanted one is not. The
//! kernel side is the generic netlink interface `nbd` (`linux/nbd-netlink.h`,
//! Linux 4.12). It needs no process for reading and writing; it cannot connect anew
//! by itself, though: the process that sees a lost connection gives it another
//! one by [`reconnect`], and until then it lets readers and writers wait.
//!
//! Not done: TLS, the old style.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use sys::bytes::{be16, be32, be64, counted, length};
use sys::netlink::{Arguments, Generic};

pub mod wire;

use crate::io::{Broken, Stream, Tcp};
use sys::clock::Instant;
use sys::errno::Shown;
use wire::{
    FIXED, MAGIC, MAGIC_OPTION, MAGIC_REPLY, MAX_NAME, NO_ZEROES, ask, flag, info, option, reply,
};

/// Requests without an answer in this time are sent again over another connection; the first
/// one counts as lost.
const REQUEST_SECONDS: u64 = 20;
/// How long readers and writers wait for a device without any connection before they fail. A
/// failed root is lost; a waiting one continues, as with NFS.
const DEAD_SECONDS: u64 = 7 * 24 * 3600;
/// The longest option reply.
const MAX_REPLY: usize = 64 * 1024;
const MAX_EXPORTS: usize = 64;
/// Most connections: more only cost memory.
const MAX_CONNECTIONS: u8 = 16;

/// What a server of the old style says.
const MAGIC_OLD: u64 = 0x0000_4202_8186_1253;

/// Why there is no device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NbdError {
    /// The peer is not an NBD server.
    NotNbd,
    /// The server supports the old style only.
    OldStyle,
    /// The export's name is too long.
    Name,
    /// The server lacks the export, or refuses it to this machine.
    Refused {
        /// The export.
        export: String,
        /// The server's error, without its error bit.
        code: u32,
        /// Its message.
        message: String,
        /// Its exports, as far as it lists them.
        exports: Vec<String>,
    },
    /// The connection failed.
    Io(SocketAddrV4, Errno),
    /// The kernel refused.
    Kernel(sys::netlink::Error),
}

impl NbdError {
    /// Whether a retry may help: a server that is starting answers like this, and
    /// (`NBD_REP_ERR_POLICY`) one with all its connections taken, perhaps by this machine
    /// before a power cut. An unknown export is a wrong name.
    pub fn is_transient(&self) -> bool {
        matches!(self, NbdError::Io(..) | NbdError::Refused { code: 2 | 7, .. })
    }
}

impl fmt::Display for NbdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NbdError::NotNbd => f.write_str("the service on that port is not an NBD server"),
            NbdError::OldStyle => f.write_str(
                "the NBD server uses the old style from before 2011 (one export a port), which is not supported",
            ),
            NbdError::Name => write!(f, "the export's name is longer than {MAX_NAME} bytes"),
            NbdError::Refused { export, code, message, exports } => {
                let meaning = match code {
                    2 => "the server refuses it to this machine (access denied)",
                    5 => "the server requires TLS, which is not supported",
                    6 => "the server has no such export",
                    7 => "the server is shutting down",
                    _ => "the server refuses",
                };
                write!(f, "export {export:?}: {meaning}")?;
                if !message.is_empty() {
                    write!(f, " ({message})")?;
                }
                for (at, export) in exports.iter().enumerate() {
                    write!(f, "{}{export:?}", if at == 0 { "; it has " } else { ", " })?;
                }
                Ok(())
            }
            NbdError::Io(peer, errno) => write!(f, "{peer}: {}", Shown(*errno)),
            NbdError::Kernel(error) => {
                write!(f, "{}", error)?;
                match error.errno {
                    Errno::NOENT => f.write_str("; is the module nbd loaded?"),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl core::error::Error for NbdError {}

/// A server's description of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Export {
    /// Its size in bytes.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
    /// Minimum and preferred block size in bytes, if reported.
    pub blocks: Option<(u32, u32)>,
}

/// The state of a negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeting,
    /// Waiting for replies to an option.
    Option(u32),
    /// Waiting for the answer to `NBD_OPT_EXPORT_NAME`, which has no reply header.
    ExportName,
    Done,
}

/// A negotiation: takes and returns bytes.
#[derive(Debug)]
pub struct Negotiation {
    export: String,
    stage: Stage,
    no_zeroes: bool,
    listing: bool,
    input: Vec<u8>,
    found: Export,
    exports: Vec<String>,
}

impl Negotiation {
    /// Requests an export; an empty name means the server's default.
    ///
    /// # Errors
    /// [`NbdError::Name`] when the name is too long.
    pub fn new(export: &str) -> Result<Negotiation, NbdError> {
        if export.len() > MAX_NAME {
            return Err(NbdError::Name);
        }
        Ok(Negotiation {
            export: export.to_owned(),
            stage: Stage::Greeting,
            no_zeroes: false,
            listing: false,
            input: Vec::new(),
            found: Export::default(),
            exports: Vec::new(),
        })
    }

    /// Requests the list of exports.
    pub fn list() -> Negotiation {
        Negotiation {
            export: String::new(),
            stage: Stage::Greeting,
            no_zeroes: false,
            listing: true,
            input: Vec::new(),
            found: Export::default(),
            exports: Vec::new(),
        }
    }

    /// The export, once the server granted it: the connection then speaks the transmission
    /// protocol.
    pub fn export(&self) -> Option<Export> {
        (self.stage == Stage::Done && !self.listing).then_some(self.found)
    }

    /// Whether the negotiation has ended.
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Names of exports that the server listed.
    pub fn exports(&self) -> &[String] {
        &self.exports
    }

    /// Takes bytes from the server; returns bytes to send.
    ///
    /// # Errors
    /// [`NbdError::NotNbd`], [`NbdError::OldStyle`], or [`NbdError::Refused`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, NbdError> {
        self.input.extend_from_slice(bytes);
        let mut out = Vec::new();
        while self.stage != Stage::Done {
            let Some((used, answer)) = self.turn()? else { break };
            self.input.drain(..used.min(self.input.len()));
            out.extend(answer);
        }
        Ok(out)
    }

    /// Handles one message; returns its length and the answer.
    fn turn(&mut self) -> Result<Option<(usize, Vec<u8>)>, NbdError> {
        match self.stage {
            Stage::Done => Ok(None),
            Stage::Greeting => self.greeting(),
            Stage::ExportName => {
                let zeroes = if self.no_zeroes { 0 } else { 124 };
                let length = 10usize.saturating_add(zeroes);
                if self.input.len() < length {
                    return Ok(None);
                }
                let (Some(size), Some(flags)) = (be64(&self.input, 0), be16(&self.input, 8)) else {
                    return Ok(None);
                };
                self.found.size = size;
                self.found.flags = flags;
                self.stage = Stage::Done;
                Ok(Some((length, Vec::new())))
            }
            Stage::Option(option) => self.reply(option),
        }
    }

    fn greeting(&mut self) -> Result<Option<(usize, Vec<u8>)>, NbdError> {
        // Recognise a web server by its first byte already.
        let start = MAGIC.to_be_bytes();
        if !self.input.iter().zip(start).all(|(got, wanted)| *got == wanted) {
            return Err(NbdError::NotNbd);
        }
        let Some(magic) = be64(&self.input, 8) else { return Ok(None) };
        match magic {
            MAGIC_OPTION => {}
            MAGIC_OLD => return Err(NbdError::OldStyle),
            _ => return Err(NbdError::NotNbd),
        }
        let Some(flags) = be16(&self.input, 16) else { return Ok(None) };
        if flags & FIXED == 0 {
            return Err(NbdError::OldStyle);
        }
        self.no_zeroes = flags & NO_ZEROES != 0;
        // The client's flags have the same numbers.
        let answer = u32::from(flags & (FIXED | NO_ZEROES));
        let mut out = answer.to_be_bytes().to_vec();
        if self.listing {
            out.extend(ask(option::LIST, &[]));
            self.stage = Stage::Option(option::LIST);
        } else {
            let name = self.export.as_bytes();
            // One information request.
            let [one, sizes] = [1, info::BLOCK_SIZE].map(u16::to_be_bytes);
            let data = [&length(name).to_be_bytes()[..], name, &one, &sizes].concat();
            out.extend(ask(option::GO, &data));
            self.stage = Stage::Option(option::GO);
        }
        Ok(Some((18, out)))
    }

    /// Handles a reply to an option.
    fn reply(&mut self, asked: u32) -> Result<Option<(usize, Vec<u8>)>, NbdError> {
        let header = (
            be64(&self.input, 0),
            be32(&self.input, 8),
            be32(&self.input, 12),
            be32(&self.input, 16),
        );
        let (Some(magic), Some(option_asked), Some(kind), Some(length)) = header else {
            return Ok(None);
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if magic != MAGIC_REPLY || option_asked != asked || length > MAX_REPLY {
            return Err(NbdError::NotNbd);
        }
        let end = length.saturating_add(20);
        let Some(data) = self.input.get(20..end) else { return Ok(None) };
        let data = data.to_vec();
        let mut out = Vec::new();
        match kind {
            reply::ACK => self.stage = Stage::Done,
            reply::INFO => self.info(&data),
            reply::SERVER if self.listing => {
                let name = counted(&mut &data[..]).unwrap_or_default();
                if self.exports.len() < MAX_EXPORTS {
                    self.exports.push(printable(name));
                }
            }
            reply::UNSUPPORTED if asked == option::GO => {
                out = ask(option::EXPORT_NAME, self.export.as_bytes());
                self.stage = Stage::ExportName;
            }
            error if error & reply::ERROR != 0 => {
                return Err(NbdError::Refused {
                    export: self.export.clone(),
                    code: error & !reply::ERROR,
                    message: printable(&data),
                    exports: Vec::new(),
                });
            }
            _ => {}
        }
        Ok(Some((end, out)))
    }

    fn info(&mut self, data: &[u8]) {
        match be16(data, 0) {
            Some(info::EXPORT) => {
                if let (Some(size), Some(flags)) = (be64(data, 2), be16(data, 10)) {
                    self.found.size = size;
                    self.found.flags = flags;
                }
            }
            Some(info::BLOCK_SIZE) => {
                self.found.blocks = be32(data, 2).zip(be32(data, 6));
            }
            _ => {}
        }
    }
}

fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Negotiates on a new connection until the end.
///
/// # Errors
/// [`NbdError::Io`] when there is no connection; otherwise as [`Negotiation::push`].
pub fn negotiate(
    peer: SocketAddrV4,
    mut negotiation: Negotiation,
    deadline: Instant,
) -> Result<(Tcp, Negotiation), NbdError> {
    let tcp = Tcp::connect(peer, false, deadline);
    let mut tcp = tcp.map_err(|errno| NbdError::Io(peer, errno))?;
    converse(peer, &mut tcp, &mut negotiation)?;
    Ok((tcp, negotiation))
}

/// Negotiates on a connection until the end. `peer` is for error texts.
///
/// # Errors
/// As [`negotiate`].
pub fn converse(
    peer: SocketAddrV4,
    stream: &mut dyn Stream,
    negotiation: &mut Negotiation,
) -> Result<(), NbdError> {
    let io = |Broken(errno)| NbdError::Io(peer, errno);
    let mut buffer = [0u8; 4096];
    while !negotiation.is_done() {
        let length = stream.read(&mut buffer).map_err(io)?;
        if length == 0 {
            return Err(io(Broken(Errno::CONNRESET)));
        }
        let answer = negotiation.push(buffer.get(..length).unwrap_or_default())?;
        stream.write_all(&answer).map_err(io)?;
    }
    Ok(())
}

/// Connections to an export, ready for the kernel.
#[derive(Debug)]
pub struct Connected {
    /// The server's description of it.
    pub export: Export,
    /// The connections, at least one.
    pub sockets: Vec<OwnedFd>,
}

/// Connects to an export, with several connections when the server allows it.
///
/// Blocks for `limit` at most.
///
/// # Errors
/// [`NbdError`] of the connection or the negotiation.
pub fn connect(
    server: Ipv4Addr,
    port: u16,
    export: &str,
    connections: u8,
    limit: Duration,
) -> Result<Connected, NbdError> {
    let peer = SocketAddrV4::new(server, port);
    let deadline = Instant::now().after(limit);
    let mut connected = Connected { export: Export::default(), sockets: Vec::new() };
    for _ in 0..connections.clamp(1, MAX_CONNECTIONS) {
        let negotiated = negotiate(peer, Negotiation::new(export)?, deadline);
        let (tcp, negotiation) = negotiated.map_err(|error| explain(peer, error, deadline))?;
        connected.export = negotiation.export().unwrap_or_default();
        connected.sockets.push(OwnedFd::from(tcp));
        if connected.export.flags & flag::MULTI == 0 {
            break;
        }
    }
    Ok(connected)
}

/// Adds the server's exports to a refusal.
fn explain(peer: SocketAddrV4, error: NbdError, deadline: Instant) -> NbdError {
    let NbdError::Refused { export, code, message, .. } = error else { return error };
    let exports = match negotiate(peer, Negotiation::list(), deadline) {
        Ok((_, negotiation)) => negotiation.exports().to_vec(),
        Err(_) => Vec::new(),
    };
    NbdError::Refused { export, code, message, exports }
}

/// Commands of the kernel's interface, and their attributes.
const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;
const RECONFIGURE: u8 = 3;
const INDEX: u16 = 1;
const SOCKETS: u16 = 7;

/// Hands the connections to the kernel; returns the device's number, 0 for `nbd0`.
///
/// The kernel keeps the sockets: the caller may close its own descriptors.
///
/// # Errors
/// [`NbdError::Kernel`] with the errno; `ENOENT` without the driver.
pub fn attach(connected: &Connected) -> Result<u32, NbdError> {
    const SIZE: u16 = 2;
    const BLOCK_SIZE: u16 = 3;
    const TIMEOUT: u16 = 4;
    const SERVER_FLAGS: u16 = 5;
    const DEAD_TIMEOUT: u16 = 8;
    // The kernel's limits are 512 and a page; smaller blocks of the server work with it.
    let block = connected.export.blocks.map_or(512, |(smallest, _)| smallest.clamp(512, 4096));
    let arguments = Arguments::default()
        .u64(SIZE, connected.export.size)
        .u64(BLOCK_SIZE, u64::from(block))
        .u64(TIMEOUT, REQUEST_SECONDS)
        .u64(DEAD_TIMEOUT, DEAD_SECONDS)
        .u64(SERVER_FLAGS, u64::from(connected.export.flags))
        .nested(SOCKETS, &sockets(&connected.sockets));
    let answers = kernel(CONNECT, &arguments)?;
    let index = answers
        .iter()
        .find(|(kind, _)| *kind == INDEX)
        .and_then(|(_, value)| value.first_chunk::<4>())
        .map_or(0, |raw| u32::from_ne_bytes(*raw));
    Ok(index)
}

/// Replaces a device's lost connections.
///
/// # Errors
/// The kernel's errno: `ENOSPC` when none is lost, `EINVAL` when the device was detached.
pub fn reconnect(index: u32, connected: &Connected) -> Result<(), NbdError> {
    let arguments =
        Arguments::default().u32(INDEX, index).nested(SOCKETS, &sockets(&connected.sockets));
    kernel(RECONFIGURE, &arguments).map(drop)
}

/// Disconnects a device: reads and writes fail, its connections are closed.
///
/// # Errors
/// The kernel's errno; `EINVAL` when there is no such device.
pub fn detach(index: u32) -> Result<(), NbdError> {
    kernel(DISCONNECT, &Arguments::default().u32(INDEX, index)).map(drop)
}

fn kernel(command: u8, arguments: &Arguments) -> Result<Vec<(u16, Vec<u8>)>, NbdError> {
    Generic::open("nbd")
        .and_then(|mut kernel| kernel.command(command, 1, arguments))
        .map_err(NbdError::Kernel)
}

fn sockets(sockets: &[OwnedFd]) -> Arguments {
    const ITEM: u16 = 1;
    const ITEM_FD: u16 = 1;
    sockets.iter().fold(Arguments::default(), |all, socket| {
        let fd = u32::try_from(socket.as_raw_fd()).unwrap_or(u32::MAX);
        all.nested(ITEM, &Arguments::default().u32(ITEM_FD, fd))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::tests::Peer;
    use proptest::prelude::*;

    const HELLO: &[u8] = b"NBDMAGICIHAVEOPT\x00\x03";

    fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
        [
            &MAGIC_REPLY.to_be_bytes()[..],
            &option.to_be_bytes(),
            &kind.to_be_bytes(),
            &(data.len() as u32).to_be_bytes(),
            data,
        ]
        .concat()
    }

    #[test]
    fn go() {
        let mut nbd = Negotiation::new("live").unwrap();
        let out = nbd.push(HELLO).unwrap();
        assert_eq!(out, b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\0\x0c\0\0\0\x04live\0\x01\0\x03");
        let mut answers = reply(7, 3, b"\0\0\0\0\0\0\0\x10\0\0\x01\x03");
        answers.extend(reply(7, 3, b"\0\x03\0\0\x02\0\0\0\x10\0\0\x10\0\0"));
        answers.extend(reply(7, 1, b""));
        for byte in &answers {
            assert_eq!(nbd.export(), None);
            assert_eq!(nbd.push(&[*byte]).unwrap(), b"");
        }
        assert_eq!(
            nbd.export(),
            Some(Export { size: 0x10_0000, flags: 0x103, blocks: Some((512, 4096)) })
        );
    }

    #[test]
    fn servers_that_do_not_know_go() {
        let mut nbd = Negotiation::new("live").unwrap();
        nbd.push(b"NBDMAGICIHAVEOPT\x00\x01").unwrap();
        let out = nbd.push(&reply(7, reply::UNSUPPORTED, b"")).unwrap();
        assert_eq!(out, b"IHAVEOPT\0\0\0\x01\0\0\0\x04live");
        nbd.push(b"\0\0\0\0\0\0\x10\0\0\x02").unwrap();
        assert_eq!(nbd.export(), None, "the zeroes are to come");
        nbd.push(&[0; 124]).unwrap();
        assert_eq!(nbd.export(), Some(Export { size: 4096, flags: 2, blocks: None }));
    }

    #[test]
    fn what_is_no_server_and_what_refuses() {
        let push = |bytes: &[u8]| Negotiation::new("x").unwrap().push(bytes);
        assert_eq!(push(b"HTTP"), Err(NbdError::NotNbd));
        assert_eq!(push(b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53"), Err(NbdError::OldStyle));
        assert_eq!(push(b"NBDMAGICIHAVEOPT\x00\x00"), Err(NbdError::OldStyle));
        let mut nbd = Negotiation::new("x").unwrap();
        nbd.push(HELLO).unwrap();
        let error = nbd.push(&reply(7, reply::ERROR + 6, b"nope\n")).unwrap_err();
        assert_eq!(error.to_string(), "export \"x\": the server has no such export (nope)");
        assert!(Negotiation::new(&"x".repeat(5000)).is_err());
    }

    #[test]
    fn exports_are_listed() {
        let mut nbd = Negotiation::list();
        assert_eq!(nbd.push(HELLO).unwrap(), b"\0\0\0\x03IHAVEOPT\0\0\0\x03\0\0\0\0");
        nbd.push(&reply(3, 2, b"\0\0\0\x04livemore")).unwrap();
        nbd.push(&reply(3, 2, b"\0\0\xff\xffbad")).unwrap();
        nbd.push(&reply(3, 1, b"")).unwrap();
        assert_eq!(nbd.exports(), ["live", ""]);
    }

    #[test]
    fn servers_may_dribble_cut_and_fail() {
        let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, wire::PORT);
        let mut answers = HELLO.to_vec();
        answers.extend(reply(7, 3, b"\0\0\0\0\0\0\0\x10\0\0\x01\x03"));
        answers.extend(reply(7, 1, b""));
        let run = |mut peer: Peer| {
            let mut nbd = Negotiation::new("live").unwrap();
            converse(server, &mut peer, &mut nbd).map(|()| (nbd.export().unwrap().size, peer.sent))
        };
        for piece in [1, 5, 4096] {
            let (size, sent) = run(Peer::new(&answers, piece, Ok(0))).unwrap();
            assert_eq!((size, &sent[4..12]), (0x10_0000, &b"IHAVEOPT"[..]));
        }
        for end in [0, 9, 18, 30, answers.len() - 1] {
            let cut = run(Peer::new(&answers[..end], 1, Ok(0)));
            assert_eq!(cut, Err(NbdError::Io(server, Errno::CONNRESET)), "after {end} bytes");
            let late = run(Peer::new(&answers[..end], 1, Err(Errno::TIMEDOUT)));
            assert_eq!(late, Err(NbdError::Io(server, Errno::TIMEDOUT)), "after {end} bytes");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..40) {
            let _ = Negotiation::list().push(&bytes);
            let mut nbd = Negotiation::new("x").unwrap();
            let _ = nbd.push(HELLO);
            let mut answer = reply(7, 3, b"\0\0\0\0\0\0\0\x10\0\0\x01\x03");
            answer.truncate(cut);
            answer.extend(&bytes);
            let _ = nbd.push(&answer);
        }
    }
}
