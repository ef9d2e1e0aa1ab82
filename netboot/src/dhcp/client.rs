//! The client's state machine (RFC 2131 4.4), made for booting.
//!
//! It takes the time and received frames, and returns frames to send and when to call it again.
//! It differs from a long-running client on purpose:
//!
//! - it never stops asking, and never waits longer than [`MAX_PAUSE`] between two messages, so
//!   a server that starts late is found soon;
//! - the broadcast flag alternates: some servers and relays answer only with it,
//!   some only without;
//! - rapid commit (RFC 4039) is offered, which saves a round trip with servers that support it;
//! - an incomplete offer is kept for [`GRACE`] in case a better one comes; otherwise the first
//!   acceptable one wins;
//! - a BOOTP answer is accepted when no DHCP server answers within that time.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use core::time::Duration;

use super::message::{Incoming, Kind, Outgoing, read, unreadable, write};
use super::options::{REQUESTED, code};
use crate::dhcp::lease::{Lease, usable};
use sys::clock::Instant;

/// The longest pause between two messages.
pub const MAX_PAUSE: Duration = Duration::from_secs(4);
/// How long an incomplete offer is kept before it is accepted.
pub const GRACE: Duration = Duration::from_secs(2);
/// How often an offer is requested before the client starts over.
const MAX_REQUESTS: u32 = 3;
/// The longest silence between two messages that no server answers.
const MAX_REMARK_PAUSE: Duration = Duration::from_secs(30);
/// Our vendor class when the line has none (option 60).
pub const DEFAULT_VENDOR_CLASS: &str = "Linux bellwether";
/// The largest message accepted, for option 57: one Ethernet frame.
const MAX_MESSAGE_SIZE: u16 = 1472;

/// The client's identity and preferences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Hardware address of the link.
    pub mac: [u8; 6],
    /// Option 61, type byte included; empty for Ethernet and the hardware address, as PXE ROMs
    /// send it, so that the server finds their lease.
    pub client_id: Vec<u8>,
    /// Option 60.
    pub vendor_class: String,
    /// Option 12, when the line names the host.
    pub hostname: Option<String>,
    /// Option 50: the preferred address.
    pub requested: Option<Ipv4Addr>,
}

impl Identity {
    /// A client with only a hardware address.
    pub fn new(mac: [u8; 6]) -> Self {
        Identity {
            mac,
            client_id: Vec::new(),
            vendor_class: DEFAULT_VENDOR_CLASS.to_owned(),
            hostname: None,
            requested: None,
        }
    }
}

/// The parts of a lease that the boot needs besides the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// A root path (option 17).
    pub root_path: bool,
    /// A boot server besides the DHCP server itself.
    pub boot_server: bool,
}

impl Needs {
    /// The missing part of a lease, as text.
    fn missing(self, lease: &Lease) -> Option<&'static str> {
        if self.root_path && lease.root_path.is_empty() {
            return Some("no root path");
        }
        let server = lease.next_server.is_some()
            || !lease.server_name.is_empty()
            || !lease.tftp_servers.is_empty();
        (self.boot_server && !server).then_some("no boot server")
    }
}

/// Events, for the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The first DISCOVER was sent.
    Asking,
    /// No answer so far.
    NoAnswer {
        /// Messages sent.
        tries: u32,
        /// Time since the first of them.
        waited: Duration,
        /// A server answered, and its answer was of no use.
        answered: bool,
    },
    /// An incomplete offer is kept in case a better one comes.
    Kept {
        /// The server.
        server: Ipv4Addr,
        /// The missing part.
        missing: &'static str,
    },
    /// An answer is not used.
    Ignored {
        /// The server.
        server: Ipv4Addr,
        /// The reason.
        why: &'static str,
    },
    /// The server refused the address (NAK).
    Refused {
        /// The server.
        server: Ipv4Addr,
        /// Its message, may be empty.
        message: String,
    },
    /// The server offered an address and then did not confirm it.
    Unconfirmed {
        /// The server.
        server: Ipv4Addr,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Asking => f.write_str("asking DHCP"),
            Event::NoAnswer { tries, waited, answered } => {
                let what = if *answered { "lease" } else { "answer" };
                write!(f, "no {what} from DHCP yet, asked {tries} times in {} s", waited.as_secs())
            }
            Event::Kept { server, missing } => {
                write!(f, "offer from {server} has {missing}, waiting for a better one")
            }
            Event::Ignored { server, why } => write!(f, "answer from {server} ignored: {why}"),
            Event::Refused { server, message } if message.is_empty() => {
                write!(f, "{server} refused the address, asking anew")
            }
            Event::Refused { server, message } => {
                write!(f, "{server} refused the address ({message}), asking anew")
            }
            Event::Unconfirmed { server } => {
                write!(f, "{server} offered an address and did not confirm it, asking anew")
            }
        }
    }
}

/// The result of one step.
#[derive(Debug, Default)]
pub struct Output {
    /// A frame to send.
    pub frame: Option<Vec<u8>>,
    /// What happened.
    pub events: Vec<Event>,
    /// The lease, once: the exchange is over.
    pub lease: Option<Box<Lease>>,
}

#[derive(Debug)]
enum State {
    /// Sending DISCOVER; perhaps with an incomplete offer in hand.
    Selecting { kept: Option<(Box<Incoming>, Instant)> },
    /// Requesting an offer from one server.
    Requesting { offer: Box<Incoming>, tries: u32 },
    /// Done.
    Bound,
}

/// A DHCP client for one link.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    needs: Needs,
    state: State,
    transaction: u32,
    /// When the first message was sent.
    began: Option<Instant>,
    /// When the next frame is sent unless an answer arrives.
    next: Instant,
    /// Messages sent, requests included.
    tries: u32,
    /// Index into the pauses of 1, 2, 4, 4… seconds.
    pauses: u32,
    refusals: u32,
    /// The address of this transaction's last request.
    asked_for: Option<Ipv4Addr>,
    trouble: Option<Event>,
    next_remark: Duration,
    random: u32,
}

impl Client {
    /// A client before its first message; `seed` makes its transaction id.
    pub fn new(identity: Identity, needs: Needs, seed: u32) -> Client {
        Client {
            identity,
            needs,
            state: State::Selecting { kept: None },
            transaction: seed,
            began: None,
            next: Instant::ZERO,
            tries: 0,
            pauses: 0,
            refusals: 0,
            asked_for: None,
            trouble: None,
            next_remark: Duration::from_secs(3),
            random: seed | 1,
        }
    }

    /// When to call [`Client::step`] next; `None` when it is done.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Selecting { kept: Some((_, until)) } => Some(*until),
            State::Bound => None,
            _ => Some(self.next),
        }
    }

    /// Messages sent so far.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// When the first message was sent.
    pub fn began(&self) -> Option<Instant> {
        self.began
    }

    /// Sends again at once, for example when the carrier returns.
    pub fn restart(&mut self, now: Instant) {
        if !matches!(self.state, State::Bound) {
            self.state = State::Selecting { kept: None };
            self.pauses = 0;
            self.next = now;
        }
    }

    /// Takes a frame, or the passing of time, and returns the next actions.
    pub fn step(&mut self, now: Instant, frame: Option<&[u8]>) -> Output {
        let mut output = Output::default();
        if let Some(frame) = frame {
            let mac = self.identity.mac;
            if let Some(answer) = read(frame, mac) {
                self.hear(now, answer, &mut output);
            } else if let Some(server) = unreadable(frame, mac, self.transaction) {
                let why = "it is truncated or not DHCP";
                self.remark(Event::Ignored { server, why }, &mut output);
            }
        }
        self.act(now, &mut output);
        output
    }

    /// The last answer that was of no use: ignored, a refusal, or an offer without a
    /// confirmation.
    pub fn trouble(&self) -> Option<&Event> {
        self.trouble.as_ref()
    }

    /// Reports an answer that is of no use, unless the previous report was the same.
    fn remark(&mut self, event: Event, output: &mut Output) {
        if self.trouble.as_ref() != Some(&event) {
            output.events.push(event.clone());
            self.trouble = Some(event);
        }
    }

    /// Handles an answer.
    fn hear(&mut self, now: Instant, answer: Incoming, output: &mut Output) {
        if answer.transaction != self.transaction || self.began.is_none() {
            // An answer to an older exchange; too common for a word on the console.
            return;
        }
        let offered = answer.lease.address;
        let why = match answer.kind {
            Kind::Nak => None,
            // A proxyDHCP server, or a broken one.
            _ if usable(offered).is_none() => Some("it offers no address"),
            _ if offered == answer.server => Some("it offers the server's own address"),
            _ => None,
        };
        if let Some(why) = why {
            self.remark(Event::Ignored { server: answer.server, why }, output);
            return;
        }
        match core::mem::replace(&mut self.state, State::Bound) {
            State::Bound => {}
            State::Selecting { kept } => match answer.kind {
                // Rapid commit, or a late ACK.
                Kind::Ack if answer.rapid || self.asked_for == Some(answer.lease.address) => {
                    output.lease = Some(Box::new(answer.lease));
                }
                Kind::Offer | Kind::Bootp => {
                    self.state = self.consider(now, kept, answer, output);
                }
                _ => self.state = State::Selecting { kept },
            },
            State::Requesting { offer, tries } => match answer.kind {
                Kind::Ack if answer.lease.address == offer.lease.address => {
                    output.lease = Some(Box::new(answer.lease));
                }
                Kind::Nak if answer.server == offer.server => {
                    let refused = Event::Refused { server: answer.server, message: answer.message };
                    self.remark(refused, output);
                    self.begin_again(now);
                }
                kind => {
                    if answer.server != offer.server {
                        let why = match kind {
                            Kind::Nak => "a refusal from a server that was not asked",
                            _ => "another server's offer was taken",
                        };
                        self.remark(Event::Ignored { server: answer.server, why }, output);
                    }
                    self.state = State::Requesting { offer, tries };
                }
            },
        }
    }

    /// Accepts an offer, keeps it, or drops it.
    fn consider(
        &mut self,
        now: Instant,
        kept: Option<(Box<Incoming>, Instant)>,
        answer: Incoming,
        output: &mut Output,
    ) -> State {
        let missing = match answer.kind {
            Kind::Bootp => Some("no lease, being BOOTP"),
            _ => self.needs.missing(&answer.lease),
        };
        let Some(missing) = missing else {
            if let Some((old, _)) = kept {
                let why = "another server's offer has more of what is needed";
                output.events.push(Event::Ignored { server: old.server, why });
            }
            self.next = now;
            return State::Requesting { offer: Box::new(answer), tries: 0 };
        };
        match kept {
            None => {
                output.events.push(Event::Kept { server: answer.server, missing });
                let until = now.after(GRACE);
                State::Selecting { kept: Some((Box::new(answer), until)) }
            }
            // DHCP before BOOTP, otherwise the first.
            Some((old, until)) if old.kind == Kind::Bootp && answer.kind == Kind::Offer => {
                output.events.push(Event::Kept { server: answer.server, missing });
                State::Selecting { kept: Some((Box::new(answer), until)) }
            }
            Some(kept) => State::Selecting { kept: Some(kept) },
        }
    }

    /// Returns to DISCOVER, after a pause that grows with refusals.
    fn begin_again(&mut self, now: Instant) {
        let pause = match self.refusals {
            0 => Duration::ZERO,
            count => pause_before(count),
        };
        self.refusals = self.refusals.saturating_add(1);
        self.identity.requested = None;
        self.asked_for = None;
        self.transaction = self.draw();
        self.state = State::Selecting { kept: None };
        self.pauses = 0;
        self.next = now.after(pause);
    }

    /// Performs the actions due at `now`.
    fn act(&mut self, now: Instant, output: &mut Output) {
        if output.lease.is_some() {
            self.state = State::Bound;
            return;
        }
        if let State::Selecting { kept } = &mut self.state
            && kept.as_ref().is_some_and(|(_, until)| *until <= now)
            && let Some((offer, _)) = kept.take()
        {
            if offer.kind == Kind::Bootp {
                output.lease = Some(Box::new(offer.lease));
                self.state = State::Bound;
                return;
            }
            self.next = now;
            self.state = State::Requesting { offer, tries: 0 };
        }
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        let began = *self.began.get_or_insert(now);
        if let State::Requesting { offer, tries } = &self.state
            && *tries >= MAX_REQUESTS
        {
            let event = Event::Unconfirmed { server: offer.server };
            self.remark(event, output);
            self.state = State::Selecting { kept: None };
            self.pauses = 0;
        }
        let waited = now.since(began);
        if self.tries == 0 {
            output.events.push(Event::Asking);
        } else if waited >= self.next_remark && matches!(self.state, State::Selecting { .. }) {
            let answered = self.trouble.is_some();
            output.events.push(Event::NoAnswer { tries: self.tries, waited, answered });
            self.next_remark =
                waited.saturating_add(waited.clamp(Duration::from_secs(3), MAX_REMARK_PAUSE));
        }
        output.frame = Some(self.question(waited));
        self.tries = self.tries.saturating_add(1);
        let nth = match &mut self.state {
            State::Requesting { offer, tries } => {
                self.asked_for = Some(offer.lease.address);
                *tries = tries.saturating_add(1);
                *tries
            }
            _ => {
                self.pauses = self.pauses.saturating_add(1);
                self.pauses
            }
        };
        let jitter = Duration::from_millis(u64::from(self.draw() % 256));
        self.next = now.after(pause_before(nth).saturating_add(jitter));
    }

    /// The frame of the present state.
    fn question(&self, waited: Duration) -> Vec<u8> {
        let mac = self.identity.mac;
        let [a, b, c, d, e, f] = mac;
        let default_id = [1, a, b, c, d, e, f];
        let client_id = match self.identity.client_id.as_slice() {
            [] => &default_id[..],
            id => id,
        };
        let max_size = MAX_MESSAGE_SIZE.to_be_bytes();
        let (kind, address, server) = match &self.state {
            State::Requesting { offer, .. } => {
                (Kind::Request, Some(offer.lease.address), Some(offer.server))
            }
            _ => (Kind::Discover, self.identity.requested, None),
        };
        let address = address.map(|address| address.octets());
        let server = server.map(|server| server.octets());
        let vendor_class = self.identity.vendor_class.as_bytes();
        let options: [(u8, Option<&[u8]>); 8] = [
            (code::CLIENT_ID, Some(client_id)),
            (code::REQUESTED_ADDRESS, address.as_ref().map(|address| &address[..])),
            (code::SERVER_ID, server.as_ref().map(|server| &server[..])),
            (code::PARAMETERS, Some(&REQUESTED)),
            (code::MAX_SIZE, Some(&max_size)),
            (code::VENDOR_CLASS, Some(vendor_class).filter(|class| !class.is_empty())),
            (code::HOST_NAME, self.identity.hostname.as_ref().map(|name| name.as_bytes())),
            (code::RAPID_COMMIT, (kind == Kind::Discover).then_some(&[])),
        ];
        write(&Outgoing {
            kind,
            mac,
            transaction: self.transaction,
            seconds: u16::try_from(waited.as_secs()).unwrap_or(u16::MAX),
            broadcast: self.tries.is_multiple_of(2),
            options: &options,
        })
    }

    /// The next number of a xorshift generator: good enough to spread clients over time.
    fn draw(&mut self) -> u32 {
        let mut x = self.random;
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.random = x;
        x
    }
}

/// The pause after the `nth` message: 1, 2, 4, 4… seconds.
fn pause_before(nth: u32) -> Duration {
    let seconds = 1u64.checked_shl(nth.saturating_sub(1)).unwrap_or(u64::MAX);
    Duration::from_secs(seconds).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::{MAC, answer, wrap};
    use super::*;
    use proptest::prelude::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 50);
    const MASK: (u8, &[u8]) = (1, &[255, 255, 255, 0]);
    const ROOT: (u8, &[u8]) = (17, b"10.0.0.9:/srv/live");

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn client(needs: Needs) -> Client {
        Client::new(Identity::new(MAC), needs, 77)
    }

    /// The transaction id of a frame that was sent.
    fn transaction(frame: &[u8]) -> u32 {
        u32::from_be_bytes(frame[46..50].try_into().unwrap())
    }

    fn broadcast_flag(frame: &[u8]) -> bool {
        frame[52] & 0x80 != 0
    }

    /// Value of an option of a frame that was sent.
    fn option(frame: &[u8], wanted: u8) -> Option<Vec<u8>> {
        let mut options = super::super::options::Options::default();
        options.collect(&frame[14 + 20 + 8 + 240..]);
        options.get(wanted).map(<[u8]>::to_vec)
    }

    /// Answers to a frame at a time, each with its delay.
    type Server<'a> = &'a mut dyn FnMut(&[u8], u64) -> Vec<(u64, Vec<u8>)>;

    /// Runs a client against `reply` (frame, time → answers with their delay) and
    /// tells when it was done, with what, and what it said.
    fn simulate(
        mut client: Client,
        limit: u64,
        reply: Server<'_>,
    ) -> (Option<(u64, Box<Lease>)>, Vec<Event>) {
        let mut now = 0;
        let mut events = Vec::new();
        let mut wire: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut input: Option<Vec<u8>> = None;
        while now <= limit {
            let output = client.step(at(now), input.as_deref());
            events.extend(output.events);
            if let Some(lease) = output.lease {
                assert_eq!(client.deadline(), None);
                return (Some((now, lease)), events);
            }
            if let Some(frame) = output.frame {
                wire.extend(
                    reply(&frame, now).into_iter().map(|(delay, answer)| (now + delay, answer)),
                );
            }
            wire.sort_by_key(|(time, _)| *time);
            let timer = client.deadline().unwrap().millis();
            if wire.first().is_some_and(|(time, _)| *time <= timer) {
                let (time, answer) = wire.remove(0);
                now = time.max(now);
                input = Some(answer);
            } else {
                assert!(timer > now, "a deadline that has passed would spin");
                now = timer;
                input = None;
            }
        }
        (None, events)
    }

    /// A well-behaved server.
    fn serve(frame: &[u8], server: Ipv4Addr, options: &[(u8, &[u8])]) -> Vec<u8> {
        let kind = match option(frame, 53).as_deref() {
            Some([1]) => 2,
            Some([3]) => 5,
            other => panic!("{other:?}"),
        };
        answer(Some(kind), transaction(frame), server, OURS, options)
    }

    #[test]
    fn four_messages_make_a_lease() {
        let mut asked = Vec::new();
        let (done, events) = simulate(client(Needs::default()), 1000, &mut |frame, _| {
            asked.push(frame.to_vec());
            vec![(5, serve(frame, SERVER, &[MASK]))]
        });
        let (time, lease) = done.unwrap();
        assert_eq!(time, 10);
        assert_eq!(lease.address, OURS);
        assert_eq!(lease.prefix, Some(24));
        assert_eq!(lease.server, SERVER);
        assert_eq!(events, [Event::Asking]);
        assert_eq!(asked.len(), 2);
        assert_eq!(option(&asked[0], 61).unwrap(), [&[1][..], &MAC].concat());
        assert_eq!(option(&asked[0], 50), None);
        assert_eq!(option(&asked[1], 50).unwrap(), OURS.octets());
        assert_eq!(option(&asked[1], 54).unwrap(), SERVER.octets());
        assert_eq!(option(&asked[1], 80), None);
    }

    #[test]
    fn rapid_commit_takes_two() {
        let mut asked = 0;
        let (done, _) = simulate(client(Needs::default()), 1000, &mut |frame, _| {
            asked += 1;
            vec![(5, answer(Some(5), transaction(frame), SERVER, OURS, &[MASK, (80, &[])]))]
        });
        assert_eq!((done.unwrap().0, asked), (5, 1));
    }

    #[test]
    fn an_unasked_confirmation_is_not_believed() {
        let (done, _) = simulate(client(Needs::default()), 3000, &mut |frame, _| {
            vec![(5, answer(Some(5), transaction(frame), SERVER, OURS, &[MASK]))]
        });
        assert_eq!(done, None);
    }

    #[test]
    fn a_silent_server_is_asked_for_ever_and_heard_within_the_cap() {
        let mut asked = Vec::new();
        let (done, events) = simulate(client(Needs::default()), 60_000, &mut |frame, now| {
            asked.push((now, broadcast_flag(frame)));
            if now < 20_000 { Vec::new() } else { vec![(1, serve(frame, SERVER, &[MASK]))] }
        });
        let (time, _) = done.unwrap();
        assert!((20_000..24_600).contains(&time), "{time}");
        let pauses: Vec<u64> = asked.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!((1000..1256).contains(&pauses[0]) && (2000..2256).contains(&pauses[1]));
        assert!(pauses.iter().all(|pause| *pause <= 4256));
        assert!(asked[0].1 && !asked[1].1 && asked[2].1, "the broadcast flag alternates");
        let remarks: Vec<_> =
            events.iter().filter(|event| matches!(event, Event::NoAnswer { .. })).collect();
        assert!((3..=5).contains(&remarks.len()), "{events:?}");
        assert_eq!(
            remarks[0].to_string(),
            "no answer from DHCP yet, asked 2 times in 3 s",
            "{events:?}"
        );
    }

    #[test]
    fn a_refusal_starts_anew_with_another_transaction() {
        let mut refused = 0;
        let mut ids = Vec::new();
        let (done, events) = simulate(client(Needs::default()), 60_000, &mut |frame, _| {
            ids.push(transaction(frame));
            if option(frame, 53).as_deref() == Some(&[3]) && refused < 3 {
                refused += 1;
                let message: (u8, &[u8]) = (56, b"address in use");
                return vec![(
                    2,
                    answer(Some(6), transaction(frame), SERVER, Ipv4Addr::UNSPECIFIED, &[message]),
                )];
            }
            vec![(2, serve(frame, SERVER, &[MASK]))]
        });
        // 0 s, 1 s, 2 s pauses
        assert!((3000..4000).contains(&done.unwrap().0));
        assert_eq!(refused, 3);
        ids.dedup();
        assert_eq!(ids.len(), 4);
        assert!(events.iter().any(|event| event.to_string()
            == "10.0.0.1 refused the address (address in use), asking anew"));
    }

    #[test]
    fn a_refusal_from_a_stranger_changes_nothing() {
        let (done, events) = simulate(client(Needs::default()), 60_000, &mut |frame, _| {
            let mut answers = vec![(4, serve(frame, SERVER, &[MASK]))];
            if option(frame, 53).as_deref() == Some(&[3]) {
                let nak = answer(Some(6), transaction(frame), OTHER, Ipv4Addr::UNSPECIFIED, &[]);
                answers.push((1, nak));
            }
            answers
        });
        assert_eq!(done.unwrap().0, 8);
        assert!(matches!(events[1], Event::Ignored { server: OTHER, .. }), "{events:?}");
    }

    #[test]
    fn the_first_good_offer_wins_and_others_are_noted() {
        let (done, events) =
            simulate(client(Needs::default()), 60_000, &mut |frame, _| match option(frame, 53)
                .as_deref()
            {
                Some([1]) => vec![
                    (3, serve(frame, SERVER, &[MASK])),
                    (4, serve(frame, OTHER, &[MASK])),
                    (4, serve(frame, SERVER, &[MASK])),
                ],
                _ => vec![(5, serve(frame, SERVER, &[MASK])), (5, serve(frame, SERVER, &[MASK]))],
            });
        assert_eq!(done.unwrap().1.server, SERVER);
        assert_eq!(
            events[1..],
            [Event::Ignored { server: OTHER, why: "another server's offer was taken" }]
        );
    }

    #[test]
    fn an_offer_with_the_root_path_beats_an_earlier_one_without() {
        let needs = Needs { root_path: true, boot_server: false };
        let (done, events) =
            simulate(client(needs), 60_000, &mut |frame, _| match option(frame, 53).as_deref() {
                Some([1]) => vec![
                    (3, serve(frame, OTHER, &[MASK])),
                    (900, serve(frame, SERVER, &[MASK, ROOT])),
                ],
                _ => vec![(5, serve(frame, SERVER, &[MASK, ROOT]))],
            });
        let (time, lease) = done.unwrap();
        assert_eq!((time, lease.server), (905, SERVER));
        assert_eq!(lease.root_path, "10.0.0.9:/srv/live");
        assert!(matches!(events[1], Event::Kept { server: OTHER, .. }), "{events:?}");
    }

    #[test]
    fn an_offer_without_it_is_taken_after_a_while() {
        let needs = Needs { root_path: true, boot_server: false };
        let (done, _) = simulate(client(needs), 60_000, &mut |frame, _| {
            vec![(3, serve(frame, OTHER, &[MASK]))]
        });
        assert_eq!(done.unwrap().0, 3 + 2000 + 3);
    }

    #[test]
    fn bootp_is_taken_when_no_dhcp_server_speaks() {
        let bootp = |frame: &[u8]| answer(None, transaction(frame), OTHER, OURS, &[MASK]);
        let (done, _) =
            simulate(client(Needs::default()), 60_000, &mut |frame, _| vec![(3, bootp(frame))]);
        let (time, lease) = done.unwrap();
        assert_eq!((time, lease.bootp, lease.server), (2003, true, OTHER));
        let (done, _) = simulate(client(Needs::default()), 60_000, &mut |frame, _| {
            vec![(3, bootp(frame)), (50, serve(frame, SERVER, &[MASK]))]
        });
        assert_eq!(done.unwrap().1.server, SERVER);
    }

    #[test]
    fn proxies_without_an_address_are_no_offers() {
        let (done, events) = simulate(client(Needs::default()), 60_000, &mut |frame, _| {
            let proxy = answer(Some(2), transaction(frame), OTHER, Ipv4Addr::UNSPECIFIED, &[MASK]);
            vec![(1, proxy), (5, serve(frame, SERVER, &[MASK]))]
        });
        assert_eq!(done.unwrap().1.server, SERVER);
        assert!(events.iter().any(|event| matches!(event, Event::Ignored { server: OTHER, .. })));
    }

    /// The client took it, and its requests went to itself.
    #[test]
    fn the_servers_own_address_is_not_taken() {
        let (done, events) = simulate(client(Needs::default()), 60_000, &mut |frame, _| {
            let kind = if option(frame, 53).as_deref() == Some(&[1]) { 2 } else { 5 };
            let own = answer(Some(kind), transaction(frame), OTHER, OTHER, &[MASK]);
            vec![(1, own), (5, serve(frame, SERVER, &[MASK]))]
        });
        assert_eq!(done.unwrap().1.address, OURS);
        let why = "answer from 10.0.0.2 ignored: it offers the server's own address";
        assert!(events.iter().any(|event| event.to_string() == why), "{events:?}");
    }

    /// The console had a line for each, and the failure screen knew of no server.
    #[test]
    fn refusals_without_end_are_said_once_and_remembered() {
        let mut client = client(Needs::default());
        let mut said = Vec::new();
        let mut frame = client.step(at(0), None).frame;
        for now in (0..60_000).step_by(10) {
            let sent = frame.take();
            let heard = sent.map(|sent| {
                let kind = option(&sent, 53).filter(|kind| kind == &[3]).map_or(2, |_| 6);
                answer(Some(kind), transaction(&sent), SERVER, OURS, &[MASK])
            });
            let output = client.step(at(now), heard.as_deref());
            said.extend(output.events.iter().map(ToString::to_string));
            frame = output.frame;
        }
        let refusal = "10.0.0.1 refused the address, asking anew";
        assert_eq!(said.iter().filter(|line| *line == refusal).count(), 1, "{said:?}");
        assert!(said.iter().any(|line| line.starts_with("no lease from DHCP yet")), "{said:?}");
        assert_eq!(client.trouble().map(ToString::to_string).as_deref(), Some(refusal));
    }

    #[test]
    fn an_unreadable_answer_is_named_once() {
        let (done, events) = simulate(client(Needs::default()), 30_000, &mut |frame, now| {
            if now > 10_000 {
                return vec![(1, serve(frame, SERVER, &[MASK]))];
            }
            let whole = serve(frame, OTHER, &[MASK]);
            let bootp = whole.get(42..42 + 239).unwrap();
            vec![(1, wrap(bootp, OTHER))]
        });
        assert_eq!(done.unwrap().1.server, SERVER);
        let ignored = events.iter().filter(|event| matches!(event, Event::Ignored { .. }));
        assert_eq!(ignored.count(), 1, "{events:?}");
    }

    #[test]
    fn a_server_that_offers_and_falls_silent_does_not_hold_us() {
        let (done, events) =
            simulate(client(Needs::default()), 60_000, &mut |frame, now| match option(frame, 53)
                .as_deref()
            {
                Some([3]) if now < 12_000 => Vec::new(),
                _ => vec![(1, serve(frame, SERVER, &[MASK]))],
            });
        // Three requests, 1 + 2 + 4 s; then another round.
        assert!((14_000..17_000).contains(&done.unwrap().0), "{events:?}");
        assert_eq!(
            events.iter().filter(|event| **event == Event::Unconfirmed { server: SERVER }).count(),
            1
        );
    }

    #[test]
    fn a_confirmation_that_comes_late_counts() {
        let (done, events) = simulate(client(Needs::default()), 60_000, &mut |frame, _| {
            match option(frame, 53).as_deref() {
                Some([3]) => vec![(7500, serve(frame, SERVER, &[MASK]))],
                // The offer is not repeated, so only the late confirmation can end it.
                _ if frame[51] < 3 => vec![(1, serve(frame, SERVER, &[MASK]))],
                _ => Vec::new(),
            }
        });
        assert!((7500..7700).contains(&done.unwrap().0), "{events:?}");
        assert!(events.contains(&Event::Unconfirmed { server: SERVER }));
    }

    #[test]
    fn lost_and_late_answers_are_survived() {
        // Every second frame is lost, answers take 1.5 s: longer than the first pause.
        let mut count = 0;
        let (done, _) = simulate(client(Needs::default()), 60_000, &mut |frame, _| {
            count += 1;
            if count % 2 == 0 {
                return Vec::new();
            }
            vec![(1500, serve(frame, SERVER, &[MASK]))]
        });
        assert!(done.unwrap().0 < 10_000);
    }

    #[test]
    fn a_restart_asks_at_once() {
        let mut client = client(Needs::default());
        assert!(client.step(at(0), None).frame.is_some());
        assert!(client.step(at(10), None).frame.is_none());
        client.restart(at(20));
        assert!(client.step(at(20), None).frame.is_some());
    }

    #[test]
    fn the_line_shapes_the_question() {
        let mut identity = Identity::new(MAC);
        identity.client_id = vec![0, b'a', b'b'];
        identity.vendor_class = "anaconda".to_owned();
        identity.hostname = Some("pc7".to_owned());
        identity.requested = Some(OURS);
        let frame = Client::new(identity, Needs::default(), 1).step(at(0), None).frame.unwrap();
        assert_eq!(option(&frame, 61).unwrap(), b"\0ab");
        assert_eq!(option(&frame, 60).unwrap(), b"anaconda");
        assert_eq!(option(&frame, 12).unwrap(), b"pc7");
        assert_eq!(option(&frame, 50).unwrap(), OURS.octets());
        assert!(option(&frame, 55).unwrap().contains(&121));
    }

    proptest! {
        /// Whatever arrives, and whenever: no panic, no spinning, still asking.
        #[test]
        fn garbage_never_stops_it(
            frames in proptest::collection::vec(
                (0u64..3000, 0u8..8, proptest::collection::vec(any::<u8>(), 0..80)), 0..40)
        ) {
            let mut client = client(Needs { root_path: true, boot_server: true });
            let mut now = 0;
            client.step(at(0), None);
            for (pause, kind, options) in frames {
                now += pause;
                let mut frame = answer(Some(kind), 77, SERVER, OURS, &[]);
                let place = frame.len().min(14 + 20 + 8 + 240 + 9);
                for (to, from) in frame[place..].iter_mut().zip(options) {
                    *to = from;
                }
                let output = client.step(at(now), Some(&frame));
                if output.lease.is_some() {
                    prop_assert_eq!(client.deadline(), None);
                    break;
                }
                prop_assert!(client.deadline().is_some_and(|deadline| deadline > at(now)));
            }
        }
    }
}
