//! The sending end.
//!
//! The caller gives packets, stream bytes and the time to [`Sender::step`],
//! and takes packets from [`Sender::transmit`] one at a time for as long as
//! its socket has room: that is the flow control, and the reason why nothing
//! queues up here. Memory is two slices and what makes the next one.

mod gather;
mod slices;
mod verify;

use super::wire::{Capabilities, ToReceiver, ToSender, Verdict};
use super::{Bits, MAX_BLOCK_SIZE, MAX_SLICE_BLOCKS, fec};
use crate::Error;
use crate::digest::{Digest, Meter};
use crate::guard::Announcement;
use crate::outcome::Standing;
use crate::pact::{Nonce, Pact, same};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

/// How much redundancy goes with a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redundancy {
    /// Stripes that a slice's blocks are dealt to: a burst of this many lost
    /// blocks costs each stripe one.
    pub stripes: u16,
    /// Redundant blocks per stripe.
    pub redundancy: u16,
    /// Data blocks per stripe.
    pub stripe_size: u16,
}

impl Redundancy {
    const fn fits(self) -> bool {
        self.stripes >= 1
            && self.redundancy >= 1
            && self.redundancy as usize <= fec::MAX
            && self.stripe_size >= 1
            && self.stripe_size as usize <= fec::MAX
            && self.stripes as usize * self.stripe_size as usize <= MAX_SLICE_BLOCKS
    }
}

/// What the user wants of a sender. The defaults are those of `udp-sender` on
/// a full-duplex link.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes of a block: a multiple of four, at most 1456.
    pub block_size: u16,
    /// Blocks of a slice, to begin with.
    pub slice_blocks: u16,
    /// Send a slice while the one before is being acknowledged. If not, the
    /// slices grow while nothing is lost, and shrink when something is.
    pub full_duplex: bool,
    /// Send data to the only receiver's own address when there is one only.
    pub point_to_point: bool,
    /// There is no way back: send, and hope.
    pub asynchronous: bool,
    /// Redundant blocks.
    pub fec: Option<Redundancy>,
    /// Machines may join when the stream runs; they get the rest of it.
    pub streaming: bool,
    /// Where data goes, if not to a single receiver.
    pub group: Ipv4Addr,
    /// Begin when this many receivers are there.
    pub min_receivers: u16,
    /// But not before this long after the first came.
    pub min_wait: Duration,
    /// Begin this long after the first came, however many there are.
    pub max_wait: Option<Duration>,
    /// Give up when nothing has begun after this long.
    pub start_timeout: Option<Duration>,
    /// Begin after this many HELLOs, receivers or not.
    pub autostart: Option<u32>,
    /// Repeat HELLO this often before the start.
    pub hello_interval: Option<Duration>,
    /// Rounds of asking before a silent receiver is dropped.
    pub retries_until_drop: u32,
    /// Bits per second at most, headers not counted.
    pub max_bitrate: Option<u64>,
    /// Compare digests with those receivers that can.
    pub verify: bool,
}

impl Config {
    /// The defaults, for data to `group`.
    #[must_use]
    pub const fn new(group: Ipv4Addr) -> Self {
        Self {
            block_size: MAX_BLOCK_SIZE as u16,
            slice_blocks: 112,
            full_duplex: true,
            point_to_point: true,
            asynchronous: false,
            fec: None,
            streaming: false,
            group,
            min_receivers: 0,
            min_wait: Duration::ZERO,
            max_wait: None,
            start_timeout: None,
            autostart: None,
            hello_interval: Some(Duration::from_millis(500)),
            retries_until_drop: 200,
            max_bitrate: None,
            verify: true,
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram came.
    Packet {
        /// From this address.
        from: Ipv4Addr,
        /// With this content.
        bytes: &'a [u8],
    },
    /// The stream's next bytes, at most [`Sender::wants`].
    Data(&'a [u8]),
    /// The source has nothing right now: send what is there.
    Flush,
    /// The stream ends.
    End,
    /// The user at this machine wants the transfer to begin.
    Start,
    /// Time has passed.
    Tick,
}

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// To everybody on the network: broadcast or the rendezvous address.
    Everybody,
    /// To the transfer's data address.
    Group(Ipv4Addr),
    /// To one machine.
    Machine(Ipv4Addr),
}

/// A receiver, as the sender knows it.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its address.
    pub address: Ipv4Addr,
    /// How it stands.
    pub standing: Standing,
    /// Bytes that it was late for, when it joined a running stream.
    pub missed: u64,
    verify: bool,
    /// Has said anything about any slice.
    heard: bool,
}

/// Something to tell the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A receiver has come.
    Joined(Ipv4Addr),
    /// The transfer begins.
    Started {
        /// With so many receivers.
        receivers: usize,
        /// Where data goes.
        to: Ipv4Addr,
    },
    /// A receiver was lost.
    Lost(Ipv4Addr, Standing),
    /// A receiver that does not know the key asks to take part.
    Refused(Ipv4Addr),
    /// All is over; [`Sender::machines`] has the results.
    Finished(Digest),
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum State {
    Gathering,
    Running,
    Verifying,
    Finished,
}

#[derive(Debug)]
enum Phase {
    /// Sending data blocks of `to_send` from `next` on, then redundancy from
    /// `next_fec` on, then the question.
    Sending { next: usize, next_fec: usize },
    /// The question was put.
    Asked { at: Duration },
}

#[derive(Debug)]
struct Slice {
    number: u32,
    data: Vec<u8>,
    phase: Phase,
    first_asked: Option<Duration>,
    round: u32,
    to_send: Bits,
    ready: Bits,
    answered: Bits,
    missing: Bits,
    /// Those that have said anything about this slice: they know it is there.
    seen: Bits,
    lossy: bool,
    invited: bool,
}

/// The sending end's state machine.
#[derive(Debug)]
pub struct Sender {
    config: Config,
    state: State,
    started_at: Duration,
    machines: Vec<Machine>,
    first_came: Option<Duration>,
    hellos: u32,
    next_hello: Option<Duration>,
    go: bool,
    control: VecDeque<(To, Vec<u8>)>,
    events: VecDeque<Event>,
    pending: Vec<u8>,
    spare: Vec<Vec<u8>>,
    flush: bool,
    ended: bool,
    end_cut: bool,
    next_slice: u32,
    window: VecDeque<Slice>,
    slice_blocks: usize,
    group: Ipv4Addr,
    wait: Duration,
    next_send: Duration,
    meter: Meter,
    acknowledged: u64,
    resent: u64,
    verify_next: Duration,
    verify_heard: Duration,
    verify_sent: u32,
    told: Announcement,
    pact: Option<Pact>,
    /// Those that have sent a nonce; whether they know the key.
    guests: Vec<(Ipv4Addr, Nonce, bool)>,
    refused: Vec<Ipv4Addr>,
}

/// Unsent replies at most: a flood of requests must not fill the memory.
const MAX_REPLIES: usize = 1100;
impl Sender {
    /// A sender that begins to gather receivers at `now`.
    ///
    /// # Errors
    /// [`Error::Unfit`] when a setting is out of range, or contradicts another.
    pub fn new(config: Config, now: Duration) -> Result<Self, Error> {
        let unfit = |what, why| Err(Error::Unfit { what, why });
        let size = usize::from(config.block_size);
        if size == 0 || size > MAX_BLOCK_SIZE || !size.is_multiple_of(4) {
            return unfit("the block size", "must be a multiple of 4 up to 1456");
        }
        if config.slice_blocks == 0 || usize::from(config.slice_blocks) > MAX_SLICE_BLOCKS {
            return unfit("the slice size", "must be 1 to 1024 blocks");
        }
        if config.fec.is_some_and(|f| !f.fits()) {
            return unfit(
                "the FEC parameters",
                "stripes × stripe size must be at most 1024, redundancy and stripe size at most 128",
            );
        }
        if config.asynchronous && config.streaming {
            return unfit("streaming", "needs a way back, which asynchronous mode has not");
        }
        let slice_blocks = match config.fec {
            Some(f) => usize::from(f.stripes) * usize::from(f.stripe_size),
            None if config.asynchronous => MAX_SLICE_BLOCKS,
            None => config.slice_blocks.into(),
        };
        Ok(Self {
            state: State::Gathering,
            started_at: now,
            machines: Vec::new(),
            first_came: None,
            hellos: 0,
            next_hello: Some(now),
            go: false,
            control: VecDeque::new(),
            events: VecDeque::new(),
            pending: Vec::new(),
            spare: Vec::new(),
            flush: false,
            ended: false,
            end_cut: false,
            next_slice: 0,
            window: VecDeque::new(),
            slice_blocks,
            group: config.group,
            wait: Duration::from_millis(10),
            next_send: now,
            meter: Meter::default(),
            acknowledged: 0,
            resent: 0,
            verify_next: now,
            verify_heard: now,
            verify_sent: 0,
            told: Announcement::default(),
            pact: None,
            guests: Vec::new(),
            refused: Vec::new(),
            config,
        })
    }

    /// Tells the sender what happened.
    ///
    /// # Errors
    /// [`Error::Stalled`] when no receiver comes in time, [`Error::Gone`] when none is left.
    pub fn step(&mut self, input: Input<'_>, now: Duration) -> Result<(), Error> {
        match input {
            Input::Packet { from, bytes } => {
                if let Some(packet) = ToSender::parse(bytes) {
                    self.packet(from, &packet, now);
                }
            }
            Input::Data(bytes) => {
                let room = self.wants();
                let bytes = bytes.get(..room).unwrap_or(bytes);
                self.meter.update(bytes);
                self.pending.extend_from_slice(bytes);
            }
            Input::Flush => self.flush = true,
            Input::End => self.ended = true,
            Input::Start => self.go = true,
            Input::Tick => {}
        }
        self.advance(now)
    }

    /// How many bytes of the stream can be taken now.
    #[must_use]
    pub fn wants(&self) -> usize {
        if self.ended || self.state != State::Running {
            return 0;
        }
        self.slice_bytes().saturating_sub(self.pending.len())
    }

    /// The next packet, written over `out`, and where it goes; nothing when
    /// there is nothing to send now.
    pub fn transmit(&mut self, now: Duration, out: &mut Vec<u8>) -> Option<To> {
        out.clear();
        if let Some((to, packet)) = self.control.pop_front() {
            out.extend_from_slice(&packet);
            return Some(to);
        }
        if self.config.max_bitrate.is_some() && self.next_send > now {
            return None;
        }
        let to = self.data(now, out)?;
        if let Some(rate) = self.config.max_bitrate.filter(|r| *r > 0) {
            let cost = (out.len() as u64).saturating_mul(8_000_000_000) / rate;
            // Late by up to 5 ms may be made up; more would be a burst.
            let floor = now.saturating_sub(Duration::from_millis(5));
            self.next_send = self.next_send.max(floor) + Duration::from_nanos(cost);
        }
        Some(to)
    }

    /// The next thing to tell the user.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Input::Tick`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let mut all: [Option<Duration>; 6] = [None; 6];
        let [hello, start, min, max, wait, verify] = &mut all;
        match self.state {
            State::Gathering => {
                *hello = self.next_hello;
                *start = self.config.start_timeout.map(|t| self.started_at + t);
                *min = self.first_came.map(|t| t + self.config.min_wait);
                *max = self.first_came.zip(self.config.max_wait).map(|(t, w)| t + w);
            }
            State::Running => {
                *wait = self
                    .window
                    .iter()
                    .filter_map(|s| match s.phase {
                        Phase::Asked { at } => Some(at + self.patience(s.round)),
                        Phase::Sending { .. } => self.config.max_bitrate.map(|_| self.next_send),
                    })
                    .min();
            }
            State::Verifying => *verify = Some(self.verify_next),
            State::Finished => {}
        }
        all.into_iter().flatten().min()
    }

    /// All machines that ever took part, and how it stands with them.
    #[must_use]
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// Bytes that every receiver has.
    #[must_use]
    pub const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Blocks that had to be sent again.
    #[must_use]
    pub const fn resent(&self) -> u64 {
        self.resent
    }

    /// Whether it waits for receivers.
    #[must_use]
    pub fn gathering(&self) -> bool {
        self.state == State::Gathering
    }

    /// Whether [`Sender::transmit`] has something to send at `now`.
    #[must_use]
    pub fn transmit_waits(&self, now: Duration) -> bool {
        !self.control.is_empty()
            || (self.state == State::Running
                && (self.config.max_bitrate.is_none() || self.next_send <= now)
                && self.window.iter().any(|s| matches!(s.phase, Phase::Sending { .. })))
    }

    /// Whether all is over.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.state == State::Finished
    }

    fn slice_bytes(&self) -> usize {
        self.slice_blocks * usize::from(self.config.block_size)
    }

    fn capabilities(&self) -> Capabilities {
        let mut all = Capabilities::NEW_GENERATION | Capabilities::BIG_ENDIAN;
        if self.config.asynchronous {
            all |= Capabilities::ASYNC;
        }
        if self.config.verify {
            all |= Capabilities::VERIFY;
        }
        if self.pact.is_some() {
            all |= Capabilities::KEYED;
        }
        Capabilities(all)
    }

    /// How long answers may take: twice what they do on average, and more and
    /// more once that has failed often, up to a second.
    fn patience(&self, round: u32) -> Duration {
        let base = self.wait * 2 + Duration::from_millis(1);
        let doublings = round.saturating_sub(10) / 4;
        base.saturating_mul(1 << doublings.min(16)).min(Duration::from_secs(1))
    }

    /// The same, for a stream of which this is known, and receivers that know this pact's key.
    ///
    /// # Errors
    /// [`Error::Unfit`]: a key needs a way back.
    pub fn telling(mut self, told: Announcement, pact: Option<Pact>) -> Result<Self, Error> {
        if pact.is_some() && self.config.asynchronous {
            let what = "a key";
            return Err(Error::Unfit { what, why: "needs a way back, which --async has not" });
        }
        (self.told, self.pact) = (told, pact);
        Ok(self)
    }

    fn reply(&mut self, to: To, packet: &ToReceiver<'_>) {
        if self.control.len() < MAX_REPLIES {
            let mut out = Vec::new();
            packet.write(&mut out);
            self.control.push_back((to, out));
        }
    }

    fn active(&self) -> impl Iterator<Item = (usize, &Machine)> {
        self.machines.iter().enumerate().filter(|(_, m)| m.standing == Standing::Receiving)
    }

    fn packet(&mut self, from: Ipv4Addr, packet: &ToSender, now: Duration) {
        let known = self.machines.iter().position(|m| m.address == from);
        match packet {
            ToSender::Challenge(nonce) => self.challenged(from, *nonce),
            ToSender::Answer(code) => {
                let right = self.pact.as_ref().zip(self.guest(from));
                let right = right.is_some_and(|(pact, guest)| same(code, &pact.answer(&guest.1)));
                if let Some(guest) = self.guests.iter_mut().find(|guest| guest.0 == from && right) {
                    guest.2 = true;
                }
            }
            ToSender::ConnectReq { .. } if !self.proved(from) => self.refuse(from),
            ToSender::ConnectReq { capabilities, .. } => {
                if !self.config.asynchronous {
                    self.connect(from, known, *capabilities, now);
                }
            }
            ToSender::Go => self.go = true,
            ToSender::Disconnect => {
                // Old receivers confirm the end once; when that is lost, their
                // leaving after it says the same: it is told when they have all data.
                let told = self.end().is_some_and(|s| matches!(s.phase, Phase::Asked { .. }));
                let Some(machine) = known.and_then(|i| self.machines.get_mut(i)) else { return };
                if machine.standing == Standing::Receiving && told {
                    machine.standing = Standing::Acknowledged;
                } else if machine.standing == Standing::Receiving {
                    machine.standing = Standing::lost("left before the end");
                    self.events.push_back(Event::Lost(from, machine.standing.clone()));
                }
                machine.verify = false;
            }
            ToSender::Ok { slice } => {
                if let Some(client) = known {
                    self.answer(client, *slice, None, now);
                }
            }
            ToSender::Retransmit { slice, round, have } => {
                if let Some(client) = known {
                    self.answer(client, *slice, Some((*round, have)), now);
                }
            }
            ToSender::Verdict { verdict, digest, code } => {
                let right = self.pact.as_ref().zip(self.guest(from));
                let right = right.map(|(p, guest)| p.verdict(&guest.1, &verdict.text(digest)));
                if right.is_some_and(|right| !code.is_some_and(|code| same(&code, &right))) {
                    return;
                }
                let ours = self.meter.digest();
                let right = *digest == ours;
                if *verdict != Verdict::Pending && known.is_some() && self.state != State::Running {
                    let packet = self.digest(ours, true);
                    self.reply(To::Machine(from), &packet);
                }
                if let Some(machine) = known.and_then(|i| self.machines.get_mut(i))
                    && self.state == State::Verifying
                    && machine.standing == Standing::Acknowledged
                {
                    self.verify_heard = now;
                    machine.standing = match verdict {
                        Verdict::Pending => Standing::Acknowledged,
                        Verdict::Verified if right => Standing::Verified,
                        Verdict::Whole if right => Standing::Whole,
                        Verdict::Verified | Verdict::Whole | Verdict::Mismatch => Standing::Differs,
                        Verdict::StoreFailed => Standing::failed("could not store it"),
                    };
                }
            }
        }
    }

    fn advance(&mut self, now: Duration) -> Result<(), Error> {
        if self.state == State::Gathering {
            self.gather(now)?;
        }
        if self.state == State::Running {
            self.questions(now);
            self.cut();
            self.maybe_over(now)?;
        }
        if self.state == State::Verifying {
            self.verify(now);
        }
        Ok(())
    }
}
