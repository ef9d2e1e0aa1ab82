//! The messages of NBD (`doc/proto.md` of the NBD project), from bytes to bytes: what the client
//! of this crate and the servers of `share` and `p2v` have in common. Which exports and options
//! there are is theirs.

use alloc::vec::Vec;
use core::ops::Range;

use sys::bytes::{array, be16, be32, be64, counted, length};

/// The default port.
pub const PORT: u16 = 10809;
/// The longest name of an export.
pub const MAX_NAME: usize = 4096;
/// The most data of an option that a server takes; more ends the connection.
pub const MAX_OPTION: usize = 8 << 10;
/// Options after which a server ends the connection of a client that has not begun to read.
pub const MAX_OPTIONS: u32 = 64;
/// The most bytes of one READ or WRITE.
pub const MAX_REQUEST: u32 = 32 << 20;
/// Bytes of a request without the data of a write.
pub const REQUEST: usize = 28;
/// Bytes of a simple reply without the data of a read.
pub const REPLY: usize = 16;

/// The first words of either side.
pub const MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// Begins each option.
pub const MAGIC_OPTION: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// Begins each answer to an option.
pub const MAGIC_REPLY: u64 = 0x0003_e889_0455_65a9;
const MAGIC_REQUEST: u32 = 0x2560_9513;
const MAGIC_SIMPLE: u32 = 0x6744_6698;

/// Handshake flag of both sides: the fixed newstyle negotiation.
pub const FIXED: u16 = 1;
/// Handshake flag of both sides: no zeroes behind the answer to [`option::EXPORT_NAME`].
pub const NO_ZEROES: u16 = 2;

/// Transmission flags of an export.
#[allow(missing_docs, reason = "doc/proto.md has them by these names")]
pub mod flag {
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const FLUSH: u16 = 1 << 2;
    pub const FUA: u16 = 1 << 3;
    pub const TRIM: u16 = 1 << 5;
    pub const ZEROES: u16 = 1 << 6;
    pub const DONT_FRAGMENT: u16 = 1 << 7;
    pub const MULTI: u16 = 1 << 8;
}

/// Options.
#[allow(missing_docs, reason = "doc/proto.md has them by these names")]
pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Answers to options.
#[allow(missing_docs, reason = "doc/proto.md has them by these names")]
pub mod reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERROR: u32 = 1 << 31;
    pub const UNSUPPORTED: u32 = ERROR + 1;
    pub const POLICY: u32 = ERROR + 2;
    pub const INVALID: u32 = ERROR + 3;
    pub const UNKNOWN: u32 = ERROR + 6;
}

/// Kinds of information about an export.
#[allow(missing_docs, reason = "doc/proto.md has them by these names")]
pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const BLOCK_SIZE: u16 = 3;
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Bytes are read.
    Read = 0,
    /// Bytes follow and are written.
    Write = 1,
    /// The connection ends.
    Disconnect = 2,
    /// What was written is on the server's disk afterwards.
    Flush = 3,
    /// A range is not needed any more.
    Trim = 4,
    /// A range reads as zeros afterwards.
    Zeroes = 6,
    /// Which parts of a range are allocated.
    Status = 7,
    /// None of these.
    Unknown = 0xffff,
}

/// Errors of a request, by the numbers that the protocol defines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The disk is read-only.
    Permission = 1,
    /// The disk cannot be read or written there.
    Io = 5,
    /// The request makes no sense.
    Invalid = 22,
    /// The server's disk is full.
    NoSpace = 28,
}

/// The server's greeting.
#[must_use]
pub fn greeting() -> Vec<u8> {
    let flags = FIXED | NO_ZEROES;
    [&MAGIC.to_be_bytes()[..], &MAGIC_OPTION.to_be_bytes(), &flags.to_be_bytes()].concat()
}

/// Parses the client's flags: whether the answer to [`option::EXPORT_NAME`] ends with zeroes.
/// `None` for unknown flags.
#[must_use]
pub fn wants_zeroes(flags: [u8; 4]) -> Option<bool> {
    let flags = u32::from_be_bytes(flags);
    let (fixed, none) = (u32::from(FIXED), u32::from(NO_ZEROES));
    (flags & fixed != 0 && flags & !(fixed | none) == 0).then_some(flags & none == 0)
}

/// A client's option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked<'a> {
    /// Which one; see [`option`].
    pub number: u32,
    /// Its data.
    pub data: &'a [u8],
}

impl<'a> Asked<'a> {
    /// Bytes of it without its data.
    pub const HEAD: usize = 16;

    /// The option that these bytes begin with, once it is whole.
    ///
    /// # Errors
    /// The bytes are no option, or one that is too long: the connection ends.
    #[allow(clippy::result_unit_err, reason = "there is nothing to say to such a client")]
    pub fn read(bytes: &'a [u8]) -> Result<Option<Self>, ()> {
        let head = (be64(bytes, 0), be32(bytes, 8), be32(bytes, 12));
        let (magic, Some(number), Some(length)) = head else {
            return match head.0 {
                Some(magic) if magic != MAGIC_OPTION => Err(()),
                _ => Ok(None),
            };
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if magic != Some(MAGIC_OPTION) || length > MAX_OPTION {
            return Err(());
        }
        let data = bytes.get(Self::HEAD..Self::HEAD + length);
        Ok(data.map(|data| Self { number, data }))
    }

    /// How many bytes it has.
    #[must_use]
    pub const fn length(&self) -> usize {
        Self::HEAD + self.data.len()
    }

    /// The name in the data of [`option::INFO`] and [`option::GO`], and which [`info`] the client
    /// asks for, two bytes each. `None` when they are malformed.
    #[must_use]
    pub fn export(&self) -> Option<(&'a [u8], &'a [[u8; 2]])> {
        let mut rest = self.data;
        let name = counted(&mut rest)?;
        let (count, rest) = rest.split_first_chunk::<2>()?;
        let (wanted, odd) = rest.as_chunks::<2>();
        let whole = odd.is_empty() && wanted.len() == usize::from(u16::from_be_bytes(*count));
        whole.then_some((name, wanted))
    }
}

/// An option, as a client sends it.
#[must_use]
pub fn ask(number: u32, data: &[u8]) -> Vec<u8> {
    let (magic, length) = (MAGIC_OPTION.to_be_bytes(), length(data).to_be_bytes());
    [&magic[..], &number.to_be_bytes(), &length, data].concat()
}

/// An answer to an option.
#[must_use]
pub fn answer(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let (magic, length) = (MAGIC_REPLY.to_be_bytes(), length(data).to_be_bytes());
    [&magic[..], &option.to_be_bytes(), &kind.to_be_bytes(), &length, data].concat()
}

/// Answers [`option::EXPORT_NAME`]: the description, and zeros unless the client spares itself them
/// ([`wants_zeroes`]).
#[must_use]
pub fn opened(size: u64, flags: u16, zeroes: bool) -> Vec<u8> {
    let mut bytes = described(size, flags);
    bytes.resize(bytes.len() + if zeroes { 124 } else { 0 }, 0);
    bytes
}

/// The size of an export and its transmission flags: what [`info::EXPORT`] is about, and how
/// [`opened`] begins.
#[must_use]
pub fn described(size: u64, flags: u16) -> Vec<u8> {
    [&size.to_be_bytes()[..], &flags.to_be_bytes()].concat()
}

/// Information about an export.
#[must_use]
pub fn inform(option: u32, kind: u16, data: &[u8]) -> Vec<u8> {
    answer(option, reply::INFO, &[&kind.to_be_bytes()[..], data].concat())
}

/// The sizes of requests: any, best a page, at most [`MAX_REQUEST`].
#[must_use]
pub fn block_sizes(option: u32) -> Vec<u8> {
    let [any, best, most] = [1, 4096, MAX_REQUEST].map(u32::to_be_bytes);
    inform(option, info::BLOCK_SIZE, &[&any[..], &best, &most].concat())
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Its flags: 1 for FUA, the data must be on the disk before the answer.
    pub flags: u16,
    /// What it does.
    pub command: Command,
    /// The client's handle for this request.
    pub cookie: [u8; 8],
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u32,
}

impl Request {
    /// Parses a request; `None` for a malformed one, which ends the connection.
    #[must_use]
    pub fn read(bytes: &[u8; REQUEST]) -> Option<Self> {
        use Command::{Disconnect, Flush, Read, Status, Trim, Unknown, Write, Zeroes};
        let number = be16(bytes, 6)?;
        let known = [Read, Write, Disconnect, Flush, Trim, Zeroes, Status].into_iter();
        (be32(bytes, 0)? == MAGIC_REQUEST).then_some(Self {
            flags: be16(bytes, 4)?,
            command: known.clone().find(|known| *known as u16 == number).unwrap_or(Unknown),
            cookie: array(bytes, 8)?,
            offset: be64(bytes, 16)?,
            length: be32(bytes, 24)?,
        })
    }

    /// The request as a client sends it.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let Self { flags, command, cookie, offset, length } = self;
        let (magic, command) = (MAGIC_REQUEST.to_be_bytes(), (*command as u16).to_be_bytes());
        let (offset, length) = (offset.to_be_bytes(), length.to_be_bytes());
        [&magic[..], &flags.to_be_bytes(), &command, cookie, &offset, &length].concat()
    }

    /// The range of the request, if it is inside the disk.
    #[must_use]
    pub fn within(&self, size: u64) -> Option<Range<u64>> {
        let end = self.offset.checked_add(u64::from(self.length)).filter(|end| *end <= size)?;
        Some(self.offset..end)
    }
}

/// The simple reply to the request with this cookie, without data.
#[must_use]
pub fn simple(failed: Option<Failure>, cookie: [u8; 8]) -> [u8; REPLY] {
    let error = failed.map_or(0, |failure| failure as u32);
    let mut bytes = [0; REPLY];
    let parts = [MAGIC_SIMPLE, error].map(u32::to_be_bytes).into_iter().flatten();
    for (to, from) in bytes.iter_mut().zip(parts.chain(cookie)) {
        *to = from;
    }
    bytes
}

/// Parses a simple reply: the request's cookie, and its error number, 0 for none. `None` for
/// anything else.
#[must_use]
pub fn replied(bytes: &[u8; REPLY]) -> Option<([u8; 8], u32)> {
    (be32(bytes, 0)? == MAGIC_SIMPLE).then_some((array(bytes, 8)?, be32(bytes, 4)?))
}
