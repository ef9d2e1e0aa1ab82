//! The memory functions that the compiler and core call by name.
//!
//! Plain word loops instead of `rep movs`: string instructions cost dear under
//! emulation, and the copies here are small. Every loop holds an empty `asm!`, so
//! that the optimiser cannot recognise it and turn it into a call to itself.

use core::ffi::c_int;

type Word = u64;
const WORD: usize = size_of::<Word>();

/// Keeps a loop a loop.
#[inline(always)]
fn keep() {
    // SAFETY: no instruction at all. Miri knows no assembly, and recognises no loops.
    #[cfg(not(miri))]
    unsafe {
        core::arch::asm!("", options(nostack, preserves_flags))
    }
}

/// # Safety
/// As C's `memcpy`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    let mut at = 0;
    // SAFETY: `at` stays within `len`, which the caller vouches for on both sides.
    unsafe {
        while at + 4 * WORD <= len {
            keep();
            let (src, dst) = (from.add(at).cast::<[Word; 4]>(), to.add(at).cast::<[Word; 4]>());
            dst.write_unaligned(src.read_unaligned());
            at += 4 * WORD;
        }
        while at + WORD <= len {
            keep();
            let word = from.add(at).cast::<Word>().read_unaligned();
            to.add(at).cast::<Word>().write_unaligned(word);
            at += WORD;
        }
        while at < len {
            keep();
            *to.add(at) = *from.add(at);
            at += 1;
        }
    }
    to
}

/// # Safety
/// As C's `memmove`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= len {
        // SAFETY: going up, with `to` below `from`, each block is read before the
        // bytes it came from are overwritten.
        return unsafe { memcpy(to, from, len) };
    }
    let mut at = len;
    // SAFETY: `at` stays within `len`; going down, each word is read before the
    // bytes it came from are overwritten.
    unsafe {
        while at >= WORD {
            keep();
            at -= WORD;
            let word = from.add(at).cast::<Word>().read_unaligned();
            to.add(at).cast::<Word>().write_unaligned(word);
        }
        while at > 0 {
            keep();
            at -= 1;
            *to.add(at) = *from.add(at);
        }
    }
    to
}

/// # Safety
/// As C's `memset`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn memset(to: *mut u8, byte: c_int, len: usize) -> *mut u8 {
    let byte = byte as u8;
    let word = Word::from_ne_bytes([byte; WORD]);
    let mut at = 0;
    // SAFETY: `at` stays within `len`.
    unsafe {
        while at + WORD <= len {
            keep();
            to.add(at).cast::<Word>().write_unaligned(word);
            at += WORD;
        }
        while at < len {
            keep();
            *to.add(at) = byte;
            at += 1;
        }
    }
    to
}

/// # Safety
/// As C's `memcmp`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> c_int {
    let mut at = 0;
    // SAFETY: `at` stays within `len`.
    unsafe {
        while at + WORD <= len {
            keep();
            let x = a.add(at).cast::<Word>().read_unaligned();
            let y = b.add(at).cast::<Word>().read_unaligned();
            if x != y {
                let (x, y) = (Word::from_be(x), Word::from_be(y));
                return if x < y { -1 } else { 1 };
            }
            at += WORD;
        }
        while at < len {
            keep();
            let (x, y) = (*a.add(at), *b.add(at));
            if x != y {
                return c_int::from(x) - c_int::from(y);
            }
            at += 1;
        }
    }
    0
}

/// # Safety
/// As BSD's `bcmp`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> c_int {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, len) }
}

/// # Safety
/// As C's `strlen`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn strlen(string: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: the caller vouches for a NUL, and we stop at it.
    unsafe {
        while *string.add(len) != 0 {
            keep();
            len += 1;
        }
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 160;

    fn pattern() -> [u8; SIZE] {
        core::array::from_fn(|at| (at * 7 + 3) as u8)
    }

    #[test]
    fn memmove_handles_every_overlap() {
        for (from, to) in [(0, 1), (1, 0), (0, 9), (9, 0), (3, 40), (40, 3), (20, 20), (64, 31)] {
            for len in 0..=(SIZE - 64) {
                let mut ours = pattern();
                let mut expected = pattern();
                expected.copy_within(from..from + len, to);
                let base = ours.as_mut_ptr();
                // SAFETY: both ranges lie inside the array.
                unsafe { memmove(base.add(to), base.add(from), len) };
                assert_eq!(ours, expected, "from {from} to {to}, {len} bytes");
            }
        }
    }

    #[test]
    fn memset_and_strlen_stop_where_they_should() {
        for len in 0..100 {
            let mut bytes = [0xee_u8; SIZE];
            // SAFETY: `len` is less than the array.
            unsafe { memset(bytes.as_mut_ptr().add(5), 0x1_23, len) };
            assert!(bytes[5..5 + len].iter().all(|byte| *byte == 0x23));
            assert!(bytes[..5].iter().chain(&bytes[5 + len..]).all(|byte| *byte == 0xee));
            bytes[len] = 0;
            let nul = bytes.iter().position(|byte| *byte == 0).unwrap();
            // SAFETY: a NUL was just written.
            assert_eq!(unsafe { strlen(bytes.as_ptr()) }, nul);
        }
    }

    #[test]
    fn memcmp_orders_like_bytes() {
        let a = pattern();
        for at in 0..SIZE {
            let mut b = a;
            b[at] = b[at].wrapping_add(1);
            for len in [at, at + 1, SIZE] {
                let expected = a[..len].cmp(&b[..len]) as c_int;
                // SAFETY: both arrays are longer than `len`.
                let ours = unsafe { memcmp(a.as_ptr(), b.as_ptr(), len) };
                // SAFETY: the same.
                assert_eq!(unsafe { bcmp(a.as_ptr(), b.as_ptr(), len) } == 0, ours == 0);
                assert_eq!(ours.signum(), expected, "difference at {at}, {len} bytes");
            }
        }
    }
}
