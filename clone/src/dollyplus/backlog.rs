//! What an end remembers of the stream, and where its chunks lie.
//!
//! A host that takes over behind a lost one may need again what the lost one had
//! not passed on: old programs hold ten chunks. So much is kept of what all readers
//! here have done with, and a little is taken in ahead of the slowest reader.

use super::{CHUNK, WINDOW};
use crate::ring::Ring;
use alloc::collections::VecDeque;

/// How much is kept, in bytes. Their sum is the memory an end takes.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// So far may be taken in ahead of the own disk and of the next host.
    pub lead: u64,
    /// So much behind those is kept to be sent again.
    pub behind: u64,
    /// The server puts so much into a chunk.
    pub chunk: u32,
}

/// What the real programs need: the window of an old one, and what connections hold
/// on their way.
pub const SIZES: Sizes = Sizes { lead: 16 << 20, behind: WINDOW + (16 << 20), chunk: CHUNK };

/// The length of a chunk's head.
pub(super) const HEAD: u64 = 12;

/// A chunk's number in its file, where its head is, and its bytes.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    sequence: u32,
    position: u64,
    length: u32,
}

/// Where a new predecessor is to go on.
pub(super) struct Resume {
    /// The chunk to be named.
    pub(super) sequence: u32,
    /// From its head on so many bytes are here already.
    pub(super) known: u64,
}

/// The end of the stream as far as it has come.
#[derive(Debug)]
pub(super) struct Backlog {
    ring: Ring,
    sizes: Sizes,
    chunks: VecDeque<Chunk>,
    /// Behind the lists of hosts and files; 0 before they have come.
    pub(super) lists: u64,
    /// Behind the lists that have come so far: the last host brings them back to the server,
    /// which may wait for the first before it sends the second.
    pub(super) round: u64,
    /// The last file has come whole.
    pub(super) complete: bool,
}

impl Backlog {
    pub(super) fn new(sizes: Sizes) -> Self {
        let capacity = usize::try_from(sizes.lead + sizes.behind).unwrap_or(usize::MAX);
        let ring = Ring::new(capacity);
        Self { ring, sizes, chunks: VecDeque::new(), lists: 0, round: 0, complete: false }
    }

    /// The stream's length so far.
    pub(super) const fn end(&self) -> u64 {
        self.ring.end()
    }

    /// Nothing has come: the ring of hosts is still being built.
    pub(super) const fn is_empty(&self) -> bool {
        self.ring.end() == 0
    }

    /// Whether something of the files has come.
    pub(super) const fn has_files(&self) -> bool {
        self.lists > 0 && self.ring.end() > self.lists
    }

    /// What is there from `position` on, see [`Ring::from`].
    pub(super) fn from(&self, position: u64) -> Option<&[u8]> {
        self.ring.from(position)
    }

    /// The last position at which nothing more is taken in if it is the one needed.
    pub(super) const fn brink(&self) -> u64 {
        self.ring.end().saturating_sub(self.sizes.lead)
    }

    /// Where the next bytes go, when what is at `needed` and after it must not be lost.
    /// It is so little that as much as may be wanted again stays before that.
    pub(super) fn room(&mut self, needed: u64) -> &mut [u8] {
        let ahead = self.ring.end().saturating_sub(needed);
        let some = usize::try_from(self.sizes.lead.saturating_sub(ahead)).unwrap_or(0);
        let room = self.ring.room(needed);
        let some = some.min(room.len());
        room.get_mut(..some).unwrap_or_default()
    }

    /// So many bytes were put into what [`Backlog::room`] gave.
    pub(super) const fn filled(&mut self, bytes: usize) {
        self.ring.filled(bytes);
    }

    /// Appends the beginning of `bytes`; how much of it.
    pub(super) fn append(&mut self, bytes: &[u8], needed: u64) -> usize {
        let room = self.room(needed);
        let some = bytes.len().min(room.len());
        if let (Some(room), Some(bytes)) = (room.get_mut(..some), bytes.get(..some)) {
            room.copy_from_slice(bytes);
            self.filled(some);
        }
        some
    }

    /// A chunk's head is at `position`.
    pub(super) fn chunk(&mut self, sequence: u32, position: u64, length: u32) {
        let oldest = self.ring.oldest();
        while self.chunks.front().is_some_and(|c| c.position < oldest) {
            self.chunks.pop_front();
        }
        self.chunks.push_back(Chunk { sequence, position, length });
    }

    /// Where a chunk begins; the newest of that number.
    pub(super) fn find(&self, sequence: u32) -> Option<u64> {
        let last = *self.chunks.back()?;
        if sequence == last.sequence.wrapping_add(1) {
            return Some(last.position + HEAD + u64::from(last.length));
        }
        self.chunks.iter().rev().find(|c| c.sequence == sequence).map(|c| c.position)
    }

    /// Where one goes on that knows nothing smaller than chunks.
    pub(super) fn resume(&self) -> Resume {
        let end = self.ring.end();
        let Some(last) = self.chunks.back() else { return Resume { sequence: 0, known: 0 } };
        let whole = last.position + HEAD + u64::from(last.length);
        if end < whole {
            return Resume { sequence: last.sequence, known: end - last.position };
        }
        // The head of a chunk that was not read whole comes again too.
        Resume { sequence: last.sequence.wrapping_add(1), known: end - whole }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Sizes = Sizes { lead: 40, behind: 60, chunk: 20 };

    #[test]
    fn so_much_is_taken_in_and_kept() {
        let mut backlog = Backlog::new(SMALL);
        assert_eq!(backlog.room(0).len(), 40);
        backlog.filled(40);
        assert_eq!(backlog.room(0).len(), 0, "the slowest has nothing yet");
        assert_eq!(backlog.room(backlog.brink()).len(), 0);
        while backlog.end() < 1000 {
            let end = backlog.end();
            assert!(backlog.append(&[7; 33], end) > 0);
            let kept = backlog.end().saturating_sub(60);
            assert!(backlog.from(kept).is_some(), "60 bytes can be sent again");
        }
    }

    #[test]
    fn chunks_are_found_by_their_numbers() {
        let mut backlog = Backlog::new(SMALL);
        assert_eq!(backlog.find(0), None);
        assert_eq!((backlog.resume().sequence, backlog.resume().known), (0, 0));
        backlog.append(&[0; 10], 0);
        backlog.chunk(4, 10, 8);
        backlog.append(&[0; 15], 0);
        assert_eq!((backlog.find(4), backlog.find(5), backlog.find(6)), (Some(10), Some(30), None));
        assert_eq!((backlog.resume().sequence, backlog.resume().known), (4, 15));
        backlog.append(&[0; 7], 0);
        assert_eq!((backlog.resume().sequence, backlog.resume().known), (5, 2));
    }
}
