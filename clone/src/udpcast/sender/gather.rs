//! Before the first byte: receivers come, show that they know the key, and are enough.

use super::{Event, Machine, Sender, State, To};
use crate::Error;
use crate::guard::Announcement;
use crate::outcome::Standing;
use crate::pact::{Nonce, Pact};
use crate::udpcast::NAME;
use crate::udpcast::wire::{Capabilities, HelloKind, ToReceiver};
use core::net::Ipv4Addr;
use core::time::Duration;

/// Machines at most that are asked for the key, or called refused.
const MAX_GUESTS: usize = 4096;

impl Sender {
    /// What is known of the stream, and that this end knows the key.
    pub(super) fn announce(&mut self, to: Ipv4Addr, nonce: &Nonce) {
        let code = |pact: &Pact| (*pact.session(), pact.announce(nonce, &self.told.bytes()));
        let pact = self.pact.as_ref().map(code);
        self.reply(To::Machine(to), &ToReceiver::Announce(self.told, pact));
    }

    pub(super) fn guest(&self, from: Ipv4Addr) -> Option<&(Ipv4Addr, Nonce, bool)> {
        self.guests.iter().find(|guest| guest.0 == from)
    }

    /// Whether a receiver knows the key, where there is one.
    pub(super) fn proved(&self, from: Ipv4Addr) -> bool {
        self.pact.is_none() || self.guest(from).is_some_and(|guest| guest.2)
    }

    /// A receiver has not shown that it knows the key. One of ours is told that it needs one; one
    /// with a key asks first.
    pub(super) fn refuse(&mut self, from: Ipv4Addr) {
        self.announce(from, &Nonce::default());
        if !self.refused.contains(&from) && self.refused.len() < MAX_GUESTS {
            self.refused.push(from);
            self.events.push_back(Event::Refused(from));
        }
    }

    /// A receiver asks whether this end knows the key.
    pub(super) fn challenged(&mut self, from: Ipv4Addr, nonce: Nonce) {
        let known = self.guests.iter().any(|guest| guest.0 == from && guest.1 == nonce);
        if !known {
            self.guests.retain(|guest| guest.0 != from);
            if self.guests.len() >= MAX_GUESTS {
                return;
            }
            self.guests.push((from, nonce, false));
        }
        self.announce(from, &nonce);
    }

    pub(super) fn hello(&mut self, kind: HelloKind) {
        let packet = ToReceiver::Hello {
            kind,
            capabilities: self.capabilities(),
            group: self.config.group,
            block_size: self.config.block_size,
        };
        self.reply(To::Everybody, &packet);
    }

    pub(super) fn connect(
        &mut self,
        from: Ipv4Addr,
        known: Option<usize>,
        capabilities: Capabilities,
        now: Duration,
    ) {
        let open = self.state == State::Gathering
            || (self.config.streaming && self.state == State::Running && !self.end_cut);
        let client = match known {
            Some(i) => {
                if self.state == State::Gathering
                    && let Some(m) = self.machines.get_mut(i)
                {
                    m.standing = Standing::Receiving;
                }
                i
            }
            None if !open => return,
            None if self.machines.len() >= 1024 => usize::MAX,
            None => {
                let client = self.machines.len();
                // What is in flight was not meant for a late joiner.
                self.window.iter_mut().for_each(|s| s.ready.set(client));
                let missed = self.window.iter().map(|s| s.data.len() as u64).sum::<u64>();
                self.machines.push(Machine {
                    address: from,
                    standing: Standing::Receiving,
                    missed: self.acknowledged + missed,
                    verify: capabilities.has(Capabilities::VERIFY) && self.config.verify,
                    heard: false,
                });
                self.first_came.get_or_insert(now);
                self.events.push_back(Event::Joined(from));
                client
            }
        };
        let packet = ToReceiver::ConnectReply {
            client: i32::try_from(client).unwrap_or(-1),
            block_size: self.config.block_size,
            capabilities: self.capabilities(),
            group: if self.state == State::Gathering { self.config.group } else { self.group },
        };
        if self.pact.is_none()
            && self.told != Announcement::default()
            && capabilities.has(Capabilities::VERIFY)
        {
            self.announce(from, &Nonce::default());
        }
        self.reply(To::Machine(from), &packet);
    }

    pub(super) fn gather(&mut self, now: Duration) -> Result<(), Error> {
        if self.next_hello.is_some_and(|t| t <= now) {
            self.hello(HelloKind::Usual);
            self.hellos += 1;
            self.next_hello = self.config.hello_interval.map(|i| now + i);
        }
        let receivers = self.active().count();
        let since_first = self.first_came.map(|t| now.saturating_sub(t));
        let enough = self.config.min_receivers > 0
            && receivers >= usize::from(self.config.min_receivers)
            && since_first.is_some_and(|t| t >= self.config.min_wait);
        let waited = receivers > 0
            && self.config.max_wait.is_some_and(|w| since_first.is_some_and(|t| t >= w));
        let auto = self.config.autostart.is_some_and(|n| self.hellos > n);
        let alone = self.config.asynchronous || self.config.streaming;
        if (self.go && (receivers > 0 || alone))
            || enough
            || waited
            || (auto && (receivers > 0 || alone))
        {
            self.start(now);
            return Ok(());
        }
        let limit = (self.started_at, self.config.start_timeout);
        Error::stalled(NAME, "enough receivers", limit, now)
    }

    pub(super) fn start(&mut self, now: Duration) {
        self.state = State::Running;
        let receivers = self.active().count();
        let only = self.active().next().map(|(_, m)| m.address);
        if let Some(only) = only
            && receivers == 1
            && self.config.point_to_point
            && !self.config.asynchronous
            && !self.config.streaming
        {
            self.group = only;
        }
        self.next_send = now;
        self.events.push_back(Event::Started { receivers, to: self.group });
    }
}
