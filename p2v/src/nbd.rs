//! A read-only NBD server for one disk, from bytes to bytes (`doc/proto.md` of the NBD
//! project): the fixed newstyle negotiation, structured replies, and the context
//! `base:allocation`.
//!
//! A client that asks which parts are allocated does not read the others: this makes
//! virt-v2v, nbdcopy and qemu-img carry the used bytes alone. A client that does not ask and
//! takes structured replies is sent holes without data.
//!
//! Not done: TLS, extended headers, writing. The one export has the empty name.

use alloc::vec::Vec;
use core::ops::Range;

use netboot::nbd::wire::{
    Asked, Command, Failure, MAX_OPTIONS, MAX_REQUEST, REQUEST, Request, answer, block_sizes,
    described, flag, info, inform, opened, option, reply, simple, wants_zeroes,
};
use sys::bytes::{be32, counted};

use crate::extents::Extents;

/// Most extents in one answer: 64 KiB of them. A client asks again behind the last.
const MAX_EXTENTS: usize = 8 << 10;

const MAGIC_STRUCTURED: u32 = 0x668e_33ef;

/// Flags of the export before structured replies are agreed on.
const FLAGS: u16 = flag::HAS_FLAGS | flag::READ_ONLY | flag::FLUSH | flag::MULTI;

/// Flags of a request.
const DONT_FRAGMENT: u16 = 1 << 2;
const ONE_EXTENT: u16 = 1 << 3;

mod chunk {
    pub const NONE: u16 = 0;
    pub const DATA: u16 = 1;
    pub const HOLE: u16 = 2;
    pub const STATUS: u16 = 5;
    pub const ERROR: u16 = (1 << 15) + 1;
    pub const DONE: u16 = 1;
}

const CONTEXT: &[u8] = b"base:allocation";
/// The number of the one context.
const CONTEXT_ID: u32 = 1;
/// Not allocated, and reads as zeros.
const HOLE_AND_ZERO: u32 = 3;

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// More bytes of the client are needed.
    More,
    /// These bytes go to the client.
    Send(Vec<u8>),
    /// The disk is to be read: [`Session::answer`] makes the reply.
    Read(Read),
    /// The connection ends, after these bytes.
    End(Vec<u8>),
}

/// A request for bytes of the disk, inside of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    cookie: [u8; 8],
    range: Range<u64>,
    /// In one piece.
    whole: bool,
}

impl Read {
    /// The bytes that are asked for.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }
}

/// Puts the bytes at a place of the disk into a buffer.
pub type Fill<'f> = &'f mut dyn FnMut(u64, &mut [u8]) -> Result<(), Failure>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Flags,
    Options,
    Requests,
    /// So many bytes of a refused write are still to come.
    Skip(u64, [u8; 8]),
    Ended,
}

/// One client's connection.
#[derive(Debug)]
pub struct Session {
    stage: Stage,
    input: Vec<u8>,
    zeroes: bool,
    structured: bool,
    allocation: bool,
    options: u32,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            stage: Stage::Flags,
            input: Vec::new(),
            zeroes: false,
            structured: false,
            allocation: false,
            options: 0,
        }
    }
}

fn structured(flags: u16, kind: u16, cookie: [u8; 8], length: usize) -> Vec<u8> {
    let mut bytes = MAGIC_STRUCTURED.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie);
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    bytes
}

impl Session {
    /// Takes bytes of the client. They are held until [`Self::turn`] comes to them: give
    /// no more while it returns anything but [`Turn::More`].
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Whether the client is reading, and not negotiating any more.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        matches!(self.stage, Stage::Requests | Stage::Skip(..))
    }

    /// The next thing to do about what was pushed.
    pub fn turn(&mut self, map: &Extents) -> Turn {
        match self.stage {
            Stage::Ended => Turn::End(Vec::new()),
            Stage::Flags => self.flags(map.size()),
            Stage::Options => self.option(map.size()),
            Stage::Requests => self.request(map),
            Stage::Skip(left, cookie) => self.skip(left, cookie),
        }
    }

    fn end(&mut self, last: Vec<u8>) -> Turn {
        self.stage = Stage::Ended;
        Turn::End(last)
    }

    fn used(&mut self, bytes: usize) {
        self.input.drain(..bytes.min(self.input.len()));
    }

    fn flags(&mut self, size: u64) -> Turn {
        let Some(flags) = self.input.first_chunk() else { return Turn::More };
        let Some(zeroes) = wants_zeroes(*flags) else { return self.end(Vec::new()) };
        self.zeroes = zeroes;
        self.used(4);
        self.stage = Stage::Options;
        self.option(size)
    }

    fn option(&mut self, size: u64) -> Turn {
        let input = core::mem::take(&mut self.input);
        let option = match Asked::read(&input) {
            Ok(Some(option)) if self.options < MAX_OPTIONS => option,
            Ok(None) => {
                self.input = input;
                return Turn::More;
            }
            _ => return self.end(Vec::new()),
        };
        self.options += 1;
        self.input = input.get(option.length()..).unwrap_or_default().to_vec();
        let Asked { number, data } = option;
        let answer = |kind, data: &[u8]| answer(number, kind, data);
        let ack = || answer(reply::ACK, &[]);
        match number {
            option::EXPORT_NAME if data.is_empty() => {
                self.stage = Stage::Requests;
                Turn::Send(opened(size, self.export_flags(), self.zeroes))
            }
            // There is no way to refuse a name but this.
            option::EXPORT_NAME => self.end(Vec::new()),
            option::ABORT => self.end(ack()),
            option::LIST if data.is_empty() => {
                Turn::Send([answer(reply::SERVER, &[0; 4]), ack()].concat())
            }
            option::INFO | option::GO => match option.export() {
                None => Turn::Send(answer(reply::INVALID, b"malformed")),
                Some((b"", asks)) => {
                    let mut bytes = self.describe(number, size, asks);
                    bytes.extend(ack());
                    if number == option::GO {
                        self.stage = Stage::Requests;
                    }
                    Turn::Send(bytes)
                }
                Some(_) => Turn::Send(answer(reply::UNKNOWN, b"the only export has no name")),
            },
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                Turn::Send(ack())
            }
            option::SET_META_CONTEXT | option::LIST_META_CONTEXT => {
                let list = number == option::LIST_META_CONTEXT;
                match contexts(data, list) {
                    Some(found) if self.structured => {
                        let mut bytes = Vec::new();
                        if found {
                            let id = if list { 0 } else { CONTEXT_ID };
                            let named = [&id.to_be_bytes()[..], CONTEXT].concat();
                            bytes = answer(reply::META_CONTEXT, &named);
                        }
                        if !list {
                            self.allocation = found;
                        }
                        bytes.extend(ack());
                        Turn::Send(bytes)
                    }
                    _ => Turn::Send(answer(reply::INVALID, b"malformed, or too early")),
                }
            }
            option::LIST | option::STRUCTURED_REPLY => {
                Turn::Send(answer(reply::INVALID, b"malformed"))
            }
            _ => Turn::Send(answer(reply::UNSUPPORTED, &[])),
        }
    }

    const fn export_flags(&self) -> u16 {
        FLAGS | if self.structured { flag::DONT_FRAGMENT } else { 0 }
    }

    /// The information about the export: what every client needs, and what this one asks for.
    fn describe(&self, number: u32, size: u64, asks: &[[u8; 2]]) -> Vec<u8> {
        let asked = |kind: u16| asks.contains(&kind.to_be_bytes());
        let mut bytes = inform(number, info::EXPORT, &described(size, self.export_flags()));
        if asked(info::NAME) {
            bytes.extend(inform(number, info::NAME, &[]));
        }
        if asked(info::BLOCK_SIZE) {
            bytes.extend(block_sizes(number));
        }
        bytes
    }

    fn request(&mut self, map: &Extents) -> Turn {
        let Some(head) = self.input.first_chunk::<REQUEST>() else { return Turn::More };
        let Some(request) = Request::read(head) else { return self.end(Vec::new()) };
        self.used(REQUEST);
        let Request { flags, cookie, length, .. } = request;
        match (request.command, request.within(map.size())) {
            (Command::Disconnect, _) => self.end(Vec::new()),
            (Command::Write, _) => {
                // Its data are thrown away as they come, never kept.
                self.stage = Stage::Skip(u64::from(length), cookie);
                self.skip(u64::from(length), cookie)
            }
            (Command::Trim | Command::Zeroes, _) => {
                Turn::Send(self.refuse(cookie, Failure::Permission))
            }
            (Command::Flush, _) => Turn::Send(self.nothing(cookie)),
            (Command::Read, Some(range)) if length <= MAX_REQUEST => {
                let whole = !self.structured || flags & DONT_FRAGMENT != 0;
                Turn::Read(Read { cookie, range, whole })
            }
            (Command::Status, Some(range)) if self.allocation && length > 0 => {
                let most = if flags & ONE_EXTENT != 0 { 1 } else { MAX_EXTENTS };
                Turn::Send(status(cookie, map, range, most))
            }
            _ => Turn::Send(self.refuse(cookie, Failure::Invalid)),
        }
    }

    fn skip(&mut self, left: u64, cookie: [u8; 8]) -> Turn {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(self.input.len());
        self.used(now);
        let left = left.saturating_sub(now as u64);
        if left > 0 {
            self.stage = Stage::Skip(left, cookie);
            return Turn::More;
        }
        self.stage = Stage::Requests;
        Turn::Send(self.refuse(cookie, Failure::Permission))
    }

    /// The answer of a request that has no data.
    fn nothing(&self, cookie: [u8; 8]) -> Vec<u8> {
        match self.structured {
            true => structured(chunk::DONE, chunk::NONE, cookie, 0),
            false => simple(None, cookie).to_vec(),
        }
    }

    fn refuse(&self, cookie: [u8; 8], why: Failure) -> Vec<u8> {
        if !self.structured {
            return simple(Some(why), cookie).to_vec();
        }
        let mut bytes = structured(chunk::DONE, chunk::ERROR, cookie, 6);
        bytes.extend((why as u32).to_be_bytes());
        bytes.extend([0, 0]);
        bytes
    }

    /// The reply to a read. `fill` puts the bytes of a range of the disk, all of which is in
    /// use, into a buffer of that length.
    pub fn answer(&self, read: &Read, map: &Extents, fill: Fill<'_>) -> Vec<u8> {
        let Read { cookie, range, whole } = read.clone();
        if range.is_empty() && self.structured {
            return self.nothing(cookie);
        }
        let wanted = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
        let mut bytes = match (whole, self.structured) {
            (false, _) => Vec::new(),
            (true, true) => {
                let mut bytes = structured(chunk::DONE, chunk::DATA, cookie, 8 + wanted);
                bytes.extend(range.start.to_be_bytes());
                bytes
            }
            (true, false) => simple(None, cookie).to_vec(),
        };
        for piece in map.pieces(range.clone()) {
            let length = usize::try_from(piece.length()).unwrap_or(0);
            let done = if piece.range.end == range.end { chunk::DONE } else { 0 };
            if !whole && !piece.used {
                bytes.extend(structured(done, chunk::HOLE, cookie, 12));
                bytes.extend(piece.range.start.to_be_bytes());
                bytes.extend(u32::try_from(length).unwrap_or(0).to_be_bytes());
                continue;
            }
            let before = bytes.len();
            if !whole {
                bytes.extend(structured(done, chunk::DATA, cookie, 8 + length));
                bytes.extend(piece.range.start.to_be_bytes());
            }
            let from = bytes.len();
            bytes.resize(from + length, 0);
            let room = bytes.get_mut(from..).unwrap_or_default();
            if piece.used
                && let Err(why) = fill(piece.range.start, room)
            {
                // In pieces, those before it stand; otherwise there is none.
                bytes.truncate(if whole { 0 } else { before });
                bytes.extend(self.refuse(cookie, why));
                return bytes;
            }
        }
        bytes
    }
}

/// Whether a list of queries covers our context; `None` when it is malformed, or of an
/// export that there is not.
fn contexts(data: &[u8], list: bool) -> Option<bool> {
    let mut rest = data;
    let export = counted(&mut rest)?;
    let count = be32(rest, 0)?;
    rest = rest.get(4..)?;
    let mut found = list && count == 0;
    for _ in 0..count {
        let query = counted(&mut rest)?;
        found |= query == CONTEXT || (list && query == b"base:");
    }
    (rest.is_empty() && export.is_empty()).then_some(found)
}

/// Which parts of a range are holes.
fn status(cookie: [u8; 8], map: &Extents, range: Range<u64>, most: usize) -> Vec<u8> {
    let mut list: Vec<u8> = CONTEXT_ID.to_be_bytes().to_vec();
    for piece in map.pieces(range).take(most) {
        // A request has 32 bits of length, so a piece has.
        list.extend(u32::try_from(piece.length()).unwrap_or(u32::MAX).to_be_bytes());
        list.extend(if piece.used { 0 } else { HOLE_AND_ZERO }.to_be_bytes());
    }
    let mut bytes = structured(chunk::DONE, chunk::STATUS, cookie, list.len());
    bytes.extend(list);
    bytes
}

/// Serves whatever a client says from a small disk; for fuzzers.
///
/// # Panics
/// When more is answered than can be asked for.
pub fn fuzz(data: &[u8]) {
    let map = Extents::new(1 << 20, [4096..8192, 65536..131_072, 1_048_000..1_048_576]);
    let mut session = Session::default();
    let (cut, data) = data.split_first().unwrap_or((&0, &[]));
    for piece in data.chunks(usize::from(*cut).max(1)) {
        session.push(piece);
        loop {
            match session.turn(&map) {
                Turn::More => break,
                Turn::End(_) => return,
                Turn::Send(bytes) => assert!(bytes.len() <= 20 + 4 + 8 * MAX_EXTENTS),
                Turn::Read(read) => {
                    let range = read.range();
                    assert!(range.end <= map.size() && range.start <= range.end);
                    let bytes = session.answer(&read, &map, &mut |at, room| {
                        assert!(at + room.len() as u64 <= map.size());
                        if at == 65536 { Err(Failure::Io) } else { Ok(()) }
                    });
                    assert!(bytes.len() <= (1 << 20) + 256);
                }
            }
        }
        assert!(
            session.input.len() < netboot::nbd::wire::MAX_OPTION + 16 + 256,
            "{}",
            session.input.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netboot::nbd::wire::{ask, greeting};
    use proptest::prelude::*;
    use sys::bytes::{be16, be64};

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    /// The map of the recorded disk: its first 4096 bytes and 3 MiB in the middle.
    fn recorded() -> Extents {
        Extents::new(1 << 28, [0..4096, 0xa00000..0xd00000])
    }

    fn said(session: &mut Session, map: &Extents, bytes: &[u8]) -> Vec<u8> {
        session.push(bytes);
        let mut out = Vec::new();
        loop {
            match session.turn(map) {
                Turn::Send(bytes) => out.extend(bytes),
                Turn::Read(read) => {
                    let mut fill = |at: u64, room: &mut [u8]| {
                        for (n, byte) in room.iter_mut().enumerate() {
                            *byte = (at as usize + n) as u8;
                        }
                        Ok(())
                    };
                    out.extend(session.answer(&read, map, &mut fill));
                }
                Turn::More => return out,
                Turn::End(bytes) => {
                    out.extend(bytes);
                    return out;
                }
            }
        }
    }

    /// What nbdkit 1.32.5's nbd plugin, the client inside virt-v2v, said to a real server,
    /// and the answers that differ in their flags only.
    #[test]
    fn the_recorded_client_of_virt_v2v() {
        let map = recorded();
        let mut session = Session::default();
        assert_eq!(greeting(), hex("4e42444d4147494349484156454f50540003"));
        for (from, to) in [
            (
                "0000000349484156454f50540000000800000000",
                "0003e889045565a9000000080000000100000000",
            ),
            (
                "49484156454f50540000000a0000001b00000000000000010000000f626173653a616c6c6f636174696f6e",
                "0003e889045565a90000000a000000040000001300000001626173653a616c6c6f636174696f6e\
                 0003e889045565a90000000a0000000100000000",
            ),
            (
                "49484156454f5054000000070000000c000000000003000300010002",
                "0003e889045565a900000007000000030000000c00000000000010000000\
                 01870003e889045565a90000000700000003000000020001\
                 0003e889045565a900000007000000030000000e00030000000100001000020000000003\
                 e889045565a9000000070000000100000000",
            ),
            (
                "25609513000000070000000000000001000000000000000010000000",
                "668e33ef00010005000000000000000100000024000000010000100000000000\
                 009ff0000000000300300000000000000f30000000000003",
            ),
            (
                "25609513000000070000000000000002000000000800000008000000",
                "668e33ef0001000500000000000000020000000c000000010800000000000003",
            ),
        ] {
            let to = to.replace(char::is_whitespace, "");
            assert_eq!(said(&mut session, &map, &hex(from)), hex(&to), "{from}");
        }
        // The first 256 KiB: 4 KiB of data, and a hole without any.
        let got = said(
            &mut session,
            &map,
            &hex("25609513000000000000000000000004000000000000000000040000"),
        );
        assert_eq!(
            got[..28],
            hex("668e33ef0000000100000000000000040000100800000000000000 00"
                .replace(' ', "")
                .as_str())
        );
        assert_eq!(
            got[28 + 4096..],
            hex("668e33ef0001000200000000000000040000000c00000000000010000003f000")
        );
        assert_eq!(got.len(), 28 + 4096 + 32);
    }

    fn request(flags: u16, command: Command, offset: u64, length: u32) -> Vec<u8> {
        Request { flags, command, cookie: *b"cookie!!", offset, length }.bytes()
    }

    /// A session that reads, with or without structured replies.
    fn reading(structured: bool) -> Session {
        Session { stage: Stage::Requests, structured, allocation: structured, ..Session::default() }
    }

    #[test]
    fn nothing_is_written() {
        let map = recorded();
        let mut session = reading(false);
        let mut write = request(0, Command::Write, 0, 5);
        write.extend(b"12345");
        write.extend(request(0, Command::Trim, 0, 4096));
        write.extend(request(0, Command::Zeroes, 0, 4096));
        write.extend(request(0, Command::Flush, 0, 0));
        let refused = [
            simple(Some(Failure::Permission), *b"cookie!!"),
            simple(Some(Failure::Permission), *b"cookie!!"),
            simple(Some(Failure::Permission), *b"cookie!!"),
        ];
        let all = [refused.concat(), simple(None, *b"cookie!!").to_vec()].concat();
        assert_eq!(said(&mut session, &map, &write), all);
        // Two GiB of a write are thrown away as they come.
        session.push(&request(0, Command::Write, 0, 1 << 31));
        for _ in 0..32 {
            session.push(&[0; 1 << 16]);
            assert_eq!(session.turn(&map), Turn::More);
            assert!(session.input.is_empty());
        }
    }

    #[test]
    fn requests_outside_of_the_disk_are_refused() {
        let map = recorded();
        for structured in [true, false] {
            let mut session = reading(structured);
            let invalid = session.refuse(*b"cookie!!", Failure::Invalid);
            for (kind, offset, length) in [
                (Command::Read, (1 << 28) - 1, 2),
                (Command::Read, u64::MAX, 2),
                (Command::Read, 0, MAX_REQUEST + 1),
                (Command::Status, 0, 0),
                (Command::Status, 1 << 28, 1),
                (Command::Unknown, 0, 1),
            ] {
                let got = said(&mut session, &map, &request(0, kind, offset, length));
                assert_eq!(got, invalid, "{kind:?} {offset} {length}");
            }
        }
        // Without the context there is no status.
        let mut session = reading(false);
        let got = said(&mut session, &map, &request(0, Command::Status, 0, 4096));
        assert_eq!(got, simple(Some(Failure::Invalid), *b"cookie!!"));
    }

    #[test]
    fn a_bad_sector_is_an_error_of_that_read() {
        let map = recorded();
        let mut bad = |at: u64, _: &mut [u8]| if at == 0 { Err(Failure::Io) } else { Ok(()) };
        for structured in [true, false] {
            let mut session = reading(structured);
            session.push(&request(0, Command::Read, 0, 8192));
            let Turn::Read(read) = session.turn(&map) else { panic!() };
            let got = session.answer(&read, &map, &mut bad);
            assert_eq!(got, session.refuse(*b"cookie!!", Failure::Io));
            session.push(&request(0, Command::Read, 0xa00000, 512));
            let Turn::Read(read) = session.turn(&map) else { panic!() };
            assert!(session.answer(&read, &map, &mut bad).len() > 512);
        }
    }

    #[test]
    fn in_one_piece_when_asked_and_one_extent_when_asked() {
        let map = recorded();
        let mut session = reading(true);
        let got = said(&mut session, &map, &request(DONT_FRAGMENT, Command::Read, 4095, 3));
        let head = structured(chunk::DONE, chunk::DATA, *b"cookie!!", 11);
        assert_eq!(got, [head, 4095u64.to_be_bytes().to_vec(), vec![255, 0, 0]].concat());
        let got = said(&mut session, &map, &request(ONE_EXTENT, Command::Status, 0, 1 << 28));
        assert_eq!(got.len(), 20 + 4 + 8);
        let got = said(&mut session, &map, &request(0, Command::Read, 0, 0));
        assert_eq!(got, structured(chunk::DONE, chunk::NONE, *b"cookie!!", 0));
    }

    #[test]
    fn other_exports_and_options_are_refused() {
        let map = recorded();
        let mut session = Session::default();
        let kind = |got: &[u8]| be32(got, 12).unwrap();
        assert_eq!(said(&mut session, &map, &[0, 0, 0, 3]), []);
        let got = said(&mut session, &map, &ask(option::GO, b"\0\0\0\x01x\0\0"));
        assert_eq!(kind(&got), reply::UNKNOWN);
        let got = said(&mut session, &map, &ask(5, b""));
        assert_eq!(kind(&got), reply::UNSUPPORTED);
        let got = said(&mut session, &map, &ask(option::GO, b"\xff\xff\xff\xff\0\0"));
        assert_eq!(kind(&got), reply::INVALID);
        // A context before structured replies.
        let query = ask(option::SET_META_CONTEXT, b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation");
        assert_eq!(kind(&said(&mut session, &map, &query)), reply::INVALID);
        let got = said(&mut session, &map, &ask(option::LIST, b""));
        assert_eq!((kind(&got), got.len()), (reply::SERVER, 44));
        let got = said(&mut session, &map, &ask(option::ABORT, b""));
        assert_eq!(kind(&got), reply::ACK);
        assert_eq!(session.turn(&map), Turn::End(Vec::new()));
        // The old way to begin, with its zeroes.
        let mut session = Session::default();
        let got =
            said(&mut session, &map, &[&[0, 0, 0, 1], &ask(option::EXPORT_NAME, b"")[..]].concat());
        assert_eq!(got.len(), 8 + 2 + 124);
        // Neither fixed newstyle nor HTTP.
        for first in [&[0u8; 4][..], b"GET / HTTP/1.1\r\n\r\n"] {
            let mut session = Session::default();
            session.push(first);
            assert_eq!(session.turn(&map), Turn::End(Vec::new()));
        }
        let mut session = Session::default();
        said(&mut session, &map, &[0, 0, 0, 3]);
        session.push(&ask(option::LIST, b"").repeat(100));
        let turns = std::iter::from_fn(|| Some(session.turn(&map)));
        assert_eq!(turns.take_while(|turn| !matches!(turn, Turn::End(_))).count(), 64);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz(&bytes);
            fuzz(&[b"\x40\0\0\0\x03IHAVEOPT\0\0\0", &bytes[..]].concat());
            let begun = b"\x40\0\0\0\x03IHAVEOPT\0\0\0\x08\0\0\0\0IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0";
            fuzz(&[&begun[..], b"\x25\x60\x95\x13\0\0\0", &bytes[..]].concat());
        }

        /// Whatever is asked for in whatever pieces, the bytes are those of the disk.
        #[test]
        fn every_read_is_the_disk(offset in 0u64..16384, length in 1u32..20000) {
            let map = Extents::new(32768, [100..5000, 8192..8193, 12000..20000]);
            let fill = |at: u64| if map.used().iter().any(|r| r.contains(&at)) { at as u8 | 1 } else { 0 };
            let mut session = reading(true);
            session.push(&request(0, Command::Read, offset, length.min(32768 - offset as u32)));
            let Turn::Read(read) = session.turn(&map) else { panic!() };
            let mut bytes = &session.answer(&read, &map, &mut |at, room| {
                for (n, byte) in room.iter_mut().enumerate() { *byte = fill(at + n as u64); }
                Ok(())
            })[..];
            let mut at = offset;
            loop {
                let (flags, kind) = (be16(bytes, 4).unwrap(), be16(bytes, 6).unwrap());
                let data = &bytes[20..20 + be32(bytes, 16).unwrap() as usize];
                prop_assert_eq!(be64(data, 0).unwrap(), at);
                if kind == chunk::HOLE {
                    let hole = u64::from(be32(data, 8).unwrap());
                    prop_assert!((at..at + hole).all(|at| fill(at) == 0));
                    at += hole;
                } else {
                    for byte in &data[8..] {
                        prop_assert_eq!(*byte, fill(at));
                        at += 1;
                    }
                }
                bytes = &bytes[20 + data.len()..];
                if flags & chunk::DONE != 0 { break; }
            }
            prop_assert!(bytes.is_empty() && at == read.range().end);
        }
    }
}
