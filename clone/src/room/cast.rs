//! The sender's multicast: each chunk that several machines lack is sent once, in datagrams.
//!
//! Machines that listen report on their connections what has come. The first chunks are a probe:
//! who hears too little of them takes chunks from other machines. Where a single connection is
//! more than [twice](Cast::faster) as fast, all do. After that the reports decide how fast it
//! goes: no faster than the slowest disk, and than what arrives at the slowest machine, unless
//! that one alone is slow. Pieces that are missing are sent again while the chunk is held. What
//! is then still missing the machines get down the chain.

use super::Peer;
use super::bits::Bits;
use super::datagram::{Datagram, HEAD, PIECE, pieces};
use super::ear::STOP;
use super::serve::Serve;
use super::wire::{Group, Heard};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

/// Chunks of the probe, and then of the probe of a connection.
const PROBE: u32 = 4;
/// Machines that lack no more than this are not worth a probe.
const WORTH: u32 = 32;
/// With so many machines that lack chunks a probe is made.
const MANY: usize = 3;
/// The least that a machine hears of what the best one hears of the probe, and the least that this
/// one hears of all of it, in hundredths.
const HEARS: [u64; 2] = [70, 5];
/// The probe has been heard when nothing more of it was for so long.
const ECHO: Duration = Duration::from_millis(300);
/// The same while a machine that listens has heard nothing: a busy one may be late, and so may the
/// switch that was told of it.
const LATE: Duration = Duration::from_secs(1);
/// Datagrams have come, or are lost, so long after the last one was sent and after the machine has
/// told that one came: what is on its way comes in order.
const FLIES: Duration = Duration::from_millis(50);
/// What is probed has so much time.
const TRIAL: Duration = Duration::from_secs(3);
/// Machines have so much time to say that they listen, when the copy begins.
const CALL: Duration = Duration::from_millis(300);
/// Machines have so much time to say what they lack.
const GATHER: Duration = Duration::from_secs(1);
/// Datagrams that may be on their way, for reports each 10 ms: 4 MiB.
const WINDOW: u32 = 2888;
/// A machine that holds up others for so long goes on alone.
const HOLDS: Duration = Duration::from_secs(1);
/// A machine that lags so far, and has heard nothing for so long, hears nothing more: a switch may
/// end a group that no router asks for (RFC 4541).
const DEAF: Duration = Duration::from_secs(3);
/// How often the rate changes.
const ROUND: Duration = Duration::from_millis(100);
/// A machine with less datagrams in a round says nothing about the rate.
const TELLING: u32 = 200;
/// Lost datagrams, in thousandths: fewer are no reason to send faster, more to send slower, and
/// so many are another network's rate.
const LOSS: [u32; 3] = [30, 100, 500];
/// Chunks that are held for pieces that are missing: so many, and so many bytes.
const HELD: (usize, usize) = (64, 64 << 20);
/// A chunk's pieces are sent again so often.
const TRIES: u8 = 6;
/// So many datagrams go to the system together.
const TOGETHER: usize = 44;
/// A machine that loses too much alone does so for so long before it goes on alone: one that was busy
/// for a moment stays.
const LASTS: Duration = Duration::from_millis(500);
/// The rate may be exceeded for so long.
const SLACK: Duration = Duration::from_millis(2);

/// How the bulk of a copy travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bulk {
    /// Down a chain of connections.
    #[default]
    Chain,
    /// By multicast, if any machine hears it.
    Multicast,
    /// As a probe decides.
    Auto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The copy has not begun, or machines may still say that they listen, since then.
    Waits(Option<Duration>),
    /// The machines say what they lack, since then.
    Gathers(Duration),
    /// The probe is sent.
    Probes,
    /// The machines say what they heard of it, since then.
    Hears(Duration),
    /// A machine gets chunks over TCP.
    Compares(Trial),
    Runs,
    /// All was sent.
    Ends,
    Over,
}

/// The probe of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Trial {
    peer: Peer,
    since: Duration,
    /// Chunks that had come over it before.
    came: u32,
    /// Chunks and bytes that had gone over all of them before.
    sent: (u64, u64),
}

/// A machine that listens.
#[derive(Debug, Default)]
struct Ear {
    /// It gets its chunks by multicast.
    member: bool,
    next: u32,
    count: u32,
    room: u16,
    open: u16,
    chunks: u32,
    /// When it had heard the last of the probe that it heard.
    heard: Option<Duration>,
    /// When it had heard what it heard last.
    moved: Duration,
    /// Its `next` and `count` when the round began.
    round: (u32, u32),
    /// Since when the others wait for it.
    holds: Option<Duration>,
    /// Since when it loses too much.
    loses: Option<Duration>,
}

#[derive(Debug)]
struct Held {
    chunk: u32,
    data: Arc<Vec<u8>>,
    /// How many datagrams had been sent when a piece was sent last; as far as pieces were sent.
    sent: Vec<u32>,
    /// To be sent again.
    lacks: Bits,
    tries: u8,
}

/// What the sender does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The copy may [begin](Cast::begin).
    Begins,
    /// It reads this chunk.
    Read(u32),
    /// This machine takes chunks from another one from now on, and why.
    Leaves(Peer, String),
    /// The user is told.
    Says(String),
    /// All machines take what they lack from others; why, if it is not done.
    Ends(Option<String>),
}

/// The sender's side of the group.
#[derive(Debug)]
pub struct Cast {
    bulk: Bulk,
    group: Group,
    phase: Phase,
    ears: BTreeMap<Peer, Ear>,
    steps: VecDeque<Step>,
    /// A machine has said that it listens.
    called: bool,
    /// Datagrams that were sent, and how many of them again.
    count: u32,
    again: u32,
    /// Behind the last chunk that was read.
    cursor: u32,
    reads: Option<u32>,
    /// Chunks that the probe has still to send.
    probe: u32,
    /// The chunk that is sent, its next piece, and whether it is the last one for now.
    current: Option<(u32, Arc<Vec<u8>>, u32, bool)>,
    held: VecDeque<Held>,
    /// Bytes a second; nothing: as the network takes them.
    rate: Option<u64>,
    /// What the probe has measured.
    probed: u64,
    /// When the next datagram may go.
    ready: Duration,
    /// When the probe began; then the round, and the datagrams before it.
    since: (Duration, u32),
    /// When the last datagram went.
    went: Duration,
    /// Machines were waited for in this round.
    waited: bool,
}

impl Cast {
    /// To this group.
    #[must_use]
    pub fn new(bulk: Bulk, group: Group) -> Self {
        let zero = Duration::ZERO;
        Self {
            bulk,
            group,
            phase: if bulk == Bulk::Chain { Phase::Over } else { Phase::Waits(None) },
            ears: BTreeMap::new(),
            steps: VecDeque::new(),
            called: false,
            count: 0,
            again: 0,
            cursor: 0,
            reads: None,
            probe: PROBE,
            current: None,
            held: VecDeque::new(),
            rate: None,
            probed: 0,
            ready: zero,
            since: (zero, 0),
            went: zero,
            waited: false,
        }
    }

    /// The group that machines are to listen to.
    #[must_use]
    pub fn group(&self) -> Option<Group> {
        (self.phase != Phase::Over).then_some(self.group)
    }

    /// Whether a copy that begins may begin with it.
    #[must_use]
    pub fn waits(&self) -> bool {
        matches!(self.phase, Phase::Waits(_))
    }

    /// Whether machines that come may still take part.
    #[must_use]
    pub fn runs(&self) -> bool {
        !matches!(self.phase, Phase::Waits(_) | Phase::Over)
    }

    /// Whether this machine listens.
    #[must_use]
    pub fn listens(&self, peer: Peer) -> bool {
        self.ears.contains_key(&peer)
    }

    /// Whether this machine gets its chunks by multicast.
    #[must_use]
    pub fn member(&self, peer: Peer) -> bool {
        self.ears.get(&peer).is_some_and(|ear| ear.member)
    }

    fn members(&self) -> impl Iterator<Item = (Peer, &Ear)> {
        self.ears.iter().filter(|(_, ear)| ear.member).map(|(peer, ear)| (*peer, ear))
    }

    /// Chunks are sent that so many machines lack.
    fn two(&self) -> bool {
        self.bulk == Bulk::Auto
    }

    fn few(&self) -> bool {
        self.members().count() < if self.two() { 2 } else { 1 }
    }

    /// The copy begins: these machines lack chunks, and each so many. False while it is not known
    /// which of them listen.
    pub fn begin(&mut self, lack: &[(Peer, u32)], now: Duration) -> bool {
        let Phase::Waits(since) = self.phase else { return true };
        let since = since.unwrap_or(now);
        let all = lack.iter().all(|(peer, _)| self.listens(*peer));
        if !all && now.saturating_sub(since) < CALL {
            self.phase = Phase::Waits(Some(since));
            return false;
        }
        let ears = lack.iter().filter(|(peer, _)| self.listens(*peer)).count();
        let worth = lack.iter().any(|(_, chunks)| *chunks >= WORTH);
        let good = match self.bulk {
            Bulk::Chain => false,
            Bulk::Multicast => ears > 0,
            Bulk::Auto => ears >= MANY && 2 * ears >= lack.len() && worth,
        };
        if good {
            self.phase = Phase::Gathers(now);
            lack.iter().for_each(|(peer, _)| self.add(*peer));
            return true;
        }
        let why = match self.bulk {
            Bulk::Multicast if lack.is_empty() => None,
            Bulk::Multicast => Some("no machine listens to it".to_string()),
            Bulk::Auto if lack.len() >= MANY && worth => {
                Some(format!("{ears} of {} machines listen to it", lack.len()))
            }
            _ => None,
        };
        self.end(why);
        true
    }

    /// A machine takes part, if it listens.
    pub fn add(&mut self, peer: Peer) {
        let count = self.count;
        if let Some(ear) = self.ears.get_mut(&peer).filter(|ear| !ear.member) {
            // One that comes late has heard none of what was sent.
            (ear.member, ear.next, ear.round) = (true, count, (count, ear.count));
        }
    }

    /// A machine has gone, or has its copy.
    pub fn gone(&mut self, peer: Peer) {
        self.ears.remove(&peer);
    }

    fn leave(&mut self, peer: Peer, why: String) {
        if self.ears.remove(&peer).is_some() {
            self.steps.push_back(Step::Leaves(peer, why));
        }
    }

    /// It is over: the system cannot send to the group, for example.
    pub fn end(&mut self, why: Option<String>) {
        if self.phase == Phase::Over {
            return;
        }
        self.phase = Phase::Over;
        (self.current, self.reads) = (None, None);
        self.held.clear();
        if why.is_none() && self.count > 0 {
            let percent = u64::from(self.again) * 100 / u64::from(self.count);
            let text = format!("the multicast has ended: {percent} % of it was sent again");
            self.steps.push_back(Step::Says(text));
        }
        self.steps.push_back(Step::Ends(why));
    }

    /// After [`Step::Ends`]: the machines that listened, and whether they took part.
    pub fn release(&mut self) -> Vec<(Peer, bool)> {
        core::mem::take(&mut self.ears).into_iter().map(|(peer, ear)| (peer, ear.member)).collect()
    }

    /// A machine has reported.
    pub fn heard(&mut self, peer: Peer, told: &Heard, now: Duration) {
        if told.token != self.group.token || self.phase == Phase::Over || told.next > self.count {
            return;
        }
        self.called |= !self.listens(peer);
        let ear = self.ears.entry(peer).or_default();
        if told.count > ear.count {
            ear.moved = now;
            if matches!(self.phase, Phase::Probes | Phase::Hears(_)) {
                ear.heard = Some(now);
            }
        }
        ear.next = ear.next.max(told.next);
        (ear.count, ear.room, ear.open) = (told.count, told.room, told.open);
        ear.chunks = ear.chunks.max(told.chunks);
        if !ear.member || told.missing.is_empty() {
            return;
        }
        // What was sent just now may be on its way.
        let last = self.went.max(ear.moved);
        let flies = |count: u32| told.next <= count && now.saturating_sub(last) < FLIES;
        for missing in &told.missing {
            let Some(held) = self.held.iter_mut().find(|held| held.chunk == missing.chunk) else {
                continue;
            };
            if held.tries >= TRIES {
                continue;
            }
            let sent = (0..).zip(&held.sent).skip(missing.first.into());
            for (piece, count) in sent.take(missing.count.into()) {
                if !flies(*count) {
                    held.lacks.add(piece);
                }
            }
        }
    }

    /// A chunk that was to be read.
    pub fn at_hand(&mut self, n: u32, data: &Arc<Vec<u8>>, serve: &Serve) -> bool {
        if self.reads != Some(n) {
            return false;
        }
        self.reads = None;
        let count = pieces(data.len());
        let (sent, lacks) = (Vec::with_capacity(count as usize), Bits::new(count));
        let held = Held { chunk: n, data: data.clone(), sent, lacks, tries: 0 };
        self.held.push_back(held);
        let bytes: usize = self.held.iter().map(|held| held.data.len()).sum();
        if self.held.len() > HELD.0 || bytes > HELD.1 && self.held.len() > 2 {
            self.held.pop_front();
        }
        let last = self.probe == 0 && self.phase == Phase::Probes || self.next(serve).is_none();
        self.current = Some((n, data.clone(), 0, last));
        true
    }

    fn next(&self, serve: &Serve) -> Option<u32> {
        serve.first(|peer| self.member(peer), self.two(), self.cursor)
    }

    /// What is to be done now, before [`Cast::fill`]; nothing: wait.
    pub fn step(&mut self, serve: &mut Serve, now: Duration) -> Option<Step> {
        if let Some(step) = self.steps.pop_front() {
            return Some(step);
        }
        match self.phase {
            Phase::Waits(Some(since)) if self.called || now.saturating_sub(since) >= CALL => {
                self.called = false;
                return Some(Step::Begins);
            }
            Phase::Waits(_) | Phase::Over => {}
            _ if self.few() => {
                let all = "too few machines take part any more".to_string();
                self.end((self.phase != Phase::Ends).then_some(all));
            }
            Phase::Gathers(since) => {
                let all = self.members().all(|(peer, _)| serve.knows(peer));
                if all || now.saturating_sub(since) >= GATHER {
                    self.phase = Phase::Probes;
                    self.since.0 = now;
                }
            }
            Phase::Probes => {
                if self.current.is_none() && self.reads.is_none() {
                    match self.next(serve).filter(|_| self.probe > 0) {
                        Some(n) => {
                            self.probe -= 1;
                            return Some(self.read(n, serve));
                        }
                        None => self.phase = Phase::Hears(now),
                    }
                }
            }
            Phase::Hears(since) => {
                // The last datagrams may be lost.
                let most = self.count - self.count / 16;
                let all = self.members().all(|(_, ear)| ear.next >= most);
                // A queue on the way may take its time.
                let last =
                    self.members().map(|(_, ear)| ear.moved).max().unwrap_or(since).max(since);
                let some = self.members().all(|(_, ear)| ear.heard.is_some());
                let quiet = now.saturating_sub(last) >= if some { ECHO } else { LATE };
                if all || quiet || now.saturating_sub(since) >= TRIAL {
                    self.probed(serve, now);
                }
            }
            Phase::Compares(trial) => {
                let came =
                    self.ears.get(&trial.peer).map(|ear| ear.chunks.saturating_sub(trial.came));
                let (sent, bytes) = (serve.sent - trial.sent.0, serve.bytes - trial.sent.1);
                let took = now.saturating_sub(trial.since);
                let all = sent >= PROBE.into() || !serve.wants(trial.peer);
                match came {
                    Some(came) if all && u64::from(came) >= sent => {
                        self.compared(per_second(bytes, took), now);
                    }
                    Some(_) if took < TRIAL => {}
                    _ => self.begins(None, now),
                }
            }
            Phase::Runs | Phase::Ends => {
                self.round(now);
                self.held_up(now);
                let over = self.phase == Phase::Over;
                if over || self.current.is_some() || self.reads.is_some() {
                    return self.steps.pop_front();
                }
                let sent = self.held.iter().all(|held| held.lacks.is_empty());
                if let Some(n) = self.next(serve) {
                    self.phase = Phase::Runs;
                    if sent {
                        return Some(self.read(n, serve));
                    }
                } else if sent {
                    self.phase = Phase::Ends;
                    let all =
                        self.members().all(|(_, ear)| ear.next >= self.count && ear.open == 0);
                    if all || now.saturating_sub(self.went) >= ECHO + 4 * self.every() {
                        self.end(None);
                    }
                }
            }
        }
        self.steps.pop_front()
    }

    fn read(&mut self, n: u32, serve: &mut Serve) -> Step {
        serve.handed(|peer| self.member(peer), n);
        (self.reads, self.cursor) = (Some(n), n + 1);
        Step::Read(n)
    }

    /// The probe has ended.
    fn probed(&mut self, serve: &Serve, now: Duration) {
        let share = |ear: &Ear| u64::from(ear.count) * 100 / u64::from(self.count.max(1));
        let shares: Vec<(Peer, u64)> =
            self.members().map(|(peer, ear)| (peer, share(ear))).collect();
        let best = shares.iter().map(|(_, share)| *share).max().unwrap_or(0);
        if best < HEARS[1] {
            return self.end(Some(format!("no machine hears more than {best} % of it")));
        }
        let mut worst = 100;
        for (peer, share) in shares {
            match share * 100 < best * HEARS[0] {
                true => self.leave(peer, format!("hears {share} % of the multicast")),
                false => worst = share.min(worst),
            }
        }
        let (began, _) = self.since;
        let heard = self.members().map(|(_, ear)| ear.heard.unwrap_or(now)).max().unwrap_or(now);
        let bytes = u64::from(self.count) * (HEAD + PIECE) as u64 * worst / 100;
        self.probed = per_second(bytes, heard.saturating_sub(began)).max(1);
        // Faster than the network, or than the machines: no more than what has come.
        self.rate = (worst * 10 < 1000 - u64::from(LOSS[1])).then_some(self.probed);
        let first = self.members().map(|(peer, _)| peer).find(|peer| serve.wants(*peer));
        match first {
            Some(peer) if self.bulk == Bulk::Auto => {
                let came = self.ears.get(&peer).map_or(0, |ear| ear.chunks);
                let sent = (serve.sent, serve.bytes);
                self.phase = Phase::Compares(Trial { peer, since: now, came, sent });
            }
            _ => self.begins(None, now),
        }
    }

    /// Whether multicast of this rate is better than a chain whose first connection has that
    /// one: in a chain each machine also sends what it gets, and all of them wait for the
    /// slowest.
    #[must_use]
    pub const fn faster(multicast: u64, connection: u64) -> bool {
        multicast >= connection / 2
    }

    fn compared(&mut self, connection: u64, now: Duration) {
        if Self::faster(self.probed, connection) {
            return self.begins(Some(connection), now);
        }
        let [ours, theirs] = [self.probed, connection].map(megabytes);
        self.end(Some(format!("it brings {ours}, a connection {theirs}")));
    }

    fn begins(&mut self, connection: Option<u64>, now: Duration) {
        self.phase = Phase::Runs;
        self.since = (now, self.count);
        self.ears.values_mut().for_each(|ear| ear.round = (ear.next, ear.count));
        let (to, machines) = (self.group.to.ip(), self.members().count());
        let rate = megabytes(self.probed);
        let other =
            connection.map_or(String::new(), |rate| format!(", a connection {}", megabytes(rate)));
        if machines > 0 {
            let text =
                format!("multicast to {to} for {machines} machines: the probe had {rate}{other}");
            self.steps.push_back(Step::Says(text));
        }
    }

    /// How often machines report: no more than about 4000 reports a second, but for the probe,
    /// which is measured.
    fn every(&self) -> Duration {
        if self.phase == Phase::Probes {
            return Duration::from_millis(10);
        }
        let members = u32::try_from(self.members().count()).unwrap_or(u32::MAX);
        Duration::from_millis((members / 4).clamp(10, 1000).into())
    }

    /// So many datagrams are on their way to it that it is waited for.
    fn lags(&self, ear: &Ear) -> bool {
        let window = WINDOW * (u32::try_from(self.every().as_millis()).unwrap_or(10) / 10).max(1);
        self.count.saturating_sub(ear.next) > window
    }

    fn blocks(&self, ear: &Ear) -> bool {
        self.lags(ear) || ear.room <= STOP
    }

    /// Machines that hold up others go on alone, unless most do.
    fn held_up(&mut self, now: Duration) {
        let blocks: Vec<Peer> =
            self.members().filter(|(_, ear)| self.blocks(ear)).map(|(peer, _)| peer).collect();
        for (peer, ear) in &mut self.ears {
            ear.holds = blocks.contains(peer).then(|| ear.holds.unwrap_or(now));
        }
        let held = |ear: &Ear| ear.holds.map_or(Duration::ZERO, |at| now.saturating_sub(at));
        let deaf =
            |ear: &Ear| self.lags(ear) && held(ear).min(now.saturating_sub(ear.moved)) >= DEAF;
        let silent: Vec<Peer> =
            self.members().filter(|(_, ear)| deaf(ear)).map(|(peer, _)| peer).collect();
        if silent.len() == self.members().count() {
            return self.end(Some("no machine hears it any more".to_string()));
        }
        let long = |ear: &Ear| held(ear) >= HOLDS;
        let slow: Vec<Peer> =
            self.members().filter(|(_, ear)| long(ear)).map(|(peer, _)| peer).collect();
        if 2 * slow.len() <= self.members().count() {
            for peer in slow {
                self.leave(peer, "is slower than the others".to_string());
            }
        }
        for peer in silent {
            self.leave(peer, "hears the multicast no more".to_string());
        }
    }

    /// The rate follows what arrives.
    fn round(&mut self, now: Duration) {
        let took = now.saturating_sub(self.since.0);
        if took < ROUND.max(2 * self.every()) {
            return;
        }
        let sent = u64::from(self.count.saturating_sub(self.since.1)) * (HEAD + PIECE) as u64;
        // What was sent while machines were waited for is not what the network takes.
        let waited = core::mem::take(&mut self.waited);
        let sent = match waited {
            true => self.rate.unwrap_or(self.probed),
            false => per_second(sent, took),
        };
        self.since = (now, self.count);
        let mut lossy: Vec<(Peer, u32)> = Vec::new();
        let (mut worst, mut tell) = (0, 0);
        for (peer, ear) in self.ears.iter_mut().filter(|(_, ear)| ear.member) {
            let should = ear.next.saturating_sub(ear.round.0);
            if should < TELLING {
                continue;
            }
            let came = ear.count.saturating_sub(ear.round.1).min(should);
            let lost = u64::from(should - came) * 1000 / u64::from(should);
            let lost = u32::try_from(lost).unwrap_or(1000);
            ear.round = (ear.next, ear.count);
            (worst, tell) = (worst.max(lost), tell + 1);
            ear.loses = (lost > LOSS[1]).then(|| ear.loses.unwrap_or(now));
            if lost > LOSS[1] {
                lossy.push((*peer, lost));
            }
        }
        let all = self.members().count();
        let rate = self.rate.unwrap_or(sent).min(sent.saturating_mul(2));
        if tell == 0 {
            return;
        } else if lossy.is_empty() {
            // Nor does it show that the network takes more.
            if worst < LOSS[0] && !waited {
                self.rate = self.rate.map(|_| rate.saturating_add(rate / 10).max(sent));
            }
            return;
        }
        let slow = rate <= self.probed / 2;
        let alone = |lost: &u32| slow || *lost > LOSS[2];
        if 2 * lossy.len() <= all && lossy.iter().any(|(_, lost)| alone(lost)) {
            for (peer, lost) in lossy.into_iter().filter(|(_, lost)| alone(lost)) {
                let since = self.ears.get(&peer).and_then(|ear| ear.loses);
                if since.is_none_or(|since| now.saturating_sub(since) < LASTS) {
                    continue;
                }
                self.leave(peer, format!("loses {} % of the multicast", lost / 10));
            }
        } else if rate < self.probed / 8 {
            self.end(Some(format!("{} of {all} machines lose too much of it", lossy.len())));
        } else {
            self.rate =
                Some((rate.saturating_mul(u64::from(1000 - worst.min(LOSS[2]))) / 1000).max(1));
        }
    }

    /// Fills the buffer with datagrams of one size, of which the last may be shorter; their size.
    /// Nothing when none may go now.
    pub fn fill(&mut self, buffer: &mut Vec<u8>, now: Duration) -> Option<usize> {
        buffer.clear();
        let open = match self.phase {
            Phase::Probes => true,
            Phase::Runs | Phase::Ends => {
                let waits = self.members().any(|(_, ear)| self.blocks(ear));
                self.waited |= waits;
                self.ready <= now && !waits
            }
            _ => false,
        };
        if !open {
            return None;
        }
        let every = u16::try_from(self.every().as_millis()).unwrap_or(0);
        for _ in 0..TOGETHER {
            let Some((chunk, data, piece, last)) = self.piece() else { break };
            let start = piece as usize * PIECE;
            let some = data.get(start..data.len().min(start + PIECE)).unwrap_or_default();
            let datagram = Datagram {
                token: self.group.token,
                count: self.count,
                chunk,
                piece: u16::try_from(piece).unwrap_or(0),
                every,
                now: last,
                data: some,
            };
            datagram.write(buffer);
            self.count += 1;
            if some.len() < PIECE {
                break;
            }
        }
        if self.count >= u32::MAX - 4096 {
            self.end(Some("more than 6 TB were sent".to_string()));
        }
        if buffer.is_empty() {
            return None;
        }
        self.went = now;
        if let Some(rate) = self.rate {
            let nanos = buffer.len() as u64 * 1_000_000_000 / rate.max(1);
            self.ready = self.ready.max(now.saturating_sub(SLACK)) + Duration::from_nanos(nanos);
        }
        Some(buffer.len().min(HEAD + PIECE))
    }

    /// The next piece: its chunk and number, and whether it is the last one for now.
    fn piece(&mut self) -> Option<(u32, Arc<Vec<u8>>, u32, bool)> {
        let runs = self.phase != Phase::Probes;
        let alone = self.current.is_none();
        if let Some(held) = self.held.iter_mut().find(|held| runs && !held.lacks.is_empty()) {
            let piece = held.lacks.first_in_both(&held.lacks, 0)?;
            held.lacks.remove(piece);
            self.again += 1;
            if let Some(sent) = held.sent.get_mut(piece as usize) {
                *sent = self.count;
            }
            let last = held.lacks.is_empty();
            held.tries += u8::from(last);
            return Some((held.chunk, held.data.clone(), piece, last && alone));
        }
        let (n, data, piece, last) = self.current.take()?;
        // The chunk that is sent is the one that was read last.
        if let Some(held) = self.held.back_mut().filter(|held| held.chunk == n) {
            held.sent.push(self.count);
        }
        let more = piece + 1 < pieces(data.len());
        if more {
            self.current = Some((n, data.clone(), piece + 1, last));
        }
        Some((n, data, piece, last && !more))
    }

    /// Whether this connection is the one whose rate is compared.
    #[must_use]
    pub fn compares(&self, peer: Peer, serve: &Serve) -> bool {
        matches!(self.phase, Phase::Compares(trial)
            if trial.peer == peer && serve.sent - trial.sent.0 < PROBE.into())
    }

    /// How long nothing happens here, if nothing arrives.
    #[must_use]
    pub fn nap(&self, now: Duration) -> Option<Duration> {
        match self.phase {
            Phase::Waits(None) | Phase::Over => None,
            Phase::Runs if self.ready > now => Some(self.ready.saturating_sub(now)),
            _ => Some(Duration::from_millis(10)),
        }
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let nanos = time.as_nanos().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

fn megabytes(rate: u64) -> String {
    format!("{} MB/s", rate.saturating_add(500_000) / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::super::wire::Missing;
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn cast(bulk: Bulk) -> Cast {
        Cast::new(bulk, Group { token: [7; 8], to: "239.192.0.1:9012".parse().unwrap() })
    }

    fn told(next: u32, count: u32) -> Heard {
        let (have, room, open, chunks) = (0, 32, 0, 0);
        Heard { token: [7; 8], next, count, have, room, open, chunks, missing: Vec::new() }
    }

    /// A group of so many machines after a probe of 100 MB/s.
    fn running(machines: u32) -> Cast {
        let mut cast = cast(Bulk::Multicast);
        let lack: Vec<_> = (0..machines).map(|peer| (peer, 99)).collect();
        lack.iter().for_each(|(peer, _)| cast.heard(*peer, &told(0, 0), MS));
        assert!(cast.begin(&lack, MS) && cast.members().count() == machines as usize);
        (cast.phase, cast.probed) = (Phase::Runs, 100_000_000);
        cast
    }

    /// A round of 100 ms with 6800 datagrams, of which each machine loses so many of a hundred.
    fn round(cast: &mut Cast, lost: &[u32]) {
        let now = cast.since.0 + ROUND;
        cast.count += 6800;
        let next = cast.count;
        for (peer, lost) in (0..).zip(lost) {
            let count = cast.ears.get(&peer).map_or(0, |ear| ear.count);
            cast.heard(peer, &told(next, count + 68 * (100 - lost)), now);
        }
        cast.round(now);
    }

    #[test]
    fn the_rate_falls_to_what_arrives_and_grows_again() {
        let mut cast = running(4);
        round(&mut cast, &[1; 4]);
        assert_eq!(cast.rate, None, "chance losses are no reason to be slower");
        round(&mut cast, &[5; 4]);
        assert_eq!(cast.rate, None);
        round(&mut cast, &[40, 30, 20, 40]);
        let sent = 68_000 * 1472;
        assert_eq!(cast.rate, Some(sent * 6 / 10));
        round(&mut cast, &[0; 4]);
        assert!(cast.rate >= Some(sent * 66 / 100));
        let datagrams = |cast: &mut Cast| {
            (cast.held, cast.rate) = (VecDeque::new(), Some(1_472_000));
            cast.current = Some((0, Arc::new(alloc::vec![0; 1 << 20]), 0, false));
            cast.ready = Duration::ZERO;
            let mut buffer = Vec::new();
            let ms = (1..=1000).filter(|ms| cast.fill(&mut buffer, MS * *ms).is_some()).count();
            (ms, cast.current.take().map(|(_, _, piece, _)| piece))
        };
        // 1000 datagrams a second are less than the chunk's 723 and more than 660.
        let (times, left) = datagrams(&mut cast);
        assert!(left.is_none() && (16..=18).contains(&times), "{times} {left:?}");
    }

    #[test]
    fn one_that_loses_much_goes_alone_and_when_most_do_it_is_over() {
        let left = |cast: &mut Cast| -> Vec<Peer> {
            let peer =
                |step: Step| if let Step::Leaves(peer, _) = step { Some(peer) } else { None };
            cast.steps.drain(..).filter_map(peer).collect()
        };
        let mut cast = running(4);
        round(&mut cast, &[0, 60, 0, 0]);
        round(&mut cast, &[0; 4]);
        (0..5).for_each(|_| round(&mut cast, &[0, 60, 0, 0]));
        assert!(left(&mut cast).is_empty(), "a busy moment");
        round(&mut cast, &[0, 60, 0, 0]);
        assert_eq!((left(&mut cast), cast.rate), (Vec::from([1]), None));
        round(&mut cast, &[0, 0, 30, 0]);
        assert!(left(&mut cast).is_empty() && cast.rate.is_some(), "first the rate follows it");
        (0..6).for_each(|_| {
            cast.rate = Some(40_000_000);
            round(&mut cast, &[0, 0, 30, 0]);
        });
        assert_eq!(left(&mut cast), [2], "then it is a slower network's");
        for _ in 0..20 {
            let rate = cast.rate;
            round(&mut cast, &[40, 0, 0, 40]);
            cast.rate = cast.rate.min(rate.map(|rate| rate / 2));
        }
        assert!(left(&mut cast).is_empty() && cast.group().is_none(), "it is over");
    }

    #[test]
    fn one_that_takes_no_more_holds_up_the_others_for_a_second() {
        let mut cast = running(3);
        cast.count = WINDOW + 1;
        (0..2).for_each(|peer| cast.heard(peer, &told(WINDOW + 1, 1), MS));
        cast.current = Some((0, Arc::new(alloc::vec![0; 3000]), 0, false));
        let mut buffer = Vec::new();
        cast.held_up(MS);
        assert_eq!(cast.fill(&mut buffer, MS), None);
        cast.held_up(MS + HOLDS);
        assert!(matches!(cast.steps.pop_front(), Some(Step::Leaves(2, _))));
        assert_eq!(cast.fill(&mut buffer, MS), Some(HEAD + PIECE));
        // Its disk has enough to do.
        cast.current = Some((0, Arc::new(alloc::vec![0; 3000]), 0, false));
        (0..2).for_each(|peer| cast.heard(peer, &Heard { room: STOP, ..told(WINDOW, 1) }, MS));
        cast.held_up(MS);
        cast.held_up(MS + 5 * HOLDS);
        assert!(cast.steps.is_empty(), "all of them: they are waited for");
        assert_eq!(cast.fill(&mut buffer, MS), None);
    }

    /// A machine that heard the probe half a second after the others took chunks from these.
    #[test]
    fn one_that_hears_the_probe_late_takes_part() {
        for late in [500, 1500] {
            let mut cast = running(2);
            let mut serve = Serve::default();
            (0..2).for_each(|peer| serve.want(peer, Bits::full(20)));
            (cast.phase, cast.count) = (Phase::Hears(MS), 100);
            cast.heard(0, &told(100, 100), MS);
            let ends = |ms: u32| (2..ms).map(move |ms| MS * ms);
            let mut steps: Vec<_> =
                ends(late).filter_map(|now| cast.step(&mut serve, now)).collect();
            cast.heard(1, &told(100, 90), MS * late);
            steps.extend(cast.step(&mut serve, MS * late));
            let leaves = steps.iter().any(|step| matches!(step, Step::Leaves(1, _)));
            assert_eq!((leaves, cast.phase), (late > 1000, Phase::Runs), "{steps:?}");
        }
    }

    /// A switch that passed the group has stopped: the sender waited for reports for ever.
    #[test]
    fn when_no_machine_hears_it_any_more_it_is_over() {
        let lags = |deaf: u32| {
            let mut cast = running(3);
            cast.count = 100;
            (0..3).for_each(|peer| cast.heard(peer, &told(100, 100), MS));
            cast.count += WINDOW + 1;
            let next = cast.count;
            (deaf..3).for_each(|peer| cast.heard(peer, &told(next, 200), MS));
            cast.held_up(MS);
            cast.held_up(MS + DEAF - MS);
            assert!(cast.group().is_some());
            // Reports without news of the group are none.
            (0..deaf).for_each(|peer| cast.heard(peer, &told(100, 100), DEAF));
            cast.held_up(MS + DEAF);
            cast
        };
        assert_eq!(lags(3).group(), None);
        let mut two = lags(2);
        assert!(two.group().is_some() && two.members().count() == 1);
        assert!(
            matches!(two.steps.pop_front(), Some(Step::Leaves(0, why)) if why.contains("hears"))
        );
    }

    /// The rate grew by a tenth in each such round, until it was no number any more.
    #[test]
    fn rounds_with_a_wait_do_not_raise_the_rate() {
        let mut cast = running(2);
        cast.rate = Some(90_000_000);
        let mut now = cast.since.0;
        for n in 1..1000 {
            now += ROUND;
            cast.count = n * 100;
            cast.waited = true;
            (0..2).for_each(|peer| cast.heard(peer, &told(n * 100, n * 100), now));
            cast.round(now);
        }
        assert_eq!((cast.rate, cast.members().count()), (Some(90_000_000), 2));
    }

    /// A machine that stood still for a moment took the rate down with it, and that ended all of it.
    #[test]
    fn waiting_for_a_machine_says_nothing_about_the_network() {
        let mut cast = running(2);
        cast.rate = Some(90_000_000);
        let mut buffer = Vec::new();
        let now = cast.since.0 + ROUND;
        cast.count += 1000;
        cast.heard(0, &told(1000, 800), now);
        cast.heard(1, &Heard { room: STOP, ..told(0, 0) }, now);
        assert_eq!(cast.fill(&mut buffer, now), None);
        cast.round(now);
        assert_eq!((cast.rate, cast.members().count()), (Some(72_000_000), 2));
    }

    /// It ended twice, and in between a chunk was read for a group without a listener.
    #[test]
    fn what_has_ended_reads_no_more() {
        let (mut cast, mut serve) = (running(3), Serve::default());
        (0..3).for_each(|peer| serve.want(peer, Bits::full(20)));
        cast.count = WINDOW + 1;
        assert_eq!(cast.step(&mut serve, MS), Some(Step::Read(0)));
        assert!(cast.at_hand(0, &Arc::new(alloc::vec![3; 3000]), &serve));
        assert_eq!(cast.step(&mut serve, MS), None);
        let why = Some("no machine hears it any more".to_string());
        assert_eq!(cast.step(&mut serve, MS + DEAF), Some(Step::Ends(why)));
        assert_eq!((cast.step(&mut serve, MS + DEAF), cast.group()), (None, None));
    }

    /// Pieces that were sent while others were repaired are on their way no less than these: a
    /// repair made each of them sent twice.
    #[test]
    fn a_repair_makes_nothing_else_sent_twice() {
        let mut cast = running(1);
        let chunk = |cast: &mut Cast, n| {
            cast.reads = Some(n);
            let data = Arc::new(alloc::vec![3; 4 * PIECE]);
            assert!(cast.at_hand(n, &data, &Serve::default()));
        };
        let mut buffer = Vec::new();
        let mut sends = |cast: &mut Cast| {
            let before = cast.count;
            while cast.fill(&mut buffer, MS).is_some() {}
            cast.count - before
        };
        let lacks = |cast: &mut Cast, next, chunk, first| {
            let missing = Vec::from([Missing { chunk, first, count: 4 }]);
            cast.heard(0, &Heard { missing, ..told(next, 1) }, MS);
        };
        chunk(&mut cast, 0);
        assert_eq!(sends(&mut cast), 4);
        chunk(&mut cast, 1);
        lacks(&mut cast, 4, 0, 0);
        // Four repairs of chunk 0, then chunk 1: nothing of both is known to be lost.
        assert_eq!(sends(&mut cast), 8);
        lacks(&mut cast, 8, 1, 0);
        assert_eq!(sends(&mut cast), 0, "all of it is on its way");
        lacks(&mut cast, 10, 1, 0);
        assert_eq!(sends(&mut cast), 2, "these two would have come");
    }

    /// Pieces that two machines lack are sent again once.
    #[test]
    fn what_is_missing_is_sent_again_once_for_all() {
        let mut cast = running(2);
        let data = Arc::new(alloc::vec![3; 4 * PIECE]);
        cast.reads = Some(5);
        assert!(cast.at_hand(5, &data, &Serve::default()));
        let mut buffer = Vec::new();
        let mut pieces = |cast: &mut Cast| -> Vec<u16> {
            let size = cast.fill(&mut buffer, MS).unwrap_or(1);
            let all = buffer.chunks(size).filter_map(Datagram::read);
            all.map(|datagram| datagram.piece).collect()
        };
        assert_eq!(pieces(&mut cast), [0, 1, 2, 3]);
        let lacks = |next, first, count| {
            let missing = Vec::from([Missing { chunk: 5, first, count }]);
            Heard { missing, ..told(next, 1) }
        };
        cast.heard(0, &lacks(4, 1, 2), MS);
        assert_eq!(pieces(&mut cast), [1, 2]);
        cast.heard(1, &lacks(4, 2, 60_000), MS);
        assert_eq!(pieces(&mut cast), [3], "2 is on its way");
        cast.heard(1, &lacks(7, 1, 1), MS);
        assert_eq!(pieces(&mut cast), [1], "it did not come");
        cast.heard(1, &lacks(6, 3, 1), MS + FLIES);
        assert_eq!(pieces(&mut cast), [3], "nor did the last one");
        for next in 8..20 {
            cast.heard(0, &lacks(next, 0, 1), MS * 100);
            pieces(&mut cast);
        }
        assert_eq!(cast.count, 4 + 2 + 1 + 2 + 2, "not without end");
        assert_eq!(cast.held[0].tries, TRIES);
    }

    proptest! {
        /// Whatever machines report, it neither panics nor sends without end.
        #[test]
        fn reports_may_be_anything(reports: Vec<(u8, u32, u32, u16, u32, u16, u16, bool)>) {
            let mut cast = running(3);
            let mut serve = Serve::default();
            (0..3).for_each(|peer| serve.want(peer, Bits::full(20)));
            let data = Arc::new(alloc::vec![0; 5000]);
            let (mut buffer, mut sent, mut now) = (Vec::new(), 0, MS);
            for (peer, next, count, room, chunk, first, pieces, near) in reports {
                let next = if near { cast.count.saturating_sub(next % 50) } else { next };
                let missing = Vec::from([Missing { chunk: chunk % 25, first, count: pieces }]);
                let heard = Heard { room, missing, chunks: count, ..told(next, count) };
                cast.heard(peer.into(), &heard, now);
                now += 7 * MS;
                while let Some(step) = cast.step(&mut serve, now) {
                    if let Step::Read(n) = step {
                        cast.at_hand(n, &data, &serve);
                        break;
                    }
                }
                sent += usize::from(cast.fill(&mut buffer, now).is_some());
            }
            prop_assert!(sent <= 20 * (1 + usize::from(TRIES) * 4), "{}", sent);
        }
    }
}
