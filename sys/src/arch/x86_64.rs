//! x86-64 system calls: number and result in rax, arguments in rdi rsi rdx r10
//! r8 r9; rcx and r11 are lost.

/// Makes a system call with up to six arguments; unused ones are 0.
///
/// # Safety
/// The arguments must be what the call `number` expects.
pub(crate) unsafe fn syscall6(number: u32, args: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = args;
    let result: isize;
    // SAFETY: the kernel keeps every register but rax, rcx and r11; what the
    // call does to memory is the caller's promise.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack, preserves_flags),
        );
    }
    result
}
