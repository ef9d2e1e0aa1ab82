//! What a machine hears of the sender's multicast: pieces of chunks in any order, once, twice or
//! never. It puts them together, and says what is missing.

use super::bits::Bits;
use super::datagram::{Datagram, PIECE, pieces};
use super::wire::{Group, Heard, Missing, RANGES};
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

/// Chunks that are put together at a time: so many, and so many bytes. The oldest one then gives
/// way, and comes over TCP.
const OPEN: (usize, usize) = (256, 32 << 20);
/// A piece that came so many datagrams behind the next ones may still be on its way.
const LATE: u32 = 128;
/// Reports are no closer and no rarer, whatever a datagram says.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
/// Pieces of a chunk of which none comes are asked for so often.
const TRIES: u8 = 6;
/// With room for no more chunks than this the sender waits.
pub const STOP: u16 = 8;

#[derive(Debug)]
struct Open {
    chunk: u32,
    data: Vec<u8>,
    lacks: Bits,
    /// How many pieces are missing.
    left: u32,
    /// The last datagram that belonged to it.
    last: u32,
    asked: Option<Duration>,
    tries: u8,
}

/// An ear.
#[derive(Debug)]
pub struct Ear {
    group: Group,
    open: VecDeque<Open>,
    /// Behind the last datagram that came.
    next: u32,
    count: u32,
    every: Duration,
    /// When the last datagram came.
    came: Duration,
    /// When the sender was told.
    told: Duration,
    /// There is something that the sender was not told.
    news: bool,
    /// To be told at once.
    now: bool,
    /// The room that the sender was told of.
    room: u16,
    /// Chunks that came over TCP.
    chunks: u32,
}

impl Ear {
    /// Listens to this group.
    #[must_use]
    pub fn new(group: Group) -> Self {
        let zero = Duration::ZERO;
        Self {
            group,
            open: VecDeque::new(),
            next: 0,
            count: 0,
            every: Duration::from_millis(10),
            came: zero,
            told: zero,
            news: true,
            now: true,
            room: u16::MAX,
            chunks: 0,
        }
    }

    /// Counts a datagram; false when it is not of this group's sender.
    pub fn counts(&mut self, datagram: &Datagram<'_>, now: Duration) -> bool {
        if datagram.token != self.group.token {
            return false;
        }
        self.next = self.next.max(datagram.count.saturating_add(1));
        self.count = self.count.wrapping_add(1);
        self.every = datagram.pause().clamp(PAUSE.0, PAUSE.1);
        (self.came, self.news) = (now, true);
        self.now |= datagram.now;
        true
    }

    /// Takes a piece of a chunk of so many bytes that is wanted; the chunk, when it is whole.
    pub fn piece(&mut self, datagram: &Datagram<'_>, bytes: usize) -> Option<Vec<u8>> {
        let number = datagram.chunk;
        let start = usize::from(datagram.piece) * PIECE;
        let length = bytes.saturating_sub(start).min(PIECE);
        if length == 0 || datagram.data.len() != length {
            return None;
        }
        let at = self.open.iter().rposition(|open| open.chunk == number).unwrap_or_else(|| {
            let left = pieces(bytes);
            let (data, lacks) = (vec![0; bytes], Bits::full(left));
            let (asked, tries, last) = (None, 0, datagram.count);
            let held: usize = self.open.iter().map(|open| open.data.len()).sum();
            if self.open.len() >= OPEN.0 || held + bytes > OPEN.1 && self.open.len() > 1 {
                self.open.pop_front();
            }
            self.open.push_back(Open { chunk: number, data, lacks, left, last, asked, tries });
            self.open.len() - 1
        });
        let open = self.open.get_mut(at)?;
        open.last = open.last.max(datagram.count);
        if !open.lacks.has(datagram.piece.into()) {
            return None;
        }
        open.lacks.remove(datagram.piece.into());
        (open.left, open.tries) = (open.left - 1, 0);
        open.data.get_mut(start..start + length)?.copy_from_slice(datagram.data);
        if open.left == 0 {
            return self.open.remove(at).map(|open| open.data);
        }
        None
    }

    /// A chunk is there: its pieces are not wanted any more.
    pub fn forget(&mut self, chunk: u32) {
        self.open.retain(|open| open.chunk != chunk);
    }

    /// A chunk has come over TCP.
    pub fn chunk(&mut self, chunk: u32) {
        self.forget(chunk);
        self.chunks += 1;
        (self.news, self.now) = (true, true);
    }

    /// What the sender is told now, if it is time. The disk has so many chunks, and takes so
    /// many more.
    pub fn report(&mut self, have: u32, room: u16, now: Duration) -> Option<Heard> {
        let stops = (room <= STOP) != (self.room <= STOP) && (room <= STOP || room > 2 * STOP);
        let due = now.saturating_sub(self.told) >= self.every;
        let quiet = now.saturating_sub(self.came) >= 2 * self.every;
        let asks = due && quiet && !self.open.is_empty();
        if !(self.now || stops || due && self.news || asks) {
            return None;
        }
        let missing = self.missing(quiet, now);
        if !(self.now || stops || self.news) && missing.is_empty() {
            return None;
        }
        (self.told, self.news, self.now, self.room) = (now, false, false, room);
        Some(Heard {
            token: self.group.token,
            next: self.next,
            count: self.count,
            have,
            room,
            open: u16::try_from(self.open.len()).unwrap_or(u16::MAX),
            chunks: self.chunks,
            missing,
        })
    }

    /// The pieces that should have come.
    fn missing(&mut self, quiet: bool, now: Duration) -> Vec<Missing> {
        let (next, again) = (self.next, 4 * self.every);
        let mut all = Vec::new();
        for open in &mut self.open {
            let late = quiet || next.saturating_sub(open.last) > LATE;
            let waits = open.asked.is_some_and(|asked| now.saturating_sub(asked) < again);
            if !late || waits || open.tries >= TRIES || all.len() >= RANGES {
                continue;
            }
            (open.asked, open.tries) = (Some(now), open.tries + 1);
            let (mut at, end) = (0, open.lacks.len());
            while let Some(first) = open.lacks.first_in_both(&open.lacks, at)
                && all.len() < RANGES
            {
                at = (first..end).find(|n| !open.lacks.has(*n)).unwrap_or(end);
                let [first, count] = [first, at - first].map(|n| u16::try_from(n).unwrap_or(0));
                all.push(Missing { chunk: open.chunk, first, count });
            }
        }
        all
    }

    /// How long it may be until the next report.
    #[must_use]
    pub fn nap(&self) -> Option<Duration> {
        (self.news || !self.open.is_empty()).then_some(self.every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn ear() -> Ear {
        Ear::new(Group { token: [7; 8], to: "239.192.0.1:9012".parse().unwrap() })
    }

    fn bytes(chunk: u32, len: usize) -> Vec<u8> {
        (0..len).map(|i| (i as u32 * 31 + chunk) as u8).collect()
    }

    /// A piece of a chunk as it is sent.
    fn piece(
        ear: &mut Ear,
        data: &[u8],
        (count, chunk, piece): (u32, u32, u16),
    ) -> Option<Vec<u8>> {
        let some = data.chunks(PIECE).nth(piece.into()).unwrap();
        let datagram =
            Datagram { token: [7; 8], count, chunk, piece, every: 10, now: false, data: some };
        assert!(ear.counts(&datagram, MS * count));
        ear.piece(&datagram, data.len())
    }

    proptest! {
        /// In any order, some twice, some lost: what is put together is what was sent, and what
        /// is asked for is what is missing.
        #[test]
        fn pieces_in_any_order(order in proptest::collection::vec(0u16..9, 0..40)) {
            let data = bytes(3, 8 * PIECE + 5);
            let (mut ear, mut lacks, mut whole) = (ear(), Bits::full(9), false);
            for (count, n) in (0..).zip(order) {
                lacks.remove(n.into());
                if let Some(got) = piece(&mut ear, &data, (count, 3, n)) {
                    prop_assert!(got == data && lacks.is_empty());
                    whole = true;
                    break;
                }
                prop_assert!(!lacks.is_empty());
            }
            let told = ear.report(0, 32, MS * 1000).unwrap();
            let asked: Vec<u32> = told.missing.iter().flat_map(|m| u32::from(m.first)..u32::from(m.first + m.count)).collect();
            let none = whole || told.count == 0;
            prop_assert_eq!(asked, if none { Vec::new() } else { lacks.iter().collect() });
            prop_assert_eq!(told.open == 0, none);
        }
    }

    #[test]
    fn what_is_on_its_way_is_not_asked_for_and_what_was_asked_for_not_at_once_again() {
        let data = bytes(0, 4 * PIECE);
        let mut ear = ear();
        assert_eq!(ear.report(0, 32, MS).unwrap().next, 0, "it listens");
        piece(&mut ear, &data, (20, 0, 0));
        assert_eq!(ear.report(0, 32, MS * 30).unwrap().missing, []);
        for (n, count) in (1..).zip(21..21 + LATE) {
            piece(&mut ear, &bytes(n, 2 * PIECE), (count, n, 0));
        }
        let told = ear.report(0, 32, MS * 151).unwrap();
        assert_eq!(told.missing, [Missing { chunk: 0, first: 1, count: 3 }]);
        assert_eq!((told.next, told.count), (21 + LATE, 1 + LATE));
        piece(&mut ear, &data, (21 + LATE, 0, 3));
        let soon = ear.report(0, 32, MS * 162).unwrap().missing;
        assert!(soon.iter().all(|missing| missing.chunk != 0), "it was asked for just now");
        let again = ear.report(0, 32, MS * 200).unwrap().missing;
        assert_eq!(again[0], Missing { chunk: 0, first: 1, count: 2 });
    }

    #[test]
    fn a_full_queue_is_told_at_once_and_once() {
        let mut ear = ear();
        let mut told = |room| ear.report(0, room, MS).map(|told| told.room);
        assert_eq!(told(32), Some(32));
        assert_eq!((told(9), told(8), told(3), told(9)), (None, Some(8), None, None));
        assert_eq!((told(17), told(17)), (Some(17), None));
    }

    /// Forged pieces cost no more memory than this.
    #[test]
    fn what_is_put_together_is_bounded() {
        let mut ear = ear();
        let large = bytes(0, 1 << 20);
        for chunk in 0..100 {
            piece(&mut ear, &large, (chunk, chunk, 0));
            assert!(ear.open.len() <= 32);
        }
        for chunk in 0..1000 {
            piece(&mut ear, &large[..2 * PIECE], (1000 + chunk, 5000 + chunk, 0));
        }
        assert_eq!(ear.open.len(), OPEN.0);
        let told = ear.report(0, 32, MS * 5000).unwrap();
        assert_eq!(told.missing.len(), OPEN.0);
        // A piece of a wrong length, or past the end.
        let wrong = |piece, data| Datagram {
            token: [7; 8],
            count: 0,
            chunk: 9999,
            piece,
            every: 10,
            now: false,
            data,
        };
        for (number, data) in [(0, &[1][..]), (1, &[1; PIECE]), (9, &[1])] {
            assert_eq!(ear.piece(&wrong(number, data), PIECE + 2), None);
        }
        assert!(ear.open.iter().all(|open| open.chunk != 9999));
    }
}
