//! What arrives while a disk is copied from machine to machine.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use clone::digest::Meter;
use clone::dolly::{self, client as dolly_client, server as dolly_server};
use clone::dollyplus::backlog::Sizes;
use clone::dollyplus::io::{Conn, End, Input as RingInput, Output as RingOutput};
use clone::dollyplus::node::Node;
use clone::dollyplus::server::Server;
use clone::dollyplus::wire::{Command, Item, Output as RingFile, Reader};
use clone::dollyplus::{self, Todo, Want};
use clone::guard::Kept;
use clone::image::foreign::{Foreign, MAGIC};
use clone::image::{HEAD, Head, Image};
use clone::ka::wire::{Layout, ToClient, ToServer as KaWord};
use clone::ka::{self, client as ka_client, server as ka_server};
use clone::outcome::{Patience, Standing};
use clone::pact::Key;
use clone::room::bits::Bits;
use clone::room::manifest::{Disk, Extent, Layout as RoomLayout, Manifest};
use clone::room::node::Node as RoomNode;
use clone::room::tree::Listing;
use clone::room::wire::{Group, Line, Message};
use clone::room::{Act, Ask, Told};
use clone::udpcast::receiver::{Config, Input, Receiver};
use clone::udpcast::sender::{self, Sender};
use clone::udpcast::wire::{ToReceiver, ToSender};

use crate::{Target, messages, session, target};

/// All targets that read what a copy brings.
pub const TARGETS: &[Target] = &[
    target("udpcast-packet", udpcast_packet),
    target("udpcast-receiver", udpcast_receiver),
    target("udpcast-sender", udpcast_sender),
    target("dolly-config", dolly_config),
    target("dolly-client", dolly_client),
    target("dolly-server", dolly_server),
    target("ka-packet", ka_packet),
    target("ka-client", ka_client),
    target("ka-server", ka_server),
    target("dolly-plus-config", dolly_plus_config),
    target("dolly-plus-stream", dolly_plus_stream),
    target("dolly-plus-node", dolly_plus_node),
    target("dolly-plus-server", dolly_plus_server),
    target("ka-desc", ka_desc),
    target("room-manifest", room_manifest),
    target("room-tree", room_tree),
    target("room-line", room_line),
    target("room-datagrams", room_datagrams),
    target("disk-image", disk_image),
    target("foreign-image", foreign_image),
    target("dos-table", dos_table),
    target("p2v-nbd-server", p2v::nbd::fuzz),
    target("p2v-ssh-client", p2v::ssh::fuzz),
    target("p2v-report", p2v::script::fuzz),
    target("p2v-private-key", p2v::key::fuzz),
    target("p2v-sealed", p2v::seal::fuzz),
    target("p2v-guest", p2v::guest::fuzz),
    target("p2v-edit", p2v::edit::fuzz),
    target("udpcast-session", session::udpcast_session),
    target("udpcast-imposter", session::udpcast_imposter),
    target("dolly-session", session::dolly_session),
    target("ka-session", session::ka_session),
];

const SENDER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// One datagram, to either end. What is understood means the same when it is
/// written and read again.
pub fn udpcast_packet(data: &[u8]) {
    let mut bytes = Vec::new();
    if let Some(packet) = ToSender::parse(data) {
        packet.write(&mut bytes);
        assert_eq!(ToSender::parse(&bytes).as_ref(), Some(&packet));
    }
    bytes.clear();
    if let Some(packet) = ToReceiver::parse(data) {
        packet.write(&mut bytes);
        assert_eq!(ToReceiver::parse(&bytes).as_ref(), Some(&packet));
    }
}

/// Datagrams to one receiver. An empty one stands for time that passes.
pub fn udpcast_receiver(data: &[u8]) {
    let mut now = Duration::ZERO;
    let mut receiver = Receiver::new(Config::default(), now);
    let (mut buffer, mut packet) = (Vec::new(), Vec::new());
    for bytes in messages(data) {
        let input = match bytes {
            [] => Input::Tick,
            bytes => Input::Packet { from: SENDER, bytes },
        };
        if receiver.step(input, now).is_err() {
            return;
        }
        for _ in 0..64 {
            if !receiver.take(&mut buffer) {
                break;
            }
            assert!(!buffer.is_empty(), "the end of the stream is not data");
        }
        let mut sent = 0;
        while receiver.transmit(&mut packet).is_some() {
            sent += 1;
            assert!(sent <= 4096, "one datagram makes thousands");
        }
        while receiver.event().is_some() {}
        let pause = receiver.deadline().filter(|_| bytes.is_empty());
        now = pause.unwrap_or(now).max(now + Duration::from_millis(1));
    }
}

/// Datagrams to a sender: the first byte says from which of four machines. An empty one
/// stands for time that passes.
pub fn udpcast_sender(data: &[u8]) {
    let mut now = Duration::ZERO;
    let group = Ipv4Addr::new(234, 77, 0, 1);
    let config = sender::Config { min_receivers: 1, ..sender::Config::new(group) };
    let Ok(mut sender) = Sender::new(config, now) else { return };
    let stream = [7; 4000];
    let mut meter = Meter::default();
    meter.update(&stream);
    let digest = meter.digest();
    let (mut given, mut packet, mut right) = (0, Vec::new(), Vec::new());
    for bytes in messages(data) {
        let input = match bytes {
            [] => sender::Input::Tick,
            [who, bytes @ ..] => {
                let from = Ipv4Addr::new(10, 77, 0, 2 + who % 4);
                if matches!(ToSender::parse(bytes), Some(ToSender::Verdict { digest: d, .. }) if d == digest)
                {
                    right.push(from);
                }
                sender::Input::Packet { from, bytes }
            }
        };
        if sender.step(input, now).is_err() {
            return;
        }
        let wanted = sender.wants().min(stream.len() - given);
        let more = match wanted {
            0 if sender.wants() > 0 => sender.step(sender::Input::End, now),
            0 => Ok(()),
            some => {
                given += some;
                sender.step(sender::Input::Data(&stream[given - some..given]), now)
            }
        };
        if more.is_err() {
            return;
        }
        let mut sent = 0;
        while sender.transmit(now, &mut packet).is_some() {
            sent += 1;
            assert!(sent <= 4096, "one datagram makes thousands");
        }
        while sender.event().is_some() {}
        for machine in sender.machines() {
            let verified = machine.standing == Standing::Verified;
            assert!(!verified || right.contains(&machine.address), "{machine:?}");
        }
        let pause = sender.deadline().filter(|_| bytes.is_empty());
        now = pause.unwrap_or(now).max(now + Duration::from_millis(1));
    }
}

/// A configuration of Dolly's: what is understood means the same when it is
/// written and read again.
pub fn dolly_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match dolly::Config::parse(text) {
        Ok(config) => {
            let written = config.text();
            // A file near the limit may grow over it: numbers lose their zeros,
            // but words gain colons.
            if let Ok(again) = dolly::Config::parse(&written) {
                assert_eq!(again, config);
            } else {
                assert!(written.len() > text.len(), "{written}");
            }
            let all = config.hosts.len();
            for host in 0..all {
                assert!(config.children(Some(host)).iter().all(|c| *c < all && *c > host));
                assert!(config.subtree(host).len() <= all);
            }
        }
        Err(error) => drop(error.to_string()),
    }
}

/// What a parent says to a Dolly client, and its children: the first byte of each
/// message says who speaks. An empty one stands for time that passes.
pub fn dolly_client(data: &[u8]) {
    let mut now = Duration::ZERO;
    let options = dolly_client::Options {
        names: vec!["a".to_owned()],
        password: Some("sheep".to_owned()),
        nonce: [0; 32],
        patience: Patience { start: None, stall: Some(Duration::from_secs(60)) },
    };
    let mut client = dolly::Client::new(options, now);
    let (mut received, mut said) = (0u64, 0);
    for bytes in messages(data) {
        let input = match bytes {
            [] => dolly_client::Input::Tick,
            [0..=127, rest @ ..] => dolly_client::Input::Parent(rest),
            [128..=159, rest @ ..] => dolly_client::Input::Child(rest.len() % 4, rest),
            [160..=191, rest @ ..] => dolly_client::Input::Connected(rest.len() % 4),
            [192..=207, ..] => dolly_client::Input::DataEnd,
            [208..=215, ..] => dolly_client::Input::ParentClosed,
            [216..=219, ..] => dolly_client::Input::Stored(Err("full")),
            [_, rest @ ..] => {
                received = received.saturating_add(rest.len() as u64);
                dolly_client::Input::Received(received)
            }
        };
        if client.step(input, now).is_err() {
            return;
        }
        while let Some(output) = client.output() {
            said += 1;
            assert!(said <= 4 * data.len() + 64, "a little makes a lot");
            let verified = matches!(output, dolly_client::Output::Finished { verified: true });
            assert!(!verified, "verified without anything stored");
        }
        let pause = client.deadline().filter(|_| bytes.is_empty());
        now = pause.unwrap_or(now).max(now + Duration::from_millis(1));
    }
}

/// What clients say to a Dolly server.
pub fn dolly_server(data: &[u8]) {
    let text = "infile a\noutfile b\nfanout 2\nserver s\nfirstclient a\nlastclient c\nclients 3\na\nb\nc\nendconfig\n";
    let Ok(config) = dolly::Config::parse(text) else { return };
    let options = dolly_server::Options {
        password: None,
        nonce: [0; 32],
        patience: Patience { start: None, stall: None },
        directories: false,
    };
    let mut now = Duration::ZERO;
    let Ok(mut server) = dolly::Server::new(config, text, true, options, now) else { return };
    for bytes in messages(data) {
        let input = match bytes {
            [] => dolly_server::Input::Tick,
            [0..=15, ..] => dolly_server::Input::Connected(bytes.len() % 4),
            [16..=31, ..] => dolly_server::Input::ChildClosed(bytes.len() % 4, "gone"),
            [32..=39, ..] => dolly_server::Input::End(clone::digest::Meter::default().digest()),
            [who, rest @ ..] => dolly_server::Input::Child(usize::from(who % 2), rest),
        };
        if server.step(input, now).is_err() {
            return;
        }
        while server.output().is_some() {}
        now += Duration::from_millis(200);
    }
}

/// Packets of KA, of either layout.
pub fn ka_packet(data: &[u8]) {
    let _ = Layout::of_hello(data);
    for layout in [Layout::I386, Layout::Lp64] {
        if let Some(word) = KaWord::parse(layout, data) {
            assert_eq!(KaWord::parse(layout, &word.bytes(layout)), Some(word));
        }
        if let Ok(Some((word, len))) = ToClient::parse(layout, data) {
            assert_eq!(ToClient::parse(layout, &word.bytes(layout)), Ok(Some((word, len))));
        }
    }
}

/// What a server and others say to a KA client.
pub fn ka_client(data: &[u8]) {
    let mut now = Duration::ZERO;
    let options = ka_client::Options {
        session: "room".to_owned(),
        server: None,
        layout: Layout::I386,
        wait: true,
        go_now: true,
        tries: 5,
        patience: Patience { start: None, stall: Some(Duration::from_secs(60)) },
    };
    let mut client = ka::Client::new(options, now);
    let (mut received, mut said) = (0u64, 0);
    for bytes in messages(data) {
        let ip = Ipv4Addr::new(10, 77, 0, bytes.len() as u8);
        let input = match bytes {
            [] => ka_client::Input::Tick,
            [0..=127, rest @ ..] => ka_client::Input::Server(rest),
            [128..=143, rest @ ..] => ka_client::Input::Answer(ip, rest),
            [144..=159, ..] => ka_client::Input::ServerConnected,
            [160..=167, ..] => ka_client::Input::ServerClosed("gone"),
            [168..=183, ..] => ka_client::Input::ParentConnected,
            [184..=191, ..] => ka_client::Input::ParentClosed,
            [192..=199, ..] => ka_client::Input::Stored(Err("full")),
            [200..=215, ..] => ka_client::Input::ChildCame(ip),
            [_, rest @ ..] => {
                received = received.saturating_add(rest.len() as u64);
                ka_client::Input::Received(received)
            }
        };
        if client.step(input, now).is_err() {
            return;
        }
        while let Some(output) = client.output() {
            said += 1;
            assert!(said <= 4 * data.len() + 64, "a little makes a lot");
            let finished = matches!(output, ka_client::Output::Finished { .. });
            assert!(!finished, "finished without anything stored");
        }
        let pause = client.deadline().filter(|_| bytes.is_empty());
        now = pause.unwrap_or(now).max(now + Duration::from_millis(1));
    }
}

/// What clients say to a KA server; the first byte says which.
pub fn ka_server(data: &[u8]) {
    let mut now = Duration::ZERO;
    let options = ka_server::Options {
        session: "room".to_owned(),
        clients: 3,
        arity: 2,
        verify: true,
        patience: Patience { start: None, stall: None },
    };
    let Ok(mut server) = ka::Server::new(options, now) else { return };
    let own = Ipv4Addr::new(10, 77, 0, 1);
    let mut said = 0;
    for bytes in messages(data) {
        let Some((who, rest)) = bytes.split_first() else {
            now += Duration::from_secs(1);
            if server.step(ka_server::Input::Tick, now).is_err() {
                return;
            }
            continue;
        };
        let number = usize::from(who % 8);
        let ip = Ipv4Addr::new(10, 77, 0, 2 + who % 8);
        let input = match who / 8 {
            0 => ka_server::Input::Accepted(number, ip, own),
            1 => ka_server::Input::Closed(number, "gone"),
            2 => ka_server::Input::ChildCame(ip),
            3 => ka_server::Input::Question(ip, rest),
            4 => ka_server::Input::End(clone::digest::Meter::default().digest()),
            _ => ka_server::Input::Client(number, rest),
        };
        if server.step(input, now).is_err() {
            return;
        }
        while server.output().is_some() {
            said += 1;
            assert!(said <= 64 * data.len() + 1024, "a little makes a lot");
        }
        let _ = server.allowed();
        now += Duration::from_millis(1);
    }
}

/// A description of a disk for KA.
pub fn ka_desc(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match ka::desc::Desc::parse(text) {
        Ok(desc) => assert_eq!(ka::desc::Desc::parse(&desc.text()), Ok(desc)),
        Err(error) => drop(error.to_string()),
    }
}

/// A manifest. What is understood is written as it was, and its chunks are its used bytes.
pub fn room_manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::read(data) else { return };
    assert_eq!(manifest.bytes(), data);
    let layout = &manifest.layout;
    let used = layout.disks.iter().flat_map(|disk| &disk.used).map(|extent| extent.length);
    assert_eq!(used.sum::<u64>(), layout.used());
    for chunk in (0..layout.count().min(64)).filter_map(|n| layout.chunk(n)) {
        let bytes: u64 = layout.pieces(chunk).map(|piece| piece.length).sum();
        assert_eq!(bytes, u64::from(chunk.bytes));
    }
}

/// The listing of a tree of files. What is understood is written as it was; each byte of the row
/// belongs to one file, and no path leads out of the tree.
pub fn room_tree(data: &[u8]) {
    let Ok(listing) = Listing::read(data) else { return };
    assert_eq!(listing.write(), data);
    let row = Extent { start: 0, length: listing.bytes() };
    assert_eq!(listing.parts(row).map(|part| part.length).sum::<u64>(), listing.bytes());
    for n in 1..listing.entries().len().min(64) as u32 {
        let path = listing.path(n);
        assert!(path.len() <= 4095 && !path.contains(&0));
        let bad = |name: &[u8]| matches!(name, b"" | b"." | b"..");
        assert!(!path.split(|byte| *byte == b'/').any(bad));
    }
}

/// An image of disks. What is understood lies behind its beginning without gaps, and chunks that
/// are damaged are no chunks.
pub fn disk_image(data: &[u8]) {
    let Some((first, rest)) = data.split_first_chunk::<HEAD>() else { return };
    let Ok(head) = Head::read(first) else { return };
    let Some((manifest, rest)) = rest.split_at_checked(head.manifest) else { return };
    let Ok((manifest, index)) = Image::manifest(&head, manifest) else { return };
    let Some(index) = rest.get(..index) else { return };
    let Ok(image) = Image::new(&head, manifest, index) else { return };
    let mut end = (HEAD + head.manifest + index.len()) as u64;
    for n in 0..image.manifest.layout.count() {
        let place = image.place(n).unwrap_or_default();
        assert_eq!(place.start, end);
        end = place.end;
        let range = usize::try_from(place.start).unwrap()..usize::try_from(place.end).unwrap();
        let chunk = data.get(range).and_then(|packed| image.chunk(n, packed));
        assert!(chunk.is_none_or(|chunk| image.manifest.is(n, &chunk)));
    }
    assert_eq!(end, head.file);
}

/// An image of partclone or ntfsclone: its pieces lie in their order within its partition.
pub fn foreign_image(data: &[u8]) {
    let mut rest = data;
    let mut input = |room: &mut [u8]| match rest.split_at_checked(room.len()) {
        Some((some, more)) => {
            room.copy_from_slice(some);
            rest = more;
            Ok(true)
        }
        None if rest.is_empty() => Ok(false),
        None => Err("is cut short".to_owned()),
    };
    let mut magic = [0; MAGIC];
    if input(&mut magic) != Ok(true) {
        return;
    }
    let Ok(mut image) = Foreign::new(&magic, &mut input) else { return };
    let mut end = 0;
    while let Ok(Some((at, bytes))) = image.next(&mut input) {
        assert!(at >= end);
        end = at + bytes.len() as u64;
        assert!(end <= image.size);
    }
}

/// A connection of a room, at either end, with and without a key: the first byte says which.
pub fn room_line(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else { return };
    let key = (how & 1 != 0).then(|| Key::new("0123456789abcdef")).flatten();
    let mut line = Line::new(key, [1; 10], how & 2 != 0);
    let mut messages = Vec::new();
    for some in bytes.chunks(usize::from(how >> 2) + 1) {
        if line.heard(some, &mut messages).is_err() {
            break;
        }
    }
    let mut node = RoomNode::new("fuzz", 1);
    node.joined(0);
    for message in messages {
        let _ = node.heard(0, message, Duration::ZERO);
        while node.act().is_some() {}
    }
}

/// Datagrams to a machine that listens to a room's multicast; an empty one stands for time that
/// passes. A chunk is stored only when it has its digest, and what the machine reports is read.
pub fn room_datagrams(data: &[u8]) {
    let disk = Disk::new("fuzz", 5000, 512, Vec::new(), &[Extent { start: 0, length: 5000 }]);
    let Ok(layout) = RoomLayout::new(4096, vec![disk]) else { return };
    let (bytes, chunks) = (vec![7; 5000], layout.count());
    let blake3 = |bytes: &[u8]| {
        let mut meter = Meter::default();
        meter.update(bytes);
        meter.digest().blake3
    };
    let hash = |n: u32| {
        let chunk = layout.chunk(n)?;
        let start = chunk.start as usize;
        Some((n, blake3(bytes.get(start..start + chunk.bytes as usize)?)))
    };
    let digests: Vec<_> = (0..chunks).filter_map(hash).collect();
    let group = Group { token: [1; 8], to: SocketAddrV4::new(Ipv4Addr::new(239, 192, 0, 1), 9012) };
    let mut node = RoomNode::new("fuzz", 1);
    node.joined(0);
    let mut now = Duration::ZERO;
    let manifest = Message::Manifest(Arc::new(layout.bytes()));
    for message in [manifest, Message::Digests(digests.clone()), Message::Group(Some(group))] {
        assert_eq!(node.heard(0, message, now), Ok(()));
    }
    node.listens();
    node.told(Told::Scanned(Bits::new(chunks)), now);
    let mut line = Line::new(None, [1; 10], true);
    for bytes in messages(data) {
        match bytes {
            [] => now += Duration::from_millis(20),
            bytes => node.datagram(&[&group.token[..], bytes].concat(), now),
        }
        node.tick(now);
        while let Some(act) = node.act() {
            match act {
                Act::Disk(Ask::Store(n, data)) => {
                    assert!(digests.contains(&(n, blake3(&data))));
                    node.told(Told::Stored(n), now);
                }
                Act::Say(0, message) => drop(line.say(&message)),
                _ => {}
            }
        }
    }
}

/// Dolly+'s configuration.
pub fn dolly_plus_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match dollyplus::Config::parse(text) {
        Ok(config) => assert_eq!(dollyplus::Config::parse(&config.text()), Ok(config)),
        Err(error) => drop(error.to_string()),
    }
}

/// Dolly+'s stream of packets, whole and byte by byte, and its commands.
pub fn dolly_plus_stream(data: &[u8]) {
    let read = |step: usize| {
        let mut reader = Reader::default();
        let mut payload = 0;
        let mut items = Vec::new();
        for mut rest in data.chunks(step) {
            loop {
                let Ok((taken, item)) = reader.read(rest) else { return (payload, items, true) };
                rest = rest.get(taken..).unwrap_or_default();
                match item {
                    Some(Item::Payload(n)) => payload += n,
                    Some(item) => items.push(item),
                    None => break,
                }
            }
        }
        (payload, items, false)
    };
    assert_eq!(read(1), read(data.len().max(1)));
    let mut heard = data.to_vec();
    while let Ok(Some(_)) = Command::take(&mut heard, "fuzz") {}
}

/// What happens to either end of Dolly+ at its sockets. The first byte of a message says
/// which; an empty one stands for time that passes. Only what is open is heard from.
struct Ring {
    now: Duration,
    dialled: Vec<Conn>,
    open: Vec<Conn>,
    callers: u32,
}

impl Ring {
    const SIZES: Sizes = Sizes { lead: 4 << 10, behind: 14 << 10, chunk: 1 << 10 };
    const PATIENCE: Patience =
        Patience { start: Some(Duration::from_secs(60)), stall: Some(Duration::from_secs(60)) };

    fn new() -> Self {
        Self { now: Duration::ZERO, dialled: Vec::new(), open: Vec::new(), callers: 0 }
    }

    /// One message; false when the end has ended.
    fn turn(&mut self, end: &mut dyn End, message: &[u8]) -> bool {
        self.now += Duration::from_millis(if message.is_empty() { 1000 } else { 1 });
        let at = |list: &[Conn], byte: u8| list.get(usize::from(byte) % list.len().max(1)).copied();
        let outcome = match message {
            [0..=99, bytes @ ..] if self.open.contains(&Conn::Before) => {
                let mut rest = bytes;
                loop {
                    let room = end.room();
                    let n = room.len().min(rest.len());
                    if n == 0 {
                        break Ok(());
                    }
                    room[..n].copy_from_slice(&rest[..n]);
                    rest = &rest[n..];
                    if let Err(error) = end.received(n, self.now) {
                        break Err(error);
                    }
                }
            }
            [100..=109, ..] if end.awaits() => {
                self.open.retain(|conn| *conn != Conn::Before);
                self.open.push(Conn::Before);
                end.step(RingInput::Accepted(Conn::Before, SENDER), self.now)
            }
            [110..=129, ..] if self.callers < 64 => {
                let conn = Conn::Caller(self.callers);
                self.callers += 1;
                self.open.push(conn);
                end.step(RingInput::Accepted(conn, SENDER), self.now)
            }
            [130..=159, which, ..] => match at(&self.dialled, *which) {
                Some(conn) => {
                    self.dialled.retain(|other| *other != conn);
                    self.open.push(conn);
                    end.step(RingInput::Connected(conn), self.now)
                }
                None => Ok(()),
            },
            [160..=169, which, ..] => match at(&self.dialled, *which) {
                Some(conn) => end.step(RingInput::Refused(conn, "refused"), self.now),
                None => Ok(()),
            },
            [170..=185, which, ..] => match at(&self.open, *which) {
                Some(conn) => {
                    self.open.retain(|other| *other != conn);
                    end.step(RingInput::Closed(conn, "closed"), self.now)
                }
                None => Ok(()),
            },
            [186..=255, which, bytes @ ..] => match at(&self.open, *which) {
                Some(conn) if conn != Conn::Before => {
                    end.step(RingInput::Heard(conn, bytes), self.now)
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        };
        let outcome = outcome.and_then(|()| end.step(RingInput::Tick, self.now));
        let mut said = 0;
        while let Some(output) = end.output() {
            said += 1;
            assert!(said < 4096, "one message makes thousands");
            match output {
                RingOutput::Dial { conn, .. } => self.dialled.push(conn),
                RingOutput::Close(conn) => {
                    self.dialled.retain(|other| *other != conn);
                    self.open.retain(|other| *other != conn);
                }
                RingOutput::Send(..)
                | RingOutput::End(_)
                | RingOutput::Say(_)
                | RingOutput::Said(_) => {}
            }
        }
        if self.open.contains(&Conn::Next) {
            let n = end.sending().len();
            end.sent(n, self.now);
        }
        outcome.is_ok()
    }
}

/// What comes to a client of Dolly+. Its disk takes everything.
pub fn dolly_plus_node(data: &[u8]) {
    let mut ring = Ring::new();
    let mut node = Node::new(Ring::PATIENCE, Ring::SIZES, ring.now);
    let mut meter = clone::digest::Meter::default();
    for message in messages(data) {
        if !ring.turn(&mut node, message) {
            return;
        }
        loop {
            match node.todo() {
                Todo::Nothing => break,
                Todo::Open(_) => {
                    meter = clone::digest::Meter::default();
                    node.opened();
                }
                Todo::Store(bytes) => {
                    meter.update(bytes);
                    let n = bytes.len();
                    node.stored(n, ring.now);
                }
                Todo::Finish => node.kept(Kept::unread(meter.digest())),
            }
        }
    }
}

/// What comes to a server of Dolly+ with two clients and two short files.
pub fn dolly_plus_server(data: &[u8]) {
    let mut ring = Ring::new();
    let file = |path: &str| RingFile { path: path.to_owned(), cook: clone::cook::Cook::default() };
    let clients = ["a".to_owned(), "b".to_owned()];
    let files = [file("/x"), file("/y")];
    let mut server = Server::new("s", &clients, &files, Ring::PATIENCE, Ring::SIZES, ring.now);
    let mut left = 0;
    for message in messages(data) {
        if !ring.turn(&mut server, message) {
            return;
        }
        for _ in 0..64 {
            match server.want() {
                Want::Nothing => break,
                Want::Open(_) => {
                    left = 1500;
                    server.opened();
                }
                Want::Bytes(room) => {
                    let n = room.len().min(left);
                    room[..n].fill(7);
                    left -= n;
                    server.read(n);
                }
            }
        }
        if server.finished().is_some() {
            assert!(server.clients().iter().all(|client| client.standing != Standing::Silent));
            return;
        }
    }
}

/// A DOS partition table with its chain of logical partitions.
pub fn dos_table(data: &[u8]) {
    let mut reads = 0;
    let found = ka::desc::read_table(&mut |offset, buffer| {
        reads += 1;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
        let length = buffer.len().min(data.len() - start);
        buffer[..length].copy_from_slice(&data[start..start + length]);
        length
    });
    assert!(reads <= 128, "{reads} reads");
    if let Ok(found) = found {
        assert!(found.len() <= 68);
        let _ = ka::desc::Desc::of_disk(&found);
    }
}
