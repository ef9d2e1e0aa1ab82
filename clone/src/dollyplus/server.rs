//! The server: builds the ring, sends the files through it, and gathers what became of
//! each copy.

use super::backlog::{Backlog, Sizes};
use super::feed::{Feed, Want};
use super::hosts::Hosts;
use super::io::{Conn, End, Input, Outbox, Output};
use super::line::{self, DIFFERS, FAILED, FILE, HELLO, LEFT, LOST, VERIFIED, YES};
use super::next::{Missed, Next, Place};
use super::wire::{self, Command, Flag, Host, Item, Reader};
use super::{NAME, WINDOW};
use crate::Error;
use crate::digest::Digest;
use crate::outcome::{Client, Patience, Standing};
use crate::pact::{self, Nonce, Pact, hex, same, unhex};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

/// Each client has a line; some room for those that ask or ping.
const MAX_CALLERS: usize = wire::MAX_ENTRIES + 16;
/// So long clients may take to leave after the last word.
const FAREWELL: Duration = Duration::from_secs(2);
/// A host that was passed over and still has its line may have everything, and say so
/// at the latest so long after the others.
const STRAGGLES: Duration = Duration::from_secs(30);
/// The last old host's word that all have everything is waited for so long, when what the
/// hosts held has had the time to go through them.
const LAST_WORD: Duration = Duration::from_secs(10);
/// What the real client reports of the host behind it that has gone, before that one's name.
const STOPS: &str = "): Stop to sending to ";

/// A client of this name, of which nothing is known.
fn client(name: &str) -> Client {
    Client { name: name.to_owned(), address: None, standing: Standing::Silent, came: None }
}

fn silent(client: &Client) -> bool {
    client.standing == Standing::Silent
}

fn lost() -> Standing {
    Standing::lost("it has gone, and was passed over")
}

/// A peer at the command port.
#[derive(Debug)]
struct Caller {
    number: u32,
    heard: Vec<u8>,
    /// The client of ours whose line it is.
    client: Option<usize>,
    /// The host before it goes on without it.
    passed_over: bool,
    /// Files whose digests it told, and whether all were right and read back.
    files: usize,
    equal: bool,
    read_back: bool,
    /// Files whose digests it was told.
    told: usize,
    nonce: Option<Nonce>,
    /// It knows the key.
    proved: bool,
}

impl Caller {
    const fn new(number: u32) -> Self {
        let heard = Vec::new();
        Self {
            number,
            heard,
            client: None,
            passed_over: false,
            files: 0,
            equal: true,
            read_back: true,
            told: 0,
            nonce: None,
            proved: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// The lists have not come round.
    Building,
    /// The files go out.
    Sending,
    /// All is over; until then clients may leave.
    Farewell(Duration),
}

/// The server's state machine.
#[derive(Debug)]
pub struct Server {
    patience: Patience,
    state: State,
    next: Next,
    backlog: Backlog,
    feed: Feed,
    files: Vec<wire::Output>,
    /// What the last host brings back.
    round: Option<Reader>,
    aside: Vec<u8>,
    clients: Vec<Client>,
    callers: Vec<Caller>,
    /// [`line::SIZE`] of each file whose length is known.
    sizes: Vec<String>,
    pact: Option<Pact>,
    /// The last host has said that all have everything.
    stopped: bool,
    /// The first bytes went out.
    began: Duration,
    moved: Duration,
    finished: bool,
    out: Outbox,
}

impl Server {
    /// A server that sends `files` to `clients` and takes so much memory. `name` is
    /// what the last client connects back to.
    #[must_use]
    pub fn new(
        name: &str,
        clients: &[String],
        files: &[wire::Output],
        patience: Patience,
        sizes: Sizes,
        now: Duration,
    ) -> Self {
        let mut out = Outbox::default();
        Self {
            patience,
            state: State::Building,
            next: Next::new(Hosts::of_server(name, clients), &mut out),
            backlog: Backlog::new(sizes),
            feed: Feed::new(files.len(), sizes.chunk),
            files: files.to_vec(),
            round: None,
            aside: alloc::vec![0; 4096],
            clients: clients.iter().map(|c| client(c)).collect(),
            callers: Vec::new(),
            sizes: Vec::new(),
            pact: None,
            stopped: false,
            began: now,
            moved: now,
            finished: false,
            out,
        }
    }

    /// The same, for files of these lengths, and clients that know this pact's key.
    #[must_use]
    pub fn telling(mut self, sizes: &[Option<u64>], pact: Option<Pact>) -> Self {
        self.sizes = line::sizes(sizes);
        self.pact = pact;
        self
    }

    /// What the files' loop does next.
    pub fn want(&mut self) -> Want<'_> {
        if self.state == State::Sending { self.feed.want() } else { Want::Nothing }
    }

    /// After [`Want::Open`]: it is open.
    pub fn opened(&mut self) {
        self.feed.opened();
        self.feed();
    }

    /// After [`Want::Bytes`]: so many were read, 0 at the file's end.
    pub fn read(&mut self, bytes: usize) {
        self.feed.read(bytes, &mut self.backlog);
        self.feed();
    }

    /// How far it is, once files go out.
    #[must_use]
    pub fn progress(&self) -> Option<u64> {
        (self.state != State::Building).then(|| self.next.needed(&self.backlog))
    }

    /// The digest of each file as it was read, once all is said.
    pub fn finished(&mut self) -> Option<Vec<Digest>> {
        self.finished.then(|| core::mem::take(&mut self.feed.digests))
    }

    /// All clients, and how it stands with each.
    #[must_use]
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    fn feed(&mut self) {
        let needed = self.next.needed(&self.backlog);
        self.feed.advance(&mut self.backlog, needed);
        self.backlog.complete = self.state != State::Building && self.feed.complete();
    }

    fn place(&self) -> Place {
        Place { fed: true, ours: self.callers.iter().any(|c| c.client.is_some()) }
    }

    fn set(&mut self, client: usize, standing: Standing) {
        if let Some(client) = self.clients.get_mut(client).filter(|c| silent(c)) {
            client.standing = standing;
        }
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.clients.iter().position(|c| c.name == name)
    }

    fn waiting(&self) -> bool {
        self.clients.iter().any(silent)
    }

    fn has_line(&self, client: usize) -> bool {
        self.callers.iter().any(|c| c.client == Some(client))
    }

    /// A client without a line, which has everything and may be gone.
    fn left(&mut self, client: usize) {
        if !self.has_line(client) {
            let unknown = "an old program, which does not know the key";
            let keyed = self.pact.is_some();
            let standing = if keyed { Standing::failed(unknown) } else { Standing::Acknowledged };
            self.set(client, standing);
        }
    }

    /// A host is no more in the ring. One with a line tells us itself when it ends.
    fn missed(&mut self, missed: &Missed) {
        let Some(client) = self.number(&missed.name) else { return };
        match self.callers.iter_mut().find(|c| c.client == Some(client)) {
            Some(caller) => caller.passed_over = true,
            None if missed.left && self.backlog.complete => self.left(client),
            None if !self.stopped => self.set(client, lost()),
            None => {}
        }
    }

    /// Those that were passed over and do not end are waited for no longer than
    /// [`STRAGGLES`]; old ones, when the last one does not say that all have everything, as long
    /// as what they held may take on its way through them.
    fn straggle(&mut self, now: Duration) {
        let waited = now.saturating_sub(self.moved);
        let stall = self.patience.stall.unwrap_or(Duration::MAX);
        if !self.backlog.complete || waited < stall.min(LAST_WORD) {
            return;
        }
        let flow = self.moved.saturating_sub(self.began).as_secs();
        let sent = self.backlog.end().max(1);
        let silents = self.clients.iter().filter(|c| silent(c)).count() as u64;
        let through = flow.saturating_mul(silents).saturating_mul(sent.min(2 * WINDOW)) / sent;
        let late = waited >= stall.min(LAST_WORD + Duration::from_secs(through));
        let straggles = waited >= stall.min(STRAGGLES);
        let over = |i: usize| match self.callers.iter().find(|c| c.client == Some(i)) {
            Some(line) => line.passed_over && straggles,
            None => late && self.next.passed_on(),
        };
        let mut waiting = (0..).zip(&self.clients).filter(|(_, c)| silent(c));
        if waiting.all(|(i, _)| over(i)) {
            for client in 0..self.clients.len() {
                let mute = Standing::lost("no word has come that it has everything");
                let standing = if self.has_line(client) { lost() } else { mute };
                self.set(client, standing);
            }
        }
    }

    /// The last host has closed the ring: the hosts that take part are known.
    fn closed_ring(&mut self, list: &[Host]) {
        self.next.hosts.settle(list);
        let hosts = self.next.hosts.all();
        let mut present = 0;
        for (host, client) in hosts.iter().skip(1).zip(&mut self.clients) {
            if host.flag == Flag::Absent {
                client.standing = Standing::Absent;
            } else {
                present += 1;
            }
        }
        self.out.say(format!("the ring is closed: {present} hosts"));
        let lists = [wire::hosts(hosts), wire::files(&self.files)].concat();
        self.backlog.append(&lists, 0);
        self.backlog.lists = lists.len() as u64;
        self.backlog.round = self.backlog.lists;
    }

    /// What the last host brings back; nothing when it is of no use.
    fn come_round(&mut self, bytes: &[u8], now: Duration) -> Result<(), Error> {
        let mut rest = bytes;
        while let Some(reader) = &mut self.round {
            let (n, item) = reader.read(rest)?;
            rest = rest.get(n..).unwrap_or_default();
            self.moved = now;
            match item {
                Some(Item::Ring(list)) if self.backlog.is_empty() => self.closed_ring(&list),
                Some(Item::Files(_)) if self.state == State::Building => {
                    self.state = State::Sending;
                    self.began = now;
                    self.out.say("all hosts know the files".to_owned());
                }
                Some(_) => {}
                None => break,
            }
        }
        Ok(())
    }

    /// Another takes the last host's place.
    fn no_round(&mut self) {
        self.round = None;
        self.out.close(Conn::Before);
    }

    fn heard(&mut self, number: u32, bytes: &[u8], now: Duration) {
        let Some(at) = self.callers.iter().position(|c| c.number == number) else { return };
        if let Some(caller) = self.callers.get_mut(at) {
            caller.heard.extend_from_slice(bytes);
        }
        while let Some(caller) = self.callers.get_mut(at) {
            match Command::take(&mut caller.heard, "the peer") {
                Ok(Some(command)) => {
                    // Who only waits for the others does not move.
                    if command != Command::Ping {
                        self.moved = now;
                    }
                    self.command(at, command);
                }
                Ok(None) => return,
                Err(_) => return self.hang_up(number),
            }
        }
    }

    fn hang_up(&mut self, number: u32) {
        self.out.close(Conn::Caller(number));
        if let Some(at) = self.callers.iter().position(|c| c.number == number)
            && let Some(client) = self.callers.remove(at).client
        {
            self.set(client, lost());
        }
    }

    fn command(&mut self, at: usize, command: Command) {
        match command {
            Command::Report(text) => self.report(at, &text),
            Command::Stop(text) => {
                self.stopped = self.backlog.complete;
                self.out.say(text);
            }
            Command::Ping => self.tell(at, Command::Pong(String::new())),
            _ => {}
        }
    }

    fn tell(&mut self, at: usize, command: Command) {
        if let Some(caller) = self.callers.get(at) {
            self.out.command(Conn::Caller(caller.number), command);
        }
    }

    /// A client says something about its copy, or something else.
    fn report(&mut self, at: usize, text: &str) {
        let client = self.callers.get(at).and_then(|c| c.client);
        if let Some(name) = text.strip_prefix(HELLO) {
            self.hello(at, name);
        } else if let Some(nonce) = text.strip_prefix(line::NONCE) {
            if let Some(caller) = self.callers.get_mut(at) {
                caller.nonce = unhex(nonce);
            }
        } else if let Some(code) = text.strip_prefix(line::ANSWER_IS) {
            if let Some(caller) = self.callers.get_mut(at)
                && let (Some(pact), Some(nonce)) = (&self.pact, &caller.nonce)
            {
                let right = pact.answer(nonce);
                caller.proved = unhex(code).is_some_and(|code: pact::Mac| same(&code, &right));
            }
        } else if text == line::BUSY {
            // That it was heard is enough.
        } else if let (Some(rest), Some(client)) = (text.strip_prefix(FILE), client) {
            self.digest(at, client, rest);
        } else if let (Some(why), Some(client)) = (text.strip_prefix(FAILED), client) {
            self.set(client, Standing::failed(why));
        } else if let Some(name) = text.strip_prefix(LOST) {
            self.missed(&Missed { name: name.to_owned(), left: false });
        } else if let Some(name) = text.strip_prefix(LEFT) {
            self.missed(&Missed { name: name.to_owned(), left: true });
        } else {
            if let Some((_, name)) = text.split_once(STOPS) {
                let name = name.trim_end_matches('.').to_owned();
                self.missed(&Missed { name, left: false });
            }
            self.out.said(text);
        }
    }

    /// A client is one of ours: it is told the files' sizes, and which key is wanted.
    fn hello(&mut self, at: usize, name: &str) {
        let client = self.number(name);
        let Some(caller) = self.callers.get_mut(at) else { return };
        caller.client = client;
        if client.is_none() {
            return;
        }
        let nonce = caller.nonce.unwrap_or_default();
        for size in self.sizes.clone() {
            self.tell(at, Command::Report(size));
        }
        if let Some(pact) = &self.pact {
            let code = hex(&pact.announce(&nonce, &line::listed(&self.files, &self.sizes)));
            let text = format!("{}{} {code}", line::SESSION, hex(pact.session()));
            self.tell(at, Command::Report(text));
        }
        self.tell(at, Command::Report(YES.to_owned()));
    }

    /// Tells the clients of ours the digest of each file that is read.
    fn tell_digests(&mut self) {
        for at in 0..self.callers.len() {
            while let Some(caller) = self.callers.get_mut(at).filter(|c| c.client.is_some())
                && let Some(digest) = self.feed.digests.get(caller.told)
            {
                let number = caller.told;
                caller.told += 1;
                let code = self.pact.as_ref().map(|pact| hex(&pact.end(number, digest)));
                let code = code.as_deref().unwrap_or(line::NO_CODE);
                let text = format!("{}{number} {} {digest} {code}", line::DIGEST, digest.bytes);
                self.tell(at, Command::Report(text));
            }
        }
    }

    /// A client tells a file's digest. They come in their order; the last one decides.
    fn digest(&mut self, at: usize, client: usize, text: &str) {
        let Some(caller) = self.callers.get_mut(at) else { return };
        let mut words = text.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let (number, digest, how, code) = (word(), word(), word(), word());
        let number: Option<usize> = number.parse().ok();
        let digests = &self.feed.digests;
        let own = number.filter(|n| *n == caller.files).and_then(|n| digests.get(n));
        caller.equal &= own.is_some_and(|d| d.to_string() == digest);
        caller.read_back &= how == line::READ_BACK;
        if let Some(pact) = &self.pact {
            let report = line::report(caller.files, digest, how);
            let right = caller.nonce.map(|nonce| pact.verdict(&nonce, report.as_bytes()));
            let code: Option<pact::Mac> = unhex(code);
            caller.proved &= code.zip(right).is_some_and(|(code, right)| same(&code, &right));
        }
        caller.files += 1;
        if caller.files == self.files.len() {
            // The verdict is told at the end, because it is the sign to leave: a host that leaves
            // early is missing to those that need what it relays.
            let standing = match (caller.equal, caller.read_back) {
                _ if self.pact.is_some() && !caller.proved => {
                    Standing::failed("it does not know the key")
                }
                (true, true) => Standing::Verified,
                (true, false) => Standing::Whole,
                (false, _) => Standing::Differs,
            };
            self.set(client, standing);
        }
    }

    fn advance(&mut self, now: Duration) -> Result<(), Error> {
        self.feed();
        self.tell_digests();
        self.next.advance(&self.backlog, &mut self.out);
        for missed in core::mem::take(&mut self.next.missed) {
            self.missed(&missed);
        }
        if self.stopped {
            (0..self.clients.len()).for_each(|client| self.left(client));
        }
        self.straggle(now);
        if self.backlog.complete && !self.waiting() {
            self.farewell(now);
            return Ok(());
        }
        // No host could be reached, or none is left.
        if self.next.hosts.last() && (self.state == State::Building || !self.waiting()) {
            return Err(Error::Gone {
                protocol: NAME,
                peer: "every client".to_owned(),
                when: "or could not be reached",
            });
        }
        let building = self.state == State::Building;
        let Patience { start, stall } = self.patience;
        let (limit, what) = if building { (start, "ring") } else { (stall, "progress") };
        Error::stalled(NAME, what, (self.moved, limit), now)
    }

    /// Tells everybody that all have what they need.
    fn farewell(&mut self, now: Duration) {
        self.state = State::Farewell(now + FAREWELL);
        let mut callers = core::mem::take(&mut self.callers);
        callers.retain(|caller| {
            let conn = Conn::Caller(caller.number);
            let client = caller.client.and_then(|client| self.clients.get(client));
            let word = match client.map(|client| &client.standing) {
                None | Some(Standing::Lost(_)) => {
                    self.out.close(conn);
                    return false;
                }
                Some(Standing::Verified | Standing::Whole) => VERIFIED,
                Some(_) => DIFFERS,
            };
            self.out.command(conn, Command::Report(word.to_owned()));
            true
        });
        self.callers = callers;
    }

    /// After the last word: only whether all have heard it counts.
    fn leaving(&mut self, input: &Input<'_>, until: Duration, now: Duration) {
        if let Input::Closed(Conn::Caller(number), _) = input {
            self.callers.retain(|c| c.number != *number);
        }
        self.finished = self.callers.is_empty() || now >= until;
    }
}

impl End for Server {
    fn step(&mut self, input: Input<'_>, now: Duration) -> Result<(), Error> {
        if let State::Farewell(until) = self.state {
            self.leaving(&input, until, now);
            return Ok(());
        }
        match input {
            Input::Accepted(Conn::Before, _) => self.round = Some(Reader::default()),
            Input::Accepted(Conn::Caller(number), _) if self.callers.len() < MAX_CALLERS => {
                self.callers.push(Caller::new(number));
            }
            Input::Accepted(conn, _) => self.out.close(conn),
            Input::Connected(_) => {
                self.moved = now;
                self.next.connected(&mut self.out);
            }
            Input::Refused(_, why) => self.next.refused(why, &self.backlog, &mut self.out)?,
            Input::Heard(Conn::Caller(number), bytes) => self.heard(number, bytes, now),
            Input::Heard(_, bytes) => {
                self.moved = now;
                self.next.heard(bytes, &self.backlog, &mut self.out);
            }
            Input::Closed(Conn::Before, _) => self.no_round(),
            Input::Closed(Conn::Caller(number), _) => self.hang_up(number),
            Input::Closed(_, why) => {
                let place = self.place();
                self.next.closed(why, &self.backlog, place, &mut self.out);
            }
            Input::Tick => self.advance(now)?,
        }
        Ok(())
    }

    fn output(&mut self) -> Option<Output> {
        self.out.pop()
    }

    fn awaits(&self) -> bool {
        self.state == State::Building
    }

    fn room(&mut self) -> &mut [u8] {
        if self.round.is_some() { &mut self.aside } else { &mut [] }
    }

    fn received(&mut self, bytes: usize, now: Duration) -> Result<(), Error> {
        let aside = core::mem::take(&mut self.aside);
        if self.come_round(aside.get(..bytes).unwrap_or_default(), now).is_err() {
            self.no_round();
        }
        self.aside = aside;
        Ok(())
    }

    fn sending(&self) -> &[u8] {
        self.next.sending(&self.backlog)
    }

    fn sent(&mut self, bytes: usize, now: Duration) {
        self.moved = now;
        self.next.sent(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::super::backlog::SIZES;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A server that has sent all: of two clients the second has a line and was passed over, or
    /// both are old programs and the last one says nothing.
    fn sent(with_line: bool, stall: Duration) -> Server {
        let patience = Patience { start: None, stall: Some(stall) };
        let mut server = Server::new("h0", &[], &[], patience, SIZES, Duration::ZERO);
        server.clients.extend(["h1", "h2"].map(client));
        (server.state, server.backlog.complete) = (State::Sending, true);
        if with_line {
            server.set(0, Standing::Verified);
            let line = Caller { client: Some(1), passed_over: true, ..Caller::new(1) };
            server.callers.push(line);
        }
        server
    }

    fn lost_after(server: &mut Server) -> u64 {
        let over = |s: &u32| {
            server.straggle(SECOND * *s);
            !server.waiting()
        };
        (1..1000).find(over).unwrap_or(0).into()
    }

    /// One killed client kept a server for the whole of its patience, 300 s.
    #[test]
    fn those_that_were_passed_over_are_waited_for_thirty_seconds_and_no_longer() {
        assert_eq!(lost_after(&mut sent(true, SECOND * 300)), STRAGGLES.as_secs());
        assert_eq!(lost_after(&mut sent(true, SECOND * 7)), 7, "nor longer than the user says");
        // One that is in its place may write for as long as it likes.
        let mut writes = sent(true, SECOND * 300);
        writes.callers[0].passed_over = false;
        assert_eq!(lost_after(&mut writes), 0);
        // Nor is any called lost before all was sent.
        let mut sends = sent(true, SECOND * 300);
        sends.backlog.complete = false;
        assert_eq!(lost_after(&mut sends), 0);
    }

    /// Old clients say nothing until the last one has everything: what they hold takes its time.
    #[test]
    fn old_clients_have_the_time_that_what_they_hold_takes() {
        let mut server = sent(false, SECOND * 300);
        assert_eq!(lost_after(&mut server), LAST_WORD.as_secs());
        let standing = &server.clients()[1].standing;
        assert!(matches!(standing, Standing::Lost(why) if why.contains("no word")), "{standing:?}");
    }
}
