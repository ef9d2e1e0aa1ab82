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
    // SAFETY: no instruction at all.
    unsafe { core::arch::asm!("", options(nostack, preserves_flags)) }
}

/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
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
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= len {
        // SAFETY: copying upwards never reads what it has already overwritten.
        return unsafe { memcpy_upwards(to, from, len) };
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

/// Like [`memcpy`], one word at a time, so that an overlap from above is safe.
///
/// # Safety
/// As C's `memmove` with `to` below `from` or no overlap.
unsafe fn memcpy_upwards(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    let mut at = 0;
    // SAFETY: `at` stays within `len`.
    unsafe {
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
/// As C's `memset`.
#[unsafe(no_mangle)]
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
#[unsafe(no_mangle)]
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
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> c_int {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, len) }
}

/// # Safety
/// As C's `strlen`.
#[unsafe(no_mangle)]
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
