//! SHA-512 (FIPS 180-4, 6.4), rolled up: 2 KB where the well-known crate has 16.
//! The tests hold one against the other.

/// Bytes of a block.
const BLOCK: usize = 128;

const START: [u64; 8] = [
    0x6a09_e667_f3bc_c908,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];

/// The first 64 bits of the fractions of the cube roots of the first 80 primes, computed at
/// compile time.
const ROUNDS: [u64; 80] = {
    let mut table = [0; 80];
    let (mut found, mut candidate) = (0, 2_u64);
    while found < 80 {
        let (mut divisor, mut prime) = (2, true);
        while divisor * divisor <= candidate {
            if candidate % divisor == 0 {
                prime = false;
            }
            divisor += 1;
        }
        if prime {
            #[allow(clippy::indexing_slicing)]
            {
                table[found] = cube_root_fraction(candidate);
            }
            found += 1;
        }
        candidate += 1;
    }
    table
};

/// The first 64 bits after the point of the cube root of `n`, below 512: the largest `x` whose
/// cube is at most `n << 192`, bit by bit.
const fn cube_root_fraction(n: u64) -> u64 {
    let (mut root, mut bit) = (0_u128, 66);
    loop {
        let candidate = root | 1 << bit;
        if cube_at_most(candidate, n) {
            root = candidate;
        }
        if bit == 0 {
            return root as u64;
        }
        bit -= 1;
    }
}

/// Whether `x³ ≤ n·2¹⁹²`, in 32-bit limbs: the cube has up to 201 bits.
#[allow(clippy::indexing_slicing)]
const fn cube_at_most(x: u128, n: u64) -> bool {
    let limbs = [x as u32 as u64, (x >> 32) as u32 as u64, (x >> 64) as u32 as u64];
    let mut square = [0_u64; 8];
    let mut i = 0;
    while i < 3 {
        let (mut j, mut carry) = (0, 0);
        while j < 3 {
            let sum = square[i + j] + limbs[i] * limbs[j] + carry;
            square[i + j] = sum & 0xffff_ffff;
            carry = sum >> 32;
            j += 1;
        }
        square[i + 3] += carry;
        i += 1;
    }
    let mut cube = [0_u64; 12];
    i = 0;
    while i < 6 {
        let (mut j, mut carry) = (0, 0);
        while j < 3 {
            let sum = cube[i + j] + square[i] * limbs[j] + carry;
            cube[i + j] = sum & 0xffff_ffff;
            carry = sum >> 32;
            j += 1;
        }
        cube[i + 3] += carry;
        i += 1;
    }
    // n·2¹⁹² has its only limb at 6.
    let mut high = 11;
    while high > 6 {
        if cube[high] != 0 {
            return false;
        }
        high -= 1;
    }
    if cube[6] != n {
        return cube[6] < n;
    }
    let mut low = 0;
    while low < 6 {
        if cube[low] != 0 {
            return false;
        }
        low += 1;
    }
    true
}

/// A hash in progress.
pub struct Sha512 {
    state: [u64; 8],
    block: [u8; BLOCK],
    filled: usize,
    length: u128,
}

impl Sha512 {
    pub const fn new() -> Self {
        Self { state: START, block: [0; BLOCK], filled: 0, length: 0 }
    }

    pub fn update(&mut self, mut bytes: &[u8]) {
        self.length = self.length.wrapping_add(bytes.len() as u128);
        while !bytes.is_empty() {
            let room = self.block.get_mut(self.filled..).unwrap_or_default();
            let take = room.len().min(bytes.len());
            let (now, later) = bytes.split_at_checked(take).unwrap_or((bytes, &[]));
            for (slot, byte) in room.iter_mut().zip(now) {
                *slot = *byte;
            }
            self.filled += take;
            bytes = later;
            if self.filled == BLOCK {
                self.compress();
                self.filled = 0;
            }
        }
    }

    pub fn finish(mut self) -> [u8; 64] {
        let bits = self.length.wrapping_mul(8);
        self.update(&[0x80]);
        while self.filled != BLOCK - 16 {
            self.update(&[0]);
        }
        self.update(&bits.to_be_bytes());
        let mut bytes = [0; 64];
        for (slot, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.state) {
            *slot = word.to_be_bytes();
        }
        bytes
    }

    #[allow(clippy::indexing_slicing, reason = "indices are taken modulo 16 or run over the table")]
    fn compress(&mut self) {
        let mut words = [0; 16];
        for (word, bytes) in words.iter_mut().zip(self.block.as_chunks::<8>().0) {
            *word = u64::from_be_bytes(*bytes);
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = self.state;
        for (round, constant) in ROUNDS.into_iter().enumerate() {
            let at = round % 16;
            if round >= 16 {
                let (x, y) = (words[(round + 1) % 16], words[(round + 14) % 16]);
                let small = x.rotate_right(1) ^ x.rotate_right(8) ^ (x >> 7);
                let large = y.rotate_right(19) ^ y.rotate_right(61) ^ (y >> 6);
                words[at] = words[at]
                    .wrapping_add(small)
                    .wrapping_add(words[(round + 9) % 16])
                    .wrapping_add(large);
            }
            let large = e.rotate_right(14) ^ e.rotate_right(18) ^ e.rotate_right(41);
            let one = h
                .wrapping_add(large)
                .wrapping_add((e & f) ^ (!e & g))
                .wrapping_add(constant)
                .wrapping_add(words[at]);
            let small = a.rotate_right(28) ^ a.rotate_right(34) ^ a.rotate_right(39);
            let two = small.wrapping_add((a & b) ^ (a & c) ^ (b & c));
            (h, g, f, e, d, c, b, a) =
                (g, f, e, d.wrapping_add(one), c, b, a, one.wrapping_add(two));
        }
        for (slot, word) in self.state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *slot = slot.wrapping_add(word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::Digest as _;

    fn ours(pieces: &[&[u8]]) -> Vec<u8> {
        let mut hash = Sha512::new();
        for piece in pieces {
            hash.update(piece);
        }
        hash.finish().to_vec()
    }

    #[test]
    fn the_first_and_the_last_constant() {
        assert_eq!(ROUNDS[0], 0x428a_2f98_d728_ae22);
        assert_eq!(ROUNDS[79], 0x6c44_198c_4a47_5817);
    }

    proptest! {
        #[test]
        fn as_the_crate(data in proptest::collection::vec(any::<u8>(), 0..600), cut in 0..600_usize) {
            let (a, b) = data.split_at(cut.min(data.len()));
            prop_assert_eq!(ours(&[a, b]), sha2::Sha512::digest(&data).to_vec());
        }
    }
}
