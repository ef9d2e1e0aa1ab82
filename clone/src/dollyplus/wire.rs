//! Packets of Dolly+. All numbers are big-endian.

use super::{CHUNK, NAME};
use crate::Error;
use crate::cook::{Archive, Cook, Packing};
use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use sys::bytes::or_zero::be32;

pub use crate::cook::Output;

/// The longest name of a file or host, as old programs have room for.
pub const MAX_ENTRY: usize = 128;
/// The most hosts or files in a list.
pub const MAX_ENTRIES: usize = 2048;
/// The largest command that is read; old programs send up to 128 bytes.
pub const MAX_COMMAND: usize = 1024;

/// Whether a host takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// It does.
    Available,
    /// It does, and is the one that this packet is sent to.
    You,
    /// It does not, or not yet.
    Absent,
}

impl Flag {
    const fn number(self) -> u8 {
        match self {
            Self::Available => 1,
            Self::You => 2,
            Self::Absent => 3,
        }
    }
}

/// A host of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its part.
    pub flag: Flag,
    /// Its name or address, as the configuration has it.
    pub name: String,
}

/// The flag byte of cooking. Octal in the program: 1 gzip, 2 compress, 4 cpio,
/// 10 tar.
#[must_use]
pub fn cook_flag(cook: Cook) -> u8 {
    let packing = match cook.unpack {
        Some(Packing::Gzip) => 1,
        Some(Packing::Compress) => 2,
        None => 0,
    };
    let archive = match cook.archive {
        Some(Archive::Cpio) => 4,
        Some(Archive::Tar) => 8,
        None => 0,
    };
    packing | archive
}

fn cook_of(flag: u8) -> Option<Cook> {
    let unpack = match flag & 3 {
        0 => None,
        1 => Some(Packing::Gzip),
        2 => Some(Packing::Compress),
        _ => return None,
    };
    let archive = match flag & 0o14 {
        0 => None,
        4 => Some(Archive::Cpio),
        8 => Some(Archive::Tar),
        _ => return None,
    };
    // 0100 marks what lies in a temporary file at the server; the others are unknown.
    (flag & !0o117 == 0).then_some(Cook { unpack, archive })
}

fn list(open: &[u8; 4], close: &[u8; 4], entries: impl Iterator<Item = (u8, String)>) -> Vec<u8> {
    let mut body = Vec::new();
    let mut count = 0u16;
    for (flag, name) in entries {
        body.push(flag);
        body.extend_from_slice(name.as_bytes());
        body.push(0);
        count = count.saturating_add(1);
    }
    let mut out = open.to_vec();
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(&body);
    out.extend_from_slice(close);
    out
}

/// `ROPN`: the list while the ring is built.
#[must_use]
pub fn ring(hosts: &[Host]) -> Vec<u8> {
    list(b"ROPN", b"RCLS", hosts.iter().map(|h| (h.flag.number(), h.name.clone())))
}

/// `HOPN`: the final list.
#[must_use]
pub fn hosts(hosts: &[Host]) -> Vec<u8> {
    list(b"HOPN", b"HCLS", hosts.iter().map(|h| (h.flag.number(), h.name.clone())))
}

/// `FBEG`: the files.
#[must_use]
pub fn files(files: &[Output]) -> Vec<u8> {
    list(b"FBEG", b"FEND", files.iter().map(|f| (cook_flag(f.cook), f.path.clone())))
}

/// `FLNO`: the next chunks are of this file, counted from 0.
#[must_use]
pub fn file_number(number: u16) -> Vec<u8> {
    let mut out = b"FLNO\0\0".to_vec();
    out.extend_from_slice(&number.to_be_bytes());
    out
}

/// The head of a chunk.
#[must_use]
pub fn chunk(last: bool, length: u32, sequence: u32) -> Vec<u8> {
    let mut out = if last { b"SEND".to_vec() } else { b"SEQN".to_vec() };
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&sequence.to_be_bytes());
    out
}

/// What is said at TCP 9997.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// I am before you now: from where on do you need the data? `exact` when one
    /// of ours asks.
    Reconnect {
        /// The asker understands an exact position.
        exact: bool,
    },
    /// From this chunk on; and from this byte of the whole stream on.
    ReconnectFrom {
        /// The chunk of the present file.
        sequence: u32,
        /// The stream's byte, when the asker is one of ours.
        exact: Option<u64>,
    },
    /// A message to the server.
    Report(String),
    /// Are you there, and how full?
    Ping,
    /// Yes.
    Pong(String),
    /// The last host has everything.
    Stop(String),
    /// Another, known to old programs only (XOFF, XON), or to none.
    Other(u16),
}

const EXACT: [u8; 4] = *b"bw1?";

impl Command {
    /// Its packet.
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        let (kind, payload): (u16, Vec<u8>) = match self {
            Self::Reconnect { exact: false } => (1, alloc::vec![0; 4]),
            Self::Reconnect { exact: true } => (1, EXACT.to_vec()),
            Self::ReconnectFrom { sequence, exact } => {
                let mut payload = sequence.to_be_bytes().to_vec();
                if let Some(position) = exact {
                    payload.extend_from_slice(&position.to_be_bytes());
                }
                (2, payload)
            }
            Self::Report(text) => (5, text.as_bytes().to_vec()),
            Self::Ping => (6, Vec::new()),
            Self::Pong(text) => (7, text.as_bytes().to_vec()),
            Self::Stop(text) => (8, text.as_bytes().to_vec()),
            Self::Other(kind) => (*kind, Vec::new()),
        };
        let payload = payload.get(..payload.len().min(MAX_COMMAND)).unwrap_or_default();
        let mut out = b"CMND".to_vec();
        out.extend_from_slice(&u16::try_from(payload.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(payload);
        out
    }

    /// Takes a command off the beginning of `buffer`, once it is there whole.
    ///
    /// # Errors
    /// [`Error::Peer`] when these bytes are no command.
    pub fn take(buffer: &mut Vec<u8>, peer: &str) -> Result<Option<Self>, Error> {
        let wrong = |why| Error::Peer { protocol: NAME, peer: peer.to_string(), why };
        if !b"CMND".starts_with(buffer.get(..buffer.len().min(4)).unwrap_or_default()) {
            return Err(wrong("says something on the command port that is no command"));
        }
        let word = |at: usize| buffer.get(at..).and_then(<[u8]>::first_chunk::<2>);
        let (Some(length), Some(kind)) = (word(4), word(6)) else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*length));
        if length > MAX_COMMAND {
            return Err(wrong("sends a command that is too long"));
        }
        let Some(payload) = buffer.get(8..8 + length) else { return Ok(None) };
        let text = || String::from_utf8_lossy(payload).trim_end_matches('\0').to_owned();
        let command = match u16::from_be_bytes(*kind) {
            1 => Self::Reconnect { exact: payload == EXACT },
            2 => {
                let sequence = payload.first_chunk().ok_or_else(|| wrong("names no chunk"))?;
                let exact = payload.get(4..).and_then(<[u8]>::first_chunk);
                Self::ReconnectFrom {
                    sequence: u32::from_be_bytes(*sequence),
                    exact: exact.map(|b| u64::from_be_bytes(*b)),
                }
            }
            5 => Self::Report(text()),
            6 => Self::Ping,
            7 => Self::Pong(text()),
            8 => Self::Stop(text()),
            other => Self::Other(other),
        };
        buffer.drain(..8 + length);
        Ok(Some(command))
    }
}

/// What a stream of packets brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The list while the ring is built.
    Ring(Vec<Host>),
    /// The final list.
    Hosts(Vec<Host>),
    /// The files.
    Files(Vec<Output>),
    /// The next chunks are of this file.
    File(usize),
    /// A chunk begins, and so many bytes of it follow.
    Chunk {
        /// The last of its file.
        last: bool,
        /// Its bytes.
        length: u32,
        /// Counted from 0 in each file.
        sequence: u32,
    },
    /// So many of the bytes just given are the file's.
    Payload(usize),
    /// The file is complete.
    FileEnd,
}

/// Reads a stream of packets, in whatever pieces it comes.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    head: Vec<u8>,
    left: u32,
    last: bool,
}

/// The longest list: its head, all entries, its end.
const LONGEST: usize = 8 + u16::MAX as usize + 4;

impl Reader {
    /// Bytes that may be given without any of them belonging to a later packet: what
    /// a reader that must not take too much may ask for.
    #[must_use]
    pub fn wants(&self) -> usize {
        if self.left > 0 {
            return self.left as usize;
        }
        self.need().saturating_sub(self.head.len()).max(1)
    }

    /// How long the packet in the making is, as far as is known.
    fn need(&self) -> usize {
        match self.head.get(..4) {
            None => 4,
            Some(b"FLNO") => 8,
            Some(b"SEQN" | b"SEND") => 12,
            Some(_) => match self.head.get(4..).and_then(<[u8]>::first_chunk::<2>) {
                Some(length) if self.head.len() >= 8 => {
                    8 + usize::from(u16::from_be_bytes(*length)) + 4
                }
                _ => 8,
            },
        }
    }

    /// How much of the present chunk is still to come.
    #[must_use]
    pub const fn payload(&self) -> usize {
        self.left as usize
    }

    /// Whether it stands between two packets.
    #[must_use]
    pub fn between(&self) -> bool {
        self.head.is_empty() && self.left == 0
    }

    /// Reads from the beginning of `bytes`: how many it took, and what that was, if
    /// it was a whole thing.
    ///
    /// # Errors
    /// [`Error::Peer`] when these bytes are no packets of Dolly+.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(usize, Option<Item>), Error> {
        if self.last && self.left == 0 {
            self.last = false;
            return Ok((0, Some(Item::FileEnd)));
        }
        if bytes.is_empty() {
            return Ok((0, None));
        }
        if self.left > 0 {
            let n = bytes.len().min(self.left as usize);
            self.left -= u32::try_from(n).unwrap_or(self.left);
            return Ok((n, Some(Item::Payload(n))));
        }
        let mut taken = 0;
        loop {
            let need = self.need();
            if need > LONGEST {
                return Err(wrong("a list is too long"));
            }
            if self.head.len() >= need {
                break;
            }
            let some = bytes.get(taken..).unwrap_or_default();
            let some = some.get(..some.len().min(need - self.head.len())).unwrap_or_default();
            if some.is_empty() {
                return Ok((taken, None));
            }
            self.head.extend_from_slice(some);
            taken += some.len();
            if self.head.len() >= 4 {
                let known = [b"ROPN", b"HOPN", b"FBEG", b"FLNO", b"SEQN", b"SEND"];
                if !known.iter().any(|k| self.head.starts_with(*k)) {
                    return Err(wrong("sends what is no packet"));
                }
            }
        }
        let head = core::mem::take(&mut self.head);
        let item = self.packet(&head)?;
        Ok((taken, Some(item)))
    }

    fn packet(&mut self, packet: &[u8]) -> Result<Item, Error> {
        let name = packet.get(..4).unwrap_or_default();
        let number = |at| be32(packet, at);
        match name {
            b"FLNO" => Ok(Item::File((number(4) & 0xffff) as usize)),
            b"SEQN" | b"SEND" => {
                let (length, sequence) = (number(4), number(8));
                if length > CHUNK {
                    return Err(wrong("a chunk is larger than 4 MiB"));
                }
                self.left = length;
                self.last = name == b"SEND";
                Ok(Item::Chunk { last: self.last, length, sequence })
            }
            _ => {
                let count = (number(4) & 0xffff) as usize;
                let body = packet.get(8..packet.len() - 4).unwrap_or_default();
                let (close, what): (&[u8], _) = match name {
                    b"ROPN" => (b"RCLS", 0),
                    b"HOPN" => (b"HCLS", 1),
                    _ => (b"FEND", 2),
                };
                if !packet.ends_with(close) {
                    return Err(wrong("a list has another end than its head says"));
                }
                let entries = entries(body, count)?;
                if what == 2 {
                    return Ok(Item::Files(
                        entries.into_iter().map(output).collect::<Result<_, _>>()?,
                    ));
                }
                let hosts = entries.into_iter().map(host).collect::<Result<_, _>>()?;
                Ok(if what == 0 { Item::Ring(hosts) } else { Item::Hosts(hosts) })
            }
        }
    }
}

fn wrong(why: &'static str) -> Error {
    Error::Peer { protocol: NAME, peer: "the node before this one".to_owned(), why }
}

fn entries(body: &[u8], count: usize) -> Result<Vec<(u8, String)>, Error> {
    if count > MAX_ENTRIES {
        return Err(wrong("a list has more than 2048 entries"));
    }
    let mut all = Vec::new();
    let mut rest = body;
    while let Some((flag, after)) = rest.split_first() {
        let end = after.iter().position(|b| *b == 0).ok_or_else(|| wrong("a name has no end"))?;
        let name = after.get(..end).unwrap_or_default();
        if name.len() > MAX_ENTRY || name.is_empty() {
            return Err(wrong("a name in a list is empty, or longer than 128 bytes"));
        }
        let Ok(name) = core::str::from_utf8(name) else {
            return Err(wrong("a name in a list is not UTF-8"));
        };
        all.push((*flag, name.to_owned()));
        rest = after.get(end + 1..).unwrap_or_default();
    }
    if all.len() != count {
        return Err(wrong("a list has not as many entries as it says"));
    }
    Ok(all)
}

fn host((flag, name): (u8, String)) -> Result<Host, Error> {
    let flag = match flag {
        1 => Flag::Available,
        2 => Flag::You,
        3 => Flag::Absent,
        _ => return Err(wrong("a host has a flag that is none of 1, 2 and 3")),
    };
    Ok(Host { flag, name })
}

fn output((flag, path): (u8, String)) -> Result<Output, Error> {
    let cook = cook_of(flag).ok_or_else(|| wrong("a file is to be unpacked in an unknown way"))?;
    Ok(Output { path, cook })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8], step: usize) -> Result<Vec<Item>, Error> {
        let mut reader = Reader::default();
        let mut items: Vec<Item> = Vec::new();
        for piece in bytes.chunks(step.max(1)) {
            let mut rest = piece;
            loop {
                let (n, item) = reader.read(rest)?;
                rest = &rest[n..];
                match (items.last_mut(), item) {
                    (Some(Item::Payload(sum)), Some(Item::Payload(n))) => *sum += n,
                    (_, Some(item)) => items.push(item),
                    (_, None) => break,
                }
            }
        }
        Ok(items)
    }

    #[test]
    fn a_recorded_list_of_files() {
        let bytes = b"FBEG\0\x26\0\x02\0/srv/clone/big.img\0\x01/srv/clone/notes\0FEND";
        let plain = Output { path: "/srv/clone/big.img".to_owned(), cook: Cook::default() };
        let gzip = Cook { unpack: Some(Packing::Gzip), archive: None };
        let cooked = Output { path: "/srv/clone/notes".to_owned(), cook: gzip };
        let list = vec![plain, cooked];
        assert_eq!(files(&list), bytes);
        assert_eq!(all(bytes, 5).unwrap(), [Item::Files(list)]);
    }

    #[test]
    fn a_stream_in_any_pieces() {
        let mut bytes = file_number(0);
        bytes.extend(chunk(false, 3, 0));
        bytes.extend(b"abc");
        bytes.extend(chunk(true, 0, 1));
        bytes.extend(file_number(1));
        bytes.extend(chunk(true, 2, 0));
        bytes.extend(b"de");
        let wanted = [
            Item::File(0),
            Item::Chunk { last: false, length: 3, sequence: 0 },
            Item::Payload(3),
            Item::Chunk { last: true, length: 0, sequence: 1 },
            Item::FileEnd,
            Item::File(1),
            Item::Chunk { last: true, length: 2, sequence: 0 },
            Item::Payload(2),
            Item::FileEnd,
        ];
        for step in [1, 2, 3, 7, 100] {
            assert_eq!(all(&bytes, step).unwrap(), wanted, "in pieces of {step}");
        }
    }

    #[test]
    fn recorded_commands() {
        let ask = b"CMND\0\x04\0\x01\0\0\0\0";
        assert_eq!(Command::Reconnect { exact: false }.packet(), ask);
        let answer = b"CMND\0\x04\0\x02\0\0\0\x06";
        let from = Command::ReconnectFrom { sequence: 6, exact: None };
        assert_eq!(from.packet(), answer);
        let mut buffer = [&ask[..], &answer[..]].concat();
        assert_eq!(Command::take(&mut buffer, "x"), Ok(Some(Command::Reconnect { exact: false })));
        assert_eq!(Command::take(&mut buffer, "x"), Ok(Some(from)));
        assert_eq!(Command::take(&mut buffer, "x"), Ok(None));
    }

    #[test]
    fn what_is_too_much_is_refused() {
        assert!(all(&chunk(false, CHUNK + 1, 0), 100).is_err());
        assert!(all(b"FBEG\0\x02\0\x02\0\0FEND", 100).is_err());
        assert!(all(b"GET / HTTP/1.0", 100).is_err());
        assert!(all(b"ROPN\0\x03\0\x01\x07a\0RCLS", 100).is_err());
        assert!(Command::take(&mut b"CMND\xff\xff\0\x05".to_vec(), "x").is_err());
    }

    proptest! {
        #[test]
        fn garbage_is_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), name in 0usize..8, step in 1usize..50) {
            let names: [&[u8]; 8] = [b"ROPN", b"HOPN", b"FBEG", b"FLNO", b"SEQN", b"SEND", b"CMND", b""];
            bytes.splice(0..0, names[name].iter().copied());
            let _ = all(&bytes, step);
            while let Ok(Some(_)) = Command::take(&mut bytes, "x") {}
        }

        #[test]
        fn lists_return(names in proptest::collection::vec("[a-z0-9./-]{1,31}", 1..40), flags in proptest::collection::vec(0u8..3, 40)) {
            let flag = |n: u8| [Flag::Available, Flag::You, Flag::Absent][usize::from(n)];
            let list: Vec<Host> =
                names.into_iter().zip(flags).map(|(name, f)| Host { flag: flag(f), name }).collect();
            prop_assert_eq!(all(&ring(&list), 9), Ok(vec![Item::Ring(list.clone())]));
            prop_assert_eq!(all(&hosts(&list), 9), Ok(vec![Item::Hosts(list)]));
        }
    }
}
