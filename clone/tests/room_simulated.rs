//! Whole rooms on a virtual clock: disks in memory, connections that carry a chunk at a time,
//! machines that are killed, come back, come late or have slow disks.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use clone::error::Trouble;
use clone::guard::Media;
use clone::outcome::Standing;
use clone::room::bits::Bits;
use clone::room::cast::{Bulk, Cast};
use clone::room::golden::Golden;
use clone::room::keep::Keep;
use clone::room::manifest::{Area, Disk, Extent, Layout, Manifest};
use clone::room::node::Node;
use clone::room::wire::{Group, Message, Verdict};
use clone::room::{Act, Ask, Told};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// More than twice as many as there are samples.
const CHUNK: u32 = 24 << 10;
const SIZE: u64 = 5 << 20;
/// A step of the clock. In a step each connection carries one chunk.
const STEP: Duration = Duration::from_millis(10);

/// A disk in memory that outlives its machine.
#[derive(Debug, Clone)]
struct Ram {
    bytes: Rc<RefCell<Vec<u8>>>,
    buffer: Vec<u8>,
    /// Writes to this byte are lost.
    bad: Option<u64>,
    writes: Rc<RefCell<u64>>,
}

impl Ram {
    fn of(bytes: Vec<u8>) -> Self {
        let (bytes, writes) = (Rc::new(RefCell::new(bytes)), Rc::default());
        Self { bytes, buffer: Vec::new(), bad: None, writes }
    }
}

impl Media for Ram {
    fn name(&self) -> &str {
        "ram"
    }
    fn room(&self) -> Option<u64> {
        Some(self.bytes.borrow().len() as u64)
    }
    fn begin(&mut self) -> Result<(), Trouble> {
        Ok(())
    }
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<usize, Trouble> {
        *self.writes.borrow_mut() += bytes.len() as u64;
        let mut disk = self.bytes.borrow_mut();
        disk[at as usize..][..bytes.len()].copy_from_slice(bytes);
        if let Some(bad) = self.bad.filter(|bad| (at..at + bytes.len() as u64).contains(bad)) {
            disk[bad as usize] ^= 1;
        }
        Ok(bytes.len())
    }
    fn end(&mut self, _: u64) -> Result<(), Trouble> {
        Ok(())
    }
    fn flush(&mut self) -> Result<(), Trouble> {
        Ok(())
    }
    fn read(&mut self, at: u64, bytes: usize) -> Result<Option<&[u8]>, Trouble> {
        let disk = self.bytes.borrow();
        let rest = disk.get(at as usize..).unwrap_or_default();
        self.buffer = rest[..rest.len().min(bytes)].to_vec();
        Ok(Some(&self.buffer))
    }
    fn fetch(&mut self, at: u64, buffer: &mut [u8]) -> Result<usize, Trouble> {
        let disk = self.bytes.borrow();
        let n = disk.len().saturating_sub(at as usize).min(buffer.len());
        buffer[..n].copy_from_slice(&disk[at as usize..][..n]);
        Ok(n)
    }
    fn clock(&self) -> u64 {
        1_735_689_599
    }
}

/// Bytes of which no two pages are equal.
fn noise(len: u64, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    let page: Vec<u8> = (0..1024).flat_map(|_| next()).collect();
    let mut all = page.repeat(len.div_ceil(4096) as usize);
    for page in all.chunks_mut(4096) {
        page[..4].copy_from_slice(&next());
    }
    all.truncate(len as usize);
    all
}

/// What is used of the golden disk: most of it, with holes.
fn used() -> Vec<Extent> {
    let extent = |(start, length)| Extent { start, length };
    [(0, 1 << 20), (1 << 20, 300 << 10), (2 << 20, 2 << 20), (SIZE - 20480, 20480)]
        .map(extent)
        .to_vec()
}

fn manifest(golden: &[u8], used: &[Extent], chunk: u32) -> Arc<Manifest> {
    let area = Area { number: 1, start: 1 << 20, length: 3 << 20, texts: Default::default() };
    let disk = Disk::new("golden", golden.len() as u64, 512, vec![area], used);
    let layout = Layout::new(chunk, vec![disk]).unwrap();
    let manifest = Manifest::plan(layout);
    let samples: Vec<u32> = manifest.samples(0).collect();
    samples.into_iter().for_each(|n| drop(read(&manifest, golden, n)));
    Arc::new(manifest)
}

/// Reads a chunk as the sender does; the manifest learns its digest.
fn read(manifest: &Manifest, golden: &[u8], n: u32) -> Vec<u8> {
    let pieces = manifest.layout.pieces(manifest.layout.chunk(n).unwrap());
    let bytes: Vec<u8> =
        pieces.flat_map(|p| golden[p.start as usize..p.end() as usize].to_vec()).collect();
    assert!(manifest.learn(n, *blake3::hash(&bytes).as_bytes()));
    bytes
}

/// A connection: its two machines and what is on the way to each. Machine 0 is the sender.
struct Wire {
    ends: [usize; 2],
    to: [VecDeque<Message>; 2],
}

struct Machine {
    node: Node,
    ram: Ram,
    keep: Option<Keep<Ram>>,
    alive: bool,
    /// It takes chunks from disk only every so many steps.
    slow: u64,
    waiting: VecDeque<Ask>,
    /// Of a thousand datagrams so many are lost on the way to it.
    lossy: u64,
    /// It gets no more datagrams than this in a step.
    link: usize,
    /// It listens to the group.
    listens: bool,
}

struct World {
    golden: Golden,
    bytes: Vec<u8>,
    manifest: Arc<Manifest>,
    machines: Vec<Machine>,
    wires: BTreeMap<u32, Wire>,
    next: u32,
    now: Duration,
    steps: u64,
    /// What the user was told.
    trace: Vec<String>,
    air: Air,
}

/// The network's multicast.
struct Air {
    /// So many datagrams go in a step, or, for 0, one part of them each ten steps.
    rate: usize,
    /// Machines can listen.
    works: bool,
    /// Some come twice, and some later than those behind them.
    rough: bool,
    /// Forged ones come in between.
    forged: bool,
    late: Vec<Vec<u8>>,
    state: u64,
    sent: usize,
}

impl Air {
    fn dice(&mut self, sides: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % sides
    }
}

fn cast(bulk: Bulk) -> Cast {
    Cast::new(bulk, Group { token: [7; 8], to: "239.192.1.2:9012".parse().unwrap() })
}

fn address(at: usize) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from_bits(0x0a00_0000 + at as u32), 9012)
}

impl World {
    fn new(wanted: usize) -> Self {
        Self::of(wanted, SIZE, &used(), CHUNK)
    }

    /// With a golden disk of this size, use and chunks.
    fn of(wanted: usize, size: u64, used: &[Extent], chunk: u32) -> Self {
        let bytes = noise(size, 1);
        let manifest = manifest(&bytes, used, chunk);
        let golden = Golden::new(manifest.clone(), wanted);
        let (machines, wires) = (Vec::new(), BTreeMap::new());
        let (now, trace) = (Duration::ZERO, Vec::new());
        let (rate, works, rough, forged) = (40, true, false, false);
        let (late, state, sent) = (Vec::new(), 0x9e37_79b9_7f4a_7c15, 0);
        let air = Air { rate, works, rough, forged, late, state, sent };
        Self { golden, bytes, manifest, machines, wires, next: 0, now, steps: 0, trace, air }
    }

    /// A room whose sender has this word for the bulk.
    fn with(wanted: usize, bulk: Bulk) -> Self {
        let mut world = Self::new(wanted);
        world.golden = Golden::new(world.manifest.clone(), wanted).multicast(cast(bulk));
        world
    }

    fn add(&mut self, ram: Ram) -> usize {
        let at = self.machines.len() + 1;
        let node = Node::new(&format!("n{at}"), 9012);
        let (keep, waiting) = (None, VecDeque::new());
        let (alive, slow, lossy, link, listens) = (true, 1, 0, usize::MAX, false);
        self.machines.push(Machine { node, ram, keep, alive, slow, waiting, lossy, link, listens });
        self.join(at);
        at
    }

    /// So many machines whose disks have other bytes.
    fn fill(&mut self, machines: u32) {
        for n in 0..machines {
            self.add(self.garbage(n));
        }
    }

    fn join(&mut self, at: usize) {
        let wire = self.connect(at, 0);
        self.machines[at - 1].node.joined(wire);
    }

    fn connect(&mut self, from: usize, to: usize) -> u32 {
        self.next += 1;
        self.wires.insert(self.next, Wire { ends: [from, to], to: Default::default() });
        self.next
    }

    /// Cuts a connection; both ends hear of it.
    fn cut(&mut self, wire: u32) {
        let Some(Wire { ends, .. }) = self.wires.remove(&wire) else { return };
        for end in ends {
            match end {
                0 => self.golden.gone(wire, self.now),
                at => self.machines[at - 1].node.gone(wire),
            }
        }
    }

    fn kill(&mut self, at: usize) {
        let machine = &mut self.machines[at - 1];
        (machine.alive, machine.listens) = (false, false);
        (machine.keep, machine.node) = (None, Node::new(&format!("n{at}"), 9012));
        machine.waiting.clear();
        let own: Vec<u32> =
            self.wires.iter().filter(|(_, w)| w.ends.contains(&at)).map(|(n, _)| *n).collect();
        own.into_iter().for_each(|wire| self.cut(wire));
    }

    fn restart(&mut self, at: usize) {
        self.machines[at - 1].alive = true;
        self.join(at);
    }

    /// The sender is started anew, and knows nothing of what was.
    fn restart_sender(&mut self) {
        let own: Vec<u32> =
            self.wires.iter().filter(|(_, w)| w.ends.contains(&0)).map(|(n, _)| *n).collect();
        own.into_iter().for_each(|wire| self.cut(wire));
        let (used, machines) = (self.manifest.layout.disks[0].used.clone(), self.machines.len());
        self.manifest = manifest(&self.bytes, &used, CHUNK);
        self.golden = Golden::new(self.manifest.clone(), machines);
        (1..=machines).for_each(|at| self.join(at));
    }

    fn say(&mut self, from: usize, wire: u32, message: Message) {
        if let Some(wire) = self.wires.get_mut(&wire) {
            let other = usize::from(wire.ends[0] == from);
            wire.to[other].push_back(message);
        }
    }

    fn disk(&mut self, at: usize, ask: Ask) {
        let machine = &mut self.machines[at - 1];
        let manifest = machine.node.manifest().unwrap().clone();
        let keep = machine.keep.get_or_insert_with(|| {
            Keep::new(machine.ram.clone(), (manifest.clone(), 0), true, true, None).unwrap()
        });
        let told = match ask {
            Ask::Look => Ok(Told::Looked(keep.look(&mut || ()))),
            Ask::Scan => {
                let mut have = Bits::new(manifest.layout.count());
                keep.scan(&mut have, &mut || ()).map(|()| Told::Scanned(have))
            }
            Ask::Store(n, data) => keep.store(n, &data).map(|()| Told::Stored(n)),
            Ask::Read(n) => keep.read(n).map(|data| Told::Read(n, data)),
            Ask::Finish => keep.finish().map(Told::Kept),
        };
        machine.node.told(told.unwrap_or_else(|why| Told::Failed(why.to_string())), self.now);
    }

    /// The sender's datagrams of a step.
    fn cast(&mut self) {
        let (mut buffer, mut heard) = (Vec::new(), vec![0; self.machines.len()]);
        let mut sent = 0;
        let rate = match self.air.rate {
            0 => usize::from(self.steps.is_multiple_of(10)),
            rate => rate,
        };
        while sent < rate {
            let Some(size) = self.golden.cast(&mut buffer, self.now) else {
                match self.acts() {
                    true => continue,
                    false => break,
                }
            };
            for datagram in buffer.chunks(size) {
                sent += 1;
                let mut all = vec![datagram.to_vec()];
                if self.air.rough && self.air.dice(20) == 0 {
                    self.air.late.push(all.remove(0));
                } else if self.air.rough && self.air.dice(20) == 0 {
                    all.push(datagram.to_vec());
                    all.append(&mut self.air.late);
                }
                if self.air.forged && self.air.dice(50) == 0 {
                    let mut forged = datagram.to_vec();
                    let last = forged.len() - 1;
                    forged[last] ^= 1;
                    all.insert(0, forged);
                }
                all.iter().for_each(|datagram| self.deliver(datagram, &mut heard));
            }
        }
        self.air.sent += sent;
        if sent == 0 {
            let late = std::mem::take(&mut self.air.late);
            late.iter().for_each(|datagram| self.deliver(datagram, &mut heard));
        }
    }

    fn deliver(&mut self, datagram: &[u8], heard: &mut [usize]) {
        for (machine, heard) in self.machines.iter_mut().zip(heard) {
            *heard += 1;
            let lost = machine.lossy > self.air.dice(1000) || *heard > machine.link;
            if machine.listens && !lost {
                machine.node.datagram(datagram, self.now);
            }
        }
    }

    fn acts(&mut self) -> bool {
        let mut some = false;
        while let Some(act) = self.golden.act() {
            some = true;
            match act {
                Act::Say(wire, message) => self.say(0, wire, message),
                Act::Hang(wire) => self.cut(wire),
                Act::Disk(Ask::Read(n)) => {
                    let data = read(&self.manifest, &self.bytes, n);
                    self.golden.told(Told::Read(n, Some(Arc::new(data))));
                }
                Act::News(text) => self.trace.push(text),
                other => panic!("the sender wants {other:?}"),
            }
        }
        for at in 1..=self.machines.len() {
            while let Some(act) = self.machines[at - 1].node.act() {
                match act {
                    Act::Say(wire, message) => self.say(at, wire, message),
                    Act::Hang(wire) => self.cut(wire),
                    Act::News(text) => self.trace.push(text),
                    Act::Dial(to) => {
                        let other = (to.ip().to_bits() - 0x0a00_0000) as usize;
                        assert_eq!(to, address(other));
                        if self.machines[other - 1].alive {
                            let wire = self.connect(at, other);
                            self.machines[at - 1].node.reached(wire, self.now);
                        } else {
                            self.machines[at - 1].node.unreachable();
                        }
                    }
                    Act::Listen(to) => {
                        let machine = &mut self.machines[at - 1];
                        machine.listens = to.is_some() && self.air.works;
                        if machine.listens {
                            machine.node.listens();
                        }
                    }
                    Act::Disk(ask) => self.machines[at - 1].waiting.push_back(ask),
                }
            }
        }
        some
    }

    fn step(&mut self) {
        self.now += STEP;
        self.steps += 1;
        if let Some(n) = self.golden.digest_next() {
            read(&self.manifest, &self.bytes, n);
            self.golden.told(Told::Digested(n));
        }
        self.acts();
        let mut starving = vec![false; self.machines.len() + 1];
        for (n, wire) in &self.wires {
            for (end, at) in wire.ends.into_iter().enumerate().filter(|(_, at)| *at > 0) {
                let hungry = wire.to[1 - end].len() < 2;
                starving[at] |= hungry && self.machines[at - 1].node.wants(*n);
            }
        }
        let paused: Vec<_> = (1..=self.machines.len())
            .map(|at| self.machines[at - 1].node.pauses(starving[at], self.now))
            .collect();
        for wire in self.wires.keys().copied().collect::<Vec<_>>() {
            for end in [0, 1] {
                let own = self.wires.get(&wire).map_or(0, |link| link.ends[end]);
                if own > 0 && paused[own - 1] == Some(wire) {
                    continue;
                }
                // One chunk a step, and what is small before it.
                let mut chunks = 0;
                while let Some(link) = self.wires.get_mut(&wire)
                    && chunks < 1
                    && let Some(message) = link.to[end].pop_front()
                {
                    chunks += usize::from(matches!(message, Message::Chunk(_)));
                    let (own, from) = (link.ends[end], link.ends[1 - end]);
                    let heard = match own {
                        0 => self.golden.heard(wire, *address(from).ip(), message, self.now),
                        at => self.machines[at - 1].node.heard(wire, message, self.now),
                    };
                    if let Err(why) = heard {
                        panic!("{own} of {from}: {why}");
                    }
                }
                let Some(link) = self.wires.get(&wire) else { break };
                if link.to[1 - end].len() < 2 {
                    match link.ends[end] {
                        0 => self.golden.feed(wire),
                        at => self.machines[at - 1].node.feed(wire),
                    };
                }
            }
        }
        for at in 1..=self.machines.len() {
            if !self.machines[at - 1].alive {
                continue;
            }
            if self.steps.is_multiple_of(self.machines[at - 1].slow) {
                for _ in 0..4 {
                    if let Some(ask) = self.machines[at - 1].waiting.pop_front() {
                        self.disk(at, ask);
                    }
                }
            }
            self.machines[at - 1].node.tick(self.now);
        }
        self.cast();
        self.acts();
    }

    fn run(&mut self, limit: u64) {
        while !self.golden.over(Duration::from_secs(30), self.now) {
            self.step();
            assert!(self.steps < limit, "{:#?} {:?}", self.golden.clients(), self.trace);
        }
    }

    fn good(&self, at: usize) {
        let disk = self.machines[at - 1].ram.bytes.borrow();
        for piece in &self.manifest.layout.disks[0].used {
            let range = piece.start as usize..piece.end() as usize;
            assert!(disk[range.clone()] == self.bytes[range], "{at}: {piece:?}");
        }
        assert_eq!(self.machines[at - 1].node.verdict(), Some(&Verdict::Verified), "{at}");
    }

    fn garbage(&self, seed: u32) -> Ram {
        Ram::of(noise(self.bytes.len() as u64, 77 + seed))
    }
}

#[test]
fn a_chain_takes_one_copy_out_of_the_sender() {
    let mut world = World::new(8);
    let chunks = u64::from(world.manifest.layout.count());
    world.fill(8);
    world.run(400);
    (1..=8).for_each(|at| world.good(at));
    assert_eq!(world.golden.sent(), chunks, "each chunk leaves the sender once");
    // What is free keeps what it had.
    let disk = world.machines[0].ram.bytes.borrow();
    assert!(
        disk[(4 << 20) + 4096..(5 << 20) - 30000]
            == noise(SIZE, 77)[(4 << 20) + 4096..(5 << 20) - 30000]
    );
}

/// The sender gave up while machines read large copies back: they said nothing meanwhile.
#[test]
fn a_machine_that_reads_its_copy_back_says_so() {
    let mut world = World::new(1);
    world.fill(1);
    let finishes = |world: &World| world.machines[0].waiting.contains(&Ask::Finish);
    while !finishes(&world) {
        // The last ask is left until it is seen.
        let left = world.machines[0].waiting.len() <= 1 && world.machines[0].node.have().0 > 0;
        world.machines[0].slow = if left { 3 } else { 1 };
        world.step();
        assert!(world.steps < 1000);
    }
    world.machines[0].slow = u64::MAX;
    let mut said = world.golden.finishing();
    for _ in 0..5 {
        (0..101).for_each(|_| world.step());
        let now = world.golden.finishing();
        assert!(now > said, "{now}");
        said = now;
    }
    assert!(!world.golden.over(Duration::from_secs(1), world.now));
    world.machines[0].slow = 1;
    world.run(world.steps + 100);
    world.good(1);
}

#[test]
fn an_equal_disk_gets_and_writes_nothing_and_a_changed_one_what_differs() {
    let mut world = World::new(2);
    let equal = Ram::of(world.bytes.clone());
    let mut changed = world.bytes.clone();
    changed[3 << 20] ^= 1;
    let equal_writes = equal.writes.clone();
    world.add(equal);
    world.add(Ram::of(changed));
    world.run(400);
    (1..=2).for_each(|at| world.good(at));
    assert_eq!(*equal_writes.borrow(), 0);
    assert_eq!(
        world.machines[1].node.came,
        u64::from(CHUNK),
        "one chunk, from a machine that has it"
    );
    assert!(world.golden.sent() <= 1);
}

#[test]
fn forty_machines_that_lack_a_little() {
    let mut world = World::new(40);
    for _ in 0..40 {
        let mut bytes = world.bytes.clone();
        for at in [2 << 20, 3 << 20, (3 << 20) + 200_000] {
            bytes[at] ^= 1;
        }
        world.add(Ram::of(bytes));
    }
    world.run(2000);
    (1..=world.machines.len()).for_each(|at| world.good(at));
}

/// Killed at each tenth, in turn the first, one in the middle and the last; the others finish,
/// and it goes on with what it has.
#[test]
fn killed_at_each_tenth_the_rest_finish_and_it_goes_on() {
    let mut clean = World::new(5);
    clean.fill(5);
    clean.run(500);
    for tenth in 1..10 {
        for victim in [1, 3, 5] {
            let mut world = World::new(5);
            world.fill(5);
            while world.steps < clean.steps * tenth / 10 {
                world.step();
            }
            world.kill(victim);
            for _ in 0..20 {
                world.step();
            }
            let head = world.machines[victim - 1].ram.bytes.borrow()[..512].to_vec();
            let whole =
                head == world.bytes[..512] && world.machines[victim - 1].node.verdict().is_some();
            let marked = clone::mark::Mark::read(&head).is_some();
            world.restart(victim);
            world.run(3000);
            (1..=5).for_each(|at| world.good(at));
            let (had, all) = (world.machines[victim - 1].node.had, world.manifest.layout.count());
            if tenth > 5 && marked && !whole {
                assert!(had > 0, "{tenth} {victim}: {had} of {all}");
            }
        }
    }
}

/// Each machine that had the copy keeps it, and the others get what they lack.
#[test]
fn the_sender_killed_at_each_tenth_all_go_on() {
    let mut clean = World::new(3);
    clean.fill(3);
    clean.run(1000);
    for tenth in 1..10 {
        let mut world = World::new(3);
        world.fill(3);
        while world.steps < clean.steps * tenth / 10 {
            world.step();
        }
        world.restart_sender();
        // They are told of the new copy before it can be over.
        (0..5).for_each(|_| world.step());
        world.run(5000);
        (1..=3).for_each(|at| world.good(at));
        let twice = world.golden.sent() + clean.steps * tenth / 10;
        assert!(twice < 2 * u64::from(world.manifest.layout.count()) + 60, "{tenth}: {twice}");
    }
}

#[test]
fn a_machine_that_does_not_come_back_is_passed_and_told_of() {
    let mut world = World::new(4);
    world.fill(4);
    (0..30).for_each(|_| world.step());
    world.kill(2);
    world.run(5000);
    [1, 3, 4].into_iter().for_each(|at| world.good(at));
    assert!(matches!(world.golden.clients()[1].standing, Standing::Lost(_)));
}

#[test]
fn one_that_comes_late_gets_all_of_it_from_the_end_of_the_chain() {
    let mut world = World::new(2);
    world.fill(2);
    (0..40).for_each(|_| world.step());
    let late = world.add(world.garbage(9));
    world.run(1000);
    (1..=late).for_each(|at| world.good(at));
    assert_eq!(world.golden.sent(), u64::from(world.manifest.layout.count()));
}

#[test]
fn a_slow_disk_does_not_stop_the_chain() {
    let mut clean = World::new(4);
    clean.fill(4);
    clean.run(500);
    let mut world = World::new(4);
    world.fill(4);
    while world.golden.started().is_none() {
        world.step();
    }
    world.machines[0].slow = 40;
    while world.golden.clients()[1..].iter().any(|c| c.standing != Standing::Verified) {
        world.step();
        assert!(world.steps < clean.steps + 60, "{:?}", world.golden.clients());
    }
    assert_ne!(world.golden.clients()[0].standing, Standing::Verified);
    world.run(5000);
    (1..=4).for_each(|at| world.good(at));
}

/// Each chunk that came when the disk had enough to do was thrown away, and came again.
#[test]
fn disks_that_are_equally_slow_take_each_chunk_once() {
    let mut world = World::new(4);
    world.fill(4);
    world.machines.iter_mut().for_each(|machine| machine.slow = 12);
    world.run(5000);
    (1..=4).for_each(|at| world.good(at));
    let (sent, chunks) = (world.golden.sent(), u64::from(world.manifest.layout.count()));
    assert!(sent <= chunks + 8, "{sent} of {chunks}");
}

#[test]
fn a_bad_disk_is_never_called_verified_and_keeps_the_mark() {
    let mut world = World::new(2);
    let mut bad = world.garbage(1);
    bad.bad = Some((2 << 20) + 4242);
    let disk = bad.bytes.clone();
    world.add(bad);
    world.add(world.garbage(2));
    world.run(1000);
    world.good(2);
    assert!(matches!(world.golden.clients()[0].standing, Standing::Failed(_)));
    assert!(clone::mark::Mark::read(&disk.borrow()[..512]).is_some());
}

/// A chunk of another copy, or with other bytes, is not written, from any sender.
#[test]
fn what_is_not_of_this_copy_is_refused() {
    let world = World::new(1);
    let mut node = Node::new("n", 1);
    node.joined(0);
    let now = Duration::ZERO;
    let layout = Arc::new(world.manifest.layout.bytes());
    node.heard(0, Message::Manifest(layout), now).unwrap();
    let digests =
        (0..world.manifest.layout.count()).filter_map(|n| Some((n, world.manifest.digest(n)?)));
    node.heard(0, Message::Digests(digests.collect()), now).unwrap();
    node.told(Told::Scanned(Bits::new(world.manifest.layout.count())), now);
    node.heard(0, Message::From(None), now).unwrap();
    while node.act().is_some() {}
    let mut golden = Golden::new(world.manifest.clone(), 1);
    let join = Message::Join { name: "n".into(), port: 1 };
    golden.heard(0, Ipv4Addr::LOCALHOST, join, now).unwrap();
    let want = Message::Want {
        session: world.manifest.session(),
        bits: Bits::full(world.manifest.layout.count()).bytes(),
    };
    golden.heard(0, Ipv4Addr::LOCALHOST, want, now).unwrap();
    golden.feed(0);
    let chunk = *world.manifest.layout.chunk(0).unwrap();
    let data = Arc::new(world.bytes[..chunk.bytes as usize].to_vec());
    assert!(world.manifest.digest(0).is_some(), "it is a sample");
    golden.told(Told::Read(0, Some(data)));
    golden.feed(0);
    let mut piece = None;
    while let Some(act) = golden.act() {
        if let Act::Say(_, Message::Chunk(found)) = act {
            piece = Some(found);
        }
    }
    let good = piece.unwrap();
    let mut wrong: Vec<_> = (0..6).map(|_| good.clone()).collect();
    wrong[0].session[0] ^= 1;
    wrong[1].disk = 1;
    wrong[2].area = 1;
    wrong[3].start += 4096;
    wrong[4].number = 1;
    wrong[5].data = Arc::new(noise(u64::from(chunk.bytes), 5));
    for piece in wrong {
        assert!(node.heard(0, Message::Chunk(piece), now).is_err());
        assert!(node.act().is_none(), "nothing is written");
    }
    node.heard(0, Message::Chunk(good), now).unwrap();
    assert!(matches!(node.act(), Some(Act::Disk(Ask::Store(0, _)))));
}

/// A thousand machines of a school, of which some are switched off on the way, and some come late
/// or had the copy before.
#[test]
fn a_thousand_machines() {
    let used = [Extent { start: 0, length: 64 << 10 }, Extent { start: 100 << 10, length: 12288 }];
    let mut world = World::of(1000, 128 << 10, &used, 4096);
    let chunks = u64::from(world.manifest.layout.count());
    for n in 0..1000 {
        let ram = if n % 50 == 7 { Ram::of(world.bytes.clone()) } else { world.garbage(n) };
        world.add(ram);
    }
    while world.golden.started().is_none() {
        world.step();
    }
    (0..60).for_each(|_| world.step());
    let off = [999, 2, 3, 4, 500, 1000];
    off.iter().for_each(|at| world.kill(*at));
    let late = world.add(world.garbage(5000));
    (0..50).for_each(|_| world.step());
    off[1..].iter().for_each(|at| world.restart(*at));
    world.run(8000);
    (1..=late).filter(|at| *at != 999).for_each(|at| world.good(at));
    let bad = world.golden.clients().into_iter().filter(|c| !c.standing.good());
    assert_eq!(bad.map(|c| c.name).collect::<Vec<_>>(), ["n999"], "it did not come back");
    assert!(world.golden.sent() < 4 * chunks, "{} of {chunks}", world.golden.sent());
}

/// A disk with a DOS table: boot code, what is before the first partition, and two partitions, the
/// second longer on other disks.
fn dos_disk(seed: u8, second: u32) -> Vec<u8> {
    let mut disk: Vec<u8> = (0..SIZE).map(|i| (i / 4096) as u8 ^ seed).collect();
    let entry = |kind: u8, start: u32, sectors: u32| {
        let mut entry = [0; 16];
        entry[4] = kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&sectors.to_le_bytes());
        entry
    };
    // The third is this disk's alone, or none.
    let third = if seed == 0 { entry(0, 0, 0) } else { entry(0x83, 8192, 1024) };
    let table = [entry(0x83, 1024, 2000), entry(7, 4096, second), third, entry(0, 0, 0)];
    disk[446..510].copy_from_slice(&table.concat());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// Of each byte of a disk that keeps its table it is known whose it is, whenever the power is cut.
#[test]
fn a_disk_that_keeps_its_table_gets_partitions_and_boot_code_and_nothing_else() {
    let (golden, old) = (dos_disk(0, 2048), dos_disk(0x5a, 3000));
    let area = |number, start: u64, sectors: u64| Area {
        number,
        start: start * 512,
        length: sectors * 512,
        texts: ["83".into(), String::new(), String::new()],
    };
    let areas = vec![area(1, 1024, 2000), area(2, 4096, 2048)];
    // All of it is in use, also what is between the partitions and behind them.
    let disk = Disk::new("sda", SIZE, 512, areas, &[Extent { start: 0, length: SIZE }]);
    let layout = Layout::new(CHUNK, vec![disk]).unwrap();
    let chunk = |n: u32| {
        let read = &mut |at: u64, buffer: &mut [u8]| -> Result<usize, ()> {
            buffer.copy_from_slice(&golden[at as usize..][..buffer.len()]);
            Ok(buffer.len())
        };
        clone::room::keep::read(&layout, n, read).unwrap().unwrap()
    };
    let digests = (0..layout.count()).map(|n| *blake3::hash(&chunk(n)).as_bytes()).collect();
    let manifest = Arc::new(Manifest::new(layout.clone(), digests).unwrap());
    let keep =
        |ram: &Ram| Keep::new(ram.clone(), (manifest.clone(), 0), true, true, None)?.beside();
    let copied = |at: usize| {
        at < 446
            || (512..1024 * 512).contains(&at)
            || (1024 * 512..3024 * 512).contains(&at)
            || (4096 * 512..6144 * 512).contains(&at)
    };
    let wanted: Vec<u8> =
        (0..SIZE as usize).map(|at| if copied(at) { golden[at] } else { old[at] }).collect();
    for cut in [0, 1, 7, 60, layout.count()] {
        let ram = Ram::of(old.clone());
        let mut first = keep(&ram).unwrap();
        (0..cut).for_each(|n| first.store(n, &Arc::new(chunk(n))).unwrap());
        // The power is cut.
        drop(first);
        let now = ram.bytes.borrow().clone();
        let own = |at: &usize| !copied(*at) && !(510..512).contains(at);
        assert!((0..SIZE as usize).filter(own).all(|at| now[at] == old[at]), "{cut}: the table");
        assert_eq!(clone::mark::Mark::read(&now).is_some(), cut > 0, "{cut}: no firmware boots it");
        assert_eq!(now[510..512] == [0x55, 0xaa], cut == 0);
        let mut next = keep(&ram).unwrap();
        let mut have = Bits::new(layout.count());
        next.scan(&mut have, &mut || ()).unwrap();
        let lacks: Vec<u32> = have.not().iter().collect();
        // What partitions hold does not come again.
        let outside = |n: &u32| {
            layout.chunk(*n).is_some_and(|chunk| chunk.area == 0 || chunk.start < 1 << 20)
        };
        assert!(cut < layout.count() || lacks.iter().all(outside));
        lacks.iter().for_each(|n| next.store(*n, &Arc::new(chunk(*n))).unwrap());
        assert!(next.finish().unwrap());
        assert!(*ram.bytes.borrow() == wanted, "{cut}");
        // It still hands out what it did not write itself.
        assert!(
            (0..layout.count()).all(|n| !lacks.contains(&n) || next.read(n).unwrap().is_some())
        );
    }
    let ram = Ram::of(dos_disk(0x5a, 2047));
    let why = keep(&ram).map(drop).unwrap_err().to_string();
    assert!(why.contains("for partition 2") && why.contains("nothing was written"), "{why}");
    let none = Ram::of(vec![0; SIZE as usize]);
    assert!(keep(&none).map(drop).unwrap_err().to_string().contains("has no partition table"));
    assert_eq!((*ram.writes.borrow(), *none.writes.borrow()), (0, 0));
}

/// Each chunk leaves the sender once for all machines, whatever the word.
#[test]
fn multicast_takes_one_copy_out_of_the_sender_and_no_chain() {
    for (bulk, machines) in [(Bulk::Multicast, 1), (Bulk::Multicast, 8), (Bulk::Auto, 8)] {
        let mut world = World::with(machines, bulk);
        world.fill(machines as u32);
        world.run(1000);
        (1..=machines).for_each(|at| world.good(at));
        let (sent, chunks) = (world.golden.sent(), u64::from(world.manifest.layout.count()));
        // The probe of a connection is the chunks of one machine.
        let probe = if bulk == Bulk::Auto { 4 } else { 0 };
        assert!(sent <= chunks + probe, "{bulk:?}: {sent} of {chunks}");
        let pieces = world.manifest.layout.used().div_ceil(1452) as usize;
        assert!(world.air.sent <= pieces + 2 * chunks as usize, "{} of {pieces}", world.air.sent);
        assert!(
            world.trace.iter().any(|line| line.contains("multicast to 239")),
            "{:?}",
            world.trace
        );
    }
}

/// Lost, doubled, late and forged datagrams: every disk is equal all the same.
#[test]
fn a_rough_network_costs_time_and_nothing_else() {
    for (lossy, forged) in [(10, false), (50, false), (200, false), (0, true), (10, true)] {
        let mut world = World::with(6, Bulk::Multicast);
        world.fill(6);
        world.machines.iter_mut().for_each(|machine| machine.lossy = lossy);
        (world.air.rough, world.air.forged) = (true, forged);
        world.run(20_000);
        (1..=6).for_each(|at| world.good(at));
        let sent = world.golden.sent();
        println!(
            "{lossy}, {forged}: {} steps, {sent} chunks, {} datagrams",
            world.steps, world.air.sent
        );
    }
}

/// A machine that hears too little, or less than the others, takes chunks from these.
#[test]
fn a_machine_that_is_worse_than_the_others_does_not_hold_them_up() {
    let clean = {
        let mut world = World::with(8, Bulk::Auto);
        world.fill(8);
        world.run(2000);
        world.steps
    };
    for fate in 0..3 {
        let mut world = World::with(8, Bulk::Auto);
        world.fill(8);
        match fate {
            0 => world.machines[2].lossy = 500,
            1 => world.machines[2].link = 10,
            _ => {
                while world.golden.started().is_none() {
                    world.step();
                }
                world.machines[2].slow = 200;
            }
        }
        let others = |world: &World| {
            let clients = world.golden.clients();
            clients.iter().enumerate().filter(|(n, _)| *n != 2).all(|(_, c)| c.standing.good())
        };
        while !others(&world) {
            world.step();
            assert!(
                world.steps < clean + 200,
                "{fate}: {:?} {:?}",
                world.golden.clients(),
                world.trace
            );
        }
        world.run(50_000);
        (1..=8).for_each(|at| world.good(at));
        assert!(
            world.trace.iter().any(|line| line.starts_with("n3 ") && line.contains("from other"))
        );
    }
}

/// No machine listens, or the probe finds a faster connection: a chain, and the user is told once.
#[test]
fn where_multicast_is_no_good_a_chain_brings_the_chunks() {
    for (bulk, works, rate, says) in [
        (Bulk::Auto, false, 40, "0 of 5 machines listen"),
        (Bulk::Multicast, false, 40, "no machine listens"),
        (Bulk::Auto, true, 0, "no multicast: it brings"),
    ] {
        let mut world = World::with(5, bulk);
        (world.air.works, world.air.rate) = (works, rate);
        world.fill(5);
        world.run(3000);
        (1..=5).for_each(|at| world.good(at));
        let told: Vec<_> = world.trace.iter().filter(|line| line.contains("multicast")).collect();
        assert!(told.len() == 1 && told[0].contains(says), "{told:?}");
        let chunks = u64::from(world.manifest.layout.count());
        assert!(world.golden.sent() <= chunks + 10, "{} of {chunks}", world.golden.sent());
    }
}

/// A switch passes the group no more in the middle, to all machines or to most of them.
#[test]
fn multicast_that_stops_in_the_middle_is_told_and_the_rest_comes_by_others() {
    for deaf in [5, 3, 1] {
        // More than what may be on its way.
        let used = [Extent { start: 0, length: 6 << 20 }];
        let mut world = World::of(5, 6 << 20, &used, 64 << 10);
        world.golden = Golden::new(world.manifest.clone(), 5).multicast(cast(Bulk::Multicast));
        world.fill(5);
        while world.air.sent < 600 {
            world.step();
        }
        world.machines.iter_mut().take(deaf).for_each(|machine| machine.lossy = 1000);
        world.run(5000);
        (1..=5).for_each(|at| world.good(at));
        let says = if deaf == 5 { "no machine hears it any more" } else { "takes chunks from" };
        let told = world.trace.iter().filter(|line| line.contains(says)).count();
        assert_eq!(told, if deaf == 5 { 1 } else { deaf }, "{:?}", world.trace);
    }
}

/// Killed at each tenth, and one that comes after half of it.
#[test]
fn machines_come_and_go_while_it_is_multicast() {
    let mut clean = World::with(6, Bulk::Auto);
    clean.fill(6);
    clean.run(2000);
    for tenth in 1..10 {
        let mut world = World::with(6, Bulk::Auto);
        world.fill(6);
        world.machines.iter_mut().for_each(|machine| machine.lossy = 10);
        while world.steps < clean.steps * tenth / 10 {
            world.step();
        }
        world.kill(2);
        let late = world.add(world.garbage(90));
        (0..20).for_each(|_| world.step());
        world.restart(2);
        world.run(10_000);
        (1..=late).for_each(|at| world.good(at));
        let (sent, chunks) = (world.golden.sent(), u64::from(world.manifest.layout.count()));
        assert!(sent < 2 * chunks + 20, "{tenth}: {sent} of {chunks}");
    }
}

/// The machines have lost their sender in the middle, and go on with the next one.
#[test]
fn the_sender_killed_while_it_multicasts_all_go_on() {
    for steps in [5, 30, 60] {
        let mut world = World::with(4, Bulk::Auto);
        world.fill(4);
        (0..steps).for_each(|_| world.step());
        world.restart_sender();
        world.run(10_000);
        (1..=4).for_each(|at| world.good(at));
    }
}

/// A thousand machines that each lose one datagram of a hundred: repairs are sent once for all.
#[test]
fn a_thousand_machines_by_multicast() {
    let used = [Extent { start: 0, length: 512 << 10 }];
    let mut world = World::of(1000, 512 << 10, &used, 12 << 10);
    world.golden = Golden::new(world.manifest.clone(), 1000).multicast(cast(Bulk::Auto));
    world.fill(1000);
    world.machines.iter_mut().for_each(|machine| machine.lossy = 10);
    world.machines[500].lossy = 600;
    world.run(8000);
    (1..=1000).for_each(|at| world.good(at));
    let (sent, chunks) = (world.golden.sent(), u64::from(world.manifest.layout.count()));
    println!("{} steps, {sent} of {chunks} chunks, {} datagrams", world.steps, world.air.sent);
    let pieces = world.manifest.layout.used().div_ceil(1452) as usize;
    assert!((pieces..4 * pieces).contains(&world.air.sent), "{:?}", world.trace.last());
    assert!(sent < 2 * chunks, "{sent} of {chunks}");
}
