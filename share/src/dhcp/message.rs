//! DHCP messages as UDP payloads.

use cmdline::plan::Mac;
use netboot::dhcp::options::Options;
use std::net::Ipv4Addr;
use sys::bytes::{be16, be32};

/// Options behind this many bytes of header and magic number.
const HEADER: usize = 240;
const MAGIC: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
/// Shorter ones are dropped by relays and ROMs of the BOOTP age (RFC 1542 2.1).
const MIN_LENGTH: usize = 300;

/// Message types (option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Type {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Decline = 4,
    Ack = 5,
    Nak = 6,
    Release = 7,
    Inform = 8,
}

impl Type {
    fn of(number: u8) -> Option<Self> {
        const ALL: [Type; 8] = [
            Type::Discover,
            Type::Offer,
            Type::Request,
            Type::Decline,
            Type::Ack,
            Type::Nak,
            Type::Release,
            Type::Inform,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// Further option codes, for servers.
pub mod code {
    #![allow(missing_docs)]
    pub use netboot::dhcp::options::code::*;
    pub const RENEWAL: u8 = 58;
    pub const REBINDING: u8 = 59;
    pub const USER_CLASS: u8 = 77;
    pub const RELAY_AGENT: u8 = 82;
    pub const CLIENT_ARCH: u8 = 93;
    pub const CLIENT_UUID: u8 = 97;
    pub const IPXE: u8 = 175;
}

/// A client's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The message type.
    pub kind: Type,
    /// Transaction id.
    pub transaction: u32,
    /// Seconds since the client began to ask, echoed.
    pub seconds: u16,
    /// The client's flags, echoed.
    pub flags: u16,
    /// The address that it has.
    pub own: Ipv4Addr,
    /// The relay that passed it on; unspecified for none.
    pub relay: Ipv4Addr,
    /// The client's hardware address.
    pub mac: Mac,
    /// Options.
    pub options: Options,
}

impl Message {
    /// Parses a client's message on Ethernet; `None` when it is not one.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let field = |at: usize| Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?));
        let &[op, hardware, length, _, ..] = bytes else { return None };
        if (op, hardware, length) != (1, 1, 6) || bytes.get(236..HEADER)? != MAGIC {
            return None;
        }
        let mut options = Options::default();
        options.collect(bytes.get(HEADER..)?);
        Some(Self {
            kind: match options.get(code::MESSAGE_TYPE) {
                Some([kind]) => Type::of(*kind)?,
                _ => return None,
            },
            transaction: be32(bytes, 4)?,
            seconds: be16(bytes, 8)?,
            flags: be16(bytes, 10)?,
            own: field(12)?,
            relay: field(24)?,
            mac: Mac(*bytes.get(28..)?.first_chunk()?),
            options,
        })
    }

    /// The value of an option that holds one address.
    pub fn address(&self, option: u8) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::from(<[u8; 4]>::try_from(self.options.get(option)?).ok()?))
    }
}

/// The header of a message.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Head {
    pub kind: Type,
    pub transaction: u32,
    pub seconds: u16,
    pub flags: u16,
    /// The client's address (`ciaddr`).
    pub own: Ipv4Addr,
    /// The relay's address (`giaddr`).
    pub relay: Ipv4Addr,
    pub mac: Mac,
}

/// A message being written.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    /// Options in order.
    pub options: Vec<(u8, Vec<u8>)>,
    /// The client's address (`yiaddr`).
    pub yours: Option<Ipv4Addr>,
    /// The server that has the boot file.
    pub next_server: Option<Ipv4Addr>,
    /// The boot file; one of more than 127 bytes goes into an option.
    pub file: String,
}

impl Writer {
    /// Adds an option.
    pub fn add(&mut self, option: u8, value: &[u8]) -> &mut Self {
        self.options.push((option, value.to_vec()));
        self
    }

    /// Builds a server's answer to a client's message.
    pub fn answer(&self, to: &Message, kind: Type) -> Vec<u8> {
        let Message { transaction, seconds, flags, own, relay, mac, .. } = *to;
        self.write(2, &Head { kind, transaction, seconds, flags, own, relay, mac })
    }

    /// Builds a client's question, to find other servers. It asks for a broadcast answer.
    pub fn question(&self, head: &Head) -> Vec<u8> {
        self.write(1, head)
    }

    fn write(&self, op: u8, head: &Head) -> Vec<u8> {
        let Head { kind, transaction, seconds, flags, own, relay, mac } = *head;
        let address = |address: Option<Ipv4Addr>| address.map_or([0; 4], |a| a.octets());
        let mut out = vec![op, 1, 6, 0];
        out.extend(transaction.to_be_bytes());
        out.extend(seconds.to_be_bytes());
        out.extend(flags.to_be_bytes());
        out.extend(own.octets());
        out.extend(address(self.yours));
        out.extend(address(self.next_server));
        out.extend(relay.octets());
        out.extend(mac.0);
        out.resize(108, 0);
        let short = self.file.len() < 128;
        if short {
            out.extend(self.file.as_bytes());
        }
        out.resize(236, 0);
        out.extend(MAGIC);
        let mut option = |code: u8, value: &[u8]| {
            // RFC 3396: a longer value is split over several options.
            for part in value.chunks(255) {
                out.push(code);
                out.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
                out.extend(part);
            }
        };
        option(code::MESSAGE_TYPE, &[kind as u8]);
        for (code, value) in &self.options {
            option(*code, value);
        }
        if !short {
            option(code::BOOT_FILE, self.file.as_bytes());
        }
        // A pad: firmware of 2010 to 2015 takes the end mark for a part of the text before it.
        out.extend([0, 255]);
        out.resize(out.len().max(MIN_LENGTH), 0);
        out
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A client's message with these options.
    pub fn asked(kind: Type, options: &[(u8, &[u8])]) -> Message {
        let mut writer = Writer::default();
        for (code, value) in options {
            writer.add(*code, value);
        }
        let mac = Mac([0x52, 0x54, 0, 1, 2, 3]);
        let none = Ipv4Addr::UNSPECIFIED;
        let head = Head { kind, transaction: 7, seconds: 1, flags: 0, own: none, relay: none, mac };
        Message::read(&writer.question(&head)).unwrap()
    }

    #[test]
    fn a_question_reads_as_it_was_written() {
        let message = asked(Type::Discover, &[(60, b"PXEClient:Arch:00000"), (93, &[0, 7])]);
        assert_eq!(message.kind, Type::Discover);
        assert_eq!(message.mac.to_string(), "52:54:00:01:02:03");
        assert_eq!(message.options.get(93), Some(&[0, 7][..]));
    }

    #[test]
    fn answers_are_read_by_our_own_client() {
        let message = asked(Type::Discover, &[]);
        let mut writer = Writer {
            yours: Some(Ipv4Addr::new(10, 0, 0, 7)),
            next_server: Some(Ipv4Addr::new(10, 0, 0, 1)),
            file: "pxelinux.0".into(),
            ..Writer::default()
        };
        writer.add(code::SERVER_ID, &[10, 0, 0, 1]).add(code::SUBNET_MASK, &[255, 255, 255, 0]);
        writer.add(code::ROOT_PATH, "x".repeat(300).as_bytes());
        let bytes = writer.answer(&message, Type::Offer);
        let server = Ipv4Addr::new(10, 0, 0, 1);
        let read = netboot::dhcp::message::read_bootp(&bytes, message.mac.0, server).unwrap();
        assert_eq!(read.lease.boot_file, "pxelinux.0");
        assert_eq!(read.lease.root_path.len(), 300);
        assert_eq!(read.transaction, 7);
        let long = Writer { file: "y".repeat(200), ..writer }.answer(&message, Type::Offer);
        let read = netboot::dhcp::message::read_bootp(&long, message.mac.0, server).unwrap();
        assert_eq!(read.lease.boot_file.len(), 200);
    }

    /// Option 67 was the last one: firmware asked for `pxelinux.0\xff`.
    #[test]
    fn no_text_stands_directly_before_the_end_mark() {
        let message = asked(Type::Discover, &[]);
        for file in ["pxelinux.0".to_owned(), "y".repeat(200)] {
            let mut writer = Writer { file: file.clone(), ..Writer::default() };
            writer.add(code::BOOT_FILE, file.as_bytes());
            let bytes = writer.answer(&message, Type::Offer);
            let end = [file.as_bytes(), &[0, 255]].concat();
            assert!(bytes.windows(end.len()).any(|w| w == end));
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Message::read(&bytes);
            if bytes.len() > 240 {
                bytes[..3].copy_from_slice(&[1, 1, 6]);
                bytes[236..240].copy_from_slice(&MAGIC);
                let _ = Message::read(&bytes);
            }
        }
    }
}
