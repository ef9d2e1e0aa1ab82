//! AArch64 process entry (the kernel enters with the stack 16-byte aligned).

/// Hands the initial stack pointer to [`crate::entry`].
///
/// # Safety
/// Only the kernel enters here.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn _start() -> ! {
    core::arch::naked_asm!(
        "mov x29, xzr",
        "mov x30, xzr",
        "mov x0, sp",
        "bl {entry}",
        "brk #1",
        entry = sym crate::entry,
    )
}
