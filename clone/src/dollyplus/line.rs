//! A client's line to the server: what its copy is, and the verdict.
//!
//! Ours alone. An old server takes the first report, prints it and answers nothing;
//! then nothing more is said.

use super::NAME;
use super::io::{Conn, Outbox};
use super::next::Missed;
use super::wire::Command;
use crate::Error;
use crate::digest::Digest;
use crate::guard::{Announcement, Kept};
use crate::pact::{self, Key, Nonce, Pact, hex, same, unhex};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

/// What each of our reports begins with.
const OURS: &str = "bellwether ";
pub(super) const HELLO: &str = "bellwether hello ";
pub(super) const YES: &str = "bellwether yes";
/// Before the hello, of a client that has a key: its nonce.
pub(super) const NONCE: &str = "bellwether nonce ";
/// Before the yes, of a server that has a key: the session's nonce, and its code of the lists.
pub(super) const SESSION: &str = "bellwether session ";
/// Then the client's code.
pub(super) const ANSWER_IS: &str = "bellwether answer ";
/// Before the yes: a file's number and length.
pub(super) const SIZE: &str = "bellwether size ";
/// A file's number, length and digest, as the server has read it; its code if there is a key.
pub(super) const DIGEST: &str = "bellwether digest ";
/// A file's number and digest, as it is stored; whether it was read back, and the code.
pub(super) const FILE: &str = "bellwether file ";
/// In the place of no code.
pub(super) const NO_CODE: &str = "-";
pub(super) const READ_BACK: &str = "disk";
pub(super) const NOT_READ: &str = "wire";
/// It still stores, or reads back.
pub(super) const BUSY: &str = "bellwether busy";
pub(super) const FAILED: &str = "bellwether failed ";
pub(super) const LOST: &str = "bellwether lost ";
/// It has gone as old programs do that have passed everything on.
pub(super) const LEFT: &str = "bellwether left ";
pub(super) const VERIFIED: &str = "bellwether verified";
pub(super) const DIFFERS: &str = "bellwether differs";

/// An old server does not answer the question whether it verifies.
const ANSWER: Duration = Duration::from_secs(3);
/// A client that is busy says so this often, and is told that the others are.
const BUSY_EACH: Duration = Duration::from_secs(20);

/// What a server tells of its files: [`SIZE`]'s text of each whose length is known.
pub(super) fn sizes(sizes: &[Option<u64>]) -> Vec<String> {
    let known = sizes.iter().enumerate().filter_map(|(n, size)| size.map(|size| (n, size)));
    known.map(|(n, size)| format!("{SIZE}{n} {size}")).collect()
}

/// What the code of a server's lists is over: the files as the ring tells them, and their sizes.
pub(super) fn listed(files: &[super::wire::Output], sizes: &[String]) -> Vec<u8> {
    [super::wire::files(files), sizes.concat().into_bytes()].concat()
}

/// What a client's code of its copy is over.
pub(super) fn report(number: usize, digest: &str, how: &str) -> String {
    format!("{number} {digest} {how}")
}

#[derive(Debug, PartialEq)]
enum State {
    /// The server is not known.
    Unknown,
    /// It is dialled.
    Dial,
    /// It is connected, and asked when the list of files has come.
    Connected,
    /// It was asked whether it verifies, and may answer until then.
    Hello(Duration),
    /// It does.
    Ours,
    /// It does not.
    Old,
}

/// The line.
#[derive(Debug)]
pub(super) struct Line {
    state: State,
    heard: Vec<u8>,
    /// Reports that wait until it is clear that the server listens.
    held: Vec<String>,
    /// Whether the server says that our copy is right.
    pub(super) verdict: Option<bool>,
    key: Option<(Key, Nonce)>,
    /// Once the server has shown that it knows the key.
    pact: Option<Pact>,
    /// The session's nonce and code, until the yes.
    session: Option<(Nonce, pact::Mac)>,
    /// [`SIZE`], as the server told it.
    sizes: Vec<String>,
    /// What the server has told of each file.
    told: Vec<Announcement>,
    busy: Duration,
    /// The server was heard since that was last asked for.
    pub(super) moved: bool,
}

impl Line {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Unknown,
            heard: Vec::new(),
            held: Vec::new(),
            verdict: None,
            key: None,
            pact: None,
            session: None,
            sizes: Vec::new(),
            told: Vec::new(),
            busy: Duration::ZERO,
            moved: false,
        }
    }

    /// With a key, only a server that knows it is received from.
    pub(super) fn keyed(&mut self, key: Option<(Key, Nonce)>) {
        self.key = key;
    }

    /// Whether it is known what the server tells before the data, and may be trusted.
    pub(super) const fn settled(&self) -> bool {
        matches!(self.state, State::Ours | State::Old)
    }

    /// What the server has told of this file.
    pub(super) fn told(&self, number: usize) -> Announcement {
        self.told.get(number).copied().unwrap_or_default()
    }

    fn tells(&mut self, number: usize) -> Option<&mut Announcement> {
        if number >= super::wire::MAX_ENTRIES {
            return None;
        }
        if self.told.len() <= number {
            self.told.resize(number + 1, Announcement::default());
        }
        self.told.get_mut(number)
    }

    /// The server verifies.
    pub(super) fn ours(&self) -> bool {
        self.state == State::Ours
    }

    /// Whether a verdict may still come.
    pub(super) fn open(&self) -> bool {
        !matches!(self.state, State::Unknown | State::Old)
    }

    /// The lists name the server.
    pub(super) fn dial(&mut self, server: &str, out: &mut Outbox) {
        if self.state == State::Unknown {
            self.state = State::Dial;
            out.dial_control(Conn::Line, server);
        }
    }

    /// A server of ours listens before the ring is built. The old one begins to when both lists
    /// have gone round, and takes a connection then for a host that reports: the run ends for
    /// all. So there is one try.
    pub(super) fn refused(&mut self, out: &mut Outbox) {
        if self.state == State::Dial {
            self.give_up(out);
        }
    }

    pub(super) fn connected(&mut self) {
        if self.state == State::Dial {
            self.state = State::Connected;
        }
    }

    /// The list of files is known, over which the server's code is.
    pub(super) fn greet(&mut self, own: &str, now: Duration, out: &mut Outbox) {
        if self.state != State::Connected {
            return;
        }
        if let Some((_, nonce)) = &self.key {
            out.command(Conn::Line, Command::Report(NONCE.to_owned() + &hex(nonce)));
        }
        out.command(Conn::Line, Command::Report(HELLO.to_owned() + own));
        self.state = State::Hello(now + ANSWER);
        self.busy = now;
    }

    /// The server has said something.
    pub(super) fn heard(
        &mut self,
        bytes: &[u8],
        files: &[super::wire::Output],
        out: &mut Outbox,
    ) -> Result<(), Error> {
        self.heard.extend_from_slice(bytes);
        self.moved = true;
        loop {
            let text = match Command::take(&mut self.heard, "the server") {
                Ok(Some(Command::Report(text))) => text,
                Ok(None) => return Ok(()),
                Ok(Some(_)) if self.ours() => continue,
                _ => return self.closed(out),
            };
            match (&self.state, text.as_str()) {
                (State::Hello(_), YES) => {
                    self.agree(files, out)?;
                    self.state = State::Ours;
                    for text in core::mem::take(&mut self.held) {
                        self.tell(text, out);
                    }
                }
                (State::Ours, VERIFIED) => self.verdict = Some(true),
                (State::Ours, DIFFERS) => self.verdict = Some(false),
                (State::Hello(_) | State::Ours, text) if text.starts_with(OURS) => {
                    self.learn(text)?;
                }
                _ => return self.closed(out),
            }
        }
    }

    fn wrong(why: &'static str) -> Error {
        Error::Peer { protocol: NAME, peer: "the server".to_owned(), why }
    }

    /// What the server tells of its files.
    fn learn(&mut self, text: &str) -> Result<(), Error> {
        let told = |rest: &str| -> Option<(usize, u64)> {
            let (number, bytes) = rest.split_once(' ')?;
            Some((number.parse().ok()?, bytes.parse().ok()?))
        };
        if let Some(rest) = text.strip_prefix(SIZE) {
            if let Some((number, bytes)) = told(rest)
                && let Some(file) = self.tells(number)
            {
                file.bytes = Some(bytes);
                self.sizes.push(text.to_owned());
            }
        } else if let Some(rest) = text.strip_prefix(SESSION) {
            let (session, code) = rest.split_once(' ').unwrap_or_default();
            self.session = unhex(session).zip(unhex(code));
        } else if let Some(rest) = text.strip_prefix(DIGEST) {
            let (rest, code) = rest.rsplit_once(' ').unwrap_or_default();
            let (head, blake3) = rest.rsplit_once(' ').unwrap_or_default();
            let Some(((number, bytes), blake3)) = told(head).zip(unhex(blake3)) else {
                return Ok(());
            };
            if let Some(pact) = &self.pact {
                let right = pact.end(number, &Digest { bytes, blake3 });
                if !unhex(code).is_some_and(|code: pact::Mac| same(&code, &right)) {
                    return Err(Self::wrong("its digest has not the code of the key"));
                }
            }
            if let Some(file) = self.tells(number) {
                (file.bytes, file.blake3) = (Some(bytes), Some(blake3));
            }
        }
        Ok(())
    }

    /// The server is one of ours: with a key, whether it knows that.
    fn agree(&mut self, files: &[super::wire::Output], out: &mut Outbox) -> Result<(), Error> {
        let Some((key, nonce)) = self.key.clone() else {
            return match self.session {
                Some(_) => Err(crate::error::KEY_WANTED),
                None => Ok(()),
            };
        };
        let Some((session, code)) = self.session else { return Err(crate::error::NO_KEY) };
        let pact = Pact::new(key, NAME, session);
        if !same(&code, &pact.announce(&nonce, &listed(files, &self.sizes))) {
            return Err(crate::error::OTHER_KEY);
        }
        let answer = ANSWER_IS.to_owned() + &hex(&pact.answer(&nonce));
        out.command(Conn::Line, Command::Report(answer));
        self.pact = Some(pact);
        Ok(())
    }

    /// It has ended.
    pub(super) fn closed(&mut self, out: &mut Outbox) -> Result<(), Error> {
        let told = self.ours() && self.verdict.is_none();
        self.give_up(out);
        if told {
            return Err(Error::Gone {
                protocol: NAME,
                peer: "the server".to_owned(),
                when: "before the copies were compared",
            });
        }
        Ok(())
    }

    /// # Errors
    /// The server of a client with a key does not know it.
    pub(super) fn advance(
        &mut self,
        busy: bool,
        now: Duration,
        out: &mut Outbox,
    ) -> Result<(), Error> {
        if matches!(self.state, State::Hello(until) if now >= until) {
            self.give_up(out);
        }
        if self.state == State::Old && self.key.is_some() && self.pact.is_none() {
            return Err(crate::error::NO_KEY);
        }
        if self.ours() && now.saturating_sub(self.busy) >= BUSY_EACH {
            self.busy = now;
            // Who waits for the others asks whether there are any.
            let word = if busy { Command::Report(BUSY.to_owned()) } else { Command::Ping };
            out.command(Conn::Line, word);
        }
        Ok(())
    }

    fn give_up(&mut self, out: &mut Outbox) {
        self.state = State::Old;
        self.held.clear();
        out.close(Conn::Line);
    }

    /// Our copy of a file.
    pub(super) fn stored(&mut self, number: usize, kept: &Kept, out: &mut Outbox) {
        let how = if kept.read_back { READ_BACK } else { NOT_READ };
        let text = report(number, &kept.digest.to_string(), how);
        let code = self.key.as_ref().zip(self.pact.as_ref());
        let code = code.map(|((_, nonce), pact)| hex(&pact.verdict(nonce, text.as_bytes())));
        let code = code.as_deref().unwrap_or(NO_CODE);
        self.tell(format!("{FILE}{text} {code}"), out);
    }

    /// Our copy cannot be stored.
    pub(super) fn failed(&mut self, why: &str, out: &mut Outbox) {
        self.tell(FAILED.to_owned() + short(why), out);
    }

    /// This host is no more in the ring.
    pub(super) fn missed(&mut self, missed: &Missed, out: &mut Outbox) {
        let word = if missed.left { LEFT } else { LOST };
        self.tell(word.to_owned() + &missed.name, out);
    }

    fn tell(&mut self, text: String, out: &mut Outbox) {
        match self.state {
            State::Ours => out.command(Conn::Line, Command::Report(text)),
            State::Old => {}
            _ => self.held.push(text),
        }
    }
}

/// As much of a text as old programs' commands hold.
fn short(text: &str) -> &str {
    let mut end = text.len().min(100);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
