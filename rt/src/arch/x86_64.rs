//! x86-64 process entry (System V ABI, "Process Initialization").

/// Hands the initial stack pointer to [`crate::entry`].
///
/// # Safety
/// Only the kernel enters here.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn _start() -> ! {
    core::arch::naked_asm!(
        "xor ebp, ebp",
        "mov rdi, rsp",
        "and rsp, -16",
        "call {entry}",
        "ud2",
        entry = sym crate::entry,
    )
}
