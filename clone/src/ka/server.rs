//! The server: gathers clients, lays out the chain, mends it, and knows which clients
//! have everything.
//!
//! It is the first parent itself: its own data connections are the caller's,
//! told apart by address like everybody's.

use super::wire::{Layout, Report, ToClient, ToServer, VERSION, Verdict};
use super::{AHEAD, MAX_CLIENTS, NAME, question};
use crate::Error;
use crate::digest::Digest;
use crate::guard::Announcement;
use crate::outcome::{Patience, Standing};
use crate::pact::{Nonce, Pact, same};
use alloc::borrow::ToOwned;
use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A client looks for a server.
    Question(Ipv4Addr, &'a [u8]),
    /// A control connection was accepted: its number, the peer, and our own
    /// address as the peer sees it.
    Accepted(usize, Ipv4Addr, Ipv4Addr),
    /// It brought this.
    Client(usize, &'a [u8]),
    /// It is closed.
    Closed(usize, &'a str),
    /// A node has connected to our data port.
    ChildCame(Ipv4Addr),
    /// The source has ended.
    End(Digest),
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send to this client's UDP port 4958.
    Answer(Ipv4Addr, Vec<u8>),
    /// Send to a control connection.
    ToClient(usize, Vec<u8>),
    /// Close a control connection.
    Close(usize),
    /// Send the stream to this child of ours, from this position on.
    Send(Ipv4Addr, u64),
    /// Close the connection to this child of ours.
    Drop(Ipv4Addr),
    /// The user should know.
    Say(String),
    /// All nodes are in their places: start the source. No more clients come.
    Begin,
    /// All is over.
    Finished,
}

/// What a server needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// The session's name.
    pub session: String,
    /// How many clients it waits for.
    pub clients: usize,
    /// Children of each node, 1 to 4.
    pub arity: usize,
    /// Compare digests with clients that can.
    pub verify: bool,
    /// Until all clients have come, and while nothing moves.
    pub patience: Patience,
}

/// Where a node's link to its parent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// It was told its parent.
    Told,
    /// It is connected; its position was asked for.
    Asked,
    /// Its parent was told to send.
    Granted,
    /// Data flows.
    Up,
    /// It has lost its parent, which is still there.
    Lost(Duration),
    /// It has all.
    Ended,
}

#[derive(Debug)]
struct Node {
    connection: usize,
    ip: Ipv4Addr,
    own: Ipv4Addr,
    layout: Option<Layout>,
    buffer: Vec<u8>,
    verifies: bool,
    nonce: Option<Nonce>,
    /// It knows the key, where there is one.
    proved: bool,
    accepts: bool,
    parent: Option<usize>,
    link: Link,
    position: u64,
    reporting: bool,
    again: u32,
    heard: Duration,
    pinged: bool,
    standing: Standing,
}

impl Node {
    const fn there(&self) -> bool {
        !matches!(self.standing, Standing::Lost(_))
    }
}

const PING_AFTER: Duration = Duration::from_secs(10);
const DROP_AFTER: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(1);
const MAX_BUFFER: usize = 4096;

/// The server's state machine.
#[derive(Debug)]
pub struct Server {
    options: Options,
    nodes: Vec<Node>,
    laid_out: bool,
    begun: bool,
    end: Option<Digest>,
    told: Announcement,
    pact: Option<Pact>,
    finished: bool,
    started: Duration,
    moved: Duration,
    out: VecDeque<Output>,
}

impl Server {
    /// A server that begins to wait for clients at `now`.
    ///
    /// # Errors
    /// [`Error::Unfit`] when the number of clients or of children is out of range.
    pub fn new(options: Options, now: Duration) -> Result<Self, Error> {
        if options.clients == 0 || options.clients > MAX_CLIENTS {
            return Err(Error::Unfit {
                what: "the number of clients",
                why: "must be 1 to 300, as KA has it",
            });
        }
        if !(1..=4).contains(&options.arity) {
            return Err(Error::Unfit { what: "the arity", why: "must be 1 to 4" });
        }
        Ok(Self {
            options,
            nodes: Vec::new(),
            laid_out: false,
            begun: false,
            end: None,
            told: Announcement::default(),
            pact: None,
            finished: false,
            started: now,
            moved: now,
            out: VecDeque::new(),
        })
    }

    /// The same, for a stream of which this is known, and clients that know this pact's key.
    #[must_use]
    pub fn telling(mut self, told: Announcement, pact: Option<Pact>) -> Self {
        (self.told, self.pact) = (told, pact);
        self
    }

    /// The next thing to do.
    pub fn output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Up to which position of the stream the caller may go: as far as every
    /// node's children can still be given again what it loses.
    #[must_use]
    pub fn allowed(&self) -> u64 {
        if !self.begun {
            return 0;
        }
        let last = self.nodes.iter().filter(|n| n.there() && n.link != Link::Ended);
        last.map(|n| n.position).min().unwrap_or(u64::MAX - AHEAD).saturating_add(AHEAD)
    }

    /// When [`Input::Tick`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        if self.finished {
            return None;
        }
        let limit = if self.begun {
            self.options.patience.stall.map(|t| self.moved + t)
        } else {
            self.options.patience.start.map(|t| self.started + t)
        };
        let nodes = self.nodes.iter().filter(|n| n.there()).map(|n| match n.link {
            Link::Lost(since) => since + GRACE,
            _ => n.heard + if n.pinged { DROP_AFTER } else { PING_AFTER },
        });
        limit.into_iter().chain(nodes).min()
    }

    /// All clients that came, in the order of the chain, and how it stands.
    pub fn clients(&self) -> impl Iterator<Item = (Ipv4Addr, &Standing)> {
        self.nodes.iter().filter(|n| n.accepts).map(|n| (n.ip, &n.standing))
    }

    /// Tells the server what happened.
    ///
    /// # Errors
    /// [`Error::Gone`] when no client is left to send to, [`Error::Stalled`] when nothing
    /// moves.
    pub fn step(&mut self, input: Input<'_>, now: Duration) -> Result<(), Error> {
        match input {
            Input::Question(from, bytes) => {
                if !self.laid_out && bytes == question(&self.options.session).as_slice() {
                    self.out.push_back(Output::Answer(from, VERSION.to_vec()));
                }
            }
            Input::Accepted(connection, ip, own) => self.accepted(connection, ip, own, now),
            Input::Client(connection, bytes) => self.hear(connection, bytes, now),
            Input::Closed(connection, why) => {
                if let Some(i) = self.find(|n| n.connection == connection && n.there()) {
                    self.remove(i, why);
                }
            }
            Input::ChildCame(ip) => match self.find(|n| n.ip == ip && n.there()) {
                Some(i) if self.nodes.get(i).is_some_and(|n| n.parent.is_none()) => {
                    self.came(i);
                }
                _ => self.out.push_back(Output::Drop(ip)),
            },
            Input::End(digest) => {
                self.end = Some(digest);
                self.moved = now;
            }
            Input::Tick => {}
        }
        self.advance(now)
    }

    fn find(&self, is: impl Fn(&Node) -> bool) -> Option<usize> {
        self.nodes.iter().position(is)
    }

    fn say(&mut self, i: usize, message: ToClient) {
        if let Some(node) = self.nodes.get(i).filter(|n| n.there())
            && let Some(layout) = node.layout
        {
            self.out.push_back(Output::ToClient(node.connection, message.bytes(layout)));
        }
    }

    fn accepted(&mut self, connection: usize, ip: Ipv4Addr, own: Ipv4Addr, now: Duration) {
        // One machine, one place in the chain; an older connection is dead.
        if let Some(i) = self.find(|n| n.ip == ip && n.there() && !n.accepts) {
            self.remove(i, "it has connected again");
        }
        let taken = self.find(|n| n.ip == ip && n.there()).is_some();
        if self.laid_out || taken || self.nodes.len() >= 2 * MAX_CLIENTS {
            self.out.push_back(Output::Close(connection));
            return;
        }
        self.nodes.push(Node {
            connection,
            ip,
            own,
            layout: None,
            buffer: Vec::new(),
            verifies: false,
            nonce: None,
            proved: false,
            accepts: false,
            parent: None,
            link: Link::Told,
            position: 0,
            reporting: false,
            again: 0,
            heard: now,
            pinged: false,
            standing: Standing::Waiting,
        });
    }

    fn hear(&mut self, connection: usize, bytes: &[u8], now: Duration) {
        let Some(i) = self.find(|n| n.connection == connection && n.there()) else { return };
        let mut words = Vec::new();
        let mut wrong = None;
        if let Some(node) = self.nodes.get_mut(i) {
            node.heard = now;
            node.pinged = false;
            node.buffer.extend_from_slice(bytes);
            if node.layout.is_none() {
                match Layout::of_hello(&node.buffer) {
                    Ok(layout) => node.layout = layout,
                    Err(_) => wrong = Some("it is no KA client of version 0.6"),
                }
            }
            while let Some(layout) = node.layout
                && let Some(packet) = node.buffer.get(..layout.from_client())
            {
                match ToServer::parse(layout, packet) {
                    Some(word) => words.push(word),
                    None => wrong = Some("it sends an unknown packet"),
                }
                node.buffer.drain(..layout.from_client());
            }
            if node.buffer.len() > MAX_BUFFER {
                wrong = Some("its packets have no end");
            }
        }
        for word in words {
            self.heard(i, word, now);
        }
        if let Some(why) = wrong {
            self.out.push_back(Output::Close(connection));
            self.remove(i, why);
        }
    }

    fn heard(&mut self, i: usize, word: ToServer, now: Duration) {
        let total = self.end.map(|d| d.bytes);
        let Some(node) = self.nodes.get_mut(i) else { return };
        match word {
            ToServer::Hello { verifies, told, nonce } => {
                node.verifies = verifies && self.options.verify;
                node.nonce = nonce;
                // A client of our 0.1 takes no announcement.
                if told {
                    let nonce = nonce.unwrap_or_default();
                    let code = |pact: &Pact| pact.announce(&nonce, &self.told.bytes());
                    let pact = self.pact.as_ref().map(|pact| (*pact.session(), code(pact)));
                    self.say(i, ToClient::Announce(self.told, pact));
                }
            }
            ToServer::Answer(code) => {
                let right = node.nonce.zip(self.pact.as_ref()).map(|(n, pact)| pact.answer(&n));
                node.proved = right.is_some_and(|right| same(&code, &right));
            }
            ToServer::AcceptsData => self.accepts(i, now),
            ToServer::Options { .. } => {}
            // It has everything, and stores it or reads it back.
            ToServer::PingReply if node.link == Link::Ended => self.moved = now,
            ToServer::PingReply => {}
            ToServer::GoNow if !self.laid_out => self.lay_out(now),
            ToServer::GoNow => {}
            ToServer::ReportsPosition(position) => self.reports(i, position, now),
            ToServer::GotClient(ip) => self.got(i, ip),
            ToServer::DadDisconnected { position, .. } => {
                node.position = node.position.max(position);
                if total == Some(position) {
                    self.ended(i);
                } else {
                    node.link = Link::Lost(now);
                }
            }
            ToServer::HasFinished(verdict, code) => {
                let right = node.nonce.zip(self.pact.as_ref());
                let right = right.map(|(nonce, pact)| pact.verdict(&nonce, &verdict.word()));
                node.standing = match verdict {
                    _ if right.is_some_and(|right| !same(&code, &right)) => {
                        Standing::failed("its last word has not the code of the key")
                    }
                    Verdict::ReadBack if node.verifies => Standing::Verified,
                    Verdict::Equal if node.verifies => Standing::Whole,
                    Verdict::Unequal => Standing::failed("could not store it, or has other bytes"),
                    _ => Standing::Acknowledged,
                };
                node.link = Link::Ended;
                self.moved = now;
            }
        }
    }

    /// A client is ready for data: it takes part, if it knows the key.
    fn accepts(&mut self, i: usize, now: Duration) {
        let Some(node) = self.nodes.get_mut(i) else { return };
        let (connection, ip) = (node.connection, node.ip);
        if self.pact.is_some() && !node.proved {
            let text = alloc::format!("{ip} is refused: it does not know the key");
            self.out.push_back(Output::Say(text));
            self.out.push_back(Output::Close(connection));
            return self.remove(i, "it does not know the key");
        }
        if node.accepts {
            return;
        }
        node.accepts = true;
        let count = self.nodes.iter().filter(|n| n.accepts && n.there()).count();
        let all = self.options.clients;
        self.out.push_back(Output::Say(alloc::format!("{ip} has come, {count} of {all}")));
        if count >= all && !self.laid_out {
            self.lay_out(now);
        }
    }

    /// A client has so many bytes; its parent goes on from there if that was asked.
    fn reports(&mut self, i: usize, position: u64, now: Duration) {
        let Some(node) = self.nodes.get_mut(i) else { return };
        if position > node.position {
            node.position = position;
            self.moved = now;
        }
        if node.link != Link::Asked {
            return;
        }
        node.position = position;
        let (ip, parent) = (node.ip, node.parent);
        node.link = if parent.is_some() { Link::Granted } else { Link::Up };
        match parent {
            None => self.out.push_back(Output::Send(ip, position)),
            Some(parent) => self.say(parent, ToClient::GivesAuth(ip, position)),
        }
    }

    /// The node at this address has connected to a client.
    fn got(&mut self, i: usize, ip: Ipv4Addr) {
        match self.find(|n| n.ip == ip && n.there() && n.parent == Some(i)) {
            Some(child) => match self.nodes.get_mut(child) {
                Some(node) if node.link == Link::Granted => node.link = Link::Up,
                _ => self.came(child),
            },
            None => self.say(i, ToClient::DropChild(ip)),
        }
    }

    /// Tells a node that it has all, and, if it can compare, what it should be.
    fn ended(&mut self, i: usize) {
        let digest = self.end;
        if let Some(node) = self.nodes.get_mut(i) {
            node.link = Link::Ended;
            if let Some(digest) = digest.filter(|_| node.verifies) {
                let code = self.pact.as_ref().map(|pact| pact.end(0, &digest));
                self.say(i, ToClient::Digest(digest.blake3, code));
            }
            self.say(i, ToClient::EndOfFlow);
        }
    }

    /// Everybody gets a parent.
    fn lay_out(&mut self, now: Duration) {
        self.laid_out = true;
        let idle: Vec<usize> =
            self.nodes.iter().filter(|n| !n.accepts).map(|n| n.connection).collect();
        self.out.extend(idle.into_iter().map(Output::Close));
        self.nodes.retain(|n| n.accepts && n.there());
        // The order of the old server.
        self.nodes.sort_by_key(|n| i32::from_le_bytes(n.ip.octets()));
        let arity = self.options.arity;
        for i in 0..self.nodes.len() {
            let parent = (i / arity).checked_sub(1);
            if let Some(node) = self.nodes.get_mut(i) {
                node.parent = parent;
                node.standing = Standing::Receiving;
                node.heard = now;
            }
            self.tell_parent(i);
        }
        self.moved = now;
    }

    fn tell_parent(&mut self, i: usize) {
        let Some(node) = self.nodes.get(i) else { return };
        let own = node.own;
        let parent = node.parent.and_then(|p| self.nodes.get(p)).map_or(own, |p| p.ip);
        if let Some(node) = self.nodes.get_mut(i) {
            node.link = Link::Told;
        }
        self.say(i, ToClient::GivesIp(parent));
    }

    /// A node has connected to its parent: from where on does it need data?
    fn came(&mut self, i: usize) {
        if let Some(node) = self.nodes.get_mut(i) {
            node.link = Link::Asked;
        }
        self.say(i, ToClient::ReportPosition(Report::Once));
        if let Some(node) = self.nodes.get_mut(i) {
            node.reporting = false;
        }
    }

    /// A node leaves; its children go on behind its parent.
    fn remove(&mut self, i: usize, why: &str) {
        let Some(node) = self.nodes.get_mut(i) else { return };
        let done = matches!(
            node.standing,
            Standing::Acknowledged | Standing::Whole | Standing::Verified | Standing::Failed(_)
        );
        let (ip, parent, last) = (node.ip, node.parent, node.standing.clone());
        node.standing = Standing::lost(why);
        if !self.laid_out {
            if node.accepts {
                self.out.push_back(Output::Say(alloc::format!("{ip} has left: {why}")));
            }
            self.nodes.remove(i);
            return;
        }
        match parent {
            Some(parent) => self.say(parent, ToClient::DropChild(ip)),
            None => self.out.push_back(Output::Drop(ip)),
        }
        if !done {
            self.out.push_back(Output::Say(alloc::format!("{ip} is lost: {why}")));
        }
        let children: Vec<usize> = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, n)| n.parent == Some(i) && n.there())
            .map(|(c, _)| c)
            .collect();
        for child in children {
            if let Some(node) = self.nodes.get_mut(child) {
                node.parent = parent;
                if node.link == Link::Ended {
                    continue;
                }
            }
            self.tell_parent(child);
        }
        if done && let Some(node) = self.nodes.get_mut(i) {
            // It has its copy; only the chain is without it.
            node.standing = last;
            node.connection = usize::MAX;
            node.link = Link::Ended;
        }
    }

    fn advance(&mut self, now: Duration) -> Result<(), Error> {
        self.pings(now);
        self.orphans(now);
        if self.laid_out && !self.nodes.iter().any(Node::there) {
            return Err(Error::Gone {
                protocol: NAME,
                peer: "every client".to_owned(),
                when: "before the end",
            });
        }
        if self.laid_out
            && !self.begun
            && self.nodes.iter().filter(|n| n.there()).all(|n| n.link == Link::Up)
        {
            self.begun = true;
            self.moved = now;
            self.out.push_back(Output::Begin);
        }
        if self.begun {
            // Those at the end say how far they are, for all before them.
            for i in 0..self.nodes.len() {
                let Some(node) = self.nodes.get_mut(i) else { break };
                if node.there() && node.link == Link::Up && !node.reporting {
                    node.reporting = true;
                    self.say(i, ToClient::ReportPosition(Report::Regularly));
                }
            }
        }
        let done = |n: &Node| {
            !n.there()
                || matches!(
                    n.standing,
                    Standing::Acknowledged
                        | Standing::Whole
                        | Standing::Verified
                        | Standing::Failed(_)
                )
        };
        if self.begun && !self.finished && self.nodes.iter().all(done) {
            self.finished = true;
            for i in 0..self.nodes.len() {
                if self.nodes.get(i).is_some_and(|n| n.connection != usize::MAX) {
                    self.say(i, ToClient::Finish);
                }
            }
            self.out.push_back(Output::Finished);
        }
        let Patience { start, stall } = self.options.patience;
        match (self.finished, self.begun) {
            (true, _) => Ok(()),
            (_, true) => Error::stalled(NAME, "progress", (self.moved, stall), now),
            _ => Error::stalled(NAME, "clients in their places", (self.started, start), now),
        }
    }

    fn pings(&mut self, now: Duration) {
        for i in 0..self.nodes.len() {
            let Some(node) = self.nodes.get_mut(i) else { break };
            if !node.there() || node.connection == usize::MAX {
                continue;
            }
            let silent = now.saturating_sub(node.heard);
            if silent >= DROP_AFTER {
                let connection = node.connection;
                self.out.push_back(Output::Close(connection));
                self.remove(i, "it does not answer");
                // Before the start, others have moved up.
                return;
            }
            if silent >= PING_AFTER && !node.pinged {
                node.pinged = true;
                self.say(i, ToClient::Ping);
            }
        }
    }

    /// Nodes whose parent is there, and yet not theirs any more.
    fn orphans(&mut self, now: Duration) {
        for i in 0..self.nodes.len() {
            let Some(node) = self.nodes.get_mut(i) else { break };
            let Link::Lost(since) = node.link else { continue };
            if !node.there() {
                continue;
            }
            // By now its parent's death would be known.
            if now.saturating_sub(since) < GRACE {
                // The end may have been announced meanwhile.
                if self.end.is_some_and(|d| d.bytes == node.position) {
                    self.ended(i);
                }
                continue;
            }
            node.again += 1;
            let (again, parent, connection) = (node.again, node.parent, node.connection);
            match parent {
                _ if again <= 2 => self.tell_parent(i),
                Some(parent) if again <= 4 => {
                    let connection = self.nodes.get(parent).map(|n| n.connection);
                    self.out.extend(connection.map(Output::Close));
                    self.remove(parent, "the next node cannot get data from it");
                }
                _ => {
                    self.out.push_back(Output::Close(connection));
                    self.remove(i, "it cannot be given what it lacks any more");
                }
            }
        }
    }

    /// The nodes' addresses in the order of the chain, for the user.
    #[must_use]
    pub fn chain(&self) -> String {
        let ips: Vec<String> =
            self.nodes.iter().filter(|n| n.accepts).map(|n| n.ip.to_string()).collect();
        ips.join(" ")
    }
}
