//! KA's packets: C structs as two compilers laid them out.
//!
//! Integers are little-endian, as on every machine that ran it; addresses are
//! in network order. What a message does not use carried garbage and means
//! nothing; there we put, and look for, what only our own ends know.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

/// The version that both sides say, and the discovery's answer.
pub const VERSION: &[u8; 14] = b"Ka-deploy-0.6\0";
/// Behind the version in our hello: this client compares digests.
const VERIFIES: &[u8; 4] = b"bw:b";
/// In our last message: the digest was equal, or not.
const EQUAL: &[u8; 4] = b"bw:=";
const UNEQUAL: &[u8; 4] = b"bw:!";
/// Server to client, between our own ends only: 32 bytes of BLAKE3 follow.
const DIGEST: u32 = 0x6277_6233;

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

/// What clients say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToServer {
    /// First.
    Hello {
        /// The client compares digests.
        verifies: bool,
    },
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
    /// All is stored; whether the digest was equal, if it was compared.
    HasFinished(Option<bool>),
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
    /// BLAKE3 of all data; only to clients that compare.
    Digest([u8; 32]),
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn ip_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    bytes.get(at..)?.first_chunk::<4>().map(|b| Ipv4Addr::from(*b))
}

/// A position; negative ones are none.
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let n = bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))?;
    (n < 1 << 63).then_some(n)
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
            Self::HasFinished(_) => 4,
            Self::ReportsPosition(_) => 5,
            Self::GoNow => 6,
            Self::Options { .. } => 7,
            Self::PingReply => 8,
        };
        let mut p = Packet::new(layout, kind);
        match self {
            Self::Hello { verifies } => {
                p.union(VERSION);
                if verifies {
                    p.put(layout.union() + VERSION.len(), VERIFIES);
                }
            }
            Self::GotClient(ip) => p.union(&ip.octets()),
            Self::DadDisconnected { dad, position } => p.pair(dad, position),
            Self::ReportsPosition(position) => p.union(&position.to_le_bytes()),
            Self::Options { will_wait } => p.union(&[u8::from(will_wait)]),
            Self::HasFinished(Some(equal)) => p.union(if equal { EQUAL } else { UNEQUAL }),
            _ => {}
        }
        p.bytes.get(..layout.from_client()).unwrap_or_default().to_vec()
    }

    /// Reads one packet of the layout's size; nothing when it is none.
    #[must_use]
    pub fn parse(layout: Layout, bytes: &[u8]) -> Option<Self> {
        let union = layout.union();
        let at = |n: usize| bytes.get(n..n + 4);
        Some(match u32_at(bytes, 0)? {
            0 => {
                if bytes.get(union..union + VERSION.len())? != VERSION {
                    return None;
                }
                let verifies = at(union + VERSION.len()) == Some(VERIFIES);
                Self::Hello { verifies }
            }
            1 => Self::GotClient(ip_at(bytes, union)?),
            2 => Self::AcceptsData,
            3 => Self::DadDisconnected {
                dad: ip_at(bytes, union)?,
                position: u64_at(bytes, pair_position(layout))?,
            },
            4 => Self::HasFinished(match at(union) {
                Some(word) if word == EQUAL => Some(true),
                Some(word) if word == UNEQUAL => Some(false),
                _ => None,
            }),
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
            Self::Digest(_) => DIGEST,
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
        if let Self::Digest(digest) = self {
            bytes.extend_from_slice(&digest);
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
        let word = match u32_at(packet, 0).ok_or(NoPacket)? {
            0 => Self::Go,
            1 => Self::EndOfFlow,
            2 => Self::Finish,
            3 => Self::GivesIp(ip),
            4 => Self::GivesAuth(ip, u64_at(packet, pair_position(layout)).ok_or(NoPacket)?),
            5 => Self::DropChild(ip),
            6 => Self::ReportPosition(match u32_at(packet, union).ok_or(NoPacket)? {
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
                return Ok(Some((Self::Digest(*digest), size + 32)));
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
                ToServer::Hello { verifies: true },
                ToServer::Hello { verifies: false },
                ToServer::GotClient(NODE),
                ToServer::AcceptsData,
                ToServer::DadDisconnected { dad: NODE, position: 0x89_5441 },
                ToServer::HasFinished(None),
                ToServer::HasFinished(Some(true)),
                ToServer::HasFinished(Some(false)),
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
                ToClient::Digest([9; 32]),
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
            let mut bytes = ToServer::Hello { verifies: false }.bytes(layout);
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
