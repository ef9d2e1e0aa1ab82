//! AArch64 system calls: number in x8, arguments in x0 to x5, result in x0.

/// Makes a system call with up to six arguments; unused ones are 0.
///
/// # Safety
/// The arguments must be what the call `number` expects.
pub(crate) unsafe fn syscall6(number: u32, args: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = args;
    let result: isize;
    // SAFETY: the kernel keeps every register but x0; what the call does to
    // memory is the caller's promise.
    unsafe {
        core::arch::asm!(
            "svc #0",
            in("x8") number as usize,
            inlateout("x0") a as isize => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack, preserves_flags),
        );
    }
    result
}
