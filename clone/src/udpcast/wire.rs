//! udpcast's packets. All numbers are big-endian; opcodes are 16 bits.
//!
//! Old quirks that are kept: HELLO goes out as 0x0500, and the round of a
//! RETRANSMIT is echoed as four opaque bytes, because real peers do not agree
//! on its byte order.

use super::{Bits, MAX_BLOCK_SIZE, MAX_SLICE_BLOCKS};
use crate::digest::Digest;
use crate::guard::Announcement;
use crate::pact::{Mac, Nonce};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use sys::bytes::Cursor;

/// What an end can do, announced in HELLO, CONNECT_REQ and CONNECT_REPLY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(pub u32);

impl Capabilities {
    /// The current generation; every peer has it.
    pub const NEW_GENERATION: u32 = 0x01;
    /// Understands FEC packets.
    pub const FEC: u32 = 0x04;
    /// Numbers are big-endian; every peer has it.
    pub const BIG_ENDIAN: u32 = 0x08;
    /// There is no way back: receivers must not answer.
    pub const ASYNC: u32 = 0x20;
    /// Ours: will compare digests at the end. Old peers test single bits and
    /// do not see it.
    pub const VERIFY: u32 = 0x4257_0000;
    /// Ours, beside [`Capabilities::VERIFY`]: has a key.
    pub const KEYED: u32 = 0x0008_0000;

    /// Whether all bits of `what` are there.
    #[must_use]
    pub const fn has(self, what: u32) -> bool {
        self.0 & what == what
    }
}

/// Which of the three HELLOs it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelloKind {
    /// What all senders send.
    Usual,
    /// Opcode 10, as [`HelloKind::Usual`].
    New,
    /// The stream has begun, and may still be joined.
    Streaming,
}

/// How far a receiver has come in comparing digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Still storing.
    Pending,
    /// Stored, and the digests are equal; not read back.
    Whole,
    /// Read back from the disk, and the digests are equal.
    Verified,
    /// The digests differ.
    Mismatch,
    /// Could not be stored.
    StoreFailed,
}

impl Verdict {
    /// Its number in the packet.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Pending => 0,
            Self::Whole => 1,
            Self::Mismatch => 2,
            Self::StoreFailed => 3,
            Self::Verified => 4,
        }
    }

    /// What its code is over.
    #[must_use]
    pub fn text(self, digest: &Digest) -> [u8; 33] {
        let mut all = [0; 33];
        let parts = core::iter::once(self.number() as u8).chain(digest.blake3);
        all.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        all
    }
}

/// A packet to a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToSender {
    /// The receiver has all of a slice.
    Ok {
        /// The slice's number.
        slice: u32,
    },
    /// The receiver lacks some of a slice.
    Retransmit {
        /// The slice's number.
        slice: u32,
        /// The REQACK's round, byte for byte.
        round: [u8; 4],
        /// The blocks that are there.
        have: Bits,
    },
    /// The user at a receiver wants the transfer to begin.
    Go,
    /// A receiver wants to take part.
    ConnectReq {
        /// What it can do.
        capabilities: Capabilities,
        /// The size of its socket's buffer.
        receive_buffer: u32,
    },
    /// A receiver leaves.
    Disconnect,
    /// Ours: a receiver's answer to [`ToReceiver::Digest`].
    Verdict {
        /// The answer.
        verdict: Verdict,
        /// What it stored.
        digest: Digest,
        /// The code of both, with a key.
        code: Option<Mac>,
    },
    /// Ours: does the sender know the key? Answered by [`ToReceiver::Announce`].
    Challenge(Nonce),
    /// Ours: the receiver knows the key.
    Answer(Mac),
}

/// A packet to receivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToReceiver<'a> {
    /// A sender is there.
    Hello {
        /// Which HELLO.
        kind: HelloKind,
        /// What it can do.
        capabilities: Capabilities,
        /// Where data will go.
        group: Ipv4Addr,
        /// Bytes of a block.
        block_size: u16,
    },
    /// A receiver was accepted, or not.
    ConnectReply {
        /// Its number; negative when there is no room.
        client: i32,
        /// Bytes of a block.
        block_size: u16,
        /// What the sender can do.
        capabilities: Capabilities,
        /// Where data will go.
        group: Ipv4Addr,
    },
    /// A block.
    Data {
        /// The slice's number.
        slice: u32,
        /// The block's number in the slice.
        block: u16,
        /// The slice's length.
        bytes: u32,
        /// The block.
        payload: &'a [u8],
    },
    /// A block of redundancy.
    Fec {
        /// How many stripes the slice's blocks are dealt to.
        stripes: u16,
        /// The slice's number.
        slice: u32,
        /// The redundant block's number.
        block: u16,
        /// The slice's length.
        bytes: u32,
        /// The block.
        payload: &'a [u8],
    },
    /// Who has this slice?
    ReqAck {
        /// The slice's number.
        slice: u32,
        /// The slice's length; 0 is the end of the stream.
        bytes: u32,
        /// The round, to be echoed byte for byte.
        round: [u8; 4],
        /// Those that have said so already.
        ready: Bits,
    },
    /// Ours: the stream's length and digest; answered by a verdict.
    Digest {
        /// The stream's.
        digest: Digest,
        /// The verdict has come: no more of them is needed.
        heard: bool,
        /// The code of the digest, with a key.
        code: Option<Mac>,
    },
    /// Ours: what is known of the stream; with a key, the session's nonce and the code.
    Announce(Announcement, Option<(Nonce, Mac)>),
}

const OK: u16 = 0;
const RETRANSMIT: u16 = 1;
const GO: u16 = 2;
const CONNECT_REQ: u16 = 3;
const DISCONNECT: u16 = 4;
const REQACK: u16 = 6;
const CONNECT_REPLY: u16 = 7;
const DATA: u16 = 8;
const FEC: u16 = 9;
const HELLO_NEW: u16 = 10;
const HELLO_STREAMING: u16 = 11;
const HELLO: u16 = 0x0500;
// Ours; "BW" and the next number.
const DIGEST: u16 = 0x4257;
const VERDICT: u16 = 0x4258;
const CHALLENGE: u16 = 0x4259;
const ANNOUNCE: u16 = 0x425a;
const ANSWER: u16 = 0x425b;

fn digest(r: &mut Cursor<'_>) -> Option<Digest> {
    Some(Digest { bytes: r.be64()?, blake3: r.take()? })
}

fn group(r: &mut Cursor<'_>) -> Option<Ipv4Addr> {
    // Sixteen bytes, the last twelve of them left-overs.
    let [a, b, c, d, ..] = r.take::<16>()?;
    Some(Ipv4Addr::new(a, b, c, d))
}

impl ToSender {
    /// Reads a packet; nothing if it is not one, or one for a receiver.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let mut r = Cursor(packet);
        let opcode = r.be16()?;
        let reserved = r.be16()?;
        Some(match opcode {
            OK => Self::Ok { slice: r.be32()? },
            RETRANSMIT => Self::Retransmit {
                slice: r.be32()?,
                round: r.take()?,
                have: Bits::from_bytes(r.take()?),
            },
            GO => Self::Go,
            CONNECT_REQ => Self::ConnectReq {
                capabilities: Capabilities(r.be32()?),
                receive_buffer: r.be32()?,
            },
            DISCONNECT => Self::Disconnect,
            VERDICT => Self::Verdict {
                verdict: match reserved {
                    0 => Verdict::Pending,
                    1 => Verdict::Whole,
                    2 => Verdict::Mismatch,
                    3 => Verdict::StoreFailed,
                    4 => Verdict::Verified,
                    _ => return None,
                },
                digest: digest(&mut r)?,
                code: r.take(),
            },
            CHALLENGE => Self::Challenge(r.take()?),
            ANSWER => Self::Answer(r.take()?),
            _ => return None,
        })
    }

    /// Writes the packet behind what is in `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let head = |out: &mut Vec<u8>, opcode: u16, reserved: u16| {
            out.extend_from_slice(&opcode.to_be_bytes());
            out.extend_from_slice(&reserved.to_be_bytes());
        };
        match self {
            Self::Ok { slice } => {
                head(out, OK, 0);
                out.extend_from_slice(&slice.to_be_bytes());
            }
            Self::Retransmit { slice, round, have } => {
                head(out, RETRANSMIT, 0);
                out.extend_from_slice(&slice.to_be_bytes());
                out.extend_from_slice(round);
                out.extend_from_slice(have.as_bytes());
            }
            Self::Go => head(out, GO, 0),
            Self::ConnectReq { capabilities, receive_buffer } => {
                head(out, CONNECT_REQ, 0);
                out.extend_from_slice(&capabilities.0.to_be_bytes());
                out.extend_from_slice(&receive_buffer.to_be_bytes());
            }
            Self::Disconnect => head(out, DISCONNECT, 0),
            Self::Verdict { verdict, digest, code } => {
                head(out, VERDICT, verdict.number());
                out.extend_from_slice(&digest.bytes.to_be_bytes());
                out.extend_from_slice(&digest.blake3);
                out.extend(code.iter().flatten());
            }
            Self::Challenge(nonce) => {
                head(out, CHALLENGE, 0);
                out.extend_from_slice(nonce);
            }
            Self::Answer(code) => {
                head(out, ANSWER, 0);
                out.extend_from_slice(code);
            }
        }
    }
}

impl<'a> ToReceiver<'a> {
    /// Reads a packet; nothing if it is not one, one for a sender, or one with
    /// numbers that no sender has: a slice of more than 1024 blocks, a block
    /// beyond its slice, a block size of zero or too much.
    #[must_use]
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let mut r = Cursor(packet);
        let opcode = r.be16()?;
        let reserved = r.be16()?;
        let block_size_ok = |n: u16| n > 0 && usize::from(n) <= MAX_BLOCK_SIZE;
        let slice_ok = |bytes: u32| bytes as usize <= MAX_SLICE_BLOCKS * MAX_BLOCK_SIZE;
        Some(match opcode {
            HELLO | HELLO_NEW | HELLO_STREAMING => {
                let capabilities = Capabilities(r.be32()?);
                let group = group(&mut r)?;
                let block_size = r.be16().filter(|n| block_size_ok(*n))?;
                let kind = match opcode {
                    HELLO => HelloKind::Usual,
                    HELLO_NEW => HelloKind::New,
                    _ => HelloKind::Streaming,
                };
                Self::Hello { kind, capabilities, group, block_size }
            }
            CONNECT_REPLY => Self::ConnectReply {
                client: r.take().map(i32::from_be_bytes)?,
                block_size: u16::try_from(r.be32()?).ok().filter(|n| block_size_ok(*n))?,
                capabilities: Capabilities(r.be32()?),
                group: group(&mut r)?,
            },
            DATA | FEC => {
                let slice = r.be32()?;
                let block = r.be16()?;
                r.be16()?;
                let bytes = r.be32().filter(|n| slice_ok(*n))?;
                if opcode == DATA && usize::from(block) >= MAX_SLICE_BLOCKS {
                    return None;
                }
                if opcode == DATA {
                    Self::Data { slice, block, bytes, payload: r.0 }
                } else {
                    let stripes = reserved;
                    if stripes == 0 || usize::from(stripes) > MAX_SLICE_BLOCKS {
                        return None;
                    }
                    Self::Fec { stripes, slice, block, bytes, payload: r.0 }
                }
            }
            REQACK => Self::ReqAck {
                slice: r.be32()?,
                bytes: r.be32().filter(|n| slice_ok(*n))?,
                round: r.take()?,
                ready: Bits::from_bytes(r.take()?),
            },
            DIGEST => {
                Self::Digest { digest: digest(&mut r)?, heard: reserved == 1, code: r.take() }
            }
            ANNOUNCE => {
                let told = Announcement::read(&r.take()?);
                Self::Announce(told, r.take().zip(r.take()))
            }
            _ => return None,
        })
    }

    /// Writes the packet behind what is in `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let head = |out: &mut Vec<u8>, opcode: u16, reserved: u16| {
            out.extend_from_slice(&opcode.to_be_bytes());
            out.extend_from_slice(&reserved.to_be_bytes());
        };
        let group = |out: &mut Vec<u8>, group: &Ipv4Addr| {
            out.extend_from_slice(&group.octets());
            out.extend_from_slice(&[0; 12]);
        };
        match self {
            Self::Hello { kind, capabilities, group: address, block_size } => {
                let opcode = match kind {
                    HelloKind::Usual => HELLO,
                    HelloKind::New => HELLO_NEW,
                    HelloKind::Streaming => HELLO_STREAMING,
                };
                head(out, opcode, 0);
                out.extend_from_slice(&capabilities.0.to_be_bytes());
                group(out, address);
                out.extend_from_slice(&block_size.to_be_bytes());
                out.extend_from_slice(&[0, 0]);
            }
            Self::ConnectReply { client, block_size, capabilities, group: address } => {
                head(out, CONNECT_REPLY, 0);
                out.extend_from_slice(&client.to_be_bytes());
                out.extend_from_slice(&u32::from(*block_size).to_be_bytes());
                out.extend_from_slice(&capabilities.0.to_be_bytes());
                group(out, address);
            }
            Self::Data { slice, block, bytes, payload } => {
                head(out, DATA, 0);
                out.extend_from_slice(&slice.to_be_bytes());
                out.extend_from_slice(&block.to_be_bytes());
                out.extend_from_slice(&[0, 0]);
                out.extend_from_slice(&bytes.to_be_bytes());
                out.extend_from_slice(payload);
            }
            Self::Fec { stripes, slice, block, bytes, payload } => {
                head(out, FEC, *stripes);
                out.extend_from_slice(&slice.to_be_bytes());
                out.extend_from_slice(&block.to_be_bytes());
                out.extend_from_slice(&[0, 0]);
                out.extend_from_slice(&bytes.to_be_bytes());
                out.extend_from_slice(payload);
            }
            Self::ReqAck { slice, bytes, round, ready } => {
                head(out, REQACK, 0);
                out.extend_from_slice(&slice.to_be_bytes());
                out.extend_from_slice(&bytes.to_be_bytes());
                out.extend_from_slice(round);
                out.extend_from_slice(ready.as_bytes());
            }
            Self::Digest { digest, heard, code } => {
                head(out, DIGEST, (*heard).into());
                out.extend_from_slice(&digest.bytes.to_be_bytes());
                out.extend_from_slice(&digest.blake3);
                out.extend(code.iter().flatten());
            }
            Self::Announce(told, pact) => {
                head(out, ANNOUNCE, 0);
                out.extend_from_slice(&told.bytes());
                if let Some((session, code)) = pact {
                    out.extend_from_slice(session);
                    out.extend_from_slice(code);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|p| (p[0] * 16 + p[1]) as u8).collect()
    }

    fn written(packet: &ToReceiver<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        packet.write(&mut out);
        out
    }

    // Packets of a recorded run of the Debian programs.
    #[test]
    fn recorded_hello() {
        let bytes = hex("0500 0000 00000009 ea4d0001 000000000000000000000000 05b0 0000");
        assert_eq!(bytes.len(), 28);
        let packet = ToReceiver::parse(&bytes).unwrap();
        assert_eq!(
            packet,
            ToReceiver::Hello {
                kind: HelloKind::Usual,
                capabilities: Capabilities(9),
                group: Ipv4Addr::new(234, 77, 0, 1),
                block_size: 1456
            }
        );
        assert_eq!(written(&packet), bytes);
    }

    #[test]
    fn recorded_connect() {
        let bytes = hex("0003 0000 00000009 00034000");
        let packet = ToSender::parse(&bytes).unwrap();
        assert_eq!(
            packet,
            ToSender::ConnectReq { capabilities: Capabilities(9), receive_buffer: 212_992 }
        );
        let mut out = Vec::new();
        packet.write(&mut out);
        assert_eq!(out, bytes);
        let reply = hex("0007 0000 00000000 000005b0 00000009 ea4d0001 000000000000000000000000");
        let packet = ToReceiver::parse(&reply).unwrap();
        assert!(matches!(packet, ToReceiver::ConnectReply { client: 0, block_size: 1456, .. }));
        assert_eq!(written(&packet), reply);
    }

    #[test]
    fn recorded_slice() {
        let mut data = hex("0008 0000 00000000 0000 0000 00027d00");
        data.resize(16 + 1456, 7);
        let packet = ToReceiver::parse(&data).unwrap();
        assert!(
            matches!(packet, ToReceiver::Data { slice: 0, block: 0, bytes: 163_072, payload } if payload.len() == 1456)
        );
        assert_eq!(written(&packet), data);
        let mut ask = hex("0006 0000 00000005 000149e0 00000001 02");
        ask.resize(144, 0);
        let packet = ToReceiver::parse(&ask).unwrap();
        assert!(
            matches!(&packet, ToReceiver::ReqAck { slice: 5, bytes: 84_448, round: [0, 0, 0, 1], ready } if ready.get(1) && ready.count() == 1)
        );
        assert_eq!(written(&packet), ask);
        assert_eq!(ToSender::parse(&hex("0000 0000 00000007")), Some(ToSender::Ok { slice: 7 }));
        assert_eq!(ToSender::parse(&hex("0004 0000")), Some(ToSender::Disconnect));
    }

    #[test]
    fn impossible_numbers_are_not_packets() {
        // A slice of 2 GiB, a negative one, block 1024, block size 0 and 65535.
        for text in [
            "0008 0000 00000000 0000 0000 7fffffff 00",
            "0008 0000 00000000 0000 0000 ffffffff 00",
            "0008 0000 00000000 0400 0000 00000100 00",
            "0500 0000 00000009 ea4d0001 000000000000000000000000 0000 0000",
            "0500 0000 00000009 ea4d0001 000000000000000000000000 ffff 0000",
            "0009 0000 00000000 0000 0000 00000100 00",
        ] {
            assert_eq!(ToReceiver::parse(&hex(text)), None, "{text}");
        }
    }

    #[test]
    fn our_own_packets_come_back() {
        let digest = Digest { bytes: 7, blake3: [1; 32] };
        for code in [None, Some([9; 16])] {
            let to = ToReceiver::Digest { digest, heard: true, code };
            assert_eq!(ToReceiver::parse(&written(&to)), Some(to));
            let told = Announcement { sender: None, bytes: Some(3), blake3: None };
            let to = ToReceiver::Announce(told, code.map(|code| ([2; 10], code)));
            assert_eq!(ToReceiver::parse(&written(&to)), Some(to));
            for from in [
                ToSender::Verdict { verdict: Verdict::Verified, digest, code },
                ToSender::Challenge([3; 10]),
                ToSender::Answer([4; 16]),
            ] {
                let mut out = Vec::new();
                from.write(&mut out);
                assert_eq!(ToSender::parse(&out), Some(from));
            }
        }
    }

    proptest! {
        #[test]
        fn garbage_is_survived_and_packets_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..200), op in 0u8..12) {
            let mut packet = bytes;
            if packet.len() > 2 { packet[0] = 0; packet[1] = op; }
            if let Some(p) = ToSender::parse(&packet) {
                let mut out = Vec::new();
                p.write(&mut out);
                prop_assert_eq!(ToSender::parse(&out), Some(p));
            }
            if let Some(p) = ToReceiver::parse(&packet) {
                let out = written(&p);
                prop_assert_eq!(ToReceiver::parse(&out), Some(p));
            }
        }
    }
}
