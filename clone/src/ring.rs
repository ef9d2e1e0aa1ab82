//! The bytes of a stream that are still needed: a ring of fixed size.
//!
//! One side fills it, several read it, each from its own position: the disk,
//! the next nodes, and a node that must be given again what another lost. The
//! ring is the bound on memory when these are of different speed.

use alloc::vec::Vec;

/// The last bytes of a stream, up to a fixed number.
#[derive(Debug)]
pub struct Ring {
    buffer: Vec<u8>,
    end: u64,
    /// The position at the buffer's beginning; nothing before it is there.
    origin: u64,
}

impl Ring {
    /// A ring of this many bytes, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { buffer: alloc::vec![0; capacity.max(1)], end: 0, origin: 0 }
    }

    /// The stream's length so far.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// The first position that is still there.
    #[must_use]
    pub const fn oldest(&self) -> u64 {
        let oldest = self.end.saturating_sub(self.buffer.len() as u64);
        if oldest > self.origin { oldest } else { self.origin }
    }

    /// Resets the write position when no reader needs the content, so that new bytes reuse
    /// memory that is in the processor's caches: going round a larger ring is slower.
    pub const fn recycle(&mut self, needed: u64) {
        if needed >= self.end {
            self.origin = self.end;
        }
    }

    /// Where a position is in the buffer.
    const fn place(&self, position: u64) -> usize {
        (position.saturating_sub(self.origin) % self.buffer.len() as u64) as usize
    }

    /// Where the next bytes go: as much as there is in one piece without
    /// losing what is at `needed` or after. Empty when the slowest reader is a
    /// whole ring behind.
    pub fn room(&mut self, needed: u64) -> &mut [u8] {
        let capacity = self.buffer.len() as u64;
        let held = self.end.saturating_sub(needed.min(self.end));
        let free = capacity.saturating_sub(held);
        let at = self.place(self.end);
        let len = free.min(capacity - at as u64) as usize;
        self.buffer.get_mut(at..at + len).unwrap_or_default()
    }

    /// So many bytes were put into what [`Ring::room`] gave.
    pub const fn filled(&mut self, bytes: usize) {
        self.end = self.end.saturating_add(bytes as u64);
    }

    /// The bytes from `position` on that are in one piece. Empty at the end,
    /// nothing when they are gone already or did not come yet.
    #[must_use]
    pub fn from(&self, position: u64) -> Option<&[u8]> {
        if position > self.end || position < self.oldest() {
            return None;
        }
        let capacity = self.buffer.len() as u64;
        let at = self.place(position);
        let len = (self.end - position).min(capacity - at as u64) as usize;
        self.buffer.get(at..at + len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_reader_sees_the_stream(steps in proptest::collection::vec((0u8..3, 1usize..40), 1..300), capacity in 1usize..64, recycles: bool) {
            let mut ring = Ring::new(capacity);
            let mut written = Vec::new();
            let mut readers = [Vec::new(), Vec::new()];
            for (who, n) in steps {
                if who == 2 {
                    let needed = readers.iter().map(Vec::len).min().unwrap() as u64;
                    if recycles {
                        ring.recycle(needed);
                    }
                    let room = ring.room(needed);
                    let n = n.min(room.len());
                    for b in &mut room[..n] {
                        *b = written.len() as u8;
                        written.push(*b);
                    }
                    ring.filled(n);
                } else {
                    let reader = &mut readers[usize::from(who)];
                    let there = ring.from(reader.len() as u64).expect("nothing needed is lost");
                    reader.extend_from_slice(&there[..n.min(there.len())]);
                }
            }
            prop_assert_eq!(ring.end(), written.len() as u64);
            for reader in readers {
                prop_assert_eq!(&written[..reader.len()], &reader[..]);
            }
            prop_assert_eq!(ring.from(ring.end() + 1), None);
        }
    }
}
