//! The answer to a client's message.
//!
//! As a proxy beside another server, only network-booting clients are answered, and they get no
//! address: BIOS gets the option "load just this", UEFI gets only the server's name and asks
//! for the file on port 4011. Firmware of both kinds was found to follow that. A full server
//! answers every client, because the live system asks again after the ROM did.
//!
//! A full server that was not asked for gives way ([`Cautious`]): no search finds a server that
//! answers only the cards that it knows.

use super::client::{Arch, Client, Loaders, Program};
use super::lease::{Leases, inside, mask};
use super::message::{Message, Type, Writer, code};
use cmdline::plan::Mac;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

/// The port of PXE boot servers.
pub const PXE_PORT: u16 = 4011;
const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;

/// The network settings that a full server sends with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Length of the prefix.
    pub prefix: u8,
    /// Default gateway.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Lease time in seconds.
    pub lease: u32,
}

/// The caution of a full server that found no other server but may have overlooked one.
#[derive(Debug, Clone)]
pub struct Cautious {
    /// Hardware addresses that asked once. The first question is left to another server.
    asked: BTreeSet<Mac>,
    /// The boot files beside another server.
    beside: Vec<(Arch, String)>,
    /// Hardware addresses of this machine's own questions, which are not answered.
    own: [Mac; 2],
}

/// Hardware addresses in [`Cautious::asked`]; forged ones make the server forget all.
const MAX_ASKED: usize = 4096;

impl Cautious {
    /// Caution of a server whose machine asks with these hardware addresses.
    pub fn new(own: [Mac; 2], beside: Vec<(Arch, String)>) -> Self {
        Self { asked: BTreeSet::new(), beside, own }
    }

    /// Whether a DISCOVER is answered: not a client's first, and none of this machine.
    fn answers(&mut self, mac: Mac, known: bool) -> bool {
        if self.asked.len() >= MAX_ASKED {
            self.asked.clear();
        }
        !self.own.contains(&mac) && (known || !self.asked.insert(mac))
    }
}

/// A server on one network.
#[derive(Debug, Clone)]
pub struct Server {
    /// Our address there.
    pub own: Ipv4Addr,
    /// The boot files.
    pub loaders: Loaders,
    /// The leases of a full server; `None` for a proxy.
    pub full: Option<(Network, Leases)>,
    /// The full server gives way to another one.
    pub cautious: Option<Cautious>,
}

/// The outcome of a message, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A network-booting client was sent a file name.
    Boot {
        /// The client.
        client: Client,
        /// The file.
        file: String,
    },
    /// There is no boot loader for this kind of client.
    NoLoader(Client),
    /// An address was leased.
    Address(Ipv4Addr),
    /// All addresses are taken.
    Exhausted,
    /// A client accepted another server's offer although this one leases addresses, too.
    OtherServer(Ipv4Addr),
    /// Another server speaks: no address is leased from now on.
    GaveWay(Ipv4Addr),
    /// A client of another network, which only that network's DHCP server can give an address.
    Relayed {
        /// The relay that passed the message on.
        relay: Ipv4Addr,
    },
    /// Not worth a message.
    Quiet,
}

/// An answer and its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The UDP payload.
    pub bytes: Vec<u8>,
    /// The destination; broadcast for a client that has no address yet.
    pub to: SocketAddrV4,
}

/// How a message arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The port that received it: 67 or [`PXE_PORT`].
    pub port: u16,
    /// The sender.
    pub from: SocketAddrV4,
    /// Seconds since 1970.
    pub now: u64,
}

impl Server {
    /// Answers a message.
    pub fn handle(&mut self, message: &Message, arrival: &Arrival) -> (Option<Reply>, Seen) {
        let client = Client::of(message);
        if let Some((network, _)) = &self.full
            && !message.relay.is_unspecified()
            && !inside(message.relay, self.own, network.prefix)
        {
            // Without leases, a client of any network is told what to boot.
            let seen = Seen::Relayed { relay: message.relay };
            return (None, if message.kind == Type::Discover { seen } else { Seen::Quiet });
        }
        if arrival.port == PXE_PORT {
            return match (message.kind, client) {
                (Type::Request | Type::Inform, Some(client)) => {
                    let (writer, seen) = self.boot_server(message, &client);
                    (writer.map(|w| reply(&w, message, Type::Ack, arrival)), seen)
                }
                _ => (None, Seen::Quiet),
            };
        }
        match &self.full {
            None => self.beside(message, client, arrival),
            Some(_) => self.alone(message, client, arrival),
        }
    }

    /// Another server speaks: a cautious one leases no address from now on. Returns whether it
    /// did so before.
    pub fn give_way(&mut self) -> bool {
        let Some(cautious) = self.cautious.take() else { return false };
        self.loaders.files = cautious.beside;
        self.full.take().is_some()
    }

    /// The answer of a proxy.
    fn beside(
        &mut self,
        message: &Message,
        client: Option<Client>,
        arrival: &Arrival,
    ) -> (Option<Reply>, Seen) {
        let Some(client) = client else { return (None, Seen::Quiet) };
        match message.kind {
            Type::Discover => {
                let (writer, seen) = self.proxy_offer(message, &client);
                (writer.map(|w| reply(&w, message, Type::Offer, arrival)), seen)
            }
            // Some firmware asks here again instead of on 4011.
            Type::Request if message.address(code::SERVER_ID) == Some(self.own) => {
                let (writer, seen) = self.boot_server(message, &client);
                (writer.map(|w| reply(&w, message, Type::Ack, arrival)), seen)
            }
            _ => (None, Seen::Quiet),
        }
    }

    fn proxy_offer(&self, message: &Message, client: &Client) -> (Option<Writer>, Seen) {
        let Some(file) = client.file(&self.loaders) else {
            return (None, Seen::NoLoader(*client));
        };
        let mut writer = self.pxe(message, client);
        if client.program == Program::Pxe && client.arch != Arch::Bios {
            // Its request on 4011 will be logged.
            return (Some(writer), Seen::Quiet);
        }
        if client.program != Program::Http {
            // PXE_DISCOVERY_CONTROL: no discovery, no menu, just the file.
            writer.add(code::VENDOR, &[6, 1, 8, 255]);
        }
        writer.file.clone_from(&file);
        (Some(writer), Seen::Boot { client: *client, file })
    }

    /// The answer of a PXE boot server: the file.
    fn boot_server(&self, message: &Message, client: &Client) -> (Option<Writer>, Seen) {
        let Some(file) = client.file(&self.loaders) else {
            return (None, Seen::NoLoader(*client));
        };
        let mut writer = self.pxe(message, client);
        writer.file.clone_from(&file);
        (Some(writer), Seen::Boot { client: *client, file })
    }

    /// The options of every PXE answer without an address.
    fn pxe(&self, message: &Message, client: &Client) -> Writer {
        let mut writer = Writer { next_server: Some(self.loaders.tftp), ..Writer::default() };
        writer.add(code::SERVER_ID, &self.own.octets());
        writer.add(code::VENDOR_CLASS, vendor_class(client));
        relay_option(message, &mut writer);
        // Intel's ROMs omit it; other clients expect their own identifier back.
        if let Some(uuid) = message.options.get(code::CLIENT_UUID) {
            writer.add(code::CLIENT_UUID, uuid);
        }
        writer
    }

    /// The answer of a full server.
    fn alone(
        &mut self,
        message: &Message,
        client: Option<Client>,
        arrival: &Arrival,
    ) -> (Option<Reply>, Seen) {
        let own = self.own;
        let now = arrival.now;
        let Some((network, leases)) = &mut self.full else { return (None, Seen::Quiet) };
        let wanted = message.address(code::REQUESTED_ADDRESS);
        match message.kind {
            Type::Discover => {
                let known = leases.of(message.mac, now).is_some();
                if self.cautious.as_mut().is_some_and(|c| !c.answers(message.mac, known)) {
                    return (None, Seen::Quiet);
                }
                let Some(address) = leases.offer(message.mac, wanted, now) else {
                    return (None, Seen::Exhausted);
                };
                let (writer, seen) = self.with_address(message, client, Some(address));
                (Some(reply(&writer, message, Type::Offer, arrival)), seen)
            }
            Type::Request => {
                let server = message.address(code::SERVER_ID);
                if let Some(other) = server.filter(|server| *server != own) {
                    leases.release(message.mac, None, now);
                    let seen = if self.give_way() {
                        Seen::GaveWay(other)
                    } else {
                        Seen::OtherServer(other)
                    };
                    return (None, seen);
                }
                let asked = wanted.unwrap_or(message.own);
                if leases.take(message.mac, asked, network.lease, now) {
                    let (writer, _) = self.with_address(message, client, Some(asked));
                    let answer = reply(&writer, message, Type::Ack, arrival);
                    return (Some(answer), Seen::Address(asked));
                }
                let mut writer = Writer::default();
                writer.add(code::SERVER_ID, &own.octets());
                writer.add(code::MESSAGE, b"the address is not available");
                // The client may use an address of another network: broadcast.
                let mut refused = reply(&writer, message, Type::Nak, arrival);
                if message.relay.is_unspecified() {
                    refused.to = SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT);
                }
                (Some(refused), Seen::Quiet)
            }
            Type::Inform => {
                let (writer, _) = self.with_address(message, client, None);
                (Some(reply(&writer, message, Type::Ack, arrival)), Seen::Quiet)
            }
            Type::Decline => {
                leases.release(message.mac, wanted, now);
                (None, Seen::Quiet)
            }
            Type::Release => {
                leases.release(message.mac, None, now);
                (None, Seen::Quiet)
            }
            Type::Offer | Type::Ack | Type::Nak => (None, Seen::Quiet),
        }
    }

    /// An answer with an address and, for network-booting clients, the file.
    fn with_address(
        &self,
        message: &Message,
        client: Option<Client>,
        address: Option<Ipv4Addr>,
    ) -> (Writer, Seen) {
        // Also for those that name no file: U-Boot asks for its menu there.
        let next_server = Some(self.loaders.tftp);
        let mut writer = Writer { yours: address, next_server, ..Writer::default() };
        writer.add(code::SERVER_ID, &self.own.octets());
        relay_option(message, &mut writer);
        if let Some((network, _)) = &self.full {
            let mask = mask(network.prefix);
            if address.is_some() {
                writer.add(code::LEASE_TIME, &network.lease.to_be_bytes());
                writer.add(code::RENEWAL, &(network.lease / 2).to_be_bytes());
                writer.add(code::REBINDING, &(network.lease / 8 * 7).to_be_bytes());
            }
            writer.add(code::SUBNET_MASK, &mask.to_be_bytes());
            writer.add(code::BROADCAST, &(u32::from(self.own) | !mask).to_be_bytes());
            if let Some(router) = network.router {
                writer.add(code::ROUTER, &router.octets());
            }
            if !network.dns.is_empty() {
                let dns: Vec<u8> = network.dns.iter().flat_map(|a| a.octets()).collect();
                writer.add(code::DNS, &dns);
            }
        }
        let Some(client) = client else { return (writer, Seen::Quiet) };
        let Some(file) = client.file(&self.loaders) else {
            return (writer, Seen::NoLoader(client));
        };
        writer.file.clone_from(&file);
        match client.program {
            // UEFI accepts a URL only from a server that calls itself `HTTPClient`.
            Program::Http => drop(writer.add(code::VENDOR_CLASS, vendor_class(&client))),
            // Do not wait for a proxy: there is none.
            Program::Ipxe { .. } => drop(writer.add(code::IPXE, &[0xb0, 1, 1])),
            Program::Pxe => {}
        }
        let wanted = message.options.get(code::PARAMETERS).unwrap_or_default();
        if wanted.contains(&code::TFTP_SERVER_NAME) {
            let server = self.loaders.tftp.to_string();
            writer.add(code::TFTP_SERVER_NAME, server.as_bytes());
        }
        if wanted.contains(&code::BOOT_FILE) && file.len() < 128 {
            writer.add(code::BOOT_FILE, file.as_bytes());
        }
        (writer, Seen::Boot { client, file })
    }
}

/// RFC 3046: what a relay added comes back unchanged.
fn relay_option(message: &Message, writer: &mut Writer) {
    if let Some(value) = message.options.get(code::RELAY_AGENT) {
        writer.add(code::RELAY_AGENT, value);
    }
}

fn vendor_class(client: &Client) -> &'static [u8] {
    if client.program == Program::Http { b"HTTPClient" } else { b"PXEClient" }
}

fn reply(writer: &Writer, message: &Message, kind: Type, arrival: &Arrival) -> Reply {
    let to = if arrival.port == PXE_PORT && !arrival.from.ip().is_unspecified() {
        arrival.from
    } else if !message.relay.is_unspecified() {
        SocketAddrV4::new(message.relay, SERVER_PORT)
    } else if !message.own.is_unspecified() {
        SocketAddrV4::new(message.own, CLIENT_PORT)
    } else {
        SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT)
    };
    Reply { bytes: writer.answer(message, kind), to }
}

/// Answers one datagram as a proxy and as a full server; for fuzzers.
pub fn fuzz(data: &[u8]) {
    let Some(message) = Message::read(data) else { return };
    let own = Ipv4Addr::new(10, 0, 0, 1);
    let loaders = Loaders {
        files: vec![(Arch::Bios, "pxelinux.0".into())],
        script: None,
        http: SocketAddrV4::new(own, 80),
        tftp: own,
    };
    let range = (Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 9));
    let leases = Leases::new(range.0, range.1, &Default::default());
    let network = Network { prefix: 24, router: None, dns: Vec::new(), lease: 60 };
    for full in [None, Some((network, leases))] {
        let cautious = full.is_some().then(|| Cautious::new([Mac([2; 6]); 2], Vec::new()));
        let mut server = Server { own, loaders: loaders.clone(), full, cautious };
        for port in [67, PXE_PORT] {
            let arrival = Arrival { port, from: SocketAddrV4::new(own, 68), now: 5 };
            let _ = server.handle(&message, &arrival);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::asked;
    use super::*;
    use netboot::dhcp::message::{Incoming, Kind, read_bootp};
    use proptest::prelude::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn server(full: bool) -> Server {
        let leases =
            Leases::new(Ipv4Addr::new(10, 0, 0, 100), Ipv4Addr::new(10, 0, 0, 101), &[].into());
        let network = Network {
            prefix: 24,
            router: Some(Ipv4Addr::new(10, 0, 0, 254)),
            dns: vec![OWN],
            lease: 3600,
        };
        Server {
            own: OWN,
            loaders: Loaders {
                files: vec![(Arch::Bios, "pxelinux.0".into()), (Arch::UefiX64, "grub.efi".into())],
                script: Some("/boot.ipxe".into()),
                http: SocketAddrV4::new(OWN, 8080),
                tftp: OWN,
            },
            full: full.then_some((network, leases)),
            cautious: None,
        }
    }

    fn at(port: u16) -> Arrival {
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 77), 68);
        Arrival { port, from, now: 1000 }
    }

    fn understood(reply: Option<Reply>, message: &Message) -> Incoming {
        read_bootp(&reply.unwrap().bytes, message.mac.0, OWN).unwrap()
    }

    const BIOS: [(u8, &[u8]); 2] = [(60, b"PXEClient:Arch:00000:UNDI:002001"), (93, &[0, 0])];
    const UEFI: [(u8, &[u8]); 2] = [(60, b"PXEClient:Arch:00007:UNDI:003001"), (93, &[0, 7])];

    #[test]
    fn beside_another_server_bios_is_told_at_once() {
        let message = asked(Type::Discover, &BIOS);
        let (reply, seen) = server(false).handle(&message, &at(67));
        let bytes = reply.clone().unwrap().bytes;
        assert!(bytes.windows(6).any(|w| w == [43, 4, 6, 1, 8, 255]));
        assert!(bytes.windows(11).any(|w| w == b"\x3c\x09PXEClient"));
        let read = understood(reply, &message);
        assert_eq!(read.kind, Kind::Offer);
        assert!(read.lease.address.is_unspecified());
        assert_eq!(read.lease.boot_file, "pxelinux.0");
        assert!(matches!(seen, Seen::Boot { file, .. } if file == "pxelinux.0"));
    }

    #[test]
    fn beside_another_server_uefi_asks_twice() {
        let mut server = server(false);
        let message = asked(Type::Discover, &UEFI);
        let reply = server.handle(&message, &at(67)).0;
        assert!(!reply.clone().unwrap().bytes.windows(3).any(|w| w == [43, 4, 6]));
        assert_eq!(understood(reply, &message).lease.boot_file, "");
        let message = asked(Type::Request, &UEFI);
        let (reply, _) = server.handle(&message, &at(PXE_PORT));
        assert_eq!(reply.clone().unwrap().to, at(0).from);
        assert_eq!(understood(reply, &message).lease.boot_file, "grub.efi");
    }

    #[test]
    fn beside_another_server_others_are_left_alone() {
        let mut server = server(false);
        let dhcpcd: [(u8, &[u8]); 1] = [(60, b"dhcpcd")];
        for options in [&[][..], &dhcpcd] {
            for kind in [Type::Discover, Type::Request, Type::Inform, Type::Release] {
                assert_eq!(server.handle(&asked(kind, options), &at(67)).0, None);
                assert_eq!(server.handle(&asked(kind, options), &at(PXE_PORT)).0, None);
            }
        }
        // A request to the other server.
        let mut options = BIOS.to_vec();
        options.push((54, &[10, 0, 0, 254]));
        assert_eq!(server.handle(&asked(Type::Request, &options), &at(67)).0, None);
        let arm = [(60, &b"PXEClient"[..]), (93, &[0, 11])];
        let (reply, seen) = server.handle(&asked(Type::Discover, &arm), &at(67));
        assert!(reply.is_none() && matches!(seen, Seen::NoLoader(_)));
    }

    #[test]
    fn alone_it_gives_addresses() {
        let mut server = server(true);
        let message = asked(Type::Discover, &BIOS);
        let (reply, _) = server.handle(&message, &at(67));
        assert!(reply.as_ref().unwrap().to.ip().is_broadcast());
        let offer = understood(reply, &message);
        assert_eq!(offer.lease.address, Ipv4Addr::new(10, 0, 0, 100));
        assert_eq!(offer.lease.boot_file, "pxelinux.0");
        let take = |server: &mut Server, address: &[u8], from: &[u8]| {
            let message = asked(Type::Request, &[(50, address), (54, from)]);
            let (reply, seen) = server.handle(&message, &at(67));
            (reply.map(|reply| understood(Some(reply), &message).kind), seen)
        };
        let own = [10, 0, 0, 1];
        assert_eq!(take(&mut server, &[10, 0, 0, 9], &own).0, Some(Kind::Nak));
        let (kind, seen) = take(&mut server, &[10, 0, 0, 100], &own);
        assert_eq!(kind, Some(Kind::Ack));
        assert_eq!(seen, Seen::Address(Ipv4Addr::new(10, 0, 0, 100)));
        let other = take(&mut server, &[10, 0, 0, 100], &[10, 0, 0, 2]);
        assert_eq!(other, (None, Seen::OtherServer(Ipv4Addr::new(10, 0, 0, 2))));
        // A machine that does not boot from us gets an address and no file.
        let message = asked(Type::Discover, &[]);
        let plain = understood(server.handle(&message, &at(67)).0, &message);
        assert_eq!(plain.lease.boot_file, "");
        assert!(!plain.lease.address.is_unspecified());
        // U-Boot 2023.01, as Debian has it: it gets no file, and takes its menu from `siaddr`.
        let words: [(u8, &[u8]); 3] = [(93, &[0, 22]), (94, &[1, 0, 0]), (60, b"U-Boot.armv8")];
        let message = asked(Type::Discover, &words);
        let reply = server.handle(&message, &at(67)).0.unwrap();
        assert_eq!(reply.bytes[20..24], [10, 0, 0, 1]);
    }

    /// A server that answers only the cards that it knows is not found by a search.
    #[test]
    fn a_cautious_server_leaves_the_first_question_and_gives_way() {
        let probe = Mac([2; 6]);
        let beside = vec![(Arch::Bios, "beside/pxelinux.0".into())];
        let cautious = Some(Cautious::new([probe, probe], beside));
        let mut server = Server { cautious, ..server(true) };
        let message = asked(Type::Discover, &BIOS);
        assert_eq!(server.handle(&message, &at(67)), (None, Seen::Quiet));
        assert!(server.handle(&message, &at(67)).0.is_some());
        let own = Message { mac: probe, ..asked(Type::Discover, &[]) };
        for _ in 0..3 {
            assert_eq!(server.handle(&own, &at(67)).0, None);
        }
        // A client that has an address from here is answered at once.
        let take = asked(Type::Request, &[(50, &[10, 0, 0, 100]), (54, &[10, 0, 0, 1])]);
        assert!(server.handle(&take, &at(67)).0.is_some());
        server.cautious.as_mut().unwrap().asked.clear();
        assert!(server.handle(&message, &at(67)).0.is_some());
        let other = asked(Type::Request, &[(50, &[10, 0, 0, 7]), (54, &[10, 0, 0, 2])]);
        let (reply, seen) = server.handle(&other, &at(67));
        assert_eq!((reply, seen), (None, Seen::GaveWay(Ipv4Addr::new(10, 0, 0, 2))));
        // From now on as a proxy, with its files.
        let offer = understood(server.handle(&message, &at(67)).0, &message);
        assert!(offer.lease.address.is_unspecified());
        assert_eq!(offer.lease.boot_file, "beside/pxelinux.0");
        assert_eq!(server.handle(&take, &at(67)).0, None);
        assert!(!server.give_way());
    }

    #[test]
    fn relays() {
        let relayed = |relay: [u8; 4]| Message {
            relay: relay.into(),
            ..asked(Type::Discover, &[BIOS[0], BIOS[1], (82, b"\x01\x02ab")])
        };
        // Beside another server, its clients behind a relay are told what to boot.
        let far = relayed([10, 9, 0, 1]);
        let reply = server(false).handle(&far, &at(67)).0.unwrap();
        assert_eq!(reply.to, "10.9.0.1:67".parse().unwrap());
        assert_eq!(reply.bytes[24..28], [10, 9, 0, 1]);
        assert!(reply.bytes.windows(6).any(|w| w == b"\x52\x04\x01\x02ab"));
        // No address for a network that is not known here.
        let seen = Seen::Relayed { relay: [10, 9, 0, 1].into() };
        assert_eq!(server(true).handle(&far, &at(67)), (None, seen));
        let near = server(true).handle(&relayed([10, 0, 0, 9]), &at(67)).0.unwrap();
        assert_eq!(near.to, "10.0.0.9:67".parse().unwrap());
    }

    #[test]
    fn http_boot_and_ipxe() {
        for full in [false, true] {
            let message = asked(Type::Discover, &[(60, b"HTTPClient"), (93, &[0, 16])]);
            let reply = server(full).handle(&message, &at(67)).0.unwrap();
            assert!(reply.bytes.windows(12).any(|w| w == b"\x3c\x0aHTTPClient"));
            let read = understood(Some(reply), &message);
            assert_eq!(read.lease.boot_file, "http://10.0.0.1:8080/grub.efi");
            let message = asked(Type::Discover, &[(60, b"PXEClient"), (77, b"iPXE")]);
            let read = understood(server(full).handle(&message, &at(67)).0, &message);
            assert_eq!(read.lease.boot_file, "http://10.0.0.1:8080/boot.ipxe");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            kind in 1u8..9, mut options in proptest::collection::vec(any::<u8>(), 0..300)
        ) {
            let mut bytes = vec![0; 240];
            bytes[..3].copy_from_slice(&[1, 1, 6]);
            bytes[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
            bytes.extend([53, 1, kind]);
            bytes.append(&mut options);
            fuzz(&bytes);
        }
    }
}
