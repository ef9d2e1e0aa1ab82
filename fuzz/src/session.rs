//! Whole copies: both ends of a protocol, and between them a network that loses, repeats,
//! reorders, changes and invents what is said. What it does is the input, one step a byte;
//! behind the input's end it is honest.
//!
//! The promises: an end that calls a copy verified has the bytes that the other end gave,
//! unless the network invented a digest as well; and a network that was honest all along
//! brings the copy to its end.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use clone::digest::{Digest, Meter};
use clone::dolly::{self, client as dolly_client, server as dolly_server};
use clone::guard::Kept;
use clone::ka::wire::Layout;
use clone::ka::{self, client as ka_client, server as ka_server};
use clone::outcome::{Patience, Standing};
use clone::udpcast::receiver::{self, Receiver};
use clone::udpcast::sender::{self, Sender};
use clone::udpcast::wire::ToReceiver;

const SENDER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const MS: Duration = Duration::from_millis(1);
const PATIENCE: Patience =
    Patience { start: Some(Duration::from_secs(60)), stall: Some(Duration::from_secs(20)) };

/// What the network does, step by step.
struct Script<'a> {
    steps: &'a [u8],
    /// It has lost, repeated or held something back.
    rough: bool,
    /// It has changed or invented something.
    forged: bool,
}

impl<'a> Script<'a> {
    fn new(steps: &'a [u8]) -> Self {
        Self { steps, rough: false, forged: false }
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.steps.split_first()?;
        self.steps = rest;
        Some(*first)
    }

    /// Bytes to invent a message of: as many as the next byte says.
    fn invented(&mut self) -> Vec<u8> {
        self.forged = true;
        let length = usize::from(self.byte().unwrap_or(0)).min(self.steps.len());
        let (made, rest) = self.steps.split_at(length);
        self.steps = rest;
        made.to_vec()
    }

    /// Changes one byte.
    fn spoil(&mut self, bytes: &mut [u8]) {
        let (at, with) = (self.byte().unwrap_or(0), self.byte().unwrap_or(0));
        if let Some(byte) = bytes.get_mut(usize::from(at)).filter(|byte| **byte != with) {
            *byte = with;
            self.forged = true;
        }
    }

    /// One step of a network of datagrams, with what goes that way.
    fn datagram(&mut self, air: &mut VecDeque<Vec<u8>>) {
        match self.byte() {
            Some(1) => self.rough |= air.pop_front().is_some(),
            Some(2) => {
                self.rough = true;
                air.extend(air.front().cloned());
            }
            Some(3) => {
                self.rough = true;
                air.rotate_left(usize::from(!air.is_empty()));
            }
            Some(4) => {
                let mut packet = air.pop_front().unwrap_or_default();
                self.spoil(&mut packet);
                air.push_front(packet);
            }
            Some(5) => air.push_front(self.invented()),
            _ => {}
        }
    }

    /// The same for a connection, which loses and reorders nothing; false when it breaks.
    fn stream(&mut self, air: &mut VecDeque<Vec<u8>>) -> bool {
        match self.byte() {
            Some(1) => {
                // A part comes later.
                if let Some(mut first) = air.pop_front() {
                    let rest = first.split_off(first.len().min(1));
                    air.push_front(rest);
                    air.push_front(first);
                }
            }
            Some(2) => {
                let mut bytes = air.pop_front().unwrap_or_default();
                self.spoil(&mut bytes);
                air.push_front(bytes);
            }
            Some(3) => air.push_front(self.invented()),
            Some(4) => {
                self.rough = true;
                return false;
            }
            _ => {}
        }
        true
    }
}

fn golden() -> Vec<u8> {
    (0..2000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn digest_of(bytes: &[u8]) -> Digest {
    let mut meter = Meter::default();
    meter.update(bytes);
    meter.digest()
}

/// UDPcast: one sender, one receiver.
pub fn udpcast_session(data: &[u8]) {
    let stream = golden();
    let (mut script, mut now) = (Script::new(data), Duration::ZERO);
    let config = sender::Config {
        min_receivers: 1,
        block_size: 256,
        slice_blocks: 4,
        ..sender::Config::new(Ipv4Addr::new(234, 77, 0, 1))
    };
    let mut sender = Sender::new(config, now).expect("the configuration is right");
    let mut receiver = Receiver::new(receiver::Config::default(), now);
    let (mut to_receiver, mut to_sender) = (VecDeque::new(), VecDeque::new());
    let (mut given, mut got, mut buffer) = (0, Vec::new(), Vec::new());
    let mut said = None;
    let mut sends = true;
    for _ in 0..4000 {
        while sends && sender.wants() > 0 && given <= stream.len() {
            let some = sender.wants().min(stream.len() - given);
            let input = match some {
                0 => sender::Input::End,
                _ => sender::Input::Data(&stream[given..given + some]),
            };
            given += some.max(usize::from(some == 0));
            sends = sender.step(input, now).is_ok();
        }
        sends = sends && sender.step(sender::Input::Tick, now).is_ok() && !sender.finished();
        while sends && to_receiver.len() < 256 {
            let mut packet = Vec::new();
            if sender.transmit(now, &mut packet).is_none() {
                break;
            }
            to_receiver.push_back(packet);
        }
        while sender.event().is_some() {}
        while to_sender.len() < 256 {
            let mut packet = Vec::new();
            if receiver.transmit(&mut packet).is_none() {
                break;
            }
            to_sender.push_back(packet);
        }
        script.datagram(&mut to_receiver);
        script.datagram(&mut to_sender);
        let (down, up) = (to_receiver.pop_front(), to_sender.pop_front());
        let quiet = down.is_none() && up.is_none();
        if let Some(bytes) = &up
            && sends
        {
            let input = sender::Input::Packet { from: RECEIVER, bytes };
            sends = sender.step(input, now).is_ok();
        }
        let input = match &down {
            Some(bytes) => receiver::Input::Packet { from: SENDER, bytes },
            None => receiver::Input::Tick,
        };
        if receiver.step(input, now).is_err() {
            break;
        }
        while receiver.take(&mut buffer) {
            got.extend_from_slice(&buffer);
        }
        while let Some(event) = receiver.event() {
            match event {
                receiver::Event::End(digest) => {
                    assert_eq!(digest, digest_of(&got));
                    if receiver.step(receiver::Input::Stored(Ok(true)), now).is_err() {
                        return;
                    }
                }
                receiver::Event::Finished { digest, verified } => {
                    assert_eq!(digest, digest_of(&got), "another stream than was taken");
                    said = Some(verified);
                }
                _ => {}
            }
        }
        if receiver.finished() && !sends {
            break;
        }
        if quiet {
            let next = [sender.deadline().filter(|_| sends), receiver.deadline()];
            now = next.into_iter().flatten().min().unwrap_or(now).max(now + MS);
        }
    }
    let whole = got == stream;
    if !script.forged {
        assert!(said != Some(true) || whole, "the receiver verified other bytes");
        let verified = |machine: &sender::Machine| machine.standing == Standing::Verified;
        assert!(!sender.machines().iter().any(verified) || whole, "the sender verified them");
        if !script.rough {
            assert_eq!((said, whole), (Some(true), true), "an honest network at {now:?}");
        }
    }
}

/// Datagrams that mean something, with a sender of the network's own: each message is
/// one packet of the protocol. Whatever they say, what is verified has the digest that was
/// announced, and was stored.
pub fn udpcast_imposter(data: &[u8]) {
    let mut now = Duration::ZERO;
    let mut receiver = Receiver::new(receiver::Config::default(), now);
    let (mut got, mut buffer, mut packet) = (Vec::new(), Vec::new(), Vec::new());
    let mut announced = Vec::new();
    let mut script = Script::new(data);
    let mut slice = 0u32;
    while let Some(kind) = script.byte() {
        let (block, bytes) = (script.byte().unwrap_or(0), u32::from(script.byte().unwrap_or(0)));
        let payload = [kind ^ block; 64];
        let group = Ipv4Addr::new(234, 77, 0, block);
        let capabilities = clone::udpcast::wire::Capabilities(u32::MAX >> (block % 32));
        let message = match kind % 8 {
            0 => ToReceiver::ConnectReply {
                client: i32::from(block % 4) - 1,
                block_size: 64,
                capabilities,
                group,
            },
            1 => ToReceiver::Hello {
                kind: clone::udpcast::wire::HelloKind::New,
                capabilities,
                group,
                block_size: 64,
            },
            2 | 3 => {
                ToReceiver::Data { slice, block: u16::from(block % 4), bytes, payload: &payload }
            }
            4 => ToReceiver::Fec {
                stripes: 1,
                slice,
                block: u16::from(block % 4),
                bytes,
                payload: &payload,
            },
            5 => {
                let bytes = if block < 128 { 0 } else { bytes };
                slice = slice.wrapping_add(u32::from(block % 2));
                ToReceiver::ReqAck { slice, bytes, round: [kind; 4], ready: Default::default() }
            }
            6 => {
                let digest = if block < 128 { digest_of(&got) } else { digest_of(&payload) };
                announced.push(digest);
                ToReceiver::Digest { digest, heard: bytes % 2 == 1, code: None }
            }
            _ => {
                now = receiver.deadline().unwrap_or(now).max(now + MS);
                slice = slice.wrapping_add(1);
                ToReceiver::ReqAck { slice, bytes, round: [0; 4], ready: Default::default() }
            }
        };
        packet.clear();
        message.write(&mut packet);
        let input = receiver::Input::Packet { from: SENDER, bytes: &packet };
        if receiver.step(input, now).is_err() {
            return;
        }
        while receiver.take(&mut buffer) {
            got.extend_from_slice(&buffer);
        }
        let mut stored = false;
        while let Some(event) = receiver.event() {
            match event {
                receiver::Event::End(_) => stored = true,
                receiver::Event::Finished { digest, verified } => {
                    assert_eq!(digest, digest_of(&got));
                    assert!(!verified || announced.contains(&digest), "a digest out of nothing");
                }
                _ => {}
            }
        }
        if stored && receiver.step(receiver::Input::Stored(Ok(true)), now).is_err() {
            return;
        }
        while receiver.transmit(&mut packet).is_some() {}
        now += MS;
    }
}

/// Dolly: a server and one client. The first byte says which of them has which password.
pub fn dolly_session(data: &[u8]) {
    let (choice, data) = data.split_first().unwrap_or((&0, &[]));
    let words = [None, Some("sheep"), Some("goat")];
    let word = |n: u8| words[usize::from(n % 3)].map(str::to_owned);
    let (ours, theirs) = (word(*choice), word(*choice / 3));
    // Only the new line has a place for a password.
    let names = if ours.is_none() { "server s\nfirstclient a\nlastclient a\n" } else { "" };
    let text = format!("infile x\noutfile y\nfanout 1\n{names}clients 1\na\nendconfig\n");
    let Ok(config) = dolly::Config::parse(&text) else { return };
    let (mut script, mut now) = (Script::new(data), Duration::ZERO);
    let secrets_differ = ours != theirs;
    let options = dolly_server::Options {
        password: ours.clone(),
        nonce: [3; 32],
        patience: PATIENCE,
        directories: false,
    };
    let Ok(mut server) = dolly::Server::new(config, &text, true, options, now) else { return };
    let options = dolly_client::Options {
        names: vec!["a".to_owned()],
        password: theirs,
        nonce: [4; 32],
        patience: PATIENCE,
    };
    let mut client = dolly::Client::new(options, now);
    let golden = golden();
    let digest = digest_of(&golden);
    let (mut to_client, mut to_server) = (VecDeque::new(), VecDeque::new());
    let (mut server_runs, mut client_runs, mut open, mut begun) = (true, true, false, false);
    let (mut spoiled, mut received, mut verified) = (false, 0u64, None);
    for _ in 0..2000 {
        let mut idle = true;
        server_runs &= server.step(dolly_server::Input::Tick, now).is_ok();
        while let Some(output) = server.output() {
            idle = false;
            match output {
                dolly_server::Output::Connect(_) if server_runs => {
                    open = server.step(dolly_server::Input::Connected(0), now).is_ok();
                }
                dolly_server::Output::ToChild(_, bytes) => to_client.push_back(bytes),
                dolly_server::Output::Begin => begun = true,
                dolly_server::Output::Finished => server_runs = false,
                _ => {}
            }
        }
        if begun && server_runs && received == 0 {
            // The data goes by itself; the network may change a bit of it, or cut it short.
            let how = script.byte().unwrap_or(0);
            (spoiled, received) = (how == 1, golden.len() as u64 - u64::from(how == 2));
            script.rough |= how == 1 || how == 2;
            client_runs &= client.step(dolly_client::Input::Received(received), now).is_ok();
            server_runs &= server.step(dolly_server::Input::End(digest), now).is_ok();
            client_runs &= client.step(dolly_client::Input::DataEnd, now).is_ok();
            idle = false;
        }
        client_runs = client_runs && client.step(dolly_client::Input::Tick, now).is_ok();
        while let Some(output) = client.output() {
            idle = false;
            match output {
                dolly_client::Output::ToParent(bytes) => to_server.push_back(bytes),
                dolly_client::Output::Complete(bytes) if client_runs => {
                    let kept = match spoiled || bytes != golden.len() as u64 {
                        true => Digest { bytes, ..digest_of(b"other") },
                        false => digest,
                    };
                    let kept = Kept { digest: kept, read_back: true, pinned: false };
                    client_runs = client.step(dolly_client::Input::Stored(Ok(kept)), now).is_ok();
                }
                dolly_client::Output::Finished { verified: is } => {
                    verified = Some(is);
                    client_runs = false;
                }
                _ => {}
            }
        }
        if open && !(script.stream(&mut to_client) && script.stream(&mut to_server)) {
            open = false;
            if client_runs {
                client_runs = client.step(dolly_client::Input::ParentClosed, now).is_ok();
            }
            if server_runs {
                let input = dolly_server::Input::ChildClosed(0, "cut");
                server_runs = server.step(input, now).is_ok();
            }
        }
        if let Some(bytes) = to_client.pop_front().filter(|_| open && client_runs) {
            client_runs = client.step(dolly_client::Input::Parent(&bytes), now).is_ok();
            idle = false;
        }
        if let Some(bytes) = to_server.pop_front().filter(|_| open && server_runs) {
            server_runs = server.step(dolly_server::Input::Child(0, &bytes), now).is_ok();
            idle = false;
        }
        if !server_runs && !client_runs {
            break;
        }
        if idle {
            let next = [
                server.deadline().filter(|_| server_runs),
                client.deadline().filter(|_| client_runs),
            ];
            now = next.into_iter().flatten().min().unwrap_or(now).max(now + MS);
        }
    }
    let standing = server.clients().next().map(|(_, standing)| standing.clone());
    if script.forged {
        return;
    }
    let kept = received == golden.len() as u64 && !spoiled;
    assert!(verified != Some(true) || kept, "the client verified other bytes");
    assert!(standing != Some(Standing::Verified) || kept, "the server verified them");
    if secrets_differ && ours.is_some() {
        assert!(!begun, "data for a client without the password");
    } else if !script.rough && !secrets_differ {
        assert_eq!((verified, standing), (Some(true), Some(Standing::Verified)), "{now:?}");
    }
}

/// KA: a server and one client.
pub fn ka_session(data: &[u8]) {
    let (choice, data) = data.split_first().unwrap_or((&0, &[]));
    let (mut script, mut now) = (Script::new(data), Duration::ZERO);
    let session = "room".to_owned();
    let options = ka_server::Options {
        session: session.clone(),
        clients: 1,
        arity: 1,
        verify: true,
        patience: PATIENCE,
    };
    let Ok(mut server) = ka::Server::new(options, now) else { return };
    let options = ka_client::Options {
        session,
        server: None,
        layout: if choice % 2 == 0 { Layout::I386 } else { Layout::Lp64 },
        wait: choice % 4 < 2,
        go_now: false,
        tries: 30,
        patience: PATIENCE,
    };
    let mut client = ka::Client::new(options, now);
    let golden = golden();
    let digest = digest_of(&golden);
    let (mut to_client, mut to_server) = (VecDeque::new(), VecDeque::new());
    let (mut server_runs, mut client_runs, mut open, mut ended) = (true, true, false, false);
    let (mut begun, mut granted, mut linked) = (false, false, false);
    let (mut spoiled, mut received, mut verified) = (false, 0u64, None);
    for _ in 0..2000 {
        let mut idle = true;
        server_runs = server_runs && server.step(ka_server::Input::Tick, now).is_ok();
        while let Some(output) = server.output() {
            idle = false;
            match output {
                ka_server::Output::Answer(_, bytes) if client_runs => {
                    let input = ka_client::Input::Answer(SENDER, &bytes);
                    client_runs = client.step(input, now).is_ok();
                }
                ka_server::Output::ToClient(_, bytes) => to_client.push_back(bytes),
                ka_server::Output::Begin => begun = true,
                ka_server::Output::Send(..) => granted = true,
                ka_server::Output::Drop(_) => granted = false,
                ka_server::Output::Finished => server_runs = false,
                _ => {}
            }
        }
        if begun && server_runs && !ended {
            ended = true;
            server_runs = server.step(ka_server::Input::End(digest), now).is_ok();
            idle = false;
        }
        if ended && granted && linked && client_runs {
            linked = false;
            let how = script.byte().unwrap_or(0);
            (spoiled, received) = (how == 1, golden.len() as u64 - u64::from(how == 2));
            script.rough |= how == 1 || how == 2;
            client_runs = client.step(ka_client::Input::Received(received), now).is_ok()
                && client.step(ka_client::Input::ParentClosed, now).is_ok();
            idle = false;
        }
        client_runs = client_runs && client.step(ka_client::Input::Tick, now).is_ok();
        while let Some(output) = client.output() {
            idle = false;
            let fine = match output {
                ka_client::Output::Ask(bytes) if server_runs => {
                    server.step(ka_server::Input::Question(RECEIVER, &bytes), now).is_ok()
                }
                ka_client::Output::ConnectServer(_) if server_runs && !open => {
                    open = true;
                    let input = ka_server::Input::Accepted(0, RECEIVER, SENDER);
                    let accepted = server.step(input, now).is_ok();
                    client_runs = client.step(ka_client::Input::ServerConnected, now).is_ok();
                    accepted
                }
                ka_client::Output::ToServer(bytes) => {
                    to_server.push_back(bytes);
                    true
                }
                ka_client::Output::ConnectParent(_) if server_runs => {
                    linked = true;
                    let came = server.step(ka_server::Input::ChildCame(RECEIVER), now).is_ok();
                    client_runs = client.step(ka_client::Input::ParentConnected, now).is_ok();
                    came
                }
                ka_client::Output::Complete(bytes) => {
                    let kept = match spoiled || bytes != golden.len() as u64 {
                        true => Digest { bytes, ..digest_of(b"other") },
                        false => digest,
                    };
                    let kept = Kept { digest: kept, read_back: true, pinned: false };
                    client_runs = client.step(ka_client::Input::Stored(Ok(kept)), now).is_ok();
                    true
                }
                ka_client::Output::Finished { verified: is } => {
                    verified = Some(is);
                    client_runs = false;
                    true
                }
                _ => true,
            };
            server_runs &= fine;
        }
        if open && !(script.stream(&mut to_client) && script.stream(&mut to_server)) {
            open = false;
            client_runs =
                client_runs && client.step(ka_client::Input::ServerClosed("cut"), now).is_ok();
            server_runs =
                server_runs && server.step(ka_server::Input::Closed(0, "cut"), now).is_ok();
        }
        if let Some(bytes) = to_client.pop_front().filter(|_| open && client_runs) {
            client_runs = client.step(ka_client::Input::Server(&bytes), now).is_ok();
            idle = false;
        }
        if let Some(bytes) = to_server.pop_front().filter(|_| open && server_runs) {
            server_runs = server.step(ka_server::Input::Client(0, &bytes), now).is_ok();
            idle = false;
        }
        if !server_runs && !client_runs {
            break;
        }
        if idle {
            let next = [
                server.deadline().filter(|_| server_runs),
                client.deadline().filter(|_| client_runs),
            ];
            now = next.into_iter().flatten().min().unwrap_or(now).max(now + MS);
        }
    }
    if script.forged {
        return;
    }
    let standing = server.clients().next().map(|(_, standing)| standing.clone());
    let kept = received == golden.len() as u64 && !spoiled;
    assert!(verified != Some(true) || kept, "the client verified other bytes");
    assert!(standing != Some(Standing::Verified) || kept, "the server verified them");
    if !script.rough {
        assert_eq!((verified, standing), (Some(true), Some(Standing::Verified)), "{now:?}");
    }
}
