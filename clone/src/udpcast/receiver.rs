//! The receiving end.
//!
//! A slice is confirmed when it was taken by the caller, not when it has
//! arrived: a store that cannot keep up slows the sender down instead of
//! filling the memory. Memory is four slices.

use super::wire::{Capabilities, HelloKind, ToReceiver, ToSender, Verdict};
use super::{Bits, MAX_BLOCK_SIZE, MAX_SLICE_BLOCKS, NAME, fec};
use crate::Error;
use crate::digest::{Digest, Meter};
use crate::guard::Announcement;
use crate::pact::{Key, Nonce, Pact, same};
use alloc::collections::VecDeque;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

/// What the user wants of a receiver.
#[derive(Debug, Clone)]
pub struct Config {
    /// The size of the socket's buffer, for the sender's information.
    pub receive_buffer: u32,
    /// Give up when nothing has begun after this long.
    pub start_timeout: Option<Duration>,
    /// Give up when nothing came for this long in a running transfer.
    pub receive_timeout: Option<Duration>,
    /// Say nothing at all; for asynchronous senders.
    pub passive: bool,
    /// How long to stay at the end for a sender that missed our last answer.
    pub linger: Duration,
    /// Compare digests if the sender can.
    pub verify: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            receive_buffer: 212_992,
            start_timeout: None,
            receive_timeout: Some(Duration::from_secs(300)),
            passive: false,
            linger: Duration::from_millis(500),
            verify: true,
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram came from a sender's port.
    Packet {
        /// From this address.
        from: Ipv4Addr,
        /// With this content.
        bytes: &'a [u8],
    },
    /// The user at this machine wants the transfer to begin.
    Go,
    /// All that was taken is stored, and was read back if this is true; or could not be.
    Stored(Result<bool, &'a str>),
    /// Time has passed.
    Tick,
}

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// To everybody: no sender is known yet.
    Everybody,
    /// To the sender.
    Sender(Ipv4Addr),
}

/// Something to tell the user, or to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A sender was found; data will go to this address, listen there.
    Connected {
        /// The sender.
        sender: Ipv4Addr,
        /// Where data will go; multicast or our own address.
        group: Ipv4Addr,
        /// Our number; nothing when the sender wants no answers.
        client: Option<u16>,
    },
    /// A sender is there; it may send to this address before it answers.
    Listen(Ipv4Addr),
    /// This sender is not the one that is waited for, and why.
    Refused(Ipv4Addr, Error),
    /// A transfer runs, but it began without us and cannot be joined.
    TooLate(Ipv4Addr),
    /// Data flows.
    Started {
        /// The stream had begun before; what came before is not had.
        late: bool,
    },
    /// The stream has ended: store all of it, then say [`Input::Stored`].
    End(Digest),
    /// All is over.
    Finished {
        /// What was received.
        digest: Digest,
        /// Whether the sender confirmed the digest.
        verified: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Seeking,
    Receiving,
    /// The end was taken; waiting to be told that it is stored.
    Storing,
    /// Answering a sender that missed something, and waiting for its digest.
    Lingering {
        until: Duration,
    },
    Finished,
}

#[derive(Debug, Default)]
struct Slice {
    /// Length; unknown until a packet says so.
    bytes: Option<u32>,
    data: Vec<u8>,
    have: Bits,
    rows: Vec<(u16, Vec<u8>)>,
    stripes: u16,
    /// The question was put when the slice had come but was not taken.
    asked: bool,
}

/// Slices kept: two that a sender may have in flight, and, without a way back,
/// two for packets out of order.
const SLOTS: usize = 4;
/// How long senders of ours may be busy at the end.
const VERDICT_PATIENCE: Duration = Duration::from_secs(5);
const CONNECT_INTERVAL: Duration = Duration::from_millis(500);

/// The receiving end's state machine.
#[derive(Debug)]
pub struct Receiver {
    config: Config,
    state: State,
    sender: Option<Ipv4Addr>,
    client: Option<u16>,
    passive: bool,
    sender_verifies: bool,
    streaming: bool,
    begun: bool,
    too_late: bool,
    block_size: usize,
    /// What the HELLO said, in case that is all we hear before data.
    hello_block_size: usize,
    /// Takes part although the sender's reply was lost.
    adopted: bool,
    next_connect: Option<Duration>,
    last_heard: Duration,
    next: u32,
    slots: VecDeque<Slice>,
    spare: Vec<Vec<u8>>,
    out: VecDeque<(To, ToSender)>,
    events: VecDeque<Event>,
    meter: Meter,
    stored: Option<Verdict>,
    their_digest: Option<Digest>,
    verified: bool,
    repaired: u64,
    key: Option<(Key, Nonce)>,
    /// Once a sender has shown that it knows the key.
    pact: Option<Pact>,
    told: Announcement,
    refused: Vec<Ipv4Addr>,
}

/// So many senders are called refused by name.
const MAX_REFUSED: usize = 16;

impl Receiver {
    /// A receiver that begins to look for a sender at `now`.
    #[must_use]
    pub fn new(config: Config, now: Duration) -> Self {
        Self {
            passive: config.passive,
            next_connect: (!config.passive).then_some(now),
            state: State::Seeking,
            sender: None,
            client: None,
            sender_verifies: false,
            streaming: false,
            begun: false,
            too_late: false,
            block_size: 0,
            hello_block_size: MAX_BLOCK_SIZE,
            adopted: false,
            last_heard: now,
            next: 0,
            slots: VecDeque::new(),
            spare: Vec::new(),
            out: VecDeque::new(),
            events: VecDeque::new(),
            meter: Meter::default(),
            stored: None,
            their_digest: None,
            verified: false,
            repaired: 0,
            key: None,
            pact: None,
            told: Announcement::default(),
            refused: Vec::new(),
            config,
        }
    }

    /// The same, for a sender that knows this key; the nonce was never used before.
    ///
    /// # Errors
    /// [`Error::Unfit`]: a passive receiver cannot ask.
    pub fn keyed(mut self, key: Option<(Key, Nonce)>) -> Result<Self, Error> {
        if key.is_some() && self.passive {
            let what = "a key";
            return Err(Error::Unfit { what, why: "cannot be asked for by a passive receiver" });
        }
        self.key = key;
        Ok(self)
    }

    /// What the sender has told of the stream.
    #[must_use]
    pub const fn announced(&self) -> Announcement {
        Announcement { sender: self.sender, ..self.told }
    }

    fn refuse(&mut self, from: Ipv4Addr, why: Error) {
        if !self.refused.contains(&from) && self.refused.len() < MAX_REFUSED {
            self.refused.push(from);
            self.events.push_back(Event::Refused(from, why));
        }
    }

    /// One of ours tells of its stream.
    fn announced_by(
        &mut self,
        from: Ipv4Addr,
        told: Announcement,
        pact: Option<(Nonce, crate::pact::Mac)>,
    ) {
        match (self.key.clone(), pact) {
            (None, None) => {
                if self.sender.is_none_or(|sender| sender == from) {
                    self.told = told;
                }
            }
            (None, Some(_)) => self.refuse(from, crate::error::KEY_WANTED),
            (Some(_), None) => self.refuse(from, crate::error::NO_KEY),
            (Some(_), Some(_)) if self.pact.is_some() => {}
            (Some((key, nonce)), Some((session, code))) => {
                let pact = Pact::new(key, NAME, session);
                if !same(&code, &pact.announce(&nonce, &told.bytes())) {
                    return self.refuse(from, crate::error::OTHER_KEY);
                }
                (self.told, self.sender) = (told, Some(from));
                self.pact = Some(pact);
                self.request(To::Sender(from));
            }
        }
    }

    /// Tells the receiver what happened.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Stalled`] or [`Error::Peer`] when the stream did not come
    /// whole, [`Error::Mismatch`] when its digest differs, [`Error::Store`] when it was not
    /// stored.
    pub fn step(&mut self, input: Input<'_>, now: Duration) -> Result<(), Error> {
        match input {
            Input::Packet { from, bytes } => {
                if let Some(packet) = ToReceiver::parse(bytes) {
                    self.packet(from, &packet, now)?;
                }
            }
            Input::Go => {
                if let Some(sender) = self.sender.filter(|_| !self.passive) {
                    self.out.push_back((To::Sender(sender), ToSender::Go));
                }
            }
            Input::Stored(Ok(read_back)) => {
                self.stored = Some(if read_back { Verdict::Verified } else { Verdict::Whole });
            }
            Input::Stored(Err(why)) => {
                self.stored = Some(Verdict::StoreFailed);
                self.verdict();
                self.leave();
                return Err(Error::Store { why: why.to_string() });
            }
            Input::Tick => {}
        }
        self.advance(now)
    }

    /// The next packet, written over `out`, and where it goes.
    pub fn transmit(&mut self, out: &mut Vec<u8>) -> Option<To> {
        let (to, packet) = self.out.pop_front()?;
        out.clear();
        packet.write(out);
        Some(to)
    }

    /// The next thing to tell the user, or to do.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Swaps the stream's next bytes into `buffer`, whose own content is
    /// forgotten. False when there are none now.
    pub fn take(&mut self, buffer: &mut Vec<u8>) -> bool {
        if self.state != State::Receiving || !self.slots.front().is_some_and(|s| self.complete(s)) {
            return false;
        }
        let Some(mut slice) = self.slots.pop_front() else { return false };
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        if slice.asked {
            self.say(ToSender::Ok { slice: number });
        }
        let length = slice.bytes.unwrap_or(0) as usize;
        slice.data.truncate(length);
        self.meter.update(&slice.data);
        core::mem::swap(buffer, &mut slice.data);
        slice.data.clear();
        if self.spare.len() < SLOTS {
            self.spare.push(slice.data);
        }
        if length == 0 {
            self.state = State::Storing;
            self.events.push_back(Event::End(self.meter.digest()));
            return false;
        }
        true
    }

    /// When [`Input::Tick`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Seeking => {
                let limit = self.config.start_timeout.map(|t| self.last_heard + t);
                [self.next_connect, limit].into_iter().flatten().min()
            }
            State::Receiving => self.config.receive_timeout.map(|t| self.last_heard + t),
            State::Lingering { until } => Some(until),
            State::Storing | State::Finished => None,
        }
    }

    /// The stream's digest, once the sender has told it; `Err` until the moment up to which
    /// one that tells it is waited for.
    ///
    /// # Errors
    /// The moment, as long as it may come.
    pub fn digest(&self, ended: Duration) -> Result<Option<Digest>, Duration> {
        match self.their_digest {
            None if self.sender_verifies && self.config.verify => Err(ended + VERDICT_PATIENCE),
            told => Ok(told),
        }
    }

    /// Bytes received whole and in order.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.meter.bytes()
    }

    /// Blocks repaired by redundancy.
    #[must_use]
    pub const fn repaired(&self) -> u64 {
        self.repaired
    }

    /// Whether all is over.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.state == State::Finished
    }

    /// Leaves the transfer: what is left to transmit tells the sender.
    pub fn leave(&mut self) {
        if self.client.is_some() || self.adopted {
            self.say(ToSender::Disconnect);
        }
        self.state = State::Finished;
    }

    fn say(&mut self, packet: ToSender) {
        // Answers to questions: if that many wait, the sender will ask again.
        if let Some(sender) = self.sender.filter(|_| !self.passive && self.out.len() < 64) {
            self.out.push_back((To::Sender(sender), packet));
        }
    }

    fn request(&mut self, to: To) {
        if let Some((_, nonce)) = &self.key {
            let packet = match &self.pact {
                None => ToSender::Challenge(*nonce),
                Some(pact) => ToSender::Answer(pact.answer(nonce)),
            };
            if self.out.len() < 64 {
                self.out.push_back((to, packet));
            }
            if self.pact.is_none() {
                return;
            }
        }
        let mut all = Capabilities::NEW_GENERATION | Capabilities::BIG_ENDIAN;
        if self.config.verify {
            all |= Capabilities::VERIFY;
        }
        let capabilities = Capabilities(all);
        let receive_buffer = self.config.receive_buffer;
        if self.out.len() < 64 {
            self.out.push_back((to, ToSender::ConnectReq { capabilities, receive_buffer }));
        }
    }

    fn advance(&mut self, now: Duration) -> Result<(), Error> {
        match self.state {
            State::Seeking => {
                let waiting_for = match self.too_late {
                    true => "new transfer; the one that runs began without this machine",
                    false => "sender",
                };
                let limit = (self.last_heard, self.config.start_timeout);
                Error::stalled(NAME, waiting_for, limit, now)?;
                if self.next_connect.is_some_and(|t| t <= now) {
                    // Old receivers ask once; on networks that lose packets that
                    // is not enough.
                    self.request(self.sender.map_or(To::Everybody, To::Sender));
                    self.next_connect = Some(now + CONNECT_INTERVAL);
                }
            }
            State::Receiving => {
                let limit = (self.last_heard, self.config.receive_timeout);
                let stalled = Error::stalled(NAME, "data", limit, now);
                if stalled.is_err() {
                    self.leave();
                    return stalled;
                }
            }
            State::Storing => {
                if self.stored.is_some() {
                    let both = self.sender_verifies && self.config.verify;
                    // Senders of ours ask at once; be patient with a busy one.
                    let stay = if both {
                        self.config.linger.max(VERDICT_PATIENCE)
                    } else {
                        self.config.linger
                    };
                    self.state = State::Lingering { until: now + stay };
                    self.verdict();
                    self.judge(now)?;
                }
            }
            State::Lingering { until } => {
                self.judge(now)?;
                if now >= until && self.state != State::Finished {
                    self.finish();
                }
            }
            State::Finished => {}
        }
        Ok(())
    }

    fn finish(&mut self) {
        let (digest, verified) = (self.meter.digest(), self.verified);
        self.leave();
        self.events.push_back(Event::Finished { digest, verified });
    }

    /// Answers the sender's digest, if it came, as far as that can be done.
    fn verdict(&mut self) {
        let Some(theirs) = self.their_digest else { return };
        let digest = self.meter.digest();
        let verdict = match self.stored {
            None => Verdict::Pending,
            Some(Verdict::StoreFailed) => Verdict::StoreFailed,
            Some(_) if theirs != digest => Verdict::Mismatch,
            Some(verdict) => verdict,
        };
        let code = self.key.as_ref().zip(self.pact.as_ref());
        let code = code.map(|((_, nonce), pact)| pact.verdict(nonce, &verdict.text(&digest)));
        self.say(ToSender::Verdict { verdict, digest, code });
    }

    /// Draws the conclusion from the sender's digest.
    fn judge(&mut self, now: Duration) -> Result<(), Error> {
        let Some(theirs) = self.their_digest else { return Ok(()) };
        if theirs != self.meter.digest() {
            self.leave();
            return Err(Error::Mismatch { bytes: self.meter.bytes() });
        }
        if !self.verified {
            self.verified = true;
            // Until the sender has heard our verdict, if there is a way back.
            let stay = if self.passive { Duration::ZERO } else { VERDICT_PATIENCE };
            self.state = State::Lingering { until: now + stay };
        }
        Ok(())
    }

    fn packet(
        &mut self,
        from: Ipv4Addr,
        packet: &ToReceiver<'_>,
        now: Duration,
    ) -> Result<(), Error> {
        if self.state == State::Finished {
            return Ok(());
        }
        if self.begun && self.sender != Some(from) {
            return Ok(());
        }
        // Nothing of a sender counts that has not shown that it knows the key.
        let stranger = match &self.pact {
            Some(_) => self.sender != Some(from),
            None => self.key.is_some(),
        };
        match packet {
            ToReceiver::Announce(told, pact) => {
                if self.state == State::Seeking {
                    self.announced_by(from, *told, *pact);
                }
            }
            ToReceiver::Hello { capabilities, .. } if stranger => {
                if self.pact.is_some() || self.state != State::Seeking {
                } else if capabilities.has(Capabilities::VERIFY | Capabilities::KEYED) {
                    self.request(To::Sender(from));
                } else {
                    self.refuse(from, crate::error::NO_KEY);
                }
            }
            _ if stranger => {}
            ToReceiver::Hello { kind, capabilities, group, block_size } => {
                if self.state == State::Seeking {
                    self.hello(from, *kind, *capabilities, *group, *block_size, now);
                }
            }
            ToReceiver::ConnectReply { client, block_size, capabilities, group } => {
                if self.state == State::Seeking
                    && !self.passive
                    && self.sender.is_none_or(|s| s == from)
                {
                    let Some(client) = u16::try_from(*client).ok().filter(|c| *c < 1024) else {
                        return Err(Error::Peer {
                            protocol: NAME,
                            peer: from.to_string(),
                            why: "it has no room for another receiver",
                        });
                    };
                    self.connected(from, Some(client), *capabilities, *group, *block_size, now);
                }
            }
            ToReceiver::Data { slice, block, bytes, payload } => {
                if self.accepts(from, *slice, now) {
                    self.block(*slice, *block, *bytes, payload)?;
                }
            }
            ToReceiver::Fec { stripes, slice, block, bytes, payload } => {
                if self.accepts(from, *slice, now) {
                    self.redundant(*slice, *stripes, *block, *bytes, payload)?;
                }
            }
            ToReceiver::ReqAck { slice, bytes, round, ready } => {
                if self.accepts(from, *slice, now) {
                    self.question(*slice, *bytes, *round, ready)?;
                }
            }
            ToReceiver::Digest { digest, heard, code } => {
                let right = self.pact.as_ref().map(|pact| pact.end(0, digest));
                if right.is_some_and(|right| !code.is_some_and(|code| same(&code, &right))) {
                    return Ok(());
                }
                if self.sender == Some(from) && self.sender_verifies && self.config.verify {
                    self.their_digest = Some(*digest);
                    if !heard {
                        self.verdict();
                    } else if self.verified {
                        self.finish();
                    }
                }
            }
        }
        Ok(())
    }

    fn hello(
        &mut self,
        from: Ipv4Addr,
        kind: HelloKind,
        capabilities: Capabilities,
        group: Ipv4Addr,
        block_size: u16,
        now: Duration,
    ) {
        if self.client.is_some() && self.sender == Some(from) {
            return;
        }
        self.last_heard = now;
        if kind == HelloKind::Streaming {
            self.streaming = true;
        }
        if capabilities.has(Capabilities::ASYNC) || self.config.passive {
            if self.sender != Some(from) || !self.passive {
                self.passive = true;
                self.out.clear();
                self.next_connect = None;
                self.connected(from, None, capabilities, group, block_size, now);
            }
            return;
        }
        self.sender = Some(from);
        self.hello_block_size = block_size.into();
        self.sender_verifies = capabilities.has(Capabilities::VERIFY);
        self.events.push_back(Event::Listen(group));
        self.request(To::Sender(from));
        self.next_connect = Some(now + CONNECT_INTERVAL);
    }

    fn connected(
        &mut self,
        from: Ipv4Addr,
        client: Option<u16>,
        capabilities: Capabilities,
        group: Ipv4Addr,
        block_size: u16,
        now: Duration,
    ) {
        self.last_heard = now;
        self.next_connect = None;
        let again = self.sender == Some(from) && self.block_size != 0;
        self.sender = Some(from);
        self.client = client.or(self.client);
        self.block_size = block_size.into();
        self.sender_verifies = capabilities.has(Capabilities::VERIFY);
        if !again {
            self.events.push_back(Event::Connected { sender: from, group, client });
        }
    }

    /// Whether a data packet from `from` is ours.
    fn accepts(&mut self, from: Ipv4Addr, slice: u32, now: Duration) -> bool {
        // Our request may have been heard and the reply lost: at the stream's
        // beginning it does no harm to take part.
        if self.state == State::Seeking
            && self.sender == Some(from)
            && !self.passive
            && self.client.is_none()
            && slice <= 1
        {
            self.adopted = true;
            self.block_size = self.hello_block_size;
            self.next_connect = None;
        }
        let registered =
            self.block_size != 0 && (self.passive || self.adopted || self.client.is_some());
        if !registered || self.sender != Some(from) {
            if self.state == State::Seeking && !self.too_late && !self.streaming {
                self.too_late = true;
                self.events.push_back(Event::TooLate(from));
            }
            return false;
        }
        self.last_heard = now;
        matches!(
            self.state,
            State::Receiving | State::Seeking | State::Storing | State::Lingering { .. }
        )
    }

    /// How far `number` is ahead of the next slice; nothing when it was taken.
    fn ahead(&self, number: u32) -> Option<usize> {
        let ahead = number.wrapping_sub(self.next);
        (ahead < 1 << 31).then_some(ahead as usize)
    }

    fn complete(&self, slice: &Slice) -> bool {
        slice
            .bytes
            .is_some_and(|n| slice.have.count() >= (n as usize).div_ceil(self.block_size.max(1)))
    }

    /// The slice's slot, made if need be; nothing if it was taken.
    fn slot(&mut self, number: u32, bytes: u32) -> Result<Option<usize>, Error> {
        if !self.begun {
            self.begun = true;
            self.state = State::Receiving;
            // A sender that has accepted us and is far on is one that may be
            // joined late, even if we missed its saying so.
            self.streaming |= number > 1 && self.client.is_some();
            let late = number != 0;
            // Losing the beginning is told from coming late by being asked for
            // it; only a stream that allows it may be joined late.
            if late && self.streaming {
                self.next = number;
            }
            self.events.push_back(Event::Started { late: late && self.streaming });
        }
        if self.state != State::Receiving {
            return Ok(None);
        }
        let Some(mut ahead) = self.ahead(number) else { return Ok(None) };
        // The slice that a late joiner came into never gets whole.
        if self.streaming && self.meter.bytes() == 0 && ahead > 1 {
            self.slots.drain(..self.slots.len().min(ahead - 1));
            self.next = number.wrapping_sub(1);
            ahead = 1;
        }
        if ahead >= SLOTS {
            let why = if self.passive {
                "more blocks of a slice were lost than the redundancy repairs, or the store is slower than the stream; send slower or with more FEC"
            } else {
                "the sender went on without this machine"
            };
            let after = self.meter.bytes();
            self.leave();
            return Err(Error::Lost { protocol: NAME, after, why });
        }
        if bytes as usize > MAX_SLICE_BLOCKS * self.block_size {
            return Err(Error::Peer {
                protocol: NAME,
                peer: self.sender.map(|s| s.to_string()).unwrap_or_default(),
                why: "its slice has more than 1024 blocks",
            });
        }
        while self.slots.len() <= ahead {
            let data = self.spare.pop().unwrap_or_default();
            self.slots.push_back(Slice { data, ..Slice::default() });
        }
        let size = self.block_size;
        if let Some(slice) = self.slots.get_mut(ahead) {
            match slice.bytes {
                None => {
                    slice.bytes = Some(bytes);
                    slice.data.clear();
                    // Whole blocks: redundancy is reckoned with padding.
                    slice.data.resize((bytes as usize).div_ceil(size) * size, 0);
                }
                Some(known) if known != bytes => return Ok(None),
                Some(_) => {}
            }
        }
        Ok(Some(ahead))
    }

    fn block(&mut self, number: u32, block: u16, bytes: u32, payload: &[u8]) -> Result<(), Error> {
        let Some(slot) = self.slot(number, bytes)? else { return Ok(()) };
        let size = self.block_size;
        let Some(slice) = self.slots.get_mut(slot) else { return Ok(()) };
        let block = usize::from(block);
        let start = block * size;
        let length = (bytes as usize).saturating_sub(start).min(size);
        let (Some(source), Some(target)) =
            (payload.get(..length), slice.data.get_mut(start..start + length))
        else {
            return Ok(());
        };
        if length == 0 || slice.have.get(block) {
            return Ok(());
        }
        target.copy_from_slice(source);
        slice.have.set(block);
        if !slice.rows.is_empty() {
            self.repair(slot);
        }
        Ok(())
    }

    fn redundant(
        &mut self,
        number: u32,
        stripes: u16,
        block: u16,
        bytes: u32,
        payload: &[u8],
    ) -> Result<(), Error> {
        let Some(slot) = self.slot(number, bytes)? else { return Ok(()) };
        let size = self.block_size;
        let Some(slice) = self.slots.get(slot) else { return Ok(()) };
        let used = usize::from(stripes).min((bytes as usize).div_ceil(size));
        let row = block / stripes.max(1);
        if self.complete(slice)
            || payload.len() < size
            || usize::from(block % stripes.max(1)) >= used
            || usize::from(row) >= fec::MAX
        {
            return Ok(());
        }
        let Some(slice) = self.slots.get_mut(slot) else { return Ok(()) };
        if slice.stripes != stripes {
            slice.rows.clear();
            slice.stripes = stripes;
        }
        // No more rows than could ever help: as many as there are blocks.
        if slice.rows.len() < MAX_SLICE_BLOCKS && !slice.rows.iter().any(|(b, _)| *b == block) {
            slice.rows.push((block, payload.get(..size).unwrap_or_default().to_vec()));
            self.repair(slot);
        }
        Ok(())
    }

    /// Repairs what stripes can be repaired, once all of them can be: until
    /// then blocks may still come by themselves.
    fn repair(&mut self, slot: usize) {
        let size = self.block_size.max(1);
        let Some(slice) = self.slots.get_mut(slot) else { return };
        let blocks = (slice.bytes.unwrap_or(0) as usize).div_ceil(size);
        let stripes = usize::from(slice.stripes).max(1);
        let lacking = slice.have.missing(blocks);
        let rows_of = |stripe: usize| {
            slice.rows.iter().filter(move |(b, _)| usize::from(*b) % stripes == stripe)
        };
        let can = (0..stripes).all(|stripe| {
            let lost = (stripe..blocks).step_by(stripes).filter(|b| lacking.get(*b)).count();
            lost == 0 || lost <= rows_of(stripe).count()
        });
        if !can {
            return;
        }
        let mut found = Vec::new();
        for stripe in 0..stripes.min(blocks) {
            let columns: Vec<Option<&[u8]>> = (stripe..blocks)
                .step_by(stripes)
                .map(|b| slice.data.get(b * size..(b + 1) * size).filter(|_| !lacking.get(b)))
                .collect();
            if columns.iter().all(Option::is_some) {
                continue;
            }
            let rows: Vec<(usize, &[u8])> =
                rows_of(stripe).map(|(b, p)| (usize::from(*b) / stripes, p.as_slice())).collect();
            for (column, block) in fec::repair(&columns, &rows, size).unwrap_or_default() {
                found.push((column * stripes + stripe, block));
            }
        }
        for (block, bytes) in found {
            if let Some(target) = slice.data.get_mut(block * size..(block + 1) * size) {
                target.copy_from_slice(&bytes);
                slice.have.set(block);
                self.repaired += 1;
            }
        }
        slice.rows.clear();
    }

    fn question(
        &mut self,
        number: u32,
        bytes: u32,
        round: [u8; 4],
        ready: &Bits,
    ) -> Result<(), Error> {
        if self.client.is_some_and(|c| ready.get(c.into())) {
            return Ok(());
        }
        if self.begun && self.ahead(number).is_none() {
            self.say(ToSender::Ok { slice: number });
            return Ok(());
        }
        let Some(slot) = self.slot(number, bytes)? else { return Ok(()) };
        let Some(slice) = self.slots.get(slot) else { return Ok(()) };
        if self.complete(slice) {
            if let Some(slice) = self.slots.get_mut(slot) {
                slice.asked = true;
            }
        } else {
            let have = slice.have.clone();
            self.say(ToSender::Retransmit { slice: number, round, have });
        }
        Ok(())
    }
}
