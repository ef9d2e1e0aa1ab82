//! A client: takes the stream from its parent, hands it to its children, and
//! keeps it.
//!
//! The data itself does not pass through here: the caller moves it from the
//! parent's data connection to the children's and to the store, and says how
//! much there was. That leaves it free to splice.

use super::config::{Config, Line};
use super::{AGREED, KEY_LINE, MAX_CONFIG, NAME, password_proof};
use crate::Error;
use crate::digest::Digest;
use crate::guard::Kept;
use crate::outcome::Patience;
use crate::pact::{Key, Mac, Nonce, Pact, hex, same, unhex};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The parent's control connection brought this.
    Parent(&'a [u8]),
    /// The parent's control connection is closed.
    ParentClosed,
    /// Both connections to a child stand.
    Connected(usize),
    /// A child's control connection brought this.
    Child(usize, &'a [u8]),
    /// A child's connection is closed, or could not be made.
    ChildClosed(usize, &'a str),
    /// So many bytes of data have been received in all.
    Received(u64),
    /// The parent's data connection has ended.
    DataEnd,
    /// All was stored; or could not be.
    Stored(Result<Kept, &'a str>),
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send to the parent's control connection.
    ToParent(Vec<u8>),
    /// Send to a child's control connection.
    ToChild(usize, Vec<u8>),
    /// The configuration is known: open the target, and connect to these
    /// children, data first, then control.
    Configured {
        /// The configuration.
        config: Box<Config>,
        /// Our place in its list.
        index: usize,
        /// Children, by their place in the list.
        children: Vec<usize>,
        /// The stream is a tar archive to be unpacked in the target directory.
        directories: bool,
    },
    /// The stream's length is known, and [`Client::digest`] if it was told.
    Length(u64),
    /// The parent does not know the key, or wants one: close its connections, and wait for
    /// another.
    Refused(Error),
    /// All data has come: end the children's data connections, and store.
    Complete(u64),
    /// All is over, and well.
    Finished {
        /// The digest was compared with the server's.
        verified: bool,
    },
}

/// What the client needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// The names by which this node may be listed: host name, addresses.
    pub names: Vec<String>,
    /// The password, if there is one.
    pub password: Option<String>,
    /// Random bytes for the question to children.
    pub nonce: [u8; 32],
    /// Until a server comes, and while nothing moves.
    pub patience: Patience,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    First,
    /// The parent has sent the session's nonce and was sent ours.
    Greeted,
    Nonce,
    Granted,
    Mode,
    Text,
    Connecting,
    Running,
    Storing,
    Acknowledging,
    Finished,
}

/// Where a child's set-up stands.
#[derive(Debug, Default)]
struct Child {
    index: usize,
    subtree: usize,
    connected: bool,
    ready: bool,
    /// Bytes of its proof or acknowledgement.
    buffer: Vec<u8>,
    /// When the mode and text may follow the "OK".
    text_at: Option<Duration>,
    acknowledged: bool,
    reports: usize,
    gone: bool,
}

/// Old clients read "OK" with a large buffer: what follows at once is lost.
const SEPARATE: Duration = Duration::from_millis(100);
/// A file without its last line end is complete when nothing follows for this
/// long.
const NO_MORE: Duration = Duration::from_millis(300);
const MAX_LINE: usize = 4096;
/// A node that stores says so often that it does.
const BUSY: Duration = Duration::from_secs(20);

/// The client's state machine.
#[derive(Debug)]
pub struct Client {
    options: Options,
    state: State,
    buffer: Vec<u8>,
    suse: bool,
    text: String,
    open_ended: Option<Duration>,
    line_end_due: bool,
    name: String,
    verify: bool,
    directories: bool,
    children: Vec<Child>,
    length: Option<u64>,
    digest: Option<[u8; 32]>,
    key: Option<(Key, Nonce)>,
    pact: Option<Pact>,
    received: u64,
    own: Option<Result<Kept, String>>,
    /// When the server is next told that this node still works on its copy.
    works: Duration,
    failure: Option<Error>,
    /// What an old chain acknowledges in the place of the length: a node behind has no copy.
    missing: Option<u64>,
    moved: Duration,
    out: VecDeque<Output>,
    hosts: usize,
    subtree: usize,
    reports: usize,
}

impl Client {
    /// A client that begins to wait for its parent at `now`.
    #[must_use]
    pub fn new(options: Options, now: Duration) -> Self {
        Self {
            options,
            state: State::First,
            buffer: Vec::new(),
            suse: false,
            text: String::new(),
            open_ended: None,
            line_end_due: false,
            name: String::new(),
            verify: false,
            directories: false,
            children: Vec::new(),
            length: None,
            digest: None,
            key: None,
            pact: None,
            received: 0,
            own: None,
            works: now,
            failure: None,
            missing: None,
            moved: now,
            out: VecDeque::new(),
            hosts: 0,
            subtree: 1,
            reports: 0,
        }
    }

    /// The same, for a parent that knows this key; the nonce was never used before.
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
        let limit = if matches!(self.state, State::First | State::Greeted) {
            self.options.patience.start
        } else {
            self.options.patience.stall
        };
        let stall = limit.map(|t| self.moved + t).filter(|_| self.state != State::Finished);
        let text = self.children.iter().filter_map(|c| c.text_at).min();
        let open = self.open_ended.map(|t| t + NO_MORE);
        let working = self.digest.is_some() && self.state == State::Storing;
        let busy = working.then(|| self.works + BUSY);
        [stall, text, open, busy].into_iter().flatten().min()
    }

    /// Tells the client what happened.
    ///
    /// # Errors
    /// Any [`Error`] of a copy that this machine does not have whole. Dolly has no recovery.
    pub fn step(&mut self, input: Input<'_>, now: Duration) -> Result<(), Error> {
        if !matches!(input, Input::Tick) {
            self.moved = now;
        }
        match input {
            Input::Parent(bytes) => match self.parent(bytes, now) {
                Err(why) if self.password() => self.refuse(why),
                outcome => outcome?,
            },
            Input::ParentClosed if self.state == State::Greeted => {
                self.refuse(crate::error::OTHER_KEY);
            }
            Input::ParentClosed if self.password() => {
                self.refuse(self.gone("the parent's control connection"));
            }
            Input::ParentClosed => {
                if !matches!(self.state, State::Finished) {
                    return Err(self.gone("the parent's control connection"));
                }
            }
            Input::Connected(index) => {
                if let Some(i) = self.children.iter().position(|c| c.index == index) {
                    self.connected(i);
                }
            }
            Input::Child(index, bytes) => {
                if let Some(i) = self.children.iter().position(|c| c.index == index) {
                    self.child(i, bytes, now)?;
                }
            }
            Input::ChildClosed(index, why) => {
                if let Some(child) = self.children.iter_mut().find(|c| c.index == index) {
                    child.gone = true;
                    let done = child.acknowledged || child.reports >= child.subtree;
                    if !done && self.state != State::Finished {
                        let peer = format!("the next node in the chain ({why})");
                        return Err(self.gone(&peer));
                    }
                }
            }
            Input::Received(bytes) => self.received = bytes,
            Input::DataEnd => {
                if self.length.is_some_and(|n| n != self.received)
                    && matches!(self.state, State::Running)
                {
                    return Err(Error::Lost {
                        protocol: NAME,
                        after: self.received,
                        why: "the parent has closed the connection before the end",
                    });
                }
            }
            Input::Stored(how) => {
                // A node that cannot store still relays: those behind it need
                // not suffer.
                self.own.get_or_insert(how.map_err(ToOwned::to_owned));
            }
            Input::Tick => {}
        }
        self.advance(now)
    }

    /// Whether the parent has not got past the password. Anyone can come so far: who fails
    /// there is no reason to end.
    const fn password(&self) -> bool {
        matches!(self.state, State::Nonce | State::Granted)
    }

    fn gone(&self, peer: &str) -> Error {
        let when = match self.state {
            State::First | State::Greeted => "before it said what to copy",
            State::Nonce | State::Granted | State::Mode | State::Text => "during the set-up",
            State::Connecting => "while the chain was built",
            State::Running => "during the transfer; this protocol has no recovery",
            State::Storing | State::Acknowledging | State::Finished => {
                "before it confirmed the end"
            }
        };
        Error::Gone { protocol: NAME, peer: peer.to_owned(), when }
    }

    fn peer(&self, why: &'static str) -> Error {
        Error::Peer { protocol: NAME, peer: "the parent".to_owned(), why }
    }

    fn say(&mut self, text: String) {
        self.out.push_back(Output::ToParent(text.into_bytes()));
    }

    fn parent(&mut self, bytes: &[u8], now: Duration) -> Result<(), Error> {
        if self.buffer.len() + bytes.len() > MAX_CONFIG + 64 {
            return Err(self.peer("it sends more before the data than a configuration has"));
        }
        self.buffer.extend_from_slice(bytes);
        loop {
            match self.state {
                State::First => {
                    let Some(first) = self.buffer.first().copied() else { return Ok(()) };
                    if let Some(way) = self.greeting(first) {
                        match way {
                            Some(state) => self.state = state,
                            None => return Ok(()),
                        }
                        continue;
                    }
                    self.suse = true;
                    self.buffer.remove(0);
                    self.state = if first == 1 { State::Nonce } else { State::Mode };
                    if first == 1 && self.options.password.is_none() {
                        return Err(Error::Unfit {
                            what: "the server's password question",
                            why: "no password was given; name it with -P",
                        });
                    }
                }
                State::Greeted => {
                    let Some(end) = self.text_end() else { return Ok(()) };
                    let Some(line) = self.key_line() else { return Ok(()) };
                    let text = self.buffer.get(..end - line.1).unwrap_or_default();
                    let code: Option<Mac> = unhex(&line.0);
                    let right = self.key.as_ref().zip(self.pact.as_ref());
                    let right = right.map(|((_, nonce), pact)| pact.announce(nonce, text));
                    if !code.zip(right).is_some_and(|(code, right)| same(&code, &right)) {
                        self.refuse(crate::error::OTHER_KEY);
                        return Ok(());
                    }
                    self.state = State::Text;
                }
                State::Nonce => {
                    let Some(nonce) = self.buffer.first_chunk::<32>().copied() else {
                        return Ok(());
                    };
                    self.buffer.drain(..32);
                    let password = self.options.password.as_deref().unwrap_or_default();
                    let proof = password_proof(password, &nonce);
                    self.out.push_back(Output::ToParent(proof.to_vec()));
                    self.state = State::Granted;
                }
                State::Granted => {
                    if b"AUTH_FAILED".starts_with(self.buffer.get(..11).unwrap_or(&self.buffer))
                        && !self.buffer.is_empty()
                    {
                        return Err(self.peer("it does not accept the password"));
                    }
                    let Some(ok) = self.buffer.first_chunk::<3>() else { return Ok(()) };
                    if ok != b"OK\0" {
                        return Err(self.peer("it answers the password with something else"));
                    }
                    self.buffer.drain(..3);
                    self.state = State::Mode;
                }
                State::Mode => {
                    let Some(mode) = self.buffer.first_chunk::<4>() else { return Ok(()) };
                    match u32::from_le_bytes(*mode) {
                        0 => {}
                        1 => self.directories = true,
                        _ => return Err(self.peer("it asks for an unknown mode")),
                    }
                    self.buffer.drain(..4);
                    self.state = State::Text;
                }
                State::Text => {
                    let Some(end) = self.text_end() else {
                        if self.buffer.len() > MAX_CONFIG {
                            return Err(self.peer("its configuration has no end"));
                        }
                        let open = self.buffer.ends_with(b"endconfig");
                        self.open_ended = open.then_some(now);
                        return Ok(());
                    };
                    return self.configure(end);
                }
                State::Connecting | State::Running => return self.length(),
                State::Storing | State::Acknowledging | State::Finished => {
                    self.buffer.clear();
                    return Ok(());
                }
            }
        }
    }

    /// A line of the key's, off the beginning of the buffer, and its length.
    fn key_line(&mut self) -> Option<(String, usize)> {
        let end = self.buffer.iter().position(|b| *b == b'\n')? + 1;
        let line: Vec<u8> = self.buffer.drain(..end).collect();
        let line = String::from_utf8_lossy(&line);
        let words = line.strip_prefix(KEY_LINE).unwrap_or_default().trim_end();
        Some((words.to_owned(), end))
    }

    /// What the parent's first bytes mean for a key: the state that follows, or that more is
    /// needed. Nothing when they are openSUSE's, and there is no key.
    fn greeting(&mut self, first: u8) -> Option<Option<State>> {
        let begins = self.buffer.get(..self.buffer.len().min(KEY_LINE.len())).unwrap_or_default();
        let keyed = KEY_LINE.as_bytes().starts_with(begins);
        match (&self.key, keyed) {
            (None, false) => return (first > 1).then_some(Some(State::Text)),
            (Some(_), false) => self.refuse(crate::error::NO_KEY),
            _ if !self.buffer.contains(&b'\n') => {}
            (None, true) => self.refuse(crate::error::KEY_WANTED),
            (Some((key, nonce)), true) => {
                let (key, nonce) = (key.clone(), *nonce);
                let session = self.key_line().and_then(|line| unhex(&line.0));
                let Some(session) = session else {
                    self.refuse(crate::error::NO_KEY);
                    return Some(None);
                };
                let pact = Pact::new(key, NAME, session);
                self.say(format!("{KEY_LINE}{} {}\n", hex(&nonce), hex(&pact.answer(&nonce))));
                self.pact = Some(pact);
                return Some(Some(State::Greeted));
            }
        }
        Some(None)
    }

    /// This parent is none; another may come.
    fn refuse(&mut self, why: Error) {
        self.buffer.clear();
        self.pact = None;
        self.suse = false;
        self.state = State::First;
        self.out.push_back(Output::Refused(why));
    }

    /// Where the configuration ends, if its last line is complete.
    fn text_end(&self) -> Option<usize> {
        let mut start = 0;
        for line in self.buffer.split_inclusive(|b| *b == b'\n') {
            start += line.len();
            if line.starts_with(b"endconfig") && line.ends_with(b"\n") {
                return Some(start);
            }
        }
        None
    }

    fn configure(&mut self, end: usize) -> Result<(), Error> {
        let rest = self.buffer.split_off(end.min(self.buffer.len()));
        let text = core::mem::replace(&mut self.buffer, rest);
        self.open_ended = None;
        self.line_end_due = !text.ends_with(b"\n");
        let Ok(text) = String::from_utf8(text) else {
            return Err(self.peer("its configuration is not text"));
        };
        let config = Config::parse(&text)?;
        if config.line == Line::Classic && self.options.names.contains(&config.server) {
            return Err(Error::Unfit {
                what: "this machine",
                why: "is the server of the configuration that it was sent",
            });
        }
        let Some(index) = config.find(&self.options.names) else {
            return Err(Error::Unfit {
                what: "this machine",
                why: "is not in the list of clients that it was sent; by which name should it be?",
            });
        };
        self.name = config.hosts.get(index).cloned().unwrap_or_default();
        self.verify = config.verify && !self.suse;
        self.hosts = config.hosts.len();
        self.subtree = config.subtree(index).len();
        self.text = text;
        if self.suse {
            self.say(format!(
                "Client {} configured with parameters. Ready to proceed.\n",
                self.name
            ));
        } else {
            self.say(format!("Host got parameters '{}'.\n", self.name));
            if self.verify {
                self.say(format!("Host verifies '{}'.\n", self.name));
            }
        }
        let children = config.children(Some(index));
        self.children = children
            .iter()
            .map(|i| Child { index: *i, subtree: config.subtree(*i).len(), ..Child::default() })
            .collect();
        let directories = self.directories;
        self.state = State::Connecting;
        self.out.push_back(Output::Configured {
            config: Box::new(config),
            index,
            children,
            directories,
        });
        Ok(())
    }

    fn connected(&mut self, i: usize) {
        let (suse, password, nonce) =
            (self.suse, self.options.password.is_some(), self.options.nonce);
        let text = self.text.clone().into_bytes();
        let mode = u32::from(self.directories).to_le_bytes();
        let Some(child) = self.children.get_mut(i) else { return };
        if child.connected {
            return;
        }
        child.connected = true;
        let mut send = |bytes| self.out.push_back(Output::ToChild(child.index, bytes));
        if let Some(pact) = &self.pact {
            send(format!("{KEY_LINE}{}\n", hex(pact.session())).into_bytes());
        } else if !suse {
            send(text);
            child.ready = true;
        } else if password {
            send(alloc::vec![1]);
            send(nonce.to_vec());
        } else {
            send(alloc::vec![0]);
            send(mode.to_vec());
            send(text);
            child.ready = true;
        }
    }

    fn child(&mut self, i: usize, bytes: &[u8], now: Duration) -> Result<(), Error> {
        let Some(child) = self.children.get_mut(i) else { return Ok(()) };
        child.buffer.extend_from_slice(bytes);
        if child.buffer.len() > MAX_LINE {
            return Err(Error::Peer {
                protocol: NAME,
                peer: "the next node".to_owned(),
                why: "its answers have no end",
            });
        }
        if let Some(pact) = self.pact.as_ref().filter(|_| !child.ready) {
            let Some(code) = super::answered(pact, &mut child.buffer, &self.text) else {
                return Ok(());
            };
            let Some(code) = code else {
                return Err(Error::Peer {
                    protocol: NAME,
                    peer: "the next node".to_owned(),
                    why: "it does not know the key",
                });
            };
            child.ready = true;
            let text = code + &self.text;
            self.out.push_back(Output::ToChild(child.index, text.into_bytes()));
            return Ok(());
        }
        if !child.ready {
            // The proof of a password.
            if child.text_at.is_none()
                && let Some(proof) = child.buffer.first_chunk::<32>()
            {
                let password = self.options.password.as_deref().unwrap_or_default();
                if *proof != password_proof(password, &self.options.nonce) {
                    let no = format!("AUTH_FAILED:{}\0", self.name);
                    self.out.push_back(Output::ToChild(child.index, no.into_bytes()));
                    return Err(Error::Peer {
                        protocol: NAME,
                        peer: "the next node".to_owned(),
                        why: "it has another password",
                    });
                }
                child.buffer.drain(..32);
                child.text_at = Some(now + SEPARATE);
                self.out.push_back(Output::ToChild(child.index, b"OK\0".to_vec()));
            }
            return Ok(());
        }
        if self.length.is_none() {
            // Before the length all that comes is text for the server.
            let text = core::mem::take(&mut child.buffer);
            self.out.push_back(Output::ToParent(text));
            return Ok(());
        }
        if self.digest.is_some() {
            while let Some(end) = child.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = child.buffer.drain(..=end).collect();
                // Another line says that a node is still busy.
                let report = [&b"Host verified"[..], b"Host stored", b"Host failed"];
                if report.iter().any(|report| line.starts_with(report)) {
                    child.reports += 1;
                    self.reports += 1;
                }
                self.out.push_back(Output::ToParent(line));
            }
            return Ok(());
        }
        if let Some(ack) = child.buffer.first_chunk::<8>() {
            let ack = u64::from_le_bytes(*ack);
            if Some(ack) != self.length {
                // A node behind has no copy. This one's is not worse for it.
                self.missing = Some(ack);
            }
            child.acknowledged = true;
        }
        Ok(())
    }

    /// The length, and where it was agreed on the digest.
    fn length(&mut self) -> Result<(), Error> {
        if self.line_end_due
            && matches!(self.buffer.first(), Some(b'\n'))
            && self.buffer.len() % 8 == 1
        {
            self.buffer.remove(0);
        }
        if self.length.is_some() {
            return Ok(());
        }
        let Some(raw) = self.buffer.first_chunk::<8>() else { return Ok(()) };
        let raw = u64::from_le_bytes(*raw);
        let mut length = raw;
        let mut message = 8;
        if self.verify && raw & AGREED != 0 {
            let Some(digest) = self.buffer.get(8..40).and_then(|d| d.try_into().ok()) else {
                return Ok(());
            };
            length = raw & !AGREED;
            message = 40;
            if let Some(pact) = &self.pact {
                let Some(code) = self.buffer.get(40..56) else { return Ok(()) };
                message = 56;
                if !same(code, &pact.end(0, &Digest { bytes: length, blake3: digest })) {
                    return Err(crate::error::NO_CODE);
                }
            }
            self.digest = Some(digest);
        } else if self.pact.is_some() {
            return Err(crate::error::NO_CODE);
        }
        if length >= AGREED {
            return Err(self.peer("it announces a negative length"));
        }
        let message: Vec<u8> = self.buffer.drain(..message).collect();
        self.length = Some(length);
        for child in &self.children {
            self.out.push_back(Output::ToChild(child.index, message.clone()));
        }
        self.out.push_back(Output::Length(length));
        Ok(())
    }

    /// Everything has come and the store has ended: what of our own copy.
    fn stored(&mut self, own: Result<Kept, String>) {
        let name = self.name.clone();
        let verdict = match (&own, self.digest) {
            (Ok(Kept { digest, .. }), Some(expected)) if digest.blake3 != expected => {
                self.failure = Some(Error::Mismatch { bytes: digest.bytes });
                format!("Host failed '{name}': it has other bytes.\n")
            }
            (Ok(Kept { read_back: true, .. }), _) => format!("Host verified '{name}'.\n"),
            (Ok(_), _) => format!("Host stored '{name}'.\n"),
            (Err(why), _) => {
                self.failure = Some(Error::Store { why: why.clone() });
                let line: String = why.chars().filter(|c| !c.is_control()).take(200).collect();
                format!("Host failed '{name}': {line}\n")
            }
        };
        // Old servers know no such words.
        if self.digest.is_some() {
            self.reports += 1;
            self.say(super::coded(self.pact.as_ref(), verdict));
        }
    }

    fn advance(&mut self, now: Duration) -> Result<(), Error> {
        if self.open_ended.is_some_and(|t| now.saturating_sub(t) >= NO_MORE) {
            self.configure(self.buffer.len())?;
        }
        for i in 0..self.children.len() {
            let mode = u32::from(self.directories).to_le_bytes();
            let Some(child) = self.children.get_mut(i) else { break };
            if child.text_at.is_some_and(|t| t <= now) {
                child.text_at = None;
                child.ready = true;
                let mut message = mode.to_vec();
                message.extend_from_slice(self.text.as_bytes());
                self.out.push_back(Output::ToChild(child.index, message));
            }
        }
        if self.state == State::Connecting && self.children.iter().all(|c| c.ready) {
            self.state = State::Running;
            let text = if self.suse {
                format!("Client {} ready.\n", self.name)
            } else {
                format!("Host ready '{}'.\n", self.name)
            };
            self.say(text);
        }
        if self.state == State::Running
            && let Some(length) = self.length
        {
            if self.received > length {
                return Err(self.peer("it sends more data than it says"));
            }
            if self.received == length {
                self.state = State::Storing;
                self.out.push_back(Output::Complete(length));
            }
        }
        let working = self.digest.is_some() && self.state == State::Storing;
        if working && now.saturating_sub(self.works) >= BUSY {
            // A disk that is read back takes its time, and the others wait for it.
            self.works = now;
            self.say(format!("Host verifies '{}'.\n", self.name));
        }
        if self.state == State::Storing
            && let Some(own) = self.own.clone()
        {
            self.state = State::Acknowledging;
            self.stored(own);
        }
        if self.state == State::Acknowledging {
            let reported = self.digest.is_some() && self.reports >= self.subtree;
            let acknowledged =
                self.digest.is_none() && self.children.iter().all(|c| c.acknowledged);
            if (reported || acknowledged)
                && let Some(failure) = self.failure.take()
            {
                // An old parent acknowledges for a silent node. It sends on whatever length it is
                // told, and the old server compares that with its own.
                if !reported {
                    let wrong = if self.length == Some(0) { u64::MAX } else { 0 };
                    self.out.push_back(Output::ToParent(wrong.to_le_bytes().to_vec()));
                }
                self.state = State::Finished;
                return Err(failure);
            }
            if self.digest.is_some() {
                if reported {
                    self.state = State::Finished;
                    self.out.push_back(Output::Finished { verified: true });
                } else if let Some(child) =
                    self.children.iter().find(|c| c.gone && c.reports < c.subtree)
                {
                    let peer = format!("client {}", child.index);
                    return Err(self.gone(&peer));
                }
            } else if acknowledged {
                self.state = State::Finished;
                let length = self.missing.or(self.length).unwrap_or(0);
                self.out.push_back(Output::ToParent(length.to_le_bytes().to_vec()));
                self.out.push_back(Output::Finished { verified: false });
            }
        }
        let patience = self.options.patience;
        let (limit, waiting_for) = match self.state {
            State::First | State::Greeted => (patience.start, "dolly server"),
            State::Finished | State::Storing => (None, ""),
            State::Acknowledging => (patience.stall, "acknowledgement of the next node"),
            _ => (patience.stall, "data"),
        };
        Error::stalled(NAME, waiting_for, (self.moved, limit), now)
    }

    /// The stream's digest, once the server has told it.
    #[must_use]
    pub const fn digest(&self) -> Option<[u8; 32]> {
        self.digest
    }

    /// How many clients there are, for the user.
    #[must_use]
    pub const fn clients(&self) -> usize {
        self.hosts
    }

    /// The name by which this node is listed.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.to_string()
    }
}
