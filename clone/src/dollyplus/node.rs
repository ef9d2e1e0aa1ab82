//! A client: takes the stream from the host before it, passes it on, and keeps a copy.
//!
//! What comes after the packet that builds the ring is passed on as it comes, byte by
//! byte and not in whole chunks, before it is stored.

use super::NAME;
use super::TRIES;
use super::backlog::{Backlog, Sizes};
use super::disk::{Disk, Todo};
use super::hosts::Hosts;
use super::io::{Conn, End, Input, Outbox, Output};
use super::line::Line;
use super::next::{FED, Next, Place};
use super::wire::{self, Command, Item, Reader};
use crate::Error;
use crate::guard::{Announcement, Kept};
use crate::outcome::{Patience, Received};
use crate::pact::{Key, Nonce};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

/// A host whose predecessor has gone waits so long for another.
const ORPHANED: Duration = Duration::from_secs(300);
/// So many may ask at once.
const MAX_CALLERS: usize = 16;
/// So much is read at once of what is not kept.
const ASIDE: usize = 16 << 10;

/// The host before this one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Before {
    /// It may come; since when the one before it is missed.
    Awaited(Option<Duration>),
    /// It sends.
    Here,
    /// It has sent everything.
    Ended,
    /// It has gone: another must ask first where to go on.
    Gone(Duration),
}

/// The last host's word to the server.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stop {
    /// It is not time for it.
    Silent,
    /// The server is dialled; so many tries have failed.
    Dial(u32),
    /// It was said, or cannot be.
    Said,
}

/// A peer at the command port.
#[derive(Debug)]
struct Caller {
    number: u32,
    heard: Vec<u8>,
    /// Asks where to go on; `exact` when it is one of ours.
    asks: Option<bool>,
}

/// The client's state machine.
#[derive(Debug)]
pub struct Node {
    patience: Patience,
    backlog: Backlog,
    /// At the end of what was received.
    reader: Reader,
    /// So many bytes come again that are known.
    known: u64,
    /// For bytes that are not kept.
    aside: Vec<u8>,
    before: Before,
    /// The host that the first bytes came from.
    sender: Option<Ipv4Addr>,
    /// Nothing before this host is invited into the ring.
    next: Option<Next>,
    callers: Vec<Caller>,
    line: Line,
    files: Vec<wire::Output>,
    /// The last one that began.
    file: Option<usize>,
    disk: Disk,
    stop: Stop,
    moved: Duration,
    finished: Option<Received>,
    out: Outbox,
}

impl Node {
    /// A client that waits for a server, and takes so much memory.
    #[must_use]
    pub fn new(patience: Patience, sizes: Sizes, now: Duration) -> Self {
        Self {
            patience,
            backlog: Backlog::new(sizes),
            reader: Reader::default(),
            known: 0,
            aside: alloc::vec![0; ASIDE],
            before: Before::Awaited(None),
            sender: None,
            next: None,
            callers: Vec::new(),
            line: Line::new(),
            files: Vec::new(),
            file: None,
            disk: Disk::new(),
            stop: Stop::Silent,
            moved: now,
            finished: None,
            out: Outbox::default(),
        }
    }

    /// The same, for a server that knows this key; the nonce was never used before.
    #[must_use]
    pub fn keyed(mut self, key: Option<(Key, Nonce)>) -> Self {
        self.line.keyed(key);
        self
    }

    /// What the files' loop does next. A file is opened when it is known what the server tells
    /// of it, and finished when its digest is.
    #[must_use]
    pub fn todo(&self) -> Todo<'_> {
        let todo = self.disk.todo(&self.backlog, &self.files);
        let wait = match todo {
            Todo::Open(_) => !self.line.settled(),
            Todo::Finish => self.line.ours() && self.announced().blake3.is_none(),
            _ => false,
        };
        if wait { Todo::Nothing } else { todo }
    }

    /// What the server has told of the file that [`Node::todo`] is about.
    #[must_use]
    pub fn announced(&self) -> Announcement {
        let mut told = self.line.told(self.disk.number());
        told.sender = self.sender;
        told
    }

    /// After [`Todo::Open`]: it is open.
    pub fn opened(&mut self) {
        self.disk.opened();
        self.disk.advance(&self.backlog);
    }

    /// After [`Todo::Store`]: so many bytes are taken.
    pub fn stored(&mut self, bytes: usize, now: Duration) {
        self.disk.stored(bytes, &self.backlog);
        self.moved = now;
    }

    /// After [`Todo::Finish`]: all is stored.
    pub fn kept(&mut self, kept: Kept) {
        let number = self.disk.kept(kept);
        self.line.stored(number, &kept, &mut self.out);
        self.disk.advance(&self.backlog);
    }

    /// After any of them: the copy here is lost. The others' is not.
    pub fn store_failed(&mut self, why: &str) {
        self.out.say(format!("cannot store, but goes on relaying: {why}"));
        if self.disk.fails(why) {
            self.line.failed(why, &mut self.out);
        }
        self.disk.advance(&self.backlog);
    }

    /// How far it is, once files come.
    #[must_use]
    pub const fn progress(&self) -> Option<u64> {
        if self.backlog.has_files() { Some(self.backlog.end()) } else { None }
    }

    /// The copy, once this host is no more needed.
    #[must_use]
    pub const fn finished(&mut self) -> Option<Received> {
        self.finished.take()
    }

    fn place(&self) -> Place {
        let fed = self.backlog.complete || matches!(self.before, Before::Here | Before::Ended);
        Place { fed, ours: self.line.ours() }
    }

    /// The name by which the list has this node; empty before the list has come.
    #[must_use]
    pub fn own_name(&self) -> &str {
        self.next.as_ref().map_or("", |n| n.hosts.own_name())
    }

    /// Does something with the link to the next, if there is one.
    fn next(&mut self, act: impl FnOnce(&mut Next, &Backlog, &mut Outbox)) {
        if let Some(next) = &mut self.next {
            act(next, &self.backlog, &mut self.out);
        }
    }

    fn accepted(&mut self, conn: Conn, ip: Ipv4Addr) {
        match conn {
            Conn::Before => {
                self.before = Before::Here;
                self.sender.get_or_insert(ip);
                self.next(|next, _, out| next.fed(out));
                self.out.say(format!("data comes from {ip}"));
            }
            Conn::Caller(number) if self.callers.len() < MAX_CALLERS => {
                self.callers.push(Caller { number, heard: Vec::new(), asks: None });
            }
            _ => self.out.close(conn),
        }
    }

    fn connected(&mut self, conn: Conn, now: Duration) {
        match conn {
            Conn::Next => {
                self.moved = now;
                self.next(|next, _, out| next.connected(out));
            }
            Conn::Line => self.line.connected(),
            Conn::Stop => {
                let text = format!("END:(<{}): The last node finish recieving.", self.own_name());
                self.out.command(Conn::Stop, Command::Stop(text));
                self.out.close(Conn::Stop);
                self.stop = Stop::Said;
            }
            _ => {}
        }
    }

    fn refused(&mut self, conn: Conn, why: &str) -> Result<(), Error> {
        match (conn, &mut self.next, &mut self.stop) {
            (Conn::Next, Some(next), _) => next.refused(why, &self.backlog, &mut self.out)?,
            (Conn::Line, ..) => self.line.refused(&mut self.out),
            (Conn::Stop, _, Stop::Dial(tries)) => {
                *tries += 1;
                if *tries >= TRIES {
                    self.out.close(Conn::Stop);
                    self.stop = Stop::Said;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn heard(&mut self, conn: Conn, bytes: &[u8], now: Duration) -> Result<(), Error> {
        match conn {
            Conn::Next => {
                self.moved = now;
                self.next(|next, backlog, out| next.heard(bytes, backlog, out));
            }
            Conn::Line => self.line.heard(bytes, &self.files, &mut self.out)?,
            Conn::Caller(number) => self.called(number, bytes, now),
            _ => {}
        }
        Ok(())
    }

    fn closed(&mut self, conn: Conn, why: &str, now: Duration) -> Result<(), Error> {
        match conn {
            Conn::Before => self.left(now),
            Conn::Next => {
                let place = self.place();
                self.next(|next, backlog, out| next.closed(why, backlog, place, out));
            }
            Conn::Line => self.line.closed(&mut self.out)?,
            Conn::Stop => {}
            Conn::Caller(number) => self.hang_up(number),
        }
        Ok(())
    }

    /// The host before this one has closed its connection.
    fn left(&mut self, now: Duration) {
        if self.next.is_none() {
            // A caller that left without a word is no host of the ring.
            self.out.close(Conn::Before);
            self.before = Before::Awaited(None);
            self.reader = Reader::default();
        } else if self.backlog.complete {
            self.before = Before::Ended;
        } else {
            self.out.say("the node before this one has gone; waiting for another".to_owned());
            self.out.close(Conn::Before);
            self.before = Before::Gone(now);
        }
    }

    fn hang_up(&mut self, number: u32) {
        self.callers.retain(|c| c.number != number);
        self.out.close(Conn::Caller(number));
    }

    /// A caller has sent bytes to the command port.
    fn called(&mut self, number: u32, bytes: &[u8], now: Duration) {
        let Some(at) = self.callers.iter().position(|c| c.number == number) else { return };
        if let Some(caller) = self.callers.get_mut(at) {
            caller.heard.extend_from_slice(bytes);
        }
        while let Some(caller) = self.callers.get_mut(at) {
            match Command::take(&mut caller.heard, "an asker") {
                Ok(Some(Command::Reconnect { exact })) => {
                    caller.asks = Some(exact);
                    self.answer(now);
                    // It may be hung up.
                    if self.callers.get(at).is_none_or(|c| c.number != number) {
                        return;
                    }
                }
                Ok(Some(Command::Ping)) => {
                    let fed = if matches!(self.before, Before::Gone(_)) { "" } else { FED };
                    let pong = Command::Pong(self.backlog.end().to_string() + fed);
                    self.out.command(Conn::Caller(number), pong);
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => return self.hang_up(number),
            }
        }
    }

    /// Tells callers that ask where to go on. They wait while another host is about to
    /// invite this one; without a ring there is nothing to go on with.
    fn answer(&mut self, now: Duration) {
        let Some(at) = self.callers.iter().position(|c| c.asks.is_some()) else { return };
        let Some(caller) = self.callers.get_mut(at) else { return };
        let number = caller.number;
        if self.next.is_some() {
            let exact = caller.asks.take().unwrap_or(false);
            let answer = self.go_on(exact, now);
            self.out.command(Conn::Caller(number), answer);
        } else if self.before != Before::Here {
            self.hang_up(number);
        }
    }

    /// Where a new predecessor goes on.
    fn go_on(&mut self, exact: bool, now: Duration) -> Command {
        self.out.close(Conn::Before);
        self.before = match self.before {
            Before::Awaited(Some(since)) | Before::Gone(since) => Before::Awaited(Some(since)),
            _ => Before::Awaited(Some(now)),
        };
        self.out.say("another node takes the place of the one before this".to_owned());
        let resume = self.backlog.resume();
        self.known = if exact { 0 } else { resume.known };
        let end = self.backlog.end();
        Command::ReconnectFrom { sequence: resume.sequence, exact: exact.then_some(end) }
    }

    /// The packet that builds the ring.
    fn invited(&mut self, bytes: &[u8], now: Duration) -> Result<(), Error> {
        let wrong =
            |why| Error::Peer { protocol: NAME, peer: "the node before this one".to_owned(), why };
        let mut rest = bytes;
        while !rest.is_empty() {
            let (n, item) = self.reader.read(rest)?;
            rest = rest.get(n..).unwrap_or_default();
            match item {
                Some(Item::Ring(list)) => {
                    let hosts = Hosts::of_client(list)
                        .ok_or_else(|| wrong("marks no client as this one"))?;
                    let (place, all) = hosts.place();
                    self.out.say(format!("this is {}, {place} of {all}", hosts.own_name()));
                    self.next = Some(Next::new(hosts, &mut self.out));
                    self.moved = now;
                }
                Some(_) => return Err(wrong("begins without building a ring")),
                None => {}
            }
        }
        Ok(())
    }

    /// So many bytes are new in the backlog: what they say.
    fn came(&mut self, bytes: usize) -> Result<(), Error> {
        let mut position = self.backlog.end();
        self.backlog.filled(bytes);
        loop {
            let Some(bytes) = self.backlog.from(position) else { return Ok(()) };
            let (n, item) = self.reader.read(bytes)?;
            position += n as u64;
            let Some(item) = item else { return Ok(()) };
            self.item(item, position)?;
        }
    }

    /// Something that ends at `position`.
    fn item(&mut self, item: Item, position: u64) -> Result<(), Error> {
        match item {
            Item::Hosts(list) => {
                // An old server sends the list of files when this one has come round, and
                // listens for commands when that has.
                self.backlog.round = position;
                if let Some(next) = &mut self.next {
                    next.hosts.settle(&list);
                    self.line.dial(next.hosts.server_name(), &mut self.out);
                }
            }
            Item::Files(files) => {
                (self.backlog.lists, self.backlog.round) = (position, position);
                self.files = files;
            }
            Item::File(number) if number < self.files.len() => self.file = Some(number),
            Item::File(_) => {
                return Err(Error::Peer {
                    protocol: NAME,
                    peer: "the server".to_owned(),
                    why: "sends a file that it did not list",
                });
            }
            Item::Chunk { sequence, length, .. } => {
                self.backlog.chunk(sequence, position - super::backlog::HEAD, length);
            }
            Item::FileEnd => {
                self.backlog.complete = self.file.is_some_and(|n| n + 1 == self.files.len());
            }
            Item::Ring(_) | Item::Payload(_) => {}
        }
        Ok(())
    }

    fn advance(&mut self, now: Duration) -> Result<(), Error> {
        self.answer(now);
        self.next(|next, backlog, out| next.advance(backlog, out));
        if !self.files.is_empty() {
            let own = self.own_name().to_owned();
            self.line.greet(&own, now, &mut self.out);
        }
        self.line.advance(self.disk.busy(), now, &mut self.out)?;
        if self.disk.busy() || core::mem::take(&mut self.line.moved) {
            self.moved = now;
        }
        if let Some(next) = &mut self.next {
            for missed in core::mem::take(&mut next.missed) {
                self.line.missed(&missed, &mut self.out);
            }
        }
        self.disk.advance(&self.backlog);
        let Patience { start, stall } = self.patience;
        let limit = if self.backlog.is_empty() { start } else { stall };
        let here = matches!(self.before, Before::Here | Before::Ended);
        let waiting_for = if here { "data" } else { "server" };
        Error::stalled(NAME, waiting_for, (self.moved, limit), now)?;
        if let Before::Awaited(Some(since)) | Before::Gone(since) = self.before
            && !self.backlog.complete
            && now.saturating_sub(since) >= ORPHANED
        {
            return Err(Error::Gone {
                protocol: NAME,
                peer: "the node before this one".to_owned(),
                when: "and no other has come in its place",
            });
        }
        self.finish()
    }

    /// Finishes when this node has done all it can.
    fn finish(&mut self) -> Result<(), Error> {
        let stored = self.disk.kept.len() == self.files.len() || self.disk.failed.is_some();
        let Some(next) = self.next.as_ref().filter(|_| self.backlog.complete && stored) else {
            return Ok(());
        };
        let last = next.hosts.last();
        if last && self.stop == Stop::Silent && (self.line.ours() || self.disk.failed.is_none()) {
            self.out.dial_control(Conn::Stop, next.hosts.server_name());
            self.stop = Stop::Dial(0);
        }
        // An old server needs a host no longer than the other hosts do.
        let free = !self.line.open() && next.passed_on() && (!last || self.stop == Stop::Said);
        if self.line.verdict.is_none() && !free {
            return Ok(());
        }
        if let Some(why) = self.disk.failed.take() {
            return Err(Error::Store { why });
        }
        let equal = self.line.verdict == Some(true);
        let got = Received::of(&core::mem::take(&mut self.disk.kept), equal, self.sender);
        if self.line.verdict.is_some() && !equal {
            return Err(Error::Mismatch { bytes: crate::outcome::total(&got.digests) });
        }
        self.finished = Some(got);
        Ok(())
    }
}

impl End for Node {
    fn step(&mut self, input: Input<'_>, now: Duration) -> Result<(), Error> {
        match input {
            Input::Accepted(conn, ip) => self.accepted(conn, ip),
            Input::Connected(conn) => self.connected(conn, now),
            Input::Refused(conn, why) => self.refused(conn, why)?,
            Input::Heard(conn, bytes) => self.heard(conn, bytes, now)?,
            Input::Closed(conn, why) => self.closed(conn, why, now)?,
            Input::Tick => self.advance(now)?,
        }
        Ok(())
    }

    fn output(&mut self) -> Option<Output> {
        self.out.pop()
    }

    fn awaits(&self) -> bool {
        matches!(self.before, Before::Awaited(_))
    }

    fn room(&mut self) -> &mut [u8] {
        if self.before != Before::Here {
            return &mut [];
        }
        let aside = match &self.next {
            None => self.reader.wants(),
            // The next host is told which hosts were known when this one was.
            Some(next) if next.building() => return &mut [],
            Some(_) if self.known > 0 => usize::try_from(self.known).unwrap_or(usize::MAX),
            Some(next) => {
                let needed = next.needed(&self.backlog).min(self.disk.position());
                return self.backlog.room(needed);
            }
        };
        let some = aside.min(self.aside.len());
        self.aside.get_mut(..some).unwrap_or_default()
    }

    fn received(&mut self, bytes: usize, now: Duration) -> Result<(), Error> {
        if self.next.is_none() {
            let aside = core::mem::take(&mut self.aside);
            let outcome = self.invited(aside.get(..bytes).unwrap_or_default(), now);
            self.aside = aside;
            return outcome;
        }
        self.moved = now;
        if self.known > 0 {
            self.known = self.known.saturating_sub(bytes as u64);
            return Ok(());
        }
        self.came(bytes)
    }

    fn sending(&self) -> &[u8] {
        self.next.as_ref().map_or(&[], |n| n.sending(&self.backlog))
    }

    fn sent(&mut self, bytes: usize, now: Duration) {
        self.moved = now;
        if let Some(next) = &mut self.next {
            next.sent(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dollyplus::backlog::SIZES;

    fn outputs(node: &mut Node) -> Vec<Output> {
        core::iter::from_fn(|| node.output()).filter(|o| !matches!(o, Output::Say(_))).collect()
    }

    /// A host that is about to be invited keeps callers waiting that ask where to go on:
    /// refused, they would take it for lost.
    #[test]
    fn who_asks_too_early_waits() {
        let now = Duration::ZERO;
        let caller = Conn::Caller(0);
        let ask = Command::Reconnect { exact: true }.packet();
        let asked = || {
            let mut node = Node::new(Patience::default(), SIZES, now);
            for conn in [Conn::Before, caller] {
                node.step(Input::Accepted(conn, Ipv4Addr::LOCALHOST), now).unwrap();
            }
            node.step(Input::Heard(caller, &ask), now).unwrap();
            assert_eq!(outputs(&mut node), []);
            node
        };
        let mut left = asked();
        left.step(Input::Closed(Conn::Before, ""), now).unwrap();
        left.step(Input::Tick, now).unwrap();
        assert_eq!(outputs(&mut left), [Output::Close(Conn::Before), Output::Close(caller)]);

        let mut invited = asked();
        let ring = wire::ring(&Hosts::of_server("s", &["a".to_owned()]).for_next());
        let mut rest = &ring[..];
        while !rest.is_empty() {
            let room = invited.room();
            let n = room.len().min(rest.len());
            room[..n].copy_from_slice(&rest[..n]);
            invited.received(n, now).unwrap();
            rest = &rest[n..];
        }
        invited.step(Input::Tick, now).unwrap();
        let answer = Command::ReconnectFrom { sequence: 0, exact: Some(0) }.packet();
        assert!(outputs(&mut invited).contains(&Output::Send(caller, answer)));
    }
}
