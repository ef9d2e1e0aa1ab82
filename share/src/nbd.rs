//! NBD, the protocol for block devices (`doc/proto.md` of the NBD project): the fixed
//! newstyle negotiation and the simple replies, from bytes to bytes, without sockets.
//!
//! Not done: TLS, structured replies, the old style.

use std::ops::Range;

/// Where clients look for a server.
pub const PORT: u16 = 10809;
/// The longest name (`doc/proto.md`).
const MAX_NAME: usize = 4096;
/// The most data of an option; more ends the connection.
pub const MAX_OPTION: usize = 8 << 10;
/// The most bytes of one request.
pub const MAX_REQUEST: u32 = 32 << 20;
/// Options that a client may send before the connection is closed.
pub const MAX_OPTIONS: usize = 64;

const MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const MAGIC_OPTION: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const MAGIC_REPLY: u64 = 0x0003_e889_0455_65a9;
const MAGIC_REQUEST: u32 = 0x2560_9513;
const MAGIC_ANSWER: u32 = 0x6744_6698;
const FIXED: u32 = 1;
const NO_ZEROES: u32 = 2;

/// Option replies.
mod reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const ERROR: u32 = 1 << 31;
    pub const UNSUPPORTED: u32 = ERROR + 1;
    pub const POLICY: u32 = ERROR + 2;
    pub const INVALID: u32 = ERROR + 3;
    pub const UNKNOWN: u32 = ERROR + 6;
}

/// Errors of a request; the numbers of `errno`, as the protocol defines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say it")]
pub enum Failure {
    Permission = 1,
    Io = 5,
    Invalid = 22,
    NoSpace = 28,
}

/// The server's greeting.
pub fn greeting() -> [u8; 18] {
    let mut bytes = [0; 18];
    let words = [MAGIC.to_be_bytes(), MAGIC_OPTION.to_be_bytes()].concat();
    for (to, from) in bytes.iter_mut().zip(words.iter().chain(&[0, 3])) {
        *to = *from;
    }
    bytes
}

/// Parses the client's flags: whether `NBD_OPT_EXPORT_NAME` is answered with trailing zeroes.
/// `None` for unknown flags.
pub fn wants_zeroes(flags: [u8; 4]) -> Option<bool> {
    let flags = u32::from_be_bytes(flags);
    (flags & FIXED != 0 && flags & !(FIXED | NO_ZEROES) == 0).then_some(flags & NO_ZEROES == 0)
}

/// A client's request during negotiation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Open this export and go straight to data (`NBD_OPT_EXPORT_NAME`).
    Export(String),
    /// Open this export after an answer (`NBD_OPT_GO`).
    Go(String),
    /// Describe this export (`NBD_OPT_INFO`).
    About(String),
    /// List the exports.
    List,
    /// End the connection.
    Abort,
    /// A malformed option.
    Senseless,
    /// An unsupported option.
    Unknown,
}

/// The result of parsing an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The option is incomplete.
    Partial,
    /// A request, the option's number, and its length in bytes.
    Whole(Wish, u32, usize),
    /// Not an option: the connection ends.
    Bad,
}

/// Parses an option.
pub fn option(bytes: &[u8]) -> Read {
    let Some((magic, rest)) = bytes.split_first_chunk::<8>() else { return Read::Partial };
    if u64::from_be_bytes(*magic) != MAGIC_OPTION {
        return Read::Bad;
    }
    let Some((number, rest)) = rest.split_first_chunk::<4>() else { return Read::Partial };
    let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Read::Partial };
    let number = u32::from_be_bytes(*number);
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_OPTION {
        return Read::Bad;
    }
    let Some(data) = rest.get(..length) else { return Read::Partial };
    let wish = match number {
        1 => name(data).map(Wish::Export),
        2 => Some(Wish::Abort),
        3 => data.is_empty().then_some(Wish::List),
        6 => info(data).map(Wish::About),
        7 => info(data).map(Wish::Go),
        _ => Some(Wish::Unknown),
    };
    Read::Whole(wish.unwrap_or(Wish::Senseless), number, 16 + length)
}

fn name(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (bytes.len() <= MAX_NAME && !text.contains('\0')).then(|| text.to_owned())
}

/// The export's name in an option; all information is sent whatever the client lists.
fn info(data: &[u8]) -> Option<String> {
    let (length, rest) = data.split_first_chunk::<4>()?;
    let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    let (count, rest) = rest.split_first_chunk::<2>()?;
    (rest.len() == usize::from(u16::from_be_bytes(*count)) * 2).then(|| name(text))?
}

/// The description of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Its size in bytes.
    pub size: u64,
    /// It is read-only.
    pub read_only: bool,
}

impl About {
    fn flags(self) -> u16 {
        // Flags, FLUSH, FUA, multi-connection.
        let common = 1 | 1 << 2 | 1 << 3 | 1 << 8;
        // Read-only, or TRIM.
        common | if self.read_only { 1 << 1 } else { 1 << 5 }
    }
}

fn answer(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(0);
    let head = [option, kind, length].map(u32::to_be_bytes).concat();
    [&MAGIC_REPLY.to_be_bytes()[..], &head, data].concat()
}

/// Answers [`Wish::Go`] and [`Wish::About`].
pub fn describe(option: u32, about: About) -> Vec<u8> {
    let export = [&[0, 0][..], &about.size.to_be_bytes(), &about.flags().to_be_bytes()].concat();
    // Block sizes: any, best, largest.
    let sizes = [1, 4096, MAX_REQUEST].map(u32::to_be_bytes).concat();
    let sizes = [&[0, 3][..], &sizes].concat();
    [
        answer(option, reply::INFO, &export),
        answer(option, reply::INFO, &sizes),
        answer(option, reply::ACK, &[]),
    ]
    .concat()
}

/// Answers [`Wish::Export`].
pub fn begin(about: About, zeroes: bool) -> Vec<u8> {
    let mut bytes = [&about.size.to_be_bytes()[..], &about.flags().to_be_bytes()].concat();
    bytes.resize(bytes.len() + if zeroes { 124 } else { 0 }, 0);
    bytes
}

/// Answers [`Wish::List`].
pub fn list(option: u32, names: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in names {
        let length = u32::try_from(name.len()).unwrap_or(0);
        let data = [&length.to_be_bytes()[..], name.as_bytes()].concat();
        bytes.extend(answer(option, reply::SERVER, &data));
    }
    bytes.extend(answer(option, reply::ACK, &[]));
    bytes
}

/// Answers [`Wish::Abort`].
pub fn goodbye(option: u32) -> Vec<u8> {
    answer(option, reply::ACK, &[])
}

/// Why an option is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such export.
    NoExport,
    /// It belongs to another client; the message says to which.
    NotYours(String),
    /// The option is malformed.
    Senseless,
    /// The option is unknown.
    Unknown,
}

/// Refuses an option.
pub fn refuse(option: u32, why: &Refusal) -> Vec<u8> {
    let (kind, text) = match why {
        Refusal::NoExport => (reply::UNKNOWN, "there is no such export"),
        Refusal::NotYours(text) => (reply::POLICY, text.as_str()),
        Refusal::Senseless => (reply::INVALID, "the option is malformed"),
        Refusal::Unknown => (reply::UNSUPPORTED, ""),
    };
    answer(option, kind, text.as_bytes())
}

/// The operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say it")]
pub enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    Trim,
    Unknown,
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The operation.
    pub command: Command,
    /// FUA: the data must be on the disk before the answer.
    pub now: bool,
    /// The client's handle for this request.
    pub cookie: [u8; 8],
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u32,
}

/// Bytes of a request without the data of a write.
pub const REQUEST: usize = 28;

impl Request {
    /// Parses a request; `None` for a malformed one, which ends the connection.
    pub fn read(bytes: &[u8; REQUEST]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (flags, rest) = rest.split_first_chunk::<2>()?;
        let (command, rest) = rest.split_first_chunk::<2>()?;
        let (cookie, rest) = rest.split_first_chunk::<8>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let length = u32::from_be_bytes(rest.try_into().ok()?);
        let command = match u16::from_be_bytes(*command) {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim,
            _ => Command::Unknown,
        };
        let too_long = matches!(command, Command::Read | Command::Write) && length > MAX_REQUEST;
        // The data of an oversized write would have to be read all the same.
        if u32::from_be_bytes(*magic) != MAGIC_REQUEST || too_long {
            return None;
        }
        let now = u16::from_be_bytes(*flags) & 1 != 0;
        let offset = u64::from_be_bytes(*offset);
        Some(Self { command, now, cookie: *cookie, offset, length })
    }

    /// The range of the request, if it is inside the disk.
    pub fn within(&self, size: u64) -> Option<Range<u64>> {
        let end = self.offset.checked_add(u64::from(self.length)).filter(|end| *end <= size)?;
        Some(self.offset..end)
    }

    /// The head of the answer.
    pub fn answer(&self, failed: Option<Failure>) -> [u8; 16] {
        let error = failed.map_or(0, |failure| failure as u32);
        let mut bytes = [0; 16];
        let parts = MAGIC_ANSWER.to_be_bytes().into_iter().chain(error.to_be_bytes());
        for (to, from) in bytes.iter_mut().zip(parts.chain(self.cookie)) {
            *to = from;
        }
        bytes
    }
}

/// Parses a client's options and requests; for fuzzers.
pub fn fuzz(data: &[u8]) {
    let mut rest = data;
    while let Read::Whole(wish, number, used) = option(rest) {
        if let Wish::Go(name) | Wish::Export(name) | Wish::About(name) = wish {
            let told = list(number, &[name]);
            assert!(told.len() <= MAX_NAME + 64, "{} bytes", told.len());
        }
        rest = rest.get(used..).unwrap_or_default();
    }
    while let Some((bytes, more)) = rest.split_first_chunk::<REQUEST>() {
        let Some(request) = Request::read(bytes) else { return };
        if let Some(range) = request.within(1 << 20) {
            assert!(range.start <= range.end && range.end <= 1 << 20, "{range:?}");
        }
        rest = more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netboot::nbd::Negotiation;
    use proptest::prelude::*;

    /// Our own client, of which the boots are made, against this server.
    #[test]
    fn a_client_and_a_server_agree() {
        let about = About { size: 1 << 40, read_only: true };
        for known in [true, false] {
            let mut client = Negotiation::new("debian").unwrap();
            let said = client.push(&greeting()).unwrap();
            let (flags, said) = said.split_first_chunk::<4>().unwrap();
            assert_eq!(wants_zeroes(*flags), Some(false));
            let Read::Whole(Wish::Go(name), number, used) = option(said) else {
                panic!("{:?}", option(said))
            };
            assert_eq!((name.as_str(), used), ("debian", said.len()));
            if known {
                client.push(&describe(number, about)).unwrap();
                let export = client.export().unwrap();
                assert_eq!(export.size, about.size);
                assert_ne!(export.flags & netboot::nbd::FLAG_READ_ONLY, 0);
                assert_ne!(export.flags & netboot::nbd::FLAG_MULTI, 0);
            } else {
                let why = Refusal::NotYours("of another machine".into());
                let error = client.push(&refuse(number, &why)).unwrap_err().to_string();
                assert!(error.contains("of another machine"), "{error}");
            }
        }
        let mut client = Negotiation::list();
        let said = client.push(&greeting()).unwrap();
        let Read::Whole(Wish::List, number, _) = option(&said[4..]) else { panic!("{said:?}") };
        client.push(&list(number, &["a".into(), "b".into()])).unwrap();
        assert_eq!(client.exports(), ["a", "b"]);
    }

    #[test]
    fn requests() {
        let mut bytes = [0; REQUEST];
        assert_eq!(Request::read(&bytes), None);
        bytes[..4].copy_from_slice(&MAGIC_REQUEST.to_be_bytes());
        bytes[5] = 1;
        bytes[7] = 1;
        bytes[8..16].copy_from_slice(b"cookie01");
        bytes[22] = 0x10;
        bytes[27] = 9;
        let request = Request::read(&bytes).unwrap();
        assert_eq!((request.command, request.now), (Command::Write, true));
        assert_eq!(request.within(0x1009), Some(0x1000..0x1009));
        assert_eq!(request.within(0x1008), None);
        assert_eq!(&request.answer(Some(Failure::Io))[4..], b"\0\0\0\x05cookie01");
        bytes[24] = 0xff;
        assert_eq!(Request::read(&bytes), None, "a write without end");
        assert_eq!(Request { offset: u64::MAX, ..request }.within(u64::MAX), None);
    }

    #[test]
    fn others_are_sent_away() {
        assert_eq!(wants_zeroes([0; 4]), None);
        assert_eq!(option(b"GET / HTTP/1.1\r\n"), Read::Bad);
        assert_eq!(option(b"IHAVEOPT"), Read::Partial);
        assert_eq!(option(b"IHAVEOPT\0\0\0\x07\xff\0\0\0"), Read::Bad);
        let lie = b"IHAVEOPT\0\0\0\x07\0\0\0\x06\xff\xff\xff\xff\0\0";
        assert_eq!(option(lie), Read::Whole(Wish::Senseless, 7, lie.len()));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = option(&bytes);
            fuzz(&bytes);
            fuzz(&[b"IHAVEOPT\0\0\0", &bytes[..]].concat());
        }
    }
}
