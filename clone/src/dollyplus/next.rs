//! The link to the next host: while the ring is built, while data flows, and past a
//! host that has gone.
//!
//! A host that does not take our connection while the ring is built is left out, and
//! the one after it invited. One that goes later is passed over: the host after it
//! is asked on its command port from where on it needs the stream, and gets it
//! from there.
//!
//! A host that was cut off for a while finds its connections closed too, because it was
//! passed over itself. So that it takes no other host's place, it first asks the next host,
//! which seems gone, whether another host feeds that one. If so, it leaves it to that host;
//! if not, it goes on sending.

use super::backlog::Backlog;
use super::hosts::Hosts;
use super::io::{Conn, Outbox};
use super::wire::{self, Command};
use super::{NAME, TRIES};
use crate::Error;
use crate::error::HAS_CLOSED;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// One of ours answers so when it is fed.
pub(super) const FED: &str = " fed";

#[derive(Debug)]
enum Link {
    /// Its data port is dialled, to invite it into the ring.
    Invite,
    /// Its command port is dialled.
    Ask,
    /// It has closed the connection, and why; its command port is dialled.
    Check(String),
    /// It was asked whether it is there; so much of the answer has come.
    Checked(String, Vec<u8>),
    /// It was asked where to go on; so much of the answer has come.
    Asked(Vec<u8>),
    /// It said so; its data port is dialled.
    Again(u64),
    /// It is sent the stream from here on.
    Flow(u64),
    /// Another host feeds it, or no host feeds this one.
    Yielded,
    /// There is no host behind this one.
    None,
}

/// What an end knows of its place in the ring when it decides about the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The stream still comes, or has come whole.
    pub(super) fed: bool,
    /// The server verifies: hosts stay until it has told them its verdict.
    pub(super) ours: bool,
}

/// A host that is no more in the ring.
#[derive(Debug, PartialEq)]
pub(super) struct Missed {
    pub(super) name: String,
    /// It took everything and closed its connection, as old programs do when they have stored
    /// all and passed it on.
    pub(super) left: bool,
}

/// The link.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) hosts: Hosts,
    link: Link,
    /// Tries to connect that failed.
    tries: u32,
    /// It seemed gone, and was not, so often.
    returns: u32,
    /// All was sent, and the end of it.
    ended: bool,
    /// The next one took everything and closed its connection. One that stands behind it and
    /// cannot be asked then has got everything from it.
    left: bool,
    /// The hosts that were passed over, until the end reports them.
    pub(super) missed: Vec<Missed>,
}

impl Next {
    /// Begins to build the ring.
    pub(super) fn new(hosts: Hosts, out: &mut Outbox) -> Self {
        let (link, missed) = (Link::None, Vec::new());
        let mut next =
            Self { hosts, link, tries: 0, returns: 0, ended: false, left: false, missed };
        next.invite(out);
        next
    }

    /// The ring is built no further than here.
    pub(super) const fn building(&self) -> bool {
        matches!(self.link, Link::Invite)
    }

    /// An old program's duty is done: no other host may need anything of it.
    pub(super) const fn passed_on(&self) -> bool {
        match self.link {
            Link::None | Link::Yielded => true,
            Link::Flow(_) => self.hosts.last(),
            _ => false,
        }
    }

    /// The position that must not be lost.
    pub(super) const fn needed(&self, backlog: &Backlog) -> u64 {
        match self.link {
            Link::Flow(_) if self.hosts.last() => backlog.end(),
            Link::Flow(position) => position,
            Link::None | Link::Yielded => backlog.end(),
            Link::Invite => 0,
            // What it will want is not known: nothing more is taken in.
            _ => backlog.brink(),
        }
    }

    /// The bytes to send to it now. The server needs the lists alone.
    pub(super) fn sending<'a>(&self, backlog: &'a Backlog) -> &'a [u8] {
        let Link::Flow(position) = self.link else { return &[] };
        let bytes = backlog.from(position).unwrap_or_default();
        let some = if self.hosts.last() {
            usize::try_from(backlog.round.saturating_sub(position)).unwrap_or(0)
        } else {
            bytes.len()
        };
        bytes.get(..some.min(bytes.len())).unwrap_or_default()
    }

    pub(super) const fn sent(&mut self, bytes: usize) {
        if let Link::Flow(position) = &mut self.link {
            *position += bytes as u64;
        }
    }

    /// A host has come before this one: the next one may be missing it.
    pub(super) fn fed(&mut self, out: &mut Outbox) {
        if matches!(self.link, Link::Yielded) {
            self.redial(Link::Ask, out);
        }
    }

    pub(super) fn connected(&mut self, out: &mut Outbox) {
        match &mut self.link {
            Link::Invite => {
                out.send(Conn::Next, wire::ring(&self.hosts.for_next()));
                self.link = Link::Flow(0);
            }
            Link::Ask => {
                out.command(Conn::Next, Command::Reconnect { exact: true });
                self.link = Link::Asked(Vec::new());
            }
            Link::Check(why) => {
                out.command(Conn::Next, Command::Ping);
                self.link = Link::Checked(core::mem::take(why), Vec::new());
            }
            Link::Again(position) => {
                let position = *position;
                out.say(format!("goes on with {}", self.hosts.next_name()));
                self.left = false;
                self.link = Link::Flow(position);
            }
            _ => {}
        }
    }

    pub(super) fn refused(
        &mut self,
        why: &str,
        backlog: &Backlog,
        out: &mut Outbox,
    ) -> Result<(), Error> {
        self.tries += 1;
        if let Link::Check(gone) = &mut self.link {
            let gone = core::mem::take(gone);
            self.pass_over(&gone, backlog, out);
            return Ok(());
        }
        if self.tries < TRIES {
            return Ok(());
        }
        if !self.building() {
            self.pass_over(why, backlog, out);
            return Ok(());
        }
        if self.hosts.last() {
            return Err(Error::Gone {
                protocol: NAME,
                peer: "the server".to_owned(),
                when: "while the ring was built",
            });
        }
        out.say(format!("{} is left out: {why}", self.hosts.next_name()));
        self.hosts.skip();
        self.invite(out);
        Ok(())
    }

    /// The answer of one that was asked; what comes otherwise says nothing.
    pub(super) fn heard(&mut self, bytes: &[u8], backlog: &Backlog, out: &mut Outbox) {
        let (Link::Asked(answer) | Link::Checked(_, answer)) = &mut self.link else { return };
        answer.extend_from_slice(bytes);
        let command = match Command::take(answer, self.hosts.next_name()) {
            Ok(None) => return,
            command => command.ok().flatten(),
        };
        if let Link::Checked(gone, _) = &mut self.link {
            let gone = core::mem::take(gone);
            return self.checked(command, &gone, backlog, out);
        }
        let position = match command {
            Some(Command::ReconnectFrom { sequence, exact }) => {
                exact.or_else(|| backlog.find(sequence))
            }
            _ => None,
        };
        match position.filter(|p| backlog.from(*p).is_some()) {
            Some(position) => self.redial(Link::Again(position), out),
            None => self.pass_over("what it needs is gone", backlog, out),
        }
    }

    /// One that seemed gone is there.
    fn checked(
        &mut self,
        answer: Option<Command>,
        gone: &str,
        backlog: &Backlog,
        out: &mut Outbox,
    ) {
        self.returns += 1;
        let fed = |text: &str| text.ends_with(FED);
        // Behind a host that has passed everything on: one of ours says what it has got. The
        // old program needs nothing, and aborts when it is asked where to go on.
        let old = |text: &str| !fed(text) && text.parse::<u64>().is_err();
        match answer {
            Some(Command::Pong(text)) if if self.left { old(&text) } else { fed(&text) } => {
                out.close(Conn::Next);
                self.link = Link::Yielded;
            }
            Some(_) if self.returns < TRIES => self.redial(Link::Ask, out),
            _ => self.pass_over(gone, backlog, out),
        }
    }

    pub(super) fn closed(&mut self, why: &str, backlog: &Backlog, place: Place, out: &mut Outbox) {
        match &mut self.link {
            // It was not invited yet: the lost host was to do that.
            Link::Asked(_) if backlog.is_empty() => self.invite(out),
            Link::Asked(_) => self.pass_over("it does not say where to go on", backlog, out),
            Link::Checked(gone, _) => {
                let gone = core::mem::take(gone);
                self.pass_over(&gone, backlog, out);
            }
            // Old programs leave when they have sent everything on.
            Link::Flow(_) if self.ended && !place.ours => {
                self.cut(out);
            }
            // The server has the lists, or has gone itself.
            Link::Flow(_) if self.hosts.last() => self.cut(out),
            Link::Flow(_) if place.fed => {
                self.left = self.ended && why == HAS_CLOSED;
                self.redial(Link::Check(why.to_owned()), out);
            }
            Link::Flow(_) => {
                out.close(Conn::Next);
                self.link = Link::Yielded;
            }
            _ => {}
        }
    }

    pub(super) fn advance(&mut self, backlog: &Backlog, out: &mut Outbox) {
        match &self.link {
            Link::Flow(position) if self.hosts.last() => {
                let behind = *position < backlog.round && backlog.from(*position).is_none();
                if behind {
                    self.cut(out);
                }
            }
            Link::Flow(position) => {
                let over = backlog.complete && *position == backlog.end();
                if over && !self.ended {
                    out.end(Conn::Next);
                    self.ended = true;
                }
            }
            _ => {}
        }
    }

    /// The next one is gone; the one after it is asked.
    fn pass_over(&mut self, why: &str, backlog: &Backlog, out: &mut Outbox) {
        let name = self.hosts.next_name().to_owned();
        match self.left {
            true => out.say(format!("{name} has everything, and has gone")),
            false => out.say(format!("{name} is passed over: {why}")),
        }
        self.missed.push(Missed { name, left: self.left });
        self.returns = 0;
        if backlog.is_empty() {
            // Who takes part is not known yet.
            self.hosts.skip();
        } else {
            self.hosts.pass_over();
        }
        if !self.hosts.last() && self.left {
            self.redial(Link::Check(why.to_owned()), out);
        } else if !self.hosts.last() {
            self.redial(Link::Ask, out);
        } else if backlog.has_files() || self.hosts.alone() {
            self.cut(out);
        } else {
            self.invite(out);
        }
    }

    fn cut(&mut self, out: &mut Outbox) {
        out.close(Conn::Next);
        self.link = Link::None;
    }

    fn invite(&mut self, out: &mut Outbox) {
        if self.hosts.alone() {
            self.cut(out);
        } else {
            self.redial(Link::Invite, out);
        }
    }

    fn redial(&mut self, link: Link, out: &mut Outbox) {
        out.close(Conn::Next);
        let host = self.hosts.next_name();
        match link {
            Link::Ask | Link::Check(_) => out.dial_control(Conn::Next, host),
            _ => out.dial_data(Conn::Next, host),
        }
        self.link = link;
        self.tries = 0;
        self.ended = false;
    }
}
