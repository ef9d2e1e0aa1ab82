//! The panic handler: a panic in PID 1 must neither vanish nor hang the machine.

use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags};

/// Seconds between a panic of PID 1 and the reboot.
static REBOOT_AFTER: AtomicU32 = AtomicU32::new(30);

/// Sets how long the message of a panic stays on the console before PID 1
/// reboots the machine, in seconds.
pub fn set_reboot_after(seconds: u32) {
    REBOOT_AFTER.store(seconds, Ordering::Relaxed);
}

/// A line on the stack: the heap may be damaged.
struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            if let Some(slot) = self.bytes.get_mut(self.len) {
                *slot = byte;
                self.len += 1;
            }
        }
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut line = Line { bytes: [0; 512], len: 0 };
    let after = REBOOT_AFTER.load(Ordering::Relaxed);
    let pid1 = rustix::thread::gettid().is_init();
    let _ = write!(line, "bellwether: FAILED: internal error, please report it: {info}");
    if pid1 {
        let _ = write!(line, "; rebooting in {after} s");
    }
    let _ = line.write_str("\n");
    let text = line.bytes.get(..line.len).unwrap_or_default();
    // SAFETY: fd 2 is never closed or reused by us; if it is not open, write says so.
    let _ = rustix::io::write(unsafe { rustix::stdio::stderr() }, text);
    if let Ok(kmsg) = rustix::fs::open("/dev/kmsg", OFlags::WRONLY, Mode::empty()) {
        let _ = rustix::io::write(kmsg, text);
    }
    if pid1 {
        let wait = rustix::thread::Timespec { tv_sec: i64::from(after), tv_nsec: 0 };
        let _ = rustix::thread::nanosleep(&wait);
        let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    }
    abort()
}

/// Ends the process by an illegal instruction; for PID 1 that is a kernel panic, the last
/// resort when even a reboot was refused.
fn abort() -> ! {
    loop {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: traps; touches no memory.
        unsafe {
            core::arch::asm!("ud2", options(nomem, nostack))
        };
        #[cfg(target_arch = "aarch64")]
        // SAFETY: traps; touches no memory.
        unsafe {
            core::arch::asm!("brk #1", options(nomem, nostack))
        };
    }
}

/// Referenced by precompiled core although nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Referenced by precompiled alloc although nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    abort()
}
