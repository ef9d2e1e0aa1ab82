//! udpcast's erasure code: systematic, over GF(2⁸), with a Cauchy matrix.
//!
//! The field's polynomial is 0x11d with generator 2. Data block `i` of a slice
//! lies in stripe `i % stripes` at column `i / stripes`; redundant block `b`
//! in stripe `b % stripes` at row `b / stripes`. Row `r` is the sum over the
//! columns `c` of `D[c] / (r ^ c ^ 128)`. With at most 128 rows and columns
//! the divisor is never zero and every square part of the matrix can be
//! inverted: any `n` redundant blocks repair any `n` losses in their stripe.
//!
//! Common Reed-Solomon crates use other matrices and cannot talk to udpcast.

use alloc::vec::Vec;

/// Rows, and columns, at most.
pub const MAX: usize = 128;

const TABLES: ([u8; 512], [u8; 256]) = {
    let mut exp = [0u8; 512];
    let mut log = [0u8; 256];
    let mut x = 1u16;
    let mut i = 0;
    while i < 255 {
        #[allow(clippy::indexing_slicing)] // constant evaluation checks it
        {
            exp[i] = x as u8;
            exp[i + 255] = x as u8;
            log[x as usize] = i as u8;
        }
        x <<= 1;
        if x & 0x100 != 0 {
            x ^= 0x11d;
        }
        i += 1;
    }
    (exp, log)
};

static EXP: [u8; 512] = TABLES.0;
static LOG: [u8; 256] = TABLES.1;

fn log(a: u8) -> usize {
    LOG.get(usize::from(a)).copied().unwrap_or(0).into()
}

fn exp(i: usize) -> u8 {
    EXP.get(i).copied().unwrap_or(0)
}

fn mul(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 { 0 } else { exp(log(a) + log(b)) }
}

/// 1/a; zero has none, and gives one.
fn inverse(a: u8) -> u8 {
    exp(255 - log(a))
}

/// The matrix's element.
fn element(row: usize, column: usize) -> u8 {
    inverse((row ^ column ^ 128) as u8)
}

/// `out += factor × block`. Blocks shorter than `out` count as padded with
/// zeros.
fn add_scaled(out: &mut [u8], factor: u8, block: &[u8]) {
    // Two look-ups in sixteen bytes each instead of logarithms: they stay in
    // registers and cache, and the compiler can keep the loop straight.
    let mut low = [0u8; 16];
    let mut high = [0u8; 16];
    for (i, (l, h)) in low.iter_mut().zip(&mut high).enumerate() {
        *l = mul(factor, i as u8);
        *h = mul(factor, (i as u8) << 4);
    }
    for (o, b) in out.iter_mut().zip(block) {
        *o ^= low.get(usize::from(b & 15)).copied().unwrap_or(0)
            ^ high.get(usize::from(b >> 4)).copied().unwrap_or(0);
    }
}

/// Makes redundant block `row` of a stripe from its data blocks in order of
/// columns; `out` is as long as a full block and is overwritten.
pub fn encode<'a>(row: usize, columns: impl Iterator<Item = &'a [u8]>, out: &mut [u8]) {
    out.fill(0);
    for (column, block) in columns.enumerate().take(MAX) {
        add_scaled(out, element(row, column), block);
    }
}

/// Repairs a stripe. `columns` are its data blocks, `None` where lost, each as
/// long as `block_size` but perhaps the last; `rows` the redundant blocks that
/// arrived. Gives the lost blocks with their columns, each `block_size` long,
/// or nothing if more are lost than `rows` can repair.
#[must_use]
pub fn repair(
    columns: &[Option<&[u8]>],
    rows: &[(usize, &[u8])],
    block_size: usize,
) -> Option<Vec<(usize, Vec<u8>)>> {
    let lost: Vec<usize> =
        columns.iter().enumerate().filter(|(_, b)| b.is_none()).map(|(c, _)| c).collect();
    if lost.len() > rows.len() || columns.len() > MAX {
        return None;
    }
    // One equation per redundant block: the lost columns' part of it.
    let mut equations: Vec<(Vec<u8>, Vec<u8>)> = Vec::with_capacity(lost.len());
    for (row, redundant) in rows.iter().take(lost.len()) {
        if *row >= MAX {
            return None;
        }
        let mut right = redundant.to_vec();
        right.resize(block_size, 0);
        for (column, block) in columns.iter().enumerate() {
            if let Some(block) = block {
                add_scaled(&mut right, element(*row, column), block);
            }
        }
        let left = lost.iter().map(|column| element(*row, *column)).collect();
        equations.push((left, right));
    }
    // Gauss and Jordan.
    for pivot in 0..lost.len() {
        let found = (pivot..equations.len())
            .find(|i| equations.get(*i).and_then(|e| e.0.get(pivot)).is_some_and(|v| *v != 0))?;
        equations.swap(pivot, found);
        let (mut left, mut right) = core::mem::take(equations.get_mut(pivot)?);
        let scale = inverse(*left.get(pivot)?);
        left.iter_mut().for_each(|v| *v = mul(*v, scale));
        right.iter_mut().for_each(|v| *v = mul(*v, scale));
        for (i, (l, r)) in equations.iter_mut().enumerate() {
            let factor = l.get(pivot).copied().unwrap_or(0);
            if i != pivot && factor != 0 {
                add_scaled(l, factor, &left);
                add_scaled(r, factor, &right);
            }
        }
        *equations.get_mut(pivot)? = (left, right);
    }
    Some(lost.into_iter().zip(equations.into_iter().map(|(_, right)| right)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_field_is_the_one_with_11d() {
        assert_eq!(mul(0x80, 2), 0x1d);
        for a in 1..=255u8 {
            assert_eq!(mul(a, inverse(a)), 1, "{a}");
        }
    }

    proptest! {
        #[test]
        fn any_n_rows_repair_any_n_losses(
            k in 1usize..40,
            picks in proptest::collection::vec((0usize..40, 0usize..128), 0..12),
            seed in any::<u64>(),
        ) {
            let size = 24;
            let mut x = seed | 1;
            let data: Vec<Vec<u8>> = (0..k).map(|_| (0..size).map(|_| {
                x ^= x << 13; x ^= x >> 7; x ^= x << 17; x as u8
            }).collect()).collect();
            let mut lost: Vec<usize> = picks.iter().map(|p| p.0 % k).collect();
            lost.sort_unstable();
            lost.dedup();
            let mut rows: Vec<usize> = picks.iter().map(|p| p.1).collect();
            rows.sort_unstable();
            rows.dedup();
            let redundant: Vec<(usize, Vec<u8>)> = rows.iter().map(|r| {
                let mut out = vec![0; size];
                encode(*r, data.iter().map(Vec::as_slice), &mut out);
                (*r, out)
            }).collect();
            let columns: Vec<Option<&[u8]>> = (0..k)
                .map(|c| (!lost.contains(&c)).then(|| data[c].as_slice())).collect();
            let rows: Vec<(usize, &[u8])> =
                redundant.iter().map(|(r, b)| (*r, b.as_slice())).collect();
            match repair(&columns, &rows, size) {
                None => prop_assert!(rows.len() < lost.len()),
                Some(repaired) => {
                    prop_assert_eq!(repaired.len(), lost.len());
                    for (column, block) in repaired {
                        prop_assert_eq!(&block, &data[column]);
                    }
                }
            }
        }
    }
}
