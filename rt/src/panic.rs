//! The panic handler: a panic in PID 1 must neither vanish nor hang the machine. A failed
//! allocation is a panic, too.

use core::panic::PanicInfo;

use rustix::process::Signal;

use crate::end::die;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    die(format_args!("{info}"), Signal::ABORT)
}

/// Referenced by precompiled core although nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Referenced by precompiled alloc although nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    die(format_args!("unwinding"), Signal::ABORT)
}
