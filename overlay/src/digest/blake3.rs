//! BLAKE3's plain hash (the BLAKE3 paper, sections 2.1 to 2.6): 256 bits, no
//! keys, no extended output.
//!
//! The well-known crate brings vector code for every processor, 45 KB of it;
//! this is 2 KB. The tests hold one against the other.

use alloc::vec::Vec;

/// Bytes of a block, and of a chunk, which is a leaf of the tree.
const BLOCK: usize = 64;
const CHUNK: u64 = 1024;

const CHUNK_START: u32 = 1;
const CHUNK_END: u32 = 2;
const PARENT: u32 = 4;
const ROOT: u32 = 8;

const IV: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// Where each word of a message goes for the next round.
const PERMUTATION: [usize; 16] = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];

/// Columns, then diagonals.
const LANES: [[usize; 4]; 8] = [
    [0, 4, 8, 12],
    [1, 5, 9, 13],
    [2, 6, 10, 14],
    [3, 7, 11, 15],
    [0, 5, 10, 15],
    [1, 6, 11, 12],
    [2, 7, 8, 13],
    [3, 4, 9, 14],
];

type Words = [u32; 8];

/// Everything of a compression but its flags' last word on the root.
#[derive(Clone, Copy)]
struct Node {
    chain: Words,
    block: [u8; BLOCK],
    counter: u64,
    length: u32,
    flags: u32,
}

impl Node {
    #[allow(clippy::indexing_slicing, reason = "all indices are constants below 16")]
    fn compress(&self, more: u32) -> Words {
        let mut message = [0; 16];
        for (word, bytes) in message.iter_mut().zip(self.block.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        let c = self.chain;
        let mut v = [
            c[0],
            c[1],
            c[2],
            c[3],
            c[4],
            c[5],
            c[6],
            c[7],
            IV[0],
            IV[1],
            IV[2],
            IV[3],
            self.counter as u32,
            (self.counter >> 32) as u32,
            self.length,
            self.flags | more,
        ];
        for round in 0..7 {
            if round > 0 {
                let old = message;
                for (word, from) in message.iter_mut().zip(PERMUTATION) {
                    *word = old[from];
                }
            }
            for (lane, [a, b, c, d]) in LANES.into_iter().enumerate() {
                let half = |v: &mut [u32; 16], word: u32, first: u32, second: u32| {
                    v[a] = v[a].wrapping_add(v[b]).wrapping_add(word);
                    v[d] = (v[d] ^ v[a]).rotate_right(first);
                    v[c] = v[c].wrapping_add(v[d]);
                    v[b] = (v[b] ^ v[c]).rotate_right(second);
                };
                half(&mut v, message[2 * lane], 16, 12);
                half(&mut v, message[2 * lane + 1], 8, 7);
            }
        }
        core::array::from_fn(|at| v[at] ^ v[at + 8])
    }
}

/// A hash under way.
pub struct Blake3 {
    /// Chaining value inside the chunk.
    chain: Words,
    block: [u8; BLOCK],
    filled: usize,
    /// Bytes of the chunk that went into `chain`.
    compressed: u64,
    chunk: u64,
    /// Roots of the complete subtrees to the left, largest first.
    stack: Vec<Words>,
}

impl Blake3 {
    pub fn new() -> Self {
        Self { chain: IV, block: [0; BLOCK], filled: 0, compressed: 0, chunk: 0, stack: Vec::new() }
    }

    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            // A block is compressed when it is known not to be the last.
            if self.filled == BLOCK {
                self.full_block();
            }
            let room = self.block.get_mut(self.filled..).unwrap_or_default();
            let take = room.len().min(bytes.len());
            let (now, later) = bytes.split_at_checked(take).unwrap_or((bytes, &[]));
            for (slot, byte) in room.iter_mut().zip(now) {
                *slot = *byte;
            }
            self.filled += take;
            bytes = later;
        }
    }

    fn full_block(&mut self) {
        let node = self.node();
        if self.compressed + (BLOCK as u64) < CHUNK {
            self.chain = node.compress(0);
            self.compressed += BLOCK as u64;
        } else {
            let mut chain = node.compress(0);
            self.chunk += 1;
            // Every power of two of chunks completes another subtree.
            for _ in 0..self.chunk.trailing_zeros() {
                if let Some(left) = self.stack.pop() {
                    chain = parent(left, chain).compress(0);
                }
            }
            self.stack.push(chain);
            self.chain = IV;
            self.compressed = 0;
        }
        self.block = [0; BLOCK];
        self.filled = 0;
    }

    /// The block at hand, as the last of its chunk where it is that.
    fn node(&self) -> Node {
        let start = if self.compressed == 0 { CHUNK_START } else { 0 };
        let last = self.filled < BLOCK || self.compressed + BLOCK as u64 >= CHUNK;
        let end = if last { CHUNK_END } else { 0 };
        Node {
            chain: self.chain,
            block: self.block,
            counter: self.chunk,
            length: self.filled as u32,
            flags: start | end,
        }
    }

    pub fn finish(&self) -> [u8; 32] {
        let mut node = self.node();
        // The last block ends its chunk even when it is full.
        node.flags |= CHUNK_END;
        for left in self.stack.iter().rev() {
            node = parent(*left, node.compress(0));
        }
        let words = node.compress(ROOT);
        let mut bytes = [0; 32];
        for (slot, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *slot = word.to_le_bytes();
        }
        bytes
    }
}

fn parent(left: Words, right: Words) -> Node {
    let mut block = [0; BLOCK];
    for (slot, word) in block.as_chunks_mut::<4>().0.iter_mut().zip(left.into_iter().chain(right)) {
        *slot = word.to_le_bytes();
    }
    Node { chain: IV, block, counter: 0, length: BLOCK as u32, flags: PARENT }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ours(pieces: &[&[u8]]) -> [u8; 32] {
        let mut hash = Blake3::new();
        for piece in pieces {
            hash.update(piece);
        }
        hash.finish()
    }

    #[test]
    fn every_edge_of_blocks_and_chunks() {
        let data: Vec<u8> = (0..40_000_u32).map(|n| (n % 251) as u8).collect();
        for around in [0, 64, 128, 1024, 2048, 3072, 4096, 7168, 8192, 16384, 31744, 32768] {
            for length in around.max(1) - 1..=around + 1 {
                let expected = *::blake3::hash(&data[..length]).as_bytes();
                assert_eq!(ours(&[&data[..length]]), expected, "{length} bytes");
            }
        }
    }

    proptest! {
        #[test]
        fn as_the_crate(data in proptest::collection::vec(any::<u8>(), 0..9000), cut in 0..9000_usize) {
            let (a, b) = data.split_at(cut.min(data.len()));
            prop_assert_eq!(ours(&[a, b]), *::blake3::hash(&data).as_bytes());
        }
    }
}
