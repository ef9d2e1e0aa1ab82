//! The server: gives the stream to its children and waits for all to confirm.
//!
//! As with the client, the data does not pass through here.

use super::config::{Config, Line};
use super::{AGREED, KEY_LINE, MAX_CONFIG, NAME, password_proof};
use crate::Error;
use crate::digest::Digest;
use crate::outcome::{Patience, Standing};
use crate::pact::{Pact, hex};
use alloc::borrow::ToOwned;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// Both connections to a child stand.
    Connected(usize),
    /// A child's control connection brought this.
    Child(usize, &'a [u8]),
    /// A child's connection is closed, or could not be made.
    ChildClosed(usize, &'a str),
    /// So many bytes of data have been sent in all.
    Sent(u64),
    /// The source has ended; all of it is sent.
    End(Digest),
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Connect to this client, data first, then control.
    Connect(usize),
    /// Send to a child's control connection.
    ToChild(usize, Vec<u8>),
    /// A client has said this.
    Said(String),
    /// All clients are ready: send the data to all children.
    Begin,
    /// End the data connections.
    EndData,
    /// All is over.
    Finished,
}

/// What the server needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// The password that clients must prove; only with the new line.
    pub password: Option<String>,
    /// Random bytes for the question.
    pub nonce: [u8; 32],
    /// Until all clients are ready, and while nothing moves.
    pub patience: Patience,
    /// The stream is a tar archive of directories.
    pub directories: bool,
}

#[derive(Debug, Default)]
struct Child {
    index: usize,
    connected: bool,
    configured: bool,
    text_at: Option<Duration>,
    buffer: Vec<u8>,
    acknowledged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Building,
    Running,
    Ending,
    Finished,
}

/// As for the client.
const SEPARATE: Duration = Duration::from_millis(100);

/// A text of exactly one Ethernet segment makes old clients wait for more; one blank more is
/// what old servers send too.
fn segmented(mut text: String) -> String {
    if text.len() == 1448 {
        text.push(' ');
    }
    text
}

/// The server's state machine.
#[derive(Debug)]
pub struct Server {
    options: Options,
    config: Config,
    text: String,
    state: State,
    children: Vec<Child>,
    clients: Vec<Standing>,
    verifying: Vec<bool>,
    agreed: bool,
    pact: Option<Pact>,
    digest: Option<Digest>,
    started: Duration,
    moved: Duration,
    out: VecDeque<Output>,
}

impl Server {
    /// A server for `config`, whose file is `text`. What clients get is that
    /// text; with `verify`, the classic line's last line says so.
    ///
    /// # Errors
    /// [`Error::Unfit`] when the configuration has no place for a password.
    pub fn new(
        mut config: Config,
        text: &str,
        verify: bool,
        options: Options,
        now: Duration,
    ) -> Result<Self, Error> {
        if options.password.is_some() && config.line == Line::Classic {
            return Err(Error::Unfit {
                what: "a password",
                why: "needs the new configuration without server and clients lines",
            });
        }
        let mut text = text.to_owned();
        if verify && config.line == Line::Classic && !config.verify {
            config.verify = true;
            text = config.text();
        }
        let text = segmented(text);
        let children: Vec<Child> = config
            .children(None)
            .into_iter()
            .map(|index| Child { index, ..Child::default() })
            .collect();
        let out = children.iter().map(|c| Output::Connect(c.index)).collect();
        let count = config.hosts.len();
        Ok(Self {
            options,
            config,
            text,
            state: State::Building,
            children,
            clients: alloc::vec![Standing::Silent; count],
            verifying: alloc::vec![false; count],
            agreed: false,
            pact: None,
            digest: None,
            started: now,
            moved: now,
            out,
        })
    }

    /// The same, for a stream of this length, and clients that know this pact's key.
    ///
    /// # Errors
    /// [`Error::Unfit`] when the configuration has no place for a key.
    pub fn telling(mut self, bytes: Option<u64>, pact: Option<Pact>) -> Result<Self, Error> {
        if pact.is_some() && !self.config.verify {
            return Err(Error::Unfit {
                what: "a key",
                why: "needs the old configuration with server and clients lines, and digests",
            });
        }
        if self.config.verify && bytes.is_some() {
            let told = Config { bytes, ..self.config.clone() };
            let text = segmented(told.text());
            if text.len() <= MAX_CONFIG {
                (self.config, self.text) = (told, text);
            }
        }
        self.pact = pact;
        Ok(self)
    }

    /// The next thing to do.
    pub fn output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When [`Input::Tick`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let limit = match self.state {
            State::Building => self.options.patience.start.map(|t| self.started + t),
            State::Finished => None,
            _ => self.options.patience.stall.map(|t| self.moved + t),
        };
        let text = self.children.iter().filter_map(|c| c.text_at).min();
        [limit, text].into_iter().flatten().min()
    }

    /// All clients in order and how it stands with them.
    pub fn clients(&self) -> impl Iterator<Item = (&str, &Standing)> {
        self.config.hosts.iter().map(String::as_str).zip(&self.clients)
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Tells the server what happened.
    ///
    /// # Errors
    /// [`Error::Gone`] when a client has gone, [`Error::Stalled`] when nothing moves,
    /// [`Error::Peer`] when a client does not keep to the protocol. Dolly has no recovery.
    pub fn step(&mut self, input: Input<'_>, now: Duration) -> Result<(), Error> {
        if !matches!(input, Input::Tick) {
            self.moved = now;
        }
        match input {
            Input::Connected(index) => self.connected(index),
            Input::Child(index, bytes) => self.child(index, bytes, now)?,
            Input::ChildClosed(index, why) => {
                let open = self.children.iter().any(|c| c.index == index && !c.acknowledged);
                if self.state == State::Ending && self.agreed {
                    // The others' reports still count.
                    for node in self.config.subtree(index) {
                        if let Some(client) = self.clients.get_mut(node)
                            && *client == Standing::Receiving
                        {
                            *client = Standing::Failed(format!("lost before it reported ({why})"));
                        }
                    }
                } else if open && self.state != State::Finished {
                    let name = self.config.hosts.get(index).cloned().unwrap_or_default();
                    return Err(Error::Gone {
                        protocol: NAME,
                        peer: format!("client {name} ({why})"),
                        when: match self.state {
                            State::Building => "while the chain was built",
                            State::Running => "during the transfer; this protocol has no recovery",
                            _ => "before it confirmed the end",
                        },
                    });
                }
            }
            Input::Sent(_) | Input::Tick => {}
            Input::End(digest) => self.end(digest),
        }
        self.advance(now)
    }

    fn connected(&mut self, index: usize) {
        let suse = self.config.line == Line::Suse;
        let mode = u32::from(self.options.directories).to_le_bytes();
        let Some(child) = self.children.iter_mut().find(|c| c.index == index) else { return };
        if child.connected {
            return;
        }
        child.connected = true;
        let mut send = |bytes| self.out.push_back(Output::ToChild(index, bytes));
        if let Some(pact) = &self.pact {
            send(format!("{KEY_LINE}{}\n", hex(pact.session())).into_bytes());
        } else if !suse {
            send(self.text.clone().into_bytes());
            child.configured = true;
        } else if self.options.password.is_some() {
            send(alloc::vec![1]);
            send(self.options.nonce.to_vec());
        } else {
            send(alloc::vec![0]);
            send(mode.to_vec());
            send(self.text.clone().into_bytes());
            child.configured = true;
        }
    }

    fn child(&mut self, index: usize, bytes: &[u8], now: Duration) -> Result<(), Error> {
        let Some(child) = self.children.iter_mut().find(|c| c.index == index) else {
            return Ok(());
        };
        child.buffer.extend_from_slice(bytes);
        if child.buffer.len() > 4096 {
            return Err(Error::Peer {
                protocol: NAME,
                peer: "a client".to_owned(),
                why: "its answers have no end",
            });
        }
        if let Some(pact) = self.pact.as_ref().filter(|_| !child.configured) {
            let Some(code) = super::answered(pact, &mut child.buffer, &self.text) else {
                return Ok(());
            };
            let Some(code) = code else {
                let peer = self.config.hosts.get(index).cloned().unwrap_or_default();
                return Err(Error::Peer { protocol: NAME, peer, why: "it does not know the key" });
            };
            child.configured = true;
            self.out.push_back(Output::ToChild(index, (code + &self.text).into_bytes()));
            return Ok(());
        }
        if !child.configured {
            if child.text_at.is_none()
                && let Some(proof) = child.buffer.first_chunk::<32>()
            {
                let password = self.options.password.as_deref().unwrap_or_default();
                if *proof != password_proof(password, &self.options.nonce) {
                    let no = b"AUTH_FAILED:server\0".to_vec();
                    self.out.push_back(Output::ToChild(index, no));
                    let peer = self.config.hosts.get(index).cloned().unwrap_or_default();
                    return Err(Error::Peer {
                        protocol: NAME,
                        peer,
                        why: "it has another password",
                    });
                }
                child.buffer.drain(..32);
                child.text_at = Some(now + SEPARATE);
                self.out.push_back(Output::ToChild(index, b"OK\0".to_vec()));
            }
            return Ok(());
        }
        if self.state == State::Ending && !self.agreed {
            if let Some(ack) = child.buffer.first_chunk::<8>() {
                let length = self.digest.map_or(0, |d| d.bytes);
                if u64::from_le_bytes(*ack) != length {
                    return Err(Error::Peer {
                        protocol: NAME,
                        peer: "a client".to_owned(),
                        why: "it acknowledges another length than was sent",
                    });
                }
                child.acknowledged = true;
            }
            return Ok(());
        }
        let mut lines = Vec::new();
        while let Some(end) = child.buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = child.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            lines.push(line.chars().filter(|c| !c.is_control()).collect::<String>());
        }
        for line in lines {
            self.said(&line);
            self.out.push_back(Output::Said(line));
        }
        Ok(())
    }

    /// Makes sense of a client's line. Names are compared whole: counting the
    /// word "ready", as old servers do, counts hosts of that name twice.
    fn said(&mut self, line: &str) {
        let reports = ["Host verified '", "Host stored '", "Host failed '"];
        let report = reports.iter().any(|report| line.starts_with(report));
        let pact = self.pact.as_ref().filter(|_| report);
        let forged = pact.is_some_and(|pact| !super::has_code(pact, line));
        // Behind a report is its code.
        let line = pact.and_then(|_| line.rsplit_once(' ')).map_or(line, |(text, _)| text);
        let quoted = |start: &str| {
            line.strip_prefix(start).and_then(|r| r.split_once('\'')).map(|(name, _)| name)
        };
        let client = |end: &str| line.strip_prefix("Client ").and_then(|r| r.strip_suffix(end));
        let found =
            |name: &str| self.config.hosts.iter().position(|h| h.trim_end() == name.trim_end());
        let (name, standing) = if forged {
            let name = line.split('\'').nth(1).unwrap_or_default();
            (name, Standing::failed("its report has not the code of the key"))
        } else if let Some(name) = quoted("Host got parameters '")
            .or(client(" configured with parameters. Ready to proceed."))
        {
            (name, Standing::Waiting)
        } else if let Some(name) = quoted("Host ready '").or(client(" ready.")) {
            (name, Standing::Receiving)
        } else if let Some(name) = quoted("Host verified '") {
            (name, Standing::Verified)
        } else if let Some(name) = quoted("Host stored '") {
            (name, Standing::Whole)
        } else if let Some(name) = quoted("Host failed '") {
            let why = line.split_once("': ").map_or("", |(_, why)| why);
            (name, Standing::failed(why))
        } else {
            if let Some(i) = quoted("Host verifies '").and_then(found)
                && let Some(flag) = self.verifying.get_mut(i)
            {
                *flag = true;
            }
            return;
        };
        // A node may call itself by another of its names: then it is the first
        // of which that has not been heard.
        let expected = match standing {
            Standing::Waiting => Standing::Silent,
            Standing::Receiving => Standing::Waiting,
            _ => Standing::Receiving,
        };
        let at = found(name).or_else(|| self.clients.iter().position(|c| *c == expected));
        if let Some(client) = at.and_then(|i| self.clients.get_mut(i)) {
            *client = standing;
        }
    }

    fn end(&mut self, digest: Digest) {
        if self.state != State::Running {
            return;
        }
        self.digest = Some(digest);
        let mut message = digest.bytes.to_le_bytes().to_vec();
        if self.agreed {
            message = (digest.bytes | AGREED).to_le_bytes().to_vec();
            message.extend_from_slice(&digest.blake3);
            message.extend(self.pact.iter().flat_map(|pact| pact.end(0, &digest)));
        }
        for child in &self.children {
            self.out.push_back(Output::ToChild(child.index, message.clone()));
        }
        self.out.push_back(Output::EndData);
        self.state = State::Ending;
    }

    fn advance(&mut self, now: Duration) -> Result<(), Error> {
        let mode = u32::from(self.options.directories).to_le_bytes();
        for child in &mut self.children {
            if child.text_at.is_some_and(|t| t <= now) {
                child.text_at = None;
                child.configured = true;
                let mut message = mode.to_vec();
                message.extend_from_slice(self.text.as_bytes());
                self.out.push_back(Output::ToChild(child.index, message));
            }
        }
        match self.state {
            State::Building => {
                if self.clients.iter().all(|c| *c == Standing::Receiving) {
                    self.state = State::Running;
                    self.agreed = self.config.verify && self.verifying.iter().all(|v| *v);
                    self.out.push_back(Output::Begin);
                }
            }
            State::Ending => {
                let reported = |c: &Standing| {
                    matches!(c, Standing::Verified | Standing::Whole | Standing::Failed(_))
                };
                if self.agreed && self.clients.iter().all(reported) {
                    self.state = State::Finished;
                    self.out.push_back(Output::Finished);
                } else if !self.agreed && self.children.iter().all(|c| c.acknowledged) {
                    self.clients.iter_mut().for_each(|c| *c = Standing::Acknowledged);
                    self.state = State::Finished;
                    self.out.push_back(Output::Finished);
                }
            }
            State::Running | State::Finished => {}
        }
        let Patience { start, stall } = self.options.patience;
        match self.state {
            State::Building => Error::stalled(NAME, "ready clients", (self.started, start), now),
            State::Finished => Ok(()),
            _ => Error::stalled(NAME, "progress", (self.moved, stall), now),
        }
    }
}
