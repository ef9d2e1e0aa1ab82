//! Which of several servers brings which chunk.
//!
//! A server is best read in order. So each has a run of chunks; one that is through with its
//! own takes what a lost server had, or the second half of the longest run.

use crate::room::bits::Bits;
use alloc::vec::Vec;
use core::ops::Range;

/// What is to be brought, and by whom.
#[derive(Debug)]
pub struct Work {
    wanted: Bits,
    /// Runs that no server has.
    free: Vec<Range<u32>>,
    /// Each server's run; the first chunk of it is on its way.
    runs: Vec<Range<u32>>,
}

impl Work {
    /// These chunks, by so many servers.
    #[must_use]
    pub fn new(wanted: Bits, servers: usize) -> Self {
        let free = core::iter::once(0..wanted.len()).collect();
        Self { wanted, free, runs: (0..servers).map(|_| 0..0).collect() }
    }

    /// Whether all were brought.
    #[must_use]
    pub fn over(&self) -> bool {
        self.wanted.is_empty()
    }

    /// What this server brings next: the same until it has come. Nothing when others have the
    /// rest on its way.
    pub fn next(&mut self, server: usize) -> Option<u32> {
        loop {
            let run = self.runs.get(server)?.clone();
            let next = self.wanted.first_in_both(&self.wanted, run.start);
            if let Some(next) = next.filter(|next| *next < run.end) {
                self.runs.get_mut(server)?.start = next;
                return Some(next);
            }
            let another = self.free.pop().or_else(|| self.half())?;
            *self.runs.get_mut(server)? = another;
        }
    }

    /// The second half of the longest run.
    fn half(&mut self) -> Option<Range<u32>> {
        let longest = self.runs.iter_mut().max_by_key(|run| run.len())?;
        if longest.len() < 2 {
            return None;
        }
        let middle = longest.start + (longest.end - longest.start).div_ceil(2);
        let half = middle..longest.end;
        longest.end = middle;
        Some(half)
    }

    /// A chunk has come.
    pub fn came(&mut self, n: u32) {
        self.wanted.remove(n);
    }

    /// A server brings nothing more of its run.
    pub fn lost(&mut self, server: usize) {
        if let Some(run) = self.runs.get_mut(server) {
            let run = core::mem::replace(run, 0..0);
            if !run.is_empty() {
                self.free.push(run);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever servers do, each chunk comes, and none is asked of two at once.
        #[test]
        fn every_chunk_is_brought_once(
            len in 1u32..300,
            servers in 1usize..5,
            had: Vec<u16>,
            steps in proptest::collection::vec((0usize..5, 0u8..8), 0..400),
        ) {
            let mut wanted = Bits::full(len);
            had.iter().for_each(|n| wanted.remove(u32::from(*n) % len));
            let mut left = wanted.clone();
            let mut work = Work::new(wanted, servers);
            let mut under_way: Vec<Option<u32>> = vec![None; servers];
            let all = steps.into_iter().chain((0..4 * len as usize).map(|n| (n % servers, 1)));
            for (server, what) in all {
                let server = server % servers;
                if what == 0 {
                    work.lost(server);
                    under_way[server] = None;
                    continue;
                }
                let next = work.next(server);
                let others = (0..servers).filter(|other| *other != server);
                prop_assert!(next.is_none() || others.clone().all(|o| under_way[o] != next));
                under_way[server] = next;
                if let Some(n) = next.filter(|_| what != 2) {
                    prop_assert!(left.has(n));
                    left.remove(n);
                    work.came(n);
                    under_way[server] = None;
                }
            }
            prop_assert!(left.is_empty() && work.over());
        }
    }

    #[test]
    fn servers_read_in_order_and_share() {
        let mut work = Work::new(Bits::full(8), 2);
        assert_eq!((work.next(0), work.next(1), work.next(1)), (Some(0), Some(4), Some(4)));
        work.came(0);
        assert_eq!(work.next(0), Some(1));
        work.lost(0);
        work.came(4);
        assert_eq!(work.next(1), Some(5));
        (5..8).for_each(|n| work.came(n));
        assert_eq!(work.next(1), Some(1));
    }
}
