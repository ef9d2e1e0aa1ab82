//! A client: gets data from the node that the server names, passes it on to
//! the nodes that connect to it, and keeps it.
//!
//! The data does not pass through here: the caller moves it, and says how far
//! it is.

use super::wire::{Layout, Report, ToClient, ToServer, VERSION, Verdict};
use super::{NAME, REPORT_EACH, question};
use crate::Error;
use crate::digest::Digest;
use crate::guard::{Announcement, Kept};
use crate::outcome::Patience;
use crate::pact::{Key, Nonce, Pact, same};
use alloc::borrow::ToOwned;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// An answer came to the discovery's port.
    Answer(Ipv4Addr, &'a [u8]),
    /// The control connection to the server stands.
    ServerConnected,
    /// It brought this.
    Server(&'a [u8]),
    /// It is closed, or could not be made.
    ServerClosed(&'a str),
    /// The data connection to the parent stands.
    ParentConnected,
    /// It has ended, or could not be made.
    ParentClosed,
    /// So many bytes have been received in all.
    Received(u64),
    /// A node has connected to our data port.
    ChildCame(Ipv4Addr),
    /// All was stored; or could not be.
    Stored(Result<Kept, &'a str>),
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send to everybody's UDP port 4957.
    Ask(Vec<u8>),
    /// Connect to this server's control port.
    ConnectServer(Ipv4Addr),
    /// Send to the server.
    ToServer(Vec<u8>),
    /// Connect to this node's data port, instead of any other.
    ConnectParent(Ipv4Addr),
    /// Write to the parent, so that the connection is not thought dead.
    KeepAlive(Vec<u8>),
    /// Send the stream to this child, from this position on.
    Send(Ipv4Addr, u64),
    /// Close the connection to this child.
    Drop(Ipv4Addr),
    /// All data has come: end the children's connections when they have it
    /// too, and store.
    Complete(u64),
    /// All is over, and well.
    Finished {
        /// The digest was compared with the server's.
        verified: bool,
    },
}

/// What a client needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// The session's name.
    pub session: String,
    /// The server, when it is known.
    pub server: Option<Ipv4Addr>,
    /// The layout to begin with; the other is tried after a refusal.
    pub layout: Layout,
    /// Stay until the server says to finish: others may still need us.
    pub wait: bool,
    /// Ask for the start with those that are there.
    pub go_now: bool,
    /// How often to ask for a server, a second apart.
    pub tries: u32,
    /// Until data flows once the server is found, which waits for other clients; and while
    /// nothing moves.
    pub patience: Patience,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asking,
    Connecting,
    /// With a key: the server has not shown that it knows it.
    Greeting,
    Attached,
    Storing,
    Waiting,
    Finished,
}

/// Old programs ask once a second; all nodes wait for the last one's question.
const ASK_EACH: Duration = Duration::from_millis(250);
const ASKED_A_TRY: u32 = 4;
/// After a refusal.
const AGAIN: Duration = Duration::from_secs(1);
const KEEP_ALIVE: Duration = Duration::from_secs(50);
/// An old server says nothing to a client that has a key.
const GREETING: Duration = Duration::from_secs(10);

/// The client's state machine.
#[derive(Debug)]
pub struct Client {
    options: Options,
    layout: Layout,
    state: State,
    server: Option<Ipv4Addr>,
    refused: u32,
    asked: u32,
    next_ask: Duration,
    buffer: Vec<u8>,
    heard: bool,
    parent: Option<Ipv4Addr>,
    linked: bool,
    received: u64,
    reported: u64,
    report: bool,
    digest: Option<[u8; 32]>,
    key: Option<(Key, Nonce)>,
    pact: Option<Pact>,
    told: Announcement,
    own: Option<Result<Kept, String>>,
    verdict: Option<Result<bool, Error>>,
    moved: Duration,
    alive: Duration,
    out: VecDeque<Output>,
}

impl Client {
    /// A client that begins to look for its server at `now`.
    #[must_use]
    pub fn new(options: Options, now: Duration) -> Self {
        let mut client = Self {
            layout: options.layout,
            state: State::Asking,
            server: options.server,
            refused: 0,
            asked: 0,
            next_ask: now,
            buffer: Vec::new(),
            heard: false,
            parent: None,
            linked: false,
            received: 0,
            reported: 0,
            report: false,
            digest: None,
            key: None,
            pact: None,
            told: Announcement::default(),
            own: None,
            verdict: None,
            moved: now,
            alive: now,
            out: VecDeque::new(),
            options,
        };
        if let Some(server) = client.server {
            client.state = State::Connecting;
            client.out.push_back(Output::ConnectServer(server));
        }
        client
    }

    /// The same, for a server that knows this key; the nonce was never used before.
    #[must_use]
    pub fn keyed(mut self, key: Option<(Key, Nonce)>) -> Self {
        self.key = key;
        self
    }

    /// The next thing to do.
    pub fn output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When [`Input::Tick`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let ask = (self.state == State::Asking).then_some(self.next_ask);
        let alive = self.linked.then(|| self.alive + KEEP_ALIVE);
        let stall = self.limit().0.map(|limit| self.moved + limit);
        [ask, alive, stall].into_iter().flatten().min()
    }

    /// What the server has told of the stream.
    #[must_use]
    pub const fn announced(&self) -> Announcement {
        Announcement {
            sender: self.server,
            bytes: self.told.bytes,
            blake3: if self.digest.is_some() { self.digest } else { self.told.blake3 },
        }
    }

    /// The server, once it is found.
    #[must_use]
    pub const fn server(&self) -> Option<Ipv4Addr> {
        self.server
    }

    const fn limit(&self) -> (Option<Duration>, &'static str) {
        let Patience { start, stall } = self.options.patience;
        match self.state {
            State::Asking | State::Finished | State::Storing => (None, ""),
            State::Greeting => (Some(GREETING), "word of a KA server that knows the key"),
            State::Connecting | State::Attached if self.received == 0 => {
                (start, "start by the KA server")
            }
            State::Waiting => (stall, "word from the KA server to finish"),
            _ => (stall, "data"),
        }
    }

    fn say(&mut self, message: ToServer) {
        self.out.push_back(Output::ToServer(message.bytes(self.layout)));
    }

    /// Tells the client what happened.
    ///
    /// # Errors
    /// [`Error::Stalled`], [`Error::Gone`], [`Error::Peer`], [`Error::Mismatch`] or
    /// [`Error::Store`]: this machine has no whole copy.
    pub fn step(&mut self, input: Input<'_>, now: Duration) -> Result<(), Error> {
        if !matches!(input, Input::Tick | Input::Answer(..) | Input::Received(_)) {
            self.moved = now;
        }
        match input {
            Input::Answer(from, bytes) => {
                if self.state == State::Asking && bytes == VERSION {
                    self.server = Some(from);
                    self.state = State::Connecting;
                    self.moved = now;
                    self.out.push_back(Output::ConnectServer(from));
                }
            }
            Input::ServerConnected => self.greet(),
            Input::Server(bytes) => self.hear(bytes, now)?,
            Input::ServerClosed(why) => self.left(why, now)?,
            Input::ParentConnected => {
                self.linked = true;
                self.alive = now;
            }
            Input::ParentClosed => {
                if let Some(dad) = self.parent.take() {
                    self.linked = false;
                    let position = self.received;
                    self.say(ToServer::DadDisconnected { dad, position });
                }
            }
            Input::Received(bytes) => {
                if bytes > self.received {
                    self.received = bytes;
                    self.moved = now;
                    self.alive = now;
                }
                if self.report && self.received - self.reported >= REPORT_EACH {
                    self.reported = self.received;
                    self.say(ToServer::ReportsPosition(self.received));
                }
            }
            Input::ChildCame(child) => self.say(ToServer::GotClient(child)),
            Input::Stored(how) => {
                self.own.get_or_insert(how.map_err(ToOwned::to_owned));
                self.judge();
            }
            Input::Tick => {}
        }
        self.advance(now)
    }

    fn greet(&mut self) {
        if self.state != State::Connecting {
            return;
        }
        let nonce = self.key.as_ref().map(|(_, nonce)| *nonce);
        self.say(ToServer::Hello { verifies: true, told: true, nonce });
        if nonce.is_some() {
            self.state = State::Greeting;
        } else {
            self.attach();
        }
    }

    fn attach(&mut self) {
        self.state = State::Attached;
        self.say(ToServer::Options { will_wait: self.options.wait });
        self.say(ToServer::AcceptsData);
        if self.options.go_now {
            self.say(ToServer::GoNow);
        }
    }

    fn left(&mut self, why: &str, now: Duration) -> Result<(), Error> {
        match self.state {
            State::Finished => Ok(()),
            // Compiled the other way, it does not understand us.
            State::Connecting | State::Greeting | State::Attached if !self.heard => {
                self.refused += 1;
                if self.refused > self.options.tries.max(1) {
                    return Err(match self.state {
                        State::Greeting => crate::error::NO_KEY,
                        _ => self.gone(why, "before the start"),
                    });
                }
                if self.state != State::Connecting {
                    self.layout = match self.layout {
                        Layout::I386 => Layout::Lp64,
                        Layout::Lp64 => Layout::I386,
                    };
                }
                self.buffer.clear();
                self.state = State::Asking;
                self.next_ask = now + AGAIN;
                if self.options.server.is_none() {
                    self.server = None;
                }
                Ok(())
            }
            // A server that does not wait for us may leave when we are done.
            State::Waiting => match self.verdict.take() {
                Some(Ok(verified)) => {
                    self.state = State::Finished;
                    self.out.push_back(Output::Finished { verified });
                    Ok(())
                }
                Some(Err(e)) => Err(e),
                None => Err(self.gone(why, "before it said whether that was all")),
            },
            State::Storing => Ok(()),
            _ => Err(self.gone(why, "during the transfer")),
        }
    }

    fn gone(&self, why: &str, when: &'static str) -> Error {
        let server = self.server.map_or_else(String::new, |s| format!(" {s}"));
        Error::Gone { protocol: NAME, peer: format!("the server{server} ({why})"), when }
    }

    fn hear(&mut self, bytes: &[u8], now: Duration) -> Result<(), Error> {
        self.buffer.extend_from_slice(bytes);
        loop {
            let Ok(word) = ToClient::parse(self.layout, &self.buffer) else {
                return Err(Error::Peer {
                    protocol: NAME,
                    peer: "the server".to_owned(),
                    why: "it sends an unknown packet",
                });
            };
            let Some((word, len)) = word else { return Ok(()) };
            self.buffer.drain(..len);
            self.heard = true;
            if self.state == State::Greeting && !matches!(word, ToClient::Announce(..)) {
                return Err(crate::error::NO_KEY);
            }
            match word {
                ToClient::Go => {}
                ToClient::Announce(told, pact) => self.announced_by(told, pact)?,
                ToClient::Ping => self.say(ToServer::PingReply),
                ToClient::GivesIp(parent) => {
                    self.parent = Some(parent);
                    self.linked = false;
                    self.out.push_back(Output::ConnectParent(parent));
                }
                ToClient::ReportPosition(how) => {
                    self.report = how == Report::Regularly;
                    if how != Report::Never {
                        self.reported = self.received;
                        self.say(ToServer::ReportsPosition(self.received));
                    }
                }
                ToClient::GivesAuth(child, position) => {
                    self.out.push_back(Output::Send(child, position));
                    self.say(ToServer::GotClient(child));
                }
                ToClient::DropChild(child) => self.out.push_back(Output::Drop(child)),
                ToClient::Digest(digest, code) => {
                    let end = Digest { bytes: self.received, blake3: digest };
                    let right = self.pact.as_ref().map(|pact| pact.end(0, &end));
                    if right.is_some_and(|right| !code.is_some_and(|code| same(&code, &right))) {
                        return Err(crate::error::NO_CODE);
                    }
                    self.digest = Some(digest);
                }
                ToClient::EndOfFlow if self.pact.is_some() && self.digest.is_none() => {
                    return Err(crate::error::NO_CODE);
                }
                ToClient::EndOfFlow => {
                    if self.state == State::Attached {
                        self.state = State::Storing;
                        self.out.push_back(Output::Complete(self.received));
                        self.judge();
                    }
                }
                ToClient::Finish => {
                    if self.state != State::Waiting {
                        return Err(self.gone("it says to finish", "before the end"));
                    }
                    self.left("", now)?;
                }
            }
        }
    }

    /// The server is one of ours: what it tells, and whether it knows the key.
    fn announced_by(
        &mut self,
        told: Announcement,
        pact: Option<(Nonce, crate::pact::Mac)>,
    ) -> Result<(), Error> {
        match (self.key.clone(), pact) {
            (None, None) => {}
            (None, Some(_)) => return Err(crate::error::KEY_WANTED),
            (Some(_), None) => return Err(crate::error::NO_KEY),
            (Some((key, nonce)), Some((session, code))) => {
                let pact = Pact::new(key, NAME, session);
                if !same(&code, &pact.announce(&nonce, &told.bytes())) {
                    return Err(crate::error::OTHER_KEY);
                }
                if self.state == State::Greeting {
                    self.say(ToServer::Answer(pact.answer(&nonce)));
                    self.attach();
                }
                self.pact = Some(pact);
            }
        }
        self.told = told;
        Ok(())
    }

    /// The end has come and the store has ended: what of our own copy.
    fn judge(&mut self) {
        if self.state != State::Storing {
            return;
        }
        let Some(own) = self.own.clone() else { return };
        self.state = State::Waiting;
        let equal = match (&own, self.digest) {
            (Ok(own), Some(expected)) => Some(own.digest.blake3 == expected),
            (Ok(_), None) => None,
            (Err(_), _) => Some(false),
        };
        let read_back = own.as_ref().is_ok_and(|own| own.read_back);
        self.verdict = Some(match (own, equal) {
            (Err(why), _) => Err(Error::Store { why }),
            (Ok(own), Some(false)) => Err(Error::Mismatch { bytes: own.digest.bytes }),
            (Ok(_), equal) => Ok(equal == Some(true)),
        });
        // An old server takes any last word for success: say none.
        if self.digest.is_some() || !matches!(self.verdict, Some(Err(_))) {
            let verdict = match equal {
                Some(true) if read_back => Verdict::ReadBack,
                Some(true) => Verdict::Equal,
                Some(false) => Verdict::Unequal,
                None => Verdict::Old,
            };
            let code = self.key.as_ref().zip(self.pact.as_ref());
            let code = code.map(|((_, nonce), pact)| pact.verdict(nonce, &verdict.word()));
            self.say(ToServer::HasFinished(verdict, code.unwrap_or_default()));
        }
    }

    fn advance(&mut self, now: Duration) -> Result<(), Error> {
        if self.state == State::Asking && now >= self.next_ask {
            if let Some(server) = self.server {
                self.state = State::Connecting;
                self.out.push_back(Output::ConnectServer(server));
            } else if self.asked > self.options.tries.saturating_mul(ASKED_A_TRY) {
                return Err(Error::Stalled {
                    protocol: NAME,
                    waiting_for: "answer of a KA server for this session",
                    waited: ASK_EACH * self.asked,
                    why: String::new(),
                });
            } else {
                self.asked += 1;
                self.next_ask = now + ASK_EACH;
                self.out.push_back(Output::Ask(question(&self.options.session)));
            }
        }
        if self.state == State::Waiting
            && (!self.options.wait
                || (matches!(self.verdict, Some(Err(_))) && self.digest.is_none()))
        {
            match self.verdict.take() {
                Some(Ok(verified)) => {
                    self.state = State::Finished;
                    self.out.push_back(Output::Finished { verified });
                }
                Some(Err(e)) => return Err(e),
                None => {}
            }
        }
        if self.linked && now.saturating_sub(self.alive) >= KEEP_ALIVE {
            self.alive = now;
            self.out.push_back(Output::KeepAlive(1234u32.to_le_bytes().to_vec()));
        }
        if self.state == State::Greeting && now.saturating_sub(self.moved) >= GREETING {
            return Err(crate::error::NO_KEY);
        }
        let (limit, waiting_for) = self.limit();
        Error::stalled(NAME, waiting_for, (self.moved, limit), now)
    }
}
