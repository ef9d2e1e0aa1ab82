//! The order of the hosts in the ring.

use super::wire::{Flag, Host};
use alloc::vec::Vec;

/// The list as one node sees it. The first entry is the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    all: Vec<Host>,
    own: usize,
    /// The one that this node sends to, or tries to.
    next: usize,
}

impl Hosts {
    /// The server's, before anyone is reached.
    #[must_use]
    pub fn of_server(server: &str, clients: &[alloc::string::String]) -> Self {
        let entry = |name: &str, flag| Host { flag, name: name.into() };
        let mut all = alloc::vec![entry(server, Flag::Available)];
        all.extend(clients.iter().map(|name| entry(name, Flag::Absent)));
        Self { next: 1 % all.len(), all, own: 0 }
    }

    /// A client's, from the packet that builds the ring: it is the one marked so,
    /// whatever it calls itself. Nothing when no host is marked.
    #[must_use]
    pub fn of_client(list: Vec<Host>) -> Option<Self> {
        let own = list.iter().position(|h| h.flag == Flag::You).filter(|own| *own > 0)?;
        let mut hosts = Self { next: (own + 1) % list.len(), all: list, own };
        hosts.mark(own, Flag::Available);
        Some(hosts)
    }

    fn mark(&mut self, index: usize, flag: Flag) {
        if let Some(host) = self.all.get_mut(index) {
            host.flag = flag;
        }
    }

    /// The list to build the ring with, for the next. The server needs no mark to know itself,
    /// and repeats what it is sent.
    #[must_use]
    pub fn for_next(&self) -> Vec<Host> {
        let mut list = self.all.clone();
        if let Some(host) = list.get_mut(self.next).filter(|_| !self.last()) {
            host.flag = Flag::You;
        }
        list
    }

    /// The final list takes the place of the one known so far.
    pub fn settle(&mut self, list: &[Host]) {
        if list.len() == self.all.len() {
            for (own, new) in self.all.iter_mut().zip(list) {
                own.flag = if new.flag == Flag::Absent { Flag::Absent } else { Flag::Available };
            }
        }
    }

    /// The next host cannot be reached while the ring is built. The one after it in the
    /// list takes its place, at the latest the server.
    pub fn skip(&mut self) {
        self.mark(self.next, Flag::Absent);
        self.next = (self.next + 1) % self.all.len().max(1);
    }

    /// The next host has gone while data flows. The one after it that took part takes its
    /// place.
    pub fn pass_over(&mut self) {
        self.mark(self.next, Flag::Absent);
        let behind = (self.next + 1..self.all.len())
            .find(|i| self.all.get(*i).is_some_and(|h| h.flag != Flag::Absent));
        self.next = behind.unwrap_or(0);
    }

    /// Whether this node is the last.
    #[must_use]
    pub const fn last(&self) -> bool {
        self.next == 0
    }

    /// Whether this is the server, and no client is left.
    #[must_use]
    pub const fn alone(&self) -> bool {
        self.next == self.own
    }

    /// This node's name in the list.
    #[must_use]
    pub fn own_name(&self) -> &str {
        self.all.get(self.own).map_or("", |h| &h.name)
    }

    /// The name of the next.
    #[must_use]
    pub fn next_name(&self) -> &str {
        self.all.get(self.next).map_or("", |h| &h.name)
    }

    /// The server's name.
    #[must_use]
    pub fn server_name(&self) -> &str {
        self.all.first().map_or("", |h| &h.name)
    }

    /// This node's place, and how many clients are listed.
    #[must_use]
    pub fn place(&self) -> (usize, usize) {
        (self.own, self.all.len().saturating_sub(1))
    }

    /// The whole list.
    #[must_use]
    pub fn all(&self) -> &[Host] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_with_one_host_absent() {
        let names: Vec<_> = ["a", "b", "c"].map(Into::into).to_vec();
        let server = Hosts::of_server("s", &names);
        assert_eq!(server.next_name(), "a");
        let mut a = Hosts::of_client(server.for_next()).unwrap();
        assert_eq!((a.own_name(), a.next_name(), a.place()), ("a", "b", (1, 3)));
        a.skip();
        assert_eq!(a.next_name(), "c");
        let c = Hosts::of_client(a.for_next()).unwrap();
        let flags: Vec<_> = c.for_next().iter().map(|h| h.flag).collect();
        assert_eq!(flags, [Flag::Available, Flag::Available, Flag::Absent, Flag::Available]);
        assert!(c.last());
        let mut server = server;
        server.settle(&c.for_next());
        server.pass_over();
        assert_eq!(server.next_name(), "c", "the absent one is not asked");
        server.pass_over();
        assert!(server.last());
        assert_eq!(
            Hosts::of_client(
                names
                    .iter()
                    .map(|n: &alloc::string::String| Host { flag: Flag::Absent, name: n.clone() })
                    .collect()
            ),
            None
        );
    }
}
