//! The link to the next host: while the ring is built, while data flows, and past a
//! host that has gone.
//!
//! A host that does not take our connection while the ring is built is left out, and
//! the one after it invited. One that goes later is passed over: whoever comes after
//! it is asked on its command port from where on it needs the stream, and gets it
//! from there. Who has lost the host before as well has been passed over itself, or
//! will be asked by another; it bothers nobody until then.

use super::backlog::Backlog;
use super::hosts::Hosts;
use super::io::{Conn, Outbox};
use super::wire::{self, Command};
use super::{NAME, TRIES};
use crate::Error;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

#[derive(Debug)]
enum Link {
    /// Its data port is dialled, to invite it into the ring.
    Invite,
    /// Its command port is dialled.
    Ask,
    /// It was asked where to go on; so much of the answer has come.
    Asked(Vec<u8>),
    /// It said so; its data port is dialled.
    Again(u64),
    /// It is sent the stream from here on.
    Flow(u64),
    /// It has gone, and so has the host before this one.
    Stranded(String),
    /// There is nobody behind this host.
    Nobody,
}

/// What an end knows of its place in the ring when it decides about the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The stream still comes, or has come whole.
    pub(super) fed: bool,
    /// The server verifies: hosts stay until it has told them its verdict.
    pub(super) ours: bool,
}

/// The link.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) hosts: Hosts,
    link: Link,
    /// Tries to connect that failed.
    tries: u32,
    /// All was sent, and the end of it.
    ended: bool,
    /// Those that were passed over, until somebody asks.
    pub(super) lost: Vec<String>,
}

impl Next {
    /// Begins to build the ring.
    pub(super) fn new(hosts: Hosts, out: &mut Outbox) -> Self {
        let mut next = Self { hosts, link: Link::Nobody, tries: 0, ended: false, lost: Vec::new() };
        next.invite(out);
        next
    }

    /// The ring is built no further than here.
    pub(super) const fn building(&self) -> bool {
        matches!(self.link, Link::Invite)
    }

    /// An old program's duty is done: there is nobody who may need anything.
    pub(super) const fn passed_on(&self) -> bool {
        match self.link {
            Link::Nobody => true,
            Link::Flow(_) => self.hosts.last(),
            _ => false,
        }
    }

    /// The position that must not be lost.
    pub(super) const fn needed(&self, backlog: &Backlog) -> u64 {
        match self.link {
            Link::Flow(_) if self.hosts.last() => backlog.end(),
            Link::Flow(position) => position,
            Link::Nobody => backlog.end(),
            Link::Invite => 0,
            // What it will want is not known: nothing more is taken in.
            _ => backlog.brink(),
        }
    }

    /// What it is to be sent now. The server needs the lists alone.
    pub(super) fn sending<'a>(&self, backlog: &'a Backlog) -> &'a [u8] {
        let Link::Flow(position) = self.link else { return &[] };
        let bytes = backlog.from(position).unwrap_or_default();
        let some = if self.hosts.last() {
            usize::try_from(backlog.lists.saturating_sub(position)).unwrap_or(0)
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

    pub(super) fn connected(&mut self, out: &mut Outbox) {
        match self.link {
            Link::Invite => {
                out.send(Conn::Next, wire::ring(&self.hosts.for_next()));
                self.link = Link::Flow(0);
            }
            Link::Ask => {
                out.command(Conn::Next, &Command::Reconnect { exact: true });
                self.link = Link::Asked(Vec::new());
            }
            Link::Again(position) => {
                out.say(format!("goes on with {}", self.hosts.next_name()));
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
        let Link::Asked(answer) = &mut self.link else { return };
        answer.extend_from_slice(bytes);
        let position = match Command::take(answer, self.hosts.next_name()) {
            Ok(None) => return,
            Ok(Some(Command::ReconnectFrom { sequence, exact })) => {
                exact.or_else(|| backlog.find(sequence))
            }
            _ => None,
        };
        match position.filter(|p| backlog.from(*p).is_some()) {
            Some(position) => self.redial(Link::Again(position), out),
            None => self.pass_over("what it needs is gone", backlog, out),
        }
    }

    pub(super) fn closed(&mut self, why: &str, backlog: &Backlog, place: Place, out: &mut Outbox) {
        match self.link {
            // Nobody has invited it yet: the one that was lost was to do that.
            Link::Asked(_) if backlog.is_empty() => self.invite(out),
            Link::Asked(_) => self.pass_over("it does not say where to go on", backlog, out),
            // Old programs leave when they have sent everything on.
            Link::Flow(_) if self.ended && !place.ours => {
                out.close(Conn::Next);
                self.link = Link::Nobody;
            }
            Link::Flow(_) if !place.fed && !self.hosts.last() => {
                out.close(Conn::Next);
                self.link = Link::Stranded(why.to_owned());
            }
            Link::Flow(_) => self.pass_over(why, backlog, out),
            _ => {}
        }
    }

    pub(super) fn advance(&mut self, backlog: &Backlog, place: Place, out: &mut Outbox) {
        match &self.link {
            Link::Stranded(why) if place.fed => {
                let why = why.clone();
                self.pass_over(&why, backlog, out);
            }
            Link::Flow(position) if self.hosts.last() => {
                let behind = *position < backlog.lists && backlog.from(*position).is_none();
                if behind {
                    self.pass_over("it is too far behind", backlog, out);
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
        if self.hosts.last() {
            // The server has the lists, or has gone itself.
            self.nobody(out);
            return;
        }
        let name = self.hosts.next_name().to_owned();
        out.say(format!("{name} is passed over: {why}"));
        self.lost.push(name);
        self.ended = false;
        if backlog.is_empty() {
            // Who takes part is not known yet.
            self.hosts.skip();
        } else {
            self.hosts.pass_over();
        }
        if !self.hosts.last() {
            self.redial(Link::Ask, out);
        } else if backlog.has_files() || self.hosts.alone() {
            self.nobody(out);
        } else {
            self.invite(out);
        }
    }

    fn nobody(&mut self, out: &mut Outbox) {
        out.close(Conn::Next);
        self.link = Link::Nobody;
    }

    fn invite(&mut self, out: &mut Outbox) {
        if self.hosts.alone() {
            self.nobody(out);
        } else {
            self.redial(Link::Invite, out);
        }
    }

    fn redial(&mut self, link: Link, out: &mut Outbox) {
        out.close(Conn::Next);
        let host = self.hosts.next_name();
        match link {
            Link::Ask => out.dial_control(Conn::Next, host),
            _ => out.dial_data(Conn::Next, host),
        }
        self.link = link;
        self.tries = 0;
    }
}
