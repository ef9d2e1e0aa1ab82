//! KA's packets: C structs as two compilers laid them out.
//!
//! Integers are little-endian, as on every machine that ran it; addresses are
//! in network order. What a message does not use carried garbage and means
//! nothing; there we put, and look for, what only our own ends know.

use crate::guard::{ANNOUNCEMENT, Announcement};
use crate::pact::{Mac, Nonce};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use sys::bytes::{array, le32, le64};

/// The version that both sides say, and the discovery's answer.
pub const VERSION: &[u8; 14] = b"Ka-deploy-0.6\0";
/// Behind the version in the hello of our 0.1: this client compares digests.
const COMPARES: &[u8; 4] = b"bw:b";
/// The same, and it is told what is announced.
const VERIFIES: &[u8; 4] = b"bw:c";
/// The same, and it has a key; its nonce follows.
const KEYED: &[u8; 4] = b"bw:k";
/// In our last message: the digest was equal, also on the disk, or not.
const EQUAL: &[u8; 4] = b"bw:=";
const READ_BACK: &[u8; 4] = b"bw:d";
const UNEQUAL: &[u8; 4] = b"bw:!";
/// Server to client, between our own ends only: 32 bytes of BLAKE3 follow.
const DIGEST: u32 = 0x6277_6233;
/// The same, and its code.
const DIGEST_KEYED: u32 = 0x6277_6234;
/// Server to client: what is announced follows, with the session's nonce and the code; they are
/// zeros without a key.
const ANNOUNCE: u32 = 0x6277_6235;
/// Client to server: the code of a client that knows the key.
const ANSWER: u32 = 0x6277_6236;

/// The bytes are no packet of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPacket;

/// How the peer was compiled.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// 32-bit, as shipped: packets of 32 and 16 bytes.
    #[default]
    I386,
    /// 64-bit: 40 and 24.
    Lp64,
}

impl Layout {
    const fn union(self) -> usize {
        match self {
            Self::I386 => 4,
            Self::Lp64 => 8,
        }
    }

    /// Bytes of a client's packet.
    #[must_use]
    pub const fn from_client(self) -> usize {
        match self {
            Self::I386 => 32,
            Self::Lp64 => 40,
        }
    }

    /// Bytes of a server's packet.
    #[must_use]
    pub const fn from_server(self) -> usize {
        match self {
            Self::I386 => 16,
            Self::Lp64 => 24,
        }
    }

    /// The layout of a client that begins like this; nothing while that cannot
    /// be said.
    ///
    /// # Errors
    /// [`NoPacket`] when no KA client begins so.
    pub fn of_hello(bytes: &[u8]) -> Result<Option<Self>, NoPacket> {
        let begins = |layout: Self| {
            let at = layout.union();
            let there = bytes.get(at..).unwrap_or_default();
            let wanted = VERSION.get(..there.len().min(VERSION.len()));
            there.len() >= VERSION.len() && there.get(..VERSION.len()) == wanted
        };
        if !bytes.iter().zip([0u8; 4]).all(|(a, b)| *a == b) {
            return Err(NoPacket);
        }
        if begins(Self::I386) {
            return Ok(Some(Self::I386));
        }
        if begins(Self::Lp64) {
            return Ok(Some(Self::Lp64));
        }
        if bytes.len() >= 40 { Err(NoPacket) } else { Ok(None) }
    }
}

/// What a client's last message says of its copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// What an old client says: it is stored.
    Old,
    /// What it received has the server's digest.
    Equal,
    /// What it read back from its disk has the server's digest.
    ReadBack,
    /// It has other bytes, or could not store them.
    Unequal,
}

impl Verdict {
    /// Its word in the packet.
    #[must_use]
    pub const fn word(self) -> [u8; 4] {
        match self {
            Self::Old => [0; 4],
            Self::Equal => *EQUAL,
            Self::ReadBack => *READ_BACK,
            Self::Unequal => *UNEQUAL,
        }
    }
}

/// What clients say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToServer {
    /// First.
    Hello {
        /// The client compares digests.
        verifies: bool,
        /// It takes [`ToClient::Announce`].
        told: bool,
        /// It has a key, and this nonce.
        nonce: Option<Nonce>,
    },
    /// The client knows the key; only after [`ToClient::Announce`].
    Answer(Mac),
    /// A child has connected to my data port; the same again when it is
    /// being sent to.
    GotClient(Ipv4Addr),
    /// I can take data.
    AcceptsData,
    /// My data connection has ended.
    DadDisconnected {
        /// Who that was.
        dad: Ipv4Addr,
        /// Bytes received in all.
        position: u64,
    },
    /// All is stored; with a key, its code.
    HasFinished(Verdict, Mac),
    /// Bytes received in all.
    ReportsPosition(u64),
    /// Begin with those that are there.
    GoNow,
    /// Stays for the word to finish.
    Options {
        /// It does.
        will_wait: bool,
    },
    /// I am there.
    PingReply,
}

/// How often a client shall report its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// Not any more.
    Never,
    /// Each MiB.
    Regularly,
    /// Now.
    Once,
}

/// What servers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToClient {
    /// Begin.
    Go,
    /// That was all of it.
    EndOfFlow,
    /// Leave.
    Finish,
    /// Connect to this data port.
    GivesIp(Ipv4Addr),
    /// Send to this child from this position on.
    GivesAuth(Ipv4Addr, u64),
    /// This child is gone.
    DropChild(Ipv4Addr),
    /// Report the position.
    ReportPosition(Report),
    /// Are you there?
    Ping,
    /// BLAKE3 of all data, and its code if there is a key; only to clients that compare.
    Digest([u8; 32], Option<Mac>),
    /// What is known of the stream; only to clients that compare. With a key, the session's
    /// nonce and the code.
    Announce(Announcement, Option<(Nonce, Mac)>),
}

fn ip_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    array::<4>(bytes, at).map(Ipv4Addr::from)
}

/// A position; negative ones are none.
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    le64(bytes, at).filter(|n| *n < 1 << 63)
}

struct Packet {
    bytes: [u8; 40],
    layout: Layout,
}

impl Packet {
    fn new(layout: Layout, kind: u32) -> Self {
        let mut packet = Self { bytes: [0; 40], layout };
        packet.put(0, &kind.to_le_bytes());
        packet
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn union(&mut self, bytes: &[u8]) {
        self.put(self.layout.union(), bytes);
    }

    fn pair(&mut self, ip: Ipv4Addr, position: u64) {
        let at = self.layout.union();
        self.put(at, &ip.octets());
        let after = match self.layout {
            Layout::I386 => at + 4,
            Layout::Lp64 => at + 8,
        };
        self.put(after, &position.to_le_bytes());
    }
}

const fn pair_position(layout: Layout) -> usize {
    match layout {
        Layout::I386 => 8,
        Layout::Lp64 => 16,
    }
}

impl ToServer {
    /// The packet.
    #[must_use]
    pub fn bytes(self, layout: Layout) -> Vec<u8> {
        let kind = match self {
            Self::Hello { .. } => 0,
            Self::GotClient(_) => 1,
            Self::AcceptsData => 2,
            Self::DadDisconnected { .. } => 3,
            Self::HasFinished(..) => 4,
            Self::ReportsPosition(_) => 5,
            Self::GoNow => 6,
            Self::Options { .. } => 7,
            Self::PingReply => 8,
            Self::Answer(_) => ANSWER,
        };
        let mut p = Packet::new(layout, kind);
        match self {
            Self::Hello { verifies, told, nonce } => {
                p.union(VERSION);
                let at = layout.union() + VERSION.len();
                match nonce {
                    Some(nonce) => {
                        p.put(at, KEYED);
                        p.put(at + KEYED.len(), &nonce);
                    }
                    None if told => p.put(at, VERIFIES),
                    None if verifies => p.put(at, COMPARES),
                    None => {}
                }
            }
            Self::Answer(code) => p.union(&code),
            Self::GotClient(ip) => p.union(&ip.octets()),
            Self::DadDisconnected { dad, position } => p.pair(dad, position),
            Self::ReportsPosition(position) => p.union(&position.to_le_bytes()),
            Self::Options { will_wait } => p.union(&[u8::from(will_wait)]),
            Self::HasFinished(verdict, code) => {
                p.union(&verdict.word());
                p.put(layout.union() + EQUAL.len(), &code);
            }
            _ => {}
        }
        p.bytes.get(..layout.from_client()).unwrap_or_default().to_vec()
    }

    /// Reads one packet of the layout's size; nothing when it is none.
    #[must_use]
    pub fn parse(layout: Layout, bytes: &[u8]) -> Option<Self> {
        let union = layout.union();
        let at = |n: usize| bytes.get(n..n + 4);
        Some(match le32(bytes, 0)? {
            0 => {
                if bytes.get(union..union + VERSION.len())? != VERSION {
                    return None;
                }
                let behind = bytes.get(union + VERSION.len()..)?;
                let keyed = behind.strip_prefix(KEYED).and_then(<[u8]>::first_chunk).copied();
                let told = keyed.is_some() || behind.starts_with(VERIFIES);
                let verifies = told || behind.starts_with(COMPARES);
                Self::Hello { verifies, told, nonce: keyed }
            }
            1 => Self::GotClient(ip_at(bytes, union)?),
            2 => Self::AcceptsData,
            3 => Self::DadDisconnected {
                dad: ip_at(bytes, union)?,
                position: u64_at(bytes, pair_position(layout))?,
            },
            4 => Self::HasFinished(
                match at(union) {
                    Some(word) if word == EQUAL => Verdict::Equal,
                    Some(word) if word == READ_BACK => Verdict::ReadBack,
                    Some(word) if word == UNEQUAL => Verdict::Unequal,
                    _ => Verdict::Old,
                },
                bytes.get(union + EQUAL.len()..)?.first_chunk().copied().unwrap_or_default(),
            ),
            ANSWER => Self::Answer(*bytes.get(union..)?.first_chunk()?),
            5 => Self::ReportsPosition(u64_at(bytes, union)?),
            6 => Self::GoNow,
            7 => Self::Options { will_wait: *bytes.get(union)? != 0 },
            8 => Self::PingReply,
            _ => return None,
        })
    }
}

impl ToClient {
    /// The packet.
    #[must_use]
    pub fn bytes(self, layout: Layout) -> Vec<u8> {
        let kind = match self {
            Self::Go => 0,
            Self::EndOfFlow => 1,
            Self::Finish => 2,
            Self::GivesIp(_) => 3,
            Self::GivesAuth(..) => 4,
            Self::DropChild(_) => 5,
            Self::ReportPosition(_) => 6,
            Self::Ping => 7,
            Self::Digest(_, None) => DIGEST,
            Self::Digest(_, Some(_)) => DIGEST_KEYED,
            Self::Announce(..) => ANNOUNCE,
        };
        let mut p = Packet::new(layout, kind);
        match self {
            Self::GivesIp(ip) | Self::DropChild(ip) => p.union(&ip.octets()),
            Self::GivesAuth(ip, position) => p.pair(ip, position),
            Self::ReportPosition(how) => {
                let how: u32 = match how {
                    Report::Never => 0,
                    Report::Regularly => 1,
                    Report::Once => 2,
                };
                p.union(&how.to_le_bytes());
            }
            _ => {}
        }
        let mut bytes = p.bytes.get(..layout.from_server()).unwrap_or_default().to_vec();
        match self {
            Self::Digest(digest, code) => {
                bytes.extend_from_slice(&digest);
                bytes.extend(code.into_iter().flatten());
            }
            Self::Announce(told, pact) => {
                let (session, code) = pact.unwrap_or_default();
                bytes.extend(told.bytes());
                bytes.extend(session);
                bytes.extend(code);
            }
            _ => {}
        }
        bytes
    }

    /// Reads the packet at the beginning of `bytes` and says how long it is;
    /// nothing while it is not whole.
    ///
    /// # Errors
    /// [`NoPacket`] when these bytes are no packet of KA.
    pub fn parse(layout: Layout, bytes: &[u8]) -> Result<Option<(Self, usize)>, NoPacket> {
        let size = layout.from_server();
        let Some(packet) = bytes.get(..size) else { return Ok(None) };
        let union = layout.union();
        let ip = ip_at(packet, union).ok_or(NoPacket)?;
        let word = match le32(packet, 0).ok_or(NoPacket)? {
            0 => Self::Go,
            1 => Self::EndOfFlow,
            2 => Self::Finish,
            3 => Self::GivesIp(ip),
            4 => Self::GivesAuth(ip, u64_at(packet, pair_position(layout)).ok_or(NoPacket)?),
            5 => Self::DropChild(ip),
            6 => Self::ReportPosition(match le32(packet, union).ok_or(NoPacket)? {
                0 => Report::Never,
                1 => Report::Regularly,
                2 => Report::Once,
                _ => return Err(NoPacket),
            }),
            7 => Self::Ping,
            DIGEST => {
                let Some(digest) = bytes.get(size..).and_then(<[u8]>::first_chunk) else {
                    return Ok(None);
                };
                return Ok(Some((Self::Digest(*digest, None), size + 32)));
            }
            DIGEST_KEYED => {
                let Some(rest) = bytes.get(size..).filter(|rest| rest.len() >= 48) else {
                    return Ok(None);
                };
                let (digest, rest) = rest.split_first_chunk().ok_or(NoPacket)?;
                let code = rest.first_chunk().ok_or(NoPacket)?;
                return Ok(Some((Self::Digest(*digest, Some(*code)), size + 48)));
            }
            ANNOUNCE => {
                let behind = ANNOUNCEMENT + 10 + 16;
                let Some(rest) = bytes.get(size..).filter(|rest| rest.len() >= behind) else {
                    return Ok(None);
                };
                let (told, rest) = rest.split_first_chunk().ok_or(NoPacket)?;
                let (session, rest) = rest.split_first_chunk::<10>().ok_or(NoPacket)?;
                let code = rest.first_chunk::<16>().ok_or(NoPacket)?;
                let keyed = (*session != [0; 10]).then_some((*session, *code));
                let word = Self::Announce(Announcement::read(told), keyed);
                return Ok(Some((word, size + behind)));
            }
            _ => return Err(NoPacket),
        };
        Ok(Some((word, size)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);

    #[test]
    fn both_layouts_come_back() {
        for layout in [Layout::I386, Layout::Lp64] {
            for message in [
                ToServer::Hello { verifies: true, told: true, nonce: Some([5; 10]) },
                ToServer::Hello { verifies: true, told: true, nonce: None },
                ToServer::Hello { verifies: true, told: false, nonce: None },
                ToServer::Hello { verifies: false, told: false, nonce: None },
                ToServer::Answer([6; 16]),
                ToServer::GotClient(NODE),
                ToServer::AcceptsData,
                ToServer::DadDisconnected { dad: NODE, position: 0x89_5441 },
                ToServer::HasFinished(Verdict::Old, [0; 16]),
                ToServer::HasFinished(Verdict::Equal, [0; 16]),
                ToServer::HasFinished(Verdict::ReadBack, [4; 16]),
                ToServer::HasFinished(Verdict::Unequal, [0; 16]),
                ToServer::ReportsPosition(7 << 40),
                ToServer::GoNow,
                ToServer::Options { will_wait: true },
                ToServer::PingReply,
            ] {
                let bytes = message.bytes(layout);
                assert_eq!(bytes.len(), layout.from_client());
                assert_eq!(ToServer::parse(layout, &bytes), Some(message));
            }
            for message in [
                ToClient::Go,
                ToClient::EndOfFlow,
                ToClient::Finish,
                ToClient::GivesIp(NODE),
                ToClient::GivesAuth(NODE, 35 << 20),
                ToClient::DropChild(NODE),
                ToClient::ReportPosition(Report::Regularly),
                ToClient::Ping,
                ToClient::Digest([9; 32], None),
                ToClient::Digest([9; 32], Some([8; 16])),
                ToClient::Announce(Announcement::default(), None),
                ToClient::Announce(
                    Announcement { bytes: Some(7), blake3: Some([1; 32]), sender: None },
                    Some(([2; 10], [3; 16])),
                ),
            ] {
                let bytes = message.bytes(layout);
                assert_eq!(ToClient::parse(layout, &bytes), Ok(Some((message, bytes.len()))));
                assert_eq!(ToClient::parse(layout, &bytes[..bytes.len() - 1]), Ok(None));
            }
        }
    }

    #[test]
    fn a_hello_tells_the_layout() {
        for layout in [Layout::I386, Layout::Lp64] {
            let mut bytes =
                ToServer::Hello { verifies: false, told: false, nonce: None }.bytes(layout);
            assert_eq!(Layout::of_hello(&bytes), Ok(Some(layout)));
            assert_eq!(Layout::of_hello(&bytes[..10]), Ok(None));
            bytes.extend(ToServer::AcceptsData.bytes(layout));
            assert_eq!(Layout::of_hello(&bytes), Ok(Some(layout)));
        }
        assert_eq!(Layout::of_hello(b"GET / HTTP/1.0\r\n\r\n"), Err(NoPacket));
        assert_eq!(Layout::of_hello(&[0; 64]), Err(NoPacket));
    }

    proptest! {
        #[test]
        fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..90)) {
            let _ = Layout::of_hello(&bytes);
            for layout in [Layout::I386, Layout::Lp64] {
                if let Some(m) = ToServer::parse(layout, &bytes) {
                    prop_assert_eq!(ToServer::parse(layout, &m.bytes(layout)), Some(m));
                }
                if let Ok(Some((m, n))) = ToClient::parse(layout, &bytes) {
                    prop_assert_eq!(ToClient::parse(layout, &m.bytes(layout)), Ok(Some((m, n))));
                }
            }
        }
    }
}
