//! Faults of the program itself: what the processor refuses to execute or to access.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::fmt;

use linux_raw_sys::general::{
    __NR_rt_sigaction, __NR_sigaltstack, SA_NODEFER, SA_ONSTACK, SA_RESETHAND, SA_RESTORER,
    SA_SIGINFO,
};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::raw::syscall;

/// What is caught.
const SIGNALS: [Signal; 4] = [Signal::ILL, Signal::BUS, Signal::FPE, Signal::SEGV];

/// Where the kernel puts the address of the instruction in `ucontext_t`, in words.
const AT: usize = if cfg!(target_arch = "aarch64") { 440 / 8 } else { 168 / 8 };

/// A fault, or a signal of its name from another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Its signal.
    pub signal: Signal,
    /// Why it came: positive from the kernel, others from processes (`si_code`).
    pub code: i32,
    /// The address that could not be accessed; without meaning from a process.
    pub address: usize,
    /// The instruction that was being executed.
    pub at: usize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.signal {
            Signal::ILL => "an illegal instruction (SIGILL)",
            Signal::BUS => "memory that cannot be read (SIGBUS)",
            Signal::FPE => "an arithmetic error (SIGFPE)",
            _ => "an invalid access to memory (SIGSEGV)",
        };
        write!(f, "{what} at {:#x}", self.at)?;
        if self.code > 0 {
            return write!(f, ", address {:#x}", self.address);
        }
        f.write_str(", sent by another process")
    }
}

/// What to do about a fault.
pub trait Last {
    /// Ends the process. Runs on a stack of its own of 32 KiB; the heap may be damaged or
    /// locked. A second fault with the same signal ends the process.
    fn fault(fault: &Fault) -> !;
}

/// `struct sigaction` of the kernel.
#[repr(C)]
struct Action {
    handler: unsafe extern "C" fn(c_int, *const c_int, *const usize) -> !,
    flags: usize,
    restorer: *const c_void,
    mask: u64,
}

/// `stack_t`.
#[repr(C)]
struct AltStack {
    base: *mut c_void,
    flags: c_int,
    size: usize,
}

const STACK: usize = 32 << 10;

/// The handler's stack: the fault may be that the usual one is full.
#[repr(align(16))]
struct Stack(UnsafeCell<[u8; STACK]>);

// SAFETY: only the kernel hands it out, to one handler at a time.
unsafe impl Sync for Stack {}

static STACK_MEMORY: Stack = Stack(UnsafeCell::new([0; STACK]));

/// Makes faults of this process and of those that it forks call `L`. exec(2) ends that.
/// For processes with one thread: there is one stack.
///
/// # Errors
/// The errno of sigaltstack(2) or sigaction(2).
pub fn catch<L: Last>() -> Result<(), Errno> {
    let stack = AltStack { base: STACK_MEMORY.0.get().cast(), flags: 0, size: STACK };
    // SAFETY: the memory is static, and nothing else uses it.
    unsafe { syscall(__NR_sigaltstack, &[(&raw const stack) as usize, 0])? };
    let flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND | SA_NODEFER | SA_RESTORER;
    // The kernel wants a restorer, which is never used: the handler does not return.
    let restorer = core::ptr::null();
    let action = Action { handler: handler::<L>, flags: flags as usize, restorer, mask: 0 };
    for signal in SIGNALS {
        let signal = signal.as_raw() as usize;
        // SAFETY: the structure is the kernel's, and the handler fits SA_SIGINFO.
        unsafe {
            syscall(
                __NR_rt_sigaction,
                &[signal, (&raw const action) as usize, 0, size_of::<u64>()],
            )?
        };
    }
    Ok(())
}

/// # Safety
/// For the kernel to call: `info` is a `siginfo_t`, `context` a `ucontext_t`.
unsafe extern "C" fn handler<L: Last>(
    signal: c_int,
    info: *const c_int,
    context: *const usize,
) -> ! {
    // SAFETY: si_code is the third integer, si_addr the third word of siginfo_t on 64-bit
    // machines; the instruction's address lies within ucontext_t.
    let (code, address, at) =
        unsafe { (*info.add(2), *info.cast::<usize>().add(2), *context.add(AT)) };
    let signal = Signal::from_named_raw(signal).unwrap_or(Signal::SEGV);
    L::fault(&Fault { signal, code, address, at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Exit, exit, fork};
    use rustix::process::{getpid, kill_process};

    struct Told;
    impl Last for Told {
        fn fault(fault: &Fault) -> ! {
            let text = std::format!("{fault}");
            let sent = fault.code <= 0 && text.ends_with("sent by another process");
            let real = fault.code > 0 && text.ends_with("address 0x10");
            // In this program.
            let near = fault.at.abs_diff(catch::<Told> as fn() -> _ as usize) < 64 << 20;
            exit(if !near || !(sent || real) { 1 } else { fault.signal.as_raw() + 100 })
        }
    }

    fn ends(work: impl FnOnce()) -> Exit {
        let child = fork(|| {
            if catch::<Told>().is_err() {
                return 2;
            }
            work();
            3
        });
        child.unwrap().wait().unwrap()
    }

    /// Fills the stack.
    #[expect(unconditional_recursion)]
    fn deep(block: [u8; 4096]) -> usize {
        let more = core::hint::black_box(block);
        deep(more) + more.len()
    }

    #[test]
    fn a_fault_is_told_with_its_address_even_when_the_stack_is_full() {
        let bad = || {
            // SAFETY: it is not: the child's handler is told so.
            let _ = unsafe { core::ptr::read_volatile(core::hint::black_box(0x10) as *const u8) };
        };
        assert_eq!(ends(bad), Exit::Status(111));
        let sent = || kill_process(getpid(), Signal::BUS).unwrap();
        assert_eq!(ends(sent), Exit::Status(107));
        // Its address is not known beforehand: it is told as a fault, and not as this one.
        let full = || {
            core::hint::black_box(deep([1; 4096]));
        };
        assert_eq!(ends(full), Exit::Status(1));
    }

    #[test]
    fn a_fault_while_a_fault_is_told_ends_the_process() {
        struct Faulty;
        impl Last for Faulty {
            fn fault(fault: &Fault) -> ! {
                let _ = kill_process(getpid(), fault.signal);
                exit(1)
            }
        }
        let child = fork(|| {
            let _ = catch::<Faulty>();
            let _ = kill_process(getpid(), Signal::SEGV);
            2
        });
        assert_eq!(child.unwrap().wait(), Ok(Exit::Signal(11)));
    }
}
