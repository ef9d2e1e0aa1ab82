//! A client's line to the server: what its copy is, and the verdict.
//!
//! Ours alone. An old server takes the first report, prints it and answers nothing;
//! then nothing more is said.

use super::io::{Conn, Outbox};
use super::wire::Command;
use super::{NAME, TRIES};
use crate::Error;
use crate::digest::Digest;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

pub(super) const HELLO: &str = "bellwether hello ";
pub(super) const YES: &str = "bellwether yes";
pub(super) const FILE: &str = "bellwether file ";
pub(super) const FAILED: &str = "bellwether failed ";
pub(super) const LOST: &str = "bellwether lost ";
pub(super) const VERIFIED: &str = "bellwether verified";
pub(super) const DIFFERS: &str = "bellwether differs";

/// An old server does not answer the question whether it verifies.
const ANSWER: Duration = Duration::from_secs(3);

#[derive(Debug, PartialEq)]
enum State {
    /// The server is not known.
    Unknown,
    /// It is dialled; so many tries have failed.
    Dial(u32),
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
}

impl Line {
    pub(super) const fn new() -> Self {
        Self { state: State::Unknown, heard: Vec::new(), held: Vec::new(), verdict: None }
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
            self.state = State::Dial(0);
            out.dial_control(Conn::Line, server);
        }
    }

    pub(super) fn refused(&mut self, out: &mut Outbox) {
        if let State::Dial(tries) = &mut self.state {
            *tries += 1;
            if *tries >= TRIES {
                self.give_up(out);
            }
        }
    }

    pub(super) fn connected(&mut self, own: &str, now: Duration, out: &mut Outbox) {
        out.command(Conn::Line, Command::Report(HELLO.to_owned() + own));
        self.state = State::Hello(now + ANSWER);
    }

    /// The server has said something.
    pub(super) fn heard(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), Error> {
        self.heard.extend_from_slice(bytes);
        loop {
            let text = match Command::take(&mut self.heard, "the server") {
                Ok(Some(Command::Report(text))) => text,
                Ok(None) => return Ok(()),
                Ok(Some(_)) if self.ours() => continue,
                _ => return self.closed(out),
            };
            match (&self.state, text.as_str()) {
                (State::Hello(_), YES) => {
                    self.state = State::Ours;
                    for text in core::mem::take(&mut self.held) {
                        self.tell(text, out);
                    }
                }
                (State::Ours, VERIFIED) => self.verdict = Some(true),
                (State::Ours, DIFFERS) => self.verdict = Some(false),
                (State::Ours, _) => {}
                _ => return self.closed(out),
            }
        }
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

    pub(super) fn advance(&mut self, now: Duration, out: &mut Outbox) {
        if matches!(self.state, State::Hello(until) if now >= until) {
            self.give_up(out);
        }
    }

    fn give_up(&mut self, out: &mut Outbox) {
        self.state = State::Old;
        self.held.clear();
        out.close(Conn::Line);
    }

    /// Our copy of a file.
    pub(super) fn stored(&mut self, number: usize, digest: &Digest, out: &mut Outbox) {
        self.tell(format!("{FILE}{number} {digest}"), out);
    }

    /// Our copy cannot be stored.
    pub(super) fn failed(&mut self, why: &str, out: &mut Outbox) {
        self.tell(FAILED.to_owned() + short(why), out);
    }

    /// This host was passed over.
    pub(super) fn lost(&mut self, name: &str, out: &mut Outbox) {
        self.tell(LOST.to_owned() + name, out);
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
