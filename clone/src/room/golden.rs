//! The sender: what it has, who is there, and who takes chunks from whom.
//!
//! Machines stand in a tree whose root is the sender: at first a chain in the order in which
//! they came. One that comes late goes to the end of the chain. When a machine cannot go on with
//! the one before it, it goes to the one before that, and at last to the sender: so there is
//! always a machine that has, or will have, what is missing.
//!
//! Machines that listen to the [multicast](super::cast) ask the sender first, and come into the
//! chain when it has ended.

use super::bits::Bits;
use super::cast::{Cast, Step};
use super::manifest::Manifest;
use super::serve::Serve;
use super::wire::{DIGESTS, Message, Verdict};
use super::{Act, Ask, Peer, Told};
use crate::outcome::{Client, Machines, Standing};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

/// So many digests are told together, unless one of the chunks is handed out.
const TOGETHER: usize = 64;
/// The most machines.
pub const MOST: usize = 4096;

#[derive(Debug)]
struct Seat {
    peer: Option<Peer>,
    name: String,
    address: SocketAddrV4,
    /// Chunks on its disk, once it has looked.
    have: Option<u32>,
    /// Whom it takes chunks from; nothing: the sender.
    parent: Option<usize>,
    attached: bool,
    verdict: Option<Verdict>,
    /// Bytes that came, once it has ended.
    came: Option<u64>,
    /// Since when it is gone.
    left: Duration,
}

impl Seat {
    fn live(&self) -> bool {
        self.peer.is_some() && !matches!(self.verdict, Some(Verdict::Failed(_)))
    }

    fn open(&self) -> bool {
        self.verdict.is_none()
    }
}

/// The sender.
#[derive(Debug)]
pub struct Golden {
    manifest: Arc<Manifest>,
    bytes: Arc<Vec<u8>>,
    all: Bits,
    /// Whose digests all machines were told, and those of which they are to be told.
    announced: Bits,
    fresh: Vec<u32>,
    /// The next chunk that is read for its digest alone.
    next: u32,
    seats: Vec<Seat>,
    /// The machine at which the next one is put.
    tail: Option<usize>,
    wanted: usize,
    started: Option<Duration>,
    serve: Serve,
    /// What machines said that have all and have not ended.
    finishing: u64,
    cast: Option<Cast>,
    acts: VecDeque<Act>,
}

impl Golden {
    /// With this manifest, for so many machines: it begins when they are there. The manifest
    /// knows the digests of its samples, perhaps all.
    #[must_use]
    pub fn new(manifest: Arc<Manifest>, wanted: usize) -> Self {
        let bytes = Arc::new(manifest.layout.bytes());
        let count = manifest.layout.count();
        let mut announced = Bits::new(count);
        (0..count).filter(|n| manifest.digest(*n).is_some()).for_each(|n| announced.add(n));
        Self {
            all: Bits::full(count),
            announced,
            fresh: Vec::new(),
            next: 0,
            manifest,
            bytes,
            seats: Vec::new(),
            tail: None,
            wanted,
            started: None,
            serve: Serve::default(),
            finishing: 0,
            cast: None,
            acts: VecDeque::new(),
        }
    }

    /// What many machines lack goes by this.
    #[must_use]
    pub fn multicast(self, cast: Cast) -> Self {
        Self { cast: Some(cast), ..self }
    }

    /// What is to be done next.
    pub fn act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    /// When the first chunk could go.
    #[must_use]
    pub const fn started(&self) -> Option<Duration> {
        self.started
    }

    /// Chunks that this machine has handed out.
    #[must_use]
    pub const fn sent(&self) -> u64 {
        self.serve.sent
    }

    /// Changes as long as machines that have all say that they read it back. One whose disk does
    /// not go on gives up by itself.
    #[must_use]
    pub const fn finishing(&self) -> u64 {
        self.finishing
    }

    /// Chunks on the disks of all machines, and how many these can have.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let have = self.seats.iter().map(|seat| u64::from(self.has(seat)));
        (have.sum(), u64::from(self.all.len()) * self.seats.len() as u64)
    }

    /// A message from a machine at this address.
    ///
    /// # Errors
    /// What is wrong with it: the connection is of no use.
    pub fn heard(
        &mut self,
        peer: Peer,
        from: Ipv4Addr,
        message: Message,
        now: Duration,
    ) -> Result<(), &'static str> {
        let seat = self.seats.iter().position(|seat| seat.peer == Some(peer));
        match (message, seat) {
            (Message::Join { name, port }, None) => {
                return self.join(peer, SocketAddrV4::new(from, port), &name);
            }
            (Message::State(have), Some(at)) => {
                if have > self.all.len() {
                    return Err("has more chunks than there are");
                }
                self.finishing += u64::from(have == self.all.len());
                if let Some(seat) = self.seats.get_mut(at) {
                    seat.have = Some(have);
                }
                self.form(now);
            }
            (Message::Lost, Some(at)) => self.pass(at),
            (Message::Want { session, bits }, Some(at)) => {
                if session != self.manifest.session() {
                    return Err("wants chunks of another copy");
                }
                let bits = Bits::read(self.all.len(), &bits);
                let bits = bits.ok_or("wants chunks that do not exist")?;
                // One that was just sent to another machine gets them there.
                if self.seats.get(at).is_some_and(|seat| seat.parent.is_none()) {
                    self.serve.want(peer, bits);
                }
            }
            (Message::Heard(heard), Some(at)) => {
                if heard.have > self.all.len() {
                    return Err("has more chunks than there are");
                }
                if let Some(seat) = self.seats.get_mut(at) {
                    seat.have = seat.have.map(|_| heard.have);
                }
                if let Some(cast) = &mut self.cast {
                    cast.heard(peer, &heard, now);
                }
            }
            (Message::Done(verdict, came), Some(at)) => {
                if let Some(seat) = self.seats.get_mut(at) {
                    let text = match &verdict {
                        Verdict::Failed(why) => format!("FAILED: {why}"),
                        Verdict::Verified => "verified".to_string(),
                        Verdict::Whole => "received whole, not read back".to_string(),
                    };
                    self.acts.push_back(Act::News(format!("{}: {text}", seat.name)));
                    (seat.verdict, seat.came) = (Some(verdict), Some(came));
                    seat.have = seat.have.or(Some(0));
                }
                if let Some(cast) = &mut self.cast {
                    cast.gone(peer);
                }
                self.form(now);
            }
            (Message::Ping, _) => {}
            _ => return Err("says what is not its to say"),
        }
        Ok(())
    }

    fn join(&mut self, peer: Peer, address: SocketAddrV4, name: &str) -> Result<(), &'static str> {
        // One that was here before and has lost its connection, or was started anew.
        let old = self.seats.iter().position(|s| {
            s.name == name
                && s.address.ip() == address.ip()
                && (s.peer.is_none() || s.address == address)
        });
        let seat = Seat {
            peer: Some(peer),
            name: name.to_string(),
            address,
            have: None,
            parent: None,
            attached: false,
            verdict: None,
            came: None,
            left: Duration::ZERO,
        };
        let back = if let Some(at) = old {
            self.leave(at, true);
            if let Some(gone) = self.seats.get(at).and_then(|old| old.peer) {
                self.acts.push_back(Act::Hang(gone));
            }
            if let Some(old) = self.seats.get_mut(at) {
                *old = seat;
            }
            " is back"
        } else if self.seats.len() < MOST {
            self.seats.push(seat);
            " has joined"
        } else {
            return Err("is one machine too many");
        };
        let total = self.seats.len();
        self.acts.push_back(Act::News(format!(
            "{name} ({}){back}; {}",
            address.ip(),
            Machines(total)
        )));
        self.acts.push_back(Act::Say(peer, Message::Manifest(self.bytes.clone())));
        let known: Vec<u32> = self.announced.iter().collect();
        self.digests(&known, &[peer]);
        self.acts.push_back(Act::Say(peer, Message::Known(self.root())));
        if let Some(group) = self.cast.as_ref().and_then(Cast::group) {
            self.acts.push_back(Act::Say(peer, Message::Group(Some(group))));
        }
        Ok(())
    }

    /// When all digests were told.
    fn root(&self) -> Option<[u8; 32]> {
        self.announced.not().is_empty().then(|| *self.manifest.root())
    }

    fn digests(&mut self, of: &[u32], to: &[Peer]) {
        for some in of.chunks(DIGESTS) {
            let pair = |n: &u32| Some((*n, self.manifest.digest(*n)?));
            let some: Vec<_> = some.iter().filter_map(pair).collect();
            for peer in to {
                self.acts.push_back(Act::Say(*peer, Message::Digests(some.clone())));
            }
        }
    }

    /// Tells all machines what was learned.
    fn announce(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        let fresh = core::mem::take(&mut self.fresh);
        let peers: Vec<Peer> = self.seats.iter().filter_map(|seat| seat.peer).collect();
        self.digests(&fresh, &peers);
        fresh.iter().for_each(|n| self.announced.add(*n));
        if let Some(root) = self.root() {
            let known = |peer: &Peer| Act::Say(*peer, Message::Known(Some(root)));
            self.acts.extend(peers.iter().map(known));
        }
    }

    fn learned(&mut self, n: u32) {
        if !self.announced.has(n) && !self.fresh.contains(&n) {
            self.fresh.push(n);
        }
        if self.fresh.len() >= TOGETHER || self.manifest.missing() == 0 {
            self.announce();
        }
    }

    /// The next chunk to be read for its digest, while a machine may wait for it: before the
    /// copy begins, and when the disk of a machine may have chunks already.
    pub fn digest_next(&mut self) -> Option<u32> {
        let waits = |seat: &Seat| seat.peer.is_some() && seat.open() && seat.have.is_none();
        if self.started.is_some() && !self.seats.iter().any(waits) {
            return None;
        }
        let next = self.manifest.unknown(self.next).or_else(|| self.manifest.unknown(0))?;
        self.next = next;
        Some(next)
    }

    /// Whether this connection is that of a machine.
    #[must_use]
    pub fn knows(&self, peer: Peer) -> bool {
        self.seats.iter().any(|seat| seat.peer == Some(peer))
    }

    /// Begins with who is there.
    pub fn start(&mut self, now: Duration) {
        if self.started.is_none() {
            self.started = Some(now);
            self.acts.push_back(Act::News(format!("begins with {}", Machines(self.seats.len()))));
            self.form(now);
        }
    }

    /// From now on it begins when so many machines are there.
    pub fn want(&mut self, wanted: usize, now: Duration) {
        self.wanted = wanted;
        let there = self.seats.len();
        self.acts
            .push_back(Act::News(format!("begins with {}; {there} are there", Machines(wanted))));
        self.form(now);
    }

    /// Whether a machine that gets a copy is there.
    #[must_use]
    pub fn some(&self) -> bool {
        self.seats.iter().any(Seat::open)
    }

    /// Whether a machine that is there still reads what its disk has. It says nothing meanwhile; one
    /// whose disk does not go on gives up by itself.
    #[must_use]
    pub fn looks(&self) -> bool {
        self.seats.iter().any(|seat| seat.live() && seat.open() && seat.have.is_none())
    }

    /// How many chunks the disk of each of [`Golden::clients`] has.
    #[must_use]
    pub fn have(&self) -> Vec<u32> {
        self.seats.iter().map(|seat| self.has(seat)).collect()
    }

    fn has(&self, seat: &Seat) -> u32 {
        match seat.verdict {
            Some(Verdict::Verified | Verdict::Whole) => self.all.len(),
            _ => seat.have.unwrap_or(0),
        }
    }

    /// Puts every machine that is ready in its place.
    fn form(&mut self, now: Duration) {
        let ready = self.seats.iter().filter(|seat| seat.live() && seat.have.is_some()).count();
        if self.started.is_none() {
            if ready >= self.wanted.max(1) {
                self.start(now);
            }
            return;
        }
        if !self.cast_to(now) {
            return;
        }
        let ready = |s: &Seat| s.live() && s.open() && s.have.is_some() && !s.attached;
        let mut ready: Vec<usize> =
            (0..self.seats.len()).filter(|at| self.seats.get(*at).is_some_and(ready)).collect();
        if self.cast.is_some() {
            // Behind a multicast: who has all hands it to the others.
            ready.sort_by_key(|at| core::cmp::Reverse(self.seats.get(*at).and_then(|s| s.have)));
        }
        for at in ready {
            let tail = self.tail.filter(|tail| self.above(*tail, at) && self.usable(*tail));
            self.attach(at, tail);
            self.tail = Some(at);
        }
    }

    /// Machines that listen get their chunks by multicast. False when it is not known yet which
    /// do.
    fn cast_to(&mut self, now: Duration) -> bool {
        let Some(cast) = &mut self.cast else { return true };
        let all = self.all.len();
        let lacks = |(at, seat): (usize, &Seat)| {
            let ready = seat.live() && seat.open() && !seat.attached;
            let lacks = all - seat.have.filter(|_| ready)?;
            (lacks > 0).then_some((at, seat.peer?, lacks))
        };
        let lack: Vec<(usize, Peer, u32)> =
            self.seats.iter().enumerate().filter_map(lacks).collect();
        if cast.waits() {
            let lack: Vec<(Peer, u32)> =
                lack.iter().map(|(_, peer, lacks)| (*peer, *lacks)).collect();
            if !cast.begin(&lack, now) {
                return false;
            }
        } else if cast.runs() {
            lack.iter().for_each(|(_, peer, _)| cast.add(*peer));
        }
        let member = |(at, peer, _): &(usize, Peer, u32)| cast.member(*peer).then_some(*at);
        let members: Vec<usize> = lack.iter().filter_map(member).collect();
        // Who does not listen takes chunks from one that does.
        self.tail = self.tail.or(members.first().copied());
        members.into_iter().for_each(|at| self.attach(at, None));
        true
    }

    /// The next datagrams of the multicast, and the size of each but the last; nothing when none
    /// may go before what [`Golden::act`] has is done, or before something arrives.
    pub fn cast(&mut self, buffer: &mut Vec<u8>, now: Duration) -> Option<usize> {
        while let Some(step) = self.cast.as_mut()?.step(&mut self.serve, now) {
            match step {
                Step::Read(n) => {
                    self.acts.push_back(Act::Disk(Ask::Read(n)));
                    break;
                }
                Step::Begins => self.form(now),
                Step::Says(text) => self.acts.push_back(Act::News(text)),
                Step::Leaves(peer, why) => self.leaves_cast(peer, &why),
                Step::Ends(why) => self.end_cast(why, now),
            }
        }
        self.cast.as_mut()?.fill(buffer, now)
    }

    /// A machine that gets chunks by multicast.
    #[must_use]
    pub fn listener(&self) -> Option<Peer> {
        let member = |peer: &Peer| self.cast.as_ref().is_some_and(|cast| cast.member(*peer));
        self.seats.iter().filter_map(|seat| seat.peer).find(member)
    }

    /// How long the multicast needs nothing.
    #[must_use]
    pub fn nap(&self, now: Duration) -> Option<Duration> {
        self.cast.as_ref().and_then(|cast| cast.nap(now))
    }

    /// Nothing can be sent to the group.
    pub fn uncast(&mut self, why: &str) {
        if let Some(cast) = &mut self.cast {
            cast.end(Some(why.to_string()));
        }
    }

    fn leaves_cast(&mut self, peer: Peer, why: &str) {
        self.serve.gone(peer);
        let Some(at) = self.seats.iter().position(|seat| seat.peer == Some(peer)) else { return };
        let name = self.seats.get(at).map_or("", |seat| &seat.name);
        let text = format!("{name} {why}: it takes chunks from other machines");
        self.acts.push_back(Act::News(text));
        self.acts.push_back(Act::Say(peer, Message::Group(None)));
        let fits = |to: &usize| *to != at && self.above(*to, at) && self.usable(*to);
        let to = self.tail.filter(fits).or_else(|| (0..self.seats.len()).find(fits));
        self.attach(at, to);
        self.tail = Some(at);
    }

    /// All go on as a chain.
    fn end_cast(&mut self, why: Option<String>, now: Duration) {
        if let Some(why) = why {
            self.acts
                .push_back(Act::News(format!("no multicast: {why}; a chain brings the chunks")));
        }
        let all = self.cast.as_mut().map(Cast::release).unwrap_or_default();
        let took_part = all.iter().any(|(_, member)| *member);
        for (peer, member) in all {
            self.acts.push_back(Act::Say(peer, Message::Group(None)));
            let Some(seat) = self.seats.iter_mut().find(|seat| seat.peer == Some(peer)) else {
                continue;
            };
            if member {
                self.serve.gone(peer);
                // One that has all needs no other machine.
                seat.attached = seat.have == Some(self.all.len());
                seat.parent = None;
            }
        }
        if took_part {
            let whole = |seat: &Seat| seat.live() && seat.have == Some(self.all.len());
            self.tail = self.seats.iter().position(whole);
            self.form(now);
        }
    }

    fn usable(&self, at: usize) -> bool {
        self.seats.get(at).is_some_and(|seat| seat.live() && (seat.attached || !seat.open()))
    }

    /// Whether `lower` is not `at`, and `at` is not below it.
    fn above(&self, at: usize, lower: usize) -> bool {
        let (mut next, mut steps) = (Some(at), 0);
        while let Some(one) = next {
            if one == lower || steps > self.seats.len() {
                return false;
            }
            next = self.seats.get(one).and_then(|seat| seat.parent);
            steps += 1;
        }
        true
    }

    fn attach(&mut self, at: usize, parent: Option<usize>) {
        let address = parent.and_then(|parent| self.seats.get(parent)).map(|seat| seat.address);
        if let Some(seat) = self.seats.get_mut(at) {
            (seat.parent, seat.attached) = (parent, true);
            self.acts.extend(seat.peer.map(|peer| Act::Say(peer, Message::From(address))));
        }
    }

    /// This machine cannot go on with the one before it.
    fn pass(&mut self, at: usize) {
        let before = self.seats.get(at).and_then(|seat| seat.parent);
        let mut next = before.and_then(|before| self.seats.get(before)).and_then(|s| s.parent);
        while let Some(one) = next.filter(|one| !self.usable(*one)) {
            next = self.seats.get(one).and_then(|seat| seat.parent);
        }
        self.attach(at, next.filter(|next| self.above(*next, at)));
    }

    /// A connection has ended.
    pub fn gone(&mut self, peer: Peer, now: Duration) {
        self.serve.gone(peer);
        if let Some(cast) = &mut self.cast {
            cast.gone(peer);
        }
        let Some(at) = self.seats.iter().position(|seat| seat.peer == Some(peer)) else { return };
        if let Some(seat) = self.seats.get_mut(at) {
            (seat.peer, seat.left) = (None, now);
            if seat.open() {
                self.acts.push_back(Act::News(format!("{} is lost", seat.name)));
            }
        }
        self.leave(at, false);
    }

    /// No copy is behind it any more, and it is behind none.
    fn leave(&mut self, at: usize, and_children: bool) {
        let parent = self.seats.get(at).and_then(|seat| seat.parent);
        if self.tail == Some(at) {
            self.tail = parent;
        }
        let behind: Vec<usize> = (0..self.seats.len())
            .filter(|c| self.seats.get(*c).is_some_and(|s| s.parent == Some(at)))
            .collect();
        for child in behind {
            // Those that still stand say so themselves when they lose it, unless it was
            // started anew meanwhile.
            if and_children {
                self.pass(child);
            }
        }
        if let Some(seat) = self.seats.get_mut(at).filter(|_| and_children) {
            (seat.attached, seat.parent) = (false, None);
        }
    }

    /// The disk's answer.
    pub fn told(&mut self, told: Told) {
        match told {
            Told::Read(n, Some(data)) => {
                self.learned(n);
                let cast = self.cast.as_mut();
                match cast.is_some_and(|cast| cast.at_hand(n, &data, &self.serve)) {
                    true => self.announce(),
                    false => self.serve.at_hand(n, &data),
                }
            }
            Told::Digested(n) => self.learned(n),
            Told::Read(n, None) => self.serve.unreadable(n),
            _ => {}
        }
    }

    /// The connection to this machine has room for a chunk; false when there is none for it.
    pub fn feed(&mut self, peer: Peer) -> bool {
        if self.cast.as_ref().is_some_and(|c| c.member(peer) && !c.compares(peer, &self.serve)) {
            return false;
        }
        let act = self.serve.next(peer, &self.manifest, &self.all);
        if matches!(act, Some(Act::Say(..))) {
            self.announce();
        }
        let some = act.is_some();
        self.acts.extend(act);
        some
    }

    /// Whether no copy needs this machine: all are there that were wanted, and each has ended, or
    /// was gone for so long.
    #[must_use]
    pub fn over(&self, patience: Duration, now: Duration) -> bool {
        let over = |seat: &Seat| match seat.peer {
            _ if !seat.open() => true,
            Some(_) => false,
            None => now.saturating_sub(seat.left) >= patience,
        };
        self.started.is_some() && !self.seats.is_empty() && self.seats.iter().all(over)
    }

    /// Sends all machines home; `why` when the copy cannot go on.
    pub fn end(&mut self, why: &str) {
        for peer in self.seats.iter().filter_map(|seat| seat.peer) {
            self.acts.push_back(Act::Say(peer, Message::End(why.to_string())));
        }
    }

    /// How it stands with each machine.
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        let standing = |seat: &Seat| match (&seat.verdict, seat.peer, seat.have) {
            (Some(Verdict::Verified), ..) => Standing::Verified,
            (Some(Verdict::Whole), ..) => Standing::Whole,
            (Some(Verdict::Failed(why)), ..) => Standing::failed(why),
            (None, None, _) => Standing::lost("its connection ended, and it did not come back"),
            (None, Some(_), None) => Standing::Waiting,
            (None, Some(_), Some(_)) => Standing::Receiving,
        };
        let client = |seat: &Seat| Client {
            name: seat.name.clone(),
            address: Some(*seat.address.ip()),
            standing: standing(seat),
            came: seat.came,
        };
        self.seats.iter().map(client).collect()
    }
}
