//! A machine that gets a copy, and hands it on.

use super::bits::Bits;
use super::datagram::Datagram;
use super::ear::Ear;
use super::manifest::{CHUNK, Manifest, SMALL};
use super::serve::Serve;
use super::wire::{Group, Message, Piece, Verdict};
use super::{Act, Ask, Peer, Told};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

/// Chunks of the usual size that may wait for the disk. One that comes then goes on to the next
/// machine, and is asked for again later.
const QUEUE: u32 = 32;
/// Chunks that may wait for their digests.
const AHEAD: usize = 16;
/// A machine behind this one that has waited so long for a chunk is faster than this one's disk.
const STARVES: Duration = Duration::from_millis(300);
/// No longer than this is nothing read: the kernel of the other end takes that for a lost machine.
const PAUSE: Duration = Duration::from_secs(5);
/// How often the sender hears how far it is.
const EVERY: Duration = Duration::from_secs(1);
/// A machine that has sent no wanted chunk for so long is of no use.
const STALLED: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Up {
    /// No machine, and the sender has not said more.
    None,
    /// A connection is being made.
    Dialled,
    /// This connection.
    At(Peer),
}

/// The machine.
#[derive(Debug)]
pub struct Node {
    name: String,
    port: u16,
    sender: Option<Peer>,
    manifest: Option<Arc<Manifest>>,
    /// Known since the disk was looked at.
    scanned: bool,
    /// The disk has them, or was given them.
    have: Bits,
    /// Asked of [`Up`], and not come.
    asked: Bits,
    /// At the disk, and not stored.
    queued: u32,
    /// See [`QUEUE`].
    queue: u32,
    /// It has enough to do.
    full: bool,
    up: Up,
    moved: Duration,
    /// Since when a machine behind this one waits for chunks.
    starves: Option<Duration>,
    told: Duration,
    serve: Serve,
    /// The group that it was told of, and what it hears of it.
    group: Option<Group>,
    ear: Option<Ear>,
    /// The disk may have chunks, and is looked at when all digests are known.
    waits: bool,
    /// The disk was asked whether it has chunks.
    looks: bool,
    /// Chunks that came before their digests.
    ahead: Vec<Piece>,
    /// The machines that asked before the disk was looked at.
    early: Vec<(Peer, Vec<u8>)>,
    verdict: Option<Verdict>,
    finishing: bool,
    ended: Option<String>,
    acts: VecDeque<Act>,
    /// Bytes that came and were wanted.
    pub came: u64,
    /// Chunks that were on the disk before.
    pub had: u32,
}

impl Node {
    /// A machine of this name, which hands out chunks at this port.
    #[must_use]
    pub fn new(name: &str, port: u16) -> Self {
        Self {
            name: super::wire::name(name),
            port,
            sender: None,
            manifest: None,
            scanned: false,
            have: Bits::default(),
            asked: Bits::default(),
            queued: 0,
            queue: 0,
            full: false,
            up: Up::None,
            moved: Duration::ZERO,
            starves: None,
            told: Duration::ZERO,
            serve: Serve::default(),
            group: None,
            ear: None,
            waits: false,
            looks: false,
            ahead: Vec::new(),
            early: Vec::new(),
            verdict: None,
            finishing: false,
            ended: None,
            acts: VecDeque::new(),
            came: 0,
            had: 0,
        }
    }

    /// What is to be done next.
    pub fn act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    /// What is copied.
    #[must_use]
    pub const fn manifest(&self) -> Option<&Arc<Manifest>> {
        self.manifest.as_ref()
    }

    /// How the copy ended.
    #[must_use]
    pub const fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// What the sender said at the end.
    #[must_use]
    pub const fn ended(&self) -> Option<&String> {
        self.ended.as_ref()
    }

    /// Chunks of all, that the disk has or was given.
    #[must_use]
    pub fn have(&self) -> (u32, u32) {
        (self.have.count(), self.have.len())
    }

    /// The connection to the sender stands.
    pub fn joined(&mut self, sender: Peer) {
        self.sender = Some(sender);
        let join = Message::Join { name: self.name.clone(), port: self.port };
        self.acts.push_back(Act::Say(sender, join));
    }

    /// The connection that was to be made to another machine stands.
    pub fn reached(&mut self, peer: Peer, now: Duration) {
        self.up = Up::At(peer);
        self.want(now);
    }

    /// It cannot be made.
    pub fn unreachable(&mut self) {
        if self.up == Up::Dialled {
            self.lose();
        }
    }

    fn lose(&mut self) {
        self.up = Up::None;
        self.asked = Bits::new(self.have.len());
        self.acts.extend(self.sender.map(|sender| Act::Say(sender, Message::Lost)));
    }

    /// A connection has ended.
    pub fn gone(&mut self, peer: Peer) {
        self.serve.gone(peer);
        self.early.retain(|(early, _)| *early != peer);
        let sender = self.sender == Some(peer);
        if sender {
            self.sender = None;
            self.listen(None);
            // The next one may never have read them.
            self.ahead.clear();
        }
        if self.up == Up::At(peer) {
            self.lose();
        }
    }

    /// Asks for all that is missing.
    fn want(&mut self, now: Duration) {
        let (Up::At(peer), Some(manifest)) = (self.up, &self.manifest) else { return };
        if !self.scanned || self.verdict.is_some() {
            return;
        }
        self.asked = self.have.not();
        self.ahead.iter().for_each(|piece| self.asked.remove(piece.number));
        self.moved = now;
        let (session, bits) = (manifest.session(), self.asked.bytes());
        if !self.asked.is_empty() {
            self.acts.push_back(Act::Say(peer, Message::Want { session, bits }));
        }
    }

    /// A message.
    ///
    /// # Errors
    /// What is wrong with it: the connection is of no use.
    pub fn heard(
        &mut self,
        peer: Peer,
        message: Message,
        now: Duration,
    ) -> Result<(), &'static str> {
        let from_sender = self.sender == Some(peer);
        match message {
            Message::Manifest(bytes) if from_sender => {
                self.begin(Manifest::read_plan(&bytes)?, now);
            }
            Message::Digests(all) if from_sender => self.digests(&all, now)?,
            Message::Known(root) if from_sender => self.known(root)?,
            Message::From(to) if from_sender => match (to, self.sender) {
                (Some(to), _) => {
                    if let Up::At(old) = self.up
                        && self.sender != Some(old)
                    {
                        self.acts.push_back(Act::Hang(old));
                    }
                    self.up = Up::Dialled;
                    self.acts.push_back(Act::Dial(to));
                }
                (None, Some(sender)) => self.reached(sender, now),
                (None, None) => {}
            },
            Message::End(why) if from_sender => self.ended = Some(why),
            Message::Group(group) if from_sender => self.listen(group),
            Message::Want { session, bits } => {
                let own = self.manifest.as_ref().map(|manifest| manifest.session());
                if own.is_some_and(|own| own != session) {
                    return Err("wants chunks of another copy");
                }
                self.early.retain(|(early, _)| *early != peer);
                match self.scanned {
                    true => self.serve.want(peer, Bits::read(self.have.len(), &bits).ok_or(WRONG)?),
                    false => self.early.push((peer, bits)),
                }
            }
            Message::Chunk(piece) if self.up == Up::At(peer) => {
                if let Some(ear) = self.ear.as_mut().filter(|_| from_sender) {
                    ear.chunk(piece.number);
                }
                self.chunk(piece, now)?;
            }
            // Of a machine that was just left.
            Message::Chunk(_) | Message::Ping => {}
            _ => return Err("says what is not its to say"),
        }
        Ok(())
    }

    fn listen(&mut self, group: Option<Group>) {
        let group = group.filter(|_| self.verdict.is_none());
        if self.group != group {
            (self.group, self.ear) = (group, None);
            self.acts.push_back(Act::Listen(group.map(|group| group.to)));
        }
    }

    /// The group that was to be listened to is.
    pub fn listens(&mut self) {
        self.ear = self.group.map(Ear::new);
    }

    /// Whether something is expected of the multicast soon, and within what time.
    #[must_use]
    pub fn nap(&self) -> Option<Duration> {
        self.ear.as_ref().and_then(Ear::nap)
    }

    /// A datagram from the sender's address. Anyone may have sent it: it costs at most a chunk
    /// that comes again over TCP.
    pub fn datagram(&mut self, bytes: &[u8], now: Duration) {
        let (Some(ear), Some(manifest)) = (&mut self.ear, &self.manifest) else { return };
        let Some(datagram) = Datagram::read(bytes) else { return };
        let n = datagram.chunk;
        let wants = self.scanned && self.verdict.is_none() && !self.have.has(n);
        if !ear.counts(&datagram, now) || !wants || self.ahead.iter().any(|p| p.number == n) {
            return;
        }
        let Some(chunk) = manifest.layout.chunk(n) else { return };
        if let Some(data) = ear.piece(&datagram, chunk.bytes as usize) {
            let piece = Piece {
                session: manifest.session(),
                disk: chunk.disk,
                area: chunk.area,
                number: n,
                start: chunk.start,
                data: Arc::new(data),
            };
            // Other bytes than the sender has are not taken.
            let _ = self.chunk(piece, now);
        }
    }

    fn begin(&mut self, manifest: Manifest, now: Duration) {
        if self.manifest.as_ref().is_some_and(|own| own.session() == manifest.session()) {
            // The sender was away.
            if self.verdict.is_some() {
                self.done();
            } else if self.scanned {
                self.state(now);
            }
            return;
        }
        if self.manifest.is_some() {
            self.ended = Some(OTHER.into());
            return;
        }
        self.queue = match manifest.layout.most() {
            // Of trees: as many bytes come at once.
            SMALL => QUEUE * (CHUNK / SMALL),
            _ => QUEUE,
        };
        self.have = Bits::new(manifest.layout.count());
        self.asked = self.have.clone();
        self.manifest = Some(Arc::new(manifest));
    }

    fn digests(&mut self, all: &[(u32, [u8; 32])], now: Duration) -> Result<(), &'static str> {
        let manifest = self.manifest.clone().ok_or("sends digests before the manifest")?;
        self.moved = now;
        if !all.iter().all(|(n, digest)| manifest.learn(*n, *digest)) {
            self.ended = Some(OTHER.into());
            return Err(OTHER);
        }
        for piece in core::mem::take(&mut self.ahead) {
            // Of the machine that it came from no more is known.
            let _ = self.chunk(piece, now);
        }
        Ok(())
    }

    fn known(&mut self, root: Option<[u8; 32]>) -> Result<(), &'static str> {
        let manifest = self.manifest.as_ref().ok_or("sends digests before the manifest")?;
        if root.is_some_and(|root| root != *manifest.root()) {
            return Err("sends other digests than the manifest has");
        }
        if !self.looks {
            self.looks = true;
            self.acts.push_back(Act::Disk(Ask::Look));
        } else if self.waits && root.is_some() {
            self.waits = false;
            self.acts.push_back(Act::Disk(Ask::Scan));
        }
        Ok(())
    }

    fn state(&mut self, now: Duration) {
        self.told = now;
        let state = Message::State(self.have.count());
        self.acts.extend(self.sender.map(|sender| Act::Say(sender, state)));
    }

    fn chunk(&mut self, piece: Piece, now: Duration) -> Result<(), &'static str> {
        let Some(manifest) = &self.manifest else {
            return Err("sends a chunk before the manifest");
        };
        let n = piece.number;
        let Some(chunk) = manifest.layout.chunk(n) else { return Err("sends an unknown chunk") };
        let place = (chunk.disk, chunk.area, chunk.start) == (piece.disk, piece.area, piece.start);
        if piece.session != manifest.session() || !place {
            return Err("sends a chunk of another copy");
        }
        self.asked.remove(n);
        if self.have.has(n) || self.verdict.is_some() {
            return Ok(());
        }
        if manifest.digest(n).is_none() {
            // One too many is asked for again.
            if self.ahead.len() < AHEAD && self.ahead.iter().all(|piece| piece.number != n) {
                self.ahead.push(piece);
            }
            return Ok(());
        }
        if !manifest.is(n, &piece.data) {
            return Err("sends other bytes than the sender has");
        }
        self.moved = now;
        self.came += piece.data.len() as u64;
        if self.ear.is_none() || self.serve.busy() {
            self.serve.at_hand(n, &piece.data);
        }
        if self.queued < self.queue {
            self.have.add(n);
            self.queued += 1;
            self.acts.push_back(Act::Disk(Ask::Store(n, piece.data)));
        }
        Ok(())
    }

    /// The disk's answer.
    pub fn told(&mut self, told: Told, now: Duration) {
        match told {
            Told::Looked(true) => {
                self.waits = self.manifest.as_ref().is_some_and(|own| own.missing() > 0);
                if !self.waits {
                    self.acts.push_back(Act::Disk(Ask::Scan));
                }
            }
            Told::Looked(false) => {
                return self.told(Told::Scanned(Bits::new(self.have.len())), now);
            }
            Told::Digested(_) => {}
            Told::Scanned(have) => {
                self.had = have.count();
                (self.have, self.scanned) = (have, true);
                for (peer, bits) in core::mem::take(&mut self.early) {
                    match Bits::read(self.have.len(), &bits) {
                        Some(bits) => self.serve.want(peer, bits),
                        None => self.acts.push_back(Act::Hang(peer)),
                    }
                }
                self.state(now);
                self.want(now);
            }
            Told::Stored(_) => self.queued = self.queued.saturating_sub(1),
            Told::Read(n, Some(data)) => self.serve.at_hand(n, &data),
            Told::Read(n, None) => self.serve.unreadable(n),
            Told::Kept(read_back) => {
                self.end(if read_back { Verdict::Verified } else { Verdict::Whole });
            }
            // Of what was asked before it failed, too.
            Told::Failed(_) if matches!(self.verdict, Some(Verdict::Failed(_))) => {}
            Told::Failed(why) => {
                self.end(Verdict::Failed(why));
                self.have = Bits::new(self.have.len());
                // They go on with another machine.
                let peers: Vec<Peer> = self.serve.peers().collect();
                for peer in peers.into_iter().filter(|peer| self.sender != Some(*peer)) {
                    self.serve.gone(peer);
                    self.acts.push_back(Act::Hang(peer));
                }
            }
        }
        if self.scanned && !self.finishing && self.queued == 0 && self.have.not().is_empty() {
            self.finishing = true;
            self.acts.push_back(Act::Disk(Ask::Finish));
        }
    }

    fn end(&mut self, verdict: Verdict) {
        self.finishing = true;
        self.verdict = Some(verdict);
        self.listen(None);
        self.done();
    }

    fn done(&mut self) {
        if let (Some(verdict), Some(sender)) = (&self.verdict, self.sender) {
            let done = Message::Done(verdict.clone(), self.came);
            self.acts.push_back(Act::Say(sender, done));
        }
    }

    /// Time passes.
    pub fn tick(&mut self, now: Duration) {
        let waits = self.queued as usize + self.ahead.len();
        let room = u16::try_from((self.queue as usize).saturating_sub(waits)).unwrap_or(0);
        let told = self.ear.as_mut().and_then(|ear| ear.report(self.have.count(), room, now));
        if let (Some(told), Some(sender)) = (told, self.sender) {
            self.acts.push_back(Act::Say(sender, Message::Heard(told)));
        }
        if !self.scanned || self.verdict.is_some() {
            return;
        }
        // To read a large copy back takes longer than a sender waits for a silent machine.
        if now.saturating_sub(self.told) >= EVERY {
            self.state(now);
        }
        if self.finishing {
            return;
        }
        if let Up::At(peer) = self.up {
            if self.asked.is_empty() {
                // What came when the disk had enough to do.
                if self.queued < self.queue / 2 {
                    self.want(now);
                }
            } else if now.saturating_sub(self.moved) >= STALLED {
                self.acts.push_back(Act::News(format!(
                    "no chunk for {} s; takes them from elsewhere",
                    STALLED.as_secs()
                )));
                if self.sender != Some(peer) {
                    self.acts.push_back(Act::Hang(peer));
                    self.lose();
                } else {
                    self.want(now);
                }
            }
        }
    }

    /// The connection to this machine has room for a chunk; false when there is none for it.
    pub fn feed(&mut self, peer: Peer) -> bool {
        let Some(manifest) = &self.manifest else { return false };
        let act = self.serve.next(peer, manifest, &self.have);
        let some = act.is_some();
        self.acts.extend(act);
        some
    }

    /// Whether this machine waits for chunks from here.
    #[must_use]
    pub fn wants(&self, peer: Peer) -> bool {
        self.serve.wants(peer)
    }

    /// From where nothing is to be read now: the disk has enough to do, and no machine that has
    /// room for chunks waits for them. So disks that are equally slow take each chunk once, and
    /// one slow disk does not stop the others.
    pub fn pauses(&mut self, starving: bool, now: Duration) -> Option<Peer> {
        self.starves = starving.then(|| self.starves.unwrap_or(now));
        let starves = self.starves.is_some_and(|since| now.saturating_sub(since) >= STARVES);
        // While it listens the sender sends nothing else that is long.
        let Up::At(peer) = self.up else { return None };
        // What is on its way when the disk has enough to do needs room, too.
        let most = if self.full { self.queue / 2 } else { self.queue / 4 * 3 };
        self.full = self.queued >= most;
        (self.full && now.saturating_sub(self.moved) < PAUSE && !starves && self.ear.is_none())
            .then_some(peer)
    }

    /// Whether another copy takes chunks from here.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.serve.busy()
    }

    /// The line for the user at the end.
    #[must_use]
    pub fn summary(&self) -> String {
        match &self.manifest {
            Some(manifest) => format!(
                "{} of {} chunks were on the disk; {} came",
                self.had,
                manifest.layout.count(),
                crate::outcome::Amount(self.came)
            ),
            None => "no manifest came".to_string(),
        }
    }
}

const OTHER: &str = "the sender has another disk now than when this copy began";
const WRONG: &str = "wants chunks that do not exist";
