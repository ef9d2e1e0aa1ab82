//! The startup code of a C library, and no more: process entry, the memory symbols that the
//! compiler calls, an allocator, a panic handler.
//!
//! Only a binary with the `freestanding` feature gets the symbols; without it this crate is
//! nearly empty, so that host builds and tests never link a second `memcpy` or panic handler.
//!
//! Does not: set up thread-local storage (nothing here uses any), run destructors at exit.

#![cfg_attr(not(test), no_std)]
#![allow(unsafe_code)]

#[cfg(feature = "freestanding")]
mod alloc;
#[cfg(feature = "freestanding")]
mod arch;
mod end;
#[cfg(any(test, feature = "freestanding"))]
mod mem;
#[cfg(feature = "freestanding")]
mod panic;

pub use end::{die, set_reboot_after, set_step};
pub use rustix::process::Signal;

use core::ffi::{CStr, c_char};

/// The arguments and environment that the kernel put on the stack.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    argc: usize,
    argv: *const *const c_char,
    envp: *const *const c_char,
}

impl Process {
    /// The arguments, program name first.
    pub fn args(&self) -> impl Iterator<Item = &'static CStr> + use<> {
        Strings { next: self.argv, left: self.argc }
    }

    /// The environment, as `KEY=value` strings.
    pub fn env(&self) -> impl Iterator<Item = &'static CStr> + use<> {
        Strings { next: self.envp, left: usize::MAX }
    }
}

/// A NULL-terminated array of C strings that lives as long as the process.
struct Strings {
    next: *const *const c_char,
    left: usize,
}

impl Iterator for Strings {
    type Item = &'static CStr;

    fn next(&mut self) -> Option<&'static CStr> {
        if self.left == 0 || self.next.is_null() {
            return None;
        }
        // SAFETY: `next` points into the array that the kernel wrote above our
        // stack; we stop at its NULL and it is never unmapped.
        let string = unsafe { *self.next };
        if string.is_null() {
            self.left = 0;
            return None;
        }
        self.left -= 1;
        // SAFETY: not at the NULL yet, so the next element exists; each element
        // is a NUL-terminated string that the kernel wrote.
        unsafe {
            self.next = self.next.add(1);
            Some(CStr::from_ptr(string))
        }
    }
}

/// Called by `_start` with the initial stack pointer.
///
/// # Safety
/// `stack` is the stack pointer the kernel entered the process with.
#[cfg(feature = "freestanding")]
unsafe extern "C" fn entry(stack: *const usize) -> ! {
    unsafe extern "Rust" {
        /// Defined by [`main!`] in the binary.
        fn __bellwether_main(process: Process) -> !;
    }
    // SAFETY: the System V ABI puts argc, argv…, NULL, envp…, NULL, auxv here.
    let process = unsafe {
        let argc = *stack;
        let argv = stack.add(1).cast::<*const c_char>();
        let envp = argv.add(argc + 1);
        // rustix finds the page size and the vDSO in auxv, after envp.
        rustix::param::init(envp.cast_mut().cast());
        Process { argc, argv, envp }
    };
    // SAFETY: the binary that links us defines it with this signature by `main!`.
    unsafe { __bellwether_main(process) }
}

/// Names the function that gets the [`Process`].
#[macro_export]
macro_rules! main {
    ($function:path) => {
        #[unsafe(no_mangle)]
        fn __bellwether_main(process: $crate::Process) -> ! {
            $function(process)
        }
    };
}

/// Adds an ELF note to the program, for other programs to read. Linkers keep notes.
#[macro_export]
macro_rules! note {
    ($bytes:expr) => {
        #[used]
        #[unsafe(link_section = ".note.bellwether")]
        static NOTE: $crate::Note = $crate::Note($bytes);
    };
}

/// A note's bytes, aligned as linkers require.
#[derive(Debug)]
#[repr(C, align(4))]
pub struct Note(pub [u8; 32]);
