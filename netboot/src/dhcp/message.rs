//! DHCP messages in Ethernet frames: the client's and the servers'.

use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpHardware, DhcpFlags, DhcpOpCode, DhcpOption, DhcpPacket, EthernetAddress, EthernetFrame,
    EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

use super::options::{Options, code};
use crate::dhcp::lease::{Header, Lease};

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const MAGIC: u32 = 0x6382_5363;
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
/// BOOTP header with the magic number.
const BOOTP: usize = 240;
/// Relays and servers from the BOOTP age drop shorter messages (RFC 1542 2.1).
const MIN_MESSAGE: usize = 300;
/// Space for our options; the caller truncates a longer client identifier or host name.
const MAX_MESSAGE: usize = 1200;

/// DHCP message types (option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Client: DISCOVER.
    Discover,
    /// Server: OFFER.
    Offer,
    /// Client: REQUEST.
    Request,
    /// Server: ACK.
    Ack,
    /// Server: NAK.
    Nak,
    /// Server: an answer of a BOOTP server, without message type.
    Bootp,
}

/// The content of a client's message.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Discover or Request.
    pub kind: Kind,
    /// Hardware address of the link.
    pub mac: [u8; 6],
    /// Transaction id.
    pub transaction: u32,
    /// Seconds since the client started.
    pub seconds: u16,
    /// Ask for a broadcast answer.
    pub broadcast: bool,
    /// Options after the message type, in order; those without a value are left out.
    pub options: &'a [(u8, Option<&'a [u8]>)],
}

/// Builds a broadcast frame with a client's message.
///
/// Options that do not fit into 1200 bytes are left out.
pub fn write(message: &Outgoing<'_>) -> Vec<u8> {
    let mut options = [0u8; MAX_MESSAGE - BOOTP];
    let kind = match message.kind {
        Kind::Discover => 1u8,
        _ => 3,
    };
    let room = options.len();
    let mut used = 0usize;
    {
        let mut writer = smoltcp::wire::DhcpOptionWriter::new(&mut options);
        let head = [(code::MESSAGE_TYPE, Some(&[kind][..]))];
        for &(option, data) in head.iter().chain(message.options) {
            let Some(data) = data else { continue };
            let needed = data.len().saturating_add(2);
            if data.len() <= 255
                && used.saturating_add(needed) < room
                && writer.emit(DhcpOption { kind: option, data }).is_ok()
            {
                used = used.saturating_add(needed);
            }
        }
        if writer.end().is_ok() {
            used = used.saturating_add(1);
        }
    }
    let length = BOOTP.saturating_add(used).max(MIN_MESSAGE);
    let mac = EthernetAddress(message.mac);
    let fill = |bootp: &mut [u8]| {
        if let Some(area) = bootp.get_mut(BOOTP..) {
            for (to, from) in area.iter_mut().zip(options) {
                *to = from;
            }
        }
        let mut packet = DhcpPacket::new_unchecked(bootp);
        packet.set_opcode(DhcpOpCode::Request);
        packet.set_hardware_type(ArpHardware::Ethernet);
        packet.set_hardware_len(6);
        packet.set_transaction_id(message.transaction);
        packet.set_secs(message.seconds);
        packet.set_flags(if message.broadcast { DhcpFlags::BROADCAST } else { DhcpFlags::empty() });
        packet.set_client_hardware_address(mac);
        packet.set_magic_number(MAGIC);
    };

    let source = Ipv4Addr::UNSPECIFIED;
    let target = Ipv4Addr::BROADCAST;
    let checksums = ChecksumCapabilities::default();
    let mut frame = vec![0u8; ETHERNET + IPV4 + UDP + length];
    let mut ethernet = EthernetFrame::new_unchecked(frame.as_mut_slice());
    EthernetRepr {
        src_addr: mac,
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Ipv4,
    }
    .emit(&mut ethernet);
    let mut ip = Ipv4Packet::new_unchecked(ethernet.payload_mut());
    Ipv4Repr {
        src_addr: source,
        dst_addr: target,
        next_header: IpProtocol::Udp,
        payload_len: UDP + length,
        hop_limit: 64,
    }
    .emit(&mut ip, &checksums);
    UdpRepr { src_port: CLIENT_PORT, dst_port: SERVER_PORT }.emit(
        &mut UdpPacket::new_unchecked(ip.payload_mut()),
        &source.into(),
        &target.into(),
        length,
        fill,
        &checksums,
    );
    frame
}

/// A server's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Offer, Ack, Nak or Bootp.
    pub kind: Kind,
    /// Transaction id.
    pub transaction: u32,
    /// The server: option 54, or else the sender.
    pub server: Ipv4Addr,
    /// Whether option 80 is present (RFC 4039).
    pub rapid: bool,
    /// Option 56: the server's message, printable characters only.
    pub message: alloc::string::String,
    /// The offered lease.
    pub lease: Lease,
}

/// Parses a frame; `None` unless it is a server's DHCP or BOOTP message for `mac`.
///
/// The UDP checksum is not looked at: frames from a virtual machine on the same
/// host are handed over before the checksum was filled in.
pub fn read(frame: &[u8], mac: [u8; 6]) -> Option<Incoming> {
    let (bytes, sender) = datagram(frame)?;
    read_bootp(bytes, mac, sender)
}

/// The sender of a frame from a DHCP server that [`read`] rejects.
pub fn unreadable(frame: &[u8], mac: [u8; 6], transaction: u32) -> Option<Ipv4Addr> {
    let (bytes, sender) = datagram(frame)?;
    let ours = bytes.first() == Some(&2)
        && bytes.get(4..8)? == transaction.to_be_bytes()
        && bytes.get(28..34)? == mac;
    (ours && read_bootp(bytes, mac, sender).is_none()).then_some(sender)
}

/// The payload of a frame from a DHCP server's port to a client's, and its sender.
fn datagram(frame: &[u8]) -> Option<(&[u8], Ipv4Addr)> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let bytes = ethernet.payload();
    let ip = Ipv4Packet::new_checked(bytes).ok()?;
    if ip.version() != 4
        || !ip.verify_checksum()
        || ip.more_frags()
        || ip.frag_offset() != 0
        || ip.next_header() != IpProtocol::Udp
    {
        return None;
    }
    let udp = UdpPacket::new_checked(ip.payload()).ok()?;
    if udp.src_port() != SERVER_PORT || udp.dst_port() != CLIENT_PORT {
        return None;
    }
    Some((udp.payload(), ip.src_addr()))
}

/// Parses the BOOTP message of a UDP datagram from `sender`.
pub fn read_bootp(bytes: &[u8], mac: [u8; 6], sender: Ipv4Addr) -> Option<Incoming> {
    let packet = DhcpPacket::new_checked(bytes).ok()?;
    if packet.opcode() != DhcpOpCode::Reply
        || packet.magic_number() != MAGIC
        || packet.client_hardware_address() != EthernetAddress(mac)
    {
        return None;
    }
    let server_name = bytes.get(44..108)?;
    let file = bytes.get(108..236)?;
    let mut options = Options::default();
    options.collect(bytes.get(BOOTP..)?);
    // RFC 2131 4.1: options, then file, then sname.
    let overload = options.overload();
    if overload & 1 != 0 {
        options.collect(file);
    }
    if overload & 2 != 0 {
        options.collect(server_name);
    }
    let kind = match options.get(code::MESSAGE_TYPE) {
        Some([2]) => Kind::Offer,
        Some([5]) => Kind::Ack,
        Some([6]) => Kind::Nak,
        None => Kind::Bootp,
        _ => return None,
    };
    let header = Header {
        yours: packet.your_ip(),
        next_server: packet.server_ip(),
        sender,
        server_name,
        file,
    };
    let lease = Lease::read(header, &options);
    let message = options.get(code::MESSAGE).unwrap_or_default();
    Some(Incoming {
        kind,
        transaction: packet.transaction_id(),
        server: lease.server,
        rapid: options.get(code::RAPID_COMMIT).is_some(),
        message: message
            .iter()
            .filter(|byte| byte.is_ascii_graphic() || **byte == b' ')
            .map(|byte| char::from(*byte))
            .take(200)
            .collect(),
        lease,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

    /// A server's answer to a client's frame, for tests.
    pub fn answer(
        kind: Option<u8>,
        transaction: u32,
        server: Ipv4Addr,
        yours: Ipv4Addr,
        options: &[(u8, &[u8])],
    ) -> Vec<u8> {
        let mut frame = write(&Outgoing {
            kind: Kind::Discover,
            mac: MAC,
            transaction,
            seconds: 0,
            broadcast: false,
            options: &[],
        });
        let mut bootp = frame.split_off(ETHERNET + IPV4 + UDP);
        bootp.truncate(BOOTP);
        bootp[0] = 2;
        bootp[16..20].copy_from_slice(&yours.octets());
        if let Some(kind) = kind {
            bootp.extend([53, 1, kind]);
            bootp.extend([54, 4]);
            bootp.extend(server.octets());
        }
        for (option, value) in options {
            bootp.extend([*option, value.len() as u8]);
            bootp.extend(*value);
        }
        bootp.push(255);
        bootp.resize(bootp.len().max(MIN_MESSAGE), 0);
        wrap(&bootp, server)
    }

    /// Puts a BOOTP message into a frame.
    pub fn wrap(bootp: &[u8], server: Ipv4Addr) -> Vec<u8> {
        let mut frame = vec![0u8; ETHERNET + IPV4 + UDP + bootp.len()];
        let mut ethernet = EthernetFrame::new_unchecked(frame.as_mut_slice());
        EthernetRepr {
            src_addr: EthernetAddress([2; 6]),
            dst_addr: EthernetAddress(MAC),
            ethertype: EthernetProtocol::Ipv4,
        }
        .emit(&mut ethernet);
        let mut ip = Ipv4Packet::new_unchecked(ethernet.payload_mut());
        Ipv4Repr {
            src_addr: server,
            dst_addr: Ipv4Addr::BROADCAST,
            next_header: IpProtocol::Udp,
            payload_len: UDP + bootp.len(),
            hop_limit: 64,
        }
        .emit(&mut ip, &ChecksumCapabilities::default());
        let mut udp = UdpPacket::new_unchecked(ip.payload_mut());
        udp.set_src_port(67);
        udp.set_dst_port(68);
        udp.set_len((UDP + bootp.len()) as u16);
        udp.set_checksum(0x1234);
        udp.payload_mut().copy_from_slice(bootp);
        frame
    }

    #[test]
    fn a_discover_is_what_servers_expect() {
        let frame = write(&Outgoing {
            kind: Kind::Discover,
            mac: MAC,
            transaction: 0xdead_beef,
            seconds: 3,
            broadcast: true,
            options: &[
                (61, Some(&[1, 0x52, 0x54, 0, 1, 2, 3])),
                (80, None),
                (55, Some(&[1, 3, 6])),
            ],
        });
        assert_eq!(frame.len(), 14 + 20 + 8 + 300);
        assert_eq!(&frame[..14], b"\xff\xff\xff\xff\xff\xff\x52\x54\x00\x01\x02\x03\x08\x00");
        let ip = Ipv4Packet::new_checked(&frame[14..]).unwrap();
        assert!(ip.verify_checksum());
        let udp = UdpPacket::new_checked(ip.payload()).unwrap();
        assert!(udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
        let bootp = udp.payload();
        assert_eq!(&bootp[..12], b"\x01\x01\x06\x00\xde\xad\xbe\xef\x00\x03\x80\x00");
        assert_eq!(&bootp[236..240], b"\x63\x82\x53\x63");
        assert_eq!(
            &bootp[240..],
            &[
                &b"\x35\x01\x01\x3d\x07\x01\x52\x54\x00\x01\x02\x03\x37\x03\x01\x03\x06\xff"[..],
                &[0; 42]
            ]
            .concat()
        );
    }

    #[test]
    fn too_many_options_are_left_out_not_cut() {
        let long = [7u8; 255];
        let options: Vec<_> = (100..110).map(|kind| (kind, Some(&long[..]))).collect();
        let frame = write(&Outgoing {
            kind: Kind::Request,
            mac: MAC,
            transaction: 1,
            seconds: 0,
            broadcast: false,
            options: &options,
        });
        assert!(frame.len() <= 14 + 20 + 8 + MAX_MESSAGE);
        assert_eq!(frame.last(), Some(&255));
    }

    #[test]
    fn overloaded_fields_are_read_in_the_order_of_the_rfc() {
        let server = Ipv4Addr::new(10, 0, 0, 1);
        let frame = answer(Some(5), 9, server, Ipv4Addr::new(10, 0, 0, 7), &[(52, &[3])]);
        let mut bootp = frame[42..].to_vec();
        bootp[108..117].copy_from_slice(b"\x11\x02/a\x43\x02k1\xff");
        bootp[44..52].copy_from_slice(b"\x11\x02bc\x0c\x01h\xff");
        let read = read(&wrap(&bootp, server), MAC).unwrap();
        assert_eq!(read.lease.root_path, "/abc");
        assert_eq!(read.lease.boot_file, "k1");
        assert_eq!(read.lease.hostname, "h");
        assert_eq!(read.lease.server_name, "");
    }

    #[test]
    fn other_peoples_messages_are_not_read() {
        let server = Ipv4Addr::new(10, 0, 0, 1);
        let frame = answer(Some(2), 9, server, Ipv4Addr::new(10, 0, 0, 7), &[]);
        assert!(read(&frame, MAC).is_some());
        assert!(read(&frame, [1; 6]).is_none());
        let mut damaged = frame.clone();
        damaged[14 + 8] ^= 1; // TTL: the header checksum no longer holds
        assert!(read(&damaged, MAC).is_none());
        for length in 0..14 + 20 + 8 + 240 {
            assert!(read(&frame[..length], MAC).is_none());
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = read(&bytes, MAC);
            let _ = read_bootp(&bytes, MAC, Ipv4Addr::new(1, 2, 3, 4));
        }

        #[test]
        fn garbage_options_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let server = Ipv4Addr::new(10, 0, 0, 1);
            let frame = answer(Some(2), 9, server, Ipv4Addr::new(10, 0, 0, 7), &[]);
            let mut bootp = frame[42..42 + BOOTP].to_vec();
            bootp.extend(&bytes);
            prop_assert!(
                read(&wrap(&bootp, server), MAC).is_none_or(|read| read.transaction == 9)
            );
        }
    }
}
