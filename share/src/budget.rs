//! What clients may take of this machine: places, which are threads and descriptors, and memory
//! for requests.
//!
//! A place is free for a newcomer as long as another client has more than its share: the
//! connection that loses its place is one that has not asked for anything yet, an idle one, one
//! that makes the server wait, or one of many. Addresses that are forged or taken by the dozen therefore do not keep others
//! out. Memory is given in pieces; when it is short the pieces are small, and never refused.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Protocols whose clients have places: TFTP, HTTP, NFS, NBD.
const PROTOCOLS: u64 = 4;
/// Descriptors of one place: its socket, and a file.
const OF_A_PLACE: u64 = 2;
/// Descriptors for everything that is opened later: the web page's look at the disks, connections
/// that end, and 64 that stay free.
const RESERVE: u64 = 160;
/// Most places of a protocol, and fewest.
const MOST: u64 = 512;
const FEWEST: u64 = 8;

/// Most places of one address, which may be a NAT in front of many machines.
const MAX_OF_ONE: usize = 128;
/// Most places of one address that has not asked for anything with them.
const FRESH_OF_ONE: usize = 32;
/// More busy places of one address than this part of all, and this number, are many.
const MANY_OF: usize = 32;
const MANY: usize = 4;
/// A client that lets the server wait for longer than this may lose its place.
const OWING: Duration = Duration::from_millis(500);
/// Places that were taken from clients whose threads still run.
const ENDING: usize = 8;

/// Bytes that a request gets at least.
pub const SMALL: usize = 16 << 10;
/// Most bytes of all requests together, and of one address, beyond [`SMALL`] of each.
const MEMORY: usize = 32 << 20;
const MEMORY_OF_ONE: usize = 4 << 20;

/// The budget of a session: places for the clients of each protocol, however many sockets listen.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "their names say it")]
pub struct Budget {
    pub tftp: Places,
    pub http: Places,
    pub nfs: Places,
    pub nbd: Places,
    /// Memory for requests, of all protocols together.
    pub memory: Memory,
}

impl Budget {
    /// Divides the descriptors that are not in use yet; raises their limit.
    pub fn of_process() -> Self {
        let used = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self::of_descriptors(raise_limit().saturating_sub(used as u64))
    }

    /// The budget of a process that may have this many descriptors more.
    pub fn of_descriptors(limit: u64) -> Self {
        let each = limit.saturating_sub(RESERVE) / (PROTOCOLS * OF_A_PLACE);
        let limit = usize::try_from(each.clamp(FEWEST, MOST)).unwrap_or(0);
        let places = || Places::new(limit);
        let (tftp, http, nfs, nbd) = (places(), places(), places(), places());
        Self { tftp, http, nfs, nbd, memory: Memory::default() }
    }
}

/// Raises the soft limit of descriptors to the hard one. Returns the limit.
pub fn raise_limit() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(_) => soft,
        },
        // The limit that every system has.
        Err(_) => 1024,
    }
}

/// Whether the system lacks something that it will have again: descriptors or memory.
pub fn is_shortage(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let short = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS];
    error.raw_os_error().is_some_and(|number| short.contains(&Errno::from_raw(number)))
}

/// What a client does with its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It has not asked for anything yet; its address may be forged.
    Fresh,
    /// It waits, and would come back without an error.
    Idle,
    /// The server waits for it to send the rest of a request, or to take an answer.
    Owing,
    /// It would notice an end.
    Busy,
}

/// Ends a connection from another thread.
type End = Box<dyn Fn() + Send>;

struct Taken {
    client: Ipv4Addr,
    used: Use,
    since: Instant,
    end: End,
}

#[derive(Default)]
struct Table {
    /// By number: the oldest first.
    taken: BTreeMap<u64, Taken>,
    next: u64,
    /// Places that were taken from clients whose threads still run.
    ending: usize,
}

/// The places of one protocol.
#[derive(Clone)]
pub struct Places {
    limit: usize,
    table: Arc<Mutex<Table>>,
}

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Places").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// A place; dropping it frees it.
#[derive(Debug)]
pub struct Place {
    places: Places,
    number: u64,
}

impl Table {
    fn count(&self, client: Ipv4Addr, what: impl Fn(Use) -> bool) -> usize {
        self.taken.values().filter(|t| t.client == client && what(t.used)).count()
    }

    /// The oldest place in one of these uses of the client that has the most places, if it has this many.
    fn oldest_of_most(&self, used: &[Use], least: usize) -> Option<u64> {
        let mut counts: BTreeMap<Ipv4Addr, usize> = BTreeMap::new();
        for taken in self.taken.values() {
            *counts.entry(taken.client).or_default() += 1;
        }
        let count = |taken: &Taken| counts.get(&taken.client).copied().unwrap_or(0);
        let found = self.taken.iter().filter(|(_, t)| used.contains(&t.used) && count(t) >= least);
        found.max_by_key(|(number, t)| (count(t), std::cmp::Reverse(**number))).map(|(n, _)| *n)
    }

    /// The place whose client made the server wait for the longest time.
    fn longest_owing(&self, now: Instant) -> Option<u64> {
        let owing = self.taken.iter().filter(|(_, t)| t.used == Use::Owing);
        let owing = owing.filter(|(_, t)| now.saturating_duration_since(t.since) >= OWING);
        owing.min_by_key(|(_, t)| t.since).map(|(number, _)| *number)
    }

    /// The place that a newcomer gets: `Ok(None)` for a free one, or whose; an error for none.
    fn place_for(&self, client: Ipv4Addr, limit: usize, now: Instant) -> Result<Option<u64>, ()> {
        let own = |used: Use| {
            let mut own = self.taken.iter().filter(|(_, t)| t.client == client && t.used == used);
            own.next().map(|(number, _)| *number)
        };
        if self.count(client, |used| used == Use::Fresh) >= FRESH_OF_ONE {
            return Ok(own(Use::Fresh));
        }
        let count = self.count(client, |_| true);
        if count >= MAX_OF_ONE.min(limit / 2) {
            return own(Use::Fresh).or_else(|| own(Use::Idle)).map(Some).ok_or(());
        }
        // Those that may be forged have half of the places at most.
        let fresh = self.taken.values().filter(|t| t.used == Use::Fresh).count();
        if self.taken.len() < limit && fresh < limit / 2 {
            return Ok(None);
        }
        let many = (limit / MANY_OF).max(MANY);
        self.oldest_of_most(&[Use::Fresh], 0)
            .or_else(|| self.oldest_of_most(&[Use::Idle], count + 2))
            .or_else(|| self.longest_owing(now))
            .or_else(|| self.oldest_of_most(&[Use::Busy, Use::Owing], (count + 2).max(many + 1)))
            .map(Some)
            .ok_or(())
    }
}

impl Places {
    /// This many places.
    pub fn new(limit: usize) -> Self {
        Self { limit, table: Arc::default() }
    }

    /// A place for a newcomer, if need be that of a client that has more than its share, whose
    /// connection is ended. `None` when all have their share. `end` ends the newcomer's
    /// connection; its thread must then drop the place.
    pub fn take(&self, client: Ipv4Addr, end: impl Fn() + Send + 'static) -> Option<Place> {
        let now = Instant::now();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = table.place_for(client, self.limit, now).ok()? {
            if table.ending >= ENDING {
                return None;
            }
            let taken = table.taken.remove(&number)?;
            table.ending += 1;
            (taken.end)();
        }
        let number = table.next;
        table.next += 1;
        let taken = Taken { client, used: Use::Fresh, since: now, end: Box::new(end) };
        table.taken.insert(number, taken);
        drop(table);
        Some(Place { places: self.clone(), number })
    }
}

impl Place {
    /// Says what the client does now.
    pub fn is(&self, used: Use) {
        let mut table = self.places.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = table.taken.get_mut(&self.number) {
            (taken.used, taken.since) = (used, Instant::now());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.places.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.taken.remove(&self.number).is_none() {
            table.ending = table.ending.saturating_sub(1);
        }
    }
}

/// Memory for requests.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<Given>>);

#[derive(Debug, Default)]
struct Given {
    all: usize,
    by_client: BTreeMap<Ipv4Addr, usize>,
}

/// Memory for one request; dropping it gives it back.
#[derive(Debug)]
pub struct Room {
    /// How many bytes the request may take at a time.
    pub bytes: usize,
    memory: Memory,
    client: Ipv4Addr,
}

impl Memory {
    /// Memory for a request of `wanted` bytes: all of it, or less when it is short, but at least
    /// [`SMALL`]. Does not wait.
    pub fn room(&self, client: Ipv4Addr, wanted: usize) -> Room {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = given.by_client.get(&client).copied().unwrap_or(0);
        let left = MEMORY.saturating_sub(given.all).min(MEMORY_OF_ONE.saturating_sub(own));
        // Whole pages, so that what is read lies on the blocks of a disk.
        let more = wanted.saturating_sub(SMALL).min(left & !4095);
        given.all += more;
        given.by_client.insert(client, own + more);
        drop(given);
        Room { bytes: wanted.min(SMALL) + more, memory: self.clone(), client }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let more = self.bytes.saturating_sub(SMALL);
        let mut given = self.memory.0.lock().unwrap_or_else(PoisonError::into_inner);
        given.all = given.all.saturating_sub(more);
        if let Some(own) = given.by_client.get_mut(&self.client) {
            *own = own.saturating_sub(more);
            if *own == 0 {
                given.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn client(n: u32) -> Ipv4Addr {
        Ipv4Addr::from(0x0a00_0000 + n)
    }

    /// Places whose ended connections free them at once, as their threads do.
    struct Hall {
        places: Places,
        held: Arc<Mutex<BTreeMap<u32, Place>>>,
        ended: Arc<Mutex<Vec<u32>>>,
        next: AtomicU32,
    }

    impl Hall {
        fn new(limit: usize) -> Self {
            let places = Places::new(limit);
            Self { places, held: Arc::default(), ended: Arc::default(), next: AtomicU32::new(0) }
        }

        fn enter(&self, from: u32, used: Use) -> Option<u32> {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            let ended = self.ended.clone();
            let place = self.places.take(client(from), move || ended.lock().unwrap().push(id))?;
            place.is(used);
            self.held.lock().unwrap().insert(id, place);
            for id in self.ended.lock().unwrap().iter() {
                self.held.lock().unwrap().remove(id);
            }
            Some(id)
        }

        fn has(&self, id: u32) -> bool {
            self.held.lock().unwrap().contains_key(&id)
        }
    }

    #[test]
    fn descriptors_are_divided() {
        for (limit, places) in [(1024, 108), (256, 12), (0, 8), (1 << 20, 512), (u64::MAX, 512)] {
            let budget = Budget::of_descriptors(limit);
            assert_eq!(budget.nbd.limit, places, "{limit}");
            let all = places as u64 * PROTOCOLS * OF_A_PLACE;
            assert!(limit < 300 || all + RESERVE <= limit);
        }
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raise_limit(), hard);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE), Ok((hard, hard)));
    }

    /// Requests with forged addresses do not keep a client out, and take nothing from one that
    /// was confirmed.
    #[test]
    fn forged_clients_displace_only_each_other() {
        let hall = Hall::new(100);
        let confirmed: Vec<u32> = (0..60).map(|n| hall.enter(n, Use::Busy).unwrap()).collect();
        for n in 1000..3000 {
            assert!(hall.enter(n, Use::Fresh).is_some());
            assert!(hall.held.lock().unwrap().len() <= 100);
        }
        let honest = hall.enter(5000, Use::Busy).unwrap();
        for n in 3000..4000 {
            hall.enter(n, Use::Fresh);
        }
        assert!(hall.has(honest) && confirmed.iter().all(|id| hall.has(*id)));
    }

    /// A few addresses with many connections give way to one with few.
    #[test]
    fn the_greedy_give_way() {
        for used in [Use::Idle, Use::Busy] {
            let hall = Hall::new(100);
            for n in 0..1000 {
                hall.enter(n % 5, used);
            }
            assert_eq!(hall.held.lock().unwrap().len(), 100);
            let honest = hall.enter(9, used).unwrap();
            for n in 0..1000 {
                hall.enter(n % 5, used);
            }
            assert!(hall.has(honest), "{used:?}");
        }
        // Every machine of a full room keeps its disk.
        let hall = Hall::new(100);
        let disks: Vec<u32> = (0..100).map(|n| hall.enter(n / 4, Use::Busy).unwrap()).collect();
        assert!(hall.enter(99, Use::Busy).is_none());
        assert!(disks.iter().all(|id| hall.has(*id)));
    }

    /// Clients that let the server wait lose their places, however few they have.
    #[test]
    fn who_makes_the_server_wait_gives_way() {
        let places = Places::new(100);
        let all: Vec<Place> = (0..100)
            .map(|n| {
                let place = places.take(client(n), || ()).unwrap();
                place.is(if n == 7 { Use::Owing } else { Use::Busy });
                place
            })
            .collect();
        assert!(places.take(client(200), || ()).is_none());
        let later = Instant::now() + OWING;
        let table = places.table.lock().unwrap();
        assert_eq!(table.place_for(client(200), 100, later), Ok(Some(7)));
        drop(table);
        all[7].is(Use::Busy);
        let table = places.table.lock().unwrap();
        assert_eq!(table.place_for(client(200), 100, later), Err(()));
        drop(table);
    }

    #[test]
    fn one_address_has_its_limits() {
        let hall = Hall::new(512);
        for _ in 0..1000 {
            hall.enter(1, Use::Fresh);
        }
        assert_eq!(hall.held.lock().unwrap().len(), FRESH_OF_ONE);
        for _ in 0..1000 {
            hall.enter(2, Use::Busy);
        }
        assert_eq!(hall.held.lock().unwrap().len(), FRESH_OF_ONE + MAX_OF_ONE);
        // Where there are few places, one address has half of them.
        let hall = Hall::new(100);
        for _ in 0..1000 {
            hall.enter(1, Use::Busy);
        }
        assert_eq!(hall.held.lock().unwrap().len(), 50);
        assert_eq!(format!("{:?}", hall.places), "Places { limit: 100, .. }");
    }

    /// A client with as few places as all others displaces none; one with fewer by far does.
    #[test]
    fn shares_are_compared() {
        let full = |limit: u32, of_one: u32, used: Use| {
            let hall = Hall::new(limit as usize);
            for n in 0..limit {
                assert!(hall.enter(n / of_one, used).is_some());
            }
            hall
        };
        assert!(full(100, 1, Use::Idle).enter(500, Use::Idle).is_none());
        assert!(full(100, 2, Use::Idle).enter(500, Use::Idle).is_some());
        // Eight busy places are many of 100, and not of 512.
        assert!(full(100, 8, Use::Busy).enter(500, Use::Busy).is_some());
        assert!(full(512, 8, Use::Busy).enter(500, Use::Busy).is_none());
        // The last client has 2 of 100, and then the others 7 at most.
        let hall = full(100, 7, Use::Busy);
        for _ in 0..3 {
            assert!(hall.enter(14, Use::Busy).is_some());
        }
        assert!(hall.enter(14, Use::Busy).is_some(), "has 5 of 100");
        assert!(hall.enter(14, Use::Busy).is_none(), "has 6 of 100");
    }

    /// Threads that do not end at once are not replaced without end.
    #[test]
    fn ending_threads_are_counted() {
        let places = Places::new(100);
        let taken: Vec<_> = (0..1000).filter_map(|n| places.take(client(n), || ())).collect();
        assert_eq!(taken.len(), 50 + ENDING);
        drop(taken);
        assert!(places.take(client(1), || ()).is_some());
        assert_eq!(places.table.lock().unwrap().ending, 0);
    }

    #[test]
    fn memory_is_never_refused_and_has_an_end() {
        let memory = Memory::default();
        let mut rooms = Vec::new();
        for n in 0..2000 {
            let room = memory.room(client(n % 20), 1 << 20);
            assert!(room.bytes >= SMALL && room.bytes <= 1 << 20);
            rooms.push(room);
        }
        assert_eq!(rooms.last().map(|room| room.bytes), Some(16 << 10));
        let all: usize = rooms.iter().map(|room| room.bytes).sum();
        assert!(all <= MEMORY + 2000 * SMALL, "{all}");
        let of_one = rooms.iter().filter(|room| room.client == client(0));
        assert!(of_one.map(|room| room.bytes - SMALL).sum::<usize>() <= MEMORY_OF_ONE);
        drop(rooms);
        let given = memory.0.lock().unwrap();
        assert!(given.all == 0 && given.by_client.is_empty());
        drop(given);
        assert_eq!(memory.room(client(1), 100).bytes, 100);
        // What is left after an odd request is given in whole pages.
        let odd = memory.room(client(1), SMALL + 100);
        let rest = memory.room(client(1), 2 * MEMORY_OF_ONE);
        assert_eq!((odd.bytes, rest.bytes), (SMALL + 100, SMALL + MEMORY_OF_ONE - 4096));
        drop((odd, rest));
        assert_eq!(memory.room(client(1), 1 << 20).bytes, 1 << 20);
    }

    #[test]
    fn what_is_a_shortage() {
        for (number, short) in [(24, true), (23, true), (12, true), (5, false), (28, false)] {
            assert_eq!(is_shortage(&io::Error::from_raw_os_error(number)), short);
        }
        assert!(!is_shortage(&io::ErrorKind::UnexpectedEof.into()));
    }
}
