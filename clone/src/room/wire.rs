//! What goes over a connection between two machines of a room. docs/clone-protocol.md has it.
//!
//! A [`Line`] is one end of one connection, without its socket. Both ends first say hello: the
//! version, whether they have a key, and a nonce. With a key every frame after that has a code:
//! BLAKE3, keyed, over both nonces, the direction, the frame's number and its head. The bytes of
//! a chunk are not under the code; they must have the digest that the sender tells, and that is
//! under it. Nothing is encrypted.

use super::manifest::{CHUNKS, LARGEST};
use crate::pact::{Key, Mac, Nonce, Pact, same};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use sys::bytes::Cursor;

/// The version of this protocol.
pub const VERSION: u16 = 3;
/// The port that a sender listens to, by TCP and UDP.
pub const PORT: u16 = 9011;
/// What a machine that looks for a sender broadcasts, and what it gets back.
pub const ASK: [u8; 8] = *b"bwroom?1";
/// See [`ASK`].
pub const HERE: [u8; 8] = *b"bwroom!1";
/// Bytes of a hello.
pub const HELLO: usize = 22;
const MAGIC: [u8; 8] = *b"BWROOM\r\n";
/// Bytes of a chunk's own head.
const CHUNK_HEAD: usize = 34;
/// Bodies up to this length have their memory at once.
const ROOM: usize = LARGEST as usize;
/// The most bytes of a manifest without digests.
const LAYOUT: usize = 64 << 20;
/// The most digests of a message.
pub const DIGESTS: usize = 4096;
/// The most bytes of a text.
const TEXT: usize = 512;
/// The most ranges of a report.
pub const RANGES: usize = 400;
/// The bytes of a report without its ranges.
const REPORT: usize = 28;

/// Why a connection is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault(pub &'static str);

/// What one machine says to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A copy to the sender: its name, and the port at which it hands out chunks.
    Join {
        /// Its name.
        name: String,
        /// Its port.
        port: u16,
    },
    /// The sender's answer: a [`Layout`](super::manifest::Layout) on the wire.
    Manifest(Arc<Vec<u8>>),
    /// The sender to a copy: chunks and their digests.
    Digests(Vec<(u32, [u8; 32])>),
    /// The sender to a copy, behind the digests that it has: whether these are all, by the root
    /// of the manifest. Without it the copy hears of the others as the sender reads them.
    Known(Option<[u8; 32]>),
    /// A copy to the sender: its disk has so many chunks.
    State(u32),
    /// The sender to a copy: take chunks from there, or from the sender.
    From(Option<SocketAddrV4>),
    /// A copy to the sender: the machine that it was to take chunks from is of no use.
    Lost,
    /// To a machine that has chunks: all that are wanted, instead of those that were.
    Want {
        /// The session.
        session: [u8; 16],
        /// [`Bits`](super::bits::Bits) on the wire.
        bits: Vec<u8>,
    },
    /// A chunk.
    Chunk(Piece),
    /// A copy to the sender: how its copy ended, and how many bytes came for it.
    Done(Verdict, u64),
    /// The sender to a copy: no copy needs it any more; or why it is refused.
    End(String),
    /// I am there.
    Ping,
    /// The sender to a copy: chunks come to this group as well; nothing: not any more.
    Group(Option<Group>),
    /// A copy to the sender: what it has heard of the group.
    Heard(Heard),
}

/// Where the sender multicasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Every datagram begins with it.
    pub token: [u8; 8],
    /// The group and its port.
    pub to: SocketAddrV4,
}

/// What a machine has heard of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The group's.
    pub token: [u8; 8],
    /// Behind the last datagram that came, by the sender's count.
    pub next: u32,
    /// How many have come.
    pub count: u32,
    /// Chunks that its disk has.
    pub have: u32,
    /// Chunks that it can take before its disk has written one.
    pub room: u16,
    /// Chunks of which it has pieces.
    pub open: u16,
    /// Chunks that have come over TCP.
    pub chunks: u32,
    /// Pieces that did not come.
    pub missing: Vec<Missing>,
}

/// Pieces of a chunk, one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// The chunk.
    pub chunk: u32,
    /// The first piece.
    pub first: u16,
    /// How many.
    pub count: u16,
}

/// A chunk and where it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The session.
    pub session: [u8; 16],
    /// The disk's number.
    pub disk: u16,
    /// The partition's number.
    pub area: u32,
    /// The chunk's number.
    pub number: u32,
    /// Its first byte on the disk.
    pub start: u64,
    /// Its bytes.
    pub data: Arc<Vec<u8>>,
}

/// How a copy ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Read back from the disk, and equal.
    Verified,
    /// Written, and not read back.
    Whole,
    /// There is none.
    Failed(String),
}

/// Why a connection with a key is of no use after it was of use.
const CHANGED: &str =
    "sends a frame that was changed or repeated on the way: another machine is between the two";

const KINDS: [u8; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
const CHUNK: u8 = 7;

/// A frame to be sent: its head, then its bytes.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Length, kind, code, and what is short.
    pub head: Vec<u8>,
    /// A chunk or a manifest.
    pub data: Option<Arc<Vec<u8>>>,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Line {
    key: Option<Key>,
    own: Nonce,
    /// This end has made the connection.
    dialled: bool,
    pact: Option<(Pact, Nonce)>,
    greeted: bool,
    sent: u64,
    heard: u64,
    head: Vec<u8>,
    body: Vec<u8>,
    most: Most,
}

/// The most bytes of the two frames that are as long as the copy is large.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    /// Of a manifest.
    pub manifest: usize,
    /// Of a want.
    pub want: usize,
}

impl Default for Most {
    fn default() -> Self {
        Self { manifest: LAYOUT, want: CHUNKS / 8 + 64 }
    }
}

impl Most {
    /// In a room whose copy has so many chunks.
    #[must_use]
    pub fn chunks(self, count: u32) -> Self {
        Self { want: count as usize / 8 + 64, ..self }
    }
}

impl Line {
    /// A connection, perhaps with a key, and a nonce that was never used.
    #[must_use]
    pub fn new(key: Option<Key>, own: Nonce, dialled: bool) -> Self {
        let (head, body, most) = (Vec::new(), Vec::new(), Most::default());
        Self { key, own, dialled, pact: None, greeted: false, sent: 0, heard: 0, head, body, most }
    }

    /// With other limits.
    #[must_use]
    pub fn limited(self, most: Most) -> Self {
        Self { most, ..self }
    }

    /// The first bytes of either end.
    #[must_use]
    pub fn hello(&self) -> [u8; HELLO] {
        let mut all = [0; HELLO];
        let [low, high] = VERSION.to_le_bytes();
        let parts = MAGIC.into_iter().chain([low, high, u8::from(self.key.is_some()), 0]);
        all.iter_mut().zip(parts.chain(self.own)).for_each(|(to, from)| *to = from);
        all
    }

    /// Whether the other end has said hello, and fits.
    #[must_use]
    pub const fn greeted(&self) -> bool {
        self.greeted
    }

    fn greet(&mut self) -> Result<(), Fault> {
        let told = self.head.split_first_chunk::<8>().filter(|(magic, _)| **magic == MAGIC);
        let Some((_, [low, high, keyed, _, nonce @ ..])) = told else {
            return Err(Fault("is no machine of a room of bellwether"));
        };
        if u16::from_le_bytes([*low, *high]) != VERSION {
            return Err(Fault(
                "speaks another version of the room's protocol; take one bellwether",
            ));
        }
        let nonce: Nonce = nonce.try_into().unwrap_or_default();
        match (&self.key, keyed) {
            (Some(key), 1) => {
                let (session, peer) =
                    if self.dialled { (nonce, self.own) } else { (self.own, nonce) };
                self.pact = Some((Pact::new(key.clone(), "room", session), peer));
            }
            (None, 0) => {}
            (Some(_), _) => {
                return Err(Fault(
                    "has no key, and this machine has one: give both the same, bw.clone.key= or --key",
                ));
            }
            (None, _) => {
                return Err(Fault(
                    "has a key: give this machine the same one, bw.clone.key= or --key",
                ));
            }
        }
        self.greeted = true;
        self.head.clear();
        Ok(())
    }

    fn code(&self, dialled: bool, number: u64, frame: &[&[u8]]) -> Option<Mac> {
        let (pact, peer) = self.pact.as_ref()?;
        let mut all = Vec::from([u8::from(dialled)]);
        all.extend(number.to_le_bytes());
        frame.iter().for_each(|part| all.extend(*part));
        Some(pact.frame(peer, &all))
    }

    /// A message as it is sent. After the hello of the other end only.
    pub fn say(&mut self, message: &Message) -> Frame {
        let (kind, short, data) = pack(message);
        let length = short.len() + data.as_ref().map_or(0, |data| data.len());
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        let under: &[u8] = match message {
            Message::Manifest(data) => data,
            _ => &[],
        };
        let code = self.code(self.dialled, self.sent, &[&length, &[kind], &short, under]);
        self.sent += 1;
        let mut head = Vec::from(length);
        head.push(kind);
        head.extend(code.iter().flatten());
        head.extend(short);
        Frame { head, data }
    }

    /// How many of the next bytes belong to the frame that comes; never 0.
    fn missing(&self) -> Result<(usize, bool), Fault> {
        let head = if self.greeted { self.prefix()? } else { HELLO };
        match head.saturating_sub(self.head.len()) {
            0 => Ok((self.length()?.saturating_sub(self.body.len()), false)),
            missing => Ok((missing, true)),
        }
    }

    /// Length and kind, and what else comes before the body.
    fn prefix(&self) -> Result<usize, Fault> {
        let code = if self.pact.is_some() { 16 } else { 0 };
        let Some(kind) = self.head.get(4) else { return Ok(5) };
        if !KINDS.contains(kind) {
            return Err(Fault("says something that is not in the protocol"));
        }
        Ok(5 + code + if *kind == CHUNK { CHUNK_HEAD } else { 0 })
    }

    /// Of the body.
    fn length(&self) -> Result<usize, Fault> {
        let length = self.head.first_chunk::<4>().map_or(0, |l| u32::from_le_bytes(*l)) as usize;
        let kind = self.head.get(4).copied().unwrap_or(0);
        let most = match kind {
            // Only the end that made the connection takes what is long: the body of a frame is
            // kept before its code can be compared.
            CHUNK if self.dialled => LARGEST as usize + CHUNK_HEAD,
            2 if self.dialled => self.most.manifest,
            11 if self.dialled => 36 * DIGESTS,
            6 => self.most.want,
            14 if !self.dialled => REPORT + 8 * RANGES,
            _ => 2 * TEXT,
        };
        let own = if kind == CHUNK { CHUNK_HEAD } else { 0 };
        match length.checked_sub(own).filter(|_| length <= most) {
            Some(length) => Ok(length),
            None => Err(Fault("sends a frame of a wrong length")),
        }
    }

    /// Takes what has arrived; the messages that are whole.
    ///
    /// # Errors
    /// A [`Fault`]; the connection is of no use.
    pub fn heard(&mut self, mut bytes: &[u8], out: &mut Vec<Message>) -> Result<(), Fault> {
        loop {
            let (missing, in_head) = self.missing()?;
            let (some, rest) = bytes.split_at(missing.min(bytes.len()));
            // Only the end that made the connection takes chunks.
            if self.body.is_empty() && !in_head && self.dialled && missing <= ROOM {
                self.body.reserve_exact(missing);
            }
            if in_head { &mut self.head } else { &mut self.body }.extend_from_slice(some);
            bytes = rest;
            let whole = some.len() == missing;
            if whole && !self.greeted {
                self.greet()?;
            } else if whole && !in_head {
                out.push(self.message()?);
                self.head.clear();
            }
            if bytes.is_empty() && (!whole || self.missing()?.0 > 0) {
                return Ok(());
            }
        }
    }

    fn message(&mut self) -> Result<Message, Fault> {
        let body = core::mem::take(&mut self.body);
        let (length, rest) = self.head.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        let (kind, rest) = rest.split_first().unwrap_or((&0, &[]));
        let (code, short) = rest.split_at(if self.pact.is_some() { 16.min(rest.len()) } else { 0 });
        let under: &[u8] = if *kind == CHUNK { &[] } else { &body };
        let wanted = self.code(!self.dialled, self.heard, &[length, &[*kind], short, under]);
        if wanted.is_some_and(|wanted| !same(&wanted, code)) {
            return Err(Fault(match self.heard {
                0 => {
                    "has another key than this machine: give both the same, bw.clone.key= or --key"
                }
                _ => CHANGED,
            }));
        }
        self.heard += 1;
        unpack(*kind, short, body).ok_or(Fault("sends a message that cannot be read"))
    }
}

fn pack(message: &Message) -> (u8, Vec<u8>, Option<Arc<Vec<u8>>>) {
    let text = |text: &str| {
        let end = (0..=TEXT.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
        text.get(..end.unwrap_or(0)).unwrap_or_default().as_bytes().to_vec()
    };
    match message {
        Message::Join { name, port } => (1, [&port.to_le_bytes()[..], &text(name)].concat(), None),
        Message::Manifest(bytes) => (2, Vec::new(), Some(bytes.clone())),
        Message::State(have) => (3, have.to_le_bytes().to_vec(), None),
        Message::From(None) => (4, Vec::new(), None),
        Message::From(Some(to)) => {
            (4, [&to.ip().octets()[..], &to.port().to_le_bytes()].concat(), None)
        }
        Message::Lost => (5, Vec::new(), None),
        Message::Want { session, bits } => (6, [&session[..], bits].concat(), None),
        Message::Chunk(piece) => {
            let head = [
                &piece.session[..],
                &piece.disk.to_le_bytes(),
                &piece.area.to_le_bytes(),
                &piece.number.to_le_bytes(),
                &piece.start.to_le_bytes(),
            ];
            (CHUNK, head.concat(), Some(piece.data.clone()))
        }
        Message::Done(verdict, came) => {
            let (verdict, why) = match verdict {
                Verdict::Verified => (0, ""),
                Verdict::Whole => (1, ""),
                Verdict::Failed(why) => (2, why.as_str()),
            };
            (8, [&came.to_le_bytes()[..], &[verdict], &text(why)].concat(), None)
        }
        Message::End(why) => (9, text(why), None),
        Message::Ping => (10, Vec::new(), None),
        Message::Digests(all) => {
            let pair = |(n, digest): &(u32, [u8; 32])| [&n.to_le_bytes()[..], digest].concat();
            (11, all.iter().flat_map(pair).collect(), None)
        }
        Message::Known(root) => (12, root.iter().flatten().copied().collect(), None),
        Message::Group(None) => (13, Vec::new(), None),
        Message::Group(Some(Group { token, to })) => {
            (13, [&token[..], &to.ip().octets(), &to.port().to_le_bytes()].concat(), None)
        }
        Message::Heard(heard) => {
            let head = [
                &heard.token[..],
                &heard.next.to_le_bytes(),
                &heard.count.to_le_bytes(),
                &heard.have.to_le_bytes(),
                &heard.chunks.to_le_bytes(),
                &heard.room.to_le_bytes(),
                &heard.open.to_le_bytes(),
            ];
            let mut all = head.concat();
            for range in heard.missing.iter().take(RANGES) {
                all.extend(range.chunk.to_le_bytes());
                all.extend(range.first.to_le_bytes());
                all.extend(range.count.to_le_bytes());
            }
            (14, all, None)
        }
    }
}

fn unpack(kind: u8, short: &[u8], body: Vec<u8>) -> Option<Message> {
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        text.chars().filter(|c| !c.is_control()).collect::<String>()
    };
    Some(match kind {
        1 => {
            let (port, name) = body.split_first_chunk()?;
            Message::Join { name: text(name), port: u16::from_le_bytes(*port) }
        }
        2 => Message::Manifest(Arc::new(body)),
        3 => Message::State(u32::from_le_bytes(body.try_into().ok()?)),
        4 if body.is_empty() => Message::From(None),
        4 => {
            let [a, b, c, d, low, high] = body.try_into().ok()?;
            let port = u16::from_le_bytes([low, high]);
            Message::From(Some(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port)))
        }
        5 if body.is_empty() => Message::Lost,
        6 => {
            let (session, bits) = body.split_first_chunk()?;
            Message::Want { session: *session, bits: bits.to_vec() }
        }
        CHUNK => {
            let mut rest = Cursor(short);
            let (session, disk, area) = (rest.take()?, rest.le16()?, rest.le32()?);
            let (number, start) = (rest.le32()?, u64::from_le_bytes(rest.0.try_into().ok()?));
            Message::Chunk(Piece { session, disk, area, number, start, data: Arc::new(body) })
        }
        8 => {
            let (came, rest) = body.split_first_chunk()?;
            let verdict = match rest.split_first()? {
                (0, []) => Verdict::Verified,
                (1, []) => Verdict::Whole,
                (2, why) => Verdict::Failed(text(why)),
                _ => return None,
            };
            Message::Done(verdict, u64::from_le_bytes(*came))
        }
        9 => Message::End(text(&body)),
        10 if body.is_empty() => Message::Ping,
        11 => {
            let (pairs, rest) = body.as_chunks::<36>();
            let pair = |pair: &[u8; 36]| {
                let (n, digest) = pair.split_first_chunk::<4>()?;
                Some((u32::from_le_bytes(*n), digest.try_into().ok()?))
            };
            let all = pairs.iter().map(pair).collect::<Option<_>>();
            Message::Digests(all.filter(|_| rest.is_empty())?)
        }
        12 if body.is_empty() => Message::Known(None),
        12 => Message::Known(Some(body.try_into().ok()?)),
        13 if body.is_empty() => Message::Group(None),
        13 => {
            let (token, rest) = body.split_first_chunk()?;
            let [a, b, c, d, low, high] = rest.try_into().ok()?;
            let (ip, port) = (Ipv4Addr::new(a, b, c, d), u16::from_le_bytes([low, high]));
            let to = SocketAddrV4::new(ip, port);
            Message::Group(Some(Group { token: *token, to }).filter(|_| ip.is_multicast()))
        }
        14 => Message::Heard(report(&body)?),
        _ => return None,
    })
}

fn report(body: &[u8]) -> Option<Heard> {
    let (token, rest) = body.split_first_chunk()?;
    let (words, rest) = rest.split_first_chunk::<20>()?;
    let [next, count, have, chunks, room] = *words.as_chunks::<4>().0 else { return None };
    let [low, high, open @ ..] = room;
    let (ranges, rest) = rest.as_chunks::<8>();
    let range = |[a, b, c, d, e, f, g, h]: &[u8; 8]| Missing {
        chunk: u32::from_le_bytes([*a, *b, *c, *d]),
        first: u16::from_le_bytes([*e, *f]),
        count: u16::from_le_bytes([*g, *h]),
    };
    rest.is_empty().then(|| Heard {
        token: *token,
        next: u32::from_le_bytes(next),
        count: u32::from_le_bytes(count),
        have: u32::from_le_bytes(have),
        chunks: u32::from_le_bytes(chunks),
        room: u16::from_le_bytes([low, high]),
        open: u16::from_le_bytes(open),
        missing: ranges.iter().map(range).collect(),
    })
}

/// The name of a machine, as its message has it.
#[must_use]
pub fn name(text: &str) -> String {
    text.chars().take(64).collect::<String>().trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> Option<Key> {
        Key::new("0123456789abcdef")
    }

    /// Two ends that have said hello.
    fn pair(keys: [Option<Key>; 2]) -> Result<[Line; 2], Fault> {
        let [a, b] = keys;
        let mut ends = [Line::new(a, [1; 10], true), Line::new(b, [2; 10], false)];
        let hellos = [ends[0].hello(), ends[1].hello()];
        let mut none = Vec::new();
        ends[0].heard(&hellos[1], &mut none)?;
        ends[1].heard(&hellos[0], &mut none)?;
        assert!(none.is_empty() && ends[0].greeted() && ends[1].greeted());
        Ok(ends)
    }

    fn bytes(frame: &Frame) -> Vec<u8> {
        [&frame.head[..], frame.data.as_ref().map_or(&[], |data| data)].concat()
    }

    fn all() -> Vec<Message> {
        let piece = Piece {
            session: [3; 16],
            disk: 1,
            area: 2,
            number: 3,
            start: 1 << 40,
            data: Arc::new(std::vec![9; 70_000]),
        };
        Vec::from([
            Message::Join { name: "n1".to_string(), port: 9012 },
            Message::Manifest(Arc::new(std::vec![1; 3000])),
            Message::Digests(Vec::from([(7, [1; 32]), (8, [2; 32])])),
            Message::Known(None),
            Message::Known(Some([5; 32])),
            Message::State(7),
            Message::From(None),
            Message::From(Some("10.0.0.1:9012".parse().unwrap())),
            Message::Lost,
            Message::Want { session: [4; 16], bits: std::vec![255; 8] },
            Message::Chunk(piece),
            Message::Done(Verdict::Verified, 1 << 40),
            Message::Done(Verdict::Whole, 0),
            Message::Done(Verdict::Failed("the disk is bad".to_string()), 7),
            Message::End(String::new()),
            Message::Ping,
            Message::Group(None),
            Message::Group(Some(Group { token: [6; 8], to: "239.1.2.3:9012".parse().unwrap() })),
        ])
    }

    /// The vectors of docs/clone-protocol.md.
    #[test]
    fn vectors() {
        let hex = |bytes: &[u8]| crate::pact::hex(bytes);
        assert_eq!(
            hex(&Line::new(None, [0x11; 10], true).hello()),
            "4257524f4f4d0d0a0300000011111111111111111111"
        );
        let [mut plain, _] = pair([None, None]).unwrap();
        let join = Message::Join { name: "n1".to_string(), port: 9012 };
        assert_eq!(hex(&plain.say(&join).head), "040000000134236e31");
        let [mut keyed, _] = pair([key(), key()]).unwrap();
        assert_eq!(
            hex(&keyed.say(&join).head),
            "0400000001dbd404248d244b216a35ab661549385534236e31"
        );
    }

    #[test]
    fn every_message_arrives_in_pieces_of_any_size() {
        for keys in [[None, None], [key(), key()]] {
            for step in [1, 7, 4096, 1 << 20] {
                let [mut b, mut a] = pair(keys.clone()).unwrap();
                let stream: Vec<u8> = all().iter().flat_map(|m| bytes(&a.say(m))).collect();
                let mut got = Vec::new();
                stream.chunks(step).for_each(|some| b.heard(some, &mut got).unwrap());
                // A manifest is for the end that made the connection.
                assert_eq!(got, all(), "{step}");
            }
        }
    }

    /// As a copy says it: the end that made the connection.
    #[test]
    fn a_report_arrives() {
        let missing = |n: u16| Missing { chunk: 7 + u32::from(n), first: n, count: 3 };
        let heard = |ranges| Heard {
            token: [1, 2, 3, 4, 5, 6, 7, 8],
            next: 0x102,
            count: 0x101,
            have: 5,
            room: 32,
            open: 2,
            chunks: 4,
            missing: (0..ranges).map(missing).collect(),
        };
        let [mut a, _] = pair([None, None]).unwrap();
        assert_eq!(
            crate::pact::hex(&a.say(&Message::Heard(heard(1))).head),
            "240000000e01020304050607080201000001010000050000000400000020000200\
             0700000000000300"
        );
        for ranges in [0, 1, RANGES as u16] {
            let [mut a, mut b] = pair([key(), key()]).unwrap();
            let (told, mut got) = (Message::Heard(heard(ranges)), Vec::new());
            b.heard(&bytes(&a.say(&told)), &mut got).unwrap();
            assert_eq!(got, [told]);
        }
        let [_, mut b] = pair([None, None]).unwrap();
        let unicast = [&[14, 0, 0, 0, 13][..], &[0; 8], &[10, 0, 0, 1, 1, 1]].concat();
        let mut got = Vec::new();
        b.heard(&unicast, &mut got).unwrap();
        assert_eq!(got, [Message::Group(None)], "no machine's own address is a group");
        assert!(b.heard(&[&[29, 0, 0, 0, 14][..], &[0; 29]].concat(), &mut got).is_err());
    }

    #[test]
    fn a_key_is_wanted_on_both_ends_or_on_none_and_is_one() {
        let why = |keys| pair(keys).map(|_| ()).unwrap_err().0;
        assert!(why([key(), None]).contains("has no key"));
        assert!(why([None, key()]).contains("has a key"));
        let [mut a, mut b] = pair([key(), Key::new("another key, long enough")]).unwrap();
        let got = b.heard(&bytes(&a.say(&Message::Ping)), &mut Vec::new());
        assert!(got.unwrap_err().0.contains("another key"));
    }

    /// A frame that was heard elsewhere, twice, later or backwards, is none.
    #[test]
    fn a_frame_has_its_place() {
        let wrong = |line: &mut Line, frame: &[u8]| line.heard(frame, &mut Vec::new()).is_err();
        let [mut a, mut b] = pair([key(), key()]).unwrap();
        let (first, second) = (bytes(&a.say(&Message::Ping)), bytes(&a.say(&Message::Ping)));
        assert!(b.heard(&first, &mut Vec::new()).is_ok());
        assert!(wrong(&mut b, &first), "twice");
        let [_, mut b] = pair([key(), key()]).unwrap();
        assert!(wrong(&mut b, &second), "out of order");
        let [mut a, _] = pair([key(), key()]).unwrap();
        assert!(wrong(&mut a, &first), "to who said it");
        let mut other = Line::new(key(), [9; 10], false);
        let hello = Line::new(key(), [1; 10], true).hello();
        other.heard(&hello, &mut Vec::new()).unwrap();
        assert!(wrong(&mut other, &first), "on another connection");
    }

    #[test]
    fn lengths_and_kinds_are_bounded() {
        for head in [
            &[0xff, 0xff, 0xff, 0xff, 7][..],
            &[0xff, 0xff, 0xff, 0xff, 2],
            &[1, 0, 0, 0, 7, 0],
            &[0, 16, 0, 0, 1],
            &[0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 15],
            &[0xff, 0xff, 0, 0, 11],
        ] {
            let [_, mut b] = pair([None, None]).unwrap();
            let filled = [head, &[0; 64]].concat();
            assert!(b.heard(&filled, &mut Vec::new()).is_err(), "{head:?}");
        }
        let mut b = Line::new(None, [2; 10], false);
        assert!(b.heard(b"GET / HTTP/1.0\r\n\r\n     ", &mut Vec::new()).is_err());
        let mut old = Line::new(None, [1; 10], true).hello();
        old[8] = 9;
        assert!(b.heard(&old, &mut Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, keyed: bool, step in 1usize..9) {
            let key = keyed.then(key).flatten();
            let Ok([_, mut b]) = pair([key.clone(), key]) else { unreachable!() };
            let mut got = Vec::new();
            for some in bytes.chunks(step) {
                if b.heard(some, &mut got).is_err() { break; }
            }
            prop_assert!(!keyed || got.is_empty(), "nothing is believed without its code");
        }
    }
}
